/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Where the core says what an operator should know and no caller can be told: lost connections,
 * retries, background work. What a request did wrong is returned to its caller instead.
 */
#ifndef MDM_LOG_H
#define MDM_LOG_H

#include <apr_errno.h>

typedef enum { MDM_LOG_ERR, MDM_LOG_WARNING, MDM_LOG_INFO, MDM_LOG_DEBUG } mdm_log_level_t;

/** Receives one line, without a newline; status is 0 or the reason. May be called by any thread. */
typedef void mdm_log_sink_t(mdm_log_level_t level, apr_status_t status, const char *line);

/** Set where lines go, before threads start; NULL, the default, is standard error. */
void mdm_log_set(mdm_log_sink_t *sink);

/** Set what is worth the formatting, before threads start; MDM_LOG_DEBUG, the default, is all. */
void mdm_log_set_most(mdm_log_level_t most);

/** Log a line; cut at 1,023 bytes. */
void mdm_log(mdm_log_level_t level, apr_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/** Whether something that comes often is to be logged now: once a minute. For many threads.
 *
 * @param told  of this matter; 0 before the first time */
int mdm_log_due(apr_uint32_t *told);

#endif
