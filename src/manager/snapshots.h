/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The snapshots of a virtual machine, as its document has them (docs/snapshots.md): "snapshots", beside "spec" and "status", an array of
 *
 *   {"name", "id", "description", "created", "state", "current", "parent": name|null, "power", "consistency",
 *    "disks": [{"name", "datastore", "path", "size_bytes"}], "mixed_disks": true (absent: no)}
 *
 * They are the manager's: agents are told the name that a snapshot has in the images, and nothing else. No I/O. */

#include <jansson.h>

#include "base/error.h"

#define SNAPSHOTS_MAX 32 /* of one virtual machine: each makes its images' tables longer */
#define SNAPSHOT_DESCRIPTION_MAX 256
#define SNAPSHOT_TAG_SIZE 24

/* Only what is READY can be reverted to. CREATING: a task makes it, or could not clear away what it had made. REVERTING: some disks may have been
 * reverted, others not, so that the virtual machine is not to be started. DELETING: some images may not have it any more. */
enum snapshot_state {
        SNAPSHOT_CREATING,
        SNAPSHOT_READY,
        SNAPSHOT_REVERTING,
        SNAPSHOT_DELETING,
        N_SNAPSHOT_STATES
};
const char *snapshot_state_to_string(enum snapshot_state state);

/* Of a virtual machine's document; borrowed; NULL: it has none of that name. */
json_t *snapshots_find(const json_t *vm, const char *name);
bool snapshot_is(const json_t *snapshot, enum snapshot_state state);
/* 0 or -ENOMEM. */
int snapshot_set_state(json_t *snapshot, enum snapshot_state state);
/* What it is called in the images: "drover-" and its id, which no image has from somebody else. Returns ret. */
char *snapshot_tag(const json_t *snapshot, char ret[static SNAPSHOT_TAG_SIZE]);

/* Whether the task of that uid makes, or made, it. */
bool snapshot_is_of(const json_t *snapshot, const char *uid);
/* Names of those of its disks that the virtual machine still has where they were; the caller's; NULL without memory. */
json_t *snapshot_disks_there(const json_t *vm, const json_t *snapshot);

/* The one whose reverting has not ended, or NULL; also one that is being deleted since (snapshot_begin_delete()). */
json_t *snapshots_reverting(const json_t *vm);
/* CONFLICT while there is one: the disks may be of two moments. The hint names the ways out. */
int snapshots_check_reverted(const json_t *vm, struct error **ret_error);
/* This one is reverted to now; another one that was being reverted to is as good, or as much to be deleted, as before. 0 or -ENOMEM. */
int snapshots_begin_revert(json_t *vm, const char *name);
/* DELETING; of one whose reverting has not ended it stays known ("mixed_disks") that the disks are of two moments. 0 or -ENOMEM. */
int snapshot_begin_delete(json_t *snapshot);
/* The disks, of two moments, are taken as they are. */
void snapshot_accept_mixed(json_t *snapshot);
/* True if a disk of one of them is of that name, or if there is one at all (NULL). */
bool snapshots_have_disk(const json_t *vm, const char *disk);

/* Adds one that is being made (document changed): `uid` of its task; its parent is the current one. EXISTS, NO_RESOURCES (SNAPSHOTS_MAX). */
int snapshots_add(json_t *vm, const char *name, const char *uid, const char *description, const char *created,
        struct error **ret_error);
/* It is what the disks hold: the next one's parent. 0 or -ENOMEM. */
int snapshots_set_current(json_t *vm, const char *name);
/* Removes it; its children become its parent's. 0 or -ENOMEM. */
int snapshots_drop(json_t *vm, const char *name);
/* CONFLICT unless the virtual machine still has each of its disks where it was. */
int snapshot_check_disks(const json_t *vm, const json_t *snapshot, struct error **ret_error);
/* Puts the sizes of `disks` ([{"name", "size_bytes"}]) into the disks of `where` of the same name. 0 or -ENOMEM. */
int snapshots_take_sizes(json_t *where, const json_t *disks);
