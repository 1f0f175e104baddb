/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The memory of guests that left this host, kept so that a guest that comes back sends only what changed (mover/checkpoint.h
 * has the format): a file a guest in STATE-DIR/checkpoints, within a size and an age. Its key is not here: it travels with the
 * guest, from one host to the next (docs/decisions/0006), and of each guest that runs here the keys of all hosts that keep
 * something of it are in STATE-DIR/checkpoint-keys. What is missing or broken only costs time; a
 * disk that fails after its data was offered to the source ends the migration, and the guest runs on there. */

#include <jansson.h>

#include "base/error.h"

#define CHECKPOINT_KEY_HEX 64

struct checkpoints;

/* Makes the folders, and removes what a crash left half written and what is too old. max_bytes 0: nothing is kept, and nothing is
 * used. */
int checkpoints_new(const char *state_dir, uint64_t max_bytes, uint64_t max_age_s,
        struct checkpoints **ret_checkpoints, struct error **ret_error);
void checkpoints_free(struct checkpoints *checkpoints);
DEFINE_CLEANUP(struct checkpoints *, checkpoints_free)

bool checkpoints_wanted(const struct checkpoints *checkpoints);

/* A file for the memory of a guest that leaves; checkpoints_end() follows. -EOPNOTSUPP: not wanted; -ENOSPC: the file system
 * has no room for all of it. */
int checkpoints_begin(struct checkpoints *checkpoints, const char *vm_uid, uint64_t ram_bytes, int *ret_fd);
/* `complete`: it takes the place of an earlier one, and the oldest ones make room; else, or if it is larger than all of the room,
 * it is removed. True if it is there now. */
bool checkpoints_end(struct checkpoints *checkpoints, const char *vm_uid, uint64_t ram_bytes, bool complete);

/* What is kept of a guest, for reading. -ENOENT. */
int checkpoints_open(struct checkpoints *checkpoints, const char *vm_uid, int *ret_fd);
void checkpoints_drop(struct checkpoints *checkpoints, const char *vm_uid);

/* {host uid: key as hex}, for a guest that runs here; the caller's. NULL without memory. */
json_t *checkpoints_keys(struct checkpoints *checkpoints, const char *vm_uid);
/* NULL or empty: none. */
void checkpoints_set_keys(struct checkpoints *checkpoints, const char *vm_uid, const json_t *keys);
/* BAD_DOCUMENT when it is not of that form. */
int checkpoints_check_keys(const json_t *keys, struct error **ret_error);
