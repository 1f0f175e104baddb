/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What migration_queue*.c share; nobody else includes this. */

#include <jansson.h>

#include "base/map.h"
#include "cluster/queue.h"

#define QUEUE_DOCUMENT_KIND "queue"

struct migration_queue {
        struct manager *manager;
        json_t *drained;    /* {"since", "by", "why"}; NULL: it is not */
        struct queue *plan; /* NULL: to be made */
        struct map places;  /* task uid -> struct places */
        uint64_t n_plans;
        uint64_t planned_ms;
        uint64_t ranking_budget_ms; /* that a plan takes over ranking */
        bool behind;                /* some were never ranked, so that nobody knows a place for them */
        bool changed;               /* the plan does not hold any more */
        uint64_t
                again_ms; /* a plan is wanted at this moment, whether anybody waits by the last one or not; 0: no */
        size_t n_waiting;
};

/* The plan as it is now, the queue's; NULL when none can be made, for lack of memory or because the store cannot be read: then
 * nothing starts until the next try, PLAN_MAX_AGE_MS later at most. */
struct queue *migration_queue_plan(struct migration_queue *queue);
