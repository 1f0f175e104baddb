/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/torture.h"
#include "io/file.h"
#include "io/pki.h"

#define CHECK_CHARS 16
#define SUFFIX ".journal"
/* Room for all later records of a migration: a few short ones and the report. */
#define RESERVE_BYTES (16 * 1024)

struct journal {
        char *path;
        int fd;
        off_t size_bytes; /* up to here the file is what `records` says */
        bool failed;      /* there may be more in the file */
        json_t *records;
};

static char *journal_path(const char *folder, const char *id, const char *vm_uid)
{
        return text_is_uuid(id) && text_is_uuid(vm_uid) ? alloc_printf("%s/%s.%s" SUFFIX, folder, id, vm_uid)
                                                        : NULL;
}

static int checksum(const char *text, size_t len, char ret[static CHECK_CHARS + 1])
{
        char full[PKI_FINGERPRINT_SIZE];
        int r = pki_sha256_hex(text, len, full);

        if (r < 0)
                return r;
        memcpy(ret, full, CHECK_CHARS);
        ret[CHECK_CHARS] = '\0';
        return 0;
}

static int write_all(int fd, const char *data, size_t len)
{
        while (len) {
                ssize_t n = torture_point() ? (errno = EIO, -1) : write(fd, data, len);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                data += n;
                len -= (size_t)n;
        }
        return 0;
}

/* Appends and syncs; *ret_len: bytes of the line. */
static int append_line(int fd, const json_t *record, size_t *ret_len)
{
        _cleanup_free_ char *text = doc_to_canonical_text(record), *line = NULL;
        char check[CHECK_CHARS + 1];
        int r;

        if (!text)
                return -ENOMEM;
        r = checksum(text, strlen(text), check);
        if (r < 0)
                return r;
        line = alloc_printf("%s %s\n", check, text);
        if (!line)
                return -ENOMEM;
        r = write_all(fd, line, strlen(line));
        if (r < 0)
                return r;
        if (fdatasync(fd) < 0)
                return -errno;
        *ret_len = strlen(line);
        return 0;
}

/* Takes the room now, when a full disk only means that the migration does not begin. File systems that cannot do
 * without. */
static int reserve(int fd, off_t from)
{
        int r = torture_point() ? (errno = ENOSPC, -1)
                                : fallocate(fd, FALLOC_FL_KEEP_SIZE, from, RESERVE_BYTES);

        return r < 0 && errno != EOPNOTSUPP && errno != ENOSYS ? -errno : 0;
}

void journal_free(struct journal *journal)
{
        if (!journal)
                return;
        fd_closep(&journal->fd);
        json_decref(journal->records);
        free(journal->path);
        free(journal);
}

static int journal_new(const char *folder, const char *id, const char *vm_uid, struct journal **ret_journal)
{
        struct journal *j = ALLOC(struct journal);

        if (!j)
                return -ENOMEM;
        j->fd = -1;
        j->path = journal_path(folder, id, vm_uid);
        j->records = json_array();
        if (!j->path || !j->records) {
                journal_free(j);
                return text_is_uuid(id) && text_is_uuid(vm_uid) ? -ENOMEM : -EINVAL;
        }
        *ret_journal = j;
        return 0;
}

int journal_create(const char *folder, const char *id, const char *vm_uid, const json_t *first,
        struct journal **ret_journal, struct error **ret_error)
{
        _cleanup_(journal_freep) struct journal *j = NULL;
        size_t len = 0;
        int r = journal_new(folder, id, vm_uid, &j);

        if (r < 0)
                return error_from_errno(ret_error, r, "cannot make a journal for migration %s", id);
        j->fd = open(j->path, O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (j->fd < 0)
                return error_from_errno(ret_error, errno, "cannot create the journal %s", j->path);
        r = append_line(j->fd, first, &len);
        if (r == 0)
                r = reserve(j->fd, (off_t)len);
        if (r == 0)
                r = json_array_append_new(j->records, json_deep_copy(first)) < 0 ? -ENOMEM : 0;
        if (r == 0)
                r = file_sync_parent(j->path);
        if (r < 0) {
                unlink(j->path);
                return error_from_errno(ret_error, r, "cannot write the journal %s", j->path);
        }
        j->size_bytes = (off_t)len;
        *ret_journal = TAKE_PTR(j);
        return 0;
}

/* Parses the line [line, line + len); -EBADMSG when it is damaged. */
static int parse_line(const char *line, size_t len, json_t **ret_record)
{
        char check[CHECK_CHARS + 1];

        if (len < CHECK_CHARS + 3 || line[CHECK_CHARS] != ' ')
                return -EBADMSG;
        if (checksum(line + CHECK_CHARS + 1, len - CHECK_CHARS - 1, check) < 0 ||
                memcmp(check, line, CHECK_CHARS))
                return -EBADMSG;
        return doc_parse(line + CHECK_CHARS + 1, len - CHECK_CHARS - 1, ret_record, NULL) < 0 ? -EBADMSG : 0;
}

static int load(struct journal *j, const char *text, size_t len, size_t *ret_good)
{
        size_t at = 0;

        while (at < len) {
                const char *end = memchr(text + at, '\n', len - at);
                json_t *record;
                int r = end ? parse_line(text + at, (size_t)(end - text) - at, &record) : -EBADMSG;

                if (r < 0) {
                        /* Only the last write can be torn; anything after a damaged line means damage, not a
                         * crash. */
                        if (end && ((size_t)(end - text) + 1 < len || at == 0))
                                return -EBADMSG;
                        break;
                }
                if (json_array_append_new(j->records, record) < 0)
                        return -ENOMEM;
                at = (size_t)(end - text) + 1;
        }
        *ret_good = at;
        return json_array_size(j->records) ? 0 : -ENODATA;
}

int journal_open(const char *folder, const char *id, const char *vm_uid, struct journal **ret_journal,
        struct error **ret_error)
{
        _cleanup_(journal_freep) struct journal *j = NULL;
        _cleanup_free_ char *text = NULL;
        size_t len, good = 0;
        int r = journal_new(folder, id, vm_uid, &j);

        if (r < 0)
                return error_from_errno(ret_error, r, "cannot open the journal of migration %s", id);
        r = file_read(j->path, JOURNAL_MAX_BYTES, &text, &len);
        if (r == 0)
                r = load(j, text, len, &good);
        if (r == -ENODATA)
                return error_set(ret_error, ERROR_NOT_FOUND, NULL,
                        "the ownership journal %s ends in its first record", j->path);
        if (r < 0)
                return error_set(ret_error, ERROR_OWNER_UNKNOWN,
                        "Find out on which host the virtual machine runs, then remove the file.",
                        "the ownership journal %s cannot be read: %s", j->path, strerror(-r));
        j->fd = open(j->path, O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
        if (j->fd < 0 || (good < len && (ftruncate(j->fd, (off_t)good) < 0 || fdatasync(j->fd) < 0)))
                return error_from_errno(ret_error, errno, "cannot open the journal %s", j->path);
        j->size_bytes = (off_t)good;
        *ret_journal = TAKE_PTR(j);
        return 0;
}

/* Cuts off what a failed write left, so that the file says again what its caller was told. */
static int repair(struct journal *journal)
{
        if (ftruncate(journal->fd, journal->size_bytes) < 0 || fdatasync(journal->fd) < 0)
                return -errno;
        journal->failed = false;
        return 0;
}

int journal_append(struct journal *journal, const json_t *record, struct error **ret_error)
{
        json_t *copy = json_deep_copy(record);
        size_t len = 0;
        int r = copy ? 0 : -ENOMEM;

        if (r == 0 && journal->failed)
                r = repair(journal);
        if (r == 0) {
                journal->failed = true;
                r = append_line(journal->fd, record, &len);
        }
        if (r == 0)
                r = json_array_append_new(journal->records, TAKE_PTR(copy)) < 0 ? -ENOMEM : 0;
        if (r < 0) {
                json_decref(copy);
                return error_from_errno(ret_error, r, "cannot write the journal %s", journal->path);
        }
        journal->failed = false;
        journal->size_bytes += (off_t)len;
        return 0;
}

const json_t *journal_records(const struct journal *journal)
{
        return journal->records;
}

int journal_remove(const char *folder, const char *id, const char *vm_uid)
{
        _cleanup_free_ char *path = journal_path(folder, id, vm_uid);

        if (!path)
                return -ENOMEM;
        if (unlink(path) < 0 && errno != ENOENT)
                return -errno;
        return file_sync_parent(path);
}

/* "UUID.UUID.journal" */
static bool parse_name(
        const char *name, char ret_id[static UUID_STRING_SIZE], char ret_vm_uid[static UUID_STRING_SIZE])
{
        const size_t len = UUID_STRING_SIZE - 1;

        if (strlen(name) != 2 * len + 1 + strlen(SUFFIX) || name[len] != '.' ||
                strcmp(name + 2 * len + 1, SUFFIX))
                return false;
        snprintf(ret_id, UUID_STRING_SIZE, "%.*s", (int)len, name);
        snprintf(ret_vm_uid, UUID_STRING_SIZE, "%.*s", (int)len, name + len + 1);
        return text_is_uuid(ret_id) && text_is_uuid(ret_vm_uid);
}

int journal_for_each(
        const char *folder, void (*fn)(void *userdata, const char *id, const char *vm_uid), void *userdata)
{
        struct dirent *entry;
        DIR *dir = opendir(folder);

        if (!dir)
                return errno == ENOENT ? 0 : -errno;
        while ((entry = readdir(dir))) {
                char id[UUID_STRING_SIZE], vm_uid[UUID_STRING_SIZE];

                if (parse_name(entry->d_name, id, vm_uid))
                        fn(userdata, id, vm_uid);
        }
        closedir(dir);
        return 0;
}
