/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What has to be done so that Open vSwitch is as a switch's document says: a comparison without changes. ovs.c carries it out. */

#include "fabric/ovs.h"
#include "fabric/ovs_view.h"

#define OVS_ID_SWITCH "drover-switch"
#define OVS_ID_VERSION "drover-version"
#define OVS_ID_UPLINK "drover-uplink"
#define OVS_ID_GROUP "drover-port-group"
#define OVS_ID_STATION "drover-station"

struct ovs_plan {
        json_t *operations;  /* of the database; none: nothing to do */
        json_t *differences; /* sentences */
        json_t *stations;    /* names: what is there is drover's, or is about to be made */
        bool takes_uplinks;  /* NICs come to the bridge that are not on it */
};

/* 0 with a plan to be deinitialised, or a negative errno with an error that says why it cannot be done. uplinks_as_found: they are neither
 * compared nor changed. */
int ovs_plan_init(struct ovs_plan *plan, const struct ovs_view *view, const struct ovs_spec *spec,
        bool uplinks_as_found, struct error **ret_error);
void ovs_plan_deinit(struct ovs_plan *plan);
#define _cleanup_ovs_plan_ _cleanup_(ovs_plan_deinit)

/* Operations; the caller's. NULL without memory. */
json_t *ovs_plan_remove_port(const json_t *bridge, const json_t *port);
/* A port of one interface, as an access port of a VLAN, appended to `operations`. 0 or -ENOMEM. */
int ovs_plan_add_tap(
        json_t *operations, const char *bridge, const char *tap, const char *port_group, uint16_t vlan);

/* The port group that a tap is for (tap.h), or NULL when it is none of drover's. */
const char *ovs_plan_group_of(const struct netlink_link *link);
