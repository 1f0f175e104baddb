/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/convergence.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/doc.h"

#define MIB (1024ull * 1024)

/* A copy of a guest: 64 MiB are changed in each pass of 5 s, over a path of 12 MiB/s. */
struct copy {
        struct convergence c;
        struct convergence_status s;
        enum convergence_action last;
};

static struct converge_policy policy_of(const char *text, uint64_t max_pause_ms)
{
        _cleanup_json_ json_t *document = json_loads(text, 0, NULL);
        struct converge_policy policy = {0};
        struct error *e = NULL;

        assert_non_null(document);
        if (converge_policy_read(document, max_pause_ms, &policy, &e) < 0)
                fail_msg("%s", error_message(e));
        return policy;
}

static void begin(struct copy *copy, const char *policy)
{
        const struct converge_policy read = policy_of(policy, 300);

        *copy = (struct copy){.s = {.now_ms = 1000000,
                                      .pass = 1,
                                      .remaining_bytes = 64 * MIB,
                                      .dirty_bytes_per_s = 80 * MIB,
                                      .path_bytes_per_s = 12 * MIB}};
        convergence_init(&copy->c, &read, 300, copy->s.now_ms);
}

/* Polls five times a second; a pass begins every 5 s. Ends with the first action that is not GO_ON. */
static enum convergence_action run(struct copy *copy, unsigned int seconds)
{
        for (unsigned int i = 0; i < seconds * 5; i++) {
                copy->s.now_ms += 200;
                if ((copy->s.now_ms - 1000000) % 5000 == 0)
                        copy->s.pass++;
                copy->last = convergence_update(&copy->c, &copy->s);
                if (copy->last != CONVERGENCE_GO_ON)
                        return copy->last;
        }
        return CONVERGENCE_GO_ON;
}

static void nothing_is_done_while_passes_bring_progress(void **state)
{
        struct copy copy;

        begin(&copy, "{}");
        copy.s.progress = true;
        assert_int_equal(run(&copy, 3600), CONVERGENCE_GO_ON);
        assert_string_equal(convergence_by(&copy.c), "pre-copy");
        assert_int_equal(copy.c.n_entries, 0);
}

static void steady_load_is_throttled_without_waiting(void **state)
{
        struct copy copy;

        begin(&copy, "{}");
        copy.s.progress = true;
        run(&copy, 21);
        copy.s.progress = false;
        assert_int_equal(run(&copy, 1), CONVERGENCE_THROTTLE);
        assert_int_equal(copy.c.n_entries, 1);
        assert_int_equal(copy.c.entries[0].step, CONVERGE_THROTTLE);
        assert_string_equal(convergence_by(&copy.c), "pre-copy"); /* not yet */
        copy.s.throttle_percent = 41;
        run(&copy, 1);
        assert_string_equal(convergence_by(&copy.c), "throttle");
}

/* It waited for its turn on the link, longer than any step may take. */
static void time_that_the_migration_stood_still_counts_for_no_step(void **state)
{
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"wait\", \"ms\": 20000}]}");
        assert_int_equal(run(&copy, 1), CONVERGENCE_WAIT);
        copy.s.now_ms += 600000;
        copy.s.pass += 100;
        convergence_resume(&copy.c, copy.s.now_ms, copy.s.pass);
        assert_int_equal(run(&copy, 19), CONVERGENCE_GO_ON);
        assert_int_equal(run(&copy, 2), CONVERGENCE_GIVE_UP);
}

static void breathing_load_is_waited_for(void **state)
{
        struct copy copy;

        begin(&copy, "{}");
        copy.s.progress = true;
        run(&copy, 11);
        copy.s.dirty_bytes_per_s = 4 * MIB;
        run(&copy, 5);
        copy.s.dirty_bytes_per_s = 80 * MIB;
        copy.s.progress = false;
        assert_int_equal(run(&copy, 1), CONVERGENCE_WAIT);
        assert_string_equal(convergence_by(&copy.c), "quiet-moment");
        /* It does not come: after 30 s the next step. */
        assert_int_equal(run(&copy, 29), CONVERGENCE_GO_ON);
        assert_int_equal(run(&copy, 2), CONVERGENCE_THROTTLE);
}

static void wait_with_a_time_lasts_that_long(void **state)
{
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"wait\", \"ms\": 60000}]}");
        assert_int_equal(run(&copy, 1), CONVERGENCE_WAIT);
        assert_int_equal(run(&copy, 59), CONVERGENCE_GO_ON);
        assert_int_equal(run(&copy, 2), CONVERGENCE_GIVE_UP);
        assert_int_equal(run(&copy, 60), CONVERGENCE_GO_ON); /* said once */
}

static void pause_is_raised_in_steps_to_its_maximum(void **state)
{
        static const uint64_t bounds_ms[] = {600, 1200, 2000};
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"pause\", \"max_ms\": 2000}]}");
        for (size_t i = 0; i < ARRAY_SIZE(bounds_ms); i++) {
                uint64_t pass = copy.s.pass;

                assert_int_equal(run(&copy, 30), CONVERGENCE_SET_PAUSE);
                assert_int_equal(copy.c.max_pause_ms, bounds_ms[i]);
                assert_true(i == 0 || copy.s.pass >= pass + 2); /* each was tried */
        }
        assert_int_equal(run(&copy, 30), CONVERGENCE_GIVE_UP);
        assert_string_equal(convergence_by(&copy.c), "longer-pause");
}

static void order_is_that_of_the_policy_and_the_error_says_what_was_tried(void **state)
{
        struct error *e;
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"throttle\", \"max_percent\": 60},"
                     "{\"step\": \"pause\", \"max_ms\": 600}, {\"step\": \"wait\", \"ms\": 5000}]}");
        assert_int_equal(run(&copy, 1), CONVERGENCE_THROTTLE);
        copy.s.throttle_percent = 40;
        assert_int_equal(run(&copy, 20), CONVERGENCE_GO_ON); /* QEMU may raise it still */
        copy.s.throttle_percent = 60;
        assert_int_equal(run(&copy, 30), CONVERGENCE_SET_PAUSE);
        assert_int_equal(run(&copy, 30), CONVERGENCE_WAIT);
        assert_int_equal(run(&copy, 30), CONVERGENCE_GIVE_UP);
        e = convergence_error(&copy.c, &copy.s);
        assert_int_equal(e->code, ERROR_NOT_CONVERGING);
        assert_non_null(strstr(error_message(e), "64 MiB, would need a pause of 5.3 s at 12 MiB a second"));
        assert_non_null(strstr(error_message(e),
                "throttling its vCPUs up to 60 %, a pause of up to 600 ms, waiting for a quiet moment"));
        error_free(e);
}

static void post_copy_comes_last_and_is_said_once(void **state)
{
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"wait\", \"ms\": 5000}, {\"step\": \"post-copy\"}]}");
        assert_int_equal(run(&copy, 30), CONVERGENCE_WAIT);
        assert_string_equal(convergence_by(&copy.c), "quiet-moment");
        assert_int_equal(run(&copy, 30), CONVERGENCE_POST_COPY);
        assert_string_equal(convergence_by(&copy.c), "post-copy");
        assert_int_equal(run(&copy, 3600), CONVERGENCE_GO_ON);
}

static void post_copy_is_refused_where_it_makes_no_sense(void **state)
{
        static const char *const cases[][2] = {
                {"{\"converge\": [{\"step\": \"post-copy\"}, {\"step\": \"wait\"}]}", "after post-copy"},
                {"{\"verify\": true, \"converge\": [{\"step\": \"post-copy\"}]}", "verify"},
                {"{\"converge\": [{\"step\": \"post-copy\", \"ms\": 1}]}", "ms"}};

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_json_ json_t *document = json_loads(cases[i][0], 0, NULL);
                _cleanup_error_ struct error *e = NULL;
                struct converge_policy policy;

                assert_int_equal(converge_policy_read(document, 300, &policy, &e), -EINVAL);
                assert_non_null(strstr(error_message(e), cases[i][1]));
        }
        assert_false(converge_policy_has(&CONVERGE_POLICY_DEFAULT, CONVERGE_POST_COPY));
}

static void throttle_that_qemu_never_applies_has_an_end(void **state)
{
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"throttle\"}]}");
        assert_int_equal(run(&copy, 1), CONVERGENCE_THROTTLE);
        assert_int_equal(run(&copy, 60), CONVERGENCE_GO_ON);
        assert_int_equal(run(&copy, 60), CONVERGENCE_GIVE_UP);
        assert_string_equal(convergence_by(&copy.c), "pre-copy");
}

static void idle_throttle_of_qemu_is_none(void **state)
{
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"throttle\"}]}");
        copy.s.throttle_percent = 1;
        run(&copy, 1);
        run(&copy, 10);
        assert_int_equal(copy.c.throttle_percent, 0);
}

static void stalled_path_does_not_hold_a_step_for_ever(void **state)
{
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"pause\", \"max_ms\": 600}]}");
        assert_int_equal(run(&copy, 1), CONVERGENCE_SET_PAUSE);
        copy.s.path_bytes_per_s = 0;
        assert_int_equal(run(&copy, 2 * 3600), CONVERGENCE_GIVE_UP);
}

static void empty_policy_gives_up_at_once(void **state)
{
        struct error *e;
        struct copy copy;

        begin(&copy, "{\"converge\": []}");
        assert_int_equal(run(&copy, 1), CONVERGENCE_GIVE_UP);
        e = convergence_error(&copy.c, &copy.s);
        assert_non_null(strstr(error_message(e), "tried: nothing"));
        error_free(e);
}

static void record_names_step_time_and_reason(void **state)
{
        _cleanup_json_ json_t *record = NULL;
        const json_t *line;
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"pause\", \"max_ms\": 600}]}");
        run(&copy, 1);
        record = convergence_record(&copy.c);
        line = json_array_get(record, 0);
        assert_string_equal(json_string_value(json_object_get(line, "step")), "pause");
        assert_string_equal(
                json_string_value(json_object_get(line, "why")), "several passes brought no progress");
        assert_int_equal(json_integer_value(json_object_get(line, "at_ms")), 200);
        assert_int_equal(json_integer_value(json_object_get(line, "max_pause_ms")), 600);
        assert_int_equal(json_integer_value(json_object_get(line, "path_bytes_per_s")), 12 * MIB);
}

static void record_of_many_levels_is_bounded(void **state)
{
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"throttle\"}]}");
        run(&copy, 1);
        for (copy.s.throttle_percent = 2; copy.s.throttle_percent < 99; copy.s.throttle_percent++)
                run(&copy, 1);
        assert_int_equal(copy.c.n_entries, CONVERGENCE_MAX_ENTRIES);
        assert_int_equal(copy.c.throttle_percent, 98);
}

static void policy_that_makes_no_sense_is_refused(void **state)
{
        static const char *const documents[] = {"{\"converge\": 7}", "{\"converge\": [7]}",
                "{\"converge\": [{}]}", "{\"converge\": [{\"step\": \"pray\"}]}",
                "{\"converge\": [{\"step\": \"pause\"}]}",
                "{\"converge\": [{\"step\": \"pause\", \"max_ms\": 300}]}",
                "{\"converge\": [{\"step\": \"pause\", \"max_ms\": 60001}]}",
                "{\"converge\": [{\"step\": \"wait\", \"ms\": 0}]}",
                "{\"converge\": [{\"step\": \"wait\", \"max_ms\": 7}]}",
                "{\"converge\": [{\"step\": \"throttle\", \"max_percent\": 100}]}",
                "{\"converge\": [{\"step\": \"throttle\", \"max_percent\": 9}]}",
                "{\"converge\": [{\"step\": \"wait\"}, {\"step\": \"wait\"}]}",
                "{\"converge\": [{\"step\": \"wait\"}, {\"step\": \"throttle\"}, {\"step\": \"wait\"}, {}]}"};

        for (size_t i = 0; i < ARRAY_SIZE(documents); i++) {
                _cleanup_json_ json_t *document = json_loads(documents[i], 0, NULL);
                struct converge_policy policy = {.wait_ms = 4711};
                _cleanup_error_ struct error *e = NULL;

                assert_int_equal(converge_policy_read(document, 300, &policy, &e), -EINVAL);
                assert_int_equal(e->code, ERROR_BAD_DOCUMENT);
                assert_non_null(strstr(error_message(e), "converge"));
                assert_int_equal(policy.wait_ms, 4711);
        }
}

static void default_policy_waits_and_throttles(void **state)
{
        const struct converge_policy policy = policy_of("{\"converge\": null}", 300);

        assert_int_equal(policy.n_steps, 2);
        assert_int_equal(policy.steps[0], CONVERGE_WAIT);
        assert_int_equal(policy.steps[1], CONVERGE_THROTTLE);
        assert_int_equal(policy.max_throttle_percent, 99);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(nothing_is_done_while_passes_bring_progress),
                cmocka_unit_test(steady_load_is_throttled_without_waiting),
                cmocka_unit_test(time_that_the_migration_stood_still_counts_for_no_step),
                cmocka_unit_test(breathing_load_is_waited_for),
                cmocka_unit_test(wait_with_a_time_lasts_that_long),
                cmocka_unit_test(pause_is_raised_in_steps_to_its_maximum),
                cmocka_unit_test(order_is_that_of_the_policy_and_the_error_says_what_was_tried),
                cmocka_unit_test(post_copy_comes_last_and_is_said_once),
                cmocka_unit_test(post_copy_is_refused_where_it_makes_no_sense),
                cmocka_unit_test(throttle_that_qemu_never_applies_has_an_end),
                cmocka_unit_test(idle_throttle_of_qemu_is_none),
                cmocka_unit_test(stalled_path_does_not_hold_a_step_for_ever),
                cmocka_unit_test(empty_policy_gives_up_at_once),
                cmocka_unit_test(record_names_step_time_and_reason),
                cmocka_unit_test(record_of_many_levels_is_bounded),
                cmocka_unit_test(policy_that_makes_no_sense_is_refused),
                cmocka_unit_test(default_policy_waits_and_throttles),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
