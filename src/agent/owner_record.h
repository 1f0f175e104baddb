/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The owner record in a VM's folder, changed from a child process: a file server that hangs never stops the agent.
 * Next to the journals and QEMU's image locks it is what keeps two hosts from running one VM, and it is the only one
 * of the three that can still be read when the other host is gone for good. */

#include <jansson.h>

#include "base/error.h"

struct owner_record_change;
struct vm;

/* A child that does not answer is given up then. */
#define OWNER_RECORD_TIMEOUT_MS 5000

/* With an error (borrowed): `epoch` is what the record has or, where the child did not live to tell, may have all the same;
 * 0 if it was surely not changed. */
typedef void (*owner_record_fn)(void *userdata, uint64_t epoch, struct error *error);

/* This host becomes owner with `epoch`, unless the record has one later than known_epoch (STALE_EPOCH). `done` is called once
 * from the loop. The VM is not needed after the call, nor changed. */
int owner_record_take(struct vm *vm, uint64_t known_epoch, uint64_t epoch, owner_record_fn done,
        void *userdata, struct owner_record_change **ret_change, struct error **ret_error);
/* The same for another host, which has the VM from then on with a record of its own: what is here is left behind. */
int owner_record_give(struct vm *vm, const char *host_uid, uint64_t known_epoch, uint64_t epoch,
        owner_record_fn done, void *userdata, struct owner_record_change **ret_change,
        struct error **ret_error);
/* For a start: takes the epoch after the record's and known_epoch. A record that names this host is no obstacle whatever
 * its epoch: that nothing runs here is known. `document` (borrowed) is then written as the VM's, with that epoch in its status. */
int owner_record_take_next(struct vm *vm, uint64_t known_epoch, const json_t *document, owner_record_fn done,
        void *userdata, struct owner_record_change **ret_change, struct error **ret_error);
/* The same, and a state that the VM was suspended to (storage/state_file.h) is given up, and removed once the epoch is taken: the
 * others refuse to let the VM run beside one that is good (CONFLICT), and remove one that is not. */
int owner_record_take_next_from_disks(struct vm *vm, uint64_t known_epoch, const json_t *document,
        owner_record_fn done, void *userdata, struct owner_record_change **ret_change,
        struct error **ret_error);
/* The same for a guest that goes on here after all, in the QEMU that has had its disks since it was started: what the record of a storage
 * migration says, or that it is damaged, does not concern it. */
int owner_record_take_back(struct vm *vm, uint64_t known_epoch, const json_t *document, owner_record_fn done,
        void *userdata, struct owner_record_change **ret_change, struct error **ret_error);
/* For a start from the state that is good for known_epoch: takes the epoch after it, and nothing else. */
int owner_record_take_for_state(struct vm *vm, uint64_t known_epoch, const json_t *document,
        owner_record_fn done, void *userdata, struct owner_record_change **ret_change,
        struct error **ret_error);
/* Gives up: the child is killed and `done` not called. Accepts NULL. Not for one whose `done` was called: that one is gone. */
void owner_record_change_free(struct owner_record_change *change);
