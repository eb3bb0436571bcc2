/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* See answer.h. Source: Apple, "Handling notification responses from APNs". */
#include "answer.h"

#include <apr_strings.h>
#include <jansson.h>
#include <string.h>

#define TIMESTAMP_MAX 253402300799000LL /* the year 9999, in milliseconds */

static void read_reason(apns_push_t *push, const json_t *body)
{
    const char *reason = json_string_value(json_object_get(body, "reason"));

    if (reason == NULL || *reason == '\0') {
        apr_snprintf(push->reason, sizeof(push->reason), "HTTP status %d", push->code);
        return;
    }
    apr_cpystrn(push->reason, reason, sizeof(push->reason));
    for (char *c = push->reason; *c != '\0'; c++) {
        if (*c < ' ' || *c > '~') {
            *c = '?';
        }
    }
}

static void read_timestamp(apns_push_t *push, const json_t *body)
{
    json_int_t ms = json_integer_value(json_object_get(body, "timestamp"));

    if (ms > 0 && ms <= TIMESTAMP_MAX) {
        push->timestamp = apr_time_from_msec((apr_time_t)ms);
    }
}

void answer_read(apns_push_t *push, const session_answer_t *answer)
{
    json_t *body = NULL;

    push->code = answer->code;
    push->timestamp = 0;
    apr_cpystrn(push->apns_id, answer->apns_id, sizeof(push->apns_id));
    if (answer->code == 200) {
        push->status = APR_SUCCESS;
        push->reason[0] = '\0';
        return;
    }
    push->status = MDM_EREFUSED;
    if (answer->body_len > 0) {
        body = json_loadb(answer->body, answer->body_len, 0, NULL);
    }
    read_reason(push, body);
    if (answer->code == 410) {
        read_timestamp(push, body);
    }
    json_decref(body);
}

answer_kind_t answer_kind(const apns_push_t *push)
{
    if (push->code == 429 || push->code >= 500) {
        return ANSWER_LATER;
    }
    if (push->code == 403 ||
        (push->code == 400 &&
         (strcmp(push->reason, "DeviceTokenNotForTopic") == 0 ||
          strcmp(push->reason, "TopicDisallowed") == 0 || strcmp(push->reason, "BadTopic") == 0))) {
        return ANSWER_CERTIFICATE;
    }
    return ANSWER_FINAL;
}
