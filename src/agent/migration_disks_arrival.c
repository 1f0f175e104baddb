/* SPDX-License-Identifier: Apache-2.0 */

/* The destination of disks that travel along: a folder with an owner record of its own that names the source, and new images, before QEMU is started;
 * exports of them for the mover, until it has written all; and the removal of all that if the VM stays at the source. */

#include "agent/migration_disks.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/stores.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "storage/image.h"
#include "storage/move_record.h"
#include "storage/offload.h"
#include "storage/vm_folder.h"

#define WORK_TIMEOUT_MS 60000
#define REMOVALS_MAX 5 /* where a datastore does not answer, or something still holds an image */
#define SPARE_BYTES (UINT64_C(16) << 20) /* for what the guest adds meanwhile, and drover's own files */

/* For the children, which have the agent's memory as it was. */
struct work {
        const struct migration *m;
        const char *store_name, *store_path, *store_id;
        const char *host_uid;
        int64_t now_unix_ms;
};

static void next_image(struct migration *m);

static const char *name_of(const struct migration *m)
{
        return json_string_value(json_object_get(m->disks->document, "name")) ?: "";
}

static const json_t *disk_of(const struct migration *m, size_t number)
{
        return json_array_get(json_object_get(json_object_get(m->disks->document, "spec"), "disks"),
                m->disks->indexes[number]);
}

static const char *path_of(const struct migration *m, size_t number)
{
        return json_string_value(json_object_get(disk_of(m, number), "path")) ?: "";
}

static void arrival_failed(struct migration *m, struct error *error)
{
        migration_disks_cancel(m);
        migration_destination_failed(m, error);
}

static void arrival_failed_with(struct migration *m, const struct error *error)
{
        struct error *copy = NULL;

        error_set(&copy, error->code, error->hint, "%s", error_message(error));
        arrival_failed(m, copy);
}

/* The id, unless the folder is the one that the VM has already. */
static int open_store(struct migration *m, const struct datastore **ret, struct error **ret_error)
{
        int r = stores_get(m->agent->stores, m->disks->datastore, ret, ret_error);

        if (r < 0 || strcmp((*ret)->id, m->disks->left_store) != 0)
                return r;
        return error_set(ret_error, ERROR_CONFLICT,
                "Migrate it without the disks; then move those that have to be moved.",
                "the virtual machine's folder is on datastore %s already", m->disks->datastore);
}

/* --- Making -------------------------------------------------------------------------------------------------- */

/* Its record names the source with its epoch, whatever an earlier stay of the VM left here. */
static int write_record(const struct work *work, const struct vm_folder *folder, struct error **ret_error)
{
        uint64_t epoch = work->m->epoch;
        struct vm_owner owner;
        int r = vm_folder_read_owner(folder, &owner, ret_error);

        if (r < 0)
                return r;
        if (owner.epoch == epoch && !strcmp(owner.host, work->m->peer_uid))
                return 0;
        return vm_folder_take_owner(
                folder, work->m->peer_uid, epoch - 1, epoch, work->now_unix_ms, ret_error);
}

/* Images in a folder that was there before may be a running guest's, this one's included. */
static int refuse_folder(const struct work *work, const struct datastore *store, struct error **ret_error)
{
        bool holds = false;
        int r = vm_folder_holds_files(store, name_of(work->m), &holds, ret_error);

        if (r < 0 || !holds)
                return r;
        return error_set(ret_error, ERROR_EXISTS,
                "Choose another datastore; or find out whose the files there are, which a running virtual "
                "machine may be using.",
                "there is a folder %s with files on datastore %s already", name_of(work->m), store->name);
}

/* What its images are to take of the datastore: an earlier version says only how large they are. */
static uint64_t wanted_bytes(const struct migration *m, size_t number)
{
        const json_t *from = json_object_get(m->spec, "disks_from");
        const json_t *list = json_object_get(from, "used") ?: json_object_get(from, "sizes");

        return (uint64_t)MAX(json_integer_value(json_array_get(list, number)), (json_int_t)0);
}

struct promise {
        const struct migration *except;
        const struct datastore *store;
        uint64_t bytes;
};

/* What others that come to the same datastore have not taken of it yet. */
static void add_promised(void *userdata, struct migration *m)
{
        struct promise *promise = userdata;

        if (m == promise->except || m->role != MIGRATION_DESTINATION_SIDE || !m->disks || m->settled ||
                m->record != HANDOFF_PREPARED || strcmp(m->disks->datastore, promise->store->name) != 0)
                return;
        for (size_t i = 0; i < m->disks->n; i++) {
                uint64_t wanted = wanted_bytes(m, i), there = 0;

                if (m->disks->document)
                        (void)move_record_allocated(promise->store, path_of(m, i), &there);
                promise->bytes += wanted - MIN(there, wanted);
        }
}

static int check_room(const struct work *work, const struct datastore *store, struct error **ret_error)
{
        struct promise promise = {.except = work->m, .store = store};
        uint64_t needed = SPARE_BYTES;
        struct datastore_status status;
        char text[3][16];
        int r = datastore_stat(store, &status, ret_error);

        if (r < 0)
                return r;
        migration_for_each(work->m->agent, add_promised, &promise);
        for (size_t i = 0; i < work->m->disks->n; i++)
                needed += wanted_bytes(work->m, i);
        if (status.free_bytes >= needed + promise.bytes)
                return 0;
        return error_set(ret_error, ERROR_NO_SPACE, "Free space on it, or choose another datastore.",
                "the disks need %s on datastore %s, which has %s free, %s of it promised to others",
                text_format_size(needed, text[0]), store->name, text_format_size(status.free_bytes, text[1]),
                text_format_size(promise.bytes, text[2]));
}

static int make_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        const struct work *work = arg;
        const struct migration *m = work->m;
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        int r = datastore_open(work->store_name, work->store_path, work->store_id, &store, ret_error);

        if (r >= 0)
                r = check_room(work, store, ret_error);
        if (r >= 0)
                r = refuse_folder(work, store, ret_error);
        if (r >= 0)
                r = vm_folder_create(store, name_of(m), m->vm_uid, m->disks->document, &folder, ret_error);
        if (r >= 0)
                r = write_record(work, folder, ret_error);
        return r < 0 ? r : vm_folder_write_doc(folder, m->disks->document, ret_error);
}

static int sync_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        const struct work *work = arg;
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        int r = datastore_open(work->store_name, work->store_path, work->store_id, &store, ret_error);

        for (size_t i = 0; r >= 0 && i < work->m->disks->n; i++)
                r = move_record_sync_image(store, path_of(work->m, i), ret_error);
        return r;
}

static int begin_work(struct migration *m, offload_fn fn, offload_done_fn done, struct error **ret_error)
{
        const struct datastore *store;
        struct work work = {.m = m,
                .host_uid = agent_host_uid(m->agent),
                .now_unix_ms = (int64_t)clock_unix_ms(loop_clock(m->agent->loop))};
        int r = open_store(m, &store, ret_error);

        if (r < 0)
                return r;
        work.store_name = store->name;
        work.store_path = store->path;
        work.store_id = store->id;
        return offload_start(m->agent->loop, "disks of a migration", fn, &work, WORK_TIMEOUT_MS, done, m,
                &m->disks->offload, ret_error);
}

static void on_synced(void *userdata, json_t *result, struct error *error)
{
        struct migration *m = userdata;

        m->disks->offload = NULL;
        m->destination.starting = false;
        if (error)
                arrival_failed_with(m, error);
        else
                migration_destination_start(m, m->disks->document);
}

static void on_image(void *userdata, const struct image_info *info, struct error *error)
{
        struct migration *m = userdata;

        m->disks->image = NULL;
        if (error)
                return arrival_failed_with(m, error);
        m->disks->at++;
        next_image(m);
}

static void next_image(struct migration *m)
{
        const char *format = json_string_value(json_object_get(disk_of(m, m->disks->at), "format")) ?: "";
        const struct datastore *store;
        struct error *e = NULL;
        int r = open_store(m, &store, &e);

        if (r >= 0 && m->disks->at == m->disks->n)
                r = begin_work(m, sync_in_child, on_synced, &e);
        else if (r >= 0)
                r = image_create_start(m->agent->loop, store, path_of(m, m->disks->at),
                        strcmp(format, "raw") ? IMAGE_QCOW2 : IMAGE_RAW, m->disks->sizes[m->disks->at],
                        IMAGE_THIN, 0, on_image, m, &m->disks->image, &e);
        if (r < 0)
                arrival_failed(m, e);
}

static void on_made(void *userdata, json_t *result, struct error *error)
{
        struct migration *m = userdata;

        m->disks->offload = NULL;
        if (error)
                return arrival_failed_with(m, error);
        m->disks->at = 0;
        next_image(m);
}

static void on_store(void *userdata, struct error *error)
{
        struct migration *m = userdata;
        struct error *e = NULL;

        m->disks->wait = NULL;
        if (error)
                arrival_failed_with(m, error);
        else if (begin_work(m, make_in_child, on_made, &e) < 0)
                arrival_failed(m, e);
        else
                m->disks->removed = false;
}

static int read_from(struct migration *m, struct error **ret_error)
{
        json_t *from = NULL, *sizes = NULL;
        const char *store = NULL;
        int r = doc_opt_object(m->spec, "", "disks_from", &from, ret_error);

        if (r == 0)
                r = doc_need_string(
                        from, "disks_from", "left_store", UUID_STRING_SIZE - 1, &store, ret_error);
        if (r == 0)
                r = doc_opt_array(from, "disks_from", "sizes", WIRE_MAX_DISKS, &sizes, ret_error);
        if (r < 0)
                return r;
        for (size_t i = 0; i < m->disks->n; i++) {
                json_int_t size = json_integer_value(json_array_get(sizes, i));

                if (size <= 0 || (uint64_t)size > IMAGE_MAX_BYTES)
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                "disks_from.sizes does not fit the disks");
                m->disks->sizes[i] = (uint64_t)size;
        }
        snprintf(m->disks->left_store, sizeof(m->disks->left_store), "%s", store);
        m->disks->document = migration_disks_document(m);
        return m->disks->document ? 0 : error_from_errno(ret_error, ENOMEM, "cannot begin a migration");
}

void migration_disks_arrive(struct migration *m)
{
        struct error *e = NULL;
        int r = read_from(m, &e);

        m->destination.starting = true;
        m->qemu = HANDOFF_QEMU_LOADING;
        m->disks->removed = true; /* nothing was made yet */
        if (r == 0)
                r = stores_ensure(m->agent->stores, (const char *const[]){m->disks->datastore}, 1, on_store,
                        m, &m->disks->wait, &e);
        if (r < 0)
                arrival_failed(m, e);
}

void migration_disks_cancel(struct migration *m)
{
        struct migration_disks *d = m->disks;

        if (!d)
                return;
        if (d->wait || d->image || (d->offload && !d->removing) ||
                (m->destination.starting && !m->n_pending)) {
                m->destination.starting = false;
                m->qemu = HANDOFF_QEMU_GONE;
        }
        stores_wait_free(TAKE_PTR(d->wait));
        image_job_free(TAKE_PTR(d->image));
        if (!d->removing)
                offload_free(TAKE_PTR(d->offload));
}

/* --- Exports ------------------------------------------------------------------------------------------------- */

static void on_exports(void *userdata, const int *fds, size_t n, struct error *error)
{
        struct migration *m = userdata;

        if (error)
                return arrival_failed_with(m, error);
        migration_destination_ready(m, fds, n);
        while (n > 0)
                (void)close(fds[--n]);
}

void migration_disks_export(struct migration *m)
{
        struct error *e = NULL;

        if (disk_exports_open(m->agent, m->vm_uid, m->disks->indexes, m->disks->n, on_exports, m,
                    &m->disks->exports, &e) < 0)
                arrival_failed(m, e);
}

static void on_closed(void *userdata)
{
        struct migration *m = userdata;

        m->disks->closed = true;
        migration_kick(m);
}

bool migration_disks_closed(struct migration *m)
{
        struct migration_disks *d = m->disks;

        if (!d || d->closed)
                return true;
        if (d->closing)
                return false;
        if (!d->exports && disk_exports_adopt(m->agent, m->vm_uid, m, &d->exports) < 0)
                return false;
        d->closing = true;
        disk_exports_close(d->exports, on_closed);
        return false;
}

/* --- Removing ------------------------------------------------------------------------------------------------
 * By the names of what this migration made, and nothing else: whatever is in the folder beside that is somebody's. */

/* The document there names the images of this migration: nobody else has taken the folder. */
static bool is_ours(const struct migration *m, const struct vm_folder *folder)
{
        _cleanup_json_ json_t *there = NULL;

        return vm_folder_read_doc(folder, &there, NULL) >= 0 &&
               json_equal(json_object_get(json_object_get(there, "spec"), "disks"),
                       json_object_get(json_object_get(m->disks->document, "spec"), "disks"));
}

static int remove_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        const struct work *work = arg;
        const struct migration *m = work->m;
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        _cleanup_error_ struct error *e = NULL;
        int r = datastore_open(work->store_name, work->store_path, work->store_id, &store, ret_error);

        if (r >= 0)
                r = vm_folder_open(store, name_of(m), m->vm_uid, &folder, &e);
        if (r < 0 && e && e->code == ERROR_NOT_FOUND) /* it never came to that */
                return 0;
        if (r < 0 && e && ret_error)
                *ret_error = TAKE_PTR(e);
        if (r < 0)
                return r;
        if (is_ours(m, folder))
                r = vm_folder_check_owner(folder, work->host_uid, m->epoch + 1, ret_error);
        for (size_t i = 0; r >= 0 && i < m->disks->n; i++)
                r = move_record_remove_image(store, path_of(m, i), ret_error);
        return r < 0 || !is_ours(m, folder) ? r
                                            : vm_folder_retire(store, name_of(m), m->vm_uid, work->host_uid,
                                                      m->epoch + 1, ret_error);
}

static void on_removed(void *userdata, json_t *result, struct error *error)
{
        struct migration *m = userdata;

        bool again = error && (error->code == ERROR_TIMED_OUT || error->code == ERROR_LOCKED) &&
                     ++m->disks->n_removals < REMOVALS_MAX;

        m->disks->offload = NULL;
        m->disks->removing = false;
        m->disks->removed = !again;
        m->disks->stays = error && !again;
        if (again)
                migration_refused(m); /* it comes again */
        else if (error)
                log_warning(
                        "migration %s of vm %s: what was made for its disks on datastore %s stays there: %s",
                        m->id, m->vm_uid, m->disks->datastore, error_message(error));
        migration_kick(m);
}

bool migration_disks_peer_may_ask(const struct migration *m)
{
        bool heard = m->peer.answered &&
                     (m->peer.record == HANDOFF_TAKEN_BACK || m->peer.record == HANDOFF_RELEASED ||
                             m->peer.record == HANDOFF_NONE);

        return m->disks && m->role == MIGRATION_DESTINATION_SIDE && m->settled && !heard &&
               !m->destination.released;
}

json_t *migration_disks_left(const struct migration *m)
{
        const char *name = json_string_value(json_object_get(json_object_get(m->spec, "vm"), "name"));

        return m->disks && m->disks->stays
                       ? json_sprintf("the folder %s on datastore %s", name ?: "", m->disks->datastore)
                       : NULL;
}

struct occupied {
        const char *vm_uid;
        const struct migration *by;
};

static void note_occupied(void *userdata, struct migration *m)
{
        struct occupied *occupied = userdata;

        if (m->role == MIGRATION_DESTINATION_SIDE && m->disks && !m->settled && m->record != HANDOFF_OWNER &&
                !m->disks->removed && !strcmp(m->vm_uid, occupied->vm_uid))
                occupied->by = m;
}

const struct migration *migration_disks_linger(struct agent *agent, const char *vm_uid)
{
        struct occupied occupied = {.vm_uid = vm_uid};

        migration_for_each(agent, note_occupied, &occupied);
        return occupied.by;
}

bool migration_disks_removed(struct migration *m)
{
        struct migration_disks *d = m->disks;
        struct error *e = NULL;

        if (!d || d->removed)
                return true;
        if (d->removing || migration_must_wait(m))
                return false;
        if ((!d->document && read_from(m, NULL) < 0) ||
                migration_peer_fenced(m)) { /* they may be the only ones that are left */
                log_warning("migration %s of vm %s: the disks that came to datastore %s stay there", m->id,
                        m->vm_uid, d->datastore);
                d->removed = d->stays = true;
                return true;
        }
        d->removing = true;
        if (begin_work(m, remove_in_child, on_removed, &e) < 0)
                on_removed(m, NULL, e);
        error_free(e);
        return d->removed;
}
