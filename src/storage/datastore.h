/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Directory datastores: local folders, NFS, CephFS, cluster file systems. What makes two folders on two hosts the
 * same datastore is the id in the file ".drover-datastore" ({"format": 1, "id": UUID, "name": NAME}), not a path.
 *
 * Functions that say "may block" touch the file system: call them through offload.h, or after a fresh successful
 * datastore_check(). */

#include <jansson.h>

#include "base/error.h"
#include "base/text.h"
#include "io/loop.h"
#include "storage/offload.h"
#include "storage/write_rate.h"

#define DATASTORE_ID_FILE ".drover-datastore"
#define DATASTORE_CHECK_TIMEOUT_MS 5000

struct datastore {
        char *name;
        char *path; /* absolute, symbolic links resolved */
        char id[UUID_STRING_SIZE];
        int fd; /* the folder, for the functions of beneath.h */
};

/* Text only, never blocks: absolute, canonical form ("//", "." and ".." refused), no control characters, and no
 * folder of the system ("/", "/etc", "/usr/...", "/home" itself, ...). */
int datastore_check_path(const char *path, struct error **ret_error);

/* Opens the folder and reads its id file. `id`: the one that it must have (CONFLICT otherwise; NOT_FOUND if there
 * is no id file: an unmounted mount point must never become a new datastore), or NULL: any, and with none there
 * one is made, with `name`. Two hosts doing so at once agree on one. May block. */
int datastore_open(const char *name, const char *path, const char *id, struct datastore **ret_datastore,
        struct error **ret_error);
void datastore_free(struct datastore *datastore);
DEFINE_CLEANUP(struct datastore *, datastore_free)

struct datastore_status {
        char id[UUID_STRING_SIZE];
        uint64_t capacity_bytes;
        uint64_t free_bytes;    /* for a user that is not root */
        char file_system[32];   /* "nfs", "ext4", "xfs", "ceph", ..., or "0x" and the magic in hex */
        bool shared;            /* the file system is one that several hosts can mount */
        bool locks;             /* and is mounted so that file locks count on all of them (mount.h) */
        uint32_t latency_us;    /* datastore_check_start(): of a small write until it is safe; 0: not known */
        struct write_rate rate; /* the same, when it was to be measured */
};
/* May block. latency_us and rate stay 0. */
int datastore_stat(
        const struct datastore *datastore, struct datastore_status *ret_status, struct error **ret_error);

/* Exactly one of status and error; borrowed. */
typedef void (*datastore_check_fn)(
        void *userdata, const struct datastore_status *status, struct error *error);
/* datastore_open() and datastore_stat() in a child process, with a proof that the folder is writable; TIMED_OUT
 * when the storage does not answer within timeout_ms (0: DATASTORE_CHECK_TIMEOUT_MS). Never blocks. measure: the rate as well
 * (write_rate.h), unless the latency says that the store is busy, or its room is short. Free the handle with datastore_check_free() to give
 * up; it is gone after `done`. */
struct datastore_check;
int datastore_check_start(struct loop *loop, const char *name, const char *path, const char *id,
        uint64_t timeout_ms, bool measure, datastore_check_fn done, void *userdata,
        struct datastore_check **ret_check, struct error **ret_error);
void datastore_check_free(struct datastore_check *check);
DEFINE_CLEANUP(struct datastore_check *, datastore_check_free)

/* Opens the regular file `path` (relative to the datastore) with `flags`: O_RDONLY or O_RDWR. For QEMU hand the
 * descriptor on and name it /proc/self/fd/N, which no symbolic link planted later can change. NOT_FOUND,
 * BAD_REQUEST (a path that leaves the datastore), ... May block. */
int datastore_open_file(const struct datastore *datastore, const char *path, int flags, int *ret_fd,
        struct error **ret_error);
/* The absolute path of such a file, after the same checks (the file must exist); the caller's. A link planted
 * between this check and the use is followed: prefer the descriptor. May block. */
int datastore_file_path(
        const struct datastore *datastore, const char *path, char **ret_path, struct error **ret_error);
