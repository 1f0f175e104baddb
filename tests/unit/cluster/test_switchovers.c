/* SPDX-License-Identifier: Apache-2.0 */

/* Permits for final pauses. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cluster/switchovers.h"

#define N_LINKS 6

static void grant(struct switchover_claim *claims, size_t n)
{
        assert_int_equal(switchovers_grant(claims, n, N_LINKS), 0);
}

static void one_at_a_time_on_a_link(void **data)
{
        struct switchover_claim claims[] = {{.links = {0, 1}, .rank_ms = 2}, {.links = {2, 1}, .rank_ms = 1}};

        grant(claims, 2);
        assert_false(claims[0].granted);
        assert_true(claims[1].granted);
}

static void other_links_are_independent(void **data)
{
        struct switchover_claim claims[] = {
                {.links = {0, 1}, .holds = true}, {.links = {2, 3}}, {.links = {1, 4}}};

        grant(claims, 3);
        assert_false(claims[0].granted); /* it has it already */
        assert_true(claims[1].granted);
        assert_false(claims[2].granted);
}

/* Links 0 and 1 in turn used by others: the first that waits for both keeps what becomes free. */
static void who_needs_two_busy_links_is_not_passed_by(void **data)
{
        struct switchover_claim claims[] = {{.links = {0, 2}, .holds = true}, {.links = {0, 1}, .rank_ms = 1},
                {.links = {1, 3}, .rank_ms = 2}};

        grant(claims, 3);
        assert_false(claims[1].granted);
        assert_false(claims[2].granted);
        claims[0].holds = false;
        claims[0].rank_ms = 3;
        grant(claims, 3);
        assert_true(claims[1].granted);
}

static void no_link_is_used_twice_and_all_get_their_turn(void **data)
{
        struct switchover_claim claims[40];
        uint64_t seed = 5;
        size_t n_rounds = 0, n_left = ARRAY_SIZE(claims);

        for (size_t i = 0; i < ARRAY_SIZE(claims); i++) {
                seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
                claims[i] = (struct switchover_claim){
                        .links = {(seed >> 33) % N_LINKS, 0}, .rank_ms = (int64_t)((seed >> 40) % 1000)};
                claims[i].links[1] = (claims[i].links[0] + 1 + (seed >> 50) % (N_LINKS - 1)) % N_LINKS;
        }
        while (n_left) {
                unsigned int uses[N_LINKS] = {};
                size_t n = 0;

                grant(claims, n_left);
                for (size_t i = 0; i < n_left; i++) {
                        if (claims[i].granted) {
                                uses[claims[i].links[0]]++;
                                uses[claims[i].links[1]]++;
                        } else
                                claims[n++] = claims[i];
                }
                for (size_t i = 0; i < N_LINKS; i++)
                        assert_true(uses[i] <= 1);
                assert_true(n < n_left);
                n_left = n;
                n_rounds++;
        }
        assert_true(n_rounds < ARRAY_SIZE(claims));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(one_at_a_time_on_a_link),
                cmocka_unit_test(other_links_are_independent),
                cmocka_unit_test(who_needs_two_busy_links_is_not_passed_by),
                cmocka_unit_test(no_link_is_used_twice_and_all_get_their_turn),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
