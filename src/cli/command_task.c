/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cli/collection.h"
#include "cli/task.h"

#define PATH_MAX_BYTES 1024
#define LIMIT_DEFAULT 50

static const struct output_column columns[] = {{"TASK", "name", false}, {"ACTION", "spec.action", false},
        {"OBJECT", "spec.object", false}, {"BY", "spec.by", false}, {"STATE", "status.state", false},
        {"STEP", "status.step", false}, {"CREATED", "status.created", false},
        {"WAITS FOR", "status.queue.message", false}, {"ERROR", "status.error.detail", false}, {0}};

int command_task_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        const char *state = arguments_flag(arguments, "active") ? "active" : NULL;
        uint64_t limit = LIMIT_DEFAULT;
        _cleanup_buf_ struct buf path;
        char limit_text[24];

        (void)arguments_number(arguments, "limit", &limit);
        snprintf(limit_text, sizeof(limit_text), "%llu", (unsigned long long)limit);
        buf_init(&path, PATH_MAX_BYTES);
        if (buf_append_string(&path, "/tasks") < 0 || api_query(&path, "limit", limit_text) < 0 ||
                api_query(&path, "state", state) < 0 ||
                api_query(&path, "object", arguments_text(arguments, "object")) < 0 ||
                api_query(&path, "action", arguments_text(arguments, "action")) < 0)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the filter is too long");
        return collection_print(cli, buf_string(&path), limit, columns, ret_error);
}

int command_task_show(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_show(cli, "/tasks", arguments_operand(arguments, 0), ret_error);
}

int command_task_watch(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("/tasks/%s", arguments_operand(arguments, 0));
        _cleanup_json_ json_t *task = NULL;
        int r;

        if (!path)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        r = api_call(cli->api, "GET", path, NULL, &task, NULL, ret_error);
        return r < 0 ? r : task_follow(cli, task, ret_error);
}

int command_task_cancel(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("/tasks/%s/cancel", arguments_operand(arguments, 0));
        _cleanup_json_ json_t *task = NULL;
        int r;

        if (!path)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        r = api_call(cli->api, "POST", path, NULL, &task, NULL, ret_error);
        if (r < 0)
                return r;
        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, task, ret_error);
        fprintf(cli->out, "%s: asked to stop; see 'drover task show %s'\n", arguments_operand(arguments, 0),
                arguments_operand(arguments, 0));
        return 0;
}
