/* SPDX-License-Identifier: Apache-2.0 */

/* The files and keys of guests that left. */

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
// clang-format on
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/checkpoints.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "io/file.h"

#define VM1 "11111111-2222-4333-8444-555555555555"
#define VM2 "11111111-2222-4333-8444-666666666666"
#define HOST1 "aaaaaaaa-2222-4333-8444-555555555555"
#define KEY1 "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define MIB (1024 * 1024)
#define HOUR 3600

struct rig {
        char folder[64];
        struct checkpoints *checkpoints;
};

static struct checkpoints *open_at(const struct rig *rig, uint64_t max_bytes)
{
        struct checkpoints *checkpoints;

        assert_int_equal(checkpoints_new(rig->folder, max_bytes, HOUR, &checkpoints, NULL), 0);
        return checkpoints;
}

static struct rig rig_new(uint64_t max_bytes)
{
        struct rig rig = {.folder = "/tmp/drover-checkpoints-XXXXXX"};

        assert_non_null(mkdtemp(rig.folder));
        rig.checkpoints = open_at(&rig, max_bytes);
        return rig;
}

static void rig_free(struct rig *rig)
{
        checkpoints_free(rig->checkpoints);
        assert_int_equal(file_remove_tree(rig->folder), 0);
}

static void fill(int fd, size_t bytes)
{
        char block[4096];

        memset(block, 'x', sizeof(block));
        for (; bytes > 0; bytes -= sizeof(block))
                assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
        close(fd);
}

static bool keep(struct rig *rig, const char *vm, size_t bytes)
{
        int fd;

        assert_int_equal(checkpoints_begin(rig->checkpoints, vm, bytes, &fd), 0);
        fill(fd, bytes);
        return checkpoints_end(rig->checkpoints, vm, bytes, true);
}

static bool has(struct rig *rig, const char *vm)
{
        int fd;

        if (checkpoints_open(rig->checkpoints, vm, &fd) < 0)
                return false;
        close(fd);
        return true;
}

/* As if it had been kept so long ago. */
static void age(const struct rig *rig, const char *name, time_t seconds)
{
        struct timespec times[2] = {{.tv_sec = time(NULL) - seconds}, {.tv_sec = time(NULL) - seconds}};
        _cleanup_free_ char *path = alloc_printf("%s/checkpoints/%s", rig->folder, name);

        assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void test_kept_until_it_is_dropped(void **state)
{
        struct rig rig = rig_new(MIB);

        assert_false(has(&rig, VM1));
        (void)keep(&rig, VM1, 8192);
        assert_true(has(&rig, VM1));
        checkpoints_drop(rig.checkpoints, VM1);
        assert_false(has(&rig, VM1));
        rig_free(&rig);
}

static void test_nothing_is_kept_unless_it_is_wanted(void **state)
{
        struct rig rig = rig_new(0);
        int fd;

        assert_false(checkpoints_wanted(rig.checkpoints));
        assert_int_equal(checkpoints_begin(rig.checkpoints, VM1, 4096, &fd), -EOPNOTSUPP);
        rig_free(&rig);
}

static void test_memory_larger_than_the_disk_is_not_begun(void **state)
{
        struct rig rig = rig_new(MIB);
        int fd;

        assert_int_equal(checkpoints_begin(rig.checkpoints, VM1, UINT64_C(1) << 60, &fd), -ENOSPC);
        rig_free(&rig);
}

static void test_oldest_makes_room(void **state)
{
        struct rig rig = rig_new(MIB);

        (void)keep(&rig, VM1, MIB / 2);
        age(&rig, VM1, 60);
        (void)keep(&rig, VM2, MIB / 4);
        assert_true(has(&rig, VM1));
        age(&rig, VM2, 30);
        (void)keep(&rig, VM2, MIB - 65536);
        assert_false(has(&rig, VM1));
        assert_true(has(&rig, VM2));
        assert_false(keep(&rig, VM1, 2 * MIB)); /* more than all of the room: nobody makes any */
        assert_false(has(&rig, VM1));
        assert_true(has(&rig, VM2));
        rig_free(&rig);
}

static void test_folder_that_is_no_file_of_ours_is_left_alone(void **state)
{
        struct rig rig = rig_new(4096);
        _cleanup_free_ char *path = alloc_printf("%s/checkpoints/lost+found", rig.folder);

        assert_int_equal(mkdir(path, 0700), 0);
        age(&rig, "lost+found", 60);
        assert_true(keep(&rig, VM1, 4096));
        assert_true(has(&rig, VM1));
        assert_int_equal(access(path, F_OK), 0);
        rig_free(&rig);
}

static void test_old_one_is_removed(void **state)
{
        struct rig rig = rig_new(MIB);

        (void)keep(&rig, VM1, 4096);
        age(&rig, VM1, HOUR - 60);
        assert_true(has(&rig, VM1));
        age(&rig, VM1, HOUR + 60);
        assert_false(has(&rig, VM1));
        rig_free(&rig);
}

static void test_unfinished_one_is_never_used_and_goes_with_the_next_start(void **state)
{
        struct rig rig = rig_new(MIB);
        _cleanup_free_ char *path = alloc_printf("%s/checkpoints/" VM1 ".new", rig.folder);
        int fd;

        assert_int_equal(checkpoints_begin(rig.checkpoints, VM1, 4096, &fd), 0);
        fill(fd, 4096);
        assert_false(has(&rig, VM1));
        assert_int_equal(access(path, F_OK), 0);
        checkpoints_free(rig.checkpoints);
        rig.checkpoints = open_at(&rig, MIB);
        assert_int_equal(access(path, F_OK), -1);
        assert_int_equal(checkpoints_begin(rig.checkpoints, VM1, 4096, &fd), 0);
        close(fd);
        assert_false(checkpoints_end(rig.checkpoints, VM1, 4096, false));
        assert_int_equal(access(path, F_OK), -1);
        rig_free(&rig);
}

static void test_switching_it_off_removes_what_was_kept(void **state)
{
        struct rig rig = rig_new(MIB);

        (void)keep(&rig, VM1, 4096);
        checkpoints_free(rig.checkpoints);
        rig.checkpoints = open_at(&rig, 0);
        checkpoints_free(rig.checkpoints);
        rig.checkpoints = open_at(&rig, MIB);
        assert_false(has(&rig, VM1));
        rig_free(&rig);
}

static void test_keys_survive_a_restart(void **state)
{
        struct rig rig = rig_new(MIB);
        json_t *keys = json_pack("{s:s}", HOST1, KEY1), *read;

        checkpoints_set_keys(rig.checkpoints, VM1, keys);
        checkpoints_free(rig.checkpoints);
        rig.checkpoints = open_at(&rig, MIB);
        read = checkpoints_keys(rig.checkpoints, VM1);
        assert_true(json_equal(keys, read));
        json_decref(read);
        checkpoints_set_keys(rig.checkpoints, VM1, NULL);
        read = checkpoints_keys(rig.checkpoints, VM1);
        assert_int_equal(json_object_size(read), 0);
        json_decref(read);
        json_decref(keys);
        rig_free(&rig);
}

static void test_keys_that_are_none_are_refused(void **state)
{
        static const char *const bad[] = {"[]", "{\"x\": \"" KEY1 "\"}", "{\"" HOST1 "\": 1}",
                "{\"" HOST1 "\": \"00\"}", "{\"" HOST1 "\": \"" KEY1 "0\"}"};

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                json_t *keys = json_loads(bad[i], 0, NULL);

                assert_int_not_equal(checkpoints_check_keys(keys, NULL), 0);
                json_decref(keys);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_kept_until_it_is_dropped),
                cmocka_unit_test(test_nothing_is_kept_unless_it_is_wanted),
                cmocka_unit_test(test_memory_larger_than_the_disk_is_not_begun),
                cmocka_unit_test(test_oldest_makes_room),
                cmocka_unit_test(test_folder_that_is_no_file_of_ours_is_left_alone),
                cmocka_unit_test(test_old_one_is_removed),
                cmocka_unit_test(test_unfinished_one_is_never_used_and_goes_with_the_next_start),
                cmocka_unit_test(test_switching_it_off_removes_what_was_kept),
                cmocka_unit_test(test_keys_survive_a_restart),
                cmocka_unit_test(test_keys_that_are_none_are_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
