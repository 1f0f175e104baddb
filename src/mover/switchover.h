/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* When the guest may be stopped. Pure: numbers in, decision out.
 *
 * QEMU stops the guest when its remaining bytes fit into downtime-limit x the rate that it measures on its
 * socket (migration/migration.c, every 100 ms). Our backpressure makes that rate the true one, so the mover
 * only has to say which part of the pause is left for memory: the user's bound minus what is buffered, a trip
 * over the network and the loading of the device state. It begins with a small part of that, because most guests
 * fit into it after a pass or two, and allows more with each pass that brings no progress. */

#include "base/macros.h"

struct switchover_status {
        uint64_t remaining_bytes; /* from query-migrate */
        uint64_t dirty_sync_count;
        double qemu_bytes_per_s;       /* what QEMU measured; 0: not known */
        uint64_t possible_bytes_per_s; /* switchover_possible_rate() */
        uint64_t drain_ms;             /* to empty our buffers, and the queues on the way */
        uint64_t rtt_us;               /* without queues */
};

struct switchover {
        uint64_t max_pause_ms;
        bool whole_pause; /* all of it is offered at once: the guest was seen not to converge otherwise */
        uint64_t last_sync_count;
        uint64_t least_dirty_bytes; /* smallest dirty set at the start of a pass */
        unsigned int passes_without_progress;
        uint64_t downtime_limit_ms; /* decided last */
};

/* How many bytes of pages with content can leave in a second, from what was measured lately. It must not look
 * bad because there was little to send, as while QEMU goes through zero pages: so it is at least what the
 * wire can take, in guest bytes. `capacity`: of the wire, kept busy; `wire`, `content`: what left in a second,
 * in bytes of the wire and of pages with content. 0: too little went to tell. */
uint64_t switchover_possible_rate(uint64_t capacity, uint64_t wire, uint64_t content);
/* Time to send what is buffered (wire bytes). Not at the present rate, which is low when little is to be sent;
 * 0 for an empty buffer, at most 10 s. */
uint64_t switchover_drain_ms(uint64_t buffered_bytes, uint64_t capacity, uint64_t wire);

void switchover_init(struct switchover *switchover, uint64_t max_pause_ms);
/* Takes a new status in; returns the downtime limit to set in QEMU (at least 1: QEMU switches blindly at
 * 0). */
uint64_t switchover_update(struct switchover *switchover, const struct switchover_status *status);
/* False when several passes brought no progress: the guest has to be slowed down. */
bool switchover_converging(const struct switchover *switchover);
