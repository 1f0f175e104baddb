/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Options of commands that move many virtual machines: --policy, --tries, --priority, --max-pause, --give-up. */

#include <jansson.h>

#include "cli/arguments.h"

/* Puts what was given into the request. */
int moves_options(const struct arguments *arguments, json_t *request, struct error **ret_error);
