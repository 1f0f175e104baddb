/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Disks that travel along with a migration, to a datastore that the source need not see (docs/decisions/0032 and 0034): what migration_disks.c
 * (source) and migration_disks_arrival.c (destination) do for the other migration*.c files. All of it may be called for any migration,
 * and does nothing where `m->disks` is NULL. */

#include "agent/disk_exports.h"
#include "agent/disk_mirrors.h"
#include "agent/migration_state.h"
#include "mover/wire.h"
#include "storage/image.h"

struct image_job;
struct offload;
struct stores_wait;

struct migration_disks {
        const char *datastore;          /* of the folder and the disks at the destination; of the spec */
        size_t indexes[WIRE_MAX_DISKS]; /* in the document: those that can be written to */
        size_t n;

        /* source */
        struct disk_mirrors *mirrors;
        struct owner_record_change *give;
        bool given;
        bool peer_removed; /* see handoff.h */
        bool continued;    /* QEMU may go on to its device state: it was told so */
        struct loop_source *limit;
        uint64_t undo_began_ms; /* monotonic; 0: nothing was waited for */
        struct qmp_call *call;

        /* destination */
        uint64_t sizes[WIRE_MAX_DISKS];
        char left_store[UUID_STRING_SIZE]; /* id of the datastore with the folder at the source */
        struct stores_wait *wait;
        struct offload *offload;
        struct image_job *image;
        size_t at;
        json_t *document; /* of the VM with its new places */
        struct disk_exports *exports;
        bool closing, closed;   /* the exports */
        bool removing, removed; /* what was made here */
        bool stays;             /* ... and is there all the same */
        unsigned int n_removals;
};

/* Reads `disks` of the spec, {"datastore"}. BAD_DOCUMENT, NOT_SUPPORTED. */
int migration_disks_init(struct migration *m, struct error **ret_error);
/* NOT_SUPPORTED: disks travel along with it, and this host's configuration says that it takes no part in that. */
int migration_disks_refused(const struct migration *m, struct error **ret_error);
void migration_disks_free(struct migration *m);
void migration_disks_leave_monitor(struct migration *m);
/* `disks` of a mover's start message; the caller's; NULL: none move. */
json_t *migration_disks_start(const struct migration *m);
/* The VM's document (of the spec) with its new places; the caller's. */
json_t *migration_disks_document(const struct migration *m);

/* --- Source --- */

/* Stages; each goes on in migration_disks_step(), or the migration is stopped. */
void migration_disks_look(struct migration *m);
void migration_disks_mirror(struct migration *m);
/* While the source owns the VM. */
void migration_disks_step(struct migration *m);
/* {"left_store", "sizes"} for the destination; the caller's. */
json_t *migration_disks_from(const struct migration *m);
/* False: what remains of them would not fit into the pause now. */
bool migration_disks_fit(const struct migration *m);
/* Op `stopped` for the mover, and the end of the patience with the disks. */
json_t *migration_disks_stopped(struct migration *m);
/* QEMU has stopped the guest and waits: the mirrors are ended, then it goes on. */
void migration_disks_end(struct migration *m);
/* False: QEMU came to its device state before they were, which ends the migration: the copies are not what the disks are. */
bool migration_disks_ended(struct migration *m);
/* `handed-off` is written: the destination is written into the owner record here. */
void migration_disks_give(struct migration *m);
void migration_disks_undo(struct migration *m);
/* Nothing of the mirrors is left in QEMU; they are undone if need be, and it kicks. */
bool migration_disks_undone(struct migration *m);
void migration_disks_progress(const struct migration *m); /* into m->progress */
static inline bool migration_is_apart(const struct migration *m)
{
        return m->disks != NULL;
}
/* The manager's word, for this migration alone: the destination was removed, and what is there is given up. Noted in the journal. CONFLICT: nothing
 * waits for it here. */
int migration_disks_give_up_peer(struct migration *m, struct error **ret_error);

/* The same once its task has ended, and the VM may have been started from either folder: QEMU ends here, and the record here stays as it is. */
int migration_disks_let_go(struct migration *m, struct error **ret_error);
/* [{"id", "peer"}]: sources here that wait for the word of a destination; the caller's. */
json_t *migration_disks_waiting(struct agent *agent);

/* --- Destination --- */

/* Makes folder and images; then migration_destination_start(), or migration_destination_failed(). */
void migration_disks_arrive(struct migration *m);
/* QEMU waits: its disks can be written to; then migration_destination_ready(). */
void migration_disks_export(struct migration *m);
void migration_disks_cancel(struct migration *m);
/* The mover has written all: QEMU ends the exports. True when it has; else it kicks then. */
bool migration_disks_closed(struct migration *m);
/* It has settled without its source's last word, that was taken for down: when that comes back, nobody else can tell it whose the disks are. */
bool migration_disks_peer_may_ask(const struct migration *m);
/* The migration of the VM of which something was made here that is not removed yet; NULL: none. */
const struct migration *migration_disks_linger(struct agent *agent, const char *vm_uid);
/* What was made here and stays, in words; the caller's; NULL: nothing. */
json_t *migration_disks_left(const struct migration *m);
/* It was abandoned, and the source has the VM: what was made here is removed. True when it is, or is kept; else it kicks then. */
bool migration_disks_removed(struct migration *m);
