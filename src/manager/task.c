/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/task.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "base/text.h"
#include "io/pki.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/task_document.h"

#define PROGRESS_INTERVAL_MS 500
#define PROGRESS_RETRY_MS \
        10000 /* of a task whose record cannot be written: it would keep those of others from going together */
#define RECORD_RETRY_MS 1000
#define RUN_MAX_MS 20 /* then others have their turn on the loop: each step recorded waits for the disk */
#define POKE_INTERVAL_MS 100 /* a step is not woken from outside more often */

enum phase {
        PHASE_QUEUED,   /* may_start decides */
        PHASE_READY,    /* the step's function is to be called */
        PHASE_WAITING,  /* the step has something under way */
        PHASE_SLEEPING, /* until wake_at_ms */
        PHASE_DONE,     /* the step is done, not yet recorded */
        PHASE_FAILED,   /* the step failed with `error`, not yet recorded */
        PHASE_ENDED,    /* recorded as ended; freed by the engine's next round */
};

struct task {
        struct task_engine *engine;
        const struct task_kind *kind;
        struct list link;
        json_t *doc; /* with "internal": step, undoing, deadline_unix_ms, objects, data */
        json_t *status;
        json_t *internal;
        uint64_t revision;
        enum phase phase;
        uint64_t round; /* of the engine, the last in which it had its turn */
        size_t step;
        bool undoing;
        bool cancel_told; /* the step's cancel function was called */
        uint64_t step_started_ms;
        uint64_t deadline_ms; /* of the time limit; the document has it as a date, for the next start */
        size_t n_step_calls;
        uint64_t wake_at_ms;
        uint64_t poked_ms;
        bool poked;           /* while its step had something under way */
        uint64_t retry_at_ms; /* recording failed: not before this */
        uint64_t progress_written_ms;
        bool progress_dirty;
        struct error *error;
        struct store_batch batch;
        void *pending;
        void (*pending_cancel)(void *pending);
};

struct task_engine {
        struct task_engine_config config;
        struct list tasks; /* oldest first */
        struct map by_uid;
        struct map holders; /* object -> task */
        bool running;       /* inside task_engine_run() */
        bool dead;          /* stopped by the crash hook */
        uint64_t round;     /* over all tasks, the one under way */
        bool moved;         /* some task in it */
        bool interrupted;   /* it is to go on */
        uint64_t run_until_ms;
        size_t n_turns; /* in this run */
};

static const char *const state_names[] = {
        [TASK_QUEUED] = "queued",
        [TASK_RUNNING] = "running",
        [TASK_UNDOING] = "undoing",
        [TASK_SUCCEEDED] = "succeeded",
        [TASK_FAILED] = "failed",
        [TASK_CANCELLED] = "cancelled",
};
static_assert(ARRAY_SIZE(state_names) == N_TASK_STATES, "every state has a name");

const char *task_state_to_string(enum task_state state)
{
        return state_names[state];
}

static const struct task_step *step_of(const struct task *task)
{
        return &task->kind->steps[task->step];
}

static uint64_t now_ms(const struct task_engine *engine)
{
        return clock_now_ms(engine->config.clock);
}

static void wake(struct task_engine *engine)
{
        if (!engine->running && engine->config.wake)
                engine->config.wake(engine->config.userdata);
}

static bool crash(struct task_engine *engine, const char *when, const struct task *task)
{
        char point[96];

        if (!engine->config.crash || engine->dead)
                return engine->dead;
        snprintf(point, sizeof(point), "%s:%s%s", when, task->undoing ? "undo-" : "", step_of(task)->name);
        engine->dead = engine->config.crash(engine->config.userdata, task, point);
        return engine->dead;
}

static void drop_pending(struct task *task)
{
        void *pending = TAKE_PTR(task->pending);

        if (pending)
                task->pending_cancel(pending);
}

static void task_free(struct task *task)
{
        if (!task)
                return;
        drop_pending(task);
        store_batch_deinit(&task->batch);
        error_free(task->error);
        json_decref(task->doc);
        free(task);
}
DEFINE_CLEANUP(struct task *, task_free)

static int set_time(json_t *object, const char *key, const struct clock *clock)
{
        char text[32];

        return json_object_set_new(object, key, json_string(text_format_time(clock_unix_ms(clock), text)));
}

static void set_state(struct task *task, enum task_state state)
{
        if (json_object_set_new(task->status, "state", json_string(state_names[state])) < 0)
                task->batch.result = -ENOMEM;
}

/* Brings the document in line with the machine's position. */
static void describe(struct task *task)
{
        bool ended = task->phase == PHASE_ENDED;
        int r = 0;

        r |= json_object_set_new(task->internal, "step", json_integer((json_int_t)task->step));
        r |= json_object_set_new(task->internal, "undoing", json_boolean(task->undoing));
        r |= json_object_set_new(
                task->status, "step", ended ? json_null() : json_string(step_of(task)->name));
        if (r < 0)
                task->batch.result = -ENOMEM;
}

static void batch_truncate(struct store_batch *batch, size_t n_changes)
{
        while (batch->n_changes > n_changes) {
                struct store_change *change = &batch->changes[--batch->n_changes];

                free(change->kind);
                free(change->uid);
                free(change->name);
                json_decref(change->doc);
        }
        batch->result = 0;
}

/* Commits the task's document together with what the step left in its batch. The batch is emptied on success. */
static int record(struct task *task, struct error **ret_error)
{
        struct task_engine *engine = task->engine;
        size_t n_before = task->batch.n_changes;
        json_t *copy = json_deep_copy(task->doc);
        int r;

        if (!copy)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        store_batch_put(&task->batch, task->revision ?: STORE_ABSENT, copy);
        r = store_commit(engine->config.store, &task->batch, &task->revision, ret_error);
        if (r < 0) {
                batch_truncate(&task->batch, n_before);
                return r;
        }
        store_batch_deinit(&task->batch);
        task->progress_dirty = false;
        task->progress_written_ms = now_ms(engine);
        return 0;
}

/* What a document says of the machine's position, for the case that a move of it cannot be recorded. */
struct position {
        json_t *status, *internal;
};

static void position_deinit(struct position *position)
{
        json_decref(position->status);
        json_decref(position->internal);
}
#define _cleanup_position_ _cleanup_(position_deinit)

static int remember_position(const struct task *task, struct position *ret_position, struct error **ret_error)
{
        *ret_position = (struct position){json_copy(task->status), json_copy(task->internal)};
        return ret_position->status && ret_position->internal
                       ? 0
                       : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

/* The document must not tell of a move that was not recorded: it may be written for other reasons. */
static void put_back(struct task *task, const struct position *position)
{
        (void)json_object_update(task->status, position->status); /* the same keys: needs no memory */
        (void)json_object_update(task->internal, position->internal);
}

static const char *audit_result(enum task_state state)
{
        return state == TASK_SUCCEEDED ? "done" : state == TASK_CANCELLED ? "cancelled" : "failed";
}

static int audit_end(struct task *task, enum task_state state, struct error **ret_error)
{
        const json_t *spec = json_spec(task->doc);
        json_t *result = json_object_get(task->status, "result");
        _cleanup_json_ json_t *audited =
                result && task->kind->audited ? task->kind->audited(result) : json_incref(result);
        _cleanup_json_ json_t *detail = json_pack("{s:s, s:O?, s:s?}", "task", task_name(task), "result",
                audited, "error", json_text_or_null(json_object_get(task->status, "error"), "detail"));

        if (!detail)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return audit_add(task->engine->config.store, task->engine->config.clock, &task->batch,
                &(struct audit_entry){.who = json_text(spec, "by"),
                        .action = json_text(spec, "action"),
                        .object = json_text_or_null(spec, "object"),
                        .why = json_text_or_null(spec, "why"),
                        .result = audit_result(state),
                        .detail = detail},
                ret_error);
}

/* Records the task's end: 0, or the failed commit's error with the task as it was. */
static int finish(struct task *task, enum task_state state, struct error **ret_error)
{
        struct task_engine *engine = task->engine;
        _cleanup_position_ struct position before = {};
        size_t n_before = task->batch.n_changes;
        enum phase phase = task->phase;
        int r = remember_position(task, &before, ret_error);

        if (r < 0)
                return r;
        task->phase = PHASE_ENDED;
        set_state(task, state);
        describe(task);
        if (set_time(task->status, "finished", engine->config.clock) < 0)
                task->batch.result = -ENOMEM;
        r = audit_end(task, state, ret_error);
        if (r >= 0)
                r = record(task, ret_error);
        if (r < 0) {
                batch_truncate(&task->batch, n_before);
                task->phase = phase;
                put_back(task, &before);
                return r;
        }
        if (engine->config.ended)
                engine->config.ended(engine->config.userdata, task, state, task->doc);
        return 0;
}

static void begin_step(struct task *task);

/* The store did not take the end of a step. When an object was changed under the step's own changes, the step runs again
 * and sees the new state; a name that is taken is its failure. Anything else (disk full, locked) is tried again, for the
 * step's effect is real and must not be forgotten. */
static void record_failed(struct task *task, struct error *error)
{
        bool own = task->batch.n_changes > 0 && task->phase == PHASE_DONE && error;

        if (own && error->code == ERROR_REVISION_MISMATCH) {
                log_debug("task %s: step %s runs again: %s", task_name(task), step_of(task)->name,
                        error_message(error));
                store_batch_deinit(&task->batch);
                error_free(error);
                begin_step(task);
                return;
        }
        if (own && error->code == ERROR_EXISTS) {
                store_batch_deinit(&task->batch);
                error_free(task->error);
                task->error = error;
                task->phase = PHASE_FAILED;
                return;
        }
        log_error("task %s: cannot record step %s: %s", task_name(task), step_of(task)->name,
                error_message(error));
        error_free(error);
        task->retry_at_ms = now_ms(task->engine) + RECORD_RETRY_MS;
}

static void begin_step(struct task *task)
{
        task->phase = PHASE_READY;
        task->poked = false;
        task->cancel_told = false;
        task->n_step_calls = 0;
        task->step_started_ms = now_ms(task->engine);
}

static void set_deadline(struct task *task)
{
        int64_t deadline = clock_unix_ms(task->engine->config.clock) + (int64_t)task->kind->timeout_ms;

        task->deadline_ms = now_ms(task->engine) + task->kind->timeout_ms;
        if (json_object_set_new(task->internal, "deadline_unix_ms", json_integer(deadline)) < 0)
                task->batch.result = -ENOMEM;
}

static void start(struct task *task)
{
        _cleanup_position_ struct position before = {};
        _cleanup_error_ struct error *error = NULL;
        int r;

        if (task->kind->starting && task->kind->starting(task, task->engine->config.userdata) < 0) {
                task->retry_at_ms = now_ms(task->engine) + RECORD_RETRY_MS;
                return;
        }
        r = remember_position(task, &before, &error);
        if (r >= 0) {
                set_state(task, TASK_RUNNING);
                set_deadline(task);
                if (set_time(task->status, "started", task->engine->config.clock) < 0)
                        task->batch.result = -ENOMEM;
                describe(task);
                r = record(task, &error);
                if (r < 0)
                        put_back(task, &before);
        }
        if (r < 0) {
                record_failed(task, TAKE_PTR(error));
                return;
        }
        begin_step(task);
}

static struct error *cancelled_error(void)
{
        struct error *error = NULL;

        error_set(&error, ERROR_CANCELLED, NULL, "the task was cancelled");
        return error;
}

/* A finished step: on to the next one, or to the end. */
static void record_done(struct task *task)
{
        _cleanup_position_ struct position before = {};
        _cleanup_error_ struct error *error = NULL;
        size_t step = task->step;
        int r;

        if (crash(task->engine, "after", task))
                return;
        if (task->undoing ? task->step == 0 : task->step + 1 == task->kind->n_steps) {
                bool cancelled =
                        task->undoing && task_cancel_requested(task) &&
                        !strcmp(json_text(json_object_get(task->status, "error"), "code"), "cancelled");

                r = finish(task,
                        !task->undoing ? TASK_SUCCEEDED
                        : cancelled    ? TASK_CANCELLED
                                       : TASK_FAILED,
                        &error);
        } else if ((r = remember_position(task, &before, &error)) >= 0) {
                task->step = task->undoing ? step - 1 : step + 1;
                if (task->undoing)
                        set_deadline(task);
                describe(task);
                r = record(task, &error);
                if (r >= 0 && task_cancel_requested(task) && !task->undoing &&
                        step_of(task)->cancel == NULL) {
                        begin_step(task);
                        task_step_failed(task, cancelled_error());
                        return;
                }
                if (r >= 0)
                        begin_step(task);
                else {
                        task->step = step;
                        put_back(task, &before);
                }
        }
        if (r < 0)
                record_failed(task, TAKE_PTR(error));
}

static bool has_undo(const struct task *task)
{
        for (size_t i = 0; i <= task->step; i++)
                if (task->kind->steps[i].undo)
                        return true;
        return false;
}

/* The first failure: what was done is undone, beginning with this very step. */
static void record_failure(struct task *task)
{
        _cleanup_position_ struct position before = {};
        _cleanup_error_ struct error *error = NULL;
        json_t *problem;
        bool cancelled = task->error && task->error->code == ERROR_CANCELLED;
        int r = remember_position(task, &before, &error);

        if (r < 0) {
                record_failed(task, TAKE_PTR(error));
                return;
        }
        problem = error_to_json(task->error);
        if (!problem || json_object_set_new(task->status, "error", problem) < 0)
                task->batch.result = -ENOMEM;
        if (!has_undo(task) || step_of(task)->keep) {
                r = finish(task, cancelled ? TASK_CANCELLED : TASK_FAILED, &error);
        } else {
                task->undoing = true;
                set_state(task, TASK_UNDOING);
                set_deadline(task);
                describe(task);
                r = record(task, &error);
                if (r >= 0)
                        begin_step(task);
                else
                        task->undoing = false;
        }
        if (r < 0) {
                put_back(task, &before);
                record_failed(task, TAKE_PTR(error));
        }
}

/* An undo step that fails is named in the task's error, and the others still run. */
static void skip_failed_undo(struct task *task)
{
        json_t *problem = json_object_get(task->status, "error");
        _cleanup_free_ char *text = alloc_printf("%s (and undoing step %s failed: %s)",
                json_text(problem, "detail"), step_of(task)->name, error_message(task->error));

        log_warning("task %s: undoing step %s failed: %s", task_name(task), step_of(task)->name,
                error_message(task->error));
        if (text && json_object_set_new(problem, "detail", json_string(text)) < 0)
                log_debug("task %s: no memory for the message", task_name(task));
        error_free(TAKE_PTR(task->error));
        task->phase = PHASE_DONE;
}

static void call_step(struct task *task)
{
        task_step_fn fn = task->undoing ? step_of(task)->undo : step_of(task)->run;

        if (task->phase == PHASE_READY && crash(task->engine, "before", task))
                return;
        task->phase = PHASE_WAITING;
        task->n_step_calls++;
        if (!fn)
                task_step_done(task);
        else
                fn(task, task->engine->config.userdata);
}

/* A date that is set while we run is no reason to give up. */
static bool timed_out(const struct task *task)
{
        return !step_of(task)->no_timeout && now_ms(task->engine) >= task->deadline_ms;
}

/* Cancel requests and time limits, for a task whose step is under way. */
static void interrupt(struct task *task)
{
        struct error *error = NULL;

        if (timed_out(task)) {
                error_set(&error, ERROR_TIMED_OUT, "Look at the host's agent and try again.",
                        "step %s did not end within the task's time limit", step_of(task)->name);
                task_step_failed(task, error);
                return;
        }
        if (!task_cancel_requested(task) || task->undoing || task->cancel_told)
                return;
        task->cancel_told = true;
        if (step_of(task)->cancel)
                step_of(task)->cancel(task, task->engine->config.userdata);
        else
                task_step_failed(task, cancelled_error());
}

/* One move of one task; false when there is none to make now. */
static bool advance(struct task *task)
{
        enum phase before = task->phase;
        uint64_t now = now_ms(task->engine);

        if (task->retry_at_ms > now)
                return false;
        if (task->phase == PHASE_WAITING || task->phase == PHASE_SLEEPING || task->phase == PHASE_READY)
                interrupt(task);
        switch (task->phase) {
        case PHASE_QUEUED:
                if (task_cancel_requested(task)) {
                        task->error = cancelled_error();
                        record_failure(task);
                } else if (!task->kind->may_start ||
                           task->kind->may_start(task, task->engine->config.userdata))
                        start(task);
                break;
        case PHASE_READY:
                call_step(task);
                return true;
        case PHASE_SLEEPING:
                if (task->wake_at_ms > now)
                        break;
                call_step(task);
                return true;
        case PHASE_DONE:
                record_done(task);
                return !task->retry_at_ms || task->retry_at_ms <= now;
        case PHASE_FAILED:
                if (task->undoing)
                        skip_failed_undo(task);
                else
                        record_failure(task);
                return task->retry_at_ms <= now;
        case PHASE_WAITING:
        case PHASE_ENDED:
                break;
        }
        return task->phase != before;
}

/* Between two steps the document goes with what the step has changed, or not at all. */
static bool has_progress(const struct task *task)
{
        return task->progress_dirty &&
               (task->phase == PHASE_READY || task->phase == PHASE_WAITING || task->phase == PHASE_SLEEPING);
}

static bool progress_is_old(const struct task *task, uint64_t age_ms)
{
        return has_progress(task) && now_ms(task->engine) >= task->progress_written_ms + age_ms;
}

static bool some_progress_is_due(const struct task_engine *engine)
{
        struct task *task;

        list_for_each (task, &engine->tasks, link)
                if (progress_is_old(task, PROGRESS_INTERVAL_MS))
                        return true;
        return false;
}

static void progress_written(struct task *task, uint64_t revision)
{
        task->revision = revision;
        task->progress_dirty = false;
}

static void flush_alone(struct task *task)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        uint64_t revision;

        store_batch_put(&batch, task->revision, json_incref(task->doc));
        if (store_commit(task->engine->config.store, &batch, &revision, &error) >= 0) {
                progress_written(task, revision);
                return;
        }
        log_debug("progress of task %s not recorded: %s", task_name(task), error_message(error));
        task->progress_written_ms = now_ms(task->engine) + PROGRESS_RETRY_MS;
}

/* It is one document that cannot be written, and not the store that cannot write. */
static bool is_about_one(const struct error *error)
{
        return error && (error->code == ERROR_REVISION_MISMATCH || error->code == ERROR_EXISTS ||
                                error->code == ERROR_TOO_LARGE);
}

/* In one transaction: hundreds of tasks make progress at once, and each transaction waits for the disk. Those that are due soon
 * go along. One that cannot be written keeps no other from it. */
static void flush_progress(struct task_engine *engine)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        uint64_t revision = 0;
        bool alone = false;
        struct task *task;

        if (!some_progress_is_due(engine))
                return;
        list_for_each (task, &engine->tasks, link)
                if (progress_is_old(task, PROGRESS_INTERVAL_MS / 2)) {
                        store_batch_put(&batch, task->revision, json_incref(task->doc));
                        task->progress_written_ms = now_ms(engine); /* or tried */
                }
        if (store_commit(engine->config.store, &batch, &revision, &error) < 0) {
                log_debug("progress of %zu tasks not recorded: %s", batch.n_changes, error_message(error));
                alone = is_about_one(error);
                if (!alone)
                        return;
        }
        for (size_t i = 0; i < batch.n_changes; i++) {
                task = map_get(&engine->by_uid, batch.changes[i].uid);
                if (alone)
                        flush_alone(task);
                else /* each document has taken one number */
                        progress_written(task, revision - (batch.n_changes - 1 - i));
        }
}

static void forget(struct task *task)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &task->engine->holders)
                if (item->value == task)
                        map_remove(&task->engine->holders, item->key);
        map_remove(&task->engine->by_uid, task_uid(task));
        list_remove(&task->link);
        task_free(task);
}

static const char *const priorities[] = {"critical", "high", "normal", "low"};

/* False: the time is over, and the round goes on in the next run with those that have not had their turn. */
static bool advance_all(struct task_engine *engine)
{
        struct task *task;

        for (size_t i = 0; i < ARRAY_SIZE(priorities); i++)
                list_for_each (task, &engine->tasks, link) {
                        if (engine->dead)
                                return true;
                        if (task->round == engine->round || strcmp(task_priority(task), priorities[i]) != 0)
                                continue;
                        if (engine->n_turns++ && now_ms(engine) >= engine->run_until_ms)
                                return false;
                        task->round = engine->round;
                        engine->moved |= advance(task);
                }
        return true;
}

/* One round over all tasks; queued ones of higher priority get their chance first. Whether there may be more to do at once. */
static bool run_round(struct task_engine *engine)
{
        struct task *task, *spare;
        bool moved = false;

        engine->interrupted = !advance_all(engine);
        if (engine->dead)
                return false;
        if (!engine->interrupted) {
                moved = engine->moved;
                engine->moved = false;
                engine->round++;
                flush_progress(engine);
        }
        /* Before anybody else has a turn: who reads that a task has ended may ask for the next one about its objects. */
        list_for_each_safe (task, spare, &engine->tasks, link) {
                if (engine->dead)
                        return false;
                if (task->phase == PHASE_ENDED) {
                        forget(task);
                        moved = !engine->interrupted; /* others may start now */
                }
        }
        return moved;
}

void task_engine_run(struct task_engine *engine)
{
        if (engine->running || engine->dead)
                return;
        engine->running = true;
        engine->run_until_ms = now_ms(engine) + RUN_MAX_MS;
        engine->n_turns = 0;
        while (run_round(engine))
                ;
        engine->running = false;
}

uint64_t task_engine_next_ms(const struct task_engine *engine)
{
        uint64_t now = now_ms(engine), next = UINT64_MAX;
        struct task *task;

        if (engine->interrupted)
                return 0;
        list_for_each (task, &engine->tasks, link) {
                if (task->retry_at_ms > now)
                        next = MIN(next, task->retry_at_ms - now);
                else if (task->phase == PHASE_SLEEPING)
                        next = MIN(next, task->wake_at_ms > now ? task->wake_at_ms - now : 0);
                if (has_progress(task)) {
                        uint64_t at = task->progress_written_ms + PROGRESS_INTERVAL_MS;

                        next = MIN(next, at > now ? at - now : 0);
                }
                if ((task->phase == PHASE_WAITING || task->phase == PHASE_SLEEPING) &&
                        !step_of(task)->no_timeout)
                        next = MIN(next, task->deadline_ms > now ? task->deadline_ms - now : 0);
        }
        return next;
}

static const struct task_kind *find_kind(const struct task_engine *engine, const char *action)
{
        for (size_t i = 0; engine->config.kinds[i]; i++)
                if (!strcmp(engine->config.kinds[i]->action, action))
                        return engine->config.kinds[i];
        return NULL;
}

/* Takes the document over. */
static int task_new(struct task_engine *engine, json_t *doc, struct task **ret_task)
{
        _cleanup_(task_freep) struct task *task = ALLOC(struct task);

        if (!task) {
                json_decref(doc);
                return -ENOMEM;
        }
        list_init(&task->link);
        task->engine = engine;
        task->doc = doc;
        task->status = json_status(doc);
        task->internal = json_object_get(doc, "internal");
        task->kind = find_kind(engine, json_text(json_spec(doc), "action"));
        task->progress_written_ms = now_ms(engine);
        *ret_task = TAKE_PTR(task);
        return 0;
}

/* Puts the task among the engine's own: it holds its objects from here on. */
static int enlist(struct task *task)
{
        struct task_engine *engine = task->engine;
        json_t *object;
        size_t i;
        int r;

        r = map_put(&engine->by_uid, task_uid(task), task, NULL);
        if (r < 0)
                return r;
        list_append(&engine->tasks, &task->link);
        json_array_foreach (json_object_get(task->internal, "objects"), i, object) {
                r = map_put(&engine->holders, json_string_value(object), task, NULL);
                if (r < 0)
                        return r;
        }
        return 0;
}

static void resume_deadline(struct task *task)
{
        json_int_t deadline = json_integer_value(json_object_get(task->internal, "deadline_unix_ms"));
        int64_t left = deadline - clock_unix_ms(task->engine->config.clock);

        task->deadline_ms =
                now_ms(task->engine) + (uint64_t)CLAMP(left, (int64_t)0, (int64_t)task->kind->timeout_ms);
}

static void resume(struct task *task)
{
        const char *state = json_text(task->status, "state");

        task->step = (size_t)json_integer_value(json_object_get(task->internal, "step"));
        task->undoing = json_is_true(json_object_get(task->internal, "undoing"));
        resume_deadline(task);
        if (!strcmp(state, "queued"))
                task->phase = PHASE_QUEUED;
        else
                begin_step(task);
}

/* A kind or step that this program does not have: the task cannot go on. */
static int fail_unknown(struct task *task, struct error **ret_error)
{
        static const struct task_step none = {.name = "unknown"};
        static const struct task_kind unknown = {.action = "unknown", .steps = &none, .n_steps = 1};
        struct error *error = NULL;

        task->kind = &unknown;
        task->step = 0;
        error_set(&error, ERROR_NOT_SUPPORTED, "Look at the object and repeat the operation.",
                "this version of drover-manager does not know how to go on with the task");
        if (json_object_set_new(task->status, "error", error_to_json(error)) < 0)
                task->batch.result = -ENOMEM;
        error_free(error);
        return finish(task, TASK_FAILED, ret_error);
}

static bool is_unfinished(void *userdata, const json_t *doc)
{
        return task_document_unfinished(doc);
}

static int load_one(struct task_engine *engine, json_t *doc, struct error **ret_error)
{
        _cleanup_(task_freep) struct task *task = NULL;
        uint64_t revision = json_revision(doc);
        int r;

        json_object_del(doc, "revision");
        r = task_new(engine, json_incref(doc), &task);
        if (r < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        task->revision = revision;
        if (!task->kind ||
                (size_t)json_integer_value(json_object_get(task->internal, "step")) >= task->kind->n_steps)
                return fail_unknown(task, ret_error);
        resume(task);
        r = enlist(task);
        if (r < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        TAKE_PTR(task);
        return 0;
}

int task_engine_new(
        const struct task_engine_config *config, struct task_engine **ret_engine, struct error **ret_error)
{
        _cleanup_(task_engine_freep) struct task_engine *engine = ALLOC(struct task_engine);
        struct store_query query = {.kind = "task", .limit = STORE_LIMIT_NONE, .match = is_unfinished};
        _cleanup_json_ json_t *docs = NULL;
        json_t *doc;
        size_t i;
        int r;

        if (!engine)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        engine->config = *config;
        engine->round = 1;
        list_init(&engine->tasks);
        map_init(&engine->by_uid);
        map_init(&engine->holders);
        r = store_list(config->store, &query, &docs, NULL, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (docs, i, doc) {
                r = load_one(engine, doc, ret_error);
                if (r < 0)
                        return r;
        }
        *ret_engine = TAKE_PTR(engine);
        return 0;
}

void task_engine_free(struct task_engine *engine)
{
        struct task *task, *spare;

        if (!engine)
                return;
        engine->dead = true;
        list_for_each_safe (task, spare, &engine->tasks, link) {
                list_remove(&task->link);
                task_free(task);
        }
        map_deinit(&engine->by_uid);
        map_deinit(&engine->holders);
        free(engine);
}

static int refuse_busy(
        struct task_engine *engine, const struct task_request *request, struct error **ret_error)
{
        for (size_t i = 0; request->objects && request->objects[i]; i++) {
                const struct task *holder = task_holding(engine, request->objects[i]);

                if (!holder)
                        continue;
                error_set(ret_error, ERROR_BUSY,
                        "Wait for that task, or cancel it with `drover task cancel`.",
                        "%s is held by task %s (%s)", request->object, task_name(holder),
                        task_action(holder));
                error_about(ret_error, "%s", request->object);
                return -EBUSY;
        }
        return 0;
}

int task_submit(struct task_engine *engine, const struct task_request *request, struct store_batch *batch,
        json_t **ret_doc, struct error **ret_error)
{
        const struct task_kind *kind = find_kind(engine, request->action);
        _cleanup_(task_freep) struct task *task = NULL;
        uint64_t revision = 0;
        json_t *doc;
        int r;

        r = refuse_busy(engine, request, ret_error);
        if (r < 0)
                return r;
        r = store_revision(engine->config.store, &revision, ret_error);
        if (r < 0)
                return r;
        doc = kind ? task_document_new(engine->config.clock, kind, request, revision + 1) : NULL;
        if (!doc || task_new(engine, doc, &task) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (batch) {
                task->batch = *batch;
                *batch = STORE_BATCH_INIT;
        }
        r = audit_add(engine->config.store, engine->config.clock, &task->batch,
                &(struct audit_entry){.who = request->by,
                        .from = request->from,
                        .action = request->action,
                        .object = request->object,
                        .why = request->why,
                        .result = "accepted",
                        .detail = json_object_get(json_spec(doc), "input")},
                ret_error);
        if (r < 0)
                return r;
        r = record(task, ret_error);
        if (r < 0)
                return r;
        /* Recorded: if memory is short from here on, the next start of the manager picks it up. */
        if (ret_doc)
                *ret_doc = task_public(task->doc);
        if (ret_doc && *ret_doc)
                json_object_set_new(*ret_doc, "revision", json_integer((json_int_t)task->revision));
        r = enlist(task);
        if (r < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        TAKE_PTR(task);
        wake(engine);
        return 0;
}

/* Records the request, and who made it, in one transaction. */
static int record_cancel(struct task *task, const struct audit_entry *audit, struct error **ret_error)
{
        struct store_batch waiting = task->batch;
        int r = 0;

        task->batch = STORE_BATCH_INIT;
        if (audit)
                r = audit_add(task->engine->config.store, task->engine->config.clock, &task->batch, audit,
                        ret_error);
        if (r >= 0)
                r = record(task, ret_error);
        store_batch_deinit(&task->batch);
        task->batch = waiting;
        return r;
}

int task_cancel(struct task_engine *engine, const char *uid, const struct audit_entry *audit,
        struct error **ret_error)
{
        struct task *task = map_get(&engine->by_uid, uid);
        int r;

        if (!task || task->undoing || task->phase == PHASE_ENDED)
                return error_set(ret_error, ERROR_CONFLICT, NULL,
                        task && task->undoing ? "the task is being undone already"
                                              : "the task has ended already");
        if (task_cancel_requested(task))
                return 0;
        if (json_object_set_new(task->status, "cancel_requested", json_true()) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = record_cancel(task, audit, ret_error);
        if (r < 0) {
                json_object_set_new(task->status, "cancel_requested", json_false());
                return r;
        }
        wake(engine);
        return 0;
}

void task_poke(struct task_engine *engine, const char *uid)
{
        struct task *task = map_get(&engine->by_uid, uid);
        uint64_t now = now_ms(engine);

        if (task && task->phase == PHASE_WAITING)
                task->poked = true; /* what it is asking for just now may have been answered before */
        if (!task || task->phase != PHASE_SLEEPING)
                return;
        task->wake_at_ms = MIN(task->wake_at_ms, MAX(now, task->poked_ms + POKE_INTERVAL_MS));
        task->poked_ms = task->wake_at_ms;
        wake(engine);
}

const struct task *task_holding(const struct task_engine *engine, const char *object)
{
        return map_get(&engine->holders, object);
}

const struct task *task_find(const struct task_engine *engine, const char *uid)
{
        return map_get(&engine->by_uid, uid);
}

void task_each(
        const struct task_engine *engine, void (*fn)(void *userdata, const struct task *task), void *userdata)
{
        struct task *task;

        list_for_each (task, &engine->tasks, link)
                fn(userdata, task);
}

const char *task_uid(const struct task *task)
{
        return json_text(task->doc, "uid");
}

const char *task_name(const struct task *task)
{
        return json_text(task->doc, "name");
}

const char *task_action(const struct task *task)
{
        return json_text(json_spec(task->doc), "action");
}

const json_t *task_input(const struct task *task)
{
        return json_object_get(json_spec(task->doc), "input");
}

json_t *task_data(const struct task *task)
{
        return json_object_get(task->internal, "data");
}

bool task_running(const struct task *task)
{
        return task->phase != PHASE_QUEUED && task->phase != PHASE_ENDED;
}

bool task_queued(const struct task *task)
{
        return task->phase == PHASE_QUEUED;
}

const char *task_object(const struct task *task)
{
        return json_text(json_spec(task->doc), "object");
}

const char *task_priority(const struct task *task)
{
        return json_text(json_spec(task->doc), "priority");
}

int64_t task_queued_unix_ms(const struct task *task)
{
        return json_integer_value(json_object_get(task->internal, "queued_unix_ms"));
}

int task_set_queue(struct task *task, json_t *queue)
{
        return queue && json_object_set_new(task->status, "queue", queue) == 0 ? 0 : -ENOMEM;
}

bool task_cancel_requested(const struct task *task)
{
        return json_is_true(json_object_get(task->status, "cancel_requested"));
}

void task_request_id(const struct task *task, char ret_uuid[static 37])
{
        char text[96], hash[PKI_FINGERPRINT_SIZE] = "00000000000000000000000000000000";

        snprintf(text, sizeof(text), "%s:%zu:%d", task_uid(task), task->step, task->undoing);
        (void)pki_sha256_hex(text, strlen(text), hash);
        snprintf(
                ret_uuid, 37, "%.8s-%.4s-4%.3s-8%.3s-%.12s", hash, hash + 8, hash + 13, hash + 17, hash + 20);
}

bool task_step_first(const struct task *task)
{
        return task->n_step_calls == 1;
}

uint64_t task_step_elapsed_ms(const struct task *task)
{
        return now_ms(task->engine) - task->step_started_ms;
}

void task_step_done(struct task *task)
{
        if (task->phase == PHASE_ENDED)
                return;
        task->phase = PHASE_DONE;
        wake(task->engine);
}

void task_step_failed(struct task *task, struct error *error)
{
        if (task->phase == PHASE_ENDED) {
                error_free(error);
                return;
        }
        drop_pending(task);
        store_batch_deinit(&task->batch);
        if (!error)
                error_set(&error, ERROR_NO_MEMORY, NULL, "out of memory");
        error_free(task->error);
        task->error = error;
        task->phase = PHASE_FAILED;
        wake(task->engine);
}

void task_step_again(struct task *task, uint64_t delay_ms)
{
        task->phase = PHASE_SLEEPING;
        task->wake_at_ms = now_ms(task->engine) + delay_ms;
        if (task->poked)
                task_poke(task->engine, task_uid(task));
        task->poked = false;
        wake(task->engine);
}

void task_set_pending(struct task *task, void *pending, void (*cancel)(void *pending))
{
        task->pending = pending;
        task->pending_cancel = cancel;
}

struct store_batch *task_batch(struct task *task)
{
        return &task->batch;
}

void task_progress(struct task *task, json_t *progress)
{
        if (!progress || json_equal(progress, json_object_get(task->status, "progress"))) {
                json_decref(progress);
                return;
        }
        if (json_object_set_new(task->status, "progress", progress) < 0)
                return;
        task->progress_dirty = true;
        wake(task->engine);
}

void task_set_result(struct task *task, json_t *result)
{
        if (!result || json_object_set_new(task->status, "result", result) < 0)
                task->batch.result = -ENOMEM;
}

int task_record(struct task *task, struct store_batch *batch, struct error **ret_error)
{
        struct store_batch waiting = task->batch;
        int r;

        /* What the step has collected belongs to its end, not to this. */
        task->batch = *batch;
        r = record(task, ret_error);
        *batch = task->batch;
        task->batch = waiting;
        return r;
}

int task_checkpoint(struct task *task, struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        return task_record(task, &batch, ret_error);
}
