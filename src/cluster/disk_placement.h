/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Ranks the datastores of a host for the disks of a virtual machine that is there. Pure: the same documents always give the same order. */

#include <jansson.h>

#include "base/error.h"

struct disk_placement_input {
        const json_t *vm;                     /* document */
        const json_t *host;                   /* live document of the host where it is */
        const json_t *datastores;             /* array of documents */
        const json_t *provisioned, *reserved; /* as in datastore_place.h; may be NULL */
        const json_t *disks; /* array of names: only these; NULL: all that are not read-only */
        const char *from;    /* only disks that are on this datastore; NULL: on any */
        const json_t *avoid; /* {name of datastore: anything}: not to these; may be NULL */
};

/* {"ok", "disks": [{"disk", "datastore", "size_bytes", "ok", "to", "ranking": [{"datastore", "ok", "score", "reasons", "checks"}]}]}, the
 * caller's; NULL without memory. ok: each disk has a place; to: the best one, or null. A ranking is as placement_rank() has it of hosts: the best first, those
 * that fail a check last. The score is 0 to 100 (0 for one that fails a check): the weighted mean of room left free, room not promised, quick storage and its rate; each warning
 * takes some off. Disks that go to one datastore are counted there together: the largest chooses first. */
json_t *disk_placement(const struct disk_placement_input *input);

/* {name of disk: name of datastore} of such a report, the caller's, or sets CHECK_FAILED with the reasons for the first disk that has no place. */
int disk_placement_choice(const json_t *report, json_t **ret_choice, struct error **ret_error);

/* Array of what is in the way of putting the disk (of the VM's spec) onto the datastore (document), as checks_run() has it, the broken ones only; the
 * caller's; NULL without memory. */
json_t *disk_placement_checks(
        const struct disk_placement_input *input, const json_t *disk, const json_t *datastore);
