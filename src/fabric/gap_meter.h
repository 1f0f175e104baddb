/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How long a guest that moves is away from its network, as another station on it sees that: from its stop on it is asked for its IPv4 address every
 * few milliseconds, until it answers from its new place. The questions go to the guest's MAC address, so that they are on
 * the wrong way for as long as the switches are wrong. They are ARP probes (frame.h), so nothing is asked before the guest has stopped, when it might
 * still be looking for an address itself, nor for longer than GAP_METER_LIMIT_MS. Both ends are on the clock of this host. */

#include "fabric/frame.h"
#include "io/loop.h"

#define GAP_METER_INTERVAL_MS 5
#define GAP_METER_LIMIT_MS 2000

struct gap_meter;

/* Begins to ask on this bridge. stopped_ns: when the guest stopped (CLOCK_REALTIME); what it answered before does not count. 0 or a negative
 * errno. */
int gap_meter_start(struct loop *loop, const char *bridge, const uint8_t mac[static MAC_SIZE],
        const struct ip_address *address, int64_t stopped_ns, struct gap_meter **ret_meter);
/* True: it has answered, at this time (CLOCK_REALTIME, by the kernel). */
bool gap_meter_result(const struct gap_meter *meter, int64_t *ret_first_ns);
/* It may still. */
bool gap_meter_asks(const struct gap_meter *meter);
/* Accepts NULL. */
void gap_meter_free(struct gap_meter *meter);
DEFINE_CLEANUP(struct gap_meter *, gap_meter_free)
