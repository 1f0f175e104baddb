/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "cli/collection.h"
#include "cli/converge_option.h"
#include "cli/report.h"
#include "cli/task.h"
#include "cli/vm_spec.h"

#define PATH_MAX_BYTES 1024

static const struct output_column columns[] = {{"NAME", "name", false}, {"POWER", "status.power", false},
        {"HOST", "status.host", false}, {"CPUS", "spec.cpus", false}, {"MEMORY", "spec.memory_bytes", false},
        {"DISKS", "spec.disks", true}, {"MACHINE", "status.machine", false},
        {"MESSAGE", "status.message", false}, {0}};

static int no_memory(struct error **ret_error)
{
        return error_from_errno(ret_error, ENOMEM, "cannot make the request");
}

int command_vm_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_buf_ struct buf path;

        buf_init(&path, PATH_MAX_BYTES);
        if (buf_append_string(&path, "/vms") < 0 ||
                api_query(&path, "host", arguments_text(arguments, "host")) < 0 ||
                api_query(&path, "power", arguments_text(arguments, "power")) < 0)
                return no_memory(ret_error);
        return collection_print(cli, buf_string(&path), 0, columns, ret_error);
}

int command_vm_show(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_show(cli, "/vms", arguments_operand(arguments, 0), ret_error);
}

int command_vm_create(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        json_t *body = NULL;
        int r = vm_spec_request(arguments, &body, ret_error);

        return r < 0 ? r : task_request(cli, "POST", "/vms", body, ret_error);
}

static int act(struct cli *cli, const struct arguments *arguments, const char *verb, json_t *body,
        struct error **ret_error)
{
        return collection_act(cli, "POST", "/vms", arguments_operand(arguments, 0), verb, body, ret_error);
}

int command_vm_start(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        json_t *body = json_pack("{s:s*}", "host", arguments_text(arguments, "host"));

        if (body && arguments_flag(arguments, "discard-state") &&
                json_object_set_new(body, "discard_state", json_true()) < 0) {
                json_decref(body);
                body = NULL;
        }
        return body ? act(cli, arguments, "/start", body, ret_error) : no_memory(ret_error);
}

int command_vm_stop(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        json_t *body = json_pack("{s:b}", "force", arguments_flag(arguments, "force"));
        uint64_t patience_ms;

        if (body && arguments_number(arguments, "patience", &patience_ms) &&
                json_object_set_new(body, "timeout_ms", json_integer((json_int_t)patience_ms)) < 0) {
                json_decref(body);
                body = NULL;
        }
        return body ? act(cli, arguments, "/stop", body, ret_error) : no_memory(ret_error);
}

int command_vm_pause(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return act(cli, arguments, "/pause", NULL, ret_error);
}

int command_vm_resume(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        json_t *body = json_pack("{s:s*}", "host", arguments_text(arguments, "host"));
        uint64_t patience_ms;

        if (body && arguments_number(arguments, "patience", &patience_ms) &&
                json_object_set_new(body, "timeout_ms", json_integer((json_int_t)patience_ms)) < 0) {
                json_decref(body);
                body = NULL;
        }
        return body ? act(cli, arguments, "/resume", body, ret_error) : no_memory(ret_error);
}

int command_vm_suspend(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        json_t *body = json_object();
        uint64_t patience_ms;

        if (body && arguments_number(arguments, "patience", &patience_ms) &&
                json_object_set_new(body, "timeout_ms", json_integer((json_int_t)patience_ms)) < 0) {
                json_decref(body);
                body = NULL;
        }
        return body ? act(cli, arguments, "/suspend", body, ret_error) : no_memory(ret_error);
}

int command_vm_delete(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_act(cli, "DELETE", "/vms", arguments_operand(arguments, 0), "", NULL, ret_error);
}

int command_vm_console(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *answer = NULL;
        const char *text;
        int r = collection_get_some(
                cli, arguments, "/vms", "/console?tail=", "tail", 4096, &answer, ret_error);

        if (r < 0)
                return r;
        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, answer, ret_error);
        text = json_string_value(json_object_get(answer, "text")) ?: "";
        for (const char *line = text; *line;) {
                size_t n = strcspn(line, "\r\n");
                _cleanup_free_ char *one = alloc_printf("%.*s", (int)n, line);

                if (!one)
                        return no_memory(ret_error);
                output_text(cli->out, one, true);
                line += n;
                if (*line == '\r')
                        line++;
                if (*line == '\n')
                        line++;
                fputc('\n', cli->out);
        }
        return 0;
}

/* ["a", "b"] of "a,b". */
static json_t *words_of(const char *text)
{
        json_t *list = json_array();

        while (list && *text) {
                size_t len = strcspn(text, ",");

                if (len && json_array_append_new(list, json_stringn(text, len)) < 0) {
                        json_decref(list);
                        return NULL;
                }
                text += len + (text[len] == ',');
        }
        return list;
}

/* {"to", "max_pause_ms", ...} with what was given. */
static json_t *migration_request(const struct arguments *arguments)
{
        static const char *const texts[][2] = {
                {"to", "to"}, {"priority", "priority"}, {"codec", "codec"}, {"to-datastore", "to_datastore"}};
        static const char *const numbers[][2] = {{"max-pause", "max_pause_ms"}, {"channels", "channels"},
                {"rate-limit", "rate_limit_bps"}, {"min-bandwidth", "min_bandwidth_bps"},
                {"give-up", "timeout_ms"}};
        static const char *const flags[] = {"check", "verify"};
        _cleanup_json_ json_t *body = json_object();
        uint64_t number;
        int r = body ? 0 : -ENOMEM;

        for (size_t i = 0; i < ARRAY_SIZE(texts) && r == 0; i++)
                if (arguments_text(arguments, texts[i][0]))
                        r = json_object_set_new(
                                body, texts[i][1], json_string(arguments_text(arguments, texts[i][0])));
        for (size_t i = 0; i < ARRAY_SIZE(numbers) && r == 0; i++)
                if (arguments_number(arguments, numbers[i][0], &number))
                        r = json_object_set_new(body, numbers[i][1], json_integer((json_int_t)number));
        for (size_t i = 0; i < ARRAY_SIZE(flags) && r == 0; i++)
                if (arguments_flag(arguments, flags[i]))
                        r = json_object_set_new(body, flags[i], json_true());
        if (r == 0 && arguments_flag(arguments, "no-verify"))
                r = json_object_set_new(body, "verify", json_false());
        if (r == 0 && arguments_flag(arguments, "no-network-proof"))
                r = json_object_set_new(body, "network_proof", json_false());
        if (r == 0 && arguments_text(arguments, "accept"))
                r = json_object_set_new(body, "accept", words_of(arguments_text(arguments, "accept")));
        return r < 0 ? NULL : TAKE_PTR(body);
}

static int add_converge(json_t *body, const struct arguments *arguments, struct error **ret_error)
{
        const char *text = arguments_text(arguments, "converge");
        json_t *list = NULL;
        int r = text ? converge_option(text, &list, ret_error) : 0;

        if (r == 0 && list && json_object_set_new(body, "converge", list) < 0)
                r = no_memory(ret_error);
        return r;
}

static int print_checks(struct cli *cli, const json_t *report, struct error **ret_error)
{
        if (!json_is_true(json_object_get(report, "ok")))
                cli->status = EXIT_STATUS_FAILED;
        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, report, ret_error);
        return report_checks(cli, report, ret_error);
}

static int migrate_vm(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *body = migration_request(arguments), *report = NULL;
        _cleanup_free_ char *path = alloc_printf("/vms/%s/migrate", arguments_operand(arguments, 0));
        int r;

        if (!body || !path)
                return no_memory(ret_error);
        r = add_converge(body, arguments, ret_error);
        if (r < 0)
                return r;
        if (!arguments_flag(arguments, "check"))
                return task_request(cli, "POST", path, TAKE_PTR(body), ret_error);
        r = api_call(cli->api, "POST", path, body, &report, NULL, ret_error);
        return r < 0 ? r : print_checks(cli, report, ret_error);
}

/* Options of the other kind of migration than the one that is asked for, or NULL. */
static const char *misplaced(const struct arguments *arguments, bool of_disks)
{
        static const char *const of_vm_texts[] = {"accept", "codec"},
                                 *const of_vm_numbers[] = {"channels", "min-bandwidth"},
                                 *const of_vm_flags[] = {"check", "verify", "no-verify", "no-network-proof"};
        uint64_t number;
        size_t position = 0;

        if (!of_disks)
                return arguments_text(arguments, "format")            ? "format"
                       : arguments_next(arguments, "disk", &position) ? "disk"
                                                                      : NULL;
        for (size_t i = 0; i < ARRAY_SIZE(of_vm_texts); i++)
                if (arguments_text(arguments, of_vm_texts[i]))
                        return of_vm_texts[i];
        for (size_t i = 0; i < ARRAY_SIZE(of_vm_numbers); i++)
                if (arguments_number(arguments, of_vm_numbers[i], &number))
                        return of_vm_numbers[i];
        for (size_t i = 0; i < ARRAY_SIZE(of_vm_flags); i++)
                if (arguments_flag(arguments, of_vm_flags[i]))
                        return of_vm_flags[i];
        return NULL;
}

/* {"disk0": "fast"} of "disk0=fast,disk1=slow"; which names there are is the manager's to know. */
static int read_targets(const char *text, json_t **ret_targets, struct error **ret_error)
{
        _cleanup_json_ json_t *targets = json_object();
        _cleanup_free_ char *copy = alloc_strdup(text);
        char *position = NULL;

        if (!targets || !copy)
                return no_memory(ret_error);
        for (char *word = strtok_r(copy, ",", &position); word; word = strtok_r(NULL, ",", &position)) {
                char *equals = strchr(word, '=');

                if (equals)
                        *equals = '\0';
                if (!equals || !text_is_name(word) || !text_is_name(equals + 1) ||
                        json_object_get(targets, word) ||
                        json_object_set_new(targets, word, json_string(equals + 1)) < 0)
                        return error_set(ret_error, ERROR_BAD_REQUEST,
                                "write it as DATASTORE, best, or DISK=DATASTORE[,DISK=DATASTORE...]",
                                "option --to-datastore: '%s' is not valid", text);
        }
        *ret_targets = TAKE_PTR(targets);
        return 0;
}

/* One for all, each its own, or none named: the best. */
static int add_targets(json_t *body, const char *text, struct error **ret_error)
{
        json_t *targets = NULL;
        int r;

        if (!strcmp(text, "best"))
                return 0;
        if (!strchr(text, '='))
                return json_object_set_new(body, "to_datastore", json_string(text)) < 0 ? no_memory(ret_error)
                                                                                        : 0;
        r = read_targets(text, &targets, ret_error);
        if (r < 0)
                return r;
        return json_object_set_new(body, "to_datastores", targets) < 0 ? no_memory(ret_error) : 0;
}

static json_t *disks_request(const struct arguments *arguments)
{
        _cleanup_json_ json_t *disks = json_array(), *body = NULL;
        size_t position = 0;
        uint64_t number;
        int r = disks ? 0 : -ENOMEM;

        for (const char *name; r == 0 && (name = arguments_next(arguments, "disk", &position));)
                r = json_array_append_new(disks, json_string(name));
        if (r == 0)
                body = json_pack("{s:s*, s:s*, s:O*}", "format", arguments_text(arguments, "format"),
                        "priority", arguments_text(arguments, "priority"), "disks",
                        json_array_size(disks) ? disks : NULL);
        r = body ? 0 : -ENOMEM;
        if (r == 0 && arguments_number(arguments, "rate-limit", &number))
                r = json_object_set_new(body, "rate_limit_bps", json_integer((json_int_t)number));
        if (r == 0 && arguments_number(arguments, "give-up", &number))
                r = json_object_set_new(body, "timeout_ms", json_integer((json_int_t)number));
        if (r == 0 && arguments_number(arguments, "max-pause", &number))
                r = json_object_set_new(body, "max_pause_ms", json_integer((json_int_t)number));
        return r < 0 ? NULL : TAKE_PTR(body);
}

static int migrate_disks(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("/vms/%s/migrate-disks", arguments_operand(arguments, 0));
        _cleanup_json_ json_t *body = disks_request(arguments);
        int r;

        if (!path || !body)
                return no_memory(ret_error);
        r = add_targets(body, arguments_text(arguments, "to-datastore"), ret_error);
        if (r >= 0)
                r = add_converge(body, arguments, ret_error);
        return r < 0 ? r : task_request(cli, "POST", path, TAKE_PTR(body), ret_error);
}

static int check_combination(const struct arguments *arguments, bool of_disks, struct error **ret_error)
{
        const char *option = misplaced(arguments, of_disks),
                   *target = arguments_text(arguments, "to-datastore");

        if (!of_disks && target && (!strcmp(target, "best") || strchr(target, '=')))
                return error_set(ret_error, ERROR_BAD_REQUEST, "Name one datastore of that host.",
                        "what is taken along to another host goes to one datastore, which must be named");
        if (target && !strchr(target, '=') && !text_is_name(target))
                return error_set(ret_error, ERROR_BAD_REQUEST, "`drover datastore list` shows them.",
                        "option --to-datastore: '%s' is not a datastore's name", target);
        if (!option)
                return 0;
        if (!of_disks)
                return error_set(ret_error, ERROR_BAD_REQUEST,
                        "Name a datastore with --to-datastore, and no host.",
                        "--%s is for disks that move while the virtual machine stays on its host", option);
        return error_set(ret_error, ERROR_BAD_REQUEST, "Name a host with --to to take the disks along to it.",
                "--%s and --to-datastore without --to do not go together: the virtual machine stays on its "
                "host",
                option);
}

int command_vm_migrate(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        bool of_disks = arguments_text(arguments, "to-datastore") && !arguments_text(arguments, "to");
        int r = check_combination(arguments, of_disks, ret_error);

        if (r < 0)
                return r;
        return of_disks ? migrate_disks(cli, arguments, ret_error) : migrate_vm(cli, arguments, ret_error);
}

#define ADVISE_LIMIT_DEFAULT 20

int command_vm_advise(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        uint64_t limit = ADVISE_LIMIT_DEFAULT;
        _cleanup_json_ json_t *advice = NULL;
        _cleanup_free_ char *path = NULL;
        int r;

        (void)arguments_number(arguments, "limit", &limit);
        if (arguments_flag(arguments, "disks"))
                path = alloc_printf("/vms/%s/disk-advice", arguments_operand(arguments, 0));
        else if (arguments_flag(arguments, "all"))
                path = alloc_printf("/vms/%s/advice", arguments_operand(arguments, 0));
        else
                path = alloc_printf("/vms/%s/advice?limit=%llu", arguments_operand(arguments, 0),
                        (unsigned long long)limit);
        if (!path)
                return no_memory(ret_error);
        r = api_call(cli->api, "GET", path, NULL, &advice, NULL, ret_error);
        if (r < 0)
                return r;
        if (!json_is_true(json_object_get(advice, "ok")))
                cli->status = EXIT_STATUS_FAILED;
        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, advice, ret_error);
        return arguments_flag(arguments, "disks") ? report_disk_advice(cli, advice, ret_error)
                                                  : report_advice(cli, advice, ret_error);
}
