/* SPDX-License-Identifier: Apache-2.0 */

/* The model of cluster/forecast.h: what must hold of any forecast, whatever its constants are. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "base/macros.h"
#include "cluster/forecast.h"

#define MB 1e6
#define GIB (1024.0 * 1024 * 1024)
#define GBIT_S 125e6

/* 1 GiB, half of it zero, that changes `rate` bytes of pages a second over `span` bytes. */
static struct forecast_guest guest(double rate, double span)
{
        static const double seconds[] = {0.25, 1, 3};
        struct forecast_guest g = {.ram_bytes = GIB,
                .zero_share = 0.5,
                .duplicate_share = 0.1,
                .incompressible_share = 0.2,
                .levels = {{"lz4", 1.8, 800e6, 1.5}, {"zstd-1", 2.4, 400e6, 1.8},
                        {"zstd-3", 2.6, 200e6, 1.9}},
                .n_levels = 3,
                .n_looks = ARRAY_SIZE(seconds),
                .sampled_pages = rate > 0 ? 1000 : 0,
                .cores = 4,
                .idle_cores = 3};

        for (size_t i = 0; i < ARRAY_SIZE(seconds); i++) {
                double pages = span > 0 ? span * (1 - exp(-seconds[i] * rate / span)) : 0;

                g.looks[i] = (struct forecast_look){seconds[i], pages, pages / 8};
        }
        return g;
}

static const struct forecast_path gigabit = {.bytes_per_s = GBIT_S, .spread = 0.1, .rtt_s = 0.0003};
static const struct forecast_terms usual = {.max_pause_s = 0.3, .prepare_s = 0.8, .prepare_spread = 0.3};

static struct forecast run(
        const struct forecast_guest *g, const struct forecast_path *path, const struct forecast_terms *terms)
{
        struct forecast f;

        forecast_run(g, path, terms, &f);
        return f;
}

static void assert_range(const struct forecast_range *r)
{
        assert_true(isfinite(r->high));
        assert_true(r->low > 0 && r->low <= r->expected && r->expected <= r->high);
}

static void expected_lies_in_its_range_for_every_guest_and_path(void **data)
{
        static const double rates[] = {0, 1 * MB, 20 * MB, 300 * MB, 3000 * MB},
                            spans[] = {1 * MB, 64 * MB, 900 * MB},
                            paths[] = {2.5e6, 12.5e6, GBIT_S, 10 * GBIT_S}, rtts[] = {0, 0.01, 0.15};

        for (size_t i = 0; i < ARRAY_SIZE(rates) * ARRAY_SIZE(spans) * ARRAY_SIZE(paths) * ARRAY_SIZE(rtts);
                i++) {
                size_t rest = i;
                struct forecast_guest g;
                struct forecast_path path = {.spread = 0.2};
                struct forecast f;
                double rate = rates[rest % ARRAY_SIZE(rates)];

                rest /= ARRAY_SIZE(rates);
                g = guest(rate, spans[rest % ARRAY_SIZE(spans)]);
                rest /= ARRAY_SIZE(spans);
                path.bytes_per_s = paths[rest % ARRAY_SIZE(paths)];
                path.rtt_s = rtts[rest / ARRAY_SIZE(paths)];
                f = run(&g, &path, &usual);
                assert_range(&f.total_s);
                assert_range(&f.pause_s);
                assert_range(&f.bytes);
                assert_true(f.pause_s.expected < f.total_s.expected);
                assert_true(f.passes >= 1);
        }
}

static void more_dirty_is_not_faster(void **data)
{
        double before = 0;

        for (double rate = 0; rate <= 200 * MB; rate += 10 * MB) {
                struct forecast_guest g = guest(rate, 200 * MB);
                struct forecast f = run(&g, &gigabit, &usual);

                if (!f.converges)
                        break; /* slowed down, another number of passes */
                assert_true(f.bytes.expected >= before * 0.98);
                before = f.bytes.expected;
        }
}

static void a_faster_path_is_not_slower(void **data)
{
        struct forecast_guest g = guest(20 * MB, 64 * MB);
        double before = INFINITY;

        for (double rate = 2e6; rate < 2e9; rate *= 1.5) {
                struct forecast_path path = {.bytes_per_s = rate, .spread = 0.1, .rtt_s = 0.0003};
                struct forecast f = run(&g, &path, &usual);

                assert_true(f.total_s.expected <= before * 1.02);
                before = f.total_s.expected;
        }
}

static void a_rate_limit_counts_as_a_slower_path(void **data)
{
        struct forecast_guest g = guest(1 * MB, 64 * MB);
        struct forecast_path slow = gigabit;
        struct forecast_terms limited = usual;

        slow.bytes_per_s = GBIT_S / 10;
        slow.spread = 0;
        limited.rate_limit = GBIT_S / 10;
        assert_true(fabs(run(&g, &gigabit, &limited).total_s.expected -
                            run(&g, &slow, &usual).total_s.expected) < 0.01);
}

static void zero_and_repeated_pages_cost_less(void **data)
{
        struct forecast_guest g = guest(1 * MB, 64 * MB);
        double full, zero, same;

        g.zero_share = g.duplicate_share = 0;
        full = run(&g, &gigabit, &usual).bytes.expected;
        g.zero_share = 0.5;
        zero = run(&g, &gigabit, &usual).bytes.expected;
        g.duplicate_share = 0.5;
        same = run(&g, &gigabit, &usual).bytes.expected;
        assert_true(zero < full && same < zero);
}

static void what_the_destination_keeps_is_not_sent(void **data)
{
        struct forecast_guest g = guest(1 * MB, 64 * MB);
        struct forecast all = run(&g, &gigabit, &usual), kept, sure;

        g.held_share = 0.9;
        g.held_pages = 200;
        kept = run(&g, &gigabit, &usual);
        assert_true(kept.bytes.expected < all.bytes.expected / 4);
        assert_true(kept.total_s.expected < all.total_s.expected);
        /* The more pages were looked at, the narrower the range. */
        g.held_pages = 2000;
        sure = run(&g, &gigabit, &usual);
        assert_true(sure.bytes.high < kept.bytes.high && sure.bytes.low > kept.bytes.low);
        g.held_share = 1;
        assert_true(run(&g, &gigabit, &usual).bytes.expected > 0);
}

static void an_idle_guest_converges_at_once(void **data)
{
        struct forecast_guest g = guest(0, 0);
        struct forecast f = run(&g, &gigabit, &usual);

        assert_true(f.converges);
        assert_int_equal(f.passes, 1);
        assert_true(f.pause_s.high < 0.3);
}

static void a_guest_faster_than_the_path_does_not_converge_and_is_told_why(void **data)
{
        struct forecast_guest g = guest(800 * MB, 700 * MB);
        struct forecast_lesson nothing;
        struct forecast f;
        json_t *doc;

        for (size_t i = 0; i < g.n_looks; i++)
                g.looks[i].block_bytes = g.looks[i].page_bytes;
        f = run(&g, &gigabit, &usual);
        assert_false(f.converges);
        assert_true(f.needed_bytes_per_s > gigabit.bytes_per_s);
        forecast_learn(NULL, &nothing);
        doc = forecast_to_json(&f, &gigabit, &usual, &nothing);
        assert_non_null(strstr(json_string_value(json_object_get(doc, "reason")), "Mbit/s"));
        assert_non_null(strstr(json_string_value(json_object_get(doc, "way_out")), "pause"));
        json_decref(doc);
}

/* As much is written, but always to the same pages: a pass has no more than those. */
static void a_small_working_set_converges_where_a_large_one_does_not(void **data)
{
        struct forecast_guest small = guest(500 * MB, 4 * MB), large = guest(500 * MB, 500 * MB);

        for (size_t i = 0; i < large.n_looks; i++) {
                small.looks[i].block_bytes = small.looks[i].page_bytes;
                large.looks[i].block_bytes = large.looks[i].page_bytes;
        }
        assert_true(run(&small, &gigabit, &usual).converges);
        assert_false(run(&large, &gigabit, &usual).converges);
}

static void deltas_make_a_guest_converge_that_whole_pages_do_not(void **data)
{
        struct forecast_guest g = guest(400 * MB, 400 * MB);

        for (size_t i = 0; i < g.n_looks; i++)
                g.looks[i].block_bytes = g.looks[i].page_bytes;
        assert_false(run(&g, &gigabit, &usual).converges);
        for (size_t i = 0; i < g.n_looks; i++)
                g.looks[i].block_bytes = g.looks[i].page_bytes / 16;
        assert_true(run(&g, &gigabit, &usual).converges);
}

static void dirty_memory_levels_off_and_never_exceeds_the_guest(void **data)
{
        struct forecast_guest g = guest(64 * MB, 64 * MB), wild = guest(5000 * MB, 1e13);
        double before = 0;

        for (double s = 0; s < 100; s += 0.1) {
                double now = forecast_dirty(&g, s);

                assert_true(now >= before);
                before = now;
        }
        assert_true(before < 80 * MB && before > 55 * MB);
        assert_true(forecast_dirty(&wild, 1000) <= GIB);
        assert_true(forecast_dirty(&g, -1) == 0);
}

static void a_long_round_trip_lengthens_the_pause(void **data)
{
        struct forecast_guest g = guest(1 * MB, 64 * MB);
        struct forecast_path far = gigabit;

        far.rtt_s = 0.15;
        assert_true(
                run(&g, &far, &usual).pause_s.expected > run(&g, &gigabit, &usual).pause_s.expected + 0.14);
}

static void what_the_agent_sent_is_read_and_nonsense_refused(void **data)
{
        json_t *sample = json_pack(
                "{s:i, s:f, s:i, s:[{s:s, s:f, s:f}], s:[{s:i, s:i, s:i, s:i}, {s:i, s:i, s:i, s:i}]}",
                "ram_bytes", 1 << 28, "zero_share", 0.25, "cores", 2, "levels", "name", "lz4", "ratio", 2.0,
                "bytes_per_s", 5e8, "dirty", "interval_ms", 250, "page_bytes", 8192, "block_bytes", 512,
                "sampled_pages", 2, "interval_ms", 1000, "page_bytes", 4096, "block_bytes", 256,
                "sampled_pages", 1);
        json_t *nonsense = json_pack("{s:s}", "ram_bytes", "much");
        struct forecast_guest g;
        struct error *error = NULL;

        assert_int_equal(forecast_read_guest(sample, &g, NULL), 0);
        assert_int_equal(g.n_looks, 2);
        assert_true(g.idle_cores < 0 && g.zero_share == 0.25);
        assert_true(g.looks[1].page_bytes >= g.looks[0].page_bytes);
        assert_true(forecast_read_guest(nonsense, &g, &error) < 0);
        assert_int_equal(error->code, ERROR_BAD_DOCUMENT);
        error_free(error);
        json_decref(sample);
        json_decref(nonsense);
}

static json_t *record(double low, double expected, double high, double outcome)
{
        return json_pack("{s:{s:{s:f, s:f, s:f}}, s:{s:f, s:n}}", "forecast", "total_ms", "low", low,
                "expected", expected, "high", high, "outcome", "total_ms", outcome, "pause_ms");
}

static void score_counts_what_lay_in_the_range(void **data)
{
        json_t *records = json_pack(
                "[o, o, o]", record(90, 100, 110, 100), record(90, 100, 110, 200), record(90, 100, 110, 80));
        json_t *score = forecast_score(records), *total = json_array_get(json_object_get(score, "kinds"), 0),
               *pause = json_array_get(json_object_get(score, "kinds"), 1);

        assert_int_equal(json_integer_value(json_object_get(score, "n")), 3);
        assert_int_equal(json_integer_value(json_object_get(total, "in_range")), 1);
        assert_true(fabs(json_number_value(json_object_get(total, "median_error")) - 0.25) < 1e-9);
        assert_int_equal(json_integer_value(json_object_get(pause, "n")), 0);
        assert_true(json_is_null(json_object_get(pause, "median_error")));
        json_decref(score);
        json_decref(records);
}

static void load_counts_where_no_processor_is_idle(void **data)
{
        struct forecast_guest g = guest(1 * MB, 64 * MB);
        double quiet = run(&g, &gigabit, &usual).total_s.expected, ended, now;

        g.load = 12;
        ended = run(&g, &gigabit, &usual).total_s.expected;
        g.idle_cores = 0;
        now = run(&g, &gigabit, &usual).total_s.expected;
        assert_true(ended == quiet && now > quiet * 1.2);
}

static json_t *records_of(const double *outcomes, size_t n)
{
        json_t *records = json_array();

        for (size_t i = 0; i < n; i++)
                json_array_append_new(records, record(90, 100, 110, outcomes[i]));
        return records;
}

static void lessons_correct_and_grow_with_what_was_seen(void **data)
{
        static const double outcomes[] = {150, 150, 160, 140, 150, 150};
        struct forecast f = {.total_s = {9, 10, 11}, .pause_s = {0.1, 0.2, 0.3}, .bytes = {1, 2, 3}};
        double before = 1;

        for (size_t n = 0; n <= ARRAY_SIZE(outcomes); n++) {
                json_t *records = records_of(outcomes, n);
                struct forecast_lesson lesson;

                forecast_learn(records, &lesson);
                assert_int_equal(lesson.n, n);
                assert_true(n == 0 ? lesson.total.factor == 1 : lesson.total.factor > before);
                assert_true(lesson.total.factor <= 1.5);
                assert_true(lesson.pause.factor == 1); /* none of them had one */
                before = lesson.total.factor;
                if (n == ARRAY_SIZE(outcomes))
                        forecast_correct(&f, &lesson);
                json_decref(records);
        }
        assert_true(f.total_s.expected > 13 && f.total_s.expected < 15);
        assert_true(
                f.total_s.low <= f.total_s.expected * 0.94 && f.total_s.high >= f.total_s.expected * 1.06);
        assert_true(f.pause_s.expected == 0.2);
}

/* What was learned before is in the forecast: a lesson is about the model, not about the lesson before. */
static void what_was_learned_is_not_learned_twice(void **data)
{
        json_t *records = json_array(), *corrected = record(135, 150, 165, 150);
        struct forecast_lesson lesson;

        json_object_set_new(
                json_object_get(corrected, "forecast"), "learned", json_pack("{s:f}", "total_ms", 1.5));
        for (int i = 0; i < 8; i++)
                json_array_append(records, corrected);
        forecast_learn(records, &lesson);
        assert_true(lesson.total.factor > 1.4 && lesson.total.factor <= 1.5);
        json_decref(corrected);
        json_decref(records);
}

static void absurd_records_teach_little(void **data)
{
        static const double outcomes[] = {1e9, 1e9, 1e9};
        json_t *records = records_of(outcomes, ARRAY_SIZE(outcomes)),
               *nonsense = json_pack("[s, {}, {s:i}]", "x", "forecast", 1);
        struct forecast_lesson lesson;

        forecast_learn(records, &lesson);
        assert_true(lesson.total.factor <= 2.5);
        forecast_learn(nonsense, &lesson);
        assert_true(lesson.total.factor == 1 && lesson.bytes.low == 1);
        json_decref(records);
        json_decref(nonsense);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(expected_lies_in_its_range_for_every_guest_and_path),
                cmocka_unit_test(more_dirty_is_not_faster),
                cmocka_unit_test(a_faster_path_is_not_slower),
                cmocka_unit_test(a_rate_limit_counts_as_a_slower_path),
                cmocka_unit_test(zero_and_repeated_pages_cost_less),
                cmocka_unit_test(what_the_destination_keeps_is_not_sent),
                cmocka_unit_test(an_idle_guest_converges_at_once),
                cmocka_unit_test(a_guest_faster_than_the_path_does_not_converge_and_is_told_why),
                cmocka_unit_test(a_small_working_set_converges_where_a_large_one_does_not),
                cmocka_unit_test(deltas_make_a_guest_converge_that_whole_pages_do_not),
                cmocka_unit_test(dirty_memory_levels_off_and_never_exceeds_the_guest),
                cmocka_unit_test(a_long_round_trip_lengthens_the_pause),
                cmocka_unit_test(what_the_agent_sent_is_read_and_nonsense_refused),
                cmocka_unit_test(score_counts_what_lay_in_the_range),
                cmocka_unit_test(load_counts_where_no_processor_is_idle),
                cmocka_unit_test(lessons_correct_and_grow_with_what_was_seen),
                cmocka_unit_test(what_was_learned_is_not_learned_twice),
                cmocka_unit_test(absurd_records_teach_little),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
