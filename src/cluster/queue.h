/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The queue of migrations: what each one costs, how much may be under way at once, and who comes next. Pure: a picture of
 * the moment in (resources with their limits, jobs that hold or want some of them), a decision out.
 *
 * Costs are those of vSphere (vCenter Server and Host Management, "Limits on Simultaneous Migrations"): a host takes 8 units,
 * a datastore 128, the network of a host 4, or 8 from 10 Gbit/s on. A live migration costs 1 on each of its two hosts, on their
 * networks and on each datastore of the VM; one that takes disks along 4 on the hosts and 16 on the datastores. Two more
 * resources are amounts rather than costs: memory at the destination, and the bandwidth that a migration was promised.
 *
 * Order. A level of priority is worth `level_ms` of waiting: jobs stand in the order of (time of arrival - level x level_ms). So
 * nothing that arrives more than three levels' time after a job can come before it, and each job has only so many before it.
 *
 * Start. In that order, a job starts when there is room for all that it needs. One that must wait keeps what it needs free of those
 * behind it, unless an earlier one waits for one of the same resources already. So the first one's needs can only become
 * free, and whoever waits for other things runs by. Together: no job starves. (What needs more than a whole limit runs alone there.)
 *
 * docs/decisions/0011 has the alternatives. */

#include "base/error.h"
#include "base/macros.h"

#define QUEUE_PRIORITIES(X) \
        X(LOW, "low") \
        X(NORMAL, "normal") \
        X(HIGH, "high") \
        X(CRITICAL, "critical")

enum queue_priority {
#define X(name, text) QUEUE_##name,
        QUEUE_PRIORITIES(X)
#undef X
                N_QUEUE_PRIORITIES,
};
const char *queue_priority_to_string(enum queue_priority priority);
/* -EINVAL for another word. */
int queue_priority_from_string(const char *text, enum queue_priority *ret_priority);
/* How processors and links are shared by migrations of different priority: each level has twice the part of the one below. */
unsigned int queue_priority_weight(enum queue_priority priority);

enum queue_kind {
        QUEUE_HOST,
        QUEUE_NETWORK, /* of a host: what migrations use */
        QUEUE_DATASTORE,
        QUEUE_MEMORY,    /* bytes that a destination has room for */
        QUEUE_BANDWIDTH, /* bit/s that a host's network can promise */
        N_QUEUE_KINDS,
};
/* "host", "network", ... */
const char *queue_kind_to_string(enum queue_kind kind);

struct queue_limits {
        uint64_t host;
        uint64_t datastore;
        uint64_t network;      /* of a link below QUEUE_FAST_LINK_BPS, or of unknown speed */
        uint64_t network_fast; /* of a faster one */
        uint64_t level_ms;     /* what a level of priority is worth */
};
#define QUEUE_LIMITS_DEFAULT \
        ((struct queue_limits){ \
                .host = 8, .datastore = 128, .network = 4, .network_fast = 8, .level_ms = 600000})
#define QUEUE_FAST_LINK_BPS UINT64_C(10000000000)

uint64_t queue_network_limit(const struct queue_limits *limits, uint64_t link_bps);
/* Where a job stands in the order: the smallest comes first. */
int64_t queue_rank_ms(const struct queue_limits *limits, enum queue_priority priority, int64_t queued_ms);
/* What a migration costs on each of its resources of the kind; `with_disks`: it takes disks along. MEMORY and BANDWIDTH have
 * no fixed cost: 0. */
uint64_t queue_cost(enum queue_kind kind, bool with_disks);

struct queue_demand {
        size_t resource; /* queue_resource() */
        uint64_t units;
};

/* A place that a job may go to, best first. */
struct queue_choice {
        const struct queue_demand *demands; /* beside those of the job */
        size_t n_demands;
};

struct queue_job {
        const char *name; /* unique; later names are later jobs */
        enum queue_priority priority;
        int64_t queued_ms; /* when it arrived; any clock that all jobs share */
        bool running;      /* holds its demands, choices are not looked at */
        bool held;         /* must not start now, whatever is free; keeps nothing free either */
        const struct queue_demand *demands;
        size_t n_demands;
        const struct queue_choice *choices;
        size_t n_choices; /* 0: no place is known: it waits */
};

struct queue;

int queue_new(const struct queue_limits *limits, struct queue **ret_queue);
void queue_free(struct queue *queue);
DEFINE_CLEANUP(struct queue *, queue_free)

/* Finds the resource, or adds it with this limit. *ret_resource: for demands. -ENOMEM. */
int queue_resource(
        struct queue *queue, enum queue_kind kind, const char *name, uint64_t limit, size_t *ret_resource);
/* Adds a job; everything is copied. -ENOMEM. */
int queue_add(struct queue *queue, const struct queue_job *job);

/* Decides about all jobs. -ENOMEM. */
int queue_decide(struct queue *queue);

/* What a job waits for, as it is now. */
struct queue_blocker {
        enum queue_kind kind;
        const char *name; /* borrowed from the queue */
        uint64_t used;    /* by those that run, this round's starts included */
        uint64_t kept;    /* kept free for others that wait before it */
        uint64_t limit;
        uint64_t needs;
};

#define QUEUE_BLOCKERS_MAX 8 /* the others are left out */

struct queue_verdict {
        bool starts;
        size_t choice;   /* of a job that starts, or the one that a waiting job waits for */
        size_t position; /* among those that wait, from 1; 0: it starts, or runs */
        struct queue_blocker blockers[QUEUE_BLOCKERS_MAX];
        size_t n_blockers; /* 0 for one that waits: it is held, or has no choice */
};

/* The verdict about a job, borrowed until the queue is freed; NULL for one that is not in the queue. */
const struct queue_verdict *queue_verdict(const struct queue *queue, const char *name);

/* False: the queue has no such resource. */
bool queue_find_resource(
        const struct queue *queue, enum queue_kind kind, const char *name, size_t *ret_resource);
/* How much of a resource is in use, this round's starts included. */
struct queue_usage {
        enum queue_kind kind;
        const char *name;
        uint64_t used;
        uint64_t limit;
};
size_t queue_n_resources(const struct queue *queue);
struct queue_usage queue_usage(const struct queue *queue, size_t resource);
/* The names of those that wait, first come first; borrowed. NULL behind the last. */
const char *queue_waiting(const struct queue *queue, size_t position);
