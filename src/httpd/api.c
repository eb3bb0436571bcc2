/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The API: paths below the location that set the handler, and the JSON that goes in and out. */
#include "api.h"

#include <apr_strings.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>

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

static void flush(api_json_t *json)
{
    apr_brigade_write(json->brigade, NULL, NULL, json->bytes, json->used);
    json->used = 0;
}

/* Gathered before they go into buckets: a full brigade takes each write as a bucket of its own. */
static int append(const char *bytes, size_t len, void *data)
{
    api_json_t *json = data;

    while (len > 0) {
        size_t part = sizeof(json->bytes) - json->used;

        part = len < part ? len : part;
        memcpy(json->bytes + json->used, bytes, part);
        json->used += part;
        bytes += part;
        len -= part;
        if (json->used == sizeof(json->bytes)) {
            flush(json);
        }
    }
    return 0;
}

/* What is not UTF-8 cannot stand in JSON: its bytes beyond ASCII become question marks. */
static void write_string(api_json_t *json, const char *value)
{
    json_t *string = json_string(value);

    if (string == NULL) {
        char *copy = apr_pstrdup(json->r->pool, value);

        for (char *c = copy; *c != '\0'; c++) {
            *c = (*c & 0x80) != 0 ? '?' : *c;
        }
        string = json_string(copy);
    }
    json_dump_callback(string, append, json, JSON_ENCODE_ANY);
    json_decref(string);
}

static void write_indent(api_json_t *json)
{
    static const char tabs[] = "\n\t\t\t\t";

    append(tabs, (size_t)json->depth + 1, json);
}

static void write_name(api_json_t *json, const char *name)
{
    if (!json->empty) {
        append(",", 1, json);
    }
    json->empty = 0;
    write_indent(json);
    write_string(json, name);
    append(": ", 2, json);
}

static void open_object(api_json_t *json)
{
    append("{", 1, json);
    json->depth++;
    json->empty = 1;
}

void api_json_begin(api_json_t *json, request_rec *r)
{
    json->r = r;
    json->brigade = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    json->depth = 0;
    json->used = 0;
    open_object(json);
}

void api_json_open(api_json_t *json, const char *name)
{
    write_name(json, name);
    open_object(json);
}

void api_json_close(api_json_t *json)
{
    json->depth--;
    if (!json->empty) {
        write_indent(json);
    }
    append("}", 1, json);
    json->empty = 0;
}

void api_json_string(api_json_t *json, const char *name, const char *value)
{
    if (value != NULL) {
        write_name(json, name);
        write_string(json, value);
    }
}

void api_json_true(api_json_t *json, const char *name)
{
    write_name(json, name);
    append("true", 4, json);
}

int api_json_results(api_json_t *json, const apr_array_header_t *results)
{
    int failed = 0;

    api_json_open(json, "status");
    for (int i = 0; i < results->nelts; i++) {
        const service_result_t *result = &APR_ARRAY_IDX(results, i, service_result_t);

        api_json_open(json, result->id);
        api_json_string(json, "push_error", result->push_error);
        api_json_string(json, "push_result", result->push_result);
        api_json_string(json, "command_error", result->command_error);
        api_json_close(json);
        failed += result->command_error != NULL || result->push_error != NULL;
    }
    api_json_close(json);
    return failed;
}

int api_json_reply(api_json_t *json, int http_status)
{
    api_json_close(json);
    append("\n", 1, json);
    flush(json);
    return nanomdm_reply_brigade(json->r, http_status, "application/json", json->brigade);
}

int api_results_status(const apr_array_header_t *results, int failed)
{
    if (failed == 0) {
        return HTTP_OK;
    }
    return failed < results->nelts ? HTTP_MULTI_STATUS : HTTP_INTERNAL_SERVER_ERROR;
}

int api_error(request_rec *r, int http_status, const char *member, const char *why)
{
    api_json_t json;

    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, "API request refused with %d: %s", http_status,
                  why);
    api_json_begin(&json, r);
    api_json_string(&json, member, why);
    return api_json_reply(&json, http_status);
}

int api_not_allowed(request_rec *r, const char *methods, const char *member)
{
    apr_table_setn(r->headers_out, "Allow", methods);
    return api_error(r, HTTP_METHOD_NOT_ALLOWED, member,
                     apr_pstrcat(r->pool, "use ", methods, NULL));
}

/* -- What comes in ------------------------------------------------------------------------ */

int api_body(request_rec *r, apr_off_t max, const char *member, const char **body, apr_size_t *len,
             int *http_status)
{
    int status = nanomdm_read_body(r, max, body, len);

    if (status == OK) {
        return 1;
    }
    *http_status =
        api_error(r, status, member,
                  status == HTTP_REQUEST_ENTITY_TOO_LARGE ? "request body too large"
                                                          : "the request body broke off");
    return 0;
}

char *api_parameter(request_rec *r, const char *name)
{
    char *state;

    if (r->args == NULL) {
        return NULL;
    }
    for (char *pair = apr_strtok(apr_pstrdup(r->pool, r->args), "&", &state); pair != NULL;
         pair = apr_strtok(NULL, "&", &state)) {
        char *value = strchr(pair, '=');

        if (value != NULL) {
            *value++ = '\0';
            if (ap_unescape_urlencoded(pair) == OK && strcmp(pair, name) == 0) {
                return value;
            }
        }
    }
    return NULL;
}

void api_split_ids(apr_array_header_t *ids, const char *list, apr_pool_t *pool)
{
    char *state;

    for (char *id = apr_strtok(apr_pstrdup(pool, list), ",", &state); id != NULL;
         id = apr_strtok(NULL, ",", &state)) {
        APR_ARRAY_PUSH(ids, const char *) = id;
    }
}

static apr_status_t json_cleanup(void *root)
{
    json_decref(root);
    return APR_SUCCESS;
}

static const char *ids_from_json(apr_array_header_t *ids, const json_t *list)
{
    size_t i;
    json_t *id;

    if (!json_is_array(list)) {
        return "\"ids\" is missing, or no array";
    }
    json_array_foreach(list, i, id)
    {
        if (!json_is_string(id)) {
            return "\"ids\" has a member that is no string";
        }
        APR_ARRAY_PUSH(ids, const char *) = json_string_value(id);
    }
    return NULL;
}

const char *api_read_json(json_t **out, apr_array_header_t *ids, const char *body, apr_size_t len,
                          apr_pool_t *pool)
{
    json_error_t error;
    json_t *root = json_loadb(body, len, JSON_REJECT_DUPLICATES, &error);

    if (root == NULL) {
        return apr_psprintf(pool, "the body is not JSON, from line %d, column %d on", error.line,
                            error.column);
    }
    apr_pool_cleanup_register(pool, root, json_cleanup, apr_pool_cleanup_null);
    if (!json_is_object(root)) {
        return "the body is no JSON object";
    }
    *out = root;
    return ids_from_json(ids, json_object_get(root, "ids"));
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

/* What stands behind an endpoint's name and a slash; "" if nothing does, NULL if it is another. */
static const char *below(const char *path, const char *endpoint)
{
    apr_size_t len = strlen(endpoint);

    if (strncmp(path, endpoint, len) != 0 || (path[len] != '\0' && path[len] != '/')) {
        return NULL;
    }
    return path[len] == '/' ? path + len + 1 : "";
}

int nanomdm_api_handler(request_rec *r)
{
    const char *path;
    const char *rest;

    if (r->handler == NULL || nanomdm_handler_kind(r->handler) != NANOMDM_HANDLER_API) {
        return DECLINED;
    }
    nanomdm_trace_id(r);
    if (!nanomdm_is_guarded(r)) {
        return HTTP_FORBIDDEN;
    }
    path = endpoint_path(r);
    if (strcmp(path, "pushcert") == 0) {
        return api_pushcert(r);
    }
    if (strcmp(path, "escrowkeyunlock") == 0) {
        return api_escrow(r);
    }
    if ((rest = below(path, "push")) != NULL) {
        return api_push(r, rest);
    }
    if ((rest = below(path, "enqueue")) != NULL) {
        return api_enqueue(r, rest);
    }
    return api_error(r, HTTP_NOT_FOUND, "error", "no such endpoint");
}
