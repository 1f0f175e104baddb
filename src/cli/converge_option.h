/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* From the value of --converge to the field `converge` of a request for a migration (base/converge.h). */

#include <jansson.h>

#include "base/error.h"

/* "wait=30s,pause=2s,throttle=80", each step at most once and in the order that is wanted, or "none". *ret_list is the
 * caller's array of steps. BAD_REQUEST names the step and what it should look like. */
int converge_option(const char *text, json_t **ret_list, struct error **ret_error);
