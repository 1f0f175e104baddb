/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A datastore as one host sees it, with what virtual machines have been promised there: what is asked before a new disk comes to it. Pure.
 *
 * Provisioned is the sum of the virtual sizes of the disks that may be written to: what the datastore would hold if every guest filled its disks.
 * Images are thin, so that this may be more than there is room for: how much more, the datastore's spec.overcommit says. */

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

struct datastore_place {
        const char *name; /* texts are borrowed from the documents */
        const char *host; /* of a local one: it is another one on each host; NULL: shared */
        bool there;       /* the host has it */
        bool works;
        bool closed;         /* for maintenance */
        const char *message; /* why it does not work; NULL: no reason given */
        const char *file_system;
        uint64_t capacity_bytes;
        uint64_t free_bytes;
        uint64_t provisioned_bytes; /* on it now */
        uint64_t reserved_bytes;    /* on its way, by tasks that have not ended */
        double latency_ms;          /* below 0: not known */
        double write_bytes_per_s;   /* 0: not known; so below */
        double read_bytes_per_s;
        double overcommit; /* provisioned may be so many times the capacity; 0: as much as one likes */
};

/* datastore: its document; host: live document of the host. provisioned, reserved: {name of datastore: {"bytes", "hosts": {name of host:
 * bytes}}}, of which a local one's bytes are those of its host; may be NULL. */
struct datastore_place datastore_place_of(
        const json_t *datastore, const json_t *host, const json_t *provisioned, const json_t *reserved);

/* Adds a disk to such sums. -ENOMEM. */
int datastore_place_add(json_t *sums, const char *datastore, const char *host, uint64_t bytes);

/* Bytes that a disk (of a spec) may come to take: 0 for one that is read-only, or of unknown size. */
uint64_t datastore_disk_bytes(const json_t *disk);

/* Whether that is in the way of a new disk of more_bytes (beside those that are provisioned and reserved); then *ret_cause, the caller's, says why, or is NULL
 * without memory. The checks datastore-maintenance, datastore-limit and datastore-space (docs/checks.md). */
bool datastore_place_is_closed(const struct datastore_place *place, char **ret_cause);
bool datastore_place_is_over(const struct datastore_place *place, uint64_t more_bytes, char **ret_cause);
bool datastore_place_is_short(const struct datastore_place *place, uint64_t more_bytes, char **ret_cause);
/* The ways out of these. */
#define DATASTORE_CLOSED_WAY_OUT \
        "Choose another datastore, or end it with `drover datastore maintenance DATASTORE --off`."
#define DATASTORE_OVER_WAY_OUT \
        "Choose another datastore, or raise its limit (`drover datastore set DATASTORE --overcommit " \
        "RATIO`)."
#define DATASTORE_SHORT_WAY_OUT \
        "Choose another datastore, or free room there before the guest fills the disk."
