/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns the commands that administrators queue: what must be in one. Must not know the queue, nor
 * what a command does on the device.
 */
#include "mdm_message.h"
#include "mdm_plist.h"

apr_status_t mdm_command_parse(mdm_command_t **out, const char *body, apr_size_t len,
                               const char **why, apr_pool_t *pool)
{
    mdm_command_t *command = apr_pcalloc(pool, sizeof(*command));
    plist_t dict, inner;
    apr_status_t rv = mdm_plist_parse(&dict, body, len, why, pool);

    if (rv == APR_SUCCESS)
        rv = mdm_plist_require_string(&command->uuid, dict, "CommandUUID", MDM_MAX_UUID, why, pool);
    if (rv != APR_SUCCESS)
        return rv;
    inner = plist_dict_get_item(dict, "Command");
    if (!inner || plist_get_node_type(inner) != PLIST_DICT) {
        *why = "Command is missing or no dictionary";
        return MDM_EINPUT;
    }
    rv = mdm_plist_require_string(&command->request_type, inner, "RequestType",
                                  MDM_MAX_REQUEST_TYPE, why, pool);
    if (rv != APR_SUCCESS)
        return rv;
    command->raw = body;
    command->raw_len = len;
    *out = command;
    return APR_SUCCESS;
}
