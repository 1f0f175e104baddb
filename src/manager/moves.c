/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/moves_private.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/crash_point.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"

#define AT_ONCE_MAX 16   /* tries under way; how many of them the queue lets run is its matter */
#define SUSPENDING_MAX 2 /* of these; a guest stands still while its memory is written */
#define AGAIN_MS 500
#define CUT_SHORT_MS 50
#define CANCEL_MAX_MS 60000 /* after that, what was cancelled is reported as it is */
#define RECORD_MS 5000      /* what a later manager would find out by itself is recorded so often */

/* Of what is settled the record keeps what the report says: with a thousand of them it is written often. */
static void set_outcome(struct moves_round *round, json_t *record, const char *outcome, const char *to)
{
        static const char *const working[] = {"progress", "n_tries", "checked", "again_unix_ms",
                "end_unix_ms", "begun_epoch", "begun_ms", "held_unix_ms", "was_off", "ours"};

        moves_set_text(round, record, "outcome", outcome);
        moves_set_text(round, record, "to", to);
        for (size_t i = 0; i < ARRAY_SIZE(working); i++)
                (void)json_object_del(record, working[i]);
}

/* --- Records ------------------------------------------------------------------------------------------------------------ */

static json_t *records_of(const struct task *task)
{
        return json_object_get(task_data(task), "moves");
}

static json_t *records_to_add_to(struct task *task)
{
        json_t *records = records_of(task);

        if (records)
                return records;
        records = json_array();
        return json_object_set_new(task_data(task), "moves", records) < 0 ? NULL : records;
}

bool moves_is_off(const json_t *vm)
{
        const char *power = json_text(json_status(vm), "power");

        return !strcmp(power, "stopped") || !strcmp(power, "crashed") || !strcmp(power, "suspended");
}

/* ours: it was suspended by an earlier task of the maintenance that this is about. */
static json_t *record_new(const json_t *vm, const char *outcome, const char *to, bool ours)
{
        return json_pack("{s:s, s:s, s:s?, s:s?, s:n, s:[], s:{}, s:b, s:b}", "uid", json_text(vm, "uid"),
                "name", json_text(vm, "name"), "outcome", outcome, "to", to, "why", "tries", "progress",
                "was_off", moves_is_off(vm), "ours", ours);
}

/* In the list of those that left the host (operation_maintenance.c). */
static bool was_suspended_before(const struct task *task, const json_t *vm)
{
        json_t *item;
        size_t i;

        json_array_foreach (json_object_get(task_data(task), "left"), i, item)
                if (!strcmp(json_text(item, "uid"), json_text(vm, "uid")))
                        return json_is_true(json_object_get(item, "suspended")) &&
                               !strcmp(json_text(json_status(vm), "power"), "suspended");
        return false;
}

int moves_add(struct task *task, const json_t **vms, size_t n)
{
        json_t *records = records_to_add_to(task);

        if (!records)
                return -ENOMEM;
        evacuation_sort(vms, n);
        for (size_t i = 0; i < n; i++)
                if (json_array_append_new(
                            records, record_new(vms[i], NULL, NULL, was_suspended_before(task, vms[i]))) < 0)
                        return -ENOMEM;
        return 0;
}

int moves_add_settled(struct task *task, const json_t *vm, const char *outcome, const char *to)
{
        json_t *records = records_to_add_to(task);

        return records && json_array_append_new(records, record_new(vm, outcome, to, false)) == 0 ? 0
                                                                                                  : -ENOMEM;
}

/* --- One virtual machine ------------------------------------------------------------------------------------------------ */

const char *moves_first_cause(const json_t *checks)
{
        json_t *check;
        size_t i;

        json_array_foreach ((json_t *)checks, i, check)
                if (json_is_false(json_object_get(check, "ok")) &&
                        !strcmp(json_text(check, "severity"), "error"))
                        return json_text(check, "cause");
        return NULL;
}

/* False: there is no time on the loop now. */
static bool may_check(struct moves_round *round, json_t *record)
{
        if (round->cut_short || !loop_share_open(&round->manager->share, round->task)) {
                round->cut_short = true;
                return false;
        }
        (void)json_object_set_new(record, "checked", json_integer(++round->n_checked));
        return true;
}

/* Where it could go now. *ret_other: the best host that it has not failed to go to; in the report. */
static bool look_for_hosts(struct moves_round *round, json_t *record, const json_t *vm, json_t **ret_report,
        bool *ret_fits, const char **ret_other)
{
        _cleanup_error_ struct error *error = NULL;
        uint64_t began_ns = clock_monotonic_ns();
        json_t *item;
        size_t i;
        int r;

        *ret_other = NULL;
        if (!may_check(round, record))
                return false;
        r = operation_migrate_check(
                round->manager, vm, *round->to ? round->to : NULL, round->task, ret_report, &error);
        loop_share_spend(&round->manager->share, clock_monotonic_ns() - began_ns);
        if (r < 0) {
                moves_set_why(round, record, error_message(error));
                *ret_fits = false;
                return true;
        }
        *ret_fits = json_is_true(json_object_get(*ret_report, "ok"));
        if (!*ret_fits)
                moves_set_why(round, record, moves_first_cause(json_object_get(*ret_report, "checks")));
        if (*round->to)
                return true;
        json_array_foreach (json_object_get(*ret_report, "ranking"), i, item)
                if (!*ret_other && json_is_true(json_object_get(item, "ok")) &&
                        !moves_has_failed_to(record, MOVES_MIGRATE, json_text(item, "host")))
                        *ret_other = json_text(item, "host");
        return true;
}

/* Where what is suspended could be resumed now; *ret_host, borrowed from the report: NULL: nowhere that it was not tried. One that is
 * cancelled gives it back to the host that it was on, and one that brings back takes that, too, if it can. */
static bool look_for_resumption(struct moves_round *round, json_t *record, const json_t *vm,
        json_t **ret_report, const char **ret_host)
{
        bool gives_back = task_cancel_requested(round->task);
        const char *at = json_text(json_status(vm), "host");
        /* One that was given to another host meanwhile belongs there. */
        const char *preferred = gives_back ? round->from : !strcmp(at, round->to) ? at : "";
        const char *except = *round->from && !gives_back ? round->from : NULL;
        _cleanup_error_ struct error *error = NULL;
        uint64_t began_ns = clock_monotonic_ns();
        json_t *host;
        size_t i;
        int r;

        *ret_host = NULL;
        if (!may_check(round, record))
                return false;
        r = operation_resume_check(round->manager, vm, except, round->task, NULL, ret_report, &error);
        loop_share_spend(&round->manager->share, clock_monotonic_ns() - began_ns);
        if (r < 0) {
                moves_set_why(round, record, error_message(error));
                return true;
        }
        json_array_foreach (json_object_get(*ret_report, "hosts"), i, host) {
                const char *name = json_string_value(host);

                if (!moves_has_failed_to(record, MOVES_RESUME, name) &&
                        (!*ret_host || !strcmp(name, preferred)))
                        *ret_host = name;
        }
        if (!*ret_host && json_text_or_null(*ret_report, "why"))
                moves_set_why(round, record, json_text(*ret_report, "why"));
        return true;
}

static bool is_ours(const json_t *record)
{
        return json_is_true(json_object_get(record, "ours")) || moves_has_tried(record, MOVES_SUSPEND);
}

/* On behalf of the maintenance. Where a task has said so, the inventory may not have heard of it yet; and where a resumption failed, it
 * calls stopped what is still suspended, until the host that suspended it can be asked. */
static bool is_suspended(const struct moves_round *round, const json_t *record, const json_t *vm)
{
        const char *power = json_text(json_status(vm), "power");
        const json_t *try = moves_last_try(record);

        if (!is_ours(record))
                return false;
        if (moves_try_does(try, MOVES_SUSPEND) && moves_try_succeeded(try) && !moves_is_off(vm))
                return !strcmp(json_text(json_status(vm), "host"), round->from);
        if (moves_try_does(try, MOVES_RESUME) && !moves_try_succeeded(try) && !strcmp(power, "stopped"))
                return true;
        return !strcmp(power, "suspended");
}

/* A resumption came to nothing, and no host has said yet what that left. */
static bool is_unclear(const json_t *record, const json_t *vm)
{
        return moves_try_does(moves_last_try(record), MOVES_RESUME) &&
               !strcmp(json_text(json_status(vm), "power"), "starting");
}

/* Stopped by the policy; or by somebody, or off from the beginning; or crashed meanwhile. */
static const char *outcome_of_off(const json_t *vm, const json_t *record)
{
        const json_t *try = moves_last_try(record);

        if (moves_try_does(try, MOVES_STOP) || moves_try_does(try, MOVES_POWER_OFF))
                return "stopped";
        return !strcmp(json_text(json_status(vm), "power"), "crashed") &&
                               !json_is_true(json_object_get(record, "was_off"))
                       ? "crashed"
                       : "off";
}

/* What is suspended, or may be: true when nothing is to be done about it. */
static bool is_settled_suspended(struct moves_round *round, json_t *record, const json_t *vm)
{
        const char *to = json_text(moves_last_try(record), "to");

        if (moves_try_does(moves_last_try(record), MOVES_RESUME) &&
                moves_try_succeeded(moves_last_try(record))) {
                set_outcome(round, record, *round->from && strcmp(to, round->from) ? "moved-cold" : "resumed",
                        to);
                return true;
        }
        if (!is_suspended(round, record, vm) || !json_is_true(json_object_get(record, "paused")))
                return false;
        moves_set_why(round, record, "it was paused; `drover vm resume` lets it run");
        set_outcome(round, record, "suspended", NULL);
        return true;
}

/* Its outcome, if there is nothing to be done about it (any more). What its own task says of its end counts: the inventory may not
 * have heard of it yet. */
static bool is_settled(struct moves_round *round, json_t *record, const json_t *vm)
{
        const char *host = json_text(json_status(vm), "host");
        const json_t *try = moves_last_try(record);
        bool done = moves_try_succeeded(try), ours = is_ours(record) && !moves_try_does(try, MOVES_MIGRATE);

        if (!vm)
                set_outcome(round, record, "gone", NULL);
        else if (is_settled_suspended(round, record, vm))
                return true;
        else if (is_suspended(round, record, vm) || is_unclear(record, vm))
                return false;
        else if (moves_is_off(vm))
                set_outcome(round, record, outcome_of_off(vm, record), NULL);
        else if (*round->from && *host && strcmp(host, round->from))
                set_outcome(round, record, ours ? "moved-cold" : "moved", host);
        else if (*round->to && !strcmp(host, round->to))
                set_outcome(round, record, try && !ours ? "moved" : "there", host);
        else if (*round->to && ours)
                set_outcome(round, record, "elsewhere", host);
        else if (done && moves_try_does(try, MOVES_MIGRATE))
                set_outcome(round, record, "moved", *json_text(try, "to") ? json_text(try, "to") : host);
        else if (done && (moves_try_does(try, MOVES_STOP) || moves_try_does(try, MOVES_POWER_OFF)))
                set_outcome(round, record, "stopped", NULL);
        else
                return false;
        return true;
}

/* suspended: it has left the host all the same, if it was to. */
static void leave(struct moves_round *round, json_t *record, bool suspended)
{
        const char *outcome = suspended && *round->from ? "suspended" : "stays";

        if (round->closed && !json_array_size(json_object_get(record, "tries")))
                moves_set_why(round, record, round->closing);
        moves_note_decision(
                round, record, outcome, NULL, evacuation_rank_to_string(&round->policy, round->policy.n + 1));
        set_outcome(round, record, outcome, NULL);
        round->decided = true;
}

/* host: of MIGRATE_OTHER and RESUME. */
static void act(struct moves_round *round, json_t *record, enum evacuation_act what, const char *host,
        unsigned int rank)
{
        const char *word = evacuation_rank_to_string(&round->policy, rank);

        switch (what) {
        case EVACUATION_ACT_WAIT:
                /* Not at each look: with many hosts that takes a while. */
                (void)json_object_set_new(
                        record, "again_unix_ms", json_integer(round->now_ms + MOVES_BUSY_AGAIN_MS));
                break;
        case EVACUATION_ACT_MIGRATE:
                moves_try_begin(round, record, MOVES_MIGRATE, *round->to ? round->to : NULL, word);
                break;
        case EVACUATION_ACT_MIGRATE_OTHER:
                moves_try_begin(round, record, MOVES_MIGRATE, host, word);
                break;
        case EVACUATION_ACT_SUSPEND:
                moves_try_begin(round, record, MOVES_SUSPEND, NULL, word);
                break;
        case EVACUATION_ACT_RESUME:
                moves_try_begin(round, record, MOVES_RESUME, host, word);
                break;
        case EVACUATION_ACT_STOP:
                moves_try_begin(round, record, MOVES_STOP, NULL, word);
                break;
        case EVACUATION_ACT_POWER_OFF:
                moves_try_begin(round, record, MOVES_POWER_OFF, NULL, word);
                break;
        case EVACUATION_ACT_LEAVE:
                leave(round, record, false);
                break;
        }
}

/* Another task works on it: that one's end is waited for, and the policy's time stands still. True when there is one. */
static bool is_held(struct moves_round *round, json_t *record)
{
        _cleanup_free_ char *object = alloc_printf("vm/%s", json_text(record, "uid")), *why = NULL;
        const struct task *holder = object ? task_holding(round->manager->tasks, object) : NULL;
        struct evacuation_progress progress = moves_progress(record);
        json_int_t since_ms = moves_number(record, "held_unix_ms");

        if (holder) {
                why = alloc_printf("task %s (%s) works on it", task_name(holder), task_action(holder));
                moves_set_why(round, record, why);
                if (!since_ms)
                        (void)json_object_set_new(record, "held_unix_ms", json_integer(round->now_ms));
                return true;
        }
        if (since_ms) {
                (void)json_object_del(record, "held_unix_ms");
                progress.since_ms += progress.since_ms ? MAX(round->now_ms - since_ms, (json_int_t)0) : 0;
                moves_set_progress(round, record, &progress);
        }
        return false;
}

/* Not when the clock was set back meanwhile. */
static bool is_too_soon(const struct moves_round *round, const json_t *record)
{
        json_int_t again_ms = moves_number(record, "again_unix_ms");

        return again_ms > round->now_ms && again_ms <= round->now_ms + MOVES_BUSY_AGAIN_MS;
}

/* Also when nothing else starts any more: until then the guest stands still. The end of maintenance is cancelled before that. */
static void decide_suspended(struct moves_round *round, json_t *record, const json_t *vm)
{
        struct evacuation_progress progress = moves_progress(record);
        struct evacuation_facts facts = {.now_ms = round->now_ms, .suspended = true, .closed = round->closed};
        _cleanup_json_ json_t *report = NULL;
        const char *host = NULL;
        enum evacuation_act what;

        if (*round->from || !round->ends) {
                if (is_held(round, record) || is_too_soon(round, record) || round->n_active >= AT_ONCE_MAX ||
                        !look_for_resumption(round, record, vm, &report, &host))
                        return;
        }
        facts.fits_other = host != NULL;
        what = evacuation_next(&round->policy, &progress, &facts);
        moves_set_progress(round, record, &progress);
        if (what == EVACUATION_ACT_LEAVE)
                leave(round, record, true);
        else
                act(round, record, what, host, progress.rank);
}

static void decide(struct moves_round *round, json_t *record, const json_t *vm)
{
        const char *power = json_text(json_status(vm), "power"), *other = NULL;
        struct evacuation_progress progress = moves_progress(record);
        struct evacuation_facts facts = {.now_ms = round->now_ms,
                .last_end_ms = moves_number(record, "end_unix_ms"),
                .runs = !strcmp(power, "running"),
                .may_stop = !strcmp(power, "running") || !strcmp(power, "paused"),
                .closed = round->closed};
        _cleanup_json_ json_t *report = NULL;
        enum evacuation_act what;

        if (!facts.closed) {
                if (is_held(round, record) || is_too_soon(round, record) || round->n_active >= AT_ONCE_MAX)
                        return;
                if (!look_for_hosts(round, record, vm, &report, &facts.fits, &other))
                        return;
        }
        facts.fits_other = other != NULL;
        what = evacuation_next(&round->policy, &progress, &facts);
        if (what == EVACUATION_ACT_SUSPEND) {
                if (round->n_suspending >= SUSPENDING_MAX) {
                        act(round, record, EVACUATION_ACT_WAIT, NULL, progress.rank);
                        return; /* and is decided again when one of them has ended */
                }
                round->n_suspending++;
                /* Resuming lets a guest run: one that is not to, stays suspended. */
                if (!facts.runs && json_object_set_new(record, "paused", json_true()) < 0)
                        round->failed = true;
        }
        moves_set_progress(round, record, &progress);
        act(round, record, what, other, progress.rank);
}

static void decide_or_wait(struct moves_round *round, json_t *record, const json_t *vm)
{
        if (is_suspended(round, record, vm))
                decide_suspended(round, record, vm);
        else if (!is_unclear(record, vm))
                decide(round, record, vm);
}

/* True when something is to be decided about it. */
static bool look_at(struct moves_round *round, json_t *record)
{
        const json_t *vm = inventory_vm(round->manager->inventory, json_text(record, "uid"));
        json_t *try = moves_last_try(record);

        if (json_is_string(json_object_get(record, "outcome")))
                return false;
        if (moves_try_is_open(try) && moves_try_follow(round, record, try))
                return false;
        return !is_settled(round, record, vm);
}

struct candidate {
        json_t *record;
        const json_t *vm;
        json_int_t checked; /* 0: not yet */
        size_t i;
};

/* Those that were not checked yet, in their order; then those whose last check is the longest ago: what fits nowhere does not keep
 * the others waiting. */
static int longest_unchecked_first(const void *a, const void *b)
{
        const struct candidate *x = a, *y = b;

        if (x->checked != y->checked)
                return x->checked < y->checked ? -1 : 1;
        return x->i < y->i ? -1 : x->i > y->i;
}

static int look_at_all(struct moves_round *round)
{
        json_t *records = records_of(round->task), *record;
        _cleanup_free_ struct candidate *candidates =
                alloc_array(json_array_size(records) + 1, sizeof(*candidates));
        size_t i, n = 0;

        if (!candidates)
                return -ENOMEM;
        json_array_foreach (records, i, record) {
                round->n_active += moves_try_is_open(moves_last_try(record));
                round->n_suspending += moves_try_is_open(moves_last_try(record)) &&
                                       moves_try_does(moves_last_try(record), MOVES_SUSPEND);
                round->n_checked = MAX(round->n_checked, moves_number(record, "checked"));
        }
        json_array_foreach (records, i, record)
                if (look_at(round, record))
                        candidates[n++] = (struct candidate){.record = record,
                                .vm = inventory_vm(round->manager->inventory, json_text(record, "uid")),
                                .checked = moves_number(record, "checked"),
                                .i = i};
        if (n)
                qsort(candidates, n, sizeof(*candidates), longest_unchecked_first);
        for (i = 0; i < n; i++)
                decide_or_wait(round, candidates[i].record, candidates[i].vm);
        return 0;
}

/* --- All of them -------------------------------------------------------------------------------------------------------- */

/* Milliseconds that the task has been at it, by the clock that only goes forward: those of this manager's term, and of the terms
 * before, which are in the data. */
static json_int_t spend(struct task *task, const struct manager *manager)
{
        json_t *data = task_data(task);
        json_int_t elapsed_ms = (json_int_t)task_step_elapsed_ms(task), epoch = (json_int_t)manager->epoch,
                   earlier_ms = moves_number(data, "spent_earlier_ms");

        if (moves_number(data, "spent_epoch") != epoch) {
                earlier_ms += moves_number(data, "spent_ms");
                (void)json_object_set_new(data, "spent_earlier_ms", json_integer(earlier_ms));
                (void)json_object_set_new(data, "spent_epoch", json_integer(epoch));
        }
        (void)json_object_set_new(data, "spent_ms", json_integer(elapsed_ms));
        return earlier_ms + elapsed_ms;
}

static void round_begin(struct moves_round *round, struct task *task, struct manager *manager)
{
        json_t *data = task_data(task);
        json_int_t before_ms = moves_number(data, "start_before_unix_ms"),
                   give_up_ms = moves_number(data, "give_up_ms");

        *round = (struct moves_round){.task = task,
                .manager = manager,
                .from = json_text(data, "from"),
                .to = json_text(data, "to"),
                .now_ms = clock_unix_ms(manager->clock),
                .spent_ms = spend(task, manager)};
        if (evacuation_policy_read(json_object_get(data, "policy"), true, &round->policy, NULL) < 0)
                round->closing = "this version of the manager does not know its policy";
        else if (task_cancel_requested(task))
                round->closing = "the task was cancelled";
        else if (round->spent_ms >= (give_up_ms ?: (json_int_t)MOVES_GIVE_UP_DEFAULT_MS))
                round->closing = "the time limit of the whole passed";
        round->closed = round->ends = round->closing != NULL;
        if (!round->closed && before_ms && round->now_ms >= before_ms) {
                round->closed = true;
                round->closing = "the window had ended before it could start";
        }
}

/* VMs on the host that is to be left: those that were there, and in later looks what came meanwhile, by what had begun before it was
 * closed. */
static int add_newcomers(struct moves_round *round)
{
        _cleanup_json_ json_t *vms = *round->from ? inventory_vms(round->manager->inventory) : NULL,
                              *known = json_object();
        _cleanup_free_ const json_t **found = alloc_array(json_array_size(vms) + 1, sizeof(*found));
        json_t *vm, *record;
        size_t i, n = 0;
        int r = known && found ? 0 : -ENOMEM;

        json_array_foreach (records_of(round->task), i, record)
                if (r == 0)
                        r = json_object_set_new(known, json_text(record, "uid"), json_true());
        if (r < 0)
                return -ENOMEM;
        json_array_foreach (vms, i, vm)
                if (!strcmp(json_text(json_status(vm), "host"), round->from) &&
                        !json_object_get(known, json_text(vm, "uid")))
                        found[n++] = vm;
        round->changed |= n > 0;
        round->decided |= n > 0;
        return n ? moves_add(round->task, found, n) : 0;
}

struct arrivals {
        const char *host_uid;
        size_t n;
};

static void count_arrival(void *userdata, const struct task *task)
{
        struct arrivals *arrivals = userdata;
        const char *action = task_action(task), *key = "to_uid";

        if (!strcmp(action, "vm.start") || !strcmp(action, "vm.create") || !strcmp(action, "vm.resume"))
                key = "host_uid";
        else if (strcmp(action, "vm.migrate"))
                return;
        arrivals->n += task_running(task) && !strcmp(json_text(task_data(task), key), arrivals->host_uid);
}

/* Something may still come to the host that is to be left. */
static bool awaits_arrivals(const struct moves_round *round)
{
        const json_t *host = *round->from ? inventory_host(round->manager->inventory, round->from) : NULL;
        struct arrivals arrivals = {.host_uid = json_text(host, "uid")};

        if (host && !round->closed)
                task_each(round->manager->tasks, count_arrival, &arrivals);
        return arrivals.n > 0;
}

/* What this look has decided, with its audit entries. */
static int record(struct moves_round *round)
{
        json_t *data = task_data(round->task);
        _cleanup_json_ json_t *decisions = json_incref(json_object_get(data, "decisions"));
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        int r;

        r = moves_audit_decisions(round, decisions, &batch, &error);
        json_object_del(data, "decisions");
        (void)json_object_set_new(data, "unrecorded", json_false());
        (void)json_object_del(data, "record_now");
        (void)json_object_set_new(data, "recorded_ms", json_integer(round->spent_ms));
        if (r >= 0)
                r = task_record(round->task, &batch, &error);
        if (r >= 0)
                return 0;
        log_warning("task %s: cannot record: %s", task_name(round->task), error_message(error));
        /* The next look records it: nothing of it begins before that. */
        (void)json_object_set_new(data, "record_now", json_true());
        if (decisions && json_object_set(data, "decisions", decisions) < 0)
                log_warning("task %s: no memory for its audit entries", task_name(round->task));
        return r;
}

static void say(const struct moves_round *round)
{
        size_t n = json_array_size(records_of(round->task)), n_left = moves_count(round->task, NULL);

        task_progress(round->task,
                json_pack("{s:i, s:o}", "percent", n ? (int)((n - n_left) * 100 / n) : 100, "message",
                        json_sprintf("%zu of %zu virtual machines are settled, %zu are under way", n - n_left,
                                n, round->n_active)));
}

static void give_up(struct moves_round *round, json_t *record)
{
        const json_t *try = moves_last_try(record);
        bool suspended = moves_try_does(try, MOVES_RESUME) ||
                         (moves_try_does(try, MOVES_SUSPEND) && moves_try_succeeded(try));

        if (suspended)
                moves_set_why(round, record,
                        moves_try_is_open(try) ? "its resumption has not ended yet"
                                               : "it was not resumed in time");
        else if (moves_try_does(try, MOVES_STOP) || moves_try_does(try, MOVES_POWER_OFF))
                moves_set_why(round, record, "it is being stopped, which cannot be taken back");
        else
                moves_set_why(round, record, "its task was cancelled and has not ended yet");
        set_outcome(round, record, suspended && *round->from ? "suspended" : "stays", NULL);
}

/* Those that were cancelled and do not end: who has them is for their own tasks to find out. */
static void give_up_waiting(struct moves_round *round)
{
        const json_t *since = json_object_get(task_data(round->task), "ending_ms");
        json_t *item;
        size_t i;

        if (!round->ends)
                return;
        if (!since) {
                (void)json_object_set_new(task_data(round->task), "ending_ms", json_integer(round->spent_ms));
                round->changed = round->decided = true;
                return;
        }
        if (round->spent_ms < json_integer_value(since) + CANCEL_MAX_MS)
                return;
        json_array_foreach (records_of(round->task), i, item)
                if (json_is_null(json_object_get(item, "outcome")))
                        give_up(round, item);
}

/* What was recorded is done. */
static void carry_out(struct moves_round *round)
{
        json_t *item;
        size_t i;

        json_array_foreach (records_of(round->task), i, item) {
                json_t *try = moves_last_try(item);

                if (!moves_try_is_open(try) || json_is_string(json_object_get(item, "outcome")))
                        continue;
                if (round->closed)
                        moves_try_cancel(round, try);
                if (json_is_null(json_object_get(try, "task"))) {
                        moves_try_submit(round, item, try);
                        /* The names of the tasks, or what was withdrawn. */
                        (void)json_object_set_new(task_data(round->task), "unrecorded", json_true());
                }
        }
}

/* The whole document is written each time, however little has changed. */
static bool is_to_be_recorded(const struct moves_round *round)
{
        json_int_t recorded_ms = moves_number(task_data(round->task), "recorded_ms");

        return round->decided || (round->changed && (round->spent_ms >= recorded_ms + RECORD_MS ||
                                                            round->spent_ms < recorded_ms));
}

bool moves_run(struct task *task, struct manager *manager, uint64_t *ret_again_ms)
{
        struct moves_round round;
        int r;

        *ret_again_ms = AGAIN_MS;
        round_begin(&round, task, manager);
        round.changed = json_is_true(json_object_get(task_data(task), "unrecorded"));
        round.decided = json_is_true(json_object_get(task_data(task), "record_now"));
        r = add_newcomers(&round);
        if (r >= 0)
                r = look_at_all(&round);
        give_up_waiting(&round);
        say(&round);
        if (r < 0 || round.failed) {
                /* Nothing of this look is begun; the next one records it, and finds what there was no memory for now. */
                log_warning("task %s: out of memory", task_name(task));
                (void)json_object_set_new(task_data(task), "record_now", json_true());
                return false;
        }
        if (is_to_be_recorded(&round)) {
                if (record(&round) < 0)
                        return false;
                crash_point("moves-recorded");
        } else if (round.changed)
                (void)json_object_set_new(task_data(task), "unrecorded", json_true());
        carry_out(&round);
        if (round.cut_short)
                *ret_again_ms = CUT_SHORT_MS;
        return !moves_count(task, NULL) && !awaits_arrivals(&round);
}

size_t moves_count(const struct task *task, const char *outcome)
{
        json_t *item;
        size_t i, n = 0;

        json_array_foreach (records_of(task), i, item) {
                const char *has = json_text_or_null(item, "outcome");

                n += outcome ? has && !strcmp(has, outcome) : !has;
        }
        return n;
}

/* One whose suspending was cancelled and has not ended may be. One that was paused is left to who paused it. */
bool moves_leaves_suspended(const json_t *record)
{
        const char *outcome = json_text(record, "outcome");

        return !json_is_true(json_object_get(record, "paused")) &&
               (!strcmp(outcome, "suspended") ||
                       (!strcmp(outcome, "stays") && moves_try_does(moves_last_try(record), MOVES_SUSPEND) &&
                               moves_try_is_open(moves_last_try(record))));
}

/* --- Reports ------------------------------------------------------------------------------------------------------------ */

static const char *const outcomes[] = {"moved", "moved-cold", "suspended", "resumed", "stopped", "off",
        "there", "elsewhere", "gone", "crashed", "stays"};

json_t *moves_report(const struct task *task)
{
        json_t *report = json_object(), *vms = json_array(), *item;
        int r = report && vms ? 0 : -ENOMEM;
        size_t i;

        for (size_t k = 0; k < ARRAY_SIZE(outcomes) && r == 0; k++)
                r = json_object_set_new(
                        report, outcomes[k], json_integer((json_int_t)moves_count(task, outcomes[k])));
        json_array_foreach (records_of(task), i, item)
                r |= json_array_append_new(vms,
                        json_pack("{s:O, s:O, s:O, s:O, s:O}", "vm", json_object_get(item, "name"), "outcome",
                                json_object_get(item, "outcome"), "to", json_object_get(item, "to"), "why",
                                json_object_get(item, "why"), "tries", json_object_get(item, "tries")));
        if (r == 0)
                r = json_object_set(report, "vms", vms);
        json_decref(vms);
        if (r < 0) {
                json_decref(report);
                return NULL;
        }
        return report;
}

json_t *moves_audited(const json_t *report)
{
        json_t *counts = json_copy((json_t *)report);

        (void)json_object_del(counts, "vms");
        return counts;
}

int moves_to_error(const struct task *task, struct error **ret_error)
{
        size_t n = moves_count(task, "stays"), n_crashed = moves_count(task, "crashed"), i;
        json_t *item = NULL;

        if (!n && !n_crashed)
                return 0;
        json_array_foreach (records_of(task), i, item)
                if (!strcmp(json_text(item, "outcome"), n_crashed ? "crashed" : "stays"))
                        break;
        if (n_crashed)
                return error_set(ret_error, ERROR_PEER_FAILED, "Look at it, and start it again.",
                        "%zu of %zu virtual machines are not running any more and %zu stay where they are; "
                        "%s: %s",
                        n_crashed, json_array_size(records_of(task)), n, json_text(item, "name"),
                        json_text_or_null(item, "why") ?: "it crashed");
        return error_set(ret_error, ERROR_CONFLICT,
                "Mend what the report names and repeat it, or allow more with --policy.",
                "%zu of %zu virtual machines stay where they are; %s: %s", n,
                json_array_size(records_of(task)), json_text(item, "name"),
                json_text_or_null(item, "why") ?: "no host took it");
}
