/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The record of a storage migration in the VM's folder, "storage-move.json": which images are copied to where, and of which
 * disks the copy has taken over. It is the one place that says which of two images is the disk, for every host that has the
 * datastore, so it is written before the copy exists, changed by one atomic replacement while the guest is stopped, and
 * removed last. docs/decisions/0029 has the reasons. All functions that touch files may block. */

#include <jansson.h>

#include "base/error.h"
#include "base/text.h"
#include "storage/image.h"
#include "storage/vm_folder.h"

#define MOVE_RECORD_FILE "storage-move.json"
#define MOVE_RECORD_DISKS_MAX 64

struct move_place {
        char *datastore;
        char *path; /* relative to the datastore */
        enum image_format format;
};

struct move_disk {
        char *name; /* of the VM's document */
        struct move_place from, to;
        bool switched; /* `to` is the disk now, `from` is left over; false: the other way round */
};

struct move_record {
        char id[UUID_STRING_SIZE];
        struct move_disk *disks;
        size_t n_disks;
};

/* {"format": 1, "id", "disks": [{"name", "from": {"datastore", "path", "format"}, "to": {...}, "switched"}]}. BAD_DOCUMENT. */
int move_record_from_json(const json_t *json, struct move_record **ret_record, struct error **ret_error);
json_t *move_record_to_json(const struct move_record *record); /* the caller's; NULL without memory */
void move_record_free(struct move_record *record);
DEFINE_CLEANUP(struct move_record *, move_record_free)

/* True if the copy of a disk has taken over. */
bool move_record_any_switched(const struct move_record *record);
/* True if `written` is of the same migration and says of a disk that its copy has taken over, which `known` does not say. */
bool move_record_is_behind(const struct move_record *known, const struct move_record *written);

/* The image that a storage migration makes of a disk: "VM/DISK-IDENTIFIER.FORMAT" with the first 12 digits of its id. The
 * caller's; NULL without memory. Nobody else makes such names, so a file of this name is the migration's. */
char *move_record_path(const char *vm_name, const char *disk_name, const char *id, enum image_format format);
/* True for a path of that form. */
bool move_record_is_made_path(const char *vm_name, const char *path);

/* BAD_DOCUMENT when the copy of some disk is not of that form: only such are removed, and taken for disks. */
int move_record_check_paths(const struct move_record *record, const char *vm_name, struct error **ret_error);

/* *ret_record is NULL when there is none. CONFLICT: it is damaged; nobody can say which image counts. */
int move_record_read(
        const struct vm_folder *folder, struct move_record **ret_record, struct error **ret_error);
/* Replaces it atomically and durably. */
int move_record_write(
        const struct vm_folder *folder, const struct move_record *record, struct error **ret_error);
/* CONFLICT when a disk of the VM's document (borrowed) is an image from which a copy has taken over. After the next owner epoch was taken no
 * other host can change that any more. */
int move_record_check_document(
        const struct vm_folder *folder, const json_t *document, struct error **ret_error);
/* Removes it; 0 also if there is none. */
int move_record_remove(const struct vm_folder *folder, struct error **ret_error);

/* Bytes that an image takes of the datastore; negative errno. */
int move_record_allocated(const struct datastore *datastore, const char *path, uint64_t *ret_bytes);
/* Removes an image and frees its room at once, also while a QEMU still holds a descriptor of it (which it cannot be made to
 * close): the file is cut to nothing first, unless it has other names. 0 also if it is gone. LOCKED: a QEMU uses it as a disk; nothing was
 * touched. */
int move_record_remove_image(const struct datastore *datastore, const char *path, struct error **ret_error);
/* An image's data, and its name in its folder, are safe when this returns, and its datastore takes writes. */
int move_record_sync_image(const struct datastore *datastore, const char *path, struct error **ret_error);
