/* SPDX-License-Identifier: Apache-2.0 */
/* Logging in and out, tokens and roles. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cli/collection.h"
#include "cli/password_input.h"
#include "cli/per_host.h"
#include "cli/scope_option.h"

static const struct output_column token_columns[] = {{"NAME", "name", false}, {"OWNER", "spec.owner", false},
        {"ROLE", "spec.role", false}, {"SCOPE", "spec.scope", false}, {"EXPIRES", "spec.expires", false},
        {"CREATED", "status.created", false}, {0}};
static const struct output_column role_columns[] = {{"NAME", "name", false},
        {"PERMISSIONS", "spec.permissions", false}, {"DESCRIPTION", "spec.description", false}, {0}};
static const struct output_column permission_columns[] = {
        {"PERMISSION", "name", false}, {"ALLOWS TO", "description", false}, {0}};

int command_token_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_print(cli, "/tokens", 0, token_columns, ret_error);
}

int command_token_create(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *body = NULL, *answer = NULL, *scope = NULL;
        const char *secret;
        uint64_t days = 0;
        int r = scope_option(arguments, &scope, ret_error);

        if (r < 0)
                return r;
        (void)arguments_number(arguments, "expires", &days);
        body = json_pack("{s:s, s:s, s:O*, s:o*}", "name", arguments_operand(arguments, 0), "role",
                arguments_text(arguments, "role") ?: "read-only", "scope", scope, "expires_days",
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

/* --- Roles ---------------------------------------------------------------------------------------------------------- */

int command_role_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_print(cli, "/roles", 0, role_columns, ret_error);
}

int command_role_show(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_show(cli, "/roles", arguments_operand(arguments, 0), ret_error);
}

int command_role_permissions(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_print(cli, "/permissions", 0, permission_columns, ret_error);
}

static int role_spec(const struct arguments *arguments, json_t **ret_spec, struct error **ret_error)
{
        _cleanup_json_ json_t *permissions = NULL;
        int r = per_host_list(arguments, "permission", &permissions, ret_error);

        if (r < 0)
                return r;
        *ret_spec = json_pack("{s:O, s:s*}", "permissions", permissions, "description",
                arguments_text(arguments, "description"));
        return *ret_spec ? 0
                         : error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the description is not UTF-8 text");
}

int command_role_create(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *spec = NULL, *body = NULL, *answer = NULL;
        int r = role_spec(arguments, &spec, ret_error);

        if (r < 0)
                return r;
        body = json_pack("{s:s, s:O}", "name", arguments_operand(arguments, 0), "spec", spec);
        if (!body)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        r = api_call(cli->api, "POST", "/roles", body, &answer, NULL, ret_error);
        return r < 0 ? r : output_document(cli, answer, ret_error);
}

int command_role_set(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("/roles/%s", arguments_operand(arguments, 0));
        _cleanup_json_ json_t *spec = NULL, *body = NULL, *answer = NULL;
        int r = role_spec(arguments, &spec, ret_error);

        if (r < 0)
                return r;
        body = json_pack("{s:O}", "spec", spec);
        if (!path || !body)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        r = api_call(cli->api, "PUT", path, body, &answer, NULL, ret_error);
        return r < 0 ? r : output_document(cli, answer, ret_error);
}

int command_role_delete(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_act(cli, "DELETE", "/roles", arguments_operand(arguments, 0), "", NULL, ret_error);
}

/* --- Logging in and out ---------------------------------------------------------------------------------------------- */

int command_login(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        char password[PASSWORD_SIZE];
        _cleanup_json_ json_t *body = NULL, *answer = NULL;
        const char *secret;
        int r;

        r = password_read(cli, arguments_text(arguments, "password-file"), "Password: ", password, ret_error);
        if (r < 0)
                return r;
        body = json_pack("{s:s, s:s}", "user", arguments_operand(arguments, 0), "password", password);
        explicit_bzero(password, sizeof(password));
        if (!body)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the password is not UTF-8 text");
        r = api_call(cli->api, "POST", "/login", body, &answer, NULL, ret_error);
        if (r < 0)
                return r;
        secret = json_string_value(json_object_get(answer, "secret"));
        if (!secret)
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "the manager's answer holds no session");
        r = settings_keep_session(cli->settings.server, secret, ret_error);
        if (r < 0)
                return r;
        fprintf(cli->err, "Logged in as %s until ", arguments_operand(arguments, 0));
        output_text(cli->err, json_string_value(json_object_get(answer, "expires")) ?: "?", false);
        fputs("; half an hour without a command ends it too.\n", cli->err);
        return 0;
}

int command_logout(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_error_ struct error *error = NULL;
        int r = api_call(cli->api, "DELETE", "/session", NULL, NULL, NULL, &error);

        /* One that has ended already is as good as ended now. */
        if (r < 0 && (!error || error->code != ERROR_UNAUTHENTICATED))
                return error_propagate(ret_error, TAKE_PTR(error));
        return settings_keep_session(cli->settings.server, NULL, ret_error);
}

int command_whoami(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *caller = NULL;
        int r = api_call(cli->api, "GET", "/whoami", NULL, &caller, NULL, ret_error);

        return r < 0 ? r : output_document(cli, caller, ret_error);
}
