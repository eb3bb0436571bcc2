/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* NanoMDMDump: message bodies in a file, or in a pipe to a program, for debugging. All processes
 * and virtual hosts write to the same ones, a record at a time: a body is larger than what a pipe
 * takes in one piece.
 */
#include "nanomdm.h"

#include <apr_global_mutex.h>
#include <apr_portable.h>
#include <apr_strings.h>
#include <errno.h>
#include <http_core.h>
#include <sys/uio.h>
#include <unistd.h>
#include <util_mutex.h>

#define MUTEX_TYPE "nanomdm-dump"

struct nanomdm_dump_t {
    const char *name;
    int fd;
};

/* While one configuration is read, by one thread; then only looked at. */
static apr_array_header_t *dumps; /* nanomdm_dump_t * */
static apr_global_mutex_t *mutex;

nanomdm_dump_t *nanomdm_dump_note(const char *name, apr_pool_t *pool)
{
    nanomdm_dump_t *dump;

    if (dumps == NULL) {
        dumps = apr_array_make(pool, 1, sizeof(dump));
    }
    for (int i = 0; i < dumps->nelts; i++) {
        dump = APR_ARRAY_IDX(dumps, i, nanomdm_dump_t *);
        if (strcmp(dump->name, name) == 0) {
            return dump;
        }
    }
    dump = apr_palloc(pool, sizeof(*dump));
    dump->name = apr_pstrdup(pool, name);
    dump->fd = -1;
    APR_ARRAY_PUSH(dumps, nanomdm_dump_t *) = dump;
    return dump;
}

void nanomdm_dump_reset(apr_pool_t *pconf)
{
    dumps = NULL;
    mutex = NULL;
    ap_mutex_register(pconf, MUTEX_TYPE, NULL, APR_LOCK_DEFAULT, 0);
}

static apr_status_t open_dump(nanomdm_dump_t *dump, apr_pool_t *pconf)
{
    apr_file_t *file;
    apr_status_t status = APR_SUCCESS;

    if (*dump->name == '|') {
        piped_log *pipe = ap_open_piped_log(pconf, dump->name + 1);

        if (pipe == NULL) {
            return APR_EGENERAL;
        }
        file = ap_piped_log_write_fd(pipe);
    } else {
        status = apr_file_open(&file, dump->name,
                               APR_FOPEN_WRITE | APR_FOPEN_APPEND | APR_FOPEN_CREATE |
                                   APR_FOPEN_LARGEFILE,
                               APR_FPROT_UREAD | APR_FPROT_UWRITE, pconf);
    }
    return status == APR_SUCCESS ? apr_os_file_get(&dump->fd, file) : status;
}

int nanomdm_dump_open(apr_pool_t *pconf, server_rec *s)
{
    int failed = 0;

    if (dumps == NULL) {
        return 0;
    }
    for (int i = 0; i < dumps->nelts; i++) {
        nanomdm_dump_t *dump = APR_ARRAY_IDX(dumps, i, nanomdm_dump_t *);
        apr_status_t status = open_dump(dump, pconf);

        if (status != APR_SUCCESS) {
            ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, status, s,
                         "NanoMDMDump: %s cannot be opened", dump->name);
            failed = 1;
        }
    }
    return failed ||
           ap_global_mutex_create(&mutex, NULL, MUTEX_TYPE, NULL, s, pconf, 0) != APR_SUCCESS;
}

void nanomdm_dump_child_init(apr_pool_t *pchild, server_rec *s)
{
    apr_status_t status;

    if (mutex == NULL) {
        return;
    }
    status = apr_global_mutex_child_init(&mutex, apr_global_mutex_lockfile(mutex), pchild);
    if (status != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, status, s, "NanoMDMDump: no lock, nothing is dumped");
        mutex = NULL;
    }
}

/* @return 0, or errno */
static int write_all(int fd, struct iovec *parts, int count)
{
    while (count > 0) {
        ssize_t written = writev(fd, parts, count);

        if (written < 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno;
        }
        while (count > 0 && (size_t)written >= parts->iov_len) {
            written -= (ssize_t)parts->iov_len;
            parts++;
            count--;
        }
        if (count > 0) {
            parts->iov_base = (char *)parts->iov_base + written;
            parts->iov_len -= (size_t)written;
        }
    }
    return 0;
}

void nanomdm_dump(request_rec *r, const char *enrollment_id, const char *direction,
                  const char *body, apr_size_t len)
{
    const nanomdm_dump_t *dump = nanomdm_server(r->server)->dump;
    apr_time_exp_t now;
    const char *head;
    int error;

    if (dump == NULL || dump->fd < 0 || mutex == NULL) {
        return;
    }
    apr_time_exp_gmt(&now, apr_time_now());
    head = apr_psprintf(
        r->pool,
        "== %04d-%02d-%02dT%02d:%02d:%02d.%06dZ %s id=\"%s\" trace=%s bytes=%" APR_SIZE_T_FMT "\n",
        now.tm_year + 1900, now.tm_mon + 1, now.tm_mday, now.tm_hour, now.tm_min, now.tm_sec,
        now.tm_usec, direction, ap_escape_logitem(r->pool, enrollment_id), nanomdm_trace_id(r),
        len);
    struct iovec parts[] = {
        {(void *)head, strlen(head)}, {(void *)(body != NULL ? body : ""), len}, {(void *)"\n", 1}};

    if (apr_global_mutex_lock(mutex) != APR_SUCCESS) {
        return;
    }
    error = write_all(dump->fd, parts, 3);
    apr_global_mutex_unlock(mutex);
    if (error != 0) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, error, r, "NanoMDMDump: %s", dump->name);
    }
}
