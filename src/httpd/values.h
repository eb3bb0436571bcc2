/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The values of directives, read. Each of these answers what is wrong, as a sentence for the
 * administrator that begins with the directive's name and says what to write instead, or NULL; it
 * lives as long as the configuration. Outputs are set only on success.
 */
#ifndef NANOMDM_VALUES_H
#define NANOMDM_VALUES_H

#include <httpd.h>

#include <http_config.h>

/** Such a sentence, from a format as for printf(). */
const char *value_wrong(cmd_parms *cmd, const char *format, ...)
    __attribute__((format(printf, 2, 3), returns_nonnull));
/** The sentence for an option that is none of those known. Leaves out what follows its name, which
 * may be a secret, also where the name is wrong. */
const char *value_unknown(cmd_parms *cmd, const char *option, const char *known);

/** A duration of at most 3650 days, in microseconds: a number with a unit; without one, seconds. */
const char *value_duration(cmd_parms *cmd, const char *value, apr_interval_time_t *out);
/** A number of connections, from 1 to max. */
const char *value_connections(cmd_parms *cmd, const char *value, int max, int *out);
/** A size from 1 byte to 1 GiB, in bytes: a number, with K, M or G. */
const char *value_size(cmd_parms *cmd, const char *value, apr_off_t *out);
/** A value, or the bytes of the file that file:/path names, at most 1 MiB; NUL-terminated.
 * @param pool  for the file's bytes; a value is not copied */
const char *value_secret(cmd_parms *cmd, const char *value, const char **out, apr_size_t *len,
                         apr_pool_t *pool);
/** Likewise, a secret of one line; those of a file end before the line's end. */
const char *value_key(cmd_parms *cmd, const char *value, const char **out, apr_size_t *len,
                      apr_pool_t *pool);

#endif
