/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Taps: a guest NIC's port on a switch. A tap that is not persistent lives as long as somebody holds its
 * descriptor: handed to QEMU and closed here, it ends with QEMU and cannot be left behind. */

#include "base/error.h"
#include "io/netlink.h"

struct ovs;

struct tap_spec {
        const char *vm_uid;
        unsigned int nic;       /* index in spec.nics, 0 to 255 */
        const char *port_group; /* recorded in the interface's alias */
        const char *bridge;     /* from vswitch_set_find_port_group() */
        uint32_t mtu;
        bool persistent;
        struct ovs *
                ovs; /* the bridge is one of Open vSwitch, and the port an access port of `vlan`; NULL: the kernel's */
        uint16_t vlan;
};

/* Makes the tap (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) with its name from ifname_tap(), sets its MTU, attaches it
 * to the bridge and sets it up. An existing persistent one of this name is taken. *ret_fd (CLOEXEC,
 * non-blocking) is the caller's: for QEMU's `-netdev tap,fd=N,vnet_hdr=on`; ret_name may be NULL. CONFLICT: the
 * tap is in use by another process (this VM runs here already); NOT_SUPPORTED: no /dev/net/tun. */
int tap_open(struct netlink *netlink, const struct tap_spec *spec, int *ret_fd, char ret_name[IFNAMSIZ],
        struct error **ret_error);

/* Moves an existing tap to another bridge and MTU (and alias), without touching the guest. */
int tap_attach(struct netlink *netlink, const char *name, const char *port_group, const char *bridge,
        uint32_t mtu, struct error **ret_error);

/* Removes the interface; a process that holds it sees its link vanish. 0 if there is none. */
int tap_delete(struct netlink *netlink, const char *name);

/* Names of all taps made by drover, whoever holds them: array of n strings in one block, free() it. The
 * caller compares with the VMs that it knows and deletes the rest. */
int tap_list(struct netlink *netlink, char (**ret_names)[IFNAMSIZ], size_t *ret_n_names);

/* The alias that marks a tap as a port of the group: "drover port-group NAME". */
#define TAP_ALIAS_PREFIX "drover port-group "
