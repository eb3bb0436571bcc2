/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Access control: API keys as a provider of mod_auth_basic, and "Require mdm-enrolled".
 *
 * A provider of mod_authz_core can only say yes or no, which httpd turns into 401 or 403. So the
 * question is answered earlier, by an access hook that can say 400, and the provider only repeats
 * the answer. Where httpd leaves that hook out, a fixup says 400.
 */
#include "nanomdm.h"

#include <ap_provider.h>
#include <apr_lib.h>
#include <apr_strings.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>
#include <mod_auth.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#define API_USER "nanomdm"
#define ENROLLMENT_ID "NANOMDM_ENROLLMENT_ID"

/* What is known of a request that is an enrolled device's. The environment has the id for others;
 * what it says is no proof, since directives may set it from what a client sends. */
typedef struct caller_t {
    const char *id;
    const nanomdm_dir_t *dir; /* the location that found out */
    const char *body;         /* NULL: it was not read for that */
    apr_size_t len;
} caller_t;

static authn_status check_key(request_rec *r, const char *user, const char *password)
{
    const nanomdm_server_t *conf = nanomdm_server(r->server);
    unsigned char digest[32];
    int found = 0;

    if (strcmp(user, API_USER) != 0) {
        return AUTH_USER_NOT_FOUND;
    }
    if (conf->api_keys == NULL ||
        !EVP_Digest(password, strlen(password), digest, NULL, EVP_sha256(), NULL)) {
        return AUTH_GENERAL_ERROR;
    }
    /* All keys, whichever fits: the time tells nothing. */
    for (int i = 0; i < conf->api_keys->nelts; i++) {
        const unsigned char *key = (const unsigned char *)conf->api_keys->elts + (apr_size_t)32 * i;

        found |= CRYPTO_memcmp(key, digest, sizeof(digest)) == 0;
    }
    return found ? AUTH_GRANTED : AUTH_DENIED;
}

static const authn_provider api_key_provider = {check_key, NULL};

/* Refuse with a text of our own, which no ErrorDocument takes the place of. */
static int refuse(request_rec *r, int http_status, const char *text)
{
    if (http_status == HTTP_SERVICE_UNAVAILABLE) {
        apr_table_setn(r->err_headers_out, "Retry-After", NANOMDM_RETRY_AFTER);
    }
    ap_custom_response(r, http_status, apr_pstrcat(r->pool, text, "\n", NULL));
    return http_status;
}

static int same_source(const nanomdm_dir_t *a, const nanomdm_dir_t *b)
{
    if (a->identity == NANOMDM_IDENTITY_HEADER || b->identity == NANOMDM_IDENTITY_HEADER) {
        return a->identity == b->identity &&
               strcasecmp(a->identity_header, b->identity_header) == 0;
    }
    return (a->identity == NANOMDM_IDENTITY_SSL) == (b->identity == NANOMDM_IDENTITY_SSL);
}

/* Whether this request, or one that it came from, is known to be an enrolled device's, by the
 * source of identity that this location asks for. */
static int is_identified(const request_rec *r)
{
    for (const request_rec *from = r; from != NULL; from = from->main) {
        const caller_t *caller = ap_get_module_config(from->request_config, &nanomdm_module);

        if (caller != NULL) {
            return same_source(caller->dir, nanomdm_dir(r));
        }
    }
    return 0;
}

/* Whether a backend may take one name for the other: many know letters and digits alone. */
static int looks_like(const char *name, const char *ours)
{
    for (; *name != '\0' && *ours != '\0'; name++, ours++) {
        if (apr_isalnum(*name) ? apr_tolower(*name) != apr_tolower(*ours) : *ours != '-') {
            return 0;
        }
    }
    return *name == *ours;
}

/* Take out what only RequestHeader may tell a backend, and what looks like it. */
static void drop_forged(apr_table_t *headers)
{
    const apr_array_header_t *list = apr_table_elts(headers);

    for (int i = 0; i < list->nelts;) {
        const char *name = APR_ARRAY_IDX(list, i, apr_table_entry_t).key;

        if (looks_like(name, "X-Enrollment-ID") || looks_like(name, "X-Trace-ID")) {
            apr_table_unset(headers, name); /* the next one takes its place */
        } else {
            i++;
        }
    }
}

/* Find out which enrollment the caller's is. Returns OK, or the status that the request gets. */
static int identify(request_rec *r, caller_t *caller)
{
    const char *body = caller->body != NULL ? caller->body : "";
    trust_certificate_t *cert;
    const char *why = NULL;
    apr_status_t status = nanomdm_identity(r, body, caller->len, &cert, &why);

    if (status == MDM_EUNAVAILABLE) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r, "%s", why);
        return refuse(r, HTTP_SERVICE_UNAVAILABLE, "this server is not set up yet");
    }
    if (status == APR_SUCCESS) {
        status = service_identify(&nanomdm_server(r->server)->service, cert, &caller->id, r->pool);
        if (status != APR_SUCCESS && status != MDM_EREFUSED) {
            ap_log_rerror(APLOG_MARK, APLOG_WARNING, 0, r,
                          "cannot tell whether this is an enrolled device: the database is not "
                          "available");
            return refuse(r, HTTP_SERVICE_UNAVAILABLE, "not available now, try again later");
        }
        why = "the certificate belongs to no enrollment";
    }
    if (status != APR_SUCCESS) {
        ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, "not an enrolled device: %s", why);
        return refuse(r, HTTP_BAD_REQUEST, "not an enrolled device");
    }
    return OK;
}

/* Read the body, which a signature is over, and have it handed out again. A subrequest, by which an
 * open location may lead here, has none. */
static int read_signed(request_rec *r, caller_t *caller)
{
    nanomdm_identity_t identity = caller->dir->identity;
    int http_status;

    if (r->main != NULL || identity == NANOMDM_IDENTITY_SSL ||
        identity == NANOMDM_IDENTITY_HEADER) {
        return OK;
    }
    http_status =
        nanomdm_read_body(r, nanomdm_server(r->server)->max_body, &caller->body, &caller->len);
    if (http_status != OK) {
        return refuse(r, http_status,
                      http_status == HTTP_REQUEST_ENTITY_TOO_LARGE ? "request body too large"
                                                                   : "the request body broke off");
    }
    nanomdm_replay_body(r, caller->body, caller->len);
    return OK;
}

int nanomdm_check_access(request_rec *r)
{
    caller_t *caller;
    int http_status;

    if (nanomdm_dir(r)->require_enrolled <= 0 || is_identified(r)) {
        return DECLINED;
    }
    nanomdm_trace_id(r);
    apr_table_unset(r->subprocess_env, ENROLLMENT_ID); /* whoever says so */
    caller = apr_pcalloc(r->pool, sizeof(*caller));
    caller->dir = nanomdm_dir(r);
    if ((http_status = read_signed(r, caller)) != OK || (http_status = identify(r, caller)) != OK) {
        return http_status;
    }
    drop_forged(r->headers_in); /* once: what follows may set them */
    ap_set_module_config(r->request_config, &nanomdm_module, caller);
    apr_table_setn(r->subprocess_env, ENROLLMENT_ID, caller->id);
    /* A cache knows nothing of signatures: it must not keep this for others. A proxied reply
     * brings headers of its own, beside which the second one stays. */
    apr_table_mergen(r->headers_out, "Cache-Control", "private");
    apr_table_mergen(r->err_headers_out, "Cache-Control", "private");
    return DECLINED;
}

int nanomdm_check_again(request_rec *r)
{
    int satisfy_any = ap_satisfies(r) == SATISFY_ANY;

    if (nanomdm_dir(r)->require_enrolled <= 0 || (is_identified(r) && !satisfy_any)) {
        return DECLINED;
    }
    if (satisfy_any) {
        ap_log_rerror(
            APLOG_MARK, APLOG_ERR, 0, r,
            "\"Require mdm-enrolled\" lets nobody in: \"Satisfy any\", here or inherited, "
            "makes it one of several ways in: take it out, or write \"Satisfy all\" here");
    }
    return refuse(r, HTTP_BAD_REQUEST, "refused by the server's access control");
}

/* httpd makes a new request of one that it redirects, with another environment and without the
 * body's filter. (A subrequest gets a copy of the environment, and no body.) */
int nanomdm_follow_redirect(request_rec *r)
{
    caller_t *caller;
    const char *trace_id;

    if (r->prev == NULL) {
        return DECLINED;
    }
    trace_id = apr_table_get(r->prev->subprocess_env, "UNIQUE_ID");
    if (trace_id != NULL) {
        apr_table_setn(r->subprocess_env, "UNIQUE_ID", trace_id);
    }
    caller = ap_get_module_config(r->prev->request_config, &nanomdm_module);
    if (caller != NULL) {
        ap_set_module_config(r->request_config, &nanomdm_module, caller);
        apr_table_setn(r->subprocess_env, ENROLLMENT_ID, caller->id);
        /* A script that took the body for itself and then redirects has this header taken out. */
        if (caller->body != NULL && apr_table_get(r->headers_in, "Content-Length") != NULL) {
            nanomdm_replay_body(r, caller->body, caller->len);
        }
    }
    return DECLINED;
}

static authz_status check_enrolled(request_rec *r, const char *args, const void *parsed)
{
    (void)args;
    (void)parsed;
    return is_identified(r) ? AUTHZ_GRANTED : AUTHZ_DENIED;
}

static const char *parse_enrolled(cmd_parms *cmd, const char *args, const void **parsed)
{
    (void)parsed;
    if (strcasecmp(cmd->directive->directive, "Require") != 0) {
        return "<AuthzProviderAlias> cannot stand for mdm-enrolled: write \"Require mdm-enrolled\"";
    }
    return *args == '\0'
               ? NULL
               : apr_psprintf(cmd->pool, "Require mdm-enrolled takes no argument: \"%s\"", args);
}

static const authz_provider enrolled_provider = {check_enrolled, parse_enrolled};

void nanomdm_register_providers(apr_pool_t *pool)
{
    nanomdm_register_replay(pool);
    ap_register_auth_provider(pool, AUTHN_PROVIDER_GROUP, "nanomdm", AUTHN_PROVIDER_VERSION,
                              &api_key_provider, AP_AUTH_INTERNAL_PER_CONF);
    ap_register_auth_provider(pool, AUTHZ_PROVIDER_GROUP, "mdm-enrolled", AUTHZ_PROVIDER_VERSION,
                              &enrolled_provider, AP_AUTH_INTERNAL_PER_CONF);
}
