/* SPDX-License-Identifier: Apache-2.0 */

/* Starting a VM: (1) its datastores are checked, from a child process; (2) folder, images and taps are opened and QEMU is
 * spawned with stopped vCPUs; (3) once its monitor answers and has told where the guest's RAM is, this host writes itself
 * down as owner under the next epoch and continues the guest. For a migration step 3 is: capabilities are set and QEMU
 * waits on one end of a socket pair; nothing is written. A resumption from a state (vm_restore.c) is both. Whatever fails, QEMU is killed first, and the start ends when it
 * is gone. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

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
#include "storage/vm_folder.h"
#include "vmm/command_line.h"
#include "vmm/migration_params.h"
#include "vmm/qmp.h"

#define QMP_TIMEOUT_MS 10000
#define INCOMING_FDNAME "drover-incoming"

static void on_stores_ready(void *userdata, struct error *error);
static void send_incoming_fd(struct vm *vm);

/* --- What to start ------------------------------------------------------------------------------------------ */

/* A reason why the VM may not be started now, or 0. */
static int check_idle(struct agent *agent, const struct vm_config *config, struct error **ret_error)
{
        const struct vm *vm = vm_find(agent, config->uid);

        if (vm && (vm->job || vm->qemu ||
                          (vm_power(vm) != VM_POWER_STOPPED && vm_power(vm) != VM_POWER_CRASHED &&
                                  vm_power(vm) != VM_POWER_SUSPENDED)))
                return error_set(ret_error, ERROR_CONFLICT, NULL, "VM %s is %s on this host already",
                        config->name, vm_power_to_string(vm_power(vm)));
        return 0;
}

static int resolve_accelerator(const struct host *host, struct vm_config *config, struct error **ret_error)
{
        enum vm_accelerator wanted = config->accelerator;

        if (wanted == VM_ACCELERATOR_AUTO)
                wanted = host->accelerator;
        if (wanted == VM_ACCELERATOR_KVM && !host->kvm_works)
                return error_set(ret_error, ERROR_NOT_SUPPORTED,
                        "Use a host with working KVM, or accelerator tcg.",
                        "VM %s needs KVM, which does not work here: %s", config->name,
                        host->kvm_reason ?: "not probed");
        config->status.accelerator = wanted;
        return 0;
}

static int resolve_machine(const struct host *host, struct vm_config *config, struct error **ret_error)
{
        const char *wanted = config->status.machine ?: config->machine;
        const char *machine = qemu_binary_resolve_machine(host->qemu, wanted);

        if (!machine)
                return error_set(ret_error, ERROR_NOT_SUPPORTED,
                        "Use a host with a newer QEMU, or a machine type that this one has.",
                        "QEMU %u.%u.%u of this host does not know machine type %s", host->qemu->major,
                        host->qemu->minor, host->qemu->micro, wanted);
        if (alloc_replace(&config->status.machine, machine) < 0)
                return error_from_errno(ret_error, ENOMEM, "VM %s", config->name);
        return 0;
}

/* Decides what the document leaves open. The machine type is kept for life once it was chosen; accelerator, CPU model
 * and RAM in effect are decided at each start. */
static int resolve_for_start(struct agent *agent, struct vm_config *config, struct error **ret_error)
{
        const struct host *host = agent->host;
        struct vm_status *status = &config->status;
        const char *model;
        int r = resolve_accelerator(host, config, ret_error);

        if (r == 0)
                r = resolve_machine(host, config, ret_error);
        if (r < 0)
                return r;
        model = config->cpu_model;
        if (strcmp(model, "auto") == 0)
                model = status->accelerator == VM_ACCELERATOR_KVM ? "host" : "qemu64";
        if (alloc_replace(&status->cpu_model, model) < 0)
                return error_from_errno(ret_error, ENOMEM, "VM %s", config->name);
        status->memory_effective_bytes =
                command_line_effective_memory(config->memory_bytes, status->accelerator, host->qemu->major);
        return 0;
}

/* A migrated guest brings all of that with it; here it only has to be possible. */
int vm_start_check_incoming(struct agent *agent, struct vm_config *config, struct error **ret_error)
{
        struct vm_status *status = &config->status;

        if (!config->has_status || !status->machine || !status->cpu_model ||
                !status->memory_effective_bytes || status->accelerator == VM_ACCELERATOR_AUTO)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "VM %s: the migration spec lacks what the source decided (status.machine, cpu_model, "
                        "accelerator, memory_effective_bytes)",
                        config->name);
        if (status->accelerator == VM_ACCELERATOR_KVM && !agent->host->kvm_works)
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Migrate to a host with working KVM.",
                        "VM %s runs with KVM, which does not work on host %s: %s", config->name,
                        agent->config.name, agent->host->kvm_reason ?: "not probed");
        return resolve_machine(agent->host, config, ret_error);
}

int vm_start_parse(
        struct agent *agent, const json_t *document, struct vm_config **ret_config, struct error **ret_error)
{
        _cleanup_(vm_config_freep) struct vm_config *config = NULL;
        int r = vm_config_from_json(document, &config, ret_error);

        if (r < 0)
                return r;
        if (!config->uid)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "VM %s has no uid", config->name);
        r = check_idle(agent, config, ret_error);
        if (r < 0)
                return r;
        if (alloc_replace(&config->status.host, agent->config.name) < 0 ||
                alloc_replace(&config->status.message, NULL) < 0)
                return error_from_errno(ret_error, ENOMEM, "VM %s", config->name);
        *ret_config = TAKE_PTR(config);
        return 0;
}

/* --- Begin -------------------------------------------------------------------------------------------------- */

/* What this host remembers of the VM is not older than the document: it did not run elsewhere since. */
static bool is_latest(const struct vm *old, const struct vm_config *config)
{
        return old->config->status.owner_epoch >= config->status.owner_epoch;
}

/* A VM that was stopped here is replaced by the new document; `before` stays what it was. */
static int enter(struct agent *agent, struct vm_config *config, enum vm_job_kind kind, struct vm **ret_vm,
        struct error **ret_error)
{
        struct vm *old = vm_find(agent, config->uid);
        enum vm_power before = old ? vm_power(old) : VM_POWER_STOPPED;
        uint64_t restore_epoch = 0;
        int r;

        if (old && is_latest(old, config) && !old->restore_continuing)
                restore_epoch = old->restore_epoch;
        /* This host need not have heard of it before. */
        if (kind == VM_JOB_RESTORE && before == VM_POWER_STOPPED &&
                (config->status.power == VM_POWER_SUSPENDED || config->status.power == VM_POWER_CRASHED))
                before = config->status.power;

        if (old)
                vm_free(old);
        r = vm_new(agent, config, ret_vm);
        if (r < 0)
                return error_from_errno(ret_error, r, "VM %s", config->name);
        config->status.power = before;
        if (kind == VM_JOB_RESTORE) {
                (*ret_vm)->restoring = true;
                (*ret_vm)->restore_before = before;
                (*ret_vm)->restore_epoch = restore_epoch;
        }
        return 0;
}

int vm_start_begin(struct agent *agent, struct vm_config *config, enum vm_job_kind kind, vm_done_fn done,
        void *userdata, struct vm **ret_vm, struct error **ret_error)
{
        _cleanup_free_ const char **names = NULL;
        size_t n_names;
        struct vm *vm;
        int r = vm_store_names(config, &names, &n_names);

        if (r < 0)
                return error_from_errno(ret_error, r, "VM %s", config->name);
        r = enter(agent, config, kind, &vm, ret_error);
        if (r < 0) {
                vm_config_free(config);
                return r;
        }
        r = vm_job_begin(vm, kind, done, userdata, ret_error);
        if (r == 0)
                r = stores_ensure(
                        agent->stores, names, n_names, on_stores_ready, vm, &vm->job->wait, ret_error);
        if (r < 0) {
                vm_free(vm);
                return r;
        }
        vm_set_power(vm, kind == VM_JOB_INCOMING ? VM_POWER_INCOMING : VM_POWER_STARTING, NULL);
        *ret_vm = vm;
        return 0;
}

int vm_start(struct agent *agent, const json_t *document, bool discard_state, bool clear_record,
        vm_done_fn done, void *userdata, struct vm **ret_vm, struct error **ret_error)
{
        _cleanup_(vm_config_freep) struct vm_config *config = NULL;
        int r = vm_start_parse(agent, document, &config, ret_error);
        const struct vm *old = r == 0 ? vm_find(agent, config->uid) : NULL;

        /* Whatever its datastore says: the state may be one that is yet to be kept (restore_epoch). */
        if (old && is_latest(old, config) && vm_power(old) == VM_POWER_SUSPENDED && !discard_state)
                r = error_set(ret_error, ERROR_CONFLICT,
                        "Resume it with `drover vm resume`, or give up what was in its memory: `drover vm "
                        "start --discard-state`.",
                        "VM %s is suspended", config->name);
        if (r == 0 && migration_vm_busy(agent, config->uid))
                r = error_set(ret_error, ERROR_BUSY, "Wait for the migration, or cancel it.",
                        "VM %s is being migrated", config->name);
        if (r == 0 && storage_move_busy(agent, config->uid))
                r = error_set(ret_error, ERROR_BUSY, "Wait for it to end, or cancel it.",
                        "the disks of VM %s are being moved", config->name);
        if (r == 0)
                r = resolve_for_start(agent, config, ret_error);
        if (r < 0)
                return r;
        r = vm_start_begin(agent, TAKE_PTR(config), VM_JOB_START, done, userdata, ret_vm, ret_error);
        if (r == 0) {
                (*ret_vm)->job->discard_state = discard_state;
                (*ret_vm)->job->clear_record = clear_record;
        }
        return r;
}

int vm_start_incoming(struct agent *agent, const json_t *document, uint64_t source_epoch, bool post_copy,
        vm_done_fn done, void *userdata, struct vm **ret_vm, struct error **ret_error)
{
        _cleanup_(vm_config_freep) struct vm_config *config = NULL;
        int r = vm_start_parse(agent, document, &config, ret_error);

        if (r == 0)
                r = vm_start_check_incoming(agent, config, ret_error);
        if (r < 0)
                return r;
        config->status.owner_epoch = source_epoch;
        r = vm_start_begin(agent, TAKE_PTR(config), VM_JOB_INCOMING, done, userdata, ret_vm, ret_error);
        if (r == 0)
                (*ret_vm)->job->post_copy = post_copy;
        return r;
}

static void on_stores_ready(void *userdata, struct error *error)
{
        struct vm *vm = userdata;
        struct error *cause = NULL;
        int r;

        vm->job->wait = NULL;
        if (error) {
                (void)error_set(&cause, error->code, error->hint, "%s", error_message(error));
                vm_start_failed(vm, cause);
                return;
        }
        if (vm->job->kind == VM_JOB_RESTORE) {
                vm_restore_stores_ready(vm);
                return;
        }
        r = vm_start_qemu(vm, &cause);
        if (r < 0)
                vm_start_failed(vm, cause);
}

/* Its guest goes on with the disks that it has at the source: they must be those that were opened here. */
static int check_record(const struct vm *vm, struct error **ret_error)
{
        _cleanup_json_ json_t *document = vm_document(vm);

        return document ? move_record_check_document(vm->folder, document, ret_error)
                        : error_from_errno(ret_error, ENOMEM, "VM %s", vm->name);
}

int vm_start_qemu(struct vm *vm, struct error **ret_error)
{
        int r = vm_open_folder(vm, ret_error);

        if (r == 0 && vm->job->kind == VM_JOB_START)
                r = storage_move_apply_record(vm, &vm->job->left_record, ret_error);
        else if (r == 0 && vm->job->kind == VM_JOB_INCOMING)
                r = check_record(vm, ret_error);
        if (r == 0)
                r = vm_spawn(vm, vm->job->kind != VM_JOB_START, ret_error);
        return r == 0 ? vm_connect(vm, ret_error) : r;
}

/* --- Undo --------------------------------------------------------------------------------------------------- */

/* The record may have the next epoch by now. Whoever starts the VM, here or elsewhere, has to know one that is not below
 * the record's; one that was never written does no harm. */
void vm_claim_is_unclear(struct vm *vm)
{
        vm->config->status.owner_epoch++;
}

void vm_start_broke_off(struct vm *vm)
{
        if (vm->restoring) { /* its state was not even found yet: nothing was claimed */
                vm->restoring = false;
                vm_set_power(vm, vm->restore_before, "the agent ended while this VM was being resumed");
                return;
        }
        vm_claim_is_unclear(vm);
        vm_set_power(
                vm, VM_POWER_STOPPED, "the agent ended during the start of this VM; its guest never ran");
}

/* Called with the cause; and again, without, when the QEMU that was killed for it is gone. */
void vm_start_failed(struct vm *vm, struct error *error)
{
        struct vm_job *job = vm->job;

        if (error && !job->error)
                job->error = TAKE_PTR(error);
        error_free(error);
        job->ending = true;
        if (vm->qemu && vm_kill(vm) == 0)
                return; /* its end comes back here */
        vm_clear_process(vm);
        if (job->owner) {
                owner_record_change_free(TAKE_PTR(job->owner));
                vm_claim_is_unclear(vm);
        }
        if (job->kind == VM_JOB_RESTORE && vm->restore_continuing)
                job->before = VM_POWER_CRASHED;
        else if (job->kind == VM_JOB_RESTORE && vm_restore_keep(vm))
                return;
        vm_restore_forget(vm);
        error = TAKE_PTR(job->error);
        if (job->kind == VM_JOB_INCOMING) {
                struct vm_job mine = *job;

                error_about(&error, "vm/%s", vm->name);
                vm_job_drop(vm);
                vm_forget(vm);
                mine.done(mine.userdata, error);
                error_free(error);
                return;
        }
        vm_set_power(vm,
                job->before == VM_POWER_CRASHED || job->before == VM_POWER_SUSPENDED ? job->before
                                                                                     : VM_POWER_STOPPED,
                error_message(error));
        vm_job_end(vm, error);
}

void vm_start_fail_with(struct vm *vm, const struct error *cause)
{
        struct error *copy = NULL;

        (void)error_set(&copy, cause->code, cause->hint, "%s", error_message(cause));
        vm_start_failed(vm, copy);
}

/* --- A start's last steps ------------------------------------------------------------------------------------ */

static void on_continued(void *userdata, const json_t *result, const struct error *error)
{
        struct vm *vm = userdata;

        vm->job->call = NULL;
        if (error) {
                /* QEMU itself said no: the guest did not run. */
                if (error->code == ERROR_QEMU_FAILED && vm->qmp && qmp_is_ready(vm->qmp))
                        vm->restore_continuing = false;
                vm_start_fail_with(vm, error);
                return;
        }
        vm_set_power(vm, VM_POWER_RUNNING, NULL);
        vm_announce(vm);
        if (vm->job->kind == VM_JOB_RESTORE)
                vm_restore_ran(vm);
        else
                vm_job_end(vm, NULL);
}

void vm_start_owner_taken(void *userdata, uint64_t epoch, struct error *error)
{
        struct error *cause = NULL;
        struct vm *vm = userdata;
        int r = 0;

        vm->job->owner = NULL;
        vm->config->status.owner_epoch = MAX(epoch, vm->config->status.owner_epoch);
        if (vm->job->ending)
                return;
        if (error) {
                vm_start_fail_with(vm, error);
                return;
        }
        crash_point("restore-owner");
        vm->restore_continuing = vm->restore_epoch != 0;
        if (vm->qmp)
                r = vm_state_write(vm, &cause); /* an agent that adopts the guest knows its epoch */
        else
                r = error_set(
                        &cause, ERROR_QEMU_FAILED, NULL, "the monitor of VM %s does not answer", vm->name);
        crash_point("restore-continuing");
        if (r == 0)
                r = qmp_command(
                        vm->qmp, "cont", NULL, -1, QMP_TIMEOUT_MS, on_continued, vm, &vm->job->call, &cause);
        if (r < 0) {
                if (vm->restore_continuing) { /* it was never sent: the state is to be kept */
                        vm->restore_continuing = false;
                        (void)vm_state_write(vm, NULL);
                }
                vm_start_failed(vm, cause);
        } else if (vm->job->left_record && vm->job->clear_record)
                storage_move_clear_record(vm, vm->job->left_record);
}

static int take_owner(struct vm *vm, const json_t *document, struct error **ret_error)
{
        uint64_t known = vm->config->status.owner_epoch;

        if (!document)
                return error_from_errno(ret_error, ENOMEM, "document of VM %s", vm->name);
        if (vm->job->kind == VM_JOB_RESTORE)
                return vm_restore_take_owner(vm, document, ret_error);
        return vm->job->discard_state ? owner_record_take_next_from_disks(vm, known, document,
                                                vm_start_owner_taken, vm, &vm->job->owner, ret_error)
                                      : owner_record_take_next(vm, known, document, vm_start_owner_taken, vm,
                                                &vm->job->owner, ret_error);
}

static void claim(struct vm *vm)
{
        _cleanup_json_ json_t *document = vm_document(vm);
        struct error *error = NULL;

        if (take_owner(vm, document, &error) < 0)
                vm_start_failed(vm, error);
}

static void on_hold_over(void *userdata)
{
        struct vm *vm = userdata;

        crash_hold_free(TAKE_PTR(vm->job->hold));
        if (!vm->job->ending)
                claim(vm);
}

void vm_start_finish(struct vm *vm)
{
        if (!crash_point_hold(vm->agent->loop, "start-claiming", on_hold_over, vm, &vm->job->hold))
                claim(vm);
}

/* --- A migration's last steps -------------------------------------------------------------------------------- */

static void on_waiting(void *userdata, const json_t *result, const struct error *error)
{
        struct vm *vm = userdata;

        vm->job->call = NULL;
        if (error) {
                vm_start_fail_with(vm, error);
                return;
        }
        if (vm->job->kind == VM_JOB_RESTORE) {
                vm_restore_waiting(vm);
                return;
        }
        vm->stream_fd = TAKE_FD(vm->job->stream_fd);
        vm_set_power(vm, VM_POWER_INCOMING, NULL);
        vm_job_end(vm, NULL);
}

static void on_incoming_fd(void *userdata, const json_t *result, const struct error *error)
{
        struct vm *vm = userdata;
        struct error *cause = NULL;

        vm->job->call = NULL;
        if (error) {
                vm_start_fail_with(vm, error);
                return;
        }
        if (qmp_command(vm->qmp, "migrate-incoming", json_pack("{s:s}", "uri", "fd:" INCOMING_FDNAME), -1,
                    QMP_TIMEOUT_MS, on_waiting, vm, &vm->job->call, &cause) < 0)
                vm_start_failed(vm, cause);
}

static struct error *no_post_copy(const struct error *cause)
{
        struct error *e = NULL;

        error_set(&e, ERROR_NOT_SUPPORTED,
                "Set sysctl vm.unprivileged_userfaultfd=1 there, or (from QEMU 8.0 on) let QEMU open "
                "/dev/userfaultfd; "
                "or leave post-copy out of --converge.",
                "QEMU cannot be set up for post-copy: %s", error_message(cause));
        return e;
}

static void on_capabilities(void *userdata, const struct error *error)
{
        struct vm *vm = userdata;

        if (error && vm->job->post_copy) /* QEMU tries userfaultfd out when it is told of post-copy */
                vm_start_failed(vm, no_post_copy(error));
        else if (error)
                vm_start_fail_with(vm, error);
        else
                send_incoming_fd(vm);
}

static void send_incoming_fd(struct vm *vm)
{
        struct error *cause = NULL;
        int pair[2], r;

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
                (void)error_from_errno(&cause, errno, "stream of the migration");
                vm_start_failed(vm, cause);
                return;
        }
        vm->job->stream_fd = pair[0];
        r = qmp_command(vm->qmp, "getfd", json_pack("{s:s}", "fdname", INCOMING_FDNAME), pair[1],
                QMP_TIMEOUT_MS, on_incoming_fd, vm, &vm->job->call, &cause);
        (void)close(pair[1]); /* QEMU has its own by then */
        if (r < 0)
                vm_start_failed(vm, cause);
}

void vm_start_connected(struct vm *vm)
{
        struct error *error = NULL;

        if (vm->job->ending)
                return;
        if (vm->job->kind == VM_JOB_START) {
                vm_start_finish(vm);
                return;
        }
        if (migration_setup_start(vm->qmp, MIGRATION_DESTINATION,
                    &(struct migration_needs){.post_copy = vm->job->post_copy}, QMP_TIMEOUT_MS,
                    on_capabilities, vm, &vm->job->setup, &error) < 0)
                vm_start_failed(vm, error);
}
