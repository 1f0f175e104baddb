/* SPDX-License-Identifier: Apache-2.0 */

/* A calendar expression, as somebody types it, and behind a line feed a time that a schedule is to run at once. */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/schedule.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_expression(const char *text, const struct time_zone *zone)
{
        _cleanup_error_ struct error *error = NULL;
        int64_t at_s = 1700000000, before_s;
        struct calendar calendar;

        if (calendar_parse(text, &calendar, &error) < 0) {
                assert(error && error->message);
                return;
        }
        for (size_t i = 0; i < 4; i++) {
                before_s = at_s;
                if (calendar_next(&calendar, zone, before_s, &at_s) < 0)
                        return;
                assert(at_s > before_s);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_(time_zone_freep) struct time_zone *zone = time_zone_utc();
        _cleanup_error_ struct error *error = NULL;
        char text[CALENDAR_TEXT_MAX + 16] = "", *line;
        int64_t at_s;

        if (!zone || size >= sizeof(text))
                return 0;
        memcpy(text, data, size);
        line = strchr(text, '\n');
        if (line)
                *line++ = '\0';
        check_expression(text, zone);
        if (line && schedule_parse_at(line, zone, &at_s, &error) < 0)
                assert(error && error->message);
        return 0;
}
