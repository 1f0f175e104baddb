/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/disk_convergence.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/doc.h"

#define MIB (1024ull * 1024)

/* Disks that are copied at `path` and written to at `written` bytes a second, by turns of 200 ms. */
struct copy {
        struct disk_convergence c;
        struct disk_convergence_status s;
        uint64_t path, written;
};

static void begin(struct copy *copy, const char *text, uint64_t path, uint64_t written)
{
        _cleanup_json_ json_t *document = json_loads(text, 0, NULL);
        struct converge_policy policy;
        struct error *error = NULL;

        assert_non_null(document);
        if (converge_policy_read(document, 300, &policy, &error) < 0)
                fail_msg("%s", error_message(error));
        *copy = (struct copy){.path = path,
                .written = written,
                .s = {.now_ms = 5000, .remaining_bytes = 64 * MIB, .counted = true}};
        disk_convergence_init(&copy->c, &policy, 300, copy->s.now_ms);
}

static enum disk_convergence_action turn(struct copy *copy)
{
        struct disk_convergence_status *s = &copy->s;
        uint64_t done = MIN(s->remaining_bytes, copy->path / 5);

        s->now_ms += 200;
        s->copied_bytes += done;
        s->remaining_bytes += copy->written / 5 - MIN(copy->written / 5, done) -
                              (done > copy->written / 5 ? done - copy->written / 5 : 0);
        s->whole = s->whole || s->remaining_bytes <= copy->written / 5;
        return disk_convergence_update(&copy->c, s);
}

static enum disk_convergence_action run(struct copy *copy, unsigned int seconds)
{
        for (unsigned int i = 0; i < seconds * 5; i++) {
                enum disk_convergence_action action = turn(copy);

                if (action != DISK_CONVERGENCE_GO_ON)
                        return action;
        }
        return DISK_CONVERGENCE_GO_ON;
}

static void quiet_guest_is_switched_when_all_is_copied(void **state)
{
        struct copy copy;

        begin(&copy, "{}", 16 * MIB, 0);
        assert_int_equal(run(&copy, 10), DISK_CONVERGENCE_SWITCH);
        assert_int_equal(copy.s.remaining_bytes, 0);
        assert_string_equal(disk_convergence_by(&copy.c), "copy");
}

static void rest_that_fits_into_the_pause_is_enough(void **state)
{
        struct copy copy;

        begin(&copy, "{}", 16 * MIB, 4 * MIB);
        assert_int_equal(run(&copy, 30), DISK_CONVERGENCE_SWITCH);
        assert_true(copy.s.remaining_bytes <= 16 * MIB * 300 / 1000);
        assert_int_equal(copy.c.n_entries, 0);
}

/* What was not whole once has rates that caches made. */
static void first_pass_is_not_cut_short(void **state)
{
        struct copy copy;

        begin(&copy, "{}", 512 * MIB, 0);
        copy.s.remaining_bytes = 300 * MIB;
        assert_int_equal(turn(&copy), DISK_CONVERGENCE_GO_ON);
        copy.path = 1;
        assert_int_equal(run(&copy, 2), DISK_CONVERGENCE_GO_ON);
}

static void jobs_that_have_not_counted_are_waited_for(void **state)
{
        struct copy copy;

        begin(&copy, "{}", 0, 0);
        copy.s.counted = false;
        copy.s.remaining_bytes = 0;
        for (int i = 0; i < 1000; i++) {
                copy.s.now_ms += 200;
                assert_int_equal(disk_convergence_update(&copy.c, &copy.s), DISK_CONVERGENCE_GO_ON);
        }
}

static void guest_that_writes_faster_gives_up_where_nothing_is_allowed(void **state)
{
        struct error *error;
        struct copy copy;

        begin(&copy, "{\"converge\": []}", 4 * MIB, 8 * MIB);
        assert_int_equal(run(&copy, 60), DISK_CONVERGENCE_GIVE_UP);
        error = disk_convergence_error(&copy.c);
        assert_int_equal(error->code, ERROR_NOT_CONVERGING);
        assert_non_null(strstr(error_message(error), "8.0 MiB a second"));
        error_free(error);
}

static void bound_is_raised_in_steps_up_to_what_is_allowed(void **state)
{
        _cleanup_json_ json_t *record = NULL;
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"pause\", \"max_ms\": 2000}]}", 4 * MIB, 8 * MIB);
        assert_int_equal(run(&copy, 120), DISK_CONVERGENCE_GIVE_UP);
        record = disk_convergence_record(&copy.c);
        assert_int_equal(json_array_size(record), 3);
        assert_int_equal(json_integer_value(json_object_get(json_array_get(record, 0), "max_pause_ms")), 600);
        assert_int_equal(
                json_integer_value(json_object_get(json_array_get(record, 2), "max_pause_ms")), 2000);
}

/* A guest that has to do with what it is left with. */
static void throttle_is_raised_until_it_converges(void **state)
{
        enum disk_convergence_action action = DISK_CONVERGENCE_GO_ON;
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"throttle\"}]}", 4 * MIB, 8 * MIB);
        for (int i = 0; i < 20 && action != DISK_CONVERGENCE_SWITCH; i++) {
                action = run(&copy, 120);
                assert_true(action == DISK_CONVERGENCE_SWITCH || action == DISK_CONVERGENCE_THROTTLE);
                /* Small writes change whole blocks: eight times what they are. */
                if (action == DISK_CONVERGENCE_THROTTLE)
                        copy.written = MIN(copy.written, 8 * disk_convergence_write_limit(&copy.c, 1));
        }
        assert_int_equal(action, DISK_CONVERGENCE_SWITCH);
        assert_string_equal(disk_convergence_by(&copy.c), "throttle");
        assert_true(copy.c.throttle_percent >= 75);
}

static void waiting_ends_by_itself(void **state)
{
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"wait\", \"ms\": 20000}]}", 4 * MIB, 8 * MIB);
        assert_int_equal(run(&copy, 25), DISK_CONVERGENCE_GO_ON);
        assert_int_equal(copy.c.n_begun, 1);
        assert_int_equal(run(&copy, 30), DISK_CONVERGENCE_GIVE_UP);
        begin(&copy, "{\"converge\": [{\"step\": \"wait\", \"ms\": 20000}]}", 4 * MIB, 8 * MIB);
        (void)run(&copy, 25);
        copy.written = 0;
        assert_int_equal(run(&copy, 60), DISK_CONVERGENCE_SWITCH);
        assert_string_equal(disk_convergence_by(&copy.c), "quiet-moment");
}

static void rest_that_did_not_settle_makes_it_careful_and_then_ends_it(void **state)
{
        uint64_t rate;
        struct copy copy;

        begin(&copy, "{}", 16 * MIB, 4 * MIB);
        assert_int_equal(run(&copy, 30), DISK_CONVERGENCE_SWITCH);
        rate = copy.c.path_bytes_per_s;
        for (int i = 1; i < DISK_CONVERGENCE_SETTLE_TRIES; i++)
                assert_true(disk_convergence_unsettled(&copy.c, copy.s.now_ms));
        assert_true(copy.c.path_bytes_per_s < rate / 8);
        assert_false(disk_convergence_unsettled(&copy.c, copy.s.now_ms));
}

/* A target that hangs: its rate from before must not make the migration wait for ever, nor is the guest slowed down for it. */
static void copy_that_stands_still_gets_no_step_and_is_given_up(void **state)
{
        struct error *error;
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"throttle\"}]}", 4 * MIB, MIB);
        assert_int_equal(run(&copy, 4), DISK_CONVERGENCE_GO_ON);
        copy.path = 0;
        assert_int_equal(run(&copy, 55), DISK_CONVERGENCE_GO_ON);
        assert_int_equal(copy.c.n_entries, 0);
        assert_int_equal(run(&copy, 30), DISK_CONVERGENCE_GIVE_UP);
        assert_int_equal(copy.c.n_entries, 0);
        error = disk_convergence_error(&copy.c);
        assert_int_equal(error->code, ERROR_TIMED_OUT);
        assert_non_null(strstr(error_message(error), "nothing of the disks was copied for 1"));
        error_free(error);
}

static void copy_that_stood_still_for_a_while_goes_on(void **state)
{
        struct copy copy;

        begin(&copy, "{}", 16 * MIB, 0);
        assert_int_equal(run(&copy, 1), DISK_CONVERGENCE_GO_ON);
        copy.path = 0;
        assert_int_equal(run(&copy, 50), DISK_CONVERGENCE_GO_ON);
        copy.path = 16 * MIB;
        assert_int_equal(run(&copy, 10), DISK_CONVERGENCE_SWITCH);
        assert_string_equal(disk_convergence_by(&copy.c), "copy");
}

/* 500,000 bytes a second, as QEMU does them: 1 MiB, and then nothing for two seconds. */
static void rate_of_a_copy_in_bursts_is_that_of_the_whole(void **state)
{
        uint64_t sum = 0;
        struct copy copy;

        begin(&copy, "{}", 0, 0);
        for (int i = 0; i < 100; i++) {
                (void)turn(&copy);
                if (i % 10 == 0) {
                        copy.s.copied_bytes += MIB;
                        copy.s.remaining_bytes -= MIB / 2;
                }
                sum += copy.c.path_bytes_per_s;
        }
        assert_in_range(sum / 100, 300000, 700000);
}

/* 8 KiB a second: one request of a MiB is two minutes. */
static void copy_with_a_low_limit_does_not_stand_still(void **state)
{
        struct copy copy;

        begin(&copy, "{}", 0, 0);
        copy.s.rate_limit = 8 << 10;
        copy.c.low_bytes = 64 * MIB;
        for (int i = 0; i < 3; i++) {
                assert_int_equal(run(&copy, 128), DISK_CONVERGENCE_GO_ON);
                copy.s.copied_bytes += MIB;
                copy.s.remaining_bytes -= 16 * MIB; /* a new low: no step is due */
        }
}

/* Of disks that travel along nobody slows the writes down, and nothing is said of it. */
static void policy_without_throttle_gives_up_after_the_rest(void **state)
{
        struct converge_policy policy;
        struct copy copy;

        begin(&copy, "{\"converge\": [{\"step\": \"throttle\"}, {\"step\": \"pause\", \"max_ms\": 600}]}",
                4 * MIB, 8 * MIB);
        policy = converge_policy_without(&copy.c.policy, CONVERGE_THROTTLE);
        assert_int_equal(policy.n_steps, 1);
        assert_int_equal(policy.max_pause_ms, 600);
        disk_convergence_init(&copy.c, &policy, 300, copy.s.now_ms);
        assert_int_equal(run(&copy, 120), DISK_CONVERGENCE_GIVE_UP);
        assert_int_equal(copy.c.max_pause_ms, 600);
        assert_int_equal(copy.c.throttle_percent, 0);
}

static void throttled_guest_keeps_a_disk_that_works(void **state)
{
        struct disk_convergence c = {.path_bytes_per_s = 1000, .throttle_percent = 99};

        assert_int_equal(disk_convergence_write_limit(&c, 1), 256 << 10);
        c.path_bytes_per_s = 1000 * MIB;
        assert_int_equal(disk_convergence_write_limit(&c, 4), 1000 * MIB / 100 / 4);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(quiet_guest_is_switched_when_all_is_copied),
                cmocka_unit_test(rest_that_fits_into_the_pause_is_enough),
                cmocka_unit_test(first_pass_is_not_cut_short),
                cmocka_unit_test(jobs_that_have_not_counted_are_waited_for),
                cmocka_unit_test(guest_that_writes_faster_gives_up_where_nothing_is_allowed),
                cmocka_unit_test(bound_is_raised_in_steps_up_to_what_is_allowed),
                cmocka_unit_test(throttle_is_raised_until_it_converges),
                cmocka_unit_test(waiting_ends_by_itself),
                cmocka_unit_test(copy_that_stands_still_gets_no_step_and_is_given_up),
                cmocka_unit_test(copy_that_stood_still_for_a_while_goes_on),
                cmocka_unit_test(rate_of_a_copy_in_bursts_is_that_of_the_whole),
                cmocka_unit_test(copy_with_a_low_limit_does_not_stand_still),
                cmocka_unit_test(policy_without_throttle_gives_up_after_the_rest),
                cmocka_unit_test(throttled_guest_keeps_a_disk_that_works),
                cmocka_unit_test(rest_that_did_not_settle_makes_it_careful_and_then_ends_it),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
