/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* See database.h. */
#include "database.h"

#include <apr_file_io.h>
#include <apr_strings.h>
#include <ctype.h>
#include <string.h>

#define FILE_MAX (1024 * 1024)

static const store_config_t one_connection = {
    .prefix = "",
    .max = 1,
    .wait = APR_USEC_PER_SEC * 30,
    .timeout = APR_USEC_PER_SEC * 60,
    .idle = APR_USEC_PER_SEC * 3600,
};

static apr_status_t read_file(char **out, const char *path, const char **why, apr_pool_t *pool)
{
    apr_file_t *file;
    char *text = apr_palloc(pool, FILE_MAX + 1);
    apr_size_t len = 0;
    apr_status_t status = apr_file_open(&file, path, APR_FOPEN_READ, APR_FPROT_OS_DEFAULT, pool);

    if (status == APR_SUCCESS) {
        status = apr_file_read_full(file, text, FILE_MAX, &len);
        apr_file_close(file);
    }
    if (status != APR_SUCCESS && !APR_STATUS_IS_EOF(status)) {
        char reason[120];

        *why = apr_psprintf(pool, "%s: %s", path, apr_strerror(status, reason, sizeof(reason)));
        return status;
    }
    while (len > 0 && isspace((unsigned char)text[len - 1])) {
        len--;
    }
    text[len] = '\0';
    *out = text;
    return APR_SUCCESS;
}

/* The words after a driver's name are its parameters, which may be in quotes. */
static apr_status_t parse(store_config_t *out, const char *text, const char **why, apr_pool_t *pool)
{
    store_config_t config = one_connection;
    char **words;
    apr_status_t status;

    if (apr_tokenize_to_argv(text, &words, pool) != APR_SUCCESS || words[0] == NULL) {
        *why = "no database was named: as with NanoMDMDatabase, give a driver and its parameters";
        return MDM_EINPUT;
    }
    config.driver = words[0];
    status = store_driver_check(config.driver, why, pool);
    if (status != APR_SUCCESS) {
        return status;
    }
    config.params = words[1] != NULL ? words[1] : "";
    for (int i = 2; words[1] != NULL && words[i] != NULL; i++) {
        config.params = apr_pstrcat(pool, config.params, " ", words[i], NULL);
    }
    if (*config.params == '\0') {
        *why = apr_psprintf(pool, "the driver %s needs parameters after its name", config.driver);
        return MDM_EINPUT;
    }
    *out = config;
    return APR_SUCCESS;
}

apr_status_t tool_secret_read(const char **out, const char *text, const char **why,
                              apr_pool_t *pool)
{
    char *content;
    apr_status_t status;

    if (strncmp(text, "file:", 5) != 0) {
        *out = text;
        return APR_SUCCESS;
    }
    status = read_file(&content, text + 5, why, pool);
    if (status == APR_SUCCESS) {
        *out = content;
    }
    return status;
}

apr_status_t tool_database_parse(store_config_t *out, const char *text, const char **why,
                                 apr_pool_t *pool)
{
    const char *content;
    apr_status_t status = tool_secret_read(&content, text, why, pool);

    return status == APR_SUCCESS ? parse(out, content, why, pool) : status;
}

/* As httpd does: a line that ends with a backslash goes on in the next one. */
static void join_lines(char *text)
{
    char *to = text;

    for (const char *from = text; *from != '\0';) {
        const char *end = from + 1 + (from[1] == '\r');

        if (*from == '\\' && (*end == '\n' || *end == '\0')) {
            from = end + (*end == '\n');
        } else {
            *to++ = *from++;
        }
    }
    *to = '\0';
}

/* What stands behind a directive's name, or NULL if the line has another one. */
static const char *value_of(const char *line, const char *directive)
{
    apr_size_t len = strlen(directive);

    line += strspn(line, " \t");
    return strncasecmp(line, directive, len) == 0 && isspace((unsigned char)line[len]) ? line + len
                                                                                       : NULL;
}

/* That of the last such directive; NULL where there is none. */
static const char *last_value(const char *text, const char *directive, apr_pool_t *pool)
{
    const char *found = NULL;

    for (const char *line = text; *line != '\0';) {
        const char *end = line + strcspn(line, "\r\n");
        const char *value = value_of(line, directive);

        if (value != NULL) {
            found = apr_pstrmemdup(pool, value, (apr_size_t)(end - value));
        }
        line = end + strspn(end, "\r\n");
    }
    return found;
}

static const char *first_word(const char *value, apr_pool_t *pool)
{
    char **words;

    return value != NULL && apr_tokenize_to_argv(value, &words, pool) == APR_SUCCESS ? words[0]
                                                                                     : NULL;
}

static apr_status_t read_conf(const char **out, const char *file, const char **why,
                              apr_pool_t *pool)
{
    char *text;
    apr_status_t status = read_file(&text, file, why, pool);

    if (status == APR_SUCCESS) {
        join_lines(text);
        *out = text;
    }
    return status;
}

static int has_variable(const char *value)
{
    return value != NULL && strstr(value, "${") != NULL;
}

apr_status_t tool_conf_value(const char **out, const char *file, const char *directive,
                             const char *instead, const char **why, apr_pool_t *pool)
{
    const char *text, *value;
    apr_status_t status = read_conf(&text, file, why, pool);

    if (status != APR_SUCCESS) {
        return status;
    }
    value = last_value(text, directive, pool);
    if (has_variable(value)) {
        *why = apr_psprintf(pool,
                            "%s has a variable in %s, whose value httpd alone knows: give the "
                            "value itself with %s",
                            file, directive, instead);
        return MDM_EINPUT;
    }
    *out = first_word(value, pool);
    return APR_SUCCESS;
}

apr_status_t tool_database_from_conf(store_config_t *out, const char *file, const char *instead,
                                     const char **why, apr_pool_t *pool)
{
    store_config_t config;
    const char *database;
    const char *prefix;
    const char *text;
    apr_status_t status = read_conf(&text, file, why, pool);

    if (status != APR_SUCCESS) {
        return status;
    }
    database = last_value(text, "NanoMDMDatabase", pool);
    prefix = last_value(text, "NanoMDMTablePrefix", pool);
    if (database == NULL) {
        *why = apr_psprintf(pool,
                            "%s has no NanoMDMDatabase, and files that it includes are not read: "
                            "name the one that has it, or the database itself with %s",
                            file, instead);
        return MDM_EINPUT;
    }
    if (has_variable(database) || has_variable(prefix)) {
        *why = apr_psprintf(pool,
                            "%s uses a variable, whose value httpd alone knows: name the database "
                            "itself with %s",
                            file, instead);
        return MDM_EINPUT;
    }
    status = parse(&config, database, why, pool);
    if (status != APR_SUCCESS) {
        return status;
    }
    if (strcmp(config.driver, "sqlite3") == 0 && *config.params != '/') {
        *why = apr_psprintf(pool,
                            "%s has the relative path %s, which begins at httpd's ServerRoot: name "
                            "the file by its full path with %s",
                            file, config.params, instead);
        return MDM_EINPUT;
    }
    prefix = first_word(prefix, pool);
    if (prefix != NULL) {
        config.prefix = prefix;
    }
    *out = config;
    return APR_SUCCESS;
}
