/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Fuzz target: uploads of push certificates. What is read must be read the same from what it is
 * stored as. */
#include <openssl/err.h>
#include <string.h>

#include "apr_strings.h"
#include "fuzz.h"
#include "trust.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    apr_pool_t *pool = fuzz_pool();
    trust_pushcert_t push, again;
    const char *why = NULL;
    apr_status_t rv = trust_pushcert_read(&push, (const char *)data, size, &why, pool);

    if (rv == APR_SUCCESS) {
        const char *both = apr_pstrcat(pool, push.key_pem, push.cert_pem, NULL);

        PROMISE(strncmp(push.cert_pem, "-----BEGIN CERTIFICATE-----", 27) == 0);
        PROMISE(strncmp(push.topic, "com.apple.mgmt", 14) == 0);
        PROMISE(trust_pushcert_read(&again, both, strlen(both), &why, pool) == APR_SUCCESS);
        PROMISE(!strcmp(push.topic, again.topic) && push.not_after == again.not_after);
        PROMISE(!strcmp(push.cert_pem, again.cert_pem) && !strcmp(push.key_pem, again.key_pem));
    } else {
        PROMISE(rv == MDM_EINPUT && why && *why);
    }
    PROMISE(ERR_peek_error() == 0);
    apr_pool_destroy(pool);
    return 0;
}
