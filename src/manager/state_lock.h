/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One manager a state directory: two would both lead, or take the lead from each other. */

#include "base/error.h"

/* Locks it for this process, until *ret_fd, which is the caller's, is closed. CONFLICT: another manager runs on it (it is waited for as
 * file_lock() does); NOT_FOUND: there is no such directory; DENIED: this user may not write there; else what the
 * system said about it. */
int state_lock(const char *state_dir, int *ret_fd, struct error **ret_error);
