/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* See mdm_clock.h. */
#include "mdm_clock.h"

#include <time.h>

apr_time_t mdm_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return apr_time_from_sec(now.tv_sec) + now.tv_nsec / 1000 + 1;
}

int mdm_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    int error = pthread_condattr_init(&attr);

    if (error == 0) {
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        error = pthread_cond_init(cond, &attr);
        pthread_condattr_destroy(&attr);
    }
    return error;
}

int mdm_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, apr_time_t end)
{
    const struct timespec until = {apr_time_sec(end), (long)apr_time_usec(end) * 1000};

    return pthread_cond_timedwait(cond, mutex, &until);
}
