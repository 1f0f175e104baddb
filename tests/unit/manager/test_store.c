/* SPDX-License-Identifier: Apache-2.0 */

/* Conformance suite of the store's interface: what each backend has to do. `open_store` is all that it knows of one. */

#include "fixture.h"

#include <errno.h>

struct state {
        struct folder folder;
        struct store *store;
};

static int setup(void **ret)
{
        struct state *state = calloc(1, sizeof(*state));

        folder_make(&state->folder);
        state->store = store_open_in(&state->folder);
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

static int put(
        struct store *store, const char *name, const char *value, uint64_t expected, uint64_t *ret_revision)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        store_batch_put(&batch, expected, object_new("vm", name, value));
        return store_commit(store, &batch, ret_revision, NULL);
}

static int drop(struct store *store, const char *name, uint64_t expected)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        char uid[64];

        snprintf(uid, sizeof(uid), "uid-%s", name);
        store_batch_remove(&batch, "vm", uid, expected);
        return store_commit(store, &batch, NULL, NULL);
}

static void assert_value(struct store *store, const char *name_or_uid, const char *value)
{
        json_t *doc = NULL;

        assert_int_equal(store_get(store, "vm", name_or_uid, &doc, NULL), 0);
        assert_string_equal(json_text(doc, "value"), value);
        json_decref(doc);
}

static void object_is_found_by_name_and_by_uid(void **data)
{
        struct state *state = *data;

        assert_int_equal(put(state->store, "a", "1", STORE_ABSENT, NULL), 0);
        assert_value(state->store, "a", "1");
        assert_value(state->store, "uid-a", "1");
}

static void missing_object_is_named_in_the_error(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        json_t *doc = NULL;

        assert_int_equal(store_get(state->store, "vm", "nobody", &doc, &error), -ENOENT);
        assert_int_equal(error->code, ERROR_NOT_FOUND);
        assert_string_equal(error->object, "vm/nobody");
        assert_null(doc);
}

static void revision_grows_with_each_change_and_is_in_the_document(void **data)
{
        struct state *state = *data;
        uint64_t first, second;
        json_t *doc = NULL;

        assert_int_equal(put(state->store, "a", "1", STORE_ABSENT, &first), 0);
        assert_int_equal(put(state->store, "a", "2", first, &second), 0);
        assert_true(second > first);
        assert_int_equal(store_get(state->store, "vm", "a", &doc, NULL), 0);
        assert_int_equal(json_revision(doc), second);
        json_decref(doc);
}

static void stale_revision_is_refused(void **data)
{
        struct state *state = *data;
        uint64_t first;

        assert_int_equal(put(state->store, "a", "1", STORE_ABSENT, &first), 0);
        assert_int_equal(put(state->store, "a", "2", first, NULL), 0);
        assert_int_equal(put(state->store, "a", "3", first, NULL), -ESTALE);
        assert_int_equal(put(state->store, "a", "3", STORE_ABSENT, NULL), -ESTALE);
        assert_int_equal(drop(state->store, "a", first), -ESTALE);
        assert_value(state->store, "a", "2");
}

static void a_name_is_taken_once_per_kind(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch other_kind = STORE_BATCH_INIT, same_kind = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        json_t *doc = object_new("vm", "a", "2");

        assert_int_equal(put(state->store, "a", "1", STORE_ABSENT, NULL), 0);
        json_object_set_new(doc, "uid", json_string("another"));
        store_batch_put(&same_kind, STORE_ABSENT, doc);
        assert_int_equal(store_commit(state->store, &same_kind, NULL, &error), -EEXIST);
        assert_int_equal(error->code, ERROR_EXISTS);
        store_batch_put(&other_kind, STORE_ABSENT, object_new("host", "a", "1"));
        assert_int_equal(store_commit(state->store, &other_kind, NULL, NULL), 0);
}

static void transaction_is_all_or_nothing(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        uint64_t before, after;
        json_t *doc = NULL;

        assert_int_equal(put(state->store, "a", "1", STORE_ABSENT, NULL), 0);
        assert_int_equal(store_revision(state->store, &before, NULL), 0);
        store_batch_put(&batch, STORE_ABSENT, object_new("vm", "b", "1"));
        store_batch_put(&batch, STORE_ABSENT, object_new("vm", "a", "2"));
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), -ESTALE);
        assert_int_equal(store_get(state->store, "vm", "b", &doc, NULL), -ENOENT);
        assert_int_equal(store_revision(state->store, &after, NULL), 0);
        assert_int_equal(before, after);
}

static bool is_odd(void *userdata, const json_t *doc)
{
        return json_text(doc, "value")[0] % 2 /* digits: odd ones have odd codes */;
}

static void assert_names(struct store *store, const struct store_query *query, const char *names, bool more)
{
        json_t *docs = NULL, *doc;
        bool has_more = !more;
        char got[64] = "";
        size_t i;

        assert_int_equal(store_list(store, query, &docs, &has_more, NULL), 0);
        json_array_foreach (docs, i, doc)
                snprintf(got + i, sizeof(got) - i, "%s", json_text(doc, "name")); /* names of one letter */
        assert_string_equal(got, names);
        assert_int_equal(has_more, more);
        json_decref(docs);
}

static void list_pages_by_name_in_both_directions(void **data)
{
        struct state *state = *data;

        for (char c = 'a'; c <= 'e'; c++)
                assert_int_equal(put(state->store, (char[]){c, 0}, (char[]){(char)(c - 'a' + '0'), 0},
                                         STORE_ABSENT, NULL),
                        0);
        assert_names(state->store, &(struct store_query){.kind = "vm", .limit = 2}, "ab", true);
        assert_names(
                state->store, &(struct store_query){.kind = "vm", .limit = 9, .after = "b"}, "cde", false);
        assert_names(state->store, &(struct store_query){.kind = "vm", .limit = 2, .descending = true}, "ed",
                true);
        assert_names(state->store,
                &(struct store_query){.kind = "vm", .limit = 9, .descending = true, .after = "d"}, "cba",
                false);
        assert_names(
                state->store, &(struct store_query){.kind = "vm", .limit = 2, .match = is_odd}, "bd", false);
        assert_names(state->store, &(struct store_query){.kind = "none", .limit = 2}, "", false);
}

struct seen {
        char text[256];
        uint64_t last;
};

static int remember(void *userdata, const struct store_event *event)
{
        struct seen *seen = userdata;
        size_t used = strlen(seen->text);

        assert_true(event->seq > seen->last);
        assert_int_equal(event->removed, event->doc == NULL);
        snprintf(seen->text + used, sizeof(seen->text) - used, "%s%s%s ", event->removed ? "-" : "+",
                event->name, event->removed ? "" : json_text(event->doc, "value"));
        seen->last = event->seq;
        return 0;
}

static void watch_replays_each_change_in_order(void **data)
{
        struct state *state = *data;
        struct seen seen = {}, rest = {};
        uint64_t first;

        assert_int_equal(put(state->store, "a", "1", STORE_ABSENT, &first), 0);
        assert_int_equal(put(state->store, "a", "2", STORE_ANY, NULL), 0);
        assert_int_equal(drop(state->store, "a", STORE_ANY), 0);
        assert_int_equal(store_changes(state->store, 0, 100, remember, &seen, NULL), 0);
        assert_string_equal(seen.text, "+a1 +a2 -a ");
        rest.last = first;
        assert_int_equal(store_changes(state->store, first, 1, remember, &rest, NULL), 0);
        assert_string_equal(rest.text, "+a2 ");
}

static void watch_from_before_the_log_is_refused(void **data)
{
        struct state *state = *data;
        struct seen seen = {};
        uint64_t newest;

        for (int i = 0; i < 5; i++)
                assert_int_equal(put(state->store, "a", "1", STORE_ANY, &newest), 0);
        assert_int_equal(store_trim_log(state->store, 2, NULL), 0);
        assert_int_equal(store_changes(state->store, 0, 100, remember, &seen, NULL), -ESTALE);
        assert_int_equal(store_changes(state->store, newest + 1, 100, remember, &seen, NULL), -ESTALE);
        assert_int_equal(store_changes(state->store, newest - 2, 100, remember, &seen, NULL), 0);
        assert_string_equal(seen.text, "+a1 +a1 ");
}

static void revisions_do_not_start_again_when_all_is_gone(void **data)
{
        struct state *state = *data;
        uint64_t before, after;

        assert_int_equal(put(state->store, "a", "1", STORE_ABSENT, &before), 0);
        assert_int_equal(drop(state->store, "a", STORE_ANY), 0);
        assert_int_equal(store_trim_log(state->store, 0, NULL), 0);
        store_close(state->store);
        state->store = store_open_in(&state->folder);
        assert_int_equal(put(state->store, "a", "1", STORE_ABSENT, &after), 0);
        assert_true(after > before + 1);
}

static void content_survives_reopening(void **data)
{
        struct state *state = *data;

        assert_int_equal(put(state->store, "a", "\xc3\xa4", STORE_ABSENT, NULL), 0);
        store_close(state->store);
        state->store = store_open_in(&state->folder);
        assert_value(state->store, "a", "\xc3\xa4");
}

static void second_opener_sees_and_makes_changes(void **data)
{
        struct state *state = *data;
        struct store *other = store_open_in(&state->folder);

        assert_int_equal(put(other, "a", "1", STORE_ABSENT, NULL), 0);
        assert_value(state->store, "a", "1");
        assert_int_equal(put(state->store, "a", "2", STORE_ANY, NULL), 0);
        assert_value(other, "a", "2");
        store_close(other);
}

static void count(void *userdata)
{
        ++*(int *)userdata;
}

static void listener_hears_of_commits_only(void **data)
{
        struct state *state = *data;
        int n = 0;

        store_on_commit(state->store, count, &n);
        assert_int_equal(put(state->store, "a", "1", STORE_ABSENT, NULL), 0);
        assert_int_equal(put(state->store, "a", "1", STORE_ABSENT, NULL), -ESTALE);
        assert_int_equal(n, 1);
}

static void file_that_is_no_database_is_refused(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        struct store *store = NULL;
        char path[128];

        snprintf(path, sizeof(path), "%s/junk.db", state->folder.path);
        assert_int_equal(
                file_write_atomic(path, "this is not a database, but long enough to be looked at", 55, 0600),
                0);
        assert_true(store_open_sqlite(path, &store, &error) < 0);
        assert_null(store);
        assert_non_null(error);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
                TEST(object_is_found_by_name_and_by_uid),
                TEST(missing_object_is_named_in_the_error),
                TEST(revision_grows_with_each_change_and_is_in_the_document),
                TEST(stale_revision_is_refused),
                TEST(a_name_is_taken_once_per_kind),
                TEST(transaction_is_all_or_nothing),
                TEST(list_pages_by_name_in_both_directions),
                TEST(watch_replays_each_change_in_order),
                TEST(watch_from_before_the_log_is_refused),
                TEST(revisions_do_not_start_again_when_all_is_gone),
                TEST(content_survives_reopening),
                TEST(second_opener_sees_and_makes_changes),
                TEST(listener_hears_of_commits_only),
                TEST(file_that_is_no_database_is_refused),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
