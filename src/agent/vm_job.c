/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/vm_job.h"

#include <assert.h>
#include <errno.h>

#include "agent/agent.h"
#include "agent/disk_work.h"
#include "agent/owner_record.h"
#include "agent/stores.h"
#include "agent/vm_suspend.h"
#include "base/alloc.h"
#include "io/crash_point.h"
#include "storage/move_record.h"
#include "vmm/migration_params.h"
#include "vmm/qmp.h"

static const char *const kind_names[] = {"start", "start for a migration", "stop", "pause", "resume",
        "stream of a migration", "release", "discard", "suspend", "resume from its state",
        "work on its disks"};
static_assert(ARRAY_SIZE(kind_names) == N_VM_JOB_KINDS, "a name for each kind of job");

int vm_job_begin(
        struct vm *vm, enum vm_job_kind kind, vm_done_fn done, void *userdata, struct error **ret_error)
{
        struct vm_job *job;

        if (vm->job) {
                int r = error_set(ret_error, ERROR_BUSY, "Try again when that has ended.",
                        "VM %s: another operation (%s) is under way", vm->name, kind_names[vm->job->kind]);

                error_about(ret_error, "vm/%s", vm->name);
                return r;
        }
        job = ALLOC(struct vm_job);
        if (!job)
                return error_from_errno(ret_error, ENOMEM, "VM %s", vm->name);
        *job = (struct vm_job){.vm = vm,
                .kind = kind,
                .done = done,
                .userdata = userdata,
                .stream_fd = -1,
                .qemu_fd = -1,
                .before = vm_power(vm)};
        vm->job = job;
        return 0;
}

void vm_job_leave_monitor(struct vm *vm)
{
        if (!vm->job)
                return;
        if (vm->job->call)
                qmp_call_cancel(TAKE_PTR(vm->job->call));
        migration_setup_free(TAKE_PTR(vm->job->setup));
}

/* Takes the job off the VM with everything it waits for. */
static struct vm_job *detach(struct vm *vm)
{
        struct vm_job *job;

        vm_job_leave_monitor(vm);
        job = TAKE_PTR(vm->job);
        if (!job)
                return NULL;
        loop_source_free(TAKE_PTR(job->timer));
        stores_wait_free(TAKE_PTR(job->wait));
        owner_record_change_free(TAKE_PTR(job->owner));
        vm_suspend_free(TAKE_PTR(job->suspend));
        vm_restore_free(TAKE_PTR(job->restore));
        disk_work_free(TAKE_PTR(job->disks));
        crash_hold_free(TAKE_PTR(job->hold));
        error_free(TAKE_PTR(job->error));
        return job;
}

static void job_free(struct vm_job *job)
{
        if (!job)
                return;
        fd_closep(&job->stream_fd);
        fd_closep(&job->qemu_fd);
        move_record_free(job->left_record);
        free(job);
}

void vm_job_end(struct vm *vm, struct error *error)
{
        struct vm_job *job = detach(vm);

        error_about(&error, "vm/%s", vm->name);
        if (job && job->stream_done)
                job->stream_done(job->userdata, error ? -1 : TAKE_FD(job->stream_fd),
                        error ? -1 : TAKE_FD(job->qemu_fd), error);
        else if (job && job->done)
                job->done(job->userdata, error);
        job_free(job);
        error_free(error);
}

static void on_later(void *userdata)
{
        struct vm_job *job = userdata;

        vm_job_end(job->vm, NULL);
}

int vm_job_end_later(struct vm *vm)
{
        return loop_add_defer(vm->agent->loop, on_later, vm->job, &vm->job->timer);
}

void vm_job_drop(struct vm *vm)
{
        struct vm_job *job = detach(vm);

        job_free(job);
}
