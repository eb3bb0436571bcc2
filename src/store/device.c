/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Devices, users, enrollments and certificate associations, as rows. */
#include <apr_escape.h>
#include <apr_strings.h>
#include <stdlib.h>
#include <string.h>

#include "dbd.h"

apr_status_t store_association_load(store_tx_t *tx, const char *id, const char *sha256)
{
    return dbd_load(tx, STMT_ASSOCIATION_LOAD, DBD_ARGS(id, sha256), 0, NULL, NULL);
}

apr_status_t store_association_load_by_certificate(store_tx_t *tx, const char *sha256,
                                                   const char **id, apr_pool_t *pool)
{
    return dbd_load(tx, STMT_ASSOCIATION_LOAD_BY_CERTIFICATE, DBD_ARGS(sha256), 1, id, pool);
}

apr_status_t store_association_claim(store_tx_t *tx, const char *sha256, const char **id,
                                     apr_pool_t *pool)
{
    apr_status_t status = APR_SUCCESS;

    if (dbd_has(tx, STMT_ASSOCIATION_LOCK)) {
        status = dbd_load(tx, STMT_ASSOCIATION_LOCK, DBD_ARGS(sha256), 0, NULL, NULL);
    }
    return status == APR_SUCCESS
               ? dbd_load(tx, STMT_ASSOCIATION_CLAIM, DBD_ARGS(sha256), 1, id, pool)
               : status;
}

apr_status_t store_association_load_by_id(store_tx_t *tx, const char *id)
{
    return dbd_load(tx, STMT_ASSOCIATION_LOAD_BY_ID, DBD_ARGS(id), 0, NULL, NULL);
}

apr_status_t store_association_add(store_tx_t *tx, const char *id, const char *sha256)
{
    return dbd_exec(tx, STMT_ASSOCIATION_ADD, DBD_ARGS(id, sha256), NULL);
}

apr_status_t store_device_load(store_tx_t *tx, const char *id)
{
    return dbd_load(tx, STMT_DEVICE_LOAD, DBD_ARGS(id), 0, NULL, NULL);
}

apr_status_t store_device_authenticate(store_tx_t *tx, const mdm_message_t *message,
                                       const char *certificate_pem)
{
    return dbd_exec(tx, STMT_DEVICE_AUTHENTICATE,
                    DBD_ARGS(message->enrollment.device_id, certificate_pem, message->serial_number,
                             message->raw),
                    NULL);
}

apr_status_t store_device_clear_queue(store_tx_t *tx, const char *device_id)
{
    return dbd_exec(tx, STMT_DEVICE_CLEAR_QUEUE, DBD_ARGS(device_id), NULL);
}

apr_status_t store_device_disable(store_tx_t *tx, const char *device_id)
{
    return dbd_exec(tx, STMT_DEVICE_DISABLE, DBD_ARGS(device_id), NULL);
}

static apr_status_t add_unlock_token(store_tx_t *tx, const mdm_message_t *message, apr_pool_t *pool)
{
    const char *id = message->enrollment.device_id;
    const char *length;

    if (dbd_dialect(tx)->unlock_token_as_hex) {
        const char *hex =
            apr_pescape_hex(pool, message->unlock_token, message->unlock_token_len, 0);

        return dbd_exec(tx, STMT_DEVICE_UNLOCK_TOKEN, DBD_ARGS(hex, id), NULL);
    }
    length = apr_psprintf(pool, "%" APR_SIZE_T_FMT, message->unlock_token_len);
    return dbd_exec(
        tx, STMT_DEVICE_UNLOCK_TOKEN,
        DBD_ARGS((const char *)message->unlock_token, length, "devices", "unlock_token", id), NULL);
}

apr_status_t store_device_token_update(store_tx_t *tx, const mdm_message_t *message,
                                       apr_pool_t *pool)
{
    const char *id = message->enrollment.device_id;
    apr_status_t status = dbd_exec(tx, STMT_DEVICE_TOKEN_UPDATE, DBD_ARGS(message->raw, id), NULL);

    /* A statement of its own: a NULL blob would shift the arguments behind it. */
    if (status == APR_SUCCESS && message->unlock_token != NULL) {
        status = add_unlock_token(tx, message, pool);
    }
    return status;
}

apr_status_t store_device_bootstrap_token(store_tx_t *tx, const char *id, const char *base64)
{
    int affected;
    apr_status_t status =
        base64 != NULL ? dbd_exec(tx, STMT_DEVICE_BOOTSTRAP_SET, DBD_ARGS(base64, id), &affected)
                       : dbd_exec(tx, STMT_DEVICE_BOOTSTRAP_CLEAR, DBD_ARGS(id), &affected);

    /* Some databases count only rows that changed: ask before saying there is none. */
    return status == APR_SUCCESS && affected == 0 ? store_device_load(tx, id) : status;
}

apr_status_t store_device_load_bootstrap_token(store_tx_t *tx, const char *id, const char **base64,
                                               apr_pool_t *pool)
{
    return dbd_load_text(tx, STMT_DEVICE_BOOTSTRAP_LOAD, id, 1, base64, pool);
}

apr_status_t store_user_token_update(store_tx_t *tx, const mdm_message_t *message)
{
    const mdm_enrollment_t *user = &message->enrollment;

    return dbd_exec(tx, STMT_USER_TOKEN_UPDATE,
                    DBD_ARGS(user->id, user->device_id, user->user_short_name, user->user_long_name,
                             message->raw),
                    NULL);
}

apr_status_t store_user_authenticate(store_tx_t *tx, const mdm_message_t *message)
{
    const mdm_enrollment_t *user = &message->enrollment;
    statement_t statement =
        message->digest_response != NULL ? STMT_USER_AUTHENTICATE_DIGEST : STMT_USER_AUTHENTICATE;

    return dbd_exec(tx, statement,
                    DBD_ARGS(user->id, user->device_id, user->user_short_name, user->user_long_name,
                             message->raw),
                    NULL);
}

apr_status_t store_enrollment_token_update(store_tx_t *tx, const mdm_message_t *message)
{
    const mdm_enrollment_t *enrollment = &message->enrollment;
    const char *user_id = enrollment->parent_id != NULL ? enrollment->id : NULL;
    apr_status_t status =
        dbd_exec(tx, STMT_ENROLLMENT_TOKEN_UPDATE,
                 DBD_ARGS(enrollment->id, enrollment->device_id, user_id,
                          mdm_enrollment_type_name(enrollment->type), message->topic,
                          message->push_magic, message->token_hex),
                 NULL);

    /* The token is alive again, even if it is the one that was dead. */
    if (status == APR_SUCCESS && dbd_has(tx, STMT_DEAD_TOKEN_CLEAR)) {
        status = dbd_exec(tx, STMT_DEAD_TOKEN_CLEAR, DBD_ARGS(enrollment->id), NULL);
    }
    return status;
}

apr_status_t store_enrollment_disable(store_tx_t *tx, const char *id)
{
    return dbd_exec(tx, STMT_ENROLLMENT_DISABLE, DBD_ARGS(id), NULL);
}

static int compare_ids(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void store_sort_ids(apr_array_header_t *ids)
{
    qsort(ids->elts, (size_t)ids->nelts, sizeof(const char *), compare_ids);
}

apr_status_t store_enrollments_seen(store_tx_t *tx, const apr_array_header_t *ids)
{
    return dbd_list(tx, STMT_ENROLLMENTS_SEEN, NULL, ids, NULL, NULL);
}

apr_status_t store_enrollments_load(store_tx_t *tx, const apr_array_header_t *ids,
                                    apr_array_header_t **known, apr_pool_t *pool)
{
    apr_array_header_t *found = apr_array_make(pool, ids->nelts + 1, sizeof(const char *));
    apr_status_t status = dbd_list(tx, STMT_ENROLLMENTS_LOAD, NULL, ids, found, pool);

    if (status == APR_SUCCESS) {
        *known = found;
    }
    return status;
}
