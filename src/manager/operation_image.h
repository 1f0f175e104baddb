/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Work on images that agents do for tasks (src/agent/image_jobs.h): what the kinds of tasks share. */

#include <jansson.h>

#include "base/error.h"
#include "manager/operations.h"

struct manager;
struct task;

/* The format that a file's name ends in ("raw" for .img), or NULL. */
const char *operation_image_format(const char *path);

/* CHECK_FAILED, UNREACHABLE, NOT_SUPPORTED, CONFLICT (host is NULL) unless the host (document) can work on images on these datastores, a list that NULL ends. */
int operation_image_check_host(
        struct manager *manager, const json_t *host, const char *const *datastores, struct error **ret_error);
/* CONFLICT unless the VM (document) is off. */
int operation_image_check_off(const json_t *vm, struct error **ret_error);
/* Where an export may go; *ret_format (static) is told by the name. */
int operation_image_check_export_path(
        struct manager *manager, const char *path, const char **ret_format, struct error **ret_error);
/* The same for a whole VM. */
int operation_image_check_archive_path(struct manager *manager, const char *path, struct error **ret_error);

/* Steps: data "job" is what the agent of data "host_uid" is asked for; data "outcome" is its result after `follow`. Undoing `start` removes what was made. */
void operation_image_start(struct task *task, void *userdata);
void operation_image_undo(struct task *task, void *userdata);
void operation_image_follow(struct task *task, void *userdata);
void operation_image_forget(struct task *task, void *userdata);
/* Whether an agent that did not answer is to be asked once more to forget a job. */
bool operation_image_forgets_again(
        const struct task *task, const struct manager *manager, const struct error *error);

/* For steps that do several one after the other: asks the agent for data "job", which begins it if it has not; fn gets the job as it is. */
void operation_image_ask(struct task *task, struct manager *manager, step_reply_fn fn);
/* What that answer means: 1: it is made (data "outcome"); 0: to be asked for again; negative: the step has ended, or goes on by itself. */
int operation_image_judge(struct task *task, struct manager *manager, json_t *body, struct error *error);
