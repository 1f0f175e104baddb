/* SPDX-License-Identifier: Apache-2.0 */

/* Requests about VMs, and the stream of events. A request that starts something is answered when it has ended; the
 * request itself is the `userdata` of the operation. */

#include <errno.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/api.h"
#include "agent/events.h"
#include "agent/migration.h"
#include "agent/stores.h"
#include "agent/vm_create.h"
#include "agent/vm_job.h"
#include "agent/vm_suspend.h"
#include "base/doc.h"
#include "base/text.h"
#include "storage/vm_folder.h"

#define CONSOLE_TAIL_DEFAULT 16384
#define CONSOLE_TAIL_MAX (512 * 1024)
#define STATE_TIMEOUT_MAX_MS (UINT64_C(86400) * 1000)
#define STOP_TIMEOUT_MAX_MS (UINT64_C(3600) * 1000)

static struct vm *find_vm(struct http_request *request)
{
        const char *uid = http_request_param(request, "uid");
        struct vm *vm = vm_find(api_agent(request), uid);
        struct error *error = NULL;

        if (vm)
                return vm;
        (void)error_set(&error, ERROR_NOT_FOUND, NULL, "VM %.64s is not on this host", uid);
        api_reply_error(request, error);
        return NULL;
}

/* The body, a VM document whose uid is the path's. False: answered. */
static bool read_document(struct http_request *request, json_t **ret)
{
        const char *uid = http_request_param(request, "uid");
        struct error *error = NULL;
        json_t *document;
        const char *inside;

        if (http_request_json(request, &document, &error) < 0) {
                api_reply_error(request, error);
                return false;
        }
        inside = json_string_value(json_object_get(document, "uid"));
        if (!inside || strcmp(inside, uid) != 0) {
                (void)error_set(&error, ERROR_BAD_DOCUMENT, NULL,
                        "the document's uid is not the path's (%.64s)", uid);
                api_reply_error(request, error);
                return false;
        }
        *ret = document;
        return true;
}

static void reply_vm(struct http_request *request)
{
        struct vm *vm = find_vm(request);

        if (vm)
                api_reply_json(request, 200, vm_report(vm));
}

/* End of every operation on one VM. */
static void on_done(void *userdata, struct error *error)
{
        struct http_request *request = userdata;

        if (error)
                api_reply_error_copy(request, error);
        else
                reply_vm(request);
}

static json_t *list_vms(struct agent *agent)
{
        json_t *list = json_array();
        struct map_item *item, *spare;

        map_for_each (item, spare, &agent->vms) {
                if (json_array_append_new(list, vm_report(item->value)) < 0) {
                        json_decref(list);
                        return NULL;
                }
        }
        return list;
}

void api_vm_list(struct http_request *request, void *userdata)
{
        struct agent *agent = userdata;

        http_request_reply_json(request, 200, list_vms(agent));
}

void api_vm_get(struct http_request *request, void *agent)
{
        reply_vm(request);
}

static void on_created(void *userdata, json_t *document, struct error *error)
{
        struct http_request *request = userdata;

        if (error)
                api_reply_error_copy(request, error);
        else
                api_reply_json(request, 200, json_incref(document));
}

void api_vm_create(struct http_request *request, void *agent)
{
        struct error *error = NULL;
        json_t *document;

        if (read_document(request, &document) && vm_create(agent, document, on_created, request, &error) < 0)
                api_reply_error(request, error);
}

static void on_deleted(void *userdata, json_t *document, struct error *error)
{
        struct http_request *request = userdata;

        if (error)
                api_reply_error_copy(request, error);
        else
                api_reply_json(request, 200, json_object());
}

void api_vm_delete(struct http_request *request, void *agent)
{
        struct error *error = NULL;
        json_t *document;

        bool left = http_request_query(request, "left") != NULL;

        if (read_document(request, &document) &&
                vm_delete(agent, document, left, on_deleted, request, &error) < 0)
                api_reply_error(request, error);
}

void api_vm_start(struct http_request *request, void *agent)
{
        struct error *error = NULL;
        json_t *document;
        struct vm *vm;

        bool discard_state = http_request_query(request, "discard_state") != NULL;
        bool clear_record = http_request_query(request, "clear") != NULL;

        if (read_document(request, &document) &&
                vm_start(agent, document, discard_state, clear_record, on_done, request, &vm, &error) < 0)
                api_reply_error(request, error);
}

void api_vm_restore(struct http_request *request, void *agent)
{
        const char *patience = http_request_query(request, "timeout_ms");
        struct error *error = NULL;
        uint64_t timeout_ms = 0;
        json_t *document;
        struct vm *vm;
        int r = 0;

        if (!read_document(request, &document))
                return;
        if (patience && text_parse_u64(patience, 0, STATE_TIMEOUT_MAX_MS, &timeout_ms) < 0)
                r = error_set(
                        &error, ERROR_BAD_REQUEST, NULL, "timeout_ms must be a number of at most a day");
        if (r == 0)
                r = vm_restore(agent, document, timeout_ms, on_done, request, &vm, &error);
        if (r < 0)
                api_reply_error(request, error);
}

void api_vm_restore_cancel(struct http_request *request, void *agent)
{
        struct vm *vm = find_vm(request);
        struct error *error = NULL;

        if (!vm)
                return;
        if (vm_restore_cancel(vm, &error) < 0)
                api_reply_error(request, error);
        else
                reply_vm(request);
}

static int read_suspend(struct http_request *request, uint64_t *ret_timeout_ms, struct error **ret_error)
{
        static const char *const known[] = {"timeout_ms", NULL};
        size_t len = 0;
        json_t *body;
        int r;

        (void)http_request_body(request, &len);
        if (len == 0)
                return 0;
        r = http_request_json(request, &body, ret_error);
        if (r == 0)
                r = doc_only_keys(body, "suspend", known, ret_error);
        if (r == 0)
                r = doc_opt_u64(
                        body, "suspend", "timeout_ms", 0, STATE_TIMEOUT_MAX_MS, ret_timeout_ms, ret_error);
        return r;
}

/* Said again, it is no error: one that is under way is not begun anew, but BUSY says so. */
void api_vm_suspend(struct http_request *request, void *agent)
{
        struct vm *vm = find_vm(request);
        struct error *error = NULL;
        uint64_t timeout_ms = 0;
        int r;

        if (!vm)
                return;
        r = read_suspend(request, &timeout_ms, &error);
        if (r == 0 && !vm->job && vm_power(vm) == VM_POWER_SUSPENDED && !vm_has_qemu(vm)) {
                reply_vm(request);
                return;
        }
        if (r == 0)
                r = vm_suspend(vm, timeout_ms, on_done, request, &error);
        if (r < 0)
                api_reply_error(request, error);
}

void api_vm_suspend_cancel(struct http_request *request, void *agent)
{
        struct vm *vm = find_vm(request);
        struct error *error = NULL;

        if (!vm)
                return;
        if (vm_suspend_cancel(vm, &error) < 0)
                api_reply_error(request, error);
        else
                reply_vm(request);
}

static int read_stop(
        struct http_request *request, bool *ret_force, uint64_t *ret_timeout_ms, struct error **ret_error)
{
        static const char *const known[] = {"force", "timeout_ms", NULL};
        size_t len = 0;
        json_t *body;
        int r;

        (void)http_request_body(request, &len);
        if (len == 0)
                return 0;
        r = http_request_json(request, &body, ret_error);
        if (r == 0)
                r = doc_only_keys(body, "stop", known, ret_error);
        if (r == 0)
                r = doc_opt_bool(body, "stop", "force", ret_force, ret_error);
        if (r == 0)
                r = doc_opt_u64(
                        body, "stop", "timeout_ms", 0, STOP_TIMEOUT_MAX_MS, ret_timeout_ms, ret_error);
        return r;
}

void api_vm_stop(struct http_request *request, void *agent)
{
        struct vm *vm = find_vm(request);
        struct error *error = NULL;
        uint64_t timeout_ms = 0;
        bool force = false;
        int r;

        if (!vm)
                return;
        r = read_stop(request, &force, &timeout_ms, &error);
        if (r == 0 && !vm_has_qemu(vm) &&
                (vm_power(vm) == VM_POWER_STOPPED || vm_power(vm) == VM_POWER_CRASHED)) {
                if (vm_power(vm) == VM_POWER_CRASHED)
                        vm_set_power(vm, VM_POWER_STOPPED, NULL);
                reply_vm(request);
                return;
        }
        if (r == 0)
                r = vm_stop(vm, force, timeout_ms, on_done, request, &error);
        if (r < 0)
                api_reply_error(request, error);
}

void api_vm_pause(struct http_request *request, void *agent)
{
        struct vm *vm = find_vm(request);
        struct error *error = NULL;

        if (vm && vm_pause(vm, on_done, request, &error) < 0)
                api_reply_error(request, error);
}

void api_vm_resume(struct http_request *request, void *agent)
{
        struct vm *vm = find_vm(request);
        struct error *error = NULL;

        if (vm && vm_resume(vm, on_done, request, &error) < 0)
                api_reply_error(request, error);
}

/* --- Console ---------------------------------------------------------------------------------------------------- */

/* The datastore answers: reading the log is reasonable now. */
static void on_console_store(void *userdata, struct error *error)
{
        struct http_request *request = userdata;
        const char *tail = http_request_query(request, "tail");
        uint64_t tail_bytes = CONSOLE_TAIL_DEFAULT;
        struct error *failure = NULL;
        char *text = NULL;
        struct vm *vm;
        int r;

        if (error) {
                api_reply_error_copy(request, error);
                return;
        }
        vm = find_vm(request);
        if (!vm)
                return;
        if (tail && text_parse_u64(tail, 0, CONSOLE_TAIL_MAX, &tail_bytes) < 0)
                r = error_set(&failure, ERROR_BAD_REQUEST, NULL, "tail must be a number from 0 to %d",
                        CONSOLE_TAIL_MAX);
        else
                r = vm_open_folder(vm, &failure);
        if (r == 0)
                r = vm_folder_read_serial_log(vm->folder, tail_bytes, &text, &failure);
        if (r < 0) {
                api_reply_error(request, failure);
                return;
        }
        http_request_reply_json(request, 200, json_pack("{s:s}", "text", text));
        free(text);
}

void api_vm_console(struct http_request *request, void *userdata)
{
        struct agent *agent = userdata;
        struct vm *vm = find_vm(request);
        struct stores_wait *wait;
        struct error *error = NULL;
        const char *name;

        if (!vm)
                return;
        name = vm->config->datastore;
        if (stores_ensure(agent->stores, &name, name ? 1 : 0, on_console_store, request, &wait, &error) < 0)
                api_reply_error(request, error);
}

/* --- Events ----------------------------------------------------------------------------------------------------- */

static int add_initial(json_t *initial, const char *event, json_t *documents)
{
        json_t *document;
        size_t i;
        int r = documents ? 0 : -ENOMEM;

        json_array_foreach (documents, i, document) {
                if (r == 0 && json_array_append_new(initial, json_pack("[s, O]", event, document)) < 0)
                        r = -ENOMEM;
        }
        json_decref(documents);
        return r;
}

void api_events(struct http_request *request, void *userdata)
{
        struct agent *agent = userdata;
        _cleanup_json_ json_t *initial = json_array();

        if (add_initial(initial, "vm", list_vms(agent)) < 0 ||
                add_initial(initial, "migration", migration_documents(agent)) < 0) {
                http_request_reply_error(request, NULL);
                return;
        }
        events_subscribe(agent->events, request, initial);
}
