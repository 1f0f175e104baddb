/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Resource pools (docs/openapi.json: Pool): what the virtual machines that bear a pool's name as their label "pool" may take
 * together, and what of the hosts' memory is kept for them. Pure functions of documents.
 *
 * What a pool uses is {"cpus", "memory_bytes", "vms"}: of those that run, or may, or are being started. A pool with its use
 * is its document with that as status.used. */

#include <jansson.h>

#include "base/error.h"

#define POOL_LABEL "pool"
#define POOLS_MAX 256

/* Shape of a spec {"limits": {"cpus", "memory_bytes", "vms"}, "reservation": {"memory_bytes"}}, each of them optional. BAD_DOCUMENT. */
int pool_check_spec(const json_t *spec, struct error **ret_error);

/* The name of the pool that the VM (document) is of; "" when it is of none. */
const char *pool_of(const json_t *vm);

/* No use at all, the caller's; NULL without memory. pool_add_use() adds what the VM (document) takes; 0 or -ENOMEM. */
json_t *pool_no_use(void);
int pool_add_use(json_t *use, const json_t *vm);
/* The memory that the VM (document) is counted with: what it was given, not what its QEMU makes of that. */
json_int_t pool_memory_need(const json_t *vm);

/* What the spec keeps, in bytes; 0: nothing. */
json_int_t pool_reserved_bytes(const json_t *spec);
/* What the pools (array, with their use) keep and do not use yet. */
json_int_t pool_unused_bytes(const json_t *pools);
/* The memory that is free on the hosts (array of documents) that are there and not in maintenance, but for what is on its way to them
 * (reserved: see struct checks_input). */
json_int_t pool_room_bytes(const json_t *hosts, const json_t *reserved);
