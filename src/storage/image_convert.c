/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/image_convert.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/cursor.h"
#include "base/doc.h"
#include "base/text.h"
#include "storage/image.h"
#include "storage/image_tool.h"

#define CHUNK_BYTES ((size_t)1 << 20)
#define PROGRESS_BYTES (UINT64_C(16) << 20)
#define SECTOR UINT64_C(512)
#define SOURCE_SIZE 256
#define OTHER_FILES_HINT "Make one whole file of it on a machine that you trust: qemu-img convert."
/* With less than what one write takes, a datastore is full. */
#define FULL_BYTES (UINT64_C(2) << 20)
/* What work on images leaves to the guests whose disks are on the datastore, which QEMU stops when there is no room: a hundredth of it
 * within these bounds. A disk of 10 Gbit/s writes 250 MiB between two looks. */
#define ROOM_LEFT_MIN_BYTES (UINT64_C(64) << 20)
#define ROOM_LEFT_MAX_BYTES (UINT64_C(1) << 30)

/* VMware, "Virtual Disk Format 5.0", "Hosted Sparse Extents": magic, version, flags, then these fields. */
#define VMDK_MAGIC 0x564d444bu /* "KDMV" */
#define VMDK_HEADER_BYTES 44
#define VMDK_DESCRIPTOR_MAX_SECTORS 2048
#define VMDK_DESCRIPTOR_SECTOR 1
#define VMDK_DESCRIPTOR_READ_SECTORS 20

static const char *const kind_words[] = {
#define X(name, word, driver) word,
        IMAGE_KINDS(X)
#undef X
};
static const char *const kind_drivers[] = {
#define X(name, word, driver) driver,
        IMAGE_KINDS(X)
#undef X
};
static const char *const hash_words[] = {
        [IMAGE_SHA1] = "SHA1", [IMAGE_SHA256] = "SHA256", [IMAGE_SHA512] = "SHA512"};
static_assert(ARRAY_SIZE(hash_words) == N_IMAGE_HASHES, "every hash has a name");

const char *image_kind_to_string(enum image_kind kind)
{
        return kind_words[kind];
}

int image_kind_from_string(const char *word, enum image_kind *ret_kind)
{
        for (size_t i = 0; word && i < N_IMAGE_KINDS; i++)
                if (!strcmp(kind_words[i], word)) {
                        *ret_kind = (enum image_kind)i;
                        return 0;
                }
        return -EINVAL;
}

int image_hash_from_string(const char *word, enum image_hash *ret_hash)
{
        for (size_t i = 0; word && i < N_IMAGE_HASHES; i++)
                if (!strcmp(hash_words[i], word)) {
                        *ret_hash = (enum image_hash)i;
                        return 0;
                }
        return -EINVAL;
}

/* --- Checksums --------------------------------------------------------------------------------------------------- */

static void tell(image_progress_fn progress, void *userdata, const char *step, uint64_t done, uint64_t total)
{
        if (progress)
                progress(userdata, step, done, total);
}

static int digest_chunks(EVP_MD_CTX *context, int fd, uint64_t offset, uint64_t length,
        image_progress_fn progress, void *userdata, uint64_t *ret_bytes)
{
        _cleanup_free_ uint8_t *chunk = alloc_zero(CHUNK_BYTES);
        uint64_t done = 0, told = 0;
        struct stat st = {};

        if (!chunk)
                return -ENOMEM;
        if (progress) /* which a process that is shut in has not, nor this call */
                (void)fstat(fd, &st);
        while (!length || done < length) {
                size_t want = length ? (size_t)MIN(length - done, (uint64_t)CHUNK_BYTES) : CHUNK_BYTES;
                ssize_t n = pread(fd, chunk, want, (off_t)(offset + done));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (!n)
                        break;
                if (!EVP_DigestUpdate(context, chunk, (size_t)n))
                        return -ENOMEM;
                done += (uint64_t)n;
                if (done >= told + PROGRESS_BYTES) {
                        tell(progress, userdata, "checksum", done, length ?: (uint64_t)st.st_size);
                        told = done;
                }
        }
        *ret_bytes = done;
        return 0;
}

int image_digest(int fd, uint64_t offset, uint64_t length, enum image_hash hash, image_progress_fn progress,
        void *userdata, char ret_hex[static IMAGE_HASH_HEX_SIZE], uint64_t *ret_bytes,
        struct error **ret_error)
{
        const EVP_MD *md = hash == IMAGE_SHA1     ? EVP_sha1()
                           : hash == IMAGE_SHA256 ? EVP_sha256()
                                                  : EVP_sha512();
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        uint8_t digest[EVP_MAX_MD_SIZE];
        unsigned int size = 0;
        uint64_t bytes = 0;
        int r = context && EVP_DigestInit_ex(context, md, NULL) ? 0 : -ENOMEM;

        if (r == 0)
                r = digest_chunks(context, fd, offset, length, progress, userdata, &bytes);
        if (r == 0 && !EVP_DigestFinal_ex(context, digest, &size))
                r = -ENOMEM;
        EVP_MD_CTX_free(context);
        if (r < 0)
                return error_from_errno(ret_error, r, "checksum");
        text_hex_encode(digest, size, ret_hex);
        if (ret_bytes)
                *ret_bytes = bytes;
        return 0;
}

/* --- Headers ------------------------------------------------------------------------------------------------------ */

static int refers_elsewhere(const char *name, const char *what, struct error **ret_error)
{
        return error_set(ret_error, ERROR_CHECK_FAILED, OTHER_FILES_HINT,
                "%s refers to another file (%s), which could be any file of the host", name, what);
}

static int no_such_image(const char *name, enum image_kind kind, struct error **ret_error)
{
        return error_set(ret_error, ERROR_BAD_DOCUMENT, "State the format that the image really has.",
                "%s is no %s image", name, kind_words[kind]);
}

/* The descriptor in a vmdk, as text of `len` bytes with a NUL behind it. */
static int check_vmdk_descriptor(char *text, size_t len, const char *name, struct error **ret_error)
{
        /* The text may end early, in zeros; what is behind them QEMU does not read either. */
        const char *parent, *cid;

        text[len] = '\0';
        parent = strcasestr(text, "parentFileNameHint");
        cid = strcasestr(text, "parentCID");
        if (parent)
                return refers_elsewhere(name, "the parent of a linked clone or a snapshot", ret_error);
        if (cid && strncasecmp(cid + strlen("parentCID"), "=ffffffff", 9) != 0)
                return refers_elsewhere(name, "the parent that parentCID names", ret_error);
        if (!strcasestr(text, "\"monolithicSparse\"") && !strcasestr(text, "\"streamOptimized\""))
                return error_set(ret_error, ERROR_NOT_SUPPORTED, OTHER_FILES_HINT,
                        "%s is a vmdk of several files; a whole one is monolithicSparse or streamOptimized",
                        name);
        return 0;
}

static int check_vmdk(int fd, uint64_t offset, const char *name, struct error **ret_error)
{
        uint8_t header[VMDK_HEADER_BYTES];
        ssize_t n = pread(fd, header, sizeof(header), (off_t)offset);
        struct cursor c = cursor_of(header, n < 0 ? 0 : (size_t)n);
        _cleanup_free_ char *text = NULL;
        uint32_t magic, version, flags;
        uint64_t capacity, grain, at, sectors;
        size_t len;

        if (n < 0)
                return error_from_errno(ret_error, errno, "cannot read %s", name);
        if (n >= 21 && !memcmp(header, "# Disk DescriptorFile", 21))
                return refers_elsewhere(
                        name, "it is a mere descriptor, which names the files with the data", ret_error);
        if (!cursor_u32le(&c, &magic) || magic != VMDK_MAGIC || !cursor_u32le(&c, &version) ||
                !cursor_u32le(&c, &flags) || !cursor_u64le(&c, &capacity) || !cursor_u64le(&c, &grain) ||
                !cursor_u64le(&c, &at) || !cursor_u64le(&c, &sectors) || version < 1 || version > 3)
                return no_such_image(name, IMAGE_KIND_VMDK, ret_error);
        /* Without a capacity QEMU takes the descriptor for one that names other files. */
        if (!capacity || !at || !sectors || sectors > VMDK_DESCRIPTOR_MAX_SECTORS ||
                at > IMAGE_MAX_BYTES / SECTOR)
                return error_set(ret_error, ERROR_CHECK_FAILED, OTHER_FILES_HINT,
                        "%s has no descriptor, or no capacity of its own", name);
        /* QEMU, block/vmdk.c: vmdk_open() and vmdk_parent_open() look there, whatever the header says. */
        if (at != VMDK_DESCRIPTOR_SECTOR)
                return error_set(ret_error, ERROR_CHECK_FAILED, OTHER_FILES_HINT,
                        "%s has its descriptor in another place than all products write it", name);
        len = (size_t)(MAX(sectors, VMDK_DESCRIPTOR_READ_SECTORS) * SECTOR);
        text = alloc_zero(len + 1);
        if (!text)
                return error_from_errno(ret_error, ENOMEM, "%s", name);
        n = pread(fd, text, len, (off_t)(offset + at * SECTOR));
        return n < 0 ? error_from_errno(ret_error, errno, "cannot read %s", name)
                     : check_vmdk_descriptor(text, (size_t)n, name, ret_error);
}

int image_kind_check(int fd, uint64_t offset, uint64_t length, enum image_kind kind, const char *name,
        struct error **ret_error)
{
        static const char vhdx_magic[] = "vhdxfile";
        uint8_t header[80] = {};
        ssize_t n;

        if (kind == IMAGE_KIND_QCOW2 && offset)
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Take it out of the archive first.",
                        "%s: a qcow2 image within another file is not read", name);
        if (kind == IMAGE_KIND_QCOW2)
                return image_check_header(fd, IMAGE_QCOW2, name, ret_error);
        if (kind == IMAGE_KIND_VMDK)
                return check_vmdk(fd, offset, name, ret_error);
        n = pread(fd, header, sizeof(header), (off_t)offset);
        if (n < 0)
                return error_from_errno(ret_error, errno, "cannot read %s", name);
        if ((kind == IMAGE_KIND_VHDX && memcmp(header, vhdx_magic, 8) != 0) ||
                (kind == IMAGE_KIND_VDI && memcmp(header + 64, "\x7f\x10\xda\xbe", 4) != 0))
                return no_such_image(name, kind, ret_error);
        return 0;
}

/* --- Conversion ---------------------------------------------------------------------------------------------------- */

static void describe_source(const struct image_conversion *c, char ret[static SOURCE_SIZE])
{
        const char *driver = kind_drivers[c->kind];

        if (c->offset || c->length)
                snprintf(ret, SOURCE_SIZE,
                        "driver=%s,file.driver=raw,file.offset=%" PRIu64 ",file.size=%" PRIu64
                        ",file.file.driver=file,file.file.filename=%s",
                        driver, c->offset, c->length, IMAGE_TOOL_FIRST);
        else
                snprintf(ret, SOURCE_SIZE, "driver=%s,file.driver=file,file.filename=%s", driver,
                        IMAGE_TOOL_FIRST);
}

static struct image_tool tool_of(const struct image_conversion *c, const char *const *argv)
{
        return (struct image_tool){.argv = argv, .files = {{.fd = c->fd}}, .n_files = 1, .name = c->name};
}

static int run_json(const struct image_conversion *c, const char *const *argv, json_t **ret_json,
        struct error **ret_error)
{
        const struct image_tool tool = tool_of(c, argv);
        _cleanup_free_ char *output = NULL;
        int r = image_tool_run(&tool, &output, ret_error);
        const char *start;

        if (r < 0)
                return r;
        start = strchr(output, '{');
        if (!start || doc_parse(start, strlen(start), ret_json, NULL) < 0)
                return error_set(ret_error, ERROR_QEMU_FAILED, NULL,
                        "%s: qemu-img's answer is not understood", c->name);
        return 0;
}

static int look_at(const struct image_conversion *c, const char *source, uint64_t *ret_virtual_bytes,
        struct error **ret_error)
{
        const char *argv[] = {"qemu-img", "info", "--output=json", "--image-opts", source, NULL};
        _cleanup_json_ json_t *info = NULL;
        const json_t *data;
        uint64_t size = 0;
        int r = run_json(c, argv, &info, ret_error);

        if (r < 0)
                return r;
        data = json_object_get(json_object_get(info, "format-specific"), "data");
        if (json_object_get(info, "backing-filename"))
                return refers_elsewhere(c->name, "backing file", ret_error);
        if (json_object_get(data, "data-file"))
                return refers_elsewhere(c->name, "external data file", ret_error);
        if (json_is_true(json_object_get(data, "corrupt")))
                return error_set(ret_error, ERROR_CHECK_FAILED, "Repair it with qemu-img check.",
                        "%s is marked as corrupt", c->name);
        if (doc_need_u64(info, "", "virtual-size", 0, INT64_MAX, &size, NULL) < 0 || !size)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "State the format that the image really has.",
                        "%s holds no disk", c->name);
        if (size > IMAGE_MAX_BYTES)
                return error_set(ret_error, ERROR_TOO_LARGE, NULL,
                        "%s claims to be a disk of %" PRIu64 " bytes; 64 TiB is the most", c->name, size);
        *ret_virtual_bytes = size;
        return 0;
}

/* *ret_left: what is to be left of it. */
static uint64_t room_at(int fd, uint64_t *ret_left)
{
        struct statvfs fs;

        *ret_left = 0;
        if (fstatvfs(fd, &fs) < 0)
                return UINT64_MAX;
        *ret_left =
                MAX(ROOM_LEFT_MIN_BYTES, MIN(ROOM_LEFT_MAX_BYTES, (uint64_t)fs.f_blocks * fs.f_frsize / 100));
        return (uint64_t)fs.f_bavail * fs.f_frsize;
}

int image_keep_room(int fd, const char *name, struct error **ret_error)
{
        uint64_t left, room = room_at(fd, &left);

        if (room >= left)
                return 0;
        return error_set(ret_error, ERROR_NO_SPACE, "Free space there, or name another datastore.",
                "%s: the target's datastore would be full: it has %" PRIu64 " MiB left, and %" PRIu64
                " MiB are kept free for guests",
                name, room >> 20, left >> 20);
}

/* All that the image claims to hold, compressed or not, counts with its full size. */
static int check_room(
        const struct image_conversion *c, const char *source, uint64_t *ret_needed, struct error **ret_error)
{
        const char *argv[] = {
                "qemu-img", "measure", "--output=json", "-O", "qcow2", "--image-opts", source, NULL};
        _cleanup_json_ json_t *measured = NULL;
        uint64_t needed = 0, room, left;
        int r = run_json(c, argv, &measured, ret_error);

        if (r < 0)
                return r;
        if (doc_need_u64(measured, "", "required", 0, INT64_MAX, &needed, NULL) < 0)
                return error_set(ret_error, ERROR_QEMU_FAILED, NULL,
                        "%s: qemu-img's answer is not understood", c->name);
        room = room_at(c->to_fd, &left);
        room -= MIN(room, left);
        if (needed > room && !c->stream)
                return error_set(ret_error, ERROR_NO_SPACE, "Free space there, or name another datastore.",
                        "%s unpacks to %" PRIu64 " MiB, and the target has room for %" PRIu64 " MiB", c->name,
                        needed >> 20, room >> 20);
        *ret_needed = needed;
        return 0;
}

struct watch {
        const struct image_conversion *conversion;
        uint64_t total;
};

/* Room is looked at again and again: how much a compressed copy takes nobody knows before, others write there, too, and whoever has taken
 * qemu-img over writes what he likes. */
static int on_tick(void *userdata, struct error **ret_error)
{
        const struct watch *watch = userdata;
        struct stat st;

        if (!fstat(watch->conversion->to_fd, &st))
                tell(watch->conversion->progress, watch->conversion->userdata, "convert",
                        (uint64_t)st.st_blocks * SECTOR, watch->total);
        return image_keep_room(watch->conversion->to_fd, watch->conversion->name, ret_error);
}

/* QEMU's vmdk driver has other words for a write that found no room. */
static int judge(const struct image_conversion *c, int r, struct error *error, struct error **ret_error)
{
        uint64_t left;

        if (r < 0 && error && error->code == ERROR_QEMU_FAILED && room_at(c->to_fd, &left) < FULL_BYTES) {
                error_free(error);
                return error_set(ret_error, ERROR_NO_SPACE, "Free space on the datastore, or enlarge it.",
                        "copy of %s: the datastore is full", c->name);
        }
        return r < 0 ? error_propagate(ret_error, error) : r;
}

static int run_convert(
        const struct image_conversion *c, const char *source, uint64_t needed, struct error **ret_error)
{
        /* Written through: convert ignores a failure of the flush with which it closes a target that is written back. */
        const char *plain[] = {"qemu-img", "convert", "-q", "-t", "writethrough", "--image-opts", "-O",
                kind_drivers[c->to_kind], source, IMAGE_TOOL_SECOND, NULL};
        const char *stream[] = {"qemu-img", "convert", "-q", "-t", "writethrough", "--image-opts", "-O",
                "vmdk", "-o", "subformat=streamOptimized", source, IMAGE_TOOL_SECOND, NULL};
        struct watch watch = {.conversion = c, .total = needed};
        struct error *error = NULL;
        int r;
        struct image_tool tool = tool_of(c, c->stream ? stream : plain);

        tool.files[1] = (struct image_tool_file){.fd = c->to_fd, .write = true};
        tool.n_files = 2;
        tool.tick = on_tick;
        tool.userdata = &watch;
        r = image_tool_run(&tool, NULL, &error);
        return judge(c, r, error, ret_error);
}

int image_convert(const struct image_conversion *conversion, struct image_converted *ret_converted,
        struct error **ret_error)
{
        const struct image_conversion *c = conversion;
        uint64_t virtual_bytes = 0, needed = 0;
        char source[SOURCE_SIZE];
        struct stat st;
        int r = image_kind_check(c->fd, c->offset, c->length, c->kind, c->name, ret_error);

        describe_source(c, source);
        if (r >= 0)
                r = look_at(c, source, &virtual_bytes, ret_error);
        if (r >= 0)
                r = check_room(c, source, &needed, ret_error);
        if (r >= 0)
                r = image_keep_room(c->to_fd, c->name, ret_error);
        if (r >= 0)
                r = run_convert(c, source, needed, ret_error);
        if (r < 0)
                return r;
        if (fsync(c->to_fd) < 0 || fstat(c->to_fd, &st) < 0)
                return error_from_errno(ret_error, errno, "copy of %s", c->name);
        r = image_keep_room(c->to_fd, c->name, ret_error); /* since the last tick */
        if (r < 0)
                return r;
        *ret_converted = (struct image_converted){.virtual_bytes = virtual_bytes,
                .bytes = (uint64_t)st.st_size,
                .allocated_bytes = (uint64_t)st.st_blocks * SECTOR};
        return 0;
}
