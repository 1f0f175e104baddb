/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Calendar expressions in the style of systemd.time(7), "Calendar Events": "Mon..Fri 22:00", "*-*-01 03:30", "hourly",
 * "*:0/15", "Sun *-*~07/1 02:00 Europe/Berlin". Not taken: fractions of a second and "@UNIXTIME".
 *
 * An expression names local times. Where a zone changes its offset:
 *
 * - One for particular hours keeps to the clock on the wall: a time that is left out (a gap) comes at the gap's end, and all that
 *   fall into one gap come once; a time that comes twice (an overlap) counts the first time. So a daily one runs once each day.
 * - One for every hour ("*:0/15", "hourly") keeps to elapsed time: nothing comes in place of what is left out, and what comes
 *   twice counts twice.
 *
 * That is what cron does for fixed and for wildcard times (cron(8) of Debian, "Daylight Saving Time"). Pure: no clock, no files. */

#include "base/error.h"
#include "cluster/time_zone.h"

#define CALENDAR_TEXT_MAX 256
#define CALENDAR_ZONE_SIZE 64
#define CALENDAR_YEAR_MIN 1970
#define CALENDAR_YEAR_MAX 2199 /* systemd's */

struct calendar_set {
        uint64_t bits[4];
};

struct calendar {
        struct calendar_set years; /* less CALENDAR_YEAR_MIN */
        struct calendar_set months, days, days_from_end, hours, minutes, seconds;
        unsigned int weekdays; /* bit 0: Sunday */
        bool every_hour;
        char zone[CALENDAR_ZONE_SIZE]; /* what stood at the end; "": nothing */
};

/* BAD_DOCUMENT that names the part that is not understood. */
int calendar_parse(const char *text, struct calendar *ret_calendar, struct error **ret_error);

/* The first time after after_s (seconds since 1970, UTC) that the expression means in that zone. -ENOENT: there is none before the
 * year 2200. */
int calendar_next(
        const struct calendar *calendar, const struct time_zone *zone, int64_t after_s, int64_t *ret_s);
