/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The audit log: who did what, when, why, with what result; of people and of the system itself. Append-only and
 * hash-chained: each entry holds the hash of the one before it, hash = SHA-256 of the entry's canonical JSON text
 * (keys sorted, compact) without "hash". Entries are written in the transaction of what they tell about. */

#include <jansson.h>

#include "base/clock.h"
#include "base/error.h"
#include "manager/store.h"

struct audit_entry {
        const char *who;    /* token's name, "system", or "anonymous" */
        const char *from;   /* address of the caller; may be NULL */
        const char *action; /* "vm.migrate" */
        const char *object; /* "vm/web1"; may be NULL */
        const char *why;    /* what the caller gave as reason; may be NULL */
        const char *result; /* accepted, done, failed, cancelled, denied, alert */
        json_t *detail;     /* borrowed; may be NULL */
};

/* Adds the entry to a batch; more than one to the same batch is fine (the head is found in the batch). */
int audit_add(struct store *store, const struct clock *clock, struct store_batch *batch,
        const struct audit_entry *entry, struct error **ret_error);

/* The same as a transaction of its own. */
int audit_write(struct store *store, const struct clock *clock, const struct audit_entry *entry,
        struct error **ret_error);

/* Recomputes each hash from the oldest retained entry to what was the newest one when it began, a few at a time: at a million entries
 * that takes a minute, which the event loop has not got at once. */
struct audit_verification;
int audit_verification_new(
        struct store *store, struct audit_verification **ret_verification, struct error **ret_error);
void audit_verification_free(struct audit_verification *verification);
DEFINE_CLEANUP(struct audit_verification *, audit_verification_free)
/* Looks at up to n_entries more. 1: there are more; 0: it is finished. */
int audit_verification_step(
        struct audit_verification *verification, size_t n_entries, struct error **ret_error);
/* As in docs/openapi.json (AuditVerdict), the caller's; NULL without memory. For one that is finished. */
json_t *audit_verification_verdict(const struct audit_verification *verification);

/* All of it at once, for who has no event loop. */
int audit_verify(struct store *store, json_t **ret_verdict, struct error **ret_error);

/* Forgets the oldest entries beyond `keep` that are of before young_unix_ms, so that nobody can push out in a day what matters by
 * making entries; and those beyond AUDIT_KEEP_FACTOR times `keep`, however young. The anchor remembers where the chain now starts. */
#define AUDIT_KEEP_FACTOR 10
int audit_trim(struct store *store, uint64_t keep, int64_t young_unix_ms, struct error **ret_error);
