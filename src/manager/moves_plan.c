/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/moves_plan.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cluster/evacuation.h"
#include "manager/api_scan.h"
#include "manager/check_facts.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/moves.h"
#include "manager/operations.h"

#define CLOSED_MS 5 /* others have the loop's time at the moment */

/* What is said of a VM; texts are borrowed. */
struct line {
        const char *outcome, *to, *why;
};

struct moves_plan {
        struct api_scan base;
        char *to; /* NULL: the best ones */
        struct evacuation_policy policy;
        json_t *vms; /* documents, in their order */
        size_t n_done;
        json_t *lines, *settled, *reserved;
        char *reopening; /* NULL: nothing that is closed counts as open */
        json_t *resumes; /* {uid: the host on which it is not to be resumed, or null} */
};

/* What the policy would come to for one that fits nowhere now; N_EVACUATION_FALLBACKS: it stays. */
static enum evacuation_fallback planned_fallback(const struct evacuation_policy *policy)
{
        for (size_t i = 0; i < policy->n; i++)
                if (policy->steps[i].fallback != EVACUATION_OTHER_HOST)
                        return policy->steps[i].fallback;
        return N_EVACUATION_FALLBACKS;
}

static const char *outcome_of(enum evacuation_fallback fallback)
{
        static const char *const planned[] = {[EVACUATION_WAIT] = "would-wait",
                [EVACUATION_SUSPEND] = "would-suspend",
                [EVACUATION_STOP] = "would-stop",
                [EVACUATION_POWER_OFF] = "would-power-off",
                [N_EVACUATION_FALLBACKS] = "would-stay"};

        return planned[fallback];
}

static void plan_free(struct api_scan *base)
{
        struct moves_plan *plan = CONTAINER_OF(base, struct moves_plan, base);

        free(plan->to);
        free(plan->reopening);
        json_decref(plan->vms);
        json_decref(plan->lines);
        json_decref(plan->settled);
        json_decref(plan->reserved);
        json_decref(plan->resumes);
        free(plan);
}

void moves_plan_free(struct moves_plan *plan)
{
        if (plan)
                plan_free(&plan->base);
}

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static json_t *line_of(const json_t *vm, const struct line *line)
{
        return json_pack("{s:s, s:s, s:s?, s:s?, s:[]}", "vm", json_text(vm, "name"), "outcome",
                line->outcome, "to", line->to, "why", line->why, "tries");
}

/* Where it would be resumed: the plan's own host if that takes it. *ret_report has what the line borrows. */
static int plan_resumption(struct moves_plan *plan, const json_t *vm, const char *except, struct line *line,
        json_t **ret_report, struct error **ret_error)
{
        json_t *host;
        size_t i;
        int r = operation_resume_check(plan->base.manager, vm, except, NULL,
                &(struct check_assumptions){.reserved = plan->reserved, .reopening = plan->reopening},
                ret_report, ret_error);

        if (r < 0)
                return r;
        line->to = NULL;
        line->why = json_text_or_null(*ret_report, "why");
        json_array_foreach (json_object_get(*ret_report, "hosts"), i, host)
                if (!line->to || (plan->to && !strcmp(json_string_value(host), plan->to)))
                        line->to = json_string_value(host);
        return 0;
}

/* One that is to be suspended to leave its host. One that is paused would run if it were resumed. */
static int plan_suspension(struct moves_plan *plan, const json_t *vm, struct line *line, json_t **ret_report,
        struct error **ret_error)
{
        int r;

        if (!strcmp(json_text(json_status(vm), "power"), "paused"))
                return 0;
        r = plan_resumption(plan, vm, json_text(json_status(vm), "host"), line, ret_report, ret_error);
        if (r >= 0 && line->to)
                line->outcome = "would-move-cold";
        return r;
}

static int plan_move(struct moves_plan *plan, const json_t *vm, struct line *line, json_t **ret_report,
        json_t **ret_resumption, struct error **ret_error)
{
        enum evacuation_fallback fallback = planned_fallback(&plan->policy);
        int r = operation_migrate_plan(plan->base.manager, vm, plan->to,
                &(struct check_assumptions){.reserved = plan->reserved, .reopening = plan->reopening},
                ret_report, ret_error);

        if (r < 0)
                return r;
        if (json_is_true(json_object_get(*ret_report, "ok"))) {
                *line = (struct line){"would-move", json_text(*ret_report, "to"), NULL};
                return 0;
        }
        if (!strcmp(json_text(json_status(vm), "power"), "unknown"))
                fallback = N_EVACUATION_FALLBACKS;
        *line = (struct line){
                outcome_of(fallback), NULL, moves_first_cause(json_object_get(*ret_report, "checks"))};
        return fallback == EVACUATION_SUSPEND ? plan_suspension(plan, vm, line, ret_resumption, ret_error)
                                              : 0;
}

/* One that was suspended by this maintenance: by its end it is resumed, before that moved cold if some host takes it. */
static int plan_suspended(struct moves_plan *plan, const json_t *vm, struct line *line,
        json_t **ret_resumption, struct error **ret_error)
{
        const char *except = json_string_value(json_object_get(plan->resumes, json_text(vm, "uid")));
        int r = plan_resumption(plan, vm, except, line, ret_resumption, ret_error);

        if (line->to)
                line->outcome = except ? "would-move-cold" : "would-resume";
        else
                line->outcome = outcome_of(except ? EVACUATION_SUSPEND : planned_fallback(&plan->policy));
        return r;
}

static int plan_one(struct moves_plan *plan, const json_t *vm, struct error **ret_error)
{
        _cleanup_json_ json_t *report = NULL, *resumption = NULL;
        struct line line = {"off"};
        const json_t *target;
        int r = 0;

        if (json_object_get(plan->resumes, json_text(vm, "uid")))
                r = plan_suspended(plan, vm, &line, &resumption, ret_error);
        else if (plan->to && !moves_is_off(vm) && !strcmp(json_text(json_status(vm), "host"), plan->to))
                line.outcome = "there";
        else if (!moves_is_off(vm))
                r = plan_move(plan, vm, &line, &report, &resumption, ret_error);
        if (r < 0)
                return r;
        target = line.to ? inventory_host(plan->base.manager->inventory, line.to) : NULL;
        if (target && check_facts_reserve(plan->reserved, target, vm) < 0)
                r = -ENOMEM;
        r |= json_array_append_new(plan->lines, line_of(vm, &line));
        return r < 0 ? no_memory(ret_error) : 0;
}

static int step(struct api_scan *base, struct error **ret_error)
{
        struct moves_plan *plan = CONTAINER_OF(base, struct moves_plan, base);
        struct loop_share *share = &base->manager->share;
        uint64_t began_ns = clock_monotonic_ns();
        int r;

        if (plan->n_done < json_array_size(plan->vms)) {
                if (!loop_share_open(share, plan)) {
                        base->wait_ms = CLOSED_MS;
                        return 1;
                }
                r = plan_one(plan, json_array_get(plan->vms, plan->n_done++), ret_error);
                loop_share_spend(share, clock_monotonic_ns() - began_ns);
                return r < 0 ? r : 1;
        }
        if (json_array_extend(plan->lines, plan->settled) < 0)
                return no_memory(ret_error);
        http_request_reply_json(
                TAKE_PTR(base->request), 200, json_pack("{s:b, s:O}", "dry_run", 1, "vms", plan->lines));
        return 0;
}

int moves_plan_new(const json_t **vms, size_t n, const char *to, const json_t *policy,
        struct moves_plan **ret_plan, struct error **ret_error)
{
        _cleanup_(moves_plan_freep) struct moves_plan *plan = ALLOC(struct moves_plan);
        int r;

        if (!plan)
                return no_memory(ret_error);
        plan->base.step = step;
        plan->base.free = plan_free;
        plan->to = to ? alloc_strdup(to) : NULL;
        plan->vms = json_array();
        plan->lines = json_array();
        plan->settled = json_array();
        plan->reserved = json_object();
        plan->resumes = json_object();
        r = evacuation_policy_read(policy, true, &plan->policy, ret_error);
        if (r < 0)
                return r;
        if ((to && !plan->to) || !plan->vms || !plan->lines || !plan->settled || !plan->reserved ||
                !plan->resumes)
                return no_memory(ret_error);
        evacuation_sort(vms, n);
        for (size_t i = 0; i < n; i++)
                if (json_array_append(plan->vms, (json_t *)vms[i]) < 0)
                        return no_memory(ret_error);
        *ret_plan = TAKE_PTR(plan);
        return 0;
}

int moves_plan_reopens(struct moves_plan *plan, const char *task)
{
        return alloc_replace(&plan->reopening, task);
}

int moves_plan_resumes(struct moves_plan *plan, const json_t *vm, const char *except)
{
        json_t *value = except ? json_string(except) : json_null();

        return json_object_set_new(plan->resumes, json_text(vm, "uid"), value) < 0 ? -ENOMEM : 0;
}

int moves_plan_add_settled(struct moves_plan *plan, const json_t *vm, const char *outcome, const char *to)
{
        return json_array_append_new(plan->settled, line_of(vm, &(struct line){outcome, to, NULL})) < 0
                       ? -ENOMEM
                       : 0;
}

void moves_plan_reply(struct moves_plan *plan, struct http_request *request, struct manager *manager)
{
        struct error *error = NULL;

        if (api_scan_begin(&plan->base, request, manager, &error) >= 0)
                return;
        moves_plan_free(plan);
        http_request_reply_error(request, error);
}
