/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* POST and PUT enqueue/ID,…: queue a command, and push to those who have it now. */
#include "api.h"

#include <apr_encode.h>

typedef struct enqueue_t {
    apr_array_header_t *ids; /* const char * */
    const char *command;
    apr_size_t command_len;
    int nopush;
} enqueue_t;

/* Returns what is wrong with the body, or NULL. */
static const char *read_json(enqueue_t *call, const char *body, apr_size_t len, apr_pool_t *pool)
{
    json_t *root;
    const json_t *command;
    const json_t *nopush;
    const char *why = api_read_json(&root, call->ids, body, len, pool);

    if (why != NULL) {
        return why;
    }
    nopush = json_object_get(root, "nopush");
    if (nopush != NULL && !json_is_boolean(nopush)) {
        return "\"nopush\" is neither true nor false";
    }
    call->nopush |= json_is_true(nopush);
    command = json_object_get(root, "command");
    if (!json_is_string(command)) {
        return "\"command\" is missing, or no string";
    }
    call->command = apr_pdecode_base64(pool, json_string_value(command),
                                       (apr_ssize_t)json_string_length(command), APR_ENCODE_NONE,
                                       &call->command_len);
    return call->command == NULL ? "\"command\" is not base64" : NULL;
}

static void log_enqueue(request_rec *r, const mdm_command_t *command, int ids, int failed,
                        int http_status)
{
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r,
                  "enqueue command=\"%s\" request_type=\"%s\" ids=%d failed=%d code=%d",
                  ap_escape_logitem(r->pool, command->uuid),
                  ap_escape_logitem(r->pool, command->request_type), ids, failed, http_status);
}

/* @param why  the ids were queued but could not be pushed to; NULL: no such thing */
static int reply_enqueued(request_rec *r, const enqueue_t *call, const mdm_command_t *command,
                          const apr_array_header_t *results, const char *why)
{
    api_json_t json;
    int failed = results->nelts;
    int http_status = HTTP_SERVICE_UNAVAILABLE;

    api_json_begin(&json, r);
    if (why == NULL) {
        failed = api_json_results(&json, results);
        http_status = api_results_status(results, failed);
    }
    if (call->nopush) {
        api_json_true(&json, "no_push");
    }
    api_json_string(&json, "push_error", why);
    api_json_string(&json, "command_uuid", command->uuid);
    api_json_string(&json, "request_type", command->request_type);
    log_enqueue(r, command, results->nelts, failed, http_status);
    return api_json_reply(&json, http_status);
}

static int run_enqueue(request_rec *r, const enqueue_t *call)
{
    const service_t *service = &nanomdm_server(r->server)->service;
    apr_array_header_t *results;
    mdm_command_t *command;
    const char *why;
    apr_status_t status;

    if (mdm_command_parse(&command, call->command, call->command_len, &why, r->pool) !=
        APR_SUCCESS) {
        return api_error(r, HTTP_BAD_REQUEST, "command_error", why);
    }
    if (call->ids->nelts == 0) {
        return api_error(r, HTTP_BAD_REQUEST, "command_error", "no enrollment id was given");
    }
    results = service_results(call->ids, r->pool);
    status = service_enqueue(service, command, results, r->pool);
    why = NULL;
    switch (status) {
    case APR_SUCCESS:
        /* Queued it is, whatever becomes of the push: the same call may be made again. */
        if (!call->nopush && service_push(service, results, &why, r->pool) == APR_SUCCESS) {
            why = NULL;
        }
        return reply_enqueued(r, call, command, results, why);
    case APR_ENOENT:
        return reply_enqueued(r, call, command, results, NULL);
    case MDM_ECONFLICT:
        return api_error(r, HTTP_CONFLICT, "command_error",
                         "a command with this CommandUUID and other content exists");
    default:
        return api_error(r, nanomdm_http_status(status), "command_error",
                         "the database is not available");
    }
}

int api_enqueue(request_rec *r, const char *path)
{
    enqueue_t call = {apr_array_make(r->pool, 16, sizeof(const char *)), NULL, 0, 0};
    const char *nopush = api_parameter(r, "nopush");
    const char *body;
    apr_size_t len;
    const char *why;
    int http_status;

    if (r->method_number != M_POST && r->method_number != M_PUT) {
        return api_not_allowed(r, "PUT, POST", "command_error");
    }
    if (!api_body(r, nanomdm_server(r->server)->max_body, "command_error", &body, &len,
                  &http_status)) {
        return http_status;
    }
    call.nopush = nopush != NULL && *nopush != '\0';
    if (*path == '\0' && r->method_number == M_POST) {
        why = read_json(&call, body, len, r->pool);
        if (why != NULL) {
            return api_error(r, HTTP_BAD_REQUEST, "command_error", why);
        }
    } else {
        call.command = body;
        call.command_len = len;
        api_split_ids(call.ids, path, r->pool);
    }
    return run_enqueue(r, &call);
}
