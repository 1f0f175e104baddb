/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Files that must not be half written. */

#include <sys/types.h>

#include "base/buf.h"
#include "base/error.h"

/* Reads a whole regular file of at most max_bytes (-E2BIG beyond). *ret_data is NUL-terminated and the
 * caller's; ret_len may be NULL. */
int file_read(const char *path, size_t max_bytes, char **ret_data, size_t *ret_len);

/* Replaces `path` atomically and durably: temporary file in the same folder, fsync, rename, fsync of the
 * folder. After a crash at any point the old or the new content is there, whole. */
int file_write_atomic(const char *path, const void *data, size_t len, mode_t mode);

/* mkdir -p. */
int file_make_dirs(const char *path, mode_t mode);

/* Removes a folder with everything in it; stays on its file system, does not follow symbolic links. -ENOENT
 * is 0. */
int file_remove_tree(const char *path);

/* fsync of the folder that holds `path`. */
int file_sync_parent(const char *path);

/* Opens (or makes) the file at `path` and locks it for this process alone: *ret_fd, which the caller closes. One that was
 * just killed may hold its lock for some moments, and so may a child of it that is not yet another program: it is waited
 * for, for FILE_LOCK_PATIENCE_MS at most. -EWOULDBLOCK: another process has it; else what open(2) said. */
#define FILE_LOCK_PATIENCE_MS 2000
int file_lock(const char *path, int *ret_fd);
