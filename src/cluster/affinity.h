/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Rules about where virtual machines run beside each other (docs/openapi.json: AffinityRule). Pure functions of documents.
 *
 *   keep-together   on one host
 *   keep-apart      on a host each
 *   run-on          on the hosts that are named only
 *   keep-off        not on them
 *
 * One that *must* be kept forbids what breaks it, one that *should* makes it a worse choice. */

#include <jansson.h>

#include "base/error.h"

#define AFFINITY_VMS_MAX 256
#define AFFINITY_HOSTS_MAX 5000
#define AFFINITY_RULES_MAX 5000
#define AFFINITY_NAMES_MAX 100000 /* VMs and hosts of all rules together */

/* Shape of a spec {"type", "mode", "vms", "hosts"}; fills in "mode" (must). BAD_DOCUMENT. */
int affinity_check_spec(json_t *spec, struct error **ret_error);

/* Whether the rule (document) can be kept with all others (array of documents) that must be; of those the one of its own name
 * is left out. CONFLICT naming the rules that contradict each other, also around a chain of several. */
int affinity_check_others(const json_t *rule, const json_t *others, struct error **ret_error);

/* What the rules mean for one VM, given where the others are: array of {"name", "must", "type", "hosts"} of the rules that name
 * it, the caller's; NULL without memory. hosts: {host: [names of the other VMs of the rule there]}, for run-on and keep-off
 * {host: []}. tasks: see struct checks_input; a VM on its way counts at both ends for keep-apart, else at its destination. */
json_t *affinity_of_vm(const json_t *rules, const json_t *vm, const json_t *vms, const json_t *tasks);

/* Why the VM cannot be on that host by one item of affinity_of_vm(): a sentence, the caller's. *ret_cause NULL: it can. 0 or
 * -ENOMEM. Where a group is apart already, it can go to where most of them are. */
int affinity_judge(const json_t *item, const char *host, char **ret_cause);

/* What breaks the rule (document) as the VMs are now: array of sentences, the caller's; NULL without memory. */
json_t *affinity_broken(const json_t *rule, const json_t *vms);
