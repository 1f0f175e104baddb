/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the manager knows of datastores: what hosts say of them now, what virtual machines were promised there, and what tasks bring. */

#include <jansson.h>

#include "base/error.h"

struct disk_placement_input;
struct manager;

#define DATASTORE_BEST "best" /* in place of a name: the best one is chosen */

/* Bytes of disks that unfinished tasks bring to datastores, as cluster/datastore_place.h takes them, but for those of that VM (document; may be
 * NULL), which asks; the caller's, NULL without memory. Disks of a VM that is being created are provisioned already, but on no host's local datastores: those are here. */
json_t *datastores_reserved(struct manager *manager, const json_t *except);

/* The document with its facts, the caller's; NULL without memory: status.hosts as they say now, each with what is provisioned and reserved there, and
 * status.capacity_bytes, free_bytes, provisioned_bytes, reserved_bytes, latency_ms, ..., of a local one summed up over its hosts. reserved: as above. */
json_t *datastores_with_facts(struct manager *manager, const json_t *datastore, const json_t *reserved);

/* What the disks of a VM (document) could be placed by; borrows its documents. */
struct datastores_facts {
        json_t *datastores, *reserved;
        const json_t *host; /* live; NULL: it is on none */
        const json_t *vm;
        const json_t *provisioned;
};
int datastores_facts_load(struct manager *manager, const json_t *vm, struct datastores_facts *ret_facts,
        struct error **ret_error);
void datastores_facts_deinit(struct datastores_facts *facts);
#define _cleanup_datastores_facts_ _cleanup_(datastores_facts_deinit)
struct disk_placement_input datastores_facts_input(const struct datastores_facts *facts);
