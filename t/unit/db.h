/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* A database file in a directory of its own, and a look into it that goes around the store: raw
 * statements through apr_dbd, each on a connection of its own. For unit tests, after cmocka.h.
 */
#ifndef TEST_DB_H
#define TEST_DB_H

#include <apr_dbd.h>
#include <apr_file_info.h>
#include <apr_file_io.h>
#include <apr_strings.h>
#include <stdlib.h>
#include <string.h>

#include "mdm_log.h"
#include "store.h"

typedef struct db_t {
    apr_pool_t *pool;
    const char *dir;
    const char *path;
} db_t;

static inline void db_quiet(mdm_log_level_t level, apr_status_t status, const char *line)
{
    if (getenv("TEST_VERBOSE") != NULL) {
        fprintf(stderr, "# %d %d %s\n", (int)level, (int)status, line);
    }
}

/** Make the directory; the file itself comes with the first connection. */
static inline void db_setup(db_t *db)
{
    const char *temp = NULL;
    char *dir;

    assert_int_equal(apr_pool_create(&db->pool, NULL), APR_SUCCESS);
    assert_int_equal(apr_temp_dir_get(&temp, db->pool), APR_SUCCESS);
    dir = apr_pstrcat(db->pool, temp, "/nanomdm-test-XXXXXX", NULL);
    assert_non_null(mkdtemp(dir));
    db->dir = dir;
    db->path = apr_pstrcat(db->pool, dir, "/nanomdm.db", NULL);
    mdm_log_set(db_quiet);
}

static inline void db_remove_all(const char *path, apr_pool_t *pool)
{
    apr_dir_t *dir;
    apr_finfo_t info;

    if (apr_dir_open(&dir, path, pool) != APR_SUCCESS) {
        return;
    }
    while (apr_dir_read(&info, APR_FINFO_NAME | APR_FINFO_TYPE, dir) == APR_SUCCESS) {
        const char *name = apr_pstrcat(pool, path, "/", info.name, NULL);

        if (strcmp(info.name, ".") == 0 || strcmp(info.name, "..") == 0) {
            continue;
        }
        if (info.filetype == APR_DIR) {
            db_remove_all(name, pool);
        } else {
            apr_file_remove(name, pool);
        }
    }
    apr_dir_close(dir);
    apr_dir_remove(path, pool);
}

/** Closes every store that was opened in db->pool, too. */
static inline void db_teardown(db_t *db)
{
    const char *dir = strdup(db->dir);
    apr_pool_t *pool;

    apr_pool_destroy(db->pool);
    assert_int_equal(apr_pool_create(&pool, NULL), APR_SUCCESS);
    db_remove_all(dir, pool);
    apr_pool_destroy(pool);
    free((void *)dir);
}

static inline store_config_t db_config(const db_t *db)
{
    store_config_t config = {.driver = "sqlite3",
                             .params = db->path,
                             .prefix = "",
                             .max = 8,
                             .wait = apr_time_from_sec(5),
                             .idle = apr_time_from_sec(60)};

    return config;
}

/** A store that lives as long as the pool. */
static inline store_t *db_store_with(const store_config_t *config, apr_pool_t *pool)
{
    store_t *store = NULL;
    const char *why = NULL;

    if (store_open(&store, config, &why, pool) != APR_SUCCESS) {
        fail_msg("store_open: %s", why ? why : "no reason");
    }
    assert_non_null(store);
    return store;
}

/** A store on the database, with the schema. */
static inline store_t *db_store(const db_t *db)
{
    store_config_t config = db_config(db);
    store_t *store = db_store_with(&config, db->pool);

    assert_int_equal(store_schema_create(store, db->pool), APR_SUCCESS);
    return store;
}

static inline const apr_dbd_driver_t *db_driver(apr_pool_t *pool)
{
    const apr_dbd_driver_t *driver = NULL;

    assert_int_equal(apr_dbd_init(pool), APR_SUCCESS);
    assert_int_equal(apr_dbd_get_driver(pool, "sqlite3", &driver), APR_SUCCESS);
    return driver;
}

static inline apr_dbd_t *db_open(const db_t *db, const apr_dbd_driver_t *driver, apr_pool_t *pool)
{
    apr_dbd_t *handle = NULL;
    int rows;

    assert_int_equal(apr_dbd_open(driver, pool, db->path, &handle), APR_SUCCESS);
    apr_dbd_query(driver, handle, &rows, "PRAGMA busy_timeout = 2000");
    return handle;
}

/** Run statements, separated by semicolons. */
static inline void db_exec(const db_t *db, const char *sql)
{
    apr_pool_t *pool;
    const apr_dbd_driver_t *driver;
    apr_dbd_t *handle;
    int rows = 0;
    int code;

    assert_int_equal(apr_pool_create(&pool, NULL), APR_SUCCESS);
    driver = db_driver(pool);
    handle = db_open(db, driver, pool);
    code = apr_dbd_query(driver, handle, &rows, sql);
    if (code != 0) {
        fail_msg("%s: %s", sql, apr_dbd_error(driver, handle, code));
    }
    apr_dbd_close(driver, handle);
    apr_pool_destroy(pool);
}

/** The first column of all rows of a select, with newlines between; NULL for a NULL or no row. */
static inline const char *db_value(const db_t *db, const char *sql)
{
    apr_pool_t *pool;
    const apr_dbd_driver_t *driver;
    apr_dbd_t *handle;
    apr_dbd_results_t *results = NULL;
    apr_dbd_row_t *row = NULL;
    const char *value = NULL;
    int code;

    assert_int_equal(apr_pool_create(&pool, db->pool), APR_SUCCESS);
    driver = db_driver(pool);
    handle = db_open(db, driver, pool);
    code = apr_dbd_select(driver, pool, handle, &results, sql, 1);
    if (code != 0) {
        fail_msg("%s: %s", sql, apr_dbd_error(driver, handle, code));
    }
    for (int n = 1; apr_dbd_get_row(driver, pool, results, &row, n) == 0; n++) {
        const char *entry = apr_dbd_get_entry(driver, row, 0);

        if (entry != NULL) {
            value = apr_pstrcat(db->pool, value ? value : "", value ? "\n" : "", entry, NULL);
        }
        row = NULL;
    }
    apr_dbd_close(driver, handle);
    apr_pool_destroy(pool);
    return value;
}

#define assert_db(db, sql, expected) assert_string_equal(db_value(db, sql), expected)
#define assert_db_null(db, sql) assert_null(db_value(db, sql))

/** Make so many devices D-00001, D-00002, … with their enrollments. */
static inline void db_fill(const db_t *db, int count)
{
    db_exec(db, apr_psprintf(db->pool,
                             "INSERT INTO devices (id, authenticate, authenticate_at)"
                             " WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
                             " WHERE i < %d) SELECT printf('D-%%05d', i), '<?xml',"
                             " CURRENT_TIMESTAMP FROM n;"
                             "INSERT INTO enrollments (id, device_id, type, topic, push_magic,"
                             " token_hex, last_seen_at) SELECT id, id, 'Device', 't', 'm', 'ab',"
                             " '2000-01-01 00:00:00' FROM devices",
                             count));
}

#endif
