/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Which certificate belongs to which device. Private to src/service. */
#ifndef SERVICE_ASSOCIATION_H
#define SERVICE_ASSOCIATION_H

#include "service.h"

/** For Authenticate: associate the certificate with the device, unless another device has it.
 * @return MDM_EREFUSED, MDM_EUNAVAILABLE */
apr_status_t association_claim(store_tx_t *tx, const char *device_id,
                               const trust_certificate_t *cert, apr_pool_t *pool);

/** For every other message: the pair must exist, or be allowed to come retroactively.
 * @return MDM_EREFUSED, MDM_EUNAVAILABLE */
apr_status_t association_check(store_tx_t *tx, const service_t *service, const char *device_id,
                               const trust_certificate_t *cert, apr_pool_t *pool);

#endif
