/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The device endpoints, the migration endpoint and the version: from a request to a message, and
 * from the service's answer to a reply. A device never gets 401 or 403.
 */
#include "nanomdm.h"

#include <apr_strings.h>
#include <http_core.h>
#include <http_protocol.h>

#define CHECKIN_TYPE "application/x-apple-aspen-mdm-checkin"
#define XML_TYPE "application/xml"

static nanomdm_handler_t kind_of(const request_rec *r)
{
    return r->handler != NULL ? nanomdm_handler_kind(r->handler) : NANOMDM_HANDLER_OTHER;
}

static int is_checkin(const request_rec *r, nanomdm_handler_t handler)
{
    const char *type = apr_table_get(r->headers_in, "Content-Type");

    if (handler == NANOMDM_HANDLER_MDM) {
        return type != NULL && strncasecmp(type, CHECKIN_TYPE, strlen(CHECKIN_TYPE)) == 0;
    }
    return handler == NANOMDM_HANDLER_CHECKIN;
}

/* A device chose the value: quoted, so that it cannot pass for another one. */
static const char *field(request_rec *r, const char *name, const char *value)
{
    return value == NULL ? ""
                         : apr_pstrcat(r->pool, " ", name, "=\"", ap_escape_logitem(r->pool, value),
                                       "\"", NULL);
}

static void log_message(request_rec *r, const mdm_message_t *message, int http_status,
                        const char *why)
{
    if (!APLOG_R_IS_LEVEL(r, APLOG_INFO)) {
        return;
    }
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, "message=%s%s type=\"%s\"%s%s%s code=%d%s%s",
                  mdm_message_type_name(message->type), field(r, "id", message->enrollment.id),
                  mdm_enrollment_type_name(message->enrollment.type),
                  field(r, "serial", message->serial_number), field(r, "status", message->status),
                  field(r, "command", message->command_uuid), http_status, why != NULL ? ": " : "",
                  why != NULL ? why : "");
}

static int refuse(request_rec *r, const char *why)
{
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, "refused: %s", why);
    return nanomdm_reply_text(r, HTTP_BAD_REQUEST, why);
}

/* What device and migration endpoints have in common. Returns DECLINED to go on. */
static int read_request(request_rec *r, const char **body, apr_size_t *len)
{
    int http_status;

    nanomdm_trace_id(r);
    if (r->method_number != M_PUT && r->method_number != M_POST) {
        return nanomdm_reply_not_allowed(r, "PUT, POST");
    }
    http_status = nanomdm_read_body(r, nanomdm_server(r->server)->max_body, body, len);
    if (http_status == HTTP_REQUEST_ENTITY_TOO_LARGE) {
        return nanomdm_reply_text(r, http_status, "request body too large");
    }
    return http_status == OK ? DECLINED : http_status;
}

static int reply_to(request_rec *r, const mdm_message_t *message, apr_status_t status,
                    const service_reply_t *reply)
{
    int http_status =
        status == APR_SUCCESS && reply->code != 0 ? reply->code : nanomdm_http_status(status);
    const char *why = reply->why != NULL ? reply->why : "the request failed";

    log_message(r, message, http_status, reply->why);
    if (status == MDM_EGATEWAY) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r, "declarative management:%s %s",
                      field(r, "id", message->enrollment.id), why);
        /* where it is, and what is wrong with it, is not the device's business */
        why = "the declaration server gave no answer";
    }
    if (status == APR_SUCCESS) {
        nanomdm_dump(r, message->enrollment.id, "out", reply->body, reply->len);
        return nanomdm_reply(r, http_status, reply->type != NULL ? reply->type : XML_TYPE,
                             reply->body, reply->len);
    }
    return nanomdm_reply_text(r, http_status, why);
}

int nanomdm_device_handler(request_rec *r)
{
    const nanomdm_server_t *conf = nanomdm_server(r->server);
    nanomdm_handler_t handler = kind_of(r);
    trust_certificate_t *cert;
    mdm_message_t *message;
    service_reply_t reply;
    const char *body = NULL;
    const char *why = NULL;
    apr_size_t len = 0;
    apr_status_t status;
    int result;

    if (!nanomdm_handler_is_device(handler)) {
        return DECLINED;
    }
    result = read_request(r, &body, &len);
    if (result != DECLINED) {
        return result;
    }
    status = nanomdm_identity(r, body, len, &cert, &why);
    if (status == MDM_EUNAVAILABLE) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r, "%s", why);
        return nanomdm_reply_text(r, HTTP_SERVICE_UNAVAILABLE, "this server is not set up yet");
    }
    if (status != APR_SUCCESS) {
        return refuse(r, why);
    }
    if (is_checkin(r, handler)) {
        status = mdm_checkin_parse(&message, body, len, &why, r->pool);
    } else {
        status = mdm_report_parse(&message, body, len, &why, r->pool);
    }
    if (status != APR_SUCCESS) {
        return refuse(r, why);
    }
    message->event_id = nanomdm_trace_id(r);
    message->query = r->args;
    nanomdm_dump(r, message->enrollment.id, "in", body, len);
    status = message->type == MDM_REPORT
                 ? service_report(&conf->service, message, cert, &reply, r->pool)
                 : service_checkin(&conf->service, message, cert, &reply, r->pool);
    return reply_to(r, message, status, &reply);
}

int nanomdm_migration_handler(request_rec *r)
{
    const nanomdm_server_t *conf = nanomdm_server(r->server);
    mdm_message_t *message;
    service_reply_t reply;
    const char *body = NULL;
    const char *why = NULL;
    apr_size_t len = 0;
    int result;

    if (kind_of(r) != NANOMDM_HANDLER_MIGRATION) {
        return DECLINED;
    }
    if (!nanomdm_is_guarded(r)) {
        return HTTP_FORBIDDEN;
    }
    result = read_request(r, &body, &len);
    if (result != DECLINED) {
        return result;
    }
    if (mdm_checkin_parse(&message, body, len, &why, r->pool) != APR_SUCCESS) {
        return refuse(r, why);
    }
    nanomdm_dump(r, message->enrollment.id, "in", body, len);
    return reply_to(r, message, service_checkin(&conf->service, message, NULL, &reply, r->pool),
                    &reply);
}

int nanomdm_version_handler(request_rec *r)
{
    static const char version[] = "{\"version\":\"" NANOMDM_VERSION "\"}";

    if (kind_of(r) != NANOMDM_HANDLER_VERSION) {
        return DECLINED;
    }
    if (r->method_number != M_GET) {
        return nanomdm_reply_not_allowed(r, "GET");
    }
    return nanomdm_reply(r, HTTP_OK, "application/json", version, sizeof(version) - 1);
}
