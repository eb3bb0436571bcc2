/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns the tests of the commands that administrators queue. */
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
#define COMMAND(inside) "<key>Command</key><dict>" inside "</dict>"

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

static mdm_command_t *parsed(const char *body)
{
    mdm_command_t *command = NULL;
    const char *why = NULL;

    if (mdm_command_parse(&command, body, strlen(body), &why, pool) != APR_SUCCESS)
        fail_msg("refused: %s\n%s", why, body);
    assert_non_null(command);
    assert_ptr_equal(command->raw, body);
    assert_int_equal(command->raw_len, strlen(body));
    return command;
}

static const char *unparsed(const char *body)
{
    mdm_command_t untouched;
    mdm_command_t *command = &untouched;
    const char *why = NULL;

    if (mdm_command_parse(&command, body, strlen(body), &why, pool) != MDM_EINPUT)
        fail_msg("accepted: %s", body);
    assert_non_null(why);
    assert_ptr_equal(command, &untouched);
    return why;
}

static const char *sized(apr_size_t uuid_len, apr_size_t type_len)
{
    char *uuid = apr_pcalloc(pool, uuid_len + 1);
    char *type = apr_pcalloc(pool, type_len + 1);

    memset(uuid, 'u', uuid_len);
    memset(type, 't', type_len);
    return apr_pstrcat(pool, "<?xml version=\"1.0\"?><plist><dict><key>CommandUUID</key><string>",
                       uuid, "</string><key>Command</key><dict><key>RequestType</key><string>",
                       type, "</string></dict></dict></plist>", NULL);
}

static void test_command(void **state)
{
    const mdm_command_t *command = parsed(DICT(STRING("CommandUUID", "c&amp;1") COMMAND(
        STRING("RequestType", "InstallProfile") "<key>Payload</key><data>QUJD</data>")
                                                   STRING("Future", "x")));

    (void)state;
    assert_string_equal(command->uuid, "c&1");
    assert_string_equal(command->request_type, "InstallProfile");
    /* whitespace around, and any order: it is sent as it is */
    parsed(DICT("\n" COMMAND("\n\t" STRING("RequestType", "ProfileList")) "\n" STRING(
        "CommandUUID", "c")) "\r\n\r\n");
}

static void test_missing(void **state)
{
    (void)state;
    assert_string_equal(unparsed(DICT(COMMAND(STRING("RequestType", "ProfileList")))),
                        "CommandUUID is missing or empty");
    unparsed(DICT(STRING("CommandUUID", "") COMMAND(STRING("RequestType", "ProfileList"))));
    unparsed(DICT("<key>CommandUUID</key><true/>" COMMAND(STRING("RequestType", "ProfileList"))));
    assert_string_equal(unparsed(DICT(STRING("CommandUUID", "c"))),
                        "Command is missing or no dictionary");
    unparsed(DICT(STRING("CommandUUID", "c") STRING("Command", "ProfileList")));
    unparsed(DICT(STRING("CommandUUID", "c") STRING("RequestType", "ProfileList")));
    assert_string_equal(unparsed(DICT(STRING("CommandUUID", "c") COMMAND(""))),
                        "RequestType is missing or empty");
    unparsed(DICT(STRING("CommandUUID", "c") COMMAND(STRING("RequestType", ""))));
    unparsed(DICT(STRING("CommandUUID", "c") COMMAND("<key>RequestType</key><array/>")));
}

static void test_body(void **state)
{
    (void)state;
    assert_string_equal(unparsed(""), "the body is empty");
    unparsed("bplist00");
    unparsed("{}");
    assert_string_equal(
        unparsed("\n" DICT(STRING("CommandUUID", "c") COMMAND(STRING("RequestType", "r")))),
        "the body does not begin with <?xml");
    unparsed("<plist><dict/></plist>");
    unparsed(DICT(STRING("CommandUUID", "c") COMMAND(STRING("RequestType", "r"))) "x");
}

static void test_limits(void **state)
{
    (void)state;
    assert_int_equal(strlen(parsed(sized(127, 63))->uuid), 127);
    assert_string_equal(unparsed(sized(128, 63)), "CommandUUID is longer than 127 bytes");
    assert_string_equal(unparsed(sized(127, 64)), "RequestType is longer than 63 bytes");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_command, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_body, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
    };
    int failed;

    apr_initialize();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    apr_terminate();
    return failed;
}
