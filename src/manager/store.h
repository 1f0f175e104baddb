/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the manager remembers: JSON documents by kind, with revisions, transactions and a change log. One interface;
 * the backends (store_sqlite.c, store_postgresql.c) stand behind struct store_ops in store_backend.h, and one conformance
 * suite (tests/unit/manager/test_store.c) says how each has to behave.
 *
 * Each change takes the next number of one sequence; it is the changed object's revision, the key of the change
 * log and the event id that API clients resume from. Numbers only grow, also after everything is deleted. */

#include <jansson.h>

#include "base/clock.h"
#include "base/error.h"

struct store;

#define STORE_ABSENT UINT64_C(0)      /* expected revision: the object must not exist */
#define STORE_ANY UINT64_MAX          /* whatever is there, if anything */
#define STORE_LIMIT_NONE SIZE_MAX     /* for lists that are bounded by what they list */
#define STORE_DOCUMENT_MAX (4u << 20) /* bytes of one document */

/* Opens (and creates, and migrates) the store: "sqlite:PATH", or the URL of a PostgreSQL database ("postgresql://..."). One that a
 * newer program has migrated is refused. `clock` is borrowed. */
int store_open(
        const char *where, const struct clock *clock, struct store **ret_store, struct error **ret_error);
int store_open_sqlite(const char *path, struct store **ret_store, struct error **ret_error);
int store_open_postgresql(
        const char *url, const struct clock *clock, struct store **ret_store, struct error **ret_error);
/* BAD_DOCUMENT when it is neither of the two. */
int store_check_place(const char *where, struct error **ret_error);
void store_close(struct store *store);
DEFINE_CLEANUP(struct store *, store_close)

/* Gets one object by uid or by name. *ret_doc is the caller's and has the current `revision` set. -ENOENT (and
 * NOT_FOUND naming it) if there is none. */
int store_get(struct store *store, const char *kind, const char *name_or_uid, json_t **ret_doc,
        struct error **ret_error);

struct store_query {
        const char *kind;
        const char *after;  /* continue after this name; NULL: from the start */
        const char *prefix; /* only names that begin with it and are longer; NULL: all. Ascending only */
        bool descending;
        size_t limit;
        /* Skips, like `match` but before it is parsed, each one whose JSON (compact, as it was put) does not have this in it; may be NULL. A
         * document of 20 KB is looked through in a hundredth of the time that it takes to be parsed. */
        const char *text;
        /* Objects for which it is false are skipped and do not count; may be NULL. */
        bool (*match)(void *userdata, const json_t *doc);
        void *userdata;
};
/* Array of documents by name, the caller's. *ret_more (may be NULL): there are more after the last one. */
int store_list(struct store *store, const struct store_query *query, json_t **ret_docs, bool *ret_more,
        struct error **ret_error);
/* How many there are, up to the query's limit. Without `match` no document is looked into. */
int store_count(
        struct store *store, const struct store_query *query, size_t *ret_n, struct error **ret_error);

/* A transaction being put together. Without memory it remembers that, and the commit fails. */
struct store_change {
        bool remove;
        char *kind;
        char *uid;
        char *name;        /* put only */
        uint64_t expected; /* revision, STORE_ABSENT or STORE_ANY */
        json_t *doc;       /* put only */
};
struct store_batch {
        struct store_change *changes;
        size_t n_changes;
        size_t size;
        int result;
};
#define STORE_BATCH_INIT ((struct store_batch){})
void store_batch_deinit(struct store_batch *batch);
#define _cleanup_batch_ _cleanup_(store_batch_deinit)
/* Puts a document (taken over) that has kind, name and uid in it. */
void store_batch_put(struct store_batch *batch, uint64_t expected, json_t *doc);
void store_batch_remove(struct store_batch *batch, const char *kind, const char *uid, uint64_t expected);

/* All or nothing, durable when it returns 0. REVISION_MISMATCH (-ESTALE) when an expectation does not hold, EXISTS
 * (-EEXIST) when another object of the kind has the name. *ret_revision (may be NULL): of the last change; those of one transaction have
 * consecutive numbers, in their order. */
int store_commit(struct store *store, const struct store_batch *batch, uint64_t *ret_revision,
        struct error **ret_error);

/* Number of the newest change; 0 in an empty store. */
int store_revision(struct store *store, uint64_t *ret_revision, struct error **ret_error);

struct store_event {
        uint64_t seq;
        bool removed;
        const char *kind;
        const char *uid;
        const char *name;
        const json_t *
                doc; /* as it was then, revision set; when removed: as it was before (NULL: not kept, by an earlier version) */
};
typedef int (*store_event_fn)(void *userdata, const struct store_event *event);
/* Calls fn for up to `limit` changes after `after`, in order; fn's first non-zero result ends it and is returned.
 * -ESTALE when changes after `after` are no longer in the log (or never were): list again. */
int store_changes(struct store *store, uint64_t after, size_t limit, store_event_fn fn, void *userdata,
        struct error **ret_error);
/* Bytes of all documents that this process has written: how the change log grows. */
uint64_t store_bytes_written(const struct store *store);
/* Forgets all but the newest `keep` log entries. */
int store_trim_log(struct store *store, uint64_t keep, struct error **ret_error);

/* Calls fn after each commit of this process, from inside store_commit(). One listener. */
void store_on_commit(struct store *store, void (*fn)(void *userdata), void *userdata);

/* --- The whole store, for backups (backup.c) -------------------------------------------------------------------------- */

struct store_counters {
        uint64_t revision; /* of the newest change */
        uint64_t term;     /* of the newest leader */
};
struct store_object {
        const char *kind, *uid, *name;
        uint64_t revision;
        const char *doc_text; /* without its revision */
};
/* Calls `begin` once, then `object` for each one, all as of one moment, also beside a manager that works. Texts are borrowed. What
 * they return below 0 ends it and is returned. */
struct store_dump {
        int (*begin)(void *userdata, const struct store_counters *counters);
        int (*object)(void *userdata, const struct store_object *object);
        void *userdata;
};
int store_dump(struct store *store, const struct store_dump *dump, struct error **ret_error);

/* Replaces everything in one transaction by what `next` gives (1: an object, whose texts stay until the next call; 0: that was
 * all; negative: an error, and nothing is changed). The change log begins anew; the counters never go back. For whoever leads. */
struct store_restore {
        struct store_counters counters;
        int (*next)(void *userdata, struct store_object *ret_object, struct error **ret_error);
        void *userdata;
};
int store_restore(struct store *store, const struct store_restore *restore, struct error **ret_error);

/* --- Leadership (docs/decisions/0016): several managers share a PostgreSQL store, one of them leads ---------------------- */

#define STORE_BEAT_MS 1500u  /* the leader shows this often that it is alive */
#define STORE_LEASE_MS 5000u /* silent for so long, it may be replaced */
#define STORE_SERVER_SIZE 128

struct store_leader {
        uint64_t term;                  /* grows with each leader; the epoch that agents are told */
        char server[STORE_SERVER_SIZE]; /* what it is called, for people */
};

/* Takes the lead: 0 with *ret_leader this manager's own term; 1 when another one leads (*ret_leader says which; ask again
 * within STORE_BEAT_MS). `holder` is unique to this installation: an earlier process of the same one is known to have ended,
 * and not waited for. With SQLite whoever has the state directory's lock leads. */
int store_lead(struct store *store, const char *holder, const char *server, struct store_leader *ret_leader,
        struct error **ret_error);
/* Shows that this manager is alive. STALE_EPOCH when another one has taken the lead. */
int store_renew(struct store *store, struct error **ret_error);
/* Gives the lead up, so that another manager need not wait for silence. 1: another one has it already, and nothing was given up. */
int store_resign(struct store *store, struct error **ret_error);

/* Calls fn when this process can lead no longer: another manager does, or it is not known whether a transaction was carried
 * out, so that everything has to be loaded anew. From inside a call of the store. One listener. */
void store_on_lost(struct store *store, void (*fn)(void *userdata), void *userdata);
