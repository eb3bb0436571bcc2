/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What the configuration uses, noted while it is read: the module's handlers, and those directives
 * of others that decide who may call them. check.c judges it once all is read.
 */
#include "nanomdm.h"

#include <apr_lib.h>
#include <apr_strings.h>
#include <http_core.h>

apr_array_header_t *nanomdm_uses(apr_pool_t *pool, int reset)
{
    static apr_array_header_t *uses; /* while one configuration is read, by one thread */

    if (reset || uses == NULL) {
        uses = apr_array_make(pool, 8, sizeof(nanomdm_use_t));
    }
    return uses;
}

nanomdm_use_t *nanomdm_note_use(cmd_parms *cmd)
{
    /* A .htaccess file is read by request threads, long after the check. */
    int late = ap_check_cmd_context(cmd, NOT_IN_HTACCESS) != NULL;
    nanomdm_use_t *use = late ? apr_palloc(cmd->temp_pool, sizeof(*use))
                              : apr_array_push(nanomdm_uses(cmd->server->process->pconf, 0));

    memset(use, 0, sizeof(*use));
    use->server = cmd->server;
    use->path = cmd->path != NULL ? cmd->path : "";
    use->where =
        apr_psprintf(cmd->pool, "%s:%d", cmd->directive->filename, cmd->directive->line_num);
    return use;
}

nanomdm_handler_t nanomdm_handler_kind(const char *name)
{
    static const struct {
        const char *name;
        nanomdm_handler_t kind;
    } handlers[] = {
        {"nanomdm", NANOMDM_HANDLER_MDM},
        {"nanomdm-command", NANOMDM_HANDLER_COMMAND},
        {"nanomdm-checkin", NANOMDM_HANDLER_CHECKIN},
        {"nanomdm-api", NANOMDM_HANDLER_API},
        {"nanomdm-migration", NANOMDM_HANDLER_MIGRATION},
        {"nanomdm-version", NANOMDM_HANDLER_VERSION},
    };

    for (size_t i = 0; i < sizeof(handlers) / sizeof(handlers[0]); i++) {
        if (strcasecmp(name, handlers[i].name) == 0) { /* core folds the case */
            return handlers[i].kind;
        }
    }
    return NANOMDM_HANDLER_OTHER;
}

int nanomdm_handler_is_device(nanomdm_handler_t handler)
{
    return handler == NANOMDM_HANDLER_MDM || handler == NANOMDM_HANDLER_COMMAND ||
           handler == NANOMDM_HANDLER_CHECKIN;
}

/* SetHandler is core's: this only listens along, for every module's version of a directive runs.
 * It tells which location set the handler, which core forgets when it merges. */
const char *nanomdm_note_handler(cmd_parms *cmd, void *dirv, const char *args)
{
    nanomdm_dir_t *dir = dirv;
    const char *name = ap_getword_conf(cmd->temp_pool, &args);
    nanomdm_handler_t kind = nanomdm_handler_kind(name);

    dir->handler = kind;
    dir->base = cmd->path;
    if (kind == NANOMDM_HANDLER_OTHER) {
        if (strncasecmp(name, "nanomdm", 7) == 0 ||
            (strncasecmp(name, "expr=", 5) == 0 && strstr(name, "nanomdm") != NULL)) {
            return apr_psprintf(cmd->pool,
                                "unknown handler \"%s\": mod_nanomdm has nanomdm, nanomdm-command, "
                                "nanomdm-checkin, nanomdm-api, nanomdm-migration and "
                                "nanomdm-version",
                                name);
        }
        return NULL;
    }
    if (cmd->path == NULL || ap_check_cmd_context(cmd, NOT_IN_DIRECTORY | NOT_IN_FILES) != NULL ||
        ap_check_cmd_context(cmd, NOT_IN_HTACCESS) != NULL) {
        return apr_psprintf(cmd->pool, "SetHandler %s belongs into a <Location> section", name);
    }
    if (kind == NANOMDM_HANDLER_API && (*cmd->path != '/' || ap_is_matchexp(cmd->path))) {
        return "SetHandler nanomdm-api belongs into a <Location> without a pattern: the API's "
               "paths are relative to it";
    }
    nanomdm_note_use(cmd)->handler = kind;
    return NULL;
}

/* Likewise for Require: a section with one of its own replaces what it inherits. */
const char *nanomdm_note_require(cmd_parms *cmd, void *dirv, const char *args)
{
    nanomdm_dir_t *dir = dirv;
    const char *word = ap_getword_conf(cmd->temp_pool, &args);

    if (ap_find_linked_module("mod_authz_core.c") == NULL) {
        return "Require needs mod_authz_core, which is not loaded: a2enmod authz_core";
    }
    /* One way in for all is enough to leave it open, whatever else stands beside it. */
    if (strcasecmp(word, "all") == 0 &&
        strcasecmp(ap_getword_conf(cmd->temp_pool, &args), "granted") == 0) {
        dir->restricted = -1;
    } else if (dir->restricted == 0) {
        dir->restricted = 1;
    }
    if (strcasecmp(word, "not") == 0 &&
        strcasecmp(ap_getword_conf(cmd->temp_pool, &args), "mdm-enrolled") == 0) {
        return "Require not mdm-enrolled cannot be answered: whoever is no enrolled device may be "
               "anyone";
    }
    if (strcasecmp(word, "mdm-enrolled") == 0) {
        if (ap_check_cmd_context(cmd, NOT_IN_HTACCESS) != NULL) {
            return "Require mdm-enrolled belongs into the server's configuration, where "
                   "configtest sees it";
        }
        dir->require_enrolled = 1;
        nanomdm_note_use(cmd)->handler = NANOMDM_HANDLER_MDM;
    } else if (dir->require_enrolled == 0) {
        dir->require_enrolled = NANOMDM_UNSET;
    }
    return NULL;
}

const char *nanomdm_note_merging(cmd_parms *cmd, void *dirv, const char *value)
{
    (void)cmd;
    ((nanomdm_dir_t *)dirv)->merging = strcasecmp(value, "and") == 0  ? NANOMDM_MERGING_AND
                                       : strcasecmp(value, "or") == 0 ? NANOMDM_MERGING_OR
                                                                      : NANOMDM_MERGING_OFF;
    return NULL;
}

const char *nanomdm_note_satisfy(cmd_parms *cmd, void *dirv, const char *value)
{
    nanomdm_dir_t *dir = dirv;

    (void)cmd;
    if (ap_find_linked_module("mod_access_compat.c") == NULL) {
        return "Satisfy needs mod_access_compat, which is not loaded: a2enmod access_compat";
    }
    if (strcasecmp(value, "any") == 0) {
        dir->satisfy_any = 1;
    } else if (dir->satisfy_any == 0) { /* in a <Limit>, it may be one for some methods only */
        dir->satisfy_any = -1;
    }
    return NULL;
}

const char *nanomdm_note_provider(cmd_parms *cmd, void *dirv, const char *name)
{
    (void)dirv;
    if (ap_find_linked_module("mod_auth_basic.c") == NULL) {
        return "AuthBasicProvider needs mod_auth_basic, which is not loaded: a2enmod auth_basic";
    }
    if (strcasecmp(name, "nanomdm") == 0) {
        nanomdm_note_use(cmd)->api_keys = 1;
    }
    return NULL;
}
