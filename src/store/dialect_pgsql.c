/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What is PostgreSQL's own (11 and later) among the store's statements. */
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

#include "dialect.h"
#include "schema_pgsql.h"

#define PQERRORS_VERBOSE 2

/* The clock in milliseconds. */
#define NOW "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS bigint)"

/* The driver has one code for everything, and the server's texts are in its language: so they are
 * to begin with the SQLSTATE. */
static void connected(void *native)
{
    int (*set_verbosity)(void *, int);
    void *function = dlsym(RTLD_DEFAULT, "PQsetErrorVerbosity");

    if (function != NULL) {
        memcpy(&set_verbosity, &function, sizeof(function)); /* ISO C has no cast for it */
        set_verbosity(native, PQERRORS_VERBOSE);
    }
}

/* A deadlock, or a serialization failure. */
static int is_busy(int code, const char *reason)
{
    (void)code;
    return reason != NULL &&
           (strstr(reason, " 40P01: ") != NULL || strstr(reason, " 40001: ") != NULL);
}

/* What the driver escapes, it escapes for this. */
#define PLAIN_STRINGS "SET standard_conforming_strings = on"

/* What requests and deliverers want is the first rows in an index's order: after a table has grown
 * from nothing, the planner would for a while rather find all and sort them, each time anew. */
#define BY_INDEX "SET enable_bitmapscan = off"

static const char *const settings[] = {
    PLAIN_STRINGS,
    BY_INDEX,
    NULL,
};

static const char *const read_settings[] = {
    PLAIN_STRINGS,
    BY_INDEX,
    "SET default_transaction_read_only = on",
    NULL,
};

const dialect_t dialect_pgsql = {
    .driver = "pgsql",
    .package = "libaprutil1-dbd-pgsql",
    .settings = settings,
    .read_settings = read_settings,
    .begin = "BEGIN",
    .schema = schema_pgsql_sql,
    .own = own_pgsql_sql,
    .connected = connected,
    .is_busy = is_busy,
    .socket_function = "PQsocket",
    .unlock_token_as_hex = 1,
    /* Building an index may take longer than a request may. */
    .upgrade_lock = "SELECT 1 WHERE pg_try_advisory_xact_lock(hashtext('{p}nanomdm-schema'))"
                    " AND set_config('statement_timeout', '0', TRUE) IS NOT NULL",
    .table_missing = "SELECT 1 WHERE to_regclass('{p}%s') IS NULL",
    .index_missing =
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pg_index AS i"
        " WHERE i.indrelid = to_regclass('{p}%s') AND i.indisvalid AND i.indpred IS NULL"
        " AND starts_with((SELECT string_agg(COALESCE(a.attname, ''), ',' ORDER BY k.place)"
        "   FROM unnest(i.indkey) WITH ORDINALITY AS k (number, place)"
        "   LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number"
        "  ) || ',', '%s'))",
    .queue_index = "id, active, priority DESC, created_at",
    .copy =
        {
            /* The columns have no time zone: what is in them is a session's local time. */
            .read_time = "TO_CHAR(CAST({v} AS TIMESTAMPTZ) AT TIME ZONE 'UTC',"
                         " 'YYYY-MM-DD HH24:MI:SS.US')",
            .write_time = "CAST(TIMESTAMPTZ '{v}+00' AS TIMESTAMP)",
            .read_bytes = "ENCODE({v}, 'hex')",
            .write_bytes = "DECODE('{v}', 'hex')",
            .skip = " ON CONFLICT ({v}) DO NOTHING",
        },
    .statements =
        {
            DIALECT_OUTBOX(NOW),
            [STMT_LEASE_CLAIM] = DIALECT_LEASE_CLAIM(NOW, DIALECT_LEASE_UPSERT(NOW)),
            DIALECT_HISTORY("LOCALTIMESTAMP - CAST(%s AS integer) * INTERVAL '1 second'"),
            [STMT_HISTORY_LOCK] = "SELECT CASE WHEN pg_try_advisory_xact_lock(hashtext("
                                  "current_schema() || '.{p}history')) THEN 1 ELSE 0 END",
            /* What refers to the command afterwards waits for the end of the sweep. */
            [STMT_HISTORY_COMMAND_LOCK] =
                "SELECT 1 FROM {p}commands WHERE command_uuid = %s FOR UPDATE",
            /* The sweep cannot delete the command before it is queued. */
            [STMT_COMMAND_SAME] = "SELECT CASE WHEN command = %s THEN 1 ELSE 0 END"
                                  " FROM {p}commands WHERE command_uuid = %s FOR KEY SHARE",
            /* Held to the end of the transaction: the second of two claims sees the first. */
            [STMT_ASSOCIATION_LOCK] =
                "SELECT 1 FROM (SELECT pg_advisory_xact_lock(hashtext(%s))) AS claim",
            [STMT_DEVICE_UNLOCK_TOKEN] = "UPDATE {p}devices SET unlock_token = decode(%s, 'hex'),"
                                         " unlock_token_at = CURRENT_TIMESTAMP WHERE id = %s",
            /* A column without time zone is in the session's, as CURRENT_TIMESTAMP wrote it. */
            [STMT_DEAD_TOKEN_ADD] = DIALECT_DEAD_TOKEN("to_timestamp(CAST(%s AS double precision))",
                                                       DIALECT_DEAD_TOKEN_UPSERT),
        },
};
