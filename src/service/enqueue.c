/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Queueing a command for enrollments: all in one transaction, repeatable, unknown ids told one by
 * one. */

#include "service.h"

typedef struct enqueue_t {
    const mdm_command_t *command;
    const apr_array_header_t *ids; /* distinct, sorted */
    apr_array_header_t *known;
} enqueue_t;

static apr_status_t enqueue_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    enqueue_t *work = baton;
    apr_status_t status = store_enrollments_load(tx, work->ids, &work->known, pool);

    if (status == APR_SUCCESS && work->known->nelts == 0) {
        status = APR_ENOENT;
    }
    if (status == APR_SUCCESS) {
        status = store_command_add(tx, work->command, pool);
    }
    if (status == APR_SUCCESS) {
        status = store_queue_add(tx, work->command->uuid, work->ids);
    }
    return status;
}

/* The distinct ids in the order given, each marked unknown for now. */
static apr_array_header_t *distinct(const apr_array_header_t *ids, apr_hash_t *index,
                                    apr_pool_t *pool)
{
    apr_array_header_t *out = apr_array_make(pool, ids->nelts + 1, sizeof(service_queued_t));

    for (int i = 0; i < ids->nelts; i++) {
        const char *id = APR_ARRAY_IDX(ids, i, const char *);

        if (apr_hash_get(index, id, APR_HASH_KEY_STRING) == NULL) {
            service_queued_t *queued = apr_array_push(out);

            queued->id = id;
            queued->known = 0;
            apr_hash_set(index, id, APR_HASH_KEY_STRING, queued);
        }
    }
    return out;
}

apr_status_t service_enqueue(const service_t *service, const mdm_command_t *command,
                             const apr_array_header_t *ids, apr_array_header_t **queued,
                             apr_pool_t *pool)
{
    apr_hash_t *index = apr_hash_make(pool);
    apr_array_header_t *all = distinct(ids, index, pool);
    apr_array_header_t *sorted = apr_array_make(pool, all->nelts + 1, sizeof(const char *));
    enqueue_t work = {command, sorted, NULL};
    apr_status_t status;

    for (int i = 0; i < all->nelts; i++) {
        APR_ARRAY_PUSH(sorted, const char *) = APR_ARRAY_IDX(all, i, service_queued_t).id;
    }
    store_sort_ids(sorted);
    status = store_write(service->store, enqueue_work, &work, pool);
    if (status == APR_SUCCESS || status == APR_ENOENT) {
        for (int i = 0; work.known != NULL && i < work.known->nelts; i++) {
            service_queued_t *entry = apr_hash_get(
                index, APR_ARRAY_IDX(work.known, i, const char *), APR_HASH_KEY_STRING);

            if (entry != NULL) {
                entry->known = 1;
            }
        }
        *queued = all;
    }
    return status;
}
