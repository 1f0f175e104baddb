/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Resource pools with what is used of them (cluster/pool.h), counted anew from what is in memory: the virtual machines of the
 * pool that run or may, and those that tasks start. A task that starts one counts from the moment at which its host was chosen, which is
 * when the limits were looked at, in the same step: two tasks cannot both take what is left. */

#include <jansson.h>

#include "base/error.h"

struct manager;

/* The pool (document) with status.used, the caller's; except: uid of a VM that is not counted, or NULL. NULL without memory. */
json_t *pools_with_use(const struct manager *manager, const json_t *pool, const char *except);

/* Those that the rules about starts of the VM (document) look at: its own, and those that reserve memory. An array, the caller's. */
int pools_about(struct manager *manager, const json_t *vm, json_t **ret_pools, struct error **ret_error);
