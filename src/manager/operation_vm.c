/* SPDX-License-Identifier: Apache-2.0 */

/* Tasks about one virtual machine on one host. Data: vm_uid; host_uid and host once it is known; "to": the host that
 * the caller asked for; "refused": the agent said no, so that there is nothing to undo there. The object of the VM is made
 * with the task that creates it, so that its name and its MAC addresses are taken from then on.
 *
 * Before an agent is asked to start a VM, `starting` and the host are recorded: should no answer ever come, the VM counts
 * as unknown on that host, not as stopped, and cannot be started a second time elsewhere.
 *
 * internal.suspended_by of the VM: uid of the vm.suspend task that suspends it, or did; absent once a task has seen it run since. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "cluster/checks.h"
#include "cluster/placement.h"
#include "manager/check_facts.h"
#include "manager/cluster_cpu.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"
#include "manager/snapshots.h"

#define CALL_TIMEOUT_MS 60000u
#define CREATE_TIMEOUT_MS 600000u /* raw images may be filled */
#define STOP_TIMEOUT_MS 120000u   /* what a guest gets to power off unless the caller says otherwise */
#define SUSPEND_TIMEOUT_MS \
        3600000u /* for writing a guest's memory, unless the caller says otherwise: it is stopped meanwhile */
#define RESUME_TIMEOUT_MS 86400000u /* for reading it: giving up helps nobody */
#define AGAIN_MAX_MS 30000u
#define TELL_TIMEOUT_MS 180000u /* for telling an agent to end one of these */
#define STOP_GRACE_MS 15000u
#define STOP_POLL_MS 500
#define MINUTE_MS (60ull * 1000)

static const json_t *vm_of(const struct task *task, struct manager *manager)
{
        return inventory_vm(manager->inventory, json_text(task_data(task), "vm_uid"));
}

static void fail_gone(struct task *task)
{
        struct error *error = NULL;

        error_set(&error, ERROR_NOT_FOUND, NULL, "the virtual machine is not in the inventory any more");
        task_step_failed(task, error);
}

static int remember_host(struct task *task, const json_t *host)
{
        return json_object_set_new(task_data(task), "host_uid", json_string(json_text(host, "uid"))) |
               json_object_set_new(task_data(task), "host", json_string(json_text(host, "name")));
}

/* The host that the VM is recorded on; NULL while it is on none. */
static const json_t *home_of(struct manager *manager, const json_t *vm)
{
        const char *name = json_text(json_status(vm), "host");

        return *name ? inventory_host(manager->inventory, name) : NULL;
}

static int check_wanted(const struct check_facts *facts, const struct checks_input *input, const char *wanted,
        struct error **ret_error)
{
        const json_t *host = check_facts_host(facts, wanted);
        _cleanup_json_ json_t *checks = NULL;

        if (!host)
                return error_set(ret_error, ERROR_NOT_FOUND, "See `drover host list`.",
                        "there is no host %.64s", wanted);
        checks = checks_of(input, host);
        return checks ? checks_to_error(checks, ret_error)
                      : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static bool is_from_state(const struct task *task)
{
        return json_is_true(json_object_get(task_data(task), "from_state"));
}

/* The host is chosen for the cluster's model of now, and the VM starts there with that one. */
static int remember_model(
        struct task *task, const json_t *vm, const json_t *resolved, struct error **ret_error)
{
        if (is_from_state(task))
                return 0; /* it resumes with what it had */
        if (resolved != vm && json_object_set(task_data(task), "cpu_model",
                                      json_object_get(json_spec(resolved), "cpu_model")) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return 0;
}

/* The VM with the model that its host was chosen for, the caller's; NULL without memory. */
static json_t *with_chosen_model(struct task *task, const json_t *vm)
{
        json_t *model = json_object_get(task_data(task), "cpu_model");
        _cleanup_json_ json_t *copy = json_copy((json_t *)vm), *spec = json_copy(json_spec(vm));

        if (!copy || !spec || (model && json_object_set(spec, "cpu_model", model) < 0) ||
                json_object_set(copy, "spec", spec) < 0)
                return NULL;
        return TAKE_PTR(copy);
}

static int choose_host(struct task *task, struct manager *manager, const json_t *vm, const json_t **ret_host,
        struct error **ret_error)
{
        const char *wanted = json_text_or_null(task_data(task), "to"), *best = wanted;
        _cleanup_check_facts_ struct check_facts facts = {};
        _cleanup_json_ json_t *ranking = NULL, *resolved = NULL;
        struct checks_input input;
        int r;

        if (is_from_state(task)) {
                resolved = operation_as_suspended(vm);
                r = resolved ? 0 : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        } else
                r = cluster_cpu_resolve(manager, vm, &resolved, ret_error);
        if (r >= 0)
                r = remember_model(task, vm, resolved, ret_error);
        if (r >= 0)
                r = check_facts_load(manager, resolved, false, task, &facts, ret_error);
        if (r < 0)
                return r;
        input = check_facts_input(&facts);
        input.resumes = is_from_state(task);
        if (wanted)
                r = check_wanted(&facts, &input, wanted, ret_error);
        else {
                ranking = placement_rank(&input, facts.hosts, NULL);
                r = ranking ? placement_best(ranking, &best, ret_error)
                            : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
                if (r >= 0)
                        r = step_chose(task, best, ranking, ret_error);
        }
        if (r < 0)
                return r;
        *ret_host = inventory_host(manager->inventory, best);
        return 0;
}

/* Records where the VM is and its power, with the end of the step. */
static int set_power(struct task *task, const json_t *vm, const char *power, const char *host)
{
        _cleanup_json_ json_t *doc = json_deep_copy(vm);

        if (!doc || json_object_set_new(json_status(doc), "power", json_string(power)) < 0 ||
                json_object_set_new(json_status(doc), "host", json_string(host)) < 0 ||
                json_object_set_new(json_status(doc), "message", json_null()) < 0)
                return -ENOMEM;
        store_batch_put(task_batch(task), json_revision(vm), TAKE_PTR(doc));
        return 0;
}

static void run_place(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *vm = vm_of(task, manager), *host = NULL;
        struct error *error = NULL;

        if (step_waits_for_hosts(task, manager))
                return;
        if (!vm) {
                fail_gone(task);
                return;
        }
        if (choose_host(task, manager, vm, &host, &error) < 0) {
                task_step_failed(task, error);
                return;
        }
        if (remember_host(task, host) < 0)
                task_step_failed(task, NULL);
        else
                task_step_done(task);
}

/* An agent of a version before suspending would take no notice of the state of a VM that has one. */
static int check_knows_states(
        struct task *task, const json_t *vm, const json_t *host, struct error **ret_error)
{
        bool has = is_from_state(task) || !strcmp(json_text(json_status(vm), "power"), "suspended");

        if (!has || operation_knows_states(host))
                return 0;
        return error_set(ret_error, ERROR_NOT_SUPPORTED,
                "Upgrade drover there, or name another host (--host).",
                "the agent of host %s is of a version that does not know of suspended virtual machines",
                json_text(host, "name"));
}

static void run_place_start(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *vm = vm_of(task, manager), *host = NULL;
        struct error *error = NULL;

        if (step_waits_for_hosts(task, manager))
                return;
        if (!vm)
                fail_gone(task);
        else if (snapshots_check_reverted(vm, &error) < 0 ||
                 choose_host(task, manager, vm, &host, &error) < 0 ||
                 check_knows_states(task, vm, host, &error) < 0)
                task_step_failed(task, error);
        else if (remember_host(task, host) < 0 ||
                 set_power(task, vm, "starting", json_text(host, "name")) < 0)
                task_step_failed(task, NULL);
        else
                task_step_done(task);
}

void operation_vm_undo_place(struct task *task, void *userdata)
{
        store_batch_remove(task_batch(task), "vm", json_text(task_data(task), "vm_uid"), STORE_ANY);
        task_step_done(task);
}

/* For the tasks that work where the VM is. */
static void run_find(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *vm = vm_of(task, manager), *host = home_of(manager, vm);
        struct error *error = NULL;

        if (!vm)
                fail_gone(task);
        else if (!host) {
                error_set(&error, ERROR_CONFLICT, "Start it first.", "the virtual machine is on no host");
                task_step_failed(task, error);
        } else if (remember_host(task, host) < 0)
                task_step_failed(task, NULL);
        else
                task_step_done(task);
}

static void call_vm(struct task *task, struct manager *manager, const char *verb, const json_t *body,
        uint64_t timeout_ms, step_reply_fn fn)
{
        _cleanup_free_ char *path =
                alloc_printf("/agent/v1/vms/%s/%s", json_text(task_data(task), "vm_uid"), verb);
        char id[37];

        task_request_id(task, id);
        if (!path)
                task_step_failed(task, NULL);
        else
                step_call(task, manager,
                        &(struct agent_request){.host_uid = json_text(task_data(task), "host_uid"),
                                .method = "POST",
                                .path = path,
                                .body = body,
                                .request_id = id,
                                .timeout_ms = timeout_ms},
                        fn);
}

/* What a suspending or a resumption says of itself goes along. */
static void set_result_with(struct task *task, const json_t *transfer)
{
        json_t *result = json_pack("{s:s, s:s}", "vm_uid", json_text(task_data(task), "vm_uid"), "host",
                json_text(task_data(task), "host"));

        if (result && json_is_object(transfer))
                (void)json_object_update_missing(result, (json_t *)transfer);
        task_set_result(task, result);
}

static void set_result(struct task *task)
{
        task_set_result(task, json_pack("{s:s, s:s}", "vm_uid", json_text(task_data(task), "vm_uid"), "host",
                                      json_text(task_data(task), "host")));
}

static bool is_transfer(const struct task *task)
{
        return !strcmp(task_action(task), "vm.suspend") || is_from_state(task);
}

static void take_document(struct task *task, struct manager *manager, json_t *body)
{
        if (json_is_object(json_status(body))) {
                inventory_told(manager->inventory, json_text(task_data(task), "host_uid"),
                        json_text(task_data(task), "vm_uid"), body);
                vm_take_report(task, manager, body, json_text(task_data(task), "host"));
        }
        set_result_with(task, is_transfer(task) ? json_object_get(body, "transfer") : NULL);
        task_step_done(task);
}

/* Whether that power is what the task is for. */
static bool is_reached(const struct task *task, const char *power)
{
        static const char *const powers[][2] = {{"vm.create", "running"}, {"vm.start", "running"},
                {"vm.pause", "paused"}, {"vm.resume", "running"}, {"vm.suspend", "suspended"},
                {"vm.stop", "stopped"}, {"vm.stop", "crashed"}};

        for (size_t i = 0; i < ARRAY_SIZE(powers); i++)
                if (!strcmp(task_action(task), powers[i][0]) && !strcmp(power, powers[i][1]))
                        return true;
        return false;
}

static void on_looked(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (!error && is_reached(task, json_text(json_status(body), "power")))
                take_document(task, manager, body);
        else
                task_step_failed(task, error_from_json(json_object_get(task_data(task), "refusal")));
}

static void look(struct task *task, struct manager *manager, step_reply_fn fn)
{
        _cleanup_free_ char *path = alloc_printf("/agent/v1/vms/%s", json_text(task_data(task), "vm_uid"));

        if (!path)
                task_step_failed(task, NULL);
        else
                step_call(task, manager,
                        &(struct agent_request){.host_uid = json_text(task_data(task), "host_uid"),
                                .method = "GET",
                                .path = path,
                                .timeout_ms = CALL_TIMEOUT_MS},
                        fn);
}

/* The agent answers with the VM's document as it is now. One that was restarted between our call and its answer does not
 * know the call again: it may refuse what it has done already. */
static void on_document(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (!error)
                take_document(task, manager, body);
        else if (error->code != ERROR_CONFLICT)
                task_step_failed(task, error_with_names(manager, error));
        else if (json_object_set_new(task_data(task), "refusal", error_to_json(error)) < 0)
                task_step_failed(task, NULL);
        else
                look(task, manager, on_looked);
}

static void send_document(
        struct task *task, struct manager *manager, const char *verb, uint64_t timeout_ms, step_reply_fn fn)
{
        const json_t *vm = vm_of(task, manager);
        _cleanup_json_ json_t *body = vm ? vm_for_agent(vm) : NULL;

        if (!vm)
                fail_gone(task);
        else if (!body)
                task_step_failed(task, NULL);
        else
                call_vm(task, manager, verb, body, timeout_ms, fn);
}

/* The VM is stopped; an agent does not tell of it before it has started it. */
static void on_created(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        bool starts = json_is_true(json_object_get(task_data(task), "start"));
        struct error *cancelled = NULL;

        if (error) {
                if (error->code != ERROR_UNREACHABLE)
                        (void)json_object_set_new(task_data(task), "refused", json_true());
                task_step_failed(task, error_copy(error));
                return;
        }
        if (task_cancel_requested(task)) {
                error_set(&cancelled, ERROR_CANCELLED, NULL, "the task was cancelled");
                task_step_failed(task, cancelled);
                return;
        }
        if (json_is_object(json_status(body))) {
                if (json_object_set_new(
                            json_status(body), "power", json_string(starts ? "starting" : "stopped")) < 0) {
                        task_step_failed(task, NULL);
                        return;
                }
                vm_take_report(task, manager, body, json_text(task_data(task), "host"));
        }
        set_result(task);
        task_step_done(task);
}

void operation_vm_run_create(struct task *task, void *userdata)
{
        step_say(task, "creating on host %s", json_text(task_data(task), "host"));
        send_document(task, userdata, "create", CREATE_TIMEOUT_MS, on_created);
}

static void on_uncreated(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        struct error *left = NULL;

        if (!error || error->code == ERROR_NOT_FOUND) {
                task_step_done(task);
                return;
        }
        error_set(&left, error->code, NULL, "its folder may be left on its datastore: %s",
                error_message(error));
        task_step_failed(task, left);
}

/* What no answer came for may have been made. An agent that refuses has tidied up itself. */
void operation_vm_undo_create(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *vm = vm_of(task, manager);
        _cleanup_json_ json_t *body = vm ? vm_for_agent(vm) : NULL;
        _cleanup_free_ char *path = NULL;
        char id[37];

        if (!vm || json_object_get(task_data(task), "refused")) {
                task_step_done(task);
                return;
        }
        path = alloc_printf("/agent/v1/vms/%s/delete", json_text(task_data(task), "vm_uid"));
        task_request_id(task, id);
        if (!body || !path)
                task_step_failed(task, NULL);
        else
                step_call_once(task, manager,
                        &(struct agent_request){.host_uid = json_text(task_data(task), "host_uid"),
                                .method = "POST",
                                .path = path,
                                .body = body,
                                .request_id = id,
                                .timeout_ms = CALL_TIMEOUT_MS},
                        on_uncreated);
}

/* What the user wrote stays in the object (vm_take_report()). */
static void run_start(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *vm = vm_of(task, manager);
        _cleanup_json_ json_t *chosen = NULL, *body = NULL;
        _cleanup_free_ char *verb = NULL;
        bool discard, clear;

        step_say(task, "starting on host %s", json_text(task_data(task), "host"));
        if (!vm) {
                fail_gone(task);
                return;
        }
        chosen = with_chosen_model(task, vm);
        body = chosen ? vm_for_agent(chosen) : NULL;
        discard = json_is_true(json_object_get(task_input(task), "discard_state"));
        clear = !inventory_folder_is_shared(manager->inventory, vm);
        verb = alloc_printf("start%s%s%s%s", discard || clear ? "?" : "", discard ? "discard_state=1" : "",
                discard && clear ? "&" : "", clear ? "clear=1" : "");
        if (!body || !verb)
                task_step_failed(task, NULL);
        else
                call_vm(task, manager, verb, body, CALL_TIMEOUT_MS, on_document);
}

static void run_start_if_wanted(struct task *task, void *userdata)
{
        if (json_is_true(json_object_get(task_data(task), "start")))
                run_start(task, userdata);
        else
                task_step_done(task);
}

/* A call that cannot be taken back: the task ends with what the host answers. */
static void cancel_later(struct task *task, void *userdata)
{
        step_say(task, "cannot be stopped any more; waiting for the host's answer");
}

static const struct task_step create_steps[] = {
        {.name = "place", .run = run_place, .undo = operation_vm_undo_place},
        {.name = "create",
                .run = operation_vm_run_create,
                .undo = operation_vm_undo_create,
                .cancel = cancel_later},
        {.name = "start", .run = run_start_if_wanted, .cancel = cancel_later, .keep = true},
        {.name = "refresh", .run = step_refresh, .cancel = cancel_later, .keep = true},
};
const struct task_kind operation_vm_create = {
        .action = "vm.create",
        .steps = create_steps,
        .n_steps = ARRAY_SIZE(create_steps),
        .timeout_ms = 15 * MINUTE_MS,
};

static const struct task_step start_steps[] = {
        {.name = "place", .run = run_place_start},
        {.name = "start", .run = run_start, .cancel = cancel_later},
        {.name = "refresh", .run = step_refresh, .cancel = cancel_later},
};
const struct task_kind operation_vm_start = {
        .action = "vm.start",
        .steps = start_steps,
        .n_steps = ARRAY_SIZE(start_steps),
        .timeout_ms = 3 * MINUTE_MS,
};

static uint64_t stop_timeout_ms(const struct task *task)
{
        json_int_t wanted = json_integer_value(json_object_get(task_input(task), "timeout_ms"));

        return wanted > 0 ? (uint64_t)wanted : STOP_TIMEOUT_MS;
}

/* An agent that has forgotten the VM does not run it. */
static void on_stopped(struct task *task, struct manager *manager)
{
        const json_t *vm = vm_of(task, manager);

        inventory_told(manager->inventory, json_text(task_data(task), "host_uid"),
                json_text(task_data(task), "vm_uid"), NULL);
        if (vm && set_power(task, vm, "stopped", json_text(task_data(task), "host")) < 0) {
                task_step_failed(task, NULL);
                return;
        }
        set_result(task);
        task_step_done(task);
}

static void on_stop(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (error && error->code == ERROR_NOT_FOUND)
                on_stopped(task, manager);
        else
                on_document(task, manager, body, error);
}

static void run_stop(struct task *task, void *userdata)
{
        bool force = json_is_true(json_object_get(task_input(task), "force"));
        _cleanup_json_ json_t *body =
                json_pack("{s:b, s:I}", "force", force, "timeout_ms", (json_int_t)stop_timeout_ms(task));

        step_say(task, force ? "killing it" : "asking the guest to power off");
        if (!body)
                task_step_failed(task, NULL);
        else
                call_vm(task, userdata, "stop", body, stop_timeout_ms(task) + STOP_GRACE_MS, on_stop);
}

static void on_stopping(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        const char *power = json_text(json_status(body), "power");
        struct error *late = NULL;

        if (error && error->code == ERROR_NOT_FOUND)
                on_stopped(task, manager);
        else if (!strcmp(power, "stopped") || !strcmp(power, "crashed"))
                take_document(task, manager, body);
        else if (error)
                task_step_failed(task, error_copy(error));
        else if (task_step_elapsed_ms(task) > stop_timeout_ms(task) + STOP_GRACE_MS) {
                error_set(&late, ERROR_TIMED_OUT, "Use --force to end it without the guest's help.",
                        "the guest did not power off in time");
                task_step_failed(task, late);
        } else
                task_step_again(task, STOP_POLL_MS);
}

static void run_wait_stopped(struct task *task, void *userdata)
{
        look(task, userdata, on_stopping);
}

static const struct task_step stop_steps[] = {
        {.name = "find", .run = run_find},
        {.name = "stop", .run = run_stop},
        {.name = "wait", .run = run_wait_stopped},
        {.name = "refresh", .run = step_refresh, .cancel = cancel_later},
};
const struct task_kind operation_vm_stop = {
        .action = "vm.stop",
        .steps = stop_steps,
        .n_steps = ARRAY_SIZE(stop_steps),
        .timeout_ms = 130 * MINUTE_MS,
};

static void run_pause(struct task *task, void *userdata)
{
        call_vm(task, userdata, "pause", NULL, CALL_TIMEOUT_MS, on_document);
}

/* --- To a state and back --------------------------------------------------------------------------------------- */

static uint64_t state_timeout_ms(const struct task *task, uint64_t usual_ms)
{
        json_int_t wanted = json_integer_value(json_object_get(task_input(task), "timeout_ms"));

        return wanted > 0 ? (uint64_t)wanted : usual_ms;
}

/* A paused one goes on where it is; for one that has no QEMU a host is chosen. `was`: the power before, which the agent is told: should the
 * resumption fail, it is that again, also on a host that has not heard of the VM. */
static void run_find_state(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *vm = vm_of(task, manager);
        const char *power = json_text(json_status(vm), "power");
        bool paused = !strcmp(power, "paused");

        if (vm && (json_object_set_new(task_data(task), "from_state", json_boolean(!paused)) < 0 ||
                          (strcmp(power, "starting") != 0 &&
                                  json_object_set_new(task_data(task), "was", json_string(power)) < 0)))
                task_step_failed(task, NULL);
        else if (!vm || paused)
                run_find(task, userdata);
        else
                run_place_start(task, userdata);
}

/* BUSY: its agent was restarted and goes back by itself, or has enough to do with others: it is asked again. */
static bool asked_again(struct task *task, const struct error *error, uint64_t timeout_ms)
{
        if (!error || error->code != ERROR_BUSY || task_cancel_requested(task) ||
                task_step_elapsed_ms(task) >= timeout_ms)
                return false;
        step_say(task, "%s", error_message(error));
        /* Each try may read all of a guest's memory. */
        task_step_again(task, CLAMP(task_step_elapsed_ms(task) / 8, (uint64_t)STOP_POLL_MS, AGAIN_MAX_MS));
        return true;
}

/* What the agent said no to is not under way there. */
static void on_transferred(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (error && error->code != ERROR_UNREACHABLE &&
                json_object_set_new(task_data(task), "refused", json_true()) < 0)
                task_step_failed(task, NULL);
        else
                on_document(task, manager, body, error);
}

static void on_restored(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (!asked_again(task, error, state_timeout_ms(task, RESUME_TIMEOUT_MS)))
                on_transferred(task, manager, body, error);
}

static void call_restore(struct task *task, struct manager *manager)
{
        uint64_t timeout_ms = state_timeout_ms(task, RESUME_TIMEOUT_MS);
        const json_t *vm = vm_of(task, manager);
        _cleanup_json_ json_t *body = vm ? vm_for_agent(vm) : NULL, *status = json_copy(json_status(body));
        _cleanup_free_ char *verb = alloc_printf("restore?timeout_ms=%llu", (unsigned long long)timeout_ms);
        json_t *was = json_object_get(task_data(task), "was");

        if (!vm)
                fail_gone(task);
        else if (!body || !status || !verb || (was && json_object_set(status, "power", was) < 0) ||
                 json_object_set(body, "status", status) < 0)
                task_step_failed(task, NULL);
        else
                call_vm(task, manager, verb, body, timeout_ms + STOP_GRACE_MS, on_restored);
}

static void run_resume(struct task *task, void *userdata)
{
        struct error *late = NULL;

        if (is_from_state(task)) {
                step_say(task, "reading its memory on host %s", json_text(task_data(task), "host"));
                call_restore(task, userdata);
        } else if (task_step_elapsed_ms(task) > TELL_TIMEOUT_MS) {
                error_set(&late, ERROR_TIMED_OUT, "Look at the host's agent and try again.",
                        "the host did not answer in time");
                task_step_failed(task, late);
        } else
                call_vm(task, userdata, "resume", NULL, CALL_TIMEOUT_MS, on_document);
}

static void on_suspended(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (!asked_again(task, error, state_timeout_ms(task, SUSPEND_TIMEOUT_MS)))
                on_transferred(task, manager, body, error);
}

static void run_suspend(struct task *task, void *userdata)
{
        uint64_t timeout_ms = state_timeout_ms(task, SUSPEND_TIMEOUT_MS);
        _cleanup_json_ json_t *body = json_pack("{s:I}", "timeout_ms", (json_int_t)timeout_ms);

        step_say(task, "writing its memory to its datastore");
        if (!body)
                task_step_failed(task, NULL);
        else
                call_vm(task, userdata, "suspend", body, timeout_ms + STOP_GRACE_MS, on_suspended);
}

/* With the end of the step: who waits for this task looks at the VM as soon as it has ended. */
static void told(struct task *task, struct manager *manager, json_t *body)
{
        if (!json_is_object(json_status(body)))
                return;
        inventory_told(manager->inventory, json_text(task_data(task), "host_uid"),
                json_text(task_data(task), "vm_uid"), body);
        vm_take_report(task, manager, body, json_text(task_data(task), "host"));
}

/* A step that fails takes no changes along. */
static void fail_late(struct task *task, const char *power)
{
        _cleanup_batch_ struct store_batch batch = *task_batch(task);
        struct error *late = NULL;

        *task_batch(task) = STORE_BATCH_INIT;
        if (task_record(task, &batch, NULL) < 0)
                log_debug("task %s: the end of it is recorded by the inventory", task_name(task));
        error_set(&late, ERROR_CONFLICT, NULL, "it was too late: the virtual machine is %s", power);
        task_step_failed(task, late);
}

/* There was nothing to be stopped: it had not begun, or it was done. */
static void on_looked_late(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        const char *power = json_text(json_status(body), "power");

        told(task, manager, body);
        if (error || !is_reached(task, power))
                task_step_done(task);
        else
                fail_late(task, power);
}

static void on_undone(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        told(task, manager, body);
        if (error && error->code == ERROR_CONFLICT)
                look(task, manager, on_looked_late);
        else
                task_step_done(task);
}

static void undo(struct task *task, struct manager *manager, const char *verb)
{
        struct error *late = NULL;

        if (json_object_get(task_data(task), "refused"))
                task_step_done(task);
        else if (task_step_elapsed_ms(task) > TELL_TIMEOUT_MS) {
                error_set(&late, ERROR_TIMED_OUT, NULL, "host %s could not be told; it goes on with it",
                        json_text(task_data(task), "host"));
                task_step_failed(task, late);
        } else
                call_vm(task, manager, verb, NULL, CALL_TIMEOUT_MS, on_undone);
}

static void undo_suspend(struct task *task, void *userdata)
{
        undo(task, userdata, "suspend/cancel");
}

static void undo_resume(struct task *task, void *userdata)
{
        if (is_from_state(task))
                undo(task, userdata, "restore/cancel");
        else
                task_step_done(task);
}

static void cancel_resume(struct task *task, void *userdata)
{
        struct error *cancelled = NULL;

        if (!is_from_state(task)) {
                cancel_later(task, userdata);
                return;
        }
        error_set(&cancelled, ERROR_CANCELLED, NULL, "the task was cancelled");
        task_step_failed(task, cancelled);
}

/* A host whose agent does not know of states would start this VM from its disks as soon as it is told to, and nobody would hear of what was in
 * its memory. */
static const char *host_without_states(struct manager *manager)
{
        _cleanup_json_ json_t *hosts = inventory_live_hosts(manager->inventory);
        json_t *host;
        size_t i;

        json_array_foreach (hosts, i, host) {
                const json_t *capabilities = json_object_get(json_status(host), "capabilities");

                if (json_is_object(capabilities) && !json_is_true(json_object_get(capabilities, "suspend")))
                        return json_text(inventory_host(manager->inventory, json_text(host, "uid")), "name");
        }
        return NULL;
}

/* Whoever has suspended it is the one to let it run again: the VM says which task it was, with the end of the step. */
static int sign(struct task *task, const json_t *vm)
{
        _cleanup_json_ json_t *doc = json_deep_copy(vm), *internal = NULL;
        json_t *before = json_object_get(doc, "internal");

        internal = before ? json_incref(before) : json_object();
        if (!doc || json_object_set_new(internal, "suspended_by", json_string(task_uid(task))) < 0 ||
                json_object_set(doc, "internal", internal) < 0)
                return -ENOMEM;
        store_batch_put(task_batch(task), json_revision(vm), TAKE_PTR(doc));
        return 0;
}

static void run_find_to_suspend(struct task *task, void *userdata)
{
        const char *older = host_without_states(userdata);
        const json_t *vm = vm_of(task, userdata);
        struct error *error = NULL;

        if (!older && vm && sign(task, vm) < 0) {
                task_step_failed(task, NULL);
                return;
        }
        if (!older) {
                run_find(task, userdata);
                return;
        }
        error_set(&error, ERROR_NOT_SUPPORTED, "Upgrade drover there first, or remove the host.",
                "the agent of host %s is of a version that does not know of suspended virtual machines: it "
                "would start one from its disks",
                older);
        task_step_failed(task, error);
}

static const struct task_step pause_steps[] = {
        {.name = "find", .run = run_find},
        {.name = "pause", .run = run_pause, .cancel = cancel_later},
        {.name = "refresh", .run = step_refresh, .cancel = cancel_later},
};
const struct task_kind operation_vm_pause = {
        .action = "vm.pause",
        .steps = pause_steps,
        .n_steps = ARRAY_SIZE(pause_steps),
        .timeout_ms = 3 * MINUTE_MS,
};

static const struct task_step resume_steps[] = {
        {.name = "find", .run = run_find_state},
        {.name = "resume", .run = run_resume, .undo = undo_resume, .cancel = cancel_resume},
        {.name = "refresh", .run = step_refresh, .cancel = cancel_later},
};
const struct task_kind operation_vm_resume = {
        .action = "vm.resume",
        .steps = resume_steps,
        .n_steps = ARRAY_SIZE(resume_steps),
        .timeout_ms = 25 * 60 * MINUTE_MS,
};

static const struct task_step suspend_steps[] = {
        {.name = "find", .run = run_find_to_suspend},
        {.name = "suspend", .run = run_suspend, .undo = undo_suspend},
        {.name = "refresh", .run = step_refresh, .cancel = cancel_later},
};
const struct task_kind operation_vm_suspend = {
        .action = "vm.suspend",
        .steps = suspend_steps,
        .n_steps = ARRAY_SIZE(suspend_steps),
        .timeout_ms = 25 * 60 * MINUTE_MS,
};

static void on_deleted(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (error && error->code != ERROR_NOT_FOUND) {
                task_step_failed(task, error_with_names(manager, error));
                return;
        }
        inventory_told(manager->inventory, json_text(task_data(task), "host_uid"),
                json_text(task_data(task), "vm_uid"), NULL);
        task_step_done(task);
}

/* Whether the host can be asked and has the VM's files; whether the VM could run there does not matter. */
static bool sees_files(const json_t *checks)
{
        json_t *check;
        size_t i;

        json_array_foreach ((json_t *)checks, i, check) {
                const char *code = json_text(check, "code");

                if ((!strcmp(code, "host-connected") || !strcmp(code, "datastore")) &&
                        !json_is_true(json_object_get(check, "ok")))
                        return false;
        }
        return true;
}

/* A host that deletes in place of the VM's own one, which is down. */
static int find_deputy(struct manager *manager, const json_t *vm, const json_t *home, const json_t **ret_host,
        struct error **ret_error)
{
        _cleanup_json_ json_t *hosts = inventory_live_hosts(manager->inventory),
                              *live_home = inventory_live_host(manager->inventory, home);
        json_t *host;
        size_t i;

        if (!hosts || !live_home)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        json_array_foreach (hosts, i, host) {
                _cleanup_json_ json_t *checks =
                        checks_of(&(struct checks_input){.vm = vm, .home = live_home}, host);

                if (!checks)
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
                if (!sees_files(checks))
                        continue;
                *ret_host = inventory_host(manager->inventory, json_text(host, "uid"));
                return 0;
        }
        return error_set(ret_error, ERROR_UNREACHABLE,
                "Bring the host back, or remove it from the inventory: the virtual machine can then be "
                "deleted "
                "and its files stay.",
                "host %s was confirmed down, and no other host that is connected has the virtual machine's "
                "datastores",
                json_text(home, "name"));
}

/* A VM that was never made on any host has nothing to delete there. */
static void run_delete(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *vm = vm_of(task, manager), *host = home_of(manager, vm);
        struct error *error = NULL;

        if (host && inventory_confirmed_down(manager->inventory, json_text(host, "uid")) &&
                find_deputy(manager, vm, host, &host, &error) < 0)
                task_step_failed(task, error);
        else if (!host)
                task_step_done(task);
        else if (remember_host(task, host) < 0)
                task_step_failed(task, NULL);
        else
                send_document(task, manager, "delete", CALL_TIMEOUT_MS, on_deleted);
}

static void run_forget(struct task *task, void *userdata)
{
        store_batch_remove(task_batch(task), "vm", json_text(task_data(task), "vm_uid"), STORE_ANY);
        task_step_done(task);
}

/* The refresh comes first: no report from before the deletion may bring the object back. */
static const struct task_step delete_steps[] = {
        {.name = "delete", .run = run_delete, .cancel = cancel_later},
        {.name = "refresh", .run = step_refresh, .cancel = cancel_later},
        {.name = "forget", .run = run_forget, .cancel = cancel_later},
};
const struct task_kind operation_vm_delete = {
        .action = "vm.delete",
        .steps = delete_steps,
        .n_steps = ARRAY_SIZE(delete_steps),
        .timeout_ms = 3 * MINUTE_MS,
};
