/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What the rooms of src/httpd share: the configuration, and the functions one calls in another.
 * The only place, with its .c files, where httpd's types and HTTP's status codes appear.
 */
#ifndef NANOMDM_H
#define NANOMDM_H

#include <httpd.h> /* first: httpd's other headers lean on it */

#include <apr_hash.h>
#include <apr_tables.h>
#include <http_config.h>
#include <http_log.h>

#include "apns.h"
#include "service.h"
#include "service_lastseen.h"
#include "service_webhook.h"
#include "store.h"
#include "trust.h"

extern module AP_MODULE_DECLARE_DATA nanomdm_module;
#ifndef NANOMDM_MODULE_RECORD /* which declares its own index for the log */
APLOG_USE_MODULE(nanomdm);
#endif

#define NANOMDM_VERSION "v0.1.0"
#define NANOMDM_PUSH_URL "https://api.push.apple.com"
#define NANOMDM_UNSET (-1)
/** Seconds after which a client may try again that met a database out of reach. */
#define NANOMDM_RETRY_AFTER "10"

typedef enum {
    NANOMDM_HANDLER_UNSET,
    NANOMDM_HANDLER_OTHER, /* somebody else's */
    NANOMDM_HANDLER_MDM,
    NANOMDM_HANDLER_COMMAND,
    NANOMDM_HANDLER_CHECKIN,
    NANOMDM_HANDLER_API,
    NANOMDM_HANDLER_MIGRATION,
    NANOMDM_HANDLER_VERSION
} nanomdm_handler_t;

typedef enum {
    NANOMDM_IDENTITY_UNSET,
    NANOMDM_IDENTITY_SIGNATURE,
    NANOMDM_IDENTITY_SSL,
    NANOMDM_IDENTITY_HEADER
} nanomdm_identity_t;

typedef enum { NANOMDM_SCHEMA_CREATE, NANOMDM_SCHEMA_CHECK, NANOMDM_SCHEMA_OFF } nanomdm_schema_t;

/** A database in one child: shared by the virtual hosts that name the same one. */
typedef struct nanomdm_database_t {
    store_t *store;
    service_lastseen_t *lastseen;
    apr_hash_t *webhooks; /* by name: service_webhook_t */
    int started;          /* its threads were, or could not be: */
    apr_status_t status;
} nanomdm_database_t;

/** Where message bodies are written for debugging. */
typedef struct nanomdm_dump_t nanomdm_dump_t;

/** Configuration of a server or virtual host. */
typedef struct nanomdm_server_t {
    const char *db_driver;
    const char *db_params;
    int db_max;
    apr_interval_time_t db_wait;
    apr_interval_time_t db_timeout;
    apr_interval_time_t db_idle;
    int schema; /* nanomdm_schema_t */
    const char *prefix;
    const char *ca_file;
    const char *intermediate_file;
    apr_array_header_t *api_keys; /* unsigned char[32]: SHA-256 of each key */
    int retroactive;
    int empty_digest;
    apr_hash_t *get_token; /* type -> service_token_t */
    apr_off_t max_body;
    apr_interval_time_t last_seen_interval;
    apr_interval_time_t history;  /* how long to keep finished commands; 0: for ever */
    apr_array_header_t *webhooks; /* service_webhook_config_t */
    hooks_target_t *declarative;
    hooks_target_t *escrow;
    nanomdm_dump_t *dump;
    const char *push_url;
    const char *push_ca_file;
    const char *push_proxy;
    apr_interval_time_t push_timeout;
    apr_interval_time_t push_expiration;
    int push_connections;

    int pushes;        /* whether a location of this server has the API: found by check_config */
    int used;          /* whether a location of this server is ours: found by check_config */
    trust_ca_t *ca;    /* loaded by check_config */
    service_t service; /* filled by child_init */
} nanomdm_server_t;

/** AuthMerging of mod_authz_core. */
typedef enum {
    NANOMDM_MERGING_UNSET,
    NANOMDM_MERGING_OFF,
    NANOMDM_MERGING_AND,
    NANOMDM_MERGING_OR
} nanomdm_merging_t;

/** Configuration of a location. */
typedef struct nanomdm_dir_t {
    nanomdm_handler_t handler;
    const char *base; /* the path of the <Location> that set the handler */
    nanomdm_identity_t identity;
    const char *identity_header;
    int require_enrolled; /* 1: yes; -1: another Require took its place */
    int restricted;       /* 1: some Require keeps callers out; -1: "Require all granted" */
    nanomdm_merging_t merging;
    int merged_or;   /* 1: "AuthMerging Or" put other ways in beside Require mdm-enrolled */
    int satisfy_any; /* 1: "Satisfy any"; -1: "Satisfy all" */
} nanomdm_dir_t;

/** Something in the configuration that check_config has to look at. */
typedef struct nanomdm_use_t {
    server_rec *server;
    nanomdm_handler_t handler; /* or UNSET */
    nanomdm_identity_t identity;
    int api_keys;     /* AuthBasicProvider nanomdm */
    const char *path; /* of the location */
    const char *where;
} nanomdm_use_t;

/* directives.c */
extern const command_rec nanomdm_commands[];

/* config.c: defaults and merging. */
void *nanomdm_create_server(apr_pool_t *pool, server_rec *server);
void *nanomdm_merge_server(apr_pool_t *pool, void *base, void *add);
void *nanomdm_create_dir(apr_pool_t *pool, char *path);
void *nanomdm_merge_dir(apr_pool_t *pool, void *base, void *add);
nanomdm_server_t *nanomdm_server(const server_rec *server);
nanomdm_dir_t *nanomdm_dir(const request_rec *r);
/** Fill in the defaults, once all of the configuration is read and merged. */
void nanomdm_config_complete(server_rec *main_server);
/** Where a store is, from the configuration. */
store_config_t nanomdm_store_config(const nanomdm_server_t *conf);
/** How to reach the push service, likewise. */
apns_config_t nanomdm_apns_config(const nanomdm_server_t *conf);

/* uses.c */
/** What the configuration uses, noted while it was read (nanomdm_use_t); emptied per reading. */
apr_array_header_t *nanomdm_uses(apr_pool_t *pool, int reset);
/** The handler's kind by its name, or NANOMDM_HANDLER_OTHER. */
nanomdm_handler_t nanomdm_handler_kind(const char *name);
/** Whether the handler serves devices, who must never see 401 or 403. */
int nanomdm_handler_is_device(nanomdm_handler_t handler);
/** Note that this line uses something; the caller fills it in. */
nanomdm_use_t *nanomdm_note_use(cmd_parms *cmd);
/* Listeners beside httpd's own directives of these names. */
const char *nanomdm_note_handler(cmd_parms *cmd, void *dir, const char *args);
const char *nanomdm_note_require(cmd_parms *cmd, void *dir, const char *args);
const char *nanomdm_note_merging(cmd_parms *cmd, void *dir, const char *value);
const char *nanomdm_note_satisfy(cmd_parms *cmd, void *dir, const char *value);
const char *nanomdm_note_provider(cmd_parms *cmd, void *dir, const char *name);

/* check.c: what is wrong with the configuration, and the schema. */
int nanomdm_pre_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp);
int nanomdm_check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s);
int nanomdm_post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s);

/* location.c: claims the module's locations, and keeps 401 and 403 from devices. */
int nanomdm_translate_name(request_rec *r);
int nanomdm_map_to_storage(request_rec *r);
void nanomdm_insert_error_filter(request_rec *r);

/* body.c */
/** Read the whole request body, at most max bytes, NUL-terminated in the request's pool.
 * @return OK, or the HTTP status that the request gets */
int nanomdm_read_body(request_rec *r, apr_off_t max, const char **body, apr_size_t *len);

/** Have the request's body, which was read, read again by its handler. Kept by reference. */
void nanomdm_replay_body(request_rec *r, const char *body, apr_size_t len);
void nanomdm_register_replay(apr_pool_t *pool);

/* identity.c */
/** Find and verify the caller's certificate, from the source that the location is set to.
 * @param body  for signatures
 * @return APR_ENOENT if there is none, MDM_EINPUT; the reason in *why */
apr_status_t nanomdm_identity(request_rec *r, const char *body, apr_size_t len,
                              trust_certificate_t **cert, const char **why);

/* auth.c: API keys, and "Require mdm-enrolled". */
void nanomdm_register_providers(apr_pool_t *pool);
int nanomdm_check_access(request_rec *r);
/** Refuse what got past nanomdm_check_access, which httpd does not always ask: not with "Satisfy
 * any" of mod_access_compat, and not for an error page where the request was refused. */
int nanomdm_check_again(request_rec *r);
/** Let a request that was redirected internally have what is known of the one it was made of. */
int nanomdm_follow_redirect(request_rec *r);

/* device.c, api.c: the handlers. */
int nanomdm_device_handler(request_rec *r);
int nanomdm_migration_handler(request_rec *r);
int nanomdm_version_handler(request_rec *r);
int nanomdm_api_handler(request_rec *r);
/** Whether access to the request's location is restricted at all; logs an error if not. */
int nanomdm_is_guarded(request_rec *r);

/* dump.c: message bodies, written to a file for debugging. */
/** Note a file, or "|" and a program; the same one again is the same dump. */
nanomdm_dump_t *nanomdm_dump_note(const char *name, apr_pool_t *pool);
/** Forget those of an earlier reading. */
void nanomdm_dump_reset(apr_pool_t *pconf);
/** Whether there is a place for each. @return 1 if one lacks its directory, which is logged */
int nanomdm_dump_check(server_rec *s, apr_pool_t *ptemp);
/** Open all, as the user that starts httpd. @return 1 if one cannot be opened, which is logged:
 * nothing is written there */
int nanomdm_dump_open(apr_pool_t *pconf, server_rec *s);
void nanomdm_dump_child_init(apr_pool_t *pchild, server_rec *s);
/** Write a body, if the server dumps at all; what is not taken within a second is dropped, which is
 * logged. direction: "in" or "out". */
void nanomdm_dump(request_rec *r, const char *enrollment_id, const char *direction,
                  const char *body, apr_size_t len);

/* reply.c */
/** Give the request its trace id: mod_unique_id's, or one of our own. */
const char *nanomdm_trace_id(request_rec *r);
/** The HTTP status of one of the core's. */
int nanomdm_http_status(apr_status_t status);
/** Send a reply with this body, which may be empty; returns what a handler returns. */
int nanomdm_reply(request_rec *r, int http_status, const char *type, const char *body,
                  apr_size_t len);
/** Likewise, with a body that is all in memory. */
int nanomdm_reply_brigade(request_rec *r, int http_status, const char *type,
                          apr_bucket_brigade *body);
int nanomdm_reply_text(request_rec *r, int http_status, const char *text);
/** Answer 405 with the methods that are allowed. */
int nanomdm_reply_not_allowed(request_rec *r, const char *methods);

/* child.c: what a child process owns: databases and background threads. */
/** Have the core log to the error log of this server. */
void nanomdm_log_to(server_rec *s);
/** What tells one database from another. */
const char *nanomdm_database_key(const nanomdm_server_t *conf, apr_pool_t *pool);
void nanomdm_child_init(apr_pool_t *pchild, server_rec *s);
void nanomdm_child_stopping(apr_pool_t *pchild, int graceful);

/* worker.c: a background thread of a child. */
typedef struct nanomdm_worker_t nanomdm_worker_t;
/** One turn of work. stopping: 1 in the last turn. The pool is cleared after each turn. Returns
 * whether there is more to do: then the next turn follows at once. */
typedef int nanomdm_turn_t(void *baton, int stopping, apr_pool_t *pool);
/** Start a thread that takes a turn at each interval, when woken, and once before it ends. */
apr_status_t nanomdm_worker_start(nanomdm_worker_t **out, apr_interval_time_t interval,
                                  nanomdm_turn_t *turn, void *baton, apr_pool_t *pool);
/** Work that loops by itself, until stop_fd is readable. */
typedef void nanomdm_loop_t(void *baton, int stop_fd);
/** Start a thread that runs a loop, which waking already stops. */
apr_status_t nanomdm_worker_start_loop(nanomdm_worker_t **out, nanomdm_loop_t *loop, void *baton,
                                       apr_pool_t *pool);
/** Have it take a turn soon. Safe in a signal handler. */
void nanomdm_worker_wake(nanomdm_worker_t *worker);
/** Have it take its last turn, and wait for its end at most so long. Takes no lock and frees
 * nothing, so that a signal handler may do it. @return APR_TIMEUP if it still runs */
apr_status_t nanomdm_worker_stop(nanomdm_worker_t *worker, apr_interval_time_t wait);
/** Free what a stopped thread had. */
void nanomdm_worker_free(nanomdm_worker_t *worker);

#endif
