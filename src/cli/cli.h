/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a command is run with: where output goes and how, the server, and how long to wait. Every command of
 * the table is a function of this header's type, in command_NOUN.c. */

#include <jansson.h>

#include "base/clock.h"
#include "cli/api.h"
#include "cli/arguments.h"
#include "cli/settings.h"

enum output_format { OUTPUT_TABLE, OUTPUT_JSON, OUTPUT_YAML, N_OUTPUT_FORMATS };

struct cli {
        FILE *in;               /* a terminal at which questions can be answered; NULL: nobody is there */
        FILE *out;              /* documents and tables */
        FILE *err;              /* progress and messages */
        unsigned int width;     /* columns of the terminal that `out` is; 0: not a terminal, nothing is cut */
        unsigned int err_width; /* likewise of `err`, whose line progress then rewrites */
        enum output_format format;
        bool no_wait;
        bool quiet;
        uint64_t wait_limit_ms; /* 0: none */
        const struct clock *clock;
        struct settings settings;
        struct api *api; /* NULL for offline commands */
        enum exit_status
                status; /* of a command that succeeded in finding something bad: DONE unless it says so */
};

#define COMMAND_FUNCTIONS(X) \
        X(host_list) \
        X(host_show) \
        X(host_add) \
        X(host_enrol_token) \
        X(host_confirm_down) \
        X(host_label) \
        X(host_maintenance) \
        X(host_remove) \
        X(vm_list) \
        X(vm_show) \
        X(vm_create) \
        X(vm_start) \
        X(vm_stop) \
        X(vm_pause) \
        X(vm_resume) \
        X(vm_suspend) \
        X(vm_delete) \
        X(vm_console) \
        X(vm_advise) \
        X(vm_forecast) \
        X(vm_migrate) \
        X(vm_disk_resize) \
        X(vm_snapshot_create) \
        X(vm_snapshot_list) \
        X(vm_snapshot_show) \
        X(vm_snapshot_revert) \
        X(vm_snapshot_delete) \
        X(vm_import) \
        X(vm_export) \
        X(vm_import_disk) \
        X(vm_export_disk) \
        X(task_list) \
        X(task_show) \
        X(task_watch) \
        X(task_cancel) \
        X(queue_show) \
        X(queue_drain) \
        X(queue_resume) \
        X(schedule_list) \
        X(schedule_show) \
        X(schedule_create) \
        X(schedule_next) \
        X(schedule_run) \
        X(schedule_pause) \
        X(schedule_resume) \
        X(schedule_delete) \
        X(datastore_list) \
        X(datastore_show) \
        X(datastore_add) \
        X(datastore_set) \
        X(datastore_maintenance) \
        X(datastore_remove) \
        X(network_list) \
        X(network_switch_list) \
        X(network_switch_add) \
        X(network_switch_show) \
        X(network_switch_set) \
        X(network_switch_upgrade) \
        X(network_switch_remove) \
        X(network_port_group_list) \
        X(network_port_group_add) \
        X(network_port_group_remove) \
        X(affinity_list) \
        X(affinity_show) \
        X(affinity_add) \
        X(affinity_remove) \
        X(pool_list) \
        X(pool_show) \
        X(pool_create) \
        X(pool_set) \
        X(pool_delete) \
        X(cluster_cpu) \
        X(login) \
        X(logout) \
        X(whoami) \
        X(user_list) \
        X(user_show) \
        X(user_create) \
        X(user_grant) \
        X(user_revoke) \
        X(user_disable) \
        X(user_enable) \
        X(user_password) \
        X(user_delete) \
        X(role_list) \
        X(role_show) \
        X(role_permissions) \
        X(role_create) \
        X(role_set) \
        X(role_delete) \
        X(token_list) \
        X(token_create) \
        X(token_revoke) \
        X(audit_list) \
        X(audit_verify) \
        X(audit_export) \
        X(api) \
        X(events) \
        X(version) \
        X(completion) \
        X(man) \
        X(help) \
        X(names)
#define X(name) \
        int command_##name(struct cli *cli, const struct arguments *arguments, struct error **ret_error);
COMMAND_FUNCTIONS(X)
#undef X
