/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The QEMU command line of a VM. A pure function of the VM document and of what this host adds to it
 * (struct command_line_env): the same document gives the same devices with the same ids at the same addresses
 * on every host, which is what a migration stands on (qemu.md section 2). The layout is in the comment on top
 * of command_line.c.
 *
 * QEMU always starts with stopped vCPUs (-S): the agent continues the guest after it has written the owner
 * record. A guest that powers off ends the process with exit code 0 (and a SHUTDOWN event before). */

#include "base/error.h"
#include "base/macros.h"
#include "vmm/vm_config.h"

#define COMMAND_LINE_RAM_ID "pc.ram" /* id of the RAM backend, hence name of the block in the stream */
#define COMMAND_LINE_NODE_SIZE 32    /* QEMU's limit for a node name, with the NUL */

struct command_line_disk {
        const char *path; /* absolute */
        bool direct;      /* O_DIRECT: where the file system has it, and always on shared storage */
};

struct command_line_nic {
        int tap_fd;   /* number of the tap's descriptor in the child */
        int vhost_fd; /* the same for /dev/vhost-net; -1: none */
};

/* Strings are borrowed for the call. Paths are absolute. */
struct command_line_env {
        const char *qemu_binary;
        const char *machine;             /* versioned */
        enum vm_accelerator accelerator; /* KVM or TCG */
        const char *cpu_model;           /* resolved, not "auto" */
        uint64_t memory_bytes;           /* in effect; see command_line_effective_memory() */

        const struct command_line_disk *disks; /* one for each disk of the document, in order */
        size_t n_disks;
        const struct command_line_nic *nics; /* one for each NIC of the document, in order */
        size_t n_nics;
        const char *cdrom_path; /* these are needed exactly when the document has the thing */
        const char *kernel_path;
        const char *initrd_path;
        const char *ovmf_code_path; /* UEFI */
        const char *nvram_path;     /* UEFI */

        const char *qmp_socket; /* QEMU listens on these; stale files must be gone */
        const char *serial_socket;
        const char *serial_log;         /* appended to */
        const char *vnc_socket;         /* NULL: no VNC */
        const char *guest_agent_socket; /* needed when the document has a guest agent */

        bool incoming; /* -incoming defer: the agent sends migrate-incoming */
        bool sandbox;  /* QEMU's own seccomp filter */
};

/* Makes the NULL-terminated argument vector, argv[0] included. Each host adds only paths, descriptors,
 * accelerator and -incoming. BAD_DOCUMENT when the document lacks what a running VM needs (uid, MACs) or does
 * not go with the machine; INTERNAL when env does not match the document. The caller frees it with
 * command_line_free(). */
int command_line_build(const struct vm_config *config, const struct command_line_env *env, char ***ret_argv,
        struct error **ret_error);
void command_line_free(char **argv);
DEFINE_CLEANUP(char **, command_line_free)

/* RAM size to use: QEMU before 9.0 loses dirty pages under TCG when the size is a multiple of 256 KiB, so it is
 * raised by 8 KiB there (fixed in QEMU by 03bfc2188f, "physmem: Fix migration dirty bitmap coherency with TCG
 * memory access"). A rarer loss stays: pages that are written all the time were stale after 2 of 75 migrations of
 * 7.2 in test_migrate_plain.c. So such guests need the mover's verification as well. */
uint64_t command_line_effective_memory(
        uint64_t memory_bytes, enum vm_accelerator accelerator, unsigned int qemu_major);

/* Block node that disk number `index` of the document (from 0) is attached by: "disk3"; its file node is
 * "disk3-file", its device "dev-disk3". */
char *command_line_disk_node(size_t index, char ret[static COMMAND_LINE_NODE_SIZE]);
/* Whether `qdev`, as query-block names a device, is the device of that disk: its id, alone or within a path of QEMU's object model. */
bool command_line_is_disk_device(const char *qdev, size_t index);
