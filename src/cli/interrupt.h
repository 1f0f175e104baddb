/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Ctrl-C: counted, so that the first one detaches from a task and the second one cancels it. */

#include <signal.h>

#include "base/macros.h"

/* Counts SIGINT from now on, instead of ending the program. SIGTERM keeps its meaning. */
void interrupt_install(void);

/* The counter; only ever grows. */
extern volatile sig_atomic_t interrupt_count;

/* Waits until timeout_ms have passed or an interrupt came since the count was `seen` (true). */
bool interrupt_wait(sig_atomic_t seen, uint64_t timeout_ms);
