/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* MAC addresses that the bridges of this host have seen on it, or have themselves, and that do not belong to a tap of drover:
 * of other hypervisors' guests, containers, the host's own interfaces. A VM with such an address cannot come here. What was
 * learned on the way out of the host (the uplink, or another interface that is no local port) is not of this host. */

#include <jansson.h>
#include <net/if.h>

#include "base/macros.h"

struct netlink;
struct foreign_macs;

#define FOREIGN_MACS_MAX 256 /* on one switch; more are not told */

/* The kernel's tables as they are now. 0, or a negative errno of the request. */
int foreign_macs_read(struct netlink *netlink, struct foreign_macs **ret_macs);
/* Accepts NULL. */
void foreign_macs_free(struct foreign_macs *macs);
DEFINE_CLEANUP(struct foreign_macs *, foreign_macs_free)

/* Array of {"mac", "port"} on these bridges, by port and address, the caller's; NULL without memory. uplink: NULL for none. */
json_t *foreign_macs_on(
        const struct foreign_macs *macs, const char *const *bridges, size_t n_bridges, const char *uplink);

/* The port of `bridge` behind which somebody on this host has that MAC address, by one look at the bridge's table: any tap (of another guest of
 * drover too), end of a cable, or interface whose own address it is, but `own_port` and `uplink` (either may be NULL). False: none. */
bool foreign_macs_find_port(struct netlink *netlink, const char *bridge, const uint8_t mac[static 6],
        const char *own_port, const char *uplink, char ret_port[static IFNAMSIZ]);
