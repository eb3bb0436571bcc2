/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* GET and PUT pushcert: the certificates to push with. Nothing of a key is ever told. */
#include "api.h"

#include <apr_strings.h>

/* A certificate, a key and those that vouch for it are a few thousand bytes. */
#define BODY_MAX 65536

static int reply_certificate(request_rec *r, const trust_pushcert_t *cert)
{
    apr_time_exp_t end;
    api_json_t json;

    apr_time_exp_gmt(&end, cert->not_after);
    api_json_begin(&json, r);
    api_json_string(&json, "not_after",
                    apr_psprintf(r->pool, "%04d-%02d-%02dT%02d:%02d:%02dZ", end.tm_year + 1900,
                                 end.tm_mon + 1, end.tm_mday, end.tm_hour, end.tm_min, end.tm_sec));
    api_json_string(&json, "topic", cert->topic);
    return api_json_reply(&json, HTTP_OK);
}

static int get_certificate(request_rec *r)
{
    char *topic = api_parameter(r, "topic");
    trust_pushcert_t cert;
    const char *why;
    apr_status_t status;

    if (topic == NULL || ap_unescape_urlencoded(topic) != OK || !mdm_id_valid(topic)) {
        return api_error(r, HTTP_BAD_REQUEST, "error", "the parameter topic is missing or invalid");
    }
    status =
        service_push_cert_load(&nanomdm_server(r->server)->service, topic, &cert, &why, r->pool);
    if (status == MDM_EINPUT) { /* stored by somebody else: no mistake of the caller's */
        return api_error(r, HTTP_INTERNAL_SERVER_ERROR, "error", why);
    }
    return status == APR_SUCCESS ? reply_certificate(r, &cert)
                                 : api_error(r, nanomdm_http_status(status), "error", why);
}

static int put_certificate(request_rec *r)
{
    const nanomdm_server_t *conf = nanomdm_server(r->server);
    apr_off_t max = conf->max_body < BODY_MAX ? conf->max_body : BODY_MAX;
    trust_pushcert_t cert;
    const char *body;
    apr_size_t len;
    const char *why;
    int http_status;
    apr_status_t status;

    if (!api_body(r, max, "error", &body, &len, &http_status)) {
        return http_status;
    }
    status = service_push_cert_store(&conf->service, body, len, &cert, &why, r->pool);
    if (status != APR_SUCCESS) {
        return api_error(r, nanomdm_http_status(status), "error", why);
    }
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, "push certificate stored: topic=\"%s\"",
                  ap_escape_logitem(r->pool, cert.topic));
    if (cert.expired) {
        ap_log_rerror(APLOG_MARK, APLOG_WARNING, 0, r,
                      "the push certificate for %s has expired: the push service will refuse it",
                      ap_escape_logitem(r->pool, cert.topic));
    }
    return reply_certificate(r, &cert);
}

int api_pushcert(request_rec *r)
{
    switch (r->method_number) {
    case M_GET:
        return get_certificate(r);
    case M_PUT:
        return put_certificate(r);
    default:
        return api_not_allowed(r, "GET, PUT", "error");
    }
}
