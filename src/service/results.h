/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The ids of a call and what becomes of each: shared by what works on many. */
#ifndef SERVICE_RESULTS_H
#define SERVICE_RESULTS_H

#include "service.h"

/** The ids (const char *) that nothing is said against yet and that may be an enrollment's, sorted.
 *
 * @param index  id -> service_result_t *, of those
 */
apr_array_header_t *results_ids(const apr_array_header_t *results, apr_hash_t **index,
                                apr_pool_t *pool);

#endif
