/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* apnsd: plays Apple's push service for tests and measurements. HTTP/2 over TLS with client
 * certificates, thousands of delayed answers at once, in one thread. It prints its port once it
 * listens, on a line of its own, and runs until SIGTERM; SIGUSR1 sends GOAWAY on all connections
 * and lets what they have end.
 *
 * Requests are checked as Apple does, and a token of zeros is BadDeviceToken; a topic that is not
 * the UID of the certificate's subject, if that has one, is TopicDisallowed. The token says what
 * the answer is. Most are taken: 200. Those that begin with ffff and these digits are not; "once"
 * means that the same token is taken the next time: 0400  400 BadDeviceToken             1400  400
 * DeviceTokenNotForTopic 0403  403 BadCertificate             1403  403 BadCertificateEnvironment
 *   0404  404 BadPath                    0413  413 PayloadTooLarge
 *   0410  410 Unregistered, with the timestamp 1454402113000; 1410 with the present time
 *   2410  410 ExpiredToken, likewise
 *   0429  429 TooManyRequests once       1429  always
 *   0500  500 InternalServerError once   1500  always
 *   0503  503 ServiceUnavailable once    1503  always
 *   a001  the stream is reset once       a011  always
 *   a002  REFUSED_STREAM once            a012  always
 *   a003  silence
 *   a004  the connection is closed once  a014  always
 *   a005  400 with 100 KB                a006  400 that is not JSON
 *   a007  GOAWAY with a reason in JSON, which leaves the request out; once
 *   dNNN  200, NNN times 10 ms later than others (decimal)
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <nghttp2/nghttp2.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RECORD 16384
#define BODY_MAX 4096
#define BIG_ANSWER 100000

typedef struct peer_t peer_t;

typedef struct stream_t {
    peer_t *peer;
    int32_t id;
    struct stream_t *prev_open, *next_open; /* of the peer */
    struct stream_t *prev_due, *next_due;   /* those that wait for their answer */
    int is_due;
    int64_t due;
    char method[8], path[512], topic[256], type[16], priority[8], expiration[24];
    char *body;
    size_t body_len;
    int code;
    char answer[256];
    size_t answer_len, answer_at;
} stream_t;

struct peer_t {
    peer_t *next;
    int fd;
    SSL *ssl;
    nghttp2_session *h2;
    stream_t *open;
    char name[128], uid[128], serial[64];
    unsigned char out[3 * RECORD];
    size_t out_len, out_at;
    int wants_write, dead, mute;
    int answered;
};

static struct {
    int port, delay, max_streams, goaway_after, mute, log_flush;
    const char *cert, *key, *ca, *log_name;
} opt = {.max_streams = 1000};

static FILE *log_file;
static SSL_CTX *tls;
static peer_t *peers;
static stream_t *first_due, *last_due;
static volatile sig_atomic_t stop, goaway;

static void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("apnsd: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    ERR_print_errors_fp(stderr);
    exit(2);
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- tokens that have had their "once" ------------------------------------------------------ */

typedef struct seen_t {
    struct seen_t *next;
    char token[];
} seen_t;

static seen_t *seen;

static int first_time(const char *token)
{
    seen_t *s;

    for (s = seen; s != NULL; s = s->next) {
        if (strcmp(s->token, token) == 0) {
            return 0;
        }
    }
    s = malloc(sizeof(*s) + strlen(token) + 1);
    if (s == NULL) {
        die("no memory");
    }
    strcpy(s->token, token);
    s->next = seen;
    seen = s;
    return 1;
}

/* ---- streams -------------------------------------------------------------------------------- */

static void due_remove(stream_t *s)
{
    if (s->is_due) {
        *(s->prev_due != NULL ? &s->prev_due->next_due : &first_due) = s->next_due;
        *(s->next_due != NULL ? &s->next_due->prev_due : &last_due) = s->prev_due;
        s->is_due = 0;
    }
}

/* Nearly always the last. */
static void due_insert(stream_t *s, int64_t due)
{
    stream_t *before = last_due;

    while (before != NULL && before->due > due) {
        before = before->prev_due;
    }
    s->due = due;
    s->is_due = 1;
    s->prev_due = before;
    s->next_due = before != NULL ? before->next_due : first_due;
    *(before != NULL ? &before->next_due : &first_due) = s;
    *(s->next_due != NULL ? &s->next_due->prev_due : &last_due) = s;
}

static stream_t *stream_make(peer_t *peer, int32_t id)
{
    stream_t *s = calloc(1, sizeof(*s));

    if (s == NULL) {
        die("no memory");
    }
    s->peer = peer;
    s->id = id;
    s->next_open = peer->open;
    if (s->next_open != NULL) {
        s->next_open->prev_open = s;
    }
    peer->open = s;
    return s;
}

static void stream_free(stream_t *s)
{
    due_remove(s);
    *(s->prev_open != NULL ? &s->prev_open->next_open : &s->peer->open) = s->next_open;
    if (s->next_open != NULL) {
        s->next_open->prev_open = s->prev_open;
    }
    free(s->body);
    free(s);
}

static ssize_t read_answer(nghttp2_session *h2, int32_t id, uint8_t *to, size_t max,
                           uint32_t *flags, nghttp2_data_source *source, void *baton)
{
    stream_t *s = source->ptr;
    size_t len = s->answer_len - s->answer_at;

    (void)h2, (void)id, (void)baton;
    len = len < max ? len : max;
    for (size_t i = 0; i < len; i++) {
        size_t at = s->answer_at + i;

        to[i] = at < sizeof(s->answer) ? (uint8_t)s->answer[at] : ' ';
    }
    s->answer_at += len;
    if (s->answer_at == s->answer_len) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    }
    return (ssize_t)len;
}

static nghttp2_nv header(const char *name, const char *value)
{
    nghttp2_nv nv = {(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value),
                     NGHTTP2_NV_FLAG_NONE};

    return nv;
}

static void answer(stream_t *s)
{
    static unsigned long count;
    char code[8], id[64];
    nghttp2_data_provider provider = {{.ptr = s}, read_answer};
    peer_t *peer = s->peer;

    snprintf(code, sizeof(code), "%d", s->code);
    snprintf(id, sizeof(id), "00000000-0000-4000-8000-%012lX", ++count);
    {
        const nghttp2_nv headers[] = {header(":status", code), header("apns-id", id)};

        nghttp2_submit_response(peer->h2, s->id, headers, 2, s->answer_len ? &provider : NULL);
    }
    peer->answered++;
    if (opt.goaway_after > 0 && peer->answered == opt.goaway_after) {
        nghttp2_submit_goaway(peer->h2, NGHTTP2_FLAG_NONE,
                              nghttp2_session_get_last_proc_stream_id(peer->h2), NGHTTP2_NO_ERROR,
                              NULL, 0);
    }
}

static void say(stream_t *s, int code, const char *reason)
{
    s->code = code;
    if (code != 200) {
        s->answer_len =
            (size_t)snprintf(s->answer, sizeof(s->answer), "{\"reason\":\"%s\"}", reason);
    }
}

/* @param since  in milliseconds, 0: now */
static void say_gone(stream_t *s, const char *reason, long long since)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    s->code = 410;
    s->answer_len =
        (size_t)snprintf(s->answer, sizeof(s->answer), "{\"reason\":\"%s\",\"timestamp\":%lld}",
                         reason, since ? since : now.tv_sec * 1000LL + now.tv_nsec / 1000000);
}

/* @return NULL, or what Apple would call it */
static const char *fault_of(const stream_t *s, int *code)
{
    const char *token = s->path + 10;

    *code = 400;
    if (strcmp(s->method, "POST") != 0) {
        *code = 405;
        return "MethodNotAllowed";
    }
    if (strncmp(s->path, "/3/device/", 10) != 0) {
        *code = 404;
        return "BadPath";
    }
    if (strspn(token, "0") == strlen(token) ||
        strspn(token, "0123456789abcdefABCDEF") != strlen(token)) {
        return "BadDeviceToken";
    }
    if (*s->topic == '\0') {
        return "MissingTopic";
    }
    if (*s->peer->uid != '\0' && strcmp(s->topic, s->peer->uid) != 0) {
        return "TopicDisallowed";
    }
    if (strcmp(s->type, "mdm") != 0) {
        return "InvalidPushType";
    }
    if (strcmp(s->priority, "10") != 0) {
        return "BadPriority";
    }
    if (*s->expiration == '\0' || strspn(s->expiration, "0123456789") != strlen(s->expiration)) {
        return "BadExpirationDate";
    }
    if (s->body == NULL || strncmp(s->body, "{\"mdm\":\"", 8) != 0 ||
        strcmp(s->body + s->body_len - 2, "\"}") != 0) {
        return "PayloadEmpty";
    }
    return NULL;
}

static void reset(const stream_t *s, uint32_t error)
{
    nghttp2_submit_rst_stream(s->peer->h2, NGHTTP2_FLAG_NONE, s->id, error);
}

/* What the token asks for beyond a plain answer.
 * @return 1 if there is nothing to answer */
static int misbehave(stream_t *s, const char *token, const char *code)
{
    static const char reason[] = "{\"reason\":\"Shutdown\"}";
    int now = code[2] == '1' || first_time(token);

    if (strncmp(code, "a003", 4) == 0) {
        return 1;
    }
    if (!now) {
        return 0;
    }
    switch (code[3]) {
    case '1':
        reset(s, NGHTTP2_INTERNAL_ERROR);
        return 1;
    case '2':
        reset(s, NGHTTP2_REFUSED_STREAM);
        return 1;
    case '4':
        s->peer->dead = 1;
        return 1;
    case '5':
        say(s, 400, "BadMessageId");
        memset(s->answer + s->answer_len, ' ', sizeof(s->answer) - s->answer_len);
        s->answer_len = BIG_ANSWER;
        return 0;
    case '6':
        say(s, 400, "");
        s->answer_len = (size_t)snprintf(s->answer, sizeof(s->answer), "<html>");
        return 0;
    case '7':
        nghttp2_submit_goaway(s->peer->h2, NGHTTP2_FLAG_NONE, s->id - 2 > 0 ? s->id - 2 : 0,
                              NGHTTP2_NO_ERROR, (const uint8_t *)reason, sizeof(reason) - 1);
        return 1;
    default:
        return 0;
    }
}

/* @return 1 if there is nothing to answer */
static int choose(stream_t *s, int64_t *delay)
{
    static const struct {
        const char *token;
        int code;
        const char *reason;
    } answers[] = {
        {"0400", 400, "BadDeviceToken"},
        {"1400", 400, "DeviceTokenNotForTopic"},
        {"0403", 403, "BadCertificate"},
        {"1403", 403, "BadCertificateEnvironment"},
        {"0404", 404, "BadPath"},
        {"0410", 410, "Unregistered"},
        {"1410", 410, "Unregistered"},
        {"2410", 410, "ExpiredToken"},
        {"0413", 413, "PayloadTooLarge"},
        {"1429", 429, "TooManyRequests"},
        {"1500", 500, "InternalServerError"},
        {"1503", 503, "ServiceUnavailable"},
    };
    const char *token = s->path + 10;
    const char *code = token + 4;
    int status;
    const char *fault = fault_of(s, &status);

    say(s, 200, NULL);
    if (fault != NULL) {
        say(s, status, fault);
        return 0;
    }
    if (strncmp(token, "ffff", 4) != 0 || strlen(token) < 8) {
        return 0;
    }
    if (code[0] == 'd') {
        char number[4] = {code[1], code[2], code[3], '\0'};

        *delay += 10 * atoi(number);
        return 0;
    }
    if (code[0] == 'a') {
        return misbehave(s, token, code);
    }
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        int same = strncmp(answers[i].token, code, 4) == 0;
        int once = code[0] == '0' && answers[i].token[0] == '1' &&
                   strncmp(answers[i].token + 1, code + 1, 3) == 0 && answers[i].code >= 429;

        if (same && answers[i].code == 410) {
            say_gone(s, answers[i].reason, code[0] == '0' ? 1454402113000 : 0);
        } else if (same || (once && first_time(token))) {
            say(s, answers[i].code, answers[i].reason);
        }
    }
    return 0;
}

static void take_request(stream_t *s)
{
    int64_t delay = opt.delay;
    int silent = choose(s, &delay);

    if (log_file != NULL) {
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        fprintf(log_file, "%lld.%03ld\t%s\t%s\t%s\t%s\t%s\t%s\n", (long long)now.tv_sec,
                now.tv_nsec / 1000000, s->topic,
                strncmp(s->path, "/3/device/", 10) == 0 ? s->path + 10 : s->path, s->peer->name,
                s->peer->serial, s->expiration, s->body != NULL ? s->body : "");
        opt.log_flush = 1;
    }
    if (!silent && delay > 0) {
        due_insert(s, now_ms() + delay);
    } else if (!silent) {
        answer(s);
    }
}

/* ---- nghttp2's callbacks -------------------------------------------------------------------- */

static int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *baton)
{
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        nghttp2_session_set_stream_user_data(h2, frame->hd.stream_id,
                                             stream_make(baton, frame->hd.stream_id));
    }
    return 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *baton)
{
    stream_t *s = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);

    (void)name_len, (void)value_len, (void)flags, (void)baton;
    if (s != NULL) {
        const struct {
            const char *name;
            char *to;
            size_t size;
        } wanted[] = {{":method", s->method, sizeof(s->method)},
                      {":path", s->path, sizeof(s->path)},
                      {"apns-topic", s->topic, sizeof(s->topic)},
                      {"apns-push-type", s->type, sizeof(s->type)},
                      {"apns-priority", s->priority, sizeof(s->priority)},
                      {"apns-expiration", s->expiration, sizeof(s->expiration)}};

        for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
            if (strcmp((const char *)name, wanted[i].name) == 0) {
                snprintf(wanted[i].to, wanted[i].size, "%s", (const char *)value);
            }
        }
    }
    return 0;
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
                   void *baton)
{
    stream_t *s = nghttp2_session_get_stream_user_data(h2, id);

    (void)flags, (void)baton;
    if (s == NULL || s->body_len + len > BODY_MAX) {
        return 0;
    }
    s->body = realloc(s->body, s->body_len + len + 1);
    if (s->body == NULL) {
        die("no memory");
    }
    memcpy(s->body + s->body_len, data, len);
    s->body_len += len;
    s->body[s->body_len] = '\0';
    return 0;
}

static int on_frame_recv(nghttp2_session *h2, const nghttp2_frame *frame, void *baton)
{
    (void)baton;
    if ((frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
        stream_t *s = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);

        if (s != NULL) {
            take_request(s);
        }
    }
    return 0;
}

static int on_stream_close(nghttp2_session *h2, int32_t id, uint32_t error, void *baton)
{
    stream_t *s = nghttp2_session_get_stream_user_data(h2, id);

    (void)error, (void)baton;
    if (s != NULL) {
        stream_free(s);
    }
    return 0;
}

/* ---- connections ---------------------------------------------------------------------------- */

static void begin_http(peer_t *peer)
{
    nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, (uint32_t)opt.max_streams}};
    nghttp2_session_callbacks *callbacks;
    X509 *x509 = SSL_get1_peer_certificate(peer->ssl);

    if (x509 != NULL) {
        X509_NAME *subject = X509_get_subject_name(x509);
        BIGNUM *serial = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x509), NULL);
        char *hex = BN_bn2hex(serial);

        X509_NAME_get_text_by_NID(subject, NID_commonName, peer->name, sizeof(peer->name));
        X509_NAME_get_text_by_NID(subject, NID_userId, peer->uid, sizeof(peer->uid));
        snprintf(peer->serial, sizeof(peer->serial), "%s", hex);
        OPENSSL_free(hex);
        BN_free(serial);
        X509_free(x509);
    }
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_server_new(&peer->h2, callbacks, peer);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(peer->h2, NGHTTP2_FLAG_NONE, settings, 1);
    nghttp2_session_set_local_window_size(peer->h2, NGHTTP2_FLAG_NONE, 0, 1 << 24);
}

static int shake_hands(peer_t *peer)
{
    int result, error;

    ERR_clear_error();
    result = SSL_do_handshake(peer->ssl);
    if (result == 1) {
        begin_http(peer);
        return 1;
    }
    error = SSL_get_error(peer->ssl, result);
    peer->wants_write = error == SSL_ERROR_WANT_WRITE;
    if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) {
        peer->dead = 1;
    }
    return 0;
}

static void receive(peer_t *peer)
{
    unsigned char buffer[RECORD];
    int n;

    while (!peer->dead) {
        ERR_clear_error();
        n = SSL_read(peer->ssl, buffer, sizeof(buffer));
        if (n <= 0) {
            int error = SSL_get_error(peer->ssl, n);

            peer->dead = error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE;
            return;
        }
        if (nghttp2_session_mem_recv(peer->h2, buffer, (size_t)n) < 0) {
            peer->dead = 1;
        }
    }
}

static void transmit(peer_t *peer)
{
    const uint8_t *bytes;
    ssize_t len;
    int n;

    peer->wants_write = 0;
    while (!peer->mute) {
        if (peer->out_at == peer->out_len) {
            peer->out_at = peer->out_len = 0;
            while (peer->out_len < RECORD &&
                   (len = nghttp2_session_mem_send(peer->h2, &bytes)) > 0) {
                memcpy(peer->out + peer->out_len, bytes, (size_t)len);
                peer->out_len += (size_t)len;
            }
            if (peer->out_len == 0) {
                break;
            }
        }
        ERR_clear_error();
        n = SSL_write(peer->ssl, peer->out + peer->out_at, (int)(peer->out_len - peer->out_at));
        if (n <= 0) {
            int error = SSL_get_error(peer->ssl, n);

            peer->wants_write = error == SSL_ERROR_WANT_WRITE;
            peer->dead |= error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE;
            return;
        }
        peer->out_at += (size_t)n;
    }
    if (!nghttp2_session_want_read(peer->h2) && !nghttp2_session_want_write(peer->h2)) {
        peer->dead = 1;
    }
}

static void peer_free(peer_t *peer)
{
    peer_t **at = &peers;

    while (*at != peer) {
        at = &(*at)->next;
    }
    *at = peer->next;
    while (peer->open != NULL) {
        stream_free(peer->open);
    }
    nghttp2_session_del(peer->h2);
    SSL_shutdown(peer->ssl);
    ERR_clear_error();
    SSL_free(peer->ssl);
    close(peer->fd);
    free(peer);
}

static void take_connection(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    peer_t *peer;

    if (fd < 0) {
        return;
    }
    peer = calloc(1, sizeof(*peer));
    if (peer == NULL || (peer->ssl = SSL_new(tls)) == NULL) {
        die("no memory");
    }
    peer->fd = fd;
    SSL_set_fd(peer->ssl, fd);
    SSL_set_accept_state(peer->ssl);
    peer->mute = opt.mute > 0 && opt.mute-- > 0;
    peer->next = peers;
    peers = peer;
}

static void peer_turn(peer_t *peer, int revents)
{
    if (peer->h2 == NULL && (!revents || !shake_hands(peer))) {
        return;
    }
    if (revents & ~POLLOUT) {
        receive(peer);
    }
}

/* ---- the program ---------------------------------------------------------------------------- */

static void on_signal(int number)
{
    if (number == SIGUSR1) {
        goaway = 1;
    } else {
        stop = 1;
    }
}

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                           const unsigned char *in, unsigned in_len, void *baton)
{
    (void)ssl, (void)baton;
    return nghttp2_select_next_protocol((unsigned char **)out, out_len, in, in_len) == 1
               ? SSL_TLSEXT_ERR_OK
               : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static void make_tls(void)
{
    tls = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION);
    if (SSL_CTX_use_certificate_chain_file(tls, opt.cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls, opt.key, SSL_FILETYPE_PEM) != 1) {
        die("certificate or key cannot be used");
    }
    if (opt.ca != NULL) {
        if (SSL_CTX_load_verify_locations(tls, opt.ca, NULL) != 1) {
            die("the authority's file cannot be used");
        }
        SSL_CTX_set_verify(tls, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(tls, 0);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_alpn_select_cb(tls, choose_protocol, NULL);
}

static int listen_here(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(fd, 128) != 0 || getsockname(fd, (struct sockaddr *)&address, &len) != 0) {
        die("cannot listen on port %d: %s", opt.port, strerror(errno));
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void send_goaway(void)
{
    goaway = 0;
    for (peer_t *peer = peers; peer != NULL; peer = peer->next) {
        if (peer->h2 != NULL) {
            nghttp2_submit_goaway(peer->h2, NGHTTP2_FLAG_NONE,
                                  nghttp2_session_get_last_proc_stream_id(peer->h2),
                                  NGHTTP2_NO_ERROR, NULL, 0);
        }
    }
}

static int wait_for_events(struct pollfd **polls, int listener)
{
    static int size;
    int count = 1, pause = 1000;

    for (peer_t *peer = peers; peer != NULL; peer = peer->next) {
        count++;
    }
    if (count > size) {
        size = count * 2;
        *polls = realloc(*polls, sizeof(**polls) * (size_t)size);
        if (*polls == NULL) {
            die("no memory");
        }
    }
    count = 0;
    (*polls)[count++] = (struct pollfd){listener, POLLIN, 0};
    for (peer_t *peer = peers; peer != NULL; peer = peer->next) {
        (*polls)[count++] =
            (struct pollfd){peer->fd, peer->wants_write ? POLLIN | POLLOUT : POLLIN, 0};
    }
    if (first_due != NULL) {
        int64_t left = first_due->due - now_ms();

        pause = left < 0 ? 0 : left < pause ? (int)left : pause;
    }
    return poll(*polls, (nfds_t)count, pause);
}

static void serve(int listener)
{
    struct pollfd *polls = NULL;

    while (!stop) {
        int ready = wait_for_events(&polls, listener) > 0;
        int at = 1;
        int64_t now;
        peer_t *next;

        for (peer_t *peer = peers; ready && peer != NULL; peer = peer->next) {
            peer_turn(peer, polls[at++].revents);
        }
        now = now_ms();
        while (first_due != NULL && first_due->due <= now) {
            stream_t *s = first_due;

            due_remove(s);
            answer(s);
        }
        if (goaway) {
            send_goaway();
        }
        if (opt.log_flush) { /* before anybody has the answers */
            opt.log_flush = 0;
            fflush(log_file);
        }
        for (peer_t *peer = peers; peer != NULL; peer = next) {
            next = peer->next;
            if (peer->h2 != NULL && !peer->dead) {
                transmit(peer);
            }
            if (peer->dead) {
                peer_free(peer);
            }
        }
        if (ready && (polls[0].revents & POLLIN)) {
            take_connection(listener);
        }
    }
    while (peers != NULL) {
        peer_free(peers);
    }
    free(polls);
}

static void usage(int status)
{
    fputs(
        "apnsd --cert FILE --key FILE [options]: plays Apple's push service\n"
        "  --ca FILE         authority of the clients' certificates, which are then required\n"
        "  --port N          default 0: a free one; it is printed\n"
        "  --delay MS        before each answer\n"
        "  --max-streams N   at once on a connection (default 1000)\n"
        "  --goaway-after N  answers, on each connection\n"
        "  --mute N          the first N connections hear nothing after the handshake\n"
        "  --log FILE        a line per request: time, topic, token, certificate's CN and serial\n"
        "                    number, expiration, body\n"
        "Tokens that ask for other answers than 200: see the head of t/peer/apnsd.c.\n",
        status ? stderr : stdout);
    exit(status);
}

static void read_options(int argc, char **argv)
{
    static const struct option options[] = {{"cert", required_argument, NULL, 'c'},
                                            {"key", required_argument, NULL, 'k'},
                                            {"ca", required_argument, NULL, 'a'},
                                            {"port", required_argument, NULL, 'p'},
                                            {"delay", required_argument, NULL, 'd'},
                                            {"max-streams", required_argument, NULL, 'm'},
                                            {"goaway-after", required_argument, NULL, 'g'},
                                            {"mute", required_argument, NULL, 'u'},
                                            {"log", required_argument, NULL, 'l'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'c':
            opt.cert = optarg;
            break;
        case 'k':
            opt.key = optarg;
            break;
        case 'a':
            opt.ca = optarg;
            break;
        case 'p':
            opt.port = atoi(optarg);
            break;
        case 'd':
            opt.delay = atoi(optarg);
            break;
        case 'm':
            opt.max_streams = atoi(optarg);
            break;
        case 'g':
            opt.goaway_after = atoi(optarg);
            break;
        case 'u':
            opt.mute = atoi(optarg);
            break;
        case 'l':
            opt.log_name = optarg;
            break;
        case 'h':
            usage(0);
            break;
        default:
            usage(2);
        }
    }
    if (opt.cert == NULL || opt.key == NULL) {
        usage(2);
    }
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    int listener;

    read_options(argc, argv);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (opt.log_name != NULL && (log_file = fopen(opt.log_name, "a")) == NULL) {
        die("cannot open %s", opt.log_name);
    }
    make_tls();
    listener = listen_here();
    serve(listener);
    close(listener);
    SSL_CTX_free(tls);
    while (seen != NULL) {
        seen_t *s = seen;

        seen = s->next;
        free(s);
    }
    return log_file != NULL && fclose(log_file) != 0;
}
