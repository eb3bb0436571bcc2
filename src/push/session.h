/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* One HTTP/2 connection to the push service as an engine without input or output: bytes are fed to
 * it and taken from it. Turns pushes into requests and says how each ended. Knows nghttp2 and
 * Apple's headers; neither sockets, TLS, nor who waits for a push.
 */
#ifndef PUSH_SESSION_H
#define PUSH_SESSION_H

#include <apr_errno.h>
#include <apr_time.h>

/** Longest body of an answer that is looked at, in bytes; Apple's have about 60. */
#define SESSION_ANSWER_MAX 1024
/** Most requests at once, however many the service would take. */
#define SESSION_STREAMS_MAX 2000
/** Longest push magic, in bytes, so that a request stays below Apple's 4 KB. */
#define SESSION_MAGIC_MAX 512

typedef struct session_t session_t;

/** A request that has not ended yet. */
typedef struct session_stream_t session_stream_t;

typedef enum {
    SESSION_ANSWERED,
    SESSION_UNPROCESSED, /* the service did not look at it: send it again */
    SESSION_LOST         /* nobody knows */
} session_outcome_t;

typedef struct session_answer_t {
    int code;            /* HTTP status */
    const char *apns_id; /* "" if there was none */
    const char *body;    /* not terminated; cut at SESSION_ANSWER_MAX */
    apr_size_t body_len;
} session_answer_t;

/** Called once for each request that was not cancelled; the session must not be destroyed in it.
 * @param answer  with SESSION_ANSWERED, until the call returns; else NULL */
typedef void session_end_t(void *baton, void *push, session_outcome_t outcome,
                           const session_answer_t *answer);

typedef struct session_config_t {
    const char *authority; /* these two must outlive the session */
    const char *topic;
    session_end_t *end;
    void *baton;
} session_config_t;

/** @return APR_ENOMEM */
apr_status_t session_create(session_t **out, const session_config_t *config);

/** Ends what is open as SESSION_LOST. */
void session_destroy(session_t *session);

/** Take what the service sent.
 * @return APR_EGENERAL: the service breaks the protocol, or there is no memory; *why says it */
apr_status_t session_feed(session_t *session, const unsigned char *bytes, apr_size_t len,
                          const char **why);

/** The next bytes to send, valid until the next call; *len is 0 if there is nothing.
 * @return APR_ENOMEM */
apr_status_t session_take(session_t *session, const unsigned char **bytes, apr_size_t *len);

/** How many more requests may be opened now: none before the service's first SETTINGS and none
 * after its GOAWAY. */
int session_room(const session_t *session);

/** Requests that are open, cancelled ones too until that was sent. */
int session_open(const session_t *session);

/** Whether the service's SETTINGS have come; whether it has answered any request. */
int session_is_up(const session_t *session);
int session_has_answered(const session_t *session);

/** Whether no requests are taken any more: because the service said so, with its reason, or
 * session_drain() was called. */
int session_is_draining(const session_t *session);
void session_drain(session_t *session);

/** Open a request.
 *
 * @param stream      for session_cancel()
 * @param expiration  in seconds since 1970; 0: the service shall not keep the push
 * @return APR_EAGAIN: there was no room; APR_ENOMEM; MDM_EINPUT: the magic cannot be sent
 */
apr_status_t session_push(session_t *session, session_stream_t **stream, void *push,
                          const char *token, const char *magic, apr_int64_t expiration);

/** Give up a request; it will not be told to have ended. */
void session_cancel(session_t *session, session_stream_t *stream);

/** Send a PING. */
void session_ping(session_t *session);

/** Tell the service that this is the end, in the bytes that are taken next. */
void session_bye(session_t *session);

#endif
