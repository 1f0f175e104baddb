/* SPDX-License-Identifier: Apache-2.0 */
#include "base/doc.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/torture.h"

int doc_parse(const char *text, size_t len, json_t **ret_json, struct error **ret_error)
{
        json_error_t e;
        json_t *j;

        if (torture_point())
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory while parsing JSON");
        j = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
        if (!j && (!*e.text || json_error_code(&e) == json_error_out_of_memory))
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory while parsing JSON");
        if (!j)
                return error_set(ret_error, ERROR_BAD_REQUEST, "Send one JSON object in UTF-8.",
                        "the JSON text is not valid: %s (line %d, column %d)", e.text, e.line, e.column);
        *ret_json = j;
        return 0;
}

static void wiping_free(void *p)
{
        if (p)
                explicit_bzero(p, malloc_usable_size(p));
        free(p);
}

void doc_wipe_freed(void)
{
        json_set_alloc_funcs(malloc, wiping_free);
}

void doc_wipe_string(const json_t *value)
{
        if (json_is_string(value))
                explicit_bzero((char *)(uintptr_t)json_string_value(value), json_string_length(value));
}

char *doc_to_text(const json_t *json)
{
        return torture_point() ? NULL : json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY);
}

char *doc_to_canonical_text(const json_t *json)
{
        return torture_point() ? NULL : json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
}

static int bad(struct error **ret_error, const char *where, const char *key, const char *what)
{
        return error_set(
                ret_error, ERROR_BAD_DOCUMENT, NULL, "field %s%s%s %s", where, *where ? "." : "", key, what);
}

static int missing(struct error **ret_error, const char *where, const char *key)
{
        bad(ret_error, where, key, "is missing");
        return -ENOENT;
}

static const json_t *find(const json_t *obj, const char *key)
{
        const json_t *v = json_object_get(obj, key);

        return json_is_null(v) ? NULL : v;
}

int doc_opt_string(const json_t *obj, const char *where, const char *key, size_t max_len, const char **ret,
        struct error **ret_error)
{
        const json_t *v = find(obj, key);

        if (!v)
                return 0;
        if (!json_is_string(v))
                return bad(ret_error, where, key, "must be a string");
        if (json_string_length(v) > max_len)
                return bad(ret_error, where, key, "is too long");
        if (strlen(json_string_value(v)) != json_string_length(v))
                return bad(ret_error, where, key, "contains a NUL character");
        *ret = json_string_value(v);
        return 0;
}

int doc_need_string(const json_t *obj, const char *where, const char *key, size_t max_len, const char **ret,
        struct error **ret_error)
{
        return find(obj, key) ? doc_opt_string(obj, where, key, max_len, ret, ret_error)
                              : missing(ret_error, where, key);
}

int doc_opt_u64(const json_t *obj, const char *where, const char *key, uint64_t min, uint64_t max,
        uint64_t *ret, struct error **ret_error)
{
        const json_t *v = find(obj, key);
        json_int_t n;

        if (!v)
                return 0;
        if (!json_is_integer(v))
                return bad(ret_error, where, key, "must be an integer");
        n = json_integer_value(v);
        if (n < 0 || (uint64_t)n < min || (uint64_t)n > max)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "field %s%s%s is %" JSON_INTEGER_FORMAT ", allowed is %" PRIu64 " to %" PRIu64, where,
                        *where ? "." : "", key, n, min, max);
        *ret = (uint64_t)n;
        return 0;
}

int doc_need_u64(const json_t *obj, const char *where, const char *key, uint64_t min, uint64_t max,
        uint64_t *ret, struct error **ret_error)
{
        return find(obj, key) ? doc_opt_u64(obj, where, key, min, max, ret, ret_error)
                              : missing(ret_error, where, key);
}

int doc_opt_bool(const json_t *obj, const char *where, const char *key, bool *ret, struct error **ret_error)
{
        const json_t *v = find(obj, key);

        if (!v)
                return 0;
        if (!json_is_boolean(v))
                return bad(ret_error, where, key, "must be true or false");
        *ret = json_is_true(v);
        return 0;
}

int doc_opt_object(
        const json_t *obj, const char *where, const char *key, json_t **ret, struct error **ret_error)
{
        const json_t *v = find(obj, key);

        if (!v)
                return 0;
        if (!json_is_object(v))
                return bad(ret_error, where, key, "must be an object");
        *ret = (json_t *)v;
        return 0;
}

int doc_opt_array(const json_t *obj, const char *where, const char *key, size_t max_items, json_t **ret,
        struct error **ret_error)
{
        const json_t *v = find(obj, key);

        if (!v)
                return 0;
        if (!json_is_array(v))
                return bad(ret_error, where, key, "must be an array");
        if (json_array_size(v) > max_items)
                return bad(ret_error, where, key, "has too many items");
        *ret = (json_t *)v;
        return 0;
}

int doc_only_keys(const json_t *obj, const char *where, const char *const *keys, struct error **ret_error)
{
        const char *key;
        json_t *v;

        if (!json_is_object(obj))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "%s must be an object",
                        *where ? where : "the document");
        json_object_foreach ((json_t *)obj, key, v) {
                size_t i = 0;

                while (keys[i] && strcmp(keys[i], key))
                        i++;
                if (!keys[i])
                        return error_set(ret_error, ERROR_BAD_DOCUMENT,
                                "Remove the field, or check its spelling in the API's description.",
                                "field %s%s%.64s is not known", where, *where ? "." : "", key);
        }
        return 0;
}

bool doc_has_string(const json_t *array, const char *wanted)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)array, i, item)
                if (json_is_string(item) && wanted && !strcmp(json_string_value(item), wanted))
                        return true;
        return false;
}
