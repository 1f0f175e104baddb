/* SPDX-License-Identifier: Apache-2.0 */

/* host.maintenance: the host is closed (check `host-maintenance`), and what runs there moves away; host.maintenance-end: it is
 * opened, and those come back if that was asked for. Its document has status.maintenance {"state", "since", "by", "why", "task",
 * "left"}: entering, on, or incomplete (some stay there); left: those that it moved away, {"uid", "name", "to"}, or suspended, with
 * "suspended_by" (the uid of the vm.suspend task) and to null. Once it is open, status.to_return has those that are still to come back: the request can be repeated.
 * What it has suspended is resumed also when the others are not to come back.
 *
 * Cancelled, the host is as it was before, but for what has moved. A failure leaves it closed: who mends what the report names
 * repeats the request.
 *
 * Data: host_uid, by, before (status.maintenance of before, or null), and what moves.h says. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "cluster/evacuation.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/moves.h"
#include "manager/moves_plan.h"
#include "manager/operations.h"

#define MINUTE_MS (60ull * 1000)

static const json_t *maintenance_of(const json_t *host)
{
        const json_t *maintenance = json_object_get(json_status(host), "maintenance");

        return json_is_object(maintenance) ? maintenance : NULL;
}

/* Those that left the host and were not brought back; NULL: none. */
static const json_t *left_by(const json_t *host)
{
        const json_t *maintenance = maintenance_of(host);

        return maintenance ? json_object_get(maintenance, "left")
                           : json_object_get(json_status(host), "to_return");
}

/* Whether the end of maintenance has something to do with those that left: all of them if they are to come back, else those that were
 * suspended. */
static bool is_to_come_back(const json_t *left, bool back)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)left, i, item)
                if (back || *json_text(item, "suspended_by"))
                        return true;
        return false;
}

static int check_priority(const json_t *body, struct error **ret_error)
{
        static const char *const words[] = {"low", "normal", "high", "critical"};
        const char *priority = NULL;
        int r = doc_opt_string(body, "", "priority", 16, &priority, ret_error);

        if (r < 0 || !priority)
                return r;
        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                if (!strcmp(words[i], priority))
                        return 0;
        return error_set(ret_error, ERROR_BAD_DOCUMENT, "Allowed are low, normal, high and critical.",
                "field priority cannot be \"%.16s\"", priority);
}

int operation_moves_check(const json_t *body, bool may_stop, struct error **ret_error)
{
        struct evacuation_policy policy;
        uint64_t number;
        int r;

        r = evacuation_policy_read(body, may_stop, &policy, ret_error);
        if (r >= 0)
                r = check_priority(body, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "max_pause_ms", 1, 600000, &number, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "give_up_ms", 1000, MOVES_GIVE_UP_MAX_MS, &number, ret_error);
        return r;
}

bool operation_moves_use_power(const json_t *body)
{
        struct evacuation_policy policy;

        return evacuation_policy_read(body, true, &policy, NULL) >= 0 &&
               evacuation_policy_uses_power(&policy);
}

int operation_maintenance_check(const json_t *host, const json_t *body, struct error **ret_error)
{
        bool on = true, back = false, dry_run;
        int r = 0;

        if (!json_is_boolean(json_object_get(body, "on")))
                return error_set(
                        ret_error, ERROR_BAD_DOCUMENT, NULL, "field on is missing, or not true or false");
        r = doc_opt_bool(body, "", "on", &on, ret_error);
        if (r >= 0)
                r = doc_opt_bool(body, "", "return", &back, ret_error);
        if (r >= 0)
                r = doc_opt_bool(body, "", "dry_run", &dry_run, ret_error);
        if (r >= 0 && on && back)
                r = error_set(
                        ret_error, ERROR_BAD_DOCUMENT, NULL, "field return is for the end of maintenance");
        if (r >= 0)
                r = operation_moves_check(body, on, ret_error);
        if (r >= 0 && host && !on && !maintenance_of(host) && !is_to_come_back(left_by(host), back)) {
                error_set(ret_error, ERROR_CONFLICT, NULL, "host %s is not in maintenance",
                        json_text(host, "name"));
                error_about(ret_error, "host/%s", json_text(host, "name"));
                r = -EBUSY;
        }
        return r;
}

json_t *operation_moves_options(const json_t *body)
{
        return json_pack("{s:O*, s:O*}", "priority", json_object_get(body, "priority"), "max_pause_ms",
                json_object_get(body, "max_pause_ms"));
}

json_t *operation_moves_policy(const json_t *body)
{
        return json_pack("{s:O*, s:O*}", "tries", json_object_get(body, "tries"), "policy",
                json_object_get(body, "policy"));
}

json_t *operation_maintenance_data(
        const json_t *host, const json_t *body, const char *by, const char *reason, int64_t start_before_ms)
{
        bool on = json_is_true(json_object_get(body, "on")),
             back = json_is_true(json_object_get(body, "return"));
        json_t *policy = operation_moves_policy(body), *options = operation_moves_options(body);
        json_int_t give_up_ms = json_integer_value(json_object_get(body, "give_up_ms"));

        return json_pack("{s:s, s:s, s:s, s:s, s:b, s:I, s:I, s:o, s:o}", "host_uid", json_text(host, "uid"),
                on ? "from" : "to", json_text(host, "name"), "by", by, "reason", reason, "return", back,
                "start_before_unix_ms", (json_int_t)start_before_ms, "give_up_ms", give_up_ms, "policy",
                policy, "options", options);
}

/* It was moved on by others since it left the host: there it stays. */
static bool is_elsewhere(const json_t *host, const json_t *item, const json_t *vm)
{
        const char *at = json_text(json_status(vm), "host"), *to = json_text(item, "to");

        return *to && *at && strcmp(at, to) && strcmp(at, json_text(host, "name"));
}

/* What is to be done about one that left the host, when it is opened: one that was suspended is resumed, unless somebody has done so; the others come
 * back if that was asked for (back). */
static bool comes_back(const json_t *host, const json_t *item, const json_t *vm, bool back)
{
        const char *suspension = json_text(item, "suspended_by");

        if (*suspension)
                return moves_is_suspended_by(vm, suspension);
        return back && !is_elsewhere(host, item, vm);
}

/* The VMs (documents, borrowed) that are on the host, with those that it has suspended and that could not be resumed on another one; or that left
 * it and come back. */
static int find_vms(struct manager *manager, const json_t *host, bool on, bool back, json_t *vms,
        const json_t ***ret_vms, size_t *ret_n)
{
        const json_t *left = left_by(host);
        const json_t **found = alloc_array(json_array_size(vms) + json_array_size(left) + 1, sizeof(*found));
        size_t i, n = 0;
        json_t *vm, *item = NULL;

        if (!vms || !found) {
                free(found);
                return -ENOMEM;
        }
        json_array_foreach (vms, i, vm)
                if (on && !strcmp(json_text(json_status(vm), "host"), json_text(host, "name")))
                        found[n++] = vm;
        json_array_foreach ((json_t *)left, i, item) {
                const json_t *known = inventory_vm(manager->inventory, json_text(item, "uid"));
                bool there = on && !strcmp(json_text(json_status(known), "host"), json_text(host, "name"));

                if (known && !there && comes_back(host, item, known, back))
                        found[n++] = known;
        }
        *ret_vms = found;
        *ret_n = n;
        return 0;
}

/* What there is to say of one that does not come back; NULL: nothing. */
static const char *outcome_of_left(const json_t *host, const json_t *item, const json_t *vm, bool back)
{
        bool suspended = *json_text(item, "suspended_by");

        if (!suspended && !back)
                return NULL;
        if (suspended && moves_is_off(vm))
                return "off";
        return !strcmp(json_text(json_status(vm), "host"), json_text(host, "name")) ? "there" : "elsewhere";
}

/* Lines in the report for those of which others have disposed since: in the plan of a dry run, or the task's. */
static int add_others(
        struct manager *manager, const json_t *host, bool back, struct moves_plan *plan, struct task *task)
{
        json_t *item;
        size_t i;
        int r = 0;

        json_array_foreach ((json_t *)left_by(host), i, item) {
                const json_t *vm = inventory_vm(manager->inventory, json_text(item, "uid"));
                const char *at = json_text(json_status(vm), "host"), *outcome;

                if (!vm || r < 0 || comes_back(host, item, vm, back))
                        continue;
                outcome = outcome_of_left(host, item, vm, back);
                if (outcome)
                        r = plan ? moves_plan_add_settled(plan, vm, outcome, at)
                                 : moves_add_settled(task, vm, outcome, at);
        }
        return r;
}

/* The plan is to say of those that they are resumed; on: elsewhere. */
static int add_resumptions(struct manager *manager, const json_t *host, bool on, struct moves_plan *plan)
{
        json_t *item;
        size_t i;
        int r = 0;

        json_array_foreach ((json_t *)left_by(host), i, item) {
                const json_t *vm = inventory_vm(manager->inventory, json_text(item, "uid"));

                if (vm && r >= 0 && comes_back(host, item, vm, false))
                        r = moves_plan_resumes(plan, vm, on ? json_text(host, "name") : NULL);
        }
        return r;
}

int operation_maintenance_plan(struct manager *manager, const json_t *host, const json_t *body,
        struct moves_plan **ret_plan, struct error **ret_error)
{
        bool on = json_is_true(json_object_get(body, "on")),
             back = json_is_true(json_object_get(body, "return"));
        _cleanup_(moves_plan_freep) struct moves_plan *plan = NULL;
        _cleanup_json_ json_t *vms = inventory_vms(manager->inventory);
        _cleanup_free_ const json_t **found = NULL;
        size_t n = 0;
        int r;

        if (find_vms(manager, host, on, back, vms, &found, &n) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = moves_plan_new(found, n, on ? NULL : json_text(host, "name"), body, &plan, ret_error);
        if (r < 0)
                return r;
        if (add_resumptions(manager, host, on, plan) < 0 ||
                (!on && (moves_plan_reopens(plan, json_text(maintenance_of(host), "task")) < 0 ||
                                add_others(manager, host, back, plan, NULL) < 0)))
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_plan = TAKE_PTR(plan);
        return 0;
}

/* --- Steps -------------------------------------------------------------------------------------------------------------- */

static const json_t *host_of(const struct task *task, struct manager *manager)
{
        return inventory_host(manager->inventory, json_text(task_data(task), "host_uid"));
}

static void fail_gone(struct task *task)
{
        struct error *error = NULL;

        error_set(&error, ERROR_NOT_FOUND, NULL, "the host is not in the inventory any more");
        task_step_failed(task, error);
}

static int set_or_delete(json_t *object, const char *key, json_t *value)
{
        if (value)
                return json_object_set_new(object, key, value);
        (void)json_object_del(object, key);
        return 0;
}

/* Puts status.maintenance and status.to_return (both taken over; NULL: none any more) into the host's document, with the end of the
 * step. */
static int put_maintenance(struct task *task, const json_t *host, json_t *maintenance, json_t *to_return)
{
        _cleanup_json_ json_t *doc = json_deep_copy(host);

        if (!doc) {
                json_decref(maintenance);
                json_decref(to_return);
                return -ENOMEM;
        }
        if (to_return && !json_array_size(to_return)) {
                json_decref(to_return);
                to_return = NULL;
        }
        if (set_or_delete(json_status(doc), "maintenance", maintenance) < 0) {
                json_decref(to_return);
                return -ENOMEM;
        }
        if (set_or_delete(json_status(doc), "to_return", to_return) < 0)
                return -ENOMEM;
        store_batch_put(task_batch(task), json_revision(host), TAKE_PTR(doc));
        return 0;
}

static bool has_left(const json_t *record)
{
        const char *outcome = json_text(record, "outcome");

        return !strcmp(outcome, "moved") || !strcmp(outcome, "moved-cold") || moves_leaves_suspended(record);
}

/* For the list of those that left the host. */
static json_t *leaving_of(const json_t *record)
{
        bool suspended = moves_leaves_suspended(record);

        return json_pack("{s:O, s:O, s:O, s:O*}", "uid", json_object_get(record, "uid"), "name",
                json_object_get(record, "name"), "to", json_object_get(record, "to"), "suspended_by",
                suspended ? json_object_get(record, "suspended_by") : NULL);
}

/* Those that this task moved away, beside those that an earlier one did and that have not come back since. */
static json_t *left_of(const struct task *task)
{
        const json_t *before = json_object_get(task_data(task), "left");
        json_t *left = json_is_array(before) ? json_copy((json_t *)before) : json_array(), *item, *known;
        size_t i, k;

        json_array_foreach (json_object_get(task_data(task), "moves"), i, item) {
                if (json_is_null(json_object_get(item, "outcome")))
                        continue;
                json_array_foreach (left, k, known)
                        if (!strcmp(json_text(known, "uid"), json_text(item, "uid")))
                                break;
                if (k < json_array_size(left))
                        json_array_remove(left, k);
                if (has_left(item) && json_array_append_new(left, leaving_of(item)) < 0) {
                        json_decref(left);
                        return NULL;
                }
        }
        return left;
}

static json_t *maintenance_document(const struct task *task, const char *state)
{
        return json_pack("{s:s, s:O, s:O, s:O, s:s, s:o}", "state", state, "since",
                json_object_get(task_data(task), "since"), "by", json_object_get(task_data(task), "by"),
                "why", json_object_get(task_data(task), "reason"), "task", task_name(task), "left",
                left_of(task));
}

static void end_with(struct task *task, int r)
{
        if (r < 0)
                task_step_failed(task, NULL);
        else
                task_step_done(task);
}

static void run_close(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *host = host_of(task, manager), *before = maintenance_of(host);
        char since[32];
        json_t *document;

        if (!host) {
                fail_gone(task);
                return;
        }
        text_format_time(clock_unix_ms(manager->clock), since);
        if (json_object_set_new(task_data(task), "since",
                    before ? json_incref(json_object_get(before, "since")) : json_string(since)) < 0 ||
                json_object_set_new(task_data(task), "left",
                        left_by(host) ? json_deep_copy(left_by(host)) : json_array()) < 0 ||
                json_object_set_new(
                        task_data(task), "before", before ? json_deep_copy(before) : json_null()) < 0) {
                task_step_failed(task, NULL);
                return;
        }
        document = maintenance_document(task, "entering");
        end_with(task, document ? put_maintenance(task, host, document, NULL) : -ENOMEM);
}

/* Cancelled: as before, though others may have moved. Failed: closed, and so it says. */
static void undo_close(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *host = host_of(task, manager), *before = json_object_get(task_data(task), "before");
        json_t *document = NULL;

        if (!host || !before) {
                task_step_done(task); /* it was not begun */
                return;
        }
        if (task_cancel_requested(task) && json_is_null(before)) {
                end_with(task, put_maintenance(task, host, NULL, left_of(task)));
                return;
        }
        if (!task_cancel_requested(task))
                document = maintenance_document(task, "incomplete");
        else {
                document = json_deep_copy(before);
                if (document && json_object_set_new(document, "left", left_of(task)) < 0) {
                        json_decref(document);
                        document = NULL;
                }
        }
        end_with(task, document ? put_maintenance(task, host, document, NULL) : -ENOMEM);
}

static void run_settle(struct task *task, void *userdata)
{
        struct manager *manager = userdata;

        if (!step_waits_for_hosts(task, manager))
                task_step_done(task);
}

void operation_moves_cancel(struct task *task, void *userdata)
{
        log_debug("task %s: its moves will be cancelled", task_name(task));
}

static void fail_cancelled(struct task *task)
{
        size_t n_moved = moves_count(task, "moved") + moves_count(task, "moved-cold"),
               n_suspended = moves_count(task, "suspended");
        struct error *error = NULL;

        if (n_suspended)
                error_set(&error, ERROR_CANCELLED,
                        "The end of maintenance (`--off`) resumes them, but for those that were paused.",
                        "the task was cancelled; %zu had moved, and %zu stay suspended", n_moved,
                        n_suspended);
        else
                error_set(&error, ERROR_CANCELLED, NULL, "the task was cancelled; %zu had moved", n_moved);
        task_step_failed(task, error);
}

void operation_moves_run(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        uint64_t again_ms;

        if (step_waits_for_hosts(task, manager))
                return;
        if (!moves_run(task, manager, &again_ms)) {
                task_step_again(task, again_ms);
                return;
        }
        task_set_result(task, moves_report(task));
        if (task_cancel_requested(task))
                fail_cancelled(task);
        else
                task_step_done(task);
}

static void run_conclude(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *host = host_of(task, manager);
        struct error *error = NULL;
        json_t *document;

        if (!host)
                fail_gone(task);
        else if (moves_to_error(task, &error) < 0)
                task_step_failed(task, error);
        else {
                document = maintenance_document(task, "on");
                end_with(task, document ? put_maintenance(task, host, document, NULL) : -ENOMEM);
        }
}

static const struct task_step steps[] = {
        {.name = "close", .run = run_close, .undo = undo_close, .no_timeout = true},
        {.name = "settle", .run = run_settle, .no_timeout = true},
        {.name = "move", .run = operation_moves_run, .cancel = operation_moves_cancel, .no_timeout = true},
        {.name = "conclude", .run = run_conclude, .cancel = operation_moves_cancel, .no_timeout = true},
};
const struct task_kind operation_host_maintenance = {
        .action = "host.maintenance",
        .steps = steps,
        .n_steps = ARRAY_SIZE(steps),
        .timeout_ms = 10 * MINUTE_MS,
        .audited = moves_audited,
};

/* Those that are to come back and have not; the caller's. */
static json_t *still_to_return(const struct task *task)
{
        const json_t *left = json_object_get(task_data(task), "left");
        json_t *rest = json_array(), *item, *record;
        size_t i, k;

        json_array_foreach (json_object_get(task_data(task), "moves"), i, record) {
                const char *outcome = json_text_or_null(record, "outcome");

                if (outcome && strcmp(outcome, "stays"))
                        continue;
                json_array_foreach ((json_t *)left, k, item)
                        if (!strcmp(json_text(item, "uid"), json_text(record, "uid")) &&
                                json_array_append(rest, item) < 0) {
                                json_decref(rest);
                                return NULL;
                        }
        }
        return rest;
}

static int put_rest(struct task *task, const json_t *host)
{
        json_t *rest = still_to_return(task), *maintenance = (json_t *)maintenance_of(host);

        return rest ? put_maintenance(task, host, json_incref(maintenance), rest) : -ENOMEM;
}

/* Cancelled, or some stay: those are kept for another request. */
static void undo_open(struct task *task, void *userdata)
{
        const json_t *host = host_of(task, userdata);

        if (!host || maintenance_of(host))
                task_step_done(task); /* it was not begun */
        else
                end_with(task, put_rest(task, host));
}

/* Those that may come back stay in the host's document until they have. */
static void run_open(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *host = host_of(task, manager);
        bool back = json_is_true(json_object_get(task_data(task), "return"));
        _cleanup_json_ json_t *vms = inventory_vms(manager->inventory);
        _cleanup_free_ const json_t **found = NULL;
        size_t n = 0;
        int r;

        if (!host) {
                fail_gone(task);
                return;
        }
        r = find_vms(manager, host, false, back, vms, &found, &n);
        json_object_del(task_data(task), "moves"); /* of a run of this step that was not recorded */
        if (r >= 0)
                r = json_object_set_new(task_data(task), "left",
                        left_by(host) ? json_deep_copy(left_by(host)) : json_array());
        if (r >= 0)
                r = moves_add(task, found, n);
        if (r >= 0)
                r = add_others(manager, host, back, NULL, task);
        end_with(task, r < 0 ? r : put_maintenance(task, host, NULL, still_to_return(task)));
}

static void run_conclude_end(struct task *task, void *userdata)
{
        const json_t *host = host_of(task, userdata);
        struct error *error = NULL;

        if (moves_to_error(task, &error) < 0)
                task_step_failed(task, error);
        else
                end_with(task, host ? put_rest(task, host) : 0);
}

static const struct task_step end_steps[] = {
        {.name = "open", .run = run_open, .undo = undo_open, .no_timeout = true},
        {.name = "settle", .run = run_settle, .no_timeout = true},
        {.name = "move", .run = operation_moves_run, .cancel = operation_moves_cancel, .no_timeout = true},
        {.name = "conclude", .run = run_conclude_end, .cancel = operation_moves_cancel, .no_timeout = true},
};
const struct task_kind operation_host_maintenance_end = {
        .action = "host.maintenance-end",
        .steps = end_steps,
        .n_steps = ARRAY_SIZE(end_steps),
        .timeout_ms = 10 * MINUTE_MS,
        .audited = moves_audited,
};
