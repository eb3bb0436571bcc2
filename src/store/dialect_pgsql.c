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

/* The driver has one code for everything, and the server's texts are in its language: so they are
 * to begin with the SQLSTATE. */
/* The clock in milliseconds. */
#define NOW "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS bigint)"

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

const dialect_t dialect_pgsql = {
    .driver = "pgsql",
    .package = "libaprutil1-dbd-pgsql",
    .begin = "BEGIN",
    .schema = schema_pgsql_sql,
    .own = own_pgsql_sql,
    .connected = connected,
    .is_busy = is_busy,
    .socket_function = "PQsocket",
    .unlock_token_as_hex = 1,
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
