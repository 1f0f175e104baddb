/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include "base/doc.h"
#include "cli/output.h"

static const struct output_column waiting_columns[] = {{"#", "position", false}, {"TASK", "task", false},
        {"OBJECT", "object", false}, {"PRIORITY", "priority", false}, {"QUEUED", "queued", false},
        {"WAITS FOR", "message", false}, {0}};
static const struct output_column running_columns[] = {{"TASK", "task", false}, {"OBJECT", "object", false},
        {"PRIORITY", "priority", false}, {"QUEUED", "queued", false}, {0}};
static const struct output_column resource_columns[] = {
        {"RESOURCE", "resource", false}, {"USED", "used", false}, {"LIMIT", "limit", false}, {0}};

static int print_part(struct cli *cli, const char *heading, const json_t *items,
        const struct output_column *columns, struct error **ret_error)
{
        if (!json_array_size(items))
                return 0;
        fprintf(cli->out, "\n%s\n", heading);
        return output_table(cli, items, columns, ret_error);
}

static void print_text(struct cli *cli, const json_t *object, const char *key)
{
        output_text(cli->out, json_string_value(json_object_get(object, key)) ?: "", false);
}

static void print_state(struct cli *cli, const json_t *queue)
{
        const json_t *drained = json_object_get(queue, "drained");
        fprintf(cli->out, "%zu under way, %zu waiting", json_array_size(json_object_get(queue, "running")),
                json_array_size(json_object_get(queue, "waiting")));
        if (json_is_object(drained)) {
                fputs("; drained by ", cli->out);
                print_text(cli, drained, "by");
                fputs(" at ", cli->out);
                print_text(cli, drained, "since");
        }
        if (json_is_string(json_object_get(drained, "why"))) {
                fputs(": ", cli->out);
                print_text(cli, drained, "why");
        }
        fputc('\n', cli->out);
}

static int print_queue(struct cli *cli, const json_t *queue, struct error **ret_error)
{
        int r;

        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, queue, ret_error);
        print_state(cli, queue);
        r = print_part(cli, "Waiting, in the order in which they start:", json_object_get(queue, "waiting"),
                waiting_columns, ret_error);
        if (r >= 0)
                r = print_part(
                        cli, "Under way:", json_object_get(queue, "running"), running_columns, ret_error);
        if (r >= 0)
                r = print_part(
                        cli, "In use:", json_object_get(queue, "resources"), resource_columns, ret_error);
        return r;
}

static int ask(struct cli *cli, const char *method, const char *path, struct error **ret_error)
{
        _cleanup_json_ json_t *queue = NULL;
        int r = api_call(cli->api, method, path, NULL, &queue, NULL, ret_error);

        return r < 0 ? r : print_queue(cli, queue, ret_error);
}

int command_queue_show(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return ask(cli, "GET", "/queue", ret_error);
}

int command_queue_drain(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return ask(cli, "POST", "/queue/drain", ret_error);
}

int command_queue_resume(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return ask(cli, "POST", "/queue/resume", ret_error);
}
