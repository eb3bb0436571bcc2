/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns how an enrollment is named: its type and its id from the fields of a message. Must not know
 * property lists, nor what the message wants.
 */
#include <apr_strings.h>
#include <string.h>

#include "mdm_message.h"
#include "mdm_plist.h"

/** The UserID of every user of a Shared iPad; only the short name tells them apart. */
#define SHARED_IPAD_USER_ID "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"

const char *mdm_enrollment_type_name(mdm_enrollment_type_t type)
{
    switch (type) {
    case MDM_DEVICE:
        return "Device";
    case MDM_USER:
        return "User";
    case MDM_SHARED_IPAD:
        return "Shared iPad";
    case MDM_USER_ENROLLMENT_DEVICE:
        return "User Enrollment (Device)";
    case MDM_USER_ENROLLMENT:
        return "User Enrollment";
    }
    return "";
}

int mdm_id_valid(const char *id)
{
    const unsigned char *p = (const unsigned char *)id;
    apr_size_t len;

    if (!id)
        return 0;
    len = strlen(id);
    if (!len || len > MDM_MAX_ID || !mdm_utf8_valid(id, len))
        return 0;
    for (; *p; p++) {
        /* U+0080 to U+009F, C2 80 to C2 9F in UTF-8, are control characters too */
        if (*p < 0x20 || *p == 0x7F || (*p == 0xC2 && p[1] < 0xA0))
            return 0;
    }
    return id[len - 1] != ' ';
}

/** A user channel: its id is made of the device channel's and what tells the users apart. */
static void set_user_channel(mdm_enrollment_t *e, mdm_enrollment_type_t type, const char *parent,
                             const char *user, apr_pool_t *pool)
{
    e->type = type;
    e->parent_id = parent;
    e->device_id = parent;
    e->id = apr_pstrcat(pool, parent, ":", user, NULL);
}

static void set_device_channel(mdm_enrollment_t *e, mdm_enrollment_type_t type, const char *id)
{
    e->type = type;
    e->parent_id = NULL;
    e->device_id = id;
    e->id = id;
}

apr_status_t mdm_enrollment_resolve(mdm_enrollment_t *e, const char *user_id,
                                    const char *enrollment_user_id, const char **why,
                                    apr_pool_t *pool)
{
    if (e->udid && user_id && !strcmp(user_id, SHARED_IPAD_USER_ID)) {
        if (!e->user_short_name) {
            *why = "UserShortName is missing or empty, on a Shared iPad";
            return MDM_EINPUT;
        }
        set_user_channel(e, MDM_SHARED_IPAD, e->udid, e->user_short_name, pool);
    } else if (e->udid && user_id) {
        set_user_channel(e, MDM_USER, e->udid, user_id, pool);
    } else if (e->udid) {
        set_device_channel(e, MDM_DEVICE, e->udid);
    } else if (e->enrollment_id && enrollment_user_id) {
        set_user_channel(e, MDM_USER_ENROLLMENT, e->enrollment_id, enrollment_user_id, pool);
    } else if (e->enrollment_id) {
        set_device_channel(e, MDM_USER_ENROLLMENT_DEVICE, e->enrollment_id);
    } else {
        *why = "neither UDID nor EnrollmentID";
        return MDM_EINPUT;
    }
    /* It joins the two parts of a user channel's id: inside of one it could make another's. */
    if (strchr(e->device_id, ':') != NULL) {
        *why = "the UDID or EnrollmentID has a colon";
        return MDM_EINPUT;
    }
    if (!mdm_id_valid(e->device_id) || !mdm_id_valid(e->id)) {
        *why = apr_psprintf(pool,
                            "the enrollment id is longer than %d bytes, ends in a blank or has "
                            "control characters",
                            MDM_MAX_ID);
        return MDM_EINPUT;
    }
    return APR_SUCCESS;
}
