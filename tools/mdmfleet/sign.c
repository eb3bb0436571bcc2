/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* How a request says who sent it: an Mdm-Signature as Apple's devices make them (BER with
 * indefinite lengths, no signed attributes) or as other clients do (OpenSSL's CMS), or the
 * certificate itself in a header, in the forms that proxies use.
 */
#include <apr_strings.h>
#include <openssl/cms.h>
#include <openssl/objects.h>
#include <string.h>

#include "mdmfleet.h"

const char *fleet_base64(const unsigned char *data, size_t len, apr_pool_t *pool)
{
    unsigned char *out = apr_palloc(pool, (len + 2) / 3 * 4 + 1);
    EVP_EncodeBlock(out, data, (int)len);
    return (char *)out;
}

/* ---- Apple's form: written byte by byte, because OpenSSL's encoder has its own ------------ */

typedef struct bytes_t {
    const unsigned char *data;
    size_t len;
} bytes_t;

#define LITERAL(text) ((bytes_t){(const unsigned char *)(text), sizeof(text) - 1})

static bytes_t join(apr_pool_t *pool, const bytes_t *parts, int n)
{
    size_t len = 0;
    unsigned char *out, *p;
    for (int i = 0; i < n; i++)
        len += parts[i].len;
    out = p = apr_palloc(pool, len + 1);
    for (int i = 0; i < n; i++) {
        if (parts[i].len > 0)
            memcpy(p, parts[i].data, parts[i].len);
        p += parts[i].len;
    }
    return (bytes_t){out, len};
}

#define JOIN(pool, ...)                                                                            \
    join(pool, (const bytes_t[]){__VA_ARGS__},                                                     \
         (int)(sizeof((const bytes_t[]){__VA_ARGS__}) / sizeof(bytes_t)))

/* A definite-length element. */
static bytes_t element(apr_pool_t *pool, unsigned char tag, bytes_t content)
{
    unsigned char *head = apr_palloc(pool, 6);
    size_t n = 0, len = content.len;
    head[n++] = tag;
    if (len < 0x80) {
        head[n++] = (unsigned char)len;
    } else if (len < 0x100) {
        head[n++] = 0x81;
        head[n++] = (unsigned char)len;
    } else {
        head[n++] = 0x82;
        head[n++] = (unsigned char)(len >> 8);
        head[n++] = (unsigned char)len;
    }
    return JOIN(pool, {head, n}, content);
}

/* An element of indefinite length. */
static bytes_t indefinite(apr_pool_t *pool, unsigned char tag, bytes_t content)
{
    unsigned char *head = apr_palloc(pool, 2);
    head[0] = tag;
    head[1] = 0x80;
    return JOIN(pool, {head, 2}, content, {(const unsigned char *)"\0\0", 2});
}

static bytes_t oid(apr_pool_t *pool, int nid, int null_parameter)
{
    const ASN1_OBJECT *object = OBJ_nid2obj(nid);
    bytes_t id = element(pool, 0x06, (bytes_t){OBJ_get0_data(object), OBJ_length(object)});
    return null_parameter ? JOIN(pool, id, LITERAL("\x05\x00")) : id;
}

static bytes_t algorithm(apr_pool_t *pool, int nid, int null_parameter)
{
    return element(pool, 0x30, oid(pool, nid, null_parameter));
}

static bytes_t sign(EVP_PKEY *key, const EVP_MD *md, const char *body, size_t len, apr_pool_t *pool)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    size_t size = (size_t)EVP_PKEY_get_size(key);
    unsigned char *out = apr_palloc(pool, size);
    if (!ctx || EVP_DigestSignInit(ctx, NULL, md, NULL, key) <= 0 ||
        EVP_DigestSign(ctx, out, &size, (const unsigned char *)body, len) <= 0)
        fleet_die("OpenSSL cannot sign with this key and digest");
    EVP_MD_CTX_free(ctx);
    return (bytes_t){out, size};
}

/* issuerAndSerialNumber of the certificate. */
static bytes_t issuer_and_serial(const X509 *x509, apr_pool_t *pool)
{
    const unsigned char *name;
    size_t name_len;
    unsigned char *serial = NULL;
    int serial_len = i2d_ASN1_INTEGER(X509_get0_serialNumber(x509), &serial);
    bytes_t out;
    if (serial_len <= 0 || !X509_NAME_get0_der(X509_get_issuer_name(x509), &name, &name_len))
        fleet_die("OpenSSL cannot encode the certificate's issuer");
    out = element(pool, 0x30, JOIN(pool, {name, name_len}, {serial, (size_t)serial_len}));
    OPENSSL_free(serial);
    return out;
}

static const char *sign_as_apple(const fleet_device_t *device, EVP_PKEY *key, const X509 *x509,
                                 const EVP_MD *md, const char *body, size_t len, apr_pool_t *pool)
{
    int rsa = EVP_PKEY_is_a(key, "RSA");
    int md_nid = EVP_MD_get_type(md), with_nid;
    bytes_t digest = algorithm(pool, md_nid, 1);
    bytes_t scheme, signer, data, all;
    const bytes_t version = LITERAL("\x02\x01\x01");
    if (!OBJ_find_sigid_by_algs(&with_nid, md_nid, EVP_PKEY_get_base_id(key)))
        fleet_die("no signature algorithm for this key and digest");
    /* Both of these RSA names are seen from devices. */
    if (rsa)
        scheme = algorithm(pool, device->index % 2 ? with_nid : NID_rsaEncryption, 1);
    else
        scheme = algorithm(pool, with_nid, 0);
    signer = element(pool, 0x30,
                     JOIN(pool, version, issuer_and_serial(x509, pool), digest, scheme,
                          element(pool, 0x04, sign(key, md, body, len, pool))));
    data = indefinite(pool, 0x30,
                      JOIN(pool, version, element(pool, 0x31, digest),
                           indefinite(pool, 0x30, oid(pool, NID_pkcs7_data, 0)),
                           element(pool, 0xa0, (bytes_t){device->der, (size_t)device->der_len}),
                           element(pool, 0x31, signer)));
    all = indefinite(pool, 0x30,
                     JOIN(pool, oid(pool, NID_pkcs7_signed, 0), indefinite(pool, 0xa0, data)));
    return fleet_base64(all.data, all.len, pool);
}

/* ---- other clients' form ------------------------------------------------------------------ */

static const char *sign_as_cms(EVP_PKEY *key, X509 *x509, const EVP_MD *md, const char *body,
                               size_t len, apr_pool_t *pool)
{
    const unsigned flags = CMS_DETACHED | CMS_BINARY | CMS_NOSMIMECAP;
    BIO *in = BIO_new_mem_buf(body, (int)len);
    CMS_ContentInfo *cms = CMS_sign(NULL, NULL, NULL, in, flags | CMS_PARTIAL);
    unsigned char *der = NULL;
    const char *out;
    int der_len;
    if (!cms || !CMS_add1_signer(cms, x509, key, md, flags) || !CMS_final(cms, in, NULL, flags) ||
        (der_len = i2d_CMS_ContentInfo(cms, &der)) <= 0)
        fleet_die("OpenSSL cannot make a CMS signature with this key and digest");
    out = fleet_base64(der, (size_t)der_len, pool);
    OPENSSL_free(der);
    CMS_ContentInfo_free(cms);
    BIO_free(in);
    return out;
}

static const char *signature(const fleet_t *fleet, const fleet_device_t *device,
                             const fleet_options_t *opt, const char *body, size_t len,
                             apr_pool_t *pool)
{
    EVP_PKEY *key = APR_ARRAY_IDX(fleet->keys, device->key, EVP_PKEY *);
    const unsigned char *der = device->der;
    X509 *x509 = d2i_X509(NULL, &der, device->der_len);
    /* Apple's clients use SHA-1 with RSA keys; an EC key comes with newer ones. */
    const char *name = opt->digest                                     ? opt->digest
                       : opt->apple_style && EVP_PKEY_is_a(key, "RSA") ? "SHA1"
                                                                       : "SHA256";
    const EVP_MD *md = EVP_get_digestbyname(name);
    const char *out;
    if (!x509)
        fleet_die("the certificate of device %d cannot be read", device->index);
    if (!md)
        fleet_die("OpenSSL knows no digest %s", name);
    out = opt->apple_style ? sign_as_apple(device, key, x509, md, body, len, pool)
                           : sign_as_cms(key, x509, md, body, len, pool);
    X509_free(x509);
    return out;
}

/* ---- a certificate in a header ------------------------------------------------------------ */

static const char *pem(const fleet_device_t *device, char newline, apr_pool_t *pool)
{
    const char *text = fleet_base64(device->der, (size_t)device->der_len, pool);
    size_t len = strlen(text);
    char *out = apr_palloc(pool, len + len / 64 + 80), *p = out;
    p += apr_snprintf(p, 32, "-----BEGIN CERTIFICATE-----");
    *p++ = newline;
    for (size_t i = 0; i < len; i += 64) {
        size_t n = len - i < 64 ? len - i : 64;
        memcpy(p, text + i, n);
        p += n;
        *p++ = newline;
    }
    apr_snprintf(p, 32, "-----END CERTIFICATE-----%c", newline);
    return out;
}

static const char *percent(const char *text, apr_pool_t *pool)
{
    char *out = apr_palloc(pool, strlen(text) * 3 + 1), *p = out;
    for (; *text; text++) {
        if (strchr(" \n+/=", *text))
            p += apr_snprintf(p, 4, "%%%02X", (unsigned char)*text);
        else
            *p++ = *text;
    }
    *p = '\0';
    return out;
}

const char *fleet_identity_header(const fleet_t *fleet, const fleet_device_t *device,
                                  const fleet_options_t *opt, const char *body, size_t len,
                                  apr_pool_t *pool)
{
    const char *value;
    switch (opt->identity) {
    case FLEET_TLS:
        return NULL;
    case FLEET_SIGNATURE:
        return apr_pstrcat(pool, "Mdm-Signature: ", signature(fleet, device, opt, body, len, pool),
                           NULL);
    case FLEET_HEADER:
        break;
    }
    if (opt->header_format == FLEET_RFC9440)
        value = apr_pstrcat(pool, ":", fleet_base64(device->der, (size_t)device->der_len, pool),
                            ":", NULL);
    else if (opt->header_format == FLEET_PEM)
        value = percent(pem(device, '\n', pool), pool);
    else
        value = pem(device, ' ', pool);
    return apr_pstrcat(pool, opt->header_name, ": ", value, NULL);
}
