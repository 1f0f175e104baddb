/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/request_cache.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/map.h"

struct waiter {
        request_waiter_fn fn;
        void *userdata;
};

struct request_entry {
        struct request_cache *cache;
        char *id;
        char *what;
        uint64_t since_ms;
        bool answered;
        int status;
        json_t *json;
        struct waiter waiters[REQUEST_WAITERS_MAX];
        size_t n_waiters;
};

struct request_cache {
        const struct clock *clock;
        struct map entries; /* id -> struct request_entry, oldest first */
};

int request_cache_new(const struct clock *clock, struct request_cache **ret_cache)
{
        struct request_cache *cache = ALLOC(struct request_cache);

        if (!cache)
                return -ENOMEM;
        cache->clock = clock;
        map_init(&cache->entries);
        *ret_cache = cache;
        return 0;
}

static void entry_free(struct request_entry *entry)
{
        if (!entry)
                return;
        json_decref(entry->json);
        free(entry->id);
        free(entry->what);
        free(entry);
}
DEFINE_CLEANUP(struct request_entry *, entry_free)

void request_cache_free(struct request_cache *cache)
{
        struct map_item *item, *spare;

        if (!cache)
                return;
        map_for_each (item, spare, &cache->entries)
                entry_free(item->value);
        map_deinit(&cache->entries);
        free(cache);
}

static void forget(struct request_cache *cache, struct request_entry *entry)
{
        (void)map_remove(&cache->entries, entry->id);
        entry_free(entry);
}

static bool is_old(const struct request_entry *entry)
{
        return clock_now_ms(entry->cache->clock) - entry->since_ms > REQUEST_CACHE_KEEP_MS;
}

/* Drops what is too old, and the oldest answered one when the table is full. */
static int make_room(struct request_cache *cache)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &cache->entries) {
                struct request_entry *entry = item->value;

                if (entry->answered && (is_old(entry) || map_size(&cache->entries) >= REQUEST_CACHE_MAX))
                        forget(cache, entry);
        }
        return map_size(&cache->entries) < REQUEST_CACHE_MAX ? 0 : -EBUSY;
}

static int add_entry(
        struct request_cache *cache, const char *id, const char *what, struct request_entry **ret)
{
        _cleanup_(entry_freep) struct request_entry *entry = ALLOC(struct request_entry);
        int r;

        if (!entry)
                return -ENOMEM;
        entry->cache = cache;
        entry->since_ms = clock_now_ms(cache->clock);
        entry->id = alloc_strdup(id);
        entry->what = alloc_strdup(what);
        if (!entry->id || !entry->what)
                return -ENOMEM;
        r = map_put(&cache->entries, id, entry, NULL);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(entry);
        return 0;
}

int request_cache_begin(struct request_cache *cache, const char *id, const char *what,
        request_waiter_fn waiter, void *userdata, struct request_entry **ret_entry, int *ret_status,
        json_t **ret_json, struct error **ret_error)
{
        struct request_entry *entry = map_get(&cache->entries, id);
        int r;

        if (entry && entry->answered && is_old(entry)) {
                forget(cache, entry);
                entry = NULL;
        }
        if (!entry) {
                if (make_room(cache) < 0)
                        return error_set(ret_error, ERROR_BUSY, "Try again later.",
                                "%d requests are under way already", REQUEST_CACHE_MAX);
                r = add_entry(cache, id, what, ret_entry);
                return r < 0 ? error_from_errno(ret_error, r, "request") : REQUEST_NEW;
        }
        if (strcmp(entry->what, what) != 0)
                return error_set(ret_error, ERROR_BAD_REQUEST, "Use a new id for each request.",
                        "request id %s was used for %s before", id, entry->what);
        if (entry->answered) {
                *ret_status = entry->status;
                *ret_json = json_incref(entry->json);
                return REQUEST_KNOWN;
        }
        if (entry->n_waiters == REQUEST_WAITERS_MAX)
                return error_set(ret_error, ERROR_BUSY, "Wait for the first answer.",
                        "request %s is under way and was repeated %d times", id, REQUEST_WAITERS_MAX);
        entry->waiters[entry->n_waiters++] = (struct waiter){.fn = waiter, .userdata = userdata};
        return REQUEST_WAITS;
}

void request_entry_done(struct request_entry *entry, int status, json_t *json)
{
        entry->answered = true;
        entry->status = status;
        entry->json = json_incref(json);
        for (size_t i = 0; i < entry->n_waiters; i++)
                entry->waiters[i].fn(entry->waiters[i].userdata, status, json_incref(json), NULL);
        entry->n_waiters = 0;
}

void request_entry_drop(struct request_entry *entry)
{
        for (size_t i = 0; i < entry->n_waiters; i++) {
                struct error *error = NULL;

                (void)error_set(&error, ERROR_BUSY, "Ask for the object's state, then decide.",
                        "request %s ended without an answer that could be kept", entry->id);
                entry->waiters[i].fn(entry->waiters[i].userdata, 0, NULL, error);
        }
        forget(entry->cache, entry);
}
