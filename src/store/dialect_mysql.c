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

static const char *const read_settings[] = {
    "SET NAMES utf8mb4",
    "SET SESSION time_zone = '+00:00'",
    "SET SESSION TRANSACTION READ ONLY",
    NULL,
};

/* A deadlock, a lock that was waited for too long, or a row that has changed since the transaction
 * began (MariaDB's innodb_snapshot_isolation): it may be repeated. */
static int is_busy(int code, const char *reason)
{
    (void)reason;
    return code == 1213 || code == 1205 || code == 1020;
}

#define USER_UPSERT(column)                                                                        \
    "INSERT INTO {p}users (id, device_id, user_short_name, user_long_name, " column ", " column    \
    "_at) VALUES (%s, %s, %s, %s, %s, CURRENT_TIMESTAMP)"                                          \
    " ON DUPLICATE KEY UPDATE user_short_name = VALUES(user_short_name),"                          \
    " user_long_name = VALUES(user_long_name), " column " = VALUES(" column "), " column           \
    "_at = CURRENT_TIMESTAMP"

/* -- What another server's schema needs --------------------------------------------------- */

/* NanoMDM's tables have the server's default collation, mostly one for which ids that differ in
 * case are the same. The collation of a column in a foreign key cannot be changed. So: nobody else
 * at the tables, the keys dropped, ids that differ from those that they refer to in case made
 * equal, and each table converted and given its keys back in one statement. The keys that are
 * missing, or the tables that are not converted, tell that one of this was broken off: then all of
 * it is done again. Not where tables of others have keys to these.
 */
#define KEYED "'{p}users', '{p}enrollments', '{p}command_results', '{p}enrollment_queue'"
#define KEYS                                                                                       \
    " FROM information_schema.table_constraints WHERE constraint_schema = DATABASE()"              \
    " AND constraint_type = 'FOREIGN KEY' AND table_name IN (" KEYED ")"
#define COLUMNS(condition)                                                                         \
    "(SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE() AND " condition ")"
#define ID "column_name IN ('id', 'device_id', 'user_id', 'command_uuid')"
#define NOT_BINARY ID " AND collation_name <> 'utf8mb4_bin'"
#define TABLES "('{p}devices', '{p}commands', " KEYED ")"
#define OTHERS                                                                                     \
    "(SELECT 1 FROM information_schema.referential_constraints"                                    \
    " WHERE unique_constraint_schema = DATABASE() AND referenced_table_name IN " TABLES            \
    " AND table_name NOT IN (" KEYED "))"
#define CONVERTS                                                                                   \
    "((EXISTS " COLUMNS("table_name IN " TABLES                                                    \
                        " AND " NOT_BINARY) " OR (SELECT COUNT(*)" KEYS                            \
                                            ") < 7) AND NOT EXISTS " OTHERS ")"
#define WHEN_CONVERTING(sql) "SELECT '" sql "' FROM DUAL WHERE " CONVERTS
#define CONVERT "CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
#define KEY(table, number, columns, to)                                                            \
    ", ADD CONSTRAINT {p}" table "_ibfk_" number " FOREIGN KEY (" columns ") REFERENCES {p}" to    \
    " ON DELETE CASCADE ON UPDATE CASCADE"
/* Compared as the column that is not converted yet does. */
#define SPELL(table, column, to, id)                                                               \
    "SELECT CONCAT('UPDATE {p}" table " JOIN {p}" to " ON {p}" table "." column                    \
    " = CONVERT({p}" to "." id                                                                     \
    " USING ', character_set_name, ') COLLATE ', collation_name, ' SET {p}" table "." column       \
    " = {p}" to "." id " WHERE CAST({p}" table "." column " AS BINARY) <> CAST({p}" to "." id      \
    " AS BINARY)') FROM information_schema.columns"                                                \
    " WHERE table_schema = DATABASE() AND table_name = '{p}" table "' AND column_name = '" column  \
    "' AND collation_name <> 'utf8mb4_bin'"
/* A table with columns whose types change, too, and columns that tell whether they have. */
#define CHANGE(table, tells, types, keys)                                                          \
    "SELECT CONCAT('ALTER TABLE {p}" table " ', CASE WHEN " CONVERTS " THEN '" CONVERT keys        \
    ", ' ELSE '' END, '" types "') FROM DUAL WHERE " CONVERTS                                      \
    " OR EXISTS " COLUMNS("table_name = '{p}" table "' AND " tells)

static const upgrade_t changes[] = {
    {NULL, WHEN_CONVERTING("LOCK TABLES {p}devices WRITE, {p}users WRITE, {p}enrollments WRITE,"
                           " {p}commands WRITE, {p}command_results WRITE,"
                           " {p}enrollment_queue WRITE, {p}cert_auth_associations WRITE")},
    {NULL, "SELECT CONCAT('ALTER TABLE ', table_name, ' DROP FOREIGN KEY ', constraint_name)" KEYS
           " AND " CONVERTS},
    {NULL, SPELL("users", "device_id", "devices", "id") " AND " CONVERTS},
    {NULL, SPELL("enrollments", "device_id", "devices", "id") " AND " CONVERTS},
    {NULL, SPELL("enrollments", "user_id", "users", "id") " AND " CONVERTS},
    {NULL, SPELL("command_results", "id", "enrollments", "id") " AND " CONVERTS},
    {NULL, SPELL("command_results", "command_uuid", "commands", "command_uuid") " AND " CONVERTS},
    {NULL, SPELL("enrollment_queue", "id", "enrollments", "id") " AND " CONVERTS},
    {NULL, SPELL("enrollment_queue", "command_uuid", "commands", "command_uuid") " AND " CONVERTS},
    {NULL, SPELL("cert_auth_associations", "id", "devices", "id")},
    {"devices: messages and tokens of more than 64 KiB; ids that compare byte by byte, unless "
     "other tables refer to them",
     CHANGE("devices",
            "data_type = 'text' AND column_name IN ('authenticate', 'token_update',"
            " 'bootstrap_token_b64')",
            "MODIFY authenticate MEDIUMTEXT NOT NULL, MODIFY token_update MEDIUMTEXT NULL,"
            " MODIFY bootstrap_token_b64 MEDIUMTEXT NULL",
            "")},
    {"users: messages of more than 64 KiB; ids that compare byte by byte, unless other tables "
     "refer to them",
     CHANGE("users",
            "data_type = 'text' AND column_name IN ('token_update', 'user_authenticate',"
            " 'user_authenticate_digest')",
            "MODIFY token_update MEDIUMTEXT NULL, MODIFY user_authenticate MEDIUMTEXT NULL,"
            " MODIFY user_authenticate_digest MEDIUMTEXT NULL",
            KEY("users", "1", "device_id", "devices (id)"))},
    {"enrollments: ids that compare byte by byte",
     WHEN_CONVERTING(
         "ALTER TABLE {p}enrollments " CONVERT KEY("enrollments", "1", "device_id", "devices (id)")
             KEY("enrollments", "2", "user_id, device_id", "users (id, device_id)"))},
    {"commands: ids that compare byte by byte",
     WHEN_CONVERTING("ALTER TABLE {p}commands " CONVERT)},
    {"command_results: ids that compare byte by byte",
     WHEN_CONVERTING("ALTER TABLE {p}command_results " CONVERT KEY("command_results", "1", "id",
                                                                   "enrollments (id)")
                         KEY("command_results", "2", "command_uuid", "commands (command_uuid)"))},
    {"enrollment_queue: times of less than a second; ids that compare byte by byte, unless other "
     "tables refer to them",
     CHANGE("enrollment_queue", "column_name = 'created_at' AND datetime_precision = 0",
            "MODIFY created_at TIMESTAMP(6) NULL DEFAULT CURRENT_TIMESTAMP(6)",
            KEY("enrollment_queue", "1", "id", "enrollments (id)")
                KEY("enrollment_queue", "2", "command_uuid", "commands (command_uuid)"))},
    {NULL, WHEN_CONVERTING("UNLOCK TABLES")},
    {"cert_auth_associations: ids that compare byte by byte",
     "SELECT 'ALTER TABLE {p}cert_auth_associations " CONVERT "' FROM DUAL WHERE EXISTS " COLUMNS(
         "table_name = '{p}cert_auth_associations' AND " NOT_BINARY)},
    {NULL, NULL},
};

/* Of a server, not of a database; at most 64 characters. */
#define LOCK_NAME "CONCAT('nanomdm-schema ', MD5(CONCAT(DATABASE(), '/{p}')))"

const dialect_t dialect_mysql = {
    .driver = "mysql",
    .package = "libaprutil1-dbd-mysql",
    .settings = settings,
    .read_settings = read_settings,
    .begin = "START TRANSACTION",
    .schema = schema_mysql_sql,
    .own = own_mysql_sql,
    .is_busy = is_busy,
    .socket_function = "mysql_get_socket",
    .unlock_token_as_hex = 1,
    .truncates = 1,
    .lost_code = 2013,
    .reconnects = 1,
    .upgrade_lock = "SELECT 1 FROM DUAL WHERE GET_LOCK(" LOCK_NAME ", 0) = 1",
    .upgrade_unlock = "DO RELEASE_LOCK(" LOCK_NAME ")",
    .table_missing = "SELECT 1 FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM information_schema.tables"
                     " WHERE table_schema = DATABASE() AND table_name = '{p}%s')",
    .index_missing = "SELECT 1 FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM"
                     " (SELECT GROUP_CONCAT(column_name ORDER BY seq_in_index) AS names"
                     "  FROM information_schema.statistics WHERE table_schema = DATABASE()"
                     "  AND table_name = '{p}%s' GROUP BY index_name) AS i"
                     " WHERE CONCAT(i.names, ',') LIKE '%s%%')",
    .queue_index = "id, active, priority DESC, created_at",
    .changes = changes,
    .copy =
        {
            .read_bytes = "LOWER(HEX({v}))",
            .write_bytes = "X'{v}'",
            /* into which it would round, or cut, depending on who it is */
            .whole_seconds = "SELECT column_name FROM information_schema.columns"
                             " WHERE table_schema = DATABASE() AND table_name = '{p}{table}'"
                             " AND datetime_precision = 0",
            .statement_max = "SELECT @@max_allowed_packet",
            /* changes nothing, whichever key is there */
            .skip = " ON DUPLICATE KEY UPDATE created_at = {p}{table}.created_at",
        },
    .statements =
        {
            DIALECT_OUTBOX(NOW),
            [STMT_LEASE_CLAIM] = DIALECT_LEASE_CLAIM(
                NOW, "ON DUPLICATE KEY UPDATE"
                     " owner = IF(until_ms <= " NOW ", VALUES(owner), owner),"
                     " until_ms = IF(owner = VALUES(owner), VALUES(until_ms), until_ms)"),
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
