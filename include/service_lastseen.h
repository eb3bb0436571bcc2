/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* When enrollments were last heard of: collected in memory, written in batches. */
#ifndef SERVICE_LASTSEEN_H
#define SERVICE_LASTSEEN_H

#include "store.h"

/** Most enrollments that wait for a flush; more are not noted while a database is down. */
#define SERVICE_LASTSEEN_MAX 200000

typedef struct service_lastseen_t service_lastseen_t;

/** Make a collection for one store; both live as long as the pool. */
apr_status_t service_lastseen_create(service_lastseen_t **out, store_t *store, apr_pool_t *pool);

/** Note that an enrollment was heard of just now. Any thread; never blocks on the database. */
void service_lastseen_note(void *lastseen, const char *id);

/** Write what was noted, as one set-based statement per batch in one transaction. What could not
 * be written is kept for the next time. One thread at a time.
 * @return MDM_EUNAVAILABLE */
apr_status_t service_lastseen_flush(service_lastseen_t *lastseen);

#endif
