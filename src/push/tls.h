/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* TLS to the push service: the context that holds a topic's certificate, and what OpenSSL's errors
 * mean for an operator. Knows OpenSSL; no sockets. */
#ifndef PUSH_TLS_H
#define PUSH_TLS_H

#include <apr_pools.h>
#include <openssl/ssl.h>

#include "mdm_status.h"

/** Make a context that shows this certificate and takes servers that the roots vouch for.
 *
 * @param out    the caller's, for SSL_CTX_free()
 * @param roots  shared
 * @return MDM_EINPUT with a sentence in *why: certificate and key cannot be used
 */
apr_status_t tls_context_make(SSL_CTX **out, const char *cert_pem, const char *key_pem,
                              X509_STORE *roots, const char **why, apr_pool_t *pool);

/** Begin a connection on a socket.
 * @param host  name or address that the service's certificate must have
 * @return NULL without memory */
SSL *tls_begin(SSL_CTX *context, int fd, const char *host);

typedef enum {
    TLS_BROKEN,      /* it may work another time */
    TLS_REFUSED_US,  /* the service does not take our certificate */
    TLS_REFUSED_THEM /* we do not take the service's certificate */
} tls_error_t;

/** What a failed call of OpenSSL's means; empties its error queue.
 * @param why  a phrase is written here */
tls_error_t tls_error(const SSL *ssl, int ssl_error, int os_error, char *why, size_t size);

#endif
