/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What is said at the end of a task that succeeded, for people. */

#include "cli/cli.h"

/* One line for most actions; the migration report for vm.migrate. */
int report_task(const struct cli *cli, const json_t *task, struct error **ret_error);

/* The report alone, from a MigrationResult. */
int report_migration(const struct cli *cli, const char *vm, const json_t *result, struct error **ret_error);

/* The checks before a migration, failed ones with their way out, and the ranking of destinations. */
int report_checks(const struct cli *cli, const json_t *report, struct error **ret_error);

/* All hosts for a virtual machine, from an Advice. */
int report_advice(const struct cli *cli, const json_t *advice, struct error **ret_error);
/* The datastores that the disks of a virtual machine could go to, with the reasons. */
int report_disk_advice(const struct cli *cli, const json_t *advice, struct error **ret_error);

/* The result is a MovesReport. */
bool report_has_moves(const json_t *result);
/* A line for each virtual machine, from a MovesReport. */
int report_moves(const struct cli *cli, const json_t *result, struct error **ret_error);
/* POSTs a request that only asks what would be done (`body` is taken over), and prints the MovesReport that comes back. */
int report_plan(struct cli *cli, const char *path, json_t *body, struct error **ret_error);
