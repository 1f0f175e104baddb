/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the agents say: one poll cycle for each host (facts and VMs every 2 s, datastores and networks every fifth
 * time), the hosts' state (connecting, connected, unreachable), and the status of each VM merged from all reports.
 * A VM is where an agent says it runs; a host that cannot be asked makes its VMs `unknown`, never `stopped`. */

#include <jansson.h>

#include "base/error.h"
#include "io/http_client.h"

struct inventory;
struct manager;

int inventory_new(struct manager *manager, struct inventory **ret_inventory, struct error **ret_error);
void inventory_free(struct inventory *inventory);

/* Follows the store: hosts and VMs that were added, changed or removed. Called after each commit. */
void inventory_follow(struct inventory *inventory);

/* The host's document with live facts in place of recorded ones; new, the caller's. */
json_t *inventory_live_host(const struct inventory *inventory, const json_t *host);
/* Array of all hosts' live documents; the caller's. */
json_t *inventory_live_hosts(const struct inventory *inventory);
/* Array of all VM documents; the caller's (its items are shared: read only). */
json_t *inventory_vms(const struct inventory *inventory);

/* Borrowed document as last recorded, by uid or name; NULL. */
const json_t *inventory_host(const struct inventory *inventory, const char *name_or_uid);
const json_t *inventory_vm(const struct inventory *inventory, const char *uid);
bool inventory_connected(const struct inventory *inventory, const char *host_uid);

/* Polls the host (NULL: all hosts) at once, datastores and networks included. */
void inventory_refresh(struct inventory *inventory, const char *host_uid);
/* True when a whole poll of the host (NULL: of each connected host) that began at or after `since_ms` (loop clock) has
 * ended. */
bool inventory_fresh(const struct inventory *inventory, const char *host_uid, uint64_t since_ms);

struct agent_request {
        const char *host_uid;
        const char *method;
        const char *path;
        const json_t *body;     /* may be NULL */
        const char *request_id; /* NULL: a new one */
        uint64_t timeout_ms;
};
/* Calls an agent: TLS with the host's certificate checked, the manager's epoch and a request id in the headers. The
 * reply function and `ret_call` as http_client_call() has them. */
int agent_call(struct manager *manager, const struct agent_request *request, http_reply_fn reply,
        void *userdata, struct http_call **ret_call, struct error **ret_error);
