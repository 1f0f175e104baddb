/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Real QEMU processes for tests: made from a VM document with the command line and the QMP client of src/vmm, as
 * the agent does it. Disks, sockets and logs are in a temporary folder. Failures end the test. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>

#include "io/child.h"
#include "io/loop.h"
#include "vmm/command_line.h"
#include "vmm/qmp.h"

#define QEMU_LIMIT_MS 30000 /* for what takes a moment when the machine is not loaded */

struct qemu_guest {
        struct loop *loop;
        char folder[160]; /* of this process */
        struct vm_config *config;
        struct child *child;
        struct qmp *qmp;
        int memory_fd; /* /proc/PID/mem, with guest RAM at memory_address */
        uint64_t memory_address, memory_bytes;
        int tap_fds[VM_NICS_MAX];
        bool ready;
        bool lost;
        bool exited;
        bool failed; /* exited other than with code 0 */
        bool resumed;
        bool stopped;
        bool migration_ended; /* event MIGRATION with a final status */
        char migration_status[32];
};

/* A document as text with ' for ", images of its disks in `folder` (made if they are not there). `machine` is
 * the versioned machine; taps are made in the process's network namespace. */
void qemu_guest_start(struct qemu_guest *guest, struct loop *loop, const char *folder, const char *name,
        const char *document, const char *machine, bool incoming);
/* quit, and wait for the end with code 0. */
void qemu_guest_quit(struct qemu_guest *guest);
/* Kills what still runs and frees everything; harmless for a zeroed guest. */
void qemu_guest_free(struct qemu_guest *guest);

/* Runs a command; the answer is the caller's. `arguments` is taken over. */
json_t *qemu_guest_call(struct qemu_guest *guest, const char *command, json_t *arguments);
/* The same, with the answer thrown away. */
void qemu_guest_do(struct qemu_guest *guest, const char *command, json_t *arguments);
/* "running", "paused", ... as in query-status. */
void qemu_guest_assert_status(struct qemu_guest *guest, const char *status);
/* Asks until it is this. */
void qemu_guest_wait_status(struct qemu_guest *guest, const char *status);
/* Waits for the flag, or fails if QEMU dies before. */
void qemu_guest_wait(struct qemu_guest *guest, const bool *flag);

/* The binary under test: DROVER_QEMU in the environment, else that of the system. Destinations of migrations may
 * have another: DROVER_QEMU_DESTINATION. */
const char *qemu_binary_under_test(bool incoming);

/* Makes a temporary folder in TMPDIR; qemu_test_folder_free() removes it with its content. */
char *qemu_test_folder(void);
void qemu_test_folder_free(char *folder);
