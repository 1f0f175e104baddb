/* SPDX-License-Identifier: Apache-2.0 */

/* Suspending. The guest is stopped first, so that memory and disks are of one moment; then
 *   1. QEMU migrates into a socket, at whose other end a child process writes the file (storage/state_file.h);
 *   2. when QEMU says that the migration completed and the child that the file is durable, a child writes the record:
 *      from here the VM is suspended;
 *   3. SUSPENDED is noted, and QEMU killed, which has given up its disks.
 * Whatever fails before 3, and an agent that starts again and finds such a QEMU alive, goes back: the migration is
 * cancelled, and the guest goes on. Once QEMU says that the migration completed, it has given up its disks, and a record may
 * have been written all the same: then the next owner epoch is taken before, from the one that this host had when it began,
 * so that a record is good for no epoch and no guest goes on whose VM ran elsewhere meanwhile. All of it is repeated until
 * it succeeds, the QEMU ends, or the VM is stopped with force.
 * A resumption whose agent ended after it was noted that the guest may run is brought to its end in the same way. */

#include "agent/vm_suspend.h"

#include <errno.h>
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
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/crash_point.h"
#include "storage/offload.h"
#include "storage/state_file.h"
#include "vmm/migration_params.h"
#include "vmm/qmp.h"

#define FDNAME "drover-suspend"
#define QMP_TIMEOUT_MS 10000
#define POLL_MS 50
#define AGAIN_MS 1000
#define COMMIT_TIMEOUT_MS 30000
#define WORDS_TIMEOUT_MS 5000 /* for the child to say why, when QEMU has failed: the guest stands still */
#define TIMEOUT_DEFAULT_MS (UINT64_C(3600) * 1000)

struct vm_suspend {
        struct vm *vm;
        struct offload *offload;   /* the child at work */
        struct loop_source *poll;  /* asks QEMU; while going back, makes the next attempt */
        struct loop_source *limit; /* the caller's patience */
        json_t *written;           /* what the child says of the file; NULL: not yet */
        char file[STATE_FILE_NAME_MAX];
        uint64_t began_ms;
        bool was_paused;
        bool completed; /* QEMU's migration */
        char *failed;   /* QEMU's words, if it was not; the child's say more and are waited for */
        uint64_t
                epoch; /* under which the guest ran until now; claims that are not answered do not change it */
        bool going_back;
        bool cancelled; /* going back: QEMU was told to cancel */
        bool must_take; /* going back: not without the next epoch, whatever QEMU says of the migration */
        bool unclear;   /* the owner record may have a later epoch of this host's than it knows */
        uint64_t later; /* the highest that tries that failed may have left there; 0: none */
        bool taken;     /* going back: the guest may go on as far as the owner record is concerned */
};

/* For a child, which has the agent's memory as it was. */
struct args {
        const char *store_name, *store_path, *store_id, *folder_name, *vm_uid;
        const char *host_uid, *file;
        const json_t *record;
        uint64_t epoch;
        int64_t now_unix_ms;
};

static void go_back(struct vm_suspend *s, struct error *error);
static void go_on_back(struct vm_suspend *s);

void vm_suspend_free(struct vm_suspend *suspend)
{
        if (!suspend)
                return;
        offload_free(suspend->offload);
        loop_source_free(suspend->poll);
        loop_source_free(suspend->limit);
        json_decref(suspend->written);
        free(suspend->failed);
        free(suspend);
}

static struct error *copy_error(const struct error *error)
{
        struct error *copy = NULL;

        if (error)
                (void)error_set(&copy, error->code, error->hint, "%s", error_message(error));
        return copy;
}

/* --- How many at once -------------------------------------------------------------------------------------------- */

static bool transfers(const struct vm *vm)
{
        const struct vm_job *job = vm->job;

        return job && ((job->suspend && !job->suspend->going_back) ||
                              (job->kind == VM_JOB_RESTORE && !job->ending && job->done));
}

int vm_state_transfer_fits(struct agent *agent, struct error **ret_error)
{
        struct map_item *item, *spare;
        size_t n = 0;

        map_for_each (item, spare, &agent->vms)
                n += transfers(item->value);
        return n < VM_STATE_TRANSFERS_MAX
                       ? 0
                       : error_set(ret_error, ERROR_BUSY, "Wait until one of them has ended.",
                                 "%zu virtual machines of host %s are being suspended or resumed already", n,
                                 agent->config.name);
}

/* --- In the child ------------------------------------------------------------------------------------------------ */

static int open_folder(const struct args *args, struct datastore **ret_store, struct vm_folder **ret_folder,
        struct error **ret_error)
{
        int r = datastore_open(args->store_name, args->store_path, args->store_id, ret_store, ret_error);

        return r < 0 ? r : vm_folder_open(*ret_store, args->folder_name, args->vm_uid, ret_folder, ret_error);
}

static int write_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        const struct args *args = arg;
        int r = open_folder(args, &store, &folder, ret_error);

        return r < 0 ? r
                     : state_file_write(folder, args->host_uid, args->epoch, args->file, OFFLOAD_FD,
                               ret_result, ret_error);
}

static int commit_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        const struct args *args = arg;
        int r = open_folder(args, &store, &folder, ret_error);

        return r < 0 ? r
                     : state_file_commit(folder, args->host_uid, args->epoch, args->now_unix_ms, args->record,
                               ret_error);
}

static int in_child(struct vm_suspend *s, offload_fn fn, const json_t *record, int fd, uint64_t timeout_ms,
        offload_done_fn done, struct error **ret_error)
{
        const struct vm *vm = s->vm;
        const struct datastore *store;
        struct args args = {.folder_name = vm->name,
                .vm_uid = vm->uid,
                .host_uid = agent_host_uid(vm->agent),
                .file = s->file,
                .record = record,
                .epoch = s->epoch,
                .now_unix_ms = clock_unix_ms(loop_clock(vm->agent->loop))};
        int r = stores_get(vm->agent->stores, vm->config->datastore, &store, ret_error);

        if (r < 0)
                return r;
        args.store_name = store->name;
        args.store_path = store->path;
        args.store_id = store->id;
        return (fd < 0 ? offload_start_with_fd : offload_start_stream)(vm->agent->loop,
                "state of a suspended virtual machine", fn, &args, fd, timeout_ms, done, s, &s->offload,
                ret_error);
}

/* --- Forwards ---------------------------------------------------------------------------------------------------- */

static void on_committed(void *userdata, json_t *result, struct error *error)
{
        struct vm_suspend *s = userdata;
        struct vm *vm = s->vm;
        uint64_t took_ms = clock_now_ms(loop_clock(vm->agent->loop)) - s->began_ms;

        s->offload = NULL;
        if (error) {
                go_back(s, copy_error(error));
                return;
        }
        crash_point("suspend-complete");
        json_decref(vm->transfer);
        vm->transfer =
                json_pack("{s:O, s:O, s:I}", "bytes", json_object_get(s->written, "bytes"), "stream_bytes",
                        json_object_get(s->written, "stream_bytes"), "suspend_ms", (json_int_t)took_ms);
        vm->suspend_paused = false;
        vm_set_power(vm, VM_POWER_SUSPENDED, NULL);
        crash_point("suspend-noted");
        loop_source_free(TAKE_PTR(s->limit));
        loop_source_free(TAKE_PTR(s->poll));
        (void)vm_kill(vm); /* its end ends the job */
}

static json_t *record_of(const struct vm_suspend *s)
{
        const struct vm *vm = s->vm;
        _cleanup_json_ json_t *document = vm_document(vm);
        json_t *features = json_object_get(vm->agent->host->cpu, "features"),
               *record = json_deep_copy(s->written);
        char since[32];

        if (!record || !document || json_object_set_new(record, "vm", json_string(vm->uid)) < 0 ||
                json_object_set_new(record, "host", json_string(agent_host_uid(vm->agent))) < 0 ||
                json_object_set_new(record, "since",
                        json_string(text_format_time(clock_unix_ms(loop_clock(vm->agent->loop)), since))) <
                        0 ||
                json_object_set(record, "document", document) < 0 ||
                (features && json_object_set(record, "cpu_features", features) < 0)) {
                json_decref(record);
                return NULL;
        }
        return record;
}

static void commit_if_complete(struct vm_suspend *s)
{
        _cleanup_json_ json_t *record = NULL;
        struct error *error = NULL;

        if (!s->completed || !s->written)
                return;
        crash_point("suspend-written");
        s->unclear = true;
        record = record_of(s);
        if (!record)
                (void)error_from_errno(&error, ENOMEM, "VM %s", s->vm->name);
        else
                (void)in_child(s, commit_in_child, record, -1, COMMIT_TIMEOUT_MS, on_committed, &error);
        if (error)
                go_back(s, error);
}

static struct error *save_failed(const struct vm_suspend *s, const char *words)
{
        struct error *error = NULL;

        (void)error_set(&error, ERROR_QEMU_FAILED, "See the log of the agent.",
                "QEMU could not save the state of VM %s: %s", s->vm->name, words);
        return error;
}

static void on_written(void *userdata, json_t *result, struct error *error)
{
        struct vm_suspend *s = userdata;

        s->offload = NULL;
        if (error) {
                go_back(s, copy_error(error));
                return;
        }
        if (s->failed) {
                go_back(s, save_failed(s, s->failed));
                return;
        }
        s->written = json_incref(result);
        commit_if_complete(s);
}

static void on_migration(void *userdata, const json_t *result, const struct error *error)
{
        _cleanup_migration_info_ struct migration_info info = MIGRATION_INFO_INIT;
        struct vm_suspend *s = userdata;
        struct error *cause = NULL;

        s->vm->job->call = NULL;
        if (error)
                cause = copy_error(error);
        else if (migration_info_parse(result, &info, &cause) < 0)
                ;
        else if (info.status == MIGRATION_STATUS_COMPLETED)
                s->completed = true;
        else if (!migration_status_is_final(info.status)) {
                (void)loop_source_rearm(s->poll, POLL_MS);
                return;
        } else {
                const char *words = info.error ?: migration_status_to_string(info.status);

                s->failed = s->offload ? alloc_strdup(words) : NULL;
                if (s->failed && loop_source_rearm(s->limit, WORDS_TIMEOUT_MS) == 0)
                        return;
                cause = save_failed(s, words);
        }
        if (cause)
                go_back(s, cause);
        else
                commit_if_complete(s);
}

static void on_poll(void *userdata)
{
        struct vm_suspend *s = userdata;
        struct vm *vm = s->vm;
        struct error *error = NULL;

        if (s->going_back) {
                go_on_back(s);
                return;
        }
        if (!vm->qmp)
                (void)error_set(
                        &error, ERROR_QEMU_FAILED, NULL, "the monitor of VM %s does not answer", vm->name);
        else
                (void)qmp_command(vm->qmp, "query-migrate", NULL, -1, QMP_TIMEOUT_MS, on_migration, s,
                        &vm->job->call, &error);
        if (error)
                go_back(s, error);
}

static void on_migrating(void *userdata, const json_t *result, const struct error *error)
{
        struct vm_suspend *s = userdata;

        s->vm->job->call = NULL;
        if (error)
                go_back(s, copy_error(error));
        else {
                crash_point("suspend-writing");
                (void)loop_source_rearm(s->poll, POLL_MS);
        }
}

static void on_fd(void *userdata, const json_t *result, const struct error *error)
{
        struct vm_suspend *s = userdata;
        struct error *cause = NULL;

        s->vm->job->call = NULL;
        if (error)
                cause = copy_error(error);
        else
                (void)qmp_command(s->vm->qmp, "migrate", json_pack("{s:s}", "uri", "fd:" FDNAME), -1,
                        QMP_TIMEOUT_MS, on_migrating, s, &s->vm->job->call, &cause);
        if (cause)
                go_back(s, cause);
}

static void on_set_up(void *userdata, const struct error *error)
{
        struct vm_suspend *s = userdata;
        struct error *cause = NULL;
        int pair[2], r;

        if (error) {
                go_back(s, copy_error(error));
                return;
        }
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
                (void)error_from_errno(&cause, errno, "state of VM %s", s->vm->name);
                go_back(s, cause);
                return;
        }
        vm_stream_set_room(pair[1], VM_STREAM_BYTES);
        r = in_child(s, write_in_child, NULL, pair[0], TIMEOUT_DEFAULT_MS * 24, on_written, &cause);
        if (r == 0)
                r = qmp_command(s->vm->qmp, "getfd", json_pack("{s:s}", "fdname", FDNAME), pair[1],
                        QMP_TIMEOUT_MS, on_fd, s, &s->vm->job->call, &cause);
        (void)close(pair[0]);
        (void)close(pair[1]); /* each has its own by then; so each sees the other's end */
        if (r < 0)
                go_back(s, cause);
}

static void on_stopped(void *userdata, const json_t *result, const struct error *error)
{
        struct vm_suspend *s = userdata;
        struct error *cause = NULL;

        s->vm->job->call = NULL;
        if (error)
                cause = copy_error(error);
        else {
                crash_point("suspend-stopped");
                (void)migration_setup_start(s->vm->qmp, MIGRATION_SOURCE,
                        &(struct migration_needs){.one_way = true}, QMP_TIMEOUT_MS, on_set_up, s,
                        &s->vm->job->setup, &cause);
        }
        if (cause)
                go_back(s, cause);
}

static void on_limit(void *userdata)
{
        struct vm_suspend *s = userdata;
        struct error *error = NULL;

        if (s->failed)
                error = save_failed(s, s->failed);
        else
                (void)error_set(&error, ERROR_TIMED_OUT,
                        "Give it more time (--patience), or use a faster datastore.",
                        "the memory of VM %s was not written in time; the guest runs on", s->vm->name);
        go_back(s, error);
}

/* An agent that starts again must know of it before the guest is stopped: it would take such a QEMU for one whose guest may
 * simply be continued. False: with the error, nothing was done. */
static bool begin(struct vm_suspend *s, struct error **ret_error)
{
        struct vm *vm = s->vm;
        struct error *cause = NULL;

        if (vm_state_write(vm, ret_error) < 0)
                return false;
        if (qmp_command(vm->qmp, "stop", NULL, -1, QMP_TIMEOUT_MS, on_stopped, s, &vm->job->call, &cause) < 0)
                go_back(s, cause);
        return true;
}

static void on_stores_ready(void *userdata, struct error *error)
{
        struct vm *vm = userdata;
        struct vm_suspend *s = vm->job->suspend;
        struct error *cause = NULL;

        vm->job->wait = NULL;
        if (!error && !vm->qmp)
                (void)error_set(
                        &cause, ERROR_QEMU_FAILED, NULL, "the monitor of VM %s does not answer", vm->name);
        else if (!error) {
                s->epoch = vm->config->status.owner_epoch;
                vm->suspend_paused = s->was_paused;
                vm_set_power(vm, VM_POWER_SUSPENDING, NULL);
                if (begin(s, &cause))
                        return;
                vm->suspend_paused = false;
                vm_set_power(vm, s->was_paused ? VM_POWER_PAUSED : VM_POWER_RUNNING, NULL);
                vm_job_end(vm, cause);
                return;
        }
        vm_job_end(vm, cause ?: copy_error(error)); /* nothing was done yet */
}

static int suspend_new(struct vm *vm, struct vm_suspend **ret_suspend, struct error **ret_error)
{
        struct vm_suspend *s = ALLOC(struct vm_suspend);
        int r;

        if (!s)
                return error_from_errno(ret_error, ENOMEM, "VM %s", vm->name);
        *s = (struct vm_suspend){.vm = vm,
                .was_paused = vm_power(vm) == VM_POWER_PAUSED,
                .epoch = vm->config->status.owner_epoch,
                .began_ms = clock_now_ms(loop_clock(vm->agent->loop))};
        r = state_file_name(s->file);
        if (r == 0)
                r = loop_add_timer(vm->agent->loop, AGAIN_MS, on_poll, s, &s->poll);
        if (r == 0)
                r = loop_source_disarm(s->poll);
        if (r < 0) {
                vm_suspend_free(s);
                return error_from_errno(ret_error, r, "VM %s", vm->name);
        }
        *ret_suspend = s;
        return 0;
}

/* QEMU lets no guest go on from there, so that what was saved could never be resumed. */
static bool is_beyond_resuming(const struct vm *vm)
{
        static const char *const states[] = {"internal-error", "guest-panicked", "shutdown"};

        for (size_t i = 0; i < ARRAY_SIZE(states); i++)
                if (!strcmp(vm->qemu_status ?: "", states[i]))
                        return true;
        return false;
}

static int check_may_suspend(const struct vm *vm, struct error **ret_error)
{

        if (migration_vm_busy(vm->agent, vm->uid))
                return error_set(ret_error, ERROR_BUSY, "Wait for the migration, or cancel it.",
                        "VM %s is being migrated: it cannot be suspended now", vm->name);
        if (storage_move_busy(vm->agent, vm->uid))
                return error_set(ret_error, ERROR_BUSY, "Wait for the storage migration, or cancel it.",
                        "the disks of VM %s are being moved: it cannot be suspended now", vm->name);
        if (!vm->qemu || (vm_power(vm) != VM_POWER_RUNNING && vm_power(vm) != VM_POWER_PAUSED))
                return error_set(ret_error, ERROR_CONFLICT, NULL, "VM %s is %s: it cannot be suspended",
                        vm->name, vm_power_to_string(vm_power(vm)));
        if (json_array_size(vm->jobs))
                return error_set(ret_error, ERROR_BUSY, "Wait until it has ended, or end it.",
                        "QEMU works on the disks of VM %s", vm->name);
        if (is_beyond_resuming(vm))
                return error_set(ret_error, ERROR_CONFLICT, "Stop it with force, and start it.",
                        "QEMU has stopped the guest of VM %s for good (%s): it could not be resumed",
                        vm->name, vm->qemu_status);
        return vm_state_transfer_fits(vm->agent, ret_error);
}

int vm_suspend(struct vm *vm, uint64_t timeout_ms, vm_done_fn done, void *userdata, struct error **ret_error)
{
        const char *name = vm->config->datastore;
        struct vm_suspend *s;
        int r = check_may_suspend(vm, ret_error);

        if (r < 0)
                return r;
        r = vm_job_begin(vm, VM_JOB_SUSPEND, done, userdata, ret_error);
        if (r < 0)
                return r;
        r = suspend_new(vm, &s, ret_error);
        if (r == 0) {
                vm->job->suspend = s;
                r = loop_add_timer(vm->agent->loop, timeout_ms ?: TIMEOUT_DEFAULT_MS, on_limit, s, &s->limit);
                if (r < 0)
                        r = error_from_errno(ret_error, r, "VM %s", vm->name);
        }
        if (r == 0)
                r = stores_ensure(
                        vm->agent->stores, &name, 1, on_stores_ready, vm, &vm->job->wait, ret_error);
        if (r < 0)
                vm_job_drop(vm);
        return r;
}

int vm_suspend_cancel(struct vm *vm, struct error **ret_error)
{
        struct vm_suspend *s = vm->job ? vm->job->suspend : NULL;
        struct error *error = NULL;

        if (!s || vm_power(vm) == VM_POWER_SUSPENDED)
                return error_set(ret_error, ERROR_CONFLICT, NULL, "VM %s is not being suspended", vm->name);
        if (s->going_back)
                return 0;
        (void)error_set(&error, ERROR_CANCELLED, NULL, "the suspending of VM %s was cancelled", vm->name);
        go_back(s, error);
        return 0;
}

/* --- Back -------------------------------------------------------------------------------------------------------- */

static void again(struct vm_suspend *s, uint64_t delay_ms)
{
        if (loop_source_rearm(s->poll, delay_ms) < 0)
                log_error("VM %s cannot be continued: out of memory", s->vm->name);
}

/* The error (taken over) is the job's; the first one counts. */
static void go_back(struct vm_suspend *s, struct error *error)
{
        struct vm *vm = s->vm;
        struct vm_job *job = vm->job;

        if (job->error || s->going_back)
                error_free(error);
        else
                job->error = error;
        if (s->going_back)
                return;
        s->going_back = true;
        s->must_take = job->error && job->error->code == ERROR_STALE_EPOCH;
        if (vm_power(vm) == VM_POWER_STARTING)
                log_notice("VM %s: its resumption is brought to its end", vm->name);
        else
                log_warning("VM %s is not suspended: %s", vm->name,
                        job->error ? error_message(job->error) : "the agent was restarted");
        if (job->wait) { /* nothing was done yet */
                vm_job_end(vm, TAKE_PTR(job->error));
                return;
        }
        offload_free(TAKE_PTR(s->offload)); /* with it goes its end of the stream */
        loop_source_free(TAKE_PTR(s->limit));
        vm_job_leave_monitor(vm);
        again(s, 0);
}

static void end_back(struct vm *vm, enum vm_power power)
{
        bool announce = vm_power(vm) == VM_POWER_STARTING;

        vm->suspend_paused = false;
        vm_restore_forget(vm);
        vm_set_power(vm, power, NULL);
        if (announce)
                vm_announce(vm);
        vm_job_end(vm, TAKE_PTR(vm->job->error));
}

static void on_paused(void *userdata, const json_t *result, const struct error *error)
{
        struct vm_suspend *s = userdata;

        s->vm->job->call = NULL;
        if (error)
                log_error("VM %s runs and should be paused: %s", s->vm->name, error_message(error));
        end_back(s->vm, error ? VM_POWER_RUNNING : VM_POWER_PAUSED);
}

static void on_continued(void *userdata, const json_t *result, const struct error *error)
{
        struct vm_suspend *s = userdata;
        struct vm *vm = s->vm;

        vm->job->call = NULL;
        if (error) {
                log_error("VM %s cannot be continued: %s; trying again", vm->name, error_message(error));
                /* Perhaps another host has its disks: not again without having asked for the VM. */
                s->must_take = true;
                s->taken = false;
                again(s, AGAIN_MS);
                return;
        }
        if (vm->suspend_paused && vm->qmp &&
                qmp_command(vm->qmp, "stop", NULL, -1, QMP_TIMEOUT_MS, on_paused, s, &vm->job->call, NULL) ==
                        0)
                return;
        end_back(vm, VM_POWER_RUNNING);
}

static void on_taken(void *userdata, uint64_t epoch, struct error *error)
{
        struct vm *vm = userdata;
        struct vm_suspend *s = vm->job->suspend;
        struct error *cause = NULL;

        vm->job->owner = NULL;
        s->unclear = error && error->code != ERROR_STALE_EPOCH;
        /* The VM ran on another host meanwhile. */
        if (error && error->code == ERROR_STALE_EPOCH && vm_end_lost(vm, error_message(error), NULL) == 0)
                return;
        if (error) {
                /* An epoch that may have been written does not count yet: the next try would pass another host's with it. */
                s->later = MAX(s->later, epoch);
                log_error("VM %s waits for its datastore: %s", vm->name, error_message(error));
                again(s, AGAIN_MS);
                return;
        }
        vm->config->status.owner_epoch = MAX(epoch, vm->config->status.owner_epoch);
        s->epoch = vm->config->status.owner_epoch;
        s->taken = true;
        if (vm_state_write(vm, &cause) < 0)
                log_error("VM %s: %s", vm->name, error_message(cause));
        error_free(cause);
        go_on_back(s);
}

static void take_next(struct vm_suspend *s)
{
        struct vm *vm = s->vm;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *document = vm_document(vm);

        s->unclear = true;
        if (document &&
                owner_record_take_back(vm, s->epoch, document, on_taken, vm, &vm->job->owner, &error) == 0)
                return;
        log_error("VM %s waits for its datastore: %s", vm->name,
                error ? error_message(error) : "out of memory");
        again(s, AGAIN_MS);
}

static void on_asked(void *userdata, const json_t *result, const struct error *error)
{
        _cleanup_migration_info_ struct migration_info info = MIGRATION_INFO_INIT;
        struct vm_suspend *s = userdata;

        s->vm->job->call = NULL;
        if (error || migration_info_parse(result, &info, NULL) < 0 ||
                (info.status != MIGRATION_STATUS_NONE && !migration_status_is_final(info.status)))
                again(s, POLL_MS);
        else {
                s->completed = info.status == MIGRATION_STATUS_COMPLETED;
                s->taken = !s->must_take && !s->completed;
                if (s->taken)
                        go_on_back(s);
                else
                        take_next(s);
        }
}

static void on_cancelled(void *userdata, const json_t *result, const struct error *error)
{
        struct vm_suspend *s = userdata;

        s->vm->job->call = NULL;
        s->cancelled = !error;
        again(s, error ? AGAIN_MS : 0);
}

/* Each step is tried until it succeeds; QEMU's end ends the job. */
static void go_on_back(struct vm_suspend *s)
{
        struct vm *vm = s->vm;
        _cleanup_error_ struct error *error = NULL;
        int r = 0;

        if (!vm->qmp || !qmp_is_ready(vm->qmp))
                again(s, AGAIN_MS);
        else if (!s->cancelled)
                r = qmp_command(vm->qmp, "migrate_cancel", NULL, -1, QMP_TIMEOUT_MS, on_cancelled, s,
                        &vm->job->call, &error);
        else if (!s->taken)
                r = qmp_command(vm->qmp, "query-migrate", NULL, -1, QMP_TIMEOUT_MS, on_asked, s,
                        &vm->job->call, &error);
        else if (vm->suspend_paused && !s->completed)
                end_back(vm, VM_POWER_PAUSED);
        else /* after a migration QEMU takes its disks back with this alone: a paused guest runs for a moment */
                r = qmp_command(
                        vm->qmp, "cont", NULL, -1, QMP_TIMEOUT_MS, on_continued, s, &vm->job->call, &error);
        if (r < 0)
                again(s, AGAIN_MS);
}

void vm_suspend_recover(struct vm *vm)
{
        _cleanup_error_ struct error *error = NULL;
        struct vm_suspend *s;

        if (vm_power(vm) == VM_POWER_SUSPENDED) {
                (void)vm_kill(vm);
                return;
        }
        if (vm->job)
                return;
        if (vm_job_begin(vm, vm_power(vm) == VM_POWER_SUSPENDING ? VM_JOB_SUSPEND : VM_JOB_CONTINUE, NULL,
                    NULL, &error) < 0 ||
                suspend_new(vm, &s, &error) < 0) {
                log_error("VM %s cannot be continued: %s", vm->name, error_message(error));
                vm_job_drop(vm);
                return; /* what QEMU says next comes here again */
        }
        vm->job->suspend = s;
        go_back(s, NULL);
        if (vm_power(vm) ==
                VM_POWER_STARTING) { /* there is nothing to cancel, and its memory lay where others could take it */
                s->cancelled = true;
                s->must_take = true;
        }
}

/* There is no next try: whoever starts the VM, here or elsewhere, has to know what the tries may have left. A last one may be under way. */
static void keep_later(const struct vm_suspend *s)
{
        struct vm *vm = s->vm;
        uint64_t later = s->later + (vm->job->owner ? 1 : 0);

        if (later > vm->config->status.owner_epoch + 1)
                vm->config->status.owner_epoch =
                        later - 1; /* and one for what is unclear, which is told separately */
}

void vm_suspend_vm_gone(struct vm *vm)
{
        const struct vm_suspend *s = vm->job ? vm->job->suspend : NULL;

        if (s && !s->unclear)
                return;
        if (s)
                keep_later(s);
        vm_claim_is_unclear(vm);
}

void vm_suspend_give_up(struct vm *vm)
{
        struct error *error = NULL;

        if (!vm->job || !vm->job->suspend)
                return;
        keep_later(vm->job->suspend);
        (void)error_set(&error, ERROR_CANCELLED, NULL, "VM %s was stopped with force", vm->name);
        vm_job_end(vm, error);
}
