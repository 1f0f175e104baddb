/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/check_facts.h"

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "manager/json.h"
#include "manager/manager.h"

struct collection {
        struct manager *manager;
        const struct task *asking;
        json_t *tasks, *reserved;
        int result;
};

/* Where the task brings its VM; "" for one that moves none. */
static const char *destination_of(const struct task *task)
{
        const char *action = task_action(task);

        if (!strcmp(action, "vm.migrate"))
                return json_text(task_data(task), "to_uid");
        if (!strcmp(action, "vm.start") || !strcmp(action, "vm.create"))
                return json_text(task_data(task), "host_uid");
        return "";
}

static int add_to(json_t *sums, const char *key, json_int_t more)
{
        return json_object_set_new(
                sums, key, json_integer(json_integer_value(json_object_get(sums, key)) + more));
}

/* The host counts the memory of those that have a QEMU there. */
static bool is_counted(const struct inventory *inventory, const char *host_uid, const char *vm_uid)
{
        const char *power = json_text(json_status(inventory_report(inventory, host_uid, vm_uid)), "power");

        return *power && strcmp(power, "stopped") && strcmp(power, "crashed");
}

static int reserve(struct collection *collection, const char *host_uid, const char *vm_uid)
{
        const json_t *vm = inventory_vm(collection->manager->inventory, vm_uid);
        json_int_t bytes = json_integer_value(json_object_get(json_status(vm), "memory_effective_bytes"));
        json_int_t cpus = json_integer_value(json_object_get(json_spec(vm), "cpus"));
        json_t *sums = json_object_get(collection->reserved, host_uid);

        if (!*host_uid || !vm || is_counted(collection->manager->inventory, host_uid, vm_uid))
                return 0;
        if (!sums) {
                sums = json_object();
                if (json_object_set_new(collection->reserved, host_uid, sums) < 0)
                        return -ENOMEM;
        }
        if (bytes <= 0)
                bytes = json_integer_value(json_object_get(json_spec(vm), "memory_bytes"));
        return add_to(sums, "memory_bytes", bytes) | add_to(sums, "cpus", cpus > 0 ? cpus : 1);
}

static void collect_task(void *userdata, const struct task *task)
{
        struct collection *collection = userdata;
        const json_t *data = task_data(task);
        const char *vm_uid = json_text_or_null(data, "vm_uid"), *to = destination_of(task);
        const json_t *host = inventory_host(collection->manager->inventory, to);
        json_t *doc;

        if (task == collection->asking)
                return;
        doc = json_pack("{s:s, s:s, s:s*, s:s*, s:s*}", "name", task_name(task), "action", task_action(task),
                "vm_uid", vm_uid, "host_uid", vm_uid ? NULL : json_text_or_null(data, "host_uid"), "to",
                json_text_or_null(host, "name"));
        if (!doc || json_array_append_new(collection->tasks, doc) < 0 ||
                (vm_uid && reserve(collection, to, vm_uid) < 0))
                collection->result = -ENOMEM;
}

static int load_wanted(struct manager *manager, struct check_facts *facts, struct error **ret_error)
{
        const struct {
                const char *kind;
                json_t **docs;
        } kinds[] = {{"datastore", &facts->datastores}, {"switch", &facts->switches},
                {"port-group", &facts->port_groups}, {"affinity-rule", &facts->affinity_rules}};

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                struct store_query query = {.kind = kinds[i].kind, .limit = STORE_LIMIT_NONE};
                int r = store_list(manager->store, &query, kinds[i].docs, NULL, ret_error);

                if (r < 0)
                        return r;
        }
        return 0;
}

int check_facts_load(struct manager *manager, const json_t *vm, bool moves, const struct task *asking,
        struct check_facts *ret_facts, struct error **ret_error)
{
        _cleanup_check_facts_ struct check_facts facts = {.vm = json_incref((json_t *)vm),
                .hosts = inventory_live_hosts(manager->inventory),
                .vms = inventory_vms(manager->inventory),
                .tasks = json_array(),
                .reserved = json_object(),
                .cpus = inventory_cpus(manager->inventory),
                .nowhere = json_object()};
        struct collection collection = {
                .manager = manager, .asking = asking, .tasks = facts.tasks, .reserved = facts.reserved};
        const char *host = json_text(json_status(vm), "host");
        const json_t *its_host;
        int r;

        if (!facts.hosts || !facts.vms || !facts.tasks || !facts.reserved || !facts.cpus || !facts.nowhere)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        task_each(manager->tasks, collect_task, &collection);
        if (collection.result < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = load_wanted(manager, &facts, ret_error);
        if (r < 0)
                return r;
        its_host = check_facts_host(&facts, host);
        if (moves)
                facts.source = its_host ?: facts.nowhere;
        else
                facts.home = its_host;
        facts.jobs = json_object_get(
                inventory_report(manager->inventory, json_text(its_host, "uid"), json_text(vm, "uid")),
                "jobs");
        *ret_facts = facts;
        facts = (struct check_facts){};
        return 0;
}

void check_facts_deinit(struct check_facts *facts)
{
        json_decref(facts->vm);
        json_decref(facts->hosts);
        json_decref(facts->vms);
        json_decref(facts->tasks);
        json_decref(facts->reserved);
        json_decref(facts->datastores);
        json_decref(facts->switches);
        json_decref(facts->port_groups);
        json_decref(facts->affinity_rules);
        json_decref(facts->cpus);
        json_decref(facts->nowhere);
}

struct checks_input check_facts_input(const struct check_facts *facts)
{
        return (struct checks_input){.vm = facts->vm,
                .source = facts->source,
                .home = facts->home,
                .vms = facts->vms,
                .jobs = facts->jobs,
                .tasks = facts->tasks,
                .reserved = facts->reserved,
                .datastores = facts->datastores,
                .switches = facts->switches,
                .port_groups = facts->port_groups,
                .affinity_rules = facts->affinity_rules,
                .cpus = facts->cpus};
}

const json_t *check_facts_host(const struct check_facts *facts, const char *name_or_uid)
{
        json_t *host;
        size_t i;

        json_array_foreach (facts->hosts, i, host)
                if (!strcmp(json_text(host, "name"), name_or_uid) ||
                        !strcmp(json_text(host, "uid"), name_or_uid))
                        return host;
        return NULL;
}
