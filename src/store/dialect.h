/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The statements of the store, by name, and what a database's dialect must give for each. The SQL
 * of requests is in the dialect_*.c files, that of the schema in sql/. Beside these, copy.c,
 * replay.c and upgrade.c make theirs from the names of tables and columns; dbd.c has that of
 * transactions, and dbd.c and schema.c the selects that try whether a table or a server is there.
 */
#ifndef STORE_DIALECT_H
#define STORE_DIALECT_H

#include <apr_general.h>
#include <apr_tables.h>

#include "store.h"

typedef enum {
    STMT_ASSOCIATION_LOAD,
    STMT_ASSOCIATION_LOAD_BY_CERTIFICATE,
    STMT_ASSOCIATION_LOCK, /* NULL where STMT_ASSOCIATION_CLAIM itself, or BEGIN, locks */
    STMT_ASSOCIATION_CLAIM,
    STMT_ASSOCIATION_LOAD_BY_ID,
    STMT_ASSOCIATION_ADD,
    STMT_DEVICE_LOAD,
    STMT_DEVICE_AUTHENTICATE,
    STMT_DEVICE_CLEAR_QUEUE,
    STMT_DEVICE_DISABLE,
    STMT_DEVICE_TOKEN_UPDATE,
    STMT_DEVICE_UNLOCK_TOKEN,
    STMT_DEVICE_BOOTSTRAP_SET,
    STMT_DEVICE_BOOTSTRAP_CLEAR,
    STMT_DEVICE_BOOTSTRAP_LOAD,
    STMT_USER_TOKEN_UPDATE,
    STMT_USER_AUTHENTICATE,
    STMT_USER_AUTHENTICATE_DIGEST,
    STMT_ENROLLMENT_TOKEN_UPDATE,
    STMT_ENROLLMENT_DISABLE,
    STMT_COMMAND_ADD,
    STMT_COMMAND_SAME,
    STMT_COMMAND_LOAD,
    STMT_QUEUE_FINISH,
    STMT_QUEUE_LOAD,
    STMT_QUEUE_LOAD_NEXT,
    STMT_QUEUE_LOAD_NEXT_NOT_NOW,
    STMT_RESULT_ADD,
    STMT_RESULT_NOT_NOW,
    STMT_PUSH_CERT_STORE,
    STMT_PUSH_CERT_LOAD,
    STMT_PUSH_CERT_NEXT,
    STMT_DEAD_TOKEN_ADD,
    STMT_DEAD_TOKEN_CLEAR,
    STMT_HISTORY_LOCK,   /* NULL where BEGIN locks */
    STMT_HISTORY_UNLOCK, /* NULL where the end of the transaction does */
    STMT_HISTORY_FINISHED,
    STMT_HISTORY_ENROLLMENTS,
    STMT_HISTORY_QUEUE_DELETE,
    STMT_HISTORY_RESULT_DELETE,
    STMT_HISTORY_COMMAND_UNUSED,
    STMT_HISTORY_COMMAND_LOCK, /* NULL where STMT_HISTORY_COMMAND_DELETE itself, or BEGIN, locks */
    STMT_HISTORY_COMMAND_DELETE,
    STMT_ENROLLMENT_LOAD_TALLY,
    STMT_OUTBOX_ADD,
    STMT_OUTBOX_ADD_BATCH,
    STMT_OUTBOX_BATCH,
    STMT_OUTBOX_DUE,
    STMT_OUTBOX_RUN,
    STMT_OUTBOX_AFTER,
    STMT_OUTBOX_LOAD,
    STMT_OUTBOX_DELETE,
    STMT_OUTBOX_POSTPONE,
    STMT_OUTBOX_HURRY,
    STMT_OUTBOX_BURY,
    STMT_LEASE_CLAIM,
    STMT_LEASE_LOAD,
    STMT_LEASE_LOAD_FAILURES,
    STMT_LEASE_RENEW,
    STMT_LEASE_WAIT,
    STMT_LEASE_RETURN,
    STMT_LEASE_RELEASE,
    /* From here on: statements over a list of ids, which exist in several sizes. */
    STMT_LISTS,
    STMT_ENROLLMENTS_LOAD = STMT_LISTS,
    STMT_ENROLLMENTS_SEEN,
    STMT_QUEUE_ADD,
    STMT_PUSH_LOAD,
    STMT_PUSH_LOAD_WITH_DEAD,
    STMT_HISTORY_CLEARED,
    STMT_COUNT
} statement_t;

/** A change that another server's schema needs. */
typedef struct upgrade_t {
    const char *what;   /* in words; NULL if the entry is a part of the one before or after it */
    const char *select; /* its rows are the statements to run, none if all is well */
} upgrade_t;

/** An index that every database of ours has, whatever its name there. */
typedef struct index_t {
    const char *table;
    const char *name;    /* behind the table's name and "_" where it has to be made */
    const char *columns; /* NULL: the dialect's queue_index */
} index_t;

/** How a database's values are read and written as text when it is copied; {v} is the column or the
 * value, {p} the table prefix, {table} a table. NULL where there is nothing special. */
typedef struct dialect_copy_t {
    const char *read_time; /* YYYY-MM-DD HH:MM:SS, maybe with a fraction, in UTC */
    const char *write_time;
    const char *read_bytes; /* hex, lower case */
    const char *write_bytes;
    const char *arrival;       /* of a queue row, to be sorted as text, if not its time */
    const char *whole_seconds; /* select: the columns of {table} that hold no fractions */
    const char *statement_max; /* select: bytes that a statement may have */
    const char *skip;          /* ends an insert that leaves alone rows whose key {v} is there */
} dialect_copy_t;

/** What differs from one database to the next. */
typedef struct dialect_t {
    const char *driver;  /* apr_dbd's name */
    const char *package; /* Debian's package of the driver */
    /* those that differ from the standard ones; NULL for the others */
    const char *statements[STMT_COUNT];
    const char *const *settings;      /* run on each new connection; NULL ends, and may be all */
    const char *const *read_settings; /* in their place where a store only reads */
    void (*connected)(void *native);  /* called with each new connection; may be NULL */
    const char *begin;
    const char *schema; /* the text of sql/schema.*.sql */
    const char *own;    /* that of sql/own.*.sql */
    int single_writer;  /* one write transaction at a time: see writer.c */
    /* whether this failure means "try the transaction again": busy, a deadlock */
    int (*is_busy)(int code, const char *reason);
    int settings_return_rows; /* and are run as selects */
    int unlock_token_as_hex;  /* in place of a blob */
    int truncates;            /* the driver cuts large columns of prepared selects */
    int lost_code;            /* of a select whose rows got lost, where the driver says 0; else 0 */
    /* the client library's function for a connection's socket; NULL if there is no server */
    const char *socket_function;
    int reconnects; /* the driver does so behind one's back unless told not to */

    /* For upgrade.c; selects are run as they are, after apr_psprintf() where they have a %s. */
    const char *upgrade_lock;   /* gives a row once nobody else upgrades; NULL: BEGIN sees to it */
    const char *upgrade_unlock; /* NULL: the transaction's end does */
    const char *table_missing;  /* gives a row if this table or view (%s) does not exist */
    const char *index_missing; /* … if no index of this table (%s) begins with "COLUMN,…," (%s) */
    const char *queue_index;   /* the columns of the index that finds the next command */
    const upgrade_t *changes; /* an entry without a select ends; NULL for none */

    dialect_copy_t copy;
} dialect_t;

/** A statement's SQL: with apr_dbd's placeholders, {p} for the table prefix, {ids} for a list. */
const char *dialect_statement(const dialect_t *dialect, statement_t statement);

/** The statements, const char *, of a text of sql/: each in one line, without its semicolon. */
apr_array_header_t *dialect_split(const char *text, apr_pool_t *pool);

/** The names of the tables and, behind each, of its columns that are used; NULL ends. */
extern const char *const dialect_tables[];
/** Likewise those of sql/own.*.sql, which a database that another server made may lack. */
extern const char *const dialect_own_tables[];
/** What rows that another server wrote need; the selects read whole tables. An entry without a
 * select ends. */
extern const upgrade_t dialect_row_changes[];
/** The indexes of sql/schema.*.sql, beside those of the keys; an entry without a table ends. */
extern const index_t dialect_indexes[];

/** The dialect of an apr_dbd driver, or NULL. */
const dialect_t *dialect_get(const char *driver);

/** The command to hand out next: see store_queue_load_next(). */
#define DIALECT_NEXT_COMMAND(condition, order)                                                     \
    "SELECT CASE WHEN EXISTS (SELECT 1 FROM {p}cert_auth_associations"                             \
    "                         WHERE id = %s AND sha256 = %s) THEN 1 ELSE 0 END,"                   \
    " (SELECT q.command_uuid FROM {p}enrollment_queue AS q"                                        \
    "  LEFT JOIN {p}command_results AS r ON r.id = q.id AND r.command_uuid = q.command_uuid"       \
    "  WHERE q.id = %s AND q.active = TRUE AND " condition "  ORDER BY " order " LIMIT 1)"

/** What a sweep of the history asks and deletes: see history.c. The first argument of each is the
 * age in seconds; cutoff is the time so long ago, made from it. */
#define DIALECT_HISTORY(cutoff)                                                                    \
    [STMT_HISTORY_FINISHED] = "SELECT id, command_uuid FROM {p}command_results"                    \
                              " WHERE updated_at < " cutoff " AND status <> 'NotNow'"              \
                              " ORDER BY updated_at LIMIT 200",                                    \
    [STMT_HISTORY_CLEARED] =                                                                       \
        "SELECT q.id, q.command_uuid FROM {p}enrollment_queue AS q"                                \
        " LEFT JOIN {p}command_results AS r ON r.id = q.id AND r.command_uuid = q.command_uuid"    \
        " WHERE q.updated_at < " cutoff " AND q.id IN ({ids}) AND q.active = FALSE"                \
        " AND (r.status IS NULL OR r.status = 'NotNow') LIMIT 200",                                \
    [STMT_HISTORY_QUEUE_DELETE] =                                                                  \
        "DELETE FROM {p}enrollment_queue WHERE NOT EXISTS (SELECT 1 FROM {p}command_results AS r"  \
        "  WHERE r.updated_at >= " cutoff " AND r.id = {p}enrollment_queue.id"                     \
        "  AND r.command_uuid = {p}enrollment_queue.command_uuid)"                                 \
        " AND id = %s AND command_uuid = %s",                                                      \
    [STMT_HISTORY_RESULT_DELETE] =                                                                 \
        "DELETE FROM {p}command_results WHERE updated_at < " cutoff                                \
        " AND NOT EXISTS (SELECT 1 FROM {p}enrollment_queue AS q WHERE q.id = "                    \
        "{p}command_results.id"                                                                    \
        "  AND q.command_uuid = {p}command_results.command_uuid)"                                  \
        " AND id = %s AND command_uuid = %s",                                                      \
    [STMT_HISTORY_COMMAND_UNUSED] =                                                                \
        "SELECT 1 FROM {p}commands AS c WHERE c.created_at < " cutoff " AND c.command_uuid = %s"   \
        " AND NOT EXISTS (SELECT 1 FROM {p}enrollment_queue AS q"                                  \
        "                 WHERE q.command_uuid = c.command_uuid)"                                  \
        " AND NOT EXISTS (SELECT 1 FROM {p}command_results AS r"                                   \
        "                 WHERE r.command_uuid = c.command_uuid)"

/** Webhook events and their leases: see outbox.c. now is the clock in milliseconds. */
#define DIALECT_OUTBOX(now)                                                                        \
    [STMT_OUTBOX_ADD] = "INSERT INTO {p}mdm_webhook_outbox (webhook, id, topic, event, due_ms)"    \
                        " VALUES (%s, %s, %s, %s, " now ")",                                       \
    [STMT_OUTBOX_DUE] = "SELECT seq, id FROM {p}mdm_webhook_outbox"                                \
                        " WHERE webhook = %s AND due_ms >= 0 AND due_ms <= " now " AND id <> ''"   \
                        " ORDER BY due_ms, seq LIMIT " APR_STRINGIFY(STORE_OUTBOX_DUE_MAX),        \
    [STMT_OUTBOX_POSTPONE] = "UPDATE {p}mdm_webhook_outbox SET due_ms = " now " + %lld"            \
                             " WHERE seq = %lld AND due_ms IS NOT NULL",                           \
    [STMT_OUTBOX_HURRY] =                                                                          \
        "UPDATE {p}mdm_webhook_outbox SET due_ms = " now " WHERE seq = %lld AND due_ms > " now,    \
    [STMT_LEASE_LOAD] = "SELECT owner, until_ms - " now " FROM {p}mdm_webhook_leases"              \
                        " WHERE webhook = %s AND id = %s",                                         \
    [STMT_LEASE_LOAD_FAILURES] = "SELECT failures, " now " - since_ms FROM {p}mdm_webhook_leases"  \
                                 " WHERE webhook = %s AND id = %s AND owner = %s",                 \
    [STMT_LEASE_RENEW] = "UPDATE {p}mdm_webhook_leases SET until_ms = " now " + %lld"              \
                         " WHERE webhook = %s AND id = %s AND owner = %s AND until_ms > " now,     \
    [STMT_LEASE_WAIT] = "UPDATE {p}mdm_webhook_leases SET owner = '-', until_ms = " now " + %lld," \
                        " failures = %lld, since_ms = " now " - %lld"                              \
                        " WHERE webhook = %s AND id = %s AND owner = %s"

/** Insert a lease, or take over one that is over, or whose owner does not know that it has it since
 * the answer to its commit was lost; upsert says how. */
#define DIALECT_LEASE_CLAIM(now, upsert)                                                           \
    "INSERT INTO {p}mdm_webhook_leases (webhook, id, owner, until_ms, failures, since_ms)"         \
    " VALUES (%s, %s, %s, " now " + %lld, 0, 0) " upsert

#define DIALECT_LEASE_UPSERT(now)                                                                  \
    "ON CONFLICT (webhook, id) DO UPDATE SET owner = excluded.owner,"                              \
    " until_ms = excluded.until_ms WHERE {p}mdm_webhook_leases.until_ms <= " now                   \
    " OR {p}mdm_webhook_leases.owner = excluded.owner"

/** Where to push to; see store_push_t. */
#define DIALECT_PUSH(reason, join)                                                                 \
    "SELECT e.id, e.topic, e.push_magic, e.token_hex, c.stale_token, " reason                      \
    " FROM {p}enrollments AS e LEFT JOIN {p}push_certs AS c ON c.topic = e.topic" join             \
    " WHERE e.id IN ({ids})"

/** Note a token as dead if it is still the enrollment's, and no TokenUpdate came after this time.
 * A device channel's id is that of its device. NULL as time is no time: nothing is after that. */
#define DIALECT_DEAD_TOKEN(time, upsert)                                                           \
    "INSERT INTO {p}mdm_dead_tokens (id, token_hex, reason)"                                       \
    " SELECT e.id, e.token_hex, %s FROM {p}enrollments AS e WHERE e.id = %s AND e.token_hex = %s"  \
    " AND NOT EXISTS (SELECT 1 FROM {p}devices AS d"                                               \
    "                 WHERE d.id = e.id AND d.token_update_at > " time ")"                         \
    " AND NOT EXISTS (SELECT 1 FROM {p}users AS u"                                                 \
    "                 WHERE u.id = e.user_id AND u.token_update_at > " time ") " upsert

#define DIALECT_DEAD_TOKEN_UPSERT                                                                  \
    "ON CONFLICT (id) DO UPDATE SET token_hex = excluded.token_hex, reason = excluded.reason,"     \
    " created_at = CURRENT_TIMESTAMP"

extern const dialect_t dialect_sqlite3;
extern const dialect_t dialect_pgsql;
extern const dialect_t dialect_mysql;

#endif
