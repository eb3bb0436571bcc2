/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* replay: sends the stored check-ins to another server. Owns what is sent, in which order, again or
 * not, and what is remembered of it. One thread: each slot has one device at a time, whose messages
 * go one after the other; slots are independent of each other.
 */
#include <apr_hash.h>
#include <apr_strings.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "migrate.h"
#include "store_copy.h"

#define PAUSE_FIRST (APR_USEC_PER_SEC / 4)
#define PAUSE_LAST (APR_USEC_PER_SEC * 10)
#define REPLY_MAX 160

typedef enum { SLOT_FREE, SLOT_SENDING, SLOT_WAITING } slot_state_t;
typedef enum { STEP_AUTHENTICATE, STEP_TOKEN_UPDATE, STEP_USER } step_t;

/* A device under way. */
typedef struct slot_t {
    CURL *curl;
    apr_pool_t *pool; /* of the device */
    slot_state_t state;
    step_t step;
    const char *device;
    const char *token_update; /* the device's */
    const char *user;         /* the channel of the message, NULL if it is the device's own */
    const char *message;
    apr_interval_time_t pause;
    apr_time_t failing_since; /* this message; 0 if it does not */
    apr_time_t due;           /* to be sent again */
    int failed;               /* a message of this device was refused */
    char reply[REPLY_MAX];
    size_t reply_len;
    char error[CURL_ERROR_SIZE];
} slot_t;

typedef struct failure_t {
    const char *id;
    const char *message;
    const char *why;
} failure_t;

typedef struct replay_t {
    const migrate_options_t *opt;
    store_t *store;
    apr_pool_t *pool;
    CURLM *multi;
    struct curl_slist *headers;

    /* the devices, page by page */
    apr_pool_t *pages[2]; /* of the last page, whose end is the next one's begin, and of this */
    int turn;
    apr_array_header_t *ids, *enabled;
    int next;
    apr_int64_t seen, total;

    apr_hash_t *before; /* devices that an earlier run sent */
    int state;          /* the file of --state, or -1 */

    apr_int64_t devices, messages, disabled, known;
    apr_array_header_t *failures; /* failure_t */
    apr_time_t last_success;
    int waiting;     /* it was said that the server does not answer */
    int interrupted; /* devices were left half sent, or not at all */
    int over;        /* a reason to send nothing more was said */
} replay_t;

static void give_up(replay_t *replay)
{
    replay->over = 1;
    replay->interrupted = 1;
}

/* -- What is remembered ------------------------------------------------------------------- */

/* Reads what earlier runs wrote; returns the length up to the last complete line. */
static off_t read_state(replay_t *replay, FILE *file, const char *head)
{
    char *line = NULL;
    size_t size = 0;
    ssize_t len;
    off_t good = 0;

    while ((len = getline(&line, &size, file)) > 0 && line[len - 1] == '\n') {
        line[len - 1] = '\0';
        if (good == 0 && strcmp(line, head) != 0) {
            free(line);
            migrate_die("--state: %s is not of a run with this --to-url", replay->opt->state);
        }
        if (good != 0) {
            apr_hash_set(replay->before, apr_pstrdup(replay->pool, line), APR_HASH_KEY_STRING, "");
        }
        good += len;
    }
    free(line);
    return good;
}

static int write_state(const replay_t *replay, const char *line)
{
    size_t len = strlen(line);

    return replay->state < 0 || write(replay->state, line, len) == (ssize_t)len;
}

static void open_state(replay_t *replay)
{
    const char *path = replay->opt->state;
    const char *head = apr_pstrcat(replay->pool, "nanomdm-migrate replay to ",
                                   replay->opt->url != NULL ? replay->opt->url : "", NULL);
    FILE *file = fopen(path, "r");
    off_t good = 0;

    if (file != NULL) {
        good = read_state(replay, file, head);
        fclose(file);
    } else if (errno != ENOENT) {
        migrate_die("--state: %s: %s", path, strerror(errno));
    }
    if (replay->opt->dry_run) {
        return;
    }
    replay->state = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    /* A line that a killed run did not end could look like another device. */
    if (replay->state < 0 || ftruncate(replay->state, good) != 0 ||
        (good == 0 && !write_state(replay, apr_pstrcat(replay->pool, head, "\n", NULL)))) {
        migrate_die("--state: %s: %s", path, strerror(errno));
    }
}

/* -- What is sent ------------------------------------------------------------------------- */

static int database_failed(replay_t *replay)
{
    if (!replay->over) {
        migrate_say("--from: the database failed");
    }
    give_up(replay);
    return 0;
}

/* The next device that is to be sent, or NULL. */
static const char *next_device(replay_t *replay)
{
    while (!replay->over) {
        const char *id;

        if (replay->next == replay->ids->nelts) {
            const char *after = replay->next > 0
                                    ? APR_ARRAY_IDX(replay->ids, replay->next - 1, const char *)
                                    : NULL;
            apr_pool_t *page = replay->pages[replay->turn];

            if (replay->next == 0 && replay->seen > 0) {
                return NULL; /* the end was seen before */
            }
            apr_pool_clear(page);
            replay->turn = !replay->turn;
            if (store_replay_devices(replay->store, after, &replay->ids, &replay->enabled, page) !=
                APR_SUCCESS) {
                database_failed(replay);
                return NULL;
            }
            replay->next = 0;
            if (replay->ids->nelts == 0) {
                return NULL;
            }
        }
        id = APR_ARRAY_IDX(replay->ids, replay->next, const char *);
        replay->seen++;
        if (!APR_ARRAY_IDX(replay->enabled, replay->next++, int) && !replay->opt->all) {
            replay->disabled++;
        } else if (apr_hash_get(replay->before, id, APR_HASH_KEY_STRING) != NULL) {
            replay->known++;
        } else {
            return id;
        }
    }
    return NULL;
}

/* Takes the next device into a slot. */
static int begin_device(replay_t *replay, slot_t *slot)
{
    const char *id;
    apr_status_t status = APR_ENOENT;

    while (status == APR_ENOENT && (id = next_device(replay)) != NULL) {
        apr_pool_clear(slot->pool);
        slot->device = apr_pstrdup(slot->pool, id);
        slot->user = NULL;
        slot->step = STEP_AUTHENTICATE;
        slot->failed = 0;
        status = store_replay_device(replay->store, slot->device, &slot->message,
                                     &slot->token_update, slot->pool);
    }
    if (status != APR_SUCCESS && status != APR_ENOENT) {
        return database_failed(replay);
    }
    return status == APR_SUCCESS;
}

/* On to a device's next message. A device without TokenUpdate is not enrolled, nor are its users.
 */
static int next_message(replay_t *replay, slot_t *slot)
{
    apr_status_t status;

    slot->failing_since = 0;
    if (slot->step == STEP_AUTHENTICATE) {
        slot->step = STEP_TOKEN_UPDATE;
        slot->message = slot->token_update;
        return slot->message != NULL;
    }
    slot->step = STEP_USER;
    status = store_replay_user(replay->store, slot->device, slot->user, replay->opt->all,
                               &slot->user, &slot->message, slot->pool);
    if (status != APR_SUCCESS && status != APR_ENOENT) {
        return database_failed(replay);
    }
    return status == APR_SUCCESS;
}

static const char *message_name(const slot_t *slot)
{
    return slot->step == STEP_AUTHENTICATE ? "Authenticate" : "TokenUpdate";
}

static const char *message_id(const slot_t *slot)
{
    return slot->user != NULL ? slot->user : slot->device;
}

static void end_device(replay_t *replay, slot_t *slot)
{
    slot->state = SLOT_FREE;
    if (slot->failed || replay->over) {
        return;
    }
    replay->devices++;
    if (!write_state(replay, apr_pstrcat(slot->pool, slot->device, "\n", NULL))) {
        migrate_say("--state: %s: %s", replay->opt->state, strerror(errno));
        give_up(replay);
    }
}

/* -- Sending ------------------------------------------------------------------------------ */

static size_t take_reply(char *data, size_t size, size_t n, void *baton)
{
    slot_t *slot = baton;
    size_t len = size * n;
    size_t room = sizeof(slot->reply) - 1 - slot->reply_len;
    size_t taken = len < room ? len : room;

    memcpy(slot->reply + slot->reply_len, data, taken);
    slot->reply_len += taken;
    slot->reply[slot->reply_len] = '\0';
    return len;
}

static void make_slot(replay_t *replay, slot_t *slot)
{
    const migrate_options_t *opt = replay->opt;
    CURL *curl = curl_easy_init();

    if (curl == NULL) {
        migrate_die("libcurl does not start");
    }
    apr_pool_create(&slot->pool, replay->pool);
    slot->curl = curl;
    curl_easy_setopt(curl, CURLOPT_PRIVATE, slot);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, slot->error);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_reply);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, slot);
    curl_easy_setopt(curl, CURLOPT_URL, opt->url);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, "PUT");
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, replay->headers);
    curl_easy_setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
    curl_easy_setopt(curl, CURLOPT_USERNAME, "nanomdm");
    curl_easy_setopt(curl, CURLOPT_PASSWORD, opt->api_key);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "nanomdm-migrate/" MIGRATE_VERSION);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 60L);
    if (opt->ca_file != NULL) {
        curl_easy_setopt(curl, CURLOPT_CAINFO, opt->ca_file);
    }
}

static void send_message(replay_t *replay, slot_t *slot)
{
    slot->state = SLOT_SENDING;
    slot->reply_len = 0;
    slot->reply[0] = '\0';
    slot->error[0] = '\0';
    curl_easy_setopt(slot->curl, CURLOPT_POSTFIELDS, slot->message);
    curl_easy_setopt(slot->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(slot->message));
    curl_multi_add_handle(replay->multi, slot->curl);
}

/* -- Results ------------------------------------------------------------------------------ */

/* A sentence about a reply; a page for people says nothing more than its status. */
static const char *reason_of(const slot_t *slot, CURLcode code, long http, apr_pool_t *pool)
{
    if (code != CURLE_OK) {
        return apr_pstrdup(pool, *slot->error != '\0' ? slot->error : curl_easy_strerror(code));
    }
    if (slot->reply_len == 0 || slot->reply[0] == '<') {
        return apr_psprintf(pool, "HTTP status %ld", http);
    }
    return apr_psprintf(pool, "HTTP status %ld: %.*s", http, (int)strcspn(slot->reply, "\r\n"),
                        slot->reply);
}

/* What no other message would get past: NULL if this is not so. */
static const char *hopeless(const replay_t *replay, CURLcode code, long http)
{
    switch (code) {
    case CURLE_OK:
        break;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return "the server's certificate is not trusted: is --ca-file right?";
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return "--to-url is not a URL";
    default:
        return NULL;
    }
    if (http == 401 || http == 403) {
        return "the server refuses this caller: is --api-key right, and may it use the endpoint?";
    }
    if (replay->last_success == 0 && (http == 404 || http == 405 || http / 100 == 3)) {
        return "that is no migration endpoint: is --to-url right, and its handler set?";
    }
    return NULL;
}

static int is_transient(CURLcode code, long http)
{
    return code != CURLE_OK || http == 408 || http == 429 || http >= 500;
}

static void record_failure(replay_t *replay, slot_t *slot, const char *why)
{
    failure_t *failure = apr_array_push(replay->failures);

    failure->id = apr_pstrdup(replay->pool, message_id(slot));
    failure->message = message_name(slot);
    failure->why = apr_pstrdup(replay->pool, why);
    slot->failed = 1;
}

/* A message that did not get through for now. While nothing else does either, it is the server's
 * fault; otherwise it becomes this message's. Returns nonzero if it has failed for good. */
static int try_again(replay_t *replay, slot_t *slot, const char *why)
{
    apr_time_t now = apr_time_now();

    if (slot->failing_since == 0) {
        slot->failing_since = now;
        slot->pause = PAUSE_FIRST;
    } else if (!replay->waiting && replay->last_success < slot->failing_since) {
        replay->waiting = 1;
        migrate_say("%s; trying again for %d s", why, replay->opt->patience);
    }
    if (now + slot->pause - slot->failing_since > apr_time_from_sec(replay->opt->patience)) {
        if (replay->last_success >= slot->failing_since) {
            return 1;
        }
        if (!replay->over) {
            migrate_say("the server has not taken anything for %d s: %s", replay->opt->patience,
                        why);
        }
        give_up(replay);
    }
    slot->state = SLOT_WAITING;
    slot->due = now + slot->pause;
    slot->pause = slot->pause * 2 < PAUSE_LAST ? slot->pause * 2 : PAUSE_LAST;
    return 0;
}

/* After a message that went through, or has failed for good. */
static void go_on(replay_t *replay, slot_t *slot)
{
    /* What comes after a refused message of the device itself rests on it. */
    if ((slot->failed && slot->step != STEP_USER) || !next_message(replay, slot)) {
        end_device(replay, slot);
    } else {
        send_message(replay, slot);
    }
}

static void take_result(replay_t *replay, slot_t *slot, CURLcode code)
{
    long http = 0;
    const char *fatal;
    const char *why;

    curl_easy_getinfo(slot->curl, CURLINFO_RESPONSE_CODE, &http);
    curl_multi_remove_handle(replay->multi, slot->curl);
    if (code == CURLE_OK && http == 200) {
        replay->last_success = apr_time_now();
        replay->waiting = 0;
        replay->messages++;
        go_on(replay, slot);
        return;
    }
    why = reason_of(slot, code, http, slot->pool);
    fatal = hopeless(replay, code, http);
    if (fatal != NULL) {
        if (!replay->over) {
            migrate_say("%s (%s)", fatal, why);
        }
        give_up(replay);
    } else if (!is_transient(code, http) || try_again(replay, slot, why)) {
        record_failure(replay, slot, why);
        go_on(replay, slot);
    }
}

/* -- The run ------------------------------------------------------------------------------ */

/* Gives each slot that could do something work; returns how many are under way. */
static int start_slots(replay_t *replay, slot_t *slots)
{
    apr_time_t now = apr_time_now();
    int active = 0;

    for (int i = 0; i < replay->opt->concurrency && !replay->over; i++) {
        slot_t *slot = &slots[i];

        if (slot->state == SLOT_WAITING && migrate_stop) {
            slot->state = SLOT_FREE;
        } else if (slot->state == SLOT_WAITING && now >= slot->due) {
            send_message(replay, slot);
        } else if (slot->state == SLOT_FREE && !migrate_stop && begin_device(replay, slot)) {
            slot->failing_since = 0;
            send_message(replay, slot);
        }
        active += slot->state != SLOT_FREE;
    }
    return active;
}

static void run(replay_t *replay, slot_t *slots)
{
    while (start_slots(replay, slots) > 0 && !replay->over) {
        CURLMsg *message;
        int left = 0;
        int sockets = 0;
        int results = 0;

        curl_multi_perform(replay->multi, &left);
        while ((message = curl_multi_info_read(replay->multi, &left)) != NULL) {
            if (message->msg == CURLMSG_DONE) {
                CURLcode code = message->data.result;
                char *slot = NULL;

                curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &slot);
                take_result(replay, (slot_t *)(void *)slot, code);
                results++;
            }
        }
        progress_show(replay->seen);
        if (results > 0) {
            continue; /* there is something to send */
        }
        curl_multi_wait(replay->multi, NULL, 0, 50, &sockets);
        if (sockets == 0) {
            apr_sleep(APR_USEC_PER_SEC / 500); /* it does not wait without a socket */
        }
    }
    if (migrate_stop && !replay->over) {
        replay->interrupted = 1;
    }
}

static void send_all(replay_t *replay)
{
    slot_t *slots = apr_pcalloc(replay->pool, (size_t)replay->opt->concurrency * sizeof(*slots));

    curl_global_init(CURL_GLOBAL_DEFAULT);
    replay->multi = curl_multi_init();
    /* No "Expect: 100-continue", which would only cost a round trip. */
    replay->headers =
        curl_slist_append(NULL, "Content-Type: application/x-apple-aspen-mdm-checkin");
    replay->headers = curl_slist_append(replay->headers, "Expect:");
    curl_multi_setopt(replay->multi, CURLMOPT_MAXCONNECTS, (long)replay->opt->concurrency);
    for (int i = 0; i < replay->opt->concurrency; i++) {
        make_slot(replay, &slots[i]);
    }
    progress_start("devices", replay->total, replay->opt->quiet);
    run(replay, slots);
    progress_hide();
    for (int i = 0; i < replay->opt->concurrency; i++) {
        curl_multi_remove_handle(replay->multi, slots[i].curl);
        curl_easy_cleanup(slots[i].curl);
    }
    curl_slist_free_all(replay->headers);
    curl_multi_cleanup(replay->multi);
    curl_global_cleanup();
}

static void list_all(replay_t *replay)
{
    slot_t slot = {0};

    apr_pool_create(&slot.pool, replay->pool);
    while (begin_device(replay, &slot)) {
        if (migrate_stop) {
            replay->interrupted = 1;
            break;
        }
        do {
            printf("%s %s\n", message_name(&slot), message_id(&slot));
            replay->messages++;
        } while (next_message(replay, &slot));
        end_device(replay, &slot);
    }
}

/* What was done; returns the exit status. */
static int summarize(replay_t *replay)
{
    if (!replay->interrupted && replay->seen < replay->total) {
        migrate_say("--from had %" APR_INT64_T_FMT " devices at first, and not as many were read: "
                    "is it in use?",
                    replay->total);
        replay->interrupted = 1;
    }
    for (int i = 0; i < replay->failures->nelts; i++) {
        const failure_t *failure = &APR_ARRAY_IDX(replay->failures, i, failure_t);

        migrate_say("%s: %s was refused: %s", failure->id, failure->message, failure->why);
    }
    printf("%s %" APR_INT64_T_FMT " devices with %" APR_INT64_T_FMT
           " messages; left out: %" APR_INT64_T_FMT " disabled, %" APR_INT64_T_FMT
           " sent before; %d messages failed\n",
           replay->opt->dry_run ? "would send" : "sent", replay->devices, replay->messages,
           replay->disabled, replay->known, replay->failures->nelts);
    if (replay->interrupted) {
        migrate_say(replay->state >= 0
                        ? "not finished; the same command, with the same --state, goes on"
                        : "not finished; a new run begins anew, as there is no --state");
    }
    return replay->interrupted || replay->failures->nelts > 0 ? MIGRATE_FAILED : MIGRATE_DONE;
}

static apr_status_t count_devices(replay_t *replay)
{
    apr_array_header_t *tables;
    apr_status_t status = store_tables_load(replay->store, &tables, replay->pool);

    for (int i = 0; status == APR_SUCCESS && i < tables->nelts; i++) {
        const store_table_t *table = &APR_ARRAY_IDX(tables, i, store_table_t);

        if (strcmp(table->name, "devices") == 0) {
            return store_table_count(replay->store, table, &replay->total, replay->pool);
        }
    }
    return status;
}

int migrate_replay(const migrate_options_t *opt, const store_config_t *from, apr_pool_t *pool)
{
    replay_t replay = {.opt = opt, .pool = pool, .state = -1};
    store_config_t source = *from;

    replay.before = apr_hash_make(pool);
    replay.failures = apr_array_make(pool, 8, sizeof(failure_t));
    replay.ids = apr_array_make(pool, 1, sizeof(const char *));
    apr_pool_create(&replay.pages[0], pool);
    apr_pool_create(&replay.pages[1], pool);
    if (opt->state != NULL) {
        open_state(&replay);
    }
    source.read_only = 1;
    replay.store = migrate_open(&source, "--from", pool);
    if (count_devices(&replay) != APR_SUCCESS) {
        database_failed(&replay);
    } else if (opt->dry_run) {
        list_all(&replay);
    } else {
        send_all(&replay);
    }
    if (replay.state >= 0) {
        close(replay.state);
    }
    return summarize(&replay);
}
