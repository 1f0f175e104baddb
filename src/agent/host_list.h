/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A list of other hosts that the manager keeps up to date on each agent, on disk as STATE-DIR/NAME.json. There are two:
 *
 * removed-hosts: those that were removed from the cluster. Their certificates are valid until they end, so the agent is told
 * to take no new migration from them. What was begun before is still settled with them: the virtual machine's fate must
 * not depend on the inventory.
 *
 * fenced-hosts: those that are known to be down, with all that ran there. A migration that waits for such a peer is
 * settled without it (docs/handoff.md). */

#include <jansson.h>

#include "base/error.h"

struct host_list;

/* Reads the list that was kept; none: empty. */
int host_list_new(
        const char *state_dir, const char *name, struct host_list **ret_list, struct error **ret_error);
void host_list_free(struct host_list *list);
DEFINE_CLEANUP(struct host_list *, host_list_free)

/* Replaces the list by that of the document {"hosts": [UID, ...]}, durably. BAD_DOCUMENT for anything else. */
int host_list_set(struct host_list *list, const json_t *document, struct error **ret_error);

bool host_list_has(const struct host_list *list, const char *host_uid);
