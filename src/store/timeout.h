/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Bounds how long a database server may keep a caller waiting, which not every driver can. Private
 * to src/store. */
#ifndef STORE_TIMEOUT_H
#define STORE_TIMEOUT_H

#include <apr_atomic.h>
#include <apr_dbd.h>
#include <apr_pools.h>
#include <apr_ring.h>
#include <apr_time.h>

typedef struct timeout_t timeout_t;

/** A connection while it is watched; its members are timeout.c's. */
typedef struct timeout_watch_t {
    APR_RING_ENTRY(timeout_watch_t) link;
    int (*get_socket)(void *native);
    void *native;
    apr_uint64_t deadline; /* 0 while it is not used */
    apr_uint32_t expired;
} timeout_watch_t;

/** Start watching with a thread of its own; ends with the pool.
 * @param limit  how long a single call may take */
apr_status_t timeout_create(timeout_t **out, apr_interval_time_t limit, apr_pool_t *pool);

/** Open a connection, or give up after the limit. While an attempt that was given up has not ended,
 * all others fail at once, but for one every few limits.
 *
 * @param pool  a new one with its own allocator, which the connection lives in; to be destroyed
 *              after it was closed
 * @param why   in that pool, or constant; set on failure, where *pool is NULL if there is none
 * @return MDM_EUNAVAILABLE
 */
apr_status_t timeout_open(timeout_t *timeout, const apr_dbd_driver_t *driver, const char *params,
                          apr_dbd_t **handle, apr_pool_t **pool, const char **why);

/** Watch a connection: one whose call takes longer than the limit is cut, so that the call fails.
 *
 * @param symbol  the client library's function that gives a connection's socket; if the library
 *                has none, nothing is watched
 */
void timeout_watch(timeout_t *timeout, timeout_watch_t *watch, const char *symbol, void *native);
/** To be called before the connection is closed. */
void timeout_unwatch(timeout_t *timeout, timeout_watch_t *watch);

/** A call begins now; a next one may follow without end. */
void timeout_begin(timeout_t *timeout, timeout_watch_t *watch);
void timeout_end(timeout_watch_t *watch);
/** Whether the connection was cut. */
int timeout_expired(timeout_watch_t *watch);

#endif
