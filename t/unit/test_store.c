/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Tests the store on a real database file: the schema, transactions and their retries, the bounded
 * wait, outages, lists of ids, and that values come back as they went in. What a message means is
 * tested elsewhere.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <apr_atomic.h>
#include <apr_general.h>
#include <apr_thread_proc.h>

#include "db.h"

#define XML "<?xml version=\"1.0\"?>"

static db_t db;
static apr_pool_t *pool; /* the database's: stores live as long */

static int setup(void **state)
{
    (void)state;
    db_setup(&db);
    pool = db.pool;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    db_teardown(&db);
    return 0;
}

static const char *sha256(int number)
{
    return apr_psprintf(pool, "%064x", (unsigned)number);
}

static store_t *plain_store(void)
{
    store_config_t config = db_config(&db);

    return db_store_with(&config, pool);
}

/* Work: association rows id/sha256; how it behaves is told by the members. */
typedef struct job_t {
    const char *id;
    const char *sha256;
    apr_status_t result; /* what the work returns when its statement succeeded */
    int failures;        /* the first so many calls end with a statement that fails */
    int swallow;         /* the work hides the failure */
    int calls;
} job_t;

static apr_status_t add_job(store_tx_t *tx, void *baton, apr_pool_t *unused)
{
    job_t *job = baton;
    apr_status_t status;

    (void)unused;
    job->calls++;
    status = store_association_add(tx, job->id, job->sha256);
    if (status == APR_SUCCESS && job->calls <= job->failures) {
        status = store_association_add(tx, job->id, "not a hash"); /* a check refuses it */
        if (job->swallow) {
            return APR_SUCCESS;
        }
        if (status == APR_SUCCESS) {
            return APR_EGENERAL;
        }
    }
    return status == APR_SUCCESS ? job->result : status;
}

static apr_status_t load_job(store_tx_t *tx, void *baton, apr_pool_t *unused)
{
    job_t *job = baton;

    (void)unused;
    job->calls++;
    return store_association_load(tx, job->id, job->sha256);
}

static apr_status_t add(store_t *store, const char *id, int number)
{
    job_t job = {id, sha256(number), APR_SUCCESS, 0, 0, 0};

    return store_write(store, add_job, &job, pool);
}

static apr_status_t load(store_t *store, const char *id, int number)
{
    job_t job = {id, sha256(number), APR_SUCCESS, 0, 0, 0};

    return store_read(store, load_job, &job, pool);
}

/* -- The schema ----------------------------------------------------------------------------- */

static void test_driver(void **state)
{
    store_config_t config = db_config(&db);
    store_t *store = NULL;
    const char *why = NULL;

    (void)state;
    assert_int_equal(store_driver_check("sqlite3", &why, pool), APR_SUCCESS);
    assert_int_equal(store_driver_check("dbase", &why, pool), MDM_EINPUT);
    assert_non_null(strstr(why, "dbase"));
    why = NULL;
    config.driver = "dbase";
    assert_int_equal(store_open(&store, &config, &why, pool), MDM_EINPUT);
    assert_non_null(why);
    assert_null(store);
}

static void test_schema_empty(void **state)
{
    store_t *store = plain_store();
    const char *why = NULL;

    (void)state;
    assert_int_equal(store_schema_check(store, &why, pool), MDM_ESCHEMA);
    assert_non_null(why);
    assert_non_null(strstr(why, "devices"));
    /* and reading from it is a failure, never "no such row" */
    assert_int_equal(load(store, "D-1", 1), MDM_EUNAVAILABLE);
    assert_int_equal(add(store, "D-1", 1), MDM_EUNAVAILABLE);
}

static void test_schema_create(void **state)
{
    store_t *store = plain_store();
    const char *why = NULL;

    (void)state;
    assert_int_equal(store_schema_create(store, pool), APR_SUCCESS);
    assert_int_equal(store_schema_check(store, &why, pool), APR_SUCCESS);
    assert_null(why);
    assert_int_equal(add(store, "D-1", 1), APR_SUCCESS);
    assert_int_equal(store_schema_create(store, pool), APR_SUCCESS);
    assert_int_equal(store_schema_create(plain_store(), pool), APR_SUCCESS);
    assert_int_equal(store_schema_check(store, &why, pool), APR_SUCCESS);
    assert_int_equal(load(store, "D-1", 1), APR_SUCCESS);
    assert_db(&db,
              "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
              " AND name NOT LIKE 'sqlite%' AND name NOT LIKE 'mdm%' ORDER BY name",
              "cert_auth_associations\ncommand_results\ncommands\ndevices\nenrollment_queue\n"
              "enrollments\npush_certs\nusers\nview_queue");
}

static void test_schema_missing(void **state)
{
    static const char *const tables[] = {
        "devices",          "users",      "enrollments",           "commands", "command_results",
        "enrollment_queue", "push_certs", "cert_auth_associations"};
    const char *why = NULL;

    (void)state;
    db_store(&db);
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        const char *there = apr_psprintf(
            pool, "PRAGMA legacy_alter_table = ON; ALTER TABLE %s RENAME TO away", tables[i]);
        const char *back = apr_psprintf(
            pool, "PRAGMA legacy_alter_table = ON; ALTER TABLE away RENAME TO %s", tables[i]);

        db_exec(&db, there);
        why = NULL;
        assert_int_equal(store_schema_check(plain_store(), &why, pool), MDM_ESCHEMA);
        assert_non_null(why);
        if (strstr(why, tables[i]) == NULL) {
            fail_msg("%s is missing, and the reason says: %s", tables[i], why);
        }
        db_exec(&db, back);
        assert_int_equal(store_schema_check(plain_store(), &why, pool), APR_SUCCESS);
    }
    db_exec(&db, "DROP VIEW view_queue");
    assert_int_equal(store_schema_check(plain_store(), &why, pool), MDM_ESCHEMA);
    assert_non_null(strstr(why, "view_queue"));
    assert_int_equal(store_schema_create(plain_store(), pool), APR_SUCCESS);
    assert_int_equal(store_schema_check(plain_store(), &why, pool), APR_SUCCESS);

    db_exec(&db, "PRAGMA legacy_alter_table = ON;"
                 " ALTER TABLE enrollments RENAME COLUMN token_update_tally TO tally");
    why = NULL;
    assert_int_equal(store_schema_check(plain_store(), &why, pool), MDM_ESCHEMA);
    assert_non_null(why);
    assert_non_null(strstr(why, "token_update_tally"));
    assert_int_equal(store_schema_check(plain_store(), &why, pool), MDM_ESCHEMA);
}

/* The schema was changed by somebody else since this connection looked last: what counts is what
 * is there now. */
static void test_schema_check_after_change(void **state)
{
    store_t *store = db_store(&db);
    const char *why = NULL;
    apr_status_t status;

    (void)state;
    assert_int_equal(store_schema_check(store, &why, pool), APR_SUCCESS);
    db_exec(&db, "CREATE TABLE extra (id TEXT)");
    status = store_schema_check(store, &why, pool);
    if (status != APR_SUCCESS) {
        fail_msg("the schema fits, and the check says %d: %s", (int)status, why ? why : "-");
    }
    db_exec(&db, "ALTER TABLE push_certs RENAME TO away");
    assert_int_equal(store_schema_check(store, &why, pool), MDM_ESCHEMA);
    assert_non_null(strstr(why, "push_certs"));
}

static void test_prefixes_that_are_none(void **state)
{
    static const char *const none[] = {
        "1nano_", "Nano_", "nano-", "na no",     "n'",
        "n\"",    "n;",    "{p}",   "n\xc3\xa4", "nano_nano_nano_nano_n",
    };
    static const char *const fine[] = {"", "_", "nano_", "n1", "nano_nano_nano_nano_"};

    (void)state;
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
        store_config_t config = db_config(&db);
        store_t *store = NULL;
        const char *why = NULL;

        assert_int_equal(store_prefix_check(none[i], &why, pool), MDM_EINPUT);
        assert_non_null(strstr(why, none[i]));
        config.prefix = none[i];
        why = NULL;
        assert_int_equal(store_open(&store, &config, &why, pool), MDM_EINPUT);
        assert_non_null(strstr(why, "is no prefix: use up to 20 small letters, digits and _"));
        assert_null(store);
    }
    for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++) {
        const char *why = NULL;

        assert_int_equal(store_prefix_check(fine[i], &why, pool), APR_SUCCESS);
        assert_null(why);
    }
}

static void test_prefix(void **state)
{
    store_config_t config = db_config(&db);
    store_t *store;
    const char *why = NULL;

    (void)state;
    config.prefix = "nano_";
    store = db_store_with(&config, pool);
    assert_int_equal(store_schema_check(store, &why, pool), MDM_ESCHEMA);
    assert_non_null(strstr(why, "nano_devices"));
    assert_int_equal(store_schema_create(store, pool), APR_SUCCESS);
    assert_int_equal(store_schema_check(store, &why, pool), APR_SUCCESS);
    assert_db(&db,
              "SELECT count(*) FROM sqlite_master WHERE name NOT LIKE 'nano!_%' ESCAPE '!'"
              " AND name NOT LIKE 'sqlite!_%' ESCAPE '!'",
              "0");
    assert_db(&db, "SELECT count(*) FROM sqlite_master WHERE name = 'nano_view_queue'", "1");
    assert_db(&db,
              "SELECT count(*) > 0 FROM sqlite_master WHERE type = 'index'"
              " AND name = 'nano_enrollment_queue_next'",
              "1");
    assert_int_equal(add(store, "D-1", 1), APR_SUCCESS);
    assert_int_equal(load(store, "D-1", 1), APR_SUCCESS);
    assert_db(&db, "SELECT id FROM nano_cert_auth_associations", "D-1");
    /* foreign keys name the prefixed tables */
    assert_db(&db,
              "SELECT DISTINCT \"table\" FROM pragma_foreign_key_list('nano_enrollments')"
              " ORDER BY 1",
              "nano_devices\nnano_users");

    /* another set of tables beside it */
    store = db_store(&db);
    assert_int_equal(store_schema_check(store, &why, pool), APR_SUCCESS);
    assert_int_equal(load(store, "D-1", 1), APR_ENOENT);
}

/* -- Transactions --------------------------------------------------------------------------- */

static void test_rollback_on_status(void **state)
{
    static const apr_status_t statuses[] = {MDM_EREFUSED, MDM_ECONFLICT, MDM_EINPUT, APR_ENOENT,
                                            MDM_EDECLINED};
    store_t *store = db_store(&db);

    (void)state;
    for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++) {
        job_t job = {"D-1", sha256(1), statuses[i], 0, 0, 0};

        assert_int_equal(store_write(store, add_job, &job, pool), statuses[i]);
        assert_int_equal(job.calls, 1);
        assert_db(&db, "SELECT count(*) FROM cert_auth_associations", "0");
    }
    assert_int_equal(add(store, "D-1", 1), APR_SUCCESS);
    assert_db(&db, "SELECT count(*) FROM cert_auth_associations", "1");
}

static void test_retry_succeeds(void **state)
{
    store_t *store = db_store(&db);
    job_t job = {"D-1", sha256(1), APR_SUCCESS, 1, 0, 0};

    (void)state;
    assert_int_equal(store_write(store, add_job, &job, pool), APR_SUCCESS);
    assert_int_equal(job.calls, 2);
    assert_db(&db, "SELECT count(*) FROM cert_auth_associations", "1");
}

static void failing(store_t *store, int swallow)
{
    job_t job = {"D-1", sha256(1), APR_SUCCESS, 1000, swallow, 0};

    assert_int_equal(store_write(store, add_job, &job, pool), MDM_EUNAVAILABLE);
    assert_int_equal(job.calls, 2);
    assert_db(&db, "SELECT count(*) FROM cert_auth_associations", "0");
    job.calls = 0;
    job.failures = 1000;
    assert_int_equal(store_read(store, add_job, &job, pool), MDM_EUNAVAILABLE);
    assert_int_equal(job.calls, 2);
    db_exec(&db, "DELETE FROM cert_auth_associations"); /* reads have no transaction */
}

static void test_retry_is_bounded(void **state)
{
    store_config_t config = db_config(&db);
    store_t *store;

    (void)state;
    db_store(&db);
    config.max = 1; /* a lost connection would show */
    store = db_store_with(&config, pool);
    for (int i = 0; i < 5; i++) {
        failing(store, 0);
        failing(store, 1);
    }
    assert_int_equal(add(store, "D-1", 1), APR_SUCCESS);
    assert_int_equal(load(store, "D-1", 1), APR_SUCCESS);
    assert_int_equal(load(store, "D-1", 2), APR_ENOENT);
}

/* -- Waiting and concurrency ---------------------------------------------------------------- */

typedef struct holder_t {
    store_t *store;
    int writes;
    apr_uint32_t started;
    apr_uint32_t stop;
    apr_status_t status;
} holder_t;

static apr_status_t hold(store_tx_t *tx, void *baton, apr_pool_t *unused)
{
    holder_t *holder = baton;
    apr_status_t status = store_association_load(tx, "D-1", "x");

    (void)unused;
    apr_atomic_set32(&holder->started, 1);
    for (int i = 0; i < 1000 && !apr_atomic_read32(&holder->stop); i++) {
        apr_sleep(apr_time_from_msec(10));
    }
    return status == APR_ENOENT ? APR_SUCCESS : status;
}

static void *APR_THREAD_FUNC holder_thread(apr_thread_t *thread, void *baton)
{
    holder_t *holder = baton;
    apr_pool_t *own = apr_thread_pool_get(thread);

    holder->status = holder->writes ? store_write(holder->store, hold, holder, own)
                                    : store_read(holder->store, hold, holder, own);
    return NULL;
}

static apr_thread_t *start_holding(holder_t *holder)
{
    apr_thread_t *thread = NULL;

    assert_int_equal(apr_thread_create(&thread, NULL, holder_thread, holder, pool), APR_SUCCESS);
    while (!apr_atomic_read32(&holder->started)) {
        apr_sleep(apr_time_from_msec(1));
    }
    return thread;
}

static void stop_holding(holder_t *holder, apr_thread_t *thread)
{
    apr_status_t status;

    apr_atomic_set32(&holder->stop, 1);
    apr_thread_join(&status, thread);
    assert_int_equal(holder->status, APR_SUCCESS);
}

static void assert_waits(apr_status_t got, apr_time_t since)
{
    apr_interval_time_t took = apr_time_now() - since;

    assert_int_equal(got, MDM_EUNAVAILABLE);
    assert_in_range(apr_time_as_msec(took), 250, 3000);
}

static void test_bounded_wait(void **state)
{
    store_config_t config = db_config(&db);

    (void)state;
    db_store(&db);
    config.max = 1;
    config.wait = apr_time_from_msec(300);
    for (int writes = 0; writes < 2; writes++) {
        holder_t holder = {db_store_with(&config, pool), writes, 0, 0, 0};
        apr_thread_t *thread = start_holding(&holder);
        apr_time_t since = apr_time_now();

        assert_waits(load(holder.store, "D-1", 1), since);
        since = apr_time_now();
        assert_waits(add(holder.store, "D-1", 1), since);
        stop_holding(&holder, thread);
        assert_int_equal(load(holder.store, "D-1", 1), APR_ENOENT);
        assert_int_equal(add(holder.store, "D-1", writes + 2), APR_SUCCESS);
    }
}

/* A writer does not stop readers. */
static void test_read_while_writing(void **state)
{
    store_t *store = db_store(&db);
    holder_t holder = {store, 1, 0, 0, 0};
    apr_thread_t *thread = start_holding(&holder);
    apr_time_t since = apr_time_now();

    (void)state;
    assert_int_equal(load(store, "D-1", 1), APR_ENOENT);
    assert_in_range(apr_time_as_msec(apr_time_now() - since), 0, 2000);
    stop_holding(&holder, thread);
}

typedef struct writer_t {
    store_t *store;
    int number;
    int reads; /* instead of writing */
    int failures;
} writer_t;

#define TURNS 200

static int turns(store_t *store, int number, int reads, apr_pool_t *parent)
{
    int failures = 0;
    apr_pool_t *turn;

    apr_pool_create(&turn, parent);
    for (int i = 0; i < TURNS; i++) {
        job_t job = {"D-1", apr_psprintf(turn, "%032d%032d", number, i), APR_SUCCESS, 0, 0, 0};

        if (reads) {
            job.id = "nobody";
            failures += store_read(store, load_job, &job, turn) != APR_ENOENT;
        } else {
            job.id = apr_psprintf(turn, "D-%d-%d", number, i);
            failures += store_write(store, add_job, &job, turn) != APR_SUCCESS;
        }
        apr_pool_clear(turn);
    }
    apr_pool_destroy(turn);
    return failures;
}

static void *APR_THREAD_FUNC writer_thread(apr_thread_t *thread, void *baton)
{
    writer_t *writer = baton;

    writer->failures =
        turns(writer->store, writer->number, writer->reads, apr_thread_pool_get(thread));
    return NULL;
}

static void test_threads(void **state)
{
    store_t *store = db_store(&db);
    writer_t writers[4];
    apr_thread_t *threads[4];

    (void)state;
    for (int i = 0; i < 4; i++) {
        writers[i] = (writer_t){store, i, i >= 2, -1};
        assert_int_equal(apr_thread_create(&threads[i], NULL, writer_thread, &writers[i], pool),
                         APR_SUCCESS);
    }
    for (int i = 0; i < 4; i++) {
        apr_status_t status;

        apr_thread_join(&status, threads[i]);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(writers[i].failures, 0);
    }
    assert_db(&db, "SELECT count(*) FROM cert_auth_associations", "400");
}

/* What a child process does; returns its number of failures. */
typedef int child_t(int number, apr_pool_t *own);

static int child_writes(int number, apr_pool_t *own)
{
    store_config_t config = db_config(&db);
    store_t *store = NULL;
    const char *why;

    if (store_open(&store, &config, &why, own) != APR_SUCCESS) {
        return 255;
    }
    number = turns(store, number, 0, own);
    return number > 254 ? 254 : number;
}

static int child_creates(int number, apr_pool_t *own)
{
    store_config_t config = db_config(&db);
    store_t *store = NULL;
    const char *why;

    (void)number;
    if (store_open(&store, &config, &why, own) != APR_SUCCESS) {
        return 255;
    }
    if (store_schema_create(store, own) != APR_SUCCESS) {
        return 1;
    }
    return store_schema_check(store, &why, own) == APR_SUCCESS ? 0 : 2;
}

/* Connects anew for each write, so that opening and closing the file is raced, too. */
static int child_reconnects(int number, apr_pool_t *own)
{
    store_config_t config = db_config(&db);
    int failures = 0;

    for (int i = 0; i < 50; i++) {
        job_t job;
        store_t *store = NULL;
        const char *why;
        apr_pool_t *turn;

        apr_pool_create(&turn, own);
        job = (job_t){apr_psprintf(turn, "D-%d-%d", number, i),
                      apr_psprintf(turn, "%032d%032d", number, i),
                      APR_SUCCESS,
                      0,
                      0,
                      0};
        if (store_open(&store, &config, &why, turn) != APR_SUCCESS ||
            store_write(store, add_job, &job, turn) != APR_SUCCESS) {
            failures++;
        }
        apr_pool_destroy(turn);
    }
    return failures;
}

static void run_children(child_t *child, int count)
{
    pid_t pids[8];

    for (int i = 0; i < count; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            apr_pool_t *own;
            int failures = 255;

            if (apr_pool_create(&own, NULL) == APR_SUCCESS) {
                failures = child(i, own);
                apr_pool_destroy(own);
            }
            _exit(failures);
        }
    }
    for (int i = 0; i < count; i++) {
        int result = -1;

        assert_int_equal(waitpid(pids[i], &result, 0), pids[i]);
        assert_true(WIFEXITED(result));
        assert_int_equal(WEXITSTATUS(result), 0);
    }
}

/* Creates the schema on a store that is closed again: none is shared across a fork. */
static void create_and_close(void)
{
    store_config_t config = db_config(&db);
    apr_pool_t *own;

    assert_int_equal(apr_pool_create(&own, NULL), APR_SUCCESS);
    assert_int_equal(store_schema_create(db_store_with(&config, own), own), APR_SUCCESS);
    apr_pool_destroy(own);
}

static void test_processes(void **state)
{
    (void)state;
    create_and_close();
    run_children(child_writes, 2);
    assert_db(&db, "SELECT count(*) FROM cert_auth_associations", "400");
}

static void test_processes_create(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++) {
        const char *why = NULL;

        db.path = apr_psprintf(pool, "%s/create-%d.db", db.dir, i);
        run_children(child_creates, 4);
        assert_int_equal(store_schema_check(plain_store(), &why, pool), APR_SUCCESS);
    }
}

typedef struct creator_t {
    store_t *store;
    apr_status_t status;
} creator_t;

static void *APR_THREAD_FUNC creator_thread(apr_thread_t *thread, void *baton)
{
    creator_t *creator = baton;

    creator->status = store_schema_create(creator->store, apr_thread_pool_get(thread));
    return NULL;
}

/* The database is locked while a connection is made: busy, and no reason to give up at once. */
static void test_busy_while_connecting(void **state)
{
    creator_t creator = {plain_store(), -1};
    const apr_dbd_driver_t *driver = db_driver(pool);
    apr_dbd_t *handle;
    apr_thread_t *thread = NULL;
    apr_status_t status;
    int rows;

    (void)state;
    db_exec(&db, "CREATE TABLE other (id TEXT)");
    handle = db_open(&db, driver, pool);
    assert_int_equal(apr_dbd_query(driver, handle, &rows, "BEGIN EXCLUSIVE"), 0);
    assert_int_equal(apr_thread_create(&thread, NULL, creator_thread, &creator, pool), APR_SUCCESS);
    apr_sleep(apr_time_from_msec(300));
    assert_int_equal(apr_dbd_query(driver, handle, &rows, "COMMIT"), 0);
    apr_thread_join(&status, thread);
    apr_dbd_close(driver, handle);
    assert_int_equal(creator.status, APR_SUCCESS);
}

static void test_processes_reconnect(void **state)
{
    (void)state;
    create_and_close();
    run_children(child_reconnects, 3);
    assert_db(&db, "SELECT count(*) FROM cert_auth_associations", "150");
}

/* Somebody else writes for longer than one attempt waits. */
static void test_busy_elsewhere(void **state)
{
    store_t *store = db_store(&db);
    holder_t holder = {plain_store(), 1, 0, 0, 0}; /* a store of its own: another writer lock */
    apr_thread_t *thread = start_holding(&holder);
    job_t job = {"D-1", sha256(1), APR_SUCCESS, 0, 0, 0};
    writer_t writer = {store, 7, 0, -1};
    apr_thread_t *other = NULL;
    apr_status_t status;

    (void)state;
    assert_int_equal(store_read(store, load_job, &job, pool), APR_ENOENT);
    assert_int_equal(apr_thread_create(&other, NULL, writer_thread, &writer, pool), APR_SUCCESS);
    apr_sleep(apr_time_from_msec(700));
    stop_holding(&holder, thread);
    apr_thread_join(&status, other);
    assert_int_equal(writer.failures, 0);
    assert_db(&db, "SELECT count(*) FROM cert_auth_associations", "200");
}

static void test_idle_connections(void **state)
{
    store_config_t config = db_config(&db);
    store_t *store;

    (void)state;
    db_store(&db);
    config.idle = apr_time_from_msec(1);
    store = db_store_with(&config, pool);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(add(store, "D-1", i), APR_SUCCESS);
        apr_sleep(apr_time_from_msec(5));
        assert_int_equal(load(store, "D-1", i), APR_SUCCESS);
    }
}

/* -- Outages -------------------------------------------------------------------------------- */

static void assert_out(store_t *store)
{
    job_t job = {"D-1", sha256(1), APR_SUCCESS, 0, 0, 0};
    const char *why = NULL;

    assert_int_equal(store_read(store, load_job, &job, pool), MDM_EUNAVAILABLE);
    assert_int_equal(store_write(store, add_job, &job, pool), MDM_EUNAVAILABLE);
    assert_int_equal(job.calls, 0);
    assert_int_equal(store_schema_create(store, pool), MDM_EUNAVAILABLE);
    assert_int_equal(store_schema_check(store, &why, pool), MDM_EUNAVAILABLE);
}

static void test_unreachable(void **state)
{
    store_config_t config = db_config(&db);
    const char *dir = apr_pstrcat(pool, db.dir, "/later", NULL);
    store_t *store;

    (void)state;
    config.params = apr_pstrcat(pool, dir, "/nanomdm.db", NULL);
    config.max = 2;
    store = db_store_with(&config, pool);
    for (int i = 0; i < 5; i++) {
        assert_out(store);
    }
    /* and it comes back by itself */
    assert_int_equal(apr_dir_make(dir, APR_OS_DEFAULT, pool), APR_SUCCESS);
    assert_int_equal(store_schema_create(store, pool), APR_SUCCESS);
    assert_int_equal(load(store, "D-1", 1), APR_ENOENT);
}

static void overwrite(const char *path)
{
    apr_file_t *file;
    char garbage[4096];
    apr_size_t len = sizeof(garbage);

    memset(garbage, 'x', sizeof(garbage));
    if (apr_file_open(&file, path, APR_FOPEN_WRITE, APR_OS_DEFAULT, pool) == APR_SUCCESS) {
        for (int i = 0; i < 100; i++) {
            apr_file_write_full(file, garbage, len, NULL);
        }
        apr_file_close(file);
    }
}

/* What is there must never turn into "no such row". */
static void assert_never_absent(store_t *store)
{
    for (int i = 0; i < 3; i++) {
        apr_status_t status = load(store, "D-1", 1);

        assert_true(status == APR_SUCCESS || status == MDM_EUNAVAILABLE);
        status = add(store, "D-2", 2);
        assert_true(status == APR_SUCCESS || status == MDM_EUNAVAILABLE);
    }
}

static void test_removed(void **state)
{
    store_t *store = db_store(&db);

    (void)state;
    assert_int_equal(add(store, "D-1", 1), APR_SUCCESS);
    apr_file_remove(db.path, pool);
    apr_file_remove(apr_pstrcat(pool, db.path, "-wal", NULL), pool);
    apr_file_remove(apr_pstrcat(pool, db.path, "-shm", NULL), pool);
    assert_never_absent(store);
    /* a new connection makes a new, empty file: that is no database without this row */
    assert_int_equal(load(plain_store(), "D-1", 1), MDM_EUNAVAILABLE);
    assert_int_equal(add(plain_store(), "D-1", 1), MDM_EUNAVAILABLE);
}

static void test_corrupted(void **state)
{
    store_t *store = db_store(&db);

    (void)state;
    assert_int_equal(add(store, "D-1", 1), APR_SUCCESS);
    assert_db(&db, "SELECT count(*) FROM cert_auth_associations",
              "1"); /* another connection comes and goes */
    overwrite(db.path);
    overwrite(apr_pstrcat(pool, db.path, "-wal", NULL));
    assert_never_absent(store);
    assert_int_equal(load(plain_store(), "D-1", 1), MDM_EUNAVAILABLE);
    assert_int_equal(load(plain_store(), "D-9", 1), MDM_EUNAVAILABLE);
    assert_int_equal(add(plain_store(), "D-1", 1), MDM_EUNAVAILABLE);
}

/* Somebody else changes the schema behind prepared statements. */
static void test_schema_changes(void **state)
{
    store_t *store = db_store(&db);

    (void)state;
    assert_int_equal(add(store, "D-1", 1), APR_SUCCESS);
    assert_int_equal(load(store, "D-1", 1), APR_SUCCESS);
    for (int i = 0; i < 5; i++) {
        db_exec(&db, apr_psprintf(pool, "CREATE TABLE extra_%d (id TEXT)", i));
        assert_int_equal(load(store, "D-1", 1), APR_SUCCESS);
        db_exec(&db, apr_psprintf(pool,
                                  "ALTER TABLE cert_auth_associations ADD COLUMN more_%d TEXT", i));
        assert_int_equal(add(store, "D-1", 10 + i), APR_SUCCESS);
        db_exec(&db, apr_psprintf(pool, "DROP TABLE extra_%d", i));
        assert_int_equal(load(store, "D-1", 99), APR_ENOENT);
        assert_int_equal(load(store, "D-1", 10 + i), APR_SUCCESS);
    }
    assert_db(&db, "SELECT count(*) FROM cert_auth_associations", "6");
}

/* -- Lists ---------------------------------------------------------------------------------- */

typedef struct list_t {
    apr_array_header_t *ids;
    apr_array_header_t *known;
    const char *uuid;
} list_t;

static apr_status_t list_load_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    list_t *list = baton;

    return store_enrollments_load(tx, list->ids, &list->known, out);
}

static apr_status_t list_write_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    list_t *list = baton;
    mdm_command_t command = {list->uuid, "DeviceLock", XML, strlen(XML)};
    apr_status_t status = store_enrollments_seen(tx, list->ids);

    if (status == APR_SUCCESS) {
        status = store_command_add(tx, &command, out);
    }
    return status == APR_SUCCESS ? store_queue_add(tx, list->uuid, list->ids) : status;
}

static int compare_ids(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Every fifth id is unknown. */
static list_t make_list(int size)
{
    list_t list = {apr_array_make(pool, size + 1, sizeof(const char *)), NULL,
                   apr_psprintf(pool, "C-%d", size)};

    for (int i = 1; i <= size; i++) {
        APR_ARRAY_PUSH(list.ids, const char *) =
            apr_psprintf(pool, i % 5 == 0 ? "X-%05d" : "D-%05d", i);
    }
    return list;
}

static void assert_list(store_t *store, int size)
{
    list_t list = make_list(size);
    const char *count = apr_itoa(pool, size - size / 5);
    int n = 0;

    assert_int_equal(store_read(store, list_load_job, &list, pool), APR_SUCCESS);
    assert_non_null(list.known);
    assert_int_equal(list.known->nelts, size - size / 5);
    qsort(list.known->elts, (size_t)list.known->nelts, sizeof(const char *), compare_ids);
    for (int i = 1; i <= size; i++) {
        if (i % 5 != 0) {
            assert_string_equal(APR_ARRAY_IDX(list.known, n, const char *),
                                APR_ARRAY_IDX(list.ids, i - 1, const char *));
            n++;
        }
    }
    db_exec(&db, "UPDATE enrollments SET last_seen_at = '2000-01-01 00:00:00'");
    assert_int_equal(store_write(store, list_write_job, &list, pool), APR_SUCCESS);
    assert_db(&db, "SELECT count(*) FROM enrollments WHERE last_seen_at > '2020-01-01'", count);
    assert_db(&db,
              apr_psprintf(pool, "SELECT count(*) FROM enrollment_queue WHERE command_uuid = '%s'",
                           list.uuid),
              count);
    assert_int_equal(store_write(store, list_write_job, &list, pool), APR_SUCCESS);
    assert_db(&db,
              apr_psprintf(pool, "SELECT count(*) FROM enrollment_queue WHERE command_uuid = '%s'",
                           list.uuid),
              count);
}

static void test_lists(void **state)
{
    static const int sizes[] = {0, 1, 2, 31, 32, 33, 511, 512, 513, 544, 545, 2000};
    store_t *store = db_store(&db);

    (void)state;
    db_fill(&db, 2100);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        assert_list(store, sizes[i]);
    }
}

/* -- Values --------------------------------------------------------------------------------- */

typedef struct device_t {
    mdm_message_t message;
    const char *pem;
    const char *base64;
    int found;
} device_t;

#define PEM "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"

static apr_status_t device_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    device_t *device = baton;

    (void)out;
    return store_device_authenticate(tx, &device->message, device->pem);
}

static apr_status_t token_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    device_t *device = baton;

    return store_device_token_update(tx, &device->message, out);
}

static apr_status_t bootstrap_set_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    device_t *device = baton;

    (void)out;
    return store_device_bootstrap_token(tx, device->message.enrollment.id, device->base64);
}

static apr_status_t bootstrap_load_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    device_t *device = baton;

    return store_device_load_bootstrap_token(tx, device->message.enrollment.id, &device->base64,
                                             out);
}

static device_t make_device(const char *id)
{
    device_t device = {.pem = PEM};

    device.message.type = MDM_AUTHENTICATE;
    device.message.enrollment.id = device.message.enrollment.device_id = id;
    device.message.raw = XML;
    device.message.raw_len = strlen(XML);
    return device;
}

static void test_null_and_empty(void **state)
{
    store_t *store = db_store(&db);
    device_t device = make_device("D-1");

    (void)state;
    device.pem = NULL;
    assert_int_equal(store_write(store, device_job, &device, pool), APR_SUCCESS);
    assert_db(&db,
              "SELECT (serial_number IS NULL) || (identity_cert IS NULL) ||"
              " (unlock_token IS NULL) || (token_update IS NULL) ||"
              " (bootstrap_token_b64 IS NULL) FROM devices",
              "11111");
    device.pem = PEM;
    device.message.serial_number = "S";
    assert_int_equal(store_write(store, device_job, &device, pool), APR_SUCCESS);
    assert_db(&db, "SELECT serial_number || identity_cert FROM devices", "S" PEM);
    device.pem = NULL; /* keeps the certificate */
    device.message.serial_number = NULL;
    assert_int_equal(store_write(store, device_job, &device, pool), APR_SUCCESS);
    assert_db(&db, "SELECT (serial_number IS NULL) || identity_cert FROM devices", "1" PEM);

    assert_int_equal(store_read(store, bootstrap_load_job, &device, pool), APR_ENOENT);
    db_exec(&db, "PRAGMA ignore_check_constraints = ON;"
                 " UPDATE devices SET bootstrap_token_b64 = ''");
    device.base64 = NULL;
    assert_int_equal(store_read(store, bootstrap_load_job, &device, pool), APR_SUCCESS);
    assert_non_null(device.base64);
    assert_string_equal(device.base64, "");
    device.base64 = NULL;
    assert_int_equal(store_write(store, bootstrap_set_job, &device, pool), APR_SUCCESS);
    assert_int_equal(store_read(store, bootstrap_load_job, &device, pool), APR_ENOENT);
    assert_int_equal(store_write(store, bootstrap_set_job, &device, pool), APR_SUCCESS);

    device = make_device("D-2"); /* nobody */
    assert_int_equal(store_write(store, bootstrap_set_job, &device, pool), APR_ENOENT);
    device.base64 = "QQ==";
    assert_int_equal(store_write(store, bootstrap_set_job, &device, pool), APR_ENOENT);
}

static const char *hex(const unsigned char *bytes, apr_size_t len)
{
    char *text = apr_palloc(pool, 2 * len + 1);

    for (apr_size_t i = 0; i < len; i++) {
        apr_snprintf(text + 2 * i, 3, "%02X", bytes[i]);
    }
    text[2 * len] = '\0';
    return text;
}

static void test_unlock_token(void **state)
{
    store_t *store = db_store(&db);
    device_t device = make_device("D-1");
    static const apr_size_t lengths[] = {1, 2, 256, 3000};
    unsigned char token[3000];

    (void)state;
    assert_int_equal(store_write(store, device_job, &device, pool), APR_SUCCESS);
    for (apr_size_t i = 0; i < sizeof(token); i++) {
        token[i] = (unsigned char)(i % 256); /* begins with NUL, and has more of them */
    }
    device.message.unlock_token = token;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        device.message.unlock_token_len = lengths[i];
        assert_int_equal(store_write(store, token_job, &device, pool), APR_SUCCESS);
        assert_db(&db, "SELECT hex(unlock_token) FROM devices", hex(token, lengths[i]));
        assert_db(&db, "SELECT typeof(unlock_token) FROM devices", "blob");
    }
    device.message.unlock_token = NULL;
    device.message.unlock_token_len = 0;
    assert_int_equal(store_write(store, token_job, &device, pool), APR_SUCCESS);
    assert_db(&db, "SELECT hex(unlock_token) FROM devices", hex(token, 3000));
}

static void test_unicode(void **state)
{
    static const char *const ids[] = {"d-1",
                                      "D-1 ",
                                      " D-1",
                                      "D-1",
                                      "\xc3\xa9",
                                      "e\xcc\x81",
                                      "e",
                                      "\xf0\x9f\x8d\x8e:\xe6\xbc\xa2",
                                      "1",
                                      "1.0",
                                      "01",
                                      "'; DROP TABLE devices; --",
                                      "%s{p}{ids}%d\\"};
    const int count = (int)(sizeof(ids) / sizeof(ids[0]));
    store_t *store = db_store(&db);

    (void)state;
    for (int i = 0; i < count; i++) {
        device_t device = make_device(ids[i]);

        device.message.serial_number = ids[i];
        assert_int_equal(store_write(store, device_job, &device, pool), APR_SUCCESS);
        device.base64 = apr_psprintf(pool, "%d", i);
        assert_int_equal(store_write(store, bootstrap_set_job, &device, pool), APR_SUCCESS);
        assert_int_equal(add(store, ids[i], i), APR_SUCCESS);
    }
    for (int i = 0; i < count; i++) {
        device_t device = make_device(ids[i]);

        assert_int_equal(store_read(store, bootstrap_load_job, &device, pool), APR_SUCCESS);
        assert_int_equal(atoi(device.base64), i);
        for (int j = 0; j < count; j++) {
            assert_int_equal(load(store, ids[i], j), i == j ? APR_SUCCESS : APR_ENOENT);
        }
    }
    assert_db(&db, "SELECT count(*) FROM devices WHERE id = serial_number", apr_itoa(pool, count));
}

typedef struct command_job_t {
    mdm_command_t command;
    const char *raw;
    apr_size_t raw_len;
} command_job_t;

static apr_status_t command_add_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    command_job_t *job = baton;

    return store_command_add(tx, &job->command, out);
}

static apr_status_t command_load_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    command_job_t *job = baton;

    return store_command_load(tx, job->command.uuid, &job->raw, &job->raw_len, out);
}

static const char *big_text(apr_size_t len)
{
    static const char filling[] = "<a>%s %d {p} {ids} ' \" \\ ? \r\n\t\xc3\xa9\xf0\x9f\x8d\x8e</a>";
    char *text = apr_palloc(pool, len + 1);

    for (apr_size_t i = 0; i < len; i++) {
        text[i] = filling[i % (sizeof(filling) - 1)];
    }
    memcpy(text, XML, strlen(XML));
    text[len] = '\0';
    return text;
}

static void assert_text(store_t *store, apr_size_t len)
{
    command_job_t job = {
        {apr_psprintf(pool, "C-%" APR_SIZE_T_FMT, len), "DeviceLock", big_text(len), len}, NULL, 0};
    const char *raw = job.command.raw;
    char *other = apr_pstrmemdup(pool, raw, len);

    assert_int_equal(store_read(store, command_load_job, &job, pool), APR_ENOENT);
    assert_int_equal(store_write(store, command_add_job, &job, pool), APR_SUCCESS);
    assert_int_equal(store_read(store, command_load_job, &job, pool), APR_SUCCESS);
    assert_int_equal(job.raw_len, len);
    assert_int_equal(strlen(job.raw), len);
    assert_int_equal(memcmp(job.raw, raw, len), 0);
    /* again the same, and with the last byte changed, cut off, and one more */
    assert_int_equal(store_write(store, command_add_job, &job, pool), APR_SUCCESS);
    other[len - 1] ^= 1;
    job.command.raw = other;
    assert_int_equal(store_write(store, command_add_job, &job, pool), MDM_ECONFLICT);
    other[len - 1] = '\0';
    assert_int_equal(store_write(store, command_add_job, &job, pool), MDM_ECONFLICT);
    job.command.raw = apr_pstrcat(pool, raw, " ", NULL);
    assert_int_equal(store_write(store, command_add_job, &job, pool), MDM_ECONFLICT);
    job.command.raw = raw;
    assert_int_equal(store_write(store, command_add_job, &job, pool), APR_SUCCESS);
}

static void test_texts(void **state)
{
    store_t *store = db_store(&db);
    device_t device = make_device("D-1");

    (void)state;
    assert_text(store, 100);
    assert_text(store, 900 * 1024);
    assert_text(store, 5 * 1024 * 1024);
    device.message.raw = big_text(900 * 1024);
    assert_int_equal(store_write(store, device_job, &device, pool), APR_SUCCESS);
    assert_int_equal(store_write(store, token_job, &device, pool), APR_SUCCESS);
    assert_db(&db, "SELECT authenticate FROM devices", device.message.raw);
    assert_db(&db, "SELECT token_update FROM devices", device.message.raw);
}

/* -- Pushing -------------------------------------------------------------------------------- */

typedef struct push_t {
    apr_array_header_t *ids;
    apr_array_header_t *found;
    const char *id;
    const char *token;
    apr_time_t since;
    const char *topic;
    const char *cert_pem;
    const char *key_pem;
    store_push_cert_t cert;
} push_t;

static apr_status_t push_load_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    push_t *push = baton;

    return store_push_load(tx, push->ids, &push->found, out);
}

static apr_status_t push_dead_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    push_t *push = baton;

    return store_push_dead(tx, push->id, push->token, "410 Unregistered", push->since, out);
}

static apr_status_t enrollment_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    device_t *device = baton;
    apr_status_t status = device->message.enrollment.parent_id == NULL
                              ? store_device_token_update(tx, &device->message, out)
                              : store_user_token_update(tx, &device->message);

    return status == APR_SUCCESS ? store_enrollment_token_update(tx, &device->message) : status;
}

static apr_status_t push_cert_store_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    push_t *push = baton;

    (void)out;
    return store_push_cert_store(tx, push->topic, push->cert_pem, push->key_pem);
}

static apr_status_t push_cert_load_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    push_t *push = baton;

    return store_push_cert_load(tx, push->topic, &push->cert, out);
}

static apr_status_t push_cert_next_job(store_tx_t *tx, void *baton, apr_pool_t *out)
{
    push_t *push = baton;

    return store_push_cert_next(tx, push->topic, &push->topic, out);
}

/* @param members  of each row "id topic magic token stale dead", in the order of ids */
static void assert_push(store_t *store, const char *id, const char *expected)
{
    push_t push = {.ids = apr_array_make(pool, 1, sizeof(const char *))};
    const store_push_t *row;

    APR_ARRAY_PUSH(push.ids, const char *) = id;
    assert_int_equal(store_read(store, push_load_job, &push, pool), APR_SUCCESS);
    if (expected == NULL) {
        assert_int_equal(push.found->nelts, 0);
        return;
    }
    assert_int_equal(push.found->nelts, 1);
    row = &APR_ARRAY_IDX(push.found, 0, store_push_t);
    assert_string_equal(apr_psprintf(pool, "%s %s %s %s %s %s", row->id, row->topic, row->magic,
                                     row->token, row->stale != NULL ? row->stale : "-",
                                     row->dead != NULL ? row->dead : "-"),
                        expected);
}

/* A device or, below "D-1", a user channel, with a token. */
static void enroll(store_t *store, const char *id, const char *token)
{
    device_t device = make_device(id);

    device.message.type = MDM_TOKEN_UPDATE;
    if (strchr(id, ':') != NULL) {
        device.message.enrollment.parent_id = device.message.enrollment.device_id = "D-1";
        device.message.enrollment.type = MDM_USER;
    } else {
        assert_int_equal(store_write(store, device_job, &device, pool), APR_SUCCESS);
    }
    device.message.topic = "com.apple.mgmt.T";
    device.message.push_magic = "magic";
    device.message.token_hex = token;
    assert_int_equal(store_write(store, enrollment_job, &device, pool), APR_SUCCESS);
}

static void dead(store_t *store, const char *id, const char *token, apr_time_t since)
{
    push_t push = {.id = id, .token = token, .since = since};

    assert_int_equal(store_write(store, push_dead_job, &push, pool), APR_SUCCESS);
}

#define ALIVE(id, token) assert_push(store, id, id " com.apple.mgmt.T magic " token " - -")
#define DEAD(id, token)                                                                            \
    assert_push(store, id, id " com.apple.mgmt.T magic " token " - 410 Unregistered")

static void test_push_load(void **state)
{
    store_t *store = db_store(&db);
    push_t push = {.ids = apr_array_make(pool, 1, sizeof(const char *))};
    int wrong = 0;

    (void)state;
    db_fill(&db, 1500);
    for (int i = 0; i < 2000; i++) {
        APR_ARRAY_PUSH(push.ids, const char *) = apr_psprintf(pool, "D-%05d", i);
    }
    assert_int_equal(store_read(store, push_load_job, &push, pool), APR_SUCCESS);
    assert_int_equal(push.found->nelts, 1500);
    for (int i = 0; i < push.found->nelts; i++) {
        const store_push_t *row = &APR_ARRAY_IDX(push.found, i, store_push_t);

        wrong += strcmp(row->topic, "t") || strcmp(row->magic, "m") || strcmp(row->token, "ab") ||
                 row->stale != NULL || row->dead != NULL;
    }
    assert_int_equal(wrong, 0);
    assert_push(store, "D-99999", NULL);
    db_exec(&db, "UPDATE enrollments SET enabled = FALSE WHERE id = 'D-00001'");
    assert_push(store, "D-00001", "D-00001 t m ab - -"); /* disabled ones, too */
}

/* A connection knows the tables that there were when it was opened. */
static store_t *fresh_store(void)
{
    db_store(&db);
    return plain_store();
}

static void test_dead_tokens(void **state)
{
    store_t *store = fresh_store();
    apr_time_t now = apr_time_now();
    apr_time_t hour = apr_time_from_sec(3600);

    (void)state;
    enroll(store, "D-1", "aa");
    enroll(store, "D-1:U-1", "bb");
    ALIVE("D-1", "aa");
    dead(store, "D-1", "cc", 0); /* not its token */
    dead(store, "D-2", "aa", 0); /* nobody */
    ALIVE("D-1", "aa");
    dead(store, "D-1", "aa", now - hour); /* before the last TokenUpdate */
    dead(store, "D-1:U-1", "bb", now - hour);
    ALIVE("D-1", "aa");
    ALIVE("D-1:U-1", "bb");
    assert_db_null(&db, "SELECT id FROM mdm_dead_tokens");
    dead(store, "D-1", "aa", now + apr_time_from_sec(2));
    DEAD("D-1", "aa");
    dead(store, "D-1", "aa", now + hour); /* again */
    ALIVE("D-1:U-1", "bb");
    dead(store, "D-1:U-1", "bb", 0);
    DEAD("D-1:U-1", "bb");
    enroll(store, "D-1", "aa"); /* the same token again */
    ALIVE("D-1", "aa");
    DEAD("D-1:U-1", "bb");
    /* the user channel's own TokenUpdate counts, not that of its device */
    db_exec(&db, "DELETE FROM mdm_dead_tokens;"
                 " UPDATE users SET token_update_at = '2001-01-01 00:00:00'");
    dead(store, "D-1:U-1", "bb", now - hour);
    DEAD("D-1:U-1", "bb");
    enroll(store, "D-1:U-1", "dd");
    ALIVE("D-1:U-1", "dd");
    assert_db_null(&db, "SELECT id FROM mdm_dead_tokens");
    /* a row of a token that the enrollment does not have any more says nothing */
    dead(store, "D-1:U-1", "dd", 0);
    db_exec(&db, "UPDATE enrollments SET token_hex = 'ee' WHERE id = 'D-1:U-1'");
    ALIVE("D-1:U-1", "ee");
    dead(store, "D-1:U-1", "ee", 0);
    DEAD("D-1:U-1", "ee");
}

static void test_dead_tokens_elsewhere(void **state)
{
    store_t *store = fresh_store();

    (void)state;
    db_exec(&db, "DROP TABLE mdm_dead_tokens"); /* as on a database that another server made */
    enroll(store, "D-1", "aa");
    dead(store, "D-1", "aa", 0);
    ALIVE("D-1", "aa");
    enroll(store, "D-1", "aa");
    ALIVE("D-1", "aa");
}

static void test_push_certs(void **state)
{
    store_t *store = db_store(&db);
    push_t push = {.topic = "com.apple.mgmt.T", .cert_pem = PEM, .key_pem = "-----one"};

    (void)state;
    enroll(store, "D-1", "aa");
    assert_int_equal(store_read(store, push_cert_load_job, &push, pool), APR_ENOENT);
    assert_int_equal(store_write(store, push_cert_store_job, &push, pool), APR_SUCCESS);
    assert_push(store, "D-1", "D-1 com.apple.mgmt.T magic aa 0 -");
    assert_int_equal(store_read(store, push_cert_load_job, &push, pool), APR_SUCCESS);
    assert_string_equal(push.cert.cert_pem, PEM);
    assert_string_equal(push.cert.key_pem, "-----one");
    assert_int_equal(push.cert.version, 0);
    push.key_pem = "-----two";
    assert_int_equal(store_write(store, push_cert_store_job, &push, pool), APR_SUCCESS);
    assert_int_equal(store_read(store, push_cert_load_job, &push, pool), APR_SUCCESS);
    assert_string_equal(push.cert.key_pem, "-----two");
    assert_int_equal(push.cert.version, 1);
    assert_push(store, "D-1", "D-1 com.apple.mgmt.T magic aa 1 -");

    push.topic = "com.apple.mgmt.S";
    assert_int_equal(store_write(store, push_cert_store_job, &push, pool), APR_SUCCESS);
    push.topic = "";
    assert_int_equal(store_read(store, push_cert_next_job, &push, pool), APR_SUCCESS);
    assert_string_equal(push.topic, "com.apple.mgmt.S");
    assert_int_equal(store_read(store, push_cert_next_job, &push, pool), APR_SUCCESS);
    assert_string_equal(push.topic, "com.apple.mgmt.T");
    assert_int_equal(store_read(store, push_cert_next_job, &push, pool), APR_ENOENT);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_driver),
        TEST(test_schema_empty),
        TEST(test_schema_create),
        TEST(test_schema_missing),
        TEST(test_schema_check_after_change),
        TEST(test_prefixes_that_are_none),
        TEST(test_prefix),
        TEST(test_rollback_on_status),
        TEST(test_retry_succeeds),
        TEST(test_retry_is_bounded),
        TEST(test_bounded_wait),
        TEST(test_read_while_writing),
        TEST(test_threads),
        TEST(test_processes),
        TEST(test_processes_create),
        TEST(test_busy_while_connecting),
        TEST(test_processes_reconnect),
        TEST(test_busy_elsewhere),
        TEST(test_idle_connections),
        TEST(test_unreachable),
        TEST(test_removed),
        TEST(test_corrupted),
        TEST(test_schema_changes),
        TEST(test_lists),
        TEST(test_null_and_empty),
        TEST(test_unlock_token),
        TEST(test_unicode),
        TEST(test_texts),
        TEST(test_push_load),
        TEST(test_dead_tokens),
        TEST(test_dead_tokens_elsewhere),
        TEST(test_push_certs),
    };
    int failed;

    apr_initialize();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    apr_terminate();
    return failed;
}
