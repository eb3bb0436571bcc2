/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* See session.h. Source: RFC 9113; Apple, "Sending notification requests to APNs". */
#include "session.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mdm_log.h"
#include "mdm_status.h"

/* How much answers may fill before the service has to wait for us, which it never should. */
#define WINDOW (1024 * 1024)
/* A longer answer is not read to its end. */
#define ANSWER_LIMIT 65536

struct session_stream_t {
    session_stream_t *prev;
    session_stream_t *next;
    int32_t id;
    void *push; /* NULL: cancelled */
    int code;
    int ended;  /* the answer is complete */
    int unsent; /* the request never left */
    char apns_id[64];
    char *answer; /* made with the first byte: success has none */
    apr_size_t answer_len;
    apr_size_t received;
    apr_size_t body_at;
    apr_size_t body_len;
    char body[];
};

typedef session_stream_t stream_t;

struct session_t {
    session_config_t config;
    nghttp2_session *h2;
    stream_t *streams;
    int open;
    int up;
    int answered;
    int draining;
};

/* ---- the trace ---------------------------------------------------------------------------- */

static const char *frame_name(int type)
{
    static const char *const names[] = {"DATA",       "HEADERS",  "PRIORITY",
                                        "RST_STREAM", "SETTINGS", "PUSH_PROMISE",
                                        "PING",       "GOAWAY",   "WINDOW_UPDATE"};

    return type >= 0 && type < (int)(sizeof(names) / sizeof(names[0])) ? names[type] : "frame";
}

static unsigned error_of(const nghttp2_frame *frame)
{
    return frame->hd.type == NGHTTP2_RST_STREAM ? frame->rst_stream.error_code
           : frame->hd.type == NGHTTP2_GOAWAY   ? frame->goaway.error_code
                                                : 0;
}

/* Never what a frame holds: it may be a token or a magic. */
static void trace(const session_t *session, const char *verb, const nghttp2_frame *frame)
{
    mdm_log(MDM_LOG_DEBUG, 0, "push %s: %s %s stream=%d length=%u flags=0x%02x error=%u",
            session->config.topic, verb, frame_name(frame->hd.type), (int)frame->hd.stream_id,
            (unsigned)frame->hd.length, frame->hd.flags, error_of(frame));
}

/* ---- streams ------------------------------------------------------------------------------ */

static stream_t *stream_make(session_t *session, void *push, const char *body, apr_size_t len)
{
    stream_t *stream = malloc(sizeof(*stream) + len);

    if (stream == NULL) {
        return NULL;
    }
    memset(stream, 0, sizeof(*stream));
    stream->push = push;
    stream->body_len = len;
    memcpy(stream->body, body, len);
    stream->next = session->streams;
    if (stream->next != NULL) {
        stream->next->prev = stream;
    }
    session->streams = stream;
    session->open++;
    return stream;
}

static void stream_free(session_t *session, stream_t *stream)
{
    *(stream->prev != NULL ? &stream->prev->next : &session->streams) = stream->next;
    if (stream->next != NULL) {
        stream->next->prev = stream->prev;
    }
    session->open--;
    free(stream->answer);
    free(stream);
}

static void stream_end(session_t *session, stream_t *stream, session_outcome_t outcome)
{
    session_answer_t answer = {stream->code, stream->apns_id, stream->answer, stream->answer_len};
    void *push = stream->push;

    if (push != NULL) {
        session->config.end(session->config.baton, push, outcome,
                            outcome == SESSION_ANSWERED ? &answer : NULL);
    }
    stream_free(session, stream);
}

static stream_t *stream_of(const session_t *session, int32_t id)
{
    return id > 0 ? nghttp2_session_get_stream_user_data(session->h2, id) : NULL;
}

/* ---- nghttp2's callbacks ------------------------------------------------------------------ */

static int on_frame_send(nghttp2_session *h2, const nghttp2_frame *frame, void *baton)
{
    (void)h2;
    trace(baton, "sent", frame);
    return 0;
}

static int on_frame_not_send(nghttp2_session *h2, const nghttp2_frame *frame, int error,
                             void *baton)
{
    stream_t *stream = stream_of(baton, frame->hd.stream_id);

    (void)h2;
    (void)error;
    if (stream != NULL && frame->hd.type == NGHTTP2_HEADERS) {
        stream->unsent = 1;
    }
    return 0;
}

/* The reason is JSON by Apple's servers, and what a stranger wrote in any case. */
static void log_goaway(const session_t *session, const nghttp2_goaway *goaway)
{
    char reason[128];
    size_t len =
        goaway->opaque_data_len < sizeof(reason) - 1 ? goaway->opaque_data_len : sizeof(reason) - 1;

    for (size_t i = 0; i < len; i++) {
        unsigned char c = goaway->opaque_data[i];

        reason[i] = c >= ' ' && c < 127 ? (char)c : '?';
    }
    reason[len] = '\0';
    mdm_log(MDM_LOG_INFO, 0, "push %s: the service ends the connection (GOAWAY, error %u)%s%s",
            session->config.topic, goaway->error_code, len > 0 ? ": " : "", reason);
}

static int on_frame_recv(nghttp2_session *h2, const nghttp2_frame *frame, void *baton)
{
    session_t *session = baton;
    stream_t *stream = stream_of(session, frame->hd.stream_id);

    (void)h2;
    trace(session, "received", frame);
    if (frame->hd.type == NGHTTP2_SETTINGS && !(frame->hd.flags & NGHTTP2_FLAG_ACK)) {
        session->up = 1;
    } else if (frame->hd.type == NGHTTP2_GOAWAY) {
        log_goaway(session, &frame->goaway);
        session->draining = 1;
    } else if (stream != NULL && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) &&
               (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA)) {
        stream->ended = 1;
    }
    return 0;
}

static int is_name(const uint8_t *name, size_t len, const char *wanted)
{
    return len == strlen(wanted) && memcmp(name, wanted, len) == 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *baton)
{
    stream_t *stream = stream_of(baton, frame->hd.stream_id);

    (void)h2;
    (void)flags;
    if (stream == NULL) {
        return 0;
    }
    if (is_name(name, name_len, ":status")) {
        /* nghttp2 has seen to it that these are three digits, and ends the value with a 0 */
        stream->code = atoi((const char *)value);
    } else if (is_name(name, name_len, "apns-id") && value_len < sizeof(stream->apns_id)) {
        for (size_t i = 0; i < value_len; i++) {
            stream->apns_id[i] = value[i] > ' ' && value[i] < 127 ? (char)value[i] : '?';
        }
        stream->apns_id[value_len] = '\0';
    }
    return 0;
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
                   void *baton)
{
    stream_t *stream = stream_of(baton, id);
    apr_size_t room;

    (void)flags;
    if (stream == NULL || stream->ended) {
        return 0;
    }
    stream->received += len;
    if (stream->received > ANSWER_LIMIT) {
        stream->ended = 1; /* the status is known, which is what counts */
        return nghttp2_submit_rst_stream(h2, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL) == 0
                   ? 0
                   : NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    if (stream->answer == NULL && (stream->answer = malloc(SESSION_ANSWER_MAX)) == NULL) {
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    room = SESSION_ANSWER_MAX - stream->answer_len;
    len = len < room ? len : room;
    memcpy(stream->answer + stream->answer_len, data, len);
    stream->answer_len += len;
    return 0;
}

static int on_stream_close(nghttp2_session *h2, int32_t id, uint32_t error, void *baton)
{
    session_t *session = baton;
    stream_t *stream = stream_of(session, id);

    (void)h2;
    if (stream == NULL) {
        return 0;
    }
    if (stream->ended && stream->code >= 200) {
        session->answered = 1;
        stream_end(session, stream, SESSION_ANSWERED);
    } else if (error == NGHTTP2_REFUSED_STREAM || stream->unsent) {
        /* also a GOAWAY that does not include the stream */
        stream_end(session, stream, SESSION_UNPROCESSED);
    } else {
        stream_end(session, stream, SESSION_LOST);
    }
    return 0;
}

static ssize_t read_body(nghttp2_session *h2, int32_t id, uint8_t *to, size_t max,
                         uint32_t *data_flags, nghttp2_data_source *source, void *baton)
{
    stream_t *stream = source->ptr;
    size_t len = stream->body_len - stream->body_at;

    (void)h2;
    (void)id;
    (void)baton;
    len = len < max ? len : max;
    memcpy(to, stream->body + stream->body_at, len);
    stream->body_at += len;
    if (stream->body_at == stream->body_len) {
        *data_flags |= NGHTTP2_DATA_FLAG_EOF;
    }
    return (ssize_t)len;
}

/* ---- the session -------------------------------------------------------------------------- */

static int make_h2(session_t *session)
{
    static const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0}};
    nghttp2_session_callbacks *callbacks;
    int error = nghttp2_session_callbacks_new(&callbacks);

    if (error != 0) {
        return error;
    }
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_send);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    error = nghttp2_session_client_new(&session->h2, callbacks, session);
    nghttp2_session_callbacks_del(callbacks);
    if (error == 0) {
        error = nghttp2_submit_settings(session->h2, NGHTTP2_FLAG_NONE, settings, 1);
    }
    if (error == 0) {
        error = nghttp2_session_set_local_window_size(session->h2, NGHTTP2_FLAG_NONE, 0, WINDOW);
    }
    return error;
}

apr_status_t session_create(session_t **out, const session_config_t *config)
{
    session_t *session = calloc(1, sizeof(*session));

    if (session == NULL) {
        return APR_ENOMEM;
    }
    session->config = *config;
    if (make_h2(session) != 0) {
        session_destroy(session);
        return APR_ENOMEM;
    }
    *out = session;
    return APR_SUCCESS;
}

void session_destroy(session_t *session)
{
    while (session->streams != NULL) {
        stream_end(session, session->streams, SESSION_LOST);
    }
    nghttp2_session_del(session->h2);
    free(session);
}

apr_status_t session_feed(session_t *session, const unsigned char *bytes, apr_size_t len,
                          const char **why)
{
    ssize_t taken = nghttp2_session_mem_recv(session->h2, bytes, len);

    if (taken < 0) {
        *why = nghttp2_strerror((int)taken);
        return APR_EGENERAL;
    }
    return APR_SUCCESS;
}

apr_status_t session_take(session_t *session, const unsigned char **bytes, apr_size_t *len)
{
    ssize_t n = nghttp2_session_mem_send(session->h2, bytes);

    if (n < 0) {
        return APR_ENOMEM;
    }
    *len = (apr_size_t)n;
    return APR_SUCCESS;
}

int session_room(const session_t *session)
{
    uint32_t most;

    if (!session->up || session->draining) {
        return 0;
    }
    most =
        nghttp2_session_get_remote_settings(session->h2, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
    if (most > SESSION_STREAMS_MAX) {
        most = SESSION_STREAMS_MAX;
    }
    return (int)most > session->open ? (int)most - session->open : 0;
}

int session_open(const session_t *session)
{
    return session->open;
}

int session_is_up(const session_t *session)
{
    return session->up;
}

int session_has_answered(const session_t *session)
{
    return session->answered;
}

/* Also once nghttp2 itself has given the connection up, after an error of the service's. */
int session_is_draining(const session_t *session)
{
    return session->draining ||
           (!nghttp2_session_want_read(session->h2) && !nghttp2_session_want_write(session->h2));
}

void session_drain(session_t *session)
{
    session->draining = 1;
}

/* {"mdm":"MAGIC"}, with what JSON wants escaped.
 * @return its length, or 0 if the magic is too long */
static apr_size_t make_body(char *to, const char *magic)
{
    char *at = to;

    if (strlen(magic) > SESSION_MAGIC_MAX) {
        return 0;
    }
    at += sprintf(at, "{\"mdm\":\"");
    for (; *magic != '\0'; magic++) {
        unsigned char c = (unsigned char)*magic;

        if (c == '"' || c == '\\') {
            *at++ = '\\';
            *at++ = (char)c;
        } else if (c < ' ') {
            at += sprintf(at, "\\u%04x", c);
        } else {
            *at++ = (char)c;
        }
    }
    at += sprintf(at, "\"}");
    return (apr_size_t)(at - to);
}

static nghttp2_nv header(const char *name, const char *value, uint8_t flags)
{
    nghttp2_nv nv = {(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value),
                     (uint8_t)(flags | NGHTTP2_NV_FLAG_NO_COPY_NAME)};

    return nv;
}

apr_status_t session_push(session_t *session, session_stream_t **out, void *push, const char *token,
                          const char *magic, apr_int64_t expiration)
{
    char body[SESSION_MAGIC_MAX * 6 + 16];
    char path[512];
    char until[24];
    apr_size_t body_len = make_body(body, magic);
    nghttp2_data_provider provider = {.read_callback = read_body};
    stream_t *stream;
    int32_t id;

    if (body_len == 0 || snprintf(path, sizeof(path), "/3/device/%s", token) >= (int)sizeof(path)) {
        return MDM_EINPUT;
    }
    snprintf(until, sizeof(until), "%lld", (long long)expiration);
    if (session_room(session) <= 0) {
        return APR_EAGAIN;
    }
    stream = stream_make(session, push, body, body_len);
    if (stream == NULL) {
        return APR_ENOMEM;
    }
    provider.source.ptr = stream;
    {
        /* a token is used once, and is nobody's business: not for the compressor's table */
        const nghttp2_nv headers[] = {
            header(":method", "POST", NGHTTP2_NV_FLAG_NONE),
            header(":scheme", "https", NGHTTP2_NV_FLAG_NONE),
            header(":authority", session->config.authority, NGHTTP2_NV_FLAG_NONE),
            header(":path", path, NGHTTP2_NV_FLAG_NO_INDEX),
            header("apns-push-type", "mdm", NGHTTP2_NV_FLAG_NONE),
            header("apns-topic", session->config.topic, NGHTTP2_NV_FLAG_NONE),
            header("apns-priority", "10", NGHTTP2_NV_FLAG_NONE),
            header("apns-expiration", until, NGHTTP2_NV_FLAG_NONE),
        };

        id = nghttp2_submit_request(session->h2, NULL, headers,
                                    sizeof(headers) / sizeof(headers[0]), &provider, stream);
    }
    if (id < 0) {
        stream_free(session, stream);
        if (id == NGHTTP2_ERR_NOMEM) {
            return APR_ENOMEM;
        }
        session->draining = 1; /* its stream ids are used up */
        return APR_EAGAIN;
    }
    stream->id = id;
    *out = stream;
    return APR_SUCCESS;
}

/* It may not have been sent yet: nghttp2 then drops it from its queue. */
void session_cancel(session_t *session, session_stream_t *stream)
{
    stream->push = NULL;
    nghttp2_submit_rst_stream(session->h2, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_CANCEL);
}

void session_ping(session_t *session)
{
    nghttp2_submit_ping(session->h2, NGHTTP2_FLAG_NONE, NULL);
}

void session_bye(session_t *session)
{
    nghttp2_session_terminate_session(session->h2, NGHTTP2_NO_ERROR);
}
