/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The kernel's side of a switch: a bridge and the one port that leads out of the host. Below vswitch.c, which
 * decides what there should be. */

#include "base/error.h"
#include "io/netlink.h"

struct bridge_spec {
        const char *name;
        const char *alias;  /* says whose it is; a bridge of this name with another alias is refused */
        const char *uplink; /* NULL: none */
        uint32_t mtu;
};

/* Makes the bridge as described and sets it and its uplink up; changes only what differs. A bridge that this
 * very call made is removed again on failure. */
int bridge_ensure(struct netlink *netlink, const struct bridge_spec *spec, struct error **ret_error);

/* Makes the VLAN interface NAME on PARENT, with this MTU; one on another parent is made anew. */
int bridge_ensure_vlan(struct netlink *netlink, const char *name, const char *parent, uint16_t vlan,
        uint32_t mtu, struct error **ret_error);

/* Whether a NIC may become the uplink of the bridge: it exists, has at least this MTU, no other master and no
 * address of the host. Fills ret_link. */
int bridge_check_uplink(struct netlink *netlink, const char *uplink, const char *bridge, uint32_t mtu,
        struct netlink_link *ret_link, struct error **ret_error);

/* Removes the bridge, its uplink is released. CONFLICT, naming one, while it has other ports. 0 if there is no
 * such bridge. */
int bridge_remove(
        struct netlink *netlink, const char *name, const char *uplink_or_null, struct error **ret_error);
