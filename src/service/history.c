/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Sweeping the history: finished commands whenever there are some, and what new enrollments took
 * back, which is rare and must be searched for, once a day, enrollment by enrollment.
 */
#include "service_history.h"

#include <apr_general.h>
#include <apr_strings.h>

#include "mdm_clock.h"
#include "mdm_log.h"

#define CLEARED_INTERVAL apr_time_from_sec(24 * 3600)

struct service_history_t {
    store_t *store;
    apr_interval_time_t age;
    int ready;               /* the database has what makes it cheap */
    int told;                /* that it has not */
    apr_time_t next_cleared; /* when to look for those again */
    char after[256];         /* the enrollment behind which that goes on */
};

service_history_t *service_history_create(store_t *store, apr_interval_time_t age, apr_pool_t *pool)
{
    service_history_t *history = apr_pcalloc(pool, sizeof(*history));
    apr_uint32_t random = 0;

    /* Not all processes at the same time; the first of them soon. */
    apr_generate_random_bytes((unsigned char *)&random, sizeof(random));
    history->store = store;
    history->age = age;
    history->next_cleared = mdm_clock() + (apr_interval_time_t)random %
                                              (age < CLEARED_INTERVAL ? age : CLEARED_INTERVAL);
    return history;
}

static int is_ready(service_history_t *history, apr_pool_t *pool)
{
    apr_status_t status = history->ready ? APR_SUCCESS : store_history_check(history->store, pool);

    history->ready = status == APR_SUCCESS;
    if (status == MDM_ESCHEMA && !history->told) {
        history->told = 1;
        mdm_log(MDM_LOG_WARNING, 0,
                "NanoMDMHistory waits: the database has no index on command_results (updated_at); "
                "\"nanomdm-schema upgrade\" makes it");
    }
    return history->ready;
}

/* Returns whether there may be more. */
static int sweep_cleared(service_history_t *history, apr_pool_t *pool)
{
    const char *last;
    int deleted = 0;
    apr_status_t status =
        store_history_cleared(history->store, history->age, history->after, &last, &deleted, pool);

    if (status == APR_ENOENT) {
        history->next_cleared = mdm_clock() + CLEARED_INTERVAL;
        last = "";
    } else if (status != APR_SUCCESS) {
        return 0; /* the store has logged why; it goes on from there */
    } else if (strcmp(last, history->after) == 0 && deleted == 0) {
        return 0; /* another node is at it */
    }
    apr_cpystrn(history->after, apr_pstrdup(pool, last), sizeof(history->after));
    return status == APR_SUCCESS;
}

int service_history_sweep(service_history_t *history, apr_pool_t *pool)
{
    int deleted = 0;

    if (!is_ready(history, pool) ||
        store_history_finished(history->store, history->age, &deleted, pool) != APR_SUCCESS) {
        return 0;
    }
    if (deleted > 0) {
        mdm_log(MDM_LOG_DEBUG, 0, "history: %d rows deleted", deleted);
        return 1;
    }
    return mdm_clock() >= history->next_cleared && sweep_cleared(history, pool);
}
