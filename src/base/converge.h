/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a migration may do about a guest that changes its memory faster than it can be sent: the field `converge` of the
 * requests for a migration (docs/internals/agent-api.md), read alike by the manager and the agents. Steps are taken in the
 * order of the list, one after the other, each when the one before did not help; after the last one the migration gives
 * up, and the guest runs on at the source. */

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"

#define CONVERGE_STEPS(X) \
        X(WAIT, "wait")         /* for a quiet moment: the whole bound on the pause is offered meanwhile */ \
        X(PAUSE, "pause")       /* the bound on the pause is doubled, and again, up to a maximum */ \
        X(THROTTLE, "throttle") /* the guest's vCPUs are slowed down, more and more, up to a maximum */ \
        X(POST_COPY, "post-copy") /* the guest goes on at the destination before its memory is there */

enum converge_step {
#define X(name, text) CONVERGE_##name,
        CONVERGE_STEPS(X)
#undef X
                N_CONVERGE_STEPS,
};

#define CONVERGE_MAX_WAIT_MS (24ull * 3600 * 1000)
#define CONVERGE_MAX_PAUSE_MS 60000
#define CONVERGE_MIN_THROTTLE_PERCENT 10
#define CONVERGE_MAX_THROTTLE_PERCENT 99 /* QEMU's */

struct converge_policy {
        enum converge_step steps[N_CONVERGE_STEPS];
        size_t n_steps;
        uint64_t wait_ms;      /* 0: as long as the guest's load is seen to breathe, within a limit */
        uint64_t max_pause_ms; /* what the bound may be raised to */
        unsigned int max_throttle_percent; /* share of the time that the vCPUs stand still */
};

/* What is done when nobody says anything: wait while the load breathes, then throttle. The bound on the pause is the user's
 * word, so it is raised only on demand. */
#define CONVERGE_POLICY_DEFAULT \
        ((struct converge_policy){.steps = {CONVERGE_WAIT, CONVERGE_THROTTLE}, \
                .n_steps = 2, \
                .max_throttle_percent = CONVERGE_MAX_THROTTLE_PERCENT})

/* True when the policy has the step. */
bool converge_policy_has(const struct converge_policy *policy, enum converge_step step);

/* The same without the step. */
struct converge_policy converge_policy_without(const struct converge_policy *policy, enum converge_step step);

const char *converge_step_to_string(enum converge_step step);
/* 0, or -EINVAL for an unknown word. */
int converge_step_from_string(const char *s, enum converge_step *ret_step);

/* Reads field `converge` of `document`: absent or null is the default, [] no help at all. An item is {"step": "wait", "ms": N},
 * {"step": "pause", "max_ms": N}, {"step": "throttle", "max_percent": N} or {"step": "post-copy"}; all numbers but that of `pause` may be
 * left out. `post-copy` can only be the last step, for it has no way back, and excludes field `verify`: the two memories can no longer be compared
 * when the guest runs. `max_pause_ms` is the bound on the pause at first. BAD_DOCUMENT names the field. *ret is untouched on failure. */
int converge_policy_read(
        const json_t *document, uint64_t max_pause_ms, struct converge_policy *ret, struct error **ret_error);
