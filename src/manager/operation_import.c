/* SPDX-License-Identifier: Apache-2.0 */

/* vm.import: a virtual machine of another product, from an OVA or OVF on a datastore. One host reads what the appliance says, makes the VM without
 * disks, converts the disks into its folder, and then the document names them. The object of the VM is made with the task, so that its
 * name is taken, with a spec that `describe` replaces.
 *
 * Data: vm_uid, host_uid, host; job: what the agent is asked for now (operation_image.h); read_job; outcome: what it answered last; jobs: of
 * the disks; disks: what the document will have; described: what the appliance says. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operation_image.h"
#include "manager/operations.h"
#include "manager/vm_spec.h"

#define CALL_TIMEOUT_MS 10000u
#define UNDO_TIMEOUT_MS 90000u
#define POLL_MS 250
#define WAIT_MS 1000
#define UNDO_MAX_MS 300000
#define TIMEOUT_DEFAULT_MS (UINT64_C(24) * 3600 * 1000)
#define PAGE 4096

static const json_t *vm_of(const struct task *task, struct manager *manager)
{
        return inventory_vm(manager->inventory, json_text(task_data(task), "vm_uid"));
}

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static const char *target_datastore(const json_t *input)
{
        return json_text_or_null(input, "to_datastore") ?: json_text(input, "datastore");
}

static json_int_t timeout_of(const struct task *task)
{
        json_int_t wanted = json_integer_value(json_object_get(task_input(task), "timeout_ms"));

        return wanted > 0 ? wanted : (json_int_t)TIMEOUT_DEFAULT_MS;
}

/* --- Where ------------------------------------------------------------------------------------------------------------ */

/* The host that was named, or the first that has both datastores. */
static int find_host(
        struct manager *manager, const json_t *input, const json_t **ret_host, struct error **ret_error)
{
        const char *datastores[] = {json_text(input, "datastore"), target_datastore(input), NULL},
                   *wanted = json_text_or_null(input, "host");
        _cleanup_json_ json_t *hosts = inventory_live_hosts(manager->inventory);
        _cleanup_error_ struct error *last = NULL;
        json_t *live;
        size_t i;

        if (wanted) {
                *ret_host = inventory_host(manager->inventory, wanted);
                if (!*ret_host)
                        return error_set(ret_error, ERROR_NOT_FOUND, "See `drover host list`.",
                                "there is no host %.64s", wanted);
                return operation_image_check_host(manager, *ret_host, datastores, ret_error);
        }
        json_array_foreach (hosts, i, live) {
                const json_t *host = inventory_host(manager->inventory, json_text(live, "uid"));

                error_free(TAKE_PTR(last));
                if (host && operation_image_check_host(manager, host, datastores, &last) >= 0) {
                        *ret_host = host;
                        return 0;
                }
        }
        if (last)
                return error_propagate(ret_error, TAKE_PTR(last));
        return error_set(ret_error, ERROR_NO_RESOURCES, "Add one: `drover host add`.", "there is no host");
}

static void run_find(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *input = task_input(task), *host = NULL;
        json_t *data = task_data(task), *job;
        struct error *error = NULL;

        if (step_waits_for_hosts(task, manager))
                return;
        if (find_host(manager, input, &host, &error) < 0) {
                task_step_failed(task, error);
                return;
        }
        job = json_pack("{s:s, s:s, s:I, s:{s:O, s:O}}", "id", task_uid(task), "kind", "read", "timeout_ms",
                timeout_of(task), "source", "datastore", json_object_get(input, "datastore"), "path",
                json_object_get(input, "path"));
        if (json_object_set_new(data, "job", job) < 0 || json_object_set(data, "read_job", job) < 0 ||
                json_object_set_new(data, "host_uid", json_string(json_text(host, "uid"))) < 0 ||
                json_object_set_new(data, "host", json_string(json_text(host, "name"))) < 0)
                task_step_failed(task, NULL);
        else
                task_step_done(task);
}

static void undo_read(struct task *task, void *userdata)
{
        (void)json_object_set(task_data(task), "job", json_object_get(task_data(task), "read_job"));
        operation_image_undo(task, userdata);
}

/* --- What ------------------------------------------------------------------------------------------------------------- */

static int add_nics(const json_t *described, const json_t *map, json_t *nics, struct error **ret_error)
{
        json_t *nic;
        size_t i;

        json_array_foreach (json_object_get(described, "nics"), i, nic) {
                const char *network = json_text(nic, "network"),
                           *port_group = json_text_or_null(map, network);

                if (!port_group)
                        return error_set(ret_error, ERROR_BAD_DOCUMENT,
                                "Say which port group it becomes: --net-map 'NETWORK=PORTGROUP'; without a "
                                "port "
                                "group the NIC is left out.",
                                "the appliance has a NIC on the network \"%.100s\", which is not mapped",
                                network);
                if (*port_group &&
                        json_array_append_new(nics, json_pack("{s:s, s:O}", "port_group", port_group, "model",
                                                            json_object_get(nic, "model"))) < 0)
                        return no_memory(ret_error);
        }
        return 0;
}

static int make_spec(struct manager *manager, const json_t *input, const json_t *described, json_t **ret_spec,
        struct error **ret_error)
{
        json_int_t memory = json_integer_value(json_object_get(described, "memory_bytes"));
        _cleanup_json_ json_t *vms = inventory_vms(manager->inventory), *nics = json_array(), *spec = NULL;
        int r = vms && nics ? add_nics(described, json_object_get(input, "net_map"), nics, ret_error)
                            : no_memory(ret_error);

        if (r < 0)
                return r;
        spec = json_pack("{s:O, s:I, s:O, s:s, s:O}", "cpus", json_object_get(described, "cpus"),
                "memory_bytes", (memory + PAGE - 1) / PAGE * PAGE, "firmware",
                json_object_get(described, "firmware"), "datastore", target_datastore(input), "nics", nics);
        r = spec ? vm_spec_check(spec, ret_error) : no_memory(ret_error);
        if (r >= 0)
                r = vm_spec_fill(spec, ret_error);
        if (r >= 0)
                r = vm_spec_assign_macs(spec, vms, ret_error);
        if (r >= 0)
                *ret_spec = TAKE_PTR(spec);
        return r;
}

/* A disk as the document will have it, and the work that makes it. */
static int add_disk(const struct task *task, const json_t *vm, const json_t *disk, size_t index,
        json_t *disks, json_t *jobs)
{
        const json_t *input = task_input(task);
        const char *format = json_text_or_null(input, "to_format") ?: "qcow2",
                   *datastore = target_datastore(input);
        _cleanup_free_ char *name = alloc_printf("disk%zu", index),
                            *path = alloc_printf("%s/disk%zu.%s", json_text(vm, "name"), index, format);
        char id[UUID_STRING_SIZE];

        if (!name || !path || text_uuid_new(id) < 0 ||
                json_array_append_new(disks, json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", name, "datastore",
                                                     datastore, "path", path, "format", format, "bus",
                                                     json_text_or_null(input, "bus") ?: "sata")) < 0)
                return -ENOMEM;
        return json_array_append_new(jobs,
                json_pack("{s:s, s:s, s:I, s:{s:O, s:O, s:O, s:O, s:O, s:O*, s:O*}, s:{s:s, s:s, s:s}}", "id",
                        id, "kind", "convert", "timeout_ms", timeout_of(task), "source", "datastore",
                        json_object_get(input, "datastore"), "path", json_object_get(disk, "path"), "format",
                        json_object_get(disk, "format"), "offset", json_object_get(disk, "offset"), "length",
                        json_object_get(disk, "length"), "digest", json_object_get(disk, "digest"), "stamp",
                        json_object_get(disk, "stamp"), "target", "datastore", datastore, "path", path,
                        "format", format));
}

/* Whether the machine could start with them, before they are made. */
static int check_with_disks(const json_t *spec, json_t *disks, struct error **ret_error)
{
        _cleanup_json_ json_t *whole = json_copy((json_t *)spec);

        if (!whole || json_object_set(whole, "disks", disks) < 0)
                return no_memory(ret_error);
        return vm_spec_check(whole, ret_error);
}

static int describe(struct task *task, struct manager *manager, const json_t *vm, struct error **ret_error)
{
        json_t *described = json_object_get(task_data(task), "outcome");
        _cleanup_json_ json_t *spec = NULL, *doc = json_deep_copy(vm), *disks = json_array(),
                              *jobs = json_array();
        json_t *disk;
        size_t i;
        int r = make_spec(manager, task_input(task), described, &spec, ret_error);

        json_array_foreach (json_object_get(described, "disks"), i, disk)
                if (r >= 0 && add_disk(task, vm, disk, i, disks, jobs) < 0)
                        r = no_memory(ret_error);
        if (r >= 0)
                r = check_with_disks(spec, disks, ret_error);
        if (r >= 0 && (!doc || json_object_set(doc, "spec", spec) < 0 ||
                              json_object_set(task_data(task), "described", described) < 0 ||
                              json_object_set(task_data(task), "disks", disks) < 0 ||
                              json_object_set(task_data(task), "jobs", jobs) < 0))
                r = no_memory(ret_error);
        if (r >= 0)
                store_batch_put(task_batch(task), json_revision(vm), TAKE_PTR(doc));
        return r;
}

static void run_describe(struct task *task, void *userdata)
{
        const json_t *vm = vm_of(task, userdata);
        struct error *error = NULL;

        if (!vm)
                error_set(&error, ERROR_NOT_FOUND, NULL,
                        "the virtual machine is not in the inventory any more");
        if (!vm || describe(task, userdata, vm, &error) < 0)
                task_step_failed(task, error);
        else
                task_step_done(task);
}

/* --- Disks ------------------------------------------------------------------------------------------------------------- */

/* Which disk is under way is not recorded: each is asked for again, and the agent knows those that it has made. */
static void on_disk(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        json_t *data = task_data(task), *disks = json_object_get(data, "disks"), *disk, *outcome;
        size_t at = (size_t)json_integer_value(json_object_get(data, "at"));
        int r = operation_image_judge(task, manager, body, error);

        if (r < 0)
                return;
        disk = json_array_get(disks, at);
        outcome = json_object_get(data, "outcome");
        if (r > 0 && (json_object_set(disk, "size_bytes", json_object_get(outcome, "virtual_bytes")) < 0 ||
                             json_object_set(disk, "source", json_object_get(outcome, "source")) < 0 ||
                             json_object_set_new(data, "at", json_integer((json_int_t)at + 1)) < 0))
                task_step_failed(task, NULL);
        else
                task_step_again(task, r > 0 ? 0 : POLL_MS);
}

static void run_disks(struct task *task, void *userdata)
{
        json_t *data = task_data(task), *jobs = json_object_get(data, "jobs");
        size_t at;

        if (task_step_first(task))
                (void)json_object_set_new(data, "at", json_integer(0));
        at = (size_t)json_integer_value(json_object_get(data, "at"));
        if (at >= json_array_size(jobs))
                task_step_done(task);
        else if (json_object_set(data, "job", json_array_get(jobs, at)) < 0)
                task_step_failed(task, NULL);
        else
                operation_image_ask(task, userdata, on_disk);
}

/* All of them, one after the other; whether or not it was begun. */
static void on_disk_undone(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        json_t *data = task_data(task);
        json_int_t at = json_integer_value(json_object_get(data, "undone"));
        bool late = task_step_elapsed_ms(task) >= UNDO_MAX_MS ||
                    inventory_confirmed_down(manager->inventory, json_text(data, "host_uid"));

        if (error && error->code != ERROR_NOT_FOUND && !late) {
                task_step_again(task, WAIT_MS);
                return;
        }
        (void)json_object_set_new(data, "undone", json_integer(at + 1));
        task_step_again(task, 0);
}

static void call_each(
        struct task *task, struct manager *manager, const char *suffix, const char *counter, step_reply_fn fn)
{
        json_t *data = task_data(task), *jobs = json_object_get(data, "jobs");
        size_t at = (size_t)json_integer_value(json_object_get(data, counter));
        _cleanup_free_ char *path = NULL;

        if (at >= json_array_size(jobs)) {
                task_step_done(task);
                return;
        }
        path = alloc_printf("/agent/v1/image-jobs/%s%s", json_text(json_array_get(jobs, at), "id"), suffix);
        if (!path)
                task_step_failed(task, NULL);
        else
                step_call_once(task, manager,
                        &(struct agent_request){.host_uid = json_text(data, "host_uid"),
                                .method = "DELETE",
                                .path = path,
                                .timeout_ms = *suffix ? UNDO_TIMEOUT_MS : CALL_TIMEOUT_MS},
                        fn);
}

static void undo_disks(struct task *task, void *userdata)
{
        call_each(task, userdata, "?undo=1", "undone", on_disk_undone);
}

static int put_disks(struct task *task, const json_t *vm, struct error **ret_error)
{
        _cleanup_json_ json_t *doc = json_deep_copy(vm),
                              *disks = json_deep_copy(json_object_get(task_data(task), "disks"));
        json_t *disk;
        size_t i;

        json_array_foreach (disks, i, disk)
                (void)json_object_del(disk, "source");
        if (!doc || !disks || json_object_set(json_spec(doc), "disks", disks) < 0 ||
                json_object_set_new(json_status(doc), "message", json_null()) < 0)
                return no_memory(ret_error);
        if (vm_spec_check(json_spec(doc), ret_error) < 0) /* their sizes are what the host says */
                return -EINVAL;
        store_batch_put(task_batch(task), json_revision(vm), TAKE_PTR(doc));
        return 0;
}

static void run_attach(struct task *task, void *userdata)
{
        const json_t *vm = vm_of(task, userdata), *data = task_data(task);
        struct error *error = NULL;

        if (!vm) {
                error_set(&error, ERROR_NOT_FOUND, NULL,
                        "the virtual machine is not in the inventory any more");
                task_step_failed(task, error);
                return;
        }
        task_set_result(
                task, json_pack("{s:s, s:s, s:O, s:O}", "vm_uid", json_text(vm, "uid"), "host",
                              json_text(data, "host"), "appliance", json_object_get(data, "described"),
                              "disks", json_object_get(data, "disks")));
        if (put_disks(task, vm, &error) < 0)
                task_step_failed(task, error);
        else
                task_step_done(task);
}

static void on_one_forgotten(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        json_int_t at = json_integer_value(json_object_get(task_data(task), "forgotten"));

        if (operation_image_forgets_again(task, manager, error)) {
                task_step_again(task, WAIT_MS);
                return;
        }
        (void)json_object_set_new(task_data(task), "forgotten", json_integer(at + 1));
        task_step_again(task, 0);
}

static void run_forget_disks(struct task *task, void *userdata)
{
        call_each(task, userdata, "", "forgotten", on_one_forgotten);
}

static void run_forget_read(struct task *task, void *userdata)
{
        (void)json_object_set(task_data(task), "job", json_object_get(task_data(task), "read_job"));
        operation_image_forget(task, userdata);
}

static void cancel_later(struct task *task, void *userdata)
{
        step_say(task, "waiting for the host's answer");
}

static const struct task_step steps[] = {
        {.name = "find", .run = run_find, .undo = operation_vm_undo_place},
        {.name = "read", .run = operation_image_start, .undo = undo_read, .no_timeout = true},
        {.name = "follow", .run = operation_image_follow, .no_timeout = true},
        {.name = "describe", .run = run_describe},
        {.name = "create",
                .run = operation_vm_run_create,
                .undo = operation_vm_undo_create,
                .cancel = cancel_later,
                .no_timeout = true},
        {.name = "disks", .run = run_disks, .undo = undo_disks, .no_timeout = true},
        {.name = "attach", .run = run_attach},
        {.name = "forget-disks", .run = run_forget_disks, .keep = true},
        {.name = "forget", .run = run_forget_read, .keep = true},
};
const struct task_kind operation_vm_import = {
        .action = "vm.import",
        .steps = steps,
        .n_steps = ARRAY_SIZE(steps),
        .timeout_ms = 60000,
};
