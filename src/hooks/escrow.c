/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Unlocking a device with its escrow key, at Apple's server or one in its place. Knows how to ask;
 * which fields there are, and whose certificate, is the caller's.
 *
 * Source: Apple, "Creating and using bypass codes".
 */
#include <apr_escape.h>
#include <apr_strings.h>
#include <string.h>

#include "http.h"

#define MAX_REPLY (1024 * 1024)

static const char *form_text(const apr_array_header_t *parameters, apr_pool_t *pool)
{
    apr_array_header_t *parts = apr_array_make(pool, 32, sizeof(const char *));

    for (int i = 0; i < parameters->nelts; i++) {
        const hooks_parameter_t *p = &APR_ARRAY_IDX(parameters, i, hooks_parameter_t);

        APR_ARRAY_PUSH(parts, const char *) = i > 0 ? "&" : "";
        APR_ARRAY_PUSH(parts, const char *) = p->name;
        APR_ARRAY_PUSH(parts, const char *) = "=";
        APR_ARRAY_PUSH(parts, const char *) = apr_pescape_urlencoded(pool, p->value);
    }
    return apr_array_pstrcat(pool, parts, 0);
}

apr_status_t hooks_escrow_unlock(hooks_http_t *http, const hooks_target_t *target,
                                 const apr_array_header_t *query, const apr_array_header_t *form,
                                 const char *cert_pem, const char *key_pem, hooks_answer_t *answer,
                                 const char **why, apr_pool_t *pool)
{
    static const char *const between[] = {"Connection",     "Keep-Alive", "Transfer-Encoding",
                                          "Content-Length", "Trailer",    "Upgrade"};
    const char *joint = strchr(target->url, '?') != NULL ? "&" : "?";
    const char *body = form_text(form, pool);
    http_request_t request = {
        .method = "POST",
        .url = apr_pstrcat(pool, target->url, joint, form_text(query, pool), NULL),
        .body = body,
        .body_len = strlen(body),
        .body_type = "application/x-www-form-urlencoded",
        .cert_pem = cert_pem,
        .key_pem = key_pem,
        .max_reply = MAX_REPLY,
    };
    apr_status_t status = http_call(http, target, &request, answer, why, pool);

    for (size_t i = 0; status == APR_SUCCESS && i < sizeof(between) / sizeof(between[0]); i++) {
        apr_table_unset(answer->headers, between[i]);
    }
    return status;
}
