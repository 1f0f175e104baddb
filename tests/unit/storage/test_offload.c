/* SPDX-License-Identifier: Apache-2.0 */
#include "scratch.h"

#include <signal.h>

#include "storage/offload.h"

struct outcome {
        bool done;
        bool has_error;
        enum error_code code;
        json_int_t number;
};

static void on_done(void *userdata, json_t *result, struct error *error)
{
        struct outcome *outcome = userdata;

        assert_false(outcome->done);
        outcome->done = true;
        outcome->has_error = error != NULL;
        if (error)
                outcome->code = error->code;
        outcome->number = json_integer_value(json_object_get(result, "n"));
}

static int answer(void *arg, json_t **ret_result, struct error **ret_error)
{
        *ret_result = json_pack("{s:i}", "n", *(int *)arg * 2);
        return 0;
}

static int run_out_of_space(void *arg, json_t **ret_result, struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_SPACE, NULL, "full");
}

static int die(void *arg, json_t **ret_result, struct error **ret_error)
{
        raise(SIGKILL);
        return 0;
}

/* What a hung mount does: never comes back. */
static int hang(void *arg, json_t **ret_result, struct error **ret_error)
{
        while (pause())
                continue;
        return 0;
}

static int say_too_much(void *arg, json_t **ret_result, struct error **ret_error)
{
        static char text[2 * OFFLOAD_RESULT_MAX_BYTES];

        memset(text, 'x', sizeof(text) - 1);
        *ret_result = json_pack("[s]", text);
        return 0;
}

static int count_descriptors(void *arg, json_t **ret_result, struct error **ret_error)
{
        int n = 0;

        for (int fd = 0; fd < 256; fd++)
                n += fcntl(fd, F_GETFD) >= 0;
        *ret_result = json_pack("{s:i}", "n", n);
        return 0;
}

static struct outcome run(struct scratch *s, offload_fn fn, uint64_t timeout_ms)
{
        struct outcome outcome = {};
        struct offload *offload;
        int n = 21;

        assert_int_equal(
                offload_start(s->loop, "work", fn, &n, timeout_ms, on_done, &outcome, &offload, NULL), 0);
        assert_int_equal(loop_wait(s->loop, &outcome.done, 10000), 0);
        return outcome;
}

static void test_the_result_comes_back(void **state)
{
        struct outcome outcome = run(*state, answer, 5000);

        assert_false(outcome.has_error);
        assert_int_equal(outcome.number, 42);
}

static void test_an_error_comes_back_with_its_code(void **state)
{
        assert_int_equal(run(*state, run_out_of_space, 5000).code, ERROR_NO_SPACE);
}

static void test_the_death_of_the_child_is_an_error(void **state)
{
        assert_int_equal(run(*state, die, 5000).code, ERROR_INTERNAL);
}

static void test_work_that_hangs_ends_with_the_time_limit(void **state)
{
        assert_int_equal(run(*state, hang, 50).code, ERROR_TIMED_OUT);
}

static void test_an_answer_that_is_too_large_is_refused(void **state)
{
        assert_int_equal(run(*state, say_too_much, 5000).code, ERROR_TOO_LARGE);
}

static void test_the_child_holds_none_of_our_descriptors(void **state)
{
        assert_int_equal(run(*state, count_descriptors, 5000).number, 4); /* 0, 1, 2 and the pipe */
}

static void test_given_up_work_calls_nobody(void **state)
{
        struct scratch *s = *state;
        struct outcome outcome = {};
        struct offload *offload;
        int n = 1;

        assert_int_equal(
                offload_start(s->loop, "work", answer, &n, 5000, on_done, &outcome, &offload, NULL), 0);
        offload_free(offload);
        assert_int_equal(loop_wait(s->loop, &outcome.done, 100), -ETIMEDOUT);
}

static void test_work_does_not_pile_up_on_hung_storage(void **state)
{
        _cleanup_error_ struct error *error = NULL;
        struct offload *offloads[OFFLOAD_MAX_STUCK], *one_more = NULL;
        struct scratch *s = *state;
        struct outcome outcome = {};

        for (size_t i = 0; i < ARRAY_SIZE(offloads); i++)
                assert_int_equal(offload_start(s->loop, "work", hang, NULL, 60000, on_done, &outcome,
                                         &offloads[i], NULL),
                        0);
        assert_true(
                offload_start(s->loop, "work", hang, NULL, 60000, on_done, &outcome, &one_more, &error) < 0);
        assert_error(error, ERROR_BUSY, "wait for storage");
        for (size_t i = 0; i < ARRAY_SIZE(offloads); i++)
                offload_free(offloads[i]);
        /* Their end is seen when new work starts. */
        while (offload_start(s->loop, "work", hang, NULL, 60000, on_done, &outcome, &one_more, NULL) < 0)
                sched_yield();
        offload_free(one_more);
        while (wait(NULL) > 0)
                continue;
}

static void test_streams_take_no_place_of_other_work(void **state)
{
        _cleanup_error_ struct error *error = NULL;
        struct offload *streams[OFFLOAD_MAX_STREAMS], *one_more = NULL;
        struct scratch *s = *state;
        struct outcome outcome = {};

        for (size_t i = 0; i < ARRAY_SIZE(streams); i++)
                assert_int_equal(offload_start_stream(s->loop, "stream", hang, NULL, STDERR_FILENO, 60000,
                                         on_done, &outcome, &streams[i], NULL),
                        0);
        assert_true(offload_start_stream(s->loop, "stream", hang, NULL, STDERR_FILENO, 60000, on_done,
                            &outcome, &one_more, &error) < 0);
        assert_error(error, ERROR_BUSY, "at work already");
        for (size_t i = 0; i < OFFLOAD_MAX_STUCK; i++)
                assert_int_equal(run(s, answer, 5000).number, 42);
        for (size_t i = 0; i < ARRAY_SIZE(streams); i++)
                offload_free(streams[i]);
        while (wait(NULL) > 0)
                continue;
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                SCRATCH_TEST(test_the_result_comes_back),
                SCRATCH_TEST(test_an_error_comes_back_with_its_code),
                SCRATCH_TEST(test_the_death_of_the_child_is_an_error),
                SCRATCH_TEST(test_work_that_hangs_ends_with_the_time_limit),
                SCRATCH_TEST(test_an_answer_that_is_too_large_is_refused),
                SCRATCH_TEST(test_the_child_holds_none_of_our_descriptors),
                SCRATCH_TEST(test_given_up_work_calls_nobody),
                SCRATCH_TEST(test_work_does_not_pile_up_on_hung_storage),
                SCRATCH_TEST(test_streams_take_no_place_of_other_work),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
