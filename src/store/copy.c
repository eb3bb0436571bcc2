/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Whole tables, read page by page and written anew. Makes its statements from dialect_tables, so
 * that a new column is copied without a word here; knows of columns only what cannot be seen.
 *
 * Values stand in the statements: prepared selects are cut or cost much on some databases
 * (dialect_t), and prepared inserts would be different ones for each size of a page.
 */
#include <apr_lib.h>
#include <apr_strings.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "dbd.h"
#include "store_copy.h"

#define PAGE_ROWS 500
#define PAGE_BYTES (1024 * 1024)

/* -- Columns ------------------------------------------------------------------------------ */

typedef enum {
    KIND_SHORT,
    KIND_LARGE, /* text whose length is looked at before it is read */
    KIND_BYTES, /* likewise */
    KIND_TIME,
    KIND_FLAG
} kind_t;

static kind_t kind_of(const char *column)
{
    static const struct {
        const char *column;
        kind_t kind;
    } kinds[] = {
        {"active", KIND_FLAG},
        {"authenticate", KIND_LARGE},
        {"bootstrap_token_b64", KIND_LARGE},
        {"cert_pem", KIND_LARGE},
        {"command", KIND_LARGE},
        {"enabled", KIND_FLAG},
        {"identity_cert", KIND_LARGE},
        {"key_pem", KIND_LARGE},
        {"result", KIND_LARGE},
        {"token_update", KIND_LARGE},
        {"unlock_token", KIND_BYTES},
        {"user_authenticate", KIND_LARGE},
        {"user_authenticate_digest", KIND_LARGE},
    };
    apr_size_t len = strlen(column);

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(column, kinds[i].column) == 0) {
            return kinds[i].kind;
        }
    }
    return len > 3 && strcmp(column + len - 3, "_at") == 0 ? KIND_TIME : KIND_SHORT;
}

/* How many columns are the key. */
static int keys_of(const char *table)
{
    static const char *const pairs[] = {"users", "command_results", "enrollment_queue",
                                        "cert_auth_associations"};

    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        if (strcmp(table, pairs[i]) == 0) {
            return 2;
        }
    }
    return 1;
}

/* What is there only until it was delivered, numbered by the database itself. */
static int is_passing(const char *table)
{
    return strncmp(table, "mdm_webhook_", strlen("mdm_webhook_")) == 0;
}

static int is_queue(const store_table_t *table)
{
    return strcmp(table->name, "enrollment_queue") == 0;
}

static int column_number(const store_table_t *table, const char *column)
{
    for (int i = 0; i < table->columns; i++) {
        if (strcmp(table->column[i], column) == 0) {
            return i;
        }
    }
    return -1;
}

/* Replaces each "{name}" of a text. */
static const char *fill(const char *text, const char *name, const char *value, apr_pool_t *pool)
{
    apr_array_header_t *parts = apr_array_make(pool, 4, sizeof(const char *));
    const char *found;

    while ((found = strstr(text, name)) != NULL) {
        APR_ARRAY_PUSH(parts, const char *) =
            apr_pstrmemdup(pool, text, (apr_size_t)(found - text));
        APR_ARRAY_PUSH(parts, const char *) = value;
        text = found + strlen(name);
    }
    APR_ARRAY_PUSH(parts, const char *) = text;
    return apr_array_pstrcat(pool, parts, 0);
}

static const char *fill_table(store_tx_t *tx, const char *text, const char *table, apr_pool_t *pool)
{
    return fill(fill(text, "{p}", dbd_prefix(tx), pool), "{table}", table, pool);
}

/* So many columns' names from the first, with commas. */
static const char *names(const store_table_t *table, int count, apr_pool_t *pool)
{
    apr_array_header_t *list = apr_array_make(pool, count * 2, sizeof(const char *));

    for (int i = 0; i < count; i++) {
        APR_ARRAY_PUSH(list, const char *) = i ? ", " : "";
        APR_ARRAY_PUSH(list, const char *) = table->column[i];
    }
    return apr_array_pstrcat(pool, list, 0);
}

/* -- Tables ------------------------------------------------------------------------------- */

static apr_status_t load_whole_seconds(store_tx_t *tx, store_table_t *table, apr_pool_t *pool)
{
    const char *sql = dbd_dialect(tx)->copy.whole_seconds;
    apr_array_header_t *rows = apr_array_make(pool, 8, sizeof(const char *));
    apr_status_t status = APR_SUCCESS;

    if (sql != NULL) {
        status = dbd_select(tx, fill_table(tx, sql, table->name, pool), rows, pool);
    }
    for (int i = 0; status == APR_SUCCESS && i < rows->nelts; i++) {
        int column = column_number(table, APR_ARRAY_IDX(rows, i, const char *));

        if (column >= 0) {
            table->whole_seconds[column] = 1;
        }
    }
    return status;
}

static apr_status_t load_statement_max(store_tx_t *tx, apr_size_t *max, apr_pool_t *pool)
{
    const char *sql = dbd_dialect(tx)->copy.statement_max;
    apr_array_header_t *rows = apr_array_make(pool, 1, sizeof(const char *));
    apr_status_t status = APR_SUCCESS;

    *max = 0;
    if (sql != NULL) {
        status = dbd_select(tx, sql, rows, pool);
    }
    if (status == APR_SUCCESS && rows->nelts > 0) {
        *max = (apr_size_t)apr_atoi64(APR_ARRAY_IDX(rows, 0, const char *));
    }
    return status;
}

static apr_status_t add_table(store_tx_t *tx, apr_array_header_t *tables, const char *const *entry,
                              apr_size_t statement_max, apr_pool_t *pool)
{
    store_table_t *table = apr_array_push(tables);
    char *state = NULL;

    memset(table, 0, sizeof(*table));
    table->name = entry[0];
    table->keys = keys_of(table->name);
    table->statement_max = statement_max;
    table->by_arrival = dbd_dialect(tx)->copy.arrival != NULL;
    for (const char *column = apr_strtok(apr_pstrdup(pool, entry[1]), ", ", &state);
         column != NULL && table->columns < STORE_COLUMNS_MAX;
         column = apr_strtok(NULL, ", ", &state)) {
        table->column[table->columns++] = column;
    }
    return load_whole_seconds(tx, table, pool);
}

static apr_status_t tables_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    apr_array_header_t *tables = apr_array_make(pool, 12, sizeof(store_table_t));
    apr_size_t max;
    apr_status_t status = load_statement_max(tx, &max, pool);
    const char *why;

    for (const char *const *entry = dialect_tables; status == APR_SUCCESS && *entry != NULL;
         entry += 2) {
        if (strncmp(entry[0], "view_", 5) != 0) {
            status = add_table(tx, tables, entry, max, pool);
        }
    }
    for (const char *const *entry = dialect_own_tables; status == APR_SUCCESS && *entry != NULL;
         entry += 2) {
        const char *const one[] = {entry[0], entry[1], NULL};

        if (is_passing(entry[0])) {
            continue;
        }
        if (dbd_missing(tx, one, &why, pool) == NULL) {
            status = add_table(tx, tables, entry, max, pool);
        } else if (dbd_probe(tx, "SELECT 1", &why, pool) != APR_SUCCESS) {
            status = MDM_EUNAVAILABLE; /* rather than: there is no such table */
        }
    }
    *(apr_array_header_t **)baton = tables;
    return status;
}

static apr_status_t waiting_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    apr_array_header_t *rows = apr_array_make(pool, 1, sizeof(const char *));
    apr_status_t status = dbd_select(
        tx, apr_pstrcat(pool, "SELECT COUNT(*) FROM ", dbd_prefix(tx), "mdm_webhook_outbox", NULL),
        rows, pool);

    if (status == APR_SUCCESS) {
        *(apr_int64_t *)baton = apr_atoi64(APR_ARRAY_IDX(rows, 0, const char *));
    }
    return status;
}

apr_status_t store_events_waiting(store_t *store, apr_int64_t *rows, apr_pool_t *pool)
{
    *rows = 0;
    return store_has_webhooks(store, pool) ? store_read(store, waiting_work, rows, pool)
                                           : APR_SUCCESS;
}

apr_status_t store_tables_load(store_t *store, apr_array_header_t **tables, apr_pool_t *pool)
{
    apr_array_header_t *loaded = NULL;
    apr_status_t status = store_read(store, tables_work, &loaded, pool);

    if (status == APR_SUCCESS) {
        *tables = loaded;
    }
    return status;
}

typedef struct counting_t {
    const store_table_t *table;
    apr_int64_t rows;
} counting_t;

static apr_status_t count_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    counting_t *counting = baton;
    apr_array_header_t *rows = apr_array_make(pool, 1, sizeof(const char *));
    apr_status_t status = dbd_select(
        tx, apr_pstrcat(pool, "SELECT COUNT(*) FROM ", dbd_prefix(tx), counting->table->name, NULL),
        rows, pool);

    if (status == APR_SUCCESS) {
        counting->rows = apr_atoi64(APR_ARRAY_IDX(rows, 0, const char *));
    }
    return status;
}

apr_status_t store_table_count(store_t *store, const store_table_t *table, apr_int64_t *rows,
                               apr_pool_t *pool)
{
    counting_t counting = {.table = table};
    apr_status_t status = store_read(store, count_work, &counting, pool);

    if (status == APR_SUCCESS) {
        *rows = counting.rows;
    }
    return status;
}

const char *store_row_key(const store_table_t *table, store_row_t row, apr_pool_t *pool)
{
    return table->keys == 1 ? row[0] : apr_pstrcat(pool, row[0], ", ", row[1], NULL);
}

/* -- Times -------------------------------------------------------------------------------- */

static const char *format_time(apr_time_t time, int whole_seconds, apr_pool_t *pool)
{
    apr_time_exp_t t;
    char text[40];
    int len;

    apr_time_exp_gmt(&t, time);
    len = snprintf(text, sizeof(text), "%04d-%02d-%02d %02d:%02d:%02d", t.tm_year + 1900,
                   t.tm_mon + 1, t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec);
    if (t.tm_usec != 0 && !whole_seconds) {
        len += snprintf(text + len, sizeof(text) - (size_t)len, ".%06d", t.tm_usec);
        while (text[len - 1] == '0') {
            len--;
        }
    }
    return apr_pstrmemdup(pool, text, (apr_size_t)len);
}

/* Takes what the databases give, and a time in UTC as others may have written it to SQLite, whose
 * columns take anything. Digits behind the microsecond are dropped. */
static int parse_time(apr_time_t *out, const char *text, apr_pool_t *pool)
{
    static const char *const utc[] = {"", "Z", "+00", "+00:00", " +0000 UTC"};
    apr_time_exp_t t = {0};
    apr_int32_t unit = 100000;
    char separator;
    int len = 0;

    if (sscanf(text, "%4d-%2d-%2d%c%2d:%2d:%2d%n", &t.tm_year, &t.tm_mon, &t.tm_mday, &separator,
               &t.tm_hour, &t.tm_min, &t.tm_sec, &len) != 7 ||
        len != 19 || (separator != ' ' && separator != 'T')) {
        return 0;
    }
    t.tm_year -= 1900;
    t.tm_mon -= 1;
    if (text[len] == '.') {
        for (len++; apr_isdigit(text[len]); len++, unit /= 10) {
            t.tm_usec += (text[len] - '0') * unit;
        }
    }
    for (size_t i = 0; i < sizeof(utc) / sizeof(utc[0]); i++) {
        if (strcmp(text + len, utc[i]) == 0) {
            /* which takes a 30th of February for a 2nd of March: is it the same day? */
            return apr_time_exp_get(out, &t) == APR_SUCCESS &&
                   strncmp(format_time(*out, 1, pool), text, 10) == 0;
        }
    }
    return 0;
}

/* -- Reading ------------------------------------------------------------------------------ */

struct store_reader_t {
    store_t *store;
    const store_table_t *table;
    const store_table_t *target;
    apr_pool_t *pages[2]; /* of the last page, whose end is the next one's begin, and of this */
    int turn;
    store_row_t last;
    apr_array_header_t *rows;
};

/* A queue is read by whole enrollments, sorted as they are served; an extra value has the order. */
static int is_sorted(const store_reader_t *reader)
{
    return is_queue(reader->table);
}

void store_reader_open(store_reader_t **out, store_t *store, const store_table_t *table,
                       const store_table_t *target, apr_pool_t *pool)
{
    store_reader_t *reader = apr_pcalloc(pool, sizeof(*reader));

    reader->store = store;
    reader->table = table;
    reader->target = target;
    apr_pool_create(&reader->pages[0], pool);
    apr_pool_create(&reader->pages[1], pool);
    *out = reader;
}

/* Everything that follows the columns in a select. */
static const char *page_clause(store_tx_t *tx, const store_reader_t *reader, int limit,
                               apr_pool_t *pool)
{
    const store_table_t *table = reader->table;
    const char *where = "";

    if (reader->last != NULL) {
        const char *const *key = table->column;
        const char *first = dbd_quote(tx, reader->last[0], pool);

        /* Not every database uses an index to compare pairs. */
        where = table->keys == 1 || is_sorted(reader)
                    ? apr_pstrcat(pool, " WHERE ", key[0], " > ", first, NULL)
                    : apr_pstrcat(pool, " WHERE ", key[0], " >= ", first, " AND (", key[0], " > ",
                                  first, " OR ", key[1], " > ",
                                  dbd_quote(tx, reader->last[1], pool), ")", NULL);
    }
    return apr_psprintf(pool, " FROM %s%s%s ORDER BY %s LIMIT %d", dbd_prefix(tx), table->name,
                        where, names(table, table->keys, pool), limit);
}

/* How many rows to read, so that they stay within PAGE_BYTES; at least one. */
static apr_status_t page_size(store_tx_t *tx, const store_reader_t *reader, int *limit,
                              apr_pool_t *pool)
{
    const store_table_t *table = reader->table;
    apr_array_header_t *rows = apr_array_make(pool, PAGE_ROWS, sizeof(const char *));
    const char *sql = "SELECT 0";
    apr_int64_t bytes = 0;
    apr_status_t status;
    int large = 0;

    for (int i = 0; i < table->columns; i++) {
        kind_t kind = kind_of(table->column[i]);

        if (kind == KIND_LARGE || kind == KIND_BYTES) {
            sql = apr_pstrcat(pool, sql, " + COALESCE(LENGTH(", table->column[i], "), 0)", NULL);
            large = 1;
        }
    }
    *limit = PAGE_ROWS;
    if (!large) {
        return APR_SUCCESS;
    }
    sql = apr_pstrcat(pool, sql, page_clause(tx, reader, PAGE_ROWS, pool), NULL);
    status = dbd_select(tx, sql, rows, pool);
    for (int i = 0; status == APR_SUCCESS && i < rows->nelts; i++) {
        bytes += apr_atoi64(APR_ARRAY_IDX(rows, i, const char *));
        if (bytes > PAGE_BYTES) {
            *limit = i > 0 ? i : 1;
            break;
        }
    }
    return status;
}

static const char *read_expression(const dialect_copy_t *copy, const char *column, apr_pool_t *pool)
{
    const char *how = NULL;

    switch (kind_of(column)) {
    case KIND_BYTES:
        how = copy->read_bytes;
        break;
    case KIND_TIME:
        how = copy->read_time;
        break;
    case KIND_FLAG:
        how = "CASE WHEN {v} THEN 1 ELSE 0 END";
        break;
    case KIND_SHORT:
    case KIND_LARGE:
        break;
    }
    return how != NULL ? fill(how, "{v}", column, pool) : column;
}

static apr_status_t load_page(store_tx_t *tx, store_reader_t *reader, int limit, apr_pool_t *pool)
{
    const store_table_t *table = reader->table;
    const dialect_copy_t *copy = &dbd_dialect(tx)->copy;
    apr_array_header_t *values;
    const char *sql = "SELECT ";
    apr_status_t status;

    for (int i = 0; i < table->columns; i++) {
        sql = apr_pstrcat(pool, sql, i ? ", " : "", read_expression(copy, table->column[i], pool),
                          NULL);
    }
    if (is_sorted(reader)) {
        sql = apr_pstrcat(pool, sql, ", ",
                          copy->arrival != NULL ? copy->arrival
                                                : read_expression(copy, "created_at", pool),
                          NULL);
    }
    sql = apr_pstrcat(pool, sql, page_clause(tx, reader, limit, pool), NULL);
    values = apr_array_make(pool, limit,
                            (table->columns + is_sorted(reader)) * (int)sizeof(const char *));
    status = dbd_select(tx, sql, values, pool);
    reader->rows = apr_array_make(pool, limit, sizeof(store_row_t));
    for (int i = 0; status == APR_SUCCESS && i < values->nelts; i++) {
        APR_ARRAY_PUSH(reader->rows, store_row_t) = DBD_ROW(values, i);
    }
    return status;
}

/* Times as the target holds them; one that cannot be read is left for it to refuse. */
static void adapt_times(const store_reader_t *reader, const char **row, apr_pool_t *pool)
{
    apr_time_t time;

    for (int i = 0; i < reader->table->columns; i++) {
        if (row[i] != NULL && kind_of(reader->table->column[i]) == KIND_TIME &&
            parse_time(&time, row[i], pool)) {
            row[i] = format_time(time, reader->target->whole_seconds[i], pool);
        }
    }
}

/* A row of the queue, and what it is sorted by. */
typedef struct queued_t {
    int enrollment;
    const char *arrival;
    const char **row;
} queued_t;

static int compare_queued(const void *a, const void *b)
{
    const queued_t *left = a;
    const queued_t *right = b;
    int order;

    if (left->enrollment != right->enrollment) {
        return left->enrollment < right->enrollment ? -1 : 1;
    }
    order = strcmp(left->arrival, right->arrival);
    return order != 0 ? order : strcmp(left->row[1], right->row[1]);
}

/* Takes the last enrollment off a full page, as there may be more of its rows: what stays is whole.
 * To some databases ids that differ in case are the same; to take off more does no harm. */
static void cut_page(apr_array_header_t *rows)
{
    const char *last = APR_ARRAY_IDX(rows, rows->nelts - 1, store_row_t)[0];

    while (rows->nelts > 0 &&
           strcasecmp(APR_ARRAY_IDX(rows, rows->nelts - 1, store_row_t)[0], last) == 0) {
        rows->nelts--;
    }
}

static void sort_queue(const store_reader_t *reader, apr_pool_t *pool)
{
    apr_array_header_t *rows = reader->rows;
    queued_t *queue = apr_palloc(pool, (apr_size_t)rows->nelts * sizeof(*queue));
    int enrollment = 0;

    for (int i = 0; i < rows->nelts; i++) {
        const char **row = APR_ARRAY_IDX(rows, i, const char **);

        if (i > 0 && strcmp(row[0], queue[i - 1].row[0]) != 0) {
            enrollment++;
        }
        queue[i] = (queued_t){enrollment, row[reader->table->columns], row};
    }
    qsort(queue, (size_t)rows->nelts, sizeof(*queue), compare_queued);
    for (int i = 0; i < rows->nelts; i++) {
        APR_ARRAY_IDX(rows, i, const char **) = queue[i].row;
    }
}

/* Where the order of arrival was the queue's, and its time will be: of commands that wait and came
 * in the same second, each gets a time behind the one before. */
static void order_by_time(const store_reader_t *reader, apr_pool_t *pool)
{
    const store_table_t *table = reader->table;
    int created = column_number(table, "created_at");
    int active = column_number(table, "active");
    const char **before = NULL;

    if (!table->by_arrival || reader->target->by_arrival ||
        reader->target->whole_seconds[created]) {
        return;
    }
    for (int i = 0; i < reader->rows->nelts; i++) {
        const char **row = APR_ARRAY_IDX(reader->rows, i, const char **);
        apr_time_t last;
        apr_time_t time;

        if (row[active][0] != '1' || !parse_time(&time, row[created], pool)) {
            continue;
        }
        if (before != NULL && strcmp(before[0], row[0]) == 0 &&
            parse_time(&last, before[created], pool) &&
            (time < last || (time == last && strcmp(row[1], before[1]) < 0))) {
            row[created] = format_time(last + 1, 0, pool);
        }
        before = row;
    }
}

static apr_status_t read_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    store_reader_t *reader = baton;
    int limit;
    apr_status_t status = page_size(tx, reader, &limit, pool);

    while (status == APR_SUCCESS) {
        status = load_page(tx, reader, limit, pool);
        if (status != APR_SUCCESS || !is_sorted(reader) || reader->rows->nelts < limit) {
            break;
        }
        cut_page(reader->rows);
        if (reader->rows->nelts > 0) {
            break;
        }
        limit *= 2; /* one enrollment has more than a page */
    }
    return status;
}

apr_status_t store_reader_next(store_reader_t *reader, apr_array_header_t **rows)
{
    apr_pool_t *pool = reader->pages[reader->turn];
    apr_status_t status;

    apr_pool_clear(pool);
    status = store_read(reader->store, read_work, reader, pool);
    if (status != APR_SUCCESS) {
        return status;
    }
    if (is_sorted(reader)) {
        sort_queue(reader, pool);
    }
    for (int i = 0; i < reader->rows->nelts; i++) {
        adapt_times(reader, APR_ARRAY_IDX(reader->rows, i, const char **), pool);
    }
    if (is_sorted(reader)) {
        order_by_time(reader, pool);
    }
    if (reader->rows->nelts > 0) {
        reader->last = APR_ARRAY_IDX(reader->rows, reader->rows->nelts - 1, store_row_t);
        reader->turn = !reader->turn;
    }
    *rows = reader->rows;
    return APR_SUCCESS;
}

/* -- Writing ------------------------------------------------------------------------------ */

typedef struct adding_t {
    const store_table_t *table;
    const apr_array_header_t *rows;
    int skip;
    int added;
    apr_array_header_t *refused;
    const char *head; /* of the statement */
    const char *tail;
    apr_array_header_t *texts; /* of the rows, NULL for one that is refused already */
} adding_t;

static void refuse(adding_t *adding, int number, const char *why, apr_pool_t *pool)
{
    store_refusal_t *refusal = apr_array_push(adding->refused);
    store_row_t row = APR_ARRAY_IDX(adding->rows, number, store_row_t);

    refusal->key = apr_pstrdup(pool, store_row_key(adding->table, row, pool));
    refusal->why = why;
}

/* NULL if the value cannot be written. */
static const char *literal(store_tx_t *tx, const char *column, const char *value, apr_pool_t *pool)
{
    const dialect_copy_t *copy = &dbd_dialect(tx)->copy;
    kind_t kind = kind_of(column);
    apr_time_t time;

    if (value == NULL) {
        return "NULL";
    }
    if (kind == KIND_BYTES) {
        return fill(copy->write_bytes, "{v}", value, pool);
    }
    if (kind == KIND_TIME) {
        return parse_time(&time, value, pool)
                   ? fill(copy->write_time != NULL ? copy->write_time : "'{v}'", "{v}", value, pool)
                   : NULL;
    }
    return dbd_quote(tx, value, pool);
}

static const char *row_text(store_tx_t *tx, adding_t *adding, int number, apr_pool_t *pool,
                            apr_pool_t *keep)
{
    const store_table_t *table = adding->table;
    store_row_t row = APR_ARRAY_IDX(adding->rows, number, store_row_t);
    apr_array_header_t *parts = apr_array_make(pool, table->columns * 2 + 1, sizeof(const char *));

    for (int i = 0; i < table->columns; i++) {
        const char *value = literal(tx, table->column[i], row[i], pool);

        if (value == NULL) {
            refuse(adding, number,
                   apr_pstrcat(keep, table->column[i], " is not a time in UTC", NULL), keep);
            return NULL;
        }
        APR_ARRAY_PUSH(parts, const char *) = i ? ", " : "(";
        APR_ARRAY_PUSH(parts, const char *) = value;
    }
    APR_ARRAY_PUSH(parts, const char *) = ")";
    return apr_array_pstrcat(pool, parts, 0);
}

static const char *insert_text(const adding_t *adding, int from, int to, apr_pool_t *pool)
{
    apr_array_header_t *parts = apr_array_make(pool, (to - from) * 2 + 2, sizeof(const char *));

    for (int i = from; i < to; i++) {
        APR_ARRAY_PUSH(parts, const char *) = i == from ? adding->head : ", ";
        APR_ARRAY_PUSH(parts, const char *) = APR_ARRAY_IDX(adding->texts, i, const char *);
    }
    APR_ARRAY_PUSH(parts, const char *) = adding->tail;
    return apr_array_pstrcat(pool, parts, 0);
}

/* The rows of a range; the halves of one that is refused, down to the row that is the reason. */
static apr_status_t add_range(store_tx_t *tx, adding_t *adding, int from, int to, apr_pool_t *pool)
{
    apr_size_t max = adding->table->statement_max;
    const char *why = NULL;
    const char *sql;
    apr_pool_t *own;
    int affected = 0;
    apr_status_t status;

    if (from == to) {
        return APR_SUCCESS;
    }
    apr_pool_create(&own, pool);
    sql = insert_text(adding, from, to, own);
    if (max > 0 && strlen(sql) >= max) {
        status = APR_EGENERAL; /* sent, it would cost the connection */
        why = apr_psprintf(pool, "too large for the database's limit of %" APR_SIZE_T_FMT " bytes",
                           max);
    } else {
        status = dbd_try(tx, sql, &affected, &why, pool);
    }
    apr_pool_destroy(own);
    if (status != APR_EGENERAL) {
        adding->added += affected;
        return status;
    }
    if (to - from == 1) {
        refuse(adding, from, why, pool);
        return APR_SUCCESS;
    }
    status = add_range(tx, adding, from, (from + to) / 2, pool);
    return status == APR_SUCCESS ? add_range(tx, adding, (from + to) / 2, to, pool) : status;
}

static apr_status_t add_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    adding_t *adding = baton;
    const store_table_t *table = adding->table;
    const char *skip = adding->skip ? dbd_dialect(tx)->copy.skip : "";
    apr_status_t status = APR_SUCCESS;
    apr_pool_t *own;
    int from = 0;

    apr_pool_create(&own, pool);
    adding->added = 0;
    adding->refused = apr_array_make(pool, 1, sizeof(store_refusal_t));
    adding->texts = apr_array_make(own, adding->rows->nelts, sizeof(const char *));
    adding->head = apr_pstrcat(own, "INSERT INTO ", dbd_prefix(tx), table->name, " (",
                               names(table, table->columns, own), ") VALUES ", NULL);
    adding->tail =
        fill(fill_table(tx, skip, table->name, own), "{v}", names(table, table->keys, own), own);
    for (int i = 0; i < adding->rows->nelts; i++) {
        APR_ARRAY_PUSH(adding->texts, const char *) = row_text(tx, adding, i, own, pool);
    }
    for (int i = 0; i <= adding->rows->nelts && status == APR_SUCCESS; i++) {
        if (i == adding->rows->nelts || APR_ARRAY_IDX(adding->texts, i, const char *) == NULL) {
            status = add_range(tx, adding, from, i, pool);
            from = i + 1;
        }
    }
    apr_pool_destroy(own);
    return status;
}

apr_status_t store_table_add(store_t *store, const store_table_t *table,
                             const apr_array_header_t *rows, int skip, int *added,
                             apr_array_header_t **refused, apr_pool_t *pool)
{
    adding_t adding = {.table = table, .rows = rows, .skip = skip};
    apr_status_t status = store_write(store, add_work, &adding, pool);

    if (status == APR_SUCCESS) {
        *added = adding.added;
        *refused = adding.refused;
    }
    return status;
}

/* -- Comparing ---------------------------------------------------------------------------- */

void store_sum_add(store_sum_t *sum, const store_table_t *table, const apr_array_header_t *rows)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();

    for (int i = 0; i < rows->nelts; i++) {
        store_row_t row = APR_ARRAY_IDX(rows, i, store_row_t);
        store_sum_t digest = {{0}};

        EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);
        for (int k = 0; k < table->columns; k++) {
            /* No value has a NUL, and NULL is not "". */
            EVP_DigestUpdate(ctx, row[k] != NULL ? "=" : "", row[k] != NULL ? 1 : 0);
            EVP_DigestUpdate(ctx, row[k] != NULL ? row[k] : "",
                             row[k] != NULL ? strlen(row[k]) : 0);
            EVP_DigestUpdate(ctx, "", 1);
        }
        EVP_DigestFinal_ex(ctx, (unsigned char *)digest.part, NULL);
        for (int k = 0; k < 4; k++) {
            sum->part[k] += digest.part[k];
        }
    }
    EVP_MD_CTX_free(ctx);
}
