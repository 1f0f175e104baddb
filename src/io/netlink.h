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
        bool up;          /* IFF_UP */
        bool running;     /* carrier */
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
int netlink_set_mtu(struct netlink *netlink, const char *name, uint32_t mtu, struct error **ret_error);
/* VLAN sub-interface NAME of PARENT; -EOPNOTSUPP where the kernel has none. */
int netlink_add_vlan(struct netlink *netlink, const char *name, const char *parent, uint16_t vlan_id,
        struct error **ret_error);
