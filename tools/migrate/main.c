/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* nanomdm-migrate: moves enrollments to another database or server. This file owns the command
 * line; what the commands do is in copy.c and replay.c. */
#include "migrate.h"

#include <apr_general.h>
#include <apr_getopt.h>
#include <apr_signal.h>
#include <apr_strings.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "database.h"
#include "mdm_log.h"

volatile sig_atomic_t migrate_stop;

static const char usage[] =
    "Usage: nanomdm-migrate copy --from DATABASE --to DATABASE [options]\n"
    "       nanomdm-migrate replay --from DATABASE --to-url URL --api-key KEY [options]\n"
    "Moves what NanoMDM or mod_nanomdm has stored. The database it is read from is not changed.\n"
    "\n"
    "  copy    everything, into another database, of the same or another kind\n"
    "  replay  the enrollments alone: sends the devices' stored Authenticate and TokenUpdate\n"
    "          messages, and their users', to another server's migration endpoint\n"
    "\n"
    "DATABASE is what stands after NanoMDMDatabase, as one argument: \"DRIVER PARAMETERS\", with "
    "the\n"
    "driver sqlite3, pgsql or mysql, or file:/PATH of a file that holds it.\n"
    "  --from DATABASE        the database to read\n"
    "  --from-prefix PREFIX   of its tables (default: none)\n"
    "  --from-conf FILE       instead: from NanoMDMDatabase and NanoMDMTablePrefix in this file\n"
    "\n"
    "copy\n"
    "  --to DATABASE          the database to write; missing tables are made\n"
    "  --to-prefix PREFIX, --to-conf FILE  likewise\n"
    "  --resume               the target has rows already: leave those as they are, add the "
    "others\n"
    "  --verify               read both databases afterwards and compare all values\n"
    "\n"
    "replay\n"
    "  --to-url URL           the endpoint, for example https://mdm.example.org/migration\n"
    "  --api-key KEY          the password of its user nanomdm, or file:/PATH\n"
    "  --ca-file FILE         authorities of the server's certificate (default: the system's)\n"
    "  --all                  enrollments that are disabled, too\n"
    "  --concurrency N        devices at once, 1 to 64 (default 8)\n"
    "  --state FILE           remember which devices are done; a run with the same file leaves\n"
    "                         them out\n"
    "  --patience SECONDS     how long to try a message again while the server cannot be reached\n"
    "                         or says that it is unavailable (default 120)\n"
    "\n"
    "  --dry-run              say what would be done, and change nothing\n"
    "  --quiet                no progress\n"
    "  --version\n"
    "  --help\n"
    "\n"
    "Exit status: 0 if everything was moved, 1 if not, 2 for a mistake in the arguments.\n";

void migrate_die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("nanomdm-migrate: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(MIGRATE_MISTAKE);
}

void migrate_say(const char *format, ...)
{
    char text[2048];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    for (char *c = text; *c != '\0'; c++) {
        if ((unsigned char)*c < ' ' || *c == 127) {
            *c = '?'; /* ids and reasons come from elsewhere, and this may be a terminal */
        }
    }
    progress_hide();
    fprintf(stderr, "nanomdm-migrate: %s\n", text);
}

/* What the store has to say. */
static void on_log(mdm_log_level_t level, apr_status_t status, const char *line)
{
    (void)status;
    if (level <= MDM_LOG_WARNING) {
        migrate_say("%s", line);
    }
}

static void on_signal(int number)
{
    migrate_stop = 1;
    apr_signal(number, SIG_DFL);
}

store_t *migrate_open(const store_config_t *config, const char *which, apr_pool_t *pool)
{
    const char *why = NULL;
    store_t *store;

    if (store_open(&store, config, &why, pool) != APR_SUCCESS) {
        migrate_die("%s: %s", which, why);
    }
    return store;
}

/* -- Options ------------------------------------------------------------------------------ */

enum {
    OPT_FROM = 256,
    OPT_FROM_CONF,
    OPT_FROM_PREFIX,
    OPT_TO,
    OPT_TO_CONF,
    OPT_TO_PREFIX,
    OPT_URL,
    OPT_API_KEY,
    OPT_CA_FILE,
    OPT_STATE,
    OPT_CONCURRENCY,
    OPT_PATIENCE,
    OPT_ALL,
    OPT_DRY_RUN,
    OPT_RESUME,
    OPT_VERIFY,
    OPT_QUIET,
    OPT_VERSION,
    OPT_HELP
};

static const apr_getopt_option_t options[] = {{"from", OPT_FROM, 1, NULL},
                                              {"from-conf", OPT_FROM_CONF, 1, NULL},
                                              {"from-prefix", OPT_FROM_PREFIX, 1, NULL},
                                              {"to", OPT_TO, 1, NULL},
                                              {"to-conf", OPT_TO_CONF, 1, NULL},
                                              {"to-prefix", OPT_TO_PREFIX, 1, NULL},
                                              {"to-url", OPT_URL, 1, NULL},
                                              {"api-key", OPT_API_KEY, 1, NULL},
                                              {"ca-file", OPT_CA_FILE, 1, NULL},
                                              {"state", OPT_STATE, 1, NULL},
                                              {"concurrency", OPT_CONCURRENCY, 1, NULL},
                                              {"patience", OPT_PATIENCE, 1, NULL},
                                              {"all", OPT_ALL, 0, NULL},
                                              {"dry-run", OPT_DRY_RUN, 0, NULL},
                                              {"resume", OPT_RESUME, 0, NULL},
                                              {"verify", OPT_VERIFY, 0, NULL},
                                              {"quiet", OPT_QUIET, 0, NULL},
                                              {"version", OPT_VERSION, 0, NULL},
                                              {"help", OPT_HELP, 0, NULL},
                                              {NULL, 0, 0, NULL}};

static int whole(const char *option, const char *value, int least, int most)
{
    char *end;
    long n = strtol(value, &end, 10);

    if (*end != '\0' || end == value || n < least || n > most) {
        migrate_die("--%s takes a whole number from %d to %d, not \"%s\"", option, least, most,
                    value);
    }
    return (int)n;
}

static void take_flag(migrate_options_t *opt, int option)
{
    switch (option) {
    case OPT_ALL:
        opt->all = 1;
        break;
    case OPT_DRY_RUN:
        opt->dry_run = 1;
        break;
    case OPT_RESUME:
        opt->resume = 1;
        break;
    case OPT_VERIFY:
        opt->verify = 1;
        break;
    case OPT_QUIET:
        opt->quiet = 1;
        break;
    case OPT_VERSION:
        puts("nanomdm-migrate " MIGRATE_VERSION);
        exit(0);
    default:
        fputs(usage, stdout);
        exit(0);
    }
}

static void take_option(migrate_options_t *opt, int option, const char *value)
{
    switch (option) {
    case OPT_FROM:
        opt->from = value;
        break;
    case OPT_FROM_CONF:
        opt->from_conf = value;
        break;
    case OPT_FROM_PREFIX:
        opt->from_prefix = value;
        break;
    case OPT_TO:
        opt->to = value;
        break;
    case OPT_TO_CONF:
        opt->to_conf = value;
        break;
    case OPT_TO_PREFIX:
        opt->to_prefix = value;
        break;
    case OPT_URL:
        opt->url = value;
        break;
    case OPT_API_KEY:
        opt->api_key = value;
        break;
    case OPT_CA_FILE:
        opt->ca_file = value;
        break;
    case OPT_STATE:
        opt->state = value;
        break;
    case OPT_CONCURRENCY:
        opt->concurrency = whole("concurrency", value, 1, 64);
        break;
    case OPT_PATIENCE:
        opt->patience = whole("patience", value, 0, 86400);
        break;
    default:
        take_flag(opt, option);
    }
}

/* Read the command line; returns the command. */
static const char *read_options(migrate_options_t *opt, int argc, const char *const *argv,
                                apr_pool_t *pool)
{
    apr_getopt_t *os;
    int option;
    const char *value;
    apr_status_t status;

    apr_getopt_init(&os, pool, argc, argv);
    os->interleave = 1;
    while ((status = apr_getopt_long(os, options, &option, &value)) == APR_SUCCESS) {
        take_option(opt, option, value);
    }
    if (status != APR_EOF) {
        migrate_die("see nanomdm-migrate --help");
    }
    if (os->argc - os->ind != 1) {
        migrate_die("give one command, copy or replay; see nanomdm-migrate --help");
    }
    return os->argv[os->ind];
}

static store_config_t database(const char *side, const char *text, const char *conf,
                               const char *table_prefix, apr_pool_t *pool)
{
    store_config_t config = {0};
    const char *why = NULL;
    apr_status_t status;

    if ((text == NULL) == (conf == NULL)) {
        migrate_die("give --%s, a database as after NanoMDMDatabase, or --%s-conf, httpd's "
                    "configuration with it",
                    side, side);
    }
    status = text != NULL ? tool_database_parse(&config, text, &why, pool)
                          : tool_database_from_conf(
                                &config, conf, apr_pstrcat(pool, "--", side, NULL), &why, pool);
    if (status != APR_SUCCESS) {
        migrate_die("--%s%s: %s", side, text != NULL ? "" : "-conf", why);
    }
    if (table_prefix != NULL) {
        config.prefix = table_prefix;
    }
    if (store_prefix_check(config.prefix, &why, pool) != APR_SUCCESS) {
        migrate_die("--%s-%s: %s", side, table_prefix != NULL ? "prefix" : "conf", why);
    }
    return config;
}

static void refuse_option(const char *command, const char *option, int given)
{
    if (given) {
        migrate_die("%s does not take --%s", command, option);
    }
}

static int run_copy(migrate_options_t *opt, apr_pool_t *pool)
{
    store_config_t from;
    store_config_t to;

    refuse_option("copy", "to-url", opt->url != NULL);
    refuse_option("copy", "api-key", opt->api_key != NULL);
    refuse_option("copy", "ca-file", opt->ca_file != NULL);
    refuse_option("copy", "state", opt->state != NULL);
    refuse_option("copy", "all", opt->all);
    from = database("from", opt->from, opt->from_conf, opt->from_prefix, pool);
    to = database("to", opt->to, opt->to_conf, opt->to_prefix, pool);
    if (strcmp(from.driver, to.driver) == 0 && strcmp(from.params, to.params) == 0 &&
        strcmp(from.prefix, to.prefix) == 0) {
        migrate_die("--from and --to are the same");
    }
    return migrate_copy(opt, &from, &to, pool);
}

static int run_replay(migrate_options_t *opt, apr_pool_t *pool)
{
    store_config_t from;
    const char *why = NULL;

    refuse_option("replay", "to", opt->to != NULL);
    refuse_option("replay", "to-conf", opt->to_conf != NULL);
    refuse_option("replay", "to-prefix", opt->to_prefix != NULL);
    refuse_option("replay", "resume", opt->resume);
    refuse_option("replay", "verify", opt->verify);
    from = database("from", opt->from, opt->from_conf, opt->from_prefix, pool);
    if (!opt->dry_run) {
        if (opt->url == NULL ||
            (strncmp(opt->url, "https://", 8) != 0 && strncmp(opt->url, "http://", 7) != 0)) {
            migrate_die("give --to-url, for example https://mdm.example.org/migration");
        }
        if (opt->api_key == NULL) {
            migrate_die("give --api-key, that of the server, or file:/PATH of a file with it");
        }
        if (tool_secret_read(&opt->api_key, opt->api_key, &why, pool) != APR_SUCCESS) {
            migrate_die("--api-key: %s", why);
        }
        if (*opt->api_key == '\0' || strpbrk(opt->api_key, "\r\n") != NULL) {
            migrate_die("--api-key: a key is one line, and not empty");
        }
    }
    return migrate_replay(opt, &from, pool);
}

int main(int argc, const char *const *argv)
{
    migrate_options_t opt = {.concurrency = 8, .patience = 120};
    apr_pool_t *pool;
    const char *command;
    int status;

    apr_app_initialize(&argc, &argv, NULL);
    apr_pool_create(&pool, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    mdm_log_set(on_log);
    command = read_options(&opt, argc, argv, pool);
    apr_signal(SIGINT, on_signal);
    apr_signal(SIGTERM, on_signal);
    apr_signal(SIGPIPE, SIG_IGN);
    if (strcmp(command, "copy") == 0) {
        status = run_copy(&opt, pool);
    } else if (strcmp(command, "replay") == 0) {
        status = run_replay(&opt, pool);
    } else {
        migrate_die("there is no command \"%s\": it is copy or replay", command);
    }
    apr_pool_destroy(pool); /* closes the databases */
    return status;
}
