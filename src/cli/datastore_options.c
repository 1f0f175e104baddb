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

const struct option_spec datastore_maintenance_options[] = {
        {.name = "on", .help = "begin: close the datastore and move the disks there to others"},
        {.name = "off", .help = "end: open it"},
        {.name = "dry-run", .help = "only say what would be done"},
        {.name = "tries",
                .kind = VALUE_NUMBER,
                .value = "N",
                .min = 1,
                .max = 10,
                .help = "storage migrations of one virtual machine at most; default 3"},
        {.name = "wait",
                .kind = VALUE_DURATION,
                .value = "TIME",
                .max = 86400000,
                .help = "wait so long for what fits nowhere, and try again; default 10m"},
        {.name = "priority",
                .kind = VALUE_CHOICE,
                .value = "low|normal|high|critical",
                .help = "place in the queue; default normal"},
        {.name = "max-pause",
                .kind = VALUE_DURATION,
                .value = "TIME",
                .min = 1,
                .max = 600000,
                .help = "bound on each pause; default 300ms"},
        {.name = "rate-limit",
                .kind = VALUE_RATE,
                .value = "RATE",
                .help = "of each copy, such as 500mbit; default none"},
        {.name = "give-up",
                .kind = VALUE_DURATION,
                .value = "TIME",
                .min = 1000,
                .max = 604800000,
                .help = "end the whole after this long; default 4h"},
        {0},
};
