/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* `drover-mover probe-source` and `probe-sink`: what one connection between two hosts carries, over TLS as the movers use it and
 * for a moment only (docs/internals/mover-control.md, "Probes"). */

#include <stdbool.h>

/* Serve one op `probe` on the control socket and return the exit code. */
int probe_source_run(int control_fd, bool sandbox);
int probe_sink_run(int control_fd, bool sandbox);
