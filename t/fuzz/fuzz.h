/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What the fuzz targets share: APR is initialized once, each input gets a pool of its own, and a
 * broken promise ends the run, also in builds without assert().
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <apr_general.h>
#include <apr_pools.h>
#include <stdint.h>
#include <stdlib.h>

#define PROMISE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline apr_pool_t *fuzz_pool(void)
{
    static int initialized;
    apr_pool_t *pool;

    if (!initialized) {
        PROMISE(apr_initialize() == APR_SUCCESS);
        initialized = 1;
    }
    PROMISE(apr_pool_create(&pool, NULL) == APR_SUCCESS);
    return pool;
}

#endif
