/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a migration takes, as lists of {"kind", "name", "units"} (kinds of cluster/queue.h), made from what the manager knows of the
 * virtual machine and the hosts. A task that has started keeps its list: that is what it holds, whatever changes. */

#include <jansson.h>

#include "cluster/queue.h"

struct manager;
struct task;

/* The task waits in the queue of migrations until there is room for what it takes: vm.migrate, and vm.migrate-disks, which takes of
 * host and datastores what a migration with disks does, and of no other host anything. */
bool migration_is_queued(const struct task *task);

/* How much of a kind there is: units of cost, bytes, or bit/s. `host`: live document of the host that the resource is of; NULL for a
 * datastore. */
uint64_t migration_limit(const struct queue_limits *limits, enum queue_kind kind, const json_t *host);

/* Where the migration begins: recorded by its first step, before that where its VM is. Name of a host, or "". */
const char *migration_source(struct manager *manager, const struct task *task);
/* What is taken wherever it goes: source and datastores. The caller's; NULL without memory. */
json_t *migration_costs_source(struct manager *manager, const struct task *task);
/* What is taken at the destination as well, wherever that is: units of each kind. */
void migration_units_destination(
        struct manager *manager, const struct task *task, uint64_t ret_units[static N_QUEUE_KINDS]);
/* The same as a list, of one host. The caller's; NULL without memory. */
json_t *migration_costs_destination(struct manager *manager, const struct task *task, const char *host);

/* "host/host1" */
json_t *migration_resource_name(enum queue_kind kind, const char *name);
/* N_QUEUE_KINDS for an item that is not one of ours. */
enum queue_kind migration_cost_kind(const json_t *item);
