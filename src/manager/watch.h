/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Server-sent events from the change log: each API client that watches is a cursor into it. */

#include <jansson.h>

#include "base/error.h"

struct auth_caller;
struct http_request;
struct loop;
struct store;
struct watch;

/* Whether the caller may see an object of the kind (`doc` as in the store, or as it was before it was removed; NULL: not known). */
typedef bool (*watch_shows_fn)(
        void *userdata, const struct auth_caller *caller, const char *kind, const json_t *doc);
/* The same text as `kind`, which stays, when there is anybody who may see objects of the kind; else NULL. */
typedef const char *(*watch_public_kind_fn)(const char *kind);
/* Calls fn for each host and VM that there is ("host", "vm", documents) until it returns a negative value, which is returned.
 * *ret_revision: as of which change they are. */
typedef int (*watch_each_fn)(void *userdata,
        int (*fn)(void *fn_userdata, const char *kind, const json_t *doc), void *fn_userdata,
        uint64_t *ret_revision);
int watch_new(struct loop *loop, struct store *store, watch_public_kind_fn public_kind, watch_shows_fn shows,
        watch_each_fn each, void *userdata, struct watch **ret_watch, struct error **ret_error);
/* Ends all streams. */
void watch_free(struct watch *watch);

/* There may be new changes. */
void watch_poke(struct watch *watch);

/* Answers the request with a stream of changes after `since` (UINT64_MAX: from now). `kinds` (may be NULL) is a
 * comma-separated list. What is internal never leaves. A stream ends when its caller's token does; a client that is slow, or
 * far behind, is sent as much as it takes, from the log. It gets what its caller may see at that moment; what leaves the caller's sight
 * is told as a deletion, or with a "reset" (list again) when that is not all: a host's labels have changed. */
void watch_serve(struct watch *watch, struct http_request *request, const struct auth_caller *caller,
        const char *kinds, uint64_t since);
