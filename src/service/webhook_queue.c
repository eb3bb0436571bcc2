/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Events in memory: a list with a bound, in the order of their coming. An event is not handed out
 * while one before it is of the same enrollment. */
#include <apr_hash.h>
#include <apr_strings.h>
#include <apr_thread_mutex.h>
#include <stdlib.h>
#include <string.h>

#include "mdm_clock.h"
#include "mdm_log.h"
#include "webhook.h"

#define COUNT_MAX 100000
#define SIZE_MAX_BYTES ((apr_size_t)64 * 1024 * 1024)
#define SEARCH_MAX 10000

struct webhook_queue_t {
    const service_webhook_config_t *config;
    apr_thread_mutex_t *mutex;
    webhook_entry_t *first;
    webhook_entry_t **end;
    int count;
    apr_size_t size;
    apr_uint32_t lost;
};

static apr_status_t queue_cleanup(void *data)
{
    webhook_queue_t *queue = data;

    webhook_queue_free(queue->first);
    return APR_SUCCESS;
}

apr_status_t webhook_queue_create(webhook_queue_t **out, const service_webhook_config_t *config,
                                  apr_pool_t *pool)
{
    webhook_queue_t *queue = apr_pcalloc(pool, sizeof(*queue));
    apr_status_t status = apr_thread_mutex_create(&queue->mutex, APR_THREAD_MUTEX_DEFAULT, pool);

    queue->config = apr_pmemdup(pool, config, sizeof(*config));
    queue->end = &queue->first;
    if (status == APR_SUCCESS) {
        apr_pool_cleanup_register(pool, queue, queue_cleanup, apr_pool_cleanup_null);
        *out = queue;
    }
    return status;
}

/* One block of memory, which outlives requests and pools. */
static webhook_entry_t *make_entry(const char *id, const char *topic, const char *event)
{
    apr_size_t id_len = strlen(id) + 1;
    apr_size_t topic_len = strlen(topic) + 1;
    apr_size_t event_len = strlen(event) + 1;
    apr_size_t size = sizeof(webhook_entry_t) + id_len + topic_len + event_len;
    webhook_entry_t *entry = calloc(1, size);
    char *text;

    if (entry == NULL) {
        return NULL;
    }
    text = (char *)(entry + 1);
    entry->size = size;
    entry->id = memcpy(text, id, id_len);
    entry->topic = memcpy(text + id_len, topic, topic_len);
    entry->event = memcpy(text + id_len + topic_len, event, event_len);
    return entry;
}

void webhook_queue_add(webhook_queue_t *queue, const char *id, const char *topic, const char *event)
{
    webhook_entry_t *entry = make_entry(id, topic, event);

    apr_thread_mutex_lock(queue->mutex);
    if (entry == NULL || queue->count >= COUNT_MAX || queue->size + entry->size > SIZE_MAX_BYTES) {
        queue->lost++;
        free(entry);
    } else {
        *queue->end = entry;
        queue->end = &entry->next;
        queue->count++;
        queue->size += entry->size;
    }
    apr_thread_mutex_unlock(queue->mutex);
}

apr_uint32_t webhook_queue_lost(webhook_queue_t *queue)
{
    apr_uint32_t lost;

    apr_thread_mutex_lock(queue->mutex);
    lost = queue->lost;
    queue->lost = 0;
    apr_thread_mutex_unlock(queue->mutex);
    return lost;
}

int webhook_queue_length(webhook_queue_t *queue)
{
    int count;

    apr_thread_mutex_lock(queue->mutex);
    count = queue->count;
    apr_thread_mutex_unlock(queue->mutex);
    return count;
}

/* -- As a buffer for the database --------------------------------------------------------- */

webhook_entry_t *webhook_queue_take(webhook_queue_t *queue, int max, apr_size_t max_size)
{
    webhook_entry_t *first;
    webhook_entry_t **link;
    apr_size_t size = 0;

    apr_thread_mutex_lock(queue->mutex);
    first = queue->first;
    for (link = &queue->first; *link != NULL && max > 0; link = &(*link)->next, max--) {
        size += (*link)->size;
        if (*link != first && (size > max_size || first->since != 0 || (*link)->since != 0)) {
            break;
        }
        queue->count--;
        queue->size -= (*link)->size;
    }
    queue->first = *link;
    *link = NULL;
    if (queue->first == NULL) {
        queue->end = &queue->first;
    }
    apr_thread_mutex_unlock(queue->mutex);
    return first;
}

void webhook_queue_put_back(webhook_queue_t *queue, webhook_entry_t *first)
{
    webhook_entry_t *last = first;
    int count = 1;
    apr_size_t size = first->size;

    for (; last->next != NULL; last = last->next) {
        count++;
        size += last->next->size;
    }
    apr_thread_mutex_lock(queue->mutex);
    last->next = queue->first;
    if (queue->first == NULL) {
        queue->end = &last->next;
    }
    queue->first = first;
    queue->count += count;
    queue->size += size;
    apr_thread_mutex_unlock(queue->mutex);
}

void webhook_queue_free(webhook_entry_t *first)
{
    while (first != NULL) {
        webhook_entry_t *next = first->next;

        free(first);
        first = next;
    }
}

/* -- As a source -------------------------------------------------------------------------- */

static apr_status_t add_run(apr_array_header_t *runs, webhook_entry_t *entry)
{
    hooks_run_t *run;
    apr_pool_t *pool;
    apr_status_t status = apr_pool_create_unmanaged_ex(&pool, NULL, NULL);

    if (status != APR_SUCCESS) {
        return status;
    }
    run = apr_pcalloc(pool, sizeof(*run));
    run->pool = pool;
    run->id = entry->id;
    run->events = entry;
    run->count = 1;
    entry->held = 1;
    APR_ARRAY_PUSH(runs, hooks_run_t *) = run;
    return APR_SUCCESS;
}

static apr_status_t claim(void *baton, int max, int down, apr_array_header_t *runs,
                          apr_time_t *again)
{
    webhook_queue_t *queue = baton;
    apr_time_t now = mdm_clock();
    apr_status_t status = APR_SUCCESS;
    int searched = 0;
    apr_pool_t *pool;
    apr_hash_t *seen;

    (void)down;
    (void)again; /* nobody else has any */
    apr_pool_create_unmanaged_ex(&pool, NULL, NULL);
    seen = apr_hash_make(pool);
    apr_thread_mutex_lock(queue->mutex);
    for (webhook_entry_t *entry = queue->first;
         entry != NULL && runs->nelts < max && searched < SEARCH_MAX && status == APR_SUCCESS;
         entry = entry->next, searched++) {
        if (apr_hash_get(seen, entry->id, APR_HASH_KEY_STRING) == NULL) {
            apr_hash_set(seen, entry->id, APR_HASH_KEY_STRING, entry);
            if (!entry->held && entry->due <= now) {
                status = add_run(runs, entry);
            }
        }
    }
    apr_thread_mutex_unlock(queue->mutex);
    apr_pool_destroy(pool);
    return runs->nelts > 0 ? APR_SUCCESS : status;
}

static apr_status_t load(void *baton, hooks_run_t *run, const char **event, apr_pool_t *pool)
{
    (void)baton;
    (void)pool;
    *event = ((const webhook_entry_t *)run->events)->event;
    return APR_SUCCESS;
}

/* With the mutex held. */
static void drop(webhook_queue_t *queue, webhook_entry_t *entry)
{
    webhook_entry_t **link = &queue->first;

    while (*link != entry) {
        link = &(*link)->next;
    }
    *link = entry->next;
    if (entry->next == NULL) {
        queue->end = link;
    }
    queue->count--;
    queue->size -= entry->size;
    free(entry);
}

/* With the mutex held. */
static void note_failure(webhook_queue_t *queue, webhook_entry_t *entry, const char *error,
                         int hopeless, apr_time_t *again)
{
    apr_time_t now = mdm_clock();

    entry->since = entry->failures == 0 ? now : entry->since;
    if (hopeless || (queue->config->retry > 0 && entry->failures > 0 &&
                     now - entry->since >= queue->config->retry)) {
        mdm_log(MDM_LOG_ERR, 0, "webhook %s: an event of enrollment \"%s\" is given up: %s",
                queue->config->name, entry->id, error);
        drop(queue, entry);
        return;
    }
    entry->due = now + webhook_backoff(++entry->failures);
    if (*again == 0 || entry->due < *again) {
        *again = entry->due;
    }
}

static apr_status_t settle(void *baton, const apr_array_header_t *runs, apr_time_t *again,
                           apr_pool_t *pool)
{
    webhook_queue_t *queue = baton;

    (void)pool;
    apr_thread_mutex_lock(queue->mutex);
    for (int i = 0; i < runs->nelts; i++) {
        const hooks_run_t *run = APR_ARRAY_IDX(runs, i, hooks_run_t *);
        webhook_entry_t *entry = run->events;

        entry->held = 0;
        if (run->done > 0) {
            drop(queue, entry);
        } else if (run->error != NULL) {
            note_failure(queue, entry, run->error, run->hopeless, again);
        }
    }
    apr_thread_mutex_unlock(queue->mutex);
    return APR_SUCCESS;
}

hooks_source_t webhook_queue_source(webhook_queue_t *queue)
{
    hooks_source_t source = {claim, load, settle, queue};

    return source;
}
