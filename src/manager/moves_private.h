/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What moves.c and moves_try.c share: one look at the virtual machines of a task that moves many, and the tries of each. A
 * record of one is as moves.h says; `tries`: array of {"action", "step", "to", "task_uid", "task", "result", "why"}, of which the last may
 * be open (its result is null). `suspended_by`: uid of the vm.suspend task by which it is to be suspended, was in this task, or was before
 * by an earlier one of the maintenance; absent: by none. It counts as suspended on behalf of the maintenance, and is resumed, only while the
 * virtual machine names that task as its last suspension (`internal.suspended_by`). `paused`: it is not to run when it was. Pointers to JSON
 * are borrowed. */

#include "cluster/evacuation.h"
#include "manager/moves.h"

struct store_batch;

#define MOVES_BUSY_AGAIN_MS 2000

#define MOVES_AT_ONCE_MAX 16 /* tries under way; how many of them the queue lets run is its matter */

struct moves_round;

/* What the moves of a task are about: a host to leave or to go to (moves.c), or a datastore to leave (moves_disks.c). */
struct moves_aim {
        /* Adds records for those that are to move, but for those in known ({uid}). 0 or -ENOMEM. */
        int (*newcomers)(struct moves_round *round, const json_t *known);
        /* Sets its outcome, if there is nothing to be done about it (any more); no try of it is under way. vm: NULL: it is gone. */
        bool (*is_settled)(struct moves_round *round, json_t *record, const json_t *vm);
        /* Else: begins a try, waits, or gives it up. */
        void (*decide)(struct moves_round *round, json_t *record, const json_t *vm);
        /* All have their outcome, but more may come. */
        bool (*awaits_arrivals)(const struct moves_round *round);
};
extern const struct moves_aim moves_disks_aim;

struct moves_round {
        const struct moves_aim *aim;
        struct task *task;
        struct manager *manager;
        struct evacuation_policy policy;
        const char *from, *to; /* host names; "": none */
        const char *datastore; /* that is to be left; "": none */
        int64_t now_ms;
        bool closed;         /* nothing starts any more */
        bool ends;           /* and what is under way is cancelled */
        const char *closing; /* why */
        json_int_t spent_ms; /* on the whole, while a manager was there; no clock that is set changes it */
        size_t n_active;
        size_t n_suspending;
        json_t *reserved;     /* of hosts, by what is to be resumed there: as in struct check_assumptions */
        bool crowded;         /* some wait only for others to end */
        bool cut_short;       /* there was no time on the loop for some checks */
        json_int_t n_checked; /* in all looks: the number of the last check */
        bool changed;         /* to be recorded, some time */
        bool decided;         /* at once: something is to be begun, or is not to be forgotten */
        bool failed;          /* without memory: nothing of it is recorded or done */
};

/* --- Looks; defined in moves.c ------------------------------------------------------------------------------------------- */

/* Of what is settled the record keeps what the report says. to: where it is, or NULL. */
void moves_set_outcome(struct moves_round *round, json_t *record, const char *outcome, const char *to);
/* Nothing is left to be done: that outcome, with its audit entry. */
void moves_leave(struct moves_round *round, json_t *record, const char *outcome);
/* Another task works on it: that one's end is waited for, and the policy's time stands still. True when there is one. */
bool moves_is_held(struct moves_round *round, json_t *record);
/* It is to be looked at again in a while, and not before. */
void moves_look_again_later(const struct moves_round *round, json_t *record);
bool moves_is_too_soon(const struct moves_round *round, const json_t *record);
/* False: there is no time on the loop for a check now. */
bool moves_may_check(struct moves_round *round, json_t *record);

/* --- Records; defined in moves_try.c ------------------------------------------------------------------------------------- */

json_int_t moves_number(const json_t *object, const char *key);
void moves_set_text(struct moves_round *round, json_t *object, const char *key, const char *text);
/* Why it is not done yet. It names free memory and the like, which are others at each look: not recorded for its own sake. */
void moves_set_why(struct moves_round *round, json_t *record, const char *why);
struct evacuation_progress moves_progress(const json_t *record);
void moves_set_progress(
        struct moves_round *round, json_t *record, const struct evacuation_progress *progress);

/* --- Tries --------------------------------------------------------------------------------------------------------------- */

/* What each is, is in a table in moves_try.c. */
enum moves_action {
        MOVES_MIGRATE,
        MOVES_SUSPEND,
        MOVES_RESUME,
        MOVES_STOP,
        MOVES_POWER_OFF,
        MOVES_MOVE_DISKS, /* the try has "disks": {name of disk: name of datastore} */
        N_MOVES_ACTIONS,
};

/* NULL: there is none. */
json_t *moves_last_try(const json_t *record);
/* All of these accept NULL. */
bool moves_try_is_open(const json_t *try);
bool moves_try_does(const json_t *try, enum moves_action action);
bool moves_try_succeeded(const json_t *try);
/* Its task has chosen its host: since then all others count what it brings there. */
bool moves_try_is_placed(const struct moves_round *round, const json_t *try);
/* Such a try to that host has failed, or was not heard of again. */
bool moves_has_failed_to(const json_t *record, enum moves_action action, const char *host);

/* The audit entry of a decision; it is made when the decision is recorded. decision: an action's word, or "stays". */
void moves_note_decision(struct moves_round *round, const json_t *record, const char *decision,
        const char *to, const char *rank);
/* Adds those entries (array) to the batch. */
int moves_audit_decisions(
        struct moves_round *round, json_t *decisions, struct store_batch *batch, struct error **ret_error);

/* Decides on a try, which moves_try_submit() carries out once that is recorded. "result" and "task" stay null until they are known. */
void moves_try_begin(struct moves_round *round, json_t *record, enum moves_action action, const char *to,
        const char *rank);
/* Submits its task, unless that was done; or withdraws it where it is not to be done any more, or not now. */
void moves_try_submit(struct moves_round *round, json_t *record, json_t *try);
/* One that has begun may go on to its end when a window closes. A guest that was asked to power off will do so, whether somebody
 * waits for it or not, and one that is resumed is where it should be: a report that it stays would be wrong soon. */
void moves_try_cancel(struct moves_round *round, const json_t *try);
/* True while it is under way; else it has its result, or was withdrawn. */
bool moves_try_follow(struct moves_round *round, json_t *record, json_t *try);
