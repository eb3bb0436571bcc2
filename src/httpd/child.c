/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What a child process owns: a store for each database that its virtual hosts name, and the
 * threads that work for it in the background.
 */
#include "nanomdm.h"

#include <ap_mpm.h>
#include <apr_hash.h>
#include <apr_strings.h>
#include <pthread.h>
#include <signal.h>

#include "mdm_clock.h"
#include "mdm_log.h"
#include "service_history.h"

/* How long the end of a child may wait for its background threads. With prefork the wait is inside
 * a signal handler, which may have interrupted the very transaction that the thread waits for. */
#define STOP_WAIT apr_time_from_sec(5)
#define STOP_WAIT_PREFORK apr_time_from_msec(500)

/* How often to look for history to sweep, unless it is kept for a very short time. */
#define HISTORY_INTERVAL apr_time_from_sec(60)

/* How long events that are only in memory may still be delivered at the end; with prefork that is
 * inside the signal handler. */
#define WEBHOOK_GRACE apr_time_from_sec(2)
#define WEBHOOK_GRACE_PREFORK apr_time_from_msec(200)

/* A webhook with its thread. */
typedef struct delivery_t {
    service_webhook_t *webhook;
    const char *name;
    apr_interval_time_t grace;
} delivery_t;

/* What is in flight when the end comes may still be answered for this long; with prefork there is
 * nobody left to tell. */
#define PUSH_GRACE apr_time_from_sec(4)

/* A pusher in one child: shared by the virtual hosts that push the same way. */
typedef struct pusher_t {
    apns_t *apns;
    apr_interval_time_t grace;
} pusher_t;

typedef struct child_t {
    apr_pool_t *pool;            /* of stores and threads; not the child's, see child_cleanup() */
    apr_array_header_t *workers; /* nanomdm_worker_t * */
    apr_array_header_t *loops;   /* likewise: those that waking would stop */
    apr_array_header_t *deliveries; /* delivery_t * */
    hooks_http_t *http;
    service_waiting_t *waiting; /* for the declaration server; NULL: no limit */
    int threaded;
} child_t;

static server_rec *log_server;

static void log_sink(mdm_log_level_t level, apr_status_t status, const char *line)
{
    static const int levels[] = {APLOG_ERR, APLOG_WARNING, APLOG_INFO, APLOG_DEBUG};

    ap_log_error(APLOG_MARK, levels[level], status, log_server, "%s", line);
}

void nanomdm_log_to(server_rec *s)
{
    log_server = s;
    mdm_log_set(log_sink);
    mdm_log_set_most(APLOGdebug(s) ? MDM_LOG_DEBUG : MDM_LOG_INFO);
}

static int flush_turn(void *baton, int stopping, apr_pool_t *pool)
{
    nanomdm_database_t *database = baton;

    (void)stopping;
    service_lastseen_flush(database->lastseen); /* what fails is logged by the store and kept */
    for (apr_hash_index_t *i = apr_hash_first(pool, database->webhooks); i; i = apr_hash_next(i)) {
        service_webhook_flush(apr_hash_this_val(i));
    }
    return 0;
}

static void delivery_loop(void *baton, int stop_fd)
{
    const delivery_t *delivery = baton;

    service_webhook_run(delivery->webhook, stop_fd, delivery->grace);
}

static int history_turn(void *baton, int stopping, apr_pool_t *pool)
{
    return stopping ? 0 : service_history_sweep(baton, pool);
}

static apr_status_t start_worker(child_t *child, apr_interval_time_t interval, nanomdm_turn_t *turn,
                                 void *baton)
{
    nanomdm_worker_t *worker;
    apr_status_t status = nanomdm_worker_start(&worker, interval, turn, baton, child->pool);

    if (status == APR_SUCCESS) {
        APR_ARRAY_PUSH(child->workers, nanomdm_worker_t *) = worker;
    }
    return status;
}

static apr_status_t start_loop(child_t *child, nanomdm_loop_t *loop, void *baton)
{
    nanomdm_worker_t *worker;
    apr_status_t status = nanomdm_worker_start_loop(&worker, loop, baton, child->pool);

    if (status == APR_SUCCESS) {
        APR_ARRAY_PUSH(child->loops, nanomdm_worker_t *) = worker;
    }
    return status;
}

static apr_status_t start_workers(child_t *child, const nanomdm_server_t *conf,
                                  nanomdm_database_t *database)
{
    apr_status_t status = start_worker(child, conf->last_seen_interval, flush_turn, database);

    if (status == APR_SUCCESS && conf->history > 0) {
        apr_interval_time_t often = conf->history / 10;

        status =
            start_worker(child, often < HISTORY_INTERVAL ? often : HISTORY_INTERVAL, history_turn,
                         service_history_create(database->store, conf->history, child->pool));
    }
    return status;
}

static apr_status_t make_webhook(child_t *child, const service_webhook_config_t *config,
                                 nanomdm_database_t *database, service_webhook_t **out)
{
    delivery_t *delivery = apr_pcalloc(child->pool, sizeof(*delivery));
    apr_status_t status =
        service_webhook_create(&delivery->webhook, config, database->store, child->pool);

    delivery->name = config->name;
    delivery->grace = child->threaded ? WEBHOOK_GRACE : WEBHOOK_GRACE_PREFORK;
    if (status == APR_SUCCESS) {
        APR_ARRAY_PUSH(child->deliveries, delivery_t *) = delivery;
        *out = delivery->webhook;
    }
    return status;
}

/* Virtual hosts with the same database share a webhook that they have in common. */
static void make_webhooks(child_t *child, server_rec *s, nanomdm_server_t *conf,
                          nanomdm_database_t *database)
{
    int count = conf->webhooks != NULL ? conf->webhooks->nelts : 0;

    for (int i = 0; i < count; i++) {
        const service_webhook_config_t *config =
            &APR_ARRAY_IDX(conf->webhooks, i, service_webhook_config_t);
        service_webhook_t *webhook =
            apr_hash_get(database->webhooks, config->name, APR_HASH_KEY_STRING);
        apr_status_t status = APR_SUCCESS;

        if (webhook == NULL) {
            status = make_webhook(child, config, database, &webhook);
        }
        if (status != APR_SUCCESS) {
            ap_log_error(APLOG_MARK, APLOG_CRIT, status, s,
                         "NanoMDMWebhook %s cannot be started: requests get 503", config->name);
            conf->service.store = NULL; /* rather than messages without their events */
            return;
        }
        apr_hash_set(database->webhooks, config->name, APR_HASH_KEY_STRING, webhook);
        if (conf->service.webhooks == NULL) {
            conf->service.webhooks = apr_array_make(child->pool, 1, sizeof(webhook));
        }
        APR_ARRAY_PUSH(conf->service.webhooks, service_webhook_t *) = webhook;
    }
}

/* Once there is nothing left to make that they would see in the making. */
static void start_deliveries(child_t *child)
{
    for (int i = 0; i < child->deliveries->nelts; i++) {
        delivery_t *delivery = APR_ARRAY_IDX(child->deliveries, i, delivery_t *);

        if (start_loop(child, delivery_loop, delivery) != APR_SUCCESS) {
            ap_log_error(APLOG_MARK, APLOG_CRIT, 0, log_server,
                         "NanoMDMWebhook %s: no thread; events are left to other children",
                         delivery->name);
        }
    }
}

static void push_loop(void *baton, int stop_fd)
{
    const pusher_t *pusher = baton;

    apns_run(pusher->apns, stop_fd, pusher->grace);
}

static int threads_of_child(void)
{
    int threads = 0;

    ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
    return threads > 0 ? threads : 1;
}

/* A declaration server that does not answer must leave threads for everything else. A process with
 * one thread has nothing to share. */
static service_waiting_t *half_of_the_threads(apr_pool_t *pool)
{
    service_waiting_t *waiting = apr_pcalloc(pool, sizeof(*waiting));

    waiting->most = (apr_uint32_t)threads_of_child() / 2;
    return waiting->most > 0 ? waiting : NULL;
}

/* Those that use the database. */
static int background_threads(const nanomdm_server_t *conf)
{
    return 1 + (conf->history > 0) + (conf->webhooks != NULL ? conf->webhooks->nelts : 0);
}

static apr_status_t open_database(child_t *child, nanomdm_database_t **out,
                                  const nanomdm_server_t *conf, const char **why)
{
    nanomdm_database_t *database = apr_pcalloc(child->pool, sizeof(*database));
    store_config_t config = nanomdm_store_config(conf);
    apr_status_t status;

    if (config.max == NANOMDM_UNSET) {
        config.max = threads_of_child() + background_threads(conf);
    }
    database->webhooks = apr_hash_make(child->pool);
    status = store_open(&database->store, &config, why, child->pool);
    if (status == APR_SUCCESS) {
        status = service_lastseen_create(&database->lastseen, database->store, child->pool);
    }
    if (status == APR_SUCCESS) {
        *out = database;
    }
    return status;
}

/* Virtual hosts with the same database share connections and threads, with the settings of the
 * first: one file of SQLite's must have one store, which queues its writers. */
const char *nanomdm_database_key(const nanomdm_server_t *conf, apr_pool_t *pool)
{
    return apr_pstrcat(pool, conf->db_driver, "\n", conf->db_params, "\n", conf->prefix, NULL);
}

/* All are told before the first is waited for. */
static int stop_all(const apr_array_header_t *workers, apr_time_t end)
{
    int all = 1;

    for (int i = 0; i < workers->nelts; i++) {
        nanomdm_worker_stop(APR_ARRAY_IDX(workers, i, nanomdm_worker_t *), 0);
    }
    for (int i = 0; i < workers->nelts; i++) {
        apr_interval_time_t left = end - mdm_clock();

        all &= nanomdm_worker_stop(APR_ARRAY_IDX(workers, i, nanomdm_worker_t *),
                                   left > 0 ? left : 0) == APR_SUCCESS;
    }
    return all;
}

static void free_all(const apr_array_header_t *workers)
{
    for (int i = 0; i < workers->nelts; i++) {
        nanomdm_worker_free(APR_ARRAY_IDX(workers, i, nanomdm_worker_t *));
    }
}

/* Runs before the child's pool is gone; with prefork, inside a signal handler that may have
 * interrupted anything: there, and when a thread is stuck, connections are left to the kernel. */
static apr_status_t child_cleanup(void *data)
{
    child_t *child = data;
    apr_time_t end = mdm_clock() + (child->threaded ? STOP_WAIT : STOP_WAIT_PREFORK);
    int all;

    if (child->threaded) { /* else this is a signal handler, which may not */
        ap_log_error(APLOG_MARK, APLOG_INFO, 0, log_server, "child stopping");
    }
    all = stop_all(child->loops, end);
    all &= stop_all(child->workers, end);
    if (all && child->threaded) {
        free_all(child->loops);
        free_all(child->workers);
        apr_pool_destroy(child->pool);
    }
    if (child->threaded) {
        ap_log_error(APLOG_MARK, APLOG_INFO, 0, log_server, "child stopped%s",
                     all ? "" : ", although a background thread still ran");
    }
    return APR_SUCCESS;
}

static void fill_service(const child_t *child, nanomdm_server_t *conf, nanomdm_database_t *database)
{
    conf->service.store = database->store;
    conf->service.retroactive = conf->retroactive;
    conf->service.empty_digest = conf->empty_digest;
    conf->service.get_token = conf->get_token;
    conf->service.seen = service_lastseen_note;
    conf->service.seen_baton = database->lastseen;
    conf->service.http = child->http;
    conf->service.declarative = conf->declarative;
    conf->service.waiting = child->waiting;
    conf->service.push_timeout = conf->push_timeout;
}

/* The threads of the server's database, unless another one with the same has them already. */
static void start_database(child_t *child, server_rec *s, apr_hash_t *by_key, apr_pool_t *pchild)
{
    nanomdm_server_t *conf = nanomdm_server(s);
    nanomdm_database_t *database =
        apr_hash_get(by_key, nanomdm_database_key(conf, pchild), APR_HASH_KEY_STRING);

    if (!conf->used || database == NULL) {
        return;
    }
    if (!database->started) {
        database->started = 1;
        database->status = start_workers(child, conf, database);
    }
    if (database->status != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, database->status, s,
                     "NanoMDMDatabase: a background thread cannot be started: requests get 503");
        conf->service.store = NULL;
    }
}

static child_t *this_child;

static void open_databases(child_t *child, server_rec *main_server, apr_pool_t *pchild)
{
    apr_hash_t *by_key = apr_hash_make(pchild);

    for (server_rec *s = main_server; s != NULL; s = s->next) {
        nanomdm_server_t *conf = nanomdm_server(s);
        const char *key = nanomdm_database_key(conf, pchild);
        nanomdm_database_t *database = apr_hash_get(by_key, key, APR_HASH_KEY_STRING);
        const char *why = "";

        if (!conf->used) {
            continue;
        }
        if (database == NULL) {
            apr_status_t status = open_database(child, &database, conf, &why);

            if (status != APR_SUCCESS) {
                ap_log_error(APLOG_MARK, APLOG_CRIT, status, s, "NanoMDMDatabase: %s", why);
                continue; /* requests get 503 */
            }
            apr_hash_set(by_key, key, APR_HASH_KEY_STRING, database);
        }
        fill_service(child, conf, database);
        make_webhooks(child, s, conf, database);
    }
    for (server_rec *s = main_server; s != NULL; s = s->next) {
        start_database(child, s, by_key, pchild);
    }
    start_deliveries(child);
}

static const char *pusher_key(const apns_config_t *config, apr_pool_t *pool)
{
    return apr_psprintf(pool, "%s\n%s\n%s\n%d\n%" APR_TIME_T_FMT, config->url,
                        config->ca_file != NULL ? config->ca_file : "",
                        config->proxy != NULL ? config->proxy : "", config->connections,
                        config->expiration);
}

static apr_status_t open_pusher(pusher_t **out, child_t *child, const apns_config_t *config,
                                const char **why)
{
    pusher_t *pusher = apr_pcalloc(child->pool, sizeof(*pusher));
    apr_status_t status = apns_create(&pusher->apns, config, why, child->pool);

    pusher->grace = child->threaded ? PUSH_GRACE : 0;
    if (status == APR_SUCCESS) {
        *why = "a background thread cannot be started";
        status = start_loop(child, push_loop, pusher);
    }
    if (status == APR_SUCCESS) {
        *out = pusher;
    }
    return status;
}

static void open_pushers(child_t *child, server_rec *main_server, apr_pool_t *pchild)
{
    apr_hash_t *by_key = apr_hash_make(pchild);

    for (server_rec *s = main_server; s != NULL; s = s->next) {
        nanomdm_server_t *conf = nanomdm_server(s);
        apns_config_t config = nanomdm_apns_config(conf);
        const char *key = pusher_key(&config, pchild);
        pusher_t *pusher = apr_hash_get(by_key, key, APR_HASH_KEY_STRING);
        const char *why = "";

        if (!conf->pushes) {
            continue;
        }
        if (pusher == NULL) {
            apr_status_t status = open_pusher(&pusher, child, &config, &why);

            if (status != APR_SUCCESS) {
                ap_log_error(APLOG_MARK, APLOG_CRIT, status, s, "NanoMDMPushURL: %s", why);
                continue; /* pushes get 503 */
            }
            apr_hash_set(by_key, key, APR_HASH_KEY_STRING, pusher);
        }
        conf->service.apns = pusher->apns;
    }
}

void nanomdm_child_init(apr_pool_t *pchild, server_rec *main_server)
{
    child_t *child = apr_pcalloc(pchild, sizeof(*child));
    sigset_t all;
    sigset_t before;

    nanomdm_log_to(main_server);
    if (nanomdm_uses(main_server->process->pconf, 0)->nelts == 0 ||
        apr_pool_create_unmanaged_ex(&child->pool, NULL, NULL) != APR_SUCCESS) {
        return;
    }
    ap_mpm_query(AP_MPMQ_IS_THREADED, &child->threaded);
    child->workers = apr_array_make(pchild, 1, sizeof(nanomdm_worker_t *));
    child->loops = apr_array_make(pchild, 1, sizeof(nanomdm_worker_t *));
    child->deliveries = apr_array_make(pchild, 1, sizeof(delivery_t *));
    child->waiting = half_of_the_threads(pchild);
    nanomdm_dump_child_init(pchild, main_server);
    if (hooks_http_create(&child->http, child->pool) != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, 0, main_server, "libcurl cannot be used");
    }
    /* A signal that ends the child at this very moment waits until there is something to clean up:
     * its handler destroys the pools that are being filled. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    open_databases(child, main_server, pchild);
    open_pushers(child, main_server, pchild);
    this_child = child;
    apr_pool_pre_cleanup_register(pchild, child, child_cleanup);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    ap_log_error(APLOG_MARK, APLOG_INFO, 0, main_server, "child ready, background threads: %d",
                 child->workers->nelts + child->loops->nelts);
}

/* Draining begins: what is in memory gets out early, and the threads go on for the requests that
 * still run. Where these are not waited for, loops end at once, so that who waits for a push hears
 * of it. */
void nanomdm_child_stopping(apr_pool_t *pchild, int graceful)
{
    (void)pchild;
    (void)graceful;
    for (int i = 0; this_child != NULL && i < this_child->workers->nelts; i++) {
        nanomdm_worker_wake(APR_ARRAY_IDX(this_child->workers, i, nanomdm_worker_t *));
    }
    for (int i = 0; this_child != NULL && !graceful && i < this_child->loops->nelts; i++) {
        nanomdm_worker_wake(APR_ARRAY_IDX(this_child->loops, i, nanomdm_worker_t *));
    }
}
