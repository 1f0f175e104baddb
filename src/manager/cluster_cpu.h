/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The cluster's CPU model (docs/openapi.json: ClusterCpu): a policy, and what it means with the hosts that there are.
 *
 *   none    each VM whose spec.cpu_model is "auto" gets what its host gives by itself
 *   auto    it gets the best model that all hosts offer (cluster/cpu_baseline.h)
 *   MODEL   it gets that one
 *
 * VMs get it when they start; one that runs keeps what it has. */

#include <jansson.h>

#include "base/error.h"

struct manager;

/* The VM's document as it is to be started: itself, or a copy with the cluster's model in its spec; new, the caller's.
 * CHECK_FAILED when the policy asks for a model and there is none. */
int cluster_cpu_resolve(struct manager *manager, const json_t *vm, json_t **ret_vm, struct error **ret_error);
