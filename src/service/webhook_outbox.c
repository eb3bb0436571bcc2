/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Events in the database, as a source for the deliverer: leases on enrollments, so that one node at
 * a time delivers each one's events; if that node dies, another has them once the lease is over.
 *
 * So that transactions do not block each other, each goes through enrollments in the order of their
 * ids, and locks the lease of one, by changing it or trying to, before it changes its events. That
 * which splits a batch locks its row and nothing else that others know.
 */
#include <apr_hash.h>
#include <apr_strings.h>
#include <stdlib.h>
#include <string.h>

#include "mdm_clock.h"
#include "mdm_log.h"
#include "webhook.h"

/* Longer than an event may take; an event is only begun with so much of it left. */
#define LEASE_TIME apr_time_from_sec(120)
#define LEASE_LEFT apr_time_from_sec(45)

typedef struct outbox_run_t {
    apr_array_header_t *seqs; /* const char * */
    int postponed;            /* events that came later, too */
    int unread;               /* the next one could not be loaded */
    int buried;               /* the event that failed */
} outbox_run_t;

void webhook_outbox_missing(service_webhook_t *webhook)
{
    if (mdm_log_due(&webhook->told)) {
        mdm_log(MDM_LOG_ERR, 0,
                "webhook %s: events are lost, since the database lacks the table "
                "mdm_webhook_outbox: run \"nanomdm-schema upgrade\"",
                webhook->config.name);
    }
}

/* -- Claiming ----------------------------------------------------------------------------- */

/* How long the events of an enrollment that another node has are left alone: it may be done at any
 * time. If they stand before others', for longer: all of them are written anew each time. */
#define BUSY_DELAY apr_time_from_sec(1)
#define ROOM_DELAY apr_time_from_sec(10)

/* So many batches may be split in vain until something arrives, others only seldom: a process may
 * not have seen itself that the receiver refuses. */
#define VAIN_MAX 8

/* When an event that the database did not give is tried again. */
#define UNREAD_DELAY apr_time_from_sec(5)

typedef struct claim_t {
    service_webhook_t *webhook;
    int max;
    apr_array_header_t *due; /* store_due_t */
    apr_array_header_t *ids; /* those to try, and those that are here and stand before others' */
    int fresh;               /* so many of them are to be tried */
    int more;                /* there are, or may be, others behind them */
    apr_array_header_t *runs;
    apr_time_t begun;          /* no lease is from before */
    apr_interval_time_t again; /* 0: others have none */
} claim_t;

static apr_status_t find_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    claim_t *c = baton;

    c->due = apr_array_make(pool, STORE_OUTBOX_DUE_MAX, sizeof(store_due_t));
    return store_outbox_due(tx, c->webhook->config.name, c->due, pool);
}

/* Whether there may be more behind those that were found. */
static int is_full(const claim_t *c)
{
    return c->due->nelts == STORE_OUTBOX_DUE_MAX;
}

static const hooks_run_t *get_held(const claim_t *c, const char *id)
{
    return apr_hash_get(c->webhook->held, id, APR_HASH_KEY_STRING);
}

/* The first ones that are not here already, each once. Where there may be more behind, those that
 * are here must not stand before them. In the order that everybody has who locks leases. */
static void choose_ids(claim_t *c, apr_pool_t *pool)
{
    apr_hash_t *seen = apr_hash_make(pool);

    c->fresh = 0;
    c->more = is_full(c);
    c->ids = apr_array_make(pool, c->max, sizeof(const char *));
    for (int i = 0; i < c->due->nelts; i++) {
        const char *id = APR_ARRAY_IDX(c->due, i, store_due_t).id;
        const hooks_run_t *held = get_held(c, id);

        if (apr_hash_get(seen, id, APR_HASH_KEY_STRING) != NULL || (held != NULL && !is_full(c))) {
            continue;
        }
        if (held == NULL && c->fresh == c->max) {
            c->more = 1;
            break;
        }
        apr_hash_set(seen, id, APR_HASH_KEY_STRING, id);
        APR_ARRAY_PUSH(c->ids, const char *) = id;
        if (held != NULL) {
            ((outbox_run_t *)held->events)->postponed = 1;
        } else {
            c->fresh++;
        }
    }
    store_sort_ids(c->ids);
}

static apr_status_t postpone(store_tx_t *tx, claim_t *c, const char *id, apr_interval_time_t delay,
                             apr_pool_t *pool)
{
    apr_status_t status = APR_SUCCESS;

    if (c->again == 0 || delay < c->again) {
        c->again = delay;
    }
    for (int i = 0; i < c->due->nelts && status == APR_SUCCESS; i++) {
        const store_due_t *due = &APR_ARRAY_IDX(c->due, i, store_due_t);

        if (strcmp(due->id, id) == 0) {
            status = store_outbox_postpone(tx, due->seq, delay, pool);
        }
    }
    return status;
}

static apr_status_t add_run(store_tx_t *tx, claim_t *c, const char *id)
{
    const service_webhook_t *webhook = c->webhook;
    apr_pool_t *pool;
    hooks_run_t *run;
    outbox_run_t *events;
    apr_status_t status = apr_pool_create_unmanaged_ex(&pool, NULL, NULL);

    if (status != APR_SUCCESS) {
        return status;
    }
    run = apr_pcalloc(pool, sizeof(*run));
    run->events = events = apr_pcalloc(pool, sizeof(*events));
    events->seqs = apr_array_make(pool, 4, sizeof(const char *));
    run->pool = pool;
    run->id = apr_pstrdup(pool, id);
    run->until = c->begun + LEASE_TIME;
    status = store_outbox_run(tx, webhook->config.name, id, events->seqs, pool);
    run->count = events->seqs->nelts;
    if (status == APR_SUCCESS && run->count == 0) {
        status = store_outbox_release(tx, webhook->config.name, id, webhook->owner);
    }
    if (status == APR_SUCCESS && run->count > 0) {
        APR_ARRAY_PUSH(c->runs, hooks_run_t *) = run;
    } else {
        apr_pool_destroy(pool);
    }
    return status;
}

static void drop_runs(apr_array_header_t *runs)
{
    for (int i = 0; i < runs->nelts; i++) {
        apr_pool_destroy(APR_ARRAY_IDX(runs, i, hooks_run_t *)->pool);
    }
    apr_array_clear(runs);
}

static apr_status_t claim_id(store_tx_t *tx, claim_t *c, const char *id, apr_pool_t *pool)
{
    const service_webhook_t *webhook = c->webhook;
    apr_interval_time_t left;
    apr_status_t status =
        store_outbox_lease(tx, webhook->config.name, id, webhook->owner, LEASE_TIME,
                           is_full(c) ? ROOM_DELAY : BUSY_DELAY, &left, pool);

    if (status != APR_SUCCESS) {
        return status;
    }
    return left > 0 ? postpone(tx, c, id, left, pool) : add_run(tx, c, id);
}

/* Until our lease ends; settling has them come sooner. */
static apr_status_t make_room(store_tx_t *tx, claim_t *c, const char *id, apr_pool_t *pool)
{
    const service_webhook_t *webhook = c->webhook;
    apr_status_t status =
        store_outbox_renew(tx, webhook->config.name, id, webhook->owner, LEASE_TIME, pool);

    if (status != APR_SUCCESS) {
        return status == APR_ENOENT ? APR_SUCCESS : status; /* it has gone to another node */
    }
    return postpone(tx, c, id, LEASE_TIME, pool);
}

static apr_status_t claim_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    claim_t *c = baton;
    apr_status_t status = APR_SUCCESS;

    drop_runs(c->runs); /* of an attempt before this one */
    c->begun = mdm_clock();
    c->again = 0;
    for (int i = 0; i < c->ids->nelts && status == APR_SUCCESS; i++) {
        const char *id = APR_ARRAY_IDX(c->ids, i, const char *);

        status = get_held(c, id) != NULL ? make_room(tx, c, id, pool) : claim_id(tx, c, id, pool);
    }
    if (c->again != 0 && c->more) {
        c->again = 1; /* there are others behind those that were postponed: at once */
    }
    return status;
}

static apr_status_t find(claim_t *c, apr_pool_t *pool)
{
    apr_status_t status = store_read(c->webhook->store, find_work, c, pool);

    if (status == APR_SUCCESS) {
        choose_ids(c, pool);
    }
    return status;
}

static apr_status_t lease(claim_t *c, apr_pool_t *pool)
{
    apr_status_t status = store_write(c->webhook->store, claim_work, c, pool);

    if (status != APR_SUCCESS) {
        drop_runs(c->runs);
    }
    for (int i = 0; i < c->runs->nelts; i++) {
        const hooks_run_t *run = APR_ARRAY_IDX(c->runs, i, hooks_run_t *);

        apr_hash_set(c->webhook->held, run->id, APR_HASH_KEY_STRING, run);
    }
    return status;
}

/* Where too little is due, a batch is split to have more, and then the next one at once. There is
 * no need if the receiver is down; nor if some in a row were split in vain, since all of their
 * events wait, most likely because the receiver refuses them. */
static apr_status_t claim_with(claim_t *c, int down, apr_pool_t *pool)
{
    service_webhook_t *webhook = c->webhook;
    apr_status_t status = find(c, pool);
    int found = c->fresh;
    int enough = down || webhook->vain >= VAIN_MAX || found == c->max;
    int split = 0;

    if (status == APR_SUCCESS) {
        split = webhook_batch_split(webhook, enough, pool);
        status = split ? find(c, pool) : status;
    }
    if (status == APR_SUCCESS && c->ids->nelts > 0) {
        status = lease(c, pool);
    }
    if (split && !enough && status == APR_SUCCESS) {
        webhook->vain += c->runs->nelts <= found;
        c->again = 1;
    }
    return status;
}

static apr_status_t claim(void *baton, int max, int down, apr_array_header_t *runs,
                          apr_time_t *again)
{
    claim_t c = {.webhook = baton, .max = max, .runs = runs};
    apr_pool_t *pool;
    apr_status_t status = apr_pool_create_unmanaged_ex(&pool, NULL, NULL);

    if (status == APR_SUCCESS) {
        status = claim_with(&c, down, pool);
        apr_pool_destroy(pool);
    }
    if (c.again != 0) {
        *again = mdm_clock() + c.again;
    }
    return status;
}

/* -- Loading ------------------------------------------------------------------------------ */

typedef struct load_t {
    service_webhook_t *webhook;
    hooks_run_t *run;
    const char *event;
} load_t;

static apr_status_t renew_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    const load_t *l = baton;

    return store_outbox_renew(tx, l->webhook->config.name, l->run->id, l->webhook->owner,
                              LEASE_TIME, pool);
}

static apr_status_t renew(load_t *l, apr_pool_t *pool)
{
    apr_time_t until = mdm_clock() + LEASE_TIME;
    apr_status_t status;

    if (l->run->until - mdm_clock() >= LEASE_LEFT) {
        return APR_SUCCESS;
    }
    status = store_write(l->webhook->store, renew_work, l, pool);
    if (status == APR_SUCCESS) {
        l->run->until = until;
    }
    return status;
}

static apr_status_t load_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    load_t *l = baton;
    const outbox_run_t *events = l->run->events;

    return store_outbox_load(tx, APR_ARRAY_IDX(events->seqs, l->run->done, const char *), &l->event,
                             pool);
}

static apr_status_t load(void *baton, hooks_run_t *run, const char **event, apr_pool_t *pool)
{
    load_t l = {baton, run, NULL};
    apr_status_t status = renew(&l, pool);

    if (status == APR_ENOENT) {
        return status;
    }
    while (status == APR_SUCCESS && l.event == NULL && run->done < run->count) {
        status = store_read(l.webhook->store, load_work, &l, pool);
        if (status == APR_ENOENT) {
            run->done++; /* somebody has deleted it */
            status = APR_SUCCESS;
        }
    }
    if (status != APR_SUCCESS) {
        ((outbox_run_t *)run->events)->unread = 1;
        return status;
    }
    *event = l.event;
    return l.event != NULL ? APR_SUCCESS : APR_ENOENT;
}

/* -- Settling ----------------------------------------------------------------------------- */

typedef struct settle_t {
    service_webhook_t *webhook;
    const apr_array_header_t *runs;
    apr_interval_time_t again; /* 0: nothing failed */
} settle_t;

#define SEQ(run, i) APR_ARRAY_IDX(((const outbox_run_t *)(run)->events)->seqs, i, const char *)

static apr_status_t let_wait(store_tx_t *tx, settle_t *s, const hooks_run_t *run, int failures,
                             apr_interval_time_t since, apr_interval_time_t delay, apr_pool_t *pool)
{
    int end = run->count - run->done > STORE_OUTBOX_DUE_MAX ? run->done + STORE_OUTBOX_DUE_MAX
                                                            : run->count;
    apr_status_t status = store_outbox_wait(tx, s->webhook->config.name, run->id, s->webhook->owner,
                                            failures, since, delay, pool);

    /* Claims postpone what comes to them of the rest. */
    for (int i = run->done; i < end && status == APR_SUCCESS; i++) {
        status = store_outbox_postpone(tx, SEQ(run, i), delay, pool);
    }
    if (s->again == 0 || delay < s->again) {
        s->again = delay;
    }
    return status;
}

static apr_status_t bury(store_tx_t *tx, const settle_t *s, const hooks_run_t *run,
                         apr_pool_t *pool)
{
    apr_status_t status =
        store_outbox_release(tx, s->webhook->config.name, run->id, s->webhook->owner);

    ((outbox_run_t *)run->events)->buried = 1;
    return status == APR_SUCCESS ? store_outbox_bury(tx, SEQ(run, run->done), run->error, pool)
                                 : status;
}

/* @return APR_ENOENT: its events are another node's by now */
static apr_status_t note_failure(store_tx_t *tx, settle_t *s, const hooks_run_t *run,
                                 apr_pool_t *pool)
{
    const service_webhook_config_t *config = &s->webhook->config;
    apr_interval_time_t since = 0;
    int failures = 0;
    apr_status_t status = store_outbox_load_failures(tx, config->name, run->id, s->webhook->owner,
                                                     &failures, &since, pool);

    if (status != APR_SUCCESS) {
        return status;
    }
    if (run->done > 0) { /* those were of an event that has arrived */
        failures = 0;
        since = 0;
    }
    if (((const outbox_run_t *)run->events)->unread) {
        return let_wait(tx, s, run, failures, since, UNREAD_DELAY, pool);
    }
    if (run->hopeless || (config->retry > 0 && failures > 0 && since >= config->retry)) {
        return bury(tx, s, run, pool);
    }
    return let_wait(tx, s, run, failures + 1, since, webhook_backoff(failures + 1), pool);
}

/* Events behind the run may have been postponed because of it: now the first one is due. */
static apr_status_t hurry_rest(store_tx_t *tx, const settle_t *s, const hooks_run_t *run, int next,
                               apr_pool_t *pool)
{
    const char *seq;
    apr_status_t status;

    if (next < run->count) {
        return store_outbox_hurry(tx, SEQ(run, next));
    }
    if (!((const outbox_run_t *)run->events)->postponed && run->count < STORE_OUTBOX_RUN_MAX) {
        return APR_SUCCESS;
    }
    status = store_outbox_after(tx, s->webhook->config.name, run->id, SEQ(run, run->count - 1),
                                &seq, pool);
    if (status != APR_SUCCESS) {
        return status == APR_ENOENT ? APR_SUCCESS : status;
    }
    return store_outbox_hurry(tx, seq);
}

/* The lease, and what comes after the events that have arrived. */
static apr_status_t end_run(store_tx_t *tx, settle_t *s, const hooks_run_t *run, apr_pool_t *pool)
{
    const char *name = s->webhook->config.name;
    outbox_run_t *events = run->events;
    apr_status_t status;

    events->buried = 0;
    if (run->error != NULL || events->unread) {
        status = note_failure(tx, s, run, pool);
        if (status != APR_SUCCESS || !events->buried) {
            return status == APR_ENOENT ? APR_SUCCESS : status;
        }
    } else if (run->done == 0) {
        status = store_outbox_return(tx, name, run->id, s->webhook->owner);
    } else {
        status = store_outbox_release(tx, name, run->id, s->webhook->owner);
    }
    return status == APR_SUCCESS ? hurry_rest(tx, s, run, run->done + events->buried, pool)
                                 : status;
}

static int compare_runs(const void *a, const void *b)
{
    return strcmp((*(hooks_run_t *const *)a)->id, (*(hooks_run_t *const *)b)->id);
}

static apr_status_t settle_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    settle_t *s = baton;
    apr_array_header_t *runs = apr_array_copy(pool, s->runs);
    apr_status_t status = APR_SUCCESS;

    s->again = 0;
    qsort(runs->elts, (size_t)runs->nelts, sizeof(hooks_run_t *), compare_runs);
    for (int i = 0; i < runs->nelts && status == APR_SUCCESS; i++) {
        const hooks_run_t *run = APR_ARRAY_IDX(runs, i, hooks_run_t *);

        status = end_run(tx, s, run, pool);
        for (int k = 0; k < run->done && status == APR_SUCCESS; k++) {
            status = store_outbox_delete(tx, SEQ(run, k));
        }
    }
    return status;
}

static apr_status_t settle(void *baton, const apr_array_header_t *runs, apr_time_t *again,
                           apr_pool_t *pool)
{
    settle_t s = {baton, runs, 0};
    apr_status_t status = store_write(s.webhook->store, settle_work, &s, pool);

    if (status != APR_SUCCESS) {
        return status;
    }
    for (int i = 0; i < runs->nelts; i++) {
        const hooks_run_t *run = APR_ARRAY_IDX(runs, i, hooks_run_t *);

        apr_hash_set(s.webhook->held, run->id, APR_HASH_KEY_STRING, NULL);
        if (run->done > 0) {
            s.webhook->vain = 0;
        }
        if (((const outbox_run_t *)run->events)->buried) {
            mdm_log(MDM_LOG_ERR, 0,
                    "webhook %s: event %s of enrollment \"%s\" is given up and stays in "
                    "mdm_webhook_outbox: %s",
                    s.webhook->config.name, SEQ(run, run->done), run->id, run->error);
        }
    }
    if (s.again != 0) {
        *again = mdm_clock() + s.again;
    }
    return APR_SUCCESS;
}

hooks_source_t webhook_outbox(service_webhook_t *webhook)
{
    hooks_source_t source = {claim, load, settle, webhook};

    return source;
}
