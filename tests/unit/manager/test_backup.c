/* SPDX-License-Identifier: Apache-2.0 */

/* Backups, from each kind of store to each, and stores that earlier versions wrote. */

#include "store_places.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "manager/audit.h"
#include "manager/backup.h"
#include "manager/manager.h"

struct state {
        struct folder folder;
        struct config config;
        char file[128];
};

static bool has_postgresql;

static int setup(void **ret)
{
        struct state *state = calloc(1, sizeof(*state));
        char secret[70];

        folder_make(&state->folder);
        store_place_sqlite.clear(&state->folder);
        if (has_postgresql)
                store_place_postgresql.clear(&state->folder);
        snprintf(state->file, sizeof(state->file), "%s/backup", state->folder.path);
        assert_int_equal(config_load("/nonexistent", false, &state->config, NULL), 0);
        free(state->config.state_dir);
        state->config.state_dir = alloc_printf("%s/state", state->folder.path);
        assert_int_equal(
                manager_init(&state->config, (const char *const[]){"192.0.2.1", NULL}, "admin", secret, NULL),
                0);
        *ret = state;
        return 0;
}

static int teardown(void **data)
{
        struct state *state = *data;

        config_deinit(&state->config);
        folder_remove(&state->folder);
        free(state);
        return 0;
}

static struct store *open_at(const struct state *state, const struct store_place *place)
{
        _cleanup_error_ struct error *error = NULL;
        struct store *store = NULL;
        char where[256];

        place->where(&state->folder, where);
        if (store_open(where, &clock_system, &store, &error) < 0)
                fail_msg("%s", error_message(error));
        return store;
}

static void put(struct store *store, json_t *doc)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        store_batch_put(&batch, STORE_ANY, doc);
        assert_int_equal(store_commit(store, &batch, NULL, NULL), 0);
}

static void fill(struct store *store)
{
        char name[16];

        for (int i = 0; i < 600; i++) {
                snprintf(name, sizeof(name), "vm%03d", i);
                put(store, object_new("vm", name, "\xc3\xa4 \"quoted\" \\ 1"));
        }
        put(store, json_pack("{s:s, s:s, s:s, s:{s:s}, s:{s:s, s:s, s:n}}", "kind", "task", "name", "t1",
                           "uid", "t1", "spec", "action", "vm.migrate", "status", "state", "running", "step",
                           "follow", "finished"));
        put(store, json_pack("{s:s, s:s, s:s, s:{s:s}, s:{s:s, s:n, s:s}}", "kind", "task", "name", "t0",
                           "uid", "t0", "spec", "action", "vm.start", "status", "state", "succeeded", "step",
                           "finished", "2026-01-01T00:00:00Z"));
        for (int i = 0; i < 3; i++)
                assert_int_equal(
                        audit_write(store, &clock_system,
                                &(struct audit_entry){.who = "test", .action = "vm.start", .result = "done"},
                                NULL),
                        0);
}

static json_t *get(struct store *store, const char *kind, const char *name)
{
        json_t *doc = NULL;

        assert_int_equal(store_get(store, kind, name, &doc, NULL), 0);
        return doc;
}

static void write_backup(struct state *state, struct store *store)
{
        assert_int_equal(backup_write(store, &state->config, &clock_system, state->file, NULL), 0);
}

static int restore(struct state *state, struct store *store, struct error **ret_error)
{
        static const char *const none[] = {NULL};

        return backup_restore(store, &state->config, &clock_system, state->file, none, ret_error);
}

static void assert_audit(struct store *store, json_int_t n_entries)
{
        json_t *verdict = NULL;

        assert_int_equal(audit_verify(store, &verdict, NULL), 0);
        if (!json_is_true(json_object_get(verdict, "ok")))
                fail_msg("%s", json_text(verdict, "message"));
        assert_int_equal(json_integer_value(json_object_get(verdict, "n_entries")), n_entries);
        json_decref(verdict);
}

/* From a store of one kind into a store of another, or the same, that has something else in it. */
static void there_and_back(struct state *state, const struct store_place *from, const struct store_place *to)
{
        struct store *store = open_at(state, from);
        struct store_leader before = {}, leader = {};
        uint64_t revision, revision_vm, seen;
        json_t *doc;

        fill(store);
        assert_int_equal(store_lead(store, "a", "manager1", &before, NULL), 0);
        assert_int_equal(store_revision(store, &revision, NULL), 0);
        doc = get(store, "vm", "vm599");
        revision_vm = json_revision(doc);
        json_decref(doc);
        write_backup(state, store);
        put(store, object_new("vm", "later", "1"));
        assert_int_equal(store_resign(store, NULL), 0);
        store_close(store);
        store = open_at(state, to);
        put(store, object_new("vm", "other", "1"));
        assert_int_equal(store_lead(store, "b", "manager2", &leader, NULL), 0);
        assert_int_equal(restore(state, store, NULL), 0);
        doc = get(store, "vm", "vm599");
        assert_string_equal(json_text(doc, "value"), "\xc3\xa4 \"quoted\" \\ 1");
        assert_int_equal(json_revision(doc), revision_vm);
        json_decref(doc);
        assert_int_equal(store_get(store, "vm", "other", &doc, NULL), -ENOENT);
        assert_int_equal(store_get(store, "vm", "later", &doc, NULL), -ENOENT);
        assert_audit(store, 4); /* three, and the restore itself */
        /* Neither a client that watched nor an agent meets a number again that it knows. */
        assert_int_equal(store_revision(store, &seen, NULL), 0);
        assert_true(seen > revision + 1000);
        assert_int_equal(store_resign(store, NULL), 0);
        assert_int_equal(store_lead(store, "b", "manager2", &leader, NULL), 0);
        assert_true(leader.term > before.term + 1000);
        store_close(store);
}

static void a_backup_of_sqlite_is_restored_into_sqlite(void **data)
{
        there_and_back(*data, &store_place_sqlite, &store_place_sqlite);
}

static void a_backup_of_sqlite_is_restored_into_postgresql(void **data)
{
        if (!has_postgresql)
                skip();
        there_and_back(*data, &store_place_sqlite, &store_place_postgresql);
}

static void a_backup_of_postgresql_is_restored_into_postgresql(void **data)
{
        if (!has_postgresql)
                skip();
        there_and_back(*data, &store_place_postgresql, &store_place_postgresql);
}

static void a_backup_of_postgresql_is_restored_into_sqlite(void **data)
{
        if (!has_postgresql)
                skip();
        there_and_back(*data, &store_place_postgresql, &store_place_sqlite);
}

static void a_task_that_was_under_way_has_failed_after_the_restore(void **data)
{
        struct state *state = *data;
        struct store *store = open_at(state, &store_place_sqlite);
        json_t *doc;

        fill(store);
        write_backup(state, store);
        assert_int_equal(restore(state, store, NULL), 0);
        doc = get(store, "task", "t1");
        assert_string_equal(json_text(json_status(doc), "state"), "failed");
        assert_true(*json_text(json_status(doc), "finished"));
        assert_non_null(strstr(json_text(json_object_get(json_status(doc), "error"), "detail"), "under way"));
        json_decref(doc);
        doc = get(store, "task", "t0");
        assert_string_equal(json_text(json_status(doc), "state"), "succeeded");
        json_decref(doc);
        store_close(store);
}

/* The backup with one change in its text; the store is as it was after the refusal. */
static void refuse(struct state *state, size_t at, bool cut, const char *message)
{
        struct store *store = open_at(state, &store_place_sqlite);
        _cleanup_error_ struct error *error = NULL;
        _cleanup_free_ char *text = NULL;
        size_t len;
        json_t *doc;

        assert_int_equal(file_read(state->file, 1u << 24, &text, &len), 0);
        if (cut)
                len = MIN(at, len);
        else
                text[at] ^= 1;
        assert_int_equal(file_write_atomic(state->file, text, len, 0600), 0);
        put(store, object_new("vm", "present", "1"));
        assert_true(restore(state, store, &error) < 0);
        if (!strstr(error->message, message))
                fail_msg("%s", error->message);
        doc = get(store, "vm", "present");
        json_decref(doc);
        store_close(store);
}

static size_t size_of(const struct state *state)
{
        struct stat info;

        assert_int_equal(stat(state->file, &info), 0);
        return (size_t)info.st_size;
}

static void prepare_file(struct state *state)
{
        struct store *store = open_at(state, &store_place_sqlite);

        fill(store);
        write_backup(state, store);
        store_close(store);
}

static void a_backup_that_was_cut_off_is_refused(void **data)
{
        struct state *state = *data;

        prepare_file(state);
        refuse(state, size_of(state) - 200, true, "cut off");
        refuse(state, size_of(state) / 2, true, "cut off");
        refuse(state, 0, true, "line 1: the backup was cut off");
}

static void a_backup_with_more_after_its_end_is_refused(void **data)
{
        struct state *state = *data;
        FILE *file;

        prepare_file(state);
        file = fopen(state->file, "a");
        assert_non_null(file);
        assert_true(fputs("{}\n", file) >= 0);
        assert_int_equal(fclose(file), 0);
        refuse(state, size_of(state), true, "something follows the end");
}

static void a_backup_with_one_byte_changed_is_refused(void **data)
{
        struct state *state = *data;
        _cleanup_free_ char *text = NULL;

        prepare_file(state);
        assert_int_equal(file_read(state->file, 1u << 24, &text, NULL), 0);
        refuse(state, (size_t)(strstr(text, "quoted") - text), false, "the file was changed");
}

static void what_is_no_backup_is_refused(void **data)
{
        struct state *state = *data;

        assert_int_equal(file_write_atomic(state->file, "{}\n", 3, 0600), 0);
        refuse(state, 1000, true, "no backup of drover-manager");
        assert_int_equal(
                file_write_atomic(state->file, "{\"format\":\"drover-backup\",\"version\":2}\n", 39, 0600),
                0);
        refuse(state, 1000, true, "version 2");
}

static void a_backup_is_secret_and_replaces_no_file(void **data)
{
        struct state *state = *data;
        struct store *store = open_at(state, &store_place_sqlite);
        _cleanup_error_ struct error *error = NULL;
        struct stat info;

        write_backup(state, store);
        assert_int_equal(stat(state->file, &info), 0);
        assert_int_equal(info.st_mode & 0777, 0600);
        assert_true(backup_write(store, &state->config, &clock_system, state->file, &error) < 0);
        assert_int_equal(error->code, ERROR_EXISTS);
        store_close(store);
}

static void the_authority_is_restored_where_there_is_none_and_never_replaced(void **data)
{
        struct state *state = *data;
        struct store *store = open_at(state, &store_place_sqlite);
        _cleanup_free_ char *before = alloc_printf("%s/pki/ca.pem", state->config.state_dir), *after = NULL,
                            *old = NULL, *new = NULL;
        _cleanup_error_ struct error *error = NULL;
        char secret[70];

        write_backup(state, store);
        assert_int_equal(file_read(before, 65536, &old, NULL), 0);
        free(state->config.state_dir);
        state->config.state_dir = alloc_printf("%s/fresh", state->folder.path);
        assert_int_equal(mkdir(state->config.state_dir, 0700), 0);
        assert_int_equal(restore(state, store, NULL), 0);
        after = alloc_printf("%s/pki/ca.pem", state->config.state_dir);
        assert_int_equal(file_read(after, 65536, &new, NULL), 0);
        assert_string_equal(old, new);
        free(state->config.state_dir);
        state->config.state_dir = alloc_printf("%s/another", state->folder.path);
        assert_int_equal(manager_init(&state->config, (const char *const[]){NULL}, "admin", secret, NULL), 0);
        assert_true(restore(state, store, &error) < 0);
        assert_int_equal(error->code, ERROR_CONFLICT);
        store_close(store);
}

/* --- Stores of earlier versions: tests/unit/manager/stores ---------------------------------------------------------------- */

static void load_sqlite(const struct state *state, const char *name)
{
        _cleanup_free_ char *source = alloc_printf("%s/%s", getenv("DROVER_STORES"), name), *sql = NULL,
                            *path = alloc_printf("%s/db/test.db", state->folder.path);
        char *message = NULL;
        sqlite3 *db = NULL;

        assert_int_equal(file_read(source, 1u << 20, &sql, NULL), 0);
        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
                fail_msg("%s: %s", name, message);
        sqlite3_close(db);
}

static void assert_upgraded(struct store *store)
{
        struct store_leader leader = {};
        uint64_t revision;
        json_t *doc;

        assert_audit(store, 5);
        doc = get(store, "datastore", "shared");
        assert_string_equal(json_text(json_spec(doc), "path"), "/srv/vms");
        json_decref(doc);
        doc = get(store, "host", "host1");
        assert_string_equal(json_text(json_spec(doc), "address"), "192.0.2.11:8444");
        json_decref(doc);
        assert_int_equal(store_get(store, "leader", "leader", &doc, NULL), -ENOENT);
        assert_int_equal(store_revision(store, &revision, NULL), 0);
        assert_int_equal(revision, 24);
        /* It was led in term 1; agents know that. */
        assert_int_equal(store_lead(store, "a", "manager1", &leader, NULL), 0);
        assert_int_equal(leader.term, 2);
}

static void a_store_of_schema_version_1_is_upgraded_with_all_that_is_in_it(void **data)
{
        struct state *state = *data;
        struct store *store;

        load_sqlite(state, "sqlite-1.sql");
        store = open_at(state, &store_place_sqlite);
        assert_upgraded(store);
        store_close(store);
        store = open_at(state, &store_place_sqlite);
        assert_audit(store, 5);
        store_close(store);
}

struct removals {
        size_t n;
        char pool[2][16]; /* of what was removed; "-": not kept */
};

static int remember_removal(void *userdata, const struct store_event *event)
{
        struct removals *removals = userdata;

        if (event->removed && removals->n < ARRAY_SIZE(removals->pool))
                snprintf(removals->pool[removals->n++], sizeof(removals->pool[0]), "%s",
                        event->doc ? json_text(json_object_get(json_spec(event->doc), "labels"), "pool")
                                   : "-");
        return 0;
}

/* Version 2 keeps what was removed in the log; the log of before has no more than it had. */
static void a_postgresql_store_of_schema_version_1_is_upgraded(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *source = alloc_printf("%s/postgresql-1.sql", getenv("DROVER_STORES")),
                            *sql = NULL;
        struct store_leader leader = {};
        struct removals removals = {};
        struct store *store;

        if (!has_postgresql)
                skip();
        store_place_postgresql.clear(&state->folder);
        postgresql_server_sql(&store_place_server, "drover", "DROP SCHEMA IF EXISTS drover CASCADE");
        assert_int_equal(file_read(source, 1u << 20, &sql, NULL), 0);
        postgresql_server_sql(&store_place_server, "drover", sql);
        store = open_at(state, &store_place_postgresql);
        assert_int_equal(
                store_lead(store, "a", "manager1", &leader, NULL), 0); /* the schema goes further with it */
        store_batch_remove(&batch, "vm", "v2", STORE_ANY);
        assert_int_equal(store_commit(store, &batch, NULL, NULL), 0);
        assert_int_equal(store_changes(store, 0, 100, remember_removal, &removals, NULL), 0);
        assert_int_equal(removals.n, 2);
        assert_string_equal(removals.pool[0], "-");
        assert_string_equal(removals.pool[1], "east");
        store_close(store);
}

static void an_upgrade_that_fails_leaves_the_store_as_it_was(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        struct store *store = NULL;
        char where[256];

        load_sqlite(state, "sqlite-1.sql");
        store_place_sqlite.change(&state->folder, "CREATE TABLE state (in_the_way TEXT)%s");
        store_place_sqlite.where(&state->folder, where);
        assert_true(store_open(where, &clock_system, &store, &error) < 0);
        assert_non_null(strstr(error->message, "migrate"));
        store_place_sqlite.change(&state->folder, "DROP TABLE state%s");
        store = open_at(state, &store_place_sqlite);
        assert_upgraded(store);
        store_close(store);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
                TEST(a_backup_of_sqlite_is_restored_into_sqlite),
                TEST(a_backup_of_sqlite_is_restored_into_postgresql),
                TEST(a_backup_of_postgresql_is_restored_into_postgresql),
                TEST(a_backup_of_postgresql_is_restored_into_sqlite),
                TEST(a_task_that_was_under_way_has_failed_after_the_restore),
                TEST(a_backup_that_was_cut_off_is_refused),
                TEST(a_backup_with_more_after_its_end_is_refused),
                TEST(a_backup_with_one_byte_changed_is_refused),
                TEST(what_is_no_backup_is_refused),
                TEST(a_backup_is_secret_and_replaces_no_file),
                TEST(the_authority_is_restored_where_there_is_none_and_never_replaced),
                TEST(a_store_of_schema_version_1_is_upgraded_with_all_that_is_in_it),
                TEST(a_postgresql_store_of_schema_version_1_is_upgraded),
                TEST(an_upgrade_that_fails_leaves_the_store_as_it_was),
        };
        int failed;

        has_postgresql = store_place_postgresql.begin();
        failed = cmocka_run_group_tests(tests, NULL, NULL);
        if (has_postgresql)
                store_place_postgresql.end();
        return failed;
}
