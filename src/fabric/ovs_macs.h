/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Reads what ovs-vswitchd has learned. Part of ovs.c. */

#include <net/if.h>

#include "fabric/ovs_view.h"

/* `table` is the answer of `ovs-appctl fdb/show`: a heading, then a line an address, "PORT VLAN MAC AGE". *ret_macs as ovs_list_macs(). 0 or
 * -ENOMEM; lines that are otherwise are left out. */
int ovs_macs_foreign(const struct ovs_view *view, const char *bridge, const char *table, json_t **ret_macs);
/* Whether one of them is `mac`, and at which port. */
bool ovs_macs_find_port(const struct ovs_view *view, const char *bridge, const char *table,
        const uint8_t mac[static 6], char ret_port[static IFNAMSIZ]);
