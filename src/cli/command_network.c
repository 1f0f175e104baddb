/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cli/api.h"
#include "cli/collection.h"
#include "cli/per_host.h"
#include "cli/task.h"

static const struct output_column switch_columns[] = {{"SWITCH", "name", false}, {"TYPE", "spec.type", false},
        {"VERSION", "status.version", false}, {"UPLINK", "spec.uplink", false}, {"MTU", "spec.mtu", false},
        {"HOSTS", "status.hosts", true}, {0}};
static const struct output_column version_columns[] = {{"HOST", "host", false}, {"VERSION", "version", false},
        {"OK", "ok", false}, {"DRIFT", "drift", true}, {"MENDED", "mended.count", false},
        {"MESSAGE", "message", false}, {0}};
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

/* What every host says of it, as rows. */
static json_t *host_rows(const json_t *doc)
{
        json_t *rows = json_array(), *answer;
        const char *host;

        json_object_foreach (json_object_get(json_object_get(doc, "status"), "hosts"), host, answer) {
                json_t *row = json_copy(answer), *drift = json_object_get(row, "drift");
                const char *first = json_string_value(json_array_get(drift, 0));

                /* What is wrong comes before what was wrong. */
                if (row && first && !json_is_string(json_object_get(row, "message")))
                        (void)json_object_set_new(row, "message", json_string(first));
                if (!row || json_object_set_new(row, "host", json_string(host)) < 0 ||
                        json_array_append(rows, row) < 0) {
                        json_decref(row);
                        json_decref(rows);
                        return NULL;
                }
                json_decref(row);
        }
        return rows;
}

static int get_switch(struct cli *cli, const char *name, json_t **ret_doc, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("/switches/%s", name);

        return path ? api_call(cli->api, "GET", path, NULL, ret_doc, NULL, ret_error)
                    : error_from_errno(ret_error, ENOMEM, "cannot make the request");
}

int command_network_switch_show(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *doc = NULL, *rows = NULL, *head = NULL;
        int r = get_switch(cli, arguments_operand(arguments, 0), &doc, ret_error);

        if (r < 0)
                return r;
        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, doc, ret_error);
        rows = host_rows(doc);
        head = json_pack("{s:O, s:O, s:O*}", "name", json_object_get(doc, "name"), "spec",
                json_object_get(doc, "spec"), "version",
                json_object_get(json_object_get(doc, "status"), "version"));
        if (!rows || !head)
                return error_from_errno(ret_error, ENOMEM, "cannot print the switch");
        r = output_document(cli, head, ret_error);
        if (r < 0)
                return r;
        fputc('\n', cli->out);
        return output_table(cli, rows, version_columns, ret_error);
}

/* Puts what the options say into a spec. */
static int take_options(const struct arguments *arguments, json_t *spec, struct error **ret_error)
{
        static const char *const texts[][2] = {
                {"uplink", "uplink"}, {"uplink-policy", "uplink_policy"}, {"bridge", "bridge"}};
        _cleanup_json_ json_t *uplinks = NULL, *hosts = NULL;
        uint64_t mtu;
        int r = per_host_map(arguments, "uplink-on", &uplinks, ret_error);

        if (r == 0)
                r = per_host_list(arguments, "host", &hosts, ret_error);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
                const char *text = arguments_text(arguments, texts[i][0]);

                if (text && json_object_set_new(spec, texts[i][1], json_string(text)) < 0)
                        return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "option --%s is not UTF-8 text",
                                texts[i][0]);
        }
        if ((arguments_number(arguments, "mtu", &mtu) &&
                    json_object_set_new(spec, "mtu", json_integer((json_int_t)mtu)) < 0) ||
                (uplinks && json_object_set(spec, "uplinks", uplinks) < 0) ||
                (hosts && json_object_set(spec, "hosts", hosts) < 0))
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        return 0;
}

int command_network_switch_add(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        bool distributed = arguments_flag(arguments, "distributed");
        _cleanup_json_ json_t *body =
                json_pack("{s:s, s:{s:i}}", "name", arguments_operand(arguments, 0), "spec", "mtu", 1500);
        json_t *spec = json_object_get(body, "spec");
        int r;

        if (!distributed &&
                (arguments_text(arguments, "uplink-policy") || arguments_text(arguments, "bridge")))
                return error_set(ret_error, ERROR_BAD_REQUEST, "add --distributed",
                        "--uplink-policy and --bridge are for distributed switches");
        if (!body || (distributed && json_object_set_new(spec, "type", json_string("distributed")) < 0))
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        r = take_options(arguments, spec, ret_error);
        return r < 0 ? r : task_request(cli, "POST", "/switches", TAKE_PTR(body), ret_error);
}

int command_network_switch_set(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        const char *name = arguments_operand(arguments, 0);
        _cleanup_free_ char *path = alloc_printf("/switches/%s", name);
        _cleanup_json_ json_t *doc = NULL, *body = NULL;
        int r = get_switch(cli, name, &doc, ret_error);

        if (r < 0)
                return r;
        body = json_pack("{s:O}", "spec", json_object_get(doc, "spec"));
        if (!path || !body)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        r = take_options(arguments, json_object_get(body, "spec"), ret_error);
        return r < 0 ? r : task_request(cli, "PUT", path, TAKE_PTR(body), ret_error);
}

int command_network_switch_upgrade(
        struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        json_t *body = json_pack("{s:s*}", "host", arguments_text(arguments, "host"));
        uint64_t version;

        if (!body || (arguments_number(arguments, "to-version", &version) &&
                             json_object_set_new(body, "version", json_integer((json_int_t)version)) < 0)) {
                json_decref(body);
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        }
        return collection_act(
                cli, "POST", "/switches", arguments_operand(arguments, 0), "/upgrade", body, ret_error);
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
        _cleanup_json_ json_t *switches = NULL;
        uint64_t vlan = 0;
        json_t *body;
        int r = per_host_map(arguments, "switch-on", &switches, ret_error);

        if (r < 0)
                return r;
        (void)arguments_number(arguments, "vlan", &vlan);
        body = json_pack("{s:s, s:{s:s, s:I, s:O*, s:o*}}", "name", arguments_operand(arguments, 0), "spec",
                "switch", arguments_text(arguments, "switch"), "vlan", (json_int_t)vlan, "switches", switches,
                "allow_standard", arguments_flag(arguments, "allow-standard") ? json_true() : NULL);
        return body ? task_request(cli, "POST", "/port-groups", body, ret_error)
                    : error_from_errno(ret_error, ENOMEM, "cannot make the request");
}

int command_network_port_group_remove(
        struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_act(
                cli, "DELETE", "/port-groups", arguments_operand(arguments, 0), "", NULL, ret_error);
}
