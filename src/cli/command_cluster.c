/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

#include "base/buf.h"
#include "base/doc.h"
#include "cli/output.h"

#define PATH_MAX_BYTES 2048

static const char *text_of(const json_t *doc, const char *key)
{
        return json_string_value(json_object_get(doc, key)) ?: "";
}

static void print_line(const struct cli *cli, const char *name, const char *text)
{
        if (!*text)
                return;
        fprintf(cli->out, "  %-14s", name);
        output_text(cli->out, text, false);
        fputc('\n', cli->out);
}

static void print_names(const struct cli *cli, const char *name, const json_t *names)
{
        _cleanup_free_ char *text = json_array_size(names) ? output_value_text(names, "names") : NULL;

        print_line(cli, name, text ?: "");
}

/* Kinds of hosts that take something away from the others. */
static void print_kind(const struct cli *cli, const json_t *kind)
{
        const json_t *lowers = json_object_get(kind, "lowers");

        if (!json_is_object(lowers) && !json_array_size(json_object_get(kind, "lacks")))
                return;
        print_names(cli, "hosts", json_object_get(kind, "hosts"));
        print_names(cli, "  lack", json_object_get(kind, "lacks"));
        if (!json_is_object(lowers))
                return;
        print_line(cli, "  without", text_of(lowers, "model"));
        print_names(cli, "  has more", json_object_get(lowers, "features"));
}

static void print_plan(const struct cli *cli, const json_t *plan)
{
        json_t *item;
        size_t i;

        json_array_foreach (json_object_get(plan, "hosts"), i, item) {
                print_line(cli, "not on host", text_of(item, "host"));
                if (json_is_true(json_object_get(item, "unknown")))
                        print_line(cli, "  because", "its QEMU does not know the model");
                print_names(cli, "  lacks", json_object_get(item, "missing"));
        }
        json_array_foreach (json_object_get(plan, "vms"), i, item) {
                print_line(cli, "VM", text_of(item, "vm"));
                print_line(cli,
                        json_is_true(json_object_get(item, "suspended")) ? "  suspended" : "  runs with",
                        text_of(item, "cpu_model"));
                print_names(cli, "  has more", json_object_get(item, "more"));
                print_line(cli, "  gets it",
                        json_is_true(json_object_get(item, "follows")) ? "at its next start"
                                                                       : "never: it has a model of its own");
        }
}

static void print_status(const struct cli *cli, const json_t *status)
{
        const json_t *computed = json_object_get(status, "computed");
        json_t *kind;
        size_t i;

        fputs("CPU policy ", cli->out);
        output_text(cli->out, text_of(status, "policy"), false);
        fputc('\n', cli->out);
        print_line(cli, "model", text_of(status, "model"));
        print_line(cli, "none since", text_of(status, "reason"));
        print_line(cli, "best for all", text_of(computed, "model"));
        print_names(cli, "all have too", json_object_get(computed, "spare"));
        print_names(cli, "other hosts", json_object_get(computed, "others"));
        json_array_foreach (json_object_get(computed, "kinds"), i, kind)
                print_kind(cli, kind);
        print_plan(cli, json_object_get(status, "plan"));
}

int command_cluster_cpu(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        const char *policy = arguments_text(arguments, "set"), *plan = arguments_text(arguments, "plan");
        _cleanup_json_ json_t *body = NULL, *answer = NULL;
        _cleanup_buf_ struct buf path;
        int r;

        buf_init(&path, PATH_MAX_BYTES);
        if (policy && plan)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "--set and --plan exclude each other");
        body = policy ? json_pack("{s:{s:s}}", "spec", "policy", policy) : NULL;
        if (buf_append_string(&path, "/cluster/cpu") < 0 || api_query(&path, "policy", plan) < 0 ||
                (policy && !body))
                return error_set(
                        ret_error, ERROR_BAD_REQUEST, NULL, "the policy is too long, or not UTF-8 text");
        r = api_call(cli->api, policy ? "PUT" : "GET", buf_string(&path), body, &answer, NULL, ret_error);
        if (r < 0)
                return r;
        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, answer, ret_error);
        print_status(cli, json_object_get(answer, "status"));
        return 0;
}
