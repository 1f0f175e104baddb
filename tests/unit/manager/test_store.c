/* SPDX-License-Identifier: Apache-2.0 */

/* Conformance suite of the store's interface: what each backend has to do, run on each. `struct backend` is all that it knows
 * of them; what belongs to one of them alone is in test_store_postgresql.c and test_store_upgrade.c. */

#include "fixture.h"
#include "store_places.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "manager/audit.h"

struct state {
        struct folder folder;
        struct store *store;
};

static const struct store_place *place;

static struct store *open_store(const struct state *state)
{
        _cleanup_error_ struct error *error = NULL;
        struct store *store = NULL;
        char where[256];

        place->where(&state->folder, where);
        if (store_open(where, &clock_system, &store, &error) < 0)
                fail_msg("%s", error_message(error));
        return store;
}

static int setup(void **ret)
{
        struct state *state = calloc(1, sizeof(*state));

        folder_make(&state->folder);
        place->clear(&state->folder);
        state->store = open_store(state);
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
        assert_names(state->store, &(struct store_query){.kind = "vm", .limit = 2, .text = "\"value\":\"3\""},
                "d", false);
        assert_names(state->store, &(struct store_query){.kind = "none", .limit = 2}, "", false);
}

static void list_of_a_prefix_ends_with_it(void **data)
{
        static const char *const names[] = {"a", "b", "b/", "b/1", "b/2", "b/3", "b0", "c"};
        const struct store_query query = {.kind = "vm", .prefix = "b/", .limit = 9};
        struct state *state = *data;
        _cleanup_json_ json_t *docs = NULL, *rest = NULL;
        bool more = true;
        size_t n = 0;

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                assert_int_equal(
                        put(state->store, names[i], (char[]){(char)(i + '0'), 0}, STORE_ABSENT, NULL), 0);
        assert_int_equal(store_list(state->store, &query, &docs, &more, NULL), 0);
        assert_int_equal(json_array_size(docs), 3);
        assert_string_equal(json_text(json_array_get(docs, 0), "name"), "b/1");
        assert_false(more);
        assert_int_equal(store_count(state->store, &query, &n, NULL), 0);
        assert_int_equal(n, 3);
        assert_int_equal(
                store_list(state->store,
                        &(struct store_query){.kind = "vm", .prefix = "b/", .after = "b/1", .limit = 1},
                        &rest, &more, NULL),
                0);
        assert_string_equal(json_text(json_array_get(rest, 0), "name"), "b/2");
        assert_true(more);
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
        assert_non_null(event->doc); /* of what was removed too: as it was */
        assert_int_equal(json_revision(event->doc), event->seq);
        snprintf(seen->text + used, sizeof(seen->text) - used, "%s%s%s ", event->removed ? "-" : "+",
                event->name, json_text(event->doc, "value"));
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
        assert_string_equal(seen.text, "+a1 +a2 -a2 ");
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
        state->store = open_store(state);
        assert_int_equal(put(state->store, "a", "1", STORE_ABSENT, &after), 0);
        assert_true(after > before + 1);
}

static void content_survives_reopening(void **data)
{
        struct state *state = *data;

        assert_int_equal(put(state->store, "a", "\xc3\xa4", STORE_ABSENT, NULL), 0);
        store_close(state->store);
        state->store = open_store(state);
        assert_value(state->store, "a", "\xc3\xa4");
}

static void second_opener_sees_and_makes_changes(void **data)
{
        struct state *state = *data;
        struct store *other = open_store(state);

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

static void any_text_comes_back_as_it_was(void **data)
{
        /* Quotes and backslashes of every syntax on the way, characters of one to four bytes. */
        static const char *const texts[] = {"", "NULL", "{}", "a\"b\\c'd,e{f}", "line\nfeed\ttab\x01",
                "\xc3\xa4\xe2\x82\xac", "\xf0\x9f\x90\x95", "$1 ?1 --", "\\u0000"};
        struct state *state = *data;

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
                assert_int_equal(put(state->store, "a", texts[i], STORE_ANY, NULL), 0);
                assert_value(state->store, "a", texts[i]);
        }
}

static void names_are_ordered_by_their_bytes(void **data)
{
        struct state *state = *data;

        for (const char *c = "bBa_A9-"; *c; c++)
                assert_int_equal(put(state->store, (char[]){*c, 0}, "1", STORE_ABSENT, NULL), 0);
        assert_names(state->store, &(struct store_query){.kind = "vm", .limit = 99}, "-9AB_ab", false);
}

static void listing_goes_on_beyond_a_page(void **data)
{
        enum { MANY = 700 };
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        json_t *docs = NULL;
        char name[16];

        for (int i = 0; i < MANY; i++) {
                snprintf(name, sizeof(name), "n%05d", i);
                store_batch_put(&batch, STORE_ABSENT, object_new("vm", name, "1"));
        }
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        assert_int_equal(
                store_list(state->store, &(struct store_query){.kind = "vm", .limit = STORE_LIMIT_NONE},
                        &docs, NULL, NULL),
                0);
        assert_int_equal(json_array_size(docs), MANY);
        for (int i = 0; i < MANY; i++) {
                snprintf(name, sizeof(name), "n%05d", i);
                assert_string_equal(json_text(json_array_get(docs, (size_t)i), "name"), name);
        }
        json_decref(docs);
}

static void large_documents_are_kept_and_larger_ones_refused(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        char *value = malloc(STORE_DOCUMENT_MAX + 1);
        int r;

        memset(value, 'x', STORE_DOCUMENT_MAX);
        value[STORE_DOCUMENT_MAX - 1000] = '\0';
        /* On a machine that is busy with other things it may take longer than a call may. */
        for (int i = 0; (r = put(state->store, "a", value, STORE_ANY, NULL)) < 0 && i < 20; i++)
                assert_true(r == -ETIMEDOUT || r == -EHOSTUNREACH);
        assert_int_equal(r, 0);
        assert_value(state->store, "a", value);
        memset(value, 'x', STORE_DOCUMENT_MAX);
        value[STORE_DOCUMENT_MAX] = '\0';
        store_batch_put(&batch, STORE_ANY, object_new("vm", "b", value));
        assert_int_equal(store_commit(state->store, &batch, NULL, &error), -E2BIG);
        assert_int_equal(error->code, ERROR_TOO_LARGE);
        free(value);
}

static void one_object_changes_more_than_once_in_a_transaction(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        struct seen seen = {};

        store_batch_put(&batch, STORE_ABSENT, object_new("vm", "a", "1"));
        store_batch_put(&batch, STORE_ANY, object_new("vm", "a", "2"));
        store_batch_remove(&batch, "vm", "uid-a", STORE_ANY);
        store_batch_put(&batch, STORE_ABSENT, object_new("vm", "a", "3"));
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        assert_value(state->store, "a", "3");
        assert_int_equal(store_changes(state->store, 0, 100, remember, &seen, NULL), 0);
        assert_string_equal(seen.text, "+a1 +a2 -a2 +a3 ");
}

static void a_name_can_be_given_on_within_a_transaction(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        json_t *doc = object_new("vm", "a", "2");

        assert_int_equal(put(state->store, "a", "1", STORE_ABSENT, NULL), 0);
        json_object_set_new(doc, "uid", json_string("another"));
        store_batch_remove(&batch, "vm", "uid-a", STORE_ANY);
        store_batch_put(&batch, STORE_ABSENT, doc);
        assert_int_equal(store_commit(state->store, &batch, NULL, NULL), 0);
        assert_value(state->store, "another", "2");
}

static void removing_what_is_not_there_changes_nothing(void **data)
{
        struct state *state = *data;
        uint64_t before, after;

        assert_int_equal(store_revision(state->store, &before, NULL), 0);
        assert_int_equal(drop(state->store, "a", STORE_ANY), 0);
        assert_int_equal(store_revision(state->store, &after, NULL), 0);
        assert_int_equal(before, after);
}

/* Adds 1 to the counter `n` times; who comes second reads again and repeats, as If-Match asks for. */
static void count_up(const struct state *state, int n)
{
        struct store *store = NULL;
        char where[256];

        place->where(&state->folder, where);
        if (store_open(where, &clock_system, &store, NULL) < 0)
                _exit(3);
        while (n > 0) {
                json_t *doc = NULL;
                char next[24];
                int r;

                if (store_get(store, "vm", "counter", &doc, NULL) < 0)
                        _exit(1);
                snprintf(next, sizeof(next), "%ld", strtol(json_text(doc, "value"), NULL, 10) + 1);
                r = put(store, "counter", next, json_revision(doc), NULL);
                json_decref(doc);
                if (r < 0 && r != -ESTALE)
                        _exit(2);
                n -= r == 0;
        }
        store_close(store);
        _exit(0);
}

static void writers_at_the_same_time_lose_nothing(void **data)
{
        enum { WRITERS = 4, TIMES = 50 };
        struct state *state = *data;
        pid_t pids[WRITERS];

        assert_int_equal(put(state->store, "counter", "0", STORE_ABSENT, NULL), 0);
        for (int i = 0; i < WRITERS; i++) {
                pids[i] = fork();
                if (pids[i] == 0)
                        count_up(state, TIMES);
        }
        for (int i = 0; i < WRITERS; i++) {
                int status = -1;

                assert_true(waitpid(pids[i], &status, 0) == pids[i]);
                assert_int_equal(status, 0);
        }
        assert_value(state->store, "counter", "200");
}

#define PARTS 20

/* Transactions that give all parts the same value, for ever; a byte into the pipe after each. */
static void write_for_ever(const struct state *state, int fd)
{
        struct store *store = NULL;
        char where[256];

        place->where(&state->folder, where);
        if (store_open(where, &clock_system, &store, NULL) < 0)
                _exit(1);
        for (int n = 0;; n++) {
                struct store_batch batch = STORE_BATCH_INIT;
                char name[16], value[16];

                snprintf(value, sizeof(value), "%d", n);
                for (int i = 0; i < PARTS; i++) {
                        snprintf(name, sizeof(name), "part%02d", i);
                        store_batch_put(&batch, STORE_ANY, object_new("vm", name, value));
                }
                if (store_commit(store, &batch, NULL, NULL) < 0 || write(fd, "", 1) != 1)
                        _exit(1);
                store_batch_deinit(&batch);
        }
}

/* What was committed is there, and whole; returns the value of all parts. */
static long assert_whole(const struct state *state)
{
        struct store *store = open_store(state);
        json_t *docs = NULL, *doc;
        size_t i;
        long value;

        assert_int_equal(
                store_list(store, &(struct store_query){.kind = "vm", .limit = 99}, &docs, NULL, NULL), 0);
        assert_int_equal(json_array_size(docs), PARTS);
        value = strtol(json_text(json_array_get(docs, 0), "value"), NULL, 10);
        json_array_foreach (docs, i, doc)
                assert_int_equal(strtol(json_text(doc, "value"), NULL, 10), value);
        json_decref(docs);
        store_close(store);
        return value;
}

static void a_writer_killed_in_a_transaction_leaves_all_of_it_or_nothing(void **data)
{
        struct state *state = *data;

        for (int round = 0; round < 10; round++) {
                char byte, pipes = 0;
                long told = -1;
                int fds[2];
                pid_t pid;

                assert_int_equal(pipe(fds), 0);
                pid = fork();
                if (pid == 0)
                        write_for_ever(state, fds[1]);
                close(fds[1]);
                /* Somewhere in the transaction after the last one that was told of. */
                for (; pipes < 3 + round; pipes++) {
                        assert_int_equal(read(fds[0], &byte, 1), 1);
                        told++;
                }
                assert_int_equal(kill(pid, SIGKILL), 0);
                assert_true(waitpid(pid, NULL, 0) == pid);
                while (read(fds[0], &byte, 1) == 1)
                        told++;
                close(fds[0]);
                assert_in_range(assert_whole(state), told, told + 1);
        }
}

static void write_audit(struct store *store, const char *action)
{
        assert_int_equal(audit_write(store, &clock_system,
                                 &(struct audit_entry){
                                         .who = "test", .action = action, .object = "vm/a", .result = "done"},
                                 NULL),
                0);
}

static void audit_chain_holds_and_a_changed_entry_is_located(void **data)
{
        struct state *state = *data;
        json_t *verdict = NULL;

        for (int i = 0; i < 5; i++)
                write_audit(state->store, i == 2 ? "vm.migrate" : "vm.start");
        assert_int_equal(audit_verify(state->store, &verdict, NULL), 0);
        assert_true(json_is_true(json_object_get(verdict, "ok")));
        json_decref(verdict);
        place->change(&state->folder, "UPDATE %sobject SET doc = replace(doc, 'vm.migrate', 'vm.migratf')");
        assert_int_equal(audit_verify(state->store, &verdict, NULL), 0);
        assert_false(json_is_true(json_object_get(verdict, "ok")));
        assert_int_equal(json_integer_value(json_object_get(verdict, "bad_seq")), 3);
        json_decref(verdict);
}

static void set_byte(struct state *state, size_t i, char byte)
{
        _cleanup_free_ char *sql = alloc_printf("UPDATE %%sobject SET doc = substr(doc, 1, %zu) || '%c' || "
                                                "substr(doc, %zu) WHERE kind = 'audit' "
                                                "AND name = 'a000000000000003'",
                i, byte, i + 2);

        place->change(&state->folder, sql);
}

static void each_changed_byte_of_the_audit_log_is_located(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *entry = NULL;
        _cleanup_free_ char *text = NULL;

        for (int i = 0; i < 5; i++)
                write_audit(state->store, "vm.start");
        assert_int_equal(store_get(state->store, "audit", "a000000000000003", &entry, NULL), 0);
        json_object_del(entry, "revision");
        text = doc_to_text(entry);
        /* Names, values, quotes, hashes: whether it is still a document or not. */
        for (size_t i = 0, n = strlen(text); i < n; i += 11) {
                json_t *verdict = NULL;

                set_byte(state, i, text[i] == '7' ? '8' : '7');
                assert_int_equal(audit_verify(state->store, &verdict, NULL), 0);
                if (json_integer_value(json_object_get(verdict, "bad_seq")) != 3)
                        fail_msg("byte %zu of %s: %s", i, text, json_text(verdict, "message"));
                json_decref(verdict);
                set_byte(state, i, text[i]);
        }
        json_decref(TAKE_PTR(entry));
        assert_int_equal(audit_verify(state->store, &entry, NULL), 0);
        assert_true(json_is_true(json_object_get(entry, "ok")));
}

static void a_newer_schema_is_refused(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        struct store *store = NULL;
        char where[256];

        place->set_version(&state->folder, 99);
        place->where(&state->folder, where);
        assert_true(store_open(where, &clock_system, &store, &error) < 0);
        assert_int_equal(error->code, ERROR_NOT_SUPPORTED);
        assert_non_null(strstr(error->message, "schema version 99"));
}

static void a_store_that_is_read_only_says_so_and_is_unchanged(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        struct store *store = NULL;
        char where[256];
        int r;

        if (!place->read_only(&state->folder, true))
                skip();
        store_close(TAKE_PTR(state->store));
        place->where(&state->folder, where);
        r = store_open(where, &clock_system, &store, &error);
        if (r >= 0) {
                _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

                store_batch_put(&batch, STORE_ANY, object_new("vm", "a", "1"));
                r = store_commit(store, &batch, NULL, &error);
                store_close(store);
        }
        assert_true(place->read_only(&state->folder, false));
        assert_true(r < 0);
        assert_int_equal(error->code, ERROR_CONFLICT);
        assert_non_null(strstr(error->message, "read-only"));
        assert_non_null(error->hint);
        state->store = open_store(state);
        assert_int_equal(put(state->store, "a", "2", STORE_ABSENT, NULL), 0);
}

static int put_large(struct store *store, int i, struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        char name[16], value[65537];

        /* Nothing that could be compressed away. */
        for (size_t n = 0; n < sizeof(value) - 1; n++)
                value[n] = (char)('!' + (random() & 63) + 1);
        value[sizeof(value) - 1] = '\0';
        snprintf(name, sizeof(name), "large%d", i);
        store_batch_put(&batch, STORE_ABSENT, object_new("vm", name, value));
        return store_commit(store, &batch, NULL, ret_error);
}

static void a_full_store_says_so_still_answers_and_goes_on_when_there_is_room(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        struct store *store = NULL;
        char where[256];
        int n = 0, r;

        if (!place->small(&state->folder, where))
                skip();
        assert_int_equal(store_open(where, &clock_system, &store, NULL), 0);
        assert_int_equal(put(store, "a", "1", STORE_ABSENT, NULL), 0);
        while ((r = put_large(store, n, &error)) == 0)
                n++;
        assert_int_equal(r, -ENOSPC);
        assert_int_equal(error->code, ERROR_NO_SPACE);
        assert_non_null(error->hint);
        assert_value(store, "a", "1");
        place->make_room(&state->folder);
        assert_int_equal(put_large(store, n, NULL), 0);
        store_close(store);
        place->small_end(&state->folder);
}

static void each_leader_has_a_later_term(void **data)
{
        struct state *state = *data;
        struct store_leader leader = {};
        uint64_t last = 0;

        for (int i = 0; i < 3; i++) {
                assert_int_equal(store_lead(state->store, "holder", "manager1", &leader, NULL), 0);
                assert_true(leader.term > last);
                assert_string_equal(leader.server, "manager1");
                last = leader.term;
                assert_int_equal(store_renew(state->store, NULL), 0);
                assert_int_equal(store_resign(state->store, NULL), 0);
                store_close(state->store);
                state->store = open_store(state);
        }
}

static int run_on(const struct store_place *which, const struct CMUnitTest *tests, size_t n)
{
        int failed;

        place = which;
        if (!place->begin())
                return 0;
        failed = _cmocka_run_group_tests(place->name, tests, n, NULL, NULL);
        place->end();
        return failed;
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
                TEST(list_of_a_prefix_ends_with_it),
                TEST(watch_replays_each_change_in_order),
                TEST(watch_from_before_the_log_is_refused),
                TEST(revisions_do_not_start_again_when_all_is_gone),
                TEST(content_survives_reopening),
                TEST(second_opener_sees_and_makes_changes),
                TEST(listener_hears_of_commits_only),
                TEST(any_text_comes_back_as_it_was),
                TEST(names_are_ordered_by_their_bytes),
                TEST(listing_goes_on_beyond_a_page),
                TEST(large_documents_are_kept_and_larger_ones_refused),
                TEST(one_object_changes_more_than_once_in_a_transaction),
                TEST(a_name_can_be_given_on_within_a_transaction),
                TEST(removing_what_is_not_there_changes_nothing),
                TEST(writers_at_the_same_time_lose_nothing),
                TEST(a_writer_killed_in_a_transaction_leaves_all_of_it_or_nothing),
                TEST(audit_chain_holds_and_a_changed_entry_is_located),
                TEST(each_changed_byte_of_the_audit_log_is_located),
                TEST(a_newer_schema_is_refused),
                TEST(a_store_that_is_read_only_says_so_and_is_unchanged),
                TEST(a_full_store_says_so_still_answers_and_goes_on_when_there_is_room),
                TEST(each_leader_has_a_later_term),
        };

        return run_on(&store_place_sqlite, tests, ARRAY_SIZE(tests)) +
               run_on(&store_place_postgresql, tests, ARRAY_SIZE(tests));
}
