/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The public API as the CLI sees it: one call at a time (libcurl easy), JSON in and out, problem documents
 * turned into error objects. */

#include <jansson.h>
#include <signal.h>

#include "base/buf.h"
#include "base/error.h"
#include "cli/settings.h"

struct api;

#define API_SERVERS_MAX 8

/* Set-up only; nothing is sent. settings->server may name several managers, separated by commas: a call that one of them
 * cannot answer goes to the next, for up to 15 s while one says that it stands by; what may have been carried out is not
 * repeated by itself, but for reads. BAD_REQUEST for a URL that is not http(s), or plain http to another machine:
 * the token would cross the network in the clear. */
int api_new(const struct settings *settings, struct api **ret_api, struct error **ret_error);
void api_free(struct api *api);
DEFINE_CLEANUP(struct api *, api_free)

/* `path` is what follows /api/v1, percent-encoded ("/vms/web1"), or all of it for what is elsewhere ("/metrics"); `body` (borrowed) may be NULL. On success
 * *ret_json (may be NULL) is the document, which the caller owns (a JSON null when the answer has no body), and
 * *ret_status (may be NULL) the status. */
int api_call(struct api *api, const char *method, const char *path, const json_t *body, json_t **ret_json,
        int *ret_status, struct error **ret_error);

/* The same, and the answer's text as it came, whatever it is; the caller's. */
int api_call_text(struct api *api, const char *method, const char *path, const json_t *body, char **ret_text,
        struct error **ret_error);

/* How long calls may take from now on; 0: as usual. */
void api_set_timeout(struct api *api, uint64_t timeout_ms);

/* Follows a stream of server-sent events until `event` returns false, an interrupt comes (CANCELLED) or the server
 * closes it. `data` is the event's document (borrowed). Reconnects are the caller's business: last_id (may be empty)
 * is sent as Last-Event-ID and kept up to date. */
typedef bool (*api_event_fn)(void *userdata, const char *type, const json_t *data);
int api_stream(struct api *api, const char *path, char last_id[static 64], api_event_fn event, void *userdata,
        struct error **ret_error);

/* Appends "?key=value" or "&key=value" to a path, the value percent-encoded; NULL values are left out. 0, -E2BIG or
 * -ENOMEM. */
int api_query(struct buf *path, const char *key, const char *value);

/* The manager that answered last, or will be asked first: "https://manager:8443"; borrowed. */
const char *api_server(const struct api *api);

/* A counter of interrupts (borrowed; NULL: none): a call during which it changes ends with CANCELLED. */
void api_set_interrupts(struct api *api, const volatile sig_atomic_t *interrupts);

/* Idempotency-Key of all later calls (copied); NULL: none. With one a call may be repeated when its answer was lost. */
int api_set_key(struct api *api, const char *key);
/* Whether the last call's request may have reached the server though no answer came. */
bool api_answer_lost(const struct api *api);

/* The revision that the object of the next call has to have (If-Match). */
void api_set_match(struct api *api, int64_t revision);

/* Text for X-Drover-Reason of all later calls (copied); NULL: none. */
int api_set_reason(struct api *api, const char *reason);
