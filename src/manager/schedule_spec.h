/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A schedule's spec, read and checked: its rule, with the time zone's file, and its action. */

#include <jansson.h>

#include "base/error.h"
#include "cluster/schedule.h"

struct schedule_spec {
        struct schedule_rule rule; /* its zone is `zone` */
        struct time_zone *zone;
        struct schedule_zone_stamp {
                uint64_t inode;
                int64_t mtime_s, mtime_ns, size;
        } zone_stamp; /* of the zone's file as it was read */
};

/* BAD_DOCUMENT that names the field. *ret_spec: for schedule_spec_deinit(). */
int schedule_spec_read(const json_t *spec, struct schedule_spec *ret_spec, struct error **ret_error);
/* The zone's file is another one than when the spec was read: tzdata was updated. */
bool schedule_spec_zone_changed(const json_t *spec, const struct schedule_spec *read);
void schedule_spec_deinit(struct schedule_spec *spec);
#define _cleanup_schedule_spec_ _cleanup_(schedule_spec_deinit)

/* What cluster/schedule.h keeps, from and to a document's "internal". */
void schedule_state_read(const json_t *internal, struct schedule_state *ret_state);
json_t *schedule_state_write(const struct schedule_state *state);
