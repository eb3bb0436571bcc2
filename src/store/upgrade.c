/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What a schema lacks, asked of the database's catalogs, and bringing it up to that of sql/. Knows
 * the order of things; the SQL is in the dialects.
 */
#include <apr_strings.h>
#include <string.h>

#include "dbd.h"

#define LOCK_PAUSE apr_time_from_msec(200)

typedef struct step_t {
    const char *what;               /* NULL: a part of another step */
    apr_array_header_t *statements; /* const char * */
} step_t;

typedef struct plan_t {
    store_schema_told_t *tell;
    void *baton;
    int rows;                  /* look at these, too */
    apr_array_header_t *steps; /* step_t */
    int tables;                /* some of sql/schema.*.sql are missing: what else is, is unknown */
} plan_t;

/* -- What is missing ---------------------------------------------------------------------- */

static void add_step(plan_t *plan, const char *what, apr_array_header_t *statements)
{
    step_t *step = apr_array_push(plan->steps);

    step->what = what;
    step->statements = statements;
}

/* Those of the tables that do not exist, with commas between; NULL if none. */
static apr_status_t missing_tables(store_tx_t *tx, const char *const *tables, const char **names,
                                   apr_pool_t *pool)
{
    *names = NULL;
    for (; *tables != NULL; tables += 2) {
        apr_array_header_t *rows = apr_array_make(pool, 1, sizeof(const char *));
        const char *sql = apr_psprintf(pool, dbd_dialect(tx)->table_missing, tables[0]);
        apr_status_t status = dbd_select(tx, dbd_sql(tx, sql, pool), rows, pool);

        if (status != APR_SUCCESS) {
            return status;
        }
        if (rows->nelts > 0) {
            *names = apr_pstrcat(pool, *names != NULL ? *names : "", *names != NULL ? ", " : "",
                                 dbd_sql(tx, "{p}", pool), tables[0], NULL);
        }
    }
    return APR_SUCCESS;
}

static apr_status_t plan_tables(store_tx_t *tx, plan_t *plan, const char *const *tables,
                                const char *text, apr_pool_t *pool)
{
    const char *names;
    apr_status_t status = missing_tables(tx, tables, &names, pool);

    if (status == APR_SUCCESS && names != NULL) {
        add_step(plan, apr_psprintf(pool, "tables that do not exist: %s", names),
                 dialect_split(text, pool));
        plan->tables |= tables == dialect_tables;
    }
    return status;
}

static apr_status_t plan_changes(store_tx_t *tx, plan_t *plan, const upgrade_t *change,
                                 apr_pool_t *pool)
{
    apr_status_t status = APR_SUCCESS;

    for (; change != NULL && change->select != NULL && status == APR_SUCCESS; change++) {
        apr_array_header_t *rows = apr_array_make(pool, 1, sizeof(const char *));

        status = dbd_select(tx, dbd_sql(tx, change->select, pool), rows, pool);
        if (status == APR_SUCCESS && rows->nelts > 0) {
            add_step(plan, change->what, rows);
        }
    }
    return status;
}

/* "id, active, priority DESC" as "id,active,priority,". */
static const char *names_only(const char *columns, apr_pool_t *pool)
{
    char *text = apr_pstrdup(pool, columns);
    char *state;
    const char *names = "";

    for (char *word = apr_strtok(text, ", ", &state); word != NULL;
         word = apr_strtok(NULL, ", ", &state)) {
        if (strcmp(word, "DESC") != 0) {
            names = apr_pstrcat(pool, names, word, ",", NULL);
        }
    }
    return names;
}

static apr_status_t plan_index(store_tx_t *tx, plan_t *plan, const index_t *index, apr_pool_t *pool)
{
    const dialect_t *dialect = dbd_dialect(tx);
    const char *columns = index->columns != NULL ? index->columns : dialect->queue_index;
    apr_array_header_t *rows = apr_array_make(pool, 1, sizeof(const char *));
    const char *sql =
        apr_psprintf(pool, dialect->index_missing, index->table, names_only(columns, pool));
    apr_status_t status = dbd_select(tx, dbd_sql(tx, sql, pool), rows, pool);

    if (status == APR_SUCCESS && rows->nelts > 0) {
        apr_array_clear(rows);
        APR_ARRAY_PUSH(rows, const char *) =
            apr_psprintf(pool, "CREATE INDEX {p}%s_%s ON {p}%s (%s)", index->table, index->name,
                         index->table, columns);
        add_step(plan, apr_psprintf(pool, "%s: an index on (%s)", index->table, columns), rows);
    }
    return status;
}

static apr_status_t make_plan(store_tx_t *tx, plan_t *plan, apr_pool_t *pool)
{
    const dialect_t *dialect = dbd_dialect(tx);
    apr_status_t status;

    plan->steps = apr_array_make(pool, 16, sizeof(step_t));
    plan->tables = 0;
    status = plan_tables(tx, plan, dialect_tables, dialect->schema, pool);
    if (status == APR_SUCCESS) {
        status = plan_tables(tx, plan, dialect_own_tables, dialect->own, pool);
    }
    if (status == APR_SUCCESS && !plan->tables) {
        status = plan_changes(tx, plan, dialect->changes, pool);
        for (const index_t *index = dialect_indexes; index->table != NULL && status == APR_SUCCESS;
             index++) {
            status = plan_index(tx, plan, index, pool);
        }
        if (status == APR_SUCCESS && plan->rows) {
            status = plan_changes(tx, plan, dialect_row_changes, pool);
        }
    }
    return status;
}

/* -- Telling and doing -------------------------------------------------------------------- */

static apr_status_t follow(store_tx_t *tx, const plan_t *plan, int doing, apr_pool_t *pool)
{
    apr_status_t status = APR_SUCCESS;

    for (int i = 0; i < plan->steps->nelts && status == APR_SUCCESS; i++) {
        const step_t *step = &APR_ARRAY_IDX(plan->steps, i, step_t);

        if (step->what != NULL) {
            plan->tell(plan->baton, step->what, NULL);
        }
        for (int n = 0; n < step->statements->nelts && status == APR_SUCCESS; n++) {
            const char *sql = dbd_sql(tx, APR_ARRAY_IDX(step->statements, n, const char *), pool);

            plan->tell(plan->baton, NULL, sql);
            status = doing ? dbd_query(tx, sql) : APR_SUCCESS;
        }
    }
    return status;
}

static apr_status_t status_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    plan_t *plan = baton;
    apr_status_t status = make_plan(tx, plan, pool);

    return status == APR_SUCCESS ? follow(tx, plan, 0, pool) : status;
}

static apr_status_t lock_schema(store_tx_t *tx, const plan_t *plan, apr_pool_t *pool)
{
    const char *select = dbd_dialect(tx)->upgrade_lock;
    apr_array_header_t *rows = apr_array_make(pool, 1, sizeof(const char *));
    int told = 0;

    while (select != NULL) {
        apr_status_t status = dbd_select(tx, dbd_sql(tx, select, pool), rows, pool);

        if (status != APR_SUCCESS || rows->nelts > 0) {
            return status;
        }
        if (!told++) {
            plan->tell(plan->baton, "another upgrade is at work: waiting for its end", NULL);
        }
        apr_sleep(LOCK_PAUSE);
    }
    return APR_SUCCESS;
}

static apr_status_t upgrade_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    plan_t *plan = baton;
    int made_tables;
    apr_status_t status = lock_schema(tx, plan, pool);

    do { /* where tables were missing, the others are looked at behind that */
        if (status == APR_SUCCESS) {
            status = make_plan(tx, plan, pool);
        }
        made_tables = status == APR_SUCCESS && plan->tables;
        if (status == APR_SUCCESS) {
            status = follow(tx, plan, 1, pool);
        }
    } while (made_tables && status == APR_SUCCESS);
    if (status == APR_SUCCESS && dbd_dialect(tx)->upgrade_unlock != NULL) {
        status = dbd_query(tx, dbd_dialect(tx)->upgrade_unlock);
    }
    return status;
}

apr_status_t store_schema_status(store_t *store, int rows, store_schema_told_t *tell, void *baton,
                                 apr_pool_t *pool)
{
    plan_t plan = {.tell = tell, .baton = baton, .rows = rows};

    return store_read(store, status_work, &plan, pool);
}

apr_status_t store_schema_upgrade(store_t *store, store_schema_told_t *tell, void *baton,
                                  apr_pool_t *pool)
{
    plan_t plan = {.tell = tell, .baton = baton, .rows = 1};

    return store_write(store, upgrade_work, &plan, pool);
}
