/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What task.c, which moves tasks on, and task_record.c, which has them in the store, share. */

#include <assert.h>

#include "base/list.h"
#include "base/map.h"
#include "manager/task.h"

#define PROGRESS_INTERVAL_MS 500

enum task_phase {
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
        enum task_phase phase;
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
        json_t *data_before; /* the data as the step found it */
        json_t *decision;    /* of this step, for the audit log: {"why", "detail"} */
        size_t n_too_large;  /* so often its end was larger than what can be recorded */
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

/* --- Defined in task.c -------------------------------------------------------------------------------------------------- */

static inline const struct task_step *task_step_of(const struct task *task)
{
        return &task->kind->steps[task->step];
}

static inline uint64_t task_now_ms(const struct task_engine *engine)
{
        return clock_now_ms(engine->config.clock);
}

/* The next step begins. */
void task_begin_step(struct task *task);

/* --- Defined in task_record.c ------------------------------------------------------------------------------------------- */

/* The engine's kind of that name, or NULL. */
const struct task_kind *task_find_kind(const struct task_engine *engine, const char *action);
/* Takes the document over, also when it fails: -ENOMEM. The task is the caller's until task_enlist(). */
int task_new(struct task_engine *engine, json_t *doc, struct task **ret_task);
/* Out of the engine's tables as well. */
void task_free(struct task *task);
DEFINE_CLEANUP(struct task *, task_free)
/* Puts the task among the engine's own: it holds its objects from here on. */
int task_enlist(struct task *task);
/* Cancels what the step has under way. */
void task_drop_pending(struct task *task);

/* Each sets something of the document; without memory the batch remembers that. */
int task_set_time(json_t *object, const char *key, const struct clock *clock);
void task_set_state(struct task *task, enum task_state state);
void task_set_deadline(struct task *task);
/* Brings the document in line with the machine's position. */
void task_describe(struct task *task);

/* What a document says of the machine's position, for the case that a move of it cannot be recorded. */
struct task_position {
        json_t *status, *internal;
};
int task_remember_position(
        const struct task *task, struct task_position *ret_position, struct error **ret_error);
/* The document must not tell of a move that was not recorded: it may be written for other reasons. */
void task_put_back(struct task *task, const struct task_position *position);
void task_position_deinit(struct task_position *position);
#define _cleanup_position_ _cleanup_(task_position_deinit)

/* Adds what the step has decided, if anything, to its batch: when that is recorded, for the log's head moves whenever anything is
 * committed. */
int task_audit_decision(struct task *task, struct error **ret_error);
/* Drops the newest changes, down to so many. */
void task_batch_truncate(struct store_batch *batch, size_t n_changes);
/* Commits the task's document together with what the step left in its batch. The batch is emptied on success. */
int task_record_now(struct task *task, struct error **ret_error);
/* Records the task's end: 0, or the failed commit's error with the task as it was. */
int task_finish(struct task *task, enum task_state state, struct error **ret_error);
/* Something of it is to be recorded that can be now. */
bool task_has_progress(const struct task *task);
/* In one transaction: hundreds of tasks make progress at once, and each transaction waits for the disk. Those that are due soon
 * go along. One that cannot be written keeps no other from it. */
void task_flush_progress(struct task_engine *engine);
/* The store does not take so large a document: the second look at a step's end leaves out more than the first. False: there is nothing
 * more to be left out. */
bool task_make_smaller(struct task *task);
/* Loads the unfinished ones. */
int task_load_all(struct task_engine *engine, struct error **ret_error);
