/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Following a task to its end, whatever the command that started it. */

#include "cli/cli.h"

/* Sends a request that makes a task and ends the command as the user asked: with --no-wait it prints the task,
 * else it follows it. `body` (taken over) may be NULL; `path` is borrowed. An answer that is no task is printed. */
int task_request(
        struct cli *cli, const char *method, const char *path, json_t *body, struct error **ret_error);

/* Shows the task's progress until it has ended and prints its result. The task's error is returned as the
 * command's; an interrupt detaches (cli->status), a second one cancels the task. */
int task_follow(struct cli *cli, const json_t *task, struct error **ret_error);
