/* SPDX-License-Identifier: Apache-2.0 */

/* Requests about snapshots of a virtual machine. What there is, its document says. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/api.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"
#include "manager/snapshots.h"

void api_vm_snapshot_list(struct http_request *request, void *manager)
{
        _cleanup_json_ json_t *vm = NULL;
        struct error *error = NULL;
        json_t *list;

        if (api_get_object(request, manager, "vm", &vm, &error) < 0) {
                http_request_reply_error(request, error);
                return;
        }
        list = json_object_get(vm, "snapshots");
        http_request_reply_json(request, 200,
                json_pack("{s:o, s:n}", "items", list ? json_incref(list) : json_array(), "continue"));
}

static int find(const json_t *vm, const char *name, json_t **ret, struct error **ret_error)
{
        *ret = snapshots_find(vm, name);
        return *ret ? 0
                    : error_set(ret_error, ERROR_NOT_FOUND, "`drover vm snapshot list` lists them.",
                              "the virtual machine %s has no snapshot %.64s", json_text(vm, "name"), name);
}

void api_vm_snapshot_get(struct http_request *request, void *manager)
{
        _cleanup_json_ json_t *vm = NULL;
        struct error *error = NULL;
        json_t *snapshot;
        int r = api_get_object(request, manager, "vm", &vm, &error);

        if (r >= 0)
                r = find(vm, http_request_param(request, "snapshot"), &snapshot, &error);
        if (r < 0)
                http_request_reply_error(request, error);
        else
                http_request_reply_json(request, 200, json_incref(snapshot));
}

/* input is taken over. */
static void submit(struct http_request *request, struct manager *manager, const char *action,
        const json_t *vm, json_t *input)
{
        _cleanup_free_ char *held = alloc_printf("vm/%s", json_text(vm, "uid")),
                            *object = alloc_printf("vm/%s", json_text(vm, "name"));
        _cleanup_json_ json_t *data = json_pack("{s:s}", "vm_uid", json_text(vm, "uid")), *owned = input;

        if (!held || !object || !data || !owned)
                http_request_reply_error(request, NULL);
        else
                api_submit(request, manager,
                        &(struct task_request){.action = action,
                                .object = object,
                                .objects = (const char *const[]){held, NULL},
                                .input = owned,
                                .data = data},
                        NULL);
}

static void refuse(struct http_request *request, const json_t *vm, struct error *error)
{
        if (vm)
                error_about(&error, "vm/%s", json_text(vm, "name"));
        http_request_reply_error(request, error);
}

static int read_create(struct http_request *request, json_t **ret_body, struct error **ret_error)
{
        static const char *const keys[] = {"snapshot", "description", NULL};
        const char *name = NULL, *description = NULL;
        json_t *body = NULL;
        int r = api_body(request, keys, &body, ret_error);

        if (r >= 0)
                r = doc_opt_string(body, "", "snapshot", NAME_MAX_CHARS, &name, ret_error);
        if (r >= 0 && !text_is_name(name ?: ""))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Letters, digits, dots, dashes and underscores, the first a letter or digit.",
                        "field snapshot must be a name");
        if (r >= 0)
                r = doc_opt_string(
                        body, "", "description", SNAPSHOT_DESCRIPTION_MAX, &description, ret_error);
        if (r >= 0)
                *ret_body = body;
        return r;
}

void api_vm_snapshot_create(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *vm = NULL;
        struct manager *manager = userdata;
        const json_t *host;
        struct error *error = NULL;
        json_t *body = NULL;
        int r = api_get_object(request, manager, "vm", &vm, &error);

        if (r >= 0)
                r = read_create(request, &body, &error);
        if (r >= 0)
                r = operation_snapshot_check_create(manager, vm, body, &host, &error);
        if (r < 0)
                refuse(request, vm, error);
        else
                submit(request, manager, "vm.snapshot-create", vm, json_incref(body));
}

typedef int (*check_fn)(struct manager *manager, const json_t *vm, const json_t *input,
        const json_t **ret_host, struct error **ret_error);

/* input is taken over. */
static void act(struct http_request *request, struct manager *manager, const char *action, json_t *input,
        check_fn check)
{
        static const char *const keys[] = {NULL};
        _cleanup_json_ json_t *vm = NULL, *owned = input;
        struct error *error = NULL;
        const json_t *host;
        json_t *body;
        int r = api_get_object(request, manager, "vm", &vm, &error);

        if (r >= 0)
                r = api_body(request, keys, &body, &error);
        if (r >= 0)
                r = owned ? check(manager, vm, owned, &host, &error)
                          : error_from_errno(&error, ENOMEM, "snapshot");
        if (r < 0)
                refuse(request, vm, error);
        else
                submit(request, manager, action, vm, TAKE_PTR(owned));
}

void api_vm_snapshot_revert(struct http_request *request, void *manager)
{
        act(request, manager, "vm.snapshot-revert",
                json_pack("{s:s}", "snapshot", http_request_param(request, "snapshot")),
                operation_snapshot_check_revert);
}

void api_vm_snapshot_delete(struct http_request *request, void *manager)
{
        const char *accepts = http_request_query(request, "accept_mixed_disks") ?: "";

        act(request, manager, "vm.snapshot-delete",
                json_pack("{s:s, s:b}", "snapshot", http_request_param(request, "snapshot"),
                        "accept_mixed_disks", !strcmp(accepts, "true")),
                operation_snapshot_check_delete);
}
