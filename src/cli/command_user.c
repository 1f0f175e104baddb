/* SPDX-License-Identifier: Apache-2.0 */
/* Users: what they are called, what they may do, and their passwords. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cli/collection.h"
#include "cli/password_input.h"
#include "cli/scope_option.h"

static const struct output_column columns[] = {{"NAME", "name", false},
        {"FULL NAME", "spec.full_name", false}, {"DISABLED", "spec.disabled", false},
        {"ROLES", "spec.bindings", false}, {"PASSWORD SET", "status.password_set", false},
        {"CREATED", "status.created", false}, {0}};

static int no_memory(struct error **ret_error)
{
        return error_from_errno(ret_error, ENOMEM, "cannot make the request");
}

int command_user_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_print(cli, "/users", 0, columns, ret_error);
}

int command_user_show(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_show(cli, "/users", arguments_operand(arguments, 0), ret_error);
}

/* {"role", "scope"} of the options; NULL without a role. */
static int binding_option(
        const struct arguments *arguments, const char *role, json_t **ret_binding, struct error **ret_error)
{
        _cleanup_json_ json_t *scope = NULL;
        int r = scope_option(arguments, &scope, ret_error);

        if (r < 0 || !role)
                return r;
        *ret_binding = json_pack("{s:s, s:O*}", "role", role, "scope", scope);
        return *ret_binding ? 0 : no_memory(ret_error);
}

int command_user_create(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *binding = NULL, *body = NULL, *answer = NULL;
        int r;

        r = binding_option(arguments, arguments_text(arguments, "role"), &binding, ret_error);
        if (r < 0)
                return r;
        body = json_pack("{s:s, s:{s:s*, s:o}}", "name", arguments_operand(arguments, 0), "spec", "full_name",
                arguments_text(arguments, "full-name"), "bindings",
                binding ? json_pack("[O]", binding) : json_array());
        if (!body)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the name is not UTF-8 text");
        r = api_call(cli->api, "POST", "/users", body, &answer, NULL, ret_error);
        return r < 0 ? r : output_document(cli, answer, ret_error);
}

int command_user_delete(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return collection_act(cli, "DELETE", "/users", arguments_operand(arguments, 0), "", NULL, ret_error);
}

static int get_user(
        struct cli *cli, const char *name, char **ret_path, json_t **ret_user, struct error **ret_error)
{
        *ret_path = alloc_printf("/users/%s", name);
        return *ret_path ? api_call(cli->api, "GET", *ret_path, NULL, ret_user, NULL, ret_error)
                         : no_memory(ret_error);
}

/* Only what was read is changed: what somebody else has made of it meanwhile would be lost. */
static int put_user(struct cli *cli, const char *path, const json_t *user, struct error **ret_error)
{
        _cleanup_json_ json_t *body = json_pack("{s:O}", "spec", json_object_get(user, "spec")),
                              *answer = NULL;
        int r;

        if (!body)
                return no_memory(ret_error);
        api_set_match(cli->api, json_integer_value(json_object_get(user, "revision")));
        r = api_call(cli->api, "PUT", path, body, &answer, NULL, ret_error);
        return r < 0 ? r : output_document(cli, answer, ret_error);
}

int command_user_grant(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *binding = NULL, *user = NULL;
        _cleanup_free_ char *path = NULL;
        json_t *spec, *bindings;
        int r;

        r = binding_option(arguments, arguments_operand(arguments, 1), &binding, ret_error);
        if (r >= 0)
                r = get_user(cli, arguments_operand(arguments, 0), &path, &user, ret_error);
        if (r < 0)
                return r;
        spec = json_object_get(user, "spec");
        bindings = json_object_get(spec, "bindings");
        if (!bindings) {
                bindings = json_array();
                if (json_object_set_new(spec, "bindings", bindings) < 0)
                        return no_memory(ret_error);
        }
        if (json_array_append(bindings, binding) < 0)
                return no_memory(ret_error);
        return put_user(cli, path, user, ret_error);
}

int command_user_revoke(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        const char *role = arguments_operand(arguments, 1);
        _cleanup_json_ json_t *user = NULL;
        _cleanup_free_ char *path = NULL;
        json_t *bindings;
        size_t i, n_before;
        int r = get_user(cli, arguments_operand(arguments, 0), &path, &user, ret_error);

        if (r < 0)
                return r;
        bindings = json_object_get(json_object_get(user, "spec"), "bindings");
        n_before = i = json_array_size(bindings);
        while (i--)
                if (!strcmp(json_string_value(json_object_get(json_array_get(bindings, i), "role")) ?: "",
                            role))
                        json_array_remove(bindings, i);
        if (json_array_size(bindings) == n_before)
                return error_set(ret_error, ERROR_NOT_FOUND, "see 'drover user show'",
                        "%s has not the role %s", arguments_operand(arguments, 0), role);
        return put_user(cli, path, user, ret_error);
}

static int set_disabled(struct cli *cli, const char *name, bool disabled, struct error **ret_error)
{
        _cleanup_json_ json_t *user = NULL;
        _cleanup_free_ char *path = NULL;
        int r = get_user(cli, name, &path, &user, ret_error);

        if (r < 0)
                return r;
        if (json_object_set_new(json_object_get(user, "spec"), "disabled", json_boolean(disabled)) < 0)
                return no_memory(ret_error);
        return put_user(cli, path, user, ret_error);
}

int command_user_disable(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return set_disabled(cli, arguments_operand(arguments, 0), true, ret_error);
}

int command_user_enable(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return set_disabled(cli, arguments_operand(arguments, 0), false, ret_error);
}

/* Of another user, or with the current one, one's own. */
int command_user_password(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        const char *name = arguments_operand(arguments, 0),
                   *file = arguments_text(arguments, "password-file");
        _cleanup_free_ char *path =
                name ? alloc_printf("/users/%s/password", name) : alloc_strdup("/password");
        char password[PASSWORD_SIZE] = "", current[PASSWORD_SIZE] = "";
        _cleanup_json_ json_t *body = NULL;
        int r = 0;

        if (!name)
                r = password_read(cli, arguments_text(arguments, "current-file"),
                        "Current password: ", current, ret_error);
        if (r >= 0)
                r = password_read(cli, file, "New password: ", password, ret_error);
        if (r >= 0) {
                /* Only when it is asked for: a manager of an earlier version does not know it. */
                body = json_pack("{s:s*, s:s, s:o*}", "current", name ? NULL : current, "password", password,
                        "revoke_tokens", arguments_flag(arguments, "revoke-tokens") ? json_true() : NULL);
                r = path && body ? api_call(cli->api, "PUT", path, body, NULL, NULL, ret_error)
                                 : no_memory(ret_error);
        }
        explicit_bzero(password, sizeof(password));
        explicit_bzero(current, sizeof(current));
        return r;
}
