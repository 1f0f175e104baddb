/* SPDX-License-Identifier: Apache-2.0 */

/* vm.import-disk, vm.export-disk and vm.export: an image on a datastore becomes a disk of a VM that is off, and the other way round; the whole VM becomes an
 * archive (OVA). The agent
 * of the VM's host does it (src/agent/image_jobs.h); a job that its agent has interrupted is begun anew.
 *
 * Data: vm_uid; host_uid, host; job: what the agent is asked for, whose id is the task's uid; disk: of an import, what the document will
 * have; outcome: the agent's last word. */

#include "manager/operation_image.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"
#include "manager/vm_spec.h"

#define CALL_TIMEOUT_MS 10000u
#define UNDO_TIMEOUT_MS 90000u
#define POLL_MS 250
#define WAIT_MS 1000
#define UNDO_MAX_MS 300000
#define FORGET_MAX_MS 30000 /* an agent forgets by itself at last */
#define TIMEOUT_DEFAULT_MS (UINT64_C(24) * 3600 * 1000)
#define DISKS_MAX 64
#define EXPORT_MAX_CHARS 237 /* of 255: agents make .NAME.ID.part.d beside it */

/* --- Formats and places --------------------------------------------------------------------------------------------- */

static const char *const endings[][2] = {{".raw", "raw"}, {".img", "raw"}, {".qcow2", "qcow2"},
        {".vmdk", "vmdk"}, {".vhdx", "vhdx"}, {".vdi", "vdi"}, {".vhd", "vhd"}};

const char *operation_image_format(const char *path)
{
        size_t len = strlen(path);

        for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
                size_t n = strlen(endings[i][0]);

                if (len > n && !strcasecmp(path + len - n, endings[i][0]))
                        return endings[i][1];
        }
        return NULL;
}

int operation_image_check_host(
        struct manager *manager, const json_t *host, const char *const *datastores, struct error **ret_error)
{
        const char *name = json_text(host, "name");
        const json_t *live = host ? inventory_live(manager->inventory, json_text(host, "uid")) : NULL;

        if (!host)
                return error_set(
                        ret_error, ERROR_CONFLICT, "Start it once.", "the virtual machine is on no host");
        if (!inventory_connected(manager->inventory, json_text(host, "uid")))
                return error_set(ret_error, ERROR_UNREACHABLE, "Bring the host's agent back first.",
                        "host %s, which would do it, cannot be reached", name);
        if (!json_is_true(json_object_get(json_object_get(json_status(host), "capabilities"), "images")))
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Upgrade drover there.",
                        "the agent of host %s is of a version that cannot import and export images", name);
        for (; *datastores; datastores++) {
                const json_t *there =
                        json_named(json_object_get(json_status(live), "datastores"), *datastores);

                if (!there)
                        return error_set(ret_error, ERROR_CHECK_FAILED,
                                "Attach it there: `drover datastore show` lists its hosts.",
                                "host %s, which would do it, does not have the datastore %s", name,
                                *datastores);
                if (!json_is_true(json_object_get(there, "ok")))
                        return error_set(ret_error, ERROR_CHECK_FAILED, "Mend it first.",
                                "the datastore %s does not work on host %s: %s", *datastores, name,
                                json_text_or_null(there, "message") ?: "no reason given");
        }
        return 0;
}

int operation_image_check_off(const json_t *vm, struct error **ret_error)
{
        const char *power = json_text(json_status(vm), "power");

        if (!strcmp(power, "stopped") || !strcmp(power, "crashed"))
                return 0;
        return error_set(ret_error, ERROR_CONFLICT,
                "Stop it first: its disks must not change while they are read, nor be changed under it.",
                "the virtual machine is %s", power);
}

static int check_export_folder(struct manager *manager, const char *path, struct error **ret_error)
{
        char folder[NAME_MAX_CHARS + 2]; /* a longer one is no virtual machine's */
        size_t len = MIN(strcspn(path, "/"), sizeof(folder) - 1);

        memcpy(folder, path, len);
        folder[len] = '\0';
        if (strlen(path) > EXPORT_MAX_CHARS)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Name it shorter.",
                        "a path of more than %d characters leaves no room for the names of what is half made",
                        EXPORT_MAX_CHARS);
        if (strchr(path, '/') && inventory_vm_named(manager->inventory, folder))
                return error_set(ret_error, ERROR_CONFLICT, "Name another folder, such as exports/.",
                        "%s would be in the folder of the virtual machine %s, and go with it", path, folder);
        return 0;
}

int operation_image_check_export_path(
        struct manager *manager, const char *path, const char **ret_format, struct error **ret_error)
{
        const char *format = operation_image_format(path);

        /* Nor will a record of a virtual machine ever be the target, whose names end otherwise. */
        if (!format)
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Let it end in .qcow2, .raw, .vmdk, .vhdx, .vdi or .vhd.",
                        "the name %s does not tell the format", path);
        *ret_format = format;
        return check_export_folder(manager, path, ret_error);
}

int operation_image_check_archive_path(struct manager *manager, const char *path, struct error **ret_error)
{
        size_t len = strlen(path);

        if (len <= 4 || strcasecmp(path + len - 4, ".ova") != 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Let it end in .ova.",
                        "%s is no name of an appliance", path);
        return check_export_folder(manager, path, ret_error);
}

/* --- Steps that both have -------------------------------------------------------------------------------------------- */

static const json_t *vm_of(const struct task *task, struct manager *manager)
{
        return inventory_vm(manager->inventory, json_text(task_data(task), "vm_uid"));
}

static void fail_gone(struct task *task)
{
        struct error *error = NULL;

        error_set(&error, ERROR_NOT_FOUND, NULL, "the virtual machine is not in the inventory any more");
        task_step_failed(task, error);
}

static bool is_down(const struct task *task, struct manager *manager)
{
        return inventory_confirmed_down(manager->inventory, json_text(task_data(task), "host_uid"));
}

static void call_job(struct task *task, struct manager *manager, const char *method, const char *suffix,
        uint64_t timeout_ms, step_reply_fn fn)
{
        bool posts = !strcmp(method, "POST");
        const json_t *job = json_object_get(task_data(task), "job");
        _cleanup_free_ char *path = alloc_printf(
                "/agent/v1/image-jobs%s%s%s", posts ? "" : "/", posts ? "" : json_text(job, "id"), suffix);

        if (!path)
                task_step_failed(task, NULL);
        else
                step_call_once(task, manager,
                        &(struct agent_request){.host_uid = json_text(task_data(task), "host_uid"),
                                .method = method,
                                .path = path,
                                .body = posts ? job : NULL,
                                .timeout_ms = timeout_ms},
                        fn);
}

static void fail_down(struct task *task)
{
        struct error *error = NULL;

        error_set(&error, ERROR_PEER_FAILED, "Begin again on another host; a file .NAME.part may be left.",
                "host %s was confirmed down while it worked on the image",
                json_text(task_data(task), "host"));
        task_step_failed(task, error);
}

/* No answer, or one that says to come again. */
static bool asks_again(struct task *task, struct manager *manager, const struct error *error)
{
        if (!error)
                return false;
        if (is_down(task, manager)) {
                fail_down(task);
                return true;
        }
        if (error->code != ERROR_BUSY && error->code != ERROR_UNREACHABLE && error->code != ERROR_TIMED_OUT)
                return false;
        step_say(task, "%s", error_message(error));
        task_step_again(task, WAIT_MS);
        return true;
}

static void on_started(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (asks_again(task, manager, error))
                return;
        if (error)
                task_step_failed(task, error_with_names(manager, error));
        else
                task_step_done(task);
}

void operation_image_start(struct task *task, void *userdata)
{
        call_job(task, userdata, "POST", "", CALL_TIMEOUT_MS, on_started);
}

static void show_progress(struct task *task, const json_t *status)
{
        const json_t *progress = json_object_get(status, "progress");
        double done = json_number_value(json_object_get(progress, "done_bytes"));
        double total = json_number_value(json_object_get(progress, "total_bytes"));
        json_int_t percent = total > 0 ? (json_int_t)MIN(100.0 * done / total, 99.0) : 0;

        task_progress(
                task, json_pack("{s:I, s:n, s:s, s:s, s:I, s:I, s:I}", "percent", percent, "message", "phase",
                              json_text(status, "step"), "from", json_text(task_data(task), "host"),
                              "copied_bytes", (json_int_t)done, "total_bytes", (json_int_t)total,
                              "elapsed_ms", (json_int_t)task_step_elapsed_ms(task)));
}

static void on_begun_anew(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (asks_again(task, manager, error))
                return;
        if (error)
                task_step_failed(task, error_with_names(manager, error));
        else
                task_step_again(task, POLL_MS);
}

static void on_status(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        const char *phase = json_text(body, "phase");
        const json_t *problem = json_object_get(body, "error");

        if (asks_again(task, manager, error))
                return;
        if (error)
                task_step_failed(task, error_with_names(manager, error));
        else if (!strcmp(phase, "interrupted"))
                call_job(task, manager, "POST", "", CALL_TIMEOUT_MS, on_begun_anew);
        else if (!strcmp(phase, "failed"))
                task_step_failed(task, error_from_json(problem));
        else if (strcmp(phase, "done") != 0) {
                show_progress(task, body);
                task_step_again(task, POLL_MS);
        } else if (json_object_set(task_data(task), "outcome", json_object_get(body, "result")) < 0)
                task_step_failed(task, NULL);
        else
                task_step_done(task);
}

void operation_image_follow(struct task *task, void *userdata)
{
        call_job(task, userdata, "GET", "", CALL_TIMEOUT_MS, on_status);
}

void operation_image_ask(struct task *task, struct manager *manager, step_reply_fn fn)
{
        call_job(task, manager, "POST", "", CALL_TIMEOUT_MS, fn);
}

int operation_image_judge(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        const char *phase = json_text(body, "phase");

        if (asks_again(task, manager, error))
                return -EAGAIN;
        if (error)
                task_step_failed(task, error_with_names(manager, error));
        else if (!strcmp(phase, "failed"))
                task_step_failed(task, error_from_json(json_object_get(body, "error")));
        else if (strcmp(phase, "done") != 0) {
                show_progress(task, body);
                return 0;
        } else if (json_object_set(task_data(task), "outcome", json_object_get(body, "result")) >= 0)
                return 1;
        else
                task_step_failed(task, NULL);
        return -EINVAL;
}

static void on_undone(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        const char *left = json_text_or_null(body, "left");
        struct error *problem = NULL;

        if (error && error->code != ERROR_NOT_FOUND && !is_down(task, manager) &&
                task_step_elapsed_ms(task) < UNDO_MAX_MS) {
                task_step_again(task, WAIT_MS);
                return;
        }
        if (left || (error && error->code != ERROR_NOT_FOUND)) {
                error_set(&problem, ERROR_PEER_FAILED, NULL, "a file may be left on the datastore: %s",
                        left ?: error_message(error));
                task_step_failed(task, problem);
                return;
        }
        task_step_done(task);
}

void operation_image_undo(struct task *task, void *userdata)
{
        if (json_object_get(task_data(task), "job"))
                call_job(task, userdata, "DELETE", "?undo=1", UNDO_TIMEOUT_MS, on_undone);
        else
                task_step_done(task);
}

bool operation_image_forgets_again(
        const struct task *task, const struct manager *manager, const struct error *error)
{
        return error && error->code != ERROR_NOT_FOUND && task_step_elapsed_ms(task) < FORGET_MAX_MS &&
               !inventory_confirmed_down(manager->inventory, json_text(task_data(task), "host_uid"));
}

static void on_forgotten(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        if (operation_image_forgets_again(task, manager, error))
                task_step_again(task, WAIT_MS);
        else
                task_step_done(task);
}

void operation_image_forget(struct task *task, void *userdata)
{
        call_job(task, userdata, "DELETE", "", CALL_TIMEOUT_MS, on_forgotten);
}

static int set_job(struct task *task, const json_t *host, json_t *job)
{
        json_t *data = task_data(task);

        return json_object_set_new(data, "host_uid", json_string(json_text(host, "uid"))) |
               json_object_set_new(data, "host", json_string(json_text(host, "name"))) |
               json_object_set_new(data, "job", job);
}

static json_int_t timeout_of(const struct task *task)
{
        json_int_t wanted = json_integer_value(json_object_get(task_input(task), "timeout_ms"));

        return wanted > 0 ? wanted : (json_int_t)TIMEOUT_DEFAULT_MS;
}

/* --- Import ---------------------------------------------------------------------------------------------------------- */

/* The first free of disk0, disk1, ... */
static void free_name(const json_t *disks, char ret[static 16])
{
        for (unsigned int i = 0; i <= DISKS_MAX; i++) {
                snprintf(ret, 16, "disk%u", i);
                if (!json_named(disks, ret))
                        return;
        }
}

static int check_name(const json_t *disks, const char *name, struct error **ret_error)
{
        if (json_array_size(disks) >= DISKS_MAX)
                return error_set(ret_error, ERROR_NO_RESOURCES, NULL,
                        "the virtual machine has %d disks already, and cannot have more", DISKS_MAX);
        if (json_named(disks, name))
                return error_set(ret_error, ERROR_EXISTS, "Name it otherwise.",
                        "the virtual machine has a disk %s already", name);
        return 0;
}

/* What the document will have, in the VM's folder on the datastore that was named, or on the folder's own. The caller's. */
static json_t *new_disk(const json_t *vm, const json_t *input, const char *name)
{
        const char *format = json_text_or_null(input, "to_format") ?: "qcow2";
        const char *datastore =
                json_text_or_null(input, "to_datastore") ?: json_text(json_spec(vm), "datastore");
        _cleanup_free_ char *path = alloc_printf("%s/%s.%s", json_text(vm, "name"), name, format);

        return path ? json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", name, "datastore", datastore, "path",
                              path, "format", format, "bus", json_text_or_null(input, "bus") ?: "virtio")
                    : NULL;
}

static json_t *import_job(const struct task *task, const json_t *disk)
{
        const json_t *input = task_input(task);
        const char *sha256 = json_text_or_null(input, "sha256");
        json_t *digest = sha256 ? json_pack("{s:s, s:s}", "hash", "SHA256", "hex", sha256) : NULL;

        return json_pack("{s:s, s:s, s:I, s:{s:O, s:O, s:s, s:o*}, s:{s:O, s:O, s:O}}", "id", task_uid(task),
                "kind", "convert", "timeout_ms", timeout_of(task), "source", "datastore",
                json_object_get(input, "datastore"), "path", json_object_get(input, "path"), "format",
                json_text_or_null(input, "format") ?: operation_image_format(json_text(input, "path")),
                "digest", digest, "target", "datastore", json_object_get(disk, "datastore"), "path",
                json_object_get(disk, "path"), "format", json_object_get(disk, "format"));
}

/* What the document would be with the disk: whoever could not start then is refused before the work. */
static int check_with_disk(const json_t *vm, json_t *disk, struct error **ret_error)
{
        _cleanup_json_ json_t *spec = json_deep_copy(json_spec(vm));
        json_t *disks = json_object_get(spec, "disks");

        if (spec && !disks) {
                disks = json_array();
                if (json_object_set_new(spec, "disks", disks) < 0)
                        disks = NULL;
        }
        if (!disks || json_array_append(disks, disk) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return vm_spec_check(spec, ret_error);
}

static int prepare_import(
        struct task *task, struct manager *manager, const json_t *vm, struct error **ret_error)
{
        const json_t *input = task_input(task), *disks = json_object_get(json_spec(vm), "disks"),
                     *host = inventory_host(manager->inventory, json_text(json_status(vm), "host"));
        const char *datastores[3] = {json_text(input, "datastore")}, *name = json_text_or_null(input, "name");
        _cleanup_json_ json_t *disk = NULL;
        char free_one[16];
        int r;

        free_name(disks, free_one);
        disk = new_disk(vm, input, name ?: free_one);
        if (!disk)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        datastores[1] = json_text(disk, "datastore");
        r = operation_image_check_off(vm, ret_error);
        if (r >= 0)
                r = check_name(disks, name ?: free_one, ret_error);
        if (r >= 0)
                r = check_with_disk(vm, disk, ret_error);
        if (r >= 0)
                r = operation_image_check_host(manager, host, datastores, ret_error);
        if (r >= 0 && (set_job(task, host, import_job(task, disk)) < 0 ||
                              json_object_set(task_data(task), "disk", disk) < 0))
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return r;
}

static void prepare(struct task *task, struct manager *manager,
        int (*fn)(struct task *task, struct manager *manager, const json_t *vm, struct error **ret_error))
{
        const json_t *vm = vm_of(task, manager);
        struct error *error = NULL;

        if (step_waits_for_hosts(task, manager))
                return;
        if (!vm)
                fail_gone(task);
        else if (fn(task, manager, vm, &error) < 0)
                task_step_failed(task, error);
        else
                task_step_done(task);
}

static void run_check_import(struct task *task, void *userdata)
{
        prepare(task, userdata, prepare_import);
}

/* With the end of the step the document has the disk. */
static void run_attach(struct task *task, void *userdata)
{
        const json_t *vm = vm_of(task, userdata), *outcome = json_object_get(task_data(task), "outcome");
        _cleanup_json_ json_t *doc = json_deep_copy(vm),
                              *disk = json_deep_copy(json_object_get(task_data(task), "disk"));
        json_t *disks = json_object_get(json_spec(doc), "disks");
        struct error *error = NULL;

        if (!vm) {
                fail_gone(task);
                return;
        }
        if (!disks && doc) {
                disks = json_array();
                if (json_object_set_new(json_spec(doc), "disks", disks) < 0)
                        disks = NULL;
        }
        if (!disk || !disks ||
                json_object_set(disk, "size_bytes", json_object_get(outcome, "virtual_bytes")) < 0 ||
                (!json_named(disks, json_text(disk, "name")) && json_array_append(disks, disk) < 0)) {
                task_step_failed(task, NULL);
                return;
        }
        if (vm_spec_check(json_spec(doc), &error) < 0) { /* its size is what the host says */
                task_step_failed(task, error);
                return;
        }
        task_set_result(task, json_pack("{s:s, s:s, s:O, s:O}", "vm_uid", json_text(vm, "uid"), "host",
                                      json_text(task_data(task), "host"), "disk", disk, "source",
                                      json_object_get(outcome, "source")));
        store_batch_put(task_batch(task), json_revision(vm), TAKE_PTR(doc));
        task_step_done(task);
}

static const struct task_step import_steps[] = {
        {.name = "check", .run = run_check_import},
        {.name = "start", .run = operation_image_start, .undo = operation_image_undo, .no_timeout = true},
        {.name = "follow", .run = operation_image_follow, .no_timeout = true},
        {.name = "attach", .run = run_attach},
        {.name = "forget", .run = operation_image_forget, .keep = true},
};
const struct task_kind operation_vm_import_disk = {
        .action = "vm.import-disk",
        .steps = import_steps,
        .n_steps = ARRAY_SIZE(import_steps),
        .timeout_ms = 60000,
};

/* --- Export ---------------------------------------------------------------------------------------------------------- */

static int prepare_export(
        struct task *task, struct manager *manager, const json_t *vm, struct error **ret_error)
{
        const json_t *input = task_input(task),
                     *host = inventory_host(manager->inventory, json_text(json_status(vm), "host")),
                     *disk = json_named(json_object_get(json_spec(vm), "disks"), json_text(input, "disk"));
        const char *datastores[3] = {json_text(input, "datastore"), json_text(disk, "datastore")},
                   *format = NULL;
        json_t *job;
        int r;

        if (!disk)
                return error_set(ret_error, ERROR_NOT_FOUND, "`drover vm show` lists them.",
                        "the virtual machine has no disk %.64s", json_text(input, "disk"));
        r = operation_image_check_off(vm, ret_error);
        if (r >= 0)
                r = operation_image_check_export_path(manager, json_text(input, "path"), &format, ret_error);
        if (r >= 0)
                r = operation_image_check_host(manager, host, datastores, ret_error);
        if (r < 0)
                return r;
        job = json_pack("{s:s, s:s, s:I, s:{s:O, s:O, s:O}, s:{s:O, s:O, s:s, s:b, s:b}}", "id",
                task_uid(task), "kind", "convert", "timeout_ms", timeout_of(task), "source", "datastore",
                json_object_get(disk, "datastore"), "path", json_object_get(disk, "path"), "format",
                json_object_get(disk, "format"), "target", "datastore", json_object_get(input, "datastore"),
                "path", json_object_get(input, "path"), "format", format, "stream",
                json_is_true(json_object_get(input, "stream")), "checksum", true);
        return set_job(task, host, job) < 0 ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory")
                                            : 0;
}

static void run_check_export(struct task *task, void *userdata)
{
        prepare(task, userdata, prepare_export);
}

static void run_tell(struct task *task, void *userdata)
{
        const json_t *outcome = json_object_get(task_data(task), "outcome"),
                     *target = json_object_get(json_object_get(task_data(task), "job"), "target");

        task_set_result(task,
                json_pack("{s:s, s:s, s:O, s:O, s:O, s:O, s:O, s:O, s:O}", "vm_uid",
                        json_text(task_data(task), "vm_uid"), "host", json_text(task_data(task), "host"),
                        "disk", json_object_get(task_input(task), "disk"), "datastore",
                        json_object_get(target, "datastore"), "path", json_object_get(target, "path"),
                        "format", json_object_get(target, "format"), "virtual_bytes",
                        json_object_get(outcome, "virtual_bytes"), "bytes", json_object_get(outcome, "bytes"),
                        "sha256", json_object_get(outcome, "sha256")));
        task_step_done(task);
}

static const struct task_step export_steps[] = {
        {.name = "check", .run = run_check_export},
        {.name = "start", .run = operation_image_start, .undo = operation_image_undo, .no_timeout = true},
        {.name = "follow", .run = operation_image_follow, .no_timeout = true},
        {.name = "tell", .run = run_tell},
        {.name = "forget", .run = operation_image_forget, .keep = true},
};
const struct task_kind operation_vm_export_disk = {
        .action = "vm.export-disk",
        .steps = export_steps,
        .n_steps = ARRAY_SIZE(export_steps),
        .timeout_ms = 60000,
};

/* --- Export of a whole virtual machine -------------------------------------------------------------------------------- */

static json_t *pack_job(const struct task *task, const json_t *vm)
{
        const json_t *input = task_input(task), *spec = json_spec(vm);
        _cleanup_json_ json_t *disks = json_array();
        json_t *disk, *nics = json_object_get(spec, "nics");
        size_t i;

        json_array_foreach (json_object_get(spec, "disks"), i, disk)
                if (json_array_append_new(disks,
                            json_pack("{s:O, s:O, s:O}", "datastore", json_object_get(disk, "datastore"),
                                    "path", json_object_get(disk, "path"), "format",
                                    json_object_get(disk, "format"))) < 0)
                        return NULL;
        return json_pack("{s:s, s:s, s:I, s:O, s:{s:O, s:O, s:O, s:s, s:O*}, s:{s:O, s:O}}", "id",
                task_uid(task), "kind", "pack", "timeout_ms", timeout_of(task), "disks", disks, "vm", "name",
                json_object_get(vm, "name"), "cpus", json_object_get(spec, "cpus"), "memory_bytes",
                json_object_get(spec, "memory_bytes"), "firmware",
                json_text_or_null(spec, "firmware") ?: "bios", "nics", nics, "target", "datastore",
                json_object_get(input, "datastore"), "path", json_object_get(input, "path"));
}

static int prepare_pack(
        struct task *task, struct manager *manager, const json_t *vm, struct error **ret_error)
{
        const json_t *input = task_input(task),
                     *host = inventory_host(manager->inventory, json_text(json_status(vm), "host"));
        const char *datastores[DISKS_MAX + 2] = {json_text(input, "datastore")};
        json_t *disk;
        size_t i;
        int r = operation_image_check_off(vm, ret_error);

        json_array_foreach (json_object_get(json_spec(vm), "disks"), i, disk)
                if (i < DISKS_MAX)
                        datastores[i + 1] = json_text(disk, "datastore");
        if (r >= 0)
                r = operation_image_check_archive_path(manager, json_text(input, "path"), ret_error);
        if (r >= 0)
                r = operation_image_check_host(manager, host, datastores, ret_error);
        if (r >= 0 && set_job(task, host, pack_job(task, vm)) < 0)
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return r;
}

static void run_check_pack(struct task *task, void *userdata)
{
        prepare(task, userdata, prepare_pack);
}

static void run_tell_pack(struct task *task, void *userdata)
{
        const json_t *outcome = json_object_get(task_data(task), "outcome"), *input = task_input(task);

        task_set_result(task,
                json_pack("{s:s, s:s, s:O, s:O, s:O, s:O}", "vm_uid", json_text(task_data(task), "vm_uid"),
                        "host", json_text(task_data(task), "host"), "datastore",
                        json_object_get(input, "datastore"), "path", json_object_get(input, "path"), "bytes",
                        json_object_get(outcome, "bytes"), "sha256", json_object_get(outcome, "sha256")));
        task_step_done(task);
}

static const struct task_step pack_steps[] = {
        {.name = "check", .run = run_check_pack},
        {.name = "start", .run = operation_image_start, .undo = operation_image_undo, .no_timeout = true},
        {.name = "follow", .run = operation_image_follow, .no_timeout = true},
        {.name = "tell", .run = run_tell_pack},
        {.name = "forget", .run = operation_image_forget, .keep = true},
};
const struct task_kind operation_vm_export = {
        .action = "vm.export",
        .steps = pack_steps,
        .n_steps = ARRAY_SIZE(pack_steps),
        .timeout_ms = 60000,
};
