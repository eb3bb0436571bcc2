/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Fuzz target: property lists. What libplist made of a text must be within the limits that were
 * checked before it read it.
 */
#include "fuzz.h"
#include "mdm_plist.h"

static unsigned nodes;

static void check_node(plist_t node, unsigned depth);

static void check_array(plist_t array, unsigned depth)
{
    uint32_t i, size = plist_array_get_size(array);

    for (i = 0; i < size; i++)
        check_node(plist_array_get_item(array, i), depth);
}

static void check_dict(plist_t dict, unsigned depth)
{
    plist_dict_iter iter = NULL;
    plist_t value = NULL;

    plist_dict_new_iter(dict, &iter);
    for (plist_dict_next_item(dict, iter, NULL, &value); value;
         plist_dict_next_item(dict, iter, NULL, &value)) {
        nodes++; /* the key */
        check_node(value, depth);
        value = NULL;
    }
    free(iter);
}

static void check_node(plist_t node, unsigned depth)
{
    PROMISE(++nodes <= MDM_PLIST_MAX_ELEMENTS);
    switch (plist_get_node_type(node)) {
    case PLIST_ARRAY:
        /* an empty one may be one deeper */
        PROMISE(depth < MDM_PLIST_MAX_DEPTH || !plist_array_get_size(node));
        check_array(node, depth + 1);
        break;
    case PLIST_DICT:
        PROMISE(depth < MDM_PLIST_MAX_DEPTH || !plist_dict_get_size(node));
        check_dict(node, depth + 1);
        break;
    case PLIST_STRING: {
        uint64_t len = 0;
        const char *string = plist_get_string_ptr(node, &len);
        PROMISE(mdm_utf8_valid(string, (apr_size_t)len));
        break;
    }
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    apr_pool_t *pool = fuzz_pool();
    plist_t root = NULL;
    const char *why = NULL;

    if (mdm_plist_parse(&root, (const char *)data, size, &why, pool) == APR_SUCCESS) {
        PROMISE(plist_get_node_type(root) == PLIST_DICT);
        nodes = 0;
        check_node(root, 0);
    } else {
        PROMISE(why && *why && !root);
    }
    apr_pool_destroy(pool);
    return 0;
}
