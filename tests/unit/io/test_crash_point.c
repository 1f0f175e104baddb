/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "base/alloc.h"
#include "io/crash_point.h"
#include "io/file.h"

static char folder[] = "/tmp/drover-crashXXXXXX";

/* How a child that passes the point ends. */
static int pass(const char *name)
{
        pid_t pid = fork();
        int status;

        if (pid == 0) {
                crash_point(name);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return status;
}

static void test_named_point_kills(void **state)
{
        (void)setenv("DROVER_CRASH_AT", "owner-written", 1);
        assert_true(WIFSIGNALED(pass("owner-written")));
        (void)unsetenv("DROVER_CRASH_AT");
}

static void test_other_points_do_nothing(void **state)
{
        (void)setenv("DROVER_CRASH_AT", "owner-written", 1);
        assert_int_equal(pass("owner"), 0);
        assert_int_equal(pass("owner-written-twice"), 0);
        (void)unsetenv("DROVER_CRASH_AT");
        assert_int_equal(pass("owner-written"), 0);
}

static void test_point_with_a_file_kills_once(void **state)
{
        _cleanup_free_ char *value = alloc_printf("done:%s/once", folder);

        (void)setenv("DROVER_CRASH_AT", value, 1);
        assert_true(WIFSIGNALED(pass("done")));
        assert_int_equal(pass("done"), 0);
        (void)unsetenv("DROVER_CRASH_AT");
}

static void set_flag(void *userdata)
{
        *(bool *)userdata = true;
}

static void test_hold_waits_until_the_file_exists(void **state)
{
        _cleanup_free_ char *value = alloc_printf("loaded:%s/go", folder);
        _cleanup_free_ char *held = alloc_printf("%s/go.held", folder);
        _cleanup_free_ char *go = alloc_printf("%s/go", folder);
        _cleanup_(crash_hold_freep) struct crash_hold *hold = NULL;
        struct loop *loop;
        bool resumed = false;

        assert_int_equal(loop_new(&loop), 0);
        (void)setenv("DROVER_HOLD_AT", value, 1);
        assert_false(crash_point_hold(loop, "other", set_flag, &resumed, &hold));
        assert_true(crash_point_hold(loop, "loaded", set_flag, &resumed, &hold));
        assert_int_equal(access(held, F_OK), 0);
        assert_int_equal(loop_wait(loop, &resumed, 50), -ETIMEDOUT);
        assert_int_equal(file_write_atomic(go, "", 0, 0600), 0);
        assert_int_equal(loop_wait(loop, &resumed, 5000), 0);
        /* The file is there: nobody is held any more. */
        crash_hold_free(TAKE_PTR(hold));
        assert_false(crash_point_hold(loop, "loaded", set_flag, &resumed, &hold));
        (void)unsetenv("DROVER_HOLD_AT");
        loop_free(loop);
}

static int setup(void **state)
{
        return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state)
{
        return file_remove_tree(folder);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_named_point_kills),
                cmocka_unit_test(test_other_points_do_nothing),
                cmocka_unit_test(test_point_with_a_file_kills_once),
                cmocka_unit_test(test_hold_waits_until_the_file_exists),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}
