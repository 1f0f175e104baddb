/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/datastores.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cluster/datastore_place.h"
#include "cluster/disk_placement.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"

/* --- What tasks bring ----------------------------------------------------------------------------------------- */

struct reservation {
        struct manager *manager;
        const char *except; /* uid of a VM */
        const json_t *datastores;
        json_t *sums;
        int result;
};

static void reserve(struct reservation *reservation, const char *datastore, const char *host, uint64_t bytes)
{
        if (*datastore && bytes && datastore_place_add(reservation->sums, datastore, host, bytes) < 0)
                reservation->result = -ENOMEM;
}

/* Those that are there already by the VM's document are provisioned. */
static void reserve_moved(struct reservation *reservation, const struct task *task, const json_t *vm)
{
        _cleanup_json_ json_t *moved = NULL;
        json_t *item, *disk;
        size_t i, k;

        if (operation_storage_disks(vm, task_input(task), &moved, NULL) < 0)
                return;
        json_array_foreach (moved, i, item)
                json_array_foreach (json_object_get(json_spec(vm), "disks"), k, disk)
                        if (!strcmp(json_text(disk, "name"), json_text(item, "name")) &&
                                strcmp(json_text(disk, "datastore"), json_text(item, "datastore")) != 0)
                                reserve(reservation, json_text(item, "datastore"),
                                        json_text(json_status(vm), "host"), datastore_disk_bytes(disk));
}

static void reserve_along(struct reservation *reservation, const struct task *task, const json_t *vm)
{
        const char *datastore = json_text(task_input(task), "to_datastore"),
                   *to = json_text(task_input(task), "to");
        json_t *disk;
        size_t i;

        if (!*datastore || !strcmp(to, json_text(json_status(vm), "host")))
                return;
        json_array_foreach (json_object_get(json_spec(vm), "disks"), i, disk)
                reserve(reservation, datastore, to, datastore_disk_bytes(disk));
}

static void reserve_created(struct reservation *reservation, const struct task *task, const json_t *vm)
{
        const char *host = json_text(task_data(task), "host");
        json_t *disk;
        size_t i;

        if (!*host || *json_text(json_status(vm), "host"))
                return;
        json_array_foreach (json_object_get(json_spec(vm), "disks"), i, disk) {
                const char *datastore = json_text(disk, "datastore");

                if (json_is_false(json_object_get(
                            json_spec(json_named(reservation->datastores, datastore)), "shared")))
                        reserve(reservation, datastore, host, datastore_disk_bytes(disk));
        }
}

static void reserve_task(void *userdata, const struct task *task)
{
        struct reservation *reservation = userdata;
        const json_t *vm =
                inventory_vm(reservation->manager->inventory, json_text(task_data(task), "vm_uid"));
        const char *action = task_action(task);

        if (!vm || !strcmp(json_text(vm, "uid"), reservation->except))
                return;
        if (!strcmp(action, "vm.migrate-disks"))
                reserve_moved(reservation, task, vm);
        else if (!strcmp(action, "vm.migrate"))
                reserve_along(reservation, task, vm);
        else if (!strcmp(action, "vm.create"))
                reserve_created(reservation, task, vm);
}

json_t *datastores_reserved(struct manager *manager, const json_t *except)
{
        _cleanup_json_ json_t *datastores = NULL;
        struct reservation reservation = {.manager = manager, .except = json_text(except, "uid")};

        if (inventory_objects(manager->inventory, "datastore", &datastores, NULL) < 0)
                return NULL;
        reservation.datastores = datastores;
        reservation.sums = json_object();
        if (!reservation.sums)
                return NULL;
        task_each(manager->tasks, reserve_task, &reservation);
        if (reservation.result < 0)
                json_decref(TAKE_PTR(reservation.sums));
        return reservation.sums;
}

/* --- Facts ---------------------------------------------------------------------------------------------------- */

/* Over all hosts that have it and answer. */
struct totals {
        bool any;
        uint64_t capacity_bytes, free_bytes, provisioned_bytes, reserved_bytes;
        double latency_ms, write_bytes_per_s, read_bytes_per_s;
        const char *file_system;
};

static double slower(double a, double b)
{
        return a <= 0 || (b > 0 && b < a) ? b : a;
}

/* A shared one is the same for all, and what the most pessimistic host says counts. */
static void add_place(struct totals *totals, const struct datastore_place *place)
{
        if (place->host) {
                totals->capacity_bytes += place->capacity_bytes;
                totals->free_bytes += place->free_bytes;
                totals->provisioned_bytes += place->provisioned_bytes;
                totals->reserved_bytes += place->reserved_bytes;
        } else {
                totals->capacity_bytes = totals->any ? MIN(totals->capacity_bytes, place->capacity_bytes)
                                                     : place->capacity_bytes;
                totals->free_bytes =
                        totals->any ? MIN(totals->free_bytes, place->free_bytes) : place->free_bytes;
                totals->provisioned_bytes = place->provisioned_bytes;
                totals->reserved_bytes = place->reserved_bytes;
        }
        totals->latency_ms = MAX(totals->latency_ms, place->latency_ms);
        totals->write_bytes_per_s = slower(totals->write_bytes_per_s, place->write_bytes_per_s);
        totals->read_bytes_per_s = slower(totals->read_bytes_per_s, place->read_bytes_per_s);
        totals->file_system = totals->any && strcmp(totals->file_system, place->file_system) != 0
                                      ? "several"
                                      : place->file_system;
        totals->any = true;
}

static json_t *integer_or_null(bool known, double value)
{
        return known ? json_integer((json_int_t)value) : json_null();
}

static int put_totals(json_t *status, const struct totals *totals)
{
        _cleanup_json_ json_t *facts = json_pack("{s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:s?}",
                "capacity_bytes", integer_or_null(totals->any, (double)totals->capacity_bytes), "free_bytes",
                integer_or_null(totals->any, (double)totals->free_bytes), "provisioned_bytes",
                (json_int_t)totals->provisioned_bytes, "reserved_bytes", (json_int_t)totals->reserved_bytes,
                "latency_ms", totals->latency_ms > 0 ? json_real(totals->latency_ms) : json_null(),
                "write_bytes_per_s",
                integer_or_null(totals->write_bytes_per_s > 0, totals->write_bytes_per_s), "read_bytes_per_s",
                integer_or_null(totals->read_bytes_per_s > 0, totals->read_bytes_per_s), "file_system",
                totals->file_system);

        return facts ? json_object_update(status, facts) : -ENOMEM;
}

/* What one host says of it, in the document. item: of its live document. */
static int put_host(json_t *hosts, const char *name, const json_t *item, const struct datastore_place *place)
{
        _cleanup_json_ json_t *said = json_copy((json_t *)item);
        json_t *asked = json_object_get(json_object_get(hosts, name), "asked");

        if (!said || (asked && json_object_set(said, "asked", asked) < 0) ||
                (place->host && (json_object_set_new(said, "provisioned_bytes",
                                         json_integer((json_int_t)place->provisioned_bytes)) < 0 ||
                                        json_object_set_new(said, "reserved_bytes",
                                                json_integer((json_int_t)place->reserved_bytes)) < 0)))
                return -ENOMEM;
        return json_object_set(hosts, name, said);
}

json_t *datastores_with_facts(struct manager *manager, const json_t *datastore, const json_t *reserved)
{
        _cleanup_json_ json_t *doc = json_deep_copy(datastore),
                              *live = inventory_live_hosts(manager->inventory);
        json_t *status = json_status(doc), *hosts = json_object_get(status, "hosts"), *host;
        const json_t *provisioned = inventory_provisioned(manager->inventory);
        struct totals totals = {};
        size_t i;

        if (!doc || !live || !provisioned || !json_is_object(hosts))
                return NULL;
        json_array_foreach (live, i, host) {
                struct datastore_place place = datastore_place_of(datastore, host, provisioned, reserved);

                if (!place.there)
                        continue;
                if (put_host(hosts, json_text(host, "name"),
                            json_named(json_object_get(json_status(host), "datastores"), place.name),
                            &place) < 0)
                        return NULL;
                if (place.works)
                        add_place(&totals, &place);
        }
        if (!totals.any) {
                struct datastore_place place = datastore_place_of(datastore, NULL, provisioned, reserved);

                totals.provisioned_bytes = place.provisioned_bytes;
                totals.reserved_bytes = place.reserved_bytes;
        }
        return put_totals(status, &totals) < 0 ? NULL : TAKE_PTR(doc);
}

/* --- Placement ------------------------------------------------------------------------------------------------ */

int datastores_facts_load(struct manager *manager, const json_t *vm, struct datastores_facts *ret_facts,
        struct error **ret_error)
{
        const json_t *host = inventory_host(manager->inventory, json_text(json_status(vm), "host"));
        struct datastores_facts facts = {.vm = vm,
                .host = host ? inventory_live(manager->inventory, json_text(host, "uid")) : NULL,
                .provisioned = inventory_provisioned(manager->inventory)};
        int r = inventory_objects(manager->inventory, "datastore", &facts.datastores, ret_error);

        if (r < 0)
                return r;
        facts.reserved = datastores_reserved(manager, vm);
        if (!facts.reserved || !facts.provisioned) {
                datastores_facts_deinit(&facts);
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        *ret_facts = facts;
        return 0;
}

void datastores_facts_deinit(struct datastores_facts *facts)
{
        json_decref(facts->datastores);
        json_decref(facts->reserved);
}

struct disk_placement_input datastores_facts_input(const struct datastores_facts *facts)
{
        return (struct disk_placement_input){.vm = facts->vm,
                .host = facts->host,
                .datastores = facts->datastores,
                .provisioned = facts->provisioned,
                .reserved = facts->reserved};
}
