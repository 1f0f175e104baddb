/* SPDX-License-Identifier: Apache-2.0 */

/* A dry run of the evacuation of a datastore: one virtual machine after the other, each with those before it where they would be. */

#include <errno.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "manager/api_scan.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/moves_disks.h"

#define CLOSED_MS 5 /* others have the loop's time at the moment */

struct plan {
        struct api_scan base;
        char *datastore;
        json_t *vms; /* documents, in their order */
        size_t n_done;
        json_t *lines, *reserved;
};

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static void plan_free(struct api_scan *base)
{
        struct plan *plan = CONTAINER_OF(base, struct plan, base);

        free(plan->datastore);
        json_decref(plan->vms);
        json_decref(plan->lines);
        json_decref(plan->reserved);
        free(plan);
}

static int add_line(struct plan *plan, const json_t *vm, const char *outcome, const char *to, const char *why)
{
        return json_array_append_new(
                       plan->lines, json_pack("{s:s, s:s, s:s?, s:s?, s:[]}", "vm", json_text(vm, "name"),
                                            "outcome", outcome, "to", to, "why", why, "tries")) < 0
                       ? -ENOMEM
                       : 0;
}

static int plan_one(struct plan *plan, const json_t *vm)
{
        _cleanup_free_ char *rest = moves_disks_remainder(vm, plan->datastore), *to = NULL, *why = NULL;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *choice = NULL;

        if (!rest)
                return -ENOMEM;
        why = *rest ? alloc_printf("%s cannot be moved by this", rest) : NULL;
        if (!moves_disks_has_movable(vm, plan->datastore))
                return add_line(plan, vm, "files-stay", NULL, why);
        if (moves_disks_choose(
                    plan->base.manager, vm, plan->datastore, NULL, plan->reserved, &choice, &error) < 0)
                return add_line(plan, vm, "would-wait", NULL, error_message(error));
        to = moves_disks_targets(choice);
        return to ? add_line(plan, vm, "would-move", to, why) : -ENOMEM;
}

static int step(struct api_scan *base, struct error **ret_error)
{
        struct plan *plan = CONTAINER_OF(base, struct plan, base);
        struct loop_share *share = &base->manager->share;
        uint64_t began_ns = clock_monotonic_ns();
        int r;

        if (plan->n_done < json_array_size(plan->vms)) {
                if (!loop_share_open(share, plan)) {
                        base->wait_ms = CLOSED_MS;
                        return 1;
                }
                r = plan_one(plan, json_array_get(plan->vms, plan->n_done++));
                loop_share_spend(share, clock_monotonic_ns() - began_ns);
                return r < 0 ? no_memory(ret_error) : 1;
        }
        http_request_reply_json(
                TAKE_PTR(base->request), 200, json_pack("{s:b, s:O}", "dry_run", 1, "vms", plan->lines));
        return 0;
}

static struct plan *plan_new(struct manager *manager, const char *datastore)
{
        _cleanup_json_ json_t *vms = inventory_vms(manager->inventory);
        _cleanup_free_ const json_t **found = NULL;
        struct plan *plan = ALLOC(struct plan);
        size_t n = 0;
        int r = plan ? moves_disks_find(vms, datastore, &found, &n) : -ENOMEM;

        if (!plan)
                return NULL;
        plan->base.step = step;
        plan->base.free = plan_free;
        plan->datastore = alloc_strdup(datastore);
        plan->vms = json_array();
        plan->lines = json_array();
        plan->reserved = json_object();
        for (size_t i = 0; i < n && r == 0; i++)
                r = json_array_append(plan->vms, (json_t *)found[i]);
        if (r == 0 && plan->datastore && plan->vms && plan->lines && plan->reserved)
                return plan;
        plan_free(&plan->base);
        return NULL;
}

void moves_disks_plan_reply(struct http_request *request, struct manager *manager, const char *datastore)
{
        struct plan *plan = plan_new(manager, datastore);
        struct error *error = NULL;

        if (plan && api_scan_begin(&plan->base, request, manager, &error) >= 0)
                return;
        if (plan)
                plan_free(&plan->base);
        http_request_reply_error(request, error);
}
