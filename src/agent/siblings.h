/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Memory that the movers of one tenant's guests share, so that what several guests have in common travels once
 * (docs/protocol.md, SIBLINGS): at the destination the pages that came (mover/page_store.h), at the source which contents were
 * sent (mover/page_claims.h). Two guests are of one tenant when their label `tenant` has the same value; without it nothing is
 * shared. The destination decides: it makes the key of the digests, which the source gets in the answer to
 * its request. Nothing outlives the agent, and what was not asked for for some minutes is given back. */

#include "base/error.h"
#include "io/loop.h"

#define SIBLING_KEY_HEX 64
#define SIBLING_LABEL "tenant"

struct siblings;

/* max_bytes: of pages kept for each tenant; 0: nothing is shared with guests that come here. 0 or -ENOMEM. */
int siblings_new(struct loop *loop, uint64_t max_bytes, struct siblings **ret_siblings);
void siblings_free(struct siblings *siblings);
DEFINE_CLEANUP(struct siblings *, siblings_free)

/* Pages of a tenant (NULL: none); `ret_fd` is borrowed until the loop runs again. -EOPNOTSUPP: nothing is shared; errors of making
 * it. */
int siblings_open_store(
        struct siblings *siblings, const char *tenant, int *ret_fd, char ret_key[static SIBLING_KEY_HEX + 1]);
/* What was sent to the store with this key at host `peer_uid`. */
int siblings_open_claims(struct siblings *siblings, const char *peer_uid, const char *key, int *ret_fd);
