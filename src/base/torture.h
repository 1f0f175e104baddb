/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Torture mode: makes the N-th fallible call fail, once (after curl's tests/runtests -t). A unit test runs
 * again and again with N = 1, 2, ... until the count is no longer reached; a leak, a crash or a wrong success
 * is a bug. Compiled to nothing unless the build has -Dtorture=true. Not for threads: tests only. */

#include <stdbool.h>
#include <stdint.h>

#ifdef DROVER_TORTURE
/* Arms the mode: the `nth` (from 1) call of torture_point() from now on returns true; 0 disarms. */
void torture_arm(uint64_t nth);

/* Returns how many points were passed since torture_arm(). */
uint64_t torture_count(void);

/* True if this very call has to fail. Fallible functions ask it before the real work. */
bool torture_point(void);
#else
static inline bool torture_point(void)
{
        return false;
}
#endif
