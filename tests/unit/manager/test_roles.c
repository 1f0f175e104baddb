/* SPDX-License-Identifier: Apache-2.0 */

/* Who may do what, over the real API: each route of the table (api_routes.h) is tried by a role that may only migrate within its
 * pool; users log in, with real argon2id; sessions, watches, and answers that are repeated. */

#include "manager_rig.h"

#include "base/alloc.h"
#include "base/doc.h"
#include "manager/api.h"
#include "manager/audit.h"

#define PASSWORD "correct horse battery"

static void as(struct state *state, const char *secret)
{
        snprintf(state->headers[0], sizeof(state->headers[0]), "Authorization: Bearer %s", secret);
}

static void as_admin(struct state *state)
{
        as(state, state->secret);
}

static json_t *scope_east(void)
{
        return json_pack("{s:{s:s}, s:{s:s}}", "vms", "pool", "east", "hosts", "pool", "east");
}

static size_t n_items(struct state *state, const char *path)
{
        assert_int_equal(call(state, "GET", path, NULL), 200);
        return json_array_size(json_object_get(state->body, "items"));
}

static void label_host(struct state *state, size_t i, const char *pool)
{
        char path[64];

        snprintf(path, sizeof(path), "/api/v1/hosts/host%zu", i + 1);
        assert_int_equal(call(state, "PUT", path,
                                 json_pack("{s:{s:s, s:{s:s}}}", "spec", "address", state->agents[i].address,
                                         "labels", "pool", pool)),
                200);
}

static void make_vm(struct state *state, const char *name, const char *pool)
{
        json_t *vm = vm_document(name);

        json_object_set_new(json_spec(vm), "labels", json_pack("{s:s}", "pool", pool));
        json_object_set_new(vm, "host", json_string("host1"));
        call(state, "POST", "/api/v1/vms", vm);
        assert_string_equal(finish(state), "succeeded");
}

/* Two pools: "web" and "host1" are in east, "other" and (at first) host2 in west. */
static void set_up_pools(struct state *state)
{
        set_the_stage(state); /* with a VM "web" of no pool */
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/stop", json_pack("{s:b}", "force", 1)), 202);
        finish(state);
        assert_int_equal(call(state, "DELETE", "/api/v1/vms/web", NULL), 202);
        finish(state);
        label_host(state, 0, "east");
        label_host(state, 1, "west");
        make_vm(state, "web", "east");
        make_vm(state, "other", "west");
}

static void make_user(struct state *state, const char *name, const char *role, json_t *scope)
{
        as_admin(state);
        assert_int_equal(call(state, "POST", "/api/v1/users",
                                 json_pack("{s:s, s:{s:[{s:s, s:o*}]}}", "name", name, "spec", "bindings",
                                         "role", role, "scope", scope)),
                201);
        assert_null(json_object_get(state->body, "internal"));
}

static void set_password(struct state *state, const char *name)
{
        char path[96];

        snprintf(path, sizeof(path), "/api/v1/users/%s/password", name);
        assert_int_equal(call(state, "PUT", path, json_pack("{s:s}", "password", PASSWORD)), 204);
}

static int log_in(struct state *state, const char *name, const char *password)
{
        return call(
                state, "POST", "/api/v1/login", json_pack("{s:s, s:s}", "user", name, "password", password));
}

/* From here on calls are the user's. */
static void become(struct state *state, const char *name)
{
        assert_int_equal(log_in(state, name, PASSWORD), 200);
        as(state, json_text(state->body, "secret"));
}

static void make_mover(struct state *state)
{
        as_admin(state);
        assert_int_equal(
                call(state, "POST", "/api/v1/roles",
                        json_pack("{s:s, s:{s:[s]}}", "name", "mover", "spec", "permissions", "vm.migrate")),
                201);
        make_user(state, "bob", "mover", scope_east());
        set_password(state, "bob");
}

/* --- Each route ------------------------------------------------------------------------------------------------------ */

/* The one table that the program itself goes by: a route that is added is tried without anybody thinking of it. */
struct route {
        const char *method, *path, *handler, *permission, *scope;
};
static const struct route routes[] = {
#define X(method, path, handler, permission, scope) {method, path, #handler, #permission, #scope},
        API_ROUTES(X)
#undef X
};

static bool is_route(const struct route *route, const char *handler)
{
        return !strcmp(route->handler, handler);
}

/* A path with `name` for its {name}. */
static void fill_path(const char *pattern, const char *name, char ret[static 128])
{
        size_t n = 0;

        for (const char *at = pattern; *at && n + 1 < 128; at = strchr(at, *at == '{' ? '}' : *at) + 1)
                n += (size_t)snprintf(ret + n, 128 - n, "%.*s", *at == '{' ? 64 : 1, *at == '{' ? name : at);
}

/* Objects of the route's kind: a VM, the host where it is, the newest task. */
static void try_route(
        struct state *state, const struct route *route, const char *vm, const char *host, const char *to)
{
        const char *name = strstr(route->path, "/hosts/")                  ? host
                           : strstr(route->path, "/tasks/") && state->path ? state->path
                                                                           : vm;
        json_t *body = NULL;
        char path[128];

        if (strcmp(route->method, "GET"))
                body = json_pack("{s:s*, s:s*}", "to", strcmp(route->handler, "vm_start") ? to : NULL, "host",
                        strcmp(route->handler, "vm_start") ? NULL : to);
        fill_path(route->path, name, path);
        call(state, route->method, path, body);
}

typedef int (*expected_fn)(const struct route *route);

/* Calls each route, with the names of objects that there are, and compares the status; 0: whatever a valid caller gets. */
static void try_each_route(struct state *state, const char *to, expected_fn expected)
{
        for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
                int wanted = expected(&routes[i]), status;

                try_route(state, &routes[i], "web", "host1", to);
                status = state->status;
                if (wanted ? status != wanted : status >= 300 && status != 400 && status != 422)
                        fail_msg("%s %s: %d (%s), not %d", routes[i].method, routes[i].path, status,
                                state->code, wanted);
        }
}

/* A token, so that nothing of what is tried ends the caller. */
static void become_mover_token(struct state *state, uint64_t expires_days)
{
        json_t *body = json_pack("{s:s, s:s, s:o, s:o*}", "name", "mover", "role", "mover", "scope",
                scope_east(), "expires_days", expires_days ? json_integer((json_int_t)expires_days) : NULL);

        as_admin(state);
        assert_int_equal(call(state, "POST", "/api/v1/tokens", body), 201);
        as(state, json_text(state->body, "secret"));
}

static bool is_of_the_mover(const struct route *route)
{
        return !strcmp(route->permission, "VM_MIGRATE") && !is_route(route, "vm_migrate_disks");
}

static int mover_token_expected(const struct route *route)
{
        if (!strcmp(route->scope, "PUBLIC") || is_route(route, "whoami"))
                return 0;
        if (is_route(route, "session_get"))
                return 404;
        if (is_route(route, "session_delete"))
                return 409; /* a token is no session */
        return 403;         /* nor can it set a password; also where no host is named, see below */
}

/* The same for what names a host of the pool, but for what the role is there for. */
static int mover_token_expected_in_the_pool(const struct route *route)
{
        int status = mover_token_expected(route);

        return status == 403 && is_of_the_mover(route) ? -1 : status;
}

static void role_that_may_only_migrate_can_do_nothing_else(void **data)
{
        struct state *state = *data;
        size_t n_own = 0;

        set_up_pools(state);
        make_mover(state);
        become_mover_token(state, 0);
        try_each_route(state, NULL, mover_token_expected);
        for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
                int wanted = mover_token_expected_in_the_pool(&routes[i]);

                /* In the pool, and in the other one. */
                for (int k = 0; k < 2; k++) {
                        try_route(state, &routes[i], k ? "other" : "web", k ? "host2" : "host1", "host1");
                        if (wanted == 403 && state->status != 403)
                                fail_msg("%s %s: %d (%s)", routes[i].method, routes[i].path, state->status,
                                        state->code);
                }
                if (wanted != -1)
                        continue;
                n_own++;
                assert_int_equal(state->status, 403); /* of the other pool */
                try_route(state, &routes[i], "web", "host1", "host2");
                assert_int_equal(state->status, 403); /* out of the pool */
                try_route(state, &routes[i], "web", "host1", "host1");
                assert_int_not_equal(state->status, 403);
        }
        assert_true(n_own > 0);
        /* Everything is still there, and as it was. */
        as_admin(state);
        assert_int_equal(call(state, "GET", "/api/v1/vms/web", NULL), 200);
        assert_string_equal(json_text(json_status(state->body), "power"), "running");
        assert_int_equal(call(state, "GET", "/api/v1/vms/other", NULL), 200);
        assert_string_equal(json_text(json_status(state->body), "power"), "running");
}

/* Calls are those of a token that may everything within the scope (taken over). */
static void become_all_within(struct state *state, const char *name, json_t *scope)
{
        as_admin(state);
        assert_int_equal(call(state, "POST", "/api/v1/tokens",
                                 json_pack("{s:s, s:s, s:o}", "name", name, "role", "admin", "scope", scope)),
                201);
        as(state, json_text(state->body, "secret"));
}

static bool is_about_objects(const struct route *route)
{
        static const char *const others[] = {"PUBLIC", "SELF", "LIST", "OWN"};

        for (size_t i = 0; i < ARRAY_SIZE(others); i++)
                if (!strcmp(route->scope, others[i]))
                        return false;
        return true;
}

static void assert_all_refused(struct state *state, const char *scope, const char *vm, const char *host)
{
        for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
                if (scope ? strcmp(routes[i].scope, scope) != 0 : !is_about_objects(&routes[i]))
                        continue;
                try_route(state, &routes[i], vm, host, host);
                if (state->status != 403)
                        fail_msg("%s %s of %s and %s: %d (%s)", routes[i].method, routes[i].path, vm, host,
                                state->status, state->code);
        }
}

/* Whatever the role: a scope that names VMs only opens no host as such, one that names hosts only no VM elsewhere. */
static void scope_of_one_half_is_closed_on_the_other(void **data)
{
        static const char *const of_vms[] = {"VM", "VM_HOST", "TASK"};
        struct state *state = *data;
        char task[64];

        set_up_pools(state);
        assert_int_equal(call(state, "GET", "/api/v1/tasks?limit=1", NULL), 200);
        snprintf(task, sizeof(task), "%s",
                json_text(json_array_get(json_object_get(state->body, "items"), 0), "name"));
        state->path = task; /* it made "other", in west */
        become_all_within(state, "no-vms", json_pack("{s:{s:s}}", "vms", "folder", "none"));
        assert_all_refused(state, NULL, "web", "host1");
        assert_int_equal(n_items(state, "/api/v1/vms"), 0);
        assert_int_equal(n_items(state, "/api/v1/hosts"), 0);
        become_all_within(state, "no-hosts", json_pack("{s:{s:s}}", "hosts", "rack", "9"));
        assert_all_refused(state, NULL, "web", "host1");
        assert_int_equal(n_items(state, "/api/v1/vms"), 0);
        assert_int_equal(n_items(state, "/api/v1/tasks"), 0);
        become_all_within(state, "vms", json_pack("{s:{s:s}}", "vms", "pool", "east"));
        assert_all_refused(state, "HOST", "web", "host1");
        assert_all_refused(state, "ALL", "web", "host1"); /* such as to state that a host is down */
        become_all_within(state, "hosts", json_pack("{s:{s:s}}", "hosts", "pool", "west"));
        for (size_t i = 0; i < ARRAY_SIZE(of_vms); i++)
                assert_all_refused(state, of_vms[i], "web", "host1");
        assert_all_refused(state, "ALL", "web", "host2");
        assert_int_equal(call(state, "GET", "/api/v1/hosts/host2", NULL), 200);
        assert_int_equal(call(state, "GET", "/api/v1/hosts/host1", NULL), 403);
}

static void task_is_not_of_whoever_has_its_users_name_later(void **data)
{
        struct state *state = *data;
        char path[96], cancel[128];

        set_up_pools(state);
        make_user(state, "bob", "vm-admin", scope_east());
        set_password(state, "bob");
        become(state, "bob");
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/pause", json_object()), 202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        snprintf(cancel, sizeof(cancel), "%s/cancel", path);
        assert_string_equal(finish(state), "succeeded");
        as_admin(state);
        assert_int_equal(call(state, "DELETE", "/api/v1/users/bob", NULL), 204);
        make_user(state, "bob", "vm-admin", json_pack("{s:{s:s}}", "vms", "pool", "none"));
        set_password(state, "bob");
        become(state, "bob");
        assert_int_equal(call(state, "GET", path, NULL), 403);
        assert_int_equal(call(state, "POST", cancel, NULL), 403);
        assert_int_equal(n_items(state, "/api/v1/tasks"), 0);
}

static int migrate(struct state *state, const char *vm, const char *to)
{
        char path[96];

        snprintf(path, sizeof(path), "/api/v1/vms/%s/migrate", vm);
        return call(state, "POST", path, json_pack("{s:s*, s:b}", "to", to, "check", 1));
}

static void migration_stays_within_the_pool(void **data)
{
        struct state *state = *data;

        set_up_pools(state);
        make_mover(state);
        become(state, "bob");
        assert_int_equal(migrate(state, "web", "host2"), 403);   /* out of it */
        assert_int_equal(migrate(state, "web", NULL), 403);      /* wherever the manager likes */
        assert_int_equal(migrate(state, "other", "host1"), 403); /* somebody else's */
        assert_int_equal(
                migrate(state, "nobody", "host1"), 403); /* which tells not even that it is not there */
        as_admin(state);
        label_host(state, 1, "east");
        become(state, "bob");
        assert_int_equal(migrate(state, "web", "host2"), 200);
        assert_int_equal(
                call(state, "POST", "/api/v1/vms/web/migrate", json_pack("{s:s}", "to", "host2")), 202);
        as_admin(state);
        resume_following(state, "/api/v1/tasks?limit=1");
        assert_string_equal(
                json_text(json_spec(json_array_get(json_object_get(state->body, "items"), 0)), "by"), "bob");
}

static int all_unauthenticated(const struct route *route)
{
        return strcmp(route->scope, "PUBLIC") ? 401 : 0;
}

static void expired_and_revoked_credentials_open_no_route(void **data)
{
        struct state *state = *data;

        set_up_pools(state);
        make_mover(state);
        make_user(state, "eve", "admin", NULL);
        set_password(state, "eve");
        /* A session that has ended. */
        become(state, "eve");
        assert_int_equal(call(state, "DELETE", "/api/v1/session", NULL), 204);
        try_each_route(state, NULL, all_unauthenticated);
        /* A token that was revoked. */
        become(state, "eve");
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", "t", "role", "admin")),
                201);
        as(state, json_text(state->body, "secret"));
        assert_int_equal(call(state, "DELETE", "/api/v1/tokens/t", NULL), 204);
        try_each_route(state, NULL, all_unauthenticated);
        /* A token whose user is gone. */
        become(state, "eve");
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", "t", "role", "admin")),
                201);
        as(state, json_text(state->body, "secret"));
        assert_int_equal(call(state, "DELETE", "/api/v1/users/eve", NULL), 204);
        try_each_route(state, NULL, all_unauthenticated);
}

/* Whether a role with just these permissions gets past the check in front of each route; those of `permission` (NULL: none) expected. */
static void assert_opens(struct state *state, json_t *permissions, const char *permission, bool opens)
{
        static unsigned int n;
        char name[16];

        snprintf(name, sizeof(name), "p%u", n++);
        as_admin(state);
        assert_int_equal(
                call(state, "POST", "/api/v1/roles",
                        json_pack("{s:s, s:{s:o}}", "name", name, "spec", "permissions", permissions)),
                201);
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", name, "role", name)),
                201);
        as(state, json_text(state->body, "secret"));
#define X(method, path, handler, needed, scope) \
        if (strcmp(#needed, "NONE") && strcmp(#scope, "OWN") && strcmp(path, V1 "/events") && \
                !(opens && (!strcmp(#handler, "vm_migrate_disks") || \
                                   !strcmp(#needed, "VM_IMAGE"))) && /* these take two */ \
                !strcmp(permission, permission_to_string(PERMISSION_##needed))) { \
                char full[128]; \
\
                fill_path(path, "nobody", full); \
                call(state, method, full, strcmp(method, "GET") ? json_object() : NULL); \
                if ((state->status == 403) == opens) \
                        fail_msg("%s %s with %s: %d", method, full, opens ? permission : "all but it", \
                                state->status); \
        }
#define PERMISSION_NONE PERMISSION_HOST_READ
        API_ROUTES(X)
#undef PERMISSION_NONE
#undef X
}

/* As somebody with these permissions. */
static int move_disks_with(struct state *state, const char *role, json_t *permissions)
{
        as_admin(state);
        assert_int_equal(
                call(state, "POST", "/api/v1/roles",
                        json_pack("{s:s, s:{s:o}}", "name", role, "spec", "permissions", permissions)),
                201);
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", role, "role", role)),
                201);
        as(state, json_text(state->body, "secret"));
        return call(state, "POST", "/api/v1/vms/nobody/migrate-disks", json_object());
}

static void disks_are_moved_by_who_may_migrate_and_use_datastores(void **data)
{
        struct state *state = *data;

        assert_int_equal(move_disks_with(state, "one", json_pack("[s]", "vm.migrate")), 403);
        if (!strstr(json_text(state->body, "detail"), "datastore.use"))
                fail_msg("unexpected: %s", json_text(state->body, "detail"));
        assert_int_equal(call(state, "POST", "/api/v1/vms/nobody/migrate",
                                 json_pack("{s:s, s:s}", "to", "host1", "to_datastore", "fast")),
                403);
        assert_int_equal(move_disks_with(state, "two", json_pack("[s]", "datastore.use")), 403);
        assert_int_equal(
                move_disks_with(state, "both", json_pack("[s, s]", "vm.migrate", "datastore.use")), 404);
}

static void permission_of_each_route_is_needed_and_enough(void **data)
{
        struct state *state = *data;

        for (size_t i = 0; i < N_PERMISSIONS; i++) {
                json_t *others = json_array();

                for (size_t k = 0; k < N_PERMISSIONS; k++)
                        if (k != i)
                                json_array_append_new(
                                        others, json_string(permission_to_string((enum permission)k)));
                assert_opens(state, others, permission_to_string((enum permission)i), false);
                assert_opens(state, json_pack("[s]", permission_to_string((enum permission)i)),
                        permission_to_string((enum permission)i), true);
        }
}

static void token_makes_no_tokens(void **data)
{
        struct state *state = *data;

        make_user(state, "alice", "admin", NULL);
        set_password(state, "alice");
        become(state, "alice");
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", "t", "role", "admin")),
                201);
        as(state, json_text(state->body, "secret"));
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", "u", "role", "admin")),
                403);
        as_admin(state);
        assert_int_equal(call(state, "GET", "/api/v1/audit?result=denied&who=alice", NULL), 200);
        assert_int_equal(json_array_size(json_object_get(state->body, "items")), 1);
}

/* --- What is seen ----------------------------------------------------------------------------------------------------- */

static void lists_have_what_is_in_the_scope(void **data)
{
        struct state *state = *data;

        set_up_pools(state);
        make_user(state, "carol", "vm-admin", scope_east());
        set_password(state, "carol");
        assert_int_equal(n_items(state, "/api/v1/vms"), 2);
        become(state, "carol");
        assert_int_equal(n_items(state, "/api/v1/vms"), 1);
        assert_string_equal(
                json_text(json_array_get(json_object_get(state->body, "items"), 0), "name"), "web");
        assert_int_equal(n_items(state, "/api/v1/hosts"), 1);
        assert_int_equal(call(state, "GET", "/api/v1/vms/web", NULL), 200);
        assert_int_equal(call(state, "GET", "/api/v1/vms/other", NULL), 403);
        assert_int_equal(call(state, "GET", "/api/v1/hosts/host2", NULL), 403);
        assert_int_equal(call(state, "POST", "/api/v1/vms/other/stop", json_object()), 403);
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/pause", json_object()), 202);
        assert_string_equal(finish(state), "succeeded");
}

static void make_carol(struct state *state)
{
        json_t *bindings = json_pack(
                "[{s:s, s:o}, {s:s}]", "role", "vm-admin", "scope", scope_east(), "role", "connect");

        as_admin(state);
        assert_int_equal(call(state, "POST", "/api/v1/roles",
                                 json_pack("{s:s, s:{s:[s]}}", "name", "connect", "spec", "permissions",
                                         "network.use")),
                201);
        assert_int_equal(call(state, "POST", "/api/v1/users",
                                 json_pack("{s:s, s:{s:o}}", "name", "carol", "spec", "bindings", bindings)),
                201);
        set_password(state, "carol");
        become(state, "carol");
}

/* The body of a VM in the pool that is refused when `key` of its spec is this. */
static void assert_not_made_with(struct state *state, const char *key, const char *json)
{
        json_t *vm = vm_document("new");

        json_object_set_new(json_spec(vm), "labels", json_pack("{s:s}", "pool", "east"));
        json_object_set_new(vm, "host", json_string("host1"));
        json_object_set_new(json_spec(vm), key, json_loads(json, 0, NULL));
        assert_int_equal(call(state, "POST", "/api/v1/vms", vm), 403);
}

static void make_pool(struct state *state, const char *name)
{
        assert_int_equal(call(state, "POST", "/api/v1/pools",
                                 json_pack("{s:s, s:{s:{s:i}}}", "name", name, "spec", "limits", "vms", 5)),
                201);
}

/* Also a role that may change pools does not, within a scope: what a pool may use is the others' loss. */
static void scope_of_a_pool_reads_its_own_limits_and_changes_none(void **data)
{
        static const char *const changes[] = {"PUT", "DELETE"};
        struct state *state = *data;
        char by_uid[96];

        set_up_pools(state);
        make_pool(state, "west");
        make_pool(state, "east");
        snprintf(by_uid, sizeof(by_uid), "/api/v1/pools/%s", json_text(state->body, "uid"));
        become_all_within(state, "east", scope_east());
        assert_int_equal(n_items(state, "/api/v1/pools"), 1);
        assert_int_equal(call(state, "GET", by_uid, NULL), 200);
        assert_string_equal(json_text(state->body, "name"), "east");
        assert_int_equal(
                json_integer_value(json_object_get(json_object_get(json_status(state->body), "used"), "vms")),
                1);
        assert_int_equal(call(state, "GET", "/api/v1/pools/west", NULL), 403);
        assert_int_equal(call(state, "GET", "/api/v1/pools/nobody", NULL), 403);
        for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
                assert_int_equal(call(state, changes[i], "/api/v1/pools/east", json_object()), 403);
        assert_int_equal(
                call(state, "POST", "/api/v1/pools", json_pack("{s:s, s:{}}", "name", "new", "spec")), 403);
        /* Who sees some of its machines only does not see what all of them use. */
        become_all_within(
                state, "some", json_pack("{s:{s:s, s:s}}", "vms", "pool", "east", "tenant", "acme"));
        assert_int_equal(n_items(state, "/api/v1/pools"), 0);
        assert_int_equal(call(state, "GET", "/api/v1/pools/east", NULL), 403);
        as_admin(state);
        make_user(state, "vera", "vm-user", scope_east());
        set_password(state, "vera");
        become(state, "vera");
        assert_int_equal(n_items(state, "/api/v1/pools"), 1);
}

static void machine_of_a_pool_names_nobody_elses_files(void **data)
{
        struct state *state = *data;

        set_up_pools(state);
        make_carol(state);
        assert_not_made_with(
                state, "disks", "[{\"datastore\": \"shared\", \"path\": \"other/disk0.qcow2\"}]");
        assert_not_made_with(state, "disks",
                "[{\"datastore\": \"shared\", \"path\": \"x.raw\", \"size_bytes\": 1048576}]");
        assert_not_made_with(state, "cdrom", "{\"datastore\": \"shared\", \"path\": \"other/disk0.qcow2\"}");
        assert_not_made_with(
                state, "boot", "{\"kernel\": {\"datastore\": \"shared\", \"path\": \"other/vmlinuz\"}}");
        assert_not_made_with(state, "labels", "{\"pool\": \"east\", \"tenant\": \"hr\"}");
        as_admin(state);
        /* And nobody a record as a disk. */
        for (int i = 0; i < 2; i++) {
                json_t *vm = vm_document("new");

                json_object_set_new(json_spec(vm), "disks",
                        json_pack("[{s:s, s:s}]", "datastore", "shared", "path",
                                i ? "other/owner.json" : "web/vm.json"));
                assert_int_equal(call(state, "POST", "/api/v1/vms", vm), 422);
        }
}

static void machine_is_made_within_the_scope_only(void **data)
{
        struct state *state = *data;
        json_t *vm;

        set_up_pools(state);
        make_carol(state);
        for (int i = 0; i < 3; i++) {
                static const char *const pools[] = {"west", "east", "east"}, *const hosts[] = {"host1",
                                                                                     "host2", "host1"};

                vm = vm_document("new");
                json_object_set_new(json_spec(vm), "labels", json_pack("{s:s}", "pool", pools[i]));
                json_object_set_new(vm, "host", json_string(hosts[i]));
                assert_int_equal(call(state, "POST", "/api/v1/vms", vm), i == 2 ? 202 : 403);
        }
        assert_string_equal(finish(state), "succeeded");
}

struct seen {
        char text[4096];
};

static void on_line(void *userdata, const char *line)
{
        struct seen *seen = userdata;
        size_t used = strlen(seen->text);

        snprintf(seen->text + used, sizeof(seen->text) - used, "%s\n", line);
}

static void on_end(void *userdata, int status, json_t *body, struct error *error)
{
}

static struct http_call *watch(struct state *state, const char *path, struct seen *seen)
{
        const char *headers[] = {state->headers[0], NULL};
        struct http_call *watching = NULL;

        assert_int_equal(http_client_call(state->client,
                                 &(struct http_call_spec){.method = "GET",
                                         .address = state->address,
                                         .peer_name = "manager.drover",
                                         .path = path,
                                         .headers = headers,
                                         .line = on_line},
                                 on_end, seen, &watching, NULL),
                0);
        return watching;
}

static void wait_seen(struct state *state, const struct seen *seen, const char *text)
{
        for (uint64_t end = clock_now_ms(loop_clock(state->loop)) + WAIT_MS; !strstr(seen->text, text);) {
                if (clock_now_ms(loop_clock(state->loop)) >= end)
                        fail_msg("%s was not seen in: %s", text, seen->text);
                loop_iterate(state->loop, 20);
        }
}

static void remove_vm(struct state *state, const char *name)
{
        char path[96];

        snprintf(path, sizeof(path), "/api/v1/vms/%s/stop", name);
        call(state, "POST", path, json_pack("{s:b}", "force", 1));
        finish(state);
        snprintf(path, sizeof(path), "/api/v1/vms/%s", name);
        assert_int_equal(call(state, "DELETE", path, NULL), 202);
        assert_string_equal(finish(state), "succeeded");
}

/* She watches what there is of the two pools, within the scope (taken over); then calls are the administrator's. */
static struct http_call *watch_as_carol(
        struct state *state, const char *role, json_t *scope, const char *kinds, struct seen *seen)
{
        struct http_call *watching;
        char path[96];

        set_up_pools(state);
        make_user(state, "carol", role, scope);
        set_password(state, "carol");
        become(state, "carol");
        snprintf(path, sizeof(path), "/api/v1/events?kinds=%s", kinds);
        watching = watch(state, path, seen);
        wait_seen(state, seen, "id: ");
        as_admin(state);
        return watching;
}

static void watch_tells_what_is_in_the_scope_until_that_changes(void **data)
{
        struct state *state = *data;
        struct seen seen = {};
        struct http_call *watching;

        watching = watch_as_carol(state, "vm-admin", scope_east(), "vm,token,user", &seen);
        remove_vm(state, "other");
        remove_vm(state, "web");
        wait_seen(state, &seen, "\"op\":\"delete\"");
        assert_non_null(strstr(seen.text, "\"name\":\"web\""));
        assert_null(strstr(seen.text, "other"));
        assert_null(strstr(seen.text, "carol"));
        /* Taken the role, she sees nothing of what comes. */
        memset(&seen, 0, sizeof(seen));
        assert_int_equal(
                call(state, "PUT", "/api/v1/users/carol", json_pack("{s:{s:[]}}", "spec", "bindings")), 200);
        make_vm(state, "later", "east");
        for (int i = 0; i < 20; i++)
                loop_iterate(state->loop, 10);
        assert_null(strstr(seen.text, "later"));
        http_call_cancel(watching);
}

/* What comes into her sight and leaves it, without being made or removed. */
static void watch_tells_what_leaves_the_scope(void **data)
{
        struct state *state = *data;
        struct seen seen = {};
        struct http_call *watching;

        watching = watch_as_carol(state, "vm-admin", scope_east(), "vm,host", &seen);
        /* Not hers before and after. */
        label_host(state, 1, "north");
        /* Hers no more, with "web" on it. */
        label_host(state, 0, "west");
        wait_seen(state, &seen, "event: reset");
        assert_null(strstr(seen.text, "host2"));
        memset(&seen, 0, sizeof(seen));
        label_host(state, 0, "east");
        wait_seen(state, &seen, "event: reset");
        http_call_cancel(watching);
}

/* Its role has no host.read, and it asks for machines only: with the host's label they go and come all the same. */
static void watch_tells_who_sees_no_hosts_that_machines_come_and_go_with_a_label(void **data)
{
        struct state *state = *data;
        struct seen seen = {}, late = {};
        struct http_call *watching, *again;
        char path[96];

        watching = watch_as_carol(state, "vm-user", scope_east(), "vm", &seen);
        label_host(state, 1, "north");
        label_host(state, 0, "west");
        wait_seen(state, &seen, "event: reset");
        memset(&seen, 0, sizeof(seen));
        label_host(state, 0, "east");
        wait_seen(state, &seen, "event: reset");
        /* Also who was away meanwhile. */
        assert_non_null(strstr(seen.text, "id: "));
        snprintf(path, sizeof(path), "/api/v1/events?kinds=vm&since=%llu",
                (unsigned long long)strtoull(strstr(seen.text, "id: ") + 4, NULL, 10) - 1);
        become(state, "carol");
        again = watch(state, path, &late);
        wait_seen(state, &late, "event: reset");
        http_call_cancel(again);
        http_call_cancel(watching);
}

/* A scope of hosts alone: a virtual machine leaves it when it moves. */
static void watch_tells_of_a_machine_that_moves_out_of_the_scope(void **data)
{
        struct state *state = *data;
        struct seen seen = {};
        struct http_call *watching;
        char path[128];

        watching = watch_as_carol(
                state, "vm-admin", json_pack("{s:{s:s}}", "hosts", "pool", "east"), "vm", &seen);
        begin_migration(state, path);
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        wait_seen(state, &seen, "\"op\":\"delete\"");
        assert_non_null(strstr(seen.text, "\"name\":\"web\""));
        assert_null(strstr(seen.text, "other"));
        http_call_cancel(watching);
}

static void one_caller_does_not_take_all_watches(void **data)
{
        enum { OF_ONE = 250 };
        struct state *state = *data;
        struct http_call *watching[OF_ONE];
        struct seen *seen = calloc(OF_ONE, sizeof(*seen));

        make_user(state, "zoe", "operator", NULL);
        set_password(state, "zoe");
        for (int i = 0; i < OF_ONE; i++) {
                watching[i] = watch(state, "/api/v1/events", &seen[i]);
                wait_seen(state, &seen[i], "id: ");
        }
        assert_int_equal(call(state, "GET", "/api/v1/events", NULL), 429);
        become(state, "zoe");
        {
                struct seen others = {};
                struct http_call *of_zoe = watch(state, "/api/v1/events", &others);

                wait_seen(state, &others, "id: ");
                http_call_cancel(of_zoe);
        }
        for (int i = 0; i < OF_ONE; i++)
                http_call_cancel(watching[i]);
        free(seen);
}

/* --- Users, passwords, sessions ---------------------------------------------------------------------------------------- */

static void nobody_gives_more_than_they_have(void **data)
{
        struct state *state = *data;
        json_t *user;

        as_admin(state);
        assert_int_equal(call(state, "POST", "/api/v1/roles",
                                 json_pack("{s:s, s:{s:[s, s]}}", "name", "clerk", "spec", "permissions",
                                         "access.*", "vm.read")),
                201);
        make_user(state, "dan", "clerk", NULL);
        set_password(state, "dan");
        make_user(state, "root", "admin", NULL);
        become(state, "dan");
        user = json_pack("{s:s, s:{s:[{s:s}]}}", "name", "mallory", "spec", "bindings", "role", "admin");
        assert_int_equal(call(state, "POST", "/api/v1/users", user), 403);
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", "t", "role", "admin")),
                403);
        assert_int_equal(
                call(state, "POST", "/api/v1/roles",
                        json_pack("{s:s, s:{s:[s]}}", "name", "x", "spec", "permissions", "vm.migrate")),
                403);
        assert_int_equal(call(state, "PUT", "/api/v1/roles/clerk",
                                 json_pack("{s:{s:[s]}}", "spec", "permissions", "*")),
                403);
        /* Nor are they let into the account of somebody who has more. */
        assert_int_equal(
                call(state, "PUT", "/api/v1/users/root/password", json_pack("{s:s}", "password", PASSWORD)),
                403);
        assert_int_equal(
                call(state, "PUT", "/api/v1/users/root", json_pack("{s:{s:b}}", "spec", "disabled", 1)), 403);
        assert_int_equal(call(state, "DELETE", "/api/v1/users/root", NULL), 403);
        /* What they have they can give. */
        user = json_pack("{s:s, s:{s:[{s:s}]}}", "name", "ann", "spec", "bindings", "role", "clerk");
        assert_int_equal(call(state, "POST", "/api/v1/users", user), 201);
}

static void built_in_role_stays_as_it_is(void **data)
{
        struct state *state = *data;

        assert_int_equal(call(state, "PUT", "/api/v1/roles/admin",
                                 json_pack("{s:{s:[s]}}", "spec", "permissions", "vm.read")),
                409);
        assert_int_equal(call(state, "DELETE", "/api/v1/roles/admin", NULL), 409);
        assert_int_equal(call(state, "GET", "/api/v1/vms", NULL), 200);
}

static void role_in_use_is_not_removed(void **data)
{
        struct state *state = *data;

        make_mover(state);
        assert_int_equal(call(state, "DELETE", "/api/v1/roles/mover", NULL), 409);
        assert_int_equal(call(state, "DELETE", "/api/v1/users/bob", NULL), 204);
        assert_int_equal(call(state, "DELETE", "/api/v1/roles/mover", NULL), 204);
}

static void password_is_checked_and_limited(void **data)
{
        struct state *state = *data;
        int n = 0;

        make_user(state, "alice", "operator", NULL);
        assert_int_equal(log_in(state, "alice", PASSWORD), 401); /* none was set */
        set_password(state, "alice");
        assert_int_equal(log_in(state, "alice", PASSWORD), 200);
        assert_int_equal(log_in(state, "alice", "incorrect horse"), 401);
        assert_int_equal(log_in(state, "nobody", PASSWORD), 401);
        while (log_in(state, "alice", "incorrect horse") == 401)
                assert_true(++n < 12);
        assert_int_equal(state->status, 429);
        assert_string_equal(state->code, "rate-limited");
        /* Also the right one has to wait; other users need not. */
        assert_int_equal(log_in(state, "alice", PASSWORD), 429);
        make_user(state, "zoe", "operator", NULL);
        set_password(state, "zoe");
        assert_int_equal(log_in(state, "zoe", PASSWORD), 200);
}

static void cookie_needs_the_csrf_token_to_change_something(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *user = NULL;
        char secret[AUTH_SECRET_SIZE], csrf[65];

        make_user(state, "alice", "admin", NULL);
        assert_int_equal(store_get(state->manager->store, "user", "alice", &user, NULL), 0);
        assert_int_equal(auth_session_new(state->manager->clock, &batch, user, secret, csrf, NULL), 0);
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
        snprintf(state->headers[0], sizeof(state->headers[0]), "Cookie: " AUTH_COOKIE "=%s", secret);
        assert_int_equal(call(state, "GET", "/api/v1/vms", NULL), 200);
        assert_int_equal(call(state, "POST", "/api/v1/switches", json_pack("{s:s}", "name", "sw")), 403);
        snprintf(state->headers[1], sizeof(state->headers[1]), "X-CSRF-Token: %064d", 0);
        assert_int_equal(call(state, "POST", "/api/v1/switches", json_pack("{s:s}", "name", "sw")), 403);
        assert_int_equal(call(state, "GET", "/api/v1/session", NULL), 200);
        assert_string_equal(json_text(state->body, "csrf_token"), csrf);
        snprintf(state->headers[1], sizeof(state->headers[1]), "X-CSRF-Token: %s", csrf);
        assert_int_equal(call(state, "POST", "/api/v1/switches", json_pack("{s:s}", "name", "sw")), 202);
        *state->headers[1] = '\0';
}

static void session_survives_a_new_leader(void **data)
{
        struct state *state = *data;

        make_user(state, "alice", "operator", NULL);
        set_password(state, "alice");
        become(state, "alice");
        stop_manager(state);
        start_manager(state);
        assert_int_equal(call(state, "GET", "/api/v1/whoami", NULL), 200);
        assert_string_equal(json_text(state->body, "user"), "alice");
}

/* --- Answers that are repeated ------------------------------------------------------------------------------------------ */

static void set_key(struct state *state, const char *key)
{
        snprintf(state->headers[1], sizeof(state->headers[1]), "Idempotency-Key: %s", key);
}

static void answer_is_repeated_also_by_the_next_leader(void **data)
{
        struct state *state = *data;
        char secret[AUTH_SECRET_SIZE];

        set_key(state, "once");
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", "t", "role", "admin")),
                201);
        snprintf(secret, sizeof(secret), "%s", json_text(state->body, "secret"));
        for (int i = 0; i < 2; i++) {
                assert_int_equal(call(state, "POST", "/api/v1/tokens",
                                         json_pack("{s:s, s:s}", "name", "t", "role", "admin")),
                        201);
                assert_string_equal(json_text(state->body, "secret"), secret);
                stop_manager(state);
                start_manager(state);
        }
        /* The same key for something else. */
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", "u", "role", "admin")),
                409);
        set_key(state, "gone");
        assert_int_equal(call(state, "DELETE", "/api/v1/tokens/t", NULL), 204);
        assert_int_equal(call(state, "DELETE", "/api/v1/tokens/t", NULL), 204);
        *state->headers[1] = '\0';
        assert_int_equal(call(state, "DELETE", "/api/v1/tokens/t", NULL), 404);
}

static void kept_answer_holds_no_secret_that_the_store_could_tell(void **data)
{
        struct state *state = *data;
        struct store_query query = {.kind = "idempotency", .limit = 10};
        _cleanup_json_ json_t *records = NULL;
        _cleanup_free_ char *text = NULL;

        set_key(state, "once");
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", "t", "role", "admin")),
                201);
        assert_int_equal(store_list(state->manager->store, &query, &records, NULL, NULL), 0);
        assert_int_equal(json_array_size(records), 1);
        text = doc_to_text(records);
        assert_null(strstr(text, json_text(state->body, "secret")));
        assert_null(strstr(text, "once"));
        assert_true(strlen(json_text(json_array_get(records, 0), "answer")) > 100);
}

/* Two keys for one password: had the record its plain hash, who has the store could see that, and guess. */
static void record_of_a_key_tells_no_password(void **data)
{
        struct state *state = *data;
        struct store_query query = {.kind = "idempotency", .limit = 10};
        _cleanup_json_ json_t *records = NULL;

        make_user(state, "alice", "vm-user", NULL);
        set_key(state, "first");
        set_password(state, "alice");
        set_key(state, "second");
        set_password(state, "alice");
        assert_int_equal(store_list(state->manager->store, &query, &records, NULL, NULL), 0);
        assert_int_equal(json_array_size(records), 2);
        assert_string_not_equal(json_text(json_array_get(records, 0), "request"),
                json_text(json_array_get(records, 1), "request"));
        *state->headers[1] = '\0';
}

static void key_is_of_one_query_and_one_caller(void **data)
{
        struct state *state = *data;
        char secret[AUTH_SECRET_SIZE];

        set_key(state, "once");
        assert_int_equal(call(state, "POST", "/api/v1/tokens?for=a",
                                 json_pack("{s:s, s:s}", "name", "t", "role", "admin")),
                201);
        snprintf(secret, sizeof(secret), "%s", json_text(state->body, "secret"));
        assert_int_equal(call(state, "POST", "/api/v1/tokens?for=a",
                                 json_pack("{s:s, s:s}", "name", "t", "role", "admin")),
                201);
        assert_string_equal(json_text(state->body, "secret"), secret);
        assert_int_equal(call(state, "POST", "/api/v1/tokens?for=b",
                                 json_pack("{s:s, s:s}", "name", "t", "role", "admin")),
                409);
        assert_string_equal(state->code, "conflict");
        /* To another caller, with the same key and request, it tells nothing. */
        as(state, secret);
        assert_int_equal(call(state, "POST", "/api/v1/tokens?for=a",
                                 json_pack("{s:s, s:s}", "name", "t", "role", "admin")),
                409);
        assert_string_equal(state->code, "exists");
        *state->headers[1] = '\0';
}

static void user_has_so_many_tokens_and_a_new_password_can_end_them(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *user = NULL;

        make_user(state, "alice", "admin", NULL);
        set_password(state, "alice");
        assert_int_equal(store_get(state->manager->store, "user", "alice", &user, NULL), 0);
        for (int i = 0; i < 100; i++) {
                char name[16], secret[AUTH_SECRET_SIZE];
                json_t *token = NULL;

                snprintf(name, sizeof(name), "t%d", i);
                assert_int_equal(
                        auth_token_new(state->manager->clock, &batch,
                                &(struct auth_token_spec){.name = name, .role = "read-only", .owner = user},
                                secret, &token, NULL),
                        0);
                json_decref(token);
        }
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
        become(state, "alice");
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", "x", "role", "admin")),
                413);
        assert_int_equal(call(state, "PUT", "/api/v1/password",
                                 json_pack("{s:s, s:s, s:b}", "current", PASSWORD, "password",
                                         "another one, longer", "revoke_tokens", 1)),
                204);
        as_admin(state);
        assert_int_equal(n_items(state, "/api/v1/tokens"), 1);
}

static void token_made_on_the_server_is_not_called_like_a_user(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        char secret[AUTH_SECRET_SIZE];

        make_user(state, "alice", "operator", NULL);
        assert_true(manager_create_token(&state->config, "alice", "admin", 1, secret, &error) < 0);
        assert_int_equal(error->code, ERROR_EXISTS);
        assert_int_equal(manager_create_token(&state->config, "rescue", "admin", 1, secret, NULL), 0);
}

static void fields_are_selected(void **data)
{
        struct state *state = *data;
        const json_t *role;

        assert_int_equal(call(state, "GET", "/api/v1/roles?fields=name,status.built_in&limit=2", NULL), 200);
        role = json_array_get(json_object_get(state->body, "items"), 0);
        assert_int_equal(json_object_size(role), 2);
        assert_true(json_is_true(json_object_get(json_status(role), "built_in")));
        assert_true(json_is_string(json_object_get(state->body, "continue")));
        assert_int_equal(
                call(state, "GET", "/api/v1/roles/admin?fields=spec.permissions,no.such", NULL), 200);
        assert_int_equal(json_object_size(state->body), 1);
        assert_int_equal(call(state, "GET", "/api/v1/roles/admin?fields=", NULL), 400);
        assert_int_equal(call(state, "GET", "/api/v1/roles?fields=name,,uid", NULL), 400);
}

static void audit_is_filtered_by_user_and_time(void **data)
{
        struct state *state = *data;

        make_user(state, "alice", "admin", NULL);
        set_password(state, "alice");
        become(state, "alice");
        call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", "ci", "role", "admin"));
        as(state, json_text(state->body, "secret"));
        call(state, "POST", "/api/v1/roles",
                json_pack("{s:s, s:{s:[s]}}", "name", "x", "spec", "permissions", "vm.read"));
        assert_int_equal(n_items(state, "/api/v1/audit?who=alice&order=asc"), 3);
        assert_string_equal(
                json_text(json_array_get(json_object_get(state->body, "items"), 0), "action"), "login");
        assert_string_equal(
                json_text(json_array_get(json_object_get(state->body, "items"), 2), "who"), "alice/ci");
        assert_int_equal(n_items(state, "/api/v1/audit?who=alice&action=role.create"), 1);
        assert_string_equal(
                json_text(json_object_get(json_array_get(json_object_get(state->body, "items"), 0), "detail"),
                        "name"),
                "x");
        assert_int_equal(n_items(state, "/api/v1/audit?action=user.password"), 1);
        assert_int_equal(json_object_size(json_object_get(
                                 json_array_get(json_object_get(state->body, "items"), 0), "detail")),
                0); /* not the password */
        assert_int_equal(n_items(state, "/api/v1/audit?who=alice&until=2020-01-01"), 0);
        assert_int_equal(n_items(state, "/api/v1/audit?who=alice&since=2020-01-01&limit=1"), 1);
        assert_true(json_is_string(json_object_get(state->body, "continue")));
        assert_int_equal(call(state, "GET", "/api/v1/audit?since=yesterday", NULL), 400);
        assert_int_equal(call(state, "GET", "/api/v1/audit/verify", NULL), 200);
        assert_true(json_is_true(json_object_get(state->body, "ok")));
}

static void choice_of_a_host_is_recorded_with_its_ranking(void **data)
{
        struct state *state = *data;
        const json_t *entry, *detail;

        set_the_stage(state);
        assert_int_equal(n_items(state, "/api/v1/audit?result=decided"), 0); /* that host was asked for */
        call(state, "POST", "/api/v1/vms", vm_document("chosen"));
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(n_items(state, "/api/v1/audit?result=decided"), 1);
        entry = json_array_get(json_object_get(state->body, "items"), 0);
        detail = json_object_get(entry, "detail");
        assert_string_equal(json_text(entry, "who"), "system");
        assert_string_equal(json_text(entry, "object"), "vm/chosen");
        assert_int_equal(json_array_size(json_object_get(detail, "ranking")), 2);
        assert_string_equal(json_text(json_array_get(json_object_get(detail, "ranking"), 0), "host"),
                json_text(detail, "host"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(role_that_may_only_migrate_can_do_nothing_else),
                TEST(scope_of_one_half_is_closed_on_the_other),
                TEST(task_is_not_of_whoever_has_its_users_name_later),
                TEST(key_is_of_one_query_and_one_caller),
                TEST(user_has_so_many_tokens_and_a_new_password_can_end_them),
                TEST(token_made_on_the_server_is_not_called_like_a_user),
                TEST(migration_stays_within_the_pool),
                TEST(expired_and_revoked_credentials_open_no_route),
                TEST(lists_have_what_is_in_the_scope),
                TEST(machine_is_made_within_the_scope_only),
                TEST(scope_of_a_pool_reads_its_own_limits_and_changes_none),
                TEST(machine_of_a_pool_names_nobody_elses_files),
                TEST(disks_are_moved_by_who_may_migrate_and_use_datastores),
                TEST(permission_of_each_route_is_needed_and_enough),
                TEST(token_makes_no_tokens),
                TEST(record_of_a_key_tells_no_password),
                TEST(watch_tells_what_is_in_the_scope_until_that_changes),
                TEST(watch_tells_what_leaves_the_scope),
                TEST(watch_tells_who_sees_no_hosts_that_machines_come_and_go_with_a_label),
                TEST(watch_tells_of_a_machine_that_moves_out_of_the_scope),
                TEST(one_caller_does_not_take_all_watches),
                TEST(nobody_gives_more_than_they_have),
                TEST(built_in_role_stays_as_it_is),
                TEST(role_in_use_is_not_removed),
                TEST(password_is_checked_and_limited),
                TEST(cookie_needs_the_csrf_token_to_change_something),
                TEST(session_survives_a_new_leader),
                TEST(answer_is_repeated_also_by_the_next_leader),
                TEST(kept_answer_holds_no_secret_that_the_store_could_tell),
                TEST(fields_are_selected),
                TEST(audit_is_filtered_by_user_and_time),
                TEST(choice_of_a_host_is_recorded_with_its_ranking),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
