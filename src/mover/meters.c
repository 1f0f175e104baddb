/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/meters.h"

void meter_add(struct meter *meter, uint64_t total, uint64_t now_ns)
{
        meter->at = (meter->at + 1) % ARRAY_SIZE(meter->totals);
        meter->totals[meter->at] = total;
        meter->times_ns[meter->at] = now_ns;
        if (meter->n < ARRAY_SIZE(meter->totals))
                meter->n++;
}

uint64_t meter_rate(const struct meter *meter)
{
        unsigned int oldest =
                (meter->at + ARRAY_SIZE(meter->totals) + 1 - meter->n) % ARRAY_SIZE(meter->totals);
        uint64_t ns = meter->times_ns[meter->at] - meter->times_ns[oldest];

        if (meter->n < 2 || ns == 0)
                return 0;
        return (uint64_t)((double)(meter->totals[meter->at] - meter->totals[oldest]) * 1e9 / (double)ns);
}
