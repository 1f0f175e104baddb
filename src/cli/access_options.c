/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/access_options.h"

/* What narrows a role; see scope_option.c. */
#define SCOPE_OPTIONS \
        {.name = "pool", \
                .kind = VALUE_TEXT, \
                .value = "POOL", \
                .help = "only virtual machines and hosts with the label pool=POOL"}, \
                {.name = "folder", \
                        .kind = VALUE_TEXT, \
                        .value = "FOLDER", \
                        .help = "only virtual machines whose label folder is FOLDER or below it"}, \
                {.name = "label", \
                        .kind = VALUE_TEXT, \
                        .value = "KEY=VALUE", \
                        .repeat = true, \
                        .help = "only virtual machines with this label; may be repeated"}, \
        { \
                .name = "host-label", .kind = VALUE_TEXT, .value = "KEY=VALUE", .repeat = true, \
                .help = "only on hosts with this label; may be repeated" \
        }

const struct option_spec login_options[] = {
        {.name = "password-file",
                .kind = VALUE_FILE,
                .value = "FILE",
                .help = "its first line is the password; - is standard input"},
        {0},
};

const struct option_spec user_create_options[] = {
        {.name = "full-name", .kind = VALUE_TEXT, .value = "TEXT", .help = "for people"},
        {.name = "role",
                .kind = VALUE_NAME,
                .value = "ROLE",
                .names_of = "roles",
                .help = "its first role, within the scope that follows"},
        SCOPE_OPTIONS,
        {0},
};

const struct option_spec scope_options[] = {
        SCOPE_OPTIONS,
        {0},
};

const struct option_spec user_password_options[] = {
        {.name = "password-file",
                .kind = VALUE_FILE,
                .value = "FILE",
                .help = "its first line is the new password; - is standard input"},
        {.name = "current-file",
                .kind = VALUE_FILE,
                .value = "FILE",
                .help = "likewise the current one, when it is one's own"},
        {.name = "revoke-tokens", .help = "end the user's tokens, too"},
        {0},
};

const struct option_spec role_options[] = {
        {.name = "permission",
                .kind = VALUE_TEXT,
                .value = "PERMISSION",
                .repeat = true,
                .required = true,
                .help = "such as vm.migrate, vm.* or *.read; may be repeated"},
        {.name = "description", .kind = VALUE_TEXT, .value = "TEXT", .help = "for people"},
        {0},
};

const struct option_spec token_create_options[] = {
        {.name = "role",
                .kind = VALUE_NAME,
                .value = "ROLE",
                .names_of = "roles",
                .help = "default read-only"},
        SCOPE_OPTIONS,
        {.name = "expires",
                .kind = VALUE_NUMBER,
                .value = "DAYS",
                .min = 1,
                .max = 36500,
                .help = "works for this many days; default: until revoked"},
        {0},
};

#define AUDIT_FILTERS \
        {.name = "who", \
                .kind = VALUE_TEXT, \
                .value = "NAME", \
                .help = "only by this caller; a user's name has also what their tokens did"}, \
                {.name = "object", \
                        .kind = VALUE_TEXT, \
                        .value = "KIND/NAME", \
                        .help = "only about this, such as vm/web1"}, \
                {.name = "action", \
                        .kind = VALUE_TEXT, \
                        .value = "ACTION", \
                        .help = "only this, such as vm.migrate"}, \
                {.name = "result", \
                        .kind = VALUE_TEXT, \
                        .value = "RESULT", \
                        .help = "accepted, decided, done, failed, cancelled, denied or alert"}, \
                {.name = "since", \
                        .kind = VALUE_TEXT, \
                        .value = "TIME", \
                        .help = "from then on, UTC, such as 2026-11-21 or 2026-11-21T10:00:00Z"}, \
        { \
                .name = "until", .kind = VALUE_TEXT, .value = "TIME", .help = "before then" \
        }

const struct option_spec audit_list_options[] = {
        AUDIT_FILTERS,
        {.name = "limit",
                .kind = VALUE_NUMBER,
                .value = "N",
                .min = 1,
                .max = 1000,
                .help = "the newest N; default 50"},
        {0},
};

const struct option_spec audit_export_options[] = {
        AUDIT_FILTERS,
        {0},
};
