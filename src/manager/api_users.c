/* SPDX-License-Identifier: Apache-2.0 */

/* Users, roles and tokens. Nobody can give what they have not: whoever makes a user, a role or a token, or sets a password, has to be able to
 * do all that they could then do. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/api.h"
#include "manager/api_access.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/login_addresses.h"
#include "manager/manager.h"
#include "manager/operations.h"
#include "manager/password.h"

#define TEXT_MAX 256
#define BINDINGS_MAX 32
#define EXPIRES_MAX_DAYS 36500
#define USERS_MAX 10000
#define ROLES_MAX 1000
#define TOKENS_MAX 100 /* of one user */
#define TOKENS_NOBODYS_MAX 1000

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static void reply_stored(struct http_request *request, struct manager *manager, const char *kind)
{
        struct error *error = NULL;
        json_t *doc = NULL;

        if (api_get_object(request, manager, kind, &doc, &error) < 0)
                http_request_reply_error(request, error);
        else
                api_reply_object(request, 200, doc);
}

/* Commits the document (borrowed) and answers with it. */
static int record(struct http_request *request, struct manager *manager, json_t *doc, bool is_new,
        struct error **ret_error)
{
        const char *kind = json_text(doc, "kind");
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *object = alloc_printf("%s/%s", kind, json_text(doc, "name"));
        _cleanup_free_ char *action = alloc_printf("%s.%s", kind, is_new ? "create" : "update");
        uint64_t revision = is_new ? STORE_ABSENT : json_revision(doc);
        int r;

        if (!object || !action)
                return no_memory(ret_error);
        store_batch_put(&batch, revision, json_incref(doc));
        r = api_commit(request, manager, &batch, action, object, &revision, ret_error);
        if (r < 0)
                return r;
        if (json_object_set_new(doc, "revision", json_integer((json_int_t)revision)) < 0)
                return no_memory(ret_error);
        api_reply_object(request, is_new ? 201 : 200, json_deep_copy(doc));
        return 0;
}

static json_t *new_object(
        const struct manager *manager, const char *kind, const char *name, json_t *spec, json_t *internal)
{
        char uid[UUID_STRING_SIZE], created[32];

        text_format_time(clock_unix_ms(manager->clock), created);
        return text_uuid_new(uid) < 0
                       ? NULL
                       : json_pack("{s:s, s:s, s:s, s:O, s:{s:s}, s:O*}", "kind", kind, "name", name, "uid",
                                 uid, "spec", spec, "status", "created", created, "internal", internal);
}

/* --- Roles ---------------------------------------------------------------------------------------------------------- */

static int check_role_spec(
        struct http_request *request, const json_t *spec, const char *name, struct error **ret_error)
{
        static const char *const keys[] = {"description", "permissions", NULL};
        _cleanup_access_ struct access access = {};
        _cleanup_free_ char *what = alloc_printf("the role %s", name);
        const char *description = NULL;
        uint64_t set = 0;
        int r;

        r = doc_only_keys(spec, "spec", keys, ret_error);
        if (r >= 0)
                r = doc_opt_string(spec, "spec", "description", TEXT_MAX, &description, ret_error);
        if (r >= 0)
                r = permission_set_read(
                        json_object_get(spec, "permissions"), "spec.permissions", &set, ret_error);
        if (r >= 0 && (!what || access_add(&access, set, NULL) < 0))
                r = no_memory(ret_error);
        return r < 0 ? r : auth_covers(api_caller(request), &access, what, ret_error);
}

void api_role_list(struct http_request *request, void *userdata)
{
        api_reply_list(request, userdata, &(struct api_listing){.kind = "role"});
}

void api_role_get(struct http_request *request, void *userdata)
{
        reply_stored(request, userdata, "role");
}

void api_permission_list(struct http_request *request, void *userdata)
{
        http_request_reply_json(request, 200, json_pack("{s:o}", "items", permission_documents()));
}

void api_role_create(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *role = NULL;
        json_t *body = NULL, *spec = NULL;
        struct error *error = NULL;
        const char *name = NULL;
        int r;

        r = api_body_new(request, &body, &name, &spec, &error);
        if (r >= 0)
                r = check_role_spec(request, spec, name, &error);
        if (r >= 0)
                r = api_check_room(userdata, &(struct store_query){.kind = "role", .limit = ROLES_MAX},
                        "roles", "Remove one that nobody has.", &error);
        if (r >= 0) {
                role = new_object(userdata, "role", name, spec, NULL);
                r = role ? record(request, userdata, role, true, &error) : no_memory(&error);
        }
        if (r < 0)
                api_reply_refusal(request, userdata, error);
}

/* A role that every installation has stays as it is. Whoever changes one must have what it gave too: it may be taken from others. */
static int get_own_role(
        struct http_request *request, struct manager *manager, json_t **ret_role, struct error **ret_error)
{
        _cleanup_json_ json_t *role = NULL;
        int r;

        r = api_get_object(request, manager, "role", &role, ret_error);
        if (r >= 0 && json_is_true(json_object_get(json_status(role), "built_in")))
                r = error_set(ret_error, ERROR_CONFLICT, "Make a role of your own with `drover role create`.",
                        "the role %s is built in", json_text(role, "name"));
        if (r >= 0)
                r = check_role_spec(request, json_spec(role), json_text(role, "name"), ret_error);
        if (r < 0)
                return r;
        *ret_role = TAKE_PTR(role);
        return 0;
}

void api_role_update(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *role = NULL;
        struct error *error = NULL;
        json_t *body = NULL, *spec = NULL;
        int r;

        r = get_own_role(request, userdata, &role, &error);
        if (r >= 0)
                r = api_body_spec(request, &body, &spec, &error);
        if (r >= 0)
                r = check_role_spec(request, spec, json_text(role, "name"), &error);
        if (r >= 0 && json_object_set(role, "spec", spec) < 0)
                r = no_memory(&error);
        if (r >= 0)
                r = record(request, userdata, role, false, &error);
        if (r < 0)
                api_reply_refusal(request, userdata, error);
}

static bool uses_role(void *userdata, const json_t *doc)
{
        const char *role = userdata;
        json_t *binding;
        size_t i;

        json_array_foreach (json_object_get(json_spec(doc), "bindings"), i, binding)
                if (!strcmp(json_text(binding, "role"), role))
                        return true;
        return !strcmp(json_text(json_spec(doc), "role"), role);
}

static int refuse_used(struct manager *manager, const json_t *role, struct error **ret_error)
{
        static const char *const kinds[] = {"user", "token"};

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                struct store_query query = {.kind = kinds[i],
                        .limit = 1,
                        .match = uses_role,
                        .userdata = (void *)json_text(role, "name")};
                _cleanup_json_ json_t *found = NULL;
                int r = store_list(manager->store, &query, &found, NULL, ret_error);

                if (r < 0)
                        return r;
                if (json_array_size(found))
                        return error_set(ret_error, ERROR_CONFLICT, "Take it from them first.",
                                "the %s %s has the role %s", kinds[i],
                                json_text(json_array_get(found, 0), "name"), json_text(role, "name"));
        }
        return 0;
}

void api_role_delete(struct http_request *request, void *userdata)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *role = NULL;
        struct error *error = NULL;
        int r;

        r = get_own_role(request, userdata, &role, &error);
        if (r >= 0)
                r = refuse_used(userdata, role, &error);
        if (r >= 0) {
                store_batch_remove(&batch, "role", json_text(role, "uid"), json_revision(role));
                r = api_remove(request, userdata, role, &batch, &error);
        }
        if (r < 0)
                api_reply_refusal(request, userdata, error);
}

/* --- Users ---------------------------------------------------------------------------------------------------------- */

static int check_binding(
        struct manager *manager, const json_t *binding, const char *where, struct error **ret_error)
{
        static const char *const keys[] = {"role", "scope", NULL};
        _cleanup_access_ struct access access = {};
        const char *role = NULL;
        json_t *scope = NULL;
        int r;

        r = doc_only_keys(binding, where, keys, ret_error);
        if (r >= 0)
                r = doc_need_string(binding, where, "role", NAME_MAX_CHARS, &role, ret_error);
        if (r >= 0)
                r = doc_opt_object(binding, where, "scope", &scope, ret_error);
        if (r >= 0 && scope)
                r = access_scope_check(scope, "scope", ret_error);
        return r < 0 ? r : auth_role_access(manager->store, role, scope, &access, ret_error);
}

/* What the caller would give, or take over, with this user. */
static int check_covered(
        struct http_request *request, struct manager *manager, const json_t *user, struct error **ret_error)
{
        _cleanup_access_ struct access access = {};
        _cleanup_free_ char *what = alloc_printf("the user %s", json_text(user, "name"));
        int r = what ? auth_user_access(manager->store, user, &access, ret_error) : no_memory(ret_error);

        return r < 0 ? r : auth_covers(api_caller(request), &access, what, ret_error);
}

static int check_user_spec(struct manager *manager, const json_t *spec, struct error **ret_error)
{
        static const char *const keys[] = {"full_name", "disabled", "bindings", NULL};
        json_t *bindings = NULL, *binding;
        const char *full_name = NULL;
        bool disabled = false;
        size_t i;
        int r;

        r = doc_only_keys(spec, "spec", keys, ret_error);
        if (r >= 0)
                r = doc_opt_string(spec, "spec", "full_name", TEXT_MAX, &full_name, ret_error);
        if (r >= 0)
                r = doc_opt_bool(spec, "spec", "disabled", &disabled, ret_error);
        if (r >= 0)
                r = doc_opt_array(spec, "spec", "bindings", BINDINGS_MAX, &bindings, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (bindings, i, binding) {
                char where[48];

                snprintf(where, sizeof(where), "spec.bindings[%zu]", i);
                r = check_binding(manager, binding, where, ret_error);
                if (r < 0)
                        return r;
        }
        return 0;
}

void api_user_list(struct http_request *request, void *userdata)
{
        api_reply_list(request, userdata, &(struct api_listing){.kind = "user"});
}

void api_user_get(struct http_request *request, void *userdata)
{
        reply_stored(request, userdata, "user");
}

void api_user_create(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *user = NULL, *internal = json_object();
        struct manager *manager = userdata;
        json_t *body = NULL, *spec = NULL;
        struct error *error = NULL;
        const char *name = NULL;
        int r;

        r = api_body_new(request, &body, &name, &spec, &error);
        if (r >= 0)
                r = check_user_spec(manager, spec, &error);
        if (r >= 0)
                r = auth_refuse_namesake(manager->store, name, "token", &error);
        if (r >= 0)
                r = api_check_room(manager, &(struct store_query){.kind = "user", .limit = USERS_MAX},
                        "users", "Remove one who has left.", &error);
        if (r >= 0) {
                user = new_object(manager, "user", name, spec, internal);
                r = user ? check_covered(request, manager, user, &error) : no_memory(&error);
        }
        if (r >= 0 && json_object_set_new(json_status(user), "password_set", json_null()) < 0)
                r = no_memory(&error);
        if (r >= 0)
                r = record(request, manager, user, true, &error);
        if (r < 0)
                api_reply_refusal(request, userdata, error);
}

void api_user_update(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *user = NULL;
        struct error *error = NULL;
        json_t *body = NULL, *spec = NULL;
        int r;

        r = api_get_object(request, userdata, "user", &user, &error);
        if (r >= 0)
                r = check_covered(request, userdata, user, &error); /* also what is taken from it */
        if (r >= 0)
                r = api_body_spec(request, &body, &spec, &error);
        if (r >= 0)
                r = check_user_spec(userdata, spec, &error);
        if (r >= 0 && json_object_set(user, "spec", spec) < 0)
                r = no_memory(&error);
        if (r >= 0)
                r = check_covered(request, userdata, user, &error);
        if (r >= 0)
                r = record(request, userdata, user, false, &error);
        if (r < 0)
                api_reply_refusal(request, userdata, error);
}

static bool is_owned_by(void *userdata, const json_t *token)
{
        return !strcmp(json_text(json_object_get(token, "internal"), "owner_uid"), userdata);
}

static int remove_tokens(
        struct manager *manager, const json_t *user, struct store_batch *batch, struct error **ret_error)
{
        struct store_query tokens = {.kind = "token",
                .limit = STORE_LIMIT_NONE,
                .match = is_owned_by,
                .userdata = (void *)json_text(user, "uid")};
        _cleanup_json_ json_t *owned = NULL;
        json_t *doc;
        size_t i;
        int r;

        r = store_list(manager->store, &tokens, &owned, NULL, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (owned, i, doc)
                (void)auth_token_remove(manager->store, batch, doc, NULL);
        return 0;
}

/* What bears the user's name goes with it; what would be left is refused all the same (auth.c). */
static int remove_credentials(
        struct manager *manager, const json_t *user, struct store_batch *batch, struct error **ret_error)
{
        int r = remove_tokens(manager, user, batch, ret_error);

        return r < 0 ? r : auth_sessions_trim(manager->store, batch, json_text(user, "uid"), 0, ret_error);
}

void api_user_delete(struct http_request *request, void *userdata)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *user = NULL;
        struct error *error = NULL;
        int r;

        r = api_get_object(request, userdata, "user", &user, &error);
        if (r >= 0)
                r = check_covered(request, userdata, user, &error);
        if (r >= 0)
                r = remove_credentials(userdata, user, &batch, &error);
        if (r >= 0) {
                store_batch_remove(&batch, "user", json_text(user, "uid"), json_revision(user));
                login_addresses_remove(&batch, json_text(user, "uid"));
                r = api_remove(request, userdata, user, &batch, &error);
        }
        if (r < 0)
                api_reply_refusal(request, userdata, error);
}

/* --- Passwords ------------------------------------------------------------------------------------------------------ */

struct new_password {
        struct http_request *request;
        struct manager *manager;
        json_t *user; /* as it was when this was asked for */
        char password[PASSWORD_MAX_CHARS + 1];
        bool revoke_tokens; /* the user's, too: whoever had the old password may have made some */
};

static void new_password_free(struct new_password *change)
{
        explicit_bzero(change->password, sizeof(change->password));
        json_decref(change->user);
        free(change);
}

static int set_password(struct new_password *change, const char *hash, struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *object = alloc_printf("user/%s", json_text(change->user, "name"));
        int64_t now = clock_unix_ms(change->manager->clock);
        char since[32], generation[UUID_STRING_SIZE];
        int r;

        if (!object || text_uuid_new(generation) < 0 ||
                json_object_set_new(change->user, "internal",
                        json_pack("{s:s, s:s}", "password", hash, "password_generation", generation)) < 0 ||
                json_object_set_new(json_status(change->user), "password_set",
                        json_string(text_format_time(now, since))) < 0)
                return no_memory(ret_error);
        r = auth_sessions_trim(change->manager->store, &batch, json_text(change->user, "uid"), 0, ret_error);
        if (r >= 0 && change->revoke_tokens)
                r = remove_tokens(change->manager, change->user, &batch, ret_error);
        if (r < 0)
                return r;
        /* Whoever had the old one may have logged in with it: of an administrator's new one no place is known yet. */
        if (strcmp(api_caller(change->request)->user_uid, json_text(change->user, "uid")) != 0)
                login_addresses_remove(&batch, json_text(change->user, "uid"));
        store_batch_put(&batch, json_revision(change->user), json_incref(change->user));
        return api_commit(change->request, change->manager, &batch, "user.password", object, NULL, ret_error);
}

static void on_hashed(void *userdata, const char *hash, struct error *error)
{
        struct new_password *change = userdata;
        struct error *failure = NULL;

        if (error)
                http_request_reply_error(change->request, error_copy(error));
        else if (set_password(change, hash, &failure) < 0)
                http_request_reply_error(change->request, failure);
        else
                http_request_reply_empty(change->request, 204);
        new_password_free(change);
}

static int begin_hash(struct new_password *change, struct error **ret_error)
{
        return password_hash(change->manager->passwords, change->password, on_hashed, change, ret_error);
}

static void on_current(void *userdata, bool fits, struct error *error)
{
        struct new_password *change = userdata;
        struct error *failure = NULL;

        if (error)
                failure = error_copy(error);
        else if (!fits)
                error_set(&failure, ERROR_DENIED, NULL, "the current password is another one");
        else if (begin_hash(change, &failure) >= 0)
                return;
        api_reply_refusal(change->request, change->manager, failure);
        new_password_free(change);
}

static int read_password(struct http_request *request, const char *const *keys, struct new_password *change,
        const char **ret_current, struct error **ret_error)
{
        const char *password = NULL;
        json_t *body = NULL;
        int r;

        r = api_body(request, keys, &body, ret_error);
        if (r >= 0 && ret_current)
                r = doc_need_string(body, "", "current", PASSWORD_MAX_CHARS, ret_current, ret_error);
        if (r >= 0)
                r = doc_need_string(body, "", "password", PASSWORD_MAX_CHARS, &password, ret_error);
        if (r >= 0)
                r = doc_opt_bool(body, "", "revoke_tokens", &change->revoke_tokens, ret_error);
        if (r >= 0 && strlen(password) < PASSWORD_MIN_CHARS)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "A few words in a row are easy to keep in mind.",
                        "the password is shorter than %d characters", PASSWORD_MIN_CHARS);
        if (r >= 0)
                snprintf(change->password, sizeof(change->password), "%s", password);
        return r;
}

static struct new_password *new_password_new(struct http_request *request, struct manager *manager)
{
        struct new_password *change = ALLOC(struct new_password);

        if (change) {
                change->request = request;
                change->manager = manager;
        }
        return change;
}

void api_user_password(struct http_request *request, void *userdata)
{
        static const char *const keys[] = {"password", "revoke_tokens", NULL};
        struct new_password *change = new_password_new(request, userdata);
        struct error *error = NULL;
        int r = change ? 0 : no_memory(&error);

        if (r >= 0)
                r = api_get_object(request, userdata, "user", &change->user, &error);
        if (r >= 0)
                r = check_covered(request, userdata, change->user, &error);
        if (r >= 0)
                r = read_password(request, keys, change, NULL, &error);
        if (r >= 0)
                r = begin_hash(change, &error);
        if (r >= 0)
                return;
        if (change)
                new_password_free(change);
        api_reply_refusal(request, userdata, error);
}

void api_own_password(struct http_request *request, void *userdata)
{
        static const char *const keys[] = {"current", "password", "revoke_tokens", NULL};
        const struct auth_caller *caller = api_caller(request);
        struct new_password *change = new_password_new(request, userdata);
        struct manager *manager = userdata;
        const char *current = NULL;
        struct error *error = NULL;
        uint64_t wait_ms = 0;
        int r = change ? 0 : no_memory(&error);

        if (r >= 0 && caller->kind != AUTH_SESSION)
                r = error_set(&error, ERROR_DENIED, "Log in first.", "a token cannot change a password");
        if (r >= 0)
                r = read_password(request, keys, change, &current, &error);
        if (r >= 0 && !rate_limit_take(manager->limits.own_passwords, caller->user_uid, &wait_ms)) {
                new_password_free(change);
                api_reply_limited(request, wait_ms, "there were too many attempts");
                return;
        }
        if (r >= 0)
                r = store_get(manager->store, "user", caller->user_uid, &change->user, &error);
        if (r >= 0)
                r = password_verify(manager->passwords,
                        &(struct password_attempt){
                                .hash = json_text_or_null(
                                        json_object_get(change->user, "internal"), "password"),
                                .password = current},
                        on_current, change, &error);
        if (r >= 0)
                return;
        if (change)
                new_password_free(change);
        api_reply_refusal(request, userdata, error);
}

/* --- Tokens --------------------------------------------------------------------------------------------------------- */

void api_token_list(struct http_request *request, void *userdata)
{
        api_reply_list(request, userdata, &(struct api_listing){.kind = "token"});
}

/* The token of the path, if it is the caller's or the caller may with everybody's. */
static int get_token(struct http_request *request, struct manager *manager, enum permission permission,
        json_t **ret_token, struct error **ret_error)
{
        const struct auth_caller *caller = api_caller(request);
        _cleanup_json_ json_t *token = NULL;
        bool everybodys = auth_may_everywhere(caller, permission);
        int r = api_get_object(request, manager, "token", &token, ret_error);

        if (!everybodys && (r == -ENOENT || (r >= 0 && !api_own_token(caller, token))))
                return error_set(ret_error, ERROR_DENIED, "`drover token list` shows your own.",
                        "%s has no token of this name", caller->name);
        if (r < 0)
                return r;
        *ret_token = TAKE_PTR(token);
        return 0;
}

void api_token_get(struct http_request *request, void *userdata)
{
        struct error *error = NULL;
        json_t *token = NULL;

        if (get_token(request, userdata, PERMISSION_ACCESS_READ, &token, &error) < 0)
                api_reply_refusal(request, userdata, error);
        else
                api_reply_object(request, 200, token);
}

static bool is_nobodys(void *userdata, const json_t *token)
{
        return !json_text_or_null(json_object_get(token, "internal"), "owner_uid");
}

static size_t longest_expired(const struct clock *clock, const json_t *tokens)
{
        json_int_t earliest = INT64_MAX;
        size_t i, found = json_array_size(tokens);
        json_t *token;

        json_array_foreach ((json_t *)tokens, i, token) {
                json_int_t expires = json_integer_value(
                        json_object_get(json_object_get(token, "internal"), "expires_unix_ms"));

                if (auth_token_has_expired(clock, token) && expires < earliest) {
                        earliest = expires;
                        found = i;
                }
        }
        return found;
}

static int remove_expired(
        struct manager *manager, const json_t *token, struct store_batch *batch, struct error **ret_error)
{
        _cleanup_free_ char *object = alloc_printf("token/%s", json_text(token, "name"));
        int r = object ? auth_token_remove(manager->store, batch, token, ret_error) : no_memory(ret_error);

        return r < 0 ? r
                     : audit_add(manager->store, manager->clock, batch,
                               &(struct audit_entry){.who = "system",
                                       .action = "token.delete",
                                       .object = object,
                                       .why = "it had expired, and a new one needed its place",
                                       .result = "done"},
                               ret_error);
}

/* One that has expired takes no place; it stays to be seen until a new one needs the room in the list. */
static int make_token_room(struct manager *manager, const json_t *owner, struct error **ret_error)
{
        const size_t most = owner ? TOKENS_MAX : TOKENS_NOBODYS_MAX;
        struct store_query query = {.kind = "token",
                .limit = STORE_LIMIT_NONE,
                .match = owner ? is_owned_by : is_nobodys,
                .userdata = (void *)json_text(owner, "uid")};
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *tokens = NULL;
        int r;

        r = store_list(manager->store, &query, &tokens, NULL, ret_error);
        if (r < 0 || json_array_size(tokens) < most)
                return r;
        while (json_array_size(tokens) >= most) {
                size_t i = longest_expired(manager->clock, tokens);

                if (i == json_array_size(tokens))
                        return error_set(ret_error, ERROR_TOO_LARGE,
                                "Revoke one that is not used: `drover token list`.",
                                "there are %zu %s already", most,
                                owner ? "tokens of this user" : "tokens that are nobody's");
                r = remove_expired(manager, json_array_get(tokens, i), &batch, ret_error);
                if (r < 0)
                        return r;
                json_array_remove(tokens, i);
        }
        return store_commit(manager->store, &batch, NULL, ret_error);
}

static int check_token(struct http_request *request, struct manager *manager,
        const struct auth_token_spec *spec, struct error **ret_error)
{
        const struct auth_caller *caller = api_caller(request);
        _cleanup_access_ struct access access = {};
        _cleanup_free_ char *what = alloc_printf("the token %s", spec->name);
        int r = what ? 0 : no_memory(ret_error);

        /* One that it made would be left when it is revoked or has expired. */
        if (r >= 0 && spec->owner && caller->kind == AUTH_TOKEN)
                r = error_set(ret_error, ERROR_DENIED, "Log in and make it then.", "a token makes no tokens");
        if (r >= 0 && !spec->owner && !auth_may_everywhere(caller, PERMISSION_ACCESS_MANAGE))
                r = error_set(ret_error, ERROR_DENIED, "Log in as a user first.",
                        "%s is nobody's token and may make no others", caller->name);
        if (r >= 0 && !spec->owner)
                r = auth_refuse_namesake(manager->store, spec->name, "user", ret_error);
        if (r >= 0 && spec->scope)
                r = access_scope_check(spec->scope, "scope", ret_error);
        if (r >= 0)
                r = auth_role_access(manager->store, spec->role, spec->scope, &access, ret_error);
        return r < 0 ? r : auth_covers(caller, &access, what, ret_error);
}

static int read_token(struct http_request *request, struct auth_token_spec *ret, struct error **ret_error)
{
        static const char *const keys[] = {"name", "role", "scope", "expires_days", NULL};
        json_t *body = NULL;
        int r;

        r = api_body(request, keys, &body, ret_error);
        if (r >= 0)
                r = api_body_name(body, &ret->name, ret_error);
        if (r >= 0)
                r = doc_need_string(body, "", "role", NAME_MAX_CHARS, &ret->role, ret_error);
        if (r >= 0)
                r = doc_opt_object(body, "", "scope", &ret->scope, ret_error);
        return r < 0 ? r
                     : doc_opt_u64(
                               body, "", "expires_days", 1, EXPIRES_MAX_DAYS, &ret->expires_days, ret_error);
}

void api_token_create(struct http_request *request, void *userdata)
{
        const struct auth_caller *caller = api_caller(request);
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *token = NULL, *owner = NULL;
        _cleanup_free_ char *object = NULL;
        struct auth_token_spec spec = {};
        struct manager *manager = userdata;
        char secret[AUTH_SECRET_SIZE];
        struct error *error = NULL;
        json_t *stored = NULL;
        int r;

        r = read_token(request, &spec, &error);
        if (r >= 0 && *caller->user_uid)
                r = store_get(manager->store, "user", caller->user_uid, &owner, &error);
        spec.owner = owner;
        if (r >= 0)
                r = check_token(request, manager, &spec, &error);
        if (r >= 0)
                r = make_token_room(manager, spec.owner, &error);
        if (r >= 0)
                r = auth_token_new(manager->clock, &batch, &spec, secret, &token, &error);
        if (r >= 0) {
                object = alloc_printf("token/%s", spec.name);
                r = api_commit(request, manager, &batch, "token.create", object, NULL, &error);
        }
        if (r >= 0)
                r = store_get(manager->store, "token", json_text(token, "uid"), &stored, &error);
        if (r < 0) {
                api_reply_refusal(request, userdata, error);
                return;
        }
        json_object_del(stored, "internal");
        http_request_reply_json(request, 201, json_pack("{s:o, s:s}", "token", stored, "secret", secret));
        explicit_bzero(secret, sizeof(secret));
}

/* Who could not have made it may not end it: that would be a way to lock others out. */
static int check_token_covered(
        struct http_request *request, struct manager *manager, const json_t *token, struct error **ret_error)
{
        _cleanup_access_ struct access access = {};
        _cleanup_free_ char *what = alloc_printf("the token %s", json_text(token, "name"));
        _cleanup_error_ struct error *error = NULL;
        int r;

        if (api_own_token(api_caller(request), token))
                return 0;
        r = what ? auth_role_access(manager->store, json_text(json_spec(token), "role"),
                           json_object_get(json_spec(token), "scope"), &access, &error)
                 : no_memory(ret_error);
        if (r == -ENOENT) /* its role is gone: it gives nothing */
                return 0;
        return r < 0 ? error_propagate(ret_error, TAKE_PTR(error))
                     : auth_covers(api_caller(request), &access, what, ret_error);
}

void api_token_delete(struct http_request *request, void *userdata)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *token = NULL;
        struct manager *manager = userdata;
        struct error *error = NULL;
        int r;

        r = get_token(request, manager, PERMISSION_ACCESS_MANAGE, &token, &error);
        if (r >= 0)
                r = check_token_covered(request, manager, token, &error);
        if (r >= 0)
                r = auth_token_remove(manager->store, &batch, token, &error);
        if (r >= 0)
                r = api_remove(request, manager, token, &batch, &error);
        if (r < 0)
                api_reply_refusal(request, userdata, error);
}
