/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* The check-in messages: each is one function that runs in one transaction, its association check
 * included. */
#include <apr_atomic.h>
#include <apr_encode.h>
#include <apr_strings.h>
#include <string.h>

#include "association.h"
#include "mdm_log.h"
#include "mdm_plist.h"
#include "webhook.h"

typedef struct checkin_t {
    const service_t *service;
    const mdm_message_t *message;
    const trust_certificate_t *cert; /* NULL: migration */
    service_reply_t *reply;
    apr_status_t answer; /* what it comes to, if it was processed; what it has stored stays */
    const char *event;   /* for webhooks, or NULL */
} checkin_t;

typedef apr_status_t checkin_work_t(store_tx_t *tx, checkin_t *checkin, apr_pool_t *pool);

static apr_status_t no_device(checkin_t *checkin)
{
    checkin->reply->why = "this device has not sent an Authenticate message before";
    return MDM_EINPUT;
}

static apr_status_t authenticate(store_tx_t *tx, checkin_t *checkin, apr_pool_t *pool)
{
    const mdm_message_t *message = checkin->message;
    const char *id = message->enrollment.device_id;
    const char *pem = NULL;
    apr_status_t status;

    if (checkin->cert != NULL) {
        pem = trust_certificate_to_pem(checkin->cert, pool);
    }
    status = store_device_authenticate(tx, message, pem);
    if (status == APR_SUCCESS) {
        status = store_device_clear_queue(tx, id);
    }
    if (status == APR_SUCCESS) {
        status = store_device_disable(tx, id);
    }
    return status;
}

static apr_status_t token_update(store_tx_t *tx, checkin_t *checkin, apr_pool_t *pool)
{
    const mdm_message_t *message = checkin->message;
    apr_status_t status = store_device_load(tx, message->enrollment.device_id);

    if (status == APR_ENOENT) {
        return no_device(checkin);
    }
    if (status == APR_SUCCESS) {
        status = message->enrollment.parent_id == NULL
                     ? store_device_token_update(tx, message, pool)
                     : store_user_token_update(tx, message);
    }
    if (status == APR_SUCCESS) {
        status = store_enrollment_token_update(tx, message);
    }
    return status;
}

static apr_status_t check_out(store_tx_t *tx, checkin_t *checkin, apr_pool_t *pool)
{
    const mdm_enrollment_t *enrollment = &checkin->message->enrollment;

    (void)pool;
    return enrollment->parent_id == NULL ? store_device_disable(tx, enrollment->id)
                                         : store_enrollment_disable(tx, enrollment->id);
}

static apr_status_t set_bootstrap_token(store_tx_t *tx, checkin_t *checkin, apr_pool_t *pool)
{
    const mdm_message_t *message = checkin->message;
    const char *base64 = NULL;
    apr_status_t status;

    if (message->bootstrap_token != NULL) {
        base64 = apr_pencode_base64_binary(pool, message->bootstrap_token,
                                           (apr_ssize_t)message->bootstrap_token_len,
                                           APR_ENCODE_NONE, NULL);
    }
    status = store_device_bootstrap_token(tx, message->enrollment.id, base64);
    return status == APR_ENOENT ? no_device(checkin) : status;
}

static apr_status_t get_bootstrap_token(store_tx_t *tx, checkin_t *checkin, apr_pool_t *pool)
{
    service_reply_t *reply = checkin->reply;
    const char *base64;
    const unsigned char *token;
    apr_size_t len;
    apr_status_t status =
        store_device_load_bootstrap_token(tx, checkin->message->enrollment.id, &base64, pool);

    if (status == APR_ENOENT) {
        return APR_SUCCESS;
    }
    if (status != APR_SUCCESS) {
        return status;
    }
    token = apr_pdecode_base64_binary(pool, base64, APR_ENCODE_STRING, APR_ENCODE_NONE, &len);
    if (token == NULL) {
        reply->why = "the stored bootstrap token is not base64";
        return APR_SUCCESS;
    }
    mdm_plist_write_data(&reply->body, &reply->len, "BootstrapToken", token, len, pool);
    return APR_SUCCESS;
}

static apr_status_t user_authenticate(store_tx_t *tx, checkin_t *checkin, apr_pool_t *pool)
{
    const mdm_message_t *message = checkin->message;
    service_reply_t *reply = checkin->reply;
    apr_status_t status;

    if (!checkin->service->empty_digest) {
        if (message->digest_response != NULL) {
            return APR_SUCCESS;
        }
        reply->why = "NanoMDMUserAuthenticate is set to decline network users";
        checkin->answer = MDM_EDECLINED;
        return APR_SUCCESS;
    }
    status = store_device_load(tx, message->enrollment.device_id);
    if (status == APR_ENOENT) {
        return no_device(checkin);
    }
    if (status == APR_SUCCESS) {
        status = store_user_authenticate(tx, message);
    }
    if (status == APR_SUCCESS && message->digest_response == NULL) {
        mdm_plist_write_string(&reply->body, &reply->len, "DigestChallenge", "", pool);
    }
    return status;
}

static apr_status_t declarative_management(store_tx_t *tx, checkin_t *checkin, apr_pool_t *pool)
{
    (void)tx;
    (void)pool;
    if (checkin->service->declarative == NULL) {
        checkin->reply->why = "declarative management is not configured";
        checkin->answer = MDM_ENOTCONFIGURED;
    }
    return APR_SUCCESS; /* the server is asked without a connection in hand */
}

static apr_status_t get_token(store_tx_t *tx, checkin_t *checkin, apr_pool_t *pool)
{
    const char *type = checkin->message->token_service_type;
    service_reply_t *reply = checkin->reply;
    const service_token_t *token = NULL;

    (void)tx;
    if (type != NULL && checkin->service->get_token != NULL) {
        token = apr_hash_get(checkin->service->get_token, type, APR_HASH_KEY_STRING);
    }
    if (token == NULL) {
        reply->why = type == NULL ? "GetToken without TokenServiceType"
                                  : "no NanoMDMGetToken is configured for this TokenServiceType";
        return MDM_EINPUT;
    }
    mdm_plist_write_data(&reply->body, &reply->len, "TokenData", token->data, token->len, pool);
    return APR_SUCCESS;
}

static checkin_work_t *const works[] = {
    [MDM_AUTHENTICATE] = authenticate,
    [MDM_TOKEN_UPDATE] = token_update,
    [MDM_CHECK_OUT] = check_out,
    [MDM_USER_AUTHENTICATE] = user_authenticate,
    [MDM_SET_BOOTSTRAP_TOKEN] = set_bootstrap_token,
    [MDM_GET_BOOTSTRAP_TOKEN] = get_bootstrap_token,
    [MDM_DECLARATIVE_MANAGEMENT] = declarative_management,
    [MDM_GET_TOKEN] = get_token,
};

static int asks_declarative(const checkin_t *checkin)
{
    return checkin->message->type == MDM_DECLARATIVE_MANAGEMENT &&
           checkin->service->declarative != NULL && checkin->cert != NULL;
}

static apr_status_t checkin_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    checkin_t *checkin = baton;
    const mdm_message_t *message = checkin->message;
    const char *device_id = message->enrollment.device_id;
    apr_status_t status = APR_SUCCESS;

    memset(checkin->reply, 0, sizeof(*checkin->reply));
    checkin->answer = APR_SUCCESS;
    checkin->event = NULL;
    if (checkin->cert != NULL) {
        status = message->type == MDM_AUTHENTICATE
                     ? association_claim(tx, device_id, checkin->cert, pool)
                     : association_check(tx, checkin->service, device_id, checkin->cert, pool);
    }
    if (status == MDM_EREFUSED) {
        checkin->reply->why = message->type == MDM_AUTHENTICATE
                                  ? "the certificate belongs to another enrollment"
                                  : "the certificate is not associated with this enrollment";
    }
    if (status == APR_SUCCESS) {
        status = works[message->type](tx, checkin, pool);
    }
    /* A message that the declaration server answers is processed once it has. */
    if (status == APR_SUCCESS && checkin->cert != NULL && !asks_declarative(checkin)) {
        status = webhook_note(tx, checkin->service, message, &checkin->event, pool);
    }
    return status;
}

static apr_status_t event_work(store_tx_t *tx, void *baton, apr_pool_t *pool)
{
    checkin_t *checkin = baton;

    return webhook_note(tx, checkin->service, checkin->message, &checkin->event, pool);
}

/* Whether a place to wait is free, which is taken then. */
static int begin_waiting(service_waiting_t *waiting)
{
    if (waiting == NULL || apr_atomic_inc32(&waiting->count) < waiting->most) {
        return 1;
    }
    apr_atomic_dec32(&waiting->count);
    return 0;
}

static void end_waiting(service_waiting_t *waiting)
{
    if (waiting != NULL) {
        apr_atomic_dec32(&waiting->count);
    }
}

static void tell_crowd(service_waiting_t *waiting, const char *id)
{
    if (mdm_log_due(&waiting->told)) {
        mdm_log(MDM_LOG_ERR, 0,
                "declarative management: too many messages wait for the declaration server "
                "already: enrollment \"%s\" is turned away, as others may be",
                id);
    }
}

static apr_status_t ask_declarative(checkin_t *checkin, apr_pool_t *pool)
{
    const service_t *service = checkin->service;
    service_reply_t *reply = checkin->reply;
    hooks_answer_t answer;
    apr_status_t status;

    if (!begin_waiting(service->waiting)) {
        tell_crowd(service->waiting, checkin->message->enrollment.id);
        reply->why = "too many messages wait for the declaration server already";
        return MDM_ECROWDED;
    }
    status = hooks_declarative(service->http, service->declarative, checkin->message, &answer,
                               &reply->why, pool);
    end_waiting(service->waiting);
    if (status != APR_SUCCESS) {
        return status;
    }
    reply->code = answer.code != 204 ? answer.code : 0;
    if (answer.code == 200) {
        reply->type = "application/json";
        reply->body = answer.body;
        reply->len = answer.len;
    }
    return webhook_stores(service, checkin->message)
               ? store_write(service->store, event_work, checkin, pool)
               : APR_SUCCESS;
}

/* Messages that store nothing need no transaction, unless an association may have to be stored. */
static int only_reads(const service_t *service, const mdm_message_t *message)
{
    int later = message->type == MDM_DECLARATIVE_MANAGEMENT && service->declarative != NULL;

    if (!later && webhook_stores(service, message)) { /* later: see ask_declarative() */
        return 0;
    }
    switch (message->type) {
    case MDM_GET_BOOTSTRAP_TOKEN:
    case MDM_GET_TOKEN:
    case MDM_DECLARATIVE_MANAGEMENT:
        return !service->retroactive;
    case MDM_USER_AUTHENTICATE:
        return !service->retroactive && !service->empty_digest;
    default:
        return 0;
    }
}

apr_status_t service_checkin(const service_t *service, const mdm_message_t *message,
                             const trust_certificate_t *cert, service_reply_t *reply,
                             apr_pool_t *pool)
{
    checkin_t checkin = {service, message, cert, reply, APR_SUCCESS, NULL};
    apr_status_t status;

    memset(reply, 0, sizeof(*reply));
    status = only_reads(service, message)
                 ? store_read(service->store, checkin_work, &checkin, pool)
                 : store_write(service->store, checkin_work, &checkin, pool);
    if (status == APR_SUCCESS && asks_declarative(&checkin)) {
        status = ask_declarative(&checkin, pool);
    }
    if (status == MDM_EUNAVAILABLE) {
        memset(reply, 0, sizeof(*reply));
        reply->why = "the database is not available";
    }
    if (status != APR_SUCCESS) {
        return status;
    }
    if (cert != NULL) {
        webhook_announce(service, message, checkin.event, pool);
    }
    if (cert != NULL && service->seen != NULL && checkin.answer == APR_SUCCESS) {
        service->seen(service->seen_baton, message->enrollment.id);
    }
    return checkin.answer;
}
