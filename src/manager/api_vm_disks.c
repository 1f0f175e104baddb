/* SPDX-License-Identifier: Apache-2.0 */

/* Requests to move disks of a virtual machine to another datastore, and to make them larger. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/converge.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/api.h"
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

static int read_request(struct http_request *request, json_t **ret_body, struct error **ret_error)
{
        static const char *const keys[] = {"to_datastore", "format", "disks", "rate_limit_bps", "timeout_ms",
                "priority", "max_pause_ms", "converge", NULL};
        static const char *const formats[] = {"raw", "qcow2", NULL};
        static const char *const priorities[] = {"low", "normal", "high", "critical", NULL};
        const char *datastore = NULL;
        json_t *body = NULL;
        uint64_t number, max_pause_ms = OPERATION_MAX_PAUSE_MS_DEFAULT;
        struct converge_policy policy;
        int r = api_body(request, keys, &body, ret_error);

        if (r >= 0)
                r = doc_opt_string(body, "", "to_datastore", NAME_MAX_CHARS, &datastore, ret_error);
        if (r >= 0 && !text_is_name(datastore ?: ""))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "See `drover datastore list`.",
                        "field to_datastore must be the name of a datastore");
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

static int check_datastore(struct manager *manager, const char *name, struct error **ret_error)
{
        json_t *docs = NULL;
        int r = inventory_objects(manager->inventory, "datastore", &docs, ret_error);
        json_t *doc;
        bool found = false;
        size_t i;

        if (r < 0)
                return r;
        json_array_foreach (docs, i, doc)
                found = found || !strcmp(json_text(doc, "name"), name);
        json_decref(docs);
        return found ? 0
                     : error_set(ret_error, ERROR_NOT_FOUND, "See `drover datastore list`.",
                               "there is no datastore %.64s", name);
}

/* Everything that can be said at once; the task looks again when it starts. */
static int check(struct manager *manager, const json_t *vm, const json_t *body, struct error **ret_error)
{
        _cleanup_json_ json_t *disks = NULL;
        const json_t *host;
        int r = check_power(vm, ret_error);

        if (r >= 0)
                r = check_datastore(manager, json_text(body, "to_datastore"), ret_error);
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
