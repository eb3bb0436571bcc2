/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Pushing to enrollments: where to and with which certificate, from the database; what the push
 * service says about each token, back into it. The database is read before and written after, never
 * held while the network is waited for.
 */
#include <apr_strings.h>
#include <string.h>

#include "results.h"

/* Dead tokens noted in one transaction: others want to write, too. */
#define DEAD_BATCH 256

typedef struct push_work_t {
    const service_t *service;
    apr_pool_t *pool;
    apr_hash_t *index; /* id -> service_result_t */
    apr_array_header_t *ids;
    apr_array_header_t *rows;    /* store_push_t */
    apr_hash_t *topics;          /* topic -> why it cannot be pushed to, or "" */
    apr_array_header_t *pushes;  /* apns_push_t */
    apr_array_header_t *targets; /* store_push_t *, one per push */
} push_work_t;

static apr_status_t load_rows(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    push_work_t *work = baton;

    return store_push_load(tx, work->ids, &work->rows, pool);
}

/* -- Certificates ------------------------------------------------------------------------- */

typedef struct certificate_t {
    const char *topic;
    store_push_cert_t cert;
} certificate_t;

static apr_status_t load_certificate(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    certificate_t *work = baton;

    return store_push_cert_load(tx, work->topic, &work->cert, pool);
}

/* Sets *error to "" once the pusher has the topic's certificate as the database has it, else to
 * what is wrong with it. */
static apr_status_t use_certificate(push_work_t *work, const store_push_t *row, const char **error)
{
    apns_t *apns = work->service->apns;
    certificate_t load = {.topic = row->topic};
    const char *why = "";
    apr_status_t status;

    *error = "";
    if (row->stale != NULL && apns_has_certificate(apns, row->topic, apr_atoi64(row->stale))) {
        return APR_SUCCESS;
    }
    status = store_read(work->service->store, load_certificate, &load, work->pool);
    if (status == APR_ENOENT) {
        *error = apr_psprintf(work->pool, "no push certificate for topic %s", row->topic);
        return APR_SUCCESS;
    }
    if (status != APR_SUCCESS) {
        return status;
    }
    status = apns_set_certificate(apns, row->topic, load.cert.version, load.cert.cert_pem,
                                  load.cert.key_pem, &why, work->pool);
    if (status != APR_SUCCESS) {
        *error = apr_psprintf(work->pool, "the push certificate cannot be used: %s", why);
    }
    return APR_SUCCESS;
}

static apr_status_t topic_error(push_work_t *work, const store_push_t *row, const char **error)
{
    apr_status_t status = APR_SUCCESS;

    *error = apr_hash_get(work->topics, row->topic, APR_HASH_KEY_STRING);
    if (*error == NULL) {
        status = use_certificate(work, row, error);
        if (status == APR_SUCCESS) {
            apr_hash_set(work->topics, row->topic, APR_HASH_KEY_STRING, *error);
        }
    }
    return status;
}

/* -- Before and after --------------------------------------------------------------------- */

/* Ids that are not among the rows keep the error that they have. */
static apr_status_t prepare(push_work_t *work)
{
    for (int i = 0; i < work->rows->nelts; i++) {
        store_push_t *row = &APR_ARRAY_IDX(work->rows, i, store_push_t);
        service_result_t *result = apr_hash_get(work->index, row->id, APR_HASH_KEY_STRING);
        const char *error;
        apr_status_t status;

        if (result == NULL) {
            continue; /* a database that ignores case found another id than was asked for */
        }
        status = topic_error(work, row, &error);
        if (status != APR_SUCCESS) {
            return status;
        }
        if (row->dead != NULL) {
            error = apr_psprintf(work->pool,
                                 "the push service gave up this token (%s): not pushed to until "
                                 "the next TokenUpdate",
                                 row->dead);
        }
        result->push_error = *error != '\0' ? error : NULL;
        if (*error == '\0') {
            apns_push_t *push = apr_array_push(work->pushes);

            push->topic = row->topic;
            push->token = row->token;
            push->magic = row->magic;
            APR_ARRAY_PUSH(work->targets, store_push_t *) = row;
        }
    }
    return APR_SUCCESS;
}

static const char *describe(const apns_push_t *push, apr_pool_t *pool)
{
    if (push->status == MDM_EREFUSED) {
        return apr_psprintf(pool, "%d %s", push->code, push->reason);
    }
    return *push->reason != '\0' ? apr_pstrdup(pool, push->reason) : "the push failed";
}

/* Whether the answer says that no push will ever reach this token. All others are about the
 * certificate, the request or the service. */
static int is_dead(const apns_push_t *push)
{
    if (push->status != MDM_EREFUSED) {
        return 0;
    }
    return strcmp(push->reason, "BadDeviceToken") == 0 ||
           strcmp(push->reason, "ExpiredToken") == 0 ||
           (push->code == 410 && strcmp(push->reason, "Unregistered") == 0 && push->timestamp > 0);
}

typedef struct dead_t {
    const store_push_t *target;
    const apns_push_t *push;
} dead_t;

typedef struct dead_batch_t {
    const dead_t *dead;
    int count;
} dead_batch_t;

static apr_status_t note_batch(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    const dead_batch_t *batch = baton;
    apr_status_t status = APR_SUCCESS;

    for (int i = 0; status == APR_SUCCESS && i < batch->count; i++) {
        const store_push_t *target = batch->dead[i].target;
        const apns_push_t *push = batch->dead[i].push;
        int unregistered = strcmp(push->reason, "Unregistered") == 0;

        status = store_push_dead(tx, target->id, target->token, describe(push, pool),
                                 unregistered ? push->timestamp : 0, pool);
    }
    return status;
}

static int compare_dead(const void *a, const void *b)
{
    return strcmp(((const dead_t *)a)->target->id, ((const dead_t *)b)->target->id);
}

/* What cannot be noted is logged by the store, and found out again by the next push. */
static void note_dead(push_work_t *work, apr_array_header_t *dead)
{
    qsort(dead->elts, (size_t)dead->nelts, sizeof(dead_t), compare_dead);
    for (int done = 0; done < dead->nelts; done += DEAD_BATCH) {
        int left = dead->nelts - done;
        dead_batch_t batch = {&APR_ARRAY_IDX(dead, done, dead_t),
                              left < DEAD_BATCH ? left : DEAD_BATCH};

        if (store_write(work->service->store, note_batch, &batch, work->pool) != APR_SUCCESS) {
            return;
        }
    }
}

static void take_answers(push_work_t *work)
{
    apr_array_header_t *dead = apr_array_make(work->pool, 8, sizeof(dead_t));

    for (int i = 0; i < work->pushes->nelts; i++) {
        const apns_push_t *push = &APR_ARRAY_IDX(work->pushes, i, apns_push_t);
        const store_push_t *target = APR_ARRAY_IDX(work->targets, i, store_push_t *);
        service_result_t *result = apr_hash_get(work->index, target->id, APR_HASH_KEY_STRING);

        if (push->status != APR_SUCCESS) {
            result->push_error = describe(push, work->pool);
        } else if (*push->apns_id != '\0') {
            result->push_result = push->apns_id;
        }
        if (is_dead(push)) {
            APR_ARRAY_PUSH(dead, dead_t) = (dead_t){target, push};
        }
    }
    note_dead(work, dead);
}

static const char *not_taken(apr_status_t status)
{
    if (APR_STATUS_IS_EAGAIN(status)) {
        return "too many pushes wait to be sent: try again later";
    }
    return APR_STATUS_IS_ENOMEM(status) ? "there is no memory for the pushes: try again later"
                                        : "the server is stopping: try again later";
}

apr_status_t service_push(const service_t *service, apr_array_header_t *results, const char **why,
                          apr_pool_t *pool)
{
    push_work_t work = {.service = service, .pool = pool, .topics = apr_hash_make(pool)};
    apr_status_t status;

    if (service->apns == NULL) {
        *why = "pushes cannot be sent: the error log says why";
        return MDM_EUNAVAILABLE;
    }
    work.ids = results_ids(results, &work.index, pool);
    for (int i = 0; i < results->nelts; i++) {
        service_result_t *result = &APR_ARRAY_IDX(results, i, service_result_t);

        result->push_error = result->command_error == NULL ? "push data missing for id" : NULL;
    }
    *why = "the database is not available";
    status = store_read(service->store, load_rows, &work, pool);
    if (status != APR_SUCCESS) {
        return status;
    }
    work.pushes = apr_array_make(pool, work.rows->nelts + 1, sizeof(apns_push_t));
    work.targets = apr_array_make(pool, work.rows->nelts + 1, sizeof(store_push_t *));
    status = prepare(&work);
    if (status == APR_SUCCESS && work.pushes->nelts > 0) {
        status = apns_send(service->apns, (apns_push_t *)(void *)work.pushes->elts,
                           work.pushes->nelts, service->push_timeout);
        *why = not_taken(status);
    }
    if (status == APR_SUCCESS) {
        take_answers(&work);
    }
    return status;
}
