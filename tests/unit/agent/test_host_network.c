/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agent/host_network.h"
#include "base/alloc.h"
#include "base/doc.h"

#define HEAD \
        "Inter-|   Receive                                                |  Transmit\n" \
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo " \
        "colls carrier " \
        "compressed\n"

static void take(struct host_network *network, uint64_t rx, uint64_t tx, uint64_t now_ms)
{
        const struct netlink_link links[] = {{.name = "lo", .up = true}, {.name = "h0", .up = true},
                {.name = "dv-lan", .kind = "bridge", .up = true}, {.name = "down0"}};
        _cleanup_free_ char *text = alloc_printf(HEAD "    lo: 9000000 1 0 0 0 0 0 0 9000000 1 0 0 0 0 0 0\n"
                                                      " eth0h0: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n"
                                                      "  h0: %llu 1 0 0 0 0 0 0 %llu 1 0 0 0 0 0 0\n"
                                                      "dv-lan: 8000000 1 0 0 0 0 0 0 8000000 1 0 0 0 0 0 0\n",
                (unsigned long long)rx, (unsigned long long)tx);

        host_network_take(network, text, links, ARRAY_SIZE(links), now_ms);
}

static void rates_follow_from_the_counters(void **state)
{
        struct host_network network = {};

        take(&network, 1000, 500, 10000);
        assert_int_equal(network.n_devices, 1);
        assert_string_equal(network.devices[0].name, "h0");
        assert_int_equal(network.devices[0].rx_bps, 0);
        take(&network, 126000, 1000, 12000);
        assert_int_equal(network.devices[0].rx_bps, 500000);
        assert_int_equal(network.devices[0].tx_bps, 2000);
}

static void two_looks_in_a_row_change_nothing(void **state)
{
        struct host_network network = {};

        take(&network, 0, 0, 1000);
        take(&network, 125000, 0, 2000);
        take(&network, 125001, 0, 2100);
        assert_int_equal(network.devices[0].rx_bps, 1000000);
}

static void counters_that_begin_anew_are_no_rate(void **state)
{
        struct host_network network = {};

        take(&network, 1000000, 1000000, 1000);
        take(&network, 10, 10, 2000);
        assert_int_equal(network.devices[0].rx_bps, 0);
        assert_int_equal(network.devices[0].tx_bps, 0);
}

static void busiest_by_its_share_is_told(void **state)
{
        struct host_network network = {.n_devices = 3,
                .devices = {{.name = "slow", .speed_bps = 1000000000, .rx_bps = 400000000, .tx_bps = 1},
                        {.name = "fast", .speed_bps = 10000000000, .rx_bps = 1, .tx_bps = 1000000000},
                        {.name = "unknown", .rx_bps = 9000000000}}};
        _cleanup_json_ json_t *doc = host_network_document(&network);

        assert_string_equal(json_string_value(json_object_get(doc, "interface")), "slow");
        assert_int_equal(json_integer_value(json_object_get(doc, "rx_bps")), 400000000);
        network.n_devices = 0;
        assert_null(host_network_document(&network));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(rates_follow_from_the_counters),
                cmocka_unit_test(two_looks_in_a_row_change_nothing),
                cmocka_unit_test(counters_that_begin_anew_are_no_rate),
                cmocka_unit_test(busiest_by_its_share_is_told),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
