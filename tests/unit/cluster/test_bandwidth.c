/* SPDX-License-Identifier: Apache-2.0 */

/* How migrations share links. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cluster/bandwidth.h"

#define GBIT UINT64_C(1000000000)

static const uint64_t links[] = {10 * GBIT, 10 * GBIT, GBIT, 0};

static void share(struct bandwidth_flow *flows, size_t n)
{
        assert_int_equal(bandwidth_share(links, ARRAY_SIZE(links), flows, n), 0);
}

static void equals_are_left_to_tcp(void **data)
{
        struct bandwidth_flow flows[] = {{.links = {0, 1}, .weight = 2}, {.links = {0, 1}, .weight = 2}};

        share(flows, 2);
        assert_int_equal(flows[0].limit_bps, 0);
        assert_int_equal(flows[1].limit_bps, 0);
}

static void weights_divide_the_link(void **data)
{
        struct bandwidth_flow flows[] = {{.links = {0, 1}, .weight = 8}, {.links = {0, 1}, .weight = 2}};

        share(flows, 2);
        assert_int_equal(flows[0].limit_bps, 8 * GBIT);
        assert_int_equal(flows[1].limit_bps, 2 * GBIT);
}

static void promise_comes_before_weights(void **data)
{
        struct bandwidth_flow flows[] = {
                {.links = {0, 1}, .weight = 1, .min_bps = 6 * GBIT}, {.links = {0, 1}, .weight = 1}};

        share(flows, 2);
        assert_int_equal(flows[0].limit_bps, 8 * GBIT);
        assert_int_equal(flows[1].limit_bps, 2 * GBIT);
}

static void slower_of_the_two_links_counts(void **data)
{
        struct bandwidth_flow flows[] = {{.links = {0, 2}, .weight = 4}, {.links = {0, 2}, .weight = 1}};

        share(flows, 2);
        assert_int_equal(flows[0].limit_bps, GBIT * 8 / 10);
        assert_int_equal(flows[1].limit_bps, GBIT * 2 / 10);
}

static void alone_on_its_links_is_not_limited(void **data)
{
        struct bandwidth_flow flows[] = {{.links = {0, 1}, .weight = 1, .min_bps = GBIT}};

        share(flows, 1);
        assert_int_equal(flows[0].limit_bps, 0);
}

static void link_of_unknown_speed_limits_nobody(void **data)
{
        struct bandwidth_flow flows[] = {{.links = {3, 3}, .weight = 8}, {.links = {3, 3}, .weight = 1}};

        share(flows, 2);
        assert_int_equal(flows[1].limit_bps, 0);
}

static void promises_beyond_the_link_are_scaled_down(void **data)
{
        struct bandwidth_flow flows[] = {
                {.links = {2, 2}, .weight = 1, .min_bps = 2 * GBIT}, {.links = {2, 2}, .weight = 1}};

        flows[0].links[1] = 0;
        flows[1].links[1] = 1;
        share(flows, 2);
        assert_int_equal(flows[0].limit_bps, GBIT);
        assert_int_equal(flows[1].limit_bps, 1); /* never 0, which would be no limit */
}

/* Whoever is limited gets what it was promised, and where a link leads to limits, they do not exceed it. */
static void sums_hold_under_any_load(void **data)
{
        uint64_t seed = 3;

        for (size_t round = 0; round < 500; round++) {
                struct bandwidth_flow flows[12];
                uint64_t sums[3] = {};
                unsigned int weights[3] = {};
                bool uneven[3] = {};

                for (size_t i = 0; i < ARRAY_SIZE(flows); i++) {
                        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
                        flows[i] = (struct bandwidth_flow){.links = {(seed >> 40) % 3, 0},
                                .weight = 1u << ((seed >> 50) % 4),
                                .min_bps = (seed >> 33) % 4 ? 0 : GBIT / 16};
                        flows[i].links[1] = (flows[i].links[0] + 1 + (seed >> 60) % 2) % 3;
                }
                share(flows, ARRAY_SIZE(flows));
                for (size_t i = 0; i < ARRAY_SIZE(flows); i++) {
                        assert_true(!flows[i].limit_bps || flows[i].limit_bps >= flows[i].min_bps);
                        for (size_t k = 0; k < 2; k++) {
                                size_t link = flows[i].links[k];

                                sums[link] += flows[i].limit_bps;
                                uneven[link] = uneven[link] || flows[i].min_bps ||
                                               (weights[link] && weights[link] != flows[i].weight);
                                weights[link] = flows[i].weight;
                        }
                }
                for (size_t i = 0; i < ARRAY_SIZE(sums); i++)
                        assert_true(!uneven[i] || sums[i] <= links[i]);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(equals_are_left_to_tcp),
                cmocka_unit_test(weights_divide_the_link),
                cmocka_unit_test(promise_comes_before_weights),
                cmocka_unit_test(slower_of_the_two_links_counts),
                cmocka_unit_test(alone_on_its_links_is_not_limited),
                cmocka_unit_test(link_of_unknown_speed_limits_nobody),
                cmocka_unit_test(promises_beyond_the_link_are_scaled_down),
                cmocka_unit_test(sums_hold_under_any_load),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
