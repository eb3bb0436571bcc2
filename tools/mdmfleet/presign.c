/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Writes complete HTTP/1.1 requests to a file, signed beforehand, for a load generator that can
 * send bytes as they are (t/bench/replay.lua does, for wrk). Each is preceded by a line with its
 * length in bytes and followed by a newline.
 */
#include <apr_strings.h>
#include <apr_thread_proc.h>
#include <errno.h>
#include <string.h>

#include "mdmfleet.h"

typedef struct presign_t {
    fleet_t *fleet;
    const fleet_options_t *opt;
    const char *path, *host;
    fleet_kind_t kind;
    int *devices;
    int n, share, shares; /* this thread makes every shares-th request, from share on */
    const char **requests;
    apr_pool_t *pool;
} presign_t;

static const struct {
    const char *name;
    fleet_kind_t kind;
} kinds[] = {{"idle", FLEET_IDLE},
             {"result", FLEET_ACKNOWLEDGED},
             {"not-now", FLEET_NOT_NOW},
             {"authenticate", FLEET_AUTHENTICATE},
             {"token-update", FLEET_TOKEN_UPDATE}};

static fleet_kind_t kind_of(const char *name)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        if (!strcmp(name, kinds[i].name))
            return kinds[i].kind;
    fleet_die("--message takes idle, result, not-now, authenticate or token-update");
}

/* Request number i: the devices in turn, then the next command. */
static const char *make_request(const presign_t *p, int i)
{
    const fleet_device_t *device = fleet_device(p->fleet, p->devices[i % p->n]);
    int report = p->kind != FLEET_AUTHENTICATE && p->kind != FLEET_TOKEN_UPDATE;
    int command = p->kind == FLEET_ACKNOWLEDGED || p->kind == FLEET_NOT_NOW;
    const char *uuid =
        command ? apr_psprintf(p->pool, "%s%06d", p->opt->uuid_prefix, i / p->n) : NULL;
    const char *body =
        fleet_message(p->fleet, device, p->kind, uuid, p->opt->request_type, p->pool);
    const char *identity =
        fleet_identity_header(p->fleet, device, p->opt, body, strlen(body), p->pool);
    return apr_psprintf(p->pool,
                        "PUT %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: MDM/1.0 mdmfleet\r\n"
                        "Content-Type: application/x-apple-aspen-mdm%s\r\n"
                        "Content-Length: %" APR_SIZE_T_FMT "\r\n%s%s\r\n%s",
                        p->path, p->host, report ? "" : "-checkin", strlen(body),
                        identity ? identity : "", identity ? "\r\n" : "", body);
}

static void *APR_THREAD_FUNC make_share(apr_thread_t *thread, void *baton)
{
    presign_t *p = baton;
    int total = p->n * p->opt->commands;
    for (int i = p->share; i < total && !fleet_stop; i += p->shares)
        p->requests[i] = make_request(p, i);
    apr_thread_exit(thread, APR_SUCCESS);
    return NULL;
}

/* Split a URL into host (with port) and path. */
static void split_url(presign_t *p, const char *url)
{
    const char *host = strstr(url, "://"), *path;
    if (!host)
        fleet_die("%s is not a URL", url);
    host += 3;
    path = strchr(host, '/');
    p->path = path ? path : "/";
    p->host = path ? apr_pstrmemdup(p->pool, host, (apr_size_t)(path - host)) : host;
}

static void write_requests(const presign_t *p, int total)
{
    FILE *out = fopen(p->opt->out, "w");
    if (!out)
        fleet_die("cannot write %s: %s", p->opt->out, strerror(errno));
    for (int i = 0; i < total; i++)
        fprintf(out, "%" APR_SIZE_T_FMT "\n%s\n", strlen(p->requests[i]), p->requests[i]);
    if (ferror(out) || fclose(out) != 0)
        fleet_die("cannot write %s: %s", p->opt->out, strerror(errno));
}

int fleet_presign(fleet_t *fleet, const fleet_options_t *opt)
{
    presign_t base = {.fleet = fleet, .opt = opt, .pool = fleet->pool}, *shares;
    apr_thread_t **threads;
    apr_status_t status;
    int count = fleet_count(fleet, opt), total, n = opt->concurrency;
    base.kind = kind_of(opt->message);
    base.devices = apr_palloc(fleet->pool, (apr_size_t)(count ? count : 1) * sizeof(int));
    for (int i = 0; i < count; i++)
        if (base.kind == FLEET_AUTHENTICATE ? !fleet_device(fleet, i)->user
                                            : fleet_device(fleet, i)->enrolled)
            base.devices[base.n++] = i;
    if (base.n == 0)
        fleet_die("no device of this fleet is enrolled: run \"mdmfleet enroll\" first");
    total = base.n * opt->commands;
    split_url(&base,
              APR_ARRAY_IDX(base.kind == FLEET_AUTHENTICATE || base.kind == FLEET_TOKEN_UPDATE
                                ? opt->checkin_urls
                                : opt->mdm_urls,
                            0, const char *));
    base.requests = apr_pcalloc(fleet->pool, (apr_size_t)total * sizeof(char *));
    shares = apr_pcalloc(fleet->pool, (apr_size_t)n * sizeof(*shares));
    threads = apr_pcalloc(fleet->pool, (apr_size_t)n * sizeof(apr_thread_t *));
    for (int i = 0; i < n; i++) {
        shares[i] = base;
        shares[i].share = i;
        shares[i].shares = n;
        apr_pool_create(&shares[i].pool, fleet->pool);
        if (apr_thread_create(&threads[i], NULL, make_share, &shares[i], fleet->pool))
            fleet_die("cannot start thread %d of %d: use a lower --concurrency", i + 1, n);
    }
    for (int i = 0; i < n; i++)
        apr_thread_join(&status, threads[i]);
    if (fleet_stop)
        fleet_die("stopped");
    write_requests(&base, total);
    return total;
}
