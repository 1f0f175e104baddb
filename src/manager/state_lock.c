/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/state_lock.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "io/file.h"

int state_lock(const char *state_dir, int *ret_fd, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("%s/lock", state_dir);
        int r = path ? file_lock(path, ret_fd) : -ENOMEM;

        switch (r) {
        case 0:
                return 0;
        case -EWOULDBLOCK:
                return error_set(ret_error, ERROR_CONFLICT, "Stop the other one first.",
                        "another drover-manager runs on %s", state_dir);
        case -ENOENT:
                return error_set(ret_error, ERROR_NOT_FOUND, "Run `drover-manager init` first.",
                        "there is no state directory %s", state_dir);
        case -EACCES:
        case -EPERM:
                return error_set(ret_error, ERROR_DENIED,
                        "Run it as the user that the directory belongs to (`sudo -u drover`), or give the "
                        "directory to this user.",
                        "this user may not write %s: %s", path, strerror(-r));
        case -EROFS:
                return error_set(ret_error, ERROR_CONFLICT,
                        "Mount its file system for writing (after an error it may need fsck first).",
                        "the state directory %s is on a file system that is read-only", state_dir);
        default:
                return error_from_errno(ret_error, r, "cannot lock %s", path ?: state_dir);
        }
}
