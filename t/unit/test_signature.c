/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Tests the Mdm-Signature with messages that OpenSSL's CMS code makes, bent where it would not make
 * them. NANOMDM_SAMPLES may name a folder with what real devices sent.
 */
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
#include <apr_thread_proc.h>
#include <openssl/bio.h>
#include <openssl/cms.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>

#include "trust.h"

#define BODY "<plist><dict><key>Status</key><string>Idle</string></dict></plist>\r\n"
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

typedef struct signer_fixture_t {
    const char *name;
    EVP_PKEY *key;
    X509 *x509;
    int plain, with_sha256; /* what SignerInfo may say of the algorithm */
} signer_fixture_t;

static signer_fixture_t signers[] = {
    {"RSA", NULL, NULL, NID_rsaEncryption, NID_sha256WithRSAEncryption},
    {"P-256", NULL, NULL, NID_X9_62_id_ecPublicKey, NID_ecdsa_with_SHA256},
    {"P-384", NULL, NULL, NID_X9_62_id_ecPublicKey, NID_ecdsa_with_SHA256},
};

typedef struct message_t {
    unsigned char *ber;
    int len;
} message_t;

static apr_pool_t *root_pool, *pool;

/* Self-signed, with an empty subject, as Apple's devices have it. */
static X509 *make_certificate(EVP_PKEY *key, int serial, int with_key_id)
{
    X509 *x509 = X509_new();
    X509V3_CTX ctx;

    X509_set_version(x509, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x509), serial);
    X509_gmtime_adj(X509_getm_notBefore(x509), 0);
    X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
    X509_set_pubkey(x509, key);
    if (with_key_id) {
        X509_EXTENSION *key_id;

        X509V3_set_ctx(&ctx, x509, x509, NULL, NULL, 0);
        key_id = X509V3_EXT_conf_nid(NULL, &ctx, NID_subject_key_identifier, "hash");
        X509_add_ext(x509, key_id, -1);
        X509_EXTENSION_free(key_id);
    }
    assert_true(X509_sign(x509, key, EVP_sha256()) > 0);
    return x509;
}

static int group_setup(void **state)
{
    (void)state;
    apr_initialize();
    apr_pool_create(&root_pool, NULL);
    signers[0].key = EVP_RSA_gen(2048);
    signers[1].key = EVP_EC_gen("P-256");
    signers[2].key = EVP_EC_gen("P-384");
    for (size_t i = 0; i < ARRAY_SIZE(signers); i++) {
        signers[i].x509 = make_certificate(signers[i].key, (int)i + 1, 1);
    }
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(signers); i++) {
        X509_free(signers[i].x509);
        EVP_PKEY_free(signers[i].key);
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

/* ---- making messages ---- */

static CMS_ContentInfo *sign(const signer_fixture_t *signer, const EVP_MD *md, const char *body,
                             unsigned int flags)
{
    BIO *data = BIO_new_mem_buf(body, (int)strlen(body));
    CMS_ContentInfo *cms = CMS_sign(NULL, NULL, NULL, data, CMS_PARTIAL | CMS_BINARY | flags);

    assert_non_null(cms);
    assert_non_null(CMS_add1_signer(cms, signer->x509, signer->key, md, flags));
    assert_true(CMS_final(cms, data, NULL, CMS_BINARY | flags));
    BIO_free(data);
    return cms;
}

static message_t finish(CMS_ContentInfo *cms)
{
    unsigned char *der = NULL;
    message_t message;

    message.len = i2d_CMS_ContentInfo(cms, &der);
    assert_true(message.len > 0);
    message.ber = apr_pmemdup(pool, der, (apr_size_t)message.len);
    OPENSSL_free(der);
    CMS_ContentInfo_free(cms);
    return message;
}

static message_t make(const signer_fixture_t *signer, const EVP_MD *md, unsigned int flags)
{
    return finish(sign(signer, md, BODY, CMS_DETACHED | flags));
}

static X509_ALGOR *algorithm_of(CMS_ContentInfo *cms)
{
    X509_ALGOR *algorithm;

    CMS_SignerInfo_get0_algs(sk_CMS_SignerInfo_value(CMS_get0_SignerInfos(cms), 0), NULL, NULL,
                             NULL, &algorithm);
    return algorithm;
}

/* Write one element at `to`, constructed ones with indefinite lengths, if `split` octet strings in
 * pieces of 20 bytes. The certificates and the signed attributes stay as they are: their DER is
 * signed.
 */
static unsigned char *write_ber(unsigned char *to, const unsigned char *der, long len, int depth,
                                int split)
{
    const unsigned char *end = der + len;

    while (der < end) {
        const unsigned char *at = der;
        long content;
        int tag, class, flags;

        flags = ASN1_get_object(&at, &content, &tag, &class, (long)(end - at));
        assert_false(flags & 0x81);
        if (flags & V_ASN1_CONSTRUCTED && !(*der == 0xA0 && (depth == 3 || depth == 5))) {
            *to++ = *der;
            *to++ = 0x80;
            to = write_ber(to, at, content, depth + 1, split);
            memset(to, 0, 2);
            to += 2;
        } else if (split && *der == V_ASN1_OCTET_STRING) {
            memcpy(to, "\x24\x80", 2);
            to += 2;
            for (long done = 0; done < content; done += 20) {
                long n = content - done < 20 ? content - done : 20;

                *to++ = V_ASN1_OCTET_STRING;
                *to++ = (unsigned char)n;
                memcpy(to, at + done, (size_t)n);
                to += n;
            }
            memset(to, 0, 2);
            to += 2;
        } else {
            memcpy(to, der, (size_t)(at + content - der));
            to += at + content - der;
        }
        der = at + content;
    }
    return to;
}

static message_t to_ber(message_t der, int split)
{
    message_t message;

    message.ber = apr_palloc(pool, 4 * (apr_size_t)der.len);
    message.len = (int)(write_ber(message.ber, der.ber, der.len, 0, split) - message.ber);
    return message;
}

static char *encode(message_t message)
{
    char *text = apr_palloc(pool, (apr_size_t)message.len * 4 / 3 + 5);

    EVP_EncodeBlock((unsigned char *)text, message.ber, message.len);
    return text;
}

/* ---- expectations ---- */

static void assert_good(const char *header, const char *body, const X509 *x509, const char *what)
{
    trust_certificate_t *cert = NULL;
    const char *why = "no reason";

    if (trust_signature_verify(&cert, header, body, strlen(body), &why, pool)) {
        fail_msg("%s: %s", what, why);
    }
    assert_int_equal(X509_cmp(cert->x509, x509), 0);
    assert_int_equal(strlen(cert->sha256), 64);
}

static void assert_refused_for(const char *header, const char *body, const char *reason)
{
    trust_certificate_t *cert = NULL;
    const char *why = "";

    assert_int_equal(trust_signature_verify(&cert, header, body, strlen(body), &why, pool),
                     MDM_EINPUT);
    if (!strstr(why, reason)) {
        fail_msg("\"%s\" does not say \"%s\"", why, reason);
    }
    assert_null(strchr(why, '\n'));
    assert_null(cert);
}

static void assert_refused(message_t message, const char *reason)
{
    assert_refused_for(encode(message), BODY, reason);
}

/* ---- what is accepted ---- */

static void try_forms(const signer_fixture_t *signer, message_t message, const char *what)
{
    assert_good(encode(message), BODY, signer->x509, apr_pstrcat(pool, what, " DER", NULL));
    assert_good(encode(to_ber(message, 0)), BODY, signer->x509,
                apr_pstrcat(pool, what, " indefinite", NULL));
    assert_good(encode(to_ber(message, 1)), BODY, signer->x509,
                apr_pstrcat(pool, what, " split", NULL));
    assert_refused_for(encode(message), BODY " ", "does not verify");
    assert_refused_for(encode(message), "", "does not verify");
}

static void test_accepted(void **state)
{
    static const struct {
        const EVP_MD *(*md)(void);
        const char *name;
    } digests[] = {{EVP_sha1, "SHA-1"},
                   {EVP_sha256, "SHA-256"},
                   {EVP_sha384, "SHA-384"},
                   {EVP_sha512, "SHA-512"}};
    static const struct {
        unsigned int flags;
        const char *name;
    } kinds[] = {{0, "attributes"},
                 {CMS_NOATTR, "no attributes"},
                 {CMS_USE_KEYID, "attributes, key id"},
                 {CMS_NOATTR | CMS_USE_KEYID, "no attributes, key id"},
                 {CMS_NOSMIMECAP, "few attributes"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(signers); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(digests); j++) {
            for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
                try_forms(&signers[i], make(&signers[i], digests[j].md(), kinds[k].flags),
                          apr_psprintf(pool, "%s %s %s", signers[i].name, digests[j].name,
                                       kinds[k].name));
            }
        }
    }
}

/* The signature's algorithm may name the digest or leave it out. */
static void test_algorithms(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(signers); i++) {
        const signer_fixture_t *signer = &signers[i];

        for (unsigned int flags = 0; flags <= CMS_NOATTR; flags += CMS_NOATTR) {
            CMS_ContentInfo *cms = sign(signer, EVP_sha256(), BODY, CMS_DETACHED | flags);

            X509_ALGOR_set0(algorithm_of(cms), OBJ_nid2obj(signer->plain), V_ASN1_NULL, NULL);
            try_forms(signer, finish(cms), "plain");
            cms = sign(signer, EVP_sha256(), BODY, CMS_DETACHED | flags);
            X509_ALGOR_set0(algorithm_of(cms), OBJ_nid2obj(signer->with_sha256), V_ASN1_UNDEF,
                            NULL);
            try_forms(signer, finish(cms), "with digest");
            cms = sign(signer, EVP_sha384(), BODY, CMS_DETACHED | flags);
            X509_ALGOR_set0(algorithm_of(cms), OBJ_nid2obj(signer->with_sha256), V_ASN1_NULL, NULL);
            assert_refused(finish(cms), "does not fit its digest");
            cms = sign(signer, EVP_sha256(), BODY, CMS_DETACHED | flags);
            X509_ALGOR_set0(algorithm_of(cms), OBJ_nid2obj(signers[i == 0].plain), V_ASN1_NULL,
                            NULL);
            assert_refused(finish(cms), "does not fit its digest");
        }
    }
}

static void test_empty_body(void **state)
{
    trust_certificate_t *cert;
    const char *why;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(signers); i++) {
        for (unsigned int flags = 0; flags <= CMS_NOATTR; flags += CMS_NOATTR) {
            message_t message = finish(sign(&signers[i], EVP_sha1(), "", CMS_DETACHED | flags));

            assert_good(encode(message), "", signers[i].x509, "empty body");
            assert_int_equal(trust_signature_verify(&cert, encode(message), NULL, 0, &why, pool),
                             0);
            assert_refused(message, "does not verify");
        }
    }
}

static void test_absent(void **state)
{
    static const char *const headers[] = {NULL, "", " ", " \t\r\n"};
    trust_certificate_t *cert;
    const char *why;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
        assert_int_equal(trust_signature_verify(&cert, headers[i], BODY, 5, &why, pool),
                         APR_ENOENT);
    }
}

static void test_spaces_and_padding(void **state)
{
    message_t message = to_ber(make(&signers[0], EVP_sha1(), CMS_NOATTR), 0);
    char *text = encode(message), *folded = apr_palloc(pool, 2 * strlen(text) + 10), *to = folded;
    message_t padded = {apr_pcalloc(pool, (apr_size_t)message.len + 9), message.len + 9};

    (void)state;
    to = apr_cpystrn(to, " \t", 3);
    for (size_t i = 0; text[i]; i++) {
        *to++ = text[i];
        if (i % 60 == 59) {
            to = apr_cpystrn(to, i % 120 == 59 ? "\r\n\t" : " ", 4);
        }
    }
    apr_cpystrn(to, " \r\n", 4);
    assert_good(folded, BODY, signers[0].x509, "folded");
    memcpy(padded.ber, message.ber, (size_t)message.len);
    assert_good(encode(padded), BODY, signers[0].x509, "zero bytes after it");
    padded.ber[padded.len - 1] = 1;
    assert_refused(padded, "bytes after");
    padded.ber[padded.len - 1] = 0;
    padded.ber[message.len] = 0x30;
    assert_refused(padded, "bytes after");
}

/* Certificates that are not the signer's, before and after it, do not disturb. */
static void test_more_certificates(void **state)
{
    X509 *same_serial = make_certificate(signers[1].key, 1, 0);
    CMS_ContentInfo *cms = sign(&signers[0], EVP_sha256(), BODY, CMS_DETACHED);

    (void)state;
    assert_true(CMS_add1_cert(cms, signers[1].x509));
    assert_true(CMS_add1_cert(cms, signers[2].x509));
    try_forms(&signers[0], finish(cms), "three certificates");
    /* the same issuer and serial number, but another key: whichever is first counts */
    cms = sign(&signers[0], EVP_sha256(), BODY, CMS_DETACHED | CMS_NOCERTS);
    assert_true(CMS_add1_cert(cms, same_serial));
    assert_refused(finish(cms), "does not fit its digest");
    cms = sign(&signers[0], EVP_sha256(), BODY, CMS_DETACHED);
    for (int i = 10; i < 26; i++) {
        X509 *more = make_certificate(signers[1].key, i, 0);

        assert_true(CMS_add1_cert(cms, more));
        X509_free(more);
    }
    assert_refused(finish(cms), "too many certificates");
    X509_free(same_serial);
}

static unsigned char *find(message_t message, const unsigned char *part, size_t len)
{
    for (int i = 0; i + (int)len <= message.len; i++) {
        if (!memcmp(message.ber + i, part, len)) {
            return message.ber + i;
        }
    }
    fail_msg("not in the message");
    return NULL;
}

/* The signed attributes of `cms` in reversed order, as a SET OF. */
static message_t reversed_attributes(CMS_SignerInfo *signer, message_t *in_order)
{
    message_t set = {apr_palloc(pool, 512), 3};

    in_order->ber = apr_palloc(pool, 512);
    in_order->len = 0;
    for (int i = CMS_signed_get_attr_count(signer) - 1; i >= 0; i--) {
        unsigned char *at = set.ber + set.len;

        set.len += i2d_X509_ATTRIBUTE(CMS_signed_get_attr(signer, i), &at);
    }
    for (int i = 0; i < CMS_signed_get_attr_count(signer); i++) {
        unsigned char *at = in_order->ber + in_order->len;

        in_order->len += i2d_X509_ATTRIBUTE(CMS_signed_get_attr(signer, i), &at);
    }
    assert_in_range(set.len, 128 + 3, 255 + 3);
    set.ber[0] = V_ASN1_SET | V_ASN1_CONSTRUCTED;
    set.ber[1] = 0x81;
    set.ber[2] = (unsigned char)(set.len - 3);
    return set;
}

/* DER sorts what is signed; whoever does not sort what he sends may or may not have signed it
 * sorted.
 */
static void test_attribute_order(void **state)
{
    CMS_ContentInfo *cms = sign(&signers[0], EVP_sha256(), BODY, CMS_DETACHED);
    CMS_SignerInfo *signer = sk_CMS_SignerInfo_value(CMS_get0_SignerInfos(cms), 0);
    message_t in_order, set, message;
    unsigned char old[256], *at, *signature;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    size_t len = sizeof(old);

    (void)state;
    set = reversed_attributes(signer, &in_order);
    memcpy(old, ASN1_STRING_get0_data(CMS_SignerInfo_get0_signature(signer)), sizeof(old));
    message = finish(cms);
    at = find(message, in_order.ber, (size_t)in_order.len);
    signature = find(message, old, sizeof(old));
    assert_memory_not_equal(at, set.ber + 3, (size_t)in_order.len);
    memcpy(at, set.ber + 3, (size_t)in_order.len);
    try_forms(&signers[0], message, "sent in another order");
    assert_true(EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, signers[0].key));
    assert_true(EVP_DigestSign(ctx, signature, &len, set.ber, (size_t)set.len));
    EVP_MD_CTX_free(ctx);
    try_forms(&signers[0], message, "signed in another order");
}

/* ---- what is refused ---- */

static void test_not_base64(void **state)
{
    char *text = encode(make(&signers[1], EVP_sha256(), 0));
    char *broken = apr_pstrdup(pool, text);

    (void)state;
    assert_refused_for("not a signature", BODY, "not base64");
    assert_refused_for("MIAG=", BODY, "not base64");
    assert_refused_for("MIAGC", BODY, "not base64");
    assert_refused_for("====", BODY, "not base64");
    assert_refused_for(apr_pstrcat(pool, text, "====", NULL), BODY, "not base64");
    assert_refused_for(apr_pstrcat(pool, "=", text, NULL), BODY, "not base64");
    broken[8] = '-';
    assert_refused_for(broken, BODY, "not base64");
    broken[8] = '\v';
    assert_refused_for(broken, BODY, "not base64");
    broken[8] = '=';
    assert_refused_for(broken, BODY, "not base64");
    broken[8] = '\xC3';
    assert_refused_for(broken, BODY, "not base64");
}

static void test_shape(void **state)
{
    CMS_ContentInfo *cms;

    (void)state;
    /* content inside counts for nothing: the signature is held against the body */
    assert_good(encode(finish(sign(&signers[0], EVP_sha256(), BODY, 0))), BODY, signers[0].x509,
                "content inside");
    assert_refused(finish(sign(&signers[0], EVP_sha256(), "other", 0)), "does not verify");
    assert_refused(make(&signers[0], EVP_sha256(), CMS_NOCERTS), "no certificate");
    cms = sign(&signers[0], EVP_sha256(), BODY, CMS_DETACHED | CMS_NOCERTS);
    assert_true(CMS_add1_cert(cms, signers[1].x509));
    assert_refused(finish(cms), "not in the signature");
    assert_refused(make(&signers[0], EVP_md5(), 0), "digest is not SHA-1");
    assert_refused(make(&signers[0], EVP_md5(), CMS_NOATTR), "digest is not SHA-1");
    assert_refused(make(&signers[0], EVP_sha224(), 0), "digest is not SHA-1");
    assert_refused((message_t){(unsigned char *)"\x30\x03\x02\x01\x05", 5}, "not a CMS");
    assert_refused((message_t){(unsigned char *)"\x02\x01\x05", 3}, "not a CMS");
    assert_refused((message_t){(unsigned char *)"\x30\x00", 2}, "not a CMS");
}

static void test_two_signers(void **state)
{
    BIO *data = BIO_new_mem_buf(BODY, -1);
    CMS_ContentInfo *cms =
        CMS_sign(NULL, NULL, NULL, data, CMS_PARTIAL | CMS_BINARY | CMS_DETACHED);

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        assert_non_null(CMS_add1_signer(cms, signers[i].x509, signers[i].key, EVP_sha256(), 0));
    }
    assert_true(CMS_final(cms, data, NULL, CMS_BINARY | CMS_DETACHED));
    BIO_free(data);
    assert_refused(finish(cms), "exactly one signer");
    /* none at all, as a certificates-only message has it */
    cms = CMS_sign(NULL, NULL, NULL, NULL, CMS_PARTIAL | CMS_BINARY | CMS_DETACHED);
    assert_true(CMS_add1_cert(cms, signers[0].x509));
    assert_refused(finish(cms), "exactly one signer");
}

/* A signer whose messageDigest or contentType attribute is missing, double or another. */
static void test_attributes(void **state)
{
    static const int nids[] = {NID_pkcs9_contentType, NID_pkcs9_messageDigest};
    static const char *const reasons[] = {"contentType", "messageDigest"};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(nids); i++) {
        CMS_ContentInfo *cms = sign(&signers[0], EVP_sha256(), BODY, CMS_DETACHED);
        CMS_SignerInfo *signer = sk_CMS_SignerInfo_value(CMS_get0_SignerInfos(cms), 0);
        int at = CMS_signed_get_attr_by_NID(signer, nids[i], -1);
        X509_ATTRIBUTE *attribute = CMS_signed_get_attr(signer, at);
        message_t der = {apr_palloc(pool, 256), 0}, message;
        unsigned char *to = der.ber;

        der.len = i2d_X509_ATTRIBUTE(attribute, &to);
        message = finish(cms);
        to = find(message, der.ber, (size_t)der.len);
        to[12] ^= 0x40; /* the attribute's OID: now it is another */
        assert_refused(message, reasons[i]);
        to[12] ^= 0x40;
        to[der.len - 1] ^= 1;
        assert_refused(message, i ? "body is not the signed one" : "contentType");
    }
}

static void test_wrong_key(void **state)
{
    signer_fixture_t mixed = signers[1];
    EVP_PKEY *small = EVP_RSA_gen(512), *curve = EVP_EC_gen("secp256k1");
    signer_fixture_t others[] = {{"RSA 512", small, make_certificate(small, 9, 1), 0, 0},
                                 {"secp256k1", curve, make_certificate(curve, 9, 1), 0, 0}};
    EVP_PKEY *key = EVP_EC_gen("P-256");
    CMS_ContentInfo *cms;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        assert_refused(make(&others[i], EVP_sha1(), CMS_NOATTR), "key is not");
        X509_free(others[i].x509);
        EVP_PKEY_free(others[i].key);
    }
    /* a stranger's signature under someone's certificate: both have no name and this serial */
    mixed.key = key;
    mixed.x509 = make_certificate(key, 2, 0);
    cms = sign(&mixed, EVP_sha256(), BODY, CMS_DETACHED | CMS_NOCERTS);
    assert_true(CMS_add1_cert(cms, signers[1].x509));
    assert_refused(finish(cms), "does not verify");
    X509_free(mixed.x509);
    EVP_PKEY_free(key);
}

static void test_flipped_bits(void **state)
{
    for (unsigned int flags = 0; flags <= CMS_NOATTR; flags += CMS_NOATTR) {
        CMS_ContentInfo *cms = sign(&signers[1], EVP_sha256(), BODY, CMS_DETACHED | flags);
        CMS_SignerInfo *signer = sk_CMS_SignerInfo_value(CMS_get0_SignerInfos(cms), 0);
        const ASN1_STRING *signature = CMS_SignerInfo_get0_signature(signer);
        int len = ASN1_STRING_length(signature);
        unsigned char *copy = apr_pmemdup(pool, ASN1_STRING_get0_data(signature), (apr_size_t)len);
        message_t message = finish(cms);
        unsigned char *at = find(message, copy, (size_t)len);

        for (int bit = 0; bit < 8 * len; bit++) {
            at[bit / 8] ^= (unsigned char)(1 << bit % 8);
            assert_refused(message, "does not verify");
            at[bit / 8] ^= (unsigned char)(1 << bit % 8);
        }
        assert_good(encode(message), BODY, signers[1].x509, "not flipped");
    }
    (void)state;
}

/* Whatever else is flipped: no crash, no leak, nothing left in OpenSSL's queue; and never another
 * certificate than one that made the signature.
 */
static void test_flipped_anywhere(void **state)
{
    message_t message = to_ber(make(&signers[1], EVP_sha256(), 0), 1);
    trust_certificate_t *cert;
    const char *why;

    (void)state;
    for (int bit = 0; bit < 8 * message.len; bit++) {
        message.ber[bit / 8] ^= (unsigned char)(1 << bit % 8);
        if (!trust_signature_verify(&cert, encode(message), BODY, sizeof(BODY) - 1, &why, pool)) {
            assert_true(EVP_PKEY_eq(X509_get0_pubkey(cert->x509), signers[1].key));
        }
        assert_int_equal(ERR_peek_error(), 0);
        message.ber[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    for (int len = 1; len < message.len; len++) {
        assert_refused((message_t){message.ber, len}, "signature");
    }
}

static void test_nesting(void **state)
{
    message_t deep = {apr_pcalloc(pool, 1024), 0};
    const size_t depth = TRUST_SIGNATURE_DEPTH;

    (void)state;
    for (size_t i = 0; i <= depth; i++) {
        memcpy(deep.ber + 2 * i, "\x30\x80", 2);
    }
    deep.len = 4 * ((int)depth + 1);
    assert_refused(deep, "nested too deeply");
    deep.len = 4 * (int)depth;
    memset(deep.ber + 2 * depth, 0, 2);
    assert_refused(deep, "not a CMS");
    deep.len--;
    assert_refused(deep, "cut off");
    for (size_t i = 0; i <= depth; i++) {
        deep.ber[2 * i] = 0x30;
        deep.ber[2 * i + 1] = (unsigned char)(2 * (depth - i) > 127 ? 0x80 : 2 * (depth - i));
    }
    memset(deep.ber + 2 * depth + 2, 0, 2); /* the outermost has an indefinite length */
    deep.len = 2 * (int)depth + 4;
    assert_refused(deep, "nested too deeply");
}

static void test_broken_ber(void **state)
{
    static const struct {
        const char *ber;
        int len;
        const char *reason;
    } cases[] = {
        {"\x30", 1, "broken"},
        {"\x30\x80", 2, "broken"},
        {"\x30\x05\x02\x01\x05", 5, "broken"},
        {"\x30\x03\x02\x02\x05\x05", 6, "broken"},             /* longer than what it is in */
        {"\x30\x04\x30\x80\x02\x01\x05\x00\x00", 9, "broken"}, /* so, with an indefinite one */
        {"\x30\x84\xff\xff\xff\xff\x00", 7, "broken"},
        {"\x30\x88\x7f\xff\xff\xff\xff\xff\xff\xff\x00", 11, "broken"},
        {"\x30\x89\x01\x00\x00\x00\x00\x00\x00\x00\x00", 11, "broken"},
        {"\x04\x80\x00\x00", 4, "broken"}, /* primitive and indefinite */
        {"\x3f\xff\xff\xff\xff\xff\xff\x00", 8, "broken"},
        {"\x00\x00\x00", 3, "misplaced"},
        {"\x30\x02\x00\x00", 4, "misplaced"},
        {"\x30\x80\x00\x01\x00\x00\x00", 7, "misplaced"},
        {"\x30\x80\x00\x81\x00\x00\x00", 7, "misplaced"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_refused((message_t){(unsigned char *)cases[i].ber, cases[i].len}, cases[i].reason);
    }
}

static void test_size(void **state)
{
    message_t message = make(&signers[0], EVP_sha1(), 0);
    message_t large = {apr_pcalloc(pool, TRUST_SIGNATURE_MAX + 1), TRUST_SIGNATURE_MAX};
    char *huge = apr_palloc(pool, 1000001);

    (void)state;
    memcpy(large.ber, message.ber, (size_t)message.len);
    assert_good(encode(large), BODY, signers[0].x509, "as large as can be");
    large.len++;
    assert_refused(large, "too large");
    memset(huge, 'A', 1000000);
    huge[1000000] = '\0';
    assert_refused_for(huge, BODY, "too large");
}

/* ---- what real devices sent ---- */

static const char *read_sample(const char *name)
{
    const char *path = apr_pstrcat(pool, getenv("NANOMDM_SAMPLES"), "/", name, NULL);
    char *text = apr_pcalloc(pool, 65536);
    apr_size_t len;
    apr_file_t *file;

    assert_int_equal(apr_file_open(&file, path, APR_FOPEN_READ, APR_FPROT_OS_DEFAULT, pool), 0);
    apr_file_read_full(file, text, 65535, &len);
    apr_file_close(file);
    return text;
}

static void test_samples(void **state)
{
    trust_certificate_t *cert;
    const char *why = "no reason", *header, *body;

    (void)state;
    if (!getenv("NANOMDM_SAMPLES")) {
        skip();
    }
    assert_refused_for(read_sample("device-signature-1.b64"), BODY, "does not verify");
    header = read_sample("device-signature-2.b64");
    body = read_sample("device-signature-2.body.plist");
    if (trust_signature_verify(&cert, header, body, strlen(body), &why, pool)) {
        fail_msg("%s", why);
    }
    assert_refused_for(header, apr_pstrcat(pool, body, "\n", NULL), "does not verify");
}

/* ---- threads ---- */

static const char *thread_headers[ARRAY_SIZE(signers)];

static void *APR_THREAD_FUNC verify_often(apr_thread_t *thread, void *data)
{
    apr_status_t rv = APR_SUCCESS;
    apr_pool_t *own;

    (void)thread;
    apr_pool_create_unmanaged(&own);
    for (size_t i = 0; i < 300 && !rv; i++) {
        trust_certificate_t *cert;
        const char *why;

        rv = trust_signature_verify(&cert, thread_headers[i % ARRAY_SIZE(signers)], BODY,
                                    sizeof(BODY) - 1, &why, own);
        apr_pool_clear(own);
    }
    apr_pool_destroy(own);
    *(apr_status_t *)data = rv;
    return NULL;
}

static void test_threads(void **state)
{
    apr_thread_t *threads[4];
    apr_status_t results[4] = {APR_EGENERAL, APR_EGENERAL, APR_EGENERAL, APR_EGENERAL};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(signers); i++) {
        thread_headers[i] = encode(make(&signers[i], EVP_sha256(), CMS_NOATTR));
    }
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
        assert_int_equal(apr_thread_create(&threads[i], NULL, verify_often, &results[i], pool), 0);
    }
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
        apr_status_t ignored;

        apr_thread_join(&ignored, threads[i]);
        assert_int_equal(results[i], APR_SUCCESS);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_accepted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_algorithms, setup, teardown),
        cmocka_unit_test_setup_teardown(test_empty_body, setup, teardown),
        cmocka_unit_test_setup_teardown(test_absent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_spaces_and_padding, setup, teardown),
        cmocka_unit_test_setup_teardown(test_more_certificates, setup, teardown),
        cmocka_unit_test_setup_teardown(test_attribute_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_base64, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shape, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_signers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_attributes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flipped_bits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flipped_anywhere, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nesting, setup, teardown),
        cmocka_unit_test_setup_teardown(test_broken_ber, setup, teardown),
        cmocka_unit_test_setup_teardown(test_size, setup, teardown),
        cmocka_unit_test_setup_teardown(test_samples, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
    };

    return cmocka_run_group_tests_name("signature", tests, group_setup, group_teardown);
}
