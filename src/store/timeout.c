/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* See timeout.h. A server that accepts and does not answer, as on a frozen machine, keeps a client
 * library waiting without end: MySQL's has no time limit that apr_dbd could set, and PostgreSQL's
 * only one for connecting. So connecting is done by a thread that can be left behind, and a
 * connection that is in use for too long is cut below the library, by shutdown(2).
 */
#include "timeout.h"

#include <apr_strings.h>
#include <apr_thread_proc.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "mdm_clock.h"
#include "mdm_log.h"
#include "mdm_status.h"

/* How many limits pass between attempts to connect to a server that does not answer. */
#define RETRY_LIMITS 6

/* An attempt to connect. Belongs to its thread and to whoever waits for it; the last one frees it.
 */
typedef struct attempt_t {
    apr_pool_t *own;  /* of the attempt */
    apr_pool_t *pool; /* of the connection; NULL once it is somebody else's */
    pthread_mutex_t mutex;
    pthread_cond_t ended_cond;
    const apr_dbd_driver_t *driver;
    char *params;
    apr_dbd_t *handle;
    const char *why;
    int ended;
    int owners;
} attempt_t;

struct timeout_t {
    apr_interval_time_t limit;
    pthread_mutex_t mutex; /* of all below */
    APR_RING_HEAD(watches_t, timeout_watch_t) watches;
    attempt_t *given_up; /* the one that keeps others from trying, until then */
    apr_time_t try_again;
    pthread_cond_t stop_cond;
    apr_thread_t *thread;
    int stopping;
};

static int lock_init(pthread_mutex_t *mutex, pthread_cond_t *cond)
{
    int error = pthread_mutex_init(mutex, NULL);

    if (error == 0) {
        error = mdm_cond_init(cond);
        if (error != 0) {
            pthread_mutex_destroy(mutex);
        }
    }
    return error;
}

static void lock_destroy(pthread_mutex_t *mutex, pthread_cond_t *cond)
{
    pthread_cond_destroy(cond);
    pthread_mutex_destroy(mutex);
}

/* -- Connecting --------------------------------------------------------------------------- */

static void attempt_release(attempt_t *attempt)
{
    int last;

    pthread_mutex_lock(&attempt->mutex);
    last = --attempt->owners == 0;
    pthread_mutex_unlock(&attempt->mutex);
    if (!last) {
        return;
    }
    if (attempt->pool != NULL) {
        if (attempt->handle != NULL) {
            apr_dbd_close(attempt->driver, attempt->handle);
        }
        apr_pool_destroy(attempt->pool);
    }
    memset(attempt->params, 0, strlen(attempt->params)); /* a password may be in it */
    lock_destroy(&attempt->mutex, &attempt->ended_cond);
    apr_pool_destroy(attempt->own);
}

static void *attempt_main(void *data)
{
    attempt_t *attempt = data;
    apr_dbd_t *handle = NULL;
    const char *why = NULL;
    apr_status_t status =
        apr_dbd_open_ex(attempt->driver, attempt->pool, attempt->params, &handle, &why);

    pthread_mutex_lock(&attempt->mutex);
    attempt->handle = status == APR_SUCCESS ? handle : NULL;
    attempt->why = why;
    attempt->ended = 1;
    pthread_cond_signal(&attempt->ended_cond);
    pthread_mutex_unlock(&attempt->mutex);
    attempt_release(attempt);
    return NULL;
}

static apr_status_t attempt_make(attempt_t **out, const apr_dbd_driver_t *driver,
                                 const char *params)
{
    attempt_t *attempt;
    apr_pool_t *own;
    apr_status_t status = apr_pool_create_unmanaged_ex(&own, NULL, NULL);

    if (status != APR_SUCCESS) {
        return status;
    }
    attempt = apr_pcalloc(own, sizeof(*attempt));
    attempt->own = own;
    attempt->driver = driver;
    attempt->params = apr_pstrdup(own, params);
    attempt->owners = 2;
    status = lock_init(&attempt->mutex, &attempt->ended_cond);
    if (status != APR_SUCCESS) {
        apr_pool_destroy(own);
        return status;
    }
    status = apr_pool_create_unmanaged_ex(&attempt->pool, NULL, NULL);
    if (status != APR_SUCCESS) {
        lock_destroy(&attempt->mutex, &attempt->ended_cond);
        apr_pool_destroy(own);
        return status;
    }
    *out = attempt;
    return APR_SUCCESS;
}

/* Nobody waits for the end of this thread, so it is none of APR's, whose threads have pools. */
static int attempt_start(attempt_t *attempt)
{
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all;
    sigset_t before;
    int error = pthread_attr_init(&attr);

    if (error != 0) {
        return error;
    }
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all); /* signals are the process's other threads' */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread, &attr, attempt_main, attempt);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return error;
}

/* Whether the thread has ended in time. */
static int attempt_wait(attempt_t *attempt, apr_interval_time_t limit)
{
    apr_time_t end = mdm_clock() + limit;
    int error = 0;
    int ended;

    pthread_mutex_lock(&attempt->mutex);
    while (!attempt->ended && error == 0) {
        error = mdm_cond_wait(&attempt->ended_cond, &attempt->mutex, end);
    }
    ended = attempt->ended;
    pthread_mutex_unlock(&attempt->mutex);
    return ended;
}

/* Whether an attempt before this one still waits for the server. Not for ever: it may be the only
 * one that is never answered, because its packets went to a machine that is gone. */
static int server_is_silent(timeout_t *timeout)
{
    int silent = 0;

    pthread_mutex_lock(&timeout->mutex);
    if (timeout->given_up != NULL) {
        silent = mdm_clock() < timeout->try_again && !attempt_wait(timeout->given_up, 0);
        if (!silent) {
            attempt_release(timeout->given_up);
            timeout->given_up = NULL;
        }
    }
    pthread_mutex_unlock(&timeout->mutex);
    return silent;
}

static void give_up(timeout_t *timeout, attempt_t *attempt)
{
    int first;

    pthread_mutex_lock(&timeout->mutex);
    first = timeout->given_up == NULL;
    if (first) {
        timeout->given_up = attempt;
        timeout->try_again = mdm_clock() + RETRY_LIMITS * timeout->limit;
    }
    pthread_mutex_unlock(&timeout->mutex);
    if (!first) {
        attempt_release(attempt);
    }
}

apr_status_t timeout_open(timeout_t *timeout, const apr_dbd_driver_t *driver, const char *params,
                          apr_dbd_t **handle, apr_pool_t **pool, const char **why)
{
    attempt_t *attempt;

    *pool = NULL;
    *why = "it does not answer";
    if (server_is_silent(timeout)) {
        return MDM_EUNAVAILABLE;
    }
    if (attempt_make(&attempt, driver, params) != APR_SUCCESS) {
        *why = "out of memory or locks";
        return MDM_EUNAVAILABLE;
    }
    if (attempt_start(attempt) != 0) {
        attempt->owners--;
        attempt_release(attempt);
        *why = "no thread could be started";
        return MDM_EUNAVAILABLE;
    }
    if (!attempt_wait(attempt, timeout->limit)) {
        give_up(timeout, attempt);
        return MDM_EUNAVAILABLE;
    }
    *pool = attempt->pool;
    *handle = attempt->handle;
    *why = attempt->why;
    attempt->pool = NULL;
    attempt_release(attempt);
    return *handle != NULL ? APR_SUCCESS : MDM_EUNAVAILABLE;
}

/* -- Watching ----------------------------------------------------------------------------- */

static void cut_expired(timeout_t *timeout)
{
    apr_uint64_t now = (apr_uint64_t)mdm_clock();
    timeout_watch_t *watch;

    APR_RING_FOREACH(watch, &timeout->watches, timeout_watch_t, link)
    {
        apr_uint64_t deadline = apr_atomic_read64(&watch->deadline);

        if (deadline != 0 && deadline < now && !timeout_expired(watch)) {
            apr_atomic_set32(&watch->expired, 1);
            shutdown(watch->get_socket(watch->native), SHUT_RDWR);
            mdm_log(MDM_LOG_WARNING, 0, "the database did not answer within %d ms",
                    (int)apr_time_as_msec(timeout->limit));
        }
    }
}

static void *APR_THREAD_FUNC watch_main(apr_thread_t *thread, void *data)
{
    timeout_t *timeout = data;

    (void)thread;
    pthread_mutex_lock(&timeout->mutex);
    while (!timeout->stopping) {
        mdm_cond_wait(&timeout->stop_cond, &timeout->mutex, mdm_clock() + timeout->limit / 5);
        cut_expired(timeout);
    }
    pthread_mutex_unlock(&timeout->mutex);
    return NULL;
}

static apr_status_t timeout_cleanup(void *data)
{
    timeout_t *timeout = data;
    apr_status_t unused;

    pthread_mutex_lock(&timeout->mutex);
    timeout->stopping = 1;
    pthread_cond_signal(&timeout->stop_cond);
    pthread_mutex_unlock(&timeout->mutex);
    apr_thread_join(&unused, timeout->thread);
    if (timeout->given_up != NULL) {
        attempt_release(timeout->given_up);
    }
    lock_destroy(&timeout->mutex, &timeout->stop_cond);
    return APR_SUCCESS;
}

apr_status_t timeout_create(timeout_t **out, apr_interval_time_t limit, apr_pool_t *pool)
{
    timeout_t *timeout = apr_pcalloc(pool, sizeof(*timeout));
    sigset_t all;
    sigset_t before;
    apr_status_t status;

    timeout->limit = limit;
    APR_RING_INIT(&timeout->watches, timeout_watch_t, link);
    status = lock_init(&timeout->mutex, &timeout->stop_cond);
    if (status != APR_SUCCESS) {
        return status;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    status = apr_thread_create(&timeout->thread, NULL, watch_main, timeout, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status == APR_SUCCESS) {
        apr_pool_cleanup_register(pool, timeout, timeout_cleanup, apr_pool_cleanup_null);
        *out = timeout;
    } else {
        lock_destroy(&timeout->mutex, &timeout->stop_cond);
    }
    return status;
}

void timeout_watch(timeout_t *timeout, timeout_watch_t *watch, const char *symbol, void *native)
{
    void *function = dlsym(RTLD_DEFAULT, symbol);

    if (function == NULL) {
        return;
    }
    memcpy(&watch->get_socket, &function, sizeof(function)); /* ISO C has no cast for it */
    watch->native = native;
    pthread_mutex_lock(&timeout->mutex);
    APR_RING_INSERT_TAIL(&timeout->watches, watch, timeout_watch_t, link);
    pthread_mutex_unlock(&timeout->mutex);
}

void timeout_unwatch(timeout_t *timeout, timeout_watch_t *watch)
{
    if (watch->native != NULL) {
        pthread_mutex_lock(&timeout->mutex);
        APR_RING_REMOVE(watch, link);
        pthread_mutex_unlock(&timeout->mutex);
        watch->native = NULL;
    }
}

void timeout_begin(timeout_t *timeout, timeout_watch_t *watch)
{
    if (watch->native != NULL) {
        apr_atomic_set64(&watch->deadline, (apr_uint64_t)(mdm_clock() + timeout->limit));
    }
}

void timeout_end(timeout_watch_t *watch)
{
    if (watch->native != NULL) {
        apr_atomic_set64(&watch->deadline, 0);
    }
}

int timeout_expired(timeout_watch_t *watch)
{
    return apr_atomic_read32(&watch->expired) != 0;
}
