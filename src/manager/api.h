/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The public API (docs/openapi.json): the route table, and what its handlers share. Handlers get the struct manager as
 * userdata and stand in api_*.c by the objects they are about. */

#include <jansson.h>

#include "base/error.h"
#include "io/http_server.h"
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

/* Answers with a page of a kind: ?limit, ?continue, ?order. `match` (may be NULL) sees each document; `live` (may be
 * NULL) makes the document that is shown (new) from the one in the store. */
struct api_listing {
        const char *kind;
        bool newest_first;
        bool (*match)(void *userdata, const json_t *doc);
        void *userdata;
        json_t *(*live)(struct manager *manager, const json_t *doc);
};
void api_reply_list(struct http_request *request, struct manager *manager, const struct api_listing *listing);

/* The object that the path names, the caller's; If-Match is checked for requests that change something. */
int api_get_object(struct http_request *request, struct manager *manager, const char *kind, json_t **ret_doc,
        struct error **ret_error);
/* Answers with a document (taken over; NULL: out of memory), its ETag set and what is internal removed. */
void api_reply_object(struct http_request *request, int status, json_t *doc);

/* Body as object; an absent body is an empty one. The document is the request's. */
int api_body(
        struct http_request *request, const char *const *keys, json_t **ret_body, struct error **ret_error);

/* Submits a task for the caller and answers 202 with it (or with the error). `batch` (may be NULL) is recorded with it.
 * `by`, `from`, `why` are filled in here; Idempotency-Key is honoured. */
void api_submit(struct http_request *request, struct manager *manager, struct task_request *task,
        struct store_batch *batch);
/* True when the request repeats an earlier one (Idempotency-Key): it has been answered. */
bool api_repeated(struct http_request *request, struct manager *manager);

/* Commits a change that needs no task, with its audit entry. */
int api_commit(struct http_request *request, struct manager *manager, struct store_batch *batch,
        const char *action, const char *object, uint64_t *ret_revision, struct error **ret_error);

/* "name" of the body: a name, else BAD_DOCUMENT. Borrowed. */
int api_body_name(const json_t *body, const char **ret_name, struct error **ret_error);

/* ?key as one of the filters: true when absent or equal to `value`. */
bool api_filter(const struct http_request *request, const char *key, const char *value);

/* Handlers, by file. */
#define API_HANDLERS(X) \
        X(host_list) \
        X(host_create) \
        X(host_get) X(host_update) X(host_delete) X(host_enrol_token) X(enrol) X(vm_list) X(vm_create) X( \
                vm_get) X(vm_delete) X(vm_start) X(vm_stop) X(vm_pause) X(vm_resume) X(vm_migrate) \
                X(vm_console) X(task_list) X(task_get) X(task_cancel) X(datastore_list) X(datastore_create) \
                        X(datastore_get) X(datastore_update) X(datastore_delete) X(switch_list) \
                                X(switch_create) X(switch_get) X(switch_update) X(switch_delete) \
                                        X(port_group_list) X(port_group_create) X(port_group_get) X( \
                                                port_group_update) X(port_group_delete) X(token_list) \
                                                X(token_create) X(token_get) X(token_delete) X(whoami) X(ca) \
                                                        X(audit_list) X(audit_verify) X(alert_list) \
                                                                X(events) X(openapi) X(healthz) X(readyz) \
                                                                        X(version) X(metrics)
#define X(name) void api_##name(struct http_request *request, void *userdata);
API_HANDLERS(X)
#undef X
