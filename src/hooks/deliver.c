/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Delivering events to one receiver: one thread, a few connections, each enrollment's events one
 * after the other. Knows neither where events come from nor what is in them.
 *
 * A run, the events of one enrollment, is claimed from the source, waits for a connection, has its
 * events sent one by one, and is settled, with others, in one go. An event that fails ends its run;
 * the source has it come again later. A long run makes room for others after a while. When nothing
 * but failures comes from the receiver, nothing is claimed for a while: then it is tried with a
 * single run; one that answers is asked for more at a time, since it may only refuse some.
 */
#include <apr_atomic.h>
#include <apr_general.h>
#include <apr_strings.h>
#include <poll.h>

#include "http.h"
#include "mdm_clock.h"
#include "mdm_log.h"

#define CONNECTIONS 4
#define CLAIM_MAX 32
/* After so long a run begins no other event. */
#define RUN_TIME apr_time_from_sec(1)
/* So many runs may wait to be settled, but none for so long. */
#define SETTLE_MAX 32
#define SETTLE_WAIT apr_time_from_msec(50)
/* How often to look for what other processes have left behind. */
#define LOOK_INTERVAL apr_time_from_sec(5)
/* A receiver is down when its failures since the last success weigh so much. One that answers
 * refuses an event, perhaps; one that does not, or says that it cannot now, will refuse all. */
#define DOWN_WEIGHT 32
#define REFUSAL_WEIGHT 1
#define ABSENCE_WEIGHT 8
#define PAUSE_MIN apr_time_from_sec(1)
#define PAUSE_MAX apr_time_from_sec(30)
/* Of a receiver that answers. */
#define PAUSE_REFUSAL apr_time_from_sec(1)

typedef struct slot_t {
    CURL *easy;
    hooks_run_t *run; /* NULL: free */
    apr_time_t end;   /* of its time */
    apr_pool_t *pool; /* of the event that is being sent */
    http_transfer_t *transfer;
} slot_t;

struct hooks_deliverer_t {
    hooks_target_t target;
    const char *name;
    hooks_source_t source;
    CURLM *multi;
    apr_pool_t *pool; /* its own, with its own allocator */
    slot_t slots[CONNECTIONS];
    apr_array_header_t *waiting; /* hooks_run_t *, the last one first */
    apr_array_header_t *ended;   /* to be settled */
    apr_time_t settle;           /* when to, at the latest */
    apr_uint32_t woken;
    int unsettled;    /* the last settling failed */
    int more;         /* something may be due */
    apr_time_t look;  /* when to look again */
    apr_time_t pause; /* until when the receiver is left alone; 0: it is not down */
    int weight;       /* of the failures since the last success */
    int absent;       /* at the last one it did not answer */
    int pauses;       /* since then */
};

/* -- Life --------------------------------------------------------------------------------- */

static apr_status_t deliverer_cleanup(void *data)
{
    hooks_deliverer_t *d = data;

    for (int i = 0; i < CONNECTIONS; i++) {
        curl_easy_cleanup(d->slots[i].easy);
    }
    curl_multi_cleanup(d->multi);
    apr_pool_destroy(d->pool);
    return APR_SUCCESS;
}

apr_status_t hooks_deliverer_create(hooks_deliverer_t **out, const hooks_target_t *target,
                                    const hooks_source_t *source, apr_pool_t *pool)
{
    hooks_deliverer_t *d = apr_pcalloc(pool, sizeof(*d));
    apr_status_t status = apr_pool_create_unmanaged_ex(&d->pool, NULL, NULL);

    if (status != APR_SUCCESS) {
        return status;
    }
    d->target = *target;
    d->name = hooks_url_public(target->url, pool);
    d->source = *source;
    d->waiting = apr_array_make(d->pool, CLAIM_MAX, sizeof(hooks_run_t *));
    d->ended = apr_array_make(d->pool, SETTLE_MAX, sizeof(hooks_run_t *));
    d->multi = curl_multi_init();
    status = d->multi == NULL ? APR_ENOMEM : APR_SUCCESS;
    for (int i = 0; status == APR_SUCCESS && i < CONNECTIONS; i++) {
        d->slots[i].easy = curl_easy_init();
        status =
            d->slots[i].easy == NULL ? APR_ENOMEM : apr_pool_create(&d->slots[i].pool, d->pool);
    }
    apr_pool_cleanup_register(pool, d, deliverer_cleanup, apr_pool_cleanup_null);
    if (status == APR_SUCCESS) {
        *out = d;
    }
    return status;
}

void hooks_deliverer_wake(hooks_deliverer_t *d)
{
    if (apr_atomic_xchg32(&d->woken, 1) == 0) {
        curl_multi_wakeup(d->multi);
    }
}

static apr_interval_time_t with_jitter(apr_interval_time_t time)
{
    apr_uint16_t random = 0;

    apr_generate_random_bytes((unsigned char *)&random, sizeof(random));
    return time * 3 / 4 + time / 2 * random / 65536;
}

/* -- Runs --------------------------------------------------------------------------------- */

static void end_run(hooks_deliverer_t *d, hooks_run_t *run)
{
    if (d->ended->nelts == 0) {
        d->settle = mdm_clock() + SETTLE_WAIT;
    }
    APR_ARRAY_PUSH(d->ended, hooks_run_t *) = run;
}

static void end_waiting(hooks_deliverer_t *d)
{
    while (d->waiting->nelts > 0) {
        end_run(d, *(hooks_run_t **)apr_array_pop(d->waiting));
    }
}

static void note_success(hooks_deliverer_t *d)
{
    if (d->pause != 0) {
        mdm_log(MDM_LOG_INFO, 0, "webhook %s takes events again", d->name);
        d->look = 0;
    }
    d->pause = 0;
    d->weight = 0;
    d->absent = 0;
    d->pauses = 0;
}

static void note_failure(hooks_deliverer_t *d, const hooks_run_t *run, int weight)
{
    apr_interval_time_t pause = PAUSE_MIN;

    mdm_log(d->weight == 0 ? MDM_LOG_WARNING : MDM_LOG_DEBUG, 0,
            "webhook %s: an event of enrollment \"%s\" was not delivered and will be tried again: "
            "%s",
            d->name, run->id, run->error);
    d->absent = weight == ABSENCE_WEIGHT;
    if (d->weight < DOWN_WEIGHT) {
        d->weight += weight;
    }
    if (d->weight < DOWN_WEIGHT) {
        return;
    }
    if (d->pause == 0) {
        mdm_log(MDM_LOG_WARNING, 0, "webhook %s is down: its events wait", d->name);
    }
    if (!d->absent) {
        d->pause = mdm_clock() + PAUSE_REFUSAL;
        return;
    }
    end_waiting(d);
    for (int i = 0; i < d->pauses && pause < PAUSE_MAX; i++) {
        pause *= 2;
    }
    d->pauses++;
    d->pause = mdm_clock() + with_jitter(pause < PAUSE_MAX ? pause : PAUSE_MAX);
}

static void look_again(hooks_deliverer_t *d, apr_time_t again)
{
    if (again != 0 && again < d->look) {
        d->look = again;
    }
}

static void settle(hooks_deliverer_t *d)
{
    apr_pool_t *pool;
    apr_time_t again = 0;

    if (d->ended->nelts == 0) {
        return;
    }
    d->settle = mdm_clock() + PAUSE_MIN; /* should it fail now */
    d->unsettled = 1;
    apr_pool_create(&pool, d->pool);
    if (d->source.settle(d->source.baton, d->ended, &again, pool) == APR_SUCCESS) {
        for (int i = 0; i < d->ended->nelts; i++) {
            apr_pool_destroy(APR_ARRAY_IDX(d->ended, i, hooks_run_t *)->pool);
        }
        apr_array_clear(d->ended);
        d->unsettled = 0;
        d->more = 1; /* meanwhile there may be more of these enrollments */
        look_again(d, again);
    }
    apr_pool_destroy(pool);
}

static void claim(hooks_deliverer_t *d)
{
    apr_time_t now = mdm_clock();
    int max = d->pause != 0 && d->absent ? 1 : CLAIM_MAX;
    int woken = apr_atomic_xchg32(&d->woken, 0) != 0;
    apr_time_t again = 0;

    if (!woken && !d->more && now < d->look) {
        return;
    }
    if (now >= d->look) {
        d->look = now + with_jitter(LOOK_INTERVAL);
    }
    d->more = 0;
    /* Where it fails, the source has logged why; it is tried again when it is time to look. */
    if (d->source.claim(d->source.baton, max, d->pause != 0, d->waiting, &again) == APR_SUCCESS) {
        d->more = d->waiting->nelts > 0;
        look_again(d, again);
    }
}

static void start(hooks_deliverer_t *d, slot_t *slot, const char *event)
{
    static const char content_type[] = "application/json; charset=utf-8";
    http_request_t request = {.method = "POST", .url = d->target.url, .body_type = content_type};

    request.body = hooks_event_json(event, &request.body_len, slot->pool);
    curl_easy_reset(slot->easy);
    if (request.body == NULL) {
        slot->run->error = "the stored event is damaged";
        slot->run->hopeless = 1;
    } else if (http_prepare(&slot->transfer, slot->easy, &d->target, &request, slot->pool) !=
                   APR_SUCCESS ||
               curl_multi_add_handle(d->multi, slot->easy) != CURLM_OK) {
        slot->run->error = "the request cannot be made";
    }
}

/* Sends the next event of the slot's run; without one, without time, or if that fails at once, the
 * run ends. */
static void go_on(hooks_deliverer_t *d, slot_t *slot)
{
    hooks_run_t *run = slot->run;
    const char *event = NULL;
    apr_status_t status = APR_ENOENT;

    apr_pool_clear(slot->pool);
    if (run->done < run->count && mdm_clock() < slot->end) {
        status = d->source.load(d->source.baton, run, &event, slot->pool);
    }
    if (status == APR_SUCCESS) {
        start(d, slot, event);
        if (run->error == NULL) {
            return;
        }
        if (!run->hopeless) { /* else it is no fault of the receiver's */
            note_failure(d, run, REFUSAL_WEIGHT);
        }
    }
    slot->run = NULL;
    end_run(d, run);
}

static void fill_slots(hooks_deliverer_t *d)
{
    for (int i = 0; i < CONNECTIONS; i++) {
        slot_t *slot = &d->slots[i];

        while (slot->run == NULL && d->waiting->nelts > 0) {
            slot->run = *(hooks_run_t **)apr_array_pop(d->waiting);
            slot->end = mdm_clock() + RUN_TIME;
            go_on(d, slot);
        }
    }
}

static int is_absence(int code)
{
    return code == 429 || code == 502 || code == 503 || code == 504;
}

static void end_transfer(hooks_deliverer_t *d, slot_t *slot, CURLcode result)
{
    hooks_answer_t answer;
    const char *why = NULL;
    hooks_run_t *run = slot->run;
    int weight = ABSENCE_WEIGHT;
    apr_status_t status = http_finish(slot->transfer, result, &answer, &why);

    curl_multi_remove_handle(d->multi, slot->easy);
    if (status == APR_SUCCESS && (answer.code < 200 || answer.code > 299)) {
        status = MDM_EGATEWAY;
        weight = is_absence(answer.code) ? ABSENCE_WEIGHT : REFUSAL_WEIGHT;
        why = apr_psprintf(slot->pool, "the receiver answered %d", answer.code);
    }
    if (status == APR_SUCCESS) {
        run->done++;
        note_success(d);
        go_on(d, slot);
        return;
    }
    run->error = apr_pstrdup(run->pool, why);
    note_failure(d, run, weight);
    slot->run = NULL;
    end_run(d, run);
}

static void read_results(hooks_deliverer_t *d)
{
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(d->multi, &left)) != NULL) {
        CURLcode result = message->data.result;

        for (int i = 0; i < CONNECTIONS; i++) {
            if (d->slots[i].run != NULL && d->slots[i].easy == message->easy_handle) {
                end_transfer(d, &d->slots[i], result); /* message is gone then */
                break;
            }
        }
    }
}

/* -- The loop ----------------------------------------------------------------------------- */

static int is_sending(const hooks_deliverer_t *d)
{
    for (int i = 0; i < CONNECTIONS; i++) {
        if (d->slots[i].run != NULL) {
            return 1;
        }
    }
    return 0;
}

static int is_readable(int fd)
{
    struct pollfd poll_fd = {fd, POLLIN, 0};

    return poll(&poll_fd, 1, 0) > 0;
}

/* Settling soon lets others have the runs; settling many at once is cheaper. After a failure it has
 * its own time. */
static int must_settle(const hooks_deliverer_t *d)
{
    apr_interval_time_t left = d->settle - mdm_clock();

    return d->ended->nelts > 0 &&
           (left <= 0 || (left <= SETTLE_WAIT && (d->ended->nelts >= SETTLE_MAX ||
                                                  (!is_sending(d) && d->waiting->nelts == 0))));
}

/* Nothing is claimed while runs could not be settled: they are still ours, and must not come twice.
 * Nor while the receiver is down, but for one run at the end of each pause. */
static int may_claim(const hooks_deliverer_t *d)
{
    return d->waiting->nelts == 0 && !d->unsettled &&
           (d->pause == 0 || (!is_sending(d) && d->ended->nelts == 0 && mdm_clock() >= d->pause));
}

/* Ends with slots filled as far as there are runs: libcurl's own timer has new requests begin. */
static void turn(hooks_deliverer_t *d)
{
    int running;

    curl_multi_perform(d->multi, &running);
    read_results(d);
    if (must_settle(d)) {
        settle(d);
    }
    if (may_claim(d)) {
        claim(d);
    }
    fill_slots(d);
}

/* How long nothing is to be done but for what the network brings, in milliseconds. */
static int wait_time(const hooks_deliverer_t *d)
{
    apr_time_t now = mdm_clock();
    apr_time_t until = now + LOOK_INTERVAL;

    if (may_claim(d)) {
        until = d->more && d->pause == 0 ? now : d->look;
    } else if (d->pause > now) {
        until = d->pause;
    }
    if (d->ended->nelts > 0 && d->settle < until) {
        until = d->settle;
    }
    return until > now ? (int)apr_time_as_msec(until - now) + 1 : 0;
}

/* Events on their way are let go: nobody knows whether they arrive, so they are sent again. */
static void let_go(hooks_deliverer_t *d)
{
    for (int i = 0; i < CONNECTIONS; i++) {
        slot_t *slot = &d->slots[i];

        if (slot->run != NULL) {
            curl_multi_remove_handle(d->multi, slot->easy);
            end_run(d, slot->run);
            slot->run = NULL;
        }
    }
    end_waiting(d);
    settle(d);
}

void hooks_deliverer_run(hooks_deliverer_t *d, int stop_fd, apr_interval_time_t grace)
{
    struct curl_waitfd stop = {stop_fd, CURL_WAIT_POLLIN, 0};

    while (!is_readable(stop_fd)) {
        turn(d);
        if (!is_readable(stop_fd)) {
            curl_multi_poll(d->multi, &stop, 1, wait_time(d), NULL);
        }
    }
    for (apr_time_t end = mdm_clock() + grace; mdm_clock() < end;) {
        d->look = 0;
        turn(d);
        if (!is_sending(d) && d->waiting->nelts == 0 && !d->more) {
            break;
        }
        curl_multi_poll(d->multi, NULL, 0, 10, NULL);
    }
    let_go(d);
}
