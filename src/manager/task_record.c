/* SPDX-License-Identifier: Apache-2.0 */

/* What the store has of tasks: their documents as the engine (task.c) moves them on, the progress of many in one transaction, and the
 * way back from there when a manager begins to lead. */

#include "manager/task_private.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/task_document.h"

#define PROGRESS_RETRY_MS \
        10000 /* of a task whose record cannot be written: it would keep those of others from going together */

#define RESUMED_MIN_MS 60000
#define DATA_LARGE_BYTES (64u << 10)

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

void task_drop_pending(struct task *task)
{
        void *pending = TAKE_PTR(task->pending);

        if (pending)
                task->pending_cancel(pending);
}

/* Also one that got only half way in. */
static void unlist(struct task *task)
{
        struct task_engine *engine = task->engine;
        json_t *object;
        size_t i;

        json_array_foreach (json_object_get(task->internal, "objects"), i, object)
                if (map_get(&engine->holders, json_string_value(object)) == task)
                        map_remove(&engine->holders, json_string_value(object));
        if (map_get(&engine->by_uid, task_uid(task)) == task)
                map_remove(&engine->by_uid, task_uid(task));
        list_remove(&task->link);
}

void task_free(struct task *task)
{
        if (!task)
                return;
        unlist(task);
        task_drop_pending(task);
        store_batch_deinit(&task->batch);
        error_free(task->error);
        json_decref(task->data_before);
        json_decref(task->decision);
        json_decref(task->doc);
        free(task);
}

const struct task_kind *task_find_kind(const struct task_engine *engine, const char *action)
{
        for (size_t i = 0; engine->config.kinds[i]; i++)
                if (!strcmp(engine->config.kinds[i]->action, action))
                        return engine->config.kinds[i];
        return NULL;
}

/* Takes the document over. */
int task_new(struct task_engine *engine, json_t *doc, struct task **ret_task)
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
        task->kind = task_find_kind(engine, json_text(json_spec(doc), "action"));
        task->progress_written_ms = task_now_ms(engine);
        *ret_task = TAKE_PTR(task);
        return 0;
}

/* Puts the task among the engine's own: it holds its objects from here on. */
int task_enlist(struct task *task)
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

int task_set_time(json_t *object, const char *key, const struct clock *clock)
{
        char text[32];

        return json_object_set_new(object, key, json_string(text_format_time(clock_unix_ms(clock), text)));
}

void task_set_state(struct task *task, enum task_state state)
{
        if (json_object_set_new(task->status, "state", json_string(state_names[state])) < 0)
                task->batch.result = -ENOMEM;
}

void task_set_deadline(struct task *task)
{
        int64_t deadline = clock_unix_ms(task->engine->config.clock) + (int64_t)task->kind->timeout_ms;

        task->deadline_ms = task_now_ms(task->engine) + task->kind->timeout_ms;
        if (json_object_set_new(task->internal, "deadline_unix_ms", json_integer(deadline)) < 0)
                task->batch.result = -ENOMEM;
}

/* Brings the document in line with the machine's position. */
void task_describe(struct task *task)
{
        bool ended = task->phase == PHASE_ENDED;
        int r = 0;

        r |= json_object_set_new(task->internal, "step", json_integer((json_int_t)task->step));
        r |= json_object_set_new(task->internal, "undoing", json_boolean(task->undoing));
        r |= json_object_set_new(
                task->status, "step", ended ? json_null() : json_string(task_step_of(task)->name));
        if (r < 0)
                task->batch.result = -ENOMEM;
}

void task_batch_truncate(struct store_batch *batch, size_t n_changes)
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

int task_decided(struct task *task, const char *why, json_t *detail)
{
        json_decref(task->decision);
        task->decision = json_pack("{s:s, s:o}", "why", why, "detail", detail);
        return task->decision ? 0 : -ENOMEM;
}

int task_audit_decision(struct task *task, struct error **ret_error)
{
        if (!task->decision)
                return 0;
        return audit_add(task->engine->config.store, task->engine->config.clock, &task->batch,
                &(struct audit_entry){.who = "system",
                        .action = task_action(task),
                        .object = task_object(task),
                        .why = json_text(task->decision, "why"),
                        .result = "decided",
                        .detail = json_object_get(task->decision, "detail")},
                ret_error);
}

/* Commits the task's document together with what the step left in its batch. The batch is emptied on success. */
int task_record_now(struct task *task, struct error **ret_error)
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
                task_batch_truncate(&task->batch, n_before);
                return r;
        }
        store_batch_deinit(&task->batch);
        task->progress_dirty = false;
        task->progress_written_ms = task_now_ms(engine);
        return 0;
}

int task_record(struct task *task, struct store_batch *batch, struct error **ret_error)
{
        struct store_batch waiting = task->batch;
        int r;

        /* What the step has collected belongs to its end, not to this. */
        task->batch = *batch;
        r = task_record_now(task, ret_error);
        *batch = task->batch;
        task->batch = waiting;
        return r;
}

int task_checkpoint(struct task *task, struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        return task_record(task, &batch, ret_error);
}

int task_remember_position(
        const struct task *task, struct task_position *ret_position, struct error **ret_error)
{
        *ret_position = (struct task_position){json_copy(task->status), json_copy(task->internal)};
        return ret_position->status && ret_position->internal
                       ? 0
                       : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

void task_position_deinit(struct task_position *position)
{
        json_decref(position->status);
        json_decref(position->internal);
}

/* The document must not tell of a move that was not recorded: it may be written for other reasons. */
void task_put_back(struct task *task, const struct task_position *position)
{
        (void)json_object_update(task->status, position->status); /* the same keys: needs no memory */
        (void)json_object_update(task->internal, position->internal);
}

/* Members of the data that are large on their own; what undoing goes by is small. */
static bool drop_large_data(struct task *task)
{
        const char *key;
        json_t *value;
        void *spare;
        bool dropped = false;

        json_object_foreach_safe(task_data(task), spare, key, value)
        {
                _cleanup_free_ char *text = doc_to_text(value);

                if (!text || strlen(text) > DATA_LARGE_BYTES)
                        dropped |= json_object_del(task_data(task), key) == 0;
        }
        return dropped;
}

bool task_make_smaller(struct task *task)
{
        static const char *const keys[] = {"progress", "result"};
        bool first = task->n_too_large++ == 0;

        for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
                (void)json_object_set_new(task->status, keys[i], json_null());
        if (!first || !task->data_before)
                return drop_large_data(task);
        return json_object_set_new(task->internal, "data", json_deep_copy(task->data_before)) == 0;
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
int task_finish(struct task *task, enum task_state state, struct error **ret_error)
{
        struct task_engine *engine = task->engine;
        _cleanup_position_ struct task_position before = {};
        size_t n_before = task->batch.n_changes;
        enum task_phase phase = task->phase;
        int r = task_remember_position(task, &before, ret_error);

        if (r < 0)
                return r;
        task->phase = PHASE_ENDED;
        task_set_state(task, state);
        task_describe(task);
        if (task_set_time(task->status, "finished", engine->config.clock) < 0)
                task->batch.result = -ENOMEM;
        r = audit_end(task, state, ret_error);
        if (r >= 0)
                r = task_record_now(task, ret_error);
        if (r < 0) {
                task_batch_truncate(&task->batch, n_before);
                task->phase = phase;
                task_put_back(task, &before);
                return r;
        }
        if (engine->config.ended)
                engine->config.ended(engine->config.userdata, task, state, task->doc);
        return 0;
}

/* Between two steps the document goes with what the step has changed, or not at all. */
bool task_has_progress(const struct task *task)
{
        return task->progress_dirty &&
               (task->phase == PHASE_READY || task->phase == PHASE_WAITING || task->phase == PHASE_SLEEPING);
}

static bool progress_is_old(const struct task *task, uint64_t age_ms)
{
        return task_has_progress(task) && task_now_ms(task->engine) >= task->progress_written_ms + age_ms;
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
        task->progress_written_ms = task_now_ms(task->engine) + PROGRESS_RETRY_MS;
}

/* It is one document that cannot be written, and not the store that cannot write. */
static bool is_about_one(const struct error *error)
{
        return error && (error->code == ERROR_REVISION_MISMATCH || error->code == ERROR_EXISTS ||
                                error->code == ERROR_TOO_LARGE);
}

/* In one transaction: hundreds of tasks make progress at once, and each transaction waits for the disk. Those that are due soon
 * go along. One that cannot be written keeps no other from it. */
void task_flush_progress(struct task_engine *engine)
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
                        task->progress_written_ms = task_now_ms(engine); /* or tried */
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

/* A limit that ended while no manager was there leaves a look at what the agent has done, or undone, since. */
static void resume_deadline(struct task *task)
{
        int64_t least = (int64_t)MIN(task->kind->timeout_ms, (uint64_t)RESUMED_MIN_MS);
        json_int_t deadline = json_integer_value(json_object_get(task->internal, "deadline_unix_ms"));
        int64_t left = deadline - clock_unix_ms(task->engine->config.clock);

        task->deadline_ms =
                task_now_ms(task->engine) + (uint64_t)CLAMP(left, least, (int64_t)task->kind->timeout_ms);
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
                task_begin_step(task);
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
        return task_finish(task, TASK_FAILED, ret_error);
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
        r = task_enlist(task);
        if (r < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        TAKE_PTR(task);
        return 0;
}

int task_load_all(struct task_engine *engine, struct error **ret_error)
{
        struct store_query query = {.kind = "task",
                .limit = STORE_LIMIT_NONE,
                .text = TASK_UNFINISHED_TEXT,
                .match = is_unfinished};
        _cleanup_json_ json_t *docs = NULL;
        json_t *doc;
        size_t i;
        int r;

        r = store_list(engine->config.store, &query, &docs, NULL, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (docs, i, doc) {
                r = load_one(engine, doc, ret_error);
                if (r < 0)
                        return r;
        }
        return 0;
}
