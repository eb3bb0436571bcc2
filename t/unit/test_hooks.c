/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Webhook events byte by byte, and which URLs a device may have the declaration server asked. */
#include <apr_general.h>
#include <apr_strings.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "hooks.h"

static apr_pool_t *pool;

static mdm_message_t token_update(void)
{
    mdm_message_t message = {
        .type = MDM_TOKEN_UPDATE,
        .enrollment = {.type = MDM_USER,
                       .id = "UDID-1:USER",
                       .parent_id = "UDID-1",
                       .device_id = "UDID-1",
                       .udid = "UDID-1"},
        .raw = "<?xml?>\n<plist/>",
        .event_id = "trace-1",
    };

    message.raw_len = strlen(message.raw);
    return message;
}

static void check(const mdm_message_t *message, int tally, const char *expected)
{
    const char *event = hooks_event_write(message, tally, APR_INT64_C(1767225845000042), pool);
    apr_size_t len = 0;
    const char *json;

    assert_non_null(event);
    assert_string_equal(strchr(event, '\n') + 1, message->raw);
    json = hooks_event_json(event, &len, pool);
    assert_non_null(json);
    assert_string_equal(json, expected);
    assert_int_equal(len, strlen(expected));
}

static void test_checkin(void **state)
{
    mdm_message_t message = token_update();

    (void)state;
    check(&message, 3,
          "{\"topic\":\"mdm.TokenUpdate\",\"event_id\":\"trace-1\","
          "\"created_at\":\"2026-01-01T00:04:05.000042Z\",\"checkin_event\":{\"udid\":\"UDID-1\","
          "\"ids\":{\"id\":\"UDID-1:USER\",\"type\":\"User\",\"parent_id\":\"UDID-1\"},"
          "\"raw_payload\":\"PD94bWw/Pgo8cGxpc3QvPg==\",\"token_update_tally\":3}}");
    message.type = MDM_CHECK_OUT;
    message.enrollment.type = MDM_USER_ENROLLMENT_DEVICE;
    message.enrollment.id = "E";
    message.enrollment.parent_id = NULL;
    message.enrollment.udid = NULL;
    message.enrollment.enrollment_id = "E";
    message.query = "k=v";
    check(&message, 0,
          "{\"topic\":\"mdm.CheckOut\",\"event_id\":\"trace-1\","
          "\"created_at\":\"2026-01-01T00:04:05.000042Z\","
          "\"checkin_event\":{\"enrollment_id\":\"E\","
          "\"ids\":{\"id\":\"E\",\"type\":\"User Enrollment (Device)\"},"
          "\"raw_payload\":\"PD94bWw/Pgo8cGxpc3QvPg==\",\"url_params\":{\"k\":\"v\"}}}");
}

static void test_report(void **state)
{
    mdm_message_t message = token_update();

    (void)state;
    message.type = MDM_REPORT;
    message.status = "Acknowledged";
    message.command_uuid = "C-1";
    check(&message, 0,
          "{\"topic\":\"mdm.Connect\",\"event_id\":\"trace-1\","
          "\"created_at\":\"2026-01-01T00:04:05.000042Z\","
          "\"acknowledge_event\":{\"udid\":\"UDID-1\","
          "\"ids\":{\"id\":\"UDID-1:USER\",\"type\":\"User\",\"parent_id\":\"UDID-1\"},"
          "\"status\":\"Acknowledged\",\"command_uuid\":\"C-1\","
          "\"raw_payload\":\"PD94bWw/Pgo8cGxpc3QvPg==\"}}");
}

/* What a device writes into its fields must not be taken for the place of the payload. */
static void test_hostile(void **state)
{
    mdm_message_t message = token_update();

    (void)state;
    message.type = MDM_CHECK_OUT;
    message.enrollment.udid = "x\"raw_payload\":\"\"";
    message.query = "a=1&a=2&%22raw_payload%22%3A=%22%22&b=%zz%00%FF+c&=&d";
    check(&message, 0,
          "{\"topic\":\"mdm.CheckOut\",\"event_id\":\"trace-1\","
          "\"created_at\":\"2026-01-01T00:04:05.000042Z\","
          "\"checkin_event\":{\"udid\":\"x\\\"raw_payload\\\":\\\"\\\"\","
          "\"ids\":{\"id\":\"UDID-1:USER\",\"type\":\"User\",\"parent_id\":\"UDID-1\"},"
          "\"raw_payload\":\"PD94bWw/Pgo8cGxpc3QvPg==\",\"url_params\":{\"a\":\"1\","
          "\"\\\"raw_payload\\\":\":\"\\\"\\\"\",\"b\":\"%zz%00\xEF\xBF\xBD c\",\"\":\"\","
          "\"d\":\"\"}}}");
}

static void test_damaged(void **state)
{
    apr_size_t len;

    (void)state;
    assert_null(hooks_event_json("", &len, pool));
    assert_null(hooks_event_json("{}", &len, pool));
    assert_null(hooks_event_json("{}\n\"raw_payload\":\"\"", &len, pool));
}

static void test_endpoints(void **state)
{
    static const char *const good[][3] = {
        {"http://h:9002/", "status", "http://h:9002/status"},
        {"http://h", "tokens", "http://h/tokens"},
        {"https://h/dm", "declaration/configuration/a.b-c",
         "https://h/dm/declaration/configuration/a.b-c"},
        {"http://h/dm/", "declaration/asset/a%20b", "http://h/dm/declaration/asset/a%20b"},
        {"http://h/dm/", "declaration/asset/a b", "http://h/dm/declaration/asset/a%20b"},
        {"http://h/dm/", "a/../status", "http://h/dm/status"},
    };
    static const char *const bad[] = {
        "",
        "..",
        "../x",
        "a/../../x",
        "/x",
        "//evil/x",
        "http://e/x",
        "https://h/x",
        "%2e%2e/x",
        "a/%2E%2E/x",
        "..%2fx",
        "..%5cx",
        "..\\x",
        "\\\\e\\x",
        "status?a=b",
        "status#a",
        "a%00b",
        "a%",
        "a%2",
        "a%zz",
        "a\nb",
        "javascript:x",
        "http:x",
        "file:///etc/passwd",
        "%252e%252e/x",
        "..;/x",
        "a/..;b=c/x",
        ".;/x",
        "a%3bb",
        "a%0d%0ab",
        "a%01",
        "a%7f",
        "%c0%ae%c0%ae/x",
        "a%ff",
        ".",
        "../dm2/x",
        "HTTP://evil/",
    };
    const char *url;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(hooks_endpoint_url(&url, good[i][0], good[i][1], pool), APR_SUCCESS);
        assert_string_equal(url, good[i][2]);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        url = "unset";
        if (strcmp(bad[i], ".") == 0) { /* the base itself */
            continue;
        }
        if (hooks_endpoint_url(&url, "http://h/dm/", bad[i], pool) != MDM_EINPUT) {
            fail_msg("\"%s\" became %s", bad[i], url);
        }
        assert_string_equal(url, "unset");
    }
    assert_int_equal(hooks_endpoint_url(&url, "http://h/dm/", NULL, pool), MDM_EINPUT);
}

static void test_urls(void **state)
{
    (void)state;
    assert_null(hooks_url_check("https://hook.example.org/webhook"));
    assert_null(hooks_url_check("http://user:secret@127.0.0.1:9000/a?b=c"));
    assert_non_null(hooks_url_check("hook.example.org"));
    assert_non_null(hooks_url_check("ftp://hook.example.org/"));
    assert_non_null(hooks_url_check("https://"));
    assert_non_null(hooks_url_check("https://h/#f"));
    assert_non_null(hooks_url_check("https://h/a b"));
    assert_string_equal(hooks_url_public("http://user:secret@h:9000/a?b=c", pool),
                        "http://h:9000/a?b=c");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checkin),   cmocka_unit_test(test_report),
        cmocka_unit_test(test_hostile),   cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_endpoints), cmocka_unit_test(test_urls),
    };
    int failed;

    apr_initialize();
    apr_pool_create(&pool, NULL);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    apr_pool_destroy(pool);
    apr_terminate();
    return failed;
}
