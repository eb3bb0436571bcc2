/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The API: paths below the location that set the handler, JSON in and out. */
#include "nanomdm.h"

#include <apr_encode.h>
#include <apr_strings.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>
#include <jansson.h>
#include <stdlib.h>

/* Until the module can push, an enqueue says so for each id that was to be pushed to. */
#define NO_PUSH_YET "this version cannot send pushes: the device gets the command when it asks"

int nanomdm_is_guarded(request_rec *r)
{
    if (ap_some_auth_required(r) && nanomdm_dir(r)->restricted > 0 &&
        ap_satisfies(r) != SATISFY_ANY) {
        return 1;
    }
    ap_log_rerror(
        APLOG_MARK, APLOG_ERR, 0, r,
        "the location of %s is open to anyone: give it a Require directive, as in \"Require "
        "valid-user\" with AuthBasicProvider nanomdm",
        r->handler);
    return 0;
}

/* -- JSON out ----------------------------------------------------------------------------- */

/* Jansson indents by spaces: each space at the beginning of a line becomes a tab. Line ends inside
 * of strings are escaped, so there are no others. */
static char *dump_with_tabs(json_t *json, apr_pool_t *pool)
{
    char *dump = json_dumps(json, JSON_INDENT(1));
    char *text;

    if (dump == NULL) {
        return NULL;
    }
    text = apr_pstrcat(pool, dump, "\n", NULL);
    free(dump);
    for (char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        while (*line == ' ') {
            *line++ = '\t';
        }
    }
    return text;
}

static int reply_json(request_rec *r, int http_status, json_t *json)
{
    char *text = dump_with_tabs(json, r->pool);

    json_decref(json);
    if (text == NULL) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r, "a reply could not be written as JSON");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    return nanomdm_reply(r, http_status, "application/json", text, strlen(text));
}

static int reply_error(request_rec *r, int http_status, const char *member, const char *why)
{
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, "API request refused with %d: %s", http_status,
                  why);
    return reply_json(r, http_status, json_pack("{ss}", member, why));
}

/* -- Enqueue ------------------------------------------------------------------------------ */

typedef struct enqueue_t {
    apr_array_header_t *ids; /* const char * */
    const char *command;
    apr_size_t command_len;
    int nopush;
} enqueue_t;

static void split_ids(apr_array_header_t *ids, const char *list, apr_pool_t *pool)
{
    char *state;

    for (char *id = apr_strtok(apr_pstrdup(pool, list), ",", &state); id != NULL;
         id = apr_strtok(NULL, ",", &state)) {
        APR_ARRAY_PUSH(ids, const char *) = id;
    }
}

/* Whether the query string has the parameter with a value that is not empty. */
static int has_parameter(request_rec *r, const char *name)
{
    char *state;
    char *pair;

    if (r->args == NULL) {
        return 0;
    }
    for (pair = apr_strtok(apr_pstrdup(r->pool, r->args), "&", &state); pair != NULL;
         pair = apr_strtok(NULL, "&", &state)) {
        char *value = strchr(pair, '=');

        if (value != NULL && value[1] != '\0') {
            *value = '\0';
            if (ap_unescape_urlencoded(pair) == OK && strcmp(pair, name) == 0) {
                return 1;
            }
        }
    }
    return 0;
}

static const char *ids_from_json(enqueue_t *call, json_t *ids, apr_pool_t *pool)
{
    size_t i;
    json_t *id;

    if (!json_is_array(ids)) {
        return "\"ids\" is missing, or no array";
    }
    json_array_foreach(ids, i, id)
    {
        if (!json_is_string(id)) {
            return "\"ids\" has a member that is no string";
        }
        APR_ARRAY_PUSH(call->ids, const char *) = apr_pstrdup(pool, json_string_value(id));
    }
    return NULL;
}

static apr_status_t json_cleanup(void *root)
{
    json_decref(root);
    return APR_SUCCESS;
}

/* Returns what is wrong with the body, or NULL. */
static const char *read_json(enqueue_t *call, const char *body, apr_size_t len, apr_pool_t *pool)
{
    json_error_t error;
    json_t *root = json_loadb(body, len, JSON_REJECT_DUPLICATES, &error);
    const json_t *command;
    const json_t *nopush;
    const char *why;

    if (root == NULL) {
        return apr_psprintf(pool, "the body is not JSON, from line %d, column %d on", error.line,
                            error.column);
    }
    apr_pool_cleanup_register(pool, root, json_cleanup, apr_pool_cleanup_null);
    if (!json_is_object(root)) {
        return "the body is no JSON object";
    }
    why = ids_from_json(call, json_object_get(root, "ids"), pool);
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

static json_t *id_error(const char *member, const char *why)
{
    return json_pack("{ss}", member, why);
}

/* The reply's "status", and how many ids failed. */
static json_t *id_results(const apr_array_header_t *queued, int nopush, int *failed)
{
    json_t *status = json_object();

    *failed = 0;
    for (int i = 0; i < queued->nelts; i++) {
        const service_queued_t *entry = &APR_ARRAY_IDX(queued, i, service_queued_t);
        json_t *result;

        if (!entry->known) {
            result = id_error("command_error", "no such enrollment");
        } else {
            result = nopush ? json_object() : id_error("push_error", NO_PUSH_YET);
        }
        *failed += !entry->known || !nopush;
        /* An id that is not UTF-8 cannot stand in JSON; it failed all the same. */
        json_object_set_new(status, entry->id, result);
    }
    return status;
}

static int reply_enqueued(request_rec *r, const enqueue_t *call, const mdm_command_t *command,
                          const apr_array_header_t *queued)
{
    int failed;
    json_t *reply = json_pack("{so}", "status", id_results(queued, call->nopush, &failed));
    int http_status = HTTP_OK;

    if (failed > 0) {
        http_status = failed < queued->nelts ? HTTP_MULTI_STATUS : HTTP_INTERNAL_SERVER_ERROR;
    }
    if (call->nopush) {
        json_object_set_new(reply, "no_push", json_true());
    }
    json_object_set_new(reply, "command_uuid", json_string(command->uuid));
    json_object_set_new(reply, "request_type", json_string(command->request_type));
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r,
                  "enqueue command=\"%s\" request_type=\"%s\" ids=%d failed=%d code=%d",
                  ap_escape_logitem(r->pool, command->uuid),
                  ap_escape_logitem(r->pool, command->request_type), queued->nelts, failed,
                  http_status);
    return reply_json(r, http_status, reply);
}

/* Ids that cannot be an enrollment's never reach the database. */
static void move_invalid(enqueue_t *call, apr_array_header_t *invalid)
{
    int kept = 0;

    for (int i = 0; i < call->ids->nelts; i++) {
        const char *id = APR_ARRAY_IDX(call->ids, i, const char *);

        if (mdm_id_valid(id)) {
            APR_ARRAY_IDX(call->ids, kept++, const char *) = id;
        } else {
            service_queued_t *entry = apr_array_push(invalid);

            entry->id = id;
            entry->known = 0;
        }
    }
    call->ids->nelts = kept;
}

static int run_enqueue(request_rec *r, enqueue_t *call)
{
    const service_t *service = &nanomdm_server(r->server)->service;
    apr_array_header_t *invalid = apr_array_make(r->pool, 1, sizeof(service_queued_t));
    apr_array_header_t *queued;
    mdm_command_t *command;
    const char *why;
    apr_status_t status;

    if (mdm_command_parse(&command, call->command, call->command_len, &why, r->pool) !=
        APR_SUCCESS) {
        return reply_error(r, HTTP_BAD_REQUEST, "command_error", why);
    }
    if (call->ids->nelts == 0) {
        return reply_error(r, HTTP_BAD_REQUEST, "command_error", "no enrollment id was given");
    }
    move_invalid(call, invalid);
    queued = invalid;
    status = APR_SUCCESS;
    if (call->ids->nelts > 0) {
        status = service_enqueue(service, command, call->ids, &queued, r->pool);
    }
    switch (status) {
    case APR_SUCCESS:
    case APR_ENOENT:
        if (queued != invalid) {
            apr_array_cat(queued, invalid);
        }
        return reply_enqueued(r, call, command, queued);
    case MDM_ECONFLICT:
        return reply_error(r, HTTP_CONFLICT, "command_error",
                           "a command with this CommandUUID and other content exists");
    default:
        return reply_error(r, nanomdm_http_status(status), "command_error",
                           "the database is not available");
    }
}

static int enqueue(request_rec *r, const char *id_list)
{
    enqueue_t call = {apr_array_make(r->pool, 16, sizeof(const char *)), NULL, 0, 0};
    const char *body;
    apr_size_t len;
    const char *why;
    int http_status;

    if (r->method_number != M_POST && r->method_number != M_PUT) {
        apr_table_setn(r->headers_out, "Allow", "PUT, POST");
        return reply_error(r, HTTP_METHOD_NOT_ALLOWED, "command_error", "use PUT or POST");
    }
    http_status = nanomdm_read_body(r, nanomdm_server(r->server)->max_body, &body, &len);
    if (http_status != OK) {
        return reply_error(r, http_status, "command_error",
                           http_status == HTTP_REQUEST_ENTITY_TOO_LARGE
                               ? "request body too large"
                               : "the request body broke off");
    }
    call.nopush = has_parameter(r, "nopush");
    if (*id_list == '\0' && r->method_number == M_POST) {
        why = read_json(&call, body, len, r->pool);
        if (why != NULL) {
            return reply_error(r, HTTP_BAD_REQUEST, "command_error", why);
        }
    } else {
        call.command = body;
        call.command_len = len;
        split_ids(call.ids, id_list, r->pool);
    }
    return run_enqueue(r, &call);
}

/* -- Paths -------------------------------------------------------------------------------- */

/* The rest of the path behind the location that set the handler, without slashes around it. */
static const char *endpoint_path(const request_rec *r)
{
    const nanomdm_dir_t *dir = nanomdm_dir(r);
    const char *rest = r->uri;

    if (dir->base != NULL && strncmp(rest, dir->base, strlen(dir->base)) == 0) {
        rest += strlen(dir->base);
    }
    return rest + strspn(rest, "/");
}

int nanomdm_api_handler(request_rec *r)
{
    const char *path;

    if (r->handler == NULL || nanomdm_handler_kind(r->handler) != NANOMDM_HANDLER_API) {
        return DECLINED;
    }
    nanomdm_trace_id(r);
    if (!nanomdm_is_guarded(r)) {
        return HTTP_FORBIDDEN;
    }
    path = endpoint_path(r);
    if (strcmp(path, "enqueue") == 0) {
        return enqueue(r, "");
    }
    if (strncmp(path, "enqueue/", 8) == 0) {
        return enqueue(r, path + 8);
    }
    return reply_error(r, HTTP_NOT_FOUND, "error", "no such endpoint");
}
