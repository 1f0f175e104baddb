/* SPDX-License-Identifier: Apache-2.0 */
#include "scratch.h"

#include "base/doc.h"
#include "storage/beneath.h"
#include "storage/vm_folder.h"

#define UID "6f1cb2a4-0d5e-4c8f-9a55-0c5b6a1f2e3d"
#define OTHER_UID "6f1cb2a4-0d5e-4c8f-9a55-0c5b6a1f2e3e"
#define HOST "b64e2c9e-97f5-4a0e-8a35-6d5a4b0f6f10"
#define OTHER_HOST "b64e2c9e-97f5-4a0e-8a35-6d5a4b0f6f11"

static json_t *doc_of(const char *uid, int revision)
{
        json_t *doc = json_pack(
                "{s:s, s:s, s:s, s:i}", "kind", "vm", "name", "web1", "uid", uid, "revision", revision);

        assert_non_null(doc);
        return doc;
}

static struct vm_folder *create(struct scratch *s, const char *name, const char *uid)
{
        _cleanup_json_ json_t *doc = doc_of(uid, 1);
        _cleanup_error_ struct error *error = NULL;
        struct vm_folder *folder = NULL;

        if (vm_folder_create(s->datastore, name, uid, doc, &folder, &error) < 0)
                fail_msg("%s", error_message(error));
        return folder;
}

static void create_fails(
        struct scratch *s, const char *name, const char *uid, enum error_code code, const char *words)
{
        _cleanup_json_ json_t *doc = doc_of(uid, 1);
        _cleanup_error_ struct error *error = NULL;
        struct vm_folder *folder = NULL;

        assert_true(vm_folder_create(s->datastore, name, uid, doc, &folder, &error) < 0);
        assert_error(error, code, words);
        assert_null(folder);
}

static void test_a_folder_is_made_with_its_document(void **state)
{
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *made = create(s, "web1", UID), *opened = NULL;
        _cleanup_json_ json_t *doc = NULL;
        char path[128];

        snprintf(path, sizeof(path), "%s/web1", s->store);
        assert_string_equal(made->path, path);
        assert_int_equal(vm_folder_open(s->datastore, "web1", UID, &opened, NULL), 0);
        assert_int_equal(vm_folder_read_doc(opened, &doc, NULL), 0);
        assert_string_equal(json_string_value(json_object_get(doc, "uid")), UID);
}

static void test_a_repeated_creation_keeps_the_first_document(void **state)
{
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *first = create(s, "web1", UID), *second = NULL;
        _cleanup_json_ json_t *newer = doc_of(UID, 7), *doc = NULL;

        assert_int_equal(vm_folder_create(s->datastore, "web1", UID, newer, &second, NULL), 0);
        assert_int_equal(vm_folder_read_doc(second, &doc, NULL), 0);
        assert_int_equal(json_integer_value(json_object_get(doc, "revision")), 1);
}

static void test_the_document_is_replaced_whole(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = create(*state, "web1", UID);
        _cleanup_json_ json_t *newer = doc_of(UID, 7), *doc = NULL;

        assert_int_equal(vm_folder_write_doc(folder, newer, NULL), 0);
        assert_int_equal(vm_folder_read_doc(folder, &doc, NULL), 0);
        assert_true(json_equal(doc, newer));
}

static void test_a_document_of_another_vm_is_not_written(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = create(*state, "web1", UID);
        _cleanup_json_ json_t *other = doc_of(OTHER_UID, 1);

        assert_int_equal(vm_folder_write_doc(folder, other, NULL), -EINVAL);
}

static void test_foreign_folders_are_refused(void **state)
{
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = create(s, "web1", UID), *opened = NULL;
        _cleanup_error_ struct error *error = NULL;

        scratch_make_dir(s, "store/photos");
        scratch_write(s, "store/photos/cat.jpg", "x");
        scratch_write(s, "store/file", "x");
        create_fails(s, "web1", OTHER_UID, ERROR_EXISTS, "does not belong");
        create_fails(s, "photos", OTHER_UID, ERROR_EXISTS, "does not belong");
        create_fails(s, "file", OTHER_UID, ERROR_EXISTS, "does not belong");
        assert_true(vm_folder_open(s->datastore, "photos", UID, &opened, &error) < 0);
        assert_error(error, ERROR_CONFLICT, "does not belong");
        assert_int_equal(vm_folder_open(s->datastore, "web1", OTHER_UID, &opened, NULL), -EBUSY);
        assert_int_equal(vm_folder_open(s->datastore, "none", OTHER_UID, &opened, NULL), -ENOENT);
        assert_int_equal(vm_folder_delete(s->datastore, "photos", UID, HOST, 0, NULL), -EBUSY);
        assert_int_equal(vm_folder_delete(s->datastore, "web1", OTHER_UID, HOST, 0, NULL), -EBUSY);
        assert_true(scratch_exists(s, "store/photos/cat.jpg"));
        assert_true(scratch_exists(s, "store/web1/vm.json"));
        assert_null(opened);
}

static void test_a_folder_that_is_a_link_is_refused(void **state)
{
        struct scratch *s = *state;
        struct vm_folder *opened = NULL;

        scratch_make_dir(s, "outside");
        scratch_write(s, "outside/vm.json", "{\"uid\": \"" UID "\"}");
        scratch_link(s, "../outside", "store/web1");
        create_fails(s, "web1", UID, ERROR_EXISTS, "does not belong");
        assert_true(vm_folder_open(s->datastore, "web1", UID, &opened, NULL) < 0);
        assert_true(vm_folder_delete(s->datastore, "web1", UID, HOST, 0, NULL) < 0);
        assert_true(scratch_exists(s, "outside/vm.json"));
}

static void test_bad_names_are_refused(void **state)
{
        struct scratch *s = *state;

        create_fails(s, "../web1", UID, ERROR_BAD_DOCUMENT, "name");
        create_fails(s, ".hidden", UID, ERROR_BAD_DOCUMENT, "name");
        create_fails(s, "a/b", UID, ERROR_BAD_DOCUMENT, "name");
        create_fails(s, "web1", "no-uuid", ERROR_BAD_DOCUMENT, "UUID");
}

static void test_a_creation_that_broke_off_is_taken_up(void **state)
{
        struct scratch *s = *state;

        scratch_make_dir(s, "store/web1");
        scratch_write(s, "store/web1/.tmp-0123456789abcdef", "{\"uid");
        vm_folder_free(create(s, "web1", UID));
}

static void test_a_creation_without_room_leaves_no_folder(void **state)
{
        struct scratch *s = *state;
        char command[160];

        scratch_make_small(s, "size=256k");
        snprintf(command, sizeof(command), "cat /dev/zero 2>/dev/null > %s/fill", s->store);
        assert_int_not_equal(system(command), 0);
        create_fails(s, "web1", UID, ERROR_NO_SPACE, "full");
        assert_false(scratch_exists(s, "store/web1"));
}

static void test_a_deletion_removes_everything_but_follows_no_link(void **state)
{
        struct scratch *s = *state;

        vm_folder_free(create(s, "web1", UID));
        scratch_make_dir(s, "outside");
        scratch_write(s, "outside/precious", "x");
        scratch_write(s, "store/web1/disk0.qcow2", "x");
        scratch_link(s, "../../outside", "store/web1/link");
        assert_int_equal(vm_folder_delete(s->datastore, "web1", UID, HOST, 0, NULL), 0);
        assert_false(scratch_exists(s, "store/web1"));
        assert_true(scratch_exists(s, "outside/precious"));
        assert_int_equal(vm_folder_delete(s->datastore, "web1", UID, HOST, 0, NULL), -ENOENT);
}

static void put_file(const struct vm_folder *folder, const char *name)
{
        assert_int_equal(beneath_write_atomic(folder->fd, name, "x", 1, 0640, true), 0);
}

static bool holds_files(struct scratch *s, const char *name)
{
        bool holds = false;

        assert_int_equal(vm_folder_holds_files(s->datastore, name, &holds, NULL), 0);
        return holds;
}

static void test_a_folder_with_records_alone_holds_no_files(void **state)
{
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;

        assert_false(holds_files(s, "web1"));
        folder = create(s, "web1", UID);
        assert_int_equal(vm_folder_take_owner(folder, HOST, 0, 1, 1, NULL), 0);
        put_file(folder, VM_FOLDER_NVRAM);
        assert_false(holds_files(s, "web1"));
        put_file(folder, "disk0-0123456789ab.raw");
        assert_true(holds_files(s, "web1"));
}

static void test_a_folder_that_is_left_loses_its_records_and_nothing_else(void **state)
{
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = create(s, "web1", UID), *again = NULL;
        _cleanup_error_ struct error *error = NULL;
        bool empty = true;

        assert_int_equal(vm_folder_take_owner(folder, OTHER_HOST, 0, 3, 1, NULL), 0);
        put_file(folder, "tools.iso");
        assert_true(vm_folder_retire(s->datastore, "web1", UID, HOST, 2, &error) < 0);
        assert_int_equal(error->code, ERROR_STALE_EPOCH);
        assert_int_equal(vm_folder_retire(s->datastore, "web1", UID, HOST, 3, NULL), 0);
        assert_int_equal(beneath_unlink(folder->fd, "tools.iso"), 0); /* it was there */
        assert_int_equal(beneath_is_empty(folder->fd, &empty), 0);
        assert_true(empty);
        again = create(s, "web1", UID);
        assert_int_equal(vm_folder_retire(s->datastore, "web1", UID, HOST, 0, NULL), 0);
        assert_int_equal(vm_folder_retire(s->datastore, "web1", UID, HOST, 0, NULL), -ENOENT);
}

static void test_a_deletion_that_broke_off_is_finished(void **state)
{
        struct scratch *s = *state;

        scratch_make_dir(s, "store/web1");
        assert_int_equal(vm_folder_delete(s->datastore, "web1", UID, HOST, 0, NULL), 0);
        assert_false(scratch_exists(s, "store/web1"));
}

static void test_a_deletion_that_knows_too_old_an_owner_removes_nothing(void **state)
{
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = create(s, "web1", UID);
        _cleanup_error_ struct error *error = NULL;

        scratch_write(s, "store/web1/disk0.qcow2", "x");
        assert_int_equal(vm_folder_take_owner(folder, OTHER_HOST, 0, 3, 1000, NULL), 0);
        assert_true(vm_folder_delete(s->datastore, "web1", UID, HOST, 2, &error) < 0);
        assert_error(error, ERROR_STALE_EPOCH, OTHER_HOST);
        assert_true(scratch_exists(s, "store/web1/vm.json"));
        assert_true(scratch_exists(s, "store/web1/owner.json"));
        assert_true(scratch_exists(s, "store/web1/owner.lock"));
        assert_true(scratch_exists(s, "store/web1/disk0.qcow2"));
        assert_int_equal(vm_folder_delete(s->datastore, "web1", UID, HOST, 3, NULL), 0);
        assert_false(scratch_exists(s, "store/web1"));
}

static void test_a_deletion_by_the_owner_itself_needs_no_epoch(void **state)
{
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = create(s, "web1", UID);

        assert_int_equal(vm_folder_take_owner(folder, HOST, 0, 3, 1000, NULL), 0);
        assert_int_equal(vm_folder_delete(s->datastore, "web1", UID, HOST, 0, NULL), 0);
        assert_false(scratch_exists(s, "store/web1"));
}

static void test_a_damaged_document_is_reported(void **state)
{
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = create(s, "web1", UID);
        _cleanup_error_ struct error *error = NULL;
        json_t *doc = NULL;

        scratch_write(s, "store/web1/vm.json", "{\"uid\": ");
        assert_true(vm_folder_read_doc(folder, &doc, &error) < 0);
        assert_error(error, ERROR_CONFLICT, "damaged");
        assert_null(doc);
}

static void test_nvram_is_copied_once(void **state)
{
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = create(s, "web1", UID);
        _cleanup_free_ char *path = vm_folder_file_path(folder, VM_FOLDER_NVRAM), *text = NULL;
        char template[128];

        scratch_write(s, "vars", "template");
        snprintf(template, sizeof(template), "%s/vars", s->path);
        assert_int_equal(vm_folder_make_nvram(folder, template, NULL), 0);
        scratch_write(s, "store/web1/nvram.fd", "boot entries of the guest");
        assert_int_equal(vm_folder_make_nvram(folder, template, NULL), 0);
        assert_int_equal(file_read(path, 100, &text, NULL), 0);
        assert_string_equal(text, "boot entries of the guest");
}

static void test_missing_firmware_is_named(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = create(*state, "web1", UID);
        _cleanup_error_ struct error *error = NULL;

        assert_true(vm_folder_make_nvram(folder, "/nonexistent/OVMF_VARS.fd", &error) < 0);
        assert_error(error, ERROR_NOT_SUPPORTED, "/nonexistent/OVMF_VARS.fd");
}

static void test_the_end_of_the_serial_log_is_valid_text(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = create(*state, "web1", UID);
        _cleanup_free_ char *none = NULL, *all = NULL, *tail = NULL;
        static const char log[] = "one\xff\0two \xc3\xa4 \xed\xa0\x80\n";
        int fd;

        assert_int_equal(vm_folder_read_serial_log(folder, 100, &none, NULL), 0);
        assert_string_equal(none, "");
        assert_int_equal(vm_folder_open_serial_log(folder, &fd, NULL), 0);
        assert_int_equal(write(fd, log, sizeof(log) - 1), sizeof(log) - 1);
        close(fd);
        assert_int_equal(vm_folder_read_serial_log(folder, 100, &all, NULL), 0);
        assert_string_equal(all, "one??two \xc3\xa4 ???\n");
        assert_int_equal(vm_folder_read_serial_log(folder, 6, &tail, NULL), 0);
        assert_string_equal(tail, "? ???\n");
}

static void test_a_planted_serial_log_link_is_refused(void **state)
{
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = create(s, "web1", UID);
        int fd = -1;

        scratch_write(s, "secret", "x");
        scratch_link(s, "../../secret", "store/web1/serial.log");
        assert_true(vm_folder_open_serial_log(folder, &fd, NULL) < 0);
        assert_int_equal(fd, -1);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                SCRATCH_TEST(test_a_folder_is_made_with_its_document),
                SCRATCH_TEST(test_a_repeated_creation_keeps_the_first_document),
                SCRATCH_TEST(test_the_document_is_replaced_whole),
                SCRATCH_TEST(test_a_document_of_another_vm_is_not_written),
                SCRATCH_TEST(test_foreign_folders_are_refused),
                SCRATCH_TEST(test_a_folder_that_is_a_link_is_refused),
                SCRATCH_TEST(test_bad_names_are_refused),
                SCRATCH_TEST(test_a_creation_that_broke_off_is_taken_up),
                SCRATCH_TEST(test_a_creation_without_room_leaves_no_folder),
                SCRATCH_TEST(test_a_deletion_removes_everything_but_follows_no_link),
                SCRATCH_TEST(test_a_folder_with_records_alone_holds_no_files),
                SCRATCH_TEST(test_a_folder_that_is_left_loses_its_records_and_nothing_else),
                SCRATCH_TEST(test_a_deletion_that_broke_off_is_finished),
                SCRATCH_TEST(test_a_deletion_that_knows_too_old_an_owner_removes_nothing),
                SCRATCH_TEST(test_a_deletion_by_the_owner_itself_needs_no_epoch),
                SCRATCH_TEST(test_a_damaged_document_is_reported),
                SCRATCH_TEST(test_nvram_is_copied_once),
                SCRATCH_TEST(test_missing_firmware_is_named),
                SCRATCH_TEST(test_the_end_of_the_serial_log_is_valid_text),
                SCRATCH_TEST(test_a_planted_serial_log_link_is_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
