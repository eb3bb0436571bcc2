/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Webhook events as JSON. Pure: knows neither where they wait nor who gets them. The members are
 * those of docs/webhook.schema.json; those without a value are left out.
 */
#include "hooks.h"

#include <apr_encode.h>
#include <apr_strings.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "mdm_plist.h"

/* Where the payload goes. A quote in a string is escaped, so the first one is it: only url_params,
 * which come later, have names that are not ours. */
#define HOLE "\"raw_payload\":\"\""
#define HOLE_BEFORE (sizeof(HOLE) - 2) /* up to the second quote of its value */

/* Text as JSON: what is not UTF-8, which only a URL can bring, shows as replacement characters. */
static json_t *text(const char *value, apr_pool_t *pool)
{
    apr_size_t len = strlen(value);
    char *out;
    char *at;

    if (mdm_utf8_valid(value, len)) {
        return json_string(value);
    }
    out = at = apr_palloc(pool, len * 3 + 1);
    for (; *value != '\0'; value++) {
        if ((unsigned char)*value < 0x80) {
            *at++ = *value;
        } else {
            memcpy(at, "\xEF\xBF\xBD", 3);
            at += 3;
        }
    }
    *at = '\0';
    return json_string(out);
}

static void add(json_t *object, const char *name, const char *value, apr_pool_t *pool)
{
    if (value != NULL && *value != '\0') {
        json_object_set_new(object, name, text(value, pool));
    }
}

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef0123456789ABCDEF";
    const char *found = c != '\0' ? strchr(digits, c) : NULL;

    return found != NULL ? (int)((found - digits) % 16) : -1;
}

/* In place. A percent sign that begins nothing stays, as does %00, which no string can hold. */
static char *unescape(char *value)
{
    char *to = value;

    for (const char *from = value; *from != '\0'; from++) {
        int high = *from == '%' ? hex_digit(from[1]) : -1;
        int low = high >= 0 ? hex_digit(from[2]) : -1;

        if (low >= 0 && high + low > 0) {
            *to++ = (char)(high * 16 + low);
            from += 2;
        } else {
            *to++ = *from == '+' ? ' ' : *from;
        }
    }
    *to = '\0';
    return value;
}

/* Of a repeated parameter the first counts. */
static json_t *parameters(const char *query, apr_pool_t *pool)
{
    json_t *object = json_object();
    char *state;

    for (char *pair = apr_strtok(apr_pstrdup(pool, query), "&", &state); pair != NULL;
         pair = apr_strtok(NULL, "&", &state)) {
        char *value = strchr(pair, '=');
        json_t *name;

        if (value != NULL) {
            *value++ = '\0';
        }
        name = text(unescape(pair), pool);
        if (json_object_get(object, json_string_value(name)) == NULL) {
            json_object_set_new(object, json_string_value(name),
                                text(value != NULL ? unescape(value) : "", pool));
        }
        json_decref(name);
    }
    return object;
}

static json_t *ids(const mdm_enrollment_t *enrollment, apr_pool_t *pool)
{
    json_t *object = json_object();

    add(object, "id", enrollment->id, pool);
    add(object, "type", mdm_enrollment_type_name(enrollment->type), pool);
    add(object, "parent_id", enrollment->parent_id, pool);
    return object;
}

static json_t *body(const mdm_message_t *message, int tally, apr_pool_t *pool)
{
    json_t *object = json_object();

    add(object, "udid", message->enrollment.udid, pool);
    add(object, "enrollment_id", message->enrollment.enrollment_id, pool);
    json_object_set_new(object, "ids", ids(&message->enrollment, pool));
    if (message->type == MDM_REPORT) {
        add(object, "status", message->status, pool);
        add(object, "command_uuid", message->command_uuid, pool);
    }
    json_object_set_new(object, "raw_payload", json_string(""));
    if (message->query != NULL && *message->query != '\0') {
        json_object_set_new(object, "url_params", parameters(message->query, pool));
    }
    if (message->type == MDM_TOKEN_UPDATE) {
        json_object_set_new(object, "token_update_tally", json_integer(tally));
    }
    return object;
}

static const char *rfc3339(apr_time_t when, apr_pool_t *pool)
{
    apr_time_exp_t t;

    apr_time_exp_gmt(&t, when);
    return apr_psprintf(pool, "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", t.tm_year + 1900, t.tm_mon + 1,
                        t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec, t.tm_usec);
}

const char *hooks_event_topic(mdm_message_type_t type, apr_pool_t *pool)
{
    return apr_pstrcat(pool, "mdm.", mdm_message_type_name(type), NULL);
}

const char *hooks_event_write(const mdm_message_t *message, int tally, apr_time_t when,
                              apr_pool_t *pool)
{
    json_t *event = json_object();
    const char *result;
    char *line;

    add(event, "topic", hooks_event_topic(message->type, pool), pool);
    add(event, "event_id", message->event_id, pool);
    add(event, "created_at", rfc3339(when, pool), pool);
    json_object_set_new(event, message->type == MDM_REPORT ? "acknowledge_event" : "checkin_event",
                        body(message, tally, pool));
    line = json_dumps(event, JSON_COMPACT);
    json_decref(event);
    result = line == NULL ? NULL : apr_pstrcat(pool, line, "\n", message->raw, NULL);
    free(line);
    return result;
}

const char *hooks_event_json(const char *event, apr_size_t *len, apr_pool_t *pool)
{
    const char *end = strchr(event, '\n');
    const char *hole = strstr(event, HOLE);
    apr_size_t before;
    apr_size_t after;
    apr_size_t payload;
    apr_size_t base64;
    char *json;

    if (end == NULL || hole == NULL || hole > end) {
        return NULL;
    }
    before = (apr_size_t)(hole - event) + HOLE_BEFORE;
    after = (apr_size_t)(end - event) - before;
    payload = strlen(end + 1);
    if (apr_encode_base64(NULL, end + 1, (apr_ssize_t)payload, APR_ENCODE_NONE, &base64) !=
        APR_SUCCESS) {
        return NULL;
    }
    /* base64 counts the NUL behind it, which the rest of the line then overwrites. */
    json = apr_palloc(pool, before + base64 + after + 1);
    memcpy(json, event, before);
    apr_encode_base64(json + before, end + 1, (apr_ssize_t)payload, APR_ENCODE_NONE, &base64);
    memcpy(json + before + base64, event + before, after);
    *len = before + base64 + after;
    json[*len] = '\0';
    return json;
}
