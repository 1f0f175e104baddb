/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/watch.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "base/list.h"
#include "base/log.h"
#include "io/http_server.h"
#include "io/loop.h"
#include "manager/auth.h"
#include "manager/store.h"
#include "manager/task.h"

#define WATCHERS_MAX 500
#define EVENTS_AT_ONCE 200
#define EVENT_MAX_BYTES (5u << 20)
#define BUFFER_MAX_BYTES (8u << 20)
#define BUFFER_ENOUGH_BYTES (256u << 10) /* not more than this and one event is waiting for a client */
#define BEHIND_MS 25
#define HEARTBEAT_MS 15000
#define KINDS_MAX 256

struct watcher {
        struct watch *watch;
        struct list link;
        struct http_stream *stream;
        uint64_t seen;
        char kinds[KINDS_MAX]; /* ",vm,task," or "" for all */
        struct auth_caller *caller;
        bool behind; /* has more to get than its buffer takes */
        bool failed;
};

struct watch {
        struct loop *loop;
        struct store *store;
        struct list watchers;
        size_t n_watchers;
        struct loop_source *wake; /* armed by watch_poke() */
        struct loop_source *heartbeat;
        bool access_changed; /* somebody's: see whose */
        watch_shows_fn shows;
        void *userdata;
};

static void watcher_free(struct watcher *watcher)
{
        list_remove(&watcher->link);
        watcher->watch->n_watchers--;
        auth_caller_unref(watcher->caller);
        free(watcher);
}

static void on_closed(void *userdata)
{
        watcher_free(userdata);
}

static bool wanted(const struct watcher *watcher, const char *kind)
{
        char needle[KINDS_MAX + 3];

        if (!*watcher->kinds)
                return true;
        snprintf(needle, sizeof(needle), ",%s,", kind);
        return strstr(watcher->kinds, needle);
}

/* What changes what somebody may do. A session that is used, or begins, does not. */
static bool is_about_access(const struct store_event *event)
{
        return !strcmp(event->kind, "token") || !strcmp(event->kind, "user") ||
               !strcmp(event->kind, "role") || (event->removed && !strcmp(event->kind, "session"));
}

/* A stream that does not take more is about to be closed: on_closed() frees the watcher. */
static int send_text(struct watcher *watcher, const char *text, size_t len)
{
        int r = http_stream_send(watcher->stream, text, len);

        watcher->failed |= r < 0;
        return r;
}

static int send_event(void *userdata, const struct store_event *event)
{
        struct watcher *watcher = userdata;
        _cleanup_json_ json_t *public = NULL, *data = NULL;
        _cleanup_free_ char *text = NULL;
        _cleanup_buf_ struct buf out;

        buf_init(&out, EVENT_MAX_BYTES);
        if (http_stream_unsent(watcher->stream) >= BUFFER_ENOUGH_BYTES) {
                watcher->behind = true;
                return 1;
        }
        watcher->seen = event->seq;
        if (is_about_access(event)) {
                watcher->watch->access_changed = true;
                /* What follows is seen with what its caller may do from here on. */
                if (!auth_still(watcher->watch->store, loop_clock(watcher->watch->loop), &watcher->caller))
                        return 1;
        }
        if (!wanted(watcher, event->kind) ||
                !watcher->watch->shows(watcher->watch->userdata, watcher->caller, event->kind, event->doc))
                return 0;
        public = event->removed ? NULL : task_public(event->doc);
        data = json_pack("{s:s, s:s, s:s, s:s, s:I, s:O?}", "op", event->removed ? "delete" : "put", "kind",
                event->kind, "name", event->name, "uid", event->uid, "revision", (json_int_t)event->seq,
                "object", public);
        text = data ? doc_to_text(data) : NULL;
        if (!text)
                return -ENOMEM;
        if (buf_printf(&out, "id: %llu\nevent: %s\ndata: ", (unsigned long long)event->seq, event->kind) <
                        0 ||
                buf_append_string(&out, text) < 0 || buf_append_string(&out, "\n\n") < 0)
                return -ENOMEM;
        return send_text(watcher, out.data, out.len);
}

/* Too far behind, or nonsense: the client has to list again. */
static int send_reset(struct watcher *watcher)
{
        char text[128];
        int n;

        if (store_revision(watcher->watch->store, &watcher->seen, NULL) < 0)
                return -EIO;
        n = snprintf(text, sizeof(text), "id: %llu\nevent: reset\ndata: {}\n\n",
                (unsigned long long)watcher->seen);
        return send_text(watcher, text, (size_t)n);
}

static void pump(struct watcher *watcher)
{
        uint64_t before;
        int r;

        watcher->behind = false;
        do {
                before = watcher->seen;
                r = store_changes(watcher->watch->store, before, EVENTS_AT_ONCE, send_event, watcher, NULL);
                if (r == -ESTALE)
                        r = send_reset(watcher);
        } while (r >= 0 && !watcher->behind && watcher->seen > before);
        if (r < 0 && !watcher->failed)
                watcher->behind = true; /* the store could not be read: again, soon */
}

static void end_unauthorised(struct watch *watch)
{
        struct watcher *watcher, *spare;

        watch->access_changed = false;
        list_for_each_safe (watcher, spare, &watch->watchers, link)
                if (!auth_still(watch->store, loop_clock(watch->loop), &watcher->caller)) {
                        http_stream_close(watcher->stream);
                        watcher_free(watcher);
                }
}

static void on_wake(void *userdata)
{
        struct watch *watch = userdata;
        struct watcher *watcher, *spare;
        bool behind = false;

        list_for_each_safe (watcher, spare, &watch->watchers, link) {
                if (!watcher->failed)
                        pump(watcher);
                behind |= watcher->behind && !watcher->failed;
        }
        if (watch->access_changed)
                end_unauthorised(watch);
        if (behind)
                loop_source_rearm(watch->wake, BEHIND_MS);
}

static void on_heartbeat(void *userdata)
{
        struct watch *watch = userdata;
        struct watcher *watcher, *spare;

        end_unauthorised(watch); /* tokens also expire */
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): what has ended is off the list */
        list_for_each_safe (watcher, spare, &watch->watchers, link)
                if (!watcher->failed && http_stream_send(watcher->stream, ":\n\n", 3) < 0)
                        watcher->failed = true;
        loop_source_rearm(watch->heartbeat, HEARTBEAT_MS);
}

int watch_new(struct loop *loop, struct store *store, watch_shows_fn shows, void *userdata,
        struct watch **ret_watch, struct error **ret_error)
{
        struct watch *watch = ALLOC(struct watch);
        int r;

        if (!watch)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        watch->loop = loop;
        watch->store = store;
        watch->shows = shows;
        watch->userdata = userdata;
        list_init(&watch->watchers);
        r = loop_add_timer(loop, 0, on_wake, watch, &watch->wake);
        if (r >= 0)
                r = loop_add_timer(loop, HEARTBEAT_MS, on_heartbeat, watch, &watch->heartbeat);
        if (r < 0) {
                watch_free(watch);
                return error_from_errno(ret_error, r, "cannot watch the store");
        }
        *ret_watch = watch;
        return 0;
}

void watch_free(struct watch *watch)
{
        struct watcher *watcher, *spare;

        if (!watch)
                return;
        list_for_each_safe (watcher, spare, &watch->watchers, link) {
                http_stream_close(watcher->stream);
                watcher_free(watcher);
        }
        loop_source_free(watch->wake);
        loop_source_free(watch->heartbeat);
        free(watch);
}

void watch_poke(struct watch *watch)
{
        if (watch->n_watchers)
                loop_source_rearm(watch->wake, 0);
}

static struct watcher *watcher_new(
        struct watch *watch, const char *kinds, uint64_t since, struct error **ret_error)
{
        struct watcher *watcher;

        if (watch->n_watchers >= WATCHERS_MAX) {
                error_set(ret_error, ERROR_RATE_LIMITED, "Close a watch that is not needed.",
                        "there are %d watches already", WATCHERS_MAX);
                return NULL;
        }
        if (kinds && strlen(kinds) > KINDS_MAX - 3) {
                error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the list of kinds is too long");
                return NULL;
        }
        watcher = ALLOC(struct watcher);
        if (!watcher) {
                error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
                return NULL;
        }
        watcher->watch = watch;
        watcher->seen = since;
        if (kinds && *kinds)
                snprintf(watcher->kinds, sizeof(watcher->kinds), ",%.*s,", KINDS_MAX - 3, kinds);
        list_append(&watch->watchers, &watcher->link);
        watch->n_watchers++;
        return watcher;
}

void watch_serve(struct watch *watch, struct http_request *request, const struct auth_caller *caller,
        const char *kinds, uint64_t since)
{
        struct watcher *watcher;
        char first[48];
        struct error *error = NULL;

        if (since == UINT64_MAX && store_revision(watch->store, &since, &error) < 0) {
                http_request_reply_error(request, error);
                return;
        }
        watcher = watcher_new(watch, kinds, since, &error);
        if (!watcher) {
                http_request_reply_error(request, error);
                return;
        }
        watcher->caller = auth_caller_ref(caller);
        watcher->stream =
                http_request_reply_stream(request, "text/event-stream", BUFFER_MAX_BYTES, on_closed, watcher);
        if (!watcher->stream) {
                watcher_free(watcher);
                return;
        }
        /* The first bytes tell the client that the stream stands, and where it would resume before any event has come. */
        snprintf(first, sizeof(first), "id: %llu\n\n", (unsigned long long)since);
        if (http_stream_send(watcher->stream, first, strlen(first)) >= 0)
                loop_source_rearm(watch->wake, 0);
}
