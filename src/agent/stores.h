/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The datastores that this host was told to use: kept in STATE-DIR/datastores.json, checked regularly from a child
 * process (storage/datastore.h), so that a hung file server never stops the agent. */

#include <jansson.h>

#include "base/error.h"
#include "io/loop.h"
#include "storage/datastore.h"

#define STORES_MAX 256

struct stores;
struct stores_wait;

typedef void (*stores_done_fn)(void *userdata, struct error *error); /* borrowed; NULL: success */

/* Reads the file; nothing is touched yet. */
int stores_new(
        struct loop *loop, const char *state_dir, struct stores **ret_stores, struct error **ret_error);
/* Accepts NULL; waits end without a call. */
void stores_free(struct stores *stores);
DEFINE_CLEANUP(struct stores *, stores_free)

/* Adds or changes: `body` is {"path", "id"}. The folder is checked first; on success it is written down and `done`
 * called. */
int stores_put(struct stores *stores, const char *name, const json_t *body, stores_done_fn done,
        void *userdata, struct error **ret_error);
/* Forgets it; files stay. NOT_FOUND. The caller has made sure that no VM uses it. */
int stores_remove(struct stores *stores, const char *name, struct error **ret_error);

/* Status documents, from the last check: {name, id, path, capacity_bytes, free_bytes, file_system, shared, locks,
 * latency_ms, write_bytes_per_s, read_bytes_per_s, ok, message}; what is not known is left out. NULL: unknown, or no memory. */
json_t *stores_status(const struct stores *stores, const char *name);
json_t *stores_list(const struct stores *stores);

/* Makes sure that each of the named datastores answers right now (a check of the last 5 s counts), after which
 * calls that may block are reasonable for a moment. `names` is copied. `done` is called once from the loop;
 * *ret_wait is valid until then. */
int stores_ensure(struct stores *stores, const char *const *names, size_t n_names, stores_done_fn done,
        void *userdata, struct stores_wait **ret_wait, struct error **ret_error);
/* Gives up without a call of `done`. Accepts NULL. */
void stores_wait_free(struct stores_wait *wait);

/* The open datastore; borrowed until the next change. NOT_FOUND, or what its last check said. Opening may block: after
 * stores_ensure(). */
int stores_get(
        struct stores *stores, const char *name, const struct datastore **ret, struct error **ret_error);
