/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Shuts the process in: no privileges, no file system, no new sockets, no other process. Called by the main
 * thread once everything that needs more is open, and before it starts other threads, which inherit it. */

#include "base/error.h"
#include "mover/ram.h"

/* `listen_fds`: the only sockets on which accept4() stays allowed (n_listen_fds may be 0). `checkpoint_fd`: a file open for reading that may be read
 * anywhere, or -1. `ram`: the only other file, and its only range, on which
 * pread() stays allowed, and with write_ram pwrite(): of QEMU's address space nothing but the guest's memory can be
 * reached. */
int sandbox_enter(const int *listen_fds, size_t n_listen_fds, int checkpoint_fd, const struct ram *ram,
        bool write_ram, struct error **ret_error);
