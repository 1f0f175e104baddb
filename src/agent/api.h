/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The agent's HTTPS interface (docs/internals/agent-api.md): who may call what, leadership epochs, repeated requests.
 * The handlers are in api_vm.c, api_config.c and migration.c. */

#include <jansson.h>

#include "base/error.h"
#include "io/http_server.h"

struct agent;

#define API_MANAGER_NAME "manager.drover"
#define API_HOST_SUFFIX ".host.drover"

/* Starts the server on config.listen and fills agent->server and agent->address. */
int api_start(struct agent *agent, struct error **ret_error);

/* Reads the highest leadership epoch seen from STATE-DIR/manager-epoch.json (0 if there is none). */
int api_load_epoch(struct agent *agent, struct error **ret_error);

/* Answers, and remembers the answer under the request's X-Drover-Request id: to be used instead of
 * http_request_reply_json() and _error() for everything that changes something. Both are taken over; NULL: 503. */
void api_reply_json(struct http_request *request, int status, json_t *json);
void api_reply_error(struct http_request *request, struct error *error);
/* The same for an error that is borrowed. */
void api_reply_error_copy(struct http_request *request, const struct error *error);

/* The uid of the calling host, written to ret (UUID_STRING_SIZE); false if the caller is no host. */
bool api_caller_host(const struct http_request *request, char *ret_uid);

/* The agent that a request was made to. */
struct agent *api_agent(const struct http_request *request);

/* api_vm.c */
void api_vm_list(struct http_request *request, void *agent);
void api_vm_get(struct http_request *request, void *agent);
void api_vm_create(struct http_request *request, void *agent);
void api_vm_start(struct http_request *request, void *agent);
void api_vm_stop(struct http_request *request, void *agent);
void api_vm_pause(struct http_request *request, void *agent);
void api_vm_resume(struct http_request *request, void *agent);
void api_vm_suspend(struct http_request *request, void *agent);
void api_vm_suspend_cancel(struct http_request *request, void *agent);
void api_vm_restore(struct http_request *request, void *agent);
void api_vm_restore_cancel(struct http_request *request, void *agent);
void api_vm_delete(struct http_request *request, void *agent);
void api_vm_console(struct http_request *request, void *agent);
void api_events(struct http_request *request, void *agent);

/* api_config.c */
void api_host_get(struct http_request *request, void *agent);
void api_cpu_get(struct http_request *request, void *agent);
void api_removed_hosts_put(struct http_request *request, void *agent);
void api_fenced_hosts_put(struct http_request *request, void *agent);
void api_datastore_list(struct http_request *request, void *agent);
void api_datastore_put(struct http_request *request, void *agent);
void api_datastore_delete(struct http_request *request, void *agent);
void api_switch_list(struct http_request *request, void *agent);
void api_switch_put(struct http_request *request, void *agent);
void api_switch_delete(struct http_request *request, void *agent);
void api_port_group_list(struct http_request *request, void *agent);
void api_port_group_put(struct http_request *request, void *agent);
void api_port_group_delete(struct http_request *request, void *agent);
/* Applies the switches and port groups of STATE-DIR/networks.json. */
int api_config_load_networks(struct agent *agent, struct error **ret_error);
