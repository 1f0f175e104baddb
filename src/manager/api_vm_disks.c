/* SPDX-License-Identifier: Apache-2.0 */

/* Requests to move disks of a virtual machine to other datastores, and which of those are the best; and to make disks larger. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/converge.h"
#include "base/doc.h"
#include "base/text.h"
#include "cluster/disk_placement.h"
#include "manager/api.h"
#include "manager/datastores.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"

#define DISKS_MAX 64
#define VM_DISK_MAX_BYTES (UINT64_C(64) << 40)
#define SECTOR_BYTES 512
#define TIMEOUT_MAX_MS (UINT64_C(7) * 24 * 3600 * 1000)

static int check_word(const json_t *body, const char *key, const char *const *words, const char *hint,
        struct error **ret_error)
{
        const char *word = NULL;
        int r = doc_opt_string(body, "", key, 32, &word, ret_error);

        if (r < 0 || !word)
                return r;
        for (; *words; words++)
                if (!strcmp(*words, word))
                        return 0;
        return error_set(ret_error, ERROR_NOT_SUPPORTED, hint, "field %s cannot be \"%.32s\"", key, word);
}

static int check_names(const json_t *body, struct error **ret_error)
{
        json_t *names = NULL, *name;
        size_t i;
        int r = doc_opt_array(body, "", "disks", DISKS_MAX, &names, ret_error);

        json_array_foreach (names, i, name)
                if (r >= 0 && !text_is_name(json_string_value(name) ?: ""))
                        r = error_set(ret_error, ERROR_BAD_DOCUMENT, "`drover vm show` lists them.",
                                "disks[%zu] is no name of a disk", i);
        return r;
}

/* One datastore for all, one for each disk that is named, or neither: then the best ones are chosen. */
static int check_targets(const json_t *body, struct error **ret_error)
{
        const char *datastore = NULL, *disk;
        json_t *each = NULL, *target;
        int r = doc_opt_string(body, "", "to_datastore", NAME_MAX_CHARS, &datastore, ret_error);

        if (r >= 0 && datastore && !text_is_name(datastore))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "See `drover datastore list`.",
                        "field to_datastore must be the name of a datastore");
        if (r >= 0)
                r = doc_opt_object(body, "", "to_datastores", &each, ret_error);
        if (r >= 0 && each && (datastore || json_object_get(body, "disks")))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "Give one of the two.",
                        "field to_datastores names disks and datastores, and goes with neither to_datastore "
                        "nor disks");
        if (r >= 0 && each && (!json_object_size(each) || json_object_size(each) > DISKS_MAX))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "field to_datastores must name 1 to %d disks", DISKS_MAX);
        json_object_foreach (each, disk, target)
                if (r >= 0 && (!text_is_name(disk) || !text_is_name(json_string_value(target) ?: "")))
                        r = error_set(ret_error, ERROR_BAD_DOCUMENT, "See `drover datastore list`.",
                                "field to_datastores.%.64s must be the name of a datastore", disk);
        return r;
}

static int read_request(struct http_request *request, json_t **ret_body, struct error **ret_error)
{
        static const char *const keys[] = {"to_datastore", "to_datastores", "format", "disks",
                "rate_limit_bps", "timeout_ms", "priority", "max_pause_ms", "converge", NULL};
        static const char *const formats[] = {"raw", "qcow2", NULL};
        static const char *const priorities[] = {"low", "normal", "high", "critical", NULL};
        json_t *body = NULL;
        uint64_t number, max_pause_ms = OPERATION_MAX_PAUSE_MS_DEFAULT;
        struct converge_policy policy;
        int r = api_body(request, keys, &body, ret_error);

        if (r >= 0)
                r = check_targets(body, ret_error);
        if (r >= 0)
                r = check_word(body, "format", formats,
                        "QEMU writes raw and qcow2 while a guest runs; those are possible.", ret_error);
        if (r >= 0)
                r = check_names(body, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "rate_limit_bps", 0, INT64_MAX, &number, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "timeout_ms", 0, TIMEOUT_MAX_MS, &number, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "max_pause_ms", 1, 600000, &max_pause_ms, ret_error);
        if (r >= 0)
                r = converge_policy_read(body, max_pause_ms, &policy, ret_error);
        if (r >= 0 && converge_policy_has(&policy, CONVERGE_POST_COPY))
                r = error_set(ret_error, ERROR_NOT_SUPPORTED, "Leave post-copy out of --converge.",
                        "disks are copied before they are switched: there is no post-copy of disks");
        if (r >= 0)
                r = check_word(body, "priority", priorities, "See /api/openapi.json for what is allowed.",
                        ret_error);
        if (r >= 0)
                *ret_body = body;
        return r;
}

static int check_power(const json_t *vm, struct error **ret_error)
{
        static const char *const allowed[] = {"running", "paused", "stopped", "crashed"};
        const char *power = json_text(json_status(vm), "power");

        for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
                if (!strcmp(allowed[i], power))
                        return 0;
        return error_set(ret_error, ERROR_CONFLICT,
                "Its disks can be moved while it runs, is paused, or is off.", "the virtual machine is %s",
                power);
}

/* Of the disks that the request (may be NULL) names, or all. The report is the caller's. */
static int advise(struct manager *manager, const json_t *vm, const json_t *disks, json_t **ret_report,
        struct error **ret_error)
{
        _cleanup_datastores_facts_ struct datastores_facts facts = {};
        struct disk_placement_input input;
        json_t *report;

        if (!*json_text(json_status(vm), "host"))
                return error_set(
                        ret_error, ERROR_CONFLICT, "Start it once.", "the virtual machine is on no host");
        if (datastores_facts_load(manager, vm, &facts, ret_error) < 0)
                return -ENOMEM;
        input = datastores_facts_input(&facts);
        input.disks = disks;
        report = disk_placement(&input);
        if (!report)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_report = report;
        return 0;
}

/* Nothing is named: each disk goes to the best datastore of now, which becomes a part of the request. */
static int choose(struct manager *manager, const json_t *vm, json_t *body, struct error **ret_error)
{
        _cleanup_json_ json_t *report = NULL, *choice = NULL;
        int r;

        if (json_object_get(body, "to_datastore") || json_object_get(body, "to_datastores"))
                return 0;
        r = advise(manager, vm, json_object_get(body, "disks"), &report, ret_error);
        if (r >= 0)
                r = disk_placement_choice(report, &choice, ret_error);
        if (r < 0)
                return r;
        json_object_del(body, "disks");
        return json_object_set(body, "to_datastores", choice) < 0
                       ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory")
                       : 0;
}

/* Everything that can be said at once; the task looks again when it starts. */
static int check(struct manager *manager, const json_t *vm, json_t *body, struct error **ret_error)
{
        _cleanup_json_ json_t *disks = NULL;
        const json_t *host;
        int r = check_power(vm, ret_error);

        if (r >= 0)
                r = choose(manager, vm, body, ret_error);
        if (r >= 0)
                r = operation_storage_check(manager, vm, body, &host, &disks, ret_error);
        if (r < 0)
                error_about(ret_error, "vm/%s", json_text(vm, "name"));
        return r;
}

void api_vm_migrate_disks(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *vm = NULL, *data = NULL;
        _cleanup_free_ char *held = NULL, *object = NULL;
        struct manager *manager = userdata;
        struct error *error = NULL;
        json_t *body = NULL;
        int r;

        r = api_get_object(request, manager, "vm", &vm, &error);
        if (r >= 0)
                r = read_request(request, &body, &error);
        if (r >= 0)
                r = check(manager, vm, body, &error);
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        held = alloc_printf("vm/%s", json_text(vm, "uid"));
        object = alloc_printf("vm/%s", json_text(vm, "name"));
        data = json_pack(
                "{s:s, s:s}", "vm_uid", json_text(vm, "uid"), "to", json_text(json_status(vm), "host"));
        if (!held || !object || !data) {
                http_request_reply_error(request, NULL);
                return;
        }
        api_submit(request, manager,
                &(struct task_request){.action = "vm.migrate-disks",
                        .object = object,
                        .objects = (const char *const[]){held, NULL},
                        .priority = json_text_or_null(body, "priority"),
                        .input = body,
                        .data = data},
                NULL);
}

static int read_resize(struct http_request *request, json_t **ret_input, struct error **ret_error)
{
        static const char *const keys[] = {"size_bytes", NULL};
        uint64_t size_bytes = 0;
        json_t *body = NULL;
        int r = api_body(request, keys, &body, ret_error);

        if (r >= 0)
                r = doc_opt_u64(body, "", "size_bytes", 1, VM_DISK_MAX_BYTES, &size_bytes, ret_error);
        if (r >= 0 && !size_bytes)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field size_bytes is missing");
        if (r < 0)
                return r;
        size_bytes = (size_bytes + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES;
        *ret_input = json_pack("{s:s, s:I}", "disk", http_request_param(request, "disk"), "size_bytes",
                (json_int_t)size_bytes);
        return *ret_input ? 0 : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

void api_vm_resize_disk(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *vm = NULL, *input = NULL, *data = NULL;
        _cleanup_free_ char *held = NULL, *object = NULL;
        struct manager *manager = userdata;
        struct error *error = NULL;
        const json_t *host;
        int r = api_get_object(request, manager, "vm", &vm, &error);

        if (r >= 0)
                r = read_resize(request, &input, &error);
        if (r >= 0)
                r = operation_resize_check(manager, vm, input, &host, &error);
        if (r < 0) {
                if (vm)
                        error_about(&error, "vm/%s", json_text(vm, "name"));
                http_request_reply_error(request, error);
                return;
        }
        held = alloc_printf("vm/%s", json_text(vm, "uid"));
        object = alloc_printf("vm/%s", json_text(vm, "name"));
        data = json_pack("{s:s}", "vm_uid", json_text(vm, "uid"));
        if (!held || !object || !data)
                http_request_reply_error(request, NULL);
        else
                api_submit(request, manager,
                        &(struct task_request){.action = "vm.resize-disk",
                                .object = object,
                                .objects = (const char *const[]){held, NULL},
                                .input = input,
                                .data = data},
                        NULL);
}

void api_vm_disk_advice(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *vm = NULL, *report = NULL;
        struct error *error = NULL;
        int r = api_get_object(request, userdata, "vm", &vm, &error);

        if (r >= 0 && !auth_may_everywhere(api_caller(request), PERMISSION_DATASTORE_READ))
                r = error_set(&error, ERROR_DENIED, "Ask for a role that has it: `drover role list`.",
                        "%s has not the permission %s everywhere, which ranking datastores takes",
                        api_caller(request)->name, permission_to_string(PERMISSION_DATASTORE_READ));
        if (r >= 0)
                r = advise(userdata, vm, NULL, &report, &error);
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        (void)json_object_set(report, "vm", json_object_get(vm, "name"));
        (void)json_object_set(report, "host", json_object_get(json_status(vm), "host"));
        http_request_reply_json(request, 200, TAKE_PTR(report));
}
