/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Who is calling: takes the device's certificate from where the location says, and has it
 * verified. A TLS client certificate was verified by mod_ssl, in the handshake, against mod_ssl's
 * own authorities; one from a signature or a header is verified against NanoMDMCACertificateFile
 * here.
 */
#include "nanomdm.h"

#include <apr_strings.h>
#include <mod_ssl.h>

static apr_status_t from_ssl(request_rec *r, trust_certificate_t **cert, const char **why)
{
    APR_OPTIONAL_FN_TYPE(ssl_var_lookup) *lookup = APR_RETRIEVE_OPTIONAL_FN(ssl_var_lookup);
    const char *verified = NULL;
    const char *pem;

    if (lookup != NULL) {
        verified = lookup(r->pool, r->server, r->connection, r, (char *)"SSL_CLIENT_VERIFY");
    }
    if (verified == NULL || strcmp(verified, "SUCCESS") != 0) {
        *why = "no TLS client certificate that mod_ssl verified";
        return APR_ENOENT;
    }
    pem = lookup(r->pool, r->server, r->connection, r, (char *)"SSL_CLIENT_CERT");
    if (pem == NULL || *pem == '\0') {
        *why = "mod_ssl gives no client certificate";
        return APR_ENOENT;
    }
    return trust_certificate_from_pem(cert, pem, strlen(pem), why, r->pool);
}

static apr_status_t from_source(request_rec *r, const char *body, apr_size_t len,
                                trust_certificate_t **cert, const char **why)
{
    const nanomdm_dir_t *dir = nanomdm_dir(r);
    const char *value;
    apr_status_t status;

    switch (dir->identity) {
    case NANOMDM_IDENTITY_SSL:
        return from_ssl(r, cert, why);
    case NANOMDM_IDENTITY_HEADER:
        value = apr_table_get(r->headers_in, dir->identity_header);
        status = trust_header_certificate(cert, value, why, r->pool);
        if (status == APR_ENOENT) {
            *why = apr_psprintf(r->pool, "no certificate in the header %s", dir->identity_header);
        }
        return status;
    default:
        value = apr_table_get(r->headers_in, "Mdm-Signature");
        status = trust_signature_verify(cert, value, body, len, why, r->pool);
        if (status == APR_ENOENT) {
            *why = "no Mdm-Signature header";
        }
        return status;
    }
}

apr_status_t nanomdm_identity(request_rec *r, const char *body, apr_size_t len,
                              trust_certificate_t **cert, const char **why)
{
    const nanomdm_server_t *conf = nanomdm_server(r->server);
    trust_certificate_t *found = NULL;
    apr_status_t status = from_source(r, body, len, &found, why);

    if (status == APR_SUCCESS && nanomdm_dir(r)->identity != NANOMDM_IDENTITY_SSL) {
        if (conf->ca == NULL) { /* a handler that came from where configtest cannot look */
            *why = "NanoMDMCACertificateFile is not set";
            return MDM_EUNAVAILABLE;
        }
        status = trust_ca_verify(conf->ca, found, why, r->pool);
    }
    if (status == APR_SUCCESS) {
        *cert = found;
    }
    return status;
}
