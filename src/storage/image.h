/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Disk images, through qemu-img in a child process with a time limit. The format is always told, never probed: a
 * guest can write any header into a raw disk. qemu-img gets the image as a descriptor that was opened below the
 * datastore, so no name in it is interpreted ("json:", "nbd:", symbolic links). */

#include <jansson.h>

#include "base/error.h"
#include "io/loop.h"
#include "storage/datastore.h"

#define IMAGE_MAX_BYTES (UINT64_C(64) << 40) /* 64 TiB */

enum image_format { IMAGE_RAW, IMAGE_QCOW2, N_IMAGE_FORMATS };
const char *image_format_to_string(enum image_format format);
/* 0, or -EINVAL for a word that is none of "raw", "qcow2". */
int image_format_from_string(const char *s, enum image_format *ret_format);

enum image_allocation { IMAGE_THIN, IMAGE_THICK }; /* thick: space is reserved now, or NO_SPACE */

struct image_info {
        enum image_format format;
        uint64_t virtual_bytes;
        uint64_t allocated_bytes;
        bool dirty;        /* was not closed cleanly */
        bool corrupt;      /* marked so by QEMU */
        uint64_t n_errors; /* found by image_check_start() */
        uint64_t n_leaks;  /* clusters that nothing refers to: wasted space, no damage */
        /* Read by image_info_*() and image_check_start(), borrowed: names of the snapshots in a qcow2 image; NULL: none. */
        const json_t *snapshots;
};

/* Names of the snapshots in an image, of what QEMU says of it (qemu-img info, query-block's "image"): an array, the caller's; NULL: it
 * names none, or no memory. */
json_t *image_snapshot_names(const json_t *image);

/* Exactly one of info and error; borrowed. */
typedef void (*image_done_fn)(void *userdata, const struct image_info *info, struct error *error);

struct image_job;

/* All: `done` is called once from the loop, never from inside, and the job is gone then. `path` is relative to the
 * datastore. timeout_ms 0: 30 s (create: 10 min). Opening the file happens here and may block (see datastore.h).
 * Errors: NOT_FOUND, EXISTS, LOCKED (a QEMU has it open), NO_SPACE, TIMED_OUT, BAD_REQUEST (path), QEMU_FAILED with
 * qemu-img's own words. */

/* Makes a new image; folders on the way are made. A failed one is removed. `size_bytes` 1 to IMAGE_MAX_BYTES,
 * rounded up to 512. */
int image_create_start(struct loop *loop, const struct datastore *datastore, const char *path,
        enum image_format format, uint64_t size_bytes, enum image_allocation allocation, uint64_t timeout_ms,
        image_done_fn done, void *userdata, struct image_job **ret_job, struct error **ret_error);

/* Reads the header. Works for an image in use as well. CHECK_FAILED if the image refers to other files (backing
 * file, external data file): a hostile image could show its guest any file of the host. */
int image_info_start(struct loop *loop, const struct datastore *datastore, const char *path,
        enum image_format format, uint64_t timeout_ms, image_done_fn done, void *userdata,
        struct image_job **ret_job, struct error **ret_error);

/* Reads all metadata (qcow2; for raw only the header call is made); needs the image unused. Damage is in
 * info->n_errors, not an error. */
int image_check_start(struct loop *loop, const struct datastore *datastore, const char *path,
        enum image_format format, uint64_t timeout_ms, image_done_fn done, void *userdata,
        struct image_job **ret_job, struct error **ret_error);

/* Refuses what image_info_start() does, by the header of an open file: CHECK_FAILED, BAD_DOCUMENT. May block. */
int image_check_header(int fd, enum image_format format, const char *name, struct error **ret_error);

/* The same with files that are open already (opening.h), and whose headers were checked: these do not block. `name` is for messages; the
 * descriptors are taken over, also on failure. An image that could not be made is left to the caller. */
int image_create_opened(struct loop *loop, const char *name, int fd, enum image_format format,
        uint64_t size_bytes, image_done_fn done, void *userdata, struct image_job **ret_job,
        struct error **ret_error);
int image_info_opened(struct loop *loop, const char *name, int fd, enum image_format format,
        image_done_fn done, void *userdata, struct image_job **ret_job, struct error **ret_error);

/* Copies the content of an image that nobody writes into one that image_create_opened() has just made, of the same virtual
 * size: data only, what is not allocated or zero stays so. Written through: what could not be written is an error. The source is locked against writers
 * meanwhile (LOCKED). rate_bytes_per_s 0: as fast as it goes; timeout_ms 0: no limit. `info` is what it was given with
 * the target's allocated_bytes. A failed one leaves the target half written: it is the caller's to remove. */
int image_copy_opened(struct loop *loop, const char *name, int fd, enum image_format format, int to_fd,
        enum image_format to_format, uint64_t rate_bytes_per_s, uint64_t timeout_ms, image_done_fn done,
        void *userdata, struct image_job **ret_job, struct error **ret_error);

/* Changes the virtual size of an image that nobody uses, whose descriptor may be written to; `size_bytes` as above, and not less than it has. */
int image_resize_opened(struct loop *loop, const char *name, int fd, enum image_format format,
        uint64_t size_bytes, image_done_fn done, void *userdata, struct image_job **ret_job,
        struct error **ret_error);

/* Snapshots inside a qcow2 image that nobody uses, by name. APPLY: the image is as it was then, its size included. */
enum image_snapshot_verb { IMAGE_SNAPSHOT_CREATE, IMAGE_SNAPSHOT_APPLY, IMAGE_SNAPSHOT_DELETE };
int image_snapshot_opened(struct loop *loop, const char *name, int fd, enum image_snapshot_verb verb,
        const char *snapshot, image_done_fn done, void *userdata, struct image_job **ret_job,
        struct error **ret_error);

/* Kills qemu-img (and removes a half-made new image); `done` is not called. Accepts NULL. */
void image_job_free(struct image_job *job);
DEFINE_CLEANUP(struct image_job *, image_job_free)
