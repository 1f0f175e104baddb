/* SPDX-License-Identifier: Apache-2.0 */

/* A zone's file (TZif); what does not begin like one is taken for a footer's rule alone. Whatever is accepted is a sequence of spans, each
 * seen alike from any second in it, and each run of a schedule in it comes after the one before. */

#include <assert.h>
#include <string.h>

#include "cluster/calendar.h"

#define HEADER_SIZE 44
#define SPANS_LOOKED_AT 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A file of version 2 with one type of local time, and the text as its footer. */
static int parse_footer(const uint8_t *text, size_t size, struct time_zone **ret_zone)
{
        uint8_t file[2 * (HEADER_SIZE + 6) + 128] = "TZif2";
        size_t at = 2 * (HEADER_SIZE + 6);

        file[39] = 1;
        memcpy(file + HEADER_SIZE + 6, file, HEADER_SIZE);
        file[at++] = '\n';
        memcpy(file + at, text, MIN(size, (size_t)120));
        at += MIN(size, (size_t)120);
        file[at++] = '\n';
        return time_zone_parse(file, at, ret_zone);
}

static void check_spans(const struct time_zone *zone, int64_t from_s)
{
        int64_t at_s = from_s;

        for (size_t i = 0; i < SPANS_LOOKED_AT; i++) {
                struct time_zone_span span = time_zone_span(zone, at_s), last;
                char text[32];

                assert(span.begin_s <= at_s && at_s < span.end_s);
                time_zone_format(zone, at_s, text);
                if (span.end_s == INT64_MAX)
                        return;
                last = time_zone_span(zone, span.end_s - 1);
                assert(last.end_s == span.end_s && last.offset_s == span.offset_s);
                assert(time_zone_span(zone, span.end_s).begin_s == span.end_s);
                at_s = span.end_s;
        }
}

static void check_runs(const struct time_zone *zone, const char *expression)
{
        struct calendar calendar;
        int64_t at_s = 0, before_s;

        assert(calendar_parse(expression, &calendar, NULL) == 0);
        for (size_t i = 0; i < 8; i++) {
                before_s = at_s;
                if (calendar_next(&calendar, zone, before_s, &at_s) < 0)
                        return;
                assert(at_s > before_s);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_(time_zone_freep) struct time_zone *zone = NULL;
        int r;

        r = size >= 4 && !memcmp(data, "TZif", 4) ? time_zone_parse(data, size, &zone)
                                                  : parse_footer(data, size, &zone);
        assert((r == 0) == (zone != NULL));
        if (r < 0)
                return 0;
        check_spans(zone, -TIME_ZONE_RANGE_S);
        check_spans(zone, 0);
        check_spans(zone, INT64_C(1) << 32);
        check_runs(zone, "02:30");
        check_runs(zone, "*:0/15");
        check_runs(zone, "Sun *-*~07/1 02:00");
        return 0;
}
