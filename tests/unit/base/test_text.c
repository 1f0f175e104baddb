/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/text.h"

static void names_are_safe_as_file_names_and_options(void **state _unused_)
{
        char long_name[NAME_MAX_CHARS + 2];

        memset(long_name, 'a', sizeof(long_name) - 1);
        long_name[sizeof(long_name) - 1] = '\0';
        assert_false(text_is_name(long_name));
        assert_true(text_is_name(long_name + 1));
        assert_true(text_is_name("web-1.example_2"));
        for (const char *const *bad =
                        (const char *[]){"", "-a", ".a", "a/b", "a b", "a,b", "a=b", "ü", "a\n", NULL};
                *bad; bad++)
                assert_false(text_is_name(*bad));
        assert_false(text_is_name(NULL));
}

static void texts_are_cut_between_characters(void **state)
{
        assert_int_equal(text_fitting("", 3), 0);
        assert_int_equal(text_fitting("abc", 3), 3);
        assert_int_equal(text_fitting("abcd", 3), 3);
        assert_int_equal(text_fitting("ab\xc3\xa9", 4), 4);
        assert_int_equal(text_fitting("ab\xc3\xa9", 3), 2);
        assert_int_equal(text_fitting("\xe2\x82\xac", 2), 0);
        assert_int_equal(text_fitting("\xe2\x82\xac.", 3), 3);
}

static void uuids_are_new_each_time_and_canonical(void **state _unused_)
{
        char a[UUID_STRING_SIZE], b[UUID_STRING_SIZE];

        assert_int_equal(text_uuid_new(a), 0);
        assert_int_equal(text_uuid_new(b), 0);
        assert_true(text_is_uuid(a));
        assert_int_equal(a[14], '4');
        assert_string_not_equal(a, b);
        a[0] = 'G';
        assert_false(text_is_uuid(a));
        assert_false(text_is_uuid("00000000-0000-0000-0000-00000000000"));
        assert_false(text_is_uuid("ABCDEF00-0000-4000-8000-000000000000"));
}

static void hex_goes_there_and_back(void **state _unused_)
{
        const uint8_t in[] = {0x00, 0x7f, 0x80, 0xff};
        uint8_t out[4];
        char hex[9];

        text_hex_encode(in, sizeof(in), hex);
        assert_string_equal(hex, "007f80ff");
        assert_int_equal(text_hex_decode("007F80ff", out, 4), 0);
        assert_memory_equal(in, out, 4);
        assert_int_equal(text_hex_decode("007f80f", out, 4), -EINVAL);
        assert_int_equal(text_hex_decode("007f80fg", out, 4), -EINVAL);
}

static void a_relative_path_cannot_leave_its_folder(void **state _unused_)
{
        assert_true(text_is_relative_path("a"));
        assert_true(text_is_relative_path("a/b..c/.d"));
        for (const char *const *bad = (const char *[]){"", "/a", "a/", "a//b", ".", "..", "a/..", "../a",
                     "a/./b", "a\tb", NULL};
                *bad; bad++)
                assert_false(text_is_relative_path(*bad));
}

static void sizes_know_both_kinds_of_units(void **state _unused_)
{
        uint64_t v = 1;

        assert_int_equal(text_parse_size("65536", &v), 0);
        assert_int_equal(v, 65536);
        assert_int_equal(text_parse_size("4GiB", &v), 0);
        assert_true(v == UINT64_C(4) << 30);
        assert_int_equal(text_parse_size("4g", &v), 0);
        assert_true(v == UINT64_C(4) << 30);
        assert_int_equal(text_parse_size("2 GB", &v), 0);
        assert_true(v == UINT64_C(2000000000));
        assert_int_equal(text_parse_size("1.5K", &v), 0);
        assert_int_equal(v, 1536);
        v = 7;
        assert_int_equal(text_parse_size("", &v), -EINVAL);
        assert_int_equal(text_parse_size("-1", &v), -EINVAL);
        assert_int_equal(text_parse_size("0x10", &v), -EINVAL);
        assert_int_equal(text_parse_size("nan", &v), -EINVAL);
        assert_int_equal(text_parse_size("4GiBs", &v), -EINVAL);
        assert_int_equal(text_parse_size("99999999999T", &v), -ERANGE);
        assert_int_equal(v, 7);
}

static void durations_and_rates_have_units(void **state _unused_)
{
        uint64_t v;

        assert_int_equal(text_parse_duration_ms("250", &v), 0);
        assert_int_equal(v, 250);
        assert_int_equal(text_parse_duration_ms("1.5s", &v), 0);
        assert_int_equal(v, 1500);
        assert_int_equal(text_parse_duration_ms("2h", &v), 0);
        assert_int_equal(v, 7200000);
        assert_int_equal(text_parse_duration_ms("2 weeks", &v), -EINVAL);
        assert_int_equal(text_parse_rate("10G", &v), 0);
        assert_true(v == UINT64_C(10000000000));
        assert_int_equal(text_parse_rate("100Mbit/s", &v), 0);
        assert_int_equal(v, 100000000);
}

static void numbers_are_decimal_whole_and_in_range(void **state _unused_)
{
        uint64_t v = 7;

        assert_int_equal(text_parse_u64("18446744073709551615", 0, UINT64_MAX, &v), 0);
        assert_true(v == UINT64_MAX);
        v = 7;
        assert_int_equal(text_parse_u64("18446744073709551616", 0, UINT64_MAX, &v), -ERANGE);
        assert_int_equal(text_parse_u64("5", 6, 10, &v), -ERANGE);
        assert_int_equal(text_parse_u64("11", 6, 10, &v), -ERANGE);
        for (const char *const *bad = (const char *[]){"", " 1", "+1", "-1", "1 ", "1x", "0x1", NULL}; *bad;
                bad++)
                assert_int_equal(text_parse_u64(*bad, 0, 100, &v), -EINVAL);
        assert_int_equal(text_parse_u64(NULL, 0, 100, &v), -EINVAL);
        assert_int_equal(v, 7);
}

static void texts_for_people_round_sensibly(void **state _unused_)
{
        char size[16], duration[24], rate[20], when[32];

        assert_string_equal(text_format_size(512, size), "512 B");
        assert_string_equal(text_format_size(UINT64_C(3) << 29, size), "1.5 GiB");
        assert_string_equal(text_format_size(UINT64_MAX, size), "16 EiB");
        assert_string_equal(text_format_duration_ms(950, duration), "950 ms");
        assert_string_equal(text_format_duration_ms(2100, duration), "2.1 s");
        assert_string_equal(text_format_duration_ms(200000, duration), "3 min 20 s");
        assert_non_null(text_format_duration_ms(UINT64_MAX, duration));
        assert_string_equal(text_format_rate(941000000, rate), "941 Mbit/s");
        assert_string_equal(text_format_time(1795255200123, when), "2026-11-21T10:00:00.123Z");
}

static void a_time_before_1970_is_still_a_time(void **state _unused_)
{
        char when[32];

        assert_string_equal(text_format_time(-1, when), "1969-12-31T23:59:59.999Z");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(names_are_safe_as_file_names_and_options),
                cmocka_unit_test(texts_are_cut_between_characters),
                cmocka_unit_test(uuids_are_new_each_time_and_canonical),
                cmocka_unit_test(hex_goes_there_and_back),
                cmocka_unit_test(a_relative_path_cannot_leave_its_folder),
                cmocka_unit_test(sizes_know_both_kinds_of_units),
                cmocka_unit_test(durations_and_rates_have_units),
                cmocka_unit_test(numbers_are_decimal_whole_and_in_range),
                cmocka_unit_test(texts_for_people_round_sensibly),
                cmocka_unit_test(a_time_before_1970_is_still_a_time),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
