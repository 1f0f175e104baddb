/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/appliance.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "storage/confine.h"
#include "storage/image_convert.h"
#include "storage/ovf.h"
#include "storage/tar_index.h"

struct source {
        int fd;
        int manifest_fd;
        const char *name;
        struct tar_member *members; /* of an archive */
        size_t n_members;
};

static bool ends_in(const char *path, const char *ending)
{
        size_t len = strlen(path), n = strlen(ending);

        return len > n && !strcasecmp(path + len - n, ending);
}

bool appliance_is_archive(const char *path)
{
        return ends_in(path, ".ova");
}

bool appliance_is_description(const char *path)
{
        return ends_in(path, ".ovf");
}

static ssize_t read_fd(void *userdata, uint64_t offset, void *data, size_t len)
{
        const struct source *source = userdata;
        ssize_t n = pread(source->fd, data, len, (off_t)offset);

        return n < 0 ? -errno : n;
}

/* The caller's, with a NUL behind; as many bytes as there are. */
static int read_part(int fd, uint64_t offset, uint64_t length, size_t max, const char *name, char **ret_text,
        size_t *ret_len, struct error **ret_error)
{
        _cleanup_free_ char *text = NULL;
        size_t len = 0;

        if (length > max)
                return error_set(ret_error, ERROR_TOO_LARGE, NULL,
                        "%s: its description, or the manifest, has more than %zu bytes", name, max);
        text = alloc_zero((size_t)length + 1);
        if (!text)
                return error_from_errno(ret_error, ENOMEM, "%s", name);
        while (len < length) {
                ssize_t n = pread(fd, text + len, (size_t)length - len, (off_t)(offset + len));

                if (n < 0 && errno != EINTR)
                        return error_from_errno(ret_error, errno, "%s", name);
                if (n == 0)
                        break;
                len += n > 0 ? (size_t)n : 0;
        }
        *ret_text = TAKE_PTR(text);
        *ret_len = len;
        return 0;
}

static int size_of(int fd, const char *name, uint64_t *ret, struct error **ret_error)
{
        off_t end = lseek(fd, 0, SEEK_END);

        if (end < 0)
                return error_from_errno(ret_error, errno, "%s", name);
        *ret = (uint64_t)end;
        return 0;
}

static const struct tar_member *member_named(const struct source *source, const char *name)
{
        for (size_t i = 0; i < source->n_members; i++)
                if (!strcmp(source->members[i].name, name))
                        return &source->members[i];
        return NULL;
}

static const struct tar_member *member_ending(const struct source *source, const char *ending)
{
        for (size_t i = 0; i < source->n_members; i++)
                if (ends_in(source->members[i].name, ending))
                        return &source->members[i];
        return NULL;
}

/* *ret_digests stays NULL without a manifest. */
static int read_manifest(const struct source *source, json_t **ret_digests, struct error **ret_error)
{
        const struct tar_member *member = source->members ? member_ending(source, ".mf") : NULL;
        int fd = source->members ? source->fd : source->manifest_fd;
        uint64_t offset = member ? member->offset : 0, length = member ? member->size : 0;
        _cleanup_free_ char *text = NULL;
        size_t len = 0;
        int r = 0;

        if (source->members ? !member : fd < 0)
                return 0;
        if (!source->members)
                r = size_of(fd, source->name, &length, ret_error);
        if (r >= 0)
                r = read_part(
                        fd, offset, length, OVF_MANIFEST_MAX_BYTES, source->name, &text, &len, ret_error);
        return r < 0 ? r : ovf_parse_manifest(text, len, source->name, ret_digests, ret_error);
}

/* A disk's place, what it is, and its checksum. */
static int complete_disk(
        const struct source *source, json_t *disk, const json_t *digests, struct error **ret_error)
{
        const char *file = json_string_value(json_object_get(disk, "file"));
        const struct tar_member *member = source->members ? member_named(source, file) : NULL;
        json_t *digest = json_object_get(digests, file);
        const char *format = ends_in(file, ".vmdk")                           ? "vmdk"
                             : ends_in(file, ".vhdx")                         ? "vhdx"
                             : ends_in(file, ".vhd")                          ? "vhd"
                             : ends_in(file, ".vdi")                          ? "vdi"
                             : ends_in(file, ".img") || ends_in(file, ".raw") ? "raw"
                             : ends_in(file, ".qcow2") && !source->members    ? "qcow2"
                                                                              : NULL;

        if (source->members && !member)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Export it again.",
                        "%s has no file %.100s, which it says is a disk", source->name, file);
        if (member && !member->size)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Export it again.", "%s: %.100s is empty",
                        source->name, file);
        if (!format)
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Export it with vmdk, vhdx or vdi disks.",
                        "%s: the name %.100s does not tell a format of disks", source->name, file);
        if (json_object_set_new(disk, "offset", json_integer(member ? (json_int_t)member->offset : 0)) < 0 ||
                json_object_set_new(disk, "length", json_integer(member ? (json_int_t)member->size : 0)) <
                        0 ||
                json_object_set_new(disk, "format", json_string(format)) < 0 ||
                (digest && json_object_set(disk, "digest", digest) < 0))
                return error_from_errno(ret_error, ENOMEM, "%s", source->name);
        return 0;
}

/* That the description is the one that the manifest was made for. */
static int check_description_digest(int fd, uint64_t offset, uint64_t length, const json_t *digest,
        const char *name, struct error **ret_error)
{
        char hex[IMAGE_HASH_HEX_SIZE];
        enum image_hash hash;
        int r;

        if (!digest || image_hash_from_string(json_string_value(json_object_get(digest, "hash")), &hash) < 0)
                return 0;
        r = image_digest(fd, offset, length, hash, NULL, NULL, hex, NULL, ret_error);
        if (r >= 0 && strcasecmp(hex, json_string_value(json_object_get(digest, "hex"))) != 0)
                r = error_set(ret_error, ERROR_CHECK_FAILED,
                        "Copy it there again; it was changed or damaged.",
                        "%s: the description has another checksum than the manifest says", name);
        return r;
}

static int describe(const struct source *source, const char *own_name, uint64_t offset, uint64_t length,
        json_t **ret_description, struct error **ret_error)
{
        _cleanup_json_ json_t *description = NULL, *digests = NULL;
        _cleanup_free_ char *text = NULL;
        json_t *disk;
        size_t len = 0, i;
        int r = read_part(source->fd, offset, length, OVF_MAX_BYTES, source->name, &text, &len, ret_error);

        if (r >= 0)
                r = ovf_parse(text, len, source->name, &description, ret_error);
        if (r >= 0)
                r = read_manifest(source, &digests, ret_error);
        if (r >= 0)
                r = check_description_digest(source->fd, offset, length, json_object_get(digests, own_name),
                        source->name, ret_error);
        json_array_foreach (json_object_get(description, "disks"), i, disk)
                if (r >= 0)
                        r = complete_disk(source, disk, digests, ret_error);
        if (r >= 0)
                *ret_description = TAKE_PTR(description);
        return r;
}

static int read_archive(
        struct source *source, uint64_t bytes, json_t **ret_description, struct error **ret_error)
{
        _cleanup_free_ struct tar_member *members = alloc_array(TAR_MEMBERS_MAX, sizeof(*members));
        const struct tar_member *ovf;
        int r;

        if (!members)
                return error_from_errno(ret_error, ENOMEM, "%s", source->name);
        r = tar_index(read_fd, source, bytes, source->name, members, &source->n_members, ret_error);
        if (r < 0)
                return r;
        source->members = members;
        ovf = member_ending(source, ".ovf");
        if (!ovf)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "%s is no appliance: no file in it ends in .ovf", source->name);
        else
                r = describe(source, ovf->name, ovf->offset, ovf->size, ret_description, ret_error);
        source->members = NULL;
        return r;
}

int appliance_read(int fd, int manifest_fd, bool archive, const char *name, json_t **ret_description,
        struct error **ret_error)
{
        struct source source = {.fd = fd, .manifest_fd = manifest_fd, .name = name};
        const char *slash = strrchr(name, '/');
        char hex[IMAGE_HASH_HEX_SIZE];
        uint64_t bytes = 0;
        /* OpenSSL loads what it needs at its first use. */
        int r = image_digest(fd, 0, 1, IMAGE_SHA256, NULL, NULL, hex, NULL, ret_error);

        if (r >= 0)
                r = confine_to_descriptors(ret_error);
        if (r >= 0)
                r = size_of(fd, name, &bytes, ret_error);
        if (r < 0)
                return r;
        return archive ? read_archive(&source, bytes, ret_description, ret_error)
                       : describe(&source, slash ? slash + 1 : name, 0, bytes, ret_description, ret_error);
}
