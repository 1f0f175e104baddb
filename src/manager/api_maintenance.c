/* SPDX-License-Identifier: Apache-2.0 */

/* Maintenance of a host: its beginning and its end are tasks (operation_maintenance.c). */

#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "manager/api.h"
#include "manager/api_access.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/moves_plan.h"
#include "manager/operations.h"

static void submit(
        struct http_request *request, struct manager *manager, const json_t *host, const json_t *body)
{
        bool on = json_is_true(json_object_get(body, "on"));
        _cleanup_free_ char *held = alloc_printf("maintenance/%s", json_text(host, "uid"));
        _cleanup_free_ char *object = alloc_printf("host/%s", json_text(host, "name"));
        _cleanup_free_ char *why = NULL, *reason = NULL;
        _cleanup_json_ json_t *data = NULL;
        struct error *error = NULL;

        if (api_reason(request, &why, &error) < 0) {
                http_request_reply_error(request, error);
                return;
        }
        reason = alloc_printf("%smaintenance of host %s%s%s", on ? "" : "end of ", json_text(host, "name"),
                why ? ": " : "", why ?: "");
        if (reason)
                data = operation_maintenance_data(host, body, api_caller(request)->name, reason, 0);
        if (!held || !object || !data)
                http_request_reply_error(request, NULL);
        else
                api_submit(request, manager,
                        &(struct task_request){.action = on ? "host.maintenance" : "host.maintenance-end",
                                .object = object,
                                .objects = (const char *const[]){held, NULL},
                                .input = body,
                                .data = data},
                        NULL);
}

int api_check_power(const struct http_request *request, const json_t *body, struct error **ret_error)
{
        const struct auth_caller *caller = api_caller(request);

        if (!operation_moves_use_power(body) || auth_may_everywhere(caller, PERMISSION_VM_POWER))
                return 0;
        return error_set(ret_error, ERROR_DENIED,
                "Ask for a role that has it, or leave suspend, stop and power-off out of the policy.",
                "%s has not the permission %s everywhere, which this policy takes", caller->name,
                permission_to_string(PERMISSION_VM_POWER));
}

void api_host_maintenance(struct http_request *request, void *userdata)
{
        static const char *const keys[] = {
                "on", "return", "dry_run", "policy", "tries", "priority", "max_pause_ms", "give_up_ms", NULL};
        struct manager *manager = userdata;
        _cleanup_json_ json_t *host = NULL;
        struct moves_plan *plan = NULL;
        json_t *body = NULL;
        struct error *error = NULL;
        int r;

        r = api_get_object(request, manager, "host", &host, &error);
        if (r >= 0)
                r = api_body(request, keys, &body, &error);
        if (r >= 0)
                r = operation_maintenance_check(host, body, &error);
        if (r >= 0)
                r = api_check_power(request, body, &error);
        if (r >= 0 && json_is_true(json_object_get(body, "dry_run"))) {
                r = operation_maintenance_plan(manager, host, body, &plan, &error);
                if (r >= 0) {
                        moves_plan_reply(plan, request, manager);
                        return;
                }
        }
        if (r < 0)
                api_reply_refusal(request, manager, error);
        else
                submit(request, manager, host, body);
}
