/* SPDX-License-Identifier: Apache-2.0 */

/* The owner record: half of vm_folder.h, in a file of its own since everything rests on it.
 *
 * Two hosts may call vm_folder_take_owner() at the same moment. What lets only one win:
 *   1. an exclusive lock on owner.lock, which is never replaced (open file description lock: works between
 *      processes of a host, and between hosts on NFS and cluster file systems);
 *   2. under it, owner.json is opened and read anew and its epoch compared with what the caller knows;
 *   3. the new record replaces it by rename, fsync'ed with its folder, before the lock is released.
 * NFS clients cache directory entries, so step 2 could see an old owner.json although the lock is held. The locked
 * file itself is always read fresh (taking the lock drops its cached pages), so it holds the last epoch given, too:
 * an owner.json behind it is refused. A crash between the two writes leaves the lock file behind, which is harmless. */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/torture.h"
#include "storage/beneath.h"
#include "storage/vm_folder.h"

#define FORMAT 1
#define OWNER_MAX_BYTES 4096
#define EPOCH_MAX ((uint64_t)INT64_MAX)
#define LOCK_TRIES 50
#define LOCK_PAUSE_MS 20

/* Reads what text_format_time() writes. */
static int parse_time(const char *s, int64_t *ret_unix_ms)
{
        struct tm tm = {};
        const char *rest = strptime(s, "%Y-%m-%dT%H:%M:%S", &tm);
        char digits[4];
        uint64_t ms;

        /* ".123Z" */
        if (!rest || strlen(rest) != 5 || rest[0] != '.' || rest[4] != 'Z')
                return -EINVAL;
        snprintf(digits, sizeof(digits), "%s", rest + 1);
        if (text_parse_u64(digits, 0, 999, &ms) < 0)
                return -EINVAL;
        *ret_unix_ms = (int64_t)timegm(&tm) * 1000 + (int64_t)ms;
        return 0;
}

static int parse_owner(const char *text, size_t len, const char *uid, struct vm_owner *ret_owner)
{
        static const char *const keys[] = {"format", "vm", "owner", "epoch", "since", NULL};
        const char *vm = NULL, *host = NULL, *since = NULL;
        _cleanup_json_ json_t *json = NULL;
        struct vm_owner owner = {};
        uint64_t format;

        if (doc_parse(text, len, &json, NULL) < 0 || doc_only_keys(json, "", keys, NULL) < 0 ||
                doc_need_u64(json, "", "format", FORMAT, FORMAT, &format, NULL) < 0 ||
                doc_need_string(json, "", "vm", UUID_STRING_SIZE, &vm, NULL) < 0 || strcmp(vm, uid) ||
                doc_need_string(json, "", "owner", UUID_STRING_SIZE, &host, NULL) < 0 ||
                !text_is_uuid(host) ||
                doc_need_u64(json, "", "epoch", 1, EPOCH_MAX, &owner.epoch, NULL) < 0 ||
                doc_need_string(json, "", "since", 32, &since, NULL) < 0 ||
                parse_time(since, &owner.since_unix_ms) < 0)
                return -EBADMSG;
        memcpy(owner.host, host, UUID_STRING_SIZE);
        *ret_owner = owner;
        return 0;
}

int vm_folder_read_owner(const struct vm_folder *folder, struct vm_owner *ret_owner, struct error **ret_error)
{
        _cleanup_free_ char *text = NULL;
        size_t len;
        int r = beneath_read(folder->fd, VM_FOLDER_OWNER, OWNER_MAX_BYTES, &text, &len);

        if (r == -ENOENT) {
                *ret_owner = (struct vm_owner){};
                return 0;
        }
        if (!r)
                r = parse_owner(text, len, folder->uid, ret_owner);
        if (r == -EBADMSG || r == -E2BIG)
                return error_set(ret_error, ERROR_OWNER_UNKNOWN,
                        "Find out which host runs the virtual machine, then restore the file.",
                        "%s/" VM_FOLDER_OWNER " is damaged", folder->path);
        return r < 0 ? beneath_failed(r, folder->path, VM_FOLDER_OWNER, ret_error) : 0;
}

/* Opens and locks; the lock goes with the descriptor. */
static int lock_record(const struct vm_folder *folder, int *ret_fd, struct error **ret_error)
{
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        _cleanup_fd_ int fd = -1;
        int r;

        r = beneath_open_file(folder->fd, VM_FOLDER_OWNER_LOCK, O_RDWR | O_CREAT, 0640, &fd);
        if (r < 0)
                return beneath_failed(r, folder->path, VM_FOLDER_OWNER_LOCK, ret_error);
        if (torture_point() || fcntl(fd, F_OFD_SETLK, &lock) < 0) {
                if (errno == EAGAIN || errno == EACCES)
                        return error_set(ret_error, ERROR_BUSY, "Try again.",
                                "another host is changing the owner record in %s", folder->path);
                if (errno == ENOLCK)
                        return error_set(ret_error, ERROR_NOT_SUPPORTED,
                                "Mount it with locks (NFS: without nolock).",
                                "the file system of %s gives no locks", folder->path);
                return error_from_errno(
                        ret_error, errno ?: EIO, "cannot lock the owner record in %s", folder->path);
        }
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* The last epoch given, as the lock file says; 0 for a new file. */
static int read_last_epoch(int lock_fd, uint64_t *ret_epoch)
{
        char text[32] = "";
        ssize_t n = pread(lock_fd, text, sizeof(text) - 1, 0);

        if (n < 0)
                return -errno;
        text[strcspn(text, "\n")] = '\0';
        if (!*text) {
                *ret_epoch = 0;
                return 0;
        }
        return text_parse_u64(text, 0, EPOCH_MAX, ret_epoch);
}

/* A fixed width, so that it is overwritten in place. Failure is only logged: the record itself is written. */
static void write_last_epoch(int lock_fd, const struct vm_folder *folder, uint64_t epoch)
{
        char text[32];
        int len = snprintf(text, sizeof(text), "%019" PRIu64 "\n", epoch);

        if (pwrite(lock_fd, text, (size_t)len, 0) != len || fdatasync(lock_fd) < 0)
                log_debug("%s/" VM_FOLDER_OWNER_LOCK ": %s", folder->path, strerror(errno));
}

static int write_owner(const struct vm_folder *folder, const struct vm_owner *owner)
{
        _cleanup_free_ char *text = NULL;
        char since[32];

        text = alloc_printf("{\"format\":%d,\"vm\":\"%s\",\"owner\":\"%s\",\"epoch\":%" PRIu64
                            ",\"since\":\"%s\"}\n",
                FORMAT, folder->uid, owner->host, owner->epoch,
                text_format_time(owner->since_unix_ms, since));
        if (!text)
                return -ENOMEM;
        return beneath_write_atomic(folder->fd, VM_FOLDER_OWNER, text, strlen(text), 0640, false);
}

static int refuse_stale(const struct vm_owner *owner, uint64_t known_epoch, struct error **ret_error)
{
        return error_set(ret_error, ERROR_STALE_EPOCH,
                "Ask that host for the virtual machine's state. If it is gone for good, and with it the "
                "virtual machine's process, delete " VM_FOLDER_OWNER " and " VM_FOLDER_OWNER_LOCK
                " in the virtual machine's folder.",
                "host %s took the virtual machine with epoch %" PRIu64
                ", the last one known here is %" PRIu64,
                owner->host, owner->epoch, known_epoch);
}

static int refuse_old_view(const struct vm_folder *folder, const struct vm_owner *owner, uint64_t last_epoch,
        struct error **ret_error)
{
        return error_set(ret_error, ERROR_OWNER_UNKNOWN, "Try again in a minute.",
                "this host sees an old owner record in %s (epoch %" PRIu64 ", the last one given is %" PRIu64
                ")",
                folder->path, owner->epoch, last_epoch);
}

static int refuse_damaged_lock(const struct vm_folder *folder, struct error **ret_error)
{
        return error_set(ret_error, ERROR_OWNER_UNKNOWN,
                "Compare it with " VM_FOLDER_OWNER ", then delete it.",
                "%s/" VM_FOLDER_OWNER_LOCK " is damaged", folder->path);
}

static int check_current(const struct vm_folder *folder, const struct vm_owner *current, uint64_t last_epoch,
        uint64_t known_epoch, struct error **ret_error)
{
        if (last_epoch > current->epoch)
                return refuse_old_view(folder, current, last_epoch, ret_error);
        return current->epoch > known_epoch ? refuse_stale(current, known_epoch, ret_error) : 0;
}

int vm_folder_check_owner(
        const struct vm_folder *folder, const char *host, uint64_t known_epoch, struct error **ret_error)
{
        struct vm_owner owner = {};
        int r = vm_folder_read_owner(folder, &owner, ret_error);

        if (r < 0 || owner.epoch <= known_epoch || !strcmp(owner.host, host))
                return r;
        return refuse_stale(&owner, known_epoch, ret_error);
}

int vm_folder_lock_owner(const struct vm_folder *folder, const char *host, uint64_t known_epoch, int *ret_fd,
        struct error **ret_error)
{
        struct vm_owner owner = {};
        _cleanup_fd_ int lock_fd = -1;
        uint64_t last_epoch = 0;
        int r = lock_record(folder, &lock_fd, ret_error);

        if (r == 0)
                r = vm_folder_read_owner(folder, &owner, ret_error);
        if (r < 0)
                return r;
        if (read_last_epoch(lock_fd, &last_epoch) < 0)
                return refuse_damaged_lock(folder, ret_error);
        if (last_epoch > owner.epoch)
                return refuse_old_view(folder, &owner, last_epoch, ret_error);
        if (owner.epoch > known_epoch && strcmp(owner.host, host) != 0)
                return refuse_stale(&owner, known_epoch, ret_error);
        *ret_fd = TAKE_FD(lock_fd);
        return 0;
}

int vm_folder_wait_lock_owner(const struct vm_folder *folder, const char *host, uint64_t known_epoch,
        int *ret_fd, struct error **ret_error)
{
        const struct timespec pause = {.tv_nsec = LOCK_PAUSE_MS * 1000000L};
        _cleanup_error_ struct error *error = NULL;
        int r = -EBUSY;

        for (unsigned int i = 0; i < LOCK_TRIES; i++) {
                error_free(TAKE_PTR(error));
                r = vm_folder_lock_owner(folder, host, known_epoch, ret_fd, &error);
                if (r >= 0 || !error || error->code != ERROR_BUSY)
                        break;
                (void)nanosleep(&pause, NULL);
        }
        return r < 0 ? error_propagate(ret_error, TAKE_PTR(error)) : 0;
}

int vm_folder_take_owner(const struct vm_folder *folder, const char *host, uint64_t known_epoch,
        uint64_t epoch, int64_t now_unix_ms, struct error **ret_error)
{
        struct vm_owner current = {}, next = {.epoch = epoch, .since_unix_ms = now_unix_ms};
        _cleanup_fd_ int lock_fd = -1;
        uint64_t last_epoch = 0;
        int r;

        if (!text_is_uuid(host) || epoch <= known_epoch || epoch > EPOCH_MAX)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL,
                        "epoch %" PRIu64 " after %" PRIu64 " for host \"%s\" is no change of owner", epoch,
                        known_epoch, host);
        memcpy(next.host, host, UUID_STRING_SIZE);
        r = lock_record(folder, &lock_fd, ret_error);
        if (r < 0)
                return r;
        r = vm_folder_read_owner(folder, &current, ret_error);
        if (r < 0)
                return r;
        r = read_last_epoch(lock_fd, &last_epoch);
        if (r < 0)
                return refuse_damaged_lock(folder, ret_error);
        if (current.epoch == epoch && !strcmp(current.host, host)) {
                /* Written before, but perhaps not yet durable: the same again. */
                next.since_unix_ms = current.since_unix_ms;
        } else {
                r = check_current(folder, &current, last_epoch, known_epoch, ret_error);
                if (r < 0)
                        return r;
        }
        r = write_owner(folder, &next);
        if (r < 0)
                return beneath_failed(r, folder->path, VM_FOLDER_OWNER, ret_error);
        write_last_epoch(lock_fd, folder, epoch);
        return 0;
}
