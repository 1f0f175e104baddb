/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Options of the commands about datastores; part of the command table. */

#include "cli/command_table.h"

extern const struct option_spec datastore_add_options[], datastore_set_options[],
        datastore_maintenance_options[];
