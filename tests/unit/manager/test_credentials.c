/* SPDX-License-Identifier: Apache-2.0 */

/* Passwords, sessions and tokens of one user. What happens to one session or token is not felt by the others. */

#include "manager_rig.h"

#include "base/doc.h"
#include "manager/api.h"
#include "manager/password.h"

#define PASSWORD "correct horse battery"

struct seen {
        bool begun, ended;
};

static void on_line(void *userdata, const char *line)
{
        struct seen *seen = userdata;

        seen->begun = true;
}

static void on_end(void *userdata, int status, json_t *body, struct error *error)
{
        struct seen *seen = userdata;

        seen->ended = true;
}

static struct http_call *watch(struct state *state, const char *path, struct seen *seen)
{
        struct http_call *watching = NULL;

        assert_int_equal(http_client_call(state->client,
                                 &(struct http_call_spec){.method = "GET",
                                         .address = state->address,
                                         .peer_name = "manager.drover",
                                         .path = path,
                                         .headers = (const char *const[]){state->headers[0], NULL},
                                         .line = on_line},
                                 on_end, seen, &watching, NULL),
                0);
        return watching;
}

static void wait_for(struct state *state, const bool *flag)
{
        assert_int_equal(loop_wait(state->loop, flag, WAIT_MS), 0);
}

static void make_user(struct state *state)
{
        assert_int_equal(call(state, "POST", "/api/v1/users",
                                 json_pack("{s:s, s:{s:[{s:s}]}}", "name", "alice", "spec", "bindings",
                                         "role", "operator")),
                201);
        assert_int_equal(
                call(state, "PUT", "/api/v1/users/alice/password", json_pack("{s:s}", "password", PASSWORD)),
                204);
}

/* From here on calls are those of a new session. */
static void become_user(struct state *state)
{
        assert_int_equal(call(state, "POST", "/api/v1/login",
                                 json_pack("{s:s, s:s}", "user", "alice", "password", PASSWORD)),
                200);
        snprintf(state->headers[0], sizeof(state->headers[0]), "Authorization: Bearer %s",
                json_text(state->body, "secret"));
}

static void watch_ends_with_its_session_and_no_other(void **data)
{
        struct state *state = *data;
        struct seen first = {}, second = {};
        struct http_call *other;

        make_user(state);
        become_user(state);
        other = watch(state, "/api/v1/events", &second);
        become_user(state);
        (void)watch(state, "/api/v1/events", &first);
        wait_for(state, &first.begun);
        wait_for(state, &second.begun);
        assert_int_equal(call(state, "DELETE", "/api/v1/session", NULL), 204);
        /* Before the heartbeat, which looks at all of them. */
        wait_for(state, &first.ended);
        assert_false(second.ended);
        http_call_cancel(other);
}

/* Her program runs wild: she can still look what it does, and revoke its token. */
static void token_that_runs_wild_does_not_keep_its_owner_out(void **data)
{
        struct state *state = *data;
        char session[sizeof(state->headers[0])], secret[AUTH_SECRET_SIZE];
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *user = NULL, *token = NULL;
        int n = 0;

        make_user(state);
        become_user(state);
        snprintf(session, sizeof(session), "%s", state->headers[0]);
        assert_int_equal(store_get(state->manager->store, "user", "alice", &user, NULL), 0);
        assert_int_equal(
                auth_token_new(state->manager->clock, &batch,
                        &(struct auth_token_spec){.name = "wild", .role = "read-only", .owner = user}, secret,
                        &token, NULL),
                0);
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
        api_limits_deinit(&state->manager->limits);
        assert_int_equal(api_limits_init(&state->manager->limits, state->manager->clock, 1), 0);
        snprintf(state->headers[0], sizeof(state->headers[0]), "Authorization: Bearer %s", secret);
        while (call(state, "GET", "/api/v1/whoami", NULL) == 200)
                assert_true(++n < 1000);
        assert_int_equal(state->status, 429);
        snprintf(state->headers[0], sizeof(state->headers[0]), "%s", session);
        assert_int_equal(call(state, "GET", "/api/v1/whoami", NULL), 200);
        assert_int_equal(call(state, "DELETE", "/api/v1/tokens/wild", NULL), 204);
}

static int log_in(struct state *state, const char *user, const char *password)
{
        return call(
                state, "POST", "/api/v1/login", json_pack("{s:s, s:s}", "user", user, "password", password));
}

static void use_up(struct rate_limit *limit, const char *key)
{
        while (rate_limit_take(limit, key, NULL))
                ;
}

/* What is used up stays so, however slow the machine is. */
static void fill_slowly(struct state *state)
{
        struct api_limits *limits = &state->manager->limits;
        struct rate_limit **all[] = {&limits->login_pairs, &limits->login_users, &limits->login_addresses};

        for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
                rate_limit_free(*all[i]);
                *all[i] = rate_limit_new(state->manager->clock, 64, i == 0 ? 10 : 30, 3600 * 1000);
                assert_non_null(*all[i]);
        }
}

/* Whoever tries her name from many addresses. */
static void attempts_of_others_do_not_lock_a_user_out_from_where_she_logs_in(void **data)
{
        struct state *state = *data;
        struct api_limits *limits = &state->manager->limits;

        make_user(state);
        fill_slowly(state);
        use_up(limits->login_users, "alice");
        assert_int_equal(log_in(state, "alice", PASSWORD), 429); /* she was never here */
        rate_limit_refund(limits->login_users, "alice");
        assert_int_equal(log_in(state, "alice", PASSWORD), 200);
        use_up(limits->login_users, "alice");
        assert_int_equal(log_in(state, "alice", PASSWORD), 200);
        assert_false(rate_limit_has(
                limits->login_users, "alice", NULL)); /* no more is given back than was taken */
        /* What is tried from there with her name is limited all the same. */
        use_up(limits->login_pairs, "127.0.0.1 alice");
        assert_int_equal(log_in(state, "alice", PASSWORD), 429);
}

/* Her neighbour tries names. */
static void limit_tells_nobody_who_has_logged_in_from_there(void **data)
{
        struct state *state = *data;
        struct api_limits *limits = &state->manager->limits;
        uint64_t failed;

        make_user(state);
        fill_slowly(state);
        assert_int_equal(log_in(state, "alice", PASSWORD), 200);
        use_up(limits->login_users, "alice");
        use_up(limits->login_users, "nobody");
        failed = state->manager->metrics.logins_failed;
        assert_int_equal(log_in(state, "alice", "is not this"), 429);
        assert_int_equal(log_in(state, "nobody", "is not this"), 429);
        /* Of both the password was looked at. */
        assert_int_equal(state->manager->metrics.logins_failed, failed + 2);
}

/* Who logs in between guesses gets no more of them; who tries one name without end leaves the others room. */
static void limit_of_an_address_is_everybodys(void **data)
{
        struct state *state = *data;
        struct api_limits *limits = &state->manager->limits;

        make_user(state);
        fill_slowly(state);
        assert_int_equal(log_in(state, "alice", PASSWORD), 200);
        for (int i = 0; i < 40; i++)
                (void)log_in(state, "old-program", "is not this");
        assert_int_equal(state->status, 429);
        assert_int_equal(log_in(state, "bob", PASSWORD), 401);
        use_up(limits->login_addresses, "127.0.0.1");
        assert_int_equal(log_in(state, "alice", PASSWORD), 429);
        assert_int_equal(log_in(state, "bob", PASSWORD), 429);
        rate_limit_refund(limits->login_addresses, "127.0.0.1");
        assert_int_equal(log_in(state, "alice", PASSWORD), 200);
        assert_int_equal(log_in(state, "alice", PASSWORD), 200);
        assert_int_equal(log_in(state, "bob", PASSWORD), 401);
        assert_int_equal(log_in(state, "bob", PASSWORD), 429);
}

static void on_verified(void *userdata, bool fits, struct error *error)
{
        size_t *n = userdata;

        assert_null(error);
        (*n)++;
}

static int verify(struct state *state, bool stranger, size_t *n)
{
        return password_verify(state->manager->passwords,
                &(struct password_attempt){.password = PASSWORD, .stranger = stranger}, on_verified, n, NULL);
}

static void strangers_leave_room_for_others_passwords(void **data)
{
        struct state *state = *data;
        size_t n_strangers = 0, n_known = 0, n = 0;

        while (verify(state, true, &n_strangers) >= 0)
                assert_true(++n < 1000);
        for (size_t i = 0; i < n; i++)
                assert_int_equal(verify(state, false, &n_known), 0);
        while (n_known < n)
                assert_true(loop_iterate(state->loop, WAIT_MS) >= 0);
        /* Those that ran already when the others came, and at most as many beside the last of them. */
        assert_true(n_strangers < n / 2);
        while (n_strangers < n)
                assert_true(loop_iterate(state->loop, WAIT_MS) >= 0);
}

/* Else whoever had the old one would stay at home in the account for 90 days. */
static void password_of_an_administrator_forgets_from_where_she_logged_in(void **data)
{
        struct state *state = *data;
        char admin[sizeof(state->headers[0])];

        snprintf(admin, sizeof(admin), "%s", state->headers[0]);
        make_user(state);
        fill_slowly(state);
        become_user(state);
        assert_int_equal(call(state, "PUT", "/api/v1/password",
                                 json_pack("{s:s, s:s}", "current", PASSWORD, "password", PASSWORD)),
                204);
        use_up(state->manager->limits.login_users, "alice");
        assert_int_equal(log_in(state, "alice", PASSWORD), 200);
        snprintf(state->headers[0], sizeof(state->headers[0]), "%s", admin);
        assert_int_equal(
                call(state, "PUT", "/api/v1/users/alice/password", json_pack("{s:s}", "password", PASSWORD)),
                204);
        assert_int_equal(log_in(state, "alice", PASSWORD), 429);
}

static void short_password_is_refused(void **data)
{
        struct state *state = *data;

        make_user(state);
        assert_int_equal(
                call(state, "PUT", "/api/v1/users/alice/password", json_pack("{s:s}", "password", "short")),
                422);
}

static int make_token(struct state *state, const char *name)
{
        return call(
                state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", name, "role", "read-only"));
}

static void expired_token_takes_no_place(void **data)
{
        struct state *state = *data;
        char admin[sizeof(state->headers[0])];
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *user = NULL;

        make_user(state);
        assert_int_equal(store_get(state->manager->store, "user", "alice", &user, NULL), 0);
        for (int i = 0; i < 100; i++) {
                char name[16], secret[AUTH_SECRET_SIZE];
                _cleanup_json_ json_t *token = NULL;

                snprintf(name, sizeof(name), "t%d", i);
                assert_int_equal(
                        auth_token_new(state->manager->clock, &batch,
                                &(struct auth_token_spec){.name = name, .role = "read-only", .owner = user},
                                secret, &token, NULL),
                        0);
                if (i == 50 || i == 60) /* the batch has this very document */
                        json_object_set_new(json_object_get(token, "internal"), "expires_unix_ms",
                                json_integer(i == 60 ? 1 : 2));
        }
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
        snprintf(admin, sizeof(admin), "%s", state->headers[0]);
        become_user(state);
        assert_int_equal(make_token(state, "x"), 201);
        /* The one that expired first, and the audit log tells of it. */
        assert_int_equal(call(state, "GET", "/api/v1/tokens/t60", NULL), 404);
        assert_int_equal(call(state, "GET", "/api/v1/tokens/t50", NULL), 200);
        assert_int_equal(make_token(state, "y"), 201);
        assert_int_equal(call(state, "GET", "/api/v1/tokens/t50", NULL), 404);
        assert_int_equal(make_token(state, "z"), 413);
        snprintf(state->headers[0], sizeof(state->headers[0]), "%s", admin);
        assert_int_equal(call(state, "GET", "/api/v1/audit?action=token.delete", NULL), 200);
        assert_int_equal(json_array_size(json_object_get(state->body, "items")), 2);
        assert_string_equal(
                json_text(json_array_get(json_object_get(state->body, "items"), 1), "object"), "token/t60");
        assert_int_equal(call(state, "GET", "/api/v1/audit/verify", NULL), 200);
        assert_true(json_is_true(json_object_get(state->body, "ok")));
}

static void own_password_needs_the_current_one(void **data)
{
        struct state *state = *data;

        make_user(state);
        become_user(state);
        assert_int_equal(
                call(state, "PUT", "/api/v1/password",
                        json_pack("{s:s, s:s}", "current", "is not this", "password", "another one, longer")),
                403);
        assert_int_equal(
                call(state, "PUT", "/api/v1/password",
                        json_pack("{s:s, s:s}", "current", PASSWORD, "password", "another one, longer")),
                204);
        assert_int_equal(call(state, "GET", "/api/v1/whoami", NULL), 401); /* sessions of before have ended */
        assert_int_equal(call(state, "POST", "/api/v1/login",
                                 json_pack("{s:s, s:s}", "user", "alice", "password", "another one, longer")),
                200);
}

/* --- Schedules --------------------------------------------------------------------------------------------------- */

static void become_role(struct state *state, const char *name, json_t *permissions)
{
        snprintf(state->headers[0], sizeof(state->headers[0]), "Authorization: Bearer %s", state->secret);
        assert_int_equal(
                call(state, "POST", "/api/v1/roles",
                        json_pack("{s:s, s:{s:o}}", "name", name, "spec", "permissions", permissions)),
                201);
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", name, "role", name)),
                201);
        snprintf(state->headers[0], sizeof(state->headers[0]), "Authorization: Bearer %s",
                json_text(state->body, "secret"));
}

static int make_schedule(struct state *state, const char *name, const char *action)
{
        json_t *spec =
                json_pack("{s:s, s:o}", "calendar", "*-01-01 00:00", "action", json_loads(action, 0, NULL));

        return call(state, "POST", "/api/v1/schedules", json_pack("{s:s, s:o}", "name", name, "spec", spec));
}

static void schedule_does_what_its_maker_may_do(void **data)
{
        static const char *const closes = "{\"type\": \"maintenance\", \"host\": \"host1\", \"on\": true}",
                                 *const moves = "{\"type\": \"migrate\", \"vms\": [\"web\"]}",
                                 *const stops =
                                         "{\"type\": \"maintenance\", \"host\": \"host1\", \"on\": true, "
                                         "\"policy\": [{\"step\": \"stop\"}]}";
        struct state *state = *data;

        become_role(state, "all",
                json_pack("[s,s,s,s]", "schedule.manage", "host.operate", "vm.migrate", "vm.power"));
        assert_int_equal(make_schedule(state, "closes", closes), 201);
        assert_int_equal(make_schedule(state, "moves", moves), 201);
        assert_int_equal(make_schedule(state, "stops", stops), 201);

        become_role(state, "plans", json_pack("[s]", "schedule.manage"));
        assert_int_equal(make_schedule(state, "own", closes), 403);
        assert_int_equal(make_schedule(state, "own", moves), 403);
        for (size_t i = 0; i < 3; i++) {
                static const char *const names[] = {"closes", "moves", "stops"};
                const char *const specs[] = {closes, moves, stops};
                char path[64];

                snprintf(path, sizeof(path), "/api/v1/schedules/%s/run", names[i]);
                assert_int_equal(call(state, "POST", path, NULL), 403);
                snprintf(path, sizeof(path), "/api/v1/schedules/%s/pause", names[i]);
                assert_int_equal(call(state, "POST", path, NULL), 200);
                snprintf(path, sizeof(path), "/api/v1/schedules/%s/resume", names[i]);
                assert_int_equal(call(state, "POST", path, NULL), 403);
                snprintf(path, sizeof(path), "/api/v1/schedules/%s", names[i]);
                assert_int_equal(call(state, "PUT", path,
                                         json_pack("{s:{s:s, s:o}}", "spec", "calendar", "*-01-01 00:00",
                                                 "action", json_loads(specs[i], 0, NULL))),
                        403);
        }

        become_role(state, "operates", json_pack("[s,s]", "schedule.manage", "host.operate"));
        assert_int_equal(make_schedule(state, "own", closes), 201);
        assert_int_equal(make_schedule(state, "other", moves), 403);
        assert_int_equal(call(state, "POST", "/api/v1/schedules/closes/resume", NULL), 200);
        assert_int_equal(call(state, "POST", "/api/v1/schedules/stops/run", NULL), 403);
        assert_int_equal(call(state, "POST", "/api/v1/schedules/stops/resume", NULL), 403);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(watch_ends_with_its_session_and_no_other),
                TEST(token_that_runs_wild_does_not_keep_its_owner_out),
                TEST(attempts_of_others_do_not_lock_a_user_out_from_where_she_logs_in),
                TEST(limit_tells_nobody_who_has_logged_in_from_there),
                TEST(limit_of_an_address_is_everybodys),
                TEST(strangers_leave_room_for_others_passwords),
                TEST(password_of_an_administrator_forgets_from_where_she_logged_in),
                TEST(short_password_is_refused),
                TEST(expired_token_takes_no_place),
                TEST(own_password_needs_the_current_one),
                TEST(schedule_does_what_its_maker_may_do),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
