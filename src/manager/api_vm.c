/* SPDX-License-Identifier: Apache-2.0 */

/* Virtual machines: what the API does with them are tasks; here the requests are checked and submitted. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/converge.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/api.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/moves.h"
#include "manager/operations.h"
#include "manager/vm_spec.h"

#define CONSOLE_TAIL_DEFAULT 4096
#define CONSOLE_TAIL_MAX (1u << 20)
#define CONSOLE_TIMEOUT_MS 10000

static bool match(void *userdata, const json_t *doc)
{
        const struct http_request *request = userdata;

        return api_filter(request, "host", json_text(json_status(doc), "host")) &&
               api_filter(request, "power", json_text(json_status(doc), "power"));
}

void api_vm_list(struct http_request *request, void *userdata)
{
        api_reply_list(request, userdata,
                &(struct api_listing){.kind = "vm", .match = match, .userdata = request, .in_memory = true});
}

void api_vm_get(struct http_request *request, void *userdata)
{
        struct error *error = NULL;
        json_t *vm = NULL;

        if (api_get_object(request, userdata, "vm", &vm, &error) < 0)
                http_request_reply_error(request, error);
        else
                api_reply_object(request, 200, vm);
}

/* Submits a task about a VM. `data` gets the VM's uid. */
static void submit(struct http_request *request, struct manager *manager, const char *action,
        const json_t *vm, const json_t *input, json_t *data, const char *priority, struct store_batch *batch)
{
        _cleanup_free_ char *held = alloc_printf("vm/%s", json_text(vm, "uid"));
        _cleanup_free_ char *object = alloc_printf("vm/%s", json_text(vm, "name"));

        if (!held || !object || json_object_set_new(data, "vm_uid", json_string(json_text(vm, "uid"))) < 0) {
                http_request_reply_error(request, NULL);
                return;
        }
        api_submit(request, manager,
                &(struct task_request){.action = action,
                        .object = object,
                        .objects = (const char *const[]){held, NULL},
                        .priority = priority,
                        .input = input,
                        .data = data},
                batch);
}

static int read_create(struct http_request *request, struct manager *manager, json_t **ret_body,
        json_t **ret_spec, struct error **ret_error)
{
        static const char *const keys[] = {"kind", "name", "spec", "host", "start", NULL};
        _cleanup_json_ json_t *vms = inventory_vms(manager->inventory);
        json_t *body = NULL, *spec = NULL;
        const char *name = NULL, *host = NULL;
        bool start = false;
        int r;

        r = api_body(request, keys, &body, ret_error);
        if (r >= 0)
                r = api_body_name(body, &name, ret_error);
        if (r >= 0)
                r = doc_opt_string(body, "", "host", NAME_MAX_CHARS, &host, ret_error);
        if (r >= 0)
                r = doc_opt_bool(body, "", "start", &start, ret_error);
        if (r >= 0)
                r = doc_opt_object(body, "", "spec", &spec, ret_error);
        if (r >= 0 && !spec)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field spec is missing");
        if (r >= 0)
                r = vm_spec_check(spec, ret_error);
        if (r >= 0)
                r = vm_spec_fill(spec, ret_error);
        if (r >= 0)
                r = vm_spec_assign_macs(spec, vms, ret_error);
        if (r < 0)
                return r;
        *ret_body = body;
        *ret_spec = spec;
        return 0;
}

void api_vm_create(struct http_request *request, void *userdata)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *vm = NULL, *data = NULL;
        struct manager *manager = userdata;
        char uid[UUID_STRING_SIZE];
        struct error *error = NULL;
        json_t *body = NULL, *spec = NULL;

        if (read_create(request, manager, &body, &spec, &error) < 0) {
                http_request_reply_error(request, error);
                return;
        }
        vm = text_uuid_new(uid) < 0
                     ? NULL
                     : json_pack("{s:s, s:s, s:s, s:O, s:{s:s, s:n, s:s}}", "kind", "vm", "name",
                               json_text(body, "name"), "uid", uid, "spec", spec, "status", "power",
                               "stopped", "host", "message", "is being created");
        data = json_pack("{s:s*, s:b}", "to", json_text_or_null(body, "host"), "start",
                json_is_true(json_object_get(body, "start")));
        if (!vm || !data) {
                http_request_reply_error(request, NULL);
                return;
        }
        store_batch_put(&batch, STORE_ABSENT, json_incref(vm));
        submit(request, manager, "vm.create", vm, body, data, NULL, &batch);
}

/* Power states in which an operation makes sense; NULL-terminated. */
static int need_power(
        const json_t *vm, const char *const *allowed, const char *what, struct error **ret_error)
{
        const char *power = json_text(json_status(vm), "power");

        for (size_t i = 0; allowed[i]; i++)
                if (!strcmp(allowed[i], power))
                        return 0;
        if (!strcmp(power, "unknown"))
                error_set(ret_error, ERROR_OWNER_UNKNOWN,
                        "Bring the host's agent back first. Is the host down for good? `drover host "
                        "confirm-down` says so.",
                        "the virtual machine cannot be %s: %s", what,
                        json_text_or_null(json_status(vm), "message") ?: "its state is not known");
        else
                error_set(ret_error, ERROR_CONFLICT, NULL, "the virtual machine cannot be %s: it is %s", what,
                        power);
        error_about(ret_error, "vm/%s", json_text(vm, "name"));
        return -EBUSY;
}

struct operation {
        const char *action;
        const char *what; /* "cannot be WHAT" */
        const char *const *keys;
        const char *const *powers;
        int (*check)(const json_t *body, struct error **ret_error);                   /* may be NULL */
        int (*suits)(const json_t *vm, const json_t *body, struct error **ret_error); /* may be NULL */
};

static void operate(struct http_request *request, struct manager *manager, const struct operation *operation)
{
        _cleanup_json_ json_t *vm = NULL, *data = NULL;
        struct error *error = NULL;
        json_t *body = NULL;
        int r;

        r = api_get_object(request, manager, "vm", &vm, &error);
        if (r >= 0)
                r = api_body(request, operation->keys, &body, &error);
        if (r >= 0 && operation->check)
                r = operation->check(body, &error);
        if (r >= 0)
                r = need_power(vm, operation->powers, operation->what, &error);
        if (r >= 0 && operation->suits)
                r = operation->suits(vm, body, &error);
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        data = json_pack("{s:s*}", "to", json_text_or_null(body, "host"));
        if (data)
                submit(request, manager, operation->action, vm, body, data, NULL, NULL);
        else
                http_request_reply_error(request, NULL);
}

static const char *const no_keys[] = {NULL};

static int check_start(const json_t *body, struct error **ret_error)
{
        const char *host = NULL;
        bool flag;
        int r = doc_opt_bool(body, "", "discard_state", &flag, ret_error);

        return r < 0 ? r : doc_opt_string(body, "", "host", NAME_MAX_CHARS, &host, ret_error);
}

/* Refused here already: the host that it would be started on need not know of its state. */
static int start_suits(const json_t *vm, const json_t *body, struct error **ret_error)
{
        if (strcmp(json_text(json_status(vm), "power"), "suspended") != 0 ||
                json_is_true(json_object_get(body, "discard_state")))
                return 0;
        error_set(ret_error, ERROR_CONFLICT,
                "Resume it with `drover vm resume`, or give up what was in its memory: `drover vm start "
                "--discard-state`.",
                "the virtual machine is suspended");
        error_about(ret_error, "vm/%s", json_text(vm, "name"));
        return -EBUSY;
}

void api_vm_start(struct http_request *request, void *userdata)
{
        operate(request, userdata,
                &(struct operation){.action = "vm.start",
                        .what = "started",
                        .keys = (const char *const[]){"host", "discard_state", NULL},
                        .powers = (const char *const[]){"stopped", "crashed", "suspended", NULL},
                        .check = check_start,
                        .suits = start_suits});
}

static int check_suspend(const json_t *body, struct error **ret_error)
{
        uint64_t timeout_ms;

        return doc_opt_u64(body, "", "timeout_ms", 1000, 86400000, &timeout_ms, ret_error);
}

void api_vm_suspend(struct http_request *request, void *userdata)
{
        operate(request, userdata,
                &(struct operation){.action = "vm.suspend",
                        .what = "suspended",
                        .keys = (const char *const[]){"timeout_ms", NULL},
                        .powers = (const char *const[]){"running", "paused", NULL},
                        .check = check_suspend});
}

static int check_stop(const json_t *body, struct error **ret_error)
{
        uint64_t timeout_ms;
        bool force;
        int r;

        r = doc_opt_bool(body, "", "force", &force, ret_error);
        return r < 0 ? r : doc_opt_u64(body, "", "timeout_ms", 1000, 3600000, &timeout_ms, ret_error);
}

void api_vm_stop(struct http_request *request, void *userdata)
{
        operate(request, userdata,
                &(struct operation){.action = "vm.stop",
                        .what = "stopped",
                        .keys = (const char *const[]){"force", "timeout_ms", NULL},
                        .powers = (const char *const[]){"running", "paused", "starting", "suspending", NULL},
                        .check = check_stop});
}

void api_vm_pause(struct http_request *request, void *userdata)
{
        operate(request, userdata,
                &(struct operation){.action = "vm.pause",
                        .what = "paused",
                        .keys = no_keys,
                        .powers = (const char *const[]){"running", NULL}});
}

static int check_resume(const json_t *body, struct error **ret_error)
{
        const char *host = NULL;
        uint64_t timeout_ms;
        int r = doc_opt_string(body, "", "host", NAME_MAX_CHARS, &host, ret_error);

        return r < 0 ? r : doc_opt_u64(body, "", "timeout_ms", 1000, 86400000, &timeout_ms, ret_error);
}

/* What crashed, or was found stopped, while it was being suspended may be suspended all the same: its datastore says. */
void api_vm_resume(struct http_request *request, void *userdata)
{
        operate(request, userdata,
                &(struct operation){.action = "vm.resume",
                        .what = "resumed",
                        .keys = (const char *const[]){"host", "timeout_ms", NULL},
                        .powers = (const char *const[]){"paused", "suspended", "crashed", "stopped", NULL},
                        .check = check_resume});
}

void api_vm_delete(struct http_request *request, void *userdata)
{
        operate(request, userdata,
                &(struct operation){.action = "vm.delete",
                        .what = "deleted",
                        .keys = no_keys,
                        .powers = (const char *const[]){"stopped", "crashed", "suspended", NULL}});
}

static int check_choice(
        const json_t *body, const char *key, const char *const *words, struct error **ret_error)
{
        const char *word = NULL;
        int r;

        r = doc_opt_string(body, "", key, 32, &word, ret_error);
        if (r < 0 || !word)
                return r;
        for (; *words; words++)
                if (!strcmp(*words, word))
                        return 0;
        return error_set(ret_error, ERROR_BAD_DOCUMENT, "See /api/openapi.json for what is allowed.",
                "field %s cannot be \"%.32s\"", key, word);
}

static int check_min_bandwidth(const json_t *body, struct error **ret_error)
{
        uint64_t least = 0, most = 0;
        int r = doc_opt_u64(body, "", "min_bandwidth_bps", 0, INT64_MAX, &least, ret_error);

        if (r >= 0)
                r = doc_opt_u64(body, "", "rate_limit_bps", 0, INT64_MAX, &most, ret_error);
        if (r >= 0 && most && least > most)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "Ask for less, or allow more.",
                        "field min_bandwidth_bps is %llu, which is more than rate_limit_bps allows (%llu)",
                        (unsigned long long)least, (unsigned long long)most);
        return r;
}

/* Those that are found out during a migration (docs/checks.md); the others are the manager's own, and hold. */
static int check_accepted(const json_t *body, struct error **ret_error)
{
        static const char *const codes[] = {
                "network-segment", "network-mac", "network-address", "network-gateway", "network-mtu"};
        json_t *list = NULL, *item;
        size_t i;
        int r = doc_opt_array(body, "", "accept", ARRAY_SIZE(codes), &list, ret_error);

        json_array_foreach (list, i, item) {
                const char *code = json_string_value(item) ?: "";
                size_t k = 0;

                while (k < ARRAY_SIZE(codes) && strcmp(codes[k], code) != 0)
                        k++;
                if (k == ARRAY_SIZE(codes))
                        return error_set(ret_error, ERROR_BAD_DOCUMENT,
                                "Those of the network proof can be accepted: see docs/checks.md.",
                                "field accept names \"%.32s\", which is no check that can be accepted", code);
        }
        return r;
}

/* Disks that travel along to a datastore of the destination. */
static int check_along(const json_t *body, const struct converge_policy *policy, struct error **ret_error)
{
        const char *datastore = NULL;
        int r = doc_opt_string(body, "", "to_datastore", NAME_MAX_CHARS, &datastore, ret_error);

        if (r < 0 || !datastore)
                return r;
        if (!text_is_name(datastore))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "See `drover datastore list`.",
                        "field to_datastore must be the name of a datastore");
        if (!json_text_or_null(body, "to"))
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Name the host; to stay on its own is POST /vms/NAME/migrate-disks.",
                        "field to_datastore needs the field to");
        if (converge_policy_has(policy, CONVERGE_POST_COPY))
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Leave post-copy out of --converge.",
                        "disks are copied before the guest goes on there: there is no post-copy of disks");
        return 0;
}

static int read_migrate(struct http_request *request, json_t **ret_body, struct error **ret_error)
{
        static const char *const keys[] = {"to", "max_pause_ms", "priority", "check", "verify", "codec",
                "channels", "rate_limit_bps", "min_bandwidth_bps", "timeout_ms", "converge", "network_proof",
                "accept", "to_datastore", NULL};
        static const char *const priorities[] = {"low", "normal", "high", "critical", NULL};
        static const char *const codecs[] = {"auto", "none", "lz4", "zstd", NULL};
        uint64_t number, max_pause_ms = OPERATION_MAX_PAUSE_MS_DEFAULT;
        struct converge_policy policy;
        json_t *body = NULL;
        const char *to = NULL;
        bool flag;
        int r;

        r = api_body(request, keys, &body, ret_error);
        if (r >= 0)
                r = doc_opt_string(body, "", "to", NAME_MAX_CHARS, &to, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "max_pause_ms", 1, 600000, &max_pause_ms, ret_error);
        if (r >= 0)
                r = check_choice(body, "priority", priorities, ret_error);
        if (r >= 0)
                r = doc_opt_bool(body, "", "check", &flag, ret_error);
        if (r >= 0)
                r = doc_opt_bool(body, "", "verify", &flag, ret_error);
        if (r >= 0)
                r = check_choice(body, "codec", codecs, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "channels", 0, 64, &number, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "rate_limit_bps", 0, INT64_MAX, &number, ret_error);
        if (r >= 0)
                r = check_min_bandwidth(body, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "timeout_ms", 0, 7ull * 24 * 3600 * 1000, &number, ret_error);
        if (r >= 0)
                r = converge_policy_read(body, max_pause_ms, &policy, ret_error);
        if (r >= 0)
                r = doc_opt_bool(body, "", "network_proof", &flag, ret_error);
        if (r >= 0)
                r = check_accepted(body, ret_error);
        if (r >= 0)
                r = check_along(body, &policy, ret_error);
        if (r >= 0)
                *ret_body = body;
        return r;
}

static void reply_check(
        struct http_request *request, struct manager *manager, const json_t *vm, const json_t *body)
{
        struct error *error = NULL;
        json_t *report = NULL;
        int r;

        if (moves_is_off(vm))
                r = operation_cold_check(manager, vm, json_text_or_null(body, "to"), NULL, &report, &error);
        else
                r = operation_migrate_check_request(manager, vm, body, &report, &error);
        if (r < 0)
                http_request_reply_error(request, error);
        else
                http_request_reply_json(request, 200, report);
}

void api_vm_migrate(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *vm = NULL, *data = NULL;
        struct manager *manager = userdata;
        struct error *error = NULL;
        json_t *body = NULL;
        const char *to;
        int r;

        r = api_get_object(request, manager, "vm", &vm, &error);
        if (r >= 0)
                r = read_migrate(request, &body, &error);
        to = json_text_or_null(body, "to");
        if (r >= 0 && to && !inventory_host(manager->inventory, to))
                r = error_set(
                        &error, ERROR_NOT_FOUND, "See `drover host list`.", "there is no host %.64s", to);
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        if (json_is_true(json_object_get(body, "check"))) {
                reply_check(request, manager, vm, body);
                return;
        }
        data = json_pack("{s:s*}", "to", to);
        if (data && moves_is_off(vm))
                submit(request, manager, "vm.migrate-cold", vm, body, data, NULL, NULL);
        else if (data)
                submit(request, manager, "vm.migrate", vm, body, data, json_text_or_null(body, "priority"),
                        NULL);
        else
                http_request_reply_error(request, NULL);
}

static void on_console(void *userdata, int status, json_t *body, struct error *error)
{
        struct http_request *request = userdata;
        const char *text = json_string_value(json_object_get(body, "text"));

        if (error)
                http_request_reply_error(request, error_copy(error));
        else
                http_request_reply_json(request, 200, json_pack("{s:s}", "text", text ?: ""));
}

void api_vm_console(struct http_request *request, void *userdata)
{
        const char *wanted = http_request_query(request, "tail"), *host;
        struct manager *manager = userdata;
        _cleanup_json_ json_t *vm = NULL;
        _cleanup_free_ char *path = NULL;
        uint64_t tail = CONSOLE_TAIL_DEFAULT;
        struct error *error = NULL;
        int r;

        r = api_get_object(request, manager, "vm", &vm, &error);
        if (r >= 0 && wanted && text_parse_u64(wanted, 1, CONSOLE_TAIL_MAX, &tail) < 0)
                r = error_set(&error, ERROR_BAD_REQUEST, NULL, "tail must be 1 to %u", CONSOLE_TAIL_MAX);
        host = json_text(json_status(vm), "host");
        if (r >= 0 && !*host)
                r = error_set(&error, ERROR_CONFLICT, "Start it first.", "the virtual machine is on no host");
        if (r >= 0) {
                path = alloc_printf(
                        "/agent/v1/vms/%s/console?tail=%llu", json_text(vm, "uid"), (unsigned long long)tail);
                r = path ? agent_call(manager,
                                   &(struct agent_request){
                                           .host_uid =
                                                   json_text(inventory_host(manager->inventory, host), "uid"),
                                           .method = "GET",
                                           .path = path,
                                           .timeout_ms = CONSOLE_TIMEOUT_MS},
                                   on_console, request, NULL, &error)
                         : error_set(&error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        if (r < 0)
                http_request_reply_error(request, error);
}
