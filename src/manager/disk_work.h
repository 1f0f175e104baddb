/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What tasks that have an agent change disk images in place share: vm.resize-disk and vm.snapshot-*. */

#include <jansson.h>

#include "base/error.h"
#include "manager/operations.h"

/* Whether the images of the VM's (a document) disks of these names (array) can be worked on: the VM runs, is paused or off; nobody else has
 * them; the agent of its host, *ret_host (borrowed), can. */
int disk_work_check(struct manager *manager, const json_t *vm, const json_t *names, const json_t **ret_host,
        struct error **ret_error);

/* Calls it for a step. snapshot: its name in the images, or NULL; size_bytes: 0, or of a resize. fn gets {"disks": [{"name", "size_bytes"}],
 * "live"}, and the call is repeated until there is an answer, as step_call() does. */
void disk_work_call(struct task *task, struct manager *manager, const char *work, const json_t *names,
        const char *snapshot, uint64_t size_bytes, step_reply_fn fn);

/* Sizes in an agent's answer, which may be anything: array of {"name", "size_bytes"} of the disks of these names, the caller's. NULL without
 * memory. */
json_t *disk_work_sizes(const json_t *body, const json_t *names);
/* The task's result, of what it was about (`key`: `name`) and these sizes. */
void disk_work_set_result(
        struct task *task, const char *key, const char *name, const json_t *sizes, const json_t *body);

/* For a call that cannot be taken back: the task ends with what the host answers. */
void disk_work_cancel_later(struct task *task, void *userdata);
/* The VM of the task; NULL: it is gone, and the step has failed. */
const json_t *disk_work_vm(struct task *task, struct manager *manager);
/* Where it is, into the task's data. 0 or -ENOMEM. */
int disk_work_remember_host(struct task *task, const json_t *host);
