/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* POST escrowkeyunlock: a form is sent on to Apple's server, by the topic's push certificate, and
 * what that answers comes back. */
#include "api.h"

#include <apr_strings.h>
#include <http_protocol.h>

#define MAX_FORM 65536

typedef struct field_t {
    const char *name;
    int required;
    enum { TO_NOBODY, IN_QUERY, IN_FORM } place;
} field_t;

static const field_t fields[] = {
    {"topic", 1, TO_NOBODY}, {"serial", 1, IN_QUERY}, {"productType", 1, IN_QUERY},
    {"imei", 0, IN_QUERY},   {"imei2", 0, IN_QUERY},  {"meid", 0, IN_QUERY},
    {"orgName", 1, IN_FORM}, {"guid", 1, IN_FORM},    {"escrowKey", 1, IN_FORM},
};

#define FIELDS (int)(sizeof(fields) / sizeof(fields[0]))

/* The values of the fields, NULL or not empty; of a repeated one the first. */
static const char *read_form(const char *body, const char *values[], apr_pool_t *pool)
{
    char *state;

    for (char *pair = apr_strtok(apr_pstrdup(pool, body), "&", &state); pair != NULL;
         pair = apr_strtok(NULL, "&", &state)) {
        char *value = strchr(pair, '=');

        if (value == NULL) {
            continue;
        }
        *value++ = '\0';
        if (ap_unescape_urlencoded(pair) != OK || ap_unescape_urlencoded(value) != OK) {
            return "the form is not URL-encoded";
        }
        for (int i = 0; i < FIELDS; i++) {
            if (strcmp(pair, fields[i].name) == 0 && values[i] == NULL && *value != '\0') {
                values[i] = value;
            }
        }
    }
    for (int i = 0; i < FIELDS; i++) {
        if (fields[i].required && values[i] == NULL) {
            return apr_pstrcat(pool, "the field ", fields[i].name, " is missing", NULL);
        }
    }
    return NULL;
}

static apr_array_header_t *parameters(const char *const values[], int place, apr_pool_t *pool)
{
    apr_array_header_t *array = apr_array_make(pool, FIELDS, sizeof(hooks_parameter_t));

    for (int i = 0; i < FIELDS; i++) {
        if ((int)fields[i].place == place && values[i] != NULL) {
            hooks_parameter_t *parameter = apr_array_push(array);

            parameter->name = fields[i].name;
            parameter->value = values[i];
        }
    }
    return array;
}

static int add_header(void *data, const char *name, const char *value)
{
    request_rec *r = data;

    /* Ours are the ones that say who we are. */
    if (strcasecmp(name, "Content-Type") != 0 && strcasecmp(name, "Date") != 0 &&
        strcasecmp(name, "Server") != 0) {
        apr_table_add(r->headers_out, name, value);
    }
    return 1;
}

/* What may be told of the form: its first two fields. */
static void log_unlock(request_rec *r, int level, const char *const values[], const char *what)
{
    ap_log_rerror(APLOG_MARK, level, 0, r, "escrow key unlock: topic=\"%s\" serial=\"%s\" %s",
                  ap_escape_logitem(r->pool, values[0]), ap_escape_logitem(r->pool, values[1]),
                  what);
}

static int reply_answer(request_rec *r, const char *const values[], const hooks_answer_t *answer)
{
    log_unlock(r, APLOG_INFO, values, apr_psprintf(r->pool, "answered %d", answer->code));
    apr_table_do(add_header, r, answer->headers, NULL);
    return nanomdm_reply(r, answer->code, answer->type, answer->body, answer->len);
}

int api_escrow(request_rec *r)
{
    const nanomdm_server_t *conf = nanomdm_server(r->server);
    const char *values[FIELDS] = {NULL};
    trust_pushcert_t cert;
    hooks_answer_t answer;
    const char *body;
    const char *why;
    apr_size_t len;
    int http_status;
    apr_status_t status;

    if (r->method_number != M_POST) {
        return api_not_allowed(r, "POST", "error");
    }
    if (!api_body(r, MAX_FORM, "error", &body, &len, &http_status)) {
        return http_status;
    }
    why = read_form(body, values, r->pool);
    if (why != NULL) {
        return api_error(r, HTTP_BAD_REQUEST, "error", why);
    }
    status = mdm_id_valid(values[0])
                 ? service_push_cert_load(&conf->service, values[0], &cert, &why, r->pool)
                 : APR_ENOENT;
    if (status == APR_ENOENT) {
        why = "there is no push certificate for this topic";
    }
    if (status == APR_SUCCESS) {
        status = hooks_escrow_unlock(conf->service.http, conf->escrow,
                                     parameters(values, IN_QUERY, r->pool),
                                     parameters(values, IN_FORM, r->pool), cert.cert_pem,
                                     cert.key_pem, &answer, &why, r->pool);
    } else if (status == MDM_EINPUT) { /* stored by somebody else: no mistake of the caller's */
        status = APR_EGENERAL;
    }
    if (status == MDM_EGATEWAY) {
        log_unlock(r, APLOG_ERR, values, why);
        why = "the escrow key server gave no answer";
    }
    return status == APR_SUCCESS ? reply_answer(r, values, &answer)
                                 : api_error(r, nanomdm_http_status(status), "error", why);
}
