/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Tests how uploads of push certificates are read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <apr_general.h>
#include <openssl/err.h>

#include "../peer/apnsd.h"
#include "trust.h"

#define TOPIC "com.apple.mgmt.External.2b0d5c1e"

static apr_pool_t *pool;
static pki_t pki;
static EVP_PKEY *rsa, *ed;

static const char *issue(const char *uid, long until, EVP_PKEY *key)
{
    const pki_recipe_t recipe = {
        .cn = "APSP:1", .uid = uid, .serial = 3, .until = until, .key = key};

    return pki_issue_pem(&pki, &recipe, pool);
}

static const char *key_traditional(EVP_PKEY *key, const EVP_CIPHER *cipher)
{
    BIO *bio = BIO_new(BIO_s_mem());

    PEM_write_bio_PrivateKey_traditional(bio, key, cipher, (unsigned char *)"x", cipher ? 1 : 0,
                                         NULL, NULL);
    return pki_text(bio, pool);
}

static const char *key_encrypted(EVP_PKEY *key)
{
    BIO *bio = BIO_new(BIO_s_mem());

    PEM_write_bio_PKCS8PrivateKey(bio, key, EVP_aes_128_cbc(), "x", 1, NULL, NULL);
    return pki_text(bio, pool);
}

static const char *join(const char *a, const char *b)
{
    return apr_pstrcat(pool, a, b, NULL);
}

static const char *chomped(const char *text)
{
    return apr_pstrmemdup(pool, text, strlen(text) - 1);
}

static void assert_read(const char *text, const char *cert)
{
    trust_pushcert_t push;
    const char *why = "";

    if (trust_pushcert_read(&push, text, strlen(text), &why, pool) != APR_SUCCESS) {
        fail_msg("%s:\n%s", why, text);
    }
    assert_string_equal(push.topic, TOPIC);
    assert_string_equal(push.cert_pem, cert);
    assert_int_equal(strncmp(push.key_pem, "-----BEGIN PRIVATE KEY-----\n", 28), 0);
    assert_false(push.expired);
    assert_in_range(push.not_after, apr_time_now() + apr_time_from_sec(3500),
                    apr_time_now() + apr_time_from_sec(3700));
    assert_int_equal(ERR_peek_error(), 0);
}

static void assert_refused(const char *text, const char *words)
{
    trust_pushcert_t push = {0};
    const char *why = NULL;

    assert_int_equal(trust_pushcert_read(&push, text, strlen(text), &why, pool), MDM_EINPUT);
    assert_non_null(why);
    if (strstr(why, words) == NULL) {
        fail_msg("\"%s\" is not in \"%s\"", words, why);
    }
    assert_null(push.topic);
    assert_int_equal(ERR_peek_error(), 0);
}

static void test_orders(void **state)
{
    const char *cert = issue(TOPIC, 0, NULL);
    const char *key = pki_key_pem(pki.key, pool);
    const char *folded =
        apr_pstrcat(pool, "Bag Attributes\r\n  x: y\r\n", cert, "\r\n \r\n", key, "trailing", NULL);

    (void)state;
    assert_read(join(cert, key), cert);
    assert_read(join(key, cert), cert);
    assert_read(join(chomped(cert), key), cert);
    assert_read(join(chomped(key), chomped(cert)), cert);
    assert_read(folded, cert);
}

static void test_keys(void **state)
{
    const char *cert = issue(TOPIC, 0, rsa);
    const char *ec_cert = issue(TOPIC, 0, NULL);

    (void)state;
    assert_read(join(cert, key_traditional(rsa, NULL)), cert); /* PKCS #1 */
    assert_read(join(cert, pki_key_pem(rsa, pool)), cert);     /* PKCS #8 */
    assert_non_null(strstr(key_traditional(pki.key, NULL), "BEGIN EC PRIVATE KEY"));
    assert_read(join(ec_cert, key_traditional(pki.key, NULL)), ec_cert); /* SEC 1 */
    assert_read(apr_pstrcat(pool, ec_cert,
                            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n"
                            "-----END EC PARAMETERS-----\n",
                            pki_key_pem(pki.key, pool), NULL),
                ec_cert);
}

static void test_chain(void **state)
{
    const char *cert = issue(TOPIC, 0, NULL);
    const char *ca = pki_cert_pem(pki.ca, pool);
    const char *key = pki_key_pem(pki.key, pool);

    (void)state;
    assert_read(apr_pstrcat(pool, ca, cert, key, NULL), join(cert, ca));
    assert_read(apr_pstrcat(pool, cert, key, ca, NULL), join(cert, ca));
}

static void test_expired(void **state)
{
    const char *text = join(issue(TOPIC, -60, NULL), pki_key_pem(pki.key, pool));
    trust_pushcert_t push;
    const char *why;

    (void)state;
    assert_int_equal(trust_pushcert_read(&push, text, strlen(text), &why, pool), APR_SUCCESS);
    assert_true(push.expired);
    assert_true(push.not_after < apr_time_now());
}

static void test_refused(void **state)
{
    const char *cert = issue(TOPIC, 0, NULL);
    const char *key = pki_key_pem(pki.key, pool);
    const char *many = "";
    char *large = apr_palloc(pool, 100001);
    trust_pushcert_t push;
    const char *why;

    (void)state;
    memset(large, ' ', 100000);
    large[100000] = '\0';
    for (int i = 0; i < 11; i++) {
        many = join(many, cert);
    }
    assert_refused("", "empty");
    assert_refused(large, "too large");
    assert_refused("hello", "no \"-----BEGIN CERTIFICATE-----\"");
    assert_refused(key, "no \"-----BEGIN CERTIFICATE-----\"");
    assert_refused(cert, "the key is missing");
    assert_refused(join(cert, key_encrypted(pki.key)), "encrypted");
    assert_refused(join(cert, key_traditional(pki.key, EVP_aes_128_cbc())), "encrypted");
    assert_refused(join(cert, pki_key_pem(rsa, pool)), "does not belong");
    assert_refused(apr_pstrcat(pool, cert, key, key, NULL), "more than one key");
    assert_refused(join(issue(TOPIC, 0, ed), pki_key_pem(ed, pool)), "neither RSA nor EC");
    assert_refused(join(issue(NULL, 0, NULL), key), "com.apple.mgmt");
    assert_refused(join(issue("com.apple.mail", 0, NULL), key), "com.apple.mgmt");
    assert_refused(join(issue("com.apple.mgmt x", 0, NULL), key), "com.apple.mgmt");
    assert_refused(join(many, key), "too many certificates");
    assert_refused(join(cert, apr_pstrmemdup(pool, key, strlen(key) - 10)), "cut off");
    assert_refused("-----BEGIN CERTIFICATE", "has no end");
    assert_refused(join(key, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
                   "not base64");
    assert_refused(join(key, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
                   "decoded");
    assert_int_equal(trust_pushcert_read(&push, "a\0b", 3, &why, pool), MDM_EINPUT);
}

static int setup_all(void **state)
{
    (void)state;
    apr_initialize();
    apr_pool_create(&pool, NULL);
    pki_make(&pki, "test authority");
    rsa = EVP_RSA_gen(2048);
    ed = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    return rsa == NULL || ed == NULL;
}

static int teardown_all(void **state)
{
    (void)state;
    pki_free(&pki);
    EVP_PKEY_free(rsa);
    EVP_PKEY_free(ed);
    apr_pool_destroy(pool);
    apr_terminate();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_orders),  cmocka_unit_test(test_keys),
        cmocka_unit_test(test_chain),   cmocka_unit_test(test_expired),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, setup_all, teardown_all);
}
