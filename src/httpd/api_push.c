/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* GET, PUT and POST push/ID,…: push, and tell what came of it. */
#include "api.h"

#include "mdm_clock.h"

static int run_push(request_rec *r, const apr_array_header_t *ids)
{
    const service_t *service = &nanomdm_server(r->server)->service;
    apr_array_header_t *results = service_results(ids, r->pool);
    apr_time_t begun = mdm_clock();
    api_json_t json;
    const char *why;
    int failed;
    int http_status;

    if (ids->nelts == 0) {
        return api_error(r, HTTP_BAD_REQUEST, "push_error", "no enrollment id was given");
    }
    if (service_push(service, results, &why, r->pool) != APR_SUCCESS) {
        return api_error(r, HTTP_SERVICE_UNAVAILABLE, "push_error", why);
    }
    api_json_begin(&json, r);
    failed = api_json_results(&json, results);
    http_status = api_results_status(results, failed);
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, "push ids=%d failed=%d code=%d ms=%" APR_TIME_T_FMT,
                  results->nelts, failed, http_status, apr_time_as_msec(mdm_clock() - begun));
    return api_json_reply(&json, http_status);
}

int api_push(request_rec *r, const char *path)
{
    apr_array_header_t *ids = apr_array_make(r->pool, 16, sizeof(const char *));
    const char *body;
    apr_size_t len;
    const char *why;
    json_t *root;
    int http_status;

    /* A HEAD would push, too, and not say what came of it. */
    if (r->header_only ||
        (r->method_number != M_GET && r->method_number != M_PUT && r->method_number != M_POST)) {
        return api_not_allowed(r, "GET, PUT, POST", "push_error");
    }
    if (*path != '\0' || r->method_number != M_POST) {
        api_split_ids(ids, path, r->pool);
        return run_push(r, ids);
    }
    if (!api_body(r, nanomdm_server(r->server)->max_body, "push_error", &body, &len,
                  &http_status)) {
        return http_status;
    }
    why = api_read_json(&root, ids, body, len, r->pool);
    return why != NULL ? api_error(r, HTTP_BAD_REQUEST, "push_error", why) : run_push(r, ids);
}
