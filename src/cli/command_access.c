/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens and the audit log. */
#include "cli/cli.h"

#include <errno.h>

#include "base/doc.h"
#include "cli/collection.h"

#define PATH_MAX_BYTES 1024
#define AUDIT_LIMIT_DEFAULT 50

static const struct output_column token_columns[] = {{"NAME", "name", false}, {"ROLE", "spec.role", false},
        {"EXPIRES", "spec.expires", false}, {"CREATED", "status.created", false}, {0}};
static const struct output_column audit_columns[] = {{"SEQ", "seq", false}, {"TIME", "time", false},
        {"WHO", "who", false}, {"FROM", "from", false}, {"ACTION", "action", false},
        {"OBJECT", "object", false}, {"RESULT", "result", false}, {"WHY", "why", false}, {0}};

int command_token_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_print(cli, "/tokens", 0, token_columns, ret_error);
}

int command_token_create(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *body = NULL, *answer = NULL;
        const char *secret;
        uint64_t days = 0;
        int r;

        (void)arguments_number(arguments, "expires", &days);
        body = json_pack("{s:s, s:s, s:o*}", "name", arguments_operand(arguments, 0), "role",
                arguments_text(arguments, "role") ?: "read-only", "expires_days",
                days ? json_integer((json_int_t)days) : NULL);
        if (!body)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        r = api_call(cli->api, "POST", "/tokens", body, &answer, NULL, ret_error);
        if (r < 0)
                return r;
        secret = json_string_value(json_object_get(answer, "secret"));
        if (cli->format != OUTPUT_TABLE || !secret)
                return output_document(cli, answer, ret_error);
        /* Alone on standard output, so that it can go straight into a file. */
        output_text(cli->out, secret, false);
        fputc('\n', cli->out);
        return 0;
}

int command_token_revoke(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_act(cli, "DELETE", "/tokens", arguments_operand(arguments, 0), "", NULL, ret_error);
}

int command_audit_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        uint64_t limit = AUDIT_LIMIT_DEFAULT;
        _cleanup_buf_ struct buf path;
        char limit_text[24];

        (void)arguments_number(arguments, "limit", &limit);
        snprintf(limit_text, sizeof(limit_text), "%llu", (unsigned long long)limit);
        buf_init(&path, PATH_MAX_BYTES);
        if (buf_append_string(&path, "/audit") < 0 || api_query(&path, "limit", limit_text) < 0 ||
                api_query(&path, "who", arguments_text(arguments, "who")) < 0 ||
                api_query(&path, "object", arguments_text(arguments, "object")) < 0)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the filter is too long");
        return collection_print(cli, buf_string(&path), limit, audit_columns, ret_error);
}

int command_audit_verify(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *verdict = NULL;
        int r = api_call(cli->api, "GET", "/audit/verify", NULL, &verdict, NULL, ret_error);

        if (r < 0)
                return r;
        if (!json_is_true(json_object_get(verdict, "ok")))
                cli->status = EXIT_STATUS_FAILED;
        return output_document(cli, verdict, ret_error);
}
