/* SPDX-License-Identifier: Apache-2.0 */

/* The control socket to a real drover-mover (path in DROVER_MOVER). */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "agent/mover_process.h"
#include "base/alloc.h"
#include "io/child.h"
#include "io/file.h"

#define TIMEOUT_MS 20000

struct seen {
        struct mover_process *mover;
        bool failed_event;
        bool ended;
        bool ended_well;
        enum error_code code;
        bool free_in_event;
};

static struct loop *loop;
static char folder[] = "/tmp/drover-moverXXXXXX";

static void on_event(void *userdata, const char *event, const json_t *message)
{
        struct seen *seen = userdata;

        if (strcmp(event, "failed") == 0)
                seen->failed_event = true;
        if (seen->free_in_event) {
                mover_process_free(TAKE_PTR(seen->mover));
                seen->ended = true;
        }
}

static void on_ended(void *userdata, struct error *failure)
{
        struct seen *seen = userdata;

        seen->ended = true;
        seen->ended_well = !failure;
        seen->code = failure ? failure->code : 0;
}

static struct seen start(void)
{
        return (struct seen){0};
}

static void run(struct seen *seen)
{
        const struct mover_process_handler handler = {on_event, on_ended, seen};
        struct error *error = NULL;

        if (mover_process_start(
                    loop, getenv("DROVER_MOVER"), MOVER_SINK, NULL, 0, &handler, &seen->mover, &error) < 0)
                fail_msg("%s", error_message(error));
}

static void test_message_that_is_no_op_ends_the_mover_with_failed(void **state)
{
        struct seen seen = start();

        run(&seen);
        assert_int_equal(
                mover_process_send(seen.mover, json_pack("{s:s}", "op", "nonsense"), NULL, 0, NULL), 0);
        assert_int_equal(loop_wait(loop, &seen.ended, TIMEOUT_MS), 0);
        assert_true(seen.failed_event);
        mover_process_free(seen.mover);
}

static void test_killed_mover_is_reported(void **state)
{
        struct seen seen = start();

        run(&seen);
        mover_process_kill(seen.mover);
        assert_int_equal(loop_wait(loop, &seen.ended, TIMEOUT_MS), 0);
        assert_false(seen.ended_well);
        assert_int_equal(seen.code, ERROR_MOVER_FAILED);
        mover_process_free(seen.mover);
}

static void test_sending_to_a_mover_that_is_gone_fails(void **state)
{
        struct seen seen = start();

        run(&seen);
        mover_process_kill(seen.mover);
        assert_int_equal(loop_wait(loop, &seen.ended, TIMEOUT_MS), 0);
        assert_int_equal(
                mover_process_send(seen.mover, json_pack("{s:s}", "op", "abort"), NULL, 0, NULL), -EPIPE);
        mover_process_free(seen.mover);
}

static void test_freeing_from_inside_an_event_is_safe(void **state)
{
        struct seen seen = start();

        seen.free_in_event = true;
        run(&seen);
        assert_int_equal(
                mover_process_send(seen.mover, json_pack("{s:s}", "op", "nonsense"), NULL, 0, NULL), 0);
        assert_int_equal(loop_wait(loop, &seen.ended, TIMEOUT_MS), 0);
        assert_null(seen.mover);
}

static void test_freed_mover_is_killed(void **state)
{
        struct seen seen = start();
        uint64_t start_time;
        pid_t pid;

        run(&seen);
        pid = mover_process_pid(seen.mover);
        assert_int_equal(child_start_time(pid, &start_time), 0);
        mover_process_free(seen.mover);
        for (int i = 0; i < 200 && child_start_time(pid, &start_time) == 0; i++)
                (void)loop_iterate(loop, 50);
        assert_int_equal(child_start_time(pid, &start_time), -ESRCH);
}

/* A script in the place of the mover. */
static void run_script(struct seen *seen, const char *text)
{
        const struct mover_process_handler handler = {on_event, on_ended, seen};
        char path[64];

        (void)snprintf(path, sizeof(path), "%s/script", folder);
        assert_int_equal(file_write_atomic(path, text, strlen(text), 0700), 0);
        assert_int_equal(
                mover_process_start(loop, path, MOVER_SOURCE, NULL, 0, &handler, &seen->mover, NULL), 0);
}

static void let_end(struct seen *seen)
{
        const struct mover_process_handler handler = {.ended = on_ended, .userdata = seen};

        mover_process_let_end(seen->mover, &handler);
        assert_int_equal(loop_wait(loop, &seen->ended, TIMEOUT_MS), 0);
        mover_process_free(seen->mover);
}

static void test_mover_that_is_to_end_gets_the_time_for_it(void **state)
{
        struct seen seen = start();

        run_script(&seen, "#!/bin/sh\nsleep 0.05\nexit 0\n");
        let_end(&seen);
        assert_true(seen.ended_well);
}

static void test_mover_that_does_not_end_is_killed(void **state)
{
        struct seen seen = start();

        run_script(&seen, "#!/bin/sh\nexec sleep 600\n");
        let_end(&seen);
        assert_false(seen.ended_well);
}

static void test_last_words_of_a_mover_that_is_to_end_do_not_count(void **state)
{
        struct seen seen = start();

        run(&seen);
        assert_int_equal(
                mover_process_send(seen.mover, json_pack("{s:s}", "op", "nonsense"), NULL, 0, NULL), 0);
        let_end(&seen);
        assert_false(seen.failed_event);
}

static void test_program_that_is_not_there_is_named(void **state)
{
        const struct mover_process_handler handler = {on_event, on_ended, NULL};
        struct mover_process *mover;
        struct error *error = NULL;

        assert_true(mover_process_start(
                            loop, "/nonexistent/mover", MOVER_SINK, NULL, 0, &handler, &mover, &error) < 0);
        assert_non_null(strstr(error_message(error), "/nonexistent/mover"));
        error_free(error);
}

static int setup(void **state)
{
        return mkdtemp(folder) ? loop_new(&loop) : -1;
}

static int teardown(void **state)
{
        loop_free(loop);
        return file_remove_tree(folder);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_message_that_is_no_op_ends_the_mover_with_failed),
                cmocka_unit_test(test_killed_mover_is_reported),
                cmocka_unit_test(test_sending_to_a_mover_that_is_gone_fails),
                cmocka_unit_test(test_freeing_from_inside_an_event_is_safe),
                cmocka_unit_test(test_freed_mover_is_killed),
                cmocka_unit_test(test_mover_that_is_to_end_gets_the_time_for_it),
                cmocka_unit_test(test_mover_that_does_not_end_is_killed),
                cmocka_unit_test(test_last_words_of_a_mover_that_is_to_end_do_not_count),
                cmocka_unit_test(test_program_that_is_not_there_is_named),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}
