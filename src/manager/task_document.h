/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A task as it is in the store; the engine (task.c) changes it. */

#include "base/clock.h"
#include "manager/task.h"

/* Of a task that was just asked for, the `number`-th; the caller's, NULL without memory. */
json_t *task_document_new(const struct clock *clock, const struct task_kind *kind,
        const struct task_request *request, uint64_t number);
/* What the text of one that has not ended has in it; others may, too. */
#define TASK_UNFINISHED_TEXT "\"finished\":null"
/* It has not ended, as far as the document tells. */
bool task_document_unfinished(const json_t *doc);
