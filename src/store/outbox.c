/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Webhook events that wait for their delivery, as rows, and the leases by which one node at a time
 * has those of an enrollment.
 *
 * A device's transaction only inserts an event. Deliverers read without locks, delete, postpone and
 * split by primary key, and take leases in a table of their own: a device never waits for them.
 * Times are milliseconds of the database's clock. An event that is due and whose enrollment another
 * node has, or has to wait, is postponed, so that the next search does not meet it again. Batches
 * have no id, and a time that is never found to be due.
 */
#include <apr_strings.h>
#include <stdlib.h>
#include <string.h>

#include "dbd.h"

static const char *number(apr_int64_t n, apr_pool_t *pool)
{
    return apr_psprintf(pool, "%" APR_INT64_T_FMT, n);
}

static const char *msec(apr_interval_time_t time, apr_pool_t *pool)
{
    return number(apr_time_as_msec(time), pool);
}

int store_outbox_exists(store_tx_t *tx)
{
    return dbd_has(tx, STMT_OUTBOX_ADD);
}

static apr_status_t exists_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    (void)pool;
    *(int *)baton = store_outbox_exists(tx);
    return APR_SUCCESS;
}

int store_has_webhooks(store_t *store, apr_pool_t *pool)
{
    int exists = 1;

    return store_read(store, exists_work, &exists, pool) != APR_SUCCESS || exists;
}

apr_status_t store_outbox_add(store_tx_t *tx, const char *webhook, const char *id,
                              const char *topic, const char *event)
{
    return dbd_exec(tx, STMT_OUTBOX_ADD, DBD_ARGS(webhook, id, topic, event), NULL);
}

apr_status_t store_enrollment_load_tally(store_tx_t *tx, const char *id, int *tally,
                                         apr_pool_t *pool)
{
    const char *value = NULL;
    apr_status_t status = dbd_load(tx, STMT_ENROLLMENT_LOAD_TALLY, DBD_ARGS(id), 1, &value, pool);

    if (status == APR_SUCCESS) {
        *tally = value != NULL ? atoi(value) : 0;
    }
    return status;
}

apr_status_t store_outbox_due(store_tx_t *tx, const char *webhook, apr_array_header_t *rows,
                              apr_pool_t *pool)
{
    return dbd_has(tx, STMT_OUTBOX_DUE)
               ? dbd_load_rows(tx, STMT_OUTBOX_DUE, DBD_ARGS(webhook), rows, pool)
               : APR_SUCCESS;
}

apr_status_t store_outbox_add_batch(store_tx_t *tx, const char *webhook, const char *topic,
                                    const char *events)
{
    return dbd_exec(tx, STMT_OUTBOX_ADD_BATCH, DBD_ARGS(webhook, topic, events), NULL);
}

apr_status_t store_outbox_batch(store_tx_t *tx, const char *webhook, const char *after,
                                const char **seq, apr_pool_t *pool)
{
    return dbd_has(tx, STMT_OUTBOX_BATCH)
               ? dbd_load(tx, STMT_OUTBOX_BATCH, DBD_ARGS(webhook, after), 1, seq, pool)
               : APR_ENOENT;
}

apr_status_t store_outbox_split(store_tx_t *tx, const char *seq, const apr_array_header_t *events)
{
    int affected = 0;
    apr_status_t status = dbd_exec(tx, STMT_OUTBOX_DELETE, DBD_ARGS(seq), &affected);

    if (status != APR_SUCCESS) {
        return status;
    }
    return affected > 0 ? dbd_insert(tx, STMT_OUTBOX_ADD, events) : APR_ENOENT;
}

apr_status_t store_outbox_lease(store_tx_t *tx, const char *webhook, const char *id,
                                const char *owner, apr_interval_time_t length,
                                apr_interval_time_t busy, apr_interval_time_t *left,
                                apr_pool_t *pool)
{
    const char *row[2] = {NULL, NULL};
    int affected = 0;
    apr_status_t status =
        dbd_exec(tx, STMT_LEASE_CLAIM, DBD_ARGS(webhook, id, owner, msec(length, pool)), &affected);

    *left = 0;
    if (status != APR_SUCCESS || affected > 0) {
        return status;
    }
    *left = busy;
    status = dbd_load(tx, STMT_LEASE_LOAD, DBD_ARGS(webhook, id), 2, row, pool);
    if (status == APR_SUCCESS && row[0] != NULL && row[1] != NULL && *row[0] == '-') {
        *left = apr_time_from_msec(apr_atoi64(row[1])); /* nobody has it: it has to wait */
    }
    if (*left <= 0) { /* its time has come just now, or somebody has it whom a snapshot hides */
        *left = busy;
    }
    return status == APR_ENOENT ? APR_SUCCESS : status;
}

apr_status_t store_outbox_renew(store_tx_t *tx, const char *webhook, const char *id,
                                const char *owner, apr_interval_time_t length, apr_pool_t *pool)
{
    int affected = 0;
    apr_status_t status =
        dbd_exec(tx, STMT_LEASE_RENEW, DBD_ARGS(msec(length, pool), webhook, id, owner), &affected);

    return status == APR_SUCCESS && affected == 0 ? APR_ENOENT : status;
}

apr_status_t store_outbox_release(store_tx_t *tx, const char *webhook, const char *id,
                                  const char *owner)
{
    return dbd_exec(tx, STMT_LEASE_RELEASE, DBD_ARGS(webhook, id, owner), NULL);
}

apr_status_t store_outbox_return(store_tx_t *tx, const char *webhook, const char *id,
                                 const char *owner)
{
    apr_status_t status = dbd_exec(tx, STMT_LEASE_RETURN, DBD_ARGS(webhook, id, owner), NULL);

    return status == APR_SUCCESS ? store_outbox_release(tx, webhook, id, owner) : status;
}

apr_status_t store_outbox_load_failures(store_tx_t *tx, const char *webhook, const char *id,
                                        const char *owner, int *failures,
                                        apr_interval_time_t *since, apr_pool_t *pool)
{
    const char *row[2] = {NULL, NULL};
    apr_status_t status =
        dbd_load(tx, STMT_LEASE_LOAD_FAILURES, DBD_ARGS(webhook, id, owner), 2, row, pool);

    if (status == APR_SUCCESS) {
        *failures = row[0] != NULL ? atoi(row[0]) : 0;
        *since = *failures > 0 && row[1] != NULL ? apr_time_from_msec(apr_atoi64(row[1])) : 0;
    }
    return status;
}

apr_status_t store_outbox_wait(store_tx_t *tx, const char *webhook, const char *id,
                               const char *owner, int failures, apr_interval_time_t since,
                               apr_interval_time_t delay, apr_pool_t *pool)
{
    int affected = 0;
    apr_status_t status = dbd_exec(
        tx, STMT_LEASE_WAIT,
        DBD_ARGS(msec(delay, pool), number(failures, pool), msec(since, pool), webhook, id, owner),
        &affected);

    return status == APR_SUCCESS && affected == 0 ? APR_ENOENT : status;
}

apr_status_t store_outbox_run(store_tx_t *tx, const char *webhook, const char *id,
                              apr_array_header_t *seqs, apr_pool_t *pool)
{
    return dbd_load_rows(tx, STMT_OUTBOX_RUN, DBD_ARGS(webhook, id), seqs, pool);
}

apr_status_t store_outbox_after(store_tx_t *tx, const char *webhook, const char *id,
                                const char *after, const char **seq, apr_pool_t *pool)
{
    return dbd_load(tx, STMT_OUTBOX_AFTER, DBD_ARGS(webhook, id, after), 1, seq, pool);
}

apr_status_t store_outbox_load(store_tx_t *tx, const char *seq, const char **event,
                               apr_pool_t *pool)
{
    return dbd_load_text(tx, STMT_OUTBOX_LOAD, seq, 1, event, pool);
}

apr_status_t store_outbox_delete(store_tx_t *tx, const char *seq)
{
    return dbd_exec(tx, STMT_OUTBOX_DELETE, DBD_ARGS(seq), NULL);
}

apr_status_t store_outbox_hurry(store_tx_t *tx, const char *seq)
{
    return dbd_exec(tx, STMT_OUTBOX_HURRY, DBD_ARGS(seq), NULL);
}

apr_status_t store_outbox_postpone(store_tx_t *tx, const char *seq, apr_interval_time_t delay,
                                   apr_pool_t *pool)
{
    return dbd_exec(tx, STMT_OUTBOX_POSTPONE, DBD_ARGS(msec(delay, pool), seq), NULL);
}

apr_status_t store_outbox_bury(store_tx_t *tx, const char *seq, const char *error, apr_pool_t *pool)
{
    return dbd_exec(tx, STMT_OUTBOX_BURY, DBD_ARGS(apr_pstrndup(pool, error, 255), seq), NULL);
}
