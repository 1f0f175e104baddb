/* SPDX-License-Identifier: Apache-2.0 */

/* Each runtime file names a process by pid and start time. If it lives, it is watched and its monitor asked for the
 * guest's state; if not, the VM ended while nobody looked. When neither can be told (no descriptors), a timer tries again. A start that the old agent did not finish is undone
 * unless its guest runs already. Half-started QEMUs of which not even the pid was noted are found through their monitor socket. */

#include "agent/vm_adopt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "agent/agent.h"
#include "agent/migration.h"
#include "agent/storage_move.h"
#include "agent/vm_job.h"
#include "agent/vm_suspend.h"
#include "base/alloc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/child.h"
#include "io/file.h"
#include "io/sock.h"

#define POLL_MS 50
#define AGAIN_MS 500
#define GIVE_UP_MS 10000 /* then the agent opens for business; the VM is tried on */

struct vm_adoption {
        struct agent *agent;
        loop_fn done;
        void *userdata;
        struct loop_source *timer;
        uint64_t since_ms;
};

/* True while some living QEMU was neither heard nor given up. */
static bool still_waiting(const struct agent *agent)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &agent->vms) {
                const struct vm *vm = item->value;

                if (vm->qemu && !vm->qemu_status && !vm->qmp_failed)
                        return true;
        }
        return false;
}

static void mark_silent(struct agent *agent)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &agent->vms) {
                struct vm *vm = item->value;

                if (!vm->qemu || vm->qemu_status)
                        continue;
                if (vm_power(vm) == VM_POWER_STARTING && !vm->restore_continuing)
                        (void)vm_kill(vm);
                else if (vm_power_may_change(vm_power(vm), VM_POWER_UNKNOWN))
                        vm_set_power(vm, VM_POWER_UNKNOWN, "QEMU runs but its monitor does not answer");
        }
}

static void on_poll(void *userdata)
{
        struct vm_adoption *adoption = userdata;
        uint64_t waited_ms = clock_now_ms(loop_clock(adoption->agent->loop)) - adoption->since_ms;

        if (still_waiting(adoption->agent) && waited_ms < GIVE_UP_MS) {
                (void)loop_source_rearm(adoption->timer, POLL_MS);
                return;
        }
        mark_silent(adoption->agent);
        adoption->done(adoption->userdata);
}

/* The QEMU that answers at the monitor socket of this VM; 0: none. */
static pid_t monitor_pid(const struct agent *agent, const char *uid)
{
        _cleanup_free_ char *path = alloc_printf("%s/vms/%s/qmp.sock", agent->config.runtime_dir, uid);
        socklen_t len = sizeof(struct ucred);
        _cleanup_fd_ int fd = -1;
        struct ucred peer;

        if (!path || sock_connect_unix(path, SOCK_STREAM, &fd) < 0)
                return 0;
        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid > 1 ? peer.pid : 0;
}

static void kill_unnoted(const struct vm *vm)
{
        pid_t pid = monitor_pid(vm->agent, vm->uid);

        if (pid) {
                log_notice("VM %s: ending QEMU %d, whose start was not finished", vm->name, pid);
                (void)kill(pid, SIGKILL);
        }
}

static void take_up(struct vm *vm)
{
        struct error *error = NULL;

        if (vm_connect(vm, &error) < 0) {
                log_error("VM %s: %s", vm->name, error_message(error));
                error_free(error);
                vm->qmp_failed = true;
        }
        vm_watch_guest(vm);
        if (vm_power(vm) == VM_POWER_SUSPENDED) /* the old agent ended before it did */
                (void)vm_kill(vm);
        log_info("VM %s (%s): adopted QEMU %d", vm->name, vm->uid, vm->pid);
}

static void settle_ended(struct vm *vm)
{
        enum vm_power power = vm_power(vm);

        if (power == VM_POWER_INCOMING || power == VM_POWER_STARTING)
                kill_unnoted(vm);
        vm_clear_process(vm);
        if (power == VM_POWER_SUSPENDING || (power == VM_POWER_STARTING && vm->restore_continuing))
                vm_claim_is_unclear(vm); /* the guest was to go on */
        if (power == VM_POWER_STARTING && vm->restore_continuing) {
                vm_restore_forget(vm);
                vm_set_power(vm, VM_POWER_CRASHED, "QEMU ended while the agent did not watch it");
        } else if (power == VM_POWER_STARTING && !vm_restore_keep(vm))
                vm_start_broke_off(vm);
        else if (power == VM_POWER_SUSPENDING)
                vm_set_power(vm, VM_POWER_CRASHED,
                        "QEMU ended while the VM was being suspended; resume it: that works if its state was "
                        "complete");
        else if (power == VM_POWER_RUNNING || power == VM_POWER_PAUSED || power == VM_POWER_UNKNOWN)
                vm_set_power(vm, VM_POWER_CRASHED, "QEMU ended while the agent did not watch it");
        vm_restore_keep_later(vm);
        migration_vm_gone(vm->agent, vm);
        storage_move_vm_gone(vm->agent, vm);
}

/* -ESRCH: there is none; other errors say nothing about it. */
static int watch(struct vm *vm)
{
        if (vm->pid <= 0)
                return -ESRCH;
        return child_adopt(vm->agent->loop, vm->pid, vm->start_time, vm_on_exit, vm, &vm->qemu);
}

/* What could not be had at the start of the agent (descriptors, memory) can be had later. */
static void on_again(void *userdata)
{
        struct vm *vm = userdata;
        int r = 0;

        if (!vm->qemu) {
                r = watch(vm);
                vm->unwatched = r < 0 && r != -ESRCH;
                if (r == 0) {
                        take_up(vm);
                        migration_discard_orphan(vm->agent, vm);
                }
        } else if (!vm->qmp) {
                (void)vm_connect(vm, NULL);
        }
        if (r == -ESRCH)
                settle_ended(vm);
        else if (vm->qmp)
                loop_source_free(TAKE_PTR(vm->reconnect));
        else
                (void)loop_source_rearm(vm->reconnect, AGAIN_MS);
}

static int adopt(struct vm *vm, struct error **ret_error)
{
        enum vm_power power = vm_power(vm);
        int r = watch(vm);

        if (r == -ESRCH) {
                settle_ended(vm);
                return 0;
        }
        if (r == 0) {
                take_up(vm);
                if (vm->qmp)
                        return 0;
        } else {
                /* It is not known to have ended: nobody may take it for dead, or start the VM again. */
                log_error("VM %s: QEMU %d cannot be watched: %s; trying again", vm->name, vm->pid,
                        strerror(-r));
                vm->unwatched = true;
                if (power == VM_POWER_RUNNING || power == VM_POWER_PAUSED)
                        vm_set_power(vm, VM_POWER_UNKNOWN, "QEMU cannot be watched for the moment");
        }
        r = loop_add_timer(vm->agent->loop, AGAIN_MS, on_again, vm, &vm->reconnect);
        return r < 0 ? error_from_errno(
                               ret_error, r, "QEMU %d of VM %s cannot be taken up", vm->pid, vm->name)
                     : 0;
}

/* A file that makes no sense stays for whoever looks into it. */
static void put_aside(struct agent *agent, const char *path, const char *uid, const struct error *why)
{
        _cleanup_free_ char *aside = alloc_printf("%s.bad", path);
        pid_t pid = monitor_pid(agent, uid);

        log_error("%s: %s", path, error_message(why));
        if (pid)
                log_error("QEMU %d of VM %s goes on without anybody looking after it: its runtime file is "
                          "damaged "
                          "and kept as %s",
                        pid, uid, aside ?: "it is");
        else
                log_error("if a QEMU of VM %s runs, nobody looks after it: its runtime file is damaged and "
                          "kept "
                          "as %s",
                        uid, aside ?: "it is");
        if (!aside || rename(path, aside) < 0)
                log_error("%s cannot be renamed: %s", path, strerror(aside ? errno : ENOMEM));
}

/* Only damage lets a file be passed over: what cannot be read now describes a QEMU all the same. */
static int read_one(struct agent *agent, const char *folder, const char *uid, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s.json", folder, uid);
        _cleanup_error_ struct error *error = NULL;
        struct vm *vm;
        int r;

        if (!path)
                return error_from_errno(ret_error, ENOMEM, "runtime file of VM %s", uid);
        if (vm_find(agent, uid)) /* rewritten a moment ago, and so seen again */
                return 0;
        r = vm_state_read(agent, path, &vm, &error);
        if (r == 0)
                return adopt(vm, ret_error);
        if (error && error->code == ERROR_BAD_DOCUMENT) {
                put_aside(agent, path, uid, error);
                return 0;
        }
        *ret_error = TAKE_PTR(error);
        return r;
}

/* "UUID.json" */
static bool parse_name(const char *file, char ret_uid[static UUID_STRING_SIZE])
{
        if (strlen(file) != UUID_STRING_SIZE - 1 + strlen(".json") ||
                strcmp(file + UUID_STRING_SIZE - 1, ".json") != 0)
                return false;
        memcpy(ret_uid, file, UUID_STRING_SIZE - 1);
        ret_uid[UUID_STRING_SIZE - 1] = '\0';
        return text_is_uuid(ret_uid);
}

static int read_all(struct agent *agent, const char *folder, struct error **ret_error)
{
        DIR *dir = opendir(folder);
        const struct dirent *entry;
        char uid[UUID_STRING_SIZE];
        int r = 0;

        if (!dir)
                return error_from_errno(ret_error, errno, "runtime folder %s", folder);
        while (r == 0 && (errno = 0, entry = readdir(dir)))
                if (parse_name(entry->d_name, uid))
                        r = read_one(agent, folder, uid, ret_error);
        if (r == 0 && errno)
                r = error_from_errno(ret_error, errno, "runtime folder %s", folder);
        (void)closedir(dir);
        return r;
}

int vm_adopt_all(struct agent *agent, loop_fn done, void *userdata, struct vm_adoption **ret_adoption,
        struct error **ret_error)
{
        _cleanup_(vm_adoption_freep) struct vm_adoption *adoption = ALLOC(struct vm_adoption);
        _cleanup_free_ char *folder = alloc_printf("%s/vms", agent->config.runtime_dir);
        int r;

        if (!adoption || !folder)
                return error_from_errno(ret_error, ENOMEM, "adoption of running VMs");
        *adoption = (struct vm_adoption){.agent = agent,
                .done = done,
                .userdata = userdata,
                .since_ms = clock_now_ms(loop_clock(agent->loop))};
        r = file_make_dirs(folder, 0700);
        if (r == 0)
                r = loop_add_timer(agent->loop, 0, on_poll, adoption, &adoption->timer);
        if (r < 0)
                return error_from_errno(ret_error, r, "runtime folder %s", folder);
        r = read_all(agent, folder, ret_error);
        if (r < 0)
                return r;
        *ret_adoption = TAKE_PTR(adoption);
        return 0;
}

void vm_adoption_free(struct vm_adoption *adoption)
{
        if (!adoption)
                return;
        loop_source_free(adoption->timer);
        free(adoption);
}
