/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Opening a store, and its connections over apr_dbd: a bounded list of them, each with its own
 * allocator, connecting outside of the list's lock. A connection that fails is thrown away, since
 * drivers reset connections in ways that lose statements.
 */
#include "connection.h"

#include <apr_atomic.h>
#include <apr_file_info.h>
#include <apr_lib.h>
#include <apr_strings.h>
#include <string.h>

#include "mdm_clock.h"
#include "mdm_log.h"

#define PREFIX_MAX 20

/* How long a connection believes that tables of our own are missing. */
#define OWN_TABLES_INTERVAL apr_time_from_sec(60)

void connection_call(store_tx_t *tx)
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
int connection_select(store_tx_t *tx, const char *sql, apr_dbd_results_t **results)
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

int connection_drain(store_tx_t *tx, const char *sql)
{
    apr_dbd_results_t *results;

    connection_call(tx);
    return connection_select(tx, sql, &results);
}

/* A setting may need a lock, which another process has for a moment. */
static int set(store_tx_t *tx, const char *setting)
{
    const store_t *store = tx->store;
    apr_time_t end = mdm_clock() + store->config.wait;

    for (;;) {
        int rows = 0;
        int code;

        connection_call(tx);
        code = store->dialect->settings_return_rows
                   ? connection_drain(tx, setting)
                   : apr_dbd_query(store->driver, tx->handle, &rows, setting);

        if (code == 0 || mdm_clock() >= end ||
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
const char *connection_line(const char *reason, apr_pool_t *pool)
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
    reason = connection_line(reason, pool);
    return store->dialect->single_writer /* its parameters are a file's name, and no secret */
               ? apr_psprintf(pool, "%s: %s", store->config.params, reason)
               : reason;
}

/* Asked of the catalogs, so that a server that logs refused statements has nothing to log. */
static apr_status_t ask_own_tables(store_tx_t *tx, int *missing)
{
    apr_status_t status = APR_SUCCESS;
    apr_pool_t *pool;

    apr_pool_create(&pool, tx->pool);
    *missing = 0;
    for (const char *const *table = dialect_own_tables;
         status == APR_SUCCESS && !*missing && *table != NULL; table += 2) {
        apr_array_header_t *rows = apr_array_make(pool, 1, sizeof(const char *));
        const char *sql = apr_psprintf(pool, tx->store->dialect->table_missing, *table);

        status = dbd_select(tx, dbd_sql(tx, sql, pool), rows, pool);
        *missing = rows->nelts > 0;
    }
    apr_pool_destroy(pool);
    return status;
}

/* Whether the tables of our own are there. Those that are not may come with an upgrade, while the
 * connection is in use. @return MDM_EUNAVAILABLE: nobody knows */
static apr_status_t learn_own_tables(store_tx_t *tx)
{
    apr_time_t now = mdm_clock();
    apr_time_t end = now + tx->store->config.wait;
    apr_status_t status;
    int missing;

    if (tx->has_own || now < tx->ask_again) {
        return APR_SUCCESS;
    }
    /* SQLite's driver fails once where somebody else has changed the schema. */
    for (int tries = 0;; tries++) {
        tx->code = 0;
        tx->busy = 0;
        status = ask_own_tables(tx, &missing);
        if (status == APR_SUCCESS || (tries > 0 && !tx->busy) || mdm_clock() >= end) {
            break;
        }
        apr_sleep(BUSY_PAUSE);
    }
    if (status == APR_SUCCESS) {
        tx->has_own = !missing;
        tx->ask_again = now + OWN_TABLES_INTERVAL;
    }
    return status;
}

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
                    *setting, connection_line(reason, tx->pool));
            return MDM_EUNAVAILABLE;
        }
    }
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

apr_status_t connection_acquire(store_tx_t **out, store_t *store)
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
            if (status == APR_SUCCESS) {
                status = learn_own_tables(tx);
            }
        } else if (tx->generation == apr_atomic_read32(&store->generation) &&
                   learn_own_tables(tx) != APR_SUCCESS) {
            apr_reslist_invalidate(store->connections, tx); /* it may just have been dead */
            continue;
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

void connection_release(store_tx_t *tx, int keep)
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
        /* Reconnecting loses prepared statements, and a transaction that had begun. With its only
         * flag, rows count as changed that were not. */
        store->config.params = apr_pstrcat(pool, config->params, ",reconnect=0,flags=0", NULL);
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
