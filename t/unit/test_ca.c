/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Tests which certificates the configured authority vouches for, and what its files may hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <apr_file_io.h>
#include <apr_general.h>
#include <apr_strings.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "trust.h"

enum { ROOT, INTERMEDIATE, OTHER, DEVICE, KEYS };

#define HOUR 3600L
#define CA_USAGE "critical,keyCertSign,cRLSign"

/* What to issue. NULL: the certificate does not have that. */
typedef struct recipe_t {
    const char *name;
    int key;
    const char *constraints, *usage, *extended_usage;
    const EVP_MD *(*md)(void);
    long from, until; /* seconds from now; both 0: an hour around it */
} recipe_t;

static EVP_PKEY *keys[KEYS];
static X509 *root, *intermediate, *other_root;
static apr_pool_t *root_pool, *pool;

static void add_extension(X509 *x509, X509V3_CTX *ctx, int nid, const char *value)
{
    X509_EXTENSION *extension;

    if (!value) {
        return;
    }
    extension = X509V3_EXT_conf_nid(NULL, ctx, nid, value);
    assert_non_null(extension);
    X509_add_ext(x509, extension, -1);
    X509_EXTENSION_free(extension);
}

/* @param issuer  NULL: self-signed */
static X509 *issue(const recipe_t *recipe, X509 *issuer, int issuer_key)
{
    static int serial = 1;
    X509 *x509 = X509_new();
    X509_NAME *name = X509_NAME_new();
    X509V3_CTX ctx;
    int dated = recipe->from || recipe->until;

    if (recipe->name) {
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)recipe->name,
                                   -1, -1, 0);
    }
    X509_set_version(x509, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x509), serial++);
    X509_set_subject_name(x509, name);
    X509_set_issuer_name(x509, issuer ? X509_get_subject_name(issuer) : name);
    X509_gmtime_adj(X509_getm_notBefore(x509), dated ? recipe->from : -HOUR);
    X509_gmtime_adj(X509_getm_notAfter(x509), dated ? recipe->until : HOUR);
    X509_set_pubkey(x509, keys[recipe->key]);
    X509V3_set_ctx(&ctx, issuer ? issuer : x509, x509, NULL, NULL, 0);
    add_extension(x509, &ctx, NID_basic_constraints, recipe->constraints);
    add_extension(x509, &ctx, NID_key_usage, recipe->usage);
    add_extension(x509, &ctx, NID_ext_key_usage, recipe->extended_usage);
    assert_true(X509_sign(x509, keys[issuer_key], recipe->md ? recipe->md() : EVP_sha256()) > 0);
    X509_NAME_free(name);
    return x509;
}

static int group_setup(void **state)
{
    static const recipe_t root_recipe = {
        .name = "Root", .key = ROOT, .constraints = "critical,CA:TRUE", .usage = CA_USAGE};
    static const recipe_t intermediate_recipe = {.name = "Intermediate",
                                                 .key = INTERMEDIATE,
                                                 .constraints = "critical,CA:TRUE",
                                                 .usage = CA_USAGE};
    static const recipe_t other_recipe = {
        .name = "Other", .key = OTHER, .constraints = "critical,CA:TRUE", .usage = CA_USAGE};

    (void)state;
    apr_initialize();
    apr_pool_create(&root_pool, NULL);
    keys[ROOT] = EVP_RSA_gen(2048);
    keys[INTERMEDIATE] = EVP_EC_gen("P-384");
    keys[OTHER] = EVP_EC_gen("P-256");
    keys[DEVICE] = EVP_EC_gen("P-256");
    root = issue(&root_recipe, NULL, ROOT);
    intermediate = issue(&intermediate_recipe, root, ROOT);
    other_root = issue(&other_recipe, NULL, OTHER);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    X509_free(root);
    X509_free(intermediate);
    X509_free(other_root);
    for (int i = 0; i < KEYS; i++) {
        EVP_PKEY_free(keys[i]);
    }
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

/* ---- files: gone with the test's pool ---- */

static const char *write_file(const char *text, apr_size_t len)
{
    const char *folder, *name;
    char *template;
    apr_file_t *file;

    assert_int_equal(apr_temp_dir_get(&folder, pool), 0);
    template = apr_pstrcat(pool, folder, "/test_ca.XXXXXX", NULL);
    assert_int_equal(apr_file_mktemp(&file, template,
                                     APR_FOPEN_CREATE | APR_FOPEN_READ | APR_FOPEN_WRITE |
                                         APR_FOPEN_EXCL | APR_FOPEN_DELONCLOSE,
                                     pool),
                     0);
    assert_int_equal(apr_file_write_full(file, text, len, NULL), 0);
    apr_file_name_get(&name, file);
    return name;
}

static const char *pem_of(X509 *x509)
{
    BIO *bio = BIO_new(BIO_s_mem());
    const char *pem;
    char *data;
    long len;

    PEM_write_bio_X509(bio, x509);
    len = BIO_get_mem_data(bio, &data);
    pem = apr_pstrmemdup(pool, data, (apr_size_t)len);
    BIO_free(bio);
    return pem;
}

static const char *key_pem(EVP_PKEY *key)
{
    BIO *bio = BIO_new(BIO_s_mem());
    const char *pem;
    char *data;
    long len;

    PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
    len = BIO_get_mem_data(bio, &data);
    pem = apr_pstrmemdup(pool, data, (apr_size_t)len);
    BIO_free(bio);
    return pem;
}

static const char *write_text(const char *text)
{
    return write_file(text, strlen(text));
}

static trust_ca_t *load(const char *ca_text, const char *intermediate_text)
{
    trust_ca_t *ca = NULL;
    const char *why = "no reason";
    const char *intermediates = intermediate_text ? write_text(intermediate_text) : NULL;

    if (trust_ca_load(&ca, write_text(ca_text), intermediates, &why, pool)) {
        fail_msg("%s", why);
    }
    return ca;
}

/* ---- expectations; the certificate is freed ---- */

static apr_status_t verify(trust_ca_t *ca, X509 *x509, const char **why)
{
    trust_certificate_t *cert;
    unsigned char *der = NULL;
    int len = i2d_X509(x509, &der);

    assert_true(len > 0);
    assert_int_equal(trust_certificate_from_der(&cert, der, (apr_size_t)len, why, pool), 0);
    OPENSSL_free(der);
    X509_free(x509);
    return trust_ca_verify(ca, cert, why, pool);
}

static void assert_trusted(trust_ca_t *ca, X509 *x509)
{
    const char *why = "no reason";

    if (verify(ca, x509, &why)) {
        fail_msg("%s", why);
    }
}

static void assert_refused(trust_ca_t *ca, X509 *x509, const char *reason)
{
    const char *why = "";

    assert_int_equal(verify(ca, x509, &why), MDM_EINPUT);
    if (!strstr(why, reason)) {
        fail_msg("\"%s\" does not say \"%s\"", why, reason);
    }
    assert_null(strchr(why, '\n'));
}

static void assert_not_loaded(const char *ca_file, const char *intermediate_file, const char *named,
                              const char *reason)
{
    trust_ca_t *ca = NULL;
    const char *why = "";

    assert_int_equal(trust_ca_load(&ca, ca_file, intermediate_file, &why, pool), MDM_EINPUT);
    if (!strstr(why, named) || !strstr(why, reason)) {
        fail_msg("\"%s\" does not say \"%s\" of %s", why, reason, named);
    }
    assert_null(strchr(why, '\n'));
    assert_null(ca);
}

/* ---- chains ---- */

static void test_chains(void **state)
{
    const recipe_t device = {.name = "device", .key = DEVICE};
    const recipe_t nameless = {.key = DEVICE, .usage = "digitalSignature"};
    const char *root_pem = pem_of(root), *intermediate_pem = pem_of(intermediate);

    (void)state;
    assert_trusted(load(root_pem, NULL), issue(&device, root, ROOT));
    assert_trusted(load(root_pem, NULL), issue(&nameless, root, ROOT));
    assert_trusted(load(root_pem, intermediate_pem), issue(&device, root, ROOT));
    assert_trusted(load(root_pem, intermediate_pem), issue(&device, intermediate, INTERMEDIATE));
    assert_refused(load(root_pem, NULL), issue(&device, intermediate, INTERMEDIATE),
                   "unknown issuer: /CN=Intermediate");
    /* the authority need not be self-signed, and the file may name several */
    assert_trusted(load(intermediate_pem, NULL), issue(&device, intermediate, INTERMEDIATE));
    assert_refused(load(intermediate_pem, NULL), issue(&device, root, ROOT), "unknown issuer");
    assert_trusted(load(apr_pstrcat(pool, pem_of(other_root), intermediate_pem, NULL), NULL),
                   issue(&device, intermediate, INTERMEDIATE));
    assert_trusted(load(apr_pstrcat(pool, root_pem, root_pem, pem_of(other_root), NULL), NULL),
                   issue(&device, other_root, OTHER));
}

static void test_strangers(void **state)
{
    const recipe_t device = {.name = "device", .key = DEVICE};
    const recipe_t impostor = {.name = "Other", .key = DEVICE, .constraints = "critical,CA:TRUE"};
    const recipe_t child = {.name = "child", .key = OTHER};
    trust_ca_t *ca = load(pem_of(root), pem_of(intermediate));
    X509 *false_root = issue(&impostor, NULL, DEVICE), *leaf;

    (void)state;
    assert_refused(ca, issue(&device, other_root, OTHER), "unknown issuer: /CN=Other");
    assert_refused(ca, issue(&device, NULL, DEVICE), "unknown issuer: /CN=device");
    assert_refused(load(pem_of(other_root), NULL), issue(&device, false_root, DEVICE),
                   "not signed by the issuer");
    X509_free(false_root);
    /* an intermediate that nobody trusts */
    ca = load(pem_of(root), pem_of(other_root));
    assert_refused(ca, issue(&device, other_root, OTHER), "unknown issuer");
    /* a device that plays authority */
    leaf = issue(&device, root, ROOT);
    ca = load(pem_of(root), pem_of(leaf));
    assert_refused(ca, issue(&child, leaf, DEVICE), "does not chain to the authority");
    X509_free(leaf);
}

/* What the system trusts does not matter, even when it is told to trust everything. */
static void test_system_store(void **state)
{
    const recipe_t device = {.name = "device", .key = DEVICE};

    (void)state;
    setenv("SSL_CERT_FILE", write_text(pem_of(other_root)), 1);
    assert_refused(load(pem_of(root), NULL), issue(&device, other_root, OTHER), "unknown issuer");
    unsetenv("SSL_CERT_FILE");
}

static void test_validity(void **state)
{
    const recipe_t expired = {.key = DEVICE, .from = -2 * HOUR, .until = -HOUR};
    const recipe_t future = {.key = DEVICE, .from = HOUR, .until = 2 * HOUR};
    const recipe_t device = {.key = DEVICE};
    const recipe_t old_root = {.name = "Old",
                               .key = OTHER,
                               .constraints = "critical,CA:TRUE",
                               .from = -2 * HOUR,
                               .until = -HOUR};
    trust_ca_t *ca = load(pem_of(root), NULL);
    X509 *old = issue(&old_root, NULL, OTHER);

    (void)state;
    assert_refused(ca, issue(&expired, root, ROOT), "the certificate has expired");
    assert_refused(ca, issue(&future, root, ROOT), "the certificate is not yet valid");
    assert_refused(load(pem_of(old), NULL), issue(&device, old, OTHER),
                   "an issuer's certificate has expired");
    X509_free(old);
}

/* Old authorities sign with SHA-1, that is accepted; MD5 is not. */
static void test_digests(void **state)
{
    const recipe_t sha1 = {.key = DEVICE, .md = EVP_sha1};
    const recipe_t md5 = {.key = DEVICE, .md = EVP_md5};
    const recipe_t old_root = {.name = "Old",
                               .key = ROOT,
                               .constraints = "critical,CA:TRUE",
                               .usage = CA_USAGE,
                               .md = EVP_md5};
    X509 *old = issue(&old_root, NULL, ROOT);

    (void)state;
    assert_trusted(load(pem_of(root), NULL), issue(&sha1, root, ROOT));
    assert_refused(load(pem_of(root), NULL), issue(&md5, root, ROOT), "MD5");
    assert_trusted(load(pem_of(old), NULL), issue(&sha1, old, ROOT));
    X509_free(old);
}

/* ---- usage ---- */

static void test_usage(void **state)
{
    static const struct {
        const char *usage, *extended_usage;
        int good;
    } cases[] = {
        {NULL, NULL, 1},
        {NULL, "clientAuth", 1},
        {NULL, "anyExtendedKeyUsage", 1},
        {NULL, "critical,clientAuth", 1},
        {NULL, "serverAuth,clientAuth", 1},
        {NULL, "codeSigning,anyExtendedKeyUsage", 1},
        {"keyEncipherment", "clientAuth", 1},
        {"critical,keyEncipherment", NULL, 1},
        {"digitalSignature", "clientAuth", 1},
        {NULL, "serverAuth", 0},
        {"digitalSignature", "emailProtection,codeSigning", 0},
        {NULL, "1.2.3.4", 0},
    };
    trust_ca_t *ca = load(pem_of(root), NULL);

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const recipe_t recipe = {.name = "device",
                                 .key = DEVICE,
                                 .usage = cases[i].usage,
                                 .extended_usage = cases[i].extended_usage};
        X509 *x509 = issue(&recipe, root, ROOT);

        if (cases[i].good) {
            assert_trusted(ca, x509);
        } else {
            assert_refused(ca, x509, "not for client authentication");
        }
    }
}

/* An extension that is there but cannot be read must not pass for absent. OpenSSL refuses it first,
 * for a reason that depends on its version.
 */
static void test_broken_usage(void **state)
{
    const recipe_t broken = {.key = DEVICE, .extended_usage = "DER:0500"};
    const recipe_t empty = {.key = DEVICE, .extended_usage = "DER:3000"};
    trust_ca_t *ca = load(pem_of(root), NULL);

    (void)state;
    assert_refused(ca, issue(&broken, root, ROOT), "");
    assert_refused(ca, issue(&empty, root, ROOT), "not for client authentication");
}

/* ---- files ---- */

static void test_files(void **state)
{
    const recipe_t device = {.name = "device", .key = DEVICE};
    const char *root_pem = pem_of(root), *text;

    (void)state;
    /* a key beside it, text around it, lines of Windows */
    text = apr_pstrcat(pool, "Our CA\n\n", key_pem(keys[DEVICE]), root_pem, "\nthe end", NULL);
    assert_trusted(load(text, NULL), issue(&device, root, ROOT));
    text = "";
    for (const char *at = root_pem; *at; at += strcspn(at, "\n") + 1) {
        text = apr_pstrcat(pool, text, apr_pstrmemdup(pool, at, strcspn(at, "\n")), "\r\n", NULL);
    }
    assert_trusted(load(text, NULL), issue(&device, root, ROOT));
}

static void test_broken_files(void **state)
{
    const char *good = write_text(pem_of(root));
    const char *empty = write_text(""), *key = write_text(key_pem(keys[ROOT]));
    const char *root_pem = pem_of(root), *cut, *damaged, *folder, *der_file;
    unsigned char *der = NULL;
    int len = i2d_X509(root, &der);

    (void)state;
    cut = write_text(
        apr_pstrcat(pool, root_pem, apr_pstrmemdup(pool, root_pem, strlen(root_pem) / 2), NULL));
    damaged = write_text("-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n");
    der_file = write_file((const char *)der, (apr_size_t)len);
    OPENSSL_free(der);
    assert_int_equal(apr_temp_dir_get(&folder, pool), 0);
    assert_not_loaded("/nonexistent/ca.pem", NULL, "/nonexistent/ca.pem", "cannot read");
    assert_not_loaded(good, "/nonexistent/ca.pem", "/nonexistent/ca.pem", "cannot read");
    assert_not_loaded(folder, NULL, folder, "not a plain file");
    assert_not_loaded(empty, NULL, empty, "no PEM certificate");
    assert_not_loaded(good, empty, empty, "no PEM certificate");
    assert_not_loaded(key, NULL, key, "no PEM certificate");
    assert_not_loaded(der_file, NULL, der_file, "openssl x509 -inform DER");
    assert_not_loaded(cut, NULL, cut, "damaged after certificate 1");
    assert_not_loaded(damaged, NULL, damaged, "damaged after certificate 0");
    assert_not_loaded(good, damaged, damaged, "damaged");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_chains, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strangers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_system_store, setup, teardown),
        cmocka_unit_test_setup_teardown(test_validity, setup, teardown),
        cmocka_unit_test_setup_teardown(test_digests, setup, teardown),
        cmocka_unit_test_setup_teardown(test_usage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_broken_usage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_broken_files, setup, teardown),
    };

    return cmocka_run_group_tests_name("ca", tests, group_setup, group_teardown);
}
