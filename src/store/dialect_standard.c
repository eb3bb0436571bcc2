/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The store's statements in the SQL that most databases take; a dialect replaces those that its
 * database does not. Also the tables and columns that all of them have, and the choice of a
 * dialect.
 *
 * Parameters are bound as text: compare them with columns, whose type converts them, never with
 * expressions. A percent sign before a letter would be taken for a parameter.
 */
#include <apr_strings.h>
#include <ctype.h>
#include <stddef.h>
#include <string.h>

#include "dialect.h"

const char *const dialect_tables[] = {
    "devices",
    "id, identity_cert, serial_number, unlock_token, unlock_token_at, authenticate,"
    " authenticate_at, token_update, token_update_at, bootstrap_token_b64,"
    " bootstrap_token_at, created_at, updated_at",
    "users",
    "id, device_id, user_short_name, user_long_name, token_update, token_update_at,"
    " user_authenticate, user_authenticate_at, user_authenticate_digest,"
    " user_authenticate_digest_at, created_at, updated_at",
    "enrollments",
    "id, device_id, user_id, type, topic, push_magic, token_hex, enabled,"
    " token_update_tally, last_seen_at, created_at, updated_at",
    "commands",
    "command_uuid, request_type, command, created_at, updated_at",
    "command_results",
    "id, command_uuid, status, result, not_now_at, not_now_tally, created_at,"
    " updated_at",
    "enrollment_queue",
    "id, command_uuid, active, priority, created_at, updated_at",
    "push_certs",
    "topic, cert_pem, key_pem, stale_token, created_at, updated_at",
    "cert_auth_associations",
    "id, sha256, created_at, updated_at",
    "view_queue",
    "id, created_at, active, priority, command_uuid, request_type, command,"
    " result_updated_at, status, result",
    NULL,
};

const char *const dialect_own_tables[] = {
    "mdm_dead_tokens",
    "id, token_hex, reason, created_at",
    "mdm_webhook_outbox",
    "seq, webhook, id, topic, event, due_ms, error, created_at",
    "mdm_webhook_leases",
    "webhook, id, owner, until_ms, failures, since_ms",
    NULL,
};

/* On MySQL the foreign keys have made some of them. */
const index_t dialect_indexes[] = {
    {"devices", "serial_number", "serial_number"},
    {"users", "device_id", "device_id"},
    {"enrollments", "type", "type"},
    {"enrollments", "device_id", "device_id"},
    {"command_results", "status", "status"},
    {"command_results", "command_uuid", "command_uuid"},
    {"command_results", "updated_at", "updated_at"},
    {"enrollment_queue", "next", NULL},
    {"enrollment_queue", "command_uuid", "command_uuid"},
    {"cert_auth_associations", "sha256", "sha256"},
    {NULL, NULL, NULL},
};

const upgrade_t dialect_row_changes[] = {
    {"enrollment_queue: finished commands that still count as waiting, which slows down the search "
     "for the next one",
     "SELECT 'UPDATE {p}enrollment_queue SET active = FALSE WHERE active = TRUE AND EXISTS"
     " (SELECT 1 FROM {p}command_results AS r WHERE r.id = {p}enrollment_queue.id"
     " AND r.command_uuid = {p}enrollment_queue.command_uuid AND r.status <> ''NotNow'')'"
     " FROM {p}enrollment_queue AS q INNER JOIN {p}command_results AS r"
     " ON r.id = q.id AND r.command_uuid = q.command_uuid"
     " WHERE q.active = TRUE AND r.status <> 'NotNow' LIMIT 1"},
    {NULL, NULL},
};

#define ORDER "q.priority DESC, q.created_at, q.command_uuid"

static const char *const dialect_standard[STMT_COUNT] = {
    [STMT_ASSOCIATION_LOAD] =
        "SELECT 1 FROM {p}cert_auth_associations WHERE id = %s AND sha256 = %s",
    [STMT_ASSOCIATION_LOAD_BY_CERTIFICATE] =
        "SELECT id FROM {p}cert_auth_associations WHERE sha256 = %s LIMIT 1",
    [STMT_ASSOCIATION_CLAIM] = "SELECT id FROM {p}cert_auth_associations WHERE sha256 = %s LIMIT 1",
    [STMT_ASSOCIATION_LOAD_BY_ID] = "SELECT 1 FROM {p}cert_auth_associations WHERE id = %s LIMIT 1",
    [STMT_ASSOCIATION_ADD] = "INSERT INTO {p}cert_auth_associations (id, sha256) VALUES (%s, %s)"
                             " ON CONFLICT (id, sha256) DO NOTHING",
    [STMT_DEVICE_LOAD] = "SELECT 1 FROM {p}devices WHERE id = %s",
    [STMT_DEVICE_AUTHENTICATE] =
        "INSERT INTO {p}devices (id, identity_cert, serial_number, authenticate,"
        " authenticate_at) VALUES (%s, %s, %s, %s, CURRENT_TIMESTAMP)"
        " ON CONFLICT (id) DO UPDATE SET"
        " identity_cert = COALESCE(excluded.identity_cert, {p}devices.identity_cert),"
        " serial_number = excluded.serial_number, authenticate = excluded.authenticate,"
        " authenticate_at = CURRENT_TIMESTAMP, bootstrap_token_b64 = NULL,"
        " bootstrap_token_at = NULL, updated_at = CURRENT_TIMESTAMP",
    [STMT_DEVICE_CLEAR_QUEUE] =
        "UPDATE {p}enrollment_queue SET active = FALSE, updated_at = CURRENT_TIMESTAMP"
        " WHERE active = TRUE AND id IN (SELECT id FROM {p}enrollments WHERE device_id = %s)",
    [STMT_DEVICE_DISABLE] = "UPDATE {p}enrollments SET enabled = FALSE, token_update_tally = 0,"
                            " updated_at = CURRENT_TIMESTAMP WHERE device_id = %s",
    [STMT_DEVICE_TOKEN_UPDATE] =
        "UPDATE {p}devices SET token_update = %s, token_update_at = CURRENT_TIMESTAMP,"
        " updated_at = CURRENT_TIMESTAMP WHERE id = %s",
    [STMT_DEVICE_BOOTSTRAP_SET] =
        "UPDATE {p}devices SET bootstrap_token_b64 = %s,"
        " bootstrap_token_at = CURRENT_TIMESTAMP, updated_at = CURRENT_TIMESTAMP"
        " WHERE id = %s",
    [STMT_DEVICE_BOOTSTRAP_CLEAR] =
        "UPDATE {p}devices SET bootstrap_token_b64 = NULL, bootstrap_token_at = NULL,"
        " updated_at = CURRENT_TIMESTAMP WHERE id = %s",
    [STMT_DEVICE_BOOTSTRAP_LOAD] = "SELECT bootstrap_token_b64 FROM {p}devices"
                                   " WHERE id = %s AND bootstrap_token_b64 IS NOT NULL",
    [STMT_USER_TOKEN_UPDATE] =
        "INSERT INTO {p}users (id, device_id, user_short_name, user_long_name, token_update,"
        " token_update_at) VALUES (%s, %s, %s, %s, %s, CURRENT_TIMESTAMP)"
        " ON CONFLICT (id, device_id) DO UPDATE SET"
        " user_short_name = excluded.user_short_name,"
        " user_long_name = excluded.user_long_name, token_update = excluded.token_update,"
        " token_update_at = CURRENT_TIMESTAMP, updated_at = CURRENT_TIMESTAMP",
    [STMT_USER_AUTHENTICATE] =
        "INSERT INTO {p}users (id, device_id, user_short_name, user_long_name,"
        " user_authenticate, user_authenticate_at)"
        " VALUES (%s, %s, %s, %s, %s, CURRENT_TIMESTAMP)"
        " ON CONFLICT (id, device_id) DO UPDATE SET"
        " user_short_name = excluded.user_short_name,"
        " user_long_name = excluded.user_long_name,"
        " user_authenticate = excluded.user_authenticate,"
        " user_authenticate_at = CURRENT_TIMESTAMP, updated_at = CURRENT_TIMESTAMP",
    [STMT_USER_AUTHENTICATE_DIGEST] =
        "INSERT INTO {p}users (id, device_id, user_short_name, user_long_name,"
        " user_authenticate_digest, user_authenticate_digest_at)"
        " VALUES (%s, %s, %s, %s, %s, CURRENT_TIMESTAMP)"
        " ON CONFLICT (id, device_id) DO UPDATE SET"
        " user_short_name = excluded.user_short_name,"
        " user_long_name = excluded.user_long_name,"
        " user_authenticate_digest = excluded.user_authenticate_digest,"
        " user_authenticate_digest_at = CURRENT_TIMESTAMP, updated_at = CURRENT_TIMESTAMP",
    [STMT_ENROLLMENT_TOKEN_UPDATE] =
        "INSERT INTO {p}enrollments (id, device_id, user_id, type, topic, push_magic,"
        " token_hex, enabled, token_update_tally, last_seen_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, TRUE, 1, CURRENT_TIMESTAMP)"
        " ON CONFLICT (id) DO UPDATE SET"
        " device_id = excluded.device_id, user_id = excluded.user_id, type = excluded.type,"
        " topic = excluded.topic, push_magic = excluded.push_magic,"
        " token_hex = excluded.token_hex, enabled = TRUE,"
        " token_update_tally = {p}enrollments.token_update_tally + 1,"
        " last_seen_at = CURRENT_TIMESTAMP, updated_at = CURRENT_TIMESTAMP",
    [STMT_ENROLLMENT_DISABLE] = "UPDATE {p}enrollments SET enabled = FALSE, token_update_tally = 0,"
                                " updated_at = CURRENT_TIMESTAMP WHERE id = %s",
    [STMT_ENROLLMENTS_LOAD] = "SELECT id FROM {p}enrollments WHERE id IN ({ids})",
    [STMT_ENROLLMENTS_SEEN] =
        "UPDATE {p}enrollments SET last_seen_at = CURRENT_TIMESTAMP WHERE id IN ({ids})",
    [STMT_COMMAND_ADD] =
        "INSERT INTO {p}commands (command_uuid, request_type, command) VALUES (%s, %s, %s)"
        " ON CONFLICT (command_uuid) DO NOTHING",
    [STMT_COMMAND_SAME] = "SELECT CASE WHEN command = %s THEN 1 ELSE 0 END FROM {p}commands"
                          " WHERE command_uuid = %s",
    [STMT_COMMAND_LOAD] = "SELECT command FROM {p}commands WHERE command_uuid = %s",
    [STMT_QUEUE_ADD] = "INSERT INTO {p}enrollment_queue (id, command_uuid)"
                       " SELECT e.id, c.command_uuid FROM {p}enrollments AS e, {p}commands AS c"
                       " WHERE c.command_uuid = %s AND e.id IN ({ids})"
                       " ON CONFLICT (id, command_uuid) DO NOTHING",
    [STMT_QUEUE_FINISH] =
        "UPDATE {p}enrollment_queue SET active = FALSE, updated_at = CURRENT_TIMESTAMP"
        " WHERE id = %s AND command_uuid = %s AND active = TRUE",
    [STMT_QUEUE_LOAD] = "SELECT 1 FROM {p}enrollment_queue WHERE id = %s AND command_uuid = %s",
    [STMT_QUEUE_LOAD_NEXT] =
        DIALECT_NEXT_COMMAND("(r.status IS NULL OR r.status = 'NotNow')", ORDER),
    [STMT_QUEUE_LOAD_NEXT_NOT_NOW] = DIALECT_NEXT_COMMAND("r.status IS NULL", ORDER),

    [STMT_RESULT_ADD] = "INSERT INTO {p}command_results (id, command_uuid, status, result)"
                        " SELECT q.id, q.command_uuid, %s, %s FROM {p}enrollment_queue AS q"
                        " WHERE q.id = %s AND q.command_uuid = %s"
                        " ON CONFLICT (id, command_uuid) DO UPDATE SET status = excluded.status,"
                        " result = excluded.result, updated_at = CURRENT_TIMESTAMP",
    [STMT_RESULT_NOT_NOW] =
        "INSERT INTO {p}command_results (id, command_uuid, status, result, not_now_at,"
        " not_now_tally)"
        " SELECT q.id, q.command_uuid, %s, %s, CURRENT_TIMESTAMP, 1"
        " FROM {p}enrollment_queue AS q WHERE q.id = %s AND q.command_uuid = %s"
        " ON CONFLICT (id, command_uuid) DO UPDATE SET status = excluded.status,"
        " result = excluded.result,"
        " not_now_at = COALESCE({p}command_results.not_now_at, excluded.not_now_at),"
        " not_now_tally = {p}command_results.not_now_tally + 1,"
        " updated_at = CURRENT_TIMESTAMP"
        " WHERE {p}command_results.status = 'NotNow'",
    [STMT_ENROLLMENT_LOAD_TALLY] = "SELECT token_update_tally FROM {p}enrollments WHERE id = %s",
    [STMT_OUTBOX_ADD_BATCH] =
        "INSERT INTO {p}mdm_webhook_outbox (webhook, id, topic, event, due_ms)"
        " VALUES (%s, '', %s, %s, -1)",
    [STMT_OUTBOX_BATCH] = "SELECT seq FROM {p}mdm_webhook_outbox"
                          " WHERE webhook = %s AND id = '' AND seq > %lld AND due_ms IS NOT NULL"
                          " ORDER BY webhook, id, seq LIMIT 1",
    [STMT_OUTBOX_RUN] = "SELECT seq FROM {p}mdm_webhook_outbox"
                        " WHERE webhook = %s AND id = %s AND due_ms IS NOT NULL"
                        " ORDER BY webhook, id, seq LIMIT " APR_STRINGIFY(STORE_OUTBOX_RUN_MAX),
    [STMT_OUTBOX_AFTER] = "SELECT seq FROM {p}mdm_webhook_outbox"
                          " WHERE webhook = %s AND id = %s AND seq > %lld AND due_ms IS NOT NULL"
                          " ORDER BY webhook, id, seq LIMIT 1",
    [STMT_OUTBOX_LOAD] = "SELECT event FROM {p}mdm_webhook_outbox WHERE seq = %lld",
    [STMT_OUTBOX_DELETE] = "DELETE FROM {p}mdm_webhook_outbox WHERE seq = %lld",
    [STMT_OUTBOX_BURY] =
        "UPDATE {p}mdm_webhook_outbox SET due_ms = NULL, error = %s WHERE seq = %lld",
    [STMT_LEASE_RETURN] = "UPDATE {p}mdm_webhook_leases SET owner = '-', until_ms = 0"
                          " WHERE webhook = %s AND id = %s AND owner = %s AND failures > 0",
    [STMT_LEASE_RELEASE] =
        "DELETE FROM {p}mdm_webhook_leases WHERE webhook = %s AND id = %s AND owner = %s",
    [STMT_HISTORY_ENROLLMENTS] = "SELECT id FROM {p}enrollments WHERE id > %s ORDER BY id LIMIT 32",
    [STMT_HISTORY_COMMAND_DELETE] =
        "DELETE FROM {p}commands WHERE command_uuid = %s"
        " AND NOT EXISTS (SELECT 1 FROM {p}enrollment_queue AS q"
        "                 WHERE q.command_uuid = {p}commands.command_uuid)"
        " AND NOT EXISTS (SELECT 1 FROM {p}command_results AS r"
        "                 WHERE r.command_uuid = {p}commands.command_uuid)",
    [STMT_PUSH_CERT_STORE] =
        "INSERT INTO {p}push_certs (topic, cert_pem, key_pem, stale_token) VALUES (%s, %s, %s, 0)"
        " ON CONFLICT (topic) DO UPDATE SET cert_pem = excluded.cert_pem,"
        " key_pem = excluded.key_pem, stale_token = {p}push_certs.stale_token + 1,"
        " updated_at = CURRENT_TIMESTAMP",
    [STMT_PUSH_CERT_LOAD] =
        "SELECT cert_pem, key_pem, stale_token FROM {p}push_certs WHERE topic = %s",
    [STMT_PUSH_CERT_NEXT] =
        "SELECT topic FROM {p}push_certs WHERE topic > %s ORDER BY topic LIMIT 1",
    [STMT_PUSH_LOAD] = DIALECT_PUSH("NULL", ""),
    [STMT_PUSH_LOAD_WITH_DEAD] =
        DIALECT_PUSH("d.reason", " LEFT JOIN {p}mdm_dead_tokens AS d"
                                 " ON d.id = e.id AND d.token_hex = e.token_hex"),
    [STMT_DEAD_TOKEN_CLEAR] = "DELETE FROM {p}mdm_dead_tokens WHERE id = %s",
};

const char *dialect_statement(const dialect_t *dialect, statement_t statement)
{
    const char *own = dialect->statements[statement];

    return own != NULL ? own : dialect_standard[statement];
}

/* The statement in one line. */
static const char *one_line(const char *sql, apr_pool_t *pool)
{
    char *line = apr_pstrdup(pool, sql);
    char *to = line;

    for (const char *from = line; *from != '\0'; from++) {
        if (!isspace((unsigned char)*from)) {
            *to++ = *from;
        } else if (to > line && to[-1] != ' ') {
            *to++ = ' ';
        }
    }
    *to = '\0';
    return line;
}

/* Each statement ends with ";\n". */
apr_array_header_t *dialect_split(const char *text, apr_pool_t *pool)
{
    apr_array_header_t *statements = apr_array_make(pool, 32, sizeof(const char *));
    const char *end;

    while ((end = strstr(text, ";\n")) != NULL) {
        APR_ARRAY_PUSH(statements, const char *) =
            one_line(apr_pstrmemdup(pool, text, (apr_size_t)(end - text)), pool);
        text = end + 2;
    }
    return statements;
}

const dialect_t *dialect_get(const char *driver)
{
    static const dialect_t *const dialects[] = {&dialect_sqlite3, &dialect_pgsql, &dialect_mysql};

    for (size_t i = 0; i < sizeof(dialects) / sizeof(dialects[0]); i++) {
        if (strcmp(driver, dialects[i]->driver) == 0) {
            return dialects[i];
        }
    }
    return NULL;
}
