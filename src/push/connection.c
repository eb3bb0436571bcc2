/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* See connection.h. A row of steps: look up the name, connect to one address after the other, ask
 * the proxy, shake hands, then HTTP/2 in both directions.
 */
#include "connection.h"

#include <apr_strings.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mdm_log.h"

#define LOOKUP_TIME_MAX apr_time_from_sec(15)
/* Until the next address is tried; and, once its TLS is there, until HTTP/2 begins. */
#define ADDRESS_MAX apr_time_from_sec(5)
/* A peer that is gone is noticed within quiet plus patience. */
#define QUIET_BUSY apr_time_from_sec(4) /* without a byte, while answers are due: ask by PING */
#define QUIET_IDLE apr_time_from_sec(60)
#define PATIENCE apr_time_from_sec(4)
/* Apple wants connections kept, and takes quick changes for an attack. */
#define IDLE_MAX apr_time_from_sec(3600)

#define RECORD 16384 /* of TLS */
#define OUT_SIZE (3 * RECORD)
#define READS_PER_TURN 64
#define PROXY_REPLY_MAX 4096

typedef enum { LOOKING_UP, CONNECTING, ASKING_PROXY, SHAKING_HANDS, OPEN } step_t;

struct connection_t {
    connection_config_t config;
    step_t step;
    lookup_addresses_t addresses;
    int address; /* the one that is tried */
    int fd;
    SSL *ssl;
    session_t *session;
    apr_time_t step_end; /* of the look-up, of an address, of the wait for HTTP/2 */
    apr_time_t heard;    /* the last byte */
    apr_time_t used;     /* the last time that requests were open */
    apr_time_t ping_end; /* 0: no PING is on its way */
    int is_up;           /* and the log says so, and the look-up knows the address */
    int wants_write;
    int has_more; /* bytes wait in OpenSSL, where poll() does not see them */
    connection_fate_t fate;
    char why[256];
    apr_size_t in_len; /* of the proxy's reply */
    apr_size_t out_len;
    apr_size_t out_at;
    unsigned char out[OUT_SIZE]; /* also, before TLS, the proxy's reply */
};

static apr_status_t over(connection_t *c, connection_fate_t fate, const char *why)
{
    c->fate = fate;
    apr_cpystrn(c->why, why, sizeof(c->why));
    return APR_EOF;
}

static apr_status_t over_os(connection_t *c, const char *what, int error)
{
    char buffer[120];

    c->fate = CONNECTION_BROKEN;
    apr_snprintf(c->why, sizeof(c->why), "%s: %s", what,
                 apr_strerror(error, buffer, sizeof(buffer)));
    return APR_EOF;
}

static apr_status_t over_tls(connection_t *c, int result, int os_error)
{
    tls_error_t error =
        tls_error(c->ssl, SSL_get_error(c->ssl, result), os_error, c->why, sizeof(c->why));

    if (error != TLS_BROKEN) {
        c->fate = CONNECTION_REFUSED;
    } else {
        c->fate =
            c->step == OPEN && !session_is_up(c->session) ? CONNECTION_MUTE : CONNECTION_BROKEN;
    }
    return APR_EOF;
}

/* ---- getting there ------------------------------------------------------------------------ */

static void close_socket(connection_t *c)
{
    SSL_free(c->ssl);
    c->ssl = NULL;
    if (c->fd >= 0) {
        close(c->fd);
        c->fd = -1;
    }
}

static int open_socket(connection_t *c)
{
    const struct sockaddr *address =
        (const struct sockaddr *)&c->addresses.list[c->address].address;
    int on = 1;

    c->fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        return errno;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (connect(c->fd, address, c->addresses.list[c->address].len) != 0 && errno != EINPROGRESS &&
        errno != EINTR) {
        return errno;
    }
    return 0;
}

/* Go to the next address that lets us begin; the error is of the last one. */
static apr_status_t next_address(connection_t *c, int error, apr_time_t now)
{
    while (++c->address < c->addresses.count) {
        close_socket(c);
        c->in_len = c->out_at = 0;
        error = open_socket(c);
        if (error == 0) {
            c->step = CONNECTING;
            c->step_end = now + ADDRESS_MAX;
            return APR_SUCCESS;
        }
    }
    return over_os(c, "cannot connect", error);
}

static apr_status_t look_up(connection_t *c, apr_time_t now)
{
    const char *why;
    apr_status_t status = lookup_get(c->config.lookup, &c->addresses, &why, now);

    if (status == APR_EINPROGRESS) {
        return now >= c->step_end ? over(c, CONNECTION_BROKEN, "the name look-up does not end")
                                  : APR_EAGAIN;
    }
    if (status != APR_SUCCESS) {
        const endpoint_t *endpoint = c->config.endpoint;

        c->fate = CONNECTION_BROKEN;
        apr_snprintf(c->why, sizeof(c->why), "cannot look up %s: %s",
                     endpoint->proxy_host != NULL ? endpoint->proxy_host : endpoint->host, why);
        return APR_EOF;
    }
    c->address = -1;
    return next_address(c, 0, now);
}

static apr_status_t begin_tls(connection_t *c)
{
    c->ssl = tls_begin(c->config.tls, c->fd, c->config.endpoint->host);
    if (c->ssl == NULL) {
        return over(c, CONNECTION_BROKEN, "there is no memory for TLS");
    }
    c->step = SHAKING_HANDS;
    return APR_SUCCESS;
}

static apr_status_t finish_connect(connection_t *c, int revents, apr_time_t now)
{
    int error = 0;
    socklen_t len = sizeof(error);

    if (!revents) {
        return APR_EAGAIN;
    }
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
        return next_address(c, error != 0 ? error : errno, now);
    }
    if (c->config.endpoint->proxy_hello != NULL) {
        c->step = ASKING_PROXY;
        return APR_SUCCESS;
    }
    return begin_tls(c);
}

/* @return APR_SUCCESS: the proxy has made the way */
static apr_status_t judge_proxy(connection_t *c)
{
    const char *reply = (const char *)c->out;
    int code;

    if (strncmp(reply, "HTTP/1.", 7) != 0 || strlen(reply) < 12) {
        return over(c, CONNECTION_BROKEN, "the proxy's answer is not HTTP");
    }
    code = atoi(reply + 9);
    if (code < 200 || code > 299) {
        c->fate = CONNECTION_BROKEN;
        apr_snprintf(c->why, sizeof(c->why), "the proxy answers CONNECT with HTTP status %d%s",
                     code, code == 407 ? ": user or password is wrong or missing" : "");
        return APR_EOF;
    }
    return APR_SUCCESS;
}

/* Byte by byte, so that nothing of what follows is taken; it is short. */
static apr_status_t read_proxy(connection_t *c)
{
    while (c->in_len < 4 || memcmp(c->out + c->in_len - 4, "\r\n\r\n", 4) != 0) {
        ssize_t n = recv(c->fd, c->out + c->in_len, 1, 0);

        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
            return APR_EAGAIN;
        }
        if (n < 0) {
            return over_os(c, "the proxy", errno);
        }
        if (n == 0 || ++c->in_len >= PROXY_REPLY_MAX) {
            return over(c, CONNECTION_BROKEN, "the proxy closed the connection or talks too much");
        }
    }
    c->out[c->in_len] = '\0';
    return judge_proxy(c);
}

static apr_status_t ask_proxy(connection_t *c)
{
    const char *hello = c->config.endpoint->proxy_hello;
    apr_status_t status;

    while (hello[c->out_at] != '\0') {
        ssize_t n = send(c->fd, hello + c->out_at, strlen(hello + c->out_at), MSG_NOSIGNAL);

        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
            return APR_EAGAIN;
        }
        if (n < 0) {
            return over_os(c, "the proxy", errno);
        }
        c->out_at += (apr_size_t)n;
    }
    status = read_proxy(c);
    return status == APR_SUCCESS ? begin_tls(c) : status;
}

static apr_status_t begin_http(connection_t *c, apr_time_t now)
{
    session_config_t config = {c->config.endpoint->authority, c->config.topic, c->config.end,
                               c->config.baton};
    const unsigned char *protocol;
    unsigned len;

    SSL_get0_alpn_selected(c->ssl, &protocol, &len);
    if (len != 2 || memcmp(protocol, "h2", 2) != 0) {
        return over(c, CONNECTION_BROKEN, "the server does not speak HTTP/2");
    }
    if (session_create(&c->session, &config) != APR_SUCCESS) {
        return over(c, CONNECTION_BROKEN, "there is no memory for HTTP/2");
    }
    c->out_len = c->out_at = 0;
    c->heard = c->used = now;
    c->step_end = now + ADDRESS_MAX;
    c->step = OPEN;
    return APR_SUCCESS;
}

static apr_status_t shake_hands(connection_t *c, apr_time_t now)
{
    int result, error;

    errno = 0;
    ERR_clear_error();
    result = SSL_do_handshake(c->ssl);
    if (result == 1) {
        return begin_http(c, now);
    }
    error = SSL_get_error(c->ssl, result);
    c->wants_write = error == SSL_ERROR_WANT_WRITE;
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        return APR_EAGAIN;
    }
    return over_tls(c, result, errno);
}

/* @return APR_SUCCESS once HTTP/2 may begin, APR_EAGAIN to wait */
static apr_status_t set_up(connection_t *c, int revents, apr_time_t now)
{
    apr_status_t status = APR_SUCCESS;

    while (status == APR_SUCCESS && c->step != OPEN) {
        switch (c->step) {
        case LOOKING_UP:
            status = look_up(c, now);
            revents = 0; /* of an address before */
            break;
        case CONNECTING:
            status = finish_connect(c, revents, now);
            break;
        case ASKING_PROXY:
            status = ask_proxy(c);
            break;
        case SHAKING_HANDS:
            status = shake_hands(c, now);
            break;
        case OPEN:
            break;
        }
        if (c->step == CONNECTING) {
            revents = 0; /* the next address has none yet */
        }
    }
    if (status == APR_EAGAIN && c->step != LOOKING_UP && now >= c->step_end) {
        status = next_address(c, ETIMEDOUT, now);
        status = status == APR_SUCCESS ? APR_EAGAIN : status;
    }
    return status;
}

/* ---- HTTP/2 ------------------------------------------------------------------------------- */

static apr_status_t receive(connection_t *c, apr_time_t now)
{
    unsigned char buffer[RECORD];
    const char *why;

    c->has_more = 0;
    for (int i = 0; i < READS_PER_TURN; i++) {
        int n, error;

        errno = 0;
        ERR_clear_error();
        n = SSL_read(c->ssl, buffer, sizeof(buffer));
        if (n <= 0) {
            error = SSL_get_error(c->ssl, n);
            return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE
                       ? APR_SUCCESS
                       : over_tls(c, n, errno);
        }
        c->heard = now;
        c->ping_end = 0;
        if (session_feed(c->session, buffer, (apr_size_t)n, &why) != APR_SUCCESS) {
            return over(c, CONNECTION_BROKEN, why);
        }
    }
    c->has_more = 1;
    return APR_SUCCESS;
}

/* Gather frames until a TLS record is full. */
static apr_status_t gather(connection_t *c)
{
    const unsigned char *bytes;
    apr_size_t len;

    c->out_len = c->out_at = 0;
    while (c->out_len < RECORD) {
        if (session_take(c->session, &bytes, &len) != APR_SUCCESS ||
            len > sizeof(c->out) - c->out_len) {
            return over(c, CONNECTION_BROKEN, "there is no memory for HTTP/2");
        }
        if (len == 0) {
            break;
        }
        memcpy(c->out + c->out_len, bytes, len);
        c->out_len += len;
    }
    return APR_SUCCESS;
}

static apr_status_t transmit(connection_t *c, apr_time_t now)
{
    apr_status_t status = APR_SUCCESS;

    c->wants_write = 0;
    while (status == APR_SUCCESS) {
        int n, error, os_error;

        if (c->out_at == c->out_len) {
            status = gather(c);
            if (status != APR_SUCCESS || c->out_len == 0) {
                return status;
            }
        }
        errno = 0;
        ERR_clear_error();
        n = SSL_write(c->ssl, c->out + c->out_at, (int)(c->out_len - c->out_at));
        os_error = errno;
        if (n > 0) {
            c->out_at += (apr_size_t)n;
            continue;
        }
        error = SSL_get_error(c->ssl, n);
        if (error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ) {
            c->wants_write = error == SSL_ERROR_WANT_WRITE;
            return APR_SUCCESS;
        }
        /* what the service said before it closed tells more than a broken pipe */
        status = receive(c, now);
        return status != APR_SUCCESS ? status : over_tls(c, n, os_error);
    }
    return status;
}

/* Is the peer alive, and is the connection still wanted? */
static apr_status_t look_after(connection_t *c, apr_time_t now)
{
    int busy = session_open(c->session) > 0;

    if (busy) {
        c->used = now;
    }
    if (!session_is_up(c->session)) {
        return now >= c->step_end ? over(c, CONNECTION_MUTE, "it does not begin HTTP/2")
                                  : APR_SUCCESS;
    }
    if (session_is_draining(c->session) && !busy) {
        return over(c, CONNECTION_DONE, "no more pushes are sent on it");
    }
    if (now - c->used >= IDLE_MAX) {
        return over(c, CONNECTION_DONE, "it was idle for long");
    }
    if (c->ping_end != 0 && now >= c->ping_end) {
        return over(c, CONNECTION_BROKEN, "the service does not answer any more");
    }
    if (c->ping_end == 0 && now - c->heard >= (busy ? QUIET_BUSY : QUIET_IDLE)) {
        session_ping(c->session);
        c->ping_end = now + PATIENCE;
    }
    return APR_SUCCESS;
}

static void note_up(connection_t *c)
{
    if (!c->is_up && session_is_up(c->session)) {
        c->is_up = 1;
        lookup_prefer(c->config.lookup, &c->addresses.list[c->address]);
        mdm_log(MDM_LOG_INFO, 0, "push %s: connected to %s%s%s, %s", c->config.topic,
                c->config.endpoint->authority,
                c->config.endpoint->proxy_host != NULL ? " by the proxy " : "",
                c->config.endpoint->proxy_host != NULL ? c->config.endpoint->proxy_host : "",
                SSL_get_version(c->ssl));
    }
}

apr_status_t connection_turn(connection_t *c, int revents, apr_time_t now)
{
    apr_status_t status = APR_SUCCESS;

    if (c->step != OPEN) {
        status = set_up(c, revents, now);
        if (status != APR_SUCCESS) {
            return status == APR_EAGAIN ? APR_SUCCESS : status;
        }
    }
    if (revents || c->has_more) {
        status = receive(c, now);
        note_up(c);
    }
    return status == APR_SUCCESS ? look_after(c, now) : status;
}

apr_status_t connection_flush(connection_t *c, apr_time_t now)
{
    return c->step == OPEN ? transmit(c, now) : APR_SUCCESS;
}

/* ---- the rest ----------------------------------------------------------------------------- */

apr_status_t connection_create(connection_t **out, const connection_config_t *config,
                               apr_time_t now)
{
    connection_t *c = calloc(1, sizeof(*c));

    if (c == NULL) {
        return APR_ENOMEM;
    }
    c->config = *config;
    c->fd = -1;
    c->step_end = now + LOOKUP_TIME_MAX;
    SSL_CTX_up_ref(config->tls);
    *out = c;
    return APR_SUCCESS;
}

void connection_destroy(connection_t *c)
{
    if (c->session != NULL) {
        if (c->fate == CONNECTION_DONE) {
            session_bye(c->session);
            transmit(c, 0);
            SSL_shutdown(c->ssl);
            ERR_clear_error();
        }
        session_destroy(c->session);
    }
    close_socket(c);
    SSL_CTX_free(c->config.tls);
    free(c);
}

int connection_fd(const connection_t *c)
{
    return c->fd;
}

short connection_events(const connection_t *c)
{
    int asking = c->step == ASKING_PROXY && c->config.endpoint->proxy_hello[c->out_at] != '\0';

    if (c->step == CONNECTING || asking) {
        return POLLOUT;
    }
    return c->wants_write ? POLLIN | POLLOUT : POLLIN;
}

apr_time_t connection_due(const connection_t *c, apr_time_t now)
{
    if (c->step == LOOKING_UP) {
        return now + LOOKUP_PAUSE;
    }
    if (c->step == OPEN && c->has_more) {
        return now;
    }
    if (c->step != OPEN || !session_is_up(c->session)) {
        return c->step_end;
    }
    if (c->ping_end != 0) {
        return c->ping_end;
    }
    return c->heard + (session_open(c->session) > 0 ? QUIET_BUSY : QUIET_IDLE);
}

session_t *connection_session(const connection_t *c)
{
    return c->session;
}

const SSL_CTX *connection_tls(const connection_t *c)
{
    return c->config.tls;
}

connection_fate_t connection_fate(const connection_t *c)
{
    return c->fate;
}

const char *connection_why(const connection_t *c)
{
    return c->why;
}
