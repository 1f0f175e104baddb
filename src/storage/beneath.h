/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Files below a folder that others can write to. Every path is looked up by openat2() with RESOLVE_BENEATH and
 * RESOLVE_NO_SYMLINKS: neither "..", nor an absolute path, nor a symbolic link anywhere in it, planted before or
 * during the call, leads outside (-EXDEV, -ELOOP). `dir_fd` is the folder. */

#include <sys/types.h>

#include "base/error.h"
#include "base/macros.h"

/* The descriptor is CLOEXEC. 0 or negative errno. */
int beneath_open(int dir_fd, const char *path, int flags, mode_t mode, int *ret_fd);
/* As above, for a regular file: -EISDIR or -EINVAL for anything else (never waits for a FIFO's other end). */
int beneath_open_file(int dir_fd, const char *path, int flags, mode_t mode, int *ret_fd);

/* Reads a whole regular file of at most max_bytes (-E2BIG beyond). *ret_data is NUL-terminated and the
 * caller's; ret_len may be NULL. */
int beneath_read(int dir_fd, const char *path, size_t max_bytes, char **ret_data, size_t *ret_len);

/* As file_write_atomic(). With `exclusive` an existing file stays as it is: -EEXIST; of several writers on
 * several hosts exactly one succeeds, and nobody ever sees a half-written file. */
int beneath_write_atomic(
        int dir_fd, const char *path, const void *data, size_t len, mode_t mode, bool exclusive);

/* mkdir -p below dir_fd. */
int beneath_make_dirs(int dir_fd, const char *path, mode_t mode);

/* Removes a file (-EISDIR for a folder). */
int beneath_unlink(int dir_fd, const char *path);
/* Removes everything in the folder dir_fd except the entry `keep` (may be NULL), at most 64 levels deep, never
 * across a mount (-EXDEV). */
int beneath_clear(int dir_fd, const char *keep);

/* Whether the folder holds nothing, apart from the temporary file of a beneath_write_atomic() that broke off. */
int beneath_is_empty(int dir_fd, bool *ret_empty);

/* Whether it holds anything but entries of these names (NULL ends them) and such temporary files. */
int beneath_holds_others(int dir_fd, const char *const *names, bool *ret_holds);

/* The error object for a failure of the functions above: "WHERE: PATH: ..." with the cause that an operator can act
 * on. Returns the negative errno of its code. */
int beneath_failed(int r, const char *where, const char *path, struct error **ret_error);
#define beneath_failed(...) error_is_negative(beneath_failed(__VA_ARGS__)) /* see base/error.h */
