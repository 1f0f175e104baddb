/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/queue.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/map.h"

struct resource {
        enum queue_kind kind;
        char *name;
        uint64_t limit;
        uint64_t used;
        uint64_t kept; /* free for the first job that waits for it */
        bool waited_for;
};

struct job {
        char *name;
        int64_t rank_ms; /* the smallest comes first */
        size_t number;
        bool running;
        bool held;
        struct queue_demand *demands; /* the job's own, then those of each choice */
        size_t n_own;
        size_t *choice_ends; /* index behind the last demand of each choice */
        size_t n_choices;
        struct queue_verdict verdict;
};

struct queue {
        struct queue_limits limits;
        struct resource *resources;
        size_t n_resources;
        struct map by_key; /* "kind/name" -> index + 1 */
        struct job *jobs;
        size_t n_jobs;
        struct map by_name; /* -> index + 1 */
        struct job **order; /* those that do not run, first come first */
        size_t n_order;
        struct job **waiting;
        size_t n_waiting;
};

static const char *const priority_names[] = {
#define X(name, text) [QUEUE_##name] = text,
        QUEUE_PRIORITIES(X)
#undef X
};
static_assert(ARRAY_SIZE(priority_names) == N_QUEUE_PRIORITIES, "every priority has a name");

static const char *const kind_names[] = {
        [QUEUE_HOST] = "host",
        [QUEUE_NETWORK] = "network",
        [QUEUE_DATASTORE] = "datastore",
        [QUEUE_MEMORY] = "memory",
        [QUEUE_BANDWIDTH] = "bandwidth",
};
static_assert(ARRAY_SIZE(kind_names) == N_QUEUE_KINDS, "every kind has a name");

const char *queue_priority_to_string(enum queue_priority priority)
{
        return priority_names[priority];
}

int queue_priority_from_string(const char *text, enum queue_priority *ret_priority)
{
        for (size_t i = 0; i < N_QUEUE_PRIORITIES; i++)
                if (!strcmp(priority_names[i], text)) {
                        *ret_priority = (enum queue_priority)i;
                        return 0;
                }
        return -EINVAL;
}

unsigned int queue_priority_weight(enum queue_priority priority)
{
        return 1u << priority;
}

const char *queue_kind_to_string(enum queue_kind kind)
{
        return kind_names[kind];
}

uint64_t queue_network_limit(const struct queue_limits *limits, uint64_t link_bps)
{
        return link_bps >= QUEUE_FAST_LINK_BPS ? limits->network_fast : limits->network;
}

int64_t queue_rank_ms(const struct queue_limits *limits, enum queue_priority priority, int64_t queued_ms)
{
        return queued_ms - (int64_t)priority * (int64_t)limits->level_ms;
}

uint64_t queue_cost(enum queue_kind kind, bool with_disks)
{
        switch (kind) {
        case QUEUE_HOST:
                return with_disks ? 4 : 1;
        case QUEUE_DATASTORE:
                return with_disks ? 16 : 1;
        case QUEUE_NETWORK:
                return 1;
        case QUEUE_MEMORY:
        case QUEUE_BANDWIDTH:
        case N_QUEUE_KINDS:
                break;
        }
        return 0;
}

/* --- The picture ------------------------------------------------------------------------------------------ */

int queue_new(const struct queue_limits *limits, struct queue **ret_queue)
{
        struct queue *queue = ALLOC(struct queue);

        if (!queue)
                return -ENOMEM;
        queue->limits = *limits;
        map_init(&queue->by_key);
        map_init(&queue->by_name);
        *ret_queue = queue;
        return 0;
}

static void job_deinit(struct job *job)
{
        free(job->name);
        free(job->demands);
        free(job->choice_ends);
}

void queue_free(struct queue *queue)
{
        if (!queue)
                return;
        for (size_t i = 0; i < queue->n_resources; i++)
                free(queue->resources[i].name);
        for (size_t i = 0; i < queue->n_jobs; i++)
                job_deinit(&queue->jobs[i]);
        free(queue->resources);
        free(queue->jobs);
        free(queue->order);
        free(queue->waiting);
        map_deinit(&queue->by_key);
        map_deinit(&queue->by_name);
        free(queue);
}

/* Maps hold index + 1, so that NULL stays "not there". */
static void *as_value(size_t index)
{
        return (void *)(uintptr_t)(index + 1);
}

static bool find(const struct map *map, const char *key, size_t *ret_index)
{
        uintptr_t value = (uintptr_t)map_get(map, key);

        if (value)
                *ret_index = (size_t)value - 1;
        return value != 0;
}

int queue_resource(
        struct queue *queue, enum queue_kind kind, const char *name, uint64_t limit, size_t *ret_resource)
{
        _cleanup_free_ char *key = alloc_printf("%s/%s", kind_names[kind], name);
        struct resource *grown, *resource;
        int r;

        if (!key)
                return -ENOMEM;
        if (find(&queue->by_key, key, ret_resource))
                return 0;
        grown = alloc_resize(queue->resources, queue->n_resources + 1, sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        queue->resources = grown;
        resource = &queue->resources[queue->n_resources];
        *resource = (struct resource){.kind = kind, .name = alloc_strdup(name), .limit = limit};
        if (!resource->name)
                return -ENOMEM;
        r = map_put(&queue->by_key, key, as_value(queue->n_resources), NULL);
        if (r < 0) {
                free(resource->name);
                return r;
        }
        *ret_resource = queue->n_resources++;
        return 0;
}

/* What needs more than there is at all gets all there is. */
static void take_demands(const struct queue *queue, struct job *job, size_t *n,
        const struct queue_demand *demands, size_t n_demands)
{
        for (size_t i = 0; i < n_demands; i++) {
                assert(demands[i].resource < queue->n_resources);
                job->demands[*n].resource = demands[i].resource;
                job->demands[(*n)++].units =
                        MIN(demands[i].units, queue->resources[demands[i].resource].limit);
        }
}

static int job_init(const struct queue *queue, const struct queue_job *spec, struct job *job)
{
        size_t n = spec->n_demands, at = 0;

        for (size_t i = 0; i < spec->n_choices; i++)
                n += spec->choices[i].n_demands;
        *job = (struct job){
                .name = alloc_strdup(spec->name),
                .rank_ms = queue_rank_ms(&queue->limits, spec->priority, spec->queued_ms),
                .number = queue->n_jobs,
                .running = spec->running,
                .held = spec->held,
                .demands = alloc_array(n + 1, sizeof(struct queue_demand)),
                .n_own = spec->n_demands,
                .choice_ends = alloc_array(spec->n_choices + 1, sizeof(size_t)),
                .n_choices = spec->n_choices,
        };
        if (!job->name || !job->demands || !job->choice_ends)
                return -ENOMEM;
        take_demands(queue, job, &at, spec->demands, spec->n_demands);
        for (size_t i = 0; i < spec->n_choices; i++) {
                take_demands(queue, job, &at, spec->choices[i].demands, spec->choices[i].n_demands);
                job->choice_ends[i] = at;
        }
        return 0;
}

int queue_add(struct queue *queue, const struct queue_job *spec)
{
        struct job *grown, job;
        int r;

        grown = alloc_resize(queue->jobs, queue->n_jobs + 1, sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        queue->jobs = grown;
        r = job_init(queue, spec, &job);
        if (r >= 0)
                r = map_put(&queue->by_name, job.name, as_value(queue->n_jobs), NULL);
        if (r < 0) {
                job_deinit(&job);
                return r;
        }
        queue->jobs[queue->n_jobs++] = job;
        return 0;
}

/* --- The decision ----------------------------------------------------------------------------------------- */

/* The i-th thing that a job needs with one of its choices (without any, of its own); NULL behind the last. */
static const struct queue_demand *need_at(const struct job *job, size_t choice, size_t i)
{
        size_t from = choice ? job->choice_ends[choice - 1] : job->n_own;
        size_t to = job->n_choices ? job->choice_ends[choice] : from;

        if (i < job->n_own)
                return &job->demands[i];
        i += from - job->n_own;
        return i < to ? &job->demands[i] : NULL;
}

/* What others that wait have kept for themselves is not free. */
static bool has_room(const struct resource *resource, uint64_t units)
{
        return units == 0 || resource->used + resource->kept + units <= resource->limit;
}

static bool fits(const struct queue *queue, const struct job *job, size_t choice)
{
        const struct queue_demand *need;

        for (size_t i = 0; (need = need_at(job, choice, i)); i++)
                if (!has_room(&queue->resources[need->resource], need->units))
                        return false;
        return true;
}

static void hold(struct queue *queue, const struct job *job, size_t choice)
{
        const struct queue_demand *need;

        for (size_t i = 0; (need = need_at(job, choice, i)); i++)
                queue->resources[need->resource].used += need->units;
}

/* Keeps what the job needs free, unless an earlier one waits for some of it already: it alone decides then. */
static void keep(struct queue *queue, const struct job *job)
{
        const struct queue_demand *need;

        for (size_t i = 0; (need = need_at(job, 0, i)); i++)
                if (need->units && queue->resources[need->resource].waited_for)
                        return;
        for (size_t i = 0; (need = need_at(job, 0, i)); i++) {
                if (!need->units)
                        continue;
                queue->resources[need->resource].kept += need->units;
                queue->resources[need->resource].waited_for = true;
        }
}

static void explain(const struct queue *queue, struct job *job)
{
        const struct queue_demand *need;

        for (size_t i = 0; job->verdict.n_blockers < QUEUE_BLOCKERS_MAX && (need = need_at(job, 0, i)); i++) {
                const struct resource *resource = &queue->resources[need->resource];

                if (has_room(resource, need->units))
                        continue;
                job->verdict.blockers[job->verdict.n_blockers++] = (struct queue_blocker){
                        .kind = resource->kind,
                        .name = resource->name,
                        .used = resource->used,
                        .kept = resource->kept,
                        .limit = resource->limit,
                        .needs = need->units,
                };
        }
}

static void decide(struct queue *queue, struct job *job)
{
        if (!job->held && job->n_choices)
                for (size_t choice = 0; choice < job->n_choices; choice++) {
                        if (!fits(queue, job, choice))
                                continue;
                        job->verdict = (struct queue_verdict){.starts = true, .choice = choice};
                        hold(queue, job, choice);
                        return;
                }
        queue->waiting[queue->n_waiting++] = job;
        job->verdict = (struct queue_verdict){.position = queue->n_waiting};
        if (job->held)
                return;
        explain(queue, job);
        keep(queue, job);
}

static int compare(const void *a, const void *b)
{
        const struct job *x = *(struct job *const *)a, *y = *(struct job *const *)b;
        int names;

        if (x->rank_ms != y->rank_ms)
                return x->rank_ms < y->rank_ms ? -1 : 1;
        names = strcmp(x->name, y->name);
        return names ? names : (x->number > y->number) - (x->number < y->number);
}

int queue_decide(struct queue *queue)
{
        free(queue->order);
        free(queue->waiting);
        queue->order = alloc_array(queue->n_jobs + 1, sizeof(struct job *));
        queue->waiting = alloc_array(queue->n_jobs + 1, sizeof(struct job *));
        queue->n_order = queue->n_waiting = 0;
        if (!queue->order || !queue->waiting)
                return -ENOMEM;
        for (size_t i = 0; i < queue->n_resources; i++) {
                queue->resources[i].used = queue->resources[i].kept = 0;
                queue->resources[i].waited_for = false;
        }
        for (size_t i = 0; i < queue->n_jobs; i++) {
                struct job *job = &queue->jobs[i];

                job->verdict = (struct queue_verdict){};
                if (job->running)
                        hold(queue, job, 0);
                else
                        queue->order[queue->n_order++] = job;
        }
        qsort(queue->order, queue->n_order, sizeof(struct job *), compare);
        for (size_t i = 0; i < queue->n_order; i++)
                decide(queue, queue->order[i]);
        return 0;
}

/* --- What came out ---------------------------------------------------------------------------------------- */

const struct queue_verdict *queue_verdict(const struct queue *queue, const char *name)
{
        size_t index;

        return find(&queue->by_name, name, &index) ? &queue->jobs[index].verdict : NULL;
}

bool queue_find_resource(
        const struct queue *queue, enum queue_kind kind, const char *name, size_t *ret_resource)
{
        _cleanup_free_ char *key = alloc_printf("%s/%s", kind_names[kind], name);

        return key && find(&queue->by_key, key, ret_resource);
}

size_t queue_n_resources(const struct queue *queue)
{
        return queue->n_resources;
}

struct queue_usage queue_usage(const struct queue *queue, size_t resource)
{
        const struct resource *r = &queue->resources[resource];

        return (struct queue_usage){.kind = r->kind, .name = r->name, .used = r->used, .limit = r->limit};
}

const char *queue_waiting(const struct queue *queue, size_t position)
{
        return position < queue->n_waiting ? queue->waiting[position]->name : NULL;
}
