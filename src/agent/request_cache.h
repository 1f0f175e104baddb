/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Answers by request id (X-Drover-Request), so that a caller that lost the answer may ask again and nothing is done
 * twice. Memory only: what an agent did before a restart shows in the state that it reports. */

#include <jansson.h>

#include "base/clock.h"
#include "base/error.h"

#define REQUEST_CACHE_KEEP_MS (UINT64_C(10) * 60 * 1000) /* docs/internals/agent-api.md */
#define REQUEST_CACHE_MAX 1024                           /* entries; the oldest answered one makes room */
#define REQUEST_WAITERS_MAX 8                            /* repeats of a request that is still worked on */

struct request_cache;
struct request_entry;

/* How a repeat that had to wait is answered: `json` is a new reference, or NULL with `error` (taken over too). */
typedef void (*request_waiter_fn)(void *userdata, int status, json_t *json, struct error *error);

int request_cache_new(const struct clock *clock, struct request_cache **ret_cache);
/* Waiters are not called any more. Accepts NULL. */
void request_cache_free(struct request_cache *cache);
DEFINE_CLEANUP(struct request_cache *, request_cache_free)

enum request_verdict {
        REQUEST_NEW = 0,   /* do it, then call request_entry_done() or _drop() on *ret_entry */
        REQUEST_KNOWN = 1, /* *ret_status and *ret_json (new reference) are the answer */
        REQUEST_WAITS = 2, /* the first one is under way: `waiter` is called with its answer */
};

/* `what` is method and path: the same id for something else is BAD_REQUEST. Returns a verdict or a negative errno.
 * BUSY when the table is full of unanswered requests, or too many repeats wait. */
int request_cache_begin(struct request_cache *cache, const char *id, const char *what,
        request_waiter_fn waiter, void *userdata, struct request_entry **ret_entry, int *ret_status,
        json_t **ret_json, struct error **ret_error);

/* Keeps the answer (`json` borrowed) and gives it to those who wait. */
void request_entry_done(struct request_entry *entry, int status, json_t *json);
/* There will be no answer to keep: forgets the id; those who wait get BUSY. */
void request_entry_drop(struct request_entry *entry);
