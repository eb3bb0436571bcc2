/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Events of Idle reports on their way from memory to the outbox: many in one row, which costs the
 * database little more than a single one. When too little else is due they are split into rows of
 * their own, which the deliverer knows how to handle; otherwise, and with a receiver that is down
 * or refuses what is in them, that is seldom.
 *
 * A batch is text: netstrings, by turns the id of an enrollment and its event.
 */
#include <apr_atomic.h>
#include <apr_lib.h>
#include <apr_strings.h>
#include <string.h>

#include "mdm_clock.h"
#include "mdm_log.h"
#include "webhook.h"

/* What a batch holds at most: enough to be cheap, not so much that splitting it holds others up. */
#define BATCH_MAX 64
#define BATCH_SIZE_MAX ((apr_size_t)256 * 1024)

/* More is no batch of ours. */
#define PARSE_MAX 1024
#define PARSE_SIZE_MAX (4 * BATCH_SIZE_MAX)

/* How long one that the database refuses is tried again. */
#define REFUSAL_TIME apr_time_from_sec(60)

/* How long none is split after one could not be. */
#define FAILURE_DELAY apr_time_from_sec(5)
/* How often one is split though there is no need: what is due, or was in the last ones, may be of
 * enrollments whose events the receiver refuses. */
#define SELDOM_DELAY apr_time_from_sec(10)
/* How often to look for those that other processes have left behind: each time that the deliverer
 * does. */
#define LOOK_INTERVAL apr_time_from_sec(3)

/* -- Storing ------------------------------------------------------------------------------ */

static void add_netstring(apr_array_header_t *parts, const char *text)
{
    APR_ARRAY_PUSH(parts, const char *) =
        apr_psprintf(parts->pool, "%" APR_SIZE_T_FMT ":", strlen(text));
    APR_ARRAY_PUSH(parts, const char *) = text;
    APR_ARRAY_PUSH(parts, const char *) = ",";
}

static const char *join(const webhook_entry_t *first, apr_pool_t *pool)
{
    apr_array_header_t *parts = apr_array_make(pool, BATCH_MAX * 6, sizeof(const char *));

    for (const webhook_entry_t *entry = first; entry != NULL; entry = entry->next) {
        add_netstring(parts, entry->id);
        add_netstring(parts, entry->event);
    }
    return apr_array_pstrcat(pool, parts, 0);
}

typedef struct flush_t {
    service_webhook_t *webhook;
    const webhook_entry_t *first;
    int refused; /* it was not the commit that failed, nor the way to the database */
} flush_t;

/* All of them are Idle reports, and have the topic in common. */
static apr_status_t flush_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    flush_t *flush = baton;
    const webhook_entry_t *first = flush->first;
    const char *name = flush->webhook->config.name;
    apr_status_t status;

    flush->refused = 0;
    if (!store_outbox_exists(tx)) {
        webhook_outbox_missing(flush->webhook);
        return APR_SUCCESS;
    }
    status = first->next == NULL
                 ? store_outbox_add(tx, name, first->id, first->topic, first->event)
                 : store_outbox_add_batch(tx, name, first->topic, join(first, pool));
    flush->refused = status != APR_SUCCESS;
    return status;
}

/* Stores an event that can hardly be refused, and takes it back. */
static apr_status_t probe_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    const service_webhook_t *webhook = baton;
    apr_status_t status = store_outbox_add(tx, webhook->config.name, "probe", "probe", "probe");

    (void)pool;
    return status == APR_SUCCESS ? APR_ENOENT : status;
}

/* @return MDM_EINPUT: the database refuses this, but takes others; MDM_EUNAVAILABLE: it is the
 * database that is at fault */
static apr_status_t store_entries(service_webhook_t *webhook, const webhook_entry_t *first,
                                  apr_pool_t *pool)
{
    flush_t flush = {webhook, first, 0};
    apr_status_t status = store_write(webhook->store, flush_work, &flush, pool);

    if (status != APR_SUCCESS) {
        status =
            flush.refused && store_write(webhook->store, probe_work, webhook, pool) == APR_ENOENT
                ? MDM_EINPUT
                : MDM_EUNAVAILABLE;
    }
    apr_pool_clear(pool);
    return status;
}

/* An event that was refused is tried again: the database may have been busy, or short of room. One
 * that it never takes is lost in the end.
 * @param refused  the last link of those to be tried later */
static void note_refused(const service_webhook_t *webhook, webhook_entry_t *entry,
                         webhook_entry_t ***refused)
{
    apr_time_t now = mdm_clock();

    if (entry->since == 0) {
        entry->since = now;
    }
    if (now - entry->since < REFUSAL_TIME) {
        **refused = entry;
        *refused = &entry->next;
        return;
    }
    mdm_log(MDM_LOG_ERR, 0,
            "webhook %s: an event of enrollment \"%s\" is lost, since the database does not take "
            "it; the warnings before this say why",
            webhook->config.name, entry->id);
    webhook_queue_free(entry);
}

/* The events that a database that is at fault did not take; its time is not theirs. */
static void put_back(service_webhook_t *webhook, webhook_entry_t *first)
{
    first->since = 0;
    webhook_queue_put_back(webhook->queue, first);
}

/* The events of a batch that was refused, one by one. */
static apr_status_t store_singly(service_webhook_t *webhook, webhook_entry_t *first,
                                 webhook_entry_t ***refused, apr_pool_t *pool)
{
    while (first != NULL) {
        webhook_entry_t *entry = first;
        webhook_entry_t *next = entry->next;
        apr_status_t status;

        entry->next = NULL;
        status = store_entries(webhook, entry, pool);
        if (status == MDM_EUNAVAILABLE) {
            entry->next = next;
            put_back(webhook, entry);
            return status;
        }
        if (status == MDM_EINPUT) {
            note_refused(webhook, entry, refused);
        } else {
            webhook_queue_free(entry);
        }
        first = next;
    }
    return APR_SUCCESS;
}

apr_status_t webhook_batch_flush(service_webhook_t *webhook)
{
    apr_status_t status = APR_SUCCESS;
    webhook_entry_t *first;
    webhook_entry_t *refused = NULL;
    webhook_entry_t **end = &refused;
    apr_pool_t *pool;

    apr_pool_create_unmanaged_ex(&pool, NULL, NULL);
    while (status == APR_SUCCESS &&
           (first = webhook_queue_take(webhook->queue, BATCH_MAX, BATCH_SIZE_MAX)) != NULL) {
        status = store_entries(webhook, first, pool);
        if (status == APR_SUCCESS) {
            webhook_queue_free(first);
        } else if (status != MDM_EINPUT) {
            put_back(webhook, first);
        } else if (first->next != NULL) {
            status = store_singly(webhook, first, &end, pool);
        } else {
            note_refused(webhook, first, &end);
            status = APR_SUCCESS;
        }
        if (status == APR_SUCCESS) {
            apr_atomic_set32(&webhook->flushed, 1);
        }
    }
    if (refused != NULL) {
        webhook_queue_put_back(webhook->queue, refused);
    }
    apr_pool_destroy(pool);
    return status;
}

/* -- Splitting ---------------------------------------------------------------------------- */

/* Cuts the first netstring out of a text that ends there, in place; NULL if there is none. */
static const char *take_netstring(char **text, const char *end)
{
    char *start = *text;
    apr_int64_t len = apr_isdigit(*start) ? apr_strtoi64(start, &start, 10) : -1;

    if (len < 0 || *start++ != ':' || len >= end - start || start[len] != ',') {
        return NULL;
    }
    start[len] = '\0';
    *text = start + len + 1;
    return start;
}

/* The events (store_event_t) of a batch; NULL if it is damaged. */
static apr_array_header_t *parse(const service_webhook_t *webhook, const char *text,
                                 apr_pool_t *pool)
{
    apr_array_header_t *events = apr_array_make(pool, BATCH_MAX, sizeof(store_event_t));
    const char *topic = hooks_event_topic(MDM_REPORT, pool);
    char *left = apr_pstrdup(pool, text);
    const char *end = left + strlen(left);

    while (left < end) {
        const char *id = take_netstring(&left, end);
        const char *event = id != NULL ? take_netstring(&left, end) : NULL;
        const store_event_t e = {webhook->config.name, id, topic, event};

        if (event == NULL || !mdm_id_valid(id) || events->nelts == PARSE_MAX) {
            return NULL;
        }
        APR_ARRAY_PUSH(events, store_event_t) = e;
    }
    return events->nelts > 0 ? events : NULL;
}

typedef struct split_t {
    const service_webhook_t *webhook;
    const char *seq;    /* NULL: there is no batch */
    const char *damage; /* why it cannot be split */
} split_t;

static apr_status_t find_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    split_t *s = baton;
    const service_webhook_t *webhook = s->webhook;
    apr_status_t status;

    s->seq = NULL;
    status = store_outbox_batch(tx, webhook->config.name, webhook->batch, &s->seq, pool);
    if (status == APR_ENOENT && strcmp(webhook->batch, "0") != 0) {
        status = store_outbox_batch(tx, webhook->config.name, "0", &s->seq, pool);
    }
    return status == APR_ENOENT ? APR_SUCCESS : status;
}

static apr_status_t split_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    split_t *s = baton;
    const char *text = NULL;
    apr_array_header_t *events = NULL;
    apr_status_t status = store_outbox_load(tx, s->seq, &text, pool);

    s->damage = NULL;
    if (status != APR_SUCCESS) {
        return status;
    }
    if (text != NULL && strlen(text) <= PARSE_SIZE_MAX) {
        events = parse(s->webhook, text, pool);
    }
    if (events == NULL) {
        s->damage = "the stored events are damaged";
        return store_outbox_bury(tx, s->seq, s->damage, pool);
    }
    return store_outbox_split(tx, s->seq, events);
}

static apr_status_t split(service_webhook_t *webhook, const char *seq, apr_pool_t *pool)
{
    split_t s = {webhook, seq, NULL};
    apr_status_t status = store_write(webhook->store, split_work, &s, pool);

    if (status == APR_SUCCESS && s.damage != NULL) {
        mdm_log(MDM_LOG_ERR, 0,
                "webhook %s: Idle events are given up and stay in mdm_webhook_outbox as number "
                "%s: %s",
                webhook->config.name, seq, s.damage);
    }
    if (status != APR_SUCCESS && status != APR_ENOENT) {
        mdm_log(MDM_LOG_WARNING, 0,
                "webhook %s: Idle events, number %s in mdm_webhook_outbox, were perhaps not taken "
                "out of their row and will be tried again; the warnings before this say why",
                webhook->config.name, seq);
        return status;
    }
    return APR_SUCCESS; /* or another process was faster */
}

/* Whether it is time to look for a batch. */
static int is_time(service_webhook_t *webhook, int seldom, apr_time_t now)
{
    if (now - webhook->failed_at < FAILURE_DELAY ||
        (seldom && now - webhook->split_at < SELDOM_DELAY)) {
        return 0;
    }
    return apr_atomic_xchg32(&webhook->flushed, 0) || now - webhook->looked_at >= LOOK_INTERVAL;
}

int webhook_batch_split(service_webhook_t *webhook, int seldom, apr_pool_t *pool)
{
    split_t next = {webhook, NULL, NULL};
    apr_time_t now = mdm_clock();
    apr_status_t status;

    if (!is_time(webhook, seldom, now)) {
        return 0;
    }
    status = store_read(webhook->store, find_work, &next, pool);
    if (status == APR_SUCCESS && next.seq == NULL) {
        webhook->looked_at = now;
        return 0;
    }
    webhook->looked_at = 0; /* there may be more */
    if (status == APR_SUCCESS) {
        apr_cpystrn(webhook->batch, next.seq, sizeof(webhook->batch));
        status = split(webhook, next.seq, pool);
    }
    *(status == APR_SUCCESS ? &webhook->split_at : &webhook->failed_at) = now;
    return status == APR_SUCCESS;
}
