/* SPDX-License-Identifier: Apache-2.0 */

/* The audit log: a list with filters, its verification, and all of it as JSON lines. Any of them may look at a million entries. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/api.h"
#include "manager/api_scan.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"

#define AT_ONCE 128      /* entries between two looks at the clock */
#define LIST_MAX_MS 2000 /* then what was found so far is answered, and where to go on */
#define STREAM_MAX_BYTES (4u << 20)
#define STREAM_ENOUGH_BYTES (256u << 10)
#define STREAM_FULL_MS 20

struct scan {
        struct api_scan base;
        struct audit_verification *verification;
        struct http_stream *stream;
        /* a list */
        struct store_query query;
        char *after;
        json_t *items;
        uint64_t revision, until_ms;
        size_t n_wanted;
};

static void scan_free(struct api_scan *base)
{
        struct scan *scan = CONTAINER_OF(base, struct scan, base);

        /* Not at its end: the client must not take what it has for all of it. */
        http_stream_abort(scan->stream);
        audit_verification_free(scan->verification);
        json_decref(scan->items);
        free(scan->after);
        free(scan);
}

typedef int (*scan_step_fn)(struct api_scan *scan, struct error **ret_error);
static int export_step(struct api_scan *base, struct error **ret_error);

static struct scan *scan_new(
        struct http_request *request, struct manager *manager, scan_step_fn step, struct error **ret_error)
{
        struct scan *scan = ALLOC(struct scan);

        if (!scan) {
                error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
                return NULL;
        }
        scan->base.step = step;
        scan->base.streams = step == export_step;
        scan->base.free = scan_free;
        if (api_scan_begin(&scan->base, request, manager, ret_error) < 0) {
                free(scan);
                return NULL;
        }
        return scan;
}

/* --- Verify --------------------------------------------------------------------------------------------------------- */

static int verify_step(struct api_scan *base, struct error **ret_error)
{
        struct scan *scan = CONTAINER_OF(base, struct scan, base);
        int r = audit_verification_step(scan->verification, AT_ONCE, ret_error);

        if (r == 0)
                http_request_reply_json(
                        TAKE_PTR(base->request), 200, audit_verification_verdict(scan->verification));
        return r;
}

void api_audit_verify(struct http_request *request, void *userdata)
{
        struct manager *manager = userdata;
        struct audit_verification *verification = NULL;
        struct error *error = NULL;
        struct scan *scan = NULL;

        if (audit_verification_new(manager->store, &verification, &error) >= 0)
                scan = scan_new(request, manager, verify_step, &error);
        if (!scan) {
                audit_verification_free(verification);
                http_request_reply_error(request, error);
                return;
        }
        scan->verification = verification;
}

/* --- List ----------------------------------------------------------------------------------------------------------- */

/* "alice" has also what her tokens did ("alice/ci"). */
static bool by_whom(const char *wanted, const char *who)
{
        size_t len = wanted ? strlen(wanted) : 0;

        return !wanted || !strcmp(wanted, who) || (!strncmp(wanted, who, len) && who[len] == '/');
}

static bool matches(const struct http_request *request, const json_t *entry)
{
        const char *since = http_request_query(request, "since"),
                   *until = http_request_query(request, "until"), *time = json_text(entry, "time");

        return by_whom(http_request_query(request, "who"), json_text(entry, "who")) &&
               api_filter(request, "object", json_text(entry, "object")) &&
               api_filter(request, "action", json_text(entry, "action")) &&
               api_filter(request, "result", json_text(entry, "result")) &&
               (!since || strcmp(time, since) >= 0) && (!until || strcmp(time, until) < 0);
}

/* `next`: the name after which it goes on; NULL: that was all. */
static void reply_items(struct scan *scan, const char *next)
{
        http_request_reply_json(TAKE_PTR(scan->base.request), 200,
                json_pack("{s:O, s:s?, s:I}", "items", scan->items, "continue", next, "revision",
                        (json_int_t)scan->revision));
}

/* Takes one that matches; 1 when that is one too many: there are more than were asked for. */
static int take(struct scan *scan, json_t *entry, struct error **ret_error)
{
        json_t *shown;
        int r;

        if (json_array_size(scan->items) == scan->n_wanted)
                return 1;
        shown = json_incref(entry);
        json_object_del(shown, "internal");
        r = api_select_fields(scan->base.request, &shown, ret_error);
        /* Where the next page begins has to be known. */
        if (r >= 0 && (json_object_set(shown, "name", json_object_get(entry, "name")) < 0 ||
                              json_array_append(scan->items, shown) < 0))
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        json_decref(shown);
        return r;
}

static int list_step(struct api_scan *base, struct error **ret_error)
{
        struct scan *scan = CONTAINER_OF(base, struct scan, base);
        const struct clock *clock = base->manager->clock;
        _cleanup_json_ json_t *page = NULL;
        const json_t *last;
        json_t *entry;
        size_t i;
        int r;

        scan->query.after = scan->after;
        r = store_list(base->manager->store, &scan->query, &page, NULL, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (page, i, entry) {
                r = matches(base->request, entry) ? take(scan, entry, ret_error) : 0;
                if (r > 0)
                        break;
                if (r < 0)
                        return r;
        }
        entry = json_array_get(page, json_array_size(page) - 1);
        if (r == 0 && entry) {
                if (alloc_replace(&scan->after, json_text(entry, "name")) < 0)
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
                if (clock_now_ms(clock) < scan->until_ms)
                        return 1;
                reply_items(scan, scan->after);
                return 0;
        }
        last = json_array_get(scan->items, json_array_size(scan->items) - 1);
        reply_items(scan, r > 0 ? json_text_or_null(last, "name") : NULL);
        return 0;
}

/* RFC 3339 in UTC is what entries have; other forms would compare wrongly. */
static int check_time(const struct http_request *request, const char *key, struct error **ret_error)
{
        const char *text = http_request_query(request, key);
        size_t len = text ? strlen(text) : 0;

        if (!text ||
                (len >= 10 && strspn(text, "0123456789-:.TZ") == len && text[4] == '-' && text[7] == '-'))
                return 0;
        return error_set(ret_error, ERROR_BAD_REQUEST, "Write it as 2026-11-21T10:00:00Z, or only the date.",
                "%s is no time: %.32s", key, text);
}

void api_audit_list(struct http_request *request, void *userdata)
{
        struct manager *manager = userdata;
        struct store_query query = {};
        struct error *error = NULL;
        uint64_t revision = 0;
        struct scan *scan = NULL;
        int r;

        r = api_page(request, &(struct api_listing){.kind = "audit", .newest_first = true}, &query, &error);
        if (r >= 0)
                r = check_time(request, "since", &error);
        if (r >= 0)
                r = check_time(request, "until", &error);
        if (r >= 0)
                r = store_revision(manager->store, &revision, &error);
        if (r >= 0)
                scan = scan_new(request, manager, list_step, &error);
        if (!scan) {
                http_request_reply_error(request, error);
                return;
        }
        scan->n_wanted = query.limit;
        scan->query = query;
        scan->query.limit = AT_ONCE;
        scan->revision = revision;
        scan->until_ms = clock_now_ms(manager->clock) + LIST_MAX_MS;
        scan->items = json_array();
        scan->after = alloc_strdup(query.after ?: "");
        if (!scan->items || !scan->after)
                api_scan_fail(&scan->base, NULL);
}

/* --- Export --------------------------------------------------------------------------------------------------------- */

static int export_step(struct api_scan *base, struct error **ret_error)
{
        struct scan *scan = CONTAINER_OF(base, struct scan, base);
        _cleanup_json_ json_t *page = NULL;
        const json_t *last = NULL;
        json_t *entry;
        size_t i;
        int r;

        if (http_stream_unsent(scan->stream) >= STREAM_ENOUGH_BYTES) {
                base->wait_ms = STREAM_FULL_MS;
                base->reader_full = true;
                return 1;
        }
        scan->query.after = scan->after;
        r = store_list(base->manager->store, &scan->query, &page, NULL, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (page, i, entry) {
                _cleanup_free_ char *text = NULL;

                json_object_del(entry, "revision");
                text = doc_to_canonical_text(entry);
                if (!text)
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
                if (http_stream_send(scan->stream, text, strlen(text)) < 0 ||
                        http_stream_send(scan->stream, "\n", 1) < 0)
                        return -EPIPE;
                last = entry;
                if (http_stream_unsent(scan->stream) >= STREAM_ENOUGH_BYTES)
                        break; /* a page of large entries would not fit */
        }
        if (!last) {
                http_stream_close(TAKE_PTR(scan->stream));
                return 0;
        }
        if (alloc_replace(&scan->after, json_text(last, "name")) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return 1;
}

static void on_closed(void *userdata)
{
        struct scan *scan = userdata;

        scan->stream = NULL;
        api_scan_end(&scan->base);
}

void api_audit_export(struct http_request *request, void *userdata)
{
        struct error *error = NULL;
        struct scan *scan = scan_new(request, userdata, export_step, &error);

        if (!scan) {
                http_request_reply_error(request, error);
                return;
        }
        scan->after = alloc_strdup("");
        scan->query = (struct store_query){.kind = "audit", .limit = AT_ONCE};
        if (!scan->after) {
                api_scan_fail(&scan->base, NULL);
                return;
        }
        http_request_on_abort(request, NULL, NULL);
        scan->base.request = NULL;
        scan->stream =
                http_request_reply_stream(request, "application/x-ndjson", STREAM_MAX_BYTES, on_closed, scan);
        if (!scan->stream)
                api_scan_end(&scan->base);
}
