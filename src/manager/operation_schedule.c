/* SPDX-License-Identifier: Apache-2.0 */

/* schedule.run: one run of a schedule that moves virtual machines, single ones or those with a label (a schedule for maintenance
 * runs host.maintenance itself). Data: action, of the schedule as it was then; and what moves.h says. */

#include <errno.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/moves.h"
#include "manager/operations.h"
#include "manager/schedules.h"

#define MINUTE_MS (60ull * 1000)

/* Who has the label is asked when the run begins. */
static void run_select(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        _cleanup_json_ json_t *vms = NULL;
        _cleanup_free_ const json_t **list = NULL;
        struct error *error = NULL;
        json_t *vm;
        size_t i;
        int r;

        json_object_del(task_data(task), "moves"); /* of a run of this step that was not recorded */
        if (schedules_select(manager, json_object_get(task_data(task), "action"), &vms, &error) < 0) {
                task_step_failed(task, error);
                return;
        }
        list = alloc_array(json_array_size(vms) + 1, sizeof(*list));
        json_array_foreach (vms, i, vm)
                if (list)
                        list[i] = vm;
        r = list ? moves_add(task, list, json_array_size(vms)) : -ENOMEM;
        if (r < 0)
                task_step_failed(task, NULL);
        else
                task_step_done(task);
}

static void run_conclude(struct task *task, void *userdata)
{
        struct error *error = NULL;

        if (moves_to_error(task, &error) < 0)
                task_step_failed(task, error);
        else
                task_step_done(task);
}

static const struct task_step steps[] = {
        {.name = "select", .run = run_select, .no_timeout = true},
        {.name = "move", .run = operation_moves_run, .cancel = operation_moves_cancel, .no_timeout = true},
        {.name = "conclude", .run = run_conclude, .cancel = operation_moves_cancel, .no_timeout = true},
};
const struct task_kind operation_schedule_run = {
        .action = "schedule.run",
        .steps = steps,
        .n_steps = ARRAY_SIZE(steps),
        .timeout_ms = 10 * MINUTE_MS,
        .audited = moves_audited,
};
