/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What is SQLite's own (3.35 and later) among the store's statements. */
#include "dialect.h"

#include <stddef.h>

#include "schema_sqlite3.h"

/* Ordered by the row id behind the time of arrival: exact within a second, and when the clock
 * steps back. */
#define NEXT_COMMAND(condition)                                                                    \
    "SELECT CASE WHEN EXISTS (SELECT 1 FROM {p}cert_auth_associations"                             \
    "                         WHERE id = %s AND sha256 = %s) THEN 1 ELSE 0 END,"                   \
    " (SELECT q.command_uuid FROM {p}enrollment_queue AS q"                                        \
    "  LEFT JOIN {p}command_results AS r ON r.id = q.id AND r.command_uuid = q.command_uuid"       \
    "  WHERE q.id = %s AND q.active = TRUE AND " condition                                         \
    "  ORDER BY q.priority DESC, q.rowid LIMIT 1)"

static const char *const settings[] = {
    "PRAGMA busy_timeout = 50",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    NULL,
};

const dialect_t dialect_sqlite3 = {
    .driver = "sqlite3",
    .package = "libaprutil1-dbd-sqlite3",
    .settings = settings,
    .begin = "BEGIN IMMEDIATE",
    .schema = schema_sqlite3_sql,
    .single_writer = 1,
    .busy = 5, /* SQLITE_BUSY */
    .statements =
        {
            [STMT_DEVICE_UNLOCK_TOKEN] =
                "UPDATE {p}devices SET unlock_token = %pDb, unlock_token_at = CURRENT_TIMESTAMP"
                " WHERE id = %s",
            [STMT_QUEUE_LOAD_NEXT] = NEXT_COMMAND("(r.status IS NULL OR r.status = 'NotNow')"),
            [STMT_QUEUE_LOAD_NEXT_NOT_NOW] = NEXT_COMMAND("r.status IS NULL"),
        },
};
