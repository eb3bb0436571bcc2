/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* When enrollments were last heard of. A device's request only adds to a set in memory; a
 * background thread swaps the set and writes it. */
#include "service_lastseen.h"

#include <apr_hash.h>
#include <apr_strings.h>
#include <apr_thread_mutex.h>

#include "mdm_log.h"

typedef struct noted_t {
    apr_pool_t *pool; /* its own, so that it can be thrown away with the set */
    apr_hash_t *ids;
} noted_t;

struct service_lastseen_t {
    store_t *store;
    apr_thread_mutex_t *mutex;
    noted_t noted;
    int full; /* told once */
};

static apr_status_t noted_make(noted_t *noted)
{
    apr_status_t status = apr_pool_create_unmanaged_ex(&noted->pool, NULL, NULL);

    if (status == APR_SUCCESS) {
        noted->ids = apr_hash_make(noted->pool);
    }
    return status;
}

static apr_status_t lastseen_cleanup(void *data)
{
    service_lastseen_t *lastseen = data;

    apr_pool_destroy(lastseen->noted.pool);
    return APR_SUCCESS;
}

apr_status_t service_lastseen_create(service_lastseen_t **out, store_t *store, apr_pool_t *pool)
{
    service_lastseen_t *lastseen = apr_pcalloc(pool, sizeof(*lastseen));
    apr_status_t status;

    lastseen->store = store;
    status = apr_thread_mutex_create(&lastseen->mutex, APR_THREAD_MUTEX_DEFAULT, pool);
    if (status == APR_SUCCESS) {
        status = noted_make(&lastseen->noted);
    }
    if (status == APR_SUCCESS) {
        apr_pool_cleanup_register(pool, lastseen, lastseen_cleanup, apr_pool_cleanup_null);
        *out = lastseen;
    }
    return status;
}

/* With the mutex held. */
static void note(service_lastseen_t *lastseen, const char *id)
{
    noted_t *noted = &lastseen->noted;

    if (apr_hash_get(noted->ids, id, APR_HASH_KEY_STRING) != NULL) {
        return;
    }
    if (apr_hash_count(noted->ids) >= SERVICE_LASTSEEN_MAX) {
        if (!lastseen->full) {
            lastseen->full = 1;
            mdm_log(MDM_LOG_WARNING, 0,
                    "too many enrollments wait for their last-seen time to be written: some will "
                    "show an older one");
        }
        return;
    }
    id = apr_pstrdup(noted->pool, id);
    apr_hash_set(noted->ids, id, APR_HASH_KEY_STRING, id);
}

void service_lastseen_note(void *baton, const char *id)
{
    service_lastseen_t *lastseen = baton;

    apr_thread_mutex_lock(lastseen->mutex);
    note(lastseen, id);
    apr_thread_mutex_unlock(lastseen->mutex);
}

static apr_array_header_t *noted_ids(const noted_t *noted)
{
    apr_array_header_t *ids =
        apr_array_make(noted->pool, (int)apr_hash_count(noted->ids) + 1, sizeof(const char *));

    for (apr_hash_index_t *i = apr_hash_first(noted->pool, noted->ids); i; i = apr_hash_next(i)) {
        APR_ARRAY_PUSH(ids, const char *) = apr_hash_this_key(i);
    }
    store_sort_ids(ids);
    return ids;
}

static apr_status_t flush_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    (void)pool;
    return store_enrollments_seen(tx, baton);
}

apr_status_t service_lastseen_flush(service_lastseen_t *lastseen)
{
    noted_t fresh;
    noted_t old;
    apr_array_header_t *ids;
    apr_status_t status;
    int empty;

    apr_thread_mutex_lock(lastseen->mutex);
    empty = apr_hash_count(lastseen->noted.ids) == 0;
    apr_thread_mutex_unlock(lastseen->mutex);
    if (empty) {
        return APR_SUCCESS;
    }
    status = noted_make(&fresh);
    if (status != APR_SUCCESS) {
        return status;
    }
    apr_thread_mutex_lock(lastseen->mutex);
    old = lastseen->noted;
    lastseen->noted = fresh;
    apr_thread_mutex_unlock(lastseen->mutex);

    ids = noted_ids(&old);
    status = store_write(lastseen->store, flush_work, ids, old.pool);
    apr_thread_mutex_lock(lastseen->mutex);
    if (status == APR_SUCCESS) {
        lastseen->full = 0;
    } else {
        for (int i = 0; i < ids->nelts; i++) {
            note(lastseen, APR_ARRAY_IDX(ids, i, const char *));
        }
    }
    apr_thread_mutex_unlock(lastseen->mutex);
    apr_pool_destroy(old.pool);
    return status;
}
