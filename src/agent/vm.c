/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/agent.h"
#include "agent/cgroup.h"
#include "agent/storage_move.h"
#include "agent/vm_job.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "fabric/announce.h"
#include "io/child.h"
#include "io/file.h"
#include "storage/vm_folder.h"
#include "vmm/qmp.h"

#define BIT(power) (1U << VM_POWER_##power)
#define ALIVE (BIT(RUNNING) | BIT(PAUSED) | BIT(OUTGOING_DONE) | BIT(UNKNOWN) | BIT(SUSPENDING))
#define ENDED (BIT(STOPPED) | BIT(CRASHED))

/* What each power may become. A change that is not here is a bug of ours: it is logged and refused. */
static const unsigned int allowed[N_VM_POWERS] = {
        /* QEMU answered again, or ended meanwhile. */
        [VM_POWER_UNKNOWN] = (ALIVE & ~BIT(SUSPENDING)) | ENDED | BIT(INCOMING),
        [VM_POWER_STOPPED] = BIT(STARTING) | BIT(INCOMING),
        [VM_POWER_CRASHED] = BIT(STARTING) | BIT(INCOMING) | BIT(STOPPED),
        [VM_POWER_STARTING] = BIT(RUNNING) | ENDED | BIT(SUSPENDED),
        [VM_POWER_RUNNING] = ALIVE | ENDED,
        [VM_POWER_PAUSED] = ALIVE | ENDED,
        /* Taken over, as it was at the source; or given up. */
        [VM_POWER_INCOMING] = BIT(RUNNING) | BIT(PAUSED) | BIT(UNKNOWN) | ENDED,
        /* Taken back. It never counts as stopped or crashed here: it may be running at the destination. */
        [VM_POWER_OUTGOING_DONE] = BIT(RUNNING) | BIT(PAUSED),
        /* Never unknown: what was begun must be undone before the guest may run. */
        [VM_POWER_SUSPENDING] = BIT(RUNNING) | BIT(PAUSED) | BIT(SUSPENDED) | ENDED,
        [VM_POWER_SUSPENDED] = BIT(STARTING) | BIT(INCOMING) | ENDED,
};

bool vm_power_may_change(enum vm_power from, enum vm_power to)
{
        return from == to || (allowed[from] & (1U << to)) != 0;
}

struct vm *vm_find(struct agent *agent, const char *uid)
{
        return map_get(&agent->vms, uid);
}

json_t *vm_document(const struct vm *vm)
{
        return vm_config_to_json(vm->config);
}

json_t *vm_report(const struct vm *vm)
{
        _cleanup_json_ json_t *document = vm_document(vm), *moved = storage_move_moved(vm->agent, vm->uid);

        if (!document || (json_array_size(vm->jobs) && json_object_set(document, "jobs", vm->jobs) < 0) ||
                (vm->transfer && json_object_set(document, "transfer", vm->transfer) < 0) ||
                (moved && json_object_set(document, "moved_disks", moved) < 0))
                return NULL;
        return TAKE_PTR(document);
}

bool vm_has_qemu(const struct vm *vm)
{
        return vm->qemu != NULL || vm->unwatched;
}

int vm_take_stream_fd(struct vm *vm)
{
        return TAKE_FD(vm->stream_fd);
}

int vm_new(struct agent *agent, struct vm_config *config, struct vm **ret_vm)
{
        _cleanup_free_ struct vm *vm = ALLOC(struct vm);
        int r;

        if (!vm)
                return -ENOMEM;
        *vm = (struct vm){.agent = agent, .stream_fd = -1, .uid = config->uid, .name = config->name};
        r = map_put(&agent->vms, vm->uid, vm, NULL);
        if (r < 0)
                return r;
        vm->config = config;
        vm->config->has_status = true;
        *ret_vm = TAKE_PTR(vm);
        return 0;
}

void vm_free(struct vm *vm)
{
        if (!vm)
                return;
        if (map_get(&vm->agent->vms, vm->uid) == vm)
                (void)map_remove(&vm->agent->vms, vm->uid);
        vm_job_drop(vm);
        vm_clear_process(vm);
        loop_source_free(vm->keep_again);
        vm_folder_free(vm->folder);
        vm_config_free(vm->config);
        json_decref(vm->transfer);
        free(vm);
}

char *vm_runtime_path(const struct vm *vm, const char *file_or_null)
{
        if (!file_or_null)
                return alloc_printf("%s/vms/%s", vm->agent->config.runtime_dir, vm->uid);
        return alloc_printf("%s/vms/%s/%s", vm->agent->config.runtime_dir, vm->uid, file_or_null);
}

void vm_forget(struct vm *vm)
{
        _cleanup_free_ char *folder = vm_runtime_path(vm, NULL);

        log_info("VM %s (%s) is no longer on this host", vm->name, vm->uid);
        vm_state_remove(vm);
        if (folder)
                (void)file_remove_tree(folder);
        cgroup_remove(vm->agent->cgroup, vm->uid);
        agent_publish(vm->agent, "vm-gone", json_pack("{s:s, s:s}", "uid", vm->uid, "name", vm->name));
        vm_free(vm);
}

void vm_changed(struct vm *vm)
{
        struct error *error = NULL;

        if (vm_state_write(vm, &error) < 0) {
                log_error("VM %s: %s", vm->name, error_message(error));
                error_free(error);
        }
        agent_publish(vm->agent, "vm", vm_report(vm));
}

void vm_set_power(struct vm *vm, enum vm_power power, const char *message_or_null)
{
        struct vm_status *status = &vm->config->status;

        if (!vm_power_may_change(status->power, power)) {
                log_error("VM %s: change from %s to %s is not allowed and was not made", vm->name,
                        vm_power_to_string(status->power), vm_power_to_string(power));
                return;
        }
        if (status->power != power || message_or_null)
                log_info("VM %s (%s): %s%s%s", vm->name, vm->uid, vm_power_to_string(power),
                        message_or_null ? ": " : "", message_or_null ?: "");
        status->power = power;
        if (alloc_replace(&status->message, message_or_null) < 0)
                log_error("VM %s: out of memory for its message", vm->name);
        vm_changed(vm);
}

/* Joins the last lines of QEMU's log to one, without the characters that would break a log line. */
static void flatten(const char *text, char ret[static 512])
{
        size_t len = strlen(text), out = 0;
        const char *at = len > 400 ? text + len - 400 : text;

        for (; *at && out < 511; at++) {
                unsigned char c = (unsigned char)*at;

                if (c == '\n' && at[1] == '\0')
                        break;
                ret[out++] = c == '\n' ? ' ' : c < 0x20 || c >= 0x7f ? '?' : (char)c;
        }
        ret[out] = '\0';
}

char *vm_last_words(const struct vm *vm, char ret[static 512])
{
        _cleanup_free_ char *path = vm_runtime_path(vm, "qemu.log");
        _cleanup_fd_ int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
        char text[512];
        struct stat st;
        ssize_t len;

        ret[0] = '\0';
        if (fd < 0 || fstat(fd, &st) < 0)
                return ret;
        len = pread(fd, text, sizeof(text) - 1, MAX(st.st_size - (off_t)sizeof(text) + 1, 0));
        if (len <= 0)
                return ret;
        text[len] = '\0';
        flatten(text, ret);
        return ret;
}
