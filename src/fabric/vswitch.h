/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Virtual switches and port groups of one host: standard ones, realised with Linux bridges, and distributed ones, realised with
 * Open vSwitch (ovs.h) from a document that the manager gives a version.
 *
 * A standard switch is a bridge ("dv-NAME", STP off) with its uplink as a port. If the uplink is itself a bridge that
 * drover did not make (br0, vmbr0: hosts whose own address is on it), that bridge is the switch: it gets
 * ports, but is never configured or removed. A port group without VLAN uses the switch's bridge; one with a
 * VLAN gets a bridge of its own whose uplink is a VLAN sub-interface of the switch's uplink (refused with
 * NOT_SUPPORTED where the kernel has no 8021q; a switch without uplink needs none).
 *
 * A distributed switch is a bridge of Open vSwitch of the same name, or an administrator's that the document names; a port group's VLAN is a tag on
 * each of its ports.
 *
 * `struct vswitch_set` holds the desired documents and makes the kernel follow. Every call is idempotent: it
 * looks at what is there and changes what differs. All calls are synchronous and take milliseconds. */

#include <jansson.h>

#include "base/error.h"
#include "io/netlink.h"

#define VSWITCH_MAX_SWITCHES 64
#define VSWITCH_MAX_PORT_GROUPS 1024
#define VSWITCH_MTU_MIN 576
#define VSWITCH_MTU_MAX 65520
#define VSWITCH_MTU_DEFAULT 1500 /* with neither a wanted MTU nor an uplink to take it from */

struct clock;
struct ovs;
struct vswitch_set;

/* `netlink` is borrowed and must outlive the set. */
int vswitch_set_new(struct netlink *netlink, struct vswitch_set **ret_set);
/* Forgets; leaves the kernel's interfaces as they are. */
void vswitch_set_free(struct vswitch_set *set);
DEFINE_CLEANUP(struct vswitch_set *, vswitch_set_free)
/* For distributed switches, which are NOT_SUPPORTED before. Both are borrowed. */
void vswitch_set_use_ovs(struct vswitch_set *set, struct ovs *ovs, const struct clock *clock);

/* Takes the desired documents as vswitch_set_to_json() gave them (a set that is empty so far) and applies
 * each. Fails only for a bad document or without memory; a switch that cannot be realised now (NIC missing)
 * is kept, says why in its status, and is tried again by vswitch_set_apply(). */
int vswitch_set_load(struct vswitch_set *set, const json_t *desired, struct error **ret_error);
/* {"format": 1, "switches": [{"name", "uplink", "mtu"}], "port_groups": [{"name", "switch", "vlan"}]}; a distributed switch has what distributed.h
 * says in place of "uplink". The caller's; NULL without memory. */
json_t *vswitch_set_to_json(const struct vswitch_set *set);
/* Makes the kernel follow again; what fails is in the statuses. */
void vswitch_set_apply(struct vswitch_set *set);
/* The same for distributed switches only, now and then: mends their drift. */
void vswitch_set_tend(struct vswitch_set *set);

/* Adds or changes. `body` is {"uplink": NAME or null, "mtu": N or null (the uplink's)}, or a distributed switch's (distributed.h); the one does
 * not become the other (CONFLICT). On failure the set is
 * as before. CHECK_FAILED: the uplink's MTU is smaller; NOT_FOUND: no such uplink; CONFLICT: the uplink belongs
 * to another bridge, or the host's own address is on it. */
int vswitch_set_put_switch(
        struct vswitch_set *set, const char *name, const json_t *body, struct error **ret_error);
/* CONFLICT while it has port groups or ports. Removing an unknown one is NOT_FOUND. */
int vswitch_set_remove_switch(struct vswitch_set *set, const char *name, struct error **ret_error);

/* Adds or changes. `body` is {"switch": NAME, "vlan": 0 to 4094}; switch and VLAN of a group in use cannot
 * change (CONFLICT). */
int vswitch_set_put_port_group(
        struct vswitch_set *set, const char *name, const json_t *body, struct error **ret_error);
int vswitch_set_remove_port_group(struct vswitch_set *set, const char *name, struct error **ret_error);

/* Status documents, read from the kernel now; the caller's. NULL: unknown name, or no memory. Switch: {"name",
 * "uplink", "mtu", "bridge", "realised", "carrier", "ok", "message"}; port group: {"name", "switch", "vlan", "bridge",
 * "ok", "message"}. `ok` false: not realised, or the uplink has no carrier; `message` says which. A
 * distributed switch has more (distributed.h); its "uplink" names all of them. */
json_t *vswitch_set_switch_status(struct vswitch_set *set, const char *name);
json_t *vswitch_set_port_group_status(struct vswitch_set *set, const char *name);
/* {NAME: BRIDGE} of the distributed switches that work: whose addresses ovs-vswitchd can be asked for (ovs_list_macs()). The caller's; NULL without memory. */
json_t *vswitch_set_distributed_bridges(const struct vswitch_set *set);
/* Arrays of the above; a switch also has "foreign_macs" (foreign_macs.h), unless they cannot be read now. Of distributed switches they are as given: {NAME: array}, those
 * that are missing are left out; may be NULL. */
json_t *vswitch_set_list_switches(struct vswitch_set *set, const json_t *learned);
json_t *vswitch_set_list_port_groups(struct vswitch_set *set);

/* Where a port of the group goes. */
struct vswitch_port_group {
        char bridge[IFNAMSIZ];
        char station
                [IFNAMSIZ]; /* where this host itself is on the port group's network: the bridge, or a port of its own (ovs.h) */
        uint32_t mtu;
        uint16_t vlan;
        struct ovs *ovs; /* it is on a distributed switch; borrowed. NULL: a standard one */
};
/* NOT_FOUND for an unknown group; CONFLICT with the cause if it is not realised (tried once more here). */
int vswitch_set_find_port_group(struct vswitch_set *set, const char *name,
        struct vswitch_port_group *ret_port_group, struct error **ret_error);
/* The same as it was when it was realised last, whatever the last look found, if anything: that a switch was not looked at in time takes nothing away from
 * it. Nothing is asked of anybody, so that it may be called while a guest is paused. -ENOENT: it is unknown, or was never realised. */
int vswitch_set_look_up_port_group(
        const struct vswitch_set *set, const char *name, struct vswitch_port_group *ret_port_group);
