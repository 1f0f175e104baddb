/* SPDX-License-Identifier: Apache-2.0 */

/* Affinity rules: objects that the checks and the ranking of hosts look at; nothing has to be done on a host. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "cluster/affinity.h"
#include "manager/api.h"
#include "manager/json.h"
#include "manager/manager.h"

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

void api_affinity_rule_list(struct http_request *request, void *userdata)
{
        api_reply_list(request, userdata, &(struct api_listing){.kind = "affinity-rule"});
}

/* The documents of the VMs that it names. */
static json_t *members_of(struct manager *manager, const json_t *rule)
{
        json_t *members = json_array(), *name;
        size_t i;

        json_array_foreach (json_object_get(json_spec(rule), "vms"), i, name) {
                const json_t *vm = inventory_vm_named(manager->inventory, json_string_value(name));

                if (members && vm && json_array_append(members, (json_t *)vm) < 0) {
                        json_decref(members);
                        return NULL;
                }
        }
        return members;
}

static int add_status(struct manager *manager, json_t *rule)
{
        _cleanup_json_ json_t *vms = members_of(manager, rule);
        json_t *broken = vms ? affinity_broken(rule, vms) : NULL;

        return broken ? json_object_set_new(rule, "status", json_pack("{s:o}", "broken", broken)) : -ENOMEM;
}

void api_affinity_rule_get(struct http_request *request, void *userdata)
{
        struct error *error = NULL;
        json_t *rule = NULL;
        int r;

        r = api_get_object(request, userdata, "affinity-rule", &rule, &error);
        if (r >= 0 && add_status(userdata, rule) < 0) {
                json_decref(rule);
                r = no_memory(&error);
        }
        if (r < 0)
                http_request_reply_error(request, error);
        else
                api_reply_object(request, 200, rule);
}

/* By their names: a uid in a rule would tell a reader nothing. */
static int check_known(struct manager *manager, const json_t *spec, struct error **ret_error)
{
        json_t *name;
        size_t i;

        json_array_foreach (json_object_get(spec, "vms"), i, name)
                if (!inventory_vm_named(manager->inventory, json_string_value(name)))
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                "there is no virtual machine %s", json_string_value(name));
        json_array_foreach (json_object_get(spec, "hosts"), i, name) {
                const json_t *host = inventory_host(manager->inventory, json_string_value(name));

                if (strcmp(json_text(host, "name"), json_string_value(name)))
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "there is no host %s",
                                json_string_value(name));
        }
        return 0;
}

static size_t n_names(const json_t *rule)
{
        return json_array_size(json_object_get(json_spec(rule), "vms")) +
               json_array_size(json_object_get(json_spec(rule), "hosts"));
}

/* Each rule may name many, and there may be many; all of them are held against each other at once. */
static int check_amount(const json_t *rule, const json_t *others, struct error **ret_error)
{
        size_t n = n_names(rule), i;
        json_t *other;

        json_array_foreach ((json_t *)others, i, other)
                n += strcmp(json_text(other, "name"), json_text(rule, "name")) ? n_names(other) : 0;
        if (json_array_size(others) >= AFFINITY_RULES_MAX)
                return error_set(ret_error, ERROR_TOO_LARGE, "Remove one that is not used.",
                        "there are %d affinity rules already", AFFINITY_RULES_MAX);
        if (n > AFFINITY_NAMES_MAX)
                return error_set(ret_error, ERROR_TOO_LARGE, "Remove one that is not used, or name fewer.",
                        "the affinity rules would name %zu virtual machines and hosts, at most %d in all", n,
                        AFFINITY_NAMES_MAX);
        return 0;
}

/* Also when it only should be kept, it must be one that can be. */
static int check_rule(struct manager *manager, json_t *rule, struct error **ret_error)
{
        _cleanup_json_ json_t *others = NULL;
        json_t *spec = json_spec(rule);
        int r;

        r = affinity_check_spec(spec, ret_error);
        if (r >= 0)
                r = check_known(manager, spec, ret_error);
        if (r >= 0)
                r = inventory_objects(manager->inventory, "affinity-rule", &others, ret_error);
        if (r >= 0)
                r = check_amount(rule, others, ret_error);
        return r < 0 ? r : affinity_check_others(rule, others, ret_error);
}

/* Checks the rule (taken over), records it and answers with it. */
static void record(struct http_request *request, struct manager *manager, json_t *rule, bool is_new)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *object = alloc_printf("affinity-rule/%s", json_text(rule, "name"));
        uint64_t revision = is_new ? STORE_ABSENT : json_revision(rule);
        struct error *error = NULL;
        int r = object ? check_rule(manager, rule, &error) : no_memory(&error);

        if (r >= 0) {
                store_batch_put(&batch, revision, json_incref(rule));
                r = api_commit(request, manager, &batch,
                        is_new ? "affinity-rule.create" : "affinity-rule.update", object, &revision, &error);
        }
        if (r >= 0 && (json_object_set_new(rule, "revision", json_integer((json_int_t)revision)) < 0 ||
                              add_status(manager, rule) < 0))
                r = no_memory(&error);
        if (r >= 0) {
                api_reply_object(request, is_new ? 201 : 200, rule);
                return;
        }
        json_decref(rule);
        http_request_reply_error(request, error);
}

void api_affinity_rule_create(struct http_request *request, void *userdata)
{
        json_t *body = NULL, *spec = NULL, *rule = NULL;
        char uid[UUID_STRING_SIZE];
        struct error *error = NULL;
        const char *name = NULL;
        int r;

        r = api_body_new(request, &body, &name, &spec, &error);
        if (r >= 0) {
                rule = text_uuid_new(uid) < 0
                               ? NULL
                               : json_pack("{s:s, s:s, s:s, s:O, s:{}}", "kind", "affinity-rule", "name",
                                         name, "uid", uid, "spec", spec, "status");
                r = rule ? 0 : no_memory(&error);
        }
        if (r < 0)
                http_request_reply_error(request, error);
        else
                record(request, userdata, rule, true);
}

void api_affinity_rule_update(struct http_request *request, void *userdata)
{
        json_t *rule = NULL, *body = NULL, *spec = NULL;
        struct error *error = NULL;
        int r;

        r = api_get_object(request, userdata, "affinity-rule", &rule, &error);
        if (r >= 0)
                r = api_body_spec(request, &body, &spec, &error);
        if (r >= 0 && json_object_set(rule, "spec", spec) < 0)
                r = no_memory(&error);
        if (r >= 0) {
                record(request, userdata, rule, false);
                return;
        }
        json_decref(rule);
        http_request_reply_error(request, error);
}

void api_affinity_rule_delete(struct http_request *request, void *userdata)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *rule = NULL;
        struct error *error = NULL;
        int r;

        r = api_get_object(request, userdata, "affinity-rule", &rule, &error);
        if (r >= 0) {
                store_batch_remove(&batch, "affinity-rule", json_text(rule, "uid"), json_revision(rule));
                r = api_remove(request, userdata, rule, &batch, &error);
        }
        if (r < 0)
                http_request_reply_error(request, error);
}
