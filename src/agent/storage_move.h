/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Storage migrations on this host: disks of a VM go to other datastores while it runs (storage_move_live.c), or are copied
 * while it is off (storage_move_cold.c). Which image counts at each moment is decided by the record in the VM's folder
 * (storage/move_record.h, docs/decisions/0029); storage_move.c keeps the migrations, their journals and their ends.
 *
 * docs/storage-migration.md tells the story, docs/internals/agent-api.md has the documents. */

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"

struct agent;
struct http_request;
struct move_record;
struct storage_moves;
struct vm;

int storage_moves_new(struct agent *agent, struct storage_moves **ret_moves, struct error **ret_error);
/* Leaves journals, and what QEMU does for them. Accepts NULL. */
void storage_moves_free(struct storage_moves *moves);

/* Takes up every journal; after the VMs of an earlier run were adopted and before the API is open. 0 or negative errno. The VM of a
 * journal that makes no sense stays busy, and who asks for that migration is told: until somebody has looked, removed it, and
 * restarted the agent. */
int storage_move_recover_all(struct agent *agent);

/* True while a migration that has not switched its disks holds the VM, or its journal makes no sense: nothing else may be done with it. */
bool storage_move_busy(struct agent *agent, const char *vm_uid);
/* Of one that has switched, and that the manager has not settled: array of {"name", "from": {"datastore", "path", "format"}, "to"} of the disks
 * whose copy has taken over; the caller's. NULL: there is none. */
json_t *storage_move_moved(struct agent *agent, const char *vm_uid);
/* True while the guest is stopped for the switch: its VM's power does not follow. */
bool storage_move_stops_guest(struct agent *agent, const char *vm_uid);
/* The VM's QEMU process has ended. */
void storage_move_vm_gone(struct agent *agent, struct vm *vm);
/* The monitor connection of its QEMU is about to be freed. */
void storage_move_vm_leave_monitor(struct agent *agent, const struct vm *vm);

/* For a start, when the VM's folder is open: where the document still names an image that a copy has taken over from, it names
 * the copy afterwards. May block (datastore.h). *ret_left is the record when the document names nothing of what it has left
 * over, else NULL; the caller's. CONFLICT: the record is damaged. */
int storage_move_apply_record(struct vm *vm, struct move_record **ret_left, struct error **ret_error);
/* The same with a record that was read (borrowed; NULL or null: none). BAD_DOCUMENT. */
int storage_move_apply_json(struct vm *vm, const json_t *json, struct error **ret_error);
/* Removes that from a child process. Only once the VM is this host's by its owner record: before, a host that was taken for dead
 * may still copy. */
void storage_move_clear_record(struct vm *vm, const struct move_record *record);

/* Routes for the manager. */
void storage_move_api_start(struct http_request *request, void *agent);
void storage_move_api_list(struct http_request *request, void *agent);
void storage_move_api_get(struct http_request *request, void *agent);
void storage_move_api_cancel(struct http_request *request, void *agent);
void storage_move_api_settle(struct http_request *request, void *agent);
void storage_move_api_forget(struct http_request *request, void *agent);
