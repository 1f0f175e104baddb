/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A cgroup (v2) for each VM under one root, with limits of memory, processors and processes, and one for movers. Where the host has no
 * cgroup v2, or no right to it, VMs run without and the status says why. */

#include "base/error.h"
#include "base/macros.h"

struct cgroup;

/* `root` is relative to the v2 mount ("drover.slice"), or absolute. Fails only without memory. */
int cgroup_new(const char *root, struct cgroup **ret_cgroup);
void cgroup_free(struct cgroup *cgroup);
DEFINE_CLEANUP(struct cgroup *, cgroup_free)

/* cgroup.procs of the group for data movers, which weighs as much as guests with ten vCPUs; NULL where there is none. */
const char *cgroup_movers(const struct cgroup *cgroup);
bool cgroup_available(const struct cgroup *cgroup);
/* "cgroup v2 at /sys/fs/cgroup/drover.slice: memory, cpu, pids", or why there is none. */
const char *cgroup_status(const struct cgroup *cgroup);

/* Makes (or finds) the VM's group and sets its limits: guest RAM plus room for QEMU itself, and the processes that
 * its threads need; the CPU weight follows the number of vCPUs. *ret_procs: path of cgroup.procs, the caller's; NULL
 * where there is none. */
int cgroup_make(const struct cgroup *cgroup, const char *vm_uid, uint64_t memory_bytes, unsigned int cpus,
        char **ret_procs, struct error **ret_error);
/* Removes the group of a VM whose processes are gone; harmless if there is none. */
void cgroup_remove(const struct cgroup *cgroup, const char *vm_uid);
