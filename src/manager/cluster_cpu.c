/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/cluster_cpu.h"

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "base/text.h"
#include "cluster/cpu_baseline.h"
#include "cluster/cpu_model.h"
#include "manager/api.h"
#include "manager/json.h"
#include "manager/manager.h"

#define KIND "cluster-cpu"
#define NAME "cpu"
#define POLICY_MAX 511

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

/* [{"name", "cpu"}] of the hosts of which it is known. */
static json_t *hosts_with_cpus(struct manager *manager)
{
        _cleanup_json_ json_t *cpus = inventory_cpus(manager->inventory);
        json_t *out = json_array(), *cpu;
        const char *uid;

        json_object_foreach (cpus, uid, cpu) {
                const json_t *host = inventory_host(manager->inventory, uid);

                if (out && json_array_append_new(out, json_pack("{s:s, s:O}", "name", json_text(host, "name"),
                                                              "cpu", cpu)) < 0) {
                        json_decref(out);
                        out = NULL;
                }
        }
        return out;
}

/* The stored document, or a new one with the policy "none"; the caller's. */
static int get_document(struct manager *manager, json_t **ret_doc, struct error **ret_error)
{
        char uid[UUID_STRING_SIZE];
        int r = store_get(manager->store, KIND, NAME, ret_doc, NULL);

        if (r != -ENOENT)
                return r < 0 ? error_from_errno(ret_error, r, "cannot read the cluster's CPU policy") : 0;
        *ret_doc = text_uuid_new(uid) < 0
                           ? NULL
                           : json_pack("{s:s, s:s, s:s, s:i, s:{s:s}, s:{}}", "kind", KIND, "name", NAME,
                                     "uid", uid, "revision", 0, "spec", "policy", "none", "status");
        return *ret_doc ? 0 : no_memory(ret_error);
}

/* The model that the policy stands for, borrowed; NULL: none. */
static const char *model_of(const char *policy, const json_t *computed)
{
        if (!strcmp(policy, "none"))
                return NULL;
        return strcmp(policy, "auto") ? policy : json_text_or_null(computed, "model");
}

int cluster_cpu_resolve(struct manager *manager, const json_t *vm, json_t **ret_vm, struct error **ret_error)
{
        _cleanup_json_ json_t *doc = NULL, *hosts = NULL, *computed = NULL, *copy = NULL, *spec = NULL;
        const char *wanted = json_text(json_spec(vm), "cpu_model"), *policy, *model;
        const char *accelerator = json_text(json_spec(vm), "accelerator");
        int r = get_document(manager, &doc, ret_error);

        if (r < 0)
                return r;
        policy = json_text(json_spec(doc), "policy");
        if (!strcmp(policy, "none") || (*wanted && strcmp(wanted, "auto"))) {
                *ret_vm = json_incref((json_t *)vm);
                return 0;
        }
        hosts = hosts_with_cpus(manager);
        computed = hosts ? cpu_baseline_compute(hosts) : NULL;
        copy = json_copy((json_t *)vm);
        spec = json_copy(json_spec(vm));
        if (!computed || !copy || !spec)
                return no_memory(ret_error);
        model = model_of(policy, computed);
        /* One that is to be emulated where others have KVM goes its own way. */
        if (*accelerator && strcmp(accelerator, "auto") &&
                strcmp(accelerator, json_text(computed, "accelerator")))
                model = "auto";
        if (!model)
                return error_set(ret_error, ERROR_CHECK_FAILED,
                        "See `drover cluster cpu`; set another policy, or give the virtual machine a model "
                        "of its own.",
                        "the cluster's CPU policy is auto, and %s", json_text(computed, "reason"));
        if (json_object_set_new(spec, "cpu_model", json_string(model)) < 0 ||
                json_object_set(copy, "spec", spec) < 0)
                return no_memory(ret_error);
        *ret_vm = TAKE_PTR(copy);
        return 0;
}

/* --- API ------------------------------------------------------------------------------------------------------------- */

/* What a policy means now: {"policy", "model", "reason", "plan", "computed"}. */
static json_t *status_of(struct manager *manager, const char *policy)
{
        _cleanup_json_ json_t *hosts = hosts_with_cpus(manager), *vms = inventory_vms(manager->inventory);
        _cleanup_json_ json_t *computed = hosts ? cpu_baseline_compute(hosts) : NULL, *plan = NULL;
        const char *model = computed ? model_of(policy, computed) : NULL;
        bool fails = computed && !model && strcmp(policy, "none");

        if (!computed || !vms)
                return NULL;
        plan = model ? cpu_baseline_plan(hosts, vms, model) : json_pack("{s:[], s:[]}", "hosts", "vms");
        return plan ? json_pack("{s:s, s:s?, s:s?, s:O, s:O}", "policy", policy, "model", model, "reason",
                              fails ? json_text(computed, "reason") : NULL, "plan", plan, "computed",
                              computed)
                    : NULL;
}

static bool is_word(const char *text, size_t n, const char *word)
{
        return n == strlen(word) && !memcmp(text, word, n);
}

/* Whatever features follow, a model that means another processor on each host is no baseline. */
static int check_policy(const char *policy, struct error **ret_error)
{
        size_t n = strcspn(policy, ",");
        bool alone = !policy[n] && (!strcmp(policy, "none") || !strcmp(policy, "auto"));

        if (alone ||
                (cpu_model_is_valid(policy) && !is_word(policy, n, "host") && !is_word(policy, n, "max") &&
                        !is_word(policy, n, "auto") && !is_word(policy, n, "none")))
                return 0;
        return error_set(ret_error, ERROR_BAD_DOCUMENT,
                "Give none, auto, or a model such as Westmere-v1,+aes.",
                "\"%.64s\" cannot be the cluster's CPU policy", policy);
}

static void reply(struct http_request *request, struct manager *manager, json_t *doc, const char *policy)
{
        json_t *status = status_of(manager, policy);

        if (!status || json_object_set_new(doc, "status", status) < 0)
                http_request_reply_error(request, NULL);
        else
                api_reply_object(request, 200, json_incref(doc));
}

void api_cluster_cpu_get(struct http_request *request, void *userdata)
{
        const char *policy = http_request_query(request, "policy");
        _cleanup_json_ json_t *doc = NULL;
        struct error *error = NULL;
        int r = policy ? check_policy(policy, &error) : 0;

        if (r >= 0)
                r = get_document(userdata, &doc, &error);
        if (r < 0)
                http_request_reply_error(request, error);
        else
                reply(request, userdata, doc, policy ?: json_text(json_spec(doc), "policy"));
}

/* A model that some host does not offer would tie every VM to the others. */
static int check_offered(const json_t *status, struct error **ret_error)
{
        const json_t *first = json_array_get(json_object_get(json_object_get(status, "plan"), "hosts"), 0);
        _cleanup_free_ char *names = NULL;

        if (json_text_or_null(status, "reason"))
                return error_set(ret_error, ERROR_CHECK_FAILED, "See `drover cluster cpu`.", "%s",
                        json_text(status, "reason"));
        if (!first)
                return 0;
        if (json_is_true(json_object_get(first, "unknown")))
                return error_set(ret_error, ERROR_CHECK_FAILED,
                        "Upgrade QEMU there, or choose another model.",
                        "QEMU on host %s does not know the CPU model %s", json_text(first, "host"),
                        json_text(status, "model"));
        names = cpu_model_names_text(json_object_get(first, "missing"));
        return error_set(ret_error, ERROR_CHECK_FAILED,
                "Choose a model that all hosts offer (`drover cluster cpu`), or leave those features out.",
                "guests on host %s cannot have these features of the CPU model %s: %s",
                json_text(first, "host"), json_text(status, "model"), names ?: "?");
}

static int read_policy(struct http_request *request, const char **ret_policy, struct error **ret_error)
{
        static const char *const keys[] = {"spec", NULL}, *const spec_keys[] = {"policy", NULL};
        json_t *body = NULL, *spec = NULL;
        int r;

        r = api_body(request, keys, &body, ret_error);
        if (r >= 0)
                r = doc_opt_object(body, "", "spec", &spec, ret_error);
        if (r >= 0)
                r = doc_only_keys(spec, "spec", spec_keys, ret_error);
        if (r >= 0)
                r = doc_need_string(spec, "spec", "policy", POLICY_MAX, ret_policy, ret_error);
        return r < 0 ? r : check_policy(*ret_policy, ret_error);
}

static int set_policy(struct http_request *request, struct manager *manager, json_t *doc, const char *policy,
        struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *status = status_of(manager, policy);
        uint64_t revision = json_revision(doc) ?: STORE_ABSENT;
        int r = status ? check_offered(status, ret_error) : no_memory(ret_error);

        if (r < 0)
                return r;
        if (json_object_set_new(json_spec(doc), "policy", json_string(policy)) < 0 ||
                json_object_set_new(doc, "status", json_object()) < 0)
                return no_memory(ret_error);
        store_batch_put(&batch, revision, json_incref(doc));
        r = api_commit(request, manager, &batch, "cluster-cpu.update", KIND "/" NAME, &revision, ret_error);
        return r < 0 ? r : json_object_set_new(doc, "revision", json_integer((json_int_t)revision));
}

void api_cluster_cpu_update(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *doc = NULL;
        const char *policy = NULL;
        struct error *error = NULL;
        int r;

        r = read_policy(request, &policy, &error);
        if (r >= 0)
                r = get_document(userdata, &doc, &error);
        if (r >= 0)
                r = api_check_if_match(request, doc, &error);
        if (r >= 0)
                r = set_policy(request, userdata, doc, policy, &error);
        if (r < 0)
                http_request_reply_error(request, error);
        else
                reply(request, userdata, doc, policy);
}
