/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The time for delays and limits, which nobody can set back; what the world is told is
 * apr_time_now(). */
#ifndef MDM_CLOCK_H
#define MDM_CLOCK_H

#include <apr_time.h>

/** Microseconds since some moment in the past, the same one for all of a machine; never 0. */
apr_time_t mdm_clock(void);

#endif
