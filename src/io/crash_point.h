/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Named points at which tests kill this process, or hold it while they kill another one. Always compiled,
 * active only in builds with the option crash_points and with the environment variables set:
 *
 * DROVER_CRASH_AT=NAME[:FILE]  SIGKILL to ourselves at the point. With FILE only once: not if FILE exists,
 * and it is created first, so that a restarted program gets past the point. DROVER_HOLD_AT=NAME:FILE     the
 * state machine waits at the point until FILE exists; FILE.held is created when it begins to wait.
 * Both may be lists, with commas between. */

#include "io/loop.h"

struct crash_hold;

void crash_point(const char *name);

/* Crash point and hold in one. Returns false when there is nothing to wait for: go on at once. True: `resume`
 * is called from the loop when the file is there; *ret_hold is the caller's, to be freed (also inside
 * resume). */
bool crash_point_hold(
        struct loop *loop, const char *name, loop_fn resume, void *userdata, struct crash_hold **ret_hold);
void crash_hold_free(struct crash_hold *hold);
DEFINE_CLEANUP(struct crash_hold *, crash_hold_free)
