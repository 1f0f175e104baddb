/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The kinds of tasks, and what they share. Input and data of each kind stand above its step table. */

#include <jansson.h>

#include "base/error.h"
#include "manager/inventory.h"
#include "manager/task.h"

struct check_assumptions;
struct manager;
struct moves_plan;

extern const struct task_kind operation_vm_create;
extern const struct task_kind operation_vm_start;
extern const struct task_kind operation_vm_stop;
extern const struct task_kind operation_vm_pause;
extern const struct task_kind operation_vm_resume;
extern const struct task_kind operation_vm_suspend;
extern const struct task_kind operation_vm_delete;
extern const struct task_kind operation_vm_migrate;
extern const struct task_kind operation_vm_migrate_cold;
extern const struct task_kind operation_vm_migrate_disks;
extern const struct task_kind operation_vm_resize_disk;
extern const struct task_kind operation_vm_snapshot_create;
extern const struct task_kind operation_vm_snapshot_revert;
extern const struct task_kind operation_vm_snapshot_delete;
extern const struct task_kind operation_vm_import;
extern const struct task_kind operation_vm_export;
extern const struct task_kind operation_vm_import_disk;
extern const struct task_kind operation_vm_export_disk;
extern const struct task_kind operation_host_add;
extern const struct task_kind operation_host_sync;
extern const struct task_kind operation_host_remove;
extern const struct task_kind operation_host_maintenance;
extern const struct task_kind operation_host_maintenance_end;
extern const struct task_kind operation_schedule_run;
extern const struct task_kind operation_datastore_apply;
extern const struct task_kind operation_datastore_remove;
extern const struct task_kind operation_datastore_maintenance;
extern const struct task_kind operation_datastore_maintenance_end;
extern const struct task_kind operation_network_apply;
extern const struct task_kind operation_network_remove;
extern const struct task_kind operation_network_upgrade;

/* All of them, NULL-terminated. */
extern const struct task_kind *const operation_kinds[];

/* A host has answered for the first time (again) with all its lists: its datastores and networks are applied, unless it has them as
 * they should be. False: not now, for another task works on the host. */
bool operations_host_connected(struct manager *manager, const json_t *host);

/* Bound on the pause of a migration that names none. */
#define OPERATION_MAX_PAUSE_MS_DEFAULT 300
/* What the checks say about a migration of the VM (document) to host `to` (NULL: the best one): a CheckReport as in
 * docs/openapi.json, the caller's. asking: the task that asks, for which hosts are only ranked when it names none; may be NULL. NOT_FOUND for an unknown host. */
int operation_migrate_check(struct manager *manager, const json_t *vm, const char *to,
        const struct task *asking, json_t **ret_report, struct error **ret_error);

/* The same for a dry run (assumptions as in check_facts.h; may be NULL). */
int operation_migrate_plan(struct manager *manager, const json_t *vm, const char *to,
        const struct check_assumptions *assumptions, json_t **ret_report, struct error **ret_error);

/* The VM as its memory needs it: with what was decided when it was started, for a host that knows that machine and has those
 * features. The caller's; NULL without memory. */
json_t *operation_as_suspended(const json_t *vm);

/* What the checks say about giving a VM (document) that is off or suspended to host `to` (NULL: the best other one): as
 * operation_migrate_check(). NO_RESOURCES when no host is named and none fits. */
int operation_cold_check(struct manager *manager, const json_t *vm, const char *to, const struct task *asking,
        json_t **ret_report, struct error **ret_error);

/* Whether the agent of that host (document) knows of states: one of a version before suspending would take no notice of one. */
bool operation_knows_states(const json_t *host);

/* Where a VM (document) could be resumed from its state, be it suspended or not yet: {"ok", "hosts": [names, best first], "why"}, the
 * caller's; why: what stands in the way on the host that comes nearest, or null. except: a host that is left out; asking: the task
 * that asks; assumptions: as above. These may be NULL. */
int operation_resume_check(struct manager *manager, const json_t *vm, const char *except,
        const struct task *asking, const struct check_assumptions *assumptions, json_t **ret_report,
        struct error **ret_error);

/* A request for maintenance of a host, or for its end ("on": false): BAD_DOCUMENT, or CONFLICT for what the host's state does not
 * allow. */
int operation_maintenance_check(const json_t *host, const json_t *body, struct error **ret_error);
/* The data of the task that carries it out, the caller's; reason: why its tasks are there, for people; start_before_ms: nothing
 * begins after that (0: no end). NULL without memory. */
json_t *operation_maintenance_data(
        const json_t *host, const json_t *body, const char *by, const char *reason, int64_t start_before_ms);
/* What it would do. */
int operation_maintenance_plan(struct manager *manager, const json_t *host, const json_t *body,
        struct moves_plan **ret_plan, struct error **ret_error);

/* Shared by the tasks that move many (moves.h): the request's fields tries, policy, priority, max_pause_ms and give_up_ms; what of
 * them goes into the task's data as "policy" and "options" (the caller's; NULL without memory); and the step. */
int operation_moves_check(const json_t *body, bool may_stop, struct error **ret_error);
/* For a body that was checked: whether its policy suspends guests or ends them. */
bool operation_moves_use_power(const json_t *body);
json_t *operation_moves_policy(const json_t *body);
json_t *operation_moves_options(const json_t *body);
void operation_moves_run(struct task *task, void *userdata);
void operation_moves_cancel(struct task *task, void *userdata);

/* The same for a migration as it is asked for (MigrateRequest), which is not to begin. */
int operation_migrate_check_request(struct manager *manager, const json_t *vm, const json_t *request,
        json_t **ret_report, struct error **ret_error);
/* What a migration (MigrateRequest) is to be promised, in bit/s; 0: nothing. */
uint64_t operation_min_bandwidth_bps(const json_t *input);

/* Disks of a VM that a request (VmMigrateDisks, with to_datastore or to_datastores) moves, as the agent is asked for them: array of {"name", "datastore", "format"}, the
 * caller's. NOT_FOUND, NOT_SUPPORTED, CONFLICT: there is none, or one that cannot be. */
int operation_storage_disks(
        const json_t *vm, const json_t *input, json_t **ret_disks, struct error **ret_error);
/* The same with what is known of the VM's host, its datastores and other VMs; *ret_host (borrowed): where it is. */
int operation_storage_check(struct manager *manager, const json_t *vm, const json_t *input,
        const json_t **ret_host, json_t **ret_disks, struct error **ret_error);

/* CONFLICT: the image of one of the VM's disks, of those that `wanted` (array of {"name"}) names, is used by another VM as well; `hint`: the way out. */
int operation_storage_check_alone(struct manager *manager, const json_t *vm, const json_t *wanted,
        const char *hint, struct error **ret_error);
/* Names of the VM's disks (a document) whose image another VM names as well; the caller's; NULL without memory. */
json_t *operation_storage_shared(struct manager *manager, const json_t *vm);

/* Whether a disk of the VM (document) can get the size of the request (VmResizeDisk with "disk"), as far as the manager knows; *ret_host
 * (borrowed): where the VM is. */
int operation_resize_check(struct manager *manager, const json_t *vm, const json_t *input,
        const json_t **ret_host, struct error **ret_error);
/* Likewise for a snapshot of the VM: input as that of the task. */
int operation_snapshot_check_create(struct manager *manager, const json_t *vm, const json_t *input,
        const json_t **ret_host, struct error **ret_error);
int operation_snapshot_check_revert(struct manager *manager, const json_t *vm, const json_t *input,
        const json_t **ret_host, struct error **ret_error);
int operation_snapshot_check_delete(struct manager *manager, const json_t *vm, const json_t *input,
        const json_t **ret_host, struct error **ret_error);
/* Steps of vm.create for kinds that make a VM in another way: data as described in operation_vm.c. The VM's object is made with the task. */
void operation_vm_undo_place(struct task *task, void *userdata);
void operation_vm_run_create(struct task *task, void *userdata);
void operation_vm_undo_create(struct task *task, void *userdata);

/* For kinds whose tasks wait in the queue of migrations: how many may be under way at once is its matter. See struct task_kind. */
bool operation_may_start(const struct task *task, void *userdata);
int operation_starting(struct task *task, void *userdata);

/* Called for an agent's answer; both are borrowed and one of them is NULL. */
typedef void (*step_reply_fn)(struct task *task, struct manager *manager, json_t *body, struct error *error);

/* Calls an agent for a step; the task waits. Without an answer the step runs again after a second (hence the request id
 * of task_request_id()), until the task's time limit; an answer, good or bad, goes to fn. One of more than
 * 256 KiB is none: what a host says is kept in documents that have a limit. Of a host that was confirmed
 * down the answer is UNREACHABLE, at once. */
void step_call(
        struct task *task, struct manager *manager, const struct agent_request *request, step_reply_fn fn);
/* The same, but fn also learns that there was no answer (UNREACHABLE, TIMED_OUT, PROTOCOL: it was too large). */
void step_call_once(
        struct task *task, struct manager *manager, const struct agent_request *request, step_reply_fn fn);

/* Step function: polls the host in data "host_uid" (and "to_uid") and waits for it, so that what the API shows
 * afterwards includes what the task did. Never fails. */
void step_refresh(struct task *task, void *userdata);

/* For steps that choose among hosts: a manager that has just begun to lead knows of no host whether it is there. True: the step
 * runs again soon, and returns now; false once each host has answered or failed to, or 15 s have passed. */
bool step_waits_for_hosts(struct task *task, struct manager *manager);

struct error *error_copy(const struct error *error);
/* The same for an agent's answer to people: hosts, which agents know by their uids alone, are called by their names. */
struct error *error_with_names(const struct manager *manager, const struct error *error);

/* A host was chosen, by the manager itself: that goes into the audit log with what it was chosen by, when the step is recorded. `ranking` as
 * placement_rank() makes it. */
int step_chose(struct task *task, const char *host, const json_t *ranking, struct error **ret_error);

/* How far it is, from numbers that an agent sends and that may be any: 0 to 99. */
json_int_t operation_percent(double done, double total);

/* Progress of a step in one sentence. */
void step_say(struct task *task, const char *fmt, ...) _printf_(2, 3);

/* The document as agents take it: without the manager's own keys. The caller's. */
json_t *vm_for_agent(const json_t *vm);
/* Puts what the agent answered (a VM document) into the VM's object, with the host's name. */
void vm_take_report(struct task *task, struct manager *manager, const json_t *report, const char *host_name);
