/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/switchovers.h"

#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"

enum use { FREE, KEPT, TAKEN };

static int compare(const void *a, const void *b)
{
        const struct switchover_claim *x = *(struct switchover_claim *const *)a,
                                      *y = *(struct switchover_claim *const *)b;

        if (x->rank_ms != y->rank_ms)
                return x->rank_ms < y->rank_ms ? -1 : 1;
        return (x > y) - (x < y); /* places in one array */
}

static void set_both(enum use *uses, const struct switchover_claim *claim, enum use use)
{
        uses[claim->links[0]] = uses[claim->links[1]] = use;
}

static void decide(enum use *uses, struct switchover_claim *claim)
{
        enum use *first = &uses[claim->links[0]], *second = &uses[claim->links[1]];

        claim->granted = *first == FREE && *second == FREE;
        if (claim->granted) {
                set_both(uses, claim, TAKEN);
                return;
        }
        if (*first == KEPT || *second == KEPT)
                return;
        *first = *first == FREE ? KEPT : *first;
        *second = *second == FREE ? KEPT : *second;
}

int switchovers_grant(struct switchover_claim *claims, size_t n_claims, size_t n_links)
{
        _cleanup_free_ enum use *uses = alloc_array(n_links + 1, sizeof(*uses));
        _cleanup_free_ struct switchover_claim **order = alloc_array(n_claims + 1, sizeof(*order));
        size_t n = 0;

        if (!uses || !order)
                return -ENOMEM;
        for (size_t i = 0; i < n_claims; i++) {
                claims[i].granted = false;
                if (claims[i].holds)
                        set_both(uses, &claims[i], TAKEN);
                else
                        order[n++] = &claims[i];
        }
        qsort(order, n, sizeof(*order), compare);
        for (size_t i = 0; i < n; i++)
                decide(uses, order[i]);
        return 0;
}
