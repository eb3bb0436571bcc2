/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns the Mdm-Signature: from the header's value to the certificate that signed the body. Must
 * not know who issued that certificate or whether it is still valid.
 *
 * OpenSSL's CMS code decodes every certificate of every message, which costs more than all the
 * rest. The templates below leave certificates opaque, so that those seen before are not decoded
 * again; everything is still read by OpenSSL's ASN.1 code and verified by its EVP.
 */
#include <string.h>

#include <apr_strings.h>
#include <openssl/asn1t.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>

#include "certificate.h"

/* A message has one certificate or a short chain. */
#define MAX_CERTIFICATES 16

/* RFC 5652, section 5, as far as it matters here. */
typedef struct issuer_serial_t {
    X509_NAME *issuer;
    ASN1_INTEGER *serial;
} issuer_serial_t;

typedef struct signer_id_t {
    int type; /* 0: issuer and serial number, 1: subject key identifier */
    union {
        issuer_serial_t *issuer_serial;
        ASN1_OCTET_STRING *key_id;
    } d;
} signer_id_t;

typedef struct signer_t {
    ASN1_INTEGER *version; /* cppcheck-suppress unusedStructMember */
    signer_id_t *id;
    X509_ALGOR *digest;
    STACK_OF(X509_ATTRIBUTE) * attributes; /* the signed ones */
    X509_ALGOR *algorithm;
    ASN1_OCTET_STRING *signature;
    STACK_OF(ASN1_TYPE) * unsigned_attributes;
} signer_t;

typedef struct encapsulated_t {
    ASN1_OBJECT *type;
    ASN1_TYPE *content;
} encapsulated_t;

typedef struct signed_data_t {
    ASN1_INTEGER *version; /* cppcheck-suppress unusedStructMember */
    STACK_OF(ASN1_TYPE) * digests;
    encapsulated_t *encapsulated;
    STACK_OF(ASN1_TYPE) * certificates;
    STACK_OF(ASN1_TYPE) * crls;
    STACK_OF(signer_t) * signers;
} signed_data_t;

typedef struct content_info_t {
    ASN1_OBJECT *type;
    signed_data_t *data;
} content_info_t;

/* cppcheck does not know these macros and would give up on the file: run it with -D__cppcheck__ */
#ifndef __cppcheck__
DEFINE_STACK_OF(signer_t)

/* clang-format off */
ASN1_SEQUENCE(issuer_serial_t) = {
    ASN1_SIMPLE(issuer_serial_t, issuer, X509_NAME),
    ASN1_SIMPLE(issuer_serial_t, serial, ASN1_INTEGER),
} static_ASN1_SEQUENCE_END(issuer_serial_t)

ASN1_CHOICE(signer_id_t) = {
    ASN1_SIMPLE(signer_id_t, d.issuer_serial, issuer_serial_t),
    ASN1_IMP(signer_id_t, d.key_id, ASN1_OCTET_STRING, 0),
} static_ASN1_CHOICE_END(signer_id_t)

ASN1_SEQUENCE(signer_t) = {
    ASN1_SIMPLE(signer_t, version, ASN1_INTEGER),
    ASN1_SIMPLE(signer_t, id, signer_id_t),
    ASN1_SIMPLE(signer_t, digest, X509_ALGOR),
    ASN1_IMP_SET_OF_OPT(signer_t, attributes, X509_ATTRIBUTE, 0),
    ASN1_SIMPLE(signer_t, algorithm, X509_ALGOR),
    ASN1_SIMPLE(signer_t, signature, ASN1_OCTET_STRING),
    ASN1_IMP_SET_OF_OPT(signer_t, unsigned_attributes, ASN1_ANY, 1),
} static_ASN1_SEQUENCE_END(signer_t)

ASN1_SEQUENCE(encapsulated_t) = {
    ASN1_SIMPLE(encapsulated_t, type, ASN1_OBJECT),
    ASN1_EXP_OPT(encapsulated_t, content, ASN1_ANY, 0),
} static_ASN1_SEQUENCE_END(encapsulated_t)

ASN1_SEQUENCE(signed_data_t) = {
    ASN1_SIMPLE(signed_data_t, version, ASN1_INTEGER),
    ASN1_SET_OF(signed_data_t, digests, ASN1_ANY),
    ASN1_SIMPLE(signed_data_t, encapsulated, encapsulated_t),
    ASN1_IMP_SET_OF_OPT(signed_data_t, certificates, ASN1_ANY, 0),
    ASN1_IMP_SET_OF_OPT(signed_data_t, crls, ASN1_ANY, 1),
    ASN1_SET_OF(signed_data_t, signers, signer_t),
} static_ASN1_SEQUENCE_END(signed_data_t)

ASN1_SEQUENCE(content_info_t) = {
    ASN1_SIMPLE(content_info_t, type, ASN1_OBJECT),
    ASN1_EXP(content_info_t, data, signed_data_t, 0),
} static_ASN1_SEQUENCE_END(content_info_t)

/* What is signed is a SET OF, not the [0] of the message. DER sorts it; signers that do not sort
 * sign what they send.
 */
ASN1_ITEM_TEMPLATE(sorted_attributes) =
    ASN1_EX_TEMPLATE_TYPE(ASN1_TFLG_SET_ORDER, 0, attributes, X509_ATTRIBUTE)
static_ASN1_ITEM_TEMPLATE_END(sorted_attributes)

ASN1_ITEM_TEMPLATE(unsorted_attributes) =
    ASN1_EX_TEMPLATE_TYPE(ASN1_TFLG_SEQUENCE_OF | ASN1_TFLG_IMPTAG | ASN1_TFLG_UNIVERSAL,
                          V_ASN1_SET, attributes, X509_ATTRIBUTE)
static_ASN1_ITEM_TEMPLATE_END(unsorted_attributes)
#endif

/* An element that the walk below is inside of. */
typedef struct open_element_t {
    const unsigned char *end; /* where it ends, or what encloses it does if indefinite */
    int indefinite;
} open_element_t;
/* clang-format on */

/* Walk one BER element before anything is decoded: every length must fit into what encloses it,
 * and nothing may nest deeper than TRUST_SIGNATURE_DEPTH.
 *
 * @param total  the element's length
 * @return NULL, or what is wrong
 */
static const char *walk(const unsigned char *ber, apr_size_t len, apr_size_t *total)
{
    open_element_t open[TRUST_SIGNATURE_DEPTH];
    const unsigned char *at = ber, *end = ber + len;
    int depth = 0;

    do {
        const unsigned char *header = at;
        long content;
        int tag, class, flags;

        flags = ASN1_get_object(&at, &content, &tag, &class, (long)(end - at));
        if (flags & 0x80) {
            return "the signature's BER is broken or cut off";
        }
        if (class == V_ASN1_UNIVERSAL && tag == V_ASN1_EOC) {
            if (!depth || !open[depth - 1].indefinite || content || at - header != 2) {
                return "the signature's BER has a misplaced end of contents";
            }
            depth--;
        } else if (flags & V_ASN1_CONSTRUCTED) {
            if (depth == TRUST_SIGNATURE_DEPTH) {
                return "the signature's BER is nested too deeply";
            }
            open[depth].indefinite = flags & 1;
            open[depth].end = open[depth].indefinite ? end : at + content;
            depth++;
        } else {
            at += content;
        }
        while (depth && !open[depth - 1].indefinite && at == open[depth - 1].end) {
            depth--;
        }
        end = depth ? open[depth - 1].end : ber + len;
    } while (depth);
    *total = (apr_size_t)(at - ber);
    return NULL;
}

static int is_type(const ASN1_OBJECT *object, int nid)
{
    return OBJ_obj2nid(object) == nid;
}

/* From the decoded header to its structure, for the caller to free.
 *
 * @return NULL, with the reason in *why
 */
static content_info_t *parse(const unsigned char *ber, apr_size_t len, const char **why)
{
    const unsigned char *at = ber;
    apr_size_t total, i;
    ASN1_VALUE *value;

    *why = walk(ber, len, &total);
    if (*why) {
        return NULL;
    }
    /* some clients pad */
    for (i = total; i < len && !ber[i]; i++) {
    }
    if (i < len) {
        *why = "there are bytes after the signature";
        return NULL;
    }
    value = ASN1_item_d2i(NULL, &at, (long)total, ASN1_ITEM_rptr(content_info_t));
    if (!value || at != ber + total) {
        ASN1_item_free(value, ASN1_ITEM_rptr(content_info_t));
        *why = "the signature is not a CMS SignedData";
        return NULL;
    }
    return (content_info_t *)value;
}

/* @return NULL, or why this kind of SignedData is not accepted */
static const char *check_shape(const content_info_t *info)
{
    if (!is_type(info->type, NID_pkcs7_signed)) {
        return "the signature is not a CMS SignedData";
    }
    if (sk_signer_t_num(info->data->signers) != 1) {
        return "the signature does not have exactly one signer";
    }
    if (!info->data->certificates || !sk_ASN1_TYPE_num(info->data->certificates)) {
        return "the signature has no certificate";
    }
    if (sk_ASN1_TYPE_num(info->data->certificates) > MAX_CERTIFICATES) {
        return "the signature has too many certificates";
    }
    return NULL;
}

static int is_signers(const signer_id_t *id, const X509 *x509)
{
    if (id->type == 0) {
        return !X509_NAME_cmp(id->d.issuer_serial->issuer, X509_get_issuer_name(x509)) &&
               !ASN1_INTEGER_cmp(id->d.issuer_serial->serial, X509_get0_serialNumber(x509));
    } else {
        const ASN1_OCTET_STRING *key_id = X509_get0_subject_key_id((X509 *)x509);

        return key_id && !ASN1_OCTET_STRING_cmp(key_id, id->d.key_id);
    }
}

/* A certificate that does not decode is passed over: it may be a kind that is not X.509. */
static apr_status_t find_certificate(trust_certificate_t **out, const signed_data_t *data,
                                     const signer_id_t *id, const char **why, apr_pool_t *pool)
{
    const char *reason = NULL;

    for (int i = 0; i < sk_ASN1_TYPE_num(data->certificates); i++) {
        const ASN1_TYPE *any = sk_ASN1_TYPE_value(data->certificates, i);
        const ASN1_STRING *der;
        trust_certificate_t *cert;

        if (ASN1_TYPE_get(any) != V_ASN1_SEQUENCE) {
            continue;
        }
        der = any->value.sequence;
        if (trust_certificate_from_der(&cert, ASN1_STRING_get0_data(der),
                                       (apr_size_t)ASN1_STRING_length(der), &reason, pool)) {
            continue;
        }
        if (is_signers(id, cert->x509)) {
            *out = cert;
            return APR_SUCCESS;
        }
    }
    *why = reason ? apr_pstrcat(pool, "the signer's certificate is not readable: ", reason, NULL)
                  : "the signer's certificate is not in the signature";
    return MDM_EINPUT;
}

/* MD5 and weaker are left out, Apple's SHA-1 must work. */
static const EVP_MD *digest_of(const X509_ALGOR *algorithm)
{
    const ASN1_OBJECT *object;

    X509_ALGOR_get0(&object, NULL, NULL, algorithm);
    switch (OBJ_obj2nid(object)) {
    case NID_sha1:
        return EVP_sha1();
    case NID_sha256:
        return EVP_sha256();
    case NID_sha384:
        return EVP_sha384();
    case NID_sha512:
        return EVP_sha512();
    default:
        return NULL;
    }
}

/* The sizes keep a stranger's key from costing much: this runs before anyone is known. */
static int is_accepted_key(EVP_PKEY *key)
{
    char group[32];
    size_t len;

    switch (EVP_PKEY_get_base_id(key)) {
    case EVP_PKEY_RSA:
        return EVP_PKEY_get_bits(key) >= 1024 && EVP_PKEY_get_bits(key) <= 8192;
    case EVP_PKEY_EC:
        return EVP_PKEY_get_group_name(key, group, sizeof(group), &len) &&
               (!strcmp(group, SN_X9_62_prime256v1) || !strcmp(group, SN_secp384r1) ||
                !strcmp(group, SN_secp521r1));
    default:
        return 0;
    }
}

/* The algorithm may name the key's type alone, or with the digest. */
static int fits(const X509_ALGOR *algorithm, EVP_PKEY *key, const EVP_MD *md)
{
    const ASN1_OBJECT *object;
    int nid, digest_nid, key_nid;

    X509_ALGOR_get0(&object, NULL, NULL, algorithm);
    nid = OBJ_obj2nid(object);
    if (nid != NID_undef && OBJ_find_sigid_algs(nid, &digest_nid, &key_nid)) {
        return key_nid == EVP_PKEY_get_base_id(key) && digest_nid == EVP_MD_get_type(md);
    }
    return nid == EVP_PKEY_get_base_id(key);
}

/* @return the only value of the only attribute of this type, or NULL */
static const ASN1_TYPE *only_attribute(const signer_t *signer, int nid)
{
    X509_ATTRIBUTE *found = NULL;

    for (int i = 0; i < sk_X509_ATTRIBUTE_num(signer->attributes); i++) {
        X509_ATTRIBUTE *attribute = sk_X509_ATTRIBUTE_value(signer->attributes, i);

        if (is_type(X509_ATTRIBUTE_get0_object(attribute), nid)) {
            if (found) {
                return NULL;
            }
            found = attribute;
        }
    }
    return found && X509_ATTRIBUTE_count(found) == 1 ? X509_ATTRIBUTE_get0_type(found, 0) : NULL;
}

/* The attributes must say the content's type and the body's digest.
 *
 * @return NULL, or what is wrong
 */
static const char *check_attributes(const signer_t *signer, const ASN1_OBJECT *content_type,
                                    const EVP_MD *md, const char *body, apr_size_t body_len)
{
    const ASN1_TYPE *type = only_attribute(signer, NID_pkcs9_contentType);
    const ASN1_TYPE *digest = only_attribute(signer, NID_pkcs9_messageDigest);
    unsigned char computed[EVP_MAX_MD_SIZE];
    unsigned int len;

    if (!type || ASN1_TYPE_get(type) != V_ASN1_OBJECT ||
        OBJ_cmp(type->value.object, content_type)) {
        return "the signature's contentType attribute is missing or wrong";
    }
    if (!digest || ASN1_TYPE_get(digest) != V_ASN1_OCTET_STRING) {
        return "the signature's messageDigest attribute is missing or wrong";
    }
    if (!EVP_Digest(body, body_len, computed, &len, md, NULL)) {
        return "the body's digest cannot be computed";
    }
    if (ASN1_STRING_length(digest->value.octet_string) != (int)len ||
        CRYPTO_memcmp(ASN1_STRING_get0_data(digest->value.octet_string), computed, len) != 0) {
        return "the signature does not verify: the body is not the signed one";
    }
    return NULL;
}

static int verifies(const signer_t *signer, EVP_PKEY *key, const EVP_MD *md, const void *data,
                    apr_size_t len)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int good = ctx && EVP_DigestVerifyInit(ctx, NULL, md, NULL, key) == 1 &&
               EVP_DigestVerify(ctx, ASN1_STRING_get0_data(signer->signature),
                                (size_t)ASN1_STRING_length(signer->signature), data, len) == 1;

    EVP_MD_CTX_free(ctx);
    return good;
}

static int verifies_attributes(const signer_t *signer, EVP_PKEY *key, const EVP_MD *md,
                               const ASN1_ITEM *order)
{
    unsigned char *der = NULL;
    int len = ASN1_item_i2d((const ASN1_VALUE *)signer->attributes, &der, order);
    int good = len > 0 && verifies(signer, key, md, der, (apr_size_t)len);

    OPENSSL_free(der);
    return good;
}

/* @return NULL, or why the signature is not this key's over this body */
static const char *check_signer(const signer_t *signer, const ASN1_OBJECT *content_type,
                                EVP_PKEY *key, const char *body, apr_size_t body_len)
{
    const EVP_MD *md = digest_of(signer->digest);
    int good;

    if (!md) {
        return "the signature's digest is not SHA-1, SHA-256, SHA-384 or SHA-512";
    }
    if (!key || !is_accepted_key(key)) {
        return "the signer's key is not RSA of 1024 to 8192 bits or EC on P-256, P-384 or P-521";
    }
    if (!fits(signer->algorithm, key, md)) {
        return "the signature's algorithm does not fit its digest and the signer's key";
    }
    if (signer->attributes) {
        const char *wrong = check_attributes(signer, content_type, md, body, body_len);

        if (wrong) {
            return wrong;
        }
        good = verifies_attributes(signer, key, md, ASN1_ITEM_rptr(unsorted_attributes)) ||
               verifies_attributes(signer, key, md, ASN1_ITEM_rptr(sorted_attributes));
    } else {
        good = verifies(signer, key, md, body, body_len);
    }
    return good ? NULL : "the signature does not verify";
}

static apr_status_t verify(trust_certificate_t **out, const unsigned char *ber, apr_size_t len,
                           const char *body, apr_size_t body_len, const char **why,
                           apr_pool_t *pool)
{
    apr_status_t rv = MDM_EINPUT;
    trust_certificate_t *cert;
    const signer_t *signer;
    content_info_t *info = parse(ber, len, why);

    if (!info) {
        return MDM_EINPUT;
    }
    *why = check_shape(info);
    if (*why) {
        goto done;
    }
    signer = sk_signer_t_value(info->data->signers, 0);
    rv = find_certificate(&cert, info->data, signer->id, why, pool);
    if (rv) {
        goto done;
    }
    *why = check_signer(signer, info->data->encapsulated->type, X509_get0_pubkey(cert->x509), body,
                        body_len);
    if (*why) {
        rv = MDM_EINPUT;
        goto done;
    }
    *out = cert;
done:
    ASN1_item_free((ASN1_VALUE *)info, ASN1_ITEM_rptr(content_info_t));
    return rv;
}

apr_status_t trust_signature_verify(trust_certificate_t **out, const char *header, const char *body,
                                    apr_size_t body_len, const char **why, apr_pool_t *pool)
{
    unsigned char *ber;
    apr_size_t len;
    apr_status_t rv;

    if (!header || !header[strspn(header, TRUST_SPACES)]) {
        return APR_ENOENT;
    }
    /* twice leaves room for base64's third and a generous fold */
    if (strlen(header) > (apr_size_t)2 * TRUST_SIGNATURE_MAX) {
        *why = "the signature is too large";
        return MDM_EINPUT;
    }
    if (trust_base64_decode(&ber, &len, header, strlen(header), pool)) {
        *why = "the signature is not base64";
        return MDM_EINPUT;
    }
    if (len > TRUST_SIGNATURE_MAX) {
        *why = "the signature is too large";
        return MDM_EINPUT;
    }
    ERR_set_mark();
    rv = verify(out, ber, len, body ? body : "", body_len, why, pool);
    ERR_pop_to_mark();
    return rv;
}
