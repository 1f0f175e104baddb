/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Distributed switches on one host, realised with Open vSwitch: a bridge, its uplink (a NIC, or a bond of several) as a trunk of
 * all VLANs, and a port for each guest NIC as an access port of its port group's VLAN. Everything that drover made is marked in
 * external_ids; what has no mark is never changed or removed:
 *
 *   Bridge  drover-switch = NAME, drover-version = N (the switch's version that was applied)
 *   Port    drover-uplink = NAME, or drover-port-group = NAME, or drover-station = NAME of the switch
 *
 * VLAN 0 is an access port as well (tag 0): a port without a tag would be a trunk, and its guest could speak in each VLAN. Which taps
 * belong on the bridge follows from their aliases (tap.h), not from the database, so that a port that somebody removed comes
 * back.
 *
 * In each VLAN that a port group has, the host has an access port of its own, its station there (ifname_station()): what is tried on the network before a
 * migration, and asked after it, goes out of it as a frame of that VLAN. It has no address, neither of IPv4 nor of IPv6, and ARP is off.
 *
 * The userspace datapath is used where ovs-vswitchd has no other. */

#include <jansson.h>

#include "base/clock.h"
#include "base/error.h"
#include "fabric/ovs_find.h"
#include "io/netlink.h"

struct ovs;

#define OVS_UPLINKS_MAX 8
#define OVS_UPLINK_POLICIES(X) \
        X(ACTIVE_BACKUP, "active-backup", "active-backup", "off") \
        X(BALANCE_SLB, "balance-slb", "balance-slb", "off") \
        X(LACP, "lacp", "balance-tcp", "active")
enum ovs_uplink_policy {
#define X(name, text, mode, lacp) OVS_UPLINK_##name,
        OVS_UPLINK_POLICIES(X)
#undef X
                N_OVS_UPLINK_POLICIES
};
const char *ovs_uplink_policy_to_string(enum ovs_uplink_policy policy);
/* 0, or -EINVAL. */
int ovs_uplink_policy_from_string(const char *text, enum ovs_uplink_policy *ret_policy);

struct ovs_group {
        const char *name;
        uint16_t vlan;
};

struct ovs_spec {
        const char *vswitch; /* its name */
        const char *bridge;  /* from ifname_bridge(), or an administrator's */
        bool adopted;        /* the administrator's: it gets ports, and is otherwise left alone */
        bool is_new; /* the document is put: what cannot be had is an error; else it is drift, and the rest goes on */
        uint64_t version;      /* of the switch's document */
        const json_t *uplinks; /* array of names of NICs, at most OVS_UPLINKS_MAX */
        enum ovs_uplink_policy policy;
        uint32_t mtu;
        const struct ovs_group *groups; /* on this switch */
        size_t n_groups;
};

/* The database's socket; nothing is opened yet. netlink and clock are borrowed. 0 or -ENOMEM. */
int ovs_new(const char *db_path, struct netlink *netlink, const struct clock *clock, struct ovs **ret_ovs);
void ovs_free(struct ovs *ovs);
DEFINE_CLEANUP(struct ovs *, ovs_free)

/* Makes Open vSwitch follow and waits until it does. *ret_differences: array of sentences about what was otherwise before, the
 * caller's; those that are still so afterwards are in *ret_left. Ports of taps that are gone are removed without a word. CONFLICT: a bridge of that name
 * is not drover's; UNREACHABLE: ovs-vswitchd has never run; and as ovsdb_apply(). Of a new document also CONFLICT: an uplink is in use; NOT_FOUND: no such NIC,
 * or bridge to adopt; CHECK_FAILED: its MTU. */
int ovs_ensure(struct ovs *ovs, const struct ovs_spec *spec, json_t **ret_differences, json_t **ret_left,
        struct error **ret_error);
/* Removes the bridge; of an adopted one, what drover put there. CONFLICT while a tap, or a port that is not drover's, is on it. */
int ovs_remove(struct ovs *ovs, const struct ovs_spec *spec, struct error **ret_error);

/* Array of {"mac", "port"}: addresses that the bridge has learned on this host, at ports that are neither drover's nor lead out of
 * it (compare foreign_macs.h), and those of such ports themselves. At most FOREIGN_MACS_MAX. ovs-vswitchd is asked and not waited for, and what ports there are
 * is as it was seen last: it may be called while a guest is paused. See ovs_find.h; negative errno: there is no ovs-vswitchd to ask. */
int ovs_list_macs(struct ovs *ovs, struct loop *loop, const char *bridge, ovs_listed_fn listed,
        void *userdata, struct ovs_find **ret_find);

/* Likewise: at which of those ports the bridge has learned one address. */
int ovs_find_port(struct ovs *ovs, struct loop *loop, const char *bridge, const uint8_t mac[static MAC_SIZE],
        ovs_found_fn found, void *userdata, struct ovs_find **ret_find);

/* Makes the tap a port of the bridge in that VLAN. One that it is already, also of a tap that had this name before, goes first. */
int ovs_attach(struct ovs *ovs, const char *bridge, const char *tap, const char *port_group, uint16_t vlan,
        struct error **ret_error);

/* One that speaks in the name of this tap's guest (ovs_speaker.h), by what was seen last: the database is not asked. -ENOENT: the tap was not
 * seen there; else as ovs_speaker_new(). */
struct ovs_speaker;
int ovs_speak_for(struct ovs *ovs, const char *bridge, const char *tap, struct ovs_speaker **ret_speaker);
