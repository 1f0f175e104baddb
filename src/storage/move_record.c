/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/move_record.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "storage/beneath.h"

#define RECORD_MAX_BYTES (256 * 1024)
#define LOCK_FIRST 100 /* see lock_image() */
#define LOCK_BYTES 200
#define ID_DIGITS 12 /* of the migration's id, without its hyphens */

/* --- JSON ---------------------------------------------------------------------------------------------------- */

static void place_deinit(struct move_place *place)
{
        free(place->datastore);
        free(place->path);
}

void move_record_free(struct move_record *record)
{
        if (!record)
                return;
        for (size_t i = 0; i < record->n_disks; i++) {
                free(record->disks[i].name);
                place_deinit(&record->disks[i].from);
                place_deinit(&record->disks[i].to);
        }
        free(record->disks);
        free(record);
}

static int read_place(
        const json_t *disk, const char *key, struct move_place *ret_place, struct error **ret_error)
{
        const char *datastore = NULL, *path = NULL, *format = NULL;
        json_t *place = NULL;
        int r = doc_opt_object(disk, "disk", key, &place, ret_error);

        if (r >= 0)
                r = doc_opt_string(place, key, "datastore", NAME_MAX_CHARS, &datastore, ret_error);
        if (r >= 0)
                r = doc_opt_string(place, key, "path", 255, &path, ret_error);
        if (r >= 0)
                r = doc_opt_string(place, key, "format", 16, &format, ret_error);
        if (r < 0)
                return r;
        if (!datastore || !text_is_name(datastore) || !path || !text_is_relative_path(path) ||
                image_format_from_string(format, &ret_place->format) < 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "\"%s\" names no image", key);
        ret_place->datastore = alloc_strdup(datastore);
        ret_place->path = alloc_strdup(path);
        return ret_place->datastore && ret_place->path ? 0 : error_from_errno(ret_error, ENOMEM, "%s", key);
}

static int read_disk(const json_t *json, struct move_disk *ret_disk, struct error **ret_error)
{
        const char *name = NULL;
        int r = doc_opt_string(json, "disk", "name", NAME_MAX_CHARS, &name, ret_error);

        if (r >= 0)
                r = doc_opt_bool(json, "disk", "switched", &ret_disk->switched, ret_error);
        if (r < 0)
                return r;
        if (!name || !text_is_name(name))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "a disk has no name");
        ret_disk->name = alloc_strdup(name);
        if (!ret_disk->name)
                return error_from_errno(ret_error, ENOMEM, "disk %s", name);
        r = read_place(json, "from", &ret_disk->from, ret_error);
        return r < 0 ? r : read_place(json, "to", &ret_disk->to, ret_error);
}

int move_record_from_json(const json_t *json, struct move_record **ret_record, struct error **ret_error)
{
        _cleanup_(move_record_freep) struct move_record *record = ALLOC(struct move_record);
        json_t *disks = NULL, *disk;
        const char *id = NULL;
        uint64_t format;
        size_t i;
        int r;

        if (!record)
                return error_from_errno(ret_error, ENOMEM, "storage migration");
        r = doc_need_u64(json, "record", "format", 1, 1, &format, ret_error);
        if (r >= 0)
                r = doc_opt_string(json, "record", "id", UUID_STRING_SIZE - 1, &id, ret_error);
        if (r >= 0)
                r = doc_opt_array(json, "record", "disks", MOVE_RECORD_DISKS_MAX, &disks, ret_error);
        if (r < 0)
                return r;
        if (!id || !text_is_uuid(id) || !json_array_size(disks))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "it has no id, or no disks");
        memcpy(record->id, id, UUID_STRING_SIZE);
        record->disks = alloc_array(json_array_size(disks), sizeof(*record->disks));
        if (!record->disks)
                return error_from_errno(ret_error, ENOMEM, "storage migration");
        json_array_foreach (disks, i, disk) {
                record->n_disks++;
                r = read_disk(disk, &record->disks[i], ret_error);
                if (r < 0)
                        return r;
        }
        *ret_record = TAKE_PTR(record);
        return 0;
}

static json_t *place_json(const struct move_place *place)
{
        return json_pack("{s:s, s:s, s:s}", "datastore", place->datastore, "path", place->path, "format",
                image_format_to_string(place->format));
}

json_t *move_record_to_json(const struct move_record *record)
{
        _cleanup_json_ json_t *disks = json_array();

        for (size_t i = 0; disks && i < record->n_disks; i++) {
                const struct move_disk *disk = &record->disks[i];

                if (json_array_append_new(disks, json_pack("{s:s, s:o, s:o, s:b}", "name", disk->name, "from",
                                                         place_json(&disk->from), "to", place_json(&disk->to),
                                                         "switched", disk->switched)) < 0)
                        return NULL;
        }
        return disks ? json_pack("{s:i, s:s, s:O}", "format", 1, "id", record->id, "disks", disks) : NULL;
}

bool move_record_any_switched(const struct move_record *record)
{
        for (size_t i = 0; i < record->n_disks; i++)
                if (record->disks[i].switched)
                        return true;
        return false;
}

bool move_record_is_behind(const struct move_record *known, const struct move_record *written)
{
        if (strcmp(known->id, written->id) != 0)
                return false;
        for (size_t i = 0; i < written->n_disks; i++)
                if (written->disks[i].switched && (i >= known->n_disks || !known->disks[i].switched))
                        return true;
        return false;
}

/* --- Names --------------------------------------------------------------------------------------------------- */

char *move_record_path(const char *vm_name, const char *disk_name, const char *id, enum image_format format)
{
        char digits[ID_DIGITS + 1];
        size_t n = 0;

        for (const char *at = id; *at && n < ID_DIGITS; at++)
                if (*at != '-')
                        digits[n++] = *at;
        digits[n] = '\0';
        return alloc_printf("%s/%s-%s.%s", vm_name, disk_name, digits, image_format_to_string(format));
}

bool move_record_is_made_path(const char *vm_name, const char *path)
{
        size_t len = strlen(vm_name);
        const char *hyphen, *dot;
        enum image_format format;

        if (strncmp(path, vm_name, len) != 0 || path[len] != '/' || strchr(path + len + 1, '/'))
                return false;
        hyphen = strrchr(path + len + 1, '-');
        dot = hyphen ? strchr(hyphen, '.') : NULL;
        return dot && dot - hyphen == ID_DIGITS + 1 && strspn(hyphen + 1, "0123456789abcdef") == ID_DIGITS &&
               image_format_from_string(dot + 1, &format) == 0;
}

int move_record_check_paths(const struct move_record *record, const char *vm_name, struct error **ret_error)
{
        for (size_t i = 0; i < record->n_disks; i++) {
                const struct move_disk *disk = &record->disks[i];
                _cleanup_free_ char *path =
                        move_record_path(vm_name, disk->name, record->id, disk->to.format);

                if (!path)
                        return error_from_errno(ret_error, ENOMEM, "storage migration");
                if (strcmp(path, disk->to.path) != 0)
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                "\"%s\" is not what the copy of disk %s would be called, %s", disk->to.path,
                                disk->name, path);
        }
        return 0;
}

/* --- Files --------------------------------------------------------------------------------------------------- */

int move_record_read(
        const struct vm_folder *folder, struct move_record **ret_record, struct error **ret_error)
{
        _cleanup_(move_record_freep) struct move_record *record = NULL;
        _cleanup_error_ struct error *damage = NULL;
        _cleanup_json_ json_t *json = NULL;
        _cleanup_free_ char *text = NULL;
        size_t len;
        int r = beneath_read(folder->fd, MOVE_RECORD_FILE, RECORD_MAX_BYTES, &text, &len);

        if (r == -ENOENT) {
                *ret_record = NULL;
                return 0;
        }
        if (r < 0)
                return beneath_failed(r, folder->path, MOVE_RECORD_FILE, ret_error);
        r = doc_parse(text, len, &json, &damage);
        if (r >= 0)
                r = move_record_from_json(json, &record, &damage);
        if (r >= 0)
                r = move_record_check_paths(record, folder->name, &damage);
        if (r >= 0)
                *ret_record = TAKE_PTR(record);
        if (r >= 0 || (damage && damage->code == ERROR_NO_MEMORY))
                return r < 0 ? error_propagate(ret_error, TAKE_PTR(damage)) : 0;
        return error_set(ret_error, ERROR_CONFLICT,
                "It says which images the disks are: restore it from a backup, or find out by hand and "
                "remove it.",
                "%s/" MOVE_RECORD_FILE " is damaged: %s", folder->path, error_message(damage));
}

int move_record_write(
        const struct vm_folder *folder, const struct move_record *record, struct error **ret_error)
{
        _cleanup_json_ json_t *json = move_record_to_json(record);
        _cleanup_free_ char *text = json ? doc_to_text(json) : NULL;
        int r = text ? beneath_write_atomic(folder->fd, MOVE_RECORD_FILE, text, strlen(text), 0640, false)
                     : -ENOMEM;

        return r < 0 ? beneath_failed(r, folder->path, MOVE_RECORD_FILE, ret_error) : 0;
}

static bool names_place(const json_t *disk, const struct move_place *place)
{
        return !strcmp(json_string_value(json_object_get(disk, "datastore")) ?: "", place->datastore) &&
               !strcmp(json_string_value(json_object_get(disk, "path")) ?: "", place->path);
}

int move_record_check_document(
        const struct vm_folder *folder, const json_t *document, struct error **ret_error)
{
        _cleanup_(move_record_freep) struct move_record *record = NULL;
        const json_t *disks = json_object_get(json_object_get(document, "spec"), "disks");
        int r = move_record_read(folder, &record, ret_error);

        for (size_t i = 0; r >= 0 && record && i < record->n_disks; i++) {
                const struct move_disk *moved = &record->disks[i];
                json_t *disk;
                size_t k;

                json_array_foreach ((json_t *)disks, k, disk)
                        if (moved->switched && names_place(disk, &moved->from) &&
                                !strcmp(json_string_value(json_object_get(disk, "name")) ?: "", moved->name))
                                return error_set(ret_error, ERROR_CONFLICT,
                                        "Start it: the start goes by the record.",
                                        "a storage migration has moved disk %s of the virtual machine to "
                                        "%s:%s, of which its document does not know",
                                        moved->name, moved->to.datastore, moved->to.path);
        }
        return r;
}

int move_record_remove(const struct vm_folder *folder, struct error **ret_error)
{
        int r = beneath_unlink(folder->fd, MOVE_RECORD_FILE);

        if (r >= 0 && fsync(folder->fd) < 0)
                r = -errno;
        return r < 0 && r != -ENOENT ? beneath_failed(r, folder->path, MOVE_RECORD_FILE, ret_error) : 0;
}

/* Whoever may read or write an image holds locks on some of these bytes (QEMU's block/file-posix.c, RAW_LOCK_PERM_BASE and
 * RAW_LOCK_SHARED_BASE): with all of them ours, no QEMU and no qemu-img has it, on any host. */
static int lock_image(const struct datastore *datastore, const char *path, int fd, struct error **ret_error)
{
        struct flock lock = {
                .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_FIRST, .l_len = LOCK_BYTES};

        if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
                return 0;
        if (errno != EAGAIN && errno != EACCES)
                return error_from_errno(ret_error, errno, "cannot lock %s: %s", datastore->name, path);
        return error_set(ret_error, ERROR_LOCKED,
                "Is it another virtual machine's now? Else it is removed later.",
                "%s: %s is in use by a running QEMU, on this or another host; it is not removed",
                datastore->name, path);
}

int move_record_allocated(const struct datastore *datastore, const char *path, uint64_t *ret_bytes)
{
        _cleanup_fd_ int fd = -1;
        struct stat st;
        int r = text_is_relative_path(path) ? beneath_open_file(datastore->fd, path, O_RDONLY, 0, &fd)
                                            : -EXDEV;

        if (r >= 0 && fstat(fd, &st) < 0)
                r = -errno;
        if (r < 0)
                return r;
        *ret_bytes = (uint64_t)st.st_blocks * 512;
        return 0;
}

int move_record_remove_image(const struct datastore *datastore, const char *path, struct error **ret_error)
{
        _cleanup_fd_ int fd = -1;
        struct stat st;
        int r;

        if (!text_is_relative_path(path))
                return beneath_failed(-EXDEV, datastore->name, path, ret_error);
        r = beneath_open_file(datastore->fd, path, O_RDWR, 0, &fd);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return beneath_failed(r, datastore->name, path, ret_error);
        r = lock_image(datastore, path, fd, ret_error);
        if (r < 0)
                return r;
        if (fstat(fd, &st) == 0 && st.st_nlink == 1 && ftruncate(fd, 0) < 0)
                return beneath_failed(-errno, datastore->name, path, ret_error);
        r = beneath_unlink(datastore->fd, path);
        return r < 0 && r != -ENOENT ? beneath_failed(r, datastore->name, path, ret_error) : 0;
}

static int sync_parent(const struct datastore *datastore, const char *path)
{
        const char *slash = strrchr(path, '/');
        _cleanup_fd_ int fd = -1;
        char folder[256];
        int r;

        if (!slash)
                return fsync(datastore->fd) < 0 ? -errno : 0;
        snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path), path);
        r = beneath_open(datastore->fd, folder, O_RDONLY | O_DIRECTORY, 0, &fd);
        if (r >= 0 && fsync(fd) < 0)
                r = -errno;
        return r;
}

int move_record_sync_image(const struct datastore *datastore, const char *path, struct error **ret_error)
{
        _cleanup_fd_ int fd = -1;
        int r = beneath_open_file(datastore->fd, path, O_RDWR, 0, &fd);

        /* What was written around the caches leaves nothing to be flushed, and so nothing would show that the datastore hangs: its time
         * is set, which goes there. */
        if (r >= 0 && (futimens(fd, NULL) < 0 || fsync(fd) < 0))
                r = -errno;
        if (r >= 0)
                r = sync_parent(datastore, path);
        return r < 0 ? beneath_failed(r, datastore->name, path, ret_error) : 0;
}
