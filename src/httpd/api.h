/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What the API's endpoints share: reading ids and JSON, writing JSON. */
#ifndef NANOMDM_API_H
#define NANOMDM_API_H

#include "nanomdm.h"

#include <jansson.h>

/* The endpoints; path is what stands behind the endpoint's name, without slashes before it. */
int api_enqueue(request_rec *r, const char *path);
int api_push(request_rec *r, const char *path);
int api_pushcert(request_rec *r);
int api_escrow(request_rec *r);

/** Answer with {member: why}, and log it. */
int api_error(request_rec *r, int http_status, const char *member, const char *why);
/** Answer 405, likewise. */
int api_not_allowed(request_rec *r, const char *methods, const char *member);

/** Read the body, at most max bytes. Where that fails the reply is sent.
 * @return whether it was read; else *http_status is what the handler returns */
int api_body(request_rec *r, apr_off_t max, const char *member, const char **body, apr_size_t *len,
             int *http_status);
/** A parameter of the query string, still escaped, in the request's pool; or NULL. */
char *api_parameter(request_rec *r, const char *name);

/** Append the ids (const char *) of a list with commas between. */
void api_split_ids(apr_array_header_t *ids, const char *list, apr_pool_t *pool);
/** Read a JSON object, which lives as long as the pool, and append its "ids", by reference.
 * @return what is wrong with it, or NULL */
const char *api_read_json(json_t **root, apr_array_header_t *ids, const char *body, apr_size_t len,
                          apr_pool_t *pool);

/* -- JSON out: written straight into buckets, for there may be very many ids */

typedef struct api_json_t {
    request_rec *r;
    apr_bucket_brigade *brigade;
    char bytes[APR_BUCKET_BUFF_SIZE];
    apr_size_t used;
    int depth;
    int empty; /* the innermost open object has no member yet */
} api_json_t;

/** Begin a reply's object; api_json_reply() sends it. */
void api_json_begin(api_json_t *json, request_rec *r);
/** Open an object as a member of the open one; api_json_close() closes it. */
void api_json_open(api_json_t *json, const char *name);
void api_json_close(api_json_t *json);
/** Add a member with a string; not if the value is NULL. */
void api_json_string(api_json_t *json, const char *name, const char *value);
void api_json_true(api_json_t *json, const char *name);
/** Add what became of ids (service_result_t) as "status". @return how many failed */
int api_json_results(api_json_t *json, const apr_array_header_t *results);
int api_json_reply(api_json_t *json, int http_status);

/** 200 if none failed, 500 if all did, else 207. */
int api_results_status(const apr_array_header_t *results, int failed);

#endif
