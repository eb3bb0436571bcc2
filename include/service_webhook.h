/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Webhooks: which messages become events for which receiver, and where these wait. Durable ones are
 * stored with the message, in its transaction; others, and reports of an idle device, which carry
 * nothing, are kept in memory first.
 */
#ifndef SERVICE_WEBHOOK_H
#define SERVICE_WEBHOOK_H

#include "hooks.h"
#include "store.h"

typedef struct service_webhook_config_t {
    hooks_target_t target;
    const char *name;          /* the URL without a password: at most 255 bytes */
    unsigned topics;           /* a bit for each mdm_message_type_t */
    int memory;                /* delivery=memory */
    apr_interval_time_t retry; /* how long an event is tried again; 0: for ever */
} service_webhook_config_t;

typedef struct service_webhook_t service_webhook_t;

/** Make a webhook in this process; lives as long as the pool. */
apr_status_t service_webhook_create(service_webhook_t **out, const service_webhook_config_t *config,
                                    store_t *store, apr_pool_t *pool);
/** Deliver until stop_fd is readable; events that are only in memory for as long as grace then. */
void service_webhook_run(service_webhook_t *webhook, int stop_fd, apr_interval_time_t grace);
/** Store what is in memory and is to be durable; tell of losses. One thread at a time. */
void service_webhook_flush(service_webhook_t *webhook);

#endif
