/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How a file system is mounted, from /proc/self/mountinfo (proc(5)). */

#include "base/macros.h"

/* False when the mount is one whose file locks end at this host: a network or cluster file system with nolock, local_lock,
 * localflocks or nobrl. `mountinfo` is the text of the file, `mount_id` the number that statx() gives; one that is not in the
 * text has locks. */
bool mount_locks_pass(const char *mountinfo, uint64_t mount_id);

/* Of the file system that `fd` is in; true when it cannot be found out. May block. */
bool mount_fd_locks_pass(int fd);
