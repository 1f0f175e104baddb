/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One virtual machine on this host: its QEMU process, the guest's RAM, its taps, and what is known of its
 * state.
 *
 * Operations are asynchronous: they return 0 once begun and call `done` exactly once later from the loop,
 * never from inside the call; a negative errno (with *ret_error) means that nothing was begun and `done` will
 * not be called. One operation at a time: a second one is refused with BUSY. `done` may free the VM
 * (vm_release() and vm_discard_incoming() have done so when they call it: do not touch the VM then).
 *
 * Its files: vm.c (table of states, registry, document), vm_job.c (the operation under way), vm_resources.c (what a
 * QEMU process is given), vm_start.c (start, incoming), vm_run.c (stop, pause, resume, the handoff's steps),
 * vm_suspend.c and vm_restore.c (to a file and back), vm_monitor.c (QMP connection, events, death of QEMU), vm_state.c (runtime file), vm_adopt.c (after a restart of
 * the agent), vm_create.c (folder and disks).
 */

#include <jansson.h>

#include "base/error.h"
#include "base/list.h"
#include "io/loop.h"
#include "vmm/vm_config.h"

struct agent;
struct announce;
struct arrival;
struct guest_watch;
struct child;
struct child_result;
struct qmp;
struct vm_folder;
struct vm_job;

/* Powers are those of docs/vm-document.md (vmm/vm_config.h). INCOMING: QEMU waits for, or holds, a migrated guest
 * that does not run yet. OUTGOING_DONE: handed off; QEMU is there still, may never run the guest again. UNKNOWN:
 * QEMU lives but does not answer. The table of allowed changes; from == to is always allowed. */
bool vm_power_may_change(enum vm_power from, enum vm_power to);

typedef void (*vm_done_fn)(void *userdata, struct error *error); /* borrowed; NULL: success */

struct vm_tap {
        char name[16];
};

/* Read by all of src/agent, changed by vm*.c alone. */
struct vm {
        struct agent *agent;
        char *uid;
        char *name;
        /* As last started or received. Its status is kept true at all times, and vm_document() is just its JSON:
         * power, message, owner_epoch (that this host wrote to owner.json; for INCOMING the source's), machine,
         * cpu_model, accelerator, memory_effective_bytes, qemu_version. */
        struct vm_config *config;

        /* While a QEMU process exists (NULL / -1 / 0 otherwise). */
        struct child *qemu;
        /* NULL while connecting, and after QEMU closed it: each pending command was answered (with an error) by
         * then, also when QEMU died, and only afterwards migration_vm_gone() is called. */
        struct qmp *qmp;
        pid_t pid;
        uint64_t start_time;  /* with pid: identifies the process */
        uint64_t ram_address; /* of guest RAM in QEMU's address space; 0: not known (yet) */
        bool ram_asked;       /* the monitor owes the answer */
        char *qemu_status;    /* RunState as last reported: "running", "inmigrate", "postmigrate", ... */
        struct vm_tap *taps;  /* one per NIC, in the document's order */
        size_t n_taps;
        uint64_t n_resets;   /* guest reboots since the start, as QEMU reported them */
        bool guest_shutdown; /* QEMU reported SHUTDOWN by the guest */
        /* Durable in the runtime file: what an agent that starts again must know to go on, or back, in the middle. */
        bool suspend_paused; /* SUSPENDING: the guest was paused before */
        bool restoring;      /* STARTING from a state */
        enum vm_power
                restore_before; /* restoring: what it is again if that fails before a good state was found */
        uint64_t
                restore_epoch; /* the owner epoch of the good state that was found; 0: none. Also SUSPENDED: to be kept */
        bool restore_continuing;        /* and its guest may have run since */
        struct loop_source *keep_again; /* SUSPENDED, with restore_epoch: tries to keep it */
        json_t *transfer;               /* figures of the last suspending or resuming here; NULL */
        json_t *jobs; /* array of {"id", "type"}: what QEMU does with disks besides; NULL: nothing, or not known */
        bool disk_full; /* the last I/O error that QEMU reported was ENOSPC */

        struct vm_folder *folder;      /* on its datastore; NULL until first needed */
        struct vm_job *job;            /* the operation under way; vm_job.h */
        struct loop_source *reconnect; /* tries again: the monitor, or the pidfd while `unwatched` */
        struct announce **announces;   /* n_taps of them, each may be NULL */
        struct guest_watch **watches;  /* likewise: what the guests' frames tell; see vm_watch_guest() */
        struct arrival **arrivals;     /* likewise: of a guest that a migration brought */
        int stream_fd;                 /* see vm_take_stream_fd() */
        bool unwatched;  /* QEMU lives, or may, but its pidfd could not be had (yet) after a restart */
        bool qmp_failed; /* the last attempt to connect did */
        bool exited;     /* QEMU has; its last messages are still being read */
        bool exited_by_itself, exited_well;
        char *exit_text;
        char *lost_text; /* why it was ended by vm_end_lost(); NULL: it was not */
};

#define VM_RAM_BLOCK "pc.ram" /* id of guest RAM in QEMU's migration stream */

/* NULL if this host does not know it. */
struct vm *vm_find(struct agent *agent, const char *uid);
/* The whole document with the status as it is here; NULL without memory. The caller owns it. */
json_t *vm_document(const struct vm *vm);
/* The same for the manager: with "jobs" if QEMU has any, and "moved_disks" if a storage migration waits for its document to name the
 * copies. */
json_t *vm_report(const struct vm *vm);
static inline enum vm_power vm_power(const struct vm *vm)
{
        return vm->config->status.power;
}
/* Does a QEMU process exist? */
bool vm_has_qemu(const struct vm *vm);

/* --- For the API -------------------------------------------------------------------------------------------
 */

/* Starts the VM of this document (validated inside) from its disks, taking the next owner epoch; a known VM must have no
 * QEMU. CONFLICT for one that is suspended, unless discard_state: its state is removed then. clear_record: no other VM names a file in its folders,
 * so that what a storage migration left there may be removed. *ret_vm is valid at least until `done`. */
int vm_start(struct agent *agent, const json_t *document, bool discard_state, bool clear_record,
        vm_done_fn done, void *userdata, struct vm **ret_vm, struct error **ret_error);
/* ACPI power button and at most timeout_ms of patience (0: 60 s), then an error and the VM runs on; `force`:
 * kill. */
int vm_stop(struct vm *vm, bool force, uint64_t timeout_ms, vm_done_fn done, void *userdata,
        struct error **ret_error);
int vm_pause(struct vm *vm, vm_done_fn done, void *userdata, struct error **ret_error);
/* `cont`. Refused for INCOMING and OUTGOING_DONE: only the handoff may continue those, see vm_continue(). */
int vm_resume(struct vm *vm, vm_done_fn done, void *userdata, struct error **ret_error);

/* --- For migrations ----------------------------------------------------------------------------------------
 */

/* Destination: validates the document (it carries the source's status: machine, cpu_model, accelerator,
 * memory_effective_bytes are used as they are), makes taps, starts QEMU with `-S -incoming defer`,
 * sets the capabilities of vmm/migration_params.h and gives it one end of a socket pair (`migrate-incoming
 * fd:`). After a successful `done` the VM is INCOMING and vm_take_stream_fd() yields the other end.
 * owner.json is not touched. After a failed `done` nothing is left and the VM is gone. post_copy: QEMU is set up for that as
 * well; NOT_SUPPORTED where the kernel does not let it have userfaultfd. */
int vm_start_incoming(struct agent *agent, const json_t *document, uint64_t source_epoch, bool post_copy,
        vm_done_fn done, void *userdata, struct vm **ret_vm, struct error **ret_error);
/* QEMU's memory as a file; guest RAM (status.memory_effective_bytes) is at ram_address in it. The descriptor is the caller's.
 * CONFLICT when it is not known where. */
int vm_open_ram(const struct vm *vm, int *ret_fd, struct error **ret_error);
/* The mover's end of QEMU's incoming stream; the caller's. -1 if taken already (or after adoption). */
int vm_take_stream_fd(struct vm *vm);

/* Source: makes a socket pair with VM_STREAM_BYTES of room (as the kernel counts, overhead included), hands one end to QEMU with `getfd` under `fdname`, and gives the
 * other to `done` as stream_fd; `migrate` with uri "fd:FDNAME" uses it. qemu_fd: a second descriptor of QEMU's end, to change
 * the room; while it is open, the mover does not see that QEMU closed its own. Both are owned by the callee, -1 on error. */
#define VM_STREAM_BYTES (8 * 1024 * 1024)
typedef void (*vm_stream_fn)(void *userdata, int stream_fd, int qemu_fd, struct error *error);
/* Best effort: without privileges, the kernel allows less. */
void vm_stream_set_room(int qemu_fd, uint64_t bytes);
int vm_open_outgoing_stream(
        struct vm *vm, const char *fdname, vm_stream_fn done, void *userdata, struct error **ret_error);

/* The VM is this host's under this epoch: in its status and the runtime file. The record on the datastore is
 * owner_record.h's. */
int vm_set_epoch(struct vm *vm, uint64_t epoch, struct error **ret_error);
/* A handoff has settled that the VM is this host's, and its QEMU is gone: OUTGOING_DONE and INCOMING, which nobody else
 * may take for an end, become CRASHED. Nothing happens to others. */
void vm_set_ended(struct vm *vm, const char *message);

/* The guest is lost, for this reason: kills its QEMU. Its end is told like that of any other. */
int vm_end_lost(struct vm *vm, const char *reason, struct error **ret_error);

/* `cont` for an INCOMING guest whose state is loaded, or for a PAUSED / OUTGOING_DONE one that is taken back.
 * The caller has settled who owns the VM. On success the VM is RUNNING. */
int vm_continue(struct vm *vm, vm_done_fn done, void *userdata, struct error **ret_error);

/* The guest here may not run any more: OUTGOING_DONE, durably. Synchronous. */
int vm_set_handed_off(struct vm *vm, struct error **ret_error);

/* Asks QEMU for its run state again: while migration_vm_busy() the VM's power does not follow what QEMU does by
 * itself. To be called when a migration ended with the guest here. Where its RAM is, is asked too while that is not known. */
void vm_refresh(struct vm *vm);

/* Tells the network where the MACs are: QEMU's announce-self and our own RARP / gratuitous ARP on the switch.
 */
void vm_announce(struct vm *vm);
/* The same with another number of rounds than announce.h's default. */
void vm_announce_rounds(struct vm *vm, unsigned int n_rounds);
/* Announces a guest that a migration brought here until the network answers it, 5 s at most. */
void vm_arrive(struct vm *vm);
/* Ends that. */
void vm_leave_arrival(struct vm *vm);
/* What was seen of it: array of {"nic", "over", "asked", "from_guest_ns", "to_guest_ns", "answer_ns"} (CLOCK_REALTIME, 0: not yet), the
 * caller's; NULL: it did not come here so. */
json_t *vm_arrival_document(const struct vm *vm);
/* Begins to listen to the guest at its taps, where that is not done yet. Best effort. */
void vm_watch_guest(struct vm *vm);

/* After a handoff: ends QEMU (which does not hold the disks any more), waits until it is gone, removes taps
 * and runtime file, forgets the VM (event "vm-gone"). Never touches disk or folder. Also right when QEMU is
 * dead. */
int vm_release(struct vm *vm, vm_done_fn done, void *userdata, struct error **ret_error);
/* Destination that gives up: SIGKILL to QEMU, waits until it is gone, then taps and runtime file; the VM is
 * forgotten. `done` comes when no QEMU exists any more. */
int vm_discard_incoming(struct vm *vm, vm_done_fn done, void *userdata, struct error **ret_error);

/* What QEMU last said on stderr (from its log), for error messages: at most 400 bytes, one line; "" if
 * nothing. Returns ret. */
char *vm_last_words(const struct vm *vm, char ret[static 512]);
