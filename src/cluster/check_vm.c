/* SPDX-License-Identifier: Apache-2.0 */

/* Rules about the virtual machine's own state. */

#include <string.h>

#include "cluster/check.h"

void check_vm_running(struct check *check)
{
        const char *power = check_text(check->status, "power");

        if (!strcmp(power, "running"))
                check_met(check, NULL);
        else
                check_broken(check, NULL,
                        !strcmp(power, "unknown") ? "Wait until its host is connected again." : NULL,
                        "the virtual machine is %s, not running", *power ? power : "unknown");
}

/* Its QEMU gives up its disks before it completes a migration, and gets them when it takes one over. */
void check_vm_disks_active(struct check *check)
{
        const char *power = check_text(check->status, "power");
        bool leaving = !strcmp(power, "outgoing-done"), coming = !strcmp(power, "incoming");

        check_tell(check, NULL, leaving || coming, "its disks are inactive on host %s: a migration %s",
                check_text(check->status, "host"),
                leaving ? "has handed the virtual machine over" : "to there has not ended");
}

void check_vm_backup(struct check *check)
{
        const json_t *job = json_array_get(check->input->jobs, 0);

        check_tell(check, check_text(job, "id"), job != NULL, "QEMU works on its disks: job %s (%s)",
                check_text(job, "id"), check_text(job, "type"));
}

void check_vm_task(struct check *check)
{
        const char *uid = check_text(check->input->vm, "uid");
        json_t *task;
        size_t i;

        json_array_foreach ((json_t *)check->input->tasks, i, task) {
                if (strcmp(check_text(task, "vm_uid"), uid) ||
                        (check->input->asking && !strcmp(check_text(task, "name"), check->input->asking)))
                        continue;
                check_broken(check, NULL, NULL, "task %s (%s) works on the virtual machine",
                        check_text(task, "name"), check_text(task, "action"));
                return;
        }
        check_met(check, NULL);
}
