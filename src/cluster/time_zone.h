/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Time zones from the tz database's compiled files (TZif, RFC 9636), as values: any number of them side by side, and no environment
 * variable, for libc's TZ is one for the whole process. (docs/decisions/0017 has the alternatives.) After a file's last transition
 * the POSIX rule in its footer counts, for all years to come.
 *
 * A zone is a sequence of spans of one offset each. Where the next span's offset is larger, local times are left out (a gap); where
 * it is smaller, they come twice (an overlap). What that means for a schedule is in calendar.h. */

#include "base/macros.h"

#define TIME_ZONE_FILE_MAX (64u << 10) /* bytes; the largest one of 2025 has 4 KiB */
/* Times are within this of 1970: the "Big Bang" of zic(8). Files with others are damaged; an offset added would overflow. */
#define TIME_ZONE_RANGE_S (INT64_C(1) << 59)

struct time_zone;

/* The file's content. -EINVAL: it is no such file, or a damaged one; -EOPNOTSUPP: it counts leap seconds ("right/..."), or is of
 * version 1; -ENOMEM. */
int time_zone_parse(const void *data, size_t size, struct time_zone **ret_zone);
/* UTC, which needs no file. NULL without memory. */
struct time_zone *time_zone_utc(void);
/* Accepts NULL. */
void time_zone_free(struct time_zone *zone);
DEFINE_CLEANUP(struct time_zone *, time_zone_free)

struct time_zone_span {
        int64_t begin_s;  /* UTC; INT64_MIN: from ever */
        int64_t end_s;    /* the first second behind it; INT64_MAX: for ever */
        int32_t offset_s; /* east of UTC: local time less UTC */
};
/* The span that the second (since 1970, UTC) is in. */
struct time_zone_span time_zone_span(const struct time_zone *zone, int64_t unix_s);

/* "2026-03-29T03:00:00+02:00" */
char *time_zone_format(const struct time_zone *zone, int64_t unix_s, char ret[static 32]);
