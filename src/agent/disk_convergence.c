/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/disk_convergence.h"

#include <string.h>

#include "base/text.h"

#define SAMPLE_MIN_MS 400
/* What remains is at a new low when it is less than the last one by this part of it. */
#define LOW_PART 20
/* How long without a new low before the next step is taken. */
#define STALL_MS 10000
#define BACKLOG_S 2
#define DRAIN_RATIO 0.9
#define WAIT_DEFAULT_MS 30000
#define LEVEL_MS 5000
#define THROTTLE_FIRST_PERCENT 50
/* A copy of which nothing more was done for so long stands still: no step helps it, and a rate from before says nothing. */
#define STANDS_STILL_MS 5000
#define STOOD_STILL_MS 60000
/* A limit on the copy makes QEMU wait between its requests, which are of up to 1 MiB (block/mirror.c, MAX_IO_BYTES). */
#define BURST_BYTES (UINT64_C(2) << 20)
/* What the guest may write always, to each disk: less looks like a dead disk to it. */
#define WRITE_LIMIT_MIN (UINT64_C(256) << 10)

static const char why_no_progress[] = "what remains to be copied does not become less";
static const char why_waited[] = "no moment was quiet enough";
static const char why_pause[] = "the rest did not fit into the bound on the pause";
static const char why_percent[] = "the guest still wrote too much";

void disk_convergence_init(struct disk_convergence *c, const struct converge_policy *policy,
        uint64_t max_pause_ms, uint64_t now_ms)
{
        *c = (struct disk_convergence){.policy = *policy,
                .started_ms = now_ms,
                .max_pause_ms = max_pause_ms,
                .low_bytes = UINT64_MAX,
                .low_ms = now_ms};
}

static uint64_t per_second(uint64_t bytes, uint64_t ms)
{
        return ms ? (uint64_t)((double)bytes * 1000 / (double)ms) : 0;
}

/* How long nothing may be done of it because of the limit on the rate alone. */
static uint64_t burst_ms(const struct disk_convergence_status *s)
{
        return s->rate_limit ? BURST_BYTES * 1000 / s->rate_limit : 0;
}

static void take_progress(struct disk_convergence *c, const struct disk_convergence_status *s)
{
        if (c->progress_ms && s->copied_bytes == c->progress_bytes && s->remaining_bytes)
                return;
        c->progress_bytes = s->copied_bytes;
        c->progress_ms = s->now_ms;
}

static bool stands_still(
        const struct disk_convergence *c, const struct disk_convergence_status *s, uint64_t for_ms)
{
        return s->now_ms - c->progress_ms > for_ms + burst_ms(s);
}

/* The copy's rate only where there was something to copy at both ends; what jobs that began anew count is passed over. Nothing copied counts,
 * too: with a limit on the rate, a request of 1 MiB is followed by as long a rest as it takes for that. */
static void take_sample(struct disk_convergence *c, const struct disk_convergence_status *s)
{
        uint64_t ms = s->now_ms - c->sample_ms, copied, rate;

        if (c->started && ms < SAMPLE_MIN_MS)
                return;
        if (c->started && s->copied_bytes >= c->sample_copied_bytes) {
                copied = s->copied_bytes - c->sample_copied_bytes;
                rate = per_second(copied, ms);
                if (c->sample_remaining_bytes && s->remaining_bytes)
                        c->path_bytes_per_s = c->path_bytes_per_s
                                                      ? MAX((3 * c->path_bytes_per_s + rate) / 4, UINT64_C(1))
                                                      : rate;
                if (copied + s->remaining_bytes >= c->sample_remaining_bytes)
                        c->written_bytes_per_s =
                                (3 * c->written_bytes_per_s +
                                        per_second(copied + s->remaining_bytes - c->sample_remaining_bytes,
                                                ms)) /
                                4;
        }
        c->started = true;
        c->sample_ms = s->now_ms;
        c->sample_copied_bytes = s->copied_bytes;
        c->sample_remaining_bytes = s->remaining_bytes;
}

/* As measured, or else what the whole of it has had. */
static uint64_t path_rate(const struct disk_convergence *c, const struct disk_convergence_status *s)
{
        return c->path_bytes_per_s ?: per_second(s->copied_bytes, s->now_ms - c->started_ms);
}

bool disk_convergence_fits(const struct disk_convergence *c, const struct disk_convergence_status *s)
{
        if (s->remaining_bytes == 0)
                return true;
        return (double)s->remaining_bytes * 1000 <= (double)path_rate(c, s) * (double)c->max_pause_ms;
}

/* Seconds of work, of which less is added than is done: that ends by itself. */
static bool is_worked_off(const struct disk_convergence *c, const struct disk_convergence_status *s)
{
        return !stands_still(c, s, STANDS_STILL_MS) && c->path_bytes_per_s &&
               s->remaining_bytes / BACKLOG_S > c->path_bytes_per_s &&
               (double)c->written_bytes_per_s < DRAIN_RATIO * (double)c->path_bytes_per_s;
}

static void note(struct disk_convergence *c, const struct disk_convergence_status *s, enum converge_step step,
        const char *why)
{
        c->level_ms = s->now_ms;
        c->low_bytes = s->remaining_bytes;
        if (c->n_entries == DISK_CONVERGENCE_MAX_ENTRIES)
                return;
        c->entries[c->n_entries++] = (struct disk_convergence_entry){.step = step,
                .why = why,
                .at_ms = s->now_ms - c->started_ms,
                .remaining_bytes = s->remaining_bytes,
                .written_bytes_per_s = c->written_bytes_per_s,
                .path_bytes_per_s = path_rate(c, s),
                .max_pause_ms = c->max_pause_ms,
                .throttle_percent = c->throttle_percent};
}

static enum disk_convergence_action raise_pause(
        struct disk_convergence *c, const struct disk_convergence_status *s, const char *why)
{
        c->max_pause_ms = MIN(c->max_pause_ms * 2, c->policy.max_pause_ms);
        note(c, s, CONVERGE_PAUSE, why);
        return DISK_CONVERGENCE_GO_ON;
}

/* Half of what the guest was left with is taken from it each time. */
static enum disk_convergence_action raise_throttle(
        struct disk_convergence *c, const struct disk_convergence_status *s, const char *why)
{
        unsigned int next = c->throttle_percent ? c->throttle_percent + (101 - c->throttle_percent) / 2
                                                : THROTTLE_FIRST_PERCENT;

        c->throttle_percent = MIN(next, c->policy.max_throttle_percent);
        note(c, s, CONVERGE_THROTTLE, why);
        return DISK_CONVERGENCE_THROTTLE;
}

static enum disk_convergence_action begin_next(
        struct disk_convergence *c, const struct disk_convergence_status *s, const char *why)
{
        enum converge_step step;

        if (c->n_begun == c->policy.n_steps)
                return DISK_CONVERGENCE_GIVE_UP;
        step = c->policy.steps[c->n_begun++];
        switch (step) {
        case CONVERGE_WAIT:
                note(c, s, step, why);
                return DISK_CONVERGENCE_GO_ON;
        case CONVERGE_PAUSE:
                return raise_pause(c, s, why);
        default:
                return raise_throttle(c, s, why);
        }
}

/* Nothing that is in force has brought a new low for long enough. */
static enum disk_convergence_action go_on(
        struct disk_convergence *c, const struct disk_convergence_status *s, enum converge_step step)
{
        switch (step) {
        case CONVERGE_WAIT:
                return begin_next(c, s, why_waited);
        case CONVERGE_PAUSE:
                return c->max_pause_ms < c->policy.max_pause_ms ? raise_pause(c, s, why_pause)
                                                                : begin_next(c, s, why_pause);
        case CONVERGE_THROTTLE:
                return c->throttle_percent < c->policy.max_throttle_percent
                               ? raise_throttle(c, s, why_percent)
                               : begin_next(c, s, why_percent);
        default:
                return begin_next(c, s, why_no_progress);
        }
}

enum disk_convergence_action disk_convergence_update(
        struct disk_convergence *c, const struct disk_convergence_status *s)
{
        enum converge_step step = c->n_begun ? c->policy.steps[c->n_begun - 1] : N_CONVERGE_STEPS;
        uint64_t patience_ms = step == CONVERGE_WAIT ? c->policy.wait_ms ?: WAIT_DEFAULT_MS
                               : c->n_begun          ? LEVEL_MS
                                                     : STALL_MS;

        if (!s->counted) {
                c->low_ms = s->now_ms;
                return DISK_CONVERGENCE_GO_ON;
        }
        take_progress(c, s);
        if (stands_still(c, s, STANDS_STILL_MS)) {
                c->still_ms = s->now_ms - c->progress_ms;
                c->low_ms = s->now_ms; /* what is in force gets its time anew when it goes on */
                return stands_still(c, s, STOOD_STILL_MS) ? DISK_CONVERGENCE_GIVE_UP : DISK_CONVERGENCE_GO_ON;
        }
        c->still_ms = 0;
        take_sample(c, s);
        /* Until all was copied once the target's caches still fill, and a rate says little; a copy that got help may never come to it. */
        if ((s->whole || c->n_begun) && disk_convergence_fits(c, s))
                return DISK_CONVERGENCE_SWITCH;
        if (c->low_bytes == UINT64_MAX || s->remaining_bytes < c->low_bytes - c->low_bytes / LOW_PART ||
                is_worked_off(c, s)) {
                c->low_bytes = MIN(c->low_bytes, s->remaining_bytes);
                c->low_ms = s->now_ms;
                return DISK_CONVERGENCE_GO_ON;
        }
        if (s->now_ms - MAX(c->low_ms, c->level_ms) < patience_ms + burst_ms(s))
                return DISK_CONVERGENCE_GO_ON;
        return go_on(c, s, step);
}

bool disk_convergence_unsettled(struct disk_convergence *c, uint64_t now_ms)
{
        c->path_bytes_per_s /= 2;
        c->low_bytes = UINT64_MAX;
        c->low_ms = now_ms;
        c->started = false;
        c->progress_ms = 0;
        return ++c->n_unsettled < DISK_CONVERGENCE_SETTLE_TRIES;
}

uint64_t disk_convergence_write_limit(const struct disk_convergence *c, size_t n_disks)
{
        uint64_t rate = c->n_entries ? c->entries[c->n_entries - 1].path_bytes_per_s : c->path_bytes_per_s;

        return MAX(rate / 100 * (100 - c->throttle_percent) / MAX(n_disks, (size_t)1), WRITE_LIMIT_MIN);
}

const char *disk_convergence_by(const struct disk_convergence *c)
{
        switch (c->n_begun ? c->policy.steps[c->n_begun - 1] : N_CONVERGE_STEPS) {
        case CONVERGE_WAIT:
                return "quiet-moment";
        case CONVERGE_PAUSE:
                return "longer-pause";
        case CONVERGE_THROTTLE:
                return "throttle";
        default:
                return "copy";
        }
}

json_t *disk_convergence_record(const struct disk_convergence *c)
{
        json_t *list = json_array();

        for (size_t i = 0; list && i < c->n_entries; i++) {
                const struct disk_convergence_entry *e = &c->entries[i];

                (void)json_array_append_new(list,
                        json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:i}", "step",
                                converge_step_to_string(e->step), "why", e->why, "at_ms",
                                (json_int_t)e->at_ms, "remaining_bytes", (json_int_t)e->remaining_bytes,
                                "written_bytes_per_s", (json_int_t)e->written_bytes_per_s, "path_bytes_per_s",
                                (json_int_t)e->path_bytes_per_s, "max_pause_ms", (json_int_t)e->max_pause_ms,
                                "throttle_percent", (int)e->throttle_percent));
        }
        return list;
}

struct error *disk_convergence_error(const struct disk_convergence *c)
{
        char written[16], path[16], left[16], bound[24];
        struct error *error = NULL;

        if (c->still_ms) {
                (void)error_set(&error, ERROR_TIMED_OUT,
                        "Look at the datastore that the disks were to go to, and the storage behind both.",
                        "nothing of the disks was copied for %s: a datastore does not answer, or hardly; the "
                        "disks are where they were",
                        text_format_duration_ms(c->still_ms, bound));
                return error;
        }
        (void)error_set(&error, ERROR_NOT_CONVERGING,
                "Allow more (--max-pause, --converge), use a faster datastore or a higher --rate-limit, or "
                "try again "
                "when the guest writes less.",
                "the guest writes to its disks, %s a second, faster than they can be copied, %s a second: "
                "what remained, "
                "%s, never fitted into a pause of %s%s; the disks are where they were",
                text_format_size(c->written_bytes_per_s, written),
                text_format_size(c->path_bytes_per_s, path),
                text_format_size(c->sample_remaining_bytes, left),
                text_format_duration_ms(c->max_pause_ms, bound),
                c->throttle_percent ? ", also while its writes were throttled" : "");
        return error;
}
