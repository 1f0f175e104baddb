/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "io/netlink.h"

/* Each test in a network namespace of its own, with a pair of interfaces, a and b. */
static int set_up(void **state)
{
        struct netlink *netlink;

        assert_int_equal(unshare(CLONE_NEWNET), 0);
        assert_int_equal(system("ip link add name a type veth peer name b"), 0);
        assert_int_equal(netlink_new(&netlink, NULL), 0);
        *state = netlink;
        return 0;
}

static int tear_down(void **state)
{
        netlink_free(*state);
        return 0;
}

static void test_a_missing_link_is_told_apart_and_the_next_request_works(void **state)
{
        struct netlink_link link = {.index = 77};

        assert_int_equal(netlink_get_link(*state, "nowhere", &link), -ENODEV);
        assert_int_equal(netlink_get_link(*state, "a-name-that-is-far-too-long", &link), -ENODEV);
        assert_int_equal(link.index, 77);
        assert_int_equal(netlink_get_link(*state, "a", &link), 0);
        assert_string_equal(link.name, "a");
        assert_string_equal(link.kind, "veth");
}

static void test_carrier_follows_the_peer_at_once(void **state)
{
        struct netlink_link link;

        assert_int_equal(netlink_set_up(*state, "a", true, NULL), 0);
        assert_int_equal(netlink_get_link(*state, "a", &link), 0);
        assert_true(link.up);
        assert_false(link.running);
        assert_int_equal(netlink_set_up(*state, "b", true, NULL), 0);
        assert_int_equal(netlink_get_link(*state, "a", &link), 0);
        assert_true(link.running);
        assert_int_equal(netlink_set_up(*state, "b", false, NULL), 0);
        assert_int_equal(netlink_get_link(*state, "a", &link), 0);
        assert_false(link.running);
}

static void test_many_links_are_listed_over_several_reads(void **state)
{
        _cleanup_free_ struct netlink_link *links = NULL;
        size_t n;

        for (int i = 0; i < 150; i++) {
                char name[IFNAMSIZ];

                snprintf(name, sizeof(name), "br%d", i);
                assert_int_equal(netlink_add_bridge(*state, name, 1500, NULL), 0);
        }
        assert_int_equal(netlink_list_links(*state, &links, &n), 0);
        assert_int_equal(n, 153); /* with a, b and lo */
        assert_string_equal(links[n - 1].name, "br149");
        assert_string_equal(links[n - 1].kind, "bridge");
}

static void test_a_refusal_carries_the_kernels_words(void **state)
{
        _cleanup_error_ struct error *error = NULL;

        assert_int_equal(netlink_set_mtu(*state, "a", 1, &error), -EINVAL);
        assert_non_null(strstr(error_message(error), "mtu less than device minimum"));
}

static void test_an_existing_name_is_refused(void **state)
{
        _cleanup_error_ struct error *error = NULL;

        assert_int_equal(netlink_add_bridge(*state, "a", 1500, &error), -EEXIST);
        assert_int_equal(error->code, ERROR_EXISTS);
}

static void test_ports_join_and_leave_a_bridge(void **state)
{
        struct netlink_link bridge, port;

        assert_int_equal(netlink_add_bridge(*state, "br0", 1500, NULL), 0);
        assert_int_equal(netlink_get_link(*state, "br0", &bridge), 0);
        assert_int_equal(netlink_set_master(*state, "a", "br0", NULL), 0);
        assert_int_equal(netlink_get_link(*state, "a", &port), 0);
        assert_int_equal(port.master_index, bridge.index);
        assert_int_equal(netlink_set_master(*state, "a", NULL, NULL), 0);
        assert_int_equal(netlink_get_link(*state, "a", &port), 0);
        assert_int_equal(port.master_index, 0);
        assert_int_equal(netlink_delete_link(*state, "br0"), 0);
        assert_int_equal(netlink_delete_link(*state, "br0"), -ENODEV);
}

static void test_an_alias_is_read_back(void **state)
{
        struct netlink_link link;

        assert_int_equal(netlink_set_alias(*state, "a", "drover switch lan", NULL), 0);
        assert_int_equal(netlink_get_link(*state, "a", &link), 0);
        assert_string_equal(link.alias, "drover switch lan");
}

static void test_addresses_of_the_host_are_seen(void **state)
{
        bool has = true;

        assert_int_equal(system("ip link set dev a up; ip link set dev b up"), 0);
        assert_int_equal(netlink_has_address(*state, "a", &has), 0);
        assert_false(has); /* an automatic link-local one does not count */
        assert_int_equal(system("ip addr add 192.0.2.1/24 dev a"), 0);
        assert_int_equal(netlink_has_address(*state, "a", &has), 0);
        assert_true(has);
        assert_int_equal(netlink_has_address(*state, "b", &has), 0);
        assert_false(has);
        assert_int_equal(system("ip addr add 2001:db8::1/64 dev b"), 0);
        assert_int_equal(netlink_has_address(*state, "b", &has), 0);
        assert_true(has);
        assert_int_equal(netlink_has_address(*state, "nowhere", &has), -ENODEV);
}

/* The kernel refuses (EPERM) while a port does not forward, which it does some moments after its carrier is there. */
static void replace_once_it_forwards(struct netlink *netlink, const char *port, const uint8_t *mac)
{
        int r = -EPERM;

        for (int i = 0; i < 3000 && r == -EPERM; i++) {
                r = netlink_fdb_replace(netlink, port, mac);
                if (r == -EPERM)
                        (void)poll(NULL, 0, 10);
        }
        assert_int_equal(r, 0);
}

static void test_the_forwarding_entry_of_a_mac_moves(void **state)
{
        const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};
        char port[IFNAMSIZ] = "";

        assert_int_equal(
                system("ip link add br0 type bridge forward_delay 0 && ip link set dev a master br0 && "
                       "ip link add name c type veth peer name d && ip link set dev c master br0 && "
                       "for i in a b c d br0; do ip link set dev $i up; done"),
                0);
        assert_int_equal(netlink_fdb_find(*state, "br0", mac, port), -ENOENT);
        assert_int_equal(netlink_fdb_find(*state, "br7", mac, port), -ENODEV);
        assert_string_equal(port, "");
        replace_once_it_forwards(*state, "a", mac);
        assert_int_equal(netlink_fdb_find(*state, "br0", mac, port), 0);
        assert_string_equal(port, "a");
        replace_once_it_forwards(*state, "c", mac);
        assert_int_equal(netlink_fdb_find(*state, "br0", mac, port), 0);
        assert_string_equal(port, "c");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
        const struct CMUnitTest tests[] = {
                CASE(test_a_missing_link_is_told_apart_and_the_next_request_works),
                CASE(test_carrier_follows_the_peer_at_once),
                CASE(test_many_links_are_listed_over_several_reads),
                CASE(test_a_refusal_carries_the_kernels_words),
                CASE(test_an_existing_name_is_refused),
                CASE(test_ports_join_and_leave_a_bridge),
                CASE(test_an_alias_is_read_back),
                CASE(test_addresses_of_the_host_are_seen),
                CASE(test_the_forwarding_entry_of_a_mac_moves),
        };

        if (unshare(CLONE_NEWNET) < 0) {
                fprintf(stderr, "skipped: no network namespace: %s\n", strerror(errno));
                return 77;
        }
        return cmocka_run_group_tests(tests, NULL, NULL);
}
