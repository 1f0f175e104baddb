/* SPDX-License-Identifier: Apache-2.0 */

/* A request passes here twice. api_admit() sees its headers only: it authenticates the caller and refuses who has the permission nowhere, before any
 * of a body is taken in. enter() stands in front of each handler: it sees the body too, and decides about the very objects.
 * Where a body names no host, the manager would choose one: only for callers whose scope leaves all hosts open. */

#include "manager/api_access.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "cluster/pool.h"
#include "io/http_path.h"
#include "io/pki.h"
#include "manager/api.h"
#include "manager/api_routes.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/manager.h"

#define PUBLIC_BODY_MAX_BYTES (64u << 10) /* an enrolment: a token and a certificate request */
#define CALLERS_LIMITED 4096
#define REQUEST_BURST_S 4
#define USER_TOKENS_TIMES 2 /* all tokens of a user together may do so many times what one may */
#define DENIED_BURST 30
#define DENIED_INTERVAL_MS 10000
/* A person mistypes a few times; a guesser gets ten a minute of one user, from everywhere together, beside as many from each address where that
 * user has logged in before, and thirty a minute from one address. */
#define LOGIN_USER_BURST 10
#define LOGIN_USER_INTERVAL_MS 6000
#define LOGIN_USER_WIDE_BURST 50
#define LOGIN_ADDRESS_BURST 30
#define LOGIN_ADDRESS_INTERVAL_MS 2000

enum scope {
        SCOPE_PUBLIC,
        SCOPE_SELF,
        SCOPE_ALL,
        SCOPE_LIST,
        SCOPE_OWN,
        SCOPE_HOST,
        SCOPE_VM,
        SCOPE_VM_HOST,
        SCOPE_VM_NEW,
        SCOPE_POOL,
        SCOPE_TASK
};
#define PERMISSION_NONE N_PERMISSIONS

struct rule {
        const char *method, *path;
        http_handler_fn handler;
        enum permission permission;
        enum scope scope;
};
static const struct rule rules[] = {
#define X(method, path, handler, permission, scope) \
        {method, path, api_##handler, PERMISSION_##permission, SCOPE_##scope},
        API_ROUTES(X)
#undef X
};

static void enter(struct http_request *request, void *userdata);

static const struct http_route routes[] = {
#define X(method, path, handler, permission, scope) {method, path, enter},
        API_ROUTES(X)
#undef X
};

/* What the API shows, and the permission to see it; whatever else is in the store is nobody's business. */
static const struct {
        const char *kind;
        enum permission permission;
} kinds[] = {
        {"host", PERMISSION_HOST_READ},
        {"vm", PERMISSION_VM_READ},
        {"task", PERMISSION_TASK_READ},
        {"datastore", PERMISSION_DATASTORE_READ},
        {"switch", PERMISSION_NETWORK_READ},
        {"port-group", PERMISSION_NETWORK_READ},
        {"schedule", PERMISSION_SCHEDULE_READ},
        {"affinity-rule", PERMISSION_AFFINITY_READ},
        {"pool", PERMISSION_POOL_READ},
        {"cluster-cpu", PERMISSION_CLUSTER_READ},
        {"user", PERMISSION_ACCESS_READ},
        {"role", PERMISSION_ACCESS_READ},
        {"token", PERMISSION_ACCESS_READ},
        {"audit", PERMISSION_AUDIT_READ},
        {"alert", PERMISSION_ALERT_READ},
};

const struct http_route *api_routes(size_t *ret_n)
{
        *ret_n = ARRAY_SIZE(routes);
        return routes;
}

/* --- A request's rule and caller ------------------------------------------------------------------------------------ */

struct context {
        const struct rule *rule;
        struct auth_caller *caller; /* NULL: a public route */
};

static void context_free(void *userdata)
{
        struct context *context = userdata;

        auth_caller_unref(context->caller);
        free(context);
}

bool api_only_reads(const struct http_request *request)
{
        const char *method = http_request_method(request);

        return !strcmp(method, "GET") || !strcmp(method, "HEAD");
}

/* NULL: the server answers that there is no such path or method. */
static const struct rule *find_rule(const struct http_request *request)
{
        const char *method = api_only_reads(request) ? "GET" : http_request_method(request);

        for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
                if (!strcmp(rules[i].method, method) &&
                        http_path_fits(rules[i].path, http_request_path(request)))
                        return &rules[i];
        return NULL;
}

const struct auth_caller *api_caller(const struct http_request *request)
{
        const struct context *context = http_request_context(request);

        return context ? context->caller : NULL;
}

const char *api_who(const struct http_request *request)
{
        const struct auth_caller *caller = api_caller(request);

        return caller ? caller->name : "anonymous";
}

/* --- Limits --------------------------------------------------------------------------------------------------------- */

int api_limits_init(struct api_limits *limits, const struct clock *clock, uint64_t request_rate)
{
        uint32_t rate = (uint32_t)MIN(request_rate, UINT64_C(1000));

        *limits = (struct api_limits){
                .requests = rate ? rate_limit_new(clock, CALLERS_LIMITED, rate * REQUEST_BURST_S, 1000 / rate)
                                 : NULL,
                .token_requests = rate ? rate_limit_new(clock, CALLERS_LIMITED,
                                                 USER_TOKENS_TIMES * rate * REQUEST_BURST_S,
                                                 MAX(1000 / (USER_TOKENS_TIMES * rate), 1U))
                                       : NULL,
                .denied = rate_limit_new(clock, CALLERS_LIMITED, DENIED_BURST, DENIED_INTERVAL_MS),
                .login_pairs =
                        rate_limit_new(clock, CALLERS_LIMITED, LOGIN_USER_BURST, LOGIN_USER_INTERVAL_MS),
                .login_users =
                        rate_limit_new(clock, CALLERS_LIMITED, LOGIN_USER_WIDE_BURST, LOGIN_USER_INTERVAL_MS),
                .own_passwords =
                        rate_limit_new(clock, CALLERS_LIMITED, LOGIN_USER_BURST, LOGIN_USER_INTERVAL_MS),
                .login_addresses = rate_limit_new(
                        clock, CALLERS_LIMITED, LOGIN_ADDRESS_BURST, LOGIN_ADDRESS_INTERVAL_MS),
        };
        return (rate && (!limits->requests || !limits->token_requests)) || !limits->denied ||
                               !limits->login_pairs || !limits->login_users || !limits->own_passwords ||
                               !limits->login_addresses
                       ? -ENOMEM
                       : 0;
}

void api_limits_deinit(struct api_limits *limits)
{
        rate_limit_free(limits->requests);
        rate_limit_free(limits->token_requests);
        rate_limit_free(limits->denied);
        rate_limit_free(limits->login_pairs);
        rate_limit_free(limits->login_users);
        rate_limit_free(limits->login_addresses);
        rate_limit_free(limits->own_passwords);
        *limits = (struct api_limits){};
}

void api_address_key(const char *address, char ret_key[static API_ADDRESS_KEY_SIZE])
{
        static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
        uint8_t bytes[16];

        if (inet_pton(AF_INET6, address, bytes) != 1)
                snprintf(ret_key, API_ADDRESS_KEY_SIZE, "%.48s", address);
        else if (!memcmp(bytes, mapped, sizeof(mapped)))
                snprintf(ret_key, API_ADDRESS_KEY_SIZE, "%u.%u.%u.%u", bytes[12], bytes[13], bytes[14],
                        bytes[15]);
        else {
                text_hex_encode(bytes, 8, ret_key);
                snprintf(ret_key + 16, API_ADDRESS_KEY_SIZE - 16, "::/64");
        }
}

void api_reply_limited(struct http_request *request, uint64_t wait_ms, const char *what)
{
        struct error *error = NULL;
        char seconds[24];

        snprintf(seconds, sizeof(seconds), "%llu", (unsigned long long)(wait_ms + 999) / 1000);
        (void)http_request_add_header(request, "Retry-After", seconds);
        error_set(&error, ERROR_RATE_LIMITED, "Try again after the time in Retry-After.", "%s", what);
        http_request_reply_error(request, error);
}

/* --- Permissions ---------------------------------------------------------------------------------------------------- */

static void audit_denied(
        struct http_request *request, struct manager *manager, const struct auth_caller *caller)
{
        _cleanup_json_ json_t *path = json_string(http_request_path(request)), /* NULL: no UTF-8 */
                *detail = NULL;
        _cleanup_error_ struct error *error = NULL;

        /* Who is refused often would push out of the log what matters. */
        if (!rate_limit_take(manager->limits.denied, auth_caller_person(caller), NULL)) {
                manager->n_unaudited_denials++;
                return;
        }
        if (manager->n_unaudited_denials)
                detail = json_pack(
                        "{s:I}", "refused_since_without_entry", (json_int_t)manager->n_unaudited_denials);
        if (audit_write(manager->store, manager->clock,
                    &(struct audit_entry){.who = caller->name,
                            .from = http_request_peer_address(request),
                            .action = http_request_method(request),
                            .object = path ? http_request_path(request) : "a path that is no UTF-8",
                            .result = "denied",
                            .detail = detail},
                    &error) < 0)
                log_warning("cannot write to the audit log: %s", error_message(error));
        else
                manager->n_unaudited_denials = 0;
}

void api_reply_refusal(struct http_request *request, struct manager *manager, struct error *error)
{
        if (error && error->code == ERROR_DENIED && api_caller(request)) {
                manager->metrics.requests[METRICS_DENIED]++;
                audit_denied(request, manager, api_caller(request));
        }
        http_request_reply_error(request, error);
}

static void refuse(struct http_request *request, struct manager *manager, const struct auth_caller *caller,
        struct error *error)
{
        manager->metrics.requests[METRICS_DENIED]++;
        audit_denied(request, manager, caller);
        http_request_reply_error(request, error);
}

static const json_t *labels_of(const json_t *doc)
{
        return json_object_get(json_spec(doc), "labels");
}

static void add_host(struct manager *manager, const char *name, struct access_target *target)
{
        target->host_labels[target->n_hosts++] = labels_of(inventory_host(manager->inventory, name));
}

static struct access_target vm_target(struct manager *manager, const json_t *vm)
{
        struct access_target target = {.has_vm = true, .vm_labels = labels_of(vm)};
        const char *host = json_text(json_status(vm), "host");

        if (*host)
                add_host(manager, host, &target);
        return target;
}

/* What a task is about: a VM, a host, or something else; VMs and hosts that are gone are nobody's. */
static struct access_target task_target(struct manager *manager, const json_t *task)
{
        const json_t *data = json_object_get(json_object_get(task, "internal"), "data");
        const char *object = json_text(json_spec(task), "object");
        struct access_target target = {};

        if (!strncmp(object, "vm/", 3)) {
                const json_t *vm = inventory_vm(manager->inventory, json_text(data, "vm_uid"));

                if (vm)
                        target = vm_target(manager, vm);
        } else if (!strncmp(object, "host/", 5) &&
                   inventory_host(manager->inventory, json_text(data, "host_uid"))) {
                add_host(manager, json_text(data, "host_uid"), &target);
        }
        return target;
}

/* By who it was, not by what they are called: names are given anew. */
static bool is_own_task(const struct auth_caller *caller, const json_t *task)
{
        return !strcmp(json_text(json_object_get(task, "internal"), "by_uid"), auth_caller_uid(caller));
}

static bool may_task(struct manager *manager, const struct auth_caller *caller, enum permission permission,
        const json_t *task)
{
        struct access_target target = task_target(manager, task);

        return (is_own_task(caller, task) && auth_may_anywhere(caller, permission)) ||
               auth_may(caller, permission, &target);
}

bool api_own_token(const struct auth_caller *caller, const json_t *token)
{
        const char *owner = json_text(json_object_get(token, "internal"), "owner_uid");

        return *owner && !strcmp(owner, caller->user_uid) && auth_may_anywhere(caller, PERMISSION_TOKEN_OWN);
}

const char *api_public_kind(const char *kind)
{
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
                if (!strcmp(kinds[i].kind, kind))
                        return kinds[i].kind;
        return NULL;
}

/* Who may see all virtual machines that bear the pool's label may see the pool, whatever other labels those have. */
static bool may_pool(const struct auth_caller *caller, enum permission permission, const json_t *pool)
{
        _cleanup_json_ json_t *labels = json_pack("{s:s}", POOL_LABEL, json_text(pool, "name"));
        struct access_target target = {.has_vm = true, .vm_labels = labels};

        return labels && auth_may(caller, permission, &target);
}

bool api_shows(struct manager *manager, const struct auth_caller *caller, const char *kind, const json_t *doc)
{
        struct access_target target = {};
        size_t i = 0;

        while (i < ARRAY_SIZE(kinds) && strcmp(kinds[i].kind, kind))
                i++;
        if (i == ARRAY_SIZE(kinds))
                return false;
        if (auth_may_everywhere(caller, kinds[i].permission))
                return true;
        if (!doc)
                return false;
        if (!strcmp(kind, "task"))
                return may_task(manager, caller, PERMISSION_TASK_READ, doc);
        if (!strcmp(kind, "token"))
                return api_own_token(caller, doc);
        if (!strcmp(kind, "pool"))
                return may_pool(caller, PERMISSION_POOL_READ, doc);
        if (!strcmp(kind, "vm")) {
                target = vm_target(manager, doc);
        } else if (!strcmp(kind, "host")) {
                target.n_hosts = 1;
                target.host_labels[0] = labels_of(doc);
        }
        return auth_may(caller, kinds[i].permission, &target);
}

/* Somewhere at least: what can be known before the body is there. */
static bool may_at_all(const struct auth_caller *caller, const struct rule *rule)
{
        switch (rule->scope) {
        case SCOPE_PUBLIC:
        case SCOPE_SELF:
                return true;
        case SCOPE_ALL:
                return auth_may_everywhere(caller, rule->permission);
        case SCOPE_OWN:
                return auth_may_everywhere(caller, rule->permission) ||
                       auth_may_anywhere(caller, PERMISSION_TOKEN_OWN);
        default:
                return auth_may_anywhere(caller, rule->permission);
        }
}

/* The host that the body names, as its name or NULL; a body that is none is refused by the handler. */
static const char *named_host(struct http_request *request, const struct rule *rule)
{
        bool moves = rule->handler == api_vm_migrate || rule->handler == api_vm_forecast;
        json_t *body = NULL;

        return http_request_json(request, &body, NULL) < 0 ? NULL
                                                           : json_text_or_null(body, moves ? "to" : "host");
}

/* `target` has the VM and the host where it is, if any. */
static bool may_with_host(struct http_request *request, struct manager *manager,
        const struct context *context, struct access_target *target)
{
        const char *to = named_host(request, context->rule);

        if (!to)
                return auth_may_on_any_host(context->caller, context->rule->permission, target);
        add_host(manager, to, target);
        return inventory_host(manager->inventory, to) &&
               auth_may(context->caller, context->rule->permission, target);
}

static bool may_with_vm(struct http_request *request, struct manager *manager, const struct context *context,
        const json_t *vm)
{
        struct access_target target = vm_target(manager, vm);

        return context->rule->scope == SCOPE_VM_HOST
                       ? may_with_host(request, manager, context, &target)
                       : auth_may(context->caller, context->rule->permission, &target);
}

/* Files that are there already may be somebody else's disk; a new image in the VM's own folder is nobody's. */
static bool names_files(const json_t *spec)
{
        json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(spec, "disks"), i, disk)
                if (json_object_get(disk, "path") || !json_object_get(disk, "size_bytes"))
                        return true;
        return json_object_get(spec, "cdrom") || json_object_size(json_object_get(spec, "boot"));
}

static bool may_make_vm(struct http_request *request, struct manager *manager, const struct context *context)
{
        struct access_target target = {.has_vm = true, .is_new = true};
        const json_t *spec;
        json_t *body = NULL;

        if (http_request_json(request, &body, NULL) < 0)
                return false;
        spec = json_spec(body);
        target.vm_labels = labels_of(body);
        return may_with_host(request, manager, context, &target) &&
               (!names_files(spec) || auth_may_everywhere(context->caller, PERMISSION_DATASTORE_USE)) &&
               (!json_array_size(json_object_get(spec, "nics")) ||
                       auth_may_everywhere(context->caller, PERMISSION_NETWORK_USE));
}

/* Moving disks fills a datastore and removes an image, which the permission to migrate does not cover; imports and exports name files that may be
 * anybody's. */
static bool lacks_datastores(struct http_request *request, const struct context *context)
{
        json_t *body = NULL;
        bool images = context->rule->permission == PERMISSION_VM_IMAGE;
        bool along = context->rule->handler == api_vm_migrate &&
                     http_request_json(request, &body, NULL) >= 0 && json_object_get(body, "to_datastore");

        return (along || images || context->rule->handler == api_vm_migrate_disks) &&
               !auth_may_everywhere(context->caller, PERMISSION_DATASTORE_USE);
}

/* What an appliance becomes is a new virtual machine, with NICs. */
static bool lacks_import(const struct context *context)
{
        return context->rule->handler == api_vm_import &&
               (!auth_may_everywhere(context->caller, PERMISSION_VM_CREATE) ||
                       !auth_may_everywhere(context->caller, PERMISSION_NETWORK_USE));
}

/* About the objects: true when the caller may; else *ret_error is set if that could not be found out. */
static bool may_here(struct http_request *request, struct manager *manager, const struct context *context,
        struct error **ret_error)
{
        const char *name = http_request_param(request, "name");
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *doc = NULL;
        struct access_target target = {};
        bool vm = context->rule->scope == SCOPE_VM || context->rule->scope == SCOPE_VM_HOST;
        bool pool = context->rule->scope == SCOPE_POOL;

        if (lacks_datastores(request, context) || lacks_import(context))
                return false;
        if (context->rule->scope <= SCOPE_OWN ||
                auth_may_everywhere(context->caller, context->rule->permission))
                return true;
        if (context->rule->scope == SCOPE_VM_NEW)
                return may_make_vm(request, manager, context);
        if (context->rule->scope == SCOPE_HOST) {
                if (!inventory_host(manager->inventory, name))
                        return false;
                add_host(manager, name, &target);
                return auth_may(context->caller, context->rule->permission, &target);
        }
        if (store_get(manager->store, vm ? "vm" : pool ? "pool" : "task", name, &doc, &error) < 0) {
                /* What is not there is refused like what is elsewhere: names are nobody's business. */
                if (error && error->code != ERROR_NOT_FOUND)
                        error_propagate(ret_error, TAKE_PTR(error));
                return false;
        }
        if (pool)
                return may_pool(context->caller, context->rule->permission, doc);
        return vm ? may_with_vm(request, manager, context, doc)
                  : may_task(manager, context->caller, context->rule->permission, doc);
}

static void set_denied(struct http_request *request, const struct context *context, struct error **ret_error)
{
        const char *permission = permission_to_string(context->rule->permission);

        if (!auth_may_anywhere(context->caller, context->rule->permission))
                error_set(ret_error, ERROR_DENIED, "Ask for a role that has it: `drover role list`.",
                        "%s has not the permission %s", context->caller->name, permission);
        else if (lacks_datastores(request, context))
                error_set(ret_error, ERROR_DENIED, "Ask for a role that has it: `drover role list`.",
                        "%s has not the permission %s everywhere, which that takes beside %s",
                        context->caller->name, permission_to_string(PERMISSION_DATASTORE_USE), permission);
        else if (lacks_import(context))
                error_set(ret_error, ERROR_DENIED, "Ask for a role that has it: `drover role list`.",
                        "%s has not the permissions vm.create and network.use everywhere, which an import "
                        "takes beside %s",
                        context->caller->name, permission);
        else if (context->rule->scope == SCOPE_VM_HOST || context->rule->scope == SCOPE_VM_NEW)
                error_set(ret_error, ERROR_DENIED,
                        "Name a host (--to, --host) within the scope; `drover whoami` tells what that is.",
                        "%s has the permission %s within a scope only, in which not all of this is: the "
                        "virtual "
                        "machine, the host where it is, and the host that it is to go to",
                        context->caller->name, permission);
        else
                error_set(ret_error, ERROR_DENIED, "`drover whoami` tells the scope.",
                        "%s has the permission %s within a scope only, in which this is not or does not "
                        "exist",
                        context->caller->name, permission);
}

static void enter(struct http_request *request, void *userdata)
{
        const struct context *context = http_request_context(request);
        struct manager *manager = userdata;
        struct error *error = NULL;

        if (!context) {
                http_request_reply_error(request, NULL);
                return;
        }
        if (context->caller && !may_here(request, manager, context, &error)) {
                if (error) {
                        http_request_reply_error(request, error);
                        return;
                }
                set_denied(request, context, &error);
                refuse(request, manager, context->caller, error);
                return;
        }
        manager->metrics.requests[METRICS_ADMITTED]++;
        if (context->caller && !api_only_reads(request) && api_repeated(request, manager))
                return;
        context->rule->handler(request, userdata);
}

/* --- Authentication ------------------------------------------------------------------------------------------------- */

/* A browser sends the cookie with any request, whoever made its page send it; the CSRF token only our own page knows. */
static bool is_meant(const struct http_request *request, const struct auth_caller *caller)
{
        const char *token = http_request_header(request, "X-CSRF-Token");

        return !caller->by_cookie || api_only_reads(request) || (token && pki_equal(token, caller->csrf));
}

static int authenticate(
        struct http_request *request, struct manager *manager, struct auth_caller **ret_caller)
{
        struct auth_credentials credentials = {
                .authorization = http_request_header(request, "Authorization"),
                .cookie = http_request_header(request, "Cookie"),
        };
        struct error *error = NULL;
        int r = auth_check(manager->store, manager->clock, &credentials, ret_caller, &error);

        if (r < 0) {
                manager->metrics.requests[METRICS_UNAUTHENTICATED]++;
                http_request_reply_error(request, error);
        }
        return r;
}

/* Each token and session has a rate of its own, and all tokens of a user have one together. A program that runs wild does not keep its
 * owner's sessions, of which there are few, from getting through. */
static bool take_request(struct api_limits *limits, const struct auth_caller *caller, uint64_t *ret_wait_ms)
{
        if (!limits->requests)
                return true;
        if (!rate_limit_take(limits->requests, caller->id, ret_wait_ms))
                return false;
        return !caller->owned ||
               rate_limit_take(limits->token_requests, auth_caller_person(caller), ret_wait_ms);
}

/* The caller as one who may send this request; false: it has been answered. */
static bool check_caller(struct http_request *request, struct manager *manager, const struct context *context)
{
        struct error *error = NULL;
        uint64_t wait_ms = 0;

        if (!take_request(&manager->limits, context->caller, &wait_ms)) {
                manager->metrics.requests[METRICS_LIMITED]++;
                api_reply_limited(request, wait_ms, "the caller sends too many requests");
                return false;
        }
        if (!is_meant(request, context->caller)) {
                error_set(&error, ERROR_DENIED,
                        "Send the csrf_token of GET /api/v1/session as X-CSRF-Token, or an Authorization "
                        "header.",
                        "a request with a session's cookie that changes something has to bear its CSRF "
                        "token");
                refuse(request, manager, context->caller, error);
                return false;
        }
        if (context->rule && !may_at_all(context->caller, context->rule)) {
                set_denied(request, context, &error);
                refuse(request, manager, context->caller, error);
                return false;
        }
        auth_touch(manager->store, manager->clock, context->caller);
        return true;
}

bool api_admit(struct http_request *request, void *userdata)
{
        struct manager *manager = userdata;
        struct context *context = ALLOC(struct context);

        if (!context) {
                http_request_reply_error(request, NULL);
                return false;
        }
        context->rule = find_rule(request);
        if (context->rule && context->rule->scope == SCOPE_PUBLIC) {
                http_request_limit_body(request, PUBLIC_BODY_MAX_BYTES);
                http_request_set_context(request, context, context_free);
                return true;
        }
        if (authenticate(request, manager, &context->caller) < 0) {
                context_free(context);
                return false;
        }
        if (!check_caller(request, manager, context)) {
                context_free(context);
                return false;
        }
        http_request_set_context(request, context, context_free);
        return true;
}
