/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* copy: all rows of all tables into another database, counted, and compared if asked for. Knows
 * neither a table nor a column: src/store/copy.c does. */
#include <apr_strings.h>
#include <stdio.h>
#include <string.h>

#include "migrate.h"
#include "store_copy.h"

/* A table that both have, and what became of it. */
typedef struct copied_t {
    const store_table_t *from;
    const store_table_t *to;
    apr_int64_t rows; /* in the source, before it began */
    apr_int64_t read, written, refused;
} copied_t;

typedef struct copier_t {
    const migrate_options_t *opt;
    store_t *from;
    store_t *to;
    apr_array_header_t *tables; /* copied_t */
    apr_pool_t *pool;
} copier_t;

static int unavailable(const char *which)
{
    migrate_say("%s: the database failed", which);
    return MIGRATE_FAILED;
}

/* -- Before ------------------------------------------------------------------------------- */

static int check_schema(store_t *store, const char *which, apr_pool_t *pool)
{
    const char *why = "";
    apr_status_t status = store_schema_check(store, &why, pool);

    if (status == MDM_ESCHEMA) {
        migrate_say("%s: the tables are not all there: %s", which, why);
        return MIGRATE_FAILED;
    }
    return status == APR_SUCCESS ? MIGRATE_DONE : unavailable(which);
}

static int pair_tables(copier_t *copier, apr_array_header_t *from, apr_array_header_t *to)
{
    copier->tables = apr_array_make(copier->pool, from->nelts, sizeof(copied_t));
    for (int i = 0; i < from->nelts; i++) {
        const store_table_t *table = &APR_ARRAY_IDX(from, i, store_table_t);

        for (int k = 0; k < to->nelts; k++) {
            const store_table_t *other = &APR_ARRAY_IDX(to, k, store_table_t);

            if (strcmp(table->name, other->name) == 0) {
                copied_t *copied = apr_array_push(copier->tables);

                *copied = (copied_t){.from = table, .to = other};
                if (store_table_count(copier->from, table, &copied->rows, copier->pool) !=
                    APR_SUCCESS) {
                    return unavailable("--from");
                }
            }
        }
    }
    return MIGRATE_DONE;
}

static int refuse_rows(const copier_t *copier)
{
    for (int i = 0; i < copier->tables->nelts; i++) {
        const copied_t *copied = &APR_ARRAY_IDX(copier->tables, i, copied_t);
        apr_int64_t rows;

        if (store_table_count(copier->to, copied->to, &rows, copier->pool) != APR_SUCCESS) {
            return unavailable("--to");
        }
        if (rows > 0) {
            migrate_say("--to: the table %s has %" APR_INT64_T_FMT " rows already; with --resume "
                        "they stay as they are, and those that are not there are added",
                        copied->to->name, rows);
            return MIGRATE_MISTAKE;
        }
    }
    return MIGRATE_DONE;
}

/* -- Copying ------------------------------------------------------------------------------ */

static int stopped(void)
{
    migrate_say("stopped; the same command with --resume goes on");
    return MIGRATE_FAILED;
}

static int copy_page(const copier_t *copier, copied_t *copied, const apr_array_header_t *rows,
                     apr_pool_t *pool)
{
    apr_array_header_t *refused;
    int added;

    if (store_table_add(copier->to, copied->to, rows, copier->opt->resume, &added, &refused,
                        pool) != APR_SUCCESS) {
        migrate_say("--to: the database failed; the same command with --resume goes on");
        return MIGRATE_FAILED;
    }
    for (int i = 0; i < refused->nelts; i++) {
        const store_refusal_t *refusal = &APR_ARRAY_IDX(refused, i, store_refusal_t);

        migrate_say("%s: the row \"%s\" was refused: %s", copied->to->name, refusal->key,
                    refusal->why);
    }
    copied->read += rows->nelts;
    copied->written += added;
    copied->refused += refused->nelts;
    return MIGRATE_DONE;
}

static int copy_table(const copier_t *copier, copied_t *copied)
{
    store_reader_t *reader;
    apr_array_header_t *rows;
    apr_pool_t *pool;
    apr_pool_t *page;
    int result = MIGRATE_DONE;

    apr_pool_create(&pool, copier->pool);
    apr_pool_create(&page, pool);
    store_reader_open(&reader, copier->from, copied->from, copied->to, pool);
    progress_start(copied->to->name, copied->rows, copier->opt->quiet);
    while (result == MIGRATE_DONE) {
        apr_pool_clear(page);
        if (migrate_stop) {
            result = stopped();
        } else if (store_reader_next(reader, &rows) != APR_SUCCESS) {
            result = unavailable("--from");
        } else if (rows->nelts == 0) {
            break;
        } else {
            result = copy_page(copier, copied, rows, page);
            progress_show(copied->read);
        }
    }
    progress_hide();
    apr_pool_destroy(pool);
    return result;
}

/* -- Afterwards --------------------------------------------------------------------------- */

/* All went over, and the target has as many rows. */
static int compare_count(const copier_t *copier, const copied_t *copied)
{
    apr_int64_t there;

    if (store_table_count(copier->to, copied->to, &there, copier->pool) != APR_SUCCESS) {
        return unavailable("--to");
    }
    printf("%-24s %9" APR_INT64_T_FMT " read, %9" APR_INT64_T_FMT " written, %9" APR_INT64_T_FMT
           " there already, %6" APR_INT64_T_FMT " refused, %9" APR_INT64_T_FMT " in the target\n",
           copied->to->name, copied->read, copied->written,
           copied->read - copied->written - copied->refused, copied->refused, there);
    if (copied->read != copied->rows) {
        /* Also if a database had said that there are no more where it had failed. */
        migrate_say("%s: the source had %" APR_INT64_T_FMT " rows at first, and not as many were "
                    "read: is it in use?",
                    copied->from->name, copied->rows);
        return MIGRATE_FAILED;
    }
    if (there < copied->read || (there > copied->read && !copier->opt->resume)) {
        if (copied->refused == 0) {
            migrate_say("%s: the target has not as many rows as were read", copied->to->name);
        }
        return MIGRATE_FAILED;
    }
    return copied->refused == 0 ? MIGRATE_DONE : MIGRATE_FAILED;
}

static int sum_table(const copier_t *copier, const copied_t *copied, int of_target,
                     store_sum_t *sum)
{
    const store_table_t *table = of_target ? copied->to : copied->from;
    store_reader_t *reader;
    apr_array_header_t *rows;
    apr_pool_t *pool;
    apr_int64_t read = 0;
    int result = MIGRATE_DONE;

    apr_pool_create(&pool, copier->pool);
    store_reader_open(&reader, of_target ? copier->to : copier->from, table, copied->to, pool);
    progress_start(apr_pstrcat(pool, "comparing ", table->name,
                               of_target ? " of the target" : " of the source", NULL),
                   copied->read, copier->opt->quiet);
    while (result == MIGRATE_DONE) {
        if (migrate_stop) {
            result = stopped();
        } else if (store_reader_next(reader, &rows) != APR_SUCCESS) {
            result = unavailable(of_target ? "--to" : "--from");
        } else if (rows->nelts == 0) {
            break;
        } else {
            store_sum_add(sum, table, rows);
            read += rows->nelts;
            progress_show(read);
        }
    }
    progress_hide();
    apr_pool_destroy(pool);
    return result;
}

static int verify(const copier_t *copier)
{
    int result = MIGRATE_DONE;

    for (int i = 0; i < copier->tables->nelts; i++) {
        const copied_t *copied = &APR_ARRAY_IDX(copier->tables, i, copied_t);
        store_sum_t from = {{0}};
        store_sum_t to = {{0}};

        if (sum_table(copier, copied, 0, &from) != MIGRATE_DONE ||
            sum_table(copier, copied, 1, &to) != MIGRATE_DONE) {
            return MIGRATE_FAILED;
        }
        if (memcmp(&from, &to, sizeof(from)) != 0) {
            migrate_say("%s: the values are not the same", copied->to->name);
            result = MIGRATE_FAILED;
        }
    }
    if (result == MIGRATE_DONE) {
        puts("all values are the same");
    }
    return result;
}

/* -- The command -------------------------------------------------------------------------- */

static int copy_all(copier_t *copier)
{
    int result = MIGRATE_DONE;

    for (int i = 0; i < copier->tables->nelts; i++) {
        if (copy_table(copier, &APR_ARRAY_IDX(copier->tables, i, copied_t)) != MIGRATE_DONE) {
            return MIGRATE_FAILED;
        }
    }
    for (int i = 0; i < copier->tables->nelts; i++) {
        if (compare_count(copier, &APR_ARRAY_IDX(copier->tables, i, copied_t)) != MIGRATE_DONE) {
            result = MIGRATE_FAILED;
        }
    }
    if (copier->opt->verify && verify(copier) != MIGRATE_DONE) {
        result = MIGRATE_FAILED;
    }
    return result;
}

static int dry_run(const copier_t *copier, apr_array_header_t *tables)
{
    for (int i = 0; i < tables->nelts; i++) {
        const store_table_t *table = &APR_ARRAY_IDX(tables, i, store_table_t);
        apr_int64_t rows;

        if (store_table_count(copier->from, table, &rows, copier->pool) != APR_SUCCESS) {
            return unavailable("--from");
        }
        printf("%-24s %9" APR_INT64_T_FMT " to copy\n", table->name, rows);
    }
    puts("nothing was written");
    return MIGRATE_DONE;
}

int migrate_copy(const migrate_options_t *opt, const store_config_t *from, const store_config_t *to,
                 apr_pool_t *pool)
{
    copier_t copier = {.opt = opt, .pool = pool};
    store_config_t source = *from;
    apr_array_header_t *from_tables;
    apr_array_header_t *to_tables;
    apr_int64_t rows;
    int result;

    source.read_only = 1;
    copier.from = migrate_open(&source, "--from", pool);
    result = check_schema(copier.from, "--from", pool);
    if (result != MIGRATE_DONE) {
        return result;
    }
    if (store_tables_load(copier.from, &from_tables, pool) != APR_SUCCESS) {
        return unavailable("--from");
    }
    if (store_events_waiting(copier.from, &rows, pool) != APR_SUCCESS) {
        return unavailable("--from");
    }
    if (rows > 0) {
        migrate_say("--from: %" APR_INT64_T_FMT
                    " rows of webhook events wait in mdm_webhook_outbox and are not "
                    "copied: only a server on that database delivers them",
                    rows);
    }
    if (opt->dry_run) {
        return dry_run(&copier, from_tables);
    }
    copier.to = migrate_open(to, "--to", pool);
    if (store_schema_create(copier.to, pool) != APR_SUCCESS) {
        return unavailable("--to");
    }
    result = check_schema(copier.to, "--to", pool);
    if (result == MIGRATE_DONE && store_tables_load(copier.to, &to_tables, pool) != APR_SUCCESS) {
        result = unavailable("--to");
    }
    if (result == MIGRATE_DONE) {
        result = pair_tables(&copier, from_tables, to_tables);
    }
    if (result == MIGRATE_DONE && !opt->resume) {
        result = refuse_rows(&copier);
    }
    return result == MIGRATE_DONE ? copy_all(&copier) : result;
}
