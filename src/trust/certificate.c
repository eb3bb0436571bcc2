/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns how a certificate becomes a trust_certificate_t, and the decoded certificates that are
 * kept between requests. Must not know who issued a certificate, nor where it came from.
 */
#include <pthread.h>
#include <string.h>

#include <apr_strings.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/sha.h>

#include "certificate.h"

/* Decoding costs several times the RSA operation that follows, and a device comes again within
 * seconds. Sets of a few slots, the oldest use of a set makes room: bounded memory (about 8 MB
 * when full), and whoever floods it with certificates of his own only costs the others a decode.
 */
#define CACHE_SETS 256
#define CACHE_WAYS 4
#define CACHE_MAX_DER 4096 /* larger ones are decoded each time */

typedef struct cache_slot_t {
    unsigned char key[SHA256_DIGEST_LENGTH]; /* SHA-256 of the DER */
    X509 *x509;                              /* NULL: the slot is free */
    apr_uint64_t used;
} cache_slot_t;

static struct {
    pthread_mutex_t lock;
    apr_uint64_t clock;
    cache_slot_t slots[CACHE_SETS][CACHE_WAYS];
} cache = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* @return a reference for the caller, or NULL */
static X509 *cache_get(const unsigned char *key)
{
    cache_slot_t *set = cache.slots[key[0]];
    X509 *x509 = NULL;

    pthread_mutex_lock(&cache.lock);
    for (int i = 0; i < CACHE_WAYS && !x509; i++) {
        if (set[i].x509 && !memcmp(set[i].key, key, sizeof(set[i].key)) &&
            X509_up_ref(set[i].x509)) {
            x509 = set[i].x509;
            set[i].used = ++cache.clock;
        }
    }
    pthread_mutex_unlock(&cache.lock);
    return x509;
}

/* Keeps a reference of its own. Two threads may put the same certificate: it then takes two slots
 * for a while, which harms nothing.
 */
static void cache_put(const unsigned char *key, X509 *x509)
{
    cache_slot_t *slot = cache.slots[key[0]];
    X509 *evicted;

    if (!X509_up_ref(x509)) {
        return;
    }
    pthread_mutex_lock(&cache.lock);
    for (cache_slot_t *s = slot + 1; s < cache.slots[key[0]] + CACHE_WAYS; s++) {
        if (s->used < slot->used) {
            slot = s;
        }
    }
    evicted = slot->x509;
    memcpy(slot->key, key, sizeof(slot->key));
    slot->x509 = x509;
    slot->used = ++cache.clock;
    pthread_mutex_unlock(&cache.lock);
    X509_free(evicted);
}

static apr_status_t free_x509(void *x509)
{
    X509_free(x509);
    return APR_SUCCESS;
}

static void hex_of(char *hex, const unsigned char *bytes, apr_size_t len)
{
    static const char digits[] = "0123456789abcdef";

    for (apr_size_t i = 0; i < len; i++) {
        hex[2 * i] = digits[bytes[i] >> 4];
        hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    hex[2 * len] = '\0';
}

/* Takes over the reference. */
static trust_certificate_t *make(X509 *x509, const unsigned char *der, apr_size_t len,
                                 const unsigned char *sha256, apr_pool_t *pool)
{
    trust_certificate_t *cert = apr_pcalloc(pool, sizeof(*cert));

    cert->x509 = x509;
    apr_pool_cleanup_register(pool, x509, free_x509, apr_pool_cleanup_null);
    cert->der = apr_pmemdup(pool, der, len);
    cert->der_len = len;
    hex_of(cert->sha256, sha256, SHA256_DIGEST_LENGTH);
    return cert;
}

/* Decode what the cache does not have. Bytes that OpenSSL reads but would not write (BER) are
 * replaced by what it writes: mod_ssl hands out the same certificate that way, and both must have
 * one hash.
 */
static apr_status_t decode(trust_certificate_t **out, const unsigned char *der, apr_size_t len,
                           const unsigned char *key, const char **why, apr_pool_t *pool)
{
    const unsigned char *end = der;
    unsigned char *written = NULL;
    unsigned char sha256[SHA256_DIGEST_LENGTH];
    int written_len;
    X509 *x509 = d2i_X509(NULL, &end, (long)len);

    if (!x509) {
        *why = "the certificate cannot be decoded";
        return MDM_EINPUT;
    }
    if (end != der + len) {
        *why = "there are bytes after the certificate";
        goto fail;
    }
    written_len = i2d_X509(x509, &written);
    if (written_len <= 0) {
        *why = "the certificate cannot be encoded again";
        goto fail;
    }
    if ((apr_size_t)written_len == len && !memcmp(written, der, len)) {
        if (len <= CACHE_MAX_DER) {
            cache_put(key, x509);
        }
        *out = make(x509, der, len, key, pool);
    } else {
        SHA256(written, (size_t)written_len, sha256);
        *out = make(x509, written, (apr_size_t)written_len, sha256, pool);
    }
    OPENSSL_free(written);
    return APR_SUCCESS;
fail:
    X509_free(x509);
    return MDM_EINPUT;
}

apr_status_t trust_certificate_from_der(trust_certificate_t **out, const unsigned char *der,
                                        apr_size_t len, const char **why, apr_pool_t *pool)
{
    unsigned char key[SHA256_DIGEST_LENGTH];
    apr_status_t rv;
    X509 *x509;

    if (!der || !len || len > TRUST_CERTIFICATE_MAX) {
        *why = "the certificate is empty or too large";
        return MDM_EINPUT;
    }
    SHA256(der, len, key);
    x509 = cache_get(key);
    if (x509) {
        *out = make(x509, der, len, key, pool);
        return APR_SUCCESS;
    }
    ERR_set_mark();
    rv = decode(out, der, len, key, why, pool);
    ERR_pop_to_mark();
    return rv;
}

apr_status_t trust_base64_decode(unsigned char **out, apr_size_t *out_len, const char *text,
                                 apr_size_t len, apr_pool_t *pool)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *packed = apr_palloc(pool, len + 1);
    unsigned char *bytes;
    apr_size_t n = 0, data, padding;

    for (apr_size_t i = 0; i < len; i++) {
        if (!text[i] || !strchr(TRUST_SPACES, text[i])) {
            packed[n++] = text[i];
        }
    }
    packed[n] = '\0';
    data = strspn(packed, alphabet);
    padding = strspn(packed + data, "=");
    /* EVP_DecodeBlock() would take '=' anywhere and counts padding as bytes */
    if (!n || n % 4 || padding > 2 || data + padding != n) {
        return MDM_EINPUT;
    }
    bytes = apr_palloc(pool, n / 4 * 3);
    if (EVP_DecodeBlock(bytes, (const unsigned char *)packed, (int)n) != (int)(n / 4 * 3)) {
        return MDM_EINPUT;
    }
    *out = bytes;
    *out_len = n / 4 * 3 - padding;
    return APR_SUCCESS;
}

/* Find "-----BEGIN CERTIFICATE-----". Proxies that encode a header as a form write its space as
 * '+', others fold with tabs.
 *
 * @param after  where the line ends
 * @return where it begins, or NULL
 */
static const char *find_line(const char *text, const char *dashed_word, const char **after)
{
    static const char rest[] = "CERTIFICATE-----";
    const char *at = text;

    while ((at = strstr(at, dashed_word))) {
        const char *space = at + strlen(dashed_word);

        if (*space && strchr(" \t+", *space) && !strncmp(space + 1, rest, sizeof(rest) - 1)) {
            *after = space + sizeof(rest);
            return at;
        }
        at = space;
    }
    return NULL;
}

apr_status_t trust_certificate_from_pem(trust_certificate_t **out, const char *pem, apr_size_t len,
                                        const char **why, apr_pool_t *pool)
{
    const char *text, *begin = NULL, *end, *ignored;
    unsigned char *der;
    apr_size_t der_len;

    if (!pem || len > TRUST_HEADER_MAX) {
        *why = "the PEM text is missing or too large";
        return MDM_EINPUT;
    }
    text = apr_pstrmemdup(pool, pem, len);
    if (!find_line(text, "-----BEGIN", &begin)) {
        *why = "there is no \"-----BEGIN CERTIFICATE-----\"";
        return MDM_EINPUT;
    }
    end = find_line(begin, "-----END", &ignored);
    if (!end) {
        *why = "there is no \"-----END CERTIFICATE-----\"";
        return MDM_EINPUT;
    }
    if (trust_base64_decode(&der, &der_len, begin, (apr_size_t)(end - begin), pool)) {
        *why = "the certificate's PEM is not base64";
        return MDM_EINPUT;
    }
    return trust_certificate_from_der(out, der, der_len, why, pool);
}

const char *trust_certificate_to_pem(const trust_certificate_t *cert, apr_pool_t *pool)
{
    static const char head[] = "-----BEGIN CERTIFICATE-----\n";
    static const char tail[] = "-----END CERTIFICATE-----\n";
    const apr_size_t per_line = 48; /* bytes, 64 characters */
    apr_size_t lines = cert->der_len / per_line + 1;
    char *pem = apr_palloc(pool, sizeof(head) + sizeof(tail) + lines * 66);
    char *to = apr_cpystrn(pem, head, sizeof(head));

    for (apr_size_t at = 0; at < cert->der_len; at += per_line) {
        apr_size_t n = cert->der_len - at < per_line ? cert->der_len - at : per_line;

        to += EVP_EncodeBlock((unsigned char *)to, cert->der + at, (int)n);
        *to++ = '\n';
    }
    apr_cpystrn(to, tail, sizeof(tail));
    return pem;
}
