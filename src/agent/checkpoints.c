/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/checkpoints.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/file.h"

#define UNFINISHED ".new" /* follows the guest's uid */
#define MAX_HOSTS 32      /* that keep something of one guest */
#define MAX_KEYS_BYTES 16384
#define KEEP_FREE_BYTES (256 * 1024 * 1024) /* of the file system: journals are on it */

struct checkpoints {
        char *folder, *keys_folder;
        int folder_fd;
        uint64_t max_bytes, max_age_s;
        uint64_t reserved_bytes; /* what the files that are being written may come to */
};

static bool remove_file(const struct checkpoints *c, const char *name)
{
        if (unlinkat(c->folder_fd, name, 0) == 0 || errno == ENOENT)
                return true;
        log_warning("%s/%s cannot be removed: %s", c->folder, name, strerror(errno));
        return false;
}

static bool is_unfinished(const char *name)
{
        size_t len = strlen(name), tail = strlen(UNFINISHED);

        return len > tail && strcmp(name + len - tail, UNFINISHED) == 0;
}

/* Looks at each complete file: removes those that are too old, adds up the sizes of the others, and finds the oldest. `unfinished`:
 * removes those that are not complete. */
static int look(
        const struct checkpoints *c, bool unfinished, uint64_t *ret_bytes, char ret_oldest[static 256])
{
        time_t now = time(NULL), oldest = 0;
        DIR *dir = opendir(c->folder);
        struct dirent *entry;

        *ret_bytes = 0;
        ret_oldest[0] = '\0';
        if (!dir)
                return -errno;
        while ((entry = readdir(dir))) {
                struct stat st;

                if (fstatat(c->folder_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
                        !S_ISREG(st.st_mode))
                        continue;
                if (is_unfinished(entry->d_name)) {
                        if (unfinished)
                                (void)remove_file(c, entry->d_name);
                        continue;
                }
                if (now - st.st_mtime > (time_t)c->max_age_s) {
                        (void)remove_file(c, entry->d_name);
                        continue;
                }
                *ret_bytes += (uint64_t)st.st_blocks * 512;
                if (!ret_oldest[0] || st.st_mtime < oldest) {
                        oldest = st.st_mtime;
                        snprintf(ret_oldest, 256, "%s", entry->d_name);
                }
        }
        closedir(dir);
        return 0;
}

static void prune(const struct checkpoints *c, bool unfinished)
{
        uint64_t bytes;
        char oldest[256];

        while (look(c, unfinished, &bytes, oldest) == 0 && bytes > c->max_bytes && oldest[0])
                if (!remove_file(c, oldest))
                        return;
}

int checkpoints_new(const char *state_dir, uint64_t max_bytes, uint64_t max_age_s,
        struct checkpoints **ret_checkpoints, struct error **ret_error)
{
        _cleanup_(checkpoints_freep) struct checkpoints *c = ALLOC(struct checkpoints);
        int r;

        if (!c)
                return error_from_errno(ret_error, ENOMEM, "checkpoints");
        *c = (struct checkpoints){.folder_fd = -1, .max_bytes = max_bytes, .max_age_s = max_age_s};
        c->folder = alloc_printf("%s/checkpoints", state_dir);
        c->keys_folder = alloc_printf("%s/checkpoint-keys", state_dir);
        if (!c->folder || !c->keys_folder)
                return error_from_errno(ret_error, ENOMEM, "checkpoints");
        r = file_make_dirs(c->folder, 0700);
        if (r == 0)
                r = file_make_dirs(c->keys_folder, 0700);
        if (r < 0)
                return error_from_errno(ret_error, r, "folder for checkpoints in %s", state_dir);
        c->folder_fd = open(c->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (c->folder_fd < 0)
                return error_from_errno(ret_error, errno, "%s", c->folder);
        prune(c, true);
        *ret_checkpoints = TAKE_PTR(c);
        return 0;
}

void checkpoints_free(struct checkpoints *c)
{
        if (!c)
                return;
        fd_closep(&c->folder_fd);
        free(c->folder);
        free(c->keys_folder);
        free(c);
}

bool checkpoints_wanted(const struct checkpoints *c)
{
        return c->max_bytes > 0;
}

static void unfinished_name(const char *vm_uid, char ret[static UUID_STRING_SIZE + sizeof(UNFINISHED)])
{
        snprintf(ret, UUID_STRING_SIZE + sizeof(UNFINISHED), "%s" UNFINISHED, vm_uid);
}

int checkpoints_begin(struct checkpoints *c, const char *vm_uid, uint64_t ram_bytes, int *ret_fd)
{
        char name[UUID_STRING_SIZE + sizeof(UNFINISHED)];
        struct statvfs fs;
        int fd;

        if (!checkpoints_wanted(c))
                return -EOPNOTSUPP;
        if (fstatvfs(c->folder_fd, &fs) < 0)
                return -errno;
        if ((uint64_t)fs.f_bavail * fs.f_frsize < ram_bytes + c->reserved_bytes + KEEP_FREE_BYTES)
                return -ENOSPC;
        unfinished_name(vm_uid, name);
        (void)remove_file(c, name); /* a mover that hangs may still have one open */
        fd = openat(c->folder_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;
        c->reserved_bytes += ram_bytes;
        *ret_fd = fd;
        return 0;
}

bool checkpoints_end(struct checkpoints *c, const char *vm_uid, uint64_t ram_bytes, bool complete)
{
        char name[UUID_STRING_SIZE + sizeof(UNFINISHED)];
        struct stat st;

        c->reserved_bytes -= MIN(ram_bytes, c->reserved_bytes);
        unfinished_name(vm_uid, name);
        if (complete && fstatat(c->folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                (uint64_t)st.st_blocks * 512 <= c->max_bytes &&
                renameat(c->folder_fd, name, c->folder_fd, vm_uid) == 0) {
                prune(c, false);
                return true;
        }
        if (complete)
                log_notice("%s/%s is not kept: it is larger than checkpoint-space, or cannot be renamed",
                        c->folder, name);
        (void)remove_file(c, name);
        return false;
}

int checkpoints_open(struct checkpoints *c, const char *vm_uid, int *ret_fd)
{
        int fd;

        prune(c, false);
        if (!checkpoints_wanted(c))
                return -ENOENT;
        fd = openat(c->folder_fd, vm_uid, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return -errno;
        *ret_fd = fd;
        return 0;
}

void checkpoints_drop(struct checkpoints *c, const char *vm_uid)
{
        (void)remove_file(c, vm_uid);
}

json_t *checkpoints_keys(struct checkpoints *c, const char *vm_uid)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s.json", c->keys_folder, vm_uid);
        _cleanup_free_ char *text = NULL;
        json_t *keys = NULL;
        size_t len = 0;

        if (path && file_read(path, MAX_KEYS_BYTES, &text, &len) == 0 &&
                (doc_parse(text, len, &keys, NULL) < 0 || checkpoints_check_keys(keys, NULL) < 0)) {
                log_warning("%s is not valid", path);
                json_decref(TAKE_PTR(keys));
        }
        if (text)
                explicit_bzero(text, len);
        return keys ?: json_object();
}

void checkpoints_set_keys(struct checkpoints *c, const char *vm_uid, const json_t *keys)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s.json", c->keys_folder, vm_uid);
        _cleanup_free_ char *text = NULL;
        int r = -ENOMEM;

        if (!path)
                return;
        if (!keys || json_object_size(keys) == 0) {
                r = unlink(path) < 0 && errno != ENOENT ? -errno : 0;
        } else {
                text = doc_to_text(keys);
                if (text) {
                        r = file_write_atomic(path, text, strlen(text), 0600);
                        explicit_bzero(text, strlen(text));
                }
        }
        if (r < 0)
                log_warning("%s cannot be written: %s", path, strerror(-r));
}

int checkpoints_check_keys(const json_t *keys, struct error **ret_error)
{
        uint8_t raw[CHECKPOINT_KEY_HEX / 2];
        const json_t *value;
        const char *host;
        bool valid = true;

        if (!json_is_object(keys) || json_object_size(keys) > MAX_HOSTS)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "the keys of checkpoints are no object of at most %d members", MAX_HOSTS);
        json_object_foreach ((json_t *)keys, host, value)
                valid = valid && text_is_uuid(host) && json_is_string(value) &&
                        text_hex_decode(json_string_value(value), raw, sizeof(raw)) == 0;
        explicit_bzero(raw, sizeof(raw));
        return valid ? 0
                     : error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                               "the keys of checkpoints are not keys by hosts' uids");
}
