/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Options that say something about single hosts, for datastores and switches. */

#include <jansson.h>

#include "cli/arguments.h"

/* All "HOST=VALUE" of a repeatable option as an object; NULL when it was not given. BAD_REQUEST names the option. */
int per_host_map(
        const struct arguments *arguments, const char *option, json_t **ret, struct error **ret_error);
/* All values of a repeatable option as an array; NULL when it was not given. */
int per_host_list(
        const struct arguments *arguments, const char *option, json_t **ret, struct error **ret_error);
