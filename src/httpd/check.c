/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What is wrong with the configuration: found by "apachectl configtest" where it needs no
 * database, at the first start where it does. Each finding is one sentence with the directive and
 * the remedy.
 */
#include "nanomdm.h"

#include <ap_mpm.h>
#include <apr_fnmatch.h>
#include <apr_strings.h>
#include <errno.h>
#include <fcntl.h>
#include <http_core.h>
#include <mod_ssl.h>
#include <mpm_common.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <unixd.h>

int nanomdm_pre_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp)
{
    (void)plog;
    (void)ptemp;
    nanomdm_uses(pconf, 1);
    nanomdm_dump_reset(pconf);
    return OK;
}

/* The first of the two readings of a start, and the one of configtest. A running server is not
 * taken down by what a reload finds wrong outside of the configuration: then it is the log that
 * tells. */
static int is_first_reading(void)
{
    return ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG;
}

/* -- Telling ------------------------------------------------------------------------------ */

/* Where the person that starts httpd reads, before httpd turns standard error into its log; -1 if
 * that is over. */
static int terminal = -1;

static void keep_terminal(void)
{
    if (terminal < 0 && is_first_reading() && ap_state_query(AP_SQ_RUN_MODE) == AP_SQ_RM_NORMAL) {
        terminal = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    }
}

static void drop_terminal(void)
{
    if (terminal >= 0) {
        close(terminal);
        terminal = -1;
    }
}

/* To the log and, at a start from a terminal, to there. */
static void tell(server_rec *s, int level, const char *line)
{
    struct stat log;
    struct stat there;

    ap_log_error(APLOG_MARK, APLOG_STARTUP | level, 0, s, "%s", line);
    if (terminal >= 0 && fstat(terminal, &there) == 0 && fstat(STDERR_FILENO, &log) == 0 &&
        (there.st_dev != log.st_dev || there.st_ino != log.st_ino)) {
        dprintf(terminal, "%s\n", line);
    }
}

/* -- Access control ----------------------------------------------------------------------- */

static const char *first_word(const ap_directive_t *directive, apr_pool_t *pool)
{
    const char *args = directive->args;

    return ap_getword_conf(pool, &args);
}

static int is_directive(const ap_directive_t *directive, const char *name)
{
    return strcasecmp(directive->directive, name) == 0;
}

/* What of a section answers 401 or 403 where a device needs 400. */
static const char *wrong_require(const ap_directive_t *first, int implicit_any, apr_pool_t *pool)
{
    static const char *const harmless[] = {
        "all",    "ssl", "ssl-verify-client", "ip", "host", "forward-dns", "local", "env", "expr",
        "method", "not", "mdm-enrolled",      NULL};
    int enrolled = 0;
    int others = 0;

    for (const ap_directive_t *d = first; d != NULL; d = d->next) {
        if (is_directive(d, "Require")) {
            const char *word = first_word(d, pool);
            int known = 0;

            for (const char *const *name = harmless; *name != NULL; name++) {
                known |= strcasecmp(word, *name) == 0;
            }
            if (!known) {
                return apr_psprintf(pool, "\"Require %s\" would answer 401 to a device", word);
            }
            if (strcasecmp(word, "mdm-enrolled") == 0) {
                enrolled = 1;
            } else {
                others = 1;
            }
        } else if (is_directive(d, "<RequireAll") || is_directive(d, "<RequireAny") ||
                   is_directive(d, "<RequireNone")) {
            others = 1;
        }
    }
    return enrolled && others && implicit_any ? "\"Require mdm-enrolled\" beside others, outside "
                                                "of <RequireAll>, is one of several "
                                                "ways in: put all of them into <RequireAll>"
                                              : NULL;
}

/* A container that stands for conditions, not for a place of its own. */
static int is_condition(const ap_directive_t *d)
{
    return strncasecmp(d->directive, "<If", 3) == 0 || strncasecmp(d->directive, "<Else", 5) == 0 ||
           strncasecmp(d->directive, "<Limit", 6) == 0;
}

static int has_enrolled(const ap_directive_t *first, apr_pool_t *pool)
{
    for (const ap_directive_t *d = first; d != NULL; d = d->next) {
        if (is_directive(d, "Require") && strcasecmp(first_word(d, pool), "mdm-enrolled") == 0) {
            return 1;
        }
        if ((strncasecmp(d->directive, "<Require", 8) == 0 || is_condition(d)) &&
            has_enrolled(d->first_child, pool)) {
            return 1;
        }
    }
    return 0;
}

static int has_device_handler(const ap_directive_t *first, apr_pool_t *pool)
{
    for (const ap_directive_t *d = first; d != NULL; d = d->next) {
        if ((is_directive(d, "SetHandler") &&
             nanomdm_handler_is_device(nanomdm_handler_kind(first_word(d, pool)))) ||
            (is_condition(d) && has_device_handler(d->first_child, pool))) {
            return 1;
        }
    }
    return 0;
}

/* The containers of one section that is for devices. */
static const char *check_containers(const ap_directive_t *first, int implicit_any, apr_pool_t *pool)
{
    const char *why = wrong_require(first, implicit_any, pool);

    for (const ap_directive_t *d = first; why == NULL && d != NULL; d = d->next) {
        if (is_directive(d, "Satisfy") && strcasecmp(first_word(d, pool), "any") == 0) {
            why = "\"Satisfy any\" is one of several ways in: take it out";
        } else if (is_directive(d, "AuthMerging") && strcasecmp(first_word(d, pool), "or") == 0) {
            why = "\"AuthMerging Or\" is one of several ways in: take it out";
        } else if (is_directive(d, "<RequireAll")) {
            why = check_containers(d->first_child, 0, pool);
        } else if (is_condition(d)) {
            why = check_containers(d->first_child, 1, pool);
        } else if (is_directive(d, "<RequireAny") || is_directive(d, "<RequireNone")) {
            why =
                has_enrolled(d->first_child, pool)
                    ? apr_psprintf(pool,
                                   "\"Require mdm-enrolled\" inside of %s> cannot answer 400: use "
                                   "it alone or inside of <RequireAll>",
                                   d->directive)
                    : check_containers(d->first_child, 0, pool);
        }
    }
    return why;
}

static int check_access_control(const ap_directive_t *first, server_rec *s, apr_pool_t *pool)
{
    int failed = 0;

    for (const ap_directive_t *d = first; d != NULL; d = d->next) {
        const char *why = NULL;

        if (d->first_child == NULL || strncasecmp(d->directive, "<Require", 8) == 0 ||
            is_condition(d)) {
            continue;
        }
        if (has_enrolled(d->first_child, pool) || has_device_handler(d->first_child, pool)) {
            why = check_containers(d->first_child, 1, pool);
        }
        if (why != NULL) {
            ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, 0, s,
                         "%s %s in %s:%d: %s; devices take 401 for the end of their enrollment",
                         d->directive, d->args, d->filename, d->line_num, why);
            failed = 1;
        }
        failed |= check_access_control(d->first_child, s, pool);
    }
    return failed;
}

/* Whether a section is merged into the configuration of requests for this path. */
static int covers(const core_dir_config *section, const char *path)
{
    apr_size_t len = strlen(section->d);

    if (section->r != NULL) {
        return ap_regexec(section->r, path, 0, NULL, 0) == 0;
    }
    if (section->d_is_fnmatch) {
        return apr_fnmatch(section->d, path, APR_FNM_PATHNAME) == APR_SUCCESS;
    }
    return strncmp(section->d, path, len) == 0 &&
           (path[len] == '\0' || path[len] == '/' || (len > 0 && path[len - 1] == '/'));
}

/* What of a server's <Location> sections a request for this path gets. */
static const nanomdm_dir_t *merged_for(const char *path, server_rec *s, apr_pool_t *pool)
{
    const core_server_config *core = ap_get_core_module_config(s->module_config);
    void *dir = ap_get_module_config(s->lookup_defaults, &nanomdm_module);

    for (int i = 0; i < core->sec_url->nelts; i++) {
        const ap_conf_vector_t *section = APR_ARRAY_IDX(core->sec_url, i, ap_conf_vector_t *);
        void *add = ap_get_module_config(section, &nanomdm_module);

        if (add != NULL && covers(ap_get_core_module_config(section), path)) {
            dir = nanomdm_merge_dir(pool, dir, add);
        }
    }
    return dir;
}

/* What a location inherits may open it, too. Directories, patterns and .htaccess files are not
 * looked at: there it is the request that is refused. */
static int check_inherited(server_rec *s, apr_pool_t *pool)
{
    const core_server_config *core = ap_get_core_module_config(s->module_config);
    int failed = 0;

    for (int i = 0; i < core->sec_url->nelts; i++) {
        const core_dir_config *section =
            ap_get_core_module_config(APR_ARRAY_IDX(core->sec_url, i, ap_conf_vector_t *));
        const nanomdm_dir_t *dir = merged_for(section->d, s, pool);
        const char *why = NULL;

        if (dir->require_enrolled > 0 && dir->satisfy_any > 0) {
            why =
                "\"Satisfy any\", here or inherited, makes it one of several ways in: take it out, "
                "or write \"Satisfy all\" here";
        } else if (dir->require_enrolled > 0 && dir->merged_or) {
            why = "\"AuthMerging Or\" makes it one of several ways in: take it out";
        }
        if (why != NULL && section->r == NULL && !section->d_is_fnmatch) {
            ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, 0, s,
                         "<Location \"%s\"> has or inherits \"Require mdm-enrolled\": %s",
                         section->d, why);
            failed = 1;
        }
    }
    return failed;
}

/* -- Server settings ---------------------------------------------------------------------- */

static int complain(const nanomdm_use_t *use, const char *what)
{
    ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, 0, use->server, "%s: %s", use->where, what);
    return 1;
}

/* The source of identity that is set in the same section, if there is one. */
static nanomdm_identity_t identity_of(const nanomdm_use_t *use, const apr_array_header_t *uses)
{
    nanomdm_identity_t identity = NANOMDM_IDENTITY_UNSET;

    for (int i = 0; i < uses->nelts; i++) {
        const nanomdm_use_t *other = &APR_ARRAY_IDX(uses, i, nanomdm_use_t);

        if (other->identity != NANOMDM_IDENTITY_UNSET && other->server == use->server &&
            strcmp(other->path, use->path) == 0) {
            identity = other->identity;
        }
    }
    return identity;
}

static int check_use(const nanomdm_use_t *use, const apr_array_header_t *uses)
{
    const nanomdm_server_t *conf = nanomdm_server(use->server);

    if (use->identity == NANOMDM_IDENTITY_SSL && APR_RETRIEVE_OPTIONAL_FN(ssl_var_lookup) == NULL) {
        return complain(use, "NanoMDMIdentity ssl needs mod_ssl, which is not loaded: a2enmod ssl");
    }
    if (use->api_keys && conf->api_keys == NULL) {
        return complain(use,
                        "AuthBasicProvider nanomdm has no key to compare with: set "
                        "NanoMDMAPIKey file:/PATH, with a key made by \"openssl rand -hex 32\"");
    }
    if (nanomdm_handler_is_device(use->handler) && conf->ca_file == NULL &&
        identity_of(use, uses) != NANOMDM_IDENTITY_SSL) {
        return complain(use, "NanoMDMCACertificateFile is not set: name the PEM file of the "
                             "certificates that may issue device identities");
    }
    return 0;
}

/* Locations of the main server are those of all virtual hosts. */
static void mark_used(const nanomdm_use_t *use, server_rec *main_server)
{
    for (server_rec *s = main_server; s != NULL; s = s->next) {
        if (s == use->server || use->server == main_server) {
            nanomdm_server(s)->used = 1;
            nanomdm_server(s)->pushes |= use->handler == NANOMDM_HANDLER_API;
        }
    }
}

static int check_push(server_rec *s, apr_pool_t *ptemp)
{
    const nanomdm_server_t *conf = nanomdm_server(s);
    apns_config_t config = nanomdm_apns_config(conf);
    const char *why = NULL;

    if (conf->pushes && apns_config_check(&config, &why, ptemp) != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, 0, s,
                     "NanoMDMPushURL, NanoMDMPushCAFile, NanoMDMPushProxy: %s", why);
        return 1;
    }
    return 0;
}

static int load_authority(server_rec *s, apr_pool_t *pconf)
{
    nanomdm_server_t *conf = nanomdm_server(s);
    const char *why = NULL;

    if (conf->ca_file == NULL) {
        return 0;
    }
    if (trust_ca_load(&conf->ca, conf->ca_file, conf->intermediate_file, &why, pconf) !=
        APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, 0, s,
                     "NanoMDMCACertificateFile, NanoMDMIntermediateFile: %s", why);
        return 1;
    }
    return 0;
}

static int same_bytes(const char *a, apr_size_t a_len, const char *b, apr_size_t b_len)
{
    return a_len == b_len && (a_len == 0 || memcmp(a, b, a_len) == 0);
}

static int same_webhook(const service_webhook_config_t *a, const service_webhook_config_t *b)
{
    const char *a_ca = a->target.ca_file != NULL ? a->target.ca_file : "";
    const char *b_ca = b->target.ca_file != NULL ? b->target.ca_file : "";

    return strcmp(a->target.url, b->target.url) == 0 && strcmp(a_ca, b_ca) == 0 &&
           same_bytes(a->target.send_key, a->target.send_key_len, b->target.send_key,
                      b->target.send_key_len) &&
           a->topics == b->topics && a->memory == b->memory && a->retry == b->retry;
}

/* One thread delivers what goes to one URL, whichever virtual host it comes from. */
static int check_webhooks(server_rec *s, apr_hash_t *seen, apr_pool_t *pool)
{
    const nanomdm_server_t *conf = nanomdm_server(s);
    const char *database = nanomdm_database_key(conf, pool);
    int failed = 0;

    for (int i = 0; conf->webhooks != NULL && i < conf->webhooks->nelts; i++) {
        const service_webhook_config_t *webhook =
            &APR_ARRAY_IDX(conf->webhooks, i, service_webhook_config_t);
        const char *key = apr_pstrcat(pool, database, "\n", webhook->name, NULL);
        const service_webhook_config_t *other = apr_hash_get(seen, key, APR_HASH_KEY_STRING);

        if (other != NULL && !same_webhook(webhook, other)) {
            ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, 0, s,
                         "NanoMDMWebhook %s: another virtual host with the same database has it "
                         "with other options: use the same ones, or another URL",
                         webhook->name);
            failed = 1;
        }
        apr_hash_set(seen, key, APR_HASH_KEY_STRING, webhook);
    }
    return failed;
}

int nanomdm_check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    apr_array_header_t *uses = nanomdm_uses(pconf, 0);
    apr_hash_t *webhooks = apr_hash_make(ptemp);
    int failed = 0;

    (void)plog;
    keep_terminal();
    nanomdm_config_complete(s);
    nanomdm_log_to(s);
    for (int i = 0; i < uses->nelts; i++) {
        const nanomdm_use_t *use = &APR_ARRAY_IDX(uses, i, nanomdm_use_t);

        mark_used(use, s);
        failed |= check_use(use, uses);
    }
    for (server_rec *v = s; v != NULL; v = v->next) {
        nanomdm_server_t *conf = nanomdm_server(v);
        const char *why = NULL;

        failed |= load_authority(v, pconf);
        failed |= check_webhooks(v, webhooks, ptemp);
        failed |= check_push(v, ptemp);
        if (conf->used && store_driver_check(conf->db_driver, &why, pconf) != APR_SUCCESS) {
            ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, 0, v, "NanoMDMDatabase: %s", why);
            failed = 1;
        }
    }
    failed |= is_first_reading() && nanomdm_dump_check(s, ptemp);
    failed |= check_access_control(ap_conftree, s, ptemp);
    for (server_rec *v = s; v != NULL && !failed; v = v->next) {
        failed = check_inherited(v, ptemp);
    }
    return failed ? HTTP_INTERNAL_SERVER_ERROR : OK;
}

/* -- The schema --------------------------------------------------------------------------- */

enum { SCHEMA_FITS, SCHEMA_WRONG, SCHEMA_UNREACHABLE };

typedef struct gathered_t {
    const char *text;
    apr_pool_t *pool;
} gathered_t;

static void gather(void *baton, const char *what, const char *sql)
{
    gathered_t *gathered = baton;

    (void)sql;
    if (what != NULL) {
        gathered->text = gathered->text != NULL
                             ? apr_pstrcat(gathered->pool, gathered->text, "; ", what, NULL)
                             : apr_pstrdup(gathered->pool, what);
    }
}

/* What is done without, on another server's database or on an older one of ours. */
static void tell_upgrade(const nanomdm_server_t *conf, store_t *store, server_rec *s,
                         apr_pool_t *pool)
{
    gathered_t lacks = {NULL, pool};

    if (store_schema_status(store, 0, gather, &lacks, pool) == APR_SUCCESS && lacks.text != NULL) {
        tell(s, APLOG_NOTICE,
             apr_psprintf(pool,
                          "the database of NanoMDMDatabase %s can be used but is not complete; "
                          "\"nanomdm-schema upgrade --conf FILE\", with the file that has "
                          "NanoMDMDatabase, makes what it lacks: %s",
                          conf->db_driver, lacks.text));
    }
}

/* As the user of the children, so that a SQLite database and its companions are theirs. */
static int schema_work(const nanomdm_server_t *conf, server_rec *s, apr_pool_t *pool)
{
    store_config_t config = nanomdm_store_config(conf);
    store_t *store;
    const char *why = "no reason given";
    apr_status_t status;

    config.max = 1;
    status = store_open(&store, &config, &why, pool);
    if (status == APR_SUCCESS && conf->schema == NANOMDM_SCHEMA_CREATE) {
        status = store_schema_create(store, pool);
    }
    if (status == APR_SUCCESS) {
        status = store_schema_check(store, &why, pool);
    }
    if (status == MDM_ESCHEMA) {
        int is_file = strcmp(conf->db_driver, "sqlite3") == 0; /* others' parameters are secret */

        tell(
            s, APLOG_ERR,
            apr_psprintf(pool,
                         "the database of NanoMDMDatabase %s%s%s does not have the tables that are "
                         "needed (%s): set NanoMDMSchema create once, or name the right database",
                         conf->db_driver, is_file ? " " : "", is_file ? conf->db_params : "", why));
        return SCHEMA_WRONG;
    }
    if (status != APR_SUCCESS) {
        tell(s, APLOG_WARNING,
             apr_psprintf(pool,
                          "the database of NanoMDMDatabase %s cannot be used now: requests get 503 "
                          "until it can",
                          conf->db_driver));
        return SCHEMA_UNREACHABLE;
    }
    tell_upgrade(conf, store, s, pool);
    if (conf->webhooks != NULL && !store_has_webhooks(store, pool)) {
        tell(s, APLOG_WARNING,
             "NanoMDMWebhook: the database lacks the table mdm_webhook_outbox, so that events are "
             "lost: run \"nanomdm-schema upgrade\"");
    }
    return SCHEMA_FITS;
}

/* SQLite would make an empty database out of a wrong name. */
static int is_missing_file(const nanomdm_server_t *conf)
{
    struct stat info;

    return strcmp(conf->db_driver, "sqlite3") == 0 && conf->schema != NANOMDM_SCHEMA_CREATE &&
           stat(conf->db_params, &info) != 0 && errno == ENOENT;
}

static int schema_in_child(const nanomdm_server_t *conf, server_rec *s, apr_pool_t *pool)
{
    int status = 0;
    pid_t pid;

    if (is_missing_file(conf)) {
        tell(
            s, APLOG_ERR,
            apr_psprintf(pool,
                         "the file of NanoMDMDatabase sqlite3 %s does not exist: set NanoMDMSchema "
                         "create once, or name the right file",
                         conf->db_params));
        return SCHEMA_WRONG;
    }
    pid = fork();
    if (pid == 0) {
        _exit(ap_run_drop_privileges(pool, s) != OK ? SCHEMA_UNREACHABLE
                                                    : schema_work(conf, s, pool));
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (pid < 0 || !WIFEXITED(status)) {
        ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_WARNING, 0, s,
                     "the schema of NanoMDMDatabase could not be checked");
        return SCHEMA_UNREACHABLE;
    }
    return WEXITSTATUS(status);
}

/* The directory of a SQLite database belongs to the user of the children, who puts files beside
 * it. One that is missing is made so; one that is there is left as it is. */
static void make_directory(const nanomdm_server_t *conf, server_rec *s, apr_pool_t *pool)
{
    char *directory = ap_make_dirstr_parent(pool, conf->db_params);
    struct stat info;

    if (strcmp(conf->db_driver, "sqlite3") != 0) {
        return;
    }
    if (stat(directory, &info) != 0) {
        if (mkdir(directory, 0750) != 0 ||
            (geteuid() == 0 &&
             chown(directory, ap_unixd_config.user_id, ap_unixd_config.group_id) != 0)) {
            ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_WARNING, errno, s,
                         "NanoMDMDatabase: cannot make the directory %s", directory);
        }
    } else if (geteuid() == 0 && info.st_uid != ap_unixd_config.user_id &&
               (info.st_mode & (S_IWGRP | S_IWOTH)) == 0) {
        ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_WARNING, 0, s,
                     "NanoMDMDatabase: the directory %s must be writable for the user that httpd "
                     "runs as: chown it to that user",
                     directory);
    }
}

/* The schema is looked at in the first of the two readings of a start, while httpd is still in the
 * foreground and its exit status is seen, and at each reload. */
int nanomdm_post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    int first = is_first_reading();
    int generation = 0;
    apr_hash_t *done = apr_hash_make(ptemp);

    (void)plog;
    if (nanomdm_dump_open(pconf, s) && first) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (!first && ap_mpm_query(AP_MPMQ_GENERATION, &generation) == APR_SUCCESS && generation == 0) {
        return OK;
    }
    for (server_rec *v = s; v != NULL; v = v->next) {
        const nanomdm_server_t *conf = nanomdm_server(v);
        const char *key = nanomdm_database_key(conf, ptemp);

        if (!conf->used || conf->schema == NANOMDM_SCHEMA_OFF ||
            apr_hash_get(done, key, APR_HASH_KEY_STRING)) {
            continue;
        }
        apr_hash_set(done, key, APR_HASH_KEY_STRING, key);
        if (conf->schema == NANOMDM_SCHEMA_CREATE) {
            make_directory(conf, v, ptemp);
        }
        if (schema_in_child(conf, v, ptemp) == SCHEMA_WRONG && first) {
            return HTTP_INTERNAL_SERVER_ERROR;
        }
    }
    drop_terminal();
    return OK;
}
