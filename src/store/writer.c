/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Turns for SQLite's writers. Waiting inside the library is worse: its driver holds a process-wide
 * lock meanwhile, which the writer needs too, and sleeps 100 ms a turn, so that some starve.
 *
 * Threads of a process get their turn in the order of asking; whose turn it is then takes a lock on
 * a file, which it tries again every few milliseconds while another process has it. Whoever writes
 * without asking here is still kept out by SQLite's own lock.
 */
#include "writer.h"

#include <apr_strings.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "mdm_clock.h"

#define FILE_PAUSE_MAX apr_time_from_msec(4)

typedef struct turn_t {
    struct turn_t *next;
    pthread_cond_t come;
    int is_mine;
} turn_t;

struct writer_t {
    pthread_mutex_t mutex;
    turn_t *first; /* those that wait */
    turn_t *last;
    int busy;
    int file; /* -1: it cannot be had, and SQLite's lock alone must do */
};

static apr_status_t writer_cleanup(void *data)
{
    writer_t *writer = data;

    if (writer->file >= 0) {
        close(writer->file);
    }
    pthread_mutex_destroy(&writer->mutex);
    return APR_SUCCESS;
}

apr_status_t writer_create(writer_t **out, const char *database_file, apr_pool_t *pool)
{
    writer_t *writer = apr_pcalloc(pool, sizeof(*writer));
    const char *name = apr_pstrcat(pool, database_file, "-writer", NULL);
    int error = pthread_mutex_init(&writer->mutex, NULL);

    if (error != 0) {
        return error;
    }
    writer->file = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    apr_pool_cleanup_register(pool, writer, writer_cleanup, apr_pool_cleanup_null);
    *out = writer;
    return APR_SUCCESS;
}

/* With the mutex held. */
static void leave_queue(writer_t *writer, const turn_t *turn)
{
    turn_t **link = &writer->first;
    turn_t *before = NULL;

    while (*link != turn) {
        before = *link;
        link = &before->next;
    }
    *link = turn->next;
    if (writer->last == turn) {
        writer->last = before;
    }
}

/* With the mutex held. */
static apr_status_t wait_for_turn(writer_t *writer, apr_time_t end)
{
    turn_t turn = {.next = NULL};
    int error = mdm_cond_init(&turn.come);

    if (error != 0) {
        return error;
    }
    if (writer->last != NULL) {
        writer->last->next = &turn;
    } else {
        writer->first = &turn;
    }
    writer->last = &turn;
    while (!turn.is_mine && error == 0) {
        error = mdm_cond_wait(&turn.come, &writer->mutex, end);
    }
    if (!turn.is_mine) {
        leave_queue(writer, &turn);
    }
    pthread_cond_destroy(&turn.come);
    return turn.is_mine ? APR_SUCCESS : APR_TIMEUP;
}

static void pass_turn(writer_t *writer)
{
    turn_t *turn;

    pthread_mutex_lock(&writer->mutex);
    turn = writer->first;
    if (turn != NULL) {
        leave_queue(writer, turn);
        turn->is_mine = 1;
        pthread_cond_signal(&turn->come);
    } else {
        writer->busy = 0;
    }
    pthread_mutex_unlock(&writer->mutex);
}

static apr_status_t lock_file(const writer_t *writer, apr_time_t end)
{
    apr_interval_time_t pause = apr_time_from_msec(1) / 2;

    while (writer->file >= 0 && flock(writer->file, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            return APR_SUCCESS; /* a file system without such locks */
        }
        if (mdm_clock() >= end) {
            return APR_TIMEUP;
        }
        apr_sleep(pause);
        pause = pause < FILE_PAUSE_MAX ? pause * 2 : pause;
    }
    return APR_SUCCESS;
}

apr_status_t writer_lock(writer_t *writer, apr_interval_time_t wait)
{
    apr_time_t end = mdm_clock() + wait;
    apr_status_t status = APR_SUCCESS;

    pthread_mutex_lock(&writer->mutex);
    if (writer->busy) {
        status = wait_for_turn(writer, end);
    } else {
        writer->busy = 1;
    }
    pthread_mutex_unlock(&writer->mutex);
    if (status == APR_SUCCESS) {
        status = lock_file(writer, end);
        if (status != APR_SUCCESS) {
            pass_turn(writer);
        }
    }
    return status;
}

void writer_unlock(writer_t *writer)
{
    if (writer->file >= 0) {
        flock(writer->file, LOCK_UN);
    }
    pass_turn(writer);
}
