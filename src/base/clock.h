/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Time is a parameter: whoever depends on it is handed a clock, so that tests move time by hand. */

#include "base/macros.h"

struct clock {
        /* Milliseconds that only move forward; the zero point is arbitrary. */
        uint64_t (*monotonic_ms)(const struct clock *clock);
        /* Milliseconds since 1970-01-01 UTC. */
        int64_t (*unix_ms)(const struct clock *clock);
};

/* The system's clock. */
extern const struct clock clock_system;

/* A clock that stands still until told to move. */
struct clock_manual {
        struct clock clock;
        uint64_t now_ms;
        int64_t unix_offset_ms; /* unix_ms = now_ms + this */
};
void clock_manual_init(struct clock_manual *manual, int64_t unix_start_ms);
void clock_manual_advance(struct clock_manual *manual, uint64_t ms);

static inline uint64_t clock_now_ms(const struct clock *clock)
{
        return clock->monotonic_ms(clock);
}

static inline int64_t clock_unix_ms(const struct clock *clock)
{
        return clock->unix_ms(clock);
}

/* CLOCK_MONOTONIC and CLOCK_REALTIME in ns, for measuring (the data path, the pause). */
uint64_t clock_monotonic_ns(void);
uint64_t clock_realtime_ns(void);
