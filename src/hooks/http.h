/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The small HTTP client. Private to src/hooks. */
#ifndef HOOKS_HTTP_H
#define HOOKS_HTTP_H

#include <curl/curl.h>

#include "hooks.h"

/** How long connecting, and a request with its reply, may take. */
#define HTTP_CONNECT_TIMEOUT apr_time_from_sec(10)
#define HTTP_TIMEOUT apr_time_from_sec(30)

typedef struct http_request_t {
    const char *method; /* GET, POST, PUT */
    const char *url;
    const char *body; /* NULL: none */
    apr_size_t body_len;
    const char *body_type;
    const apr_table_t *headers; /* more of them, or NULL */
    const char *cert_pem;       /* a client certificate and its key, or NULL */
    const char *key_pem;
    apr_size_t max_reply; /* in bytes; 0: none of the body is kept, and only its first 1 MiB read */
} http_request_t;

/** One request on its way. Lives as long as its pool. */
typedef struct http_transfer_t {
    apr_pool_t *pool;
    CURL *easy;
    struct curl_slist *headers;
    apr_size_t max_reply;
    char *body;
    apr_size_t len;
    apr_size_t size;
    apr_size_t ignored;     /* so much of the body was not kept */
    apr_size_t headers_len; /* of all headers, of preliminary responses too */
    const char *refused;    /* why the rest of the reply was not read, or NULL */
    apr_table_t *reply_headers;
    char error[CURL_ERROR_SIZE];
} http_transfer_t;

/** Set an easy handle to a request, which the pool must outlive. */
apr_status_t http_prepare(http_transfer_t **out, CURL *easy, const hooks_target_t *target,
                          const http_request_t *request, apr_pool_t *pool);
/** What became of it. @return MDM_EGATEWAY with the reason in *why if there was no whole reply */
apr_status_t http_finish(http_transfer_t *transfer, CURLcode result, hooks_answer_t *answer,
                         const char **why);
/** Make a request and wait for the reply; as http_finish(). */
apr_status_t http_call(hooks_http_t *http, const hooks_target_t *target,
                       const http_request_t *request, hooks_answer_t *answer, const char **why,
                       apr_pool_t *pool);

/** base64 of HMAC-SHA-256; NULL if OpenSSL fails. */
const char *http_hmac(const char *key, apr_size_t key_len, const char *body, apr_size_t len,
                      apr_pool_t *pool);
#define HTTP_HMAC_HEADER "X-Hmac-Signature"

#endif
