/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns the tests of property lists: what is accepted, what is refused before libplist sees it, and
 * that values come out exactly.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <apr_general.h>
#include <apr_strings.h>
#include <cmocka.h>
#include <string.h>

#include "mdm_plist.h"

#define XML "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
#define DICT(inside) XML "<plist version=\"1.0\"><dict>" inside "</dict></plist>\n"

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

static plist_t accepted_bytes(const char *text, apr_size_t len)
{
    plist_t root = NULL;
    const char *why = NULL;

    if (mdm_plist_parse(&root, text, len, &why, pool) != APR_SUCCESS)
        fail_msg("refused: %s\n%.200s", why, text);
    assert_non_null(root);
    return root;
}

static plist_t accepted(const char *text)
{
    return accepted_bytes(text, strlen(text));
}

static const char *refused_bytes(const char *text, apr_size_t len)
{
    static char untouched;
    plist_t root = &untouched;
    const char *why = NULL;

    if (mdm_plist_parse(&root, text, len, &why, pool) != MDM_EINPUT)
        fail_msg("accepted: %.200s", text);
    assert_non_null(why);
    assert_ptr_equal(root, &untouched);
    return why;
}

static const char *refused(const char *text)
{
    return refused_bytes(text, strlen(text));
}

static const char *string_of(const char *text, const char *key)
{
    const char *value = NULL, *why = NULL;

    assert_int_equal(mdm_plist_get_string(&value, accepted(text), key, 1000, &why, pool),
                     APR_SUCCESS);
    return value;
}

static const char *repeat(const char *unit, apr_size_t count)
{
    apr_size_t len = strlen(unit), i;
    char *text = apr_palloc(pool, len * count + 1);

    for (i = 0; i < count; i++)
        memcpy(text + i * len, unit, len);
    text[len * count] = '\0';
    return text;
}

static const char *in_dict(const char *inside)
{
    return apr_pstrcat(pool, XML "<plist version=\"1.0\"><dict>", inside, "</dict></plist>", NULL);
}

static void test_begins_with_xml(void **state)
{
    (void)state;
    assert_string_equal(refused_bytes("", 0), "the body is empty");
    assert_string_equal(refused("bplist00\xd0\x08"), "the body is a binary property list");
    refused("<?xm");
    refused("{\"UDID\": \"x\"}");
    refused("<plist version=\"1.0\"><dict/></plist>");
    refused(" " DICT(""));
    refused("\xef\xbb\xbf" DICT(""));
    refused("<?XML version=\"1.0\"?><plist><dict/></plist>");
    accepted(DICT(""));
    accepted("<?xml version='1.0' encoding='UTF-8'?><plist><dict/></plist>");
}

static void test_prefixes_are_refused(void **state)
{
    static const char text[] = DICT("<key>a</key><string>&amp;x</string><key>b</key><array>"
                                    "<data>QUI=</data></array><!-- c -->");
    apr_size_t len = sizeof(text) - 2; /* the newline may be missing */

    (void)state;
    accepted_bytes(text, len);
    while (len--) {
        /* a copy of its own, so that a sanitizer sees a read behind the end */
        char *prefix = malloc(len ? len : 1);
        memcpy(prefix, text, len);
        refused_bytes(prefix, len);
        free(prefix);
    }
}

static void test_utf8(void **state)
{
    (void)state;
    assert_string_equal(string_of(DICT("<key>a</key><string>\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"
                                       "</string>"),
                                  "a"),
                        "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    assert_string_equal(refused(DICT("<key>a</key><string>\xe9</string>")),
                        "the body is not UTF-8");
    refused(DICT("<key>a</key><string>\xc3</string>"));
    refused(DICT("<key>a</key><string>\xc0\x80</string>"));
    refused(DICT("<key>a</key><string>\xe0\x80\x80</string>"));
    refused(DICT("<key>a</key><string>\xed\xa0\x80</string>"));
    refused(DICT("<key>a</key><string>\xf0\x80\x80\x80</string>"));
    refused(DICT("<key>a</key><string>\xf4\x90\x80\x80</string>"));
    refused(DICT("<key>a</key><string>\xff</string>"));
    refused_bytes(DICT("<!-- \0 -->"), sizeof(DICT("<!-- \0 -->")) - 1);
    assert_true(mdm_utf8_valid("", 0));
    assert_true(mdm_utf8_valid("\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80\xc2\x80", 12));
    assert_false(mdm_utf8_valid("a\0b", 3));
    assert_false(mdm_utf8_valid("\xe2\x82\xac", 2));
    assert_false(mdm_utf8_valid("\x80", 1));
}

static void test_root(void **state)
{
    (void)state;
    refused(XML);
    refused(XML "<plist/>");
    refused(XML "<plist version=\"1.0\"></plist>");
    refused(XML "<plist version=\"1.0\"><string>x</string></plist>");
    refused(XML "<plist version=\"1.0\"><array><dict/></array></plist>");
    refused(XML "<dict></dict>");
    refused(XML "<html><dict/></html>");
    refused(XML "<plist><dict/><dict/></plist>");
    refused(XML "<plist><dict/><key>a</key><string>x</string></plist>");
    refused(DICT("") DICT(""));
    refused(DICT("") "<plist><dict/></plist>");
    refused(DICT("") "junk");
    refused(XML "junk<plist><dict/></plist>");
    refused(XML "<plist>junk<dict/></plist>");
    refused(DICT("<key>CF$UID</key><array><plist><dict/></plist></array>"));
    accepted(DICT("") " \r\n\t<!-- behind --><?and this?>");
}

static void test_declarations(void **state)
{
    (void)state;
    accepted(XML "<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" "
                 "\"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n<plist version=\"1.0\">"
                 "<dict/></plist>");
    assert_string_equal(refused(XML "<!DOCTYPE plist [<!ENTITY a \"b\">]><plist><dict/></plist>"),
                        "a '<' inside a tag");
    assert_string_equal(refused(XML "<!DOCTYPE plist [ ]><plist><dict/></plist>"),
                        "a document type that defines something");
    refused(XML "<!DOCTYPE plist \"a>b\"><plist><dict/></plist>");
    refused(XML "<!ENTITY a \"b\"><plist><dict/></plist>");
    refused(DICT("<!DOCTYPE plist>"));
    refused(DICT("") "<!DOCTYPE plist>");
    refused(XML "<!DOCTYPE plist");
}

static void test_skipped_parts(void **state)
{
    (void)state;
    accepted(XML "<!-- <array> \" & --><plist><dict><!----><?go on?></dict></plist>");
    assert_string_equal(string_of(DICT("<key>a</key><string>x<!-- <b> -->y</string>"), "a"), "xy");
    assert_string_equal(string_of(DICT("<key>a</key><string>x<![CDATA[<&amp;>]]]>y</string>"), "a"),
                        "x<&amp;>]y");
    refused(DICT("<!-- never ends"));
    refused(XML "<plist><dict><!--></dict></plist>");
    refused(XML "<plist><dict><!---></dict></plist>");
    refused(DICT("<key>a</key><string><![CDATA[x</string>"));
    refused(DICT("<![CDATA[x]]>"));
    refused(DICT("<key>a</key><integer><![CDATA[1]]></integer>"));
    refused(DICT("<key>a</key><string><?go?></string>"));
    refused(DICT("<?never ends>"));
    /* what libplist reads, because a quote hides the end of the instruction from it */
    refused(DICT("<?a \"?><!-- \" ?><key>a</key><string>x</string> -->"));
    refused(DICT("<key>a</key><string b='>'>x</string>"));
    refused(DICT("<key>a</key><string b=\">\">x</string>"));
}

static void test_elements(void **state)
{
    (void)state;
    accepted(DICT("<key>a</key><integer>1</integer><key>b</key><real>1.5</real><key>c</key><true/>"
                  "<key>d</key><false></false><key>e</key><date>2026-01-01T00:00:00Z</date>"
                  "<key>f</key><array/><key>g</key><dict/><key>h</key><string />"));
    refused(DICT("<key>a</key><strong>x</strong>"));
    refused(DICT("<KEY>a</KEY><STRING>x</STRING>"));
    refused(DICT("<key>a</key><string>x</key>"));
    refused(DICT("<key>a</key><array><string>x</string></dict></array>"));
    refused(DICT("<key>a</key><string>x<b/></string>"));
    refused(DICT("<key>a</key><string/x>y</string>"));
    refused(DICT("<key>a</key>< string>x</string>"));
    refused(DICT("<key>a</key><string>x</ string>"));
    refused(DICT("<key>a</key><string>x</string y>"));
    refused(DICT("junk"));
    refused(DICT("</dict>"));
    assert_string_equal(string_of(DICT("<key>a</key><string >x</string\n>"), "a"), "x");
    assert_string_equal(string_of(DICT("<key>a</key><string b=\"c\" d='e'>x</string>"), "a"), "x");
}

static void test_keys(void **state)
{
    (void)state;
    assert_string_equal(refused(DICT("<key>a</key>")), "a dictionary has a key without a value");
    refused(DICT("<key>a</key><dict><key>b</key></dict>"));
    refused(DICT("<string>x</string>"));
    refused(DICT("<key>a</key><key>b</key>"));
    refused(DICT("<key>a</key><key>b</key><string>x</string>"));
    refused(DICT("<key>a</key><array><key>b</key></array>"));
    assert_string_equal(string_of(DICT("<key>&#97;&amp;</key><string>x</string>"), "a&"), "x");
    assert_null(string_of(DICT("<key> a </key><string>x</string>"), "a"));
    /* the last one counts, however it is written */
    assert_string_equal(string_of(DICT("<key>a</key><string>x</string><key>a</key>"
                                       "<string>y</string>"),
                                  "a"),
                        "y");
    assert_string_equal(string_of(DICT("<key>a</key><string>x</string><key>&#x61;</key>"
                                       "<string>y</string>"),
                                  "a"),
                        "y");
}

static void test_references(void **state)
{
    (void)state;
    assert_string_equal(string_of(DICT("<key>a</key><string>&amp;amp;&lt;&gt;&quot;&apos;"
                                       "&#65;&#x4a;&#x4A;&#233;&#x20AC;&#x1F600;</string>"),
                                  "a"),
                        "&amp;<>\"'AJJ\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    refused(DICT("<key>a</key><string>&foo;</string>"));
    refused(DICT("<key>a</key><string>&ampere;</string>"));
    refused(DICT("<key>a</key><string>a & b</string>"));
    refused(DICT("<key>a</key><string>a &amp b</string>"));
    refused(DICT("<key>a</key><string>a&</string>"));
    refused(DICT("<key>a</key><string>&;</string>"));
    refused(DICT("<key>a</key><string>&#;</string>"));
    refused(DICT("<key>a</key><string>&#x;</string>"));
    refused(DICT("<key>a</key><string>&#+65;</string>"));
    refused(DICT("<key>a</key><string>&#6A;</string>"));
    refused(DICT("<key>a</key><string>&#0;</string>"));
    refused(DICT("<key>a</key><string>&#xD800;</string>"));
    refused(DICT("<key>a</key><string>&#xDFFF;</string>"));
    refused(DICT("<key>a</key><string>&#x110000;</string>"));
    refused(DICT("<key>a</key><string>&#4294967361;</string>"));
    refused(DICT("<key>a</key><integer>&amp</integer>"));
}

static void test_strings_are_exact(void **state)
{
    (void)state;
    assert_string_equal(string_of(DICT("<key>a</key><string>  x\n\ty </string>"), "a"),
                        "  x\n\ty ");
    assert_string_equal(string_of(DICT("<key>a</key><string>x\r\ny</string>"), "a"), "x\r\ny");
    assert_string_equal(string_of(DICT("<key>a</key><string>]]></string>"), "a"), "]]>");
    /* devices send the names of things as they are, control characters included */
    assert_string_equal(string_of(DICT("<key>a</key><string>\x04</string>"), "a"), "\x04");
}

static void test_depth(void **state)
{
    const char *open = repeat("<array>", MDM_PLIST_MAX_DEPTH - 1);
    const char *close = repeat("</array>", MDM_PLIST_MAX_DEPTH - 1);

    (void)state;
    accepted(in_dict(apr_pstrcat(pool, "<key>a</key>", open, "<array/><true/>", close, NULL)));
    assert_string_equal(
        refused(in_dict(apr_pstrcat(pool, "<key>a</key>", open, "<array></array>", close, NULL))),
        "the property list is nested too deeply");
    refused(in_dict(apr_pstrcat(pool, "<key>a</key>", open, "<dict></dict>", close, NULL)));
    refused(in_dict(apr_pstrcat(pool, "<key>a</key>", repeat("<array>", 100000), NULL)));
    /* siblings are not nested */
    accepted(in_dict(apr_pstrcat(pool, "<key>a</key><array>",
                                 repeat("<array><dict></dict></array>", 1000), "</array>", NULL)));
    /* comments and CDATA sections hide elements from libplist as well */
    accepted(
        in_dict(apr_pstrcat(pool, "<!-- ", repeat("<array>", 1000), " --><key>a</key>",
                            "<string><![CDATA[", repeat("<array>", 1000), "]]></string>", NULL)));
}

static void test_elements_are_counted(void **state)
{
    /* plist, dict, key, array come first */
    const char *most = repeat("<true/>", MDM_PLIST_MAX_ELEMENTS - 4);

    (void)state;
    accepted(in_dict(apr_pstrcat(pool, "<key>a</key><array>", most, "</array>", NULL)));
    assert_string_equal(refused(in_dict(apr_pstrcat(pool, "<key>a</key><array>", most, "<true/>",
                                                    "</array>", NULL))),
                        "the property list has too many elements");
}

static const char *many_keys(unsigned count)
{
    char *text = apr_palloc(pool, count * 40 + 1);
    char *p = text;
    unsigned i;

    for (i = 0; i < count; i++)
        p += apr_snprintf(p, 40, "<key>key-%u</key><true/>", i);
    *p = '\0';
    return text;
}

static void test_cost_is_bounded(void **state)
{
    (void)state;
    accepted(in_dict(many_keys(5000)));
    refused(in_dict(many_keys(10000)));
    accepted(
        in_dict(apr_pstrcat(pool, many_keys(2500), repeat("<key>key-0</key><true/>", 2500), NULL)));
    refused(
        in_dict(apr_pstrcat(pool, many_keys(2500), repeat("<key>key-0</key><true/>", 5000), NULL)));
    /* long keys cost more */
    accepted(in_dict(
        repeat(apr_pstrcat(pool, "<key>", repeat("k", 1000), "</key><true/>", NULL), 1000)));
    refused(in_dict(
        repeat(apr_pstrcat(pool, "<key>", repeat("k", 1000), "</key><true/>", NULL), 3000)));
}

static void test_cost_of_references(void **state)
{
    (void)state;
    accepted(in_dict(
        apr_pstrcat(pool, "<key>a</key><string>", repeat("&amp;", 20000), "</string>", NULL)));
    refused(in_dict(
        apr_pstrcat(pool, "<key>a</key><string>", repeat("&amp;", 100000), "</string>", NULL)));
    /* no reference, no limit */
    accepted(in_dict(
        apr_pstrcat(pool, "<key>a</key><string>", repeat("amp; ", 1000000), "</string>", NULL)));
    accepted(in_dict(apr_pstrcat(pool, "<key>a</key><array>",
                                 repeat("<string>&lt;a&gt;</string>", 50000), "</array>", NULL)));
}

static void test_get_string(void **state)
{
    plist_t root = accepted(DICT("<key>five</key><string>12345</string><key>accent</key><string>"
                                 "\xc3\xa9</string><key>empty</key><string></string>"
                                 "<key>none</key><string/><key>data</key><data>QUI=</data>"
                                 "<key>number</key><integer>5</integer>"));
    const char *value = "before", *why = NULL;

    (void)state;
    assert_int_equal(mdm_plist_get_string(&value, root, "five", 4, &why, pool), MDM_EINPUT);
    assert_string_equal(why, "five is longer than 4 bytes");
    assert_int_equal(mdm_plist_get_string(&value, root, "accent", 1, &why, pool), MDM_EINPUT);
    assert_int_equal(mdm_plist_get_string(&value, root, "data", 9, &why, pool), MDM_EINPUT);
    assert_string_equal(why, "data is no string");
    assert_int_equal(mdm_plist_get_string(&value, root, "number", 9, &why, pool), MDM_EINPUT);
    assert_string_equal(value, "before");
    assert_int_equal(mdm_plist_get_string(&value, root, "five", 5, &why, pool), APR_SUCCESS);
    assert_string_equal(value, "12345");
    assert_int_equal(mdm_plist_get_string(&value, root, "empty", 5, &why, pool), APR_SUCCESS);
    assert_null(value);
    value = "before";
    assert_int_equal(mdm_plist_get_string(&value, root, "none", 5, &why, pool), APR_SUCCESS);
    assert_null(value);
    value = "before";
    assert_int_equal(mdm_plist_get_string(&value, root, "absent", 5, &why, pool), APR_SUCCESS);
    assert_null(value);
}

static void test_require_string(void **state)
{
    plist_t root = accepted(DICT("<key>a</key><string>x</string><key>b</key><string/>"
                                 "<key>c</key><true/>"));
    const char *value = "before", *why = NULL;

    (void)state;
    assert_int_equal(mdm_plist_require_string(&value, root, "b", 5, &why, pool), MDM_EINPUT);
    assert_string_equal(why, "b is missing or empty");
    assert_int_equal(mdm_plist_require_string(&value, root, "z", 5, &why, pool), MDM_EINPUT);
    assert_string_equal(why, "z is missing or empty");
    assert_int_equal(mdm_plist_require_string(&value, root, "c", 5, &why, pool), MDM_EINPUT);
    assert_string_equal(value, "before");
    assert_int_equal(mdm_plist_require_string(&value, root, "a", 5, &why, pool), APR_SUCCESS);
    assert_string_equal(value, "x");
}

static void test_get_data(void **state)
{
    plist_t root = accepted(DICT("<key>a</key><data>\n\tQUJD\r\n\tAP8=\n</data><key>empty</key>"
                                 "<data> </data><key>none</key><data/><key>text</key>"
                                 "<string>QUJD</string>"));
    const unsigned char *value = NULL;
    const char *why = NULL;
    apr_size_t len = 0;

    (void)state;
    assert_int_equal(mdm_plist_get_data(&value, &len, root, "text", &why, pool), MDM_EINPUT);
    assert_string_equal(why, "text is no data");
    assert_int_equal(mdm_plist_get_data(&value, &len, root, "a", &why, pool), APR_SUCCESS);
    assert_int_equal(len, 5);
    assert_memory_equal(value, "ABC\0\xff", 5);
    assert_int_equal(mdm_plist_get_data(&value, &len, root, "empty", &why, pool), APR_SUCCESS);
    assert_null(value);
    assert_int_equal(len, 0);
    assert_int_equal(mdm_plist_get_data(&value, &len, root, "none", &why, pool), APR_SUCCESS);
    assert_null(value);
    assert_int_equal(mdm_plist_get_data(&value, &len, root, "absent", &why, pool), APR_SUCCESS);
    assert_null(value);
}

static void test_broken_base64(void **state)
{
    (void)state;
    /* libplist would return less, or nothing, without a word */
    assert_string_equal(refused(DICT("<key>a</key><data>!!!!</data>")),
                        "a data element is no base64");
    refused(DICT("<key>a</key><data>QUJ</data>"));
    refused(DICT("<key>a</key><data>Q</data>"));
    refused(DICT("<key>a</key><data>Q===</data>"));
    refused(DICT("<key>a</key><data>QQ==QQ==</data>"));
    refused(DICT("<key>a</key><data>QUJD-_==</data>"));
    refused(DICT("<key>a</key><data>QUJD<!-- -->QUJD</data>"));
    refused(DICT("<key>a</key><data><![CDATA[QUJD]]></data>"));
    refused(DICT("<key>a</key><data>QUJ&#68;</data>"));
}

static void test_write(void **state)
{
    static const unsigned char bytes[] = {0, 1, 0xff, 'x'};
    const char *text, *why = NULL;
    const unsigned char *value;
    apr_size_t len, value_len;

    (void)state;
    mdm_plist_write_data(&text, &len, "BootstrapToken", bytes, sizeof(bytes), pool);
    assert_int_equal(len, strlen(text));
    assert_memory_equal(text, "<?xml", 5);
    assert_int_equal(
        mdm_plist_get_data(&value, &value_len, accepted(text), "BootstrapToken", &why, pool),
        APR_SUCCESS);
    assert_int_equal(value_len, sizeof(bytes));
    assert_memory_equal(value, bytes, sizeof(bytes));

    mdm_plist_write_data(&text, &len, "a", NULL, 0, pool);
    assert_non_null(strstr(text, "<data>"));
    accepted_bytes(text, len);

    mdm_plist_write_string(&text, &len, "DigestChallenge", "", pool);
    assert_int_equal(len, strlen(text));
    assert_non_null(strstr(text, "<key>DigestChallenge</key>"));
    assert_non_null(strstr(text, "<string></string>"));
    accepted_bytes(text, len);

    mdm_plist_write_string(&text, &len, "a", "<&>\"' \xc3\xa9", pool);
    assert_string_equal(string_of(text, "a"), "<&>\"' \xc3\xa9");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_begins_with_xml, setup, teardown),
        cmocka_unit_test_setup_teardown(test_prefixes_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_utf8, setup, teardown),
        cmocka_unit_test_setup_teardown(test_root, setup, teardown),
        cmocka_unit_test_setup_teardown(test_declarations, setup, teardown),
        cmocka_unit_test_setup_teardown(test_skipped_parts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_elements, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(test_references, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strings_are_exact, setup, teardown),
        cmocka_unit_test_setup_teardown(test_depth, setup, teardown),
        cmocka_unit_test_setup_teardown(test_elements_are_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cost_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cost_of_references, setup, teardown),
        cmocka_unit_test_setup_teardown(test_get_string, setup, teardown),
        cmocka_unit_test_setup_teardown(test_require_string, setup, teardown),
        cmocka_unit_test_setup_teardown(test_get_data, setup, teardown),
        cmocka_unit_test_setup_teardown(test_broken_base64, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write, setup, teardown),
    };
    int failed;

    apr_initialize();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    apr_terminate();
    return failed;
}
