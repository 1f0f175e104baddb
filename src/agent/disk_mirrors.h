/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The disks of a running guest, mirrored by its QEMU to the mover of its migration (docs/decisions/0032): each by a job to an NBD
 * node, whose server is the mover. For any VM that has a monitor; migration_disks.c uses it for migrations, and decides. */

#include <jansson.h>

#include "agent/disk_convergence.h"
#include "base/error.h"

struct agent;
struct disk_mirrors;

enum disk_mirrors_state {
        DISK_MIRRORS_NEW,
        DISK_MIRRORS_LOOKING, /* asks QEMU which disks it has */
        DISK_MIRRORS_KNOWN,
        DISK_MIRRORS_OPENING,
        DISK_MIRRORS_COPYING,
        DISK_MIRRORS_READY,  /* all was copied once, and what remains fits into the pause, or did */
        DISK_MIRRORS_ENDING, /* the guest is stopped: the rest is copied */
        DISK_MIRRORS_ENDED,  /* it was, and is safe; nothing of them is left in QEMU */
        DISK_MIRRORS_FAILED, /* disk_mirrors_error() tells why; they have to be undone */
        DISK_MIRRORS_UNDOING,
        DISK_MIRRORS_GONE, /* nothing of them is left in QEMU */
};

struct disk_mirrors_handler {
        /* Hands the mover the other end of mirror `number`'s connection (which stays the caller's). False: there is no mover. */
        bool (*give)(void *userdata, size_t number, int fd);
        /* The state has changed; from the loop, never from inside a call. */
        void (*changed)(void *userdata);
        void *userdata;
};

/* Of the disks with these indexes in the VM's document. `id`: of the migration, whose first 8 digits are in the names of jobs and nodes. Nothing is
 * asked of QEMU yet. */
int disk_mirrors_new(struct agent *agent, const char *vm_uid, const char *id, const size_t *indexes, size_t n,
        const struct disk_mirrors_handler *handler, struct disk_mirrors **ret_mirrors);
/* Leaves QEMU as it is. Accepts NULL. */
void disk_mirrors_free(struct disk_mirrors *mirrors);
DEFINE_CLEANUP(struct disk_mirrors *, disk_mirrors_free)

enum disk_mirrors_state disk_mirrors_state(const struct disk_mirrors *mirrors);
const struct error *disk_mirrors_error(const struct disk_mirrors *mirrors); /* NULL: none */

/* LOOKING, then KNOWN (or FAILED): how large each disk is. */
void disk_mirrors_look(struct disk_mirrors *mirrors);
uint64_t disk_mirrors_used(
        const struct disk_mirrors *mirrors, size_t number); /* likewise: what it takes of its datastore */
uint64_t disk_mirrors_size(const struct disk_mirrors *mirrors, size_t number); /* bytes; once KNOWN */
/* OPENING, COPYING, READY. A rest that never fits into the pause is FAILED, with NOT_CONVERGING. `policy` without post-copy, and
 * without throttling: nobody slows the guest's writes down. */
void disk_mirrors_begin(
        struct disk_mirrors *mirrors, const struct converge_policy *policy, uint64_t max_pause_ms);
/* What remains to be copied fits into the pause, as last seen. */
bool disk_mirrors_fit(const struct disk_mirrors *mirrors);
/* The bound by which it does, which the policy may have raised; 0 before they began. */
uint64_t disk_mirrors_max_pause_ms(const struct disk_mirrors *mirrors);
/* The guest is stopped: ENDING, ENDED. */
void disk_mirrors_end(struct disk_mirrors *mirrors);
/* From any state, also of mirrors that an agent before this one began: UNDOING, GONE. A QEMU that is gone has none. */
void disk_mirrors_undo(struct disk_mirrors *mirrors);
/* The monitor is lost: nothing may be waited for from it. What can go on does so when it is back. */
void disk_mirrors_leave_monitor(struct disk_mirrors *mirrors);

/* {"copied_bytes", "total_bytes"} of all; the caller's, NULL without memory. */
json_t *disk_mirrors_progress(const struct disk_mirrors *mirrors);
