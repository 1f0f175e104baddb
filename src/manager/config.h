/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Settings of drover-manager: an INI file with one section, [manager]. */

#include "base/error.h"
#include "base/log.h"
#include "cluster/queue.h"

#define CONFIG_PATH "/etc/drover/manager.conf"

struct config {
        char *listen;                     /* listen: "0.0.0.0:8443" */
        char *state_dir;                  /* state-dir: "/var/lib/drover/manager" */
        char *store;                      /* store: for store_open(); NULL: SQLite in the state directory */
        char *name;                       /* name: of this manager, for people; the host's name */
        enum log_level log_level;         /* log-level: info */
        uint64_t task_retention;          /* task-retention: ended tasks kept, 10000 */
        const char *program;              /* that checks passwords: this one */
        uint64_t request_rate;            /* request-rate: of each caller a second, 1000; 0: no limit */
        uint64_t audit_retention;         /* audit-retention: audit entries kept, 1000000 */
        uint64_t audit_retention_days;    /* audit-retention-days: younger ones are kept beyond that, 90 */
        struct queue_limits queue_limits; /* host-cost-limit and its neighbours; priority-step in seconds */
};

/* Defaults, then the file. A missing file is an error only when `must_exist`. Unknown keys are refused. */
int config_load(const char *path, bool must_exist, struct config *ret_config, struct error **ret_error);
void config_deinit(struct config *config);
