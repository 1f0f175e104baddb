/* SPDX-License-Identifier: Apache-2.0 */

/* vm.migrate-disks: disks of a VM go to another datastore of the host where it is. The agent does it, and decides by the record in the
 * VM's folder which image is the disk (docs/decisions/0029); here the document is made to name the copies, durably, before the
 * agent may remove what they were copied from.
 *
 * Data: vm_uid; to: name of the host, for the queue; costs (migration_queue.c); host_uid, host; disks: what the agent was asked for;
 * outcome: the agent's last word; settled: the agent has ended it; left: why something was not removed. The migration's id is the
 * task's uid. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "cluster/datastore_place.h"
#include "cluster/disk_placement.h"
#include "manager/datastores.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/moves_disks.h"
#include "manager/operations.h"
#include "manager/snapshots.h"

#define CALL_TIMEOUT_MS 10000u
#define POLL_MS 250
#define BYTES_MAX 1e18
#define WAIT_MS 1000
#define SETTLE_MAX_MS 60000
#define TIMEOUT_DEFAULT_MS (UINT64_C(24) * 3600 * 1000)

static const json_t *vm_of(const struct task *task, struct manager *manager)
{
        return inventory_vm(manager->inventory, json_text(task_data(task), "vm_uid"));
}

/* --- What can be moved --------------------------------------------------------------------------------------- */

/* Where the request puts that disk; "": nowhere. */
static const char *target_of(const json_t *input, const char *disk)
{
        const json_t *each = json_object_get(input, "to_datastores");

        return each ? json_text(each, disk) : json_text(input, "to_datastore");
}

static bool is_wanted(const json_t *input, const json_t *disk)
{
        const json_t *names = json_object_get(input, "disks");

        if (json_object_get(input, "to_datastores"))
                return *target_of(input, json_text(disk, "name"));
        return names ? doc_has_string(names, json_text(disk, "name"))
                     : !json_is_true(json_object_get(disk, "read_only"));
}

static int need_disk(const json_t *disks, const char *name, struct error **ret_error)
{
        json_t *disk;
        size_t i;

        json_array_foreach ((json_t *)disks, i, disk)
                if (!strcmp(json_text(disk, "name"), name))
                        return 0;
        return error_set(ret_error, ERROR_NOT_FOUND, "`drover vm show` lists them.",
                "the virtual machine has no disk %.64s", name);
}

/* Each disk that the request names is there. */
static int need_disks(const json_t *disks, const json_t *input, struct error **ret_error)
{
        json_t *name, *target;
        const char *key;
        size_t i;
        int r = 0;

        json_array_foreach (json_object_get(input, "disks"), i, name)
                if (r >= 0)
                        r = need_disk(disks, json_string_value(name) ?: "", ret_error);
        json_object_foreach (json_object_get(input, "to_datastores"), key, target)
                if (r >= 0)
                        r = need_disk(disks, key, ret_error);
        return r;
}

/* 1: it is to be moved; 0: it is there already, which is fine for one that was not named. */
static int suits(const json_t *input, const json_t *disk, struct error **ret_error)
{
        const char *name = json_text(disk, "name"), *datastore = target_of(input, name),
                   *format = json_text_or_null(input, "format");

        if (json_is_true(json_object_get(disk, "read_only")))
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Name the others with --disk.",
                        "disk %s is read-only: others may use its image, which stays where it is", name);
        if (strcmp(json_text(disk, "datastore"), datastore) != 0 ||
                (format && strcmp(format, json_text(disk, "format")) != 0))
                return 1;
        if (!json_object_get(input, "disks") && !json_object_get(input, "to_datastores"))
                return 0;
        return error_set(ret_error, ERROR_CONFLICT, "Name another datastore, or another format.",
                "disk %s is on datastore %s already", name, datastore);
}

int operation_storage_disks(
        const json_t *vm, const json_t *input, json_t **ret_disks, struct error **ret_error)
{
        const char *format = json_text_or_null(input, "format");
        json_t *disks = json_object_get(json_spec(vm), "disks"), *disk;
        _cleanup_json_ json_t *list = json_array();
        size_t i;
        int r = need_disks(disks, input, ret_error);

        json_array_foreach (disks, i, disk) {
                if (r < 0 || !is_wanted(input, disk))
                        continue;
                r = suits(input, disk, ret_error);
                if (r == 1 &&
                        (!list || json_array_append_new(list,
                                          json_pack("{s:s, s:s, s:s}", "name", json_text(disk, "name"),
                                                  "datastore", target_of(input, json_text(disk, "name")),
                                                  "format", format ?: json_text(disk, "format"))) < 0))
                        r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        if (r < 0)
                return r;
        if (!json_array_size(list))
                return error_set(ret_error, ERROR_CONFLICT, "Name another datastore, or another format.",
                        "the virtual machine has no disk to be moved to datastore %s%s",
                        json_text(input, "to_datastore"),
                        json_array_size(disks) ? ": what could be moved is there already" : "");
        *ret_disks = TAKE_PTR(list);
        return 0;
}

static bool same_file(const json_t *a, const json_t *b)
{
        return !strcmp(json_text(a, "datastore"), json_text(b, "datastore")) &&
               !strcmp(json_text(a, "path"), json_text(b, "path"));
}

static bool names_file(const json_t *vm, const json_t *file)
{
        const json_t *spec = json_spec(vm), *boot = json_object_get(spec, "boot");
        json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(spec, "disks"), i, disk)
                if (same_file(disk, file))
                        return true;
        return same_file(json_object_get(spec, "cdrom"), file) ||
               same_file(json_object_get(boot, "kernel"), file) ||
               same_file(json_object_get(boot, "initrd"), file);
}

/* Another virtual machine that names the file as a disk, CD-ROM or kernel, or NULL. `vms`: of inventory_vms_beside() with a disk
 * that is this file. */
static const json_t *other_user(const json_t *vms, const json_t *vm, const json_t *file)
{
        json_t *other;
        size_t i;

        json_array_foreach ((json_t *)vms, i, other)
                if (strcmp(json_text(other, "uid"), json_text(vm, "uid")) != 0 && names_file(other, file))
                        return other;
        return NULL;
}

/* The image of a disk that is to be moved must be this VM's alone: it is removed afterwards. */
int operation_storage_check_alone(struct manager *manager, const json_t *vm, const json_t *wanted,
        const char *hint, struct error **ret_error)
{
        _cleanup_json_ json_t *vms = inventory_vms_beside(manager->inventory, vm);
        const json_t *other;
        json_t *mine;
        size_t i;

        if (!vms)
                return error_from_errno(
                        ret_error, ENOMEM, "virtual machines beside %s", json_text(vm, "name"));
        json_array_foreach (json_object_get(json_spec(vm), "disks"), i, mine) {
                other = json_named(wanted, json_text(mine, "name")) ? other_user(vms, vm, mine) : NULL;
                if (other)
                        return error_set(ret_error, ERROR_CONFLICT, hint,
                                "the image of disk %s is used by the virtual machine %s as well",
                                json_text(mine, "name"), json_text(other, "name"));
        }
        return 0;
}

json_t *operation_storage_shared(struct manager *manager, const json_t *vm)
{
        _cleanup_json_ json_t *vms = inventory_vms_beside(manager->inventory, vm), *names = json_array();
        json_t *disk;
        size_t i;

        if (!vms || !names)
                return NULL;
        json_array_foreach (json_object_get(json_spec(vm), "disks"), i, disk)
                if (other_user(vms, vm, disk) && json_array_append(names, json_object_get(disk, "name")) < 0)
                        return NULL;
        return TAKE_PTR(names);
}

/* Names of the disks whose old image another virtual machine has been given meanwhile, or this one again: it stays. The caller's; NULL
 * without memory. */
static json_t *disks_to_keep(struct manager *manager, const struct task *task)
{
        _cleanup_json_ json_t *before = json_pack("{s:s, s:{s:[]}}", "uid",
                                      json_text(task_data(task), "vm_uid"), "spec", "disks"),
                              *vms = NULL, *keep = json_array();
        json_t *disks = json_object_get(json_object_get(task_data(task), "outcome"), "disks"), *disk;
        const json_t *now = vm_of(task, manager);
        size_t i;

        json_array_foreach (disks, i, disk)
                if (json_array_append(
                            json_object_get(json_spec(before), "disks"), json_object_get(disk, "from")) < 0)
                        return NULL;
        vms = before ? inventory_vms_beside(manager->inventory, before) : NULL;
        if (!vms || !keep)
                return NULL;
        json_array_foreach (disks, i, disk)
                if ((other_user(vms, before, json_object_get(disk, "from")) ||
                            (now && names_file(now, json_object_get(disk, "from")))) &&
                        json_array_append(keep, json_object_get(disk, "name")) < 0)
                        return NULL;
        return TAKE_PTR(keep);
}

static int check_host(struct manager *manager, const json_t *host, struct error **ret_error)
{
        const char *name = json_text(host, "name");

        if (!host)
                return error_set(
                        ret_error, ERROR_CONFLICT, "Start it once.", "the virtual machine is on no host");
        if (!inventory_connected(manager->inventory, json_text(host, "uid")))
                return error_set(ret_error, ERROR_UNREACHABLE, "Bring the host's agent back first.",
                        "host %s, where the virtual machine is, cannot be reached", name);
        if (!json_is_true(
                    json_object_get(json_object_get(json_status(host), "capabilities"), "storage_moves")))
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Upgrade drover there.",
                        "the agent of host %s is of a version that cannot move disks", name);
        return 0;
}

/* A copy has what the disk holds, not what its image has besides. */
static int check_snapshots(const json_t *vm, const json_t *disks, struct error **ret_error)
{
        json_t *disk;
        size_t i;

        json_array_foreach ((json_t *)disks, i, disk)
                if (snapshots_have_disk(vm, json_text(disk, "name")))
                        return error_set(ret_error, ERROR_CHECK_FAILED,
                                "Delete its snapshots first (drover vm snapshot list).",
                                "disk-snapshots: disk %s has snapshots, which would not go along",
                                json_text(disk, "name"));
        return 0;
}

/* The first error of the checks. */
static int checks_error(const json_t *checks, struct error **ret_error)
{
        json_t *check;
        size_t i;

        json_array_foreach ((json_t *)checks, i, check)
                if (!strcmp(json_text(check, "severity"), "error"))
                        return error_set(ret_error, ERROR_CHECK_FAILED, json_text(check, "way_out"), "%s: %s",
                                json_text(check, "code"), json_text(check, "cause"));
        return 0;
}

/* Each where it is to go, counted together; wanted: as the agent is asked for them. */
static int check_places(
        struct manager *manager, const json_t *vm, const json_t *wanted, struct error **ret_error)
{
        _cleanup_datastores_facts_ struct datastores_facts facts = {};
        struct disk_placement_input input;
        json_t *item;
        size_t i;
        int r = datastores_facts_load(manager, vm, &facts, ret_error);

        input = datastores_facts_input(&facts);
        json_array_foreach ((json_t *)wanted, i, item) {
                const json_t *disk = json_named(
                                     json_object_get(json_spec(vm), "disks"), json_text(item, "name")),
                             *datastore = json_named(facts.datastores, json_text(item, "datastore"));
                _cleanup_json_ json_t *checks =
                        r >= 0 && datastore ? disk_placement_checks(&input, disk, datastore) : NULL;

                if (r >= 0 && !datastore)
                        r = error_set(ret_error, ERROR_NOT_FOUND, "See `drover datastore list`.",
                                "there is no datastore %.64s", json_text(item, "datastore"));
                if (r >= 0)
                        r = checks ? checks_error(checks, ret_error)
                                   : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
                if (r >= 0 && strcmp(json_text(disk, "datastore"), json_text(item, "datastore")) != 0 &&
                        datastore_place_add(facts.reserved, json_text(item, "datastore"),
                                json_text(facts.host, "name"), datastore_disk_bytes(disk)) < 0)
                        r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        return r;
}

/* Whether the agent's QEMU, or image, allows it, the agent says. */
int operation_storage_check(struct manager *manager, const json_t *vm, const json_t *input,
        const json_t **ret_host, json_t **ret_disks, struct error **ret_error)
{
        const json_t *host = inventory_host(manager->inventory, json_text(json_status(vm), "host"));
        _cleanup_json_ json_t *disks = NULL;
        int r = operation_storage_disks(vm, input, &disks, ret_error);

        if (r >= 0)
                r = check_host(manager, host, ret_error);
        if (r >= 0)
                r = check_places(manager, vm, disks, ret_error);
        if (r >= 0)
                r = check_snapshots(vm, disks, ret_error);
        if (r >= 0)
                r = operation_storage_check_alone(
                        manager, vm, disks, "Name the others with --disk.", ret_error);
        if (r < 0)
                return r;
        *ret_host = host;
        *ret_disks = TAKE_PTR(disks);
        return 0;
}

/* --- Steps --------------------------------------------------------------------------------------------------- */

static void run_check(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *vm = vm_of(task, manager), *host = NULL;
        _cleanup_json_ json_t *disks = NULL;
        struct error *error = NULL;
        int r;

        if (step_waits_for_hosts(task, manager))
                return;
        r = vm ? operation_storage_check(manager, vm, task_input(task), &host, &disks, &error)
               : error_set(&error, ERROR_NOT_FOUND, NULL,
                         "the virtual machine is not in the inventory any more");
        if (r < 0)
                task_step_failed(task, error);
        else if (json_object_set(task_data(task), "disks", disks) < 0 ||
                 json_object_set_new(task_data(task), "host_uid", json_string(json_text(host, "uid"))) < 0 ||
                 json_object_set_new(task_data(task), "host", json_string(json_text(host, "name"))) < 0)
                task_step_failed(task, NULL);
        else
                task_step_done(task);
}

static json_int_t number_or(const json_t *object, const char *key, json_int_t otherwise)
{
        const json_t *value = json_object_get(object, key);

        return json_is_integer(value) && json_integer_value(value) ? json_integer_value(value) : otherwise;
}

/* "fast, slow": where the disks go, each once. The caller's; NULL without memory. */
static char *destinations(const struct task *task)
{
        const json_t *each = json_object_get(task_input(task), "to_datastores");

        return each ? moves_disks_targets(each) : alloc_strdup(json_text(task_input(task), "to_datastore"));
}

static void say_phase(struct task *task, const char *phase, const char *message)
{
        _cleanup_free_ char *to = destinations(task);

        task_progress(task, json_pack("{s:n, s:s?, s:s, s:s, s:s}", "percent", "message", message, "phase",
                                    phase, "from", json_text(task_data(task), "host"), "to", to ?: ""));
}

/* What of a storage migration's status is asked for later, and nothing else that an agent says. */
static int keep_outcome(struct task *task, const json_t *status)
{
        static const char *const keys[] = {"phase", "error", "result", "disks", "left"};
        _cleanup_json_ json_t *outcome = json_object();

        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                json_t *value = json_object_get(status, keys[i]);

                if (value && json_object_set(outcome, keys[i], value) < 0)
                        return -ENOMEM;
        }
        return outcome && json_object_set(task_data(task), "outcome", outcome) == 0 ? 0 : -ENOMEM;
}

/* A refusal is the end; nothing was begun there. */
static void on_started(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (error)
                task_step_failed(task, error_with_names(manager, error));
        else
                task_step_done(task);
}

static void run_start(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        const json_t *vm = vm_of(task, manager), *input = task_input(task);
        _cleanup_json_ json_t *body = NULL;
        struct error *error = NULL;
        char id[37];

        if (!vm) {
                error_set(&error, ERROR_NOT_FOUND, NULL,
                        "the virtual machine is not in the inventory any more");
                task_step_failed(task, error);
                return;
        }
        say_phase(task, "preparing", NULL);
        body = json_pack("{s:s, s:o, s:O, s:I, s:I, s:O*, s:O*}", "id", task_uid(task), "vm",
                vm_for_agent(vm), "disks", json_object_get(task_data(task), "disks"), "rate_limit_bps",
                number_or(input, "rate_limit_bps", 0), "timeout_ms",
                number_or(input, "timeout_ms", TIMEOUT_DEFAULT_MS), "max_pause_ms",
                json_object_get(input, "max_pause_ms"), "converge", json_object_get(input, "converge"));
        task_request_id(task, id);
        if (!body)
                task_step_failed(task, NULL);
        else
                step_call(task, manager,
                        &(struct agent_request){.host_uid = json_text(task_data(task), "host_uid"),
                                .method = "POST",
                                /* What an earlier one has left, another VM may have been given. */
                                .path = inventory_folder_is_shared(manager->inventory, vm)
                                                ? "/agent/v1/storage-moves"
                                                : "/agent/v1/storage-moves?clear=1",
                                .body = body,
                                .request_id = id,
                                .timeout_ms = CALL_TIMEOUT_MS},
                        on_started);
}

/* The request is recorded with the task; the step that follows passes it on. */
static void cancel_move(struct task *task, void *userdata)
{
        log_debug("task %s: will be cancelled through the host's agent", task_name(task));
}

static void call_move(struct task *task, struct manager *manager, const char *method, const char *verb,
        json_t *body, step_reply_fn fn)
{
        _cleanup_json_ json_t *owned = body;
        _cleanup_free_ char *path = alloc_printf("/agent/v1/storage-moves/%s%s", task_uid(task), verb);

        if (!path)
                task_step_failed(task, NULL);
        else
                step_call_once(task, manager,
                        &(struct agent_request){.host_uid = json_text(task_data(task), "host_uid"),
                                .method = method,
                                .path = path,
                                .body = owned,
                                .timeout_ms = CALL_TIMEOUT_MS},
                        fn);
}

static bool is_down(const struct task *task, struct manager *manager)
{
        return inventory_confirmed_down(manager->inventory, json_text(task_data(task), "host_uid"));
}

static bool has_ended(const char *phase)
{
        return !strcmp(phase, "done") || !strcmp(phase, "failed") || !strcmp(phase, "cancelled");
}

/* An agent's number, which may be any. */
static json_int_t bytes_of(double value)
{
        return value > 0 ? (json_int_t)MIN(value, BYTES_MAX) : 0;
}

static void show_progress(struct task *task, const json_t *status)
{
        const json_t *progress = json_object_get(status, "progress");
        double copied = json_number_value(json_object_get(progress, "copied_bytes"));
        double total = json_number_value(json_object_get(progress, "total_bytes"));
        _cleanup_free_ char *to = destinations(task);

        task_progress(task, json_pack("{s:I, s:n, s:s, s:s, s:s, s:I, s:I, s:I}", "percent",
                                    operation_percent(copied, total), "message", "phase",
                                    json_text(status, "phase"), "from", json_text(task_data(task), "host"),
                                    "to", to ?: "", "copied_bytes", bytes_of(copied), "total_bytes",
                                    bytes_of(total), "elapsed_ms", (json_int_t)task_step_elapsed_ms(task)));
}

static void fail_lost(struct task *task, struct manager *manager)
{
        struct error *error = NULL;

        if (is_down(task, manager))
                error_set(&error, ERROR_PEER_FAILED,
                        "Start the virtual machine; the record in its folder says which image is "
                        "its disk.",
                        "host %s was confirmed down while disks were being moved",
                        json_text(task_data(task), "host"));
        else
                error_set(&error, ERROR_PEER_FAILED, "Begin again; what was left is removed then.",
                        "the agent of host %s knows nothing of this storage migration any more",
                        json_text(task_data(task), "host"));
        task_step_failed(task, error);
}

static void on_status(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        const char *phase = json_text(body, "phase");

        if (error && (error->code == ERROR_NOT_FOUND || is_down(task, manager))) {
                fail_lost(task, manager);
                return;
        }
        if (error) {
                say_phase(task, "waiting-for-host",
                        error->code == ERROR_OWNER_UNKNOWN
                                ? error_message(error)
                                : "the host's agent cannot be reached; the virtual machine is safe");
                task_step_again(task, WAIT_MS);
                return;
        }
        show_progress(task, body);
        if (strcmp(phase, "switched") != 0 && strcmp(phase, "settling") != 0 && !has_ended(phase))
                task_step_again(task, POLL_MS);
        else if (keep_outcome(task, body) < 0)
                task_step_failed(task, NULL);
        else
                task_step_done(task);
}

/* Refused while the disks are being switched, from which the migration may go back to copying: so it is asked for until it is taken, or
 * the migration has ended. */
static void on_cancel_sent(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        bool taken = !error || error->code == ERROR_NOT_FOUND;

        if (taken && json_object_set_new(task_data(task), "cancel_sent", json_true()) < 0)
                task_step_failed(task, NULL);
        else
                call_move(task, manager, "GET", "", NULL, on_status);
}

static void run_follow(struct task *task, void *userdata)
{
        if (task_cancel_requested(task) && !json_object_get(task_data(task), "cancel_sent"))
                call_move(task, userdata, "POST", "/cancel", NULL, on_cancel_sent);
        else
                call_move(task, userdata, "GET", "", NULL, on_status);
}

/* The document names the copies of the disks that have switched, from the end of this step on. */
static int name_copies(json_t *disks, const json_t *moved)
{
        json_t *item, *disk, *to;
        size_t i, k;

        json_array_foreach ((json_t *)moved, i, item) {
                if (!json_is_true(json_object_get(item, "switched")))
                        continue;
                to = json_object_get(item, "to");
                json_array_foreach (disks, k, disk)
                        if (!strcmp(json_text(disk, "name"), json_text(item, "name")) &&
                                (json_object_set(disk, "datastore", json_object_get(to, "datastore")) < 0 ||
                                        json_object_set(disk, "path", json_object_get(to, "path")) < 0 ||
                                        json_object_set(disk, "format", json_object_get(to, "format")) < 0))
                                return -ENOMEM;
        }
        return 0;
}

static void run_record(struct task *task, void *userdata)
{
        const json_t *vm = vm_of(task, userdata);
        _cleanup_json_ json_t *doc = json_deep_copy(vm);
        json_t *disks = json_object_get(json_spec(doc), "disks");
        uint64_t revision = json_revision(vm);

        if (vm && (!doc || name_copies(disks, json_object_get(json_object_get(task_data(task), "outcome"),
                                                      "disks")) < 0)) {
                task_step_failed(task, NULL);
                return;
        }
        if (vm && !json_equal(doc, vm))
                store_batch_put(task_batch(task), revision, TAKE_PTR(doc));
        task_step_done(task);
}

static void on_settled(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        bool gone = error && (error->code == ERROR_NOT_FOUND || is_down(task, manager));

        if (!gone && !(body && has_ended(json_text(body, "phase"))) &&
                task_step_elapsed_ms(task) < SETTLE_MAX_MS) {
                say_phase(task, "settling", error ? "the host's agent cannot be reached" : NULL);
                task_step_again(task, POLL_MS);
                return;
        }
        if (body && has_ended(json_text(body, "phase"))) {
                if (keep_outcome(task, body) < 0) {
                        task_step_failed(task, NULL);
                        return;
                }
        } else
                (void)json_object_set_new(
                        task_data(task), "left", json_string("the host could not be asked to remove it"));
        task_step_done(task);
}

/* Repeated until the host says that it has ended: it stands that. */
static void run_settle(struct task *task, void *userdata)
{
        json_t *keep = disks_to_keep(userdata, task);

        if (keep)
                call_move(task, userdata, "POST", "/settle", json_pack("{s:o}", "keep", keep), on_settled);
        else
                task_step_failed(task, NULL);
}

static void on_forgotten(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        task_step_done(task);
}

static void run_forget(struct task *task, void *userdata)
{
        call_move(task, userdata, "DELETE", "", NULL, on_forgotten);
}

static json_t *result_document(struct task *task)
{
        const json_t *outcome = json_object_get(task_data(task), "outcome");
        json_t *measured = json_object_get(outcome, "result");
        json_t *result = json_is_object(measured) ? json_copy(measured) : json_object();
        const char *left = json_text_or_null(outcome, "left") ?: json_text_or_null(task_data(task), "left");

        if (!result ||
                json_object_set_new(result, "vm_uid", json_string(json_text(task_data(task), "vm_uid"))) <
                        0 ||
                json_object_set_new(result, "host", json_string(json_text(task_data(task), "host"))) < 0 ||
                json_object_set(result, "disks", json_object_get(outcome, "disks")) < 0 ||
                json_object_set_new(result, "left", left ? json_string(left) : json_null()) < 0) {
                json_decref(result);
                return NULL;
        }
        return result;
}

static void run_conclude(struct task *task, void *userdata)
{
        const json_t *outcome = json_object_get(task_data(task), "outcome");
        const json_t *problem = json_object_get(outcome, "error");
        json_t *result = result_document(task);

        task_set_result(task, result);
        if (json_is_object(problem))
                task_step_failed(task, error_from_json(problem));
        else
                task_step_done(task);
}

static const struct task_step steps[] = {
        {.name = "check", .run = run_check},
        {.name = "start", .run = run_start, .cancel = cancel_move, .no_timeout = true},
        {.name = "follow", .run = run_follow, .cancel = cancel_move, .no_timeout = true},
        {.name = "record", .run = run_record, .cancel = cancel_move, .no_timeout = true},
        {.name = "settle", .run = run_settle, .cancel = cancel_move, .no_timeout = true},
        {.name = "forget", .run = run_forget, .cancel = cancel_move, .no_timeout = true},
        {.name = "refresh", .run = step_refresh, .cancel = cancel_move, .no_timeout = true},
        {.name = "conclude", .run = run_conclude, .cancel = cancel_move, .no_timeout = true},
};
const struct task_kind operation_vm_migrate_disks = {
        .action = "vm.migrate-disks",
        .steps = steps,
        .n_steps = ARRAY_SIZE(steps),
        .timeout_ms = 60000,
        .may_start = operation_may_start,
        .starting = operation_starting,
};
