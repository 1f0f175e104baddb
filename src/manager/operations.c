/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/operations.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/migration_queue.h"
#include "manager/vm_spec.h"
#include "manager/vm_status.h"

#define RETRY_MS 1000
#define ANSWER_MAX_BYTES (256u << 10) /* it goes into documents of at most STORE_DOCUMENT_MAX */
#define REFRESH_AGAIN_MS 50
#define REFRESH_MAX_MS 10000
#define SETTLE_MAX_MS 15000
#define MESSAGE_MAX 512
#define CHOICE_RANKED_MAX 5

const struct task_kind *const operation_kinds[] = {
        &operation_vm_create,
        &operation_vm_start,
        &operation_vm_stop,
        &operation_vm_pause,
        &operation_vm_resume,
        &operation_vm_suspend,
        &operation_vm_delete,
        &operation_vm_migrate,
        &operation_vm_migrate_cold,
        &operation_vm_migrate_disks,
        &operation_vm_resize_disk,
        &operation_vm_snapshot_create,
        &operation_vm_snapshot_revert,
        &operation_vm_snapshot_delete,
        &operation_vm_import,
        &operation_vm_export,
        &operation_vm_import_disk,
        &operation_vm_export_disk,
        &operation_host_add,
        &operation_host_sync,
        &operation_host_remove,
        &operation_host_maintenance,
        &operation_host_maintenance_end,
        &operation_schedule_run,
        &operation_datastore_apply,
        &operation_datastore_remove,
        &operation_datastore_maintenance,
        &operation_datastore_maintenance_end,
        &operation_network_apply,
        &operation_network_remove,
        &operation_network_upgrade,
        NULL,
};

bool operation_may_start(const struct task *task, void *userdata)
{
        const struct manager *manager = userdata;

        return migration_queue_may_start(manager->queue, task);
}

int operation_starting(struct task *task, void *userdata)
{
        const struct manager *manager = userdata;

        return migration_queue_starting(manager->queue, task);
}

/* A call to an agent that a task waits for. Freed by its answer, or by the task when it is stopped. */
struct step_call {
        struct task *task;
        struct manager *manager;
        struct http_call *call;
        step_reply_fn fn;
        bool once;
};

static void on_step_reply(void *userdata, int status, json_t *body, struct error *error)
{
        _cleanup_free_ struct step_call *call = userdata;
        struct task *task = call->task;

        task_set_pending(task, NULL, NULL);
        if (status != 0 || call->once) {
                call->fn(task, call->manager, error ? NULL : body, error);
                return;
        }
        step_say(task, "%s", error_message(error));
        task_step_again(task, RETRY_MS);
}

static void cancel_step_call(void *pending)
{
        struct step_call *call = pending;

        http_call_cancel(call->call);
        free(call);
}

/* Nobody will answer, and nothing that the host has is left: that is an answer. */
static void answer_for_dead(
        struct task *task, struct manager *manager, const char *host_uid, step_reply_fn fn)
{
        _cleanup_error_ struct error *error = NULL;

        error_set(&error, ERROR_UNREACHABLE, "Bring the host's agent back first.",
                "host %s was confirmed down",
                json_text(inventory_host(manager->inventory, host_uid), "name"));
        fn(task, manager, NULL, error);
}

static void call_agent(struct task *task, struct manager *manager, const struct agent_request *request,
        step_reply_fn fn, bool once)
{
        struct agent_request bounded = *request;
        struct step_call *call;
        struct error *error = NULL;
        int r;

        bounded.body_max_bytes = ANSWER_MAX_BYTES;
        if (inventory_confirmed_down(manager->inventory, request->host_uid)) {
                answer_for_dead(task, manager, request->host_uid, fn);
                return;
        }
        call = ALLOC(struct step_call);
        if (!call) {
                task_step_failed(task, NULL);
                return;
        }
        *call = (struct step_call){.task = task, .manager = manager, .fn = fn, .once = once};
        r = agent_call(manager, &bounded, on_step_reply, call, &call->call, &error);
        if (r >= 0) {
                task_set_pending(task, call, cancel_step_call);
                return;
        }
        free(call);
        if (once) {
                fn(task, manager, NULL, error);
                error_free(error);
        } else
                task_step_failed(task, error);
}

void step_call(
        struct task *task, struct manager *manager, const struct agent_request *request, step_reply_fn fn)
{
        call_agent(task, manager, request, fn, false);
}

void step_call_once(
        struct task *task, struct manager *manager, const struct agent_request *request, step_reply_fn fn)
{
        call_agent(task, manager, request, fn, true);
}

void step_refresh(struct task *task, void *userdata)
{
        static const char *const keys[] = {"host_uid", "to_uid"};
        struct manager *manager = userdata;
        uint64_t elapsed = task_step_elapsed_ms(task), began = clock_now_ms(manager->clock) - elapsed;
        bool fresh = true;

        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                const char *uid = json_text(task_data(task), keys[i]);

                if (!*uid || !inventory_connected(manager->inventory, uid) ||
                        inventory_fresh(manager->inventory, uid, began))
                        continue;
                fresh = false;
                if (task_step_first(task))
                        inventory_refresh(manager->inventory, uid);
        }
        if (fresh || elapsed > REFRESH_MAX_MS)
                task_step_done(task);
        else
                task_step_again(task, REFRESH_AGAIN_MS);
}

bool step_waits_for_hosts(struct task *task, struct manager *manager)
{
        if (inventory_settled(manager->inventory) || task_step_elapsed_ms(task) >= SETTLE_MAX_MS)
                return false;
        step_say(task, "waiting for the hosts to answer");
        task_step_again(task, REFRESH_AGAIN_MS);
        return true;
}

json_int_t operation_percent(double done, double total)
{
        double percent = 100.0 * done / total;

        return done > 0 && total > 0 && percent > 0 ? (json_int_t)MIN(percent, 99.0) : 0;
}

struct error *error_copy(const struct error *error)
{
        _cleanup_json_ json_t *json = error_to_json(error);

        return json ? error_from_json(json) : NULL;
}

/* The first "host UID" in the text that is one of ours, and where its uid begins; NULL: there is none. */
static const json_t *find_host(const struct manager *manager, const char *text, const char **ret_at)
{
        static const char word[] = "host ";

        for (const char *at = strstr(text, word); at; at = strstr(at, word)) {
                char uid[UUID_STRING_SIZE];
                const json_t *host;

                at += strlen(word);
                snprintf(uid, sizeof(uid), "%s", at);
                host = text_is_uuid(uid) ? inventory_host(manager->inventory, uid) : NULL;
                if (host) {
                        *ret_at = at;
                        return host;
                }
        }
        return NULL;
}

struct error *error_with_names(const struct manager *manager, const struct error *error)
{
        struct error *copy = error_copy(error);
        const char *at = NULL;
        const json_t *host = copy ? find_host(manager, error_message(copy), &at) : NULL;
        char *message;

        if (!host)
                return copy;
        message = alloc_printf("%.*s%s%s", (int)(at - error_message(copy)), error_message(copy),
                json_text(host, "name"), at + strlen(json_text(host, "uid")));
        if (message) {
                free(copy->message);
                copy->message = message;
        }
        return copy;
}

/* The best of a ranking, without the single checks: an entry for each of a thousand hosts would be no record but a burden. */
static json_t *ranking_summary(const json_t *ranking)
{
        json_t *summary = json_array(), *item;
        size_t i;

        json_array_foreach ((json_t *)ranking, i, item) {
                if (!summary || i == CHOICE_RANKED_MAX)
                        break;
                if (json_array_append_new(summary,
                            json_pack("{s:O, s:O, s:O, s:O*}", "host", json_object_get(item, "host"), "ok",
                                    json_object_get(item, "ok"), "score", json_object_get(item, "score"),
                                    "reasons", json_object_get(item, "reasons"))) < 0) {
                        json_decref(summary);
                        return NULL;
                }
        }
        return summary;
}

int step_chose(struct task *task, const char *host, const json_t *ranking, struct error **ret_error)
{
        json_t *detail = json_pack("{s:s, s:s, s:I, s:o}", "task", task_name(task), "host", host, "n_hosts",
                (json_int_t)json_array_size(ranking), "ranking", ranking_summary(ranking));

        return task_decided(task, "the best of the hosts that can take it", detail) == 0
                       ? 0
                       : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

void step_say(struct task *task, const char *fmt, ...)
{
        char text[MESSAGE_MAX];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        task_progress(task, json_pack("{s:n, s:s}", "percent", "message", text));
}

json_t *vm_for_agent(const json_t *vm)
{
        _cleanup_json_ json_t *status = json_copy(json_status(vm));

        if (json_status(vm) && !status)
                return NULL;
        if (status)
                (void)json_object_del(status, "moved_cold");
        return json_pack("{s:s, s:s, s:s, s:I, s:O, s:O*}", "kind", "vm", "name", json_text(vm, "name"),
                "uid", json_text(vm, "uid"), "revision", (json_int_t)json_revision(vm), "spec", json_spec(vm),
                "status", status);
}

/* What the agent filled in; nothing, if what it says is no such thing. */
static int take_spec(json_t *doc, const json_t *reported, const char *host_name)
{
        json_t *spec = NULL;
        int r = vm_spec_take(json_spec(doc), json_text(doc, "name"), reported, &spec);

        if (r == -EINVAL) {
                log_warning("host %s says that the virtual machine %s is another one than it is", host_name,
                        json_text(doc, "name"));
                return 0;
        }
        if (r >= 0)
                r = json_object_set_new(doc, "spec", spec);
        return r;
}

void vm_take_report(struct task *task, struct manager *manager, const json_t *report, const char *host_name)
{
        const char *uid = json_text(task_data(task), "vm_uid");
        _cleanup_json_ json_t *doc = json_deep_copy(inventory_vm(manager->inventory, uid));
        json_t *status = vm_status_reported(report, json_status(doc), host_name);
        uint64_t revision = json_revision(doc);

        if (!doc || !status || json_object_set_new(doc, "status", status) < 0)
                return;
        if (!strcmp(json_text(status, "power"), "running"))
                (void)json_object_del(json_object_get(doc, "internal"), "suspended_by");
        if (json_is_object(json_spec(report)) && take_spec(doc, json_spec(report), host_name) < 0)
                return;
        store_batch_put(task_batch(task), revision, TAKE_PTR(doc));
}
