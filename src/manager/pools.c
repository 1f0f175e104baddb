/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/pools.h"

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "cluster/checks.h"
#include "cluster/pool.h"
#include "manager/json.h"
#include "manager/manager.h"

struct count {
        const struct manager *manager;
        const char *pool, *except;
        json_t *use;
        int result;
};

static void count_vm(struct count *count, const json_t *vm)
{
        if (!count->except || strcmp(json_text(vm, "uid"), count->except) != 0)
                if (pool_add_use(count->use, vm) < 0)
                        count->result = -ENOMEM;
}

static bool starts_one(const struct task *task)
{
        const json_t *data = task_data(task);

        if (!*json_text(data, "host_uid"))
                return false;
        return !strcmp(task_action(task), "vm.start") || !strcmp(task_action(task), "vm.resume") ||
               (!strcmp(task_action(task), "vm.create") && json_is_true(json_object_get(data, "start")));
}

/* As soon as it is live by its document it is counted by that. */
static void count_task(void *userdata, const struct task *task)
{
        struct count *count = userdata;
        const json_t *vm;

        if (!starts_one(task))
                return;
        vm = inventory_vm(count->manager->inventory, json_text(task_data(task), "vm_uid"));
        if (vm && !checks_is_live(vm) && !strcmp(pool_of(vm), count->pool))
                count_vm(count, vm);
}

json_t *pools_with_use(const struct manager *manager, const json_t *pool, const char *except)
{
        const char *name = json_text(pool, "name");
        _cleanup_json_ json_t *vms = inventory_vms_of_pool(manager->inventory, name), *use = pool_no_use(),
                              *doc = json_copy((json_t *)pool);
        struct count count = {.manager = manager, .pool = name, .except = except, .use = use};
        json_t *vm;
        size_t i;

        if (!vms || !use || !doc)
                return NULL;
        json_array_foreach (vms, i, vm)
                if (checks_is_live(vm))
                        count_vm(&count, vm);
        task_each(manager->tasks, count_task, &count);
        if (count.result < 0 || json_object_set_new(doc, "status", json_pack("{s:O}", "used", use)) < 0)
                return NULL;
        return TAKE_PTR(doc);
}

int pools_about(struct manager *manager, const json_t *vm, json_t **ret_pools, struct error **ret_error)
{
        _cleanup_json_ json_t *all = NULL, *about = json_array();
        json_t *pool;
        size_t i;
        int r = about ? inventory_objects(manager->inventory, "pool", &all, ret_error)
                      : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");

        if (r < 0)
                return r;
        json_array_foreach (all, i, pool) {
                if (strcmp(json_text(pool, "name"), pool_of(vm)) != 0 &&
                        !pool_reserved_bytes(json_spec(pool)))
                        continue;
                if (json_array_append_new(about, pools_with_use(manager, pool, json_text(vm, "uid"))) < 0)
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        *ret_pools = TAKE_PTR(about);
        return 0;
}
