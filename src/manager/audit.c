/* SPDX-License-Identifier: Apache-2.0 */

/* In the store: one object of kind "audit" an entry, named by its number; "audit-state/head" has number and hash of
 * the newest one (so that cutting off the end is noticed) and "audit-state/anchor" those of the newest one that
 * retention removed. */

#include "manager/audit.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "io/pki.h"
#include "manager/json.h"

#define STATE_KIND "audit-state"
#define GENESIS "0000000000000000000000000000000000000000000000000000000000000000"
#define TRIM_AT_ONCE 1000 /* entries in one transaction */
#define PAGE_ENTRIES 1000

static void entry_name(uint64_t seq, char ret[static 32])
{
        snprintf(ret, 32, "a%015llu", (unsigned long long)seq);
}

static json_t *state_new(const char *which, uint64_t seq, const char *hash)
{
        return json_pack("{s:s, s:s, s:s, s:I, s:s}", "kind", STATE_KIND, "uid", which, "name", which, "seq",
                (json_int_t)seq, "hash", hash);
}

/* Head or anchor; a state of number 0 when there is none yet. */
static int state_get(struct store *store, const char *which, json_t **ret_state, struct error **ret_error)
{
        int r;

        r = store_get(store, STATE_KIND, which, ret_state, NULL);
        if (r != -ENOENT)
                return r < 0 ? error_from_errno(ret_error, r, "cannot read the audit log") : 0;
        *ret_state = state_new(which, 0, GENESIS);
        return *ret_state ? 0 : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static const json_t *head_in_batch(const struct store_batch *batch)
{
        for (size_t i = batch->n_changes; i > 0; i--) {
                const struct store_change *change = &batch->changes[i - 1];

                if (!change->remove && change->kind && !strcmp(change->kind, STATE_KIND))
                        return change->doc;
        }
        return NULL;
}

/* SHA-256 of the entry without its "hash" and without what the store adds. */
static int entry_hash(const json_t *entry, char ret[static PKI_FINGERPRINT_SIZE])
{
        _cleanup_json_ json_t *copy = json_copy((json_t *)entry);
        _cleanup_free_ char *text = NULL;

        if (!copy)
                return -ENOMEM;
        json_object_del(copy, "hash");
        json_object_del(copy, "revision");
        text = doc_to_canonical_text(copy);
        if (!text)
                return -ENOMEM;
        return pki_sha256_hex(text, strlen(text), ret);
}

int audit_add(struct store *store, const struct clock *clock, struct store_batch *batch,
        const struct audit_entry *entry, struct error **ret_error)
{
        _cleanup_json_ json_t *stored = NULL, *doc = NULL;
        const json_t *head = head_in_batch(batch);
        char hash[PKI_FINGERPRINT_SIZE], name[32], time[32];
        uint64_t seq, expected = STORE_ANY;
        json_t *next;
        int r;

        if (!head) {
                r = state_get(store, "head", &stored, ret_error);
                if (r < 0)
                        return r;
                head = stored;
                expected = json_revision(stored);
        }
        seq = (uint64_t)json_integer_value(json_object_get(head, "seq")) + 1;
        entry_name(seq, name);
        doc = json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:s?, s:s, s:s?, s:s?, s:s, s:O?, s:s}", "kind",
                "audit", "uid", name, "name", name, "seq", (json_int_t)seq, "time",
                text_format_time(clock_unix_ms(clock), time), "who", entry->who, "from", entry->from,
                "action", entry->action, "object", entry->object, "why", entry->why, "result", entry->result,
                "detail", entry->detail, "prev", json_text(head, "hash"));
        if (!doc || entry_hash(doc, hash) < 0 || json_object_set_new(doc, "hash", json_string(hash)) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        next = state_new("head", seq, hash);
        if (!next)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        store_batch_put(batch, STORE_ABSENT, TAKE_PTR(doc));
        store_batch_put(batch, expected, next);
        return 0;
}

int audit_write(struct store *store, const struct clock *clock, const struct audit_entry *entry,
        struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        int r;

        r = audit_add(store, clock, &batch, entry, ret_error);
        if (r < 0)
                return r;
        return store_commit(store, &batch, NULL, ret_error);
}

struct audit_verification {
        struct store *store;
        uint64_t n_entries, first_seq, last_seq, bad_seq;
        const char *message; /* NULL while all is well */
        char hash[PKI_FINGERPRINT_SIZE];
        uint64_t head_seq; /* when it began */
        char head_hash[PKI_FINGERPRINT_SIZE];
        bool finished;
};

static void verify_entry(struct audit_verification *v, const json_t *entry)
{
        uint64_t seq = (uint64_t)json_integer_value(json_object_get(entry, "seq"));
        char hash[PKI_FINGERPRINT_SIZE], name[32];

        entry_name(v->last_seq + 1, name);
        if (seq != v->last_seq + 1 && strcmp(json_text(entry, "name"), name))
                v->message = "entries are missing before this one";
        else if (strcmp(json_text(entry, "prev"), v->hash))
                v->message = "this entry does not continue the one before it";
        else if (seq != v->last_seq + 1 || strcmp(json_text(entry, "name"), name) ||
                 entry_hash(entry, hash) < 0 || strcmp(json_text(entry, "hash"), hash))
                v->message = "this entry was changed";
        if (v->message) {
                v->bad_seq = strcmp(json_text(entry, "name"), name) ? seq : v->last_seq + 1;
                return;
        }
        if (!v->n_entries++)
                v->first_seq = seq;
        v->last_seq = seq;
        memcpy(v->hash, hash, sizeof(hash));
}

static uint64_t seq_of(const json_t *doc)
{
        return (uint64_t)json_integer_value(json_object_get(doc, "seq"));
}

/* What retention has removed meanwhile is not missing: it goes on behind the anchor. True when that has moved. */
static bool follow_anchor(struct audit_verification *v)
{
        _cleanup_json_ json_t *anchor = NULL;

        if (state_get(v->store, "anchor", &anchor, NULL) < 0 || seq_of(anchor) <= v->last_seq)
                return false;
        v->last_seq = seq_of(anchor);
        snprintf(v->hash, sizeof(v->hash), "%s", json_text(anchor, "hash"));
        return true;
}

int audit_verification_new(
        struct store *store, struct audit_verification **ret_verification, struct error **ret_error)
{
        _cleanup_(audit_verification_freep) struct audit_verification *v = ALLOC(struct audit_verification);
        _cleanup_json_ json_t *head = NULL, *anchor = NULL;
        int r;

        if (!v)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        v->store = store;
        r = state_get(store, "anchor", &anchor, ret_error);
        if (r >= 0)
                r = state_get(store, "head", &head, ret_error);
        if (r < 0)
                return r;
        v->head_seq = seq_of(head);
        v->last_seq = seq_of(anchor);
        snprintf(v->head_hash, sizeof(v->head_hash), "%s", json_text(head, "hash"));
        snprintf(v->hash, sizeof(v->hash), "%s", json_text(anchor, "hash"));
        *ret_verification = TAKE_PTR(v);
        return 0;
}

void audit_verification_free(struct audit_verification *verification)
{
        free(verification);
}

/* Entries that were removed by hand leave the head behind, ahead of them all; one that was changed leaves its hash. */
static void finish(struct audit_verification *v)
{
        _cleanup_json_ json_t *head = NULL, *behind = NULL;
        struct store_query query = {.kind = "audit", .limit = 1};
        char after[32];

        v->finished = true;
        if (v->message)
                return;
        /* As it is now: what it does not know of was not written by us. */
        if (state_get(v->store, "head", &head, NULL) >= 0) {
                entry_name(seq_of(head), after);
                query.after = after;
                if (store_list(v->store, &query, &behind, NULL, NULL) >= 0 && json_array_size(behind)) {
                        v->message = "this entry stands behind the newest one";
                        v->bad_seq = seq_of(json_array_get(behind, 0));
                        return;
                }
        }
        if (v->last_seq == v->head_seq ? !strcmp(v->hash, v->head_hash)
                                       : v->last_seq > v->head_seq && v->last_seq <= seq_of(head))
                return;
        v->message = "the newest entries are missing";
        v->bad_seq = v->last_seq + 1;
}

/* A page that cannot be parsed: one of its entries is no document any more. This one, if it is the next. */
static int verify_one(struct audit_verification *v, struct error **ret_error)
{
        _cleanup_json_ json_t *entry = NULL;
        char name[32];
        int r;

        entry_name(v->last_seq + 1, name);
        r = store_get(v->store, "audit", name, &entry, ret_error);
        if (r == -EINVAL) {
                v->message = "this entry was changed";
                v->bad_seq = v->last_seq + 1;
        } else if (r == -ENOENT) {
                v->message = "entries are missing before this one";
                v->bad_seq = v->last_seq + 1;
        } else if (r < 0) {
                return r;
        } else {
                verify_entry(v, entry);
        }
        if (!v->message && v->last_seq < v->head_seq)
                return 1;
        finish(v);
        return 0;
}

int audit_verification_step(struct audit_verification *v, size_t n_entries, struct error **ret_error)
{
        _cleanup_error_ struct error *error = NULL;
        struct store_query query = {.kind = "audit", .limit = n_entries};
        _cleanup_json_ json_t *page = NULL;
        char after[32];
        json_t *entry;
        size_t i;
        int r;

        if (v->finished)
                return 0;
        entry_name(v->last_seq, after);
        query.after = after;
        r = store_list(v->store, &query, &page, NULL, &error);
        if (r == -EINVAL)
                return verify_one(v, ret_error);
        if (r < 0)
                return error_propagate(ret_error, TAKE_PTR(error));
        entry = json_array_get(page, 0);
        if (entry && seq_of(entry) != v->last_seq + 1 && follow_anchor(v))
                return 1;
        json_array_foreach (page, i, entry) {
                if (v->message || v->last_seq >= v->head_seq)
                        break;
                verify_entry(v, entry);
        }
        if (json_array_size(page) && !v->message && v->last_seq < v->head_seq)
                return 1;
        finish(v);
        return 0;
}

json_t *audit_verification_verdict(const struct audit_verification *v)
{
        return json_pack("{s:b, s:I, s:I, s:I, s:s, s:o?, s:s}", "ok", !v->message, "n_entries",
                (json_int_t)v->n_entries, "first_seq", (json_int_t)v->first_seq, "last_seq",
                (json_int_t)v->last_seq, "head", v->hash, "bad_seq",
                v->message ? json_integer((json_int_t)v->bad_seq) : NULL, "message",
                v->message ?: "the chain is whole");
}

int audit_verify(struct store *store, json_t **ret_verdict, struct error **ret_error)
{
        _cleanup_(audit_verification_freep) struct audit_verification *v = NULL;
        json_t *verdict;
        int r;

        r = audit_verification_new(store, &v, ret_error);
        while (r >= 0 && (r = audit_verification_step(v, PAGE_ENTRIES, ret_error)) > 0)
                ;
        if (r < 0)
                return r;
        verdict = audit_verification_verdict(v);
        if (!verdict)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_verdict = verdict;
        return 0;
}

int audit_trim(struct store *store, uint64_t keep, int64_t young_unix_ms, struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *head = NULL, *page = NULL;
        struct store_query query = {.kind = "audit", .limit = TRIM_AT_ONCE};
        const json_t *last = NULL;
        char young[32];
        uint64_t newest;
        json_t *entry, *anchor;
        size_t i;
        int r;

        r = state_get(store, "head", &head, ret_error);
        if (r < 0)
                return r;
        newest = seq_of(head);
        text_format_time(young_unix_ms, young);
        r = store_list(store, &query, &page, NULL, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (page, i, entry) {
                uint64_t n_newer = newest - MIN(seq_of(entry), newest);

                if (n_newer < keep ||
                        (n_newer / AUDIT_KEEP_FACTOR < keep && strcmp(json_text(entry, "time"), young) >= 0))
                        break;
                store_batch_remove(&batch, "audit", json_text(entry, "uid"), STORE_ANY);
                last = entry;
        }
        if (!last)
                return 0;
        anchor = state_new("anchor", seq_of(last), json_text(last, "hash"));
        if (!anchor)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        store_batch_put(&batch, STORE_ANY, anchor);
        return store_commit(store, &batch, NULL, ret_error);
}
