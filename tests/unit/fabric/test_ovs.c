/* SPDX-License-Identifier: Apache-2.0 */
/* Distributed switches on a real Open vSwitch: through vswitch.h, as the agent uses them. */
#include "openvswitch.h"

#include "../torture_loop.h"

#include "base/clock.h"
#include "base/doc.h"
#include "fabric/ifname.h"
#include "fabric/ovs.h"
#include "fabric/ovs_speaker.h"
#include "fabric/packet_socket.h"
#include "fabric/tap.h"
#include "fabric/vswitch.h"

#define BODY(version, more) "{\"type\": \"distributed\", \"version\": " #version ", \"mtu\": 1500" more "}"
#define ONE_NIC ", \"uplinks\": [\"nic0\"]"
#define FRAME_SIZE 60
#define HEADER_SIZE 10 /* struct virtio_net_hdr */

static struct openvswitch ovs;
static struct clock_manual clock_now;

struct fixture {
        struct netlink *netlink;
        struct ovs *ovs;
        struct vswitch_set *set;
};

static int start(void **state)
{
        clock_manual_init(&clock_now, 1000);
        openvswitch_start(&ovs);
        openvswitch_vsctl("--no-wait set Open_vSwitch . other_config:userspace-tso-enable=true");
        openvswitch_start_vswitch(&ovs);
        return 0;
}

static int stop(void **state)
{
        openvswitch_stop(&ovs);
        return 0;
}

static void make_set(struct fixture *f)
{
        assert_int_equal(vswitch_set_new(f->netlink, &f->set), 0);
        vswitch_set_use_ovs(f->set, f->ovs, &clock_now.clock);
}

/* The daemons are for all tests; each has NICs of its own. */
static int set_up(void **state)
{
        struct fixture *f = test_calloc(1, sizeof(*f));

        netns_run("ip link add nic0 type veth peer name cable0 && ip link add nic1 type veth peer name "
                  "cable1 && "
                  "ip link set cable0 up && ip link set cable1 up");
        assert_int_equal(netlink_new(&f->netlink, NULL), 0);
        assert_int_equal(ovs_new(ovs.socket, f->netlink, &clock_system, &f->ovs), 0);
        make_set(f);
        *state = f;
        return 0;
}

static int tear_down(void **state)
{
        struct fixture *f = *state;

        vswitch_set_free(f->set);
        ovs_free(f->ovs);
        netlink_free(f->netlink);
        test_free(f);
        openvswitch_vsctl("--if-exists del-br dv-d1 -- --if-exists del-br own");
        netns_run("ip link delete nic0; ip link delete nic1; true");
        return 0;
}

static json_t *json_of(const char *text)
{
        json_t *json = NULL;

        assert_int_equal(doc_parse(text, strlen(text), &json, NULL), 0);
        return json;
}

static void put_switch(struct fixture *f, const char *text)
{
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *body = json_of(text);

        if (vswitch_set_put_switch(f->set, "d1", body, &error) < 0)
                fail_msg("%s", error_message(error));
}

static void put_of_fails(
        struct fixture *f, const char *name, const char *text, enum error_code code, const char *words)
{
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *body = json_of(text);

        assert_true(vswitch_set_put_switch(f->set, name, body, &error) < 0);
        if (error->code != code || !strstr(error_message(error), words))
                fail_msg("unexpected error %s: %s", error_code_to_string(error->code), error_message(error));
}

static void put_fails(struct fixture *f, const char *text, enum error_code code, const char *words)
{
        put_of_fails(f, "d1", text, code, words);
}

static void put_group(struct fixture *f, const char *name, int vlan)
{
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *body = json_pack("{s:s, s:i}", "switch", "d1", "vlan", vlan);

        if (vswitch_set_put_port_group(f->set, name, body, &error) < 0)
                fail_msg("%s", error_message(error));
}

static int open_tap(struct fixture *f, const char *uid, const char *group, char name[IFNAMSIZ])
{
        _cleanup_error_ struct error *error = NULL;
        struct vswitch_port_group where;
        int fd = -1;

        if (vswitch_set_find_port_group(f->set, group, &where, &error) < 0 ||
                tap_open(f->netlink,
                        &(struct tap_spec){.vm_uid = uid,
                                .port_group = group,
                                .bridge = where.bridge,
                                .mtu = where.mtu,
                                .ovs = where.ovs,
                                .vlan = where.vlan},
                        &fd, name, &error) < 0)
                fail_msg("%s", error_message(error));
        return fd;
}

/* A guest in VLAN 10 of version 1: its tap, and the tap's name. */
static int make_one_port(struct fixture *f, char name[IFNAMSIZ])
{
        put_switch(f, BODY(1, ONE_NIC));
        put_group(f, "blue", 10);
        return open_tap(f, "vm-1", "blue", name);
}

static void assert_answer(const char *question, const char *wanted)
{
        char answer[256];

        openvswitch_ask(question, answer, sizeof(answer));
        assert_string_equal(answer, wanted);
}

static void assert_port(const char *name, const char *column, const char *wanted)
{
        char question[128];

        snprintf(question, sizeof(question), "get Port %s %s", name, column);
        assert_answer(question, wanted);
}

/* `words`: in the last thing that was mended; NULL: nothing was. `left`: how many differences are left. */
static void assert_mended(struct fixture *f, int count, const char *words, size_t left)
{
        _cleanup_json_ json_t *status = vswitch_set_switch_status(f->set, "d1");
        const json_t *mended = json_object_get(status, "mended");
        _cleanup_free_ char *text = doc_to_text(status);

        if (json_array_size(json_object_get(status, "drift")) != left ||
                json_integer_value(json_object_get(mended, "count")) != count ||
                (words && !strstr(text, words)) || (!words && !json_is_null(mended)))
                fail_msg("%s", text);
}

/* It works, and something differs that cannot be mended; `words` are in it. */
static void assert_works_with_drift(struct fixture *f, const char *words)
{
        _cleanup_json_ json_t *status = vswitch_set_switch_status(f->set, "d1");
        _cleanup_free_ char *text = doc_to_text(json_object_get(status, "drift"));

        if (!json_is_true(json_object_get(status, "ok")) || !strstr(text, words))
                fail_msg("%s; %s", json_string_value(json_object_get(status, "message")) ?: "it works", text);
}

/* Somebody changes the tap's VLAN by hand. */
static void spoil_tag(const char *tap)
{
        char words[64];

        snprintf(words, sizeof(words), "set Port %s tag=30", tap);
        openvswitch_vsctl(words);
}

static void makes_the_bridge_with_its_uplink(void **state)
{
        struct fixture *f = *state;
        _cleanup_json_ json_t *status = NULL;

        put_switch(f, BODY(3, ONE_NIC));
        assert_answer("get Bridge dv-d1 external_ids:drover-switch", "d1");
        assert_answer("get Bridge dv-d1 external_ids:drover-version", "\"3\"");
        assert_answer("get Bridge dv-d1 datapath_type", "netdev");
        assert_port("nic0", "tag", "[]");
        assert_port("nic0", "external_ids:drover-uplink", "d1");
        status = vswitch_set_switch_status(f->set, "d1");
        assert_int_equal(json_integer_value(json_object_get(status, "version")), 3);
        assert_true(json_is_true(json_object_get(status, "ok")));
        assert_mended(f, 0, NULL, 0);
        /* Again, nothing is to be done. */
        vswitch_set_tend(f->set);
        assert_mended(f, 0, NULL, 0);
}

static void a_new_version_changes_the_uplinks(void **state)
{
        struct fixture *f = *state;
        char bond[IFNAMSIZ];

        ifname_bond("d1", bond);
        put_switch(f, BODY(1, ONE_NIC));
        put_switch(f, BODY(2, ", \"uplinks\": [\"nic0\", \"nic1\"], \"uplink_policy\": \"balance-slb\""));
        assert_port(bond, "bond_mode", "balance-slb");
        assert_port(bond, "lacp", "off");
        put_switch(f, BODY(3, ", \"uplinks\": [\"nic1\", \"nic0\"], \"uplink_policy\": \"lacp\""));
        assert_port(bond, "bond_mode", "balance-tcp");
        assert_port(bond, "lacp", "active");
        put_switch(f, BODY(4, ", \"uplinks\": [\"nic1\"]"));
        assert_answer("list-ports dv-d1", "nic1");
        put_switch(f, BODY(5, ""));
        assert_answer("list-ports dv-d1", "");
        assert_answer("get Bridge dv-d1 external_ids:drover-version", "\"5\"");
        assert_mended(f, 0, NULL, 0);
}

static void a_change_that_cannot_be_applied_leaves_the_version_of_before(void **state)
{
        struct fixture *f = *state;
        _cleanup_json_ json_t *status = NULL;

        put_switch(f, BODY(1, ONE_NIC));
        put_fails(f, BODY(2, ", \"uplinks\": [\"nic9\"]"), ERROR_NOT_FOUND, "no network interface nic9");
        netns_run("ip link set nic1 mtu 1400");
        put_fails(f, BODY(2, ", \"uplinks\": [\"nic1\"]"), ERROR_CHECK_FAILED, "nic1 has MTU 1400");
        netns_run("ip link set nic1 mtu 1500 && ip address add 192.0.2.1/24 dev nic1");
        put_fails(f, BODY(2, ", \"uplinks\": [\"nic1\"]"), ERROR_CONFLICT, "carries an address");
        assert_answer("get Bridge dv-d1 external_ids:drover-version", "\"1\"");
        assert_answer("list-ports dv-d1", "nic0");
        status = vswitch_set_switch_status(f->set, "d1");
        assert_int_equal(json_integer_value(json_object_get(status, "version")), 1);
        assert_true(json_is_true(json_object_get(status, "ok")));
}

static void documents_that_make_no_sense_are_refused(void **state)
{
        struct fixture *f = *state;

        put_fails(f, "{\"type\": \"distributed\"}", ERROR_BAD_DOCUMENT, "version");
        put_fails(f, "{\"type\": \"magic\"}", ERROR_BAD_DOCUMENT, "there is no type magic");
        put_fails(f, BODY(1, ", \"uplink\": \"nic0\""), ERROR_BAD_DOCUMENT, "uplink");
        put_fails(f, BODY(1, ", \"uplinks\": [\"nic0\", \"nic0\"]"), ERROR_BAD_DOCUMENT, "nic0 twice");
        put_fails(f, BODY(1, ", \"uplinks\": [\"dvt01\"]"), ERROR_BAD_DOCUMENT, "cannot be an uplink");
        put_fails(f, BODY(1, ", \"uplink_policy\": \"all\""), ERROR_BAD_DOCUMENT, "no policy all");
        put_fails(f, BODY(1, ONE_NIC ", \"bridge\": \"own\""), ERROR_BAD_DOCUMENT, "together");
}

static void a_switch_does_not_change_its_kind(void **state)
{
        struct fixture *f = *state;

        put_switch(f, BODY(1, ""));
        put_fails(f, "{}", ERROR_CONFLICT, "the distributed switch d1 already");
}

static void what_is_not_drovers_is_left_alone(void **state)
{
        struct fixture *f = *state;

        openvswitch_vsctl("add-br dv-d1 -- set Bridge dv-d1 datapath_type=netdev stp_enable=true");
        put_fails(f, BODY(1, ""), ERROR_CONFLICT, "is not drover's");
        assert_answer("get Bridge dv-d1 stp_enable", "true");
        assert_answer("get Bridge dv-d1 external_ids", "{}");
        openvswitch_vsctl(
                "del-br dv-d1 -- add-br own -- set Bridge own datapath_type=netdev -- add-port own nic0");
        put_fails(f, BODY(1, ONE_NIC), ERROR_CONFLICT, "nic0 is a port of the bridge own");
        assert_answer("list-ports own", "nic0");
}

static void an_administrators_bridge_is_used_as_it_is_if_that_is_said(void **state)
{
        struct fixture *f = *state;
        char name[IFNAMSIZ], ports[64];
        int fd;

        openvswitch_vsctl(
                "add-br own -- set Bridge own datapath_type=netdev stp_enable=true -- add-port own nic0");
        put_switch(f, BODY(1, ", \"bridge\": \"own\""));
        put_group(f, "blue", 10);
        fd = open_tap(f, "vm-1", "blue", name);
        assert_port(name, "tag", "10");
        assert_answer("get Bridge own stp_enable", "true");
        assert_answer("get Bridge own external_ids", "{}");
        close(fd);
        vswitch_set_tend(f->set);
        assert_answer("list-ports own | sed /^dvp/d", "nic0");
        assert_int_equal(vswitch_set_remove_port_group(f->set, "blue", NULL), 0);
        assert_int_equal(vswitch_set_remove_switch(f->set, "d1", NULL), 0);
        openvswitch_ask("list-ports own", ports, sizeof(ports));
        assert_string_equal(ports, "nic0");
}

static void drift_is_mended(void **state)
{
        struct fixture *f = *state;
        char name[IFNAMSIZ], words[128];
        int fd;

        fd = make_one_port(f, name);
        assert_port(name, "tag", "10");
        assert_port(name, "vlan_mode", "access");
        assert_mended(f, 0, NULL, 0);

        snprintf(words, sizeof(words), "remove Port %s tag 10", name);
        openvswitch_vsctl(words);
        vswitch_set_tend(f->set);
        assert_port(name, "tag", "10");
        assert_mended(f, 1, "has no VLAN tag, and 10 is configured", 0);

        snprintf(words, sizeof(words), "set Port %s tag=30", name);
        openvswitch_vsctl(words);
        vswitch_set_tend(f->set);
        assert_port(name, "tag", "10");
        assert_mended(f, 2, "has VLAN 30, and 10 is configured", 0);

        snprintf(words, sizeof(words), "del-port %s", name);
        openvswitch_vsctl(words);
        vswitch_set_tend(f->set);
        assert_port(name, "tag", "10");
        assert_mended(f, 3, "is no port of the bridge dv-d1", 0);

        openvswitch_vsctl("set Bridge dv-d1 stp_enable=true -- set Port nic0 trunks=10 -- del-port nic0");
        vswitch_set_tend(f->set);
        assert_answer("get Bridge dv-d1 stp_enable", "false");
        assert_port("nic0", "trunks", "[]");
        assert_mended(f, 4, "the uplink nic0 is no port", 0);

        openvswitch_vsctl("del-br dv-d1");
        vswitch_set_tend(f->set);
        assert_port(name, "tag", "10");
        assert_mended(f, 5, "the bridge dv-d1 is missing", 0);
        close(fd);
}

static void drift_that_cannot_be_mended_is_told(void **state)
{
        struct fixture *f = *state;
        _cleanup_json_ json_t *status = NULL;

        put_switch(f, BODY(1, ONE_NIC));
        openvswitch_vsctl("remove Bridge dv-d1 external_ids drover-switch");
        vswitch_set_tend(f->set);
        status = vswitch_set_switch_status(f->set, "d1");
        assert_true(json_is_false(json_object_get(status, "ok")));
        assert_string_equal(json_string_value(json_object_get(status, "message")),
                "the bridge dv-d1 of Open vSwitch is not drover's");
        openvswitch_vsctl("set Bridge dv-d1 external_ids:drover-switch=d1");
        vswitch_set_tend(f->set);
        json_decref(status);
        status = vswitch_set_switch_status(f->set, "d1");
        assert_true(json_is_true(json_object_get(status, "ok")));
}

static void checksums_that_would_be_lost_are_told(void **state)
{
        struct fixture *f = *state;
        _cleanup_json_ json_t *status = NULL;

        openvswitch_vsctl("remove Open_vSwitch . other_config userspace-tso-enable");
        put_switch(f, BODY(1, ONE_NIC));
        openvswitch_vsctl("set Bridge dv-d1 stp_enable=true");
        vswitch_set_tend(f->set); /* which mends the one, and not the other */
        openvswitch_vsctl("set Open_vSwitch . other_config:userspace-tso-enable=true");
        status = vswitch_set_switch_status(f->set, "d1");
        assert_int_equal(json_array_size(json_object_get(json_object_get(status, "mended"), "what")), 1);
        assert_non_null(strstr(
                json_string_value(json_array_get(json_object_get(status, "drift"), 0)), "loses checksums"));
        vswitch_set_tend(f->set);
        assert_mended(f, 1, "stp_enable", 0);
}

static void a_nic_that_goes_away_is_drift_and_the_rest_goes_on(void **state)
{
        struct fixture *f = *state;
        char name[IFNAMSIZ];
        int fd;

        put_switch(f, BODY(1, ", \"uplinks\": [\"nic0\", \"nic1\"]"));
        put_group(f, "blue", 10);
        fd = open_tap(f, "vm-1", "blue", name);
        netns_run("ip link delete nic1 && ip link set nic0 mtu 1400");
        spoil_tag(name);
        vswitch_set_tend(f->set);
        assert_port(name, "tag", "10");
        assert_works_with_drift(f, "this host has no network interface nic1, an uplink of switch d1");
        assert_works_with_drift(f, "the uplink nic0 has MTU 1400, the switch needs 1500");
        close(fd);
        fd = open_tap(f, "vm-2", "blue", name);
        assert_port(name, "tag", "10");
        put_switch(f, BODY(1, ", \"uplinks\": [\"nic0\", \"nic1\"]")); /* an agent is told it again */
        put_fails(f, BODY(2, ", \"uplinks\": [\"nic0\", \"nic1\"]"), ERROR_CHECK_FAILED, "MTU 1400");
        close(fd);
        netns_run("ip link add nic1 type veth peer name cable1");
}

static void a_nic_that_somebody_gave_an_address_is_not_taken_back(void **state)
{
        struct fixture *f = *state;
        char name[IFNAMSIZ];
        int fd;

        fd = make_one_port(f, name);
        openvswitch_vsctl("del-port nic0");
        netns_run("ip address add 192.0.2.1/24 dev nic0");
        spoil_tag(name);
        vswitch_set_tend(f->set);
        assert_port(name, "tag", "10");
        assert_works_with_drift(f, "the uplink nic0 carries an address of this host");
        assert_answer("list-ports dv-d1 | sed /^dvp/d", name);
        close(fd);
}

static void a_tap_on_another_bridge_keeps_no_other_from_being_mended(void **state)
{
        struct fixture *f = *state;
        char name[IFNAMSIZ], other[IFNAMSIZ], words[128];
        int fds[2];

        put_switch(f, BODY(1, ONE_NIC));
        put_group(f, "blue", 10);
        fds[0] = open_tap(f, "vm-1", "blue", name);
        fds[1] = open_tap(f, "vm-2", "blue", other);
        snprintf(words, sizeof(words),
                "add-br own -- set Bridge own datapath_type=netdev -- del-port %s -- add-port own %s", other,
                other);
        openvswitch_vsctl(words);
        spoil_tag(name);
        vswitch_set_tend(f->set);
        assert_port(name, "tag", "10");
        assert_works_with_drift(f, "is a port of the bridge own, where drover did not put it");
        assert_answer("list-ports own", other);
        close(fds[0]);
        close(fds[1]);
}

static void what_something_changes_again_and_again_is_told(void **state)
{
        struct fixture *f = *state;
        char name[IFNAMSIZ];
        int fd;

        fd = make_one_port(f, name);
        for (int i = 1; i <= 3; i++) {
                spoil_tag(name);
                clock_manual_advance(&clock_now, 5000);
                vswitch_set_tend(f->set);
                assert_mended(f, i, "has VLAN 30, and 10 is configured", i == 3);
        }
        assert_works_with_drift(
                f, "mended 3 times within a minute each, and something changes it again: the port");
        clock_manual_advance(&clock_now, 60001);
        vswitch_set_tend(f->set);
        assert_mended(f, 3, "has VLAN 30, and 10 is configured", 0);
        close(fd);
}

static void putting_the_same_version_tells_what_it_mends(void **state)
{
        struct fixture *f = *state;

        put_switch(f, BODY(1, ONE_NIC));
        openvswitch_vsctl("set Bridge dv-d1 stp_enable=true");
        put_switch(f, BODY(1, ONE_NIC));
        assert_mended(f, 1, "stp_enable", 0);
        openvswitch_vsctl("set Bridge dv-d1 stp_enable=true");
        put_switch(f, BODY(2, ONE_NIC)); /* what a new version changes is no drift */
        assert_mended(f, 1, "stp_enable", 0);
}

static void two_switches_do_not_share_a_bridge_or_a_nic(void **state)
{
        struct fixture *f = *state;

        openvswitch_vsctl("add-br own -- set Bridge own datapath_type=netdev");
        put_switch(f, BODY(1, ", \"bridge\": \"own\""));
        put_of_fails(f, "d2", BODY(1, ", \"bridge\": \"own\""), ERROR_CONFLICT,
                "the bridge own is that of the switch d1 already");
        put_switch(f, BODY(2, ONE_NIC));
        put_of_fails(f, "d2", BODY(1, ", \"bridge\": \"dv-d1\""), ERROR_CONFLICT, "dv-d1");
        put_of_fails(f, "d2", BODY(1, ONE_NIC), ERROR_CONFLICT,
                "the uplink nic0 is that of the switch d1 already");
        put_of_fails(f, "s1", "{\"uplink\": \"nic0\"}", ERROR_CONFLICT,
                "the uplink nic0 is that of the switch d1 already");
        assert_answer("list-ports dv-d1", "nic0");
}

static void drovers_own_bridge_is_not_adopted(void **state)
{
        struct fixture *f = *state;

        openvswitch_vsctl("add-br own -- set Bridge own datapath_type=netdev external_ids:drover-switch=d7");
        put_fails(f, BODY(1, ", \"bridge\": \"own\""), ERROR_CONFLICT, "is drover's own, for the switch d7");
}

static void a_switch_that_gets_another_bridge_leaves_none_behind(void **state)
{
        struct fixture *f = *state;

        openvswitch_vsctl("add-br own -- set Bridge own datapath_type=netdev");
        put_switch(f, BODY(1, ONE_NIC));
        put_switch(f, BODY(2, ", \"bridge\": \"own\""));
        assert_answer("list-br", "own");
        put_switch(f, BODY(3, ONE_NIC));
        assert_answer("list-ports dv-d1", "nic0");
        assert_answer("list-ports own", "");
}

static void no_bridge_is_made_before_the_datapaths_are_known(void **state)
{
        struct fixture *f = *state;

        openvswitch_end(&ovs.vswitch);
        openvswitch_vsctl("--no-wait clear Open_vSwitch . datapath_types");
        put_fails(f, BODY(1, ONE_NIC), ERROR_UNREACHABLE, "its ovs-vswitchd has never run");
        openvswitch_start_vswitch(&ovs);
        put_switch(f, BODY(1, ONE_NIC));
        assert_answer("get Bridge dv-d1 datapath_type", "netdev");
}

/* Of a port that has nothing to do with the kernel, such as vhost-user. */
static void long_names_in_other_scripts_are_told(void **state)
{
        struct fixture *f = *state;
        char words[1400];
        size_t len;

        put_switch(f, BODY(1, ONE_NIC));
        len = (size_t)snprintf(words, sizeof(words), "--no-wait add-port dv-d1 ");
        for (int i = 0; i < 301; i++)
                len += (size_t)snprintf(words + len, sizeof(words) - len, "\xc3\xa9");
        snprintf(words + len, sizeof(words) - len, " external_ids:drover-uplink=d1");
        openvswitch_vsctl(words);
        vswitch_set_tend(f->set);
        assert_answer("list-ports dv-d1", "nic0");
        assert_mended(f, 1, "\xc3\xa9 is an uplink, and is not configured so", 0);
}

static void looking_a_port_group_up_asks_nobody(void **state)
{
        struct fixture *f = *state;
        struct vswitch_port_group found;
        _cleanup_(vswitch_set_freep) struct vswitch_set *never = NULL;
        _cleanup_json_ json_t *desired = NULL;
        struct ovs *away = NULL;

        put_switch(f, BODY(1, ONE_NIC));
        put_group(f, "blue", 10);
        assert_int_equal(ovs_new("/nonexistent/db.sock", f->netlink, &clock_system, &away), 0);
        vswitch_set_use_ovs(f->set, away, &clock_now.clock);
        assert_int_equal(vswitch_set_look_up_port_group(f->set, "blue", &found), 0);
        assert_string_equal(found.bridge, "dv-d1");
        assert_int_equal(found.vlan, 10);
        assert_true(vswitch_set_find_port_group(f->set, "blue", &found, NULL) < 0);
        found = (struct vswitch_port_group){0};
        assert_int_equal(vswitch_set_look_up_port_group(f->set, "blue", &found), 0); /* it is there still */
        assert_string_equal(found.bridge, "dv-d1");
        desired = vswitch_set_to_json(f->set);
        assert_int_equal(vswitch_set_new(f->netlink, &never), 0);
        vswitch_set_use_ovs(never, away, &clock_now.clock);
        assert_int_equal(vswitch_set_load(never, desired, NULL), 0);
        assert_int_equal(vswitch_set_look_up_port_group(never, "blue", &found), -ENOENT);
        assert_int_equal(vswitch_set_look_up_port_group(f->set, "green", &found), -ENOENT);
        ovs_free(away);
}

static void a_daemon_that_does_not_follow_is_told(void **state)
{
        struct fixture *f = *state;
        _cleanup_json_ json_t *status = NULL;

        put_switch(f, BODY(1, ONE_NIC));
        openvswitch_end(&ovs.vswitch);
        openvswitch_vsctl("--no-wait set Port nic0 trunks=10");
        vswitch_set_tend(f->set);
        status = vswitch_set_switch_status(f->set, "d1");
        assert_string_equal(json_string_value(json_object_get(status, "message")),
                "ovs-vswitchd does not carry out what was configured");
        vswitch_set_tend(f->set); /* what is written stays undone */
        json_decref(status);
        status = vswitch_set_switch_status(f->set, "d1");
        assert_non_null(strstr(json_string_value(json_array_get(json_object_get(status, "drift"), 0)),
                "ovs-vswitchd does not carry out what was configured"));
        openvswitch_start_vswitch(&ovs);
        vswitch_set_tend(f->set);
        assert_mended(f, 0, NULL, 0);
}

static void ports_of_taps_that_are_gone_go(void **state)
{
        struct fixture *f = *state;
        char name[IFNAMSIZ];
        int fd;

        put_switch(f, BODY(1, ""));
        put_group(f, "blue", 10);
        fd = open_tap(f, "vm-1", "blue", name);
        assert_answer("list-ports dv-d1 | sed /^dvp/d", name);
        close(fd);
        vswitch_set_tend(f->set);
        assert_answer("list-ports dv-d1 | sed /^dvp/d", "");
        assert_mended(f, 0, NULL, 0);
}

static void what_is_in_use_is_not_removed(void **state)
{
        struct fixture *f = *state;
        _cleanup_error_ struct error *error = NULL;
        char name[IFNAMSIZ];
        int fd;

        fd = make_one_port(f, name);
        assert_true(vswitch_set_remove_port_group(f->set, "blue", &error) < 0);
        close(fd);
        assert_int_equal(vswitch_set_remove_port_group(f->set, "blue", NULL), 0);
        netns_run("ip link add other0 type veth peer name other1");
        openvswitch_vsctl("add-port dv-d1 other0");
        error_free(TAKE_PTR(error));
        assert_true(vswitch_set_remove_switch(f->set, "d1", &error) < 0);
        assert_non_null(strstr(error_message(error), "other0 is a port of it"));
        openvswitch_vsctl("del-port other0");
        netns_run("ip link delete other0");
        assert_int_equal(vswitch_set_remove_switch(f->set, "d1", NULL), 0);
        assert_answer("list-br", "");
}

static void an_agent_that_starts_again_knows_its_switch(void **state)
{
        struct fixture *f = *state;
        _cleanup_json_ json_t *desired = NULL;
        char name[IFNAMSIZ];
        int fd;

        put_switch(f, BODY(7, ONE_NIC));
        put_group(f, "blue", 10);
        fd = open_tap(f, "vm-1", "blue", name);
        desired = vswitch_set_to_json(f->set);
        vswitch_set_free(f->set);
        make_set(f);
        assert_int_equal(vswitch_set_load(f->set, desired, NULL), 0);
        assert_mended(f, 0, NULL, 0);
        assert_answer("get Bridge dv-d1 external_ids:drover-version", "\"7\"");
        close(fd);
}

/* Broadcast, of an experimental type, with a number in it. */
static void send_number(int fd, uint8_t number)
{
        uint8_t frame[HEADER_SIZE + FRAME_SIZE] = {0};

        memset(frame + HEADER_SIZE, 0xff, 6);
        frame[HEADER_SIZE + 6] = 0x02;
        frame[HEADER_SIZE + 11] = number;
        frame[HEADER_SIZE + 12] = 0x88;
        frame[HEADER_SIZE + 13] = 0xb5;
        frame[HEADER_SIZE + 14] = number;
        assert_int_equal(write(fd, frame, sizeof(frame)), sizeof(frame));
}

/* The next number that comes out of a tap; 0: none in time. */
static uint8_t next_number(int fd, int timeout_ms)
{
        uint8_t frame[2048];

        for (int ms = 0; ms < timeout_ms; ms++) {
                ssize_t n = read(fd, frame, sizeof(frame));

                if (n >= HEADER_SIZE + FRAME_SIZE && frame[HEADER_SIZE + 12] == 0x88 &&
                        frame[HEADER_SIZE + 13] == 0xb5)
                        return frame[HEADER_SIZE + 14];
                if (n < 0)
                        usleep(1000);
        }
        return 0;
}

static void ports_of_one_vlan_reach_each_other_and_no_others(void **state)
{
        struct fixture *f = *state;
        char name[IFNAMSIZ];
        int blue[2], green[2], none;

        put_switch(f, BODY(1, ONE_NIC));
        put_group(f, "blue", 10);
        put_group(f, "green", 20);
        put_group(f, "plain", 0);
        blue[0] = open_tap(f, "vm-1", "blue", name);
        blue[1] = open_tap(f, "vm-2", "blue", name);
        green[0] = open_tap(f, "vm-3", "green", name);
        green[1] = open_tap(f, "vm-4", "green", name);
        none = open_tap(f, "vm-5", "plain", name);
        send_number(blue[0], 1);
        assert_int_equal(next_number(blue[1], 10000), 1);
        send_number(green[0], 2);
        /* What blue sent before would be first. */
        assert_int_equal(next_number(green[1], 10000), 2);
        send_number(none, 3);
        send_number(blue[0], 4);
        assert_int_equal(next_number(blue[1], 10000), 4);
        assert_int_equal(next_number(green[1], 100), 0);
        assert_int_equal(next_number(none, 100), 0);
        for (int i = 0; i < 2; i++) {
                close(blue[i]);
                close(green[i]);
        }
        close(none);
}

static void send_number_from(const char *interface, uint8_t number)
{
        const struct sock_filter nothing[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
        uint8_t frame[FRAME_SIZE] = {0};
        int fd = -1;

        memset(frame, 0xff, 6);
        frame[6] = 0x02;
        frame[11] = number;
        frame[12] = 0x88;
        frame[13] = 0xb5;
        frame[14] = number;
        assert_int_equal(packet_socket_open(interface, PACKET_INCOMING, nothing, 1, 4096, &fd), 0);
        assert_int_equal(packet_socket_send(fd, frame, sizeof(frame)), 0);
        close(fd);
}

/* Where networks are tried: a port of the host's own in each VLAN, in which it has no say otherwise. */
static void the_host_has_a_station_in_each_vlan(void **state)
{
        struct fixture *f = *state;
        struct vswitch_port_group blue, azure, green;
        char name[IFNAMSIZ], words[128];
        int blue_tap, green_tap;

        put_switch(f, BODY(1, ONE_NIC));
        put_group(f, "blue", 10);
        put_group(f, "azure", 10);
        put_group(f, "green", 20);
        blue_tap = open_tap(f, "vm-1", "blue", name);
        green_tap = open_tap(f, "vm-2", "green", name);
        assert_int_equal(vswitch_set_find_port_group(f->set, "blue", &blue, NULL), 0);
        assert_int_equal(vswitch_set_look_up_port_group(f->set, "azure", &azure), 0);
        assert_int_equal(vswitch_set_look_up_port_group(f->set, "green", &green), 0);
        assert_string_equal(blue.station, azure.station);
        assert_string_not_equal(blue.station, green.station);
        assert_port(blue.station, "tag", "10");
        assert_port(green.station, "tag", "20");
        snprintf(words, sizeof(words), "get Interface %s mtu_request", blue.station);
        assert_answer(words, "1500");
        snprintf(words, sizeof(words), "ip link show %s | grep -q '<.*NOARP.*UP'", blue.station);
        netns_run(words);
        assert_mended(f, 0, NULL, 0);
        send_number_from(green.station, 1);
        send_number_from(blue.station, 2);
        assert_int_equal(next_number(blue_tap, 10000), 2);
        assert_int_equal(next_number(green_tap, 10000), 1);
        assert_int_equal(next_number(green_tap, 100), 0);

        spoil_tag(blue.station);
        vswitch_set_tend(f->set);
        assert_port(blue.station, "tag", "10");
        assert_mended(f, 1, "has VLAN 30, and 10 is configured", 0);
        close(green_tap);
        assert_int_equal(vswitch_set_remove_port_group(f->set, "green", NULL), 0);
        vswitch_set_tend(f->set);
        assert_answer("--bare --columns=name find Port external_ids:drover-station=d1", blue.station);
        close(blue_tap);
}

/* A port of that name, or an interface, that somebody else made stays as it is, and is told. */
static void what_has_a_stations_name_and_no_mark_is_left_alone(void **state)
{
        struct fixture *f = *state;
        char blue[IFNAMSIZ], green[IFNAMSIZ], words[256];

        put_switch(f, BODY(1, ""));
        ifname_station("d1", 10, blue);
        ifname_station("d1", 20, green);
        snprintf(words, sizeof(words),
                "add-port dv-d1 %s tag=30 -- set Interface %s type=internal mtu_request=1400", blue, blue);
        openvswitch_vsctl(words);
        snprintf(words, sizeof(words), "ip link add %s type veth peer name far1", green);
        netns_run(words);
        put_group(f, "blue", 10);
        put_group(f, "green", 20);
        vswitch_set_tend(f->set);
        assert_port(blue, "tag", "30");
        snprintf(words, sizeof(words), "get Interface %s mtu_request", blue);
        assert_answer(words, "1400");
        snprintf(words, sizeof(words), "! ip link show %s | grep -q NOARP", blue);
        netns_run(words);
        snprintf(words, sizeof(words), "! ip link show %s | grep -q '<.*[,<]UP'", green);
        netns_run(words);
        assert_mended(f, 0, NULL, 2);
        snprintf(words, sizeof(words), "ip link delete %s", green);
        netns_run(words);
}

struct found {
        bool done;
        char port[IFNAMSIZ];
};

static void on_found(void *userdata, const char *port)
{
        struct found *found = userdata;

        snprintf(found->port, sizeof(found->port), "%s", port);
        found->done = true;
}

static void find(struct fixture *f, struct loop *loop, const uint8_t *mac, struct found *found)
{
        struct ovs_find *question = NULL;

        *found = (struct found){0};
        assert_int_equal(ovs_find_port(f->ovs, loop, "dv-d1", mac, on_found, found, &question), 0);
        assert_int_equal(loop_wait(loop, &found->done, 10000), 0);
        ovs_find_free(question);
}

static void where_an_address_is_can_be_asked_without_waiting(void **state)
{
        static const uint8_t theirs[] = {2, 0, 0, 0, 0x77, 1}, nobodys[] = {2, 0, 0, 0, 0x77, 2};
        struct fixture *f = *state;
        struct loop *loop = NULL;
        struct found found;

        assert_int_equal(loop_new(&loop), 0);
        put_switch(f, BODY(1, ONE_NIC));
        put_group(f, "blue", 10);
        netns_run("ip link add other0 type veth peer name other1 && ip link set other0 up && "
                  "ip link set other1 address 02:00:00:00:77:01 up && ip link set other1 arp on");
        openvswitch_vsctl("add-port dv-d1 other0 tag=10");
        vswitch_set_tend(f->set);
        find(f, loop, nobodys, &found);
        assert_string_equal(found.port, "");
        for (int i = 0; i < 1000 && !*found.port; i++) {
                netns_run("ip address replace 192.0.2.9/24 dev other1; ping -n -c 1 -W 1 192.0.2.10 > "
                          "/dev/null; true");
                find(f, loop, theirs, &found);
        }
        assert_string_equal(found.port, "other0");
        /* Nobody reads what is asked: the loop goes on, and the answer is that nothing is known. */
        assert_int_equal(kill(ovs.vswitch, SIGSTOP), 0);
        find(f, loop, theirs, &found);
        assert_string_equal(found.port, "");
        assert_int_equal(kill(ovs.vswitch, SIGCONT), 0);
        netns_run("ip link delete other0");
        loop_free(loop);
}

/* A frame of an experimental type with a number in it, to one station. */
static void make_number(uint8_t to, uint8_t from, uint8_t number, uint8_t ret_frame[static FRAME_SIZE])
{
        const uint8_t head[] = {2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5, number};

        memset(ret_frame, 0, FRAME_SIZE);
        memcpy(ret_frame, head, sizeof(head));
        if (to == 0xff)
                memset(ret_frame, 0xff, 6);
}

static void a_frame_in_the_name_of_a_guest_is_of_its_port(void **state)
{
        struct fixture *f = *state;
        char name[IFNAMSIZ], other[IFNAMSIZ];
        struct ovs_speaker *speaker = NULL;
        uint8_t frame[HEADER_SIZE + FRAME_SIZE] = {0};
        int blue[3], green;

        put_switch(f, BODY(1, ONE_NIC));
        put_group(f, "blue", 10);
        put_group(f, "green", 20);
        blue[0] = open_tap(f, "vm-1", "blue", name);
        blue[1] = open_tap(f, "vm-2", "blue", other);
        blue[2] = open_tap(f, "vm-3", "blue", other);
        green = open_tap(f, "vm-4", "green", other);
        assert_int_equal(ovs_speak_for(f->ovs, "dv-d1", "dvt0000000000", &speaker), -ENOENT);
        assert_int_equal(ovs_speak_for(f->ovs, "dv-d1", name, &speaker), 0);
        make_number(0xff, 0x77, 1, frame);
        assert_int_equal(ovs_speaker_say(speaker, frame, FRAME_SIZE), 0);
        assert_int_equal(next_number(blue[1], 10000), 1);
        assert_int_equal(next_number(blue[2], 10000), 1);
        /* The switch knows the sender at that port: an answer goes there, and to nobody else. */
        make_number(0x77, 0x78, 2, frame + HEADER_SIZE);
        memset(frame, 0, HEADER_SIZE);
        assert_int_equal(write(blue[1], frame, sizeof(frame)), sizeof(frame));
        assert_int_equal(next_number(blue[0], 10000), 2);
        assert_int_equal(next_number(blue[2], 100), 0);
        assert_int_equal(next_number(green, 100), 0);
        assert_int_equal(ovs_speaker_say(speaker, frame, OVS_SPEAKER_FRAME_MAX + 1), -EMSGSIZE);
        ovs_speaker_free(speaker);
        for (int i = 0; i < 3; i++)
                close(blue[i]);
        close(green);
}

struct listed {
        bool done;
        json_t *macs;
};

static void on_listed(void *userdata, json_t *macs)
{
        struct listed *listed = userdata;

        listed->macs = json_incref(macs);
        listed->done = true;
}

/* As they are in the list of switches; NULL: they are not known. */
static json_t *foreign_macs(struct fixture *f, struct loop *loop)
{
        _cleanup_json_ json_t *bridges = vswitch_set_distributed_bridges(f->set), *list = NULL,
                              *learned = NULL;
        struct listed listed = {0};
        struct ovs_find *question = NULL;

        assert_int_equal(json_object_size(bridges), 1);
        assert_int_equal(ovs_list_macs(f->ovs, loop, json_string_value(json_object_get(bridges, "d1")),
                                 on_listed, &listed, &question),
                0);
        assert_int_equal(loop_wait(loop, &listed.done, 10000), 0);
        ovs_find_free(question);
        learned = json_pack("{s:o*}", "d1", listed.macs);
        list = vswitch_set_list_switches(f->set, learned);
        return json_incref(json_object_get(json_array_get(list, 0), "foreign_macs"));
}

static void macs_of_others_on_this_host_are_told(void **state)
{
        struct fixture *f = *state;
        _cleanup_json_ json_t *before = NULL, *after = NULL;
        _cleanup_free_ char *text = NULL;
        struct loop *loop = NULL;
        char name[IFNAMSIZ];
        int ours;

        assert_int_equal(loop_new(&loop), 0);
        put_switch(f, BODY(1, ONE_NIC));
        put_group(f, "blue", 10);
        ours = open_tap(f, "vm-1", "blue", name);
        netns_run("ip link add other0 type veth peer name other1 && ip link set other0 up && "
                  "ip link set other1 address 02:00:00:00:77:01 up");
        before = foreign_macs(f, loop);
        assert_int_equal(json_array_size(before), 1); /* the bridge's own */
        openvswitch_vsctl("add-port dv-d1 other0 tag=10");
        vswitch_set_tend(f->set);
        netns_run("ip address add 192.0.2.9/24 dev other1; ip link set other1 arp on; "
                  "ping -n -c 1 -W 1 192.0.2.10 > /dev/null; true");
        send_number(ours, 1); /* of our own, which is not told */
        for (int i = 0; i < 1000; i++) {
                json_decref(after);
                after = foreign_macs(f, loop);
                if (json_array_size(after) >= 3)
                        break;
                usleep(5000);
        }
        text = doc_to_text(after);
        if (json_array_size(after) != 3 ||
                !strstr(text, "{\"mac\":\"02:00:00:00:77:01\",\"port\":\"other0\"}") ||
                strstr(text, "02:00:00:00:00:01"))
                fail_msg("%s", text);
        /* Nobody is waited for: the rest of the list is there, and this is left out. */
        assert_int_equal(kill(ovs.vswitch, SIGSTOP), 0);
        assert_null(foreign_macs(f, loop));
        assert_int_equal(kill(ovs.vswitch, SIGCONT), 0);
        netns_run("ip link delete other0");
        close(ours);
        loop_free(loop);
}

/* Its guest was started again: the tap has the same name, and is another device. */
static void a_tap_that_comes_again_works(void **state)
{
        struct fixture *f = *state;
        char name[IFNAMSIZ];
        int first, other;

        put_switch(f, BODY(1, ""));
        put_group(f, "blue", 10);
        other = open_tap(f, "vm-2", "blue", name);
        first = open_tap(f, "vm-1", "blue", name);
        close(first);
        first = open_tap(f, "vm-1", "blue", name);
        send_number(first, 1);
        assert_int_equal(next_number(other, 10000), 1);
        send_number(other, 2);
        assert_int_equal(next_number(first, 10000), 2);
        close(first);
        close(other);
}

/* All that an agent does when everything is as it should be, with a connection of its own. */
static void look_after_the_switch(void *arg)
{
        struct fixture *f = arg;
        _cleanup_(vswitch_set_freep) struct vswitch_set *set = NULL;
        _cleanup_(ovs_freep) struct ovs *own = NULL;
        _cleanup_json_ json_t *body = json_loads(BODY(1, ONE_NIC), 0, NULL),
                              *group = json_loads("{\"switch\": \"d1\", \"vlan\": 10}", 0, NULL);
        _cleanup_json_ json_t *list = NULL, *document = NULL;
        struct vswitch_port_group where;

        if (torture_failed(ovs_new(ovs.socket, f->netlink, &clock_system, &own) < 0) ||
                torture_failed(vswitch_set_new(f->netlink, &set) < 0))
                return;
        vswitch_set_use_ovs(set, own, &clock_now.clock);
        if (torture_failed(vswitch_set_put_switch(set, "d1", body, NULL) < 0) ||
                torture_failed(vswitch_set_put_port_group(set, "blue", group, NULL) < 0) ||
                torture_failed(vswitch_set_find_port_group(set, "blue", &where, NULL) < 0))
                return;
        vswitch_set_tend(set);
        list = vswitch_set_list_switches(set, NULL);
        document = vswitch_set_to_json(set);
        (void)torture_failed(!list || !document);
}

static void each_call_may_fail(void **state)
{
        struct fixture *f = *state;
        char name[IFNAMSIZ];
        int fd;

        fd = make_one_port(f, name);
        torture_loop(look_after_the_switch, f);
        assert_port(name, "tag", "10");
        assert_mended(f, 0, NULL, 0);
        close(fd);
}

static void without_open_vswitch_it_says_so(void **state)
{
        struct fixture *f = *state;

        ovs_free(f->ovs);
        assert_int_equal(ovs_new("/nonexistent/db.sock", f->netlink, &clock_system, &f->ovs), 0);
        vswitch_set_use_ovs(f->set, f->ovs, &clock_now.clock);
        put_fails(f, BODY(1, ""), ERROR_UNREACHABLE, "cannot talk to Open vSwitch at /nonexistent/db.sock");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
                TEST(makes_the_bridge_with_its_uplink),
                TEST(a_new_version_changes_the_uplinks),
                TEST(a_change_that_cannot_be_applied_leaves_the_version_of_before),
                TEST(documents_that_make_no_sense_are_refused),
                TEST(a_switch_does_not_change_its_kind),
                TEST(what_is_not_drovers_is_left_alone),
                TEST(an_administrators_bridge_is_used_as_it_is_if_that_is_said),
                TEST(drift_is_mended),
                TEST(drift_that_cannot_be_mended_is_told),
                TEST(checksums_that_would_be_lost_are_told),
                TEST(a_nic_that_goes_away_is_drift_and_the_rest_goes_on),
                TEST(a_nic_that_somebody_gave_an_address_is_not_taken_back),
                TEST(a_tap_on_another_bridge_keeps_no_other_from_being_mended),
                TEST(what_something_changes_again_and_again_is_told),
                TEST(putting_the_same_version_tells_what_it_mends),
                TEST(two_switches_do_not_share_a_bridge_or_a_nic),
                TEST(drovers_own_bridge_is_not_adopted),
                TEST(a_switch_that_gets_another_bridge_leaves_none_behind),
                TEST(no_bridge_is_made_before_the_datapaths_are_known),
                TEST(long_names_in_other_scripts_are_told),
                TEST(looking_a_port_group_up_asks_nobody),
                TEST(a_daemon_that_does_not_follow_is_told),
                TEST(ports_of_taps_that_are_gone_go),
                TEST(what_is_in_use_is_not_removed),
                TEST(an_agent_that_starts_again_knows_its_switch),
                TEST(ports_of_one_vlan_reach_each_other_and_no_others),
                TEST(the_host_has_a_station_in_each_vlan),
                TEST(what_has_a_stations_name_and_no_mark_is_left_alone),
                TEST(where_an_address_is_can_be_asked_without_waiting),
                TEST(a_frame_in_the_name_of_a_guest_is_of_its_port),
                TEST(macs_of_others_on_this_host_are_told),
                TEST(a_tap_that_comes_again_works),
                TEST(each_call_may_fail),
                TEST(without_open_vswitch_it_says_so),
        };

        netns_enter();
        return cmocka_run_group_tests(tests, start, stop);
}
