/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* nanomdm-push-check: does Apple's push service take a push certificate? Sends one push to a token
 * that no device has: the service looks at connection, certificate and topic before it says that
 * the token is bad. */
#include <apr_file_io.h>
#include <apr_general.h>
#include <apr_getopt.h>
#include <apr_strings.h>
#include <apr_time.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apns.h"
#include "database.h"
#include "mdm_log.h"
#include "trust.h"

#define FILE_MAX 65536
#define DEFAULT_URL "https://api.push.apple.com"
#define NO_TOKEN "0000000000000000000000000000000000000000000000000000000000000000"

enum { ACCEPTED = 0, NOT_ACCEPTED = 1, WRONG_USE = 2 };

static const char usage[] =
    "Usage: nanomdm-push-check --cert FILE [options]\n"
    "       nanomdm-push-check --database TEXT | --conf FILE [--prefix P] [--topic T] [options]\n"
    "Tells what a push certificate is for, how long it lasts, and whether Apple's push service\n"
    "takes it: connects, and sends one push to a token that no device has.\n"
    "\n"
    "  --cert FILE     push certificate and its unencrypted key, PEM; repeat it if they are in\n"
    "                  files of their own\n"
    "  --database TEXT the certificates of this database: what follows NanoMDMDatabase, or "
    "file:/PATH\n"
    "                  of a file that holds that\n"
    "  --conf FILE     those of the database that this file of httpd's configuration names, at "
    "the\n"
    "                  service of its NanoMDMPushURL, with its NanoMDMPushCAFile and\n"
    "                  NanoMDMPushProxy, where no option says otherwise\n"
    "  --prefix P      of the database's tables (default: none, or as --conf says)\n"
    "  --topic T       that of this topic only\n"
    "  --url URL       the service (default " DEFAULT_URL ")\n"
    "  --ca-file FILE  authority of the service's certificate, PEM (default: the system's)\n"
    "  --proxy URL     http://[USER:PASSWORD@]HOST:PORT\n"
    "  --timeout S     in seconds (default 20)\n"
    "  --verbose       show each frame of HTTP/2\n"
    "  --help          this text\n"
    "\n"
    "The exit status is 0 if the service takes each certificate, 1 if it does not, cannot be\n"
    "reached or a certificate has expired, 2 if this program was called wrongly, or there is no\n"
    "push certificate with its key, or a stored one cannot be read.\n";

static int verbose;

static void log_sink(mdm_log_level_t level, apr_status_t status, const char *line)
{
    (void)level;
    (void)status;
    if (verbose) {
        fprintf(stderr, "%s\n", line);
    }
}

static void __attribute__((noreturn)) die(const char *text)
{
    fprintf(stderr, "nanomdm-push-check: %s\n", text);
    exit(WRONG_USE);
}

/* The text before, and the file's. */
static const char *add_file(const char *before, const char *name, apr_pool_t *pool)
{
    char *text = apr_palloc(pool, FILE_MAX + 1);
    apr_size_t len = 0;
    apr_file_t *file;
    apr_status_t status = apr_file_open(&file, name, APR_FOPEN_READ, APR_FPROT_OS_DEFAULT, pool);

    if (status == APR_SUCCESS) {
        status = apr_file_read_full(file, text, FILE_MAX, &len);
        apr_file_close(file);
    }
    if (status != APR_SUCCESS && !APR_STATUS_IS_EOF(status)) {
        char reason[120];

        die(apr_psprintf(pool, "%s: %s", name, apr_strerror(status, reason, sizeof(reason))));
    }
    text[len] = '\0';
    return apr_pstrcat(pool, before, "\n", text, NULL);
}

static apr_interval_time_t seconds(const char *value)
{
    char *end;
    long n = strtol(value, &end, 10);

    if (*end != '\0' || n < 1 || n > 3600) {
        die("--timeout takes seconds, 1 to 3600");
    }
    return apr_time_from_sec(n);
}

typedef struct options_t {
    const char *pem;      /* "": from the database */
    const char *database; /* these four may be NULL */
    const char *conf;
    const char *prefix;
    const char *topic;
    apns_config_t config;
    apr_interval_time_t timeout;
} options_t;

static void read_options(options_t *out, int argc, const char *const *argv, apr_pool_t *pool)
{
    static const apr_getopt_option_t options[] = {
        {"cert", 'c', 1, NULL},   {"url", 'u', 1, NULL},      {"ca-file", 'a', 1, NULL},
        {"proxy", 'p', 1, NULL},  {"timeout", 't', 1, NULL},  {"verbose", 'v', 0, NULL},
        {"help", 'h', 0, NULL},   {"database", 'd', 1, NULL}, {"conf", 'f', 1, NULL},
        {"prefix", 'P', 1, NULL}, {"topic", 'T', 1, NULL},    {NULL, 0, 0, NULL}};
    apr_getopt_t *os;
    const char *value;
    int option;
    apr_status_t status;

    apr_getopt_init(&os, pool, argc, argv);
    while ((status = apr_getopt_long(os, options, &option, &value)) == APR_SUCCESS) {
        switch (option) {
        case 'c':
            out->pem = add_file(out->pem, value, pool);
            break;
        case 'd':
            out->database = value;
            break;
        case 'f':
            out->conf = value;
            break;
        case 'P':
            out->prefix = value;
            break;
        case 'T':
            out->topic = value;
            break;
        case 'u':
            out->config.url = value;
            break;
        case 'a':
            out->config.ca_file = value;
            break;
        case 'p':
            out->config.proxy = value;
            break;
        case 't':
            out->timeout = seconds(value);
            break;
        case 'v':
            verbose = 1;
            break;
        default:
            fputs(usage, stdout);
            exit(ACCEPTED);
        }
    }
    if (status != APR_EOF || os->ind != argc) {
        die("see --help");
    }
    if ((*out->pem != '\0') + (out->database != NULL) + (out->conf != NULL) != 1) {
        die("give one of --cert, --database and --conf; see --help");
    }
    if (*out->pem != '\0' && (out->topic != NULL || out->prefix != NULL)) {
        die("--topic and --prefix go with a database; see --help");
    }
}

/* Of what no option said. */
static void complete_from_conf(options_t *options, apr_pool_t *pool)
{
    apns_config_t *config = &options->config;
    const struct {
        const char **value;
        const char *directive;
        const char *option;
    } each[] = {{&config->url, "NanoMDMPushURL", "--url"},
                {&config->ca_file, "NanoMDMPushCAFile", "--ca-file"},
                {&config->proxy, "NanoMDMPushProxy", "--proxy"}};
    int asks_for_file = config->ca_file == NULL;
    const char *why;

    for (int i = 0; i < 3; i++) {
        if (*each[i].value == NULL &&
            tool_conf_value(each[i].value, options->conf, each[i].directive, each[i].option, &why,
                            pool) != APR_SUCCESS) {
            die(why);
        }
    }
    if (asks_for_file && config->ca_file != NULL && *config->ca_file != '/') {
        die(apr_psprintf(
            pool,
            "%s has the relative path %s, which begins at httpd's ServerRoot: name the "
            "file by its full path with --ca-file",
            options->conf, config->ca_file));
    }
}

typedef struct running_t {
    apns_t *apns;
    int stop[2];
} running_t;

static void *run(void *data)
{
    running_t *running = data;

    apns_run(running->apns, running->stop[0], 0);
    return NULL;
}

/* Fills in the push's result.
 * @return MDM_EINPUT: the certificate cannot be used, with the reason in *why */
static apr_status_t try_push(apns_push_t *push, const options_t *options,
                             const trust_pushcert_t *cert, const char **why, apr_pool_t *pool)
{
    running_t running;
    pthread_t thread;
    apr_status_t status = apns_create(&running.apns, &options->config, why, pool);

    if (status != APR_SUCCESS) {
        die(*why);
    }
    status = apns_set_certificate(running.apns, cert->topic, 1, cert->cert_pem, cert->key_pem, why,
                                  pool);
    if (status != APR_SUCCESS) {
        return status;
    }
    if (pipe(running.stop) != 0 || pthread_create(&thread, NULL, run, &running) != 0) {
        die("there is no thread to be had");
    }
    push->topic = cert->topic;
    push->token = NO_TOKEN;
    push->magic = "nanomdm-push-check";
    status = apns_send(running.apns, push, 1, options->timeout);
    close(running.stop[1]); /* the end of the file is readable too */
    pthread_join(thread, NULL);
    close(running.stop[0]);
    if (APR_STATUS_IS_ENOMEM(status)) {
        die("there is no memory");
    }
    return APR_SUCCESS;
}

static void tell_certificate(const trust_pushcert_t *cert)
{
    apr_time_t left = cert->not_after - apr_time_now();
    char date[APR_RFC822_DATE_LEN];

    apr_rfc822_date(date, cert->not_after);
    printf("topic:       %s\n", cert->topic);
    printf("valid until: %s (%s%ld days%s)\n", date, cert->expired ? "expired " : "",
           labs((long)(apr_time_sec(left) / 86400)), cert->expired ? " ago" : " left");
}

/* @return whether the service takes the certificate */
static int tell_answer(const apns_push_t *push, const char *url)
{
    static const char *const after_topic[] = {"BadDeviceToken", "Unregistered",
                                              "MissingDeviceToken"};
    int accepted = push->status == APR_SUCCESS;

    for (int i = 0; i < 3; i++) {
        accepted = accepted || (push->code != 0 && strcmp(push->reason, after_topic[i]) == 0);
    }
    if (push->code == 0) {
        printf("service:     no answer from %s: %s\n", url, push->reason);
    } else {
        printf("service:     connected to %s, which answered %d %s\n", url, push->code,
               push->reason);
        printf("certificate: %s\n", accepted ? "accepted" : "not accepted");
    }
    return accepted;
}

/* -- Certificates of a database ------------------------------------------------------------- */

typedef struct source_t {
    const char *topic; /* that it is stored for; NULL: it is of files */
    const char *pem;
} source_t;

typedef struct stored_t {
    const char *only;            /* topic, or NULL */
    apr_array_header_t *sources; /* source_t */
} stored_t;

static apr_status_t load_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    stored_t *stored = baton;
    const char *topic = "";
    store_push_cert_t cert;
    apr_status_t status = APR_SUCCESS;

    apr_array_clear(stored->sources);
    while (status == APR_SUCCESS) {
        if (stored->only == NULL) {
            status = store_push_cert_next(tx, topic, &topic, pool);
        } else {
            status = *topic == '\0' ? APR_SUCCESS : APR_ENOENT;
            topic = stored->only;
        }
        if (status == APR_SUCCESS) {
            status = store_push_cert_load(tx, topic, &cert, pool);
        }
        if (status == APR_SUCCESS) {
            APR_ARRAY_PUSH(stored->sources, source_t) =
                (source_t){topic, apr_pstrcat(pool, cert.cert_pem, "\n", cert.key_pem, NULL)};
        }
    }
    return status == APR_ENOENT ? APR_SUCCESS : status;
}

static apr_array_header_t *load_certificates(const options_t *options, apr_pool_t *pool)
{
    stored_t stored = {options->topic, apr_array_make(pool, 2, sizeof(source_t))};
    store_config_t config;
    store_t *store;
    const char *why = "";
    apr_status_t status =
        options->conf != NULL
            ? tool_database_from_conf(&config, options->conf, "--database", &why, pool)
            : tool_database_parse(&config, options->database, &why, pool);

    if (status == APR_SUCCESS) {
        config.prefix = options->prefix != NULL ? options->prefix : config.prefix;
        status = store_open(&store, &config, &why, pool);
    }
    if (status == APR_SUCCESS) {
        why = "the database cannot be read; --verbose says more";
        status = store_read(store, load_work, &stored, pool);
    }
    if (status != APR_SUCCESS) {
        die(why);
    }
    return stored.sources;
}

/* @return the exit status that is due to it */
static int check(const source_t *source, const options_t *options, apr_pool_t *pool)
{
    trust_pushcert_t cert;
    apns_push_t push;
    const char *why;
    apr_status_t status = trust_pushcert_read(&cert, source->pem, strlen(source->pem), &why, pool);

    if (status == APR_SUCCESS) {
        tell_certificate(&cert);
        fflush(stdout);
        status = try_push(&push, options, &cert, &why, pool);
    } else if (source->topic != NULL) {
        printf("topic:       %s\n", source->topic);
    }
    if (status != APR_SUCCESS && source->topic == NULL) {
        die(why);
    }
    if (status != APR_SUCCESS) {
        printf("certificate: cannot be used: %s\n", why);
        return WRONG_USE;
    }
    return tell_answer(&push, options->config.url) && !cert.expired ? ACCEPTED : NOT_ACCEPTED;
}

int main(int argc, const char *const *argv)
{
    options_t options = {.pem = "", .config = {.connections = 1}, .timeout = apr_time_from_sec(20)};
    apr_array_header_t *sources;
    apr_pool_t *pool;
    const char *why;
    int worst = ACCEPTED;

    apr_app_initialize(&argc, &argv, NULL);
    apr_pool_create(&pool, NULL);
    mdm_log_set(log_sink);
    read_options(&options, argc, argv, pool);
    if (options.conf != NULL) {
        complete_from_conf(&options, pool);
    }
    if (options.config.url == NULL) {
        options.config.url = DEFAULT_URL;
    }
    if (apns_config_check(&options.config, &why, pool) != APR_SUCCESS) {
        die(why);
    }
    if (*options.pem != '\0') {
        sources = apr_array_make(pool, 1, sizeof(source_t));
        APR_ARRAY_PUSH(sources, source_t) = (source_t){NULL, options.pem};
    } else {
        sources = load_certificates(&options, pool);
    }
    if (sources->nelts == 0) {
        apr_pool_destroy(pool);
        die("the database has no such push certificate");
    }
    for (int i = 0; i < sources->nelts; i++) {
        int status;

        fputs(i > 0 ? "\n" : "", stdout);
        status = check(&APR_ARRAY_IDX(sources, i, source_t), &options, pool);
        worst = status > worst ? status : worst;
    }
    apr_pool_destroy(pool);
    apr_terminate();
    return worst;
}
