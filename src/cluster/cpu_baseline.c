/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/cpu_baseline.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cluster/cpu_model.h"

#define NO_KIND SIZE_MAX

static const char *text_of(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

/* Hosts that are alike count once: {"hosts": [...], "cpu_id"} and, borrowed, their document. */
struct kinds {
        json_t *list;
        const json_t **cpus;
        size_t n;
        const char *accelerator;
};

static void kinds_deinit(struct kinds *kinds)
{
        json_decref(kinds->list);
        free(kinds->cpus);
}

static const char *accelerator_of(const json_t *hosts)
{
        const char *best = "tcg";
        json_t *host;
        size_t i;

        json_array_foreach ((json_t *)hosts, i, host)
                if (!strcmp(text_of(json_object_get(host, "cpu"), "accelerator"), "kvm"))
                        best = "kvm";
        return best;
}

static int add_host(struct kinds *kinds, const json_t *host)
{
        const json_t *cpu = json_object_get(host, "cpu");
        size_t at = 0;

        while (at < kinds->n && strcmp(text_of(kinds->cpus[at], "id"), text_of(cpu, "id")))
                at++;
        if (at == kinds->n) {
                kinds->cpus[kinds->n++] = cpu;
                if (json_array_append_new(
                            kinds->list, json_pack("{s:[], s:s}", "hosts", "cpu_id", text_of(cpu, "id"))) < 0)
                        return -ENOMEM;
        }
        return json_array_append(
                json_object_get(json_array_get(kinds->list, at), "hosts"), json_object_get(host, "name"));
}

static int kinds_init(struct kinds *kinds, const json_t *hosts, json_t *others)
{
        json_t *host;
        size_t i;

        *kinds = (struct kinds){.list = json_array(),
                .cpus = alloc_array(json_array_size(hosts) + 1, sizeof(json_t *)),
                .accelerator = accelerator_of(hosts)};
        if (!kinds->list || !kinds->cpus)
                return -ENOMEM;
        json_array_foreach ((json_t *)hosts, i, host) {
                bool counts =
                        !strcmp(text_of(json_object_get(host, "cpu"), "accelerator"), kinds->accelerator);

                if (counts ? add_host(kinds, host) < 0
                           : json_array_append(others, json_object_get(host, "name")) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static bool is_offered(const struct kinds *kinds, size_t kind, const json_t *model)
{
        const json_t *cpu = kinds->cpus[kind], *there = cpu_model_find(cpu, text_of(model, "name"));

        return json_is_array(json_object_get(there, "features")) &&
               json_is_false(json_object_get(there, "deprecated")) &&
               (strcmp(kinds->accelerator, "kvm") ||
                       !strcmp(text_of(there, "vendor"), text_of(cpu, "vendor")));
}

/* The best model of all kinds but one (NO_KIND: of all), borrowed; NULL: none. Of two that are as large the later name, that is
 * the later version. */
static const json_t *best_model(const struct kinds *kinds, size_t but)
{
        size_t first = but == 0 ? 1 : 0, i;
        const json_t *best = NULL;
        json_t *model;

        if (first >= kinds->n)
                return NULL;
        json_array_foreach (json_object_get(kinds->cpus[first], "models"), i, model) {
                size_t n = json_array_size(json_object_get(model, "features"));
                bool offered = n > 0;

                for (size_t k = 0; offered && k < kinds->n; k++)
                        offered = k == but || is_offered(kinds, k, model);
                if (offered && n >= json_array_size(json_object_get(best, "features")))
                        best = model;
        }
        return best;
}

/* Of the names those that every kind (but one) offers; and not those in `without`. */
static json_t *common(const struct kinds *kinds, size_t but, const json_t *without)
{
        size_t first = but == 0 ? 1 : 0, i;
        json_t *out = json_array(), *name;

        if (first >= kinds->n)
                return out;
        json_array_foreach (json_object_get(kinds->cpus[first], "features"), i, name) {
                bool offered = !doc_has_string(without, json_string_value(name));

                for (size_t k = 0; offered && k < kinds->n; k++)
                        offered = k == but || doc_has_string(json_object_get(kinds->cpus[k], "features"),
                                                      json_string_value(name));
                if (out && offered && json_array_append(out, name) < 0) {
                        json_decref(out);
                        out = NULL;
                }
        }
        return out;
}

static json_t *difference(const json_t *names, const json_t *without)
{
        json_t *out = json_array(), *name;
        size_t i;

        json_array_foreach ((json_t *)names, i, name)
                if (out && !doc_has_string(without, json_string_value(name)) &&
                        json_array_append(out, name) < 0) {
                        json_decref(out);
                        out = NULL;
                }
        return out;
}

/* What the cluster could have were it not for the hosts of this kind. */
static int add_lowering(const struct kinds *kinds, size_t kind, const json_t *best)
{
        const json_t *without = kinds->n > 1 ? best_model(kinds, kind) : NULL;
        json_t *item = json_array_get(kinds->list, kind), *lowers = NULL, *more;

        more = without ? difference(json_object_get(without, "features"), json_object_get(best, "features"))
                       : NULL;
        if (without && without != best && json_array_size(more))
                lowers = json_pack("{s:s, s:O}", "model", text_of(without, "name"), "features", more);
        json_decref(more);
        return json_object_set_new(item, "lowers", lowers ?: json_null()) |
               json_object_set_new(item, "lacks",
                       kinds->n > 1 ? common(kinds, kind, json_object_get(kinds->cpus[kind], "features"))
                                    : json_array());
}

static const char *reason_of(const struct kinds *kinds)
{
        if (!kinds->n)
                return "no host has told which processors guests can have there";
        for (size_t k = 1; k < kinds->n && !strcmp(kinds->accelerator, "kvm"); k++)
                if (strcmp(text_of(kinds->cpus[k], "vendor"), text_of(kinds->cpus[0], "vendor")))
                        return "the hosts have processors of different vendors, between which no guest can "
                               "move safely";
        return "no CPU model is offered by all hosts";
}

json_t *cpu_baseline_compute(const json_t *hosts)
{
        _cleanup_json_ json_t *others = json_array(), *spare = NULL, *none = json_array();
        _cleanup_(kinds_deinit) struct kinds kinds = {};
        const json_t *best, *features;

        if (!others || !none || kinds_init(&kinds, hosts, others) < 0)
                return NULL;
        best = best_model(&kinds, NO_KIND);
        features = json_object_get(best, "features") ?: none;
        spare = common(&kinds, NO_KIND, features);
        for (size_t k = 0; k < kinds.n; k++)
                if (add_lowering(&kinds, k, best) < 0)
                        return NULL;
        return json_pack("{s:s, s:s?, s:s?, s:O, s:O, s:O, s:O}", "accelerator", kinds.accelerator, "model",
                best ? text_of(best, "name") : NULL, "reason", best ? NULL : reason_of(&kinds), "features",
                features, "spare", spare, "kinds", kinds.list, "others", others);
}

/* --- Plan ------------------------------------------------------------------------------------------------------------ */

static int plan_host(json_t *list, const json_t *host, const char *model)
{
        const json_t *cpu = json_object_get(host, "cpu");
        json_t *missing = NULL, *item;
        int r = cpu_model_missing(model, cpu, cpu, &missing);

        if (r < 0)
                return r;
        if (r == 0 && !json_array_size(missing)) {
                json_decref(missing);
                return 0;
        }
        item = r == 0 ? json_pack("{s:s, s:o}", "host", text_of(host, "name"), "missing", missing)
                      : json_pack("{s:s, s:b}", "host", text_of(host, "name"), "unknown", 1);
        return json_array_append_new(list, item);
}

/* What is suspended is so on no host: where its own is gone, another one's QEMU knows its model just as well. */
static const json_t *cpu_of_host(const json_t *hosts, const char *name, bool or_another)
{
        const char *accelerator = accelerator_of(hosts);
        const json_t *another = NULL;
        json_t *host;
        size_t i;

        json_array_foreach ((json_t *)hosts, i, host) {
                const json_t *cpu = json_object_get(host, "cpu");

                if (!strcmp(text_of(host, "name"), name))
                        return cpu;
                if (or_another && !strcmp(text_of(cpu, "accelerator"), accelerator))
                        another = cpu;
        }
        return another;
}

static int plan_vm(json_t *list, const json_t *hosts, const json_t *vm, const char *model)
{
        const json_t *status = json_object_get(vm, "status"), *spec = json_object_get(vm, "spec");
        const char *power = text_of(status, "power"), *has = text_of(status, "cpu_model");
        bool suspended = !strcmp(power, "suspended");
        const json_t *cpu = cpu_of_host(hosts, text_of(status, "host"), suspended);
        _cleanup_json_ json_t *mine = NULL, *wanted = NULL, *more = NULL;
        bool follows = !*text_of(spec, "cpu_model") || !strcmp(text_of(spec, "cpu_model"), "auto");

        if (!*power || !strcmp(power, "stopped") || !strcmp(power, "crashed") || !cpu || !*has ||
                !strcmp(has, model))
                return 0;
        if (cpu_model_features(has, cpu, &mine) < 0 || cpu_model_features(model, cpu, &wanted) < 0)
                return -ENOMEM;
        more = difference(mine, wanted);
        return more ? json_array_append_new(
                              list, json_pack("{s:s, s:s, s:s, s:O, s:b, s:b}", "vm", text_of(vm, "name"),
                                            "host", text_of(status, "host"), "cpu_model", has, "more", more,
                                            "follows", follows, "suspended", suspended))
                    : -ENOMEM;
}

json_t *cpu_baseline_plan(const json_t *hosts, const json_t *vms, const char *model)
{
        _cleanup_json_ json_t *cannot = json_array(), *others = json_array();
        const char *accelerator = accelerator_of(hosts);
        json_t *host, *vm;
        size_t i;

        if (!cannot || !others)
                return NULL;
        json_array_foreach ((json_t *)hosts, i, host)
                if (!strcmp(text_of(json_object_get(host, "cpu"), "accelerator"), accelerator) &&
                        plan_host(cannot, host, model) < 0)
                        return NULL;
        json_array_foreach ((json_t *)vms, i, vm)
                if (plan_vm(others, hosts, vm, model) < 0)
                        return NULL;
        return json_pack("{s:O, s:O}", "hosts", cannot, "vms", others);
}
