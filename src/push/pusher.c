/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns the callers' side of the pusher: its making and its end, the topics with their certificates,
 * and how pushes are handed to the thread and waited for.
 */
#include "pusher.h"

#include <apr_lib.h>
#include <apr_strings.h>
#include <stdlib.h>
#include <string.h>

#include "mdm_clock.h"
#include "mdm_log.h"

#define WAITING_DEFAULT 200000

int pusher_room_to_poll(apns_t *apns, int count)
{
    struct pollfd *polls;

    if (count <= apns->polls_size) {
        return 1;
    }
    polls = realloc(apns->polls, sizeof(*polls) * (size_t)count * 2);
    if (polls == NULL) {
        return 0;
    }
    apns->polls = polls;
    apns->polls_size = count * 2;
    return 1;
}

static void free_topics(apns_t *apns)
{
    while (apns->topics != NULL) {
        topic_t *topic = apns->topics;

        apns->topics = topic->next;
        SSL_CTX_free(topic->given);
        SSL_CTX_free(topic->tls);
        free(topic);
    }
}

static apr_status_t free_apns(void *data)
{
    apns_t *apns = data;
    int running;

    desk_lock(&apns->desk);
    running = apns->running;
    desk_unlock(&apns->desk);
    if (running) {
        return APR_SUCCESS; /* its thread could not be stopped, and must find everything */
    }
    free_topics(apns);
    X509_STORE_free(apns->roots);
    lookup_destroy(apns->lookup);
    desk_destroy(&apns->desk);
    free(apns->polls);
    apr_pool_destroy(apns->pool);
    free(apns);
    return APR_SUCCESS;
}

static apr_status_t check_numbers(const apns_config_t *config, const char **why)
{
    if (config->connections < 1 || config->queue_max < 0 || config->expiration < 0) {
        *why = "there must be at least one connection to the push service";
        return MDM_EINPUT;
    }
    return APR_SUCCESS;
}

apr_status_t apns_config_check(const apns_config_t *config, const char **why, apr_pool_t *pool)
{
    endpoint_t endpoint;
    X509_STORE *roots = NULL;
    apr_status_t status = check_numbers(config, why);

    if (status == APR_SUCCESS) {
        status = endpoint_read(&endpoint, config, why, pool);
    }
    /* The system's are not worth the memory that they would leave in pieces, to be inherited by
     * each of httpd's children. */
    if (status == APR_SUCCESS && config->ca_file != NULL) {
        status = endpoint_roots(&roots, config->ca_file, why, pool);
    }
    X509_STORE_free(roots);
    return status;
}

/* @return APR_ENOMEM, or that of a system call */
static apr_status_t set_up(apns_t *apns, const apns_config_t *config)
{
    const endpoint_t *endpoint = &apns->endpoint;
    apr_status_t status =
        endpoint->proxy_host != NULL
            ? lookup_create(&apns->lookup, endpoint->proxy_host, endpoint->proxy_port)
            : lookup_create(&apns->lookup, endpoint->host, endpoint->port);

    apns->config = *config;
    apns->config.ca_file = apr_pstrdup(apns->pool, config->ca_file);
    apns->by_name = apr_hash_make(apns->pool);
    apns->unusable = apr_hash_make(apns->pool);
    if (status == APR_SUCCESS && !pusher_room_to_poll(apns, ALWAYS_POLLED)) {
        status = APR_ENOMEM;
    }
    if (status == APR_SUCCESS) {
        status =
            desk_init(&apns->desk, config->queue_max > 0 ? config->queue_max : WAITING_DEFAULT);
    }
    if (status != APR_SUCCESS) {
        free(apns->polls);
        if (apns->lookup != NULL) {
            lookup_destroy(apns->lookup);
        }
    }
    return status;
}

apr_status_t apns_create(apns_t **out, const apns_config_t *config, const char **why,
                         apr_pool_t *pool)
{
    apns_t *apns = calloc(1, sizeof(*apns));
    apr_status_t status;
    const char *fault = "there is no memory";

    if (apns == NULL || apr_pool_create_unmanaged_ex(&apns->pool, NULL, NULL) != APR_SUCCESS) {
        free(apns);
        *why = fault;
        return APR_ENOMEM;
    }
    status = check_numbers(config, &fault);
    if (status == APR_SUCCESS) {
        status = endpoint_read(&apns->endpoint, config, &fault, apns->pool);
    }
    if (status == APR_SUCCESS) {
        status = set_up(apns, config);
    }
    if (status != APR_SUCCESS) {
        *why = apr_pstrdup(pool, fault);
        apr_pool_destroy(apns->pool);
        free(apns);
        return status;
    }
    apr_pool_cleanup_register(pool, apns, free_apns, apr_pool_cleanup_null);
    *out = apns;
    return APR_SUCCESS;
}

/* With the lock. */
static topic_t *find_topic(apns_t *apns, const char *name)
{
    return apr_hash_get(apns->by_name, name, APR_HASH_KEY_STRING);
}

int apns_has_certificate(apns_t *apns, const char *name, apr_int64_t version)
{
    topic_t *topic;
    int has;

    desk_lock(&apns->desk);
    topic = find_topic(apns, name);
    has = topic != NULL && topic->version == version;
    desk_unlock(&apns->desk);
    return has;
}

/* With the lock. Topics stay: there are as many as certificates were ever given. */
static topic_t *make_topic(apns_t *apns, const char *name)
{
    size_t len = strlen(name) + 1;
    topic_t *topic = calloc(1, sizeof(*topic) + len);

    if (topic != NULL) {
        topic->apns = apns;
        topic->name = memcpy(topic + 1, name, len);
        topic->next = apns->topics;
        apns->topics = topic;
        apr_hash_set(apns->by_name, topic->name, (apr_ssize_t)len - 1, topic);
    }
    return topic;
}

/* Not before a push needs them: with the prefork MPM there may be hundreds of processes. */
static apr_status_t need_roots(apns_t *apns, const char **why, apr_pool_t *pool)
{
    apr_status_t status = APR_SUCCESS;

    desk_lock(&apns->desk);
    if (apns->roots == NULL) {
        status = endpoint_roots(&apns->roots, apns->config.ca_file, why, pool);
    }
    desk_unlock(&apns->desk);
    return status;
}

/* Once for each version: each push to the topic finds it out again. */
static void tell_unusable(apns_t *apns, const char *name, apr_int64_t version, const char *why)
{
    apr_int64_t *told;
    int is_new;

    desk_lock(&apns->desk);
    told = apr_hash_get(apns->unusable, name, APR_HASH_KEY_STRING);
    is_new = told == NULL || *told != version;
    if (told == NULL) {
        told = apr_palloc(apns->pool, sizeof(*told));
        apr_hash_set(apns->unusable, apr_pstrdup(apns->pool, name), APR_HASH_KEY_STRING, told);
    }
    *told = version;
    desk_unlock(&apns->desk);
    if (is_new) {
        mdm_log(MDM_LOG_ERR, 0, "push %s: the certificate cannot be used: %s", name, why);
    }
}

apr_status_t apns_set_certificate(apns_t *apns, const char *name, apr_int64_t version,
                                  const char *cert_pem, const char *key_pem, const char **why,
                                  apr_pool_t *pool)
{
    SSL_CTX *given;
    topic_t *topic;
    apr_status_t status;

    if (apns_has_certificate(apns, name, version)) {
        return APR_SUCCESS;
    }
    status = need_roots(apns, why, pool);
    if (status == APR_SUCCESS) {
        status = tls_context_make(&given, cert_pem, key_pem, apns->roots, why, pool);
    }
    if (status != APR_SUCCESS) {
        tell_unusable(apns, name, version, *why);
        return status;
    }
    desk_lock(&apns->desk);
    topic = find_topic(apns, name);
    if (topic == NULL) {
        topic = make_topic(apns, name);
    }
    if (topic != NULL) {
        SSL_CTX *unused = topic->given;

        topic->given = given;
        topic->version = version;
        given = unused;
        desk_wake(&apns->desk);
    } else {
        *why = "there is no memory";
        status = APR_ENOMEM;
    }
    desk_unlock(&apns->desk);
    SSL_CTX_free(given);
    return status;
}

static const char *fault_of(const apns_push_t *push)
{
    apr_size_t len = 0;

    while (apr_isxdigit(push->token[len])) {
        len++;
    }
    if (push->token[len] != '\0' || len == 0 || len % 2 != 0 || len > CALL_TOKEN_MAX) {
        return "the token is not one in hexadecimal digits";
    }
    return strlen(push->magic) > SESSION_MAGIC_MAX ? "the push magic is too long" : NULL;
}

/* Give the push a job in the call, or its result at once. */
static apr_status_t add_push(apns_t *apns, call_t *call, int index, topic_t **last)
{
    apns_push_t *push = &call->pushes[index];
    const char *fault = fault_of(push);

    push->code = 0;
    push->apns_id[0] = push->reason[0] = '\0';
    push->timestamp = 0;
    if (fault != NULL) {
        push->status = MDM_EINPUT;
        apr_cpystrn(push->reason, fault, sizeof(push->reason));
        return APR_SUCCESS;
    }
    if (*last == NULL || strcmp((*last)->name, push->topic) != 0) {
        desk_lock(&apns->desk);
        *last = find_topic(apns, push->topic);
        desk_unlock(&apns->desk);
    }
    if (*last == NULL) {
        push->status = MDM_ENOTCONFIGURED;
        apr_cpystrn(push->reason, "there is no push certificate for the topic",
                    sizeof(push->reason));
        return APR_SUCCESS;
    }
    push->status = APR_EINPROGRESS;
    return call_add(call, index, *last);
}

/* For those without a result. */
static void end_pushes(apns_t *apns, apns_push_t *pushes, int count, apr_status_t status,
                       const char *reason)
{
    for (int i = 0; i < count; i++) {
        topic_t *topic = NULL;

        if (pushes[i].status != APR_EINPROGRESS) {
            continue;
        }
        pushes[i].status = status;
        desk_lock(&apns->desk);
        if (status == APR_TIMEUP) {
            topic = find_topic(apns, pushes[i].topic);
        }
        apr_cpystrn(pushes[i].reason, topic != NULL && *topic->trouble ? topic->trouble : reason,
                    sizeof(pushes[i].reason));
        desk_unlock(&apns->desk);
    }
}

apr_status_t apns_send(apns_t *apns, apns_push_t *pushes, int count, apr_interval_time_t timeout)
{
    call_t *call = call_make(pushes, count, mdm_clock() + timeout);
    topic_t *last = NULL;
    apr_status_t status = call != NULL ? APR_SUCCESS : APR_ENOMEM;

    for (int i = 0; i < count && status == APR_SUCCESS; i++) {
        status = add_push(apns, call, i, &last);
    }
    if (status != APR_SUCCESS) {
        if (call != NULL) {
            call_free(call);
        }
        return status;
    }
    status = call_wait(&apns->desk, call);
    if (status == MDM_EUNAVAILABLE) {
        end_pushes(apns, pushes, count, status, "the server is stopping");
    } else if (APR_STATUS_IS_EAGAIN(status)) {
        end_pushes(apns, pushes, count, status, "too many pushes wait");
    } else {
        end_pushes(apns, pushes, count, APR_TIMEUP, "no answer in time");
    }
    return status;
}
