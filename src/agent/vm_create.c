/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/vm_create.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/checkpoints.h"
#include "agent/migration.h"
#include "agent/storage_move.h"
#include "agent/stores.h"
#include "agent/vm_job.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "storage/beneath.h"
#include "storage/image.h"
#include "storage/move_record.h"
#include "storage/offload.h"
#include "storage/state_file.h"
#include "storage/vm_folder.h"

#define DELETE_TIMEOUT_MS 120000

/* One creation or deletion under way. */
struct creation {
        struct list all; /* in struct agent */
        struct agent *agent;
        struct vm_config *config;
        vm_create_fn done;
        void *userdata;
        bool deletes, left;

        struct stores_wait *wait;
        struct image_job *image;
        struct offload *offload;
        struct vm_folder *folder;
        bool made_folder;
        bool made_disk[VM_DISKS_MAX];
        size_t next_disk;
};

/* For the child process of a deletion. */
struct delete_args {
        const char *store_name;
        const char *store_path;
        const char *store_id;
        const char *name;
        const char *uid;
        const char *host_uid;
        uint64_t known_epoch;
        const struct vm_config *config;
        struct stores *stores; /* for names, paths and ids alone */
        bool left;             /* see vm_delete_left() */
};

static void next_disk(struct creation *creation);

static void creation_free(struct creation *creation)
{
        if (!creation)
                return;
        list_remove(&creation->all);
        stores_wait_free(creation->wait);
        image_job_free(creation->image);
        offload_free(creation->offload);
        vm_folder_free(creation->folder);
        vm_config_free(creation->config);
        free(creation);
}
DEFINE_CLEANUP(struct creation *, creation_free)

void vm_create_cancel_all(struct agent *agent)
{
        struct creation *creation, *spare;

        list_for_each_safe (creation, spare, &agent->creations, all)
                creation_free(creation);
}

static void undo(struct creation *creation)
{
        const struct vm_config *config = creation->config;
        const struct datastore *store;

        for (size_t i = 0; i < config->n_disks; i++) {
                if (creation->made_disk[i] &&
                        stores_get(creation->agent->stores, config->disks[i].datastore, &store, NULL) == 0)
                        (void)beneath_unlink(store->fd, config->disks[i].path);
        }
        if (creation->made_folder &&
                stores_get(creation->agent->stores, config->datastore, &store, NULL) == 0)
                (void)vm_folder_delete(
                        store, config->name, config->uid, agent_host_uid(creation->agent), 0, NULL);
}

/* Takes the error over. */
static void finish(struct creation *creation, json_t *document, struct error *error)
{
        vm_create_fn done = creation->done;
        void *userdata = creation->userdata;

        error_about(&error, "vm/%s", creation->config->name);
        if (error && !creation->deletes)
                undo(creation);
        creation_free(creation);
        done(userdata, document, error);
        error_free(error);
}

static void finish_with(struct creation *creation, const struct error *cause)
{
        struct error *copy = NULL;

        (void)error_set(&copy, cause->code, cause->hint, "%s", error_message(cause));
        finish(creation, NULL, copy);
}

/* --- Create -------------------------------------------------------------------------------------------------- */

static void finish_created(struct creation *creation)
{
        _cleanup_json_ json_t *document = vm_config_to_json(creation->config);
        struct error *error = NULL;
        int r = document ? vm_folder_write_doc(creation->folder, document, &error) : -ENOMEM;

        if (r < 0 && !error)
                (void)error_from_errno(&error, r, "document of VM %s", creation->config->name);
        finish(creation, error ? NULL : document, error);
}

static void on_disk_made(void *userdata, const struct image_info *info, struct error *error)
{
        struct creation *creation = userdata;

        creation->image = NULL;
        if (error) {
                finish_with(creation, error);
                return;
        }
        creation->made_disk[creation->next_disk++] = true;
        next_disk(creation);
}

static int make_disk(struct creation *creation, struct error **ret_error)
{
        const struct vm_disk *disk = &creation->config->disks[creation->next_disk];
        enum image_format format = disk->format == VM_FORMAT_RAW ? IMAGE_RAW : IMAGE_QCOW2;
        const struct datastore *store;
        int r = stores_get(creation->agent->stores, disk->datastore, &store, ret_error);

        if (r < 0)
                return r;
        if (!disk->size_bytes)
                return error_set(ret_error, ERROR_NOT_FOUND,
                        "Give a size to have a new image made, or correct the path.",
                        "disk %s: there is no image %s on datastore %s", disk->name, disk->path,
                        disk->datastore);
        return image_create_start(creation->agent->loop, store, disk->path, format, disk->size_bytes,
                IMAGE_THIN, 0, on_disk_made, creation, &creation->image, ret_error);
}

static int check_disk(const struct vm_disk *disk, const struct image_info *info, struct error **ret_error)
{
        if (disk->size_bytes && info->virtual_bytes != disk->size_bytes)
                return error_set(ret_error, ERROR_CONFLICT, "Leave the size out to use the image as it is.",
                        "disk %s: image %s exists with %" PRIu64 " bytes, not %" PRIu64, disk->name,
                        disk->path, info->virtual_bytes, disk->size_bytes);
        if (info->corrupt)
                return error_set(ret_error, ERROR_CHECK_FAILED, "Repair it with qemu-img check.",
                        "disk %s: image %s is marked as corrupt", disk->name, disk->path);
        return 0;
}

static void on_disk_info(void *userdata, const struct image_info *info, struct error *error)
{
        struct creation *creation = userdata;
        struct vm_disk *disk = &creation->config->disks[creation->next_disk];
        struct error *failure = NULL;
        int r;

        creation->image = NULL;
        if (error && error->code == ERROR_NOT_FOUND) {
                if (make_disk(creation, &failure) < 0)
                        finish(creation, NULL, failure);
                return;
        }
        if (error) {
                finish_with(creation, error);
                return;
        }
        r = check_disk(disk, info, &failure);
        if (r < 0) {
                finish(creation, NULL, failure);
                return;
        }
        disk->size_bytes = info->virtual_bytes;
        creation->next_disk++;
        next_disk(creation);
}

static void next_disk(struct creation *creation)
{
        const struct vm_config *config = creation->config;
        const struct datastore *store;
        struct error *error = NULL;
        int r;

        if (creation->next_disk == config->n_disks) {
                finish_created(creation);
                return;
        }
        r = stores_get(creation->agent->stores, config->disks[creation->next_disk].datastore, &store, &error);
        if (r == 0)
                r = image_info_start(creation->agent->loop, store, config->disks[creation->next_disk].path,
                        config->disks[creation->next_disk].format == VM_FORMAT_RAW ? IMAGE_RAW : IMAGE_QCOW2,
                        0, on_disk_info, creation, &creation->image, &error);
        if (r == -ENOENT) { /* an image that is not there is noticed at the opening */
                error_free(TAKE_PTR(error));
                r = make_disk(creation, &error);
        }
        if (r < 0)
                finish(creation, NULL, error);
}

static int make_folder(struct creation *creation, struct error **ret_error)
{
        const struct vm_config *config = creation->config;
        _cleanup_json_ json_t *document = vm_config_to_json(config);
        const struct datastore *store;
        int r = document ? stores_get(creation->agent->stores, config->datastore, &store, ret_error)
                         : error_from_errno(ret_error, ENOMEM, "VM %s", config->name);

        if (r < 0)
                return r;
        creation->made_folder = vm_folder_open(store, config->name, config->uid, &creation->folder, NULL) < 0;
        if (creation->made_folder)
                r = vm_folder_create(
                        store, config->name, config->uid, document, &creation->folder, ret_error);
        if (r < 0) {
                creation->made_folder = false;
                return r;
        }
        if (config->firmware == VM_FIRMWARE_UEFI)
                return vm_folder_make_nvram(creation->folder, creation->agent->config.ovmf_vars, ret_error);
        return 0;
}

static void on_create_stores(void *userdata, struct error *error)
{
        struct creation *creation = userdata;
        struct error *failure = NULL;

        creation->wait = NULL;
        if (error)
                finish_with(creation, error);
        else if (make_folder(creation, &failure) < 0)
                finish(creation, NULL, failure);
        else
                next_disk(creation);
}

static int begin(struct agent *agent, const json_t *document, bool deletes, bool left, stores_done_fn next,
        vm_create_fn done, void *userdata, struct error **ret_error)
{
        _cleanup_(creation_freep) struct creation *creation = ALLOC(struct creation);
        _cleanup_free_ const char **names = NULL;
        size_t n_names;
        int r;

        if (!creation)
                return error_from_errno(ret_error, ENOMEM, "VM");
        *creation = (struct creation){
                .agent = agent, .done = done, .userdata = userdata, .deletes = deletes, .left = left};
        list_init(&creation->all);
        r = vm_config_from_json(document, &creation->config, ret_error);
        if (r < 0)
                return r;
        if (!creation->config->uid || !creation->config->datastore)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "VM %s needs a uid and a datastore",
                        creation->config->name);
        r = vm_store_names(creation->config, &names, &n_names);
        if (r < 0)
                return error_from_errno(ret_error, r, "VM %s", creation->config->name);
        r = stores_ensure(agent->stores, deletes ? (const char *const *)&creation->config->datastore : names,
                deletes ? 1 : n_names, next, creation, &creation->wait, ret_error);
        if (r < 0)
                return r;
        list_append(&agent->creations, &creation->all);
        TAKE_PTR(creation);
        return 0;
}

int vm_create(struct agent *agent, const json_t *document, vm_create_fn done, void *userdata,
        struct error **ret_error)
{
        return begin(agent, document, false, false, on_create_stores, done, userdata, ret_error);
}

/* --- Delete -------------------------------------------------------------------------------------------------- */

static int remove_copy(
        const struct delete_args *args, const char *store_name, const char *path, struct error **ret_error)
{
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        const struct datastore *known;
        _cleanup_error_ struct error *error = NULL;
        int r = stores_get(args->stores, store_name, &known, &error);

        if (r < 0 && error && error->code == ERROR_NOT_FOUND)
                return 0; /* this host has no such datastore any more */
        if (r < 0)
                return error_propagate(ret_error, TAKE_PTR(error));
        r = datastore_open(known->name, known->path, known->id, &store, ret_error);
        if (r >= 0)
                r = move_record_remove_image(store, path, ret_error);
        if (r >= 0)
                (void)unlinkat(store->fd, args->name, AT_REMOVEDIR); /* while it is empty */
        return r;
}

static bool is_in_folder(const struct delete_args *args, const struct vm_disk *disk)
{
        size_t n = strlen(args->name);

        return !disk->read_only && !strcmp(disk->datastore, args->store_name) &&
               !strncmp(disk->path, args->name, n) && disk->path[n] == '/';
}

/* Images that storage migrations made are nobody else's: those in the folder go with it, those elsewhere here, while the folder,
 * and in it the record that lists them, still stands. */
static int remove_copies(
        const struct delete_args *args, const struct vm_folder *folder, struct error **ret_error)
{
        _cleanup_(move_record_freep) struct move_record *record = NULL;
        int r = move_record_read(folder, &record, ret_error);

        for (size_t i = 0; r >= 0 && i < args->config->n_disks; i++) {
                const struct vm_disk *disk = &args->config->disks[i];

                if (args->left && disk->read_only) /* it did not travel */
                        continue;
                if (move_record_is_made_path(args->name, disk->path) ||
                        (args->left && is_in_folder(args, disk)))
                        r = remove_copy(args, disk->datastore, disk->path, ret_error);
        }
        for (size_t i = 0; r >= 0 && record && i < record->n_disks; i++)
                r = remove_copy(args, record->disks[i].to.datastore, record->disks[i].to.path, ret_error);
        return r;
}

/* In a child process, where every descriptor of the agent is closed: see offload.h. */
static int delete_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        const struct delete_args *args = arg;
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        int r = datastore_open(args->store_name, args->store_path, args->store_id, &store, ret_error);

        if (r < 0)
                return r;
        /* A folder that cannot be opened so is one that a deletion before has begun to remove, or none of ours. */
        if (vm_folder_open(store, args->name, args->uid, &folder, NULL) >= 0) {
                r = vm_folder_check_owner(folder, args->host_uid, args->known_epoch, ret_error);
                if (r >= 0)
                        r = remove_copies(args, folder, ret_error);
                if (r >= 0 && args->left)
                        r = move_record_remove(folder, ret_error);
                if (r >= 0 && args->left)
                        r = state_file_remove(folder, ret_error);
        }
        if (r >= 0 && args->left)
                return vm_folder_retire(
                        store, args->name, args->uid, args->host_uid, args->known_epoch, ret_error);
        return r < 0 ? r
                     : vm_folder_delete(
                               store, args->name, args->uid, args->host_uid, args->known_epoch, ret_error);
}

static void on_deleted(void *userdata, json_t *result, struct error *error)
{
        struct creation *creation = userdata;
        struct vm *vm = vm_find(creation->agent, creation->config->uid);

        creation->offload = NULL;
        if (error && error->code != ERROR_NOT_FOUND) {
                finish_with(creation, error);
                return;
        }
        checkpoints_set_keys(creation->agent->checkpoints, creation->config->uid, NULL);
        if (vm && !vm_has_qemu(vm) && !vm->job)
                vm_forget(vm);
        finish(creation, NULL, NULL);
}

static void on_delete_stores(void *userdata, struct error *error)
{
        struct creation *creation = userdata;
        const struct vm_config *config = creation->config;
        const struct datastore *store;
        struct delete_args args;
        struct error *failure = NULL;
        int r;

        creation->wait = NULL;
        if (error) {
                finish_with(creation, error);
                return;
        }
        r = stores_get(creation->agent->stores, config->datastore, &store, &failure);
        if (r == 0) {
                args = (struct delete_args){store->name, store->path, store->id, config->name, config->uid,
                        agent_host_uid(creation->agent), config->status.owner_epoch, config,
                        creation->agent->stores, creation->left};
                r = offload_start(creation->agent->loop, "deletion of a VM's folder", delete_in_child, &args,
                        DELETE_TIMEOUT_MS, on_deleted, creation, &creation->offload, &failure);
        }
        if (r < 0)
                finish(creation, NULL, failure);
}

int vm_delete(struct agent *agent, const json_t *document, bool left, vm_create_fn done, void *userdata,
        struct error **ret_error)
{
        const char *uid = json_string_value(json_object_get(document, "uid"));
        const struct vm *vm = uid ? vm_find(agent, uid) : NULL;

        if (uid && migration_vm_busy(agent, uid))
                return error_set(ret_error, ERROR_BUSY, "Wait for the migration, or cancel it.",
                        "VM %s is being migrated", uid);
        if (uid && storage_move_busy(agent, uid))
                return error_set(ret_error, ERROR_BUSY, "Wait for it to end, or cancel it.",
                        "the disks of VM %s are being moved", uid);
        if (vm && (vm_has_qemu(vm) || vm->job))
                return error_set(ret_error, ERROR_CONFLICT, "Stop it first.", "VM %s is %s", vm->name,
                        vm_power_to_string(vm_power(vm)));
        return begin(agent, document, true, left, on_delete_stores, done, userdata, ret_error);
}
