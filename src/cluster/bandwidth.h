/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How migrations that run at once share the links of their hosts. Pure: flows in, limits out.
 *
 * TCP gives each of them about the same. Where that is not what is wanted, because their priorities differ or one was promised a
 * bandwidth, each flow on that link gets a limit: what it was promised, and of the rest a part by its weight. Where all weigh the
 * same and nothing is promised, nobody is limited, so that one that needs less leaves the rest to the others. */

#include "base/macros.h"

struct bandwidth_flow {
        size_t links[2];     /* the source's and the destination's */
        unsigned int weight; /* queue_priority_weight() */
        uint64_t min_bps;    /* promised; 0: nothing */
        uint64_t limit_bps;  /* out; 0: none */
};

/* `links_bps`: what each link carries; 0: not known, it leads to no limits. Promises beyond what a link carries are scaled
 * down alike. -ENOMEM. */
int bandwidth_share(const uint64_t *links_bps, size_t n_links, struct bandwidth_flow *flows, size_t n_flows);
