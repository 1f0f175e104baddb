/* SPDX-License-Identifier: Apache-2.0 */

/* Tries and fall-backs of one virtual machine: their order, their bounds, and that they end. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/doc.h"
#include "cluster/evacuation.h"

static struct evacuation_policy policy_of(const char *text)
{
        _cleanup_json_ json_t *object = json_loads(text, 0, NULL);
        struct evacuation_policy policy;

        assert_non_null(object);
        assert_int_equal(evacuation_policy_read(object, true, &policy, NULL), 0);
        return policy;
}

static const struct evacuation_facts fine = {
        .now_ms = 1000000, .runs = true, .may_stop = true, .fits = true, .fits_other = true};

static void one_that_fails_goes_to_other_hosts_and_then_stays(void **data)
{
        struct evacuation_policy policy =
                policy_of("{\"tries\": 3, \"policy\": [{\"step\": \"other-host\"}]}");
        struct evacuation_progress progress = {};

        assert_int_equal(evacuation_next(&policy, &progress, &fine), EVACUATION_ACT_MIGRATE);
        assert_int_equal(evacuation_next(&policy, &progress, &fine), EVACUATION_ACT_MIGRATE_OTHER);
        assert_int_equal(evacuation_next(&policy, &progress, &fine), EVACUATION_ACT_MIGRATE_OTHER);
        assert_int_equal(evacuation_next(&policy, &progress, &fine), EVACUATION_ACT_LEAVE);
        assert_string_equal(evacuation_rank_to_string(&policy, progress.rank), "stays");
}

static void one_that_fits_nowhere_waits_and_is_stopped(void **data)
{
        struct evacuation_policy policy = policy_of(
                "{\"policy\": [{\"step\": \"other-host\"}, {\"step\": \"wait\", \"limit_ms\": 60000}, "
                "{\"step\": \"stop\"}, {\"step\": \"power-off\"}]}");
        struct evacuation_facts facts = fine;
        struct evacuation_progress progress = {};

        facts.fits = facts.fits_other = false;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_WAIT);
        facts.now_ms += 59000;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_WAIT);
        facts.now_ms += 1000;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_STOP);
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_POWER_OFF);
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_LEAVE);
}

static void what_begins_to_fit_while_it_waits_goes(void **data)
{
        struct evacuation_policy policy = policy_of("{\"policy\": [{\"step\": \"wait\"}]}");
        struct evacuation_facts facts = fine;
        struct evacuation_progress progress = {};

        facts.fits = false;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_WAIT);
        facts.fits = true;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_MIGRATE);
        facts.last_end_ms = facts.now_ms; /* it failed: not again at once */
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_WAIT);
        facts.now_ms += EVACUATION_AGAIN_MS;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_MIGRATE);
}

static void one_that_cannot_move_is_suspended_once_and_then_resumed(void **data)
{
        struct evacuation_policy policy =
                policy_of("{\"tries\": 2, \"policy\": [{\"step\": \"suspend\"}, {\"step\": \"stop\"}]}");
        struct evacuation_facts facts = fine;
        struct evacuation_progress progress = {};

        facts.fits = facts.fits_other = false;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_SUSPEND);
        facts.suspended = true;
        facts.runs = facts.may_stop = false;
        facts.fits_other = true;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_RESUME);
        facts.closed = true; /* it stands still: that does not keep it from being resumed */
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_RESUME);
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_LEAVE);
}

static void one_that_could_not_be_suspended_is_stopped(void **data)
{
        struct evacuation_policy policy =
                policy_of("{\"policy\": [{\"step\": \"suspend\"}, {\"step\": \"stop\"}]}");
        struct evacuation_facts facts = fine;
        struct evacuation_progress progress = {};

        facts.fits = facts.fits_other = false;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_SUSPEND);
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_STOP);
}

static void what_is_suspended_waits_for_a_host_up_to_the_limit(void **data)
{
        struct evacuation_policy policy =
                policy_of("{\"policy\": [{\"step\": \"suspend\", \"limit_ms\": 30000}]}");
        struct evacuation_facts facts = fine;
        struct evacuation_progress progress = {};

        facts.suspended = true;
        facts.patience_ms = evacuation_patience_ms(&policy, false);
        facts.fits = facts.fits_other = false;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_WAIT);
        facts.now_ms += 29999;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_WAIT);
        facts.now_ms++;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_LEAVE);
        facts.fits_other = true;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_RESUME);
}

/* The end of maintenance has no such step; maintenance itself need not have it, and then does not let a guest stand still as long as it waits
 * with those that run. */
static void what_is_suspended_waits_as_long_as_the_step_wait_only_when_maintenance_ends(void **data)
{
        struct evacuation_policy usual = policy_of("{}"), none = policy_of("{\"policy\": []}");

        assert_int_equal(evacuation_patience_ms(&usual, true), EVACUATION_WAIT_DEFAULT_MS);
        assert_int_equal(evacuation_patience_ms(&usual, false), EVACUATION_SUSPEND_DEFAULT_MS);
        assert_int_equal(evacuation_patience_ms(&none, true), 0);
}

/* A host that has room at each look, and never when it comes to it. */
static void room_that_others_take_each_time_is_not_tried_for_ever(void **data)
{
        struct evacuation_policy policy = policy_of("{\"policy\": [{\"step\": \"suspend\"}]}");
        struct evacuation_facts facts = fine;
        struct evacuation_progress progress = {};

        facts.suspended = true;
        facts.patience_ms = 60000;
        for (int i = 0; i < 20; i++) {
                assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_RESUME);
                progress.n_resumes--;
                progress.lost_race = true;
                facts.now_ms += 3000;
        }
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_LEAVE);
}

static void what_may_have_been_resumed_is_not_resumed(void **data)
{
        struct evacuation_policy policy = policy_of("{\"policy\": [{\"step\": \"suspend\"}]}");
        struct evacuation_facts facts = fine;
        struct evacuation_progress progress = {};

        facts.suspended = facts.unclear = true;
        facts.patience_ms = 1000;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_WAIT);
        facts.now_ms += 1000;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_LEAVE);
}

static void nothing_begins_when_it_is_closed(void **data)
{
        struct evacuation_policy policy = policy_of("{}");
        struct evacuation_facts facts = fine;
        struct evacuation_progress progress = {};

        facts.closed = true;
        assert_int_equal(evacuation_next(&policy, &progress, &facts), EVACUATION_ACT_LEAVE);
        assert_int_equal(progress.n_moves, 0);
}

static uint64_t seed = 11;
static uint64_t random_below(uint64_t n)
{
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        return (seed >> 33) % n;
}

/* Whatever happens: at most twice as many migrations as tries, as many resumptions, one suspension, stop and power-off, and an end. */
static void every_policy_ends_whatever_happens(void **data)
{
        for (int n = 0; n < 20000; n++) {
                struct evacuation_policy policy = {.tries = 1 + (unsigned int)random_below(5)};
                unsigned int counts[EVACUATION_ACT_LEAVE + 1] = {}, rounds = 0;
                struct evacuation_facts facts = {.now_ms = 1000, .patience_ms = random_below(100000)};
                struct evacuation_progress progress = {};
                enum evacuation_act act;

                for (unsigned int i = 0, first = (unsigned int)random_below(N_EVACUATION_FALLBACKS),
                                  n_steps = (unsigned int)random_below(N_EVACUATION_FALLBACKS + 1);
                        i < n_steps; i++) {
                        policy.steps[policy.n].fallback =
                                (enum evacuation_fallback)((first + i) % N_EVACUATION_FALLBACKS);
                        policy.steps[policy.n++].limit_ms = 1000 + random_below(100000);
                }
                do {
                        facts.runs = random_below(4) != 0;
                        facts.may_stop = random_below(4) != 0;
                        facts.fits = random_below(2);
                        facts.fits_other = random_below(2);
                        facts.unclear = !random_below(8);
                        act = evacuation_next(&policy, &progress, &facts);
                        counts[act]++;
                        if (act != EVACUATION_ACT_WAIT)
                                facts.last_end_ms = facts.now_ms;
                        if (act == EVACUATION_ACT_SUSPEND)
                                facts.suspended = random_below(2);
                        if (act == EVACUATION_ACT_RESUME && !random_below(3))
                                break; /* it runs elsewhere */
                        facts.now_ms += 2000;
                        assert_true(++rounds < 200);
                } while (act != EVACUATION_ACT_LEAVE);
                assert_true(counts[EVACUATION_ACT_MIGRATE] + counts[EVACUATION_ACT_MIGRATE_OTHER] <=
                            2 * policy.tries);
                assert_true(
                        counts[EVACUATION_ACT_SUSPEND] <= 1 &&
                        counts[EVACUATION_ACT_RESUME] <= (counts[EVACUATION_ACT_SUSPEND] ? policy.tries : 0));
                assert_true(counts[EVACUATION_ACT_STOP] <= 1 && counts[EVACUATION_ACT_POWER_OFF] <= 1);
        }
}

static void policies_that_are_none_are_refused(void **data)
{
        static const char *const wrong[] = {"{\"tries\": 0}", "{\"tries\": 11}",
                "{\"policy\": [{\"step\": \"hope\"}]}",
                "{\"policy\": [{\"step\": \"wait\"}, {\"step\": \"wait\"}]}",
                "{\"policy\": [{\"limit_ms\": 5000}]}",
                "{\"policy\": [{\"step\": \"wait\", \"limit_ms\": 1}]}",
                "{\"policy\": [{\"step\": \"wait\", \"ms\": 1}]}",
                "{\"policy\": [{\"step\": \"other-host\", \"limit_ms\": 5000}]}", "{\"policy\": 3}"};

        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                _cleanup_json_ json_t *object = json_loads(wrong[i], 0, NULL);
                _cleanup_error_ struct error *error = NULL;
                struct evacuation_policy policy;

                if (evacuation_policy_read(object, true, &policy, &error) == 0)
                        fail_msg("%s was taken", wrong[i]);
                assert_int_equal(error->code, ERROR_BAD_DOCUMENT);
        }
}

static void large_ones_go_first(void **data)
{
        _cleanup_json_ json_t *small =
                json_pack("{s:s, s:{s:I}}", "name", "a", "spec", "memory_bytes", (json_int_t)1 << 28);
        _cleanup_json_ json_t *large =
                json_pack("{s:s, s:{s:I}}", "name", "b", "spec", "memory_bytes", (json_int_t)1 << 32);
        const json_t *vms[] = {small, large};

        evacuation_sort(vms, 2);
        assert_ptr_equal(vms[0], large);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(one_that_fails_goes_to_other_hosts_and_then_stays),
                cmocka_unit_test(one_that_fits_nowhere_waits_and_is_stopped),
                cmocka_unit_test(what_begins_to_fit_while_it_waits_goes),
                cmocka_unit_test(one_that_cannot_move_is_suspended_once_and_then_resumed),
                cmocka_unit_test(one_that_could_not_be_suspended_is_stopped),
                cmocka_unit_test(what_is_suspended_waits_for_a_host_up_to_the_limit),
                cmocka_unit_test(what_is_suspended_waits_as_long_as_the_step_wait_only_when_maintenance_ends),
                cmocka_unit_test(room_that_others_take_each_time_is_not_tried_for_ever),
                cmocka_unit_test(what_may_have_been_resumed_is_not_resumed),
                cmocka_unit_test(nothing_begins_when_it_is_closed),
                cmocka_unit_test(every_policy_ends_whatever_happens),
                cmocka_unit_test(policies_that_are_none_are_refused),
                cmocka_unit_test(large_ones_go_first),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
