/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/auth.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/pki.h"
#include "manager/json.h"

#define TOKEN_PREFIX "drvt_"
#define SESSION_PREFIX "drvs_"
#define PREFIX_CHARS 5
#define SESSION_PREFIX_SIZE (UUID_STRING_SIZE + 1)
#define DAY_MS (24ll * 3600 * 1000)
#define TOUCH_MS 60000

static const struct {
        const char *name, *description, *permissions[16];
} built_in_roles[] = {
        {AUTH_ROLE_ADMIN, "Everything", {"*"}},
        {AUTH_ROLE_READ_ONLY, "See everything, change nothing", {"*.read"}},
        {"operator",
                "Run the cluster: virtual machines, hosts, queue and schedules, but neither its settings nor "
                "access",
                {"*.read", "vm.*", "task.*", "queue.*", "schedule.*", "host.operate", "datastore.use",
                        "network.use", "token.own"}},
        {"vm-user", "Use virtual machines that are there",
                {"vm.read", "vm.power", "vm.console", "pool.read", "task.read", "event.read", "token.own"}},
        {"vm-admin", "Make, use, move and delete virtual machines",
                {"vm.*", "host.read", "pool.read", "task.*", "event.read", "token.own"}},
        {"migrator", "See and move virtual machines",
                {"vm.read", "vm.migrate", "host.read", "task.*", "event.read"}},
        {"auditor", "Read, verify and export the audit log, and who has access",
                {"audit.read", "access.read"}},
};

/* --- Callers ------------------------------------------------------------------------------------------------------- */

struct auth_caller *auth_caller_ref(const struct auth_caller *caller)
{
        struct auth_caller *c = (struct auth_caller *)caller;

        c->n_refs++;
        return c;
}

void auth_caller_unref(struct auth_caller *caller)
{
        if (!caller || --caller->n_refs)
                return;
        access_deinit(&caller->own);
        access_deinit(&caller->owner);
        explicit_bzero(caller->csrf, sizeof(caller->csrf));
        free(caller);
}

const char *auth_caller_uid(const struct auth_caller *caller)
{
        return caller->kind == AUTH_SESSION ? caller->user_uid : caller->id;
}

const char *auth_caller_person(const struct auth_caller *caller)
{
        return *caller->user_uid ? caller->user_uid : caller->id;
}

bool auth_may(
        const struct auth_caller *caller, enum permission permission, const struct access_target *target)
{
        return access_permits(&caller->own, permission, target) &&
               (!caller->owned || access_permits(&caller->owner, permission, target));
}

bool auth_may_anywhere(const struct auth_caller *caller, enum permission permission)
{
        return access_anywhere(&caller->own, permission) &&
               (!caller->owned || access_anywhere(&caller->owner, permission));
}

bool auth_may_everywhere(const struct auth_caller *caller, enum permission permission)
{
        return access_everywhere(&caller->own, permission) &&
               (!caller->owned || access_everywhere(&caller->owner, permission));
}

bool auth_may_on_any_host(
        const struct auth_caller *caller, enum permission permission, const struct access_target *target)
{
        return access_any_host(&caller->own, permission, target) &&
               (!caller->owned || access_any_host(&caller->owner, permission, target));
}

bool auth_tells_hosts_apart(const struct auth_caller *caller, const json_t *labels, const json_t *others)
{
        return access_tells_hosts_apart(&caller->own, labels, others) ||
               (caller->owned && access_tells_hosts_apart(&caller->owner, labels, others));
}

bool auth_looks_at_hosts(const struct auth_caller *caller)
{
        return access_looks_at_hosts(&caller->own) ||
               (caller->owned && access_looks_at_hosts(&caller->owner));
}

int auth_covers(const struct auth_caller *caller, const struct access *access, const char *what,
        struct error **ret_error)
{
        for (size_t i = 0; i < access->n_grants; i++)
                if (!access_covers(&caller->own, &access->grants[i]) ||
                        (caller->owned && !access_covers(&caller->owner, &access->grants[i])))
                        return error_set(ret_error, ERROR_DENIED,
                                "Nobody can give more than they have: take fewer permissions, or a narrower "
                                "scope.",
                                "%s may do more than %s, who would give it", what, caller->name);
        return 0;
}

/* --- Secrets ------------------------------------------------------------------------------------------------------- */

static int new_secret(const char *prefix, char ret_secret[static AUTH_SECRET_SIZE],
        char ret_hash[static PKI_FINGERPRINT_SIZE], struct error **ret_error)
{
        int r;

        memcpy(ret_secret, prefix, PREFIX_CHARS);
        r = text_random_hex(32, ret_secret + PREFIX_CHARS);
        if (r >= 0)
                r = pki_sha256_hex(ret_secret, strlen(ret_secret), ret_hash);
        return r < 0 ? error_from_errno(ret_error, r, "cannot make a secret") : 0;
}

static int csrf_of(const char *secret, char ret[static PKI_FINGERPRINT_SIZE])
{
        char text[AUTH_SECRET_SIZE + 16];
        int r;

        snprintf(text, sizeof(text), "drover csrf %s", secret);
        r = pki_sha256_hex(text, strlen(text), ret);
        explicit_bzero(text, sizeof(text));
        return r;
}

static json_t *token_document(const struct clock *clock, const struct auth_token_spec *spec, const char *hash)
{
        int64_t expires_ms =
                spec->expires_days ? clock_unix_ms(clock) + (int64_t)spec->expires_days * DAY_MS : 0;
        char uid[UUID_STRING_SIZE], created[32], expires[32];

        if (text_uuid_new(uid) < 0)
                return NULL;
        text_format_time(clock_unix_ms(clock), created);
        text_format_time(expires_ms, expires);
        return json_pack("{s:s, s:s, s:s, s:{s:s, s:O?, s:s?, s:s?}, s:{s:s}, s:{s:I, s:s, s:s?}}", "kind",
                "token", "name", spec->name, "uid", uid, "spec", "role", spec->role, "scope", spec->scope,
                "owner", json_text_or_null(spec->owner, "name"), "expires", expires_ms ? expires : NULL,
                "status", "created", created, "internal", "expires_unix_ms", (json_int_t)expires_ms, "hash",
                hash, "owner_uid", json_text_or_null(spec->owner, "uid"));
}

int auth_token_new(const struct clock *clock, struct store_batch *batch, const struct auth_token_spec *spec,
        char ret_secret[static AUTH_SECRET_SIZE], json_t **ret_doc, struct error **ret_error)
{
        char secret[AUTH_SECRET_SIZE], hash[PKI_FINGERPRINT_SIZE];
        _cleanup_json_ json_t *doc = NULL, *pointer = NULL;
        int r;

        if (!text_is_name(spec->name))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Use letters, digits, '.', '_' and '-'.",
                        "%.64s is not a name for a token", spec->name);
        r = new_secret(TOKEN_PREFIX, secret, hash, ret_error);
        if (r < 0)
                return r;
        doc = token_document(clock, spec, hash);
        pointer = json_pack("{s:s, s:s, s:s, s:O}", "kind", "token-hash", "uid", hash, "name", hash, "token",
                json_object_get(doc, "uid"));
        if (!doc || !pointer)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        store_batch_put(batch, STORE_ABSENT, json_incref(doc));
        store_batch_put(batch, STORE_ABSENT, TAKE_PTR(pointer));
        memcpy(ret_secret, secret, sizeof(secret));
        *ret_doc = TAKE_PTR(doc);
        return 0;
}

static int64_t number_of(const json_t *object, const char *key)
{
        return json_integer_value(json_object_get(object, key));
}

bool auth_token_has_expired(const struct clock *clock, const json_t *token)
{
        int64_t expires_ms = number_of(json_object_get(token, "internal"), "expires_unix_ms");

        return expires_ms && clock_unix_ms(clock) >= expires_ms;
}

int auth_token_remove(
        struct store *store, struct store_batch *batch, const json_t *token, struct error **ret_error)
{
        const char *hash = json_text(json_object_get(token, "internal"), "hash");

        store_batch_remove(batch, "token", json_text(token, "uid"), json_revision(token));
        store_batch_remove(batch, "token-hash", hash, STORE_ANY);
        return 0;
}

int auth_refuse_namesake(struct store *store, const char *name, const char *kind, struct error **ret_error)
{
        _cleanup_json_ json_t *other = NULL;
        _cleanup_error_ struct error *error = NULL;
        int r = store_get(store, kind, name, &other, &error);

        if (r < 0 && r != -ENOENT)
                return error_propagate(ret_error, TAKE_PTR(error));
        if (r < 0 || strcmp(json_text(other, "name"), name) ||
                json_text_or_null(json_object_get(other, "internal"), "owner_uid"))
                return 0;
        error_set(ret_error, ERROR_EXISTS, "Choose another name.",
                "there is a %s named %s: the audit log could not tell them apart", kind, name);
        return -EEXIST;
}

/* What the names of a user's sessions begin with: they are found by it, among those of thousands of users. Sessions of a version that named them by
 * their hash alone are not: these end by themselves within AUTH_SESSION_MS, and are refused meanwhile when their user may not have them. */
static const char *sessions_of(const char *user_uid, char ret[static SESSION_PREFIX_SIZE])
{
        snprintf(ret, SESSION_PREFIX_SIZE, "%.36s/", user_uid);
        return ret;
}

int auth_session_new(const struct clock *clock, struct store_batch *batch, const json_t *user,
        char ret_secret[static AUTH_SECRET_SIZE], char ret_csrf[static 65], struct error **ret_error)
{
        char secret[AUTH_SECRET_SIZE], hash[PKI_FINGERPRINT_SIZE];
        char prefix[SESSION_PREFIX_SIZE], name[SESSION_PREFIX_SIZE + PKI_FINGERPRINT_SIZE];
        json_int_t now = clock_unix_ms(clock);
        json_t *doc;
        int r;

        r = new_secret(SESSION_PREFIX, secret, hash, ret_error);
        if (r < 0)
                return r;
        snprintf(name, sizeof(name), "%s%s", sessions_of(json_text(user, "uid"), prefix), hash);
        doc = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I}", "kind", "session", "uid", hash, "name", name,
                "user_uid", json_text(user, "uid"), "password_generation",
                json_text(json_object_get(user, "internal"), "password_generation"), "created_unix_ms", now,
                "used_unix_ms", now);
        if (!doc || csrf_of(secret, ret_csrf) < 0) {
                json_decref(doc);
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        store_batch_put(batch, STORE_ABSENT, doc);
        memcpy(ret_secret, secret, sizeof(secret));
        return 0;
}

static int used_last_first(const void *a, const void *b)
{
        json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "used_unix_ms")),
                   y = json_integer_value(json_object_get(*(json_t *const *)b, "used_unix_ms"));

        return x > y ? -1 : x < y;
}

int auth_sessions_trim(struct store *store, struct store_batch *batch, const char *user_uid, size_t keep,
        struct error **ret_error)
{
        char prefix[SESSION_PREFIX_SIZE];
        struct store_query query = {
                .kind = "session", .prefix = sessions_of(user_uid, prefix), .limit = STORE_LIMIT_NONE};
        _cleanup_free_ json_t **order = NULL;
        _cleanup_json_ json_t *open = NULL;
        json_t *session;
        size_t i;
        int r;

        r = store_list(store, &query, &open, NULL, ret_error);
        if (r < 0 || json_array_size(open) <= keep)
                return r;
        order = alloc_array(json_array_size(open), sizeof(*order));
        if (!order)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        json_array_foreach (open, i, session)
                order[i] = session;
        qsort(order, json_array_size(open), sizeof(*order), used_last_first);
        for (i = keep; i < json_array_size(open); i++)
                store_batch_remove(batch, "session", json_text(order[i], "uid"), STORE_ANY);
        return 0;
}

void auth_session_remove(struct store_batch *batch, const struct auth_caller *caller)
{
        store_batch_remove(batch, "session", caller->id, STORE_ANY);
}

/* --- Roles and users ----------------------------------------------------------------------------------------------- */

int auth_role_access(
        struct store *store, const char *role, json_t *scope, struct access *access, struct error **ret_error)
{
        _cleanup_json_ json_t *doc = NULL;
        uint64_t set = 0;
        int r;

        r = store_get(store, "role", role, &doc, ret_error);
        if (r < 0)
                return r;
        r = permission_set_read(
                json_object_get(json_spec(doc), "permissions"), "spec.permissions", &set, ret_error);
        if (r < 0)
                return r;
        return access_add(access, set, scope) < 0
                       ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory")
                       : 0;
}

int auth_user_access(struct store *store, const json_t *user, struct access *access, struct error **ret_error)
{
        json_t *binding;
        size_t i;

        json_array_foreach (json_object_get(json_spec(user), "bindings"), i, binding) {
                _cleanup_error_ struct error *error = NULL;
                json_t *scope = json_object_get(binding, "scope");
                int r = auth_role_access(store, json_text(binding, "role"), scope, access, &error);

                if (r < 0 &&
                        (!error || (error->code != ERROR_NOT_FOUND && error->code != ERROR_BAD_DOCUMENT)))
                        return error_propagate(ret_error, TAKE_PTR(error));
        }
        return 0;
}

static json_t *role_document(size_t i, const char *uid)
{
        json_t *names = json_array();

        for (size_t k = 0;
                names && k < ARRAY_SIZE(built_in_roles[i].permissions) && built_in_roles[i].permissions[k];
                k++)
                if (json_array_append_new(names, json_string(built_in_roles[i].permissions[k])) < 0) {
                        json_decref(names);
                        return NULL;
                }
        return json_pack("{s:s, s:s, s:s, s:{s:s, s:o}, s:{s:b}}", "kind", "role", "name",
                built_in_roles[i].name, "uid", uid, "spec", "description", built_in_roles[i].description,
                "permissions", names, "status", "built_in", 1);
}

static int ensure_role(struct store *store, size_t i, struct store_batch *batch, struct error **ret_error)
{
        _cleanup_json_ json_t *there = NULL, *wanted = NULL;
        _cleanup_error_ struct error *error = NULL;
        char uid[UUID_STRING_SIZE];
        int r;

        r = store_get(store, "role", built_in_roles[i].name, &there, &error);
        if (r < 0 && r != -ENOENT)
                return error_propagate(ret_error, TAKE_PTR(error));
        if (!there && text_uuid_new(uid) < 0)
                return error_set(ret_error, ERROR_INTERNAL, NULL, "there are no random numbers");
        wanted = role_document(i, there ? json_text(there, "uid") : uid);
        if (!wanted)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        /* One that somebody has made under this name before it was built in stays theirs. */
        if (there && !json_is_true(json_object_get(json_status(there), "built_in")))
                return 0;
        if (there && !json_equal(json_spec(there), json_spec(wanted)))
                log_notice("the role %s is another one in this version", built_in_roles[i].name);
        if (!there || !json_equal(json_spec(there), json_spec(wanted)))
                store_batch_put(batch, there ? json_revision(there) : STORE_ABSENT, TAKE_PTR(wanted));
        return 0;
}

int auth_ensure_roles(struct store *store, struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(built_in_roles); i++)
                r = ensure_role(store, i, &batch, ret_error);
        return r < 0 || !batch.n_changes ? r : store_commit(store, &batch, NULL, ret_error);
}

/* --- Checking ------------------------------------------------------------------------------------------------------ */

static int refuse(struct error **ret_error, const char *message)
{
        return error_set(ret_error, ERROR_UNAUTHENTICATED,
                "Send `Authorization: Bearer TOKEN`; `drover login` or, on the server, `drover-manager token "
                "create` makes one.",
                "%s", message);
}

/* The user behind: there, and not disabled. */
static int load_user(struct store *store, const char *uid, json_t **ret_user, struct error **ret_error)
{
        _cleanup_json_ json_t *user = NULL;
        int r;

        r = store_get(store, "user", uid, &user, ret_error);
        /* By its uid only: somebody else may have the name by now. */
        if (r == -ENOENT || (r >= 0 && strcmp(json_text(user, "uid"), uid)))
                return refuse(ret_error, "the user whose token or session this is does not exist any more");
        if (r < 0)
                return r;
        if (json_is_true(json_object_get(json_spec(user), "disabled")))
                return refuse(ret_error, "the user whose token or session this is has been disabled");
        *ret_user = TAKE_PTR(user);
        return 0;
}

static void name_user(struct auth_caller *caller, const json_t *user)
{
        snprintf(caller->user, sizeof(caller->user), "%s", json_text(user, "name"));
        snprintf(caller->user_uid, sizeof(caller->user_uid), "%s", json_text(user, "uid"));
}

/* Tokens are found by their hash: there is no comparison whose time would tell anything about a secret. */
static int load_token(
        struct store *store, const struct clock *clock, struct auth_caller *caller, struct error **ret_error)
{
        _cleanup_json_ json_t *pointer = NULL, *token = NULL, *user = NULL;
        const char *owner;
        int r;

        r = store_get(store, "token-hash", caller->id, &pointer, ret_error);
        if (r >= 0)
                r = store_get(store, "token", json_text(pointer, "token"), &token, ret_error);
        if (r == -ENOENT)
                return refuse(ret_error, "the token is not valid");
        if (r < 0)
                return r;
        caller->expires_unix_ms = number_of(json_object_get(token, "internal"), "expires_unix_ms");
        if (auth_token_has_expired(clock, token))
                return refuse(ret_error, "the token has expired");
        snprintf(caller->role, sizeof(caller->role), "%s", json_text(json_spec(token), "role"));
        owner = json_text_or_null(json_object_get(token, "internal"), "owner_uid");
        r = owner ? load_user(store, owner, &user, ret_error) : 0;
        if (r >= 0 && user) {
                caller->owned = true;
                name_user(caller, user);
                r = auth_user_access(store, user, &caller->owner, ret_error);
        }
        if (r < 0)
                return r;
        snprintf(caller->name, sizeof(caller->name), "%s%s%s", caller->user, user ? "/" : "",
                json_text(token, "name"));
        r = auth_role_access(
                store, caller->role, json_object_get(json_spec(token), "scope"), &caller->own, ret_error);
        return r == -ENOENT ? refuse(ret_error, "the token's role does not exist any more") : r;
}

static int load_session(
        struct store *store, const struct clock *clock, struct auth_caller *caller, struct error **ret_error)
{
        _cleanup_json_ json_t *session = NULL, *user = NULL;
        int64_t now = clock_unix_ms(clock), created;
        int r;

        r = store_get(store, "session", caller->id, &session, ret_error);
        if (r == -ENOENT)
                return refuse(ret_error, "the session has ended");
        if (r < 0)
                return r;
        created = number_of(session, "created_unix_ms");
        caller->used_unix_ms = number_of(session, "used_unix_ms");
        caller->expires_unix_ms = created + AUTH_SESSION_MS;
        if (now >= caller->expires_unix_ms || now >= caller->used_unix_ms + AUTH_SESSION_IDLE_MS)
                return refuse(ret_error, "the session has expired");
        r = load_user(store, json_text(session, "user_uid"), &user, ret_error);
        if (r < 0)
                return r;
        if (strcmp(json_text(session, "password_generation"),
                    json_text(json_object_get(user, "internal"), "password_generation")))
                return refuse(ret_error, "the user's password was changed since this session began");
        name_user(caller, user);
        snprintf(caller->name, sizeof(caller->name), "%s", caller->user);
        return auth_user_access(store, user, &caller->own, ret_error);
}

static int load(
        struct store *store, const struct clock *clock, struct auth_caller *caller, struct error **ret_error)
{
        return caller->kind == AUTH_TOKEN ? load_token(store, clock, caller, ret_error)
                                          : load_session(store, clock, caller, ret_error);
}

/* The value of our cookie among others, as long as a secret is; NULL. */
static const char *cookie_secret(const char *cookie)
{
        size_t len = strlen(AUTH_COOKIE);

        while (cookie && *cookie) {
                cookie += strspn(cookie, " ;");
                if (!strncmp(cookie, AUTH_COOKIE "=", len + 1))
                        return strcspn(cookie + len + 1, ";") == AUTH_SECRET_SIZE - 1 ? cookie + len + 1
                                                                                      : NULL;
                cookie += strcspn(cookie, ";");
        }
        return NULL;
}

static int find_secret(const struct auth_credentials *credentials, struct auth_caller *caller,
        char ret_secret[static AUTH_SECRET_SIZE], struct error **ret_error)
{
        const char *from = credentials->authorization;

        if (!from) {
                from = cookie_secret(credentials->cookie);
                if (!from || strncmp(from, SESSION_PREFIX, PREFIX_CHARS))
                        return refuse(ret_error, "the request carries no token");
                caller->by_cookie = true;
        } else {
                if (strncasecmp(from, "Bearer ", 7))
                        return refuse(ret_error, "the request carries no token");
                from += 7;
                if (strlen(from) != AUTH_SECRET_SIZE - 1)
                        return refuse(ret_error, "the token is not valid");
        }
        memcpy(ret_secret, from, AUTH_SECRET_SIZE - 1);
        ret_secret[AUTH_SECRET_SIZE - 1] = '\0';
        caller->kind = strncmp(ret_secret, SESSION_PREFIX, PREFIX_CHARS) ? AUTH_TOKEN : AUTH_SESSION;
        return 0;
}

int auth_check(struct store *store, const struct clock *clock, const struct auth_credentials *credentials,
        struct auth_caller **ret_caller, struct error **ret_error)
{
        _cleanup_(auth_caller_unrefp) struct auth_caller *caller = ALLOC(struct auth_caller);
        char secret[AUTH_SECRET_SIZE] = "";
        int r;

        if (!caller)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        caller->n_refs = 1;
        r = find_secret(credentials, caller, secret, ret_error);
        if (r >= 0 && (pki_sha256_hex(secret, strlen(secret), caller->id) < 0 ||
                              (caller->kind == AUTH_SESSION && csrf_of(secret, caller->csrf) < 0)))
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        explicit_bzero(secret, sizeof(secret));
        if (r >= 0)
                r = load(store, clock, caller, ret_error);
        if (r < 0)
                return r;
        *ret_caller = TAKE_PTR(caller);
        return 0;
}

bool auth_still(struct store *store, const struct clock *clock, struct auth_caller **caller)
{
        _cleanup_(auth_caller_unrefp) struct auth_caller *now = ALLOC(struct auth_caller);
        _cleanup_error_ struct error *error = NULL;

        if (!now)
                return true;
        now->n_refs = 1;
        now->kind = (*caller)->kind;
        memcpy(now->id, (*caller)->id, sizeof(now->id));
        if (load(store, clock, now, &error) < 0)
                return !error || error->code != ERROR_UNAUTHENTICATED;
        auth_caller_unref(*caller);
        *caller = TAKE_PTR(now);
        return true;
}

void auth_touch(struct store *store, const struct clock *clock, const struct auth_caller *caller)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *session = NULL;
        json_int_t now = clock_unix_ms(clock);

        if (caller->kind != AUTH_SESSION || now < caller->used_unix_ms + TOUCH_MS)
                return;
        if (store_get(store, "session", caller->id, &session, &error) >= 0 &&
                json_object_set_new(session, "used_unix_ms", json_integer(now)) == 0) {
                store_batch_put(&batch, json_revision(session), json_incref(session));
                (void)store_commit(store, &batch, NULL, &error);
        }
        if (error)
                log_warning("cannot record that a session is in use: %s", error_message(error));
}
