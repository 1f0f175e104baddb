/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "fabric/ifname.h"

#define UID "6f1cb2a4-0d5e-4c8f-9a55-0c5b6a1f2e3d"

static void test_names_do_not_change_between_versions(void **state)
{
        char name[IFNAMSIZ];

        ifname_bridge("lan", name);
        assert_string_equal(name, "dv-lan");
        ifname_bridge("exactly12chr", name);
        assert_string_equal(name, "dv-exactly12chr");
        ifname_bridge("production-network", name);
        assert_string_equal(name, "dv+prod09268cbe");
        ifname_vlan_bridge("lan", 100, name);
        assert_string_equal(name, "dvb0fa45d490100");
        ifname_vlan_link("lan", 100, name);
        assert_string_equal(name, "dvl0fa45d490100");
        ifname_station("lan", 100, name);
        assert_string_equal(name, "dvp0fa45d490100");
        ifname_tap(UID, 15, name);
        assert_string_equal(name, "dvt729791f9630f");
}

static void test_the_longest_input_fits(void **state)
{
        char name[IFNAMSIZ], longest[64];

        memset(longest, 'x', sizeof(longest) - 1);
        longest[63] = '\0';
        ifname_bridge(longest, name);
        assert_int_equal(strlen(name), 15);
        ifname_vlan_bridge(longest, 4094, name);
        assert_int_equal(strlen(name), 15);
        assert_string_equal(name + 11, "4094");
        ifname_tap(UID, 255, name);
        assert_int_equal(strlen(name), 15);
        assert_string_equal(name + 13, "ff");
}

static void test_different_things_get_different_names(void **state)
{
        char a[IFNAMSIZ], b[IFNAMSIZ];

        ifname_bridge("production-network-a", a);
        ifname_bridge("production-network-b", b);
        assert_string_not_equal(a, b);
        ifname_tap(UID, 0, a);
        ifname_tap(UID, 1, b);
        assert_string_not_equal(a, b);
        ifname_tap("6f1cb2a4-0d5e-4c8f-9a55-0c5b6a1f2e3e", 0, b);
        assert_string_not_equal(a, b);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_names_do_not_change_between_versions),
                cmocka_unit_test(test_the_longest_input_fits),
                cmocka_unit_test(test_different_things_get_different_names),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
