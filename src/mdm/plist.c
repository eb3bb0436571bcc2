/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Owns the way between XML property lists and libplist: the guards before libplist reads a text,
 * reading members of a dictionary, writing small dictionaries. Must not know what any key means.
 *
 * libplist 2.2 is lenient and trusting: it frees nested nodes by recursion without a limit, loses
 * data silently (broken base64, a key without a value, whatever follows the root), and needs
 * quadratic time for dictionaries with many or repeated keys and for strings with many character
 * references. So scan() walks the text first. It takes a plain subset of XML, in which libplist
 * cannot see other elements than scan() did: what both could read differently is refused.
 */
#include <apr_strings.h>
#include <stdint.h>
#include <string.h>

#include "mdm_plist.h"

/** Limit of what the scan believes libplist will cost. A unit is one step along a list of nodes,
 * or 1 KiB of memory moved: some 10 ns each. One dictionary of 5,000 keys fits. */
#define MAX_WORK ((apr_uint64_t)16 * 1024 * 1024)

typedef enum {
    NO_ELEMENT,
    E_PLIST,
    E_DICT,
    E_ARRAY,
    E_KEY, /* from here on: elements without children */
    E_STRING,
    E_DATA,
    E_DATE,
    E_INTEGER,
    E_REAL,
    E_TRUE,
    E_FALSE
} element_t;

static const char *const element_names[] = {"",     "plist", "dict",    "array", "key",  "string",
                                            "data", "date",  "integer", "real",  "true", "false"};

#define ELEMENT_COUNT (sizeof(element_names) / sizeof(element_names[0]))

typedef struct {
    element_t element;
    apr_uint32_t children;
} frame_t;

typedef struct {
    const char *p;
    const char *end;
    frame_t open[MDM_PLIST_MAX_DEPTH + 2]; /* plist, dictionaries and arrays, and one leaf */
    unsigned depth;                        /* frames in use */
    unsigned containers;                   /* dictionaries and arrays among them */
    apr_uint32_t elements;
    apr_uint64_t work;
    int root_closed;
    const char *leaf_text;  /* where the text of the open leaf began */
    apr_size_t data_digits; /* base64 digits and padding seen in the open data element */
    apr_size_t data_padding;
} scan_t;

/* All functions named scan_... move s->p on and return NULL, or the reason for refusing. */

static element_t innermost(const scan_t *s)
{
    return s->depth ? s->open[s->depth - 1].element : NO_ELEMENT;
}

static int is_leaf(element_t element)
{
    return element >= E_KEY;
}

static int is_container(element_t element)
{
    return element == E_DICT || element == E_ARRAY;
}

static int is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static int begins_with(const scan_t *s, const char *prefix)
{
    apr_size_t len = strlen(prefix);
    return (apr_size_t)(s->end - s->p) >= len && !memcmp(s->p, prefix, len);
}

static const char *scan_work(scan_t *s, apr_uint64_t work)
{
    s->work += work;
    if (s->work > MAX_WORK)
        return "the property list has too many keys in one dictionary, or too many character "
               "references in one string";
    return NULL;
}

/** Find the end of a tag, declaration or processing instruction: the first '>'. Refuses those
 * where libplist, which knows double quotes but not single ones, would find another end. */
static const char *scan_markup_end(const scan_t *s, const char **end)
{
    const char *p;
    unsigned quotes = 0, apostrophes = 0;

    for (p = s->p + 1; p < s->end && *p != '>'; p++) {
        if (*p == '<')
            return "a '<' inside a tag";
        if (*p == '"')
            quotes++;
        if (*p == '\'')
            apostrophes++;
    }
    if (p == s->end)
        return "the property list ends inside a tag";
    if (quotes % 2 || apostrophes % 2)
        return "a '>' inside a quoted value";
    *end = p;
    return NULL;
}

/** Skip a comment or CDATA section; s->p is behind its opening. */
static const char *scan_until(scan_t *s, const char *mark)
{
    apr_size_t len = strlen(mark);

    while ((apr_size_t)(s->end - s->p) >= len) {
        const char *hit = memchr(s->p, mark[0], (apr_size_t)(s->end - s->p) - len + 1);
        if (!hit)
            break;
        if (!memcmp(hit, mark, len)) {
            s->p = hit + len;
            return NULL;
        }
        s->p = hit + 1;
    }
    return "a comment or CDATA section does not end";
}

static const char *scan_comment(scan_t *s)
{
    /* libplist decodes only what stands before it */
    if (innermost(s) == E_DATA)
        return "a comment inside a data element";
    s->p += strlen("<!--");
    return scan_until(s, "-->");
}

static const char *scan_cdata(scan_t *s)
{
    if (innermost(s) != E_STRING && innermost(s) != E_KEY)
        return "a CDATA section outside of a string";
    s->p += strlen("<![CDATA[");
    return scan_until(s, "]]>");
}

static const char *scan_doctype(scan_t *s)
{
    const char *end;
    const char *why = scan_markup_end(s, &end);

    if (why)
        return why;
    if (s->depth || s->root_closed)
        return "a document type inside the property list";
    if (memchr(s->p, '[', (apr_size_t)(end - s->p)))
        return "a document type that defines something";
    s->p = end + 1;
    return NULL;
}

static const char *scan_instruction(scan_t *s)
{
    const char *end;
    const char *why = scan_markup_end(s, &end);

    if (why)
        return why;
    if (is_leaf(innermost(s)))
        return "a processing instruction inside a value";
    if (end[-1] != '?')
        return "a processing instruction does not end";
    s->p = end + 1;
    return NULL;
}

/** Read an element's name at p. @return NO_ELEMENT if no property list has such an element */
static element_t scan_name(const scan_t *s, const char *p, const char **name_end)
{
    const char *stop = p;
    apr_size_t len;
    unsigned i;

    while (stop < s->end && *stop >= 'a' && *stop <= 'z')
        stop++;
    len = (apr_size_t)(stop - p);
    *name_end = stop;
    for (i = NO_ELEMENT + 1; i < ELEMENT_COUNT; i++) {
        if (strlen(element_names[i]) == len && !memcmp(element_names[i], p, len))
            return (element_t)i;
    }
    return NO_ELEMENT;
}

/** May this element stand here? */
static const char *check_place(const scan_t *s, element_t element)
{
    const frame_t *parent = s->depth ? &s->open[s->depth - 1] : NULL;

    if (!parent) {
        if (element != E_PLIST || s->root_closed)
            return "an element outside of the plist element";
        return NULL;
    }
    if (element == E_PLIST)
        return "a plist element inside another";
    if (is_leaf(parent->element))
        return "an element inside a value";
    if (parent->element == E_PLIST && parent->children)
        return "the property list has more than one root";
    if (parent->element == E_PLIST && element != E_DICT)
        return "the root of the property list is no dictionary";
    if (parent->element == E_DICT && parent->children % 2 == 0 && element != E_KEY)
        return "a dictionary has a value without a key";
    if (element == E_KEY && (parent->element == E_ARRAY || parent->children % 2))
        return "a key stands where a value belongs";
    return NULL;
}

static const char *push(scan_t *s, element_t element)
{
    if (is_container(element)) {
        if (s->containers == MDM_PLIST_MAX_DEPTH)
            return "the property list is nested too deeply";
        s->containers++;
    }
    s->open[s->depth].element = element;
    s->open[s->depth].children = 0;
    s->depth++;
    s->leaf_text = s->p;
    s->data_digits = 0;
    s->data_padding = 0;
    return NULL;
}

static const char *scan_open(scan_t *s)
{
    const char *end, *name_end, *why;
    element_t element;

    if ((why = scan_markup_end(s, &end)))
        return why;
    element = scan_name(s, s->p + 1, &name_end);
    if (element == NO_ELEMENT ||
        !(name_end == end || is_space(*name_end) || (*name_end == '/' && name_end + 1 == end)))
        return "an element that property lists do not have";
    if (++s->elements > MDM_PLIST_MAX_ELEMENTS)
        return "the property list has too many elements";
    if ((why = check_place(s, element)))
        return why;
    if (s->depth)
        s->open[s->depth - 1].children++;
    s->p = end + 1;
    if (end[-1] == '/') {
        if (element == E_PLIST)
            return "the property list is empty";
        return NULL;
    }
    return push(s, element);
}

/** What is known of an element at its end. */
static const char *check_closed(scan_t *s, element_t element, apr_uint32_t children,
                                const char *text_end)
{
    if (element == E_DICT && children % 2)
        return "a dictionary has a key without a value";
    if (element == E_PLIST && !children)
        return "the property list is empty";
    if (element == E_DATA && (s->data_padding > 2 || (s->data_digits + s->data_padding) % 4 != 0))
        return "a data element is no base64";
    if (element == E_KEY) {
        /* libplist compares a new key with the earlier ones: with all of them, if their hashes
         * were chosen to collide, or to replace the value of a repeated one */
        apr_uint64_t earlier = s->open[s->depth - 1].children / 2;
        apr_size_t len = (apr_size_t)(text_end - s->leaf_text);
        return scan_work(s, earlier * (1 + len / 64));
    }
    return NULL;
}

static const char *scan_close(scan_t *s)
{
    const char *text_end = s->p;
    const char *p;
    element_t element = scan_name(s, s->p + 2, &p);
    frame_t closed;

    if (!s->depth || element != innermost(s))
        return "an end tag that does not fit";
    while (p < s->end && is_space(*p))
        p++;
    if (p == s->end || *p != '>')
        return "an end tag does not end";
    s->p = p + 1;
    closed = s->open[--s->depth];
    if (is_container(element))
        s->containers--;
    if (element == E_PLIST)
        s->root_closed = 1;
    return check_closed(s, element, closed.children, text_end);
}

static const char *scan_markup(scan_t *s)
{
    if (begins_with(s, "<!--"))
        return scan_comment(s);
    if (begins_with(s, "<![CDATA["))
        return scan_cdata(s);
    if (begins_with(s, "<!DOCTYPE"))
        return scan_doctype(s);
    if (begins_with(s, "<!"))
        return "a declaration inside the property list";
    if (begins_with(s, "<?"))
        return scan_instruction(s);
    if (begins_with(s, "</"))
        return scan_close(s);
    return scan_open(s);
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 16;
}

/** Is name, up to stop, the inside of "&#38;" or "&#x26;" for a character that UTF-8 has? */
static int is_numeric_reference(const char *name, const char *stop)
{
    int base = 10;
    apr_uint32_t value = 0;

    if (name == stop || *name++ != '#')
        return 0;
    if (name < stop && *name == 'x') {
        base = 16;
        name++;
    }
    if (name == stop)
        return 0;
    for (; name < stop; name++) {
        int digit = digit_value(*name);
        if (digit >= base)
            return 0;
        value = value * (apr_uint32_t)base + (apr_uint32_t)digit;
        if (value > 0x10FFFF)
            return 0;
    }
    /* libplist would write a surrogate as three bytes that are no UTF-8 */
    return value && (value < 0xD800 || value > 0xDFFF);
}

static int is_reference(const char *name, const char *stop)
{
    static const char *const names[] = {"amp", "lt", "gt", "quot", "apos"};
    apr_size_t len = (apr_size_t)(stop - name);
    unsigned i;

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strlen(names[i]) == len && !memcmp(names[i], name, len))
            return 1;
    }
    return is_numeric_reference(name, stop);
}

/** Check the character references of one run of text. */
static const char *scan_references(scan_t *s, const char *text, const char *stop)
{
    apr_uint64_t len = (apr_uint64_t)(stop - text);
    apr_uint64_t count = 0;

    while ((text = memchr(text, '&', (apr_size_t)(stop - text)))) {
        const char *semicolon = memchr(text, ';', (apr_size_t)(stop - text));
        if (!semicolon || !is_reference(text + 1, semicolon))
            return "a character reference that property lists do not have";
        text = semicolon + 1;
        count++;
    }
    /* libplist moves the rest of the run for each of them */
    return scan_work(s, count * len / 1024);
}

static const char *scan_base64(scan_t *s, const char *text, const char *stop)
{
    for (; text < stop; text++) {
        char c = *text;
        if (is_space(c))
            continue;
        if (c == '=') {
            s->data_padding++;
            continue;
        }
        if (s->data_padding || !((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                                 (c >= '0' && c <= '9') || c == '+' || c == '/'))
            return "a data element is no base64";
        s->data_digits++;
    }
    return NULL;
}

static const char *scan_space(const char *text, const char *stop)
{
    for (; text < stop; text++) {
        if (!is_space(*text))
            return "text outside of a value";
    }
    return NULL;
}

static const char *scan_text(scan_t *s)
{
    const char *text = s->p;
    const char *stop = memchr(text, '<', (apr_size_t)(s->end - text));
    element_t element = innermost(s);

    if (!stop)
        stop = s->end;
    s->p = stop;
    if (!is_leaf(element))
        return scan_space(text, stop);
    if (element == E_DATA)
        return scan_base64(s, text, stop);
    return scan_references(s, text, stop);
}

/** @return NULL if libplist may read the text, or the reason why not */
static const char *scan(const char *text, apr_size_t len)
{
    scan_t s = {.p = text, .end = text + len};
    const char *why = NULL;

    while (!why && s.p < s.end)
        why = *s.p == '<' ? scan_markup(&s) : scan_text(&s);
    if (!why && !s.root_closed)
        why = "the property list is cut short";
    return why;
}

/** Length of the UTF-8 sequence at p, 0 if there is no valid one. */
static apr_size_t utf8_sequence(const unsigned char *p, apr_size_t len)
{
    apr_size_t size, i;
    apr_uint32_t c;

    if (p[0] < 0x80)
        return p[0] ? 1 : 0;
    if (p[0] < 0xC2 || p[0] > 0xF4)
        return 0;
    size = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    if (size > len)
        return 0;
    c = p[0] & (0xFFu >> (size + 1));
    for (i = 1; i < size; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3Fu);
    }
    if ((size == 3 && c < 0x800) || (size == 4 && c < 0x10000) || c > 0x10FFFF ||
        (c >= 0xD800 && c <= 0xDFFF))
        return 0;
    return size;
}

int mdm_utf8_valid(const char *text, apr_size_t len)
{
    const unsigned char *p = (const unsigned char *)text;

    while (len) {
        apr_size_t size = utf8_sequence(p, len);
        if (!size)
            return 0;
        p += size;
        len -= size;
    }
    return 1;
}

static apr_status_t free_plist(void *plist)
{
    plist_free(plist);
    return APR_SUCCESS;
}

static const char *check_text(const char *text, apr_size_t len)
{
    static const char xml[] = "<?xml", binary[] = "bplist";

    if (!len)
        return "the body is empty";
    if (len >= sizeof(binary) - 1 && !memcmp(text, binary, sizeof(binary) - 1))
        return "the body is a binary property list";
    if (len < sizeof(xml) - 1 || memcmp(text, xml, sizeof(xml) - 1) != 0)
        return "the body does not begin with <?xml";
    if ((apr_uint64_t)len > UINT32_MAX)
        return "the body is too long";
    if (!mdm_utf8_valid(text, len))
        return "the body is not UTF-8";
    return scan(text, len);
}

apr_status_t mdm_plist_parse(plist_t *out, const char *text, apr_size_t len, const char **why,
                             apr_pool_t *pool)
{
    plist_t root = NULL;
    const char *reason = check_text(text, len);

    if (reason) {
        *why = reason;
        return MDM_EINPUT;
    }
    /* libplist 2.2 returns nothing, and adds to a root that is not NULL */
    plist_from_xml(text, (uint32_t)len, &root);
    if (!root) {
        *why = "the body is no valid property list";
        return MDM_EINPUT;
    }
    apr_pool_cleanup_register(pool, root, free_plist, apr_pool_cleanup_null);
    if (plist_get_node_type(root) != PLIST_DICT) {
        *why = "the root of the property list is no dictionary";
        return MDM_EINPUT;
    }
    *out = root;
    return APR_SUCCESS;
}

apr_status_t mdm_plist_get_string(const char **value, plist_t dict, const char *key, apr_size_t max,
                                  const char **why, apr_pool_t *pool)
{
    plist_t node = plist_dict_get_item(dict, key);
    const char *string;
    uint64_t len = 0;

    if (!node) {
        *value = NULL;
        return APR_SUCCESS;
    }
    if (plist_get_node_type(node) != PLIST_STRING) {
        *why = apr_psprintf(pool, "%s is no string", key);
        return MDM_EINPUT;
    }
    string = plist_get_string_ptr(node, &len);
    if (len > max) {
        *why = apr_psprintf(pool, "%s is longer than %" APR_SIZE_T_FMT " bytes", key, max);
        return MDM_EINPUT;
    }
    *value = string && len ? apr_pstrmemdup(pool, string, (apr_size_t)len) : NULL;
    return APR_SUCCESS;
}

apr_status_t mdm_plist_require_string(const char **value, plist_t dict, const char *key,
                                      apr_size_t max, const char **why, apr_pool_t *pool)
{
    const char *string;
    apr_status_t rv = mdm_plist_get_string(&string, dict, key, max, why, pool);

    if (rv != APR_SUCCESS)
        return rv;
    if (!string) {
        *why = apr_psprintf(pool, "%s is missing or empty", key);
        return MDM_EINPUT;
    }
    *value = string;
    return APR_SUCCESS;
}

apr_status_t mdm_plist_get_data(const unsigned char **value, apr_size_t *len, plist_t dict,
                                const char *key, const char **why, apr_pool_t *pool)
{
    plist_t node = plist_dict_get_item(dict, key);
    const char *data;
    uint64_t size = 0;

    if (node && plist_get_node_type(node) != PLIST_DATA) {
        *why = apr_psprintf(pool, "%s is no data", key);
        return MDM_EINPUT;
    }
    data = node ? plist_get_data_ptr(node, &size) : NULL;
    *value = data && size ? apr_pmemdup(pool, data, (apr_size_t)size) : NULL;
    *len = *value ? (apr_size_t)size : 0;
    return APR_SUCCESS;
}

/** Write {key: value} and free the value. */
static void write_dict(const char **text, apr_size_t *text_len, const char *key, plist_t value,
                       apr_pool_t *pool)
{
    plist_t dict = plist_new_dict();
    char *xml = NULL;
    uint32_t len = 0;

    plist_dict_set_item(dict, key, value);
    plist_to_xml(dict, &xml, &len);
    *text = apr_pstrmemdup(pool, xml ? xml : "", len);
    *text_len = len;
    plist_to_xml_free(xml);
    plist_free(dict);
}

void mdm_plist_write_data(const char **text, apr_size_t *text_len, const char *key,
                          const unsigned char *value, apr_size_t len, apr_pool_t *pool)
{
    write_dict(text, text_len, key, plist_new_data(value ? (const char *)value : "", len), pool);
}

void mdm_plist_write_string(const char **text, apr_size_t *text_len, const char *key,
                            const char *value, apr_pool_t *pool)
{
    write_dict(text, text_len, key, plist_new_string(value), pool);
}
