/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include "base/clock.h"

static void the_manual_clock_stands_still_until_moved(void **state _unused_)
{
        struct clock_manual m;

        clock_manual_init(&m, 1000000);
        assert_int_equal(clock_unix_ms(&m.clock), 1000000);
        uint64_t before = clock_now_ms(&m.clock);
        clock_manual_advance(&m, 1500);
        assert_int_equal(clock_now_ms(&m.clock) - before, 1500);
        assert_int_equal(clock_unix_ms(&m.clock), 1001500);
}

static void the_system_clock_never_goes_back(void **state _unused_)
{
        uint64_t last = clock_monotonic_ns();

        for (int i = 0; i < 1000; i++) {
                uint64_t now = clock_monotonic_ns();

                assert_true(now >= last);
                last = now;
        }
        assert_true(clock_now_ms(&clock_system) >= last / 1000000);
}

static void the_two_units_of_real_time_agree(void **state _unused_)
{
        int64_t before = (int64_t)(clock_realtime_ns() / 1000000);
        int64_t ms = clock_unix_ms(&clock_system);

        assert_in_range(ms - before, 0, 10000);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_manual_clock_stands_still_until_moved),
                cmocka_unit_test(the_system_clock_never_goes_back),
                cmocka_unit_test(the_two_units_of_real_time_agree),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
