/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns the ways in which TLS-terminating proxies write a certificate into a request header. Must
 * not know which proxy is trusted to, nor decode certificates.
 */
#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include "certificate.h"

/* RFC 9440: a byte sequence of RFC 8941, whose padding may be missing. What may follow it
 * (parameters, or the next item if the proxy sends the chain) is not looked at: the first is the
 * leaf.
 */
static apr_status_t from_byte_sequence(trust_certificate_t **out, const char *value,
                                       const char **why, apr_pool_t *pool)
{
    static const char *const padding[] = {"", "", "==", "="}; /* one digit over: never right */
    const char *colon = strchr(value + 1, ':');
    const char *next, *base64;
    unsigned char *der;
    apr_size_t der_len;

    if (!colon) {
        *why = "the header's byte sequence has no closing colon";
        return MDM_EINPUT;
    }
    next = colon + 1 + strspn(colon + 1, TRUST_SPACES);
    if (*next && *next != ',' && *next != ';') {
        *why = "the header goes on after its byte sequence";
        return MDM_EINPUT;
    }
    base64 = apr_pstrmemdup(pool, value + 1, (apr_size_t)(colon - value - 1));
    base64 = apr_pstrcat(pool, base64, padding[strlen(base64) % 4], NULL);
    if (trust_base64_decode(&der, &der_len, base64, strlen(base64), pool)) {
        *why = "the header's byte sequence is not base64";
        return MDM_EINPUT;
    }
    return trust_certificate_from_der(out, der, der_len, why, pool);
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)apr_tolower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* '+' stays '+': in base64 it is one, and proxies do not agree on escaping it.
 *
 * @return NULL if an escape is not two hexadecimal digits, or escapes NUL
 */
static const char *percent_decode(const char *value, apr_pool_t *pool)
{
    char *text = apr_palloc(pool, strlen(value) + 1);
    char *to = text;

    for (const char *from = value; *from; from++) {
        int high, low;

        if (*from != '%') {
            *to++ = *from;
            continue;
        }
        high = hex_value(from[1]);
        low = high < 0 ? -1 : hex_value(from[2]);
        if (low < 0 || high + low == 0) {
            return NULL;
        }
        *to++ = (char)(high * 16 + low);
        from += 2;
    }
    *to = '\0';
    return text;
}

apr_status_t trust_header_certificate(trust_certificate_t **out, const char *value,
                                      const char **why, apr_pool_t *pool)
{
    const char *text;

    if (!value) {
        return APR_ENOENT;
    }
    value += strspn(value, TRUST_SPACES);
    /* httpd's "%{SSL_CLIENT_CERT}s" gives "(null)" for a client without a certificate */
    if (!*value || !strcmp(value, "(null)")) {
        return APR_ENOENT;
    }
    if (strlen(value) > TRUST_HEADER_MAX) {
        *why = "the header with the certificate is too large";
        return MDM_EINPUT;
    }
    if (*value == ':') {
        return from_byte_sequence(out, value, why, pool);
    }
    text = percent_decode(value, pool);
    if (!text) {
        *why = "the header with the certificate has a broken percent escape";
        return MDM_EINPUT;
    }
    return trust_certificate_from_pem(out, text, strlen(text), why, pool);
}
