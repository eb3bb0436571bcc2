/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The schema: creating it from sql/, and checking that what is there fits. */
#include <apr_strings.h>
#include <ctype.h>
#include <string.h>

#include "dbd.h"

static int is_blank(const char *text)
{
    while (isspace((unsigned char)*text)) {
        text++;
    }
    return *text == '\0';
}

static apr_status_t check_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    const char **why = baton;
    const char *const *table = dialect_tables;
    const char *unreachable;

    /* A database that is out of reach is no wrong schema. */
    if (dbd_probe(tx, "SELECT 1", &unreachable, pool) != APR_SUCCESS) {
        return MDM_EUNAVAILABLE;
    }
    for (; *table != NULL; table += 2) {
        const char *reason;
        const char *sql =
            apr_psprintf(pool, "SELECT %s FROM {p}%s WHERE 1 = 0", table[1], table[0]);

        if (dbd_probe(tx, sql, &reason, pool) != APR_SUCCESS) {
            *why = reason;
            return MDM_ESCHEMA;
        }
    }
    return APR_SUCCESS;
}

/* One statement at a time, since not every driver takes several: each ends with ";\n". */
static apr_status_t create_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    const char *text = dbd_dialect(tx)->schema;
    apr_status_t status = APR_SUCCESS;

    (void)baton;
    while (status == APR_SUCCESS && !is_blank(text)) {
        const char *end = strstr(text, ";\n");
        apr_size_t len = end != NULL ? (apr_size_t)(end - text) : strlen(text);

        status = dbd_query(tx, apr_pstrmemdup(pool, text, len));
        text += end != NULL ? len + 2 : len;
    }
    return status;
}

apr_status_t store_schema_check(store_t *store, const char **why, apr_pool_t *pool)
{
    return store_read(store, check_work, (void *)why, pool);
}

/* Tables that are all there may be another server's: nothing is added to them without being asked.
 */
apr_status_t store_schema_create(store_t *store, apr_pool_t *pool)
{
    const char *why;
    apr_status_t status = store_schema_check(store, &why, pool);

    return status == MDM_ESCHEMA ? store_write(store, create_work, NULL, pool) : status;
}
