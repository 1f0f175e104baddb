/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Options of `drover pool` and what they make of a pool's spec. */

#include <jansson.h>

#include "cli/arguments.h"

extern const struct option_spec pool_create_options[];
extern const struct option_spec pool_set_options[];

/* Puts what the options say into the spec {"limits", "reservation"}. 0, or negative errno with *ret_error. */
int pool_options_apply(const struct arguments *arguments, json_t *spec, struct error **ret_error);
