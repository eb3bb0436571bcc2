/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The pusher's own: topics and what their thread keeps. Shared by the callers' side, pusher.c, and
 * the thread, loop.c; what is whose is said in the structures. */
#ifndef PUSH_PUSHER_H
#define PUSH_PUSHER_H

#include <apr_hash.h>
#include <poll.h>

#include "call.h"
#include "connection.h"

#define ALWAYS_POLLED 2 /* descriptors: the desk's, and the one that stops; before the links' */
#define TOLD_MAX 16     /* lines in the log about one certificate */

/** A connection and its place here. */
struct link_t {
    link_t *next;
    topic_t *topic;
    connection_t *connection;
    int polled; /* index of its descriptor, or -1 */
};

struct topic_t {
    topic_t *next; /* set before others see the topic */
    apns_t *apns;
    const char *name;
    /* with the desk's lock */
    SSL_CTX *given; /* not yet taken by the thread, or NULL */
    apr_int64_t version;
    char trouble[256]; /* why there is no connection, for those who wait; or "" */
    /* the thread's */
    SSL_CTX *tls;
    link_t *links;
    lane_t *first; /* lanes with jobs; each gives one in turn */
    lane_t *last;
    int failures; /* to connect, in a row */
    int mutes;
    int refused; /* pushes fail until it is time to connect again */
    apr_time_t connect_after;
    unsigned told[TOLD_MAX]; /* what the log has, of this certificate */
    int told_count;
};

struct apns_t {
    desk_t desk;
    int running;      /* with the desk's lock: the thread is in apns_run() */
    apr_pool_t *pool; /* its own */
    endpoint_t endpoint;
    apns_config_t config;
    X509_STORE *roots;    /* with the desk's lock: read when there is a certificate to use */
    apr_hash_t *by_name;  /* with the desk's lock, as topics is */
    apr_hash_t *unusable; /* likewise: topic -> version that the log has been told of */
    topic_t *topics;
    lookup_t *lookup;
    /* the thread's */
    job_t *delayed;
    apr_time_t delayed_due;
    int sent; /* jobs */
    int stopping;
    apr_time_t now;
    unsigned seed;
    struct pollfd *polls;
    int polls_size;
};

/** Make room for so many descriptors in apns->polls.
 * @return 0 without memory */
int pusher_room_to_poll(apns_t *apns, int count);

#endif
