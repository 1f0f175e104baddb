/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/loop_share.h"

#define MS_NS 1000000u

void loop_share_init(struct loop_share *share, const struct clock *clock)
{
        *share = (struct loop_share){.clock = clock};
}

bool loop_share_open(struct loop_share *share, const void *who)
{
        uint64_t now_ms = clock_now_ms(share->clock);

        if (now_ms >= share->next_until_ms)
                share->next = NULL;
        if (now_ms >= share->closed_until_ms && (!share->next || share->next == who)) {
                share->next = NULL;
                share->last = who;
                return true;
        }
        if (!share->next && who != share->last)
                share->next = who;
        if (share->next == who)
                share->next_until_ms = now_ms + LOOP_SHARE_TURN_MS;
        return false;
}

void loop_share_spend(struct loop_share *share, uint64_t ns)
{
        share->spent_ns += ns;
        if (share->spent_ns < LOOP_SHARE_MS * (uint64_t)MS_NS)
                return;
        share->closed_until_ms = clock_now_ms(share->clock) + share->spent_ns / MS_NS;
        share->spent_ns = 0;
}
