/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/moves.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "cluster/evacuation.h"
#include "io/crash_point.h"
#include "io/pki.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"

#define AT_ONCE_MAX 16 /* tries under way; how many of them the queue lets run is its matter */
#define BUSY_AGAIN_MS 2000
#define AGAIN_MS 500
#define CUT_SHORT_MS 50
#define CANCEL_MAX_MS 60000 /* after that, what was cancelled is reported as it is */
#define STALE_MS 60000      /* a decision to end a guest that was not carried out by then is made again */
#define RECORD_MS 5000      /* what a later manager would find out by itself is recorded so often */

struct round {
        struct task *task;
        struct manager *manager;
        struct evacuation_policy policy;
        const char *from, *to; /* host names; "": none */
        int64_t now_ms;
        bool closed;         /* nothing starts any more */
        bool ends;           /* and what is under way is cancelled */
        const char *closing; /* why */
        json_int_t spent_ms; /* on the whole, while a manager was there; no clock that is set changes it */
        size_t n_active;
        bool cut_short;       /* there was no time on the loop for some checks */
        json_int_t n_checked; /* in all looks: the number of the last check */
        bool changed;         /* to be recorded, some time */
        bool decided;         /* at once: something is to be begun, or is not to be forgotten */
        bool failed;          /* without memory: nothing of it is recorded or done */
};

static json_int_t number_of(const json_t *object, const char *key)
{
        return json_integer_value(json_object_get(object, key));
}

static void set_text(struct round *round, json_t *object, const char *key, const char *text)
{
        round->changed = true;
        if (json_object_set_new(object, key, text ? json_string(text) : json_null()) < 0)
                round->failed = true;
}

/* Why it is not done yet. It names free memory and the like, which are others at each look: not recorded for its own sake. */
static void set_why(struct round *round, json_t *record, const char *why)
{
        if (json_object_set_new(record, "why", why ? json_string(why) : json_null()) < 0)
                round->failed = true;
}

/* Of what is settled the record keeps what the report says: with a thousand of them it is written often. */
static void set_outcome(struct round *round, json_t *record, const char *outcome, const char *to)
{
        static const char *const working[] = {"progress", "n_tries", "checked", "again_unix_ms",
                "end_unix_ms", "begun_epoch", "begun_ms", "held_unix_ms", "was_off"};

        set_text(round, record, "outcome", outcome);
        set_text(round, record, "to", to);
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

static json_t *record_new(const json_t *vm, const char *outcome, const char *to)
{
        return json_pack("{s:s, s:s, s:s?, s:s?, s:n, s:[], s:{}, s:b}", "uid", json_text(vm, "uid"), "name",
                json_text(vm, "name"), "outcome", outcome, "to", to, "why", "tries", "progress", "was_off",
                moves_is_off(vm));
}

int moves_add(struct task *task, const json_t **vms, size_t n)
{
        json_t *records = records_to_add_to(task);

        if (!records)
                return -ENOMEM;
        evacuation_sort(vms, n);
        for (size_t i = 0; i < n; i++)
                if (json_array_append_new(records, record_new(vms[i], NULL, NULL)) < 0)
                        return -ENOMEM;
        return 0;
}

int moves_add_settled(struct task *task, const json_t *vm, const char *outcome, const char *to)
{
        json_t *records = records_to_add_to(task);

        return records && json_array_append_new(records, record_new(vm, outcome, to)) == 0 ? 0 : -ENOMEM;
}

static struct evacuation_progress progress_of(const json_t *record)
{
        const json_t *progress = json_object_get(record, "progress");

        return (struct evacuation_progress){.rank = (unsigned int)number_of(progress, "rank"),
                .n_moves = (unsigned int)number_of(progress, "n_moves"),
                .n_rank_moves = (unsigned int)number_of(progress, "n_rank_moves"),
                .acted = json_is_true(json_object_get(progress, "acted")),
                .since_ms = number_of(progress, "since_ms")};
}

static void set_progress(struct round *round, json_t *record, const struct evacuation_progress *progress)
{
        json_t *json = json_pack("{s:i, s:i, s:i, s:b, s:I}", "rank", (int)progress->rank, "n_moves",
                (int)progress->n_moves, "n_rank_moves", (int)progress->n_rank_moves, "acted", progress->acted,
                "since_ms", (json_int_t)progress->since_ms);

        if (json_equal(json, json_object_get(record, "progress"))) {
                json_decref(json);
                return;
        }
        round->changed = true;
        if (json && json_object_set_new(record, "progress", json) < 0)
                log_debug("no memory for the progress of a move");
}

static json_t *last_try(const json_t *record)
{
        const json_t *tries = json_object_get(record, "tries");

        return json_array_get(tries, json_array_size(tries) - 1);
}

static bool is_open(const json_t *try)
{
        return try && json_is_null(json_object_get(try, "result"));
}

/* Else it ends the guest. */
static bool is_migration(const json_t *try)
{
        return !strcmp(json_text(try, "action"), "migrate");
}

/* --- Tries -------------------------------------------------------------------------------------------------------------- */

/* The same for the same try, whoever asks. */
static void uid_of_try(
        const struct task *task, const char *vm_uid, size_t n, char ret_uuid[static UUID_STRING_SIZE])
{
        char text[128], hash[PKI_FINGERPRINT_SIZE] = "00000000000000000000000000000000";

        snprintf(text, sizeof(text), "%.40s:%.40s:%zu", task_uid(task), vm_uid, n);
        (void)pki_sha256_hex(text, strlen(text), hash);
        snprintf(ret_uuid, UUID_STRING_SIZE, "%.8s-%.4s-4%.3s-8%.3s-%.12s", hash, hash + 8, hash + 13,
                hash + 17, hash + 20);
}

/* The audit entry of a decision is made when the decision is recorded: the log's head moves whenever anything is committed. Until
 * then it is in the data, and so is never lost. */
static void note_decision(
        struct round *round, const json_t *record, const char *action, const char *to, const char *rank)
{
        json_t *data = task_data(round->task), *decisions = json_object_get(data, "decisions");

        if (!decisions) {
                decisions = json_array();
                if (json_object_set_new(data, "decisions", decisions) < 0)
                        round->failed = true;
        }
        if (json_array_append_new(decisions,
                    json_pack("{s:s, s:s, s:s, s:s?, s:s, s:i, s:s?}", "vm", json_text(record, "name"),
                            "task", task_name(round->task), "decision", action, "to", to, "step", rank,
                            "tries", (int)json_array_size(json_object_get(record, "tries")), "cause",
                            json_text_or_null(record, "why"))) < 0)
                round->failed = true;
}

static int audit_decisions(
        struct round *round, json_t *decisions, struct store_batch *batch, struct error **ret_error)
{
        json_t *detail;
        size_t i;
        int r = 0;

        json_array_foreach (decisions, i, detail) {
                _cleanup_free_ char *object = alloc_printf("vm/%s", json_text(detail, "vm"));

                r = !object ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory")
                            : audit_add(round->manager->store, round->manager->clock, batch,
                                      &(struct audit_entry){.who = "system",
                                              .action = "vm.decide",
                                              .object = object,
                                              .why = json_text_or_null(task_data(round->task), "reason"),
                                              .result = "done",
                                              .detail = detail},
                                      ret_error);
                if (r < 0)
                        break;
        }
        return r;
}

/* "result" and "task" stay null until they are known. */
static void begin_try(
        struct round *round, json_t *record, const char *action, const char *to, const char *rank)
{
        json_t *tries = json_object_get(record, "tries");
        char uid[UUID_STRING_SIZE];

        /* Tries that were withdrawn had a number, too. */
        size_t n = (size_t)number_of(record, "n_tries");

        uid_of_try(round->task, json_text(record, "uid"), n, uid);
        note_decision(round, record, action, to, rank);
        if (json_object_set_new(record, "n_tries", json_integer((json_int_t)n + 1)) < 0 ||
                json_object_set_new(record, "begun_epoch", json_integer((json_int_t)round->manager->epoch)) <
                        0 ||
                json_object_set_new(record, "begun_ms", json_integer(round->spent_ms)) < 0 ||
                json_array_append_new(
                        tries, json_pack("{s:s, s:s, s:s?, s:s, s:n, s:n, s:n}", "action", action, "step",
                                       rank, "to", to, "task_uid", uid, "task", "result", "why")) < 0)
                round->failed = true;
        round->changed = round->decided = true;
        round->n_active++;
}

/* What its task is to be given; NULL without memory. */
static json_t *input_of(const struct round *round, const json_t *try)
{
        const char *action = json_text(try, "action");
        json_t *input;

        if (!strcmp(action, "migrate")) {
                input = json_deep_copy(json_object_get(task_data(round->task), "options"));
                if (input && json_text_or_null(try, "to") &&
                        json_object_set_new(input, "to", json_string(json_text(try, "to"))) < 0) {
                        json_decref(input);
                        return NULL;
                }
                return input ?: json_object();
        }
        for (size_t i = 0; i < round->policy.n; i++)
                if (round->policy.steps[i].fallback == EVACUATION_STOP && !strcmp(action, "stop"))
                        return json_pack("{s:b, s:I}", "force", 0, "timeout_ms",
                                (json_int_t)MIN(round->policy.steps[i].limit_ms, (uint64_t)3600000));
        return json_pack("{s:b}", "force", 1);
}

/* Somebody else works on the VM: as if it had not been tried. */
static void withdraw_try(struct round *round, json_t *record)
{
        json_t *tries = json_object_get(record, "tries");
        struct evacuation_progress progress = progress_of(record);

        if (is_migration(last_try(record))) {
                progress.n_moves -= progress.n_moves > 0;
                progress.n_rank_moves -= progress.n_rank_moves > 0;
        } else
                progress.acted = false;
        set_progress(round, record, &progress);
        json_array_remove(tries, json_array_size(tries) - 1);
        (void)json_object_set_new(record, "again_unix_ms", json_integer(round->now_ms + BUSY_AGAIN_MS));
        round->changed = true;
}

/* To end a guest is decided by what is so now: after an outage some host may take it. Then its policy begins anew. */
static bool is_stale(const struct round *round, const json_t *record, const json_t *try)
{
        return !is_migration(try) && json_object_get(record, "begun_epoch") &&
               (number_of(record, "begun_epoch") != (json_int_t)round->manager->epoch ||
                       round->spent_ms >= number_of(record, "begun_ms") + STALE_MS);
}

static void decide_anew(struct round *round, json_t *record)
{
        struct evacuation_progress progress;

        withdraw_try(round, record);
        progress = progress_of(record);
        progress = (struct evacuation_progress){.n_moves = progress.n_moves};
        set_progress(round, record, &progress);
}

/* Found, though not noted: submitted by a look whose end was not recorded. 1, 0, or a negative value while nobody can tell. */
static int find_submitted(struct round *round, json_t *try)
{
        const char *uid = json_text(try, "task_uid");
        const struct task *child = task_find(round->manager->tasks, uid);
        _cleanup_json_ json_t *doc = NULL;
        int r;

        if (json_is_string(json_object_get(try, "task")))
                return 1;
        if (child) {
                set_text(round, try, "task", task_name(child));
                return 1;
        }
        r = store_get(round->manager->store, "task", uid, &doc, NULL);
        if (r == -ENOENT)
                return 0;
        if (r >= 0)
                set_text(round, try, "task", json_text(doc, "name"));
        return r < 0 ? r : 1;
}

static void submit_try(struct round *round, json_t *record, json_t *try)
{
        bool migrates = is_migration(try);
        const char *priority =
                json_text_or_null(json_object_get(task_data(round->task), "options"), "priority");
        _cleanup_free_ char *held = alloc_printf("vm/%s", json_text(record, "uid"));
        _cleanup_free_ char *object = alloc_printf("vm/%s", json_text(record, "name"));
        _cleanup_json_ json_t *input = input_of(round, try), *doc = NULL;
        _cleanup_json_ json_t *data = json_pack("{s:s, s:s, s:s*}", "vm_uid", json_text(record, "uid"),
                "parent", task_uid(round->task), "to", json_text_or_null(try, "to"));
        _cleanup_error_ struct error *error = NULL;
        int r;

        if (!held || !object || !input || !data || find_submitted(round, try))
                return;
        if (is_stale(round, record, try)) {
                decide_anew(round, record);
                return;
        }
        r = task_submit(round->manager->tasks,
                &(struct task_request){.uid = json_text(try, "task_uid"),
                        .action = migrates ? "vm.migrate" : "vm.stop",
                        .object = object,
                        .objects = (const char *const[]){held, NULL},
                        .by = "system",
                        .why = json_text_or_null(task_data(round->task), "reason"),
                        .priority = migrates ? priority : NULL,
                        .input = input,
                        .data = data},
                NULL, &doc, &error);
        if (r >= 0) {
                set_text(round, try, "task", json_text(doc, "name"));
                crash_point("moves-submitted");
        } else if (error && error->code == ERROR_BUSY) {
                set_why(round, record, error_message(error));
                withdraw_try(round, record);
        } else
                log_warning("task %s: cannot begin with %s: %s", task_name(round->task), object,
                        error_message(error));
}

static void end_try(struct round *round, json_t *record, json_t *try, const json_t *doc)
{
        const json_t *status = json_status(doc), *problem = json_object_get(status, "error");
        const char *why = json_text_or_null(problem, "detail");

        set_text(round, try, "task", json_text(doc, "name"));
        set_text(round, try, "result", json_text(status, "state"));
        set_text(round, try, "why", why);
        if (why)
                set_why(round, record, why);
        if (!*json_text(try, "to") && *json_text(json_object_get(status, "result"), "to"))
                set_text(round, try, "to", json_text(json_object_get(status, "result"), "to"));
        (void)json_object_set_new(record, "end_unix_ms", json_integer(round->now_ms));
        if (strcmp(json_text(status, "state"), "succeeded")) {
                const json_t *data = json_object_get(json_object_get(doc, "internal"), "data");

                if (!*json_text(try, "to"))
                        set_text(round, try, "to",
                                json_text_or_null(data, "to_name") ?: json_text_or_null(data, "to"));
        }
}

/* One that has begun may go on to its end when a window closes. A guest that was asked to power off will do so, whether somebody
 * waits for it or not: a report that it stays would be wrong soon. */
static void cancel_try(struct round *round, const json_t *try)
{
        const struct task *child = task_find(round->manager->tasks, json_text(try, "task_uid"));
        _cleanup_free_ char *object = child ? alloc_printf("task/%s", task_name(child)) : NULL;
        _cleanup_error_ struct error *error = NULL;

        if (!child || task_cancel_requested(child) ||
                !(task_queued(child) || (round->ends && task_running(child) && is_migration(try))))
                return;
        if (task_cancel(round->manager->tasks, task_uid(child),
                    &(struct audit_entry){.who = "system",
                            .action = "task.cancel",
                            .object = object,
                            .why = round->closing,
                            .result = "accepted"},
                    &error) < 0)
                log_debug("task %s: %s is not cancelled: %s", task_name(round->task), task_name(child),
                        error_message(error));
}

/* True while it is under way. */
static bool follow_try(struct round *round, json_t *record, json_t *try)
{
        const struct task *child = task_find(round->manager->tasks, json_text(try, "task_uid"));
        _cleanup_json_ json_t *doc = NULL;
        int r;

        (void)find_submitted(round, try);
        if (child && (task_running(child) || task_queued(child)))
                return true;
        r = store_get(round->manager->store, "task", json_text(try, "task_uid"), &doc, NULL);
        if (r >= 0 && json_is_string(json_object_get(json_status(doc), "finished"))) {
                end_try(round, record, try, doc);
                return false;
        }
        if (r == -ENOENT && round->closed) {
                withdraw_try(round, record); /* it was never submitted */
                return false;
        }
        return true;
}

/* --- One virtual machine ------------------------------------------------------------------------------------------------ */

static bool has_failed_to(const json_t *record, const char *host)
{
        json_t *try;
        size_t i;

        json_array_foreach (json_object_get(record, "tries"), i, try)
                if (!strcmp(json_text(try, "to"), host) && strcmp(json_text(try, "result"), "succeeded"))
                        return true;
        return false;
}

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

/* Where it could go now. *ret_other: the best host that it has not failed to go to; in the report. */
static bool look_for_hosts(struct round *round, json_t *record, const json_t *vm, json_t **ret_report,
        bool *ret_fits, const char **ret_other)
{
        _cleanup_error_ struct error *error = NULL;
        uint64_t began_ns = clock_monotonic_ns();
        json_t *item;
        size_t i;
        int r;

        *ret_other = NULL;
        if (round->cut_short || !loop_share_open(&round->manager->share, round->task)) {
                round->cut_short = true;
                return false;
        }
        (void)json_object_set_new(record, "checked", json_integer(++round->n_checked));
        r = operation_migrate_check(
                round->manager, vm, *round->to ? round->to : NULL, round->task, ret_report, &error);
        loop_share_spend(&round->manager->share, clock_monotonic_ns() - began_ns);
        if (r < 0) {
                set_why(round, record, error_message(error));
                *ret_fits = false;
                return true;
        }
        *ret_fits = json_is_true(json_object_get(*ret_report, "ok"));
        if (!*ret_fits)
                set_why(round, record, moves_first_cause(json_object_get(*ret_report, "checks")));
        if (*round->to)
                return true;
        json_array_foreach (json_object_get(*ret_report, "ranking"), i, item)
                if (!*ret_other && json_is_true(json_object_get(item, "ok")) &&
                        !has_failed_to(record, json_text(item, "host")))
                        *ret_other = json_text(item, "host");
        return true;
}

/* Stopped by the policy; or by somebody, or off from the beginning; or crashed meanwhile. */
static const char *outcome_of_off(const json_t *vm, const json_t *record)
{
        const json_t *try = last_try(record);

        if (try && !is_migration(try))
                return "stopped";
        return !strcmp(json_text(json_status(vm), "power"), "crashed") &&
                               !json_is_true(json_object_get(record, "was_off"))
                       ? "crashed"
                       : "off";
}

/* Its outcome, if there is nothing to be done about it (any more). What its own task says of its end counts: the inventory may not
 * have heard of it yet. */
static bool is_settled(struct round *round, json_t *record, const json_t *vm)
{
        const char *host = json_text(json_status(vm), "host");
        const json_t *try = last_try(record);
        bool done = try && !strcmp(json_text(try, "result"), "succeeded");

        if (!vm)
                set_outcome(round, record, "gone", NULL);
        else if (moves_is_off(vm))
                set_outcome(round, record, outcome_of_off(vm, record), NULL);
        else if (*round->from && *host && strcmp(host, round->from))
                set_outcome(round, record, "moved", host);
        else if (*round->to && !strcmp(host, round->to))
                set_outcome(round, record, try ? "moved" : "there", host);
        else if (done && is_migration(try))
                set_outcome(round, record, "moved", *json_text(try, "to") ? json_text(try, "to") : host);
        else if (done)
                set_outcome(round, record, "stopped", NULL);
        else
                return false;
        return true;
}

static void leave(struct round *round, json_t *record)
{
        if (round->closed && !json_array_size(json_object_get(record, "tries")))
                set_why(round, record, round->closing);
        note_decision(
                round, record, "stays", NULL, evacuation_rank_to_string(&round->policy, round->policy.n + 1));
        set_outcome(round, record, "stays", NULL);
        round->decided = true;
}

static void act(
        struct round *round, json_t *record, enum evacuation_act what, const char *other, unsigned int rank)
{
        const char *word = evacuation_rank_to_string(&round->policy, rank);

        switch (what) {
        case EVACUATION_ACT_WAIT:
                break;
        case EVACUATION_ACT_MIGRATE:
                begin_try(round, record, "migrate", *round->to ? round->to : NULL, word);
                break;
        case EVACUATION_ACT_MIGRATE_OTHER:
                begin_try(round, record, "migrate", other, word);
                break;
        case EVACUATION_ACT_STOP:
                begin_try(round, record, "stop", NULL, word);
                break;
        case EVACUATION_ACT_POWER_OFF:
                begin_try(round, record, "power-off", NULL, word);
                break;
        case EVACUATION_ACT_LEAVE:
                leave(round, record);
                break;
        }
}

/* Another task works on it: that one's end is waited for, and the policy's time stands still. True when there is one. */
static bool is_held(struct round *round, json_t *record)
{
        _cleanup_free_ char *object = alloc_printf("vm/%s", json_text(record, "uid")), *why = NULL;
        const struct task *holder = object ? task_holding(round->manager->tasks, object) : NULL;
        struct evacuation_progress progress = progress_of(record);
        json_int_t since_ms = number_of(record, "held_unix_ms");

        if (holder) {
                why = alloc_printf("task %s (%s) works on it", task_name(holder), task_action(holder));
                set_why(round, record, why);
                if (!since_ms)
                        (void)json_object_set_new(record, "held_unix_ms", json_integer(round->now_ms));
                return true;
        }
        if (since_ms) {
                (void)json_object_del(record, "held_unix_ms");
                progress.since_ms += progress.since_ms ? MAX(round->now_ms - since_ms, (json_int_t)0) : 0;
                set_progress(round, record, &progress);
        }
        return false;
}

/* Not when the clock was set back meanwhile. */
static bool is_too_soon(const struct round *round, const json_t *record)
{
        json_int_t again_ms = number_of(record, "again_unix_ms");

        return again_ms > round->now_ms && again_ms <= round->now_ms + BUSY_AGAIN_MS;
}

static void decide(struct round *round, json_t *record, const json_t *vm)
{
        const char *power = json_text(json_status(vm), "power"), *other = NULL;
        struct evacuation_progress progress = progress_of(record);
        struct evacuation_facts facts = {.now_ms = round->now_ms,
                .last_end_ms = number_of(record, "end_unix_ms"),
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
        set_progress(round, record, &progress);
        if (what == EVACUATION_ACT_WAIT)
                /* Not at each look: with many hosts that takes a while. */
                (void)json_object_set_new(
                        record, "again_unix_ms", json_integer(round->now_ms + BUSY_AGAIN_MS));
        act(round, record, what, other, progress.rank);
}

/* True when something is to be decided about it. */
static bool look_at(struct round *round, json_t *record)
{
        const json_t *vm = inventory_vm(round->manager->inventory, json_text(record, "uid"));
        json_t *try = last_try(record);

        if (json_is_string(json_object_get(record, "outcome")))
                return false;
        if (is_open(try) && follow_try(round, record, try))
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

static int look_at_all(struct round *round)
{
        json_t *records = records_of(round->task), *record;
        _cleanup_free_ struct candidate *candidates =
                alloc_array(json_array_size(records) + 1, sizeof(*candidates));
        size_t i, n = 0;

        if (!candidates)
                return -ENOMEM;
        json_array_foreach (records, i, record) {
                round->n_active += is_open(last_try(record));
                round->n_checked = MAX(round->n_checked, number_of(record, "checked"));
        }
        json_array_foreach (records, i, record)
                if (look_at(round, record))
                        candidates[n++] = (struct candidate){.record = record,
                                .vm = inventory_vm(round->manager->inventory, json_text(record, "uid")),
                                .checked = number_of(record, "checked"),
                                .i = i};
        if (n)
                qsort(candidates, n, sizeof(*candidates), longest_unchecked_first);
        for (i = 0; i < n; i++)
                decide(round, candidates[i].record, candidates[i].vm);
        return 0;
}

/* --- All of them -------------------------------------------------------------------------------------------------------- */

/* Milliseconds that the task has been at it, by the clock that only goes forward: those of this manager's term, and of the terms
 * before, which are in the data. */
static json_int_t spend(struct task *task, const struct manager *manager)
{
        json_t *data = task_data(task);
        json_int_t elapsed_ms = (json_int_t)task_step_elapsed_ms(task), epoch = (json_int_t)manager->epoch,
                   earlier_ms = number_of(data, "spent_earlier_ms");

        if (number_of(data, "spent_epoch") != epoch) {
                earlier_ms += number_of(data, "spent_ms");
                (void)json_object_set_new(data, "spent_earlier_ms", json_integer(earlier_ms));
                (void)json_object_set_new(data, "spent_epoch", json_integer(epoch));
        }
        (void)json_object_set_new(data, "spent_ms", json_integer(elapsed_ms));
        return earlier_ms + elapsed_ms;
}

static void round_begin(struct round *round, struct task *task, struct manager *manager)
{
        json_t *data = task_data(task);
        json_int_t before_ms = number_of(data, "start_before_unix_ms"),
                   give_up_ms = number_of(data, "give_up_ms");

        *round = (struct round){.task = task,
                .manager = manager,
                .from = json_text(data, "from"),
                .to = json_text(data, "to"),
                .now_ms = clock_unix_ms(manager->clock),
                .spent_ms = spend(task, manager)};
        if (task_cancel_requested(task))
                round->closing = "the task was cancelled";
        else if (evacuation_policy_read(json_object_get(data, "policy"), true, &round->policy, NULL) < 0)
                round->closing = "this version of the manager does not know its policy";
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
static int add_newcomers(struct round *round)
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
static bool awaits_arrivals(const struct round *round)
{
        const json_t *host = *round->from ? inventory_host(round->manager->inventory, round->from) : NULL;
        struct arrivals arrivals = {.host_uid = json_text(host, "uid")};

        if (host && !round->closed)
                task_each(round->manager->tasks, count_arrival, &arrivals);
        return arrivals.n > 0;
}

/* What this look has decided, with its audit entries. */
static int record(struct round *round)
{
        json_t *data = task_data(round->task);
        _cleanup_json_ json_t *decisions = json_incref(json_object_get(data, "decisions"));
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        int r;

        r = audit_decisions(round, decisions, &batch, &error);
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

static void say(const struct round *round)
{
        size_t n = json_array_size(records_of(round->task)), n_left = moves_count(round->task, NULL);

        task_progress(round->task,
                json_pack("{s:i, s:o}", "percent", n ? (int)((n - n_left) * 100 / n) : 100, "message",
                        json_sprintf("%zu of %zu virtual machines are settled, %zu are under way", n - n_left,
                                n, round->n_active)));
}

/* Those that were cancelled and do not end: who has them is for their own tasks to find out. */
static void give_up_waiting(struct round *round)
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
                if (json_is_null(json_object_get(item, "outcome"))) {
                        const json_t *try = last_try(item);

                        set_why(round, item,
                                try && !is_migration(try) ? "it is being stopped, which cannot be taken back"
                                                          : "its task was cancelled and has not ended yet");
                        set_outcome(round, item, "stays", NULL);
                }
}

/* What was recorded is done. */
static void carry_out(struct round *round)
{
        json_t *item;
        size_t i;

        json_array_foreach (records_of(round->task), i, item) {
                json_t *try = last_try(item);

                if (!is_open(try) || json_is_string(json_object_get(item, "outcome")))
                        continue;
                if (round->closed)
                        cancel_try(round, try);
                else if (json_is_null(json_object_get(try, "task"))) {
                        submit_try(round, item, try);
                        /* The names of the tasks, or what was withdrawn. */
                        (void)json_object_set_new(task_data(round->task), "unrecorded", json_true());
                }
        }
}

/* The whole document is written each time, however little has changed. */
static bool is_to_be_recorded(const struct round *round)
{
        json_int_t recorded_ms = number_of(task_data(round->task), "recorded_ms");

        return round->decided || (round->changed && (round->spent_ms >= recorded_ms + RECORD_MS ||
                                                            round->spent_ms < recorded_ms));
}

bool moves_run(struct task *task, struct manager *manager, uint64_t *ret_again_ms)
{
        struct round round;
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

/* --- Reports ------------------------------------------------------------------------------------------------------------ */

static const char *const outcomes[] = {
        "moved", "stopped", "off", "there", "elsewhere", "gone", "crashed", "stays"};

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
