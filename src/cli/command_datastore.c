/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cli/collection.h"
#include "cli/per_host.h"
#include "cli/report.h"
#include "cli/task.h"

static const struct output_column columns[] = {{"NAME", "name", false}, {"PATH", "spec.path", false},
        {"SHARED", "spec.shared", false}, {"HOSTS", "status.hosts", true},
        {"TYPE", "status.file_system", false}, {"CAPACITY", "status.capacity_bytes", false},
        {"FREE", "status.free_bytes", false}, {"PROMISED", "status.provisioned_bytes", false},
        {"MAX", "spec.overcommit", false}, {"LATENCY", "status.latency_ms", false},
        {"MAINTENANCE", "status.maintenance.state", false}, {0}};

int command_datastore_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_print(cli, "/datastores", 0, columns, ret_error);
}

int command_datastore_show(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_show(cli, "/datastores", arguments_operand(arguments, 0), ret_error);
}

/* spec.overcommit, when the option was given. */
static int apply_overcommit(const struct arguments *arguments, json_t *spec, struct error **ret_error)
{
        const char *text = arguments_text(arguments, "overcommit");
        bool none = text && !strcmp(text, "none");
        char *end = NULL;
        double ratio = 0;

        if (!text)
                return 0;
        if (!none) {
                ratio = strtod(text, &end);
                if (strspn(text, "0123456789.") != strlen(text) || !*text || *end)
                        return error_set(ret_error, ERROR_BAD_REQUEST, "give a number such as 1.5, or none",
                                "option --overcommit: '%s' is not a number", text);
        }
        return json_object_set_new(spec, "overcommit", none ? json_null() : json_real(ratio)) < 0
                       ? error_from_errno(ret_error, ENOMEM, "cannot make the request")
                       : 0;
}

int command_datastore_add(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        const char *path = arguments_operand(arguments, 1);
        _cleanup_json_ json_t *body = NULL, *paths = NULL, *hosts = NULL;
        json_t *spec;
        int r;

        if (*path != '/')
                return error_set(ret_error, ERROR_BAD_REQUEST,
                        "give the path from the root of the hosts' file system", "PATH: '%s' is not absolute",
                        path);
        r = per_host_map(arguments, "path-on", &paths, ret_error);
        if (r == 0)
                r = per_host_list(arguments, "host", &hosts, ret_error);
        if (r < 0)
                return r;
        body = json_pack("{s:s, s:{s:s, s:b}}", "name", arguments_operand(arguments, 0), "spec", "path", path,
                "shared", !arguments_flag(arguments, "local"));
        spec = json_object_get(body, "spec");
        if (!body || (paths && json_object_set(spec, "paths", paths) < 0) ||
                (hosts && json_object_set(spec, "hosts", hosts) < 0))
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the path is not UTF-8 text");
        r = apply_overcommit(arguments, spec, ret_error);
        return r < 0 ? r : task_request(cli, "POST", "/datastores", TAKE_PTR(body), ret_error);
}

int command_datastore_set(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("/datastores/%s", arguments_operand(arguments, 0));
        _cleanup_json_ json_t *datastore = NULL, *body = NULL;
        int r = path ? api_call(cli->api, "GET", path, NULL, &datastore, NULL, ret_error)
                     : error_from_errno(ret_error, ENOMEM, "cannot make the request");

        if (r < 0)
                return r;
        body = json_pack("{s:O}", "spec", json_object_get(datastore, "spec"));
        if (!body)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        r = apply_overcommit(arguments, json_object_get(body, "spec"), ret_error);
        if (r < 0)
                return r;
        api_set_match(cli->api, json_integer_value(json_object_get(datastore, "revision")));
        return task_request(cli, "PUT", path, TAKE_PTR(body), ret_error);
}

int command_datastore_remove(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_act(
                cli, "DELETE", "/datastores", arguments_operand(arguments, 0), "", NULL, ret_error);
}

static int maintenance_request(const struct arguments *arguments, json_t *body)
{
        static const char *const numbers[][2] = {{"tries", "tries"}, {"wait", "wait_ms"},
                {"max-pause", "max_pause_ms"}, {"rate-limit", "rate_limit_bps"}, {"give-up", "give_up_ms"}};
        const char *priority = arguments_text(arguments, "priority");
        uint64_t number;
        int r = 0;

        if (priority)
                r = json_object_set_new(body, "priority", json_string(priority));
        for (size_t i = 0; i < ARRAY_SIZE(numbers) && r == 0; i++)
                if (arguments_number(arguments, numbers[i][0], &number))
                        r = json_object_set_new(body, numbers[i][1], json_integer((json_int_t)number));
        return r;
}

int command_datastore_maintenance(
        struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        bool on = arguments_flag(arguments, "on"), dry = arguments_flag(arguments, "dry-run");
        _cleanup_free_ char *path =
                alloc_printf("/datastores/%s/maintenance", arguments_operand(arguments, 0));
        _cleanup_json_ json_t *body = json_pack("{s:b, s:b}", "on", on, "dry_run", dry);

        if (on == arguments_flag(arguments, "off"))
                return error_set(ret_error, ERROR_BAD_REQUEST, "add --on or --off",
                        "whether it begins or ends must be said");
        if (!path || !body || maintenance_request(arguments, body) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        return dry ? report_plan(cli, path, TAKE_PTR(body), ret_error)
                   : task_request(cli, "POST", path, TAKE_PTR(body), ret_error);
}
