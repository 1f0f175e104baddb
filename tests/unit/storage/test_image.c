/* SPDX-License-Identifier: Apache-2.0 */
#include "scratch.h"

#include "base/doc.h"
#include "io/child.h"
#include "storage/image.h"

#define MIB 1048576

struct outcome {
        bool done;
        enum error_code code; /* N_ERROR_CODES: none */
        char message[512];
        struct image_info info;
};

static void on_done(void *userdata, const struct image_info *info, struct error *error)
{
        struct outcome *outcome = userdata;

        assert_false(outcome->done);
        outcome->done = true;
        outcome->code = error ? error->code : N_ERROR_CODES;
        snprintf(outcome->message, sizeof(outcome->message), "%s", error ? error_message(error) : "");
        if (info)
                outcome->info = *info;
}

static struct outcome ended(struct scratch *s, int r, struct error *error, struct outcome *outcome)
{
        if (r < 0) {
                on_done(outcome, NULL, error);
                error_free(error);
        }
        assert_int_equal(loop_wait(s->loop, &outcome->done, 30000), 0);
        return *outcome;
}

static struct outcome create(struct scratch *s, const char *path, enum image_format format, uint64_t size,
        enum image_allocation allocation)
{
        struct outcome outcome = {};
        struct error *error = NULL;
        struct image_job *job;
        int r = image_create_start(
                s->loop, s->datastore, path, format, size, allocation, 0, on_done, &outcome, &job, &error);

        return ended(s, r, error, &outcome);
}

static struct outcome info(struct scratch *s, const char *path, enum image_format format)
{
        struct outcome outcome = {};
        struct error *error = NULL;
        struct image_job *job;
        int r = image_info_start(s->loop, s->datastore, path, format, 0, on_done, &outcome, &job, &error);

        return ended(s, r, error, &outcome);
}

static struct outcome check(struct scratch *s, const char *path, enum image_format format)
{
        struct outcome outcome = {};
        struct error *error = NULL;
        struct image_job *job;
        int r = image_check_start(s->loop, s->datastore, path, format, 0, on_done, &outcome, &job, &error);

        return ended(s, r, error, &outcome);
}

static void assert_ok(struct outcome outcome)
{
        if (outcome.code != N_ERROR_CODES)
                fail_msg("%s", outcome.message);
}

static void assert_fails(struct outcome outcome, enum error_code code, const char *words)
{
        if (outcome.code != code || !strstr(outcome.message, words))
                fail_msg("unexpected: %s", outcome.message);
}

static void run(const char *command, const struct scratch *s)
{
        char full[512];

        snprintf(full, sizeof(full), "cd %s && %s", s->store, command);
        assert_int_equal(system(full), 0);
}

static void test_a_qcow2_image_is_made_and_read(void **state)
{
        struct outcome outcome;

        assert_ok(create(*state, "web1/disk0.qcow2", IMAGE_QCOW2, 10 * MIB, IMAGE_THIN));
        outcome = info(*state, "web1/disk0.qcow2", IMAGE_QCOW2);
        assert_ok(outcome);
        assert_int_equal(outcome.info.virtual_bytes, 10 * MIB);
        assert_in_range(outcome.info.allocated_bytes, 1, MIB);
        assert_false(outcome.info.dirty);
        assert_false(outcome.info.corrupt);
}

static void test_a_raw_image_is_made_and_read(void **state)
{
        struct outcome outcome = create(*state, "disk0.raw", IMAGE_RAW, 10 * MIB - 1, IMAGE_THIN);

        assert_ok(outcome);
        assert_int_equal(outcome.info.virtual_bytes, 10 * MIB);
        outcome = info(*state, "disk0.raw", IMAGE_RAW);
        assert_ok(outcome);
        assert_int_equal(outcome.info.virtual_bytes, 10 * MIB);
}

static void test_thick_reserves_the_space(void **state)
{
        struct outcome outcome = create(*state, "disk0.qcow2", IMAGE_QCOW2, 4 * MIB, IMAGE_THICK);

        assert_ok(outcome);
        assert_in_range(outcome.info.allocated_bytes, 4 * MIB, 6 * MIB);
}

static void test_an_existing_image_is_never_overwritten(void **state)
{
        struct scratch *s = *state;

        scratch_write(s, "store/disk0.raw", "precious");
        assert_fails(create(s, "disk0.raw", IMAGE_RAW, MIB, IMAGE_THIN), ERROR_EXISTS, "exists already");
        assert_int_equal(info(s, "disk0.raw", IMAGE_RAW).info.virtual_bytes, 512);
}

static void test_a_full_datastore_is_no_space_and_leaves_no_file(void **state)
{
        struct scratch *s = *state;

        scratch_make_small(s, "size=1m");
        assert_fails(create(s, "disk0.raw", IMAGE_RAW, 8 * MIB, IMAGE_THICK), ERROR_NO_SPACE, "full");
        assert_false(scratch_exists(s, "store/disk0.raw"));
        assert_fails(create(s, "disk0.qcow2", IMAGE_QCOW2, 8 * MIB, IMAGE_THICK), ERROR_NO_SPACE, "full");
        assert_false(scratch_exists(s, "store/disk0.qcow2"));
}

static void test_a_guest_that_writes_a_qcow2_header_into_a_raw_disk_gains_nothing(void **state)
{
        struct scratch *s = *state;

        scratch_write(s, "secret", "x");
        assert_ok(create(s, "disk0.raw", IMAGE_RAW, MIB, IMAGE_THIN));
        run("qemu-img create -q -u -f qcow2 -b ../secret -F raw evil.qcow2 64M && "
            "dd if=evil.qcow2 of=disk0.raw conv=notrunc status=none && truncate -s 1M disk0.raw",
                s);
        assert_int_equal(info(s, "disk0.raw", IMAGE_RAW).info.virtual_bytes, MIB);
}

static void test_an_image_with_a_backing_file_is_refused(void **state)
{
        struct scratch *s = *state;

        scratch_write(s, "secret", "x");
        run("qemu-img create -q -f qcow2 -b ../secret -F raw evil.qcow2 64M", s);
        assert_fails(info(s, "evil.qcow2", IMAGE_QCOW2), ERROR_CHECK_FAILED, "backing file");
        assert_fails(check(s, "evil.qcow2", IMAGE_QCOW2), ERROR_CHECK_FAILED, "backing file");
}

static void test_an_image_with_an_external_data_file_is_refused(void **state)
{
        struct scratch *s = *state;

        run("qemu-img create -q -f qcow2 -o data_file=../secret,data_file_raw=on evil.qcow2 1M", s);
        assert_fails(info(s, "evil.qcow2", IMAGE_QCOW2), ERROR_CHECK_FAILED, "external data file");
}

static void test_what_is_no_qcow2_is_refused(void **state)
{
        struct scratch *s = *state;

        scratch_write(s, "store/short", "QFI\xfb");
        scratch_write(s, "store/cut", "QFI\xfb");
        run("printf 'QFI\\373\\0\\0\\0\\003\\0\\0\\0\\0\\0\\0\\0\\0\\0' > cut && head -c 4096 /dev/urandom > "
            "noise",
                s);
        assert_fails(info(s, "short", IMAGE_QCOW2), ERROR_BAD_DOCUMENT, "no qcow2");
        assert_fails(info(s, "cut", IMAGE_QCOW2), ERROR_BAD_DOCUMENT, "cut off");
        assert_fails(info(s, "noise", IMAGE_QCOW2), ERROR_BAD_DOCUMENT, "no qcow2");
}

static void test_paths_that_leave_the_datastore_are_refused(void **state)
{
        struct scratch *s = *state;

        scratch_write(s, "secret", "x");
        scratch_make_dir(s, "outside");
        scratch_link(s, "../secret", "store/link");
        scratch_link(s, "../outside", "store/folder");
        assert_fails(info(s, "link", IMAGE_RAW), ERROR_BAD_REQUEST, "symbolic link");
        assert_fails(info(s, "../secret", IMAGE_RAW), ERROR_BAD_REQUEST, "leaves");
        assert_fails(info(s, "json:{\"driver\":\"nbd\"}", IMAGE_RAW), ERROR_NOT_FOUND, "does not exist");
        assert_fails(create(s, "../new.raw", IMAGE_RAW, MIB, IMAGE_THIN), ERROR_BAD_REQUEST, "leaves");
        assert_fails(create(s, "link", IMAGE_RAW, MIB, IMAGE_THIN), ERROR_EXISTS, "exists");
        create(s, "folder/new.raw", IMAGE_RAW, MIB, IMAGE_THIN);
        assert_false(scratch_exists(s, "outside/new.raw"));
        assert_false(scratch_exists(s, "new.raw"));
}

static void test_bad_sizes_are_refused(void **state)
{
        assert_fails(create(*state, "a.raw", IMAGE_RAW, 0, IMAGE_THIN), ERROR_BAD_DOCUMENT, "0 bytes");
        assert_fails(create(*state, "a.raw", IMAGE_RAW, IMAGE_MAX_BYTES + 1, IMAGE_THIN), ERROR_BAD_DOCUMENT,
                "bytes");
        assert_false(scratch_exists(*state, "store/a.raw"));
}

static void test_damage_is_counted(void **state)
{
        struct scratch *s = *state;
        struct outcome outcome;

        run("qemu-img create -q -f qcow2 disk0.qcow2 10M && qemu-io -f qcow2 -c 'write 0 1M' disk0.qcow2 "
            ">/dev/null",
                s);
        outcome = check(s, "disk0.qcow2", IMAGE_QCOW2);
        assert_ok(outcome);
        assert_int_equal(outcome.info.n_errors, 0);
        assert_int_equal(outcome.info.virtual_bytes, 10 * MIB);
        /* The first refcount block: all clusters now look free. */
        run("dd if=/dev/zero of=disk0.qcow2 bs=65536 seek=2 count=1 conv=notrunc status=none", s);
        outcome = check(s, "disk0.qcow2", IMAGE_QCOW2);
        assert_ok(outcome);
        assert_true(outcome.info.n_errors > 0);
}

static void test_a_raw_image_can_be_checked(void **state)
{
        assert_ok(create(*state, "disk0.raw", IMAGE_RAW, MIB, IMAGE_THIN));
        assert_ok(check(*state, "disk0.raw", IMAGE_RAW));
}

static void on_qemu_exit(void *userdata, const struct child_result *result)
{
        *(bool *)userdata = true;
}

static void test_an_image_in_use_is_locked_but_readable(void **state)
{
        struct scratch *s = *state;
        _cleanup_(child_freep) struct child *qemu = NULL;
        struct child_spec spec = CHILD_SPEC_INIT;
        bool exited = false;
        char path[160];
        int in[2], out[2];
        char c;

        assert_ok(create(s, "disk0.qcow2", IMAGE_QCOW2, MIB, IMAGE_THIN));
        snprintf(path, sizeof(path), "%s/disk0.qcow2", s->store);
        assert_int_equal(pipe2(in, O_CLOEXEC), 0);
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
        spec.argv = (const char *const[]){"qemu-io", "-f", "qcow2", path, NULL};
        spec.stdin_fd = in[0];
        spec.output_fd = out[1];
        assert_int_equal(child_start(s->loop, &spec, on_qemu_exit, &exited, &qemu, NULL), 0);
        close(out[1]);
        assert_int_equal(read(out[0], &c, 1), 1); /* its prompt: the image is open */
        assert_fails(check(s, "disk0.qcow2", IMAGE_QCOW2), ERROR_LOCKED, "in use");
        assert_ok(info(s, "disk0.qcow2", IMAGE_QCOW2));
        close(in[0]);
        close(in[1]);
        close(out[0]);
        assert_int_equal(loop_wait(s->loop, &exited, 10000), 0);
        assert_ok(check(s, "disk0.qcow2", IMAGE_QCOW2));
}

static void test_giving_up_removes_the_half_made_image(void **state)
{
        struct scratch *s = *state;
        struct outcome outcome = {};
        struct image_job *job;

        assert_int_equal(image_create_start(s->loop, s->datastore, "disk0.raw", IMAGE_RAW, MIB, IMAGE_THIN, 0,
                                 on_done, &outcome, &job, NULL),
                0);
        image_job_free(job);
        assert_false(scratch_exists(s, "store/disk0.raw"));
        assert_int_equal(loop_wait(s->loop, &outcome.done, 50), -ETIMEDOUT);
}

static void test_the_time_limit_ends_it(void **state)
{
        struct scratch *s = *state;
        struct outcome outcome = {};
        struct error *error = NULL;
        struct image_job *job;
        int r = image_create_start(s->loop, s->datastore, "disk0.raw", IMAGE_RAW, MIB, IMAGE_THIN, 1, on_done,
                &outcome, &job, &error);

        /* qemu-img takes several ms to start. */
        assert_fails(ended(s, r, error, &outcome), ERROR_TIMED_OUT, "1 ms");
        assert_false(scratch_exists(s, "store/disk0.raw"));
}

static struct outcome copy(struct scratch *s, const char *from, enum image_format format, const char *to,
        enum image_format to_format)
{
        struct outcome outcome = {};
        struct error *error = NULL;
        struct image_job *job;
        int fd = -1, to_fd = -1;
        int r = datastore_open_file(s->datastore, from, O_RDONLY, &fd, &error);

        if (r == 0)
                r = image_check_header(fd, format, from, &error);
        if (r == 0)
                r = datastore_open_file(s->datastore, to, O_RDWR, &to_fd, &error);
        if (r == 0)
                r = image_copy_opened(
                        s->loop, from, fd, format, to_fd, to_format, 0, 0, on_done, &outcome, &job, &error);
        else
                close(fd);

        return ended(s, r, error, &outcome);
}

static void test_a_copy_has_the_same_content_and_stays_sparse(void **state)
{
        struct scratch *s = *state;
        struct outcome outcome;

        assert_ok(create(s, "a.raw", IMAGE_RAW, 64 * MIB, IMAGE_THIN));
        run("qemu-io -f raw -c 'write -P 7 5M 1M' a.raw >/dev/null", s);
        assert_ok(create(s, "b.qcow2", IMAGE_QCOW2, 64 * MIB, IMAGE_THIN));
        outcome = copy(s, "a.raw", IMAGE_RAW, "b.qcow2", IMAGE_QCOW2);
        assert_ok(outcome);
        assert_in_range(outcome.info.allocated_bytes, MIB, 3 * MIB);
        assert_ok(create(s, "c.raw", IMAGE_RAW, 64 * MIB, IMAGE_THIN));
        outcome = copy(s, "b.qcow2", IMAGE_QCOW2, "c.raw", IMAGE_RAW);
        assert_ok(outcome);
        assert_in_range(outcome.info.allocated_bytes, MIB, 3 * MIB);
        run("cmp a.raw c.raw", s);
}

static void test_a_copy_of_what_refers_elsewhere_is_refused(void **state)
{
        struct scratch *s = *state;

        run("qemu-img create -q -f raw base.raw 1M && qemu-img create -q -f qcow2 -F raw -b base.raw a.qcow2",
                s);
        assert_ok(create(s, "b.raw", IMAGE_RAW, MIB, IMAGE_THIN));
        assert_fails(copy(s, "a.qcow2", IMAGE_QCOW2, "b.raw", IMAGE_RAW), ERROR_CHECK_FAILED, "backing file");
}

static struct outcome work(struct scratch *s, const char *path, enum image_format format, uint64_t size_bytes,
        enum image_snapshot_verb verb, const char *snapshot)
{
        struct outcome outcome = {};
        struct error *error = NULL;
        struct image_job *job;
        int fd = -1, r = datastore_open_file(s->datastore, path, O_RDWR, &fd, &error);

        if (r == 0 && snapshot)
                r = image_snapshot_opened(s->loop, path, fd, verb, snapshot, on_done, &outcome, &job, &error);
        else if (r == 0)
                r = image_resize_opened(
                        s->loop, path, fd, format, size_bytes, on_done, &outcome, &job, &error);
        return ended(s, r, error, &outcome);
}

static void test_an_image_grows(void **state)
{
        static const char *const names[] = {"a.raw", "a.qcow2"};
        struct scratch *s = *state;

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                enum image_format format = i ? IMAGE_QCOW2 : IMAGE_RAW;
                struct outcome outcome;

                assert_ok(create(s, names[i], format, MIB, IMAGE_THIN));
                assert_ok(work(s, names[i], format, 2 * MIB, 0, NULL));
                outcome = info(s, names[i], format);
                assert_ok(outcome);
                assert_int_equal(outcome.info.virtual_bytes, 2 * MIB);
                assert_fails(work(s, names[i], format, 0, 0, NULL), ERROR_BAD_DOCUMENT, "0 bytes");
        }
}

static void test_snapshots_are_made_applied_and_deleted(void **state)
{
        struct scratch *s = *state;

        assert_ok(create(s, "a.qcow2", IMAGE_QCOW2, MIB, IMAGE_THIN));
        run("qemu-io -f qcow2 -c 'write -P 7 0 64k' a.qcow2 >/dev/null", s);
        assert_ok(work(s, "a.qcow2", IMAGE_QCOW2, 0, IMAGE_SNAPSHOT_CREATE, "drover-one"));
        run("qemu-io -f qcow2 -c 'write -P 8 0 64k' a.qcow2 >/dev/null", s);
        run("qemu-img snapshot -l a.qcow2 | grep -qw drover-one", s);
        assert_ok(work(s, "a.qcow2", IMAGE_QCOW2, 0, IMAGE_SNAPSHOT_APPLY, "drover-one"));
        run("qemu-io -f qcow2 -c 'read -P 7 0 64k' a.qcow2 | grep -qv 'Pattern verification failed'", s);
        assert_ok(work(s, "a.qcow2", IMAGE_QCOW2, 0, IMAGE_SNAPSHOT_DELETE, "drover-one"));
        run("! qemu-img snapshot -l a.qcow2 | grep -qw drover-one", s);
        assert_fails(work(s, "a.qcow2", IMAGE_QCOW2, 0, IMAGE_SNAPSHOT_APPLY, "drover-one"),
                ERROR_QEMU_FAILED, "drover-one");
}

static void test_names_of_snapshots_are_read(void **state)
{
        _cleanup_json_ json_t *image = json_pack(
                "{s:[{s:s, s:s}, {s:s, s:s}]}", "snapshots", "id", "1", "name", "a", "id", "2", "name", "b");
        _cleanup_json_ json_t *names = image_snapshot_names(image), *none = json_object();

        assert_int_equal(json_array_size(names), 2);
        assert_true(doc_has_string(names, "a"));
        assert_true(doc_has_string(names, "b"));
        assert_null(image_snapshot_names(none));
}

static void test_formats_have_names(void **state)
{
        enum image_format format;

        for (int i = 0; i < N_IMAGE_FORMATS; i++) {
                assert_int_equal(
                        image_format_from_string(image_format_to_string((enum image_format)i), &format), 0);
                assert_int_equal(format, i);
        }
        assert_int_equal(image_format_from_string("auto", &format), -EINVAL);
        assert_int_equal(image_format_from_string(NULL, &format), -EINVAL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                SCRATCH_TEST(test_a_qcow2_image_is_made_and_read),
                SCRATCH_TEST(test_a_raw_image_is_made_and_read),
                SCRATCH_TEST(test_thick_reserves_the_space),
                SCRATCH_TEST(test_an_existing_image_is_never_overwritten),
                SCRATCH_TEST(test_a_full_datastore_is_no_space_and_leaves_no_file),
                SCRATCH_TEST(test_a_guest_that_writes_a_qcow2_header_into_a_raw_disk_gains_nothing),
                SCRATCH_TEST(test_an_image_with_a_backing_file_is_refused),
                SCRATCH_TEST(test_an_image_with_an_external_data_file_is_refused),
                SCRATCH_TEST(test_what_is_no_qcow2_is_refused),
                SCRATCH_TEST(test_paths_that_leave_the_datastore_are_refused),
                SCRATCH_TEST(test_bad_sizes_are_refused),
                SCRATCH_TEST(test_damage_is_counted),
                SCRATCH_TEST(test_a_raw_image_can_be_checked),
                SCRATCH_TEST(test_an_image_in_use_is_locked_but_readable),
                SCRATCH_TEST(test_giving_up_removes_the_half_made_image),
                SCRATCH_TEST(test_the_time_limit_ends_it),
                SCRATCH_TEST(test_a_copy_has_the_same_content_and_stays_sparse),
                SCRATCH_TEST(test_a_copy_of_what_refers_elsewhere_is_refused),
                SCRATCH_TEST(test_an_image_grows),
                SCRATCH_TEST(test_snapshots_are_made_applied_and_deleted),
                SCRATCH_TEST(test_names_of_snapshots_are_read),
                SCRATCH_TEST(test_formats_have_names),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
