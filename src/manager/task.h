/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Tasks: long operations as persistent step machines.
 *
 * A kind of task is a table of steps. The engine runs them in order, one at a time for each task, and records in the
 * store which step comes next, with the task's own data, in one transaction between two steps. After a crash the step
 * that was under way runs again: each step must be idempotent (calls to agents carry a request id that only depends
 * on task and step, see task_request_id()). When a step fails, the `undo` functions of it and of the steps before it
 * run in reverse order, recorded in the same way, so that a restart goes on compensating.
 *
 *      queued -> running -> succeeded
 *         |         '-----> undoing -> failed | cancelled
 *         '---------------> cancelled
 *
 * A task holds its objects ("vm/UID") from submission to its end; a second task for one of them is refused with BUSY,
 * which names the first. Kinds may hold tasks back in the queue (may_start); those start by priority, then age.
 *
 * The engine does no I/O but the store's and has no timer: its owner calls task_engine_run() when woken and at
 * task_engine_next_ms(). Time is the injected clock's. */

#include <jansson.h>

#include "base/clock.h"
#include "base/error.h"
#include "manager/store.h"

struct audit_entry;
struct task;
struct task_engine;

enum task_state {
        TASK_QUEUED,
        TASK_RUNNING,
        TASK_UNDOING,
        TASK_SUCCEEDED,
        TASK_FAILED,
        TASK_CANCELLED,
        N_TASK_STATES,
};
const char *task_state_to_string(enum task_state state);

/* Must end in exactly one of task_step_done(), task_step_failed() or task_step_again(), now or later. */
typedef void (*task_step_fn)(struct task *task, void *userdata);

struct task_step {
        const char *name;
        task_step_fn run;
        task_step_fn undo; /* NULL: nothing to undo. Must stand that `run` was done, half done or not begun */
        task_step_fn
                cancel;  /* asked to stop while this step is under way; NULL: it is stopped by the engine */
        bool keep;       /* when this step fails, what the steps before it made stays */
        bool no_timeout; /* ends by itself: the task's time limit does not stop it */
};

struct task_kind {
        const char *action; /* "vm.migrate" */
        const struct task_step *steps;
        size_t n_steps;
        uint64_t
                timeout_ms; /* of the whole task from its start; the input's own limit is the step's business */
        /* False: stay in the queue for now; may be NULL. */
        bool (*may_start)(const struct task *task, void *userdata);
        /* It starts: what it sets of the task's data is recorded with that. Negative: not now after all. May be NULL. */
        int (*starting)(struct task *task, void *userdata);
        /* What of its result the audit log gets, the caller's; NULL: all of it. */
        json_t *(*audited)(const json_t *result);
};

struct task_engine_config {
        struct store *store;
        const struct clock *clock;
        const struct task_kind *const *kinds; /* NULL-terminated */
        void *userdata;                       /* for the step functions */
        void (*wake)(void *userdata);         /* task_engine_run() is wanted soon; not from inside wake */
        /* A task has ended; called after that was recorded; may be NULL. */
        void (*ended)(void *userdata, const struct task *task, enum task_state state, const json_t *doc);
        /* Before and after each step ("before:follow"); for tests: true stops the engine dead at this point, as a crash would. May be NULL. */
        bool (*crash)(void *userdata, const struct task *task, const char *point);
};

/* Loads the unfinished tasks; they go on at the first task_engine_run(). A task of a kind that is not known any more
 * fails. */
int task_engine_new(
        const struct task_engine_config *config, struct task_engine **ret_engine, struct error **ret_error);
/* Calls under way are cancelled; the store is left as it is: the next engine goes on from there. */
void task_engine_free(struct task_engine *engine);
DEFINE_CLEANUP(struct task_engine *, task_engine_free)

struct task_request {
        const char *uid; /* NULL: a new one */
        const char *action;
        const char *object;         /* for people: "vm/web1" */
        const char *const *objects; /* what it holds, "vm/UID"; NULL-terminated */
        const char *by;
        const char *by_uid;   /* whose it is, see auth_caller_uid(); may be NULL */
        const char *from;     /* address of the caller; may be NULL */
        const char *why;      /* may be NULL */
        const char *priority; /* NULL: "normal" */
        const json_t *input;  /* copied; may be NULL */
        const json_t *data;   /* initial internal data (object), copied; may be NULL */
};
/* Records the task with the changes in `batch` (may be NULL; its content is consumed) in one transaction. BUSY when an
 * object is held. *ret_doc (may be NULL) is the task's document, the caller's. */
int task_submit(struct task_engine *engine, const struct task_request *request, struct store_batch *batch,
        json_t **ret_doc, struct error **ret_error);

/* Asks a task to stop, with the audit entry (may be NULL) in the same transaction. CONFLICT when it has ended or cannot be
 * stopped any more. */
int task_cancel(struct task_engine *engine, const char *uid, const struct audit_entry *audit,
        struct error **ret_error);

/* Something that the task waits for may have happened: a step that sleeps, or will when it has its answer, runs again now. Unknown uids are ignored. */
void task_poke(struct task_engine *engine, const char *uid);

/* The task that holds the object, or NULL. */
const struct task *task_holding(const struct task_engine *engine, const char *object);
/* The unfinished task of that uid, or NULL. */
const struct task *task_find(const struct task_engine *engine, const char *uid);
/* Calls fn for each unfinished task. */
void task_each(const struct task_engine *engine, void (*fn)(void *userdata, const struct task *task),
        void *userdata);

/* Lets each task go on until all wait for something, or for 20 ms: then task_engine_next_ms() is 0, and the next run goes on with
 * those that have not had their turn. */
void task_engine_run(struct task_engine *engine);
/* Milliseconds until task_engine_run() is needed; UINT64_MAX: not before the next wake. */
uint64_t task_engine_next_ms(const struct task_engine *engine);

/* Document without what is internal; also for what comes from the store. The caller's. */
json_t *task_public(const json_t *doc);

/* Forgets the oldest ended tasks, some hundreds at once, as long as there are more than `keep` (0: none is forgotten). Those whose data
 * names a `parent` that has not ended stay: it wants to know how they ended. */
int task_trim(struct store *store, const struct task_engine *engine, uint64_t keep, struct error **ret_error);

/* For step functions. */
const char *task_uid(const struct task *task);
const char *task_name(const struct task *task);
const char *task_action(const struct task *task);
const json_t *task_input(const struct task *task);
/* The task's own data (object), recorded after each step; keys belong to the kind. */
json_t *task_data(const struct task *task);
bool task_running(const struct task *task);
/* Has not started. */
bool task_queued(const struct task *task);
const char *task_object(const struct task *task);
const char *task_priority(const struct task *task);
/* When it was submitted. */
int64_t task_queued_unix_ms(const struct task *task);
/* What the queue did for it (taken over), recorded with its start as status.queue. */
int task_set_queue(struct task *task, json_t *queue);
bool task_cancel_requested(const struct task *task);
/* UUID that depends on the task, the step and the direction only: the same after a restart. */
void task_request_id(const struct task *task, char ret_uuid[static 37]);
/* True in the first call of the step's function (in this process), false when task_step_again() brought it back. */
bool task_step_first(const struct task *task);
/* Milliseconds since this step began (in this process). */
uint64_t task_step_elapsed_ms(const struct task *task);

void task_step_done(struct task *task);
/* Ends the step with an error (taken over; NULL for lack of memory). */
void task_step_failed(struct task *task, struct error *error);
/* Runs this step again after delay_ms. */
void task_step_again(struct task *task, uint64_t delay_ms);
/* Something that step started and that is to be cancelled if the task is stopped or the engine freed; replaced or, by
 * NULL, taken back when it has ended. */
void task_set_pending(struct task *task, void *pending, void (*cancel)(void *pending));
/* For the audit log, when the end of this step is recorded: what the system has decided in it, and why. `detail` is taken over; 0 or
 * -ENOMEM. */
int task_decided(struct task *task, const char *why, json_t *detail);
/* Changes to be recorded in the transaction that ends this step. */
struct store_batch *task_batch(struct task *task);
/* Progress for people (taken over), recorded about twice a second, together with that of other tasks, and with each step. */
void task_progress(struct task *task, json_t *progress);
/* The result document (taken over), recorded with the end of the step. */
void task_set_result(struct task *task, json_t *result);
/* Records data and progress now, in the middle of a step. */
int task_checkpoint(struct task *task, struct error **ret_error);
/* The same, with the changes in `batch` (its content is consumed on success) in one transaction. */
int task_record(struct task *task, struct store_batch *batch, struct error **ret_error);
