/* SPDX-License-Identifier: Apache-2.0 */

/* The task engine on a clock that the test moves: steps, undo, cancel, time limits, locks, and a crash at each recorded
 * point, after which a new engine over the same store goes on. */

#include "fixture.h"

#include <errno.h>

#include "base/doc.h"
#include "base/torture.h"
#include "manager/audit.h"
#include "manager/task.h"

enum bloat { BLOAT_DATA, BLOAT_RESULT, BLOAT_PROGRESS, BLOAT_BATCH, N_BLOATS };

struct state {
        struct folder folder;
        struct store *store;
        struct clock_manual clock;
        struct task_engine *engine;
        char trace[512];      /* what the steps did, over all engines */
        const char *crash_at; /* point; NULL: none */
        const char *fail_at;  /* step whose run fails */
        const char *hang_at;  /* step whose run neither ends nor fails */
        bool poke_in_step;    /* news come while a step of kind "later" is asking for them */
        int n_gate;           /* tasks of kind "gated" that may start */
        int n_refused;
        struct task *waiting[4];
        size_t n_waiting;
        enum bloat bloat; /* what is made too large */
        bool bloat_again; /* by undoing, too */
        json_t *large;    /* an object */
        int n_cancels;    /* pending things that were cancelled */
};

static void note(struct state *state, const char *what)
{
        size_t used = strlen(state->trace);

        snprintf(state->trace + used, sizeof(state->trace) - used, "%s ", what);
}

static void forget_pending(void *pending)
{
        ++*(int *)pending;
}

static void run_named(struct task *task, struct state *state, const char *name)
{
        struct error *error = NULL;

        note(state, name);
        if (state->fail_at && !strcmp(state->fail_at, name)) {
                error_set(&error, ERROR_CONFLICT, NULL, "step %s failed", name);
                task_step_failed(task, error);
        } else if (state->hang_at && !strcmp(state->hang_at, name))
                task_set_pending(task, &state->n_cancels, forget_pending);
        else {
                json_object_set_new(task_data(task), name, json_true());
                task_step_done(task);
        }
}

#define RUN(function, name) \
        static void function(struct task *task, void *userdata) \
        { \
                run_named(task, userdata, name); \
        }
RUN(run_one, "one")
RUN(undo_one, "undo-one")
RUN(run_two, "two")
RUN(run_three, "three")
RUN(undo_three, "undo-three")

static void ask_to_end(struct task *task, void *userdata)
{
        struct error *error = NULL;

        note(userdata, "asked");
        error_set(&error, ERROR_CANCELLED, NULL, "it said that it ended");
        task_step_failed(task, error);
}

static const struct task_step triple_steps[] = {
        {.name = "one", .run = run_one, .undo = undo_one},
        {.name = "two", .run = run_two},
        {.name = "three", .run = run_three, .undo = undo_three},
};
static const struct task_kind triple = {"triple", triple_steps, 3, 60000, NULL};
static const struct task_kind brief = {"brief", triple_steps, 2, 30000, NULL};

static const struct task_step polite_steps[] = {
        {.name = "one", .run = run_one, .cancel = ask_to_end, .no_timeout = true}};
static const struct task_kind polite = {"polite", polite_steps, 1, 60000, NULL};

static const struct task_step keep_steps[] = {
        {.name = "one", .run = run_one, .undo = undo_one},
        {.name = "two", .run = run_two, .keep = true},
};
static const struct task_kind keep = {"keep", keep_steps, 2, 60000, NULL};

static bool may_start(const struct task *task, void *userdata)
{
        struct state *state = userdata;

        return state->n_gate > 0 && state->n_gate--;
}
static const struct task_step gated_steps[] = {{.name = "one", .run = run_one}};
static const struct task_kind gated = {"gated", gated_steps, 1, 60000, may_start};

static void run_later(struct task *task, void *userdata)
{
        const struct state *state = userdata;

        note(userdata, "poll");
        if (state->poke_in_step)
                task_poke(state->engine, task_uid(task));
        if (task_step_elapsed_ms(task) < 1000)
                task_step_again(task, 500);
        else
                task_step_done(task);
}
static const struct task_step later_steps[] = {{.name = "later", .run = run_later}};
static const struct task_kind later = {"later", later_steps, 1, 60000, NULL};

/* Makes progress for two seconds. */
static void run_busy(struct task *task, void *userdata)
{
        task_progress(task, json_pack("{s:I}", "percent", (json_int_t)task_step_elapsed_ms(task) / 20));
        if (task_step_elapsed_ms(task) < 2000)
                task_step_again(task, 100);
        else
                task_step_done(task);
}
static const struct task_step busy_steps[] = {
        {.name = "busy", .run = run_busy}, {.name = "one", .run = run_one}};
static const struct task_kind busy = {"busy", busy_steps, 2, 60000, NULL};

/* Its first step ends with a change that the store refuses, the first time; the next time it goes on for a while. */
static void run_refused(struct task *task, void *userdata)
{
        struct state *state = userdata;

        note(state, "refused");
        task_progress(task, json_pack("{s:i}", "percent", ++state->n_refused));
        if (state->n_refused > 1) {
                task_step_again(task, 5000);
                return;
        }
        store_batch_put(task_batch(task), 12345, object_new("thing", "thing", "x"));
        task_step_done(task);
}
static const struct task_step refused_steps[] = {
        {.name = "refused", .run = run_refused}, {.name = "one", .run = run_one}};
static const struct task_kind refused = {"refused", refused_steps, 2, 60000, NULL};

static void run_slow(struct task *task, void *userdata)
{
        struct state *state = userdata;

        clock_manual_advance(&state->clock, 15);
        note(state, task_name(task));
        task_step_done(task);
}
static const struct task_step slow_steps[] = {{.name = "slow", .run = run_slow}};
static const struct task_kind slow = {"slow", slow_steps, 1, 60000, NULL};

/* Its second step makes its own document larger than the store takes one, or that of something else; what its undoing goes by, is there. */
static void run_bloat(struct task *task, void *userdata)
{
        const struct state *state = userdata;
        json_t *doc;

        note(userdata, "bloat");
        if (state->bloat == BLOAT_DATA)
                json_object_set(task_data(task), "answer", state->large);
        else if (state->bloat == BLOAT_RESULT)
                task_set_result(task, json_incref(state->large));
        else if (state->bloat == BLOAT_PROGRESS)
                task_progress(task, json_incref(state->large));
        else {
                doc = object_new("thing", "thing", "x");
                json_object_set(doc, "answer", state->large);
                store_batch_put(task_batch(task), STORE_ABSENT, doc);
        }
        task_step_done(task);
}
static void undo_bloat(struct task *task, void *userdata)
{
        note(userdata, json_object_get(task_data(task), "one") ? "undo-bloat" : "lost");
        if (((struct state *)userdata)->bloat_again)
                json_object_set(task_data(task), "answer", ((struct state *)userdata)->large);
        task_step_done(task);
}
static const struct task_step bloat_steps[] = {
        {.name = "one", .run = run_one, .undo = undo_one},
        {.name = "bloat", .run = run_bloat, .undo = undo_bloat},
        {.name = "two", .run = run_two},
};
static const struct task_kind bloat = {"bloat", bloat_steps, 3, 60000, NULL};

/* Its step ends at once, with a decision; a change of the same object by another one would make it run again. */
static void run_choose(struct task *task, void *userdata)
{
        struct state *state = userdata;
        json_t *thing = NULL;
        uint64_t revision = 0;

        note(state, "choose");
        if (store_get(state->store, "thing", "thing", &thing, NULL) == 0)
                revision = json_revision(thing);
        json_decref(thing);
        assert_int_equal(
                task_decided(task, "it is the best", json_pack("{s:I}", "seen", (json_int_t)revision)), 0);
        store_batch_put(task_batch(task), revision, object_new("thing", "thing", "x"));
        task_step_done(task);
}
static const struct task_step choose_steps[] = {
        {.name = "choose", .run = run_choose}, {.name = "later", .run = run_later}};
static const struct task_kind choose = {"choose", choose_steps, 2, 60000, NULL};

/* Its step has decided, and ends when an answer comes. */
static void run_choose_later(struct task *task, void *userdata)
{
        note(userdata, "choose-later");
        assert_int_equal(task_decided(task, "it is the best", json_object()), 0);
        task_set_pending(task, &((struct state *)userdata)->n_cancels, forget_pending);
        ((struct state *)userdata)->waiting[((struct state *)userdata)->n_waiting++] = task;
}
static const struct task_step choose_later_steps[] = {{.name = "choose-later", .run = run_choose_later}};
static const struct task_kind choose_later = {"choose-later", choose_later_steps, 1, 60000, NULL};

static const struct task_kind *const kinds[] = {&triple, &polite, &keep, &gated, &later, &busy, &refused,
        &slow, &bloat, &choose, &choose_later, &brief, NULL};

static bool crash(void *userdata, const struct task *task, const char *point)
{
        struct state *state = userdata;

        return state->crash_at && !strcmp(state->crash_at, point);
}

static void open_engine(struct state *state)
{
        assert_int_equal(task_engine_new(&(struct task_engine_config){.store = state->store,
                                                 .clock = &state->clock.clock,
                                                 .kinds = kinds,
                                                 .userdata = state,
                                                 .crash = crash},
                                 &state->engine, NULL),
                0);
}

static int setup(void **ret)
{
        struct state *state = calloc(1, sizeof(*state));

        folder_make(&state->folder);
        state->store = store_open_in(&state->folder);
        clock_manual_init(&state->clock, 1700000000000);
        open_engine(state);
        *ret = state;
        return 0;
}

static int teardown(void **data)
{
        struct state *state = *data;

        task_engine_free(state->engine);
        store_close(state->store);
        folder_remove(&state->folder);
        json_decref(state->large);
        free(state);
        return 0;
}

/* What a crash leaves: the store as it is on the disk, and nothing else. */
static void restart(struct state *state)
{
        task_engine_free(state->engine);
        store_close(state->store);
        state->store = store_open_in(&state->folder);
        state->crash_at = NULL;
        open_engine(state);
        task_engine_run(state->engine);
}

static int submit_as(struct state *state, const char *action, const char *object, const char *priority,
        char ret_uid[static 64], struct error **ret_error)
{
        json_t *doc = NULL;
        int r;

        r = task_submit(state->engine,
                &(struct task_request){.action = action,
                        .object = object,
                        .objects = (const char *const[]){object, NULL},
                        .by = "tester",
                        .priority = priority},
                NULL, &doc, ret_error);
        if (r < 0)
                return r;
        snprintf(ret_uid, 64, "%s", json_text(doc, "uid"));
        assert_null(json_object_get(doc, "internal"));
        json_decref(doc);
        return 0;
}

static void submit(struct state *state, const char *action, char ret_uid[static 64])
{
        assert_int_equal(submit_as(state, action, "vm/a", NULL, ret_uid, NULL), 0);
}

static void assert_state(struct state *state, const char *uid, const char *expected)
{
        json_t *doc = NULL;

        assert_int_equal(store_get(state->store, "task", uid, &doc, NULL), 0);
        assert_string_equal(json_text(json_status(doc), "state"), expected);
        json_decref(doc);
}

static void assert_error(struct state *state, const char *uid, const char *code, const char *part)
{
        json_t *doc = NULL, *error;

        assert_int_equal(store_get(state->store, "task", uid, &doc, NULL), 0);
        error = json_object_get(json_status(doc), "error");
        assert_string_equal(json_text(error, "code"), code);
        assert_non_null(strstr(json_text(error, "detail"), part));
        json_decref(doc);
}

static void steps_run_in_order(void **data)
{
        struct state *state = *data;
        char uid[64];

        submit(state, "triple", uid);
        assert_state(state, uid, "queued");
        task_engine_run(state->engine);
        assert_string_equal(state->trace, "one two three ");
        assert_state(state, uid, "succeeded");
        assert_null(task_holding(state->engine, "vm/a"));
}

static void failed_step_undoes_itself_and_what_was_before(void **data)
{
        struct state *state = *data;
        char uid[64];

        state->fail_at = "three";
        submit(state, "triple", uid);
        task_engine_run(state->engine);
        assert_string_equal(state->trace, "one two three undo-three undo-one ");
        assert_state(state, uid, "failed");
        assert_error(state, uid, "conflict", "step three failed");
}

static void failing_undo_is_named_and_the_others_still_run(void **data)
{
        struct state *state = *data;
        char uid[64];

        state->hang_at = "three";
        state->fail_at = "undo-three";
        submit(state, "triple", uid);
        task_engine_run(state->engine);
        clock_manual_advance(&state->clock, 60000);
        task_engine_run(state->engine);
        assert_string_equal(state->trace, "one two three undo-three undo-one ");
        assert_error(state, uid, "timed-out", "undoing step three failed");
}

static void step_that_keeps_leaves_what_was_made(void **data)
{
        struct state *state = *data;
        char uid[64];

        state->fail_at = "two";
        submit(state, "keep", uid);
        task_engine_run(state->engine);
        assert_string_equal(state->trace, "one two ");
        assert_state(state, uid, "failed");
}

static void crash_at_each_point_and_resume(void **data)
{
        static const char *const points[][2] = {
                {"before:one", "one two three "},
                {"after:one", "one one two three "},
                {"before:two", "one two three "},
                {"after:two", "one two two three "},
                {"before:three", "one two three "},
                {"after:three", "one two three three "},
        };
        struct state *state = *data;
        char uid[64];

        for (size_t i = 0; i < ARRAY_SIZE(points); i++) {
                state->trace[0] = '\0';
                state->crash_at = points[i][0];
                submit(state, "triple", uid);
                task_engine_run(state->engine);
                assert_state(state, uid, "running");
                restart(state);
                assert_string_equal(state->trace, points[i][1]);
                assert_state(state, uid, "succeeded");
        }
}

static void crash_at_each_point_of_undoing_and_resume(void **data)
{
        static const char *const points[][2] = {
                {"before:undo-three", "one two three undo-three undo-one "},
                {"after:undo-three", "one two three undo-three undo-three undo-one "},
                {"before:undo-two", "one two three undo-three undo-one "},
                {"before:undo-one", "one two three undo-three undo-one "},
                {"after:undo-one", "one two three undo-three undo-one undo-one "},
        };
        struct state *state = *data;
        char uid[64];

        for (size_t i = 0; i < ARRAY_SIZE(points); i++) {
                state->trace[0] = '\0';
                state->fail_at = "three";
                state->crash_at = points[i][0];
                submit(state, "triple", uid);
                task_engine_run(state->engine);
                assert_state(state, uid, "undoing");
                restart(state);
                assert_string_equal(state->trace, points[i][1]);
                assert_state(state, uid, "failed");
        }
}

static void locks_are_held_again_after_a_restart(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        char uid[64], other[64];

        state->hang_at = "two";
        submit(state, "triple", uid);
        task_engine_run(state->engine);
        restart(state);
        assert_string_equal(state->trace, "one two two ");
        assert_int_equal(submit_as(state, "triple", "vm/a", NULL, other, &error), -EBUSY);
        assert_int_equal(error->code, ERROR_BUSY);
        assert_non_null(strstr(error->message, "triple"));
        assert_int_equal(submit_as(state, "polite", "vm/b", NULL, other, NULL), 0);
}

static void request_id_is_the_same_after_a_restart(void **data)
{
        struct state *state = *data;
        char uid[64], before[37], after[37];

        state->hang_at = "two";
        submit(state, "triple", uid);
        task_engine_run(state->engine);
        task_request_id(task_holding(state->engine, "vm/a"), before);
        restart(state);
        task_request_id(task_holding(state->engine, "vm/a"), after);
        assert_string_equal(before, after);
}

static void cancel_stops_the_step_and_undoes(void **data)
{
        struct state *state = *data;
        char uid[64];

        state->hang_at = "two";
        submit(state, "triple", uid);
        task_engine_run(state->engine);
        assert_int_equal(task_cancel(state->engine, uid, NULL, NULL), 0);
        task_engine_run(state->engine);
        assert_int_equal(state->n_cancels, 1);
        assert_string_equal(state->trace, "one two undo-one ");
        assert_state(state, uid, "cancelled");
}

static void cancel_request_survives_a_crash(void **data)
{
        struct state *state = *data;
        char uid[64];

        state->hang_at = "two";
        submit(state, "triple", uid);
        task_engine_run(state->engine);
        assert_int_equal(task_cancel(state->engine, uid, NULL, NULL), 0);
        restart(state);
        assert_state(state, uid, "cancelled");
}

static void step_with_its_own_end_is_asked(void **data)
{
        struct state *state = *data;
        char uid[64];

        state->hang_at = "one";
        submit(state, "polite", uid);
        task_engine_run(state->engine);
        assert_int_equal(task_cancel(state->engine, uid, NULL, NULL), 0);
        task_engine_run(state->engine);
        assert_string_equal(state->trace, "one asked ");
        assert_state(state, uid, "cancelled");
}

static void ended_task_cannot_be_cancelled(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        char uid[64];

        submit(state, "triple", uid);
        task_engine_run(state->engine);
        assert_true(task_cancel(state->engine, uid, NULL, &error) < 0);
        assert_int_equal(error->code, ERROR_CONFLICT);
}

static void time_limit_ends_a_hanging_task(void **data)
{
        struct state *state = *data;
        char uid[64];

        state->hang_at = "two";
        submit(state, "triple", uid);
        task_engine_run(state->engine);
        assert_int_equal(task_engine_next_ms(state->engine), 60000);
        clock_manual_advance(&state->clock, 59999);
        task_engine_run(state->engine);
        assert_state(state, uid, "running");
        clock_manual_advance(&state->clock, 1);
        task_engine_run(state->engine);
        assert_state(state, uid, "failed");
        assert_error(state, uid, "timed-out", "step two");
}

/* The manager was away for longer than the limit: what was begun, or is being undone, is looked at once more. */
static void limit_that_ended_in_an_outage_leaves_one_attempt(void **data)
{
        struct state *state = *data;
        char uid[64];

        state->hang_at = "two";
        submit(state, "brief", uid);
        task_engine_run(state->engine);
        clock_manual_advance(&state->clock, 600000);
        state->hang_at = NULL;
        restart(state);
        assert_string_equal(state->trace, "one two two ");
        assert_state(state, uid, "succeeded");
}

static void undoing_that_was_cut_short_by_an_outage_goes_on(void **data)
{
        struct state *state = *data;
        char uid[64];

        state->fail_at = "three";
        state->hang_at = "undo-three";
        submit(state, "triple", uid);
        task_engine_run(state->engine);
        clock_manual_advance(&state->clock, 600000);
        restart(state);
        assert_string_equal(state->trace, "one two three undo-three undo-three ");
        assert_int_equal(task_engine_next_ms(state->engine), 60000);
        state->hang_at = NULL;
        clock_manual_advance(&state->clock, 60000);
        task_engine_run(state->engine);
        assert_state(state, uid, "failed");
}

static void step_without_time_limit_waits_on(void **data)
{
        struct state *state = *data;
        char uid[64];

        state->hang_at = "one";
        submit(state, "polite", uid);
        task_engine_run(state->engine);
        assert_int_equal(task_engine_next_ms(state->engine), UINT64_MAX);
        clock_manual_advance(&state->clock, 3600000);
        task_engine_run(state->engine);
        assert_state(state, uid, "running");
}

static void sleeping_step_runs_again_in_time(void **data)
{
        struct state *state = *data;
        char uid[64];

        submit(state, "later", uid);
        task_engine_run(state->engine);
        assert_int_equal(task_engine_next_ms(state->engine), 500);
        clock_manual_advance(&state->clock, 499);
        task_engine_run(state->engine);
        assert_string_equal(state->trace, "poll ");
        clock_manual_advance(&state->clock, 1);
        task_engine_run(state->engine);
        clock_manual_advance(&state->clock, 500);
        task_engine_run(state->engine);
        assert_string_equal(state->trace, "poll poll poll ");
        assert_state(state, uid, "succeeded");
}

/* What the step got may be older than the news. */
static void news_that_come_while_a_step_asks_are_not_lost(void **data)
{
        struct state *state = *data;
        char uid[64];

        clock_manual_advance(&state->clock, 1000);
        state->poke_in_step = true;
        submit(state, "later", uid);
        task_engine_run(state->engine);
        assert_true(task_engine_next_ms(state->engine) <= 100);
}

static void queued_tasks_start_by_priority_then_age(void **data)
{
        struct state *state = *data;
        char low[64], normal[64], older[64], critical[64];

        assert_int_equal(submit_as(state, "gated", "vm/1", "low", low, NULL), 0);
        assert_int_equal(submit_as(state, "gated", "vm/2", "normal", older, NULL), 0);
        assert_int_equal(submit_as(state, "gated", "vm/3", "normal", normal, NULL), 0);
        assert_int_equal(submit_as(state, "gated", "vm/4", "critical", critical, NULL), 0);
        task_engine_run(state->engine);
        assert_state(state, critical, "queued");
        state->n_gate = 2;
        task_engine_run(state->engine);
        assert_state(state, critical, "succeeded");
        assert_state(state, older, "succeeded");
        assert_state(state, normal, "queued");
        assert_state(state, low, "queued");
}

static void end_is_in_the_audit_log(void **data)
{
        struct state *state = *data;
        struct store_query query = {.kind = "audit", .limit = 10};
        json_t *entries = NULL;
        char uid[64];

        state->fail_at = "one";
        submit(state, "triple", uid);
        task_engine_run(state->engine);
        assert_int_equal(store_list(state->store, &query, &entries, NULL, NULL), 0);
        assert_int_equal(json_array_size(entries), 2);
        assert_string_equal(json_text(json_array_get(entries, 0), "result"), "accepted");
        assert_string_equal(json_text(json_array_get(entries, 1), "result"), "failed");
        assert_string_equal(json_text(json_array_get(entries, 1), "who"), "tester");
        json_decref(entries);
}

static void retention_forgets_the_oldest_ended_tasks(void **data)
{
        struct state *state = *data;
        char first[64], second[64], third[64];
        json_t *doc = NULL;

        submit(state, "triple", first);
        task_engine_run(state->engine);
        submit(state, "triple", second);
        task_engine_run(state->engine);
        state->hang_at = "one";
        submit(state, "triple", third);
        task_engine_run(state->engine);
        assert_int_equal(task_trim(state->store, state->engine, 1, NULL), 0);
        assert_int_equal(store_get(state->store, "task", first, &doc, NULL), -ENOENT);
        assert_state(state, second, "succeeded");
        assert_state(state, third, "running");
}

static void retention_keeps_what_an_unfinished_task_waits_for(void **data)
{
        struct state *state = *data;
        char parent[64], older[64], other[64];
        _cleanup_json_ json_t *of = NULL, *child = NULL;
        json_t *doc = NULL;

        state->hang_at = "one";
        submit(state, "triple", parent);
        task_engine_run(state->engine);
        state->hang_at = NULL;
        assert_int_equal(submit_as(state, "triple", "vm/c", NULL, older, NULL), 0);
        of = json_pack("{s:s}", "parent", parent);
        assert_int_equal(task_submit(state->engine,
                                 &(struct task_request){.action = "triple",
                                         .object = "vm/b",
                                         .objects = (const char *const[]){"vm/b", NULL},
                                         .by = "tester",
                                         .data = of},
                                 NULL, &child, NULL),
                0);
        task_engine_run(state->engine);
        assert_int_equal(submit_as(state, "triple", "vm/c", NULL, other, NULL), 0);
        task_engine_run(state->engine);
        assert_int_equal(task_trim(state->store, state->engine, 1, NULL), 0);
        assert_state(state, json_text(child, "uid"), "succeeded");
        assert_int_equal(store_get(state->store, "task", older, &doc, NULL), -ENOENT);
        assert_state(state, other, "succeeded"); /* the newest one, though two are older and kept */
}

static void count_commit(void *userdata)
{
        ++*(int *)userdata;
}

static json_int_t recorded_percent(struct state *state, const char *uid)
{
        _cleanup_json_ json_t *doc = NULL;

        assert_int_equal(store_get(state->store, "task", uid, &doc, NULL), 0);
        return json_integer_value(json_object_get(json_object_get(json_status(doc), "progress"), "percent"));
}

/* Three tasks, one transaction each half second; and each of them goes on from its own record afterwards. */
static void progress_of_many_is_recorded_together(void **data)
{
        struct state *state = *data;
        char uids[3][64];
        int n_commits = 0;

        for (size_t i = 0; i < 3; i++) {
                char object[16];

                snprintf(object, sizeof(object), "vm/%zu", i);
                assert_int_equal(submit_as(state, "busy", object, NULL, uids[i], NULL), 0);
        }
        task_engine_run(state->engine);
        store_on_commit(state->store, count_commit, &n_commits);
        for (int i = 0; i < 10; i++) {
                clock_manual_advance(&state->clock, 100);
                task_engine_run(state->engine);
        }
        assert_int_equal(n_commits, 2);
        for (size_t i = 0; i < 3; i++)
                assert_true(recorded_percent(state, uids[i]) > 0);
        for (int i = 0; i < 20; i++) {
                clock_manual_advance(&state->clock, 100);
                task_engine_run(state->engine);
        }
        for (size_t i = 0; i < 3; i++)
                assert_state(state, uids[i], "succeeded");
        store_on_commit(state->store, NULL, NULL);
}

/* Somebody else has changed the record of one of three. */
static void task_that_cannot_be_written_keeps_no_other_from_it(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        char uids[3][64];
        json_t *doc = NULL;

        for (size_t i = 0; i < 3; i++) {
                char object[16];

                snprintf(object, sizeof(object), "vm/%zu", i);
                assert_int_equal(submit_as(state, "busy", object, NULL, uids[i], NULL), 0);
        }
        task_engine_run(state->engine);
        assert_int_equal(store_get(state->store, "task", uids[1], &doc, NULL), 0);
        json_object_del(doc, "revision");
        store_batch_put(&batch, STORE_ANY, doc);
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        for (int i = 0; i < 12; i++) {
                clock_manual_advance(&state->clock, 100);
                task_engine_run(state->engine);
        }
        assert_true(recorded_percent(state, uids[0]) > 0);
        assert_int_equal(recorded_percent(state, uids[1]), 0);
        assert_true(recorded_percent(state, uids[2]) > 0);
        assert_true(task_engine_next_ms(state->engine) > 0);
}

/* With the changes of a step that were refused, its end is refused: what is written of progress afterwards does not tell of it. */
static void progress_does_not_tell_of_a_step_that_was_refused(void **data)
{
        struct state *state = *data;
        char uid[64];

        submit(state, "refused", uid);
        task_engine_run(state->engine);
        assert_string_equal(state->trace, "refused refused ");
        clock_manual_advance(&state->clock, 600);
        task_engine_run(state->engine);
        assert_int_equal(recorded_percent(state, uid), 2);
        restart(state);
        assert_string_equal(state->trace, "refused refused refused ");
}

static void count_task(void *userdata, const struct task *task)
{
        ++*(size_t *)userdata;
}

/* The nth fallible call in it fails, in a build with -Dtorture=true. Whether there were so many. */
static bool submit_tortured(struct state *state, uint64_t nth, int *ret_result)
{
        _cleanup_json_ json_t *doc = NULL;
        bool reached = false;

#ifdef DROVER_TORTURE
        torture_arm(nth);
#endif
        *ret_result = task_submit(state->engine,
                &(struct task_request){.action = "triple",
                        .object = "vm/a",
                        .objects = (const char *const[]){"vm/a", "vm/b", NULL},
                        .by = "tester"},
                NULL, &doc, NULL);
#ifdef DROVER_TORTURE
        reached = torture_count() >= nth;
        torture_arm(0);
#endif
        return reached;
}

static size_t count_decisions(struct state *state)
{
        struct store_query query = {.kind = "audit", .limit = 100};
        json_t *entries = NULL, *entry;
        size_t i, n = 0;

        assert_int_equal(store_list(state->store, &query, &entries, NULL, NULL), 0);
        json_array_foreach (entries, i, entry)
                n += !strcmp(json_text(entry, "result"), "decided") &&
                     !strcmp(json_text(entry, "why"), "it is the best");
        json_decref(entries);
        return n;
}

/* What was refused holds nothing and is not there, nor is it after a restart. */
static void submission_is_whole_or_not_at_all(void **data)
{
        struct state *state = *data;
        bool reached = true;

        for (uint64_t nth = 1; reached; nth++) {
                size_t n = 0;
                int r = 0;

                reached = submit_tortured(state, nth, &r);
                assert_true(reached || r == 0);
                task_each(state->engine, count_task, &n);
                assert_int_equal(n, r < 0 ? 0 : 1);
                assert_int_equal(!!task_holding(state->engine, "vm/a"), n);
                assert_int_equal(!!task_holding(state->engine, "vm/b"), n);
                state->trace[0] = '\0';
                restart(state);
                assert_string_equal(state->trace, r < 0 ? "" : "one two three ");
        }
}

/* Each decides once, by what those before it have decided. */
static void steps_that_decide_at_once_do_not_disturb_each_other(void **data)
{
        static const char *const objects[] = {"vm/a", "vm/b", "vm/c", "vm/d"};
        struct state *state = *data;
        char uid[64];

        for (size_t i = 0; i < ARRAY_SIZE(objects); i++)
                assert_int_equal(submit_as(state, "choose", objects[i], NULL, uid, NULL), 0);
        task_engine_run(state->engine);
        assert_string_equal(state->trace, "choose choose choose choose poll poll poll poll ");
        assert_int_equal(count_decisions(state), ARRAY_SIZE(objects));
}

/* The log's head moves between a decision and the end of its step. */
static void decision_is_logged_when_its_step_is_recorded(void **data)
{
        struct state *state = *data;
        json_t *verdict = NULL;
        char uid[64], other[64];

        assert_int_equal(submit_as(state, "choose-later", "vm/a", NULL, uid, NULL), 0);
        assert_int_equal(submit_as(state, "choose-later", "vm/b", NULL, other, NULL), 0);
        task_engine_run(state->engine);
        assert_int_equal(count_decisions(state), 0);
        for (size_t i = 0; i < state->n_waiting; i++) {
                task_set_pending(state->waiting[i], NULL, NULL);
                task_step_done(state->waiting[i]);
        }
        task_engine_run(state->engine);
        assert_string_equal(state->trace, "choose-later choose-later ");
        assert_state(state, uid, "succeeded");
        assert_state(state, other, "succeeded");
        assert_int_equal(count_decisions(state), 2);
        assert_int_equal(audit_verify(state->store, &verdict, NULL), 0);
        assert_true(json_is_true(json_object_get(verdict, "ok")));
        json_decref(verdict);
}

static json_t *large_object(size_t n_bytes)
{
        char *text = calloc(1, n_bytes + 1);
        json_t *object;

        assert_non_null(text);
        memset(text, 'A', n_bytes);
        object = json_pack("{s:s}", "text", text);
        free(text);
        assert_non_null(object);
        return object;
}

/* Whatever makes it large, it ends, and is undone, and holds nothing any more. */
static void step_that_ends_too_large_fails(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *doc = NULL;
        char uid[64];

        state->large = large_object(STORE_DOCUMENT_MAX);
        for (enum bloat what = 0; what < N_BLOATS; what++)
                for (int again = 0; again < 2; again++) {
                        state->trace[0] = '\0';
                        state->bloat = what;
                        state->bloat_again = again;
                        submit(state, "bloat", uid);
                        task_engine_run(state->engine);
                        assert_string_equal(state->trace, "one bloat undo-bloat undo-one ");
                        assert_state(state, uid, "failed");
                        assert_error(state, uid, "too-large", "larger than 4 MiB");
                        assert_null(task_holding(state->engine, "vm/a"));
                        assert_int_equal(store_get(state->store, "thing", "thing", &doc, NULL), -ENOENT);
                }
}

/* One that is as large as documents can be has no room for what says that it runs, or for the error. */
static void task_that_was_large_when_it_began_ends(void **data)
{
        struct state *state = *data;

        state->fail_at = "three";
        for (size_t less = 400, n = 0; n < 4; less += 40) {
                _cleanup_json_ json_t *child = NULL, *large = json_pack("{s:o}", "answer",
                                                             large_object(STORE_DOCUMENT_MAX - less));

                if (task_submit(state->engine,
                            &(struct task_request){.action = "triple",
                                    .object = "vm/a",
                                    .objects = (const char *const[]){"vm/a", NULL},
                                    .by = "tester",
                                    .data = large},
                            NULL, &child, NULL) < 0)
                        continue;
                n++;
                task_engine_run(state->engine);
                assert_state(state, json_text(child, "uid"), "failed");
                assert_null(task_holding(state->engine, "vm/a"));
        }
        assert_non_null(strstr(state->trace, "one two three undo-three undo-one "));
}

/* Each has its turn, whoever could go on at once; and one that has ended holds nothing any more when others have a turn. */
static void run_ends_in_time_and_the_next_one_goes_on(void **data)
{
        static const char *const objects[] = {"vm/a", "vm/b", "vm/c", "vm/d", "vm/e"};
        struct state *state = *data;
        char uids[ARRAY_SIZE(objects)][64];
        uint64_t began_ms, longest_ms = 0;
        size_t n_runs = 0;

        for (size_t i = 0; i < ARRAY_SIZE(objects); i++)
                assert_int_equal(submit_as(state, "slow", objects[i], NULL, uids[i], NULL), 0);
        do {
                began_ms = clock_now_ms(&state->clock.clock);
                task_engine_run(state->engine);
                longest_ms = MAX(longest_ms, clock_now_ms(&state->clock.clock) - began_ms);
                n_runs++;
        } while (task_engine_next_ms(state->engine) == 0 && n_runs < 100);
        assert_true(n_runs > 1);
        assert_true(longest_ms <= 30); /* the second step that takes 15 ms began before 20 were over */
        for (size_t i = 0; i < ARRAY_SIZE(objects); i++) {
                assert_state(state, uids[i], "succeeded");
                assert_null(task_holding(state->engine, objects[i]));
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
                TEST(steps_run_in_order),
                TEST(failed_step_undoes_itself_and_what_was_before),
                TEST(failing_undo_is_named_and_the_others_still_run),
                TEST(step_that_keeps_leaves_what_was_made),
                TEST(crash_at_each_point_and_resume),
                TEST(crash_at_each_point_of_undoing_and_resume),
                TEST(locks_are_held_again_after_a_restart),
                TEST(request_id_is_the_same_after_a_restart),
                TEST(cancel_stops_the_step_and_undoes),
                TEST(run_ends_in_time_and_the_next_one_goes_on),
                TEST(cancel_request_survives_a_crash),
                TEST(step_with_its_own_end_is_asked),
                TEST(ended_task_cannot_be_cancelled),
                TEST(time_limit_ends_a_hanging_task),
                TEST(limit_that_ended_in_an_outage_leaves_one_attempt),
                TEST(undoing_that_was_cut_short_by_an_outage_goes_on),
                TEST(step_without_time_limit_waits_on),
                TEST(sleeping_step_runs_again_in_time),
                TEST(news_that_come_while_a_step_asks_are_not_lost),
                TEST(queued_tasks_start_by_priority_then_age),
                TEST(end_is_in_the_audit_log),
                TEST(retention_forgets_the_oldest_ended_tasks),
                TEST(retention_keeps_what_an_unfinished_task_waits_for),
                TEST(progress_of_many_is_recorded_together),
                TEST(task_that_cannot_be_written_keeps_no_other_from_it),
                TEST(progress_does_not_tell_of_a_step_that_was_refused),
                TEST(submission_is_whole_or_not_at_all),
                TEST(steps_that_decide_at_once_do_not_disturb_each_other),
                TEST(decision_is_logged_when_its_step_is_recorded),
                TEST(step_that_ends_too_large_fails),
                TEST(task_that_was_large_when_it_began_ends),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
