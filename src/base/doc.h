/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Reading JSON documents that somebody else wrote (jansson underneath): typed getters that name the field in
 * the error, limits on size and depth, and refusal of unknown fields. `where` is the path for messages, such
 * as "spec.disks[0]". */

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"

#define _cleanup_json_ _cleanup_(json_decrefp) /* json_decrefp() is jansson's */

/* Parses `len` bytes: an object or array, no duplicate keys, nothing after it. Returns 0 and a document that
 * the caller owns, or sets BAD_REQUEST with line and column; depth is bounded by jansson (2048), length by
 * the caller. */
int doc_parse(const char *text, size_t len, json_t **ret_json, struct error **ret_error);

/* From now on memory of JSON documents is overwritten when it is freed, for programs whose documents hold keys. Texts of doc_to_text() are the caller's.
 * To be called before the first document is made. */
void doc_wipe_freed(void);
/* Overwrites a string that was taken out of its document, which has zeros in its place; anything else, and NULL, is left alone. */
void doc_wipe_string(const json_t *value);

/* Compact text, keys in order of insertion; NULL without memory. The caller frees it. */
char *doc_to_text(const json_t *json);
/* Keys sorted, compact: the form that is hashed or compared. */
char *doc_to_canonical_text(const json_t *json);

/* Getters: 0 and *ret set; with the field absent or null: -ENOENT for `need`, 0 and *ret untouched for `opt`
 * (set it to the default before). A wrong type or a value out of range sets BAD_DOCUMENT and returns -EINVAL.
 * Strings are borrowed from the document, at most `max_len` bytes. */
int doc_need_string(const json_t *obj, const char *where, const char *key, size_t max_len, const char **ret,
        struct error **ret_error);
int doc_opt_string(const json_t *obj, const char *where, const char *key, size_t max_len, const char **ret,
        struct error **ret_error);
int doc_need_u64(const json_t *obj, const char *where, const char *key, uint64_t min, uint64_t max,
        uint64_t *ret, struct error **ret_error);
int doc_opt_u64(const json_t *obj, const char *where, const char *key, uint64_t min, uint64_t max,
        uint64_t *ret, struct error **ret_error);
int doc_opt_bool(const json_t *obj, const char *where, const char *key, bool *ret, struct error **ret_error);
/* Borrowed object or array. */
int doc_opt_object(
        const json_t *obj, const char *where, const char *key, json_t **ret, struct error **ret_error);
int doc_opt_array(const json_t *obj, const char *where, const char *key, size_t max_items, json_t **ret,
        struct error **ret_error);

/* Refuses keys that are not in the NULL-terminated list, naming the first one. */
int doc_only_keys(const json_t *obj, const char *where, const char *const *keys, struct error **ret_error);

/* True if the array has this string; false also for what is no array, and without one (NULL). */
bool doc_has_string(const json_t *array, const char *wanted);
