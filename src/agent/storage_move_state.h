/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One storage migration, as the files storage_move*.c share it. */

#include <jansson.h>

#include "agent/disk_convergence.h"
#include "agent/storage_move.h"
#include "base/list.h"
#include "io/loop.h"
#include "storage/move_record.h"
#include "storage/offload.h"
#include "storage/opening.h"
#include "vmm/command_line.h"
#include "vmm/vm_config.h"

struct crash_hold;
struct qmp_call;
struct stores_wait;

enum storage_move_phase {
        STORAGE_MOVE_PREPARING, /* checks, record, new images, QEMU's part of it */
        STORAGE_MOVE_COPYING,
        STORAGE_MOVE_SWITCHING, /* the guest is stopped, or is about to be */
        STORAGE_MOVE_UNDOING,
        STORAGE_MOVE_SWITCHED, /* waits for the manager: its document has to name the copies */
        STORAGE_MOVE_SETTLING, /* the old images are being removed */
        STORAGE_MOVE_DONE,
        STORAGE_MOVE_FAILED,
        STORAGE_MOVE_CANCELLED,
        N_STORAGE_MOVE_PHASES,
};

/* Beside the record's disk of the same number. */
struct storage_move_disk {
        size_t index; /* in the VM's document */
        uint64_t virtual_bytes;
        uint64_t allocated_bytes; /* on its datastore; once it is copied, what the copy takes */
        uint64_t copied_bytes, total_bytes;
        char source_node[COMMAND_LINE_NODE_SIZE]; /* that its device had when it began */
        char node[COMMAND_LINE_NODE_SIZE];        /* that its device has, as last asked */
        char device[128];                         /* as QEMU names it in query-block */
        bool direct;                              /* the copy's datastore takes O_DIRECT */
        bool keep;                                /* its old image, which another VM uses */
        bool job_runs, job_ended;                 /* as last asked; neither: QEMU has no such job */
        bool job_ready;                           /* and has nothing left to copy */
        bool was_ready;                           /* and once had, since the copy began */
};

struct storage_move {
        struct list all; /* in struct storage_moves */
        struct agent *agent;
        char id[UUID_STRING_SIZE];
        struct vm_config *config; /* of the VM, as the manager gave it */
        struct move_record *record;
        struct storage_move_disk *disks;
        bool live;
        uint64_t rate_bytes_per_s; /* 0: none */
        uint64_t timeout_ms;       /* from the start to the switch; 0: none */
        json_t *wanted;            /* {"max_pause_ms", "converge"}, of the request */
        struct disk_convergence convergence;

        enum storage_move_phase phase;
        bool was_running;   /* the guest, before it was stopped for the switch */
        bool guest_stopped; /* by us, as far as is known */
        bool throttled;     /* what the guest writes may be limited by us */
        bool committing;    /* the record is being replaced: there is no way back */
        bool committed;     /* and was */
        bool unclear;       /* a try to replace it came to no end that says whether it was */
        bool recorded;      /* there is, or may be, a record of it in the VM's folder */
        bool reading;       /* an agent before us may have replaced the record: it was not read yet */
        bool keep_earlier; /* images that an earlier migration has left: another VM may have been given them */
        bool in_background; /* only removes what is left of a migration of before */
        bool cancelled;
        struct error *error; /* why it did not switch, or not all disks */
        char *left;          /* why something could not be removed */

        uint64_t started_ms, stopped_ms; /* of the loop's clock; 0: not in this process */
        uint64_t completing_ms, undoing_ms,
                waiting_ms; /* likewise: since when it waits for QEMU, or for the record */
        json_t *result;

        /* Whatever it waits for. */
        struct stores_wait *wait;
        struct image_job *image;
        struct offload *offload;
        struct opening *opening;
        struct qmp_call *call;
        struct loop_source *timer;
        struct crash_hold *hold;
        void (*then)(struct storage_move *m); /* after the hold */
        void (*after_throttle)(
                struct storage_move *m); /* likewise, after the disks' limits or the jobs' speed */
        uint64_t speed;
        size_t at; /* disk that is worked on */
        unsigned int n_tries;
};

/* storage_move.c */
void storage_move_free(struct storage_move *m);
DEFINE_CLEANUP(struct storage_move *, storage_move_free)
void storage_move_add(struct storage_move *m); /* to the registry */
/* NULL: none. The second: one that has not ended. */
struct storage_move *storage_move_find(struct agent *agent, const char *id);
struct storage_move *storage_move_of_vm(struct agent *agent, const char *vm_uid);
/* Its journal makes no sense. */
bool storage_move_is_unreadable(struct agent *agent, const char *id);
bool storage_move_has_ended(const struct storage_move *m);
const char *storage_move_phase_to_string(enum storage_move_phase phase);
char *storage_move_journal_path(const struct storage_move *m); /* the caller's */
json_t *storage_move_documents(struct agent *agent);
/* What it took so far, as its result; before the phase changes to the one that ends it. */
void storage_move_measure(struct storage_move *m);
/* One that has switched and whose manager never came back for it: the record in the folder says all that is left to do, and the
 * next migration, or the next start, does it. Accepts NULL, and leaves any other alone. */
void storage_move_let_go_of_switched(struct storage_move *m);
/* What its disks take, {"allocated_bytes": [N, ...]} of its journal, or of STORAGE_MOVE_SYNC or _READY: then it is the copies. */
void storage_move_take_sizes(struct storage_move *m, const json_t *json);
/* Adds to `left` what the answer to STORAGE_MOVE_CLEAR says stays. -ENOMEM. */
int storage_move_note_kept(struct storage_move *m, const json_t *cleared);
/* Removes what is not used, then it has ended. */
void storage_move_clear(struct storage_move *m);
struct vm *storage_move_vm(const struct storage_move *m);
/* Writes the journal; NULL for ret_error: a failure is logged. */
int storage_move_journal(const struct storage_move *m, struct error **ret_error);
/* Into the phase, with the journal. */
void storage_move_enter(struct storage_move *m, enum storage_move_phase phase);
/* Why it cannot go on; takes the error over. The first one counts. What was made is undone. */
void storage_move_stop(struct storage_move *m, struct error *error);
void storage_move_stop_copy(struct storage_move *m, const struct error *error);
/* Calls fn from the loop after delay_ms; replaces an earlier one. */
void storage_move_again(struct storage_move *m, uint64_t delay_ms, loop_fn fn);
/* A named point for tests; then `then`. */
void storage_move_point(struct storage_move *m, const char *name, void (*then)(struct storage_move *m));
/* The VM is another host's. False: its QEMU cannot be ended. */
bool storage_move_lost(struct storage_move *m, const struct error *error);
/* The copies are ready, QEMU uses them or nobody does: replaces the record until it is known to be, then calls `then`. */
void storage_move_commit(struct storage_move *m, void (*then)(struct storage_move *m));
/* QEMU is done with it, whichever way: removes the copies that did not take over, and ends; or waits for the manager. */
void storage_move_conclude(struct storage_move *m);

/* storage_move_api.c */
json_t *storage_move_document(const struct storage_move *m);

/* storage_move_begin.c */
/* Of a VM's document and a record, as JSON. BAD_DOCUMENT. */
int storage_move_make(struct agent *agent, const json_t *document, const json_t *record, const json_t *wanted,
        struct storage_move **ret, struct error **ret_error);
/* {"id", "vm": document, "disks": [{"name", "datastore", "format"}], "rate_limit_bps", "timeout_ms", "max_pause_ms", "converge"}. Refuses what this host can see
 * that is not possible. */
int storage_move_read_request(
        struct agent *agent, const json_t *body, struct storage_move **ret, struct error **ret_error);
void storage_move_begin(struct storage_move *m);
/* Opens an image of the record in a child process; with O_CREAT a new one. "DATASTORE: PATH" is what it is called in messages. */
int storage_move_open(struct storage_move *m, const struct opening_file *files, size_t n_files,
        opening_done_fn done, struct error **ret_error);
/* A file of the record as one to be opened: BAD_DOCUMENT or another error when this host does not have its datastore. */
int storage_move_file(struct storage_move *m, const struct move_place *place, int flags,
        struct opening_file *ret_file, struct error **ret_error);

/* storage_move_record.c: work on record and images in a child process; `done` as in offload.h. */
enum storage_move_work {
        STORAGE_MOVE_READ, /* result: the record, or null */
        STORAGE_MOVE_LOOK, /* the same, if the datastores have room for the copies and the VM is not suspended */
        STORAGE_MOVE_WRITE, /* the record as it is here. STALE_EPOCH: the VM is another host's, nothing was written */
        STORAGE_MOVE_SYNC,  /* the copies; result: what they take on their datastores */
        STORAGE_MOVE_READY, /* the same result: is it ours still, the copies flushed, the record written as it is: what the commit needs, tried before the guest is stopped for it */
        STORAGE_MOVE_CLEAR, /* removes, by the record of migration `id` in the folder, what is not used; then the record */
};
int storage_move_work(struct storage_move *m, enum storage_move_work work, const char *id,
        offload_done_fn done, struct error **ret_error);

/* storage_move_live.c: the images are made; copies, switches, and ends in storage_move_conclude(). */
void storage_move_live_begin(struct storage_move *m);
/* Goes on by the phase, after a restart of the agent or with a monitor that was away. */
void storage_move_live_resume(struct storage_move *m);
void storage_move_on_resume(void *userdata);
/* QEMU gives the copies up. */
void storage_move_live_undo(struct storage_move *m);
/* storage_move_cold.c */
void storage_move_cold_begin(struct storage_move *m);
