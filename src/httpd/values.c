/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The values of directives, read. */
#include "values.h"

#include <apr_file_io.h>
#include <apr_lib.h>
#include <apr_strings.h>

#define MAX_SECRET_FILE (1024 * 1024)

const char *value_wrong(cmd_parms *cmd, const char *format, ...)
{
    va_list args;
    const char *what;

    va_start(args, format);
    what = apr_pvsprintf(cmd->pool, format, args);
    va_end(args);
    return apr_pstrcat(cmd->pool, cmd->cmd->name, ": ", what, NULL);
}

const char *value_duration(cmd_parms *cmd, const char *value, apr_interval_time_t *out)
{
    static const struct {
        const char *unit;
        apr_int64_t factor;
    } units[] = {{"ms", 1000},
                 {"s", APR_USEC_PER_SEC},
                 {"", APR_USEC_PER_SEC},
                 {"min", 60 * APR_USEC_PER_SEC},
                 {"h", 3600 * APR_USEC_PER_SEC},
                 {"d", 86400 * APR_USEC_PER_SEC}};
    char *end;
    apr_int64_t number = apr_strtoi64(value, &end, 10);

    for (size_t i = 0; end != value && i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(end, units[i].unit) == 0 && number >= 0 &&
            number <= APR_INT64_C(3650) * 86400 * APR_USEC_PER_SEC / units[i].factor) {
            *out = number * units[i].factor;
            return NULL;
        }
    }
    return value_wrong(
        cmd,
        "\"%s\" is no duration: write a number and ms, s, min, h or d, as in 30s, at most "
        "3650d",
        value);
}

const char *value_connections(cmd_parms *cmd, const char *value, int max, int *out)
{
    char *end;
    apr_int64_t number = apr_strtoi64(value, &end, 10);

    if (end == value || *end != '\0' || number < 1 || number > max) {
        return value_wrong(cmd, "\"%s\": the most connections are a number from 1 to %d", value,
                           max);
    }
    *out = (int)number;
    return NULL;
}

const char *value_size(cmd_parms *cmd, const char *value, apr_off_t *out)
{
    static const char *const units = "KMG";
    char *end;
    apr_int64_t number = apr_strtoi64(value, &end, 10);
    apr_int64_t factor = 1;

    if (*end != '\0' && end != value) {
        const char *unit = strchr(units, apr_toupper(*end));

        if (unit != NULL && end[1] == '\0') {
            factor = APR_INT64_C(1) << (10 * (unit - units + 1));
            end++;
        }
    }
    if (end == value || *end != '\0' || number <= 0 || number > (APR_INT64_C(1) << 30) / factor) {
        return value_wrong(
            cmd,
            "\"%s\" is no size: write a number of bytes from 1 to 1G, with K, M or G if "
            "you like, as in 8M",
            value);
    }
    *out = number * factor;
    return NULL;
}

const char *value_unknown(cmd_parms *cmd, const char *option, const char *known)
{
    const char *equals = strchr(option, '=');

    return equals != NULL ? value_wrong(cmd, "unknown option \"%.*s=\": %s", (int)(equals - option),
                                        option, known)
                          : value_wrong(cmd, "an option is written as NAME=VALUE: %s", known);
}

const char *value_secret(cmd_parms *cmd, const char *value, const char **out, apr_size_t *len,
                         apr_pool_t *pool)
{
    const char *path;
    apr_file_t *file;
    apr_finfo_t info;
    char reason[128];
    char *bytes;
    apr_status_t status;

    if (strncmp(value, "file:", 5) != 0) {
        *out = value;
        *len = strlen(value);
        return NULL;
    }
    path = ap_server_root_relative(cmd->pool, value + 5);
    status = path == NULL ? APR_EBADPATH
                          : apr_file_open(&file, path, APR_FOPEN_READ | APR_FOPEN_BINARY,
                                          APR_FPROT_OS_DEFAULT, cmd->temp_pool);
    if (status == APR_SUCCESS) {
        status = apr_file_info_get(&info, APR_FINFO_SIZE | APR_FINFO_TYPE, file);
        if (status == APR_SUCCESS && (info.filetype != APR_REG || info.size > MAX_SECRET_FILE)) {
            return value_wrong(cmd, "%s is no file of at most 1 MiB", path);
        }
    }
    if (status == APR_SUCCESS) {
        bytes = apr_pcalloc(pool, (apr_size_t)info.size + 1);
        status = apr_file_read_full(file, bytes, (apr_size_t)info.size, len);
        if (APR_STATUS_IS_EOF(status)) {
            status = APR_SUCCESS; /* an empty file */
        }
        *out = bytes;
        apr_file_close(file);
    }
    if (status != APR_SUCCESS) {
        return value_wrong(cmd,
                           "cannot read %s: %s; the file must be there, and readable for the user "
                           "that starts httpd",
                           path != NULL ? path : value + 5,
                           apr_strerror(status, reason, sizeof(reason)));
    }
    return NULL;
}

const char *value_key(cmd_parms *cmd, const char *value, const char **out, apr_size_t *len,
                      apr_pool_t *pool)
{
    const char *error = value_secret(cmd, value, out, len, pool);

    if (error != NULL) {
        return error;
    }
    while (*len > 0 && ((*out)[*len - 1] == '\n' || (*out)[*len - 1] == '\r')) {
        --*len;
    }
    if (*len == 0 || memchr(*out, '\0', *len) != NULL || memchr(*out, '\n', *len) != NULL) {
        return value_wrong(cmd, "the key%s is empty or more than one line",
                           *out == value ? "" : apr_pstrcat(cmd->pool, " in ", value + 5, NULL));
    }
    return NULL;
}
