/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Zones from the machine's tz database, for tests. Include after cmocka.h. */

#include "base/alloc.h"
#include "cluster/time_zone.h"

static inline struct time_zone *zone_of(const char *name)
{
        _cleanup_file_ FILE *file = NULL;
        struct time_zone *zone = NULL;
        static char data[TIME_ZONE_FILE_MAX];
        char path[256];
        size_t size;

        snprintf(path, sizeof(path), "/usr/share/zoneinfo/%s", name);
        file = fopen(path, "rb");
        if (!file)
                fail_msg("%s: install tzdata", path);
        size = fread(data, 1, sizeof(data), file);
        assert_int_equal(time_zone_parse(data, size, &zone), 0);
        return zone;
}
