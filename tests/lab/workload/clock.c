/* SPDX-License-Identifier: Apache-2.0 */

/* Watches the guest's clock: it never runs backwards, and a tick that comes late tells how long the guest was away
 * (paused, or starved of CPU). */

#include <pthread.h>

#include "workload.h"

enum {
        TICK_NS = 5000000,
        LATE_NS = 20000000,
};

static struct {
        pthread_mutex_t lock;
        uint64_t n_ticks;
        uint64_t n_late;
        uint64_t longest_ns; /* longest time between two ticks */
} clock_state = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *clock_loop(void *unused)
{
        uint64_t last_ns = monotonic_ns();

        for (;;) {
                uint64_t now_ns;

                sleep_until(last_ns + TICK_NS);
                now_ns = monotonic_ns();
                if (now_ns < last_ns)
                        fault("the clock ran backwards from %" PRIu64 " to %" PRIu64 " ns", last_ns, now_ns);
                pthread_mutex_lock(&clock_state.lock);
                clock_state.n_ticks++;
                if (now_ns > last_ns && now_ns - last_ns > clock_state.longest_ns)
                        clock_state.longest_ns = now_ns - last_ns;
                if (now_ns > last_ns + TICK_NS + LATE_NS)
                        clock_state.n_late++;
                pthread_mutex_unlock(&clock_state.lock);
                last_ns = now_ns;
        }
        return NULL;
}

void clock_start(void)
{
        start_thread(clock_loop, NULL);
}

void clock_reset(void)
{
        pthread_mutex_lock(&clock_state.lock);
        clock_state.n_late = clock_state.longest_ns = 0;
        pthread_mutex_unlock(&clock_state.lock);
}

void clock_status(FILE *out)
{
        pthread_mutex_lock(&clock_state.lock);
        fprintf(out,
                "\"uptime_s\": %.3f, \"ticks\": %" PRIu64 ", \"late_ticks\": %" PRIu64
                ", \"longest_tick_ms\": %.1f, ",
                (double)monotonic_ns() / 1e9, clock_state.n_ticks, clock_state.n_late,
                (double)clock_state.longest_ns / 1e6);
        pthread_mutex_unlock(&clock_state.lock);
}
