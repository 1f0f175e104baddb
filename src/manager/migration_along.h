/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What vm.migrate does more where the disks travel along to a datastore of the destination ("to_datastore" beside "to" in its input;
 * docs/decisions/0034): checks, the part of the specification, the document's new places, and the removal of what was left behind. */

#include <jansson.h>

#include "manager/operations.h"

#define MIGRATION_ALONG_TIMEOUT_MS ((json_int_t)24 * 3600 * 1000) /* where none is asked for */

struct manager;
struct task;

/* options: VmMigrate, or NULL. The VM as the rules of a migration are to see it: without the folder and the disks that travel along,
 * or the same; the caller's. CHECK_FAILED, CONFLICT, NOT_SUPPORTED: they cannot. */
int migration_along_check(struct manager *manager, const json_t *vm, const json_t *options, json_t **ret_rest,
        struct error **ret_error);
/* `disks` of the specification, the caller's; NULL: none travel along. */
json_t *migration_along_spec(const struct task *task);
bool migration_along(const struct task *task);
/* The destination has the VM: with the step's end the document names its places there. Negative: no memory. The first of the two
 * changes a document that the caller records. */
int migration_along_take_places(struct task *task, json_t *doc);
int migration_along_record(struct task *task, struct manager *manager);
/* Has the source remove what was left behind, if that is recorded; else, where the VM did not arrive, hears of the destination what stays there. True: it is being done, and `fn` is called when it is (or will not
 * be, which the result says); false: there is nothing to do (any more). */
bool migration_along_clear(struct task *task, struct manager *manager);
/* What a host's agent says of its sources that wait for a destination, [{"id", "peer"}] or NULL. Those that nobody else can tell any more, because
 * their task has ended and the destination is removed, are told to let go of what they keep of the guest. */
void migration_along_hear(struct manager *manager, const char *host_uid, const json_t *waiting);
/* What was left behind and is still there, in words; the caller's; NULL: nothing, as far as is known. */
char *migration_along_stays(const struct task *task);
/* {"datastore", "disks": [{"name", "from", "to"}], "left"} into the result. */
int migration_along_result(const struct task *task, json_t *result);
