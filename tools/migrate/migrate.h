/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What the parts of nanomdm-migrate share: its options, its progress, its two commands. */
#ifndef TOOLS_MIGRATE_H
#define TOOLS_MIGRATE_H

#include <signal.h>

#include "store.h"

/* Exit statuses. */
#define MIGRATE_DONE 0
#define MIGRATE_FAILED 1
#define MIGRATE_MISTAKE 2

typedef struct migrate_options_t {
    const char *from, *from_conf, *from_prefix;
    const char *to, *to_conf, *to_prefix; /* copy */
    const char *url, *api_key, *ca_file, *state;
    int concurrency;
    int patience; /* seconds */
    int all, dry_run, resume, verify, quiet;
} migrate_options_t;

/** Set by the first SIGINT or SIGTERM; the second one ends the program. */
extern volatile sig_atomic_t migrate_stop;

/** End with a sentence about a mistake in the arguments. */
void migrate_die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/** Say a sentence on standard error, not into the line of progress. */
void migrate_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** Open a database, check that it can be reached and, unless it may still be made, its schema. */
store_t *migrate_open(const store_config_t *config, const char *which, apr_pool_t *pool);

/* The commands; each returns the exit status. */
int migrate_copy(const migrate_options_t *opt, const store_config_t *from, const store_config_t *to,
                 apr_pool_t *pool);
int migrate_replay(const migrate_options_t *opt, const store_config_t *from, apr_pool_t *pool);

/* Progress (progress.c): on a terminal one line that changes, otherwise a line now and then. */

void progress_start(const char *what, apr_int64_t total, int quiet);
void progress_show(apr_int64_t done);
/** Take the line away, for something else to be said. */
void progress_hide(void);

#endif
