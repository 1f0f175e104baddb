/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/mount.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "io/file.h"

#define MOUNTINFO_MAX_BYTES (4 << 20)

/* Options with which locks of the kind that QEMU and drover take (fcntl) are the host's own. An NFS server's own way of
 * telling (local_lock=flock) leaves those alone. */
static const struct {
        const char *file_system, *option;
} local_locks[] = {{"nfs", "nolock"}, {"nfs", "local_lock=all"}, {"nfs", "local_lock=posix"},
        {"nfs4", "local_lock=all"}, {"nfs4", "local_lock=posix"}, {"ocfs2", "localflocks"},
        {"gfs2", "localflocks"}, {"cifs", "nobrl"}, {"smb3", "nobrl"}};

/* "a,b,c" has the option. */
static bool has_option(const char *options, size_t len, const char *option)
{
        size_t wanted = strlen(option);

        for (const char *end = options + len; options < end;) {
                size_t n = strcspn(options, ", \n");

                if (n == wanted && !memcmp(options, option, n))
                        return true;
                options += n + 1;
        }
        return false;
}

/* The line's part after " - ": file system type, source, options of the file system. */
static bool line_locks_pass(const char *line, size_t len)
{
        _cleanup_free_ char *text = alloc_printf("%.*s", (int)len, line);
        const char *type = text ? strstr(text, " - ") : NULL, *source, *options;

        type = type ? type + 3 : NULL;
        source = type ? strchr(type, ' ') : NULL;
        options = source ? strchr(source + 1, ' ') : NULL;
        if (!options)
                return true;
        for (size_t i = 0; i < ARRAY_SIZE(local_locks); i++)
                if ((size_t)(source - type) == strlen(local_locks[i].file_system) &&
                        !strncmp(type, local_locks[i].file_system, (size_t)(source - type)) &&
                        has_option(options + 1, strlen(options + 1), local_locks[i].option))
                        return false;
        return true;
}

bool mount_locks_pass(const char *mountinfo, uint64_t mount_id)
{
        for (const char *line = mountinfo; *line; line += strspn(line, "\n")) {
                size_t len = strcspn(line, "\n");

                if (strtoull(line, NULL, 10) == mount_id)
                        return line_locks_pass(line, len);
                line += len;
        }
        return true;
}

bool mount_fd_locks_pass(int fd)
{
        _cleanup_free_ char *text = NULL;
        struct statx st;

        if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) < 0 || !(st.stx_mask & STATX_MNT_ID) ||
                file_read("/proc/self/mountinfo", MOUNTINFO_MAX_BYTES, &text, NULL) < 0)
                return true;
        return mount_locks_pass(text, st.stx_mnt_id);
}
