/* SPDX-License-Identifier: Apache-2.0 */

/* Calendar expressions: what they mean, where the clocks change, and what is no expression. Times are written as in UTC unless an
 * offset is there. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/civil.h"
#include "cluster/calendar.h"
#include "zone_files.h"

#define DAY_S 86400
#define MINUTE_S 60

static int64_t utc(int year, unsigned int month, unsigned int day, unsigned int hour, unsigned int minute)
{
        return civil_days(year, month, day) * DAY_S + hour * 3600 + minute * MINUTE_S;
}

static struct calendar parsed(const char *text)
{
        struct calendar calendar;
        struct error *error = NULL;

        if (calendar_parse(text, &calendar, &error) < 0)
                fail_msg("%s: %s", text, error_message(error));
        return calendar;
}

/* What comes after from_s, one in each of `expected`, which ends with NULL. */
static void assert_times(const char *text, const char *zone_name, int64_t from_s, const char *const *expected)
{
        _cleanup_(time_zone_freep) struct time_zone *zone = zone_of(zone_name);
        struct calendar calendar = parsed(text);
        int64_t at_s = from_s;
        char shown[32];

        for (; *expected; expected++) {
                assert_int_equal(calendar_next(&calendar, zone, at_s, &at_s), 0);
                assert_string_equal(time_zone_format(zone, at_s, shown), *expected);
        }
}
#define ASSERT_TIMES(text, zone, from_s, ...) \
        assert_times(text, zone, from_s, (const char *const[]){__VA_ARGS__, NULL})

static void expressions_mean_what_systemd_says(void **data)
{
        int64_t from_s = utc(2026, 11, 27, 10, 0); /* a Friday */

        ASSERT_TIMES("22:00", "UTC", from_s, "2026-11-27T22:00:00+00:00", "2026-11-28T22:00:00+00:00");
        ASSERT_TIMES("Mon..Wed,Sun 05:30", "UTC", from_s, "2026-11-29T05:30:00+00:00",
                "2026-11-30T05:30:00+00:00", "2026-12-01T05:30:00+00:00", "2026-12-02T05:30:00+00:00",
                "2026-12-06T05:30:00+00:00");
        ASSERT_TIMES("Sat..Mon", "UTC", from_s, "2026-11-28T00:00:00+00:00", "2026-11-29T00:00:00+00:00",
                "2026-11-30T00:00:00+00:00", "2026-12-05T00:00:00+00:00");
        ASSERT_TIMES("*-*-01 03:30", "UTC", from_s, "2026-12-01T03:30:00+00:00", "2027-01-01T03:30:00+00:00");
        ASSERT_TIMES("*:0/20", "UTC", from_s, "2026-11-27T10:20:00+00:00", "2026-11-27T10:40:00+00:00",
                "2026-11-27T11:00:00+00:00");
        ASSERT_TIMES("*:*:0/30", "UTC", from_s, "2026-11-27T10:00:30+00:00", "2026-11-27T10:01:00+00:00");
        ASSERT_TIMES("*-02~01", "UTC", from_s, "2027-02-28T00:00:00+00:00", "2028-02-29T00:00:00+00:00");
        ASSERT_TIMES(
                "Mon *-05~07/1", "UTC", from_s, "2027-05-31T00:00:00+00:00", "2028-05-29T00:00:00+00:00");
        ASSERT_TIMES(
                "*-02-29 12:00", "UTC", from_s, "2028-02-29T12:00:00+00:00", "2032-02-29T12:00:00+00:00");
        ASSERT_TIMES("2030..2040/5-06-15 08,20:15", "UTC", from_s, "2030-06-15T08:15:00+00:00",
                "2030-06-15T20:15:00+00:00", "2035-06-15T08:15:00+00:00");
        ASSERT_TIMES("12-24", "UTC", from_s, "2026-12-24T00:00:00+00:00");
        ASSERT_TIMES("quarterly", "UTC", from_s, "2027-01-01T00:00:00+00:00", "2027-04-01T00:00:00+00:00");
        ASSERT_TIMES("WEEKLY", "UTC", from_s, "2026-11-30T00:00:00+00:00");
        ASSERT_TIMES("Friday 10:00:01", "UTC", from_s, "2026-11-27T10:00:01+00:00");
        ASSERT_TIMES("*-*-* 22:00:00", "Asia/Kolkata", from_s, "2026-11-27T22:00:00+05:30");
}

static void zone_may_stand_at_the_end(void **data)
{
        assert_string_equal(parsed("Mon 22:00 Europe/Berlin").zone, "Europe/Berlin");
        assert_string_equal(
                parsed("daily America/Argentina/Buenos_Aires").zone, "America/Argentina/Buenos_Aires");
        assert_string_equal(parsed("12:00 UTC").zone, "UTC");
        assert_string_equal(parsed("hourly").zone, "");
}

static void a_time_that_is_left_out_comes_at_the_end_of_the_gap(void **data)
{
        ASSERT_TIMES("02:30", "Europe/Berlin", utc(2026, 3, 28, 12, 0), "2026-03-29T03:00:00+02:00",
                "2026-03-30T02:30:00+02:00");
        ASSERT_TIMES("02,03:00", "America/New_York", utc(2026, 3, 8, 6, 30), "2026-03-08T03:00:00-04:00",
                "2026-03-09T02:00:00-04:00");
        /* Half an hour only: 02:00 to 02:30. */
        ASSERT_TIMES("02:15", "Australia/Lord_Howe", utc(2026, 10, 2, 20, 0), "2026-10-04T02:30:00+11:00",
                "2026-10-05T02:15:00+11:00");
        ASSERT_TIMES("02:45", "Australia/Lord_Howe", utc(2026, 10, 2, 20, 0), "2026-10-04T02:45:00+11:00");
        /* Samoa had no 30 December 2011. */
        ASSERT_TIMES("Fri 22:00", "Pacific/Apia", utc(2011, 12, 29, 0, 0), "2011-12-31T00:00:00+14:00",
                "2012-01-06T22:00:00+14:00");
}

static void many_times_in_one_gap_come_once(void **data)
{
        ASSERT_TIMES("02:0/10", "Europe/Berlin", utc(2026, 3, 29, 0, 0), "2026-03-29T03:00:00+02:00",
                "2026-03-30T02:00:00+02:00");
}

static void a_time_that_comes_twice_counts_the_first_time(void **data)
{
        ASSERT_TIMES("02:30", "Europe/Berlin", utc(2026, 10, 24, 12, 0), "2026-10-25T02:30:00+02:00",
                "2026-10-26T02:30:00+01:00");
        ASSERT_TIMES("02..03:00", "Europe/Berlin", utc(2026, 10, 24, 12, 0), "2026-10-25T02:00:00+02:00",
                "2026-10-25T03:00:00+01:00");
        ASSERT_TIMES("01:30", "America/New_York", utc(2026, 11, 1, 0, 0), "2026-11-01T01:30:00-04:00",
                "2026-11-02T01:30:00-05:00");
        /* 01:30 to 02:00 twice. */
        ASSERT_TIMES("01:15,45", "Australia/Lord_Howe", utc(2026, 4, 4, 12, 0), "2026-04-05T01:15:00+11:00",
                "2026-04-05T01:45:00+11:00", "2026-04-06T01:15:00+10:30");
        /* Also for who asks in the middle of the second time. */
        ASSERT_TIMES("02:30", "Europe/Berlin", utc(2026, 10, 25, 1, 10), "2026-10-26T02:30:00+01:00");
}

static void every_hour_keeps_to_elapsed_time(void **data)
{
        ASSERT_TIMES("hourly", "Europe/Berlin", utc(2026, 3, 29, 0, 0), "2026-03-29T03:00:00+02:00",
                "2026-03-29T04:00:00+02:00");
        ASSERT_TIMES("*:30", "Europe/Berlin", utc(2026, 3, 29, 0, 0), "2026-03-29T01:30:00+01:00",
                "2026-03-29T03:30:00+02:00");
        ASSERT_TIMES("*:30", "Europe/Berlin", utc(2026, 10, 25, 0, 0), "2026-10-25T02:30:00+02:00",
                "2026-10-25T02:30:00+01:00", "2026-10-25T03:30:00+01:00");
        ASSERT_TIMES("*:15", "Australia/Lord_Howe", utc(2026, 10, 3, 14, 0), "2026-10-04T01:15:00+10:30",
                "2026-10-04T03:15:00+11:00");
        ASSERT_TIMES("*:45", "Australia/Lord_Howe", utc(2026, 4, 4, 14, 0), "2026-04-05T01:45:00+11:00",
                "2026-04-05T01:45:00+10:30");
}

/* The other way round: go through a year minute by minute, and look which local times are met. */
static void assert_year(const char *text, const char *zone_name)
{
        _cleanup_(time_zone_freep) struct time_zone *zone = zone_of(zone_name);
        struct calendar calendar = parsed(text);
        int64_t next_s = utc(2026, 1, 1, 0, 0) - 1, latest_local_s = INT64_MIN, day, year;
        unsigned int month, of_month;

        assert_int_equal(calendar_next(&calendar, zone, next_s, &next_s), 0);
        for (int64_t at_s = utc(2026, 1, 1, 0, 0); at_s < utc(2027, 1, 1, 0, 0); at_s += MINUTE_S) {
                int64_t local_s = at_s + time_zone_span(zone, at_s).offset_s, first_s = local_s;
                bool met = false;

                if (!calendar.every_hour) {
                        /* Local minutes that were not there before; after a gap all that it left out. */
                        first_s = latest_local_s == INT64_MIN ? local_s : latest_local_s + MINUTE_S;
                        if (local_s > latest_local_s)
                                latest_local_s = local_s;
                }
                for (; first_s <= local_s && !met; first_s += MINUTE_S) {
                        unsigned int of_day;

                        day = civil_day_of(first_s);
                        of_day = (unsigned int)(first_s - day * DAY_S);
                        civil_date(day, &year, &month, &of_month);
                        met = (calendar.months.bits[0] >> month & 1) &&
                              (calendar.days.bits[0] >> of_month & 1) &&
                              (calendar.weekdays >> civil_weekday(day) & 1) &&
                              (calendar.hours.bits[0] >> (of_day / 3600) & 1) &&
                              (calendar.minutes.bits[0] >> (of_day / 60 % 60) & 1);
                }
                if (met != (next_s == at_s))
                        fail_msg("%s in %s: %lld is %s", text, zone_name, (long long)at_s,
                                met ? "missing" : "too many");
                if (met)
                        assert_int_equal(calendar_next(&calendar, zone, next_s, &next_s), 0);
        }
}

static void a_whole_year_agrees_with_counting_minutes(void **data)
{
        static const char *const texts[] = {"02:30", "*:0/15", "Sun 00..03:0/7",
                "*-03,04,10,11-* 01,02:10/20", "Mon..Fri 03:00", "*-*-25,29 02:59"};
        static const char *const zones[] = {"Europe/Berlin", "America/New_York", "Australia/Lord_Howe"};

        for (size_t t = 0; t < ARRAY_SIZE(texts); t++)
                for (size_t z = 0; z < ARRAY_SIZE(zones); z++)
                        assert_year(texts[t], zones[z]);
}

static void years_far_ahead_follow_the_rule_of_the_zone(void **data)
{
        ASSERT_TIMES("2090-07-01 12:00", "Europe/Berlin", 0, "2090-07-01T12:00:00+02:00");
        ASSERT_TIMES("2199-12-31 23:59:59", "Australia/Lord_Howe", 0, "2199-12-31T23:59:59+11:00");
}

static void what_never_comes_is_said_to(void **data)
{
        _cleanup_(time_zone_freep) struct time_zone *berlin = zone_of("Europe/Berlin");
        struct calendar never = parsed("*-02-30"), past = parsed("2001-01-01");
        int64_t at_s = 7;

        assert_int_equal(calendar_next(&never, berlin, 0, &at_s), -ENOENT);
        assert_int_equal(calendar_next(&past, berlin, utc(2026, 1, 1, 0, 0), &at_s), -ENOENT);
        assert_int_equal(at_s, 7);
}

static void what_is_no_expression_is_refused_with_its_part(void **data)
{
        static const struct {
                const char *text, *part;
        } wrong[] = {{"", "empty"}, {"   ", "empty"}, {"25:00", "\"25\" is no hour"},
                {"12:60", "\"60\" is no minute"}, {"12:00:61", "\"61\" is no second"},
                {"12:00:00.5", "no second"}, {"26-01-01", "no year"}, {"2200-01-01", "no year"},
                {"*-13-01", "no month"}, {"*-01-32", "no day"}, {"*-01-00", "no day"},
                {"Moonday 12:00", "no weekday, shorthand or time zone"}, {"Mon.Tue 12:00", "no weekday"},
                {"12:00 Mon", "no part"}, {"12:00 13:00", "no part"}, {"*-*-*-* 12:00", "no date"},
                {"12:00 ../etc/passwd", "no part"}, {"12:00 a/../b", "no weekday, shorthand or time zone"},
                {"Europe/Berlin", "no weekday, shorthand or time zone"}, {"9..8:00", "no hour"},
                {"*/0:00", "no hour"}, {"1,:00", "no hour"}, {"12", "no date"}, {"daily 12:00", "no part"},
                {":", "no hour"}, {"*-01~02~03", "no"}, {"12:00 Europe/Berlin UTC", "no part"},
                {"99999999999999999999:00", "no hour"}};

        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                _cleanup_error_ struct error *error = NULL;
                struct calendar calendar;

                if (calendar_parse(wrong[i].text, &calendar, &error) == 0)
                        fail_msg("\"%s\" was taken", wrong[i].text);
                assert_int_equal(error->code, ERROR_BAD_DOCUMENT);
                if (!strstr(error_message(error), wrong[i].part))
                        fail_msg("\"%s\": %s", wrong[i].text, error_message(error));
        }
}

static void add_piece(char *text, size_t size, const char *piece)
{
        size_t len = strlen(text);

        snprintf(text + len, size - len, "%s", piece);
}

/* Anything that could be typed: refused with a reason, or an expression whose times come later and later. */
static void any_text_is_refused_or_has_times_in_order(void **data)
{
        static const char *const pieces[] = {"*", "-", ":", "/", "..", ",", "~", " ", "0", "1", "7", "23",
                "30", "59", "60", "2027", "99999999999", "Mon", "Fri", "daily", "UTC", "\xff", "*-*", "00:00",
                "02"};
        _cleanup_(time_zone_freep) struct time_zone *zone = zone_of("Australia/Lord_Howe");
        uint64_t seed = 3;
        size_t n_taken = 0;

        for (int i = 0; i < 200000; i++) {
                char text[128] = "";
                struct calendar calendar;
                struct error *error = NULL;
                int64_t first_s, second_s;

                seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
                for (uint64_t n = seed >> 60, rest = seed; n; n--, rest = rest * 31 + n)
                        add_piece(text, sizeof(text), pieces[(rest >> 20) % ARRAY_SIZE(pieces)]);
                if (calendar_parse(text, &calendar, &error) < 0) {
                        assert_non_null(error);
                        error_free(error);
                        continue;
                }
                n_taken++;
                if (calendar_next(&calendar, zone, utc(2026, 3, 1, 0, 0), &first_s) == 0 &&
                        calendar_next(&calendar, zone, first_s, &second_s) == 0)
                        assert_true(first_s > utc(2026, 3, 1, 0, 0) && second_s > first_s);
        }
        assert_true(n_taken > 1000);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(expressions_mean_what_systemd_says),
                cmocka_unit_test(zone_may_stand_at_the_end),
                cmocka_unit_test(a_time_that_is_left_out_comes_at_the_end_of_the_gap),
                cmocka_unit_test(many_times_in_one_gap_come_once),
                cmocka_unit_test(a_time_that_comes_twice_counts_the_first_time),
                cmocka_unit_test(every_hour_keeps_to_elapsed_time),
                cmocka_unit_test(a_whole_year_agrees_with_counting_minutes),
                cmocka_unit_test(years_far_ahead_follow_the_rule_of_the_zone),
                cmocka_unit_test(what_never_comes_is_said_to),
                cmocka_unit_test(what_is_no_expression_is_refused_with_its_part),
                cmocka_unit_test(any_text_is_refused_or_has_times_in_order),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
