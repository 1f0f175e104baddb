/* SPDX-License-Identifier: Apache-2.0 */
#include "io/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/alloc.h"
#include "base/torture.h"

#define READ_STEP 4096
#define LOCK_PAUSE_MS 20
#define TREE_MAX_DEPTH 128 /* one descriptor a level */

static int read_all(int fd, struct buf *buf)
{
        for (;;) {
                /* One byte beyond the maximum may be asked for, to tell "full" from "too large". */
                size_t room = MIN((size_t)READ_STEP, buf->max - buf->len);
                char *to = buf_reserve(buf, room);
                char extra;
                ssize_t n;

                if (!to)
                        return -ENOMEM;
                n = room ? read(fd, to, room) : read(fd, &extra, 1);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        return 0;
                if (!room)
                        return -E2BIG;
                buf_commit(buf, (size_t)n);
        }
}

int file_read(const char *path, size_t max_bytes, char **ret_data, size_t *ret_len)
{
        _cleanup_buf_ struct buf buf;
        _cleanup_fd_ int fd = -1;
        struct stat st;
        size_t len;
        char *data;
        int r;

        buf_init(&buf, MAX(max_bytes, (size_t)1));
        /* Non-blocking, so that a FIFO in the file's place cannot stop the loop. */
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
        r = torture_point() ? -EIO : read_all(fd, &buf); /* size unknown: /proc and /sys say 0 */
        if (r < 0)
                return r;
        len = buf.len;
        data = buf_take_string(&buf);
        if (!data)
                return -ENOMEM;
        *ret_data = data;
        if (ret_len)
                *ret_len = len;
        return 0;
}

static int write_all(int fd, const char *data, size_t len)
{
        while (len) {
                ssize_t n = write(fd, data, len);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                data += n;
                len -= (size_t)n;
        }
        return 0;
}

static int write_durably(int fd, const void *data, size_t len, mode_t mode)
{
        int r = torture_point() ? -ENOSPC : write_all(fd, data, len);

        if (r < 0)
                return r;
        if (fchmod(fd, mode) < 0 || fsync(fd) < 0)
                return -errno;
        return 0;
}

int file_write_atomic(const char *path, const void *data, size_t len, mode_t mode)
{
        _cleanup_free_ char *temp = alloc_printf("%s.XXXXXX", path);
        _cleanup_fd_ int fd = -1;
        int r;

        if (!temp)
                return -ENOMEM;
        fd = mkostemp(temp, O_CLOEXEC);
        if (fd < 0)
                return -errno;
        r = write_durably(fd, data, len, mode);
        if (r == 0 && rename(temp, path) < 0)
                r = -errno;
        if (r < 0) {
                (void)unlink(temp);
                return r;
        }
        return file_sync_parent(path);
}

int file_make_dirs(const char *path, mode_t mode)
{
        _cleanup_free_ char *copy = alloc_strdup(path);
        struct stat st;

        if (!copy)
                return -ENOMEM;
        for (char *at = copy;;) {
                char saved;

                at += strspn(at, "/");
                at += strcspn(at, "/");
                saved = *at;
                *at = '\0';
                if (*copy && mkdir(copy, mode) < 0 && errno != EEXIST)
                        return -errno;
                *at = saved;
                if (!saved)
                        break;
        }
        if (stat(path, &st) < 0)
                return -errno;
        return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

static int remove_content(int dir_fd, dev_t device, unsigned int depth);

static int remove_entry(int dir_fd, const char *name, dev_t device, unsigned int depth)
{
        _cleanup_fd_ int fd = -1;
        struct stat st;
        int r;

        if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (!S_ISDIR(st.st_mode))
                return unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
        fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (st.st_dev != device)
                return -EXDEV; /* somebody mounted something here: not ours to empty */
        if (depth >= TREE_MAX_DEPTH)
                return -ELOOP;
        r = remove_content(TAKE_FD(fd), device, depth + 1);
        if (r < 0)
                return r;
        return unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

static void dir_closep(DIR **dir)
{
        if (*dir)
                closedir(*dir);
}

/* Takes dir_fd over. */
static int remove_content(int dir_fd, dev_t device, unsigned int depth)
{
        _cleanup_(dir_closep) DIR *dir = fdopendir(dir_fd);

        if (!dir) {
                int saved = errno;

                close(dir_fd);
                return -saved;
        }
        for (;;) {
                const struct dirent *entry;
                int r;

                errno = 0;
                entry = readdir(dir);
                if (!entry)
                        return -errno;
                if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
                        continue;
                r = remove_entry(dirfd(dir), entry->d_name, device, depth);
                if (r < 0)
                        return r;
        }
}

int file_remove_tree(const char *path)
{
        struct stat st;

        if (lstat(path, &st) < 0)
                return errno == ENOENT ? 0 : -errno;
        return remove_entry(AT_FDCWD, path, st.st_dev, 0);
}

int file_sync_parent(const char *path)
{
        const char *slash = strrchr(path, '/');
        _cleanup_free_ char *parent = NULL;
        _cleanup_fd_ int fd = -1;

        if (!slash)
                parent = alloc_strdup(".");
        else
                parent = alloc_printf("%.*s", (int)MAX(slash - path, 1), path);
        if (!parent)
                return -ENOMEM;
        fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fsync(fd) < 0)
                return -errno;
        return 0;
}

int file_lock(const char *path, int *ret_fd)
{
        const struct timespec pause = {.tv_nsec = LOCK_PAUSE_MS * 1000000};
        _cleanup_fd_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

        if (fd < 0)
                return -errno;
        for (int waited = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; waited += LOCK_PAUSE_MS) {
                if (errno != EWOULDBLOCK || waited >= FILE_LOCK_PATIENCE_MS)
                        return -errno;
                (void)nanosleep(&pause, NULL);
        }
        *ret_fd = TAKE_FD(fd);
        return 0;
}
