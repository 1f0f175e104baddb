/* SPDX-License-Identifier: Apache-2.0 */
/* x86's QEMU has no query-cpu-model-baseline or -comparison: it tells which features each model lacks here
 * (query-cpu-definitions), and which a processor with all of them has (query-cpu-model-expansion of "host" or "max"). The
 * features of a model that lacks none are its own expansion. The static one: the full one also has QEMU's settings, aliases, and
 * numbers that are too large for most readers of JSON. */
#include "vmm/cpu_probe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "io/pki.h"
#include "vmm/qemu_query.h"

#define MODELS_MAX 512
#define FEATURES_MAX 2048
#define NAME_MAX_BYTES 63
#define EXPANSIONS_MAX 200 /* open calls of one monitor */

struct cpu_probe {
        struct qemu_query *query;
        enum vm_accelerator accelerator;
        json_t *vendor, *features;
        json_t *models;     /* array, as in the document */
        json_t *unexpanded; /* array: those of them whose features are being asked for, in that order */
        cpu_probe_fn done;
        void *userdata;
};

static int bad_answer(struct error **ret_error, const char *command)
{
        return error_set(ret_error, ERROR_PROTOCOL, NULL, "QEMU's answer to %s is not understood", command);
}

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory while probing QEMU's processors");
}

/* QEMU lists many properties twice, as "a-b" and "a_b". */
static void spell(const char *name, char ret[static NAME_MAX_BYTES + 1])
{
        snprintf(ret, NAME_MAX_BYTES + 1, "%s", name);
        for (char *c = ret; *c; c++)
                if (*c == '_')
                        *c = '-';
}

static int compare_names(const void *a, const void *b)
{
        return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* An array of the keys of a set, sorted; NULL without memory. */
static json_t *sorted(const json_t *set)
{
        _cleanup_free_ const char **names = alloc_array(json_object_size(set) + 1, sizeof(*names));
        json_t *out = json_array(), *value;
        const char *name;
        size_t n = 0;

        if (!names) {
                json_decref(out);
                return NULL;
        }
        json_object_foreach ((json_t *)set, name, value)
                names[n++] = name;
        qsort(names, n, sizeof(*names), compare_names);
        for (size_t i = 0; out && i < n; i++)
                if (json_array_append_new(out, json_string(names[i])) < 0) {
                        json_decref(out);
                        out = NULL;
                }
        return out;
}

/* The properties of an expansion that are true. */
static json_t *features_of(const json_t *props)
{
        _cleanup_json_ json_t *set = json_object();
        const char *name;
        json_t *value;

        if (!set || json_object_size(props) > FEATURES_MAX)
                return NULL;
        json_object_foreach ((json_t *)props, name, value) {
                char spelled[NAME_MAX_BYTES + 1];

                spell(name, spelled);
                if (json_is_true(value) && json_object_set_new(set, spelled, json_true()) < 0)
                        return NULL;
        }
        return sorted(set);
}

static json_t *missing_of(const json_t *definition)
{
        _cleanup_json_ json_t *set = json_object();
        json_t *name;
        size_t i;

        if (!set)
                return NULL;
        json_array_foreach (json_object_get(definition, "unavailable-features"), i, name) {
                char spelled[NAME_MAX_BYTES + 1];

                spell(json_string_value(name) ?: "", spelled);
                if (*spelled && json_object_set_new(set, spelled, json_true()) < 0)
                        return NULL;
        }
        return sorted(set);
}

static int add_model(struct cpu_probe *probe, const json_t *definition, struct error **ret_error)
{
        bool safe = false, deprecated = false;
        const char *name, *alias = NULL;
        json_t *model;

        if (doc_need_string(definition, "", "name", NAME_MAX_BYTES, &name, NULL) < 0 ||
                doc_opt_string(definition, "", "alias-of", NAME_MAX_BYTES, &alias, NULL) < 0 ||
                doc_opt_bool(definition, "", "migration-safe", &safe, NULL) < 0 ||
                doc_opt_bool(definition, "", "deprecated", &deprecated, NULL) < 0)
                return bad_answer(ret_error, "query-cpu-definitions");
        model = json_pack("{s:s, s:o, s:s?, s:b, s:b}", "name", name, "missing", missing_of(definition),
                "alias_of", alias, "migration_safe", safe, "deprecated", deprecated);
        return json_array_append_new(probe->models, model) < 0 ? no_memory(ret_error) : 0;
}

static int compare_models(const void *a, const void *b)
{
        return strcmp(json_string_value(json_object_get(*(json_t *const *)a, "name")),
                json_string_value(json_object_get(*(json_t *const *)b, "name")));
}

/* QEMU's own order is that of a hash table. */
static int sort_models(struct cpu_probe *probe, struct error **ret_error)
{
        size_t n = json_array_size(probe->models);
        _cleanup_free_ json_t **models = alloc_array(n + 1, sizeof(json_t *));
        json_t *out = json_array();

        if (!models || !out) {
                json_decref(out);
                return no_memory(ret_error);
        }
        for (size_t i = 0; i < n; i++)
                models[i] = json_array_get(probe->models, i);
        qsort(models, n, sizeof(json_t *), compare_models);
        for (size_t i = 0; i < n; i++)
                if (json_array_append(out, models[i]) < 0) {
                        json_decref(out);
                        return no_memory(ret_error);
                }
        json_decref(probe->models);
        probe->models = out;
        return 0;
}

/* Answers come in the order of the questions. */
static int on_expansion(struct qemu_query *query, void *userdata, const json_t *result,
        const struct error *refusal, struct error **ret_error)
{
        struct cpu_probe *probe = userdata;
        json_t *model = json_incref(json_array_get(probe->unexpanded, 0));
        const json_t *props = json_object_get(json_object_get(result, "model"), "props");
        int r = 0;

        json_array_remove(probe->unexpanded, 0);
        /* One that QEMU cannot make is just not one that a cluster can share. */
        if (!refusal && (json_object_set_new(model, "features", features_of(props)) < 0 ||
                                json_object_set(model, "vendor", json_object_get(props, "vendor")) < 0))
                r = no_memory(ret_error);
        json_decref(model);
        return r;
}

static int ask_expansion(
        struct qemu_query *query, const char *model, qemu_answer_fn answer, struct error **ret_error)
{
        json_t *arguments = json_pack("{s:s, s:{s:s}}", "type", "static", "model", "name", model);

        return arguments ? qemu_query_ask(query, "query-cpu-model-expansion", arguments, answer, ret_error)
                         : no_memory(ret_error);
}

/* "max" and "host" are what this host has, and not the same on two hosts. */
static bool is_shareable(const json_t *model)
{
        return json_is_null(json_object_get(model, "alias_of")) &&
               json_is_true(json_object_get(model, "migration_safe")) &&
               json_array_size(json_object_get(model, "missing")) == 0;
}

static int on_definitions(struct qemu_query *query, void *userdata, const json_t *result,
        const struct error *refusal, struct error **ret_error)
{
        struct cpu_probe *probe = userdata;
        json_t *item;
        size_t i;
        int r = 0;

        if (refusal || !json_is_array(result) || json_array_size(result) > MODELS_MAX)
                return bad_answer(ret_error, "query-cpu-definitions");
        json_array_foreach ((json_t *)result, i, item) {
                r = add_model(probe, item, ret_error);
                if (r < 0)
                        return r;
        }
        r = sort_models(probe, ret_error);
        json_array_foreach (probe->models, i, item) {
                if (r < 0 || !is_shareable(item) || json_array_size(probe->unexpanded) == EXPANSIONS_MAX)
                        continue;
                if (json_array_append(probe->unexpanded, item) < 0)
                        return no_memory(ret_error);
                r = ask_expansion(
                        query, json_string_value(json_object_get(item, "name")), on_expansion, ret_error);
        }
        return r;
}

static int on_most(struct qemu_query *query, void *userdata, const json_t *result,
        const struct error *refusal, struct error **ret_error)
{
        const json_t *props = json_object_get(json_object_get(result, "model"), "props");
        struct cpu_probe *probe = userdata;

        if (refusal || !json_is_object(props) || !json_is_string(json_object_get(props, "vendor")))
                return bad_answer(ret_error, "query-cpu-model-expansion");
        probe->vendor = json_incref(json_object_get(props, "vendor"));
        probe->features = features_of(props);
        return probe->features ? 0 : no_memory(ret_error);
}

static json_t *make_document(const struct cpu_probe *probe)
{
        json_t *doc =
                json_pack("{s:s, s:O, s:O, s:O}", "accelerator", vm_accelerator_to_string(probe->accelerator),
                        "vendor", probe->vendor, "features", probe->features, "models", probe->models);
        _cleanup_free_ char *text = doc ? doc_to_canonical_text(doc) : NULL;
        char id[PKI_FINGERPRINT_SIZE];

        if (!text || pki_sha256_hex(text, strlen(text), id) < 0 ||
                json_object_set_new(doc, "id", json_string(id)) < 0) {
                json_decref(doc);
                return NULL;
        }
        return doc;
}

static void on_done(void *userdata, const struct error *error)
{
        struct cpu_probe *probe = userdata;
        json_t *document = error ? NULL : make_document(probe);
        _cleanup_error_ struct error *own = NULL;

        if (!document && !error)
                no_memory(&own);
        probe->done(probe->userdata, document, error ?: own);
}

int cpu_probe_start(struct loop *loop, const char *path, enum vm_accelerator accelerator, uint64_t timeout_ms,
        cpu_probe_fn done, void *userdata, struct cpu_probe **ret_probe, struct error **ret_error)
{
        _cleanup_(cpu_probe_freep) struct cpu_probe *probe = ALLOC(struct cpu_probe);
        bool kvm = accelerator == VM_ACCELERATOR_KVM;
        int r;

        if (!probe || !(probe->models = json_array()) || !(probe->unexpanded = json_array()))
                return no_memory(ret_error);
        probe->accelerator = accelerator;
        probe->done = done;
        probe->userdata = userdata;
        r = qemu_query_start(
                loop, path, kvm ? "kvm" : "tcg", timeout_ms, on_done, probe, &probe->query, ret_error);
        if (r == 0)
                r = ask_expansion(probe->query, kvm ? "host" : "max", on_most, ret_error);
        if (r == 0)
                r = qemu_query_ask(probe->query, "query-cpu-definitions", NULL, on_definitions, ret_error);
        if (r < 0)
                return r;
        *ret_probe = TAKE_PTR(probe);
        return 0;
}

void cpu_probe_free(struct cpu_probe *probe)
{
        if (!probe)
                return;
        qemu_query_free(probe->query);
        json_decref(probe->vendor);
        json_decref(probe->features);
        json_decref(probe->models);
        json_decref(probe->unexpanded);
        free(probe);
}
