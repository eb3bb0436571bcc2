/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Commands, their places in the enrollments' queues, and their results, as rows. */
#include <string.h>

#include "dbd.h"

apr_status_t store_command_add(store_tx_t *tx, const mdm_command_t *command, apr_pool_t *pool)
{
    const char *same = NULL;
    int affected = 0;
    apr_status_t status;

    /* A command that was there may be swept before it is looked at. */
    do {
        status = dbd_exec(tx, STMT_COMMAND_ADD,
                          DBD_ARGS(command->uuid, command->request_type, command->raw), &affected);
        if (status != APR_SUCCESS || affected > 0) {
            return status;
        }
        status =
            dbd_load(tx, STMT_COMMAND_SAME, DBD_ARGS(command->raw, command->uuid), 1, &same, pool);
    } while (status == APR_ENOENT);
    if (status != APR_SUCCESS) {
        return status;
    }
    return same != NULL && *same == '1' ? APR_SUCCESS : MDM_ECONFLICT;
}

apr_status_t store_queue_add(store_tx_t *tx, const char *command_uuid,
                             const apr_array_header_t *ids)
{
    return dbd_list(tx, STMT_QUEUE_ADD, command_uuid, ids, NULL, NULL);
}

apr_status_t store_result_add(store_tx_t *tx, const mdm_message_t *report)
{
    const char *id = report->enrollment.id;
    int not_now = report->status_kind == MDM_STATUS_NOT_NOW;
    int affected = 0;
    apr_status_t status =
        dbd_exec(tx, not_now ? STMT_RESULT_NOT_NOW : STMT_RESULT_ADD,
                 DBD_ARGS(report->status, report->raw, id, report->command_uuid), &affected);

    if (status != APR_SUCCESS) {
        return status;
    }
    if (affected == 0) {
        /* Not queued; or a NotNow behind a final result, which stays. */
        return dbd_load(tx, STMT_QUEUE_LOAD, DBD_ARGS(id, report->command_uuid), 0, NULL, NULL);
    }
    return not_now ? APR_SUCCESS
                   : dbd_exec(tx, STMT_QUEUE_FINISH, DBD_ARGS(id, report->command_uuid), NULL);
}

apr_status_t store_queue_load_next(store_tx_t *tx, const mdm_enrollment_t *enrollment,
                                   const char *sha256, int skip_not_now, int *associated,
                                   const char **command_uuid, apr_pool_t *pool)
{
    const char *row[2] = {NULL, NULL};
    apr_status_t status =
        dbd_load(tx, skip_not_now ? STMT_QUEUE_LOAD_NEXT_NOT_NOW : STMT_QUEUE_LOAD_NEXT,
                 DBD_ARGS(enrollment->device_id, sha256, enrollment->id), 2, row, pool);

    if (status != APR_SUCCESS) {
        return status == APR_ENOENT ? MDM_EUNAVAILABLE : status; /* it always has one row */
    }
    *associated = row[0] != NULL && *row[0] == '1';
    *command_uuid = row[1];
    return APR_SUCCESS;
}

apr_status_t store_command_load(store_tx_t *tx, const char *command_uuid, const char **raw,
                                apr_size_t *raw_len, apr_pool_t *pool)
{
    const char *text = NULL;
    apr_status_t status = dbd_load_text(tx, STMT_COMMAND_LOAD, command_uuid, 1, &text, pool);

    if (status == APR_SUCCESS && text == NULL) {
        status = APR_ENOENT;
    }
    if (status == APR_SUCCESS) {
        *raw = text;
        *raw_len = strlen(text);
    }
    return status;
}
