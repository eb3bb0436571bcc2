/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Which certificate belongs to which device: one certificate, one device; one device may collect
 * several. Runs inside the transaction of the message that asks. */
#include "association.h"

#include <string.h>

/* The certificate must not be another device's; the caller has just found that it is not this
 * one's. */
static apr_status_t take(store_tx_t *tx, const char *device_id, const trust_certificate_t *cert,
                         apr_pool_t *pool)
{
    const char *owner;
    apr_status_t status = store_association_claim(tx, cert->sha256, &owner, pool);

    if (status == APR_SUCCESS) {
        /* It may be this one's by now: the same message at the same time. */
        return strcmp(owner, device_id) == 0 ? APR_SUCCESS : MDM_EREFUSED;
    }
    return status == APR_ENOENT ? store_association_add(tx, device_id, cert->sha256) : status;
}

apr_status_t association_claim(store_tx_t *tx, const char *device_id,
                               const trust_certificate_t *cert, apr_pool_t *pool)
{
    apr_status_t status = store_association_load(tx, device_id, cert->sha256);

    return status == APR_ENOENT ? take(tx, device_id, cert, pool) : status;
}

apr_status_t association_check(store_tx_t *tx, const service_t *service, const char *device_id,
                               const trust_certificate_t *cert, apr_pool_t *pool)
{
    apr_status_t status = store_association_load(tx, device_id, cert->sha256);

    if (status != APR_ENOENT) {
        return status;
    }
    if (!service->retroactive) {
        return MDM_EREFUSED;
    }
    status = store_association_load_by_id(tx, device_id);
    if (status == APR_SUCCESS) {
        return MDM_EREFUSED;
    }
    return status == APR_ENOENT ? take(tx, device_id, cert, pool) : status;
}

typedef struct identify_t {
    const trust_certificate_t *cert;
    const char *id;
} identify_t;

static apr_status_t identify_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    identify_t *identify = baton;

    return store_association_load_by_certificate(tx, identify->cert->sha256, &identify->id, pool);
}

apr_status_t service_identify(const service_t *service, const trust_certificate_t *cert,
                              const char **id, apr_pool_t *pool)
{
    identify_t identify = {cert, NULL};
    apr_status_t status = store_read(service->store, identify_work, &identify, pool);

    if (status == APR_SUCCESS) {
        *id = identify.id;
    }
    return status == APR_ENOENT ? MDM_EREFUSED : status;
}
