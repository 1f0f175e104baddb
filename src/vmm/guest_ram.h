/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Where a QEMU has the guest's RAM in its own address space, and how to get at it from outside
 * (docs/decisions/0004-guest-ram-stays-anonymous.md). */

#include <sys/types.h>

#include "base/error.h"
#include "vmm/qmp.h"

/* Asks the monitor (`gpa2hva 0`, since QEMU 2.11) for the address of the guest's byte 0, which the whole block follows. The
 * answer holds for the life of the process. As qmp_command() otherwise. */
int guest_ram_ask(
        struct qmp *qmp, uint64_t timeout_ms, qmp_reply_fn reply, void *userdata, struct error **ret_error);
/* What the reply's result says. QEMU_FAILED when it is not understood. */
int guest_ram_read_reply(const json_t *reply, uint64_t *ret_address, struct error **ret_error);

/* The process's memory as a file for pread() and pwrite() (proc(5), /proc/pid/mem). The right to it is checked now and goes
 * with the descriptor, which is the caller's. DENIED without CAP_SYS_PTRACE or where yama's ptrace_scope is 3. */
int guest_ram_open(pid_t pid, int *ret_fd, struct error **ret_error);
