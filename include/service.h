/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What a message or an API call does: the rules of the protocol on top of the store. One function
 * per kind of call; httpd, tools and tests call these. May be used by many threads.
 *
 * Statuses, beside APR_SUCCESS:
 *   MDM_EINPUT          the caller's mistake
 *   MDM_EREFUSED        the certificate is not this enrollment's
 *   MDM_EUNAVAILABLE    the database is out of reach; nothing was done
 * With each, reply->why says the reason in a sentence for the log.
 */
#ifndef SERVICE_H
#define SERVICE_H

#include <apr_hash.h>

#include "apns.h"
#include "hooks.h"
#include "mdm_message.h"
#include "store.h"
#include "trust.h"

/** Who waits for the declaration server: each holds a thread of the process that it is in. */
typedef struct service_waiting_t {
    apr_uint32_t most;  /* so many may at once */
    apr_uint32_t count; /* so many do; atomic */
    apr_uint32_t told;  /* that there were more: for mdm_log_due() */
} service_waiting_t;

typedef struct service_t {
    store_t *store;
    int retroactive;       /* an id without any association may take a certificate later */
    int empty_digest;      /* UserAuthenticate: accept users with an empty digest challenge */
    apr_hash_t *get_token; /* TokenServiceType -> service_token_t; NULL: none */
    /** Called, if not NULL, with each enrollment that was just heard of. Must not block. */
    void (*seen)(void *baton, const char *id);
    void *seen_baton;
    apr_array_header_t *webhooks;      /* service_webhook_t *; NULL: none */
    hooks_http_t *http;                /* for declarative; and escrow keys */
    const hooks_target_t *declarative; /* the declaration server; NULL: none */
    service_waiting_t *waiting;        /* of all services of the process; NULL: no limit */
    apns_t *apns;                      /* NULL: nothing is pushed */
    apr_interval_time_t push_timeout;
} service_t;

typedef struct service_token_t {
    const unsigned char *data;
    apr_size_t len;
} service_token_t;

typedef struct service_reply_t {
    const char *body; /* what the device gets; may be NULL */
    apr_size_t len;
    const char *type; /* of the body; NULL: a property list */
    int code;         /* the declaration server's HTTP status, to be passed on; 0: none */
    const char *why;  /* for the log: the reason of a failure, or something worth telling */
} service_reply_t;

/** Handle a check-in message.
 *
 * @param cert   the caller's certificate; NULL for the migration endpoint, which checks and
 *               stores no association
 * @param reply  filled in any case; its members are in the pool
 * @return also MDM_EDECLINED (UserAuthenticate declines this user), MDM_ENOTCONFIGURED,
 *         MDM_EGATEWAY and MDM_ECROWDED, which is logged already (DeclarativeManagement)
 */
apr_status_t service_checkin(const service_t *service, const mdm_message_t *message,
                             const trust_certificate_t *cert, service_reply_t *reply,
                             apr_pool_t *pool);

/** Store a command report and hand out the next command, if there is one. A report that cannot be
 * stored because nobody knows its command still gets it; reply->why tells. */
apr_status_t service_report(const service_t *service, const mdm_message_t *report,
                            const trust_certificate_t *cert, service_reply_t *reply,
                            apr_pool_t *pool);

/** Which enrollment a certificate belongs to.
 * @return MDM_EREFUSED if none */
apr_status_t service_identify(const service_t *service, const trust_certificate_t *cert,
                              const char **id, apr_pool_t *pool);

/** What became of one id of an enqueue, a push, or both. */
typedef struct service_result_t {
    const char *id;
    const char *command_error; /* NULL: none */
    const char *push_error;    /* NULL: none */
    const char *push_result;   /* the push service's id of the push, or NULL */
} service_result_t;

/** One service_result_t per distinct id, in the order given: nothing became of them yet.
 * @param ids  const char *, as a caller gave them; kept by reference */
apr_array_header_t *service_results(const apr_array_header_t *ids, apr_pool_t *pool);

/** Queue a command for enrollments, in one transaction. If no id is known nothing is kept.
 *
 * @param results  service_result_t; those of unknown ids get a command_error, on APR_SUCCESS and on
 *                 APR_ENOENT
 * @return APR_ENOENT if no id is known, MDM_ECONFLICT if the UUID exists with other bytes,
 *         MDM_EUNAVAILABLE
 */
apr_status_t service_enqueue(const service_t *service, const mdm_command_t *command,
                             apr_array_header_t *results, apr_pool_t *pool);

/** Store the certificate and key to push with, from PEM, for the topic that the certificate names.
 *
 * @param why  on failure: a sentence for the caller
 * @return MDM_EINPUT if they cannot be used, MDM_EUNAVAILABLE
 */
apr_status_t service_push_cert_store(const service_t *service, const char *pem, apr_size_t len,
                                     trust_pushcert_t *out, const char **why, apr_pool_t *pool);

/** Load what is stored for a topic.
 * @return APR_ENOENT, MDM_EUNAVAILABLE, MDM_EINPUT if it cannot be used; *why is set */
apr_status_t service_push_cert_load(const service_t *service, const char *topic,
                                    trust_pushcert_t *out, const char **why, apr_pool_t *pool);

/** Push to enrollments, and wait for what comes of it, at most push_timeout. No database connection
 * is held meanwhile. Tokens that the push service says are dead are noted.
 *
 * @param results  service_result_t; those without a command_error are pushed to, and get a
 *                 push_error or, on success, the push_result, if the service gave one
 * @param why      set if nothing was pushed: a sentence for the caller
 * @return MDM_EUNAVAILABLE, APR_EAGAIN if too many pushes wait already
 */
apr_status_t service_push(const service_t *service, apr_array_header_t *results, const char **why,
                          apr_pool_t *pool);

#endif
