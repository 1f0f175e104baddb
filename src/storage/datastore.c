/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/datastore.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/doc.h"
#include "base/torture.h"
#include "storage/beneath.h"
#include "storage/mount.h"

#define FORMAT 1
#define ID_FILE_MAX_BYTES 4096
#define ID_TRIES 3
#define PATH_MAX_BYTES 1024
#define MEASURE_LATENCY_MAX_US 50000 /* slower: it has enough to do */
#define MEASURE_FREE_MIN_BYTES (UINT64_C(256) << 20)

/* statfs(2) and linux/magic.h; those that the header lacks are from the file systems' own sources. */
static const struct {
        uint64_t magic;
        const char *name;
        bool shared;
} file_systems[] = {
        {0xEF53, "ext4", false},
        {0x58465342, "xfs", false},
        {0x9123683E, "btrfs", false},
        {0x2FC12FC1, "zfs", false},
        {0x01021994, "tmpfs", false},
        {0x794C7630, "overlay", false},
        {0xF2F52010, "f2fs", false},
        {0x6969, "nfs", true},
        {0xFF534D42, "cifs", true},
        {0xFE534D42, "smb2", true},
        {0x00C36400, "ceph", true},
        {0x01161970, "gfs2", true},
        {0x7461636F, "ocfs2", true},
        {0x47504653, "gpfs", true},
        {0x0BD00BD0, "lustre", true},
        {0x01021997, "9p", true},
        {0x65735546, "fuse", true},
};

/* Folders of the system that are refused as they are, ... */
static const char *const forbidden[] = {"/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv",
        "/tmp", "/var", "/var/cache", "/var/lib", "/var/log", "/var/run", "/var/spool", "/var/tmp"};
/* ... and with everything below. */
static const char *const forbidden_trees[] = {"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64",
        "/libx32", "/proc", "/sbin", "/sys", "/usr"};

static bool is_below(const char *path, const char *tree)
{
        size_t len = strlen(tree);

        return !strncmp(path, tree, len) && (!path[len] || path[len] == '/');
}

static bool is_system_folder(const char *path)
{
        for (size_t i = 0; i < ARRAY_SIZE(forbidden); i++)
                if (!strcmp(path, forbidden[i]))
                        return true;
        for (size_t i = 0; i < ARRAY_SIZE(forbidden_trees); i++)
                /* Shared memory is the one place in /dev where people (and tests) put files. */
                if (is_below(path, forbidden_trees[i]) && strncmp(path, "/dev/shm/", 9) != 0)
                        return true;
        return false;
}

int datastore_check_path(const char *path, struct error **ret_error)
{
        if (!path || path[0] != '/')
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Give an absolute path, such as /srv/datastore.",
                        "the path of the datastore is not absolute");
        if (strlen(path) > PATH_MAX_BYTES)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "the path of the datastore is longer than %d bytes", PATH_MAX_BYTES);
        if (is_system_folder(path))
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Give a folder made for this, such as /srv/datastore.",
                        "%s is a folder of the system and cannot be a datastore", path);
        for (const char *part = path; *part; part += strcspn(part, "/")) {
                char name[256];

                part++; /* the slash */
                if (snprintf(name, sizeof(name), "%.*s", (int)strcspn(part, "/"), part) >=
                                (int)sizeof(name) ||
                        !text_is_relative_path(name))
                        return error_set(ret_error, ERROR_BAD_DOCUMENT,
                                "Write the path without \"//\", \".\", \"..\", a final \"/\" and control "
                                "characters.",
                                "the path of the datastore is not in plain form");
        }
        return 0;
}

/* Opens the folder; *ret_path is where it really is, after all symbolic links. */
static int open_folder(const char *path, int *ret_fd, char **ret_path, struct error **ret_error)
{
        _cleanup_fd_ int fd = -1;
        char link[64], real[PATH_MAX_BYTES + 2];
        ssize_t len;
        int r;

        fd = torture_point() ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0 && errno == ENOENT)
                return error_set(ret_error, ERROR_NOT_FOUND, "Create the folder, or mount the storage there.",
                        "the datastore's folder %s does not exist", path);
        if (fd < 0 && errno == ENOTDIR)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Give a folder.", "%s is not a folder", path);
        if (fd < 0 && errno == ELOOP)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Give the real path.",
                        "the symbolic links in %s go round in a circle", path);
        if (fd < 0)
                return error_from_errno(
                        ret_error, errno ?: EIO, "cannot open the datastore's folder %s", path);
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        len = readlink(link, real, sizeof(real) - 1);
        if (len < 0)
                return error_from_errno(ret_error, errno, "cannot find out where %s leads", path);
        real[len] = '\0';
        r = datastore_check_path(real, ret_error);
        if (r < 0)
                return r;
        *ret_path = alloc_strdup(real);
        if (!*ret_path)
                return error_from_errno(ret_error, ENOMEM, "cannot open the datastore's folder %s", path);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int parse_id(const char *text, size_t len, char ret_id[static UUID_STRING_SIZE])
{
        static const char *const keys[] = {"format", "id", "name", NULL};
        _cleanup_json_ json_t *json = NULL;
        const char *id = NULL, *name = NULL;
        uint64_t format;

        if (doc_parse(text, len, &json, NULL) < 0 || doc_only_keys(json, "", keys, NULL) < 0 ||
                doc_need_u64(json, "", "format", FORMAT, FORMAT, &format, NULL) < 0 ||
                doc_need_string(json, "", "id", UUID_STRING_SIZE, &id, NULL) < 0 ||
                doc_need_string(json, "", "name", NAME_MAX_CHARS, &name, NULL) < 0 || !text_is_uuid(id))
                return -EBADMSG;
        memcpy(ret_id, id, UUID_STRING_SIZE);
        return 0;
}

/* -ENOENT without an error object: there is none. */
static int read_id(const struct datastore *ds, char ret_id[static UUID_STRING_SIZE], struct error **ret_error)
{
        _cleanup_free_ char *text = NULL;
        size_t len;
        int r = beneath_read(ds->fd, DATASTORE_ID_FILE, ID_FILE_MAX_BYTES, &text, &len);

        if (r == -ENOENT)
                return r;
        if (!r)
                r = parse_id(text, len, ret_id);
        if (r == -EBADMSG)
                return error_set(ret_error, ERROR_CONFLICT,
                        "Restore the file from a backup; or, if no host uses the folder, delete it.",
                        "%s/" DATASTORE_ID_FILE " is damaged or of a newer version", ds->path);
        return r < 0 ? beneath_failed(r, ds->path, DATASTORE_ID_FILE, ret_error) : 0;
}

/* -EEXIST without an error object: another host was faster. */
static int make_id(const struct datastore *ds, struct error **ret_error)
{
        _cleanup_free_ char *text = NULL;
        char id[UUID_STRING_SIZE];
        int r = text_uuid_new(id);

        if (r < 0)
                return error_from_errno(ret_error, r, "cannot make an id for the datastore");
        text = alloc_printf("{\"format\":%d,\"id\":\"%s\",\"name\":\"%s\"}\n", FORMAT, id, ds->name);
        if (!text)
                return error_from_errno(ret_error, ENOMEM, "cannot make an id for the datastore");
        r = beneath_write_atomic(ds->fd, DATASTORE_ID_FILE, text, strlen(text), 0644, true);
        if (r < 0 && r != -EEXIST)
                return beneath_failed(r, ds->path, DATASTORE_ID_FILE, ret_error);
        return r;
}

static int find_or_make_id(struct datastore *ds, struct error **ret_error)
{
        int r = -ENOENT;

        for (int i = 0; i < ID_TRIES && r == -ENOENT; i++) {
                r = read_id(ds, ds->id, ret_error);
                if (r != -ENOENT)
                        return r;
                r = make_id(ds, ret_error);
                if (r < 0 && r != -EEXIST)
                        return r;
                r = -ENOENT;
        }
        return error_set(
                ret_error, ERROR_CONFLICT, "Try again.", "the id file in %s comes and goes", ds->path);
}

static int check_id(struct datastore *ds, const char *id, struct error **ret_error)
{
        int r = read_id(ds, ds->id, ret_error);

        if (r == -ENOENT)
                return error_set(ret_error, ERROR_NOT_FOUND, "Mount the storage there.",
                        "%s holds no datastore (no " DATASTORE_ID_FILE "): it is probably not mounted",
                        ds->path);
        if (r < 0)
                return r;
        if (strcmp(ds->id, id))
                return error_set(ret_error, ERROR_CONFLICT, "Mount the right storage there.",
                        "%s holds the datastore with id %s, not %s with id %s", ds->path, ds->id, ds->name,
                        id);
        return 0;
}

int datastore_open(const char *name, const char *path, const char *id, struct datastore **ret_datastore,
        struct error **ret_error)
{
        _cleanup_(datastore_freep) struct datastore *ds = NULL;
        int r;

        if (!text_is_name(name))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Use letters, digits, '.', '_' and '-'.",
                        "this is no name for a datastore");
        if (id && !text_is_uuid(id))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "the datastore's id is not a UUID");
        r = datastore_check_path(path, ret_error);
        if (r < 0)
                return r;
        ds = ALLOC(struct datastore);
        if (!ds)
                return error_from_errno(ret_error, ENOMEM, "cannot open datastore %s", name);
        ds->fd = -1;
        if (alloc_replace(&ds->name, name) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot open datastore %s", name);
        r = open_folder(path, &ds->fd, &ds->path, ret_error);
        if (!r)
                r = id ? check_id(ds, id, ret_error) : find_or_make_id(ds, ret_error);
        if (r < 0)
                return r;
        *ret_datastore = TAKE_PTR(ds);
        return 0;
}

void datastore_free(struct datastore *datastore)
{
        if (!datastore)
                return;
        fd_closep(&datastore->fd);
        free(datastore->name);
        free(datastore->path);
        free(datastore);
}

int datastore_stat(
        const struct datastore *datastore, struct datastore_status *ret_status, struct error **ret_error)
{
        struct datastore_status status = {};
        struct statfs fs;

        if (torture_point() || fstatfs(datastore->fd, &fs) < 0)
                return error_from_errno(
                        ret_error, errno ?: EIO, "cannot read the size of %s", datastore->path);
        memcpy(status.id, datastore->id, sizeof(status.id));
        status.capacity_bytes = (uint64_t)fs.f_blocks * (uint64_t)fs.f_frsize;
        status.free_bytes = (uint64_t)fs.f_bavail * (uint64_t)fs.f_frsize;
        snprintf(status.file_system, sizeof(status.file_system), "0x%" PRIx64,
                (uint64_t)fs.f_type & 0xffffffff);
        for (size_t i = 0; i < ARRAY_SIZE(file_systems); i++)
                if (file_systems[i].magic == ((uint64_t)fs.f_type & 0xffffffff)) {
                        snprintf(status.file_system, sizeof(status.file_system), "%s", file_systems[i].name);
                        status.shared = file_systems[i].shared;
                }
        status.locks = mount_fd_locks_pass(datastore->fd);
        *ret_status = status;
        return 0;
}

/* The check in a child */

struct datastore_check {
        struct offload *offload;
        datastore_check_fn done;
        void *userdata;
};

struct check_spec {
        const char *name;
        const char *path;
        const char *id;
        bool measure;
};

/* What a guest waits for when it flushes one small write; 0 when it fails, of which the guests will tell. */
static uint32_t write_latency_us(int fd)
{
        static const char block[512];
        uint64_t began_ns = clock_monotonic_ns();

        if (write(fd, block, sizeof(block)) != (ssize_t)sizeof(block) || fdatasync(fd) < 0)
                return 0;
        return (uint32_t)MIN((clock_monotonic_ns() - began_ns) / 1000 + 1, (uint64_t)UINT32_MAX);
}

/* Root may be refused on NFS whatever the mode bits say, so only doing it proves it. A full file system is reachable
 * and says so in its numbers. */
static int prove_writable(
        const struct datastore *ds, bool measure, struct datastore_status *status, struct error **ret_error)
{
        char name[32], random[17];
        int fd, r;

        r = text_random_hex(8, random);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot check datastore %s", ds->name);
        snprintf(name, sizeof(name), ".tmp-%s", random);
        r = beneath_open(ds->fd, name, O_RDWR | O_CREAT | O_EXCL, 0600, &fd);
        if (r == -ENOSPC || r == -EDQUOT)
                return 0;
        if (r < 0)
                return beneath_failed(r, ds->path, name, ret_error);
        status->latency_us = write_latency_us(fd);
        r = beneath_unlink(ds->fd, name); /* first: this child may be killed while it measures */
        if (measure && status->latency_us && status->latency_us < MEASURE_LATENCY_MAX_US &&
                status->free_bytes > MEASURE_FREE_MIN_BYTES)
                write_rate_measure(fd, &status->rate);
        close(fd);
        return r < 0 ? beneath_failed(r, ds->path, name, ret_error) : 0;
}

static int check_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        _cleanup_(datastore_freep) struct datastore *ds = NULL;
        const struct check_spec *spec = arg;
        struct datastore_status status = {};
        int r;

        r = datastore_open(spec->name, spec->path, spec->id, &ds, ret_error);
        if (!r)
                r = datastore_stat(ds, &status, ret_error);
        if (!r)
                r = prove_writable(ds, spec->measure, &status, ret_error);
        if (r < 0)
                return r;
        *ret_result = json_pack("{s:s, s:I, s:I, s:s, s:b, s:b, s:I, s:I, s:I}", "id", status.id, "capacity",
                (json_int_t)status.capacity_bytes, "free", (json_int_t)status.free_bytes, "file_system",
                status.file_system, "shared", status.shared, "locks", status.locks, "latency_us",
                (json_int_t)status.latency_us, "write", (json_int_t)status.rate.write_bytes_per_s, "read",
                (json_int_t)status.rate.read_bytes_per_s);
        return *ret_result ? 0 : -ENOMEM;
}

static void on_checked(void *userdata, json_t *result, struct error *error)
{
        struct datastore_check *check = userdata;
        struct datastore_check taken = *check;
        struct datastore_status status = {};

        check->offload = NULL; /* gone with this call */
        datastore_check_free(check);
        if (error) {
                taken.done(taken.userdata, NULL, error);
                return;
        }
        /* Our own child wrote it a moment ago: no hostile document. */
        snprintf(status.id, sizeof(status.id), "%s", json_string_value(json_object_get(result, "id")) ?: "");
        snprintf(status.file_system, sizeof(status.file_system), "%s",
                json_string_value(json_object_get(result, "file_system")) ?: "");
        status.capacity_bytes = (uint64_t)json_integer_value(json_object_get(result, "capacity"));
        status.free_bytes = (uint64_t)json_integer_value(json_object_get(result, "free"));
        status.shared = json_is_true(json_object_get(result, "shared"));
        status.locks = json_is_true(json_object_get(result, "locks"));
        status.latency_us = (uint32_t)json_integer_value(json_object_get(result, "latency_us"));
        status.rate.write_bytes_per_s = (uint64_t)json_integer_value(json_object_get(result, "write"));
        status.rate.read_bytes_per_s = (uint64_t)json_integer_value(json_object_get(result, "read"));
        taken.done(taken.userdata, &status, NULL);
}

int datastore_check_start(struct loop *loop, const char *name, const char *path, const char *id,
        uint64_t timeout_ms, bool measure, datastore_check_fn done, void *userdata,
        struct datastore_check **ret_check, struct error **ret_error)
{
        _cleanup_(datastore_check_freep) struct datastore_check *check = NULL;
        struct check_spec spec = {.name = name, .path = path, .id = id, .measure = measure};
        char what[128];
        int r = datastore_check_path(path, ret_error);

        if (r < 0)
                return r;
        check = ALLOC(struct datastore_check);
        if (!check)
                return error_from_errno(ret_error, ENOMEM, "cannot check datastore %s", name);
        check->done = done;
        check->userdata = userdata;
        snprintf(what, sizeof(what), "check of datastore %.63s", name);
        r = offload_start(loop, what, check_in_child, &spec, timeout_ms ?: DATASTORE_CHECK_TIMEOUT_MS,
                on_checked, check, &check->offload, ret_error);
        if (r < 0)
                return r;
        *ret_check = TAKE_PTR(check);
        return 0;
}

void datastore_check_free(struct datastore_check *check)
{
        if (!check)
                return;
        offload_free(check->offload);
        free(check);
}

/* Files */

int datastore_open_file(
        const struct datastore *datastore, const char *path, int flags, int *ret_fd, struct error **ret_error)
{
        int r = text_is_relative_path(path) ? beneath_open_file(datastore->fd, path, flags, 0, ret_fd)
                                            : -EXDEV;

        return r < 0 ? beneath_failed(r, datastore->name, path, ret_error) : 0;
}

int datastore_file_path(
        const struct datastore *datastore, const char *path, char **ret_path, struct error **ret_error)
{
        _cleanup_fd_ int fd = -1;
        char *full;
        int r = datastore_open_file(datastore, path, O_RDONLY, &fd, ret_error);

        if (r < 0)
                return r;
        full = alloc_printf("%s/%s", datastore->path, path);
        if (!full)
                return error_from_errno(ret_error, ENOMEM, "%s: %s", datastore->name, path);
        *ret_path = full;
        return 0;
}
