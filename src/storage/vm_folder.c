/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/vm_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/torture.h"
#include "io/file.h"
#include "storage/beneath.h"

#define NVRAM_MAX_BYTES (64 * 1024 * 1024)

static int new_folder(const struct datastore *datastore, const char *name, const char *uid, int fd,
        struct vm_folder **ret_folder, struct error **ret_error)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = ALLOC(struct vm_folder);

        if (!folder) {
                close(fd);
                return error_from_errno(ret_error, ENOMEM, "cannot open folder %s", name);
        }
        folder->fd = fd;
        snprintf(folder->uid, sizeof(folder->uid), "%s", uid);
        folder->path = alloc_printf("%s/%s", datastore->path, name);
        folder->name = alloc_strdup(name);
        if (!folder->path || !folder->name)
                return error_from_errno(ret_error, ENOMEM, "cannot open folder %s", name);
        *ret_folder = TAKE_PTR(folder);
        return 0;
}

static int check_names(const char *name, const char *uid, struct error **ret_error)
{
        if (!text_is_name(name))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Use letters, digits, '.', '_' and '-'.",
                        "this is no name for a virtual machine's folder");
        if (!text_is_uuid(uid))
                return error_set(
                        ret_error, ERROR_BAD_DOCUMENT, NULL, "the virtual machine's uid is not a UUID");
        return 0;
}

static const char *uid_of(const json_t *doc)
{
        return json_string_value(json_object_get(doc, "uid")) ?: "";
}

static int read_json(int dir_fd, const char *file, json_t **ret_json, int *ret_errno)
{
        _cleanup_free_ char *text = NULL;
        size_t len;
        int r = beneath_read(dir_fd, file, VM_FOLDER_DOC_MAX_BYTES, &text, &len);

        *ret_errno = r;
        if (r < 0)
                return r;
        return doc_parse(text, len, ret_json, NULL) < 0 ? -EBADMSG : 0;
}

static int foreign(const char *datastore, const char *name, enum error_code code, struct error **ret_error)
{
        return error_set(ret_error, code, "Choose another name, or move that folder away.",
                "the folder %s on datastore %s does not belong to this virtual machine", name, datastore);
}

/* 0: the folder is this VM's; -ENOENT without an error object: it has no vm.json. */
static int check_marker(int fd, const char *datastore, const char *name, const char *uid,
        enum error_code code, struct error **ret_error)
{
        _cleanup_json_ json_t *doc = NULL;
        int err, r = read_json(fd, VM_FOLDER_DOC, &doc, &err);

        if (r == -ENOENT)
                return r;
        if (err < 0)
                return beneath_failed(err, name, VM_FOLDER_DOC, ret_error);
        if (r < 0)
                return error_set(ret_error, ERROR_CONFLICT, "Restore the file from a backup.",
                        "%s/" VM_FOLDER_DOC " on datastore %s is damaged", name, datastore);
        return strcmp(uid_of(doc), uid) ? foreign(datastore, name, code, ret_error) : 0;
}

static int write_json(const struct vm_folder *folder, const char *file, const json_t *json, bool exclusive)
{
        _cleanup_free_ char *text = torture_point() ? NULL : json_dumps(json, JSON_INDENT(2));
        size_t len = text ? strlen(text) : 0;

        if (!text)
                return -ENOMEM;
        if (len > VM_FOLDER_DOC_MAX_BYTES)
                return -E2BIG;
        return beneath_write_atomic(folder->fd, file, text, len, 0640, exclusive);
}

/* Writes vm.json into a folder that has none. */
static int mark(
        const struct vm_folder *folder, const char *datastore, const json_t *doc, struct error **ret_error)
{
        bool empty;
        int r = beneath_is_empty(folder->fd, &empty);

        if (r < 0)
                return beneath_failed(r, datastore, folder->name, ret_error);
        if (!empty)
                return foreign(datastore, folder->name, ERROR_EXISTS, ret_error);
        r = write_json(folder, VM_FOLDER_DOC, doc, true);
        if (r == -EEXIST) /* another host, or an earlier call of ours, was faster */
                return check_marker(
                        folder->fd, datastore, folder->name, folder->uid, ERROR_EXISTS, ret_error);
        return r < 0 ? beneath_failed(r, folder->path, VM_FOLDER_DOC, ret_error) : 0;
}

int vm_folder_create(const struct datastore *datastore, const char *name, const char *uid, const json_t *doc,
        struct vm_folder **ret_folder, struct error **ret_error)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        bool made;
        int fd, r = check_names(name, uid, ret_error);

        if (r < 0)
                return r;
        if (strcmp(uid_of(doc), uid))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "the document's uid is not the virtual machine's");
        made = !torture_point() && !mkdirat(datastore->fd, name, 0750);
        if (!made && errno != EEXIST)
                return beneath_failed(-(errno ?: EIO), datastore->name, name, ret_error);
        r = beneath_open(datastore->fd, name, O_RDONLY | O_DIRECTORY, 0, &fd);
        if (r == -ENOTDIR || r == -ELOOP)
                return foreign(datastore->name, name, ERROR_EXISTS, ret_error);
        if (r < 0)
                return beneath_failed(r, datastore->name, name, ret_error);
        r = new_folder(datastore, name, uid, fd, &folder, ret_error);
        if (!r) {
                r = check_marker(folder->fd, datastore->name, name, uid, ERROR_EXISTS, ret_error);
                if (r == -ENOENT)
                        r = mark(folder, datastore->name, doc, ret_error);
        }
        if (!r && fsync(datastore->fd) < 0)
                r = beneath_failed(-errno, datastore->name, name, ret_error);
        if (r < 0) {
                /* Only succeeds while it is empty. */
                if (made)
                        (void)unlinkat(datastore->fd, name, AT_REMOVEDIR);
                return r;
        }
        *ret_folder = TAKE_PTR(folder);
        return 0;
}

int vm_folder_open(const struct datastore *datastore, const char *name, const char *uid,
        struct vm_folder **ret_folder, struct error **ret_error)
{
        int fd, r = check_names(name, uid, ret_error);

        if (r < 0)
                return r;
        r = beneath_open(datastore->fd, name, O_RDONLY | O_DIRECTORY, 0, &fd);
        if (r < 0)
                return beneath_failed(r, datastore->name, name, ret_error);
        r = check_marker(fd, datastore->name, name, uid, ERROR_CONFLICT, ret_error);
        if (r == -ENOENT)
                r = foreign(datastore->name, name, ERROR_CONFLICT, ret_error);
        if (r < 0) {
                close(fd);
                return r;
        }
        return new_folder(datastore, name, uid, fd, ret_folder, ret_error);
}

void vm_folder_free(struct vm_folder *folder)
{
        if (!folder)
                return;
        fd_closep(&folder->fd);
        free(folder->path);
        free(folder->name);
        free(folder);
}

/* Is the folder this VM's, and its owner no later one than the caller knows? An empty folder, without any record, is what
 * a deletion leaves that broke off before its last step. */
static int check_deletable(const struct vm_folder *folder, const char *datastore, const char *host,
        uint64_t known_epoch, struct error **ret_error)
{
        bool empty;
        int r = check_marker(folder->fd, datastore, folder->name, folder->uid, ERROR_CONFLICT, ret_error);

        if (r == 0)
                return vm_folder_check_owner(folder, host, known_epoch, ret_error);
        if (r != -ENOENT)
                return r;
        r = beneath_is_empty(folder->fd, &empty);
        if (r < 0)
                return beneath_failed(r, datastore, folder->name, ret_error);
        return empty ? 0 : foreign(datastore, folder->name, ERROR_CONFLICT, ret_error);
}

static int open_deletable(const struct datastore *datastore, const char *name, const char *uid,
        const char *host, uint64_t known_epoch, struct vm_folder **ret_folder, struct error **ret_error)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        int fd, r = check_names(name, uid, ret_error);

        if (r < 0)
                return r;
        r = beneath_open(datastore->fd, name, O_RDONLY | O_DIRECTORY, 0, &fd);
        if (r < 0)
                return beneath_failed(r, datastore->name, name, ret_error);
        r = new_folder(datastore, name, uid, fd, &folder, ret_error);
        if (r >= 0)
                r = check_deletable(folder, datastore->name, host, known_epoch, ret_error);
        if (r >= 0)
                *ret_folder = TAKE_PTR(folder);
        return r;
}

int vm_folder_delete(const struct datastore *datastore, const char *name, const char *uid, const char *host,
        uint64_t known_epoch, struct error **ret_error)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        int r = open_deletable(datastore, name, uid, host, known_epoch, &folder, ret_error);

        if (r < 0)
                return r;
        r = beneath_clear(folder->fd, VM_FOLDER_DOC);
        if (!r)
                r = beneath_unlink(folder->fd, VM_FOLDER_DOC);
        if (!r || r == -ENOENT)
                r = unlinkat(datastore->fd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
        if (!r && fsync(datastore->fd) < 0)
                r = -errno;
        return r < 0 ? beneath_failed(r, datastore->name, name, ret_error) : 0;
}

/* vm.json last: it is the only one that says whose the others are. */
static const char *const records[] = {
        VM_FOLDER_NVRAM, VM_FOLDER_SERIAL_LOG, VM_FOLDER_OWNER_LOCK, VM_FOLDER_OWNER, VM_FOLDER_DOC, NULL};

int vm_folder_holds_files(
        const struct datastore *datastore, const char *name, bool *ret_holds, struct error **ret_error)
{
        _cleanup_fd_ int fd = -1;
        int r = beneath_open(datastore->fd, name, O_RDONLY | O_DIRECTORY, 0, &fd);

        if (r == -ENOENT) {
                *ret_holds = false;
                return 0;
        }
        if (r == 0)
                r = beneath_holds_others(fd, records, ret_holds);
        return r < 0 ? beneath_failed(r, datastore->name, name, ret_error) : 0;
}

int vm_folder_retire(const struct datastore *datastore, const char *name, const char *uid, const char *host,
        uint64_t known_epoch, struct error **ret_error)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        bool empty = false;
        int r = open_deletable(datastore, name, uid, host, known_epoch, &folder, ret_error);

        if (r < 0)
                return r;
        for (size_t i = 0; records[i] && (r == 0 || r == -ENOENT); i++)
                r = beneath_unlink(folder->fd, records[i]);
        if (r == 0 || r == -ENOENT)
                r = beneath_is_empty(folder->fd, &empty);
        if (r == 0 && empty)
                r = beneath_clear(folder->fd, NULL); /* temporary files */
        if (r == 0 && empty && unlinkat(datastore->fd, name, AT_REMOVEDIR) < 0 && errno != ENOTEMPTY)
                r = -errno;
        if (r == 0 && fsync(datastore->fd) < 0)
                r = -errno;
        return r < 0 ? beneath_failed(r, datastore->name, name, ret_error) : 0;
}

int vm_folder_read_doc(const struct vm_folder *folder, json_t **ret_doc, struct error **ret_error)
{
        _cleanup_json_ json_t *doc = NULL;
        int err, r = read_json(folder->fd, VM_FOLDER_DOC, &doc, &err);

        if (err < 0)
                return beneath_failed(err, folder->path, VM_FOLDER_DOC, ret_error);
        if (r < 0 || strcmp(uid_of(doc), folder->uid))
                return error_set(ret_error, ERROR_CONFLICT, "Restore the file from a backup.",
                        "%s/" VM_FOLDER_DOC " is damaged or of another virtual machine", folder->path);
        *ret_doc = TAKE_PTR(doc);
        return 0;
}

int vm_folder_write_doc(const struct vm_folder *folder, const json_t *doc, struct error **ret_error)
{
        int r;

        if (strcmp(uid_of(doc), folder->uid))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "the document's uid is not the virtual machine's");
        r = write_json(folder, VM_FOLDER_DOC, doc, false);
        return r < 0 ? beneath_failed(r, folder->path, VM_FOLDER_DOC, ret_error) : 0;
}

int vm_folder_make_nvram(const struct vm_folder *folder, const char *template_path, struct error **ret_error)
{
        _cleanup_free_ char *data = NULL;
        _cleanup_fd_ int fd = -1;
        size_t len;
        int r = beneath_open_file(folder->fd, VM_FOLDER_NVRAM, O_RDONLY, 0, &fd);

        if (!r)
                return 0;
        if (r != -ENOENT)
                return beneath_failed(r, folder->path, VM_FOLDER_NVRAM, ret_error);
        r = file_read(template_path, NVRAM_MAX_BYTES, &data, &len);
        if (r == -ENOENT)
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Install the package ovmf.",
                        "this host has no UEFI firmware variables (%s)", template_path);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot read %s", template_path);
        r = beneath_write_atomic(folder->fd, VM_FOLDER_NVRAM, data, len, 0640, true);
        return r < 0 && r != -EEXIST ? beneath_failed(r, folder->path, VM_FOLDER_NVRAM, ret_error) : 0;
}

int vm_folder_open_serial_log(const struct vm_folder *folder, int *ret_fd, struct error **ret_error)
{
        int r = beneath_open_file(
                folder->fd, VM_FOLDER_SERIAL_LOG, O_WRONLY | O_APPEND | O_CREAT, 0640, ret_fd);

        return r < 0 ? beneath_failed(r, folder->path, VM_FOLDER_SERIAL_LOG, ret_error) : 0;
}

/* Length of the UTF-8 sequence at s (RFC 3629, section 4), or 0 if there is none within `left` bytes. */
static size_t utf8_length(const uint8_t *s, size_t left)
{
        uint8_t low = 0x80, high = 0xbf;
        size_t n;

        if (s[0] < 0x80)
                return s[0] != 0;
        n = s[0] >= 0xc2 && s[0] <= 0xdf   ? 2
            : (s[0] & 0xf0) == 0xe0        ? 3
            : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
                                           : 0;
        if (!n || n > left)
                return 0;
        if (s[0] == 0xe0)
                low = 0xa0;
        if (s[0] == 0xed)
                high = 0x9f;
        if (s[0] == 0xf0)
                low = 0x90;
        if (s[0] == 0xf4)
                high = 0x8f;
        if (s[1] < low || s[1] > high)
                return 0;
        for (size_t i = 2; i < n; i++)
                if ((s[i] & 0xc0) != 0x80)
                        return 0;
        return n;
}

static void make_valid_text(char *text, size_t len)
{
        for (size_t i = 0, n; i < len; i += n) {
                n = utf8_length((const uint8_t *)text + i, len - i);
                if (n)
                        continue;
                text[i] = '?';
                n = 1;
        }
}

int vm_folder_read_serial_log(
        const struct vm_folder *folder, size_t max_bytes, char **ret_text, struct error **ret_error)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_fd_ int fd = -1;
        size_t want, len = 0;
        struct stat st = {};
        ssize_t n;
        int r;

        r = beneath_open_file(folder->fd, VM_FOLDER_SERIAL_LOG, O_RDONLY, 0, &fd);
        if (r < 0 && r != -ENOENT)
                return beneath_failed(r, folder->path, VM_FOLDER_SERIAL_LOG, ret_error);
        if (fd >= 0 && fstat(fd, &st) < 0)
                return beneath_failed(-errno, folder->path, VM_FOLDER_SERIAL_LOG, ret_error);
        want = MIN((size_t)st.st_size, max_bytes);
        text = alloc_zero(want + 1);
        if (!text)
                return error_from_errno(ret_error, ENOMEM, "cannot read the serial log");
        while (len < want) {
                n = pread(fd, text + len, want - len, st.st_size - (off_t)(want - len));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return beneath_failed(-errno, folder->path, VM_FOLDER_SERIAL_LOG, ret_error);
                if (!n)
                        break; /* cut meanwhile */
                len += (size_t)n;
        }
        text[len] = '\0';
        make_valid_text(text, len);
        *ret_text = TAKE_PTR(text);
        return 0;
}

char *vm_folder_file_path(const struct vm_folder *folder, const char *name)
{
        return alloc_printf("%s/%s", folder->path, name);
}
