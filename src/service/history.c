/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Sweeping the history: finished commands whenever there are some, and what new enrollments took
 * back, which is rare and must be searched for, once a day. */
#include "service_history.h"

#include <apr_general.h>

#include "mdm_log.h"

#define CLEARED_INTERVAL apr_time_from_sec(24 * 3600)

struct service_history_t {
    store_t *store;
    apr_interval_time_t age;
    apr_time_t next_cleared; /* when to look for those again */
};

service_history_t *service_history_create(store_t *store, apr_interval_time_t age, apr_pool_t *pool)
{
    service_history_t *history = apr_palloc(pool, sizeof(*history));
    apr_uint32_t random = 0;

    /* Not all processes at the same time; the first of them soon. */
    apr_generate_random_bytes((unsigned char *)&random, sizeof(random));
    history->store = store;
    history->age = age;
    history->next_cleared = apr_time_now() + (apr_interval_time_t)random %
                                                 (age < CLEARED_INTERVAL ? age : CLEARED_INTERVAL);
    return history;
}

static int sweep(service_history_t *history, store_history_t what, apr_pool_t *pool)
{
    int deleted = 0;

    if (store_history_sweep(history->store, what, history->age, &deleted, pool) != APR_SUCCESS) {
        return 0; /* the store has logged why; next time */
    }
    if (deleted > 0) {
        mdm_log(MDM_LOG_DEBUG, 0, "history: %d %s commands deleted", deleted,
                what == STORE_HISTORY_FINISHED ? "finished" : "cleared");
    }
    return deleted > 0;
}

int service_history_sweep(service_history_t *history, apr_pool_t *pool)
{
    if (sweep(history, STORE_HISTORY_FINISHED, pool)) {
        return 1;
    }
    if (apr_time_now() < history->next_cleared) {
        return 0;
    }
    if (sweep(history, STORE_HISTORY_CLEARED, pool)) {
        return 1;
    }
    history->next_cleared = apr_time_now() + CLEARED_INTERVAL;
    return 0;
}
