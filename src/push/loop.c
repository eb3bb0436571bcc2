/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns the pusher's thread: the connections of each topic, what waits to be sent, and what is sent
 * again when. Takes what callers handed over, and gives each push its result.
 */
#include <apr_strings.h>
#include <openssl/crypto.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "answer.h"
#include "mdm_clock.h"
#include "mdm_log.h"
#include "pusher.h"

/* Connections of a topic that end what they have while others take over. */
#define ENDING_MAX 4
/* Between attempts to connect, doubled each time. */
#define CONNECT_AGAIN apr_time_from_msec(250)
#define CONNECT_AGAIN_MAX apr_time_from_sec(10)
/* Before a push is sent again, doubled each time: because the service was busy, or nobody knows. */
#define BUSY_AGAIN apr_time_from_msec(500)
#define LOST_AGAIN apr_time_from_msec(50)
#define AGAIN_MAX apr_time_from_sec(8)
/* So many connections that close before HTTP/2 begins are a refusal. */
#define MUTE_MAX 3
/* How exactly times are kept of pushes that are sent again. */
#define TICK apr_time_from_msec(20)
#define PAUSE_MAX apr_time_from_sec(60)

/* ---- results ------------------------------------------------------------------------------ */

static void end_job(apns_t *apns, job_t *job, apr_status_t status, const char *reason)
{
    apns_push_t result = {.status = status};

    apr_cpystrn(result.reason, reason, sizeof(result.reason));
    job_end(&apns->desk, job, &result);
}

static void end_unreachable(topic_t *topic, job_t *job)
{
    end_job(topic->apns, job, MDM_EUNAVAILABLE,
            topic->apns->stopping ? "the server is stopping"
            : *topic->trouble     ? topic->trouble
                                  : "the connection to the push service was lost");
}

/* Somewhere between half and one and a half of it, so that not all come back at once. */
static apr_interval_time_t about(apns_t *apns, apr_interval_time_t time)
{
    apns->seed = apns->seed * 1103515245U + 12345U;
    return time / 2 + time * (apr_interval_time_t)(apns->seed >> 16 & 0x3ff) / 0x400;
}

static apr_interval_time_t doubled(apr_interval_time_t time, int times, apr_interval_time_t max)
{
    while (times-- > 0 && time < max) {
        time *= 2;
    }
    return time < max ? time : max;
}

/* Say something once for each certificate. */
static void tell_once(topic_t *topic, const char *what)
{
    apr_ssize_t len = APR_HASH_KEY_STRING;
    unsigned hash = apr_hashfunc_default(what, &len);

    for (int i = 0; i < topic->told_count; i++) {
        if (topic->told[i] == hash) {
            return;
        }
    }
    if (topic->told_count < TOLD_MAX) {
        topic->told[topic->told_count++] = hash;
        mdm_log(MDM_LOG_ERR, 0, "push %s: %s", topic->name, what);
    }
}

/* ---- what waits --------------------------------------------------------------------------- */

static void lane_link(lane_t *lane)
{
    topic_t *topic = lane->topic;

    if (lane->linked) {
        return;
    }
    lane->linked = 1;
    lane->next = NULL;
    lane->prev = topic->last;
    if (topic->last != NULL) {
        topic->last->next = lane;
    } else {
        topic->first = lane;
    }
    topic->last = lane;
}

static void lane_unlink(lane_t *lane)
{
    topic_t *topic = lane->topic;

    if (!lane->linked) {
        return;
    }
    lane->linked = 0;
    *(lane->prev != NULL ? &lane->prev->next : &topic->first) = lane->next;
    *(lane->next != NULL ? &lane->next->prev : &topic->last) = lane->prev;
}

/* The next job to send; callers take turns, so that one push need not wait for a hundred thousand.
 */
static job_t *next_job(topic_t *topic)
{
    lane_t *lane = topic->first;
    job_t *job;

    if (lane == NULL) {
        return NULL;
    }
    job = lane->first;
    lane->first = job->next;
    lane_unlink(lane);
    if (lane->first != NULL) {
        lane_link(lane);
    } else {
        lane->last = NULL;
    }
    job->next = NULL;
    job->place = JOB_NOWHERE;
    return job;
}

/* First among its caller's: it has waited longest. */
static void queue_job(job_t *job)
{
    lane_t *lane = job->lane;

    job->place = JOB_QUEUED;
    job->next = lane->first;
    lane->first = job;
    if (lane->last == NULL) {
        lane->last = job;
    }
    lane_link(lane);
}

static void delay_job(apns_t *apns, job_t *job, apr_time_t until)
{
    job->place = JOB_DELAYED;
    job->u.not_before = until;
    job->prev = NULL;
    job->next = apns->delayed;
    if (job->next != NULL) {
        job->next->prev = job;
    }
    if (apns->delayed == NULL || until < apns->delayed_due) {
        apns->delayed_due = until;
    }
    apns->delayed = job;
}

static void undelay_job(apns_t *apns, job_t *job)
{
    *(job->prev != NULL ? &job->prev->next : &apns->delayed) = job->next;
    if (job->next != NULL) {
        job->next->prev = job->prev;
    }
    job->place = JOB_NOWHERE;
}

static void queue_delayed(apns_t *apns)
{
    apr_time_t due = apns->now + PAUSE_MAX;
    job_t *next;

    if (apns->delayed == NULL || apns->now < apns->delayed_due) {
        return;
    }
    for (job_t *job = apns->delayed; job != NULL; job = next) {
        next = job->next;
        if (job->u.not_before <= apns->now) {
            undelay_job(apns, job);
            queue_job(job);
        } else if (job->u.not_before < due) {
            due = job->u.not_before;
        }
    }
    apns->delayed_due = due < apns->now + TICK ? apns->now + TICK : due;
}

/* Send it again after a while, or give this result if there is no time for it. */
static void again(topic_t *topic, job_t *job, apr_interval_time_t pause, const apns_push_t *result)
{
    apns_t *apns = topic->apns;
    apr_time_t until = apns->now + about(apns, doubled(pause, job->attempts - 1, AGAIN_MAX));

    if (until >= job->lane->call->end) {
        job_end(&apns->desk, job, result);
    } else {
        delay_job(apns, job, until);
    }
}

static void lost_job(topic_t *topic, job_t *job, session_outcome_t outcome)
{
    apns_push_t result = {.status = MDM_EUNAVAILABLE};

    if (topic->apns->stopping) {
        end_unreachable(topic, job);
    } else if (outcome == SESSION_UNPROCESSED && job->attempts <= 1) {
        queue_job(job);
    } else {
        apr_cpystrn(result.reason,
                    outcome == SESSION_LOST ? "the connection was lost before the answer"
                                            : "the service does not take the push",
                    sizeof(result.reason));
        again(topic, job, LOST_AGAIN, &result);
    }
}

/* A session says how a request ended. */
static void on_end(void *baton, void *push, session_outcome_t outcome,
                   const session_answer_t *answer)
{
    topic_t *topic = ((link_t *)baton)->topic;
    job_t *job = push;
    apns_push_t result;
    answer_kind_t kind;

    topic->apns->sent--;
    job->place = JOB_NOWHERE;
    if (outcome != SESSION_ANSWERED) {
        lost_job(topic, job, outcome);
        return;
    }
    topic->failures = topic->mutes = 0;
    answer_read(&result, answer);
    kind = answer_kind(&result);
    if (kind == ANSWER_CERTIFICATE) {
        char line[200];

        apr_snprintf(line, sizeof(line), "the service refuses pushes: %s", result.reason);
        tell_once(topic, line);
    }
    if (kind == ANSWER_LATER && !topic->apns->stopping) {
        again(topic, job, BUSY_AGAIN, &result);
    } else {
        job_end(&topic->apns->desk, job, &result);
    }
}

/* ---- connections -------------------------------------------------------------------------- */

static void set_trouble(topic_t *topic, const char *text)
{
    desk_lock(&topic->apns->desk);
    apr_cpystrn(topic->trouble, text, sizeof(topic->trouble));
    desk_unlock(&topic->apns->desk);
}

static int link_is_up(const link_t *link)
{
    session_t *session = connection_session(link->connection);

    return session != NULL && session_is_up(session) && !session_is_draining(session);
}

static int has_link_up(const topic_t *topic)
{
    const link_t *link = topic->links;

    while (link != NULL && !link_is_up(link)) {
        link = link->next;
    }
    return link != NULL;
}

static void end_queued(topic_t *topic)
{
    job_t *job;

    while ((job = next_job(topic)) != NULL) {
        end_unreachable(topic, job);
    }
}

/* A connection failed: wait before the next, and tell whom it concerns.
 * @param ended  there was a connection: that it ended is told, and may be nothing */
static void note_failure(topic_t *topic, connection_fate_t fate, const char *why, int ended)
{
    apns_t *apns = topic->apns;
    char text[sizeof(topic->trouble)];

    topic->connect_after =
        apns->now + about(apns, doubled(CONNECT_AGAIN, topic->failures++, CONNECT_AGAIN_MAX));
    topic->mutes = fate == CONNECTION_MUTE ? topic->mutes + 1 : 0;
    apr_snprintf(text, sizeof(text), "%s: %s%s", apns->endpoint.authority, why,
                 topic->mutes >= MUTE_MAX
                     ? " right after the handshake, perhaps it refuses our push certificate"
                     : "");
    if (has_link_up(topic)) {
        mdm_log(MDM_LOG_INFO, 0, "push %s: %s", topic->name, text);
        return;
    }
    if (fate == CONNECTION_REFUSED || topic->mutes >= MUTE_MAX) {
        tell_once(topic, text);
        set_trouble(topic, text);
        topic->refused = 1;
        end_queued(topic);
        return;
    }
    mdm_log(!ended && strcmp(topic->trouble, text) != 0 ? MDM_LOG_WARNING : MDM_LOG_DEBUG, 0,
            "push %s: no connection to %s", topic->name, text);
    set_trouble(topic, text);
}

static void link_end(link_t *link)
{
    topic_t *topic = link->topic;
    connection_t *connection = link->connection;
    session_t *session = connection_session(connection);
    connection_fate_t fate = connection_fate(connection);
    int replaced = connection_tls(connection) != topic->tls;
    int served = session != NULL && session_has_answered(session);
    link_t **at = &topic->links;
    char why[256];

    while (*at != link) {
        at = &(*at)->next;
    }
    *at = link->next;
    apr_cpystrn(why, connection_why(connection), sizeof(why));
    if (session != NULL && session_is_up(session)) {
        mdm_log(MDM_LOG_INFO, 0, "push %s: connection closed: %s", topic->name,
                *why ? why : "the server is stopping");
    }
    /* A service that says goodbye before it answered anything must not be called again at once. */
    if (!topic->apns->stopping && !replaced && (fate != CONNECTION_DONE || !served)) {
        note_failure(topic, fate, why, served || fate == CONNECTION_DONE);
    }
    connection_destroy(connection); /* what was in flight is queued again, or ended */
    free(link);
}

static void link_begin(topic_t *topic)
{
    apns_t *apns = topic->apns;
    link_t *link = calloc(1, sizeof(*link));
    connection_config_t config = {&apns->endpoint, apns->lookup, topic->tls,
                                  topic->name,     on_end,       link};

    topic->refused = 0;
    if (link == NULL || connection_create(&link->connection, &config, apns->now) != APR_SUCCESS) {
        free(link);
        topic->connect_after = apns->now + CONNECT_AGAIN_MAX;
        return;
    }
    link->topic = topic;
    link->polled = -1;
    link->next = topic->links;
    topic->links = link;
}

/* A link with room for another request. Counts those that may have some later.
 *
 * @param taking  links that take requests, or will
 * @param all     links
 */
static link_t *find_room(const topic_t *topic, int *taking, int *all, int *coming)
{
    link_t *found = NULL;

    *taking = *all = *coming = 0;
    for (link_t *link = topic->links; link != NULL; link = link->next) {
        session_t *session = connection_session(link->connection);

        ++*all;
        if (session == NULL || !session_is_up(session)) {
            ++*coming;
            ++*taking;
        } else if (!session_is_draining(session)) {
            ++*taking;
            if (session_room(session) > 0) {
                found = link;
            }
        }
    }
    return found;
}

static void begin_if_wanted(topic_t *topic)
{
    apns_t *apns = topic->apns;
    int taking, all, coming;

    if (topic->first != NULL && topic->tls != NULL && !apns->stopping &&
        apns->now >= topic->connect_after && find_room(topic, &taking, &all, &coming) == NULL &&
        coming == 0 && taking < apns->config.connections &&
        all < apns->config.connections + ENDING_MAX) {
        link_begin(topic);
    }
}

/* ---- sending ------------------------------------------------------------------------------ */

static void send_job(link_t *link, job_t *job)
{
    topic_t *topic = link->topic;
    apns_t *apns = topic->apns;
    char token[CALL_TOKEN_MAX + 1];
    char magic[SESSION_MAGIC_MAX + 1];
    apr_int64_t expiration = 0;
    apr_status_t status;

    if (!job_read(&apns->desk, job, token, magic)) {
        return; /* its call is about to be taken away */
    }
    if (apns->config.expiration > 0) {
        expiration = apr_time_sec(apr_time_now() + apns->config.expiration);
    }
    status = session_push(connection_session(link->connection), &job->u.stream, job, token, magic,
                          expiration);
    if (status == APR_SUCCESS) {
        job->place = JOB_SENT;
        job->link = link;
        job->attempts++;
        apns->sent++;
    } else if (APR_STATUS_IS_EAGAIN(status)) {
        queue_job(job);
    } else {
        end_job(apns, job, MDM_EUNAVAILABLE, "there is no memory");
    }
}

static void send_jobs(topic_t *topic)
{
    int taking, all, coming;
    link_t *link;

    while (topic->first != NULL && (link = find_room(topic, &taking, &all, &coming)) != NULL) {
        send_job(link, next_job(topic));
    }
}

/* An older certificate's connections take nothing new, and those that have not begun HTTP/2 have
 * nothing to end.
 * @return whether the link is still there */
static int retire(link_t *link)
{
    session_t *session = connection_session(link->connection);

    if (connection_tls(link->connection) == link->topic->tls) {
        return 1;
    }
    if (session == NULL || !session_is_up(session)) {
        link_end(link);
        return 0;
    }
    session_drain(session);
    return 1;
}

static void topic_turn(topic_t *topic)
{
    apns_t *apns = topic->apns;
    link_t *next;

    for (link_t *link = topic->links; link != NULL; link = next) {
        int revents = link->polled >= 0 ? apns->polls[link->polled].revents : 0;

        next = link->next;
        if (!retire(link)) {
            continue;
        }
        if (connection_turn(link->connection, revents, apns->now) != APR_SUCCESS) {
            link_end(link);
        } else if (*topic->trouble && link_is_up(link)) {
            set_trouble(topic, "");
        }
    }
    if (topic->refused && apns->now < topic->connect_after && !has_link_up(topic)) {
        end_queued(topic);
    }
    send_jobs(topic);
    for (link_t *link = topic->links; link != NULL; link = next) {
        next = link->next;
        if (connection_flush(link->connection, apns->now) != APR_SUCCESS) {
            link_end(link);
        }
    }
    begin_if_wanted(topic); /* also for what a link has just given back */
}

/* ---- the thread --------------------------------------------------------------------------- */

/* Whose caller has left: nobody wants it any more. */
static void drop_call(apns_t *apns, call_t *call)
{
    for (lane_t *lane = call->lanes; lane != NULL; lane = lane->next_of_call) {
        lane_unlink(lane);
    }
    for (unsigned i = 0; i < call->count; i++) {
        job_t *job = &call->jobs[i];

        if (job->place == JOB_DELAYED) {
            undelay_job(apns, job);
        } else if (job->place == JOB_SENT) {
            session_cancel(connection_session(job->link->connection), job->u.stream);
            apns->sent--;
        }
    }
    call_free(call);
}

static void take_certificate(topic_t *topic, SSL_CTX *given)
{
    SSL_CTX_free(topic->tls);
    topic->tls = given; /* connections with another one end what they have */
    topic->failures = topic->mutes = topic->refused = topic->told_count = 0;
    topic->connect_after = 0;
}

static topic_t *take_certificates(apns_t *apns)
{
    topic_t *topics;

    desk_lock(&apns->desk);
    topics = apns->topics;
    desk_unlock(&apns->desk);
    for (topic_t *topic = topics; topic != NULL; topic = topic->next) {
        SSL_CTX *given;

        desk_lock(&apns->desk);
        given = topic->given;
        topic->given = NULL;
        desk_unlock(&apns->desk);
        if (given != NULL) {
            take_certificate(topic, given);
        }
    }
    return topics;
}

static void take_calls(apns_t *apns)
{
    call_t *fresh, *gone, *next;

    desk_take(&apns->desk, &fresh, &gone);
    for (call_t *call = fresh; call != NULL; call = next) {
        next = call->next;
        for (lane_t *lane = call->lanes; lane != NULL; lane = lane->next_of_call) {
            lane_link(lane);
        }
    }
    for (call_t *call = gone; call != NULL; call = next) {
        next = call->next_gone;
        drop_call(apns, call);
    }
}

/* Nothing new is sent from here on. */
static void begin_stop(apns_t *apns)
{
    topic_t *topics;
    job_t *job;

    apns->stopping = 1;
    desk_lock(&apns->desk);
    apns->desk.state = DESK_CLOSED;
    desk_unlock(&apns->desk);
    take_calls(apns);
    topics = take_certificates(apns); /* with those that the last calls know */
    while ((job = apns->delayed) != NULL) {
        undelay_job(apns, job);
        end_unreachable(job->lane->topic, job);
    }
    for (topic_t *topic = topics; topic != NULL; topic = topic->next) {
        end_queued(topic);
    }
}

static int links_of(const topic_t *topics)
{
    int count = 0;

    for (const topic_t *topic = topics; topic != NULL; topic = topic->next) {
        for (const link_t *link = topic->links; link != NULL; link = link->next) {
            count++;
        }
    }
    return count;
}

static apr_time_t sooner(apr_time_t a, apr_time_t b)
{
    return a < b ? a : b;
}

/* When there is something to do without anybody's asking. */
static apr_time_t topic_due(const topic_t *topic, apr_time_t due)
{
    int taking, all, coming;

    if (topic->first != NULL && find_room(topic, &taking, &all, &coming) != NULL) {
        return topic->apns->now; /* a link gave back what another one can send */
    }
    for (const link_t *link = topic->links; link != NULL; link = link->next) {
        due = sooner(due, connection_due(link->connection, topic->apns->now));
    }
    if (topic->first != NULL && topic->connect_after > topic->apns->now) {
        due = sooner(due, topic->connect_after);
    }
    return due;
}

/* @return whether stop_fd is readable */
static int wait_for_events(apns_t *apns, const topic_t *topics, int stop_fd, apr_time_t due)
{
    int count = ALWAYS_POLLED + links_of(topics);
    int at = ALWAYS_POLLED;
    apr_interval_time_t pause;

    if (!pusher_room_to_poll(apns, count)) {
        count = at; /* no memory: the links wait */
    }
    for (const topic_t *topic = topics; topic != NULL; topic = topic->next) {
        for (link_t *link = topic->links; link != NULL; link = link->next) {
            link->polled = at < count ? at++ : -1;
            if (link->polled >= 0) {
                apns->polls[link->polled] = (struct pollfd){connection_fd(link->connection),
                                                            connection_events(link->connection), 0};
            }
        }
        due = topic_due(topic, due);
    }
    if (apns->delayed != NULL) {
        due = sooner(due, apns->delayed_due);
    }
    apns->polls[0] = (struct pollfd){apns->desk.wake[0], POLLIN, 0};
    apns->polls[1] = (struct pollfd){apns->stopping ? -1 : stop_fd, POLLIN, 0};
    pause = due > apns->now ? due - apns->now : 0;
    if (poll(apns->polls, (nfds_t)count, (int)((pause + 999) / 1000)) < 0) {
        for (int i = 0; i < count; i++) {
            apns->polls[i].revents = 0;
        }
    }
    return apns->polls[1].revents != 0;
}

static void end_links(topic_t *topics)
{
    for (topic_t *topic = topics; topic != NULL; topic = topic->next) {
        while (topic->links != NULL) {
            link_end(topic->links);
        }
    }
}

static void run(apns_t *apns, int stop_fd, apr_interval_time_t grace)
{
    topic_t *topics = NULL;
    apr_time_t end = 0;

    while (!apns->stopping || (apns->sent > 0 && apns->now < end)) {
        int stop =
            wait_for_events(apns, topics, stop_fd, apns->stopping ? end : mdm_clock() + PAUSE_MAX);

        apns->now = mdm_clock();
        take_calls(apns); /* it takes the wake-up, too: what comes after it wakes again */
        topics = take_certificates(apns);
        if (stop) {
            end = apns->now + grace;
            begin_stop(apns);
        }
        queue_delayed(apns);
        for (topic_t *topic = topics; topic != NULL; topic = topic->next) {
            topic_turn(topic);
        }
    }
    end_links(topics);
    take_calls(apns); /* those whose callers left meanwhile */
}

void apns_run(apns_t *apns, int stop_fd, apr_interval_time_t grace)
{
    sigset_t broken_pipe;

    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &broken_pipe, NULL);
    desk_lock(&apns->desk);
    apns->desk.state = DESK_OPEN;
    apns->running = 1;
    desk_unlock(&apns->desk);
    apns->now = mdm_clock();
    apns->seed = (unsigned)apns->now ^ (unsigned)getpid();
    run(apns, stop_fd, grace);
    OPENSSL_thread_stop();
    desk_lock(&apns->desk);
    apns->running = 0; /* from here on it may be freed */
    desk_unlock(&apns->desk);
}
