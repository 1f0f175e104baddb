/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* MAC addresses that the bridges of this host have seen on it, or have themselves, and that do not belong to a tap of drover:
 * of other hypervisors' guests, containers, the host's own interfaces. A VM with such an address cannot come here. What was
 * learned on the way out of the host (the uplink, or another interface that is no local port) is not of this host. */

#include <jansson.h>

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
