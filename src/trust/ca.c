/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns the configured authority: loading it, and whether a certificate chains to it. Must not know
 * where the certificate came from, nor any authority of the system.
 */
#include <string.h>

#include <apr_file_io.h>
#include <apr_strings.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include "certificate.h"

#define MAX_FILE 4000000 /* bytes */

struct trust_ca_t {
    X509_STORE *store;
    STACK_OF(X509) * intermediates; /* NULL if there are none; not trusted themselves */
};

static apr_status_t free_ca(void *data)
{
    trust_ca_t *ca = data;

    X509_STORE_free(ca->store);
    sk_X509_pop_free(ca->intermediates, X509_free);
    return APR_SUCCESS;
}

static apr_status_t read_open_file(const char **text, apr_size_t *len, apr_file_t *file,
                                   apr_pool_t *pool)
{
    apr_finfo_t info;
    char *data;
    apr_status_t rv = apr_file_info_get(&info, APR_FINFO_SIZE | APR_FINFO_TYPE, file);

    if (rv) {
        return rv;
    }
    if (info.filetype != APR_REG || info.size > MAX_FILE) {
        return APR_EINVAL;
    }
    data = apr_palloc(pool, (apr_size_t)info.size + 1);
    rv = apr_file_read_full(file, data, (apr_size_t)info.size, len);
    if (rv && !APR_STATUS_IS_EOF(rv)) {
        return rv;
    }
    *text = data;
    return APR_SUCCESS;
}

static apr_status_t read_file(const char **text, apr_size_t *len, const char *name,
                              const char **why, apr_pool_t *pool)
{
    apr_file_t *file;
    apr_status_t rv = apr_file_open(&file, name, APR_FOPEN_READ, APR_FPROT_OS_DEFAULT, pool);

    if (!rv) {
        rv = read_open_file(text, len, file, pool);
        apr_file_close(file);
    }
    if (rv == APR_EINVAL) {
        *why = apr_psprintf(pool,
                            "%s is not a plain file of a sensible size: name a file with the "
                            "authority's certificates in PEM",
                            name);
        return MDM_EINPUT;
    }
    if (rv) {
        char buffer[120];

        *why = apr_psprintf(pool, "cannot read %s: %s; name a file that the server's user may read",
                            name, apr_strerror(rv, buffer, sizeof(buffer)));
        return MDM_EINPUT;
    }
    return APR_SUCCESS;
}

/* @return 0 if the block is a certificate that cannot be read; other blocks are passed over */
static int push_block(STACK_OF(X509) * certs, const char *label, const unsigned char *der, long len)
{
    const unsigned char *end = der;
    X509 *x509;

    if (strcmp(label, PEM_STRING_X509) != 0 && strcmp(label, PEM_STRING_X509_OLD) != 0) {
        return 1;
    }
    x509 = d2i_X509(NULL, &end, len);
    if (x509 && end == der + len && sk_X509_push(certs, x509)) {
        return 1;
    }
    X509_free(x509);
    return 0;
}

/* Every certificate of a PEM text.
 *
 * @return 0 if a block is damaged; *certs has those before it
 */
static int push_blocks(STACK_OF(X509) * certs, const char *text, apr_size_t len)
{
    BIO *bio = BIO_new_mem_buf(text, (int)len);
    char *label, *header;
    unsigned char *data;
    long data_len;
    int good = bio != NULL;

    while (good && PEM_read_bio(bio, &label, &header, &data, &data_len)) {
        good = push_block(certs, label, data, data_len);
        OPENSSL_free(label);
        OPENSSL_free(header);
        OPENSSL_clear_free(data, (size_t)data_len); /* it may be a key */
    }
    good = good && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    BIO_free(bio);
    return good;
}

/* @return the certificates of the file, at least one, for the caller to free; or NULL */
static STACK_OF(X509) * load_file(const char *name, const char **why, apr_pool_t *pool)
{
    STACK_OF(X509) * certs;
    const char *text;
    apr_size_t len;
    int good;

    if (read_file(&text, &len, name, why, pool)) {
        return NULL;
    }
    certs = sk_X509_new_null();
    good = certs && push_blocks(certs, text, len);
    if (!good) {
        *why = apr_psprintf(pool,
                            "%s is damaged after certificate %d: put whole PEM certificates "
                            "into it",
                            name, certs ? sk_X509_num(certs) : 0);
    } else if (!sk_X509_num(certs)) {
        *why = apr_psprintf(pool,
                            "%s holds no PEM certificate: put one that begins with \"-----BEGIN "
                            "CERTIFICATE-----\" into it (for a DER file: openssl x509 -inform "
                            "DER -in %s)",
                            name, name);
        good = 0;
    }
    if (!good) {
        sk_X509_pop_free(certs, X509_free);
        return NULL;
    }
    return certs;
}

/* Any certificate of the file ends a chain, self-signed or not. No lookup is added to the store,
 * so the system's authorities are out of reach. Level 0 lets old authorities sign with SHA-1.
 */
static int fill_store(X509_STORE *store, STACK_OF(X509) * certs)
{
    X509_VERIFY_PARAM *param = X509_STORE_get0_param(store);

    for (int i = 0; i < sk_X509_num(certs); i++) {
        if (!X509_STORE_add_cert(store, sk_X509_value(certs, i))) {
            return 0;
        }
    }
    X509_VERIFY_PARAM_set_auth_level(param, 0);
    return X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN);
}

static apr_status_t load(trust_ca_t *ca, const char *ca_file, const char *intermediate_file,
                         const char **why, apr_pool_t *pool)
{
    STACK_OF(X509) *certs = load_file(ca_file, why, pool);
    int good;

    if (!certs) {
        return MDM_EINPUT;
    }
    ca->store = X509_STORE_new();
    good = ca->store && fill_store(ca->store, certs);
    sk_X509_pop_free(certs, X509_free);
    if (!good) {
        *why = apr_psprintf(pool, "the certificates of %s cannot be used", ca_file);
        return MDM_EINPUT;
    }
    if (intermediate_file) {
        ca->intermediates = load_file(intermediate_file, why, pool);
        if (!ca->intermediates) {
            return MDM_EINPUT;
        }
    }
    return APR_SUCCESS;
}

apr_status_t trust_ca_load(trust_ca_t **out, const char *ca_file, const char *intermediate_file,
                           const char **why, apr_pool_t *pool)
{
    trust_ca_t *ca = apr_pcalloc(pool, sizeof(*ca));
    apr_status_t rv;

    ERR_set_mark();
    rv = load(ca, ca_file, intermediate_file, why, pool);
    ERR_pop_to_mark();
    if (rv) {
        free_ca(ca);
        return rv;
    }
    apr_pool_cleanup_register(pool, ca, free_ca, apr_pool_cleanup_null);
    *out = ca;
    return APR_SUCCESS;
}

static const char *chain_reason(X509_STORE_CTX *ctx, apr_pool_t *pool)
{
    int error = X509_STORE_CTX_get_error(ctx);
    const X509 *x509 = X509_STORE_CTX_get_current_cert(ctx);
    const char *whose =
        X509_STORE_CTX_get_error_depth(ctx) ? "an issuer's certificate" : "the certificate";
    char issuer[256] = "";

    switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        return apr_psprintf(pool, "%s has expired", whose);
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return apr_psprintf(pool, "%s is not yet valid", whose);
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        if (x509) {
            X509_NAME_oneline(X509_get_issuer_name(x509), issuer, sizeof(issuer));
        }
        return apr_psprintf(pool, "%s has an unknown issuer: %s", whose, issuer);
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        return apr_psprintf(pool, "%s was not signed by the issuer that it names", whose);
    default:
        return apr_psprintf(pool, "%s does not chain to the authority: %s", whose,
                            X509_verify_cert_error_string(error));
    }
}

/* Level 0 would let MD5 pass with SHA-1. The last certificate is trusted as it is. */
static int has_weak_signature(STACK_OF(X509) * chain)
{
    for (int i = 0; i < sk_X509_num(chain) - 1; i++) {
        int digest = NID_undef;

        X509_get_signature_info(sk_X509_value(chain, i), &digest, NULL, NULL, NULL);
        if (digest == NID_md5 || digest == NID_md4 || digest == NID_md2) {
            return 1;
        }
    }
    return 0;
}

/* OpenSSL's own check for the purpose of a client looks at the key usage too, which many device
 * certificates do not pass.
 *
 * @return NULL, or what is wrong
 */
static const char *check_usage(const X509 *x509)
{
    int critical, good = 0;
    EXTENDED_KEY_USAGE *usages = X509_get_ext_d2i(x509, NID_ext_key_usage, &critical, NULL);

    if (!usages) {
        return critical == -1 ? NULL : "the certificate's extended key usage cannot be read";
    }
    for (int i = 0; i < sk_ASN1_OBJECT_num(usages) && !good; i++) {
        int nid = OBJ_obj2nid(sk_ASN1_OBJECT_value(usages, i));

        good = nid == NID_client_auth || nid == NID_anyExtendedKeyUsage;
    }
    EXTENDED_KEY_USAGE_free(usages);
    return good ? NULL : "the certificate's extended key usage is not for client authentication";
}

static const char *check_chain(const trust_ca_t *ca, X509 *x509, apr_pool_t *pool)
{
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    const char *wrong = NULL;

    if (!ctx || !X509_STORE_CTX_init(ctx, ca->store, x509, ca->intermediates)) {
        wrong = "the certificate's chain cannot be looked at";
    } else if (X509_verify_cert(ctx) != 1) {
        wrong = chain_reason(ctx, pool);
    } else if (has_weak_signature(X509_STORE_CTX_get0_chain(ctx))) {
        wrong = "the certificate or an issuer's is signed with MD5 or weaker";
    }
    X509_STORE_CTX_free(ctx);
    return wrong;
}

apr_status_t trust_ca_verify(trust_ca_t *ca, const trust_certificate_t *cert, const char **why,
                             apr_pool_t *pool)
{
    const char *wrong;

    ERR_set_mark();
    wrong = check_chain(ca, cert->x509, pool);
    if (!wrong) {
        wrong = check_usage(cert->x509);
    }
    ERR_pop_to_mark();
    if (wrong) {
        *why = wrong;
        return MDM_EINPUT;
    }
    return APR_SUCCESS;
}
