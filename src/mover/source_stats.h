/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the source's main thread measures and decides ten times a second: rates, codec level, how much may be
 * buffered, when the guest may be stopped. Used by the main thread only. */

#include "mover/codec_choice.h"
#include "mover/meters.h"
#include "mover/source_internal.h"

#define TICK_MS 100

/* The senders' time together, in ns. */
struct sender_times {
        double pack_ns, pack_cpu_ns;
        double write_ns, write_cpu_ns; /* waiting for the rate limit included */
};

struct source_stats {
        struct source *source;
        struct meter wire, retired, zero; /* retired: pages with content; zero: those without */
        uint64_t wire_bytes_per_s, retired_bytes_per_s;
        uint64_t write_ns_before, write_cpu_ns_before, write_bytes_before;
        uint64_t write_at_ns; /* when the wire was measured last */
        struct codec_sample samples_before[N_CODEC_LEVELS];
        struct codec_choice_input choice;
        unsigned int n_cpus;
        double cpu_share; /* of the time in which senders want to compute they run; 1 until known */
        struct sender_times times, times_before; /* of late (fading); in total */
        double time_ns;                          /* that passed meanwhile, fading alike */
        int n_wanted; /* times in turn that another level seemed better: above 0 a stronger one, below 0 a faster one */
        double idle_cores;         /* of the host; below 0: not told */
        struct codec_sample plain; /* raw_bytes: not worth packing; packed_bytes: the others; fading */
        uint64_t plain_before, packable_before;
        uint64_t time_at_ns;
        uint64_t drain_ms, buffered_bytes;
        uint64_t rtt_us;
        struct switchover switchover;
        struct switchover_status status; /* from the last qemu-status */
        bool tunnel, guest_stopped;
        uint64_t limit_sent_ms;
        unsigned int n_ticks;
};

void source_stats_init(struct source_stats *stats, struct source *source);
/* Measures and decides; sends `switchover` and, every fifth time, `stats` to the agent. */
void source_stats_tick(struct source_stats *stats);
/* Takes the agent's qemu-status in. */
void source_stats_qemu(struct source_stats *stats, const json_t *message);
/* Sends a stats event now. */
void source_stats_send(struct source_stats *stats, bool droppable);
