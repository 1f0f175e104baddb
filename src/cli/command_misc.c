/* SPDX-License-Identifier: Apache-2.0 */
/* Commands about the program itself, and the event stream. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cli/collection.h"
#include "cli/completion.h"
#include "cli/interrupt.h"
#include "cli/manual.h"
#include "cli/usage.h"

#define PATH_MAX_BYTES 1024
#define RECONNECT_MS 1000

struct events {
        struct cli *cli;
        struct error *error;
};

/* "2041  vm  put  web1  running on host1" */
static void print_event(const struct cli *cli, const json_t *event)
{
        static const char *const fields[] = {"revision", "kind", "op", "name", "object.status.power",
                "object.status.state", "object.status.step", "object.status.host"};

        for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
                const json_t *value = output_lookup(event, fields[i]);
                _cleanup_free_ char *text =
                        value && !json_is_null(value) ? output_value_text(value, fields[i]) : NULL;

                if (!text)
                        continue;
                fputs(i ? "  " : "", cli->out);
                output_text(cli->out, text, false);
        }
        fputc('\n', cli->out);
        fflush(cli->out);
}

static bool take_event(void *userdata, const char *type, const json_t *data)
{
        struct events *events = userdata;

        if (events->cli->format == OUTPUT_TABLE) {
                print_event(events->cli, data);
                return !ferror(events->cli->out);
        }
        return output_record(events->cli, data, &events->error) == 0;
}

int command_events(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        struct events events = {.cli = cli};
        char last_id[64] = "", since[24];
        _cleanup_buf_ struct buf path;
        uint64_t revision;

        buf_init(&path, PATH_MAX_BYTES);
        if (buf_append_string(&path, "/events") < 0 ||
                api_query(&path, "kinds", arguments_text(arguments, "kinds")) < 0)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the filter is too long");
        if (arguments_number(arguments, "since", &revision)) {
                snprintf(since, sizeof(since), "%llu", (unsigned long long)revision);
                if (api_query(&path, "since", since) < 0)
                        return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        }
        interrupt_install();
        api_set_interrupts(cli->api, &interrupt_count);
        /* A manager that restarts closes the stream; the last id makes the next one go on where this one ended. */
        while (!interrupt_count) {
                _cleanup_error_ struct error *error = NULL;
                int r = api_stream(cli->api, buf_string(&path), last_id, take_event, &events, &error);

                if (events.error)
                        return error_propagate(ret_error, events.error);
                if (ferror(cli->out))
                        return 0;
                if (r < 0 && error && error->code != ERROR_CANCELLED &&
                        (!*last_id || (error->code != ERROR_UNREACHABLE && error->code != ERROR_NOT_LEADING &&
                                              error->code != ERROR_TIMED_OUT)))
                        return error_propagate(ret_error, TAKE_PTR(error));
                (void)interrupt_wait(0, RECONNECT_MS);
        }
        return 0;
}

int command_version(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *server = NULL, *both = NULL;
        int r = api_call(cli->api, "GET", "/version", NULL, &server, NULL, ret_error);

        if (r < 0)
                return r;
        both = json_pack("{s:s, s:O}", "client", DROVER_VERSION, "server", server);
        return both ? output_document(cli, both, ret_error)
                    : error_from_errno(ret_error, ENOMEM, "cannot print the versions");
}

int command_completion(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        if (completion_write(cli->out, arguments_operand(arguments, 0)))
                return 0;
        return error_set(ret_error, ERROR_BAD_REQUEST, "give one of: bash, zsh, fish",
                "SHELL: '%s' is not known", arguments_operand(arguments, 0));
}

int command_man(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        manual_write(cli->out);
        return 0;
}

int command_help(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        const struct command *command = command_find(arguments->operands, arguments->n_operands);

        if (command) {
                usage_command(cli->out, command);
                return 0;
        }
        if (!arguments->n_operands) {
                usage_program(cli->out);
                return 0;
        }
        for (size_t i = 0; i < n_command_table; i++)
                if (command_starts_with(&command_table[i], arguments->operands, arguments->n_operands)) {
                        usage_group(cli->out, arguments->operands, arguments->n_operands);
                        return 0;
                }
        return error_set(ret_error, ERROR_BAD_REQUEST, "'drover help' lists the commands",
                "there is no command '%s'", arguments_operand(arguments, 0));
}

int command_names(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        static const char *const collections[] = {"hosts", "vms", "tasks", "datastores", "switches",
                "port-groups", "affinity-rules", "pools", "schedules", "tokens", "users", "roles"};
        const char *wanted = arguments_operand(arguments, 0);

        for (size_t i = 0; i < ARRAY_SIZE(collections); i++) {
                _cleanup_free_ char *path = NULL;
                _cleanup_json_ json_t *list = NULL;
                json_t *item;
                size_t at;
                int r;

                if (strcmp(collections[i], wanted))
                        continue;
                path = alloc_printf("/%s?limit=200", wanted);
                if (!path)
                        return error_from_errno(ret_error, ENOMEM, "cannot make the request");
                r = collection_get(cli, path, 200, &list, ret_error);
                if (r < 0)
                        return r;
                json_array_foreach (json_object_get(list, "items"), at, item) {
                        output_text(cli->out, json_string_value(json_object_get(item, "name")) ?: "", false);
                        fputc('\n', cli->out);
                }
                return 0;
        }
        return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "COLLECTION: '%s' is not known", wanted);
}
