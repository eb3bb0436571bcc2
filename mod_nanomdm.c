/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The module record and its hooks, in the order of a server's life and then of a request's. No
 * logic lives here. */
#define NANOMDM_MODULE_RECORD
#include "src/httpd/nanomdm.h"

#include <http_config.h>
#include <http_protocol.h>
#include <http_request.h>
#include <mpm_common.h>

static void register_hooks(apr_pool_t *pool)
{
    nanomdm_register_providers(pool);

    ap_hook_pre_config(nanomdm_pre_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_check_config(nanomdm_check_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_post_config(nanomdm_post_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_init(nanomdm_child_init, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_stopping(nanomdm_child_stopping, NULL, NULL, APR_HOOK_MIDDLE);

    ap_hook_post_read_request(nanomdm_follow_redirect, NULL, NULL, APR_HOOK_LAST);
    /* Before mod_rewrite, which may refuse. */
    ap_hook_translate_name(nanomdm_translate_name, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_map_to_storage(nanomdm_map_to_storage, NULL, NULL, APR_HOOK_FIRST);
    ap_hook_check_access_ex(nanomdm_check_access, NULL, NULL, APR_HOOK_FIRST,
                            AP_AUTH_INTERNAL_PER_CONF);
    ap_hook_fixups(nanomdm_check_again, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_insert_error_filter(nanomdm_insert_error_filter, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_handler(nanomdm_device_handler, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_handler(nanomdm_api_handler, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_handler(nanomdm_migration_handler, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_handler(nanomdm_version_handler, NULL, NULL, APR_HOOK_MIDDLE);
}

AP_DECLARE_MODULE(nanomdm) = {
    STANDARD20_MODULE_STUFF, nanomdm_create_dir, nanomdm_merge_dir, nanomdm_create_server,
    nanomdm_merge_server,    nanomdm_commands,   register_hooks,
#if defined(AP_MODULE_FLAG_NONE)
    AP_MODULE_FLAG_NONE,
#endif
};
