/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Where requests land: claims the module's locations before httpd looks for files, and sees to it
 * that a device never gets 401 or 403, which it would take for the end of its enrollment.
 */
#include "nanomdm.h"

#include <apr_strings.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>

/* What r->filename is for a request that is ours. */
#define CLAIMED "nanomdm:"

static int is_ours(const request_rec *r)
{
    const nanomdm_dir_t *dir = nanomdm_dir(r);

    return dir->handler > NANOMDM_HANDLER_OTHER;
}

static int is_for_devices(const request_rec *r)
{
    const nanomdm_dir_t *dir = nanomdm_dir(r);

    return nanomdm_handler_is_device(dir->handler) || dir->require_enrolled > 0;
}

/* A text of our own for what may be refused on the way, in place of any ErrorDocument, which would
 * lead the request away from this location with its status. */
static void shield(request_rec *r)
{
    static const int refusals[] = {HTTP_UNAUTHORIZED, HTTP_FORBIDDEN,
                                   HTTP_PROXY_AUTHENTICATION_REQUIRED};

    if (is_for_devices(r)) {
        for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
            ap_custom_response(r, refusals[i], "refused by the server's access control\n");
        }
    }
}

/* Core would answer 403 for a path over 4,096 bytes, and a DocumentRoot that denies access would
 * deny these locations too. */
int nanomdm_translate_name(request_rec *r)
{
    shield(r);
    if (!is_ours(r)) {
        return DECLINED;
    }
    nanomdm_trace_id(r);
    r->filename = apr_pstrdup(r->pool, CLAIMED);
    return OK;
}

/* The location's configuration is not merged in at this point: the name tells. */
int nanomdm_map_to_storage(request_rec *r)
{
    return r->filename != NULL && strcmp(r->filename, CLAIMED) == 0 ? OK : DECLINED;
}

/* Whatever module refused a device with 401 or 403 on its way here: it gets 400. */
void nanomdm_insert_error_filter(request_rec *r)
{
    if (is_for_devices(r) && (r->status == HTTP_UNAUTHORIZED || r->status == HTTP_FORBIDDEN ||
                              r->status == HTTP_PROXY_AUTHENTICATION_REQUIRED)) {
        ap_log_rerror(APLOG_MARK, APLOG_WARNING, 0, r,
                      "a device was refused with %d by the access control of its location; it gets "
                      "400 instead, since it would end its enrollment",
                      r->status);
        r->status = HTTP_BAD_REQUEST;
        r->status_line = NULL;
        apr_table_unset(r->err_headers_out, "WWW-Authenticate");
        apr_table_unset(r->headers_out, "WWW-Authenticate");
        apr_table_unset(r->err_headers_out, "Proxy-Authenticate");
    }
}
