/* SPDX-License-Identifier: Apache-2.0 */

/* API tokens and enrolment tokens on a clock that the test moves. */

#include "fixture.h"

#include <sqlite3.h>

#include "base/doc.h"
#include "manager/api_access.h"
#include "manager/auth.h"
#include "manager/enrol.h"

#define HOUR_MS (3600u * 1000)

struct state {
        struct folder folder;
        struct store *store;
        struct clock_manual clock;
        char header[128];
};

static int setup(void **ret)
{
        struct state *state = calloc(1, sizeof(*state));
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        char secret[AUTH_SECRET_SIZE];
        json_t *token = NULL;

        folder_make(&state->folder);
        state->store = store_open_in(&state->folder);
        assert_int_equal(auth_ensure_roles(state->store, NULL), 0);
        clock_manual_init(&state->clock, 1700000000000);
        assert_int_equal(
                auth_token_new(&state->clock.clock, &batch,
                        &(struct auth_token_spec){.name = "bob", .role = "read-only", .expires_days = 1},
                        secret, &token, NULL),
                0);
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        assert_null(strstr(json_text(json_object_get(token, "internal"), "hash"), secret + 5));
        json_decref(token);
        snprintf(state->header, sizeof(state->header), "Bearer %s", secret);
        *ret = state;
        return 0;
}

static int teardown(void **data)
{
        struct state *state = *data;

        store_close(state->store);
        folder_remove(&state->folder);
        free(state);
        return 0;
}

static int check_as(struct state *state, const char *authorization, const char *cookie,
        struct auth_caller **caller, struct error **ret_error)
{
        return auth_check(state->store, &state->clock.clock,
                &(struct auth_credentials){.authorization = authorization, .cookie = cookie}, caller,
                ret_error);
}

static int check(struct state *state, const char *header, struct auth_caller **caller)
{
        return check_as(state, header, NULL, caller, NULL);
}

static void token_names_its_caller_and_role(void **data)
{
        struct state *state = *data;
        _cleanup_(auth_caller_unrefp) struct auth_caller *caller = NULL;

        assert_int_equal(check(state, state->header, &caller), 0);
        assert_string_equal(caller->name, "bob");
        assert_true(auth_may_everywhere(caller, PERMISSION_VM_READ));
        assert_false(auth_may_anywhere(caller, PERMISSION_VM_MIGRATE));
}

static void token_ends_in_time(void **data)
{
        struct state *state = *data;
        _cleanup_(auth_caller_unrefp) struct auth_caller *caller = NULL, *later = NULL;

        clock_manual_advance(&state->clock, 24 * HOUR_MS - 1);
        assert_int_equal(check(state, state->header, &caller), 0);
        clock_manual_advance(&state->clock, 1);
        assert_true(check(state, state->header, &later) < 0);
        assert_false(auth_still(state->store, &state->clock.clock, &caller));
}

static void broken_store_is_no_verdict_on_a_token(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        struct auth_caller *caller = NULL;
        char path[128];
        sqlite3 *db = NULL;

        snprintf(path, sizeof(path), "%s/test.db", state->folder.path);
        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, "ALTER TABLE object RENAME TO gone", NULL, NULL, NULL), SQLITE_OK);
        sqlite3_close(db);
        assert_true(check_as(state, state->header, NULL, &caller, &error) < 0);
        assert_int_equal(error->code, ERROR_INTERNAL);
        assert_non_null(strstr(error->message, "store"));
}

static void any_other_secret_is_refused(void **data)
{
        static const char *const headers[] = {NULL, "", "Bearer", "Bearer ", "Basic abc", "Bearer drvt_1234"};
        struct state *state = *data;
        struct auth_caller *caller = NULL;

        for (size_t i = 0; i < ARRAY_SIZE(headers); i++)
                assert_true(check(state, headers[i], &caller) < 0);
        state->header[strlen(state->header) - 1] ^= 1;
        assert_true(check(state, state->header, &caller) < 0);
}

/* --- Users, their sessions and tokens --------------------------------------------------------------------------------- */

/* A user with the role within pool=east; the store has it. */
static json_t *put_user(struct state *state, const char *role)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        json_t *user = NULL;

        store_batch_put(&batch, STORE_ANY,
                json_pack("{s:s, s:s, s:s, s:{s:[{s:s, s:{s:{s:s}}}]}, s:{}, s:{s:s}}", "kind", "user",
                        "name", "alice", "uid", "alice-uid", "spec", "bindings", "role", role, "scope", "vms",
                        "pool", "east", "status", "internal", "password_generation", "first"));
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        assert_int_equal(store_get(state->store, "user", "alice", &user, NULL), 0);
        return user;
}

static void set_user(struct state *state, json_t *user)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        store_batch_put(&batch, STORE_ANY, user);
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
}

/* Authorization of a new token with the role everywhere, that the user owns. */
static void owned_token(struct state *state, const json_t *user, const char *role)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *token = NULL;
        char secret[AUTH_SECRET_SIZE];

        assert_int_equal(auth_token_new(&state->clock.clock, &batch,
                                 &(struct auth_token_spec){.name = "ci", .role = role, .owner = user}, secret,
                                 &token, NULL),
                0);
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        snprintf(state->header, sizeof(state->header), "Bearer %s", secret);
}

static bool may_migrate_in(const struct auth_caller *caller, const char *pool)
{
        _cleanup_json_ json_t *labels = json_pack("{s:s}", "pool", pool);

        return auth_may(
                caller, PERMISSION_VM_MIGRATE, &(struct access_target){.has_vm = true, .vm_labels = labels});
}

static void token_can_do_no_more_than_its_owner(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *user = put_user(state, "migrator");
        _cleanup_(auth_caller_unrefp) struct auth_caller *caller = NULL;

        owned_token(state, user, "admin");
        assert_int_equal(check(state, state->header, &caller), 0);
        assert_string_equal(caller->name, "alice/ci");
        assert_true(may_migrate_in(caller, "east"));
        assert_false(may_migrate_in(caller, "west"));
        assert_false(auth_may_anywhere(caller, PERMISSION_VM_DELETE));
        assert_false(auth_may_everywhere(caller, PERMISSION_ACCESS_MANAGE));
}

static void what_is_taken_from_the_owner_is_taken_from_the_token(void **data)
{
        struct state *state = *data;
        json_t *user = put_user(state, "migrator");
        _cleanup_(auth_caller_unrefp) struct auth_caller *caller = NULL;

        owned_token(state, user, "admin");
        assert_int_equal(check(state, state->header, &caller), 0);
        json_object_set_new(json_spec(user), "bindings", json_array());
        set_user(state, user);
        assert_true(auth_still(state->store, &state->clock.clock, &caller));
        assert_false(may_migrate_in(caller, "east"));
}

static void assert_refused_for(struct state *state, const char *why)
{
        _cleanup_error_ struct error *error = NULL;
        struct auth_caller *caller = NULL;

        assert_true(check_as(state, state->header, NULL, &caller, &error) < 0);
        assert_int_equal(error->code, ERROR_UNAUTHENTICATED);
        assert_non_null(strstr(error->message, why));
}

static void token_of_a_disabled_user_is_refused(void **data)
{
        struct state *state = *data;
        json_t *user = put_user(state, "migrator");

        owned_token(state, user, "migrator");
        json_object_set_new(json_spec(user), "disabled", json_true());
        set_user(state, user);
        assert_refused_for(state, "disabled");
}

static void token_does_not_outlive_its_user(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *user = put_user(state, "migrator");
        json_t *another;

        owned_token(state, user, "migrator");
        store_batch_remove(&batch, "user", "alice-uid", STORE_ANY);
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        assert_refused_for(state, "does not exist any more");
        /* Nor does it come back with somebody who is called the same. */
        another = json_deep_copy(user);
        json_object_set_new(another, "uid", json_string("another-uid"));
        set_user(state, another);
        assert_refused_for(state, "does not exist any more");
}

static void session_of(
        struct state *state, const json_t *user, char ret_cookie[static 128], char ret_csrf[static 65])
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        char secret[AUTH_SECRET_SIZE];

        assert_int_equal(auth_session_new(&state->clock.clock, &batch, user, secret, ret_csrf, NULL), 0);
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        snprintf(state->header, sizeof(state->header), "Bearer %s", secret);
        snprintf(ret_cookie, 128, "theme=dark; " AUTH_COOKIE "=%s; x=y", secret);
}

static void session_is_a_cookie_or_a_bearer(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *user = put_user(state, "migrator");
        _cleanup_(auth_caller_unrefp) struct auth_caller *by_cookie = NULL, *by_header = NULL;
        char cookie[128], csrf[65];

        session_of(state, user, cookie, csrf);
        assert_int_equal(check_as(state, NULL, cookie, &by_cookie, NULL), 0);
        assert_int_equal(check(state, state->header, &by_header), 0);
        assert_true(by_cookie->by_cookie && !by_header->by_cookie);
        assert_string_equal(by_cookie->name, "alice");
        assert_string_equal(by_cookie->csrf, csrf);
        assert_null(strstr(cookie, csrf));
}

static void session_ends_when_it_is_idle(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *user = put_user(state, "migrator");
        char cookie[128], csrf[65];

        session_of(state, user, cookie, csrf);
        /* Used now and then it goes on ... */
        for (int i = 0; i < 3; i++) {
                _cleanup_(auth_caller_unrefp) struct auth_caller *caller = NULL;

                clock_manual_advance(&state->clock, AUTH_SESSION_IDLE_MS - 1);
                assert_int_equal(check(state, state->header, &caller), 0);
                auth_touch(state->store, &state->clock.clock, caller);
        }
        clock_manual_advance(&state->clock, AUTH_SESSION_IDLE_MS);
        assert_refused_for(state, "expired");
}

static void session_ends_however_busy_it_is(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *user = put_user(state, "migrator");
        char cookie[128], csrf[65];
        int64_t left_ms = AUTH_SESSION_MS;

        session_of(state, user, cookie, csrf);
        for (; left_ms > HOUR_MS / 4; left_ms -= HOUR_MS / 4) {
                _cleanup_(auth_caller_unrefp) struct auth_caller *caller = NULL;

                clock_manual_advance(&state->clock, HOUR_MS / 4);
                assert_int_equal(check(state, state->header, &caller), 0);
                auth_touch(state->store, &state->clock.clock, caller);
        }
        clock_manual_advance(&state->clock, (uint64_t)left_ms);
        assert_refused_for(state, "expired");
}

static void new_password_ends_the_sessions(void **data)
{
        struct state *state = *data;
        json_t *user = put_user(state, "migrator");
        char cookie[128], csrf[65];

        session_of(state, user, cookie, csrf);
        /* Whatever the clock says meanwhile. */
        json_object_set_new(json_object_get(user, "internal"), "password_generation", json_string("second"));
        set_user(state, user);
        assert_refused_for(state, "password");
}

static void user_has_so_many_sessions_and_loses_the_one_used_the_longest_ago(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *user = put_user(state, "migrator"), *open = NULL;
        struct store_query query = {.kind = "session", .limit = STORE_LIMIT_NONE};
        char cookie[128], csrf[65], first[128];

        session_of(state, user, cookie, csrf);
        snprintf(first, sizeof(first), "%s", state->header);
        for (size_t i = 0; i < AUTH_SESSIONS_MAX; i++) {
                _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
                _cleanup_(auth_caller_unrefp) struct auth_caller *caller = NULL;

                assert_int_equal(check(state, first, &caller), 0);
                clock_manual_advance(&state->clock, 1000);
                assert_int_equal(auth_sessions_trim(state->store, &batch, json_text(user, "uid"),
                                         AUTH_SESSIONS_MAX - 1, NULL),
                        0);
                assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
                session_of(state, user, cookie, csrf);
        }
        assert_int_equal(store_list(state->store, &query, &open, NULL, NULL), 0);
        assert_int_equal(json_array_size(open), AUTH_SESSIONS_MAX);
        memcpy(state->header, first, sizeof(first));
        assert_refused_for(state, "ended");
}

/* There may be hundreds of thousands: what cannot even be read shows that they are left alone. */
static void sessions_of_others_are_not_looked_into(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *user = put_user(state, "migrator");
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        char cookie[128], csrf[65], path[128];
        sqlite3 *db = NULL;

        session_of(state, user, cookie, csrf);
        snprintf(path, sizeof(path), "%s/test.db", state->folder.path);
        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db,
                                 "INSERT INTO object VALUES ('session', 'x', 'aaron-uid/x', 1, 'unreadable'),"
                                 "('session', 'y', 'zoe-uid/y', 1, 'unreadable')",
                                 NULL, NULL, NULL),
                SQLITE_OK);
        sqlite3_close(db);
        assert_int_equal(auth_sessions_trim(state->store, &batch, json_text(user, "uid"), 0, NULL), 0);
        assert_int_equal(batch.n_changes, 1);
}

static void addresses_of_one_customer_count_as_one(void **data)
{
        static const char *const same[][2] = {{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::1"},
                {"::ffff:192.0.2.7", "192.0.2.7"}, {"fe80::1", "fe80::2"}};
        static const char *const other[][2] = {{"2001:db8:1:2::1", "2001:db8:1:3::1"},
                {"192.0.2.7", "192.0.2.8"}, {"::ffff:192.0.2.7", "::ffff:192.0.2.8"}};
        char a[API_ADDRESS_KEY_SIZE], b[API_ADDRESS_KEY_SIZE];

        for (size_t i = 0; i < ARRAY_SIZE(same); i++) {
                api_address_key(same[i][0], a);
                api_address_key(same[i][1], b);
                assert_string_equal(a, b);
        }
        for (size_t i = 0; i < ARRAY_SIZE(other); i++) {
                api_address_key(other[i][0], a);
                api_address_key(other[i][1], b);
                assert_string_not_equal(a, b);
        }
        api_address_key("something that is no address, and longer than any address is, by far", a);
        assert_true(strlen(a) < sizeof(a));
}

static void roles_are_made_once(void **data)
{
        struct state *state = *data;
        uint64_t before = 0, after = 0;

        assert_int_equal(store_revision(state->store, &before, NULL), 0);
        assert_int_equal(auth_ensure_roles(state->store, NULL), 0);
        assert_int_equal(store_revision(state->store, &after, NULL), 0);
        assert_int_equal(before, after);
}

/* A token for host `uid`; returns its secret part. */
static const char *enrol_token(struct state *state, const char *uid, char token[static ENROL_TOKEN_SIZE])
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        struct ca ca = {.fingerprint = "f00d"};
        int64_t expires_ms = 0;

        assert_int_equal(enrol_token_new(state->store, &state->clock.clock, &ca, uid, &batch, token,
                                 &expires_ms, NULL),
                0);
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        assert_int_equal(expires_ms, clock_unix_ms(&state->clock.clock) + HOUR_MS);
        assert_memory_equal(token, "drv1.f00d.", 10);
        return strrchr(token, '.') + 1;
}

static int use(struct state *state, const char *secret)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *uid = NULL;
        int r;

        r = enrol_token_use(state->store, &state->clock.clock, secret, &batch, &uid, NULL);
        if (r < 0)
                return r;
        assert_string_equal(uid, "host-uid");
        return store_commit(state->store, &batch, NULL, NULL);
}

static void enrolment_token_is_used_up(void **data)
{
        char token[ENROL_TOKEN_SIZE];
        const char *secret = enrol_token(*data, "host-uid", token);

        assert_int_equal(use(*data, secret), 0);
        assert_true(use(*data, secret) < 0);
}

static void enrolment_token_expires_after_an_hour(void **data)
{
        struct state *state = *data;
        char token[ENROL_TOKEN_SIZE];
        const char *secret = enrol_token(state, "host-uid", token);

        clock_manual_advance(&state->clock, HOUR_MS);
        assert_true(use(state, secret) < 0);
}

static void new_enrolment_token_replaces_the_old_one(void **data)
{
        char first[ENROL_TOKEN_SIZE], second[ENROL_TOKEN_SIZE];
        const char *old = enrol_token(*data, "host-uid", first),
                   *now = enrol_token(*data, "host-uid", second);

        assert_true(use(*data, old) < 0);
        assert_int_equal(use(*data, now), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
                TEST(token_names_its_caller_and_role),
                TEST(token_ends_in_time),
                TEST(any_other_secret_is_refused),
                TEST(broken_store_is_no_verdict_on_a_token),
                TEST(token_can_do_no_more_than_its_owner),
                TEST(what_is_taken_from_the_owner_is_taken_from_the_token),
                TEST(token_of_a_disabled_user_is_refused),
                TEST(token_does_not_outlive_its_user),
                TEST(session_is_a_cookie_or_a_bearer),
                TEST(session_ends_when_it_is_idle),
                TEST(session_ends_however_busy_it_is),
                TEST(new_password_ends_the_sessions),
                TEST(user_has_so_many_sessions_and_loses_the_one_used_the_longest_ago),
                TEST(sessions_of_others_are_not_looked_into),
                TEST(addresses_of_one_customer_count_as_one),
                TEST(roles_are_made_once),
                TEST(enrolment_token_is_used_up),
                TEST(enrolment_token_expires_after_an_hour),
                TEST(new_enrolment_token_replaces_the_old_one),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
