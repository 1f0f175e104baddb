/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/ovs.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "fabric/ovs_macs.h"
#include "fabric/ovs_plan.h"
#include "fabric/ovs_view.h"
#include "fabric/ovsdb.h"
#include "io/file.h"

#define PID_MAX_CHARS 16

struct ovs {
        struct ovsdb *db;
        struct netlink *netlink;
        const struct clock *clock;
        struct ovsdb *control; /* ovs-vswitchd's, of the process that runs now; NULL: none yet */
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
        ovs->clock = clock;
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
        ovsdb_free(ovs->control);
        free(ovs);
}

/* What the kernel has to do with it: Open vSwitch neither sets its NICs up nor gives taps their MTU. */
static int follow_links(struct ovs *ovs, const struct ovs_view *view, const struct ovs_spec *spec,
        json_t *differences, struct error **ret_error)
{
        const char *group;
        int r = 0;

        for (size_t i = 0; r == 0 && i < view->n_links; i++) {
                const struct netlink_link *link = &view->links[i];
                bool uplink = !spec->adopted && doc_has_string(spec->uplinks, link->name), tap = false;

                group = ovs_plan_group_of(link);
                for (size_t k = 0; group && k < spec->n_groups; k++)
                        tap = tap || !strcmp(spec->groups[k].name, group);
                if ((uplink || tap) && !link->up)
                        r = netlink_set_up(ovs->netlink, link->name, true, ret_error);
                if (r == 0 && tap && link->mtu != spec->mtu) {
                        json_t *text = json_sprintf("the tap %s has MTU %u, and %u is configured", link->name,
                                link->mtu, spec->mtu);

                        r = json_array_append_new(differences, text) < 0
                                    ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory")
                                    : netlink_set_mtu(ovs->netlink, link->name, spec->mtu, ret_error);
                }
        }
        return r;
}

static int look(struct ovs *ovs, const struct ovs_spec *spec, json_t **ret_differences, uint64_t *ret_version,
        struct error **ret_error)
{
        _cleanup_ovs_view_ struct ovs_view view = {0};
        _cleanup_ovs_plan_ struct ovs_plan plan = {0};
        uint64_t version = 0;
        int r = ovs_view_init(&view, ovs->db, ovs->netlink, ret_error);

        if (r == 0)
                r = ovs_plan_init(&plan, &view, spec, ret_error);
        if (r < 0)
                return r;
        (void)text_parse_u64(
                ovs_row_id(ovs_view_bridge(&view, spec->bridge), OVS_ID_VERSION), 1, INT64_MAX, &version);
        *ret_differences = TAKE_PTR(plan.differences);
        if (ret_version)
                *ret_version = version;
        return 0;
}

int ovs_look(struct ovs *ovs, const struct ovs_spec *spec, json_t **ret_differences, uint64_t *ret_version,
        struct error **ret_error)
{
        return look(ovs, spec, ret_differences, ret_version, ret_error);
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

int ovs_ensure(struct ovs *ovs, const struct ovs_spec *spec, json_t **ret_differences, json_t **ret_left,
        struct error **ret_error)
{
        _cleanup_ovs_view_ struct ovs_view view = {0};
        _cleanup_ovs_plan_ struct ovs_plan plan = {0};
        _cleanup_json_ json_t *left = NULL;
        int r = ovs_view_init(&view, ovs->db, ovs->netlink, ret_error);

        if (r == 0)
                r = ovs_plan_init(&plan, &view, spec, ret_error);
        if (r == 0 && json_array_size(plan.operations) && !spec->adopted)
                r = check_addresses(ovs, spec, ret_error);
        if (r == 0)
                r = follow_links(ovs, &view, spec, plan.differences, ret_error);
        if (r == 0 && json_array_size(plan.operations))
                r = ovsdb_apply(ovs->db, json_incref(plan.operations), NULL, ret_error);
        if (r == 0 && json_array_size(plan.differences))
                r = look(ovs, spec, &left, NULL, ret_error);
        if (r < 0)
                return r;
        if (!left)
                left = json_array();
        if (!left)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_differences = TAKE_PTR(plan.differences);
        *ret_left = TAKE_PTR(left);
        return 0;
}

/* Only what drover put there may be on it: its own port, uplinks, and taps that have ended. */
static int check_unused(const struct ovs_view *view, const json_t *bridge, bool adopted, json_t *operations,
        struct error **ret_error)
{
        const json_t *ports = json_object_get(bridge, "ports");

        for (size_t i = 0; i < json_array_size(ports); i++) {
                const json_t *port = ovs_view_row(view->ports, ports, i);
                const char *name = ovs_row_text(port, "name");
                bool tap = *ovs_row_id(port, OVS_ID_GROUP) != '\0',
                     uplink = *ovs_row_id(port, OVS_ID_UPLINK) != '\0';

                if (!port || uplink || !strcmp(name, ovs_row_text(bridge, "name")) || (!tap && adopted))
                        continue;
                if (!tap || ovs_view_link(view, name))
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

int ovs_remove(struct ovs *ovs, const struct ovs_spec *spec, struct error **ret_error)
{
        _cleanup_ovs_view_ struct ovs_view view = {0};
        _cleanup_json_ json_t *operations = json_array();
        json_t *bridge;
        int r = ovs_view_init(&view, ovs->db, ovs->netlink, ret_error);

        if (r < 0)
                return r;
        bridge = ovs_view_bridge(&view, spec->bridge);
        if (!bridge || (!spec->adopted && strcmp(ovs_row_id(bridge, OVS_ID_SWITCH), spec->vswitch)))
                return 0; /* another's, or gone */
        r = check_unused(&view, bridge, spec->adopted, operations, ret_error);
        if (r < 0)
                return r;
        if (!spec->adopted && json_array_append_new(operations,
                                      json_pack("{s:s, s:s, s:[], s:[[s, s, O]]}", "op", "mutate", "table",
                                              "Open_vSwitch", "where", "mutations", "bridges", "delete",
                                              json_object_get(bridge, "_uuid"))) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return json_array_size(operations) ? ovsdb_apply(ovs->db, TAKE_PTR(operations), NULL, ret_error) : 0;
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
                        "the network port %s is a port of the bridge %s of Open vSwitch, which drover did "
                        "not "
                        "do",
                        tap, ovs_row_text(bridge, "name"));
        return ovsdb_apply(ovs->db, json_pack("[o]", ovs_plan_remove_port(bridge, port)), NULL, ret_error);
}

int ovs_attach(struct ovs *ovs, const char *bridge, const char *tap, const char *port_group, uint16_t vlan,
        struct error **ret_error)
{
        _cleanup_ovs_view_ struct ovs_view view = {0};
        _cleanup_json_ json_t *operations = json_array();
        const json_t *interface;
        int r = ovs_view_init(&view, ovs->db, ovs->netlink, ret_error);

        if (r == 0)
                r = drop_port(ovs, &view, tap, ret_error);
        if (r < 0)
                return r;
        if (ovs_plan_add_tap(operations, bridge, tap, port_group, vlan) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = ovsdb_apply(ovs->db, TAKE_PTR(operations), NULL, ret_error);
        if (r < 0)
                return r;
        ovs_view_deinit(&view);
        r = ovs_view_init(&view, ovs->db, ovs->netlink, ret_error);
        if (r < 0)
                return r;
        interface = ovs_view_interface(&view, tap);
        if (!interface || *ovs_row_optional(interface, "error"))
                return error_set(ret_error, ERROR_PEER_FAILED, "See the log of ovs-vswitchd.",
                        "Open vSwitch cannot use the network port %s: %s", tap,
                        interface ? ovs_row_optional(interface, "error") : "it has vanished");
        return 0;
}

/* Its control socket is beside the database's, and named by its process. */
static int find_control(struct ovs *ovs, struct error **ret_error)
{
        const char *path = ovsdb_path(ovs->db), *slash = strrchr(path, '/');
        _cleanup_free_ char *pid_file = NULL, *pid = NULL, *socket = NULL;
        int folder = slash ? (int)(slash - path) : 0, r;

        pid_file = alloc_printf("%.*s/ovs-vswitchd.pid", folder, path);
        r = pid_file ? file_read(pid_file, PID_MAX_CHARS, &pid, NULL) : -ENOMEM;
        if (r < 0)
                return error_from_errno(ret_error, r, "process number of ovs-vswitchd (%s)", pid_file ?: "");
        pid[strcspn(pid, "\n")] = '\0';
        socket = alloc_printf("%.*s/ovs-vswitchd.%s.ctl", folder, path, pid);
        if (socket && ovs->control && !strcmp(ovsdb_path(ovs->control), socket))
                return 0;
        ovsdb_free(TAKE_PTR(ovs->control));
        r = socket ? ovsdb_new(socket, ovs->clock, &ovs->control) : -ENOMEM;
        return r < 0 ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory") : 0;
}

int ovs_foreign_macs(struct ovs *ovs, const char *bridge, json_t **ret_macs, struct error **ret_error)
{
        _cleanup_ovs_view_ struct ovs_view view = {0};
        _cleanup_free_ char *table = NULL;
        int r = find_control(ovs, ret_error);

        if (r == 0)
                r = ovsdb_command(ovs->control, "fdb/show", json_pack("[s]", bridge), &table, ret_error);
        if (r == 0)
                r = ovs_view_init(&view, ovs->db, ovs->netlink, ret_error);
        if (r < 0)
                return r;
        return ovs_macs_foreign(&view, bridge, table, ret_macs) < 0
                       ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory")
                       : 0;
}
