/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Schedules: looks which are due (cluster/schedule.h decides), and begins their runs, which are tasks (operation_schedule.c and
 * operation_maintenance.c). The decision is recorded in the schedule's document, in one transaction with the run's task.
 *
 * A schedule's document: spec as in docs/openapi.json (ScheduleSpec); status: paused, runs (the newest first); internal: what
 * cluster/schedule.h keeps. */

#include <jansson.h>

#include "base/error.h"

struct manager;
struct moves_plan;
struct schedules;
struct store_batch;

int schedules_new(struct manager *manager, struct schedules **ret_schedules, struct error **ret_error);
void schedules_free(struct schedules *schedules);

/* Some schedule was added, changed or removed: all are looked at anew. */
void schedules_changed(struct schedules *schedules);

/* 0, or what is wrong with the spec. */
int schedules_check_spec(const json_t *spec, struct error **ret_error);
/* Sets what a schedule begins with, and begins anew with when it is changed or resumed: what was due before counts no more. */
int schedules_reset(const struct manager *manager, json_t *doc, struct error **ret_error);

/* The next n runs: array of {"time", "local", "window_end"}; empty: there is none. The caller's. */
int schedules_next(const struct manager *manager, const json_t *doc, size_t n, json_t **ret_next,
        struct error **ret_error);
/* The document as it is shown: with the next run, and how the last ones ended; new, the caller's. */
json_t *schedules_live(struct manager *manager, const json_t *doc);

/* What a run needs of a struct task_request, made from the schedule. */
struct schedule_run {
        const char *action;
        char *object, *reason;
        char *held[2]; /* what it holds */
        json_t *input, *data;
};
/* due_s: what it stands for; INT64_MIN: somebody asked for it now. until_s: nothing begins after that; INT64_MAX: no end. NOT_FOUND,
 * CONFLICT, ... when it cannot run. */
int schedules_run(struct manager *manager, const json_t *doc, int64_t due_s, int64_t until_s,
        struct schedule_run *ret_run, struct error **ret_error);
void schedule_run_deinit(struct schedule_run *run);
/* What it would do now. */
int schedules_plan(
        struct manager *manager, const json_t *doc, struct moves_plan **ret_plan, struct error **ret_error);

/* The VMs that a schedule's action means now: an array of documents, the caller's; of a name that nobody has one with that name for
 * its uid. */
int schedules_select(
        struct manager *manager, const json_t *action, json_t **ret_vms, struct error **ret_error);
