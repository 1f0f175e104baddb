/* SPDX-License-Identifier: Apache-2.0 */

/* Tasks, audit, and what tells about the manager itself. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/api.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/migration_queue.h"
#include "manager/version.h"

#define METRICS_MAX_BYTES (1u << 20)

static bool match_task(void *userdata, const json_t *doc)
{
        const char *state = json_text(json_status(doc), "state"),
                   *wanted = http_request_query(userdata, "state");
        bool active = !strcmp(state, "queued") || !strcmp(state, "running") || !strcmp(state, "undoing");

        if (wanted && (strcmp(wanted, "active") ? strcmp(wanted, state) != 0 : !active))
                return false;
        return api_filter(userdata, "action", json_text(json_spec(doc), "action")) &&
               api_filter(userdata, "object", json_text(json_spec(doc), "object"));
}

static json_t *live_task(struct manager *manager, const json_t *doc)
{
        return migration_queue_live_task(manager->queue, doc);
}

void api_task_list(struct http_request *request, void *userdata)
{
        api_reply_list(request, userdata,
                &(struct api_listing){.kind = "task",
                        .newest_first = true,
                        .match = match_task,
                        .userdata = request,
                        .live = live_task});
}

void api_task_get(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *task = NULL;
        struct manager *manager = userdata;
        struct error *error = NULL;

        if (api_get_object(request, manager, "task", &task, &error) < 0)
                http_request_reply_error(request, error);
        else
                api_reply_object(request, 200, migration_queue_live_task(manager->queue, task));
}

void api_task_cancel(struct http_request *request, void *userdata)
{
        _cleanup_free_ char *object = NULL, *reason = NULL;
        _cleanup_json_ json_t *task = NULL;
        struct manager *manager = userdata;
        struct error *error = NULL;
        json_t *now = NULL;
        int r;

        r = api_get_object(request, manager, "task", &task, &error);
        if (r >= 0)
                r = api_reason(request, &reason, &error);
        if (r >= 0) {
                object = alloc_printf("task/%s", json_text(task, "name"));
                r = task_cancel(manager->tasks, json_text(task, "uid"),
                        &(struct audit_entry){.who = api_caller(request)->name,
                                .from = http_request_peer_address(request),
                                .action = "task.cancel",
                                .object = object,
                                .why = reason,
                                .result = "accepted"},
                        &error);
        }
        if (r >= 0)
                r = store_get(manager->store, "task", json_text(task, "uid"), &now, &error);
        if (r < 0)
                http_request_reply_error(request, error);
        else
                api_reply_object(request, 202, now);
}

void api_ca(struct http_request *request, void *userdata)
{
        const struct manager *manager = userdata;

        http_request_reply_text(request, 200, "application/x-pem-file", manager->ca.ca_pem);
}

void api_alert_list(struct http_request *request, void *userdata)
{
        api_reply_list(request, userdata, &(struct api_listing){.kind = "alert"});
}

void api_events(struct http_request *request, void *userdata)
{
        const char *last =
                http_request_header(request, "Last-Event-ID") ?: http_request_query(request, "since");
        struct manager *manager = userdata;
        uint64_t since = UINT64_MAX;
        struct error *error = NULL;

        if (last && text_parse_u64(last, 0, INT64_MAX, &since) < 0) {
                error_set(&error, ERROR_BAD_REQUEST, "Send the id of the last event that was read.",
                        "%.32s is no event id", last);
                http_request_reply_error(request, error);
                return;
        }
        watch_serve(
                manager->watch, request, api_caller(request), http_request_query(request, "kinds"), since);
}

void api_openapi(struct http_request *request, void *userdata)
{
        http_request_reply_text(request, 200, "application/json", api_openapi_text);
}

void api_healthz(struct http_request *request, void *userdata)
{
        http_request_reply_json(request, 200, json_pack("{s:s}", "status", "ok"));
}

void api_readyz(struct http_request *request, void *userdata)
{
        struct manager *manager = userdata;
        _cleanup_batch_ struct store_batch nothing = STORE_BATCH_INIT;
        struct error *error = NULL;

        /* An empty transaction takes the write lock and gives it back. */
        if (store_commit(manager->store, &nothing, NULL, &error) < 0)
                http_request_reply_error(request, error);
        else
                http_request_reply_json(request, 200, json_pack("{s:s}", "status", "ready"));
}

void api_version(struct http_request *request, void *userdata)
{
        const struct manager *manager = userdata;

        http_request_reply_json(request, 200,
                json_pack("{s:s, s:s, s:s, s:I, s:s, s:b, s:s}", "name", "drover-manager", "version",
                        DROVER_VERSION, "api", "v1", "epoch", (json_int_t)manager->epoch, "server",
                        manager->config->name, "leads", 1, "leader", manager->config->name));
}

void api_metrics(struct http_request *request, void *userdata)
{
        _cleanup_buf_ struct buf text;
        struct error *error = NULL;

        buf_init(&text, METRICS_MAX_BYTES);
        if (metrics_write(userdata, &text, &error) < 0)
                http_request_reply_error(request, error);
        else
                http_request_reply_text(
                        request, 200, "text/plain; version=0.0.4; charset=utf-8", buf_string(&text));
}
