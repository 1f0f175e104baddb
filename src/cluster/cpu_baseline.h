/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The CPU model that guests can have on all hosts of a cluster. Pure functions of what hosts offer
 * (docs/internals/agent-api.md: GET /agent/v1/cpu).
 *
 * A candidate is a versioned model, safe for migration, not deprecated, that lacks nothing on any host; under KVM it is also of
 * the hosts' vendor. The one with the most features wins. Only hosts of one accelerator are looked at: KVM where there is any
 * host with it. */

#include <jansson.h>

#include "base/error.h"

/* hosts: array of {"name", "cpu"}. {"accelerator", "model" (null: none), "reason" (why none), "features": [of the model], "spare":
 * [what all hosts offer besides], "kinds": [{"hosts": [names], "cpu_id", "lowers": {"model", "features": [what the model that would
 * be without these hosts has more]} or null, "lacks": [what all other kinds offer]}], "others": [hosts of another accelerator]},
 * the caller's; NULL without memory. */
json_t *cpu_baseline_compute(const json_t *hosts);

/* What it needs to make `model` (MODEL[,+f|,-f]...) the cluster's: {"hosts": [{"host", "missing": [features], or "unknown": true}]
 * that cannot have it, "vms": [{"vm", "host", "cpu_model", "more": [features that it has beyond the model], "follows": it takes the
 * cluster's at its next start, "suspended": what is in its memory needs it}] that run, or are suspended, with another}, the caller's; NULL without memory. vms: array of documents. */
json_t *cpu_baseline_plan(const json_t *hosts, const json_t *vms, const char *model);
