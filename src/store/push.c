/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Where to push to, the certificates to push with, and the tokens that are dead, as rows. Does not
 * know how one pushes. */
#include <apr_strings.h>
#include <string.h>

#include "dbd.h"

apr_status_t store_push_load(store_tx_t *tx, const apr_array_header_t *ids,
                             apr_array_header_t **found, apr_pool_t *pool)
{
    apr_array_header_t *rows = apr_array_make(pool, ids->nelts + 1, sizeof(store_push_t));
    statement_t statement =
        dbd_has(tx, STMT_PUSH_LOAD_WITH_DEAD) ? STMT_PUSH_LOAD_WITH_DEAD : STMT_PUSH_LOAD;
    apr_status_t status = dbd_list(tx, statement, NULL, ids, rows, pool);

    if (status == APR_SUCCESS) {
        *found = rows;
    }
    return status;
}

apr_status_t store_push_dead(store_tx_t *tx, const char *id, const char *token, const char *reason,
                             apr_time_t since, apr_pool_t *pool)
{
    const char *time = NULL;

    if (!dbd_has(tx, STMT_DEAD_TOKEN_ADD)) {
        return APR_SUCCESS;
    }
    if (since != 0) {
        time = apr_psprintf(pool, "%" APR_TIME_T_FMT ".%06d", apr_time_sec(since),
                            (int)apr_time_usec(since));
    }
    return dbd_exec(tx, STMT_DEAD_TOKEN_ADD, DBD_ARGS(reason, id, token, time, time), NULL);
}

apr_status_t store_push_cert_store(store_tx_t *tx, const char *topic, const char *cert_pem,
                                   const char *key_pem)
{
    return dbd_exec(tx, STMT_PUSH_CERT_STORE, DBD_ARGS(topic, cert_pem, key_pem), NULL);
}

apr_status_t store_push_cert_load(store_tx_t *tx, const char *topic, store_push_cert_t *cert,
                                  apr_pool_t *pool)
{
    const char *row[3] = {NULL, NULL, NULL};
    apr_status_t status = dbd_load_text(tx, STMT_PUSH_CERT_LOAD, topic, 3, row, pool);

    if (status != APR_SUCCESS) {
        return status;
    }
    if (row[0] == NULL || row[1] == NULL || row[2] == NULL) {
        return APR_ENOENT;
    }
    cert->cert_pem = row[0];
    cert->key_pem = row[1];
    cert->version = apr_atoi64(row[2]);
    return APR_SUCCESS;
}

apr_status_t store_push_cert_next(store_tx_t *tx, const char *after, const char **topic,
                                  apr_pool_t *pool)
{
    return dbd_load(tx, STMT_PUSH_CERT_NEXT, DBD_ARGS(after), 1, topic, pool);
}
