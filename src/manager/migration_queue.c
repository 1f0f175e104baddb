/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/migration_queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/map.h"
#include "base/text.h"
#include "cluster/checks.h"
#include "cluster/placement.h"
#include "manager/check_facts.h"
#include "manager/forecasts.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/migration_costs.h"
#include "manager/migration_queue_private.h"
#include "manager/operations.h"

#define PLAN_MAX_AGE_MS 500
#define PLAN_MIN_AGE_MS 100
#define CHOICES_MAX 16 /* places that are looked at for one migration */
/* Ranking takes long in a large cluster: what came out is good for a while (the room at each place is looked at anew, and
 * the checks again when it is taken), and a plan takes only so long over it. */
#define RANKING_AGE_MS 10000
#define RANKING_BUDGET_MS 20
#define RANKING_AGAIN_MS 50 /* not all had their turn */

/* The places that a queued task may go to: the choices of its job. */
struct places {
        json_t *hosts; /* array of names, best first */
        uint64_t ranked_ms;
        uint64_t n_plan; /* that looked at it last */
};

static int load(struct migration_queue *queue, struct error **ret_error)
{
        _cleanup_json_ json_t *doc = NULL;
        int r;

        r = store_get(queue->manager->store, QUEUE_DOCUMENT_KIND, QUEUE_DOCUMENT_KIND, &doc, NULL);
        if (r < 0 && r != -ENOENT)
                return error_from_errno(ret_error, r, "cannot read whether the queue is drained");
        migration_queue_take_drained(queue, doc);
        return 0;
}

int migration_queue_set_drained(struct migration_queue *queue, bool drained, const char *by, const char *why,
        struct store_batch *batch, json_t **ret_change)
{
        _cleanup_json_ json_t *state = NULL;
        char since[32];
        json_t *doc;

        state = drained ? json_pack("{s:s, s:s, s:s?}", "since",
                                  text_format_time(clock_unix_ms(queue->manager->clock), since), "by", by,
                                  "why", why)
                        : json_null();
        doc = state ? json_pack("{s:s, s:s, s:s, s:{s:O}}", "kind", QUEUE_DOCUMENT_KIND, "uid",
                              QUEUE_DOCUMENT_KIND, "name", QUEUE_DOCUMENT_KIND, "spec", "drained", state)
                    : NULL;
        if (!doc)
                return -ENOMEM;
        store_batch_put(batch, STORE_ANY, json_incref(doc));
        *ret_change = doc;
        return 0;
}

void migration_queue_take_drained(struct migration_queue *queue, const json_t *change)
{
        json_t *drained = json_object_get(json_spec(change), "drained");

        json_decref(queue->drained);
        queue->drained = json_is_null(drained) ? NULL : json_incref(drained);
        queue->changed = true;
}

int migration_queue_new(struct manager *manager, struct migration_queue **ret_queue, struct error **ret_error)
{
        struct migration_queue *queue = ALLOC(struct migration_queue);
        int r;

        if (!queue)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        queue->manager = manager;
        queue->ranking_budget_ms = RANKING_BUDGET_MS;
        map_init(&queue->places);
        r = load(queue, ret_error);
        if (r < 0) {
                migration_queue_free(queue);
                return r;
        }
        *ret_queue = queue;
        return 0;
}

static void places_free(struct places *places)
{
        json_decref(places->hosts);
        free(places);
}

/* Forgets the places of tasks that the latest plan did not look at. */
static void sweep_places(struct migration_queue *queue, bool all)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &queue->places) {
                struct places *places = item->value;

                if (!all && places->n_plan == queue->n_plans)
                        continue;
                map_remove(&queue->places, item->key);
                places_free(places);
        }
}

void migration_queue_free(struct migration_queue *queue)
{
        if (!queue)
                return;
        queue_free(queue->plan);
        sweep_places(queue, true);
        map_deinit(&queue->places);
        json_decref(queue->drained);
        free(queue);
}

void migration_queue_changed(struct migration_queue *queue)
{
        queue->changed = true;
}

bool migration_queue_is_drained(const struct migration_queue *queue)
{
        return queue->drained != NULL;
}

uint64_t migration_queue_next_ms(const struct migration_queue *queue)
{
        uint64_t now_ms = clock_now_ms(queue->manager->clock), next_ms = UINT64_MAX;

        /* Until a plan was made, however late this is asked: a moment that has passed must not be forgotten. */
        if (queue->again_ms)
                next_ms = queue->again_ms > now_ms ? queue->again_ms - now_ms : PLAN_MAX_AGE_MS;
        if (!queue->n_waiting || queue->drained)
                return next_ms;
        return MIN(next_ms, queue->behind ? RANKING_AGAIN_MS : PLAN_MAX_AGE_MS);
}

/* --- Making the plan -------------------------------------------------------------------------------------- */

struct planning {
        struct migration_queue *queue;
        struct queue *plan;
        const struct task **tasks; /* that run, or want to */
        size_t n_tasks;
        size_t room;
        const struct task **starts; /* that bring memory to a host without a migration */
        size_t n_starts;
        size_t starts_room;
        struct map at_hosts; /* name -> struct host_resources */
        struct check_facts cluster;
        bool has_cluster; /* collected: something is to be ranked */
        bool held;        /* nothing may start now, whatever is free */
        uint64_t rank_until_ms;
        int result;
};

/* Numbers in the plan, of what a migration takes at a host. */
struct host_resources {
        size_t resources[N_QUEUE_KINDS];
};

static enum queue_priority priority_of(const struct task *task)
{
        enum queue_priority priority = QUEUE_NORMAL;

        (void)queue_priority_from_string(task_priority(task), &priority);
        return priority;
}

static int append(const struct task ***tasks, size_t *n, size_t *room, const struct task *task)
{
        const struct task **grown;

        if (*n == *room) {
                grown = alloc_resize(*tasks, *room * 2 + 16, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                *tasks = grown;
                *room = *room * 2 + 16;
        }
        (*tasks)[(*n)++] = task;
        return 0;
}

static void collect(void *userdata, const struct task *task)
{
        struct planning *p = userdata;
        bool migrates = migration_is_queued(task);
        const char *host_uid;
        const json_t *vm;

        if (migrates && (task_running(task) || task_queued(task)))
                p->result |= append(&p->tasks, &p->n_tasks, &p->room, task);
        else if (!migrates && check_facts_brings_memory(p->queue->manager, task, &host_uid, &vm))
                p->result |= append(&p->starts, &p->n_starts, &p->starts_room, task);
}

static const struct queue_limits *limits_of(const struct migration_queue *queue)
{
        return &queue->manager->config->queue_limits;
}

/* Those that come first are ranked first: see RANKING_BUDGET_MS. */
static int compare(const void *a, const void *b, void *limits)
{
        const struct task *x = *(const struct task *const *)a, *y = *(const struct task *const *)b;
        int64_t x_ms = queue_rank_ms(limits, priority_of(x), task_queued_unix_ms(x)),
                y_ms = queue_rank_ms(limits, priority_of(y), task_queued_unix_ms(y));

        return x_ms != y_ms ? (x_ms < y_ms ? -1 : 1) : strcmp(task_name(x), task_name(y));
}

/* What is decided about memory at a destination counts until the host itself does. */
static bool is_reported(const struct planning *p, const struct task *task)
{
        const char *to = json_text(task_data(task), "to_uid");

        return *to && inventory_counts_memory(
                              p->queue->manager->inventory, to, json_text(task_data(task), "vm_uid"));
}

/* Makes demands of a list of costs: how many, or negative errno. */
static ssize_t demands_of(
        struct planning *p, const struct task *task, const json_t *costs, struct queue_demand *demands)
{
        json_t *item;
        ssize_t n = 0;
        size_t i;

        json_array_foreach ((json_t *)costs, i, item) {
                enum queue_kind kind = migration_cost_kind(item);
                const char *name = json_text(item, "name");
                const json_t *host =
                        kind == QUEUE_DATASTORE ? NULL : inventory_live(p->queue->manager->inventory, name);
                size_t resource;

                if (kind == N_QUEUE_KINDS ||
                        (kind == QUEUE_MEMORY && task_running(task) && is_reported(p, task)))
                        continue;
                if (queue_resource(p->plan, kind, name, migration_limit(limits_of(p->queue), kind, host),
                            &resource) < 0)
                        return -ENOMEM;
                demands[n++] = (struct queue_demand){
                        resource, (uint64_t)json_integer_value(json_object_get(item, "units"))};
        }
        return n;
}

/* What its record says; a task that an earlier version started has none. NULL without memory. */
static json_t *held_by(struct planning *p, const struct task *task)
{
        struct manager *manager = p->queue->manager;
        _cleanup_json_ json_t *costs = json_incref(json_object_get(task_data(task), "costs")), *there = NULL;

        if (costs)
                return TAKE_PTR(costs);
        costs = migration_costs_source(manager, task);
        there = migration_costs_destination(manager, task, json_text(task_data(task), "to_name"));
        return costs && there && json_array_extend(costs, there) == 0 ? TAKE_PTR(costs) : NULL;
}

static int add_running(struct planning *p, const struct task *task, struct queue_job *job)
{
        _cleanup_json_ json_t *costs = held_by(p, task);
        _cleanup_free_ struct queue_demand *demands =
                alloc_array(json_array_size(costs) + 1, sizeof(struct queue_demand));
        ssize_t n = costs && demands ? demands_of(p, task, costs, demands) : -ENOMEM;

        if (n < 0)
                return -ENOMEM;
        job->running = true;
        job->demands = demands;
        job->n_demands = (size_t)n;
        return queue_add(p->plan, job);
}

/* What was asked for, or ""; a choice of ours that could not be recorded is none. */
static const char *asked_for(const struct task *task)
{
        return json_is_true(json_object_get(task_data(task), "to_chosen")) ? ""
                                                                           : json_text(task_data(task), "to");
}

static int need_cluster(struct planning *p)
{
        int r = p->has_cluster ? 0 : check_facts_load_cluster(p->queue->manager, &p->cluster, NULL);

        p->has_cluster |= r >= 0;
        return r;
}

/* The hosts that it may go to, best first; empty: nobody knows one, which its check will explain. NULL: no memory, or the store
 * cannot be read. */
static json_t *rank_places(struct planning *p, const struct task *task)
{
        struct manager *manager = p->queue->manager;
        const json_t *vm = inventory_vm(manager->inventory, json_text(task_data(task), "vm_uid"));
        _cleanup_json_ json_t *costs = NULL, *ranking = NULL, *places = json_array();
        _cleanup_check_facts_ struct check_facts facts = {};
        struct checks_input input;
        json_t *item;
        size_t i;

        if (!vm)
                return TAKE_PTR(places);
        if (!places || need_cluster(p) < 0 ||
                check_facts_of(manager, &p->cluster, vm, task, &facts, NULL) < 0)
                return NULL;
        input = check_facts_input(&facts);
        input.min_bandwidth_bps = operation_min_bandwidth_bps(task_input(task));
        input.reserved = NULL; /* memory that is decided for others is the plan's: for it this one waits */
        costs = forecasts_costs(manager, vm);
        ranking = costs ? placement_rank(&input, facts.hosts, costs) : NULL;
        if (!ranking)
                return NULL;
        json_array_foreach (ranking, i, item)
                if (json_is_true(json_object_get(item, "ok")) && json_array_size(places) < CHOICES_MAX)
                        json_array_append(places, json_object_get(item, "host"));
        return TAKE_PTR(places);
}

/* The names of the hosts that it may go to; NULL as rank_places(). */
static json_t *find_places(struct planning *p, const struct task *task)
{
        const char *to = asked_for(task);
        const json_t *host = *to ? inventory_host(p->queue->manager->inventory, to) : NULL;

        return *to ? json_pack("[s]", host ? json_text(host, "name") : to) : rank_places(p, task);
}

static struct places *places_entry(struct migration_queue *queue, const struct task *task)
{
        struct places *places = map_get(&queue->places, task_uid(task));

        if (!places) {
                places = ALLOC(struct places);
                if (!places || map_put(&queue->places, task_uid(task), places, NULL) < 0) {
                        free(places);
                        return NULL;
                }
        }
        places->n_plan = queue->n_plans;
        return places;
}

/* From the first that is to be ranked on. */
static bool has_time(struct planning *p)
{
        uint64_t now_ms = clock_now_ms(p->queue->manager->clock);

        if (!p->rank_until_ms)
                p->rank_until_ms = now_ms + p->queue->ranking_budget_ms;
        return now_ms < p->rank_until_ms;
}

/* Finds out where the task may go, if that is not known (or, in the second round, was found out a while ago) and there is time.
 * Those that have no place at all come before those that only may have a better one by now. */
static int look_for_places(struct planning *p, const struct task *task, bool again)
{
        struct migration_queue *queue = p->queue;
        struct places *places = places_entry(queue, task);
        uint64_t now_ms = clock_now_ms(queue->manager->clock);
        bool ranks = !*asked_for(task);
        json_t *hosts;

        if (!places)
                return -ENOMEM;
        if (places->hosts && (!again || now_ms < places->ranked_ms + RANKING_AGE_MS))
                return 0;
        if (ranks && !has_time(p)) {
                /* An older ranking does meanwhile; with very many in the queue there are always some. */
                queue->behind |= !places->hosts;
                return 0;
        }
        hosts = find_places(p, task);
        if (!hosts)
                return -ENOMEM;
        json_decref(places->hosts);
        places->hosts = hosts;
        places->ranked_ms = now_ms;
        return 0;
}

static int look_for_all_places(struct planning *p)
{
        int r = 0;

        for (int again = 0; again < 2; again++)
                for (size_t i = 0; i < p->n_tasks && r >= 0; i++)
                        if (!task_running(p->tasks[i]))
                                r = look_for_places(p, p->tasks[i], again);
        return r;
}

/* The resources of a destination; NULL without memory. */
static const struct host_resources *resources_at(struct planning *p, const char *name)
{
        static const enum queue_kind kinds[] = {QUEUE_HOST, QUEUE_NETWORK, QUEUE_BANDWIDTH, QUEUE_MEMORY};
        struct host_resources *at = map_get(&p->at_hosts, name);
        const json_t *host = at ? NULL : inventory_live(p->queue->manager->inventory, name);

        if (at)
                return at;
        at = ALLOC(struct host_resources);
        for (size_t i = 0; at && i < ARRAY_SIZE(kinds); i++)
                if (queue_resource(p->plan, kinds[i], name,
                            migration_limit(limits_of(p->queue), kinds[i], host),
                            &at->resources[kinds[i]]) < 0)
                        free(TAKE_PTR(at));
        if (at && map_put(&p->at_hosts, name, at, NULL) < 0)
                free(TAKE_PTR(at));
        return at;
}

/* Its places as choices; a task for which there is none has one choice that needs nothing, so that its check can say why. */
static int add_choices(
        struct planning *p, const struct task *task, const json_t *places, struct queue_job *job)
{
        struct queue_demand demands[CHOICES_MAX][N_QUEUE_KINDS];
        struct queue_choice choices[CHOICES_MAX] = {};
        uint64_t units[N_QUEUE_KINDS];
        json_t *place;
        size_t i;

        migration_units_destination(p->queue->manager, task, units);
        json_array_foreach ((json_t *)places, i, place) {
                const struct host_resources *at = resources_at(p, json_string_value(place));
                size_t n = 0;

                if (!at)
                        return -ENOMEM;
                for (size_t kind = 0; kind < N_QUEUE_KINDS; kind++)
                        if (units[kind])
                                demands[i][n++] = (struct queue_demand){at->resources[kind], units[kind]};
                choices[i] = (struct queue_choice){demands[i], n};
        }
        job->choices = choices;
        job->n_choices = MAX(json_array_size(places), (size_t)1);
        return queue_add(p->plan, job);
}

static int add_queued(struct planning *p, const struct task *task, struct queue_job *job)
{
        const struct places *places = map_get(&p->queue->places, task_uid(task));
        _cleanup_json_ json_t *costs = migration_costs_source(p->queue->manager, task);
        _cleanup_free_ struct queue_demand *demands =
                alloc_array(json_array_size(costs) + 1, sizeof(struct queue_demand));
        ssize_t n = costs && demands ? demands_of(p, task, costs, demands) : -ENOMEM;

        if (n < 0)
                return -ENOMEM;
        job->demands = demands;
        job->n_demands = (size_t)n;
        /* One that knows no place yet must not keep anything free for itself: others may know theirs. */
        job->held = p->held || !places || !places->hosts;
        return job->held ? queue_add(p->plan, job) : add_choices(p, task, places->hosts, job);
}

/* A guest that starts somewhere: as a job that runs, so that its memory is not given away. */
static int add_start(struct planning *p, const struct task *task)
{
        const char *host_uid = NULL;
        const json_t *vm = NULL, *host;
        struct queue_demand demand = {};
        int r;

        if (!check_facts_brings_memory(p->queue->manager, task, &host_uid, &vm))
                return 0;
        host = inventory_live(p->queue->manager->inventory, host_uid);
        r = host ? queue_resource(p->plan, QUEUE_MEMORY, json_text(host, "name"),
                           migration_limit(limits_of(p->queue), QUEUE_MEMORY, host), &demand.resource)
                 : 0;
        demand.units = (uint64_t)MAX(checks_memory_need(vm), 0);
        return r < 0 || !host ? r
                              : queue_add(p->plan, &(struct queue_job){.name = task_uid(task),
                                                           .running = true,
                                                           .demands = &demand,
                                                           .n_demands = 1});
}

static int add_task(struct planning *p, const struct task *task)
{
        struct queue_job job = {.name = task_uid(task),
                .priority = priority_of(task),
                .queued_ms = task_queued_unix_ms(task)};

        return task_running(task) ? add_running(p, task, &job) : add_queued(p, task, &job);
}

static int make_plan(struct planning *p)
{
        struct manager *manager = p->queue->manager;
        int r;

        task_each(manager->tasks, collect, p);
        r = p->result < 0 ? -ENOMEM : queue_new(limits_of(p->queue), &p->plan);
        if (r < 0)
                return r;
        if (p->n_tasks)
                qsort_r(p->tasks, p->n_tasks, sizeof(struct task *), compare, (void *)limits_of(p->queue));
        /* Until the hosts have answered, nobody knows where there is room, or a place at all. */
        p->held = p->queue->drained || !inventory_settled(manager->inventory);
        r = p->held ? 0 : look_for_all_places(p);
        for (size_t i = 0; i < p->n_tasks && r >= 0; i++)
                r = add_task(p, p->tasks[i]);
        for (size_t i = 0; i < p->n_starts && r >= 0; i++)
                r = add_start(p, p->starts[i]);
        return r < 0 ? r : queue_decide(p->plan);
}

static void planning_deinit(struct planning *p)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &p->at_hosts)
                free(item->value);
        map_deinit(&p->at_hosts);
        check_facts_deinit(&p->cluster);
        free(p->tasks);
        free(p->starts);
}

struct queue *migration_queue_plan(struct migration_queue *queue)
{
        uint64_t now_ms = clock_now_ms(queue->manager->clock);
        struct planning p = {.queue = queue};
        uint64_t good_ms = queue->behind ? RANKING_AGAIN_MS : PLAN_MAX_AGE_MS;
        int r;

        if (queue->plan && !queue->changed && now_ms < queue->planned_ms + good_ms)
                return queue->plan;
        queue_free(TAKE_PTR(queue->plan));
        queue->n_plans++;
        queue->behind = false;
        map_init(&p.at_hosts);
        r = make_plan(&p);
        if (r >= 0)
                sweep_places(queue, false);
        planning_deinit(&p);
        if (r < 0) {
                queue->again_ms = now_ms + PLAN_MAX_AGE_MS; /* nobody knows who waits */
                log_warning("no decision about the queue: %s", strerror(-r));
                queue_free(p.plan);
                return NULL;
        }
        queue->plan = p.plan;
        queue->planned_ms = now_ms;
        queue->again_ms = 0;
        queue->changed = false;
        for (queue->n_waiting = 0; queue_waiting(p.plan, queue->n_waiting);)
                queue->n_waiting++;
        return queue->plan;
}

/* --- A task starts ---------------------------------------------------------------------------------------- */

/* Name of the host that the choice means; NULL: nobody knows a place. */
static const char *place_of(const struct migration_queue *queue, const struct task *task, size_t choice)
{
        const struct places *places = map_get(&queue->places, task_uid(task));

        return places ? json_string_value(json_array_get(places->hosts, choice)) : NULL;
}

/* A place that was found a while ago may not do any more. */
static bool is_still_fit(const struct migration_queue *queue, const struct task *task, const char *place)
{
        const json_t *vm = inventory_vm(queue->manager->inventory, json_text(task_data(task), "vm_uid"));
        _cleanup_check_facts_ struct check_facts facts = {};
        _cleanup_json_ json_t *checks = NULL;
        struct checks_input input;
        const json_t *target;

        if (!vm || check_facts_load_move(queue->manager, vm, place, task, &facts, NULL) < 0)
                return false;
        target = check_facts_host(&facts, place);
        input = check_facts_input(&facts);
        input.min_bandwidth_bps = operation_min_bandwidth_bps(task_input(task));
        checks = target ? checks_of(&input, target) : NULL;
        return checks && checks_ok(checks);
}

/* What was asked for is for the task's own check to judge. */
static bool place_does(
        struct migration_queue *queue, const struct task *task, const struct queue_verdict *verdict)
{
        const char *place = place_of(queue, task, verdict->choice);
        struct places *places = map_get(&queue->places, task_uid(task));

        if (!place || *asked_for(task) || is_still_fit(queue, task, place))
                return true;
        json_decref(TAKE_PTR(places->hosts));
        queue->changed = true;
        queue->again_ms = clock_now_ms(queue->manager->clock) + RANKING_AGAIN_MS;
        return false;
}

/* Something has changed since the plan was made, and that was only just now: when many are asked for, or end, at once, one plan for a
 * number of them does. */
static bool waits_for_plan(struct migration_queue *queue, const struct task *task)
{
        uint64_t now_ms = clock_now_ms(queue->manager->clock), next_ms = queue->planned_ms + PLAN_MIN_AGE_MS;
        bool old = queue->changed || (queue->plan && !queue_verdict(queue->plan, task_uid(task)));

        if (!queue->plan || !old || now_ms >= next_ms)
                return false;
        queue->changed = true; /* whoever asks to see the queue sees it as it is */
        queue->again_ms = next_ms;
        return true;
}

bool migration_queue_may_start(struct migration_queue *queue, const struct task *task)
{
        const struct queue *plan;
        const struct queue_verdict *verdict;

        if (waits_for_plan(queue, task))
                return false;
        plan = migration_queue_plan(queue);
        verdict = plan ? queue_verdict(plan, task_uid(task)) : NULL;
        if (plan && !verdict) { /* it came after the plan was made */
                queue->changed = true;
                plan = migration_queue_plan(queue);
                verdict = plan ? queue_verdict(plan, task_uid(task)) : NULL;
        }
        return verdict && verdict->starts && place_does(queue, task, verdict);
}

/* {"resource", "units", "used", "limit"} for each cost, as the plan has them. */
static json_t *recorded_costs(const struct queue *plan, const json_t *costs)
{
        json_t *list = json_array(), *item;
        size_t i, resource;

        json_array_foreach ((json_t *)costs, i, item) {
                enum queue_kind kind = migration_cost_kind(item);
                struct queue_usage usage;

                if (kind == N_QUEUE_KINDS ||
                        !queue_find_resource(plan, kind, json_text(item, "name"), &resource))
                        continue;
                usage = queue_usage(plan, resource);
                json_array_append_new(
                        list, json_pack("{s:o, s:O, s:I, s:I}", "resource",
                                      migration_resource_name(usage.kind, usage.name), "units",
                                      json_object_get(item, "units"), "used", (json_int_t)usage.used, "limit",
                                      (json_int_t)usage.limit));
        }
        return list;
}

static int take_place(struct migration_queue *queue, struct task *task, json_t *costs, size_t choice)
{
        const char *place = place_of(queue, task, choice);
        _cleanup_json_ json_t *there = NULL;

        if (!place) {
                if (!*asked_for(task)) {
                        json_object_del(task_data(task), "to");
                        json_object_del(task_data(task), "to_chosen");
                }
                return 0;
        }
        there = migration_costs_destination(queue->manager, task, place);
        if (!there || json_array_extend(costs, there) < 0)
                return -ENOMEM;
        if (!*asked_for(task) && json_object_set_new(task_data(task), "to_chosen", json_true()) < 0)
                return -ENOMEM;
        return json_object_set_new(task_data(task), "to", json_string(place));
}

int migration_queue_starting(struct migration_queue *queue, struct task *task)
{
        const struct queue_verdict *verdict = queue->plan ? queue_verdict(queue->plan, task_uid(task)) : NULL;
        _cleanup_json_ json_t *costs = migration_costs_source(queue->manager, task);
        int64_t queued_ms = task_queued_unix_ms(task), now_ms = clock_unix_ms(queue->manager->clock);
        char queued[32], started[32];

        if (!verdict || !costs || take_place(queue, task, costs, verdict->choice) < 0 ||
                json_object_set(task_data(task), "costs", costs) < 0)
                return -ENOMEM;
        metrics_queued(&queue->manager->metrics, priority_of(task), (uint64_t)MAX(now_ms - queued_ms, 0));
        return task_set_queue(task,
                json_pack("{s:s, s:s, s:I, s:o}", "queued", text_format_time(queued_ms, queued), "started",
                        text_format_time(now_ms, started), "waited_ms",
                        (json_int_t)MAX(now_ms - queued_ms, 0), "costs", recorded_costs(queue->plan, costs)));
}
