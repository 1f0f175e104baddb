/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Options of the commands about users, roles, tokens and the audit log; part of the command table. */

#include "cli/command_table.h"

extern const struct option_spec login_options[];
extern const struct option_spec user_create_options[];
extern const struct option_spec scope_options[];
extern const struct option_spec user_password_options[];
extern const struct option_spec role_options[];
extern const struct option_spec token_create_options[];
extern const struct option_spec audit_list_options[];
extern const struct option_spec audit_export_options[];
