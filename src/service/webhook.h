/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Webhook events: made by messages, kept in the database or in memory. Private to src/service. */
#ifndef SERVICE_WEBHOOK_PRIVATE_H
#define SERVICE_WEBHOOK_PRIVATE_H

#include "service.h"
#include "service_webhook.h"

typedef struct webhook_queue_t webhook_queue_t;

struct service_webhook_t {
    service_webhook_config_t config;
    store_t *store;
    webhook_queue_t *queue; /* in memory: all events, or those of idle devices for the database */
    hooks_deliverer_t *deliverer;
    apr_pool_t *pool;  /* of the deliverer's thread */
    char owner[33];    /* of leases */
    apr_hash_t *held;  /* by enrollment id: hooks_run_t, whose leases we have */
    int vain;          /* batches split that brought nothing to send, since something arrived */
    apr_uint32_t told; /* that the tables are missing: for mdm_log_due() */
    /* of webhook_batch.c, with times of mdm_clock(): */
    apr_uint32_t flushed; /* something was stored since the last look */
    char batch[24];       /* the last one that was split, or could not be; the next is behind it */
    apr_time_t split_at;  /* when the last one was split, */
    apr_time_t failed_at; /* when the last one that could not be was tried, */
    apr_time_t looked_at; /* and when there was none; 0: there may be one */
};

/** Whether a message of this type has to be stored as an event. */
int webhook_stores(const service_t *service, const mdm_message_t *message);
/** Store a message as an event, in its transaction, where that is wanted.
 * @param event  the event, for webhook_announce(); left alone if nobody wants it */
apr_status_t webhook_note(store_tx_t *tx, const service_t *service, const mdm_message_t *message,
                          const char **event, apr_pool_t *pool);
/** After the commit: have the event delivered. NULL if there was none to store. */
void webhook_announce(const service_t *service, const mdm_message_t *message, const char *event,
                      apr_pool_t *pool);

/** When to try again, after so many failures. */
apr_interval_time_t webhook_backoff(int failures);

/* webhook_outbox.c: events in the database. */
hooks_source_t webhook_outbox(service_webhook_t *webhook);
/** Say, once a minute, that events are lost because the tables are missing. */
void webhook_outbox_missing(service_webhook_t *webhook);

/* webhook_batch.c: events from memory to the database, many in one row. */
/** Store what is in memory. What the database refuses, although it takes others, is still there,
 * too, for a minute; then it is lost, which is logged.
 * @return MDM_EUNAVAILABLE: what could not be stored is still there */
apr_status_t webhook_batch_flush(service_webhook_t *webhook);
/** Replace a batch, if there is one, by its events, each a row that is due.
 * @param seldom  there is no need: only if the last time was long ago
 * @return whether more may be due now; what fails is logged and tried again later */
int webhook_batch_split(service_webhook_t *webhook, int seldom, apr_pool_t *pool);

/* webhook_queue.c: events in memory. */
apr_status_t webhook_queue_create(webhook_queue_t **out, const service_webhook_config_t *config,
                                  apr_pool_t *pool);
/** Append a copy. If there is no room it is lost, which is counted. */
void webhook_queue_add(webhook_queue_t *queue, const char *id, const char *topic,
                       const char *event);
hooks_source_t webhook_queue_source(webhook_queue_t *queue);
/** So many were lost since the last call. */
apr_uint32_t webhook_queue_lost(webhook_queue_t *queue);
int webhook_queue_length(webhook_queue_t *queue);

typedef struct webhook_entry_t {
    struct webhook_entry_t *next;
    const char *id;
    const char *topic;
    const char *event;
    apr_size_t size;
    int held; /* a run has it */
    int failures;
    apr_time_t since; /* when it first failed, or 0, by mdm_clock() */
    apr_time_t due;   /* likewise */
} webhook_entry_t;

/** Take at most so many, and so many bytes, from the front, but at least one if there is any; those
 * that have failed, each alone. To be freed or put back. */
webhook_entry_t *webhook_queue_take(webhook_queue_t *queue, int max, apr_size_t max_size);
void webhook_queue_put_back(webhook_queue_t *queue, webhook_entry_t *first);
void webhook_queue_free(webhook_entry_t *first);

#endif
