/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The ids of a call: distinct, looked up, sorted. */
#include "results.h"

apr_array_header_t *service_results(const apr_array_header_t *ids, apr_pool_t *pool)
{
    apr_array_header_t *results = apr_array_make(pool, ids->nelts + 1, sizeof(service_result_t));
    apr_hash_t *there = apr_hash_make(pool);

    for (int i = 0; i < ids->nelts; i++) {
        const char *id = APR_ARRAY_IDX(ids, i, const char *);

        if (apr_hash_get(there, id, APR_HASH_KEY_STRING) == NULL) {
            service_result_t *result = apr_array_push(results);

            *result = (service_result_t){.id = id};
            apr_hash_set(there, id, APR_HASH_KEY_STRING, result);
        }
    }
    return results;
}

apr_array_header_t *results_ids(const apr_array_header_t *results, apr_hash_t **index,
                                apr_pool_t *pool)
{
    apr_array_header_t *ids = apr_array_make(pool, results->nelts + 1, sizeof(const char *));

    *index = apr_hash_make(pool);
    for (int i = 0; i < results->nelts; i++) {
        service_result_t *result = &APR_ARRAY_IDX(results, i, service_result_t);

        if (result->command_error == NULL && mdm_id_valid(result->id)) {
            APR_ARRAY_PUSH(ids, const char *) = result->id;
            apr_hash_set(*index, result->id, APR_HASH_KEY_STRING, result);
        }
    }
    store_sort_ids(ids);
    return ids;
}
