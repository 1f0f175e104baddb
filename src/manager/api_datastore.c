/* SPDX-License-Identifier: Apache-2.0 */

/* Maintenance of a datastore: its beginning and its end are tasks (operation_datastore.c). */

#include <errno.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cluster/evacuation.h"
#include "manager/api.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/moves_disks.h"
#include "manager/operations.h"

static int check(const json_t *datastore, const json_t *body, struct error **ret_error)
{
        bool dry_run;
        uint64_t number;
        int r = json_is_boolean(json_object_get(body, "on"))
                        ? 0
                        : error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                  "field on is missing, or not true or false");

        if (r >= 0)
                r = doc_opt_bool(body, "", "dry_run", &dry_run, ret_error);
        if (r >= 0)
                r = operation_moves_check(body, false, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "wait_ms", 0, EVACUATION_LIMIT_MAX_MS, &number, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "rate_limit_bps", 0, INT64_MAX, &number, ret_error);
        if (r >= 0 && json_is_false(json_object_get(body, "on")) &&
                !json_is_object(json_object_get(json_status(datastore), "maintenance"))) {
                error_set(ret_error, ERROR_CONFLICT, NULL, "datastore %s is not in maintenance",
                        json_text(datastore, "name"));
                error_about(ret_error, "datastore/%s", json_text(datastore, "name"));
                r = -EBUSY;
        }
        return r;
}

/* The next best datastore after one that failed, then waiting; as cluster/evacuation.h takes it. */
static json_t *policy_of(const json_t *body)
{
        const json_t *wait = json_object_get(body, "wait_ms");
        json_int_t wait_ms = wait ? json_integer_value(wait) : (json_int_t)EVACUATION_WAIT_DEFAULT_MS;
        json_t *steps = json_pack("[{s:s}]", "step", "other-host");

        if (wait_ms && json_array_append_new(steps, json_pack("{s:s, s:I}", "step", "wait", "limit_ms",
                                                            MAX(wait_ms, (json_int_t)1000))) < 0) {
                json_decref(steps);
                return NULL;
        }
        return json_pack("{s:O*, s:o}", "tries", json_object_get(body, "tries"), "policy", steps);
}

static json_t *data_of(const json_t *datastore, const json_t *body, const char *by, const char *reason)
{
        json_t *options = operation_moves_options(body), *rate = json_object_get(body, "rate_limit_bps");

        if (rate && json_object_set(options, "rate_limit_bps", rate) < 0) {
                json_decref(options);
                options = NULL;
        }
        return json_pack("{s:s, s:s, s:s, s:I, s:o, s:o}", "datastore", json_text(datastore, "name"), "by",
                by, "reason", reason, "give_up_ms", json_integer_value(json_object_get(body, "give_up_ms")),
                "policy", policy_of(body), "options", options);
}

static void submit(
        struct http_request *request, struct manager *manager, const json_t *datastore, const json_t *body)
{
        bool on = json_is_true(json_object_get(body, "on"));
        _cleanup_free_ char *held = alloc_printf("maintenance/%s", json_text(datastore, "uid"));
        _cleanup_free_ char *object = alloc_printf("datastore/%s", json_text(datastore, "name"));
        _cleanup_free_ char *why = NULL, *reason = NULL;
        _cleanup_json_ json_t *data = NULL;
        struct error *error = NULL;

        if (api_reason(request, &why, &error) < 0) {
                http_request_reply_error(request, error);
                return;
        }
        reason = alloc_printf("%smaintenance of datastore %s%s%s", on ? "" : "end of ",
                json_text(datastore, "name"), why ? ": " : "", why ?: "");
        if (reason)
                data = data_of(datastore, body, api_caller(request)->name, reason);
        if (!held || !object || !data)
                http_request_reply_error(request, NULL);
        else
                api_submit(request, manager,
                        &(struct task_request){
                                .action = on ? "datastore.maintenance" : "datastore.maintenance-end",
                                .object = object,
                                .objects = (const char *const[]){held, NULL},
                                .input = body,
                                .data = data},
                        NULL);
}

void api_datastore_maintenance(struct http_request *request, void *userdata)
{
        static const char *const keys[] = {"on", "dry_run", "tries", "wait_ms", "priority", "max_pause_ms",
                "give_up_ms", "rate_limit_bps", NULL};
        struct manager *manager = userdata;
        _cleanup_json_ json_t *datastore = NULL;
        json_t *body = NULL;
        struct error *error = NULL;
        int r;

        r = api_get_object(request, manager, "datastore", &datastore, &error);
        if (r >= 0)
                r = api_body(request, keys, &body, &error);
        if (r >= 0)
                r = check(datastore, body, &error);
        if (r < 0)
                http_request_reply_error(request, error);
        else if (json_is_true(json_object_get(body, "dry_run")) && json_is_true(json_object_get(body, "on")))
                moves_disks_plan_reply(request, manager, json_text(datastore, "name"));
        else if (json_is_true(json_object_get(body, "dry_run")))
                http_request_reply_json(request, 200, json_pack("{s:b, s:[]}", "dry_run", 1, "vms"));
        else
                submit(request, manager, datastore, body);
}
