/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How many of this host's processors are idle. */

#include "base/macros.h"

struct idle_meter {
        double uptime_s, idle_s; /* of all processors together, when it was read last; 0: never */
};

/* Processors that were idle since the last call, those that wait for a disk not counted; false when there is no telling yet: the
 * first time, and within a tenth of a second. */
bool idle_meter_read(struct idle_meter *meter, double *ret_cores);
