/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The progress of the one thing that is being done, on standard error. */
#include <apr_time.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "migrate.h"

#define TERMINAL_PAUSE (APR_USEC_PER_SEC / 5)
#define LINE_PAUSE (APR_USEC_PER_SEC * 10)

static struct {
    const char *what;
    apr_int64_t total, first;
    apr_time_t began, shown;
    int quiet, terminal, visible;
} progress;

void progress_start(const char *what, apr_int64_t total, int quiet)
{
    progress.what = what;
    progress.total = total;
    progress.first = -1;
    progress.began = progress.shown = apr_time_now();
    progress.quiet = quiet;
    progress.terminal = isatty(STDERR_FILENO);
}

void progress_show(apr_int64_t done)
{
    apr_time_t now = apr_time_now();
    apr_interval_time_t took = now - progress.began;
    apr_int64_t made;

    if (progress.first < 0) {
        progress.first = done; /* what an earlier run did says nothing about the speed */
    }
    if (progress.quiet ||
        now - progress.shown < (progress.terminal ? TERMINAL_PAUSE : LINE_PAUSE)) {
        return;
    }
    made = done - progress.first;
    progress.shown = now;
    progress_hide();
    fprintf(stderr, "%s: %" APR_INT64_T_FMT " of %" APR_INT64_T_FMT, progress.what, done,
            progress.total);
    if (made > 0 && done < progress.total) {
        fprintf(stderr, ", %" APR_INT64_T_FMT " s to go",
                (apr_int64_t)((double)took / (double)made * (double)(progress.total - done) /
                              APR_USEC_PER_SEC) +
                    1);
    }
    if (!progress.terminal) {
        fputc('\n', stderr);
    }
    progress.visible = progress.terminal;
    fflush(stderr);
}

void progress_hide(void)
{
    if (progress.visible) {
        fputs("\r\033[K", stderr);
        progress.visible = 0;
    }
}
