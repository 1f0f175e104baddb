/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Backups of everything that a manager has: its store, and its certificate authority. One text file of JSON lines, the same for both
 * kinds of store, so that it is also the way from one to the other (docs/backup.md has the form). It holds secrets: mode 0600. */

#include "base/clock.h"
#include "base/error.h"
#include "manager/config.h"
#include "manager/store.h"

/* Writes everything as of one moment, also beside a running manager. EXISTS when there is such a file. */
int backup_write(struct store *store, const struct config *config, const struct clock *clock,
        const char *path, struct error **ret_error);

/* Replaces everything in the store, which this process must lead, by what the file has, in one transaction, after all of the file
 * was read and found whole (BAD_DOCUMENT). What was under way then ends as failed; an audit entry is added. Where the state
 * directory has no authority yet, it gets the file's, with a manager's certificate for `addresses` (NULL-terminated; none: those
 * of the manager that wrote it); where it has another one: CONFLICT, and nothing is changed. */
int backup_restore(struct store *store, const struct config *config, const struct clock *clock,
        const char *path, const char *const *addresses, struct error **ret_error);
