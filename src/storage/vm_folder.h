/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A VM's folder on a datastore: vm.json (which marks it as ours), owner.json, nvram.fd, serial.log, disk images.
 * All functions may block (see datastore.h). */

#include <jansson.h>

#include "base/error.h"
#include "base/text.h"
#include "storage/datastore.h"

#define VM_FOLDER_DOC_MAX_BYTES (1024 * 1024)
#define VM_FOLDER_DOC "vm.json"
#define VM_FOLDER_OWNER "owner.json"
#define VM_FOLDER_OWNER_LOCK "owner.lock"
#define VM_FOLDER_NVRAM "nvram.fd"
#define VM_FOLDER_SERIAL_LOG "serial.log"

struct vm_folder {
        char *path; /* absolute */
        char *name; /* relative to the datastore */
        char uid[UUID_STRING_SIZE];
        int fd;
};

/* Makes folder NAME with `doc` (a VM document) as vm.json. A folder that exists without a vm.json and is
 * otherwise empty (a creation that broke off) is taken; EXISTS for one of another VM or with foreign files. With
 * the same uid it is opened and vm.json left as it is: a retried creation succeeds. */
int vm_folder_create(const struct datastore *datastore, const char *name, const char *uid, const json_t *doc,
        struct vm_folder **ret_folder, struct error **ret_error);
/* NOT_FOUND: no such folder; CONFLICT: it is not this VM's. */
int vm_folder_open(const struct datastore *datastore, const char *name, const char *uid,
        struct vm_folder **ret_folder, struct error **ret_error);
void vm_folder_free(struct vm_folder *folder);
DEFINE_CLEANUP(struct vm_folder *, vm_folder_free)

/* Removes the folder of this VM with everything in it; vm.json goes last, so that a deletion that broke off can be
 * repeated, also when only the empty folder is left. NOT_FOUND if it is gone, CONFLICT for a foreign one. Refused as by
 * vm_folder_check_owner() for `host` (a uid) and known_epoch, before anything is removed. Never follows symbolic links,
 * never crosses a mount. The caller has made sure that no host runs the VM. */
int vm_folder_delete(const struct datastore *datastore, const char *name, const char *uid, const char *host,
        uint64_t known_epoch, struct error **ret_error);

/* True if there is a folder NAME that holds anything but the records that drover writes by itself (vm.json, owner.json, owner.lock, nvram.fd,
 * serial.log): images, which a VM may be using, whosever they are. */
int vm_folder_holds_files(
        const struct datastore *datastore, const char *name, bool *ret_holds, struct error **ret_error);
/* Removes those records, vm.json last, and then the folder, unless something else is in it: that stays, with the folder. Otherwise as
 * vm_folder_delete(). */
int vm_folder_retire(const struct datastore *datastore, const char *name, const char *uid, const char *host,
        uint64_t known_epoch, struct error **ret_error);

/* The document; the caller's. */
int vm_folder_read_doc(const struct vm_folder *folder, json_t **ret_doc, struct error **ret_error);
/* Replaces it atomically and durably; its "uid" must be the folder's. */
int vm_folder_write_doc(const struct vm_folder *folder, const json_t *doc, struct error **ret_error);

struct vm_owner {
        char host[UUID_STRING_SIZE]; /* uid of the owning host; "" when nobody ever owned the VM */
        uint64_t epoch;              /* 0 then */
        int64_t since_unix_ms;
};
/* 0 and the record (all zero if there is none). A damaged record is an error (OWNER_UNKNOWN), never "none". */
int vm_folder_read_owner(
        const struct vm_folder *folder, struct vm_owner *ret_owner, struct error **ret_error);
/* Compare and swap, across hosts: under an exclusive lock, unless the record's epoch is later than known_epoch (the last
 * that the caller knows of), writes {host, epoch} durably. `epoch` must be greater than known_epoch. A record that is
 * already {host, epoch} is success (a repeated call after a crash). STALE_EPOCH: somebody took the VM meanwhile (the
 * message names who); BUSY: another host holds the lock right now, try again. */
int vm_folder_take_owner(const struct vm_folder *folder, const char *host, uint64_t known_epoch,
        uint64_t epoch, int64_t now_unix_ms, struct error **ret_error);
/* STALE_EPOCH if the record names another host than `host` with an epoch later than known_epoch: what the caller
 * knows of the VM is out of date. */
int vm_folder_check_owner(
        const struct vm_folder *folder, const char *host, uint64_t known_epoch, struct error **ret_error);

/* The same, and as long as the descriptor *ret_fd (the caller's) is open, nobody can take the VM: what is written meanwhile comes before the
 * next owner's epoch. Also BUSY, and OWNER_UNKNOWN: this host sees an old record. */
int vm_folder_lock_owner(const struct vm_folder *folder, const char *host, uint64_t known_epoch, int *ret_fd,
        struct error **ret_error);

/* The same, but waits for 1 s at most for another host that changes, or reads, the record, which takes it some milliseconds. */
int vm_folder_wait_lock_owner(const struct vm_folder *folder, const char *host, uint64_t known_epoch,
        int *ret_fd, struct error **ret_error);

/* Makes nvram.fd as a copy of the firmware's variable template (such as /usr/share/OVMF/OVMF_VARS_4M.fd) unless it
 * exists. Never half-written. */
int vm_folder_make_nvram(const struct vm_folder *folder, const char *template_path, struct error **ret_error);

/* Opens serial.log for appending (made if needed); the descriptor is the caller's. */
int vm_folder_open_serial_log(const struct vm_folder *folder, int *ret_fd, struct error **ret_error);
/* The last at most max_bytes of it, as valid text (bytes that are no UTF-8 become '?'); "" if there is none. */
int vm_folder_read_serial_log(
        const struct vm_folder *folder, size_t max_bytes, char **ret_text, struct error **ret_error);

/* "PATH/NAME" of a file in the folder; the caller's; NULL without memory. */
char *vm_folder_file_path(const struct vm_folder *folder, const char *name);
