/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/switch_versions.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"
#include "manager/json.h"

#define VERSIONS_KEPT 10 /* of those that no host has */

bool switch_is_distributed(const json_t *object)
{
        return !strcmp(json_text(json_spec(object), "type"), "distributed");
}

json_int_t switch_versions_newest(const json_t *object)
{
        return json_integer_value(json_object_get(json_status(object), "version"));
}

static bool is_in_use(const json_t *wanted, json_int_t version)
{
        const char *host;
        json_t *value;

        json_object_foreach ((json_t *)wanted, host, value)
                if (json_integer_value(value) == version)
                        return true;
        return false;
}

static void drop_old(json_t *versions, const json_t *wanted, json_int_t newest)
{
        const char *key;
        json_t *spec;
        void *spare;

        json_object_foreach_safe(versions, spare, key, spec)
        {
                uint64_t version = 0;

                (void)text_parse_u64(key, 1, INT64_MAX, &version);
                if ((json_int_t)version <= newest - VERSIONS_KEPT && !is_in_use(wanted, (json_int_t)version))
                        json_object_del(versions, key);
        }
}

int switch_versions_add(json_t *object)
{
        json_int_t version = switch_versions_newest(object) + 1;
        json_t *status = json_object_get(object, "status"), *versions, *wanted;
        _cleanup_free_ char *key = alloc_printf("%lld", (long long)version);

        if (!json_object_get(status, "versions") &&
                json_object_set_new(status, "versions", json_object()) < 0)
                return -ENOMEM;
        if (!json_object_get(status, "wanted") && json_object_set_new(status, "wanted", json_object()) < 0)
                return -ENOMEM;
        versions = json_object_get(status, "versions");
        wanted = json_object_get(status, "wanted");
        if (!key || json_object_set_new(versions, key, json_deep_copy(json_spec(object))) < 0 ||
                json_object_set_new(status, "version", json_integer(version)) < 0)
                return -ENOMEM;
        drop_old(versions, wanted, version);
        return 0;
}

json_int_t switch_versions_wanted(const json_t *object, const char *host_name)
{
        const json_t *wanted = json_object_get(json_object_get(json_status(object), "wanted"), host_name);

        return wanted ? json_integer_value(wanted) : switch_versions_newest(object);
}

const json_t *switch_versions_spec(const json_t *object, json_int_t version)
{
        char key[24];

        snprintf(key, sizeof(key), "%lld", (long long)version);
        return json_object_get(json_object_get(json_status(object), "versions"), key);
}

int switch_versions_note(json_t *object, const char *host_name, const json_t *answer, bool upgraded)
{
        json_int_t version = json_integer_value(json_object_get(answer, "version"));
        json_t *wanted = json_object_get(json_object_get(object, "status"), "wanted");

        if (!switch_is_distributed(object) || version <= 0 ||
                json_is_false(json_object_get(answer, "realised")) ||
                (!upgraded && json_object_get(wanted, host_name)))
                return 0;
        return json_object_set_new(wanted, host_name, json_integer(version)) < 0 ? -ENOMEM : 0;
}

bool switch_versions_forget(json_t *object, const char *host_name)
{
        return json_object_del(json_object_get(json_status(object), "wanted"), host_name) == 0;
}

/* The value for one host: its own, or that for all. NULL: none. */
static const char *uplink_for(const json_t *spec, const char *host_name)
{
        const json_t *own = json_object_get(json_object_get(spec, "uplinks"), host_name);

        return own ? json_string_value(own) : json_text_or_null(spec, "uplink");
}

/* "eth1,eth2" as an array. */
static json_t *uplink_array(const char *text)
{
        json_t *array = json_array();

        while (array && text && *text) {
                size_t len = strcspn(text, ",");

                if (json_array_append_new(array, json_stringn(text, len)) < 0) {
                        json_decref(array);
                        return NULL;
                }
                text += len + (text[len] == ',');
        }
        return array;
}

json_t *switch_body(const json_t *object, const char *host_name, json_int_t version)
{
        const json_t *spec = json_spec(object);

        if (!switch_is_distributed(object))
                return json_pack("{s:s?, s:O?}", "uplink", uplink_for(spec, host_name), "mtu",
                        json_object_get(spec, "mtu"));
        version = version ? version : switch_versions_wanted(object, host_name);
        if (switch_versions_spec(object, version))
                spec = switch_versions_spec(object, version);
        else
                version = switch_versions_newest(
                        object); /* never one version's number with another one's spec */
        return json_pack("{s:s, s:I, s:o, s:s, s:s?, s:O?}", "type", "distributed", "version", version,
                "uplinks", uplink_array(uplink_for(spec, host_name)), "uplink_policy",
                json_text(spec, "uplink_policy"), "bridge", json_text_or_null(spec, "bridge"), "mtu",
                json_object_get(spec, "mtu"));
}

const char *switch_of_group(const json_t *group_spec, const char *host_name)
{
        return json_text_or_null(json_object_get(group_spec, "switches"), host_name)
                       ?: json_text(group_spec, "switch");
}
