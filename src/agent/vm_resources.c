/* SPDX-License-Identifier: Apache-2.0 */

/* What a VM's QEMU process is given: taps, images, sockets, its cgroup. Everything it opens on a datastore
 * is handed over as a descriptor that was looked up safely, and named /proc/self/fd/N: nobody who can write to the
 * datastore can make QEMU open another file by planting a symbolic link. The numbers in the child are fixed by the
 * order of opening, from CHILD_FIRST_FD on. Guest RAM is QEMU's own (docs/decisions/0004-guest-ram-stays-anonymous.md). */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/cgroup.h"
#include "agent/host.h"
#include "agent/identity.h"
#include "agent/migration.h"
#include "agent/storage_move.h"
#include "agent/stores.h"
#include "agent/vm_job.h"
#include "base/alloc.h"
#include "base/log.h"
#include "fabric/announce.h"
#include "fabric/guest_watch.h"
#include "fabric/tap.h"
#include "fabric/vswitch.h"
#include "io/child.h"
#include "io/file.h"
#include "storage/beneath.h"
#include "storage/vm_folder.h"
#include "vmm/command_line.h"
#include "vmm/qmp.h"

#define CHILD_FIRST_FD 10
#define CHILD_FDS_MAX (VM_DISKS_MAX + 2 * VM_NICS_MAX + 5) /* 5: CD-ROM, kernel, initrd, serial log, nvram */

/* Everything that one spawn needs, freed in one go. */
struct spawn {
        struct vm *vm;
        struct child_fd fds[CHILD_FDS_MAX]; /* .fd is ours until the child has it */
        size_t n_fds;
        struct command_line_disk disks[VM_DISKS_MAX];
        struct command_line_nic nics[VM_NICS_MAX];
        char *texts[CHILD_FDS_MAX + 8]; /* strings that env borrows */
        size_t n_texts;
        char *procs; /* of the cgroup */
        struct command_line_env env;
};

static void spawn_deinit(struct spawn *spawn)
{
        for (size_t i = 0; i < spawn->n_fds; i++)
                fd_closep(&spawn->fds[i].fd);
        for (size_t i = 0; i < spawn->n_texts; i++)
                free(spawn->texts[i]);
        free(spawn->procs);
}

/* Takes over `fd`; returns its number in the child. */
static int spawn_fd(struct spawn *spawn, int fd)
{
        int target = CHILD_FIRST_FD + (int)spawn->n_fds;

        spawn->fds[spawn->n_fds++] = (struct child_fd){.fd = fd, .target = target};
        return target;
}

/* Keeps a string for env; NULL in, NULL out. */
static const char *spawn_text(struct spawn *spawn, char *text)
{
        if (text)
                spawn->texts[spawn->n_texts++] = text;
        return text;
}

static const char *spawn_fd_path(struct spawn *spawn, int fd)
{
        return spawn_text(spawn, alloc_printf("/proc/self/fd/%d", spawn_fd(spawn, fd)));
}

/* O_DIRECT is refused at open() by file systems that lack it. */
bool vm_takes_direct(int fd)
{
        char path[32];
        _cleanup_fd_ int direct = -1;

        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
        return direct >= 0;
}

static int open_on_store(struct spawn *spawn, const char *store_name, const char *path, int flags,
        const char **ret_path, bool *ret_direct, struct error **ret_error)
{
        const struct datastore *store = NULL;
        int fd = -1;
        int r = stores_get(spawn->vm->agent->stores, store_name, &store, ret_error);

        if (r == 0)
                r = datastore_open_file(store, path, flags, &fd, ret_error);
        if (r < 0)
                return r;
        if (ret_direct)
                *ret_direct = vm_takes_direct(fd);
        *ret_path = spawn_fd_path(spawn, fd);
        return *ret_path ? 0 : error_from_errno(ret_error, ENOMEM, "file %s", path);
}

static int open_images(struct spawn *spawn, struct error **ret_error)
{
        const struct vm_config *config = spawn->vm->config;
        struct command_line_env *env = &spawn->env;
        int r = 0;

        for (size_t i = 0; i < config->n_disks && r == 0; i++) {
                const struct vm_disk *disk = &config->disks[i];

                r = open_on_store(spawn, disk->datastore, disk->path, disk->read_only ? O_RDONLY : O_RDWR,
                        &spawn->disks[i].path, &spawn->disks[i].direct, ret_error);
        }
        env->disks = spawn->disks;
        env->n_disks = config->n_disks;
        if (r == 0 && config->cdrom.path)
                r = open_on_store(spawn, config->cdrom.datastore, config->cdrom.path, O_RDONLY,
                        &env->cdrom_path, NULL, ret_error);
        if (r == 0 && config->kernel.path)
                r = open_on_store(spawn, config->kernel.datastore, config->kernel.path, O_RDONLY,
                        &env->kernel_path, NULL, ret_error);
        if (r == 0 && config->initrd.path)
                r = open_on_store(spawn, config->initrd.datastore, config->initrd.path, O_RDONLY,
                        &env->initrd_path, NULL, ret_error);
        return r;
}

/* Serial log and firmware variables, in the VM's folder. */
static int open_folder_files(struct spawn *spawn, struct error **ret_error)
{
        struct vm *vm = spawn->vm;
        int fd, r;

        r = vm_folder_open_serial_log(vm->folder, &fd, ret_error);
        if (r < 0)
                return r;
        spawn->env.serial_log = spawn_fd_path(spawn, fd);
        if (!spawn->env.serial_log)
                return error_from_errno(ret_error, ENOMEM, "serial log");
        if (vm->config->firmware != VM_FIRMWARE_UEFI)
                return 0;
        r = vm_folder_make_nvram(vm->folder, vm->agent->config.ovmf_vars, ret_error);
        if (r < 0)
                return r;
        r = beneath_open_file(vm->folder->fd, VM_FOLDER_NVRAM, O_RDWR, 0, &fd);
        if (r < 0)
                return error_from_errno(ret_error, r, "firmware variables of VM %s", vm->name);
        spawn->env.ovmf_code_path = vm->agent->config.ovmf_code;
        spawn->env.nvram_path = spawn_fd_path(spawn, fd);
        return spawn->env.nvram_path ? 0 : error_from_errno(ret_error, ENOMEM, "firmware variables");
}

static int open_nic(struct spawn *spawn, size_t index, struct error **ret_error)
{
        struct vm *vm = spawn->vm;
        const struct vm_nic *nic = &vm->config->nics[index];
        struct vswitch_port_group group;
        struct tap_spec spec = {.vm_uid = vm->uid, .nic = (unsigned int)index, .port_group = nic->port_group};
        int fd, r;

        r = vswitch_set_find_port_group(vm->agent->switches, nic->port_group, &group, ret_error);
        if (r < 0)
                return r;
        spec.bridge = group.bridge;
        spec.mtu = group.mtu;
        spec.ovs = group.ovs;
        spec.vlan = group.vlan;
        r = tap_open(vm->agent->netlink, &spec, &fd, vm->taps[index].name, ret_error);
        if (r < 0)
                return r;
        vm->n_taps = index + 1;
        spawn->nics[index] = (struct command_line_nic){.tap_fd = spawn_fd(spawn, fd), .vhost_fd = -1};
        if (nic->model == VM_NIC_VIRTIO && vm->config->status.accelerator == VM_ACCELERATOR_KVM) {
                fd = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);
                if (fd >= 0)
                        spawn->nics[index].vhost_fd = spawn_fd(spawn, fd);
        }
        return 0;
}

static int open_nics(struct spawn *spawn, struct error **ret_error)
{
        struct vm *vm = spawn->vm;
        size_t n = vm->config->n_nics;

        vm->taps = alloc_array(n, sizeof(*vm->taps));
        vm->announces = alloc_array(n, sizeof(*vm->announces));
        if (!vm->taps || !vm->announces)
                return error_from_errno(ret_error, ENOMEM, "taps");
        for (size_t i = 0; i < n; i++) {
                int r = open_nic(spawn, i, ret_error);

                if (r < 0)
                        return r;
        }
        spawn->env.nics = spawn->nics;
        spawn->env.n_nics = n;
        return 0;
}

static const char *socket_path(struct spawn *spawn, const char *file)
{
        const char *path = spawn_text(spawn, vm_runtime_path(spawn->vm, file));

        if (path)
                (void)unlink(path);
        return path;
}

static int make_sockets(struct spawn *spawn, struct error **ret_error)
{
        _cleanup_free_ char *folder = vm_runtime_path(spawn->vm, NULL);
        struct command_line_env *env = &spawn->env;
        int r = folder ? file_make_dirs(folder, 0700) : -ENOMEM;

        if (r < 0)
                return error_from_errno(ret_error, r, "runtime folder of VM %s", spawn->vm->name);
        env->qmp_socket = socket_path(spawn, "qmp.sock");
        env->serial_socket = socket_path(spawn, "serial.sock");
        env->vnc_socket = socket_path(spawn, "vnc.sock");
        env->guest_agent_socket = socket_path(spawn, "guest-agent.sock");
        if (!env->qmp_socket || !env->serial_socket || !env->vnc_socket || !env->guest_agent_socket)
                return error_from_errno(ret_error, ENOMEM, "sockets of VM %s", spawn->vm->name);
        if (!spawn->vm->config->guest_agent)
                env->guest_agent_socket = NULL;
        return 0;
}

static int open_log(const struct vm *vm, int *ret_fd, struct error **ret_error)
{
        _cleanup_free_ char *path = vm_runtime_path(vm, "qemu.log");
        int fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600)
                      : -1;

        if (fd < 0)
                return error_from_errno(ret_error, path ? errno : ENOMEM, "log of QEMU for VM %s", vm->name);
        *ret_fd = fd;
        return 0;
}

static int start_process(struct spawn *spawn, char **argv, struct error **ret_error)
{
        struct vm *vm = spawn->vm;
        struct child_spec spec = CHILD_SPEC_INIT;
        _cleanup_fd_ int log = -1;
        int r = open_log(vm, &log, ret_error);

        if (r < 0)
                return r;
        spec.argv = (const char *const *)argv;
        spec.fds = spawn->fds;
        spec.n_fds = spawn->n_fds;
        spec.output_fd = log;
        spec.cgroup_procs = spawn->procs;
        spec.own_session = true;
        spec.outlive = true;
        r = child_start(vm->agent->loop, &spec, vm_on_exit, vm, &vm->qemu, ret_error);
        if (r < 0)
                return r;
        vm->pid = child_pid(vm->qemu);
        r = child_start_time(vm->pid, &vm->start_time);
        /* Ended at once: its exit is reported, with its words. */
        return r < 0 && r != -ESRCH ? error_from_errno(ret_error, r, "QEMU of VM %s", vm->name) : 0;
}

static int prepare(struct spawn *spawn, bool incoming, struct error **ret_error)
{
        struct vm *vm = spawn->vm;
        const struct vm_status *status = &vm->config->status;
        int r;

        spawn->env = (struct command_line_env){
                .qemu_binary = vm->agent->host->qemu->path,
                .machine = status->machine,
                .accelerator = status->accelerator,
                .cpu_model = status->cpu_model,
                .memory_bytes = status->memory_effective_bytes,
                .incoming = incoming,
                .sandbox = true,
        };
        r = open_images(spawn, ret_error);
        if (r == 0)
                r = open_folder_files(spawn, ret_error);
        if (r == 0)
                r = open_nics(spawn, ret_error);
        if (r == 0)
                r = make_sockets(spawn, ret_error);
        if (r == 0)
                r = cgroup_make(vm->agent->cgroup, vm->uid, status->memory_effective_bytes, vm->config->cpus,
                        &spawn->procs, ret_error);
        return r;
}

int vm_spawn(struct vm *vm, bool incoming, struct error **ret_error)
{
        _cleanup_(spawn_deinit) struct spawn spawn = {.vm = vm};
        _cleanup_(command_line_freep) char **argv = NULL;
        int r = prepare(&spawn, incoming, ret_error);

        if (r == 0)
                r = command_line_build(vm->config, &spawn.env, &argv, ret_error);
        /* Written before there is a process: a QEMU of which we did not live to note the pid is found by its
         * socket (vm_adopt.c). */
        if (r == 0)
                r = vm_state_write(vm, ret_error);
        if (r == 0)
                r = start_process(&spawn, argv, ret_error);
        if (r == 0)
                r = vm_state_write(vm, ret_error);
        if (r == 0)
                vm_watch_guest(vm);
        return r;
}

void vm_watch_guest(struct vm *vm)
{
        if (!vm->watches)
                vm->watches = alloc_array(vm->n_taps, sizeof(*vm->watches));
        for (size_t i = 0; vm->watches && i < vm->n_taps && i < vm->config->n_nics; i++) {
                uint8_t mac[MAC_SIZE];
                int r = mac_parse(vm->config->nics[i].mac, mac);

                if (r == 0 && !vm->watches[i])
                        r = guest_watch_new(vm->agent->loop, vm->taps[i].name, mac, &vm->watches[i]);
                if (r < 0)
                        log_debug("VM %s: its port %s is not listened to: %s", vm->name, vm->taps[i].name,
                                strerror(-r));
        }
}

int vm_open_folder(struct vm *vm, struct error **ret_error)
{
        const struct datastore *store;
        int r;

        if (vm->folder)
                return 0;
        if (!vm->config->datastore)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Name it in spec.datastore.",
                        "VM %s has no datastore for its folder", vm->name);
        r = stores_get(vm->agent->stores, vm->config->datastore, &store, ret_error);
        return r < 0 ? r : vm_folder_open(store, vm->name, vm->uid, &vm->folder, ret_error);
}

static void add_name(const char **names, size_t *n_names, const char *name)
{
        for (size_t i = 0; i < *n_names; i++) {
                if (name && strcmp(names[i], name) == 0)
                        return;
        }
        if (name)
                names[(*n_names)++] = name;
}

int vm_store_names(const struct vm_config *config, const char ***ret_names, size_t *ret_n_names)
{
        const char **names = alloc_array(config->n_disks + 4, sizeof(*names));
        size_t n = 0;

        if (!names)
                return -ENOMEM;
        add_name(names, &n, config->datastore);
        add_name(names, &n, config->cdrom.datastore);
        add_name(names, &n, config->kernel.datastore);
        add_name(names, &n, config->initrd.datastore);
        for (size_t i = 0; i < config->n_disks; i++)
                add_name(names, &n, config->disks[i].datastore);
        *ret_names = names;
        *ret_n_names = n;
        return 0;
}

void vm_clear_process(struct vm *vm)
{
        vm_leave_arrival(vm);
        for (size_t i = 0; i < vm->n_taps; i++) {
                announce_free(vm->announces[i]);
                if (vm->watches)
                        guest_watch_free(vm->watches[i]);
        }
        vm->n_taps = 0;
        free(TAKE_PTR(vm->announces));
        free(TAKE_PTR(vm->watches));
        free(TAKE_PTR(vm->taps)); /* the taps themselves end with the QEMU that holds them */
        loop_source_free(TAKE_PTR(vm->reconnect));
        vm_job_leave_monitor(vm);
        migration_vm_leave_monitor(vm->agent, vm);
        storage_move_vm_leave_monitor(vm->agent, vm);
        qmp_free(TAKE_PTR(vm->qmp));
        child_free(TAKE_PTR(vm->qemu));
        vm->ram_address = 0;
        fd_closep(&vm->stream_fd);
        free(TAKE_PTR(vm->qemu_status));
        json_decref(TAKE_PTR(vm->jobs));
        vm->pid = 0;
        vm->start_time = 0;
        vm->guest_shutdown = false;
        vm->qmp_failed = false;
        vm->exited = vm->exited_by_itself = vm->exited_well = false;
        free(TAKE_PTR(vm->exit_text));
        free(TAKE_PTR(vm->lost_text));
}
