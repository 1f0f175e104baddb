/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cli/collection.h"
#include "cli/pool_options.h"

static const struct output_column columns[] = {{"NAME", "name", false}, {"VMS", "status.used.vms", false},
        {"MAX", "spec.limits.vms", false}, {"CPUS", "status.used.cpus", false},
        {"MAX", "spec.limits.cpus", false}, {"MEMORY", "status.used.memory_bytes", false},
        {"MAX", "spec.limits.memory_bytes", false}, {"RESERVED", "spec.reservation.memory_bytes", false},
        {0}};

int command_pool_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_print(cli, "/pools", 0, columns, ret_error);
}

int command_pool_show(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_show(cli, "/pools", arguments_operand(arguments, 0), ret_error);
}

int command_pool_create(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *body =
                json_pack("{s:s, s:{}}", "name", arguments_operand(arguments, 0), "spec");
        _cleanup_json_ json_t *answer = NULL;
        int r;

        if (!body)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        r = pool_options_apply(arguments, json_object_get(body, "spec"), ret_error);
        if (r >= 0)
                r = api_call(cli->api, "POST", "/pools", body, &answer, NULL, ret_error);
        return r < 0 ? r : output_document(cli, answer, ret_error);
}

int command_pool_set(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("/pools/%s", arguments_operand(arguments, 0));
        _cleanup_json_ json_t *pool = NULL, *body = NULL, *answer = NULL;
        int r = path ? api_call(cli->api, "GET", path, NULL, &pool, NULL, ret_error)
                     : error_from_errno(ret_error, ENOMEM, "cannot make the request");

        if (r < 0)
                return r;
        body = json_pack("{s:O}", "spec", json_object_get(pool, "spec"));
        if (!body)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        r = pool_options_apply(arguments, json_object_get(body, "spec"), ret_error);
        if (r < 0)
                return r;
        api_set_match(cli->api, json_integer_value(json_object_get(pool, "revision")));
        r = api_call(cli->api, "PUT", path, body, &answer, NULL, ret_error);
        return r < 0 ? r : output_document(cli, answer, ret_error);
}

int command_pool_delete(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_act(cli, "DELETE", "/pools", arguments_operand(arguments, 0), "", NULL, ret_error);
}
