/* SPDX-License-Identifier: Apache-2.0 */

/* The share of the loop's time, on a clock that the test moves. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "manager/loop_share.h"

#define MS 1000000u

static void after_so_much_work_there_is_a_pause_as_long(void **data)
{
        struct clock_manual clock;
        struct loop_share share;
        int a;

        clock_manual_init(&clock, 0);
        loop_share_init(&share, &clock.clock);
        for (int i = 0; i < 3; i++) {
                assert_true(loop_share_open(&share, &a));
                loop_share_spend(&share, 4 * MS);
        }
        assert_false(loop_share_open(&share, &a));
        clock_manual_advance(&clock, 11);
        assert_false(loop_share_open(&share, &a));
        clock_manual_advance(&clock, 1);
        assert_true(loop_share_open(&share, &a));
}

static void who_was_refused_comes_next(void **data)
{
        struct clock_manual clock;
        struct loop_share share;
        int a, b;

        clock_manual_init(&clock, 0);
        loop_share_init(&share, &clock.clock);
        assert_true(loop_share_open(&share, &a));
        loop_share_spend(&share, 20 * MS);
        assert_false(loop_share_open(&share, &b));
        clock_manual_advance(&clock, 20);
        assert_false(loop_share_open(&share, &a)); /* though it asks first */
        assert_true(loop_share_open(&share, &b));
        assert_true(loop_share_open(&share, &a));
}

static void who_was_just_served_reserves_nothing(void **data)
{
        struct clock_manual clock;
        struct loop_share share;
        int a, b;

        clock_manual_init(&clock, 0);
        loop_share_init(&share, &clock.clock);
        assert_true(loop_share_open(&share, &a));
        loop_share_spend(&share, 20 * MS);
        assert_false(loop_share_open(&share, &a));
        assert_false(loop_share_open(&share, &b));
        clock_manual_advance(&clock, 20);
        assert_false(loop_share_open(&share, &a));
        assert_true(loop_share_open(&share, &b));
        loop_share_spend(&share, 20 * MS);
        assert_false(loop_share_open(&share, &b));
        clock_manual_advance(&clock, 20);
        assert_true(loop_share_open(&share, &a));
}

static void turn_is_lost_by_who_does_not_come_back(void **data)
{
        struct clock_manual clock;
        struct loop_share share;
        int a, b;

        clock_manual_init(&clock, 0);
        loop_share_init(&share, &clock.clock);
        loop_share_spend(&share, 20 * MS);
        assert_false(loop_share_open(&share, &b));
        clock_manual_advance(&clock, LOOP_SHARE_TURN_MS - 1);
        assert_false(loop_share_open(&share, &a));
        clock_manual_advance(&clock, 1);
        assert_true(loop_share_open(&share, &a));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(after_so_much_work_there_is_a_pause_as_long),
                cmocka_unit_test(who_was_refused_comes_next),
                cmocka_unit_test(who_was_just_served_reserves_nothing),
                cmocka_unit_test(turn_is_lost_by_who_does_not_come_back),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
