/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Replies: statuses, headers, bodies, and the trace id that joins logs. */
#include "nanomdm.h"

#include <apr_escape.h>
#include <apr_strings.h>
#include <http_protocol.h>
#include <stdlib.h>

const char *nanomdm_trace_id(request_rec *r)
{
    const char *id = apr_table_get(r->err_headers_out, "X-Trace-ID");

    if (id != NULL) {
        return id;
    }
    id = apr_table_get(r->subprocess_env, "UNIQUE_ID");
    if (id == NULL) {
        unsigned char random[12];

        ap_random_insecure_bytes(random, sizeof(random));
        id = apr_pescape_hex(r->pool, random, sizeof(random), 0);
        apr_table_setn(r->subprocess_env, "UNIQUE_ID", id);
    }
    apr_table_setn(r->err_headers_out, "X-Trace-ID", id);
    return id;
}

int nanomdm_http_status(apr_status_t status)
{
    switch (status) {
    case APR_SUCCESS:
        return HTTP_OK;
    case MDM_EINPUT:
    case MDM_EREFUSED:
        return HTTP_BAD_REQUEST;
    case APR_ENOENT:
    case MDM_ENOTCONFIGURED:
        return HTTP_NOT_FOUND;
    case MDM_EDECLINED:
        return HTTP_GONE;
    case MDM_ECONFLICT:
        return HTTP_CONFLICT;
    case MDM_EGATEWAY:
    case MDM_ECROWDED:
        return HTTP_BAD_GATEWAY;
    case MDM_EUNAVAILABLE:
        return HTTP_SERVICE_UNAVAILABLE;
    default:
        return HTTP_INTERNAL_SERVER_ERROR;
    }
}

static void set_head(request_rec *r, int http_status, const char *type, apr_off_t len)
{
    r->status = http_status;
    if (atoi(ap_get_status_line(http_status)) != http_status) { /* another server's, passed on */
        r->status_line = apr_psprintf(r->pool, "%d Unknown", http_status);
    }
    if (http_status == HTTP_SERVICE_UNAVAILABLE) {
        apr_table_setn(r->headers_out, "Retry-After", NANOMDM_RETRY_AFTER);
    }
    ap_set_content_type(r, type);
    ap_set_content_length(r, len);
}

int nanomdm_reply(request_rec *r, int http_status, const char *type, const char *body,
                  apr_size_t len)
{
    set_head(r, http_status, type, (apr_off_t)len);
    if (len > 0) {
        ap_rwrite(body, (int)len, r);
    }
    return OK;
}

int nanomdm_reply_brigade(request_rec *r, int http_status, const char *type,
                          apr_bucket_brigade *body)
{
    apr_off_t len = 0;

    apr_brigade_length(body, 1, &len);
    set_head(r, http_status, type, len);
    ap_pass_brigade(r->output_filters, body); /* a client that went away is no failure of ours */
    return OK;
}

int nanomdm_reply_text(request_rec *r, int http_status, const char *text)
{
    const char *line = apr_pstrcat(r->pool, text, "\n", NULL);

    return nanomdm_reply(r, http_status, "text/plain; charset=utf-8", line, strlen(line));
}

int nanomdm_reply_not_allowed(request_rec *r, const char *methods)
{
    apr_table_setn(r->headers_out, "Allow", methods);
    return nanomdm_reply_text(r, HTTP_METHOD_NOT_ALLOWED,
                              apr_pstrcat(r->pool, "use ", methods, NULL));
}
