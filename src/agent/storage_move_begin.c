/* SPDX-License-Identifier: Apache-2.0 */

/* A storage migration up to the copy: what was asked for, whether it can be, the record in the VM's folder, and the new images. */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/migration.h"
#include "agent/storage_move_state.h"
#include "agent/stores.h"
#include "agent/vm_job.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "storage/image.h"
#include "vmm/qmp.h"

#define STORAGE_MOVE_MAX_PAUSE_MS 300
#define OPEN_TIMEOUT_MS 30000
#define PLACE_NAME_SIZE 400
#define TIMEOUT_MAX_MS (UINT64_C(7) * 24 * 3600 * 1000)

static void next_image(struct storage_move *m);
static void next_info(struct storage_move *m);

/* --- The request --------------------------------------------------------------------------------------------- */

static enum image_format image_format_of(enum vm_format format)
{
        return format == VM_FORMAT_RAW ? IMAGE_RAW : IMAGE_QCOW2;
}

static int find_disk(const struct vm_config *config, const char *name, size_t *ret_index)
{
        for (size_t i = 0; i < config->n_disks; i++)
                if (!strcmp(config->disks[i].name, name)) {
                        *ret_index = i;
                        return 0;
                }
        return -ENOENT;
}

/* Post-copy is of memory alone. */
static int read_wanted(struct storage_move *m, const json_t *wanted, struct error **ret_error)
{
        struct converge_policy policy;
        uint64_t max_pause_ms = STORAGE_MOVE_MAX_PAUSE_MS;
        int r = doc_opt_u64(wanted, "", "max_pause_ms", 1, 600000, &max_pause_ms, ret_error);

        if (r >= 0)
                r = converge_policy_read(wanted, max_pause_ms, &policy, ret_error);
        if (r < 0)
                return r;
        if (converge_policy_has(&policy, CONVERGE_POST_COPY))
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Leave post-copy out of --converge.",
                        "disks are copied before they are switched: there is no post-copy of disks");
        m->wanted = json_pack("{s:I, s:O*}", "max_pause_ms", (json_int_t)max_pause_ms, "converge",
                json_object_get(wanted, "converge"));
        if (!m->wanted)
                return error_from_errno(ret_error, ENOMEM, "storage migration");
        disk_convergence_init(
                &m->convergence, &policy, max_pause_ms, clock_now_ms(loop_clock(m->agent->loop)));
        return 0;
}

int storage_move_make(struct agent *agent, const json_t *document, const json_t *record, const json_t *wanted,
        struct storage_move **ret, struct error **ret_error)
{
        _cleanup_(storage_move_freep) struct storage_move *m = ALLOC(struct storage_move);
        int r;

        if (!m)
                return error_from_errno(ret_error, ENOMEM, "storage migration");
        m->agent = agent;
        list_init(&m->all);
        r = vm_config_from_json(document, &m->config, ret_error);
        if (r >= 0)
                r = move_record_from_json(record, &m->record, ret_error);
        if (r >= 0)
                r = move_record_check_paths(m->record, m->config->name, ret_error);
        if (r >= 0)
                r = read_wanted(m, wanted, ret_error);
        if (r < 0)
                return r;
        if (!m->config->uid || !m->config->datastore)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "VM %s needs a uid and a datastore",
                        m->config->name);
        memcpy(m->id, m->record->id, sizeof(m->id));
        m->disks = alloc_array(m->record->n_disks, sizeof(*m->disks));
        if (!m->disks)
                return error_from_errno(ret_error, ENOMEM, "storage migration");
        /* One that the document does not have any more is looked at only where its record is cleared. */
        for (size_t i = 0; i < m->record->n_disks; i++)
                if (find_disk(m->config, m->record->disks[i].name, &m->disks[i].index) < 0)
                        m->disks[i].index = SIZE_MAX;
        *ret = TAKE_PTR(m);
        return 0;
}

static json_t *place_of(const char *datastore, const char *path, enum image_format format)
{
        return json_pack("{s:s, s:s, s:s}", "datastore", datastore, "path", path, "format",
                image_format_to_string(format));
}

/* {"name", "datastore", "format"} of the request to a disk of the record. */
static int record_disk(const struct vm_config *config, const char *id, const json_t *wanted,
        json_t *record_disks, struct error **ret_error)
{
        const char *name = NULL, *datastore = NULL, *word = NULL;
        _cleanup_free_ char *path = NULL;
        const struct vm_disk *disk;
        enum image_format format;
        size_t index;
        int r = doc_need_string(wanted, "disks", "name", NAME_MAX_CHARS, &name, ret_error);

        if (r >= 0)
                r = doc_need_string(wanted, "disks", "datastore", NAME_MAX_CHARS, &datastore, ret_error);
        if (r >= 0)
                r = doc_opt_string(wanted, "disks", "format", 16, &word, ret_error);
        if (r < 0)
                return r;
        if (find_disk(config, name, &index) < 0)
                return error_set(
                        ret_error, ERROR_NOT_FOUND, NULL, "VM %s has no disk %s", config->name, name);
        disk = &config->disks[index];
        format = image_format_of(disk->format);
        if (word && image_format_from_string(word, &format) < 0)
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Possible are raw and qcow2.",
                        "a running disk cannot be written as %.16s", word);
        if (disk->read_only)
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Name the others.",
                        "disk %s is read-only: others may use its image, which stays where it is", name);
        if (!strcmp(disk->datastore, datastore) && format == image_format_of(disk->format))
                return error_set(ret_error, ERROR_CONFLICT, "Name another datastore, or another format.",
                        "disk %s is on datastore %s already", name, datastore);
        path = move_record_path(config->name, name, id, format);
        if (!path || json_array_append_new(record_disks,
                             json_pack("{s:s, s:o, s:o}", "name", name, "from",
                                     place_of(disk->datastore, disk->path, image_format_of(disk->format)),
                                     "to", place_of(datastore, path, format))) < 0)
                return error_from_errno(ret_error, ENOMEM, "storage migration");
        return 0;
}

static int make_record(const struct vm_config *config, const json_t *body, const char *id,
        json_t **ret_record, struct error **ret_error)
{
        _cleanup_json_ json_t *list = json_array();
        json_t *wanted = NULL, *item;
        size_t i;
        int r = doc_opt_array(body, "", "disks", VM_DISKS_MAX, &wanted, ret_error);

        if (r < 0)
                return r;
        if (!json_array_size(wanted))
                return error_set(ret_error, ERROR_CONFLICT, NULL, "VM %s has no disk that could be moved",
                        config->name);
        json_array_foreach (wanted, i, item) {
                r = list ? record_disk(config, id, item, list, ret_error)
                         : error_from_errno(ret_error, ENOMEM, "storage migration");
                if (r < 0)
                        return r;
        }
        *ret_record = json_pack("{s:i, s:s, s:O}", "format", 1, "id", id, "disks", list);
        return *ret_record ? 0 : error_from_errno(ret_error, ENOMEM, "storage migration");
}

static int check_vm(struct storage_move *m, struct error **ret_error)
{
        const char *name = m->config->name;
        struct vm *vm = storage_move_vm(m);
        enum vm_power power = vm ? vm_power(vm) : VM_POWER_STOPPED;

        if (migration_vm_busy(m->agent, m->config->uid) || (vm && vm->job))
                return error_set(ret_error, ERROR_BUSY, "Wait for it to end.",
                        "VM %s is being migrated, or something else is done with it", name);
        m->live = vm && vm_has_qemu(vm);
        if (!m->live)
                return power == VM_POWER_STOPPED || power == VM_POWER_CRASHED
                               ? 0
                               : error_set(ret_error, ERROR_CONFLICT, NULL, "VM %s is %s", name,
                                         vm_power_to_string(power));
        if (power != VM_POWER_RUNNING && power != VM_POWER_PAUSED)
                return error_set(ret_error, ERROR_CONFLICT,
                        "Its disks can be moved while it runs, is paused, or is off.", "VM %s is %s", name,
                        vm_power_to_string(power));
        if (!vm->qmp || !qmp_is_ready(vm->qmp))
                return error_set(
                        ret_error, ERROR_QEMU_FAILED, NULL, "the monitor of VM %s does not answer", name);
        if (json_array_size(vm->jobs))
                return error_set(ret_error, ERROR_BUSY, "Wait for it to end.",
                        "QEMU works on a disk of VM %s already", name);
        if (!vm_config_same_disks(m->config, vm->config))
                return error_set(ret_error, ERROR_CONFLICT, "Stop and start it, so that both agree.",
                        "VM %s runs with other disks than its document names", name);
        return 0;
}

int storage_move_read_request(
        struct agent *agent, const json_t *body, struct storage_move **ret, struct error **ret_error)
{
        static const char *const keys[] = {
                "id", "vm", "disks", "rate_limit_bps", "timeout_ms", "max_pause_ms", "converge", NULL};
        _cleanup_(storage_move_freep) struct storage_move *m = NULL;
        _cleanup_(vm_config_freep) struct vm_config *config = NULL;
        _cleanup_json_ json_t *record = NULL;
        uint64_t rate_bps = 0, timeout_ms = 0;
        const char *id = NULL;
        int r = doc_only_keys(body, "", keys, ret_error);

        if (r >= 0)
                r = doc_opt_string(body, "", "id", UUID_STRING_SIZE - 1, &id, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "rate_limit_bps", 0, INT64_MAX, &rate_bps, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "timeout_ms", 0, TIMEOUT_MAX_MS, &timeout_ms, ret_error);
        if (r < 0)
                return r;
        if (!id || !text_is_uuid(id))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field id is no UUID");
        r = vm_config_from_json(json_object_get(body, "vm"), &config, ret_error);
        if (r >= 0)
                r = make_record(config, body, id, &record, ret_error);
        if (r >= 0)
                r = storage_move_make(agent, json_object_get(body, "vm"), record, body, &m, ret_error);
        if (r >= 0)
                r = check_vm(m, ret_error);
        if (r < 0)
                return r;
        m->rate_bytes_per_s = rate_bps ? MAX(rate_bps / 8, (uint64_t)1) : 0;
        m->timeout_ms = timeout_ms;
        *ret = TAKE_PTR(m);
        return 0;
}

/* --- Files --------------------------------------------------------------------------------------------------- */

int storage_move_file(struct storage_move *m, const struct move_place *place, int flags,
        struct opening_file *ret_file, struct error **ret_error)
{
        const struct datastore *store;
        int r = stores_get(m->agent->stores, place->datastore, &store, ret_error);

        if (r < 0)
                return r;
        *ret_file = (struct opening_file){
                .datastore = store, .path = place->path, .flags = flags, .format = place->format};
        return 0;
}

int storage_move_open(struct storage_move *m, const struct opening_file *files, size_t n_files,
        opening_done_fn done, struct error **ret_error)
{
        return opening_start(
                m->agent->loop, files, n_files, OPEN_TIMEOUT_MS, done, m, &m->opening, ret_error);
}

static void name_of(const struct move_place *place, char ret[static PLACE_NAME_SIZE])
{
        snprintf(ret, PLACE_NAME_SIZE, "%s: %s", place->datastore, place->path);
}

/* --- New images ---------------------------------------------------------------------------------------------- */

static void start_copy(struct storage_move *m)
{
        if (m->live)
                storage_move_live_begin(m);
        else
                storage_move_cold_begin(m);
}

static void on_synced(void *userdata, json_t *result, struct error *error)
{
        struct storage_move *m = userdata;

        m->offload = NULL;
        if (error) {
                storage_move_stop_copy(m, error);
                return;
        }
        m->at = 0;
        storage_move_point(m, "storage-move-created", start_copy);
}

static void on_image_made(void *userdata, const struct image_info *info, struct error *error)
{
        struct storage_move *m = userdata;

        m->image = NULL;
        if (error) {
                storage_move_stop_copy(m, error);
                return;
        }
        m->at++;
        next_image(m);
}

static void on_image_opened(void *userdata, const int *fds, struct error *error)
{
        struct storage_move *m = userdata;
        const struct move_place *to = &m->record->disks[m->at].to;
        struct error *failure = NULL;
        char name[PLACE_NAME_SIZE];

        m->opening = NULL;
        name_of(to, name);
        if (error)
                storage_move_stop_copy(m, error);
        else if (image_create_opened(m->agent->loop, name, fds[0], to->format, m->disks[m->at].virtual_bytes,
                         on_image_made, m, &m->image, &failure) < 0)
                storage_move_stop(m, failure);
}

static void next_image(struct storage_move *m)
{
        struct opening_file file;
        struct error *error = NULL;
        int r;

        if (m->at == m->record->n_disks)
                r = storage_move_work(m, STORAGE_MOVE_SYNC, NULL, on_synced, &error);
        else {
                r = storage_move_file(
                        m, &m->record->disks[m->at].to, O_RDWR | O_CREAT | O_EXCL, &file, &error);
                if (r >= 0)
                        r = storage_move_open(m, &file, 1, on_image_opened, &error);
        }
        if (r < 0)
                storage_move_stop(m, error);
}

static void make_images(struct storage_move *m)
{
        m->at = 0;
        next_image(m);
}

static void on_recorded(void *userdata, json_t *result, struct error *error)
{
        struct storage_move *m = userdata;

        m->offload = NULL;
        if (error)
                storage_move_stop_copy(m, error);
        else
                storage_move_point(m, "storage-move-recorded", make_images);
}

static void write_record(struct storage_move *m)
{
        struct error *error = NULL;

        m->recorded = true;
        if (storage_move_work(m, STORAGE_MOVE_WRITE, NULL, on_recorded, &error) < 0)
                storage_move_stop(m, error);
}

/* --- Checks -------------------------------------------------------------------------------------------------- */

static void on_earlier_cleared(void *userdata, json_t *result, struct error *error)
{
        struct storage_move *m = userdata;

        m->offload = NULL;
        if (error)
                storage_move_stop_copy(m, error);
        else if (storage_move_note_kept(m, result) < 0)
                storage_move_stop(m, NULL);
        else
                write_record(m);
}

/* The manager has not heard how an earlier migration ended, or the document was changed by hand. */
static int check_earlier(
        const struct storage_move *m, const struct move_record *earlier, struct error **ret_error)
{
        for (size_t i = 0; i < earlier->n_disks; i++) {
                const struct move_disk *moved = &earlier->disks[i];
                const struct move_place *unused = moved->switched ? &moved->from : &moved->to;

                for (size_t k = 0; k < m->config->n_disks; k++)
                        if (!strcmp(m->config->disks[k].datastore, unused->datastore) &&
                                !strcmp(m->config->disks[k].path, unused->path))
                                return error_set(ret_error, ERROR_CONFLICT,
                                        "Start the virtual machine once, so that "
                                        "its document is mended.",
                                        "an earlier storage migration has moved disk %s of VM %s, of which "
                                        "its document "
                                        "does not know",
                                        moved->name, m->config->name);
        }
        return 0;
}

static void on_earlier_record(void *userdata, json_t *result, struct error *error)
{
        _cleanup_(move_record_freep) struct move_record *earlier = NULL;
        struct storage_move *m = userdata;
        struct error *failure = NULL;
        int r = 0;

        m->offload = NULL;
        if (error) {
                storage_move_stop_copy(m, error);
                return;
        }
        if (json_is_object(result))
                r = move_record_from_json(result, &earlier, &failure);
        if (r >= 0 && !earlier) {
                write_record(m);
                return;
        }
        if (r >= 0)
                r = check_earlier(m, earlier, &failure);
        if (r >= 0)
                r = storage_move_work(m, STORAGE_MOVE_CLEAR, earlier->id, on_earlier_cleared, &failure);
        if (r < 0)
                storage_move_stop(m, failure);
}

static void look_for_earlier(struct storage_move *m)
{
        struct error *error = NULL;

        if (storage_move_work(m, STORAGE_MOVE_LOOK, NULL, on_earlier_record, &error) < 0)
                storage_move_stop(m, error);
}

static void on_info(void *userdata, const struct image_info *info, struct error *error)
{
        struct storage_move *m = userdata;
        struct storage_move_disk *disk = &m->disks[m->at];
        struct error *failure = NULL;

        m->image = NULL;
        if (error) {
                storage_move_stop_copy(m, error);
                return;
        }
        if (info->corrupt) {
                (void)error_set(&failure, ERROR_CHECK_FAILED, "Repair it with qemu-img check.",
                        "disk %s: its image is marked as corrupt", m->record->disks[m->at].name);
                storage_move_stop(m, failure);
                return;
        }
        if (info->snapshots) {
                (void)error_set(&failure, ERROR_CHECK_FAILED,
                        "Delete its snapshots first (drover vm snapshot list; those of others with qemu-img "
                        "snapshot).",
                        "disk-snapshots: the image of disk %s has snapshots, which would not go along",
                        m->record->disks[m->at].name);
                storage_move_stop(m, failure);
                return;
        }
        disk->virtual_bytes = info->virtual_bytes;
        disk->allocated_bytes = disk->total_bytes = info->allocated_bytes;
        m->at++;
        next_info(m);
}

static void on_info_opened(void *userdata, const int *fds, struct error *error)
{
        struct storage_move *m = userdata;
        const struct move_place *from = &m->record->disks[m->at].from;
        struct error *failure = NULL;
        char name[PLACE_NAME_SIZE];

        m->opening = NULL;
        name_of(from, name);
        if (error)
                storage_move_stop_copy(m, error);
        else if (image_info_opened(
                         m->agent->loop, name, fds[0], from->format, on_info, m, &m->image, &failure) < 0)
                storage_move_stop(m, failure);
}

static void next_info(struct storage_move *m)
{
        struct opening_file file;
        struct error *error = NULL;
        int r;

        if (m->at == m->record->n_disks) {
                look_for_earlier(m);
                return;
        }
        r = storage_move_file(m, &m->record->disks[m->at].from, O_RDONLY, &file, &error);
        file.is_image = true;
        if (r >= 0)
                r = storage_move_open(m, &file, 1, on_info_opened, &error);
        if (r < 0)
                storage_move_stop(m, error);
}

static void on_stores(void *userdata, struct error *error)
{
        struct storage_move *m = userdata;

        m->wait = NULL;
        if (error) {
                storage_move_stop_copy(m, error);
                return;
        }
        m->at = 0;
        next_info(m);
}

void storage_move_begin(struct storage_move *m)
{
        const char *names[2 * MOVE_RECORD_DISKS_MAX + 1];
        struct error *error = NULL;
        size_t n = 0;

        names[n++] = m->config->datastore;
        for (size_t i = 0; i < m->record->n_disks; i++) {
                names[n++] = m->record->disks[i].from.datastore;
                names[n++] = m->record->disks[i].to.datastore;
        }
        log_info("storage migration %s of VM %s begins", m->id, m->config->name);
        if (stores_ensure(m->agent->stores, names, n, on_stores, m, &m->wait, &error) < 0)
                storage_move_stop(m, error);
}
