/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>

#include "base/doc.h"
#include "cli/collection.h"
#include "cli/per_host.h"
#include "cli/task.h"

static const struct output_column switch_columns[] = {{"SWITCH", "name", false},
        {"UPLINK", "spec.uplink", false}, {"MTU", "spec.mtu", false}, {"HOSTS", "status.hosts", true}, {0}};
static const struct output_column port_group_columns[] = {{"PORT GROUP", "name", false},
        {"SWITCH", "spec.switch", false}, {"VLAN", "spec.vlan", false}, {"HOSTS", "status.hosts", true}, {0}};

int command_network_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *switches = NULL, *port_groups = NULL, *both = NULL;
        int r = collection_get(cli, "/switches", 0, &switches, ret_error);

        if (r == 0)
                r = collection_get(cli, "/port-groups", 0, &port_groups, ret_error);
        if (r < 0)
                return r;
        if (cli->format == OUTPUT_TABLE) {
                r = output_table(cli, json_object_get(switches, "items"), switch_columns, ret_error);
                if (r < 0)
                        return r;
                fputc('\n', cli->out);
                return output_table(
                        cli, json_object_get(port_groups, "items"), port_group_columns, ret_error);
        }
        both = json_pack("{s:O, s:O}", "switches", switches, "port_groups", port_groups);
        return both ? output_document(cli, both, ret_error)
                    : error_from_errno(ret_error, ENOMEM, "cannot print the networks");
}

int command_network_switch_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_print(cli, "/switches", 0, switch_columns, ret_error);
}

int command_network_switch_add(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *uplinks = NULL, *body = NULL;
        uint64_t mtu = 1500;
        int r = per_host_map(arguments, "uplink-on", &uplinks, ret_error);

        if (r < 0)
                return r;
        (void)arguments_number(arguments, "mtu", &mtu);
        body = json_pack("{s:s, s:{s:s*, s:I, s:O*}}", "name", arguments_operand(arguments, 0), "spec",
                "uplink", arguments_text(arguments, "uplink"), "mtu", (json_int_t)mtu, "uplinks", uplinks);
        if (!body)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "option --uplink is not UTF-8 text");
        return task_request(cli, "POST", "/switches", TAKE_PTR(body), ret_error);
}

int command_network_switch_remove(
        struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_act(
                cli, "DELETE", "/switches", arguments_operand(arguments, 0), "", NULL, ret_error);
}

int command_network_port_group_list(
        struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_print(cli, "/port-groups", 0, port_group_columns, ret_error);
}

int command_network_port_group_add(
        struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        uint64_t vlan = 0;
        json_t *body;

        (void)arguments_number(arguments, "vlan", &vlan);
        body = json_pack("{s:s, s:{s:s, s:I}}", "name", arguments_operand(arguments, 0), "spec", "switch",
                arguments_text(arguments, "switch"), "vlan", (json_int_t)vlan);
        return body ? task_request(cli, "POST", "/port-groups", body, ret_error)
                    : error_from_errno(ret_error, ENOMEM, "cannot make the request");
}

int command_network_port_group_remove(
        struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_act(
                cli, "DELETE", "/port-groups", arguments_operand(arguments, 0), "", NULL, ret_error);
}
