/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Which help a copy gets that does not come to an end. Pure: numbers in, decision out; migration_converge.c gathers the
 * numbers and carries out.
 *
 * The mover says when several passes brought nothing (switchover.h). From then on the steps of the policy are taken one after
 * the other, each judged by passes rather than by time, since a pass on a slow link lasts long: a step did not help when
 * two passes began under it (QEMU looks whether the rest fits only where a pass ends) and the mover still sees no progress. What
 * was begun stays: a raised bound is not lowered again while the guest is throttled. After the last step the migration
 * gives up. */

#include <jansson.h>

#include "base/converge.h"
#include "base/macros.h"

#define CONVERGENCE_MAX_SAMPLES 16
#define CONVERGENCE_MAX_ENTRIES 32

struct convergence_status {
        uint64_t now_ms;            /* monotonic */
        uint64_t pass;              /* dirty-sync-count of query-migrate */
        uint64_t remaining_bytes;   /* of it */
        uint64_t dirty_bytes_per_s; /* of it: measured where a pass ends; 0: not known */
        uint64_t path_bytes_per_s;  /* guest memory that is dealt with, from the mover; 0: not known */
        unsigned int throttle_percent;
        bool progress; /* the mover's `converging` */
};

/* A line of the record: what was begun, when and why. */
struct convergence_entry {
        enum converge_step step;
        const char *why; /* static */
        uint64_t at_ms;  /* since the copy began */
        uint64_t pass;
        uint64_t remaining_bytes, dirty_bytes_per_s, path_bytes_per_s;
        uint64_t max_pause_ms;         /* the bound in force */
        unsigned int throttle_percent; /* likewise */
};

struct convergence {
        struct converge_policy policy;
        uint64_t started_ms;
        size_t n_begun;              /* steps begun; the last of them is in force */
        uint64_t step_ms, step_pass; /* when it, or its present level, began */
        uint64_t max_pause_ms;       /* the bound in force */
        unsigned int throttle_percent;
        uint64_t last_pass, pass_bytes;            /* what was left when the present pass began */
        uint64_t samples[CONVERGENCE_MAX_SAMPLES]; /* dirty rates, in bytes a second, by turns */
        size_t n_samples;
        uint64_t least_pass_bytes; /* of those in which help was needed */
        struct convergence_entry entries[CONVERGENCE_MAX_ENTRIES];
        size_t n_entries;
        bool gave_up;
};

enum convergence_action {
        CONVERGENCE_GO_ON,
        CONVERGENCE_WAIT,      /* offer the whole bound */
        CONVERGENCE_SET_PAUSE, /* to max_pause_ms, all of it */
        CONVERGENCE_THROTTLE,  /* up to policy.max_throttle_percent */
        CONVERGENCE_POST_COPY, /* said once; nothing comes after it */
        CONVERGENCE_GIVE_UP,   /* said once */
};

void convergence_init(
        struct convergence *c, const struct converge_policy *policy, uint64_t max_pause_ms, uint64_t now_ms);
/* Takes a new status in, some times a second while the guest runs here; what is to be done now. */
enum convergence_action convergence_update(struct convergence *c, const struct convergence_status *status);
/* The migration stood still for another reason until now: the step in force has all of its time again. */
void convergence_resume(struct convergence *c, uint64_t now_ms, uint64_t pass);
/* True when a policy has the step. */
bool convergence_allows(const struct convergence *c, enum converge_step step);

/* What made it converge, if it does so now: "pre-copy", "quiet-moment", "longer-pause", "throttle", "post-copy". */
const char *convergence_by(const struct convergence *c);
/* The record, an array (the caller's; NULL without memory): {step, why, at_ms, pass, remaining_bytes, dirty_bytes_per_s,
 * path_bytes_per_s, max_pause_ms, throttle_percent}. */
json_t *convergence_record(const struct convergence *c);
/* Why it gave up: NOT_CONVERGING with the rates and what was tried. The caller's. */
struct error *convergence_error(const struct convergence *c, const struct convergence_status *status);
