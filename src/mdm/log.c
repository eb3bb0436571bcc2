/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The core's log: formats a line and hands it to the sink of the program that links the core. */
#include "mdm_clock.h"
#include "mdm_log.h"

#include <apr_atomic.h>
#include <apr_strings.h>
#include <apr_time.h>
#include <stdarg.h>
#include <stdio.h>

/* In seconds. */
#define TELL_INTERVAL 60

static void log_to_stderr(mdm_log_level_t level, apr_status_t status, const char *line)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    char reason[128] = "";

    if (status != APR_SUCCESS) {
        apr_strerror(status, reason, sizeof(reason));
    }
    fprintf(stderr, "%s: %s%s%s\n", names[level], line, *reason ? ": " : "", reason);
}

static mdm_log_sink_t *log_sink = log_to_stderr;
static mdm_log_level_t log_most = MDM_LOG_DEBUG;

void mdm_log_set(mdm_log_sink_t *sink)
{
    log_sink = sink != NULL ? sink : log_to_stderr;
}

void mdm_log_set_most(mdm_log_level_t most)
{
    log_most = most;
}

void mdm_log(mdm_log_level_t level, apr_status_t status, const char *format, ...)
{
    char line[1024];
    va_list args;

    if (level > log_most) {
        return;
    }
    va_start(args, format);
    apr_vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    log_sink(level, status, line);
}

int mdm_log_due(apr_uint32_t *told)
{
    apr_uint32_t now = (apr_uint32_t)apr_time_sec(mdm_clock()) + 1;
    apr_uint32_t last = apr_atomic_read32(told);

    return (last == 0 || now - last >= TELL_INTERVAL) && apr_atomic_cas32(told, now, last) == last;
}
