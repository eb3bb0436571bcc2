/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* t/bench/push: what pushes cost. Starts apnsd, sends to it through the pusher, and prints times,
 * rates, processor time per push and peak memory; then the same server under h2load, where that is
 * installed, as the ceiling. Run it in the build directory. */
#include <apr_general.h>
#include <pthread.h>
#include <sys/resource.h>

#include "../peer/apnsd.h"
#include "apns.h"
#include "mdm_log.h"

#define TOPIC "com.apple.mgmt.Bench"
#define LOAD 200000 /* pushes without a delay */

static apr_pool_t *pool;
static const char *dir;
static pki_t pki;

static void quiet(mdm_log_level_t level, apr_status_t status, const char *line)
{
    (void)status;
    if (level <= MDM_LOG_WARNING) {
        fprintf(stderr, "%s\n", line);
    }
}

typedef struct pusher_t {
    apns_t *apns;
    pthread_t thread;
    int stop[2];
    double cpu; /* seconds of its thread */
} pusher_t;

static void *run(void *data)
{
    pusher_t *pusher = data;
    struct rusage usage;

    apns_run(pusher->apns, pusher->stop[0], 0);
    getrusage(RUSAGE_THREAD, &usage);
    pusher->cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                  (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    return NULL;
}

static void pusher_start(pusher_t *pusher, int port)
{
    const pki_recipe_t recipe = {.cn = "push", .uid = TOPIC, .serial = 3};
    apns_config_t config = {.url = apr_psprintf(pool, "https://localhost:%d", port),
                            .ca_file = apr_pstrcat(pool, dir, "/ca.pem", NULL),
                            .connections = 1,
                            .queue_max = 1000000};
    const char *why = "";

    peer_need(apns_create(&pusher->apns, &config, &why, pool) == APR_SUCCESS, why);
    peer_need(apns_set_certificate(pusher->apns, TOPIC, 1, pki_issue_pem(&pki, &recipe, pool),
                                   pki_key_pem(pki.key, pool), &why, pool) == APR_SUCCESS,
              why);
    peer_need(pipe(pusher->stop) == 0, "pipe");
    peer_need(pthread_create(&pusher->thread, NULL, run, pusher) == 0, "thread");
}

static void pusher_stop(pusher_t *pusher)
{
    close(pusher->stop[1]);
    pthread_join(pusher->thread, NULL);
    close(pusher->stop[0]);
}

static apns_push_t *pushes_make(int count)
{
    apns_push_t *pushes = calloc((size_t)count, sizeof(*pushes));
    char *tokens = malloc((size_t)count * 65);

    peer_need(pushes != NULL && tokens != NULL, "memory");
    for (int i = 0; i < count; i++) {
        snprintf(tokens + (size_t)i * 65, 65, "%064x", i * 2654435761U);
        pushes[i].topic = TOPIC;
        pushes[i].token = tokens + (size_t)i * 65;
        pushes[i].magic = "5A0E86B0-1D4D-4D0E-9A77-5CF7B2B1A0F1";
    }
    return pushes;
}

static void pushes_free(apns_push_t *pushes)
{
    free((void *)pushes[0].token);
    free(pushes);
}

static double send_all(pusher_t *pusher, int count)
{
    apns_push_t *pushes = pushes_make(count);
    apr_time_t began = apr_time_now();
    double took;

    peer_need(apns_send(pusher->apns, pushes, count, apr_time_from_sec(120)) == APR_SUCCESS,
              "apns_send");
    took = (double)(apr_time_now() - began) / 1e6;
    for (int i = 0; i < count; i++) {
        peer_need(pushes[i].status == APR_SUCCESS, pushes[i].reason);
    }
    pushes_free(pushes);
    return took;
}

static long peak_mb(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss / 1024;
}

static void server_start(peer_apnsd_t *server, const char *delay)
{
    const char *options[] = {"--cert",  apr_pstrcat(pool, dir, "/server.pem", NULL),
                             "--key",   apr_pstrcat(pool, dir, "/server.key", NULL),
                             "--delay", delay,
                             NULL};

    peer_start(server, options);
}

static void bench_delayed(void)
{
    static const int counts[] = {1, 1000, 20000, 100000};
    static const double limits[] = {0.1, 0.3, 2, 10};
    peer_apnsd_t server;
    pusher_t pusher;

    server_start(&server, "50");
    pusher_start(&pusher, server.port);
    send_all(&pusher, 1); /* connects */
    printf(
        "answers after 50 ms, 1,000 streams; memory includes 305 bytes of the caller's a push\n");
    for (int i = 0; i < 4; i++) {
        double took = send_all(&pusher, counts[i]);

        printf("  %6d pushes %6.3f s (wanted: %.1f s) %s, peak memory %ld MB\n", counts[i], took,
               limits[i], took <= limits[i] ? "good" : "BAD", peak_mb());
    }
    pusher_stop(&pusher);
    peer_stop(&server, SIGTERM);
}

static double bench_at_once(peer_apnsd_t *server)
{
    pusher_t pusher;
    double took;

    pusher_start(&pusher, server->port);
    send_all(&pusher, 1);
    took = send_all(&pusher, LOAD);
    pusher_stop(&pusher);
    printf("answers at once\n  pusher %8.0f pushes/s, %5.1f us of its thread a push\n", LOAD / took,
           pusher.cpu / LOAD * 1e6);
    return LOAD / took;
}

static double bench_h2load(const peer_apnsd_t *server)
{
    const char *body =
        peer_write(dir, "body", "{\"mdm\":\"5A0E86B0-1D4D-4D0E-9A77-5CF7B2B1\"}", pool);
    const char *command = apr_psprintf(
        pool,
        "h2load -n %d -c 1 -m 1000 -t 1 -d %s -H 'apns-push-type: mdm' -H 'apns-topic: %s' "
        "-H 'apns-priority: 10' -H 'apns-expiration: 0' https://localhost:%d/3/device/%064d 2>&1",
        LOAD, body, TOPIC, server->port, 1);
    FILE *from = popen(command, "r");
    char line[512];
    double rate = 0;

    while (from != NULL && fgets(line, sizeof(line), from) != NULL) {
        sscanf(line, "finished in %*[^,], %lf req/s", &rate);
    }
    if (from != NULL) {
        pclose(from);
    }
    if (rate > 0) {
        printf("  h2load %8.0f requests/s\n", rate);
    } else {
        printf("  h2load cannot be run (Debian package: nghttp2-client)\n");
    }
    return rate;
}

int main(void)
{
    static const pki_recipe_t recipe = {.cn = "apnsd", .san = "DNS:localhost", .serial = 2};
    char template[] = "/tmp/nanomdm-bench-push-XXXXXX";
    peer_apnsd_t server;
    double rate, ceiling;

    apr_initialize();
    apr_pool_create(&pool, NULL);
    mdm_log_set(quiet);
    mdm_log_set_most(MDM_LOG_INFO);
    dir = mkdtemp(template);
    peer_need(dir != NULL, "mkdtemp");
    pki_make(&pki, "bench authority");
    peer_write(dir, "ca.pem", pki_cert_pem(pki.ca, pool), pool);
    peer_write(dir, "server.pem", pki_issue_pem(&pki, &recipe, pool), pool);
    peer_write(dir, "server.key", pki_key_pem(pki.key, pool), pool);
    bench_delayed();
    server_start(&server, "0");
    rate = bench_at_once(&server);
    ceiling = bench_h2load(&server);
    peer_stop(&server, SIGTERM);
    if (ceiling > 0) {
        printf("  ratio  %8.2f (wanted: 0.50) %s\n", rate / ceiling,
               rate / ceiling >= 0.5 ? "good" : "BAD");
    }
    for (int i = 0; i < 4; i++) {
        static const char *const files[] = {"ca.pem", "server.pem", "server.key", "body"};

        unlink(apr_pstrcat(pool, dir, "/", files[i], NULL));
    }
    rmdir(dir);
    pki_free(&pki);
    apr_pool_destroy(pool);
    apr_terminate();
    return 0;
}
