/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* See endpoint.h. */
#include "endpoint.h"

#include <apr_encode.h>
#include <apr_escape.h>
#include <apr_strings.h>
#include <apr_uri.h>
#include <openssl/err.h>
#include <string.h>

static const char *bracketed(const char *host, apr_pool_t *pool)
{
    return strchr(host, ':') != NULL ? apr_pstrcat(pool, "[", host, "]", NULL) : host;
}

/* Take SCHEME://[USER:PASSWORD@]HOST[:PORT] apart. */
static int read_url(apr_uri_t *uri, const char *url, const char *scheme, apr_pool_t *pool)
{
    return url != NULL && apr_uri_parse(pool, url, uri) == APR_SUCCESS && uri->scheme != NULL &&
           strcmp(uri->scheme, scheme) == 0 && uri->hostname != NULL && *uri->hostname != '\0' &&
           strlen(uri->hostname) < 256 && strpbrk(url, " \t\r\n") == NULL &&
           (uri->path == NULL || strcmp(uri->path, "/") == 0) && uri->query == NULL &&
           uri->fragment == NULL && (uri->port_str == NULL || uri->port > 0);
}

static apr_status_t read_service(endpoint_t *out, const apns_config_t *config, const char **why,
                                 apr_pool_t *pool)
{
    apr_uri_t uri;

    if (!read_url(&uri, config->url, "https", pool) || uri.user != NULL) {
        /* it may hold a password: not to be repeated then */
        const char *at = config->url != NULL ? strrchr(config->url, '@') : NULL;

        *why = apr_psprintf(pool,
                            "\"%s\" is not the URL of a push service: write https://HOST or "
                            "https://HOST:PORT, without user and password, for example "
                            "https://api.push.apple.com",
                            at != NULL            ? at + 1
                            : config->url != NULL ? config->url
                                                  : "");
        return MDM_EINPUT;
    }
    out->host = uri.hostname;
    out->port = uri.port_str != NULL ? uri.port : 443;
    out->authority = bracketed(out->host, pool);
    if (out->port != 443) {
        out->authority = apr_psprintf(pool, "%s:%d", out->authority, out->port);
    }
    return APR_SUCCESS;
}

static const char *unescaped(const char *text, apr_pool_t *pool)
{
    return text != NULL ? apr_punescape_url(pool, text, NULL, NULL, 0) : "";
}

static apr_status_t read_proxy(endpoint_t *out, const apns_config_t *config, const char **why,
                               apr_pool_t *pool)
{
    apr_uri_t uri;
    const char *target = apr_psprintf(pool, "%s:%d", bracketed(out->host, pool), out->port);
    const char *login = "";

    if (config->proxy == NULL) {
        out->proxy_host = out->proxy_hello = NULL;
        return APR_SUCCESS;
    }
    if (!read_url(&uri, config->proxy, "http", pool) || uri.port_str == NULL) {
        /* it may hold a password: not to be repeated */
        *why = "the proxy's URL cannot be used: write http://HOST:PORT or "
               "http://USER:PASSWORD@HOST:PORT";
        return MDM_EINPUT;
    }
    if (uri.user != NULL) {
        const char *user = unescaped(uri.user, pool);
        const char *password = unescaped(uri.password, pool);

        if (user == NULL || password == NULL) {
            *why = "user or password in the proxy's URL is wrongly encoded: write a percent sign "
                   "as %25";
            return MDM_EINPUT;
        }
        login = apr_pstrcat(pool, "Proxy-Authorization: Basic ",
                            apr_pencode_base64(pool, apr_pstrcat(pool, user, ":", password, NULL),
                                               APR_ENCODE_STRING, APR_ENCODE_NONE, NULL),
                            "\r\n", NULL);
    }
    out->proxy_host = uri.hostname;
    out->proxy_port = uri.port;
    out->proxy_hello = apr_pstrcat(pool, "CONNECT ", target, " HTTP/1.1\r\nHost: ", target, "\r\n",
                                   login, "\r\n", NULL);
    return APR_SUCCESS;
}

apr_status_t endpoint_roots(X509_STORE **out, const char *ca_file, const char **why,
                            apr_pool_t *pool)
{
    X509_STORE *roots = X509_STORE_new();
    int good = roots != NULL;

    ERR_set_mark();
    if (good && ca_file != NULL) {
        good = X509_STORE_load_file(roots, ca_file);
        *why = apr_psprintf(pool,
                            "%s holds no certificates that can be read: name a file with the push "
                            "service's authorities in PEM",
                            ca_file);
    } else if (good) {
        good = X509_STORE_set_default_paths(roots);
        *why = "the system's certificate authorities cannot be read: install ca-certificates";
    }
    ERR_pop_to_mark();
    if (!good) {
        X509_STORE_free(roots);
        return MDM_EINPUT;
    }
    *out = roots;
    return APR_SUCCESS;
}

apr_status_t endpoint_read(endpoint_t *out, const apns_config_t *config, const char **why,
                           apr_pool_t *pool)
{
    endpoint_t endpoint;
    apr_status_t status = read_service(&endpoint, config, why, pool);

    if (status == APR_SUCCESS) {
        status = read_proxy(&endpoint, config, why, pool);
    }
    if (status == APR_SUCCESS) {
        *out = endpoint;
    }
    return status;
}
