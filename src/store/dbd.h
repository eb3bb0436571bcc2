/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* apr_dbd with its traps closed: connections, statements, transactions. Only src/store sees this.
 *
 * A failing statement marks its connection as broken; the caller just returns the status, and
 * store_read() and store_write() decide about a retry and throw the connection away.
 */
#ifndef STORE_DBD_H
#define STORE_DBD_H

#include "dialect.h"
#include "store.h"

/** Sizes of the statements over a list of ids; a shorter list is filled up with its last id. */
#define DBD_LIST_MAX 512

/** A statement's arguments, as dbd_exec() and dbd_load() take them. */
#define DBD_ARGS(...) ((const char *[]){__VA_ARGS__})

/** One row of an array that dbd_load_rows(), dbd_list() or dbd_select() filled: its values, const
 * char *, NULL for NULL. */
#define DBD_ROW(rows, i)                                                                           \
    ((const char *const *)(const void *)((rows)->elts +                                            \
                                         (apr_size_t)(i) * (apr_size_t)(rows)->elt_size))

/** Run a prepared statement that returns no rows.
 *
 * @param args      one per placeholder, NULL for NULL; a blob takes four: bytes, length in
 *                  decimal, table, column, and must not be NULL
 * @param affected  rows; may be NULL
 * @return MDM_EUNAVAILABLE
 */
apr_status_t dbd_exec(store_tx_t *tx, statement_t statement, const char **args, int *affected);

/** Run an insert that ends with its VALUES once for many rows, as literals in one statement: what a
 * large batch would lose in round trips.
 *
 * @param rows  as many const char * each as the statement has %s, without NULL; together they must
 *              be small enough for the database's longest statement
 * @return MDM_EUNAVAILABLE
 */
apr_status_t dbd_insert(store_tx_t *tx, statement_t statement, const apr_array_header_t *rows);

/** Run a prepared select for at most one row.
 *
 * @param values   receives so many columns, copied to the pool, NULL for NULL; may be NULL
 * @return APR_ENOENT if there is no row, MDM_EUNAVAILABLE
 */
apr_status_t dbd_load(store_tx_t *tx, statement_t statement, const char **args, int columns,
                      const char **values, apr_pool_t *pool);

/** Run a prepared select for all of its rows; it should have a LIMIT.
 *
 * @param rows  appended to: its elements are of so many const char * as columns are wanted, as
 *              dbd_load() gives them; DBD_ROW() reads one
 */
apr_status_t dbd_load_rows(store_tx_t *tx, statement_t statement, const char **args,
                           apr_array_header_t *rows, apr_pool_t *pool);

/** As dbd_load(), with one argument, for columns that may be as large as the database gives: not
 * every driver can with a prepared select.
 *
 * @return APR_ENOENT if there is no row, MDM_EUNAVAILABLE
 */
apr_status_t dbd_load_text(store_tx_t *tx, statement_t statement, const char *arg, int columns,
                           const char **values, apr_pool_t *pool);

/** Run a statement over a list of ids, in as many turns as its size needs. If it is a select, its
 * rows are appended to found.
 *
 * @param first  the argument before the list, or NULL if there is none
 * @param found  NULL if the statement returns no rows; else its elements are of so many const
 *               char * as columns are wanted, in the pool, NULL for NULL
 */
apr_status_t dbd_list(store_tx_t *tx, statement_t statement, const char *first,
                      const apr_array_header_t *ids, apr_array_header_t *found, apr_pool_t *pool);

/* For the work on whole tables, whose statements are made from their columns. What is handed to
 * these is final, {p} is not replaced, and a percent sign has no meaning. */

const char *dbd_prefix(const store_tx_t *tx);
/** A text as a literal, with its quotes. */
const char *dbd_quote(store_tx_t *tx, const char *text, apr_pool_t *pool);
/** Run one select and append its rows, as dbd_load_rows() does; their values may be as large as the
 * database gives. */
apr_status_t dbd_select(store_tx_t *tx, const char *sql, apr_array_header_t *rows,
                        apr_pool_t *pool);
/** Run one statement inside of a transaction, which goes on without it if the database refuses it.
 * @return APR_EGENERAL if it does, with its reason in *why; MDM_EUNAVAILABLE */
apr_status_t dbd_try(store_tx_t *tx, const char *sql, int *affected, const char **why,
                     apr_pool_t *pool);

/** Run one statement as it is, without parameters; {p} is replaced. For schema work only. */
apr_status_t dbd_query(store_tx_t *tx, const char *sql);
/** Run one select as it is and drop its rows. Does not mark the connection as broken.
 * @return APR_EGENERAL if the database refuses it, with its reason in *why */
apr_status_t dbd_probe(store_tx_t *tx, const char *sql, const char **why, apr_pool_t *pool);

const dialect_t *dbd_dialect(const store_tx_t *tx);
/** The SQL as the database gets it: with {p} replaced. */
const char *dbd_sql(const store_tx_t *tx, const char *sql, apr_pool_t *pool);
/** The first of these tables (as dialect_tables) that is missing or lacks a column, with the
 * database's reason in *why; NULL if none. */
const char *dbd_missing(store_tx_t *tx, const char *const *tables, const char **why,
                        apr_pool_t *pool);
/** Whether the statement can be used: the dialect has it, and the database the tables, if it names
 * one of our own. */
int dbd_has(const store_tx_t *tx, statement_t statement);

#endif
