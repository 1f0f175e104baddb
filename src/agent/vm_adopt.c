/* SPDX-License-Identifier: Apache-2.0 */

/* Each runtime file names a process by pid and start time. If it lives, it is watched and its monitor asked for the
 * guest's state; if not, the VM ended while nobody looked. A start that the old agent did not finish is undone
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
#include "agent/vm_job.h"
#include "base/alloc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/child.h"
#include "io/file.h"
#include "io/sock.h"

#define POLL_MS 50
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
                if (vm_power(vm) == VM_POWER_STARTING)
                        (void)vm_kill(vm);
                else if (vm_power(vm) != VM_POWER_OUTGOING_DONE)
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

static void kill_unnoted(const struct vm *vm)
{
        _cleanup_free_ char *path = vm_runtime_path(vm, "qmp.sock");
        socklen_t len = sizeof(struct ucred);
        _cleanup_fd_ int fd = -1;
        struct ucred peer;

        if (!path || sock_connect_unix(path, SOCK_STREAM, &fd) < 0)
                return;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid > 1) {
                log_notice("VM %s: ending QEMU %d, whose start was not finished", vm->name, peer.pid);
                (void)kill(peer.pid, SIGKILL);
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
        log_info("VM %s (%s): adopted QEMU %d", vm->name, vm->uid, vm->pid);
}

static void adopt(struct vm *vm)
{
        enum vm_power power = vm_power(vm);
        int r = -ESRCH;

        if (vm->pid > 0)
                r = child_adopt(vm->agent->loop, vm->pid, vm->start_time, vm_on_exit, vm, &vm->qemu);
        if (r < 0 && r != -ESRCH) {
                /* It is not known to have ended: nobody may take it for dead, or start the VM again. */
                log_error("VM %s: QEMU %d cannot be watched: %s", vm->name, vm->pid, strerror(-r));
                vm->unwatched = true;
                return;
        }
        if (r == 0) {
                take_up(vm);
                return;
        }
        if (power == VM_POWER_INCOMING || power == VM_POWER_STARTING)
                kill_unnoted(vm);
        vm_clear_process(vm);
        if (power == VM_POWER_STARTING)
                vm_set_power(vm, VM_POWER_STOPPED,
                        "the agent ended during the start of this VM; its guest never ran");
        else if (power == VM_POWER_RUNNING || power == VM_POWER_PAUSED || power == VM_POWER_UNKNOWN)
                vm_set_power(vm, VM_POWER_CRASHED, "QEMU ended while the agent was not running");
}

static void read_one(struct agent *agent, const char *folder, const char *file)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s", folder, file);
        _cleanup_free_ char *aside = alloc_printf("%s/%s.bad", folder, file);
        struct error *error = NULL;
        struct vm *vm;

        if (!path || !aside)
                return;
        if (vm_state_read(agent, path, &vm, &error) < 0) {
                log_error("%s is ignored and kept as %s: %s", path, aside, error_message(error));
                (void)rename(path, aside);
                error_free(error);
                return;
        }
        adopt(vm);
}

/* "UUID.json" */
static bool is_state_file(const char *file)
{
        char uid[UUID_STRING_SIZE];

        if (strlen(file) != UUID_STRING_SIZE - 1 + strlen(".json") ||
                strcmp(file + UUID_STRING_SIZE - 1, ".json") != 0)
                return false;
        memcpy(uid, file, UUID_STRING_SIZE - 1);
        uid[UUID_STRING_SIZE - 1] = '\0';
        return text_is_uuid(uid);
}

static int read_all(struct agent *agent, const char *folder)
{
        DIR *dir = opendir(folder);
        const struct dirent *entry;

        if (!dir)
                return errno == ENOENT ? 0 : -errno;
        while ((entry = readdir(dir))) {
                if (is_state_file(entry->d_name))
                        read_one(agent, folder, entry->d_name);
        }
        (void)closedir(dir);
        return 0;
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
                r = read_all(agent, folder);
        if (r == 0)
                r = loop_add_timer(agent->loop, 0, on_poll, adoption, &adoption->timer);
        if (r < 0)
                return error_from_errno(ret_error, r, "runtime folder %s", folder);
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
