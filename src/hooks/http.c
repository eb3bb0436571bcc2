/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* HTTP by libcurl: what every request has in common. Knows nothing of what is sent and why. */
#include "http.h"

#include <apr_encode.h>
#include <apr_lib.h>
#include <apr_strings.h>
#include <apr_thread_mutex.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <sys/socket.h>

/* Most of a reply's headers, and of a body that is not kept, that is read. */
#define MAX_HEADERS 65536
#define MAX_IGNORED (1024 * 1024)

/* Most handles that are kept, each with its open connections. */
#define KEPT_MAX 64

struct hooks_http_t {
    apr_thread_mutex_t *mutex;
    CURL *kept[KEPT_MAX];
    int count;
};

static apr_status_t http_cleanup(void *data)
{
    hooks_http_t *http = data;

    while (http->count > 0) {
        curl_easy_cleanup(http->kept[--http->count]);
    }
    return APR_SUCCESS;
}

apr_status_t hooks_http_create(hooks_http_t **out, apr_pool_t *pool)
{
    hooks_http_t *http = apr_pcalloc(pool, sizeof(*http));
    apr_status_t status = apr_thread_mutex_create(&http->mutex, APR_THREAD_MUTEX_DEFAULT, pool);

    /* Counted by libcurl: other modules may use it too, and it is never undone. */
    if (status == APR_SUCCESS && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        status = APR_EINIT;
    }
    if (status == APR_SUCCESS) {
        apr_pool_cleanup_register(pool, http, http_cleanup, apr_pool_cleanup_null);
        *out = http;
    }
    return status;
}

/* The one used last has the freshest connections. */
static CURL *take(hooks_http_t *http)
{
    CURL *easy = NULL;

    apr_thread_mutex_lock(http->mutex);
    if (http->count > 0) {
        easy = http->kept[--http->count];
    }
    apr_thread_mutex_unlock(http->mutex);
    return easy != NULL ? easy : curl_easy_init();
}

static void give_back(hooks_http_t *http, CURL *easy)
{
    int kept = 0;

    curl_easy_reset(easy); /* leaves the connections */
    apr_thread_mutex_lock(http->mutex);
    if (http->count < KEPT_MAX) {
        http->kept[http->count++] = easy;
        kept = 1;
    }
    apr_thread_mutex_unlock(http->mutex);
    if (!kept) {
        curl_easy_cleanup(easy);
    }
}

/* -- URLs --------------------------------------------------------------------------------- */

const char *hooks_url_check(const char *url)
{
    CURLU *parsed = curl_url();
    char *scheme = NULL;
    char *fragment = NULL;
    const char *why = NULL;

    if (parsed == NULL || curl_url_set(parsed, CURLUPART_URL, url, 0) != CURLUE_OK ||
        curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
        (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)) {
        why = "is no URL as in https://hook.example.org/webhook";
    } else if (curl_url_get(parsed, CURLUPART_FRAGMENT, &fragment, 0) == CURLUE_OK) {
        why = "has a fragment, which no server ever sees";
    }
    curl_free(scheme);
    curl_free(fragment);
    curl_url_cleanup(parsed);
    return why;
}

const char *hooks_url_public(const char *url, apr_pool_t *pool)
{
    CURLU *parsed = curl_url();
    const char *text = "";
    char *whole = NULL;

    if (parsed != NULL && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK) {
        curl_url_set(parsed, CURLUPART_USER, NULL, 0);
        curl_url_set(parsed, CURLUPART_PASSWORD, NULL, 0);
        if (curl_url_get(parsed, CURLUPART_URL, &whole, 0) == CURLUE_OK) {
            text = apr_pstrdup(pool, whole);
            curl_free(whole);
        }
    }
    curl_url_cleanup(parsed);
    return text;
}

/* -- Keys --------------------------------------------------------------------------------- */

const char *http_hmac(const char *key, apr_size_t key_len, const char *body, apr_size_t len,
                      apr_pool_t *pool)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int digest_len = 0;

    if (HMAC(EVP_sha256(), key, (int)key_len, (const unsigned char *)body, len, digest,
             &digest_len) == NULL) {
        return NULL;
    }
    return apr_pencode_base64_binary(pool, digest, (apr_ssize_t)digest_len, APR_ENCODE_NONE, NULL);
}

/* -- Requests ----------------------------------------------------------------------------- */

/* A program that another module runs, such as CGI, must not inherit the connection. */
static curl_socket_t open_socket(void *data, curlsocktype purpose, struct curl_sockaddr *address)
{
    (void)data;
    (void)purpose;
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static size_t take_body(char *bytes, size_t size, size_t count, void *data)
{
    http_transfer_t *transfer = data;
    apr_size_t len = size * count;

    if (transfer->max_reply == 0) {
        transfer->ignored += len;
        return transfer->ignored <= MAX_IGNORED ? len : 0;
    }
    if (len > transfer->max_reply - transfer->len) {
        transfer->refused = apr_psprintf(
            transfer->pool, "a reply of more than %" APR_SIZE_T_FMT " bytes", transfer->max_reply);
        return 0;
    }
    if (transfer->len + len >= transfer->size) {
        apr_size_t larger = transfer->size > 0 ? transfer->size : 4096;
        char *grown;

        while (transfer->len + len >= larger) {
            larger *= 2;
        }
        grown = apr_palloc(transfer->pool, larger);
        if (transfer->len > 0) {
            memcpy(grown, transfer->body, transfer->len);
        }
        transfer->body = grown;
        transfer->size = larger;
    }
    memcpy(transfer->body + transfer->len, bytes, len);
    transfer->len += len;
    transfer->body[transfer->len] = '\0';
    return len;
}

static size_t take_header(char *bytes, size_t size, size_t count, void *data)
{
    http_transfer_t *transfer = data;
    apr_size_t len = size * count;
    char *line;
    char *value;

    if (len > MAX_HEADERS - transfer->headers_len) {
        transfer->refused =
            apr_psprintf(transfer->pool, "a reply with more than %d bytes of headers", MAX_HEADERS);
        return 0;
    }
    transfer->headers_len += len;
    line = apr_pstrmemdup(transfer->pool, bytes, len);
    value = strchr(line, ':');
    if (strncmp(line, "HTTP/", 5) == 0) { /* those before were of a preliminary response */
        apr_table_clear(transfer->reply_headers);
    } else if (value != NULL) {
        char *end = line + strlen(line);

        *value++ = '\0';
        while (apr_isspace(*value)) {
            value++;
        }
        while (end > value && apr_isspace(end[-1])) {
            *--end = '\0';
        }
        apr_table_addn(transfer->reply_headers, line, value);
    }
    return len;
}

static apr_status_t transfer_cleanup(void *data)
{
    http_transfer_t *transfer = data;

    curl_slist_free_all(transfer->headers);
    return APR_SUCCESS;
}

/* Returns whether all could be set. */
static int add_header(http_transfer_t *transfer, const char *name, const char *value)
{
    const char *line = apr_pstrcat(transfer->pool, name, ": ", value, NULL);
    struct curl_slist *list;

    if (value == NULL || strpbrk(value, "\r\n") != NULL) { /* it would be two headers */
        return value == NULL;
    }
    if (*value == '\0') {
        line = apr_pstrcat(transfer->pool, name, ";", NULL); /* libcurl's way of an empty one */
    }
    list = curl_slist_append(transfer->headers, line);
    if (list == NULL) {
        return 0;
    }
    transfer->headers = list;
    return 1;
}

static int add_headers(http_transfer_t *transfer, const hooks_target_t *target,
                       const http_request_t *request)
{
    int all = add_header(transfer, "Content-Type", request->body_type);

    /* Without it a large body waits for a "100 Continue" that few servers send. */
    all &= (transfer->headers = curl_slist_append(transfer->headers, "Expect:")) != NULL;
    if (target->send_key != NULL) {
        const char *hmac = http_hmac(target->send_key, target->send_key_len,
                                     request->body != NULL ? request->body : "", request->body_len,
                                     transfer->pool);

        all &= hmac != NULL && add_header(transfer, HTTP_HMAC_HEADER, hmac);
    }
    if (request->headers != NULL) {
        const apr_array_header_t *pairs = apr_table_elts(request->headers);

        for (int i = 0; i < pairs->nelts; i++) {
            const apr_table_entry_t *pair = &APR_ARRAY_IDX(pairs, i, apr_table_entry_t);

            all &= add_header(transfer, pair->key, pair->val);
        }
    }
    return all;
}

static int set_blob(CURL *easy, CURLoption option, const char *pem)
{
    struct curl_blob blob = {(void *)pem, strlen(pem), CURL_BLOB_COPY};

    return curl_easy_setopt(easy, option, &blob) == CURLE_OK;
}

#define SET(option, value) ok &= curl_easy_setopt(easy, CURLOPT_##option, value) == CURLE_OK

static int set_options(CURL *easy, http_transfer_t *transfer, const hooks_target_t *target,
                       const http_request_t *request)
{
    int ok = 1;

    SET(URL, request->url);
#if CURL_AT_LEAST_VERSION(7, 85, 0)
    SET(PROTOCOLS_STR, "http,https");
#else
    SET(PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    SET(FOLLOWLOCATION, 0L);
    SET(NOSIGNAL, 1L);
    SET(OPENSOCKETFUNCTION, open_socket);
    SET(CONNECTTIMEOUT_MS, (long)apr_time_as_msec(HTTP_CONNECT_TIMEOUT));
    SET(TIMEOUT_MS, (long)apr_time_as_msec(HTTP_TIMEOUT));
    SET(ERRORBUFFER, transfer->error);
    SET(WRITEFUNCTION, take_body);
    SET(WRITEDATA, transfer);
    SET(HEADERFUNCTION, take_header);
    SET(HEADERDATA, transfer);
    SET(HTTPHEADER, transfer->headers);
    SET(PRIVATE, transfer);
    if (target->ca_file != NULL) {
        SET(CAINFO, target->ca_file);
        SET(CAPATH, NULL);
    }
    if (strcmp(request->method, "GET") != 0) {
        SET(POST, 1L);
        SET(POSTFIELDSIZE_LARGE, (curl_off_t)request->body_len);
        SET(POSTFIELDS, request->body != NULL ? request->body : "");
        SET(CUSTOMREQUEST, request->method);
    }
    if (request->cert_pem != NULL) {
        ok &= set_blob(easy, CURLOPT_SSLCERT_BLOB, request->cert_pem);
        ok &= set_blob(easy, CURLOPT_SSLKEY_BLOB, request->key_pem);
    }
    return ok;
}

apr_status_t http_prepare(http_transfer_t **out, CURL *easy, const hooks_target_t *target,
                          const http_request_t *request, apr_pool_t *pool)
{
    http_transfer_t *transfer = apr_pcalloc(pool, sizeof(*transfer));

    transfer->pool = pool;
    transfer->easy = easy;
    transfer->max_reply = request->max_reply;
    transfer->body = (char *)"";
    transfer->reply_headers = apr_table_make(pool, 8);
    apr_pool_cleanup_register(pool, transfer, transfer_cleanup, apr_pool_cleanup_null);
    if (!add_headers(transfer, target, request) || !set_options(easy, transfer, target, request)) {
        return APR_EGENERAL;
    }
    *out = transfer;
    return APR_SUCCESS;
}

apr_status_t http_finish(http_transfer_t *transfer, CURLcode result, hooks_answer_t *answer,
                         const char **why)
{
    long code = 0;

    if (transfer->refused != NULL) {
        *why = transfer->refused;
        return MDM_EGATEWAY;
    }
    if (result != CURLE_OK && transfer->ignored <= MAX_IGNORED) {
        *why = apr_pstrdup(transfer->pool, transfer->error[0] != '\0' ? transfer->error
                                                                      : curl_easy_strerror(result));
        return MDM_EGATEWAY;
    }
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &code);
    answer->code = (int)code;
    answer->type = apr_table_get(transfer->reply_headers, "Content-Type");
    answer->body = transfer->body;
    answer->len = transfer->len;
    answer->headers = transfer->reply_headers;
    return APR_SUCCESS;
}

apr_status_t http_call(hooks_http_t *http, const hooks_target_t *target,
                       const http_request_t *request, hooks_answer_t *answer, const char **why,
                       apr_pool_t *pool)
{
    CURL *easy = http != NULL ? take(http) : NULL;
    http_transfer_t *transfer;
    apr_status_t status = MDM_EGATEWAY;

    if (easy == NULL) {
        *why = "libcurl is not ready";
        return MDM_EGATEWAY;
    }
    if (http_prepare(&transfer, easy, target, request, pool) == APR_SUCCESS) {
        status = http_finish(transfer, curl_easy_perform(easy), answer, why);
    } else {
        *why = "the request cannot be made";
    }
    give_back(http, easy);
    return status;
}
