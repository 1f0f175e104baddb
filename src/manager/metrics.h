/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Counters and histograms since the start of the process, and the Prometheus text made from them and the store. */

#include <jansson.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/map.h"
#include "cluster/queue.h"

struct manager;

#define METRICS_N_BUCKETS 12

struct metrics_histogram {
        uint64_t counts[METRICS_N_BUCKETS + 1]; /* the last one: above all bounds */
        uint64_t n;
        double sum;
};

/* Who permitted a final pause: see metrics_permits in metrics.c. */
#define METRICS_N_PERMITS 3

/* What became of a request before its handler saw it. */
enum metrics_request {
        METRICS_ADMITTED,
        METRICS_UNAUTHENTICATED,
        METRICS_DENIED,
        METRICS_LIMITED,
        N_METRICS_REQUESTS
};

struct metrics {
        uint64_t requests[N_METRICS_REQUESTS];
        uint64_t logins_succeeded, logins_failed;
        struct metrics_histogram migration_seconds;
        struct metrics_histogram pause_seconds;
        struct metrics_histogram queue_seconds[N_QUEUE_PRIORITIES]; /* from the request to the start */
        uint64_t switchovers[METRICS_N_PERMITS];
        uint64_t migrations_succeeded;
        uint64_t migrations_failed;
        uint64_t storage_migrations_succeeded;
        uint64_t storage_migrations_failed;
        uint64_t bytes_disks;
        uint64_t bytes_ram;
        uint64_t bytes_wire;
        uint64_t agent_calls;
        uint64_t agent_call_failures;
        struct metrics_histogram loop_seconds; /* how long each handler of the event loop ran */
        double loop_longest_seconds;
        struct map
                task_states; /* uid -> the state's name (static) of each retained task, once somebody has asked */
        bool task_states_known;
};

void metrics_init(struct metrics *metrics);
void metrics_deinit(struct metrics *metrics);

/* A task was recorded with that state; NULL: it was forgotten. */
void metrics_task(struct metrics *metrics, const char *uid, const char *state);
/* Any of them may be others now: they are read again when they are asked for. */
void metrics_tasks_changed(struct metrics *metrics);

/* Counts an ended migration; `result` is the result document or NULL. */
void metrics_migration(struct metrics *metrics, bool succeeded, const json_t *result);

/* The same for one of disks alone. */
void metrics_storage_migration(struct metrics *metrics, bool succeeded, const json_t *result);
/* Counts a migration that starts after it has waited in the queue. */
void metrics_queued(struct metrics *metrics, enum queue_priority priority, uint64_t waited_ms);

/* Counts a handler of the event loop; `metrics` is a struct metrics. */
void metrics_loop(void *metrics, uint64_t ns);

/* Writes the text (format 0.0.4). */
int metrics_write(struct manager *manager, struct buf *out, struct error **ret_error);
