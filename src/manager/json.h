/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Shorthands for documents whose shape the manager made or checked itself; all accept absent fields. */

#include <jansson.h>
#include <string.h>

/* "" when absent or no string. */
static inline const char *json_text(const json_t *object, const char *key)
{
        const char *s = json_string_value(json_object_get(object, key));

        return s ? s : "";
}

/* NULL when absent or no string. */
static inline const char *json_text_or_null(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key));
}

/* The first object of an array that has this "name"; NULL: none. Borrowed. */
static inline const json_t *json_named(const json_t *array, const char *name)
{
        for (size_t i = 0; i < json_array_size(array); i++)
                if (!strcmp(json_text(json_array_get(array, i), "name"), name))
                        return json_array_get(array, i);
        return NULL;
}

static inline json_t *json_spec(const json_t *doc)
{
        return json_object_get(doc, "spec");
}

static inline json_t *json_status(const json_t *doc)
{
        return json_object_get(doc, "status");
}

static inline uint64_t json_revision(const json_t *doc)
{
        return (uint64_t)json_integer_value(json_object_get(doc, "revision"));
}
