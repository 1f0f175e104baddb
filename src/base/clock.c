/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <time.h>

static uint64_t read_ns(clockid_t id)
{
        struct timespec ts;

        clock_gettime(id, &ts); /* cannot fail for these ids */
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t clock_monotonic_ns(void)
{
        return read_ns(CLOCK_MONOTONIC);
}

uint64_t clock_realtime_ns(void)
{
        return read_ns(CLOCK_REALTIME);
}

static uint64_t system_monotonic_ms(const struct clock *clock _unused_)
{
        return clock_monotonic_ns() / 1000000;
}

static int64_t system_unix_ms(const struct clock *clock _unused_)
{
        return (int64_t)(clock_realtime_ns() / 1000000);
}

const struct clock clock_system = {system_monotonic_ms, system_unix_ms};

static uint64_t manual_monotonic_ms(const struct clock *clock)
{
        return CONTAINER_OF(clock, const struct clock_manual, clock)->now_ms;
}

static int64_t manual_unix_ms(const struct clock *clock)
{
        const struct clock_manual *m = CONTAINER_OF(clock, const struct clock_manual, clock);

        return (int64_t)m->now_ms + m->unix_offset_ms;
}

void clock_manual_init(struct clock_manual *manual, int64_t unix_start_ms)
{
        *manual = (struct clock_manual){{manual_monotonic_ms, manual_unix_ms}, 1000, unix_start_ms - 1000};
}

void clock_manual_advance(struct clock_manual *manual, uint64_t ms)
{
        manual->now_ms += ms;
}
