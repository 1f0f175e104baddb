/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/state_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <time.h>
#include <zstd.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "storage/beneath.h"
#include "storage/confine.h"

#define FORMAT 1
#define PREFIX "suspend."
#define SUFFIX ".state"
#define RECORD_MAX_BYTES (VM_FOLDER_DOC_MAX_BYTES + 64 * 1024)
#define CHUNK_BYTES ((size_t)1 << 20)
#define LEVEL 1
#define SHA256_BYTES 32
/* What a state leaves to the disks of the other guests on its datastore, which QEMU stops when there is no room. */
#define ROOM_LEFT_BYTES (UINT64_C(64) << 20)
#define CHUNKS_PER_LOOK 16
/* Somebody else holds the lock of the owner record for a few milliseconds. */
#define BUSY_TRIES 50
#define BUSY_PAUSE_MS 20

#define HINT_DISCARD \
        "Start it from its disks with `drover vm start --discard-state`; what was in its memory is lost " \
        "then."

int state_file_name(char ret[static STATE_FILE_NAME_MAX])
{
        char random[17];
        int r = text_random_hex(8, random);

        if (r < 0)
                return r;
        snprintf(ret, STATE_FILE_NAME_MAX, PREFIX "%s" SUFFIX, random);
        return 0;
}

/* What one pass over a file needs. */
struct work {
        ZSTD_CCtx *compress;
        ZSTD_DCtx *decompress;
        EVP_MD_CTX *digest;
        uint8_t *plain;  /* CHUNK_BYTES */
        uint8_t *packed; /* packed_size */
        size_t packed_size;
        uint64_t bytes, stream_bytes;
};

static void work_deinit(struct work *work)
{
        ZSTD_freeCCtx(work->compress);
        ZSTD_freeDCtx(work->decompress);
        EVP_MD_CTX_free(work->digest);
        free(work->plain);
        free(work->packed);
}

static int work_init(struct work *work, struct error **ret_error)
{
        *work = (struct work){.packed_size = ZSTD_compressBound(CHUNK_BYTES)};
        work->compress = ZSTD_createCCtx();
        work->decompress = ZSTD_createDCtx();
        work->digest = EVP_MD_CTX_new();
        work->plain = alloc_zero(CHUNK_BYTES);
        work->packed = alloc_zero(work->packed_size);
        if (!work->compress || !work->decompress || !work->digest || !work->plain || !work->packed ||
                !EVP_DigestInit_ex(work->digest, EVP_sha256(), NULL) ||
                ZSTD_isError(ZSTD_CCtx_setParameter(work->compress, ZSTD_c_compressionLevel, LEVEL)) ||
                ZSTD_isError(ZSTD_CCtx_setParameter(work->compress, ZSTD_c_checksumFlag, 1)))
                return error_from_errno(ret_error, ENOMEM, "state of a virtual machine");
        return 0;
}

static int finish_digest(struct work *work, char ret_hex[static 2 * SHA256_BYTES + 1])
{
        uint8_t digest[SHA256_BYTES];

        if (!EVP_DigestFinal_ex(work->digest, digest, NULL))
                return -EIO;
        for (size_t i = 0; i < SHA256_BYTES; i++)
                snprintf(ret_hex + 2 * i, 3, "%02x", digest[i]);
        return 0;
}

/* --- Writing --------------------------------------------------------------------------------------------------- */

static int fill_chunk(int fd, uint8_t *chunk, size_t *ret_len)
{
        size_t len = 0;

        while (len < CHUNK_BYTES) {
                ssize_t n = read(fd, chunk + len, CHUNK_BYTES - len);

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

static int write_all(int fd, const uint8_t *data, size_t len)
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

static int write_chunk(struct work *work, int fd, size_t len)
{
        size_t packed = ZSTD_compress2(work->compress, work->packed, work->packed_size, work->plain, len);

        if (ZSTD_isError(packed) || !EVP_DigestUpdate(work->digest, work->packed, packed))
                return -EIO;
        work->bytes += packed;
        work->stream_bytes += len;
        return write_all(fd, work->packed, packed);
}

/* A guest's memory passes through once: the host's cache is for others, and what is left to the end is a long flush. Best effort. */
static void spare_cache(int fd)
{
        (void)sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

/* -ENOSPC as soon as only what the others need is left. */
static int look_at_room(int fd)
{
        struct statvfs fs;

        if (fstatvfs(fd, &fs) < 0)
                return -errno;
        return (uint64_t)fs.f_bavail * fs.f_frsize < ROOM_LEFT_BYTES ? -ENOSPC : 0;
}

static int write_stream(struct work *work, const struct vm_folder *folder, const char *name, int in_fd)
{
        _cleanup_fd_ int fd = -1;
        size_t len = CHUNK_BYTES;
        int r = beneath_open_file(folder->fd, name, O_WRONLY | O_CREAT | O_EXCL, 0600, &fd);

        for (size_t n = 0; r == 0 && len == CHUNK_BYTES; n++) {
                if (n % CHUNKS_PER_LOOK == 0) {
                        r = look_at_room(fd);
                        spare_cache(fd);
                }
                if (r == 0)
                        r = fill_chunk(in_fd, work->plain, &len);
                if (r == 0 && len)
                        r = write_chunk(work, fd, len);
        }
        if (r == 0 && (fsync(fd) < 0 || fsync(folder->fd) < 0))
                r = -errno;
        return r;
}

int state_file_write(const struct vm_folder *folder, const char *host, uint64_t epoch, const char *name,
        int fd, json_t **ret_written, struct error **ret_error)
{
        _cleanup_(work_deinit) struct work work = {};
        char hex[2 * SHA256_BYTES + 1];
        int r = work_init(&work, ret_error);

        /* Another host's epoch is at least the next one; what it left is not ours to remove. */
        if (r == 0)
                r = vm_folder_check_owner(folder, host, epoch - 1, ret_error);
        if (r == 0)
                r = state_file_remove(folder, ret_error);
        if (r < 0)
                return r;
        r = write_stream(&work, folder, name, fd);
        if (r == 0)
                r = finish_digest(&work, hex);
        if (r < 0) {
                (void)beneath_unlink(folder->fd, name);
                if (r == -ENOSPC)
                        return error_set(ret_error, ERROR_NO_SPACE, "Make room there, or suspend fewer.",
                                "%s/%s does not fit: what is left on its datastore is for the disks there",
                                folder->path, name);
                return beneath_failed(r, folder->path, name, ret_error);
        }
        *ret_written = json_pack("{s:s, s:I, s:I, s:s}", "state", name, "bytes", (json_int_t)work.bytes,
                "stream_bytes", (json_int_t)work.stream_bytes, "sha256", hex);
        return *ret_written ? 0 : error_from_errno(ret_error, ENOMEM, "state in %s", folder->path);
}

static int take_owner(const struct vm_folder *folder, const char *host, uint64_t known_epoch, uint64_t epoch,
        int64_t now_unix_ms, struct error **ret_error)
{
        const struct timespec pause = {.tv_nsec = BUSY_PAUSE_MS * 1000000L};
        _cleanup_error_ struct error *error = NULL;
        int r = vm_folder_take_owner(folder, host, known_epoch, epoch, now_unix_ms, &error);

        for (unsigned int i = 1; r < 0 && error && error->code == ERROR_BUSY && i < BUSY_TRIES; i++) {
                error_free(TAKE_PTR(error));
                (void)nanosleep(&pause, NULL);
                r = vm_folder_take_owner(folder, host, known_epoch, epoch, now_unix_ms, &error);
        }
        return r < 0 && error ? error_propagate(ret_error, TAKE_PTR(error)) : r;
}

static int write_record(const struct vm_folder *folder, const json_t *record, struct error **ret_error)
{
        _cleanup_json_ json_t *whole = json_copy((json_t *)record);
        _cleanup_free_ char *text = NULL;
        int r = -ENOMEM;

        if (whole && json_object_set_new(whole, "format", json_integer(FORMAT)) == 0)
                text = doc_to_text(whole);
        if (text)
                r = beneath_write_atomic(folder->fd, VM_FOLDER_STATE_RECORD, text, strlen(text), 0640, false);
        return r < 0 ? beneath_failed(r, folder->path, VM_FOLDER_STATE_RECORD, ret_error) : 0;
}

int state_file_commit(const struct vm_folder *folder, const char *host, uint64_t epoch, int64_t now_unix_ms,
        const json_t *record, struct error **ret_error)
{
        _cleanup_json_ json_t *whole = json_copy((json_t *)record);
        /* Under the lock: what has this epoch already is written once more, a later one or another host's is refused. */
        int r = take_owner(folder, host, epoch - 1, epoch, now_unix_ms, ret_error);

        if (r < 0)
                return r;
        if (!whole || json_object_set_new(whole, "epoch", json_integer((json_int_t)epoch)) < 0)
                return error_from_errno(ret_error, ENOMEM, "state in %s", folder->path);
        return write_record(folder, whole, ret_error);
}

/* --- Reading --------------------------------------------------------------------------------------------------- */

static int damaged(const struct vm_folder *folder, const char *name, struct error **ret_error)
{
        return error_set(ret_error, ERROR_CONFLICT, "Restore it from a copy if there is one. " HINT_DISCARD,
                "%s/%s is damaged: the virtual machine cannot be resumed from it", folder->path, name);
}

static bool is_state_name(const char *name)
{
        size_t len = strlen(name);

        return len > strlen(PREFIX SUFFIX) && len < STATE_FILE_NAME_MAX &&
               !strncmp(name, PREFIX, strlen(PREFIX)) && !strcmp(name + len - strlen(SUFFIX), SUFFIX) &&
               !strchr(name, '/');
}

static int parse_record(const struct vm_folder *folder, const char *text, size_t len, json_t **ret_record)
{
        _cleanup_json_ json_t *record = NULL;
        const char *vm, *state, *sha256;
        uint64_t number;

        if (doc_parse(text, len, &record, NULL) < 0 ||
                doc_need_u64(record, "", "format", FORMAT, FORMAT, &number, NULL) < 0 ||
                doc_need_string(record, "", "vm", UUID_STRING_SIZE, &vm, NULL) < 0 ||
                strcmp(vm, folder->uid) != 0 ||
                doc_need_u64(record, "", "epoch", 1, INT64_MAX, &number, NULL) < 0 ||
                doc_need_u64(record, "", "bytes", 1, INT64_MAX, &number, NULL) < 0 ||
                doc_need_u64(record, "", "stream_bytes", 1, INT64_MAX, &number, NULL) < 0 ||
                doc_need_string(record, "", "state", STATE_FILE_NAME_MAX, &state, NULL) < 0 ||
                !is_state_name(state) ||
                doc_need_string(record, "", "sha256", 2 * SHA256_BYTES, &sha256, NULL) < 0 ||
                !json_is_object(json_object_get(record, "document")))
                return -EBADMSG;
        *ret_record = TAKE_PTR(record);
        return 0;
}

static int read_record(const struct vm_folder *folder, json_t **ret_record, struct error **ret_error)
{
        _cleanup_free_ char *text = NULL;
        size_t len;
        int r = beneath_read(folder->fd, VM_FOLDER_STATE_RECORD, RECORD_MAX_BYTES, &text, &len);

        if (r == -ENOENT)
                return error_set(ret_error, ERROR_NOT_FOUND, "Start it.",
                        "there is no saved state in %s: the virtual machine is not suspended", folder->path);
        if (r == 0)
                r = parse_record(folder, text, len, ret_record);
        if (r == -EBADMSG || r == -E2BIG)
                return damaged(folder, VM_FOLDER_STATE_RECORD, ret_error);
        return r < 0 ? beneath_failed(r, folder->path, VM_FOLDER_STATE_RECORD, ret_error) : 0;
}

static uint64_t epoch_of(const json_t *record)
{
        return (uint64_t)json_integer_value(json_object_get(record, "epoch"));
}

/* The next epoch alone may be of a resumption that came to nothing: the host that has it then can write the record anew. */
static int stale(const struct vm_folder *folder, const struct vm_owner *owner, uint64_t epoch,
        struct error **ret_error)
{
        return error_set(ret_error, ERROR_STALE_EPOCH,
                owner->epoch == epoch + 1
                        ? "Was it being resumed on that host and never ran? Resume it there (--host). Else "
                          "start it from its disks."
                        : "Start it from its disks.",
                "the state in %s is of owner epoch %" PRIu64
                ", and host %s has run the virtual machine under epoch %" PRIu64
                " since: its memory does not fit its disks any more",
                folder->path, epoch, owner->host, owner->epoch);
}

int state_file_record(const struct vm_folder *folder, json_t **ret_record, struct error **ret_error)
{
        _cleanup_json_ json_t *record = NULL;
        struct vm_owner owner;
        int r = read_record(folder, &record, ret_error);

        if (r == 0)
                r = vm_folder_read_owner(folder, &owner, ret_error);
        if (r < 0)
                return r;
        if (owner.epoch != epoch_of(record))
                return stale(folder, &owner, epoch_of(record), ret_error);
        *ret_record = TAKE_PTR(record);
        return 0;
}

int state_file_check_none(const struct vm_folder *folder, struct error **ret_error)
{
        _cleanup_json_ json_t *record = NULL;
        _cleanup_error_ struct error *error = NULL;
        int r = state_file_record(folder, &record, &error);

        if (error && (error->code == ERROR_NOT_FOUND || error->code == ERROR_STALE_EPOCH))
                return 0;
        if (r < 0)
                return error_propagate(ret_error, TAKE_PTR(error));
        return error_set(ret_error, ERROR_CONFLICT,
                "Resume it with `drover vm resume`, or give up what was in its memory: `drover vm start "
                "--discard-state`.",
                "the virtual machine is suspended: its memory is in %s, and needs its disks where they are",
                folder->path);
}

static int send_all(int fd, const uint8_t *data, size_t len)
{
        while (len) {
                ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                data += n;
                len -= (size_t)n;
        }
        return 0;
}

/* More of the file behind the `*len` bytes of `packed` that are there. */
static int refill(struct work *work, int fd, size_t *len, bool *ret_end)
{
        while (*len < work->packed_size) {
                ssize_t n = read(fd, work->packed + *len, work->packed_size - *len);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0) {
                        *ret_end = true;
                        return 0;
                }
                if (!EVP_DigestUpdate(work->digest, work->packed + *len, (size_t)n))
                        return -EIO;
                work->bytes += (uint64_t)n;
                *len += (size_t)n;
        }
        return 0;
}

/* Sends what the frame at the head of `packed` holds, once its checksum is seen to be right. -EBADMSG. */
static int send_frame(struct work *work, int fd, size_t len, size_t *ret_frame_len)
{
        size_t frame = ZSTD_findFrameCompressedSize(work->packed, len), plain;

        if (ZSTD_isError(frame))
                return -EBADMSG;
        plain = ZSTD_decompressDCtx(work->decompress, work->plain, CHUNK_BYTES, work->packed, frame);
        if (ZSTD_isError(plain))
                return -EBADMSG;
        work->stream_bytes += plain;
        *ret_frame_len = frame;
        return send_all(fd, work->plain, plain);
}

static int read_stream(struct work *work, int in_fd, int out_fd)
{
        size_t len = 0, frame = 0;
        bool end = false;
        int r;

        for (size_t n = 1;; n++) {
                if (n % CHUNKS_PER_LOOK == 0)
                        (void)posix_fadvise(in_fd, 0, 0, POSIX_FADV_DONTNEED);
                r = end ? 0 : refill(work, in_fd, &len, &end);
                if (r == 0 && len == 0)
                        return 0;
                if (r == 0)
                        r = send_frame(work, out_fd, len, &frame);
                if (r < 0)
                        return r;
                len -= frame;
                memmove(work->packed, work->packed + frame, len);
        }
}

static bool is_as_recorded(struct work *work, const json_t *record)
{
        char hex[2 * SHA256_BYTES + 1];

        return work->bytes == (uint64_t)json_integer_value(json_object_get(record, "bytes")) &&
               work->stream_bytes == (uint64_t)json_integer_value(json_object_get(record, "stream_bytes")) &&
               finish_digest(work, hex) == 0 &&
               !strcmp(hex, json_string_value(json_object_get(record, "sha256")));
}

int state_file_read(
        const struct vm_folder *folder, const json_t *record, int fd, bool confine, struct error **ret_error)
{
        const char *name = json_string_value(json_object_get(record, "state"));
        _cleanup_(work_deinit) struct work work = {};
        _cleanup_fd_ int in_fd = -1;
        int r = work_init(&work, ret_error);

        if (r < 0)
                return r;
        r = beneath_open_file(folder->fd, name, O_RDONLY, 0, &in_fd);
        if (r == -ENOENT)
                return damaged(folder, name, ret_error);
        if (r == 0 && confine) {
                r = confine_to_descriptors(ret_error);
                if (r < 0)
                        return r;
        }
        if (r == 0)
                r = read_stream(&work, in_fd, fd);
        if (r == -EPIPE || r == -ECONNRESET)
                return error_set(ret_error, ERROR_QEMU_FAILED, NULL, "QEMU did not take the state");
        if (r == -EBADMSG || (r == 0 && !is_as_recorded(&work, record)))
                return damaged(folder, name, ret_error);
        return r < 0 ? beneath_failed(r, folder->path, name, ret_error) : 0;
}

/* --- Keeping, removing ----------------------------------------------------------------------------------------- */

int state_file_keep(const struct vm_folder *folder, const char *host, uint64_t epoch, int64_t now_unix_ms,
        uint64_t *ret_epoch, struct error **ret_error)
{
        _cleanup_json_ json_t *record = NULL;
        int r = read_record(folder, &record, ret_error);

        if (r < 0)
                return r;
        /* The owner first, whether or not the attempt came that far: a helper process of it that still hangs in the kernel can
         * then change nothing any more. */
        if (epoch_of(record) == epoch) {
                r = take_owner(folder, host, epoch, epoch + 1, now_unix_ms, ret_error);
                if (r < 0)
                        return r;
                if (json_object_set_new(record, "epoch", json_integer((json_int_t)epoch + 1)) < 0)
                        return error_from_errno(ret_error, ENOMEM, "state in %s", folder->path);
                r = write_record(folder, record, ret_error);
        } else if (epoch_of(record) != epoch + 1)
                return error_set(ret_error, ERROR_STALE_EPOCH, NULL,
                        "the state in %s is of owner epoch %" PRIu64 ", not %" PRIu64, folder->path,
                        epoch_of(record), epoch);
        if (r == 0)
                *ret_epoch = epoch + 1;
        return r;
}

int state_file_remove(const struct vm_folder *folder, struct error **ret_error)
{
        int fd, r = beneath_unlink(folder->fd, VM_FOLDER_STATE_RECORD);
        const struct dirent *entry;
        DIR *dir;

        if (r == -ENOENT)
                r = 0;
        else if (r == 0 && fsync(folder->fd) < 0)
                r = -errno;
        if (r < 0)
                return beneath_failed(r, folder->path, VM_FOLDER_STATE_RECORD, ret_error);
        r = beneath_open(folder->fd, ".", O_RDONLY | O_DIRECTORY, 0, &fd);
        if (r < 0)
                return beneath_failed(r, folder->path, ".", ret_error);
        dir = fdopendir(fd);
        if (!dir) {
                r = -errno;
                (void)close(fd);
                return beneath_failed(r, folder->path, ".", ret_error);
        }
        while ((entry = readdir(dir)))
                if (is_state_name(entry->d_name) && beneath_unlink(folder->fd, entry->d_name) < 0)
                        log_warning("%s/%s cannot be removed", folder->path, entry->d_name);
        (void)closedir(dir);
        return 0;
}
