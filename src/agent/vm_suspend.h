/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Suspending a VM to its datastore, and resuming it from there (docs/suspend.md). Operations as in vm.h.
 * vm_suspend.c and vm_restore.c; the format is storage/state_file.h's. */

#include <jansson.h>

#include "agent/vm.h"
#include "base/error.h"
#include "storage/offload.h"

struct vm_job;
struct vm_suspend;
struct vm_restore;

/* Stops the guest, has QEMU write its memory and device state to the VM's folder, ends QEMU: SUSPENDED. On any failure before the
 * state is complete, after timeout_ms and on vm_suspend_cancel(), the guest runs on (or stays paused, as it was). */
int vm_suspend(struct vm *vm, uint64_t timeout_ms, vm_done_fn done, void *userdata, struct error **ret_error);
/* BUSY: VM_STATE_TRANSFERS_MAX are being suspended or resumed here. Each has a helper process at work for as long as its memory takes; what else the agent has
 * helpers for must not wait for those. */
#define VM_STATE_TRANSFERS_MAX OFFLOAD_MAX_STREAMS
int vm_state_transfer_fits(struct agent *agent, struct error **ret_error);
/* Ends one that is under way, unless its state is complete. CONFLICT: there is none. Its end comes later. */
int vm_suspend_cancel(struct vm *vm, struct error **ret_error);
/* Starts QEMU from the state in the folder of the VM of this document, on this host, and takes the VM over as vm_start() does. The
 * guest runs then, also one that was paused. On failure, when reading takes longer than timeout_ms (0: a day), and on vm_restore_cancel(), the
 * VM stays suspended, unless its guest may have run. */
int vm_restore(struct agent *agent, const json_t *document, uint64_t timeout_ms, vm_done_fn done,
        void *userdata, struct vm **ret_vm, struct error **ret_error);
/* Ends one that is under way, until its guest is let go. CONFLICT: there is none, or it is too late. Its end may come from inside the call. */
int vm_restore_cancel(struct vm *vm, struct error **ret_error);

/* For vm_monitor.c and vm_adopt.c: a QEMU of an earlier agent's suspending (SUSPENDING: its guest goes on; SUSPENDED: it has
 * nothing to do any more), or of a resumption whose guest was to be let go (STARTING, restore_continuing), answers. */
void vm_suspend_recover(struct vm *vm);
/* Its QEMU has ended: an epoch of this host's that the owner record may have, and that it does not know, counts as taken. */
void vm_suspend_vm_gone(struct vm *vm);
/* Before a forced stop: ends what suspends the VM, or recovers it, as it is. */
void vm_suspend_give_up(struct vm *vm);
/* No QEMU is left of a resumption that an earlier agent began, or this one: true when its guest never ran and the state
 * is to be kept; the job, if there is one, ends with its error when it is. */
bool vm_restore_keep(struct vm *vm);
/* Tries that again after a while, for one that is SUSPENDED and whose state is still to be kept. */
void vm_restore_keep_later(struct vm *vm);
/* Its guest ran, or nothing of the resumption is left to be remembered. */
void vm_restore_forget(struct vm *vm);

/* Steps of VM_JOB_RESTORE that vm_start.c triggers. */
void vm_restore_stores_ready(struct vm *vm); /* reads the record, then calls vm_start_qemu() */
void vm_restore_waiting(struct vm *vm);      /* QEMU waits for the stream; then calls vm_start_finish() */
void vm_restore_ran(struct vm *vm);          /* the state goes; ends the job */
int vm_restore_take_owner(struct vm *vm, const json_t *document, struct error **ret_error);

void vm_suspend_free(struct vm_suspend *suspend);
void vm_restore_free(struct vm_restore *restore);
