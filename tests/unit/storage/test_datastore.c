/* SPDX-License-Identifier: Apache-2.0 */
#include "scratch.h"

#include <dirent.h>
#include <time.h>

#define OTHER_ID "11111111-2222-4333-8444-555555555555"

static void test_a_new_folder_gets_an_id_that_stays(void **state)
{
        struct scratch *s = *state;
        _cleanup_(datastore_freep) struct datastore *again = NULL;

        assert_true(text_is_uuid(s->datastore->id));
        assert_int_equal(datastore_open("shared", s->store, NULL, &again, NULL), 0);
        assert_string_equal(again->id, s->datastore->id);
}

static void test_the_same_datastore_is_recognised_by_another_path(void **state)
{
        struct scratch *s = *state;
        _cleanup_(datastore_freep) struct datastore *again = NULL;
        char path[128];

        scratch_link(s, "store", "elsewhere");
        snprintf(path, sizeof(path), "%s/elsewhere", s->path);
        assert_int_equal(datastore_open("shared", path, s->datastore->id, &again, NULL), 0);
        assert_string_equal(again->id, s->datastore->id);
        assert_string_equal(again->path, s->store);
}

static void test_the_wrong_datastore_is_refused(void **state)
{
        struct scratch *s = *state;
        _cleanup_error_ struct error *error = NULL;
        struct datastore *other = NULL;

        assert_true(datastore_open("shared", s->store, OTHER_ID, &other, &error) < 0);
        assert_error(error, ERROR_CONFLICT, OTHER_ID);
        assert_null(other);
}

static void test_an_unmounted_folder_does_not_become_a_datastore(void **state)
{
        struct scratch *s = *state;
        _cleanup_error_ struct error *error = NULL;
        struct datastore *other = NULL;
        char path[128];

        scratch_make_dir(s, "empty");
        snprintf(path, sizeof(path), "%s/empty", s->path);
        assert_true(datastore_open("shared", path, OTHER_ID, &other, &error) < 0);
        assert_error(error, ERROR_NOT_FOUND, "not mounted");
        assert_false(scratch_exists(s, "empty/" DATASTORE_ID_FILE));
}

static void test_a_damaged_id_file_is_not_replaced(void **state)
{
        static const char *const bad[] = {"", "{", "{\"format\": 1}",
                "{\"format\": 2, \"id\": \"" OTHER_ID "\", \"name\": \"x\"}",
                "{\"format\": 1, \"id\": \"../../etc\", \"name\": \"x\"}", "[]"};
        struct scratch *s = *state;

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                _cleanup_error_ struct error *error = NULL;
                struct datastore *other = NULL;

                scratch_write(s, "store/" DATASTORE_ID_FILE, bad[i]);
                assert_true(datastore_open("shared", s->store, NULL, &other, &error) < 0);
                assert_error(error, ERROR_CONFLICT, "damaged");
        }
}

static void test_an_id_file_that_is_a_link_is_refused(void **state)
{
        struct scratch *s = *state;
        _cleanup_error_ struct error *error = NULL;
        struct datastore *other = NULL;
        char path[128];

        snprintf(path, sizeof(path), "%s/" DATASTORE_ID_FILE, s->store);
        assert_int_equal(unlink(path), 0);
        scratch_write(s, "fake", "{\"format\": 1, \"id\": \"" OTHER_ID "\", \"name\": \"x\"}");
        scratch_link(s, "../fake", "store/" DATASTORE_ID_FILE);
        assert_true(datastore_open("shared", s->store, NULL, &other, &error) < 0);
        assert_error(error, ERROR_BAD_REQUEST, "symbolic link");
}

static void test_hosts_that_race_for_a_new_datastore_agree(void **state)
{
        struct scratch *s = *state;
        char path[128], seen[8][UUID_STRING_SIZE];
        int pipes[2], go[2];

        scratch_make_dir(s, "new");
        snprintf(path, sizeof(path), "%s/new", s->path);
        assert_int_equal(pipe(pipes), 0);
        assert_int_equal(pipe(go), 0);
        for (size_t i = 0; i < ARRAY_SIZE(seen); i++)
                if (!fork()) {
                        struct datastore *ds = NULL;
                        char c;

                        close(go[1]);
                        (void)!read(go[0], &c, 1); /* returns for all at once */
                        _exit(datastore_open("shared", path, NULL, &ds, NULL) < 0 ||
                                write(pipes[1], ds->id, UUID_STRING_SIZE) != UUID_STRING_SIZE);
                }
        close(go[0]);
        close(go[1]);
        close(pipes[1]);
        for (size_t i = 0; i < ARRAY_SIZE(seen); i++) {
                assert_int_equal(read(pipes[0], seen[i], UUID_STRING_SIZE), UUID_STRING_SIZE);
                assert_string_equal(seen[i], seen[0]);
        }
        close(pipes[0]);
        while (wait(NULL) > 0)
                continue;
}

static void test_dangerous_paths_are_refused(void **state)
{
        static const char *const bad[] = {"/", "/etc", "/etc/drover", "/usr/share", "/home", "/root",
                "/proc/1", "/dev", "/sys/x", "/var/lib", "/tmp", "relative", "", "/srv/../etc", "/srv//x",
                "//srv", "/srv/x/", "/srv/./x", "/srv/a\nb"};

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                _cleanup_error_ struct error *error = NULL;

                if (!datastore_check_path(bad[i], &error))
                        fail_msg("\"%s\" was accepted", bad[i]);
                assert_int_equal(error->code, ERROR_BAD_DOCUMENT);
        }
        assert_int_equal(datastore_check_path("/srv/datastore", NULL), 0);
        assert_int_equal(datastore_check_path("/home/vms", NULL), 0);
        assert_int_equal(datastore_check_path("/etcetera", NULL), 0);
}

static void test_a_link_to_a_folder_of_the_system_is_refused(void **state)
{
        struct scratch *s = *state;
        _cleanup_error_ struct error *error = NULL;
        struct datastore *other = NULL;
        char path[128];

        scratch_link(s, "/etc", "innocent");
        snprintf(path, sizeof(path), "%s/innocent", s->path);
        assert_true(datastore_open("shared", path, NULL, &other, &error) < 0);
        assert_error(error, ERROR_BAD_DOCUMENT, "/etc");
}

static void test_what_is_no_folder_is_refused_with_the_cause(void **state)
{
        static const struct {
                const char *name;
                enum error_code code;
        } bad[] = {{"file", ERROR_BAD_DOCUMENT}, {"loop", ERROR_BAD_DOCUMENT}, {"missing", ERROR_NOT_FOUND}};
        struct scratch *s = *state;

        scratch_write(s, "file", "x");
        scratch_link(s, "loop", "loop");
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                _cleanup_error_ struct error *error = NULL;
                struct datastore *other = NULL;
                char path[128];

                snprintf(path, sizeof(path), "%s/%s", s->path, bad[i].name);
                assert_true(datastore_open("shared", path, NULL, &other, &error) < 0);
                assert_int_equal(error->code, bad[i].code);
        }
}

static void test_files_outside_cannot_be_opened(void **state)
{
        struct scratch *s = *state;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_free_ char *path = NULL;
        int fd = -1;

        scratch_write(s, "secret", "x");
        scratch_write(s, "store/image", "x");
        scratch_link(s, "../secret", "store/link");
        assert_int_equal(datastore_open_file(s->datastore, "image", O_RDWR, &fd, NULL), 0);
        close(fd);
        assert_int_equal(datastore_open_file(s->datastore, "../secret", O_RDONLY, &fd, NULL), -EINVAL);
        assert_int_equal(datastore_open_file(s->datastore, "missing", O_RDONLY, &fd, NULL), -ENOENT);
        assert_true(datastore_open_file(s->datastore, "link", O_RDONLY, &fd, &error) < 0);
        assert_error(error, ERROR_BAD_REQUEST, "symbolic link");
        assert_int_equal(datastore_file_path(s->datastore, "image", &path, NULL), 0);
        assert_int_equal(access(path, R_OK), 0);
}

struct checked {
        bool done;
        struct datastore_status status;
        enum error_code code;
        char message[256];
};

static void on_checked(void *userdata, const struct datastore_status *status, struct error *error)
{
        struct checked *checked = userdata;

        checked->done = true;
        checked->code = N_ERROR_CODES;
        if (status)
                checked->status = *status;
        if (error) {
                checked->code = error->code;
                snprintf(checked->message, sizeof(checked->message), "%s", error_message(error));
        }
}

static void test_a_check_reports_size_and_file_system(void **state)
{
        struct scratch *s = *state;
        struct datastore_check *check;
        struct checked checked = {};

        scratch_make_small(s, "size=1m");
        assert_int_equal(datastore_check_start(s->loop, "shared", s->store, NULL, 0, false, on_checked,
                                 &checked, &check, NULL),
                0);
        assert_int_equal(loop_wait(s->loop, &checked.done, 10000), 0);
        assert_string_equal(checked.message, "");
        assert_string_equal(checked.status.id, s->datastore->id);
        assert_string_equal(checked.status.file_system, "tmpfs");
        assert_false(checked.status.shared);
        assert_int_equal(checked.status.capacity_bytes, 1048576);
        assert_in_range(checked.status.free_bytes, 900000, 1048576);
}

static void test_a_check_names_what_is_wrong(void **state)
{
        struct scratch *s = *state;
        struct datastore_check *check;
        struct checked checked = {};

        assert_int_equal(datastore_check_start(s->loop, "shared", s->store, OTHER_ID, 0, false, on_checked,
                                 &checked, &check, NULL),
                0);
        assert_int_equal(loop_wait(s->loop, &checked.done, 10000), 0);
        assert_int_equal(checked.code, ERROR_CONFLICT);
        assert_non_null(strstr(checked.message, OTHER_ID));
}

static void test_a_read_only_datastore_is_noticed(void **state)
{
        struct scratch *s = *state;
        struct datastore_check *check;
        struct checked checked = {};

        scratch_make_small(s, "size=1m");
        assert_int_equal(mount("none", s->store, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
        assert_int_equal(datastore_check_start(s->loop, "shared", s->store, NULL, 0, false, on_checked,
                                 &checked, &check, NULL),
                0);
        assert_int_equal(loop_wait(s->loop, &checked.done, 10000), 0);
        assert_int_equal(checked.code, ERROR_DENIED);
}

static void test_a_full_datastore_is_reachable(void **state)
{
        struct scratch *s = *state;
        struct datastore_check *check;
        struct checked checked = {};
        char command[160];

        scratch_make_small(s, "size=256k");
        snprintf(command, sizeof(command), "cat /dev/zero 2>/dev/null > %s/fill", s->store);
        assert_int_not_equal(system(command), 0);
        assert_int_equal(datastore_check_start(s->loop, "shared", s->store, NULL, 0, false, on_checked,
                                 &checked, &check, NULL),
                0);
        assert_int_equal(loop_wait(s->loop, &checked.done, 10000), 0);
        assert_string_equal(checked.message, "");
        assert_int_equal(checked.status.free_bytes, 0);
}

static size_t n_files(const char *path)
{
        DIR *folder = opendir(path);
        size_t n = 0;

        assert_non_null(folder);
        while (readdir(folder))
                n++;
        closedir(folder);
        return n;
}

static struct datastore_status measured(struct scratch *s, const char *size)
{
        struct datastore_check *check;
        struct checked checked = {};

        scratch_make_small(s, size);
        assert_int_equal(datastore_check_start(s->loop, "shared", s->store, NULL, 0, true, on_checked,
                                 &checked, &check, NULL),
                0);
        assert_int_equal(loop_wait(s->loop, &checked.done, 10000), 0);
        assert_string_equal(checked.message, "");
        return checked.status;
}

static void test_a_check_measures_the_rate_and_leaves_nothing(void **state)
{
        struct scratch *s = *state;
        struct datastore_status status = measured(s, "size=600m");

        assert_true(status.rate.write_bytes_per_s > 0);
        assert_true(status.rate.read_bytes_per_s > 0);
        assert_int_equal(n_files(s->store), 3); /* ".", ".." and the id */
}

static void test_where_room_is_short_no_rate_is_measured(void **state)
{
        struct datastore_status status = measured(*state, "size=16m");

        assert_int_equal(status.rate.write_bytes_per_s, 0);
        assert_int_equal(status.rate.read_bytes_per_s, 0);
}

static void test_measuring_writes_a_bounded_amount(void **state)
{
        struct scratch *s = *state;
        struct write_rate rate;
        struct stat st;
        int fd = openat(s->datastore->fd, "rate", O_RDWR | O_CREAT | O_EXCL, 0600);

        assert_true(fd >= 0);
        write_rate_measure(fd, &rate);
        assert_int_equal(fstat(fd, &st), 0);
        assert_in_range(st.st_size, 1, WRITE_RATE_MAX_BYTES);
        assert_true(rate.write_bytes_per_s > 0);
        close(fd);
}

#define CASE(name) SCRATCH_TEST(name)

int main(void)
{
        const struct CMUnitTest tests[] = {
                CASE(test_a_new_folder_gets_an_id_that_stays),
                CASE(test_the_same_datastore_is_recognised_by_another_path),
                CASE(test_the_wrong_datastore_is_refused),
                CASE(test_an_unmounted_folder_does_not_become_a_datastore),
                CASE(test_a_damaged_id_file_is_not_replaced),
                CASE(test_an_id_file_that_is_a_link_is_refused),
                CASE(test_hosts_that_race_for_a_new_datastore_agree),
                CASE(test_dangerous_paths_are_refused),
                CASE(test_a_link_to_a_folder_of_the_system_is_refused),
                CASE(test_what_is_no_folder_is_refused_with_the_cause),
                CASE(test_files_outside_cannot_be_opened),
                CASE(test_a_check_reports_size_and_file_system),
                CASE(test_a_check_names_what_is_wrong),
                CASE(test_a_read_only_datastore_is_noticed),
                CASE(test_a_full_datastore_is_reachable),
                CASE(test_a_check_measures_the_rate_and_leaves_nothing),
                CASE(test_where_room_is_short_no_rate_is_measured),
                CASE(test_measuring_writes_a_bounded_amount),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
