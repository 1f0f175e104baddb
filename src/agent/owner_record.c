/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/owner_record.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "agent/agent.h"
#include "agent/stores.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "storage/move_record.h"
#include "storage/offload.h"
#include "storage/state_file.h"
#include "storage/vm_folder.h"

/* Another host holds the lock for a few milliseconds. */
#define BUSY_TRIES 50
#define BUSY_PAUSE_MS 20

struct owner_record_change {
        struct offload *offload;
        uint64_t likely_epoch; /* what the child is about to write, as far as is known here */
        owner_record_fn done;
        void *userdata;
};

/* For the child, which has the agent's memory as it was, but none of its descriptors. */
struct args {
        const char *store_name;
        const char *store_path;
        const char *store_id;
        const char *folder_name;
        const char *vm_uid;
        const char *host_uid;
        uint64_t known_epoch;
        uint64_t epoch;  /* 0: the next one */
        bool from_disks; /* with the next one: whatever state there is */
        bool goes_on;    /* its QEMU has had the disks all along */
        int64_t now_unix_ms;
        const json_t *document;
};

/* Memory and disks must never be of different moments: who starts from the disks while there is a state, does so knowingly.
 * *ret_record: there is a record, which is good for no epoch any more once the next one is taken. */
static int look_for_state(
        const struct vm_folder *folder, const struct args *args, bool *ret_record, struct error **ret_error)
{
        _cleanup_json_ json_t *record = NULL;
        _cleanup_error_ struct error *error = NULL;
        int r = state_file_record(folder, &record, &error);

        *ret_record = r == 0 || !error || error->code != ERROR_NOT_FOUND;
        if (args->from_disks || !*ret_record || (error && error->code == ERROR_STALE_EPOCH))
                return 0;
        if (r < 0) {
                *ret_error = TAKE_PTR(error);
                return r;
        }
        return error_set(ret_error, ERROR_CONFLICT,
                "Resume it with `drover vm resume`, or give up what was in its memory: `drover vm start "
                "--discard-state`.",
                "the virtual machine is suspended: its memory is in %s", folder->path);
}

static void remove_state(const struct vm_folder *folder)
{
        _cleanup_error_ struct error *error = NULL;

        if (state_file_remove(folder, &error) < 0)
                log_warning("%s: what is left of a suspended state stays: %s", folder->path,
                        error_message(error));
}

/* A record stays until the next epoch is taken: it may be the only way back if this host ends before. Only where there
 * is no room to take it, the state goes first. */
static int take_over_state(const struct vm_folder *folder, const struct args *args, uint64_t known,
        bool has_record, struct error **ret_error)
{
        _cleanup_error_ struct error *error = NULL;
        int r;

        if (!has_record)
                remove_state(folder);
        r = vm_folder_take_owner(folder, args->host_uid, known, known + 1, args->now_unix_ms, &error);
        if (has_record && (r == 0 || (error && error->code == ERROR_NO_SPACE)))
                remove_state(folder);
        if (has_record && r < 0 && error && error->code == ERROR_NO_SPACE) {
                error_free(TAKE_PTR(error));
                r = vm_folder_take_owner(folder, args->host_uid, known, known + 1, args->now_unix_ms, &error);
        }
        *ret_error = TAKE_PTR(error);
        return r;
}

static int take_next(const struct vm_folder *folder, const struct args *args, uint64_t *ret_epoch,
        struct error **ret_error)
{
        uint64_t known = args->known_epoch;
        bool has_record = false;
        struct vm_owner owner;
        int r = vm_folder_read_owner(folder, &owner, ret_error);

        if (r < 0)
                return r;
        if (!strcmp(owner.host, args->host_uid))
                known = MAX(known, owner.epoch);
        *ret_epoch = known + 1;
        if (owner.epoch > known) /* what is there is another host's: refused, and not ours to touch */
                return vm_folder_take_owner(
                        folder, args->host_uid, known, known + 1, args->now_unix_ms, ret_error);
        r = look_for_state(folder, args, &has_record, ret_error);
        return r < 0 ? r : take_over_state(folder, args, known, has_record, ret_error);
}

static int try_take(const struct vm_folder *folder, const struct args *args, uint64_t *ret_epoch,
        struct error **ret_error)
{
        if (!args->epoch)
                return take_next(folder, args, ret_epoch, ret_error);
        *ret_epoch = args->epoch;
        return vm_folder_take_owner(
                folder, args->host_uid, args->known_epoch, args->epoch, args->now_unix_ms, ret_error);
}

static int write_document(
        const struct vm_folder *folder, const json_t *document, uint64_t epoch, struct error **ret_error)
{
        _cleanup_json_ json_t *copy = json_deep_copy(document);
        json_t *status = json_object_get(copy, "status");

        if (!status || json_object_set_new(status, "owner_epoch", json_integer((json_int_t)epoch)) < 0)
                return error_from_errno(ret_error, ENOMEM, "document in %s", folder->path);
        return vm_folder_write_doc(folder, copy, ret_error);
}

/* After a failed attempt: may it have been written nevertheless (renamed, but not known to be durable)? */
static bool may_have(const struct vm_folder *folder, const struct args *args, uint64_t epoch)
{
        struct vm_owner owner;

        if (vm_folder_read_owner(folder, &owner, NULL) < 0)
                return epoch > 0;
        return owner.epoch == epoch && !strcmp(owner.host, args->host_uid);
}

static int take(const struct args *args, uint64_t *ret_epoch, struct error **ret_error)
{
        const struct timespec pause = {.tv_nsec = BUSY_PAUSE_MS * 1000000L};
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        _cleanup_error_ struct error *error = NULL;
        uint64_t epoch = 0;
        int r = datastore_open(args->store_name, args->store_path, args->store_id, &store, ret_error);

        if (r >= 0)
                r = vm_folder_open(store, args->folder_name, args->vm_uid, &folder, ret_error);
        if (r < 0)
                return r;
        r = try_take(folder, args, &epoch, &error);
        for (unsigned int i = 1; r < 0 && error && error->code == ERROR_BUSY && i < BUSY_TRIES; i++) {
                error_free(TAKE_PTR(error));
                (void)nanosleep(&pause, NULL);
                r = try_take(folder, args, &epoch, &error);
        }
        /* The VM is ours, and who had it cannot commit a storage migration any more: it may have until now, after this host opened the
         * images. That the folder is seen as it is (NFS), the owner record that was just replaced in it sees to. */
        if (r == 0 && args->document && !args->goes_on)
                r = move_record_check_document(folder, args->document, &error);
        if (r == 0 && args->document)
                r = write_document(folder, args->document, epoch, &error);
        if (r == 0 || may_have(folder, args, epoch))
                *ret_epoch = epoch;
        *ret_error = TAKE_PTR(error);
        return r;
}

/* A failure is part of the result, for it comes with an epoch: {"epoch": N, "error": problem document or null}. */
static int take_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        _cleanup_error_ struct error *error = NULL;
        uint64_t epoch = 0;
        int r = take(arg, &epoch, &error);

        if (r < 0 && !error)
                (void)error_from_errno(&error, r, "owner record");
        *ret_result = json_pack(
                "{s:I, s:o?}", "epoch", (json_int_t)epoch, "error", error ? error_to_json(error) : NULL);
        return *ret_result ? 0 : error_from_errno(ret_error, ENOMEM, "owner record");
}

static void on_taken(void *userdata, json_t *result, struct error *error)
{
        struct owner_record_change *change = userdata, mine = *change;
        const json_t *problem = json_object_get(result, "error");
        _cleanup_error_ struct error *failure = json_is_object(problem) ? error_from_json(problem) : NULL;
        uint64_t epoch =
                error ? mine.likely_epoch : (uint64_t)json_integer_value(json_object_get(result, "epoch"));

        if (json_is_object(problem) && !failure)
                (void)error_set(&failure, ERROR_NO_MEMORY, NULL, "owner record: out of memory");
        free(change);
        mine.done(mine.userdata, epoch, error ?: failure);
}

static int begin(struct vm *vm, struct args *args, owner_record_fn done, void *userdata,
        struct owner_record_change **ret_change, struct error **ret_error)
{
        _cleanup_free_ struct owner_record_change *change = ALLOC(struct owner_record_change);
        const struct datastore *store;
        int r;

        if (!change)
                return error_from_errno(ret_error, ENOMEM, "owner record of VM %s", vm->name);
        r = stores_get(vm->agent->stores, vm->config->datastore, &store, ret_error);
        if (r < 0)
                return r;
        change->likely_epoch = args->epoch ?: args->known_epoch + 1;
        change->done = done;
        change->userdata = userdata;
        args->store_name = store->name;
        args->store_path = store->path;
        args->store_id = store->id;
        args->folder_name = vm->name;
        args->vm_uid = vm->uid;
        args->host_uid = args->host_uid ?: agent_host_uid(vm->agent);
        args->now_unix_ms = clock_unix_ms(loop_clock(vm->agent->loop));
        r = offload_start(vm->agent->loop, "owner record", take_in_child, args, OWNER_RECORD_TIMEOUT_MS,
                on_taken, change, &change->offload, ret_error);
        if (r < 0)
                return r;
        *ret_change = TAKE_PTR(change);
        return 0;
}

int owner_record_take(struct vm *vm, uint64_t known_epoch, uint64_t epoch, owner_record_fn done,
        void *userdata, struct owner_record_change **ret_change, struct error **ret_error)
{
        struct args args = {.known_epoch = known_epoch, .epoch = epoch};

        return begin(vm, &args, done, userdata, ret_change, ret_error);
}

int owner_record_give(struct vm *vm, const char *host_uid, uint64_t known_epoch, uint64_t epoch,
        owner_record_fn done, void *userdata, struct owner_record_change **ret_change,
        struct error **ret_error)
{
        struct args args = {.host_uid = host_uid, .known_epoch = known_epoch, .epoch = epoch};

        return begin(vm, &args, done, userdata, ret_change, ret_error);
}

int owner_record_take_next(struct vm *vm, uint64_t known_epoch, const json_t *document, owner_record_fn done,
        void *userdata, struct owner_record_change **ret_change, struct error **ret_error)
{
        struct args args = {.known_epoch = known_epoch, .document = document};

        return begin(vm, &args, done, userdata, ret_change, ret_error);
}

int owner_record_take_next_from_disks(struct vm *vm, uint64_t known_epoch, const json_t *document,
        owner_record_fn done, void *userdata, struct owner_record_change **ret_change,
        struct error **ret_error)
{
        struct args args = {.known_epoch = known_epoch, .document = document, .from_disks = true};

        return begin(vm, &args, done, userdata, ret_change, ret_error);
}

int owner_record_take_back(struct vm *vm, uint64_t known_epoch, const json_t *document, owner_record_fn done,
        void *userdata, struct owner_record_change **ret_change, struct error **ret_error)
{
        struct args args = {
                .known_epoch = known_epoch, .document = document, .from_disks = true, .goes_on = true};

        return begin(vm, &args, done, userdata, ret_change, ret_error);
}

int owner_record_take_for_state(struct vm *vm, uint64_t known_epoch, const json_t *document,
        owner_record_fn done, void *userdata, struct owner_record_change **ret_change,
        struct error **ret_error)
{
        struct args args = {.known_epoch = known_epoch, .epoch = known_epoch + 1, .document = document};

        return begin(vm, &args, done, userdata, ret_change, ret_error);
}

void owner_record_change_free(struct owner_record_change *change)
{
        if (!change)
                return;
        offload_free(change->offload);
        free(change);
}
