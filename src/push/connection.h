/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* One connection to the push service: socket, proxy, TLS and the session on top, without ever
 * waiting. Knows when it is dead; not which pushes to send, nor when to try again. For one thread.
 */
#ifndef PUSH_CONNECTION_H
#define PUSH_CONNECTION_H

#include "endpoint.h"
#include "lookup.h"
#include "session.h"
#include "tls.h"

typedef struct connection_t connection_t;

typedef struct connection_config_t {
    const endpoint_t *endpoint;
    lookup_t *lookup; /* of the service or its proxy */
    SSL_CTX *tls;     /* the connection has a reference of its own */
    const char *topic;
    session_end_t *end;
    void *baton;
} connection_config_t;

/** How a connection came to its end. */
typedef enum {
    CONNECTION_DONE,    /* as wished: drained, or idle for long */
    CONNECTION_BROKEN,  /* it may work another time */
    CONNECTION_MUTE,    /* closed after the handshake, before HTTP/2 began: a way to refuse
                           a certificate that has no name */
    CONNECTION_REFUSED, /* one side does not take the other's certificate */
} connection_fate_t;

/** Begin to connect. All times are of mdm_clock().
 * @param config  what it points to must outlive the connection
 * @return APR_ENOMEM */
apr_status_t connection_create(connection_t **out, const connection_config_t *config,
                               apr_time_t now);

/** Close it, politely if it is open; ends what is in flight as SESSION_LOST. */
void connection_destroy(connection_t *connection);

/** Do what can be done without waiting, but for sending requests.
 *
 * @param revents  what poll() said
 * @return not APR_SUCCESS: it is over; connection_fate() and connection_why() say how
 */
apr_status_t connection_turn(connection_t *connection, int revents, apr_time_t now);

/** Send what the session has, as far as the socket takes it.
 * @return as connection_turn() */
apr_status_t connection_flush(connection_t *connection, apr_time_t now);

/** For poll(): a descriptor, or -1, and the events to wait for; and when connection_turn() is to
 * be called without any. */
int connection_fd(const connection_t *connection);
short connection_events(const connection_t *connection);
apr_time_t connection_due(const connection_t *connection, apr_time_t now);

/** NULL until TLS is established. */
session_t *connection_session(const connection_t *connection);

const SSL_CTX *connection_tls(const connection_t *connection);
connection_fate_t connection_fate(const connection_t *connection);
const char *connection_why(const connection_t *connection);

#endif
