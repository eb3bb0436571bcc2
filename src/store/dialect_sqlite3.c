/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What is SQLite's own (3.35 and later) among the store's statements. */
#include "dialect.h"

#include <stddef.h>
#include <string.h>

#include "schema_sqlite3.h"

/* Ordered by the row id behind the time of arrival: exact within a second, and when the clock
 * steps back. */
#define ORDER "q.priority DESC, q.rowid"

/* The clock in milliseconds. */
#define NOW "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"

static const char *const settings[] = {
    "PRAGMA busy_timeout = 50",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    NULL,
};

/* Without these a reader would change the file's journal mode. */
static const char *const read_settings[] = {
    "PRAGMA busy_timeout = 50",
    "PRAGMA query_only = ON",
    NULL,
};

/* SQLITE_BUSY; the driver hides some of them behind SQLITE_ERROR. */
static int is_busy(int code, const char *reason)
{
    return code == 5 || (code == 1 && reason != NULL && strcmp(reason, "database is locked") == 0);
}

const dialect_t dialect_sqlite3 = {
    .driver = "sqlite3",
    .package = "libaprutil1-dbd-sqlite3",
    .settings = settings,
    .read_settings = read_settings,
    .settings_return_rows = 1,
    .begin = "BEGIN IMMEDIATE",
    .schema = schema_sqlite3_sql,
    .own = own_sqlite3_sql,
    .single_writer = 1,
    .is_busy = is_busy,
    .table_missing = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM sqlite_master WHERE name = '{p}%s')",
    .index_missing = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pragma_index_list('{p}%s') AS l"
                     " WHERE l.partial = 0 AND (SELECT group_concat(COALESCE(i.name, ''), ',')"
                     "  FROM pragma_index_info(l.name) AS i) || ',' LIKE '%s%%')",
    .queue_index = "id, active, priority DESC",
    .copy =
        {
            .read_bytes = "CASE WHEN {v} IS NULL THEN NULL ELSE LOWER(HEX({v})) END",
            .write_bytes = "X'{v}'",
            .arrival = "PRINTF('%020d', rowid)",
            .skip = " ON CONFLICT ({v}) DO NOTHING",
        },
    .statements =
        {
            DIALECT_OUTBOX(NOW),
            [STMT_LEASE_CLAIM] = DIALECT_LEASE_CLAIM(NOW, DIALECT_LEASE_UPSERT(NOW)),
            DIALECT_HISTORY("datetime('now', '-' || %s || ' seconds')"),
            [STMT_DEVICE_UNLOCK_TOKEN] =
                "UPDATE {p}devices SET unlock_token = %pDb, unlock_token_at = CURRENT_TIMESTAMP"
                " WHERE id = %s",
            [STMT_QUEUE_LOAD_NEXT] =
                DIALECT_NEXT_COMMAND("(r.status IS NULL OR r.status = 'NotNow')", ORDER),
            [STMT_QUEUE_LOAD_NEXT_NOT_NOW] = DIALECT_NEXT_COMMAND("r.status IS NULL", ORDER),
            [STMT_DEAD_TOKEN_ADD] =
                DIALECT_DEAD_TOKEN("datetime(%s, 'unixepoch')", DIALECT_DEAD_TOKEN_UPSERT),
        },
};
