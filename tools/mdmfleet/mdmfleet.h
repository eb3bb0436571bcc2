/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What the units of tools/mdmfleet share: the fleet and its directory, what devices say, how a
 * request gets an identity, the client that sends it, and the counts. Private to the tool.
 */
#ifndef MDMFLEET_H
#define MDMFLEET_H

#include <apr_pools.h>
#include <apr_tables.h>
#include <apr_thread_mutex.h>
#include <apr_time.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>

/* ---- options ---------------------------------------------------------------------------- */

typedef enum { FLEET_TLS, FLEET_SIGNATURE, FLEET_HEADER } fleet_identity_t;
typedef enum { FLEET_RFC9440, FLEET_PEM, FLEET_FOLDED } fleet_header_format_t;
typedef enum { FLEET_SWITCH_SESSION, FLEET_SWITCH_MESSAGE, FLEET_SWITCH_FAILURE } fleet_switch_t;

typedef struct fleet_options_t {
    const char *dir;
    int devices; /* 0: as many as the fleet has */
    int users;   /* channels per device; -1: as the fleet has */
    int keys;
    const char *key_type; /* "rsa" or "ec" */
    const char *ca_cert, *ca_key;
    const char *seed; /* NULL: a random one */
    const char *topic;

    apr_array_header_t *mdm_urls;     /* const char * */
    apr_array_header_t *checkin_urls; /* const char *, as many as mdm_urls */
    fleet_switch_t switching;
    const char *server_ca;
    int insecure;
    int http2;
    int reconnect;
    int timeout, connect_timeout; /* seconds */
    int retries;

    fleet_identity_t identity;
    const char *header_name;
    fleet_header_format_t header_format;
    int apple_style;    /* signatures as Apple's devices make them, else CMS in DER */
    const char *digest; /* NULL: the style's default */

    int concurrency;
    int rounds;
    apr_interval_time_t duration; /* 0: no limit */
    apr_interval_time_t pause;
    double rate;    /* sessions per second; 0: as fast as it goes */
    int until_idle; /* rounds go on until one brings no command */
    int stay;       /* a worker keeps its device and its connection */
    int expect;     /* final answers that each device must have given in this run */
    int max_commands;
    double not_now, error; /* shares, 0 to 1 */
    int again;

    const char *api_url, *api_key;
    const char *request_type;
    int commands, batch, push;

    const char *message; /* presign */
    const char *out;
    const char *uuid_prefix; /* presign, enqueue */

    const char *json;
    int quiet;
} fleet_options_t;

/* Set by SIGINT and SIGTERM: finish the requests under way, save, report. */
extern volatile sig_atomic_t fleet_stop;

/* Say what is wrong on standard error and exit with status 2. */
__attribute__((noreturn, format(printf, 1, 2))) void fleet_die(const char *format, ...);

/* ---- the fleet (fleet.c) ------------------------------------------------------------ */

/* A set of command UUIDs, by hash; the oldest fall out beyond a bound. */
typedef struct fleet_set_t {
    uint64_t *items;
    int n, size, next;
} fleet_set_t;

int fleet_set_has(const fleet_set_t *set, uint64_t item);
void fleet_set_add(fleet_set_t *set, uint64_t item);
void fleet_set_remove(fleet_set_t *set, uint64_t item);
uint64_t fleet_hash(const char *text);

/* A device, or a user channel of the device before it, which shares its certificate. */
typedef struct fleet_device_t {
    int index;
    const char *udid, *serial;
    const char *user; /* the channel's UserID; NULL: the device itself */
    const char *id;   /* of the enrollment */
    int key;
    const unsigned char *der; /* the certificate */
    int der_len;
    /* state */
    int enrolled;
    int sessions;
    fleet_set_t answered; /* commands whose final answer the server has accepted */
    fleet_set_t not_now;  /* commands last answered NotNow; not kept between runs */
    int answers;          /* final answers in this run */
} fleet_device_t;

typedef struct fleet_t {
    apr_pool_t *pool;
    const char *dir;
    const char *seed, *topic;
    int users;                   /* channels per device */
    apr_array_header_t *keys;    /* EVP_PKEY * */
    apr_array_header_t *devices; /* fleet_device_t: each device, its user channels behind it */
    int lock;
} fleet_t;

/* Open the fleet in opt->dir; if make is set, make what is missing up to opt->devices. If lock
 * is set, no other run may change the fleet meanwhile. Dies on any failure. */
fleet_t *fleet_open(const fleet_options_t *opt, int make, int lock, apr_pool_t *pool);
/* Write the devices' state; dies if that fails. */
void fleet_save(fleet_t *fleet);
fleet_device_t *fleet_device(const fleet_t *fleet, int index);
/* How many devices and user channels this run works with. */
int fleet_count(const fleet_t *fleet, const fleet_options_t *opt);

/* ---- what devices say (messages.c) ------------------------------------------------------------
 */

typedef enum {
    FLEET_AUTHENTICATE,
    FLEET_TOKEN_UPDATE,
    FLEET_IDLE,
    FLEET_ACKNOWLEDGED,
    FLEET_ERROR,
    FLEET_NOT_NOW,
    FLEET_CHECK_OUT,
    FLEET_ENQUEUE,
    FLEET_KINDS
} fleet_kind_t;

const char *fleet_kind_name(fleet_kind_t kind);

/* The body of a message; uuid and request_type for the answers to commands, else NULL. */
const char *fleet_message(const fleet_t *fleet, const fleet_device_t *device, fleet_kind_t kind,
                          const char *uuid, const char *request_type, apr_pool_t *pool);
/* A command to queue: a function of these two, so that a device can tell whether it came unchanged.
 */
const char *fleet_command(const char *uuid, const char *request_type, apr_pool_t *pool);
/* A value of the device's that is the same in each run: hex of len bytes (at most 32). */
const char *fleet_derive(const fleet_t *fleet, int index, const char *what, int len,
                         apr_pool_t *pool);

/* ---- identity (sign.c) ------------------------------------------------------------ */

const char *fleet_base64(const unsigned char *data, size_t len, apr_pool_t *pool);
/* The request header that identifies the device, "Name: value"; NULL with TLS identity. */
const char *fleet_identity_header(const fleet_t *fleet, const fleet_device_t *device,
                                  const fleet_options_t *opt, const char *body, size_t len,
                                  apr_pool_t *pool);

/* ---- counts (stats.c) ------------------------------------------------------------ */

typedef struct fleet_stats_t fleet_stats_t;

typedef struct fleet_progress_t {
    uint64_t requests, errors;
} fleet_progress_t;

fleet_stats_t *fleet_stats_create(apr_pool_t *pool);
void fleet_stats_request(fleet_stats_t *stats, fleet_kind_t kind, apr_interval_time_t took);
/* An error of a message; cause is kept by reference, the example is copied. */
void fleet_stats_error(fleet_stats_t *stats, fleet_kind_t kind, const char *cause, int http,
                       const char *example);
void fleet_stats_count(fleet_stats_t *stats, const char *what, uint64_t n);
fleet_progress_t fleet_stats_progress(fleet_stats_t *stats);
uint64_t fleet_stats_errors(fleet_stats_t *stats);
void fleet_stats_print(fleet_stats_t *stats, apr_interval_time_t took, FILE *out);
json_t *fleet_stats_json(fleet_stats_t *stats, apr_interval_time_t took);

/* ---- the client (client.c) ------------------------------------------------------------ */

typedef struct fleet_client_t fleet_client_t;

typedef struct fleet_reply_t {
    long http;
    const char *type; /* Content-Type, or "" */
    const char *body; /* NUL-terminated, until the next request of this client */
    size_t len;
} fleet_reply_t;

fleet_client_t *fleet_client_create(const fleet_t *fleet, const fleet_options_t *opt,
                                    fleet_stats_t *stats, apr_pool_t *pool);
/* Begin to speak for a device: a new connection where its identity is the connection's. */
void fleet_client_device(fleet_client_t *client, const fleet_device_t *device, int turn);
/* Send a device's message; a failure is counted. Nonzero if the server answered 200. */
int fleet_client_send(fleet_client_t *client, fleet_kind_t kind, const char *body,
                      fleet_reply_t *reply, apr_pool_t *pool);
/* Send an API request (PUT) that may be repeated; as fleet_client_send(). */
int fleet_client_api(fleet_client_t *client, const char *url, const char *body,
                     fleet_reply_t *reply, apr_pool_t *pool);
void fleet_client_destroy(fleet_client_t *client);

/* ---- what the tool does (run.c, presign.c)
 * ------------------------------------------------------------ */

/* Failures are counted in stats. */
void fleet_enroll(fleet_t *fleet, const fleet_options_t *opt, fleet_stats_t *stats);
void fleet_check_out(fleet_t *fleet, const fleet_options_t *opt, fleet_stats_t *stats);
void fleet_run(fleet_t *fleet, const fleet_options_t *opt, fleet_stats_t *stats);
void fleet_enqueue(fleet_t *fleet, const fleet_options_t *opt, fleet_stats_t *stats);
/* Write complete requests to a file; returns how many. */
int fleet_presign(fleet_t *fleet, const fleet_options_t *opt);

#endif
