/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Tests where webhook events wait: leases and their ends in the database, batches of Idle reports
 * and their split, the queue in memory. The deliverer is played by the tests: they claim, load and
 * settle.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <apr_general.h>
#include <curl/curl.h>

#include "../../src/service/webhook.h"
#include "db.h"
#include "mdm_clock.h"

#define URL "https://hook.example.org/webhook"

static db_t db;
static store_t *store;
static service_webhook_t *webhook;
static hooks_source_t source;
static apr_array_header_t *runs;
static apr_array_header_t *unsettled;
static apr_time_t again;
static int down;
static const char *logged;

static void note_log(mdm_log_level_t level, apr_status_t status, const char *line)
{
    db_quiet(level, status, line);
    logged = level <= MDM_LOG_WARNING ? apr_pstrdup(db.pool, line) : logged;
}

static service_webhook_t *new_webhook(apr_interval_time_t retry, int memory)
{
    service_webhook_config_t config = {
        .target = {.url = URL}, .name = URL, .topics = ~0U, .memory = memory, .retry = retry};
    service_webhook_t *made = NULL;

    assert_int_equal(service_webhook_create(&made, &config, store, db.pool), APR_SUCCESS);
    return made;
}

static int setup(void **state)
{
    store_config_t config;

    (void)state;
    db_setup(&db);
    config = db_config(&db);
    mdm_log_set(note_log);
    logged = NULL;
    down = 0;
    db_store(&db);
    store = db_store_with(&config, db.pool); /* whose connections find the tables */
    webhook = new_webhook(0, 0);
    source = webhook_outbox(webhook);
    runs = apr_array_make(db.pool, 8, sizeof(hooks_run_t *));
    unsettled = apr_array_make(db.pool, 8, sizeof(hooks_run_t *));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < unsettled->nelts; i++) {
        apr_pool_destroy(APR_ARRAY_IDX(unsettled, i, hooks_run_t *)->pool);
    }
    db_teardown(&db);
    return 0;
}

/* So many events of an enrollment that are due, with its id and 1, 2, … as their text. */
static void add(const char *id, int count)
{
    db_exec(&db, apr_psprintf(db.pool,
                              "INSERT INTO mdm_webhook_outbox (webhook, id, topic, event, due_ms)"
                              " WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
                              " WHERE i < %d) SELECT '" URL "', '%s', 'mdm.Connect',"
                              " '%s ' || i, 1000 FROM n",
                              count, id, id));
}

/* Claims; the number of runs that came. */
static int claim(int max)
{
    again = 0;
    apr_array_clear(runs);
    assert_int_equal(source.claim(source.baton, max, down, runs, &again), APR_SUCCESS);
    apr_array_cat(unsettled, runs);
    return runs->nelts;
}

static hooks_run_t *run_at(int i)
{
    return APR_ARRAY_IDX(runs, i, hooks_run_t *);
}

static apr_status_t settle(hooks_run_t *run)
{
    apr_array_header_t *ended = apr_array_make(db.pool, 1, sizeof(hooks_run_t *));
    apr_status_t status;

    APR_ARRAY_PUSH(ended, hooks_run_t *) = run;
    again = 0;
    status = source.settle(source.baton, ended, &again, db.pool);
    for (int i = 0; status == APR_SUCCESS && i < unsettled->nelts; i++) {
        if (APR_ARRAY_IDX(unsettled, i, hooks_run_t *) == run) {
            APR_ARRAY_IDX(unsettled, i, hooks_run_t *) = *(hooks_run_t **)apr_array_pop(unsettled);
            apr_pool_destroy(run->pool);
        }
    }
    return status;
}

static const char *load(hooks_run_t *run)
{
    const char *event = NULL;

    return source.load(source.baton, run, &event, db.pool) == APR_SUCCESS ? event : NULL;
}

/* The delay of a lease or of the events is over. */
static void pass_time(void)
{
    db_exec(&db, "UPDATE mdm_webhook_leases SET until_ms = 1;"
                 "UPDATE mdm_webhook_outbox SET due_ms = 1000 WHERE due_ms > 0");
}

/* They are not, however slow this machine is. */
static void stop_time(void)
{
    db_exec(&db, "UPDATE mdm_webhook_leases SET until_ms = 4000000000000;"
                 "UPDATE mdm_webhook_outbox SET due_ms = 4000000000000 WHERE due_ms > 0");
}

#define LEASES "SELECT id || ' ' || failures FROM mdm_webhook_leases"
#define COUNT "SELECT count(*) FROM mdm_webhook_outbox"

static void test_run(void **state)
{
    hooks_run_t *run;

    (void)state;
    add("B", 2);
    add("A", 1);
    assert_int_equal(claim(8), 2);
    run = run_at(0);
    assert_string_equal(run->id, "A");
    assert_string_equal(load(run), "A 1");
    run->done = 1;
    assert_int_equal(settle(run), APR_SUCCESS);
    assert_db(&db, LEASES, "B 0");
    assert_db(&db, "SELECT event FROM mdm_webhook_outbox ORDER BY seq", "B 1\nB 2");
    run = run_at(1);
    assert_int_equal(run->count, 2);
    assert_int_equal(claim(8), 0); /* ours already */
    run->done = 1;
    assert_string_equal(load(run), "B 2");
    run->done = 2;
    assert_int_equal(settle(run), APR_SUCCESS);
    assert_db_null(&db, LEASES);
    assert_db(&db, COUNT, "0");
}

static void test_failure_waits(void **state)
{
    (void)state;
    add("A", 3);
    assert_int_equal(claim(8), 1);
    run_at(0)->error = "no";
    assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    assert_true(again > mdm_clock());
    assert_db(&db, LEASES, "A 1");
    assert_int_equal(claim(8), 0);
    pass_time();
    assert_int_equal(claim(8), 1);
    run_at(0)->error = "no";
    assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    assert_db(&db, LEASES, "A 2");
    /* the one behind has not failed yet */
    pass_time();
    assert_int_equal(claim(8), 1);
    run_at(0)->done = 1;
    run_at(0)->error = "no";
    assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    assert_db(&db, LEASES, "A 1");
}

/* As at a stop, or when the receiver is found to be down: with daily reloads, retry= would never
 * come to its end. */
static void test_untried_keeps_failures(void **state)
{
    (void)state;
    add("A", 1);
    add("B", 1);
    assert_int_equal(claim(8), 2);
    run_at(0)->error = "no";
    assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    assert_int_equal(settle(run_at(1)), APR_SUCCESS); /* never failed: nothing to keep */
    assert_db(&db, LEASES, "A 1");
    pass_time();
    assert_int_equal(claim(8), 2);
    assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    assert_int_equal(settle(run_at(1)), APR_SUCCESS);
    assert_db(&db, LEASES, "A 1");
    assert_int_equal(claim(8), 2); /* at once, by anybody */
}

static void test_retry_ends(void **state)
{
    (void)state;
    webhook = new_webhook(apr_time_from_sec(3600), 0);
    source = webhook_outbox(webhook);
    add("A", 2);
    assert_int_equal(claim(8), 1);
    run_at(0)->error = "no";
    assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    pass_time();
    db_exec(&db, "UPDATE mdm_webhook_leases SET since_ms = since_ms - 3700000");
    assert_int_equal(claim(8), 1);
    run_at(0)->error = "no, never";
    assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    assert_non_null(strstr(logged, "is given up"));
    assert_db(&db, "SELECT event || error FROM mdm_webhook_outbox WHERE due_ms IS NULL",
              "A 1no, never");
    assert_int_equal(claim(8), 1); /* the next one's turn, at once */
    assert_string_equal(load(run_at(0)), "A 2");
}

static void test_hopeless(void **state)
{
    (void)state;
    add("A", 2);
    assert_int_equal(claim(8), 1);
    run_at(0)->error = "damaged";
    run_at(0)->hopeless = 1;
    assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    assert_db(&db, "SELECT event FROM mdm_webhook_outbox WHERE due_ms IS NULL", "A 1");
    assert_int_equal(claim(8), 1);
    assert_string_equal(load(run_at(0)), "A 2");
}

/* The answer to a claim's commit was lost: the lease is ours, and we do not know. */
static void test_unknown_claim(void **state)
{
    (void)state;
    add("A", 1);
    db_exec(&db, apr_pstrcat(db.pool, "INSERT INTO mdm_webhook_leases VALUES ('" URL "', 'A', '",
                             webhook->owner, "', 99999999999999, 0, 0)", NULL));
    assert_int_equal(claim(8), 1);
    run_at(0)->done = 1;
    assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    assert_db_null(&db, LEASES);
}

/* A database that does not give an event is no failure of the receiver's, and not asked again at
 * once. */
static void test_unread(void **state)
{
    (void)state;
    add("A", 1);
    assert_int_equal(claim(8), 1);
    db_exec(&db, "ALTER TABLE mdm_webhook_outbox RENAME TO away");
    assert_null(load(run_at(0)));
    assert_int_equal(settle(run_at(0)), MDM_EUNAVAILABLE);
    db_exec(&db, "ALTER TABLE away RENAME TO mdm_webhook_outbox");
    assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    assert_true(again > mdm_clock() + apr_time_from_sec(1));
    assert_db(&db, LEASES, "A 0");
    assert_int_equal(claim(8), 0);
    pass_time();
    assert_int_equal(claim(8), 1);
    assert_string_equal(load(run_at(0)), "A 1");
}

/* A lease that has gone to another node: what that one does is not ours to change. */
static void test_lost_lease(void **state)
{
    hooks_run_t *run;

    (void)state;
    add("A", 3);
    assert_int_equal(claim(8), 1);
    run = run_at(0);
    db_exec(&db, "UPDATE mdm_webhook_leases SET owner = 'another', until_ms = 99999999999999");
    run->until = mdm_clock() + apr_time_from_sec(10); /* too short for another event */
    assert_null(load(run));
    run->done = 1; /* which did arrive */
    run->error = "no";
    assert_int_equal(settle(run), APR_SUCCESS);
    assert_db(&db, "SELECT owner || failures FROM mdm_webhook_leases", "another0");
    assert_db(&db, "SELECT event || due_ms FROM mdm_webhook_outbox ORDER BY seq",
              "A 21000\nA 31000");
}

/* More events of one enrollment than a claim looks at: others come first meanwhile, and the rest is
 * due as soon as it can be sent. */
static void test_backlog(void **state)
{
    hooks_run_t *many;

    (void)state;
    add("MANY", 2500);
    add("OTHER", 1);
    assert_int_equal(claim(8), 1);
    many = run_at(0);
    assert_int_equal(many->count, STORE_OUTBOX_RUN_MAX);
    for (int i = 0; i < 40 && claim(8) == 0; i++) {
    }
    assert_int_equal(runs->nelts, 1);
    assert_string_equal(run_at(0)->id, "OTHER");
    many->done = 10; /* and then its time was over */
    assert_int_equal(settle(many), APR_SUCCESS);
    assert_int_equal(claim(8), 1);
    many = run_at(0);
    assert_string_equal(load(many), "MANY 11");
    for (int i = 0; i < 40; i++) {
        assert_int_equal(claim(8), 0);
    }
    many->done = many->count;
    assert_int_equal(settle(many), APR_SUCCESS);
    assert_int_equal(claim(8), 1);
    many = run_at(0);
    assert_string_equal(load(many), "MANY 1011");
    many->done = many->count;
    assert_int_equal(settle(many), APR_SUCCESS);
    assert_int_equal(claim(8), 1);
    assert_int_equal(run_at(0)->count, 490);
    run_at(0)->done = 490;
    assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    assert_db(&db, COUNT " WHERE id = 'MANY'", "0");
}

/* Those of another node are left alone until their lease is over, then they are ours. */
static void test_another_node(void **state)
{
    service_webhook_t *other = new_webhook(0, 0);
    hooks_source_t theirs = webhook_outbox(other);
    apr_array_header_t *their_runs = apr_array_make(db.pool, 8, sizeof(hooks_run_t *));

    (void)state;
    add("A", 1);
    add("B", 1);
    assert_int_equal(theirs.claim(theirs.baton, 1, 0, their_runs, &again), APR_SUCCESS);
    apr_array_cat(unsettled, their_runs);
    assert_int_equal(their_runs->nelts, 1);
    assert_int_equal(claim(8), 1);
    assert_string_equal(run_at(0)->id, "B");
    assert_true(again > mdm_clock());
    assert_int_equal(claim(8), 0);
    pass_time(); /* as long as a killed node's lease lasts */
    assert_int_equal(claim(8), 1);
    assert_string_equal(run_at(0)->id, "A");
}

static const char odd[] = "{p}{ids} %s %lld %% 'quoted' \"double\" back\\slash \\' ; -- \xC3\xA4\n";

static void queue(const char *id, const char *event)
{
    webhook_queue_add(webhook->queue, id, "mdm.Connect", event);
}

#define BATCHES COUNT " WHERE id = ''"

/* Settles what is claimed: as delivered, or as failed with this error; how many events that were.
 */
static int settle_all(const char *error)
{
    int events = 0;

    while (unsettled->nelts > 0) {
        hooks_run_t *run = APR_ARRAY_IDX(unsettled, 0, hooks_run_t *);

        events += run->count;
        run->done = error != NULL ? 0 : run->count;
        run->error = error;
        assert_int_equal(settle(run), APR_SUCCESS);
    }
    return events;
}

/* Everything that can be claimed; how many events that were. */
static int deliver_all(void)
{
    int delivered = 0;

    for (int turn = 0; turn < 1000 && (claim(32) > 0 || again != 0); turn++) {
        delivered += settle_all(NULL);
    }
    return delivered;
}

/* Many in a row; their turn gives each a row, and all that it was. */
static void test_batches(void **state)
{
    char *large = apr_palloc(db.pool, 300001);
    int count = 1203;

    (void)state;
    memset(large, 'x', 300000);
    large[300000] = '\0';
    for (int i = 1; i <= count; i++) {
        queue(apr_psprintf(db.pool, "it's %d", i),
              i == 600 ? large : apr_psprintf(db.pool, "%d %s", i, odd));
    }
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    assert_int_equal(webhook_queue_length(webhook->queue), 0);
    assert_db(&db, BATCHES, "20"); /* 9 and a part before the large one, 9 and a part behind it */
    assert_db(&db, COUNT, "21");
    assert_db(&db, "SELECT id || length(event) FROM mdm_webhook_outbox WHERE id <> ''",
              "it's 600300000");
    assert_int_equal(claim(2), 2); /* the large one, and one of the first batch */
    assert_string_equal(run_at(0)->id, "it's 1");
    assert_string_equal(run_at(1)->id, "it's 600");
    assert_string_equal(load(run_at(0)), apr_psprintf(db.pool, "1 %s", odd));
    assert_db(&db, BATCHES, "19"); /* the others are not split before it is their turn */
    assert_db(&db,
              COUNT " WHERE webhook = '" URL "' AND topic = 'mdm.Connect'"
                    " AND due_ms > 1700000000000 AND id = 'it''s ' || CAST(event AS INTEGER)",
              "64");
    assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    for (int i = 0; i < 100 && (claim(32) > 0 || again != 0); i++) {
    }
    assert_db(&db, BATCHES, "0");
    assert_db(&db, COUNT " WHERE id = 'it''s ' || CAST(event AS INTEGER) AND error IS NULL",
              "1202");
    assert_db(&db,
              "SELECT max(length(event)) || max(CASE WHEN id = 'it''s 1203' THEN event END)"
              " FROM mdm_webhook_outbox",
              apr_psprintf(db.pool, "3000001203 %s", odd));
    settle_all(NULL);
    deliver_all();
    assert_db(&db, COUNT, "0");
    assert_db_null(&db, LEASES);
}

/* Events of their own come first; batches when too few are due. */
static void test_batch_has_its_turn(void **state)
{
    (void)state;
    queue("B", "1");
    queue("C", "1");
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    add("A", 1);
    webhook->split_at = mdm_clock(); /* the one before */
    assert_int_equal(claim(1), 1);
    assert_string_equal(run_at(0)->id, "A");
    assert_db(&db, BATCHES, "1");
    add("D", 1);
    assert_int_equal(claim(2), 2);
    assert_string_equal(run_at(0)->id, "B");
    assert_string_equal(run_at(1)->id, "D");
    assert_int_equal(claim(2), 1);
    assert_string_equal(run_at(0)->id, "C");
}

/* As long as the receiver is down, batches stay what they are. */
static void test_batches_while_down(void **state)
{
    (void)state;
    for (int i = 0; i < 64 * 20; i++) {
        queue(apr_psprintf(db.pool, "%d", i % 30), "1");
    }
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    down = 1;
    for (int i = 0; i < 50; i++) {
        claim(32);
        settle_all("no");
        pass_time();
        webhook->split_at = mdm_clock();
    }
    assert_db(&db, BATCHES, "19");
    webhook->split_at = 0; /* some seconds later */
    claim(32);
    assert_db(&db, BATCHES, "18");
    down = 0;
    settle_all(NULL);
    deliver_all();
    assert_db(&db, COUNT, "0");
}

/* Nor does a process that does not know it yet split them all: where some in a row have events that
 * all wait after failures, the next one is split seldom, until something arrives. */
static void test_batches_in_vain(void **state)
{
    (void)state;
    for (int i = 0; i < 64 * 20; i++) {
        queue(apr_psprintf(db.pool, "%d", i % 30), "1");
    }
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    assert_int_equal(claim(32), 30);
    settle_all("no");
    stop_time();
    for (int i = 0; i < 50; i++) {
        webhook->split_at = mdm_clock();
        assert_int_equal(claim(32), 0);
        assert_int_equal(again != 0, i < 8);
    }
    assert_db(&db, BATCHES, "11");
    webhook->split_at = 0; /* some seconds later */
    assert_int_equal(claim(32), 0);
    assert_db(&db, BATCHES, "10");
    pass_time();
    assert_int_equal(claim(1), 1);
    settle_all(NULL);
    deliver_all();
    assert_db(&db, COUNT, "0");
}

/* Nor if more than enough is always due, which may be refused for ever; but they have their turn.
 */
static void test_batches_while_busy(void **state)
{
    (void)state;
    for (int i = 0; i < 40; i++) {
        add(apr_psprintf(db.pool, "REFUSED %d", i), 1);
    }
    for (int i = 0; i < 65; i++) {
        queue("GOOD", "1");
        queue("GOOD", "2");
    }
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    assert_db(&db, BATCHES, "3");
    for (int turn = 0; turn < 10; turn++) {
        assert_int_equal(claim(32), 32);
        assert_int_equal(again, 0);
        settle_all("no");
        pass_time();
        webhook->split_at = mdm_clock();
    }
    assert_db(&db, BATCHES, "2");
    assert_db(&db, COUNT " WHERE id = 'GOOD' AND due_ms > 0", "64");
    webhook->split_at = 0; /* some seconds later */
    assert_int_equal(claim(32), 32);
    assert_db(&db, BATCHES, "1");
}

/* Those of another process are found after a while, and at once if it has split one already. */
static void test_batches_of_others(void **state)
{
    service_webhook_t *other = new_webhook(0, 0);

    (void)state;
    assert_int_equal(claim(32), 0);
    for (int i = 0; i < 65; i++) {
        webhook_queue_add(other->queue, "A", "mdm.Connect", "1");
        webhook_queue_add(other->queue, "B", "mdm.Connect", "1");
    }
    assert_int_equal(webhook_batch_flush(other), APR_SUCCESS);
    assert_db(&db, BATCHES, "3");
    assert_int_equal(claim(32), 0);
    assert_int_equal(again, 0);
    webhook->looked_at = 0;
    assert_int_equal(claim(32), 2);
    assert_true(again != 0);
    assert_int_equal(claim(32), 0);
    assert_true(again != 0);
    claim(32);
    assert_db(&db, BATCHES, "0");
}

/* More batches than a claim looks at, and most of them for one enrollment. */
static void test_many_batches(void **state)
{
    int settled = 0;

    (void)state;
    for (int i = 0; i < 64 * 120; i++) {
        queue("SAME", "1");
    }
    queue("OTHER", "1");
    queue("OTHER", "2");
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    assert_db(&db, BATCHES, "121");
    assert_int_equal(claim(8), 1);
    assert_string_equal(run_at(0)->id, "SAME");
    for (int i = 0; i < 300 && (claim(8) == 0 || strcmp(run_at(0)->id, "OTHER") != 0); i++) {
        if (runs->nelts == 0 && again == 0) { /* then nobody comes back before this */
            assert_true(settle_all(NULL) > 0);
            settled++;
        }
    }
    assert_int_equal(runs->nelts, 1);
    assert_string_equal(run_at(0)->id, "OTHER");
    assert_in_range(settled, 1, 20);
    assert_db(&db, BATCHES, "0");
}

static apr_status_t split_gone(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    apr_array_header_t *events = apr_array_make(pool, 1, sizeof(store_event_t));
    const store_event_t event = {URL, "A", "mdm.Connect", "1"};

    (void)baton;
    APR_ARRAY_PUSH(events, store_event_t) = event;
    return store_outbox_split(tx, "99", events);
}

/* Another process was faster after this one had read it: its events are there once. */
static void test_batch_is_gone(void **state)
{
    (void)state;
    assert_int_equal(store_write(store, split_gone, NULL, db.pool), APR_ENOENT);
    assert_db(&db, COUNT, "0");
}

/* What one process leaves, another one takes at once: enrollments of the same batch, and those of
 * the next. */
static void test_two_processes(void **state)
{
    service_webhook_t *other = new_webhook(0, 0);
    hooks_source_t theirs = webhook_outbox(other);
    apr_array_header_t *their_runs = apr_array_make(db.pool, 8, sizeof(hooks_run_t *));
    int found = 0;

    (void)state;
    for (int i = 0; i < 128; i++) {
        queue(apr_psprintf(db.pool, "%03d", i), "1");
    }
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    assert_int_equal(theirs.claim(theirs.baton, 32, 0, their_runs, &again), APR_SUCCESS);
    apr_array_cat(unsettled, their_runs);
    assert_int_equal(their_runs->nelts, 32);
    for (int turn = 0; turn < 10 && found < 96; turn++) {
        found += claim(32);
        assert_true(runs->nelts > 0 ||
                    (again != 0 && again < mdm_clock() + apr_time_from_msec(100)));
    }
    assert_int_equal(found, 96);
}

/* A batch that cannot be split, as when another transaction does not end, holds up nobody else. */
static void test_stuck_batch(void **state)
{
    (void)state;
    for (int i = 0; i < 66; i++) {
        queue("A", i < 64 ? "1" : "2");
    }
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    add("C", 1);
    db_exec(&db, "CREATE TRIGGER d BEFORE DELETE ON mdm_webhook_outbox WHEN OLD.seq = 1"
                 " BEGIN SELECT RAISE(ABORT, 'refused'); END");
    assert_int_equal(claim(8), 1);
    assert_string_equal(run_at(0)->id, "C");
    assert_non_null(strstr(logged, "were perhaps not taken out"));
    assert_int_equal(again, 0); /* not at once again, which would be without an end */
    logged = NULL;
    assert_int_equal(claim(8), 0);
    assert_null(logged);
    webhook->failed_at = 0; /* some seconds later */
    assert_int_equal(claim(8), 1);
    assert_string_equal(load(run_at(0)), "2");
    assert_null(logged);
    assert_int_equal(claim(8), 0); /* its turn again, and with the same end */
    assert_non_null(strstr(logged, "were perhaps not taken out"));
    db_exec(&db, "DROP TRIGGER d");
    webhook->failed_at = 0;
    claim(8);
    assert_db(&db, BATCHES, "0");
}

/* A batch of so many events, of an enrollment whose id is so long. */
static const char *batch_of(int count, int id_len)
{
    apr_array_header_t *parts = apr_array_make(db.pool, count, sizeof(const char *));

    for (int i = 0; i < count; i++) {
        APR_ARRAY_PUSH(parts, const char *) =
            apr_psprintf(db.pool, "%d:%0*d,1:x,", id_len, id_len, 1);
    }
    return apr_array_pstrcat(db.pool, parts, 0);
}

/* What is no batch any more is kept, and holds nobody up. */
static void test_damaged_batch(void **state)
{
    const char *large = apr_psprintf(db.pool, "1:A,1050000:%01050000d,", 1);
    const char *const texts[] = {"",
                                 "1:A,",
                                 "1:A,1:x",
                                 "1:A,2:x,",
                                 "0:,1:x,",
                                 "1:A1:x,",
                                 "-1:A,",
                                 " 1:A,1:x,",
                                 "1:A,1:x,\n",
                                 "1:\x01,1:x,",
                                 "1:A,0x1:x,",
                                 "A",
                                 "99999999999999999999:A,",
                                 "1:A,1:x,2:B ,1:x,",
                                 batch_of(1025, 1),
                                 batch_of(2, MDM_MAX_ID + 1),
                                 large};

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        db_exec(&db, "DELETE FROM mdm_webhook_outbox");
        add("", 1);
        db_exec(&db, apr_psprintf(db.pool, "UPDATE mdm_webhook_outbox SET event = '%s'", texts[i]));
        webhook->looked_at = 0;
        add("A", 1);
        logged = NULL;
        assert_int_equal(claim(8), 1);
        assert_string_equal(run_at(0)->id, "A");
        assert_non_null(strstr(logged, "the stored events are damaged"));
        assert_db(&db, "SELECT error || event FROM mdm_webhook_outbox WHERE due_ms IS NULL",
                  apr_pstrcat(db.pool, "the stored events are damaged", texts[i], NULL));
        run_at(0)->done = 1;
        assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    }
}

/* The largest ones that are whole. */
static void test_large_batch(void **state)
{
    (void)state;
    add("", 2);
    db_exec(&db, apr_psprintf(db.pool,
                              "UPDATE mdm_webhook_outbox SET event = CASE seq WHEN 1 THEN '%s'"
                              " ELSE '1:A,1048563:%01048563d,' END",
                              batch_of(1024, MDM_MAX_ID), 1));
    assert_int_equal(claim(8), 1);
    assert_int_equal(settle_all(NULL), STORE_OUTBOX_RUN_MAX);
    assert_int_equal(claim(8), 2);
    assert_int_equal(run_at(0)->count, 24);
    assert_int_equal(strlen(load(run_at(1))), 1048563);
    assert_null(logged);
}

/* A database that takes a batch, but not what is in it: it waits, and all of it. */
static void test_refused_split(void **state)
{
    (void)state;
    queue("A", "1");
    queue("B", "2");
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    add("C", 1);
    db_exec(&db, "CREATE TRIGGER refuse BEFORE INSERT ON mdm_webhook_outbox WHEN NEW.id = 'B'"
                 " BEGIN SELECT RAISE(ABORT, 'refused'); END");
    assert_int_equal(claim(8), 1);
    assert_string_equal(run_at(0)->id, "C");
    assert_non_null(strstr(logged, "were perhaps not taken out"));
    assert_db(&db, COUNT, "2");
    assert_int_equal(claim(8), 0);
    assert_int_equal(again, 0);
    db_exec(&db, "DROP TRIGGER refuse");
    webhook->failed_at = 0;
    assert_int_equal(claim(8), 2);
    assert_string_equal(load(run_at(1)), "2");
}

/* A minute has passed since the database refused what is still there; how many that are. */
static int pass_refusal_time(void)
{
    webhook_entry_t *all[300];
    int count = 0;
    int aged = 0;

    while ((all[count] = webhook_queue_take(webhook->queue, 1, 1)) != NULL) {
        if (all[count]->since != 0) {
            all[count]->since -= apr_time_from_sec(61);
            aged++;
        }
        count++;
    }
    while (count > 0) {
        webhook_queue_put_back(webhook->queue, all[--count]);
    }
    return aged;
}

/* A database whose commits fail, as where the disk is full, is at fault: whatever time passes. */
static void test_failed_commit(void **state)
{
    (void)state;
    queue("A", "1");
    queue("A", "2");
    db_exec(&db, "CREATE TABLE parent (n INTEGER PRIMARY KEY);"
                 "CREATE TABLE child (n REFERENCES parent (n) DEFERRABLE INITIALLY DEFERRED);"
                 "CREATE TRIGGER full AFTER INSERT ON mdm_webhook_outbox"
                 " BEGIN INSERT INTO child VALUES (1); END");
    assert_int_equal(webhook_batch_flush(webhook), MDM_EUNAVAILABLE);
    assert_int_equal(pass_refusal_time(), 0);
    assert_int_equal(webhook_batch_flush(webhook), MDM_EUNAVAILABLE);
    assert_int_equal(webhook_queue_length(webhook->queue), 2);
    db_exec(&db, "DROP TRIGGER full");
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    assert_int_equal(deliver_all(), 2);
}

/* A database that takes nothing at all is at fault: events stay, in their order. */
static void test_refused_batch(void **state)
{
    (void)state;
    queue("LAST", "1");
    queue("LAST", "2");
    db_exec(&db, "CREATE TRIGGER full BEFORE INSERT ON mdm_webhook_outbox"
                 " BEGIN SELECT RAISE(ABORT, 'no room'); END");
    assert_int_equal(webhook_batch_flush(webhook), MDM_EUNAVAILABLE);
    assert_int_equal(webhook_queue_length(webhook->queue), 2);
    db_exec(&db, "DROP TRIGGER full");
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    assert_int_equal(claim(8), 1);
    assert_string_equal(load(run_at(0)), "1");
    run_at(0)->done = 1;
    assert_string_equal(load(run_at(0)), "2");
}

/* One that the database does not take is lost after a while, alone, and holds up no other. */
static void test_refused_event(void **state)
{
    (void)state;
    db_exec(&db, "CREATE TRIGGER refuse BEFORE INSERT ON mdm_webhook_outbox"
                 " WHEN NEW.event LIKE '%POISON%' BEGIN SELECT RAISE(ABORT, 'refused'); END");
    for (int i = 1; i <= 200; i++) {
        queue("A", i % 100 == 50 ? "POISON" : apr_psprintf(db.pool, "%d", i));
    }
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    assert_int_equal(webhook_queue_length(webhook->queue), 2);
    assert_null(strstr(logged, "is lost"));
    /* those that came one by one, in their order */
    assert_db(&db, COUNT " WHERE id <> ''", "126");
    assert_db(&db,
              "SELECT count(*) FROM mdm_webhook_outbox AS a JOIN mdm_webhook_outbox AS b"
              " ON b.seq = a.seq + 1 WHERE a.id <> '' AND b.id <> ''"
              " AND CAST(b.event AS INTEGER) <= CAST(a.event AS INTEGER)",
              "0");
    assert_int_equal(deliver_all(), 198);
    queue("B", "1");
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    assert_int_equal(deliver_all(), 1);
    assert_int_equal(pass_refusal_time(), 2);
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    assert_non_null(strstr(logged, "an event of enrollment \"A\" is lost"));
    assert_int_equal(webhook_queue_length(webhook->queue), 0);
}

/* A database that takes no batch, and then nothing at all in the middle of its events: those that
 * it has are not stored again, those that it has not stay, in their order. */
static void test_interrupted_batch(void **state)
{
    (void)state;
    for (int i = 1; i <= 6; i++) {
        queue("A", apr_psprintf(db.pool, "%d", i));
    }
    db_exec(&db, "CREATE TRIGGER two BEFORE INSERT ON mdm_webhook_outbox"
                 " WHEN NEW.id = '' OR (SELECT count(*) FROM mdm_webhook_outbox) = 2"
                 " BEGIN SELECT RAISE(ABORT, 'refused'); END");
    assert_int_equal(webhook_batch_flush(webhook), MDM_EUNAVAILABLE);
    assert_int_equal(webhook_queue_length(webhook->queue), 4);
    assert_db(&db, "SELECT event FROM mdm_webhook_outbox ORDER BY seq", "1\n2");
    db_exec(&db, "DROP TRIGGER two");
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    assert_int_equal(deliver_all(), 6);
}

/* Large ones come alone, and hold up nobody either. If only the database was short of room, they
 * are stored later. */
static void test_refused_large_event(void **state)
{
    (void)state;
    db_exec(&db, "CREATE TRIGGER refuse BEFORE INSERT ON mdm_webhook_outbox"
                 " WHEN length(NEW.event) > 270000 BEGIN SELECT RAISE(ABORT, 'refused'); END");
    queue("LARGE", apr_psprintf(db.pool, "%0300000d", 1));
    queue("LARGE", apr_psprintf(db.pool, "%0300000d", 2));
    queue("A", "1");
    queue("LARGE", apr_psprintf(db.pool, "%0300000d", 3));
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    assert_int_equal(webhook_queue_length(webhook->queue), 3);
    assert_db(&db, "SELECT id || event FROM mdm_webhook_outbox", "A1");
    db_exec(&db, "DROP TRIGGER refuse");
    assert_int_equal(pass_refusal_time(), 3);
    assert_int_equal(webhook_batch_flush(webhook), APR_SUCCESS);
    assert_int_equal(webhook_queue_length(webhook->queue), 0);
    assert_int_equal(deliver_all(), 4);
}

/* Twice as long after each failure up to a minute, give or take a quarter. */
static void test_backoff(void **state)
{
    (void)state;
    for (int failures = 1; failures < 100; failures++) {
        apr_interval_time_t delay =
            failures > 6 ? apr_time_from_sec(60) : apr_time_from_sec(1) << (failures - 1);
        apr_interval_time_t first = webhook_backoff(failures);
        int others = 0;

        for (int i = 0; i < 20; i++) {
            assert_in_range(webhook_backoff(failures), delay * 3 / 4, delay * 5 / 4);
            others += webhook_backoff(failures) != first;
        }
        assert_true(others > 0);
    }
}

/* What does not fit is lost, which is counted and told once. */
static void test_memory_is_bounded(void **state)
{
    char *large = apr_palloc(db.pool, 1024 * 1024 + 1);
    hooks_run_t *run;

    (void)state;
    webhook = new_webhook(0, 1);
    source = webhook_queue_source(webhook->queue);
    memset(large, 'x', 1024 * 1024);
    large[1024 * 1024] = '\0';
    for (int i = 0; i < 70; i++) {
        webhook_queue_add(webhook->queue, "A", "mdm.Connect", large);
    }
    assert_int_equal(webhook_queue_length(webhook->queue), 63);
    service_webhook_flush(webhook);
    assert_non_null(strstr(logged, "7 events were lost: too many wait in memory"));
    logged = NULL;
    service_webhook_flush(webhook);
    assert_null(logged);
    assert_int_equal(claim(8), 1);
    run = run_at(0);
    run->done = 1;
    assert_int_equal(settle(run), APR_SUCCESS);
    webhook_queue_add(webhook->queue, "A", "mdm.Connect", "fits again");
    assert_int_equal(webhook_queue_length(webhook->queue), 63);
    assert_int_equal(webhook_queue_lost(webhook->queue), 0);
    webhook_queue_free(webhook_queue_take(webhook->queue, 63, SIZE_MAX));
    for (int i = 0; i < 100001; i++) {
        webhook_queue_add(webhook->queue, "A", "mdm.Connect", "small");
    }
    assert_int_equal(webhook_queue_length(webhook->queue), 100000);
    assert_int_equal(webhook_queue_lost(webhook->queue), 1);
}

static void test_memory_order(void **state)
{
    hooks_run_t *first;
    apr_time_t due;

    (void)state;
    webhook = new_webhook(apr_time_from_msec(1), 1);
    source = webhook_queue_source(webhook->queue);
    webhook_queue_add(webhook->queue, "A", "mdm.Connect", "A 1");
    webhook_queue_add(webhook->queue, "A", "mdm.Connect", "A 2");
    webhook_queue_add(webhook->queue, "B", "mdm.Connect", "B 1");
    assert_int_equal(claim(8), 2);
    first = run_at(0);
    assert_string_equal(load(first), "A 1");
    assert_string_equal(load(run_at(1)), "B 1");
    run_at(1)->done = 1;
    assert_int_equal(settle(run_at(1)), APR_SUCCESS);
    assert_int_equal(claim(8), 0); /* A 1 is on its way */
    first->error = "no";
    assert_int_equal(settle(first), APR_SUCCESS);
    due = again;
    assert_int_equal(claim(8), 0); /* it waits, and A 2 behind it */
    apr_sleep(due - mdm_clock());
    assert_int_equal(claim(8), 1);
    assert_string_equal(load(run_at(0)), "A 1");
    run_at(0)->error = "never";
    assert_int_equal(settle(run_at(0)), APR_SUCCESS);
    assert_non_null(strstr(logged, "is given up"));
    assert_int_equal(claim(8), 1);
    assert_string_equal(load(run_at(0)), "A 2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failure_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_untried_keeps_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retry_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hopeless, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_claim, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unread, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_lease, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backlog, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_node, setup, teardown),
        cmocka_unit_test_setup_teardown(test_batches, setup, teardown),
        cmocka_unit_test_setup_teardown(test_batch_has_its_turn, setup, teardown),
        cmocka_unit_test_setup_teardown(test_batches_while_down, setup, teardown),
        cmocka_unit_test_setup_teardown(test_batches_in_vain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_batches_while_busy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_batches_of_others, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_batches, setup, teardown),
        cmocka_unit_test_setup_teardown(test_batch_is_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_processes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stuck_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused_split, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failed_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused_event, setup, teardown),
        cmocka_unit_test_setup_teardown(test_interrupted_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused_large_event, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backoff, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory_order, setup, teardown),
    };

    apr_initialize();
    curl_global_init(CURL_GLOBAL_DEFAULT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
