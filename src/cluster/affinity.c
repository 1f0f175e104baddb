/* SPDX-License-Identifier: Apache-2.0 */

/* The shape of rules, and what they mean for one virtual machine; whether they contradict each other is affinity_conflict.c. */

#include "cluster/affinity.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "base/text.h"

#define CAUSE_MAX_BYTES 4096
#define CAUSE_NAMES_MAX 8 /* a rule may name thousands: nobody reads those */

static const char *text_of(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

static const json_t *spec_of(const json_t *doc)
{
        return json_object_get(doc, "spec");
}

/* --- Shape --------------------------------------------------------------------------------------------------------- */

static const struct {
        const char *type;
        size_t min_vms;
        bool with_hosts;
} types[] = {
        {"keep-together", 2, false}, {"keep-apart", 2, false}, {"run-on", 1, true}, {"keep-off", 1, true}};

/* An array of names, none twice. */
static int check_names(const json_t *spec, const char *key, size_t min, size_t max, struct error **ret_error)
{
        _cleanup_json_ json_t *seen = json_object();
        json_t *names = NULL, *name;
        size_t i;
        int r;

        r = doc_opt_array(spec, "spec", key, max, &names, ret_error);
        if (r < 0)
                return r;
        if (json_array_size(names) < min)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field spec.%s must name %zu at least",
                        key, min);
        json_array_foreach (names, i, name) {
                if (!text_is_name(json_string_value(name)))
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                "field spec.%s[%zu] must be a name", key, i);
                if (json_object_get(seen, json_string_value(name)))
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field spec.%s names %s twice",
                                key, json_string_value(name));
                if (json_object_set_new(seen, json_string_value(name), json_true()) < 0)
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        return 0;
}

int affinity_check_spec(json_t *spec, struct error **ret_error)
{
        static const char *const keys[] = {"type", "mode", "vms", "hosts", NULL};
        const char *type = NULL, *mode = "must";
        size_t at = 0;
        int r;

        r = doc_only_keys(spec, "spec", keys, ret_error);
        if (r >= 0)
                r = doc_need_string(spec, "spec", "type", 32, &type, ret_error);
        if (r >= 0)
                r = doc_opt_string(spec, "spec", "mode", 32, &mode, ret_error);
        if (r < 0)
                return r;
        while (at < ARRAY_SIZE(types) && strcmp(types[at].type, type))
                at++;
        if (at == ARRAY_SIZE(types))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "field spec.type is \"%.32s\", allowed is keep-together, keep-apart, run-on or "
                        "keep-off",
                        type);
        if (strcmp(mode, "must") && strcmp(mode, "should"))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "field spec.mode is \"%.32s\", allowed is must or should", mode);
        if (!types[at].with_hosts && json_array_size(json_object_get(spec, "hosts")))
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Use run-on or keep-off for rules about hosts.",
                        "field spec.hosts has no meaning for %s", type);
        r = check_names(spec, "vms", types[at].min_vms, AFFINITY_VMS_MAX, ret_error);
        if (r >= 0)
                r = check_names(spec, "hosts", types[at].with_hosts, AFFINITY_HOSTS_MAX, ret_error);
        if (r >= 0 && (json_object_set_new(spec, "mode", json_string(mode)) < 0 ||
                              (!json_object_get(spec, "hosts") &&
                                      json_object_set_new(spec, "hosts", json_array()) < 0)))
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return r;
}

/* --- One VM -------------------------------------------------------------------------------------------------------- */

/* {VM: [host, ...]} of the members of these rules but for the VM itself: null for now. */
static json_t *members_of(const json_t *items, const char *but)
{
        json_t *members = json_object(), *item, *name;
        size_t i, k;

        json_array_foreach ((json_t *)items, i, item)
                json_array_foreach (json_object_get(item, "vms"), k, name)
                        if (members && strcmp(json_string_value(name), but) &&
                                json_object_set_new(members, json_string_value(name), json_array()) < 0) {
                                json_decref(members);
                                members = NULL;
                        }
        return members;
}

static bool is_live(const json_t *vm)
{
        const char *power = text_of(json_object_get(vm, "status"), "power");

        return *power && strcmp(power, "stopped") && strcmp(power, "crashed") && strcmp(power, "suspended");
}

static const char *destination_of(const json_t *tasks, const char *vm_uid)
{
        json_t *task;
        size_t i;

        json_array_foreach ((json_t *)tasks, i, task)
                if (!strcmp(text_of(task, "vm_uid"), vm_uid) && *text_of(task, "to"))
                        return text_of(task, "to");
        return NULL;
}

/* Where it is going comes first in its list. */
static int locate(json_t *members, const json_t *vms, const json_t *tasks)
{
        json_t *vm;
        size_t i;

        if (!json_object_size(members))
                return 0;
        json_array_foreach ((json_t *)vms, i, vm) {
                json_t *hosts = json_object_get(members, text_of(vm, "name"));
                const char *to = hosts ? destination_of(tasks, text_of(vm, "uid")) : NULL;
                const char *host = text_of(json_object_get(vm, "status"), "host");

                if (!hosts)
                        continue;
                if ((to && json_array_append_new(hosts, json_string(to)) < 0) ||
                        (is_live(vm) && *host && json_array_append_new(hosts, json_string(host)) < 0))
                        return -ENOMEM;
        }
        return 0;
}

static int add_member(json_t *hosts, const char *host, const char *vm)
{
        json_t *there = json_object_get(hosts, host);

        if (!there) {
                there = json_array();
                if (json_object_set_new(hosts, host, there) < 0)
                        return -ENOMEM;
        }
        return doc_has_string(there, vm) || json_array_append_new(there, json_string(vm)) == 0 ? 0 : -ENOMEM;
}

/* Fills in the hosts of an item from its "vms" or "named", which it loses. */
static int place_members(json_t *item, const json_t *members)
{
        bool apart = !strcmp(text_of(item, "type"), "keep-apart");
        json_t *hosts = json_object_get(item, "hosts"), *name;
        size_t i;

        json_array_foreach (json_object_get(item, "named"), i, name)
                if (json_object_set_new(hosts, json_string_value(name), json_array()) < 0)
                        return -ENOMEM;
        json_array_foreach (json_object_get(item, "vms"), i, name) {
                const json_t *where = json_object_get(members, json_string_value(name));

                if (json_array_size(json_object_get(item, "named")))
                        break;
                for (size_t k = 0; k < json_array_size(where) && (apart || k == 0); k++)
                        if (add_member(hosts, json_string_value(json_array_get(where, k)),
                                    json_string_value(name)) < 0)
                                return -ENOMEM;
        }
        json_object_del(item, "vms");
        json_object_del(item, "named");
        return 0;
}

json_t *affinity_of_vm(const json_t *rules, const json_t *vm, const json_t *vms, const json_t *tasks)
{
        _cleanup_json_ json_t *items = json_array(), *members = NULL;
        json_t *rule, *item;
        size_t i;

        if (!items)
                return NULL;
        json_array_foreach ((json_t *)rules, i, rule) {
                const json_t *spec = spec_of(rule);

                if (!doc_has_string(json_object_get(spec, "vms"), text_of(vm, "name")))
                        continue;
                item = json_pack("{s:s, s:b, s:s, s:{}, s:O, s:O*}", "name", text_of(rule, "name"), "must",
                        strcmp(text_of(spec, "mode"), "should") != 0, "type", text_of(spec, "type"), "hosts",
                        "vms", json_object_get(spec, "vms"), "named", json_object_get(spec, "hosts"));
                if (json_array_append_new(items, item) < 0)
                        return NULL;
        }
        members = members_of(items, text_of(vm, "name"));
        if (!members || locate(members, vms, tasks) < 0)
                return NULL;
        json_array_foreach (items, i, item)
                if (place_members(item, members) < 0)
                        return NULL;
        return TAKE_PTR(items);
}

static const char *separator(size_t i, size_t n)
{
        return i == 0 ? "" : i + 1 == n ? " and " : ", ";
}

/* The first names of an array, or of the keys of an object. */
static size_t first_names(const json_t *list, const char *names[static CAUSE_NAMES_MAX])
{
        const char *key;
        json_t *value;
        size_t n = 0, i;

        json_array_foreach ((json_t *)list, i, value)
                if (n < CAUSE_NAMES_MAX)
                        names[n++] = json_string_value(value);
        json_object_foreach ((json_t *)list, key, value)
                if (n < CAUSE_NAMES_MAX)
                        names[n++] = key;
        return n;
}

/* "a, b and c", or "a, b, ... and 4992 more", of an array of names or of the keys of an object; NULL without memory. */
static char *list_text(const json_t *list)
{
        size_t n = json_is_object(list) ? json_object_size(list) : json_array_size(list), n_first;
        const char *names[CAUSE_NAMES_MAX];
        _cleanup_buf_ struct buf text;

        buf_init(&text, CAUSE_MAX_BYTES);
        n_first = first_names(list, names);
        for (size_t i = 0; i < n_first; i++)
                if (buf_printf(&text, "%s%s", separator(i, n), names[i]) < 0)
                        return NULL;
        if (n > n_first && buf_printf(&text, " and %zu more", n - n_first) < 0)
                return NULL;
        return buf_take_string(&text);
}

/* Where most of them are, the first of those. */
static const char *fullest(const json_t *hosts, size_t *ret_n)
{
        const char *host, *best = NULL;
        json_t *there;

        *ret_n = 0;
        json_object_foreach ((json_t *)hosts, host, there)
                if (json_array_size(there) > *ret_n) {
                        best = host;
                        *ret_n = json_array_size(there);
                }
        return best;
}

static char *cause_of(const json_t *item, const char *host, const char *best)
{
        const char *type = text_of(item, "type"), *name = text_of(item, "name");
        const json_t *hosts = json_object_get(item, "hosts");
        _cleanup_free_ char *who = NULL;

        if (!strcmp(type, "keep-off"))
                return alloc_printf("rule %s keeps it off host %s", name, host);
        who = list_text(!strcmp(type, "run-on") ? hosts : json_object_get(hosts, best));
        if (!who)
                return NULL;
        if (!strcmp(type, "run-on"))
                return alloc_printf("rule %s lets it run on %s only", name, who);
        if (!strcmp(type, "keep-apart"))
                return alloc_printf("rule %s keeps it apart from %s on host %s", name, who, host);
        return alloc_printf("rule %s keeps it together with %s on host %s", name, who, best);
}

int affinity_judge(const json_t *item, const char *host, char **ret_cause)
{
        const json_t *hosts = json_object_get(item, "hosts"), *there = json_object_get(hosts, host);
        const char *type = text_of(item, "type"), *best = host;
        bool broken;
        size_t most;

        if (!strcmp(type, "keep-together")) {
                best = fullest(hosts, &most);
                broken = json_array_size(there) < most;
        } else if (!strcmp(type, "run-on"))
                broken = !there;
        else
                broken = there != NULL;
        *ret_cause = broken ? cause_of(item, host, best) : NULL;
        return broken && !*ret_cause ? -ENOMEM : 0;
}

/* --- One rule ------------------------------------------------------------------------------------------------------- */

/* Of all VMs the live ones that the rule names. */
static json_t *live_members(const json_t *rule, const json_t *vms)
{
        json_t *members = json_array(), *vm;
        size_t i;

        json_array_foreach ((json_t *)vms, i, vm)
                if (members && is_live(vm) &&
                        doc_has_string(json_object_get(spec_of(rule), "vms"), text_of(vm, "name")) &&
                        json_array_append(members, vm) < 0) {
                        json_decref(members);
                        members = NULL;
                }
        return members;
}

static int add_broken(json_t *broken, const json_t *rules, const json_t *vm, const json_t *members)
{
        const char *host = text_of(json_object_get(vm, "status"), "host");
        _cleanup_json_ json_t *items = affinity_of_vm(rules, vm, members, NULL);
        _cleanup_free_ char *cause = NULL, *sentence = NULL;

        if (!items || affinity_judge(json_array_get(items, 0), host, &cause) < 0)
                return -ENOMEM;
        if (!cause)
                return 0;
        sentence = alloc_printf("%s is on host %s: %s", text_of(vm, "name"), host, cause);
        return sentence ? json_array_append_new(broken, json_string(sentence)) : -ENOMEM;
}

json_t *affinity_broken(const json_t *rule, const json_t *vms)
{
        _cleanup_json_ json_t *members = live_members(rule, vms), *rules = json_pack("[O]", rule);
        _cleanup_json_ json_t *broken = json_array();
        json_t *vm;
        size_t i;

        if (!members || !rules || !broken)
                return NULL;
        json_array_foreach (members, i, vm)
                if (add_broken(broken, rules, vm, members) < 0)
                        return NULL;
        return TAKE_PTR(broken);
}
