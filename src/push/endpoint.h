/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Where the push service is, read from the configuration. Knows URLs and files; opens nothing else.
 */
#ifndef PUSH_ENDPOINT_H
#define PUSH_ENDPOINT_H

#include <openssl/x509.h>

#include "apns.h"

typedef struct endpoint_t {
    const char *host; /* without the brackets of an IPv6 address */
    int port;
    const char *authority;  /* for HTTP: host and, unless it is 443, port */
    const char *proxy_host; /* NULL: none */
    int proxy_port;
    const char *proxy_hello; /* the CONNECT request for it */
} endpoint_t;

/** Read a configuration; everything lives as long as the pool.
 * @return MDM_EINPUT, with a sentence for the operator in *why */
apr_status_t endpoint_read(endpoint_t *out, const apns_config_t *config, const char **why,
                           apr_pool_t *pool);

/** Read who may issue the service's certificate: about a megabyte, for the system's roots.
 * @param out      the caller's, for X509_STORE_free()
 * @param ca_file  NULL: the system's
 * @return MDM_EINPUT, likewise */
apr_status_t endpoint_roots(X509_STORE **out, const char *ca_file, const char **why,
                            apr_pool_t *pool);

#endif
