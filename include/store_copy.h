/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* A whole database, table by table: to be read in pages of bounded size, written to another one of
 * any kind, and compared; and the check-in messages in it. For tools, which hold no other
 * transaction meanwhile.
 *
 * A row is its columns' values as text: times in UTC, with a fraction only if there is one; flags
 * as 0 and 1; bytes in hex. Functions return MDM_EUNAVAILABLE as those of store.h do.
 */
#ifndef STORE_COPY_H
#define STORE_COPY_H

#include "store.h"

typedef const char *const *store_row_t; /* in the order of the columns, NULL for NULL */
typedef struct store_reader_t store_reader_t;

#define STORE_COLUMNS_MAX 16

/** A table as one database has it. */
typedef struct store_table_t {
    const char *name;
    int columns;
    int keys; /* so many of the columns, from the first, are its key */
    const char *column[STORE_COLUMNS_MAX];
    int whole_seconds[STORE_COLUMNS_MAX]; /* the column holds no fractions of seconds */
    int by_arrival; /* rows are served in the order in which they were written, not by their times
                     */
    apr_size_t statement_max; /* bytes of a statement, 0 if there is no limit */
} store_table_t;

/** The tables to copy (store_table_t), sorted so that rows come after those that they refer to;
 * those that not every server has only if they are there. */
apr_status_t store_tables_load(store_t *store, apr_array_header_t **tables, apr_pool_t *pool);
/** How many rows of webhook events wait there, which are not copied. */
apr_status_t store_events_waiting(store_t *store, apr_int64_t *rows, apr_pool_t *pool);
apr_status_t store_table_count(store_t *store, const store_table_t *table, apr_int64_t *rows,
                               apr_pool_t *pool);
/** A row's key, for people. */
const char *store_row_key(const store_table_t *table, store_row_t row, apr_pool_t *pool);

/** Read a table in the order of its key.
 *
 * @param target  the table that the rows are for: they come as it can hold them, and where it
 *                serves a queue by time, times tell the order of it. May be the table itself.
 */
void store_reader_open(store_reader_t **out, store_t *store, const store_table_t *table,
                       const store_table_t *target, apr_pool_t *pool);
/** Read on.
 *
 * @param rows  a page (store_row_t), valid until the next call; empty at the end
 */
apr_status_t store_reader_next(store_reader_t *reader, apr_array_header_t **rows);

typedef struct store_refusal_t {
    const char *key;
    const char *why;
} store_refusal_t;

/** Write rows in one transaction, without those that the database refuses.
 *
 * @param skip     leave alone rows whose key is there already; otherwise that is a refusal
 * @param added    how many were written
 * @param refused  store_refusal_t
 */
apr_status_t store_table_add(store_t *store, const store_table_t *table,
                             const apr_array_header_t *rows, int skip, int *added,
                             apr_array_header_t **refused, apr_pool_t *pool);

/** A sum over rows, whatever their order. All zero for none. */
typedef struct store_sum_t {
    apr_uint64_t part[4];
} store_sum_t;

void store_sum_add(store_sum_t *sum, const store_table_t *table, const apr_array_header_t *rows);

/* The check-ins that make the enrollments of another server anew. */

/** The devices (const char *) behind this one, in the order of ids; none at the end.
 *
 * @param after    NULL for the first
 * @param enabled  int, likewise: whether the device's own enrollment is
 */
apr_status_t store_replay_devices(store_t *store, const char *after, apr_array_header_t **ids,
                                  apr_array_header_t **enabled, apr_pool_t *pool);
/** A device's messages. @param token_update  NULL if there is none */
apr_status_t store_replay_device(store_t *store, const char *id, const char **authenticate,
                                 const char **token_update, apr_pool_t *pool);
/** The TokenUpdate of a device's next user channel.
 *
 * @param after  the user channel before, or NULL
 * @param all    disabled ones too
 * @return APR_ENOENT if there are no more
 */
apr_status_t store_replay_user(store_t *store, const char *device_id, const char *after, int all,
                               const char **id, const char **token_update, apr_pool_t *pool);

#endif
