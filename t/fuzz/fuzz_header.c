/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Fuzz target: certificates in headers. One that is read must be read the same from its PEM. */
#include <openssl/err.h>
#include <string.h>

#include "fuzz.h"
#include "trust.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    apr_pool_t *pool = fuzz_pool();
    char *value = malloc(size + 1);
    trust_certificate_t *cert = NULL, *again = NULL;
    const char *why = NULL;
    apr_status_t rv;

    PROMISE(value);
    if (size) {
        memcpy(value, data, size);
    }
    value[size] = '\0';
    rv = trust_header_certificate(&cert, value, &why, pool);
    if (rv == APR_SUCCESS) {
        const char *pem = trust_certificate_to_pem(cert, pool);

        PROMISE(!trust_certificate_from_pem(&again, pem, strlen(pem), &why, pool));
        PROMISE(!strcmp(cert->sha256, again->sha256));
    } else {
        PROMISE(rv == APR_ENOENT || (rv == MDM_EINPUT && why && *why));
        PROMISE(!cert);
    }
    PROMISE(ERR_peek_error() == 0);
    free(value);
    apr_pool_destroy(pool);
    return 0;
}
