/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Shuts the process in: no privileges, no file system, no new sockets, no other process. Called by the main
 * thread once everything that needs more is open, and before it starts other threads, which inherit it. */

#include "base/error.h"

/* `listen_fd`: the one socket on which accept4() stays allowed, or -1. */
int sandbox_enter(int listen_fd, struct error **ret_error);
