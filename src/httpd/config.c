/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The configuration: for each directive its unset value, its merge and its default. What sets them
 * is in directives.c; what only shows when all of it is read is found in check.c.
 */
#include "nanomdm.h"

#include <apr_strings.h>

#define DEFAULT_DRIVER "sqlite3"
#define DEFAULT_PARAMS "/var/lib/nanomdm/nanomdm.db"
#define DEFAULT_MAX_BODY (8 * 1024 * 1024)
#define DEFAULT_ESCROW_URL                                                                         \
    "https://deviceservices-external.apple.com/deviceservicesworkers/escrowKeyUnlock"

void *nanomdm_create_server(apr_pool_t *pool, server_rec *server)
{
    nanomdm_server_t *conf = apr_pcalloc(pool, sizeof(*conf));

    (void)server;
    conf->db_max = NANOMDM_UNSET;
    conf->db_wait = NANOMDM_UNSET;
    conf->db_timeout = NANOMDM_UNSET;
    conf->db_idle = NANOMDM_UNSET;
    conf->schema = NANOMDM_UNSET;
    conf->retroactive = NANOMDM_UNSET;
    conf->empty_digest = NANOMDM_UNSET;
    conf->max_body = NANOMDM_UNSET;
    conf->last_seen_interval = NANOMDM_UNSET;
    conf->history = NANOMDM_UNSET;
    conf->push_timeout = NANOMDM_UNSET;
    conf->push_expiration = NANOMDM_UNSET;
    conf->push_connections = NANOMDM_UNSET;
    return conf;
}

#define MERGE_NULL(member) conf->member = add->member != NULL ? add->member : base->member
#define MERGE_UNSET(member) conf->member = add->member != NANOMDM_UNSET ? add->member : base->member

void *nanomdm_merge_server(apr_pool_t *pool, void *basev, void *addv)
{
    const nanomdm_server_t *base = basev;
    const nanomdm_server_t *add = addv;
    nanomdm_server_t *conf = apr_pcalloc(pool, sizeof(*conf));

    conf->db_driver = add->db_driver != NULL ? add->db_driver : base->db_driver;
    conf->db_params = add->db_driver != NULL ? add->db_params : base->db_params;
    MERGE_UNSET(db_max);
    MERGE_UNSET(db_wait);
    MERGE_UNSET(db_timeout);
    MERGE_UNSET(db_idle);
    MERGE_UNSET(schema);
    MERGE_NULL(prefix);
    conf->ca_file = add->ca_file != NULL ? add->ca_file : base->ca_file;
    /* Intermediates belong to an authority: another one does not take them over. */
    conf->intermediate_file = add->intermediate_file != NULL || add->ca_file != NULL
                                  ? add->intermediate_file
                                  : base->intermediate_file;
    MERGE_NULL(api_keys);
    MERGE_UNSET(retroactive);
    MERGE_UNSET(empty_digest);
    MERGE_NULL(get_token);
    MERGE_UNSET(max_body);
    MERGE_UNSET(last_seen_interval);
    MERGE_UNSET(history);
    MERGE_NULL(webhooks);
    MERGE_NULL(declarative);
    MERGE_NULL(escrow);
    MERGE_NULL(dump);
    MERGE_NULL(push_url);
    MERGE_NULL(push_ca_file);
    MERGE_NULL(push_proxy);
    MERGE_UNSET(push_timeout);
    MERGE_UNSET(push_expiration);
    MERGE_UNSET(push_connections);
    return conf;
}

void *nanomdm_create_dir(apr_pool_t *pool, char *path)
{
    (void)path;
    return apr_pcalloc(pool, sizeof(nanomdm_dir_t));
}

/* A section with a Require of its own replaces what it inherits, unless AuthMerging joins them. */
static void merge_require(nanomdm_dir_t *conf, const nanomdm_dir_t *add)
{
    int replaces = add->merging != NANOMDM_MERGING_AND && add->merging != NANOMDM_MERGING_OR;

    if (add->require_enrolled > 0 || (add->require_enrolled < 0 && replaces)) {
        conf->require_enrolled = add->require_enrolled;
        conf->merged_or = 0;
    } else if (add->require_enrolled < 0 && add->merging == NANOMDM_MERGING_OR) {
        conf->merged_or = conf->require_enrolled > 0;
    }
    if (add->restricted == 0) {
        return;
    }
    switch (add->merging) {
    case NANOMDM_MERGING_AND:
        conf->restricted = conf->restricted > 0 ? 1 : add->restricted;
        break;
    case NANOMDM_MERGING_OR:
        conf->restricted = conf->restricted < 0 ? -1 : add->restricted;
        break;
    default:
        conf->restricted = add->restricted;
    }
}

void *nanomdm_merge_dir(apr_pool_t *pool, void *basev, void *addv)
{
    const nanomdm_dir_t *base = basev;
    const nanomdm_dir_t *add = addv;
    nanomdm_dir_t *conf = apr_pmemdup(pool, base, sizeof(*conf));

    if (add->handler != NANOMDM_HANDLER_UNSET) {
        conf->handler = add->handler;
        conf->base = add->base;
    }
    if (add->identity != NANOMDM_IDENTITY_UNSET) {
        conf->identity = add->identity;
        conf->identity_header = add->identity_header;
    }
    if (add->merging != NANOMDM_MERGING_UNSET) {
        conf->merging = add->merging;
    }
    if (add->satisfy_any != 0) {
        conf->satisfy_any = add->satisfy_any;
    }
    merge_require(conf, add);
    return conf;
}

static void set_defaults(nanomdm_server_t *conf)
{
    if (conf->db_driver == NULL) {
        conf->db_driver = DEFAULT_DRIVER;
        conf->db_params = DEFAULT_PARAMS;
    }
    if (conf->db_wait == NANOMDM_UNSET) {
        conf->db_wait = apr_time_from_sec(2);
    }
    if (conf->db_timeout == NANOMDM_UNSET) {
        conf->db_timeout = apr_time_from_sec(10);
    }
    if (conf->db_idle == NANOMDM_UNSET) {
        conf->db_idle = apr_time_from_sec(300);
    }
    if (conf->schema == NANOMDM_UNSET) {
        conf->schema = NANOMDM_SCHEMA_CHECK;
    }
    if (conf->prefix == NULL) {
        conf->prefix = "";
    }
    if (conf->retroactive == NANOMDM_UNSET) {
        conf->retroactive = 0;
    }
    if (conf->empty_digest == NANOMDM_UNSET) {
        conf->empty_digest = 0;
    }
    if (conf->max_body == NANOMDM_UNSET) {
        conf->max_body = DEFAULT_MAX_BODY;
    }
    if (conf->last_seen_interval == NANOMDM_UNSET) {
        conf->last_seen_interval = apr_time_from_sec(2);
    }
    if (conf->escrow == NULL) {
        static hooks_target_t apple = {.url = DEFAULT_ESCROW_URL};

        conf->escrow = &apple;
    }
    if (conf->history == NANOMDM_UNSET) {
        conf->history = 0;
    }
    if (conf->push_url == NULL) {
        conf->push_url = NANOMDM_PUSH_URL;
    }
    if (conf->push_timeout == NANOMDM_UNSET) {
        conf->push_timeout = apr_time_from_sec(30);
    }
    if (conf->push_expiration == NANOMDM_UNSET) {
        conf->push_expiration = apr_time_from_sec(7 * 86400);
    }
    if (conf->push_connections == NANOMDM_UNSET) {
        conf->push_connections = 1;
    }
}

nanomdm_server_t *nanomdm_server(const server_rec *server)
{
    return ap_get_module_config(server->module_config, &nanomdm_module);
}

nanomdm_dir_t *nanomdm_dir(const request_rec *r)
{
    return ap_get_module_config(r->per_dir_config, &nanomdm_module);
}

void nanomdm_config_complete(server_rec *main_server)
{
    for (server_rec *s = main_server; s != NULL; s = s->next) {
        set_defaults(nanomdm_server(s));
    }
}

store_config_t nanomdm_store_config(const nanomdm_server_t *conf)
{
    store_config_t store = {
        .driver = conf->db_driver,
        .params = conf->db_params,
        .prefix = conf->prefix,
        .max = conf->db_max,
        .wait = conf->db_wait,
        .timeout = conf->db_timeout,
        .idle = conf->db_idle,
    };

    return store;
}

apns_config_t nanomdm_apns_config(const nanomdm_server_t *conf)
{
    apns_config_t apns = {
        .url = conf->push_url,
        .ca_file = conf->push_ca_file,
        .proxy = conf->push_proxy,
        .connections = conf->push_connections,
        .expiration = conf->push_expiration,
    };

    return apns;
}
