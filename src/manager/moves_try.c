/* SPDX-License-Identifier: Apache-2.0 */

/* Tries: what moves.c has decided about a virtual machine, done by a task of its own. What differs between them is in one table; an
 * action that is not in it (of a later version of the manager) is never carried out. */

#include "manager/moves_private.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/crash_point.h"
#include "io/pki.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/manager.h"

#define STALE_MS \
        60000 /* a decision to suspend or end a guest that was not carried out by then is made again */
#define STOP_TIMEOUT_MAX_MS 3600000

json_int_t moves_number(const json_t *object, const char *key)
{
        return json_integer_value(json_object_get(object, key));
}

void moves_set_text(struct moves_round *round, json_t *object, const char *key, const char *text)
{
        round->changed = true;
        if (json_object_set_new(object, key, text ? json_string(text) : json_null()) < 0)
                round->failed = true;
}

void moves_set_why(struct moves_round *round, json_t *record, const char *why)
{
        if (json_object_set_new(record, "why", why ? json_string(why) : json_null()) < 0)
                round->failed = true;
}

struct evacuation_progress moves_progress(const json_t *record)
{
        const json_t *progress = json_object_get(record, "progress");

        return (struct evacuation_progress){.rank = (unsigned int)moves_number(progress, "rank"),
                .n_moves = (unsigned int)moves_number(progress, "n_moves"),
                .n_rank_moves = (unsigned int)moves_number(progress, "n_rank_moves"),
                .acted = json_is_true(json_object_get(progress, "acted")),
                .since_ms = moves_number(progress, "since_ms"),
                .n_resumes = (unsigned int)moves_number(progress, "n_resumes"),
                .suspended_ms = moves_number(progress, "suspended_ms"),
                .lost_race = json_is_true(json_object_get(progress, "lost_race"))};
}

void moves_set_progress(struct moves_round *round, json_t *record, const struct evacuation_progress *progress)
{
        json_t *json = json_pack("{s:i, s:i, s:i, s:b, s:I, s:i, s:I, s:b}", "rank", (int)progress->rank,
                "n_moves", (int)progress->n_moves, "n_rank_moves", (int)progress->n_rank_moves, "acted",
                progress->acted, "since_ms", (json_int_t)progress->since_ms, "n_resumes",
                (int)progress->n_resumes, "suspended_ms", (json_int_t)progress->suspended_ms, "lost_race",
                progress->lost_race);

        if (json_equal(json, json_object_get(record, "progress"))) {
                json_decref(json);
                return;
        }
        round->changed = true;
        if (json && json_object_set_new(record, "progress", json) < 0)
                log_debug("no memory for the progress of a move");
}

json_t *moves_last_try(const json_t *record)
{
        const json_t *tries = json_object_get(record, "tries");

        return json_array_get(tries, json_array_size(tries) - 1);
}

bool moves_try_is_open(const json_t *try)
{
        return try && json_is_null(json_object_get(try, "result"));
}

/* --- Tries -------------------------------------------------------------------------------------------------------------- */

static json_t *input_migrate(const struct moves_round *round, const json_t *try)
{
        const char *to = json_text_or_null(try, "to");
        json_t *input = json_deep_copy(json_object_get(task_data(round->task), "options")) ?: json_object();

        if (input && to && json_object_set_new(input, "to", json_string(to)) < 0) {
                json_decref(input);
                return NULL;
        }
        return input;
}

static json_t *input_suspend(const struct moves_round *round, const json_t *try)
{
        return json_object();
}

static json_t *input_resume(const struct moves_round *round, const json_t *try)
{
        return json_pack("{s:s*}", "host", json_text_or_null(try, "to"));
}

static json_t *input_stop(const struct moves_round *round, const json_t *try)
{
        for (size_t i = 0; i < round->policy.n; i++)
                if (round->policy.steps[i].fallback == EVACUATION_STOP)
                        return json_pack("{s:b, s:I}", "force", 0, "timeout_ms",
                                (json_int_t)MIN(
                                        round->policy.steps[i].limit_ms, (uint64_t)STOP_TIMEOUT_MAX_MS));
        return json_pack("{s:b}", "force", 0);
}

static json_t *input_power_off(const struct moves_round *round, const json_t *try)
{
        return json_pack("{s:b}", "force", 1);
}

static json_t *input_disks(const struct moves_round *round, const json_t *try)
{
        json_t *input = json_deep_copy(json_object_get(task_data(round->task), "options")) ?: json_object();

        if (input && json_object_set(input, "to_datastores", json_object_get(try, "disks")) < 0) {
                json_decref(input);
                return NULL;
        }
        return input;
}

static const struct {
        const char *word;
        const char *task; /* its kind */
        json_t *(*input)(
                const struct moves_round *round, const json_t *try); /* the caller's; NULL without memory */
        bool queued;                                                 /* has a priority in the queue */
        bool cancellable;                                            /* also when it runs */
        bool ages;    /* a decision that hits the guest: after an outage it is made again */
        bool goes_on; /* is submitted though nothing starts any more: the guest is off until then */
        const char *decided, *submitted; /* crash points of its own: it is recorded, and its task submitted */
} actions[] = {
        [MOVES_MIGRATE] = {"migrate", "vm.migrate", input_migrate, .queued = true, .cancellable = true},
        [MOVES_SUSPEND] = {"suspend", "vm.suspend", input_suspend, .cancellable = true, .ages = true,
                .decided = "moves-suspend-decided", .submitted = "moves-suspend-submitted"},
        [MOVES_RESUME] = {"resume", "vm.resume", input_resume, .goes_on = true,
                .decided = "moves-resume-decided", .submitted = "moves-resume-submitted"},
        [MOVES_STOP] = {"stop", "vm.stop", input_stop, .ages = true},
        [MOVES_POWER_OFF] = {"power-off", "vm.stop", input_power_off, .ages = true},
        [MOVES_MOVE_DISKS] = {"move-disks", "vm.migrate-disks", input_disks, .queued = true,
                .cancellable = true},
};
static_assert(ARRAY_SIZE(actions) == N_MOVES_ACTIONS, "each action can be carried out");

/* N_MOVES_ACTIONS: none that is known here. */
static enum moves_action action_of(const json_t *try)
{
        const char *word = json_text(try, "action");
        size_t i = 0;

        while (i < N_MOVES_ACTIONS && strcmp(actions[i].word, word) != 0)
                i++;
        return (enum moves_action)i;
}

bool moves_try_does(const json_t *try, enum moves_action action)
{
        return try && action_of(try) == action;
}

bool moves_try_succeeded(const json_t *try)
{
        return try && !strcmp(json_text(try, "result"), "succeeded");
}

bool moves_try_is_placed(const struct moves_round *round, const json_t *try)
{
        const struct task *child = task_find(round->manager->tasks, json_text(try, "task_uid"));

        return child && *json_text(task_data(child), "host_uid");
}

bool moves_has_failed_to(const json_t *record, enum moves_action action, const char *host)
{
        json_t *try;
        size_t i;

        json_array_foreach (json_object_get(record, "tries"), i, try)
                if (moves_try_does(try, action) && !strcmp(json_text(try, "to"), host) &&
                        !moves_try_succeeded(try))
                        return true;
        return false;
}

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
void moves_note_decision(
        struct moves_round *round, const json_t *record, const char *action, const char *to, const char *rank)
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

int moves_audit_decisions(
        struct moves_round *round, json_t *decisions, struct store_batch *batch, struct error **ret_error)
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

void moves_try_begin(
        struct moves_round *round, json_t *record, enum moves_action action, const char *to, const char *rank)
{
        json_t *tries = json_object_get(record, "tries");
        char uid[UUID_STRING_SIZE];

        /* Tries that were withdrawn had a number, too. */
        size_t n = (size_t)moves_number(record, "n_tries");

        uid_of_try(round->task, json_text(record, "uid"), n, uid);
        moves_note_decision(round, record, actions[action].word, to, rank);
        if (json_object_set_new(record, "n_tries", json_integer((json_int_t)n + 1)) < 0 ||
                json_object_set_new(record, "begun_epoch", json_integer((json_int_t)round->manager->epoch)) <
                        0 ||
                json_object_set_new(record, "begun_ms", json_integer(round->spent_ms)) < 0 ||
                json_array_append_new(tries,
                        json_pack("{s:s, s:s, s:s?, s:s, s:n, s:n, s:n}", "action", actions[action].word,
                                "step", rank, "to", to, "task_uid", uid, "task", "result", "why")) < 0)
                round->failed = true;
        if (action == MOVES_SUSPEND)
                moves_set_text(round, record, "suspended_by", uid);
        round->changed = round->decided = true;
        round->n_active++;
}

/* Somebody else works on the VM: as if it had not been tried. */
static void withdraw_try(struct moves_round *round, json_t *record)
{
        json_t *tries = json_object_get(record, "tries");
        struct evacuation_progress progress = moves_progress(record);

        if (moves_try_does(moves_last_try(record), MOVES_MIGRATE) ||
                moves_try_does(moves_last_try(record), MOVES_MOVE_DISKS)) {
                progress.n_moves -= progress.n_moves > 0;
                progress.n_rank_moves -= progress.n_rank_moves > 0;
        } else if (moves_try_does(moves_last_try(record), MOVES_RESUME))
                progress.n_resumes -= progress.n_resumes > 0;
        else
                progress.acted = false;
        if (moves_try_does(moves_last_try(record), MOVES_SUSPEND))
                (void)json_object_del(record, "suspended_by");
        moves_set_progress(round, record, &progress);
        json_array_remove(tries, json_array_size(tries) - 1);
        (void)json_object_set_new(record, "again_unix_ms", json_integer(round->now_ms + MOVES_BUSY_AGAIN_MS));
        round->changed = true;
}

/* To suspend or end a guest is decided by what is so now: after an outage some host may take it. Then its policy begins anew. */
static bool is_stale(const struct moves_round *round, const json_t *record, const json_t *try)
{
        return actions[action_of(try)].ages && json_object_get(record, "begun_epoch") &&
               (moves_number(record, "begun_epoch") != (json_int_t)round->manager->epoch ||
                       round->spent_ms >= moves_number(record, "begun_ms") + STALE_MS);
}

static void decide_anew(struct moves_round *round, json_t *record)
{
        struct evacuation_progress progress;

        withdraw_try(round, record);
        progress = moves_progress(record);
        progress = (struct evacuation_progress){.n_moves = progress.n_moves, .n_resumes = progress.n_resumes};
        moves_set_progress(round, record, &progress);
}

/* Found, though not noted: submitted by a look whose end was not recorded. 1, 0, or a negative value while nobody can tell. */
static int find_submitted(struct moves_round *round, json_t *try)
{
        const char *uid = json_text(try, "task_uid");
        const struct task *child = task_find(round->manager->tasks, uid);
        _cleanup_json_ json_t *doc = NULL;
        int r;

        if (json_is_string(json_object_get(try, "task")))
                return 1;
        if (child) {
                moves_set_text(round, try, "task", task_name(child));
                return 1;
        }
        r = store_get(round->manager->store, "task", uid, &doc, NULL);
        if (r == -ENOENT)
                return 0;
        if (r >= 0)
                moves_set_text(round, try, "task", json_text(doc, "name"));
        return r < 0 ? r : 1;
}

/* The host that its task is about, for the queue; NULL: none so far. */
static const char *host_of_try(const struct moves_round *round, const json_t *record, const json_t *try)
{
        const json_t *vm = inventory_vm(round->manager->inventory, json_text(record, "uid"));

        return moves_try_does(try, MOVES_MOVE_DISKS) ? json_text(json_status(vm), "host")
                                                     : json_text_or_null(try, "to");
}

static bool is_suspended(const struct moves_round *round, const json_t *record)
{
        const json_t *vm = inventory_vm(round->manager->inventory, json_text(record, "uid"));

        return !strcmp(json_text(json_status(vm), "power"), "suspended");
}

/* A decision may be recorded some time after it was made: what others have suspended or stopped meanwhile is theirs. */
static bool is_off(const struct moves_round *round, const json_t *record)
{
        const json_t *vm = inventory_vm(round->manager->inventory, json_text(record, "uid"));

        return vm && moves_is_off(vm);
}

void moves_try_submit(struct moves_round *round, json_t *record, json_t *try)
{
        enum moves_action action = action_of(try);
        const char *priority =
                json_text_or_null(json_object_get(task_data(round->task), "options"), "priority");
        _cleanup_free_ char *held = alloc_printf("vm/%s", json_text(record, "uid"));
        _cleanup_free_ char *object = alloc_printf("vm/%s", json_text(record, "name"));
        _cleanup_json_ json_t *input = action < N_MOVES_ACTIONS ? actions[action].input(round, try) : NULL,
                              *doc = NULL;
        _cleanup_json_ json_t *data = json_pack("{s:s, s:s, s:s*}", "vm_uid", json_text(record, "uid"),
                "parent", task_uid(round->task), "to", host_of_try(round, record, try));
        _cleanup_error_ struct error *error = NULL;
        int r;

        if (!held || !object || !input || !data || (round->closed && !actions[action].goes_on) ||
                find_submitted(round, try))
                return;
        if (is_stale(round, record, try)) {
                decide_anew(round, record);
                return;
        }
        if (action == MOVES_RESUME ? !is_suspended(round, record)
                                   : actions[action].ages && is_off(round, record)) {
                withdraw_try(round, record);
                return;
        }
        if (actions[action].decided)
                crash_point(actions[action].decided);
        r = task_submit(round->manager->tasks,
                &(struct task_request){.uid = json_text(try, "task_uid"),
                        .action = actions[action].task,
                        .object = object,
                        .objects = (const char *const[]){held, NULL},
                        .by = "system",
                        .why = json_text_or_null(task_data(round->task), "reason"),
                        .priority = actions[action].queued ? priority : NULL,
                        .input = input,
                        .data = data},
                NULL, &doc, &error);
        if (r >= 0) {
                moves_set_text(round, try, "task", json_text(doc, "name"));
                crash_point(actions[action].submitted ?: "moves-submitted");
        } else if (error && error->code == ERROR_BUSY) {
                moves_set_why(round, record, error_message(error));
                withdraw_try(round, record);
        } else
                log_warning("task %s: cannot begin with %s: %s", task_name(round->task), object,
                        error_message(error));
}

/* A resumption that failed (data: of its task). Another one had the room before its host was chosen: that says nothing of the host, and the
 * time goes on. Else the time begins anew: how long it took is nobody's patience. */
static void end_resumption(struct moves_round *round, json_t *record, const json_t *data)
{
        struct evacuation_progress progress;

        if (*json_text(data, "host_uid")) {
                progress = moves_progress(record);
                progress.suspended_ms = 0;
        } else {
                withdraw_try(round, record);
                progress = moves_progress(record);
                progress.lost_race = true;
        }
        moves_set_progress(round, record, &progress);
}

static void end_try(struct moves_round *round, json_t *record, json_t *try, const json_t *doc)
{
        const json_t *status = json_status(doc), *problem = json_object_get(status, "error");
        const char *why = json_text_or_null(problem, "detail");

        moves_set_text(round, try, "task", json_text(doc, "name"));
        moves_set_text(round, try, "result", json_text(status, "state"));
        moves_set_text(round, try, "why", why);
        if (why)
                moves_set_why(round, record, why);
        if (!*json_text(try, "to") && *json_text(json_object_get(status, "result"), "to"))
                moves_set_text(round, try, "to", json_text(json_object_get(status, "result"), "to"));
        (void)json_object_set_new(record, "end_unix_ms", json_integer(round->now_ms));
        if (strcmp(json_text(status, "state"), "succeeded")) {
                const json_t *data = json_object_get(json_object_get(doc, "internal"), "data");

                if (!*json_text(try, "to"))
                        moves_set_text(round, try, "to",
                                json_text_or_null(data, "to_name") ?: json_text_or_null(data, "to"));
                if (moves_try_does(try, MOVES_RESUME) && !strcmp(json_text(status, "state"), "failed"))
                        end_resumption(round, record, data);
        }
}

void moves_try_cancel(struct moves_round *round, const json_t *try)
{
        const struct task *child = task_find(round->manager->tasks, json_text(try, "task_uid"));
        _cleanup_free_ char *object = child ? alloc_printf("task/%s", task_name(child)) : NULL;
        _cleanup_error_ struct error *error = NULL;

        enum moves_action action = action_of(try);

        if (!child || task_cancel_requested(child) || action == N_MOVES_ACTIONS ||
                !(task_queued(child) ? !actions[action].goes_on
                                     : round->ends && task_running(child) && actions[action].cancellable))
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

bool moves_try_follow(struct moves_round *round, json_t *record, json_t *try)
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
        if (r == -ENOENT && round->closed && !moves_try_does(try, MOVES_RESUME)) {
                withdraw_try(round, record); /* it was never submitted */
                return false;
        }
        return true;
}
