/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/store.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "manager/store_backend.h"

#define SQLITE_PREFIX "sqlite:"

static bool is_postgresql(const char *where)
{
        return !strncmp(where, "postgresql://", 13) || !strncmp(where, "postgres://", 11);
}

int store_check_place(const char *where, struct error **ret_error)
{
        if (is_postgresql(where) || (!strncmp(where, SQLITE_PREFIX, strlen(SQLITE_PREFIX)) &&
                                            where[strlen(SQLITE_PREFIX)] == '/'))
                return 0;
        return error_set(ret_error, ERROR_BAD_DOCUMENT,
                "Write sqlite:/ABSOLUTE/PATH or postgresql://USER@HOST/DATABASE.",
                "the setting `store` names no store");
}

int store_open(
        const char *where, const struct clock *clock, struct store **ret_store, struct error **ret_error)
{
        int r = store_check_place(where, ret_error);

        if (r < 0)
                return r;
        return is_postgresql(where) ? store_open_postgresql(where, clock, ret_store, ret_error)
                                    : store_open_sqlite(where + strlen(SQLITE_PREFIX), ret_store, ret_error);
}

void store_close(struct store *store)
{
        if (store)
                store->ops->close(store);
}

static int parse_row(const char *text, uint64_t revision, json_t **ret_doc)
{
        _cleanup_json_ json_t *doc = NULL;
        int r;

        r = doc_parse(text, strlen(text), &doc, NULL);
        if (r < 0)
                return r;
        if (json_object_set_new(doc, "revision", json_integer((json_int_t)revision)) < 0)
                return -ENOMEM;
        *ret_doc = TAKE_PTR(doc);
        return 0;
}

static int take_one(void *userdata, const char *name, uint64_t revision, const char *doc_text)
{
        return parse_row(doc_text, revision, userdata);
}

int store_get(struct store *store, const char *kind, const char *name_or_uid, json_t **ret_doc,
        struct error **ret_error)
{
        int r;

        r = store->ops->get(store, kind, name_or_uid, take_one, ret_doc, ret_error);
        if (r != -ENOENT)
                return r;
        error_set(ret_error, ERROR_NOT_FOUND, "List the objects of this kind to see their names.",
                "there is no %s %.64s", kind, name_or_uid);
        error_about(ret_error, "%s/%.64s", kind, name_or_uid);
        return -ENOENT;
}

/* Where the list begins: in the order of names those with a prefix are together, behind the prefix itself. */
static const char *first_after(const struct store_query *query)
{
        assert(!query->prefix || !query->descending);
        if (!query->prefix || (query->after && strcmp(query->after, query->prefix) > 0))
                return query->after;
        return query->prefix;
}

static bool is_beyond(const struct store_query *query, const char *name)
{
        return query->prefix && strncmp(name, query->prefix, strlen(query->prefix)) != 0;
}

static bool has_text(const struct store_query *query, const char *doc_text)
{
        return !query->text || strstr(doc_text, query->text);
}

struct listing {
        const struct store_query *query;
        json_t *docs;
        bool more;
};

static int take_row(void *userdata, const char *name, uint64_t revision, const char *doc_text)
{
        struct listing *listing = userdata;
        const struct store_query *query = listing->query;
        _cleanup_json_ json_t *doc = NULL;
        int r;

        if (is_beyond(query, name))
                return 1;
        if (!has_text(query, doc_text))
                return 0;
        r = parse_row(doc_text, revision, &doc);
        if (r < 0)
                return r;
        if (query->match && !query->match(query->userdata, doc))
                return 0;
        if (json_array_size(listing->docs) >= query->limit) {
                listing->more = true;
                return 1;
        }
        return json_array_append(listing->docs, doc) < 0 ? -ENOMEM : 0;
}

int store_list(struct store *store, const struct store_query *query, json_t **ret_docs, bool *ret_more,
        struct error **ret_error)
{
        _cleanup_json_ json_t *docs = json_array();
        struct listing listing = {.query = query, .docs = docs};
        int r;

        if (!docs)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = store->ops->list(
                store, query->kind, first_after(query), query->descending, take_row, &listing, ret_error);
        if (r < 0)
                return r;
        *ret_docs = TAKE_PTR(docs);
        if (ret_more)
                *ret_more = listing.more;
        return 0;
}

struct counting {
        const struct store_query *query;
        size_t n;
};

static int count_row(void *userdata, const char *name, uint64_t revision, const char *doc_text)
{
        struct counting *counting = userdata;
        const struct store_query *query = counting->query;
        _cleanup_json_ json_t *doc = NULL;
        int r;

        if (is_beyond(query, name))
                return 1;
        if (!has_text(query, doc_text))
                return 0;
        r = query->match ? parse_row(doc_text, revision, &doc) : 0;
        if (r < 0)
                return r;
        if (!query->match || query->match(query->userdata, doc))
                counting->n++;
        return counting->n >= query->limit;
}

int store_count(struct store *store, const struct store_query *query, size_t *ret_n, struct error **ret_error)
{
        struct counting counting = {.query = query};
        int r = store->ops->list(
                store, query->kind, first_after(query), query->descending, count_row, &counting, ret_error);

        if (r < 0)
                return r;
        *ret_n = counting.n;
        return 0;
}

static void change_deinit(struct store_change *change)
{
        free(change->kind);
        free(change->uid);
        free(change->name);
        json_decref(change->doc);
}

void store_batch_deinit(struct store_batch *batch)
{
        for (size_t i = 0; i < batch->n_changes; i++)
                change_deinit(&batch->changes[i]);
        free(batch->changes);
        *batch = STORE_BATCH_INIT;
}

static struct store_change *batch_add(struct store_batch *batch)
{
        if (batch->n_changes == batch->size) {
                size_t size = batch->size ? 2 * batch->size : 8;
                void *bigger = alloc_resize(batch->changes, size, sizeof(*batch->changes));

                if (!bigger) {
                        batch->result = -ENOMEM;
                        return NULL;
                }
                batch->changes = bigger;
                batch->size = size;
        }
        batch->changes[batch->n_changes] = (struct store_change){};
        return &batch->changes[batch->n_changes++];
}

void store_batch_put(struct store_batch *batch, uint64_t expected, json_t *doc)
{
        struct store_change *change = batch_add(batch);

        if (!change) {
                json_decref(doc);
                return;
        }
        *change = (struct store_change){
                .kind = alloc_strdup(json_string_value(json_object_get(doc, "kind"))),
                .uid = alloc_strdup(json_string_value(json_object_get(doc, "uid"))),
                .name = alloc_strdup(json_string_value(json_object_get(doc, "name"))),
                .expected = expected,
                .doc = doc,
        };
        if (!change->kind || !change->uid || !change->name)
                batch->result = -ENOMEM;
}

void store_batch_remove(struct store_batch *batch, const char *kind, const char *uid, uint64_t expected)
{
        struct store_change *change = batch_add(batch);

        if (!change)
                return;
        *change = (struct store_change){
                .remove = true, .kind = alloc_strdup(kind), .uid = alloc_strdup(uid), .expected = expected};
        if (!change->kind || !change->uid)
                batch->result = -ENOMEM;
}

static int to_row(const struct store_change *change, struct store_row_change *ret_row, char **ret_text,
        struct error **ret_error)
{
        *ret_row = (struct store_row_change){.remove = change->remove,
                .kind = change->kind,
                .uid = change->uid,
                .name = change->name,
                .expected = change->expected};
        if (change->remove)
                return 0;
        *ret_text = doc_to_text(change->doc);
        if (!*ret_text)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (strlen(*ret_text) > STORE_DOCUMENT_MAX)
                return error_set(ret_error, ERROR_TOO_LARGE, NULL,
                        "the document of %s %s is larger than 4 MiB", change->kind, change->name);
        ret_row->doc_text = *ret_text;
        return 0;
}

int store_commit(struct store *store, const struct store_batch *batch, uint64_t *ret_revision,
        struct error **ret_error)
{
        _cleanup_free_ struct store_row_change *rows = NULL;
        _cleanup_free_ char **texts = NULL;
        uint64_t revision;
        int r = batch->result;

        rows = alloc_array(batch->n_changes + 1, sizeof(*rows));
        texts = alloc_array(batch->n_changes + 1, sizeof(*texts));
        if (r < 0 || !rows || !texts)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        for (size_t i = 0; r >= 0 && i < batch->n_changes; i++)
                r = to_row(&batch->changes[i], &rows[i], &texts[i], ret_error);
        if (r >= 0)
                r = store->ops->commit(store, rows, batch->n_changes, &revision, ret_error);
        for (size_t i = 0; i < batch->n_changes; i++) {
                store->bytes_written += r >= 0 && texts[i] ? strlen(texts[i]) : 0;
                free(texts[i]);
        }
        if (r < 0)
                return r;
        if (ret_revision)
                *ret_revision = revision;
        if (store->on_commit)
                store->on_commit(store->on_commit_userdata);
        return 0;
}

int store_revision(struct store *store, uint64_t *ret_revision, struct error **ret_error)
{
        return store->ops->revision(store, ret_revision, ret_error);
}

struct replay {
        store_event_fn fn;
        void *userdata;
};

static int replay_row(void *userdata, const struct store_row_event *row)
{
        struct replay *replay = userdata;
        _cleanup_json_ json_t *doc = NULL;
        int r;

        if (row->doc_text) {
                r = parse_row(row->doc_text, row->seq, &doc);
                if (r < 0)
                        return r;
        }
        return replay->fn(replay->userdata, &(struct store_event){.seq = row->seq,
                                                    .removed = row->removed,
                                                    .kind = row->kind,
                                                    .uid = row->uid,
                                                    .name = row->name,
                                                    .doc = doc});
}

int store_changes(struct store *store, uint64_t after, size_t limit, store_event_fn fn, void *userdata,
        struct error **ret_error)
{
        struct replay replay = {.fn = fn, .userdata = userdata};

        return store->ops->changes(store, after, limit, replay_row, &replay, ret_error);
}

uint64_t store_bytes_written(const struct store *store)
{
        return store->bytes_written;
}

int store_trim_log(struct store *store, uint64_t keep, struct error **ret_error)
{
        return store->ops->trim_log(store, keep, ret_error);
}

void store_on_commit(struct store *store, void (*fn)(void *userdata), void *userdata)
{
        store->on_commit = fn;
        store->on_commit_userdata = userdata;
}

int store_dump(struct store *store, const struct store_dump *dump, struct error **ret_error)
{
        return store->ops->dump(store, dump, ret_error);
}

int store_restore(struct store *store, const struct store_restore *restore, struct error **ret_error)
{
        return store->ops->restore(store, restore, ret_error);
}

int store_lead(struct store *store, const char *holder, const char *server, struct store_leader *ret_leader,
        struct error **ret_error)
{
        return store->ops->lead(store, holder, server, ret_leader, ret_error);
}

int store_renew(struct store *store, struct error **ret_error)
{
        return store->ops->renew(store, ret_error);
}

int store_resign(struct store *store, struct error **ret_error)
{
        return store->ops->resign(store, ret_error);
}

void store_on_lost(struct store *store, void (*fn)(void *userdata), void *userdata)
{
        store->on_lost = fn;
        store->on_lost_userdata = userdata;
}

int store_check_log(uint64_t after, uint64_t oldest, uint64_t newest, struct error **ret_error)
{
        if (after <= newest && after + 1 >= oldest)
                return 0;
        return error_set(ret_error, ERROR_REVISION_MISMATCH, "List the objects again and watch from there.",
                "the change log does not reach back to revision %llu", (unsigned long long)after);
}

int store_stale(const struct store_row_change *change, uint64_t revision, struct error **ret_error)
{
        error_set(ret_error, ERROR_REVISION_MISMATCH, "Read the object again and repeat the change.",
                "the %s %s was changed meanwhile (revision %llu, expected %llu)", change->kind,
                change->name ?: change->uid, (unsigned long long)revision,
                (unsigned long long)change->expected);
        return -ESTALE;
}

int store_name_taken(const struct store_row_change *change, struct error **ret_error)
{
        error_set(ret_error, ERROR_EXISTS, "Choose another name.", "there is a %s named %s already",
                change->kind, change->name);
        error_about(ret_error, "%s/%s", change->kind, change->name);
        return -EEXIST;
}

int store_newer_schema(size_t version, size_t known, struct error **ret_error)
{
        return error_set(ret_error, ERROR_NOT_SUPPORTED, "Run the newer drover-manager, or restore a backup.",
                "the store has schema version %zu and this program knows versions up to %zu", version, known);
}
