/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/check_facts.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "manager/datastores.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/pools.h"

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
        if (!strcmp(action, "vm.start") || !strcmp(action, "vm.create") || !strcmp(action, "vm.resume"))
                return json_text(task_data(task), "host_uid");
        return "";
}

bool check_facts_brings_memory(const struct manager *manager, const struct task *task,
        const char **ret_host_uid, const json_t **ret_vm)
{
        const char *uid = json_text(task_data(task), "vm_uid"), *to = destination_of(task);
        const json_t *vm = inventory_vm(manager->inventory, uid);

        if (!*to || !vm || inventory_counts_memory(manager->inventory, to, uid) ||
                (!strcmp(task_action(task), "vm.create") &&
                        !json_is_true(json_object_get(task_data(task), "start"))))
                return false;
        *ret_host_uid = to;
        *ret_vm = vm;
        return true;
}

static int add_to(json_t *sums, const char *key, json_int_t more)
{
        return json_object_set_new(
                sums, key, json_integer(json_integer_value(json_object_get(sums, key)) + more));
}

static int reserve(struct collection *collection, const struct task *task)
{
        const char *host_uid = NULL;
        const json_t *vm = NULL;
        json_int_t cpus;
        json_t *sums;

        if (!check_facts_brings_memory(collection->manager, task, &host_uid, &vm))
                return 0;
        sums = json_object_get(collection->reserved, host_uid);
        if (!sums) {
                sums = json_object();
                if (json_object_set_new(collection->reserved, host_uid, sums) < 0)
                        return -ENOMEM;
        }
        cpus = json_integer_value(json_object_get(json_spec(vm), "cpus"));
        return add_to(sums, "memory_bytes", checks_memory_need(vm)) |
               add_to(sums, "cpus", cpus > 0 ? cpus : 1);
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
        if (!doc || json_array_append_new(collection->tasks, doc) < 0 || reserve(collection, task) < 0)
                collection->result = -ENOMEM;
}

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static int load_wanted(struct manager *manager, struct check_facts *facts, struct error **ret_error)
{
        const struct {
                const char *kind;
                json_t **docs;
        } kinds[] = {{"datastore", &facts->datastores}, {"switch", &facts->switches},
                {"port-group", &facts->port_groups}, {"affinity-rule", &facts->affinity_rules}};
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(kinds); i++)
                r = inventory_objects(manager->inventory, kinds[i].kind, kinds[i].docs, ret_error);
        return r;
}

static int add_host(struct manager *manager, const char *name_or_uid, json_t *cpus, json_t *hosts)
{
        const json_t *host = inventory_live(manager->inventory, name_or_uid);
        const json_t *cpu = host ? inventory_cpu(manager->inventory, json_text(host, "uid")) : NULL;

        if (cpu && json_object_set(cpus, json_text(host, "uid"), (json_t *)cpu) < 0)
                return -ENOMEM;
        return hosts && host && json_array_append(hosts, (json_t *)host) < 0 ? -ENOMEM : 0;
}

/* Of two hosts, of which `hosts` gets only the one that is gone to; false without memory. */
static bool load_two_hosts(
        struct manager *manager, const char *from, const char *to, struct check_facts *facts)
{
        facts->hosts = json_array();
        facts->cpus = json_object();
        return facts->hosts && facts->cpus && add_host(manager, to, facts->cpus, facts->hosts) >= 0 &&
               add_host(manager, from, facts->cpus, NULL) >= 0;
}

static bool load_all_hosts(struct manager *manager, struct check_facts *facts)
{
        facts->hosts = inventory_live_hosts(manager->inventory);
        facts->cpus = inventory_cpus(manager->inventory);
        return facts->hosts && facts->cpus;
}

/* What is the same for all VMs, beside the hosts. */
static int load_cluster(struct manager *manager, const struct task *asking, struct check_facts *facts,
        struct error **ret_error)
{
        struct collection collection = {.manager = manager, .asking = asking};

        facts->tasks = collection.tasks = json_array();
        facts->reserved = collection.reserved = json_object();
        facts->nowhere = json_object();
        if (!facts->tasks || !facts->reserved || !facts->nowhere)
                return no_memory(ret_error);
        task_each(manager->tasks, collect_task, &collection);
        return collection.result < 0 ? no_memory(ret_error) : load_wanted(manager, facts, ret_error);
}

/* The others that a rule names with the VM. */
static int add_members(
        const struct inventory *inventory, const json_t *rule, const char *vm_name, json_t *vms, json_t *seen)
{
        const json_t *names = json_object_get(json_spec(rule), "vms");
        json_t *name;
        size_t i;

        if (!doc_has_string(names, vm_name))
                return 0;
        json_array_foreach ((json_t *)names, i, name) {
                const json_t *vm = inventory_vm_named(inventory, json_string_value(name));

                if (!vm || json_object_get(seen, json_string_value(name)))
                        continue;
                if (json_object_set_new(seen, json_string_value(name), json_true()) < 0 ||
                        json_array_append(vms, (json_t *)vm) < 0)
                        return -ENOMEM;
        }
        return 0;
}

/* Of thousands of VMs those that the checks could find something about: the others look the same to them as none. */
static json_t *vms_about(struct manager *manager, const struct check_facts *facts, const json_t *vm)
{
        _cleanup_json_ json_t *vms = inventory_vms_beside(manager->inventory, vm), *seen = json_object();
        json_t *rule;
        size_t i;

        if (!vms || !seen)
                return NULL;
        json_array_foreach (facts->affinity_rules, i, rule)
                if (add_members(manager->inventory, rule, json_text(vm, "name"), vms, seen) < 0)
                        return NULL;
        return TAKE_PTR(vms);
}

static int load_vm(struct manager *manager, const json_t *vm, bool moves, struct check_facts *facts,
        struct error **ret_error)
{
        const char *host = json_text(json_status(vm), "host");
        const json_t *its_host = *host ? inventory_live(manager->inventory, host) : NULL;

        facts->vm = json_incref((json_t *)vm);
        facts->vms = vms_about(manager, facts, vm);
        if (!facts->vms)
                return no_memory(ret_error);
        if (moves)
                facts->source = its_host ?: facts->nowhere;
        else
                facts->home = its_host;
        facts->its_host = json_incref((json_t *)its_host);
        facts->jobs = json_incref(json_object_get(
                inventory_report(manager->inventory, json_text(its_host, "uid"), json_text(vm, "uid")),
                "jobs"));
        return moves ? 0 : pools_about(manager, vm, &facts->pools, ret_error);
}

/* The cancelled maintenance for which the task works, or NULL: what that has taken away from its host it may give back, before the host
 * is open. Where the host was closed before, it stays so. */
static const char *reopening_of(struct manager *manager, const struct task *task)
{
        const struct task *parent =
                task ? task_find(manager->tasks, json_text(task_data(task), "parent")) : NULL;

        if (parent)
                task = parent;
        return task && !strcmp(task_action(task), "host.maintenance") && task_cancel_requested(task) &&
                               json_is_null(json_object_get(task_data(task), "before"))
                       ? task_name(task)
                       : NULL;
}

/* to: the only host that it may go to; NULL: any. */
static int load_facts(struct manager *manager, const json_t *vm, bool moves, const char *to,
        const struct task *asking, struct check_facts *ret_facts, struct error **ret_error)
{
        _cleanup_check_facts_ struct check_facts facts = {};
        const char *from = json_text(json_status(vm), "host");
        int r;

        if (to ? !load_two_hosts(manager, from, to, &facts) : !load_all_hosts(manager, &facts))
                return no_memory(ret_error);
        r = load_cluster(manager, asking, &facts, ret_error);
        if (r >= 0)
                r = load_vm(manager, vm, moves, &facts, ret_error);
        if (r < 0)
                return r;
        if (asking && !strcmp(task_action(asking), "vm.create")) {
                facts.reserved_disks = datastores_reserved(manager, vm);
                facts.provisioned = inventory_provisioned(manager->inventory);
                if (!facts.reserved_disks || !facts.provisioned)
                        return no_memory(ret_error);
        }
        facts.asking = asking ? task_name(asking) : NULL;
        facts.reopening = reopening_of(manager, asking);
        *ret_facts = facts;
        facts = (struct check_facts){};
        return 0;
}

int check_facts_load(struct manager *manager, const json_t *vm, bool moves, const struct task *asking,
        struct check_facts *ret_facts, struct error **ret_error)
{
        return load_facts(manager, vm, moves, NULL, asking, ret_facts, ret_error);
}

int check_facts_load_move(struct manager *manager, const json_t *vm, const char *to,
        const struct task *asking, struct check_facts *ret_facts, struct error **ret_error)
{
        return load_facts(manager, vm, true, to, asking, ret_facts, ret_error);
}

int check_facts_load_cluster(struct manager *manager, struct check_facts *ret_facts, struct error **ret_error)
{
        _cleanup_check_facts_ struct check_facts facts = {};
        int r;

        if (!load_all_hosts(manager, &facts))
                return no_memory(ret_error);
        r = load_cluster(manager, NULL, &facts, ret_error);
        if (r < 0)
                return r;
        *ret_facts = facts;
        facts = (struct check_facts){};
        return 0;
}

int check_facts_of(struct manager *manager, const struct check_facts *cluster, const json_t *vm,
        const struct task *asking, struct check_facts *ret_facts, struct error **ret_error)
{
        _cleanup_check_facts_ struct check_facts facts = {.hosts = json_incref(cluster->hosts),
                .tasks = json_incref(cluster->tasks),
                .reserved = json_incref(cluster->reserved),
                .datastores = json_incref(cluster->datastores),
                .switches = json_incref(cluster->switches),
                .port_groups = json_incref(cluster->port_groups),
                .affinity_rules = json_incref(cluster->affinity_rules),
                .cpus = json_incref(cluster->cpus),
                .nowhere = json_incref(cluster->nowhere),
                .asking = task_name(asking)};
        int r = load_vm(manager, vm, true, &facts, ret_error);

        if (r < 0)
                return r;
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
        json_decref(facts->pools);
        json_decref(facts->cpus);
        json_decref(facts->nowhere);
        json_decref(facts->its_host);
        json_decref(facts->jobs);
        json_decref(facts->reserved_disks);
}

static int add_reserved(json_t *sums, const json_t *more)
{
        const char *uid;
        json_t *item;

        json_object_foreach ((json_t *)more, uid, item) {
                json_t *sum = json_object_get(sums, uid);

                if (!sum) {
                        sum = json_object();
                        if (json_object_set_new(sums, uid, sum) < 0)
                                return -ENOMEM;
                }
                if (add_to(sum, "memory_bytes", json_integer_value(json_object_get(item, "memory_bytes"))) <
                                0 ||
                        add_to(sum, "cpus", json_integer_value(json_object_get(item, "cpus"))) < 0)
                        return -ENOMEM;
        }
        return 0;
}

int check_facts_assume(struct check_facts *facts, const struct check_assumptions *assumptions)
{
        if (!assumptions)
                return 0;
        if (assumptions->reopening)
                facts->reopening = assumptions->reopening;
        return add_reserved(facts->reserved, assumptions->reserved);
}

int check_facts_reserve(json_t *reserved, const json_t *host, const json_t *vm)
{
        const char *uid = json_text(host, "uid");
        json_t *sums = json_object_get(reserved, uid);
        json_int_t bytes = json_integer_value(json_object_get(sums, "memory_bytes")) + checks_memory_need(vm),
                   cpus = json_integer_value(json_object_get(sums, "cpus")) +
                          MAX(json_integer_value(json_object_get(json_spec(vm), "cpus")), 1);

        return json_object_set_new(
                       reserved, uid, json_pack("{s:I, s:I}", "memory_bytes", bytes, "cpus", cpus)) < 0
                       ? -ENOMEM
                       : 0;
}

struct checks_input check_facts_input(const struct check_facts *facts)
{
        return (struct checks_input){.vm = facts->vm,
                .source = facts->source,
                .home = facts->home,
                .vms = facts->vms,
                .jobs = facts->jobs,
                .tasks = facts->tasks,
                .asking = facts->asking,
                .reopening = facts->reopening,
                .reserved = facts->reserved,
                .creates = facts->reserved_disks != NULL,
                .provisioned = facts->provisioned,
                .reserved_disks = facts->reserved_disks,
                .datastores = facts->datastores,
                .switches = facts->switches,
                .port_groups = facts->port_groups,
                .affinity_rules = facts->affinity_rules,
                .pools = facts->pools,
                .hosts = facts->hosts,
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
