/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* See lookup.h. getaddrinfo_a() has threads of its own in the C library, so that a process may end
 * while a resolver does not answer. There is one look-up at a time. */
#include "lookup.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lookup_t {
    struct gaicb request;
    struct addrinfo hints;
    char port[8];
    int running;
    int failed; /* of the last one; 0 or an EAI_… */
    apr_time_t ended;
    lookup_addresses_t addresses;
    char host[];
};

apr_status_t lookup_create(lookup_t **out, const char *host, int port)
{
    lookup_t *lookup = calloc(1, sizeof(*lookup) + strlen(host) + 1);

    if (lookup == NULL) {
        return APR_ENOMEM;
    }
    memcpy(lookup->host, host, strlen(host) + 1);
    snprintf(lookup->port, sizeof(lookup->port), "%d", port);
    lookup->hints.ai_socktype = SOCK_STREAM;
    lookup->request.ar_name = lookup->host;
    lookup->request.ar_service = lookup->port;
    lookup->request.ar_request = &lookup->hints;
    *out = lookup;
    return APR_SUCCESS;
}

void lookup_destroy(lookup_t *lookup)
{
    if (lookup->running) {
        gai_cancel(&lookup->request);
        if (gai_error(&lookup->request) == EAI_INPROGRESS) {
            return;
        }
        if (lookup->request.ar_result != NULL) {
            freeaddrinfo(lookup->request.ar_result);
        }
    }
    free(lookup);
}

static void begin(lookup_t *lookup)
{
    struct gaicb *list[] = {&lookup->request};

    lookup->request.ar_result = NULL;
    lookup->failed = getaddrinfo_a(GAI_NOWAIT, list, 1, NULL);
    lookup->running = lookup->failed == 0;
}

static void keep(lookup_t *lookup, const struct addrinfo *result)
{
    lookup_addresses_t *addresses = &lookup->addresses;

    addresses->count = 0;
    for (; result != NULL && addresses->count < LOOKUP_MAX; result = result->ai_next) {
        if (result->ai_addrlen <= sizeof(addresses->list[0].address)) {
            memcpy(&addresses->list[addresses->count].address, result->ai_addr, result->ai_addrlen);
            addresses->list[addresses->count++].len = result->ai_addrlen;
        }
    }
}

static void end(lookup_t *lookup, int error, apr_time_t now)
{
    lookup->running = 0;
    lookup->failed = error;
    lookup->ended = now;
    if (error == 0) {
        keep(lookup, lookup->request.ar_result);
        freeaddrinfo(lookup->request.ar_result);
    }
}

apr_status_t lookup_get(lookup_t *lookup, lookup_addresses_t *addresses, const char **why,
                        apr_time_t now)
{
    if (!lookup->running) {
        if (lookup->addresses.count > 0 && now - lookup->ended < LOOKUP_FRESH) {
            *addresses = lookup->addresses;
            return APR_SUCCESS;
        }
        lookup->addresses.count = 0;
        begin(lookup);
    }
    if (lookup->running) {
        int error = gai_error(&lookup->request);

        if (error == EAI_INPROGRESS) {
            return APR_EINPROGRESS;
        }
        end(lookup, error, now);
    }
    if (lookup->failed != 0 || lookup->addresses.count == 0) {
        *why = lookup->failed != 0 ? gai_strerror(lookup->failed) : "the name has no address";
        return APR_ENOENT;
    }
    *addresses = lookup->addresses;
    return APR_SUCCESS;
}
