/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The memory and device state of a suspended VM, in its folder (docs/suspend.md has the format):
 *   suspend.RANDOM.state   QEMU's stream, as zstd frames of at most 1 MiB each with its own checksum;
 *   suspend.json           the record, written last: with it the state is complete.
 * A state is good for exactly the owner epoch under which the guest was suspended. Whoever runs the VM takes the next
 * one first, so that memory can never be put beside disks that have changed since.
 * All functions may block (see datastore.h). */

#include <jansson.h>

#include "base/error.h"
#include "storage/vm_folder.h"

#define VM_FOLDER_STATE_RECORD "suspend.json"
#define STATE_FILE_NAME_MAX 64

/* A new name for a file of state. 0 or negative errno. */
int state_file_name(char ret[static STATE_FILE_NAME_MAX]);

/* Takes QEMU's stream from the socket `fd` to its end into the file `name`, durably. `host` runs the VM under `epoch`: when
 * another one has it (STALE_EPOCH), nothing is touched. What earlier attempts left, their record first, is removed before. On failure (DATASTORE_FULL and others) the file is removed. *ret_written: {"state": name, "bytes", "stream_bytes",
 * "sha256"}, the caller's: part of the record. That the stream was complete, QEMU must have said. */
int state_file_write(const struct vm_folder *folder, const char *host, uint64_t epoch, const char *name,
        int fd, json_t **ret_written, struct error **ret_error);

/* Writes the record, durably: {"vm", "since", "state", "bytes", "stream_bytes", "sha256", "document"}; borrowed. It gets `epoch`, and the
 * owner record says before that `host` has the VM under it: a claim that was not answered may have left it behind. STALE_EPOCH: there is a
 * later one, also of this host (it goes back already), or another host has the VM; nothing was written. */
int state_file_commit(const struct vm_folder *folder, const char *host, uint64_t epoch, int64_t now_unix_ms,
        const json_t *record, struct error **ret_error);

/* The record, the caller's. NOT_FOUND: the VM is not suspended; STALE_EPOCH: it ran since then; CONFLICT: the record is damaged. */
int state_file_record(const struct vm_folder *folder, json_t **ret_record, struct error **ret_error);

/* For whoever changes the disks of a VM that is off: CONFLICT when there is a state that is good, whose guest would not find them any more. */
int state_file_check_none(const struct vm_folder *folder, struct error **ret_error);

/* Writes QEMU's stream to the socket `fd`. CONFLICT when the file is not what the record says; nothing that is damaged is
 * written. `confine`: the process is shut in first, for good (confine.h): who wrote the file is not known. */
int state_file_read(
        const struct vm_folder *folder, const json_t *record, int fd, bool confine, struct error **ret_error);

/* `host` had begun to resume the VM from the state of `epoch`, and its guest never ran: that state is good again, under the next epoch, which
 * is the host's. Repeated calls do no harm. *ret_epoch: the epoch that it is good for. */
int state_file_keep(const struct vm_folder *folder, const char *host, uint64_t epoch, int64_t now_unix_ms,
        uint64_t *ret_epoch, struct error **ret_error);

/* Removes the record, durably, then the state. 0 also if there was none. */
int state_file_remove(const struct vm_folder *folder, struct error **ret_error);
