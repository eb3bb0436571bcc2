/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Statements and transactions over apr_dbd. Owns the lessons about its drivers, so that nobody else
 * has to know them; knows no table.
 *
 * - A connection prepares a statement at its first use. If it is dead, all that were opened before
 * go with it, since a restarted server broke them all.
 * - Transactions are plain BEGIN, COMMIT and ROLLBACK: the drivers' own commit on an early return
 *   and crash on a dead connection.
 * - Results are read with random access, rows counted from 1, and copied: the only way that tells
 *   "no row" from an error on all drivers.
 */
#include "connection.h"

#include <apr_atomic.h>
#include <apr_strings.h>
#include <string.h>

#include "mdm_clock.h"
#include "mdm_log.h"

static const int list_sizes[LIST_SIZES] = {1, 32, DBD_LIST_MAX};

const dialect_t *dbd_dialect(const store_tx_t *tx)
{
    return tx->store->dialect;
}

int dbd_has(const store_tx_t *tx, statement_t statement)
{
    const char *sql = dialect_statement(tx->store->dialect, statement);

    return sql != NULL && (tx->has_own || strstr(sql, "{p}mdm_") == NULL);
}

/* -- Statements --------------------------------------------------------------------------- */

/* Replaces {p} by the prefix and {ids} by so many placeholders. */
static const char *expand(const char *sql, const char *prefix, int ids, apr_pool_t *pool)
{
    apr_array_header_t *parts = apr_array_make(pool, 8, sizeof(const char *));
    const char *brace;

    while ((brace = strchr(sql, '{')) != NULL) {
        APR_ARRAY_PUSH(parts, const char *) = apr_pstrmemdup(pool, sql, (apr_size_t)(brace - sql));
        if (strncmp(brace, "{p}", 3) == 0) {
            APR_ARRAY_PUSH(parts, const char *) = prefix;
            sql = brace + 3;
        } else if (strncmp(brace, "{ids}", 5) == 0) {
            for (int i = 0; i < ids; i++) {
                APR_ARRAY_PUSH(parts, const char *) = i ? ", %s" : "%s";
            }
            sql = brace + 5;
        } else {
            APR_ARRAY_PUSH(parts, const char *) = "{";
            sql = brace + 1;
        }
    }
    APR_ARRAY_PUSH(parts, const char *) = sql;
    return apr_array_pstrcat(pool, parts, 0);
}

static apr_status_t failed(store_tx_t *tx, int code, const char *what)
{
    if (tx->code == 0) {
        const char *reason = apr_dbd_error(tx->store->driver, tx->handle, code);

        tx->code = code;
        tx->busy = tx->store->dialect->is_busy(code, reason);
        mdm_log(tx->busy ? MDM_LOG_DEBUG : MDM_LOG_WARNING, 0,
                "database: %s failed with code %d: %s", what, code,
                connection_line(reason, tx->scratch));
    }
    return MDM_EUNAVAILABLE;
}

static int transaction_statement(store_tx_t *tx, const char *sql, const char *what)
{
    int rows = 0;
    int code;

    connection_call(tx);
    code = apr_dbd_query(tx->store->driver, tx->handle, &rows, sql);
    if (code != 0) {
        failed(tx, code, what);
    }
    return code;
}

/* One statement as it is, after connection_call(). */
static apr_status_t run_text(store_tx_t *tx, const char *sql, const char *what)
{
    int rows = 0;
    int code = apr_dbd_query(tx->store->driver, tx->handle, &rows, sql);

    return code == 0 ? APR_SUCCESS : failed(tx, code, what);
}

static apr_status_t prepare(store_tx_t *tx, statement_t statement, int size,
                            apr_dbd_prepared_t **out)
{
    int slot = (int)statement;
    int ids = 0;

    if (statement >= STMT_LISTS) {
        slot = STMT_LISTS + (int)(statement - STMT_LISTS) * LIST_SIZES + size;
        ids = list_sizes[size];
    }
    if (tx->prepared[slot] == NULL) {
        store_t *store = tx->store;
        const char *sql = expand(dialect_statement(store->dialect, statement), store->config.prefix,
                                 ids, tx->scratch);
        /* The label is for PostgreSQL, which takes lower case without dashes. */
        int code = apr_dbd_prepare(store->driver, tx->pool, tx->handle, sql,
                                   apr_psprintf(tx->pool, "nanomdm_%d", slot), &tx->prepared[slot]);
        if (code != 0) {
            tx->prepared[slot] = NULL;
            return failed(tx, code, "preparing a statement");
        }
    }
    *out = tx->prepared[slot];
    return APR_SUCCESS;
}

static apr_status_t exec(store_tx_t *tx, statement_t statement, int size, const char **args,
                         int *affected)
{
    apr_dbd_prepared_t *prepared;
    int rows = 0;
    int code;
    apr_status_t status;

    connection_call(tx);
    status = prepare(tx, statement, size, &prepared);
    if (status != APR_SUCCESS) {
        return status;
    }
    code = apr_dbd_pquery(tx->store->driver, tx->scratch, tx->handle, &rows, prepared, 0, args);
    if (code != 0) {
        return failed(tx, code, "a statement");
    }
    if (affected != NULL) {
        *affected = rows;
    }
    return APR_SUCCESS;
}

static apr_status_t select_rows(store_tx_t *tx, statement_t statement, int size, const char **args,
                                apr_dbd_results_t **results)
{
    apr_dbd_prepared_t *prepared;
    int code;
    apr_status_t status;

    connection_call(tx);
    status = prepare(tx, statement, size, &prepared);
    if (status != APR_SUCCESS) {
        return status;
    }
    *results = NULL;
    code =
        apr_dbd_pselect(tx->store->driver, tx->scratch, tx->handle, results, prepared, 1, 0, args);
    return code == 0 ? APR_SUCCESS : failed(tx, code, "a select");
}

static int get_row(store_tx_t *tx, apr_dbd_results_t *results, apr_dbd_row_t **row, int number)
{
    *row = NULL;
    return apr_dbd_get_row(tx->store->driver, tx->scratch, results, row, number) == 0;
}

/* get_entry alone gives "" for NULL on PostgreSQL; the datum tells. */
static const char *get_value(store_tx_t *tx, apr_dbd_row_t *row, int column, apr_pool_t *pool)
{
    const char *datum = NULL;

    if (apr_dbd_datum_get(tx->store->driver, row, column, APR_DBD_TYPE_STRING, (void *)&datum) !=
        APR_SUCCESS) {
        return NULL;
    }
    return apr_pstrdup(pool, apr_dbd_get_entry(tx->store->driver, row, column));
}

static void get_values(store_tx_t *tx, apr_dbd_row_t *row, int columns, const char **values,
                       apr_pool_t *pool)
{
    for (int i = 0; i < columns; i++) {
        values[i] = get_value(tx, row, i, pool);
    }
}

static void append_rows(store_tx_t *tx, apr_dbd_results_t *results, apr_array_header_t *rows,
                        apr_pool_t *pool)
{
    int columns = rows->elt_size / (int)sizeof(const char *);
    apr_dbd_row_t *row;

    for (int n = 1; get_row(tx, results, &row, n); n++) {
        get_values(tx, row, columns, apr_array_push(rows), pool);
    }
}

apr_status_t dbd_exec(store_tx_t *tx, statement_t statement, const char **args, int *affected)
{
    return exec(tx, statement, 0, args, affected);
}

apr_status_t dbd_load(store_tx_t *tx, statement_t statement, const char **args, int columns,
                      const char **values, apr_pool_t *pool)
{
    apr_dbd_results_t *results;
    apr_dbd_row_t *row;
    apr_status_t status = select_rows(tx, statement, 0, args, &results);

    if (status != APR_SUCCESS) {
        return status;
    }
    if (!get_row(tx, results, &row, 1)) {
        return APR_ENOENT;
    }
    get_values(tx, row, columns, values, pool);
    return APR_SUCCESS;
}

apr_status_t dbd_load_rows(store_tx_t *tx, statement_t statement, const char **args,
                           apr_array_header_t *rows, apr_pool_t *pool)
{
    apr_dbd_results_t *results;
    apr_status_t status = select_rows(tx, statement, 0, args, &results);

    if (status == APR_SUCCESS) {
        append_rows(tx, results, rows, pool);
    }
    return status;
}

/* The SQL with literals in place of its placeholders. */
static const char *with_literals(store_tx_t *tx, const char *sql, const char *const *values,
                                 apr_pool_t *pool)
{
    apr_array_header_t *parts = apr_array_make(pool, 16, sizeof(const char *));
    const char *place;

    while ((place = strstr(sql, "%s")) != NULL) {
        APR_ARRAY_PUSH(parts, const char *) = apr_pstrmemdup(pool, sql, (apr_size_t)(place - sql));
        APR_ARRAY_PUSH(parts, const char *) = dbd_quote(tx, *values++, pool);
        sql = place + 2;
    }
    APR_ARRAY_PUSH(parts, const char *) = sql;
    return apr_array_pstrcat(pool, parts, 0);
}

apr_status_t dbd_load_text(store_tx_t *tx, statement_t statement, const char *arg, int columns,
                           const char **values, apr_pool_t *pool)
{
    const store_t *store = tx->store;
    apr_dbd_results_t *results;
    apr_dbd_row_t *row;
    const char *sql;
    int code;

    if (!store->dialect->truncates) {
        return dbd_load(tx, statement, &arg, columns, values, pool);
    }
    connection_call(tx);
    sql = dbd_sql(tx, dialect_statement(store->dialect, statement), tx->scratch);
    code = connection_select(tx, with_literals(tx, sql, &arg, tx->scratch), &results);
    if (code != 0) {
        return failed(tx, code, "a select");
    }
    if (!get_row(tx, results, &row, 1)) {
        return APR_ENOENT;
    }
    get_values(tx, row, columns, values, pool);
    return APR_SUCCESS;
}

static apr_status_t list_turn(store_tx_t *tx, statement_t statement, int size, const char **args,
                              apr_array_header_t *found, apr_pool_t *pool)
{
    apr_dbd_results_t *results;
    apr_status_t status;

    if (found == NULL) {
        return exec(tx, statement, size, args, NULL);
    }
    status = select_rows(tx, statement, size, args, &results);
    if (status == APR_SUCCESS) {
        append_rows(tx, results, found, pool);
    }
    return status;
}

apr_status_t dbd_list(store_tx_t *tx, statement_t statement, const char *first,
                      const apr_array_header_t *ids, apr_array_header_t *found, apr_pool_t *pool)
{
    const char *args[DBD_LIST_MAX + 1];
    int offset = first != NULL ? 1 : 0;
    int done = 0;

    args[0] = first;
    while (done < ids->nelts) {
        int left = ids->nelts - done;
        int size = 0;
        apr_status_t status;

        while (size < LIST_SIZES - 1 && list_sizes[size] < left) {
            size++;
        }
        for (int i = 0; i < list_sizes[size]; i++) {
            args[offset + i] = APR_ARRAY_IDX(ids, done + (i < left ? i : left - 1), const char *);
        }
        status = list_turn(tx, statement, size, args, found, pool);
        if (status != APR_SUCCESS) {
            return status;
        }
        done += list_sizes[size];
    }
    return APR_SUCCESS;
}

apr_status_t dbd_insert(store_tx_t *tx, statement_t statement, const apr_array_header_t *rows)
{
    apr_array_header_t *tuples;
    const char *sql;
    const char *tuple;

    connection_call(tx);
    sql = dbd_sql(tx, dialect_statement(tx->store->dialect, statement), tx->scratch);
    tuple = strstr(sql, " VALUES ") + strlen(" VALUES ");
    tuples = apr_array_make(tx->scratch, rows->nelts, sizeof(const char *));
    for (int i = 0; i < rows->nelts; i++) {
        APR_ARRAY_PUSH(tuples, const char *) =
            with_literals(tx, tuple, DBD_ROW(rows, i), tx->scratch);
    }
    sql = apr_pstrcat(tx->scratch, apr_pstrmemdup(tx->scratch, sql, (apr_size_t)(tuple - sql)),
                      apr_array_pstrcat(tx->scratch, tuples, ','), NULL);
    return run_text(tx, sql, "an insert");
}

const char *dbd_prefix(const store_tx_t *tx)
{
    return tx->store->config.prefix;
}

const char *dbd_quote(store_tx_t *tx, const char *text, apr_pool_t *pool)
{
    return apr_pstrcat(pool, "'", apr_dbd_escape(tx->store->driver, pool, text, tx->handle), "'",
                       NULL);
}

apr_status_t dbd_try(store_tx_t *tx, const char *sql, int *affected, const char **why,
                     apr_pool_t *pool)
{
    const store_t *store = tx->store;
    const char *reason;
    int rows = 0;
    int code;

    if (transaction_statement(tx, "SAVEPOINT attempt", "SAVEPOINT") != 0) {
        return MDM_EUNAVAILABLE;
    }
    connection_call(tx);
    code = apr_dbd_query(store->driver, tx->handle, &rows, sql);
    if (code == 0) {
        *affected = rows;
        code = transaction_statement(tx, "RELEASE SAVEPOINT attempt", "RELEASE");
        return code == 0 ? APR_SUCCESS : MDM_EUNAVAILABLE;
    }
    reason = apr_dbd_error(store->driver, tx->handle, code);
    if (store->dialect->is_busy(code, reason)) {
        return failed(tx, code, "a statement");
    }
    *why = connection_line(reason, pool);
    code = transaction_statement(tx, "ROLLBACK TO SAVEPOINT attempt", "ROLLBACK");
    return code == 0 ? APR_EGENERAL : MDM_EUNAVAILABLE;
}

apr_status_t dbd_query(store_tx_t *tx, const char *sql)
{
    connection_call(tx);
    return run_text(tx, dbd_sql(tx, sql, tx->scratch), "a schema statement");
}

apr_status_t dbd_select(store_tx_t *tx, const char *sql, apr_array_header_t *rows, apr_pool_t *pool)
{
    apr_dbd_results_t *results;
    int code;

    connection_call(tx);
    code = connection_select(tx, sql, &results);
    if (code != 0) {
        return failed(tx, code, "a select");
    }
    append_rows(tx, results, rows, pool);
    return APR_SUCCESS;
}

const char *dbd_sql(const store_tx_t *tx, const char *sql, apr_pool_t *pool)
{
    return expand(sql, tx->store->config.prefix, 0, pool);
}

apr_status_t dbd_probe(store_tx_t *tx, const char *sql, const char **why, apr_pool_t *pool)
{
    int code;

    sql = expand(sql, tx->store->config.prefix, 0, pool);
    code = connection_drain(tx, sql);
    if (code != 0) {
        /* SQLite's driver fails once where somebody else has changed the schema. */
        code = connection_drain(tx, sql);
    }
    if (code != 0) {
        *why = connection_line(apr_dbd_error(tx->store->driver, tx->handle, code), pool);
        return APR_EGENERAL;
    }
    return APR_SUCCESS;
}

const char *dbd_missing(store_tx_t *tx, const char *const *tables, const char **why,
                        apr_pool_t *pool)
{
    for (; *tables != NULL; tables += 2) {
        const char *sql =
            apr_psprintf(pool, "SELECT %s FROM {p}%s WHERE 1 = 0", tables[1], tables[0]);

        if (dbd_probe(tx, sql, why, pool) != APR_SUCCESS) {
            return tables[0];
        }
    }
    return NULL;
}

/* -- Transactions ------------------------------------------------------------------------- */

typedef enum {
    ATTEMPT_DONE,
    ATTEMPT_UNCONNECTED, /* or without its turn; the reason is logged */
    ATTEMPT_BUSY,
    ATTEMPT_BROKEN,
    ATTEMPT_UNKNOWN /* whether it was committed; not to be repeated */
} outcome_t;

static outcome_t outcome_of_failure(const store_tx_t *tx)
{
    return tx->busy ? ATTEMPT_BUSY : ATTEMPT_BROKEN;
}

static outcome_t attempt_read(store_tx_t *tx, store_work_t *work, void *baton, apr_status_t *status,
                              apr_pool_t *pool)
{
    *status = work(tx, baton, pool);
    return tx->code == 0 ? ATTEMPT_DONE : outcome_of_failure(tx);
}

static outcome_t attempt_write(store_tx_t *tx, store_work_t *work, void *baton,
                               apr_status_t *status, apr_pool_t *pool)
{
    outcome_t outcome;

    if (transaction_statement(tx, tx->store->dialect->begin, "BEGIN") != 0) {
        return outcome_of_failure(tx);
    }
    *status = work(tx, baton, pool);
    if (tx->code == 0 && *status == APR_SUCCESS) {
        if (transaction_statement(tx, "COMMIT", "COMMIT") == 0) {
            return ATTEMPT_DONE;
        }
        /* Whether a commit that broke off took place, nobody knows; a busy one did not. */
        outcome = outcome_of_failure(tx);
        if (outcome == ATTEMPT_BROKEN) {
            return ATTEMPT_UNKNOWN;
        }
    } else {
        outcome = tx->code == 0 ? ATTEMPT_DONE : outcome_of_failure(tx);
    }
    if (outcome != ATTEMPT_BROKEN && transaction_statement(tx, "ROLLBACK", "ROLLBACK") != 0) {
        return ATTEMPT_BROKEN;
    }
    return outcome;
}

/* Whether only a statement failed, and not the connection and with it, likely, all others. */
static int is_alive(store_tx_t *tx)
{
    int rows = 0;

    if (timeout_expired(&tx->watch)) {
        return 0;
    }
    connection_call(tx);
    apr_dbd_query(tx->store->driver, tx->handle, &rows, "ROLLBACK"); /* no transaction is fine */
    return connection_drain(tx, "SELECT 1") == 0;
}

static apr_status_t lock_writer(store_t *store)
{
    apr_status_t status = writer_lock(store->writer, store->config.wait);

    if (status != APR_SUCCESS) {
        mdm_log(MDM_LOG_WARNING, status, "the database did not become free for writing in time");
        return MDM_EUNAVAILABLE;
    }
    return APR_SUCCESS;
}

static outcome_t attempt(store_t *store, store_work_t *work, void *baton, int writes,
                         apr_status_t *status, apr_pool_t *pool)
{
    int takes_turn = writes && store->writer != NULL;
    store_tx_t *tx;
    outcome_t outcome;

    *status = connection_acquire(&tx, store);
    if (*status != APR_SUCCESS) {
        return ATTEMPT_UNCONNECTED; /* waiting was bounded, and connecting again is no better */
    }
    /* With the connection in hand: whose turn it is makes nobody wait for that. */
    if (takes_turn) {
        *status = lock_writer(store);
        if (*status != APR_SUCCESS) {
            connection_release(tx, 1);
            return ATTEMPT_UNCONNECTED;
        }
    }
    outcome = writes ? attempt_write(tx, work, baton, status, pool)
                     : attempt_read(tx, work, baton, status, pool);
    if (takes_turn) {
        writer_unlock(store->writer);
    }
    if (outcome != ATTEMPT_DONE && timeout_expired(&tx->watch)) {
        outcome = ATTEMPT_UNKNOWN; /* a caller has waited long enough */
    }
    if (outcome == ATTEMPT_BROKEN || outcome == ATTEMPT_UNKNOWN) {
        if (!is_alive(tx)) {
            apr_atomic_inc32(&store->generation);
        }
        connection_release(tx, 0);
    } else {
        connection_release(tx, 1);
    }
    return outcome;
}

static apr_status_t run(store_t *store, store_work_t *work, void *baton, int writes,
                        apr_pool_t *pool)
{
    int broken = 0;
    int busy = 0;
    apr_time_t end;

    if (store == NULL) {
        return MDM_EUNAVAILABLE;
    }
    end = mdm_clock() + store->config.wait;
    while (busy == 0 || mdm_clock() < end) {
        apr_status_t status;
        outcome_t outcome;

        outcome = attempt(store, work, baton, writes, &status, pool);
        if (outcome == ATTEMPT_DONE || outcome == ATTEMPT_UNCONNECTED) {
            return status;
        }
        if (outcome == ATTEMPT_BUSY) {
            busy++;
            apr_sleep(BUSY_PAUSE);
        } else if (outcome == ATTEMPT_UNKNOWN || broken++) {
            mdm_log(MDM_LOG_ERR, 0, "the database failed; the warnings before this say how");
            return MDM_EUNAVAILABLE;
        }
    }
    mdm_log(MDM_LOG_WARNING, 0, "the database stayed busy");
    return MDM_EUNAVAILABLE;
}

apr_status_t store_read(store_t *store, store_work_t *work, void *baton, apr_pool_t *pool)
{
    return run(store, work, baton, 0, pool);
}

apr_status_t store_write(store_t *store, store_work_t *work, void *baton, apr_pool_t *pool)
{
    return run(store, work, baton, 1, pool);
}
