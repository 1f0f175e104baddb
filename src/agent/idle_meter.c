/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/idle_meter.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "io/file.h"

#define MIN_ELAPSED_S 0.1

/* /proc/uptime has the idle time of all processors (proc(5)); /proc/stat would tell more, but costs milliseconds on large
 * hosts. */
bool idle_meter_read(struct idle_meter *meter, double *ret_cores)
{
        _cleanup_free_ char *text = NULL;
        struct idle_meter now;
        double elapsed_s;
        char *end;
        bool known;

        if (file_read("/proc/uptime", 64, &text, NULL) < 0)
                return false;
        now.uptime_s = strtod(text, &end);
        now.idle_s = strtod(end, NULL);
        elapsed_s = now.uptime_s - meter->uptime_s;
        known = meter->uptime_s > 0 && elapsed_s > MIN_ELAPSED_S;
        if (known)
                *ret_cores = MAX(0.0, (now.idle_s - meter->idle_s) / elapsed_s);
        *meter = now;
        return known;
}
