/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Many virtual machines moved by one task: maintenance of a host or of a datastore, bringing them back, a schedule's run. What to do with each
 * is decided by cluster/evacuation.h; here it is done, by tasks of their own (vm.migrate, vm.suspend, vm.resume, vm.stop) that go
 * through the same queue and checks as anybody's.
 *
 * Nothing is done twice: a try is recorded in the task's data, with the uid of the task that it will be, before that task is
 * submitted; after a crash a try whose task is not there is submitted then.
 *
 * The task's data: moves: array of one record each {"uid", "name", "outcome", "to", "why", "tries", "progress", ...};
 * options: what the vm.migrate tasks get; policy: as in cluster/evacuation.h; from: the host to leave, to: the host to go to, or datastore: the one to leave;
 * left: those that left the host before, see operation_maintenance.c; start_before_unix_ms: nothing starts after that; give_up_ms: what has not ended after that time is cancelled. */

#include <jansson.h>

#include "base/error.h"

struct manager;
struct task;

/* Adds a record for each VM (documents; sorted by this). -ENOMEM. */
int moves_add(struct task *task, const json_t **vms, size_t n);
/* The same for one that needs nothing, with what the report is to say of it. to: a host's name, or NULL. */
int moves_add_settled(struct task *task, const json_t *vm, const char *outcome, const char *to);

/* One look at all of them, which begins and ends what there is to begin and end: true when all have their outcome; false: to be called
 * again after *ret_again_ms. A task that is to be cancelled ends those under way, but waits for guests that were asked to power
 * off, and for guests that it resumes, for a minute. */
bool moves_run(struct task *task, struct manager *manager, uint64_t *ret_again_ms);

/* How many there are, and have that outcome. */
size_t moves_count(const struct task *task, const char *outcome);

/* What is known of it (a record) is that it left its host suspended, or may have, and that who ends the maintenance is to resume it: it has the
 * uid of the suspension ("suspended_by"). */
bool moves_leaves_suspended(const json_t *record);
/* The VM (document) is suspended, or nobody can tell at the moment, or it has crashed since; and that suspension (the uid of its vm.suspend task)
 * was its last one: nobody has resumed it since and suspended it for reasons of their own. */
bool moves_is_suspended_by(const json_t *vm, const char *suspension);

/* {"moved", "moved-cold", "suspended", "resumed", "stopped", "off", "there", "elsewhere", "gone", "crashed", "stays", "vms": [{"vm", "outcome", "to", "why", "tries"}]}; of a datastore that is left {"moved", "files-stay", "gone", "stays", "vms"};
 * the caller's. */
json_t *moves_report(const struct task *task);
/* The same without the lines of each: what the audit log has of it; each decision is an entry of its own there. The caller's. */
json_t *moves_audited(const json_t *report);
/* 0, or the one error that says how many stay (or crashed meanwhile) and why the first of them. */
int moves_to_error(const struct task *task, struct error **ret_error);

/* For the dry run (moves_plan.h), too. The host on which to resume it if that takes it, borrowed: to ("": none), but what was given to another host
 * while it was off belongs there. */
const char *moves_preferred_host(const json_t *vm, const char *to);
/* It does not run; and the first of the checks' errors, borrowed (NULL: there is none). */
bool moves_is_off(const json_t *vm);
const char *moves_first_cause(const json_t *checks);

/* The time limit of the whole, from the request ("give_up_ms"). */
#define MOVES_GIVE_UP_DEFAULT_MS (UINT64_C(4) * 3600 * 1000)
#define MOVES_GIVE_UP_MAX_MS (UINT64_C(7) * 24 * 3600 * 1000)
