/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/classify.h"

#include <limits.h>

#define RUNS 8
#define RUN_BYTES 32 /* consecutive bytes taken at each place */
/* Of 224 random bytes the sum of the squared counts is 419 on average, 20 its standard deviation: five of them above. */
#define RANDOM_MAX 518
/* Above this it stays above RANDOM_MAX whichever run is left out: counts are vectors, and |all| <= |rest| + |one run|, which
 * is 22.8 + 32 at most. */
#define SURELY_NOT_RANDOM 3000

/* How often each byte occurs in `run` is added to `count` (weight 1) or taken away (-1); returns by how much the sum of
 * the squared counts changes. */
static int tally(uint16_t *count, const uint8_t *run, int weight)
{
        int change = 0;

        for (size_t i = 0; i < RUN_BYTES; i++) {
                /* (c + w)^2 - c^2 */
                change += 2 * weight * count[run[i]] + 1;
                count[run[i]] = (uint16_t)(count[run[i]] + weight);
        }
        return change;
}

bool classify_compressible(const uint8_t *data, size_t len)
{
        size_t step = len / RUNS;
        uint16_t count[256] = {0};
        int sum = 0, least = INT_MAX;

        for (size_t i = 0; i < RUNS; i++) {
                sum += tally(
                        count, data + i * step, 1); /* the sum only grows: most pages are decided early */
                if (sum > SURELY_NOT_RANDOM)
                        return true;
        }
        if (sum <= RANDOM_MAX)
                return false;
        /* A header before random data (a compressed file's, a database page's) must not speak for all of it: whichever
         * run stands out is left out. */
        for (size_t i = 0; i < RUNS; i++) {
                int rest = sum + tally(count, data + i * step, -1);

                least = MIN(least, rest);
                (void)tally(count, data + i * step, 1);
        }
        return least > RANDOM_MAX;
}
