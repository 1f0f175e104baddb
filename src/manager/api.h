/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The public API (docs/openapi.json): the route table, and what its handlers share. Handlers get the struct manager as
 * userdata and stand in api_*.c by the objects they are about. */

#include <jansson.h>

#include "base/error.h"
#include "io/http_server.h"
#include "manager/api_routes.h"
#include "manager/auth.h"
#include "manager/store.h"
#include "manager/task.h"

struct manager;

/* The route table; *ret_n entries. */
const struct http_route *api_routes(size_t *ret_n);
/* For http_server_config: finds out who calls and whether they may. */
bool api_admit(struct http_request *request, void *userdata);

/* Text of docs/openapi.json, made part of the program by the build. */
extern const char api_openapi_text[];

/* Who calls; set by api_admit() for all but the public routes. */
const struct auth_caller *api_caller(const struct http_request *request);

/* GET or HEAD. */
bool api_only_reads(const struct http_request *request);

/* Answers with a page of a kind, as far as the caller may see it: ?limit, ?continue, ?order. `match` (may be NULL) sees each document; `live` (may be
 * NULL) makes the document that is shown (new) from the one in the store. in_memory: a kind that the inventory has. */
struct api_listing {
        const char *kind;
        bool newest_first;
        bool (*match)(void *userdata, const json_t *doc);
        void *userdata;
        json_t *(*live)(struct manager *manager, const json_t *doc);
        bool in_memory;
};
/* What ?limit, ?continue and ?order ask for; texts are the request's. */
int api_page(const struct http_request *request, const struct api_listing *listing,
        struct store_query *ret_query, struct error **ret_error);
void api_reply_list(struct http_request *request, struct manager *manager, const struct api_listing *listing);

/* The object that the path names, the caller's; If-Match is checked for requests that change something. */
int api_get_object(struct http_request *request, struct manager *manager, const char *kind, json_t **ret_doc,
        struct error **ret_error);
/* 0, or REVISION_MISMATCH when If-Match names another revision than the document's. */
int api_check_if_match(struct http_request *request, const json_t *doc, struct error **ret_error);
/* Answers with a document (taken over; NULL: out of memory), its ETag set and what is internal removed. */
void api_reply_object(struct http_request *request, int status, json_t *doc);

/* Body as object; an absent body is an empty one. The document is the request's. */
int api_body(
        struct http_request *request, const char *const *keys, json_t **ret_body, struct error **ret_error);

/* Submits a task for the caller and answers 202 with it (or with the error). `batch` (may be NULL) is recorded with it.
 * `by`, `from`, `why` are filled in here; Idempotency-Key is honoured. */
void api_submit(struct http_request *request, struct manager *manager, struct task_request *task,
        struct store_batch *batch);
/* True when the request repeats an earlier one (Idempotency-Key): it has been answered. Asked in front of every handler. */
bool api_repeated(struct http_request *request, struct manager *manager);

/* Commits a change that needs no task, with its audit entry; Idempotency-Key is honoured. */
int api_commit(struct http_request *request, struct manager *manager, struct store_batch *batch,
        const char *action, const char *object, uint64_t *ret_revision, struct error **ret_error);

/* X-Drover-Reason, cut at what an audit entry holds; *ret_reason (the caller's) stays NULL without one. BAD_REQUEST for
 * what is no UTF-8: it could not be written down. */
int api_reason(const struct http_request *request, char **ret_reason, struct error **ret_error);

/* TOO_LARGE when there are as many as the query's limit already; `what` names them, `hint` is the way out. */
int api_check_room(struct manager *manager, const struct store_query *query, const char *what,
        const char *hint, struct error **ret_error);

/* "name" of the body: a name, else BAD_DOCUMENT. Borrowed. */
int api_body_name(const json_t *body, const char **ret_name, struct error **ret_error);

/* The body of a request that makes an object, {"name", "spec"}, or changes one, {"spec"}: a name, and a spec, are there. All borrowed from
 * the request. */
int api_body_new(struct http_request *request, json_t **ret_body, const char **ret_name, json_t **ret_spec,
        struct error **ret_error);
int api_body_spec(
        struct http_request *request, json_t **ret_body, json_t **ret_spec, struct error **ret_error);

/* DENIED when the policy of moving many (operation_moves_check() has passed it) suspends or ends guests and the caller may not do so
 * one by one, everywhere. */
int api_check_power(const struct http_request *request, const json_t *body, struct error **ret_error);

/* Commits the removal of the object, which `batch` has, as KIND.delete, and answers 204; the error is left to the caller. */
int api_remove(struct http_request *request, struct manager *manager, const json_t *doc,
        struct store_batch *batch, struct error **ret_error);

/* ?key as one of the filters: true when absent or equal to `value`. */
bool api_filter(const struct http_request *request, const char *key, const char *value);

/* ?fields=name,status.host: *doc is replaced by what was asked of it. */
int api_select_fields(const struct http_request *request, json_t **doc, struct error **ret_error);

/* The handlers of the routes. */
#define X(method, path, handler, permission, scope) \
        void api_##handler(struct http_request *request, void *userdata);
API_ROUTES(X)
#undef X
