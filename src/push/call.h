/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Where callers' threads and the pusher's meet. A call is what one caller gave; it has a job for
 * each push, in a lane for each topic. Results are written into the caller's memory under the lock,
 * and only while the caller is there. Knows nothing of connections.
 */
#ifndef PUSH_CALL_H
#define PUSH_CALL_H

#include <apr_time.h>
#include <pthread.h>

#include "apns.h"
#include "session.h"

/** Longest token, in hex digits; Apple's have 64, and may become longer. */
#define CALL_TOKEN_MAX 200

typedef struct topic_t topic_t;
typedef struct link_t link_t;
typedef struct lane_t lane_t;
typedef struct call_t call_t;

typedef enum { JOB_NOWHERE, JOB_QUEUED, JOB_DELAYED, JOB_SENT } job_place_t;

/** One push. Belongs to the pusher's thread once the call was handed over. */
typedef struct job_t {
    lane_t *lane;
    struct job_t *next; /* in its lane or among the delayed */
    struct job_t *prev; /* among the delayed */
    union {
        apr_time_t not_before;    /* delayed */
        session_stream_t *stream; /* sent */
    } u;
    link_t *link; /* sent */
    unsigned index;
    unsigned short attempts;
    unsigned char place; /* job_place_t */
} job_t;

/** The jobs of a call for one topic. */
struct lane_t {
    lane_t *next_of_call;
    call_t *call;
    topic_t *topic;
    job_t *first;
    job_t *last;
    lane_t *prev; /* among the topic's lanes that have jobs */
    lane_t *next;
    int linked;
};

struct call_t {
    call_t *next; /* among the fresh */
    call_t *next_gone;
    apns_push_t *pushes; /* NULL: the caller has left */
    lane_t *lanes;
    apr_time_t end; /* of mdm_clock(), as all times here */
    int left;       /* pushes without a result */
    int taken;      /* by the pusher's thread */
    pthread_cond_t done;
    unsigned count; /* jobs */
    job_t jobs[];
};

typedef enum { DESK_NOT_YET, DESK_OPEN, DESK_CLOSED } desk_state_t;

/** The meeting point. */
typedef struct desk_t {
    pthread_mutex_t lock;
    int wake[2]; /* a pipe */
    int woken;
    desk_state_t state;
    int waiting; /* pushes without a result, of callers that are there */
    int waiting_max;
    call_t *fresh;
    call_t **fresh_end;
    call_t *gone;
} desk_t;

apr_status_t desk_init(desk_t *desk, int waiting_max);
void desk_destroy(desk_t *desk);
void desk_lock(desk_t *desk);
void desk_unlock(desk_t *desk);

/** With the lock: wake the pusher's thread. */
void desk_wake(desk_t *desk);

/* -- for callers -- */

/** @return NULL without memory */
call_t *call_make(apns_push_t *pushes, int count, apr_time_t end);
void call_free(call_t *call);

/** Add a push to the call.
 * @return APR_ENOMEM */
apr_status_t call_add(call_t *call, int index, topic_t *topic);

/** Hand the call over and wait until each push has a result or the time is up; the call is then not
 * the caller's any more. Pushes without a result still have APR_EINPROGRESS.
 * @return APR_EAGAIN, MDM_EUNAVAILABLE: it was not taken, and there are no results */
apr_status_t call_wait(desk_t *desk, call_t *call);

/* -- for the pusher's thread -- */

/** What is new: calls, and calls whose callers have left, to be freed with call_free(). */
void desk_take(desk_t *desk, call_t **fresh, call_t **gone);

/** What is to be sent.
 * @return 0: the caller has left */
int job_read(desk_t *desk, const job_t *job, char token[CALL_TOKEN_MAX + 1],
             char magic[SESSION_MAGIC_MAX + 1]);

/** The job has its result; it may be gone after this, and its call too. */
void job_end(desk_t *desk, job_t *job, const apns_push_t *result);

#endif
