/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The addresses of one host, looked up without holding up the loop. Knows the resolver; not what
 * the addresses are for. For one thread.
 */
#ifndef PUSH_LOOKUP_H
#define PUSH_LOOKUP_H

#include <apr_errno.h>
#include <apr_time.h>
#include <sys/socket.h>

#define LOOKUP_MAX 8 /* addresses that are tried */

typedef struct lookup_t lookup_t;

typedef struct lookup_address_t {
    struct sockaddr_storage address;
    socklen_t len;
} lookup_address_t;

typedef struct lookup_addresses_t {
    int count;
    lookup_address_t list[LOOKUP_MAX];
} lookup_addresses_t;

/** @param host  a name or an address; copied
 *  @return APR_ENOMEM */
apr_status_t lookup_create(lookup_t **out, const char *host, int port);

/** A look-up that still runs ends by itself. */
void lookup_destroy(lookup_t *lookup);

/** The host's addresses, at most LOOKUP_FRESH old; begins to look when there are none.
 *
 * @param now  of mdm_clock()
 * @return APR_EINPROGRESS: ask again after LOOKUP_PAUSE; APR_ENOENT: it has none, or no resolver
 *         answers, with the reason in *why
 */
apr_status_t lookup_get(lookup_t *lookup, lookup_addresses_t *addresses, const char **why,
                        apr_time_t now);

/** From now on give this address first, as long as the host has it: it is known to answer. */
void lookup_prefer(lookup_t *lookup, const lookup_address_t *address);

#define LOOKUP_FRESH apr_time_from_sec(10)
#define LOOKUP_PAUSE apr_time_from_msec(5)

#endif
