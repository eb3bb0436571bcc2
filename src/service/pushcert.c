/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The certificates to push with: taken in only if they can be used, and told again. */
#include <apr_strings.h>
#include <string.h>

#include "service.h"

typedef struct push_cert_work_t {
    const char *topic;
    const trust_pushcert_t *parsed; /* to store */
    store_push_cert_t stored;       /* loaded */
} push_cert_work_t;

static apr_status_t store_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    const push_cert_work_t *work = baton;

    (void)pool;
    return store_push_cert_store(tx, work->parsed->topic, work->parsed->cert_pem,
                                 work->parsed->key_pem);
}

static apr_status_t load_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    push_cert_work_t *work = baton;

    return store_push_cert_load(tx, work->topic, &work->stored, pool);
}

apr_status_t service_push_cert_store(const service_t *service, const char *pem, apr_size_t len,
                                     trust_pushcert_t *out, const char **why, apr_pool_t *pool)
{
    trust_pushcert_t parsed;
    push_cert_work_t work = {.parsed = &parsed};
    apr_status_t status = trust_pushcert_read(&parsed, pem, len, why, pool);

    if (status != APR_SUCCESS) {
        return status;
    }
    *why = "the database is not available";
    status = store_write(service->store, store_work, &work, pool);
    if (status == APR_SUCCESS) {
        *out = parsed;
    }
    return status;
}

apr_status_t service_push_cert_load(const service_t *service, const char *topic,
                                    trust_pushcert_t *out, const char **why, apr_pool_t *pool)
{
    push_cert_work_t work = {.topic = topic};
    const char *pem;
    apr_status_t status = store_read(service->store, load_work, &work, pool);

    if (status != APR_SUCCESS) {
        *why = status == APR_ENOENT ? "there is no push certificate for this topic"
                                    : "the database is not available";
        return status;
    }
    pem = apr_pstrcat(pool, work.stored.cert_pem, "\n", work.stored.key_pem, NULL);
    return trust_pushcert_read(out, pem, strlen(pem), why, pool);
}
