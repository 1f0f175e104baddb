/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Live migrations on this host, as source or destination: what the rest of the agent calls. migration.c keeps them and
 * answers the API, migration_source.c and migration_destination.c drive each side, migration_peer.c is the exchange with
 * the other agent. What to do is decided in handoff.c alone. docs/handoff.md tells the story. */

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"

struct agent;
struct http_request;
struct vm;

/* Routes for the manager. */
void migration_api_start(struct agent *agent, struct http_request *request);
void migration_api_list(struct agent *agent, struct http_request *request);
void migration_api_get(struct agent *agent, struct http_request *request);
void migration_api_cancel(struct agent *agent, struct http_request *request);
void migration_api_limits(struct agent *agent, struct http_request *request);
void migration_api_switchover(struct agent *agent, struct http_request *request);
void migration_api_peer_was_removed(struct agent *agent, struct http_request *request);
void migration_api_let_go(struct agent *agent, struct http_request *request);
void migration_api_forget(struct agent *agent, struct http_request *request);

/* Routes for the peer's agent; the caller's certificate name must be that of the migration's other host. */
void migration_api_peer_prepare(struct agent *agent, struct http_request *request);
void migration_api_peer_get(struct agent *agent, struct http_request *request);
void migration_api_peer_abort(struct agent *agent, struct http_request *request);
void migration_api_peer_released(struct agent *agent, struct http_request *request);
void migration_api_expect(struct agent *agent, struct http_request *request);
void migration_api_peer_network(struct agent *agent, struct http_request *request);

/* Begins to remove the VM if it is a guest that waits for a migration of which this host knows nothing. */
void migration_discard_orphan(struct agent *agent, struct vm *vm);
/* After the VMs of an earlier run were adopted and before the API is open: takes up every journal, and discards incoming
 * guests that have none. 0 or negative errno (a journal that cannot be read is logged and left alone). */
int migration_recover_all(struct agent *agent);
/* Frees all; movers end, journals stay. */
void migration_free_all(struct agent *agent);

/* An event of the VM's QEMU (STOP, RESUME, MIGRATION, MIGRATION_PASS, RESET, SHUTDOWN, ...), unix_us as QEMU stamped it. */
void migration_vm_event(
        struct agent *agent, struct vm *vm, const char *event, const json_t *data, int64_t unix_us);
/* The VM's QEMU process has ended (the vm object still exists during the call). */
void migration_vm_gone(struct agent *agent, struct vm *vm);
/* The monitor connection of the VM's QEMU is about to be freed: no call on it may be cancelled afterwards. */
void migration_vm_leave_monitor(struct agent *agent, const struct vm *vm);
/* The monitor connection of the VM's QEMU is (again) ready. */
void migration_vm_connected(struct agent *agent, struct vm *vm);

/* True while an unsettled migration holds the VM: start, stop, delete and a second migration are refused then. Also true
 * for a VM that was handed off and whose end is not known, and for one whose journal cannot be read. */
bool migration_vm_busy(struct agent *agent, const char *vm_uid);
/* A guest is paused for a migration, here or at the other host: what can wait, and may take its time, is to wait. */
bool migration_pauses_guest(struct agent *agent);
/* There is a journal of this migration and it cannot be read: nobody may be told that it is unknown here. */
bool migration_unreadable(struct agent *agent, const char *id);

/* All of this host's migrations as status documents, for a new subscriber of events; NULL without memory. */
json_t *migration_documents(struct agent *agent);
