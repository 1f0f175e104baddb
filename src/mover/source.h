/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The source side of one migration: reads QEMU's stream, sends it to the sink, tells the agent when the guest
 * may be stopped. */

#include "base/macros.h"

/* Runs a whole migration under the orders that come over `control_fd` (not taken over; see
 * docs/internals/mover-control.md). With `sandbox` the process is shut in before the first byte of the peer
 * is read: for ever. Returns the exit code: 0 after the sink's result, 1 after `failed` or `abort`. */
int source_run(int control_fd, bool sandbox);
