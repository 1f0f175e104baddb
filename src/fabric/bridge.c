/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/bridge.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"

static int link_unreadable(int r, const char *name, struct error **ret_error)
{
        if (r == -ENODEV)
                return error_set(ret_error, ERROR_NOT_FOUND,
                        "Name a network interface of this host (see `ip link`).",
                        "this host has no network interface %s", name);
        return error_from_errno(ret_error, r, "cannot read the state of interface %s", name);
}

/* Finds the bridge, or makes it. *ret_made tells which. */
static int find_or_add(struct netlink *netlink, const struct bridge_spec *spec, struct netlink_link *ret_link,
        bool *ret_made, struct error **ret_error)
{
        bool made = false;
        int r = netlink_get_link(netlink, spec->name, ret_link);

        if (r == -ENODEV) {
                r = netlink_add_bridge(netlink, spec->name, spec->mtu, ret_error);
                if (r < 0)
                        return r;
                made = *ret_made = true;
                r = netlink_get_link(netlink, spec->name, ret_link);
        }
        if (r < 0)
                return link_unreadable(r, spec->name, ret_error);
        if (strcmp(ret_link->kind, "bridge"))
                return error_set(ret_error, ERROR_CONFLICT, "Remove or rename that interface.",
                        "an interface %s exists that is no bridge, and the switch needs the name",
                        spec->name);
        if (ret_link->alias[0] && strcmp(ret_link->alias, spec->alias))
                return error_set(ret_error, ERROR_CONFLICT, "Choose another name for the switch.",
                        "the bridge %s belongs to \"%s\"", spec->name, ret_link->alias);
        if (!ret_link->alias[0]) {
                r = netlink_set_alias(netlink, spec->name, spec->alias, ret_error);
                if (r < 0)
                        return r;
        }
        /* A kernel without IPv6 has nothing to switch off. */
        if (made)
                (void)netlink_set_no_ipv6(netlink, spec->name);
        return 0;
}

static int ensure_uplink(struct netlink *netlink, const struct bridge_spec *spec,
        const struct netlink_link *bridge, struct error **ret_error)
{
        struct netlink_link uplink = {};
        int r;

        r = bridge_check_uplink(netlink, spec->uplink, spec->name, spec->mtu, &uplink, ret_error);
        if (r < 0)
                return r;
        if (uplink.master_index != bridge->index) {
                r = netlink_set_master(netlink, spec->uplink, spec->name, ret_error);
                if (r < 0)
                        return r;
        }
        return uplink.up ? 0 : netlink_set_up(netlink, spec->uplink, true, ret_error);
}

/* The taps on the bridge get its MTU; what is larger would be dropped by the bridge. */
static int ensure_port_mtus(
        struct netlink *netlink, const struct netlink_link *bridge, uint32_t mtu, struct error **ret_error)
{
        _cleanup_free_ struct netlink_link *links = NULL;
        size_t n_links;
        int r = netlink_list_links(netlink, &links, &n_links);

        if (r < 0)
                return error_from_errno(ret_error, r, "cannot list the ports of %s", bridge->name);
        for (size_t i = 0; i < n_links; i++) {
                if (links[i].master_index != bridge->index || strcmp(links[i].kind, "tun") ||
                        links[i].mtu == mtu)
                        continue;
                r = netlink_set_mtu(netlink, links[i].name, mtu, ret_error);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int configure(struct netlink *netlink, const struct bridge_spec *spec, struct netlink_link *bridge,
        struct error **ret_error)
{
        int r;

        if (spec->uplink) {
                r = ensure_uplink(netlink, spec, bridge, ret_error);
                if (r < 0)
                        return r;
        }
        /* Again: the kernel may have changed the MTU when the port came. */
        r = netlink_get_link(netlink, spec->name, bridge);
        if (r < 0)
                return link_unreadable(r, spec->name, ret_error);
        if (bridge->mtu != spec->mtu) {
                r = netlink_set_mtu(netlink, spec->name, spec->mtu, ret_error);
                if (r < 0)
                        return r;
        }
        r = ensure_port_mtus(netlink, bridge, spec->mtu, ret_error);
        if (r < 0)
                return r;
        return bridge->up ? 0 : netlink_set_up(netlink, spec->name, true, ret_error);
}

int bridge_ensure(struct netlink *netlink, const struct bridge_spec *spec, struct error **ret_error)
{
        struct netlink_link bridge;
        bool made = false;
        int r;

        r = find_or_add(netlink, spec, &bridge, &made, ret_error);
        if (!r)
                r = configure(netlink, spec, &bridge, ret_error);
        if (r < 0 && made && netlink_delete_link(netlink, spec->name) < 0)
                log_debug("the unfinished bridge %s could not be removed", spec->name);
        return r;
}

int bridge_ensure_vlan(struct netlink *netlink, const char *name, const char *parent, uint16_t vlan,
        uint32_t mtu, struct error **ret_error)
{
        struct netlink_link link, on;
        int r = netlink_get_link(netlink, parent, &on);

        if (r < 0)
                return link_unreadable(r, parent, ret_error);
        r = netlink_get_link(netlink, name, &link);
        if (!r && (strcmp(link.kind, "vlan") || link.parent_index != on.index)) {
                r = netlink_delete_link(netlink, name);
                if (r < 0)
                        return error_from_errno(ret_error, r, "cannot replace the VLAN interface %s", name);
                r = -ENODEV;
        }
        if (r == -ENODEV) {
                r = netlink_add_vlan(netlink, name, parent, vlan, ret_error);
                if (r < 0)
                        return r;
                r = netlink_get_link(netlink, name, &link);
        }
        if (r < 0)
                return link_unreadable(r, name, ret_error);
        return link.mtu == mtu ? 0 : netlink_set_mtu(netlink, name, mtu, ret_error);
}

int bridge_check_uplink(struct netlink *netlink, const char *uplink, const char *bridge, uint32_t mtu,
        struct netlink_link *ret_link, struct error **ret_error)
{
        struct netlink_link link, ours;
        bool has_address = false;
        int r = netlink_get_link(netlink, uplink, &link);

        if (r < 0)
                return link_unreadable(r, uplink, ret_error);
        if (link.mtu < mtu)
                return error_set(ret_error, ERROR_CHECK_FAILED,
                        "Raise the MTU of the uplink (and of the physical switch), or lower that of the "
                        "switch.",
                        "the uplink %s has MTU %u, the switch needs %u", uplink, link.mtu, mtu);
        if (link.master_index) {
                r = netlink_get_link(netlink, bridge, &ours);
                if (r < 0 || ours.index != link.master_index)
                        return error_set(ret_error, ERROR_CONFLICT,
                                "Release it there, or use that bridge or bond itself as the uplink.",
                                "the uplink %s is a port of another bridge or bond already", uplink);
        } else {
                r = netlink_has_address(netlink, uplink, &has_address);
                if (r < 0)
                        return error_from_errno(ret_error, r, "cannot read the addresses of %s", uplink);
                if (has_address)
                        return error_set(ret_error, ERROR_CONFLICT,
                                "Make a bridge that holds the address (as br0), and name that bridge as the "
                                "uplink.",
                                "the uplink %s carries an address of this host, which would stop working",
                                uplink);
        }
        *ret_link = link;
        return 0;
}

int bridge_remove(
        struct netlink *netlink, const char *name, const char *uplink_or_null, struct error **ret_error)
{
        _cleanup_free_ struct netlink_link *links = NULL;
        struct netlink_link bridge;
        size_t n_links = 0;
        int r;

        r = netlink_get_link(netlink, name, &bridge);
        if (r == -ENODEV)
                return 0;
        if (r >= 0)
                r = netlink_list_links(netlink, &links, &n_links);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot read the ports of %s", name);
        for (size_t i = 0; i < n_links; i++)
                if (links[i].master_index == bridge.index &&
                        (!uplink_or_null || strcmp(links[i].name, uplink_or_null)))
                        return error_set(ret_error, ERROR_CONFLICT,
                                "Stop or move the virtual machine that uses it.",
                                "the bridge %s is in use: %s is a port of it", name, links[i].name);
        r = netlink_delete_link(netlink, name);
        return r < 0 ? error_from_errno(ret_error, r, "cannot remove the bridge %s", name) : 0;
}
