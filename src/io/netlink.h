/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* rtnetlink for switches and their ports (libmnl): synchronous, each request answered by the kernel within
 * one second. */

#include <net/if.h>

#include "base/error.h"

struct netlink;

struct netlink_link {
        int index;
        char name[IFNAMSIZ];
        char kind[16]; /* "bridge", "tun", "veth", "" */
        uint8_t mac[6];
        uint32_t mtu;
        int master_index; /* 0: none */
        int parent_index; /* of a VLAN interface: what it is on; 0: none */
        bool up;          /* IFF_UP */
        bool running;     /* carrier */
        char alias[256];  /* free text of whoever made it; "" */
};

int netlink_new(struct netlink **ret_netlink, struct error **ret_error);
void netlink_free(struct netlink *netlink);
DEFINE_CLEANUP(struct netlink *, netlink_free)

/* -ENODEV if there is none. */
int netlink_get_link(struct netlink *netlink, const char *name, struct netlink_link *ret_link);
/* Array of all links, the caller's. */
int netlink_list_links(struct netlink *netlink, struct netlink_link **ret_links, size_t *ret_n_links);
int netlink_add_bridge(struct netlink *netlink, const char *name, uint32_t mtu, struct error **ret_error);
int netlink_delete_link(struct netlink *netlink, const char *name);
int netlink_set_master(
        struct netlink *netlink, const char *name, const char *master_or_null, struct error **ret_error);
int netlink_set_up(struct netlink *netlink, const char *name, bool up, struct error **ret_error);
/* The host neither asks by ARP on the interface nor answers there (IFF_NOARP). */
int netlink_set_no_arp(struct netlink *netlink, const char *name, struct error **ret_error);
int netlink_set_mtu(struct netlink *netlink, const char *name, uint32_t mtu, struct error **ret_error);
/* VLAN sub-interface NAME of PARENT; -EOPNOTSUPP where the kernel has none. */
int netlink_add_vlan(struct netlink *netlink, const char *name, const char *parent, uint16_t vlan_id,
        struct error **ret_error);
/* Free text for people and for recognising what we made; at most 255 characters. */
int netlink_set_alias(struct netlink *netlink, const char *name, const char *alias, struct error **ret_error);
/* The host gives the interface no IPv6 link-local address, so that it does not take part in a guest's network.
 * -EOPNOTSUPP without IPv6. */
int netlink_set_no_ipv6(struct netlink *netlink, const char *name);
/* Whether the host has an IPv4 or a global IPv6 address on the interface. */
int netlink_has_address(struct netlink *netlink, const char *name, bool *ret_has_address);

/* Bridge forwarding database (AF_BRIDGE neighbours). The port at which the bridge has the MAC; the bridge's own
 * name for its own address. -ENOENT: not known, -ENODEV: no such bridge. */
int netlink_fdb_find(struct netlink *netlink, const char *bridge, const uint8_t mac[static 6],
        char ret_port[static IFNAMSIZ]);
struct netlink_fdb_entry {
        uint8_t mac[6];
        int bridge_index, port_index; /* equal for the bridge's own address */
        bool own;                     /* of the port, or the bridge, itself; else learned, or put there */
};
/* What all bridges know, in one array, the caller's. */
int netlink_list_fdb(struct netlink *netlink, struct netlink_fdb_entry **ret_entries, size_t *ret_n_entries);
/* Makes the port's bridge believe that it has just seen the MAC there (an ordinary, ageing entry). -EPERM while
 * the port is down. */
int netlink_fdb_replace(struct netlink *netlink, const char *port, const uint8_t mac[static 6]);
