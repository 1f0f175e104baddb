/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>

#include "io/loop.h"
#include "unit/torture_loop.h"

#define WAIT_MS 10000

struct probe {
        struct loop *loop;
        struct loop_source *source;
        struct loop_source *other;
        int calls;
        bool done;
};

static void count(void *userdata)
{
        struct probe *p = userdata;

        p->calls++;
        p->done = true;
}

static void on_readable(void *userdata, int fd, uint32_t events)
{
        struct probe *p = userdata;
        char byte;

        assert_true(events & EPOLLIN);
        assert_int_equal(read(fd, &byte, 1), 1);
        count(p);
}

static void free_itself(void *userdata)
{
        struct probe *p = userdata;

        loop_source_free(TAKE_PTR(p->source));
        count(p);
}

static void free_both(void *userdata)
{
        struct probe *p = userdata;

        loop_source_free(TAKE_PTR(p->source));
        loop_source_free(TAKE_PTR(p->other));
        count(p);
}

static void rearm_twice(void *userdata)
{
        struct probe *p = userdata;

        p->done = ++p->calls == 3;
        if (!p->done)
                assert_int_equal(loop_source_rearm(p->source, 1), 0);
}

static void exit_with_7(void *userdata)
{
        struct probe *p = userdata;

        loop_exit(p->loop, 7);
}

static void a_readable_pipe_calls_the_handler(void **state _unused_)
{
        _cleanup_(loop_freep) struct loop *loop = NULL;
        struct probe p = {};
        int ends[2];

        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(pipe(ends), 0);
        assert_int_equal(loop_add_io(loop, ends[0], EPOLLIN, on_readable, &p, &p.source), 0);
        assert_int_equal(loop_wait(loop, &p.done, 0), -ETIMEDOUT);
        assert_int_equal(write(ends[1], "xy", 2), 2);
        assert_int_equal(loop_wait(loop, &p.done, WAIT_MS), 0);
        /* Masked, it stays silent although the second byte is there. */
        assert_int_equal(loop_source_set_events(p.source, 0), 0);
        assert_int_equal(loop_iterate(loop, 0), 0);
        assert_int_equal(p.calls, 1);
        loop_source_free(p.source);
        close(ends[0]);
        close(ends[1]);
}

static void a_timer_fires_once_and_can_be_armed_again(void **state _unused_)
{
        _cleanup_(loop_freep) struct loop *loop = NULL;
        struct probe p = {};

        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(loop_add_timer(loop, 1, rearm_twice, &p, &p.source), 0);
        assert_int_equal(loop_wait(loop, &p.done, WAIT_MS), 0);
        assert_int_equal(p.calls, 3);
        loop_source_free(p.source);
}

static void timers_fire_in_order_of_their_time(void **state _unused_)
{
        _cleanup_(loop_freep) struct loop *loop = NULL;
        struct probe late = {}, early = {};

        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(loop_add_timer(loop, 30, count, &late, &late.source), 0);
        assert_int_equal(loop_add_timer(loop, 5, count, &early, &early.source), 0);
        assert_int_equal(loop_wait(loop, &early.done, WAIT_MS), 0);
        assert_false(late.done);
        assert_int_equal(loop_wait(loop, &late.done, WAIT_MS), 0);
        loop_source_free(late.source);
        loop_source_free(early.source);
}

static void a_disarmed_timer_stays_silent(void **state _unused_)
{
        _cleanup_(loop_freep) struct loop *loop = NULL;
        struct probe off = {}, on = {};

        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(loop_add_timer(loop, 1, count, &off, &off.source), 0);
        assert_int_equal(loop_source_disarm(off.source), 0);
        assert_int_equal(loop_add_timer(loop, 10, count, &on, &on.source), 0);
        assert_int_equal(loop_wait(loop, &on.done, WAIT_MS), 0);
        assert_false(off.done);
        loop_source_free(off.source);
        loop_source_free(on.source);
}

static void a_delay_without_end_does_not_overflow(void **state _unused_)
{
        _cleanup_(loop_freep) struct loop *loop = NULL;
        struct probe p = {};

        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(loop_add_timer(loop, UINT64_MAX, count, &p, &p.source), 0);
        assert_int_equal(loop_iterate(loop, 0), 0);
        assert_false(p.done);
        loop_source_free(p.source);
}

static void a_source_may_free_itself_and_others(void **state _unused_)
{
        _cleanup_(loop_freep) struct loop *loop = NULL;
        struct probe alone = {}, pair = {};

        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(loop_add_defer(loop, free_itself, &alone, &alone.source), 0);
        /* Both are pending in the same round; whichever comes first frees the other. */
        assert_int_equal(loop_add_defer(loop, free_both, &pair, &pair.source), 0);
        assert_int_equal(loop_add_defer(loop, free_both, &pair, &pair.other), 0);
        for (int i = 0; i < 10; i++)
                assert_int_equal(loop_iterate(loop, 0), 0);
        assert_int_equal(alone.calls, 1);
        assert_int_equal(pair.calls, 1);
}

static void a_signal_calls_the_handler(void **state _unused_)
{
        _cleanup_(loop_freep) struct loop *loop = NULL;
        struct probe p = {};

        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(loop_add_signal(loop, SIGUSR1, count, &p, &p.source), 0);
        assert_int_equal(kill(getpid(), SIGUSR1), 0);
        assert_int_equal(loop_wait(loop, &p.done, WAIT_MS), 0);
        assert_int_equal(p.calls, 1);
        loop_source_free(p.source);
}

static void run_returns_the_exit_code(void **state _unused_)
{
        _cleanup_(loop_freep) struct loop *loop = NULL;
        struct probe p = {};

        assert_int_equal(loop_new(&loop), 0);
        p.loop = loop;
        assert_int_equal(loop_add_defer(loop, exit_with_7, &p, &p.source), 0);
        assert_int_equal(loop_run(loop), 7);
        loop_source_free(p.source);
}

static void sources_body(void *arg _unused_)
{
        _cleanup_(loop_source_freep) struct loop_source *timer = NULL, *defer = NULL;
        _cleanup_(loop_freep) struct loop *loop = NULL;
        struct probe p = {};

        if (torture_failed(loop_new(&loop) < 0) ||
                torture_failed(loop_add_timer(loop, 0, count, &p, &timer) < 0) ||
                torture_failed(loop_add_defer(loop, count, &p, &defer) < 0))
                return;
        assert_int_equal(loop_wait(loop, &p.done, WAIT_MS), 0);
}

static void making_sources_survives_failing_calls(void **state _unused_)
{
        torture_loop(sources_body, NULL);
}

#define N_CLOSED 3

static bool is_ended(int reader)
{
        char byte;

        return read(reader, &byte, 1) == 0;
}

/* How many of the pipes have no writer any more. */
static size_t n_ended(const int *readers)
{
        size_t n = 0;

        for (size_t i = 0; i < N_CLOSED; i++)
                n += is_ended(readers[i]);
        return n;
}

/* Their writers are to be closed later. */
static void make_pipes(struct loop *loop, int readers[static N_CLOSED])
{
        int ends[2];

        for (size_t i = 0; i < N_CLOSED; i++) {
                assert_int_equal(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
                readers[i] = ends[0];
                loop_close_later(loop, ends[1]);
        }
}

static void what_is_closed_later_is_closed_one_a_round_in_its_order(void **state _unused_)
{
        _cleanup_(loop_freep) struct loop *loop = NULL;
        int readers[N_CLOSED];
        size_t n = 0;

        assert_int_equal(loop_new(&loop), 0);
        loop_close_later(loop, -1);
        make_pipes(loop, readers);
        assert_int_equal(n_ended(readers), 0);
        for (int i = 0; i < 10000 && n < N_CLOSED; i++) {
                size_t before = n;

                assert_int_equal(loop_iterate(loop, 100), 0);
                n = n_ended(readers);
                assert_true(n <= before + 1);
                for (size_t k = 0; k < n; k++)
                        assert_true(is_ended(readers[k]));
        }
        assert_int_equal(n, N_CLOSED);
        for (size_t i = 0; i < N_CLOSED; i++)
                close(readers[i]);
}

/* Whatever fails on the way, nothing is left open that nobody comes for. */
static void close_later_body(void *arg _unused_)
{
        _cleanup_(loop_freep) struct loop *loop = NULL;
        int readers[N_CLOSED];

        if (torture_failed(loop_new(&loop) < 0))
                return;
        make_pipes(loop, readers);
        for (int i = 0; i < 10000 && n_ended(readers) < N_CLOSED; i++)
                (void)loop_iterate(loop, 100);
        assert_int_equal(n_ended(readers), N_CLOSED);
        for (size_t i = 0; i < N_CLOSED; i++)
                close(readers[i]);
}

static void closing_later_survives_failing_calls(void **state _unused_)
{
        torture_loop(close_later_body, NULL);
}

static void a_loop_that_ends_closes_the_rest(void **state _unused_)
{
        struct loop *loop = NULL;
        int readers[N_CLOSED];

        assert_int_equal(loop_new(&loop), 0);
        make_pipes(loop, readers);
        loop_free(loop);
        assert_int_equal(n_ended(readers), N_CLOSED);
        for (size_t i = 0; i < N_CLOSED; i++)
                close(readers[i]);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_readable_pipe_calls_the_handler),
                cmocka_unit_test(a_timer_fires_once_and_can_be_armed_again),
                cmocka_unit_test(timers_fire_in_order_of_their_time),
                cmocka_unit_test(a_disarmed_timer_stays_silent),
                cmocka_unit_test(a_delay_without_end_does_not_overflow),
                cmocka_unit_test(a_source_may_free_itself_and_others),
                cmocka_unit_test(a_signal_calls_the_handler),
                cmocka_unit_test(run_returns_the_exit_code),
                cmocka_unit_test(what_is_closed_later_is_closed_one_a_round_in_its_order),
                cmocka_unit_test(closing_later_survives_failing_calls),
                cmocka_unit_test(a_loop_that_ends_closes_the_rest),
                cmocka_unit_test(making_sources_survives_failing_calls),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
