/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Turns for writers, for a database that has room for one at a time. Private to src/store. */
#ifndef STORE_WRITER_H
#define STORE_WRITER_H

#include <apr_pools.h>
#include <apr_time.h>

typedef struct writer_t writer_t;

/** Make the queue of this process for a database file; beside it, FILE-writer keeps other processes
 * that use the same queue waiting. Lives as long as the pool. */
apr_status_t writer_create(writer_t **out, const char *database_file, apr_pool_t *pool);

/** Wait for the turn, in the order of asking among the threads of a process.
 * @return APR_TIMEUP if it did not come in time */
apr_status_t writer_lock(writer_t *writer, apr_interval_time_t wait);
void writer_unlock(writer_t *writer);

#endif
