/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Keeping the history of commands to a certain age, in the background. */
#ifndef SERVICE_HISTORY_H
#define SERVICE_HISTORY_H

#include "store.h"

typedef struct service_history_t service_history_t;

/** Keep a store's history to an age; in the pool. */
service_history_t *service_history_create(store_t *store, apr_interval_time_t age,
                                          apr_pool_t *pool);

/** Delete a small batch of what is older, if there is any. One thread at a time.
 *
 * @return 1 if there may be more, 0 if that was all for now; failures are logged
 */
int service_history_sweep(service_history_t *history, apr_pool_t *pool);

#endif
