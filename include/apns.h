/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Pushes to Apple's push service (APNs), over HTTP/2 connections that one thread owns and all
 * callers share. Knows topics, certificates and tokens; neither enrollments, nor a database, nor
 * httpd.
 *
 * Source: Apple, "Sending notification requests to APNs" and "Handling notification responses from
 * APNs"; RFC 9113.
 */
#ifndef APNS_H
#define APNS_H

#include <apr_pools.h>
#include <apr_time.h>

#include "mdm_status.h"

typedef struct apns_t apns_t;

typedef struct apns_config_t {
    const char *url;     /* https://HOST[:PORT] */
    const char *ca_file; /* PEM; NULL: the system's roots */
    const char *proxy;   /* http://[USER:PASSWORD@]HOST:PORT, by CONNECT; NULL: none */
    int connections;     /* most per topic */
    int queue_max; /* most pushes that wait or are in flight, but one call alone may have more;
                    * 0: 200,000 */
    apr_interval_time_t expiration; /* until when the service keeps a push; 0: not at all */
} apns_config_t;

/** One push and what became of it. */
typedef struct apns_push_t {
    const char *topic; /* these three the caller gives, until apns_send() returns */
    const char *token; /* in hex */
    const char *magic;
    /* APR_SUCCESS; MDM_EREFUSED: the service said no; APR_TIMEUP: no answer in time;
     * MDM_EUNAVAILABLE: it cannot be reached, or one side refuses the other's certificate;
     * MDM_ENOTCONFIGURED: no certificate for the topic; MDM_EINPUT: the token is not hex or the
     * magic too long; or what apns_send() returned */
    apr_status_t status;
    int code;             /* HTTP status of its answer, 0 if there was none */
    char reason[128];     /* the service's reason, or ours, for people; "" on success */
    char apns_id[64];     /* "" if there was none */
    apr_time_t timestamp; /* 410: since when the token is dead; else 0 */
} apns_push_t;

/** Make a pusher; it connects once there is something to send and apns_run() runs.
 *
 * @param why  on failure: a sentence for the operator
 * @return MDM_EINPUT: the configuration cannot be used
 */
apr_status_t apns_create(apns_t **out, const apns_config_t *config, const char **why,
                         apr_pool_t *pool);

/** Check a configuration without making anything that lasts; as apns_create(). */
apr_status_t apns_config_check(const apns_config_t *config, const char **why, apr_pool_t *pool);

/** Send what callers give, until stop_fd is readable; then end what is in flight within grace, and
 * fail the rest. To be called once, in a thread of its own, whose SIGPIPE it blocks. The pool of
 * apns_create() must not be destroyed before it returns; if it must, the memory is left. */
void apns_run(apns_t *apns, int stop_fd, apr_interval_time_t grace);

/** Whether this version of a topic's certificate is in use. */
int apns_has_certificate(apns_t *apns, const char *topic, apr_int64_t version);

/** Use this certificate for the topic from now on. Another version than the one in use opens new
 * connections; pushes in flight end on the old ones.
 *
 * @param version  of the row that stores it, its stale counter
 * @return MDM_EINPUT with the reason in *why if certificate and key cannot be used; the log has it,
 *         once for each version
 */
apr_status_t apns_set_certificate(apns_t *apns, const char *topic, apr_int64_t version,
                                  const char *cert_pem, const char *key_pem, const char **why,
                                  apr_pool_t *pool);

/** Send pushes and wait until each has its result, at most for the timeout. May be called by many
 * threads, also before apns_run(). Not to be called with a database connection in hand.
 *
 * @return APR_SUCCESS: each push has its status. APR_EAGAIN: the queue is full; MDM_EUNAVAILABLE:
 *         apns_run() is at its end; then nothing was sent, and pushes that could have been have
 *         this as their status, with a reason. APR_ENOMEM
 */
apr_status_t apns_send(apns_t *apns, apns_push_t *pushes, int count, apr_interval_time_t timeout);

#endif
