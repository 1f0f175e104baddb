/* SPDX-License-Identifier: Apache-2.0 */
#include "base/torture.h"

#ifdef DROVER_TORTURE

static uint64_t armed_at;
static uint64_t passed;

void torture_arm(uint64_t nth)
{
        armed_at = nth;
        passed = 0;
}

uint64_t torture_count(void)
{
        return passed;
}

bool torture_point(void)
{
        passed++;
        return armed_at && passed == armed_at;
}

#endif
