/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* See lookup.h. A resolver may take its time, so each look-up has a short-lived thread of its own;
 * there is one at a time. */
#include "lookup.h"

#include <dlfcn.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { RUNNING, READY, ABANDONED } query_state_t;

/* Belongs to the thread and to who asked; the last to be done with it frees it. */
typedef struct query_t {
    atomic_int state;
    int error; /* 0 or an EAI_… */
    struct addrinfo *result;
    char port[8];
    char host[];
} query_t;

struct lookup_t {
    query_t *query; /* NULL: none runs */
    int port;
    int failed; /* of the last one; 0 or an EAI_… */
    apr_time_t ended;
    lookup_addresses_t addresses;
    lookup_address_t preferred; /* its len is 0: none yet */
    char host[];
};

static void query_free(query_t *query)
{
    if (query->result != NULL) {
        freeaddrinfo(query->result);
    }
    free(query);
}

static void *query_run(void *data)
{
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    query_t *query = data;

    query->error = getaddrinfo(query->host, query->port, &hints, &query->result);
    if (query->error != 0) {
        query->result = NULL;
    }
    if (atomic_exchange(&query->state, READY) == ABANDONED) {
        query_free(query);
    }
    return NULL;
}

/* The process's signals are not for this thread. */
static int start_thread(query_t *query)
{
    pthread_attr_t detached;
    pthread_t thread;
    sigset_t all, before;
    int error;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    error = pthread_create(&thread, &detached, query_run, query);
    pthread_attr_destroy(&detached);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static query_t *query_start(const char *host, int port)
{
    query_t *query = calloc(1, sizeof(*query) + strlen(host) + 1);

    if (query == NULL) {
        return NULL;
    }
    memcpy(query->host, host, strlen(host) + 1);
    snprintf(query->port, sizeof(query->port), "%d", port);
    if (start_thread(query) != 0) {
        free(query);
        return NULL;
    }
    return query;
}

apr_status_t lookup_create(lookup_t **out, const char *host, int port)
{
    lookup_t *lookup = calloc(1, sizeof(*lookup) + strlen(host) + 1);

    if (lookup == NULL) {
        return APR_ENOMEM;
    }
    memcpy(lookup->host, host, strlen(host) + 1);
    lookup->port = port;
    *out = lookup;
    return APR_SUCCESS;
}

/* A thread that outlives us must find its code: at the end of a process, httpd unloads modules. */
static void stay_loaded(void)
{
    Dl_info info;

    if (dladdr((void *)(size_t)query_run, &info) != 0 && info.dli_fname != NULL) {
        dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
    }
}

void lookup_destroy(lookup_t *lookup)
{
    if (lookup->query != NULL) {
        if (atomic_load(&lookup->query->state) == RUNNING) {
            stay_loaded();
        }
        if (atomic_exchange(&lookup->query->state, ABANDONED) == READY) {
            query_free(lookup->query);
        }
    }
    free(lookup);
}

static void keep(lookup_addresses_t *addresses, const struct addrinfo *result)
{
    addresses->count = 0;
    for (; result != NULL && addresses->count < LOOKUP_MAX; result = result->ai_next) {
        if (result->ai_addrlen <= sizeof(addresses->list[0].address)) {
            memcpy(&addresses->list[addresses->count].address, result->ai_addr, result->ai_addrlen);
            addresses->list[addresses->count++].len = result->ai_addrlen;
        }
    }
}

static void put_preferred_first(lookup_t *lookup)
{
    const lookup_address_t *preferred = &lookup->preferred;
    lookup_addresses_t *addresses = &lookup->addresses;

    for (int i = 1; i < addresses->count; i++) {
        lookup_address_t *at = &addresses->list[i];

        if (at->len == preferred->len && memcmp(&at->address, &preferred->address, at->len) == 0) {
            *at = addresses->list[0];
            addresses->list[0] = *preferred;
            return;
        }
    }
}

void lookup_prefer(lookup_t *lookup, const lookup_address_t *address)
{
    lookup->preferred = *address;
    put_preferred_first(lookup);
}

apr_status_t lookup_get(lookup_t *lookup, lookup_addresses_t *addresses, const char **why,
                        apr_time_t now)
{
    if (lookup->query == NULL) {
        if (lookup->addresses.count > 0 && now - lookup->ended < LOOKUP_FRESH) {
            *addresses = lookup->addresses;
            return APR_SUCCESS;
        }
        lookup->query = query_start(lookup->host, lookup->port);
        if (lookup->query == NULL) {
            *why = "there is no memory for a thread";
            return APR_ENOENT;
        }
    }
    if (atomic_load(&lookup->query->state) == RUNNING) {
        return APR_EINPROGRESS;
    }
    lookup->ended = now;
    lookup->failed = lookup->query->error;
    keep(&lookup->addresses, lookup->query->result);
    put_preferred_first(lookup);
    query_free(lookup->query);
    lookup->query = NULL;
    if (lookup->failed != 0 || lookup->addresses.count == 0) {
        *why = lookup->failed != 0 ? gai_strerror(lookup->failed) : "the name has no address";
        return APR_ENOENT;
    }
    *addresses = lookup->addresses;
    return APR_SUCCESS;
}
