/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The agent's configuration file (INI; man page drover-agent.conf(5)) and what follows from it. */

#include "base/error.h"
#include "base/log.h"
#include "base/macros.h"

#define AGENT_PORT 8444

/* All strings are owned and never NULL after agent_config_load() unless said otherwise. */
struct agent_config {
        char *name;        /* of the host; default: host name without the domain */
        char *listen;      /* "0.0.0.0:8444" */
        char *state_dir;   /* durable: identity, epoch, journals, configured switches */
        char *runtime_dir; /* until the next boot: sockets, runtime files of VMs */
        char *qemu;        /* qemu-system-x86_64 */
        char *mover;       /* drover-mover */
        char *migration_address; /* addresses that data connections use, with commas between; NULL: that of `listen`, or
                                    the API's peer */
        char *accelerator; /* "auto", "kvm", "tcg" */
        char *ovmf_code;
        char *ovmf_vars;
        char *cgroup_root;      /* relative to /sys/fs/cgroup, or absolute */
        char *checkpoint_space; /* size, as text_parse_size() takes it; 0: no checkpoints */
        char *checkpoint_hours; /* number */
        char *sibling_space;    /* size: pages that guests of one tenant share when they come here; 0: none */
        char *disks_along;      /* "yes", "no": takes part in migrations that take the disks along */
        char *openvswitch;      /* socket of Open vSwitch's database */
        enum log_level log_level;
};

/* Defaults only. 0 or -ENOMEM. */
int agent_config_init(struct agent_config *config);
/* Reads `path` over the defaults; `optional`: a missing file is no error. Unknown sections, keys and bad
 * values are refused with file and line. *ret is untouched on failure. */
int agent_config_load(const char *path, bool optional, struct agent_config *ret, struct error **ret_error);
void agent_config_deinit(struct agent_config *config);
#define _cleanup_agent_config_ _cleanup_(agent_config_deinit)
