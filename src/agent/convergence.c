/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/convergence.h"

#include <string.h>

#include "base/text.h"
#include "vmm/migration_params.h"

/* A step is not judged before it had this long, and the time that a pass takes half again. */
#define LEVEL_MIN_MS 2000
#define LEVEL_PASSES 2
/* At the highest throttle; QEMU raises it where a pass ends, so that the passes before say little. */
#define THROTTLED_PASSES 3
/* Without a word how long to wait: this at most, and no longer once the load is seen to be steady. */
#define WAIT_LIMIT_MS 30000
#define WAIT_MIN_SAMPLES 3
/* A load breathes when at its quietest it changes less than this part of what it changes at its busiest. */
#define BREATHING_RATIO 0.5
/* No step takes longer than this and several passes' time, whatever QEMU does or does not. */
#define STEP_LIMIT_MS 60000
#define STEP_LIMIT_PASSES 6
#define PASS_LIMIT_MS 600000

static const char why_no_progress[] = "several passes brought no progress";
static const char why_steady[] = "the load is steady: waiting would not help";
static const char why_waited[] = "no moment was quiet enough";
static const char why_pause[] = "the rest did not fit into the bound on the pause";
static const char why_throttle[] = "the guest was throttled as far as allowed";
static const char why_percent[] = "QEMU raised the throttle: the guest still changed too much";

void convergence_init(
        struct convergence *c, const struct converge_policy *policy, uint64_t max_pause_ms, uint64_t now_ms)
{
        *c = (struct convergence){.policy = *policy,
                .started_ms = now_ms,
                .max_pause_ms = max_pause_ms,
                .least_pass_bytes = UINT64_MAX};
}

bool convergence_allows(const struct convergence *c, enum converge_step step)
{
        return converge_policy_has(&c->policy, step);
}

static void take_sample(struct convergence *c, const struct convergence_status *s)
{
        if (s->pass <= c->last_pass)
                return;
        c->last_pass = s->pass;
        c->pass_bytes = s->remaining_bytes;
        if (!s->progress)
                c->least_pass_bytes = MIN(c->least_pass_bytes, s->remaining_bytes);
        if (s->dirty_bytes_per_s == 0)
                return;
        c->samples[c->n_samples++ % CONVERGENCE_MAX_SAMPLES] = s->dirty_bytes_per_s;
}

/* How long a pass takes that begins now. */
static uint64_t pass_ms(const struct convergence *c, const struct convergence_status *s)
{
        if (s->path_bytes_per_s == 0)
                return PASS_LIMIT_MS;
        return MIN((uint64_t)((double)c->pass_bytes * 1000 / (double)s->path_bytes_per_s),
                (uint64_t)PASS_LIMIT_MS);
}

/* Of what was seen lately. With few samples there is no telling. */
static bool steady(const struct convergence *c)
{
        size_t n = MIN(c->n_samples, (size_t)CONVERGENCE_MAX_SAMPLES);
        uint64_t least = UINT64_MAX, most = 0;

        for (size_t i = 0; i < n; i++) {
                least = MIN(least, c->samples[i]);
                most = MAX(most, c->samples[i]);
        }
        return n >= WAIT_MIN_SAMPLES && (double)least >= (double)most * BREATHING_RATIO;
}

static void note(
        struct convergence *c, const struct convergence_status *s, enum converge_step step, const char *why)
{
        c->step_ms = s->now_ms;
        c->step_pass = s->pass;
        if (c->n_entries == CONVERGENCE_MAX_ENTRIES)
                return;
        c->entries[c->n_entries++] = (struct convergence_entry){.step = step,
                .why = why,
                .at_ms = s->now_ms - c->started_ms,
                .pass = s->pass,
                .remaining_bytes = s->remaining_bytes,
                .dirty_bytes_per_s = s->dirty_bytes_per_s,
                .path_bytes_per_s = s->path_bytes_per_s,
                .max_pause_ms = c->max_pause_ms,
                .throttle_percent = c->throttle_percent};
}

static enum convergence_action raise_pause(
        struct convergence *c, const struct convergence_status *s, const char *why)
{
        c->max_pause_ms = MIN(c->max_pause_ms * 2, c->policy.max_pause_ms);
        note(c, s, CONVERGE_PAUSE, why);
        return CONVERGENCE_SET_PAUSE;
}

/* The next step of the policy, or the end. */
static enum convergence_action begin_next(
        struct convergence *c, const struct convergence_status *s, const char *why)
{
        enum converge_step step;

        if (c->n_begun == c->policy.n_steps) {
                c->gave_up = true;
                return CONVERGENCE_GIVE_UP;
        }
        step = c->policy.steps[c->n_begun++];
        switch (step) {
        case CONVERGE_WAIT:
                if (c->policy.wait_ms == 0 && steady(c))
                        return begin_next(c, s, why_steady);
                note(c, s, step, why);
                return CONVERGENCE_WAIT;
        case CONVERGE_PAUSE:
                return raise_pause(c, s, why);
        case CONVERGE_POST_COPY:
                note(c, s, step, why);
                return CONVERGENCE_POST_COPY;
        default:
                note(c, s, step, why);
                return CONVERGENCE_THROTTLE;
        }
}

static bool waited_enough(
        const struct convergence *c, const struct convergence_status *s, const char **ret_why)
{
        uint64_t limit_ms = c->policy.wait_ms ?: WAIT_LIMIT_MS;
        bool no_sense = c->policy.wait_ms == 0 && steady(c);

        *ret_why = no_sense ? why_steady : why_waited;
        return no_sense || s->now_ms - c->step_ms >= limit_ms;
}

/* `passes` began since the step, or its level, did; or it takes too long for any reason. */
static bool was_tried(const struct convergence *c, const struct convergence_status *s, uint64_t passes)
{
        uint64_t elapsed_ms = s->now_ms - c->step_ms, one_ms = pass_ms(c, s);

        if (elapsed_ms >= STEP_LIMIT_MS + one_ms * STEP_LIMIT_PASSES)
                return true;
        return s->pass >= c->step_pass + passes && elapsed_ms >= MAX((uint64_t)LEVEL_MIN_MS, one_ms * 3 / 2);
}

static void follow_throttle(struct convergence *c, const struct convergence_status *s)
{
        if (s->throttle_percent <= MAX(c->throttle_percent, MIGRATION_THROTTLE_IDLE_PERCENT))
                return;
        c->throttle_percent = s->throttle_percent;
        note(c, s, CONVERGE_THROTTLE, why_percent);
}

enum convergence_action convergence_update(struct convergence *c, const struct convergence_status *s)
{
        const char *why = why_no_progress;
        enum converge_step step;

        take_sample(c, s);
        if (c->gave_up)
                return CONVERGENCE_GO_ON;
        step = c->n_begun ? c->policy.steps[c->n_begun - 1] : N_CONVERGE_STEPS;
        if (step == CONVERGE_THROTTLE)
                follow_throttle(c, s);
        if (s->progress)
                return CONVERGENCE_GO_ON;
        switch (step) {
        case CONVERGE_WAIT:
                return waited_enough(c, s, &why) ? begin_next(c, s, why) : CONVERGENCE_GO_ON;
        case CONVERGE_PAUSE:
                if (!was_tried(c, s, LEVEL_PASSES))
                        return CONVERGENCE_GO_ON;
                return c->max_pause_ms < c->policy.max_pause_ms ? raise_pause(c, s, why_pause)
                                                                : begin_next(c, s, why_pause);
        case CONVERGE_THROTTLE:
                /* QEMU goes on by itself, every other pass; the limit of time is for one that does not. */
                if (!was_tried(c, s,
                            c->throttle_percent < c->policy.max_throttle_percent ? UINT32_MAX
                                                                                 : THROTTLED_PASSES))
                        return CONVERGENCE_GO_ON;
                return begin_next(c, s, why_throttle);
        case CONVERGE_POST_COPY: /* the last, whatever becomes of it */
                return CONVERGENCE_GO_ON;
        default:
                return begin_next(c, s, why);
        }
}

void convergence_resume(struct convergence *c, uint64_t now_ms, uint64_t pass)
{
        c->step_ms = now_ms;
        c->step_pass = MAX(c->step_pass, pass);
}

const char *convergence_by(const struct convergence *c)
{
        for (size_t i = c->n_begun; i-- > 0;) {
                switch (c->policy.steps[i]) {
                case CONVERGE_WAIT:
                        /* Passed over when waiting made no sense. */
                        for (size_t j = 0; j < c->n_entries; j++)
                                if (c->entries[j].step == CONVERGE_WAIT)
                                        return "quiet-moment";
                        break;
                case CONVERGE_PAUSE:
                        return "longer-pause";
                case CONVERGE_POST_COPY:
                        return "post-copy";
                default:
                        if (c->throttle_percent > 0) /* QEMU may not have come to it */
                                return "throttle";
                }
        }
        return "pre-copy";
}

json_t *convergence_record(const struct convergence *c)
{
        json_t *list = json_array();

        for (size_t i = 0; list && i < c->n_entries; i++) {
                const struct convergence_entry *e = &c->entries[i];

                json_array_append_new(list,
                        json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:i}", "step",
                                converge_step_to_string(e->step), "why", e->why, "at_ms",
                                (json_int_t)e->at_ms, "pass", (json_int_t)e->pass, "remaining_bytes",
                                (json_int_t)e->remaining_bytes, "dirty_bytes_per_s",
                                (json_int_t)e->dirty_bytes_per_s, "path_bytes_per_s",
                                (json_int_t)e->path_bytes_per_s, "max_pause_ms", (json_int_t)e->max_pause_ms,
                                "throttle_percent", (int)e->throttle_percent));
        }
        return list;
}

/* "waiting for a quiet moment, a pause of up to 2.0 s, throttling up to 99 %" */
static void what_was_tried(const struct convergence *c, char *text, size_t size)
{
        char duration[24], item[64];

        snprintf(text, size, "%s", c->n_begun ? "" : "nothing, as its policy says");
        for (size_t i = 0; i < c->n_begun; i++) {
                switch (c->policy.steps[i]) {
                case CONVERGE_WAIT:
                        snprintf(item, sizeof(item), "waiting for a quiet moment");
                        break;
                case CONVERGE_PAUSE:
                        snprintf(item, sizeof(item), "a pause of up to %s",
                                text_format_duration_ms(c->max_pause_ms, duration));
                        break;
                case CONVERGE_POST_COPY:
                        snprintf(item, sizeof(item), "post-copy");
                        break;
                default:
                        snprintf(item, sizeof(item), "throttling its vCPUs up to %u %%", c->throttle_percent);
                }
                snprintf(text + strlen(text), size - strlen(text), "%s%s", i ? ", " : "", item);
        }
}

struct error *convergence_error(const struct convergence *c, const struct convergence_status *status)
{
        uint64_t left_bytes = MIN(c->least_pass_bytes, MAX(c->pass_bytes, status->remaining_bytes));
        uint64_t rate = MAX(status->path_bytes_per_s, UINT64_C(1));
        char tried[192], left[16], path[16], needs[24], bound[24];
        struct error *error = NULL;

        what_was_tried(c, tried, sizeof(tried));
        error_set(&error, ERROR_NOT_CONVERGING,
                "Allow more (--converge, --max-pause), use a faster path, or try again when the guest is "
                "less "
                "busy.",
                "the guest changes its memory faster than it can be sent: what is left where a pass ends, "
                "%s, "
                "would need a pause of %s at %s a second, and %s are allowed; tried: %s",
                text_format_size(left_bytes, left),
                text_format_duration_ms((uint64_t)((double)left_bytes * 1000 / (double)rate), needs),
                text_format_size(status->path_bytes_per_s, path),
                text_format_duration_ms(c->max_pause_ms, bound), tried);
        return error;
}
