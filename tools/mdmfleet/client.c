/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* One worker's HTTP client: sends a device's messages, on a connection that carries the device's
 * certificate where identity is TLS, and sorts what goes wrong by cause.
 */
#include <apr_strings.h>
#include <curl/curl.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

#include "mdmfleet.h"

#define REPLY_MAX (16 * 1024 * 1024)

struct fleet_client_t {
    const fleet_t *fleet;
    const fleet_options_t *opt;
    fleet_stats_t *stats;
    CURL *curl;
    const fleet_device_t *device;
    X509 *x509; /* of the device, if identity is TLS */
    int turn;   /* which base URL */
    char *reply;
    size_t reply_len, reply_size;
    char error[CURL_ERROR_SIZE];
};

static size_t take_reply(char *data, size_t size, size_t n, void *baton)
{
    fleet_client_t *client = baton;
    size_t len = size * n;
    if (client->reply_len + len > REPLY_MAX)
        return 0;
    if (client->reply_len + len + 1 > client->reply_size) {
        client->reply_size = (client->reply_len + len + 1) * 2;
        client->reply = realloc(client->reply, client->reply_size);
        if (!client->reply)
            fleet_die("out of memory");
    }
    memcpy(client->reply + client->reply_len, data, len);
    client->reply_len += len;
    client->reply[client->reply_len] = '\0';
    return len;
}

/* The device's certificate and key, already decoded: curl would read PEM per connection. */
static CURLcode use_certificate(CURL *curl, void *ssl_ctx, void *baton)
{
    fleet_client_t *client = baton;
    EVP_PKEY *key = APR_ARRAY_IDX(client->fleet->keys, client->device->key, EVP_PKEY *);
    (void)curl;
    if (SSL_CTX_use_certificate(ssl_ctx, client->x509) != 1 ||
        SSL_CTX_use_PrivateKey(ssl_ctx, key) != 1)
        return CURLE_SSL_CERTPROBLEM;
    return CURLE_OK;
}

static void set_options(fleet_client_t *client)
{
    const fleet_options_t *opt = client->opt;
    CURL *curl = client->curl;
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, client->error);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_reply);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, client);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, "PUT");
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "MDM/1.0 mdmfleet");
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)opt->timeout);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)opt->connect_timeout);
#if CURL_AT_LEAST_VERSION(7, 85, 0)
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION,
                     opt->http2 ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1);
    /* A resumed session or a kept connection would speak as the device that opened it. */
    curl_easy_setopt(curl, CURLOPT_SSL_SESSIONID_CACHE, 0L);
    if (opt->server_ca)
        curl_easy_setopt(curl, CURLOPT_CAINFO, opt->server_ca);
    if (opt->insecure) {
        curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    if (client->x509) {
        curl_easy_setopt(curl, CURLOPT_SSL_CTX_FUNCTION, use_certificate);
        curl_easy_setopt(curl, CURLOPT_SSL_CTX_DATA, client);
    }
    curl_easy_setopt(curl, CURLOPT_MAXCONNECTS, (long)opt->mdm_urls->nelts);
}

fleet_client_t *fleet_client_create(const fleet_t *fleet, const fleet_options_t *opt,
                                    fleet_stats_t *stats, apr_pool_t *pool)
{
    fleet_client_t *client = apr_pcalloc(pool, sizeof(*client));
    client->fleet = fleet;
    client->opt = opt;
    client->stats = stats;
    client->curl = curl_easy_init();
    if (!client->curl)
        fleet_die("libcurl does not start");
    return client;
}

void fleet_client_device(fleet_client_t *client, const fleet_device_t *device, int turn)
{
    client->device = device;
    client->turn = turn;
    if (client->opt->identity == FLEET_TLS) {
        const unsigned char *der = device->der;
        X509_free(client->x509);
        client->x509 = d2i_X509(NULL, &der, device->der_len);
        if (!client->x509)
            fleet_die("the certificate of device %d cannot be read", device->index);
    }
    /* A new handle has no connections; closing them all is what curl offers for this. */
    if (client->opt->identity == FLEET_TLS || client->opt->reconnect) {
        curl_easy_cleanup(client->curl);
        client->curl = curl_easy_init();
        if (!client->curl)
            fleet_die("libcurl does not start");
    }
}

static const char *connect_cause(CURL *curl)
{
    long os_error = 0;
    curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &os_error);
    return os_error == ECONNREFUSED ? "connection refused" : "unreachable";
}

/* The cause of a failed transfer. A server that refuses the client's certificate says so by an
 * alert, which TLS 1.3 delivers only with the first read. */
static const char *cause_of(fleet_client_t *client, CURLcode code)
{
    if (strstr(client->error, "alert"))
        return "TLS: the server refuses the client";
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return "name not found";
    case CURLE_COULDNT_CONNECT:
        return connect_cause(client->curl);
    case CURLE_OPERATION_TIMEDOUT:
        return "timeout";
    case CURLE_PEER_FAILED_VERIFICATION:
        return "TLS: the server's certificate is not trusted";
    case CURLE_SSL_CACERT_BADFILE:
        return "TLS: the file of --server-ca cannot be read";
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_ENGINE_INITFAILED:
        return "TLS";
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_PARTIAL_FILE:
        return "connection lost";
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return "bad URL";
    case CURLE_WRITE_ERROR:
        return "reply too large";
    default:
        return "not HTTP";
    }
}

static struct curl_slist *add_header(struct curl_slist *list, const char *header)
{
    list = curl_slist_append(list, header);
    if (!list)
        fleet_die("out of memory");
    return list;
}

/* One request; returns curl's code, with the reply if that is CURLE_OK. */
static CURLcode perform(fleet_client_t *client, const char *url, struct curl_slist *headers,
                        const char *body, fleet_reply_t *reply)
{
    const char *type = NULL;
    long connects = 0;
    CURLcode code;
    set_options(client);
    client->reply_len = 0;
    client->error[0] = '\0';
    curl_easy_setopt(client->curl, CURLOPT_URL, url);
    curl_easy_setopt(client->curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(client->curl, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(client->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
    code = curl_easy_perform(client->curl);
    curl_easy_getinfo(client->curl, CURLINFO_NUM_CONNECTS, &connects);
    if (connects > 0)
        fleet_stats_count(client->stats, "connections", (uint64_t)connects);
    if (code != CURLE_OK)
        return code;
    curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &reply->http);
    curl_easy_getinfo(client->curl, CURLINFO_CONTENT_TYPE, &type);
    reply->type = type ? type : "";
    reply->body = client->reply_len ? client->reply : "";
    reply->len = client->reply_len;
    return CURLE_OK;
}

/* Whether another try can help. What a device takes for a refusal never is. */
static int transient(CURLcode code, long http)
{
    return code != CURLE_OK || http >= 500;
}

/* What an error reply says: the title of a page, else its first line. */
static const char *excerpt(const fleet_reply_t *reply, apr_pool_t *pool)
{
    const char *title = strstr(reply->body, "<title>");
    const char *text = title ? title + 7 : reply->body;
    size_t n = strcspn(text, title ? "<\r\n" : "\r\n");
    return apr_pstrndup(pool, text, n < 120 ? n : 120);
}

static void back_off(int attempt)
{
    apr_sleep(APR_USEC_PER_SEC / 10 << (attempt < 5 ? attempt : 5));
}

static void count_failure(fleet_client_t *client, fleet_kind_t kind, CURLcode code,
                          const fleet_reply_t *reply, const char *url, apr_pool_t *pool)
{
    if (code != CURLE_OK) {
        const char *why = *client->error ? client->error : curl_easy_strerror(code);
        fleet_stats_error(client->stats, kind, cause_of(client, code), 0,
                          apr_psprintf(pool, "%s: %s", url, why));
    } else {
        fleet_stats_error(
            client->stats, kind, "HTTP status", (int)reply->http,
            apr_psprintf(pool, "%s%s%s", url, reply->len ? ": " : "", excerpt(reply, pool)));
    }
}

/* Send a request, again if that can help, to one of the URLs. */
static int exchange(fleet_client_t *client, fleet_kind_t kind, const apr_array_header_t *urls,
                    struct curl_slist *headers, const char *body, fleet_reply_t *reply,
                    apr_pool_t *pool)
{
    const fleet_options_t *opt = client->opt;
    for (int attempt = 0;; attempt++) {
        apr_time_t began = apr_time_now();
        const char *url = APR_ARRAY_IDX(urls, client->turn % urls->nelts, const char *);
        CURLcode code = perform(client, url, headers, body, reply);
        if (opt->switching == FLEET_SWITCH_MESSAGE)
            client->turn++;
        if (code == CURLE_OK && reply->http == 200) {
            fleet_stats_request(client->stats, kind, apr_time_now() - began);
            return 1;
        }
        if (attempt >= opt->retries || !transient(code, reply->http) || fleet_stop) {
            /* An enqueue's URL is as long as its list of ids. */
            url = kind == FLEET_ENQUEUE ? opt->api_url : url;
            count_failure(client, kind, code, reply, url, pool);
            return 0;
        }
        fleet_stats_count(client->stats, "sent again", 1);
        if (opt->switching != FLEET_SWITCH_MESSAGE)
            client->turn++;
        back_off(attempt);
    }
}

int fleet_client_send(fleet_client_t *client, fleet_kind_t kind, const char *body,
                      fleet_reply_t *reply, apr_pool_t *pool)
{
    const fleet_options_t *opt = client->opt;
    int checkin =
        kind == FLEET_AUTHENTICATE || kind == FLEET_TOKEN_UPDATE || kind == FLEET_CHECK_OUT;
    const char *identity =
        fleet_identity_header(client->fleet, client->device, opt, body, strlen(body), pool);
    struct curl_slist *headers = add_header(NULL, "Expect:");
    int ok;
    headers = add_header(headers, checkin ? "Content-Type: application/x-apple-aspen-mdm-checkin"
                                          : "Content-Type: application/x-apple-aspen-mdm");
    if (identity)
        headers = add_header(headers, identity);
    ok = exchange(client, kind, checkin ? opt->checkin_urls : opt->mdm_urls, headers, body, reply,
                  pool);
    curl_slist_free_all(headers);
    return ok;
}

int fleet_client_api(fleet_client_t *client, const char *url, const char *body,
                     fleet_reply_t *reply, apr_pool_t *pool)
{
    struct curl_slist *headers = add_header(NULL, "Expect:");
    const char *login = apr_pstrcat(pool, "nanomdm:", client->opt->api_key, NULL);
    apr_array_header_t *urls = apr_array_make(pool, 1, sizeof(const char *));
    int ok;
    APR_ARRAY_PUSH(urls, const char *) = url;
    headers = add_header(headers, "Content-Type: application/xml");
    headers = add_header(
        headers,
        apr_pstrcat(pool, "Authorization: Basic ",
                    fleet_base64((const unsigned char *)login, strlen(login), pool), NULL));
    ok = exchange(client, FLEET_ENQUEUE, urls, headers, body, reply, pool);
    curl_slist_free_all(headers);
    return ok;
}

void fleet_client_destroy(fleet_client_t *client)
{
    curl_easy_cleanup(client->curl);
    X509_free(client->x509);
    free(client->reply);
}
