/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Tests the pusher against apnsd, a server of HTTP/2 over TLS in another process, and against
 * nghttpd, which others wrote. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <apr_general.h>
#include <arpa/inet.h>
#include <ctype.h>
#include <dlfcn.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "../peer/apnsd.h"
#include "apns.h"
#include "db.h"

#define TOPIC "com.apple.mgmt.Test"
#define MAGIC "5A0E86B0-1D4D-4D0E-9A77-5CF7B2B1A0F1"
#define SECONDS(n) apr_time_from_sec(n)
#define FILLER "00112233445566778899aabbccddeeff00112233445566778899aabb" /* 56 digits */

static apr_pool_t *pool;
static const char *dir;
static pki_t pki, stranger;
static const char *ca_file, *stranger_file, *cert_file, *key_file, *log_path;
static peer_apnsd_t server;

/* What the log was told; secrets must not be in it. */
static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int errors, warnings, secrets, frames, dead;
static char last_error[1024];

static void sink(mdm_log_level_t level, apr_status_t status, const char *line)
{
    pthread_mutex_lock(&sink_lock);
    db_quiet(level, status, line);
    errors += level == MDM_LOG_ERR;
    warnings += level == MDM_LOG_WARNING;
    dead += strstr(line, "the service does not answer any more") != NULL;
    frames += strstr(line, "received HEADERS stream=") != NULL;
    secrets += strstr(line, MAGIC) != NULL || strstr(line, FILLER) != NULL ||
               strstr(line, "PRIVATE") != NULL || strstr(line, "sesame") != NULL;
    if (level == MDM_LOG_ERR) {
        apr_cpystrn(last_error, line, sizeof(last_error));
    }
    pthread_mutex_unlock(&sink_lock);
}

/* ---- the pusher and its thread --------------------------------------------------------------- */

typedef struct pusher_t {
    apr_pool_t *pool;
    apns_t *apns;
    pthread_t thread;
    int stop[2];
    apr_interval_time_t grace;
} pusher_t;

static void *run(void *data)
{
    pusher_t *pusher = data;

    apns_run(pusher->apns, pusher->stop[0], pusher->grace);
    return NULL;
}

static apns_config_t config_for(int port)
{
    apns_config_t config = {.url = apr_psprintf(pool, "https://localhost:%d", port),
                            .ca_file = ca_file,
                            .connections = 1,
                            .expiration = SECONDS(3600)};

    return config;
}

static void use_certificate(pusher_t *pusher, const pki_t *issuer, long serial, long until)
{
    const pki_recipe_t recipe = {.cn = "push", .uid = TOPIC, .serial = serial, .until = until};
    const char *why = NULL;

    assert_int_equal(apns_set_certificate(pusher->apns, TOPIC, serial,
                                          pki_issue_pem(issuer, &recipe, pool),
                                          pki_key_pem(issuer->key, pool), &why, pool),
                     APR_SUCCESS);
    assert_true(apns_has_certificate(pusher->apns, TOPIC, serial));
}

static void pusher_make(pusher_t *pusher, const apns_config_t *config)
{
    const char *why = NULL;

    memset(pusher, 0, sizeof(*pusher));
    assert_int_equal(apr_pool_create(&pusher->pool, NULL), APR_SUCCESS);
    if (apns_create(&pusher->apns, config, &why, pusher->pool) != APR_SUCCESS) {
        fail_msg("apns_create: %s", why);
    }
    assert_int_equal(pipe(pusher->stop), 0);
    use_certificate(pusher, &pki, 101, 0);
}

static void pusher_run(pusher_t *pusher)
{
    assert_int_equal(pthread_create(&pusher->thread, NULL, run, pusher), 0);
}

static void pusher_start(pusher_t *pusher, const apns_config_t *config)
{
    pusher_make(pusher, config);
    pusher_run(pusher);
}

static void pusher_join(pusher_t *pusher)
{
    assert_int_equal(write(pusher->stop[1], "", 1), 1);
    assert_int_equal(pthread_join(pusher->thread, NULL), 0);
}

static void pusher_free(pusher_t *pusher)
{
    apr_pool_destroy(pusher->pool);
    close(pusher->stop[0]);
    close(pusher->stop[1]);
}

static void pusher_stop(pusher_t *pusher)
{
    pusher_join(pusher);
    pusher_free(pusher);
}

/* ---- the server ------------------------------------------------------------------------------ */

/* @param more  options besides certificates and log, NULL at the end */
static void server_start_with(const char *ca, const char *cert, int port, const char *const *more)
{
    const char *options[20] = {"--cert", cert,    "--key",  key_file, "--ca",
                               ca,       "--log", log_path, "--port", apr_itoa(pool, port)};

    for (int i = 0; i < 9 && more != NULL && more[i] != NULL; i++) {
        options[10 + i] = more[i];
    }
    peer_start(&server, options);
}

static void server_start(const char *const *more)
{
    server_start_with(ca_file, cert_file, 0, more);
}

/* The server's log: lines with a word, in a column or anywhere. */
static int log_lines(const char *word)
{
    FILE *file = fopen(log_path, "r");
    char line[8192];
    int count = 0;

    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        count += strstr(line, word) != NULL;
    }
    if (file != NULL) {
        fclose(file);
    }
    return count;
}

static void wait_for_lines(int count)
{
    for (int i = 0; i < 1000 && log_lines("") < count; i++) {
        apr_sleep(apr_time_from_msec(5));
    }
    assert_true(log_lines("") >= count);
}

static int setup(void **state)
{
    (void)state;
    server.pid = 0;
    unlink(log_path);
    errors = warnings = secrets = frames = dead = 0;
    last_error[0] = '\0';
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    peer_stop(&server, SIGTERM);
    return secrets;
}

/* ---- pushes ---------------------------------------------------------------------------------- */

static const char *token_of(const char *code, int number)
{
    return apr_psprintf(pool, "%s%s%06x", code, FILLER, number);
}

static void push_init(apns_push_t *push, const char *code, int number)
{
    memset(push, 0xa5, sizeof(*push)); /* as a caller might */
    push->topic = TOPIC;
    push->token = token_of(code, number);
    push->magic = MAGIC;
}

static apns_push_t *pushes_make(const char *code, int count)
{
    apns_push_t *pushes = apr_palloc(pool, sizeof(*pushes) * (apr_size_t)count);

    for (int i = 0; i < count; i++) {
        push_init(&pushes[i], code, i);
    }
    return pushes;
}

static int count_status(const apns_push_t *pushes, int count, apr_status_t status)
{
    int n = 0;

    for (int i = 0; i < count; i++) {
        n += pushes[i].status == status;
    }
    return n;
}

static void assert_all_taken(const apns_push_t *pushes, int count)
{
    for (int i = 0; i < count; i++) {
        if (pushes[i].status != APR_SUCCESS) {
            fail_msg("push %d: status %d, code %d, %s", i, pushes[i].status, pushes[i].code,
                     pushes[i].reason);
        }
        assert_int_equal(pushes[i].code, 200);
        assert_string_equal(pushes[i].reason, "");
        assert_int_equal(strlen(pushes[i].apns_id), 36);
        assert_int_equal(pushes[i].timestamp, 0);
    }
}

/* Send one push in a new pusher that is stopped again. */
static apr_interval_time_t send_one(const apns_config_t *config, apns_push_t *push,
                                    const char *code, apr_interval_time_t timeout)
{
    pusher_t pusher;
    apr_time_t began;
    apr_interval_time_t took;

    pusher_start(&pusher, config);
    push_init(push, code, 1);
    began = apr_time_now();
    assert_int_equal(apns_send(pusher.apns, push, 1, timeout), APR_SUCCESS);
    took = apr_time_now() - began;
    pusher_stop(&pusher);
    return took;
}

/* A caller in a thread of its own. */
typedef struct caller_t {
    pthread_t thread;
    apns_t *apns;
    apns_push_t *pushes;
    int count;
    apr_interval_time_t timeout;
    apr_status_t status;
} caller_t;

static void *call(void *data)
{
    caller_t *caller = data;

    caller->status = apns_send(caller->apns, caller->pushes, caller->count, caller->timeout);
    return NULL;
}

static void caller_start(caller_t *caller, pusher_t *pusher, apns_push_t *pushes, int count,
                         apr_interval_time_t timeout)
{
    *caller =
        (caller_t){.apns = pusher->apns, .pushes = pushes, .count = count, .timeout = timeout};
    assert_int_equal(pthread_create(&caller->thread, NULL, call, caller), 0);
}

static apr_status_t caller_join(caller_t *caller)
{
    assert_int_equal(pthread_join(caller->thread, NULL), 0);
    return caller->status;
}

/* ---- answers --------------------------------------------------------------------------------- */

static void test_answers(void **state)
{
    static const struct {
        const char *code;
        apr_status_t status;
        int http;
        const char *reason;
        apr_time_t timestamp;
        int requests;
    } cases[] = {
        {"0000", APR_SUCCESS, 200, "", 0, 1},
        {"ffff0400", MDM_EREFUSED, 400, "BadDeviceToken", 0, 1},
        {"ffff1400", MDM_EREFUSED, 400, "DeviceTokenNotForTopic", 0, 1},
        {"ffff0403", MDM_EREFUSED, 403, "BadCertificate", 0, 1},
        {"ffff1403", MDM_EREFUSED, 403, "BadCertificateEnvironment", 0, 1},
        {"ffff0404", MDM_EREFUSED, 404, "BadPath", 0, 1},
        {"ffff0410", MDM_EREFUSED, 410, "Unregistered", APR_INT64_C(1454402113000000), 1},
        {"ffff0413", MDM_EREFUSED, 413, "PayloadTooLarge", 0, 1},
        {"ffff0429", APR_SUCCESS, 200, "", 0, 2},
        {"ffff0500", APR_SUCCESS, 200, "", 0, 2},
        {"ffff0503", APR_SUCCESS, 200, "", 0, 2},
        {"ffffa001", APR_SUCCESS, 200, "", 0, 2},
        {"ffffa002", APR_SUCCESS, 200, "", 0, 2},
        {"ffffa005", MDM_EREFUSED, 400, "BadMessageId", 0, 1}, /* without waiting for all of it */
        {"ffffa006", MDM_EREFUSED, 400, "HTTP status 400", 0, 1},
        {"ffffd030", APR_SUCCESS, 200, "", 0, 1},
    };
    const int count = sizeof(cases) / sizeof(cases[0]);
    apns_push_t pushes[sizeof(cases) / sizeof(cases[0])];
    apns_config_t config;
    pusher_t pusher;

    (void)state;
    server_start(NULL);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    for (int i = 0; i < count; i++) {
        push_init(&pushes[i], cases[i].code, i);
    }
    assert_int_equal(apns_send(pusher.apns, pushes, count, SECONDS(10)), APR_SUCCESS);
    for (int i = 0; i < count; i++) {
        assert_int_equal(pushes[i].status, cases[i].status);
        assert_int_equal(pushes[i].code, cases[i].http);
        assert_string_equal(pushes[i].reason, cases[i].reason);
        assert_int_equal(pushes[i].timestamp, cases[i].timestamp);
        assert_int_equal(log_lines(pushes[i].token), cases[i].requests);
    }
    assert_int_equal(errors, 3); /* two of 403, and DeviceTokenNotForTopic */
    assert_int_equal(apns_send(pusher.apns, pushes, count, SECONDS(10)), APR_SUCCESS);
    assert_int_equal(errors, 3);
    assert_true(frames > 0);
    pusher_stop(&pusher);
}

/* What stays bad is told as it is, before the time is up. */
static void test_busy(void **state)
{
    apns_push_t pushes[3];
    apns_config_t config;
    pusher_t pusher;
    apr_time_t began;

    (void)state;
    server_start(NULL);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    push_init(&pushes[0], "ffff1429", 1);
    push_init(&pushes[1], "ffff1500", 2);
    push_init(&pushes[2], "ffff1503", 3);
    began = apr_time_now();
    assert_int_equal(apns_send(pusher.apns, pushes, 3, SECONDS(3)), APR_SUCCESS);
    assert_true(apr_time_now() - began < SECONDS(3));
    assert_int_equal(count_status(pushes, 3, MDM_EREFUSED), 3);
    assert_string_equal(pushes[0].reason, "TooManyRequests");
    assert_int_equal(pushes[1].code, 500);
    assert_string_equal(pushes[2].reason, "ServiceUnavailable");
    for (int i = 0; i < 3; i++) {
        int requests = log_lines(pushes[i].token);

        assert_true(requests >= 2 && requests <= 5);
    }
    pusher_stop(&pusher);
}

static void test_request(void **state)
{
    apns_push_t push;
    apns_config_t config;
    char line[1024] = "";
    FILE *file;
    char *fields[8], *at = line;
    long long expiration;

    (void)state;
    server_start(NULL);
    config = config_for(server.port);
    {
        pusher_t pusher;

        pusher_start(&pusher, &config);
        push_init(&push, "ABCD", 1);
        push.magic = "a\"b\\c\x01\xc3\xa9";
        assert_int_equal(apns_send(pusher.apns, &push, 1, SECONDS(5)), APR_SUCCESS);
        assert_all_taken(&push, 1);
        pusher_stop(&pusher);
    }
    file = fopen(log_path, "r");
    assert_non_null(file);
    assert_non_null(fgets(line, sizeof(line), file));
    fclose(file);
    for (int i = 0; i < 7; i++) {
        fields[i] = strsep(&at, "\t\n");
        assert_non_null(fields[i]);
    }
    assert_string_equal(fields[1], TOPIC);
    assert_string_equal(fields[2], push.token);
    assert_string_equal(fields[3], "push");
    assert_string_equal(fields[4], "65");
    expiration = atoll(fields[5]) - apr_time_sec(apr_time_now());
    assert_true(expiration > 3590 && expiration <= 3600);
    assert_string_equal(fields[6], "{\"mdm\":\"a\\\"b\\\\c\\u0001\xc3\xa9\"}");

    unlink(log_path);
    peer_stop(&server, SIGTERM);
    server_start(NULL);
    config = config_for(server.port);
    config.expiration = 0;
    send_one(&config, &push, "0000", SECONDS(5));
    assert_all_taken(&push, 1);
    assert_int_equal(log_lines("\t0\t{"), 1);
}

static void test_not_sent(void **state)
{
    apns_push_t pushes[5];
    apns_config_t config = config_for(1);
    pusher_t pusher;
    char *long_token = apr_palloc(pool, 301);
    char *long_magic = apr_palloc(pool, 601);

    (void)state;
    memset(long_token, 'a', 300);
    memset(long_magic, 'a', 600);
    long_token[300] = long_magic[600] = '\0';
    pusher_start(&pusher, &config);
    for (int i = 0; i < 5; i++) {
        push_init(&pushes[i], "0000", i);
    }
    pushes[0].token = "not hex";
    pushes[1].token = "";
    pushes[2].token = long_token;
    pushes[3].magic = long_magic;
    pushes[4].topic = "com.apple.mgmt.Other";
    assert_int_equal(apns_send(pusher.apns, pushes, 5, SECONDS(5)), APR_SUCCESS);
    assert_int_equal(count_status(pushes, 4, MDM_EINPUT), 4);
    assert_int_equal(pushes[4].status, MDM_ENOTCONFIGURED);
    assert_true(pushes[4].reason[0] && pushes[3].reason[0] && pushes[0].reason[0]);
    assert_int_equal(apns_send(pusher.apns, pushes, 0, SECONDS(5)), APR_SUCCESS);
    pusher_stop(&pusher);
}

/* ---- connections that end -------------------------------------------------------------------- */

static void assert_each_once(const apns_push_t *pushes, int count)
{
    assert_int_equal(log_lines(""), count);
    for (int i = 0; i < count; i += 37) {
        assert_int_equal(log_lines(pushes[i].token), 1);
    }
}

static void test_goaway(void **state)
{
    static const char *const options[] = {"--delay", "30", "--max-streams", "100", NULL};
    apns_push_t *pushes = pushes_make("0000", 1000);
    apns_config_t config;
    pusher_t pusher;
    caller_t caller;

    (void)state;
    server_start(options);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    caller_start(&caller, &pusher, pushes, 1000, SECONDS(20));
    for (int i = 1; i <= 3; i++) {
        wait_for_lines(200 * i);
        kill(server.pid, SIGUSR1);
    }
    assert_int_equal(caller_join(&caller), APR_SUCCESS);
    assert_all_taken(pushes, 1000);
    assert_each_once(pushes, 1000);
    pusher_stop(&pusher);
}

/* The server says goodbye after every 150 answers, and leaves out a request that it has read. */
static void test_goaway_often(void **state)
{
    static const char *const options[] = {"--goaway-after", "150", NULL};
    apns_push_t *pushes = pushes_make("0000", 1000);
    apns_config_t config;
    pusher_t pusher;

    (void)state;
    push_init(&pushes[500], "ffffa007", 1);
    server_start(options);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    assert_int_equal(apns_send(pusher.apns, pushes, 1000, SECONDS(20)), APR_SUCCESS);
    assert_all_taken(pushes, 1000);
    pusher_stop(&pusher);
}

static void test_closed(void **state)
{
    apns_push_t *pushes = pushes_make("0000", 50);
    apns_config_t config;
    pusher_t pusher;

    (void)state;
    push_init(&pushes[20], "ffffa004", 1);
    server_start(NULL);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    assert_int_equal(apns_send(pusher.apns, pushes, 50, SECONDS(10)), APR_SUCCESS);
    assert_all_taken(pushes, 50);
    assert_int_equal(log_lines(pushes[20].token), 2);
    pusher_stop(&pusher);
}

static void test_killed_and_back(void **state)
{
    static const char *const options[] = {"--delay", "50", "--max-streams", "100", NULL};
    apns_push_t *pushes = pushes_make("0000", 500);
    apns_config_t config;
    pusher_t pusher;
    caller_t caller;
    int port;

    (void)state;
    server_start(options);
    port = server.port;
    config = config_for(port);
    pusher_start(&pusher, &config);
    caller_start(&caller, &pusher, pushes, 500, SECONDS(30));
    wait_for_lines(150);
    peer_stop(&server, SIGKILL);
    apr_sleep(apr_time_from_msec(700));
    server_start_with(ca_file, cert_file, port, options);
    assert_int_equal(caller_join(&caller), APR_SUCCESS);
    assert_all_taken(pushes, 500);
    assert_true(log_lines("") <= 600); /* what was in flight is repeated, nothing else */
    assert_true(warnings > 0);
    pusher_stop(&pusher);
}

static void test_renewal(void **state)
{
    static const char *const options[] = {"--delay", "30", "--max-streams", "100", NULL};
    apns_push_t *pushes = pushes_make("0000", 1000);
    apns_config_t config;
    pusher_t pusher;
    caller_t caller;
    int after;

    (void)state;
    server_start(options);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    assert_true(apns_has_certificate(pusher.apns, TOPIC, 101));
    caller_start(&caller, &pusher, pushes, 1000, SECONDS(20));
    wait_for_lines(300);
    use_certificate(&pusher, &pki, 102, 0);
    assert_false(apns_has_certificate(pusher.apns, TOPIC, 101));
    assert_int_equal(caller_join(&caller), APR_SUCCESS);
    assert_all_taken(pushes, 1000);
    assert_each_once(pushes, 1000);
    assert_true(log_lines("\tpush\t65\t") >= 300);
    after = log_lines("\tpush\t66\t");
    assert_true(after >= 400);
    assert_int_equal(apns_send(pusher.apns, pushes, 1, SECONDS(5)), APR_SUCCESS);
    assert_int_equal(log_lines("\tpush\t66\t"), after + 1);
    pusher_stop(&pusher);
}

/* The connection of the certificate before has not begun HTTP/2: nobody waits for it. */
static void test_renewal_of_mute(void **state)
{
    static const char *const options[] = {"--mute", "1", NULL};
    apns_push_t *pushes = pushes_make("0000", 20);
    apns_config_t config;
    pusher_t pusher;
    caller_t caller;
    apr_time_t began;

    (void)state;
    server_start(options);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    caller_start(&caller, &pusher, pushes, 20, SECONDS(20));
    apr_sleep(apr_time_from_msec(700));
    began = apr_time_now();
    use_certificate(&pusher, &pki, 102, 0);
    assert_int_equal(caller_join(&caller), APR_SUCCESS);
    assert_true(apr_time_now() - began < SECONDS(2));
    assert_all_taken(pushes, 20);
    assert_int_equal(warnings, 0);
    pusher_stop(&pusher);
}

/* ---- trust ----------------------------------------------------------------------------------- */

static void assert_refused(const apns_push_t *push, apr_interval_time_t took, const char *words)
{
    assert_int_equal(push->status, MDM_EUNAVAILABLE);
    assert_int_equal(push->code, 0);
    if (strstr(push->reason, words) == NULL) {
        fail_msg("\"%s\" is not in \"%s\"", words, push->reason);
    }
    assert_true(took < SECONDS(5));
    assert_int_equal(errors, 1);
    assert_non_null(strstr(last_error, words));
    assert_int_equal(log_lines(""), 0);
}

static void test_server_of_strangers(void **state)
{
    apns_config_t config;
    apns_push_t push;
    apr_interval_time_t took;

    (void)state;
    server_start(NULL);
    config = config_for(server.port);
    config.ca_file = stranger_file;
    took = send_one(&config, &push, "0000", SECONDS(10));
    assert_refused(&push, took, "its certificate is not trusted");
}

static void test_wrong_name(void **state)
{
    const pki_recipe_t recipe = {.cn = "localhost", .san = "DNS:other.example", .serial = 9};
    const char *file = peer_write(dir, "other.pem", pki_issue_pem(&pki, &recipe, pool), pool);
    apns_config_t config;
    apns_push_t push;
    apr_interval_time_t took;

    (void)state;
    server_start_with(ca_file, file, 0, NULL);
    config = config_for(server.port);
    took = send_one(&config, &push, "0000", SECONDS(10));
    assert_refused(&push, took, "hostname mismatch");
    errors = 0;
    config.url = apr_psprintf(pool, "https://127.0.0.1:%d", server.port);
    took = send_one(&config, &push, "0000", SECONDS(10));
    assert_refused(&push, took, "IP address mismatch");
}

static void test_by_address(void **state)
{
    apns_config_t config;
    apns_push_t push;

    (void)state;
    server_start(NULL);
    config = config_for(server.port);
    config.url = apr_psprintf(pool, "https://127.0.0.1:%d", server.port);
    send_one(&config, &push, "0000", SECONDS(10));
    assert_all_taken(&push, 1);
}

/* The server does not take our certificate, and then a renewed one. */
static void test_certificate_refused(void **state)
{
    apns_push_t *pushes = pushes_make("0000", 200);
    apns_config_t config;
    pusher_t pusher;
    apr_time_t began;

    (void)state;
    server_start(NULL);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    use_certificate(&pusher, &pki, 103, -3600);
    for (int i = 0; i < 3; i++) {
        began = apr_time_now();
        assert_int_equal(apns_send(pusher.apns, pushes, 200, SECONDS(10)), APR_SUCCESS);
        assert_int_equal(count_status(pushes, 200, MDM_EUNAVAILABLE), 200);
        assert_refused(&pushes[199], apr_time_now() - began,
                       "it refuses our push certificate: certificate expired");
    }
    use_certificate(&pusher, &stranger, 104, 0);
    assert_int_equal(apns_send(pusher.apns, pushes, 1, SECONDS(10)), APR_SUCCESS);
    assert_int_equal(pushes[0].status, MDM_EUNAVAILABLE);
    assert_non_null(strstr(pushes[0].reason, "it refuses our push certificate: unknown CA"));
    use_certificate(&pusher, &pki, 105, 0);
    assert_int_equal(apns_send(pusher.apns, pushes, 200, SECONDS(10)), APR_SUCCESS);
    assert_all_taken(pushes, 200);
    assert_int_equal(errors, 2);
    pusher_stop(&pusher);
}

static void test_bad_certificates(void **state)
{
    const pki_recipe_t recipe = {.cn = "push", .uid = TOPIC, .serial = 7};
    const char *cert = pki_issue_pem(&pki, &recipe, pool);
    const char *key = pki_key_pem(pki.key, pool);
    const char *const cases[][2] = {{"", key},
                                    {cert, ""},
                                    {key, cert},
                                    {cert, pki_key_pem(stranger.key, pool)},
                                    {"-----BEGIN CERTIFICATE-----\nAAAA\n", key}};
    apns_config_t config = config_for(1);
    pusher_t pusher;

    (void)state;
    pusher_make(&pusher, &config);
    for (int i = 0; i < 5; i++) {
        const char *why = NULL;

        assert_int_equal(
            apns_set_certificate(pusher.apns, TOPIC, 200 + i, cases[i][0], cases[i][1], &why, pool),
            MDM_EINPUT);
        assert_non_null(why);
        assert_false(apns_has_certificate(pusher.apns, TOPIC, 200 + i));
        assert_int_equal(errors, i + 1);
        assert_int_equal(
            apns_set_certificate(pusher.apns, TOPIC, 200 + i, cases[i][0], cases[i][1], &why, pool),
            MDM_EINPUT);
        assert_int_equal(errors, i + 1); /* once for each version */
    }
    assert_true(apns_has_certificate(pusher.apns, TOPIC, 101));
    pusher_free(&pusher);
}

static void test_config(void **state)
{
    static const char *const bad_urls[] = {"http://localhost",
                                           "https://",
                                           "localhost",
                                           "",
                                           "https://u:open sesame@localhost",
                                           "https://user:sesame@localhost",
                                           "https://localhost/path",
                                           "https://localhost:0",
                                           "https://local host"};
    static const char *const bad_proxies[] = {"https://localhost:1", "localhost:3128",
                                              "http://localhost", "http://u%zz@localhost:1"};
    apns_config_t config = config_for(1);
    const char *why;

    (void)state;
    assert_int_equal(apns_config_check(&config, &why, pool), APR_SUCCESS);
    config.url = "https://[::1]";
    config.proxy = "http://user:p%40ss@proxy.example:3128";
    config.ca_file = NULL;
    assert_int_equal(apns_config_check(&config, &why, pool), APR_SUCCESS);
    for (apr_size_t i = 0; i < sizeof(bad_urls) / sizeof(bad_urls[0]); i++) {
        config.url = bad_urls[i];
        assert_int_equal(apns_config_check(&config, &why, pool), MDM_EINPUT);
        assert_non_null(strstr(why, "https://HOST"));
        assert_null(strstr(why, "sesame"));
    }
    config = config_for(1);
    for (apr_size_t i = 0; i < sizeof(bad_proxies) / sizeof(bad_proxies[0]); i++) {
        config.proxy = bad_proxies[i];
        assert_int_equal(apns_config_check(&config, &why, pool), MDM_EINPUT);
        assert_non_null(strstr(why, "proxy"));
    }
    config = config_for(1);
    config.ca_file = key_file;
    assert_int_equal(apns_config_check(&config, &why, pool), MDM_EINPUT);
    config.ca_file = "/nonexistent";
    assert_int_equal(apns_config_check(&config, &why, pool), MDM_EINPUT);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void test_silence(void **state)
{
    apns_push_t pushes[2];
    apns_config_t config;
    pusher_t pusher;
    apr_time_t began;

    (void)state;
    server_start(NULL);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    push_init(&pushes[0], "ffffa003", 1);
    push_init(&pushes[1], "0000", 2);
    began = apr_time_now();
    assert_int_equal(apns_send(pusher.apns, pushes, 2, apr_time_from_msec(500)), APR_SUCCESS);
    assert_true(apr_time_now() - began >= apr_time_from_msec(500));
    assert_true(apr_time_now() - began < SECONDS(3));
    assert_int_equal(pushes[0].status, APR_TIMEUP);
    assert_string_equal(pushes[0].reason, "no answer in time");
    assert_all_taken(&pushes[1], 1);
    assert_int_equal(apns_send(pusher.apns, &pushes[1], 1, SECONDS(5)), APR_SUCCESS);
    assert_all_taken(&pushes[1], 1);
    pusher_stop(&pusher);
}

/* A stopped process: the kernel accepts, nobody speaks. It is found dead, and then it is back. */
static void test_frozen(void **state)
{
    apns_push_t *pushes = pushes_make("0000", 20);
    apns_config_t config;
    pusher_t pusher;
    caller_t caller;

    (void)state;
    server_start(NULL);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    assert_int_equal(apns_send(pusher.apns, pushes, 1, SECONDS(5)), APR_SUCCESS);
    kill(server.pid, SIGSTOP);
    assert_int_equal(apns_send(pusher.apns, pushes, 1, apr_time_from_msec(100)), APR_SUCCESS);
    assert_int_equal(pushes[0].status, APR_TIMEUP);
    caller_start(&caller, &pusher, pushes, 20, SECONDS(30));
    apr_sleep(SECONDS(10)); /* longer than QUIET_BUSY and PATIENCE together */
    assert_true(dead >= 1);
    kill(server.pid, SIGCONT);
    assert_int_equal(caller_join(&caller), APR_SUCCESS);
    assert_all_taken(pushes, 20);
    pusher_stop(&pusher);
}

static void test_nobody_there(void **state)
{
    apns_config_t config = config_for(1);
    apns_push_t push;

    (void)state;
    send_one(&config, &push, "0000", apr_time_from_msec(800));
    assert_int_equal(push.status, APR_TIMEUP);
    assert_non_null(strstr(push.reason, "Connection refused"));
    assert_true(warnings >= 1 && warnings <= 2);
    config.url = "https://does-not-exist.invalid";
    send_one(&config, &push, "0000", apr_time_from_msec(800));
    assert_int_equal(push.status, APR_TIMEUP);
}

static int listen_anywhere(int *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

/* In place of libc's: a name has the addresses of servers that accept and stay silent, and then its
 * own. */
#define SILENT 3
static int silent_ports[SILENT]; /* 0: none */

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                struct addrinfo **out)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    struct addrinfo *first = NULL, **at = &first;
    int error = 0;

    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    for (int i = 0; error == 0 && i < SILENT && silent_ports[i] != 0; i++) {
        char number[8];

        snprintf(number, sizeof(number), "%d", silent_ports[i]);
        error = real("127.0.0.1", number, hints, at);
        at = error == 0 ? &(*at)->ai_next : at;
    }
    if (error == 0) {
        error = real(first != NULL ? "127.0.0.1" : host, port, hints, at);
    }
    if (error == 0) {
        *out = first;
    } else if (first != NULL) {
        freeaddrinfo(first);
    }
    return error;
}

/* Each of them is given up after some seconds, however many there are. Whoever has answered is
 * asked first the next time. */
static void test_silent_addresses(void **state)
{
    apns_push_t push;
    apns_config_t config;
    pusher_t pusher;
    int listeners[SILENT];
    apr_time_t began;

    (void)state;
    for (int i = 0; i < SILENT; i++) {
        listeners[i] = listen_anywhere(&silent_ports[i]);
    }
    server_start(NULL);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    push_init(&push, "0000", 1);
    assert_int_equal(apns_send(pusher.apns, &push, 1, SECONDS(25)), APR_SUCCESS);
    assert_all_taken(&push, 1);
    for (int i = 0; i < 2; i++) {
        use_certificate(&pusher, &pki, 102 + i, 0);
        began = apr_time_now();
        assert_int_equal(apns_send(pusher.apns, &push, 1, SECONDS(25)), APR_SUCCESS);
        assert_all_taken(&push, 1);
        assert_true(apr_time_now() - began < SECONDS(2));
    }
    pusher_stop(&pusher);
    for (int i = 0; i < SILENT; i++) {
        close(listeners[i]);
        silent_ports[i] = 0;
    }
}

static void test_not_running_yet(void **state)
{
    apns_push_t pushes[2];
    apns_config_t config;
    pusher_t pusher;
    caller_t caller;

    (void)state;
    server_start(NULL);
    config = config_for(server.port);
    pusher_make(&pusher, &config);
    push_init(&pushes[0], "0000", 1);
    push_init(&pushes[1], "0000", 2);
    assert_int_equal(apns_send(pusher.apns, &pushes[0], 1, apr_time_from_msec(50)), APR_SUCCESS);
    assert_int_equal(pushes[0].status, APR_TIMEUP);
    caller_start(&caller, &pusher, &pushes[1], 1, SECONDS(10));
    apr_sleep(apr_time_from_msec(50));
    pusher_run(&pusher);
    assert_int_equal(caller_join(&caller), APR_SUCCESS);
    assert_all_taken(&pushes[1], 1);
    pusher_stop(&pusher);
}

/* ---- many ------------------------------------------------------------------------------------ */

static void test_one_stream(void **state)
{
    static const char *const options[] = {"--max-streams", "1", "--delay", "5", NULL};
    apns_push_t *pushes = pushes_make("0000", 50);
    apns_config_t config;
    pusher_t pusher;

    (void)state;
    server_start(options);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    assert_int_equal(apns_send(pusher.apns, pushes, 50, SECONDS(20)), APR_SUCCESS);
    assert_all_taken(pushes, 50);
    assert_each_once(pushes, 50);
    pusher_stop(&pusher);
}

static void test_connections(void **state)
{
    static const char *const options[] = {"--max-streams", "1", "--delay", "300", NULL};
    apns_push_t *pushes = pushes_make("0000", 8);
    apns_config_t config;
    pusher_t pusher;
    apr_time_t began = apr_time_now();

    (void)state;
    server_start(options);
    config = config_for(server.port);
    config.connections = 4;
    pusher_start(&pusher, &config);
    assert_int_equal(apns_send(pusher.apns, pushes, 8, SECONDS(20)), APR_SUCCESS);
    assert_all_taken(pushes, 8);
    assert_true(apr_time_now() - began < apr_time_from_msec(1800)); /* one after the other: 2,400 */
    pusher_stop(&pusher);
}

static void test_callers(void **state)
{
    static const char *const options[] = {"--delay", "5", "--max-streams", "50", NULL};
    static const char *const codes[] = {"0000", "ffff0410", "ffff0400", "ffff0413"};
    static const int https[] = {200, 410, 400, 413};
    enum { CALLERS = 16, EACH = 50 };
    caller_t callers[CALLERS];
    apns_config_t config;
    pusher_t pusher;

    (void)state;
    server_start(options);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    for (int i = 0; i < CALLERS; i++) {
        apns_push_t *pushes = pushes_make(codes[i % 4], EACH);

        caller_start(&callers[i], &pusher, pushes, EACH, SECONDS(20));
    }
    for (int i = 0; i < CALLERS; i++) {
        assert_int_equal(caller_join(&callers[i]), APR_SUCCESS);
        for (int j = 0; j < EACH; j++) {
            assert_int_equal(callers[i].pushes[j].code, https[i % 4]);
            assert_int_equal(callers[i].pushes[j].status, i % 4 ? MDM_EREFUSED : APR_SUCCESS);
        }
    }
    pusher_stop(&pusher);
}

/* Callers that leave while others stay: under ASan, that nobody touches what is gone. */
static void test_leaving(void **state)
{
    static const char *const options[] = {"--delay", "200", "--max-streams", "60", NULL};
    enum { CALLERS = 12, EACH = 40 };
    caller_t callers[CALLERS];
    apns_push_t *kept = pushes_make("0000", 10);
    apns_config_t config;
    pusher_t pusher;
    caller_t staying;

    (void)state;
    server_start(options);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    for (int i = 0; i < CALLERS; i++) {
        apns_push_t *pushes = malloc(sizeof(*pushes) * EACH);

        memcpy(pushes, pushes_make(i % 2 ? "0000" : "ffff0503", EACH), sizeof(*pushes) * EACH);
        caller_start(&callers[i], &pusher, pushes, EACH, apr_time_from_msec(20 + 40 * i));
    }
    caller_start(&staying, &pusher, kept, 10, SECONDS(20));
    for (int i = 0; i < CALLERS; i++) {
        assert_int_equal(caller_join(&callers[i]), APR_SUCCESS);
        assert_int_equal(count_status(callers[i].pushes, EACH, APR_TIMEUP) +
                             count_status(callers[i].pushes, EACH, APR_SUCCESS) +
                             count_status(callers[i].pushes, EACH, MDM_EREFUSED),
                         EACH);
        free(callers[i].pushes);
    }
    assert_int_equal(caller_join(&staying), APR_SUCCESS);
    assert_all_taken(kept, 10);
    pusher_stop(&pusher);
}

static void test_queue_full(void **state)
{
    apns_push_t *pushes = pushes_make("0000", 11);
    apns_push_t *silent = pushes_make("ffffa003", 10);
    apns_config_t config;
    pusher_t pusher;
    caller_t caller;

    (void)state;
    server_start(NULL);
    config = config_for(server.port);
    config.queue_max = 10;
    pusher_start(&pusher, &config);
    assert_int_equal(apns_send(pusher.apns, pushes, 11, SECONDS(5)), APR_SUCCESS);
    assert_all_taken(pushes, 11); /* nobody else waits */
    caller_start(&caller, &pusher, silent, 10, SECONDS(1));
    wait_for_lines(21);
    assert_int_equal(apns_send(pusher.apns, pushes, 1, SECONDS(5)), APR_EAGAIN);
    assert_int_equal(count_status(pushes, 1, APR_EAGAIN), 1);
    assert_int_equal(apns_send(pusher.apns, pushes, 11, SECONDS(5)), APR_EAGAIN);
    assert_int_equal(count_status(pushes, 11, APR_EAGAIN), 11);
    assert_int_equal(log_lines(""), 21);
    assert_int_equal(caller_join(&caller), APR_SUCCESS);
    assert_int_equal(count_status(silent, 10, APR_TIMEUP), 10);
    assert_int_equal(apns_send(pusher.apns, pushes, 10, SECONDS(5)), APR_SUCCESS);
    assert_all_taken(pushes, 10);
    pusher_stop(&pusher);
}

/* A few pushes do not wait for the many that came before. */
static void test_turns(void **state)
{
    static const char *const options[] = {"--delay", "20", "--max-streams", "10", NULL};
    apns_push_t *many = pushes_make("0000", 1500);
    apns_push_t *few = pushes_make("0001", 2);
    apns_config_t config;
    pusher_t pusher;
    caller_t caller;
    apr_time_t began;

    (void)state;
    server_start(options);
    config = config_for(server.port);
    pusher_start(&pusher, &config);
    caller_start(&caller, &pusher, many, 1500, SECONDS(30));
    wait_for_lines(20);
    began = apr_time_now();
    assert_int_equal(apns_send(pusher.apns, few, 2, SECONDS(30)), APR_SUCCESS);
    assert_true(apr_time_now() - began < SECONDS(1)); /* the many take 3 s */
    assert_all_taken(few, 2);
    assert_int_equal(caller_join(&caller), APR_SUCCESS);
    assert_all_taken(many, 1500);
    pusher_stop(&pusher);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void test_stop(void **state)
{
    static const char *const options[] = {"--delay", "300", "--max-streams", "20", NULL};
    apns_push_t *pushes = pushes_make("0000", 100);
    apns_config_t config;
    pusher_t pusher;
    caller_t caller;
    apr_time_t began;

    (void)state;
    server_start(options);
    config = config_for(server.port);
    pusher_make(&pusher, &config);
    pusher.grace = SECONDS(5);
    pusher_run(&pusher);
    caller_start(&caller, &pusher, pushes, 100, SECONDS(20));
    wait_for_lines(20);
    began = apr_time_now();
    pusher_join(&pusher);
    assert_true(apr_time_now() - began < SECONDS(3));
    assert_int_equal(caller_join(&caller), APR_SUCCESS);
    assert_int_equal(count_status(pushes, 100, APR_SUCCESS), 20);
    assert_int_equal(count_status(pushes, 100, MDM_EUNAVAILABLE), 80);
    assert_int_equal(log_lines(""), 20);
    assert_int_equal(apns_send(pusher.apns, pushes, 100, SECONDS(20)), MDM_EUNAVAILABLE);
    assert_int_equal(count_status(pushes, 100, MDM_EUNAVAILABLE), 100);
    assert_non_null(strstr(pushes[0].reason, "stopping"));
    pusher_free(&pusher);
}

static void test_stop_without_grace(void **state)
{
    apns_push_t *pushes = pushes_make("ffffa003", 10);
    apns_config_t config;
    pusher_t pusher;
    caller_t caller;
    apr_time_t began;

    (void)state;
    server_start(NULL);
    config = config_for(server.port);
    pusher_make(&pusher, &config);
    pusher.grace = apr_time_from_msec(200);
    pusher_run(&pusher);
    caller_start(&caller, &pusher, pushes, 10, SECONDS(20));
    wait_for_lines(10);
    began = apr_time_now();
    pusher_join(&pusher);
    assert_true(apr_time_now() - began >= apr_time_from_msec(200));
    assert_true(apr_time_now() - began < SECONDS(2));
    assert_int_equal(caller_join(&caller), APR_SUCCESS);
    assert_int_equal(count_status(pushes, 10, MDM_EUNAVAILABLE), 10);
    pusher_free(&pusher);
}

/* ---- a proxy --------------------------------------------------------------------------------- */

typedef struct proxy_t {
    pthread_t thread;
    int listener, port, stop[2];
    int tunnels, refused;
} proxy_t;

static int read_request(int fd, char *request, size_t size)
{
    size_t len = 0;

    while (len < size - 1 && strstr(request, "\r\n\r\n") == NULL) {
        ssize_t n = read(fd, request + len, size - 1 - len);

        if (n <= 0) {
            return 0;
        }
        len += (size_t)n;
        request[len] = '\0';
    }
    return 1;
}

static int pass_on(int from, int to)
{
    char buffer[65536];
    ssize_t n = read(from, buffer, sizeof(buffer));

    return n > 0 && write(to, buffer, (size_t)n) == n;
}

static void tunnel(proxy_t *proxy, int client)
{
    /* user:open sesame */
    static const char good[] = "Proxy-Authorization: Basic dXNlcjpvcGVuIHNlc2FtZQ==\r\n";
    static const char yes[] = "HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n";
    static const char no[] = "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
    char request[2048] = "";
    struct sockaddr_in address = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int port = 0;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (read_request(client, request, sizeof(request)) &&
        sscanf(request, "CONNECT localhost:%d HTTP/1.1\r\n", &port) == 1 &&
        strstr(request, good) != NULL) {
        address.sin_port = htons((uint16_t)port);
        proxy->tunnels++;
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
            write(client, yes, sizeof(yes) - 1) > 0) {
            struct pollfd fds[] = {
                {client, POLLIN, 0}, {fd, POLLIN, 0}, {proxy->stop[0], POLLIN, 0}};
            int open = 1;

            while (open && poll(fds, 3, -1) > 0 && !fds[2].revents) {
                open = (!fds[0].revents || pass_on(client, fd)) &&
                       (!fds[1].revents || pass_on(fd, client));
            }
        }
    } else if (write(client, no, sizeof(no) - 1) > 0) {
        proxy->refused++;
    }
    close(fd);
    close(client);
}

static void *proxy_run(void *data)
{
    proxy_t *proxy = data;
    struct pollfd fds[] = {{proxy->listener, POLLIN, 0}, {proxy->stop[0], POLLIN, 0}};

    while (poll(fds, 2, -1) > 0 && !fds[1].revents) {
        tunnel(proxy, accept(proxy->listener, NULL, NULL));
    }
    return NULL;
}

static void test_proxy(void **state)
{
    proxy_t proxy = {0};
    apns_config_t config;
    apns_push_t push;

    (void)state;
    proxy.listener = listen_anywhere(&proxy.port);
    assert_int_equal(pipe(proxy.stop), 0);
    assert_int_equal(pthread_create(&proxy.thread, NULL, proxy_run, &proxy), 0);
    server_start(NULL);
    config = config_for(server.port);
    config.proxy = apr_psprintf(pool, "http://user:open%%20sesame@127.0.0.1:%d", proxy.port);
    send_one(&config, &push, "0000", SECONDS(10));
    assert_all_taken(&push, 1);
    config.proxy = apr_psprintf(pool, "http://user:wrong@127.0.0.1:%d", proxy.port);
    send_one(&config, &push, "0000", apr_time_from_msec(500));
    assert_int_equal(push.status, APR_TIMEUP);
    assert_non_null(strstr(push.reason, "407"));
    assert_int_equal(write(proxy.stop[1], "", 1), 1);
    pthread_join(proxy.thread, NULL);
    assert_int_equal(proxy.tunnels, 1);
    assert_true(proxy.refused >= 1);
    close(proxy.listener);
    close(proxy.stop[0]);
    close(proxy.stop[1]);
}

/* ---- nanomdm-push-check ---------------------------------------------------------------------- */

/* @return its exit status */
static int check(const char *cert, const char *key, const char *options, const char *words)
{
    const char *command = apr_pstrcat(pool, "tools/nanomdm-push-check --cert ", cert, " --cert ",
                                      key, " ", options, " 2>&1", NULL);
    FILE *from = popen(command, "r");
    char output[4096];
    size_t len;
    int status;

    assert_non_null(from);
    len = fread(output, 1, sizeof(output) - 1, from);
    output[len] = '\0';
    status = pclose(from);
    if (strstr(output, words) == NULL) {
        fail_msg("\"%s\" is not in:\n%s", words, output);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_check(void **state)
{
    const pki_recipe_t good = {.cn = "push", .uid = TOPIC, .serial = 8};
    const pki_recipe_t old = {.cn = "push", .uid = TOPIC, .serial = 9, .until = -60};
    const char *cert = peer_write(dir, "push.pem", pki_issue_pem(&pki, &good, pool), pool);
    const char *expired = peer_write(dir, "old.pem", pki_issue_pem(&pki, &old, pool), pool);
    const char *options;

    (void)state;
    server_start(NULL);
    options = apr_psprintf(pool, "--timeout 5 --ca-file %s --url https://localhost:%d", ca_file,
                           server.port);
    assert_int_equal(check(cert, key_file, options, "certificate: accepted"), 0);
    assert_int_equal(check(cert, key_file, options, TOPIC), 0);
    assert_int_equal(check(expired, key_file, options, "certificate expired"), 1);
    assert_int_equal(check(cert, cert, options, "the key is missing"), 2);
    assert_int_equal(check(ca_file, key_file, options, "does not belong"), 2);
    peer_stop(&server, SIGTERM);
    options = apr_psprintf(pool, "--timeout 1 --ca-file %s --url https://localhost:%d", ca_file,
                           server.port);
    assert_int_equal(check(cert, key_file, options, "Connection refused"), 1);
}

/* ---- another server -------------------------------------------------------------------------- */

static const char *find_nghttpd(void)
{
    static const char *const places[] = {"/usr/sbin/nghttpd", "/usr/bin/nghttpd",
                                         "/usr/local/bin/nghttpd"};

    for (int i = 0; i < 3; i++) {
        if (access(places[i], X_OK) == 0) {
            return places[i];
        }
    }
    return NULL;
}

static void test_nghttpd(void **state)
{
    const char *program = find_nghttpd();
    apns_push_t pushes[2];
    apns_config_t config;
    pusher_t pusher;
    int port;

    (void)state;
    if (program == NULL) {
        skip();
    }
    push_init(&pushes[0], "0000", 1);
    push_init(&pushes[1], "0000", 2);
    apr_dir_make_recursive(apr_pstrcat(pool, dir, "/3/device", NULL), APR_FPROT_OS_DEFAULT, pool);
    peer_write(dir, apr_pstrcat(pool, "3/device/", pushes[0].token, NULL), "", pool);
    close(listen_anywhere(&port));
    server.pid = fork();
    if (server.pid == 0) {
        execl(program, program, "-a", "127.0.0.1", "--verify-client", "-d", dir,
              apr_itoa(pool, port), key_file, cert_file, (char *)NULL);
        _exit(127);
    }
    config = config_for(port);
    pusher_start(&pusher, &config);
    assert_int_equal(apns_send(pusher.apns, pushes, 2, SECONDS(10)), APR_SUCCESS);
    assert_int_equal(pushes[0].status, APR_SUCCESS);
    assert_int_equal(pushes[0].code, 200);
    assert_int_equal(pushes[1].status, MDM_EREFUSED);
    assert_int_equal(pushes[1].code, 404);
    assert_string_equal(pushes[1].reason, "HTTP status 404");
    pusher_stop(&pusher);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static int setup_all(void **state)
{
    const pki_recipe_t recipe = {.cn = "apnsd", .san = "DNS:localhost,IP:127.0.0.1", .serial = 2};
    char *temp;

    (void)state;
    apr_initialize();
    apr_pool_create(&pool, NULL);
    temp = apr_pstrdup(pool, "/tmp/nanomdm-push-XXXXXX");
    dir = mkdtemp(temp);
    pki_make(&pki, "test authority");
    pki_make(&stranger, "strange authority");
    ca_file = peer_write(dir, "ca.pem", pki_cert_pem(pki.ca, pool), pool);
    stranger_file = peer_write(dir, "stranger.pem", pki_cert_pem(stranger.ca, pool), pool);
    cert_file = peer_write(dir, "server.pem", pki_issue_pem(&pki, &recipe, pool), pool);
    key_file = peer_write(dir, "server.key", pki_key_pem(pki.key, pool), pool);
    log_path = apr_pstrcat(pool, dir, "/log", NULL);
    signal(SIGPIPE, SIG_IGN);
    mdm_log_set(sink);
    return dir == NULL;
}

static int teardown_all(void **state)
{
    (void)state;
    db_remove_all(dir, pool);
    pki_free(&pki);
    pki_free(&stranger);
    apr_pool_destroy(pool);
    apr_terminate();
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_answers),
        TEST(test_busy),
        TEST(test_request),
        TEST(test_not_sent),
        TEST(test_goaway),
        TEST(test_goaway_often),
        TEST(test_closed),
        TEST(test_killed_and_back),
        TEST(test_renewal),
        TEST(test_renewal_of_mute),
        TEST(test_server_of_strangers),
        TEST(test_wrong_name),
        TEST(test_by_address),
        TEST(test_certificate_refused),
        TEST(test_bad_certificates),
        TEST(test_config),
        TEST(test_silence),
        TEST(test_frozen),
        TEST(test_nobody_there),
        TEST(test_silent_addresses),
        TEST(test_not_running_yet),
        TEST(test_one_stream),
        TEST(test_connections),
        TEST(test_callers),
        TEST(test_leaving),
        TEST(test_queue_full),
        TEST(test_turns),
        TEST(test_stop),
        TEST(test_stop_without_grace),
        TEST(test_proxy),
        TEST(test_check),
        TEST(test_nghttpd),
    };

    return cmocka_run_group_tests(tests, setup_all, teardown_all);
}
