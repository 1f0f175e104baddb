/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The options that narrow what a role gives: --pool, --folder, --label and --host-label. */

#include <jansson.h>

#include "cli/arguments.h"

/* {"vms": {...}, "hosts": {...}}; NULL without any of them. The caller's. BAD_REQUEST names the option. */
int scope_option(const struct arguments *arguments, json_t **ret_scope, struct error **ret_error);

/* "KEY=VALUE"s of a repeatable option as an object, added to *object, which is made when there are some. */
int labels_option(
        const struct arguments *arguments, const char *option, json_t **object, struct error **ret_error);
