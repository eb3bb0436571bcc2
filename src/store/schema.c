/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The schema: creating it from sql/, and checking that what is there fits. */
#include "dbd.h"

static apr_status_t check_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    const char **why = baton;

    /* A database that is out of reach is no wrong schema. */
    if (dbd_probe(tx, "SELECT 1", why, pool) != APR_SUCCESS) {
        return MDM_EUNAVAILABLE;
    }
    return dbd_missing(tx, dialect_tables, why, pool) == NULL ? APR_SUCCESS : MDM_ESCHEMA;
}

/* One statement at a time, since not every driver takes several. */
static apr_status_t run_text(store_tx_t *tx, const char *text, apr_pool_t *pool)
{
    const apr_array_header_t *statements = dialect_split(text, pool);
    apr_status_t status = APR_SUCCESS;

    for (int i = 0; i < statements->nelts && status == APR_SUCCESS; i++) {
        status = dbd_query(tx, APR_ARRAY_IDX(statements, i, const char *));
    }
    return status;
}

typedef struct missing_t {
    int schema;
    int own;
} missing_t;

/* Outside of a transaction, which a refused select breaks on some databases. */
static apr_status_t missing_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    missing_t *missing = baton;
    const char *why;
    apr_status_t status = check_work(tx, &why, pool);

    missing->schema = status == MDM_ESCHEMA;
    missing->own = dbd_missing(tx, dialect_own_tables, &why, pool) != NULL;
    return missing->schema ? APR_SUCCESS : status;
}

static apr_status_t create_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    const missing_t *missing = baton;
    const dialect_t *dialect = dbd_dialect(tx);
    apr_status_t status = APR_SUCCESS;

    if (missing->schema) {
        status = run_text(tx, dialect->schema, pool);
    }
    return status == APR_SUCCESS && missing->own ? run_text(tx, dialect->own, pool) : status;
}

apr_status_t store_schema_check(store_t *store, const char **why, apr_pool_t *pool)
{
    return store_read(store, check_work, (void *)why, pool);
}

/* Tables that are all there may be another server's: no column or index is added to them without
 * being asked. */
apr_status_t store_schema_create(store_t *store, apr_pool_t *pool)
{
    missing_t missing;
    apr_status_t status = store_read(store, missing_work, &missing, pool);

    if (status != APR_SUCCESS || !(missing.schema || missing.own)) {
        return status;
    }
    return store_write(store, create_work, &missing, pool);
}
