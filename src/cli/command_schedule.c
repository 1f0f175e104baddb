/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cli/collection.h"
#include "cli/moves_option.h"
#include "cli/per_host.h"
#include "cli/report.h"
#include "cli/task.h"

static const struct output_column columns[] = {{"NAME", "name", false}, {"STATE", "status.state", false},
        {"WHEN", "when", false}, {"ZONE", "spec.time_zone", false}, {"NEXT RUN", "status.next.local", false},
        {"ACTION", "what", false}, {"LAST", "last", false}, {0}};
static const struct output_column next_columns[] = {
        {"LOCAL TIME", "local", false}, {"UTC", "time", false}, {"WINDOW ENDS", "window_end", false}, {0}};

static int no_memory(struct error **ret_error)
{
        return error_from_errno(ret_error, ENOMEM, "cannot make the request");
}

static const char *text_of(const json_t *object, const char *path)
{
        return json_string_value(output_lookup(object, path)) ?: "";
}

/* "empty host1", "migrate tier=web", ... */
static json_t *describe_action(const json_t *item)
{
        const json_t *action = output_lookup(item, "spec.action"), *vms = json_object_get(action, "vms");
        const char *host = text_of(action, "host");

        if (!strcmp(text_of(action, "type"), "maintenance"))
                return json_sprintf("%s %s",
                        json_is_true(json_object_get(action, "on")) ? "maintenance of"
                                                                    : "end of maintenance of",
                        host);
        if (json_is_string(json_object_get(action, "label")))
                return json_sprintf("migrate %s", text_of(action, "label"));
        return json_sprintf("migrate %s%s", json_string_value(json_array_get(vms, 0)) ?: "?",
                json_array_size(vms) > 1 ? ", ..." : "");
}

static int add_cells(json_t *items)
{
        json_t *item;
        size_t i;
        int r = 0;

        json_array_foreach (items, i, item) {
                const json_t *run = json_array_get(output_lookup(item, "status.runs"), 0);
                const char *at = text_of(item, "spec.at"), *state = text_of(run, "state");

                r |= json_object_set_new(
                        item, "when", json_string(*at ? at : text_of(item, "spec.calendar")));
                r |= json_object_set_new(item, "what", describe_action(item));
                r |= json_object_set_new(item, "last", json_string(*state ? state : text_of(run, "outcome")));
        }
        return r;
}

int command_schedule_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *list = NULL;
        int r = collection_get(cli, "/schedules", 0, &list, ret_error);

        if (r < 0)
                return r;
        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, list, ret_error);
        if (add_cells(json_object_get(list, "items")) < 0)
                return no_memory(ret_error);
        return output_table(cli, json_object_get(list, "items"), columns, ret_error);
}

int command_schedule_show(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_show(cli, "/schedules", arguments_operand(arguments, 0), ret_error);
}

/* What was asked for, of which there must be exactly one. */
static int make_action(const struct arguments *arguments, json_t **ret_action, struct error **ret_error)
{
        const char *empty = arguments_text(arguments, "maintenance-on"),
                   *open = arguments_text(arguments, "maintenance-off"),
                   *label = arguments_text(arguments, "label");
        _cleanup_json_ json_t *vms = NULL, *action = NULL;
        int r = per_host_list(arguments, "vm", &vms, ret_error);

        if (r < 0)
                return r;
        if (!!empty + !!open + !!label + !!vms != 1)
                return error_set(ret_error, ERROR_BAD_REQUEST,
                        "add --vm VM, --label KEY=VALUE, --maintenance-on HOST or "
                        "--maintenance-off HOST",
                        "what the schedule is for must be said once");
        if (empty || open)
                action = json_pack(
                        "{s:s, s:s, s:b}", "type", "maintenance", "host", empty ?: open, "on", empty != NULL);
        else
                action = json_pack("{s:s, s:O*, s:s*, s:s*}", "type", "migrate", "vms", vms, "label", label,
                        "to", arguments_text(arguments, "to"));
        if (action && arguments_flag(arguments, "return") &&
                json_object_set_new(action, "return", json_true()) < 0)
                return no_memory(ret_error);
        if (!action)
                return no_memory(ret_error);
        r = moves_options(arguments, action, ret_error);
        if (r == 0)
                *ret_action = TAKE_PTR(action);
        return r;
}

int command_schedule_create(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *body = NULL, *action = NULL, *answer = NULL;
        uint64_t window_ms;
        int r = make_action(arguments, &action, ret_error);

        if (r < 0)
                return r;
        body = json_pack("{s:s, s:{s:s*, s:s*, s:s*, s:s*, s:O}}", "name", arguments_operand(arguments, 0),
                "spec", "at", arguments_text(arguments, "at"), "calendar",
                arguments_text(arguments, "calendar"), "time_zone", arguments_text(arguments, "time-zone"),
                "missed", arguments_text(arguments, "missed"), "action", action);
        if (body && arguments_number(arguments, "window", &window_ms) &&
                json_object_set_new(
                        json_object_get(body, "spec"), "window_ms", json_integer((json_int_t)window_ms)) < 0)
                return no_memory(ret_error);
        if (!body)
                return no_memory(ret_error);
        r = api_call(cli->api, "POST", "/schedules", body, &answer, NULL, ret_error);
        return r < 0 ? r : output_document(cli, answer, ret_error);
}

int command_schedule_next(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *answer = NULL;
        int r = collection_get_some(
                cli, arguments, "/schedules", "/next?count=", "count", 10, &answer, ret_error);

        if (r < 0)
                return r;
        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, answer, ret_error);
        return output_table(cli, json_object_get(answer, "items"), next_columns, ret_error);
}

int command_schedule_run(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        bool dry = arguments_flag(arguments, "dry-run");
        _cleanup_free_ char *path = alloc_printf("/schedules/%s/run", arguments_operand(arguments, 0));
        json_t *body = json_pack("{s:b}", "dry_run", dry);

        if (!path || !body) {
                json_decref(body);
                return no_memory(ret_error);
        }
        return dry ? report_plan(cli, path, body, ret_error)
                   : task_request(cli, "POST", path, body, ret_error);
}

static int act(struct cli *cli, const struct arguments *arguments, const char *method, const char *suffix,
        struct error **ret_error)
{
        return collection_act(
                cli, method, "/schedules", arguments_operand(arguments, 0), suffix, NULL, ret_error);
}

int command_schedule_pause(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return act(cli, arguments, "POST", "/pause", ret_error);
}

int command_schedule_resume(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return act(cli, arguments, "POST", "/resume", ret_error);
}

int command_schedule_delete(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return act(cli, arguments, "DELETE", "", ret_error);
}
