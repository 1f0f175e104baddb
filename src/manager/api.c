/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/api.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/aead.h"
#include "io/pki.h"
#include "manager/api_access.h"
#include "manager/api_routes.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/manager.h"

#define LIMIT_DEFAULT 500
#define LIMIT_MAX 1000
#define PAGE_MAX_BYTES (64u << 20) /* of one that is put together from texts */
#define KEY_MAX 128
#define REASON_MAX 512
#define AUDITED_BODY_MAX_BYTES (64u << 10)
#define ANSWER_MAX_BYTES (256u << 10)
#define FIELDS_MAX 32
#define FIELD_MAX_CHARS 128

int api_page(const struct http_request *request, const struct api_listing *listing,
        struct store_query *ret_query, struct error **ret_error)
{
        const char *limit = http_request_query(request, "limit"),
                   *order = http_request_query(request, "order");
        uint64_t n = LIMIT_DEFAULT;

        if (limit && text_parse_u64(limit, 1, LIMIT_MAX, &n) < 0)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "limit must be 1 to %d", LIMIT_MAX);
        if (order && strcmp(order, "asc") && strcmp(order, "desc"))
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "order must be asc or desc");
        *ret_query = (struct store_query){
                .kind = listing->kind,
                .after = http_request_query(request, "continue"),
                .descending = order ? !strcmp(order, "desc") : listing->newest_first,
                .limit = n,
        };
        return 0;
}

/* What the caller may see of what was asked for. */
struct filter {
        struct manager *manager;
        const struct auth_caller *caller;
        const struct api_listing *listing;
};

static bool passes(void *userdata, const json_t *doc)
{
        const struct filter *filter = userdata;
        const struct api_listing *listing = filter->listing;

        return api_shows(filter->manager, filter->caller, listing->kind, doc) &&
               (!listing->match || listing->match(listing->userdata, doc));
}

/* --- ?fields -------------------------------------------------------------------------------------------------------- */

/* The value at "status.host" (`path`, len characters), borrowed; NULL. */
static json_t *value_at(const json_t *doc, const char *path, size_t len)
{
        char part[FIELD_MAX_CHARS + 1];

        while (doc && len) {
                size_t n = 0;

                while (n < len && path[n] != '.')
                        n++;
                snprintf(part, sizeof(part), "%.*s", (int)n, path);
                doc = json_object_get(doc, part);
                n += n < len;
                path += n;
                len -= n;
        }
        return (json_t *)doc;
}

/* Puts the value to the same place in another document. */
static int put_at(json_t *to, const char *path, size_t len, json_t *value)
{
        char part[FIELD_MAX_CHARS + 1];

        for (;;) {
                size_t n = 0;
                json_t *next;

                while (n < len && path[n] != '.')
                        n++;
                snprintf(part, sizeof(part), "%.*s", (int)n, path);
                if (n == len)
                        return json_object_set(to, part, value);
                next = json_object_get(to, part);
                if (!json_is_object(next)) {
                        next = json_object();
                        if (json_object_set_new(to, part, next) < 0)
                                return -ENOMEM;
                }
                to = next;
                path += n + 1;
                len -= n + 1;
        }
}

int api_select_fields(const struct http_request *request, json_t **doc, struct error **ret_error)
{
        const char *fields = http_request_query(request, "fields");
        _cleanup_json_ json_t *out = NULL;
        size_t n = 0;

        if (!fields)
                return 0;
        out = json_object();
        for (const char *field = fields; out; n++) {
                size_t len = strcspn(field, ",");
                json_t *value;

                if (!len || len > FIELD_MAX_CHARS || n >= FIELDS_MAX)
                        return error_set(ret_error, ERROR_BAD_REQUEST,
                                "Write paths with commas between, such as fields=name,status.host.",
                                "fields must be 1 to %d paths of at most %d characters", FIELDS_MAX,
                                FIELD_MAX_CHARS);
                value = value_at(*doc, field, len);
                if (value && put_at(out, field, len, value) < 0)
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
                if (!field[len])
                        break;
                field += len + 1;
        }
        if (!out)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        json_decref(*doc);
        *doc = TAKE_PTR(out);
        return 0;
}

static int show_items(struct http_request *request, struct manager *manager,
        const struct api_listing *listing, json_t *docs, struct error **ret_error)
{
        json_t *doc;
        size_t i;

        json_array_foreach (docs, i, doc) {
                json_t *shown = listing->live        ? listing->live(manager, doc)
                                : listing->in_memory ? task_public(doc) /* others have it too */
                                                     : json_incref(doc);

                if (shown)
                        json_object_del(shown, "internal");
                if (shown && api_select_fields(request, &shown, ret_error) < 0) {
                        json_decref(shown);
                        return -EINVAL;
                }
                if (!shown || json_array_set_new(docs, i, shown) < 0)
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        return 0;
}

/* A client that watches from *ret_revision on misses nothing: the list is of this moment or later. What is in memory is that of the
 * revision up to which it has followed, whatever the store's is (another manager may lead by now); while it is known to lag behind,
 * the store is asked. */
static int read_list(struct manager *manager, const struct api_listing *listing,
        const struct store_query *query, json_t **ret_docs, bool *ret_more, uint64_t *ret_revision,
        struct error **ret_error)
{
        if (!listing->in_memory || !inventory_is_current(manager->inventory)) {
                int r = store_revision(manager->store, ret_revision, ret_error);

                return r < 0 ? r : store_list(manager->store, query, ret_docs, ret_more, ret_error);
        }
        *ret_revision = inventory_followed(manager->inventory);
        return inventory_list(manager->inventory, query, ret_docs, ret_more) < 0
                       ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory")
                       : 0;
}

/* A page of thousands of VMs is put together from texts that are there, where it shows them whole. NULL: it cannot be. */
static char *page_text(struct http_request *request, struct manager *manager,
        const struct api_listing *listing, const json_t *docs, const char *next, uint64_t revision)
{
        _cleanup_json_ json_t *name = next ? json_string(next) : json_null();
        _cleanup_free_ char *next_text = name ? doc_to_text(name) : NULL;
        _cleanup_buf_ struct buf out;
        const char *text;
        json_t *doc;
        size_t i;

        buf_init(&out, PAGE_MAX_BYTES);
        if (!next_text || strcmp(listing->kind, "vm") || !listing->in_memory || listing->live ||
                http_request_query(request, "fields") || buf_append_string(&out, "{\"items\":[") < 0)
                return NULL;
        json_array_foreach ((json_t *)docs, i, doc) {
                text = inventory_vm_text(manager->inventory, doc);
                if (!text || (i && buf_append(&out, ",", 1) < 0) || buf_append_string(&out, text) < 0)
                        return NULL;
        }
        if (buf_printf(&out, "],\"continue\":%s,\"revision\":%llu}", next_text,
                    (unsigned long long)revision) < 0)
                return NULL;
        return buf_take_string(&out);
}

/* *ret_text is the caller's. */
static int make_list(struct http_request *request, struct manager *manager, const struct api_listing *listing,
        char **ret_text, struct error **ret_error)
{
        _cleanup_json_ json_t *list = NULL;
        _cleanup_free_ char *next = NULL;
        struct filter filter = {manager, api_caller(request), listing};
        _cleanup_json_ json_t *docs = NULL;
        struct store_query query;
        uint64_t revision = 0;
        bool more = false;
        int r;

        r = api_page(request, listing, &query, ret_error);
        query.match = passes;
        query.userdata = &filter;
        if (r >= 0)
                r = read_list(manager, listing, &query, &docs, &more, &revision, ret_error);
        if (r < 0)
                return r;
        if (more)
                next = alloc_strdup(json_text(json_array_get(docs, json_array_size(docs) - 1), "name"));
        if (more && !next)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_text = page_text(request, manager, listing, docs, next, revision);
        if (*ret_text)
                return 0;
        r = show_items(request, manager, listing, docs, ret_error);
        if (r < 0)
                return r;
        list = json_pack(
                "{s:O, s:s?, s:I}", "items", docs, "continue", next, "revision", (json_int_t)revision);
        *ret_text = list ? doc_to_text(list) : NULL;
        return *ret_text ? 0 : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

void api_reply_list(struct http_request *request, struct manager *manager, const struct api_listing *listing)
{
        struct error *error = NULL;
        char *text = NULL;

        if (make_list(request, manager, listing, &text, &error) < 0)
                http_request_reply_error(request, error);
        else
                http_request_reply_json_text(request, 200, text);
}

int api_check_if_match(struct http_request *request, const json_t *doc, struct error **ret_error)
{
        const char *wanted = http_request_header(request, "If-Match");
        char etag[32];

        if (!wanted || !strcmp(wanted, "*"))
                return 0;
        snprintf(etag, sizeof(etag), "\"%llu\"", (unsigned long long)json_revision(doc));
        if (!strcmp(wanted, etag))
                return 0;
        error_set(ret_error, ERROR_REVISION_MISMATCH, "Read the object again and repeat the change.",
                "the object has revision %s now, not %.40s", etag, wanted);
        return -ESTALE;
}

int api_get_object(struct http_request *request, struct manager *manager, const char *kind, json_t **ret_doc,
        struct error **ret_error)
{
        _cleanup_json_ json_t *doc = NULL;
        int r;

        r = store_get(manager->store, kind, http_request_param(request, "name"), &doc, ret_error);
        if (r >= 0 && !api_only_reads(request))
                r = api_check_if_match(request, doc, ret_error);
        if (r < 0)
                return r;
        *ret_doc = TAKE_PTR(doc);
        return 0;
}

void api_reply_object(struct http_request *request, int status, json_t *doc)
{
        struct error *error = NULL;
        char etag[32];

        if (doc) {
                snprintf(etag, sizeof(etag), "\"%llu\"", (unsigned long long)json_revision(doc));
                json_object_del(doc, "internal");
                http_request_add_header(request, "ETag", etag);
        }
        if (doc && api_only_reads(request) && api_select_fields(request, &doc, &error) < 0) {
                json_decref(doc);
                http_request_reply_error(request, error);
                return;
        }
        http_request_reply_json(request, status, doc);
}

int api_body(
        struct http_request *request, const char *const *keys, json_t **ret_body, struct error **ret_error)
{
        json_t *body = NULL;
        size_t len = 0;
        int r;

        http_request_body(request, &len);
        if (!len) {
                *ret_body = NULL;
                return 0;
        }
        r = http_request_json(request, &body, ret_error);
        if (r >= 0)
                r = doc_only_keys(body, "", keys, ret_error);
        if (r < 0)
                return r;
        *ret_body = body;
        return 0;
}

int api_body_name(const json_t *body, const char **ret_name, struct error **ret_error)
{
        const char *name = NULL;
        int r;

        r = doc_need_string(body, "", "name", NAME_MAX_CHARS, &name, ret_error);
        if (r < 0)
                return r;
        if (!text_is_name(name))
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Begin with a letter or digit; then letters, digits, '.', '_' and '-', 63 at most.",
                        "%.64s cannot be used as a name", name);
        *ret_name = name;
        return 0;
}

static int need_spec(json_t *body, json_t **ret_spec, struct error **ret_error)
{
        int r = doc_opt_object(body, "", "spec", ret_spec, ret_error);

        return r >= 0 && !*ret_spec ? error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field spec is missing")
                                    : r;
}

int api_body_new(struct http_request *request, json_t **ret_body, const char **ret_name, json_t **ret_spec,
        struct error **ret_error)
{
        static const char *const keys[] = {"kind", "name", "spec", NULL};
        int r = api_body(request, keys, ret_body, ret_error);

        if (r >= 0)
                r = api_body_name(*ret_body, ret_name, ret_error);
        return r < 0 ? r : need_spec(*ret_body, ret_spec, ret_error);
}

int api_body_spec(
        struct http_request *request, json_t **ret_body, json_t **ret_spec, struct error **ret_error)
{
        static const char *const keys[] = {"spec", NULL};
        int r = api_body(request, keys, ret_body, ret_error);

        return r < 0 ? r : need_spec(*ret_body, ret_spec, ret_error);
}

int api_check_room(struct manager *manager, const struct store_query *query, const char *what,
        const char *hint, struct error **ret_error)
{
        size_t n = 0;
        int r = store_count(manager->store, query, &n, ret_error);

        if (r < 0)
                return r;
        return n >= query->limit ? error_set(ret_error, ERROR_TOO_LARGE, hint, "there are %zu %s already",
                                           query->limit, what)
                                 : 0;
}

bool api_filter(const struct http_request *request, const char *key, const char *value)
{
        const char *wanted = http_request_query(request, key);

        return !wanted || !strcmp(wanted, value);
}

int api_reason(const struct http_request *request, char **ret_reason, struct error **ret_error)
{
        const char *why = http_request_header(request, "X-Drover-Reason");
        _cleanup_json_ json_t *text = why ? json_string(why) : NULL;
        size_t len;

        if (!why)
                return 0;
        if (!text)
                return error_set(ret_error, ERROR_BAD_REQUEST, "Send it in UTF-8.",
                        "X-Drover-Reason is no valid text");
        len = strlen(why);
        if (len > REASON_MAX)
                /* Not in the middle of a character. */
                for (len = REASON_MAX; len && ((unsigned char)why[len] & 0xc0) == 0x80;)
                        len--;
        *ret_reason = alloc_printf("%.*s", (int)len, why);
        return *ret_reason ? 0 : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

/* Idempotency-Key: the record is named by a hash of caller and key, and holds a hash of the request, so that a key that
 * is used for something else is noticed. */
struct idempotency {
        char name[PKI_FINGERPRINT_SIZE];
        char request[PKI_FINGERPRINT_SIZE];
};

static int idempotency_of(struct http_request *request, struct idempotency *ret, struct error **ret_error)
{
        const char *key = http_request_header(request, "Idempotency-Key");
        const char *body = http_request_body(request, NULL);
        _cleanup_free_ char *named = NULL, *what = NULL, *query = NULL;

        *ret = (struct idempotency){};
        if (!key)
                return 0;
        if (!*key || strlen(key) > KEY_MAX)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL,
                        "Idempotency-Key must have 1 to %d characters", KEY_MAX);
        named = alloc_printf("%s\n%s", auth_caller_uid(api_caller(request)), key);
        /* With the key, which is not in the store: a body may have a password, whose plain hash could be guessed at. */
        if (http_request_query_text(request, &query) >= 0)
                what = alloc_printf("%s\n%s\n%s%s%s\n%s", key, http_request_method(request),
                        http_request_path(request), *query ? "?" : "", query, body ?: "");
        if (!named || !what || pki_sha256_hex(named, strlen(named), ret->name) < 0 ||
                pki_sha256_hex(what, strlen(what), ret->request) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return 0;
}

/* `task_uid` NULL: of a change that makes no task. */
static json_t *key_record(
        const struct manager *manager, const struct idempotency *idempotency, const char *task_uid)
{
        return json_pack("{s:s, s:s, s:s, s:s, s:s?, s:I}", "kind", "idempotency", "uid", idempotency->name,
                "name", idempotency->name, "request", idempotency->request, "task", task_uid,
                "created_unix_ms", (json_int_t)clock_unix_ms(manager->clock));
}

static void reply_task(struct http_request *request, json_t *doc)
{
        char location[96];

        if (doc) {
                snprintf(location, sizeof(location), V1 "/tasks/%s", json_text(doc, "name"));
                http_request_add_header(request, "Location", location);
        }
        api_reply_object(request, 202, doc);
}

/* What a kept answer is sealed with: whoever has the store, but not the key that the client made up, cannot read it (it may hold a new token). */
static int seal_key(
        const struct http_request *request, const json_t *record, uint8_t ret_key[static AEAD_KEY_SIZE])
{
        _cleanup_free_ char *text =
                alloc_printf("drover answer\n%s\n%s\n%s\n%lld", auth_caller_uid(api_caller(request)),
                        http_request_header(request, "Idempotency-Key"), json_text(record, "request"),
                        (long long)json_integer_value(json_object_get(record, "created_unix_ms")));
        char hex[PKI_FINGERPRINT_SIZE];

        if (!text || pki_sha256_hex(text, strlen(text), hex) < 0)
                return -ENOMEM;
        return text_hex_decode(hex, ret_key, AEAD_KEY_SIZE);
}

struct kept_answer {
        struct manager *manager;
        json_t *record;
        uint8_t key[AEAD_KEY_SIZE];
};

static void kept_answer_free(struct kept_answer *kept)
{
        if (!kept)
                return;
        explicit_bzero(kept->key, sizeof(kept->key));
        json_decref(kept->record);
        free(kept);
}
DEFINE_CLEANUP(struct kept_answer *, kept_answer_free)

/* Adds the sealed answer to the record that the change itself has made. Without, a repetition is told that it was done. */
static void keep_answer(void *userdata, int status, const char *text)
{
        _cleanup_(kept_answer_freep) struct kept_answer *kept = userdata;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_free_ char *sealed = NULL, *hex = NULL;
        size_t len = text ? strlen(text) : 0;
        uint8_t tag[AEAD_TAG_SIZE];
        char tag_hex[2 * AEAD_TAG_SIZE + 1];

        if (!text || len > ANSWER_MAX_BYTES)
                return;
        sealed = alloc_zero(len + 1);
        hex = alloc_zero(2 * len + 1);
        if (!sealed || !hex || aead_seal(kept->key, 0, text, len, sealed, tag) < 0)
                return;
        text_hex_encode(sealed, len, hex);
        text_hex_encode(tag, sizeof(tag), tag_hex);
        if (json_object_set_new(kept->record, "status", json_integer(status)) < 0 ||
                json_object_set_new(kept->record, "answer", json_string(hex)) < 0 ||
                json_object_set_new(kept->record, "tag", json_string(tag_hex)) < 0)
                return;
        store_batch_put(&batch, STORE_ANY, json_incref(kept->record));
        if (store_commit(kept->manager->store, &batch, NULL, &error) < 0)
                log_warning("cannot keep an answer: %s", error_message(error));
}

/* The change's batch gets the record of its key; its answer will be kept. */
static int remember_key(struct http_request *request, struct manager *manager, struct store_batch *batch,
        struct kept_answer **ret_kept, struct error **ret_error)
{
        _cleanup_(kept_answer_freep) struct kept_answer *kept = NULL;
        struct idempotency idempotency = {0};
        int r;

        r = api_caller(request) ? idempotency_of(request, &idempotency, ret_error) : 0;
        if (r < 0 || !*idempotency.name)
                return r;
        kept = ALLOC(struct kept_answer);
        if (kept) {
                kept->manager = manager;
                kept->record = key_record(manager, &idempotency, NULL);
        }
        if (!kept || !kept->record || seal_key(request, kept->record, kept->key) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        store_batch_put(batch, STORE_ABSENT, json_copy(kept->record));
        *ret_kept = TAKE_PTR(kept);
        return 0;
}

static int open_answer(struct http_request *request, const json_t *record, char **ret_text)
{
        const char *hex = json_text(record, "answer");
        size_t len = strlen(hex) / 2;
        _cleanup_free_ char *sealed = alloc_zero(len + 1), *text = alloc_zero(len + 1);
        uint8_t key[AEAD_KEY_SIZE], tag[AEAD_TAG_SIZE];
        int r;

        if (!sealed || !text)
                return -ENOMEM;
        r = seal_key(request, record, key);
        if (r >= 0)
                r = text_hex_decode(hex, sealed, len);
        if (r >= 0)
                r = text_hex_decode(json_text(record, "tag"), tag, sizeof(tag));
        if (r >= 0)
                r = aead_open(key, 0, sealed, len, text, tag);
        explicit_bzero(key, sizeof(key));
        if (r < 0)
                return r;
        *ret_text = TAKE_PTR(text);
        return 0;
}

/* The answer to a change that made no task. */
static void reply_kept(struct http_request *request, const json_t *record)
{
        int status = (int)json_integer_value(json_object_get(record, "status"));
        _cleanup_free_ char *text = NULL;
        struct error *error = NULL;

        if (!status || open_answer(request, record, &text) < 0) {
                error_set(&error, ERROR_CONFLICT, "Read the object to see what it is now.",
                        "the request with this Idempotency-Key was carried out, but its answer was lost");
                http_request_reply_error(request, error);
        } else if (*text) {
                http_request_reply_text(request, status, "application/json", text);
        } else {
                http_request_reply_empty(request, status);
        }
}

bool api_repeated(struct http_request *request, struct manager *manager)
{
        _cleanup_json_ json_t *record = NULL;
        struct idempotency idempotency = {0};
        struct error *error = NULL;
        json_t *task = NULL;
        int r;

        r = idempotency_of(request, &idempotency, &error);
        if (r >= 0 && !*idempotency.name)
                return false;
        if (r >= 0) {
                r = store_get(manager->store, "idempotency", idempotency.name, &record, &error);
                if (r == -ENOENT) {
                        error_free(error);
                        return false;
                }
        }
        if (r >= 0 && strcmp(json_text(record, "request"), idempotency.request))
                r = error_set(&error, ERROR_CONFLICT, "Use a new key for each operation.",
                        "the Idempotency-Key was used for another request");
        if (r >= 0 && !json_text_or_null(record, "task")) {
                reply_kept(request, record);
                return true;
        }
        if (r >= 0)
                r = store_get(manager->store, "task", json_text(record, "task"), &task, &error);
        if (r < 0)
                http_request_reply_error(request, error);
        else
                reply_task(request, task);
        return true;
}

void api_submit(struct http_request *request, struct manager *manager, struct task_request *task,
        struct store_batch *batch)
{
        _cleanup_batch_ struct store_batch own = STORE_BATCH_INIT;
        _cleanup_free_ char *reason = NULL;
        struct idempotency idempotency = {0};
        char uid[UUID_STRING_SIZE];
        struct error *error = NULL;
        json_t *doc = NULL;
        int r;

        batch = batch ?: &own;
        r = api_reason(request, &reason, &error);
        if (r >= 0)
                r = idempotency_of(request, &idempotency, &error);
        if (r >= 0 && text_uuid_new(uid) < 0)
                r = error_set(&error, ERROR_INTERNAL, NULL, "there are no random numbers");
        if (r >= 0 && *idempotency.name)
                store_batch_put(batch, STORE_ABSENT, key_record(manager, &idempotency, uid));
        if (r >= 0) {
                task->uid = uid;
                task->by = api_caller(request) ? api_caller(request)->name : "system";
                task->by_uid = api_caller(request) ? auth_caller_uid(api_caller(request)) : NULL;
                task->from = http_request_peer_address(request);
                task->why = reason;
                r = task_submit(manager->tasks, task, batch, &doc, &error);
        }
        if (r < 0)
                http_request_reply_error(request, error);
        else
                reply_task(request, doc);
}

/* What was asked for, without what must not be read in a log; NULL: nothing, or too much. */
static json_t *audited_body(struct http_request *request)
{
        static const char *const secrets[] = {"password", "current", "secret", "token", "csr"};
        json_t *body = NULL, *detail;
        size_t len = 0;

        http_request_body(request, &len);
        if (!len || len > AUDITED_BODY_MAX_BYTES || http_request_json(request, &body, NULL) < 0)
                return NULL;
        detail = json_copy(body);
        for (size_t i = 0; detail && i < ARRAY_SIZE(secrets); i++)
                json_object_del(detail, secrets[i]);
        return detail;
}

int api_commit(struct http_request *request, struct manager *manager, struct store_batch *batch,
        const char *action, const char *object, uint64_t *ret_revision, struct error **ret_error)
{
        _cleanup_(kept_answer_freep) struct kept_answer *kept = NULL;
        _cleanup_json_ json_t *detail = audited_body(request);
        _cleanup_free_ char *reason = NULL;
        _cleanup_batch_ struct store_batch all = STORE_BATCH_INIT;
        int r;

        r = api_reason(request, &reason, ret_error);
        if (r < 0)
                return r;
        r = audit_add(manager->store, manager->clock, &all,
                &(struct audit_entry){.who = api_who(request),
                        .from = http_request_peer_address(request),
                        .action = action,
                        .object = object,
                        .why = reason,
                        .result = "done",
                        .detail = detail},
                ret_error);
        if (r >= 0)
                r = remember_key(request, manager, &all, &kept, ret_error);
        if (r < 0)
                return r;
        /* The object's change comes last: its revision is the one that is returned. */
        for (size_t i = 0; i < batch->n_changes; i++) {
                const struct store_change *change = &batch->changes[i];

                if (change->remove)
                        store_batch_remove(&all, change->kind, change->uid, change->expected);
                else
                        store_batch_put(&all, change->expected, json_incref(change->doc));
        }
        r = store_commit(manager->store, &all, ret_revision, ret_error);
        if (r >= 0 && kept)
                http_request_on_answer(request, keep_answer, TAKE_PTR(kept));
        return r;
}

int api_remove(struct http_request *request, struct manager *manager, const json_t *doc,
        struct store_batch *batch, struct error **ret_error)
{
        const char *kind = json_text(doc, "kind");
        _cleanup_free_ char *object = alloc_printf("%s/%s", kind, json_text(doc, "name"));
        _cleanup_free_ char *action = alloc_printf("%s.delete", kind);
        int r;

        if (!object || !action)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = api_commit(request, manager, batch, action, object, NULL, ret_error);
        if (r >= 0)
                http_request_reply_empty(request, 204);
        return r;
}
