/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/datastore_options.h"

const struct option_spec datastore_add_options[] = {
        {.name = "local", .help = "one per host under one name, not one and the same on all hosts"},
        {.name = "host",
                .kind = VALUE_NAME,
                .value = "HOST",
                .names_of = "hosts",
                .repeat = true,
                .help = "only on this host; may be repeated; default: all"},
        {.name = "path-on",
                .kind = VALUE_TEXT,
                .value = "HOST=PATH",
                .repeat = true,
                .help = "path where it differs; may be repeated"},
        {0},
};
