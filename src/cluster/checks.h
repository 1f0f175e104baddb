/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Rules that a virtual machine and a host must meet before the one is started on, or moved to, the other. Pure
 * functions of API documents (docs/openapi.json: Vm, Host): no I/O, no state. Each rule says a stable code, the
 * exact cause and the way out. */

#include <jansson.h>

#include "base/error.h"

struct checks_input {
        const json_t *vm;     /* document with spec and status */
        const json_t *source; /* host document; NULL: not running anywhere (create, start) */
        const json_t *
                home; /* not running: the host that it was on last, whose datastores hold its files; or NULL */
        const json_t *target; /* host document */
        const json_t *vms;    /* array: all VM documents, for the MAC rule; may be NULL */
};

/* Array of {"code", "ok", "object", "cause", "way_out"} in the order of the rules, the caller's; NULL without
 * memory. For a rule that is met, cause and way_out are null. */
json_t *checks_run(const struct checks_input *input);

/* True when each item of the array is ok. */
bool checks_ok(const json_t *checks);

/* 0, or sets CHECK_FAILED naming the first rule that is not met and how many there are. */
int checks_to_error(const json_t *checks, struct error **ret_error);

/* Memory, in bytes, that a VM takes at its host, and that a host (by its status) has room for: what is free now, but never more
 * than what is not promised, for guests touch their memory long after they started. */
json_int_t checks_memory_need(const json_t *vm);
json_int_t checks_memory_room(const json_t *status);

/* Calls fn for each name of a datastore that the VM's spec uses, each once; stops at the first negative result
 * and returns it. */
int checks_each_datastore(
        const json_t *vm_spec, int (*fn)(void *userdata, const char *datastore), void *userdata);
