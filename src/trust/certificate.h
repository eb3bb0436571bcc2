/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What the files of src/trust share with each other and with nobody else. */
#ifndef TRUST_CERTIFICATE_H
#define TRUST_CERTIFICATE_H

#include "trust.h"

/** What folded header lines and PEM texts may have between characters of base64. */
#define TRUST_SPACES " \t\r\n"

/** Decode base64: the standard alphabet and complete padding, spaces anywhere, nothing else.
 * The caller bounds the length.
 *
 * @param out  in the pool
 * @return MDM_EINPUT if it is not base64, or encodes nothing
 */
apr_status_t trust_base64_decode(unsigned char **out, apr_size_t *out_len, const char *text,
                                 apr_size_t len, apr_pool_t *pool);

#endif
