/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Hosts that were removed from the cluster. Their certificates are valid until they end; the manager gives each agent the
 * list of those hosts (PUT /agent/v1/removed-hosts), and the agent takes no new migration from them. What was begun before
 * is still settled with them: the virtual machine's fate must not depend on the inventory. Kept in
 * STATE-DIR/removed-hosts.json. */

#include <jansson.h>

#include "base/error.h"

struct removed_hosts;

/* Reads the list that was kept; none: empty. */
int removed_hosts_new(const char *state_dir, struct removed_hosts **ret_removed, struct error **ret_error);
void removed_hosts_free(struct removed_hosts *removed);
DEFINE_CLEANUP(struct removed_hosts *, removed_hosts_free)

/* Replaces the list by that of the document {"hosts": [UID, ...]}, durably. BAD_DOCUMENT for anything else. */
int removed_hosts_set(struct removed_hosts *removed, const json_t *document, struct error **ret_error);

bool removed_hosts_has(const struct removed_hosts *removed, const char *host_uid);
