/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/migration_shares.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/map.h"
#include "cluster/bandwidth.h"
#include "cluster/checks.h"
#include "cluster/queue.h"
#include "manager/json.h"
#include "manager/manager.h"

struct gathering {
        struct manager *manager;
        const struct task *wanted;
        struct bandwidth_flow *flows;
        size_t n_flows;
        size_t own; /* flow of the task that is wanted */
        uint64_t *links_bps;
        size_t n_links;
        struct map links; /* host uid -> number + 1 */
        int result;
};

static size_t link_of(struct gathering *g, const char *host_uid)
{
        uintptr_t known = (uintptr_t)map_get(&g->links, host_uid);
        uint64_t *grown;

        if (known)
                return (size_t)known - 1;
        grown = alloc_resize(g->links_bps, g->n_links + 1, sizeof(*grown));
        if (!grown || map_put(&g->links, host_uid, (void *)(uintptr_t)(g->n_links + 1), NULL) < 0) {
                g->links_bps = grown ?: g->links_bps;
                g->result = -ENOMEM;
                return 0;
        }
        g->links_bps = grown;
        g->links_bps[g->n_links] = checks_link_bps(inventory_host(g->manager->inventory, host_uid));
        return g->n_links++;
}

static json_int_t asked_for(const struct task *task, const char *key)
{
        return MAX(json_integer_value(json_object_get(task_input(task), key)), 0);
}

static void gather(void *userdata, const struct task *task)
{
        struct gathering *g = userdata;
        const char *from = json_text(task_data(task), "host_uid"), *to = json_text(task_data(task), "to_uid");
        enum queue_priority priority = QUEUE_NORMAL;
        struct bandwidth_flow *grown;

        if (g->result < 0 || strcmp(task_action(task), "vm.migrate") || !task_running(task) || !*from || !*to)
                return;
        grown = alloc_resize(g->flows, g->n_flows + 1, sizeof(*grown));
        if (!grown) {
                g->result = -ENOMEM;
                return;
        }
        g->flows = grown;
        (void)queue_priority_from_string(task_priority(task), &priority);
        if (task == g->wanted)
                g->own = g->n_flows;
        g->flows[g->n_flows++] = (struct bandwidth_flow){
                .links = {link_of(g, from), link_of(g, to)},
                .weight = queue_priority_weight(priority),
                .min_bps = (uint64_t)asked_for(task, "min_bandwidth_bps"),
        };
}

json_int_t migration_share_bps(struct manager *manager, const struct task *task)
{
        struct gathering g = {.manager = manager, .wanted = task, .own = SIZE_MAX};
        json_int_t own = asked_for(task, "rate_limit_bps"), share = 0;

        map_init(&g.links);
        task_each(manager->tasks, gather, &g);
        if (g.result == 0 && bandwidth_share(g.links_bps, g.n_links, g.flows, g.n_flows) == 0 &&
                g.own < g.n_flows)
                share = (json_int_t)g.flows[g.own].limit_bps;
        free(g.flows);
        free(g.links_bps);
        map_deinit(&g.links);
        return own && (!share || own < share) ? own : share;
}
