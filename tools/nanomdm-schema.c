/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* nanomdm-schema: what the schema of a database lacks, and the upgrade. This file owns the command
 * line and the words around it; the core knows the schema.
 */
#include <apr_file_info.h>
#include <apr_general.h>
#include <apr_getopt.h>
#include <apr_strings.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "database.h"
#include "mdm_log.h"

enum { EXIT_COMPLETE, EXIT_LACKING, EXIT_MISTAKE };

enum { OPT_DATABASE = 256, OPT_CONF, OPT_PREFIX, OPT_DRY_RUN, OPT_HELP, OPT_VERSION };

static const char usage[] =
    "Usage: nanomdm-schema status|upgrade (--database DATABASE | --conf FILE) [options]\n"
    "Says what the database of mod_nanomdm lacks, or makes it: one that NanoMDM has made, or an\n"
    "older one of mod_nanomdm's. NanoMDM can go on with an upgraded database.\n"
    "\n"
    "  status               say what is missing and what upgrade would do; changes nothing\n"
    "  upgrade              do it. Drops no data; may be repeated, also after it was broken off.\n"
    "                       Whoever writes to a table waits while it is changed: make a backup,\n"
    "                       and choose a quiet time\n"
    "\n"
    "  --database DATABASE  as with NanoMDMDatabase: \"DRIVER PARAMETERS\", or file:/PATH of a "
    "file\n"
    "                       that holds that, so that no password stands on the command line\n"
    "  --conf FILE          take NanoMDMDatabase and NanoMDMTablePrefix from httpd's "
    "configuration\n"
    "  --prefix PREFIX      of the names of all tables: nano_ for Fleet's (default: none, or what\n"
    "                       --conf says)\n"
    "  --dry-run            with upgrade: print the statements instead, one per line\n"
    "  --help, --version\n"
    "\n"
    "Exit status: 0 if nothing is missing (any more), 1 if something is, 2 after a mistake or if\n"
    "the database cannot be used.\n";

typedef struct options_t {
    const char *command;
    const char *database;
    const char *conf;
    const char *prefix;
    int dry_run;
} options_t;

static int mistake(const char *what)
{
    fprintf(stderr, "nanomdm-schema: %s\n", what);
    return EXIT_MISTAKE;
}

static void log_line(mdm_log_level_t level, apr_status_t status, const char *line)
{
    (void)status;
    if (level <= MDM_LOG_WARNING) {
        fprintf(stderr, "nanomdm-schema: %s\n", line);
    }
}

/* -- The command line --------------------------------------------------------------------- */

static void take_option(options_t *options, int option, const char *arg)
{
    switch (option) {
    case OPT_DATABASE:
        options->database = arg;
        break;
    case OPT_CONF:
        options->conf = arg;
        break;
    case OPT_PREFIX:
        options->prefix = arg;
        break;
    case OPT_DRY_RUN:
        options->dry_run = 1;
        break;
    case OPT_HELP:
        fputs(usage, stdout);
        exit(EXIT_COMPLETE);
    default:
        puts("nanomdm-schema " NANOMDM_VERSION);
        exit(EXIT_COMPLETE);
    }
}

static const char *wrong(const options_t *options)
{
    if (options->command == NULL) {
        return "say what to do: status or upgrade (--help lists all)";
    }
    if (strcmp(options->command, "status") != 0 && strcmp(options->command, "upgrade") != 0) {
        return "the command is status or upgrade (--help lists all)";
    }
    if (options->dry_run && strcmp(options->command, "upgrade") != 0) {
        return "--dry-run belongs to upgrade; status changes nothing anyway";
    }
    if ((options->database == NULL) == (options->conf == NULL)) {
        return "name the database: either --database \"DRIVER PARAMETERS\" or --conf FILE";
    }
    return NULL;
}

/* Exits by itself after --help and --version. */
static const char *parse(options_t *options, int argc, const char *const *argv, apr_pool_t *pool)
{
    static const apr_getopt_option_t known[] = {
        {"database", OPT_DATABASE, 1, NULL},
        {"conf", OPT_CONF, 1, NULL},
        {"prefix", OPT_PREFIX, 1, NULL},
        {"dry-run", OPT_DRY_RUN, 0, NULL},
        {"help", OPT_HELP, 0, NULL},
        {"version", OPT_VERSION, 0, NULL},
        {NULL, 0, 0, NULL},
    };
    apr_getopt_t *state;
    const char *arg;
    int option;
    apr_status_t status;

    apr_getopt_init(&state, pool, argc, argv);
    state->interleave = 1;
    while ((status = apr_getopt_long(state, known, &option, &arg)) == APR_SUCCESS) {
        take_option(options, option, arg);
    }
    if (!APR_STATUS_IS_EOF(status)) {
        return "see --help"; /* apr_getopt has said what is wrong */
    }
    options->command = state->ind < argc ? state->argv[state->ind] : NULL;
    return state->ind + 1 < argc
               ? apr_psprintf(pool, "what is \"%s\"? (--help)", state->argv[state->ind + 1])
               : wrong(options);
}

/* -- The commands ------------------------------------------------------------------------- */

static void count_and_say(void *baton, const char *what, const char *sql)
{
    (void)sql;
    if (what != NULL) {
        printf("missing: %s\n", what);
        ++*(int *)baton;
    }
}

static void say(void *baton, const char *what, const char *sql)
{
    (void)baton;
    (void)sql;
    if (what != NULL) {
        printf("%s\n", what);
        fflush(stdout);
    }
}

static void print_sql(void *baton, const char *what, const char *sql)
{
    (void)baton;
    if (what == NULL) {
        printf("%s;\n", sql);
    }
}

static int tell_status(store_t *store, apr_pool_t *pool)
{
    int count = 0;
    const char *why;
    apr_status_t status = store_schema_status(store, 1, count_and_say, &count, pool);

    if (status != APR_SUCCESS) {
        return mistake("the database cannot be used");
    }
    if (count > 0) {
        puts("\"nanomdm-schema upgrade\" makes what is missing.");
        return EXIT_LACKING;
    }
    status = store_schema_check(store, &why, pool);
    if (status == MDM_ESCHEMA) {
        printf("missing: columns that upgrade does not make: %s\n", why);
        return EXIT_LACKING;
    }
    if (status != APR_SUCCESS) {
        return mistake("the database cannot be used");
    }
    puts("Nothing is missing.");
    return EXIT_COMPLETE;
}

static int upgrade(store_t *store, apr_pool_t *pool)
{
    if (store_schema_upgrade(store, say, NULL, pool) != APR_SUCCESS) {
        return mistake("the upgrade is not complete; it may be repeated");
    }
    return tell_status(store, pool);
}

static int run(const options_t *options, apr_pool_t *pool)
{
    store_config_t config;
    store_t *store;
    const char *why;
    apr_status_t status =
        options->conf != NULL
            ? tool_database_from_conf(&config, options->conf, "--database", &why, pool)
            : tool_database_parse(&config, options->database, &why, pool);

    if (status != APR_SUCCESS) {
        return mistake(why);
    }
    if (options->prefix != NULL) {
        config.prefix = options->prefix;
    }
    if (store_prefix_check(config.prefix, &why, pool) != APR_SUCCESS) {
        return mistake(why);
    }
    if (strcmp(options->command, "upgrade") == 0) {
        config.timeout = 0; /* to change a table may take hours */
    }
    if (strcmp(config.driver, "sqlite3") == 0) { /* which would make an empty database */
        apr_finfo_t info;

        if (apr_stat(&info, config.params, APR_FINFO_TYPE, pool) != APR_SUCCESS) {
            return mistake(apr_psprintf(pool, "the file %s does not exist", config.params));
        }
    }
    if (store_open(&store, &config, &why, pool) != APR_SUCCESS) {
        return mistake(why);
    }
    if (strcmp(options->command, "status") == 0) {
        return tell_status(store, pool);
    }
    if (options->dry_run) {
        return store_schema_status(store, 1, print_sql, NULL, pool) == APR_SUCCESS
                   ? EXIT_COMPLETE
                   : mistake("the database cannot be used");
    }
    return upgrade(store, pool);
}

int main(int argc, const char *const *argv)
{
    options_t options = {NULL, NULL, NULL, NULL, 0};
    apr_pool_t *pool;
    const char *why;
    int code;

    if (apr_app_initialize(&argc, &argv, NULL) != APR_SUCCESS ||
        apr_pool_create(&pool, NULL) != APR_SUCCESS) {
        return EXIT_MISTAKE;
    }
    atexit(apr_terminate);
    mdm_log_set(log_line);
    why = parse(&options, argc, argv, pool);
    code = why != NULL ? mistake(why) : run(&options, pool);
    apr_pool_destroy(pool);
    return code;
}
