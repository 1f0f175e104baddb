/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Rates over a sliding window, from totals that are read at every tick. */

#include "base/macros.h"

#define METER_TICKS 10 /* window; with ticks of 100 ms one second */

struct meter {
        uint64_t totals[METER_TICKS + 1];
        uint64_t times_ns[METER_TICKS + 1];
        unsigned int n;
        unsigned int at;
};

/* The total so far, at a time. */
void meter_add(struct meter *meter, uint64_t total, uint64_t now_ns);
/* Per second over the window; 0 before the second call. */
uint64_t meter_rate(const struct meter *meter);

/* How many bytes a second the wire takes when it is kept busy: `before` (0: not known), corrected by `bytes`
 * whose writing took busy_ns of elapsed_ns. The less of the time was spent writing, the less this says: short
 * writes only fill the sockets' buffers, faster than any wire. */
uint64_t meter_capacity(uint64_t before, uint64_t bytes, uint64_t busy_ns, uint64_t elapsed_ns);
