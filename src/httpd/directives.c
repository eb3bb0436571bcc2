/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The directives: what takes each of them, and their table. */
#include "nanomdm.h"
#include "values.h"

#include <apr_strings.h>
#include <http_core.h>
#include <openssl/evp.h>

#define MAX_DB_CONNECTIONS 10000
#define MAX_PUSH_CONNECTIONS 100

/* -- This server -------------------------------------------------------------------------- */

static const char *set_database(cmd_parms *cmd, void *dir, const char *driver, const char *params)
{
    nanomdm_server_t *conf = nanomdm_server(cmd->server);
    const char *why;

    (void)dir;
    if (store_driver_check(driver, &why, cmd->pool) != APR_SUCCESS) {
        return value_wrong(cmd, "%s", why);
    }
    if (*params == '\0') {
        return value_wrong(
            cmd, "the parameters of %s are empty: for sqlite3 write the database's file", driver);
    }
    if (strstr(params, "://") != NULL) {
        return value_wrong(
            cmd, "the parameters of %s are no URL: write them as in \"host=127.0.0.1 …\"", driver);
    }
    conf->db_driver = driver;
    conf->db_params = params;
    if (strcmp(driver, "sqlite3") == 0) {
        conf->db_params = ap_server_root_relative(cmd->pool, params);
        if (conf->db_params == NULL) {
            return value_wrong(cmd, "\"%s\" is no path of a file", params);
        }
    }
    return NULL;
}

static const char *parse_pool_wait(cmd_parms *cmd, const char *option, int name_len,
                                   apr_interval_time_t *out)
{
    const char *error = value_duration(cmd, option + name_len, out);

    if (error == NULL && *out < apr_time_from_msec(100)) {
        error = value_wrong(cmd, "\"%s\" is too short: at least 100ms", option);
    }
    return error;
}

static const char *set_database_pool(cmd_parms *cmd, void *dir, const char *option)
{
    nanomdm_server_t *conf = nanomdm_server(cmd->server);

    (void)dir;
    if (strncmp(option, "max=", 4) == 0) {
        return value_connections(cmd, option + 4, MAX_DB_CONNECTIONS, &conf->db_max);
    }
    if (strncmp(option, "wait=", 5) == 0) {
        return parse_pool_wait(cmd, option, 5, &conf->db_wait);
    }
    if (strncmp(option, "timeout=", 8) == 0) {
        return parse_pool_wait(cmd, option, 8, &conf->db_timeout);
    }
    if (strncmp(option, "idle=", 5) == 0) {
        return value_duration(cmd, option + 5, &conf->db_idle);
    }
    return value_unknown(cmd, option, "there are max=, wait=, timeout= and idle=");
}

static const char *set_schema(cmd_parms *cmd, void *dir, const char *value)
{
    static const char *const names[] = {"create", "check", "off"};

    (void)dir;
    for (int i = NANOMDM_SCHEMA_CREATE; i <= NANOMDM_SCHEMA_OFF; i++) {
        if (strcasecmp(value, names[i]) == 0) {
            nanomdm_server(cmd->server)->schema = i;
            return NULL;
        }
    }
    return value_wrong(cmd, "unknown value \"%s\": write create, check or off", value);
}

static const char *set_prefix(cmd_parms *cmd, void *dir, const char *value)
{
    const char *why;

    (void)dir;
    if (store_prefix_check(value, &why, cmd->pool) != APR_SUCCESS) {
        return value_wrong(cmd, "%s", why);
    }
    nanomdm_server(cmd->server)->prefix = value;
    return NULL;
}

static const char *set_file(cmd_parms *cmd, void *dir, const char *value)
{
    nanomdm_server_t *conf = nanomdm_server(cmd->server);
    const char *path = ap_server_root_relative(cmd->pool, value);

    (void)dir;
    if (path == NULL) {
        return value_wrong(cmd, "\"%s\" is no path of a file", value);
    }
    *(const char **)((char *)conf + (apr_size_t)cmd->info) = path;
    return NULL;
}

static const char *set_api_key(cmd_parms *cmd, void *dir, const char *value)
{
    nanomdm_server_t *conf = nanomdm_server(cmd->server);
    const char *key;
    apr_size_t len;
    const char *error = value_key(cmd, value, &key, &len, cmd->temp_pool);

    (void)dir;
    if (error != NULL) {
        return error;
    }
    if (conf->api_keys == NULL) {
        conf->api_keys = apr_array_make(cmd->pool, 2, 32);
    }
    /* Only digests are kept and compared: equal work whatever the length. */
    if (!EVP_Digest(key, len, apr_array_push(conf->api_keys), NULL, EVP_sha256(), NULL)) {
        return value_wrong(cmd, "OpenSSL does not give SHA-256");
    }
    return NULL;
}

static const char *set_retroactive(cmd_parms *cmd, void *dir, int on)
{
    (void)dir;
    nanomdm_server(cmd->server)->retroactive = on;
    return NULL;
}

static const char *set_user_authenticate(cmd_parms *cmd, void *dir, const char *value)
{
    nanomdm_server_t *conf = nanomdm_server(cmd->server);

    (void)dir;
    if (strcasecmp(value, "decline") == 0) {
        conf->empty_digest = 0;
    } else if (strcasecmp(value, "empty-digest") == 0) {
        conf->empty_digest = 1;
    } else {
        return value_wrong(cmd, "unknown value \"%s\": write decline or empty-digest", value);
    }
    return NULL;
}

static const char *set_get_token(cmd_parms *cmd, void *dir, const char *type, const char *value)
{
    nanomdm_server_t *conf = nanomdm_server(cmd->server);
    service_token_t *token = apr_palloc(cmd->pool, sizeof(*token));
    const char *bytes;
    const char *error = value_secret(cmd, value, &bytes, &token->len, cmd->pool);

    (void)dir;
    if (error != NULL) {
        return error;
    }
    if (token->len == 0) {
        return value_wrong(cmd, "the token for %s is empty", type);
    }
    token->data = (const unsigned char *)bytes;
    if (conf->get_token == NULL) {
        conf->get_token = apr_hash_make(cmd->pool);
    }
    apr_hash_set(conf->get_token, type, APR_HASH_KEY_STRING, token);
    return NULL;
}

static const char *set_max_body(cmd_parms *cmd, void *dir, const char *value)
{
    (void)dir;
    return value_size(cmd, value, &nanomdm_server(cmd->server)->max_body);
}

/* From 100 ms to an hour. */
static const char *set_interval(cmd_parms *cmd, void *dir, const char *value)
{
    nanomdm_server_t *conf = nanomdm_server(cmd->server);
    apr_interval_time_t *interval = (void *)((char *)conf + (apr_size_t)cmd->info);
    const char *error = value_duration(cmd, value, interval);

    (void)dir;
    if (error == NULL &&
        (*interval < apr_time_from_msec(100) || *interval > apr_time_from_sec(3600))) {
        return value_wrong(cmd, "\"%s\": from 100ms to 1h", value);
    }
    return error;
}

static const char *set_history(cmd_parms *cmd, void *dir, const char *value)
{
    nanomdm_server_t *conf = nanomdm_server(cmd->server);
    const char *error = value_duration(cmd, value, &conf->history);

    (void)dir;
    if (error == NULL && conf->history < apr_time_from_sec(1)) {
        return value_wrong(cmd, "\"%s\": from 1s to 3650d", value);
    }
    return error;
}

/* What a URL or a proxy must look like is the pusher's business: check.c asks it. */
static const char *set_text(cmd_parms *cmd, void *dir, const char *value)
{
    nanomdm_server_t *conf = nanomdm_server(cmd->server);

    (void)dir;
    *(const char **)((char *)conf + (apr_size_t)cmd->info) = value;
    return NULL;
}

static const char *set_push_expiration(cmd_parms *cmd, void *dir, const char *value)
{
    (void)dir;
    return value_duration(cmd, value, &nanomdm_server(cmd->server)->push_expiration);
}

static const char *set_push_connections(cmd_parms *cmd, void *dir, const char *value)
{
    (void)dir;
    return value_connections(cmd, value, MAX_PUSH_CONNECTIONS,
                             &nanomdm_server(cmd->server)->push_connections);
}

/* -- Other servers ------------------------------------------------------------------------ */

/* An option's value, if it is the option with this name and "=". */
static const char *option_value(const char *option, const char *name)
{
    apr_size_t len = strlen(name);

    return strncmp(option, name, len) == 0 ? option + len : NULL;
}

/* Of a text that is perhaps no URL: what follows user and password. */
static const char *without_login(const char *url)
{
    const char *at = strrchr(url, '@');

    return at != NULL ? at + 1 : url;
}

static const char *set_url(cmd_parms *cmd, hooks_target_t *target, const char *url)
{
    const char *why = hooks_url_check(url);

    target->url = url;
    return why != NULL ? value_wrong(cmd, "\"%s\" %s", without_login(url), why) : NULL;
}

static const char *set_authority(cmd_parms *cmd, hooks_target_t *target, const char *value)
{
    trust_ca_t *ca; /* not kept: libcurl reads the file at each connection */
    const char *why = "the file cannot be read";

    target->ca_file = ap_server_root_relative(cmd->pool, value);
    if (target->ca_file == NULL ||
        trust_ca_load(&ca, target->ca_file, NULL, &why, cmd->temp_pool) != APR_SUCCESS) {
        return value_wrong(cmd, "ca=%s: %s", value, why);
    }
    return NULL;
}

static const char *parse_topics(cmd_parms *cmd, const char *value, unsigned *topics)
{
    char *state;

    *topics = 0;
    for (char *topic = apr_strtok(apr_pstrdup(cmd->temp_pool, value), ",", &state); topic != NULL;
         topic = apr_strtok(NULL, ",", &state)) {
        int type = MDM_AUTHENTICATE;

        while (type <= MDM_REPORT &&
               strcmp(topic, hooks_event_topic((mdm_message_type_t)type, cmd->temp_pool)) != 0) {
            type++;
        }
        if (type > MDM_REPORT) {
            return value_wrong(cmd,
                               "unknown topic \"%s\": there are mdm.Authenticate, mdm.TokenUpdate, "
                               "mdm.CheckOut, mdm.UserAuthenticate, mdm.SetBootstrapToken, "
                               "mdm.GetBootstrapToken, mdm.DeclarativeManagement, mdm.GetToken and "
                               "mdm.Connect",
                               topic);
        }
        *topics |= 1U << type;
    }
    return *topics == 0 ? value_wrong(cmd, "topics= names none") : NULL;
}

static const char *webhook_option(cmd_parms *cmd, service_webhook_config_t *webhook,
                                  const char *option)
{
    const char *value;

    if ((value = option_value(option, "key=")) != NULL) {
        return value_key(cmd, value, &webhook->target.send_key, &webhook->target.send_key_len,
                         cmd->pool);
    }
    if ((value = option_value(option, "ca=")) != NULL) {
        return set_authority(cmd, &webhook->target, value);
    }
    if ((value = option_value(option, "topics=")) != NULL) {
        return parse_topics(cmd, value, &webhook->topics);
    }
    if ((value = option_value(option, "delivery=")) != NULL) {
        webhook->memory = strcmp(value, "memory") == 0;
        return webhook->memory || strcmp(value, "durable") == 0
                   ? NULL
                   : value_wrong(cmd, "\"%s\": write delivery=durable or delivery=memory", option);
    }
    if ((value = option_value(option, "retry=")) != NULL) {
        webhook->retry = 0;
        if (strcmp(value, "forever") == 0) {
            return NULL;
        }
        if (value_duration(cmd, value, &webhook->retry) != NULL || webhook->retry == 0) {
            return value_wrong(cmd, "\"%s\": write retry=forever or a duration, as in retry=24h",
                               option);
        }
        return NULL;
    }
    return value_unknown(cmd, option, "there are key=, ca=, topics=, delivery= and retry=");
}

static const char *set_webhook(cmd_parms *cmd, void *dir, int argc, char *const argv[])
{
    nanomdm_server_t *conf = nanomdm_server(cmd->server);
    service_webhook_config_t webhook = {.topics = ~0U};
    const char *error;

    (void)dir;
    if (argc == 0) {
        return value_wrong(cmd, "name the receiver's URL");
    }
    error = set_url(cmd, &webhook.target, argv[0]);
    for (int i = 1; i < argc && error == NULL; i++) {
        error = webhook_option(cmd, &webhook, argv[i]);
    }
    if (error != NULL) {
        return error;
    }
    webhook.name = hooks_url_public(argv[0], cmd->pool);
    if (strlen(webhook.name) > 255) {
        return value_wrong(cmd, "the URL is longer than 255 bytes");
    }
    if (conf->webhooks == NULL) {
        conf->webhooks = apr_array_make(cmd->pool, 2, sizeof(webhook));
    }
    for (int i = 0; i < conf->webhooks->nelts; i++) {
        if (strcmp(APR_ARRAY_IDX(conf->webhooks, i, service_webhook_config_t).name, webhook.name) ==
            0) {
            return value_wrong(cmd, "%s is there twice: put all topics into one line",
                               webhook.name);
        }
    }
    APR_ARRAY_PUSH(conf->webhooks, service_webhook_config_t) = webhook;
    return NULL;
}

static const char *set_declarative(cmd_parms *cmd, void *dir, int argc, char *const argv[])
{
    hooks_target_t *target = apr_pcalloc(cmd->pool, sizeof(*target));
    const char *error;

    (void)dir;
    if (argc == 0) {
        return value_wrong(cmd, "name the declaration server's URL");
    }
    error = set_url(cmd, target, argv[0]);
    if (error == NULL && strchr(argv[0], '?') != NULL) {
        error = value_wrong(cmd, "\"%s\" has a query, which endpoints below it cannot have",
                            without_login(argv[0]));
    }
    for (int i = 1; i < argc && error == NULL; i++) {
        const char *value;

        if ((value = option_value(argv[i], "send-key=")) != NULL) {
            error = value_key(cmd, value, &target->send_key, &target->send_key_len, cmd->pool);
        } else if ((value = option_value(argv[i], "recv-key=")) != NULL) {
            error = value_key(cmd, value, &target->recv_key, &target->recv_key_len, cmd->pool);
        } else if ((value = option_value(argv[i], "ca=")) != NULL) {
            error = set_authority(cmd, target, value);
        } else {
            error = value_unknown(cmd, argv[i], "there are send-key=, recv-key= and ca=");
        }
    }
    if (error == NULL) {
        nanomdm_server(cmd->server)->declarative = target;
    }
    return error;
}

static const char *set_escrow(cmd_parms *cmd, void *dir, const char *url, const char *option)
{
    hooks_target_t *target = apr_pcalloc(cmd->pool, sizeof(*target));
    const char *error = set_url(cmd, target, url);

    (void)dir;
    if (error == NULL && strncasecmp(url, "https:", 6) != 0) {
        error = value_wrong(cmd,
                            "\"%s\" must be https: the escrow key is a secret, and the push "
                            "certificate is shown by TLS",
                            without_login(url));
    }
    if (error == NULL && option != NULL) {
        const char *file = option_value(option, "ca=");

        error = file != NULL ? set_authority(cmd, target, file)
                             : value_unknown(cmd, option, "there is ca=");
    }
    if (error == NULL) {
        nanomdm_server(cmd->server)->escrow = target;
    }
    return error;
}

static const char *set_dump(cmd_parms *cmd, void *dir, const char *value)
{
    const char *name = *value == '|' ? value : ap_server_root_relative(cmd->pool, value);

    (void)dir;
    if (name == NULL || *name == '\0' || strcmp(name, "|") == 0) {
        return value_wrong(cmd, "\"%s\" is neither a file nor \"|\" and a program", value);
    }
    nanomdm_server(cmd->server)->dump = nanomdm_dump_note(name, cmd->pool);
    return NULL;
}

static const char *set_identity(cmd_parms *cmd, void *dirv, const char *source, const char *name)
{
    nanomdm_dir_t *dir = dirv;
    int is_header = strcasecmp(source, "header") == 0;

    if (is_header != (name != NULL)) {
        return is_header ? "NanoMDMIdentity: header needs the name of the header, as in "
                           "\"NanoMDMIdentity header X-Client-Cert\""
                         : value_wrong(cmd, "\"%s\" takes no second argument", source);
    }
    if (strcasecmp(source, "signature") == 0) {
        dir->identity = NANOMDM_IDENTITY_SIGNATURE;
    } else if (strcasecmp(source, "ssl") == 0) {
        dir->identity = NANOMDM_IDENTITY_SSL;
    } else if (is_header) {
        dir->identity = NANOMDM_IDENTITY_HEADER;
        dir->identity_header = name;
    } else {
        return value_wrong(cmd, "unknown source \"%s\": write signature, ssl or header NAME",
                           source);
    }
    nanomdm_note_use(cmd)->identity = dir->identity;
    return NULL;
}

#define MEMBER(member) (void *)APR_OFFSETOF(nanomdm_server_t, member)

const command_rec nanomdm_commands[] = {
    AP_INIT_TAKE2(
        "NanoMDMDatabase", set_database, NULL, RSRC_CONF,
        "an apr_dbd driver and its parameters, as in: sqlite3 /var/lib/nanomdm/nanomdm.db"),
    AP_INIT_ITERATE("NanoMDMDatabasePool", set_database_pool, NULL, RSRC_CONF,
                    "max=NUMBER wait=DURATION timeout=DURATION idle=DURATION, per child process"),
    AP_INIT_TAKE1("NanoMDMSchema", set_schema, NULL, RSRC_CONF,
                  "create (missing tables at start), check (default) or off"),
    AP_INIT_TAKE1("NanoMDMTablePrefix", set_prefix, NULL, RSRC_CONF,
                  "a prefix of all table names; default: none"),
    AP_INIT_TAKE1("NanoMDMCACertificateFile", set_file, MEMBER(ca_file), RSRC_CONF,
                  "PEM file of the certificates that may issue device identities"),
    AP_INIT_TAKE1("NanoMDMIntermediateFile", set_file, MEMBER(intermediate_file), RSRC_CONF,
                  "PEM file of intermediate certificates below NanoMDMCACertificateFile"),
    AP_INIT_TAKE1("NanoMDMAPIKey", set_api_key, NULL, RSRC_CONF,
                  "an API key, or file:/PATH that holds it; may be repeated"),
    AP_INIT_FLAG("NanoMDMRetroactive", set_retroactive, NULL, RSRC_CONF,
                 "On: an enrollment without any certificate may take the one it comes with"),
    AP_INIT_TAKE1("NanoMDMUserAuthenticate", set_user_authenticate, NULL, RSRC_CONF,
                  "decline (default) or empty-digest"),
    AP_INIT_TAKE2("NanoMDMGetToken", set_get_token, NULL, RSRC_CONF,
                  "a TokenServiceType and its token, or file:/PATH that holds it"),
    AP_INIT_TAKE1("NanoMDMMaxBody", set_max_body, NULL, RSRC_CONF,
                  "largest request body; default 8M"),
    AP_INIT_TAKE1("NanoMDMLastSeenInterval", set_interval, MEMBER(last_seen_interval), RSRC_CONF,
                  "how often last-seen times are written; default 2s"),
    AP_INIT_TAKE1("NanoMDMHistory", set_history, NULL, RSRC_CONF,
                  "sweep finished commands that are older; default: keep them"),
    AP_INIT_TAKE_ARGV("NanoMDMWebhook", set_webhook, NULL, RSRC_CONF,
                      "a receiver's URL, and key=, ca=, topics=, delivery=, retry="),
    AP_INIT_TAKE_ARGV("NanoMDMDeclarativeManagement", set_declarative, NULL, RSRC_CONF,
                      "the declaration server's URL, and send-key=, recv-key=, ca="),
    AP_INIT_TAKE12("NanoMDMEscrowKeyUnlockURL", set_escrow, NULL, RSRC_CONF,
                   "where to unlock escrow keys, and ca=; default: Apple's server"),
    AP_INIT_TAKE1("NanoMDMDump", set_dump, NULL, RSRC_CONF,
                  "a file for message bodies, or \"|program\"; they hold secrets"),
    AP_INIT_TAKE1("NanoMDMPushURL", set_text, MEMBER(push_url), RSRC_CONF,
                  "the push service; default " NANOMDM_PUSH_URL),
    AP_INIT_TAKE1("NanoMDMPushCAFile", set_file, MEMBER(push_ca_file), RSRC_CONF,
                  "PEM file of who may issue its certificate; default: the system's roots"),
    AP_INIT_TAKE1("NanoMDMPushProxy", set_text, MEMBER(push_proxy), RSRC_CONF,
                  "a proxy on the way to it, as http://[USER:PASSWORD@]HOST:PORT; default: none"),
    AP_INIT_TAKE1("NanoMDMPushTimeout", set_interval, MEMBER(push_timeout), RSRC_CONF,
                  "how long the API waits for its answers; default 30s"),
    AP_INIT_TAKE1("NanoMDMPushExpiration", set_push_expiration, NULL, RSRC_CONF,
                  "how long it keeps a push for a device that is away; 0: not at all; default 7d"),
    AP_INIT_TAKE1("NanoMDMPushConnections", set_push_connections, NULL, RSRC_CONF,
                  "most connections to it per topic and child process; default 1"),
    AP_INIT_TAKE12("NanoMDMIdentity", set_identity, NULL, RSRC_CONF | ACCESS_CONF,
                   "signature (default), ssl, or header NAME"),
    AP_INIT_RAW_ARGS("SetHandler", nanomdm_note_handler, NULL, OR_FILEINFO, "see core"),
    AP_INIT_RAW_ARGS("Require", nanomdm_note_require, NULL, OR_AUTHCFG, "see mod_authz_core"),
    AP_INIT_TAKE1("AuthMerging", nanomdm_note_merging, NULL, OR_AUTHCFG, "see mod_authz_core"),
    AP_INIT_TAKE1("Satisfy", nanomdm_note_satisfy, NULL, OR_AUTHCFG, "see mod_access_compat"),
    AP_INIT_ITERATE("AuthBasicProvider", nanomdm_note_provider, NULL, OR_AUTHCFG,
                    "see mod_auth_basic"),
    {NULL},
};
