/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/api.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/forecast.h"
#include "agent/host_list.h"
#include "agent/identity.h"
#include "agent/migration.h"
#include "agent/request_cache.h"
#include "agent/storage_move.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/file.h"
#include "io/sock.h"

#define PEER_PREFIX "/agent/v1/peer/"
#define PEER_PREPARE PEER_PREFIX "migrations"
#define PEER_PROBE PEER_PREFIX "probes"
#define PEER_COMPARE PEER_PREFIX "comparisons"
#define EPOCH_FILE_MAX_BYTES 4096
#define LISTEN_BACKLOG 128

/* What hangs on each admitted request. */
struct api_call {
        struct agent *agent;
        struct request_entry *entry; /* NULL: the answer is not kept */
};

/* migration.c takes the agent first; the server gives it last. */
#define MIGRATION_HANDLER(name) \
        static void route_##name(struct http_request *request, void *agent) \
        { \
                migration_api_##name(agent, request); \
        }
MIGRATION_HANDLER(start)
MIGRATION_HANDLER(expect)
MIGRATION_HANDLER(list)
MIGRATION_HANDLER(get)
MIGRATION_HANDLER(cancel)
MIGRATION_HANDLER(switchover)
MIGRATION_HANDLER(limits)
MIGRATION_HANDLER(peer_was_removed)
MIGRATION_HANDLER(let_go)
MIGRATION_HANDLER(forget)
MIGRATION_HANDLER(peer_prepare)
MIGRATION_HANDLER(peer_get)
MIGRATION_HANDLER(peer_abort)
MIGRATION_HANDLER(peer_released)
MIGRATION_HANDLER(peer_network)

static const struct http_route routes[] = {
        {"GET", "/agent/v1/host", api_host_get},
        {"GET", "/agent/v1/cpu", api_cpu_get},
        {"GET", "/agent/v1/events", api_events},
        {"PUT", "/agent/v1/removed-hosts", api_removed_hosts_put},
        {"PUT", "/agent/v1/fenced-hosts", api_fenced_hosts_put},
        {"GET", "/agent/v1/datastores", api_datastore_list},
        {"PUT", "/agent/v1/datastores/{name}", api_datastore_put},
        {"DELETE", "/agent/v1/datastores/{name}", api_datastore_delete},
        {"GET", "/agent/v1/switches", api_switch_list},
        {"PUT", "/agent/v1/switches/{name}", api_switch_put},
        {"DELETE", "/agent/v1/switches/{name}", api_switch_delete},
        {"GET", "/agent/v1/port-groups", api_port_group_list},
        {"PUT", "/agent/v1/port-groups/{name}", api_port_group_put},
        {"DELETE", "/agent/v1/port-groups/{name}", api_port_group_delete},
        {"GET", "/agent/v1/vms", api_vm_list},
        {"GET", "/agent/v1/vms/{uid}", api_vm_get},
        {"POST", "/agent/v1/vms/{uid}/create", api_vm_create},
        {"POST", "/agent/v1/vms/{uid}/start", api_vm_start},
        {"POST", "/agent/v1/vms/{uid}/stop", api_vm_stop},
        {"POST", "/agent/v1/vms/{uid}/pause", api_vm_pause},
        {"POST", "/agent/v1/vms/{uid}/resume", api_vm_resume},
        {"POST", "/agent/v1/vms/{uid}/suspend", api_vm_suspend},
        {"POST", "/agent/v1/vms/{uid}/suspend/cancel", api_vm_suspend_cancel},
        {"POST", "/agent/v1/vms/{uid}/restore", api_vm_restore},
        {"POST", "/agent/v1/vms/{uid}/restore/cancel", api_vm_restore_cancel},
        {"POST", "/agent/v1/vms/{uid}/delete", api_vm_delete},
        {"GET", "/agent/v1/vms/{uid}/console", api_vm_console},
        {"POST", "/agent/v1/vms/{uid}/sample", api_vm_sample},
        {"POST", "/agent/v1/migrations", route_start},
        {"GET", "/agent/v1/migrations", route_list},
        {"GET", "/agent/v1/migrations/{id}", route_get},
        {"POST", "/agent/v1/migrations/{id}/spec", route_expect},
        {"POST", "/agent/v1/migrations/{id}/cancel", route_cancel},
        {"POST", "/agent/v1/migrations/{id}/switchover", route_switchover},
        {"POST", "/agent/v1/migrations/{id}/limits", route_limits},
        {"POST", "/agent/v1/migrations/{id}/peer-removed", route_peer_was_removed},
        {"POST", "/agent/v1/migrations/{id}/let-go", route_let_go},
        {"DELETE", "/agent/v1/migrations/{id}", route_forget},
        {"POST", "/agent/v1/storage-moves", storage_move_api_start},
        {"GET", "/agent/v1/storage-moves", storage_move_api_list},
        {"GET", "/agent/v1/storage-moves/{id}", storage_move_api_get},
        {"POST", "/agent/v1/storage-moves/{id}/cancel", storage_move_api_cancel},
        {"POST", "/agent/v1/storage-moves/{id}/settle", storage_move_api_settle},
        {"DELETE", "/agent/v1/storage-moves/{id}", storage_move_api_forget},
        {"POST", "/agent/v1/peer/migrations", route_peer_prepare},
        {"POST", PEER_PROBE, api_peer_probe},
        {"POST", PEER_COMPARE, api_peer_compare},
        {"GET", "/agent/v1/peer/migrations/{id}", route_peer_get},
        {"POST", "/agent/v1/peer/migrations/{id}/abort", route_peer_abort},
        {"POST", "/agent/v1/peer/migrations/{id}/released", route_peer_released},
        {"POST", "/agent/v1/peer/migrations/{id}/network", route_peer_network},
};

/* --- Epoch ----------------------------------------------------------------------------------------------------- */

static char *epoch_path(const struct agent *agent)
{
        return alloc_printf("%s/manager-epoch.json", agent->config.state_dir);
}

int api_load_epoch(struct agent *agent, struct error **ret_error)
{
        _cleanup_free_ char *path = epoch_path(agent);
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *doc = NULL;
        uint64_t epoch;
        size_t len;
        int r = path ? file_read(path, EPOCH_FILE_MAX_BYTES, &text, &len) : -ENOMEM;

        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return error_from_errno(ret_error, r, "epoch of the manager");
        r = doc_parse(text, len, &doc, ret_error);
        if (r == 0)
                r = doc_need_u64(doc, "manager-epoch.json", "epoch", 0, INT64_MAX, &epoch, ret_error);
        if (r == 0)
                agent->manager_epoch = epoch;
        return r;
}

static int store_epoch(struct agent *agent, uint64_t epoch, struct error **ret_error)
{
        _cleanup_free_ char *path = epoch_path(agent);
        _cleanup_free_ char *text = alloc_printf("{\"format\": 1, \"epoch\": %" PRIu64 "}\n", epoch);
        int r = path && text ? file_write_atomic(path, text, strlen(text), 0600) : -ENOMEM;

        if (r < 0)
                return error_from_errno(ret_error, r, "epoch of the manager cannot be written down");
        log_info("manager epoch %" PRIu64 " (was %" PRIu64 ")", epoch, agent->manager_epoch);
        agent->manager_epoch = epoch;
        return 0;
}

/* A caller that changes something must say which epoch it leads; one that only looks may leave it out. */
static int check_epoch(
        struct agent *agent, const struct http_request *request, bool changes, struct error **ret_error)
{
        const char *header = http_request_header(request, "X-Drover-Epoch");
        uint64_t epoch;

        if (!header && !changes)
                return 0;
        if (!header || text_parse_u64(header, 0, INT64_MAX, &epoch) < 0)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the header X-Drover-Epoch is %s",
                        header ? "no number" : "missing");
        if (epoch < agent->manager_epoch)
                return error_set(ret_error, ERROR_STALE_EPOCH, "Another manager leads now: step down.",
                        "epoch %" PRIu64 " is older than %" PRIu64, epoch, agent->manager_epoch);
        return epoch > agent->manager_epoch ? store_epoch(agent, epoch, ret_error) : 0;
}

/* --- Roles ----------------------------------------------------------------------------------------------------- */

bool api_caller_host(const struct http_request *request, char *ret_uid)
{
        const char *name = http_request_peer_name(request);
        char uid[UUID_STRING_SIZE];

        if (!name || strlen(name) != UUID_STRING_SIZE - 1 + strlen(API_HOST_SUFFIX) ||
                strcmp(name + UUID_STRING_SIZE - 1, API_HOST_SUFFIX) != 0)
                return false;
        memcpy(uid, name, UUID_STRING_SIZE - 1);
        uid[UUID_STRING_SIZE - 1] = '\0';
        if (!text_is_uuid(uid))
                return false;
        memcpy(ret_uid, uid, UUID_STRING_SIZE);
        return true;
}

static int check_role(struct agent *agent, const struct http_request *request, bool *ret_is_manager,
        struct error **ret_error)
{
        bool for_peers = strncmp(http_request_path(request), PEER_PREFIX, strlen(PEER_PREFIX)) == 0;
        const char *name = http_request_peer_name(request);
        char uid[UUID_STRING_SIZE];

        if (!name)
                return error_set(ret_error, ERROR_UNAUTHENTICATED,
                        "Present a certificate of the cluster's CA.",
                        "the caller has no certificate with a name");
        if (for_peers && !api_caller_host(request, uid))
                return error_set(
                        ret_error, ERROR_DENIED, NULL, "'%.80s' is no host: this path is for hosts", name);
        /* New ones only: what is under way is settled with whoever holds the other half. */
        if (for_peers &&
                (strcmp(http_request_path(request), PEER_PREPARE) == 0 ||
                        strcmp(http_request_path(request), PEER_PROBE) == 0 ||
                        strcmp(http_request_path(request), PEER_COMPARE) == 0) &&
                host_list_has(agent->removed_hosts, uid))
                return error_set(ret_error, ERROR_DENIED, "Add it to the cluster again.",
                        "host %s was removed from the cluster", uid);
        if (!for_peers && strcmp(name, API_MANAGER_NAME) != 0)
                return error_set(ret_error, ERROR_DENIED, NULL,
                        "'%.80s' is not the manager: this path is for it alone", name);
        *ret_is_manager = !for_peers;
        return 0;
}

/* --- Repeats ---------------------------------------------------------------------------------------------------- */

static void call_free(void *context)
{
        struct api_call *call = context;

        if (call->entry)
                request_entry_drop(call->entry);
        free(call);
}

/* Answers as the first time. Problem documents go through an error object, so that their media type is kept. */
static void replay(struct http_request *request, int status, json_t *json, struct error *error)
{
        if (json && status >= 400) {
                error = error_from_json(json);
                json_decref(json);
                json = NULL;
        }
        if (json)
                http_request_reply_json(request, status, json);
        else
                http_request_reply_error(request, error);
}

static void on_first_answered(void *userdata, int status, json_t *json, struct error *error)
{
        replay(userdata, status, json, error);
}

/* 0: go on; 1: it is a repeat, which was or will be answered; negative: an error. */
static int check_repeat(
        struct agent *agent, struct http_request *request, struct api_call *call, struct error **ret_error)
{
        const char *id = http_request_header(request, "X-Drover-Request");
        _cleanup_free_ char *what = NULL;
        json_t *json = NULL;
        int status = 0;
        int r;

        if (!id)
                return 0;
        if (!text_is_uuid(id))
                return error_set(
                        ret_error, ERROR_BAD_REQUEST, NULL, "the header X-Drover-Request is no UUID");
        what = alloc_printf("%s %s", http_request_method(request), http_request_path(request));
        if (!what)
                return error_from_errno(ret_error, ENOMEM, "request");
        r = request_cache_begin(agent->requests, id, what, on_first_answered, request, &call->entry, &status,
                &json, ret_error);
        if (r == REQUEST_KNOWN)
                replay(request, status, json, NULL);
        return r < 0 ? r : r != REQUEST_NEW;
}

/* --- Admission --------------------------------------------------------------------------------------------------- */

static bool admit(struct http_request *request, void *userdata)
{
        struct agent *agent = userdata;
        const char *method = http_request_method(request);
        bool changes = strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0;
        struct error *error = NULL;
        struct api_call *call;
        bool is_manager = false;
        int r = check_role(agent, request, &is_manager, &error);

        if (r == 0 && is_manager)
                r = check_epoch(agent, request, changes, &error);
        if (r < 0) {
                log_warning("%s %s from %s refused: %s", method, http_request_path(request),
                        http_request_peer_address(request), error_message(error));
                http_request_reply_error(request, error);
                return false;
        }
        call = ALLOC(struct api_call);
        if (!call) {
                http_request_reply_error(request, NULL);
                return false;
        }
        call->agent = agent;
        http_request_set_context(request, call, call_free);
        r = is_manager && changes ? check_repeat(agent, request, call, &error) : 0;
        if (r < 0)
                http_request_reply_error(request, error);
        return r == 0;
}

struct agent *api_agent(const struct http_request *request)
{
        const struct api_call *call = http_request_context(request);

        return call->agent;
}

static void keep_answer(struct http_request *request, int status, json_t *json)
{
        struct api_call *call = http_request_context(request);

        if (call && call->entry && json)
                request_entry_done(TAKE_PTR(call->entry), status, json);
}

void api_reply_json(struct http_request *request, int status, json_t *json)
{
        keep_answer(request, status, json);
        http_request_reply_json(request, status, json);
}

void api_reply_error(struct http_request *request, struct error *error)
{
        _cleanup_json_ json_t *json = error ? error_to_json(error) : NULL;

        /* BUSY is no answer to be kept: it says that the same may be asked again. */
        if (error && error->code != ERROR_BUSY)
                keep_answer(request, error_code_to_http(error->code), json);
        http_request_reply_error(request, error);
}

void api_reply_error_copy(struct http_request *request, const struct error *error)
{
        struct error *copy = NULL;

        (void)error_set(&copy, error->code, error->hint, "%s", error_message(error));
        if (error->object)
                error_about(&copy, "%s", error->object);
        api_reply_error(request, copy);
}

/* --- Server ------------------------------------------------------------------------------------------------------ */

static int listen_on(struct agent *agent, int *ret_fd, struct error **ret_error)
{
        struct sock_address address;
        char text[64];
        int fd = -1;
        int r = sock_address_parse(agent->config.listen, AGENT_PORT, false, &address, ret_error);

        if (r == 0)
                r = sock_listen_tcp(&address, LISTEN_BACKLOG, &fd, ret_error);
        if (r < 0)
                return r;
        r = sock_local_address(fd, &address);
        if (r == 0)
                r = alloc_replace(&agent->address, sock_address_format(&address, text));
        if (r < 0) {
                (void)close(fd);
                return error_from_errno(ret_error, r, "address %s", agent->config.listen);
        }
        *ret_fd = fd;
        return 0;
}

int api_start(struct agent *agent, struct error **ret_error)
{
        struct http_server_config config = {
                .cert_pem = agent->identity->cert_pem,
                .key_pem = agent->identity->key_pem,
                .client_ca_pem = agent->identity->ca_pem,
                .client_cert_required = true,
                .routes = routes,
                .n_routes = ARRAY_SIZE(routes),
                .admit = admit,
                .userdata = agent,
        };
        _cleanup_fd_ int fd = -1;
        int r = listen_on(agent, &fd, ret_error);

        if (r < 0)
                return r;
        config.listen_fd = fd;
        r = http_server_new(agent->loop, &config, &agent->server, ret_error);
        if (r == 0)
                (void)TAKE_FD(fd);
        return r;
}
