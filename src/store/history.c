/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Deleting history, in batches that are read first, outside of a transaction, and then deleted by
 * their keys: so that no writer waits for a search.
 *
 * A place in the queue goes in the same transaction as its result, since one without a result would
 * be served again. A command that many have is not locked while any of them still has it: their
 * reports would queue up behind the lock.
 */
#include <apr_strings.h>
#include <apr_time.h>
#include <stdlib.h>
#include <string.h>

#include "dbd.h"

typedef struct sweep_t {
    const char *age;           /* in seconds */
    const char *after;         /* cleared commands: of the enrollments behind this one */
    apr_array_header_t *ids;   /* those, in their order */
    apr_array_header_t *pairs; /* rows of an enrollment's id and a command's UUID */
    int locked;                /* by this node */
    int deleted;
} sweep_t;

static apr_status_t find_finished(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    sweep_t *sweep = baton;

    sweep->pairs = apr_array_make(pool, 200, 2 * sizeof(const char *));
    return dbd_load_rows(tx, STMT_HISTORY_FINISHED, DBD_ARGS(sweep->age), sweep->pairs, pool);
}

/* No index leads to these: so a few enrollments at a time, each with all of its queue. */
static apr_status_t find_cleared(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    sweep_t *sweep = baton;
    apr_status_t status;

    sweep->pairs = apr_array_make(pool, 200, 2 * sizeof(const char *));
    sweep->ids = apr_array_make(pool, 32, sizeof(const char *));
    status = dbd_load_rows(tx, STMT_HISTORY_ENROLLMENTS, DBD_ARGS(sweep->after), sweep->ids, pool);
    if (status == APR_SUCCESS && sweep->ids->nelts > 0) {
        status = dbd_list(tx, STMT_HISTORY_CLEARED, sweep->age, sweep->ids, sweep->pairs, pool);
    }
    return status;
}

/* Whether this node may sweep, until unlock() or the end of the transaction. */
static apr_status_t lock(store_tx_t *tx, int *locked, apr_pool_t *pool)
{
    const char *answer = "1";
    apr_status_t status = APR_SUCCESS;

    if (dbd_has(tx, STMT_HISTORY_LOCK)) {
        status = dbd_load(tx, STMT_HISTORY_LOCK, NULL, 1, &answer, pool);
    }
    *locked = answer != NULL && *answer == '1';
    return status;
}

static apr_status_t unlock(store_tx_t *tx)
{
    return dbd_has(tx, STMT_HISTORY_UNLOCK) ? dbd_load(tx, STMT_HISTORY_UNLOCK, NULL, 0, NULL, NULL)
                                            : APR_SUCCESS;
}

static apr_status_t delete_pair(store_tx_t *tx, sweep_t *sweep, const char *id, const char *uuid)
{
    int affected = 0;
    apr_status_t status =
        dbd_exec(tx, STMT_HISTORY_QUEUE_DELETE, DBD_ARGS(sweep->age, id, uuid), &affected);

    if (status == APR_SUCCESS) {
        sweep->deleted += affected;
        affected = 0;
        status =
            dbd_exec(tx, STMT_HISTORY_RESULT_DELETE, DBD_ARGS(sweep->age, id, uuid), &affected);
        sweep->deleted += affected;
    }
    return status;
}

static apr_status_t delete_unused(store_tx_t *tx, const sweep_t *sweep, const char *uuid)
{
    apr_status_t status =
        dbd_load(tx, STMT_HISTORY_COMMAND_UNUSED, DBD_ARGS(sweep->age, uuid), 0, NULL, NULL);

    if (status == APR_ENOENT) {
        return APR_SUCCESS;
    }
    if (status == APR_SUCCESS && dbd_has(tx, STMT_HISTORY_COMMAND_LOCK)) {
        status = dbd_load(tx, STMT_HISTORY_COMMAND_LOCK, DBD_ARGS(uuid), 0, NULL, NULL);
    }
    if (status == APR_SUCCESS || status == APR_ENOENT) {
        status = dbd_exec(tx, STMT_HISTORY_COMMAND_DELETE, DBD_ARGS(uuid), NULL);
    }
    return status;
}

static apr_status_t delete_all(store_tx_t *tx, sweep_t *sweep, apr_pool_t *pool)
{
    const apr_array_header_t *pairs = sweep->pairs;
    apr_array_header_t *uuids = apr_array_make(pool, pairs->nelts, sizeof(const char *));
    apr_status_t status = APR_SUCCESS;

    for (int i = 0; status == APR_SUCCESS && i < pairs->nelts; i++) {
        const char *const *pair = DBD_ROW(pairs, i);

        status = delete_pair(tx, sweep, pair[0], pair[1]);
        APR_ARRAY_PUSH(uuids, const char *) = pair[1];
    }
    store_sort_ids(uuids);
    for (int i = 0; status == APR_SUCCESS && i < uuids->nelts; i++) {
        const char *uuid = APR_ARRAY_IDX(uuids, i, const char *);

        if (i == 0 || strcmp(uuid, APR_ARRAY_IDX(uuids, i - 1, const char *)) != 0) {
            status = delete_unused(tx, sweep, uuid);
        }
    }
    return status;
}

static apr_status_t delete_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    sweep_t *sweep = baton;
    apr_status_t status = lock(tx, &sweep->locked, pool);
    apr_status_t unlocked;

    sweep->deleted = 0;
    if (status != APR_SUCCESS || !sweep->locked) {
        return status;
    }
    status = delete_all(tx, sweep, pool);
    unlocked = unlock(tx); /* also after a deadlock, which the connection survives */
    return status == APR_SUCCESS ? unlocked : status;
}

static apr_status_t sweep_found(store_t *store, sweep_t *sweep, store_work_t *find, int *deleted,
                                apr_pool_t *pool)
{
    apr_status_t status = store_read(store, find, sweep, pool);

    if (status == APR_SUCCESS && sweep->pairs->nelts > 0) {
        status = store_write(store, delete_work, sweep, pool);
    }
    if (status == APR_SUCCESS) {
        *deleted = sweep->deleted;
    }
    return status;
}

static const char *seconds(apr_interval_time_t age, apr_pool_t *pool)
{
    return apr_psprintf(pool, "%" APR_TIME_T_FMT, apr_time_sec(age));
}

apr_status_t store_history_finished(store_t *store, apr_interval_time_t age, int *deleted,
                                    apr_pool_t *pool)
{
    sweep_t sweep = {.age = seconds(age, pool)};

    return sweep_found(store, &sweep, find_finished, deleted, pool);
}

apr_status_t store_history_cleared(store_t *store, apr_interval_time_t age, const char *after,
                                   const char **last, int *deleted, apr_pool_t *pool)
{
    sweep_t sweep = {.age = seconds(age, pool), .after = after};
    apr_status_t status = sweep_found(store, &sweep, find_cleared, deleted, pool);
    int stays;

    if (status != APR_SUCCESS) {
        return status;
    }
    if (sweep.ids->nelts == 0) {
        return APR_ENOENT;
    }
    /* What did not fit into one batch, or another node's turn, comes with the next. */
    stays = sweep.pairs->nelts > 0 && (sweep.deleted > 0 || !sweep.locked);
    *last = stays ? after : APR_ARRAY_IDX(sweep.ids, sweep.ids->nelts - 1, const char *);
    return APR_SUCCESS;
}

static apr_status_t index_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    apr_array_header_t *rows = apr_array_make(pool, 1, sizeof(const char *));
    const char *sql =
        apr_psprintf(pool, dbd_dialect(tx)->index_missing, "command_results", "updated_at,");
    apr_status_t status = dbd_select(tx, dbd_sql(tx, sql, pool), rows, pool);

    (void)baton;
    return status == APR_SUCCESS && rows->nelts > 0 ? MDM_ESCHEMA : status;
}

apr_status_t store_history_check(store_t *store, apr_pool_t *pool)
{
    return store_read(store, index_work, NULL, pool);
}
