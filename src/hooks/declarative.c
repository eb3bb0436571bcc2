/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The declaration server: which URL a device's message means, and what of the server's answers the
 * device may see. The device chooses the endpoint: it must not choose the server.
 */
#include <apr_lib.h>
#include <apr_strings.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "http.h"
#include "mdm_plist.h"

#define MAX_REPLY (16 * 1024 * 1024)

static const char *part(CURLU *url, CURLUPart what, apr_pool_t *pool)
{
    char *value = NULL;
    const char *copy = "";

    if (curl_url_get(url, what, &value, what == CURLUPART_PORT ? CURLU_DEFAULT_PORT : 0) ==
        CURLUE_OK) {
        copy = apr_pstrdup(pool, value);
        curl_free(value);
    }
    return copy;
}

/* One that a server, or a proxy before it, may take for another: a dot segment with a parameter. */
static int has_dot_segment(const char *endpoint)
{
    const char *segment = endpoint;

    do {
        segment += *segment == '/';
        if (strncmp(segment, ".;", 2) == 0 || strncmp(segment, "..;", 3) == 0) {
            return 1;
        }
        segment = strchr(segment, '/');
    } while (segment != NULL);
    return 0;
}

/* The endpoint without its escapes; NULL if one is damaged, or stands for a character that means
 * something in a path, or for a control character. */
static const char *decode(const char *endpoint, apr_pool_t *pool)
{
    char *text = apr_pstrdup(pool, endpoint);
    char *to = text;

    for (const char *c = text; *c != '\0'; c++) {
        char digits[3] = {0};

        if (apr_iscntrl(*c)) {
            return NULL;
        }
        if (*c != '%') {
            *to++ = *c;
            continue;
        }
        if (!apr_isxdigit(c[1]) || !apr_isxdigit(c[2])) {
            return NULL;
        }
        memcpy(digits, c + 1, 2);
        *to = (char)strtol(digits, NULL, 16);
        if (apr_iscntrl(*to) || strchr("./\\%;", *to) != NULL) {
            return NULL;
        }
        to++;
        c += 2;
    }
    *to = '\0';
    return text;
}

static int is_plain(const char *endpoint, apr_pool_t *pool)
{
    const char *text = decode(endpoint, pool);

    return text != NULL && mdm_utf8_valid(text, strlen(text)) && *endpoint != '\0' &&
           *endpoint != '/' && strpbrk(endpoint, "\\?#") == NULL && !has_dot_segment(endpoint);
}

static int is_below(CURLU *base, CURLU *url, apr_pool_t *pool)
{
    static const CURLUPart origin[] = {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT,
                                       CURLUPART_USER, CURLUPART_PASSWORD};
    const char *path = part(base, CURLUPART_PATH, pool);

    for (size_t i = 0; i < sizeof(origin) / sizeof(origin[0]); i++) {
        if (strcmp(part(base, origin[i], pool), part(url, origin[i], pool)) != 0) {
            return 0;
        }
    }
    return strncmp(part(url, CURLUPART_PATH, pool), path, strlen(path)) == 0;
}

/* The last segment of a relative reference's base would be dropped: the slash is always there. */
static int set_base(CURLU *url, const char *base, apr_pool_t *pool)
{
    const char *path;

    if (curl_url_set(url, CURLUPART_URL, base, 0) != CURLUE_OK) {
        return 0;
    }
    path = part(url, CURLUPART_PATH, pool);
    return *path != '\0' && path[strlen(path) - 1] == '/'
               ? 1
               : curl_url_set(url, CURLUPART_PATH, apr_pstrcat(pool, path, "/", NULL), 0) ==
                     CURLUE_OK;
}

apr_status_t hooks_endpoint_url(const char **url, const char *base, const char *endpoint,
                                apr_pool_t *pool)
{
    CURLU *from = curl_url();
    CURLU *to = curl_url();
    apr_status_t status = MDM_EINPUT;

    if (from != NULL && to != NULL && endpoint != NULL && is_plain(endpoint, pool) &&
        set_base(from, base, pool) && set_base(to, base, pool) &&
        curl_url_set(to, CURLUPART_URL, endpoint, CURLU_URLENCODE) == CURLUE_OK &&
        is_below(from, to, pool)) {
        *url = part(to, CURLUPART_URL, pool);
        status = APR_SUCCESS;
    }
    curl_url_cleanup(from);
    curl_url_cleanup(to);
    return status;
}

static int is_signed(const hooks_target_t *target, const hooks_answer_t *answer, apr_pool_t *pool)
{
    const char *given = apr_table_get(answer->headers, HTTP_HMAC_HEADER);
    const char *right =
        http_hmac(target->recv_key, target->recv_key_len, answer->body, answer->len, pool);

    return given != NULL && right != NULL && strlen(given) == strlen(right) &&
           CRYPTO_memcmp(given, right, strlen(right)) == 0;
}

/* What a device may see; 401, 403 and 407 may end its enrollment, and a redirect is nobody's
 * answer. */
static apr_status_t judge(const hooks_target_t *target, hooks_answer_t *answer, const char **why,
                          apr_pool_t *pool)
{
    int code = answer->code;

    if (code == 200 && target->recv_key != NULL && !is_signed(target, answer, pool)) {
        *why = "the declaration server's reply does not have the right " HTTP_HMAC_HEADER;
        return MDM_EGATEWAY;
    }
    if (code == 200 || code == 204 ||
        (code >= 400 && code < 500 && code != 401 && code != 403 && code != 407)) {
        return APR_SUCCESS;
    }
    *why = apr_psprintf(pool, "the declaration server answered %d", code);
    return MDM_EGATEWAY;
}

apr_status_t hooks_declarative(hooks_http_t *http, const hooks_target_t *target,
                               const mdm_message_t *message, hooks_answer_t *answer,
                               const char **why, apr_pool_t *pool)
{
    const mdm_enrollment_t *enrollment = &message->enrollment;
    apr_table_t *headers = apr_table_make(pool, 4);
    http_request_t request = {
        .method = message->data != NULL ? "PUT" : "GET",
        .body = (const char *)message->data,
        .body_len = message->data_len,
        .body_type = message->data != NULL ? "application/json" : NULL,
        .headers = headers,
        .max_reply = MAX_REPLY,
    };
    hooks_answer_t got;
    apr_status_t status = hooks_endpoint_url(&request.url, target->url, message->endpoint, pool);

    if (status != APR_SUCCESS) {
        *why = "the Endpoint is none below NanoMDMDeclarativeManagement's URL";
        return status;
    }
    apr_table_setn(headers, "X-Enrollment-ID", enrollment->id);
    apr_table_setn(headers, "X-Enrollment-Type", mdm_enrollment_type_name(enrollment->type));
    if (enrollment->parent_id != NULL) {
        apr_table_setn(headers, "X-Enrollment-ParentID", enrollment->parent_id);
    }
    status = http_call(http, target, &request, &got, why, pool);
    if (status != APR_SUCCESS) {
        *why = apr_pstrcat(pool, "the declaration server gave no answer: ", *why, NULL);
        return status;
    }
    status = judge(target, &got, why, pool);
    if (status == APR_SUCCESS) {
        *answer = got;
    }
    return status;
}
