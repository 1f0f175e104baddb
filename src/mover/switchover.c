/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/switchover.h"

/* Loading the device state and resuming: 1 to 4 ms measured, with a reserve. */
#define LOAD_MS 6
/* First part of the budget that is offered, doubled with each pass without progress. */
#define FIRST_SHARE 8
/* A pass made progress if its dirty set is below this part of the smallest before. */
#define PROGRESS_RATIO 0.9
#define PASSES_TO_GIVE_UP 3
/* The first passes say nothing about progress: the first is all memory, the second what the first one's
 * length let pile up. */
#define PASSES_TO_WARM_UP 2

/* Fewer bytes in a second say nothing about how guest bytes and wire bytes relate. */
#define MIN_CONTENT_BYTES (64 * 1024)
#define MAX_DRAIN_MS 10000

uint64_t switchover_possible_rate(uint64_t capacity, uint64_t wire, uint64_t content)
{
        if (content < MIN_CONTENT_BYTES || wire == 0)
                return 0;
        return MAX(content, (uint64_t)((double)content / (double)wire * (double)capacity));
}

uint64_t switchover_drain_ms(uint64_t buffered_bytes, uint64_t capacity, uint64_t wire)
{
        uint64_t rate = MAX(MAX(capacity, wire), 1u);

        return MIN(buffered_bytes * 1000 / rate, (uint64_t)MAX_DRAIN_MS);
}

void switchover_init(struct switchover *switchover, uint64_t max_pause_ms)
{
        *switchover = (struct switchover){
                .max_pause_ms = max_pause_ms, .least_dirty_bytes = UINT64_MAX, .downtime_limit_ms = 1};
}

static void count_pass(struct switchover *s, const struct switchover_status *status)
{
        if (status->dirty_sync_count <= s->last_sync_count)
                return;
        s->last_sync_count = status->dirty_sync_count;
        if (status->dirty_sync_count <= PASSES_TO_WARM_UP)
                return;
        if ((double)status->remaining_bytes < (double)s->least_dirty_bytes * PROGRESS_RATIO)
                s->passes_without_progress = 0;
        else
                s->passes_without_progress++;
        s->least_dirty_bytes = MIN(s->least_dirty_bytes, status->remaining_bytes);
}

uint64_t switchover_update(struct switchover *s, const struct switchover_status *status)
{
        /* It takes more trips than the one that is counted: over a long distance nobody can do without, and a bound that nothing fits in
         * would only cost passes. They come on top of what the user allows. */
        uint64_t overhead_ms = LOAD_MS + status->drain_ms + status->rtt_us / 1000;
        uint64_t budget_ms = s->max_pause_ms > overhead_ms ? s->max_pause_ms - overhead_ms : 1;
        unsigned int share = s->whole_pause ? 1 : FIRST_SHARE >> MIN(s->passes_without_progress, 3u);
        double correction = 1;

        count_pass(s, status);
        /* QEMU counts what it wrote; where that is more than what can leave, its idea of the time is too
         * short. */
        if (status->qemu_bytes_per_s > 0 && status->possible_bytes_per_s > 0)
                correction = CLAMP((double)status->possible_bytes_per_s / status->qemu_bytes_per_s, 0.1, 1.0);
        s->downtime_limit_ms = MAX(1u, (uint64_t)((double)budget_ms / share * correction));
        return s->downtime_limit_ms;
}

bool switchover_converging(const struct switchover *switchover)
{
        return switchover->passes_without_progress < PASSES_TO_GIVE_UP;
}
