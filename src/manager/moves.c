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
#include "manager/check_facts.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"

#define SUSPENDING_MAX 2 /* of these; a guest stands still while its memory is written */
#define AGAIN_MS 500
#define CUT_SHORT_MS 50
#define CANCEL_MAX_MS 60000 /* after that, what was cancelled is reported as it is */
#define RECORD_MS 5000      /* what a later manager would find out by itself is recorded so often */

/* Of what is settled the record keeps what the report says: with a thousand of them it is written often. */
void moves_set_outcome(struct moves_round *round, json_t *record, const char *outcome, const char *to)
{
        static const char *const working[] = {"progress", "checked", "again_unix_ms", "end_unix_ms",
                "begun_epoch", "begun_ms", "held_unix_ms", "was_off"};

        moves_set_text(round, record, "outcome", outcome);
        moves_set_text(round, record, "to", to);
        for (size_t i = 0; i < ARRAY_SIZE(working); i++)
                (void)json_object_del(record, working[i]);
        /* It may have to be resumed all the same: turn_back(). */
        if (!moves_leaves_suspended(record))
                (void)json_object_del(record, "n_tries");
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

/* Nobody has suspended it since, or knows of its having been resumed. */
static bool is_by(const json_t *vm, const char *suspension)
{
        return *suspension && !strcmp(json_text(json_object_get(vm, "internal"), "suspended_by"), suspension);
}

bool moves_is_suspended_by(const json_t *vm, const char *suspension)
{
        static const char *const powers[] = {"suspended", "suspending", "starting", "unknown", "crashed"};

        for (size_t i = 0; i < ARRAY_SIZE(powers); i++)
                if (!strcmp(json_text(json_status(vm), "power"), powers[i]))
                        return is_by(vm, suspension);
        return false;
}

/* suspended_by: an earlier task of the maintenance that this is about; NULL: it was not. */
static json_t *record_new(const json_t *vm, const char *outcome, const char *to, const char *suspended_by)
{
        return json_pack("{s:s, s:s, s:s?, s:s?, s:n, s:[], s:{}, s:b, s:s*}", "uid", json_text(vm, "uid"),
                "name", json_text(vm, "name"), "outcome", outcome, "to", to, "why", "tries", "progress",
                "was_off", moves_is_off(vm) && !suspended_by, "suspended_by", suspended_by);
}

/* By the list of those that left the host (operation_maintenance.c); borrowed, NULL: by none of them. */
static const char *suspended_before_by(const struct task *task, const json_t *vm)
{
        json_t *item;
        size_t i;

        json_array_foreach (json_object_get(task_data(task), "left"), i, item) {
                const char *suspension = json_text(item, "suspended_by");

                if (!strcmp(json_text(item, "uid"), json_text(vm, "uid")))
                        return moves_is_suspended_by(vm, suspension) ? suspension : NULL;
        }
        return NULL;
}

int moves_add(struct task *task, const json_t **vms, size_t n)
{
        json_t *records = records_to_add_to(task);

        if (!records)
                return -ENOMEM;
        if (!*json_text(task_data(task), "datastore"))
                evacuation_sort(vms, n);
        for (size_t i = 0; i < n; i++)
                if (json_array_append_new(
                            records, record_new(vms[i], NULL, NULL, suspended_before_by(task, vms[i]))) < 0)
                        return -ENOMEM;
        return 0;
}

int moves_add_settled(struct task *task, const json_t *vm, const char *outcome, const char *to)
{
        json_t *records = records_to_add_to(task);

        return records && json_array_append_new(records, record_new(vm, outcome, to, NULL)) == 0 ? 0
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
bool moves_may_check(struct moves_round *round, json_t *record)
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
        if (!moves_may_check(round, record))
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

const char *moves_preferred_host(const json_t *vm, const char *to)
{
        const json_t *status = json_status(vm);

        return json_is_true(json_object_get(status, "moved_cold")) ? json_text(status, "host") : to;
}

/* Where what is suspended could be resumed now; *ret_host, borrowed from the report: NULL: nowhere that it was not tried. One that is
 * cancelled gives it back to the host that it was on, and one that brings back takes that, too, if it can. */
static bool look_for_resumption(struct moves_round *round, json_t *record, const json_t *vm,
        json_t **ret_report, const char **ret_host)
{
        bool gives_back = task_cancel_requested(round->task);
        const char *preferred = gives_back ? round->from : moves_preferred_host(vm, round->to);
        const char *except = *round->from && !gives_back ? round->from : NULL;
        _cleanup_error_ struct error *error = NULL;
        uint64_t began_ns = clock_monotonic_ns();
        json_t *host;
        size_t i;
        int r;

        *ret_host = NULL;
        if (!moves_may_check(round, record))
                return false;
        r = operation_resume_check(round->manager, vm, except, round->task,
                &(struct check_assumptions){.reserved = round->reserved}, ret_report, &error);
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

/* How it is with a virtual machine, as far as it can be told. */
enum standing {
        STANDING_GONE,
        STANDING_ON,        /* it runs, or is paused; or its host is silent */
        STANDING_OFF,       /* also: suspended by others */
        STANDING_SUSPENDED, /* on behalf of the maintenance */
        STANDING_UNCLEAR,   /* that, or it was resumed since: no host has said what became of it */
};

static enum standing standing_of(const struct moves_round *round, const json_t *record, const json_t *vm)
{
        const char *power = json_text(json_status(vm), "power");
        const json_t *try = moves_last_try(record);
        bool there = *round->from && !strcmp(json_text(json_status(vm), "host"), round->from);

        if (!vm)
                return STANDING_GONE;
        if (!is_by(vm, json_text(record, "suspended_by")) || moves_try_does(try, MOVES_MIGRATE))
                return moves_is_off(vm) ? STANDING_OFF : STANDING_ON;
        if (!strcmp(power, "suspended"))
                return STANDING_SUSPENDED;
        if (moves_is_off(vm))
                return STANDING_OFF;
        /* A host that became silent while it suspended: the policy goes on, as for all that it runs. */
        if (!strcmp(power, "unknown"))
                return there && !moves_try_does(try, MOVES_RESUME) ? STANDING_ON : STANDING_UNCLEAR;
        /* What its own task says of its end counts: the inventory may not have heard of it yet. */
        if (there && moves_try_does(try, MOVES_SUSPEND) && moves_try_succeeded(try))
                return STANDING_UNCLEAR;
        return moves_is_suspended_by(vm, json_text(record, "suspended_by")) ? STANDING_UNCLEAR : STANDING_ON;
}

/* It has left its host, or nobody can tell and it is not there that it would run: what was being suspended may run on. */
static bool is_away(
        const struct moves_round *round, const json_t *record, const json_t *vm, enum standing standing)
{
        const char *power = json_text(json_status(vm), "power");
        const json_t *try = moves_last_try(record);

        if (standing != STANDING_UNCLEAR)
                return standing == STANDING_SUSPENDED;
        return strcmp(json_text(json_status(vm), "host"), round->from) != 0 ||
               moves_try_does(try, MOVES_RESUME) ||
               (moves_try_does(try, MOVES_SUSPEND) && moves_try_succeeded(try) && strcmp(power, "starting"));
}

/* Whether it was, on behalf of the maintenance, before or in this task; what was migrated since does not count as moved cold. */
static bool was_suspended(const json_t *record)
{
        json_t *try;
        size_t i;

        if (moves_try_does(moves_last_try(record), MOVES_MIGRATE))
                return false;
        json_array_foreach (json_object_get(record, "tries"), i, try)
                if (moves_try_does(try, MOVES_SUSPEND))
                        return moves_try_succeeded(try);
        return json_is_string(json_object_get(record, "suspended_by"));
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

/* What is not off: by where it is. False: it is still where it was. */
static bool is_settled_on(struct moves_round *round, json_t *record, const json_t *vm)
{
        const char *host = json_text(json_status(vm), "host");
        const json_t *try = moves_last_try(record);
        bool done = moves_try_succeeded(try), cold = was_suspended(record);

        if (*round->from && *host && strcmp(host, round->from))
                moves_set_outcome(round, record, cold ? "moved-cold" : "moved", host);
        else if (*round->to && !strcmp(host, round->to))
                moves_set_outcome(round, record, try && !cold ? "moved" : "there", host);
        else if (*round->to && cold)
                moves_set_outcome(round, record, "elsewhere", host);
        else if (done && moves_try_does(try, MOVES_MIGRATE))
                moves_set_outcome(
                        round, record, "moved", *json_text(try, "to") ? json_text(try, "to") : host);
        else if (done && (moves_try_does(try, MOVES_STOP) || moves_try_does(try, MOVES_POWER_OFF)))
                moves_set_outcome(round, record, "stopped", NULL);
        else
                return false;
        return true;
}

/* Its outcome, if there is nothing to be done about it (any more). What its own task says of its end counts: the inventory may not
 * have heard of it yet. */
static bool is_settled(struct moves_round *round, json_t *record, const json_t *vm)
{
        const json_t *try = moves_last_try(record);
        const char *to = json_text(try, "to");

        if (vm && moves_try_does(try, MOVES_RESUME) && moves_try_succeeded(try)) {
                moves_set_outcome(round, record,
                        *round->from && strcmp(to, round->from) ? "moved-cold" : "resumed", to);
                return true;
        }
        switch (standing_of(round, record, vm)) {
        case STANDING_GONE:
                moves_set_outcome(round, record, "gone", NULL);
                return true;
        case STANDING_OFF:
                moves_set_outcome(round, record, outcome_of_off(vm, record), NULL);
                return true;
        case STANDING_SUSPENDED:
                if (!json_is_true(json_object_get(record, "paused")))
                        return false;
                moves_set_why(round, record, "it was paused; `drover vm resume` lets it run");
                moves_set_outcome(round, record, "suspended", NULL);
                return true;
        case STANDING_UNCLEAR:
                return false;
        case STANDING_ON:
                break;
        }
        return is_settled_on(round, record, vm);
}

/* suspended: it has left the host all the same, if it was to. */
static void leave(struct moves_round *round, json_t *record, bool suspended)
{
        moves_leave(round, record, suspended && *round->from ? "suspended" : "stays");
}

void moves_leave(struct moves_round *round, json_t *record, const char *outcome)
{
        if (round->closed && !json_array_size(json_object_get(record, "tries")))
                moves_set_why(round, record, round->closing);
        moves_note_decision(
                round, record, outcome, NULL, evacuation_rank_to_string(&round->policy, round->policy.n + 1));
        moves_set_outcome(round, record, outcome, NULL);
        round->decided = true;
}

/* Not at each look: with many hosts that takes a while. */
void moves_look_again_later(const struct moves_round *round, json_t *record)
{
        (void)json_object_set_new(record, "again_unix_ms", json_integer(round->now_ms + MOVES_BUSY_AGAIN_MS));
}

/* host: of MIGRATE_OTHER and RESUME. */
static void act(struct moves_round *round, json_t *record, enum evacuation_act what, const char *host,
        unsigned int rank)
{
        const char *word = evacuation_rank_to_string(&round->policy, rank);

        switch (what) {
        case EVACUATION_ACT_WAIT:
                moves_look_again_later(round, record);
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
bool moves_is_held(struct moves_round *round, json_t *record)
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
                json_int_t held_ms = MAX(round->now_ms - since_ms, (json_int_t)0);

                (void)json_object_del(record, "held_unix_ms");
                progress.since_ms += progress.since_ms ? held_ms : 0;
                progress.suspended_ms += progress.suspended_ms ? held_ms : 0;
                moves_set_progress(round, record, &progress);
        }
        return false;
}

/* Not when the clock was set back meanwhile. */
bool moves_is_too_soon(const struct moves_round *round, const json_t *record)
{
        json_int_t again_ms = moves_number(record, "again_unix_ms");

        return again_ms > round->now_ms && again_ms <= round->now_ms + MOVES_BUSY_AGAIN_MS;
}

/* How long a suspended guest waits for a host now. Cancelled, as long as everything else has to end; so does one that may be about to run on
 * where it is (away: it is not). */
static uint64_t patience_ms(const struct moves_round *round, bool away)
{
        uint64_t ms = round->closed ? 0 : evacuation_patience_ms(&round->policy, !*round->from);

        if (task_cancel_requested(round->task))
                return *round->from ? CANCEL_MAX_MS : 0;
        return *round->from && !away ? MAX(ms, (uint64_t)CANCEL_MAX_MS) : ms;
}

/* Where it could be resumed; false: that cannot be told in this look. */
static bool may_resume(struct moves_round *round, json_t *record, const json_t *vm, json_t **ret_report,
        const char **ret_host)
{
        /* The end of maintenance that was cancelled: another one is to do it. */
        if (!*round->from && round->ends)
                return true;
        if (moves_is_too_soon(round, record))
                return false;
        if (round->n_active >= MOVES_AT_ONCE_MAX) {
                round->crowded = true;
                return false;
        }
        return look_for_resumption(round, record, vm, ret_report, ret_host);
}

/* Also when nothing else starts any more: until then the guest stands still. */
static void decide_suspended(
        struct moves_round *round, json_t *record, const json_t *vm, enum standing standing)
{
        bool unclear = standing == STANDING_UNCLEAR, away = is_away(round, record, vm, standing);
        struct evacuation_facts facts = {.now_ms = round->now_ms,
                .suspended = true,
                .unclear = unclear,
                .closed = round->closed,
                .patience_ms = patience_ms(round, away)};
        struct evacuation_progress progress;
        _cleanup_json_ json_t *report = NULL;
        const char *host = NULL;
        enum evacuation_act what;

        if (moves_is_held(round, record) || (!unclear && !may_resume(round, record, vm, &report, &host)))
                return;
        if (unclear)
                moves_set_why(round, record, "nobody can tell whether it was resumed");
        progress = moves_progress(record);
        facts.fits_other = host != NULL;
        what = evacuation_next(&round->policy, &progress, &facts);
        moves_set_progress(round, record, &progress);
        if (what == EVACUATION_ACT_LEAVE) {
                leave(round, record, away);
                return;
        }
        act(round, record, what, host, progress.rank);
        if (what == EVACUATION_ACT_RESUME &&
                check_facts_reserve(round->reserved, inventory_host(round->manager->inventory, host), vm) < 0)
                round->failed = true;
}

/* Its suspending came to nothing. */
static void forget_suspension(struct moves_round *round, json_t *record)
{
        if (!json_is_string(json_object_get(record, "suspended_by")))
                return;
        (void)json_object_del(record, "suspended_by");
        round->changed = true;
}

static void decide(struct moves_round *round, json_t *record, const json_t *vm)
{
        const char *power = json_text(json_status(vm), "power"), *other = NULL;
        struct evacuation_progress progress;
        struct evacuation_facts facts = {.now_ms = round->now_ms,
                .last_end_ms = moves_number(record, "end_unix_ms"),
                .runs = !strcmp(power, "running"),
                .may_stop = !strcmp(power, "running") || !strcmp(power, "paused"),
                .closed = round->closed};
        _cleanup_json_ json_t *report = NULL;
        enum evacuation_act what;

        if (facts.runs)
                forget_suspension(round, record);
        if (!facts.closed) {
                if (moves_is_held(round, record) || moves_is_too_soon(round, record) ||
                        round->n_active >= MOVES_AT_ONCE_MAX)
                        return;
                if (!look_for_hosts(round, record, vm, &report, &facts.fits, &other))
                        return;
        }
        facts.fits_other = other != NULL;
        progress = moves_progress(record);
        what = evacuation_next(&round->policy, &progress, &facts);
        if (what == EVACUATION_ACT_SUSPEND) {
                if (round->n_suspending >= SUSPENDING_MAX) {
                        moves_look_again_later(round, record);
                        return;
                }
                round->n_suspending++;
                /* Resuming lets a guest run: one that is not to, stays suspended. */
                if (json_object_set_new(record, "paused", json_boolean(!facts.runs)) < 0)
                        round->failed = true;
        }
        moves_set_progress(round, record, &progress);
        act(round, record, what, other, progress.rank);
}

static void decide_or_wait(struct moves_round *round, json_t *record, const json_t *vm)
{
        enum standing standing = standing_of(round, record, vm);

        if (standing == STANDING_SUSPENDED || standing == STANDING_UNCLEAR)
                decide_suspended(round, record, vm, standing);
        else
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
        return !round->aim->is_settled(round, record, vm);
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

/* Of resumptions also the memory, as long as their tasks have not got so far that all others see it. */
static void count_under_way(struct moves_round *round, const json_t *record)
{
        const json_t *vm = inventory_vm(round->manager->inventory, json_text(record, "uid")),
                     *try = moves_last_try(record),
                     *host = inventory_host(round->manager->inventory, json_text(try, "to"));

        round->n_checked = MAX(round->n_checked, moves_number(record, "checked"));
        if (!moves_try_is_open(try) || json_is_string(json_object_get(record, "outcome")))
                return;
        round->n_active++;
        round->n_suspending += moves_try_does(try, MOVES_SUSPEND);
        if (moves_try_does(try, MOVES_RESUME) && vm && host && !moves_try_is_placed(round, try) &&
                check_facts_reserve(round->reserved, host, vm) < 0)
                round->failed = true;
}

static int look_at_all(struct moves_round *round)
{
        json_t *records = records_of(round->task), *record;
        _cleanup_free_ struct candidate *candidates =
                alloc_array(json_array_size(records) + 1, sizeof(*candidates));
        size_t i, n = 0;

        if (!candidates)
                return -ENOMEM;
        json_array_foreach (records, i, record)
                count_under_way(round, record);
        json_array_foreach (records, i, record)
                if (look_at(round, record))
                        candidates[n++] = (struct candidate){.record = record,
                                .vm = inventory_vm(round->manager->inventory, json_text(record, "uid")),
                                .checked = moves_number(record, "checked"),
                                .i = i};
        if (n)
                qsort(candidates, n, sizeof(*candidates), longest_unchecked_first);
        for (i = 0; i < n; i++)
                round->aim->decide(round, candidates[i].record, candidates[i].vm);
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
                .datastore = json_text(data, "datastore"),
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
static int add_newcomers(struct moves_round *round, const json_t *known)
{
        _cleanup_json_ json_t *vms = *round->from ? inventory_vms(round->manager->inventory) : NULL;
        const json_t *left = *round->from ? json_object_get(task_data(round->task), "left") : NULL;
        _cleanup_free_ const json_t **found =
                alloc_array(json_array_size(vms) + json_array_size(left) + 1, sizeof(*found));
        json_t *vm, *item;
        size_t i, n = 0;

        if (!found)
                return -ENOMEM;
        json_array_foreach (vms, i, vm)
                if (!strcmp(json_text(json_status(vm), "host"), round->from) &&
                        !json_object_get(known, json_text(vm, "uid")))
                        found[n++] = vm;
        /* A resumption that failed may have left it on another host. */
        json_array_foreach ((json_t *)left, i, item) {
                const json_t *known_vm = inventory_vm(round->manager->inventory, json_text(item, "uid"));

                if (known_vm && strcmp(json_text(json_status(known_vm), "host"), round->from) != 0 &&
                        !json_object_get(known, json_text(item, "uid")) &&
                        moves_is_suspended_by(known_vm, json_text(item, "suspended_by")))
                        found[n++] = known_vm;
        }
        return n ? moves_add(round->task, found, n) : 0;
}

/* Those of which there is no record yet get one. */
static int welcome(struct moves_round *round)
{
        _cleanup_json_ json_t *known = json_object();
        size_t n_before = json_array_size(records_of(round->task)), i;
        json_t *record;
        int r = known ? 0 : -ENOMEM;

        json_array_foreach (records_of(round->task), i, record)
                if (r == 0)
                        r = json_object_set_new(known, json_text(record, "uid"), json_true());
        if (r == 0)
                r = round->aim->newcomers(round, known);
        if (r < 0)
                return -ENOMEM;
        if (json_array_size(records_of(round->task)) > n_before)
                round->changed = round->decided = true;
        return 0;
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

static const struct moves_aim host_aim = {
        .newcomers = add_newcomers,
        .is_settled = is_settled,
        .decide = decide_or_wait,
        .awaits_arrivals = awaits_arrivals,
};

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

/* Cancelled: what this task has left suspended is given back, too. */
static void turn_back(struct moves_round *round)
{
        json_t *data = task_data(round->task), *item;
        size_t i;

        if (!*round->from || !task_cancel_requested(round->task) ||
                json_is_true(json_object_get(data, "turned_back")))
                return;
        if (json_object_set_new(data, "turned_back", json_true()) < 0)
                round->failed = true;
        (void)json_object_del(data, "ending_ms"); /* as long as after any cancellation */
        json_array_foreach (records_of(round->task), i, item) {
                struct evacuation_progress progress = moves_progress(item);

                if (moves_leaves_suspended(item))
                        moves_set_text(round, item, "outcome", NULL);
                if (json_is_string(json_object_get(item, "outcome")))
                        continue;
                progress.suspended_ms = 0; /* it has as long as the others, and as many tries */
                progress.n_resumes = 0;
                moves_set_progress(round, item, &progress);
        }
        round->changed = round->decided = true;
}

static void give_up(struct moves_round *round, json_t *record)
{
        const json_t *vm = inventory_vm(round->manager->inventory, json_text(record, "uid")),
                     *try = moves_last_try(record);
        bool away = is_away(round, record, vm, standing_of(round, record, vm)),
             resumes = moves_try_does(try, MOVES_RESUME) && moves_try_is_open(try);

        if (resumes)
                moves_set_why(round, record, "its resumption has not ended yet");
        else if (away)
                resumes = true; /* why it was not is known */
        else if (moves_try_does(try, MOVES_STOP) || moves_try_does(try, MOVES_POWER_OFF))
                moves_set_why(round, record, "it is being stopped, which cannot be taken back");
        else if (moves_try_is_open(try))
                moves_set_why(round, record, "its task was cancelled and has not ended yet");
        moves_set_outcome(round, record, resumes && *round->from ? "suspended" : "stays", NULL);
}

/* A resumption that began when all was to end already gets its time, too. */
static bool is_overdue(const struct moves_round *round, const json_t *record, json_int_t since_ms)
{
        if (moves_try_is_open(moves_last_try(record)) && moves_try_does(moves_last_try(record), MOVES_RESUME))
                since_ms = MAX(since_ms, moves_number(record, "begun_ms"));
        return round->spent_ms >= since_ms + CANCEL_MAX_MS;
}

/* Those that were cancelled and do not end: who has them is for their own tasks to find out. What is suspended and waits for its turn is not
 * given up as long as there is one to come. */
static void give_up_waiting(struct moves_round *round)
{
        const json_t *since = json_object_get(task_data(round->task), "ending_ms");
        bool turns = round->crowded || round->cut_short;
        json_t *item;
        size_t i;

        if (!round->ends)
                return;
        if (!since) {
                (void)json_object_set_new(task_data(round->task), "ending_ms", json_integer(round->spent_ms));
                round->changed = round->decided = true;
                return;
        }
        json_array_foreach (records_of(round->task), i, item) {
                if (!json_is_null(json_object_get(item, "outcome")) ||
                        !moves_try_is_open(moves_last_try(item)))
                        continue;
                if (is_overdue(round, item, json_integer_value(since)))
                        give_up(round, item);
                else
                        turns = true;
        }
        json_array_foreach (records_of(round->task), i, item)
                if (!turns && json_is_null(json_object_get(item, "outcome")) &&
                        is_overdue(round, item, json_integer_value(since)))
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
        _cleanup_json_ json_t *reserved = json_object();
        struct moves_round round;
        int r;

        *ret_again_ms = AGAIN_MS;
        round_begin(&round, task, manager);
        round.aim = *round.datastore ? &moves_disks_aim : &host_aim;
        round.changed = json_is_true(json_object_get(task_data(task), "unrecorded"));
        round.decided = json_is_true(json_object_get(task_data(task), "record_now"));
        round.reserved = reserved;
        r = reserved ? welcome(&round) : -ENOMEM;
        if (r >= 0) {
                turn_back(&round);
                r = look_at_all(&round);
        }
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
        return !moves_count(task, NULL) && !round.aim->awaits_arrivals(&round);
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

/* One whose suspending was cancelled, and of which nobody knows that it runs, may be. One that was paused is left to who paused it. */
bool moves_leaves_suspended(const json_t *record)
{
        const char *outcome = json_text(record, "outcome");

        return json_is_string(json_object_get(record, "suspended_by")) &&
               !json_is_true(json_object_get(record, "paused")) &&
               (!strcmp(outcome, "suspended") || !strcmp(outcome, "stays"));
}

/* --- Reports ------------------------------------------------------------------------------------------------------------ */

static const char *const outcomes[] = {"moved", "moved-cold", "suspended", "resumed", "stopped", "off",
        "there", "elsewhere", "gone", "crashed", "stays", NULL};
static const char *const outcomes_of_disks[] = {"moved", "files-stay", "gone", "stays", NULL};

json_t *moves_report(const struct task *task)
{
        const char *const *words = *json_text(task_data(task), "datastore") ? outcomes_of_disks : outcomes;
        json_t *report = json_object(), *vms = json_array(), *item;
        int r = report && vms ? 0 : -ENOMEM;
        size_t i;

        for (; *words && r == 0; words++)
                r = json_object_set_new(report, *words, json_integer((json_int_t)moves_count(task, *words)));
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
