/* SPDX-License-Identifier: Apache-2.0 */

/* Watches a VM's QEMU: the monitor connection, its events, and the end of the process. */

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/cgroup.h"
#include "agent/migration.h"
#include "agent/storage_move.h"
#include "agent/vm_job.h"
#include "agent/vm_suspend.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/child.h"
#include "vmm/guest_ram.h"
#include "vmm/qmp.h"

#define CONNECT_TIMEOUT_MS 15000
#define RECONNECT_MS 2000
#define QUERY_TIMEOUT_MS 10000

static void settle_exit(struct vm *vm);

static bool starting(const struct vm *vm)
{
        return vm->job && (vm->job->kind == VM_JOB_START || vm->job->kind == VM_JOB_INCOMING ||
                                  vm->job->kind == VM_JOB_RESTORE);
}

int vm_kill(struct vm *vm)
{
        int r = vm->qemu ? child_kill(vm->qemu, SIGKILL) : -ENOENT;

        return r == -ESRCH ? 0 : r; /* it ended by itself just now: vm_on_exit() is about to be called */
}

static void set_qemu_status(struct vm *vm, const char *status)
{
        if (alloc_replace(&vm->qemu_status, status) < 0)
                log_error("VM %s: out of memory for QEMU's state", vm->name);
}

/* What a RunState that QEMU took by itself means for the VM. A migration's own stops and states are left to the
 * handoff, and so is a guest that was handed off. */
static void apply_status(struct vm *vm, const char *status)
{
        enum vm_power power = vm_power(vm);

        set_qemu_status(vm, status);
        if (vm->job || migration_vm_busy(vm->agent, vm->uid) || power == VM_POWER_OUTGOING_DONE ||
                storage_move_stops_guest(vm->agent, vm->uid))
                return;
        if (power == VM_POWER_SUSPENDING || power == VM_POWER_SUSPENDED)
                vm_suspend_recover(vm); /* adopted */
        else if (power == VM_POWER_STARTING && vm->restore_continuing && strcmp(status, "running") != 0)
                vm_suspend_recover(vm); /* the same */
        else if (power == VM_POWER_STARTING && strcmp(status, "running") != 0)
                (void)vm_kill(vm); /* adopted: the old agent ended before it could continue the guest */
        else if (strcmp(status, "running") == 0 && power != VM_POWER_RUNNING) {
                vm_restore_forget(vm);
                vm_set_power(vm, VM_POWER_RUNNING, NULL);
        } else if (strcmp(status, "inmigrate") == 0 && power == VM_POWER_UNKNOWN)
                vm_set_power(vm, VM_POWER_INCOMING, NULL);
        else if (strcmp(status, "io-error") == 0)
                vm_set_power(vm, VM_POWER_PAUSED,
                        vm->disk_full ? "QEMU stopped the guest: I/O error, no room is left on the datastore "
                                        "of one of its "
                                        "disks; make room, then resume it"
                                      : "QEMU stopped the guest: an I/O error on one of its disks");
        else if (strcmp(status, "internal-error") == 0)
                vm_set_power(
                        vm, VM_POWER_PAUSED, "QEMU stopped the guest: internal error of the accelerator");
        else if (strcmp(status, "guest-panicked") == 0)
                vm_set_power(vm, VM_POWER_PAUSED, "the guest's kernel panicked");
        else if (strcmp(status, "running") != 0 && power != VM_POWER_INCOMING && power != VM_POWER_PAUSED)
                vm_set_power(vm, VM_POWER_PAUSED, NULL);
}

static void on_status(void *userdata, const json_t *result, const struct error *error)
{
        struct vm *vm = userdata;
        const char *status = json_string_value(json_object_get(result, "status"));

        if (status)
                apply_status(vm, status);
}

/* False: the connection was lost, of which on_lost() is told next; nothing more is to be begun on it. */
static bool note_ram(struct vm *vm, const json_t *reply, const struct error *error)
{
        _cleanup_error_ struct error *unclear = NULL;

        vm->ram_asked = false;
        if (!qmp_is_ready(vm->qmp))
                return false;
        if (error || guest_ram_read_reply(reply, &vm->ram_address, &unclear) < 0)
                log_error("VM %s: %s; it cannot be migrated", vm->name, error_message(error ?: unclear));
        return true;
}

static void on_ram_found(void *userdata, const json_t *reply, const struct error *error)
{
        (void)note_ram(userdata, reply, error);
}

static void on_ram_found_at_start(void *userdata, const json_t *reply, const struct error *error)
{
        struct vm *vm = userdata;

        if (note_ram(vm, reply, error) && starting(vm))
                vm_start_connected(vm);
}

static void ask_ram(struct vm *vm, qmp_reply_fn reply)
{
        _cleanup_error_ struct error *error = NULL;

        vm->ram_asked = true;
        if (guest_ram_ask(vm->qmp, QUERY_TIMEOUT_MS, reply, vm, &error) < 0)
                reply(vm, NULL, error);
}

void vm_refresh(struct vm *vm)
{
        struct error *error = NULL;

        /* It may not have been answered in time, which need not be the last word on it. */
        if (vm->qmp && qmp_is_ready(vm->qmp) && !vm->ram_address && !vm->ram_asked)
                ask_ram(vm, on_ram_found);
        if (vm->qmp && qmp_command(vm->qmp, "query-status", NULL, -1, QUERY_TIMEOUT_MS, on_status, vm, NULL,
                               &error) < 0)
                log_warning("VM %s: %s", vm->name, error_message(error));
        error_free(error);
}

/* Those that have ended stay until they are dismissed, and are in nobody's way. */
static json_t *jobs_of(const json_t *result)
{
        json_t *jobs = json_array(), *item;
        size_t i;

        json_array_foreach ((json_t *)result, i, item) {
                const char *id = json_string_value(json_object_get(item, "id"));
                const char *type = json_string_value(json_object_get(item, "type"));
                const char *status = json_string_value(json_object_get(item, "status"));

                if (!id || !type || !status || !strcmp(status, "concluded") || !strcmp(status, "null"))
                        continue;
                if (json_array_append_new(jobs, json_pack("{s:s, s:s}", "id", id, "type", type)) < 0) {
                        json_decref(jobs);
                        return NULL;
                }
        }
        return jobs;
}

static void on_jobs(void *userdata, const json_t *result, const struct error *error)
{
        struct vm *vm = userdata;
        _cleanup_json_ json_t *jobs = error ? NULL : jobs_of(result);

        if (!jobs || json_equal(jobs, vm->jobs) || (!vm->jobs && !json_array_size(jobs)))
                return;
        json_decref(vm->jobs);
        vm->jobs = TAKE_PTR(jobs);
        agent_publish(vm->agent, "vm", vm_report(vm));
}

static void ask_jobs(struct vm *vm)
{
        _cleanup_error_ struct error *error = NULL;

        if (vm->qmp && qmp_is_ready(vm->qmp) &&
                qmp_command(vm->qmp, "query-jobs", NULL, -1, QUERY_TIMEOUT_MS, on_jobs, vm, NULL, &error) < 0)
                log_warning("VM %s: %s", vm->name, error_message(error));
}

static bool from_guest(const json_t *data)
{
        return json_is_true(json_object_get(data, "guest"));
}

static void on_event(void *userdata, const char *name, const json_t *data, int64_t unix_us)
{
        struct vm *vm = userdata;

        if (strcmp(name, "SHUTDOWN") == 0) {
                vm->guest_shutdown = from_guest(data);
        } else if (strcmp(name, "RESET") == 0 && from_guest(data)) {
                vm->n_resets++;
                log_info("VM %s: the guest rebooted (%" PRIu64 " times since its start)", vm->name,
                        vm->n_resets);
        } else if (strcmp(name, "STOP") == 0 || strcmp(name, "RESUME") == 0) {
                vm_refresh(vm);
        } else if (strcmp(name, "JOB_STATUS_CHANGE") == 0) {
                ask_jobs(vm);
        } else if (strcmp(name, "BLOCK_IO_ERROR") == 0) {
                vm->disk_full = json_is_true(json_object_get(data, "nospace"));
                log_warning("VM %s: I/O error on %s: %s", vm->name,
                        json_string_value(json_object_get(data, "node-name")) ?: "a disk",
                        json_string_value(json_object_get(data, "reason")) ?: "no reason given");
        }
        migration_vm_event(vm->agent, vm, name, data, unix_us);
}

static void on_ready(void *userdata, unsigned int major, unsigned int minor, unsigned int micro)
{
        struct vm *vm = userdata;
        char *version = alloc_printf("%u.%u.%u", major, minor, micro);

        vm->qmp_failed = false;
        if (version) {
                free(vm->config->status.qemu_version);
                vm->config->status.qemu_version = version;
        }
        if (starting(vm)) {
                ask_ram(vm, on_ram_found_at_start); /* and goes on with the answer */
                return;
        }
        vm_refresh(vm);
        ask_jobs(vm);
        migration_vm_connected(vm->agent, vm);
}

static void on_reconnect(void *userdata)
{
        struct vm *vm = userdata;
        struct error *error = NULL;

        if (!vm->qmp && vm->qemu && vm_connect(vm, &error) < 0) {
                log_warning("VM %s: %s", vm->name, error_message(error));
                (void)loop_source_rearm(vm->reconnect, RECONNECT_MS);
        }
        error_free(error);
}

static void connect_again(struct vm *vm, uint64_t delay_ms)
{
        int r = vm->reconnect ? loop_source_rearm(vm->reconnect, delay_ms)
                              : loop_add_timer(vm->agent->loop, delay_ms, on_reconnect, vm, &vm->reconnect);

        if (r < 0)
                log_error("VM %s: cannot connect to QEMU again: %s", vm->name, strerror(-r));
}

/* QEMU ended, its end follows; or it closed the connection, or did not answer in time: then we try for ever. */
static void on_lost(void *userdata, const struct error *error)
{
        struct vm *vm = userdata;
        _cleanup_(qmp_freep) struct qmp *gone = TAKE_PTR(vm->qmp); /* `error` is inside */
        bool again = vm->qmp_failed;

        migration_vm_leave_monitor(vm->agent, vm); /* nobody may use it any more */
        storage_move_vm_leave_monitor(vm->agent, vm);
        vm->qmp_failed = true;
        if (vm->exited) {
                settle_exit(vm);
                return;
        }
        if (!vm->qemu || !child_running(vm->qemu))
                return;
        if (starting(vm)) {
                struct error *cause = NULL;

                if (vm->job->ending)
                        return;
                (void)error_set(&cause, ERROR_QEMU_FAILED, NULL, "QEMU's monitor: %s", error_message(error));
                vm_start_failed(vm, cause);
                return;
        }
        if (again && vm_power_may_change(vm_power(vm), VM_POWER_UNKNOWN) &&
                vm_power(vm) != VM_POWER_UNKNOWN) {
                log_warning("VM %s: %s", vm->name, error_message(error));
                vm_set_power(vm, VM_POWER_UNKNOWN, "QEMU runs but its monitor does not answer");
        }
        connect_again(vm, again ? RECONNECT_MS : 100);
}

int vm_open_ram(const struct vm *vm, int *ret_fd, struct error **ret_error)
{
        _cleanup_fd_ int fd = -1;
        uint64_t start_time;
        int r;

        if (!vm->ram_address || vm->pid <= 0)
                return error_set(ret_error, ERROR_CONFLICT, "See the log of the agent.",
                        "it is not known where QEMU has the RAM of VM %s", vm->name);
        r = guest_ram_open(vm->pid, &fd, ret_error);
        if (r < 0)
                return r;
        /* Looked at only now that the file is open: it is this QEMU's and no successor's with the same number. */
        r = child_start_time(vm->pid, &start_time);
        if (r < 0 || start_time != vm->start_time)
                return error_set(ret_error, ERROR_QEMU_DIED, NULL, "QEMU of VM %s has ended", vm->name);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int vm_connect(struct vm *vm, struct error **ret_error)
{
        const struct qmp_callbacks callbacks = {
                .ready = on_ready, .event = on_event, .lost = on_lost, .userdata = vm};
        _cleanup_free_ char *path = vm_runtime_path(vm, "qmp.sock");

        if (!path)
                return error_from_errno(ret_error, ENOMEM, "monitor of VM %s", vm->name);
        vm->ram_asked = false; /* of another connection */
        return qmp_connect(vm->agent->loop, path, CONNECT_TIMEOUT_MS, &callbacks, &vm->qmp, ret_error);
}

static char *describe_end(const struct vm *vm, const struct child_result *result)
{
        char how[64], words[512];

        if (vm->lost_text)
                return alloc_strdup(vm->lost_text);
        vm_last_words(vm, words);
        if (result->code < 0) /* adopted: the kernel tells its exit code to its parent only */
                return alloc_printf("QEMU ended%s%s", *words ? ": " : "", words);
        return alloc_printf("QEMU %s%s%s", child_result_format(result, how), *words ? ": " : "", words);
}

void vm_on_exit(void *userdata, const struct child_result *result)
{
        struct vm *vm = userdata;

        vm->exited = true;
        vm->exited_by_itself = result->exited;
        vm->exited_well = result->exited && result->code == 0;
        vm->exit_text = describe_end(vm, result);
        /* What it said last (a SHUTDOWN event) is read first, and every command is answered, with an error. */
        if (!vm->qmp || !qmp_is_ready(vm->qmp))
                settle_exit(vm);
}

static void settle_started(struct vm *vm, bool by_itself, const char *how)
{
        struct error *error = NULL;

        if (!vm->job->ending || by_itself) { /* its own words say more than a lost monitor */
                error_free(TAKE_PTR(vm->job->error));
                (void)error_set(&error, ERROR_QEMU_DIED, NULL, "%s", how);
        }
        vm_start_failed(vm, error);
}

static void settle_released(struct vm *vm)
{
        struct vm_job mine = *vm->job;

        vm_job_drop(vm);
        vm_forget(vm);
        mine.done(mine.userdata, NULL);
}

/* The end of a QEMU that runs, or could have run, its guest here. */
static void settle_power(struct vm *vm, bool orderly, const char *how)
{
        bool stopped = vm->job && vm->job->kind == VM_JOB_STOP;
        enum vm_power power = vm_power(vm);

        if (power == VM_POWER_OUTGOING_DONE || power == VM_POWER_INCOMING)
                vm_set_power(vm, power, how); /* what becomes of it is the handoff's business */
        else if (power == VM_POWER_SUSPENDED)
                vm_set_power(vm, power, NULL);
        else if (power == VM_POWER_SUSPENDING || (power == VM_POWER_STARTING && vm->restore_continuing)) {
                vm_suspend_vm_gone(vm);
                vm_restore_forget(vm);
                vm_set_power(vm, stopped ? VM_POWER_STOPPED : VM_POWER_CRASHED, stopped ? NULL : how);
        } else if (power == VM_POWER_STARTING && !vm_restore_keep(vm))
                vm_start_broke_off(vm);
        else if (power == VM_POWER_STARTING)
                return;
        else if (orderly)
                vm_set_power(vm, VM_POWER_STOPPED, NULL);
        else
                vm_set_power(vm, VM_POWER_CRASHED, how);
}

static void settle_exit(struct vm *vm)
{
        struct vm_job *job = vm->job;
        _cleanup_free_ char *text = TAKE_PTR(vm->exit_text);
        const char *how = text ?: "QEMU ended";
        bool orderly = vm->guest_shutdown || vm->exited_well || (job && job->kind == VM_JOB_STOP);
        bool by_itself = vm->exited_by_itself;
        struct error *error = NULL;

        vm_clear_process(vm);
        cgroup_remove(vm->agent->cgroup, vm->uid);
        if (starting(vm)) {
                settle_started(vm, by_itself, how);
                return;
        }
        if (job && job->ending) {
                settle_released(vm);
                return;
        }
        settle_power(vm, orderly, how);
        migration_vm_gone(vm->agent, vm);
        storage_move_vm_gone(vm->agent, vm);
        if (!job || vm->job != job)
                return;
        if (job->kind != VM_JOB_STOP && vm_power(vm) != VM_POWER_SUSPENDED)
                (void)error_set(&error, ERROR_QEMU_DIED, NULL, "%s", how);
        vm_job_end(vm, error);
}
