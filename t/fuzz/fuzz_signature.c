/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Fuzz target: the Mdm-Signature. The input is tried as the header's text and as the BER that is in
 * it; the corpus signs the body below.
 */
#include <openssl/err.h>
#include <openssl/evp.h>
#include <string.h>

#include "fuzz.h"
#include "trust.h"

static void verify(const char *header, apr_pool_t *pool)
{
    static const char body[] = "<plist/>\n";
    trust_certificate_t *cert = NULL;
    const char *why = NULL;
    apr_status_t rv = trust_signature_verify(&cert, header, body, sizeof(body) - 1, &why, pool);

    if (rv == APR_SUCCESS) {
        PROMISE(cert && cert->x509 && cert->der_len && strlen(cert->sha256) == 64);
    } else {
        PROMISE(rv == APR_ENOENT || (rv == MDM_EINPUT && why && *why));
        PROMISE(!cert);
    }
    PROMISE(ERR_peek_error() == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    apr_pool_t *pool = fuzz_pool();
    char *text = malloc(size + 1), *base64 = malloc((size + 2) / 3 * 4 + 1);

    PROMISE(text && base64);
    if (size) {
        memcpy(text, data, size);
    }
    text[size] = '\0';
    verify(text, pool);
    PROMISE(EVP_EncodeBlock((unsigned char *)base64, data, (int)size) >= 0);
    verify(base64, pool);
    free(text);
    free(base64);
    apr_pool_destroy(pool);
    return 0;
}
