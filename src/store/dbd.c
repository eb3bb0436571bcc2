/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Connections, prepared statements and transactions over apr_dbd. Owns every lesson about its
 * drivers, so that nobody else has to know them; knows no table.
 *
 * - A connection has its own allocator, prepares a statement at its first use, and is thrown away
 *   as soon as anything on it fails: drivers reset connections in ways that lose statements. If it
 *   is dead, all that were opened before go with it, since a restarted server broke them all.
 * - Transactions are plain BEGIN, COMMIT and ROLLBACK: the drivers' own commit on an early return
 *   and crash on a dead connection.
 * - Results are read with random access, rows counted from 1, and copied: the only way that tells
 *   "no row" from an error on all drivers.
 */
#include "dbd.h"

#include <apr_atomic.h>
#include <apr_dbd.h>
#include <apr_file_info.h>
#include <apr_lib.h>
#include <apr_reslist.h>
#include <apr_strings.h>
#include <string.h>

#include "mdm_log.h"
#include "timeout.h"
#include "writer.h"

#define BUSY_PAUSE apr_time_from_msec(10)
#define PREFIX_MAX 20

static const int list_sizes[] = {1, 32, DBD_LIST_MAX};
#define LIST_SIZES (int)(sizeof(list_sizes) / sizeof(list_sizes[0]))
#define PREPARED_COUNT (STMT_LISTS + (STMT_COUNT - STMT_LISTS) * LIST_SIZES)

struct store_t {
    store_config_t config;
    const dialect_t *dialect;
    const apr_dbd_driver_t *driver;
    apr_reslist_t *connections;
    timeout_t *timeout;      /* NULL: wait as long as the driver does */
    writer_t *writer;        /* NULL unless the dialect has a single writer */
    apr_uint32_t generation; /* of connections: older ones are thrown away */
};

struct store_tx_t {
    store_t *store;
    apr_pool_t *pool;        /* of the connection */
    apr_pool_t *scratch;     /* of one statement */
    apr_pool_t *driver_pool; /* of the handle; NULL until it is open */
    apr_dbd_t *handle;
    timeout_watch_t watch;
    apr_dbd_prepared_t *prepared[PREPARED_COUNT];
    apr_uint32_t generation;
    int has_own; /* the tables of sql/own.*.sql */
    int code;    /* the driver's code of the first failure, 0 while all is well */
    int busy;    /* that failure means: try again */
};

const dialect_t *dbd_dialect(const store_tx_t *tx)
{
    return tx->store->dialect;
}

int dbd_has(const store_tx_t *tx, statement_t statement)
{
    const char *sql = dialect_statement(tx->store->dialect, statement);

    return sql != NULL && (tx->has_own || strstr(sql, "{p}mdm_") == NULL);
}

static void begin_call(store_tx_t *tx)
{
    apr_pool_clear(tx->scratch);
    if (tx->store->timeout != NULL) {
        timeout_begin(tx->store->timeout, &tx->watch);
    }
}

/* -- Connections -------------------------------------------------------------------------- */

/* Run a select as it is. The results of one that the connection did not survive may be there in
 * name only, and reading them crashes the driver: only the error's text tells. Returns the driver's
 * code.
 */
static int select_text(store_tx_t *tx, const char *sql, apr_dbd_results_t **results)
{
    const store_t *store = tx->store;
    int code;

    *results = NULL;
    code = apr_dbd_select(store->driver, tx->scratch, tx->handle, results, sql, 1);
    if (code == 0 && store->dialect->lost_code != 0 &&
        *apr_dbd_error(store->driver, tx->handle, code) != '\0') {
        return store->dialect->lost_code;
    }
    return code;
}

static int drain(store_tx_t *tx, const char *sql)
{
    apr_dbd_results_t *results;

    begin_call(tx);
    return select_text(tx, sql, &results);
}

/* A setting may need a lock, which another process has for a moment. */
static int set(store_tx_t *tx, const char *setting)
{
    const store_t *store = tx->store;
    apr_time_t end = apr_time_now() + store->config.wait;

    for (;;) {
        int rows = 0;
        int code;

        begin_call(tx);
        code = store->dialect->settings_return_rows
                   ? drain(tx, setting)
                   : apr_dbd_query(store->driver, tx->handle, &rows, setting);

        if (code == 0 || apr_time_now() >= end ||
            !store->dialect->is_busy(code, apr_dbd_error(store->driver, tx->handle, code))) {
            return code;
        }
        apr_sleep(BUSY_PAUSE);
    }
}

/* The list holds its lock while it makes a resource: so this only makes room for a connection, and
 * connecting, which may take seconds, comes after. */
static apr_status_t connection_make(void **resource, void *params, apr_pool_t *unused)
{
    apr_pool_t *pool = NULL;
    store_tx_t *tx;
    apr_status_t status = apr_pool_create_unmanaged_ex(&pool, NULL, NULL);

    (void)unused; /* not safe for subpools from several threads */
    if (status != APR_SUCCESS) {
        return status;
    }
    tx = apr_pcalloc(pool, sizeof(*tx));
    tx->store = params;
    tx->pool = pool;
    tx->generation = apr_atomic_read32(&tx->store->generation);
    apr_pool_create(&tx->scratch, pool);
    *resource = tx;
    return APR_SUCCESS;
}

/* The first line of a driver's text, for the log. */
static const char *first_line(const char *reason, apr_pool_t *pool)
{
    return reason == NULL ? "no reason given" : apr_pstrmemdup(pool, reason, strcspn(reason, "\n"));
}

/* Why connecting failed. Parameters that it cannot parse libpq quotes, with the password in them.
 */
static const char *connect_reason(const store_t *store, const char *reason, apr_pool_t *pool)
{
    static const char *const quotes[] = {"connection info string", "connection option", "URI"};

    for (size_t i = 0; reason != NULL && i < sizeof(quotes) / sizeof(quotes[0]); i++) {
        if (strstr(reason, quotes[i]) != NULL) {
            return "its parameters cannot be parsed: look for blanks and quotes in values";
        }
    }
    reason = first_line(reason, pool);
    return store->dialect->single_writer /* its parameters are a file's name, and no secret */
               ? apr_psprintf(pool, "%s: %s", store->config.params, reason)
               : reason;
}

static int has_own_tables(store_tx_t *tx); /* below, with what it needs */

static apr_status_t open_handle(store_tx_t *tx, const char **why)
{
    const store_t *store = tx->store;
    apr_dbd_t *handle = NULL;
    void *native;
    apr_status_t status;

    if (store->timeout != NULL) {
        status = timeout_open(store->timeout, store->driver, store->config.params, &handle,
                              &tx->driver_pool, why);
    } else {
        status = apr_pool_create_unmanaged_ex(&tx->driver_pool, NULL, NULL);
        if (status == APR_SUCCESS) {
            status =
                apr_dbd_open_ex(store->driver, tx->driver_pool, store->config.params, &handle, why);
        }
    }
    if (status != APR_SUCCESS) {
        return MDM_EUNAVAILABLE;
    }
    tx->handle = handle;
    native = apr_dbd_native_handle(store->driver, handle);
    if (store->timeout != NULL) {
        timeout_watch(store->timeout, &tx->watch, store->dialect->socket_function, native);
    }
    if (store->dialect->connected != NULL) {
        store->dialect->connected(native);
    }
    return APR_SUCCESS;
}

static apr_status_t connect_to_database(store_tx_t *tx)
{
    const store_t *store = tx->store;
    const char *const *settings =
        store->config.read_only ? store->dialect->read_settings : store->dialect->settings;
    const char *reason = NULL;

    if (open_handle(tx, &reason) != APR_SUCCESS) {
        mdm_log(MDM_LOG_ERR, 0, "cannot connect to the %s database: %s", store->config.driver,
                connect_reason(store, reason, tx->pool));
        return MDM_EUNAVAILABLE;
    }
    for (const char *const *setting = settings; setting != NULL && *setting != NULL; setting++) {
        int code = set(tx, *setting);

        if (code != 0) {
            reason = apr_dbd_error(store->driver, tx->handle, code);
            mdm_log(MDM_LOG_ERR, 0, "the %s database refuses \"%s\": %s", store->config.driver,
                    *setting, first_line(reason, tx->pool));
            return MDM_EUNAVAILABLE;
        }
    }
    tx->has_own = has_own_tables(tx);
    return APR_SUCCESS;
}

static apr_status_t connection_close(void *resource, void *params, apr_pool_t *unused)
{
    store_tx_t *tx = resource;
    apr_pool_t *driver_pool = tx->driver_pool;

    (void)unused;
    (void)params;
    if (tx->handle != NULL) {
        if (tx->store->timeout != NULL) {
            timeout_unwatch(tx->store->timeout, &tx->watch);
        }
        apr_dbd_close(tx->store->driver, tx->handle);
    }
    apr_pool_destroy(tx->pool); /* and tx with it */
    if (driver_pool != NULL) {
        apr_pool_destroy(driver_pool);
    }
    return APR_SUCCESS;
}

static apr_status_t acquire(store_tx_t **out, store_t *store)
{
    for (;;) {
        void *resource = NULL;
        apr_status_t status = apr_reslist_acquire(store->connections, &resource);
        store_tx_t *tx = resource;

        if (status != APR_SUCCESS) {
            if (APR_STATUS_IS_TIMEUP(status)) {
                mdm_log(MDM_LOG_WARNING, 0,
                        "no database connection became free in time: all %d are in use",
                        store->config.max);
            }
            return MDM_EUNAVAILABLE;
        }
        if (tx->handle == NULL) {
            status = connect_to_database(tx);
        }
        if (status == APR_SUCCESS && tx->generation == apr_atomic_read32(&store->generation)) {
            tx->code = 0;
            tx->busy = 0;
            *out = tx;
            return APR_SUCCESS;
        }
        apr_reslist_invalidate(store->connections, tx);
        if (status != APR_SUCCESS) {
            return status;
        }
    }
}

static void release(store_tx_t *tx, int keep)
{
    store_t *store = tx->store;

    apr_pool_clear(tx->scratch);
    timeout_end(&tx->watch);
    if (keep && !timeout_expired(&tx->watch)) {
        apr_reslist_release(store->connections, tx);
    } else {
        apr_reslist_invalidate(store->connections, tx);
    }
}

apr_status_t store_driver_check(const char *driver, const char **why, apr_pool_t *pool)
{
    const apr_dbd_driver_t *unused;
    const dialect_t *dialect = dialect_get(driver);

    if (dialect == NULL) {
        *why = apr_psprintf(pool, "unknown database driver \"%s\": use sqlite3, pgsql or mysql",
                            driver);
        return MDM_EINPUT;
    }
    if (apr_dbd_init(pool) != APR_SUCCESS ||
        apr_dbd_get_driver(pool, driver, &unused) != APR_SUCCESS) {
        *why = apr_psprintf(pool,
                            "the database driver \"%s\" is not installed: on Debian, install the "
                            "package %s",
                            driver, dialect->package);
        return MDM_EINPUT;
    }
    return APR_SUCCESS;
}

apr_status_t store_prefix_check(const char *prefix, const char **why, apr_pool_t *pool)
{
    if (strspn(prefix, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(prefix) &&
        strlen(prefix) <= PREFIX_MAX && !apr_isdigit(*prefix)) {
        return APR_SUCCESS;
    }
    *why = apr_psprintf(pool,
                        "\"%s\" is no prefix: use up to %d small letters, digits and _, not "
                        "beginning with a digit",
                        prefix, PREFIX_MAX);
    return MDM_EINPUT;
}

static apr_status_t store_cleanup(void *pool)
{
    apr_pool_destroy(pool);
    return APR_SUCCESS;
}

apr_status_t store_open(store_t **out, const store_config_t *config, const char **why,
                        apr_pool_t *pool)
{
    store_t *store;
    apr_finfo_t unused;
    apr_pool_t *own;
    apr_status_t status = store_driver_check(config->driver, why, pool);

    if (status == APR_SUCCESS) {
        status = store_prefix_check(config->prefix, why, pool);
    }
    if (status != APR_SUCCESS) {
        return status;
    }
    if (config->read_only && dialect_get(config->driver)->single_writer &&
        apr_stat(&unused, config->params, APR_FINFO_TYPE, pool) != APR_SUCCESS) {
        /* Opening it would make an empty one. */
        *why = apr_psprintf(pool, "there is no database file %s", config->params);
        return MDM_EINPUT;
    }
    store = apr_pcalloc(pool, sizeof(*store));
    store->config = *config;
    store->dialect = dialect_get(config->driver);
    if (store->dialect->reconnects) {
        /* Reconnecting loses prepared statements, and a transaction that had begun. */
        store->config.params = apr_pstrcat(pool, config->params, ",reconnect=0", NULL);
    }
    status = apr_dbd_get_driver(pool, config->driver, &store->driver);
    if (status == APR_SUCCESS && store->dialect->single_writer && !config->read_only) {
        status = writer_create(&store->writer, config->params, pool);
    }
    if (status == APR_SUCCESS && config->timeout > 0 && store->dialect->socket_function != NULL) {
        status = timeout_create(&store->timeout, config->timeout, pool);
    }
    if (status == APR_SUCCESS) {
        /* The list takes memory under a lock of its own, which keeps nobody else from the pool. */
        status = apr_pool_create_unmanaged_ex(&own, NULL, NULL);
    }
    if (status == APR_SUCCESS) {
        apr_pool_cleanup_register(pool, own, store_cleanup, apr_pool_cleanup_null);
        /* Kept connections beyond 0 are closed once they idled: that is what "smax" means. */
        status = apr_reslist_create(&store->connections, 0, 0, config->max, config->idle,
                                    connection_make, connection_close, store, own);
    }
    if (status != APR_SUCCESS) {
        *why = "out of memory or locks";
        return status;
    }
    apr_reslist_timeout_set(store->connections, config->wait);
    *out = store;
    return APR_SUCCESS;
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
                first_line(reason, tx->scratch));
    }
    return MDM_EUNAVAILABLE;
}

static int transaction_statement(store_tx_t *tx, const char *sql, const char *what)
{
    int rows = 0;
    int code;

    begin_call(tx);
    code = apr_dbd_query(tx->store->driver, tx->handle, &rows, sql);
    if (code != 0) {
        failed(tx, code, what);
    }
    return code;
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

    begin_call(tx);
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

    begin_call(tx);
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

apr_status_t dbd_load_text(store_tx_t *tx, statement_t statement, const char *arg, int columns,
                           const char **values, apr_pool_t *pool)
{
    const store_t *store = tx->store;
    apr_dbd_results_t *results;
    apr_dbd_row_t *row;
    const char *sql;
    const char *place;
    int code;

    if (!store->dialect->truncates) {
        return dbd_load(tx, statement, &arg, columns, values, pool);
    }
    begin_call(tx);
    sql =
        expand(dialect_statement(store->dialect, statement), store->config.prefix, 0, tx->scratch);
    place = strstr(sql, "%s");
    sql = apr_pstrcat(tx->scratch, apr_pstrmemdup(tx->scratch, sql, (apr_size_t)(place - sql)), "'",
                      apr_dbd_escape(store->driver, tx->scratch, arg, tx->handle), "'", place + 2,
                      NULL);
    code = select_text(tx, sql, &results);
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
    begin_call(tx);
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
    *why = first_line(reason, pool);
    code = transaction_statement(tx, "ROLLBACK TO SAVEPOINT attempt", "ROLLBACK");
    return code == 0 ? APR_EGENERAL : MDM_EUNAVAILABLE;
}

apr_status_t dbd_query(store_tx_t *tx, const char *sql)
{
    int rows = 0;
    int code;

    begin_call(tx);
    sql = expand(sql, tx->store->config.prefix, 0, tx->scratch);
    code = apr_dbd_query(tx->store->driver, tx->handle, &rows, sql);
    return code == 0 ? APR_SUCCESS : failed(tx, code, "a schema statement");
}

apr_status_t dbd_select(store_tx_t *tx, const char *sql, apr_array_header_t *rows, apr_pool_t *pool)
{
    apr_dbd_results_t *results;
    int code;

    begin_call(tx);
    code = select_text(tx, sql, &results);
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
    code = drain(tx, sql);
    if (code != 0) {
        /* SQLite's driver fails once where somebody else has changed the schema. */
        code = drain(tx, sql);
    }
    if (code != 0) {
        *why = first_line(apr_dbd_error(tx->store->driver, tx->handle, code), pool);
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

/* Asked of the catalogs, so that a server that logs refused statements has nothing to log. */
static int has_own_tables(store_tx_t *tx)
{
    apr_pool_t *pool;
    int has = 1;

    apr_pool_create(&pool, tx->pool);
    for (const char *const *table = dialect_own_tables; has && *table != NULL; table += 2) {
        apr_array_header_t *rows = apr_array_make(pool, 1, sizeof(const char *));
        const char *sql = apr_psprintf(pool, tx->store->dialect->table_missing, *table);

        has = dbd_select(tx, dbd_sql(tx, sql, pool), rows, pool) == APR_SUCCESS && rows->nelts == 0;
    }
    apr_pool_destroy(pool);
    return has;
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
    begin_call(tx);
    apr_dbd_query(tx->store->driver, tx->handle, &rows, "ROLLBACK"); /* no transaction is fine */
    return drain(tx, "SELECT 1") == 0;
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

    *status = acquire(&tx, store);
    if (*status != APR_SUCCESS) {
        return ATTEMPT_UNCONNECTED; /* waiting was bounded, and connecting again is no better */
    }
    /* With the connection in hand: whose turn it is makes nobody wait for that. */
    if (takes_turn) {
        *status = lock_writer(store);
        if (*status != APR_SUCCESS) {
            release(tx, 1);
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
        release(tx, 0);
    } else {
        release(tx, 1);
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
    end = apr_time_now() + store->config.wait;
    while (busy == 0 || apr_time_now() < end) {
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
