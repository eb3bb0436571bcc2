/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Certificates: who signed a request, which certificate a header carries, whether a certificate was
 * issued by the configured authority, and what a push certificate is for. Knows OpenSSL, not httpd
 * and not the database. Everything here may be called by any thread at once.
 */
#ifndef TRUST_H
#define TRUST_H

#include <apr_pools.h>
#include <apr_time.h>
#include <openssl/x509.h>

#include "mdm_status.h"

/** Largest header value or PEM text with a certificate, and largest certificate, in bytes. */
#define TRUST_HEADER_MAX 65536
#define TRUST_CERTIFICATE_MAX 65536

/** A device's certificate. Lives as long as the pool that it was made in. */
typedef struct trust_certificate_t {
    X509 *x509; /* other threads may use the same one: look, do not change */
    const unsigned char *der;
    apr_size_t der_len;
    char sha256[65]; /* of the DER, lower-case hex */
} trust_certificate_t;

/** Read one certificate from DER; trailing bytes are an error.
 * @return MDM_EINPUT, with the reason in *why */
apr_status_t trust_certificate_from_der(trust_certificate_t **out, const unsigned char *der,
                                        apr_size_t len, const char **why, apr_pool_t *pool);

/** Read the first certificate of a PEM text. Its lines may be folded with spaces or tabs.
 * @return MDM_EINPUT, with the reason in *why */
apr_status_t trust_certificate_from_pem(trust_certificate_t **out, const char *pem, apr_size_t len,
                                        const char **why, apr_pool_t *pool);

/** The certificate as PEM, in the pool, beginning with "-----BEGIN CERTIFICATE-----". */
const char *trust_certificate_to_pem(const trust_certificate_t *cert, apr_pool_t *pool);

/** Read the certificate that a proxy put into a header: RFC 9440 (":base64 DER:"),
 * percent-encoded PEM, or PEM with newlines folded to spaces. With several the first counts.
 *
 * @return APR_ENOENT if the value is NULL, empty or httpd's "(null)" (no identity), MDM_EINPUT
 *         with the reason in *why
 */
apr_status_t trust_header_certificate(trust_certificate_t **out, const char *value,
                                      const char **why, apr_pool_t *pool);

/** Largest decoded Mdm-Signature, in bytes, and deepest nesting of its BER. */
#define TRUST_SIGNATURE_MAX 10240
#define TRUST_SIGNATURE_DEPTH 64

/** Verify an Mdm-Signature: base64 of a CMS SignedData with exactly one signer whose certificate
 * is embedded, over exactly the body's bytes. Content of its own, which is not meant to be there,
 * is ignored. Chain and validity are not looked at (trust_ca_verify() does), nor the signing time.
 *
 * @param out   the signer's certificate
 * @param body  may be NULL if body_len is 0
 * @return APR_ENOENT if the header is NULL or empty (no identity); MDM_EINPUT if the signature
 *         does not parse or does not verify, with the reason in *why
 */
apr_status_t trust_signature_verify(trust_certificate_t **out, const char *header, const char *body,
                                    apr_size_t body_len, const char **why, apr_pool_t *pool);

/** Who may issue device identities. Immutable once loaded. */
typedef struct trust_ca_t trust_ca_t;

/** Load the authority's certificates and, if the name is not NULL, intermediate ones.
 *
 * @param out  lives as long as the pool
 * @return MDM_EINPUT if a file cannot be read, is damaged or holds no certificate; *why names the
 *         file and says what to do
 */
apr_status_t trust_ca_load(trust_ca_t **out, const char *ca_file, const char *intermediate_file,
                           const char **why, apr_pool_t *pool);

/** Verify that the certificate chains to the authority (which need not be self-signed), is in
 * its validity period, and, if it has an extendedKeyUsage, is for clientAuth or any. Key usage
 * is not looked at.
 *
 * @return MDM_EINPUT, with the reason in *why
 */
apr_status_t trust_ca_verify(trust_ca_t *ca, const trust_certificate_t *cert, const char **why,
                             apr_pool_t *pool);

/** A push certificate, read from what an administrator uploads. */
typedef struct trust_pushcert_t {
    const char *topic;
    apr_time_t not_after;
    int expired;          /* by this machine's clock */
    const char *cert_pem; /* begins with "-----BEGIN CERTIFICATE-----"; after the certificate come
                             others of the text, which may lead to its authority */
    const char *key_pem;  /* unencrypted */
} trust_pushcert_t;

/** Read a PEM text with a push certificate and its unencrypted key, in any order. The certificate
 * is the first that the key belongs to; other text is passed over. An expired one is read too.
 *
 * @param text  need not be terminated
 * @param out   in the pool, which then holds a key
 * @return MDM_EINPUT, with a sentence for the administrator in *why
 */
apr_status_t trust_pushcert_read(trust_pushcert_t *out, const char *text, apr_size_t len,
                                 const char **why, apr_pool_t *pool);

#endif
