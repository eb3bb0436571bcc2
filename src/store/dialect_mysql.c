/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What is MySQL's own (8 and later; MariaDB 10.5 and later) among the store's statements.
 *
 * It has no ON CONFLICT: "a = VALUES(a)" on the key changes nothing and counts no row.
 */
#include <stddef.h>

#include "dialect.h"
#include "schema_mysql.h"

/* The clock in milliseconds. */
#define NOW "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000 AS SIGNED)"

static const char *const settings[] = {
    "SET NAMES utf8mb4",
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES', SESSION time_zone = '+00:00'",
    NULL,
};

/* A deadlock, or a lock that was waited for too long: the transaction may be repeated. */
static int is_busy(int code, const char *reason)
{
    (void)reason;
    return code == 1213 || code == 1205;
}

#define USER_UPSERT(column)                                                                        \
    "INSERT INTO {p}users (id, device_id, user_short_name, user_long_name, " column ", " column    \
    "_at) VALUES (%s, %s, %s, %s, %s, CURRENT_TIMESTAMP)"                                          \
    " ON DUPLICATE KEY UPDATE user_short_name = VALUES(user_short_name),"                          \
    " user_long_name = VALUES(user_long_name), " column " = VALUES(" column "), " column           \
    "_at = CURRENT_TIMESTAMP"

const dialect_t dialect_mysql = {
    .driver = "mysql",
    .package = "libaprutil1-dbd-mysql",
    .settings = settings,
    .begin = "START TRANSACTION",
    .schema = schema_mysql_sql,
    .own = own_mysql_sql,
    .is_busy = is_busy,
    .socket_function = "mysql_get_socket",
    .unlock_token_as_hex = 1,
    .truncates = 1,
    .reconnects = 1,
    .statements =
        {
            DIALECT_OUTBOX(NOW),
            [STMT_LEASE_CLAIM] = DIALECT_LEASE_CLAIM(
                NOW, "ON DUPLICATE KEY UPDATE"
                     " owner = IF(until_ms <= " NOW ", VALUES(owner), owner),"
                     " until_ms = IF(until_ms <= " NOW ", VALUES(until_ms), until_ms)"),
            /* Read unprepared, which takes text. */
            [STMT_OUTBOX_LOAD] = "SELECT event FROM {p}mdm_webhook_outbox WHERE seq = %s",
            DIALECT_HISTORY("CURRENT_TIMESTAMP - INTERVAL %s SECOND"),
            [STMT_HISTORY_LOCK] = "SELECT GET_LOCK(MD5(CONCAT(DATABASE(), '.{p}history')), 0)",
            [STMT_HISTORY_UNLOCK] = "SELECT RELEASE_LOCK(MD5(CONCAT(DATABASE(), '.{p}history')))",
            /* Locks the gap: of two claims at once, one is a deadlock's victim and repeated. */
            [STMT_ASSOCIATION_CLAIM] =
                "SELECT id FROM {p}cert_auth_associations WHERE sha256 = %s LIMIT 1 FOR UPDATE",
            [STMT_ASSOCIATION_ADD] =
                "INSERT INTO {p}cert_auth_associations (id, sha256) VALUES (%s, %s)"
                " ON DUPLICATE KEY UPDATE id = VALUES(id)",
            [STMT_DEVICE_AUTHENTICATE] =
                "INSERT INTO {p}devices (id, identity_cert, serial_number, authenticate,"
                " authenticate_at) VALUES (%s, %s, %s, %s, CURRENT_TIMESTAMP)"
                " ON DUPLICATE KEY UPDATE"
                " identity_cert = COALESCE(VALUES(identity_cert), identity_cert),"
                " serial_number = VALUES(serial_number), authenticate = VALUES(authenticate),"
                " authenticate_at = CURRENT_TIMESTAMP, bootstrap_token_b64 = NULL,"
                " bootstrap_token_at = NULL",
            [STMT_DEVICE_UNLOCK_TOKEN] = "UPDATE {p}devices SET unlock_token = UNHEX(%s),"
                                         " unlock_token_at = CURRENT_TIMESTAMP WHERE id = %s",
            [STMT_USER_TOKEN_UPDATE] = USER_UPSERT("token_update"),
            [STMT_USER_AUTHENTICATE] = USER_UPSERT("user_authenticate"),
            [STMT_USER_AUTHENTICATE_DIGEST] = USER_UPSERT("user_authenticate_digest"),
            [STMT_ENROLLMENT_TOKEN_UPDATE] =
                "INSERT INTO {p}enrollments (id, device_id, user_id, type, topic, push_magic,"
                " token_hex, enabled, token_update_tally, last_seen_at)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, TRUE, 1, CURRENT_TIMESTAMP)"
                " ON DUPLICATE KEY UPDATE device_id = VALUES(device_id),"
                " user_id = VALUES(user_id), type = VALUES(type), topic = VALUES(topic),"
                " push_magic = VALUES(push_magic), token_hex = VALUES(token_hex), enabled = TRUE,"
                " token_update_tally = token_update_tally + 1, last_seen_at = CURRENT_TIMESTAMP",
            [STMT_COMMAND_ADD] =
                "INSERT INTO {p}commands (command_uuid, request_type, command) VALUES (%s, %s, %s)"
                " ON DUPLICATE KEY UPDATE command_uuid = VALUES(command_uuid)",
            /* A locking read sees what others committed since the transaction began. */
            [STMT_COMMAND_SAME] = "SELECT CASE WHEN command = %s THEN 1 ELSE 0 END"
                                  " FROM {p}commands WHERE command_uuid = %s LOCK IN SHARE MODE",
            [STMT_QUEUE_ADD] =
                "INSERT INTO {p}enrollment_queue (id, command_uuid)"
                " SELECT e.id, c.command_uuid FROM {p}enrollments AS e, {p}commands AS c"
                " WHERE c.command_uuid = %s AND e.id IN ({ids})"
                " ON DUPLICATE KEY UPDATE command_uuid = VALUES(command_uuid)",
            [STMT_RESULT_ADD] =
                "INSERT INTO {p}command_results (id, command_uuid, status, result)"
                " SELECT q.id, q.command_uuid, %s, %s FROM {p}enrollment_queue AS q"
                " WHERE q.id = %s AND q.command_uuid = %s"
                " ON DUPLICATE KEY UPDATE status = VALUES(status), result = VALUES(result)",
            /* Assignments take effect one after the other: status, the condition, comes last. */
            [STMT_RESULT_NOT_NOW] =
                "INSERT INTO {p}command_results (id, command_uuid, status, result, not_now_at,"
                " not_now_tally)"
                " SELECT q.id, q.command_uuid, %s, %s, CURRENT_TIMESTAMP, 1"
                " FROM {p}enrollment_queue AS q WHERE q.id = %s AND q.command_uuid = %s"
                " ON DUPLICATE KEY UPDATE"
                " not_now_at = IF({p}command_results.status = 'NotNow',"
                "   COALESCE({p}command_results.not_now_at, VALUES(not_now_at)),"
                "   {p}command_results.not_now_at),"
                " not_now_tally = IF({p}command_results.status = 'NotNow',"
                "   {p}command_results.not_now_tally + 1, {p}command_results.not_now_tally),"
                " result = IF({p}command_results.status = 'NotNow', VALUES(result),"
                "   {p}command_results.result),"
                " status = IF({p}command_results.status = 'NotNow', VALUES(status),"
                "   {p}command_results.status)",
            [STMT_PUSH_CERT_STORE] =
                "INSERT INTO {p}push_certs (topic, cert_pem, key_pem, stale_token)"
                " VALUES (%s, %s, %s, 0) ON DUPLICATE KEY UPDATE cert_pem = VALUES(cert_pem),"
                " key_pem = VALUES(key_pem), stale_token = stale_token + 1",
            [STMT_DEAD_TOKEN_ADD] = DIALECT_DEAD_TOKEN(
                "FROM_UNIXTIME(%s)",
                "ON DUPLICATE KEY UPDATE token_hex = VALUES(token_hex), reason = VALUES(reason),"
                " created_at = CURRENT_TIMESTAMP"),
        },
};
