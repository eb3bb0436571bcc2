/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Fuzz target: command reports. A parsed one keeps what the header promises of it.
 */
#include <string.h>

#include "fuzz.h"
#include "mdm_message.h"

static void check(const mdm_message_t *m)
{
    const mdm_enrollment_t *e = &m->enrollment;

    PROMISE(mdm_id_valid(e->id) && e->device_id);
    PROMISE(!strcmp(e->device_id, e->parent_id ? e->parent_id : e->id));
    PROMISE(m->type == MDM_REPORT);
    PROMISE(m->status && *m->status && strlen(m->status) <= MDM_MAX_STATUS);
    PROMISE(!m->command_uuid || strlen(m->command_uuid) <= MDM_MAX_UUID);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    apr_pool_t *pool = fuzz_pool();
    mdm_message_t *message = NULL;
    const char *why = NULL;

    if (mdm_report_parse(&message, (const char *)data, size, &why, pool) == APR_SUCCESS)
        check(message);
    else
        PROMISE(why && *why && !message);
    apr_pool_destroy(pool);
    return 0;
}
