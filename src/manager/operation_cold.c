/* SPDX-License-Identifier: Apache-2.0 */

/* What is off: where a virtual machine could be resumed from its state, and vm.migrate-cold, by which one that is stopped, crashed or suspended
 * is given to another host and stays what it is. No host has anything of it but memories, so nothing is copied and no agent is asked: its document
 * says where it is, until it runs again (status.moved_cold; inventory_merge.c has what that means for what hosts tell).
 *
 * Data: vm_uid; to: asked for, or absent. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cluster/checks.h"
#include "cluster/placement.h"
#include "manager/check_facts.h"
#include "manager/cluster_cpu.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/moves.h"
#include "manager/operations.h"

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

json_t *operation_as_suspended(const json_t *vm)
{
        static const char *const keys[] = {"machine", "cpu_model", "accelerator"};
        _cleanup_json_ json_t *copy = json_copy((json_t *)vm), *spec = json_copy(json_spec(vm));

        if (!copy || !spec || json_object_set(copy, "spec", spec) < 0)
                return NULL;
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                json_t *value = json_object_get(json_status(vm), keys[i]);

                if (json_is_string(value) && json_object_set(spec, keys[i], value) < 0)
                        return NULL;
        }
        return TAKE_PTR(copy);
}

bool operation_knows_states(const json_t *host)
{
        return json_is_true(json_object_get(json_object_get(json_status(host), "capabilities"), "suspend"));
}

/* Of the ranking the hosts that would take it. */
static int list_fitting(const struct check_facts *facts, const json_t *ranking, json_t *hosts, char **ret_why)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)ranking, i, item) {
                const char *name = json_text(item, "host");

                if (!json_is_true(json_object_get(item, "ok")))
                        continue;
                if (operation_knows_states(check_facts_host(facts, name))) {
                        if (json_array_append(hosts, json_object_get(item, "host")) < 0)
                                return -ENOMEM;
                } else if (!*ret_why)
                        *ret_why = alloc_printf(
                                "the agent of host %s does not know of suspended virtual machines", name);
        }
        return 0;
}

static void leave_out(json_t *ranking, const char *host)
{
        for (size_t i = json_array_size(ranking); host && i-- > 0;)
                if (!strcmp(json_text(json_array_get(ranking, i), "host"), host))
                        json_array_remove(ranking, i);
}

int operation_resume_check(struct manager *manager, const json_t *vm, const char *except,
        const struct task *asking, const struct check_assumptions *assumptions, json_t **ret_report,
        struct error **ret_error)
{
        _cleanup_json_ json_t *resolved = operation_as_suspended(vm), *ranking = NULL, *hosts = json_array();
        _cleanup_check_facts_ struct check_facts facts = {};
        _cleanup_error_ struct error *refusal = NULL;
        _cleanup_free_ char *why = NULL;
        struct checks_input input;
        const char *best = NULL;
        json_t *report = NULL;
        int r = resolved && hosts ? 0 : -ENOMEM;

        if (r >= 0) {
                r = check_facts_load(manager, resolved, false, asking, &facts, ret_error);
                if (r < 0)
                        return r;
                r = check_facts_assume(&facts, assumptions);
        }
        if (r >= 0) {
                input = check_facts_input(&facts);
                input.resumes = true;
                ranking = placement_rank(&input, facts.hosts, NULL);
                leave_out(ranking, except);
                r = ranking ? list_fitting(&facts, ranking, hosts, &why) : -ENOMEM;
        }
        if (r >= 0) {
                if (!why)
                        (void)placement_best(ranking, &best, &refusal);
                report = json_pack("{s:b, s:O, s:s?}", "ok", json_array_size(hosts) > 0, "hosts", hosts, "why",
                        json_array_size(hosts) ? NULL : why ?: refusal ? error_message(refusal) : NULL);
        }
        if (!report)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_report = report;
        return 0;
}

/* --- Cold migration ----------------------------------------------------------------------------------------------------- */

static bool is_suspended(const json_t *vm)
{
        return !strcmp(json_text(json_status(vm), "power"), "suspended");
}

/* What a start needs at that moment says nothing about whether it may be there. */
static void leave_out_starting(json_t *checks)
{
        static const char *const codes[] = {"memory", "cpu-load", "pool-limit", "pool-reservation"};

        for (size_t i = json_array_size(checks); i-- > 0;)
                for (size_t k = 0; k < ARRAY_SIZE(codes); k++)
                        if (!strcmp(json_text(json_array_get(checks, i), "code"), codes[k])) {
                                json_array_remove(checks, i);
                                break;
                        }
}

static int add_broken(
        json_t *checks, const char *code, const char *host, const char *why, const char *way_out)
{
        return json_array_insert_new(checks, 0,
                json_pack("{s:s, s:s, s:b, s:s, s:s, s:s}", "code", code, "severity", "error", "ok", 0,
                        "object", host, "cause", why ?: "out of memory", "way_out", way_out));
}

/* Those of a start, of what it could not do without, and that it is not there already. */
static json_t *cold_checks(const json_t *vm, const struct checks_input *input, const json_t *target)
{
        const char *name = json_text(target, "name");
        _cleanup_json_ json_t *checks = checks_of(input, target);
        _cleanup_free_ char *why = NULL;
        int r = checks ? 0 : -ENOMEM;

        if (r >= 0)
                leave_out_starting(checks);
        if (r >= 0 && !strcmp(json_text(json_status(vm), "host"), name)) {
                why = alloc_printf("the virtual machine is on host %s already", name);
                r = add_broken(checks, "same-host", name, why, "Name another host with --to.");
        }
        return r < 0 ? NULL : TAKE_PTR(checks);
}

static int load_cold(struct manager *manager, const json_t *vm, const struct task *asking,
        json_t **ret_resolved, struct check_facts *ret_facts, struct error **ret_error)
{
        json_t *resolved = NULL;
        int r = 0;

        if (!is_suspended(vm))
                r = cluster_cpu_resolve(manager, vm, &resolved, ret_error);
        else {
                resolved = operation_as_suspended(vm);
                r = resolved ? 0 : no_memory(ret_error);
        }
        *ret_resolved = resolved;
        return r < 0 ? r : check_facts_load(manager, resolved, false, asking, ret_facts, ret_error);
}

/* The best of those that can have it: they come first, but for those that lack only what a start needs. */
static int best_of(const json_t *ranking, const char **ret_host, struct error **ret_error)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)ranking, i, item) {
                _cleanup_json_ json_t *checks = json_copy(json_object_get(item, "checks"));

                if (!checks)
                        return no_memory(ret_error);
                leave_out_starting(checks);
                if (checks_ok(checks)) {
                        *ret_host = json_text(item, "host");
                        return 0;
                }
        }
        return placement_best(ranking, ret_host, ret_error);
}

int operation_cold_check(struct manager *manager, const json_t *vm, const char *to, const struct task *asking,
        json_t **ret_report, struct error **ret_error)
{
        _cleanup_json_ json_t *resolved = NULL, *ranking = NULL, *checks = NULL;
        const char *from = json_text_or_null(json_status(vm), "host"), *best = to;
        _cleanup_check_facts_ struct check_facts facts = {};
        struct checks_input input;
        const json_t *target;
        json_t *report;
        int r;

        r = load_cold(manager, vm, asking, &resolved, &facts, ret_error);
        if (r < 0)
                return r;
        input = check_facts_input(&facts);
        input.resumes = is_suspended(vm);
        ranking = placement_rank(&input, facts.hosts, NULL);
        if (!ranking)
                return no_memory(ret_error);
        leave_out(ranking, from);
        if (!to) {
                r = best_of(ranking, &best, ret_error);
                if (r < 0)
                        return r;
        }
        target = check_facts_host(&facts, best);
        if (!target)
                return error_set(ret_error, ERROR_NOT_FOUND, "See `drover host list`.",
                        "there is no host %.64s", best);
        checks = cold_checks(vm, &input, target);
        report = checks ? json_pack("{s:b, s:s, s:s?, s:s, s:O, s:O}", "ok", checks_ok(checks), "vm",
                                  json_text(vm, "name"), "from", from, "to", json_text(target, "name"),
                                  "checks", checks, "ranking", ranking)
                        : NULL;
        if (!report)
                return no_memory(ret_error);
        *ret_report = report;
        return 0;
}

/* With the end of the step. */
static int assign(struct task *task, const json_t *vm, const char *to)
{
        _cleanup_json_ json_t *doc = json_deep_copy(vm);
        json_t *status = json_status(doc);

        if (!doc || json_object_set_new(status, "host", json_string(to)) < 0 ||
                json_object_set_new(status, "moved_cold", json_true()) < 0 ||
                json_object_set_new(status, "message", json_null()) < 0)
                return -ENOMEM;
        task_set_result(task, json_pack("{s:O?, s:s, s:O}", "from", json_object_get(json_status(vm), "host"),
                                      "to", to, "power", json_object_get(status, "power")));
        store_batch_put(task_batch(task), json_revision(vm), TAKE_PTR(doc));
        return 0;
}

static int check_off(const json_t *vm, struct error **ret_error)
{
        if (!vm)
                return error_set(ret_error, ERROR_NOT_FOUND, NULL,
                        "the virtual machine is not in the inventory any more");
        if (!moves_is_off(vm))
                return error_set(ret_error, ERROR_CONFLICT, "Ask for it again: it is moved as one that runs.",
                        "the virtual machine is %s by now", json_text(json_status(vm), "power"));
        return 0;
}

static void run_assign(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *vm = inventory_vm(manager->inventory, json_text(task_data(task), "vm_uid"));
        const char *to = json_text_or_null(task_data(task), "to");
        _cleanup_json_ json_t *report = NULL;
        struct error *error = NULL;
        int r;

        if (step_waits_for_hosts(task, manager))
                return;
        r = check_off(vm, &error);
        if (r >= 0)
                r = operation_cold_check(manager, vm, to, task, &report, &error);
        if (r >= 0)
                r = checks_to_error(json_object_get(report, "checks"), &error);
        if (r >= 0 && !to)
                r = step_chose(task, json_text(report, "to"), json_object_get(report, "ranking"), &error);
        if (r >= 0)
                r = assign(task, vm, json_text(report, "to"));
        if (r < 0)
                task_step_failed(task, error);
        else
                task_step_done(task);
}

static const struct task_step steps[] = {{.name = "assign", .run = run_assign}};
const struct task_kind operation_vm_migrate_cold = {
        .action = "vm.migrate-cold",
        .steps = steps,
        .n_steps = ARRAY_SIZE(steps),
        .timeout_ms = 60000,
};
