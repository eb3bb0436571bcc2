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
    statement_t select;
    const char *age;           /* in seconds */
    apr_array_header_t *pairs; /* rows of an enrollment's id and a command's UUID */
    int deleted;
} sweep_t;

static apr_status_t find_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    sweep_t *sweep = baton;

    sweep->pairs = apr_array_make(pool, 200, 2 * sizeof(const char *));
    return dbd_load_rows(tx, sweep->select, DBD_ARGS(sweep->age), sweep->pairs, pool);
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

    sweep->deleted += affected;
    if (status == APR_SUCCESS) {
        status =
            dbd_exec(tx, STMT_HISTORY_RESULT_DELETE, DBD_ARGS(sweep->age, id, uuid), &affected);
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
    int locked = 0;
    apr_status_t status = lock(tx, &locked, pool);
    apr_status_t unlocked;

    sweep->deleted = 0;
    if (status != APR_SUCCESS || !locked) {
        return status;
    }
    status = delete_all(tx, sweep, pool);
    unlocked = unlock(tx); /* also after a deadlock, which the connection survives */
    return status == APR_SUCCESS ? unlocked : status;
}

apr_status_t store_history_sweep(store_t *store, store_history_t what, apr_interval_time_t age,
                                 int *deleted, apr_pool_t *pool)
{
    sweep_t sweep = {what == STORE_HISTORY_FINISHED ? STMT_HISTORY_FINISHED : STMT_HISTORY_CLEARED,
                     apr_psprintf(pool, "%" APR_TIME_T_FMT, apr_time_sec(age)), NULL, 0};
    apr_status_t status = store_read(store, find_work, &sweep, pool);

    if (status == APR_SUCCESS && sweep.pairs->nelts > 0) {
        status = store_write(store, delete_work, &sweep, pool);
    }
    if (status == APR_SUCCESS) {
        *deleted = sweep.deleted;
    }
    return status;
}
