/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Options of the commands about virtual machines; part of the command table. */

#include "cli/command_table.h"

extern const struct option_spec vm_list_options[];
extern const struct option_spec vm_create_options[];
extern const struct option_spec vm_start_options[];
extern const struct option_spec vm_resume_options[];
extern const struct option_spec vm_suspend_options[];
extern const struct option_spec vm_snapshot_create_options[];
extern const struct option_spec vm_snapshot_delete_options[];
extern const struct option_spec vm_stop_options[];
extern const struct option_spec vm_console_options[];
extern const struct option_spec vm_advise_options[];
extern const struct option_spec vm_forecast_options[];
extern const struct option_spec vm_migrate_options[];
