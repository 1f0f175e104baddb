/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The destination side of one migration: takes the source's channels, places pages straight into the guest's
 * memory and feeds the rest to the destination's QEMU. */

#include "base/macros.h"

/* Like source_run(). Returns 0 after the result was sent on, 1 after `failed` or `abort`. */
int sink_run(int control_fd, bool sandbox);
