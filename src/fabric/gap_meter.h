/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How long a guest that moves is away from its network, as another station on it sees that: asks the guest for its IPv4 address every few
 * milliseconds, without a break from before its pause until it answers from its new place. The questions go to the
 * guest's MAC address, so that they are on the wrong way for as long as the switches are wrong. Both ends are on the clock of this host. */

#include "fabric/frame.h"
#include "io/loop.h"

#define GAP_METER_INTERVAL_MS 5

struct gap_meter;

/* Begins to ask on this bridge, until the gap is known. 0 or a negative errno. */
int gap_meter_start(struct loop *loop, const char *bridge, const uint8_t mac[static MAC_SIZE],
        const struct ip_address *address, struct gap_meter **ret_meter);
/* The guest has stopped (CLOCK_REALTIME): what it answers later comes from its new place. */
void gap_meter_stopped(struct gap_meter *meter, int64_t realtime_ns);
/* True: measured. `last` and `first` are CLOCK_REALTIME of the answers on both sides of the gap. */
bool gap_meter_result(const struct gap_meter *meter, int64_t *ret_last_ns, int64_t *ret_first_ns);
/* It has answered at least once: something may come of it. */
bool gap_meter_hears(const struct gap_meter *meter);
/* Accepts NULL. */
void gap_meter_free(struct gap_meter *meter);
DEFINE_CLEANUP(struct gap_meter *, gap_meter_free)
