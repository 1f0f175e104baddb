/* SPDX-License-Identifier: Apache-2.0 */

/* vm.resize-disk, and what it shares with the tasks of snapshots. The agent looks at the image before it changes it: a size that it has already
 * is no error, so the call may be repeated; what it answers is recorded with the end of the step.
 *
 * Input: disk, size_bytes. Data: vm_uid; host_uid, host. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/disk_work.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"
#include "manager/snapshots.h"

#define CALL_TIMEOUT_MS 630000u /* above what the agent gives QEMU, or qemu-img, for one image */
#define MINUTE_MS (60ull * 1000)
#define SIZE_MAX_BYTES ((json_int_t)64 << 40)
#define SECTOR_BYTES 512

static bool is_one_of(const char *word, const char *const *words)
{
        for (; *words; words++)
                if (!strcmp(*words, word))
                        return true;
        return false;
}

static int check_host(
        struct manager *manager, const json_t *vm, const json_t **ret_host, struct error **ret_error)
{
        const json_t *host = inventory_host(manager->inventory, json_text(json_status(vm), "host"));

        if (!host)
                return error_set(
                        ret_error, ERROR_CONFLICT, "Start it once.", "the virtual machine is on no host");
        if (!inventory_connected(manager->inventory, json_text(host, "uid")))
                return error_set(ret_error, ERROR_UNREACHABLE, "Bring the host's agent back first.",
                        "host %s, where the virtual machine is, cannot be reached", json_text(host, "name"));
        if (!json_is_true(json_object_get(json_object_get(json_status(host), "capabilities"), "disk_work")))
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Upgrade drover there.",
                        "the agent of host %s is of a version that cannot change disks in place",
                        json_text(host, "name"));
        *ret_host = host;
        return 0;
}

int disk_work_check(struct manager *manager, const json_t *vm, const json_t *names, const json_t **ret_host,
        struct error **ret_error)
{
        static const char *const powers[] = {"running", "paused", "stopped", "crashed", NULL};
        _cleanup_json_ json_t *wanted = json_array();
        const char *power = json_text(json_status(vm), "power");
        json_t *name;
        size_t i;

        if (!is_one_of(power, powers))
                return error_set(ret_error, ERROR_CONFLICT,
                        "Its disks can be changed while it runs, is paused, or is off.",
                        "the virtual machine is %s", power);
        json_array_foreach ((json_t *)names, i, name)
                if (json_array_append_new(wanted, json_pack("{s:O}", "name", name)) < 0)
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (operation_storage_check_alone(
                    manager, vm, wanted, "Give that one an image of its own first.", ret_error) < 0)
                return -EBUSY;
        return check_host(manager, vm, ret_host, ret_error);
}

void disk_work_call(struct task *task, struct manager *manager, const char *work, const json_t *names,
        const char *snapshot, uint64_t size_bytes, step_reply_fn fn)
{
        const json_t *vm = disk_work_vm(task, manager);
        _cleanup_json_ json_t *document = vm ? vm_for_agent(vm) : NULL, *body = NULL;
        _cleanup_free_ char *path =
                alloc_printf("/agent/v1/vms/%s/disk-work", json_text(task_data(task), "vm_uid"));
        char id[37];

        if (!vm)
                return;
        if (document)
                body = json_pack("{s:O, s:s, s:O, s:s*, s:o*}", "vm", document, "work", work, "disks", names,
                        "snapshot", snapshot, "size_bytes",
                        size_bytes ? json_integer((json_int_t)size_bytes) : NULL);
        task_request_id(task, id);
        if (!body || !path)
                task_step_failed(task, NULL);
        else
                step_call(task, manager,
                        &(struct agent_request){.host_uid = json_text(task_data(task), "host_uid"),
                                .method = "POST",
                                .path = path,
                                .body = body,
                                .request_id = id,
                                .own_connection = true, /* whoever asks again has to know it: run_revert() */
                                .timeout_ms = CALL_TIMEOUT_MS},
                        fn);
}

static bool is_size(const json_t *value)
{
        return json_is_integer(value) && json_integer_value(value) > 0 &&
               json_integer_value(value) <= SIZE_MAX_BYTES && json_integer_value(value) % SECTOR_BYTES == 0;
}

json_t *disk_work_sizes(const json_t *body, const json_t *names)
{
        _cleanup_json_ json_t *sizes = json_array();
        json_t *name;
        size_t i;

        json_array_foreach ((json_t *)names, i, name) {
                const json_t *disk =
                        json_named(json_object_get(body, "disks"), json_string_value(name) ?: "");
                json_t *size = json_object_get(disk, "size_bytes");

                if (is_size(size) && json_array_append_new(sizes,
                                             json_pack("{s:O, s:O}", "name", name, "size_bytes", size)) < 0)
                        return NULL;
        }
        return TAKE_PTR(sizes);
}

void disk_work_set_result(
        struct task *task, const char *key, const char *name, const json_t *sizes, const json_t *body)
{
        task_set_result(
                task, json_pack("{s:s, s:s, s:s, s:O, s:b}", "vm_uid", json_text(task_data(task), "vm_uid"),
                              "host", json_text(task_data(task), "host"), key, name, "disks", sizes, "live",
                              json_is_true(json_object_get(body, "live"))));
}

void disk_work_cancel_later(struct task *task, void *userdata)
{
        step_say(task, "cannot be stopped any more; waiting for the host's answer");
}

const json_t *disk_work_vm(struct task *task, struct manager *manager)
{
        const json_t *vm = inventory_vm(manager->inventory, json_text(task_data(task), "vm_uid"));
        struct error *error = NULL;

        if (!vm) {
                error_set(&error, ERROR_NOT_FOUND, NULL,
                        "the virtual machine is not in the inventory any more");
                task_step_failed(task, error);
        }
        return vm;
}

int disk_work_remember_host(struct task *task, const json_t *host)
{
        return json_object_set_new(task_data(task), "host_uid", json_string(json_text(host, "uid"))) < 0 ||
                               json_object_set_new(
                                       task_data(task), "host", json_string(json_text(host, "name"))) < 0
                       ? -ENOMEM
                       : 0;
}

/* --- vm.resize-disk ------------------------------------------------------------------------------------------ */

int operation_resize_check(struct manager *manager, const json_t *vm, const json_t *input,
        const json_t **ret_host, struct error **ret_error)
{
        const char *name = json_text(input, "disk");
        const json_t *disk = json_named(json_object_get(json_spec(vm), "disks"), name);
        json_int_t size = json_integer_value(json_object_get(input, "size_bytes")),
                   has = json_integer_value(json_object_get(disk, "size_bytes"));
        _cleanup_json_ json_t *names = json_pack("[s]", name);
        char text[2][16];

        if (!disk)
                return error_set(ret_error, ERROR_NOT_FOUND, "`drover vm show` lists them.",
                        "the virtual machine has no disk %.64s", name);
        if (json_is_true(json_object_get(disk, "read_only")))
                return error_set(ret_error, ERROR_NOT_SUPPORTED, NULL,
                        "disk %s is read-only: others may use its image", name);
        if (size < has)
                return error_set(ret_error, ERROR_CONFLICT,
                        "To shrink it, make a smaller disk, copy what is in it from within the guest, and "
                        "use that one.",
                        "disk %s has %s and cannot be made smaller (%s): what the guest has at its end would "
                        "be lost",
                        name, text_format_size((uint64_t)has, text[0]),
                        text_format_size((uint64_t)size, text[1]));
        if (snapshots_check_reverted(vm, ret_error) < 0)
                return -EBUSY;
        return names ? disk_work_check(manager, vm, names, ret_host, ret_error)
                     : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static void run_check(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *vm, *host = NULL;
        struct error *error = NULL;

        if (step_waits_for_hosts(task, manager))
                return;
        vm = disk_work_vm(task, manager);
        if (!vm)
                return;
        if (operation_resize_check(manager, vm, task_input(task), &host, &error) < 0)
                task_step_failed(task, error);
        else if (disk_work_remember_host(task, host) < 0)
                task_step_failed(task, NULL);
        else
                task_step_done(task);
}

static void on_resized(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        const char *name = json_text(task_input(task), "disk");
        _cleanup_json_ json_t *names = json_pack("[s]", name), *sizes = NULL, *doc = NULL;
        const json_t *vm;

        if (error) {
                task_step_failed(task, error_with_names(manager, error));
                return;
        }
        vm = disk_work_vm(task, manager);
        if (!vm)
                return;
        sizes = disk_work_sizes(body, names);
        doc = json_deep_copy(vm);
        if (!names || !sizes || !doc || snapshots_take_sizes(json_spec(doc), sizes) < 0) {
                task_step_failed(task, NULL);
                return;
        }
        if (!json_equal(doc, vm))
                store_batch_put(task_batch(task), json_revision(vm), TAKE_PTR(doc));
        disk_work_set_result(task, "disk", name, sizes, body);
        task_step_done(task);
}

static void run_resize(struct task *task, void *userdata)
{
        const json_t *input = task_input(task);
        _cleanup_json_ json_t *names = json_pack("[s]", json_text(input, "disk"));

        if (names)
                disk_work_call(task, userdata, "resize", names, NULL,
                        (uint64_t)json_integer_value(json_object_get(input, "size_bytes")), on_resized);
        else
                task_step_failed(task, NULL);
}

static const struct task_step resize_steps[] = {
        {.name = "check", .run = run_check},
        {.name = "resize", .run = run_resize, .cancel = disk_work_cancel_later},
        {.name = "refresh", .run = step_refresh, .cancel = disk_work_cancel_later},
};
const struct task_kind operation_vm_resize_disk = {
        .action = "vm.resize-disk",
        .steps = resize_steps,
        .n_steps = ARRAY_SIZE(resize_steps),
        .timeout_ms = 15 * MINUTE_MS,
};
