/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include "base/doc.h"
#include "cli/collection.h"
#include "cli/per_host.h"

static const struct output_column columns[] = {{"NAME", "name", false}, {"TYPE", "spec.type", false},
        {"MODE", "spec.mode", false}, {"VMS", "spec.vms", false}, {"HOSTS", "spec.hosts", false}, {0}};

int command_affinity_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_print(cli, "/affinity-rules", 0, columns, ret_error);
}

int command_affinity_show(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_show(cli, "/affinity-rules", arguments_operand(arguments, 0), ret_error);
}

int command_affinity_add(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *body = NULL, *vms = NULL, *hosts = NULL, *answer = NULL;
        int r;

        r = per_host_list(arguments, "vm", &vms, ret_error);
        if (r == 0)
                r = per_host_list(arguments, "host", &hosts, ret_error);
        if (r < 0)
                return r;
        body = json_pack("{s:s, s:{s:s, s:s, s:O*, s:O*}}", "name", arguments_operand(arguments, 0), "spec",
                "type", arguments_text(arguments, "type"), "mode",
                arguments_flag(arguments, "should") ? "should" : "must", "vms", vms, "hosts", hosts);
        if (!body)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "cannot make the request");
        r = api_call(cli->api, "POST", "/affinity-rules", body, &answer, NULL, ret_error);
        return r < 0 ? r : output_document(cli, answer, ret_error);
}

int command_affinity_remove(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_act(
                cli, "DELETE", "/affinity-rules", arguments_operand(arguments, 0), "", NULL, ret_error);
}
