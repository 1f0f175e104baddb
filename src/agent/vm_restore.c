/* SPDX-License-Identifier: Apache-2.0 */

/* Resuming from a state, on any host that has the VM's datastores. It is a start (vm_start.c) whose QEMU waits for its
 * memory as for a migration:
 *   1. a child reads the record and looks whether it is good for the owner epoch; what it says of QEMU must suit this host;
 *   2. QEMU loads what a child reads from the file, checksum by checksum;
 *   3. this host takes the next owner epoch, compared and swapped against the record's: from here the state is no longer good, and of
 *      two hosts one only comes here;
 *   4. that the guest may run is noted, and the guest continued;
 *   5. the state is removed.
 * Until 4 the guest has changed nothing: when it ends there, the record is written anew for the epoch that was taken
 * (state_file_keep()), by this agent or the next one. */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/host.h"
#include "agent/identity.h"
#include "agent/migration.h"
#include "agent/owner_record.h"
#include "agent/storage_move.h"
#include "agent/stores.h"
#include "agent/vm_job.h"
#include "agent/vm_suspend.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/crash_point.h"
#include "storage/move_record.h"
#include "storage/offload.h"
#include "storage/state_file.h"
#include "vmm/migration_params.h"
#include "vmm/qemu_binary.h"
#include "vmm/qmp.h"

#define QMP_TIMEOUT_MS 10000
#define POLL_MS 20
#define RECORD_TIMEOUT_MS 15000
#define READ_TIMEOUT_DEFAULT_MS (UINT64_C(86400) * 1000)
#define KEEP_AGAIN_MS 5000
#define RAM_SPARE_BYTES (UINT64_C(8) << 10) /* what command_line_effective_memory() may add */

struct vm_restore {
        struct vm *vm;
        struct offload *offload;
        struct loop_source *poll;
        json_t *record;
        uint64_t began_ms;
        uint64_t timeout_ms; /* for reading the file */
        bool read;           /* the whole file was, and it is as recorded */
        bool loaded;         /* and QEMU has it */
};

/* For a child, which has the agent's memory as it was. */
struct args {
        const char *store_name, *store_path, *store_id, *folder_name, *vm_uid, *host_uid;
        const json_t *record;
        uint64_t keep_epoch; /* 0: nothing is to be kept */
        int64_t now_unix_ms;
};

void vm_restore_free(struct vm_restore *restore)
{
        if (!restore)
                return;
        offload_free(restore->offload);
        loop_source_free(restore->poll);
        json_decref(restore->record);
        free(restore);
}

/* --- In the child ------------------------------------------------------------------------------------------------ */

static int open_folder(const struct args *args, struct datastore **ret_store, struct vm_folder **ret_folder,
        struct error **ret_error)
{
        int r = datastore_open(args->store_name, args->store_path, args->store_id, ret_store, ret_error);

        return r < 0 ? r : vm_folder_open(*ret_store, args->folder_name, args->vm_uid, ret_folder, ret_error);
}

static int keep(const struct args *args, const struct vm_folder *folder, struct error **ret_error)
{
        uint64_t epoch;

        return args->keep_epoch ? state_file_keep(folder, args->host_uid, args->keep_epoch, args->now_unix_ms,
                                          &epoch, ret_error)
                                : 0;
}

/* {"state": its record, "storage_move": that of a storage migration, or null} */
static int record_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        _cleanup_(move_record_freep) struct move_record *moved = NULL;
        _cleanup_json_ json_t *state = NULL;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        int r = open_folder(arg, &store, &folder, ret_error);

        if (r == 0)
                r = keep(arg, folder, ret_error);
        if (r == 0)
                r = state_file_record(folder, &state, ret_error);
        if (r == 0)
                r = move_record_read(folder, &moved, ret_error);
        if (r < 0)
                return r;
        *ret_result = json_pack(
                "{s:O, s:o?}", "state", state, "storage_move", moved ? move_record_to_json(moved) : NULL);
        return *ret_result ? 0 : error_from_errno(ret_error, ENOMEM, "state in %s", folder->path);
}

static int keep_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        int r = open_folder(arg, &store, &folder, ret_error);

        if (r == 0)
                r = keep(arg, folder, ret_error);
        return r;
}

static int read_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        const struct args *args = arg;
        int r = open_folder(args, &store, &folder, ret_error);

        return r < 0 ? r : state_file_read(folder, args->record, OFFLOAD_FD, true, ret_error);
}

static int remove_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        int r = open_folder(arg, &store, &folder, ret_error);

        return r < 0 ? r : state_file_remove(folder, ret_error);
}

static int in_child(struct vm_restore *restore, offload_fn fn, int fd, uint64_t timeout_ms,
        offload_done_fn done, struct error **ret_error)
{
        const struct vm *vm = restore->vm;
        const struct datastore *store;
        struct args args = {.folder_name = vm->name,
                .vm_uid = vm->uid,
                .host_uid = agent_host_uid(vm->agent),
                .record = restore->record,
                .keep_epoch = vm->restore_continuing ? 0 : vm->restore_epoch,
                .now_unix_ms = clock_unix_ms(loop_clock(vm->agent->loop))};
        int r = stores_get(vm->agent->stores, vm->config->datastore, &store, ret_error);

        if (r < 0)
                return r;
        args.store_name = store->name;
        args.store_path = store->path;
        args.store_id = store->id;
        return (fd < 0 ? offload_start_with_fd : offload_start_stream)(vm->agent->loop,
                "state of a suspended virtual machine", fn, &args, fd, timeout_ms, done, restore,
                &restore->offload, ret_error);
}

/* --- 1: the record ----------------------------------------------------------------------------------------------- */

/* What may differ between the VM now and the one that was suspended. */
static json_t *hardware_of(const struct vm_config *config)
{
        _cleanup_json_ json_t *document = vm_config_to_json(config);
        json_t *spec = json_incref(json_object_get(document, "spec"));

        (void)json_object_del(spec, "labels");
        return spec;
}

static int check_hardware(const struct vm_config *now, const struct vm_config *then, struct error **ret_error)
{
        _cleanup_json_ json_t *spec = hardware_of(now), *spec_then = hardware_of(then);

        if (!spec || !spec_then)
                return error_from_errno(ret_error, ENOMEM, "VM %s", now->name);
        /* The model that `auto` and the cluster's baseline stood for is in the status. */
        if (json_object_set_new(spec, "cpu_model", json_null()) < 0 ||
                json_object_set_new(spec_then, "cpu_model", json_null()) < 0)
                return error_from_errno(ret_error, ENOMEM, "VM %s", now->name);
        return json_equal(spec, spec_then)
                       ? 0
                       : error_set(ret_error, ERROR_CONFLICT,
                                 "Undo the change, or start it from its disks: `drover vm start "
                                 "--discard-state`.",
                                 "the hardware of VM %s was changed after it was suspended", now->name);
}

/* Whatever features follow, it means another processor on each host. */
static bool is_host_model(const char *model)
{
        return !strncmp(model, "host", 4) && (!model[4] || model[4] == ',');
}

/* The host is the same; a new microcode, firmware or board may have taken something away. */
static int check_processor(const struct vm *vm, const json_t *record, struct error **ret_error)
{
        const json_t *had = json_object_get(record, "cpu_features"),
                     *has = json_object_get(vm->agent->host->cpu, "features");
        json_t *feature;
        size_t i;

        if (!json_is_array(has))
                return 0; /* not known (yet) */
        json_array_foreach ((json_t *)had, i, feature) {
                const char *name = json_string_value(feature);

                if (name && !doc_has_string(has, name))
                        return error_set(ret_error, ERROR_NOT_SUPPORTED,
                                "Give the host back what it had, or start it from its disks: `drover vm "
                                "start --discard-state`.",
                                "guests on host %s cannot have %.64s any more, which VM %s had when it was "
                                "suspended",
                                vm->agent->config.name, name, vm->name);
        }
        return 0;
}

static int check_host(
        const struct vm *vm, const struct vm_config *then, const json_t *record, struct error **ret_error)
{
        const struct qemu_binary *qemu = vm->agent->host->qemu;
        const char *host = json_string_value(json_object_get(record, "host")) ?: "";
        unsigned long major, minor;
        char *rest = NULL;

        major = strtoul(then->status.qemu_version ?: "", &rest, 10);
        minor = *rest == '.' ? strtoul(rest + 1, NULL, 10) : 0;
        if (!major || major > 1000 || minor > 1000)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "the state of VM %s does not say of which QEMU it is", vm->name);
        if (!qemu_binary_at_least(qemu, (unsigned int)major, (unsigned int)minor))
                return error_set(ret_error, ERROR_NOT_SUPPORTED,
                        "Resume it on a host whose QEMU is not older.",
                        "VM %s was suspended by QEMU %s, and host %s has QEMU %u.%u.%u", vm->name,
                        then->status.qemu_version, vm->agent->config.name, qemu->major, qemu->minor,
                        qemu->micro);
        if (is_host_model(then->status.cpu_model ?: "") && strcmp(host, agent_host_uid(vm->agent)) != 0)
                return error_set(ret_error, ERROR_NOT_SUPPORTED,
                        "Resume it on the host that it was suspended on; a named CPU model lets it go to "
                        "others.",
                        "VM %s was suspended with the processor of its host (cpu_model host)", vm->name);
        return is_host_model(then->status.cpu_model ?: "") ? check_processor(vm, record, ret_error) : 0;
}

/* Machine, CPU model, accelerator and memory are those of the guest that was suspended. */
static int take_status(struct vm *vm, const struct vm_config *then, struct error **ret_error)
{
        struct vm_status *status = &vm->config->status;
        uint64_t memory_bytes = then->status.memory_effective_bytes;

        /* The document was compared, its status was not: more than it has would pass by what manager and pool allow. */
        if (memory_bytes != vm->config->memory_bytes &&
                memory_bytes != vm->config->memory_bytes + RAM_SPARE_BYTES)
                return error_set(ret_error, ERROR_CONFLICT, NULL,
                        "the state of VM %s claims %" PRIu64 " bytes of memory, and it has %" PRIu64,
                        vm->name, memory_bytes, vm->config->memory_bytes);
        if (alloc_replace(&status->machine, then->status.machine) < 0 ||
                alloc_replace(&status->cpu_model, then->status.cpu_model) < 0)
                return error_from_errno(ret_error, ENOMEM, "VM %s", vm->name);
        status->accelerator = then->status.accelerator;
        status->memory_effective_bytes = memory_bytes;
        return vm_start_check_incoming(vm->agent, vm->config, ret_error);
}

static int use_record(struct vm *vm, const json_t *record, struct error **ret_error)
{
        _cleanup_(vm_config_freep) struct vm_config *then = NULL;
        int r = vm_config_from_json(json_object_get(record, "document"), &then, ret_error);

        if (r == 0)
                r = check_hardware(vm->config, then, ret_error);
        if (r == 0)
                r = check_host(vm, then, record, ret_error);
        if (r == 0)
                r = take_status(vm, then, ret_error);
        if (r < 0)
                return r;
        vm->restore_epoch = (uint64_t)json_integer_value(json_object_get(record, "epoch"));
        vm->config->status.owner_epoch = MAX(vm->config->status.owner_epoch, vm->restore_epoch);
        vm->job->restore->record = json_incref((json_t *)record);
        vm->job->before = vm->restore_before = VM_POWER_SUSPENDED;
        return vm_state_write(vm, ret_error);
}

static void on_record(void *userdata, json_t *result, struct error *error)
{
        struct vm_restore *restore = userdata;
        struct vm *vm = restore->vm;
        struct error *cause = NULL;

        restore->offload = NULL;
        if (error) {
                /* What was to be kept of an earlier attempt was kept, or there is nothing (any more). */
                if (error->code == ERROR_NOT_FOUND || error->code == ERROR_STALE_EPOCH) {
                        vm->restore_epoch = 0;
                        vm->job->before =
                                vm->job->before == VM_POWER_CRASHED ? VM_POWER_CRASHED : VM_POWER_STOPPED;
                        vm->restore_before = vm->job->before;
                }
                vm_start_fail_with(vm, error);
                return;
        }
        vm->restore_epoch = 0;
        /* The disks are compared as they are, whether the manager has heard of it or not. */
        if (storage_move_apply_json(vm, json_object_get(result, "storage_move"), &cause) < 0 ||
                use_record(vm, json_object_get(result, "state"), &cause) < 0 || vm_start_qemu(vm, &cause) < 0)
                vm_start_failed(vm, cause);
}

void vm_restore_stores_ready(struct vm *vm)
{
        struct error *error = NULL;

        if (in_child(vm->job->restore, record_in_child, -1, RECORD_TIMEOUT_MS, on_record, &error) < 0)
                vm_start_failed(vm, error);
}

/* --- 2: loading -------------------------------------------------------------------------------------------------- */

static void finish_if_loaded(struct vm_restore *restore)
{
        if (restore->read && restore->loaded) {
                crash_point("restore-loaded");
                vm_start_finish(restore->vm);
        }
}

static void on_read(void *userdata, json_t *result, struct error *error)
{
        struct vm_restore *restore = userdata;

        restore->offload = NULL;
        if (restore->vm->job->ending)
                return;
        if (error) {
                vm_start_fail_with(restore->vm, error);
                return;
        }
        /* Until here it was open on our side too: QEMU would end before the child has said what is wrong with the file. */
        fd_closep(&restore->vm->job->stream_fd);
        restore->vm->job->stream_fd = -1;
        restore->read = true;
        finish_if_loaded(restore);
}

static void on_migration(void *userdata, const json_t *result, const struct error *error)
{
        _cleanup_migration_info_ struct migration_info info = MIGRATION_INFO_INIT;
        struct vm_restore *restore = userdata;
        struct vm *vm = restore->vm;
        struct error *cause = NULL;

        vm->job->call = NULL;
        if (vm->job->ending)
                return;
        if (error) {
                vm_start_fail_with(vm, error);
                return;
        }
        if (migration_info_parse(result, &info, &cause) < 0)
                ;
        else if (info.status == MIGRATION_STATUS_COMPLETED)
                restore->loaded = true;
        else if (!migration_status_is_final(info.status))
                (void)loop_source_rearm(restore->poll, POLL_MS);
        else
                (void)error_set(&cause, ERROR_QEMU_FAILED, "See the log of QEMU on that host.",
                        "QEMU could not load the state of VM %s: %s", vm->name,
                        info.error ?: migration_status_to_string(info.status));
        if (cause)
                vm_start_failed(vm, cause);
        else
                finish_if_loaded(restore);
}

static void on_poll(void *userdata)
{
        struct vm_restore *restore = userdata;
        struct vm *vm = restore->vm;
        struct error *error = NULL;

        if (vm->job->ending)
                return;
        if (!vm->qmp)
                (void)error_set(
                        &error, ERROR_QEMU_FAILED, NULL, "the monitor of VM %s does not answer", vm->name);
        else
                (void)qmp_command(vm->qmp, "query-migrate", NULL, -1, QMP_TIMEOUT_MS, on_migration, restore,
                        &vm->job->call, &error);
        if (error)
                vm_start_failed(vm, error);
}

void vm_restore_waiting(struct vm *vm)
{
        struct vm_restore *restore = vm->job->restore;
        struct error *error = NULL;
        int r = in_child(restore, read_in_child, vm->job->stream_fd, restore->timeout_ms, on_read, &error);

        if (r == 0) {
                r = loop_add_timer(vm->agent->loop, POLL_MS, on_poll, restore, &restore->poll);
                if (r < 0)
                        r = error_from_errno(&error, r, "VM %s", vm->name);
        }
        if (r < 0)
                vm_start_failed(vm, error);
}

/* --- 3 to 5 ------------------------------------------------------------------------------------------------------ */

int vm_restore_take_owner(struct vm *vm, const json_t *document, struct error **ret_error)
{
        return owner_record_take_for_state(
                vm, vm->restore_epoch, document, vm_start_owner_taken, vm, &vm->job->owner, ret_error);
}

static void on_removed(void *userdata, json_t *result, struct error *error)
{
        struct vm_restore *restore = userdata;
        struct vm *vm = restore->vm;

        restore->offload = NULL;
        if (error) /* it is good for no epoch any more: the next start removes it */
                log_warning("VM %s: the state that it was resumed from is left: %s", vm->name,
                        error_message(error));
        vm_refresh(vm); /* what QEMU did by itself meanwhile was not looked at */
        vm_job_end(vm, NULL);
}

void vm_restore_forget(struct vm *vm)
{
        vm->restoring = false;
        vm->restore_epoch = 0;
        vm->restore_continuing = false;
}

void vm_restore_ran(struct vm *vm)
{
        struct vm_restore *restore = vm->job->restore;
        _cleanup_error_ struct error *error = NULL;
        uint64_t took_ms = clock_now_ms(loop_clock(vm->agent->loop)) - restore->began_ms;

        json_decref(vm->transfer);
        vm->transfer = json_pack("{s:O, s:O, s:I}", "bytes", json_object_get(restore->record, "bytes"),
                "stream_bytes", json_object_get(restore->record, "stream_bytes"), "resume_ms",
                (json_int_t)took_ms);
        vm_restore_forget(vm);
        /* It is no start any more: from here its monitor is lost, and its QEMU ends, like any other's. */
        vm->job->kind = VM_JOB_CONTINUE;
        vm_changed(vm);
        crash_point("restore-running");
        if (in_child(restore, remove_in_child, -1, RECORD_TIMEOUT_MS, on_removed, &error) < 0) {
                log_warning("VM %s: the state that it was resumed from is left: %s", vm->name,
                        error_message(error));
                vm_job_end(vm, NULL);
        }
}

/* --- Begin, keep ------------------------------------------------------------------------------------------------- */

static int add_restore(struct vm *vm, struct error **ret_error)
{
        struct vm_restore *restore = ALLOC(struct vm_restore);

        if (!restore)
                return error_from_errno(ret_error, ENOMEM, "VM %s", vm->name);
        *restore = (struct vm_restore){.vm = vm, .began_ms = clock_now_ms(loop_clock(vm->agent->loop))};
        vm->job->restore = restore;
        return 0;
}

int vm_restore(struct agent *agent, const json_t *document, uint64_t timeout_ms, vm_done_fn done,
        void *userdata, struct vm **ret_vm, struct error **ret_error)
{
        _cleanup_(vm_config_freep) struct vm_config *config = NULL;
        struct vm *vm;
        int r = vm_start_parse(agent, document, &config, ret_error);

        if (r == 0 && migration_vm_busy(agent, config->uid))
                r = error_set(ret_error, ERROR_BUSY, "Wait for the migration, or cancel it.",
                        "VM %s is being migrated", config->name);
        if (r == 0 && storage_move_busy(agent, config->uid))
                r = error_set(ret_error, ERROR_BUSY, "Wait for the storage migration, or cancel it.",
                        "the disks of VM %s are being moved", config->name);
        if (r == 0)
                r = vm_state_transfer_fits(agent, ret_error);
        if (r < 0)
                return r;
        r = vm_start_begin(agent, TAKE_PTR(config), VM_JOB_RESTORE, done, userdata, &vm, ret_error);
        if (r < 0)
                return r;
        r = add_restore(vm, ret_error);
        if (r < 0) {
                vm_job_drop(vm);
                vm_free(vm);
                return r;
        }
        vm->job->restore->timeout_ms = timeout_ms ?: READ_TIMEOUT_DEFAULT_MS;
        *ret_vm = vm;
        return 0;
}

int vm_restore_cancel(struct vm *vm, struct error **ret_error)
{
        const struct vm_job *job = vm->job;
        struct error *error = NULL;

        if (!job || job->kind != VM_JOB_RESTORE || !job->done)
                return error_set(
                        ret_error, ERROR_CONFLICT, NULL, "VM %s is not being resumed from a state", vm->name);
        if (job->ending)
                return 0;
        if (vm->restore_continuing)
                return error_set(ret_error, ERROR_CONFLICT, NULL,
                        "it is too late: the guest of VM %s runs, or is about to", vm->name);
        (void)error_set(&error, ERROR_CANCELLED, NULL, "the resumption of VM %s was cancelled", vm->name);
        vm_start_failed(vm, error);
        return 0;
}

static void on_keep_again(void *userdata)
{
        struct vm *vm = userdata;

        if (vm_power(vm) == VM_POWER_SUSPENDED && !vm->job && !vm_has_qemu(vm))
                (void)vm_restore_keep(vm);
}

void vm_restore_keep_later(struct vm *vm)
{
        int r;

        if (vm_power(vm) != VM_POWER_SUSPENDED || !vm->restore_epoch)
                return;
        r = vm->keep_again
                    ? loop_source_rearm(vm->keep_again, KEEP_AGAIN_MS)
                    : loop_add_timer(vm->agent->loop, KEEP_AGAIN_MS, on_keep_again, vm, &vm->keep_again);
        if (r < 0)
                log_error("VM %s: its state is kept when it is resumed here: %s", vm->name, strerror(-r));
}

static void end_kept(struct vm *vm, enum vm_power power)
{
        struct error *error = TAKE_PTR(vm->job->error);

        vm->restoring = false;
        vm_set_power(vm, power, error ? error_message(error) : NULL);
        vm_restore_keep_later(vm);
        vm_job_end(vm, error);
}

static void on_kept(void *userdata, json_t *result, struct error *error)
{
        struct vm_restore *restore = userdata;
        struct vm *vm = restore->vm;

        restore->offload = NULL;
        if (error && (error->code == ERROR_STALE_EPOCH || error->code == ERROR_NOT_FOUND)) {
                log_warning(
                        "VM %s: its state is no longer there to be kept: %s", vm->name, error_message(error));
                vm->restore_epoch = 0;
                end_kept(vm, VM_POWER_STOPPED);
                return;
        }
        if (error) /* restore_epoch stays: it is tried again, and the next attempt here keeps it first */
                log_error("VM %s: its state can be used on this host alone for now: %s", vm->name,
                        error_message(error));
        else {
                vm->config->status.owner_epoch = MAX(vm->config->status.owner_epoch, vm->restore_epoch + 1);
                vm->restore_epoch = 0;
        }
        end_kept(vm, VM_POWER_SUSPENDED);
}

static void on_keep_stores(void *userdata, struct error *error)
{
        struct vm *vm = userdata;
        _cleanup_error_ struct error *cause = NULL;

        vm->job->wait = NULL;
        if (!error && in_child(vm->job->restore, keep_in_child, -1, RECORD_TIMEOUT_MS, on_kept, &cause) == 0)
                return;
        log_error("VM %s: its state can be used on this host alone for now: %s", vm->name,
                error_message(error ?: cause));
        end_kept(vm, VM_POWER_SUSPENDED);
}

bool vm_restore_keep(struct vm *vm)
{
        const char *name = vm->config->datastore;
        _cleanup_error_ struct error *error = NULL;
        int r = 0;

        if (!vm->restore_epoch || vm->restore_continuing)
                return false;
        if (!vm->job)
                r = vm_job_begin(vm, VM_JOB_RESTORE, NULL, NULL, &error);
        if (r == 0 && !vm->job->restore)
                r = add_restore(vm, &error);
        if (r < 0) {
                log_error("VM %s: %s", vm->name, error_message(error));
                if (vm->job)
                        end_kept(vm, VM_POWER_SUSPENDED);
                else
                        vm_set_power(vm, VM_POWER_SUSPENDED, NULL);
                return true;
        }
        offload_free(TAKE_PTR(vm->job->restore->offload));
        loop_source_free(TAKE_PTR(vm->job->restore->poll));
        stores_wait_free(TAKE_PTR(vm->job->wait));
        if (stores_ensure(vm->agent->stores, &name, 1, on_keep_stores, vm, &vm->job->wait, &error) < 0) {
                log_error("VM %s: %s", vm->name, error_message(error));
                end_kept(vm, VM_POWER_SUSPENDED);
        }
        return true;
}
