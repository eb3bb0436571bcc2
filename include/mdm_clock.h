/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The time for delays and limits, which nobody can set back; what the world is told is
 * apr_time_now(). */
#ifndef MDM_CLOCK_H
#define MDM_CLOCK_H

#include <apr_time.h>
#include <pthread.h>

/** Microseconds since some moment in the past, the same one for all of a machine; never 0. */
apr_time_t mdm_clock(void);

/** Make a condition for mdm_cond_wait(). @return 0, or an errno */
int mdm_cond_init(pthread_cond_t *cond);
/** Wait like pthread_cond_timedwait(), at the latest until this time of mdm_clock().
 * @return 0; ETIMEDOUT */
int mdm_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, apr_time_t end);

#endif
