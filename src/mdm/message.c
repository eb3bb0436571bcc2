/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns check-in messages and command reports: which members each has, which of them must be there,
 * and on which channel it may come. Must not know what a message does, nor who sent it.
 */
#include <apr_escape.h>
#include <apr_strings.h>
#include <string.h>

#include "mdm_message.h"
#include "mdm_plist.h"

/* Limits of values that have no column. */
#define MAX_MESSAGE_TYPE 63
#define MAX_TOKEN_SERVICE_TYPE 255
#define MAX_ENDPOINT 1024

#define MAX_DIGEST_RESPONSE 255 /* its column's */

/** What a reader of members needs. */
typedef struct {
    mdm_message_t *message;
    plist_t dict;
    const char **why;
    apr_pool_t *pool;
} reader_t;

static apr_status_t get_string(const reader_t *r, const char **value, const char *key,
                               apr_size_t max)
{
    return mdm_plist_get_string(value, r->dict, key, max, r->why, r->pool);
}

static apr_status_t get_data(const reader_t *r, const unsigned char **value, apr_size_t *len,
                             const char *key)
{
    return mdm_plist_get_data(value, len, r->dict, key, r->why, r->pool);
}

static apr_status_t require_string(const reader_t *r, const char **value, const char *key,
                                   apr_size_t max)
{
    return mdm_plist_require_string(value, r->dict, key, max, r->why, r->pool);
}

static apr_status_t read_authenticate(const reader_t *r)
{
    apr_status_t rv = get_string(r, &r->message->serial_number, "SerialNumber", MDM_MAX_SERIAL);

    if (rv == APR_SUCCESS)
        rv = get_string(r, &r->message->topic, "Topic", MDM_MAX_TOPIC);
    return rv;
}

static apr_status_t read_token(const reader_t *r)
{
    const unsigned char *token;
    apr_size_t len;
    apr_status_t rv = get_data(r, &token, &len, "Token");

    if (rv != APR_SUCCESS)
        return rv;
    if (!token) {
        *r->why = "Token is missing or empty";
        return MDM_EINPUT;
    }
    if (len > MDM_MAX_TOKEN) {
        *r->why = apr_psprintf(r->pool, "Token is longer than %d bytes", MDM_MAX_TOKEN);
        return MDM_EINPUT;
    }
    r->message->token_hex = apr_pescape_hex(r->pool, token, len, 0);
    return APR_SUCCESS;
}

static apr_status_t read_token_update(const reader_t *r)
{
    mdm_message_t *m = r->message;
    apr_status_t rv = require_string(r, &m->topic, "Topic", MDM_MAX_TOPIC);

    if (rv == APR_SUCCESS)
        rv = require_string(r, &m->push_magic, "PushMagic", MDM_MAX_MAGIC);
    if (rv == APR_SUCCESS)
        rv = read_token(r);
    if (rv == APR_SUCCESS)
        rv = get_data(r, &m->unlock_token, &m->unlock_token_len, "UnlockToken");
    return rv;
}

static apr_status_t read_user_authenticate(const reader_t *r)
{
    return get_string(r, &r->message->digest_response, "DigestResponse", MAX_DIGEST_RESPONSE);
}

static apr_status_t read_bootstrap_token(const reader_t *r)
{
    mdm_message_t *m = r->message;

    return get_data(r, &m->bootstrap_token, &m->bootstrap_token_len, "BootstrapToken");
}

static apr_status_t read_declarative_management(const reader_t *r)
{
    mdm_message_t *m = r->message;
    apr_status_t rv = require_string(r, &m->endpoint, "Endpoint", MAX_ENDPOINT);

    if (rv == APR_SUCCESS)
        rv = get_data(r, &m->data, &m->data_len, "Data");
    return rv;
}

static apr_status_t read_get_token(const reader_t *r)
{
    return get_string(r, &r->message->token_service_type, "TokenServiceType",
                      MAX_TOKEN_SERVICE_TYPE);
}

static apr_status_t read_nothing(const reader_t *r)
{
    (void)r;
    return APR_SUCCESS;
}

typedef enum { ANY_CHANNEL, DEVICE_CHANNEL, USER_CHANNEL } channel_t;

static const struct {
    const char *name;
    channel_t channel;
    apr_status_t (*read)(const reader_t *r);
} checkins[] = {
    [MDM_AUTHENTICATE] = {"Authenticate", DEVICE_CHANNEL, read_authenticate},
    [MDM_TOKEN_UPDATE] = {"TokenUpdate", ANY_CHANNEL, read_token_update},
    [MDM_CHECK_OUT] = {"CheckOut", ANY_CHANNEL, read_nothing},
    [MDM_USER_AUTHENTICATE] = {"UserAuthenticate", USER_CHANNEL, read_user_authenticate},
    [MDM_SET_BOOTSTRAP_TOKEN] = {"SetBootstrapToken", DEVICE_CHANNEL, read_bootstrap_token},
    [MDM_GET_BOOTSTRAP_TOKEN] = {"GetBootstrapToken", DEVICE_CHANNEL, read_nothing},
    [MDM_DECLARATIVE_MANAGEMENT] = {"DeclarativeManagement", ANY_CHANNEL,
                                    read_declarative_management},
    [MDM_GET_TOKEN] = {"GetToken", ANY_CHANNEL, read_get_token},
};

#define CHECKIN_COUNT (sizeof(checkins) / sizeof(checkins[0]))

const char *mdm_message_type_name(mdm_message_type_t type)
{
    return (unsigned)type < CHECKIN_COUNT ? checkins[type].name : "Connect";
}

/** Read which enrollment speaks. The names of the user count on user channels alone, and the
 * members that the first rule in the table of ids does not need are not looked at. */
static apr_status_t read_enrollment(const reader_t *r)
{
    mdm_enrollment_t *e = &r->message->enrollment;
    const char *user_id = NULL, *enrollment_user_id = NULL;
    apr_status_t rv = get_string(r, &e->udid, "UDID", MDM_MAX_ID);

    if (rv == APR_SUCCESS)
        rv = get_string(r, &e->enrollment_id, "EnrollmentID", MDM_MAX_ID);
    if (rv == APR_SUCCESS && e->udid)
        rv = get_string(r, &user_id, "UserID", MDM_MAX_ID);
    if (rv == APR_SUCCESS && !e->udid && e->enrollment_id)
        rv = get_string(r, &enrollment_user_id, "EnrollmentUserID", MDM_MAX_ID);
    if (rv == APR_SUCCESS && (user_id || enrollment_user_id)) {
        rv = get_string(r, &e->user_short_name, "UserShortName", MDM_MAX_USER_NAME);
        if (rv == APR_SUCCESS)
            rv = get_string(r, &e->user_long_name, "UserLongName", MDM_MAX_USER_NAME);
    }
    if (rv == APR_SUCCESS)
        rv = mdm_enrollment_resolve(e, user_id, enrollment_user_id, r->why, r->pool);
    return rv;
}

static apr_status_t find_type(const reader_t *r)
{
    const char *name;
    unsigned i;
    apr_status_t rv = require_string(r, &name, "MessageType", MAX_MESSAGE_TYPE);

    if (rv != APR_SUCCESS)
        return rv;
    for (i = 0; i < CHECKIN_COUNT; i++) {
        if (!strcmp(name, checkins[i].name)) {
            r->message->type = (mdm_message_type_t)i;
            return APR_SUCCESS;
        }
    }
    *r->why = "MessageType is unknown";
    return MDM_EINPUT;
}

static apr_status_t check_channel(const reader_t *r)
{
    int on_user_channel = r->message->enrollment.parent_id != NULL;
    channel_t channel = checkins[r->message->type].channel;
    const char *name = checkins[r->message->type].name;

    if (channel == DEVICE_CHANNEL && on_user_channel) {
        *r->why = apr_psprintf(r->pool, "%s on a user channel", name);
        return MDM_EINPUT;
    }
    if (channel == USER_CHANNEL && !on_user_channel) {
        *r->why = apr_psprintf(r->pool, "%s on a device channel", name);
        return MDM_EINPUT;
    }
    return APR_SUCCESS;
}

/** Parse the property list and begin a message of it. */
static apr_status_t begin(reader_t *r, const char *body, apr_size_t len, const char **why,
                          apr_pool_t *pool)
{
    r->message = apr_pcalloc(pool, sizeof(*r->message));
    r->message->raw = body;
    r->message->raw_len = len;
    r->why = why;
    r->pool = pool;
    return mdm_plist_parse(&r->dict, body, len, why, pool);
}

apr_status_t mdm_checkin_parse(mdm_message_t **out, const char *body, apr_size_t len,
                               const char **why, apr_pool_t *pool)
{
    reader_t r;
    apr_status_t rv = begin(&r, body, len, why, pool);

    if (rv == APR_SUCCESS)
        rv = find_type(&r);
    if (rv == APR_SUCCESS)
        rv = read_enrollment(&r);
    if (rv == APR_SUCCESS)
        rv = check_channel(&r);
    if (rv == APR_SUCCESS)
        rv = checkins[r.message->type].read(&r);
    if (rv == APR_SUCCESS)
        *out = r.message;
    return rv;
}

static mdm_report_status_t status_kind(const char *status)
{
    if (!strcmp(status, "Idle"))
        return MDM_STATUS_IDLE;
    if (!strcmp(status, "NotNow"))
        return MDM_STATUS_NOT_NOW;
    return MDM_STATUS_FINAL;
}

/** RequestType is for the log alone: one that cannot be logged is as if absent. */
static void read_request_type(const reader_t *r)
{
    const char *ignored;

    if (mdm_plist_get_string(&r->message->request_type, r->dict, "RequestType",
                             MDM_MAX_REQUEST_TYPE, &ignored, r->pool) != APR_SUCCESS)
        r->message->request_type = NULL;
}

apr_status_t mdm_report_parse(mdm_message_t **out, const char *body, apr_size_t len,
                              const char **why, apr_pool_t *pool)
{
    reader_t r;
    apr_status_t rv = begin(&r, body, len, why, pool);

    if (rv == APR_SUCCESS)
        rv = read_enrollment(&r);
    if (rv == APR_SUCCESS)
        rv = require_string(&r, &r.message->status, "Status", MDM_MAX_STATUS);
    if (rv == APR_SUCCESS)
        rv = get_string(&r, &r.message->command_uuid, "CommandUUID", MDM_MAX_UUID);
    if (rv != APR_SUCCESS)
        return rv;
    read_request_type(&r);
    r.message->type = MDM_REPORT;
    r.message->status_kind = status_kind(r.message->status);
    *out = r.message;
    return APR_SUCCESS;
}
