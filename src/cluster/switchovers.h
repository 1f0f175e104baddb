/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who may pause its guest now: at most one migration on each link. Pure: claims in, permits out.
 *
 * A link is a host's connection to the network that migrations use; each migration takes two. Those that wait are looked at in the order of
 * their rank. One that must wait keeps its links free of those behind it, unless an earlier one waits for one of them
 * already; so the first one's links can only become free, and nobody waits for ever. */

#include "base/macros.h"

struct switchover_claim {
        size_t links[2];
        bool holds;      /* it has a permit, or its guest is paused */
        int64_t rank_ms; /* of one that waits; the smallest comes first */
        bool granted;    /* out; false for one that holds */
};

/* -ENOMEM. */
int switchovers_grant(struct switchover_claim *claims, size_t n_claims, size_t n_links);
