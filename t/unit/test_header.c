/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Tests the certificates that proxies put into a header, and certificates from and to PEM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <apr_general.h>
#include <apr_strings.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include "trust.h"

static apr_pool_t *root_pool, *pool;
static unsigned char *der, *other_der; /* two certificates */
static int der_len, other_len;
static char *base64, *other_base64;

static int make_certificate(unsigned char **out, const char *name)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x509 = X509_new();
    X509_NAME *subject = X509_NAME_new();
    int len;

    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1,
                               0);
    X509_set_version(x509, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
    X509_set_subject_name(x509, subject);
    X509_set_issuer_name(x509, subject);
    X509_gmtime_adj(X509_getm_notBefore(x509), 0);
    X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
    X509_set_pubkey(x509, key);
    assert_true(X509_sign(x509, key, EVP_sha256()) > 0);
    len = i2d_X509(x509, out);
    assert_true(len > 0);
    X509_NAME_free(subject);
    X509_free(x509);
    EVP_PKEY_free(key);
    return len;
}

static char *encode(const unsigned char *bytes, int len)
{
    char *text = apr_palloc(root_pool, (apr_size_t)len * 4 / 3 + 5);

    EVP_EncodeBlock((unsigned char *)text, bytes, len);
    return text;
}

/* A certificate whose base64 has both '+' and '/': what encodings get wrong. */
static void make_awkward(unsigned char **out, int *len, char **text)
{
    *len = make_certificate(out, "first");
    *text = encode(*out, *len);
    while (!strchr(*text, '+') || !strchr(*text, '/')) {
        OPENSSL_free(*out);
        *out = NULL;
        *len = make_certificate(out, "first");
        *text = encode(*out, *len);
    }
}

static int group_setup(void **state)
{
    (void)state;
    apr_initialize();
    apr_pool_create(&root_pool, NULL);
    make_awkward(&der, &der_len, &base64);
    other_len = make_certificate(&other_der, "second");
    other_base64 = encode(other_der, other_len);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    OPENSSL_free(der);
    OPENSSL_free(other_der);
    apr_pool_destroy(root_pool);
    apr_terminate();
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return apr_pool_create(&pool, root_pool);
}

static int teardown(void **state)
{
    (void)state;
    assert_int_equal(ERR_peek_error(), 0);
    apr_pool_destroy(pool);
    return 0;
}

static void assert_first(const char *value)
{
    trust_certificate_t *cert = NULL;
    const char *why = NULL;
    apr_status_t rv = trust_header_certificate(&cert, value, &why, pool);

    if (rv) {
        fail_msg("%s for %.60s", why ? why : "no reason", value);
    }
    assert_int_equal(cert->der_len, der_len);
    assert_memory_equal(cert->der, der, (size_t)der_len);
    assert_int_equal(strlen(cert->sha256), 64);
    assert_non_null(cert->x509);
}

static void assert_refused(const char *value, const char *reason)
{
    trust_certificate_t *cert = NULL;
    const char *why = "";

    assert_int_equal(trust_header_certificate(&cert, value, &why, pool), MDM_EINPUT);
    if (!strstr(why, reason)) {
        fail_msg("\"%s\" does not say \"%s\"", why, reason);
    }
    assert_null(strchr(why, '\n'));
    assert_null(cert);
}

/* PEM in lines that end with `eol`, with one word between BEGIN and CERTIFICATE. */
static const char *pem_of(const char *text, const char *eol, const char *space)
{
    const char *pem = apr_pstrcat(pool, "-----BEGIN", space, "CERTIFICATE-----", eol, NULL);
    size_t len = strlen(text);

    for (size_t at = 0; at < len; at += 64) {
        pem = apr_pstrcat(pool, pem, apr_pstrndup(pool, text + at, 64), eol, NULL);
    }
    return apr_pstrcat(pool, pem, "-----END", space, "CERTIFICATE-----", eol, NULL);
}

/* Escape all but letters, digits and what is in `kept`. */
static const char *escape(const char *text, const char *kept, const char *format)
{
    char *out = apr_palloc(pool, strlen(text) * 3 + 1), *to = out;

    for (; *text; text++) {
        if ((*text >= '0' && *text <= '9') || (*text >= 'A' && *text <= 'Z') ||
            (*text >= 'a' && *text <= 'z') || strchr(kept, *text)) {
            *to++ = *text;
        } else {
            to += apr_snprintf(to, 4, format, (unsigned int)*text);
        }
    }
    *to = '\0';
    return out;
}

static void test_absent(void **state)
{
    static const char *const values[] = {NULL, "", " ", " \t ", "(null)"};
    trust_certificate_t *cert;
    const char *why;

    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        assert_int_equal(trust_header_certificate(&cert, values[i], &why, pool), APR_ENOENT);
    }
}

static void test_byte_sequence(void **state)
{
    const char *stripped = apr_pstrndup(pool, base64, strcspn(base64, "="));

    (void)state;
    assert_first(apr_pstrcat(pool, ":", base64, ":", NULL));
    assert_first(apr_pstrcat(pool, "  :", base64, ":  ", NULL));
    assert_first(apr_pstrcat(pool, ":", stripped, ":", NULL));
    assert_first(apr_pstrcat(pool, ":", base64, ":;a=1", NULL));
    assert_first(apr_pstrcat(pool, ":", base64, ":, :", other_base64, ":", NULL));
    assert_first(apr_pstrcat(pool, ":", base64, ":,:", other_base64, ":", NULL));
}

static void test_byte_sequence_refused(void **state)
{
    (void)state;
    assert_refused(":", "no closing colon");
    assert_refused("::", "not base64");
    assert_refused(apr_pstrcat(pool, ":", base64, NULL), "no closing colon");
    assert_refused(apr_pstrcat(pool, ":", base64, ":x", NULL), "goes on");
    assert_refused(apr_pstrcat(pool, ":=", base64, ":", NULL), "not base64");
    assert_refused(apr_pstrcat(pool, ":-", base64, ":", NULL), "not base64");
    assert_refused(":A:", "not base64");
    assert_refused(":AAAA====:", "not base64");
    assert_refused(":AA=A:", "not base64");
    assert_refused(":AAAA:", "cannot be decoded");
    assert_refused(":MAA=:", "cannot be decoded");
}

static void test_folded_pem(void **state)
{
    static const char *const ends[] = {"\n", " ", "\t", "\r\n", " \t", ""};
    static const char *const spaces[] = {" ", "\t", "+"};

    (void)state;
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        for (size_t j = 0; j < sizeof(spaces) / sizeof(spaces[0]); j++) {
            const char *pem = pem_of(base64, ends[i], spaces[j]);

            assert_first(pem);
            assert_first(apr_pstrcat(pool, " ", pem, NULL));
            assert_first(apr_pstrcat(pool, pem, pem_of(other_base64, ends[i], spaces[j]), NULL));
        }
    }
}

static void test_escaped_pem(void **state)
{
    static const char *const ends[] = {"\n", "\r\n", " "};
    static const char *const kept[] = {"", "-+/=", "-._~", " +", "-/="};

    (void)state;
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        const char *chain = apr_pstrcat(pool, pem_of(base64, ends[i], " "),
                                        pem_of(other_base64, ends[i], " "), NULL);
        for (size_t j = 0; j < sizeof(kept) / sizeof(kept[0]); j++) {
            assert_first(escape(chain, kept[j], "%%%02X"));
            assert_first(escape(chain, kept[j], "%%%02x"));
        }
        /* as a form: spaces are '+', what was '+' is escaped or not */
        chain = pem_of(base64, ends[i], "+");
        assert_first(escape(chain, "+", "%%%02X"));
        assert_first(escape(chain, "+/=-", "%%%02x"));
    }
}

static void test_pem_refused(void **state)
{
    const char *pem = pem_of(base64, " ", " ");
    const char *escaped = escape(pem, "", "%%%02X");
    char *broken = apr_pstrdup(pool, pem);

    (void)state;
    assert_refused("certificate", "no \"-----BEGIN");
    assert_refused(base64, "no \"-----BEGIN");
    assert_refused("-----BEGIN CERTIFICATE-----", "no \"-----END");
    assert_refused("-----BEGIN", "no \"-----BEGIN");
    assert_refused("-----BEGIN CERTIFICATE----- -----END CERTIFICATE-----", "not base64");
    assert_refused("-----BEGIN PRIVATE KEY----- AAAA -----END PRIVATE KEY-----", "no \"-----BEGIN");
    assert_refused(apr_pstrcat(pool, escaped, "%", NULL), "percent escape");
    assert_refused(apr_pstrcat(pool, escaped, "%2", NULL), "percent escape");
    assert_refused(apr_pstrcat(pool, escaped, "%2g", NULL), "percent escape");
    assert_refused(apr_pstrcat(pool, escaped, "%G2", NULL), "percent escape");
    assert_refused(apr_pstrcat(pool, escaped, "%+2", NULL), "percent escape");
    assert_refused(apr_pstrcat(pool, "%00", escaped, NULL), "percent escape");
    broken[60] = '!';
    assert_refused(broken, "not base64");
}

static void test_trailing_bytes(void **state)
{
    unsigned char *more = apr_pcalloc(pool, (apr_size_t)der_len + 1);

    (void)state;
    memcpy(more, der, (size_t)der_len);
    assert_refused(apr_pstrcat(pool, ":", encode(more, der_len + 1), ":", NULL),
                   "bytes after the certificate");
    assert_refused(apr_pstrcat(pool, ":", encode(der, der_len - 1), ":", NULL), "decoded");
}

static void test_size(void **state)
{
    char *large = apr_palloc(pool, TRUST_HEADER_MAX + 2);
    const char *pem = pem_of(base64, " ", " ");

    (void)state;
    memset(large, 'A', TRUST_HEADER_MAX + 1);
    large[TRUST_HEADER_MAX + 1] = '\0';
    assert_refused(large, "too large");
    large[0] = ':';
    assert_refused(large, "too large");
    memset(large, ' ', TRUST_HEADER_MAX);
    memcpy(large + 1, pem, strlen(pem));
    large[0] = '/';
    large[TRUST_HEADER_MAX] = '\0';
    assert_first(large);
}

static void test_der_and_pem(void **state)
{
    trust_certificate_t *cert, *again;
    const char *why = "", *pem;

    (void)state;
    assert_int_equal(trust_certificate_from_der(&cert, der, (apr_size_t)der_len, &why, pool), 0);
    pem = trust_certificate_to_pem(cert, pool);
    assert_int_equal(strncmp(pem, "-----BEGIN CERTIFICATE-----\n", 28), 0);
    assert_string_equal(pem, pem_of(base64, "\n", " "));
    assert_int_equal(trust_certificate_from_pem(&again, pem, strlen(pem), &why, pool), 0);
    assert_string_equal(cert->sha256, again->sha256);
    assert_int_equal(trust_certificate_from_pem(&again, pem, strlen(pem) - 10, &why, pool),
                     MDM_EINPUT);
    assert_int_equal(trust_certificate_from_pem(&again, NULL, 0, &why, pool), MDM_EINPUT);
    assert_int_equal(trust_certificate_from_der(&again, NULL, 0, &why, pool), MDM_EINPUT);
    assert_int_equal(trust_certificate_from_der(&again, der, 10, &why, pool), MDM_EINPUT);
}

/* The same certificate with its outer SEQUENCE of indefinite length is the same certificate. */
static void test_ber_is_normalized(void **state)
{
    trust_certificate_t *cert, *again;
    unsigned char *ber = apr_palloc(pool, (apr_size_t)der_len + 4);
    const unsigned char *at = der;
    const char *why = "";
    long len;
    int tag, class;

    (void)state;
    ASN1_get_object(&at, &len, &tag, &class, der_len);
    memcpy(ber, "\x30\x80", 2);
    memcpy(ber + 2, at, (size_t)len);
    memcpy(ber + 2 + len, "\0\0", 2);
    assert_int_equal(trust_certificate_from_der(&cert, der, (apr_size_t)der_len, &why, pool), 0);
    assert_int_equal(trust_certificate_from_der(&again, ber, (apr_size_t)len + 4, &why, pool), 0);
    assert_string_equal(cert->sha256, again->sha256);
    assert_int_equal(again->der_len, der_len);
    assert_memory_equal(again->der, der, (size_t)der_len);
}

/* More certificates than are kept decoded, several times: all stay right. */
static void test_many_certificates(void **state)
{
    enum { MANY = 1500 };
    unsigned char *ders[MANY] = {NULL};
    int lens[MANY];
    const char *why = "";

    (void)state;
    for (int i = 0; i < MANY; i++) {
        lens[i] = make_certificate(&ders[i], "many");
    }
    for (int i = 0; i < 3 * MANY; i++) {
        trust_certificate_t *cert;
        int n = i * 7 % MANY; /* every one, out of order */

        assert_int_equal(
            trust_certificate_from_der(&cert, ders[n], (apr_size_t)lens[n], &why, pool), 0);
        assert_memory_equal(cert->der, ders[n], (size_t)lens[n]);
        if (n % 100 == 0) {
            apr_pool_clear(pool);
        }
    }
    for (int i = 0; i < MANY; i++) {
        OPENSSL_free(ders[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_absent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_byte_sequence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_byte_sequence_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_folded_pem, setup, teardown),
        cmocka_unit_test_setup_teardown(test_escaped_pem, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pem_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_trailing_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_size, setup, teardown),
        cmocka_unit_test_setup_teardown(test_der_and_pem, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ber_is_normalized, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_certificates, setup, teardown),
    };

    return cmocka_run_group_tests_name("header", tests, group_setup, group_teardown);
}
