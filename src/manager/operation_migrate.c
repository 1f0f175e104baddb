/* SPDX-License-Identifier: Apache-2.0 */

/* vm.migrate: checks, one specification to the source's agent, then the two agents do it; the manager looks on. The
 * agents' journals decide what happened (docs/internals/agent-api.md), so the task never fails before both of them
 * were asked where the virtual machine is, however often the manager was restarted meanwhile. Of a host that was confirmed
 * down no answer is waited for: it has neither the migration nor the virtual machine. Only where the disks travel along a destination that is down is waited
 * for, until it is removed: it may have the newest ones (docs/decisions/0034).
 *
 * Data: vm_uid; to (asked for, or chosen by the queue when the task starts); to_chosen, costs (migration_queue.c); host_uid, from: the source; to_uid, to_name: the destination;
 * epoch: the source's; outcome: the source's (or, when that is lost, the destination's) last migration status; where:
 * "from", "to", "nowhere" or "lost" (its end came at the destination, in post-copy); from_down, to_down: that host was confirmed down when it was to be asked; to_incoming: the
 * destination had not settled when it was asked; signed: the specification as both hosts get it (migration_spec.h); forecast: taken at the start, if the guest was measured lately. The migration's id is the task's uid. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "cluster/checks.h"
#include "cluster/placement.h"
#include "manager/check_facts.h"
#include "manager/cluster_cpu.h"
#include "manager/forecasts.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/migration_along.h"
#include "manager/migration_costs.h"
#include "manager/migration_queue.h"
#include "manager/migration_shares.h"
#include "manager/migration_spec.h"
#include "manager/operations.h"
#include "manager/switchover_arbiter.h"

#define CALL_TIMEOUT_MS 10000u
#define START_TIMEOUT_MS 60000u
#define POLL_MS 500
#define WAIT_MS 1000
#define SOURCE_MISSES_MAX 10 /* one each WAIT_MS, or slower */

static int add_refusal(
        json_t *ranking, struct error **ret_error, json_t **ret_report, const json_t *vm, const char *from)
{
        _cleanup_error_ struct error *error = NULL;
        const char *best = NULL;
        json_t *report;

        placement_best(ranking, &best, &error);
        report = json_pack("{s:b, s:s, s:s?, s:n, s:[{s:s, s:s, s:b, s:n, s:s, s:s?}], s:O}", "ok", 0, "vm",
                json_text(vm, "name"), "from", from, "to", "checks", "code", "destination", "severity",
                "error", "ok", 0, "object", "cause", error_message(error), "way_out",
                error ? error->hint : NULL, "ranking", ranking);
        if (!report)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_report = report;
        return 0;
}

uint64_t operation_min_bandwidth_bps(const json_t *input)
{
        return (uint64_t)MAX(json_integer_value(json_object_get(input, "min_bandwidth_bps")), (json_int_t)0);
}

/* options: the migration as it was asked for (MigrateRequest); NULL: with nothing but defaults. */
static int check(struct manager *manager, const json_t *vm, const char *to, const json_t *options,
        const struct task *asking, const struct check_assumptions *assumptions, json_t **ret_report,
        struct error **ret_error)
{
        const char *from = json_text(json_status(vm), "host"), *best = to;
        _cleanup_json_ json_t *ranking = NULL, *checks = NULL, *costs = NULL, *rest = NULL;
        _cleanup_check_facts_ struct check_facts facts = {};
        struct checks_input input;
        const json_t *target;
        json_t *report;
        int r = migration_along_check(manager, vm, options, &rest, ret_error);

        if (r < 0)
                return r;
        vm = rest;
        /* A task that knows where it goes has no use for the others. */
        r = asking && to ? check_facts_load_move(manager, vm, to, asking, &facts, ret_error)
                         : check_facts_load(manager, vm, true, asking, &facts, ret_error);
        if (r < 0)
                return r;
        if (check_facts_assume(&facts, assumptions) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        input = check_facts_input(&facts);
        input.min_bandwidth_bps = operation_min_bandwidth_bps(options);
        costs = asking && to ? json_object() : forecasts_costs(manager, vm);
        ranking = asking && to ? json_array() : costs ? placement_rank(&input, facts.hosts, costs) : NULL;
        if (!ranking)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (!to && placement_best(ranking, &best, NULL) < 0)
                return add_refusal(ranking, ret_error, ret_report, vm, *from ? from : NULL);
        target = check_facts_host(&facts, best);
        if (!target)
                return error_set(ret_error, ERROR_NOT_FOUND, "See `drover host list`.",
                        "there is no host %.64s", best);
        checks = checks_of(&input, target);
        report = checks ? json_pack("{s:b, s:s, s:s?, s:s, s:O, s:O}", "ok", checks_ok(checks), "vm",
                                  json_text(vm, "name"), "from", *from ? from : NULL, "to",
                                  json_text(target, "name"), "checks", checks, "ranking", ranking)
                        : NULL;
        if (!report)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_report = report;
        return 0;
}

int operation_migrate_check(struct manager *manager, const json_t *vm, const char *to,
        const struct task *asking, json_t **ret_report, struct error **ret_error)
{
        return check(
                manager, vm, to, asking ? task_input(asking) : NULL, asking, NULL, ret_report, ret_error);
}

int operation_migrate_plan(struct manager *manager, const json_t *vm, const char *to,
        const struct check_assumptions *assumptions, json_t **ret_report, struct error **ret_error)
{
        return check(manager, vm, to, NULL, NULL, assumptions, ret_report, ret_error);
}

int operation_migrate_check_request(struct manager *manager, const json_t *vm, const json_t *request,
        json_t **ret_report, struct error **ret_error)
{
        return check(
                manager, vm, json_text_or_null(request, "to"), request, NULL, NULL, ret_report, ret_error);
}

static json_int_t number_or(const json_t *object, const char *key, json_int_t otherwise)
{
        const json_t *value = json_object_get(object, key);

        return json_is_integer(value) ? json_integer_value(value) : otherwise;
}

static int remember_hosts(struct task *task, struct manager *manager, const json_t *vm, const json_t *report)
{
        const json_t *from = inventory_host(manager->inventory, json_text(report, "from"));
        const json_t *to = inventory_host(manager->inventory, json_text(report, "to"));
        json_t *data = task_data(task);

        if (!from || !to)
                return -ENOENT;
        return json_object_set_new(data, "host_uid", json_string(json_text(from, "uid"))) |
               json_object_set_new(data, "from", json_string(json_text(from, "name"))) |
               json_object_set_new(data, "to_uid", json_string(json_text(to, "uid"))) |
               json_object_set_new(data, "to_name", json_string(json_text(to, "name"))) |
               json_object_set_new(data, "epoch", json_integer(number_or(json_status(vm), "owner_epoch", 0)));
}

/* Nothing depends on it. */
static void remember_forecast(struct task *task, struct manager *manager, const json_t *vm)
{
        json_t *forecast =
                forecasts_for_migration(manager, vm, json_text(task_data(task), "to_name"), task_input(task));

        if (forecast)
                (void)json_object_set_new(task_data(task), "forecast", forecast);
}

static json_t *side(struct manager *manager, const char *host_uid, bool destination)
{
        const json_t *spec = json_spec(inventory_host(manager->inventory, host_uid));

        if (!destination)
                return json_pack("{s:s, s:s}", "host", host_uid, "address", json_text(spec, "address"));
        return json_pack("{s:s, s:s, s:s?}", "host", host_uid, "address", json_text(spec, "address"),
                "migration_address", json_text_or_null(spec, "migration_address"));
}

/* False: the host's agent, of an earlier version, does not know of this. */
static bool host_can(
        const struct task *task, struct manager *manager, const char *host_key, const char *capability)
{
        const json_t *host = inventory_host(manager->inventory, json_text(task_data(task), host_key));

        return json_is_true(json_object_get(json_object_get(json_status(host), "capabilities"), capability));
}

static bool source_can(const struct task *task, struct manager *manager, const char *capability)
{
        return host_can(task, manager, "host_uid", capability);
}

static json_t *switchover_of(const struct task *task, struct manager *manager)
{
        return source_can(task, manager, "switchover")
                       ? json_pack("{s:i}", "patience_ms", SWITCHOVER_PATIENCE_MS)
                       : NULL;
}

/* What its source's agent is told now, and keeps to until it is told anew. */
static json_int_t told_share(struct task *task, struct manager *manager)
{
        json_int_t share_bps = migration_share_bps(manager, task);

        (void)json_object_set_new(task_data(task), "share_bps", json_integer(share_bps));
        return share_bps;
}

/* What the source finds out about the destination's network before the guest is paused; not asked of it: NULL. */
static json_t *network_proof_of(const struct task *task, struct manager *manager)
{
        const json_t *data = task_data(task);

        if (json_is_false(json_object_get(task_input(task), "network_proof")) ||
                !source_can(task, manager, "network_proof"))
                return NULL;
        return json_pack("{s:s, s:s, s:O*}", "source", json_text(data, "from"), "destination",
                json_text(data, "to_name"), "accept", json_object_get(task_input(task), "accept"));
}

static json_t *specification(struct task *task, struct manager *manager, const json_t *vm)
{
        const json_t *input = task_input(task);
        json_t *verify = json_object_get(input, "verify");
        json_t *document = vm_for_agent(vm);

        return json_pack(
                "{s:o*, s:s, s:o, s:I, s:o, s:o, s:I, s:I, s:s, s:O?, s:I, s:I, s:O*, s:s, s:o*, s:o*}",
                "disks", migration_along_spec(task), "id", task_uid(task), "vm", document, "epoch",
                number_or(json_status(vm), "owner_epoch", 0), "source",
                side(manager, json_text(task_data(task), "host_uid"), false), "destination",
                side(manager, json_text(task_data(task), "to_uid"), true), "max_pause_ms",
                number_or(input, "max_pause_ms", OPERATION_MAX_PAUSE_MS_DEFAULT), "channels",
                number_or(input, "channels", 0), "codec", json_text_or_null(input, "codec") ?: "auto",
                "verify", verify, "rate_limit_bps", told_share(task, manager), "timeout_ms",
                number_or(input, "timeout_ms", migration_along(task) ? MIGRATION_ALONG_TIMEOUT_MS : 0),
                "converge", json_object_get(input, "converge"), "priority", task_priority(task), "switchover",
                switchover_of(task, manager), "network_proof", network_proof_of(task, manager));
}

/* One specification for both hosts, recorded with the check: whoever leads the task on gives out the same bytes. An agent of an earlier
 * version takes it unsigned. */
static int remember_spec(
        struct task *task, struct manager *manager, const json_t *vm, struct error **ret_error)
{
        bool destination = host_can(task, manager, "to_uid", "signed_spec");
        bool source = source_can(task, manager, "signed_spec");
        json_t *signed_spec = NULL;
        int r;

        json_object_del(task_data(task), "signed");
        if (!destination && !source)
                return 0;
        r = migration_spec_sign(&manager->ca, specification(task, manager, vm), destination && source,
                (int64_t)clock_unix_ms(manager->clock), &signed_spec, ret_error);
        if (r >= 0 && json_object_set_new(task_data(task), "signed", signed_spec) < 0)
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return r;
}

static void run_check(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *vm = inventory_vm(manager->inventory, json_text(task_data(task), "vm_uid"));
        _cleanup_json_ json_t *report = NULL;
        struct error *error = NULL;
        int r;

        if (step_waits_for_hosts(task, manager))
                return;
        if (!vm)
                r = error_set(&error, ERROR_NOT_FOUND, NULL,
                        "the virtual machine is not in the inventory any more");
        else
                r = operation_migrate_check(
                        manager, vm, json_text_or_null(task_data(task), "to"), task, &report, &error);
        if (r >= 0)
                r = checks_to_error(json_object_get(report, "checks"), &error);
        if (r >= 0 && remember_hosts(task, manager, vm, report) < 0)
                r = error_set(&error, ERROR_INTERNAL, NULL, "the hosts cannot be recorded");
        if (r >= 0 && !json_text_or_null(task_input(task), "to"))
                r = step_chose(task, json_text(report, "to"), json_object_get(report, "ranking"), &error);
        if (r >= 0)
                r = remember_spec(task, manager, vm, &error);
        if (r >= 0 && !migration_along(task)) /* which knows nothing of disks, and would learn from them */
                remember_forecast(task, manager, vm);
        if (r < 0)
                task_step_failed(task, error);
        else
                task_step_done(task);
}

static void say_phase(struct task *task, const char *phase, const char *message)
{
        task_progress(task,
                json_pack("{s:n, s:s?, s:s, s:s, s:s}", "percent", "message", message, "phase", phase, "from",
                        json_text(task_data(task), "from"), "to", json_text(task_data(task), "to_name")));
}

/* The source refused. Nothing was started there, but where the machine is, is still for the agents to say. */
static int keep_refusal(struct task *task, const struct error *error)
{
        return json_object_set_new(task_data(task), "outcome",
                json_pack("{s:s, s:o}", "phase", "failed", "error", error_to_json(error)));
}

static void on_started(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (error && keep_refusal(task, error) < 0)
                task_step_failed(task, NULL);
        else
                task_step_done(task);
}

/* As it was signed; for an agent of an earlier version what was signed, or what a manager of an earlier version did not sign. */
static json_t *start_body(struct task *task, struct manager *manager)
{
        const json_t *vm = inventory_vm(manager->inventory, json_text(task_data(task), "vm_uid"));
        json_t *signed_spec = json_object_get(task_data(task), "signed");

        if (signed_spec && source_can(task, manager, "signed_spec"))
                return json_pack("{s:O}", "signed", signed_spec);
        return vm ? specification(task, manager, vm) : NULL;
}

static void start_at_source(struct task *task, struct manager *manager)
{
        _cleanup_json_ json_t *body = start_body(task, manager);
        struct error *error = NULL;
        char id[37];

        if (!body) {
                error_set(&error, ERROR_NOT_FOUND, NULL,
                        "the virtual machine is not in the inventory any more");
                task_step_failed(task, error);
                return;
        }
        task_request_id(task, id);
        step_call(task, manager,
                &(struct agent_request){.host_uid = json_text(task_data(task), "host_uid"),
                        .method = "POST",
                        .path = "/agent/v1/migrations",
                        .body = body,
                        .request_id = id,
                        .timeout_ms = START_TIMEOUT_MS},
                on_started);
}

/* A destination that cannot be reached now is asked by the source soon, which says what comes of that. */
static void on_destination_told(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (!error || error->code == ERROR_UNREACHABLE || error->code == ERROR_TIMED_OUT)
                start_at_source(task, manager);
        else
                on_started(task, manager, NULL, error);
}

static void run_start(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        json_t *signed_spec = json_object_get(task_data(task), "signed");
        _cleanup_free_ char *path = alloc_printf("/agent/v1/migrations/%s/spec", task_uid(task));

        say_phase(task, "preparing", "preparing the destination");
        if (signed_spec && path && host_can(task, manager, "to_uid", "signed_spec"))
                step_call_once(task, manager,
                        &(struct agent_request){.host_uid = json_text(task_data(task), "to_uid"),
                                .method = "POST",
                                .path = path,
                                .body = signed_spec,
                                .timeout_ms = CALL_TIMEOUT_MS},
                        on_destination_told);
        else
                start_at_source(task, manager);
}

/* The request is recorded with the task; the step that follows the migration passes it on. */
static void cancel_migration(struct task *task, void *userdata)
{
        log_debug("task %s: will be cancelled through the source's agent", task_name(task));
}

static bool is_terminal(const char *phase)
{
        return !strcmp(phase, "done") || !strcmp(phase, "failed") || !strcmp(phase, "cancelled");
}

static json_int_t percent_of(const json_t *progress)
{
        double done = json_number_value(json_object_get(progress, "bytes_ram"));
        double left = json_number_value(json_object_get(progress, "remaining_bytes"));
        const json_t *disks = json_object_get(progress, "disks");
        double memory = json_number_value(json_object_get(disks, "memory_bytes"));

        if (disks) { /* first they, then the memory: what is left of it is known later */
                done = json_number_value(json_object_get(disks, "copied_bytes"));
                left = json_number_value(json_object_get(disks, "total_bytes")) + memory - done;
                if (json_object_get(progress, "remaining_bytes")) {
                        double there = json_number_value(json_object_get(progress, "remaining_bytes"));

                        done += MAX(memory - there, 0.0);
                        left -= MAX(memory - there, 0.0);
                }
        }
        return operation_percent(done, done + left);
}

static bool waits_for_link(const json_t *status)
{
        return !strcmp(json_text(json_object_get(status, "switchover"), "state"), "asked");
}

static void show_progress(struct task *task, const json_t *status)
{
        const json_t *stats = json_object_get(status, "progress");
        json_t *progress = json_is_object(stats) ? json_copy((json_t *)stats) : json_object();
        const char *phase = json_text(status, "phase");
        int r;

        if (!progress)
                return;
        r = json_object_set_new(progress, "percent", json_integer(percent_of(stats))) |
            json_object_set_new(progress, "message",
                    waits_for_link(status)
                            ? json_string("waits until no other migration on its link is at its pause")
                            : json_null()) |
            json_object_set_new(progress, "phase", json_string(phase)) |
            json_object_set_new(
                    progress, "elapsed_ms", json_integer((json_int_t)task_step_elapsed_ms(task))) |
            json_object_set_new(progress, "from", json_string(json_text(task_data(task), "from"))) |
            json_object_set_new(progress, "to", json_string(json_text(task_data(task), "to_name")));
        if (r < 0)
                json_decref(progress);
        else
                task_progress(task, progress);
}

static void call_migration(struct task *task, struct manager *manager, const char *host_key,
        const char *method, const char *verb, step_reply_fn fn)
{
        _cleanup_free_ char *path = alloc_printf("/agent/v1/migrations/%s%s", task_uid(task), verb);

        if (!path)
                task_step_failed(task, NULL);
        else
                step_call_once(task, manager,
                        &(struct agent_request){.host_uid = json_text(task_data(task), host_key),
                                .method = method,
                                .path = path,
                                .timeout_ms = CALL_TIMEOUT_MS},
                        fn);
}

/* What of a migration's status is asked for later, and nothing else that an agent says. */
static int keep_outcome(struct task *task, const json_t *status)
{
        static const char *const keys[] = {"phase", "record", "error", "result", "phases"};
        _cleanup_json_ json_t *outcome = json_object();

        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                json_t *value = json_object_get(status, keys[i]);

                if (value && json_object_set(outcome, keys[i], value) < 0)
                        return -ENOMEM;
        }
        return outcome && json_object_set(task_data(task), "outcome", outcome) == 0 ? 0 : -ENOMEM;
}

static bool is_down(const struct task *task, struct manager *manager, const char *host_key)
{
        return inventory_confirmed_down(manager->inventory, json_text(task_data(task), host_key));
}

static bool is_removed(const struct task *task, struct manager *manager, const char *host_key)
{
        return !inventory_host(manager->inventory, json_text(task_data(task), host_key));
}

/* What was asked for is not there, and will not come. */
static bool has_none(
        const struct task *task, struct manager *manager, const char *host_key, const struct error *error)
{
        return error && (error->code == ERROR_NOT_FOUND || is_down(task, manager, host_key));
}

/* The newest disks may be at a destination that is only known to be down: no answer, until it is removed, or back. */
static bool may_have_disks(const struct task *task, struct manager *manager)
{
        return migration_along(task) && is_down(task, manager, "to_uid");
}

#define WAITS_FOR_DISKS \
        "the destination is confirmed down, and may have the newest disks: bring it back, or remove the " \
        "host"

/* The guest runs at the destination, whose agent only waits for the source to hear of it. */
static bool taken_over(const json_t *status)
{
        return !strcmp(json_text(status, "record"), "owner") &&
               !strcmp(json_text(status, "phase"), "settling");
}

/* It was asked often enough: what it measured is not worth keeping the virtual machine for. */
static bool source_is_away(struct task *task)
{
        json_int_t n = json_integer_value(json_object_get(task_data(task), "source_misses"));

        return n >= SOURCE_MISSES_MAX;
}

static int count_miss(struct task *task, bool missed)
{
        json_int_t n = json_integer_value(json_object_get(task_data(task), "source_misses"));

        return json_object_set_new(task_data(task), "source_misses", json_integer(missed ? n + 1 : 0));
}

/* Not decided yet, or not to be seen from here. */
static void wait_for_hosts(struct task *task, const char *message)
{
        say_phase(task, "waiting-for-peer", message);
        task_step_again(task, WAIT_MS);
}

/* The source cannot be asked, or knows nothing of it any more: the destination may know how it ended. */
static void on_destination_status(
        struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        bool forgot = json_is_true(json_object_get(task_data(task), "source_forgot"));
        const char *phase = json_text(body, "phase");

        if (!strcmp(phase, "done") || (forgot && is_terminal(phase)) ||
                (taken_over(body) && source_is_away(task))) {
                if (keep_outcome(task, body) < 0)
                        task_step_failed(task, NULL);
                else
                        task_step_done(task);
                return;
        }
        if (may_have_disks(task, manager))
                return wait_for_hosts(task, WAITS_FOR_DISKS);
        if (forgot && has_none(task, manager, "to_uid", error)) {
                task_step_done(task); /* neither knows it: where the machine is, settles it */
                return;
        }
        say_phase(task, "waiting-for-peer",
                "the source's agent cannot be reached; the virtual machine is safe");
        task_step_again(task, WAIT_MS);
}

/* What was said has arrived, or is said again after the next look. */
static void on_told(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        task_step_again(task, POLL_MS);
}

static void tell_source(
        struct task *task, struct manager *manager, const char *verb, const json_t *body, step_reply_fn fn)
{
        _cleanup_free_ char *path = alloc_printf("/agent/v1/migrations/%s/%s", task_uid(task), verb);

        if (!path)
                task_step_again(task, POLL_MS);
        else
                step_call_once(task, manager,
                        &(struct agent_request){.host_uid = json_text(task_data(task), "host_uid"),
                                .method = "POST",
                                .path = path,
                                .body = body,
                                .timeout_ms = CALL_TIMEOUT_MS},
                        fn);
}

static void on_share_told(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (error)
                (void)json_object_set_new(task_data(task), "share_bps", json_integer(-1)); /* not known */
        task_step_again(task, POLL_MS);
}

/* Others came or went: its part of the links is another one. */
static void follow_share(struct task *task, struct manager *manager)
{
        json_int_t share_bps = migration_share_bps(manager, task);
        _cleanup_json_ json_t *body = NULL;

        if (share_bps == number_or(task_data(task), "share_bps", 0) || !source_can(task, manager, "limits")) {
                task_step_again(task, POLL_MS);
                return;
        }
        body = json_pack("{s:I}", "rate_limit_bps", told_share(task, manager));
        if (body)
                tell_source(task, manager, "limits", body, on_share_told);
        else
                task_step_again(task, POLL_MS);
}

static void follow_on(struct task *task, struct manager *manager, const json_t *status)
{
        _cleanup_json_ json_t *answer = NULL;
        _cleanup_error_ struct error *error = NULL;

        if (switchover_arbiter_hear(manager->switchovers, task, status, &answer, &error) < 0)
                log_warning(
                        "task %s: no word about its switchover: %s", task_name(task), error_message(error));
        if (answer)
                tell_source(task, manager, "switchover", answer, on_told);
        else
                follow_share(task, manager);
}

/* Only while the task still keeps the VM where it is: the host that was removed, then confirmed down, was the last one to have run the guest. */
static bool tell_removal(struct task *task, struct manager *manager)
{
        if (!migration_along(task) || !is_removed(task, manager, "to_uid"))
                return false;
        tell_source(task, manager, "peer-removed", NULL, on_told);
        return true;
}

static void on_source_status(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        bool forgot = has_none(task, manager, "host_uid", error);

        if (json_object_set_new(task_data(task), "source_forgot", json_boolean(forgot)) < 0 ||
                count_miss(task, error != NULL) < 0) {
                task_step_failed(task, NULL);
                return;
        }
        if (error) {
                call_migration(task, manager, "to_uid", "GET", "", on_destination_status);
                return;
        }
        show_progress(task, body);
        if (!is_terminal(json_text(body, "phase"))) {
                if (!tell_removal(task, manager))
                        follow_on(task, manager, body);
        } else if (switchover_arbiter_hear(manager->switchovers, task, body, &(json_t *){NULL}, NULL) < 0 ||
                   keep_outcome(task, body) < 0)
                task_step_failed(task, NULL);
        else
                task_step_done(task);
}

static void on_cancel_sent(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        /* Refused after the handed-off record: then the migration goes on to its end. */
        bool answered = !error || (error->code != ERROR_UNREACHABLE && error->code != ERROR_TIMED_OUT);

        if (answered && json_object_set_new(task_data(task), "cancel_sent", json_true()) < 0)
                task_step_failed(task, NULL);
        else
                call_migration(task, manager, "host_uid", "GET", "", on_source_status);
}

static void run_follow(struct task *task, void *userdata)
{
        if (json_object_get(task_data(task), "outcome")) {
                task_step_done(task); /* the source refused it */
                return;
        }
        if (task_cancel_requested(task) && !json_object_get(task_data(task), "cancel_sent"))
                call_migration(task, userdata, "host_uid", "POST", "/cancel", on_cancel_sent);
        else
                call_migration(task, userdata, "host_uid", "GET", "", on_source_status);
}

static void call_vm(struct task *task, struct manager *manager, const char *host_key, step_reply_fn fn)
{
        _cleanup_free_ char *path = alloc_printf("/agent/v1/vms/%s", json_text(task_data(task), "vm_uid"));

        if (!path)
                task_step_failed(task, NULL);
        else
                step_call_once(task, manager,
                        &(struct agent_request){.host_uid = json_text(task_data(task), host_key),
                                .method = "GET",
                                .path = path,
                                .timeout_ms = CALL_TIMEOUT_MS},
                        fn);
}

static bool flag(const struct task *task, const char *key)
{
        return json_is_true(json_object_get(task_data(task), key));
}

/* The last that a side said was that the VM is the destination's. */
static bool has_left(const struct task *task)
{
        const char *record = json_text(json_object_get(task_data(task), "outcome"), "record");

        return !strcmp(record, "released") || !strcmp(record, "owner");
}

/* A side has said whose it is. */
static bool has_said(const struct task *task)
{
        return *json_text(json_object_get(task_data(task), "outcome"), "record");
}

/* The latest owner epoch that the migration may have led to: that of a source that took the VM back, which comes after the
 * destination's claim, and neither lived to tell. Too high is harmless, for nobody has the VM; too low, and its owner record
 * would be taken for a living owner's. */
static json_int_t last_epoch(const struct task *task, struct manager *manager, const json_t *vm)
{
        json_int_t known = number_or(json_status(vm), "owner_epoch", 0);
        json_int_t began = number_or(task_data(task), "epoch", known);

        /* Each folder has a record of its own. Where nobody has said which one counts, the source's has to refuse all if it was given away,
         * whatever epochs were heard of. */
        if (migration_along(task) && !has_said(task) && !is_removed(task, manager, "to_uid"))
                return began;
        return MAX(known, began + 2);
}

/* Nobody has it: so that it can be started again, what is known of its last owner is recorded with the step's end. */
static int record_lost(struct task *task, struct manager *manager)
{
        const json_t *vm = inventory_vm(manager->inventory, json_text(task_data(task), "vm_uid"));
        bool at_source = !flag(task, "to_down");
        const char *host = json_text(task_data(task), at_source ? "from" : "to_name");
        _cleanup_json_ json_t *doc = json_deep_copy(vm), *message = NULL;
        json_t *status = json_status(doc);

        if (!vm)
                return 0;
        message =
                flag(task, "from_down") || flag(task, "to_down")
                        ? json_sprintf("host %s was confirmed down", host)
                        : json_sprintf("it was lost in a migration from host %s to host %s",
                                  json_text(task_data(task), "from"), json_text(task_data(task), "to_name"));
        if (!message || json_object_set_new(status, "power", json_string("crashed")) < 0 ||
                json_object_set_new(status, "host", json_string(host)) < 0 ||
                json_object_set_new(status, "owner_epoch", json_integer(last_epoch(task, manager, vm))) < 0 ||
                json_object_set(status, "message", message) < 0 ||
                (has_left(task) && migration_along_take_places(task, doc) < 0))
                return -ENOMEM;
        store_batch_put(task_batch(task), json_revision(vm), TAKE_PTR(doc));
        return 0;
}

static void settled(struct task *task, struct manager *manager, const char *where)
{
        if ((!strcmp(where, "to") || !strcmp(where, "lost")) && migration_along_record(task, manager) < 0)
                task_step_failed(task, NULL);
        else if (json_object_set_new(task_data(task), "where", json_string(where)) < 0 ||
                 (!strcmp(where, "nowhere") && record_lost(task, manager) < 0))
                task_step_failed(task, NULL);
        else
                task_step_done(task);
}

/* What an answer says of the machine there: NULL when the host has no such machine any more. */
static const char *power_there(const json_t *body, const struct error *error)
{
        return error ? NULL : json_text(json_status(body), "power");
}

static void on_vm_at_source(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        const char *power = power_there(body, error);
        bool none = has_none(task, manager, "host_uid", error);

        if (json_object_set_new(
                    task_data(task), "from_down", json_boolean(none && error->code != ERROR_NOT_FOUND)) < 0)
                task_step_failed(task, NULL);
        else if (error && !none)
                wait_for_hosts(task,
                        "the source's agent cannot be reached; where the virtual machine runs is not known");
        else if (power ? !strcmp(power, "outgoing-done") || !strcmp(power, "incoming")
                       : flag(task, "to_incoming")) {
                if (!power || !tell_removal(task, manager))
                        wait_for_hosts(task, "the hosts have not settled yet who owns the virtual machine");
        } else if (!power && !has_said(task) && may_have_disks(task, manager))
                wait_for_hosts(task, WAITS_FOR_DISKS);
        else
                settled(task, manager, power ? "from" : flag(task, "to_crashed") ? "lost" : "nowhere");
}

static void on_vm_at_destination(
        struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        const char *power = power_there(body, error);
        bool none = has_none(task, manager, "to_uid", error);
        bool incoming = power && !strcmp(power, "incoming");
        bool done = !strcmp(json_text(json_object_get(task_data(task), "outcome"), "phase"), "done");
        bool runs = power && (!strcmp(power, "running") || !strcmp(power, "paused"));

        if (runs)
                inventory_told(manager->inventory, json_text(task_data(task), "to_uid"),
                        json_text(task_data(task), "vm_uid"), body);
        if (json_object_set_new(
                    task_data(task), "to_down", json_boolean(none && error->code != ERROR_NOT_FOUND)) < 0 ||
                json_object_set_new(task_data(task), "to_incoming", json_boolean(incoming)) < 0 ||
                json_object_set_new(
                        task_data(task), "to_crashed", json_boolean(power && !strcmp(power, "crashed"))) < 0)
                task_step_failed(task, NULL);
        else if (error && !none)
                wait_for_hosts(task, "the destination's agent cannot be reached; where the virtual machine "
                                     "runs is not known");
        else if (runs || (done && power && !incoming))
                settled(task, manager, "to");
        else
                call_vm(task, manager, "host_uid", on_vm_at_source);
}

static void run_settle(struct task *task, void *userdata)
{
        call_vm(task, userdata, "to_uid", on_vm_at_destination);
}

static void on_forgotten(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        task_step_done(task);
}

static void on_forgotten_at_destination(
        struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        call_migration(task, manager, "host_uid", "DELETE", "", on_forgotten);
}

/* Tidying up: the destination may still have to hear from the source, and forgets then; an agent that cannot be asked now forgets the oldest of many. */
static void run_forget(struct task *task, void *userdata)
{
        if (migration_along_clear(task, userdata))
                return;
        call_migration(task, userdata, "to_uid", "DELETE", "", on_forgotten_at_destination);
}

static const char *const result_counts[] = {"total_ms", "pause_ms", "passes", "bytes_ram", "bytes_wire",
        "bytes_zero", "bytes_duplicate", "bytes_delta", "channels"};

/* When its final pause was asked for, permitted and over, by our clock, beside what the source says of it. */
static int add_switchover(const struct task *task, json_t *result)
{
        static const char *const keys[] = {"asked_unix_ms", "permitted_unix_ms", "over_unix_ms"};
        const json_t *ours = json_object_get(task_data(task), "switchover");
        json_t *record = json_copy(json_object_get(result, "switchover"));
        int r = 0;

        if (!json_is_object(record)) {
                json_decref(record);
                return 0;
        }
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
                if (json_object_get(ours, keys[i]))
                        r |= json_object_set(record, keys[i], json_object_get(ours, keys[i]));
        return r | json_object_set_new(result, "switchover", record);
}

/* What both hosts were given, beside what the source says of it. */
static int add_handshake(const struct task *task, json_t *result)
{
        json_t *signed_spec = json_object_get(task_data(task), "signed");
        json_t *record = json_copy(json_object_get(result, "handshake")) ?: json_object();
        char digest[65];
        int r;

        if (!signed_spec || migration_spec_digest(signed_spec, digest) < 0) {
                json_decref(record);
                return 0;
        }
        r = json_object_set_new(
                    record, "agreed", json_boolean(!strcmp(json_text(record, "digest"), digest))) |
            json_object_set_new(record, "digest", json_string(digest)) |
            json_object_update(record, signed_spec);
        return r | json_object_set_new(result, "handshake", record);
}

/* The result document of design section 6: what the source measured, with what only the manager knows. A number that was
 * not measured is null: 0 would be a claim. */
static json_t *result_document(struct task *task)
{
        const json_t *outcome = json_object_get(task_data(task), "outcome");
        const json_t *measured = json_object_get(outcome, "result");
        json_t *phases = json_object_get(outcome, "phases");
        _cleanup_json_ json_t *result =
                json_is_object(measured) ? json_copy((json_t *)measured) : json_object();
        int r = 0;

        if (!result)
                return NULL;
        for (size_t i = 0; i < ARRAY_SIZE(result_counts); i++)
                if (!json_is_number(json_object_get(result, result_counts[i])))
                        r |= json_object_set_new(result, result_counts[i], json_null());
        if (!json_is_string(json_object_get(result, "cipher")))
                r |= json_object_set_new(result, "cipher", json_string("unknown"));
        if (!json_is_string(json_object_get(result, "converged_by")))
                r |= json_object_set_new(result, "converged_by", json_string("unknown"));
        if (!json_is_array(json_object_get(result, "phases")))
                r |= json_object_set_new(
                        result, "phases", json_is_array(phases) ? json_incref(phases) : json_array());
        if (json_object_get(task_data(task), "forecast"))
                r |= json_object_set(result, "forecast", json_object_get(task_data(task), "forecast"));
        r |= add_switchover(task, result);
        r |= migration_along_result(task, result);
        r |= add_handshake(task, result);
        r |= json_object_set_new(result, "measured", json_boolean(json_is_object(measured)));
        r |= json_object_set_new(result, "from", json_string(json_text(task_data(task), "from")));
        r |= json_object_set_new(result, "to", json_string(json_text(task_data(task), "to_name")));
        return r < 0 ? NULL : TAKE_PTR(result);
}

/* Nobody has it. */
static struct error *loss_of(const struct task *task)
{
        const char *from = json_text(task_data(task), "from"), *to = json_text(task_data(task), "to_name");
        const char *start =
                migration_along(task) && has_left(task)
                        ? "Its disks are on the destination's datastore: start it on a host that has that."
                        : "Start it again.";
        struct error *error = NULL;

        if (flag(task, "to_down") && flag(task, "from_down"))
                error_set(&error, ERROR_PEER_FAILED, start,
                        "the hosts %s and %s were both confirmed down; the virtual machine has ended", from,
                        to);
        else if (flag(task, "to_down"))
                error_set(&error, ERROR_PEER_FAILED, start,
                        "the virtual machine was handed over to host %s, which was confirmed down; it has "
                        "ended",
                        to);
        else if (flag(task, "from_down"))
                error_set(&error, ERROR_PEER_FAILED, start,
                        "host %s was confirmed down before host %s had the virtual machine; it has ended",
                        from, to);
        else
                error_set(&error, ERROR_OWNER_UNKNOWN,
                        "Look for its owner record in its folder, then start it where it is.",
                        "neither the source nor the destination has the virtual machine any more");
        return error;
}

/* It stays at the source, since the destination is no more. */
static struct error *staying_of(const struct task *task, const json_t *problem)
{
        _cleanup_error_ struct error *cause = json_is_object(problem) ? error_from_json(problem) : NULL;
        struct error *error = NULL;

        error_set(&error, cause ? cause->code : ERROR_PEER_FAILED, NULL,
                "host %s was confirmed down; the virtual machine stays on host %s%s%s",
                json_text(task_data(task), "to_name"), json_text(task_data(task), "from"), cause ? ": " : "",
                cause ? error_message(cause) : "");
        return error;
}

static struct error *failure_of(const struct task *task)
{
        const json_t *outcome = json_object_get(task_data(task), "outcome");
        const json_t *problem = json_object_get(outcome, "error");
        struct error *error = NULL;

        if (!strcmp(json_text(task_data(task), "where"), "nowhere"))
                error = loss_of(task);
        else if (flag(task, "to_down") && strcmp(json_text(outcome, "phase"), "cancelled"))
                error = staying_of(task, problem);
        else if (!strcmp(json_text(outcome, "phase"), "cancelled"))
                error_set(&error, ERROR_CANCELLED, NULL,
                        "the migration was cancelled; the virtual machine is on host %s",
                        json_text(task_data(task), "from"));
        else if (json_is_object(problem))
                error = error_from_json(problem);
        else
                error_set(&error, ERROR_PEER_FAILED, "See the log of the source's agent.",
                        "the migration did not take place; the virtual machine is on host %s",
                        json_text(task_data(task), "from"));
        return error;
}

static void run_conclude(struct task *task, void *userdata)
{
        struct manager *manager = userdata;

        if (strcmp(json_text(task_data(task), "where"), "to")) {
                _cleanup_error_ struct error *failure = failure_of(task), *whole = NULL;
                _cleanup_free_ char *stays = migration_along_stays(task);

                if (stays && failure)
                        (void)error_set(&whole, failure->code, failure->hint,
                                "%s; what was left behind stays: %s", error_message(failure), stays);
                task_step_failed(task, error_with_names(manager, whole ?: failure));
                return;
        }
        task_set_result(task, result_document(task));
        task_step_done(task);
}

static const struct task_step steps[] = {
        {.name = "check", .run = run_check},
        {.name = "start", .run = run_start, .cancel = cancel_migration, .no_timeout = true},
        {.name = "follow", .run = run_follow, .cancel = cancel_migration, .no_timeout = true},
        {.name = "settle", .run = run_settle, .cancel = cancel_migration, .no_timeout = true},
        {.name = "forget", .run = run_forget, .cancel = cancel_migration, .no_timeout = true},
        {.name = "refresh", .run = step_refresh, .cancel = cancel_migration, .no_timeout = true},
        {.name = "conclude", .run = run_conclude, .cancel = cancel_migration, .no_timeout = true},
};
const struct task_kind operation_vm_migrate = {
        .action = "vm.migrate",
        .steps = steps,
        .n_steps = ARRAY_SIZE(steps),
        .timeout_ms = 60000,
        .may_start = operation_may_start,
        .starting = operation_starting,
};
