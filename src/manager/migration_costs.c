/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/migration_costs.h"

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "cluster/checks.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/migration_along.h"
#include "manager/operations.h"

static bool moves_disks(const struct task *task)
{
        return !strcmp(task_action(task), "vm.migrate-disks");
}

bool migration_is_queued(const struct task *task)
{
        return !strcmp(task_action(task), "vm.migrate") || moves_disks(task);
}

uint64_t migration_limit(const struct queue_limits *limits, enum queue_kind kind, const json_t *host)
{
        switch (kind) {
        case QUEUE_HOST:
                return limits->host;
        case QUEUE_NETWORK:
                return queue_network_limit(limits, checks_link_bps(host));
        case QUEUE_DATASTORE:
                return limits->datastore;
        case QUEUE_MEMORY:
                return (uint64_t)MAX(checks_memory_room(json_status(host)), 0);
        case QUEUE_BANDWIDTH:
                return checks_promised_bps(host);
        case N_QUEUE_KINDS:
                break;
        }
        return 0;
}

json_t *migration_resource_name(enum queue_kind kind, const char *name)
{
        return json_sprintf("%s/%s", queue_kind_to_string(kind), name);
}

enum queue_kind migration_cost_kind(const json_t *item)
{
        const char *word = json_text(item, "kind");

        for (size_t i = 0; i < N_QUEUE_KINDS; i++)
                if (!strcmp(queue_kind_to_string((enum queue_kind)i), word))
                        return (enum queue_kind)i;
        return N_QUEUE_KINDS;
}

static int add(json_t *list, enum queue_kind kind, const char *name, uint64_t units)
{
        if (!units || !*name)
                return 0;
        return json_array_append_new(list, json_pack("{s:s, s:s, s:I}", "kind", queue_kind_to_string(kind),
                                                   "name", name, "units", (json_int_t)units)) < 0
                       ? -ENOMEM
                       : 0;
}

static uint64_t promised_bps(const struct task *task)
{
        json_int_t bps = json_integer_value(json_object_get(task_input(task), "min_bandwidth_bps"));

        return bps > 0 ? (uint64_t)bps : 0;
}

static int add_host(json_t *list, const struct task *task, const char *host)
{
        int r = add(list, QUEUE_HOST, host, queue_cost(QUEUE_HOST, migration_along(task)));

        if (r >= 0)
                r = add(list, QUEUE_NETWORK, host, queue_cost(QUEUE_NETWORK, false));
        return r < 0 ? r : add(list, QUEUE_BANDWIDTH, host, promised_bps(task));
}

static int add_datastore(void *list, const char *name)
{
        return add(list, QUEUE_DATASTORE, name, queue_cost(QUEUE_DATASTORE, false));
}

static const json_t *vm_of(struct manager *manager, const struct task *task)
{
        return inventory_vm(manager->inventory, json_text(task_data(task), "vm_uid"));
}

const char *migration_source(struct manager *manager, const struct task *task)
{
        const char *recorded = json_text(task_data(task), "from");

        return *recorded ? recorded : json_text(json_status(vm_of(manager, task)), "host");
}

static int add_moved(json_t *list, const char *name)
{
        json_t *item;
        size_t i;

        json_array_foreach (list, i, item)
                if (migration_cost_kind(item) == QUEUE_DATASTORE && !strcmp(json_text(item, "name"), name))
                        return 0;
        return add(list, QUEUE_DATASTORE, name, queue_cost(QUEUE_DATASTORE, true));
}

/* The host, the datastores that disks come from, and those that they go to. */
static json_t *costs_of_disks(struct manager *manager, const struct task *task)
{
        const json_t *vm = vm_of(manager, task);
        _cleanup_json_ json_t *list = json_array(), *moved = NULL;
        json_t *disk, *item, *target;
        const char *name;
        size_t i, k;

        if (!list ||
                add(list, QUEUE_HOST, migration_source(manager, task), queue_cost(QUEUE_HOST, true)) < 0 ||
                add_moved(list, json_text(task_input(task), "to_datastore")) < 0)
                return NULL;
        json_object_foreach (json_object_get(task_input(task), "to_datastores"), name, target)
                if (add_moved(list, json_string_value(target) ?: "") < 0)
                        return NULL;
        if (operation_storage_disks(vm, task_input(task), &moved, NULL) < 0)
                return TAKE_PTR(list); /* which its check will explain */
        json_array_foreach (moved, i, item) {
                json_array_foreach (json_object_get(json_spec(vm), "disks"), k, disk) {
                        if (!strcmp(json_text(disk, "name"), json_text(item, "name")) &&
                                add_moved(list, json_text(disk, "datastore")) < 0)
                                return NULL;
                }
        }
        return TAKE_PTR(list);
}

/* All of its disks are read, and written at the destination. */
static int add_along(json_t *list, const json_t *vm, const json_t *input)
{
        json_t *disk;
        size_t i;
        int r = add_moved(list, json_text(input, "to_datastore"));

        json_array_foreach (json_object_get(json_spec(vm), "disks"), i, disk)
                if (r >= 0)
                        r = add_moved(list, json_text(disk, "datastore"));
        return r;
}

json_t *migration_costs_source(struct manager *manager, const struct task *task)
{
        _cleanup_json_ json_t *list = NULL;

        if (moves_disks(task))
                return costs_of_disks(manager, task);
        list = json_array();
        if (!list || add_host(list, task, migration_source(manager, task)) < 0)
                return NULL;
        if (migration_along(task))
                return add_along(list, vm_of(manager, task), task_input(task)) < 0 ? NULL : TAKE_PTR(list);
        if (checks_each_datastore(json_spec(vm_of(manager, task)), add_datastore, list) < 0)
                return NULL;
        return TAKE_PTR(list);
}

void migration_units_destination(
        struct manager *manager, const struct task *task, uint64_t ret_units[static N_QUEUE_KINDS])
{
        memset(ret_units, 0, N_QUEUE_KINDS * sizeof(*ret_units));
        if (moves_disks(task))
                return;
        ret_units[QUEUE_HOST] = queue_cost(QUEUE_HOST, migration_along(task));
        ret_units[QUEUE_NETWORK] = queue_cost(QUEUE_NETWORK, false);
        ret_units[QUEUE_BANDWIDTH] = promised_bps(task);
        ret_units[QUEUE_MEMORY] = (uint64_t)MAX(checks_memory_need(vm_of(manager, task)), 0);
}

json_t *migration_costs_destination(struct manager *manager, const struct task *task, const char *host)
{
        _cleanup_json_ json_t *list = json_array();
        uint64_t units[N_QUEUE_KINDS];

        if (!list)
                return NULL;
        migration_units_destination(manager, task, units);
        for (size_t i = 0; i < N_QUEUE_KINDS; i++)
                if (add(list, (enum queue_kind)i, host, units[i]) < 0)
                        return NULL;
        return TAKE_PTR(list);
}
