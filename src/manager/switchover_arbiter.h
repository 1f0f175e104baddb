/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Permits the final pauses of migrations, one at a time on each host's link (cluster/switchovers.h). The source's agent asks in the
 * status of its migration; the step that follows the migration answers.
 *
 * Each permit is recorded with its task before it is sent, so that a manager that starts again knows of it. Until it has heard of
 * every migration that was under way, or for as long as an agent's patience lasts, it permits nothing on their links: one of
 * them may have gone on alone. A link is not kept for ever by an agent that does not answer: its permit ends by itself.
 *
 * Data of the task, key "switchover": state ("asked", "permitted", "over"), asked_unix_ms, permitted_unix_ms, over_unix_ms. */

#include <jansson.h>

#include "base/error.h"

/* How long an agent waits without a word of ours. */
#define SWITCHOVER_PATIENCE_MS 15000
/* How long it may take from the permit to the pause. */
#define SWITCHOVER_PERMIT_MS 10000

struct manager;
struct switchover_arbiter;
struct task;

int switchover_arbiter_new(struct manager *manager, struct switchover_arbiter **ret_arbiter);
void switchover_arbiter_free(struct switchover_arbiter *arbiter);

/* The body to answer the source with, after what it said of its migration (its status document); NULL without an error: nothing is to be
 * said. The caller's. */
int switchover_arbiter_hear(struct switchover_arbiter *arbiter, struct task *task, const json_t *status,
        json_t **ret_answer, struct error **ret_error);
/* The task has ended. */
void switchover_arbiter_forget(struct switchover_arbiter *arbiter, const struct task *task);
