/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "agent/data_paths.h"

#define MB 1000000.0
#define SECOND_US 1000000

static struct data_paths paths_of(unsigned int n, const double *bytes_per_s)
{
        struct data_paths paths = {.n_paths = n};

        for (unsigned int i = 0; i < n; i++) {
                paths.paths[i].up = true;
                paths.paths[i].bytes_per_s = bytes_per_s ? bytes_per_s[i] : 0;
        }
        return paths;
}

static void assert_channels(const struct data_paths *paths, const unsigned int *expected)
{
        for (unsigned int i = 0; i < paths->n_paths; i++)
                assert_int_equal(data_paths_channels_on(paths, i), expected[i]);
}

static void test_channels_are_spread_by_capacity(void **state)
{
        struct data_paths equal = paths_of(3, NULL);
        struct data_paths different = paths_of(2, (const double[]){300 * MB, 100 * MB});

        data_paths_add_channels(&equal, 6);
        assert_channels(&equal, (const unsigned int[]){2, 2, 2});
        data_paths_add_channels(&different, 8);
        assert_channels(&different, (const unsigned int[]){6, 2});
}

/* Whatever the numbers: no single move makes the smallest share larger. */
static void test_no_other_spread_is_better(void **state)
{
        uint32_t random = 7;

        for (unsigned int round = 0; round < 500; round++) {
                double capacity[DATA_PATHS_MAX], smallest = 0;
                struct data_paths paths;
                unsigned int n = 2 + round % 7;

                for (unsigned int i = 0; i < n; i++) {
                        random = random * 1664525 + 1013904223;
                        capacity[i] = 1 + (random >> 16) % 1000;
                }
                paths = paths_of(n, capacity);
                data_paths_add_channels(&paths, 1 + round % DATA_CHANNELS_MAX);
                for (unsigned int i = 0; i < n; i++) {
                        unsigned int channels = data_paths_channels_on(&paths, i);
                        double share = channels ? capacity[i] / channels : 0;

                        if (channels && (smallest == 0 || share < smallest))
                                smallest = share;
                }
                for (unsigned int i = 0; i < n; i++)
                        assert_true(capacity[i] / (data_paths_channels_on(&paths, i) + 1) <= smallest);
        }
}

static void test_lost_channel_goes_where_there_is_most_room(void **state)
{
        struct data_paths paths = paths_of(3, NULL);

        data_paths_add_channels(&paths, 6);
        paths.paths[1].up = false;
        for (unsigned int i = 0; i < 6; i++)
                if (paths.path_of[i] == 1)
                        paths.path_of[i] = (uint8_t)data_paths_pick(&paths, i);
        assert_channels(&paths, (const unsigned int[]){3, 0, 3});
}

static void test_paths_that_are_all_down_take_turns(void **state)
{
        struct data_paths paths = paths_of(3, NULL);
        unsigned int n_tries[3] = {0};

        data_paths_add_channels(&paths, 1);
        for (unsigned int i = 0; i < 3; i++)
                paths.paths[i].up = false;
        for (unsigned int i = 0; i < 9; i++)
                n_tries[data_paths_pick(&paths, 0)]++;
        for (unsigned int i = 0; i < 3; i++)
                assert_int_equal(n_tries[i], 3);
}

static void test_capacity_is_what_busy_channels_carry(void **state)
{
        struct data_paths paths = paths_of(2, NULL);
        uint64_t bytes[DATA_CHANNELS_MAX] = {60000000, 10000000, 60000000, 10000000};
        uint64_t write_us[DATA_CHANNELS_MAX] = {SECOND_US, 200000, SECOND_US, 200000};

        data_paths_add_channels(&paths, 4); /* 0 and 2 on the first, 1 and 3 on the second */
        data_paths_measure(&paths, bytes, write_us, SECOND_US);
        assert_float_equal(paths.paths[0].bytes_per_s, 120 * MB, MB);
        assert_float_equal(paths.paths[0].busy, 1, 0.01);
        assert_float_equal(paths.paths[1].bytes_per_s, 50 * MB, MB);
        assert_float_equal(paths.paths[1].busy, 0.4, 0.01);
        assert_int_equal(paths.paths[1].bytes, 20000000);
        /* Nothing new: what is known stays. */
        data_paths_measure(&paths, bytes, write_us, SECOND_US);
        assert_float_equal(paths.paths[0].bytes_per_s, 120 * MB, MB);
}

static void test_channel_is_moved_when_that_brings_enough(void **state)
{
        struct data_paths paths = paths_of(2, (const double[]){100 * MB, 300 * MB});
        unsigned int channel, path;

        for (unsigned int i = 0; i < 4; i++)
                paths.path_of[i] = i % 2;
        paths.n_channels = 4;
        assert_false(
                data_paths_find_move(&paths, &channel, &path)); /* the slow one is not what is waited for */
        paths.paths[0].busy = 0.9;
        assert_true(data_paths_find_move(&paths, &channel, &path));
        assert_int_equal(paths.path_of[channel], 0);
        assert_int_equal(path, 1);
        paths.path_of[channel] = 1;
        assert_false(data_paths_find_move(&paths, &channel, &path)); /* 1 and 3 is as good as it gets */
        paths.paths[0].bytes_per_s = 290 * MB;
        paths.paths[1].busy = 0.9;
        assert_true(data_paths_find_move(&paths, &channel, &path));
        assert_int_equal(path, 0);
}

static void test_nothing_moves_to_a_path_that_is_down(void **state)
{
        struct data_paths paths = paths_of(2, (const double[]){100 * MB, 300 * MB});
        unsigned int channel, path;

        data_paths_add_channels(&paths, 4);
        paths.path_of[0] = paths.path_of[1] = paths.path_of[2] = paths.path_of[3] = 0;
        paths.paths[0].busy = 1;
        paths.paths[1].up = false;
        assert_false(data_paths_find_move(&paths, &channel, &path));
        assert_int_equal(paths.path_of[data_paths_find_returning(&paths, 1)], 0);
}

static void test_long_fast_links_get_more_channels(void **state)
{
        struct data_paths one = paths_of(1, NULL), two = paths_of(2, NULL);
        const uint64_t gigabit[] = {125000000, 125000000}, hundred_megabit[] = {12500000},
                       ten_gigabit[] = {1250000000};

        one.paths[0].rtt_us = 200;
        two.paths[0].rtt_us = two.paths[1].rtt_us = 200;
        assert_int_equal(data_paths_count_channels(&one, gigabit, 3 << 20, 64), 3);
        assert_int_equal(data_paths_count_channels(&two, gigabit, 3 << 20, 64), 4);
        assert_int_equal(data_paths_count_channels(&two, gigabit, 3 << 20, 2), 2);
        one.paths[0].rtt_us = 150000;
        assert_int_equal(data_paths_count_channels(&one, hundred_megabit, 3 << 20, 64), 3);
        assert_int_equal(data_paths_count_channels(&one, gigabit, 3 << 20, 64), 3);
        assert_int_equal(data_paths_count_channels(&one, gigabit, 1 << 20, 64), 9);
        /* What is behind it? */
        assert_int_equal(data_paths_count_channels(&one, ten_gigabit, 1 << 20, 64), 9);
        assert_int_equal(data_paths_count_channels(&one, ten_gigabit, 0, 64), 3); /* no telling */
        assert_int_equal(data_paths_count_channels(&one, (const uint64_t[]){0}, 3 << 20, 64), 3);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_channels_are_spread_by_capacity),
                cmocka_unit_test(test_no_other_spread_is_better),
                cmocka_unit_test(test_lost_channel_goes_where_there_is_most_room),
                cmocka_unit_test(test_paths_that_are_all_down_take_turns),
                cmocka_unit_test(test_capacity_is_what_busy_channels_carry),
                cmocka_unit_test(test_channel_is_moved_when_that_brings_enough),
                cmocka_unit_test(test_nothing_moves_to_a_path_that_is_down),
                cmocka_unit_test(test_long_fast_links_get_more_channels),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
