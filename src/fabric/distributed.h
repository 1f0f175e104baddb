/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a distributed switch's document has beyond a standard one's, and what is known of it on this host: the version applied, and
 * its drift. Part of vswitch.c; ovs.h does the work. */

#include "fabric/ovs.h"

struct distributed;

/* Of a switch's document: {"type": "distributed", "version": N, "uplinks": [NIC, ...], "uplink_policy": "active-backup" |
 * "balance-slb" | "lacp", "bridge": NAME or null}, beside "name" and "mtu". BAD_DOCUMENT. */
int distributed_new(const json_t *body, struct distributed **ret_distributed, struct error **ret_error);
void distributed_free(struct distributed *distributed);
DEFINE_CLEANUP(struct distributed *, distributed_free)

/* Adds the same to a document. 0 or -ENOMEM. */
int distributed_describe(const struct distributed *distributed, json_t *document);

/* The administrator's bridge to be used as it is, or NULL. Borrowed, as the array of the uplinks' names. */
const char *distributed_adopts(const struct distributed *distributed);
const json_t *distributed_uplinks(const struct distributed *distributed);
/* Fills what is its own in a spec for ovs.h, with pointers into it. */
void distributed_fill(const struct distributed *distributed, struct ovs_spec *spec);

/* Whether the document is the other's, as far as a version goes: an agent is told the same one again and again. */
bool distributed_same_version(const struct distributed *distributed, const struct distributed *other);

/* After ovs_ensure(): it is applied. `differences`, unless they were `meant` (a change of the document), were drift, of which `left` could
 * not be mended. What comes back DISTRIBUTED_FIGHT times, within a minute each, is told as drift as well: somebody else wants it otherwise. unix_ms: now. Takes over both
 * arrays. */
#define DISTRIBUTED_FIGHT 3
void distributed_note(
        struct distributed *distributed, json_t *differences, json_t *left, bool meant, int64_t unix_ms);
/* The record of what was mended goes on in another one, for a document that was put again. */
void distributed_inherit(struct distributed *distributed, struct distributed *old);

/* Adds "type", "version" (applied), "uplinks", "uplink_policy", "drift" (sentences: what differs and could not be mended) and "mended"
 * ({"count", "at_unix_ms", "what": sentences} of the last time, or null). 0 or -ENOMEM. */
int distributed_add_status(const struct distributed *distributed, json_t *status);
