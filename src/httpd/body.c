/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Request bodies: read whole, bounded, into memory that grows with what really arrives. */
#include "nanomdm.h"

#include <apr_strings.h>
#include <http_protocol.h>

#define FIRST_SIZE 16384

typedef struct buffer_t {
    char *bytes;
    apr_size_t len;
    apr_size_t size; /* of bytes, one more than may be used */
} buffer_t;

static void append(buffer_t *buffer, const char *bytes, apr_size_t len, apr_pool_t *pool)
{
    if (buffer->len + len >= buffer->size) {
        apr_size_t size = buffer->size;
        char *larger;

        while (buffer->len + len >= size) {
            size *= 2;
        }
        larger = apr_palloc(pool, size);
        memcpy(larger, buffer->bytes, buffer->len);
        buffer->bytes = larger;
        buffer->size = size;
    }
    memcpy(buffer->bytes + buffer->len, bytes, len);
    buffer->len += len;
}

static int too_large(request_rec *r, apr_off_t max)
{
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r,
                  "request body over the limit of %" APR_OFF_T_FMT " bytes (NanoMDMMaxBody)", max);
    return HTTP_REQUEST_ENTITY_TOO_LARGE;
}

/* Takes what one brigade holds; *done at the end of the body. */
static int take_brigade(request_rec *r, apr_bucket_brigade *brigade, apr_off_t max,
                        buffer_t *buffer, int *done)
{
    for (apr_bucket *b = APR_BRIGADE_FIRST(brigade); b != APR_BRIGADE_SENTINEL(brigade);
         b = APR_BUCKET_NEXT(b)) {
        const char *bytes;
        apr_size_t len;

        if (APR_BUCKET_IS_EOS(b)) {
            *done = 1;
            return OK;
        }
        if (APR_BUCKET_IS_METADATA(b)) {
            continue;
        }
        if (apr_bucket_read(b, &bytes, &len, APR_BLOCK_READ) != APR_SUCCESS) {
            return HTTP_BAD_REQUEST;
        }
        if ((apr_off_t)(buffer->len + len) > max) {
            return too_large(r, max);
        }
        append(buffer, bytes, len, r->pool);
    }
    return OK;
}

int nanomdm_read_body(request_rec *r, apr_off_t max, const char **body, apr_size_t *len)
{
    buffer_t buffer = {apr_palloc(r->pool, FIRST_SIZE), 0, FIRST_SIZE};
    apr_bucket_brigade *brigade = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    const char *declared = apr_table_get(r->headers_in, "Content-Length");
    apr_off_t length;
    char *end;
    int done = 0;

    /* Refused at once, before the client sends it. */
    if (declared != NULL && apr_strtoff(&length, declared, &end, 10) == APR_SUCCESS &&
        length > max) {
        return too_large(r, max);
    }
    while (!done) {
        apr_status_t status = ap_get_brigade(r->input_filters, brigade, AP_MODE_READBYTES,
                                             APR_BLOCK_READ, HUGE_STRING_LEN);
        int http_status;

        if (status != APR_SUCCESS) {
            ap_log_rerror(APLOG_MARK, APLOG_INFO, status, r, "the request body broke off");
            return ap_map_http_request_error(status, HTTP_BAD_REQUEST);
        }
        http_status = take_brigade(r, brigade, max, &buffer, &done);
        if (http_status != OK) {
            return http_status;
        }
        apr_brigade_cleanup(brigade);
    }
    buffer.bytes[buffer.len] = '\0';
    *body = buffer.bytes;
    *len = buffer.len;
    return OK;
}

/* -- Handing a body out again ------------------------------------------------------------- */

static ap_filter_rec_t *replay_filter;

static apr_status_t replay(ap_filter_t *filter, apr_bucket_brigade *out, ap_input_mode_t mode,
                           apr_read_type_e block, apr_off_t bytes)
{
    apr_bucket_brigade *body = filter->ctx;
    apr_bucket *end;
    apr_status_t status;

    (void)block;
    if (mode != AP_MODE_READBYTES && mode != AP_MODE_SPECULATIVE) {
        return APR_ENOTIMPL;
    }
    if (APR_BRIGADE_EMPTY(body)) {
        APR_BRIGADE_INSERT_TAIL(out, apr_bucket_eos_create(filter->c->bucket_alloc));
        return APR_SUCCESS;
    }
    status = apr_brigade_partition(body, bytes, &end);
    if (status != APR_SUCCESS && status != APR_INCOMPLETE) {
        return status;
    }
    while (APR_BRIGADE_FIRST(body) != end && !APR_BRIGADE_EMPTY(body)) {
        apr_bucket *b = APR_BRIGADE_FIRST(body);

        if (mode == AP_MODE_READBYTES) {
            APR_BUCKET_REMOVE(b);
        } else if (apr_bucket_copy(b, &b) != APR_SUCCESS) {
            return APR_EGENERAL;
        }
        APR_BRIGADE_INSERT_TAIL(out, b);
        if (mode == AP_MODE_SPECULATIVE) {
            break;
        }
    }
    return APR_SUCCESS;
}

void nanomdm_replay_body(request_rec *r, const char *body, apr_size_t len)
{
    apr_bucket_brigade *brigade = apr_brigade_create(r->pool, r->connection->bucket_alloc);

    if (len > 0) {
        APR_BRIGADE_INSERT_TAIL(brigade,
                                apr_bucket_pool_create(body, len, r->pool, brigade->bucket_alloc));
    }
    APR_BRIGADE_INSERT_TAIL(brigade, apr_bucket_eos_create(brigade->bucket_alloc));
    ap_add_input_filter_handle(replay_filter, brigade, r, r->connection);
    /* The body's framing is ours now. */
    apr_table_unset(r->headers_in, "Transfer-Encoding");
    apr_table_setn(r->headers_in, "Content-Length", apr_psprintf(r->pool, "%" APR_SIZE_T_FMT, len));
}

void nanomdm_register_replay(apr_pool_t *pool)
{
    (void)pool;
    replay_filter = ap_register_input_filter("NANOMDM_REPLAY", replay, NULL, AP_FTYPE_CONTENT_SET);
}
