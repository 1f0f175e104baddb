/* SPDX-License-Identifier: Apache-2.0 */
#include "scratch.h"

#include "../torture_loop.h"
#include "base/doc.h"
#include "storage/move_record.h"

#define UID "6f1cb2a4-0d5e-4c8f-9a55-0c5b6a1f2e3d"
#define ID "0123abcd-4567-4c8f-9a55-0c5b6a1f2e3d"

static struct vm_folder *folder_of(struct scratch *s)
{
        _cleanup_json_ json_t *doc = json_pack("{s:s, s:s, s:s}", "kind", "vm", "name", "web1", "uid", UID);
        struct vm_folder *folder = NULL;

        assert_int_equal(vm_folder_create(s->datastore, "web1", UID, doc, &folder, NULL), 0);
        return folder;
}

static json_t *document(const char *path)
{
        return json_pack("{s:i, s:s, s:[{s:s, s:{s:s, s:s, s:s}, s:{s:s, s:s, s:s}, s:b}]}", "format", 1,
                "id", ID, "disks", "name", "disk0", "from", "datastore", "shared", "path", "web1/disk0.raw",
                "format", "raw", "to", "datastore", "fast", "path", path, "format", "qcow2", "switched", 1);
}

static void test_a_record_is_read_back_as_it_was_written(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(*state);
        _cleanup_(move_record_freep) struct move_record *made = NULL, *read = NULL;
        _cleanup_json_ json_t *json = document("web1/disk0-0123abcd4567.qcow2"), *again = NULL;

        assert_int_equal(move_record_read(folder, &read, NULL), 0);
        assert_null(read);
        assert_int_equal(move_record_from_json(json, &made, NULL), 0);
        assert_int_equal(move_record_write(folder, made, NULL), 0);
        assert_int_equal(move_record_read(folder, &read, NULL), 0);
        again = move_record_to_json(read);
        assert_true(json_equal(json, again));
        assert_true(move_record_any_switched(read));
        read->disks[0].switched = false;
        assert_false(move_record_any_switched(read));
        assert_int_equal(move_record_remove(folder, NULL), 0);
        assert_int_equal(move_record_remove(folder, NULL), 0);
        assert_false(scratch_exists(*state, "store/web1/" MOVE_RECORD_FILE));
}

static void test_a_record_that_says_less_than_the_written_one_is_behind(void **state)
{
        _cleanup_(move_record_freep) struct move_record *known = NULL, *written = NULL;
        _cleanup_json_ json_t *json = document("web1/disk0-0123abcd4567.qcow2");

        assert_int_equal(move_record_from_json(json, &known, NULL), 0);
        assert_int_equal(move_record_from_json(json, &written, NULL), 0);
        assert_false(move_record_is_behind(known, written));
        known->disks[0].switched = false;
        assert_true(move_record_is_behind(known, written));
        assert_false(move_record_is_behind(written, known));
        known->id[0] = '1'; /* of another migration: says nothing of this one */
        assert_false(move_record_is_behind(known, written));
}

static void test_a_document_that_names_what_a_copy_has_replaced_is_refused(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(*state);
        _cleanup_(move_record_freep) struct move_record *record = NULL;
        _cleanup_json_ json_t *json = document("web1/disk0-0123abcd4567.qcow2");
        _cleanup_json_ json_t *old = json_pack("{s:{s:[{s:s, s:s, s:s}]}}", "spec", "disks", "name", "disk0",
                "datastore", "shared", "path", "web1/disk0.raw");
        _cleanup_json_ json_t *other = json_deep_copy(old);
        _cleanup_error_ struct error *error = NULL;

        assert_int_equal(move_record_check_document(folder, old, NULL), 0);
        assert_int_equal(move_record_from_json(json, &record, NULL), 0);
        record->disks[0].switched = false;
        assert_int_equal(move_record_write(folder, record, NULL), 0);
        assert_int_equal(move_record_check_document(folder, old, NULL), 0);
        record->disks[0].switched = true;
        assert_int_equal(move_record_write(folder, record, NULL), 0);
        assert_true(move_record_check_document(folder, old, &error) < 0);
        assert_error(error, ERROR_CONFLICT, "fast:web1/disk0-0123abcd4567.qcow2");
        json_object_set_new(json_array_get(json_object_get(json_object_get(other, "spec"), "disks"), 0),
                "datastore", json_string("fast"));
        assert_int_equal(move_record_check_document(folder, other, NULL), 0);
}

static void test_paths_that_leave_the_datastore_are_no_images(void **state)
{
        static const char *const paths[] = {"../disk0.raw", "/etc/passwd", "web1/../../x", "", "a//b"};

        for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
                _cleanup_json_ json_t *json = document(paths[i]);
                _cleanup_error_ struct error *error = NULL;
                struct move_record *record = NULL;

                assert_true(move_record_from_json(json, &record, &error) < 0);
                assert_error(error, ERROR_BAD_DOCUMENT, "names no image");
                assert_null(record);
        }
}

static void test_a_damaged_record_is_never_taken_for_none(void **state)
{
        static const char *const texts[] = {"", "{", "[]", "{\"format\": 2}",
                "{\"format\": 1, \"id\": \"x\"}", "{\"format\": 1, \"id\": \"" ID "\", \"disks\": []}"};
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(*state);

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
                _cleanup_error_ struct error *error = NULL;
                struct move_record *record = NULL;

                scratch_write(*state, "store/web1/" MOVE_RECORD_FILE, texts[i]);
                assert_true(move_record_read(folder, &record, &error) < 0);
                assert_error(error, ERROR_CONFLICT, "damaged");
        }
}

/* Whatever it says is opened as the disk, or removed. */
static void test_a_record_whose_copy_is_no_copy_is_damaged(void **state)
{
        static const char *const paths[] = {"web2/disk0-0123abcd4567.qcow2", "web1/disk0.qcow2",
                "web1/disk1-0123abcd4567.qcow2", "web1/disk0-0123abcd4567.raw",
                "web1/disk0-0123abcd4568.qcow2"};
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(*state);

        for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
                _cleanup_(move_record_freep) struct move_record *made = NULL, *read = NULL;
                _cleanup_json_ json_t *json = document(paths[i]);
                _cleanup_error_ struct error *error = NULL;

                assert_int_equal(move_record_from_json(json, &made, NULL), 0);
                assert_int_equal(move_record_write(folder, made, NULL), 0);
                assert_true(move_record_read(folder, &read, &error) < 0);
                assert_error(error, ERROR_CONFLICT, paths[i]);
        }
}

static void test_names_of_copies_are_told_from_others(void **state)
{
        _cleanup_free_ char *path = move_record_path("web1", "disk0", ID, IMAGE_QCOW2);
        static const char *const others[] = {"web1/disk0.qcow2", "web2/disk0-0123abcd4567.qcow2",
                "web1/disk0-0123abcd456.qcow2", "web1/disk0-0123abcd4567.iso", "web1/a/d-0123abcd4567.raw",
                "web1/disk0-0123ABCD4567.raw", "web1"};

        assert_string_equal(path, "web1/disk0-0123abcd4567.qcow2");
        assert_true(move_record_is_made_path("web1", path));
        for (size_t i = 0; i < ARRAY_SIZE(others); i++)
                assert_false(move_record_is_made_path("web1", others[i]));
}

static void test_a_removed_image_gives_its_room_back_while_it_is_open(void **state)
{
        struct scratch *s = *state;
        char path[128];
        struct stat st;
        int fd;

        scratch_write(s, "store/old.raw", "0123456789");
        snprintf(path, sizeof(path), "%s/old.raw", s->store);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(move_record_remove_image(s->datastore, "old.raw", NULL), 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, 0);
        close(fd);
        assert_false(scratch_exists(s, "store/old.raw"));
        assert_int_equal(move_record_remove_image(s->datastore, "old.raw", NULL), 0);
}

/* As QEMU locks what it reads and writes: F_RDLCK at 100 and the next bytes. */
static void test_an_image_that_a_qemu_uses_is_not_removed(void **state)
{
        struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1};
        _cleanup_error_ struct error *error = NULL;
        struct scratch *s = *state;
        char path[128];
        struct stat st;
        int fd;

        scratch_write(s, "store/used.raw", "0123456789");
        snprintf(path, sizeof(path), "%s/used.raw", s->store);
        fd = open(path, O_RDWR | O_CLOEXEC);
        assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
        assert_true(move_record_remove_image(s->datastore, "used.raw", &error) < 0);
        assert_error(error, ERROR_LOCKED, "in use by a running QEMU");
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, 10);
        close(fd);
        assert_int_equal(move_record_remove_image(s->datastore, "used.raw", NULL), 0);
}

static void test_a_removal_follows_no_link_and_spares_other_names(void **state)
{
        struct scratch *s = *state;
        char one[128], two[128];
        struct stat st;

        scratch_write(s, "secret", "x");
        scratch_link(s, "../secret", "store/link.raw");
        assert_true(move_record_remove_image(s->datastore, "link.raw", NULL) < 0);
        assert_true(move_record_remove_image(s->datastore, "../secret", NULL) < 0);
        assert_true(scratch_exists(s, "secret"));
        scratch_write(s, "store/a.raw", "0123456789");
        snprintf(one, sizeof(one), "%s/a.raw", s->store);
        snprintf(two, sizeof(two), "%s/b.raw", s->store);
        assert_int_equal(link(one, two), 0);
        assert_int_equal(move_record_remove_image(s->datastore, "a.raw", NULL), 0);
        assert_int_equal(stat(two, &st), 0);
        assert_int_equal(st.st_size, 10);
}

/* Each fallible call fails once: no leak, no crash, and never half a record. */
static void round_trip(void *arg)
{
        const struct vm_folder *folder = arg;
        _cleanup_(move_record_freep) struct move_record *made = NULL, *read = NULL;
        _cleanup_json_ json_t *json = document("web1/disk0-0123abcd4567.qcow2");
        _cleanup_error_ struct error *error = NULL;
        int r = move_record_from_json(json, &made, &error);

        if (torture_failed(r < 0))
                return;
        r = move_record_write(folder, made, &error);
        if (torture_failed(r < 0))
                return;
        r = move_record_read(folder, &read, &error);
        if (torture_failed(r < 0))
                return;
        assert_string_equal(read->disks[0].to.path, made->disks[0].to.path);
}

static void test_memory_that_is_short_is_an_error_like_any_other(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(*state);

        torture_loop(round_trip, folder);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                SCRATCH_TEST(test_a_record_is_read_back_as_it_was_written),
                SCRATCH_TEST(test_a_record_that_says_less_than_the_written_one_is_behind),
                SCRATCH_TEST(test_a_document_that_names_what_a_copy_has_replaced_is_refused),
                SCRATCH_TEST(test_paths_that_leave_the_datastore_are_no_images),
                SCRATCH_TEST(test_a_damaged_record_is_never_taken_for_none),
                SCRATCH_TEST(test_a_record_whose_copy_is_no_copy_is_damaged),
                SCRATCH_TEST(test_names_of_copies_are_told_from_others),
                SCRATCH_TEST(test_a_removed_image_gives_its_room_back_while_it_is_open),
                SCRATCH_TEST(test_memory_that_is_short_is_an_error_like_any_other),
                SCRATCH_TEST(test_an_image_that_a_qemu_uses_is_not_removed),
                SCRATCH_TEST(test_a_removal_follows_no_link_and_spares_other_names),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
