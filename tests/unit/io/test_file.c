/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "io/file.h"
#include "unit/torture_loop.h"

static char folder[] = "/tmp/drover-test-file-XXXXXX";

static int set_up(void **state _unused_)
{
        memcpy(folder + strlen(folder) - 6, "XXXXXX", 6);
        return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state _unused_)
{
        return file_remove_tree(folder);
}

static const char *path_of(const char *name)
{
        static char path[512];

        snprintf(path, sizeof(path), "%s/%s", folder, name);
        return path;
}

static unsigned int entries(void)
{
        DIR *d = opendir(folder);
        unsigned int n = 0;

        assert_non_null(d);
        while (readdir(d))
                n++;
        closedir(d);
        return n - 2; /* . and .. */
}

static void what_is_written_is_read(void **state _unused_)
{
        _cleanup_free_ char *data = NULL;
        struct stat st;
        size_t len;

        assert_int_equal(file_write_atomic(path_of("f"), "a\0b", 3, 0640), 0);
        assert_int_equal(file_read(path_of("f"), 100, &data, &len), 0);
        assert_int_equal(len, 3);
        assert_memory_equal(data, "a\0b", 4);
        assert_int_equal(stat(path_of("f"), &st), 0);
        assert_int_equal(st.st_mode & 0777, 0640);
}

static void a_file_of_just_the_maximum_is_read_and_one_byte_more_is_not(void **state _unused_)
{
        _cleanup_free_ char *data = NULL;
        char *none = NULL;

        assert_int_equal(file_write_atomic(path_of("f"), "12345", 5, 0600), 0);
        assert_int_equal(file_read(path_of("f"), 5, &data, NULL), 0);
        assert_string_equal(data, "12345");
        assert_int_equal(file_read(path_of("f"), 4, &none, NULL), -E2BIG);
        assert_null(none);
}

static void a_file_whose_size_is_said_to_be_zero_is_read_whole(void **state _unused_)
{
        _cleanup_free_ char *data = NULL;
        size_t len;

        assert_int_equal(file_read("/proc/self/status", 65536, &data, &len), 0);
        assert_true(len > 100);
        assert_memory_equal(data, "Name:", 5);
}

static void what_is_no_regular_file_is_refused_at_once(void **state _unused_)
{
        char *data = NULL;

        assert_int_equal(file_read(folder, 100, &data, NULL), -EISDIR);
        assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
        assert_int_equal(file_read(path_of("fifo"), 100, &data, NULL), -EINVAL);
        assert_int_equal(file_read(path_of("none"), 100, &data, NULL), -ENOENT);
}

static void a_write_replaces_and_leaves_nothing_beside(void **state _unused_)
{
        _cleanup_free_ char *data = NULL;

        assert_int_equal(file_write_atomic(path_of("f"), "old and longer", 14, 0600), 0);
        assert_int_equal(file_write_atomic(path_of("f"), "new", 3, 0600), 0);
        assert_int_equal(file_read(path_of("f"), 100, &data, NULL), 0);
        assert_string_equal(data, "new");
        assert_int_equal(entries(), 1);
}

static void a_reader_that_has_the_old_file_open_keeps_the_old_content(void **state _unused_)
{
        _cleanup_fd_ int fd = -1;
        char data[8] = "";

        assert_int_equal(file_write_atomic(path_of("f"), "old", 3, 0600), 0);
        fd = open(path_of("f"), O_RDONLY | O_CLOEXEC);
        assert_int_equal(file_write_atomic(path_of("f"), "new", 3, 0600), 0);
        assert_int_equal(read(fd, data, sizeof(data)), 3);
        assert_string_equal(data, "old");
}

static void a_write_that_fails_leaves_no_temporary_file(void **state _unused_)
{
        assert_int_equal(mkdir(path_of("f"), 0700), 0); /* rename() over a folder fails */
        assert_int_equal(file_write_atomic(path_of("f"), "x", 1, 0600), -EISDIR);
        assert_int_equal(entries(), 1);
        assert_int_equal(file_write_atomic(path_of("no/f"), "x", 1, 0600), -ENOENT);
}

static void write_body(void *arg _unused_)
{
        _cleanup_free_ char *data = NULL;
        int r;

        r = file_write_atomic(path_of("t"), "0123456789", 10, 0600);
        if (torture_failed(r < 0)) {
                assert_in_range(entries(), 0, 1);
                return;
        }
        if (torture_failed(file_read(path_of("t"), 100, &data, NULL) < 0))
                return;
        assert_string_equal(data, "0123456789");
}

static void writing_survives_failing_calls(void **state _unused_)
{
        torture_loop(write_body, NULL);
}

static void folders_are_made_down_to_the_last(void **state _unused_)
{
        struct stat st;

        assert_int_equal(file_make_dirs(path_of("a//b/c/"), 0750), 0);
        assert_int_equal(stat(path_of("a/b/c"), &st), 0);
        assert_true(S_ISDIR(st.st_mode));
        assert_int_equal(file_make_dirs(path_of("a/b/c"), 0750), 0);
        assert_int_equal(file_write_atomic(path_of("a/f"), "", 0, 0600), 0);
        assert_int_equal(file_make_dirs(path_of("a/f"), 0750), -ENOTDIR);
        assert_int_equal(file_make_dirs(path_of("a/f/g"), 0750), -ENOTDIR);
}

static void a_tree_is_removed_without_following_links(void **state _unused_)
{
        struct stat st;
        char target[512], link_path[512];

        assert_int_equal(file_make_dirs(path_of("tree/a/b"), 0700), 0);
        assert_int_equal(file_make_dirs(path_of("kept"), 0700), 0);
        assert_int_equal(file_write_atomic(path_of("kept/f"), "x", 1, 0600), 0);
        snprintf(target, sizeof(target), "%s/kept", folder);
        snprintf(link_path, sizeof(link_path), "%s/tree/a/link", folder);
        assert_int_equal(symlink(target, link_path), 0);
        assert_int_equal(file_remove_tree(path_of("tree")), 0);
        assert_int_equal(stat(path_of("tree"), &st), -1);
        assert_int_equal(stat(path_of("kept/f"), &st), 0);
        assert_int_equal(file_remove_tree(path_of("tree")), 0);
}

static void a_link_in_the_trees_place_is_removed_itself(void **state _unused_)
{
        char target[512];
        struct stat st;

        assert_int_equal(file_make_dirs(path_of("kept"), 0700), 0);
        snprintf(target, sizeof(target), "%s/kept", folder);
        assert_int_equal(symlink(target, path_of("link")), 0);
        assert_int_equal(file_remove_tree(path_of("link")), 0);
        assert_int_equal(stat(target, &st), 0);
}

static void a_lock_is_had_by_one_and_waited_for_when_its_holder_is_ending(void **state _unused_)
{
        _cleanup_fd_ int first = -1, second = -1;
        pid_t child;

        assert_int_equal(file_lock(path_of("lock"), &first), 0);
        assert_int_equal(file_lock(path_of("lock"), &second), -EWOULDBLOCK);
        assert_int_equal(second, -1);
        child = fork(); /* which has the lock too, like one of a killed process that is not yet another program */
        assert_true(child >= 0);
        if (child == 0) {
                usleep(100000); /* nothing tells when the parent, which blocks, has begun to wait */
                _exit(0);
        }
        fd_closep(&first);
        assert_int_equal(file_lock(path_of("lock"), &second), 0);
        assert_int_equal(waitpid(child, NULL, 0), child);
        assert_int_equal(file_lock(path_of("missing/lock"), &first), -ENOENT);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(what_is_written_is_read),
                TEST(a_file_of_just_the_maximum_is_read_and_one_byte_more_is_not),
                TEST(a_file_whose_size_is_said_to_be_zero_is_read_whole),
                TEST(what_is_no_regular_file_is_refused_at_once),
                TEST(a_write_replaces_and_leaves_nothing_beside),
                TEST(a_reader_that_has_the_old_file_open_keeps_the_old_content),
                TEST(a_write_that_fails_leaves_no_temporary_file),
                TEST(writing_survives_failing_calls),
                TEST(folders_are_made_down_to_the_last),
                TEST(a_tree_is_removed_without_following_links),
                TEST(a_link_in_the_trees_place_is_removed_itself),
                TEST(a_lock_is_had_by_one_and_waited_for_when_its_holder_is_ending),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
