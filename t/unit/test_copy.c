/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Tests reading and writing whole databases, from one file to another: what the values are made of,
 * pages, rows that are refused, the order of a queue. Other databases: t/database/migrate.t.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <apr_general.h>

#include "db.h"
#include "store_copy.h"

static db_t source;
static db_t target;

/* With a store that is closed again: no connection stays open. */
static void make(db_t *db)
{
    store_config_t config;
    apr_pool_t *own;

    db_setup(db);
    config = db_config(db);
    assert_int_equal(apr_pool_create(&own, NULL), APR_SUCCESS);
    assert_int_equal(store_schema_create(db_store_with(&config, own), own), APR_SUCCESS);
    apr_pool_destroy(own);
}

static int setup(void **state)
{
    (void)state;
    make(&source);
    make(&target);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    db_teardown(&source);
    db_teardown(&target);
    return 0;
}

static store_t *reading(const db_t *db)
{
    store_config_t config = db_config(db);

    config.read_only = 1;
    return db_store_with(&config, db->pool);
}

static const store_table_t *table_of(store_t *store, const char *name)
{
    apr_array_header_t *tables;

    assert_int_equal(store_tables_load(store, &tables, source.pool), APR_SUCCESS);
    for (int i = 0; i < tables->nelts; i++) {
        if (strcmp(APR_ARRAY_IDX(tables, i, store_table_t).name, name) == 0) {
            return &APR_ARRAY_IDX(tables, i, store_table_t);
        }
    }
    fail_msg("no table %s", name);
    return NULL;
}

/* What a copy of a table came to. */
typedef struct copy_t {
    int pages, read, added;
    const char *refused; /* a line for each */
    store_sum_t sum;
} copy_t;

static copy_t copy(const char *name, int skip)
{
    store_t *from = reading(&source);
    store_t *to = db_store(&target);
    const store_table_t *table = table_of(to, name);
    copy_t copy = {.refused = ""};
    store_reader_t *reader;
    apr_array_header_t *rows;
    apr_array_header_t *refused;
    int added;

    store_reader_open(&reader, from, table_of(from, name), table, source.pool);
    for (;;) {
        assert_int_equal(store_reader_next(reader, &rows), APR_SUCCESS);
        if (rows->nelts == 0) {
            return copy;
        }
        copy.pages++;
        copy.read += rows->nelts;
        store_sum_add(&copy.sum, table, rows);
        assert_int_equal(store_table_add(to, table, rows, skip, &added, &refused, source.pool),
                         APR_SUCCESS);
        copy.added += added;
        for (int i = 0; i < refused->nelts; i++) {
            const store_refusal_t *refusal = &APR_ARRAY_IDX(refused, i, store_refusal_t);

            copy.refused = apr_pstrcat(source.pool, copy.refused, refusal->key, ": ", refusal->why,
                                       "\n", NULL);
        }
    }
}

static store_sum_t sum_of_target(const char *name)
{
    store_t *store = reading(&target);
    const store_table_t *table = table_of(store, name);
    store_sum_t sum = {{0}};
    store_reader_t *reader;
    apr_array_header_t *rows;

    store_reader_open(&reader, store, table, table, target.pool);
    do {
        assert_int_equal(store_reader_next(reader, &rows), APR_SUCCESS);
        store_sum_add(&sum, table, rows);
    } while (rows->nelts > 0);
    return sum;
}

/* Rows that one of the two does not have, byte for byte and type for type. */
static const char *difference(const char *name)
{
    const char *columns = db_value(
        &source, apr_psprintf(source.pool,
                              "SELECT group_concat('quote(' || name || ')', ' || \",\" || ')"
                              " FROM pragma_table_info('%s')",
                              name));

    columns = apr_pstrdup(source.pool, columns);
    for (char *c = (char *)columns; *c != '\0'; c++) {
        *c = *c == '"' ? '\'' : *c;
    }
    return strcmp(db_value(&source, apr_psprintf(source.pool, "SELECT %s FROM %s ORDER BY 1",
                                                 columns, name)),
                  db_value(&target, apr_psprintf(source.pool, "SELECT %s FROM %s ORDER BY 1",
                                                 columns, name))) == 0
               ? "none"
               : name;
}

#define TIMES "'2020-02-29 23:59:59', '2021-03-04 05:06:07.000009'"

static void add_device(const char *id, const char *authenticate)
{
    db_exec(&source, apr_psprintf(source.pool,
                                  "INSERT INTO devices (id, authenticate, authenticate_at,"
                                  " created_at, updated_at) VALUES (%s, %s, '2020-01-01 00:00:00',"
                                  " " TIMES ")",
                                  id, authenticate));
}

static void test_values(void **state)
{
    copy_t result;
    store_sum_t sum;

    (void)state;
    add_device("'D''1\\; \"x\" %s %pDb {p}{ids} {v} -- /*'", "'<?xml %d %% ''\\'' \\0 {p}'");
    add_device("'\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80'", "char(9, 10, 13, 1, 127) || 'x'");
    add_device("'bytes'", "CAST(X'FF80C328' AS TEXT)"); /* no UTF-8 */
    add_device("'blob'", "'a'");
    db_exec(&source, "UPDATE devices SET unlock_token = X'00FF27005C', identity_cert ="
                     " '-----BEGIN CERTIFICATE-----', serial_number = '0012', bootstrap_token_b64 ="
                     " 'AA==', bootstrap_token_at = '2022-01-01 00:00:00' WHERE id = 'blob'");
    result = copy("devices", 0);
    assert_int_equal(result.added, 4);
    assert_string_equal(result.refused, "");
    assert_string_equal(difference("devices"), "none");
    sum = sum_of_target("devices");
    assert_memory_equal(&sum, &result.sum, sizeof(sum));
    db_exec(&target, "UPDATE devices SET unlock_token = X'00FF27015C' WHERE id = 'blob'");
    sum = sum_of_target("devices");
    assert_memory_not_equal(&sum, &result.sum, sizeof(sum));
    db_exec(&target, "UPDATE devices SET unlock_token = NULL WHERE id = 'blob'");
    sum = sum_of_target("devices");
    assert_memory_not_equal(&sum, &result.sum, sizeof(sum));
}

/* Every table, with a value in every column. */
static void test_tables(void **state)
{
    static const char *const tables[] = {"devices",         "users",
                                         "enrollments",     "commands",
                                         "command_results", "enrollment_queue",
                                         "push_certs",      "cert_auth_associations",
                                         "mdm_dead_tokens"};

    (void)state;
    add_device("'D'", "'a'");
    db_exec(&source,
            "INSERT INTO users VALUES ('D:U', 'D', 's', 'l', 't', '2020-01-01 00:00:01', 'u',"
            " '2020-01-01 00:00:02', 'd', '2020-01-01 00:00:03', " TIMES ");"
            "INSERT INTO enrollments VALUES ('D', 'D', NULL, 'Device', 't', 'm', 'ab', 0, 7,"
            " '2020-01-01 00:00:04', " TIMES ");"
            "INSERT INTO enrollments VALUES ('D:U', 'D', 'D:U', 'User', 't', 'm', 'cd', 1, 1,"
            " '2020-01-01 00:00:05', " TIMES ");"
            "INSERT INTO commands VALUES ('C', 'ProfileList', '<?xml', " TIMES ");"
            "INSERT INTO command_results VALUES ('D', 'C', 'NotNow', '<?xml',"
            " '2020-01-01 00:00:06', 3, " TIMES ");"
            "INSERT INTO enrollment_queue VALUES ('D', 'C', 0, -5, " TIMES ");"
            "INSERT INTO enrollment_queue VALUES ('D:U', 'C', 1, 5, " TIMES ");"
            "INSERT INTO push_certs VALUES ('t', '-----BEGIN CERTIFICATE-----x', '-----y', 42,"
            " " TIMES ");"
            "INSERT INTO cert_auth_associations VALUES ('D', hex(zeroblob(32)), " TIMES ");"
            "INSERT INTO mdm_dead_tokens (id, token_hex, reason, created_at)"
            " VALUES ('D', 'ab', 'Unregistered', '2020-01-01 00:00:07')");
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        copy_t result = copy(tables[i], 0);

        assert_true(result.added > 0);
        assert_string_equal(result.refused, "");
        assert_string_equal(difference(tables[i]), "none");
    }
}

static void test_pages(void **state)
{
    copy_t result;

    (void)state;
    db_fill(&source, 1234);
    result = copy("devices", 0);
    assert_int_equal(result.read, 1234);
    assert_int_equal(result.pages, 3);
    assert_string_equal(difference("devices"), "none");
    /* large values come alone, small ones together */
    db_exec(&source, "INSERT INTO devices (id, authenticate, authenticate_at)"
                     " VALUES ('Z', hex(zeroblob(8000000)), '2020-01-01 00:00:00')");
    db_exec(&source, "INSERT INTO devices (id, authenticate, authenticate_at, unlock_token)"
                     " VALUES ('D-01230x', 'a', '2020-01-01 00:00:00', randomblob(3000000))");
    db_exec(&target, "DELETE FROM devices");
    result = copy("devices", 0);
    assert_int_equal(result.added, 1236);
    assert_true(result.pages >= 5);
    assert_string_equal(difference("devices"), "none");
}

static void test_resume(void **state)
{
    copy_t result;

    (void)state;
    db_fill(&source, 700);
    copy("devices", 0);
    db_exec(&target, "DELETE FROM devices WHERE id > 'D-00100' AND id < 'D-00104'");
    db_exec(&target, "UPDATE devices SET authenticate = 'kept' WHERE id = 'D-00001'");
    result = copy("devices", 1);
    assert_int_equal(result.read, 700);
    assert_int_equal(result.added, 3);
    assert_string_equal(result.refused, "");
    assert_db(&target, "SELECT authenticate FROM devices WHERE id = 'D-00001'", "kept");
    /* and without, rows that are there are refused */
    result = copy("devices", 0);
    assert_int_equal(result.added, 0);
    assert_non_null(strstr(result.refused, "D-00700: UNIQUE constraint failed"));
}

static void test_refused(void **state)
{
    copy_t result;

    (void)state;
    db_fill(&source, 600);
    db_exec(&source, "PRAGMA ignore_check_constraints = ON;"
                     "UPDATE devices SET authenticate = '' WHERE id = 'D-00100';"
                     "UPDATE devices SET authenticate_at = 'noon' WHERE id = 'D-00300';"
                     "UPDATE devices SET created_at = '2021-02-30 00:00:00' WHERE id = 'D-00301';"
                     "UPDATE devices SET created_at = '2021-02-03 00:00:00+02:00'"
                     " WHERE id = 'D-00302';"
                     "UPDATE devices SET created_at = '2021-02-03T04:05:06.700Z'"
                     " WHERE id = 'D-00303';"
                     "UPDATE devices SET serial_number = '' WHERE id IN ('D-00100', 'D-00555')");
    result = copy("devices", 0);
    assert_int_equal(result.added, 595);
    assert_db(&target, "SELECT count(*) FROM devices", "595");
    assert_db(&target, "SELECT created_at FROM devices WHERE id = 'D-00303'",
              "2021-02-03 04:05:06.7");
    assert_non_null(strstr(result.refused, "D-00100: CHECK constraint failed"));
    assert_non_null(strstr(result.refused, "D-00555: CHECK constraint failed"));
    assert_non_null(strstr(result.refused, "D-00300: authenticate_at is not a time in UTC"));
    assert_non_null(strstr(result.refused, "D-00301: created_at is not"));
    assert_non_null(strstr(result.refused, "D-00302: created_at is not"));
    /* what belongs to a device that is not there is refused too, and the rest is not */
    result = copy("enrollments", 0);
    assert_int_equal(result.added, 595);
    assert_non_null(strstr(result.refused, "D-00555: FOREIGN KEY constraint failed"));
}

/* A queue longer than a page, with commands of the same second. */
static void fill_queue(void)
{
    db_fill(&source, 3);
    db_exec(&source,
            "INSERT INTO commands (command_uuid, request_type, command)"
            " WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)"
            " SELECT printf('C-%05d', (i * 7919) % 100003), 'x', '<?xml' FROM n;"
            "INSERT INTO enrollment_queue (id, command_uuid, created_at)"
            " SELECT d.id, c.command_uuid, '2020-01-01 00:00:00' FROM commands AS c, devices AS d"
            " ORDER BY c.rowid");
}

static void test_queue_order(void **state)
{
    static const char order[] = "SELECT command_uuid FROM enrollment_queue WHERE id = 'D-00002'"
                                " ORDER BY rowid";
    copy_t result;

    (void)state;
    fill_queue();
    copy("devices", 0);
    copy("enrollments", 0);
    copy("commands", 0);
    result = copy("enrollment_queue", 0);
    assert_int_equal(result.added, 3600);
    assert_string_equal(difference("enrollment_queue"), "none");
    assert_string_equal(db_value(&source, order), db_value(&target, order));
}

/* For a target that serves by time, the times tell the order; twice makes no difference. */
static void test_queue_by_time(void **state)
{
    store_t *from = reading(&source);
    store_table_t by_time;
    store_reader_t *reader;
    apr_array_header_t *rows;
    const char *last = "";
    const char *expected;
    const char *seen = "";
    char *state_of = NULL;

    (void)state;
    fill_queue();
    db_exec(&source, "UPDATE enrollment_queue SET active = 0 WHERE command_uuid IN"
                     " (SELECT command_uuid FROM commands WHERE rowid <= 1100)");
    expected = db_value(&source, "SELECT command_uuid FROM enrollment_queue"
                                 " WHERE id = 'D-00003' AND active ORDER BY rowid");
    by_time = *table_of(from, "enrollment_queue");
    by_time.by_arrival = 0;
    store_reader_open(&reader, from, table_of(from, "enrollment_queue"), &by_time, source.pool);
    do {
        assert_int_equal(store_reader_next(reader, &rows), APR_SUCCESS);
        for (int i = 0; i < rows->nelts; i++) {
            store_row_t row = APR_ARRAY_IDX(rows, i, store_row_t);

            if (row[2][0] == '0') {
                assert_string_equal(row[4], "2020-01-01 00:00:00"); /* history stays exact */
            } else if (strcmp(row[0], "D-00003") == 0) {
                assert_true(strcmp(last, row[4]) <= 0);
                last = apr_pstrdup(source.pool, row[4]);
                seen = apr_pstrcat(source.pool, seen, *seen ? "\n" : "", row[1], NULL);
            }
        }
    } while (rows->nelts > 0);
    assert_string_equal(seen, expected);
    assert_string_equal(apr_strtok(apr_pstrdup(source.pool, last), ".", &state_of),
                        "2020-01-01 00:00:00");
}

static void test_source_is_only_read(void **state)
{
    store_config_t config = db_config(&source);
    store_t *store = NULL;
    const char *why = NULL;
    apr_array_header_t *rows;
    apr_array_header_t *refused;
    store_reader_t *reader;
    int added = 0;

    (void)state;
    db_fill(&target, 1);
    assert_db(&source, "PRAGMA journal_mode = DELETE", "delete");
    config.read_only = 1;
    store = db_store_with(&config, source.pool);
    store_reader_open(&reader, reading(&target), table_of(store, "devices"),
                      table_of(store, "devices"), source.pool);
    assert_int_equal(store_reader_next(reader, &rows), APR_SUCCESS);
    assert_int_equal(rows->nelts, 1);
    /* the database itself refuses */
    if (store_table_add(store, table_of(store, "devices"), rows, 0, &added, &refused,
                        source.pool) == APR_SUCCESS) {
        assert_int_equal(added, 0);
        assert_int_equal(refused->nelts, 1);
    }
    assert_db(&source, "SELECT count(*) FROM devices", "0");
    assert_db(&source, "PRAGMA journal_mode", "delete");
    config.params = apr_pstrcat(source.pool, source.path, "-none", NULL);
    assert_int_equal(store_open(&store, &config, &why, source.pool), MDM_EINPUT);
    assert_non_null(strstr(why, "-none"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tables, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_resume, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queue_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queue_by_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_source_is_only_read, setup, teardown),
    };
    int failed;

    apr_initialize();
    failed = cmocka_run_group_tests_name("copy", tests, NULL, NULL);
    apr_terminate();
    return failed;
}
