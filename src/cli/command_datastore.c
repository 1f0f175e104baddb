/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>

#include "base/doc.h"
#include "cli/collection.h"
#include "cli/per_host.h"
#include "cli/task.h"

static const struct output_column columns[] = {{"NAME", "name", false}, {"PATH", "spec.path", false},
        {"SHARED", "spec.shared", false}, {"HOSTS", "status.hosts", true}, {"ID", "status.id", false}, {0}};

int command_datastore_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_print(cli, "/datastores", 0, columns, ret_error);
}

int command_datastore_show(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_show(cli, "/datastores", arguments_operand(arguments, 0), ret_error);
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
        return task_request(cli, "POST", "/datastores", TAKE_PTR(body), ret_error);
}

int command_datastore_remove(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_act(
                cli, "DELETE", "/datastores", arguments_operand(arguments, 0), "", NULL, ret_error);
}
