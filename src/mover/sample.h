/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* `drover-mover sample`: looks at a running guest's memory, for a forecast (docs/internals/mover-control.md, "Samples"). The
 * guest does not notice: its memory is only read, by a process of low priority, a bounded part of it and for a bounded time. */

#include <stdbool.h>

/* Serves one op `sample` on the control socket: answers with one event `sample` (or `failed`) and returns the exit code. Ends
 * at once when the agent closes the socket. `sandbox`: false for tests within a process. */
int sample_run(int control_fd, bool sandbox);
