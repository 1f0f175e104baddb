/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Options of the commands about images; part of the command table. */

#include "cli/command_table.h"

extern const struct option_spec vm_import_options[];
extern const struct option_spec vm_export_options[];
extern const struct option_spec vm_import_disk_options[];
extern const struct option_spec vm_export_disk_options[];
