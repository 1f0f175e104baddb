/* SPDX-License-Identifier: Apache-2.0 */
#include "scratch.h"

#include "storage/beneath.h"

static int dir(void **state)
{
        return ((struct scratch *)*state)->datastore->fd;
}

static void test_written_text_is_read_back(void **state)
{
        _cleanup_free_ char *text = NULL;
        size_t len;

        assert_int_equal(beneath_write_atomic(dir(state), "a", "hello", 5, 0600, false), 0);
        assert_int_equal(beneath_write_atomic(dir(state), "a", "world!", 6, 0600, false), 0);
        assert_int_equal(beneath_read(dir(state), "a", 100, &text, &len), 0);
        assert_int_equal(len, 6);
        assert_string_equal(text, "world!");
}

static void test_a_larger_file_than_allowed_is_not_read(void **state)
{
        char *text = NULL;

        assert_int_equal(beneath_write_atomic(dir(state), "a", "hello", 5, 0600, false), 0);
        assert_int_equal(beneath_read(dir(state), "a", 4, &text, NULL), -E2BIG);
        assert_null(text);
}

static void test_an_exclusive_write_never_replaces(void **state)
{
        _cleanup_free_ char *text = NULL;

        assert_int_equal(beneath_write_atomic(dir(state), "a", "first", 5, 0600, true), 0);
        assert_int_equal(beneath_write_atomic(dir(state), "a", "second", 6, 0600, true), -EEXIST);
        assert_int_equal(beneath_read(dir(state), "a", 100, &text, NULL), 0);
        assert_string_equal(text, "first");
}

static void test_no_temporary_files_stay(void **state)
{
        struct scratch *s = *state;
        char command[160];

        assert_int_equal(beneath_write_atomic(dir(state), "a", "1", 1, 0600, true), 0);
        assert_int_equal(beneath_write_atomic(dir(state), "a", "2", 1, 0600, true), -EEXIST);
        assert_int_equal(beneath_write_atomic(dir(state), "a", "3", 1, 0600, false), 0);
        snprintf(command, sizeof(command), "ls -A %s | grep -q tmp", s->store);
        assert_int_not_equal(system(command), 0);
}

static void test_paths_that_leave_the_folder_are_refused(void **state)
{
        struct scratch *s = *state;
        char absolute[128], *text = NULL;

        scratch_write(s, "secret", "x");
        snprintf(absolute, sizeof(absolute), "%s/secret", s->path);
        assert_int_equal(beneath_read(dir(state), "../secret", 100, &text, NULL), -EXDEV);
        assert_int_equal(beneath_read(dir(state), absolute, 100, &text, NULL), -EXDEV);
        assert_int_equal(beneath_write_atomic(dir(state), "../secret", "y", 1, 0600, false), -EXDEV);
        assert_int_equal(beneath_make_dirs(dir(state), "a/../../b", 0700), -EXDEV);
        assert_int_equal(beneath_unlink(dir(state), "../secret"), -EXDEV);
        assert_true(scratch_exists(s, "secret"));
        assert_false(scratch_exists(s, "b"));
        assert_null(text);
}

static void test_symbolic_links_are_not_followed(void **state)
{
        struct scratch *s = *state;
        char *text = NULL;

        scratch_write(s, "secret", "x");
        scratch_make_dir(s, "outside");
        scratch_link(s, "../secret", "store/file");
        scratch_link(s, "../outside", "store/folder");
        assert_int_equal(beneath_read(dir(state), "file", 100, &text, NULL), -ELOOP);
        assert_int_equal(beneath_write_atomic(dir(state), "folder/new", "y", 1, 0600, false), -ELOOP);
        assert_true(beneath_make_dirs(dir(state), "folder/sub", 0700) < 0);
        assert_int_equal(beneath_unlink(dir(state), "folder/x"), -ELOOP);
        assert_false(scratch_exists(s, "outside/new"));
        assert_false(scratch_exists(s, "outside/sub"));
        assert_null(text);
}

static void test_writing_over_a_link_replaces_the_link(void **state)
{
        struct scratch *s = *state;
        _cleanup_free_ char *text = NULL;
        char path[128];

        scratch_write(s, "secret", "kept");
        scratch_link(s, "../secret", "store/file");
        assert_int_equal(beneath_write_atomic(dir(state), "file", "new", 3, 0600, false), 0);
        snprintf(path, sizeof(path), "%s/secret", s->path);
        assert_int_equal(file_read(path, 100, &text, NULL), 0);
        assert_string_equal(text, "kept");
}

static void test_a_fifo_does_not_hold_us_up(void **state)
{
        struct scratch *s = *state;
        char path[128], *text = NULL;

        snprintf(path, sizeof(path), "%s/pipe", s->store);
        assert_int_equal(mkfifo(path, 0600), 0);
        assert_int_equal(beneath_read(dir(state), "pipe", 100, &text, NULL), -EINVAL);
}

static void test_clearing_follows_no_link_and_keeps_one_entry(void **state)
{
        struct scratch *s = *state;
        _cleanup_fd_ int fd = -1;

        scratch_make_dir(s, "outside");
        scratch_write(s, "outside/precious", "x");
        assert_int_equal(beneath_make_dirs(dir(state), "vm/a/b/c", 0700), 0);
        scratch_write(s, "store/vm/a/b/file", "x");
        scratch_write(s, "store/vm/keep", "x");
        scratch_link(s, "../../outside", "store/vm/link");
        scratch_link(s, "../../../../outside", "store/vm/a/b/link");
        assert_int_equal(beneath_open(dir(state), "vm", O_RDONLY | O_DIRECTORY, 0, &fd), 0);
        assert_int_equal(beneath_clear(fd, "keep"), 0);
        assert_true(scratch_exists(s, "store/vm/keep"));
        assert_false(scratch_exists(s, "store/vm/a"));
        assert_false(scratch_exists(s, "store/vm/link"));
        assert_true(scratch_exists(s, "outside/precious"));
}

static void test_clearing_ends_in_a_very_deep_tree(void **state)
{
        struct scratch *s = *state;
        char command[256];
        _cleanup_fd_ int fd = -1;

        snprintf(command, sizeof(command),
                "cd %s && mkdir deep && cd deep && i=0; while [ $i -lt 80 ]; do mkdir d && cd d; i=$((i+1)); "
                "done",
                s->store);
        assert_int_equal(system(command), 0);
        assert_int_equal(beneath_open(dir(state), "deep", O_RDONLY | O_DIRECTORY, 0, &fd), 0);
        assert_int_equal(beneath_clear(fd, NULL), -ELOOP);
}

static void test_clearing_does_not_cross_a_mount(void **state)
{
        struct scratch *s = *state;
        _cleanup_fd_ int fd = -1;
        char path[128];

        assert_int_equal(beneath_make_dirs(dir(state), "vm/mnt", 0700), 0);
        snprintf(path, sizeof(path), "%s/vm/mnt", s->store);
        if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
                mount("drover-test", path, "tmpfs", 0, "size=64k") < 0)
                skip();
        scratch_write(s, "store/vm/mnt/precious", "x");
        assert_int_equal(beneath_open(dir(state), "vm", O_RDONLY | O_DIRECTORY, 0, &fd), 0);
        assert_int_equal(beneath_clear(fd, NULL), -EBUSY);
        assert_true(scratch_exists(s, "store/vm/mnt/precious"));
        assert_int_equal(umount2(path, MNT_DETACH), 0);
}

static void test_a_failed_write_on_a_full_disk_keeps_the_old_text(void **state)
{
        struct scratch *s = *state;
        _cleanup_free_ char *big = calloc(1, 200000), *text = NULL;

        scratch_make_small(s, "size=64k");
        assert_int_equal(beneath_write_atomic(dir(state), "a", "old", 3, 0600, false), 0);
        assert_int_equal(beneath_write_atomic(dir(state), "a", big, 200000, 0600, false), -ENOSPC);
        assert_int_equal(beneath_read(dir(state), "a", 100, &text, NULL), 0);
        assert_string_equal(text, "old");
        /* The unfinished file does not eat the rest of the space. */
        assert_int_equal(beneath_write_atomic(dir(state), "b", big, 30000, 0600, false), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                SCRATCH_TEST(test_written_text_is_read_back),
                SCRATCH_TEST(test_a_larger_file_than_allowed_is_not_read),
                SCRATCH_TEST(test_an_exclusive_write_never_replaces),
                SCRATCH_TEST(test_no_temporary_files_stay),
                SCRATCH_TEST(test_paths_that_leave_the_folder_are_refused),
                SCRATCH_TEST(test_symbolic_links_are_not_followed),
                SCRATCH_TEST(test_writing_over_a_link_replaces_the_link),
                SCRATCH_TEST(test_a_fifo_does_not_hold_us_up),
                SCRATCH_TEST(test_clearing_follows_no_link_and_keeps_one_entry),
                SCRATCH_TEST(test_clearing_ends_in_a_very_deep_tree),
                SCRATCH_TEST(test_clearing_does_not_cross_a_mount),
                SCRATCH_TEST(test_a_failed_write_on_a_full_disk_keeps_the_old_text),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
