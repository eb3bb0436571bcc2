/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* See tls.h. */
#include "tls.h"

#include <apr_strings.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

/* Without it OpenSSL asks the terminal. */
static int no_password(char *to, int size, int writing, void *baton)
{
    (void)to;
    (void)size;
    (void)writing;
    (void)baton;
    return -1;
}

/* The first certificate is ours, others lead to its authority. */
static int use_certificates(SSL_CTX *context, const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *x509 = bio != NULL ? PEM_read_bio_X509(bio, NULL, no_password, NULL) : NULL;
    int good = x509 != NULL && SSL_CTX_use_certificate(context, x509);

    X509_free(x509);
    while (good && (x509 = PEM_read_bio_X509(bio, NULL, no_password, NULL)) != NULL) {
        good = SSL_CTX_add1_chain_cert(context, x509) == 1;
        X509_free(x509);
    }
    BIO_free(bio);
    return good;
}

static int use_key(SSL_CTX *context, const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *key = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    int good = key != NULL && SSL_CTX_use_PrivateKey(context, key) == 1;

    EVP_PKEY_free(key);
    BIO_free(bio);
    return good;
}

static const char *fill(SSL_CTX *context, const char *cert_pem, const char *key_pem)
{
    static const unsigned char h2[] = "\x02h2";

    if (!use_certificates(context, cert_pem)) {
        return "the push certificate cannot be used";
    }
    if (!use_key(context, key_pem)) {
        return "the push certificate's key cannot be used, or belongs to another certificate";
    }
    if (SSL_CTX_check_private_key(context) != 1) {
        return "the key does not belong to the push certificate";
    }
    if (SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_alpn_protos(context, h2, sizeof(h2) - 1) != 0) {
        return "OpenSSL refuses TLS 1.2";
    }
    return NULL;
}

apr_status_t tls_context_make(SSL_CTX **out, const char *cert_pem, const char *key_pem,
                              X509_STORE *roots, const char **why, apr_pool_t *pool)
{
    const char *fault = "there is no memory for TLS";
    SSL_CTX *context;

    ERR_set_mark();
    context = SSL_CTX_new(TLS_client_method());
    if (context != NULL) {
        fault = fill(context, cert_pem, key_pem);
    }
    if (fault != NULL) {
        const char *detail = ERR_reason_error_string(ERR_peek_last_error());

        *why = detail != NULL ? apr_psprintf(pool, "%s (%s)", fault, detail) : fault;
        SSL_CTX_free(context);
        ERR_pop_to_mark();
        return MDM_EINPUT;
    }
    ERR_pop_to_mark();
    SSL_CTX_set1_cert_store(context, roots);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    *out = context;
    return APR_SUCCESS;
}

SSL *tls_begin(SSL_CTX *context, int fd, const char *host)
{
    SSL *ssl = SSL_new(context);
    int good;

    if (ssl == NULL) {
        return NULL;
    }
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1) {
        good = 1; /* an address has no place in SNI */
    } else {
        good = SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
    }
    if (!good || SSL_set_fd(ssl, fd) != 1) {
        SSL_free(ssl);
        return NULL;
    }
    SSL_set_connect_state(ssl);
    ERR_clear_error();
    return ssl;
}

/* The alerts by which a server says that it is our certificate. */
static int is_about_our_certificate(int alert)
{
    switch (alert) {
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
    case SSL_AD_CERTIFICATE_REQUIRED:
        return 1;
    default:
        return 0;
    }
}

tls_error_t tls_error(const SSL *ssl, int ssl_error, int os_error, char *why, size_t size)
{
    unsigned long error = ERR_peek_error();
    int reason = ERR_GET_REASON(error);
    const char *text = ERR_reason_error_string(error);
    char buffer[120];

    ERR_clear_error();
    if (ERR_GET_LIB(error) == ERR_LIB_SSL && reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        apr_snprintf(why, size, "its certificate is not trusted: %s",
                     X509_verify_cert_error_string(SSL_get_verify_result(ssl)));
        return TLS_REFUSED_THEM;
    }
    if (ERR_GET_LIB(error) == ERR_LIB_SSL && reason > SSL_AD_REASON_OFFSET &&
        is_about_our_certificate(reason - SSL_AD_REASON_OFFSET)) {
        apr_snprintf(why, size, "it refuses our push certificate: %s",
                     SSL_alert_desc_string_long(reason - SSL_AD_REASON_OFFSET));
        return TLS_REFUSED_US;
    }
    if (ssl_error == SSL_ERROR_ZERO_RETURN || reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        apr_snprintf(why, size, "it closed the connection");
    } else if (error != 0) {
        apr_snprintf(why, size, "TLS: %s", text != NULL ? text : "unknown error");
    } else {
        apr_snprintf(why, size, "%s",
                     os_error != 0 ? apr_strerror(os_error, buffer, sizeof(buffer))
                                   : "it closed the connection");
    }
    return TLS_BROKEN;
}
