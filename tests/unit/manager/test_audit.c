/* SPDX-License-Identifier: Apache-2.0 */

/* The audit chain: what is written verifies, what is tampered with is found. */

#include "fixture.h"

#include "base/doc.h"
#include "manager/audit.h"

struct state {
        struct folder folder;
        struct store *store;
        struct clock_manual clock;
};

static int setup(void **ret)
{
        struct state *state = calloc(1, sizeof(*state));

        folder_make(&state->folder);
        state->store = store_open_in(&state->folder);
        clock_manual_init(&state->clock, 1700000000000);
        for (int i = 0; i < 5; i++)
                assert_int_equal(audit_write(state->store, &state->clock.clock,
                                         &(struct audit_entry){.who = "alice",
                                                 .action = "vm.start",
                                                 .object = "vm/a",
                                                 .why = "test",
                                                 .result = "done"},
                                         NULL),
                        0);
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

static void assert_verdict(struct store *store, bool ok, int n, int bad_seq)
{
        json_t *verdict = NULL;

        assert_int_equal(audit_verify(store, &verdict, NULL), 0);
        assert_int_equal(json_is_true(json_object_get(verdict, "ok")), ok);
        if (ok)
                assert_int_equal(json_integer_value(json_object_get(verdict, "n_entries")), n);
        else
                assert_int_equal(json_integer_value(json_object_get(verdict, "bad_seq")), bad_seq);
        json_decref(verdict);
}

static void whole_chain_verifies(void **data)
{
        struct state *state = *data;

        assert_verdict(state->store, true, 5, 0);
}

static void two_entries_in_one_transaction_continue_the_chain(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        struct audit_entry entry = {.who = "bob", .action = "x", .result = "done"};

        assert_int_equal(audit_add(state->store, &state->clock.clock, &batch, &entry, NULL), 0);
        assert_int_equal(audit_add(state->store, &state->clock.clock, &batch, &entry, NULL), 0);
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        assert_verdict(state->store, true, 7, 0);
}

static void changed_entry_is_found(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        json_t *entry = NULL;

        assert_int_equal(store_get(state->store, "audit", "a000000000000003", &entry, NULL), 0);
        json_object_set_new(entry, "who", json_string("mallory"));
        store_batch_put(&batch, STORE_ANY, entry);
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        assert_verdict(state->store, false, 0, 3);
}

static void remove_entry(struct store *store, const char *name)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        store_batch_remove(&batch, "audit", name, STORE_ANY);
        assert_int_equal(store_commit(store, &batch, NULL, NULL), 0);
}

static void removed_entry_is_found(void **data)
{
        struct state *state = *data;

        remove_entry(state->store, "a000000000000002");
        assert_verdict(state->store, false, 0, 3);
}

static void cut_off_end_is_found(void **data)
{
        struct state *state = *data;

        remove_entry(state->store, "a000000000000005");
        assert_verdict(state->store, false, 0, 5);
}

static void retention_keeps_the_rest_verifiable(void **data)
{
        struct state *state = *data;

        assert_int_equal(audit_trim(state->store, 2, 1800000000000, NULL), 0);
        assert_verdict(state->store, true, 2, 0);
        assert_int_equal(audit_trim(state->store, 2, 1800000000000, NULL), 0);
        assert_verdict(state->store, true, 2, 0);
}

static void write_entries(struct state *state, int n)
{
        while (n--)
                assert_int_equal(
                        audit_write(state->store, &state->clock.clock,
                                &(struct audit_entry){.who = "mallory", .action = "login", .result = "done"},
                                NULL),
                        0);
}

static void young_entries_stay_beyond_their_number_up_to_a_bound(void **data)
{
        struct state *state = *data;
        int64_t now_ms = clock_unix_ms(&state->clock.clock);

        assert_int_equal(audit_trim(state->store, 2, now_ms, NULL), 0);
        assert_verdict(state->store, true, 5, 0);
        clock_manual_advance(&state->clock, 1000);
        write_entries(state, 20);
        assert_int_equal(audit_trim(state->store, 2, now_ms + 1000, NULL), 0);
        assert_verdict(state->store, true, 20, 0);
        write_entries(state, 3);
        assert_int_equal(audit_trim(state->store, 2, now_ms + 1000, NULL), 0);
        assert_verdict(state->store, true, 2 * AUDIT_KEEP_FACTOR, 0);
}

/* --- A few entries at a time, while the log goes on -------------------------------------------------------------------- */

static struct audit_verification *begin(struct state *state)
{
        struct audit_verification *verification = NULL;

        assert_int_equal(audit_verification_new(state->store, &verification, NULL), 0);
        return verification;
}

static void assert_ends_well(struct audit_verification *verification, int n, int steps)
{
        _cleanup_json_ json_t *verdict = NULL;

        while (steps--)
                assert_int_equal(audit_verification_step(verification, 1, NULL), 1);
        assert_int_equal(audit_verification_step(verification, 1, NULL), 0);
        verdict = audit_verification_verdict(verification);
        assert_true(json_is_true(json_object_get(verdict, "ok")));
        assert_int_equal(json_integer_value(json_object_get(verdict, "n_entries")), n);
        audit_verification_free(verification);
}

static void step_looks_at_no_more_than_it_is_told(void **data)
{
        assert_ends_well(begin(*data), 5, 4);
}

static void what_is_added_meanwhile_does_not_keep_it_going(void **data)
{
        struct state *state = *data;
        struct audit_verification *verification = begin(state);
        struct audit_entry entry = {.who = "bob", .action = "x", .result = "done"};

        assert_int_equal(audit_verification_step(verification, 2, NULL), 1);
        assert_int_equal(audit_write(state->store, &state->clock.clock, &entry, NULL), 0);
        assert_ends_well(verification, 5, 2);
}

static void what_retention_removes_meanwhile_is_not_missing(void **data)
{
        struct state *state = *data;
        struct audit_verification *verification = begin(state);

        assert_int_equal(audit_verification_step(verification, 1, NULL), 1);
        assert_int_equal(audit_trim(state->store, 2, 1800000000000, NULL), 0); /* 4 and 5 stay */
        assert_int_equal(audit_verification_step(verification, 1, NULL), 1);
        assert_ends_well(verification, 3, 1);
}

static void first_entry_removed_by_hand_is_missing(void **data)
{
        struct state *state = *data;

        remove_entry(state->store, "a000000000000001");
        assert_verdict(state->store, false, 0, 2);
}

static void entry_behind_the_newest_one_is_found(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        json_t *entry = NULL;

        assert_int_equal(store_get(state->store, "audit", "a000000000000005", &entry, NULL), 0);
        json_object_set_new(entry, "name", json_string("a000000000000009"));
        json_object_set_new(entry, "uid", json_string("a000000000000009"));
        json_object_set_new(entry, "seq", json_integer(9));
        store_batch_put(&batch, STORE_ABSENT, entry);
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        assert_verdict(state->store, false, 0, 9);
}

static void anchor_ahead_of_the_log_is_found(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        store_batch_put(&batch, STORE_ANY,
                json_pack("{s:s, s:s, s:s, s:i, s:s}", "kind", "audit-state", "uid", "anchor", "name",
                        "anchor", "seq", 99, "hash", "0"));
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        assert_verdict(state->store, false, 0, 100);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
                TEST(whole_chain_verifies),
                TEST(two_entries_in_one_transaction_continue_the_chain),
                TEST(changed_entry_is_found),
                TEST(removed_entry_is_found),
                TEST(cut_off_end_is_found),
                TEST(retention_keeps_the_rest_verifiable),
                TEST(young_entries_stay_beyond_their_number_up_to_a_bound),
                TEST(step_looks_at_no_more_than_it_is_told),
                TEST(what_is_added_meanwhile_does_not_keep_it_going),
                TEST(what_retention_removes_meanwhile_is_not_missing),
                TEST(first_entry_removed_by_hand_is_missing),
                TEST(entry_behind_the_newest_one_is_found),
                TEST(anchor_ahead_of_the_log_is_found),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
