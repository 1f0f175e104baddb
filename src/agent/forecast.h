/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a forecast is made of, measured on this host: how a guest changes its memory and what that is like, and what the paths
 * to other hosts carry. Both are done by processes of their own (drover-mover sample, compare, probe-source, probe-sink);
 * nothing here blocks. The forecast itself is made by the manager (cluster/forecast.h). */

#include "base/error.h"
#include "io/http_server.h"

struct agent;
struct forecasts;

int forecasts_new(struct agent *agent, struct forecasts **ret_forecasts);
/* Ends what is under way without an answer. Accepts NULL. */
void forecasts_free(struct forecasts *forecasts);
DEFINE_CLEANUP(struct forecasts *, forecasts_free)

/* POST /agent/v1/vms/UID/sample, POST /agent/v1/peer/probes and /comparisons (docs/internals/agent-api.md). */
void api_vm_sample(struct http_request *request, void *agent);
void api_peer_probe(struct http_request *request, void *agent);
void api_peer_compare(struct http_request *request, void *agent);
