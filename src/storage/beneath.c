/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/beneath.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/alloc.h"
#include "base/text.h"
#include "base/torture.h"

#define MAX_DEPTH 64
#define OPEN_TRIES 16
#define TEMPORARY_PREFIX ".tmp-"

/* openat2() has no wrapper in glibc. It answers EAGAIN when a rename elsewhere on the path raced with it. */
static int open_resolved(int dir_fd, const char *path, int flags, mode_t mode, uint64_t resolve, int *ret_fd)
{
        struct open_how how = {
                .flags = (uint64_t)(flags | O_CLOEXEC | O_NOCTTY), .mode = mode, .resolve = resolve};
        long fd = -1;

        if (torture_point())
                return -EIO;
        for (int i = 0; i < OPEN_TRIES; i++) {
                fd = syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));
                if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
                        break;
        }
        if (fd < 0)
                return -errno;
        *ret_fd = (int)fd;
        return 0;
}

int beneath_open(int dir_fd, const char *path, int flags, mode_t mode, int *ret_fd)
{
        return open_resolved(dir_fd, path, flags, mode,
                RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS, ret_fd);
}

int beneath_open_file(int dir_fd, const char *path, int flags, mode_t mode, int *ret_fd)
{
        _cleanup_fd_ int fd = -1;
        struct stat st;
        int r;

        /* Non-blocking, so that a FIFO planted here does not hold us up; without effect on regular files. */
        r = beneath_open(dir_fd, path, flags | O_NONBLOCK, mode, &fd);
        if (r < 0)
                return r;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (S_ISDIR(st.st_mode))
                return -EISDIR;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int read_up_to(int fd, char *to, size_t size, size_t *ret_len)
{
        size_t len = 0;

        while (len < size) {
                ssize_t n = read(fd, to + len, size - len);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (!n)
                        break;
                len += (size_t)n;
        }
        *ret_len = len;
        return 0;
}

int beneath_read(int dir_fd, const char *path, size_t max_bytes, char **ret_data, size_t *ret_len)
{
        _cleanup_free_ char *data = NULL;
        _cleanup_fd_ int fd = -1;
        struct stat st;
        size_t len = 0;
        int r;

        r = beneath_open_file(dir_fd, path, O_RDONLY, 0, &fd);
        if (r < 0)
                return r;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_size < 0 || (uint64_t)st.st_size > max_bytes)
                return -E2BIG;
        /* One byte more than it has, so that a file that grows meanwhile is noticed; and the NUL. */
        data = alloc_zero((size_t)st.st_size + 2);
        if (!data)
                return -ENOMEM;
        r = read_up_to(fd, data, (size_t)st.st_size + 1, &len);
        if (r < 0)
                return r;
        if (len > (size_t)st.st_size)
                return -EAGAIN;
        data[len] = '\0';
        *ret_data = TAKE_PTR(data);
        if (ret_len)
                *ret_len = len;
        return 0;
}

static int write_all(int fd, const void *data, size_t len)
{
        const char *at = data;

        while (len) {
                ssize_t n = write(fd, at, len);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                at += n;
                len -= (size_t)n;
        }
        return 0;
}

/* Opens the folder that holds `path` and points *ret_base at the last component. */
static int open_parent(int dir_fd, const char *path, int *ret_fd, const char **ret_base)
{
        const char *slash = strrchr(path, '/');
        char folder[256];
        int r;

        if (!text_is_relative_path(path))
                return -EXDEV;
        snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
        r = beneath_open(dir_fd, folder, O_RDONLY | O_DIRECTORY, 0, ret_fd);
        if (r < 0)
                return r;
        *ret_base = slash ? slash + 1 : path;
        return 0;
}

/* Gives the finished temporary file its name. A file system without hard links (some FUSE, CIFS) gets the rename
 * that does not replace. */
static int put_in_place(int folder_fd, const char *temporary, const char *base, bool exclusive)
{
        if (torture_point())
                return -EIO;
        if (!exclusive)
                return renameat(folder_fd, temporary, folder_fd, base) < 0 ? -errno : 0;
        if (!linkat(folder_fd, temporary, folder_fd, base, 0)) {
                /* The name stays valid if this fails; the temporary one is then only litter. */
                (void)unlinkat(folder_fd, temporary, 0);
                return 0;
        }
        if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS)
                return -errno;
        return renameat2(folder_fd, temporary, folder_fd, base, RENAME_NOREPLACE) < 0 ? -errno : 0;
}

int beneath_write_atomic(
        int dir_fd, const char *path, const void *data, size_t len, mode_t mode, bool exclusive)
{
        _cleanup_fd_ int folder_fd = -1, fd = -1;
        char temporary[32], random[17];
        const char *base = NULL;
        int r;

        r = open_parent(dir_fd, path, &folder_fd, &base);
        if (!r)
                r = text_random_hex(8, random);
        if (r < 0)
                return r;
        /* A leading dot and no part of the name: the result fits whatever the length of `base`. */
        snprintf(temporary, sizeof(temporary), TEMPORARY_PREFIX "%s", random);
        r = beneath_open(folder_fd, temporary, O_WRONLY | O_CREAT | O_EXCL, mode, &fd);
        if (r < 0)
                return r;
        r = write_all(fd, data, len);
        if (!r && fsync(fd) < 0)
                r = -errno;
        if (!r)
                r = put_in_place(folder_fd, temporary, base, exclusive);
        if (r < 0) {
                (void)unlinkat(folder_fd, temporary, 0);
                return r;
        }
        return fsync(folder_fd) < 0 ? -errno : 0;
}

int beneath_make_dirs(int dir_fd, const char *path, mode_t mode)
{
        _cleanup_fd_ int fd = -1;
        char part[256];
        int r;

        if (!text_is_relative_path(path))
                return -EXDEV;
        r = beneath_open(dir_fd, ".", O_RDONLY | O_DIRECTORY, 0, &fd);
        for (; !r && *path; path += path[strlen(part)] ? strlen(part) + 1 : strlen(part)) {
                int next;

                snprintf(part, sizeof(part), "%.*s", (int)strcspn(path, "/"), path);
                if (mkdirat(fd, part, mode) < 0 && errno != EEXIST)
                        return -errno;
                r = beneath_open(fd, part, O_RDONLY | O_DIRECTORY, 0, &next);
                if (r < 0)
                        break;
                close(fd);
                fd = next;
        }
        return r;
}

int beneath_unlink(int dir_fd, const char *path)
{
        _cleanup_fd_ int folder_fd = -1;
        const char *base = NULL;
        int r = open_parent(dir_fd, path, &folder_fd, &base);

        if (r < 0)
                return r;
        return unlinkat(folder_fd, base, 0) < 0 ? -errno : 0;
}

static int clear(int dir_fd, const char *keep, unsigned int depth);

static int clear_entry(int dir_fd, const char *name, unsigned int depth)
{
        _cleanup_fd_ int fd = -1;
        int r;

        if (!unlinkat(dir_fd, name, 0) || errno == ENOENT)
                return 0;
        if (errno != EISDIR && errno != EPERM) /* Linux and POSIX words for "is a folder" */
                return -errno;
        r = open_resolved(dir_fd, name, O_RDONLY | O_DIRECTORY, 0,
                RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, &fd);
        if (!r)
                r = clear(fd, NULL, depth + 1);
        if (!r && unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
                r = -errno;
        return r;
}

static void dir_closep(DIR **dir)
{
        if (*dir)
                closedir(*dir);
}

/* A stream with a descriptor of its own: reading moves its offset. */
static int open_stream(int dir_fd, DIR **ret_dir)
{
        _cleanup_fd_ int fd = -1;
        DIR *dir;
        int r = beneath_open(dir_fd, ".", O_RDONLY | O_DIRECTORY, 0, &fd);

        if (r < 0)
                return r;
        dir = fdopendir(fd);
        if (!dir)
                return -ENOMEM; /* what else, with a folder that was just opened */
        TAKE_FD(fd);
        *ret_dir = dir;
        return 0;
}

static bool is_dots(const char *name)
{
        return !strcmp(name, ".") || !strcmp(name, "..");
}

static int clear(int dir_fd, const char *keep, unsigned int depth)
{
        _cleanup_(dir_closep) DIR *dir = NULL;
        const struct dirent *entry;
        int r;

        if (depth >= MAX_DEPTH)
                return -ELOOP;
        r = open_stream(dir_fd, &dir);
        if (r < 0)
                return r;
        for (errno = 0; (entry = readdir(dir)); errno = 0) {
                if (is_dots(entry->d_name) || (keep && !strcmp(entry->d_name, keep)))
                        continue;
                r = clear_entry(dir_fd, entry->d_name, depth);
                if (r < 0)
                        return r;
        }
        return -errno;
}

int beneath_clear(int dir_fd, const char *keep)
{
        return clear(dir_fd, keep, 0);
}

int beneath_is_empty(int dir_fd, bool *ret_empty)
{
        bool holds = false;
        int r = beneath_holds_others(dir_fd, (const char *const[]){NULL}, &holds);

        if (r == 0)
                *ret_empty = !holds;
        return r;
}

int beneath_holds_others(int dir_fd, const char *const *names, bool *ret_holds)
{
        _cleanup_(dir_closep) DIR *dir = NULL;
        const struct dirent *entry;
        bool holds = false;
        int r = open_stream(dir_fd, &dir);

        if (r < 0)
                return r;
        for (errno = 0; (entry = readdir(dir)); errno = 0) {
                const char *const *name = names;

                while (*name && strcmp(*name, entry->d_name) != 0)
                        name++;
                holds |= !*name && !is_dots(entry->d_name) &&
                         strncmp(entry->d_name, TEMPORARY_PREFIX, strlen(TEMPORARY_PREFIX)) != 0;
        }
        if (errno)
                return -errno;
        *ret_holds = holds;
        return 0;
}

int(beneath_failed)(int r, const char *where, const char *path, struct error **ret_error)
{
        switch (-r) {
        case ENOENT:
        case ENOTDIR:
                return error_set(
                        ret_error, ERROR_NOT_FOUND, "Check the path.", "%s: %s does not exist", where, path);
        case EEXIST:
                return error_set(ret_error, ERROR_EXISTS, "Choose another path.", "%s: %s exists already",
                        where, path);
        case EXDEV:
        case ELOOP:
                return error_set(ret_error, ERROR_BAD_REQUEST,
                        "Name the file by its real path inside the datastore.",
                        "%s: %s leaves the folder or goes through a symbolic link", where, path);
        case EISDIR:
        case EINVAL:
        case ENXIO:
                return error_set(ret_error, ERROR_BAD_REQUEST, "Name a regular file.",
                        "%s: %s is no regular file", where, path);
        case E2BIG:
                return error_set(
                        ret_error, ERROR_TOO_LARGE, NULL, "%s: %s is larger than it can be", where, path);
        case ENOSPC:
        case EDQUOT:
                return error_set(ret_error, ERROR_NO_SPACE, "Free space on the datastore, or enlarge it.",
                        "%s: %s cannot be written: the datastore is full", where, path);
        case EROFS:
        case EACCES:
        case EPERM:
                return error_set(ret_error, ERROR_DENIED,
                        "Mount the datastore writable for root (NFS: no_root_squash).", "%s: %s: %s", where,
                        path, strerror(-r));
        default:
                return error_from_errno(ret_error, r, "%s: %s", where, path);
        }
}
