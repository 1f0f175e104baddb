/* SPDX-License-Identifier: Apache-2.0 */

/* The store on PostgreSQL, for several managers over one database; docs/decisions/0015 says why it is as it is.
 *
 * A transaction is one statement, a call of drover.commit_changes(): no connection that stops in the middle leaves one open, and
 * one round trip carries it. It locks the only row of drover.state first, so that writers queue up, revisions have no gaps and
 * a reader of the change log never sees a number before a smaller one. That row also says who leads (docs/decisions/0016): each
 * transaction of a leader names its term, and is refused when the row has a later one. */

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/text.h"
#include "manager/pg_link.h"
#include "manager/store_backend.h"

#define PAGE_ROWS 256
#define PARAMETERS_MAX_BYTES (64u << 20) /* of one transaction */
#define NUMBER_SIZE 24
#define TRIM_ROWS 20000 /* by one call, whose time is bounded */

/* Entry N takes the schema from version N to N + 1. Never change one that was released; add the next. */
static const char *const migrations[] = {
        "CREATE SCHEMA IF NOT EXISTS drover;"
        "CREATE TABLE drover.state (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),"
        " version integer NOT NULL, revision bigint NOT NULL DEFAULT 0, term bigint NOT NULL DEFAULT 0,"
        " beat bigint NOT NULL DEFAULT 0, holder text NOT NULL DEFAULT '', server text NOT NULL DEFAULT '')"
        " WITH (fillfactor = 10);"
        "INSERT INTO drover.state (version) VALUES (0);"
        "CREATE TABLE drover.object (kind text COLLATE \"C\" NOT NULL, uid text COLLATE \"C\" NOT NULL,"
        " name text COLLATE \"C\" NOT NULL, revision bigint NOT NULL, doc text NOT NULL,"
        " PRIMARY KEY (kind, uid), UNIQUE (kind, name));"
        "CREATE TABLE drover.change_log (seq bigint PRIMARY KEY, removed boolean NOT NULL, kind text NOT "
        "NULL,"
        " uid text NOT NULL, name text NOT NULL, doc text);"
        /* SQLSTATE DR001: another manager leads (DETAIL: its name). DR002: an expectation does not hold (MESSAGE: which
         * change, from 1; DETAIL: the object's revision). DR003: the name of that change is taken. */
        "CREATE FUNCTION drover.commit_changes(my_term bigint, removes boolean[], kinds text[], uids text[],"
        " names text[], expects bigint[], docs text[]) RETURNS bigint LANGUAGE plpgsql AS $$\n"
        "DECLARE s drover.state; old drover.object; at bigint;\n"
        "BEGIN\n"
        "  SELECT * INTO STRICT s FROM drover.state FOR UPDATE;\n"
        "  IF my_term <> s.term THEN\n"
        "    RAISE EXCEPTION USING ERRCODE = 'DR001', MESSAGE = s.term::text, DETAIL = s.server;\n"
        "  END IF;\n"
        "  at := s.revision;\n"
        "  FOR i IN 1 .. cardinality(kinds) LOOP\n"
        "    SELECT * INTO old FROM drover.object o WHERE o.kind = kinds[i] AND o.uid = uids[i];\n"
        "    IF expects[i] <> coalesce(old.revision, 0) THEN\n"
        "      RAISE EXCEPTION USING ERRCODE = 'DR002', MESSAGE = i::text, DETAIL = coalesce(old.revision, "
        "0)::text;\n"
        "    END IF;\n"
        "    CONTINUE WHEN removes[i] AND old.revision IS NULL;\n"
        "    IF NOT removes[i] AND EXISTS (SELECT FROM drover.object o WHERE o.kind = kinds[i]"
        " AND o.name = names[i] AND o.uid <> uids[i]) THEN\n"
        "      RAISE EXCEPTION USING ERRCODE = 'DR003', MESSAGE = i::text;\n"
        "    END IF;\n"
        "    at := at + 1;\n"
        "    INSERT INTO drover.change_log VALUES (at, removes[i], kinds[i], uids[i],"
        " CASE WHEN removes[i] THEN old.name ELSE names[i] END, docs[i]);\n"
        "    IF removes[i] THEN\n"
        "      DELETE FROM drover.object o WHERE o.kind = kinds[i] AND o.uid = uids[i];\n"
        "    ELSE\n"
        "      INSERT INTO drover.object VALUES (kinds[i], uids[i], names[i], at, docs[i]) ON CONFLICT "
        "(kind, uid)"
        " DO UPDATE SET name = excluded.name, revision = excluded.revision, doc = excluded.doc;\n"
        "    END IF;\n"
        "  END LOOP;\n"
        "  IF at > s.revision THEN UPDATE drover.state SET revision = at; END IF;\n"
        "  RETURN at;\n"
        "END $$;",
        /* The change log keeps what was removed: who may see an object may see that it went. */
        "DO $do$\n"
        "DECLARE before text := pg_get_functiondef('drover.commit_changes(bigint, boolean[], text[], text[], "
        "text[], "
        "bigint[], text[])'::regprocedure);\n"
        "  after text := replace(before, 'ELSE names[i] END, docs[i])',"
        " 'ELSE names[i] END, CASE WHEN removes[i] THEN old.doc ELSE docs[i] END)');\n"
        "BEGIN\n"
        "  IF after = before THEN RAISE EXCEPTION 'drover.commit_changes() is not the one of version 1'; END "
        "IF;\n"
        "  EXECUTE after;\n"
        "END $do$;",
};

struct store_postgresql {
        struct store store;
        struct pg_link *link;
        const struct clock *clock;
        uint64_t term;     /* that this process leads, or did; 0: none */
        bool lost;         /* it does not any more */
        uint64_t shown_ms; /* when it showed itself last */
        /* What the leader was seen to do last, and when: silence is measured on our own clock. */
        uint64_t seen_term, seen_beat, seen_ms;
        bool seen;
};

static struct store_postgresql *postgresql_of(struct store *store)
{
        return CONTAINER_OF(store, struct store_postgresql, store);
}

static const char *number(uint64_t value, char ret[static NUMBER_SIZE])
{
        snprintf(ret, NUMBER_SIZE, "%" PRIu64, value);
        return ret;
}

static uint64_t column_u64(const PGresult *result, int row, int column)
{
        uint64_t value = 0;

        (void)text_parse_u64(PQgetvalue(result, row, column), 0, INT64_MAX, &value);
        return value;
}

/* A statement that changes nothing, hence can be repeated when the connection ended under it. 0 with *ret_result the
 * caller's. */
static int query(struct store_postgresql *s, const char *sql, const char *const *params, size_t n_params,
        PGresult **ret_result, struct error **ret_error)
{
        _cleanup_error_ struct error *first = NULL;
        int r = pg_link_run(s->link, sql, params, n_params, ret_result, &first);

        if (r == PG_LINK_UNKNOWN)
                r = pg_link_run(s->link, sql, params, n_params, ret_result, ret_error);
        else if (r < 0)
                return error_propagate(ret_error, TAKE_PTR(first));
        return r > 0 ? -EHOSTUNREACH : r;
}

static int op_get(struct store *store, const char *kind, const char *name_or_uid, store_row_fn fn,
        void *userdata, struct error **ret_error)
{
        struct store_postgresql *s = postgresql_of(store);
        _cleanup_result_ PGresult *result = NULL;
        int r;

        r = query(s,
                "SELECT name, revision, doc FROM drover.object WHERE kind = $1 AND (uid = $2 OR name = $2) "
                "ORDER BY uid = $2 DESC LIMIT 1",
                (const char *const[]){kind, name_or_uid}, 2, &result, ret_error);
        if (r < 0)
                return r;
        if (!PQntuples(result))
                return -ENOENT;
        r = fn(userdata, PQgetvalue(result, 0, 0), column_u64(result, 0, 1), PQgetvalue(result, 0, 2));
        return r < 0 ? error_from_errno(ret_error, r, "cannot read %s %.64s", kind, name_or_uid) : r;
}

static int op_renew(struct store *store, struct error **ret_error);

/* One page of a listing. *after is replaced by the last name; *ret_full says whether there may be more. */
static int list_page(struct store_postgresql *s, const char *kind, bool descending, char **after,
        store_row_fn fn, void *userdata, bool *ret_full, struct error **ret_error)
{
        _cleanup_result_ PGresult *result = NULL;
        char rows[NUMBER_SIZE];
        int n, r;

        r = query(s,
                descending ? "SELECT name, revision, doc FROM drover.object WHERE kind = $1 AND ($2 = '' OR "
                             "name < $2) "
                             "ORDER BY name DESC LIMIT $3::bigint"
                           : "SELECT name, revision, doc FROM drover.object WHERE kind = $1 AND name > $2 "
                             "ORDER BY name LIMIT $3::bigint",
                (const char *const[]){kind, *after, number(PAGE_ROWS, rows)}, 3, &result, ret_error);
        if (r < 0)
                return r;
        n = PQntuples(result);
        for (int i = 0; i < n && r == 0; i++)
                r = fn(userdata, PQgetvalue(result, i, 0), column_u64(result, i, 1),
                        PQgetvalue(result, i, 2));
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot list objects of kind %s", kind);
        *ret_full = r == 0 && n == PAGE_ROWS;
        if (*ret_full && alloc_replace(after, PQgetvalue(result, n - 1, 0)) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return 0;
}

/* What a new leader loads may take longer than its lease. */
static void show_oneself(struct store_postgresql *s)
{
        if (s->term && !s->lost && clock_now_ms(s->clock) - s->shown_ms >= STORE_BEAT_MS)
                (void)op_renew(&s->store, NULL); /* leadership.c finds out soon enough */
}

static int op_list(struct store *store, const char *kind, const char *after, bool descending, store_row_fn fn,
        void *userdata, struct error **ret_error)
{
        _cleanup_free_ char *last = alloc_strdup(after ?: "");
        bool more = true;
        int r = last ? 0 : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");

        while (r >= 0 && more) {
                r = list_page(postgresql_of(store), kind, descending, &last, fn, userdata, &more, ret_error);
                if (r >= 0 && more)
                        show_oneself(postgresql_of(store));
        }
        return r;
}

/* --- Transactions -------------------------------------------------------------------------------------------------- */

/* The array parameters of drover.commit_changes(), as texts. */
enum array { REMOVES, KINDS, UIDS, NAMES, EXPECTS, DOCS, N_ARRAYS };

/* An item of an array in its text form (PostgreSQL documentation, section 8.15.6); NULL is null. */
static int add_item(struct buf *array, const char *text)
{
        int r = buf_append_string(array, array->len ? "," : "{");

        if (!text)
                return r < 0 ? r : buf_append_string(array, "NULL");
        if (r >= 0)
                r = buf_append_string(array, "\"");
        while (r >= 0 && *text) {
                size_t plain = strcspn(text, "\"\\");

                r = buf_append(array, text, plain);
                text += plain;
                if (r >= 0 && *text)
                        r = buf_append(array, (char[]){'\\', *text++}, 2);
        }
        return r < 0 ? r : buf_append_string(array, "\"");
}

static int add_change(struct buf *arrays, const struct store_row_change *change)
{
        char expected[NUMBER_SIZE];
        const char *const items[N_ARRAYS] = {
                [REMOVES] = change->remove ? "t" : "f",
                [KINDS] = change->kind,
                [UIDS] = change->uid,
                [NAMES] = change->remove ? NULL : change->name,
                [EXPECTS] = change->expected == STORE_ANY ? NULL : number(change->expected, expected),
                [DOCS] = change->remove ? NULL : change->doc_text,
        };
        int r = 0;

        for (size_t i = 0; r >= 0 && i < N_ARRAYS; i++)
                r = add_item(&arrays[i], items[i]);
        return r;
}

/* This process leads no longer. */
static void lose(struct store_postgresql *s)
{
        if (!s->term || s->lost)
                return;
        s->lost = true;
        if (s->store.on_lost)
                s->store.on_lost(s->store.on_lost_userdata);
}

static int another_leads(const char *server, struct error **ret_error)
{
        if (!server || !*server)
                return error_set(ret_error, ERROR_STALE_EPOCH, "Ask the manager that leads.",
                        "another manager leads now");
        return error_set(ret_error, ERROR_STALE_EPOCH, "Ask the manager that leads.",
                "another manager leads now: %s", server);
}

/* What the function has raised. */
static int explain(struct store_postgresql *s, const PGresult *result, const struct store_row_change *changes,
        size_t n_changes, struct error **ret_error)
{
        const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE),
                   *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
        uint64_t which = 1, revision = 0;

        if (!strcmp(state, "DR001")) {
                lose(s);
                return another_leads(detail, ret_error);
        }
        if (text_parse_u64(PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY), 1, n_changes, &which) < 0)
                return error_set(ret_error, ERROR_INTERNAL, NULL, "the store's answer makes no sense: %s",
                        PQresultErrorMessage(result));
        if (!strcmp(state, "DR003"))
                return store_name_taken(&changes[which - 1], ret_error);
        (void)text_parse_u64(detail ?: "", 0, INT64_MAX, &revision);
        return store_stale(&changes[which - 1], revision, ret_error);
}

static int call_commit(struct store_postgresql *s, struct buf *arrays, const struct store_row_change *changes,
        size_t n_changes, uint64_t *ret_revision, struct error **ret_error)
{
        _cleanup_result_ PGresult *result = NULL;
        const char *params[N_ARRAYS + 1];
        char term[NUMBER_SIZE];
        int r;

        params[0] = s->term ? number(s->term, term) : NULL;
        for (size_t i = 0; i < N_ARRAYS; i++)
                params[i + 1] = n_changes ? buf_string(&arrays[i]) : "{}";
        r = pg_link_run(s->link,
                "SELECT drover.commit_changes($1::bigint, $2::boolean[], $3::text[], $4::text[], $5::text[], "
                "$6::bigint[], $7::text[])",
                params, ARRAY_SIZE(params), &result, ret_error);
        if (r == PG_LINK_REFUSED)
                return explain(s, result, changes, n_changes, ret_error);
        if (r == PG_LINK_UNKNOWN) {
                lose(s);
                return error_set(ret_error, ERROR_UNREACHABLE, "See what has changed before you try again.",
                        "it is not known whether the change was carried out: the connection to the store %s "
                        "was lost",
                        pg_link_name(s->link));
        }
        if (r >= 0)
                *ret_revision = column_u64(result, 0, 0);
        return r;
}

static int op_commit(struct store *store, const struct store_row_change *changes, size_t n_changes,
        uint64_t *ret_revision, struct error **ret_error)
{
        struct store_postgresql *s = postgresql_of(store);
        struct buf arrays[N_ARRAYS];
        int r = 0;

        if (s->lost)
                return error_set(ret_error, ERROR_STALE_EPOCH, "Try again.", "this manager leads no longer");
        for (size_t i = 0; i < N_ARRAYS; i++)
                buf_init(&arrays[i], PARAMETERS_MAX_BYTES);
        for (size_t i = 0; r >= 0 && i < n_changes; i++)
                r = add_change(arrays, &changes[i]);
        for (size_t i = 0; r >= 0 && i < N_ARRAYS; i++)
                r = buf_append_string(&arrays[i], "}");
        if (r < 0)
                error_from_errno(ret_error, r, "cannot put the transaction together");
        else
                r = call_commit(s, arrays, changes, n_changes, ret_revision, ret_error);
        for (size_t i = 0; i < N_ARRAYS; i++)
                buf_deinit(&arrays[i]);
        return r;
}

/* --- Change log ---------------------------------------------------------------------------------------------------- */

static int query_number(struct store_postgresql *s, const char *sql, uint64_t *ret, struct error **ret_error)
{
        _cleanup_result_ PGresult *result = NULL;
        int r = query(s, sql, NULL, 0, &result, ret_error);

        if (r >= 0 && PQntuples(result) != 1)
                r = error_set(ret_error, ERROR_INTERNAL, "Restore a backup.",
                        "the store %s has lost its table drover.state", pg_link_name(s->link));
        if (r >= 0)
                *ret = column_u64(result, 0, 0);
        return r;
}

static int op_revision(struct store *store, uint64_t *ret_revision, struct error **ret_error)
{
        return query_number(
                postgresql_of(store), "SELECT revision FROM drover.state", ret_revision, ret_error);
}

/* One statement for the bounds of the log and what is in it: many watchers ask, after each change. */
static int op_changes(struct store *store, uint64_t after, size_t limit,
        int (*fn)(void *userdata, const struct store_row_event *event), void *userdata,
        struct error **ret_error)
{
        _cleanup_result_ PGresult *result = NULL;
        char from[NUMBER_SIZE], rows[NUMBER_SIZE];
        int r;

        r = query(postgresql_of(store),
                "SELECT s.revision, coalesce((SELECT min(seq) FROM drover.change_log), s.revision + 1), "
                "l.seq, "
                "l.removed, l.kind, l.uid, l.name, l.doc FROM drover.state s LEFT JOIN LATERAL (SELECT * "
                "FROM "
                "drover.change_log WHERE seq > $1::bigint ORDER BY seq LIMIT $2::bigint) l ON true ORDER BY "
                "l.seq",
                (const char *const[]){number(after, from), number(MIN(limit, (size_t)INT32_MAX), rows)}, 2,
                &result, ret_error);
        if (r >= 0 && PQntuples(result))
                r = store_check_log(after, column_u64(result, 0, 1), column_u64(result, 0, 0), ret_error);
        for (int i = 0; r == 0 && i < PQntuples(result) && !PQgetisnull(result, i, 2); i++)
                r = fn(userdata,
                        &(struct store_row_event){.seq = column_u64(result, i, 2),
                                .removed = *PQgetvalue(result, i, 3) == 't',
                                .kind = PQgetvalue(result, i, 4),
                                .uid = PQgetvalue(result, i, 5),
                                .name = PQgetvalue(result, i, 6),
                                .doc_text = PQgetisnull(result, i, 7) ? NULL : PQgetvalue(result, i, 7)});
        return r;
}

static int op_trim_log(struct store *store, uint64_t keep, struct error **ret_error)
{
        struct store_postgresql *s = postgresql_of(store);
        _cleanup_result_ PGresult *result = NULL;
        char kept[NUMBER_SIZE], term[NUMBER_SIZE], rows[NUMBER_SIZE];

        /* What another leader has in its log is its business. Repeated it does the same. */
        return query(s,
                "DELETE FROM drover.change_log WHERE seq IN (SELECT l.seq FROM drover.change_log l, "
                "drover.state "
                "s "
                "WHERE l.seq <= s.revision - $1::bigint AND coalesce($2::bigint, s.term) = s.term "
                "ORDER BY l.seq LIMIT $3::bigint)",
                (const char *const[]){
                        number(keep, kept), s->term ? number(s->term, term) : NULL, number(TRIM_ROWS, rows)},
                3, &result, ret_error);
}

/* --- Schema ------------------------------------------------------------------------------------------------------- */

/* Ends what pg_link_begin() began: keeps it when r is 0 or more. */
static int end_transaction(struct store_postgresql *s, int r, struct error **ret_error)
{
        if (r >= 0)
                return pg_link_end(s->link, "COMMIT", ret_error);
        (void)pg_link_end(s->link, "ROLLBACK", NULL);
        return r;
}

static int schema_version(struct store_postgresql *s, uint64_t *ret_version, struct error **ret_error)
{
        uint64_t there = 0;
        int r;

        /* Not to_regclass(): that may answer from what this session remembers of before another one made the schema. */
        r = query_number(s,
                "SELECT count(*) FROM pg_catalog.pg_tables WHERE schemaname = 'drover' AND tablename = "
                "'state'",
                &there, ret_error);
        if (r < 0)
                return r;
        if (there)
                return query_number(s, "SELECT version FROM drover.state", ret_version, ret_error);
        *ret_version = 0;
        return 0;
}

/* One version further, in one transaction. Managers that start at the same time take turns. */
static int migrate_from(struct store_postgresql *s, uint64_t version, struct error **ret_error)
{
        _cleanup_free_ char *done = alloc_printf("UPDATE drover.state SET version = %" PRIu64, version + 1);
        uint64_t now = 0;
        int r;

        if (!done)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = pg_link_begin(s->link,
                "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'; "
                "SELECT pg_advisory_xact_lock(hashtext('drover schema'))",
                ret_error);
        if (r < 0)
                return r;
        r = schema_version(s, &now, ret_error);
        if (r >= 0 && now == version)
                r = pg_link_script(s->link, migrations[version], ret_error);
        if (r >= 0 && now == version)
                r = pg_link_script(s->link, done, ret_error);
        return end_transaction(s, r, ret_error);
}

static int migrate(struct store_postgresql *s, struct error **ret_error)
{
        uint64_t version = 0;
        int r;

        r = schema_version(s, &version, ret_error);
        for (; r >= 0 && version < ARRAY_SIZE(migrations); version++)
                r = migrate_from(s, version, ret_error);
        return r;
}

/* A new database gets its schema at once, also from whoever will not lead. One of an earlier version is left to those that know it,
 * which may have a leader, until a manager of this version leads. */
static int open_schema(struct store_postgresql *s, struct error **ret_error)
{
        uint64_t version = 0;
        int r = schema_version(s, &version, ret_error);

        if (r >= 0 && version > ARRAY_SIZE(migrations))
                r = store_newer_schema(version, ARRAY_SIZE(migrations), ret_error);
        return r < 0 || version ? r : migrate(s, ret_error);
}

static int check_schema(struct store_postgresql *s, struct error **ret_error)
{
        uint64_t version = 0;
        int r = schema_version(s, &version, ret_error);

        if (r >= 0 && version > ARRAY_SIZE(migrations))
                r = store_newer_schema(version, ARRAY_SIZE(migrations), ret_error);
        if (r >= 0 && version < ARRAY_SIZE(migrations))
                r = error_set(ret_error, ERROR_CONFLICT,
                        "Use the drover-manager of the version that leads, or let one of this version lead "
                        "first.",
                        "the store %s has version %" PRIu64 " of the schema, and this program needs %zu",
                        pg_link_name(s->link), version, ARRAY_SIZE(migrations));
        return r;
}

/* --- Leadership ---------------------------------------------------------------------------------------------------- */

/* Whether the leader that the row names may be replaced: it has resigned, it was an earlier process of this installation, or it
 * has not moved for a lease, as measured here. Clocks of other machines have no say. */
static bool may_replace(struct store_postgresql *s, uint64_t term, uint64_t beat, bool same_holder)
{
        uint64_t now = clock_now_ms(s->clock);
        bool first = !s->seen;

        if (first || term != s->seen_term || beat != s->seen_beat) {
                s->seen = true;
                s->seen_term = term;
                s->seen_beat = beat;
                s->seen_ms = now;
        }
        return !beat || (first && same_holder) || now - s->seen_ms >= STORE_LEASE_MS;
}

static int take_lead(struct store_postgresql *s, const PGresult *before, const char *holder,
        const char *server, uint64_t *ret_term, struct error **ret_error)
{
        _cleanup_result_ PGresult *result = NULL;
        int r;

        r = pg_link_run(s->link,
                "UPDATE drover.state SET term = term + 1, beat = 1, holder = $3, server = $4 "
                "WHERE term = $1::bigint AND beat = $2::bigint RETURNING term",
                (const char *const[]){PQgetvalue(before, 0, 0), PQgetvalue(before, 0, 1), holder, server}, 4,
                &result, ret_error);
        if (r)
                return r < 0 ? r : -EHOSTUNREACH;
        if (!PQntuples(result))
                return 1; /* it has moved, or another one was faster */
        *ret_term = column_u64(result, 0, 0);
        return 0;
}

static int op_lead(struct store *store, const char *holder, const char *server,
        struct store_leader *ret_leader, struct error **ret_error)
{
        struct store_postgresql *s = postgresql_of(store);
        _cleanup_result_ PGresult *result = NULL;
        struct store_leader leader = {};
        int r;

        r = query(s, "SELECT term, beat, holder, server, version FROM drover.state", NULL, 0, &result,
                ret_error);
        if (r >= 0 && PQntuples(result) != 1)
                r = error_set(ret_error, ERROR_INTERNAL, "Restore a backup.",
                        "the store %s has lost its table drover.state", pg_link_name(s->link));
        /* A newer version may have led meanwhile. */
        if (r >= 0 && column_u64(result, 0, 4) > ARRAY_SIZE(migrations))
                r = store_newer_schema(column_u64(result, 0, 4), ARRAY_SIZE(migrations), ret_error);
        if (r < 0)
                return r;
        leader.term = column_u64(result, 0, 0);
        snprintf(leader.server, sizeof(leader.server), "%s", PQgetvalue(result, 0, 3));
        r = 1;
        if (may_replace(s, leader.term, column_u64(result, 0, 1), !strcmp(PQgetvalue(result, 0, 2), holder)))
                r = take_lead(s, result, holder, server, &leader.term, ret_error);
        if (r == 0) {
                s->term = leader.term;
                s->lost = false;
                s->shown_ms = clock_now_ms(s->clock);
                snprintf(leader.server, sizeof(leader.server), "%s", server);
                r = migrate(s, ret_error); /* nobody of an earlier version writes any more */
        }
        if (r >= 0)
                *ret_leader = leader;
        return r;
}

static int op_renew(struct store *store, struct error **ret_error)
{
        struct store_postgresql *s = postgresql_of(store);
        _cleanup_result_ PGresult *result = NULL;
        char term[NUMBER_SIZE];
        int r;

        r = query(s, "UPDATE drover.state SET beat = beat + 1 WHERE term = $1::bigint RETURNING beat",
                (const char *const[]){number(s->term, term)}, 1, &result, ret_error);
        if (r >= 0)
                s->shown_ms = clock_now_ms(s->clock);
        if (r < 0 || PQntuples(result))
                return r;
        lose(s);
        return another_leads(NULL, ret_error);
}

static int op_resign(struct store *store, struct error **ret_error)
{
        struct store_postgresql *s = postgresql_of(store);
        _cleanup_result_ PGresult *result = NULL;
        char term[NUMBER_SIZE];
        int r = query(s,
                "UPDATE drover.state SET beat = 0, holder = '' WHERE term = $1::bigint RETURNING beat",
                (const char *const[]){number(s->term, term)}, 1, &result, ret_error);

        return r < 0 ? r : !PQntuples(result);
}

/* --- The whole store ----------------------------------------------------------------------------------------------- */

static int read_counters(
        struct store_postgresql *s, const char *sql, struct store_counters *ret, struct error **ret_error)
{
        _cleanup_result_ PGresult *result = NULL;
        int r = query(s, sql, NULL, 0, &result, ret_error);

        if (r < 0)
                return r;
        if (PQntuples(result) != 1)
                return error_set(ret_error, ERROR_INTERNAL, "Restore a backup.",
                        "the store %s has lost its table drover.state", pg_link_name(s->link));
        *ret = (struct store_counters){column_u64(result, 0, 0), column_u64(result, 0, 1)};
        return 0;
}

/* Objects after (kind, uid), in this order; both are replaced by the last ones. Returns how many, or negative. */
static int dump_page(struct store_postgresql *s, const struct store_dump *dump, char **kind, char **uid,
        struct error **ret_error)
{
        _cleanup_result_ PGresult *result = NULL;
        char rows[NUMBER_SIZE];
        int n, r;

        r = query(s,
                "SELECT kind, uid, name, revision, doc FROM drover.object WHERE (kind, uid) > ($1, $2) "
                "ORDER BY kind, uid LIMIT $3::bigint",
                (const char *const[]){*kind, *uid, number(PAGE_ROWS, rows)}, 3, &result, ret_error);
        if (r < 0)
                return r;
        n = PQntuples(result);
        for (int i = 0; i < n && r >= 0; i++)
                r = dump->object(dump->userdata, &(struct store_object){.kind = PQgetvalue(result, i, 0),
                                                         .uid = PQgetvalue(result, i, 1),
                                                         .name = PQgetvalue(result, i, 2),
                                                         .revision = column_u64(result, i, 3),
                                                         .doc_text = PQgetvalue(result, i, 4)});
        if (r >= 0 && n &&
                (alloc_replace(kind, PQgetvalue(result, n - 1, 0)) < 0 ||
                        alloc_replace(uid, PQgetvalue(result, n - 1, 1)) < 0))
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return r < 0 ? r : n;
}

static int op_dump(struct store *store, const struct store_dump *dump, struct error **ret_error)
{
        struct store_postgresql *s = postgresql_of(store);
        _cleanup_free_ char *kind = alloc_strdup(""), *uid = alloc_strdup("");
        struct store_counters counters = {};
        int r;

        if (!kind || !uid)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = pg_link_begin(s->link,
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0; "
                "SET LOCAL idle_in_transaction_session_timeout = 0",
                ret_error);
        if (r < 0)
                return r;
        r = check_schema(s, ret_error);
        if (r >= 0)
                r = read_counters(s, "SELECT revision, term FROM drover.state", &counters, ret_error);
        if (r >= 0)
                r = dump->begin(dump->userdata, &counters);
        while (r >= 0 && (r = dump_page(s, dump, &kind, &uid, ret_error)) > 0)
                ;
        return end_transaction(s, r, ret_error);
}

static int insert_object(
        struct store_postgresql *s, const struct store_object *object, struct error **ret_error)
{
        _cleanup_result_ PGresult *result = NULL;
        char revision[NUMBER_SIZE];

        return query(s, "INSERT INTO drover.object VALUES ($1, $2, $3, $4::bigint, $5)",
                (const char *const[]){object->kind, object->uid, object->name,
                        number(object->revision, revision), object->doc_text},
                5, &result, ret_error);
}

static int set_counters(
        struct store_postgresql *s, const struct store_counters *counters, struct error **ret_error)
{
        _cleanup_result_ PGresult *result = NULL;
        char revision[NUMBER_SIZE], term[NUMBER_SIZE];

        return query(s, "UPDATE drover.state SET revision = $1::bigint, term = $2::bigint",
                (const char *const[]){number(counters->revision, revision), number(counters->term, term)}, 2,
                &result, ret_error);
}

static int replace_all(
        struct store_postgresql *s, const struct store_restore *restore, struct error **ret_error)
{
        struct store_counters counters = {};
        struct store_object object;
        int r;

        r = check_schema(s, ret_error);
        /* From here on nobody else writes. */
        if (r >= 0)
                r = read_counters(
                        s, "SELECT revision, term FROM drover.state FOR UPDATE", &counters, ret_error);
        if (r >= 0 && s->term && counters.term != s->term)
                r = another_leads(NULL, ret_error);
        if (r >= 0)
                r = pg_link_script(
                        s->link, "DELETE FROM drover.object; DELETE FROM drover.change_log", ret_error);
        while (r >= 0 && (r = restore->next(restore->userdata, &object, ret_error)) > 0)
                r = insert_object(s, &object, ret_error);
        counters.revision = MAX(counters.revision, restore->counters.revision);
        counters.term = MAX(counters.term, restore->counters.term);
        if (r >= 0)
                r = set_counters(s, &counters, ret_error);
        if (r >= 0)
                s->term = s->term ? counters.term : 0;
        return r;
}

static int op_restore(struct store *store, const struct store_restore *restore, struct error **ret_error)
{
        struct store_postgresql *s = postgresql_of(store);
        uint64_t term = s->term;
        int r;

        r = pg_link_begin(s->link,
                "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0",
                ret_error);
        if (r < 0)
                return r;
        r = end_transaction(s, replace_all(s, restore, ret_error), ret_error);
        if (r < 0)
                s->term = term;
        return r;
}

/* --- Opening ------------------------------------------------------------------------------------------------------- */

static void op_close(struct store *store)
{
        struct store_postgresql *s = postgresql_of(store);

        pg_link_free(s->link);
        free(s);
}

static const struct store_ops postgresql_ops = {
        .get = op_get,
        .list = op_list,
        .commit = op_commit,
        .revision = op_revision,
        .changes = op_changes,
        .trim_log = op_trim_log,
        .lead = op_lead,
        .renew = op_renew,
        .resign = op_resign,
        .dump = op_dump,
        .restore = op_restore,
        .close = op_close,
};

int store_open_postgresql(
        const char *url, const struct clock *clock, struct store **ret_store, struct error **ret_error)
{
        struct store_postgresql *s = ALLOC(struct store_postgresql);
        int r;

        if (!s)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        s->store.ops = &postgresql_ops;
        s->clock = clock;
        r = pg_link_new(url, clock, &s->link, ret_error);
        if (r >= 0)
                r = open_schema(s, ret_error);
        if (r < 0) {
                op_close(&s->store);
                return r;
        }
        *ret_store = &s->store;
        return 0;
}
