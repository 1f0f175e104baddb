/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Versions of a distributed switch, in its document: "status" has "version" (the newest), "versions" ({"N": spec}: those that some host
 * has or may go back to), and "wanted" ({HOST: N}: which one each host has, once it was applied there). A host that has none yet gets the newest
 * one; another one keeps its version until it is upgraded. Standard switches have none of this. */

#include <jansson.h>

#include "base/error.h"

bool switch_is_distributed(const json_t *object);

/* The document's spec becomes its next version: the first one, or one more. 0 or -ENOMEM. */
int switch_versions_add(json_t *object);
/* The newest; 0 for a standard switch. */
json_int_t switch_versions_newest(const json_t *object);
/* Which one a host is to have. */
json_int_t switch_versions_wanted(const json_t *object, const char *host_name);
/* Its spec; NULL: there is no such version (any more). Borrowed. */
const json_t *switch_versions_spec(const json_t *object, json_int_t version);
/* The host has applied what its answer says. Only an upgrade changes which version a host has: other answers count for a host that has none yet, since they may
 * be from before an upgrade. 0 or -ENOMEM. */
int switch_versions_note(json_t *object, const char *host_name, const json_t *answer, bool upgraded);
/* The host is no more; one of that name that comes later is a new one. True: it had one. */
bool switch_versions_forget(json_t *object, const char *host_name);

/* What a host's agent is to be told of a switch; version 0: the one that it is to have. Of a version that is not
 * known any more, the newest. The caller's; NULL without memory. */
json_t *switch_body(const json_t *object, const char *host_name, json_int_t version);

/* The switch that a port group is on, on this host. Borrowed from its spec. */
const char *switch_of_group(const json_t *group_spec, const char *host_name);
