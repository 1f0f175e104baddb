/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/schedules.h"

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
#include "manager/moves_plan.h"
#include "manager/operations.h"
#include "manager/schedule_spec.h"

#define LOOK_MAX_MS 5000     /* a clock that is set is noticed by then */
#define AGAIN_MS 1000        /* the store did not take it */
#define ZONES_AGAIN_MS 60000 /* the files of the time zones are looked at */
#define VMS_MAX 1000         /* that one run moves: its record has to stay within a document's size */
#define RUNS_MAX 20          /* that are remembered, for people */

struct entry {
        json_t *doc;
        struct schedule_spec spec;
        int64_t next_s; /* INT64_MAX: never */
        uint64_t
                again_ms; /* it could not be carried out: not before that, by the clock that only goes forward */
        bool carried_out; /* its document is another one now: it is to be loaded anew */
};

struct schedules {
        struct manager *manager;
        struct loop_source *timer;
        struct entry *entries; /* those that are not paused */
        size_t n;
        size_t n_broken;   /* beside them: those that cannot be read */
        bool recorded;     /* a change of that, in this loading */
        int64_t looked_s;  /* the clock when they were looked at last */
        uint64_t zones_ms; /* the zones were looked at last, by the clock that only goes forward */
        bool stale;        /* to be loaded anew */
        bool failed;       /* something could not be recorded since they were loaded */
        size_t cursor;     /* where the next look goes on */
};

static int64_t now_s(const struct manager *manager)
{
        return clock_unix_ms(manager->clock) / 1000;
}

static char *format_time(int64_t unix_s, char ret[static 32])
{
        return text_format_time(unix_s * 1000, ret);
}

/* --- Loading ------------------------------------------------------------------------------------------------------------ */

static void drop_entries(struct schedules *schedules)
{
        for (size_t i = 0; i < schedules->n; i++) {
                json_decref(schedules->entries[i].doc);
                schedule_spec_deinit(&schedules->entries[i].spec);
        }
        free(TAKE_PTR(schedules->entries));
        schedules->n = 0;
}

static void find_next(struct entry *entry)
{
        struct schedule_state state;

        schedule_state_read(json_object_get(entry->doc, "internal"), &state);
        if (schedule_next(&entry->spec.rule, &state, state.until_s, &entry->next_s) < 0)
                entry->next_s = INT64_MAX;
}

static bool zones_changed(struct schedules *schedules)
{
        uint64_t monotonic_ms = clock_now_ms(schedules->manager->clock);

        if (monotonic_ms < schedules->zones_ms + ZONES_AGAIN_MS)
                return false;
        schedules->zones_ms = monotonic_ms;
        for (size_t i = 0; i < schedules->n; i++)
                if (schedule_spec_zone_changed(
                            json_spec(schedules->entries[i].doc), &schedules->entries[i].spec))
                        return true;
        return schedules->n_broken > 0;
}

/* That it does not run, and why (NULL: it does again), is recorded and audited once. */
static void note_broken(struct schedules *schedules, const json_t *doc, const char *why)
{
        struct manager *manager = schedules->manager;
        const char *known = json_text_or_null(json_object_get(doc, "internal"), "broken");
        _cleanup_free_ char *object = alloc_printf("schedule/%s", json_text(doc, "name"));
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        json_t *copy;
        int r;

        if (!strcmp(known ?: "", why ?: ""))
                return;
        copy = json_deep_copy(doc);
        json_object_del(copy, "revision");
        if (!why)
                json_object_del(json_object_get(copy, "internal"), "broken");
        else if (json_object_set_new(json_object_get(copy, "internal"), "broken", json_string(why)) < 0)
                log_warning("schedule %s: no memory", json_text(doc, "name"));
        store_batch_put(&batch, json_revision(doc), copy);
        r = audit_add(manager->store, manager->clock, &batch,
                &(struct audit_entry){.who = "system",
                        .action = why ? "schedule.broken" : "schedule.mended",
                        .object = object,
                        .why = why,
                        .result = why ? "failed" : "done"},
                &error);
        if (r >= 0)
                r = store_commit(manager->store, &batch, NULL, &error);
        if (r < 0)
                log_warning("schedule %s: %s", json_text(doc, "name"), error_message(error));
        else
                schedules->recorded = true;
        if (why)
                log_error("schedule %s does not run: %s", json_text(doc, "name"), why);
}

static int load(struct schedules *schedules, struct error **ret_error)
{
        struct store_query query = {.kind = "schedule", .limit = STORE_LIMIT_NONE};
        _cleanup_json_ json_t *docs = NULL;
        json_t *doc;
        size_t i;
        int r;

        r = store_list(schedules->manager->store, &query, &docs, NULL, ret_error);
        if (r < 0)
                return r;
        drop_entries(schedules);
        schedules->cursor = 0;
        schedules->failed = false;
        schedules->n_broken = 0;
        schedules->recorded = false;
        schedules->entries = alloc_array(json_array_size(docs) + 1, sizeof(*schedules->entries));
        if (!schedules->entries)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        json_array_foreach (docs, i, doc) {
                _cleanup_error_ struct error *error = NULL;
                struct entry *entry = &schedules->entries[schedules->n];

                if (json_is_true(json_object_get(json_status(doc), "paused")))
                        continue;
                if (schedule_spec_read(json_spec(doc), &entry->spec, &error) < 0) {
                        schedules->n_broken++;
                        note_broken(schedules, doc, error_message(error));
                        continue;
                }
                note_broken(schedules, doc, NULL);
                entry->doc = json_incref(doc);
                find_next(entry);
                schedules->n++;
        }
        schedules->stale = schedules->recorded; /* revisions are others then */
        return 0;
}

/* --- Runs --------------------------------------------------------------------------------------------------------------- */

static int add_run(json_t *doc, json_t *run)
{
        json_t *runs = json_object_get(json_status(doc), "runs");

        if (!run || json_array_insert_new(runs, 0, run) < 0)
                return -ENOMEM;
        while (json_array_size(runs) > RUNS_MAX)
                json_array_remove(runs, json_array_size(runs) - 1);
        return 0;
}

/* The document with the state as it will be; the caller's. */
static json_t *changed_document(const struct entry *entry, const struct schedule_state *state)
{
        json_t *doc = json_deep_copy(entry->doc), *internal = schedule_state_write(state);
        const char *tried = json_text_or_null(json_object_get(entry->doc, "internal"), "tried_why");

        if (tried && internal && json_object_set_new(internal, "tried_why", json_string(tried)) < 0)
                json_decref(TAKE_PTR(internal));
        /* Without a document it frees `internal` all the same. */
        if (json_object_set_new(doc, "internal", internal) < 0) {
                json_decref(doc);
                return NULL;
        }
        json_object_del(doc, "revision");
        return doc;
}

static json_t *run_document(const struct manager *manager, const struct schedule_decision *decision,
        const char *task_uid, const char *why)
{
        char due[32], at[32];

        return json_pack("{s:s, s:s, s:s, s:s?, s:s?, s:I}", "due", format_time(decision->due_s, due), "at",
                text_format_time(clock_unix_ms(manager->clock), at), "outcome", task_uid ? "run" : "skipped",
                "task_uid", task_uid, "why", why, "missed", (json_int_t)decision->n_missed);
}

/* Why due times up to the decision's were left out; the caller's. What is known is why the last one that was tried did not begin: any others may
 * have been tried before it, too. */
static char *why_left_out(const struct entry *entry, const struct schedule_decision *decision, bool busy)
{
        const json_t *internal = json_object_get(entry->doc, "internal");
        const char *tried_why = json_text(internal, "tried_why");
        struct schedule_state before;

        schedule_state_read(internal, &before);
        if (busy)
                return alloc_strdup("its last run has not ended");
        if (before.tried_s == INT64_MIN || before.tried_s <= before.until_s ||
                before.tried_s > decision->due_s || !*tried_why)
                return alloc_strdup("the manager was away at that time");
        /* The one that runs now was not left out. */
        if (decision->n_missed == 1 &&
                (decision->verdict != SCHEDULE_RUN || before.tried_s < decision->due_s))
                return alloc_strdup(tried_why);
        return alloc_printf("the manager was away, or: %s", tried_why);
}

/* What was due is left out, and the record says why. */
static int record_skip(struct schedules *schedules, const struct entry *entry,
        const struct schedule_state *state, const struct schedule_decision *decision, const char *why,
        struct error **ret_error)
{
        struct manager *manager = schedules->manager;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *object = alloc_printf("schedule/%s", json_text(entry->doc, "name"));
        json_t *doc = changed_document(entry, state);
        char due[32];
        int r = 0;

        if (!doc || !object || !why) {
                json_decref(doc);
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        if (decision->forgotten)
                r = audit_add(manager->store, manager->clock, &batch,
                        &(struct audit_entry){.who = "system",
                                .action = "schedule.clock-back",
                                .object = object,
                                .why = "the clock had been days ahead for many runs and was set back: runs "
                                       "of "
                                       "that time may take place again",
                                .result = "done"},
                        ret_error);
        if (r >= 0 && decision->verdict != SCHEDULE_WAIT) {
                _cleanup_json_ json_t *detail = json_pack("{s:s, s:I}", "due",
                        format_time(decision->due_s, due), "missed", (json_int_t)decision->n_missed);

                r = add_run(doc, run_document(manager, decision, NULL, why));
                if (r == 0)
                        r = audit_add(manager->store, manager->clock, &batch,
                                &(struct audit_entry){.who = "system",
                                        .action = "schedule.skip",
                                        .object = object,
                                        .why = why,
                                        .result = "done",
                                        .detail = detail},
                                ret_error);
        }
        store_batch_put(&batch, json_revision(entry->doc), doc);
        return r < 0 ? r : store_commit(manager->store, &batch, NULL, ret_error);
}

void schedule_run_deinit(struct schedule_run *run)
{
        free(run->object);
        free(run->reason);
        free(run->held[0]);
        free(run->held[1]);
        json_decref(run->input);
        json_decref(run->data);
}

static int begin(struct schedules *schedules, const struct entry *entry, const struct schedule_state *state,
        const struct schedule_decision *decision, struct error **ret_error)
{
        struct manager *manager = schedules->manager;
        _cleanup_free_ char *left_out = decision->n_missed ? why_left_out(entry, decision, false) : NULL;
        _cleanup_(schedule_run_deinit) struct schedule_run run = {};
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *why = NULL;
        json_t *doc;
        char uid[UUID_STRING_SIZE];
        int r;

        r = schedules_run(manager, entry->doc, decision->due_s, decision->until_s, &run, ret_error);
        if (r < 0)
                return r;
        if (left_out)
                why = alloc_printf(
                        "%s; %zu due before were left out: %s", run.reason, decision->n_missed, left_out);
        doc = changed_document(entry, state);
        if (!doc || (decision->n_missed && !why) || text_uuid_new(uid) < 0 ||
                add_run(doc, run_document(manager, decision, uid, left_out)) < 0) {
                json_decref(doc);
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        store_batch_put(&batch, json_revision(entry->doc), doc);
        return task_submit(manager->tasks,
                &(struct task_request){.uid = uid,
                        .action = run.action,
                        .object = run.object,
                        .objects = (const char *const[]){run.held[0], run.held[1], NULL},
                        .by = "system",
                        .why = why ?: run.reason,
                        .input = run.input,
                        .data = run.data},
                &batch, NULL, ret_error);
}

/* Not of the schedule's making, such as the store being away. */
static bool is_of_the_store(const struct error *error)
{
        return !error || (error->code != ERROR_BUSY && error->code != ERROR_CONFLICT &&
                                 error->code != ERROR_NOT_FOUND && error->code != ERROR_TOO_LARGE &&
                                 error->code != ERROR_BAD_DOCUMENT);
}

/* Another task has what the run needs: that it was due in time is recorded once, and it is tried again. */
static int try_later(struct schedules *schedules, struct entry *entry,
        const struct schedule_decision *decision, const char *why, struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        struct schedule_state before;
        json_t *doc;

        entry->again_ms = clock_now_ms(schedules->manager->clock) + AGAIN_MS;
        schedule_state_read(json_object_get(entry->doc, "internal"), &before);
        if (before.tried_s == decision->due_s)
                return 0;
        log_info("schedule %s: tried again: %s", json_text(entry->doc, "name"), why);
        schedule_note_tried(&before, decision->due_s);
        doc = changed_document(entry, &before);
        if (!doc ||
                json_object_set_new(json_object_get(doc, "internal"), "tried_why", json_string(why)) < 0) {
                json_decref(doc);
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        store_batch_put(&batch, json_revision(entry->doc), doc);
        schedules->stale = true;
        return store_commit(schedules->manager->store, &batch, NULL, ret_error);
}

static int carry_out(struct schedules *schedules, struct entry *entry, struct error **ret_error)
{
        struct manager *manager = schedules->manager;
        _cleanup_free_ char *held = alloc_printf("schedule/%s", json_text(entry->doc, "uid"));
        _cleanup_error_ struct error *error = NULL;
        struct schedule_decision decision;
        struct schedule_state state;
        bool busy;
        int r;

        if (!held)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        busy = task_holding(manager->tasks, held) != NULL;
        schedule_state_read(json_object_get(entry->doc, "internal"), &state);
        schedule_decide(&entry->spec.rule, &state, now_s(manager), busy, &decision);
        if (decision.clock_back)
                log_warning("schedule %s: the clock was set back; what was run is not run again",
                        json_text(entry->doc, "name"));
        if (!decision.changed) {
                find_next(entry);
                return 0;
        }
        if (decision.verdict != SCHEDULE_RUN) {
                _cleanup_free_ char *why = why_left_out(entry, &decision, busy);

                schedules->stale = true;
                return record_skip(schedules, entry, &state, &decision, why, ret_error);
        }
        crash_point("schedule-due");
        r = begin(schedules, entry, &state, &decision, &error);
        crash_point("schedule-begun");
        if (r < 0 && error && error->code == ERROR_BUSY)
                return try_later(schedules, entry, &decision, error_message(error), ret_error);
        schedules->stale = true;
        if (r >= 0 || is_of_the_store(error))
                return r < 0 ? error_propagate(ret_error, TAKE_PTR(error)) : 0;
        log_warning("schedule %s does not run: %s", json_text(entry->doc, "name"), error_message(error));
        decision.verdict = SCHEDULE_SKIP;
        return record_skip(schedules, entry, &state, &decision, error_message(error), ret_error);
}

static void carry_out_or_later(struct schedules *schedules, struct entry *entry)
{
        _cleanup_error_ struct error *error = NULL;

        if (carry_out(schedules, entry, &error) >= 0) {
                entry->carried_out = schedules->stale;
                return;
        }
        log_warning("schedule %s: %s", json_text(entry->doc, "name"), error_message(error));
        entry->again_ms = clock_now_ms(schedules->manager->clock) + AGAIN_MS;
        schedules->stale = schedules->failed = true;
}

static uint64_t wait_of(const struct entry *entry, int64_t now_ms, uint64_t monotonic_ms)
{
        if (entry->again_ms > monotonic_ms)
                return entry->again_ms - monotonic_ms;
        if (entry->next_s >= (now_ms + LOOK_MAX_MS) / 1000 + 1)
                return LOOK_MAX_MS;
        return (uint64_t)CLAMP(entry->next_s * 1000 - now_ms, (int64_t)0, (int64_t)LOOK_MAX_MS);
}

static bool is_due(const struct schedules *schedules, const struct entry *entry, bool back)
{
        return !entry->carried_out && (back || now_s(schedules->manager) >= entry->next_s) &&
               clock_now_ms(schedules->manager->clock) >= entry->again_ms;
}

/* All that are due, or as many as there is time for on the loop: hundreds may be due at ten. False: there are more. */
static bool carry_out_due(struct schedules *schedules, bool back)
{
        struct loop_share *share = &schedules->manager->share;

        for (; schedules->cursor < schedules->n; schedules->cursor++) {
                struct entry *entry = &schedules->entries[schedules->cursor];
                uint64_t began_ns = clock_monotonic_ns();

                if (!is_due(schedules, entry, back))
                        continue;
                if (!loop_share_open(share, schedules))
                        return false;
                carry_out_or_later(schedules, entry);
                loop_share_spend(share, clock_monotonic_ns() - began_ns);
        }
        schedules->cursor = 0;
        return true;
}

/* Milliseconds until the next look. Not all of them are loaded anew for each one that has run: only when none is due any more. */
static uint64_t look(struct schedules *schedules)
{
        int64_t now = now_s(schedules->manager), now_ms = clock_unix_ms(schedules->manager->clock);
        uint64_t monotonic_ms = clock_now_ms(schedules->manager->clock), wait_ms = LOOK_MAX_MS;
        _cleanup_error_ struct error *error = NULL;
        bool back = now < schedules->looked_s;

        if (!schedules->cursor) {
                schedules->stale |= zones_changed(schedules);
                if (schedules->stale && load(schedules, &error) < 0) {
                        log_warning("cannot load the schedules: %s", error_message(error));
                        return AGAIN_MS;
                }
        }
        if (!carry_out_due(schedules, back))
                return LOOP_SHARE_MS;
        schedules->looked_s = now;
        for (size_t i = 0; i < schedules->n; i++)
                wait_ms = MIN(wait_ms, wait_of(&schedules->entries[i], now_ms, monotonic_ms));
        /* One that fails is not to keep the others waiting, nor to be loaded again and again. */
        return schedules->stale ? schedules->failed ? AGAIN_MS : 0 : wait_ms;
}

static void on_timer(void *userdata)
{
        struct schedules *schedules = userdata;

        loop_source_rearm(schedules->timer, look(schedules));
}

void schedules_changed(struct schedules *schedules)
{
        schedules->stale = true;
        schedules->cursor = 0;
        loop_source_rearm(schedules->timer, 0);
}

int schedules_new(struct manager *manager, struct schedules **ret_schedules, struct error **ret_error)
{
        struct schedules *schedules = ALLOC(struct schedules);
        int r;

        if (!schedules)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        schedules->manager = manager;
        schedules->stale = true;
        r = loop_add_timer(manager->loop, 0, on_timer, schedules, &schedules->timer);
        if (r < 0) {
                schedules_free(schedules);
                return error_from_errno(ret_error, r, "cannot set up the schedules' timer");
        }
        *ret_schedules = schedules;
        return 0;
}

void schedules_free(struct schedules *schedules)
{
        if (!schedules)
                return;
        loop_source_free(schedules->timer);
        drop_entries(schedules);
        free(schedules);
}

/* --- What a run is ------------------------------------------------------------------------------------------------------ */

/* "key=value" */
static int add_labelled(const json_t *vms, const char *label, json_t *chosen)
{
        _cleanup_free_ char *key = alloc_printf("%.*s", (int)strcspn(label, "="), label);
        const char *wanted = strchr(label, '=') + 1, *value;
        json_t *vm;
        size_t i;

        if (!key)
                return -ENOMEM;
        json_array_foreach ((json_t *)vms, i, vm) {
                value = json_text_or_null(json_object_get(json_spec(vm), "labels"), key);
                if (value && !strcmp(value, wanted) && json_array_append(chosen, vm) < 0)
                        return -ENOMEM;
        }
        return 0;
}

int schedules_select(
        struct manager *manager, const json_t *action, json_t **ret_vms, struct error **ret_error)
{
        _cleanup_json_ json_t *vms = inventory_vms(manager->inventory), *chosen = json_array();
        const char *label = json_text_or_null(action, "label");
        int r = vms && chosen ? 0 : -ENOMEM;
        json_t *name;
        size_t i;

        if (r == 0 && label)
                r = add_labelled(vms, label, chosen);
        json_array_foreach (json_object_get(action, "vms"), i, name) {
                const char *wanted = json_string_value(name);
                const json_t *vm = inventory_vm_named(manager->inventory, wanted);

                /* One that is not there any more, for the report. */
                if (r == 0)
                        r = json_array_append_new(
                                chosen, vm ? json_incref((json_t *)vm)
                                           : json_pack("{s:s, s:s}", "uid", wanted, "name", wanted));
        }
        if (r < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (json_array_size(chosen) > VMS_MAX)
                return error_set(ret_error, ERROR_TOO_LARGE, "Divide them by another label.",
                        "%zu virtual machines are meant, more than %d", json_array_size(chosen), VMS_MAX);
        *ret_vms = TAKE_PTR(chosen);
        return 0;
}

static const json_t *action_of(const json_t *doc)
{
        return json_object_get(json_spec(doc), "action");
}

static bool is_maintenance(const json_t *doc)
{
        return !strcmp(json_text(action_of(doc), "type"), "maintenance");
}

static int find_host(
        struct manager *manager, const json_t *doc, const json_t **ret_host, struct error **ret_error)
{
        const char *name = json_text(action_of(doc), "host");

        *ret_host = inventory_host(manager->inventory, name);
        if (!*ret_host)
                return error_set(ret_error, ERROR_NOT_FOUND, "See `drover host list`.",
                        "there is no host %.64s", name);
        return operation_maintenance_check(*ret_host, action_of(doc), ret_error);
}

static json_t *data_of_migrate(const json_t *doc, const char *reason, int64_t start_before_ms)
{
        const json_t *action = action_of(doc);
        json_int_t give_up_ms = json_integer_value(json_object_get(action, "give_up_ms"));

        return json_pack("{s:O, s:s*, s:s, s:I, s:I, s:o, s:o}", "action", action, "to",
                json_text_or_null(action, "to"), "reason", reason, "start_before_unix_ms",
                (json_int_t)start_before_ms, "give_up_ms", give_up_ms, "policy",
                operation_moves_policy(action), "options", operation_moves_options(action));
}

static int make_run(struct manager *manager, const json_t *doc, int64_t due_s, int64_t until_s,
        struct schedule_run *run, struct error **ret_error)
{
        int64_t before_ms = until_s == INT64_MAX ? 0 : until_s * 1000;
        const char *name = json_text(doc, "name");
        const json_t *host = NULL;
        char due[32];
        int r;

        run->held[0] = alloc_printf("schedule/%s", json_text(doc, "uid"));
        run->reason = due_s == INT64_MIN ? alloc_printf("schedule %s, as it was asked for", name)
                                         : alloc_printf("schedule %s, due %s", name, format_time(due_s, due));
        run->input = json_pack("{s:s, s:s?, s:O}", "schedule", name, "due",
                due_s == INT64_MIN ? NULL : format_time(due_s, due), "action", action_of(doc));
        if (!run->held[0] || !run->reason || !run->input)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (is_maintenance(doc)) {
                r = find_host(manager, doc, &host, ret_error);
                if (r < 0)
                        return r;
                if (json_is_true(json_object_get(action_of(doc), "on")))
                        run->action = "host.maintenance";
                else
                        run->action = "host.maintenance-end";
                run->object = alloc_printf("host/%s", json_text(host, "name"));
                run->held[1] = alloc_printf("maintenance/%s", json_text(host, "uid"));
                run->data =
                        operation_maintenance_data(host, action_of(doc), "system", run->reason, before_ms);
        } else {
                run->object = alloc_printf("schedule/%s", name);
                run->data = data_of_migrate(doc, run->reason, before_ms);
        }
        if (!run->object || !run->data || (is_maintenance(doc) && !run->held[1]))
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return 0;
}

int schedules_run(struct manager *manager, const json_t *doc, int64_t due_s, int64_t until_s,
        struct schedule_run *ret_run, struct error **ret_error)
{
        struct schedule_run run = {.action = "schedule.run"};
        int r = make_run(manager, doc, due_s, until_s, &run, ret_error);

        if (r < 0)
                schedule_run_deinit(&run);
        else
                *ret_run = run;
        return r;
}

int schedules_plan(
        struct manager *manager, const json_t *doc, struct moves_plan **ret_plan, struct error **ret_error)
{
        const json_t *action = action_of(doc), *host = NULL;
        _cleanup_json_ json_t *vms = NULL;
        _cleanup_free_ const json_t **known = NULL;
        size_t i, n = 0;
        json_t *vm;
        int r;

        if (is_maintenance(doc)) {
                r = find_host(manager, doc, &host, ret_error);
                return r < 0 ? r : operation_maintenance_plan(manager, host, action, ret_plan, ret_error);
        }
        r = schedules_select(manager, action, &vms, ret_error);
        if (r < 0)
                return r;
        known = alloc_array(json_array_size(vms) + 1, sizeof(*known));
        if (!known)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        json_array_foreach (vms, i, vm)
                if (json_spec(vm))
                        known[n++] = vm;
        return moves_plan_new(known, n, json_text_or_null(action, "to"), action, ret_plan, ret_error);
}

/* --- For the API -------------------------------------------------------------------------------------------------------- */

int schedules_check_spec(const json_t *spec, struct error **ret_error)
{
        _cleanup_schedule_spec_ struct schedule_spec read = {};

        return schedule_spec_read(spec, &read, ret_error);
}

int schedules_reset(const struct manager *manager, json_t *doc, struct error **ret_error)
{
        _cleanup_schedule_spec_ struct schedule_spec spec = {};
        struct schedule_state state;
        int64_t next_s;
        int r;

        r = schedule_spec_read(json_spec(doc), &spec, ret_error);
        if (r < 0)
                return r;
        schedule_state_read(json_object_get(doc, "internal"), &state);
        state.until_s = now_s(manager);
        if (!json_object_get(doc, "internal"))
                schedule_begin(&state, now_s(manager));
        if (schedule_next(&spec.rule, &state, state.until_s, &next_s) < 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Choose a time that is to come.",
                        "no run would take place: its time has passed, or never comes");
        if (json_object_set_new(doc, "internal", schedule_state_write(&state)) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return 0;
}

static json_t *next_document(const struct schedule_spec *spec, int64_t next_s)
{
        char time[32], local[32], end[32];

        return json_pack("{s:s, s:s, s:s?}", "time", format_time(next_s, time), "local",
                time_zone_format(spec->zone, next_s, local), "window_end",
                spec->rule.window_s ? time_zone_format(spec->zone, next_s + spec->rule.window_s, end) : NULL);
}

int schedules_next(const struct manager *manager, const json_t *doc, size_t n, json_t **ret_next,
        struct error **ret_error)
{
        _cleanup_schedule_spec_ struct schedule_spec spec = {};
        _cleanup_json_ json_t *next = json_array();
        struct schedule_state state;
        int64_t at_s;
        int r;

        r = schedule_spec_read(json_spec(doc), &spec, ret_error);
        if (r < 0)
                return r;
        schedule_state_read(json_object_get(doc, "internal"), &state);
        at_s = MIN(state.until_s, now_s(manager));
        at_s = MAX(at_s, now_s(manager) - SCHEDULE_LATE_S);
        while (next && json_array_size(next) < n && schedule_next(&spec.rule, &state, at_s, &at_s) == 0)
                if (at_s > state.until_s && json_array_append_new(next, next_document(&spec, at_s)) < 0)
                        json_decref(TAKE_PTR(next));
        if (!next)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_next = TAKE_PTR(next);
        return 0;
}

/* How the runs' tasks ended, as far as they are remembered. */
static void add_tasks(struct manager *manager, json_t *runs)
{
        json_t *run;
        size_t i;

        json_array_foreach (runs, i, run) {
                _cleanup_json_ json_t *task = NULL;

                if (!*json_text(run, "task_uid") ||
                        store_get(manager->store, "task", json_text(run, "task_uid"), &task, NULL) < 0)
                        continue;
                (void)json_object_set(run, "task", json_object_get(task, "name"));
                (void)json_object_set(run, "state", json_object_get(json_status(task), "state"));
        }
}

json_t *schedules_live(struct manager *manager, const json_t *doc)
{
        _cleanup_json_ json_t *copy = json_deep_copy(doc), *next = NULL;
        _cleanup_error_ struct error *error = NULL;
        json_t *status = json_status(copy), *first;
        const char *state = NULL;
        bool paused = json_is_true(json_object_get(status, "paused"));

        if (!copy)
                return NULL;
        /* One that cannot be read any more is shown, too, with the reason. */
        if (!paused && schedules_next(manager, doc, 1, &next, &error) < 0)
                state = "broken";
        first = json_array_get(next, 0);
        if (!state)
                state = paused ? "paused" : first ? "active" : "done";
        if (json_object_set_new(status, "state", json_string(state)) < 0 ||
                json_object_set_new(status, "why", error ? json_string(error_message(error)) : json_null()) <
                        0 ||
                json_object_set_new(status, "next", first ? json_incref(first) : json_null()) < 0)
                return NULL;
        add_tasks(manager, json_object_get(status, "runs"));
        return TAKE_PTR(copy);
}
