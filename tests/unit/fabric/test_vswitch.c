/* SPDX-License-Identifier: Apache-2.0 */
#include "netns.h"

#include "base/alloc.h"
#include "base/doc.h"
#include "fabric/ifname.h"
#include "fabric/tap.h"
#include "fabric/vswitch.h"

#define UID "6f1cb2a4-0d5e-4c8f-9a55-0c5b6a1f2e3d"

struct fixture {
        struct netlink *netlink;
        struct vswitch_set *set;
};

/* Each test has its own namespace, with two NICs whose cables end in it. */
static int set_up(void **state)
{
        struct fixture *f = test_calloc(1, sizeof(*f));

        netns_enter();
        netns_run("ip link add nic0 type veth peer name cable0 && ip link add nic1 type veth peer name "
                  "cable1 && "
                  "ip link set cable0 up && ip link set cable1 up");
        assert_int_equal(netlink_new(&f->netlink, NULL), 0);
        assert_int_equal(vswitch_set_new(f->netlink, &f->set), 0);
        *state = f;
        return 0;
}

static int tear_down(void **state)
{
        struct fixture *f = *state;

        vswitch_set_free(f->set);
        netlink_free(f->netlink);
        test_free(f);
        return 0;
}

static json_t *json_of(const char *text)
{
        json_t *json = NULL;

        assert_int_equal(doc_parse(text, strlen(text), &json, NULL), 0);
        return json;
}

typedef int (*put_fn)(
        struct vswitch_set *set, const char *name, const json_t *body, struct error **ret_error);

static void put_ok(struct fixture *f, put_fn put, const char *name, const char *text)
{
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *body = json_of(text);

        if (put(f->set, name, body, &error) < 0)
                fail_msg("%s: %s", name, error_message(error));
}

static void put_fails(struct fixture *f, put_fn put, const char *name, const char *text, enum error_code code,
        const char *words)
{
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *body = json_of(text);

        assert_true(put(f->set, name, body, &error) < 0);
        assert_non_null(error);
        if (error->code != code || !strstr(error_message(error), words))
                fail_msg("unexpected error %s: %s", error_code_to_string(error->code), error_message(error));
}

static void put_switch(struct fixture *f, const char *name, const char *text)
{
        put_ok(f, vswitch_set_put_switch, name, text);
}

static void put_group(struct fixture *f, const char *name, const char *text)
{
        put_ok(f, vswitch_set_put_port_group, name, text);
}

static struct netlink_link link_of(struct fixture *f, const char *name)
{
        struct netlink_link link = {};

        assert_int_equal(netlink_get_link(f->netlink, name, &link), 0);
        return link;
}

static bool exists(struct fixture *f, const char *name)
{
        struct netlink_link link;

        return !netlink_get_link(f->netlink, name, &link);
}

static int open_tap(struct fixture *f, const char *port_group)
{
        struct vswitch_port_group where;
        int fd;

        assert_int_equal(vswitch_set_find_port_group(f->set, port_group, &where, NULL), 0);
        assert_int_equal(tap_open(f->netlink,
                                 &(struct tap_spec){.vm_uid = UID,
                                         .port_group = port_group,
                                         .bridge = where.bridge,
                                         .mtu = where.mtu},
                                 &fd, NULL, NULL),
                0);
        return fd;
}

static void assert_status(json_t *status, bool ok, const char *words)
{
        const char *message = json_string_value(json_object_get(status, "message"));

        assert_non_null(status);
        assert_int_equal(json_is_true(json_object_get(status, "ok")), ok);
        if (words)
                assert_non_null(strstr(message, words));
        else
                assert_null(message);
        json_decref(status);
}

static void test_a_switch_is_a_bridge_with_its_uplink(void **state)
{
        struct fixture *f = *state;
        struct netlink_link bridge;

        put_switch(f, "lan", "{\"uplink\": \"nic0\", \"mtu\": null}");
        bridge = link_of(f, "dv-lan");
        assert_string_equal(bridge.kind, "bridge");
        assert_string_equal(bridge.alias, "drover switch lan");
        assert_true(bridge.up);
        assert_int_equal(bridge.mtu, 1500);
        assert_int_equal(link_of(f, "nic0").master_index, bridge.index);
        assert_true(link_of(f, "nic0").up);
        assert_status(vswitch_set_switch_status(f->set, "lan"), true, NULL);
}

static void test_spanning_tree_and_forward_delay_are_off(void **state)
{
        struct fixture *f = *state;

        put_switch(f, "lan", "{\"uplink\": \"nic0\"}");
        netns_run("ip -d link show dv-lan | grep -q 'forward_delay 0 .*stp_state 0'");
}

static void test_putting_the_same_again_changes_nothing(void **state)
{
        struct fixture *f = *state;
        int index;

        put_switch(f, "lan", "{\"uplink\": \"nic0\"}");
        index = link_of(f, "dv-lan").index;
        put_switch(f, "lan", "{\"uplink\": \"nic0\"}");
        vswitch_set_apply(f->set);
        assert_int_equal(link_of(f, "dv-lan").index, index);
}

static void test_apply_repairs_what_somebody_broke(void **state)
{
        struct fixture *f = *state;

        put_switch(f, "lan", "{\"uplink\": \"nic0\", \"mtu\": 1400}");
        netns_run("ip link set nic0 nomaster down; ip link set dv-lan mtu 1300 down");
        vswitch_set_apply(f->set);
        assert_int_equal(link_of(f, "nic0").master_index, link_of(f, "dv-lan").index);
        assert_true(link_of(f, "nic0").up);
        assert_true(link_of(f, "dv-lan").up);
        assert_int_equal(link_of(f, "dv-lan").mtu, 1400);
}

static void test_mtu_larger_than_the_uplinks_is_refused(void **state)
{
        struct fixture *f = *state;

        put_fails(f, vswitch_set_put_switch, "lan", "{\"uplink\": \"nic0\", \"mtu\": 9000}",
                ERROR_CHECK_FAILED, "nic0 has MTU 1500, the switch needs 9000");
        assert_false(exists(f, "dv-lan"));
        assert_null(vswitch_set_switch_status(f->set, "lan"));
}

static void test_mtu_reaches_bridge_and_ports(void **state)
{
        struct fixture *f = *state;
        char tap[IFNAMSIZ];
        int fd;

        netns_run("ip link set nic0 mtu 9000");
        put_switch(f, "lan", "{\"uplink\": \"nic0\"}");
        put_group(f, "default", "{\"switch\": \"lan\"}");
        assert_int_equal(link_of(f, "dv-lan").mtu, 9000);
        fd = open_tap(f, "default");
        ifname_tap(UID, 0, tap);
        assert_int_equal(link_of(f, tap).mtu, 9000);
        put_switch(f, "lan", "{\"uplink\": \"nic0\", \"mtu\": 4000}");
        assert_int_equal(link_of(f, tap).mtu, 4000);
        assert_int_equal(link_of(f, "dv-lan").mtu, 4000);
        close(fd);
}

static void test_unknown_uplink_is_refused(void **state)
{
        struct fixture *f = *state;

        put_fails(f, vswitch_set_put_switch, "lan", "{\"uplink\": \"eth77\"}", ERROR_NOT_FOUND, "eth77");
        assert_false(exists(f, "dv-lan"));
}

static void test_uplink_of_another_switch_is_refused(void **state)
{
        struct fixture *f = *state;

        put_switch(f, "lan", "{\"uplink\": \"nic0\"}");
        put_fails(f, vswitch_set_put_switch, "san", "{\"uplink\": \"nic0\"}", ERROR_CONFLICT,
                "port of another bridge");
        assert_false(exists(f, "dv-san"));
        put_fails(f, vswitch_set_put_switch, "san", "{\"uplink\": \"dv-lan\"}", ERROR_CONFLICT,
                "another switch");
        assert_int_equal(link_of(f, "nic0").master_index, link_of(f, "dv-lan").index);
}

static void test_uplink_with_the_hosts_address_is_refused(void **state)
{
        struct fixture *f = *state;

        netns_run("ip addr add 192.0.2.1/24 dev nic0");
        put_fails(f, vswitch_set_put_switch, "lan", "{\"uplink\": \"nic0\"}", ERROR_CONFLICT,
                "address of this host");
        assert_int_equal(link_of(f, "nic0").master_index, 0);
}

static void test_a_foreign_bridge_is_used_and_left_alone(void **state)
{
        struct fixture *f = *state;
        struct vswitch_port_group where;

        netns_run("ip link add br0 type bridge && ip addr add 192.0.2.1/24 dev br0 && ip link set nic0 "
                  "master br0 && "
                  "ip link set nic0 up && ip link set br0 up");
        put_switch(f, "lan", "{\"uplink\": \"br0\"}");
        put_group(f, "default", "{\"switch\": \"lan\"}");
        assert_int_equal(vswitch_set_find_port_group(f->set, "default", &where, NULL), 0);
        assert_string_equal(where.bridge, "br0");
        assert_false(exists(f, "dv-lan"));
        assert_int_equal(vswitch_set_remove_port_group(f->set, "default", NULL), 0);
        assert_int_equal(vswitch_set_remove_switch(f->set, "lan", NULL), 0);
        assert_true(exists(f, "br0"));
        assert_string_equal(link_of(f, "br0").alias, "");
}

static void test_lost_carrier_of_the_uplink_is_reported(void **state)
{
        struct fixture *f = *state;

        put_switch(f, "lan", "{\"uplink\": \"nic0\"}");
        put_group(f, "default", "{\"switch\": \"lan\"}");
        netns_run("ip link set cable0 down");
        assert_status(vswitch_set_switch_status(f->set, "lan"), false, "nic0 has no carrier");
        netns_run("ip link set cable0 up");
        assert_status(vswitch_set_switch_status(f->set, "lan"), true, NULL);
}

static void test_changing_the_uplink_releases_the_former_one(void **state)
{
        struct fixture *f = *state;

        put_switch(f, "lan", "{\"uplink\": \"nic0\"}");
        put_switch(f, "lan", "{\"uplink\": \"nic1\"}");
        assert_int_equal(link_of(f, "nic0").master_index, 0);
        assert_int_equal(link_of(f, "nic1").master_index, link_of(f, "dv-lan").index);
        put_switch(f, "lan", "{\"uplink\": null}");
        assert_int_equal(link_of(f, "nic1").master_index, 0);
        assert_true(exists(f, "dv-lan"));
}

static void test_a_failed_change_leaves_the_switch_as_it_was(void **state)
{
        struct fixture *f = *state;

        put_switch(f, "lan", "{\"uplink\": \"nic0\"}");
        put_fails(f, vswitch_set_put_switch, "lan", "{\"uplink\": \"eth77\"}", ERROR_NOT_FOUND, "eth77");
        assert_int_equal(link_of(f, "nic0").master_index, link_of(f, "dv-lan").index);
        assert_status(vswitch_set_switch_status(f->set, "lan"), true, NULL);
}

static void test_a_switch_with_port_groups_stays(void **state)
{
        struct fixture *f = *state;

        put_switch(f, "lan", "{\"uplink\": \"nic0\"}");
        put_group(f, "default", "{\"switch\": \"lan\", \"vlan\": 0}");
        assert_int_equal(vswitch_set_remove_switch(f->set, "lan", NULL), -EBUSY);
        assert_int_equal(vswitch_set_remove_port_group(f->set, "default", NULL), 0);
        assert_int_equal(vswitch_set_remove_switch(f->set, "lan", NULL), 0);
        assert_false(exists(f, "dv-lan"));
        assert_int_equal(link_of(f, "nic0").master_index, 0);
}

static void test_a_port_group_with_a_port_stays(void **state)
{
        struct fixture *f = *state;
        int fd;

        put_switch(f, "lan", "{}");
        put_group(f, "default", "{\"switch\": \"lan\"}");
        put_group(f, "other", "{\"switch\": \"lan\"}");
        fd = open_tap(f, "default");
        assert_int_equal(vswitch_set_remove_port_group(f->set, "default", NULL), -EBUSY);
        put_fails(f, vswitch_set_put_port_group, "default", "{\"switch\": \"lan\", \"vlan\": 7}",
                ERROR_CONFLICT, "in use");
        assert_int_equal(vswitch_set_remove_port_group(f->set, "other", NULL), 0);
        close(fd);
        assert_int_equal(vswitch_set_remove_port_group(f->set, "default", NULL), 0);
}

static void test_a_switch_with_a_foreign_port_stays(void **state)
{
        struct fixture *f = *state;

        put_switch(f, "lan", "{\"uplink\": \"nic0\"}");
        netns_run("ip link set nic1 master dv-lan");
        assert_int_equal(vswitch_set_remove_switch(f->set, "lan", NULL), -EBUSY);
        assert_true(exists(f, "dv-lan"));
}

/* Holds on both kinds of kernel: either the VLAN works, or the refusal says what is missing and leaves nothing. */
static void test_vlan_is_made_or_refused_with_the_cause(void **state)
{
        struct fixture *f = *state;
        bool has_8021q =
                !system("ip link add link nic1 name probe type vlan id 5 2>/dev/null && ip link del probe");
        char bridge[IFNAMSIZ], link[IFNAMSIZ];

        ifname_vlan_bridge("lan", 100, bridge);
        ifname_vlan_link("lan", 100, link);
        put_switch(f, "lan", "{\"uplink\": \"nic0\"}");
        if (!has_8021q) {
                put_fails(f, vswitch_set_put_port_group, "tagged", "{\"switch\": \"lan\", \"vlan\": 100}",
                        ERROR_NOT_SUPPORTED, "8021q");
                assert_false(exists(f, bridge));
                assert_null(vswitch_set_port_group_status(f->set, "tagged"));
                return;
        }
        put_group(f, "tagged", "{\"switch\": \"lan\", \"vlan\": 100}");
        assert_int_equal(link_of(f, link).master_index, link_of(f, bridge).index);
        assert_int_equal(link_of(f, link).parent_index, link_of(f, "nic0").index);
        assert_int_equal(vswitch_set_remove_port_group(f->set, "tagged", NULL), 0);
        assert_false(exists(f, bridge));
        assert_false(exists(f, link));
}

static void test_vlans_of_a_switch_without_uplink_are_apart(void **state)
{
        struct fixture *f = *state;
        struct vswitch_port_group a, b, c;

        put_switch(f, "inner", "{}");
        put_group(f, "a", "{\"switch\": \"inner\", \"vlan\": 1}");
        put_group(f, "b", "{\"switch\": \"inner\", \"vlan\": 2}");
        put_group(f, "c", "{\"switch\": \"inner\", \"vlan\": 2}");
        assert_int_equal(vswitch_set_find_port_group(f->set, "a", &a, NULL), 0);
        assert_int_equal(vswitch_set_find_port_group(f->set, "b", &b, NULL), 0);
        assert_int_equal(vswitch_set_find_port_group(f->set, "c", &c, NULL), 0);
        assert_string_not_equal(a.bridge, b.bridge);
        assert_string_equal(b.bridge, c.bridge);
        assert_int_equal(vswitch_set_remove_port_group(f->set, "b", NULL), 0);
        assert_true(exists(f, c.bridge));
        assert_int_equal(vswitch_set_remove_port_group(f->set, "c", NULL), 0);
        assert_false(exists(f, c.bridge));
}

static void test_bad_documents_are_refused(void **state)
{
        struct fixture *f = *state;

        put_fails(f, vswitch_set_put_switch, "lan", "{\"uplnk\": \"nic0\"}", ERROR_BAD_DOCUMENT, "uplnk");
        put_fails(f, vswitch_set_put_switch, "lan", "{\"mtu\": 100}", ERROR_BAD_DOCUMENT, "mtu");
        put_fails(f, vswitch_set_put_switch, "lan", "{\"uplink\": \"a/b\"}", ERROR_BAD_DOCUMENT, "uplink");
        put_fails(f, vswitch_set_put_switch, "../x", "{}", ERROR_BAD_DOCUMENT, "name");
        put_fails(f, vswitch_set_put_port_group, "g", "{\"switch\": \"lan\"}", ERROR_NOT_FOUND, "lan");
        put_fails(f, vswitch_set_put_port_group, "g", "{}", ERROR_BAD_DOCUMENT, "switch");
        put_fails(f, vswitch_set_put_port_group, "g", "{\"switch\": \"lan\", \"vlan\": 4095}",
                ERROR_BAD_DOCUMENT, "4095");
}

static void test_a_restarted_agent_finds_its_switches_again(void **state)
{
        struct fixture *f = *state;
        _cleanup_json_ json_t *desired = NULL;
        int index;

        put_switch(f, "lan", "{\"uplink\": \"nic0\", \"mtu\": 1400}");
        put_group(f, "default", "{\"switch\": \"lan\"}");
        index = link_of(f, "dv-lan").index;
        desired = vswitch_set_to_json(f->set);
        vswitch_set_free(f->set);
        assert_int_equal(vswitch_set_new(f->netlink, &f->set), 0);
        assert_int_equal(vswitch_set_load(f->set, desired, NULL), 0);
        assert_int_equal(link_of(f, "dv-lan").index, index);
        assert_status(vswitch_set_switch_status(f->set, "lan"), true, NULL);
        assert_status(vswitch_set_port_group_status(f->set, "default"), true, NULL);
}

static void test_a_missing_nic_at_load_is_reported_and_tried_again(void **state)
{
        struct fixture *f = *state;
        _cleanup_json_ json_t *desired = json_of(
                "{\"format\": 1, \"switches\": [{\"name\": \"late\", \"uplink\": \"nic9\", \"mtu\": null}, "
                "{\"name\": \"lan\", \"uplink\": \"nic0\", \"mtu\": null}], "
                "\"port_groups\": [{\"name\": \"g\", \"switch\": \"late\", \"vlan\": 0}]}");
        struct vswitch_port_group where;

        assert_int_equal(vswitch_set_load(f->set, desired, NULL), 0);
        assert_status(vswitch_set_switch_status(f->set, "late"), false, "nic9");
        assert_status(vswitch_set_port_group_status(f->set, "g"), false, "nic9");
        assert_status(vswitch_set_switch_status(f->set, "lan"), true, NULL);
        assert_int_equal(vswitch_set_find_port_group(f->set, "g", &where, NULL), -ENOENT);
        netns_run("ip link add nic9 type veth peer name cable9 && ip link set cable9 up");
        assert_int_equal(vswitch_set_find_port_group(f->set, "g", &where, NULL), 0);
        assert_string_equal(where.bridge, "dv-late");
}

static void test_a_foreign_interface_of_the_same_name_is_refused(void **state)
{
        struct fixture *f = *state;

        netns_run("ip link add dv-lan type veth peer name dv-x");
        put_fails(f, vswitch_set_put_switch, "lan", "{}", ERROR_CONFLICT, "no bridge");
        assert_true(exists(f, "dv-lan"));
}

static json_t *foreign_macs_of_lan(struct fixture *f)
{
        _cleanup_json_ json_t *list = vswitch_set_list_switches(f->set, NULL);

        assert_non_null(list);
        return json_incref(json_object_get(json_array_get(list, 0), "foreign_macs"));
}

static bool has_mac(const json_t *macs, const char *mac, const char *port)
{
        size_t i;
        json_t *item;

        json_array_foreach ((json_t *)macs, i, item)
                if (!strcmp(json_string_value(json_object_get(item, "mac")), mac) &&
                        !strcmp(json_string_value(json_object_get(item, "port")), port))
                        return true;
        return false;
}

static void test_macs_of_others_on_this_host_are_told(void **state)
{
        struct fixture *f = *state;
        _cleanup_json_ json_t *macs = NULL;
        char tap[IFNAMSIZ];
        _cleanup_free_ char *learn = NULL;
        int fd;

        put_switch(f, "lan", "{\"uplink\": \"nic0\"}");
        put_group(f, "g", "{\"switch\": \"lan\", \"vlan\": 0}");
        fd = open_tap(f, "g");
        ifname_tap(UID, 0, tap);
        learn = alloc_printf("ip link add other0 type veth peer name other1 && ip link set other0 master "
                             "dv-lan up && ip link set other1 up && "
                             "ip link set nic0 address 02:00:00:00:00:05 && "
                             "bridge fdb add 02:00:00:00:00:01 dev other0 master dynamic && "
                             "bridge fdb add 02:00:00:00:00:02 dev nic0 master dynamic && "
                             "bridge fdb add 02:00:00:00:00:03 dev %s master dynamic",
                tap);
        netns_run(learn);
        macs = foreign_macs_of_lan(f);
        assert_true(has_mac(macs, "02:00:00:00:00:01", "other0")); /* a container */
        assert_true(has_mac(macs, "02:00:00:00:00:05", "nic0"));   /* the host itself */
        assert_false(has_mac(macs, "02:00:00:00:00:02", "nic0"));  /* somewhere else in the network */
        assert_false(has_mac(macs, "02:00:00:00:00:03", tap));     /* a guest of drover */
        close(fd);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
        const struct CMUnitTest tests[] = {
                CASE(test_a_switch_is_a_bridge_with_its_uplink),
                CASE(test_spanning_tree_and_forward_delay_are_off),
                CASE(test_putting_the_same_again_changes_nothing),
                CASE(test_apply_repairs_what_somebody_broke),
                CASE(test_mtu_larger_than_the_uplinks_is_refused),
                CASE(test_mtu_reaches_bridge_and_ports),
                CASE(test_unknown_uplink_is_refused),
                CASE(test_uplink_of_another_switch_is_refused),
                CASE(test_uplink_with_the_hosts_address_is_refused),
                CASE(test_a_foreign_bridge_is_used_and_left_alone),
                CASE(test_lost_carrier_of_the_uplink_is_reported),
                CASE(test_changing_the_uplink_releases_the_former_one),
                CASE(test_a_failed_change_leaves_the_switch_as_it_was),
                CASE(test_a_switch_with_port_groups_stays),
                CASE(test_a_port_group_with_a_port_stays),
                CASE(test_a_switch_with_a_foreign_port_stays),
                CASE(test_vlan_is_made_or_refused_with_the_cause),
                CASE(test_vlans_of_a_switch_without_uplink_are_apart),
                CASE(test_bad_documents_are_refused),
                CASE(test_a_restarted_agent_finds_its_switches_again),
                CASE(test_a_missing_nic_at_load_is_reported_and_tried_again),
                CASE(test_a_foreign_interface_of_the_same_name_is_refused),
                CASE(test_macs_of_others_on_this_host_are_told),
        };

        netns_enter();
        return cmocka_run_group_tests(tests, NULL, NULL);
}
