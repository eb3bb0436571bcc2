/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* A background thread of a child process: takes turns at an interval, when woken or while there is
 * more to do, and a last one before it ends; or runs a loop of its own, which a byte in the pipe
 * stops.
 *
 * Stopping uses pipes and poll alone: the prefork MPM runs it inside its SIGTERM handler, where no
 * lock may be taken, and no thread may hold up the end of the child for long.
 */
#include "nanomdm.h"

#include <apr_atomic.h>
#include <apr_strings.h>
#include <apr_thread_proc.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "mdm_clock.h"

struct nanomdm_worker_t {
    apr_pool_t *pool; /* its own, with its own allocator */
    apr_thread_t *thread;
    apr_interval_time_t interval;
    nanomdm_turn_t *turn;
    nanomdm_loop_t *loop; /* in place of turns, or NULL */
    void *baton;
    int wake[2]; /* written to wake it */
    int done[2]; /* closed on the writing side when it ends */
    apr_uint32_t stopping;
};

static int make_pipe(int ends[2])
{
    if (pipe(ends) != 0) {
        return errno;
    }
    for (int i = 0; i < 2; i++) {
        fcntl(ends[i], F_SETFD, FD_CLOEXEC);
        fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
    return APR_SUCCESS;
}

static void wait_for_wake(const nanomdm_worker_t *worker, apr_interval_time_t wait)
{
    struct pollfd fd = {worker->wake[0], POLLIN, 0};
    char bytes[64];

    poll(&fd, 1, (int)apr_time_as_msec(wait));
    while (read(worker->wake[0], bytes, sizeof(bytes)) > 0) {
    }
}

static void take_turns(nanomdm_worker_t *worker)
{
    apr_interval_time_t wait = worker->interval;
    apr_pool_t *turn_pool;
    int stopping = 0;

    apr_pool_create(&turn_pool, worker->pool);
    while (!stopping) {
        stopping = apr_atomic_read32(&worker->stopping) != 0;
        if (!stopping) {
            wait_for_wake(worker, wait);
            stopping = apr_atomic_read32(&worker->stopping) != 0;
        }
        wait = worker->turn(worker->baton, stopping, turn_pool) ? 0 : worker->interval;
        apr_pool_clear(turn_pool);
    }
}

static void *APR_THREAD_FUNC worker_main(apr_thread_t *thread, void *data)
{
    nanomdm_worker_t *worker = data;

    (void)thread;
    if (worker->loop != NULL) {
        worker->loop(worker->baton, worker->wake[0]);
    } else {
        take_turns(worker);
    }
    close(worker->done[1]);
    return NULL;
}

static apr_status_t start(nanomdm_worker_t **out, const nanomdm_worker_t *what, apr_pool_t *pool)
{
    nanomdm_worker_t *worker = apr_pmemdup(pool, what, sizeof(*what));
    sigset_t all;
    sigset_t before;
    apr_status_t status;

    status = apr_pool_create_unmanaged_ex(&worker->pool, NULL, NULL);
    if (status == APR_SUCCESS) {
        status = make_pipe(worker->wake);
    }
    if (status == APR_SUCCESS) {
        status = make_pipe(worker->done);
    }
    if (status != APR_SUCCESS) {
        return status;
    }
    /* Signals are the MPM's: its threads get them, never this one. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    status = apr_thread_create(&worker->thread, NULL, worker_main, worker, worker->pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status == APR_SUCCESS) {
        *out = worker;
    }
    return status;
}

apr_status_t nanomdm_worker_start(nanomdm_worker_t **out, apr_interval_time_t interval,
                                  nanomdm_turn_t *turn, void *baton, apr_pool_t *pool)
{
    nanomdm_worker_t what = {.interval = interval, .turn = turn, .baton = baton};

    return start(out, &what, pool);
}

apr_status_t nanomdm_worker_start_loop(nanomdm_worker_t **out, nanomdm_loop_t *loop, void *baton,
                                       apr_pool_t *pool)
{
    nanomdm_worker_t what = {.loop = loop, .baton = baton};

    return start(out, &what, pool);
}

void nanomdm_worker_wake(nanomdm_worker_t *worker)
{
    ssize_t written = write(worker->wake[1], "", 1);

    (void)written; /* a full pipe wakes it just as well */
}

apr_status_t nanomdm_worker_stop(nanomdm_worker_t *worker, apr_interval_time_t wait)
{
    struct pollfd fd = {worker->done[0], POLLIN, 0};
    apr_time_t end = mdm_clock() + wait;
    int ready = 0;

    apr_atomic_set32(&worker->stopping, 1);
    nanomdm_worker_wake(worker);
    do {
        apr_interval_time_t left = end - mdm_clock();

        ready = poll(&fd, 1, left > 0 ? (int)apr_time_as_msec(left) + 1 : 0);
    } while (ready < 0 && errno == EINTR);
    return ready > 0 ? APR_SUCCESS : APR_TIMEUP;
}

void nanomdm_worker_free(nanomdm_worker_t *worker)
{
    apr_status_t unused;

    apr_thread_join(&unused, worker->thread);
    close(worker->wake[0]);
    close(worker->wake[1]);
    close(worker->done[0]);
    apr_pool_destroy(worker->pool);
}
