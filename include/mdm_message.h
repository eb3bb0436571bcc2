/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* What an Apple device says: check-in messages, command reports, and the enrollment they come
 * from; and the command an administrator queues. Pure: no database, no network, no httpd.
 */
#ifndef MDM_MESSAGE_H
#define MDM_MESSAGE_H

#include <apr_pools.h>

#include "mdm_status.h"

/** Limits in bytes, those of the database's columns. */
#define MDM_MAX_ID 255
#define MDM_MAX_TOPIC 255
#define MDM_MAX_TOKEN 127 /* raw; stored as hex */
#define MDM_MAX_MAGIC 127
#define MDM_MAX_SERIAL 127
#define MDM_MAX_UUID 127
#define MDM_MAX_STATUS 31
#define MDM_MAX_REQUEST_TYPE 63
#define MDM_MAX_USER_NAME 255

typedef enum {
    MDM_DEVICE,
    MDM_USER,
    MDM_SHARED_IPAD,
    MDM_USER_ENROLLMENT_DEVICE,
    MDM_USER_ENROLLMENT
} mdm_enrollment_type_t;

/** An enrollment as a message names it (wire contract: "Enrollment IDs"). */
typedef struct mdm_enrollment_t {
    mdm_enrollment_type_t type;
    const char *id;            /* the enrollment id */
    const char *parent_id;     /* the device channel's id on a user channel, else NULL */
    const char *device_id;     /* parent_id, or id: whose certificate and device row it is */
    const char *udid;          /* the message's own fields, NULL if absent */
    const char *enrollment_id; /* EnrollmentID */
    const char *user_short_name;
    const char *user_long_name;
} mdm_enrollment_t;

/** The type's name in the database and in events: "Device", "User", "Shared iPad", … */
const char *mdm_enrollment_type_name(mdm_enrollment_type_t type);

/** Set type, id, parent_id and device_id from the message's own fields: udid, enrollment_id and
 * user_short_name of *e, each NULL if absent, and the two that *e does not keep.
 *
 * @param user_id             UserID, or NULL
 * @param enrollment_user_id  EnrollmentUserID, or NULL
 * @return MDM_EINPUT if they name no enrollment, or one whose id is not valid
 */
apr_status_t mdm_enrollment_resolve(mdm_enrollment_t *e, const char *user_id,
                                    const char *enrollment_user_id, const char **why,
                                    apr_pool_t *pool);

typedef enum {
    MDM_AUTHENTICATE,
    MDM_TOKEN_UPDATE,
    MDM_CHECK_OUT,
    MDM_USER_AUTHENTICATE,
    MDM_SET_BOOTSTRAP_TOKEN,
    MDM_GET_BOOTSTRAP_TOKEN,
    MDM_DECLARATIVE_MANAGEMENT,
    MDM_GET_TOKEN,
    MDM_REPORT /* a command report, "Connect" in events */
} mdm_message_type_t;

/** The MessageType as Apple writes it; "Connect" for a report. */
const char *mdm_message_type_name(mdm_message_type_t type);

typedef enum {
    MDM_STATUS_IDLE,
    MDM_STATUS_NOT_NOW,
    MDM_STATUS_FINAL /* Acknowledged, Error, CommandFormatError, and any unknown one */
} mdm_report_status_t;

/** A parsed message. Strings and bytes live as long as the pool given to the parser; raw is the
 * caller's own buffer. Absent members are NULL. */
typedef struct mdm_message_t {
    mdm_message_type_t type;
    mdm_enrollment_t enrollment;
    const char *raw;
    apr_size_t raw_len;
    /* Of the request it came with, given by who received it; for events. */
    const char *event_id;
    const char *query; /* of its URL, as sent; NULL if there was none */

    const char *serial_number;         /* Authenticate */
    const char *topic;                 /* TokenUpdate (required there), Authenticate */
    const char *push_magic;            /* TokenUpdate */
    const char *token_hex;             /* TokenUpdate: lower-case hex */
    const unsigned char *unlock_token; /* TokenUpdate */
    apr_size_t unlock_token_len;
    const unsigned char *bootstrap_token; /* SetBootstrapToken */
    apr_size_t bootstrap_token_len;
    const char *digest_response;    /* UserAuthenticate */
    const char *token_service_type; /* GetToken */
    const char *endpoint;           /* DeclarativeManagement */
    const unsigned char *data;      /* DeclarativeManagement */
    apr_size_t data_len;

    const char *status; /* report: as sent */
    mdm_report_status_t status_kind;
    const char *command_uuid; /* report; may be absent */
    const char *request_type; /* report; for the log, may be absent */
} mdm_message_t;

/** Parse a check-in body. Checks everything that one message can show to be wrong: unknown
 * MessageType, no id, missing or over-long values, a device-only message on a user channel
 * (Authenticate, SetBootstrapToken, GetBootstrapToken) or the reverse (UserAuthenticate).
 *
 * @param out   in the pool; set only on success
 * @param body  kept by reference in the message; body[len] must be NUL, since the message's raw
 *              is also used as a string
 * @param why   on MDM_EINPUT: the reason, a sentence without secrets
 * @return MDM_EINPUT
 */
apr_status_t mdm_checkin_parse(mdm_message_t **out, const char *body, apr_size_t len,
                               const char **why, apr_pool_t *pool);

/** Parse a command report; as mdm_checkin_parse(). A report other than Idle may lack its
 * CommandUUID: command_uuid is NULL then, and the caller decides. */
apr_status_t mdm_report_parse(mdm_message_t **out, const char *body, apr_size_t len,
                              const char **why, apr_pool_t *pool);

/** A command that is to be queued. */
typedef struct mdm_command_t {
    const char *uuid;
    const char *request_type;
    const char *raw; /* the caller's buffer, NUL-terminated; byte for byte what the device gets */
    apr_size_t raw_len;
} mdm_command_t;

/** Parse a command: a dictionary with a non-empty CommandUUID and Command.RequestType.
 *
 * @return MDM_EINPUT, with the reason in *why
 */
apr_status_t mdm_command_parse(mdm_command_t **out, const char *body, apr_size_t len,
                               const char **why, apr_pool_t *pool);

/** Whether this may be the id of an enrollment, or the topic of a push certificate: 1 to MDM_MAX_ID
 * bytes of UTF-8 without control characters. A blank at the end is none: MySQL and MariaDB take ids
 * that only differ there for the same, and one of blanks for an empty one. */
int mdm_id_valid(const char *id);

#endif
