/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/datastore_options.h"

#define OVERCOMMIT_OPTION \
        { \
                .name = "overcommit", .kind = VALUE_TEXT, .value = "RATIO", \
                .help = "how many times its capacity may be promised to disks, such as 1.5, or none " \
                        "(default): " \
                        "without limit" \
        }

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
        OVERCOMMIT_OPTION,
        {0},
};

const struct option_spec datastore_set_options[] = {
        OVERCOMMIT_OPTION,
        {0},
};
