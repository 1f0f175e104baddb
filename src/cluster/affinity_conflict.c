/* SPDX-License-Identifier: Apache-2.0 */

/* Whether rules contradict each other. Those that must be kept were found free of contradictions when they were made, so a new
 * one is held against all of them at once: virtual machines that keep-together joins, directly or by a chain, are one group with
 * one host; a group must not hold two that are kept apart, some host must be left for it, and groups that are kept apart need a
 * host each (a matching, found by augmenting paths). */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "cluster/affinity.h"

#define TEXT_MAX_BYTES 4096
#define RULES_TOLD_MAX 16
#define NOBODY SIZE_MAX

struct world {
        const json_t **rules; /* specs are looked at, names are told */
        size_t n_rules;
        json_t *index; /* VM name -> its number */
        const char **names;
        size_t n_vms;
        size_t *group;  /* union-find: of a VM, another of its group or itself */
        json_t **hosts; /* of a group (at its root): {host: true} that it may be on; NULL: any */
        /* The keep-together rules of a VM: together[together_at[vm]] up to together[together_at[vm + 1]]. */
        size_t *together, *together_at;
};

static const char *text_of(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

static const json_t *spec_of(const json_t *rule)
{
        return json_object_get(rule, "spec");
}

static bool is_type(const json_t *rule, const char *type)
{
        return !strcmp(text_of(spec_of(rule), "type"), type);
}

static json_t *vms_of(const json_t *rule)
{
        return json_object_get(spec_of(rule), "vms");
}

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

/* --- The world ------------------------------------------------------------------------------------------------------ */

static void world_deinit(struct world *world)
{
        for (size_t i = 0; world->hosts && i < world->n_vms; i++)
                json_decref(world->hosts[i]);
        json_decref(world->index);
        free(world->rules);
        free(world->names);
        free(world->group);
        free(world->hosts);
        free(world->together);
        free(world->together_at);
}

static size_t number_of(const struct world *world, const json_t *name)
{
        return (size_t)json_integer_value(json_object_get(world->index, json_string_value(name)));
}

static size_t root_of(const struct world *world, size_t vm)
{
        while (world->group[vm] != vm)
                vm = world->group[vm] = world->group[world->group[vm]];
        return vm;
}

static int collect_rules(struct world *world, const json_t *rule, const json_t *others)
{
        json_t *other;
        size_t i;

        world->rules = alloc_array(json_array_size(others) + 1, sizeof(json_t *));
        if (!world->rules)
                return -ENOMEM;
        world->rules[world->n_rules++] = rule;
        json_array_foreach ((json_t *)others, i, other)
                if (strcmp(text_of(other, "name"), text_of(rule, "name")) &&
                        strcmp(text_of(spec_of(other), "mode"), "should"))
                        world->rules[world->n_rules++] = other;
        return 0;
}

static int number_vms(struct world *world)
{
        const char *key;
        json_t *name, *value;
        size_t i;

        world->index = json_object();
        if (!world->index)
                return -ENOMEM;
        for (size_t k = 0; k < world->n_rules; k++)
                json_array_foreach (vms_of(world->rules[k]), i, name)
                        if (!json_object_get(world->index, json_string_value(name)) &&
                                json_object_set_new(world->index, json_string_value(name),
                                        json_integer((json_int_t)world->n_vms++)) < 0)
                                return -ENOMEM;
        world->names = alloc_array(world->n_vms + 1, sizeof(*world->names));
        world->group = alloc_array(world->n_vms + 1, sizeof(*world->group));
        world->hosts = alloc_array(world->n_vms + 1, sizeof(*world->hosts));
        if (!world->names || !world->group || !world->hosts)
                return -ENOMEM;
        json_object_foreach (world->index, key, value) {
                world->names[json_integer_value(value)] = key;
                world->group[json_integer_value(value)] = (size_t)json_integer_value(value);
        }
        return 0;
}

/* Calls fn for each VM of each keep-together rule. */
static void each_together(struct world *world, void (*fn)(struct world *world, size_t rule, size_t vm))
{
        json_t *name;
        size_t i;

        for (size_t k = 0; k < world->n_rules; k++)
                if (is_type(world->rules[k], "keep-together"))
                        json_array_foreach (vms_of(world->rules[k]), i, name)
                                fn(world, k, number_of(world, name));
}

static void join(struct world *world, size_t rule, size_t vm)
{
        size_t first = number_of(world, json_array_get(vms_of(world->rules[rule]), 0));

        world->group[root_of(world, vm)] = root_of(world, first);
}

static void count_together(struct world *world, size_t rule, size_t vm)
{
        world->together_at[vm + 1]++;
}

/* The place behind the last one of the VM stands one further on meanwhile. */
static void put_together(struct world *world, size_t rule, size_t vm)
{
        world->together[world->together_at[vm + 1]++] = rule;
}

static int join_groups(struct world *world)
{
        each_together(world, join);
        world->together_at = alloc_array(world->n_vms + 2, sizeof(size_t));
        if (!world->together_at)
                return -ENOMEM;
        each_together(world, count_together);
        for (size_t vm = 0; vm <= world->n_vms; vm++)
                world->together_at[vm + 1] += world->together_at[vm];
        world->together = alloc_array(world->together_at[world->n_vms + 1] + 1, sizeof(size_t));
        if (!world->together)
                return -ENOMEM;
        /* Ends become beginnings, and ends again when each VM has its rules. */
        memmove(world->together_at + 1, world->together_at, (world->n_vms + 1) * sizeof(size_t));
        each_together(world, put_together);
        return 0;
}

/* --- Telling -------------------------------------------------------------------------------------------------------- */

/* "rule a", "rules a and b", of those for which wanted is set; of many the first ones. NULL without memory. */
static char *rules_text(const struct world *world, const bool *wanted)
{
        _cleanup_buf_ struct buf text;
        size_t n = 0, at = 0;

        for (size_t k = 0; k < world->n_rules; k++)
                n += wanted[k];
        buf_init(&text, TEXT_MAX_BYTES);
        if (buf_append_string(&text, n > 1 ? "rules " : "rule ") < 0)
                return NULL;
        for (size_t k = 0; k < world->n_rules && at < RULES_TOLD_MAX; k++) {
                if (!wanted[k])
                        continue;
                if (buf_printf(&text, "%s%s",
                            at == 0       ? ""
                            : at + 1 == n ? " and "
                                          : ", ",
                            text_of(world->rules[k], "name")) < 0)
                        return NULL;
                at++;
        }
        if (n > at && buf_printf(&text, " and %zu more", n - at) < 0)
                return NULL;
        return buf_take_string(&text);
}

/* Marks the keep-together rules on a shortest chain from one VM to another of its group. */
static int mark_chain(const struct world *world, size_t from, size_t to, bool *wanted)
{
        _cleanup_free_ size_t *queue = alloc_array(world->n_vms + 1, sizeof(*queue));
        _cleanup_free_ size_t *before = alloc_array(world->n_vms + 1, sizeof(*before));
        _cleanup_free_ size_t *by_rule = alloc_array(world->n_vms + 1, sizeof(*by_rule));
        _cleanup_free_ bool *seen = alloc_array(world->n_rules + 1, sizeof(*seen));
        size_t head = 0, tail = 0, i;
        json_t *name;

        if (!queue || !before || !by_rule || !seen)
                return -ENOMEM;
        for (size_t vm = 0; vm < world->n_vms; vm++)
                before[vm] = NOBODY;
        before[from] = from;
        for (queue[tail++] = from; head < tail && before[to] == NOBODY; head++)
                for (size_t at = world->together_at[queue[head]]; at < world->together_at[queue[head] + 1];
                        at++) {
                        size_t k = world->together[at];

                        if (seen[k])
                                continue;
                        seen[k] = true;
                        json_array_foreach (vms_of(world->rules[k]), i, name) {
                                size_t next = number_of(world, name);

                                if (before[next] != NOBODY)
                                        continue;
                                before[next] = queue[head];
                                by_rule[next] = k;
                                queue[tail++] = next;
                        }
                }
        for (size_t vm = to; before[vm] != NOBODY && vm != from; vm = before[vm])
                wanted[by_rule[vm]] = true;
        return 0;
}

#define WAY_OUT "Take one of them out of a rule, or let a rule be one that should be kept."

static int tell_apart(
        const struct world *world, const json_t *apart, size_t a, size_t b, struct error **ret_error)
{
        _cleanup_free_ bool *wanted = alloc_array(world->n_rules, sizeof(*wanted));
        _cleanup_free_ char *chain = NULL;

        if (!wanted || mark_chain(world, a, b, wanted) < 0 || !(chain = rules_text(world, wanted)))
                return no_memory(ret_error);
        return error_set(ret_error, ERROR_CONFLICT, WAY_OUT,
                "rule %s keeps %s and %s apart, and they are kept together by %s", text_of(apart, "name"),
                world->names[a], world->names[b], chain);
}

/* The rules that say on which hosts a group can be, and those that make it one. */
static int mark_hosts(const struct world *world, size_t group, bool *wanted)
{
        size_t first = NOBODY, i;
        json_t *name;

        for (size_t k = 0; k < world->n_rules; k++) {
                if (!is_type(world->rules[k], "run-on") && !is_type(world->rules[k], "keep-off"))
                        continue;
                json_array_foreach (vms_of(world->rules[k]), i, name) {
                        size_t vm = number_of(world, name);

                        if (root_of(world, vm) != group)
                                continue;
                        wanted[k] = true;
                        first = first == NOBODY ? vm : first;
                        if (mark_chain(world, first, vm, wanted) < 0)
                                return -ENOMEM;
                        break; /* one of them is reason enough */
                }
        }
        return 0;
}

static int tell_no_host(const struct world *world, size_t vm, struct error **ret_error)
{
        _cleanup_free_ bool *wanted = alloc_array(world->n_rules, sizeof(*wanted));
        _cleanup_free_ char *rules = NULL;

        if (!wanted || mark_hosts(world, root_of(world, vm), wanted) < 0 ||
                !(rules = rules_text(world, wanted)))
                return no_memory(ret_error);
        return error_set(
                ret_error, ERROR_CONFLICT, WAY_OUT, "no host is left for %s by %s", world->names[vm], rules);
}

/* --- The three questions ------------------------------------------------------------------------------------------- */

/* Two of the rule in one group; *first: of each group, the VM of the rule that was seen there, + 1. */
static int check_rule_apart(const struct world *world, size_t k, size_t *first, struct error **ret_error)
{
        const json_t *rule = world->rules[k];
        json_t *name;
        size_t i;
        int r = 0;

        json_array_foreach (vms_of(rule), i, name) {
                size_t vm = number_of(world, name), group = root_of(world, vm);

                if (first[group])
                        r = tell_apart(world, rule, first[group] - 1, vm, ret_error);
                if (r < 0)
                        return r;
                first[group] = vm + 1;
        }
        json_array_foreach (vms_of(rule), i, name)
                first[root_of(world, number_of(world, name))] = 0;
        return 0;
}

static int check_apart(const struct world *world, struct error **ret_error)
{
        _cleanup_free_ size_t *first = alloc_array(world->n_vms + 1, sizeof(*first));
        int r = first ? 0 : no_memory(ret_error);

        for (size_t k = 0; r >= 0 && k < world->n_rules; k++)
                if (is_type(world->rules[k], "keep-apart"))
                        r = check_rule_apart(world, k, first, ret_error);
        return r;
}

/* The names as keys, so that each is looked up and not looked for. */
static json_t *set_of(const json_t *names)
{
        json_t *set = json_object(), *name;
        size_t i;

        json_array_foreach ((json_t *)names, i, name)
                if (set && json_object_set_new(set, json_string_value(name), json_true()) < 0) {
                        json_decref(set);
                        set = NULL;
                }
        return set;
}

/* The group keeps, of the hosts it may be on, those that the rule leaves it. named: of the rule, as a set. */
static int restrict_group(struct world *world, const json_t *rule, json_t *named, size_t group)
{
        const json_t *before = world->hosts[group];
        bool only = is_type(rule, "run-on");
        _cleanup_json_ json_t *left = NULL;
        const char *host;
        json_t *value;

        if (!before && !only)
                return 0; /* hosts without number are left */
        left = before ? json_object() : json_incref(named);
        if (!left)
                return -ENOMEM;
        json_object_foreach ((json_t *)before, host, value)
                if ((json_object_get(named, host) != NULL) == only &&
                        json_object_set_new(left, host, json_true()) < 0)
                        return -ENOMEM;
        json_decref(world->hosts[group]);
        world->hosts[group] = TAKE_PTR(left);
        return 0;
}

/* Each group of the rule once, however many of its VMs the rule names. *done: the rule that was looked at last, + 1, of each group. */
static int check_rule_hosts(struct world *world, size_t k, size_t *done, struct error **ret_error)
{
        const json_t *rule = world->rules[k];
        _cleanup_json_ json_t *named = set_of(json_object_get(spec_of(rule), "hosts"));
        json_t *name;
        size_t i;

        if (!named)
                return no_memory(ret_error);
        json_array_foreach (vms_of(rule), i, name) {
                size_t vm = number_of(world, name), group = root_of(world, vm);

                if (done[group] == k + 1)
                        continue;
                done[group] = k + 1;
                if (restrict_group(world, rule, named, group) < 0)
                        return no_memory(ret_error);
                if (world->hosts[group] && !json_object_size(world->hosts[group]))
                        return tell_no_host(world, vm, ret_error);
        }
        return 0;
}

/* What a group may be on is known only after all run-on rules: keep-off rules come in a second round. */
static int check_hosts(struct world *world, struct error **ret_error)
{
        static const char *const rounds[] = {"run-on", "keep-off"};
        _cleanup_free_ size_t *done = alloc_array(world->n_vms + 1, sizeof(*done));
        int r = done ? 0 : no_memory(ret_error);

        for (size_t round = 0; r >= 0 && round < ARRAY_SIZE(rounds); round++)
                for (size_t k = 0; r >= 0 && k < world->n_rules; k++)
                        if (is_type(world->rules[k], rounds[round]))
                                r = check_rule_hosts(world, k, done, ret_error);
        return r;
}

/* Finds a host for the group, moving others to another of theirs. taken: {host: group}; tried: {host: true}. 1 when it found
 * one, 0 when not, or -ENOMEM. */
static int find_host(const struct world *world, size_t group, json_t *taken, json_t *tried)
{
        const char *host;
        json_t *value;

        json_object_foreach (world->hosts[group], host, value) {
                const json_t *holder = json_object_get(taken, host);
                int r = 1;

                if (json_object_get(tried, host))
                        continue;
                if (json_object_set_new(tried, host, json_true()) < 0)
                        return -ENOMEM;
                if (holder)
                        r = find_host(world, (size_t)json_integer_value(holder), taken, tried);
                if (r > 0 && json_object_set_new(taken, host, json_integer((json_int_t)group)) < 0)
                        r = -ENOMEM;
                if (r != 0)
                        return r;
        }
        return 0;
}

static int check_room_apart(const struct world *world, const json_t *rule, struct error **ret_error)
{
        _cleanup_json_ json_t *taken = json_object();
        json_t *name;
        size_t i;

        json_array_foreach (vms_of(rule), i, name) {
                size_t group = root_of(world, number_of(world, name));
                _cleanup_json_ json_t *tried = json_object();
                int r;

                if (!world->hosts[group])
                        continue; /* it can be anywhere */
                r = taken && tried ? find_host(world, group, taken, tried) : -ENOMEM;
                if (r < 0)
                        return no_memory(ret_error);
                if (r == 0)
                        return error_set(ret_error, ERROR_CONFLICT, WAY_OUT,
                                "rule %s keeps its virtual machines apart, and rules about hosts leave no "
                                "host of its "
                                "own for %s",
                                text_of(rule, "name"), json_string_value(name));
        }
        return 0;
}

int affinity_check_others(const json_t *rule, const json_t *others, struct error **ret_error)
{
        _cleanup_(world_deinit) struct world world = {};
        int r;

        if (collect_rules(&world, rule, others) < 0 || number_vms(&world) < 0)
                return no_memory(ret_error);
        if (join_groups(&world) < 0)
                return no_memory(ret_error);
        r = check_apart(&world, ret_error);
        if (r >= 0)
                r = check_hosts(&world, ret_error);
        for (size_t k = 0; r >= 0 && k < world.n_rules; k++)
                if (is_type(world.rules[k], "keep-apart"))
                        r = check_room_apart(&world, world.rules[k], ret_error);
        return r;
}
