/* SPDX-License-Identifier: Apache-2.0 */

/* The store on SQLite: write-ahead log, synchronous=FULL (a commit that returned is on the disk: tasks and audit
 * depend on it), strict tables. The schema's version is PRAGMA user_version; each migration runs once, in its own
 * transaction. `drover-manager token create` opens the same database beside the running manager, hence BEGIN
 * IMMEDIATE and a busy timeout. */

#include <assert.h>
#include <errno.h>
#include <sqlite3.h>
#include <string.h>

#include "base/alloc.h"
#include "base/torture.h"
#include "manager/store_backend.h"

#define BUSY_TIMEOUT_MS 5000
/* The last code point. A condition that also allowed for no name at all could not use the index: each page of a long list would begin at its end. */
#define BEHIND_ALL_NAMES "\xf4\x8f\xbf\xbf"
#define CACHE_KIB "65536" /* the objects of a large cluster */

enum statement {
        BEGIN,
        COMMIT,
        ROLLBACK,
        GET,
        LIST,
        LIST_DESCENDING,
        CURRENT,
        LOG,
        PUT,
        REMOVE,
        REVISION,
        OLDEST,
        CHANGES,
        TRIM,
        LEAD,
        TERM,
        ALL,
        CLEAR_OBJECTS,
        CLEAR_LOG,
        SET_REVISION,
        SET_TERM,
        N_STATEMENTS,
};

static const char *const statement_sql[] = {
        [BEGIN] = "BEGIN IMMEDIATE",
        [COMMIT] = "COMMIT",
        [ROLLBACK] = "ROLLBACK",
        [GET] = "SELECT name, revision, doc FROM object WHERE kind = ?1 AND (uid = ?2 OR name = ?2) "
                "ORDER BY uid = ?2 DESC LIMIT 1",
        [LIST] = "SELECT name, revision, doc FROM object WHERE kind = ?1 AND name > ?2 ORDER BY name",
        [LIST_DESCENDING] =
                "SELECT name, revision, doc FROM object WHERE kind = ?1 AND name < ?2 ORDER BY name DESC",
        [CURRENT] = "SELECT revision, name, doc FROM object WHERE kind = ?1 AND uid = ?2",
        [LOG] = "INSERT INTO change_log (removed, kind, uid, name, doc) VALUES (?1, ?2, ?3, ?4, ?5)",
        [PUT] = "INSERT INTO object (kind, uid, name, revision, doc) VALUES (?1, ?2, ?3, ?4, ?5) "
                "ON CONFLICT (kind, uid) DO UPDATE SET name = excluded.name, revision = excluded.revision, "
                "doc = excluded.doc",
        [REMOVE] = "DELETE FROM object WHERE kind = ?1 AND uid = ?2",
        [REVISION] = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'change_log'), 0)",
        [OLDEST] = "SELECT coalesce((SELECT min(seq) FROM change_log), "
                   "(SELECT seq FROM sqlite_sequence WHERE name = 'change_log') + 1, 1)",
        [CHANGES] = "SELECT seq, removed, kind, uid, name, doc FROM change_log WHERE seq > ?1 ORDER BY seq "
                    "LIMIT ?2",
        [TRIM] = "DELETE FROM change_log WHERE seq <= (SELECT coalesce(max(seq), 0) FROM change_log) - ?1",
        [LEAD] = "UPDATE state SET term = term + 1",
        [TERM] = "SELECT term FROM state",
        [ALL] = "SELECT kind, uid, name, revision, doc FROM object ORDER BY kind, uid",
        [CLEAR_OBJECTS] = "DELETE FROM object",
        [CLEAR_LOG] = "DELETE FROM change_log",
        [SET_REVISION] =
                "INSERT OR REPLACE INTO sqlite_sequence (rowid, name, seq) VALUES ((SELECT rowid FROM "
                "sqlite_sequence WHERE name = 'change_log'), 'change_log', ?1)",
        [SET_TERM] = "UPDATE state SET term = ?1",
};
static_assert(ARRAY_SIZE(statement_sql) == N_STATEMENTS, "every statement has its text");

/* Entry N takes the schema from version N to N + 1. Never change one that was released; add the next. */
static const char *const migrations[] = {
        "CREATE TABLE object (kind TEXT NOT NULL, uid TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER "
        "NOT NULL, "
        "doc TEXT NOT NULL, PRIMARY KEY (kind, uid), UNIQUE (kind, name)) STRICT, WITHOUT ROWID;"
        "CREATE TABLE change_log (seq INTEGER PRIMARY KEY AUTOINCREMENT, removed INTEGER NOT NULL, "
        "kind TEXT NOT NULL, uid TEXT NOT NULL, name TEXT NOT NULL, doc TEXT) STRICT;",
        /* The term was an object among the others. */
        "CREATE TABLE state (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), term INTEGER NOT NULL) "
        "STRICT;"
        "INSERT INTO state SELECT 1, coalesce((SELECT json_extract(doc, '$.epoch') FROM object WHERE kind = "
        "'leader'), 0);"
        "DELETE FROM object WHERE kind = 'leader';",
};

struct store_sqlite {
        struct store store;
        sqlite3 *db;
        sqlite3_stmt *statements[N_STATEMENTS];
};

static struct store_sqlite *sqlite_of(struct store *store)
{
        return CONTAINER_OF(store, struct store_sqlite, store);
}

static int fail(struct store_sqlite *s, struct error **ret_error, const char *what)
{
        int code = sqlite3_errcode(s->db);

        if (code == SQLITE_FULL)
                return error_set(ret_error, ERROR_NO_SPACE,
                        "Free space on the file system of the state directory.",
                        "cannot %s the manager's store: the disk is full", what);
        if (code == SQLITE_NOMEM)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (code == SQLITE_READONLY)
                return error_set(ret_error, ERROR_CONFLICT,
                        "Make the file and its file system writable for the manager's user.",
                        "cannot %s the manager's store: it is read-only", what);
        return error_set(ret_error, ERROR_INTERNAL,
                "Check the disk and the permissions of the state directory; restore a backup if the file is "
                "damaged.",
                "cannot %s the manager's store: %s", what, sqlite3_errmsg(s->db));
}

static int execute(struct store_sqlite *s, const char *sql, const char *what, struct error **ret_error)
{
        return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(s, ret_error, what);
}

static int prepare(struct store_sqlite *s, struct error **ret_error)
{
        for (size_t i = 0; i < N_STATEMENTS; i++)
                if (sqlite3_prepare_v3(s->db, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                            &s->statements[i], NULL) != SQLITE_OK)
                        return fail(s, ret_error, "prepare a statement for");
        return 0;
}

/* A statement ready for its parameters. Texts are bound without a copy: they outlive the step. */
static sqlite3_stmt *fresh(struct store_sqlite *s, enum statement which)
{
        sqlite3_reset(s->statements[which]);
        sqlite3_clear_bindings(s->statements[which]);
        return s->statements[which];
}

static void bind_text(sqlite3_stmt *statement, int index, const char *text)
{
        sqlite3_bind_text(statement, index, text, -1, SQLITE_STATIC);
}

static int run(struct store_sqlite *s, sqlite3_stmt *statement, const char *what, struct error **ret_error)
{
        int code = torture_point() ? SQLITE_IOERR : sqlite3_step(statement);

        sqlite3_reset(statement);
        return code == SQLITE_DONE ? 0 : fail(s, ret_error, what);
}

static const char *column(sqlite3_stmt *statement, int index)
{
        return (const char *)sqlite3_column_text(statement, index);
}

static int op_get(struct store *store, const char *kind, const char *name_or_uid, store_row_fn fn,
        void *userdata, struct error **ret_error)
{
        struct store_sqlite *s = sqlite_of(store);
        sqlite3_stmt *st = fresh(s, GET);
        int code, r;

        bind_text(st, 1, kind);
        bind_text(st, 2, name_or_uid);
        code = sqlite3_step(st);
        if (code == SQLITE_DONE)
                r = -ENOENT;
        else if (code != SQLITE_ROW)
                r = fail(s, ret_error, "read");
        else {
                r = fn(userdata, column(st, 0), (uint64_t)sqlite3_column_int64(st, 1), column(st, 2));
                if (r < 0)
                        error_from_errno(ret_error, r, "cannot read %s %.64s", kind, name_or_uid);
        }
        sqlite3_reset(st);
        return r;
}

static int op_list(struct store *store, const char *kind, const char *after, bool descending, store_row_fn fn,
        void *userdata, struct error **ret_error)
{
        struct store_sqlite *s = sqlite_of(store);
        sqlite3_stmt *st = fresh(s, descending ? LIST_DESCENDING : LIST);
        int code, r = 0;

        bind_text(st, 1, kind);
        bind_text(st, 2, after && *after ? after : descending ? BEHIND_ALL_NAMES : "");
        while ((code = sqlite3_step(st)) == SQLITE_ROW && r == 0)
                r = fn(userdata, column(st, 0), (uint64_t)sqlite3_column_int64(st, 1), column(st, 2));
        if (r == 0 && code != SQLITE_DONE)
                r = fail(s, ret_error, "read");
        else if (r < 0)
                error_from_errno(ret_error, r, "cannot list objects of kind %s", kind);
        sqlite3_reset(st);
        return MIN(r, 0);
}

/* The object's revision (0: it is not there) and, if it is there and to be removed, copies of its name and document. */
static int current(struct store_sqlite *s, const struct store_row_change *change, uint64_t *ret_revision,
        char **ret_name, char **ret_doc, struct error **ret_error)
{
        sqlite3_stmt *st = fresh(s, CURRENT);
        uint64_t revision = 0;
        int code;

        bind_text(st, 1, change->kind);
        bind_text(st, 2, change->uid);
        code = sqlite3_step(st);
        if (code != SQLITE_ROW && code != SQLITE_DONE)
                return fail(s, ret_error, "read");
        if (code == SQLITE_ROW) {
                revision = (uint64_t)sqlite3_column_int64(st, 0);
                if (change->remove) {
                        *ret_name = alloc_strdup(column(st, 1));
                        *ret_doc = alloc_strdup(column(st, 2));
                }
                if (change->remove && (!*ret_name || !*ret_doc)) {
                        sqlite3_reset(st);
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
                }
        }
        sqlite3_reset(st);
        *ret_revision = revision;
        return 0;
}

static int put(struct store_sqlite *s, const struct store_row_change *change, uint64_t revision,
        struct error **ret_error)
{
        sqlite3_stmt *st = fresh(s, PUT);
        int code;

        bind_text(st, 1, change->kind);
        bind_text(st, 2, change->uid);
        bind_text(st, 3, change->name);
        sqlite3_bind_int64(st, 4, (sqlite3_int64)revision);
        bind_text(st, 5, change->doc_text);
        code = torture_point() ? SQLITE_IOERR : sqlite3_step(st);
        sqlite3_reset(st);
        if (code == SQLITE_DONE)
                return 0;
        if (code != SQLITE_CONSTRAINT)
                return fail(s, ret_error, "write to");
        return store_name_taken(change, ret_error);
}

static int apply(struct store_sqlite *s, const struct store_row_change *change, uint64_t *ret_revision,
        struct error **ret_error)
{
        _cleanup_free_ char *name = NULL, *doc = NULL;
        uint64_t revision = 0;
        sqlite3_stmt *st;
        int r;

        r = current(s, change, &revision, &name, &doc, ret_error);
        if (r < 0)
                return r;
        if (change->expected != STORE_ANY && change->expected != revision)
                return store_stale(change, revision, ret_error);
        if (change->remove && !revision)
                return 0;
        st = fresh(s, LOG);
        sqlite3_bind_int(st, 1, change->remove);
        bind_text(st, 2, change->kind);
        bind_text(st, 3, change->uid);
        bind_text(st, 4, change->remove ? name : change->name);
        bind_text(st, 5, change->remove ? doc : change->doc_text);
        r = run(s, st, "write to", ret_error);
        if (r < 0)
                return r;
        *ret_revision = (uint64_t)sqlite3_last_insert_rowid(s->db);
        if (!change->remove)
                return put(s, change, *ret_revision, ret_error);
        st = fresh(s, REMOVE);
        bind_text(st, 1, change->kind);
        bind_text(st, 2, change->uid);
        return run(s, st, "write to", ret_error);
}

static int read_number(struct store_sqlite *s, enum statement which, uint64_t *ret, struct error **ret_error)
{
        sqlite3_stmt *st = fresh(s, which);

        if (sqlite3_step(st) != SQLITE_ROW)
                return fail(s, ret_error, "read");
        *ret = (uint64_t)sqlite3_column_int64(st, 0);
        sqlite3_reset(st);
        return 0;
}

static int op_revision(struct store *store, uint64_t *ret_revision, struct error **ret_error)
{
        return read_number(sqlite_of(store), REVISION, ret_revision, ret_error);
}

/* Ends the transaction: keeps it when r is 0 or more, else rolls it back. */
static int end_transaction(struct store_sqlite *s, int r, struct error **ret_error)
{
        if (r >= 0)
                r = run(s, fresh(s, COMMIT), "write to", ret_error);
        /* A failed COMMIT may have ended the transaction by itself; then there is nothing to roll back. */
        if (r < 0 && !sqlite3_get_autocommit(s->db)) {
                sqlite3_step(fresh(s, ROLLBACK));
                sqlite3_reset(s->statements[ROLLBACK]);
        }
        return r;
}

static int op_commit(struct store *store, const struct store_row_change *changes, size_t n_changes,
        uint64_t *ret_revision, struct error **ret_error)
{
        struct store_sqlite *s = sqlite_of(store);
        uint64_t revision = 0;
        int r;

        r = run(s, fresh(s, BEGIN), "lock", ret_error);
        if (r < 0)
                return r;
        r = op_revision(store, &revision, ret_error);
        for (size_t i = 0; r >= 0 && i < n_changes; i++)
                r = apply(s, &changes[i], &revision, ret_error);
        r = end_transaction(s, r, ret_error);
        if (r < 0)
                return r;
        *ret_revision = revision;
        return 0;
}

static int op_changes(struct store *store, uint64_t after, size_t limit,
        int (*fn)(void *userdata, const struct store_row_event *event), void *userdata,
        struct error **ret_error)
{
        struct store_sqlite *s = sqlite_of(store);
        uint64_t newest = 0, oldest = 0;
        sqlite3_stmt *st;
        int code, r;

        r = read_number(s, REVISION, &newest, ret_error);
        if (r >= 0)
                r = read_number(s, OLDEST, &oldest, ret_error);
        if (r >= 0)
                r = store_check_log(after, oldest, newest, ret_error);
        if (r < 0)
                return r;
        st = fresh(s, CHANGES);
        sqlite3_bind_int64(st, 1, (sqlite3_int64)after);
        sqlite3_bind_int64(st, 2, (sqlite3_int64)MIN(limit, (size_t)INT32_MAX));
        while (r == 0 && (code = sqlite3_step(st)) != SQLITE_DONE) {
                if (code != SQLITE_ROW) {
                        r = fail(s, ret_error, "read");
                        break;
                }
                r = fn(userdata, &(struct store_row_event){.seq = (uint64_t)sqlite3_column_int64(st, 0),
                                         .removed = sqlite3_column_int(st, 1),
                                         .kind = column(st, 2),
                                         .uid = column(st, 3),
                                         .name = column(st, 4),
                                         .doc_text = column(st, 5)});
        }
        sqlite3_reset(st);
        return r;
}

static int op_trim_log(struct store *store, uint64_t keep, struct error **ret_error)
{
        struct store_sqlite *s = sqlite_of(store);
        sqlite3_stmt *st = fresh(s, TRIM);

        sqlite3_bind_int64(st, 1, (sqlite3_int64)keep);
        return run(s, st, "trim the log of", ret_error);
}

/* The state directory's lock has said already that nobody else leads. */
static int op_lead(struct store *store, const char *holder, const char *server,
        struct store_leader *ret_leader, struct error **ret_error)
{
        struct store_sqlite *s = sqlite_of(store);
        struct store_leader leader = {};
        int r;

        r = run(s, fresh(s, LEAD), "write to", ret_error);
        if (r >= 0)
                r = read_number(s, TERM, &leader.term, ret_error);
        if (r < 0)
                return r;
        snprintf(leader.server, sizeof(leader.server), "%s", server);
        *ret_leader = leader;
        return 0;
}

static int op_renew(struct store *store, struct error **ret_error)
{
        return 0;
}

static int read_counters(struct store_sqlite *s, struct store_counters *ret, struct error **ret_error)
{
        int r = read_number(s, REVISION, &ret->revision, ret_error);

        return r < 0 ? r : read_number(s, TERM, &ret->term, ret_error);
}

static int dump_objects(struct store_sqlite *s, const struct store_dump *dump, struct error **ret_error)
{
        sqlite3_stmt *st = fresh(s, ALL);
        int code, r = 0;

        while (r >= 0 && (code = sqlite3_step(st)) != SQLITE_DONE) {
                if (code != SQLITE_ROW) {
                        r = fail(s, ret_error, "read");
                        break;
                }
                r = dump->object(dump->userdata, &(struct store_object){.kind = column(st, 0),
                                                         .uid = column(st, 1),
                                                         .name = column(st, 2),
                                                         .revision = (uint64_t)sqlite3_column_int64(st, 3),
                                                         .doc_text = column(st, 4)});
        }
        sqlite3_reset(st);
        return r;
}

/* With a write-ahead log a transaction that only reads sees one moment, and holds nobody up. */
static int op_dump(struct store *store, const struct store_dump *dump, struct error **ret_error)
{
        struct store_sqlite *s = sqlite_of(store);
        struct store_counters counters = {};
        int r;

        r = execute(s, "BEGIN", "read", ret_error);
        if (r < 0)
                return r;
        r = read_counters(s, &counters, ret_error);
        if (r >= 0)
                r = dump->begin(dump->userdata, &counters);
        if (r >= 0)
                r = dump_objects(s, dump, ret_error);
        return end_transaction(s, r, ret_error);
}

static int set_number(struct store_sqlite *s, enum statement which, uint64_t value, struct error **ret_error)
{
        sqlite3_stmt *st = fresh(s, which);

        sqlite3_bind_int64(st, 1, (sqlite3_int64)value);
        return run(s, st, "write to", ret_error);
}

static int replace_objects(
        struct store_sqlite *s, const struct store_restore *restore, struct error **ret_error)
{
        struct store_object object;
        int r;

        r = run(s, fresh(s, CLEAR_OBJECTS), "write to", ret_error);
        if (r >= 0)
                r = run(s, fresh(s, CLEAR_LOG), "write to", ret_error);
        while (r >= 0 && (r = restore->next(restore->userdata, &object, ret_error)) > 0)
                r = put(s,
                        &(struct store_row_change){.kind = object.kind,
                                .uid = object.uid,
                                .name = object.name,
                                .doc_text = object.doc_text},
                        object.revision, ret_error);
        return r;
}

static int op_restore(struct store *store, const struct store_restore *restore, struct error **ret_error)
{
        struct store_sqlite *s = sqlite_of(store);
        struct store_counters before = {};
        int r;

        r = run(s, fresh(s, BEGIN), "lock", ret_error);
        if (r < 0)
                return r;
        r = read_counters(s, &before, ret_error);
        if (r >= 0)
                r = replace_objects(s, restore, ret_error);
        if (r >= 0)
                r = set_number(s, SET_REVISION, MAX(before.revision, restore->counters.revision), ret_error);
        if (r >= 0)
                r = set_number(s, SET_TERM, MAX(before.term, restore->counters.term), ret_error);
        return end_transaction(s, r, ret_error);
}

static void op_close(struct store *store)
{
        struct store_sqlite *s = sqlite_of(store);

        for (size_t i = 0; i < N_STATEMENTS; i++)
                sqlite3_finalize(s->statements[i]);
        sqlite3_close(s->db);
        free(s);
}

static const struct store_ops sqlite_ops = {
        .get = op_get,
        .list = op_list,
        .commit = op_commit,
        .revision = op_revision,
        .changes = op_changes,
        .trim_log = op_trim_log,
        .lead = op_lead,
        .renew = op_renew,
        .resign = op_renew, /* nor is there anybody to hand over to */
        .dump = op_dump,
        .restore = op_restore,
        .close = op_close,
};

static int schema_version(struct store_sqlite *s, size_t *ret_version, struct error **ret_error)
{
        sqlite3_stmt *st;

        if (sqlite3_prepare_v2(s->db, "PRAGMA user_version", -1, &st, NULL) != SQLITE_OK)
                return fail(s, ret_error, "read the version of");
        if (sqlite3_step(st) != SQLITE_ROW) {
                sqlite3_finalize(st);
                return fail(s, ret_error, "read the version of");
        }
        *ret_version = (size_t)sqlite3_column_int(st, 0);
        sqlite3_finalize(st);
        return 0;
}

static int migrate(struct store_sqlite *s, struct error **ret_error)
{
        size_t version = 0;
        char sql[64];
        int r;

        r = schema_version(s, &version, ret_error);
        if (r < 0)
                return r;
        if (version > ARRAY_SIZE(migrations))
                return store_newer_schema(version, ARRAY_SIZE(migrations), ret_error);
        for (; r >= 0 && version < ARRAY_SIZE(migrations); version++) {
                snprintf(sql, sizeof(sql), "PRAGMA user_version = %zu", version + 1);
                r = execute(s, "BEGIN IMMEDIATE", "lock", ret_error);
                if (r >= 0)
                        r = execute(s, migrations[version], "migrate", ret_error);
                if (r >= 0)
                        r = execute(s, sql, "migrate", ret_error);
                if (r >= 0)
                        r = execute(s, "COMMIT", "migrate", ret_error);
        }
        return r;
}

int store_open_sqlite(const char *path, struct store **ret_store, struct error **ret_error)
{
        struct store_sqlite *s = ALLOC(struct store_sqlite);
        int r;

        if (!s)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        s->store.ops = &sqlite_ops;
        if (sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                    NULL) != SQLITE_OK)
                r = error_set(ret_error, ERROR_INTERNAL,
                        "Check that the state directory exists and is writable.",
                        "cannot open the store %s: %s", path,
                        s->db ? sqlite3_errmsg(s->db) : "out of memory");
        else
                r = sqlite3_busy_timeout(s->db, BUSY_TIMEOUT_MS) == SQLITE_OK ? 0 : -EIO;
        if (r >= 0)
                r = execute(s,
                        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; "
                        "PRAGMA cache_size = -" CACHE_KIB ";",
                        "set up", ret_error);
        if (r >= 0)
                r = migrate(s, ret_error);
        if (r >= 0)
                r = prepare(s, ret_error);
        if (r < 0) {
                op_close(&s->store);
                return r;
        }
        *ret_store = &s->store;
        return 0;
}
