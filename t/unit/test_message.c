/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns the tests of enrollment ids, check-in messages and command reports. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <apr_general.h>
#include <apr_strings.h>
#include <cmocka.h>
#include <string.h>

#include "mdm_message.h"

#define DICT(inside)                                                                               \
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<plist version=\"1.0\"><dict>" inside             \
    "</dict></plist>\n"
#define STRING(key, value) "<key>" key "</key><string>" value "</string>"
#define DATA(key, base64) "<key>" key "</key><data>" base64 "</data>"
#define TYPE(value) STRING("MessageType", value)

#define DEVICE STRING("UDID", "D-1")
#define USER DEVICE STRING("UserID", "U-1")
#define SHARED DEVICE STRING("UserID", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF")
#define PUSH STRING("Topic", "com.example") STRING("PushMagic", "m") DATA("Token", "q80A")

static apr_pool_t *pool;

static int setup(void **state)
{
    (void)state;
    return apr_pool_create(&pool, NULL) != APR_SUCCESS;
}

static int teardown(void **state)
{
    (void)state;
    apr_pool_destroy(pool);
    return 0;
}

typedef apr_status_t parser_t(mdm_message_t **out, const char *body, apr_size_t len,
                              const char **why, apr_pool_t *pool);

static mdm_message_t *parsed(parser_t *parse, const char *body)
{
    mdm_message_t *message = NULL;
    const char *why = NULL;

    if (parse(&message, body, strlen(body), &why, pool) != APR_SUCCESS)
        fail_msg("refused: %s\n%s", why, body);
    assert_non_null(message);
    assert_ptr_equal(message->raw, body);
    assert_int_equal(message->raw_len, strlen(body));
    return message;
}

static const char *unparsed(parser_t *parse, const char *body)
{
    mdm_message_t untouched;
    mdm_message_t *message = &untouched;
    const char *why = NULL;

    if (parse(&message, body, strlen(body), &why, pool) != MDM_EINPUT)
        fail_msg("accepted: %s", body);
    assert_non_null(why);
    assert_ptr_equal(message, &untouched);
    return why;
}

static mdm_message_t *checkin(const char *body)
{
    return parsed(mdm_checkin_parse, body);
}

static const char *bad_checkin(const char *body)
{
    return unparsed(mdm_checkin_parse, body);
}

static mdm_message_t *report(const char *body)
{
    return parsed(mdm_report_parse, body);
}

static const char *bad_report(const char *body)
{
    return unparsed(mdm_report_parse, body);
}

static const char *letters(char c, apr_size_t count)
{
    char *text = apr_palloc(pool, count + 1);

    memset(text, c, count);
    text[count] = '\0';
    return text;
}

/** A body of MessageType and UDID with one string more, of so many letters. */
static const char *with_long(const char *type, const char *more, const char *key, apr_size_t count)
{
    return apr_pstrcat(pool, "<?xml version=\"1.0\"?><plist><dict>", DEVICE,
                       "<key>MessageType</key><string>", type, "</string>", more, "<key>", key,
                       "</key><string>", letters('x', count), "</string></dict></plist>", NULL);
}

static void test_type_names(void **state)
{
    (void)state;
    assert_string_equal(mdm_enrollment_type_name(MDM_DEVICE), "Device");
    assert_string_equal(mdm_enrollment_type_name(MDM_USER), "User");
    assert_string_equal(mdm_enrollment_type_name(MDM_SHARED_IPAD), "Shared iPad");
    assert_string_equal(mdm_enrollment_type_name(MDM_USER_ENROLLMENT_DEVICE),
                        "User Enrollment (Device)");
    assert_string_equal(mdm_enrollment_type_name(MDM_USER_ENROLLMENT), "User Enrollment");
    assert_string_equal(mdm_message_type_name(MDM_AUTHENTICATE), "Authenticate");
    assert_string_equal(mdm_message_type_name(MDM_GET_TOKEN), "GetToken");
    assert_string_equal(mdm_message_type_name(MDM_REPORT), "Connect");
}

static void test_id_valid(void **state)
{
    (void)state;
    assert_false(mdm_id_valid(NULL));
    assert_false(mdm_id_valid(""));
    assert_true(mdm_id_valid("x"));
    assert_true(mdm_id_valid(" a:b c\xc3\xa9\xc2\xa0"));
    assert_true(mdm_id_valid(letters('x', MDM_MAX_ID)));
    assert_false(mdm_id_valid(letters('x', MDM_MAX_ID + 1)));
    assert_false(mdm_id_valid("a\nb"));
    assert_false(mdm_id_valid("a\x1f"));
    assert_false(mdm_id_valid("a\x7f"));
    assert_false(mdm_id_valid("a\xc2\x85"));
    assert_false(mdm_id_valid("a\xe9"));
    assert_false(mdm_id_valid("a\xc2"));
    assert_false(mdm_id_valid("a "));
    assert_false(mdm_id_valid(" "));
}

static void assert_enrollment(const char *body, mdm_enrollment_type_t type, const char *id,
                              const char *parent_id)
{
    const mdm_enrollment_t *e = &checkin(body)->enrollment;

    assert_int_equal(e->type, type);
    assert_string_equal(e->id, id);
    if (parent_id) {
        assert_string_equal(e->parent_id, parent_id);
        assert_string_equal(e->device_id, parent_id);
    } else {
        assert_null(e->parent_id);
        assert_string_equal(e->device_id, id);
    }
}

static void test_enrollment_ids(void **state)
{
    (void)state;
    assert_enrollment(DICT(TYPE("CheckOut") DEVICE), MDM_DEVICE, "D-1", NULL);
    assert_enrollment(DICT(TYPE("CheckOut") USER), MDM_USER, "D-1:U-1", "D-1");
    assert_enrollment(DICT(TYPE("CheckOut") SHARED STRING("UserShortName", "ann")), MDM_SHARED_IPAD,
                      "D-1:ann", "D-1");
    assert_enrollment(DICT(TYPE("CheckOut") STRING("EnrollmentID", "E-1")),
                      MDM_USER_ENROLLMENT_DEVICE, "E-1", NULL);
    assert_enrollment(
        DICT(TYPE("CheckOut") STRING("EnrollmentID", "E-1") STRING("EnrollmentUserID", "V-1")),
        MDM_USER_ENROLLMENT, "E-1:V-1", "E-1");
    /* UDID goes first; empty is absent; the members of the other kind do not count */
    assert_enrollment(DICT(TYPE("CheckOut") STRING("EnrollmentID", "E-1")
                               STRING("EnrollmentUserID", "V-1") DEVICE),
                      MDM_DEVICE, "D-1", NULL);
    assert_enrollment(DICT(TYPE("CheckOut") STRING("UDID", "") STRING("EnrollmentID", "E-1")
                               STRING("UserID", "U-1")),
                      MDM_USER_ENROLLMENT_DEVICE, "E-1", NULL);
    assert_enrollment(DICT(TYPE("CheckOut") DEVICE "<key>UserID</key><string/>"), MDM_DEVICE, "D-1",
                      NULL);
    /* kept as sent */
    assert_enrollment(DICT(TYPE("CheckOut") STRING("UDID", " d&amp;\xc3\xa9")), MDM_DEVICE,
                      " d&\xc3\xa9", NULL);
    assert_enrollment(
        DICT(TYPE("CheckOut") DEVICE STRING("UserID", "ffffffff-ffff-ffff-ffff-ffffffffffff")),
        MDM_USER, "D-1:ffffffff-ffff-ffff-ffff-ffffffffffff", "D-1");
}

static void test_bad_enrollment_ids(void **state)
{
    (void)state;
    assert_string_equal(bad_checkin(DICT(TYPE("CheckOut"))), "neither UDID nor EnrollmentID");
    bad_checkin(DICT(TYPE("CheckOut") STRING("UDID", "")));
    bad_checkin(DICT(TYPE("CheckOut") STRING("UserID", "U-1")));
    assert_string_equal(bad_checkin(DICT(TYPE("CheckOut") "<key>UDID</key><integer>1</integer>")),
                        "UDID is no string");
    bad_checkin(DICT(TYPE("CheckOut") STRING("UDID", "a&#10;b")));
    bad_checkin(DICT(TYPE("CheckOut") SHARED STRING("UserShortName", "a\tb")));
    assert_string_equal(bad_checkin(DICT(TYPE("CheckOut") SHARED)),
                        "UserShortName is missing or empty, on a Shared iPad");
    bad_checkin(DICT(TYPE("CheckOut") SHARED STRING("UserShortName", "")));
    bad_checkin(DICT(TYPE("CheckOut") SHARED "<key>UserShortName</key><true/>"));
}

static void test_long_enrollment_ids(void **state)
{
    (void)state;
    /* "D-1:" and 251 letters make 255 bytes */
    assert_int_equal(strlen(checkin(with_long("CheckOut", "", "UserID", 251))->enrollment.id),
                     MDM_MAX_ID);
    bad_checkin(with_long("CheckOut", "", "UserID", 252));
    checkin(with_long("CheckOut", STRING("UserID", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"),
                      "UserShortName", 251));
    bad_checkin(with_long("CheckOut", STRING("UserID", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"),
                          "UserShortName", 252));
    checkin(with_long("CheckOut", "", "EnrollmentID", 255));
    assert_string_equal(bad_checkin(with_long("CheckOut", "", "EnrollmentID", 256)),
                        "EnrollmentID is longer than 255 bytes");
    checkin(with_long("CheckOut", STRING("UserID", "U-1"), "UserLongName", 255));
    bad_checkin(with_long("CheckOut", STRING("UserID", "U-1"), "UserLongName", 256));
    bad_checkin(with_long("CheckOut", STRING("UserID", "U-1"), "UserShortName", 256));
    /* on a device channel these are nobody's names */
    assert_null(checkin(with_long("CheckOut", "", "UserLongName", 256))->enrollment.user_long_name);
    assert_string_equal(checkin(with_long("CheckOut", "", "UDID", 255))->enrollment.id,
                        letters('x', MDM_MAX_ID));
    bad_checkin(with_long("CheckOut", "", "UDID", 256));
}

static void test_own_fields(void **state)
{
    const mdm_enrollment_t *e =
        &checkin(DICT(TYPE("CheckOut") USER STRING("EnrollmentID", "E-1")
                          STRING("UserShortName", "ann") STRING("UserLongName", "Ann B.")))
             ->enrollment;

    (void)state;
    assert_string_equal(e->udid, "D-1");
    assert_string_equal(e->enrollment_id, "E-1");
    assert_string_equal(e->user_short_name, "ann");
    assert_string_equal(e->user_long_name, "Ann B.");
    e = &checkin(DICT(TYPE("CheckOut") DEVICE))->enrollment;
    assert_null(e->enrollment_id);
    assert_null(e->user_short_name);
    assert_null(e->user_long_name);
}

static void test_message_type(void **state)
{
    mdm_message_type_t type;

    (void)state;
    assert_string_equal(bad_checkin(DICT(DEVICE)), "MessageType is missing or empty");
    assert_string_equal(bad_checkin(DICT(DEVICE TYPE("Connect"))), "MessageType is unknown");
    bad_checkin(DICT(DEVICE TYPE("")));
    bad_checkin(DICT(DEVICE TYPE("authenticate")));
    bad_checkin(DICT(DEVICE TYPE("Authenticate ")));
    bad_checkin(DICT(DEVICE "<key>MessageType</key><integer>1</integer>"));
    bad_checkin(with_long("x", "", "MessageType", 100));
    bad_checkin("");
    bad_checkin("bplist00");
    bad_checkin("MessageType=Authenticate");
    for (type = MDM_AUTHENTICATE; type <= MDM_GET_TOKEN; type++) {
        const char *channel = type == MDM_USER_AUTHENTICATE ? USER : DEVICE;
        const char *body =
            apr_pstrcat(pool, "<?xml version=\"1.0\"?><plist><dict>", channel, PUSH,
                        STRING("Endpoint", "status"), "<key>MessageType</key>", "<string>",
                        mdm_message_type_name(type), "</string></dict></plist>", NULL);
        assert_int_equal(checkin(body)->type, type);
    }
}

static void test_channels(void **state)
{
    (void)state;
    assert_string_equal(bad_checkin(DICT(USER TYPE("Authenticate"))),
                        "Authenticate on a user channel");
    bad_checkin(
        DICT(STRING("EnrollmentID", "E") STRING("EnrollmentUserID", "V") TYPE("Authenticate")));
    bad_checkin(DICT(USER TYPE("SetBootstrapToken")));
    bad_checkin(DICT(USER TYPE("GetBootstrapToken")));
    bad_checkin(DICT(SHARED STRING("UserShortName", "ann") TYPE("GetBootstrapToken")));
    assert_string_equal(bad_checkin(DICT(DEVICE TYPE("UserAuthenticate"))),
                        "UserAuthenticate on a device channel");
    bad_checkin(DICT(STRING("EnrollmentID", "E") TYPE("UserAuthenticate")));
    checkin(DICT(USER TYPE("TokenUpdate") PUSH));
    checkin(DICT(USER TYPE("CheckOut")));
    checkin(DICT(USER TYPE("GetToken")));
    checkin(DICT(USER TYPE("DeclarativeManagement") STRING("Endpoint", "tokens")));
}

static void test_authenticate(void **state)
{
    const mdm_message_t *m = checkin(DICT(DEVICE TYPE("Authenticate") STRING("Topic", "com.example")
                                              STRING("SerialNumber", "C0")));

    (void)state;
    assert_string_equal(m->serial_number, "C0");
    assert_string_equal(m->topic, "com.example");
    m = checkin(DICT(DEVICE TYPE("Authenticate") STRING("SerialNumber", "")));
    assert_null(m->serial_number);
    assert_null(m->topic);
    checkin(with_long("Authenticate", "", "SerialNumber", 127));
    assert_string_equal(bad_checkin(with_long("Authenticate", "", "SerialNumber", 128)),
                        "SerialNumber is longer than 127 bytes");
    checkin(with_long("Authenticate", "", "Topic", 255));
    bad_checkin(with_long("Authenticate", "", "Topic", 256));
}

static void test_token_update(void **state)
{
    const mdm_message_t *m =
        checkin(DICT(DEVICE TYPE("TokenUpdate") PUSH DATA("UnlockToken", "AP8=")));

    (void)state;
    assert_string_equal(m->topic, "com.example");
    assert_string_equal(m->push_magic, "m");
    assert_string_equal(m->token_hex, "abcd00");
    assert_int_equal(m->unlock_token_len, 2);
    assert_memory_equal(m->unlock_token, "\0\xff", 2);
    m = checkin(DICT(DEVICE TYPE("TokenUpdate") PUSH DATA("UnlockToken", "")));
    assert_null(m->unlock_token);
    assert_int_equal(m->unlock_token_len, 0);
    checkin(with_long("TokenUpdate", STRING("Topic", "t") DATA("Token", "q80A"), "PushMagic", 127));
    bad_checkin(
        with_long("TokenUpdate", STRING("Topic", "t") DATA("Token", "q80A"), "PushMagic", 128));
    bad_checkin(with_long("TokenUpdate", PUSH, "Topic", 256));
}

static void test_token_update_without(void **state)
{
    (void)state;
    assert_string_equal(bad_checkin(DICT(DEVICE TYPE("TokenUpdate") STRING("PushMagic", "m")
                                             DATA("Token", "q80A"))),
                        "Topic is missing or empty");
    assert_string_equal(
        bad_checkin(DICT(DEVICE TYPE("TokenUpdate") STRING("Topic", "t") DATA("Token", "q80A"))),
        "PushMagic is missing or empty");
    assert_string_equal(
        bad_checkin(DICT(DEVICE TYPE("TokenUpdate") STRING("Topic", "t") STRING("PushMagic", "m"))),
        "Token is missing or empty");
    bad_checkin(DICT(DEVICE TYPE("TokenUpdate") PUSH DATA("Token", "")));
    bad_checkin(DICT(DEVICE TYPE("TokenUpdate") PUSH STRING("Topic", "")));
    bad_checkin(DICT(DEVICE TYPE("TokenUpdate") PUSH STRING("PushMagic", "")));
    assert_string_equal(bad_checkin(DICT(DEVICE TYPE("TokenUpdate") PUSH STRING("Token", "ab"))),
                        "Token is no data");
    bad_checkin(DICT(DEVICE TYPE("TokenUpdate") PUSH STRING("UnlockToken", "ab")));
}

static void test_long_token(void **state)
{
    const char *before = "<?xml version=\"1.0\"?><plist><dict>" DEVICE TYPE("TokenUpdate") PUSH
        "<key>Token</key><data>";
    const char *after = "</data></dict></plist>";
    const mdm_message_t *m;

    (void)state;
    /* 168 digits are 126 bytes */
    m = checkin(apr_pstrcat(pool, before, letters('/', 168), "/w==", after, NULL));
    assert_string_equal(m->token_hex, letters('f', 254));
    assert_string_equal(
        bad_checkin(apr_pstrcat(pool, before, letters('/', 168), "//8=", after, NULL)),
        "Token is longer than 127 bytes");
}

static void test_bootstrap_token(void **state)
{
    const mdm_message_t *m =
        checkin(DICT(DEVICE TYPE("SetBootstrapToken") DATA("BootstrapToken", "QUJD")));

    (void)state;
    assert_int_equal(m->bootstrap_token_len, 3);
    assert_memory_equal(m->bootstrap_token, "ABC", 3);
    assert_null(checkin(DICT(DEVICE TYPE("SetBootstrapToken")))->bootstrap_token);
    assert_null(checkin(DICT(DEVICE TYPE("SetBootstrapToken") "<key>BootstrapToken</key><data/>"))
                    ->bootstrap_token);
    bad_checkin(DICT(DEVICE TYPE("SetBootstrapToken") STRING("BootstrapToken", "QUJD")));
    checkin(DICT(DEVICE TYPE("GetBootstrapToken") STRING("AwaitingConfiguration", "x")));
}

static void test_other_checkins(void **state)
{
    const mdm_message_t *m = checkin(DICT(USER TYPE("UserAuthenticate")));

    (void)state;
    assert_null(m->digest_response);
    m = checkin(DICT(USER TYPE("UserAuthenticate") STRING("DigestResponse", "")));
    assert_null(m->digest_response);
    m = checkin(DICT(USER TYPE("UserAuthenticate") STRING("DigestResponse", "d=1")));
    assert_string_equal(m->digest_response, "d=1");

    m = checkin(DICT(DEVICE TYPE("DeclarativeManagement")
                         STRING("Endpoint", "declaration/activation/a b") DATA("Data", "e30=")));
    assert_string_equal(m->endpoint, "declaration/activation/a b");
    assert_int_equal(m->data_len, 2);
    assert_memory_equal(m->data, "{}", 2);
    assert_null(checkin(DICT(DEVICE TYPE("DeclarativeManagement") STRING("Endpoint", "t")))->data);
    assert_string_equal(bad_checkin(DICT(DEVICE TYPE("DeclarativeManagement"))),
                        "Endpoint is missing or empty");
    bad_checkin(DICT(DEVICE TYPE("DeclarativeManagement") STRING("Endpoint", "")));
    bad_checkin(with_long("DeclarativeManagement", "", "Endpoint", 2000));

    m = checkin(DICT(DEVICE TYPE("GetToken") STRING("TokenServiceType", "com.apple.maid")));
    assert_string_equal(m->token_service_type, "com.apple.maid");
    assert_null(checkin(DICT(DEVICE TYPE("GetToken")))->token_service_type);
}

static void test_report(void **state)
{
    const mdm_message_t *m = report(DICT(USER STRING("Status", "Acknowledged") STRING(
        "CommandUUID", "c-1") STRING("RequestType", "DeviceInformation")));

    (void)state;
    assert_int_equal(m->type, MDM_REPORT);
    assert_string_equal(m->enrollment.id, "D-1:U-1");
    assert_string_equal(m->status, "Acknowledged");
    assert_int_equal(m->status_kind, MDM_STATUS_FINAL);
    assert_string_equal(m->command_uuid, "c-1");
    assert_string_equal(m->request_type, "DeviceInformation");

    m = report(DICT(DEVICE STRING("Status", "Idle")));
    assert_int_equal(m->status_kind, MDM_STATUS_IDLE);
    assert_null(m->command_uuid);
    assert_null(m->request_type);
    assert_int_equal(report(DICT(DEVICE STRING("Status", "NotNow")))->status_kind,
                     MDM_STATUS_NOT_NOW);
    assert_int_equal(report(DICT(DEVICE STRING("Status", "Error")))->status_kind, MDM_STATUS_FINAL);
    assert_int_equal(report(DICT(DEVICE STRING("Status", "CommandFormatError")))->status_kind,
                     MDM_STATUS_FINAL);
    assert_int_equal(report(DICT(DEVICE STRING("Status", "idle")))->status_kind, MDM_STATUS_FINAL);
    /* a check-in's type is not looked at */
    assert_int_equal(report(DICT(DEVICE STRING("Status", "Idle") TYPE("CheckOut")))->type,
                     MDM_REPORT);
}

static void test_bad_reports(void **state)
{
    (void)state;
    assert_string_equal(bad_report(DICT(DEVICE)), "Status is missing or empty");
    bad_report(DICT(DEVICE STRING("Status", "")));
    bad_report(DICT(DEVICE "<key>Status</key><true/>"));
    assert_string_equal(bad_report(DICT(STRING("Status", "Idle"))),
                        "neither UDID nor EnrollmentID");
    bad_report(DICT(SHARED STRING("Status", "Idle")));
    bad_report("");
    report(with_long("", "", "Status", 31));
    assert_string_equal(bad_report(with_long("", "", "Status", 32)),
                        "Status is longer than 31 bytes");
    report(with_long("", STRING("Status", "Error"), "CommandUUID", 127));
    bad_report(with_long("", STRING("Status", "Error"), "CommandUUID", 128));
    bad_report(DICT(DEVICE STRING("Status", "Error") "<key>CommandUUID</key><true/>"));
    /* only for the log, so it is no reason to refuse the report */
    assert_non_null(
        report(with_long("", STRING("Status", "Error"), "RequestType", 63))->request_type);
    assert_null(report(with_long("", STRING("Status", "Error"), "RequestType", 64))->request_type);
    assert_null(report(DICT(DEVICE STRING("Status", "Error") "<key>RequestType</key><true/>"))
                    ->request_type);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_type_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_id_valid, setup, teardown),
        cmocka_unit_test_setup_teardown(test_enrollment_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_enrollment_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_enrollment_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(test_own_fields, setup, teardown),
        cmocka_unit_test_setup_teardown(test_message_type, setup, teardown),
        cmocka_unit_test_setup_teardown(test_channels, setup, teardown),
        cmocka_unit_test_setup_teardown(test_authenticate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_token_update, setup, teardown),
        cmocka_unit_test_setup_teardown(test_token_update_without, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_token, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bootstrap_token, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_checkins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_report, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_reports, setup, teardown),
    };
    int failed;

    apr_initialize();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    apr_terminate();
    return failed;
}
