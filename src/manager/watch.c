/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/watch.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "io/http_server.h"
#include "io/loop.h"
#include "manager/auth.h"
#include "manager/json.h"
#include "manager/store.h"
#include "manager/task.h"

#define WATCHERS_MAX 500
#define WATCHERS_PER_CALLER (WATCHERS_MAX / 2) /* nobody alone takes them from all others */
#define EVENTS_AT_ONCE 200
#define EVENT_MAX_BYTES (5u << 20)
#define BUFFER_MAX_BYTES (8u << 20)
#define BUFFER_ENOUGH_BYTES (256u << 10) /* not more than this and one event is waiting for a client */
#define BEHIND_MS 25
#define GATHER_MS \
        50 /* events of so long go to a client in one piece: each piece costs more than what is in it */
#define TURN_MAX_MS 20               /* then others have their turn on the loop */
#define RECENT_MAX_BYTES (16u << 20) /* of memory: documents take several times what their texts do */
#define READ_MAX_BYTES (RECENT_MAX_BYTES / 2) /* of changes, before those are served that were read */
#define HEARTBEAT_MS 15000
#define KINDS_MAX 256

struct watcher {
        struct watch *watch;
        struct list link;
        struct http_stream *stream;
        uint64_t seen;
        char kinds[KINDS_MAX]; /* ",vm,task," or "" for all */
        struct auth_caller *caller;
        bool due;    /* has not had its turn in this round */
        bool behind; /* has more to get than its buffer takes */
        bool failed;
        bool lost; /* what it read in the log may have changed what it sees otherwise: it is to list again */
        bool unchecked; /* its caller's rights may have changed: nothing is shown to it before they are read */
};

/* A change as clients get it: written down once, however many there are. */
struct event {
        uint64_t seq;
        const char *kind; /* of those that anybody may see */
        json_t *doc;      /* as it is or was: who may see it */
        json_t *before;   /* a document that was seen by others before: as it was then. NULL: by the same */
        char *text;
        size_t len;   /* of the text */
        size_t bytes; /* of memory, about */
};

struct watch {
        struct loop *loop;
        struct store *store;
        struct list watchers;
        size_t n_watchers;
        struct loop_source *wake;
        bool round;        /* a round over all watchers has begun */
        bool poked;        /* during that round */
        bool more;         /* there are changes that were not read yet */
        uint64_t round_ms; /* when the last one ended */
        struct loop_source *heartbeat;
        bool access_changed; /* somebody's: see whose */
        struct map callers;  /* id -> struct auth_caller, as read since all were doubted */
        watch_public_kind_fn public_kind;
        watch_shows_fn shows;
        void *userdata;
        /* All public changes after `recent_after` and up to `read`, oldest first. */
        struct event *recent;
        size_t n_recent, recent_room, recent_bytes;
        uint64_t recent_after, read;
        watch_each_fn each;
        struct map
                seen_by; /* what decides who sees a host (its labels) or a VM (its host, by name), by uid, as of `read` */
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

static bool wanted(const struct watcher *watcher, const char *public)
{
        char needle[KINDS_MAX + 3];

        if (!*watcher->kinds)
                return true;
        snprintf(needle, sizeof(needle), ",%s,", public);
        return strstr(watcher->kinds, needle) != NULL;
}

static void forget_callers(struct watch *watch)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &watch->callers)
                auth_caller_unref(item->value);
        map_deinit(&watch->callers);
        map_init(&watch->callers);
}

/* What changes what somebody may do, and it is not known who. */
static bool is_about_access(const struct store_event *event)
{
        return !strcmp(event->kind, "token") || !strcmp(event->kind, "user") || !strcmp(event->kind, "role");
}

/* The end of the caller's own session; one that is used, or begins, changes nothing. */
static bool ends_session_of(const struct store_event *event, const struct auth_caller *caller)
{
        return event->removed && !strcmp(event->kind, "session") && !strcmp(event->uid, caller->id);
}

/* A stream that does not take more is about to be closed: on_closed() frees the watcher. */
static int send_text(struct watcher *watcher, const char *text, size_t len)
{
        int r = http_stream_send(watcher->stream, text, len);

        watcher->failed |= r < 0;
        return r;
}

static char *event_text(const struct store_event *event, size_t *ret_len)
{
        _cleanup_json_ json_t *public = event->removed ? NULL : task_public(event->doc), *data = NULL;
        _cleanup_free_ char *text = NULL;
        _cleanup_buf_ struct buf out;

        buf_init(&out, EVENT_MAX_BYTES);
        data = json_pack("{s:s, s:s, s:s, s:s, s:I, s:O?}", "op", event->removed ? "delete" : "put", "kind",
                event->kind, "name", event->name, "uid", event->uid, "revision", (json_int_t)event->seq,
                "object", public);
        text = data ? doc_to_text(data) : NULL;
        if (!text ||
                buf_printf(&out, "id: %llu\nevent: %s\ndata: ", (unsigned long long)event->seq, event->kind) <
                        0 ||
                buf_append_string(&out, text) < 0 || buf_append_string(&out, "\n\n") < 0)
                return NULL;
        *ret_len = out.len;
        return buf_take_string(&out);
}

/* --- Recent changes ------------------------------------------------------------------------------------------------ */

static void forget_recent(struct watch *watch, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                watch->recent_after = watch->recent[i].seq;
                watch->recent_bytes -= watch->recent[i].bytes;
                json_decref(watch->recent[i].doc);
                json_decref(watch->recent[i].before);
                free(watch->recent[i].text);
        }
        watch->n_recent -= n;
        if (n && watch->n_recent)
                memmove(watch->recent, watch->recent + n, watch->n_recent * sizeof(*watch->recent));
}

/* What decides who sees the document, beside what never changes, borrowed; NULL: nothing does. */
static json_t *seen_by(const char *kind, const json_t *doc)
{
        if (!strcmp(kind, "host"))
                return json_object_get(json_spec(doc), "labels");
        return strcmp(kind, "vm") ? NULL : json_object_get(json_status(doc), "host");
}

static void forget_seen_by(struct watch *watch)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &watch->seen_by)
                json_decref(item->value);
        map_deinit(&watch->seen_by);
        map_init(&watch->seen_by);
}

static int note_seen_by(void *userdata, const char *kind, const json_t *doc)
{
        struct watch *watch = userdata;
        json_t *value = seen_by(kind, doc) ? json_incref(seen_by(kind, doc)) : json_null();
        void *old = NULL;

        if (map_put(&watch->seen_by, json_text(doc, "uid"), value, &old) < 0) {
                json_decref(value);
                return -ENOMEM;
        }
        json_decref(old);
        return 0;
}

/* The document with what decided before in its place; *ret_before stays NULL when that is the same as now. */
static int find_before(struct watch *watch, const struct store_event *event, json_t **ret_before)
{
        bool host = !strcmp(event->kind, "host");
        json_t *now = seen_by(event->kind, event->doc), *was = map_get(&watch->seen_by, event->uid), *part;
        const char *outer = host ? "spec" : "status";
        _cleanup_json_ json_t *before = NULL;

        if ((!host && strcmp(event->kind, "vm")) || event->removed)
                return 0;
        if (was && !json_equal(was, now ?: json_null())) {
                before = json_copy((json_t *)event->doc);
                part = json_copy(json_object_get(before, outer));
                if (json_object_set_new(before, outer, part) < 0 ||
                        json_object_set(part, host ? "labels" : "host", was) < 0)
                        return -ENOMEM;
        }
        *ret_before = TAKE_PTR(before);
        return note_seen_by(watch, event->kind, event->doc);
}

/* Makes room, but not by what was read in this round, which nobody has got yet. */
static void forget_oldest(struct watch *watch, uint64_t served)
{
        size_t n = 0, bytes = watch->recent_bytes;

        if (watch->recent_bytes <= RECENT_MAX_BYTES)
                return;
        while (n < watch->n_recent && bytes > RECENT_MAX_BYTES / 2 && watch->recent[n].seq <= served)
                bytes -= watch->recent[n++].bytes;
        forget_recent(watch, n);
}

/* About what a parsed document takes: jansson's structures, with what malloc() adds to each, on a 64-bit machine. */
static size_t memory_of(const json_t *value)
{
        enum { SCALAR = 32, STRING = 56, ARRAY = 128, OBJECT = 208, MEMBER = 72, ITEM = 8 };
        const char *key;
        json_t *item;
        size_t i, n;

        if (json_is_string(value))
                return STRING + json_string_length(value);
        if (json_is_array(value)) {
                n = ARRAY;
                json_array_foreach ((json_t *)value, i, item)
                        n += ITEM + memory_of(item);
                return n;
        }
        if (!json_is_object(value))
                return json_is_number(value) ? SCALAR : 0;
        n = OBJECT;
        json_object_foreach ((json_t *)value, key, item)
                n += MEMBER + strlen(key) + memory_of(item);
        return n;
}

static int remember(struct watch *watch, const char *kind, const struct store_event *event)
{
        struct event *grown, recent = {.seq = event->seq, .kind = kind};

        if (watch->n_recent == watch->recent_room) {
                grown = alloc_resize(watch->recent, watch->recent_room * 2 + 64, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                watch->recent = grown;
                watch->recent_room = watch->recent_room * 2 + 64;
        }
        recent.text = event_text(event, &recent.len);
        if (!recent.text || find_before(watch, event, &recent.before) < 0) {
                json_decref(recent.before);
                free(recent.text);
                return -ENOMEM;
        }
        if (event->removed)
                json_decref(map_remove(&watch->seen_by, event->uid));
        recent.doc = json_incref((json_t *)event->doc);
        recent.bytes = sizeof(recent) + recent.len + memory_of(recent.doc);
        watch->recent[watch->n_recent++] = recent;
        watch->recent_bytes += recent.bytes;
        return 0;
}

static int take_change(void *userdata, const struct store_event *event)
{
        struct watch *watch = userdata;
        const char *kind = watch->public_kind(event->kind);
        struct watcher *watcher;
        int r = kind ? remember(watch, kind, event) : 0;

        if (r < 0)
                return r;
        watch->read = event->seq;
        watch->access_changed |= is_about_access(event);
        if (!event->removed || strcmp(event->kind, "session") != 0)
                return 0;
        forget_callers(watch);
        list_for_each (watcher, &watch->watchers, link)
                watcher->unchecked |= ends_session_of(event, watcher->caller);
        return 0;
}

/* Nothing is remembered from before now: whoever has seen less reads the log. */
static int begin_anew(struct watch *watch)
{
        uint64_t revision = 0;
        int r;

        forget_recent(watch, watch->n_recent);
        watch->access_changed = true; /* what was left out may have been about that */
        forget_seen_by(watch);
        r = watch->each(watch->userdata, note_seen_by, watch, &revision);
        if (r >= 0)
                watch->read = watch->recent_after = revision;
        return r;
}

static uint64_t now_ms(const struct watch *watch)
{
        return clock_now_ms(loop_clock(watch->loop));
}

/* Reads what is new in the log, once for all watchers: not more than is remembered, and not for longer than a turn. */
static int read_changes(struct watch *watch, uint64_t until_ms)
{
        uint64_t before, served = watch->read;
        size_t bytes = watch->recent_bytes;
        int r;

        do {
                before = watch->read;
                r = store_changes(watch->store, before, EVENTS_AT_ONCE, take_change, watch, NULL);
                watch->more = r >= 0 && watch->read > before;
        } while (watch->more && watch->recent_bytes - bytes < READ_MAX_BYTES && now_ms(watch) < until_ms);
        forget_oldest(watch, served);
        return r == -ESTALE ? begin_anew(watch) : r;
}

/* --- One watcher ----------------------------------------------------------------------------------------------------- */

/* Hosts and virtual machines come into sight and leave it. */
static bool sees_some(const struct auth_caller *caller, const char *kind)
{
        return (!strcmp(kind, "host") && auth_may_anywhere(caller, PERMISSION_HOST_READ)) ||
               (!strcmp(kind, "vm") && auth_may_anywhere(caller, PERMISSION_VM_READ));
}

/* For one who is further behind than what is remembered. */
static int send_event(void *userdata, const struct store_event *event)
{
        struct watcher *watcher = userdata;
        const char *kind = watcher->watch->public_kind(event->kind);
        _cleanup_free_ char *text = NULL;
        size_t len = 0;

        if (http_stream_unsent(watcher->stream) >= BUFFER_ENOUGH_BYTES) {
                watcher->behind = true;
                return 1;
        }
        watcher->seen = event->seq;
        if (is_about_access(event) || ends_session_of(event, watcher->caller)) {
                watcher->unchecked = true;
                forget_callers(watcher->watch);
                /* What follows is seen with what its caller may do from here on. */
                if (!auth_still(watcher->watch->store, loop_clock(watcher->watch->loop), &watcher->caller))
                        return 1;
        }
        /* Nobody remembers what labels the host had before: with them virtual machines there come and go, too. */
        if (!strcmp(event->kind, "host") && !event->removed && auth_looks_at_hosts(watcher->caller)) {
                watcher->lost = true;
                return 1;
        }
        if (!kind || !wanted(watcher, kind))
                return 0;
        if (!watcher->watch->shows(watcher->watch->userdata, watcher->caller, kind, event->doc)) {
                /* Nobody remembers whether it was seen before. */
                watcher->lost = sees_some(watcher->caller, kind) && !event->removed;
                return watcher->lost;
        }
        text = event_text(event, &len);
        return text ? send_text(watcher, text, len) : -ENOMEM;
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

/* Some of the log; what it wants none of takes time as well. */
static int pump_log(struct watcher *watcher)
{
        const struct watch *watch = watcher->watch;
        uint64_t before = watcher->seen;
        int r;

        r = store_changes(watch->store, before, EVENTS_AT_ONCE, send_event, watcher, NULL);
        if (r == -ESTALE || watcher->lost)
                r = send_reset(watcher);
        watcher->lost = false;
        watcher->behind |= r >= 0 && watcher->seen > before && watcher->seen < watch->recent_after;
        return r;
}

/* Index of the first change that it has not seen. */
static size_t first_unseen(const struct watch *watch, uint64_t seen)
{
        size_t low = 0, high = watch->n_recent;

        while (low < high) {
                size_t middle = (low + high) / 2;

                if (watch->recent[middle].seq <= seen)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

/* An object that it cannot see: if it could before, it is gone for it. With a host's labels the virtual machines there, and their tasks,
 * come or go as well, also for one who sees no hosts: all is to be listed again then. */
static int send_of_sight(struct watcher *watcher, const struct event *event, bool shown)
{
        const struct watch *watch = watcher->watch;
        bool was =
                event->before && watch->shows(watch->userdata, watcher->caller, event->kind, event->before);
        _cleanup_free_ char *text = NULL;
        size_t len = 0;

        if (event->before && !strcmp(event->kind, "host"))
                return auth_tells_hosts_apart(
                               watcher->caller, seen_by("host", event->before), seen_by("host", event->doc))
                               ? send_reset(watcher)
                               : 0;
        if (!event->before || was == shown)
                return 0;
        if (shown)
                return 0; /* it was told of it just now */
        text = event_text(&(struct store_event){.seq = event->seq,
                                  .removed = true,
                                  .kind = event->kind,
                                  .uid = json_text(event->doc, "uid"),
                                  .name = json_text(event->doc, "name")},
                &len);
        return text ? send_text(watcher, text, len) : -ENOMEM;
}

static int send_recent(struct watcher *watcher, const struct event *event)
{
        const struct watch *watch = watcher->watch;
        bool mine = wanted(watcher, event->kind), shown;
        int r = 0;

        /* A host that is not asked for may take out of sight what is. */
        if (mine || (event->before && !strcmp(event->kind, "host"))) {
                shown = watch->shows(watch->userdata, watcher->caller, event->kind, event->doc);
                if (shown && mine)
                        r = send_text(watcher, event->text, event->len);
                if (r >= 0)
                        r = send_of_sight(watcher, event, shown);
        }
        if (r >= 0)
                watcher->seen = MAX(watcher->seen, event->seq);
        return r;
}

static int pump_recent(struct watcher *watcher)
{
        const struct watch *watch = watcher->watch;
        int r = 0;

        for (size_t i = first_unseen(watch, watcher->seen); r >= 0 && i < watch->n_recent; i++) {
                if (http_stream_unsent(watcher->stream) >= BUFFER_ENOUGH_BYTES) {
                        watcher->behind = true;
                        return 0;
                }
                r = send_recent(watcher, &watch->recent[i]);
                if (watcher->seen > watch->recent[i].seq)
                        return r; /* it was told to list again, from later on */
        }
        if (r >= 0)
                watcher->seen = MAX(watcher->seen, watch->read);
        return r;
}

static void pump(struct watcher *watcher)
{
        const struct watch *watch = watcher->watch;
        int r = 0;

        /* Before anything is read that it could not be sent. */
        watcher->behind = http_stream_unsent(watcher->stream) >= BUFFER_ENOUGH_BYTES;
        if (watcher->behind)
                return;
        /* One that has seen more than there is asks for nonsense, which the log tells it. */
        if (watcher->seen < watch->recent_after || watcher->seen > watch->read)
                r = pump_log(watcher);
        if (r >= 0 && !watcher->behind && watcher->seen >= watch->recent_after)
                r = pump_recent(watcher);
        if (r < 0 && !watcher->failed)
                watcher->behind = true; /* the store could not be read: again, soon */
}

/* What the callers may do is to be read again, of each before it is shown anything more. */
static void doubt_all(struct watch *watch)
{
        struct watcher *watcher;

        watch->access_changed = false;
        forget_callers(watch);
        list_for_each (watcher, &watch->watchers, link)
                watcher->unchecked = true;
}

static void share_caller(struct watch *watch, const struct watcher *watcher)
{
        struct auth_caller *shared = auth_caller_ref(watcher->caller);
        void *old = NULL;

        if (map_put(&watch->callers, shared->id, shared, &old) < 0)
                auth_caller_unref(shared); /* each reads for itself then */
        else
                auth_caller_unref(old);
}

/* Reads what its caller may do, unless that was done for another one with the same token or session. False: it may not watch any more,
 * and is gone. */
static bool check(struct watch *watch, struct watcher *watcher)
{
        struct auth_caller *known = map_get(&watch->callers, watcher->caller->id), *before = watcher->caller;

        watcher->unchecked = false;
        if (known) {
                watcher->caller = auth_caller_ref(known);
                auth_caller_unref(before);
                return true;
        }
        if (!auth_still(watch->store, loop_clock(watch->loop), &watcher->caller)) {
                http_stream_close(watcher->stream);
                watcher_free(watcher);
                return false;
        }
        if (watcher->caller != before) /* else it could not be read */
                share_caller(watch, watcher);
        return true;
}

static void round_ended(struct watch *watch)
{
        struct watcher *watcher;
        bool behind = false, unchecked = false;

        watch->round = false;
        watch->round_ms = now_ms(watch);
        if (watch->access_changed)
                doubt_all(watch);
        list_for_each (watcher, &watch->watchers, link) {
                /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): what has ended is off the list */
                behind |= watcher->behind && !watcher->failed;
                unchecked |= watcher->unchecked;
        }
        if (watch->more || unchecked)
                loop_source_rearm(watch->wake, 0);
        else if (behind || watch->poked)
                loop_source_rearm(watch->wake, behind ? BEHIND_MS : GATHER_MS);
}

/* Each watcher has its turn once in a round; hundreds of them, one after the other, could hold the loop for too long. */
static void on_wake(void *userdata)
{
        struct watch *watch = userdata;
        struct watcher *watcher, *spare;
        uint64_t until_ms = now_ms(watch) + TURN_MAX_MS;
        size_t n = 0;
        int r = 0;

        if (list_empty(
                    &watch->watchers)) { /* the log is long, and the first to come decides from where it is read */
                watch->round = watch->poked = false;
                return;
        }
        if (!watch->round) {
                watch->round = true;
                watch->poked = false;
                r = read_changes(watch, until_ms);
                /* Nothing of this round is shown by what somebody might see before. */
                if (watch->access_changed)
                        doubt_all(watch);
                list_for_each (watcher, &watch->watchers, link)
                        watcher->due = true;
        }
        list_for_each_safe (watcher, spare, &watch->watchers, link) {
                if (!watcher->due)
                        continue;
                if (n++ && now_ms(watch) >= until_ms) {
                        loop_source_rearm(watch->wake, 0);
                        return;
                }
                watcher->due = false;
                if (watcher->unchecked && !check(watch, watcher))
                        continue;
                watcher->behind |= r < 0;
                if (!watcher->failed && r >= 0)
                        pump(watcher);
        }
        round_ended(watch);
}

static void on_heartbeat(void *userdata)
{
        struct watch *watch = userdata;
        struct watcher *watcher, *spare;

        doubt_all(watch); /* tokens also expire */
        list_for_each_safe (watcher, spare, &watch->watchers, link)
                if (!watcher->failed && http_stream_send(watcher->stream, ":\n\n", 3) < 0)
                        watcher->failed = true;
        loop_source_rearm(watch->wake, 0);
        loop_source_rearm(watch->heartbeat, HEARTBEAT_MS);
}

int watch_new(struct loop *loop, struct store *store, watch_public_kind_fn public_kind, watch_shows_fn shows,
        watch_each_fn each, void *userdata, struct watch **ret_watch, struct error **ret_error)
{
        struct watch *watch = ALLOC(struct watch);
        int r;

        if (!watch)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        watch->loop = loop;
        watch->store = store;
        watch->public_kind = public_kind;
        watch->shows = shows;
        watch->each = each;
        map_init(&watch->seen_by);
        watch->userdata = userdata;
        list_init(&watch->watchers);
        map_init(&watch->callers);
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
        forget_callers(watch);
        map_deinit(&watch->callers);
        loop_source_free(watch->wake);
        loop_source_free(watch->heartbeat);
        forget_recent(watch, watch->n_recent);
        forget_seen_by(watch);
        map_deinit(&watch->seen_by);
        free(watch->recent);
        free(watch);
}

void watch_poke(struct watch *watch)
{
        uint64_t now = now_ms(watch), next_ms = watch->round_ms + GATHER_MS;

        if (!watch->n_watchers || watch->poked)
                return;
        watch->poked = true;
        if (!watch->round)
                loop_source_rearm(watch->wake, next_ms > now ? next_ms - now : 0);
}

static size_t n_watchers_of(const struct watch *watch, const struct auth_caller *caller)
{
        struct watcher *watcher;
        size_t n = 0;

        list_for_each (watcher, &watch->watchers, link)
                n += !strcmp(auth_caller_person(watcher->caller), auth_caller_person(caller));
        return n;
}

static struct watcher *watcher_new(struct watch *watch, const struct auth_caller *caller, const char *kinds,
        uint64_t since, struct error **ret_error)
{
        bool full = watch->n_watchers >= WATCHERS_MAX;
        struct watcher *watcher;

        if (full || n_watchers_of(watch, caller) >= WATCHERS_PER_CALLER) {
                error_set(ret_error, ERROR_RATE_LIMITED, "Close a watch that is not needed.",
                        "there are %d watches%s already", full ? WATCHERS_MAX : WATCHERS_PER_CALLER,
                        full ? "" : " of this caller");
                return NULL;
        }
        if (kinds && strlen(kinds) > KINDS_MAX - 3) {
                error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the list of kinds is too long");
                return NULL;
        }
        watcher = ALLOC(struct watcher);
        if (!watcher || (!watch->n_watchers && begin_anew(watch) < 0)) {
                free(watcher);
                error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory, or the store cannot be read");
                return NULL;
        }
        watcher->watch = watch;
        watcher->seen = since;
        watcher->caller = auth_caller_ref(caller);
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
        watcher = watcher_new(watch, caller, kinds, since, &error);
        if (!watcher) {
                http_request_reply_error(request, error);
                return;
        }
        watcher->due = watch->round;
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
