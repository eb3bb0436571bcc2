/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* mdmfleet: simulated Apple devices, for trying, testing and measuring an MDM server. This file
 * owns the command line; the fleet, its messages, its client and its runs have files of their own.
 */
#include <apr_file_io.h>
#include <apr_general.h>
#include <apr_getopt.h>
#include <apr_strings.h>
#include <curl/curl.h>
#include <openssl/crypto.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "mdmfleet.h"

volatile sig_atomic_t fleet_stop;

static const char usage[] =
    "Usage: mdmfleet COMMAND --dir DIR [options]\n"
    "Simulated Apple devices that enroll with an MDM server and answer its commands.\n"
    "\n"
    "Commands\n"
    "  make       make devices: authority, keys, certificates; talks to no server\n"
    "  enroll     make what is missing, then enroll (Authenticate, TokenUpdate)\n"
    "  run        poll: report Idle, answer commands until there is none\n"
    "  enqueue    queue commands for the fleet through the server's API\n"
    "  checkout   check out (CheckOut)\n"
    "  ids        print the enrollment ids of the enrolled devices\n"
    "  presign    write complete, signed requests to a file for a load generator\n"
    "\n"
    "The fleet\n"
    "  --dir DIR            where it is kept; a later run continues as the same devices\n"
    "  --devices N          how many (default: all there are; for a new fleet 1)\n"
    "  --users N            user channels of each device, for a new fleet (default 0); each has\n"
    "                       a queue of its own\n"
    "  --ca-cert F --ca-key F  the authority that issues (default: an own one, DIR/ca.pem)\n"
    "  --key rsa|ec         kind of keys (default rsa, 2048 bits)\n"
    "  --keys K             how many keys the devices share (default 8)\n"
    "  --topic TOPIC        push topic (default: one of the fleet's own)\n"
    "  --seed TEXT          makes identifiers and choices repeatable (default: random)\n"
    "\n"
    "The server\n"
    "  --url BASE           devices use BASE/mdm and BASE/checkin; may be repeated\n"
    "  --mdm-url URL        instead of BASE/mdm; may be repeated\n"
    "  --checkin-url URL    instead of BASE/checkin (default with --mdm-url: the same)\n"
    "  --switch WHEN        with several URLs, each device changes from one to the next after\n"
    "                       each session (default), message or failure\n"
    "  --server-ca FILE     authority of the server's certificate (default: the system's)\n"
    "  --insecure           do not verify the server's certificate\n"
    "  --http2              offer HTTP/2\n"
    "  --reconnect          a connection per session (always so with --identity tls)\n"
    "  --timeout S, --connect-timeout S  seconds (default 30 and 10)\n"
    "  --retries N          send again up to N times after a lost connection or a status of 500\n"
    "                       and above (default 0); any other status but 200 is an error\n"
    "  --api-url URL        the API, for enqueue (default BASE/v1/)\n"
    "  --api-key KEY        its key, or file:PATH\n"
    "\n"
    "Identity\n"
    "  --identity tls|signature|header  how devices say who they are (default signature)\n"
    "  --apple-style        signatures as Apple's devices make them: BER, SHA-1 with RSA keys, no\n"
    "                       signed attributes (default)\n"
    "  --cms                signatures as OpenSSL makes them: DER, SHA-256, signed attributes\n"
    "  --digest NAME        another digest, for example SHA384\n"
    "  --header NAME        the header (default Client-Cert)\n"
    "  --header-format rfc9440|pem|folded  its form: RFC 9440 (default), percent-encoded PEM,\n"
    "                       PEM with its newlines folded to spaces\n"
    "\n"
    "Runs\n"
    "  --concurrency C      devices that speak at once (default 4)\n"
    "  --rounds N           sessions per device (default 1; with --duration no limit)\n"
    "  --duration S         stop after S seconds\n"
    "  --pause S            between rounds\n"
    "  --rate R             at most R sessions per second\n"
    "  --until-idle         rounds until one brings no command\n"
    "  --stay               each of C devices keeps its connection for the whole run\n"
    "  --not-now SHARE      answer so many commands with NotNow, 0 to 1 (default 0)\n"
    "  --error SHARE        answer so many commands with Error (default 0)\n"
    "  --expect N           an error for each device that gave fewer final answers in this run\n"
    "  --max-commands N     per session (default 10000)\n"
    "  --again              enroll devices anew that are enrolled\n"
    "\n"
    "enqueue and presign\n"
    "  --commands N         commands to queue; requests per device to write (default 1)\n"
    "  --request-type TYPE  default DeviceInformation\n"
    "  --uuid-prefix TEXT   command UUIDs are TEXT and a number of six digits from 0; run checks\n"
    "                       that such commands come byte for byte as they were queued, as it\n"
    "                       does with those that were queued without this option\n"
    "  --batch B            ids per API call (default 100)\n"
    "  --push               have the server push (default: nopush=1)\n"
    "  --message KIND       idle, result, not-now, authenticate or token-update\n"
    "  --out FILE           where the requests go\n"
    "\n"
    "  --json FILE          the result as JSON too; - is standard output, without the table\n"
    "  --quiet              no progress\n"
    "  --help\n"
    "\n"
    "Exit status: 0 without an error, 1 if there was any, 2 if it could not begin.\n";

void fleet_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("mdmfleet: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(2);
}

static void on_signal(int number)
{
    (void)number;
    fleet_stop = 1;
}

/* ---- options ------------------------------------------------------------------------------ */

enum {
    OPT_DIR = 256,
    OPT_DEVICES,
    OPT_USERS,
    OPT_CA_CERT,
    OPT_CA_KEY,
    OPT_KEY,
    OPT_KEYS,
    OPT_TOPIC,
    OPT_SEED,
    OPT_URL,
    OPT_MDM_URL,
    OPT_CHECKIN_URL,
    OPT_SWITCH,
    OPT_SERVER_CA,
    OPT_INSECURE,
    OPT_HTTP2,
    OPT_RECONNECT,
    OPT_TIMEOUT,
    OPT_CONNECT_TIMEOUT,
    OPT_RETRIES,
    OPT_API_URL,
    OPT_API_KEY,
    OPT_IDENTITY,
    OPT_APPLE_STYLE,
    OPT_CMS,
    OPT_DIGEST,
    OPT_HEADER,
    OPT_HEADER_FORMAT,
    OPT_CONCURRENCY,
    OPT_ROUNDS,
    OPT_DURATION,
    OPT_PAUSE,
    OPT_RATE,
    OPT_UNTIL_IDLE,
    OPT_STAY,
    OPT_NOT_NOW,
    OPT_ERROR,
    OPT_EXPECT,
    OPT_MAX_COMMANDS,
    OPT_AGAIN,
    OPT_COMMANDS,
    OPT_REQUEST_TYPE,
    OPT_UUID_PREFIX,
    OPT_BATCH,
    OPT_PUSH,
    OPT_MESSAGE,
    OPT_OUT,
    OPT_JSON,
    OPT_QUIET,
    OPT_HELP
};

static const apr_getopt_option_t options[] = {{"dir", OPT_DIR, 1, NULL},
                                              {"devices", OPT_DEVICES, 1, NULL},
                                              {"users", OPT_USERS, 1, NULL},
                                              {"ca-cert", OPT_CA_CERT, 1, NULL},
                                              {"ca-key", OPT_CA_KEY, 1, NULL},
                                              {"key", OPT_KEY, 1, NULL},
                                              {"keys", OPT_KEYS, 1, NULL},
                                              {"topic", OPT_TOPIC, 1, NULL},
                                              {"seed", OPT_SEED, 1, NULL},
                                              {"url", OPT_URL, 1, NULL},
                                              {"mdm-url", OPT_MDM_URL, 1, NULL},
                                              {"checkin-url", OPT_CHECKIN_URL, 1, NULL},
                                              {"switch", OPT_SWITCH, 1, NULL},
                                              {"server-ca", OPT_SERVER_CA, 1, NULL},
                                              {"insecure", OPT_INSECURE, 0, NULL},
                                              {"http2", OPT_HTTP2, 0, NULL},
                                              {"reconnect", OPT_RECONNECT, 0, NULL},
                                              {"timeout", OPT_TIMEOUT, 1, NULL},
                                              {"connect-timeout", OPT_CONNECT_TIMEOUT, 1, NULL},
                                              {"retries", OPT_RETRIES, 1, NULL},
                                              {"api-url", OPT_API_URL, 1, NULL},
                                              {"api-key", OPT_API_KEY, 1, NULL},
                                              {"identity", OPT_IDENTITY, 1, NULL},
                                              {"apple-style", OPT_APPLE_STYLE, 0, NULL},
                                              {"cms", OPT_CMS, 0, NULL},
                                              {"digest", OPT_DIGEST, 1, NULL},
                                              {"header", OPT_HEADER, 1, NULL},
                                              {"header-format", OPT_HEADER_FORMAT, 1, NULL},
                                              {"concurrency", OPT_CONCURRENCY, 1, NULL},
                                              {"rounds", OPT_ROUNDS, 1, NULL},
                                              {"duration", OPT_DURATION, 1, NULL},
                                              {"pause", OPT_PAUSE, 1, NULL},
                                              {"rate", OPT_RATE, 1, NULL},
                                              {"until-idle", OPT_UNTIL_IDLE, 0, NULL},
                                              {"stay", OPT_STAY, 0, NULL},
                                              {"not-now", OPT_NOT_NOW, 1, NULL},
                                              {"error", OPT_ERROR, 1, NULL},
                                              {"expect", OPT_EXPECT, 1, NULL},
                                              {"max-commands", OPT_MAX_COMMANDS, 1, NULL},
                                              {"again", OPT_AGAIN, 0, NULL},
                                              {"commands", OPT_COMMANDS, 1, NULL},
                                              {"request-type", OPT_REQUEST_TYPE, 1, NULL},
                                              {"uuid-prefix", OPT_UUID_PREFIX, 1, NULL},
                                              {"batch", OPT_BATCH, 1, NULL},
                                              {"push", OPT_PUSH, 0, NULL},
                                              {"message", OPT_MESSAGE, 1, NULL},
                                              {"out", OPT_OUT, 1, NULL},
                                              {"json", OPT_JSON, 1, NULL},
                                              {"quiet", OPT_QUIET, 0, NULL},
                                              {"help", OPT_HELP, 0, NULL},
                                              {NULL, 0, 0, NULL}};

static const char *option_name(int option)
{
    for (const apr_getopt_option_t *o = options; o->name; o++)
        if (o->optch == option)
            return o->name;
    return "?";
}

static int whole(int option, const char *value, int least)
{
    char *end;
    long n = strtol(value, &end, 10);
    if (*end || end == value || n < least || n > 1000000000)
        fleet_die("--%s takes a whole number from %d on, not \"%s\"", option_name(option), least,
                  value);
    return (int)n;
}

static double number(int option, const char *value, double most)
{
    char *end;
    double n = strtod(value, &end);
    if (*end || end == value || !(n >= 0 && n <= most))
        fleet_die("--%s takes a number from 0 to %g, not \"%s\"", option_name(option), most, value);
    return n;
}

/* The position of a value in a list of words. */
static int choice(int option, const char *value, const char *const *words)
{
    const char *list = "";
    for (int i = 0; words[i]; i++)
        if (!strcmp(value, words[i]))
            return i;
    for (int i = 0; words[i]; i++)
        fprintf(stderr, "%s%s", i ? ", " : "mdmfleet: the choices are ", words[i]);
    fputc('\n', stderr);
    fleet_die("--%s does not take \"%s\"%s", option_name(option), value, list);
}

static const char *no_slash(const char *url, apr_pool_t *pool)
{
    size_t len = strlen(url);
    while (len > 0 && url[len - 1] == '/')
        len--;
    return apr_pstrmemdup(pool, url, len);
}

static const char *key_of(const char *value, apr_pool_t *pool)
{
    char text[1024];
    FILE *file;
    size_t len;
    if (strncmp(value, "file:", 5) != 0)
        return value;
    file = fopen(value + 5, "r");
    if (!file)
        fleet_die("--api-key: cannot read %s", value + 5);
    len = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[len] = '\0';
    text[strcspn(text, "\r\n")] = '\0';
    return apr_pstrdup(pool, text);
}

static void take_fleet_option(fleet_options_t *opt, int option, const char *value)
{
    static const char *const key_types[] = {"rsa", "ec", NULL};
    switch (option) {
    case OPT_DIR:
        opt->dir = value;
        break;
    case OPT_DEVICES:
        opt->devices = whole(option, value, 1);
        break;
    case OPT_USERS:
        opt->users = whole(option, value, 0);
        break;
    case OPT_CA_CERT:
        opt->ca_cert = value;
        break;
    case OPT_CA_KEY:
        opt->ca_key = value;
        break;
    case OPT_KEY:
        opt->key_type = key_types[choice(option, value, key_types)];
        break;
    case OPT_KEYS:
        opt->keys = whole(option, value, 1);
        break;
    case OPT_TOPIC:
        opt->topic = value;
        break;
    case OPT_SEED:
        opt->seed = value;
        break;
    }
}

static void take_server_option(fleet_options_t *opt, int option, const char *value,
                               apr_pool_t *pool)
{
    static const char *const switches[] = {"session", "message", "failure", NULL};
    const char *base;
    switch (option) {
    case OPT_URL:
        base = no_slash(value, pool);
        APR_ARRAY_PUSH(opt->mdm_urls, const char *) = apr_pstrcat(pool, base, "/mdm", NULL);
        APR_ARRAY_PUSH(opt->checkin_urls, const char *) = apr_pstrcat(pool, base, "/checkin", NULL);
        if (!opt->api_url)
            opt->api_url = apr_pstrcat(pool, base, "/v1/", NULL);
        break;
    case OPT_MDM_URL:
        APR_ARRAY_PUSH(opt->mdm_urls, const char *) = value;
        break;
    case OPT_CHECKIN_URL:
        APR_ARRAY_PUSH(opt->checkin_urls, const char *) = value;
        break;
    case OPT_SWITCH:
        opt->switching = (fleet_switch_t)choice(option, value, switches);
        break;
    case OPT_SERVER_CA:
        opt->server_ca = value;
        break;
    case OPT_INSECURE:
        opt->insecure = 1;
        break;
    case OPT_HTTP2:
        opt->http2 = 1;
        break;
    case OPT_RECONNECT:
        opt->reconnect = 1;
        break;
    case OPT_TIMEOUT:
        opt->timeout = whole(option, value, 1);
        break;
    case OPT_CONNECT_TIMEOUT:
        opt->connect_timeout = whole(option, value, 1);
        break;
    case OPT_RETRIES:
        opt->retries = whole(option, value, 0);
        break;
    case OPT_API_URL:
        opt->api_url = apr_pstrcat(pool, no_slash(value, pool), "/", NULL);
        break;
    case OPT_API_KEY:
        opt->api_key = key_of(value, pool);
        break;
    }
}

static void take_identity_option(fleet_options_t *opt, int option, const char *value)
{
    static const char *const identities[] = {"tls", "signature", "header", NULL};
    static const char *const formats[] = {"rfc9440", "pem", "folded", NULL};
    switch (option) {
    case OPT_IDENTITY:
        opt->identity = (fleet_identity_t)choice(option, value, identities);
        break;
    case OPT_APPLE_STYLE:
        opt->apple_style = 1;
        break;
    case OPT_CMS:
        opt->apple_style = 0;
        break;
    case OPT_DIGEST:
        opt->digest = value;
        break;
    case OPT_HEADER:
        opt->header_name = value;
        break;
    case OPT_HEADER_FORMAT:
        opt->header_format = (fleet_header_format_t)choice(option, value, formats);
        break;
    }
}

static void take_run_option(fleet_options_t *opt, int option, const char *value)
{
    switch (option) {
    case OPT_CONCURRENCY:
        opt->concurrency = whole(option, value, 1);
        break;
    case OPT_ROUNDS:
        opt->rounds = whole(option, value, 1);
        break;
    case OPT_DURATION:
        opt->duration = (apr_interval_time_t)(number(option, value, 1e7) * APR_USEC_PER_SEC);
        break;
    case OPT_PAUSE:
        opt->pause = (apr_interval_time_t)(number(option, value, 1e7) * APR_USEC_PER_SEC);
        break;
    case OPT_RATE:
        opt->rate = number(option, value, 1e6);
        break;
    case OPT_UNTIL_IDLE:
        opt->until_idle = 1;
        break;
    case OPT_STAY:
        opt->stay = 1;
        break;
    case OPT_NOT_NOW:
        opt->not_now = number(option, value, 1);
        break;
    case OPT_ERROR:
        opt->error = number(option, value, 1);
        break;
    case OPT_EXPECT:
        opt->expect = whole(option, value, 1);
        break;
    case OPT_MAX_COMMANDS:
        opt->max_commands = whole(option, value, 0);
        break;
    case OPT_AGAIN:
        opt->again = 1;
        break;
    }
}

static void take_other_option(fleet_options_t *opt, int option, const char *value)
{
    switch (option) {
    case OPT_COMMANDS:
        opt->commands = whole(option, value, 1);
        break;
    case OPT_REQUEST_TYPE:
        opt->request_type = value;
        break;
    case OPT_UUID_PREFIX:
        opt->uuid_prefix = value;
        break;
    case OPT_BATCH:
        opt->batch = whole(option, value, 1);
        break;
    case OPT_PUSH:
        opt->push = 1;
        break;
    case OPT_MESSAGE:
        opt->message = value;
        break;
    case OPT_OUT:
        opt->out = value;
        break;
    case OPT_JSON:
        opt->json = value;
        break;
    case OPT_QUIET:
        opt->quiet = 1;
        break;
    case OPT_HELP:
        fputs(usage, stdout);
        exit(0);
    }
}

static void take_option(fleet_options_t *opt, int option, const char *value, apr_pool_t *pool)
{
    if (option <= OPT_SEED)
        take_fleet_option(opt, option, value);
    else if (option <= OPT_API_KEY)
        take_server_option(opt, option, value, pool);
    else if (option <= OPT_HEADER_FORMAT)
        take_identity_option(opt, option, value);
    else if (option <= OPT_AGAIN)
        take_run_option(opt, option, value);
    else
        take_other_option(opt, option, value);
}

/* Read the command line; returns the command. */
static const char *read_options(fleet_options_t *opt, int argc, const char *const *argv,
                                apr_pool_t *pool)
{
    apr_getopt_t *os;
    int option;
    const char *value;
    apr_status_t status;
    apr_getopt_init(&os, pool, argc, argv);
    os->interleave = 1;
    while ((status = apr_getopt_long(os, options, &option, &value)) == APR_SUCCESS)
        take_option(opt, option, value, pool);
    if (status != APR_EOF)
        fleet_die("see mdmfleet --help");
    if (os->argc - os->ind != 1)
        fleet_die("give one command: make, enroll, run, enqueue, checkout, ids or presign; see "
                  "mdmfleet --help");
    return os->argv[os->ind];
}

static void set_defaults(fleet_options_t *opt, apr_pool_t *pool)
{
    memset(opt, 0, sizeof(*opt));
    opt->mdm_urls = apr_array_make(pool, 2, sizeof(const char *));
    opt->checkin_urls = apr_array_make(pool, 2, sizeof(const char *));
    opt->users = -1;
    opt->key_type = "rsa";
    opt->keys = 8;
    opt->identity = FLEET_SIGNATURE;
    opt->apple_style = 1;
    opt->header_name = "Client-Cert";
    opt->timeout = 30;
    opt->connect_timeout = 10;
    opt->concurrency = 4;
    opt->max_commands = 10000;
    opt->commands = 1;
    opt->batch = 100;
    opt->request_type = "DeviceInformation";
}

/* ---- commands ----------------------------------------------------------------------------- */

typedef enum { MAKE, ENROLL, RUN, ENQUEUE, CHECKOUT, IDS, PRESIGN } command_t;

static command_t command_of(const char *name)
{
    static const char *const names[] = {"make",     "enroll", "run",     "enqueue",
                                        "checkout", "ids",    "presign", NULL};
    for (int i = 0; names[i]; i++)
        if (!strcmp(name, names[i]))
            return (command_t)i;
    fleet_die("there is no command \"%s\"; see mdmfleet --help", name);
}

static void check_options(fleet_options_t *opt, command_t command)
{
    if (!opt->dir)
        fleet_die("give --dir, the directory that keeps the fleet");
    if (!opt->ca_cert != !opt->ca_key)
        fleet_die("give --ca-cert and --ca-key together");
    if (opt->not_now + opt->error > 1)
        fleet_die("--not-now and --error together exceed 1");
    if (command != MAKE && command != IDS && command != ENQUEUE && opt->mdm_urls->nelts == 0)
        fleet_die("give --url, the server's base URL, for example https://mdm.example.org");
    if (opt->checkin_urls->nelts == 0)
        opt->checkin_urls = opt->mdm_urls;
    if (command == ENQUEUE && (!opt->api_url || !opt->api_key))
        fleet_die("enqueue needs --api-url (or --url) and --api-key");
    if (command == PRESIGN && (!opt->message || !opt->out))
        fleet_die("presign needs --message and --out");
    if (command == PRESIGN && !opt->uuid_prefix &&
        (!strcmp(opt->message, "result") || !strcmp(opt->message, "not-now")))
        fleet_die("presign --message %s needs --uuid-prefix, that of the queued commands",
                  opt->message);
    if (opt->rounds == 0 && opt->duration == 0)
        opt->rounds = 1;
}

static void print_ids(const fleet_t *fleet, const fleet_options_t *opt)
{
    int count = fleet_count(fleet, opt);
    for (int i = 0; i < count; i++)
        if (fleet_device(fleet, i)->enrolled)
            puts(fleet_device(fleet, i)->id);
}

static void write_json(fleet_stats_t *stats, apr_interval_time_t took, const char *path,
                       const char *command)
{
    json_t *json = fleet_stats_json(stats, took);
    json_object_set_new(json, "command", json_string(command));
    if (!strcmp(path, "-")) {
        json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        putchar('\n');
    } else {
        FILE *file = fopen(path, "w");
        if (!file || json_dumpf(json, file, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) != 0 ||
            fputc('\n', file) == EOF || fclose(file) != 0)
            fleet_die("cannot write %s", path);
    }
    json_decref(json);
}

/* A command that talks to the server. Returns the exit status. */
static int talk(fleet_t *fleet, const fleet_options_t *opt, command_t command, const char *name)
{
    fleet_stats_t *stats = fleet_stats_create(fleet->pool);
    apr_time_t began = apr_time_now();
    apr_interval_time_t took;
    if (command == ENROLL)
        fleet_enroll(fleet, opt, stats);
    else if (command == RUN)
        fleet_run(fleet, opt, stats);
    else if (command == CHECKOUT)
        fleet_check_out(fleet, opt, stats);
    else
        fleet_enqueue(fleet, opt, stats);
    took = apr_time_now() - began;
    if (command != ENQUEUE)
        fleet_save(fleet);
    if (!opt->json || strcmp(opt->json, "-") != 0)
        fleet_stats_print(stats, took, stdout);
    if (opt->json)
        write_json(stats, took, opt->json, name);
    return fleet_stats_errors(stats) > 0 ? 1 : 0;
}

static int do_command(const fleet_options_t *opt, command_t command, const char *name,
                      apr_pool_t *pool)
{
    int makes = command == MAKE || command == ENROLL;
    int changes = makes || command == RUN || command == CHECKOUT;
    fleet_t *fleet = fleet_open(opt, makes, changes, pool);
    switch (command) {
    case MAKE:
        printf("%d devices in %s\n", fleet->devices->nelts / (1 + fleet->users), fleet->dir);
        return 0;
    case IDS:
        print_ids(fleet, opt);
        return 0;
    case PRESIGN:
        printf("%d requests in %s\n", fleet_presign(fleet, opt), opt->out);
        return 0;
    default:
        return talk(fleet, opt, command, name);
    }
}

int main(int argc, const char *const *argv)
{
    fleet_options_t opt;
    apr_pool_t *pool;
    const char *name;
    command_t command;
    int status;
    apr_app_initialize(&argc, &argv, NULL);
    apr_pool_create(&pool, NULL);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);
    curl_global_init(CURL_GLOBAL_ALL);
    set_defaults(&opt, pool);
    name = read_options(&opt, argc, argv, pool);
    command = command_of(name);
    check_options(&opt, command);
    status = do_command(&opt, command, name, pool);
    curl_global_cleanup();
    apr_terminate();
    return status;
}
