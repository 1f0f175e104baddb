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
#include "cluster/placement.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/migration_costs.h"

#define PLAN_MAX_AGE_MS 500
#define CHOICES_MAX 16 /* places that are looked at for one migration */
#define RANKED_MAX \
        64 /* migrations without a destination that are looked at at once; the others are behind them */
/* A host reports what its guests have each second; from the copy's beginning on, the guest is among them. */
#define REPORT_LAG_MS 3000
#define MESSAGE_MAX 2048
#define KIND "queue"

struct migration_queue {
        struct manager *manager;
        json_t *drained;    /* {"since", "by", "why"}; NULL: it is not */
        struct queue *plan; /* NULL: to be made */
        struct map places;  /* task uid -> json array: the names of the hosts that its choices are */
        uint64_t planned_ms;
        bool changed;
        size_t n_waiting;
};

int migration_queue_load(struct migration_queue *queue, struct error **ret_error)
{
        _cleanup_json_ json_t *doc = NULL;
        int r;

        r = store_get(queue->manager->store, KIND, KIND, &doc, NULL);
        if (r < 0 && r != -ENOENT)
                return error_from_errno(ret_error, r, "cannot read whether the queue is drained");
        json_decref(queue->drained);
        queue->drained = json_incref(json_object_get(json_spec(doc), "drained"));
        if (json_is_null(queue->drained))
                queue->drained = NULL;
        queue->changed = true;
        return 0;
}

int migration_queue_new(struct manager *manager, struct migration_queue **ret_queue, struct error **ret_error)
{
        struct migration_queue *queue = ALLOC(struct migration_queue);
        int r;

        if (!queue)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        queue->manager = manager;
        map_init(&queue->places);
        r = migration_queue_load(queue, ret_error);
        if (r < 0) {
                migration_queue_free(queue);
                return r;
        }
        *ret_queue = queue;
        return 0;
}

static void drop_plan(struct migration_queue *queue)
{
        struct map_item *item, *spare;

        queue_free(TAKE_PTR(queue->plan));
        map_for_each (item, spare, &queue->places)
                json_decref(item->value);
        map_deinit(&queue->places);
        map_init(&queue->places);
}

void migration_queue_free(struct migration_queue *queue)
{
        if (!queue)
                return;
        drop_plan(queue);
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
        return queue->n_waiting && !queue->drained ? PLAN_MAX_AGE_MS : UINT64_MAX;
}

/* --- Making the plan -------------------------------------------------------------------------------------- */

struct planning {
        struct migration_queue *queue;
        struct queue *plan;
        const struct task **tasks;
        size_t n_tasks;
        size_t room;
        json_t *hosts; /* live documents; NULL: not needed so far */
        json_t *vms;
        size_t n_ranked;
        int result;
};

static enum queue_priority priority_of(const struct task *task)
{
        enum queue_priority priority = QUEUE_NORMAL;

        (void)queue_priority_from_string(task_priority(task), &priority);
        return priority;
}

/* Runs migrations, or wants to. */
static void collect(void *userdata, const struct task *task)
{
        struct planning *p = userdata;
        const struct task **grown;

        if (strcmp(task_action(task), "vm.migrate") || !(task_running(task) || task_queued(task)))
                return;
        if (p->n_tasks == p->room) {
                grown = alloc_resize(p->tasks, p->room * 2 + 16, sizeof(*grown));
                if (!grown) {
                        p->result = -ENOMEM;
                        return;
                }
                p->tasks = grown;
                p->room = p->room * 2 + 16;
        }
        p->tasks[p->n_tasks++] = task;
}

static const struct queue_limits *limits_of(const struct migration_queue *queue)
{
        return &queue->manager->config->queue_limits;
}

/* Those that come first are ranked first: see RANKED_MAX. */
static int compare(const void *a, const void *b, void *limits)
{
        const struct task *x = *(const struct task *const *)a, *y = *(const struct task *const *)b;
        int64_t x_ms = queue_rank_ms(limits, priority_of(x), task_queued_unix_ms(x)),
                y_ms = queue_rank_ms(limits, priority_of(y), task_queued_unix_ms(y));

        return x_ms != y_ms ? (x_ms < y_ms ? -1 : 1) : strcmp(task_name(x), task_name(y));
}

static const json_t *host_named(struct planning *p, const char *name)
{
        json_t *host;
        size_t i;

        if (!p->hosts)
                p->hosts = inventory_live_hosts(p->queue->manager->inventory);
        json_array_foreach (p->hosts, i, host)
                if (!strcmp(json_text(host, "name"), name))
                        return host;
        return NULL;
}

/* What is decided about memory at a destination counts until the host itself reports the guest. */
static bool is_reported(const struct planning *p, const struct task *task)
{
        json_int_t since = json_integer_value(json_object_get(task_data(task), "prepared_unix_ms"));

        return since && clock_unix_ms(p->queue->manager->clock) >= since + REPORT_LAG_MS;
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
                const json_t *host = kind == QUEUE_DATASTORE ? NULL : host_named(p, name);
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

/* The hosts that it may go to, best first; empty: nobody knows one, which its check will explain. NULL: no memory. */
static json_t *rank_places(struct planning *p, const struct task *task)
{
        struct manager *manager = p->queue->manager;
        const json_t *source = host_named(p, migration_source(manager, task));
        _cleanup_json_ json_t *ranking = NULL, *places = json_array();
        json_t *item;
        size_t i;

        if (!p->vms)
                p->vms = inventory_vms(manager->inventory);
        if (!p->vms || !p->hosts || !places)
                return NULL;
        ranking = placement_rank(&(struct placement_input){
                .vm = inventory_vm(manager->inventory, json_text(task_data(task), "vm_uid")),
                .source = source,
                .hosts = p->hosts,
                .vms = p->vms});
        if (!ranking)
                return NULL;
        json_array_foreach (ranking, i, item)
                if (json_is_true(json_object_get(item, "ok")) && json_array_size(places) < CHOICES_MAX)
                        json_array_append(places, json_object_get(item, "host"));
        return TAKE_PTR(places);
}

static json_t *places_of(struct planning *p, const struct task *task)
{
        const char *to = json_text(task_data(task), "to");
        const json_t *host = inventory_host(p->queue->manager->inventory, to);

        if (*to)
                return json_pack("[s]", host ? json_text(host, "name") : to);
        return rank_places(p, task);
}

#define DEMANDS_OF_PLACE 4 /* host, network, bandwidth, memory */

/* Its places as choices; a task for which there is none has one choice that needs nothing, so that its check can say why. */
static int add_choices(
        struct planning *p, const struct task *task, const json_t *places, struct queue_job *job)
{
        struct queue_demand demands[CHOICES_MAX][DEMANDS_OF_PLACE];
        struct queue_choice choices[CHOICES_MAX] = {};
        size_t i;
        json_t *place;

        json_array_foreach ((json_t *)places, i, place) {
                _cleanup_json_ json_t *costs =
                        migration_costs_destination(p->queue->manager, task, json_string_value(place));
                ssize_t n = costs ? demands_of(p, task, costs, demands[i]) : -ENOMEM;

                if (n < 0)
                        return -ENOMEM;
                choices[i] = (struct queue_choice){demands[i], (size_t)n};
        }
        job->choices = choices;
        job->n_choices = MAX(json_array_size(places), (size_t)1);
        return queue_add(p->plan, job);
}

static int remember_places(struct planning *p, const struct task *task, json_t *places)
{
        int r = map_put(&p->queue->places, task_uid(task), places, NULL);

        if (r < 0)
                json_decref(places);
        return r;
}

static int add_queued(struct planning *p, const struct task *task, struct queue_job *job)
{
        _cleanup_json_ json_t *costs = migration_costs_source(p->queue->manager, task);
        _cleanup_free_ struct queue_demand *demands =
                alloc_array(json_array_size(costs) + 1, sizeof(struct queue_demand));
        ssize_t n = costs && demands ? demands_of(p, task, costs, demands) : -ENOMEM;
        bool ranks = !*json_text(task_data(task), "to");
        json_t *places;

        if (n < 0)
                return -ENOMEM;
        job->demands = demands;
        job->n_demands = (size_t)n;
        job->held = p->queue->drained != NULL;
        if (job->held || (ranks && p->n_ranked++ >= RANKED_MAX))
                return queue_add(p->plan, job);
        places = places_of(p, task);
        if (!places || remember_places(p, task, places) < 0)
                return -ENOMEM;
        return add_choices(p, task, places, job);
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
        int r;

        task_each(p->queue->manager->tasks, collect, p);
        r = p->result < 0 ? p->result : queue_new(limits_of(p->queue), &p->plan);
        if (r < 0)
                return r;
        if (p->n_tasks)
                qsort_r(p->tasks, p->n_tasks, sizeof(struct task *), compare, (void *)limits_of(p->queue));
        for (size_t i = 0; i < p->n_tasks && r >= 0; i++)
                r = add_task(p, p->tasks[i]);
        return r < 0 ? r : queue_decide(p->plan);
}

/* The plan as it is now; NULL without memory: then nothing starts until the next try. */
static struct queue *plan_of(struct migration_queue *queue)
{
        uint64_t now_ms = clock_now_ms(queue->manager->clock);
        struct planning p = {.queue = queue};
        int r;

        if (queue->plan && !queue->changed && now_ms < queue->planned_ms + PLAN_MAX_AGE_MS)
                return queue->plan;
        drop_plan(queue);
        r = make_plan(&p);
        free(p.tasks);
        json_decref(p.hosts);
        json_decref(p.vms);
        if (r < 0) {
                log_warning("no decision about the queue: %s", strerror(-r));
                queue_free(p.plan);
                return NULL;
        }
        queue->plan = p.plan;
        queue->planned_ms = now_ms;
        queue->changed = false;
        for (queue->n_waiting = 0; queue_waiting(p.plan, queue->n_waiting);)
                queue->n_waiting++;
        return queue->plan;
}

/* --- A task starts ---------------------------------------------------------------------------------------- */

bool migration_queue_may_start(struct migration_queue *queue, const struct task *task)
{
        const struct queue *plan = plan_of(queue);
        const struct queue_verdict *verdict = plan ? queue_verdict(plan, task_uid(task)) : NULL;

        if (plan && !verdict) { /* it came after the plan was made */
                queue->changed = true;
                plan = plan_of(queue);
                verdict = plan ? queue_verdict(plan, task_uid(task)) : NULL;
        }
        return verdict && verdict->starts;
}

/* {"resource", "units", "used", "limit"} for each cost, as the plan has them. */
static json_t *recorded_costs(const struct queue *plan, const json_t *costs)
{
        json_t *list = json_array(), *item;
        size_t i;

        json_array_foreach ((json_t *)costs, i, item)
                for (size_t r = 0; r < queue_n_resources(plan); r++) {
                        struct queue_usage usage = queue_usage(plan, r);

                        if (usage.kind != migration_cost_kind(item) ||
                                strcmp(usage.name, json_text(item, "name")))
                                continue;
                        json_array_append_new(
                                list, json_pack("{s:o, s:O, s:I, s:I}", "resource",
                                              migration_resource_name(usage.kind, usage.name), "units",
                                              json_object_get(item, "units"), "used", (json_int_t)usage.used,
                                              "limit", (json_int_t)usage.limit));
                }
        return list;
}

static int take_place(struct migration_queue *queue, struct task *task, json_t *costs, size_t choice)
{
        const char *place =
                json_string_value(json_array_get(map_get(&queue->places, task_uid(task)), choice));
        _cleanup_json_ json_t *there = NULL;

        if (!place)
                return 0;
        there = migration_costs_destination(queue->manager, task, place);
        if (!there || json_array_extend(costs, there) < 0)
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

int migration_queue_prepared(struct migration_queue *queue, struct task *task)
{
        if (json_object_get(task_data(task), "prepared_unix_ms"))
                return 0;
        return json_object_set_new(
                task_data(task), "prepared_unix_ms", json_integer(clock_unix_ms(queue->manager->clock)));
}

/* --- What people see -------------------------------------------------------------------------------------- */

static char *amount(enum queue_kind kind, uint64_t units, char ret[static 24])
{
        char size[16];

        if (kind == QUEUE_MEMORY)
                snprintf(ret, 24, "%s", text_format_size(units, size));
        else if (kind == QUEUE_BANDWIDTH)
                snprintf(ret, 24, "%.4g Gbit/s", (double)units / 1e9);
        else
                snprintf(ret, 24, "%llu", (unsigned long long)units);
        return ret;
}

/* "host host1: 8 of 8" */
static int describe_blocker(struct buf *out, const struct queue_blocker *blocker)
{
        char used[24], limit[24], needs[24], kept[24];
        int r;

        r = buf_printf(out, "%s%s of %s: %s of %s", *buf_string(out) ? ", " : "",
                queue_kind_to_string(blocker->kind), blocker->name,
                amount(blocker->kind, blocker->used, used), amount(blocker->kind, blocker->limit, limit));
        if (r >= 0 && blocker->needs > 1)
                r = buf_printf(out, ", %s needed", amount(blocker->kind, blocker->needs, needs));
        if (r >= 0 && blocker->kept)
                r = buf_printf(out, ", %s kept for what waits before it",
                        amount(blocker->kind, blocker->kept, kept));
        return r;
}

static json_t *message_of(const struct migration_queue *queue, const struct queue_verdict *verdict)
{
        _cleanup_buf_ struct buf text;

        buf_init(&text, MESSAGE_MAX);
        if (queue->drained)
                return json_sprintf("the queue was drained by %s at %s: nothing starts until it is resumed",
                        json_text(queue->drained, "by"), json_text(queue->drained, "since"));
        if (!verdict->n_blockers)
                return json_string("waits until those before it have found a place");
        for (size_t i = 0; i < verdict->n_blockers; i++)
                if (describe_blocker(&text, &verdict->blockers[i]) < 0)
                        break;
        return json_sprintf("waits for %s", buf_string(&text));
}

static json_t *blockers_of(const struct queue_verdict *verdict)
{
        json_t *list = json_array();

        for (size_t i = 0; list && i < verdict->n_blockers; i++) {
                const struct queue_blocker *b = &verdict->blockers[i];

                json_array_append_new(list, json_pack("{s:o, s:I, s:I, s:I, s:I}", "resource",
                                                    migration_resource_name(b->kind, b->name), "used",
                                                    (json_int_t)b->used, "kept", (json_int_t)b->kept, "limit",
                                                    (json_int_t)b->limit, "needs", (json_int_t)b->needs));
        }
        return list;
}

json_t *migration_queue_live_task(struct migration_queue *queue, const json_t *doc)
{
        json_t *copy = json_copy((json_t *)doc), *status;
        const struct queue *plan;
        const struct queue_verdict *verdict;

        if (!copy || strcmp(json_text(json_status(doc), "state"), "queued"))
                return copy;
        plan = plan_of(queue);
        verdict = plan ? queue_verdict(plan, json_text(doc, "uid")) : NULL;
        status = verdict && verdict->position ? json_copy(json_status(doc)) : NULL;
        if (!status)
                return copy;
        if (json_object_set_new(status, "queue",
                    json_pack("{s:s, s:I, s:I, s:o, s:o}", "queued", json_text(status, "created"), "position",
                            (json_int_t)verdict->position, "length", (json_int_t)queue->n_waiting,
                            "waits_for", blockers_of(verdict), "message", message_of(queue, verdict))) < 0 ||
                json_object_set_new(status, "progress",
                        json_pack("{s:n, s:o}", "percent", "message", message_of(queue, verdict))) < 0 ||
                json_object_set_new(copy, "status", status) < 0) {
                json_decref(copy);
                return NULL;
        }
        return copy;
}

struct listing {
        const struct queue *plan;
        json_t *running;
        json_t **waiting; /* by position - 1 */
        size_t n_waiting;
        struct migration_queue *queue;
};

static json_t *line_of(const struct listing *l, const struct task *task)
{
        char queued[32];

        return json_pack("{s:s, s:s, s:s, s:s}", "task", task_name(task), "object", task_object(task),
                "priority", task_priority(task), "queued",
                text_format_time(task_queued_unix_ms(task), queued));
}

static void list_one(void *userdata, const struct task *task)
{
        struct listing *l = userdata;
        const struct queue_verdict *verdict =
                strcmp(task_action(task), "vm.migrate") ? NULL : queue_verdict(l->plan, task_uid(task));
        json_t *line = verdict ? line_of(l, task) : NULL;

        if (!line)
                return;
        if (verdict->position && verdict->position <= l->n_waiting) {
                json_object_set_new(line, "position", json_integer((json_int_t)verdict->position));
                json_object_set_new(line, "message", message_of(l->queue, verdict));
                json_object_set_new(line, "waits_for", blockers_of(verdict));
                l->waiting[verdict->position - 1] = line;
        } else
                json_array_append_new(l->running, line);
}

static json_t *resources_of(const struct queue *plan)
{
        json_t *list = json_array();

        for (size_t i = 0; list && i < queue_n_resources(plan); i++) {
                struct queue_usage usage = queue_usage(plan, i);

                json_array_append_new(
                        list, json_pack("{s:o, s:I, s:I}", "resource",
                                      migration_resource_name(usage.kind, usage.name), "used",
                                      (json_int_t)usage.used, "limit", (json_int_t)usage.limit));
        }
        return list;
}

json_t *migration_queue_document(struct migration_queue *queue)
{
        const struct queue *plan = plan_of(queue); /* before n_waiting is looked at */
        struct listing l = {.plan = plan, .queue = queue, .n_waiting = queue->n_waiting};
        _cleanup_json_ json_t *waiting = json_array();
        _cleanup_free_ json_t **places = alloc_array(queue->n_waiting + 1, sizeof(json_t *));

        l.running = json_array();
        l.waiting = places;
        if (!l.plan || !places || !waiting || !l.running) {
                json_decref(l.running);
                return NULL;
        }
        task_each(queue->manager->tasks, list_one, &l);
        for (size_t i = 0; i < l.n_waiting; i++)
                if (places[i])
                        json_array_append_new(waiting, places[i]);
        return json_pack("{s:s, s:s, s:s, s:O?, s:I, s:o, s:O, s:o}", "kind", KIND, "name", KIND, "state",
                queue->drained ? "drained" : "open", "drained", queue->drained, "length",
                (json_int_t)json_array_size(waiting), "running", l.running, "waiting", waiting, "resources",
                resources_of(l.plan));
}

int migration_queue_set_drained(struct migration_queue *queue, bool drained, const char *by, const char *why,
        struct store_batch *batch)
{
        _cleanup_json_ json_t *state = NULL;
        char since[32];
        json_t *doc;

        state = drained ? json_pack("{s:s, s:s, s:s?}", "since",
                                  text_format_time(clock_unix_ms(queue->manager->clock), since), "by", by,
                                  "why", why)
                        : json_null();
        doc = state ? json_pack("{s:s, s:s, s:s, s:{s:O}}", "kind", KIND, "uid", KIND, "name", KIND, "spec",
                              "drained", state)
                    : NULL;
        if (!doc)
                return -ENOMEM;
        store_batch_put(batch, STORE_ANY, doc);
        return 0;
}
