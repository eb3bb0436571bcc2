/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Fuzz target: the commands that administrators queue.
 */
#include <string.h>

#include "fuzz.h"
#include "mdm_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    apr_pool_t *pool = fuzz_pool();
    mdm_command_t *command = NULL;
    const char *why = NULL;

    if (mdm_command_parse(&command, (const char *)data, size, &why, pool) == APR_SUCCESS) {
        PROMISE(command->raw == (const char *)data && command->raw_len == size);
        PROMISE(*command->uuid && strlen(command->uuid) <= MDM_MAX_UUID);
        PROMISE(*command->request_type && strlen(command->request_type) <= MDM_MAX_REQUEST_TYPE);
    } else {
        PROMISE(why && *why && !command);
    }
    apr_pool_destroy(pool);
    return 0;
}
