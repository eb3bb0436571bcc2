/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What a fleet does: enrolls, polls and answers commands, checks out; and queues commands for
 * itself. Workers take device after device; a device is with one worker at a time.
 */
#include <apr_strings.h>
#include <apr_thread_proc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mdm_message.h"
#include "mdmfleet.h"

typedef struct run_t run_t;

typedef struct worker_t {
    run_t *run;
    fleet_client_t *client;
    apr_pool_t *pool; /* cleared after each session */
    uint64_t commands;
} worker_t;

/* What is shared by the workers of a run; all below the mutex belongs to it. */
struct run_t {
    fleet_t *fleet;
    const fleet_options_t *opt;
    fleet_stats_t *stats;
    void (*session)(worker_t *worker, fleet_device_t *device);
    const char *verb;
    const char *prefix;    /* of the UUIDs of commands that this tool has queued */
    apr_time_t began, end; /* end 0: none */

    pthread_mutex_t mutex;
    pthread_cond_t round_over;
    int *devices; /* indices of those that take part */
    int n, next, active, round;
    int finished;
    int done;                    /* sessions so far */
    uint64_t commands, counted;  /* answered so far, and when the round began */
    apr_time_t not_before, slot; /* the round's begin; the next session's, with a rate */
};

/* ---- sessions ----------------------------------------------------------------------------- */

/* splitmix64: the same choices each time a fleet is run from the same state. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static fleet_kind_t choose_answer(const fleet_options_t *opt, uint64_t *random)
{
    double x = (double)(next_random(random) >> 11) / 9007199254740992.0;
    if (x < opt->not_now)
        return FLEET_NOT_NOW;
    return x < opt->not_now + opt->error ? FLEET_ERROR : FLEET_ACKNOWLEDGED;
}

static void protocol_error(worker_t *worker, const fleet_device_t *device, fleet_kind_t kind,
                           const char *cause, const char *detail)
{
    fleet_stats_error(worker->run->stats, kind, cause, 0,
                      apr_psprintf(worker->pool, "device %s: %s", device->id, detail));
}

/* A check-in whose reply has to be empty. */
static int check_in(worker_t *worker, fleet_device_t *device, fleet_kind_t kind)
{
    const char *body = fleet_message(worker->run->fleet, device, kind, NULL, NULL, worker->pool);
    fleet_reply_t reply = {0};
    if (!fleet_client_send(worker->client, kind, body, &reply, worker->pool))
        return 0;
    if (reply.len > 0) {
        protocol_error(worker, device, kind, "reply to a check-in is not empty",
                       apr_psprintf(worker->pool, "%.80s", reply.body));
        return 0;
    }
    return 1;
}

/* The device, then its users: an Authenticate ends their channels. If one of them fails, all of it
 * is to be done again. */
static void enroll_session(worker_t *worker, fleet_device_t *device)
{
    int users = worker->run->fleet->users;
    int ok;
    for (int i = 0; i <= users; i++) {
        device[i].enrolled = 0;
        device[i].not_now.n = 0;
    }
    fleet_client_device(worker->client, device, device->index);
    ok = check_in(worker, device, FLEET_AUTHENTICATE);
    for (int i = 0; ok && i <= users; i++) {
        if (i > 0)
            fleet_client_device(worker->client, device + i, device[i].index);
        ok = check_in(worker, device + i, FLEET_TOKEN_UPDATE);
        device[i].enrolled = ok;
    }
    device->enrolled = ok;
}

/* So does the device's CheckOut. */
static void check_out_session(worker_t *worker, fleet_device_t *device)
{
    fleet_client_device(worker->client, device, device->index);
    if (check_in(worker, device, FLEET_CHECK_OUT))
        for (int i = 0; i <= worker->run->fleet->users; i++)
            device[i].enrolled = 0;
}

/* Note that the server has accepted the answer to a command. */
static void answered(worker_t *worker, fleet_device_t *device, fleet_kind_t kind, uint64_t command)
{
    worker->commands++;
    if (kind == FLEET_NOT_NOW) {
        fleet_set_add(&device->not_now, command);
        return;
    }
    fleet_set_remove(&device->not_now, command);
    fleet_set_add(&device->answered, command);
    device->answers++;
}

/* Whether it is a command of ours and not, byte for byte, what was queued. */
static int is_changed(worker_t *worker, const mdm_command_t *command, const fleet_reply_t *reply,
                      apr_pool_t *pool)
{
    const char *prefix = worker->run->prefix, *made;
    if (strncmp(command->uuid, prefix, strlen(prefix)) != 0)
        return 0;
    made = fleet_command(command->uuid, command->request_type, pool);
    if (strlen(made) != reply->len || memcmp(made, reply->body, reply->len) != 0)
        return 1;
    fleet_stats_count(worker->run->stats, "commands delivered as queued", 1);
    return 0;
}

/* Read the command in a reply; NULL, counted as an error, if it cannot be one. */
static const mdm_command_t *read_command(worker_t *worker, const fleet_device_t *device,
                                         fleet_kind_t kind, const fleet_reply_t *reply,
                                         apr_pool_t *pool)
{
    mdm_command_t *command;
    const char *why = "";
    uint64_t hash;
    if (strncmp(reply->type, "application/xml", 15) != 0) {
        protocol_error(worker, device, kind, "reply is not application/xml", reply->type);
        return NULL;
    }
    if (mdm_command_parse(&command, apr_pstrmemdup(pool, reply->body, reply->len), reply->len, &why,
                          pool) != APR_SUCCESS) {
        protocol_error(worker, device, kind, "reply is not a command", why);
        return NULL;
    }
    if (is_changed(worker, command, reply, pool)) {
        protocol_error(worker, device, kind, "command is not as it was queued", command->uuid);
        return NULL;
    }
    hash = fleet_hash(command->uuid);
    if (fleet_set_has(&device->answered, hash)) {
        protocol_error(worker, device, kind, "delivered twice after its result was accepted",
                       command->uuid);
        return NULL;
    }
    if (kind == FLEET_NOT_NOW && fleet_set_has(&device->not_now, hash)) {
        protocol_error(worker, device, kind, "offered again in reply to NotNow", command->uuid);
        return NULL;
    }
    return command;
}

/* Report Idle, then answer command after command until there is none. */
static void converse(worker_t *worker, fleet_device_t *device)
{
    const run_t *run = worker->run;
    const fleet_options_t *opt = run->opt;
    fleet_kind_t kind = FLEET_IDLE;
    const mdm_command_t *command = NULL;
    uint64_t random = fleet_hash(run->fleet->seed) + (uint64_t)device->index * 1000003u +
                      (uint64_t)device->sessions;
    device->sessions++;
    for (int n = 0; n <= opt->max_commands; n++) {
        fleet_reply_t reply = {0};
        const char *body = fleet_message(run->fleet, device, kind, command ? command->uuid : NULL,
                                         command ? command->request_type : NULL, worker->pool);
        if (!fleet_client_send(worker->client, kind, body, &reply, worker->pool))
            return;
        if (command)
            answered(worker, device, kind, fleet_hash(command->uuid));
        if (reply.len == 0)
            return;
        command = read_command(worker, device, kind, &reply, worker->pool);
        if (!command)
            return;
        kind = choose_answer(opt, &random);
    }
}

static void poll_session(worker_t *worker, fleet_device_t *device)
{
    fleet_client_device(worker->client, device, device->index + device->sessions);
    converse(worker, device);
}

/* ---- workers ------------------------------------------------------------------------------ */

/* With the mutex held: whether another round begins, after the last session of one. */
static int begin_round(run_t *run)
{
    const fleet_options_t *opt = run->opt;
    int brought = run->commands > run->counted;
    run->counted = run->commands;
    if (fleet_stop || (run->end && apr_time_now() + opt->pause >= run->end))
        return 0;
    run->round++;
    if (opt->until_idle ? !brought : opt->rounds && run->round >= opt->rounds)
        return 0;
    run->next = 0;
    run->not_before = apr_time_now() + opt->pause;
    return 1;
}

/* Wait for a point in time, in steps that notice a signal. */
static void wait_until(apr_time_t when)
{
    while (!fleet_stop) {
        apr_time_t now = apr_time_now();
        if (now >= when)
            return;
        apr_sleep(when - now < 200000 ? when - now : 200000);
    }
}

/* Get the next device, or NULL at the run's end; the caller gives it back by give_back(). */
static fleet_device_t *take(run_t *run)
{
    fleet_device_t *device = NULL;
    apr_time_t begin = 0;
    pthread_mutex_lock(&run->mutex);
    while (!run->finished && run->next >= run->n)
        pthread_cond_wait(&run->round_over, &run->mutex);
    if (fleet_stop || (run->end && apr_time_now() >= run->end))
        run->finished = 1;
    if (!run->finished) {
        device = fleet_device(run->fleet, run->devices[run->next++]);
        run->active++;
        begin = run->not_before;
        if (run->opt->rate > 0) {
            if (run->slot < apr_time_now() - APR_USEC_PER_SEC)
                run->slot = apr_time_now();
            begin = begin > run->slot ? begin : run->slot;
            run->slot += (apr_interval_time_t)(APR_USEC_PER_SEC / run->opt->rate);
        }
    } else {
        pthread_cond_broadcast(&run->round_over);
    }
    pthread_mutex_unlock(&run->mutex);
    if (begin)
        wait_until(begin);
    return device;
}

static void give_back(run_t *run, uint64_t commands)
{
    pthread_mutex_lock(&run->mutex);
    run->active--;
    run->done++;
    run->commands += commands;
    if (run->next >= run->n && run->active == 0) {
        if (!begin_round(run))
            run->finished = 1;
        pthread_cond_broadcast(&run->round_over);
    }
    pthread_mutex_unlock(&run->mutex);
}

/* --stay: one device for the whole run, on one connection. */
static void stay(worker_t *worker, fleet_device_t *device)
{
    run_t *run = worker->run;
    int turns = 0;
    fleet_client_device(worker->client, device, device->index);
    while (!fleet_stop && (run->end ? apr_time_now() < run->end : turns < run->opt->rounds)) {
        converse(worker, device);
        apr_pool_clear(worker->pool);
        turns++;
    }
}

static void *APR_THREAD_FUNC work(apr_thread_t *thread, void *baton)
{
    worker_t *worker = baton;
    run_t *run = worker->run;
    fleet_device_t *device;
    while ((device = take(run))) {
        worker->commands = 0;
        if (run->opt->stay)
            stay(worker, device);
        else
            run->session(worker, device);
        apr_pool_clear(worker->pool);
        give_back(run, worker->commands);
    }
    fleet_client_destroy(worker->client);
    apr_thread_exit(thread, APR_SUCCESS);
    return NULL;
}

/* Progress on standard error: every second on a terminal, else every ten, until all is done. */
static void watch(run_t *run)
{
    int terminal = isatty(2), ticks = 0, finished = 0;
    while (!finished) {
        fleet_progress_t progress = fleet_stats_progress(run->stats);
        apr_sleep(10000);
        pthread_mutex_lock(&run->mutex);
        finished = (run->finished || fleet_stop) && run->active == 0;
        if (!run->opt->quiet && !finished && ++ticks % (terminal ? 100 : 1000) == 0)
            fprintf(stderr, "%smdmfleet: round %d, %s %d of %d, %llu requests, %llu errors%s",
                    terminal ? "\r" : "", run->round + 1, run->verb, run->next - run->active,
                    run->n, (unsigned long long)progress.requests,
                    (unsigned long long)progress.errors, terminal ? "   " : "\n");
        pthread_mutex_unlock(&run->mutex);
    }
    if (terminal && !run->opt->quiet && ticks >= 100)
        fputc('\n', stderr);
}

static apr_pool_t *own_pool(void)
{
    apr_allocator_t *allocator;
    apr_pool_t *pool;
    if (apr_allocator_create(&allocator) != APR_SUCCESS ||
        apr_pool_create_ex(&pool, NULL, NULL, allocator) != APR_SUCCESS)
        fleet_die("out of memory");
    apr_allocator_owner_set(allocator, pool);
    return pool;
}

static void work_all(run_t *run)
{
    int n = run->opt->concurrency < run->n ? run->opt->concurrency : run->n;
    apr_pool_t *pool = run->fleet->pool;
    worker_t *workers = apr_pcalloc(pool, (apr_size_t)(n ? n : 1) * sizeof(*workers));
    apr_thread_t **threads = apr_pcalloc(pool, (apr_size_t)(n ? n : 1) * sizeof(apr_thread_t *));
    apr_status_t status;
    pthread_mutex_init(&run->mutex, NULL);
    pthread_cond_init(&run->round_over, NULL);
    run->began = apr_time_now();
    run->end = run->opt->duration ? run->began + run->opt->duration : 0;
    run->finished = run->n == 0;
    if (run->opt->stay)
        run->n = n;
    for (int i = 0; i < n; i++) {
        workers[i].run = run;
        workers[i].pool = own_pool();
        workers[i].client = fleet_client_create(run->fleet, run->opt, run->stats, pool);
        status = apr_thread_create(&threads[i], NULL, work, &workers[i], pool);
        if (status != APR_SUCCESS)
            fleet_die("cannot start thread %d of %d: use a lower --concurrency", i + 1, n);
    }
    watch(run);
    for (int i = 0; i < n; i++) {
        apr_thread_join(&status, threads[i]);
        apr_pool_destroy(workers[i].pool);
    }
}

/* ---- what the tool calls ------------------------------------------------------------------ */

/* Those that take part: whether enrolled or not, or (-1) either; the users too, or only devices. */
static void choose(run_t *run, int enrolled, int users)
{
    int count = fleet_count(run->fleet, run->opt);
    run->devices = apr_palloc(run->fleet->pool, (apr_size_t)(count ? count : 1) * sizeof(int));
    for (int i = 0; i < count; i++) {
        const fleet_device_t *device = fleet_device(run->fleet, i);
        if ((enrolled < 0 || device->enrolled == enrolled) && (users || !device->user))
            run->devices[run->n++] = i;
    }
}

static void count_devices(run_t *run)
{
    uint64_t devices = 0, users = 0;
    for (int i = 0; i < run->fleet->devices->nelts; i++) {
        const fleet_device_t *device = fleet_device(run->fleet, i);
        *(device->user ? &users : &devices) += device->enrolled ? 1 : 0;
    }
    fleet_stats_count(run->stats, "devices in the fleet",
                      (uint64_t)(run->fleet->devices->nelts / (1 + run->fleet->users)));
    fleet_stats_count(run->stats, "devices enrolled", devices);
    if (run->fleet->users > 0)
        fleet_stats_count(run->stats, "user channels enrolled", users);
}

/* A run with the options of a single pass. */
static void single_pass(run_t *run, fleet_options_t *opt)
{
    *opt = *run->opt;
    opt->rounds = 1;
    opt->duration = opt->pause = 0;
    opt->until_idle = opt->stay = 0;
    run->opt = opt;
}

void fleet_enroll(fleet_t *fleet, const fleet_options_t *opt, fleet_stats_t *stats)
{
    run_t run = {.fleet = fleet, .opt = opt, .stats = stats};
    fleet_options_t once;
    run.session = enroll_session;
    run.verb = "enrolled";
    single_pass(&run, &once);
    choose(&run, opt->again ? -1 : 0, 0);
    if (run.n == 0 && !opt->quiet)
        fprintf(stderr, "mdmfleet: all devices are enrolled; --again enrolls them anew\n");
    work_all(&run);
    count_devices(&run);
}

void fleet_check_out(fleet_t *fleet, const fleet_options_t *opt, fleet_stats_t *stats)
{
    run_t run = {.fleet = fleet, .opt = opt, .stats = stats};
    fleet_options_t once;
    run.session = check_out_session;
    run.verb = "checked out";
    single_pass(&run, &once);
    choose(&run, 1, 0);
    work_all(&run);
    count_devices(&run);
}

/* Of the UUIDs of the commands that this fleet has queued without being told how to name them. */
static const char *own_prefix(const fleet_t *fleet)
{
    return apr_pstrcat(fleet->pool, "fleet-", fleet->seed, "-", NULL);
}

void fleet_run(fleet_t *fleet, const fleet_options_t *opt, fleet_stats_t *stats)
{
    run_t run = {.fleet = fleet, .opt = opt, .stats = stats};
    run.session = poll_session;
    run.verb = "polled";
    run.prefix = opt->uuid_prefix ? opt->uuid_prefix : own_prefix(fleet);
    choose(&run, 1, 1);
    if (run.n == 0)
        fleet_die("no device of this fleet is enrolled: run \"mdmfleet enroll\" first");
    work_all(&run);
    for (int i = 0; opt->expect > 0 && i < run.n; i++) {
        const fleet_device_t *device = fleet_device(fleet, run.devices[i]);
        if (device->answers < opt->expect)
            fleet_stats_error(stats, FLEET_IDLE, "fewer commands than expected", 0,
                              apr_psprintf(fleet->pool, "device %s answered %d of %d", device->id,
                                           device->answers, opt->expect));
    }
    count_devices(&run);
    fleet_stats_count(stats, "sessions", (uint64_t)run.done);
    fleet_stats_count(stats, "commands answered", run.commands);
}

/* The enrolled ones among the devices from first on, as the path of a URL, at most --batch. */
static const char *ids_of(fleet_t *fleet, const fleet_options_t *opt, int *first, apr_pool_t *pool)
{
    int count = fleet_count(fleet, opt), n = 0;
    apr_array_header_t *ids = apr_array_make(pool, opt->batch, sizeof(const char *));
    for (; *first < count && n < opt->batch; (*first)++) {
        const fleet_device_t *device = fleet_device(fleet, *first);
        if (device->enrolled) {
            APR_ARRAY_PUSH(ids, const char *) = device->id;
            n++;
        }
    }
    return n ? apr_array_pstrcat(pool, ids, ',') : NULL;
}

void fleet_enqueue(fleet_t *fleet, const fleet_options_t *opt, fleet_stats_t *stats)
{
    apr_pool_t *pool = own_pool();
    fleet_client_t *client = fleet_client_create(fleet, opt, stats, fleet->pool);
    const char *prefix = opt->uuid_prefix;
    if (!prefix)
        prefix = apr_psprintf(fleet->pool, "%s%" APR_UINT64_T_HEX_FMT "-", own_prefix(fleet),
                              (apr_uint64_t)apr_time_now());
    for (int i = 0; i < opt->commands && !fleet_stop; i++) {
        const char *uuid = apr_psprintf(fleet->pool, "%s%06d", prefix, i);
        int first = 0;
        const char *ids;
        while (!fleet_stop && (ids = ids_of(fleet, opt, &first, pool))) {
            fleet_reply_t reply = {0};
            const char *url = apr_pstrcat(pool, opt->api_url, "enqueue/", ids,
                                          opt->push ? "" : "?nopush=1", NULL);
            fleet_client_api(client, url, fleet_command(uuid, opt->request_type, pool), &reply,
                             pool);
            apr_pool_clear(pool);
        }
        fleet_stats_count(stats, "commands", 1);
    }
    fleet_client_destroy(client);
    apr_pool_destroy(pool);
}
