/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/image_job_work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/stores.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "io/crash_point.h"
#include "io/file.h"
#include "storage/appliance.h"
#include "storage/appliance_write.h"
#include "storage/beneath.h"
#include "storage/image_convert.h"
#include "storage/offload.h"

#define PATH_MAX_CHARS 255
#define TARGET_MAX_CHARS (PATH_MAX_CHARS - 18)
#define CHECKSUM_FILE_MAX 4096
#define MADE_MAX_BYTES 65536
#define SHA256_HEX_CHARS 64
#define STAMP_SIZE 128
#define KIND_READ "read"
#define KIND_PACK "pack"

/* One end of the work. `part` and `sums` are the target's: the file under work, and the one with its checksum. */
struct place {
        struct datastore *store;
        const char *path;
        char part[PATH_MAX_CHARS + 64];
        char sums[PATH_MAX_CHARS + 64];
        char label[PATH_MAX_CHARS + NAME_MAX_CHARS + 4]; /* for messages */
};

static void place_deinit(struct place *place)
{
        datastore_free(place->store);
}
#define _cleanup_place_ _cleanup_(place_deinit)

/* --- Requests ------------------------------------------------------------------------------------------------------ */

static int check_place(
        const json_t *request, const char *key, bool has_format, json_t **ret_place, struct error **ret_error)
{
        const char *text = NULL;
        enum image_kind kind;
        json_t *place = NULL;
        int r = doc_opt_object(request, "", key, &place, ret_error);

        if (r >= 0 && !place)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field %s is missing", key);
        if (r >= 0)
                r = doc_need_string(place, key, "datastore", NAME_MAX_CHARS, &text, ret_error);
        if (r >= 0 && !text_is_name(text))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "%s.datastore is no name", key);
        if (r >= 0)
                r = doc_need_string(place, key, "path", PATH_MAX_CHARS, &text, ret_error);
        if (r >= 0 && !text_is_relative_path(text))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "Name a file inside the datastore.",
                        "%s.path is \"%.64s\", which is no path inside a datastore", key, text);
        if (r >= 0 && has_format)
                r = doc_need_string(place, key, "format", 16, &text, ret_error);
        if (r >= 0 && has_format && image_kind_from_string(text, &kind) < 0)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "Possible are " IMAGE_KIND_WORDS ".",
                        "%s.format is \"%.16s\"", key, text);
        if (r >= 0)
                *ret_place = place;
        return r;
}

static int check_source(const json_t *source, struct error **ret_error)
{
        static const char *const keys[] = {
                "datastore", "path", "format", "offset", "length", "digest", "stamp", NULL};
        const char *hash_word = NULL, *hex = NULL, *stamp = NULL;
        json_t *digest = NULL;
        enum image_hash hash;
        uint64_t number = 0;
        int r = doc_only_keys(source, "source", keys, ret_error);

        if (r >= 0)
                r = doc_opt_u64(source, "source", "offset", 0, INT64_MAX, &number, ret_error);
        if (r >= 0)
                r = doc_opt_u64(source, "source", "length", 0, INT64_MAX, &number, ret_error);
        if (r >= 0)
                r = doc_opt_string(source, "source", "stamp", STAMP_SIZE - 1, &stamp, ret_error);
        if (r >= 0)
                r = doc_opt_object(source, "source", "digest", &digest, ret_error);
        if (r < 0 || !digest)
                return r;
        r = doc_need_string(digest, "source.digest", "hash", 16, &hash_word, ret_error);
        if (r >= 0)
                r = doc_need_string(digest, "source.digest", "hex", IMAGE_HASH_HEX_SIZE - 1, &hex, ret_error);
        if (r >= 0 && image_hash_from_string(hash_word, &hash) < 0)
                r = error_set(ret_error, ERROR_NOT_SUPPORTED, "SHA1, SHA256 and SHA512 are possible.",
                        "source.digest.hash is \"%.16s\"", hash_word);
        return r;
}

/* What is made beside it has a longer name: ".NAME.ID.part.d". */
static int check_length(const json_t *target, struct error **ret_error)
{
        const char *path = json_string_value(json_object_get(target, "path")) ?: "";

        return strlen(path) <= TARGET_MAX_CHARS
                       ? 0
                       : error_set(ret_error, ERROR_BAD_DOCUMENT, "Name it shorter.",
                                 "target.path has more than %d characters", TARGET_MAX_CHARS);
}

static int check_target(const json_t *target, struct error **ret_error)
{
        static const char *const keys[] = {"datastore", "path", "format", "stream", "checksum", NULL};
        bool flag;
        int r = doc_only_keys(target, "target", keys, ret_error);

        if (r >= 0)
                r = doc_opt_bool(target, "target", "stream", &flag, ret_error);
        if (r >= 0)
                r = check_length(target, ret_error);
        return r < 0 ? r : doc_opt_bool(target, "target", "checksum", &flag, ret_error);
}

static int check_pack(const json_t *request, struct error **ret_error)
{
        json_t *disks = NULL, *vm = NULL, *target = NULL, *disk, *place = NULL;
        const char *name = NULL;
        size_t i;
        int r = doc_opt_array(request, "", "disks", APPLIANCE_DISKS_MAX, &disks, ret_error);

        json_array_foreach (disks, i, disk) {
                _cleanup_json_ json_t *wrapped = json_pack("{s:O}", "disk", disk);

                if (r >= 0)
                        r = wrapped ? check_place(wrapped, "disk", true, &place, ret_error) : -ENOMEM;
        }
        if (r >= 0)
                r = doc_opt_object(request, "", "vm", &vm, ret_error);
        if (r >= 0)
                r = doc_need_string(vm, "vm", "name", NAME_MAX_CHARS, &name, ret_error);
        if (r >= 0 && !text_is_name(name))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "vm.name is no name");
        if (r >= 0)
                r = check_place(request, "target", false, &target, ret_error);
        return r < 0 ? r : check_length(target, ret_error);
}

static int check_convert(const json_t *request, struct error **ret_error)
{
        json_t *place = NULL;
        int r = check_place(request, "source", true, &place, ret_error);

        if (r >= 0)
                r = check_source(place, ret_error);
        if (r >= 0)
                r = check_place(request, "target", true, &place, ret_error);
        return r < 0 ? r : check_target(place, ret_error);
}

int image_job_check(const json_t *request, struct error **ret_error)
{
        static const char *const keys[] = {
                "id", "kind", "timeout_ms", "source", "target", "disks", "vm", NULL};
        const char *id = NULL, *kind = NULL;
        json_t *place = NULL;
        uint64_t number;
        int r = doc_only_keys(request, "", keys, ret_error);

        if (r >= 0)
                r = doc_need_string(request, "", "id", UUID_STRING_SIZE, &id, ret_error);
        if (r >= 0 && !text_is_uuid(id))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field id is no UUID");
        if (r >= 0)
                r = doc_need_string(request, "", "kind", 16, &kind, ret_error);
        if (r >= 0)
                r = doc_need_u64(request, "", "timeout_ms", 1000, INT64_MAX, &number, ret_error);
        if (r < 0)
                return r;
        if (!strcmp(kind, "convert"))
                return check_convert(request, ret_error);
        if (!strcmp(kind, KIND_PACK))
                return check_pack(request, ret_error);
        if (!strcmp(kind, KIND_READ))
                return check_place(request, "source", false, &place, ret_error);
        return error_set(ret_error, ERROR_NOT_SUPPORTED, "Upgrade drover there.",
                "this agent knows no work \"%.16s\" on images", kind);
}

static const char *text_of(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

static uint64_t number_of(const json_t *object, const char *key)
{
        return (uint64_t)json_integer_value(json_object_get(object, key));
}

/* --- Places ------------------------------------------------------------------------------------------------------- */

/* The part is hidden beside the target: "VM/disk1.qcow2" is made as "VM/.disk1.qcow2.ID.part". */
static void name_part(struct place *place, const char *id)
{
        const char *slash = strrchr(place->path, '/');
        int folder = slash ? (int)(slash + 1 - place->path) : 0;

        snprintf(place->part, sizeof(place->part), "%.*s.%s.%.8s.part", folder, place->path,
                place->path + folder, id);
        snprintf(place->sums, sizeof(place->sums), "%s.sha256", place->path);
}

static int open_place_at(
        const struct image_job_work *work, const json_t *json, struct place *place, struct error **ret_error)
{
        const struct datastore *known;
        int r = stores_get(work->stores, text_of(json, "datastore"), &known, ret_error);

        if (r >= 0)
                r = datastore_open(known->name, known->path, known->id, &place->store, ret_error);
        if (r < 0)
                return r;
        place->path = text_of(json, "path");
        name_part(place, work->id);
        snprintf(place->label, sizeof(place->label), "%s: %s", place->store->name, place->path);
        return 0;
}

static int open_place(
        const struct image_job_work *work, const char *key, struct place *place, struct error **ret_error)
{
        return open_place_at(work, json_object_get(work->request, key), place, ret_error);
}

/* The folder that holds the target; *ret_name is what it is called there. */
static int open_folder(const struct place *place, const char **ret_name, int *ret_fd)
{
        const char *slash = strrchr(place->path, '/');
        char folder[PATH_MAX_CHARS + 1];

        *ret_name = slash ? slash + 1 : place->path;
        snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - place->path) : 1,
                slash ? place->path : ".");
        if (!slash) {
                *ret_fd = fcntl(place->store->fd, F_DUPFD_CLOEXEC, 3);
                return *ret_fd < 0 ? -errno : 0;
        }
        return beneath_open(place->store->fd, folder, O_RDONLY | O_DIRECTORY, 0, ret_fd);
}

/* --- Progress ------------------------------------------------------------------------------------------------------- */

static void on_progress(void *userdata, const char *step, uint64_t done, uint64_t total)
{
        struct image_job_progress progress = {.done_bytes = done, .total_bytes = total};

        snprintf(progress.step, sizeof(progress.step), "%s", step);
        (void)!pwrite(OFFLOAD_FD, &progress, sizeof(progress), 0);
}

/* --- Checksums of the source ---------------------------------------------------------------------------------------- */

/* The first word of "PATH.sha256" beside the source, as sha256sum(1) writes it; false: there is none. */
static bool read_checksum_file(const struct place *source, char ret_hex[static IMAGE_HASH_HEX_SIZE])
{
        _cleanup_free_ char *text = NULL;
        uint8_t raw[SHA256_HEX_CHARS / 2];

        if (beneath_read(source->store->fd, source->sums, CHECKSUM_FILE_MAX, &text, NULL) < 0 ||
                strcspn(text, " \t\n") != SHA256_HEX_CHARS)
                return false;
        text[SHA256_HEX_CHARS] = '\0';
        if (text_hex_decode(text, raw, sizeof(raw)) < 0)
                return false;
        snprintf(ret_hex, IMAGE_HASH_HEX_SIZE, "%s", text);
        return true;
}

static int compare(const struct place *source, const char *wanted, const char *is, const char *whose,
        struct error **ret_error)
{
        if (!strcasecmp(wanted, is))
                return 0;
        return error_set(ret_error, ERROR_CHECK_FAILED,
                "Copy it there again; the file was changed or damaged.",
                "%s has the checksum %s, and %s says %s", source->label, is, whose, wanted);
}

/* Another one: the file was changed, or is another. */
static int stamp_of(int fd, char ret[static STAMP_SIZE])
{
        struct stat st;

        if (fstat(fd, &st) < 0)
                return -errno;
        snprintf(ret, STAMP_SIZE, "%llu-%llu-%lld.%09ld-%lld.%09ld", (unsigned long long)st.st_ino,
                (unsigned long long)st.st_size, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
                (long long)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
        return 0;
}

/* What was checked is what is converted only while nobody writes to it. */
static int check_stamp(const struct place *source, int fd, const char *before, struct error **ret_error)
{
        char now[STAMP_SIZE];
        int r = stamp_of(fd, now);

        if (r < 0)
                return error_from_errno(ret_error, r, "%s", source->label);
        return !*before || !strcmp(now, before)
                       ? 0
                       : error_set(ret_error, ERROR_CHECK_FAILED, "Wait until it is whole, and begin again.",
                                 "%s was changed while it was read", source->label);
}

/* *ret_digest: {"sha256", "bytes", "verified"} */
static int check_digest(const struct image_job_work *work, const struct place *source, int fd,
        json_t **ret_digest, struct error **ret_error)
{
        const json_t *json = json_object_get(work->request, "source"),
                     *digest = json_object_get(json, "digest");
        uint64_t offset = number_of(json, "offset"), length = number_of(json, "length"), bytes = 0;
        char sha256[IMAGE_HASH_HEX_SIZE], other[IMAGE_HASH_HEX_SIZE];
        enum image_hash hash = IMAGE_SHA256;
        bool verified = true;
        int r = image_digest(fd, offset, length, IMAGE_SHA256, on_progress, NULL, sha256, &bytes, ret_error);

        if (r >= 0 && length && bytes != length)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "%s is cut off", source->label);
        if (r < 0)
                return r;
        if (digest) {
                (void)image_hash_from_string(text_of(digest, "hash"), &hash);
                snprintf(other, sizeof(other), "%s", sha256);
                if (hash != IMAGE_SHA256)
                        r = image_digest(fd, offset, length, hash, on_progress, NULL, other, NULL, ret_error);
                if (r >= 0)
                        r = compare(source, text_of(digest, "hex"), other, "what was stated", ret_error);
        } else if (!offset && !length && read_checksum_file(source, other))
                r = compare(source, other, sha256, source->sums, ret_error);
        else
                verified = false;
        if (r < 0)
                return r;
        *ret_digest = json_pack(
                "{s:s, s:I, s:b}", "sha256", sha256, "bytes", (json_int_t)bytes, "verified", verified);
        return *ret_digest ? 0 : error_from_errno(ret_error, ENOMEM, "%s", source->label);
}

/* --- What was made --------------------------------------------------------------------------------------------------- */

/* {"dev", "ino", "sha256"}: which file is the job's own, whatever name it has, and what its file of a checksum says. */
static int write_made(
        const struct image_job_work *work, int fd, const json_t *result, struct error **ret_error)
{
        _cleanup_json_ json_t *made = NULL;
        _cleanup_free_ char *text = NULL;
        struct stat st;
        int r = fstat(fd, &st) < 0 ? -errno : 0;

        if (r == 0) {
                made = json_pack("{s:I, s:I, s:O*}", "dev", (json_int_t)st.st_dev, "ino",
                        (json_int_t)st.st_ino, "sha256", json_object_get(result, "sha256"));
                text = made ? doc_to_text(made) : NULL;
                r = text ? file_write_atomic(work->made_path, text, strlen(text), 0600) : -ENOMEM;
        }
        return r < 0 ? error_from_errno(ret_error, r, "record of what was made of an image") : 0;
}

static json_t *read_made(const struct image_job_work *work)
{
        _cleanup_free_ char *text = NULL;
        json_t *made = NULL;
        size_t len;

        if (file_read(work->made_path, MADE_MAX_BYTES, &text, &len) < 0 ||
                doc_parse(text, len, &made, NULL) < 0)
                return NULL;
        return made;
}

static bool is_made(const struct place *target, const char *path, const json_t *made)
{
        _cleanup_fd_ int fd = -1;
        struct stat st;

        return beneath_open_file(target->store->fd, path, O_RDONLY, 0, &fd) >= 0 && !fstat(fd, &st) &&
               (json_int_t)st.st_ino == json_integer_value(json_object_get(made, "ino")) &&
               (json_int_t)st.st_dev == json_integer_value(json_object_get(made, "dev"));
}

static int exists(const struct place *target, const char *path, struct error **ret_error)
{
        return error_set(ret_error, ERROR_EXISTS, "Name another file, or remove that one.",
                "%s: %s is there already", target->store->name, path);
}

/* As sha256sum(1) writes it; the caller's, NULL without memory. */
static char *checksum_text(const struct place *target, const char *hex)
{
        const char *slash = strrchr(target->path, '/');

        return alloc_printf("%s  %s\n", hex, slash ? slash + 1 : target->path);
}

/* Only one that says what the job's would: another's file is not the job's to remove. */
static void remove_checksum_file(const struct place *target, const json_t *made)
{
        const char *hex = text_of(made, "sha256");
        _cleanup_free_ char *expected = *hex ? checksum_text(target, hex) : NULL, *text = NULL;

        if (expected && beneath_read(target->store->fd, target->sums, CHECKSUM_FILE_MAX, &text, NULL) >= 0 &&
                !strcmp(text, expected))
                (void)beneath_unlink(target->store->fd, target->sums);
}

/* Never over a file that is there. Not every network file system knows RENAME_NOREPLACE. */
static int give_name(const struct place *target, struct error **ret_error)
{
        const char *name, *part = strrchr(target->part, '/');
        _cleanup_fd_ int folder = -1;
        int r = open_folder(target, &name, &folder);

        part = part ? part + 1 : target->part;
        if (r >= 0 && renameat2(folder, part, folder, name, RENAME_NOREPLACE) < 0)
                r = -errno;
        if (r == -EINVAL || r == -ENOSYS) {
                r = linkat(folder, part, folder, name, 0) < 0 ? -errno : 0;
                if (r == 0)
                        (void)unlinkat(folder, part, 0);
        }
        if (r == -EEXIST)
                return exists(target, target->path, ret_error);
        if (r >= 0 && fsync(folder) < 0)
                r = -errno;
        return r < 0 ? beneath_failed(r, target->store->name, target->path, ret_error) : 0;
}

static int write_checksum_file(const struct place *target, const json_t *result, struct error **ret_error)
{
        const char *hex = text_of(result, "sha256");
        _cleanup_free_ char *text = checksum_text(target, hex);
        int r = text ? 0 : -ENOMEM;

        if (!*hex)
                return 0;
        if (r == 0)
                r = beneath_write_atomic(target->store->fd, target->sums, text, strlen(text), 0640, true);
        if (r == -EEXIST)
                return exists(target, target->sums, ret_error);
        return r < 0 ? beneath_failed(r, target->store->name, target->sums, ret_error) : 0;
}

static int conclude(const struct image_job_work *work, const struct place *target, const json_t *result,
        struct error **ret_error)
{
        int r;

        crash_point("image-job-made");
        r = give_name(target, ret_error);
        if (r < 0) {
                (void)unlink(work->made_path);
                return r;
        }
        crash_point("image-job-named");
        return write_checksum_file(target, result, ret_error);
}

static bool wants_checksum(const struct image_job_work *work)
{
        return json_is_true(json_object_get(json_object_get(work->request, "target"), "checksum"));
}

/* --- Conversion ------------------------------------------------------------------------------------------------------ */

static int make_part(const struct place *target, bool checksum, int *ret_fd, struct error **ret_error)
{
        const char *slash = strrchr(target->path, '/');
        char folder[PATH_MAX_CHARS + 1];
        _cleanup_fd_ int there = -1;
        int r;

        r = beneath_open(target->store->fd, target->path, O_PATH | O_NOFOLLOW, 0, &there);
        if (r >= 0)
                return exists(target, target->path, ret_error);
        if (checksum && beneath_open(target->store->fd, target->sums, O_PATH | O_NOFOLLOW, 0, &there) >= 0)
                return exists(target, target->sums, ret_error);
        r = 0;
        if (slash) {
                snprintf(folder, sizeof(folder), "%.*s", (int)(slash - target->path), target->path);
                r = beneath_make_dirs(target->store->fd, folder, 0750);
        }
        if (r >= 0) {
                (void)beneath_unlink(target->store->fd, target->part);
                r = beneath_open_file(
                        target->store->fd, target->part, O_RDWR | O_CREAT | O_EXCL, 0640, ret_fd);
        }
        return r < 0 ? beneath_failed(r, target->store->name, target->path, ret_error) : 0;
}

static int convert(const struct image_job_work *work, const struct place *source, int fd,
        const struct place *target, int to_fd, struct image_converted *ret, struct error **ret_error)
{
        const json_t *from = json_object_get(work->request, "source"),
                     *to = json_object_get(work->request, "target");
        struct image_conversion conversion = {.name = source->label,
                .fd = fd,
                .offset = number_of(from, "offset"),
                .length = number_of(from, "length"),
                .to_fd = to_fd,
                .stream = json_is_true(json_object_get(to, "stream")),
                .progress = on_progress};

        (void)image_kind_from_string(text_of(from, "format"), &conversion.kind);
        (void)image_kind_from_string(text_of(to, "format"), &conversion.to_kind);
        return image_convert(&conversion, ret, ret_error);
}

/* *ret_result: {"source": {"sha256", "bytes", "verified"}, "virtual_bytes", "bytes", "allocated_bytes", "sha256"} */
static int describe(const struct image_job_work *work, const json_t *digest, int to_fd,
        const struct image_converted *converted, json_t **ret_result, struct error **ret_error)
{
        char sha256[IMAGE_HASH_HEX_SIZE] = "";
        int r = 0;

        if (wants_checksum(work))
                r = image_digest(to_fd, 0, 0, IMAGE_SHA256, on_progress, NULL, sha256, NULL, ret_error);
        if (r < 0)
                return r;
        *ret_result = json_pack("{s:O, s:I, s:I, s:I, s:s*}", "source", digest, "virtual_bytes",
                (json_int_t)converted->virtual_bytes, "bytes", (json_int_t)converted->bytes,
                "allocated_bytes", (json_int_t)converted->allocated_bytes, "sha256", *sha256 ? sha256 : NULL);
        return *ret_result ? 0 : error_from_errno(ret_error, ENOMEM, "image");
}

static int make(const struct image_job_work *work, const struct place *target, json_t **ret_result,
        struct error **ret_error)
{
        _cleanup_place_ struct place source = {};
        _cleanup_json_ json_t *digest = NULL, *result = NULL;
        _cleanup_fd_ int fd = -1, to_fd = -1;
        struct image_converted converted;
        char stamp[STAMP_SIZE] = "";
        int r = open_place(work, "source", &source, ret_error);

        if (r >= 0) {
                r = beneath_open_file(source.store->fd, source.path, O_RDONLY, 0, &fd);
                r = r < 0 ? beneath_failed(r, source.store->name, source.path, ret_error) : 0;
        }
        if (r >= 0) /* of when the archive's description was read */
                r = check_stamp(
                        &source, fd, text_of(json_object_get(work->request, "source"), "stamp"), ret_error);
        if (r >= 0 && stamp_of(fd, stamp) < 0)
                r = error_from_errno(ret_error, errno, "%s", source.label);
        if (r >= 0)
                r = make_part(target, wants_checksum(work), &to_fd, ret_error);
        if (r < 0)
                return r;
        crash_point("image-job-begun");
        r = check_digest(work, &source, fd, &digest, ret_error);
        if (r >= 0)
                r = convert(work, &source, fd, target, to_fd, &converted, ret_error);
        if (r >= 0)
                r = check_stamp(&source, fd, stamp, ret_error);
        if (r >= 0)
                r = describe(work, digest, to_fd, &converted, &result, ret_error);
        if (r >= 0)
                r = write_made(work, to_fd, result, ret_error);
        if (r >= 0)
                r = conclude(work, target, result, ret_error);
        if (r >= 0)
                *ret_result = TAKE_PTR(result);
        return r;
}

/* --- Appliances -------------------------------------------------------------------------------------------------------- */

static bool only_reads(const struct image_job_work *work)
{
        return !strcmp(text_of(work->request, "kind"), KIND_READ);
}

/* Of the manifest beside a description: "web.ovf", "web.mf". */
static int open_manifest(const struct place *source, int *ret_fd)
{
        char path[PATH_MAX_CHARS + 1];

        snprintf(path, sizeof(path), "%.*s.mf", (int)(strlen(source->path) - strlen(".ovf")), source->path);
        return beneath_open_file(source->store->fd, path, O_RDONLY, 0, ret_fd);
}

/* Where the disk's content is: the archive, or the file beside the description. */
static int add_path(const struct place *source, bool archive, json_t *disk)
{
        const char *slash = strrchr(source->path, '/');
        _cleanup_free_ char *beside = alloc_printf(
                "%.*s%s", slash ? (int)(slash + 1 - source->path) : 0, source->path, text_of(disk, "file"));

        return beside ? json_object_set_new(disk, "path", json_string(archive ? source->path : beside))
                      : -ENOMEM;
}

static int read_appliance(const struct image_job_work *work, json_t **ret_result, struct error **ret_error)
{
        _cleanup_place_ struct place source = {};
        _cleanup_json_ json_t *description = NULL;
        _cleanup_fd_ int fd = -1, manifest_fd = -1;
        char stamp[STAMP_SIZE] = "";
        json_t *disk;
        bool archive;
        size_t i;
        int r = open_place(work, "source", &source, ret_error);

        if (r < 0)
                return r;
        archive = appliance_is_archive(source.path);
        if (!archive && !appliance_is_description(source.path))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Name a file that ends in .ova or .ovf.",
                        "%s is no appliance by its name", source.label);
        r = beneath_open_file(source.store->fd, source.path, O_RDONLY, 0, &fd);
        if (r < 0)
                return beneath_failed(r, source.store->name, source.path, ret_error);
        if (!archive)
                (void)open_manifest(&source, &manifest_fd);
        crash_point("image-job-reading");
        if (archive && stamp_of(fd, stamp) < 0)
                return error_from_errno(ret_error, errno, "%s", source.label);
        r = appliance_read(fd, manifest_fd, archive, source.label, &description, ret_error);
        json_array_foreach (json_object_get(description, "disks"), i, disk)
                if (r >= 0 &&
                        (add_path(&source, archive, disk) < 0 ||
                                (archive && json_object_set_new(disk, "stamp", json_string(stamp)) < 0)))
                        r = error_from_errno(ret_error, ENOMEM, "%s", source.label);
        if (r >= 0)
                *ret_result = TAKE_PTR(description);
        return r;
}

/* A file without a name beside the target, which is gone with whoever has it open. */
static int open_scratch(const struct place *target, int *ret_fd, struct error **ret_error)
{
        char path[sizeof(target->part) + 2];
        int r;

        snprintf(path, sizeof(path), "%s.d", target->part);
        (void)beneath_unlink(target->store->fd, path);
        r = beneath_open_file(target->store->fd, path, O_RDWR | O_CREAT | O_EXCL, 0640, ret_fd);
        if (r >= 0)
                r = beneath_unlink(target->store->fd, path);
        return r < 0 ? beneath_failed(r, target->store->name, path, ret_error) : 0;
}

static int pack_disk(const struct image_job_work *work, const json_t *json, const struct place *target,
        struct appliance_disk *disk, struct error **ret_error)
{
        _cleanup_place_ struct place source = {};
        struct image_converted converted;
        struct image_conversion conversion = {
                .to_kind = IMAGE_KIND_VMDK, .stream = true, .progress = on_progress};
        _cleanup_fd_ int fd = -1;
        int r = open_place_at(work, json, &source, ret_error);

        if (r >= 0) {
                r = beneath_open_file(source.store->fd, source.path, O_RDONLY, 0, &fd);
                r = r < 0 ? beneath_failed(r, source.store->name, source.path, ret_error) : 0;
        }
        if (r >= 0)
                r = open_scratch(target, &disk->fd, ret_error);
        if (r < 0)
                return r;
        (void)image_kind_from_string(text_of(json, "format"), &conversion.kind);
        conversion.name = source.label;
        conversion.fd = fd;
        conversion.to_fd = disk->fd;
        r = image_convert(&conversion, &converted, ret_error);
        if (r < 0)
                return r;
        disk->bytes = converted.bytes;
        disk->virtual_bytes = converted.virtual_bytes;
        return image_digest(disk->fd, 0, 0, IMAGE_SHA256, on_progress, NULL, disk->sha256, NULL, ret_error);
}

/* *ret_result: {"bytes", "sha256"} */
static int write_archive(const struct image_job_work *work, const struct place *target, int out_fd,
        const struct appliance_disk *disks, size_t n_disks, json_t **ret_result, struct error **ret_error)
{
        char sha256[IMAGE_HASH_HEX_SIZE];
        uint64_t bytes = 0;
        int r = appliance_write(out_fd, json_object_get(work->request, "vm"), disks, n_disks, target->label,
                on_progress, NULL, ret_error);

        if (r >= 0)
                r = image_digest(out_fd, 0, 0, IMAGE_SHA256, on_progress, NULL, sha256, &bytes, ret_error);
        if (r < 0)
                return r;
        *ret_result = json_pack("{s:I, s:s}", "bytes", (json_int_t)bytes, "sha256", sha256);
        return *ret_result ? 0 : error_from_errno(ret_error, ENOMEM, "%s", target->label);
}

static int pack(const struct image_job_work *work, const struct place *target, json_t **ret_result,
        struct error **ret_error)
{
        const json_t *list = json_object_get(work->request, "disks");
        struct appliance_disk disks[APPLIANCE_DISKS_MAX];
        _cleanup_json_ json_t *result = NULL;
        _cleanup_fd_ int out_fd = -1;
        size_t n_disks = json_array_size(list);
        int r = make_part(target, true, &out_fd, ret_error);

        /* The process ends afterwards, and its descriptors with it. */
        for (size_t i = 0; r >= 0 && i < n_disks; i++)
                r = pack_disk(work, json_array_get(list, i), target, &disks[i], ret_error);
        if (r >= 0)
                r = write_archive(work, target, out_fd, disks, n_disks, &result, ret_error);
        if (r >= 0)
                r = write_made(work, out_fd, result, ret_error);
        if (r >= 0)
                r = conclude(work, target, result, ret_error);
        if (r >= 0)
                *ret_result = TAKE_PTR(result);
        return r;
}

int image_job_run(void *arg, json_t **ret_result, struct error **ret_error)
{
        const struct image_job_work *work = arg;
        _cleanup_place_ struct place target = {};
        int r;

        if (only_reads(work))
                return read_appliance(work, ret_result, ret_error);
        r = open_place(work, "target", &target, ret_error);
        if (r < 0)
                return r;
        return !strcmp(text_of(work->request, "kind"), KIND_PACK)
                       ? pack(work, &target, ret_result, ret_error)
                       : make(work, &target, ret_result, ret_error);
}

/* --- Removal --------------------------------------------------------------------------------------------------------- */

/* A folder that was made for the file, while it is empty. One of the datastore's own, so that no link is followed. */
static void remove_folder(const struct place *target)
{
        size_t len = strcspn(target->path, "/");
        char folder[PATH_MAX_CHARS + 1];

        if (!target->path[len] || strchr(target->path + len + 1, '/'))
                return;
        snprintf(folder, sizeof(folder), "%.*s", (int)len, target->path);
        (void)unlinkat(target->store->fd, folder, AT_REMOVEDIR);
}

int image_job_clear(void *arg, json_t **ret_result, struct error **ret_error)
{
        const struct image_job_work *work = arg;
        _cleanup_place_ struct place target = {};
        _cleanup_json_ json_t *made = NULL;
        int r;

        if (only_reads(work))
                return 0;
        r = open_place(work, "target", &target, ret_error);
        if (r < 0)
                return r;
        made = read_made(work);
        r = beneath_unlink(target.store->fd, target.part);
        if ((r >= 0 || r == -ENOENT) && work->undo && made && is_made(&target, target.path, made)) {
                remove_checksum_file(&target, made);
                r = beneath_unlink(target.store->fd, target.path);
        }
        if (r < 0 && r != -ENOENT)
                return beneath_failed(r, target.store->name, target.part, ret_error);
        (void)unlink(work->made_path);
        remove_folder(&target);
        return 0;
}
