/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* See call.h. */
#include "call.h"

#include <apr_strings.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mdm_clock.h"

/* ---- the desk ----------------------------------------------------------------------------- */

apr_status_t desk_init(desk_t *desk, int waiting_max)
{
    int error = pthread_mutex_init(&desk->lock, NULL);

    if (error != 0) {
        return error;
    }
    if (pipe2(desk->wake, O_CLOEXEC | O_NONBLOCK) != 0) {
        error = errno;
        pthread_mutex_destroy(&desk->lock);
        return error;
    }
    desk->waiting_max = waiting_max;
    desk->fresh_end = &desk->fresh;
    return APR_SUCCESS;
}

void desk_destroy(desk_t *desk)
{
    close(desk->wake[0]);
    close(desk->wake[1]);
    pthread_mutex_destroy(&desk->lock);
}

void desk_lock(desk_t *desk)
{
    pthread_mutex_lock(&desk->lock);
}

void desk_unlock(desk_t *desk)
{
    pthread_mutex_unlock(&desk->lock);
}

void desk_wake(desk_t *desk)
{
    if (!desk->woken) {
        desk->woken = write(desk->wake[1], "", 1) == 1;
    }
}

void desk_take(desk_t *desk, call_t **fresh, call_t **gone)
{
    char buffer[8];

    desk_lock(desk);
    if (desk->woken) {
        desk->woken = read(desk->wake[0], buffer, sizeof(buffer)) <= 0;
    }
    *fresh = desk->fresh;
    *gone = desk->gone;
    for (call_t *call = desk->fresh; call != NULL; call = call->next) {
        call->taken = 1;
    }
    desk->fresh = desk->gone = NULL;
    desk->fresh_end = &desk->fresh;
    desk_unlock(desk);
}

/* ---- calls -------------------------------------------------------------------------------- */

call_t *call_make(apns_push_t *pushes, int count, apr_time_t end)
{
    call_t *call = malloc(sizeof(*call) + (size_t)count * sizeof(job_t));

    if (call == NULL) {
        return NULL;
    }
    memset(call, 0, sizeof(*call));
    call->pushes = pushes;
    call->end = end;
    if (mdm_cond_init(&call->done) != 0) {
        free(call);
        return NULL;
    }
    return call;
}

void call_free(call_t *call)
{
    while (call->lanes != NULL) {
        lane_t *lane = call->lanes;

        call->lanes = lane->next_of_call;
        free(lane);
    }
    pthread_cond_destroy(&call->done);
    free(call);
}

static lane_t *lane_of(call_t *call, topic_t *topic)
{
    lane_t *lane = call->lanes;

    while (lane != NULL && lane->topic != topic) {
        lane = lane->next_of_call;
    }
    if (lane == NULL && (lane = calloc(1, sizeof(*lane))) != NULL) {
        lane->call = call;
        lane->topic = topic;
        lane->next_of_call = call->lanes;
        call->lanes = lane;
    }
    return lane;
}

apr_status_t call_add(call_t *call, int index, topic_t *topic)
{
    lane_t *lane = lane_of(call, topic);
    job_t *job = &call->jobs[call->count];

    if (lane == NULL) {
        return APR_ENOMEM;
    }
    memset(job, 0, sizeof(*job));
    job->lane = lane;
    job->index = (unsigned)index;
    job->place = JOB_QUEUED;
    if (lane->last != NULL) {
        lane->last->next = job;
    } else {
        lane->first = job;
    }
    lane->last = job;
    call->count++;
    call->left++;
    return APR_SUCCESS;
}

/* With the lock. The pusher's thread frees what it has taken. */
static void leave(desk_t *desk, call_t *call)
{
    call_t **at = &desk->fresh;

    desk->waiting -= call->left;
    call->pushes = NULL;
    if (call->taken) {
        call->next_gone = desk->gone;
        desk->gone = call;
        desk_wake(desk);
        return;
    }
    while (*at != call) {
        at = &(*at)->next;
    }
    *at = call->next;
    if (desk->fresh_end == &call->next) {
        desk->fresh_end = at;
    }
    call_free(call);
}

apr_status_t call_wait(desk_t *desk, call_t *call)
{
    apr_status_t status = APR_SUCCESS;
    int error = 0;

    desk_lock(desk);
    if (call->left > 0 && desk->state == DESK_CLOSED) {
        status = MDM_EUNAVAILABLE;
    } else if (desk->waiting > 0 && call->left > desk->waiting_max - desk->waiting) {
        status = APR_EAGAIN;
    }
    if (status != APR_SUCCESS || call->left == 0) {
        desk_unlock(desk);
        call_free(call);
        return status;
    }
    desk->waiting += call->left;
    *desk->fresh_end = call;
    desk->fresh_end = &call->next;
    desk_wake(desk);
    while (call->left > 0 && error == 0) {
        error = mdm_cond_wait(&call->done, &desk->lock, call->end);
    }
    if (call->left > 0) {
        leave(desk, call);
    } else {
        call_free(call);
    }
    desk_unlock(desk);
    return APR_SUCCESS;
}

/* ---- jobs --------------------------------------------------------------------------------- */

int job_read(desk_t *desk, const job_t *job, char token[CALL_TOKEN_MAX + 1],
             char magic[SESSION_MAGIC_MAX + 1])
{
    const apns_push_t *pushes;

    desk_lock(desk);
    pushes = job->lane->call->pushes;
    if (pushes != NULL) {
        apr_cpystrn(token, pushes[job->index].token, CALL_TOKEN_MAX + 1);
        apr_cpystrn(magic, pushes[job->index].magic, SESSION_MAGIC_MAX + 1);
    }
    desk_unlock(desk);
    return pushes != NULL;
}

void job_end(desk_t *desk, job_t *job, const apns_push_t *result)
{
    call_t *call = job->lane->call;

    job->place = JOB_NOWHERE;
    desk_lock(desk);
    if (call->pushes != NULL) {
        apns_push_t *push = &call->pushes[job->index];

        push->status = result->status;
        push->code = result->code;
        memcpy(push->reason, result->reason, sizeof(push->reason));
        memcpy(push->apns_id, result->apns_id, sizeof(push->apns_id));
        push->timestamp = result->timestamp;
        desk->waiting--;
        if (--call->left == 0) {
            pthread_cond_signal(&call->done);
        }
    }
    desk_unlock(desk);
}
