/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/network_options.h"

#define END \
        { \
                0 \
        }

#define SWITCH_OPTIONS \
        {.name = "uplink", \
                .kind = VALUE_TEXT, \
                .value = "INTERFACE[,...]", \
                .help = "the hosts' network interface, of a distributed switch also several; default: " \
                        "none, " \
                        "isolated"}, \
                {.name = "uplink-on", \
                        .kind = VALUE_TEXT, \
                        .value = "HOST=INTERFACE[,...]", \
                        .repeat = true, \
                        .help = "uplink where it differs; may be repeated"}, \
                {.name = "uplink-policy", \
                        .kind = VALUE_CHOICE, \
                        .value = "active-backup|balance-slb|lacp", \
                        .help = "how a distributed switch uses several uplinks; default active-backup"}, \
                {.name = "mtu", \
                        .kind = VALUE_NUMBER, \
                        .value = "BYTES", \
                        .min = 576, \
                        .max = 65535, \
                        .help = "default 1500"}, \
        { \
                .name = "host", .kind = VALUE_NAME, .value = "HOST", .names_of = "hosts", .repeat = true, \
                .help = "only on this host; may be repeated; default: all" \
        }

const struct option_spec switch_add_options[] = {
        SWITCH_OPTIONS,
        {.name = "distributed", .help = "one switch for all hosts, with versions, on Open vSwitch"},
        {.name = "bridge",
                .kind = VALUE_NAME,
                .value = "BRIDGE",
                .help = "for a distributed switch, use this bridge of Open vSwitch as it is; needs no "
                        "uplink"},
        END,
};

const struct option_spec switch_set_options[] = {
        SWITCH_OPTIONS,
        END,
};

const struct option_spec switch_upgrade_options[] = {
        {.name = "host",
                .kind = VALUE_NAME,
                .value = "HOST",
                .names_of = "hosts",
                .help = "this host; default: all, one after the other"},
        {.name = "to-version",
                .kind = VALUE_NUMBER,
                .value = "N",
                .min = 1,
                .max = INT64_MAX,
                .help = "default: the newest"},
        END,
};

const struct option_spec port_group_add_options[] = {
        {.name = "switch",
                .kind = VALUE_NAME,
                .value = "SWITCH",
                .names_of = "switches",
                .required = true,
                .help = "the switch it is on"},
        {.name = "vlan",
                .kind = VALUE_NUMBER,
                .value = "ID",
                .min = 0,
                .max = 4094,
                .help = "VLAN; default 0: none"},
        {.name = "switch-on",
                .kind = VALUE_TEXT,
                .value = "HOST=SWITCH",
                .repeat = true,
                .help = "switch where it is another one; may be repeated"},
        {.name = "allow-standard",
                .help = "let running virtual machines move from a distributed to a standard switch"},
        END,
};
