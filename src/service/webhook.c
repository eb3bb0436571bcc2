/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Which messages become events, for whom, and at what moment. Knows neither what an event looks
 * like nor how it gets to its receiver. */
#include "webhook.h"

#include <apr_escape.h>
#include <apr_general.h>
#include <apr_strings.h>

#include "mdm_log.h"

#define BACKOFF_MAX apr_time_from_sec(60)

apr_interval_time_t webhook_backoff(int failures)
{
    apr_interval_time_t delay = apr_time_from_sec(1);
    apr_uint16_t random = 0;

    for (int i = 1; i < failures && delay < BACKOFF_MAX; i++) {
        delay *= 2;
    }
    delay = delay < BACKOFF_MAX ? delay : BACKOFF_MAX;
    apr_generate_random_bytes((unsigned char *)&random, sizeof(random));
    return delay * 3 / 4 + delay / 2 * random / 65536;
}

static apr_status_t webhook_cleanup(void *data)
{
    service_webhook_t *webhook = data;
    int left = webhook_queue_length(webhook->queue);

    if (left > 0) {
        mdm_log(MDM_LOG_WARNING, 0, "webhook %s: %d events were lost at the end of a process",
                webhook->config.name, left);
    }
    apr_pool_destroy(webhook->pool);
    return APR_SUCCESS;
}

apr_status_t service_webhook_create(service_webhook_t **out, const service_webhook_config_t *config,
                                    store_t *store, apr_pool_t *pool)
{
    service_webhook_t *webhook = apr_pcalloc(pool, sizeof(*webhook));
    unsigned char random[16];
    hooks_source_t source;
    apr_status_t status = apr_generate_random_bytes(random, sizeof(random));

    webhook->config = *config;
    webhook->store = store;
    apr_cpystrn(webhook->batch, "0", sizeof(webhook->batch));
    apr_escape_hex(webhook->owner, random, sizeof(random), 0, NULL);
    if (status == APR_SUCCESS) {
        status = webhook_queue_create(&webhook->queue, config, pool);
    }
    if (status == APR_SUCCESS) {
        status = apr_pool_create_unmanaged_ex(&webhook->pool, NULL, NULL);
    }
    if (status == APR_SUCCESS) {
        webhook->held = apr_hash_make(webhook->pool);
        apr_pool_cleanup_register(pool, webhook, webhook_cleanup, apr_pool_cleanup_null);
        source = config->memory ? webhook_queue_source(webhook->queue) : webhook_outbox(webhook);
        status = hooks_deliverer_create(&webhook->deliverer, &config->target, &source, pool);
    }
    if (status == APR_SUCCESS) {
        *out = webhook;
    }
    return status;
}

void service_webhook_run(service_webhook_t *webhook, int stop_fd, apr_interval_time_t grace)
{
    hooks_deliverer_run(webhook->deliverer, stop_fd, webhook->config.memory ? grace : 0);
}

void service_webhook_flush(service_webhook_t *webhook)
{
    apr_uint32_t lost = webhook_queue_lost(webhook->queue);

    if (lost > 0) {
        mdm_log(MDM_LOG_ERR, 0, "webhook %s: %u events were lost: too many wait in memory",
                webhook->config.name, lost);
    }
    if (!webhook->config.memory && webhook_queue_length(webhook->queue) > 0 &&
        webhook_batch_flush(webhook) == APR_SUCCESS) {
        hooks_deliverer_wake(webhook->deliverer);
    }
}

static int wants(const service_webhook_t *webhook, const mdm_message_t *message)
{
    return (webhook->config.topics >> message->type & 1U) != 0;
}

static int is_idle(const mdm_message_t *message)
{
    return message->type == MDM_REPORT && message->status_kind == MDM_STATUS_IDLE;
}

#define WEBHOOK(service, i) APR_ARRAY_IDX((service)->webhooks, i, service_webhook_t *)
#define WEBHOOKS(service) ((service)->webhooks != NULL ? (service)->webhooks->nelts : 0)

int webhook_stores(const service_t *service, const mdm_message_t *message)
{
    int any = 0;

    for (int i = 0; i < WEBHOOKS(service) && !is_idle(message); i++) {
        any |= wants(WEBHOOK(service, i), message) && !WEBHOOK(service, i)->config.memory;
    }
    return any;
}

apr_status_t webhook_note(store_tx_t *tx, const service_t *service, const mdm_message_t *message,
                          const char **event, apr_pool_t *pool)
{
    const mdm_enrollment_t *enrollment = &message->enrollment;
    const char *topic = hooks_event_topic(message->type, pool);
    const char *text = NULL;
    apr_status_t status = APR_SUCCESS;

    for (int i = 0; i < WEBHOOKS(service) && status == APR_SUCCESS && !is_idle(message); i++) {
        service_webhook_t *webhook = WEBHOOK(service, i);
        int tally = 0;

        if (!wants(webhook, message)) {
            continue;
        }
        if (text == NULL && message->type == MDM_TOKEN_UPDATE) {
            status = store_enrollment_load_tally(tx, enrollment->id, &tally, pool);
        }
        if (status == APR_SUCCESS && text == NULL) {
            text = hooks_event_write(message, tally, apr_time_now(), pool);
            status = text == NULL ? APR_EGENERAL : APR_SUCCESS;
        }
        if (status != APR_SUCCESS || webhook->config.memory) {
            continue;
        }
        if (store_outbox_exists(tx)) {
            status = store_outbox_add(tx, webhook->config.name, enrollment->id, topic, text);
        } else {
            webhook_outbox_missing(webhook);
        }
    }
    if (status == APR_SUCCESS && text != NULL) {
        *event = text;
    }
    return status;
}

void webhook_announce(const service_t *service, const mdm_message_t *message, const char *event,
                      apr_pool_t *pool)
{
    for (int i = 0; i < WEBHOOKS(service); i++) {
        service_webhook_t *webhook = WEBHOOK(service, i);

        if (!wants(webhook, message)) {
            continue;
        }
        if (event == NULL) {
            event = hooks_event_write(message, 0, apr_time_now(), pool);
        }
        if (event != NULL && (webhook->config.memory || is_idle(message))) {
            webhook_queue_add(webhook->queue, message->enrollment.id,
                              hooks_event_topic(message->type, pool), event);
        }
        if (webhook->config.memory || !is_idle(message)) {
            hooks_deliverer_wake(webhook->deliverer);
        }
    }
}
