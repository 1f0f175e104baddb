/* SPDX-License-Identifier: Apache-2.0 */

/* vm.snapshot-create, -revert and -delete (docs/decisions/0036). The document says first what is about to be done with a snapshot, then the
 * host's agent is asked, whose call may be repeated, and with the end of that step the document says that it was done. So whatever dies in
 * between, the document never names a snapshot as good that is not, and never forgets one that an image may have.
 *
 * Input: snapshot (its name), description; accept_mixed_disks (of delete). Data: vm_uid; host_uid, host; disks: names; asked, asked_again:
 * the agent may have heard of it, more than once; refused: it said no before it changed anything; cleared: nothing of a snapshot that was to
 * be made is left; accepted: disks of two moments are what the virtual machine has from now on. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/disk_work.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"
#include "manager/snapshots.h"

#define MINUTE_MS (60ull * 1000)
#define AGAIN_MS 500
#define CLEAR_MAX_MS 60000u

static const char *name_of(const struct task *task)
{
        return json_text(task_input(task), "snapshot");
}

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

/* --- What can be done ------------------------------------------------------------------------------------------ */

static json_t *names_of(const json_t *disks, bool all)
{
        _cleanup_json_ json_t *names = json_array();
        json_t *disk;
        size_t i;

        json_array_foreach ((json_t *)disks, i, disk)
                if ((all || !json_is_true(json_object_get(disk, "read_only"))) &&
                        json_array_append(names, json_object_get(disk, "name")) < 0)
                        return NULL;
        return TAKE_PTR(names);
}

static int check_formats(const json_t *vm, struct error **ret_error)
{
        json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(json_spec(vm), "disks"), i, disk)
                if (!json_is_true(json_object_get(disk, "read_only")) &&
                        strcmp(json_text(disk, "format"), "qcow2") != 0)
                        return error_set(ret_error, ERROR_CHECK_FAILED,
                                "Convert it first, also while it runs: drover vm migrate VM --to-datastore "
                                "DATASTORE --format qcow2.",
                                "disk-format: disk %s is %s, which cannot hold snapshots",
                                json_text(disk, "name"), json_text(disk, "format"));
        return 0;
}

int operation_snapshot_check_create(struct manager *manager, const json_t *vm, const json_t *input,
        const json_t **ret_host, struct error **ret_error)
{
        _cleanup_json_ json_t *disks = names_of(json_object_get(json_spec(vm), "disks"), false);
        const char *name = json_text(input, "snapshot");
        int r = disks ? 0 : no_memory(ret_error);

        if (r >= 0 && snapshots_find(vm, name))
                r = error_set(ret_error, ERROR_EXISTS, "Give it another name, or delete that one.",
                        "there is a snapshot %s already", name);
        if (r >= 0 && !json_array_size(disks))
                r = error_set(ret_error, ERROR_CONFLICT, NULL,
                        "the virtual machine has no disk that could have snapshots");
        if (r >= 0)
                r = check_formats(vm, ret_error);
        if (r >= 0)
                r = snapshots_check_reverted(vm, ret_error);
        return r < 0 ? r : disk_work_check(manager, vm, disks, ret_host, ret_error);
}

static int find(const json_t *vm, const char *name, const json_t **ret, struct error **ret_error)
{
        *ret = snapshots_find(vm, name);
        return *ret ? 0
                    : error_set(ret_error, ERROR_NOT_FOUND, "`drover vm snapshot list` lists them.",
                              "the virtual machine has no snapshot %.64s", name);
}

int operation_snapshot_check_revert(struct manager *manager, const json_t *vm, const json_t *input,
        const json_t **ret_host, struct error **ret_error)
{
        const char *power = json_text(json_status(vm), "power"), *name = json_text(input, "snapshot");
        _cleanup_json_ json_t *disks = NULL;
        const json_t *snapshot;
        int r = find(vm, name, &snapshot, ret_error);

        if (r >= 0 && !snapshot_is(snapshot, SNAPSHOT_READY) && !snapshot_is(snapshot, SNAPSHOT_REVERTING))
                r = error_set(ret_error, ERROR_CONFLICT, "Delete it.",
                        "the snapshot %s is not complete: its making or deleting has not ended well", name);
        if (r >= 0 && strcmp(power, "stopped") != 0 && strcmp(power, "crashed") != 0)
                r = error_set(ret_error, ERROR_CONFLICT,
                        !strcmp(power, "suspended")
                                ? "Resume and stop it first, or start it with --discard-state and stop it."
                                : "Stop it first: what is in its memory would not be that of its disks.",
                        "the virtual machine is %s", power);
        if (r >= 0)
                r = snapshot_check_disks(vm, snapshot, ret_error);
        if (r < 0)
                return r;
        disks = names_of(json_object_get(snapshot, "disks"), true);
        return disks ? disk_work_check(manager, vm, disks, ret_host, ret_error) : no_memory(ret_error);
}

int operation_snapshot_check_delete(struct manager *manager, const json_t *vm, const json_t *input,
        const json_t **ret_host, struct error **ret_error)
{
        _cleanup_json_ json_t *disks = NULL;
        const json_t *snapshot;
        int r = find(vm, json_text(input, "snapshot"), &snapshot, ret_error);

        if (r >= 0 && snapshot == snapshots_reverting(vm) &&
                !json_is_true(json_object_get(input, "accept_mixed_disks")))
                r = snapshots_check_reverted(vm, ret_error);
        if (r < 0)
                return r;
        disks = snapshot_disks_there(vm, snapshot);
        return disks ? disk_work_check(manager, vm, disks, ret_host, ret_error) : no_memory(ret_error);
}

/* --- Steps ------------------------------------------------------------------------------------------------------ */

/* The document as it is to be after this step; NULL: the step has failed. The caller's. */
static json_t *begin_change(struct task *task, struct manager *manager, uint64_t *ret_revision)
{
        const json_t *vm = disk_work_vm(task, manager);
        json_t *doc = vm ? json_deep_copy(vm) : NULL;

        if (vm && !doc)
                task_step_failed(task, NULL);
        *ret_revision = json_revision(vm);
        return doc;
}

/* doc is taken over. */
static void end_change(struct task *task, uint64_t revision, json_t *doc)
{
        store_batch_put(task_batch(task), revision, doc);
        task_step_done(task);
}

static int remember(struct task *task, const json_t *host, json_t *disks)
{
        if (json_object_set_new(task_data(task), "disks", disks) < 0)
                return -ENOMEM;
        return disk_work_remember_host(task, host);
}

typedef int (*check_fn)(struct manager *manager, const json_t *vm, const json_t *input,
        const json_t **ret_host, struct error **ret_error);

/* Checks again, then writes down what is about to be done: `change` with the document. */
static void run_record(struct task *task, struct manager *manager, check_fn check,
        int (*change)(struct task *task, struct manager *manager, json_t *doc, struct error **ret_error))
{
        _cleanup_json_ json_t *doc = NULL;
        const json_t *host = NULL;
        struct error *error = NULL;
        uint64_t revision;

        if (step_waits_for_hosts(task, manager))
                return;
        doc = begin_change(task, manager, &revision);
        if (!doc)
                return;
        if (check(manager, doc, task_input(task), &host, &error) < 0 ||
                change(task, manager, doc, &error) < 0)
                task_step_failed(task, error);
        else if (remember(task, host, snapshot_disks_there(doc, snapshots_find(doc, name_of(task)))) < 0)
                task_step_failed(task, NULL);
        else
                end_change(task, revision, TAKE_PTR(doc));
}

static void ask(struct task *task, struct manager *manager, const char *work, step_reply_fn fn)
{
        const json_t *vm = disk_work_vm(task, manager);
        char tag[SNAPSHOT_TAG_SIZE];

        if (!vm)
                return;
        snapshot_tag(snapshots_find(vm, name_of(task)), tag);
        disk_work_call(task, manager, work, json_object_get(task_data(task), "disks"), tag, 0, fn);
}

/* Takes the answer over, with the end of the step; `change` as above. */
static void take_answer(struct task *task, struct manager *manager, const json_t *body,
        int (*change)(json_t *doc, const char *name, const json_t *disks))
{
        uint64_t revision;
        _cleanup_json_ json_t *doc = begin_change(task, manager, &revision), *sizes = NULL;

        if (!doc)
                return;
        /* The agent's own document has them as well from now on, and a migration compares the two. */
        sizes = disk_work_sizes(body, json_object_get(task_data(task), "disks"));
        if (!sizes || snapshots_take_sizes(json_spec(doc), sizes) < 0 ||
                change(doc, name_of(task), sizes) < 0) {
                task_step_failed(task, NULL);
                return;
        }
        disk_work_set_result(task, "snapshot", name_of(task), sizes, body);
        end_change(task, revision, TAKE_PTR(doc));
}

/* --- Create ------------------------------------------------------------------------------------------------------ */

static int add(struct task *task, struct manager *manager, json_t *doc, struct error **ret_error)
{
        char created[32];

        return snapshots_add(doc, name_of(task), task_uid(task),
                json_text_or_null(task_input(task), "description"),
                text_format_time(clock_unix_ms(manager->clock), created), ret_error);
}

static void run_record_new(struct task *task, void *userdata)
{
        run_record(task, userdata, operation_snapshot_check_create, add);
}

static void undo_record_new(struct task *task, void *userdata)
{
        const json_t *data = task_data(task);
        _cleanup_json_ json_t *doc = NULL;
        uint64_t revision;

        /* The host has not said that nothing is left: who deletes it asks again. */
        if (json_object_get(data, "asked") && !json_object_get(data, "cleared")) {
                task_step_done(task);
                return;
        }
        doc = begin_change(task, userdata, &revision);
        if (!doc)
                return;
        /* Of the same name there may be one that is not this task's, which is why it failed. */
        if (snapshot_is_of(snapshots_find(doc, name_of(task)), task_uid(task)) &&
                snapshots_drop(doc, name_of(task)) >= 0)
                store_batch_put(task_batch(task), revision, TAKE_PTR(doc));
        task_step_done(task);
}

static int finish_new(json_t *doc, const char *name, const json_t *disks)
{
        json_t *snapshot = snapshots_find(doc, name);

        if (snapshot_set_state(snapshot, SNAPSHOT_READY) < 0 || snapshots_take_sizes(snapshot, disks) < 0)
                return -ENOMEM;
        return snapshots_set_current(doc, name);
}

static void on_made(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        struct error *cancelled = NULL;

        if (error)
                task_step_failed(task, error_with_names(manager, error));
        else if (task_cancel_requested(task)) {
                error_set(&cancelled, ERROR_CANCELLED, NULL, "the task was cancelled");
                task_step_failed(task, cancelled);
        } else
                take_answer(task, manager, body, finish_new);
}

static void run_make(struct task *task, void *userdata)
{
        if (json_object_set_new(task_data(task), "asked", json_true()) < 0 || task_checkpoint(task, NULL) < 0)
                task_step_failed(task, NULL);
        else
                ask(task, userdata, "snapshot", on_made);
}

static void on_unmade(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        struct error *left = NULL;

        /* The call that was given up may be at work still. */
        if (error && error->code == ERROR_BUSY && task_step_elapsed_ms(task) < CLEAR_MAX_MS)
                task_step_again(task, AGAIN_MS);
        else if (!error && json_object_set_new(task_data(task), "cleared", json_true()) >= 0)
                task_step_done(task);
        else {
                error_set(&left, error ? error->code : ERROR_NO_MEMORY, "Delete it later.",
                        "images may have something of the snapshot %s still: %s", name_of(task),
                        error_message(error));
                task_step_failed(task, left);
        }
}

static void undo_make(struct task *task, void *userdata)
{
        if (json_object_get(task_data(task), "asked"))
                ask(task, userdata, "delete", on_unmade);
        else
                task_step_done(task);
}

static const struct task_step create_steps[] = {
        {.name = "record", .run = run_record_new, .undo = undo_record_new},
        {.name = "snapshot", .run = run_make, .undo = undo_make, .cancel = disk_work_cancel_later},
        {.name = "refresh", .run = step_refresh, .cancel = disk_work_cancel_later, .keep = true},
};
const struct task_kind operation_vm_snapshot_create = {
        .action = "vm.snapshot-create",
        .steps = create_steps,
        .n_steps = ARRAY_SIZE(create_steps),
        .timeout_ms = 15 * MINUTE_MS,
};

/* --- Revert ------------------------------------------------------------------------------------------------------ */

static int mark_reverting(struct task *task, struct manager *manager, json_t *doc, struct error **ret_error)
{
        /* One that an earlier task has not brought to its end: then a refusal changes nothing of that. */
        if (snapshots_reverting(doc) &&
                json_object_set_new(task_data(task), "was_reverting", json_true()) < 0)
                return no_memory(ret_error);
        return snapshots_begin_revert(doc, name_of(task)) < 0 ? no_memory(ret_error) : 0;
}

static void run_record_revert(struct task *task, void *userdata)
{
        run_record(task, userdata, operation_snapshot_check_revert, mark_reverting);
}

static void undo_record_revert(struct task *task, void *userdata)
{
        const json_t *data = task_data(task);
        _cleanup_json_ json_t *doc = NULL;
        json_t *snapshot;
        uint64_t revision;

        if (json_object_get(data, "was_reverting") ||
                (json_object_get(data, "asked") && !json_object_get(data, "refused"))) {
                task_step_done(task);
                return;
        }
        doc = begin_change(task, userdata, &revision);
        if (!doc)
                return;
        snapshot = snapshots_find(doc, name_of(task));
        if (snapshot && snapshot_is(snapshot, SNAPSHOT_REVERTING) &&
                snapshot_set_state(snapshot, SNAPSHOT_READY) >= 0)
                store_batch_put(task_batch(task), revision, TAKE_PTR(doc));
        task_step_done(task);
}

static int finish_revert(json_t *doc, const char *name, const json_t *disks)
{
        if (snapshot_set_state(snapshots_find(doc, name), SNAPSHOT_READY) < 0)
                return -ENOMEM;
        return snapshots_set_current(doc, name);
}

/* What the agent says before a call has changed anything (src/agent/disk_work.c). */
static bool is_refusal(const struct error *error)
{
        static const enum error_code codes[] = {ERROR_NOT_FOUND, ERROR_CONFLICT, ERROR_BUSY,
                ERROR_BAD_DOCUMENT, ERROR_NOT_SUPPORTED, ERROR_CHECK_FAILED, ERROR_STALE_EPOCH,
                ERROR_OWNER_UNKNOWN, ERROR_OWNER_ELSEWHERE};

        for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
                if (error->code == codes[i])
                        return true;
        return false;
}

static void on_reverted(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (!error)
                take_answer(task, manager, body, finish_revert);
        else if (is_refusal(error) && !json_object_get(task_data(task), "asked_again") &&
                 json_object_set_new(task_data(task), "refused", json_true()) < 0)
                task_step_failed(task, NULL);
        else
                task_step_failed(task, error_with_names(manager, error));
}

/* An agent knows what it changed in answer to this call, not what one before it did of which no answer came: only the first one's refusal
 * says that the disks are as they were. */
static void run_revert(struct task *task, void *userdata)
{
        const char *key = json_object_get(task_data(task), "asked") ? "asked_again" : "asked";

        if (json_object_set_new(task_data(task), key, json_true()) < 0 || task_checkpoint(task, NULL) < 0)
                task_step_failed(task, NULL);
        else
                ask(task, userdata, "revert", on_reverted);
}

static const struct task_step revert_steps[] = {
        {.name = "record", .run = run_record_revert, .undo = undo_record_revert},
        {.name = "revert", .run = run_revert, .cancel = disk_work_cancel_later},
        {.name = "refresh", .run = step_refresh, .cancel = disk_work_cancel_later, .keep = true},
};
const struct task_kind operation_vm_snapshot_revert = {
        .action = "vm.snapshot-revert",
        .steps = revert_steps,
        .n_steps = ARRAY_SIZE(revert_steps),
        .timeout_ms = 15 * MINUTE_MS,
};

/* --- Delete ------------------------------------------------------------------------------------------------------ */

static int mark_deleting(struct task *task, struct manager *manager, json_t *doc, struct error **ret_error)
{
        return snapshot_begin_delete(snapshots_find(doc, name_of(task))) < 0 ? no_memory(ret_error) : 0;
}

static void run_record_delete(struct task *task, void *userdata)
{
        run_record(task, userdata, operation_snapshot_check_delete, mark_deleting);
}

static int finish_delete(json_t *doc, const char *name, const json_t *disks)
{
        return snapshots_drop(doc, name);
}

/* Nothing of the host's works on the disks any more, so they stay as they are; whether the next try would end otherwise is not known. */
static bool is_last_word(const struct error *error)
{
        static const enum error_code codes[] = {
                ERROR_NOT_FOUND, ERROR_CHECK_FAILED, ERROR_NOT_SUPPORTED, ERROR_NO_SPACE, ERROR_QEMU_FAILED};

        for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
                if (error->code == codes[i])
                        return true;
        return false;
}

/* Who takes disks of two moments as they are has them also when an image is damaged, or gone, so that the snapshot cannot be deleted from
 * all: but not before the host has said that nothing is at work on them. */
static void undo_record_delete(struct task *task, void *userdata)
{
        _cleanup_json_ json_t *doc = NULL;
        json_t *snapshot;
        uint64_t revision;

        if (!json_object_get(task_data(task), "accepted")) {
                task_step_done(task);
                return;
        }
        doc = begin_change(task, userdata, &revision);
        if (!doc)
                return;
        snapshot = snapshots_find(doc, name_of(task));
        if (snapshot) {
                snapshot_accept_mixed(snapshot);
                store_batch_put(task_batch(task), revision, TAKE_PTR(doc));
        }
        task_step_done(task);
}

static void on_deleted(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        bool accepts = json_is_true(json_object_get(task_input(task), "accept_mixed_disks"));

        if (error && accepts && is_last_word(error) &&
                json_object_set_new(task_data(task), "accepted", json_true()) < 0)
                task_step_failed(task, NULL);
        else if (error)
                task_step_failed(task, error_with_names(manager, error));
        else
                take_answer(task, manager, body, finish_delete);
}

static void run_delete(struct task *task, void *userdata)
{
        if (json_array_size(json_object_get(task_data(task), "disks")))
                ask(task, userdata, "delete", on_deleted);
        else
                take_answer(task, userdata, NULL, finish_delete);
}

static const struct task_step delete_steps[] = {
        {.name = "record", .run = run_record_delete, .undo = undo_record_delete},
        {.name = "delete", .run = run_delete, .cancel = disk_work_cancel_later},
        {.name = "refresh", .run = step_refresh, .cancel = disk_work_cancel_later},
};
const struct task_kind operation_vm_snapshot_delete = {
        .action = "vm.snapshot-delete",
        .steps = delete_steps,
        .n_steps = ARRAY_SIZE(delete_steps),
        .timeout_ms = 15 * MINUTE_MS,
};
