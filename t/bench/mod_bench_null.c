/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The ceiling of a measurement: a handler that reads the body and answers 200 with nothing. What
 * it costs is httpd's own share of a request.
 */
#include <httpd.h>

#include <http_config.h>
#include <http_protocol.h>
#include <string.h>

module AP_MODULE_DECLARE_DATA bench_null_module;

static int bench_null_handler(request_rec *r)
{
    char buffer[8192];
    long n;
    int status;
    if (!r->handler || strcmp(r->handler, "bench-null") != 0)
        return DECLINED;
    status = ap_setup_client_block(r, REQUEST_CHUNKED_DECHUNK);
    if (status != OK)
        return status;
    if (ap_should_client_block(r)) {
        do {
            n = ap_get_client_block(r, buffer, sizeof(buffer));
        } while (n > 0);
        if (n < 0)
            return HTTP_BAD_REQUEST;
    }
    ap_set_content_length(r, 0);
    return OK;
}

static void bench_null_hooks(apr_pool_t *pool)
{
    (void)pool;
    ap_hook_handler(bench_null_handler, NULL, NULL, APR_HOOK_MIDDLE);
}

AP_DECLARE_MODULE(bench_null) = {
    STANDARD20_MODULE_STUFF, NULL, NULL, NULL, NULL, NULL, bench_null_hooks, 0,
};
