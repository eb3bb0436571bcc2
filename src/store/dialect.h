/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The statements of the store, by name, and what a database's dialect must give for each. All SQL
 * of the project is in the dialect_*.c files and in sql/.
 */
#ifndef STORE_DIALECT_H
#define STORE_DIALECT_H

typedef enum {
    STMT_ASSOCIATION_LOAD,
    STMT_ASSOCIATION_LOAD_BY_CERTIFICATE,
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
    /* From here on: statements over a list of ids, which exist in several sizes. */
    STMT_LISTS,
    STMT_ENROLLMENTS_LOAD = STMT_LISTS,
    STMT_ENROLLMENTS_SEEN,
    STMT_QUEUE_ADD,
    STMT_COUNT
} statement_t;

/** What differs from one database to the next. */
typedef struct dialect_t {
    const char *driver;  /* apr_dbd's name */
    const char *package; /* Debian's package of the driver */
    /* those that differ from the standard ones; NULL for the others */
    const char *statements[STMT_COUNT];
    const char *const *settings; /* selects run on each new connection; NULL ends */
    const char *begin;
    const char *schema; /* the text of sql/schema.*.sql */
    int single_writer;  /* one write transaction at a time per process: see dbd.c */
    int busy;           /* the driver's code for "try again", 0 if it cannot tell */
} dialect_t;

/** A statement's SQL: with apr_dbd's placeholders, {p} for the table prefix, {ids} for a list. */
const char *dialect_statement(const dialect_t *dialect, statement_t statement);

/** The names of the tables and, behind each, of its columns that are used; NULL ends. */
extern const char *const dialect_tables[];

/** The dialect of an apr_dbd driver, or NULL. */
const dialect_t *dialect_get(const char *driver);

extern const dialect_t dialect_sqlite3;

#endif
