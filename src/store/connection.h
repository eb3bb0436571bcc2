/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* A store and its connections, as connection.c makes them and dbd.c uses them. Private to those
 * two.
 */
#ifndef STORE_CONNECTION_H
#define STORE_CONNECTION_H

#include <apr_dbd.h>
#include <apr_reslist.h>

#include "dbd.h"
#include "timeout.h"
#include "writer.h"

/** In so many sizes a statement over a list of ids exists. */
#define LIST_SIZES 3
#define PREPARED_COUNT (STMT_LISTS + (STMT_COUNT - STMT_LISTS) * LIST_SIZES)

/** Between two attempts at something that others have for a moment. */
#define BUSY_PAUSE apr_time_from_msec(10)

struct store_t {
    store_config_t config;
    const dialect_t *dialect;
    const apr_dbd_driver_t *driver;
    apr_reslist_t *connections;
    timeout_t *timeout;      /* NULL: wait as long as the driver does */
    writer_t *writer;        /* NULL unless the dialect has a single writer */
    apr_uint32_t generation; /* of connections: older ones are thrown away */
};

struct store_tx_t {
    store_t *store;
    apr_pool_t *pool;        /* of the connection */
    apr_pool_t *scratch;     /* of one statement */
    apr_pool_t *driver_pool; /* of the handle; NULL until it is open */
    apr_dbd_t *handle;
    timeout_watch_t watch;
    apr_dbd_prepared_t *prepared[PREPARED_COUNT];
    apr_uint32_t generation;
    int has_own;          /* the tables of sql/own.*.sql */
    apr_time_t ask_again; /* whether they are there, if they were not */
    int code;             /* the driver's code of the first failure, 0 while all is well */
    int busy;             /* that failure means: try again */
};

/** Take a connection from the list, connecting first if need be; it has no failure yet.
 * @return MDM_EUNAVAILABLE; the reason is logged */
apr_status_t connection_acquire(store_tx_t **out, store_t *store);
/** Give it back, or throw it away. */
void connection_release(store_tx_t *tx, int keep);

/** To be called before each call of the driver: clears the scratch pool and starts its timeout. */
void connection_call(store_tx_t *tx);
/** Run a select as it is, after connection_call(). Returns the driver's code. */
int connection_select(store_tx_t *tx, const char *sql, apr_dbd_results_t **results);
/** Run a select as it is and drop its rows. Returns the driver's code. */
int connection_drain(store_tx_t *tx, const char *sql);
/** The first line of a driver's text, for the log. */
const char *connection_line(const char *reason, apr_pool_t *pool);

#endif
