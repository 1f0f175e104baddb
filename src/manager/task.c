/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/task_private.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/pki.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/task_document.h"

#define RECORD_RETRY_MS 1000
#define RUN_MAX_MS 20 /* then others have their turn on the loop: each step recorded waits for the disk */
#define POKE_INTERVAL_MS 100 /* a step is not woken from outside more often */

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
        snprintf(point, sizeof(point), "%s:%s%s", when, task->undoing ? "undo-" : "",
                task_step_of(task)->name);
        engine->dead = engine->config.crash(engine->config.userdata, task, point);
        return engine->dead;
}

static void run_step_again(struct task *task)
{
        json_decref(TAKE_PTR(task->decision));
        task->phase = PHASE_READY;
        task->poked = false;
        task->cancel_told = false;
        task->n_step_calls = 0;
        task->step_started_ms = task_now_ms(task->engine);
}

/* The store refuses the step's end for good: takes the error over. */
static void fail_recording(struct task *task, struct error *error)
{
        store_batch_deinit(&task->batch);
        error_free(task->error);
        task->error = error;
        task->phase = PHASE_FAILED;
}

/* The store did not take the end of a step. When an object was changed under the step's own changes, the step runs again
 * and sees the new state; a name that is taken is its failure, and so is a document that is too large, without what the step made large:
 * whatever a host answers, the task ends. Anything else (disk full, locked) is tried again, for the step's effect is real and must not be
 * forgotten. */
static void record_failed(struct task *task, struct error *error)
{
        bool own = task->batch.n_changes > 0 && task->phase == PHASE_DONE && error;

        if (own && error->code == ERROR_REVISION_MISMATCH) {
                log_debug("task %s: step %s runs again: %s", task_name(task), task_step_of(task)->name,
                        error_message(error));
                store_batch_deinit(&task->batch);
                error_free(error);
                run_step_again(task);
                return;
        }
        if (own && error->code == ERROR_EXISTS) {
                fail_recording(task, error);
                return;
        }
        if (error && error->code == ERROR_TOO_LARGE && task_make_smaller(task)) {
                log_warning("task %s: step %s: %s", task_name(task), task_step_of(task)->name,
                        error_message(error));
                if (task->phase == PHASE_FAILED)
                        error_free(error); /* that of the failure stays */
                else
                        fail_recording(task, error);
                return;
        }
        log_error("task %s: cannot record step %s: %s", task_name(task), task_step_of(task)->name,
                error_message(error));
        error_free(error);
        task->retry_at_ms = task_now_ms(task->engine) + RECORD_RETRY_MS;
}

void task_begin_step(struct task *task)
{
        json_decref(task->data_before);
        task->data_before = json_deep_copy(task_data(task));
        task->n_too_large = 0;
        run_step_again(task);
}

static void start(struct task *task)
{
        _cleanup_position_ struct task_position before = {};
        _cleanup_error_ struct error *error = NULL;
        int r;

        if (task->kind->starting && task->kind->starting(task, task->engine->config.userdata) < 0) {
                task->retry_at_ms = task_now_ms(task->engine) + RECORD_RETRY_MS;
                return;
        }
        r = task_remember_position(task, &before, &error);
        if (r >= 0) {
                task_set_state(task, TASK_RUNNING);
                task_set_deadline(task);
                if (task_set_time(task->status, "started", task->engine->config.clock) < 0)
                        task->batch.result = -ENOMEM;
                task_describe(task);
                r = task_record_now(task, &error);
                if (r < 0)
                        task_put_back(task, &before);
        }
        if (r < 0) {
                record_failed(task, TAKE_PTR(error));
                return;
        }
        task_begin_step(task);
}

static struct error *cancelled_error(void)
{
        struct error *error = NULL;

        error_set(&error, ERROR_CANCELLED, NULL, "the task was cancelled");
        return error;
}

static int record_last(struct task *task, struct error **ret_error)
{
        bool cancelled = task->undoing && task_cancel_requested(task) &&
                         !strcmp(json_text(json_object_get(task->status, "error"), "code"), "cancelled");

        return task_finish(task,
                !task->undoing ? TASK_SUCCEEDED
                : cancelled    ? TASK_CANCELLED
                               : TASK_FAILED,
                ret_error);
}

static int record_and_go_on(struct task *task, struct error **ret_error)
{
        _cleanup_position_ struct task_position before = {};
        size_t step = task->step;
        int r = task_remember_position(task, &before, ret_error);

        if (r < 0)
                return r;
        task->step = task->undoing ? step - 1 : step + 1;
        if (task->undoing)
                task_set_deadline(task);
        task_describe(task);
        r = task_record_now(task, ret_error);
        if (r < 0) {
                task->step = step;
                task_put_back(task, &before);
                return r;
        }
        task_begin_step(task);
        if (task_cancel_requested(task) && !task->undoing && task_step_of(task)->cancel == NULL)
                task_step_failed(task, cancelled_error());
        return 0;
}

/* A finished step: on to the next one, or to the end. */
static void record_done(struct task *task)
{
        size_t n_changes = task->batch.n_changes;
        struct error *error = NULL;
        int r;

        if (crash(task->engine, "after", task))
                return;
        r = task_audit_decision(task, &error);
        if (r >= 0 && (task->undoing ? task->step == 0 : task->step + 1 == task->kind->n_steps))
                r = record_last(task, &error);
        else if (r >= 0)
                r = record_and_go_on(task, &error);
        if (r < 0) {
                task_batch_truncate(&task->batch, n_changes);
                record_failed(task, error);
        }
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
        _cleanup_position_ struct task_position before = {};
        _cleanup_error_ struct error *error = NULL;
        json_t *problem;
        bool cancelled = task->error && task->error->code == ERROR_CANCELLED;
        int r = task_remember_position(task, &before, &error);

        if (r < 0) {
                record_failed(task, TAKE_PTR(error));
                return;
        }
        problem = error_to_json(task->error);
        if (!problem || json_object_set_new(task->status, "error", problem) < 0)
                task->batch.result = -ENOMEM;
        if (!has_undo(task) || task_step_of(task)->keep) {
                r = task_finish(task, cancelled ? TASK_CANCELLED : TASK_FAILED, &error);
        } else {
                task->undoing = true;
                task_set_state(task, TASK_UNDOING);
                task_set_deadline(task);
                task_describe(task);
                r = task_record_now(task, &error);
                if (r >= 0)
                        task_begin_step(task);
                else
                        task->undoing = false;
        }
        if (r < 0) {
                task_put_back(task, &before);
                record_failed(task, TAKE_PTR(error));
        }
}

/* An undo step that fails is named in the task's error, and the others still run. */
static void skip_failed_undo(struct task *task)
{
        json_t *problem = json_object_get(task->status, "error");
        _cleanup_free_ char *text = alloc_printf("%s (and undoing step %s failed: %s)",
                json_text(problem, "detail"), task_step_of(task)->name, error_message(task->error));

        log_warning("task %s: undoing step %s failed: %s", task_name(task), task_step_of(task)->name,
                error_message(task->error));
        if (text && json_object_set_new(problem, "detail", json_string(text)) < 0)
                log_debug("task %s: no memory for the message", task_name(task));
        error_free(TAKE_PTR(task->error));
        task->phase = PHASE_DONE;
}

static void call_step(struct task *task)
{
        task_step_fn fn = task->undoing ? task_step_of(task)->undo : task_step_of(task)->run;

        if (task->phase == PHASE_READY && crash(task->engine, "before", task))
                return;
        task->phase = PHASE_WAITING;
        task->n_step_calls++;
        if (!fn)
                task_step_done(task);
        else
                fn(task, task->engine->config.userdata);
        /* In the same turn: what others commit between would make it run again, and they go by what it has decided. */
        if (task->phase == PHASE_DONE)
                record_done(task);
}

/* A date that is set while we run is no reason to give up. */
static bool timed_out(const struct task *task)
{
        return !task_step_of(task)->no_timeout && task_now_ms(task->engine) >= task->deadline_ms;
}

/* Cancel requests and time limits, for a task whose step is under way. */
static void interrupt(struct task *task)
{
        struct error *error = NULL;

        if (timed_out(task)) {
                error_set(&error, ERROR_TIMED_OUT, "Look at the host's agent and try again.",
                        "step %s did not end within the task's time limit", task_step_of(task)->name);
                task_step_failed(task, error);
                return;
        }
        if (!task_cancel_requested(task) || task->undoing || task->cancel_told)
                return;
        task->cancel_told = true;
        if (task_step_of(task)->cancel)
                task_step_of(task)->cancel(task, task->engine->config.userdata);
        else
                task_step_failed(task, cancelled_error());
}

/* One move of one task; false when there is none to make now. */
static bool advance(struct task *task)
{
        enum task_phase before = task->phase;
        uint64_t now = task_now_ms(task->engine);

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
                        if (engine->n_turns++ && task_now_ms(engine) >= engine->run_until_ms)
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
                task_flush_progress(engine);
        }
        /* Before anybody else has a turn: who reads that a task has ended may ask for the next one about its objects. */
        list_for_each_safe (task, spare, &engine->tasks, link) {
                if (engine->dead)
                        return false;
                if (task->phase == PHASE_ENDED) {
                        task_free(task);
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
        engine->run_until_ms = task_now_ms(engine) + RUN_MAX_MS;
        engine->n_turns = 0;
        while (run_round(engine))
                ;
        engine->running = false;
}

uint64_t task_engine_next_ms(const struct task_engine *engine)
{
        uint64_t now = task_now_ms(engine), next = UINT64_MAX;
        struct task *task;

        if (engine->interrupted)
                return 0;
        list_for_each (task, &engine->tasks, link) {
                if (task->retry_at_ms > now)
                        next = MIN(next, task->retry_at_ms - now);
                else if (task->phase == PHASE_SLEEPING)
                        next = MIN(next, task->wake_at_ms > now ? task->wake_at_ms - now : 0);
                if (task_has_progress(task)) {
                        uint64_t at = task->progress_written_ms + PROGRESS_INTERVAL_MS;

                        next = MIN(next, at > now ? at - now : 0);
                }
                if ((task->phase == PHASE_WAITING || task->phase == PHASE_SLEEPING) &&
                        !task_step_of(task)->no_timeout)
                        next = MIN(next, task->deadline_ms > now ? task->deadline_ms - now : 0);
        }
        return next;
}

int task_engine_new(
        const struct task_engine_config *config, struct task_engine **ret_engine, struct error **ret_error)
{
        _cleanup_(task_engine_freep) struct task_engine *engine = ALLOC(struct task_engine);
        int r;

        if (!engine)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        engine->config = *config;
        engine->round = 1;
        list_init(&engine->tasks);
        map_init(&engine->by_uid);
        map_init(&engine->holders);
        r = task_load_all(engine, ret_error);
        if (r < 0)
                return r;
        *ret_engine = TAKE_PTR(engine);
        return 0;
}

void task_engine_free(struct task_engine *engine)
{
        struct task *task, *spare;

        if (!engine)
                return;
        engine->dead = true;
        list_for_each_safe (task, spare, &engine->tasks, link)
                task_free(task);
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
        const struct task_kind *kind = task_find_kind(engine, request->action);
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
        /* Before it is recorded: one that is recorded is also the engine's, and holds its objects. A second one of the same uid is refused
         * by the store. */
        if (!task_find(engine, task_uid(task)) && task_enlist(task) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = task_record_now(task, ret_error);
        if (r < 0)
                return r;
        if (ret_doc)
                *ret_doc = task_public(task->doc);
        if (ret_doc && *ret_doc)
                json_object_set_new(*ret_doc, "revision", json_integer((json_int_t)task->revision));
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
                r = task_record_now(task, ret_error);
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
        uint64_t now = task_now_ms(engine);

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
        return task_now_ms(task->engine) - task->step_started_ms;
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
        task_drop_pending(task);
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
        task->wake_at_ms = task_now_ms(task->engine) + delay_ms;
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
