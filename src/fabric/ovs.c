/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/ovs.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "fabric/ifname.h"
#include "fabric/ovs_macs.h"
#include "fabric/ovs_plan.h"
#include "fabric/ovs_speaker.h"
#include "fabric/ovs_view.h"
#include "fabric/ovsdb.h"
#include "io/file.h"

#define PID_MAX_CHARS 16

struct ovs {
        struct ovsdb *db;
        struct netlink *netlink;
        struct ovs_view seen; /* last; empty: never */
};

static const char *const policy_names[N_OVS_UPLINK_POLICIES] = {
#define X(name, text, mode, lacp) [OVS_UPLINK_##name] = text,
        OVS_UPLINK_POLICIES(X)
#undef X
};

const char *ovs_uplink_policy_to_string(enum ovs_uplink_policy policy)
{
        return policy_names[policy];
}

int ovs_uplink_policy_from_string(const char *text, enum ovs_uplink_policy *ret_policy)
{
        for (enum ovs_uplink_policy policy = 0; policy < N_OVS_UPLINK_POLICIES; policy++)
                if (!strcmp(policy_names[policy], text)) {
                        *ret_policy = policy;
                        return 0;
                }
        return -EINVAL;
}

int ovs_new(const char *db_path, struct netlink *netlink, const struct clock *clock, struct ovs **ret_ovs)
{
        _cleanup_(ovs_freep) struct ovs *ovs = ALLOC(struct ovs);
        int r;

        if (!ovs)
                return -ENOMEM;
        ovs->netlink = netlink;
        r = ovsdb_new(db_path, clock, &ovs->db);
        if (r < 0)
                return r;
        *ret_ovs = TAKE_PTR(ovs);
        return 0;
}

void ovs_free(struct ovs *ovs)
{
        if (!ovs)
                return;
        ovsdb_free(ovs->db);
        ovs_view_deinit(&ovs->seen);
        free(ovs);
}

/* What is there now; on failure what was seen before stays. */
static int look(struct ovs *ovs, struct error **ret_error)
{
        struct ovs_view now = {0};
        int r = ovs_view_init(&now, ovs->db, ovs->netlink, ret_error);

        if (r < 0)
                return r;
        ovs_view_deinit(&ovs->seen);
        ovs->seen = now;
        return 0;
}

int ovs_speak_for(struct ovs *ovs, const char *bridge, const char *tap, struct ovs_speaker **ret_speaker)
{
        const json_t *interface = ovs_view_interface(&ovs->seen, tap);
        json_int_t number = json_integer_value(json_array_get(json_object_get(interface, "ofport"), 0));

        if (number <= 0 || number > UINT16_MAX)
                return -ENOENT;
        return ovs_speaker_new(ovsdb_path(ovs->db), bridge, (uint16_t)number, ret_speaker);
}

/* A link that could not be changed: nothing, if it has ended meanwhile; else one more sentence in both arrays. */
static int note_link(int r, const struct error *error, json_t *differences, json_t *left)
{
        if (r == 0 || r == -ENODEV)
                return 0;
        return json_array_append_new(differences, json_string(error_message(error))) < 0 ||
                               json_array_append_new(left, json_string(error_message(error))) < 0
                       ? -ENOMEM
                       : 0;
}

/* One link that is an uplink, or the tap of a guest. */
static int follow_link(struct ovs *ovs, const struct netlink_link *link, bool tap, uint32_t mtu,
        json_t *differences, json_t *left)
{
        _cleanup_error_ struct error *down = NULL, *other_mtu = NULL;
        int r = 0;

        if (!link->up)
                r = note_link(netlink_set_up(ovs->netlink, link->name, true, &down), down, differences, left);
        if (r < 0 || !tap || link->mtu == mtu)
                return r;
        r = netlink_set_mtu(ovs->netlink, link->name, mtu, &other_mtu);
        if (r < 0)
                return note_link(r, other_mtu, differences, left);
        return json_array_append_new(differences, json_sprintf("the tap %s has MTU %u, and %u is configured",
                                                          link->name, link->mtu, mtu)) < 0
                       ? -ENOMEM
                       : 0;
}

/* What the kernel has to do with it: Open vSwitch neither sets its NICs up nor gives taps their MTU. -ENOMEM. */
static int follow_links(struct ovs *ovs, const struct ovs_view *view, const struct ovs_spec *spec,
        json_t *differences, json_t *left)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < view->n_links; i++) {
                const struct netlink_link *link = &view->links[i];
                const char *group = ovs_plan_group_of(link);
                bool uplink = !spec->adopted && doc_has_string(spec->uplinks, link->name), tap = false;

                for (size_t k = 0; group && k < spec->n_groups; k++)
                        tap = tap || !strcmp(spec->groups[k].name, group);
                if (uplink || tap)
                        r = follow_link(ovs, link, tap, spec->mtu, differences, left);
        }
        return r;
}

/* After Open vSwitch has made them: drover's own alone. They take no part in the network: the host's kernel says nothing there. -ENOMEM. */
static int follow_stations(struct ovs *ovs, const json_t *stations, json_t *differences, json_t *left)
{
        json_t *station;
        int r = 0;
        size_t i;

        json_array_foreach ((json_t *)stations, i, station) {
                _cleanup_error_ struct error *error = NULL;
                const char *name = json_string_value(station);
                const struct netlink_link *link = ovs_view_link(&ovs->seen, name);
                int s;

                if (r < 0 || (link && link->up))
                        continue;
                (void)netlink_set_no_ipv6(ovs->netlink, name); /* nothing to do on a kernel without IPv6 */
                s = netlink_set_no_arp(ovs->netlink, name, &error);
                if (s == 0)
                        s = netlink_set_up(ovs->netlink, name, true, &error);
                r = note_link(s, error, differences, left);
        }
        return r;
}

/* The host's own address would stop working. */
static int check_addresses(struct ovs *ovs, const struct ovs_spec *spec, struct error **ret_error)
{
        json_t *uplink;
        size_t i;

        json_array_foreach ((json_t *)spec->uplinks, i, uplink) {
                const char *name = json_string_value(uplink);
                bool has_address = false;
                int r = netlink_has_address(ovs->netlink, name, &has_address);

                if (r < 0)
                        return error_from_errno(ret_error, r, "cannot read the addresses of %s", name);
                if (has_address)
                        return error_set(ret_error, ERROR_CONFLICT,
                                "Give the address to a bridge of Open vSwitch, and name that as the switch's "
                                "bridge.",
                                "the uplink %s carries an address of this host, which would stop working",
                                name);
        }
        return 0;
}

/* Of a document that is not new, uplinks that cannot be taken are drift. */
static int make_plan(struct ovs *ovs, const struct ovs_view *view, const struct ovs_spec *spec,
        struct ovs_plan *plan, struct error **ret_error)
{
        _cleanup_error_ struct error *error = NULL;
        int r = ovs_plan_init(plan, view, spec, false, ret_error);

        if (r < 0 || !plan->takes_uplinks || check_addresses(ovs, spec, &error) == 0)
                return r;
        if (spec->is_new || error->code == ERROR_NO_MEMORY)
                return error_propagate(ret_error, TAKE_PTR(error));
        ovs_plan_deinit(plan);
        r = ovs_plan_init(plan, view, spec, true, ret_error);
        if (r == 0 && json_array_append_new(plan->differences, json_string(error_message(error))) < 0)
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return r;
}

/* What differs now, after what was there. */
static int look_again(
        struct ovs *ovs, const struct ovs_spec *spec, json_t *differences, struct error **ret_error)
{
        _cleanup_ovs_plan_ struct ovs_plan plan = {0};
        int r = look(ovs, ret_error);

        if (r == 0)
                r = make_plan(ovs, &ovs->seen, spec, &plan, ret_error);
        if (r == 0 && json_array_extend(differences, plan.differences) < 0)
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return r;
}

int ovs_ensure(struct ovs *ovs, const struct ovs_spec *spec, json_t **ret_differences, json_t **ret_left,
        struct error **ret_error)
{
        _cleanup_ovs_plan_ struct ovs_plan plan = {0};
        _cleanup_json_ json_t *left = json_array();
        int r = look(ovs, ret_error);

        if (r == 0)
                r = make_plan(ovs, &ovs->seen, spec, &plan, ret_error);
        if (r == 0 && (!left || follow_links(ovs, &ovs->seen, spec, plan.differences, left) < 0))
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (r == 0 && json_array_size(plan.operations))
                r = ovsdb_apply(ovs->db, json_incref(plan.operations), NULL, ret_error);
        if (r == 0 && follow_stations(ovs, plan.stations, plan.differences, left) < 0)
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (r == 0 && json_array_size(plan.differences))
                r = look_again(ovs, spec, left, ret_error);
        if (r < 0)
                return r;
        *ret_differences = TAKE_PTR(plan.differences);
        *ret_left = TAKE_PTR(left);
        return 0;
}

/* Only what drover put there may be on it: its own port, uplinks, stations, and taps that have ended. */
static int check_unused(const struct ovs_view *view, const json_t *bridge, bool adopted, json_t *operations,
        struct error **ret_error)
{
        const json_t *ports = json_object_get(bridge, "ports");

        for (size_t i = 0; i < json_array_size(ports); i++) {
                const json_t *port = ovs_view_row(view->ports, ports, i);
                const char *name = ovs_row_text(port, "name");
                bool tap = *ovs_row_id(port, OVS_ID_GROUP) != '\0',
                     station = *ovs_row_id(port, OVS_ID_STATION) != '\0',
                     uplink = *ovs_row_id(port, OVS_ID_UPLINK) != '\0';

                if (!port || uplink || !strcmp(name, ovs_row_text(bridge, "name")) ||
                        (!tap && !station && adopted))
                        continue;
                if (!station && (!tap || ovs_view_link(view, name)))
                        return error_set(ret_error, ERROR_CONFLICT,
                                tap ? "Stop or move the virtual machine that uses it."
                                    : "Remove that port (ovs-vsctl del-port) if nothing needs it.",
                                "the bridge %s is in use: %s is a port of it", ovs_row_text(bridge, "name"),
                                name);
                if (json_array_append_new(operations, ovs_plan_remove_port(bridge, port)) < 0)
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        return 0;
}

/* The bridge still has the ports that were looked at: one that an administrator adds meanwhile must not go with it. */
static json_t *expect_ports(const json_t *bridge)
{
        return json_pack("{s:s, s:s, s:[[s, s, O]], s:[s], s:s, s:[{s:[s, O]}], s:i}", "op", "wait", "table",
                "Bridge", "where", "_uuid", "==", json_object_get(bridge, "_uuid"), "columns", "ports",
                "until", "==", "rows", "ports", "set", json_object_get(bridge, "ports"), "timeout", 0);
}

int ovs_remove(struct ovs *ovs, const struct ovs_spec *spec, struct error **ret_error)
{
        _cleanup_json_ json_t *operations = json_array();
        json_t *bridge;
        int r = look(ovs, ret_error);

        if (r < 0)
                return r;
        bridge = ovs_view_bridge(&ovs->seen, spec->bridge);
        if (!bridge || (!spec->adopted && strcmp(ovs_row_id(bridge, OVS_ID_SWITCH), spec->vswitch)))
                return 0; /* another's, or gone */
        if (json_array_append_new(operations, expect_ports(bridge)) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = check_unused(&ovs->seen, bridge, spec->adopted, operations, ret_error);
        if (r < 0)
                return r;
        if (!spec->adopted && json_array_append_new(operations,
                                      json_pack("{s:s, s:s, s:[], s:[[s, s, O]]}", "op", "mutate", "table",
                                              "Open_vSwitch", "where", "mutations", "bridges", "delete",
                                              json_object_get(bridge, "_uuid"))) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return json_array_size(operations) > 1 ? ovsdb_apply(ovs->db, TAKE_PTR(operations), NULL, ret_error)
                                               : 0;
}

/* ovs-vswitchd holds on to the device that was there before, even if another one has its name now: the port has to be gone in
 * between. */
static int drop_port(struct ovs *ovs, const struct ovs_view *view, const char *tap, struct error **ret_error)
{
        json_t *bridge = NULL, *port = ovs_view_port(view, tap, &bridge);

        if (!port)
                return 0;
        if (!*ovs_row_id(port, OVS_ID_GROUP) && !*ovs_row_id(bridge, OVS_ID_SWITCH))
                return error_set(ret_error, ERROR_CONFLICT, "Remove it there (ovs-vsctl del-port).",
                        "the network port %s is a port of the bridge %s of Open vSwitch, where drover did "
                        "not put it",
                        tap, ovs_row_text(bridge, "name"));
        return ovsdb_apply(ovs->db, json_pack("[o]", ovs_plan_remove_port(bridge, port)), NULL, ret_error);
}

int ovs_attach(struct ovs *ovs, const char *bridge, const char *tap, const char *port_group, uint16_t vlan,
        struct error **ret_error)
{
        _cleanup_json_ json_t *operations = json_array();
        const json_t *interface;
        int r = look(ovs, ret_error);

        if (r == 0)
                r = drop_port(ovs, &ovs->seen, tap, ret_error);
        if (r < 0)
                return r;
        if (ovs_plan_add_tap(operations, bridge, tap, port_group, vlan) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = ovsdb_apply(ovs->db, TAKE_PTR(operations), NULL, ret_error);
        if (r < 0)
                return r;
        r = look(ovs, ret_error);
        if (r < 0)
                return r;
        interface = ovs_view_interface(&ovs->seen, tap);
        if (!interface || *ovs_row_optional(interface, "error"))
                return error_set(ret_error, ERROR_PEER_FAILED, "See the log of ovs-vswitchd.",
                        "Open vSwitch cannot use the network port %s: %s", tap,
                        interface ? ovs_row_optional(interface, "error") : "it has vanished");
        return 0;
}

/* Its control socket is beside the database's, and named by its process; the caller's. */
static int find_control(const struct ovs *ovs, char **ret_socket)
{
        const char *path = ovsdb_path(ovs->db), *slash = strrchr(path, '/');
        _cleanup_free_ char *pid_file = NULL, *pid = NULL;
        int folder = slash ? (int)(slash - path) : 0, r;

        pid_file = alloc_printf("%.*s/ovs-vswitchd.pid", folder, path);
        r = pid_file ? file_read(pid_file, PID_MAX_CHARS, &pid, NULL) : -ENOMEM;
        if (r < 0)
                return r;
        pid[strcspn(pid, "\n")] = '\0';
        *ret_socket = alloc_printf("%.*s/ovs-vswitchd.%s.ctl", folder, path, pid);
        return *ret_socket ? 0 : -ENOMEM;
}

static int ask(struct ovs *ovs, struct loop *loop, const char *bridge, const struct ovs_find_handler *handler,
        struct ovs_find **ret_find)
{
        _cleanup_free_ char *socket = NULL;
        int r = find_control(ovs, &socket);

        return r < 0 ? r : ovs_find_new(loop, socket, &ovs->seen, bridge, handler, ret_find);
}

int ovs_find_port(struct ovs *ovs, struct loop *loop, const char *bridge, const uint8_t mac[static MAC_SIZE],
        ovs_found_fn found, void *userdata, struct ovs_find **ret_find)
{
        return ask(ovs, loop, bridge,
                &(struct ovs_find_handler){.mac = mac, .found = found, .userdata = userdata}, ret_find);
}

int ovs_list_macs(struct ovs *ovs, struct loop *loop, const char *bridge, ovs_listed_fn listed,
        void *userdata, struct ovs_find **ret_find)
{
        return ask(ovs, loop, bridge, &(struct ovs_find_handler){.listed = listed, .userdata = userdata},
                ret_find);
}
