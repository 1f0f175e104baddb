/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Names of the network interfaces that drover makes. They follow from what the interface is for, so that an
 * agent finds them again after a restart; all start with "dv"; all fit IFNAMSIZ (15 characters).
 *
 *   dv-NAME           bridge of switch NAME (up to 12 characters, readable)
 *   dv+NNNNHHHHHHHH   bridge of a switch with a longer name: its first 4 characters, 32 bits of hash in hex
 *   dvbHHHHHHHHVVVV   bridge for VLAN VVVV (decimal) of the switch with that hash
 *   dvlHHHHHHHHVVVV   VLAN sub-interface of that switch's uplink
 *   dvuHHHHHHHH       bond of the uplinks of a distributed switch, in Open vSwitch only
 *   dvpHHHHHHHHVVVV   port of the host itself on VLAN VVVV of a distributed switch
 *   dvtHHHHHHHHHHII   tap: 40 bits of hash of the VM's uid in hex, NIC index in hex
 */

#include <net/if.h>

#include "base/macros.h"

#define IFNAME_TAP_PREFIX "dvt"

void ifname_bridge(const char *switch_name, char ret[static IFNAMSIZ]);
void ifname_vlan_bridge(const char *switch_name, uint16_t vlan, char ret[static IFNAMSIZ]);
void ifname_vlan_link(const char *switch_name, uint16_t vlan, char ret[static IFNAMSIZ]);
void ifname_bond(const char *switch_name, char ret[static IFNAMSIZ]);
void ifname_station(const char *switch_name, uint16_t vlan, char ret[static IFNAMSIZ]);
/* `nic` is 0 to 255. */
void ifname_tap(const char *vm_uid, unsigned int nic, char ret[static IFNAMSIZ]);
