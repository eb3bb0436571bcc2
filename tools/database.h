/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* How the command-line tools are told which database to use. Knows the directives' names, and
 * nothing of a database. */
#ifndef TOOLS_DATABASE_H
#define TOOLS_DATABASE_H

#include "store.h"

/** An argument that is the thing itself, or "file:/PATH" of a file that holds it; blanks at its end
 * are not part of it.
 * @param why  on failure: a sentence for the user */
apr_status_t tool_secret_read(const char **out, const char *text, const char **why,
                              apr_pool_t *pool);

/** Fill in a configuration with one connection, no prefix and a timeout, from an argument.
 *
 * @param text  "DRIVER PARAMETERS" as after NanoMDMDatabase, or "file:/PATH" of a file that holds
 *              that, so that no password stands on the command line
 * @param why   on failure: a sentence for the user
 * @return MDM_EINPUT, or that of reading the file
 */
apr_status_t tool_database_parse(store_config_t *out, const char *text, const char **why,
                                 apr_pool_t *pool);

/** Likewise, from the NanoMDMDatabase and NanoMDMTablePrefix of a file of httpd's configuration.
 * The last of each directive counts. What only httpd knows is refused: variables, and the directory
 * that a relative path begins in; included files are not read.
 *
 * @param instead  the option that takes a database as tool_database_parse() does, for the user
 * @return MDM_EINPUT, also if it has no NanoMDMDatabase; that of reading the file
 */
apr_status_t tool_database_from_conf(store_config_t *out, const char *file, const char *instead,
                                     const char **why, apr_pool_t *pool);

/** The first argument of the last such directive in a file of httpd's configuration; NULL if there
 * is none. As above: variables are refused, included files are not read.
 * @param instead  the option that takes the value, for the user */
apr_status_t tool_conf_value(const char **out, const char *file, const char *directive,
                             const char *instead, const char **why, apr_pool_t *pool);

#endif
