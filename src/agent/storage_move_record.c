/* SPDX-License-Identifier: Apache-2.0 */

/* What a storage migration does to files that may hang: in a child process (storage/offload.h), which has the agent's memory
 * as it was when it was forked, but opens the datastores anew. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/storage_move_state.h"
#include "agent/stores.h"
#include "base/doc.h"
#include "base/text.h"
#include "storage/state_file.h"

#define WORK_TIMEOUT_MS 60000
/* Room beyond what is copied: for the copy's own metadata, and for what the guest writes meanwhile. */
#define SPARE_BYTES (UINT64_C(16) << 20)

struct work {
        const struct storage_move *m;
        enum storage_move_work work;
        const char *id;
        struct stores *stores; /* for names, paths and ids alone */
        const struct datastore *folder;
};

static int open_again(const struct datastore *known, struct datastore **ret, struct error **ret_error)
{
        return datastore_open(known->name, known->path, known->id, ret, ret_error);
}

/* In the child, where stores_get() finds what was opened before. */
static int open_store(
        const struct work *work, const char *name, struct datastore **ret, struct error **ret_error)
{
        const struct datastore *known;
        int r = stores_get(work->stores, name, &known, ret_error);

        return r < 0 ? r : open_again(known, ret, ret_error);
}

static int lock_owner(
        const struct storage_move *m, const struct vm_folder *folder, int *ret_fd, struct error **ret_error)
{
        return vm_folder_wait_lock_owner(
                folder, agent_host_uid(m->agent), m->config->status.owner_epoch, ret_fd, ret_error);
}

/* What a copy takes on its datastore, 0 when it is not known: nothing depends on it. */
static json_t *measure_copy(const struct datastore *store, const char *path)
{
        _cleanup_fd_ int fd = -1;
        struct stat st;

        if (datastore_open_file(store, path, O_RDONLY, &fd, NULL) < 0 || fstat(fd, &st) < 0)
                st.st_blocks = 0;
        return json_integer((json_int_t)st.st_blocks * 512);
}

/* *ret_result: {"allocated_bytes": [N, ...]} */
static int sync_copies(const struct work *work, json_t **ret_result, struct error **ret_error)
{
        const struct move_record *record = work->m->record;
        _cleanup_json_ json_t *sizes = json_array();

        for (size_t i = 0; i < record->n_disks; i++) {
                const struct move_place *to = &record->disks[i].to;
                _cleanup_(datastore_freep) struct datastore *store = NULL;
                int r = open_store(work, to->datastore, &store, ret_error);

                if (r >= 0)
                        r = move_record_sync_image(store, to->path, ret_error);
                if (r < 0)
                        return r;
                (void)json_array_append_new(sizes, measure_copy(store, to->path));
        }
        *ret_result = json_pack("{s:O}", "allocated_bytes", sizes);
        return 0;
}

static bool is_in_folder(const char *vm_name, const char *path)
{
        size_t len = strlen(vm_name);

        return !strncmp(path, vm_name, len) && path[len] == '/';
}

/* Only what is in the VM's folders is its own: another image may be anybody's. And what is, may have been given to somebody since: to
 * another VM, which the manager says, or to this one again. */
static bool may_remove(const struct work *work, const char *disk, const struct move_place *place)
{
        const struct storage_move *m = work->m;

        if (m->keep_earlier && strcmp(work->id, m->id) != 0)
                return false;
        for (size_t i = 0; i < m->record->n_disks; i++)
                if (!strcmp(m->record->disks[i].name, disk) && m->disks[i].keep)
                        return false;
        for (size_t i = 0; m->in_background && i < m->config->n_disks; i++)
                if (!strcmp(m->config->disks[i].datastore, place->datastore) &&
                        !strcmp(m->config->disks[i].path, place->path))
                        return false;
        return is_in_folder(m->config->name, place->path);
}

/* Adds to the images that stay, {"kept": "D:P, ..."}. */
static int note_kept(json_t **result, const struct move_place *place)
{
        const char *before = json_string_value(json_object_get(*result, "kept"));
        json_t *text =
                json_sprintf("%s%s%s:%s", before ?: "", before ? ", " : "", place->datastore, place->path);

        if (!*result)
                *result = json_object();
        return json_object_set_new(*result, "kept", text) < 0 ? -ENOMEM : 0;
}

/* Unless the next storage migration, perhaps on another host, has put its own there meanwhile. Where nobody can say whose the VM is, nobody can
 * begin one. */
static int remove_record(
        const struct work *work, const struct vm_folder *folder, const char *id, struct error **ret_error)
{
        _cleanup_(move_record_freep) struct move_record *record = NULL;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_fd_ int lock_fd = -1;
        int r = lock_owner(work->m, folder, &lock_fd, &error);

        if (r < 0 && (!error || error->code != ERROR_OWNER_UNKNOWN))
                return error_propagate(ret_error, TAKE_PTR(error));
        r = move_record_read(folder, &record, ret_error);
        if (r < 0 || !record || strcmp(record->id, id) != 0)
                return r;
        return move_record_remove(folder, ret_error);
}

/* One of an earlier migration that somebody uses does not hold the next one up: it stays, which is told. */
static int remove_image(const struct work *work, const struct datastore *store,
        const struct move_place *place, json_t **ret_result, struct error **ret_error)
{
        _cleanup_error_ struct error *error = NULL;
        int r = move_record_remove_image(store, place->path, &error);

        if (r >= 0)
                return 0;
        if (error && error->code == ERROR_LOCKED && strcmp(work->id, work->m->id) != 0)
                return note_kept(ret_result, place) < 0
                               ? error_from_errno(ret_error, ENOMEM, "storage migration")
                               : 0;
        return error_propagate(ret_error, TAKE_PTR(error));
}

static int clear(const struct work *work, const struct vm_folder *folder, json_t **ret_result,
        struct error **ret_error)
{
        _cleanup_(move_record_freep) struct move_record *record = NULL;
        int r = move_record_read(folder, &record, ret_error);

        if (r < 0 || !record || strcmp(record->id, work->id) != 0)
                return r;
        if (move_record_is_behind(work->m->record, record) || move_record_is_behind(record, work->m->record))
                return error_set(ret_error, ERROR_CONFLICT,
                        "Start the virtual machine: the start goes by the record.",
                        "the record in the folder of VM %s and this agent do not agree on which copies have "
                        "taken over; nothing is removed",
                        work->m->config->name);
        for (size_t i = 0; i < record->n_disks; i++) {
                const struct move_disk *disk = &record->disks[i];
                const struct move_place *unused = disk->switched ? &disk->from : &disk->to;
                _cleanup_(datastore_freep) struct datastore *store = NULL;

                if (!may_remove(work, disk->name, unused)) {
                        if (note_kept(ret_result, unused) < 0)
                                return error_from_errno(ret_error, ENOMEM, "storage migration");
                        continue;
                }
                r = open_store(work, unused->datastore, &store, ret_error);
                if (r >= 0)
                        r = remove_image(work, store, unused, ret_result, ret_error);
                if (r < 0)
                        return r;
                /* The folder that was made for it, while it is empty. */
                if (move_record_is_made_path(work->m->config->name, unused->path))
                        (void)unlinkat(store->fd, work->m->config->name, AT_REMOVEDIR);
        }
        return remove_record(work, folder, record->id, ret_error);
}

static int read_record(const struct vm_folder *folder, json_t **ret_result, struct error **ret_error)
{
        _cleanup_(move_record_freep) struct move_record *record = NULL;
        int r = move_record_read(folder, &record, ret_error);

        if (r < 0 || !record)
                return r;
        *ret_result = move_record_to_json(record);
        return *ret_result ? 0 : error_from_errno(ret_error, ENOMEM, "storage migration");
}

/* Whoever takes the VM waits for it, or it is refused: so that no start goes by a record that is being replaced. */
static int write_record(const struct work *work, const struct vm_folder *folder, struct error **ret_error)
{
        _cleanup_fd_ int lock_fd = -1;
        int r = lock_owner(work->m, folder, &lock_fd, ret_error);

        return r < 0 ? r : move_record_write(folder, work->m->record, ret_error);
}

/* What is copied to the datastore of disk `first`, of all disks that go there. */
static uint64_t needed_bytes(const struct storage_move *m, size_t first)
{
        uint64_t sum = 0;

        for (size_t i = 0; i < m->record->n_disks; i++)
                if (!strcmp(m->record->disks[i].to.datastore, m->record->disks[first].to.datastore))
                        sum += MIN(m->disks[i].allocated_bytes, m->disks[i].virtual_bytes);
        return sum;
}

static int check_room(const struct work *work, struct error **ret_error)
{
        const struct storage_move *m = work->m;

        for (size_t i = 0; i < m->record->n_disks; i++) {
                _cleanup_(datastore_freep) struct datastore *store = NULL;
                const struct move_place *to = &m->record->disks[i].to;
                uint64_t needed = needed_bytes(m, i) + SPARE_BYTES;
                struct datastore_status status;
                char text[2][16];
                int r = open_store(work, to->datastore, &store, ret_error);

                if (r >= 0)
                        r = datastore_stat(store, &status, ret_error);
                if (r < 0)
                        return r;
                if (status.free_bytes < needed)
                        return error_set(ret_error, ERROR_NO_SPACE,
                                "Free space on it, or choose another datastore.",
                                "the disks need %s on datastore %s, which has %s free",
                                text_format_size(needed, text[0]), to->datastore,
                                text_format_size(status.free_bytes, text[1]));
        }
        return 0;
}

/* Beside a guest that runs a damaged state is an old one: the guest has taken an epoch since. */
static int check_not_suspended(
        const struct storage_move *m, const struct vm_folder *folder, struct error **ret_error)
{
        _cleanup_json_ json_t *state = NULL;

        if (m->live && state_file_record(folder, &state, NULL) < 0)
                return 0;
        return state_file_check_none(folder, ret_error);
}

static int work_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        const struct work *work = arg;
        const struct storage_move *m = work->m;
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        int r = open_again(work->folder, &store, ret_error);

        if (r >= 0)
                r = vm_folder_open(store, m->config->name, m->config->uid, &folder, ret_error);
        /* One that crashed while it was being suspended may be so. */
        if (r >= 0 && work->work == STORAGE_MOVE_WRITE && !m->live)
                r = state_file_check_none(folder, ret_error);
        if (r >= 0 && (work->work == STORAGE_MOVE_SYNC || work->work == STORAGE_MOVE_READY))
                r = sync_copies(work, ret_result, ret_error);
        if (r < 0)
                return r;
        switch (work->work) {
        case STORAGE_MOVE_LOOK:
                r = check_room(work, ret_error);
                if (r >= 0)
                        r = check_not_suspended(m, folder, ret_error);
                return r < 0 ? r : read_record(folder, ret_result, ret_error);
        case STORAGE_MOVE_READ:
                return read_record(folder, ret_result, ret_error);
        case STORAGE_MOVE_WRITE:
        case STORAGE_MOVE_READY:
                return write_record(work, folder, ret_error);
        case STORAGE_MOVE_CLEAR:
                return clear(work, folder, ret_result, ret_error);
        case STORAGE_MOVE_SYNC:
                break;
        }
        return 0;
}

int storage_move_work(struct storage_move *m, enum storage_move_work kind, const char *id,
        offload_done_fn done, struct error **ret_error)
{
        struct work work = {.m = m, .work = kind, .id = id, .stores = m->agent->stores};
        const struct datastore *store;
        int r = stores_get(m->agent->stores, m->config->datastore, &work.folder, ret_error);

        /* Opened here, so that the child finds them. The record alone is in the folder: it is written, also while the guest waits
         * for it, whatever is the matter with the other datastores. */
        for (size_t i = 0; i < m->record->n_disks && r >= 0 &&
                           (kind == STORAGE_MOVE_LOOK || kind == STORAGE_MOVE_SYNC ||
                                   kind == STORAGE_MOVE_READY || kind == STORAGE_MOVE_CLEAR);
                i++) {
                r = stores_get(m->agent->stores, m->record->disks[i].to.datastore, &store, ret_error);
                if (r >= 0)
                        r = stores_get(
                                m->agent->stores, m->record->disks[i].from.datastore, &store, ret_error);
        }
        return r < 0 ? r
                     : offload_start(m->agent->loop, "storage migration", work_in_child, &work,
                               WORK_TIMEOUT_MS, done, m, &m->offload, ret_error);
}
