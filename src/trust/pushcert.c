/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns how a push certificate and its key are read from a text that an administrator pasted
 * together. Must not know where they are stored, nor the push service.
 */
#include <string.h>

#include <apr_strings.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "certificate.h"

#define MAX_TEXT 65536
#define MAX_CERTIFICATES 10
#define TOPIC_MAX 255 /* as in the database */
#define TOPIC_PREFIX "com.apple.mgmt"

/* -----BEGIN label-----body-----END label----- */
typedef struct block_t {
    const char *label;
    const char *body;
    apr_size_t body_len;
} block_t;

typedef struct reading_t {
    trust_certificate_t *certs[MAX_CERTIFICATES];
    int count;
    EVP_PKEY *key;
} reading_t;

/* Lines do not count: texts are glued together without a newline between END and BEGIN.
 *
 * @param at  where to look; then what follows the block
 * @return APR_ENOENT: there is no other
 */
static apr_status_t next_block(block_t *block, const char **at, const char **why, apr_pool_t *pool)
{
    static const char begin[] = "-----BEGIN ";
    const char *label = strstr(*at, begin);
    const char *label_end, *end, *end_line;

    if (!label) {
        return APR_ENOENT;
    }
    label += sizeof(begin) - 1;
    label_end = strstr(label, "-----");
    if (!label_end || label_end - label > 40) {
        *why = "a line that begins with \"-----BEGIN \" has no end";
        return MDM_EINPUT;
    }
    block->label = apr_pstrmemdup(pool, label, (apr_size_t)(label_end - label));
    block->body = label_end + 5;
    end_line = apr_pstrcat(pool, "-----END ", block->label, "-----", NULL);
    end = strstr(block->body, end_line);
    if (!end) {
        *why = "a \"-----BEGIN …\" has no \"-----END …\" of the same kind: the text is cut off";
        return MDM_EINPUT;
    }
    block->body_len = (apr_size_t)(end - block->body);
    *at = end + strlen(end_line);
    return APR_SUCCESS;
}

static apr_status_t take_certificate(reading_t *reading, const block_t *block, const char **why,
                                     apr_pool_t *pool)
{
    unsigned char *der;
    apr_size_t len;
    apr_status_t rv;

    if (reading->count == MAX_CERTIFICATES) {
        *why = "there are too many certificates: leave the push certificate and its key";
        return MDM_EINPUT;
    }
    if (trust_base64_decode(&der, &len, block->body, block->body_len, pool)) {
        *why = "the certificate's PEM is not base64";
        return MDM_EINPUT;
    }
    rv = trust_certificate_from_der(&reading->certs[reading->count], der, len, why, pool);
    if (!rv) {
        reading->count++;
    }
    return rv;
}

static int is_encrypted(const block_t *block, apr_pool_t *pool)
{
    return !strcmp(block->label, "ENCRYPTED PRIVATE KEY") ||
           strstr(apr_pstrmemdup(pool, block->body, block->body_len), "ENCRYPTED");
}

/* PKCS #1, SEC 1 and PKCS #8 are told apart by what they hold, whatever the label says. */
static apr_status_t take_key(reading_t *reading, const block_t *block, const char **why,
                             apr_pool_t *pool)
{
    unsigned char *der;
    const unsigned char *end;
    apr_size_t len;
    int type;

    if (reading->key) {
        *why = "there is more than one key: leave the push certificate's";
        return MDM_EINPUT;
    }
    if (is_encrypted(block, pool)) {
        *why = "the key is encrypted: decrypt it first, for example with \"openssl pkey -in KEY\"";
        return MDM_EINPUT;
    }
    if (trust_base64_decode(&der, &len, block->body, block->body_len, pool)) {
        *why = "the key's PEM is not base64";
        return MDM_EINPUT;
    }
    end = der;
    reading->key = d2i_AutoPrivateKey(NULL, &end, (long)len);
    type = reading->key && end == der + len ? EVP_PKEY_get_base_id(reading->key) : EVP_PKEY_NONE;
    OPENSSL_cleanse(der, len);
    if (type != EVP_PKEY_RSA && type != EVP_PKEY_EC) {
        *why = "the key cannot be read, or is neither RSA nor EC";
        return MDM_EINPUT;
    }
    return APR_SUCCESS;
}

static apr_status_t read_blocks(reading_t *reading, const char *text, const char **why,
                                apr_pool_t *pool)
{
    static const char key[] = "PRIVATE KEY";
    block_t block;
    apr_status_t rv;

    while (!(rv = next_block(&block, &text, why, pool))) {
        apr_size_t len = strlen(block.label);

        if (!strcmp(block.label, PEM_STRING_X509) || !strcmp(block.label, PEM_STRING_X509_OLD)) {
            rv = take_certificate(reading, &block, why, pool);
        } else if (len >= sizeof(key) - 1 && !strcmp(block.label + len - (sizeof(key) - 1), key)) {
            rv = take_key(reading, &block, why, pool);
        }
        if (rv) {
            return rv;
        }
    }
    if (rv != APR_ENOENT) {
        return rv;
    }
    if (!reading->count || !reading->key) {
        *why = reading->count ? "there is no \"-----BEGIN PRIVATE KEY-----\": the key is missing"
                              : "there is no \"-----BEGIN CERTIFICATE-----\"";
        return MDM_EINPUT;
    }
    return APR_SUCCESS;
}

static apr_status_t read_topic(const char **topic, X509 *x509, const char **why, apr_pool_t *pool)
{
    const X509_NAME *subject = X509_get_subject_name(x509);
    int at = X509_NAME_get_index_by_NID((X509_NAME *)subject, NID_userId, -1);
    unsigned char *text = NULL;
    int len =
        at >= 0
            ? ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)))
            : -1;
    int good = len >= (int)sizeof(TOPIC_PREFIX) - 1 && len <= TOPIC_MAX &&
               !memcmp(text, TOPIC_PREFIX, sizeof(TOPIC_PREFIX) - 1);

    for (int i = 0; i < len; i++) {
        good = good && text[i] > ' ' && text[i] < 127;
    }
    if (good) {
        *topic = apr_pstrmemdup(pool, (const char *)text, (apr_size_t)len);
    } else {
        *why = "it is not an MDM push certificate: the UID of its subject must begin with "
               "\"" TOPIC_PREFIX "\"";
    }
    OPENSSL_free(text);
    return good ? APR_SUCCESS : MDM_EINPUT;
}

static apr_status_t read_not_after(apr_time_t *not_after, X509 *x509, const char **why)
{
    struct tm tm;

    if (ASN1_TIME_to_tm(X509_get0_notAfter(x509), &tm) != 1) {
        *why = "the certificate has no date of expiry that can be read";
        return MDM_EINPUT;
    }
    *not_after = apr_time_from_sec(timegm(&tm));
    return APR_SUCCESS;
}

static apr_status_t write_key(const char **pem, EVP_PKEY *key, const char **why, apr_pool_t *pool)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *data;
    long len;
    int good = bio && PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1;

    if (good) {
        len = BIO_get_mem_data(bio, &data);
        *pem = apr_pstrmemdup(pool, data, (apr_size_t)len);
        OPENSSL_cleanse(data, (apr_size_t)len);
    } else {
        *why = "the key cannot be written";
    }
    BIO_free(bio);
    return good ? APR_SUCCESS : MDM_EINPUT;
}

/* The one that the key belongs to, and after it the others. */
static const char *write_certificates(const reading_t *reading, int leaf, apr_pool_t *pool)
{
    const char *pem = trust_certificate_to_pem(reading->certs[leaf], pool);

    for (int i = 0; i < reading->count; i++) {
        if (i != leaf) {
            pem = apr_pstrcat(pool, pem, trust_certificate_to_pem(reading->certs[i], pool), NULL);
        }
    }
    return pem;
}

static apr_status_t read_pushcert(trust_pushcert_t *out, reading_t *reading, const char *text,
                                  const char **why, apr_pool_t *pool)
{
    trust_pushcert_t push;
    int leaf = 0;
    X509 *x509;
    apr_status_t rv = read_blocks(reading, text, why, pool);

    if (rv) {
        return rv;
    }
    while (leaf < reading->count &&
           X509_check_private_key(reading->certs[leaf]->x509, reading->key) != 1) {
        leaf++;
    }
    if (leaf == reading->count) {
        *why = "the key does not belong to the certificate";
        return MDM_EINPUT;
    }
    x509 = reading->certs[leaf]->x509;
    rv = read_topic(&push.topic, x509, why, pool);
    if (!rv) {
        rv = read_not_after(&push.not_after, x509, why);
    }
    if (!rv) {
        rv = write_key(&push.key_pem, reading->key, why, pool);
    }
    if (!rv) {
        push.expired = push.not_after < apr_time_now();
        push.cert_pem = write_certificates(reading, leaf, pool);
        *out = push;
    }
    return rv;
}

apr_status_t trust_pushcert_read(trust_pushcert_t *out, const char *text, apr_size_t len,
                                 const char **why, apr_pool_t *pool)
{
    reading_t reading = {.count = 0};
    apr_status_t rv;

    if (!text || !len || len > MAX_TEXT || memchr(text, '\0', len)) {
        *why = "the text with the push certificate is empty, too large or not PEM";
        return MDM_EINPUT;
    }
    ERR_set_mark();
    rv = read_pushcert(out, &reading, apr_pstrmemdup(pool, text, len), why, pool);
    ERR_pop_to_mark();
    EVP_PKEY_free(reading.key);
    return rv;
}
