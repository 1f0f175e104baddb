/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The one operation under way on a VM, and what vm*.c share among themselves. */

#include "agent/vm.h"

struct crash_hold;
struct disk_work;
struct image_job;
struct migration_setup;
struct owner_record_change;
struct qmp_call;
struct stores_wait;
struct vm_restore;
struct vm_suspend;

enum vm_job_kind {
        VM_JOB_START,
        VM_JOB_INCOMING,
        VM_JOB_STOP,
        VM_JOB_PAUSE,
        VM_JOB_CONTINUE,
        VM_JOB_STREAM,
        VM_JOB_RELEASE,
        VM_JOB_DISCARD,
        VM_JOB_SUSPEND,
        VM_JOB_RESTORE,
        VM_JOB_DISKS,
        N_VM_JOB_KINDS,
};

struct vm_job {
        struct vm *vm;
        enum vm_job_kind kind;
        vm_done_fn done;
        vm_stream_fn stream_done; /* VM_JOB_STREAM only, instead of `done` */
        void *userdata;

        /* Whatever it waits for; freed with it. */
        struct loop_source *timer;
        struct qmp_call *call;
        struct migration_setup *setup;
        struct stores_wait *wait;
        struct owner_record_change *owner;
        struct vm_suspend *suspend;
        struct vm_restore *restore;
        struct disk_work *disks;
        struct crash_hold *hold;

        struct move_record
                *left_record; /* of a storage migration: to be cleared when the VM is ours; or NULL */

        bool force;
        bool post_copy;       /* of VM_JOB_INCOMING */
        bool discard_state;   /* of VM_JOB_START: of a VM that is suspended, too */
        bool clear_record;    /* likewise: nobody else was given what left_record lists */
        bool ending;          /* QEMU is being killed; when it is gone the job ends with `error` */
        struct error *error;  /* why a start is being undone */
        enum vm_power before; /* what to fall back to when a start fails */
        int stream_fd;        /* -1; our end, until it is handed over */
        int qemu_fd;          /* -1; of VM_JOB_STREAM, see vm_stream_fn */
};

/* BUSY when another is under way. */
int vm_job_begin(
        struct vm *vm, enum vm_job_kind kind, vm_done_fn done, void *userdata, struct error **ret_error);
/* Frees the job and calls `done`; `error` is taken over. The VM may be gone afterwards. */
void vm_job_end(struct vm *vm, struct error *error);
/* The same, but from the loop's next round (for what would otherwise end inside the call that began it). */
int vm_job_end_later(struct vm *vm);
/* Gives up what it waits for from the monitor: before that is closed. */
void vm_job_leave_monitor(struct vm *vm);
/* Without a call of `done`: the agent ends. */
void vm_job_drop(struct vm *vm);

/* vm.c */
int vm_new(
        struct agent *agent, struct vm_config *config, struct vm **ret_vm); /* config is taken on success */
void vm_free(struct vm *vm);   /* leaves QEMU running; not in the registry any more */
void vm_forget(struct vm *vm); /* runtime file, cgroup, registry; event "vm-gone"; frees it */
void vm_set_power(struct vm *vm, enum vm_power power, const char *message_or_null);
void vm_changed(struct vm *vm); /* writes the runtime file and publishes the document */
char *vm_runtime_path(const struct vm *vm, const char *file_or_null);

/* vm_resources.c */
int vm_spawn(struct vm *vm, bool incoming, struct error **ret_error);
int vm_open_folder(struct vm *vm, struct error **ret_error);
/* The file's file system takes O_DIRECT. */
bool vm_takes_direct(int fd);
/* Names of the datastores that it uses, each once; the array is the caller's, the names are the config's. */
int vm_store_names(const struct vm_config *config, const char ***ret_names, size_t *ret_n_names);
/* Closes and removes all that belonged to a QEMU that is gone. */
void vm_clear_process(struct vm *vm);

/* vm_monitor.c */
int vm_connect(struct vm *vm, struct error **ret_error);
void vm_on_exit(void *userdata, const struct child_result *result);
int vm_kill(struct vm *vm);

/* vm_start.c: steps that vm_monitor.c triggers */
void vm_start_connected(struct vm *vm);
void vm_start_failed(struct vm *vm, struct error *error);          /* taken over */
void vm_start_fail_with(struct vm *vm, const struct error *cause); /* the same, borrowed */
int vm_start_begin(struct agent *agent, struct vm_config *config, enum vm_job_kind kind, vm_done_fn done,
        void *userdata, struct vm **ret_vm, struct error **ret_error); /* config is taken over */
/* The document as a config that may be started here now. */
int vm_start_parse(
        struct agent *agent, const json_t *document, struct vm_config **ret_config, struct error **ret_error);
/* What a guest that comes with its memory needs can be had here. */
int vm_start_check_incoming(struct agent *agent, struct vm_config *config, struct error **ret_error);
int vm_start_qemu(struct vm *vm, struct error **ret_error);
/* All that the guest needs is there: owner record, `cont`. */
void vm_start_finish(struct vm *vm);
void vm_start_owner_taken(void *userdata, uint64_t epoch, struct error *error); /* of a `struct vm` */
/* A claim of the owner record was, or may have been, under way: its epoch counts as taken. No QEMU is left. */
void vm_claim_is_unclear(struct vm *vm);
/* A start that an earlier agent began and did not finish; no QEMU is left of it. STARTING becomes STOPPED, or what it was before a
 * resumption of which nothing was done. */
void vm_start_broke_off(struct vm *vm);

/* vm_state.c */
int vm_state_write(const struct vm *vm, struct error **ret_error);
void vm_state_remove(const struct vm *vm);
/* Makes the VM that the file describes. BAD_DOCUMENT: it makes no sense; any other error may pass. */
int vm_state_read(struct agent *agent, const char *path, struct vm **ret_vm, struct error **ret_error);
