/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Queueing a command for enrollments: all in one transaction, repeatable, unknown ids told one by
 * one. */

#include "results.h"

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

apr_status_t service_enqueue(const service_t *service, const mdm_command_t *command,
                             apr_array_header_t *results, apr_pool_t *pool)
{
    apr_hash_t *index;
    enqueue_t work = {command, results_ids(results, &index, pool), NULL};
    apr_status_t status = APR_ENOENT;

    if (work.ids->nelts > 0) {
        status = store_write(service->store, enqueue_work, &work, pool);
    }
    if (status != APR_SUCCESS && status != APR_ENOENT) {
        return status;
    }
    for (int i = 0; i < results->nelts; i++) {
        APR_ARRAY_IDX(results, i, service_result_t).command_error = "no such enrollment";
    }
    for (int i = 0; work.known != NULL && i < work.known->nelts; i++) {
        service_result_t *result =
            apr_hash_get(index, APR_ARRAY_IDX(work.known, i, const char *), APR_HASH_KEY_STRING);

        if (result != NULL) {
            result->command_error = NULL;
        }
    }
    return status;
}
