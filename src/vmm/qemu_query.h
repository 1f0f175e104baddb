/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Questions to a throw-away QEMU: a process with machine "none" that runs no guest, answers QMP queries and is killed. */

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"
#include "io/loop.h"

struct qemu_query;

/* Takes one answer; both are borrowed and exactly one of them is set (`refusal`: QEMU's error). It may ask more. A negative
 * result (with *ret_error) ends the query with that error. */
typedef int (*qemu_answer_fn)(struct qemu_query *query, void *userdata, const json_t *result,
        const struct error *refusal, struct error **ret_error);
/* Called once, from the loop, when the process is gone: NULL when everything was asked and answered; borrowed. */
typedef void (*qemu_query_fn)(void *userdata, const struct error *error);

/* Starts the binary at `path`, with that accelerator (NULL: QEMU's own choice, which for machine "none" is TCG). Ask
 * something then: it ends when no question is open. */
int qemu_query_start(struct loop *loop, const char *path, const char *accelerator, uint64_t timeout_ms,
        qemu_query_fn done, void *userdata, struct qemu_query **ret_query, struct error **ret_error);
/* `arguments` is taken over; may be NULL. */
int qemu_query_ask(struct qemu_query *query, const char *command, json_t *arguments, qemu_answer_fn answer,
        struct error **ret_error);
/* Ends it without a call of `done`; also to be called after it. Accepts NULL. */
void qemu_query_free(struct qemu_query *query);
DEFINE_CLEANUP(struct qemu_query *, qemu_query_free)
