/* SPDX-License-Identifier: Apache-2.0 */
#include "netns.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include "fabric/ifname.h"
#include "fabric/tap.h"

#define UID "6f1cb2a4-0d5e-4c8f-9a55-0c5b6a1f2e3d"

static int set_up(void **state)
{
        struct netlink *netlink;

        netns_enter();
        netns_run("ip link add br0 type bridge && ip link set br0 up && ip link add br1 type bridge");
        assert_int_equal(netlink_new(&netlink, NULL), 0);
        *state = netlink;
        return 0;
}

static int tear_down(void **state)
{
        netlink_free(*state);
        return 0;
}

static const struct tap_spec spec = {
        .vm_uid = UID, .nic = 2, .port_group = "default", .bridge = "br0", .mtu = 1400};

static void test_a_tap_is_a_port_of_its_bridge(void **state)
{
        struct netlink *netlink = *state;
        struct netlink_link tap, bridge;
        struct ifreq request = {};
        char name[IFNAMSIZ];
        int fd;

        assert_int_equal(tap_open(netlink, &spec, &fd, name, NULL), 0);
        assert_int_equal(netlink_get_link(netlink, name, &tap), 0);
        assert_int_equal(netlink_get_link(netlink, "br0", &bridge), 0);
        assert_int_equal(tap.master_index, bridge.index);
        assert_int_equal(tap.mtu, 1400);
        assert_true(tap.up);
        assert_string_equal(tap.kind, "tun");
        assert_string_equal(tap.alias, "drover port-group default");
        assert_int_equal(ioctl(fd, TUNGETIFF, &request), 0);
        assert_int_equal(request.ifr_flags & (IFF_TAP | IFF_TUN | IFF_NO_PI | IFF_VNET_HDR),
                IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        close(fd);
}

static void test_a_tap_ends_with_its_last_descriptor(void **state)
{
        struct netlink_link link;
        char name[IFNAMSIZ];
        int fd, copy;

        assert_int_equal(tap_open(*state, &spec, &fd, name, NULL), 0);
        copy = dup(fd);
        close(fd);
        assert_int_equal(netlink_get_link(*state, name, &link), 0);
        close(copy);
        assert_int_equal(netlink_get_link(*state, name, &link), -ENODEV);
}

static void test_a_persistent_tap_stays_and_is_taken_again(void **state)
{
        struct tap_spec persistent = spec;
        struct netlink_link before, after;
        char name[IFNAMSIZ];
        int fd;

        persistent.persistent = true;
        assert_int_equal(tap_open(*state, &persistent, &fd, name, NULL), 0);
        close(fd);
        assert_int_equal(netlink_get_link(*state, name, &before), 0);
        assert_int_equal(tap_open(*state, &persistent, &fd, name, NULL), 0);
        assert_int_equal(netlink_get_link(*state, name, &after), 0);
        assert_int_equal(before.index, after.index);
        close(fd);
        assert_int_equal(tap_delete(*state, name), 0);
        assert_int_equal(netlink_get_link(*state, name, &after), -ENODEV);
}

static void test_a_tap_in_use_is_refused(void **state)
{
        _cleanup_error_ struct error *error = NULL;
        int fd, second = -1;

        assert_int_equal(tap_open(*state, &spec, &fd, NULL, NULL), 0);
        assert_int_equal(tap_open(*state, &spec, &second, NULL, &error), -EBUSY);
        assert_int_equal(error->code, ERROR_CONFLICT);
        assert_int_equal(second, -1);
        close(fd);
}

static void test_a_missing_bridge_leaves_nothing(void **state)
{
        struct tap_spec nowhere = spec;
        struct netlink_link link;
        char name[IFNAMSIZ];
        int fd;

        nowhere.bridge = "br77";
        nowhere.persistent = true;
        ifname_tap(UID, 2, name);
        assert_int_equal(tap_open(*state, &nowhere, &fd, NULL, NULL), -ENODEV);
        assert_int_equal(netlink_get_link(*state, name, &link), -ENODEV);
}

static void test_a_tap_moves_to_another_bridge(void **state)
{
        struct netlink_link tap, bridge;
        char name[IFNAMSIZ];
        int fd;

        assert_int_equal(tap_open(*state, &spec, &fd, name, NULL), 0);
        assert_int_equal(tap_attach(*state, name, "other", "br1", 1300, NULL), 0);
        assert_int_equal(netlink_get_link(*state, name, &tap), 0);
        assert_int_equal(netlink_get_link(*state, "br1", &bridge), 0);
        assert_int_equal(tap.master_index, bridge.index);
        assert_string_equal(tap.alias, "drover port-group other");
        close(fd);
}

static void test_deleting_a_tap_that_is_gone_is_no_error(void **state)
{
        assert_int_equal(tap_delete(*state, "dvt000000000000"), 0);
}

static void test_stale_taps_are_found_and_foreign_ones_are_not(void **state)
{
        struct tap_spec persistent = spec;
        char(*names)[IFNAMSIZ] = NULL, name[IFNAMSIZ];
        size_t n = 99;
        int fd;

        netns_run("ip tuntap add mode tap tap7 && ip link add dvtnotap type veth peer name other");
        persistent.persistent = true;
        assert_int_equal(tap_open(*state, &persistent, &fd, name, NULL), 0);
        close(fd);
        assert_int_equal(tap_list(*state, &names, &n), 0);
        assert_int_equal(n, 1);
        assert_string_equal(names[0], name);
        free(names);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
        const struct CMUnitTest tests[] = {
                CASE(test_a_tap_is_a_port_of_its_bridge),
                CASE(test_a_tap_ends_with_its_last_descriptor),
                CASE(test_a_persistent_tap_stays_and_is_taken_again),
                CASE(test_a_tap_in_use_is_refused),
                CASE(test_a_missing_bridge_leaves_nothing),
                CASE(test_a_tap_moves_to_another_bridge),
                CASE(test_deleting_a_tap_that_is_gone_is_no_error),
                CASE(test_stale_taps_are_found_and_foreign_ones_are_not),
        };

        netns_enter();
        if (access("/dev/net/tun", R_OK | W_OK) < 0) {
                fprintf(stderr, "skipped: no /dev/net/tun\n");
                return 77;
        }
        return cmocka_run_group_tests(tests, NULL, NULL);
}
