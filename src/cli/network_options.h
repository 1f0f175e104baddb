/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Options of the commands about switches and port groups; part of the command table. */

#include "cli/command_table.h"

extern const struct option_spec switch_add_options[];
extern const struct option_spec switch_set_options[];
extern const struct option_spec switch_upgrade_options[];
extern const struct option_spec port_group_add_options[];
