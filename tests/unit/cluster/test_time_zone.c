/* SPDX-License-Identifier: Apache-2.0 */

/* Zones, held against libc's own reading of the same files (here, where nobody else lives in the process, TZ may be switched). */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/civil.h"
#include "zone_files.h"

#include "../torture_loop.h"

#define DAY_S 86400

/* One each of: rules of the north and of the south, half an hour of summer time, none, negative summer time, a day that was left
 * out, quarters of an hour, a footer only. */
static const char *const zones[] = {"Europe/Berlin", "America/New_York", "Australia/Lord_Howe",
        "Asia/Kolkata", "Europe/Dublin", "Pacific/Apia", "Pacific/Chatham", "America/Sao_Paulo",
        "Africa/Casablanca", "America/Godthab", "Asia/Gaza", "UTC"};

static int32_t libc_offset(int64_t unix_s)
{
        time_t t = unix_s;
        struct tm tm;

        localtime_r(&t, &tm);
        return (int32_t)tm.tm_gmtoff;
}

static void offsets_are_those_of_libc(void **data)
{
        for (size_t i = 0; i < ARRAY_SIZE(zones); i++) {
                _cleanup_(time_zone_freep) struct time_zone *zone = zone_of(zones[i]);
                int64_t from_s = civil_days(1900, 1, 1) * DAY_S, to_s = civil_days(2110, 1, 1) * DAY_S;

                setenv("TZ", zones[i], 1);
                tzset();
                for (int64_t at_s = from_s; at_s < to_s; at_s += 9 * 3600 + 17)
                        if (time_zone_span(zone, at_s).offset_s != libc_offset(at_s))
                                fail_msg("%s at %lld: %d, libc says %d", zones[i], (long long)at_s,
                                        time_zone_span(zone, at_s).offset_s, libc_offset(at_s));
        }
}

/* Each ends where the next one begins, and is one as seen from any second in it. */
static void spans_follow_each_other(void **data)
{
        for (size_t i = 0; i < ARRAY_SIZE(zones); i++) {
                _cleanup_(time_zone_freep) struct time_zone *zone = zone_of(zones[i]);
                int64_t at_s = civil_days(1880, 1, 1) * DAY_S, to_s = civil_days(2190, 1, 1) * DAY_S;

                while (at_s < to_s) {
                        struct time_zone_span span = time_zone_span(zone, at_s), last;

                        assert_true(span.begin_s <= at_s && at_s < span.end_s);
                        if (span.end_s == INT64_MAX)
                                break;
                        last = time_zone_span(zone, span.end_s - 1);
                        assert_true(last.begin_s == span.begin_s && last.end_s == span.end_s);
                        assert_true(time_zone_span(zone, span.end_s).begin_s == span.end_s);
                        at_s = span.end_s;
                }
        }
}

static void changes_of_2026_are_the_known_ones(void **data)
{
        static const struct {
                const char *zone;
                int year;
                unsigned int month, day, hour_utc, minute_utc;
                int before_min, after_min;
        } known[] = {
                {"Europe/Berlin", 2026, 3, 29, 1, 0, 60, 120}, {"Europe/Berlin", 2026, 10, 25, 1, 0, 120, 60},
                {"America/New_York", 2026, 3, 8, 7, 0, -300, -240},
                {"America/New_York", 2026, 11, 1, 6, 0, -240, -300},
                {"Australia/Lord_Howe", 2026, 4, 4, 15, 0, 660, 630},
                {"Australia/Lord_Howe", 2026, 10, 3, 15, 30, 630, 660},
                {"Europe/Berlin", 2090, 3, 26, 1, 0, 60, 120}, /* by the footer's rule alone */
        };

        for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
                _cleanup_(time_zone_freep) struct time_zone *zone = zone_of(known[i].zone);
                int64_t at_s = civil_days(known[i].year, known[i].month, known[i].day) * DAY_S +
                               known[i].hour_utc * 3600 + known[i].minute_utc * 60;

                assert_int_equal(time_zone_span(zone, at_s - 1).offset_s, known[i].before_min * 60);
                assert_int_equal(time_zone_span(zone, at_s).offset_s, known[i].after_min * 60);
                assert_true(time_zone_span(zone, at_s).begin_s == at_s);
        }
}

static void local_time_is_written_with_its_offset(void **data)
{
        _cleanup_(time_zone_freep) struct time_zone *berlin = zone_of("Europe/Berlin"),
                                                    *utc = time_zone_utc(),
                                                    *new_york = zone_of("America/New_York");
        int64_t at_s = civil_days(2026, 3, 29) * DAY_S + 3600;
        char text[32];

        assert_string_equal(time_zone_format(berlin, at_s, text), "2026-03-29T03:00:00+02:00");
        assert_string_equal(time_zone_format(berlin, at_s - 1, text), "2026-03-29T01:59:59+01:00");
        assert_string_equal(time_zone_format(new_york, at_s, text), "2026-03-28T21:00:00-04:00");
        assert_string_equal(time_zone_format(utc, -1, text), "1969-12-31T23:59:59+00:00");
}

/* Each prefix, and each byte changed: never more than an error. */
static void damaged_files_are_refused(void **data)
{
        _cleanup_file_ FILE *file = fopen("/usr/share/zoneinfo/Australia/Lord_Howe", "rb");
        static uint8_t content[TIME_ZONE_FILE_MAX], copy[TIME_ZONE_FILE_MAX];
        size_t size, n_refused = 0;

        assert_non_null(file);
        size = fread(content, 1, sizeof(content), file);
        for (size_t len = 0; len < size; len++) {
                _cleanup_free_ uint8_t *exact = malloc(len + 1);
                struct time_zone *zone = NULL;

                memcpy(exact, content, len);
                assert_true(time_zone_parse(exact, len, &zone) < 0);
        }
        for (size_t at = 0; at < size * 8; at++) {
                _cleanup_(time_zone_freep) struct time_zone *zone = NULL;

                memcpy(copy, content, size);
                copy[at / 8] ^= (uint8_t)(1 << at % 8);
                if (time_zone_parse(copy, size, &zone) < 0)
                        n_refused++;
                else
                        (void)time_zone_span(zone, INT64_C(1) << 33);
        }
        assert_true(n_refused > 100);
}

/* A file with one transition, at that time. */
static int parse_with_transition(int64_t at_s)
{
        uint8_t file[44 + 6 + 44 + 8 + 1 + 12 + 2] = "TZif2", *second = file + 50;
        _cleanup_(time_zone_freep) struct time_zone *zone = NULL;

        file[39] = 1;
        memcpy(second, file, 44);
        second[35] = 1;
        second[39] = 2;
        for (int i = 0; i < 8; i++)
                second[44 + i] = (uint8_t)((uint64_t)at_s >> (56 - 8 * i));
        second[52] = 1;
        memcpy(file + sizeof(file) - 2, "\n\n", 2);
        return time_zone_parse(file, sizeof(file), &zone);
}

static void times_beyond_all_that_ever_was_are_refused(void **data)
{
        assert_int_equal(parse_with_transition(0), 0);
        assert_int_equal(parse_with_transition(-(INT64_C(1) << 59)), 0);
        assert_int_equal(parse_with_transition(-(INT64_C(1) << 59) - 1), -EINVAL);
        assert_int_equal(parse_with_transition(INT64_MIN + 1), -EINVAL);
        assert_int_equal(parse_with_transition(INT64_MAX), -EINVAL);
}

static void leap_second_files_are_refused(void **data)
{
        uint8_t header[44 + 6 + 1 + 44 + 6 + 12 + 1 + 2] = "TZif2";
        struct time_zone *zone = NULL;

        header[39] = header[43] = 1;
        memcpy(header + 51, header, 44);
        header[51 + 31] = 1;
        memcpy(header + sizeof(header) - 2, "\n\n", 2);
        assert_int_equal(time_zone_parse(header, sizeof(header), &zone), -EOPNOTSUPP);
        header[4] = '\0';
        assert_int_equal(time_zone_parse(header, sizeof(header), &zone), -EOPNOTSUPP);
}

static void days_and_dates_are_inverse(void **data)
{
        int64_t year;
        unsigned int month, day;

        for (int64_t n = -800000; n < 800000; n += 13) {
                civil_date(n, &year, &month, &day);
                assert_true(civil_days(year, month, day) == n);
                assert_true(day >= 1 && day <= civil_month_days(year, month));
        }
        assert_int_equal(civil_weekday(civil_days(2026, 11, 27)), 5);
        assert_int_equal(civil_month_days(2000, 2), 29);
        assert_int_equal(civil_month_days(2100, 2), 28);
        assert_true(civil_day_of(-1) == -1);
}

static void parse_and_free(void *arg)
{
        _cleanup_file_ FILE *file = fopen("/usr/share/zoneinfo/Europe/Berlin", "rb");
        _cleanup_(time_zone_freep) struct time_zone *zone = NULL;
        static uint8_t content[TIME_ZONE_FILE_MAX];
        size_t size = fread(content, 1, sizeof(content), file);

        if (torture_failed(time_zone_parse(content, size, &zone) < 0))
                assert_null(zone);
}

static void without_memory_there_is_no_zone(void **data)
{
        torture_loop(parse_and_free, NULL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(offsets_are_those_of_libc),
                cmocka_unit_test(spans_follow_each_other),
                cmocka_unit_test(changes_of_2026_are_the_known_ones),
                cmocka_unit_test(local_time_is_written_with_its_offset),
                cmocka_unit_test(damaged_files_are_refused),
                cmocka_unit_test(times_beyond_all_that_ever_was_are_refused),
                cmocka_unit_test(leap_second_files_are_refused),
                cmocka_unit_test(days_and_dates_are_inverse),
                cmocka_unit_test(without_memory_there_is_no_zone),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
