/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The part of the event loop's time that rankings of hosts, dry runs and due schedules have together. Each is a few milliseconds long with
 * a thousand hosts, and there may be thousands of them at once: after LOOP_SHARE_MS of such work there is none for as long again, so that
 * all else has its turn at least half of the time. Pure: the clock is injected. */

#include "base/clock.h"

#define LOOP_SHARE_MS 10
#define LOOP_SHARE_TURN_MS 1000 /* who was refused, and does not ask again within that, has lost its turn */

struct loop_share {
        const struct clock *clock;
        uint64_t spent_ns; /* since the last pause */
        uint64_t closed_until_ms;
        const void *last; /* who was served last: refused, it reserves no turn; compared only */
        const void *next; /* who else was refused first: its turn is the next one; compared only */
        uint64_t next_until_ms;
};
void loop_share_init(struct loop_share *share, const struct clock *clock);

/* Whether `who` may go on now: a piece of work is to follow, and then loop_share_spend(). False: ask again in some
 * milliseconds; nobody else comes before it then. */
bool loop_share_open(struct loop_share *share, const void *who);
/* What the piece took (clock_monotonic_ns()). */
void loop_share_spend(struct loop_share *share, uint64_t ns);
