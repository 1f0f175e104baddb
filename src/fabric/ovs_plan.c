/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/ovs_plan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "fabric/ifname.h"
#include "fabric/tap.h"

#define SYSTEM_MASTER "ovs-system" /* of all ports of the kernel's datapath */

/* While it is made. */
struct making {
        struct ovs_plan *plan;
        const struct ovs_view *view;
        const struct ovs_spec *spec;
        json_t *bridge; /* its row; NULL: to be made */
        bool starved;   /* without memory */
        struct error **ret_error;
};

static _printf_(2, 3) void differs(struct making *making, const char *fmt, ...)
{
        va_list args;
        json_t *sentence;

        va_start(args, fmt);
        sentence = json_vsprintf(fmt, args);
        va_end(args);
        if (json_array_append_new(making->plan->differences, sentence) < 0)
                making->starved = true;
}

/* What stands in the way of one part: of a document that is put it is an error; later it is told, and the rest goes on. `error` is taken over. */
static int obstacle(struct making *making, struct error *error)
{
        if (making->spec->is_new || error->code == ERROR_NO_MEMORY)
                return error_propagate(making->ret_error, error);
        differs(making, "%s", error_message(error));
        error_free(error);
        return 0;
}

/* `operation` is taken over. */
static void add(struct making *making, json_t *operation)
{
        if (json_array_append_new(making->plan->operations, operation) < 0)
                making->starved = true;
}

/* Adds a reference to a set of references. */
static json_t *insert_reference(const char *table, json_t *where, const char *column, const char *named)
{
        return json_pack("{s:s, s:s, s:o, s:[[s, s, [s, [[s, s]]]]]}", "op", "mutate", "table", table,
                "where", where, "mutations", column, "insert", "set", "named-uuid", named);
}

static json_t *where_name(const char *name)
{
        return json_pack("[[s, s, s]]", "name", "==", name);
}

static json_t *one_id(const char *key, const char *value)
{
        return json_pack("[s, [[s, s]]]", "map", key, value);
}

json_t *ovs_plan_remove_port(const json_t *bridge, const json_t *port)
{
        return json_pack("{s:s, s:s, s:[[s, s, O]], s:[[s, s, O]]}", "op", "mutate", "table", "Bridge",
                "where", "_uuid", "==", json_object_get(bridge, "_uuid"), "mutations", "ports", "delete",
                json_object_get(port, "_uuid"));
}

/* Sets columns of the row (taken over). */
static void update(struct making *making, const char *table, const json_t *row, json_t *columns)
{
        add(making, json_pack("{s:s, s:s, s:[[s, s, O]], s:o}", "op", "update", "table", table, "where",
                            "_uuid", "==", json_object_get(row, "_uuid"), "row", columns));
}

/* Sets one key of external_ids, other keys stay. */
static void set_id(
        struct making *making, const char *table, const json_t *row, const char *key, const char *value)
{
        add(making,
                json_pack("{s:s, s:s, s:[[s, s, O]], s:[[s, s, [s, [s]]], [s, s, o]]}", "op", "mutate",
                        "table", table, "where", "_uuid", "==", json_object_get(row, "_uuid"), "mutations",
                        "external_ids", "delete", "set", key, "external_ids", "insert", one_id(key, value)));
}

/* Inserts an interface and returns its reference. mtu 0: as it comes. */
static json_t *new_interface(
        json_t *operations, const char *name, const char *type, uint32_t mtu, size_t number)
{
        _cleanup_free_ char *named = alloc_printf("i%zu", number);
        json_t *requested = named && mtu ? json_integer(mtu) : NULL;
        json_t *operation = named ? json_pack("{s:s, s:s, s:s, s:{s:s, s:s, s:o*}}", "op", "insert", "table",
                                            "Interface", "uuid-name", named, "row", "name", name, "type",
                                            type, "mtu_request", requested)
                                  : NULL;

        return json_array_append_new(operations, operation) < 0 ? NULL
                                                                : json_pack("[s, s]", "named-uuid", named);
}

static size_t count(const json_t *operations)
{
        return json_array_size(operations);
}

/* A port of one interface (a reference, taken over), as an access port, with one key of external_ids. 0 or -ENOMEM. */
static int add_access_port(json_t *operations, const char *bridge, const char *name, json_t *interface,
        uint16_t vlan, const char *key, const char *value)
{
        _cleanup_free_ char *named = alloc_printf("p%zu", count(operations));
        json_t *port = NULL;

        if (named && interface)
                port = json_pack("{s:s, s:s, s:s, s:{s:s, s:O, s:i, s:s, s:o}}", "op", "insert", "table",
                        "Port", "uuid-name", named, "row", "name", name, "interfaces", interface, "tag",
                        (int)vlan, "vlan_mode", "access", "external_ids", one_id(key, value));
        json_decref(interface);
        if (json_array_append_new(operations, port) < 0)
                return -ENOMEM;
        return json_array_append_new(
                operations, insert_reference("Bridge", where_name(bridge), "ports", named));
}

int ovs_plan_add_tap(
        json_t *operations, const char *bridge, const char *tap, const char *port_group, uint16_t vlan)
{
        return add_access_port(operations, bridge, tap,
                new_interface(operations, tap, "", 0, count(operations)), vlan, OVS_ID_GROUP, port_group);
}

/* The bridge */

static const char *datapath_type(const struct ovs_view *view)
{
        return doc_has_string(json_object_get(view->root, "datapath_types"), "system") ? "system" : "netdev";
}

static void new_bridge(struct making *making)
{
        const struct ovs_spec *spec = making->spec;
        _cleanup_free_ char *version = alloc_printf("%" PRIu64, spec->version);
        json_t *operations = making->plan->operations, *interface, *port;

        interface = new_interface(operations, spec->bridge, "internal", 0, count(operations));
        port = json_pack("{s:s, s:s, s:s, s:{s:s, s:o}}", "op", "insert", "table", "Port", "uuid-name",
                "local", "row", "name", spec->bridge, "interfaces", interface);
        add(making, port);
        add(making, json_pack("{s:s, s:s, s:s, s:{s:s, s:s, s:[s, s], s:[s, [[s, s], [s, s?]]]}}", "op",
                            "insert", "table", "Bridge", "uuid-name", "bridge", "row", "name", spec->bridge,
                            "datapath_type", datapath_type(making->view), "ports", "named-uuid", "local",
                            "external_ids", "map", OVS_ID_SWITCH, spec->vswitch, OVS_ID_VERSION, version));
        add(making, insert_reference("Open_vSwitch", json_array(), "bridges", "bridge"));
        differs(making, "the bridge %s is missing", spec->bridge);
}

static void compare_flag(struct making *making, const char *column)
{
        if (!json_is_true(json_object_get(making->bridge, column)))
                return;
        update(making, "Bridge", making->bridge, json_pack("{s:b}", column, 0));
        differs(making, "the bridge %s has %s", making->spec->bridge, column);
}

static void compare_bridge(struct making *making)
{
        const struct ovs_spec *spec = making->spec;
        _cleanup_free_ char *version = alloc_printf("%" PRIu64, spec->version);

        compare_flag(making, "stp_enable");
        compare_flag(making, "rstp_enable");
        if (json_array_size(json_object_get(making->bridge, "controller"))) {
                update(making, "Bridge", making->bridge, json_pack("{s:[s, []]}", "controller", "set"));
                differs(making, "the bridge %s has an OpenFlow controller", spec->bridge);
        }
        if (!strcmp(ovs_row_optional(making->bridge, "fail_mode"), "secure")) {
                update(making, "Bridge", making->bridge, json_pack("{s:[s, []]}", "fail_mode", "set"));
                differs(making, "the bridge %s has the fail mode secure", spec->bridge);
        }
        if (!version)
                making->starved = true;
        else if (strcmp(ovs_row_id(making->bridge, OVS_ID_VERSION), version))
                set_id(making, "Bridge", making->bridge, OVS_ID_VERSION, version);
}

static int plan_bridge(struct making *making)
{
        const struct ovs_spec *spec = making->spec;

        if (!making->bridge && spec->adopted)
                return error_set(making->ret_error, ERROR_NOT_FOUND,
                        "Make it (ovs-vsctl add-br), or leave the bridge to drover.",
                        "Open vSwitch on this host has no bridge %s for switch %s", spec->bridge,
                        spec->vswitch);
        if (!making->bridge && ovs_view_link(making->view, spec->bridge))
                return error_set(making->ret_error, ERROR_CONFLICT, "Remove or rename that interface.",
                        "an interface %s exists, and the switch needs the name", spec->bridge);
        if (spec->adopted && *ovs_row_id(making->bridge, OVS_ID_SWITCH))
                return error_set(making->ret_error, ERROR_CONFLICT,
                        "Add the port groups to that switch, or name another bridge.",
                        "the bridge %s is drover's own, for the switch %s", spec->bridge,
                        ovs_row_id(making->bridge, OVS_ID_SWITCH));
        /* Which datapaths there are is written down by ovs-vswitchd when it starts; a bridge keeps the one that it was made with. */
        if (!making->bridge && !json_array_size(json_object_get(making->view->root, "datapath_types")))
                return error_set(making->ret_error, ERROR_UNREACHABLE,
                        "Start ovs-vswitchd (openvswitch-switch), or see its log.",
                        "Open vSwitch on this host has not started yet: its ovs-vswitchd has never run");
        if (!making->bridge)
                new_bridge(making);
        if (!making->bridge || spec->adopted)
                return 0;
        if (strcmp(ovs_row_id(making->bridge, OVS_ID_SWITCH), spec->vswitch))
                return error_set(making->ret_error, ERROR_CONFLICT,
                        "Choose another name for the switch, or name that bridge to be used as it is.",
                        "the bridge %s of Open vSwitch is not drover's", spec->bridge);
        compare_bridge(making);
        return 0;
}

/* Uplinks */

static int check_nic(struct making *making, const char *name, struct error **ret_error)
{
        const struct netlink_link *link = ovs_view_link(making->view, name);
        const struct ovs_spec *spec = making->spec;

        if (!link)
                return error_set(ret_error, ERROR_NOT_FOUND,
                        "Name a network interface of this host (see `ip link`).",
                        "this host has no network interface %s, an uplink of switch %s", name, spec->vswitch);
        if (link->mtu < spec->mtu)
                return error_set(ret_error, ERROR_CHECK_FAILED,
                        "Raise the MTU of the uplink (and of the physical switch), or lower that of the "
                        "switch.",
                        "the uplink %s has MTU %u, the switch needs %u", name, link->mtu, spec->mtu);
        if (!strcmp(link->kind, "bridge"))
                return error_set(ret_error, ERROR_CONFLICT,
                        "Name network cards; a bridge of the kernel can be the uplink of a standard switch.",
                        "the uplink %s is a bridge", name);
        for (size_t i = 0; link->master_index && i < making->view->n_links; i++)
                if (making->view->links[i].index == link->master_index &&
                        strcmp(making->view->links[i].name, SYSTEM_MASTER))
                        return error_set(ret_error, ERROR_CONFLICT, "Release it there first.",
                                "the uplink %s is a port of %s already", name, making->view->links[i].name);
        return 0;
}

/* Nobody else has it, in Open vSwitch. */
static int check_nic_free(struct making *making, const char *name, struct error **ret_error)
{
        json_t *bridge = NULL;

        if (!ovs_view_port_with(making->view, name, &bridge) || (making->bridge && bridge == making->bridge))
                return 0;
        return error_set(ret_error, ERROR_CONFLICT, "Release it there, or use that bridge as it is.",
                "the uplink %s is a port of the bridge %s of Open vSwitch", name,
                ovs_row_text(bridge, "name"));
}

/* It consists of just these NICs. */
static bool has_interfaces(const struct making *making, const json_t *port)
{
        const json_t *references = json_object_get(port, "interfaces");
        size_t n = json_array_size(references);

        for (size_t i = 0; i < n; i++)
                if (!doc_has_string(making->spec->uplinks,
                            ovs_row_text(ovs_view_row(making->view->interfaces, references, i), "name")))
                        return false;
        return n == json_array_size(making->spec->uplinks);
}

static const struct {
        const char *text, *mode, *lacp;
} policies[N_OVS_UPLINK_POLICIES] = {
#define X(name, text, mode, lacp) [OVS_UPLINK_##name] = {text, mode, lacp},
        OVS_UPLINK_POLICIES(X)
#undef X
};

static void new_uplink(struct making *making, const char *name)
{
        json_t *operations = making->plan->operations, *references = json_array(), *uplink, *row;
        bool bond = json_array_size(making->spec->uplinks) > 1;
        size_t i;

        json_array_foreach ((json_t *)making->spec->uplinks, i, uplink)
                if (json_array_append_new(references, new_interface(operations, json_string_value(uplink), "",
                                                              0, count(operations))) < 0)
                        making->starved = true;
        row = json_pack("{s:s, s:[s, o], s:o}", "name", name, "interfaces", "set", references, "external_ids",
                one_id(OVS_ID_UPLINK, making->spec->vswitch));
        if (bond && (json_object_set_new(row, "bond_mode", json_string(policies[making->spec->policy].mode)) <
                                    0 ||
                            json_object_set_new(
                                    row, "lacp", json_string(policies[making->spec->policy].lacp)) < 0))
                making->starved = true;
        add(making, json_pack("{s:s, s:s, s:s, s:o}", "op", "insert", "table", "Port", "uuid-name", "uplink",
                            "row", row));
        add(making, insert_reference("Bridge", where_name(making->spec->bridge), "ports", "uplink"));
        making->plan->takes_uplinks = true;
        if (making->bridge)
                differs(making, "the uplink %s is no port of the bridge %s", name, making->spec->bridge);
}

/* One column of the uplink's port; wanted NULL: empty. */
static void compare_uplink_column(
        struct making *making, const json_t *port, const char *column, const char *wanted)
{
        const json_t *set = json_object_get(port, column);

        if (wanted ? !strcmp(ovs_row_optional(port, column), wanted) : !json_array_size(set))
                return;
        update(making, "Port", port,
                wanted ? json_pack("{s:s}", column, wanted) : json_pack("{s:[s, []]}", column, "set"));
        differs(making, "the uplink %s has another %s than is configured", ovs_row_text(port, "name"),
                column);
}

static void compare_uplink(struct making *making, const json_t *port)
{
        compare_uplink_column(making, port, "tag", NULL);
        compare_uplink_column(making, port, "trunks", NULL);
        compare_uplink_column(making, port, "vlan_mode", NULL);
        if (json_array_size(making->spec->uplinks) > 1) {
                compare_uplink_column(making, port, "bond_mode", policies[making->spec->policy].mode);
                compare_uplink_column(making, port, "lacp", policies[making->spec->policy].lacp);
        }
        if (strcmp(ovs_row_id(port, OVS_ID_UPLINK), making->spec->vswitch))
                set_id(making, "Port", port, OVS_ID_UPLINK, making->spec->vswitch);
}

/* Former uplinks, and ports that have one of the NICs and are not as they should be, go. */
static void drop_other_uplinks(struct making *making, const json_t *keep)
{
        const json_t *ports = json_object_get(making->bridge, "ports");

        for (size_t i = 0; i < json_array_size(ports); i++) {
                json_t *port = ovs_view_row(making->view->ports, ports, i);
                const json_t *references = json_object_get(port, "interfaces");
                bool ours = *ovs_row_id(port, OVS_ID_UPLINK) != '\0';

                for (size_t k = 0; !ours && k < json_array_size(references); k++)
                        ours = doc_has_string(making->spec->uplinks,
                                ovs_row_text(ovs_view_row(making->view->interfaces, references, k), "name"));
                if (!ours || !port || port == keep)
                        continue;
                add(making, ovs_plan_remove_port(making->bridge, port));
                differs(making, "the port %s is an uplink, and is not configured so",
                        ovs_row_text(port, "name"));
        }
}

/* *ret_taken: somebody else has one of them. */
static int check_nics(struct making *making, bool *ret_taken)
{
        json_t *uplink;
        size_t i;

        json_array_foreach ((json_t *)making->spec->uplinks, i, uplink) {
                struct error *error = NULL, *taken = NULL;
                int r = 0;

                if (check_nic(making, json_string_value(uplink), &error) < 0)
                        r = obstacle(making, error);
                if (r == 0 && check_nic_free(making, json_string_value(uplink), &taken) < 0) {
                        *ret_taken = true;
                        r = obstacle(making, taken);
                }
                if (r < 0)
                        return r;
        }
        return 0;
}

static int plan_uplinks(struct making *making)
{
        const struct ovs_spec *spec = making->spec;
        size_t n = json_array_size(spec->uplinks);
        json_t *port = NULL, *on = NULL;
        char name[IFNAMSIZ] = "";
        bool taken = false;
        int r = check_nics(making, &taken);

        if (r < 0 || taken)
                return r;
        if (n == 1)
                snprintf(name, sizeof(name), "%s", json_string_value(json_array_get(spec->uplinks, 0)));
        else if (n > 1)
                ifname_bond(spec->vswitch, name);
        if (n)
                port = ovs_view_port(making->view, name, &on);
        if (port && (on != making->bridge || !making->bridge || !has_interfaces(making, port)))
                port = NULL;
        drop_other_uplinks(making, port);
        if (port)
                compare_uplink(making, port);
        else if (n)
                new_uplink(making, name);
        return 0;
}

/* Taps */

const char *ovs_plan_group_of(const struct netlink_link *link)
{
        return !strcmp(link->kind, "tun") && !strncmp(link->alias, TAP_ALIAS_PREFIX, strlen(TAP_ALIAS_PREFIX))
                       ? link->alias + strlen(TAP_ALIAS_PREFIX)
                       : NULL;
}

static const struct ovs_group *group_of(const struct ovs_spec *spec, const struct netlink_link *link)
{
        const char *name = ovs_plan_group_of(link);

        for (size_t i = 0; name && i < spec->n_groups; i++)
                if (!strcmp(spec->groups[i].name, name))
                        return &spec->groups[i];
        return NULL;
}

static void compare_access(struct making *making, const json_t *port, const struct ovs_group *group)
{
        const json_t *tag = json_array_get(json_object_get(port, "tag"), 0);
        const char *name = ovs_row_text(port, "name");

        if (!tag || json_integer_value(tag) != group->vlan) {
                if (tag)
                        differs(making, "the port %s of port group %s has VLAN %lld, and %u is configured",
                                name, group->name, (long long)json_integer_value(tag), group->vlan);
                else
                        differs(making, "the port %s of port group %s has no VLAN tag, and %u is configured",
                                name, group->name, group->vlan);
        } else if (strcmp(ovs_row_optional(port, "vlan_mode"), "access") ||
                   json_array_size(json_object_get(port, "trunks"))) {
                differs(making, "the port %s of port group %s is no access port", name, group->name);
        } else {
                return;
        }
        update(making, "Port", port,
                json_pack(
                        "{s:i, s:s, s:[s, []]}", "tag", group->vlan, "vlan_mode", "access", "trunks", "set"));
}

static void plan_tap(struct making *making, const struct netlink_link *link, const struct ovs_group *group)
{
        json_t *on = NULL, *port = ovs_view_port(making->view, link->name, &on);

        if (port && on != making->bridge) {
                if (!*ovs_row_id(port, OVS_ID_GROUP)) {
                        differs(making,
                                "the tap %s of port group %s is a port of the bridge %s, where drover did "
                                "not put it: remove it there (ovs-vsctl del-port)",
                                link->name, group->name, ovs_row_text(on, "name"));
                        return;
                }
                add(making, ovs_plan_remove_port(on, port));
                port = NULL;
        }
        if (!port) {
                differs(making, "the tap %s of port group %s is no port of the bridge %s", link->name,
                        group->name, making->spec->bridge);
                if (ovs_plan_add_tap(making->plan->operations, making->spec->bridge, link->name, group->name,
                            group->vlan) < 0)
                        making->starved = true;
                return;
        }
        compare_access(making, port, group);
        if (strcmp(ovs_row_id(port, OVS_ID_GROUP), group->name))
                set_id(making, "Port", port, OVS_ID_GROUP, group->name);
}

/* Ports that we made for taps which have ended, or have gone to another switch. */
static void drop_stale(struct making *making)
{
        const json_t *ports = json_object_get(making->bridge, "ports");

        for (size_t i = 0; i < json_array_size(ports); i++) {
                json_t *port = ovs_view_row(making->view->ports, ports, i);
                const struct netlink_link *link = ovs_view_link(making->view, ovs_row_text(port, "name"));

                if (*ovs_row_id(port, OVS_ID_GROUP) && (!link || !group_of(making->spec, link)))
                        add(making, ovs_plan_remove_port(making->bridge, port));
        }
}

static void plan_taps(struct making *making)
{
        drop_stale(making);
        for (size_t i = 0; i < making->view->n_links; i++) {
                const struct ovs_group *group = group_of(making->spec, &making->view->links[i]);

                if (group)
                        plan_tap(making, &making->view->links[i], group);
        }
}

/* Stations */

/* The MTU of an internal port is what is requested of it. */
static void compare_requested_mtu(struct making *making, const json_t *port)
{
        const json_t *interface =
                ovs_view_row(making->view->interfaces, json_object_get(port, "interfaces"), 0);

        if (interface && json_integer_value(json_array_get(json_object_get(interface, "mtu_request"), 0)) !=
                                 making->spec->mtu)
                update(making, "Interface", interface,
                        json_pack("{s:I}", "mtu_request", (json_int_t)making->spec->mtu));
}

/* What is missing is made without a word: no guest's frames go by it. */
static void plan_station(struct making *making, const struct ovs_group *group)
{
        json_t *operations = making->plan->operations, *on = NULL, *port;
        const struct ovs_spec *spec = making->spec;
        char name[IFNAMSIZ];

        ifname_station(spec->vswitch, group->vlan, name);
        port = ovs_view_port(making->view, name, &on);
        if (port && !*ovs_row_id(port, OVS_ID_STATION)) {
                differs(making, "the port %s of the bridge %s is not drover's, and the name is needed", name,
                        ovs_row_text(on, "name"));
                return;
        }
        if (!port && ovs_view_link(making->view, name)) {
                differs(making, "the interface %s is not drover's, and the name is needed", name);
                return;
        }
        if (json_array_append_new(making->plan->stations, json_string(name)) < 0)
                making->starved = true;
        if (port && on != making->bridge) {
                add(making, ovs_plan_remove_port(on, port));
                port = NULL;
        }
        if (port) {
                compare_access(making, port, group);
                compare_requested_mtu(making, port);
        } else if (add_access_port(operations, spec->bridge, name,
                           new_interface(operations, name, "internal", spec->mtu, count(operations)),
                           group->vlan, OVS_ID_STATION, spec->vswitch) < 0) {
                making->starved = true;
        }
}

static bool is_station_of(const struct ovs_spec *spec, const char *name)
{
        char station[IFNAMSIZ];

        for (size_t i = 0; i < spec->n_groups; i++) {
                ifname_station(spec->vswitch, spec->groups[i].vlan, station);
                if (!strcmp(station, name))
                        return true;
        }
        return false;
}

static void drop_stale_stations(struct making *making)
{
        const json_t *ports = json_object_get(making->bridge, "ports");

        for (size_t i = 0; i < json_array_size(ports); i++) {
                json_t *port = ovs_view_row(making->view->ports, ports, i);

                if (*ovs_row_id(port, OVS_ID_STATION) &&
                        !is_station_of(making->spec, ovs_row_text(port, "name")))
                        add(making, ovs_plan_remove_port(making->bridge, port));
        }
}

/* One in each VLAN. */
static void plan_stations(struct making *making)
{
        const struct ovs_spec *spec = making->spec;

        drop_stale_stations(making);
        for (size_t i = 0; i < spec->n_groups; i++) {
                bool first = true;

                for (size_t k = 0; k < i; k++)
                        first = first && spec->groups[k].vlan != spec->groups[i].vlan;
                if (first)
                        plan_station(making, &spec->groups[i]);
        }
}

/* What ovs-vswitchd itself cannot do. */
static void tell_broken_interfaces(struct making *making)
{
        const json_t *ports = json_object_get(making->bridge, "ports");

        for (size_t i = 0; i < json_array_size(ports); i++) {
                const json_t *port = ovs_view_row(making->view->ports, ports, i),
                             *references = json_object_get(port, "interfaces");
                bool ours = *ovs_row_id(port, OVS_ID_GROUP) || *ovs_row_id(port, OVS_ID_UPLINK) ||
                            *ovs_row_id(port, OVS_ID_STATION);

                for (size_t k = 0; ours && k < json_array_size(references); k++) {
                        const json_t *interface = ovs_view_row(making->view->interfaces, references, k);
                        const char *name = ovs_row_text(interface, "name");

                        /* A tap that has ended is about to go; one that is there must work. */
                        if (*ovs_row_optional(interface, "error") && ovs_view_link(making->view, name))
                                differs(making, "Open vSwitch cannot use %s: %s", name,
                                        ovs_row_optional(interface, "error"));
                }
        }
}

/* What is in the database is not what frames meet. */
static void tell_not_followed(struct making *making)
{
        json_int_t wanted = json_integer_value(json_object_get(making->view->root, "next_cfg"));

        if (json_integer_value(json_object_get(making->view->root, "cur_cfg")) < wanted)
                differs(making, "ovs-vswitchd does not carry out what was configured: see whether it runs, "
                                "and its log");
}

/* Guests leave checksums to whoever sends their packets on. Only read when ovs-vswitchd starts, so it is for the administrator to set. */
static void tell_lost_checksums(struct making *making)
{
        const char *type =
                making->bridge ? ovs_row_text(making->bridge, "datapath_type") : datapath_type(making->view);
        const char *passed_on =
                ovs_row_text(json_object_get(making->view->root, "other_config"), "userspace-tso-enable");

        if (!strcmp(type, "netdev") && strcmp(passed_on, "true"))
                differs(making,
                        "the userspace datapath loses checksums that guests leave to the network card: set "
                        "other_config:userspace-tso-enable=true in Open vSwitch, and start ovs-vswitchd "
                        "again");
}

int ovs_plan_init(struct ovs_plan *plan, const struct ovs_view *view, const struct ovs_spec *spec,
        bool uplinks_as_found, struct error **ret_error)
{
        _cleanup_ovs_plan_ struct ovs_plan fresh = {
                .operations = json_array(), .differences = json_array(), .stations = json_array()};
        struct making making = {.plan = &fresh,
                .view = view,
                .spec = spec,
                .bridge = ovs_view_bridge(view, spec->bridge),
                .starved = !fresh.operations || !fresh.differences || !fresh.stations,
                .ret_error = ret_error};
        int r = making.starved ? 0 : plan_bridge(&making);

        if (r == 0 && !making.starved && !spec->adopted && !uplinks_as_found)
                r = plan_uplinks(&making);
        if (r == 0 && !making.starved) {
                plan_taps(&making);
                plan_stations(&making);
                tell_broken_interfaces(&making);
                tell_lost_checksums(&making);
                tell_not_followed(&making);
        }
        if (r < 0)
                return r;
        if (making.starved)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *plan = fresh;
        fresh = (struct ovs_plan){0};
        return 0;
}

void ovs_plan_deinit(struct ovs_plan *plan)
{
        json_decref(plan->operations);
        json_decref(plan->differences);
        json_decref(plan->stations);
        *plan = (struct ovs_plan){0};
}
