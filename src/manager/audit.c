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

struct verdict {
        uint64_t n_entries, first_seq, last_seq, bad_seq;
        const char *message; /* NULL while all is well */
        char hash[PKI_FINGERPRINT_SIZE];
};

static void verify_entry(struct verdict *verdict, const json_t *entry)
{
        uint64_t seq = (uint64_t)json_integer_value(json_object_get(entry, "seq"));
        char hash[PKI_FINGERPRINT_SIZE];

        if (verdict->message)
                return;
        if (seq != verdict->last_seq + 1)
                verdict->message = "entries are missing before this one";
        else if (strcmp(json_text(entry, "prev"), verdict->hash))
                verdict->message = "this entry does not continue the one before it";
        else if (entry_hash(entry, hash) < 0 || strcmp(json_text(entry, "hash"), hash))
                verdict->message = "this entry was changed";
        if (verdict->message) {
                verdict->bad_seq = seq;
                return;
        }
        if (!verdict->n_entries++)
                verdict->first_seq = seq;
        verdict->last_seq = seq;
        snprintf(verdict->hash, sizeof(verdict->hash), "%s", hash);
}

static int verify_all(struct store *store, struct verdict *verdict, struct error **ret_error)
{
        char after[32] = "";
        bool more = true;

        while (more && !verdict->message) {
                struct store_query query = {.kind = "audit", .after = after, .limit = TRIM_AT_ONCE};
                _cleanup_json_ json_t *page = NULL;
                json_t *entry;
                size_t i;
                int r;

                r = store_list(store, &query, &page, &more, ret_error);
                if (r < 0)
                        return r;
                json_array_foreach (page, i, entry)
                        verify_entry(verdict, entry);
                entry_name(verdict->last_seq, after);
        }
        return 0;
}

int audit_verify(struct store *store, json_t **ret_verdict, struct error **ret_error)
{
        _cleanup_json_ json_t *head = NULL, *anchor = NULL;
        struct verdict verdict = {};
        json_t *out;
        int r;

        r = state_get(store, "head", &head, ret_error);
        if (r < 0)
                return r;
        r = state_get(store, "anchor", &anchor, ret_error);
        if (r < 0)
                return r;
        verdict.last_seq = (uint64_t)json_integer_value(json_object_get(anchor, "seq"));
        snprintf(verdict.hash, sizeof(verdict.hash), "%s", json_text(anchor, "hash"));
        r = verify_all(store, &verdict, ret_error);
        if (r < 0)
                return r;
        if (!verdict.message &&
                (strcmp(verdict.hash, json_text(head, "hash")) ||
                        (json_int_t)verdict.last_seq != json_integer_value(json_object_get(head, "seq")))) {
                verdict.message = "the newest entries are missing";
                verdict.bad_seq = verdict.last_seq + 1;
        }
        out = json_pack("{s:b, s:I, s:I, s:I, s:s, s:o?, s:s}", "ok", !verdict.message, "n_entries",
                (json_int_t)verdict.n_entries, "first_seq", (json_int_t)verdict.first_seq, "last_seq",
                (json_int_t)verdict.last_seq, "head", verdict.hash, "bad_seq",
                verdict.message ? json_integer((json_int_t)verdict.bad_seq) : NULL, "message",
                verdict.message ?: "the chain is whole");
        if (!out)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_verdict = out;
        return 0;
}

int audit_trim(struct store *store, uint64_t keep, struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *head = NULL, *page = NULL;
        struct store_query query = {.kind = "audit", .limit = TRIM_AT_ONCE};
        const json_t *last = NULL;
        uint64_t newest;
        json_t *entry, *anchor;
        size_t i;
        int r;

        r = state_get(store, "head", &head, ret_error);
        if (r < 0)
                return r;
        newest = (uint64_t)json_integer_value(json_object_get(head, "seq"));
        r = store_list(store, &query, &page, NULL, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (page, i, entry) {
                if ((uint64_t)json_integer_value(json_object_get(entry, "seq")) + keep > newest)
                        break;
                store_batch_remove(&batch, "audit", json_text(entry, "uid"), STORE_ANY);
                last = entry;
        }
        if (!last)
                return 0;
        anchor = state_new("anchor", (uint64_t)json_integer_value(json_object_get(last, "seq")),
                json_text(last, "hash"));
        if (!anchor)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        store_batch_put(&batch, STORE_ANY, anchor);
        return store_commit(store, &batch, NULL, ret_error);
}
