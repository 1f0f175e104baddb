/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The manager's queue of migrations: asks cluster/queue.h which of the queued tasks may start, records with each one that
 * starts what it holds, and tells people what the others wait for.
 *
 * What has to last is in the tasks, and in the store whether the queue is drained (kind "queue"), so that a restart changes nothing:
 * queued tasks stay queued in their order, those under way hold what is in their record. The plan, and where each queued task may
 * go, are worked out anew. */

#include <jansson.h>

#include "base/buf.h"
#include "base/error.h"

struct manager;
struct migration_queue;
struct task;

int migration_queue_new(
        struct manager *manager, struct migration_queue **ret_queue, struct error **ret_error);
void migration_queue_free(struct migration_queue *queue);

/* A task came, went or is to go, or the queue was drained or resumed: what was decided does not hold any more. */
void migration_queue_changed(struct migration_queue *queue);
/* Milliseconds until something may have become free that no task tells of (a host's memory); UINT64_MAX: nobody waits. */
uint64_t migration_queue_next_ms(const struct migration_queue *queue);

bool migration_queue_is_drained(const struct migration_queue *queue);

/* For the kind vm.migrate: see struct task_kind. */
bool migration_queue_may_start(struct migration_queue *queue, const struct task *task);
int migration_queue_starting(struct migration_queue *queue, struct task *task);

/* A task's document (borrowed) with what it waits for in status.queue, if it waits; new, the caller's. */
json_t *migration_queue_live_task(struct migration_queue *queue, const json_t *doc);
/* The answer of GET /queue; the caller's. NULL without memory. */
json_t *migration_queue_document(struct migration_queue *queue);

struct store_batch;
/* Puts the change into the batch. *ret_change (the caller's) is for migration_queue_take_drained(). -ENOMEM. */
int migration_queue_set_drained(struct migration_queue *queue, bool drained, const char *by, const char *why,
        struct store_batch *batch, json_t **ret_change);
/* The batch is committed: the change counts from now on. */
void migration_queue_take_drained(struct migration_queue *queue, const json_t *change);
