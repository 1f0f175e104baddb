/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How busy the host's network interfaces are: those that lead out of it, not its bridges, taps and containers. */

#include <jansson.h>

#include "base/macros.h"
#include "io/netlink.h"

#define HOST_NETWORK_WINDOW_MS 900 /* counters are compared with those of at least so long ago */
#define HOST_NETWORK_MAX 64        /* interfaces that are looked at */

struct host_network {
        struct host_network_device {
                char name[IFNAMSIZ];
                uint64_t rx_bytes, tx_bytes; /* as the kernel counted them */
                uint64_t rx_bps, tx_bps;
                uint64_t speed_bps; /* 0: its driver does not say */
        } devices[HOST_NETWORK_MAX];
        size_t n_devices;
        uint64_t read_ms; /* 0: never */
};

/* Takes the counters of /proc/net/dev (its text) for these links; rates follow from the second time on. now_ms: a clock that
 * only moves forward. Calls within the window change nothing. */
void host_network_take(struct host_network *network, const char *proc_net_dev,
        const struct netlink_link *links, size_t n_links, uint64_t now_ms);

/* {"interface", "speed_bps", "rx_bps", "tx_bps"} of the busiest by its share of its speed, the caller's; NULL when no speed, or
 * no rate, is known. */
json_t *host_network_document(const struct host_network *network);
