/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Other servers that take part: receivers of webhook events, a declaration server, Apple's escrow
 * key service. All by one HTTP client: certificates are verified, redirects not followed, times and
 * sizes bounded; proxies are libcurl's environment variables. Knows no database and no httpd.
 */
#ifndef HOOKS_H
#define HOOKS_H

#include <apr_pools.h>
#include <apr_tables.h>
#include <apr_time.h>

#include "mdm_message.h"

/** A server to talk to. */
typedef struct hooks_target_t {
    const char *url;
    const char *ca_file;  /* PEM; NULL: the system's roots */
    const char *send_key; /* requests carry an HMAC with it; NULL: none */
    apr_size_t send_key_len;
    const char *recv_key; /* replies must; NULL: they need not */
    apr_size_t recv_key_len;
} hooks_target_t;

/** Whether a URL is http:// or https:// with a host, and neither blanks nor a fragment.
 * @return what is wrong with it, or NULL */
const char *hooks_url_check(const char *url);
/** The URL without user and password, for logs and tables; in the pool. */
const char *hooks_url_public(const char *url, apr_pool_t *pool);

/** A client whose connections are used again; for many threads. */
typedef struct hooks_http_t hooks_http_t;

/** Once in a process, before it has threads; lives as long as the pool. */
apr_status_t hooks_http_create(hooks_http_t **out, apr_pool_t *pool);

/* -- Webhook events */

/** Write a message as an event: JSON in one line in which the member raw_payload is still empty, a
 * newline, and the payload as it is. So that base64 takes no room while it waits.
 *
 * @param tally  token_update_tally, for a TokenUpdate
 * @param when   created_at
 */
const char *hooks_event_write(const mdm_message_t *message, int tally, apr_time_t when,
                              apr_pool_t *pool);
/** The JSON to send, from what hooks_event_write() gave; NULL if that is damaged. */
const char *hooks_event_json(const char *event, apr_size_t *len, apr_pool_t *pool);
/** "mdm." and the message's type. */
const char *hooks_event_topic(mdm_message_type_t type, apr_pool_t *pool);

/** The events of one enrollment that wait, in their order, and belong to one deliverer now. */
typedef struct hooks_run_t {
    apr_pool_t *pool; /* of all of this; destroyed by the deliverer, after settling */
    const char *id;
    void *events; /* the source's */
    int count;
    int done;          /* so many from the first on were delivered */
    const char *error; /* why the one behind them was not; NULL: it was not tried */
    int hopeless;      /* nor will it ever be */
    apr_time_t until;  /* when it stops being ours, by mdm_clock() */
} hooks_run_t;

/** Where events come from. Called by the deliverer's thread alone, but for what says otherwise.
 * Times are mdm_clock()'s. */
typedef struct hooks_source_t {
    /** Append at most so many runs (hooks_run_t *) whose first event is due; none on failure.
     * down: the receiver is, and more effort than trying it takes is wasted. *again is when to ask
     * again because of those that others have, or that were not looked at; left alone if there are
     * none. */
    apr_status_t (*claim)(void *baton, int max, int down, apr_array_header_t *runs,
                          apr_time_t *again);
    /** Load a run's next event. @return APR_ENOENT: it is not there or not ours any more */
    apr_status_t (*load)(void *baton, hooks_run_t *run, const char **event, apr_pool_t *pool);
    /** Forget what was delivered, note what was not, let go of the runs; all or nothing. *again is
     * when the first that failed is due again; left alone if none is. */
    apr_status_t (*settle)(void *baton, const apr_array_header_t *runs, apr_time_t *again,
                           apr_pool_t *pool);
    void *baton;
} hooks_source_t;

typedef struct hooks_deliverer_t hooks_deliverer_t;

/** Make what delivers the events of one source to one receiver; lives as long as the pool. */
apr_status_t hooks_deliverer_create(hooks_deliverer_t **out, const hooks_target_t *target,
                                    const hooks_source_t *source, apr_pool_t *pool);
/** Deliver until stop_fd is readable; then for as long as grace while something is left. To be
 * called once, in a thread of its own. */
void hooks_deliverer_run(hooks_deliverer_t *deliverer, int stop_fd, apr_interval_time_t grace);
/** Have it look at its source soon. Any thread. */
void hooks_deliverer_wake(hooks_deliverer_t *deliverer);

/* -- Declarative management */

typedef struct hooks_answer_t {
    int code; /* HTTP status, as it was given */
    const char *type;
    const char *body;
    apr_size_t len;
    apr_table_t *headers;
} hooks_answer_t;

/** Ask the declaration server what a DeclarativeManagement message asks.
 *
 * @param why  on failure: a sentence for the log, not for the device: it tells where the server is
 * @return MDM_EINPUT: the message's endpoint is none below the target's URL; MDM_EGATEWAY: no
 *         answer, or none that counts. On APR_SUCCESS the code is 200, 204, or from 400 to 499
 *         without 401, 403 and 407.
 */
apr_status_t hooks_declarative(hooks_http_t *http, const hooks_target_t *target,
                               const mdm_message_t *message, hooks_answer_t *answer,
                               const char **why, apr_pool_t *pool);
/** The endpoint's URL. @return MDM_EINPUT */
apr_status_t hooks_endpoint_url(const char **url, const char *base, const char *endpoint,
                                apr_pool_t *pool);

/* -- Escrow key unlock */

typedef struct hooks_parameter_t {
    const char *name;
    const char *value;
} hooks_parameter_t;

/** Send a form, with the parameters of the query in the URL and a TLS client certificate.
 * @return MDM_EGATEWAY: no answer */
apr_status_t hooks_escrow_unlock(hooks_http_t *http, const hooks_target_t *target,
                                 const apr_array_header_t *query, const apr_array_header_t *form,
                                 const char *cert_pem, const char *key_pem, hooks_answer_t *answer,
                                 const char **why, apr_pool_t *pool);

#endif
