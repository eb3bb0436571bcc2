/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* NanoMDMDump: message bodies in a file, or in a pipe to a program, for debugging. All processes
 * and virtual hosts write to the same ones, a record at a time: a body is larger than what a pipe
 * takes in one piece. A device's request comes first: what is not taken soon is dropped.
 */
#include "nanomdm.h"

#include <apr_atomic.h>
#include <apr_global_mutex.h>
#include <apr_portable.h>
#include <apr_strings.h>
#include <errno.h>
#include <fcntl.h>
#include <http_core.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <util_mutex.h>

#include "mdm_clock.h"
#include "mdm_log.h"

#define MUTEX_TYPE "nanomdm-dump"

/* How long a record may wait for those of others and for the program at the end of the pipe. */
#define WAIT_MS 1000

struct nanomdm_dump_t {
    const char *name;
    int fd; /* or -1 */
    apr_global_mutex_t *mutex;

    /* of this process */
    apr_uint32_t stuck;   /* the last record was dropped: the next one does not wait */
    apr_uint32_t dropped; /* records, since that was told */
    apr_uint32_t told;    /* for mdm_log_due() */
};

/* While one configuration is read, by one thread; then only looked at. */
static apr_array_header_t *dumps; /* nanomdm_dump_t * */

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
    dump = apr_pcalloc(pool, sizeof(*dump));
    dump->name = apr_pstrdup(pool, name);
    dump->fd = -1;
    APR_ARRAY_PUSH(dumps, nanomdm_dump_t *) = dump;
    return dump;
}

void nanomdm_dump_reset(apr_pool_t *pconf)
{
    dumps = NULL;
    ap_mutex_register(pconf, MUTEX_TYPE, NULL, APR_LOCK_DEFAULT, 0);
}

int nanomdm_dump_check(server_rec *s, apr_pool_t *ptemp)
{
    int failed = 0;

    for (int i = 0; dumps != NULL && i < dumps->nelts; i++) {
        const nanomdm_dump_t *dump = APR_ARRAY_IDX(dumps, i, nanomdm_dump_t *);
        struct stat info;

        if (*dump->name != '|' && stat(ap_make_dirstr_parent(ptemp, dump->name), &info) != 0 &&
            (errno == ENOENT || errno == ENOTDIR)) {
            ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, 0, s,
                         "NanoMDMDump: the directory of %s does not exist: make it, or name "
                         "another file",
                         dump->name);
            failed = 1;
        }
    }
    return failed;
}

/* -- Opening ------------------------------------------------------------------------------ */

static apr_status_t open_pipe(int *fd, const char *program, apr_pool_t *pconf)
{
    piped_log *pipe = ap_open_piped_log(pconf, program);

    return pipe != NULL ? apr_os_file_get(fd, ap_piped_log_write_fd(pipe)) : APR_EGENERAL;
}

/* A file that is there already may be for a group, but is not for everybody. */
static apr_status_t open_file(int *fd, const char *name, apr_pool_t *pconf)
{
    apr_file_t *file;
    struct stat info;
    apr_status_t status = apr_file_open(
        &file, name, APR_FOPEN_WRITE | APR_FOPEN_APPEND | APR_FOPEN_CREATE | APR_FOPEN_LARGEFILE,
        APR_FPROT_UREAD | APR_FPROT_UWRITE, pconf);

    if (status == APR_SUCCESS) {
        status = apr_os_file_get(fd, file);
    }
    if (status == APR_SUCCESS && fstat(*fd, &info) == 0 && S_ISREG(info.st_mode) &&
        (info.st_mode & S_IRWXO) != 0 && fchmod(*fd, info.st_mode & 07770) != 0) {
        status = errno;
    }
    return status;
}

static apr_status_t open_dump(nanomdm_dump_t *dump, int number, apr_pool_t *pconf, server_rec *s)
{
    int fd = -1;
    apr_status_t status = *dump->name == '|' ? open_pipe(&fd, dump->name + 1, pconf)
                                             : open_file(&fd, dump->name, pconf);

    /* This end only: the program waits as it likes. */
    if (status == APR_SUCCESS && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) {
        status = errno;
    }
    /* One for each, so that they do not wait for each other. */
    if (status == APR_SUCCESS) {
        status = ap_global_mutex_create(&dump->mutex, NULL, MUTEX_TYPE, apr_itoa(pconf, number), s,
                                        pconf, 0);
    }
    if (status == APR_SUCCESS) {
        dump->fd = fd;
    }
    return status;
}

int nanomdm_dump_open(apr_pool_t *pconf, server_rec *s)
{
    int failed = 0;

    for (int i = 0; dumps != NULL && i < dumps->nelts; i++) {
        nanomdm_dump_t *dump = APR_ARRAY_IDX(dumps, i, nanomdm_dump_t *);
        apr_status_t status = open_dump(dump, i, pconf, s);

        if (status != APR_SUCCESS) {
            ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, status, s,
                         "NanoMDMDump: %s cannot be opened: nothing is dumped there", dump->name);
            failed = 1;
        }
    }
    return failed;
}

void nanomdm_dump_child_init(apr_pool_t *pchild, server_rec *s)
{
    for (int i = 0; dumps != NULL && i < dumps->nelts; i++) {
        nanomdm_dump_t *dump = APR_ARRAY_IDX(dumps, i, nanomdm_dump_t *);
        apr_status_t status = APR_SUCCESS;

        if (dump->fd >= 0) {
            status = apr_global_mutex_child_init(&dump->mutex,
                                                 apr_global_mutex_lockfile(dump->mutex), pchild);
        }
        if (status != APR_SUCCESS) {
            ap_log_error(APLOG_MARK, APLOG_CRIT, status, s,
                         "NanoMDMDump: no lock, nothing is dumped to %s", dump->name);
            dump->fd = -1;
        }
    }
}

/* -- Writing ------------------------------------------------------------------------------ */

/* @return 0 once it takes more, APR_TIMEUP if it did not until then */
static int wait_for(int fd, apr_time_t end)
{
    struct pollfd pollfd = {fd, POLLOUT, 0};
    apr_interval_time_t left;
    int ready = 0;

    do {
        left = end - mdm_clock();
        ready = poll(&pollfd, 1, left > 0 ? (int)apr_time_as_msec(left) + 1 : 0);
    } while (ready < 0 && errno == EINTR);
    return ready > 0 ? 0 : ready == 0 ? APR_TIMEUP : errno;
}

/* @return 0, APR_TIMEUP, or errno */
static int write_all(int fd, struct iovec *parts, int count, apr_time_t end)
{
    while (count > 0) {
        ssize_t written = writev(fd, parts, count);

        if (written < 0) {
            int error = errno == EAGAIN ? wait_for(fd, end) : errno;

            if (error != 0 && error != EINTR) {
                return error;
            }
            continue;
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

/* After a record that was dropped, the next one only waits if it can at least begin. */
static int write_record(nanomdm_dump_t *dump, struct iovec *parts, int count)
{
    int stuck = apr_atomic_read32(&dump->stuck) != 0;
    apr_time_t end = mdm_clock() + apr_time_from_msec(WAIT_MS);
    int error = apr_global_mutex_timedlock(dump->mutex, stuck ? 0 : apr_time_from_msec(WAIT_MS));

    if (error == APR_SUCCESS) {
        if (stuck) {
            error = wait_for(dump->fd, 0);
        }
        if (error == 0) {
            error = write_all(dump->fd, parts, count, end);
        }
        apr_global_mutex_unlock(dump->mutex);
    }
    return error;
}

/* Each record begins with a line end: the one before may be cut, by lack of space or of time, or
 * with its process. */
void nanomdm_dump(request_rec *r, const char *enrollment_id, const char *direction,
                  const char *body, apr_size_t len)
{
    nanomdm_dump_t *dump = nanomdm_server(r->server)->dump;
    apr_time_exp_t now;
    const char *head;
    int error;

    if (dump == NULL || dump->fd < 0) {
        return;
    }
    apr_time_exp_gmt(&now, apr_time_now());
    head = apr_psprintf(
        r->pool,
        "\n== %04d-%02d-%02dT%02d:%02d:%02d.%06dZ %s id=\"%s\" trace=%s bytes=%" APR_SIZE_T_FMT
        "\n",
        now.tm_year + 1900, now.tm_mon + 1, now.tm_mday, now.tm_hour, now.tm_min, now.tm_sec,
        now.tm_usec, direction, ap_escape_logitem(r->pool, enrollment_id), nanomdm_trace_id(r),
        len);
    struct iovec parts[] = {
        {(void *)head, strlen(head)}, {(void *)(body != NULL ? body : ""), len}, {(void *)"\n", 1}};

    error = write_record(dump, parts, 3);
    apr_atomic_set32(&dump->stuck, error != 0);
    if (error != 0) {
        apr_atomic_inc32(&dump->dropped);
    }
    if (apr_atomic_read32(&dump->dropped) != 0 && mdm_log_due(&dump->told)) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, error, r,
                      "NanoMDMDump: %s: records that this process has dropped since it last said "
                      "so: %u",
                      dump->name, apr_atomic_xchg32(&dump->dropped, 0));
    }
}
