/* SPDX-License-Identifier: Apache-2.0 */

/* API tokens and enrolment tokens on a clock that the test moves. */

#include "fixture.h"

#include <sqlite3.h>

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
        clock_manual_init(&state->clock, 1700000000000);
        assert_int_equal(
                auth_token_new(&state->clock.clock, &batch, "bob", "read-only", 1, secret, &token, NULL), 0);
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

static int check(struct state *state, const char *header, struct auth_caller *caller)
{
        return auth_check(state->store, &state->clock.clock, header, caller, NULL);
}

static void token_names_its_caller_and_role(void **data)
{
        struct state *state = *data;
        struct auth_caller caller;

        assert_int_equal(check(state, state->header, &caller), 0);
        assert_string_equal(caller.name, "bob");
        assert_false(caller.admin);
}

static void token_ends_in_time(void **data)
{
        struct state *state = *data;
        struct auth_caller caller;

        clock_manual_advance(&state->clock, 24 * HOUR_MS - 1);
        assert_int_equal(check(state, state->header, &caller), 0);
        clock_manual_advance(&state->clock, 1);
        assert_true(check(state, state->header, &caller) < 0);
}

static void broken_store_is_no_verdict_on_a_token(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        struct auth_caller caller;
        char path[128];
        sqlite3 *db = NULL;

        snprintf(path, sizeof(path), "%s/test.db", state->folder.path);
        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, "ALTER TABLE object RENAME TO gone", NULL, NULL, NULL), SQLITE_OK);
        sqlite3_close(db);
        assert_true(auth_check(state->store, &state->clock.clock, state->header, &caller, &error) < 0);
        assert_int_equal(error->code, ERROR_INTERNAL);
        assert_non_null(strstr(error->message, "store"));
}

static void any_other_secret_is_refused(void **data)
{
        static const char *const headers[] = {NULL, "", "Bearer", "Bearer ", "Basic abc", "Bearer drvt_1234"};
        struct state *state = *data;
        struct auth_caller caller;

        for (size_t i = 0; i < ARRAY_SIZE(headers); i++)
                assert_true(check(state, headers[i], &caller) < 0);
        state->header[strlen(state->header) - 1] ^= 1;
        assert_true(check(state, state->header, &caller) < 0);
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
                TEST(enrolment_token_is_used_up),
                TEST(enrolment_token_expires_after_an_hour),
                TEST(new_enrolment_token_replaces_the_old_one),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
