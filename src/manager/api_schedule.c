/* SPDX-License-Identifier: Apache-2.0 */

/* Schedules: documents that schedules.c follows. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/api.h"
#include "manager/api_access.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/moves_plan.h"
#include "manager/schedules.h"

#define SCHEDULES_MAX 1000
#define NEXT_DEFAULT 10
#define NEXT_MAX 1000

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

/* Only its newest run: a list is for an overview. */
static json_t *live_item(struct manager *manager, const json_t *doc)
{
        _cleanup_json_ json_t *copy = json_deep_copy(doc);
        json_t *runs = json_object_get(json_status(copy), "runs");

        while (json_array_size(runs) > 1)
                json_array_remove(runs, json_array_size(runs) - 1);
        return copy ? schedules_live(manager, copy) : NULL;
}

void api_schedule_list(struct http_request *request, void *userdata)
{
        api_reply_list(request, userdata, &(struct api_listing){.kind = "schedule", .live = live_item});
}

void api_schedule_get(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *doc = NULL;
        struct error *error = NULL;

        if (api_get_object(request, userdata, "schedule", &doc, &error) < 0)
                http_request_reply_error(request, error);
        else
                api_reply_object(request, 200, schedules_live(userdata, doc));
}

/* Records the document (borrowed; changed) and answers with it, or with the error. */
static void record(
        struct http_request *request, struct manager *manager, json_t *doc, const char *action, bool is_new)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *object = alloc_printf("schedule/%s", json_text(doc, "name"));
        uint64_t revision = is_new ? STORE_ABSENT : json_revision(doc);
        struct error *error = NULL;
        json_t *copy;
        int r = object ? 0 : no_memory(&error);

        if (r >= 0) {
                copy = json_deep_copy(doc);
                json_object_del(copy, "revision");
                store_batch_put(&batch, revision, copy);
                r = api_commit(request, manager, &batch, action, object, &revision, &error);
        }
        if (r >= 0 && json_object_set_new(doc, "revision", json_integer((json_int_t)revision)) < 0)
                r = no_memory(&error);
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        schedules_changed(manager->schedules);
        api_reply_object(request, is_new ? 201 : 200, schedules_live(manager, doc));
}

/* What a schedule does is done by whoever makes it, changes what it does, lets it run again or now: DENIED unless they could do it
 * themselves, everywhere. */
static int check_action(struct http_request *request, const json_t *spec, struct error **ret_error)
{
        const json_t *action = json_object_get(spec, "action");
        bool maintenance = !strcmp(json_text(action, "type"), "maintenance");
        enum permission needed = maintenance ? PERMISSION_HOST_OPERATE : PERMISSION_VM_MIGRATE;
        const struct auth_caller *caller = api_caller(request);

        if (!auth_may_everywhere(caller, needed))
                return error_set(ret_error, ERROR_DENIED, "Ask for a role that has it.",
                        "%s has not the permission %s everywhere, which what the schedule does takes",
                        caller->name, permission_to_string(needed));
        return api_check_power(request, action, ret_error);
}

static int check_room(struct manager *manager, struct error **ret_error)
{
        return api_check_room(manager, &(struct store_query){.kind = "schedule", .limit = SCHEDULES_MAX},
                "schedules", "Delete one that has ended.", ret_error);
}

void api_schedule_create(struct http_request *request, void *userdata)
{
        struct manager *manager = userdata;
        _cleanup_json_ json_t *doc = NULL;
        json_t *body = NULL, *spec = NULL;
        char uid[UUID_STRING_SIZE];
        struct error *error = NULL;
        const char *name = NULL;
        int r;

        r = api_body_new(request, &body, &name, &spec, &error);
        if (r >= 0)
                r = schedules_check_spec(spec, &error);
        if (r >= 0)
                r = check_action(request, spec, &error);
        if (r >= 0)
                r = check_room(manager, &error);
        if (r >= 0) {
                doc = text_uuid_new(uid) < 0
                              ? NULL
                              : json_pack("{s:s, s:s, s:s, s:O, s:{s:b, s:s, s:[]}}", "kind", "schedule",
                                        "name", name, "uid", uid, "spec", spec, "status", "paused", 0, "by",
                                        api_caller(request)->name, "runs");
                r = doc ? schedules_reset(manager, doc, &error) : no_memory(&error);
        }
        if (r < 0)
                api_reply_refusal(request, manager, error);
        else
                record(request, manager, doc, "schedule.create", true);
}

void api_schedule_update(struct http_request *request, void *userdata)
{
        struct manager *manager = userdata;
        _cleanup_json_ json_t *doc = NULL;
        json_t *body = NULL, *spec = NULL;
        struct error *error = NULL;
        int r;

        r = api_get_object(request, manager, "schedule", &doc, &error);
        if (r >= 0)
                r = api_body_spec(request, &body, &spec, &error);
        if (r >= 0)
                r = schedules_check_spec(spec, &error);
        if (r >= 0)
                r = check_action(request, spec, &error);
        if (r >= 0 && json_object_set(doc, "spec", spec) < 0)
                r = no_memory(&error);
        if (r >= 0)
                r = schedules_reset(manager, doc, &error);
        if (r < 0)
                api_reply_refusal(request, manager, error);
        else
                record(request, manager, doc, "schedule.update", false);
}

void api_schedule_delete(struct http_request *request, void *userdata)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        struct manager *manager = userdata;
        _cleanup_json_ json_t *doc = NULL;
        struct error *error = NULL;
        int r;

        r = api_get_object(request, manager, "schedule", &doc, &error);
        if (r >= 0) {
                store_batch_remove(&batch, "schedule", json_text(doc, "uid"), json_revision(doc));
                r = api_remove(request, manager, doc, &batch, &error);
        }
        if (r < 0)
                http_request_reply_error(request, error);
        else
                schedules_changed(manager->schedules);
}

/* What was due while it was paused does not count as missed. */
static void set_paused(struct http_request *request, struct manager *manager, bool paused)
{
        static const char *const no_keys[] = {NULL};
        _cleanup_json_ json_t *doc = NULL;
        struct error *error = NULL;
        json_t *body = NULL;
        int r;

        r = api_get_object(request, manager, "schedule", &doc, &error);
        if (r >= 0)
                r = api_body(request, no_keys, &body, &error);
        if (r >= 0 && !paused)
                r = check_action(request, json_spec(doc), &error);
        if (r >= 0 && json_object_set_new(json_status(doc), "paused", json_boolean(paused)) < 0)
                r = no_memory(&error);
        if (r >= 0 && !paused)
                r = schedules_reset(manager, doc, &error);
        if (r < 0)
                api_reply_refusal(request, manager, error);
        else
                record(request, manager, doc, paused ? "schedule.pause" : "schedule.resume", false);
}

void api_schedule_pause(struct http_request *request, void *userdata)
{
        set_paused(request, userdata, true);
}

void api_schedule_resume(struct http_request *request, void *userdata)
{
        set_paused(request, userdata, false);
}

void api_schedule_next(struct http_request *request, void *userdata)
{
        const char *wanted = http_request_query(request, "count");
        struct manager *manager = userdata;
        _cleanup_json_ json_t *doc = NULL;
        uint64_t n = NEXT_DEFAULT;
        struct error *error = NULL;
        json_t *next = NULL;
        int r;

        r = api_get_object(request, manager, "schedule", &doc, &error);
        if (r >= 0 && wanted && text_parse_u64(wanted, 1, NEXT_MAX, &n) < 0)
                r = error_set(&error, ERROR_BAD_REQUEST, NULL, "count must be 1 to %d", NEXT_MAX);
        if (r >= 0)
                r = schedules_next(manager, doc, n, &next, &error);
        if (r < 0)
                http_request_reply_error(request, error);
        else
                http_request_reply_json(request, 200, json_pack("{s:o}", "items", next));
}

static void run_now(struct http_request *request, struct manager *manager, const json_t *doc)
{
        _cleanup_(schedule_run_deinit) struct schedule_run run = {};
        int64_t window_ms = json_integer_value(json_object_get(json_spec(doc), "window_ms"));
        int64_t until_s = window_ms ? (clock_unix_ms(manager->clock) + window_ms) / 1000 : INT64_MAX;
        struct error *error = NULL;

        if (schedules_run(manager, doc, INT64_MIN, until_s, &run, &error) < 0)
                http_request_reply_error(request, error);
        else
                api_submit(request, manager,
                        &(struct task_request){.action = run.action,
                                .object = run.object,
                                .objects = (const char *const[]){run.held[0], run.held[1], NULL},
                                .input = run.input,
                                .data = run.data},
                        NULL);
}

void api_schedule_run(struct http_request *request, void *userdata)
{
        static const char *const keys[] = {"dry_run", NULL};
        struct manager *manager = userdata;
        _cleanup_json_ json_t *doc = NULL;
        struct moves_plan *plan = NULL;
        json_t *body = NULL;
        struct error *error = NULL;
        bool dry = false;
        int r;

        r = api_get_object(request, manager, "schedule", &doc, &error);
        if (r >= 0)
                r = api_body(request, keys, &body, &error);
        if (r >= 0)
                r = doc_opt_bool(body, "", "dry_run", &dry, &error);
        if (r >= 0)
                r = check_action(request, json_spec(doc), &error);
        if (r >= 0 && dry)
                r = schedules_plan(manager, doc, &plan, &error);
        if (r < 0)
                api_reply_refusal(request, manager, error);
        else if (dry)
                moves_plan_reply(plan, request, manager);
        else
                run_now(request, manager, doc);
}
