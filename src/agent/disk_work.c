/* SPDX-License-Identifier: Apache-2.0 */

/* A disk work is a job of the VM: nothing else can begin meanwhile. Its steps:
 *
 *   look     size and snapshots of each disk, from QEMU (query-block) or from the image's header (qemu-img info)
 *   decide   refuse, or nothing is left to be done, or
 *   change   one command of QEMU each, all new snapshots in one transaction; or one qemu-img each, before each of which the VM's folder is
 *            asked again: another host may have been given the VM, and have started it, while this one waited for its storage
 *   look     again: is it as it was wanted?
 *
 * Nothing of it is kept anywhere but in the images: after a crash the first look tells how far it got. */

#include "agent/disk_work.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/api.h"
#include "agent/identity.h"
#include "agent/migration.h"
#include "agent/storage_move.h"
#include "agent/stores.h"
#include "agent/vm_job.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/crash_point.h"
#include "storage/image.h"
#include "storage/move_record.h"
#include "storage/offload.h"
#include "storage/opening.h"
#include "storage/state_file.h"
#include "storage/vm_folder.h"
#include "vmm/command_line.h"
#include "vmm/qmp.h"

#define QMP_TIMEOUT_MS 30000
/* QEMU answers nothing while it changes an image's metadata: the reference counts of all that a large disk has written. */
#define CHANGE_TIMEOUT_MS 300000
#define FOLDER_TIMEOUT_MS 30000
#define OPEN_TIMEOUT_MS 30000
#define SNAPSHOT_NAME_MAX 127
#define PLACE_NAME_SIZE 512
#define ID_SIZE 32

enum kind { RESIZE, SNAPSHOT, REVERT, DELETE, N_KINDS };
static const char *const kind_names[] = {"resize", "snapshot", "revert", "delete"};
static_assert(ARRAY_SIZE(kind_names) == N_KINDS, "every kind has a name");

struct worked_disk {
        const struct vm_disk *disk; /* in the config */
        size_t index;               /* and its number there */
        char node[COMMAND_LINE_NODE_SIZE];
        uint64_t size_bytes;
        bool has_snapshot;
};

struct disk_work {
        struct vm *vm;
        struct http_request *request;
        struct vm_config *config; /* of the request: the agent need not have heard of the VM, or not lately */
        enum kind kind;
        char *snapshot;
        uint64_t size_bytes;
        struct worked_disk disks[VM_DISKS_MAX];
        size_t n_disks;
        size_t at;
        bool live;
        bool made_vm; /* only for this */
        bool touched; /* an image may have been changed */
        bool changed; /* all were, and are being looked at again */

        struct stores_wait *wait;
        struct offload *offload;
        struct opening *opening;
        struct image_job *image;
};

static void look(struct disk_work *w);
static void look_next(struct disk_work *w);
static void change_next(struct disk_work *w);

void disk_work_free(struct disk_work *w)
{
        if (!w)
                return;
        stores_wait_free(w->wait);
        offload_free(w->offload);
        opening_free(w->opening);
        image_job_free(w->image);
        vm_config_free(w->config);
        free(w->snapshot);
        free(w);
}
DEFINE_CLEANUP(struct disk_work *, disk_work_free)

/* --- End ----------------------------------------------------------------------------------------------------- */

/* Of the job: only with an error, such as QEMU's end. */
static void on_job_ended(void *userdata, struct error *error)
{
        api_reply_error_copy(userdata, error);
}

/* The others mean that nothing was changed by this call. */
static bool may_come_late(enum error_code code)
{
        return code == ERROR_LOCKED || code == ERROR_NO_SPACE || code == ERROR_TIMED_OUT ||
               code == ERROR_QEMU_FAILED || code == ERROR_QEMU_DIED;
}

/* `error` is taken over; NULL: no memory. */
static void fail(struct disk_work *w, struct error *error)
{
        struct vm *vm = w->vm;
        bool made = w->made_vm, live = w->live;

        if (!error)
                (void)error_from_errno(&error, ENOMEM, "disks of VM %s", vm->name);
        /* A monitor that does not answer is no host that cannot be reached. */
        if (error && (error->code == ERROR_UNREACHABLE || (w->touched && !may_come_late(error->code))))
                error->code = ERROR_QEMU_FAILED;
        vm_job_end(vm, error); /* frees the work */
        if (made)
                vm_free(vm);
        else if (live && vm->qmp && qmp_is_ready(vm->qmp))
                vm_refresh(vm); /* as after a success: while there was a job, nothing of it was heeded */
}

static void fail_with(struct disk_work *w, const struct error *cause)
{
        struct error *copy = NULL;

        (void)error_set(&copy, cause->code, cause->hint, "%s", error_message(cause));
        fail(w, copy);
}

/* What this host says of the VM is what the manager takes its document from. */
static void take_sizes(const struct disk_work *w)
{
        struct vm_config *config = w->vm->config;

        for (size_t i = 0; i < w->n_disks; i++)
                for (size_t k = 0; k < config->n_disks; k++)
                        if (!strcmp(config->disks[k].path, w->disks[i].disk->path) &&
                                !strcmp(config->disks[k].datastore, w->disks[i].disk->datastore))
                                config->disks[k].size_bytes = w->disks[i].size_bytes;
        if (!w->made_vm)
                vm_changed(w->vm);
}

static void succeed(struct disk_work *w)
{
        _cleanup_json_ json_t *disks = json_array();
        struct http_request *request = w->request;
        bool made = w->made_vm, live = w->live;
        struct vm *vm = w->vm;

        for (size_t i = 0; disks && i < w->n_disks; i++)
                if (json_array_append_new(disks, json_pack("{s:s, s:I}", "name", w->disks[i].disk->name,
                                                         "size_bytes", (json_int_t)w->disks[i].size_bytes)) <
                        0) {
                        fail(w, NULL);
                        return;
                }
        assert(w->kind < N_KINDS);
        log_info("VM %s: %s of its disks is done", vm->name, kind_names[w->kind]);
        take_sizes(w);
        vm_job_drop(vm); /* frees the work */
        if (made)
                vm_free(vm);
        else if (live)
                vm_refresh(vm); /* what QEMU did by itself meanwhile */
        api_reply_json(request, 200, json_pack("{s:O, s:b}", "disks", disks, "live", live));
}

/* --- Decide -------------------------------------------------------------------------------------------------- */

static size_t n_with_snapshot(const struct disk_work *w)
{
        size_t n = 0;

        for (size_t i = 0; i < w->n_disks; i++)
                n += w->disks[i].has_snapshot;
        return n;
}

static bool is_as_wanted(const struct disk_work *w)
{
        switch (w->kind) {
        case RESIZE:
                return w->disks[0].size_bytes == w->size_bytes;
        case SNAPSHOT:
                return n_with_snapshot(w) == w->n_disks;
        case DELETE:
                return n_with_snapshot(w) == 0;
        case REVERT:
        case N_KINDS:
                break;
        }
        return w->changed;
}

/* A reason why nothing can be done, or 0. */
static int check_possible(const struct disk_work *w, struct error **ret_error)
{
        const struct worked_disk *first = &w->disks[0];
        char have[16], wanted[16];

        if (w->kind == RESIZE && w->size_bytes < first->size_bytes)
                return error_set(ret_error, ERROR_CONFLICT,
                        "To shrink it, make a smaller disk, copy what is in it from within the guest, and "
                        "use that one.",
                        "disk %s has %s (%" PRIu64
                        " bytes) and cannot be made smaller (%s): what the guest has at its end would be "
                        "lost",
                        first->disk->name, text_format_size(first->size_bytes, have), first->size_bytes,
                        text_format_size(w->size_bytes, wanted));
        for (size_t i = 0; w->kind == REVERT && i < w->n_disks; i++)
                if (!w->disks[i].has_snapshot)
                        return error_set(ret_error, ERROR_NOT_FOUND,
                                "Revert to another snapshot, and delete this one.",
                                "the image of disk %s does not have the snapshot %s: it was removed, or the "
                                "image "
                                "was replaced, by somebody else",
                                w->disks[i].disk->name, w->snapshot);
        return 0;
}

static void on_hold_over(void *userdata)
{
        struct disk_work *w = userdata;

        crash_hold_free(TAKE_PTR(w->vm->job->hold));
        change_next(w);
}

static void begin_change(struct disk_work *w)
{
        w->at = 0;
        if (!crash_point_hold(w->vm->agent->loop, "disk-work-looked", on_hold_over, w, &w->vm->job->hold))
                change_next(w);
}

static void looked(struct disk_work *w)
{
        struct error *error = NULL;

        if (is_as_wanted(w))
                succeed(w);
        else if (w->changed) {
                (void)error_set(&error, ERROR_QEMU_FAILED, "Look at the image with qemu-img info.",
                        "after the %s, an image of VM %s is not as it should be", kind_names[w->kind],
                        w->vm->name);
                fail(w, error);
        } else if (check_possible(w, &error) < 0)
                fail(w, error);
        else
                begin_change(w);
}

static void changed(struct disk_work *w)
{
        crash_point("disk-work-changed");
        w->changed = true;
        look(w);
}

/* Whether the change has something to do with this disk. */
static bool concerns(const struct disk_work *w, const struct worked_disk *disk)
{
        return w->kind == DELETE ? disk->has_snapshot : w->kind == SNAPSHOT ? !disk->has_snapshot : true;
}

/* --- A VM that has a QEMU -------------------------------------------------------------------------------------- */

static void command(
        struct disk_work *w, const char *name, json_t *arguments, uint64_t timeout_ms, qmp_reply_fn reply)
{
        struct error *error = NULL;

        if (!w->vm->qmp) {
                json_decref(arguments);
                (void)error_set(
                        &error, ERROR_UNREACHABLE, NULL, "the monitor of VM %s does not answer", w->vm->name);
                fail(w, error);
        } else if (qmp_command(w->vm->qmp, name, arguments, -1, timeout_ms, reply, w, &w->vm->job->call,
                           &error) < 0)
                fail(w, error);
}

static void take_disk(const struct disk_work *w, struct worked_disk *disk, const json_t *inserted)
{
        const json_t *image = json_object_get(inserted, "image");
        const char *node = json_string_value(json_object_get(inserted, "node-name"));
        _cleanup_json_ json_t *snapshots = image_snapshot_names(image);

        snprintf(disk->node, sizeof(disk->node), "%s", node ?: "");
        disk->size_bytes =
                (uint64_t)MAX(json_integer_value(json_object_get(image, "virtual-size")), (json_int_t)0);
        disk->has_snapshot = w->snapshot && doc_has_string(snapshots, w->snapshot);
}

static void on_blocks(void *userdata, const json_t *result, const struct error *error)
{
        struct disk_work *w = userdata;
        struct error *failure = NULL;

        w->vm->job->call = NULL;
        if (error) {
                fail_with(w, error);
                return;
        }
        for (size_t i = 0; i < w->n_disks; i++) {
                struct worked_disk *disk = &w->disks[i];
                json_t *device;
                size_t k;

                disk->node[0] = '\0';
                json_array_foreach ((json_t *)result, k, device) {
                        const char *qdev = json_string_value(json_object_get(device, "qdev"));

                        if (qdev && command_line_is_disk_device(qdev, disk->index))
                                take_disk(w, disk, json_object_get(device, "inserted"));
                }
                if (!disk->node[0] || !disk->size_bytes) {
                        (void)error_set(&failure, ERROR_QEMU_FAILED, NULL, "QEMU says nothing of disk %s",
                                disk->disk->name);
                        fail(w, failure);
                        return;
                }
        }
        looked(w);
}

static bool is_full(const char *words)
{
        return strstr(words, "No space left") || strstr(words, "quota exceeded");
}

static void change_failed(struct disk_work *w, const struct error *error)
{
        struct error *failure = NULL;

        if (is_full(error_message(error)))
                (void)error_set(&failure, ERROR_NO_SPACE, "Free space on it.",
                        "there is no room left on a datastore of VM %s", w->vm->name);
        else
                (void)error_set(&failure, error->code, error->hint, "%s of the disks of VM %s: %s",
                        kind_names[w->kind], w->vm->name, error_message(error));
        fail(w, failure);
}

static void on_one_changed(void *userdata, const json_t *result, const struct error *error)
{
        struct disk_work *w = userdata;

        w->vm->job->call = NULL;
        if (error) {
                change_failed(w, error);
                return;
        }
        w->at++;
        change_next(w);
}

static void on_all_changed(void *userdata, const json_t *result, const struct error *error)
{
        struct disk_work *w = userdata;

        w->vm->job->call = NULL;
        if (error)
                change_failed(w, error);
        else
                changed(w);
}

/* One point in time for all: QEMU makes them while the guest's writes wait, or makes none. */
static void make_all(struct disk_work *w)
{
        _cleanup_json_ json_t *actions = json_array();

        for (size_t i = 0; actions && i < w->n_disks; i++)
                if (json_array_append_new(actions,
                            json_pack("{s:s, s:{s:s, s:s}}", "type", "blockdev-snapshot-internal-sync",
                                    "data", "device", w->disks[i].node, "name", w->snapshot)) < 0) {
                        fail(w, NULL);
                        return;
                }
        command(w, "transaction", json_pack("{s:O}", "actions", actions), CHANGE_TIMEOUT_MS, on_all_changed);
}

/* What a try that broke off has left of a new snapshot is of another moment. */
static void change_next_live(struct disk_work *w)
{
        struct worked_disk *disk;

        while (w->at < w->n_disks && w->kind != RESIZE && !w->disks[w->at].has_snapshot)
                w->at++;
        if (w->at == w->n_disks) {
                if (w->kind == SNAPSHOT)
                        make_all(w);
                else
                        changed(w);
                return;
        }
        disk = &w->disks[w->at];
        if (w->kind == RESIZE)
                command(w, "block_resize",
                        json_pack("{s:s, s:I}", "node-name", disk->node, "size", (json_int_t)w->size_bytes),
                        CHANGE_TIMEOUT_MS, on_one_changed);
        else
                command(w, "blockdev-snapshot-delete-internal-sync",
                        json_pack("{s:s, s:s}", "device", disk->node, "name", w->snapshot), CHANGE_TIMEOUT_MS,
                        on_one_changed);
}

/* --- A VM that is off ---------------------------------------------------------------------------------------- */

static enum image_format format_of(const struct vm_disk *disk)
{
        return disk->format == VM_FORMAT_RAW ? IMAGE_RAW : IMAGE_QCOW2;
}

static void name_of(const struct vm_disk *disk, char ret[static PLACE_NAME_SIZE])
{
        snprintf(ret, PLACE_NAME_SIZE, "%s: %s", disk->datastore, disk->path);
}

static int open_image(struct disk_work *w, int flags, opening_done_fn done, struct error **ret_error)
{
        const struct vm_disk *disk = w->disks[w->at].disk;
        struct opening_file file = {
                .path = disk->path, .flags = flags, .is_image = true, .format = format_of(disk)};
        int r = stores_get(w->vm->agent->stores, disk->datastore, &file.datastore, ret_error);

        return r < 0 ? r
                     : opening_start(w->vm->agent->loop, &file, 1, OPEN_TIMEOUT_MS, done, w, &w->opening,
                               ret_error);
}

static void on_info(void *userdata, const struct image_info *info, struct error *error)
{
        struct disk_work *w = userdata;
        struct worked_disk *disk = &w->disks[w->at];
        struct error *failure = NULL;

        w->image = NULL;
        if (error) {
                fail_with(w, error);
                return;
        }
        if (info->corrupt) {
                (void)error_set(&failure, ERROR_CHECK_FAILED, "Repair it with qemu-img check.",
                        "disk %s: its image is marked as corrupt", disk->disk->name);
                fail(w, failure);
                return;
        }
        disk->size_bytes = info->virtual_bytes;
        disk->has_snapshot = w->snapshot && doc_has_string(info->snapshots, w->snapshot);
        w->at++;
        look_next(w);
}

static void on_opened_to_look(void *userdata, const int *fds, struct error *error)
{
        struct disk_work *w = userdata;
        const struct vm_disk *disk = w->disks[w->at].disk;
        struct error *failure = NULL;
        char name[PLACE_NAME_SIZE];

        w->opening = NULL;
        name_of(disk, name);
        if (error)
                fail_with(w, error);
        else if (image_info_opened(w->vm->agent->loop, name, fds[0], format_of(disk), on_info, w, &w->image,
                         &failure) < 0)
                fail(w, failure);
}

static void look_next(struct disk_work *w)
{
        struct error *error = NULL;

        if (w->at == w->n_disks)
                looked(w);
        else if (open_image(w, O_RDONLY, on_opened_to_look, &error) < 0)
                fail(w, error);
}

static void on_changed(void *userdata, const struct image_info *info, struct error *error)
{
        struct disk_work *w = userdata;

        w->image = NULL;
        if (error) {
                fail_with(w, error);
                return;
        }
        crash_point("disk-work-between");
        w->at++;
        change_next(w);
}

static void on_opened_to_change(void *userdata, const int *fds, struct error *error)
{
        static const enum image_snapshot_verb verbs[] = {[SNAPSHOT] = IMAGE_SNAPSHOT_CREATE,
                [REVERT] = IMAGE_SNAPSHOT_APPLY,
                [DELETE] = IMAGE_SNAPSHOT_DELETE};
        struct disk_work *w = userdata;
        const struct vm_disk *disk = w->disks[w->at].disk;
        struct loop *loop = w->vm->agent->loop;
        struct error *failure = NULL;
        char name[PLACE_NAME_SIZE];
        int r;

        w->opening = NULL;
        name_of(disk, name);
        if (error) {
                fail_with(w, error);
                return;
        }
        if (w->kind == RESIZE)
                r = image_resize_opened(loop, name, fds[0], format_of(disk), w->size_bytes, on_changed, w,
                        &w->image, &failure);
        else
                r = image_snapshot_opened(
                        loop, name, fds[0], verbs[w->kind], w->snapshot, on_changed, w, &w->image, &failure);
        if (r < 0)
                fail(w, failure);
}

/* For the child process. */
struct folder_args {
        const struct datastore *store;
        const struct vm_config *config;
        const char *host_uid;
        const json_t *document;
};

/* Whether the VM is off also for those who cannot be asked: no other host has it, no memory waits for these disks, and they are its disks. The
 * lock, as it is the only view of the record that is no old one, is given back at once: what comes next may take minutes. */
static int check_folder(void *arg, json_t **ret_result, struct error **ret_error)
{
        const struct folder_args *args = arg;
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        _cleanup_fd_ int lock_fd = -1;
        int r = datastore_open(args->store->name, args->store->path, args->store->id, &store, ret_error);

        if (r >= 0)
                r = vm_folder_open(store, args->config->name, args->config->uid, &folder, ret_error);
        if (r >= 0)
                r = vm_folder_wait_lock_owner(
                        folder, args->host_uid, args->config->status.owner_epoch, &lock_fd, ret_error);
        if (r >= 0)
                r = state_file_check_none(folder, ret_error);
        return r < 0 ? r : move_record_check_document(folder, args->document, ret_error);
}

static int ask_folder(struct disk_work *w, offload_done_fn done, struct error **ret_error)
{
        struct agent *agent = w->vm->agent;
        _cleanup_json_ json_t *document = vm_config_to_json(w->config);
        struct folder_args args = {
                .config = w->config, .host_uid = agent_host_uid(agent), .document = document};
        int r = document ? stores_get(agent->stores, w->config->datastore, &args.store, ret_error) : -ENOMEM;

        return r < 0 ? r
                     : offload_start(agent->loop, "disk work", check_folder, &args, FOLDER_TIMEOUT_MS, done,
                               w, &w->offload, ret_error);
}

static void on_folder_asked_again(void *userdata, json_t *result, struct error *error)
{
        struct disk_work *w = userdata;
        struct error *failure = NULL;

        w->offload = NULL;
        if (error) {
                fail_with(w, error);
                return;
        }
        w->touched = true;
        if (open_image(w, O_RDWR, on_opened_to_change, &failure) < 0)
                fail(w, failure);
}

static void change_next(struct disk_work *w)
{
        struct error *error = NULL;

        if (w->live) {
                w->touched = true;
                change_next_live(w);
                return;
        }
        while (w->at < w->n_disks && !concerns(w, &w->disks[w->at]))
                w->at++;
        if (w->at == w->n_disks)
                changed(w);
        else if (ask_folder(w, on_folder_asked_again, &error) < 0)
                fail(w, error);
}

static void look(struct disk_work *w)
{
        w->at = 0;
        if (w->live)
                command(w, "query-block", NULL, QMP_TIMEOUT_MS, on_blocks);
        else
                look_next(w);
}

static void on_folder_checked(void *userdata, json_t *result, struct error *error)
{
        struct disk_work *w = userdata;

        w->offload = NULL;
        if (error)
                fail_with(w, error);
        else
                look(w);
}

static void on_stores(void *userdata, struct error *error)
{
        struct disk_work *w = userdata;
        struct error *failure = NULL;

        w->wait = NULL;
        if (error)
                fail_with(w, error);
        else if (ask_folder(w, on_folder_checked, &failure) < 0)
                fail(w, failure);
}

/* --- Begin --------------------------------------------------------------------------------------------------- */

static int add_disk(struct disk_work *w, const char *name, struct error **ret_error)
{
        for (size_t i = 0; i < w->config->n_disks; i++) {
                const struct vm_disk *disk = &w->config->disks[i];

                if (strcmp(disk->name, name) != 0)
                        continue;
                if (disk->read_only)
                        return error_set(ret_error, ERROR_NOT_SUPPORTED, NULL,
                                "disk %s is read-only: others may use its image", name);
                if (w->kind != RESIZE && disk->format != VM_FORMAT_QCOW2)
                        return error_set(ret_error, ERROR_NOT_SUPPORTED,
                                "Convert it: drover vm migrate VM --to-datastore DATASTORE --format qcow2.",
                                "disk %s is %s, which cannot hold snapshots", name,
                                vm_format_to_string(disk->format));
                w->disks[w->n_disks++] = (struct worked_disk){.disk = disk, .index = i};
                return 0;
        }
        return error_set(ret_error, ERROR_NOT_FOUND, NULL, "VM %s has no disk %.64s", w->config->name, name);
}

static int read_disks(struct disk_work *w, const json_t *body, struct error **ret_error)
{
        json_t *names = NULL, *name;
        size_t i;
        int r = doc_opt_array(body, "", "disks", VM_DISKS_MAX, &names, ret_error);

        json_array_foreach (names, i, name)
                if (r >= 0)
                        r = add_disk(w, json_string_value(name) ?: "", ret_error);
        if (r >= 0 && (!w->n_disks || (w->kind == RESIZE && w->n_disks != 1)))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field disks has not as many as it needs");
        return r;
}

static int read_kind(struct disk_work *w, const json_t *body, struct error **ret_error)
{
        const char *kind = NULL, *snapshot = NULL;
        int r = doc_opt_string(body, "", "work", ID_SIZE, &kind, ret_error);

        if (r >= 0)
                r = doc_opt_string(body, "", "snapshot", SNAPSHOT_NAME_MAX, &snapshot, ret_error);
        if (r < 0)
                return r;
        while (w->kind < N_KINDS && strcmp(kind_names[w->kind], kind ?: "") != 0)
                w->kind++;
        if (w->kind == N_KINDS)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field work is none that is known");
        if (w->kind == RESIZE)
                return doc_need_u64(body, "", "size_bytes", 1, IMAGE_MAX_BYTES, &w->size_bytes, ret_error);
        /* What qemu-img would take for an option, or for a number of its own. */
        if (!snapshot || !text_is_name(snapshot))
                return error_set(
                        ret_error, ERROR_BAD_DOCUMENT, NULL, "field snapshot must be the name of one");
        w->snapshot = alloc_strdup(snapshot);
        return w->snapshot ? 0 : error_from_errno(ret_error, ENOMEM, "disk work");
}

static int read_request(const json_t *body, struct disk_work **ret, struct error **ret_error)
{
        static const char *const keys[] = {"vm", "work", "disks", "snapshot", "size_bytes", NULL};
        _cleanup_(disk_work_freep) struct disk_work *w = ALLOC(struct disk_work);
        int r = w ? doc_only_keys(body, "", keys, ret_error) : error_from_errno(ret_error, ENOMEM, "disks");

        if (r >= 0)
                r = vm_config_from_json(json_object_get(body, "vm"), &w->config, ret_error);
        if (r >= 0 && (!w->config->uid || !w->config->datastore))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "the VM needs a uid and a datastore");
        if (r >= 0)
                r = read_kind(w, body, ret_error);
        if (r >= 0)
                r = read_disks(w, body, ret_error);
        if (r < 0)
                return r;
        w->size_bytes = (w->size_bytes + 511) / 512 * 512;
        *ret = TAKE_PTR(w);
        return 0;
}

static int check_live(const struct disk_work *w, const struct vm *vm, struct error **ret_error)
{
        if (w->kind == REVERT)
                return error_set(ret_error, ERROR_CONFLICT, "Stop it first.",
                        "VM %s runs: its disks cannot be reverted below its guest", vm->name);
        if (vm_power(vm) != VM_POWER_RUNNING && vm_power(vm) != VM_POWER_PAUSED)
                return error_set(ret_error, ERROR_CONFLICT, NULL, "VM %s is %s", vm->name,
                        vm_power_to_string(vm_power(vm)));
        if (!vm->qmp || !qmp_is_ready(vm->qmp))
                return error_set(
                        ret_error, ERROR_QEMU_FAILED, NULL, "the monitor of VM %s does not answer", vm->name);
        if (json_array_size(vm->jobs))
                return error_set(ret_error, ERROR_BUSY, "Wait for it to end.",
                        "QEMU works on a disk of VM %s already", vm->name);
        if (!vm_config_same_disks(w->config, vm->config))
                return error_set(ret_error, ERROR_CONFLICT, "Stop and start it, so that both agree.",
                        "VM %s runs with other disks than its document names", vm->name);
        return 0;
}

static int check_vm(struct disk_work *w, struct agent *agent, struct error **ret_error)
{
        const struct vm *vm = vm_find(agent, w->config->uid);
        const char *name = w->config->name;

        if (migration_vm_busy(agent, w->config->uid))
                return error_set(ret_error, ERROR_BUSY, "Wait for the migration, or cancel it.",
                        "VM %s is being migrated", name);
        if (storage_move_busy(agent, w->config->uid))
                return error_set(ret_error, ERROR_BUSY, "Wait for it to end, or cancel it.",
                        "the disks of VM %s are being moved", name);
        w->live = vm && vm_has_qemu(vm);
        if (w->live)
                return check_live(w, vm, ret_error);
        /* Of one that this host does not know the manager says that it is off. */
        if (!vm && w->config->status.power != VM_POWER_STOPPED && w->config->status.power != VM_POWER_CRASHED)
                return error_set(ret_error, ERROR_CONFLICT, NULL,
                        "VM %s is %s, by its document, and not known to this host", name,
                        vm_power_to_string(w->config->status.power));
        if (vm && vm_power(vm) != VM_POWER_STOPPED && vm_power(vm) != VM_POWER_CRASHED)
                return error_set(ret_error, ERROR_CONFLICT, NULL, "VM %s is %s", name,
                        vm_power_to_string(vm_power(vm)));
        return 0;
}

/* One that this host does not know is made for as long as it takes. */
static int find_or_make(struct disk_work *w, struct agent *agent, struct error **ret_error)
{
        _cleanup_(vm_config_freep) struct vm_config *config = NULL;
        _cleanup_json_ json_t *document = NULL;
        int r;

        w->vm = vm_find(agent, w->config->uid);
        if (w->vm)
                return 0;
        document = vm_config_to_json(w->config);
        r = document ? vm_config_from_json(document, &config, ret_error)
                     : error_from_errno(ret_error, ENOMEM, "VM %s", w->config->name);
        if (r < 0)
                return r;
        r = vm_new(agent, config, &w->vm);
        if (r < 0)
                return error_from_errno(ret_error, r, "VM %s", w->config->name);
        TAKE_PTR(config);
        w->made_vm = true;
        return 0;
}

/* Opening what QEMU has open already is not needed; whether its datastore answers, QEMU's command tells. */
static int start(struct disk_work *w, struct error **ret_error)
{
        _cleanup_free_ const char **names = NULL;
        size_t n_names;
        int r;

        if (w->live)
                return qmp_command(w->vm->qmp, "query-block", NULL, -1, QMP_TIMEOUT_MS, on_blocks, w,
                        &w->vm->job->call, ret_error);
        r = vm_store_names(w->config, &names, &n_names);
        if (r < 0)
                return error_from_errno(ret_error, r, "VM %s", w->config->name);
        return stores_ensure(w->vm->agent->stores, names, n_names, on_stores, w, &w->wait, ret_error);
}

/* On failure nothing was begun, and nothing is left. */
static int begin(
        struct agent *agent, struct http_request *request, struct disk_work *work, struct error **ret_error)
{
        _cleanup_(disk_work_freep) struct disk_work *w = work;
        struct vm *made;
        int r = check_vm(w, agent, ret_error);

        if (r >= 0)
                r = find_or_make(w, agent, ret_error);
        if (r < 0)
                return r;
        made = w->made_vm ? w->vm : NULL;
        w->request = request;
        r = vm_job_begin(w->vm, VM_JOB_DISKS, on_job_ended, request, ret_error);
        if (r >= 0) {
                w->vm->job->disks = w;
                r = start(w, ret_error);
                if (r < 0) {
                        w->vm->job->disks = NULL;
                        vm_job_drop(w->vm);
                }
        }
        if (r < 0) {
                vm_free(made);
                return r;
        }
        TAKE_PTR(w);
        return 0;
}

void api_vm_disk_work(struct http_request *request, void *userdata)
{
        const char *uid = http_request_param(request, "uid");
        struct disk_work *w = NULL;
        struct error *error = NULL;
        json_t *body = NULL;
        int r = http_request_json(request, &body, &error);

        if (r >= 0)
                r = read_request(body, &w, &error);
        if (r >= 0 && strcmp(w->config->uid, uid) != 0) {
                disk_work_free(w);
                r = error_set(&error, ERROR_BAD_DOCUMENT, NULL,
                        "the document's uid is not the path's (%.64s)", uid);
        } else if (r >= 0) {
                _cleanup_free_ char *name = alloc_strdup(w->config->name);

                r = begin(userdata, request, w, &error);
                error_about(&error, "vm/%s", name ?: "");
        }
        if (r < 0)
                api_reply_error(request, error);
}
