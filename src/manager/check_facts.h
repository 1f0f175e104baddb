/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the checks (cluster/checks.h) and the ranking of hosts look at, as the manager knows it now. */

#include <jansson.h>

#include "base/error.h"
#include "cluster/checks.h"

struct manager;
struct task;

struct check_facts {
        json_t *vm; /* the document that is asked about */
        json_t *its_host;
        json_t *vms; /* those that the checks could find something about */
        json_t *hosts, *tasks, *reserved, *datastores, *switches, *port_groups, *affinity_rules, *cpus;
        json_t *pools;               /* NULL for a move */
        const json_t *source, *home; /* as in struct checks_input; `its_host`, or `nowhere` */
        json_t *nowhere;
        const char *asking;        /* name of the task that asks, its own; NULL: none */
        const char *reopening;     /* as in struct checks_input; the task's own */
        json_t *jobs;              /* NULL: none */
        json_t *reserved_disks;    /* of the creation that asks; NULL: it is none */
        const json_t *provisioned; /* the same; the inventory's */
};

/* Of a VM (document) and all hosts. moves: it is to leave the host that it runs on (then `source` is that host, or an empty
 * document while it is on none); else to be started, and `home` is where it was. asking: the task that asks, which is in
 * nobody's way; may be NULL. */
int check_facts_load(struct manager *manager, const json_t *vm, bool moves, const struct task *asking,
        struct check_facts *ret_facts, struct error **ret_error);
/* The same of a move to one host, by name or uid: `hosts` has only that one, or nothing when there is none; of processors only those
 * of both hosts are known. Its cost does not grow with the number of hosts. */
int check_facts_load_move(struct manager *manager, const json_t *vm, const char *to,
        const struct task *asking, struct check_facts *ret_facts, struct error **ret_error);
/* For many VMs, one after the other: what is the same for all of them is collected once, with check_facts_of() for each one that is
 * to leave its host. What was collected holds until the next event; `asking` must be queued, so that it brings nothing anywhere yet. */
int check_facts_load_cluster(
        struct manager *manager, struct check_facts *ret_facts, struct error **ret_error);
int check_facts_of(struct manager *manager, const struct check_facts *cluster, const json_t *vm,
        const struct task *asking, struct check_facts *ret_facts, struct error **ret_error);
void check_facts_deinit(struct check_facts *facts);
#define _cleanup_check_facts_ _cleanup_(check_facts_deinit)

/* Whether the task brings a guest to a host that does not count its memory yet: *ret_host_uid and *ret_vm (document), borrowed.
 * Host facts lag behind by up to a heartbeat; what is decided in between must be added to them. */
bool check_facts_brings_memory(const struct manager *manager, const struct task *task,
        const char **ret_host_uid, const json_t **ret_vm);

/* What is taken for done already; borrowed. */
struct check_assumptions {
        const json_t *reserved; /* {host uid: {"memory_bytes", "cpus"}}: more that is on its way; or NULL */
        const char *reopening;  /* the host that this task has closed is open again; or NULL */
};
/* Adds one more VM (document) that is on its way to the host (document) to those sums, so that the next one is judged with it there. -ENOMEM. */
int check_facts_reserve(json_t *reserved, const json_t *host, const json_t *vm);
/* assumptions: may be NULL, and must live as long as the facts. -ENOMEM. */
int check_facts_assume(struct check_facts *facts, const struct check_assumptions *assumptions);

/* For the functions of cluster/; borrows the facts. */
struct checks_input check_facts_input(const struct check_facts *facts);

/* The host's document with its live facts, by name or uid, borrowed; NULL. */
const json_t *check_facts_host(const struct check_facts *facts, const char *name_or_uid);
