/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Reading and writing XML property lists, guarded: libplist recurses without a limit, so nothing
 * reaches it before size, encoding, depth and element count were checked.
 */
#ifndef MDM_PLIST_H
#define MDM_PLIST_H

#include <apr_pools.h>
#include <plist/plist.h>

#include "mdm_status.h"

/** Deepest nesting of arrays and dictionaries that is accepted. */
#define MDM_PLIST_MAX_DEPTH 64
/** Most elements of a document that is accepted. */
#define MDM_PLIST_MAX_ELEMENTS 262144

/** Whether the text is UTF-8 without NUL bytes, overlong forms and surrogates. */
int mdm_utf8_valid(const char *text, apr_size_t len);

/** Parse an XML property list whose root is a dictionary.
 *
 * The text must begin with "<?xml", be UTF-8 without NUL bytes, define no entities, be nested at
 * most MDM_PLIST_MAX_DEPTH deep and have at most MDM_PLIST_MAX_ELEMENTS elements. It must be whole
 * (a plist element with one root and nothing behind), with a value for each key and base64 in data
 * elements. Of a repeated key the last value counts. What would take libplist quadratic time is
 * refused too: thousands of keys in one dictionary, many thousands of character references in one
 * string.
 *
 * @param out  the root; freed with the pool. Set only on success.
 * @param why  on MDM_EINPUT: the reason, a sentence without the document's values
 * @return MDM_EINPUT if the text is not such a property list
 */
apr_status_t mdm_plist_parse(plist_t *out, const char *text, apr_size_t len, const char **why,
                             apr_pool_t *pool);

/** Get a string of a dictionary, as a NUL-terminated copy in the pool.
 *
 * @param value  the string; NULL if the key is absent or the string is empty
 * @return MDM_EINPUT if the value is no string, or longer than max bytes; *why names the key
 */
apr_status_t mdm_plist_get_string(const char **value, plist_t dict, const char *key, apr_size_t max,
                                  const char **why, apr_pool_t *pool);

/** Get a string that must be there; as mdm_plist_get_string().
 *
 * @param value  the string, at least one byte long. Set only on success.
 * @return MDM_EINPUT also if the key is absent or the string is empty
 */
apr_status_t mdm_plist_require_string(const char **value, plist_t dict, const char *key,
                                      apr_size_t max, const char **why, apr_pool_t *pool);

/** Get bytes (a data element) of a dictionary, as a copy in the pool.
 *
 * @param value  the bytes; NULL with *len 0 if the key is absent or the data is empty
 * @return MDM_EINPUT if the value is no data element; *why names the key
 */
apr_status_t mdm_plist_get_data(const unsigned char **value, apr_size_t *len, plist_t dict,
                                const char *key, const char **why, apr_pool_t *pool);

/** Write the XML property list {key: <data>}; text and its length are in the pool. */
void mdm_plist_write_data(const char **text, apr_size_t *text_len, const char *key,
                          const unsigned char *value, apr_size_t len, apr_pool_t *pool);

/** Write the XML property list {key: <string>}; text and its length are in the pool. */
void mdm_plist_write_string(const char **text, apr_size_t *text_len, const char *key,
                            const char *value, apr_pool_t *pool);

#endif
