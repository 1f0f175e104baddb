/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The ownership journal: one append-only file per migration and side. What it says was on disk before anybody
 * acted on it (fdatasync), which is what lets two agents decide after any crash who owns a VM
 * (docs/handoff.md).
 *
 * A line is `CHECK JSON\n`; CHECK is the first 16 hex digits of the SHA-256 of the JSON text. A torn last
 * line (a crash in the middle of the write) is dropped when the file is opened again. */

#include <jansson.h>

#include "base/error.h"
#include "base/text.h"

#define JOURNAL_MAX_BYTES (512 * 1024)

struct journal;

/* Creates the file FOLDER/ID.VM-UID.journal with its first record, and makes the entry in the folder durable. The VM is in
 * the name so that it is known even when what is inside cannot be read. -EEXIST when there is one already. */
int journal_create(const char *folder, const char *id, const char *vm_uid, const json_t *first,
        struct journal **ret_journal, struct error **ret_error);

/* Opens an existing one; a torn line at the end is cut off, damage before the end is an error (nothing is guessed about
 * ownership). NOT_FOUND: even the first record was never finished, so nobody ever acted on this journal. */
int journal_open(const char *folder, const char *id, const char *vm_uid, struct journal **ret_journal,
        struct error **ret_error);

/* Appends an object and returns once it is on disk. After a failure the record may be on disk or not, until the next call,
 * which takes it back first: so the same record or another one can be tried again. Room for a migration's records is
 * reserved when the journal is created: a disk that fills up later does no harm. */
int journal_append(struct journal *journal, const json_t *record, struct error **ret_error);

/* Borrowed: array of all records, the first is the one given to journal_create(). */
const json_t *journal_records(const struct journal *journal);

/* Closes; the file stays. Accepts NULL. */
void journal_free(struct journal *journal);
DEFINE_CLEANUP(struct journal *, journal_free)

/* Removes the file of a settled migration. */
int journal_remove(const char *folder, const char *id, const char *vm_uid);

/* Calls fn for each journal in the folder (for recovery). 0 or negative errno. */
int journal_for_each(
        const char *folder, void (*fn)(void *userdata, const char *id, const char *vm_uid), void *userdata);
