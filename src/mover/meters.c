/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/meters.h"

/* Weight of a time in which the wire was busy throughout. */
#define CAPACITY_WEIGHT 0.3

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

uint64_t meter_capacity(uint64_t before, uint64_t bytes, uint64_t busy_ns, uint64_t elapsed_ns)
{
        double measured = (double)bytes * 1e9 / (double)busy_ns;
        double weight = before == 0 ? 1 : CAPACITY_WEIGHT * (double)busy_ns / (double)elapsed_ns;

        return (uint64_t)((double)before + (measured - (double)before) * weight);
}
