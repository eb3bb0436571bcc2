/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The stored check-in messages, read device by device: for sending them to another server. */
#include <apr_strings.h>

#include "dbd.h"
#include "store_copy.h"

#define DEVICES_PAGE 500

/* What is asked for, and the rows of the answer. */
typedef struct asking_t {
    const char *id;
    const char *after;
    int all;
    apr_array_header_t *rows;
} asking_t;

/* The condition that a column is behind a value. */
static const char *behind(store_tx_t *tx, const char *column, const char *value, apr_pool_t *pool)
{
    return value == NULL ? "1 = 1"
                         : apr_pstrcat(pool, column, " > ", dbd_quote(tx, value, pool), NULL);
}

static apr_status_t devices_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    asking_t *asking = baton;
    const char *p = dbd_prefix(tx);
    const char *sql =
        apr_psprintf(pool,
                     "SELECT d.id, CASE WHEN e.enabled = TRUE THEN 1 ELSE 0 END FROM %sdevices AS d"
                     " LEFT JOIN %senrollments AS e ON e.id = d.id WHERE %s ORDER BY d.id LIMIT %d",
                     p, p, behind(tx, "d.id", asking->after, pool), DEVICES_PAGE);

    asking->rows = apr_array_make(pool, DEVICES_PAGE, 2 * sizeof(const char *));
    return dbd_select(tx, sql, asking->rows, pool);
}

apr_status_t store_replay_devices(store_t *store, const char *after, apr_array_header_t **ids,
                                  apr_array_header_t **enabled, apr_pool_t *pool)
{
    asking_t asking = {.after = after};
    apr_status_t status = store_read(store, devices_work, &asking, pool);

    if (status != APR_SUCCESS) {
        return status;
    }
    *ids = apr_array_make(pool, DEVICES_PAGE, sizeof(const char *));
    *enabled = apr_array_make(pool, DEVICES_PAGE, sizeof(int));
    for (int i = 0; i < asking.rows->nelts; i++) {
        store_row_t row = DBD_ROW(asking.rows, i);

        APR_ARRAY_PUSH(*ids, const char *) = row[0];
        APR_ARRAY_PUSH(*enabled, int) = row[1][0] == '1';
    }
    return APR_SUCCESS;
}

static apr_status_t device_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    asking_t *asking = baton;
    const char *sql =
        apr_psprintf(pool, "SELECT authenticate, token_update FROM %sdevices WHERE id = %s LIMIT 1",
                     dbd_prefix(tx), dbd_quote(tx, asking->id, pool));

    asking->rows = apr_array_make(pool, 1, 2 * sizeof(const char *));
    return dbd_select(tx, sql, asking->rows, pool);
}

apr_status_t store_replay_device(store_t *store, const char *id, const char **authenticate,
                                 const char **token_update, apr_pool_t *pool)
{
    asking_t asking = {.id = id};
    apr_status_t status = store_read(store, device_work, &asking, pool);

    if (status == APR_SUCCESS && asking.rows->nelts == 0) {
        status = APR_ENOENT;
    }
    if (status == APR_SUCCESS) {
        store_row_t row = DBD_ROW(asking.rows, 0);

        *authenticate = row[0];
        *token_update = row[1];
    }
    return status;
}

static apr_status_t user_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    asking_t *asking = baton;
    const char *p = dbd_prefix(tx);
    const char *enabled = apr_psprintf(
        pool,
        " AND EXISTS (SELECT 1 FROM %senrollments AS e WHERE e.id = u.id AND e.enabled = TRUE)", p);
    const char *sql =
        apr_psprintf(pool,
                     "SELECT u.id, u.token_update FROM %susers AS u WHERE u.device_id = %s AND %s"
                     " AND u.token_update IS NOT NULL%s ORDER BY u.id LIMIT 1",
                     p, dbd_quote(tx, asking->id, pool), behind(tx, "u.id", asking->after, pool),
                     asking->all ? "" : enabled);

    asking->rows = apr_array_make(pool, 1, 2 * sizeof(const char *));
    return dbd_select(tx, sql, asking->rows, pool);
}

apr_status_t store_replay_user(store_t *store, const char *device_id, const char *after, int all,
                               const char **id, const char **token_update, apr_pool_t *pool)
{
    asking_t asking = {.id = device_id, .after = after, .all = all};
    apr_status_t status = store_read(store, user_work, &asking, pool);

    if (status == APR_SUCCESS && asking.rows->nelts == 0) {
        status = APR_ENOENT;
    }
    if (status == APR_SUCCESS) {
        store_row_t row = DBD_ROW(asking.rows, 0);

        *id = row[0];
        *token_update = row[1];
    }
    return status;
}
