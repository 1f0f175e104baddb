/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The disks of a QEMU that waits for its guest, to be written by the sink's mover (docs/decisions/0032): its NBD server on a
 * socket in the VM's runtime folder, an export for each, and a connection to it. */

#include "base/error.h"

struct agent;
struct disk_exports;

/* fds: a connection for each disk, the callee's on success; or an error, borrowed. From the loop. */
typedef void (*disk_exports_fn)(void *userdata, const int *fds, size_t n, struct error *error);

/* "disk0": the export of the disk with this index in the VM's document. */
#define DISK_EXPORT_NAME_SIZE 32
char *disk_export_name(size_t index, char ret[static DISK_EXPORT_NAME_SIZE]);

/* Of the disks with these indexes. `done` is called once. */
int disk_exports_open(struct agent *agent, const char *vm_uid, const size_t *indexes, size_t n,
        disk_exports_fn done, void *userdata, struct disk_exports **ret_exports, struct error **ret_error);
/* Ends the server and with it all exports and connections, also those that an agent before this one had opened; `closed` is
 * called once from the loop when QEMU has none any more, as soon as its monitor says so. Before the guest may run. */
void disk_exports_close(struct disk_exports *exports, void (*closed)(void *userdata));
/* One that opens nothing, to be closed. */
int disk_exports_adopt(
        struct agent *agent, const char *vm_uid, void *userdata, struct disk_exports **ret_exports);
/* The monitor is lost. Opening has failed then; closing goes on when it is back. */
void disk_exports_leave_monitor(struct disk_exports *exports);
/* Leaves QEMU as it is. Accepts NULL. */
void disk_exports_free(struct disk_exports *exports);
