/* SPDX-License-Identifier: Apache-2.0 */

/* Which runs of a schedule take place: over simulated years with changes of the clocks, jumps and outages. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/civil.h"
#include "cluster/schedule.h"
#include "zone_files.h"

#define DAY_S 86400
#define HOUR_S 3600
#define RUNS_MAX 200000

static int64_t utc(int year, unsigned int month, unsigned int day, unsigned int hour, unsigned int minute)
{
        return civil_days(year, month, day) * DAY_S + hour * HOUR_S + minute * 60;
}

struct world {
        struct time_zone *zone;
        struct schedule_rule rule;
        struct schedule_state state;
        int64_t now_s, latest_s;
        int64_t *runs_s; /* due times, as they were run */
        size_t n_runs, n_missed;
};

static void world_init(struct world *w, const char *calendar, const char *zone, int64_t now_s)
{
        *w = (struct world){
                .zone = zone_of(zone), .now_s = now_s, .runs_s = malloc(RUNS_MAX * sizeof(*w->runs_s))};
        w->rule = (struct schedule_rule){.zone = w->zone, .at_s = INT64_MIN};
        assert_int_equal(calendar_parse(calendar, &w->rule.calendar, NULL), 0);
        schedule_begin(&w->state, now_s);
}

static void world_deinit(struct world *w)
{
        time_zone_free(w->zone);
        free(w->runs_s);
}
#define _cleanup_world_ _cleanup_(world_deinit)

static struct schedule_decision decide(struct world *w, bool busy)
{
        struct schedule_decision decision;

        schedule_decide(&w->rule, &w->state, w->now_s, busy, &decision);
        w->n_missed += decision.n_missed;
        if (decision.verdict == SCHEDULE_RUN) {
                assert_true(w->n_runs < RUNS_MAX);
                w->runs_s[w->n_runs++] = decision.due_s;
        }
        return decision;
}

/* The manager looks when something is due, or a little late, and now and then between. */
static void live(struct world *w, int64_t until_s)
{
        while (w->now_s < until_s) {
                int64_t next_s = until_s;

                (void)decide(w, false);
                (void)schedule_next(&w->rule, &w->state, MAX(w->state.until_s, w->now_s), &next_s);
                next_s += (int64_t)(w->n_runs * 7 % (SCHEDULE_LATE_S + 1));
                w->now_s = MIN(until_s, w->n_runs % 5 ? next_s : MIN(next_s, w->now_s + 17 * 60));
        }
}

static int by_time(const void *a, const void *b)
{
        int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

        return (x > y) - (x < y);
}

static void assert_none_twice(const struct world *w)
{
        int64_t *sorted = malloc((w->n_runs + 1) * sizeof(*sorted));

        memcpy(sorted, w->runs_s, w->n_runs * sizeof(*sorted));
        qsort(sorted, w->n_runs, sizeof(*sorted), by_time);
        for (size_t i = 1; i < w->n_runs; i++)
                assert_true(sorted[i] != sorted[i - 1]);
        free(sorted);
}

/* A year in which the manager is there all the time: each due time runs, once, within a step of its time. */
static void assert_whole_year(const char *calendar, const char *zone, size_t expected)
{
        _cleanup_world_ struct world w;
        int64_t due_s = utc(2026, 1, 1, 0, 0);

        world_init(&w, calendar, zone, due_s);
        live(&w, utc(2027, 1, 1, 0, 0));
        assert_int_equal(w.n_runs, expected);
        assert_int_equal(w.n_missed, 0);
        for (size_t i = 0; i < w.n_runs; i++) {
                assert_int_equal(calendar_next(&w.rule.calendar, w.zone, due_s, &due_s), 0);
                assert_true(w.runs_s[i] == due_s);
        }
}

static void a_year_in_several_zones_runs_each_due_time_once(void **data)
{
        static const char *const zones[] = {
                "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"};

        for (size_t i = 0; i < ARRAY_SIZE(zones); i++) {
                assert_whole_year(
                        "02:30", zones[i], 365); /* once a day, also when there is no 02:30, or two */
                assert_whole_year("Sun 01:45", zones[i], 52);
                assert_whole_year("*:0/30", zones[i], 365 * 48 - 1); /* it began when one was due */
        }
}

static void a_single_run_takes_place_once(void **data)
{
        _cleanup_world_ struct world w;
        int64_t next_s;

        world_init(&w, "daily", "Europe/Berlin", utc(2026, 3, 28, 12, 0));
        /* In the hour that is left out. */
        assert_int_equal(schedule_parse_at("2026-03-29 02:30", w.zone, &w.rule.at_s, NULL), 0);
        assert_true(w.rule.at_s == utc(2026, 3, 29, 1, 0));
        live(&w, utc(2026, 4, 5, 0, 0));
        assert_int_equal(w.n_runs, 1);
        assert_int_equal(schedule_next(&w.rule, &w.state, w.now_s, &next_s), -ENOENT);
}

static void times_are_read_in_the_zone_or_with_their_offset(void **data)
{
        static const char *const wrong[] = {"", "now", "2026-12-24", "22:00", "2026-12-24 25:00",
                "2026-02-30 12:00", "2026-12-24T22:00+1:00", "2026-12-24 22:00:00 Europe/Berlin",
                "*-12-24 22:00:00", "2026-12-24 22:00:00+99:00", "2026-12-24-22:00"};
        _cleanup_(time_zone_freep) struct time_zone *berlin = zone_of("Europe/Berlin");
        int64_t at_s;

        assert_int_equal(schedule_parse_at("2026-12-24 22:00", berlin, &at_s, NULL), 0);
        assert_true(at_s == utc(2026, 12, 24, 21, 0));
        assert_int_equal(schedule_parse_at("2026-12-24T22:00:00Z", berlin, &at_s, NULL), 0);
        assert_true(at_s == utc(2026, 12, 24, 22, 0));
        assert_int_equal(schedule_parse_at("2026-12-24T22:00-05:30", berlin, &at_s, NULL), 0);
        assert_true(at_s == utc(2026, 12, 25, 3, 30));
        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                _cleanup_error_ struct error *error = NULL;

                if (schedule_parse_at(wrong[i], berlin, &at_s, &error) == 0)
                        fail_msg("\"%s\" was taken", wrong[i]);
                assert_int_equal(error->code, ERROR_BAD_DOCUMENT);
        }
}

/* Down from Friday evening to Monday morning; runs are due at 22:00. */
static struct schedule_decision after_outage(struct world *w, enum schedule_missed missed, int64_t window_s)
{
        world_init(w, "22:00", "Europe/Berlin", utc(2026, 11, 26, 12, 0));
        w->rule.missed = missed;
        w->rule.window_s = window_s;
        live(w, utc(2026, 11, 27, 18, 0));
        assert_int_equal(w->n_runs, 1);
        w->now_s =
                utc(2026, 11, 30, 6, 0); /* of those of Friday to Sunday, the last was due nine hours ago */
        return decide(w, false);
}

static void missed_runs_are_left_out(void **data)
{
        _cleanup_world_ struct world w;
        struct schedule_decision decision = after_outage(&w, SCHEDULE_MISSED_SKIP, 0);

        assert_int_equal(decision.verdict, SCHEDULE_SKIP);
        assert_int_equal(decision.n_missed, 3);
        assert_true(decision.due_s == utc(2026, 11, 29, 21, 0));
        assert_int_equal(decide(&w, false).verdict, SCHEDULE_WAIT);
        live(&w, utc(2026, 12, 1, 0, 0));
        assert_int_equal(w.n_runs, 2); /* Monday's */
}

static void missed_runs_are_made_up_for_by_one(void **data)
{
        _cleanup_world_ struct world w;
        struct schedule_decision decision = after_outage(&w, SCHEDULE_MISSED_RUN_ONCE, 0);

        assert_int_equal(decision.verdict, SCHEDULE_RUN);
        assert_int_equal(decision.n_missed, 2);
        assert_true(decision.due_s == utc(2026, 11, 29, 21, 0));
        assert_int_equal(decide(&w, false).verdict, SCHEDULE_WAIT);
}

static void behind_the_end_of_its_window_nothing_is_made_up_for(void **data)
{
        _cleanup_world_ struct world w, open;
        struct schedule_decision decision = after_outage(&w, SCHEDULE_MISSED_RUN_ONCE, 6 * HOUR_S);

        assert_int_equal(decision.verdict, SCHEDULE_SKIP);
        decision = after_outage(&open, SCHEDULE_MISSED_RUN_ONCE, 12 * HOUR_S);
        assert_int_equal(decision.verdict, SCHEDULE_RUN);
        assert_true(decision.until_s == utc(2026, 11, 30, 9, 0)); /* counted from when it was due */
}

static void a_run_that_is_due_while_the_last_one_goes_on_is_left_out(void **data)
{
        _cleanup_world_ struct world w;

        world_init(&w, "*:0/10", "UTC", utc(2026, 1, 1, 0, 0));
        live(&w, utc(2026, 1, 1, 0, 11));
        assert_int_equal(w.n_runs, 1);
        w.now_s = utc(2026, 1, 1, 0, 20);
        assert_int_equal(decide(&w, true).verdict, SCHEDULE_SKIP);
        assert_int_equal(decide(&w, false).verdict, SCHEDULE_WAIT);
        assert_int_equal(w.n_missed, 1);
}

static void a_clock_that_is_set_back_repeats_nothing_and_goes_on_at_once(void **data)
{
        _cleanup_world_ struct world w;

        world_init(&w, "hourly", "Europe/Berlin", utc(2026, 6, 1, 0, 30));
        live(&w, utc(2026, 6, 1, 6, 10));
        assert_int_equal(w.n_runs, 6);
        w.now_s = utc(2026, 6, 1, 2, 45);
        assert_true(decide(&w, false).clock_back);
        live(&w, utc(2026, 6, 1, 8, 10));
        assert_int_equal(w.n_runs, 8); /* 07:00 and 08:00 */
        assert_int_equal(w.n_missed, 0);
        assert_none_twice(&w);
}

/* A wrong date for a minute, then the right one: what would have run in between runs at its time. */
static void a_clock_that_was_a_year_ahead_stops_nothing(void **data)
{
        _cleanup_world_ struct world w;

        world_init(&w, "22:00", "America/New_York", utc(2026, 1, 1, 12, 0));
        w.rule.missed = SCHEDULE_MISSED_RUN_ONCE;
        w.now_s = utc(2027, 1, 1, 12, 0);
        assert_int_equal(decide(&w, false).verdict, SCHEDULE_RUN); /* the latest of 365 */
        assert_int_equal(w.n_missed, 364);
        w.now_s = utc(2026, 1, 1, 12, 1);
        live(&w, utc(2026, 1, 11, 12, 0));
        assert_int_equal(w.n_runs, 11);
        live(&w, utc(2027, 1, 11, 12, 0));
        assert_int_equal(w.n_runs, 1 + 364 + 10); /* 31 December was run when it was not yet */
        assert_none_twice(&w);
}

/* Ahead for more runs than are remembered: without the exception nothing would run before that date. */
static void a_clock_that_was_a_year_ahead_for_many_runs_stops_nothing(void **data)
{
        static const size_t n_runs[] = {SCHEDULE_RAN_MAX, SCHEDULE_RAN_MAX + 1, 3 * SCHEDULE_RAN_MAX};

        for (size_t i = 0; i < ARRAY_SIZE(n_runs); i++) {
                _cleanup_world_ struct world w;
                struct schedule_decision decision;

                world_init(&w, "*:0/10", "UTC", utc(2027, 1, 1, 0, 5));
                live(&w, w.now_s + (int64_t)n_runs[i] * 600);
                assert_int_equal(w.n_runs, n_runs[i]);
                w.now_s = utc(2026, 1, 1, 12, 1);
                decision = decide(&w, false);
                assert_true(decision.clock_back);
                assert_int_equal(decision.forgotten, n_runs[i] > SCHEDULE_RAN_MAX);
                w.n_runs = 0;
                live(&w, utc(2026, 1, 3, 12, 1));
                assert_int_equal(w.n_runs, 2 * 24 * 6);
                assert_none_twice(&w);
        }
}

static uint64_t seed;
static uint64_t random_below(uint64_t n)
{
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        return (seed >> 33) % n;
}

/* A day of a clock that jumps, a manager that is killed before or after it recorded, or is away. */
static void live_dangerously(struct world *w, bool jumps)
{
        struct schedule_state recorded = w->state;
        size_t n_runs = w->n_runs, n_missed = w->n_missed;

        w->latest_s = MAX(w->latest_s, w->now_s);
        (void)decide(w, !random_below(20));
        switch (random_below(40)) {
        case 0: /* killed before the transaction: neither task nor state are there */
                w->state = recorded;
                w->n_runs = n_runs;
                w->n_missed = n_missed;
                break;
        case 1:
                w->now_s += (int64_t)random_below(3 * DAY_S);
                break;
        case 2:
                /* Not so far that what was run is forgotten. */
                if (jumps)
                        w->now_s -= (int64_t)random_below(2 * DAY_S);
                w->now_s = MAX(w->now_s, w->latest_s - SCHEDULE_AHEAD_MAX_S);
                break;
        case 3:
                if (jumps && !random_below(10))
                        w->now_s += (int64_t)random_below(40 * DAY_S);
                break;
        default:
                w->now_s += (int64_t)random_below(1200);
        }
}

static void no_due_time_is_ever_run_twice(void **data)
{
        static const char *const texts[] = {"02:30", "*:0/7", "hourly", "Mon..Fri 01,02:15,45", "*:*:30"};
        static const char *const zones[] = {"Europe/Berlin", "America/New_York", "Australia/Lord_Howe"};

        seed = 1;
        for (int n = 0; n < 120; n++) {
                _cleanup_world_ struct world w;

                world_init(&w, texts[random_below(ARRAY_SIZE(texts))], zones[random_below(ARRAY_SIZE(zones))],
                        utc(2026, 1, 1, 0, 0) + (int64_t)random_below(365 * DAY_S));
                w.rule.missed = random_below(2) ? SCHEDULE_MISSED_RUN_ONCE : SCHEDULE_MISSED_SKIP;
                w.rule.window_s = random_below(2) ? (int64_t)random_below(DAY_S) : 0;
                for (int i = 0; i < 1500; i++)
                        live_dangerously(&w, true);
                assert_none_twice(&w);
        }
}

/* With a clock that only goes forward each due time was either run, once, or counted as missed. */
static void no_due_time_is_lost(void **data)
{
        seed = 77;
        for (int n = 0; n < 100; n++) {
                _cleanup_world_ struct world w;
                int64_t due_s;
                size_t n_due = 0;

                world_init(&w, n % 2 ? "02:30" : "*:0/15", "Australia/Lord_Howe", utc(2026, 9, 1, 0, 0));
                due_s = w.now_s;
                w.rule.missed = n % 3 ? SCHEDULE_MISSED_RUN_ONCE : SCHEDULE_MISSED_SKIP;
                for (int i = 0; i < 800; i++)
                        live_dangerously(&w, false);
                (void)decide(&w, false);
                while (calendar_next(&w.rule.calendar, w.zone, due_s, &due_s) == 0 && due_s <= w.now_s)
                        n_due++;
                assert_int_equal(w.n_runs + w.n_missed, n_due);
                assert_none_twice(&w);
        }
}

/* No run begins behind the end of its window. */
static void a_run_begins_before_its_window_ends(void **data)
{
        seed = 5;
        for (int n = 0; n < 100; n++) {
                _cleanup_world_ struct world w;

                world_init(&w, "*:0/20", "Europe/Berlin", utc(2026, 10, 24, 0, 0));
                w.rule.missed = SCHEDULE_MISSED_RUN_ONCE;
                w.rule.window_s = 1 + (int64_t)random_below(n % 2 ? HOUR_S : SCHEDULE_LATE_S);
                for (int i = 0; i < 500; i++) {
                        struct schedule_decision decision = decide(&w, false);

                        if (decision.verdict == SCHEDULE_RUN)
                                assert_true(w.now_s < decision.until_s &&
                                            decision.until_s == decision.due_s + w.rule.window_s);
                        w.now_s += (int64_t)random_below(n % 2 ? HOUR_S : 120);
                }
        }
}

static void what_is_taken_for_a_while_is_tried_until_the_window_ends(void **data)
{
        static const int64_t windows_s[] = {0, 30, 4 * HOUR_S};
        static const int64_t ends_s[] = {SCHEDULE_TRY_S, 30, 4 * HOUR_S};

        for (size_t i = 0; i < ARRAY_SIZE(windows_s); i++) {
                _cleanup_world_ struct world w;
                struct schedule_state before;

                world_init(&w, "22:00", "UTC", utc(2026, 1, 1, 12, 0));
                w.rule.window_s = windows_s[i];
                w.now_s = utc(2026, 1, 1, 22, 0);
                before = w.state;
                assert_int_equal(decide(&w, false).verdict, SCHEDULE_RUN);
                schedule_note_tried(&before, utc(2026, 1, 1, 22, 0));
                w.now_s += ends_s[i] - 1;
                w.state = before;
                assert_int_equal(decide(&w, false).verdict, SCHEDULE_RUN);
                w.now_s++;
                w.state = before;
                assert_int_equal(decide(&w, false).verdict, SCHEDULE_SKIP);
                w.now_s = utc(2026, 1, 2, 22, 0);
                assert_int_equal(decide(&w, false).verdict, SCHEDULE_RUN);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_year_in_several_zones_runs_each_due_time_once),
                cmocka_unit_test(a_single_run_takes_place_once),
                cmocka_unit_test(times_are_read_in_the_zone_or_with_their_offset),
                cmocka_unit_test(missed_runs_are_left_out),
                cmocka_unit_test(missed_runs_are_made_up_for_by_one),
                cmocka_unit_test(behind_the_end_of_its_window_nothing_is_made_up_for),
                cmocka_unit_test(a_run_that_is_due_while_the_last_one_goes_on_is_left_out),
                cmocka_unit_test(a_clock_that_is_set_back_repeats_nothing_and_goes_on_at_once),
                cmocka_unit_test(a_clock_that_was_a_year_ahead_stops_nothing),
                cmocka_unit_test(a_clock_that_was_a_year_ahead_for_many_runs_stops_nothing),
                cmocka_unit_test(no_due_time_is_ever_run_twice),
                cmocka_unit_test(no_due_time_is_lost),
                cmocka_unit_test(a_run_begins_before_its_window_ends),
                cmocka_unit_test(what_is_taken_for_a_while_is_tried_until_the_window_ends),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
