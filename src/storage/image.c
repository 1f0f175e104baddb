/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/image.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/cursor.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/child.h"
#include "storage/beneath.h"

#define CHILD_FD 3
#define CHILD_PATH "/proc/self/fd/3"
#define CHILD_QCOW2 "driver=qcow2,file.driver=file,file.filename=/proc/self/fd/3"
#define CHILD_TARGET_FD 4 /* of a copy */
#define CHILD_TARGET_PATH "/proc/self/fd/4"
#define OUTPUT_MAX_BYTES (64 * 1024)
#define READ_TIMEOUT_MS 30000
#define CREATE_TIMEOUT_MS 600000
#define MESSAGE_MAX 512

/* qemu-img(1), "check": what its exit code says. */
#define CHECK_DONE 0
#define CHECK_ERRORS 2
#define CHECK_LEAKS 3

static const char *const format_names[] = {[IMAGE_RAW] = "raw", [IMAGE_QCOW2] = "qcow2"};
static_assert(ARRAY_SIZE(format_names) == N_IMAGE_FORMATS, "every format has a name");

enum step { STEP_CREATE, STEP_INFO, STEP_CHECK, STEP_COPY, STEP_RESIZE, STEP_SNAPSHOT };

struct image_job {
        struct loop *loop;
        struct child *child;
        enum step step;
        bool thick;
        bool check; /* after STEP_INFO comes STEP_CHECK */
        enum image_format format;
        char *name; /* "DATASTORE: PATH" for messages */
        char *path;
        int datastore_fd;
        int fd;
        int target_fd; /* of a copy; -1 */
        enum image_format target_format;
        uint64_t rate_bytes_per_s;
        uint64_t size_bytes;
        uint64_t timeout_ms;
        enum image_snapshot_verb verb; /* of STEP_SNAPSHOT */
        char *snapshot;
        json_t *snapshots; /* what info.snapshots points to */
        struct image_info info;
        image_done_fn done;
        void *userdata;
};

const char *image_format_to_string(enum image_format format)
{
        return format_names[format];
}

int image_format_from_string(const char *s, enum image_format *ret_format)
{
        for (size_t i = 0; s && i < N_IMAGE_FORMATS; i++)
                if (!strcmp(s, format_names[i])) {
                        *ret_format = (enum image_format)i;
                        return 0;
                }
        return -EINVAL;
}

static int refers_elsewhere(const char *name, const char *what, struct error **ret_error)
{
        return error_set(ret_error, ERROR_CHECK_FAILED,
                "Flatten it with qemu-img convert on a machine that you trust.",
                "%s refers to another file (%s), which could be any file of the host", name, what);
}

/* Before qemu-img sees the file, since some versions of it open what a header names. QEMU's docs/interop/qcow2.txt:
 * magic, version, backing file offset (8), ..., incompatible features (72, version 3), bit 2 of these: external data
 * file. */
static int check_qcow2_header(int fd, const char *name, struct error **ret_error)
{
        uint8_t header[80] = {};
        ssize_t n = pread(fd, header, sizeof(header), 0);
        struct cursor c = cursor_of(header, n < 0 ? 0 : (size_t)n);
        uint32_t magic, version;
        uint64_t backing, features = 0;
        const uint8_t *skipped;

        if (n < 0)
                return error_from_errno(ret_error, errno, "cannot read %s", name);
        if (!cursor_u32be(&c, &magic) || !cursor_u32be(&c, &version) || !cursor_u64be(&c, &backing) ||
                magic != 0x514649fb || (version != 2 && version != 3))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "State the format that the image really has.",
                        "%s is no qcow2 image", name);
        if (backing)
                return refers_elsewhere(name, "backing file", ret_error);
        if (version == 3 && (!cursor_bytes(&c, 56, &skipped) || !cursor_u64be(&c, &features)))
                return error_set(
                        ret_error, ERROR_BAD_DOCUMENT, "Restore it from a backup.", "%s is cut off", name);
        return features & 4 ? refers_elsewhere(name, "external data file", ret_error) : 0;
}

int image_check_header(int fd, enum image_format format, const char *name, struct error **ret_error)
{
        return format == IMAGE_QCOW2 ? check_qcow2_header(fd, name, ret_error) : 0;
}

static void finish(struct image_job *job, struct error *error)
{
        image_done_fn done = job->done;
        struct image_info info = job->info;
        _cleanup_json_ json_t *snapshots = json_incref(job->snapshots); /* info points to it */
        void *userdata = job->userdata;
        struct stat st;

        if (job->step == STEP_CREATE && !error) {
                info.virtual_bytes = job->size_bytes;
                if (!fstat(job->fd, &st))
                        info.allocated_bytes = (uint64_t)st.st_blocks * 512;
                job->size_bytes = 0; /* whole: freeing the job leaves it */
        }
        if (job->step == STEP_COPY && !fstat(job->target_fd, &st))
                info.allocated_bytes = (uint64_t)st.st_blocks * 512;
        image_job_free(job);
        done(userdata, error ? NULL : &info, error);
}

/* qemu-img's own words, first line, without its name and our descriptor's. */
static void tool_failed(
        const struct image_job *job, const struct child_result *result, struct error **ret_error)
{
        char how[64], words[MESSAGE_MAX];
        const char *at;

        if (result->timed_out) {
                (void)error_set(ret_error, ERROR_TIMED_OUT, "Check the storage server and the network to it.",
                        "%s: qemu-img did not end within %" PRIu64 " ms", job->name, job->timeout_ms);
                return;
        }
        if (strstr(result->output, "No space left on device") ||
                strstr(result->output, "Disk quota exceeded")) {
                (void)error_set(ret_error, ERROR_NO_SPACE, "Free space on the datastore, or enlarge it.",
                        "%s: the datastore is full", job->name);
                return;
        }
        if (strstr(result->output, "Failed to get") && strstr(result->output, "lock")) {
                (void)error_set(ret_error, ERROR_LOCKED, "Stop the virtual machine that uses it.",
                        "%s is in use by a running QEMU, on this or another host", job->name);
                return;
        }
        at = result->output;
        if (!strncmp(at, "qemu-img: ", 10))
                at += 10;
        snprintf(words, sizeof(words), "%.*s", (int)MIN(strcspn(at, "\n"), (size_t)MESSAGE_MAX - 1), at);
        (void)error_set(ret_error, ERROR_QEMU_FAILED, NULL, "%s: qemu-img %s%s%s", job->name,
                child_result_format(result, how), *words ? ": " : "", words);
}

json_t *image_snapshot_names(const json_t *image)
{
        const json_t *list = json_object_get(image, "snapshots");
        _cleanup_json_ json_t *names = json_array_size(list) ? json_array() : NULL;
        json_t *one;
        size_t i;

        json_array_foreach ((json_t *)list, i, one)
                if (json_array_append(names, json_object_get(one, "name")) < 0)
                        return NULL;
        return TAKE_PTR(names);
}

static int parse_info(struct image_job *job, const char *output, struct error **ret_error)
{
        const char *start = strchr(output, '{');
        _cleanup_json_ json_t *json = NULL;
        const json_t *data;
        uint64_t virtual_bytes = 0, allocated = 0;

        if (!start || doc_parse(start, strlen(start), &json, NULL) < 0 ||
                doc_need_u64(json, "", "virtual-size", 0, INT64_MAX, &virtual_bytes, NULL) < 0 ||
                doc_opt_u64(json, "", "actual-size", 0, INT64_MAX, &allocated, NULL) < 0)
                return error_set(ret_error, ERROR_QEMU_FAILED, NULL,
                        "%s: qemu-img's answer is not understood", job->name);
        data = json_object_get(json_object_get(json, "format-specific"), "data");
        if (json_object_get(json, "backing-filename"))
                return refers_elsewhere(job->name, "backing file", ret_error);
        if (json_object_get(data, "data-file"))
                return refers_elsewhere(job->name, "external data file", ret_error);
        job->info.virtual_bytes = virtual_bytes;
        job->info.allocated_bytes = allocated;
        job->info.dirty = json_is_true(json_object_get(json, "dirty-flag"));
        job->info.corrupt = json_is_true(json_object_get(data, "corrupt"));
        job->info.snapshots = job->snapshots = image_snapshot_names(json);
        if (!job->snapshots && json_array_size(json_object_get(json, "snapshots")))
                return error_from_errno(ret_error, ENOMEM, "%s", job->name);
        return 0;
}

static int parse_check(struct image_job *job, const char *output, struct error **ret_error)
{
        const char *start = strchr(output, '{');
        _cleanup_json_ json_t *json = NULL;
        uint64_t unreadable = 0;

        if (!start || doc_parse(start, strlen(start), &json, NULL) < 0 ||
                doc_opt_u64(json, "", "corruptions", 0, INT64_MAX, &job->info.n_errors, NULL) < 0 ||
                doc_opt_u64(json, "", "leaks", 0, INT64_MAX, &job->info.n_leaks, NULL) < 0 ||
                doc_opt_u64(json, "", "check-errors", 0, INT32_MAX, &unreadable, NULL) < 0)
                return error_set(ret_error, ERROR_QEMU_FAILED, NULL,
                        "%s: qemu-img's answer is not understood", job->name);
        job->info.n_errors += unreadable;
        return 0;
}

static int start_tool(struct image_job *job, struct error **ret_error);

static void on_tool_exit(void *userdata, const struct child_result *result)
{
        _cleanup_error_ struct error *error = NULL;
        struct image_job *job = userdata;
        bool ok = result->exited && result->code == 0;
        int r = 0;

        if (job->step == STEP_CHECK && result->exited &&
                (result->code == CHECK_ERRORS || result->code == CHECK_LEAKS))
                ok = true;
        if (!ok)
                tool_failed(job, result, &error);
        else if (job->step == STEP_INFO)
                r = parse_info(job, result->output, &error);
        else if (job->step == STEP_CHECK)
                r = parse_check(job, result->output, &error);
        if (ok && !r && job->step == STEP_INFO && job->check && job->format == IMAGE_QCOW2) {
                job->step = STEP_CHECK;
                child_free(TAKE_PTR(job->child));
                r = start_tool(job, &error);
                if (!r)
                        return;
        }
        if (r < 0 && !error)
                (void)error_from_errno(&error, r, "%s", job->name);
        finish(job, error);
}

static int start_tool(struct image_job *job, struct error **ret_error)
{
        static const char *const env[] = {"LC_ALL=C", NULL};
        const char *format = format_names[job->format];
        /* Written through: convert ignores a failure of the flush with which it closes a target that is written back. */
        const char *copy[] = {"qemu-img", "convert", "-q", "-n", "--target-is-zero", "-t", "writethrough",
                "-f", format, "-O", format_names[job->target_format], CHILD_PATH, CHILD_TARGET_PATH, NULL,
                NULL, NULL};
        char size[24], rate[24];
        /* `-U` shares the image with a QEMU that runs; a check wants to know about that one instead. */
        const char *create[] = {"qemu-img", "create", "-q", "-f", format, "-o",
                job->thick ? "preallocation=falloc" : "preallocation=off", CHILD_PATH, size, NULL};
        const char *info[] = {"qemu-img", "info", "--output=json", "-f", format, CHILD_PATH, NULL};
        const char *info_shared[] = {
                "qemu-img", "info", "-U", "--output=json", "-f", format, CHILD_PATH, NULL};
        const char *resize[] = {"qemu-img", "resize", "-q", "-f", format, CHILD_PATH, size, NULL};
        const char *const verbs[] = {[IMAGE_SNAPSHOT_CREATE] = "-c",
                [IMAGE_SNAPSHOT_APPLY] = "-a",
                [IMAGE_SNAPSHOT_DELETE] = "-d"};
        /* It has no option for the format. */
        const char *snapshot[] = {"qemu-img", "snapshot", "-q", verbs[job->verb], job->snapshot,
                "--image-opts", CHILD_QCOW2, NULL};
        const char *check[] = {"qemu-img", "check", "--output=json", "-f", format, CHILD_PATH, NULL};
        const struct child_fd fds[] = {
                {.fd = job->fd, .target = CHILD_FD}, {.fd = job->target_fd, .target = CHILD_TARGET_FD}};
        struct child_spec spec = CHILD_SPEC_INIT;

        snprintf(rate, sizeof(rate), "%" PRIu64, job->rate_bytes_per_s);
        if (job->rate_bytes_per_s) {
                copy[11] = "-r";
                copy[12] = rate;
                copy[13] = CHILD_PATH;
                copy[14] = CHILD_TARGET_PATH;
        }
        snprintf(size, sizeof(size), "%" PRIu64, job->size_bytes);
        spec.argv = job->step == STEP_CREATE     ? create
                    : job->step == STEP_CHECK    ? check
                    : job->step == STEP_COPY     ? copy
                    : job->step == STEP_RESIZE   ? resize
                    : job->step == STEP_SNAPSHOT ? snapshot
                    : job->check                 ? info
                                                 : info_shared;
        spec.env = env;
        spec.fds = fds;
        spec.n_fds = job->target_fd >= 0 ? 2 : 1;
        spec.output_max = OUTPUT_MAX_BYTES;
        spec.timeout_ms = job->timeout_ms;
        return child_start(job->loop, &spec, on_tool_exit, job, &job->child, ret_error);
}

/* `fd` is taken over, also on failure. */
static int new_opened_job(struct loop *loop, const char *name, int fd, enum image_format format,
        image_done_fn done, void *userdata, struct image_job **ret_job, struct error **ret_error)
{
        _cleanup_(image_job_freep) struct image_job *job = ALLOC(struct image_job);
        _cleanup_fd_ int owned = fd;

        if (!job)
                return error_from_errno(ret_error, ENOMEM, "%s", name);
        job->loop = loop;
        job->format = job->info.format = format;
        job->fd = TAKE_FD(owned);
        job->target_fd = job->datastore_fd = -1;
        job->done = done;
        job->userdata = userdata;
        job->step = STEP_INFO;
        job->name = alloc_strdup(name);
        if (!job->name)
                return error_from_errno(ret_error, ENOMEM, "%s", name);
        *ret_job = TAKE_PTR(job);
        return 0;
}

static int new_job(struct loop *loop, const struct datastore *datastore, const char *path,
        enum image_format format, image_done_fn done, void *userdata, struct image_job **ret_job,
        struct error **ret_error)
{
        _cleanup_(image_job_freep) struct image_job *job = NULL;
        _cleanup_free_ char *name = alloc_printf("%s: %s", datastore->name, path);
        int r;

        if (!name)
                return error_from_errno(ret_error, ENOMEM, "%s: %s", datastore->name, path);
        r = new_opened_job(loop, name, -1, format, done, userdata, &job, ret_error);
        if (r < 0)
                return r;
        if (!text_is_relative_path(path))
                return beneath_failed(-EXDEV, datastore->name, path, ret_error);
        job->path = alloc_strdup(path);
        if (!job->path)
                return error_from_errno(ret_error, ENOMEM, "%s", name);
        job->datastore_fd = fcntl(datastore->fd, F_DUPFD_CLOEXEC, 3);
        if (job->datastore_fd < 0)
                return error_from_errno(ret_error, errno, "%s", name);
        *ret_job = TAKE_PTR(job);
        return 0;
}

static int make_file(struct image_job *job, const struct datastore *datastore, struct error **ret_error)
{
        const char *slash = strrchr(job->path, '/');
        char folder[256];
        int r = 0;

        if (slash) {
                snprintf(folder, sizeof(folder), "%.*s", (int)(slash - job->path), job->path);
                r = beneath_make_dirs(datastore->fd, folder, 0750);
        }
        if (!r)
                r = beneath_open_file(datastore->fd, job->path, O_RDWR | O_CREAT | O_EXCL, 0640, &job->fd);
        return r < 0 ? beneath_failed(r, datastore->name, job->path, ret_error) : 0;
}

static int check_size(const char *name, uint64_t size_bytes, struct error **ret_error)
{
        return size_bytes && size_bytes <= IMAGE_MAX_BYTES
                       ? 0
                       : error_set(ret_error, ERROR_BAD_DOCUMENT, "Give a size of 1 byte to 64 TiB.",
                                 "%s: a disk cannot have %" PRIu64 " bytes", name, size_bytes);
}

int image_create_start(struct loop *loop, const struct datastore *datastore, const char *path,
        enum image_format format, uint64_t size_bytes, enum image_allocation allocation, uint64_t timeout_ms,
        image_done_fn done, void *userdata, struct image_job **ret_job, struct error **ret_error)
{
        _cleanup_(image_job_freep) struct image_job *job = NULL;
        int r;

        r = check_size(path, size_bytes, ret_error);
        if (r < 0)
                return r;
        r = new_job(loop, datastore, path, format, done, userdata, &job, ret_error);
        if (r < 0)
                return r;
        job->timeout_ms = timeout_ms ?: CREATE_TIMEOUT_MS;
        job->thick = allocation == IMAGE_THICK;
        r = make_file(job, datastore, ret_error);
        if (r < 0)
                return r;
        /* From here on freeing the job removes the file again. */
        job->step = STEP_CREATE;
        job->size_bytes = (size_bytes + 511) / 512 * 512;
        r = start_tool(job, ret_error);
        if (r < 0)
                return r;
        *ret_job = TAKE_PTR(job);
        return 0;
}

static int start_reading(struct loop *loop, const struct datastore *datastore, const char *path,
        enum image_format format, bool check, uint64_t timeout_ms, image_done_fn done, void *userdata,
        struct image_job **ret_job, struct error **ret_error)
{
        _cleanup_(image_job_freep) struct image_job *job = NULL;
        int r = new_job(loop, datastore, path, format, done, userdata, &job, ret_error);

        if (r < 0)
                return r;
        job->timeout_ms = timeout_ms ?: READ_TIMEOUT_MS;
        job->check = check;
        r = datastore_open_file(datastore, path, O_RDONLY, &job->fd, ret_error);
        if (!r && format == IMAGE_QCOW2)
                r = check_qcow2_header(job->fd, job->name, ret_error);
        if (!r)
                r = start_tool(job, ret_error);
        if (r < 0)
                return r;
        *ret_job = TAKE_PTR(job);
        return 0;
}

int image_info_start(struct loop *loop, const struct datastore *datastore, const char *path,
        enum image_format format, uint64_t timeout_ms, image_done_fn done, void *userdata,
        struct image_job **ret_job, struct error **ret_error)
{
        return start_reading(
                loop, datastore, path, format, false, timeout_ms, done, userdata, ret_job, ret_error);
}

int image_check_start(struct loop *loop, const struct datastore *datastore, const char *path,
        enum image_format format, uint64_t timeout_ms, image_done_fn done, void *userdata,
        struct image_job **ret_job, struct error **ret_error)
{
        return start_reading(
                loop, datastore, path, format, true, timeout_ms, done, userdata, ret_job, ret_error);
}

static int start_opened(struct image_job *job, struct image_job **ret_job, struct error **ret_error)
{
        _cleanup_(image_job_freep) struct image_job *owned = job;
        int r = start_tool(job, ret_error);

        if (r == 0)
                *ret_job = TAKE_PTR(owned);
        return r;
}

static int start_sizing(enum step step, struct loop *loop, const char *name, int fd, enum image_format format,
        uint64_t size_bytes, image_done_fn done, void *userdata, struct image_job **ret_job,
        struct error **ret_error)
{
        struct image_job *job;
        int r = new_opened_job(loop, name, fd, format, done, userdata, &job, ret_error);

        if (r < 0)
                return r;
        r = check_size(name, size_bytes, ret_error);
        if (r < 0) {
                image_job_free(job);
                return r;
        }
        job->step = step;
        job->timeout_ms = CREATE_TIMEOUT_MS;
        job->size_bytes = (size_bytes + 511) / 512 * 512;
        return start_opened(job, ret_job, ret_error);
}

int image_create_opened(struct loop *loop, const char *name, int fd, enum image_format format,
        uint64_t size_bytes, image_done_fn done, void *userdata, struct image_job **ret_job,
        struct error **ret_error)
{
        return start_sizing(
                STEP_CREATE, loop, name, fd, format, size_bytes, done, userdata, ret_job, ret_error);
}

int image_info_opened(struct loop *loop, const char *name, int fd, enum image_format format,
        image_done_fn done, void *userdata, struct image_job **ret_job, struct error **ret_error)
{
        struct image_job *job;
        int r = new_opened_job(loop, name, fd, format, done, userdata, &job, ret_error);

        if (r < 0)
                return r;
        job->timeout_ms = READ_TIMEOUT_MS;
        return start_opened(job, ret_job, ret_error);
}

int image_copy_opened(struct loop *loop, const char *name, int fd, enum image_format format, int to_fd,
        enum image_format to_format, uint64_t rate_bytes_per_s, uint64_t timeout_ms, image_done_fn done,
        void *userdata, struct image_job **ret_job, struct error **ret_error)
{
        _cleanup_fd_ int owned = to_fd;
        struct image_job *job;
        int r = new_opened_job(loop, name, fd, format, done, userdata, &job, ret_error);

        if (r < 0)
                return r;
        job->step = STEP_COPY;
        job->target_fd = TAKE_FD(owned);
        job->target_format = to_format;
        job->rate_bytes_per_s = rate_bytes_per_s;
        job->timeout_ms = timeout_ms;
        return start_opened(job, ret_job, ret_error);
}

int image_resize_opened(struct loop *loop, const char *name, int fd, enum image_format format,
        uint64_t size_bytes, image_done_fn done, void *userdata, struct image_job **ret_job,
        struct error **ret_error)
{
        return start_sizing(
                STEP_RESIZE, loop, name, fd, format, size_bytes, done, userdata, ret_job, ret_error);
}

int image_snapshot_opened(struct loop *loop, const char *name, int fd, enum image_snapshot_verb verb,
        const char *snapshot, image_done_fn done, void *userdata, struct image_job **ret_job,
        struct error **ret_error)
{
        struct image_job *job;
        int r = new_opened_job(loop, name, fd, IMAGE_QCOW2, done, userdata, &job, ret_error);

        if (r < 0)
                return r;
        job->step = STEP_SNAPSHOT;
        job->timeout_ms = CREATE_TIMEOUT_MS;
        job->verb = verb;
        job->snapshot = alloc_strdup(snapshot);
        if (!job->snapshot) {
                image_job_free(job);
                return error_from_errno(ret_error, ENOMEM, "%s", name);
        }
        return start_opened(job, ret_job, ret_error);
}

void image_job_free(struct image_job *job)
{
        int r;

        if (!job)
                return;
        child_free(job->child);
        if (job->step == STEP_CREATE && job->size_bytes && job->path) {
                r = beneath_unlink(job->datastore_fd, job->path);
                if (r < 0 && r != -ENOENT)
                        log_debug(
                                "%s: the unfinished image could not be removed: %s", job->name, strerror(-r));
        }
        fd_closep(&job->fd);
        fd_closep(&job->target_fd);
        fd_closep(&job->datastore_fd);
        json_decref(job->snapshots);
        free(job->snapshot);
        free(job->name);
        free(job->path);
        free(job);
}
