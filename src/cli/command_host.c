/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "cli/collection.h"
#include "cli/moves_option.h"
#include "cli/report.h"
#include "cli/scope_option.h"
#include "cli/task.h"

static const struct output_column columns[] = {{"NAME", "name", false}, {"ADDRESS", "spec.address", false},
        {"STATE", "status.state", false}, {"MAINTENANCE", "status.maintenance.state", false},
        {"VMS", "status.n_vms", false}, {"CPUS", "status.cpus", false}, {"LOAD", "status.load1", false},
        {"MEMORY", "status.memory_bytes", false}, {"FREE", "status.memory_free_bytes", false},
        {"QEMU", "status.qemu.version", false}, {"MESSAGE", "status.message", false}, {0}};

int command_host_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_print(cli, "/hosts", 0, columns, ret_error);
}

int command_host_show(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_show(cli, "/hosts", arguments_operand(arguments, 0), ret_error);
}

/* The manager's address as agents reach it: that of the URL in use. */
static const char *manager_address(const struct cli *cli)
{
        const char *scheme_end = strstr(api_server(cli->api), "://");

        return scheme_end ? scheme_end + 3 : api_server(cli->api);
}

/* What to do next, for people; the document for scripts. */
static int print_enrolment(const struct cli *cli, const json_t *answer, struct error **ret_error)
{
        const char *token = json_string_value(json_object_get(answer, "enrol_token"));

        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, answer, ret_error);
        if (!token)
                return error_set(
                        ret_error, ERROR_PROTOCOL, NULL, "the manager's answer holds no enrolment token");
        fputs("On the host, run this once:\n\n  drover-agent enrol --manager ", cli->out);
        output_text(cli->out, manager_address(cli), false);
        fputs(" --token ", cli->out);
        output_text(cli->out, token, false);
        fputs("\n\nThe token works until ", cli->out);
        output_text(cli->out, json_string_value(json_object_get(answer, "expires")) ?: "?", false);
        fputs(".\n", cli->out);
        return 0;
}

static int post_enrolment(struct cli *cli, const char *path, const json_t *body, struct error **ret_error)
{
        _cleanup_json_ json_t *answer = NULL;
        int r = api_call(cli->api, "POST", path, body, &answer, NULL, ret_error);

        return r < 0 ? r : print_enrolment(cli, answer, ret_error);
}

int command_host_add(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        const char *address = arguments_operand(arguments, 0), *name = arguments_text(arguments, "name"),
                   *migration_address = arguments_text(arguments, "migration-address");
        _cleanup_json_ json_t *body = NULL, *labels = NULL;
        char from_address[NAME_MAX_CHARS + 1];

        if (!name) {
                snprintf(from_address, sizeof(from_address), "%.*s", (int)strcspn(address, ":"), address);
                name = from_address;
        }
        if (!text_is_name(name))
                return error_set(ret_error, ERROR_BAD_REQUEST, "add --name NAME",
                        "no host can be called by the address '%s'", address);
        if (labels_option(arguments, "label", &labels, ret_error) < 0)
                return -EINVAL;
        body = json_pack("{s:s, s:s, s:s*, s:O*}", "name", name, "address", address, "migration_address",
                migration_address, "labels", labels);
        if (!body)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the address is not UTF-8 text");
        return post_enrolment(cli, "/hosts", body, ret_error);
}

int command_host_enrol_token(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("/hosts/%s/enrol-token", arguments_operand(arguments, 0));

        if (!path)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        return post_enrolment(cli, path, NULL, ret_error);
}

/* 0 when whoever sits at the terminal has typed "yes". */
static int ask_if_down(const struct cli *cli, const char *host, struct error **ret_error)
{
        char answer[8] = "";

        if (!cli->in)
                return error_set(ret_error, ERROR_BAD_REQUEST, "add --yes when you are sure that it is down",
                        "there is no terminal at which to confirm that host %s is down", host);
        fprintf(cli->err,
                "You state that host %s is powered off, or that for another reason none of its virtual\n"
                "machines can be running. They will count as crashed and may be started on other hosts.\n"
                "If one of them still runs, it may then run twice and destroy its disks. That the host\n"
                "cannot be reached is not enough.\n\nType \"yes\" if it is certainly down: ",
                host);
        fflush(cli->err);
        if (!fgets(answer, sizeof(answer), cli->in) || strcmp(answer, "yes\n") != 0)
                return error_set(ret_error, ERROR_CANCELLED, NULL, "nothing was changed");
        return 0;
}

int command_host_confirm_down(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        const char *host = arguments_operand(arguments, 0);
        _cleanup_free_ char *path = alloc_printf("/hosts/%s/confirm-down", host);
        _cleanup_json_ json_t *answer = NULL;
        int r = arguments_flag(arguments, "yes") ? 0 : ask_if_down(cli, host, ret_error);

        if (r < 0)
                return r;
        if (!path)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        r = api_call(cli->api, "POST", path, NULL, &answer, NULL, ret_error);
        if (r < 0)
                return r;
        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, answer, ret_error);
        fputs("Host ", cli->out);
        output_text(cli->out, host, false);
        fputs(" is confirmed down until its agent answers again.\n", cli->out);
        return 0;
}

static void remove_labels(const struct arguments *arguments, json_t *labels)
{
        const char *key;
        size_t position = 0;

        while ((key = arguments_next(arguments, "remove", &position)))
                (void)json_object_del(labels, key);
}

int command_host_label(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("/hosts/%s", arguments_operand(arguments, 0));
        _cleanup_json_ json_t *host = NULL, *labels = NULL, *body = NULL, *answer = NULL;
        json_t *spec;
        int r;

        if (!path)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        r = api_call(cli->api, "GET", path, NULL, &host, NULL, ret_error);
        if (r < 0)
                return r;
        spec = json_object_get(host, "spec");
        labels = json_deep_copy(json_object_get(spec, "labels")) ?: json_object();
        r = labels_option(arguments, "set", &labels, ret_error);
        if (r < 0)
                return r;
        remove_labels(arguments, labels);
        body = json_object_set(spec, "labels", labels) < 0 ? NULL : json_pack("{s:O}", "spec", spec);
        if (!body)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        api_set_match(cli->api, json_integer_value(json_object_get(host, "revision")));
        r = api_call(cli->api, "PUT", path, body, &answer, NULL, ret_error);
        return r < 0 ? r : output_document(cli, answer, ret_error);
}

int command_host_remove(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_act(cli, "DELETE", "/hosts", arguments_operand(arguments, 0),
                arguments_flag(arguments, "force") ? "?force=true" : "", NULL, ret_error);
}

int command_host_maintenance(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        bool on = arguments_flag(arguments, "on"), dry = arguments_flag(arguments, "dry-run");
        _cleanup_free_ char *path = alloc_printf("/hosts/%s/maintenance", arguments_operand(arguments, 0));
        _cleanup_json_ json_t *body = json_pack("{s:b, s:b}", "on", on, "dry_run", dry);
        int r = path && body ? 0 : error_from_errno(ret_error, ENOMEM, "cannot make the request");

        if (r == 0 && on == arguments_flag(arguments, "off"))
                r = error_set(ret_error, ERROR_BAD_REQUEST, "add --on or --off",
                        "whether it begins or ends must be said");
        if (r == 0 && arguments_flag(arguments, "return") &&
                json_object_set_new(body, "return", json_true()) < 0)
                r = error_from_errno(ret_error, ENOMEM, "cannot make the request");
        if (r == 0)
                r = moves_options(arguments, body, ret_error);
        if (r < 0)
                return r;
        return dry ? report_plan(cli, path, TAKE_PTR(body), ret_error)
                   : task_request(cli, "POST", path, TAKE_PTR(body), ret_error);
}
