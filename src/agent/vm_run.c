/* SPDX-License-Identifier: Apache-2.0 */

/* What is done with a VM that has a QEMU: stop, pause, resume, and the steps that a handoff consists of. */

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/agent.h"
#include "agent/migration.h"
#include "agent/storage_move.h"
#include "agent/vm_job.h"
#include "agent/vm_suspend.h"
#include "base/alloc.h"
#include "base/log.h"
#include "base/mac.h"
#include "fabric/announce.h"
#include "fabric/vswitch.h"
#include "vmm/qmp.h"

#define QMP_TIMEOUT_MS 10000
#define STOP_TIMEOUT_MS 60000
#define QUIT_TIMEOUT_MS 5000 /* for QEMU to write back its caches; then it is killed */

/* --- Stop --------------------------------------------------------------------------------------------------- */

static int check_may_act(struct vm *vm, const char *what, unsigned int powers, struct error **ret_error)
{
        if (migration_vm_busy(vm->agent, vm->uid))
                return error_set(ret_error, ERROR_BUSY, "Wait for the migration, or cancel it.",
                        "VM %s is being migrated: it cannot be %s now", vm->name, what);
        if (storage_move_busy(vm->agent, vm->uid))
                return error_set(ret_error, ERROR_BUSY, "Wait for it to end, or cancel it.",
                        "the disks of VM %s are being moved: it cannot be %s now", vm->name, what);
        if (!vm->qemu || !(powers & (1U << vm_power(vm))))
                return error_set(ret_error, ERROR_CONFLICT, NULL, "VM %s is %s: it cannot be %s", vm->name,
                        vm_power_to_string(vm_power(vm)), what);
        return 0;
}

static void on_quit_timeout(void *userdata)
{
        struct vm *vm = userdata;

        log_warning("VM %s: QEMU did not quit within %d ms and is killed", vm->name, QUIT_TIMEOUT_MS);
        (void)vm_kill(vm);
}

static void on_stop_timeout(void *userdata)
{
        struct vm *vm = userdata;
        struct error *error = NULL;

        (void)error_set(&error, ERROR_TIMED_OUT, "Stop it with force, or give the guest more time.",
                "the guest of VM %s did not shut down in time after its power button was pressed", vm->name);
        vm_job_end(vm, error);
}

/* The command's own answer says little: the end of the process is what counts. */
static void on_stop_reply(void *userdata, const json_t *result, const struct error *error)
{
        struct vm *vm = userdata;

        vm->job->call = NULL;
        if (error && vm->job->force)
                (void)vm_kill(vm);
        else if (error)
                log_warning("VM %s: %s", vm->name, error_message(error));
}

static int begin_stop(struct vm *vm, uint64_t timeout_ms, struct error **ret_error)
{
        struct vm_job *job = vm->job;
        int r = job->force
                        ? loop_add_timer(vm->agent->loop, QUIT_TIMEOUT_MS, on_quit_timeout, vm, &job->timer)
                        : loop_add_timer(vm->agent->loop, timeout_ms ?: STOP_TIMEOUT_MS, on_stop_timeout, vm,
                                  &job->timer);

        if (r < 0)
                return error_from_errno(ret_error, r, "VM %s", vm->name);
        if (job->force && (!vm->qmp || !qmp_is_ready(vm->qmp))) {
                (void)vm_kill(vm); /* fails only when it just ended: its pidfd is about to tell */
                return 0;
        }
        if (!vm->qmp)
                return error_set(ret_error, ERROR_QEMU_FAILED, "Stop it with force.",
                        "the monitor of VM %s does not answer", vm->name);
        return qmp_command(vm->qmp, job->force ? "quit" : "system_powerdown", NULL, -1, QMP_TIMEOUT_MS,
                on_stop_reply, vm, &job->call, ret_error);
}

int vm_stop(struct vm *vm, bool force, uint64_t timeout_ms, vm_done_fn done, void *userdata,
        struct error **ret_error)
{
        unsigned int powers = 1U << VM_POWER_RUNNING | 1U << VM_POWER_PAUSED | 1U << VM_POWER_UNKNOWN;
        int r;

        /* Also one that waits for its datastore to go on. */
        if (force)
                powers |= 1U << VM_POWER_SUSPENDING | (vm->restore_continuing ? 1U << VM_POWER_STARTING : 0U);
        r = check_may_act(vm, "stopped", powers, ret_error);
        if (r < 0)
                return r;
        if (force && (vm_power(vm) == VM_POWER_SUSPENDING || vm_power(vm) == VM_POWER_STARTING))
                vm_suspend_give_up(vm);
        if (!force && vm_power(vm) == VM_POWER_PAUSED)
                return error_set(ret_error, ERROR_CONFLICT, "Resume it first, or stop it with force.",
                        "VM %s is paused: its guest cannot react to the power button", vm->name);
        r = vm_job_begin(vm, VM_JOB_STOP, done, userdata, ret_error);
        if (r < 0)
                return r;
        vm->job->force = force;
        r = begin_stop(vm, timeout_ms, ret_error);
        if (r < 0)
                vm_job_drop(vm);
        return r;
}

/* --- Pause, resume ------------------------------------------------------------------------------------------- */

static struct error *copy_error(const struct error *error)
{
        struct error *copy = NULL;

        if (error)
                (void)error_set(&copy, error->code, error->hint, "%s", error_message(error));
        return copy;
}

static void on_paused(void *userdata, const json_t *result, const struct error *error)
{
        struct vm *vm = userdata;

        vm->job->call = NULL;
        if (!error)
                vm_set_power(vm, VM_POWER_PAUSED, NULL);
        vm_job_end(vm, copy_error(error));
}

static void on_resumed(void *userdata, const json_t *result, const struct error *error)
{
        struct vm *vm = userdata;

        vm->job->call = NULL;
        if (!error)
                vm_set_power(vm, VM_POWER_RUNNING, NULL);
        vm_job_end(vm, copy_error(error));
}

static int begin_command(struct vm *vm, enum vm_job_kind kind, const char *command, qmp_reply_fn reply,
        vm_done_fn done, void *userdata, struct error **ret_error)
{
        int r;

        if (!vm->qmp)
                return error_set(
                        ret_error, ERROR_QEMU_FAILED, NULL, "the monitor of VM %s does not answer", vm->name);
        r = vm_job_begin(vm, kind, done, userdata, ret_error);
        if (r < 0)
                return r;
        r = qmp_command(vm->qmp, command, NULL, -1, QMP_TIMEOUT_MS, reply, vm, &vm->job->call, ret_error);
        if (r < 0)
                vm_job_drop(vm);
        return r;
}

int vm_pause(struct vm *vm, vm_done_fn done, void *userdata, struct error **ret_error)
{
        int r = check_may_act(vm, "paused", 1U << VM_POWER_RUNNING | 1U << VM_POWER_PAUSED, ret_error);

        /* QEMU would wait for what is under way on all disks, and answer nothing meanwhile: for ever where a datastore hangs. */
        if (r == 0 && json_array_size(vm->jobs))
                r = error_set(ret_error, ERROR_BUSY, "Wait until it has ended, or end it.",
                        "QEMU works on a disk of VM %s: it cannot be paused now", vm->name);
        return r < 0 ? r : begin_command(vm, VM_JOB_PAUSE, "stop", on_paused, done, userdata, ret_error);
}

int vm_resume(struct vm *vm, vm_done_fn done, void *userdata, struct error **ret_error)
{
        int r = check_may_act(vm, "resumed", 1U << VM_POWER_RUNNING | 1U << VM_POWER_PAUSED, ret_error);

        return r < 0 ? r : begin_command(vm, VM_JOB_CONTINUE, "cont", on_resumed, done, userdata, ret_error);
}

/* --- Steps of a handoff ---------------------------------------------------------------------------------------- */

int vm_continue(struct vm *vm, vm_done_fn done, void *userdata, struct error **ret_error)
{
        return begin_command(vm, VM_JOB_CONTINUE, "cont", on_resumed, done, userdata, ret_error);
}

int vm_set_epoch(struct vm *vm, uint64_t epoch, struct error **ret_error)
{
        if (vm->config->status.owner_epoch == epoch)
                return 0;
        vm->config->status.owner_epoch = epoch;
        agent_publish(vm->agent, "vm", vm_report(vm));
        return vm_state_write(vm, ret_error);
}

void vm_set_ended(struct vm *vm, const char *message)
{
        if (vm_has_qemu(vm) || (vm_power(vm) != VM_POWER_OUTGOING_DONE && vm_power(vm) != VM_POWER_INCOMING))
                return;
        vm->config->status.power = VM_POWER_UNKNOWN; /* from where every end is allowed */
        vm_set_power(vm, VM_POWER_CRASHED, message);
}

int vm_end_lost(struct vm *vm, const char *reason, struct error **ret_error)
{
        int r = alloc_replace(&vm->lost_text, reason);

        if (r == 0)
                r = vm_kill(vm);
        return r < 0 ? error_from_errno(ret_error, r, "QEMU of VM %s cannot be ended", vm->name) : 0;
}

int vm_set_handed_off(struct vm *vm, struct error **ret_error)
{
        enum vm_power before = vm_power(vm);
        int r;

        if (!vm_power_may_change(before, VM_POWER_OUTGOING_DONE))
                return error_set(ret_error, ERROR_CONFLICT, NULL, "VM %s is %s: it cannot be handed off",
                        vm->name, vm_power_to_string(before));
        vm->config->status.power = VM_POWER_OUTGOING_DONE;
        r = vm_state_write(vm, ret_error);
        if (r < 0) {
                vm->config->status.power = before;
                return r;
        }
        agent_publish(vm->agent, "vm", vm_report(vm));
        return 0;
}

static void on_stream_fd(void *userdata, const json_t *result, const struct error *error)
{
        struct vm *vm = userdata;

        vm->job->call = NULL;
        vm_job_end(vm, copy_error(error));
}

void vm_stream_set_room(int qemu_fd, uint64_t bytes)
{
        int size = (int)(MIN(bytes, (uint64_t)VM_STREAM_BYTES) / 2); /* the kernel doubles it, socket(7) */

        /* A UNIX socket's data count as the sender's (net/unix/af_unix.c). FORCE: above net.core.wmem_max. */
        if (setsockopt(qemu_fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
                (void)setsockopt(qemu_fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

int vm_open_outgoing_stream(
        struct vm *vm, const char *fdname, vm_stream_fn done, void *userdata, struct error **ret_error)
{
        int pair[2], r;

        if (!vm->qmp)
                return error_set(
                        ret_error, ERROR_QEMU_FAILED, NULL, "the monitor of VM %s does not answer", vm->name);
        r = vm_job_begin(vm, VM_JOB_STREAM, NULL, userdata, ret_error);
        if (r < 0)
                return r;
        vm->job->stream_done = done;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
                r = error_from_errno(ret_error, errno, "stream of the migration");
                vm_job_drop(vm);
                return r;
        }
        vm->job->stream_fd = pair[0];
        vm->job->qemu_fd = pair[1];
        vm_stream_set_room(pair[1], VM_STREAM_BYTES);
        r = qmp_command(vm->qmp, "getfd", json_pack("{s:s}", "fdname", fdname), pair[1], QMP_TIMEOUT_MS,
                on_stream_fd, vm, &vm->job->call, ret_error);
        if (r < 0)
                vm_job_drop(vm);
        return r;
}

/* The QEMU is gone already: what is left goes now, and `done` is called from the loop's next round. */
static void on_already_gone(void *userdata)
{
        struct vm_job *job = userdata, mine = *job;

        vm_job_drop(mine.vm);
        vm_forget(mine.vm);
        mine.done(mine.userdata, NULL);
}

static int begin_end(
        struct vm *vm, enum vm_job_kind kind, vm_done_fn done, void *userdata, struct error **ret_error)
{
        int r;

        if (vm->unwatched) /* it could not even be said when it has ended */
                return error_set(ret_error, ERROR_BUSY, "It is tried again.",
                        "QEMU %d of VM %s cannot be watched now, so it cannot be ended", vm->pid, vm->name);
        r = vm_job_begin(vm, kind, done, userdata, ret_error);
        if (r < 0)
                return r;
        vm->job->ending = true;
        /* SIGKILL, not `quit`: a QEMU whose disks are inactive has nothing to write back, and one that might write
         * must not get the chance. */
        r = vm->qemu ? vm_kill(vm)
                     : loop_add_defer(vm->agent->loop, on_already_gone, vm->job, &vm->job->timer);
        if (r < 0) {
                vm_job_drop(vm);
                return error_from_errno(ret_error, r, "QEMU of VM %s cannot be ended", vm->name);
        }
        return 0;
}

int vm_release(struct vm *vm, vm_done_fn done, void *userdata, struct error **ret_error)
{
        return begin_end(vm, VM_JOB_RELEASE, done, userdata, ret_error);
}

int vm_discard_incoming(struct vm *vm, vm_done_fn done, void *userdata, struct error **ret_error)
{
        return begin_end(vm, VM_JOB_DISCARD, done, userdata, ret_error);
}

/* --- Announcing ------------------------------------------------------------------------------------------------ */

static void on_announced(void *userdata, const json_t *result, const struct error *error)
{
        if (error)
                log_debug("announce-self: %s", error_message(error));
}

static void announce_nic(struct vm *vm, size_t index, unsigned int n_rounds)
{
        const struct vm_nic *nic = &vm->config->nics[index];
        struct announce_spec spec = {.tap = vm->taps[index].name, .n_rounds = n_rounds};
        struct vswitch_port_group group;
        struct error *error = NULL;
        int r = vswitch_set_look_up_port_group(vm->agent->switches, nic->port_group, &group);

        announce_free(TAKE_PTR(vm->announces[index]));
        /* Open vSwitch learns from what comes out of the tap, with the port's VLAN: QEMU's own announcement. A frame sent from the
         * bridge's port would be of no VLAN, and the address would be learned there. */
        if (r == 0 && group.ovs)
                return;
        if (r == 0)
                r = mac_parse(nic->mac, spec.mac);
        spec.bridge = group.bridge;
        if (r == 0)
                r = announce_start(vm->agent->loop, vm->agent->netlink, &spec, NULL, NULL,
                        &vm->announces[index], &error);
        if (r < 0)
                log_warning("VM %s: NIC %zu cannot be announced on the network: %s", vm->name, index,
                        error ? error_message(error) : strerror(-r));
        error_free(error);
}

void vm_announce(struct vm *vm)
{
        vm_announce_rounds(vm, 0);
}

void vm_announce_rounds(struct vm *vm, unsigned int n_rounds)
{
        json_t *arguments =
                json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550, "rounds", 10, "step", 50);
        struct error *error = NULL;

        for (size_t i = 0; i < vm->n_taps && i < vm->config->n_nics; i++)
                announce_nic(vm, i, n_rounds);
        if (vm->qmp && arguments &&
                qmp_command(vm->qmp, "announce-self", json_incref(arguments), -1, QMP_TIMEOUT_MS,
                        on_announced, NULL, NULL, &error) < 0)
                log_warning("VM %s: %s", vm->name, error_message(error));
        json_decref(arguments);
        error_free(error);
}
