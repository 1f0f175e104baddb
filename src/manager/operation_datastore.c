/* SPDX-License-Identifier: Apache-2.0 */

/* datastore.maintenance: the datastore is closed (check `datastore-maintenance`), and the disks there move to others; datastore.maintenance-end: it is
 * opened. Its document has status.maintenance {"state", "since", "by", "why", "task"}: entering, on (nothing is left there), or incomplete.
 *
 * Cancelled, it is as it was before, but for what has moved. A failure leaves it closed: who mends what the report names repeats the request.
 *
 * Data: by, reason, before (status.maintenance of before, or null), since, and what moves.h says. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/moves.h"
#include "manager/operations.h"

#define MINUTE_MS (60ull * 1000)

static int load(const struct task *task, struct manager *manager, json_t **ret_doc, struct error **ret_error)
{
        return store_get(
                manager->store, "datastore", json_text(task_data(task), "datastore"), ret_doc, ret_error);
}

/* Puts status.maintenance (taken over; null: none) into the document, with the end of the step. Ends the step. */
static void end_with_maintenance(struct task *task, json_t *doc, json_t *maintenance)
{
        uint64_t revision = json_revision(doc);
        int r = maintenance ? 0 : -ENOMEM;

        if (json_is_null(maintenance)) {
                (void)json_object_del(json_status(doc), "maintenance");
                json_decref(maintenance);
        } else if (r == 0)
                r = json_object_set_new(json_status(doc), "maintenance", maintenance);
        if (r < 0) {
                json_decref(doc);
                task_step_failed(task, NULL);
                return;
        }
        store_batch_put(task_batch(task), revision, doc);
        task_step_done(task);
}

static json_t *maintenance_document(const struct task *task, const char *state)
{
        return json_pack("{s:s, s:O, s:O, s:O, s:s}", "state", state, "since",
                json_object_get(task_data(task), "since"), "by", json_object_get(task_data(task), "by"),
                "why", json_object_get(task_data(task), "reason"), "task", task_name(task));
}

static void run_close(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        struct error *error = NULL;
        json_t *doc = NULL, *before;
        char since[32];

        if (load(task, manager, &doc, &error) < 0) {
                task_step_failed(task, error);
                return;
        }
        before = json_object_get(json_status(doc), "maintenance");
        text_format_time(clock_unix_ms(manager->clock), since);
        if (json_object_set_new(task_data(task), "since",
                    json_is_object(before) ? json_incref(json_object_get(before, "since"))
                                           : json_string(since)) < 0 ||
                json_object_set_new(task_data(task), "before",
                        json_is_object(before) ? json_deep_copy(before) : json_null()) < 0) {
                json_decref(doc);
                task_step_failed(task, NULL);
                return;
        }
        end_with_maintenance(task, doc, maintenance_document(task, "entering"));
}

/* Cancelled: as before, though disks have moved. Failed: closed, and so it says. */
static void undo_close(struct task *task, void *userdata)
{
        json_t *before = json_object_get(task_data(task), "before"), *doc = NULL;

        if (!before || load(task, userdata, &doc, NULL) < 0)
                task_step_done(task); /* it was not begun, or is gone */
        else
                end_with_maintenance(task, doc,
                        task_cancel_requested(task) ? json_deep_copy(before)
                                                    : maintenance_document(task, "incomplete"));
}

static void run_settle(struct task *task, void *userdata)
{
        if (!step_waits_for_hosts(task, userdata))
                task_step_done(task);
}

/* 0, or the one error that says how many are left there and why the first of them. */
static int left_error(const struct task *task, struct error **ret_error)
{
        size_t n_stay = moves_count(task, "stays"), n_files = moves_count(task, "files-stay"), i;
        const char *datastore = json_text(task_data(task), "datastore"),
                   *first = n_stay ? "stays" : "files-stay";
        json_t *records = json_object_get(task_data(task), "moves"), *record;

        json_array_foreach (records, i, record)
                if (!strcmp(json_text(record, "outcome"), first))
                        return error_set(ret_error, ERROR_CONFLICT,
                                n_stay ? "Mend what the report names, or make room elsewhere, and repeat it."
                                       : "All disks have moved. A folder goes with its virtual machine to "
                                         "another host (`drover vm migrate --to --to-datastore`); what is "
                                         "read-only is for you to move.",
                                "of %zu virtual machines %zu still have disks on datastore %s and %zu other "
                                "files; %s: %s",
                                json_array_size(records), n_stay, datastore, n_files,
                                json_text(record, "name"),
                                json_text_or_null(record, "why") ?: "no datastore took it");
        return 0;
}

static void run_conclude(struct task *task, void *userdata)
{
        struct error *error = NULL;
        json_t *doc = NULL;

        if (left_error(task, &error) < 0 || load(task, userdata, &doc, &error) < 0)
                task_step_failed(task, error);
        else
                end_with_maintenance(task, doc, maintenance_document(task, "on"));
}

static const struct task_step steps[] = {
        {.name = "close", .run = run_close, .undo = undo_close, .no_timeout = true},
        {.name = "settle", .run = run_settle, .no_timeout = true},
        {.name = "move", .run = operation_moves_run, .cancel = operation_moves_cancel, .no_timeout = true},
        {.name = "conclude", .run = run_conclude, .cancel = operation_moves_cancel, .no_timeout = true},
};
const struct task_kind operation_datastore_maintenance = {
        .action = "datastore.maintenance",
        .steps = steps,
        .n_steps = ARRAY_SIZE(steps),
        .timeout_ms = 10 * MINUTE_MS,
        .audited = moves_audited,
};

static void run_open(struct task *task, void *userdata)
{
        struct error *error = NULL;
        json_t *doc = NULL;

        if (load(task, userdata, &doc, &error) < 0)
                task_step_failed(task, error);
        else
                end_with_maintenance(task, doc, json_null());
}

static const struct task_step end_steps[] = {
        {.name = "open", .run = run_open, .no_timeout = true},
};
const struct task_kind operation_datastore_maintenance_end = {
        .action = "datastore.maintenance-end",
        .steps = end_steps,
        .n_steps = ARRAY_SIZE(end_steps),
        .timeout_ms = MINUTE_MS,
};
