/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What Open vSwitch has on this host, read in one transaction, and the kernel's interfaces beside it. Rows are the database's
 * (ovs-vswitchd.conf.db(5)) with sets as plain arrays and maps as objects. */

#include "fabric/ovsdb.h"
#include "io/netlink.h"

struct ovs_view {
        json_t *root; /* row of Open_vSwitch: datapath_types, other_config, next_cfg, cur_cfg */
        json_t *bridges; /* rows by uuid: name, datapath_type, ports, external_ids, stp_enable, rstp_enable, fail_mode, controller */
        json_t *ports;      /* name, interfaces, external_ids, tag, trunks, vlan_mode, bond_mode, lacp */
        json_t *interfaces; /* name, error, ofport, mtu_request */
        struct netlink_link *links; /* by name */
        size_t n_links;
        /* {NAME: row} of ports and interfaces, and {uuid of a port: row of its bridge}: a host may have thousands. */
        json_t *ports_by_name, *interfaces_by_name, *bridges_by_port;
};

/* 0 with a view to be deinitialised, or as ovsdb_transact(). */
int ovs_view_init(struct ovs_view *view, struct ovsdb *db, struct netlink *netlink, struct error **ret_error);
void ovs_view_deinit(struct ovs_view *view);
#define _cleanup_ovs_view_ _cleanup_(ovs_view_deinit)

/* All are borrowed from the view; NULL: there is none. */
json_t *ovs_view_bridge(const struct ovs_view *view, const char *name);
/* The port of that name, and the bridge it is on (may be NULL). */
json_t *ovs_view_port(const struct ovs_view *view, const char *name, json_t **ret_bridge);
/* The port that has an interface of that name: itself, or a bond. */
json_t *ovs_view_port_with(const struct ovs_view *view, const char *interface, json_t **ret_bridge);
json_t *ovs_view_interface(const struct ovs_view *view, const char *name);
const struct netlink_link *ovs_view_link(const struct ovs_view *view, const char *name);
/* The row that a set of references has at i. */
json_t *ovs_view_row(const json_t *rows, const json_t *references, size_t i);

/* "" when it is absent or no text. */
const char *ovs_row_text(const json_t *row, const char *column);
/* Value of external_ids, or "". */
const char *ovs_row_id(const json_t *row, const char *key);
/* Only item of an optional column: a text, or "". */
const char *ovs_row_optional(const json_t *row, const char *column);
