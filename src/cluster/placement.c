/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/placement.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "cluster/checks.h"

#define MEMORY_WEIGHT 66.0
#define CPU_WEIGHT 34.0

struct candidate {
        const char *name;
        json_t *reasons;
        double score;
        bool ok;
        bool preferred;
};

static const char *text_of(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

static int add_reason(json_t *reasons, char *text)
{
        int r = text ? json_array_append_new(reasons, json_string(text)) : -1;

        free(text);
        return r < 0 ? -ENOMEM : 0;
}

static int add_score(struct candidate *candidate, const json_t *vm, const json_t *host)
{
        const json_t *status = json_object_get(host, "status");
        double total = json_number_value(json_object_get(status, "memory_bytes"));
        double free_bytes = json_number_value(json_object_get(status, "memory_free_bytes"));
        double cpus = json_number_value(json_object_get(status, "cpus"));
        double load = json_number_value(json_object_get(status, "load1"));
        double need = json_number_value(json_object_get(json_object_get(vm, "spec"), "memory_bytes"));
        double left = MAX(free_bytes - need, 0.0);
        double idle = cpus > 0 ? CLAMP(1.0 - load / cpus, 0.0, 1.0) : 0.0;
        char text[16];

        candidate->score = (total > 0 ? MEMORY_WEIGHT * MIN(left / total, 1.0) : 0.0) + CPU_WEIGHT * idle;
        text_format_size((uint64_t)left, text);
        if (add_reason(candidate->reasons, alloc_printf("%s of memory would stay free", text)) < 0 ||
                add_reason(candidate->reasons, alloc_printf("load %.2f on %.0f CPUs", load, cpus)) < 0)
                return -ENOMEM;
        if (!candidate->preferred)
                return 0;
        return add_reason(candidate->reasons, alloc_strdup("the virtual machine was here before"));
}

static int judge(struct candidate *candidate, const struct placement_input *input, const json_t *host)
{
        struct checks_input checks_input = {.vm = input->vm,
                .source = input->source,
                .home = input->home,
                .target = host,
                .vms = input->vms};
        _cleanup_json_ json_t *checks = checks_run(&checks_input);
        json_t *item;
        size_t i;

        if (!checks)
                return -ENOMEM;
        candidate->name = text_of(host, "name");
        candidate->preferred = input->home && !strcmp(text_of(input->home, "uid"), text_of(host, "uid"));
        candidate->ok = checks_ok(checks);
        candidate->reasons = json_array();
        if (!candidate->reasons)
                return -ENOMEM;
        if (candidate->ok)
                return add_score(candidate, input->vm, host);
        json_array_foreach (checks, i, item)
                if (!json_is_true(json_object_get(item, "ok")) &&
                        add_reason(candidate->reasons,
                                alloc_printf("%s: %s", text_of(item, "code"), text_of(item, "cause"))) < 0)
                        return -ENOMEM;
        return 0;
}

static int compare(const void *a, const void *b)
{
        const struct candidate *x = a, *y = b;

        if (x->ok != y->ok)
                return x->ok ? -1 : 1;
        if (x->preferred != y->preferred)
                return x->preferred ? -1 : 1;
        if (x->score > y->score || x->score < y->score)
                return x->score > y->score ? -1 : 1;
        return strcmp(x->name, y->name);
}

static json_t *to_json(struct candidate *candidates, size_t n)
{
        json_t *out = json_array();

        for (size_t i = 0; out && i < n; i++) {
                /* One decimal: scores are for people and must not differ by rounding of the last bit. */
                double score = (double)(int64_t)(candidates[i].score * 10.0 + 0.5) / 10.0;
                json_t *item = json_pack("{s:s, s:b, s:f, s:O}", "host", candidates[i].name, "ok",
                        candidates[i].ok, "score", score, "reasons", candidates[i].reasons);

                if (!item || json_array_append_new(out, item) < 0) {
                        json_decref(out);
                        out = NULL;
                }
        }
        return out;
}

json_t *placement_rank(const struct placement_input *input)
{
        _cleanup_free_ struct candidate *candidates = NULL;
        size_t i, n = 0;
        json_t *host, *out = NULL;
        int r = 0;

        candidates = alloc_array(json_array_size(input->hosts) + 1, sizeof(*candidates));
        if (!candidates)
                return NULL;
        json_array_foreach ((json_t *)input->hosts, i, host) {
                if (input->source && !strcmp(text_of(host, "uid"), text_of(input->source, "uid")))
                        continue;
                r = judge(&candidates[n++], input, host);
                if (r < 0)
                        break;
        }
        if (r >= 0) {
                qsort(candidates, n, sizeof(*candidates), compare);
                out = to_json(candidates, n);
        }
        for (i = 0; i < n; i++)
                json_decref(candidates[i].reasons);
        return out;
}

int placement_best(const json_t *ranking, const char **ret_host, struct error **ret_error)
{
        const json_t *first = json_array_get(ranking, 0);
        const json_t *reasons = json_object_get(first, "reasons");

        if (!first)
                return error_set(ret_error, ERROR_NO_RESOURCES, "Add a host with `drover host add`.",
                        "there is no host to choose from");
        if (!json_is_true(json_object_get(first, "ok")))
                return error_set(ret_error, ERROR_NO_RESOURCES,
                        "Name a host to see what it lacks, or add one.",
                        "no host fits; the first one, %s: %s", text_of(first, "host"),
                        json_string_value(json_array_get(reasons, 0)) ?: "no reason given");
        *ret_host = text_of(first, "host");
        return 0;
}
