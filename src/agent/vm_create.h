/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Makes and removes what a VM consists of on its datastores: folder, images, firmware variables. No process is
 * involved. */

#include <jansson.h>

#include "base/error.h"

struct agent;

/* `document` (borrowed) has all defaults resolved; exactly one of it and `error` is set. */
typedef void (*vm_create_fn)(void *userdata, json_t *document, struct error *error);

/* Makes the VM of this document. An image that exists is taken as it is (its size must be the document's, if that
 * names one); one that does not is made. Repeating a creation succeeds. If it fails, what it made is removed again.
 * `done` is called once from the loop. */
int vm_create(struct agent *agent, const json_t *document, vm_create_fn done, void *userdata,
        struct error **ret_error);

/* Removes the VM's folder with all in it; images elsewhere stay. Refused while the VM runs here or is migrated. The
 * VM is forgotten. `done` gets no document. With `left` (the VM has gone on to another folder, and the document names what stayed behind here)
 * only the document's disks in the folder that are not read-only go, those that migrations made, and drover's own records; whatever else is
 * in the folder stays. */
int vm_delete(struct agent *agent, const json_t *document, bool left, vm_create_fn done, void *userdata,
        struct error **ret_error);

/* Gives up everything under way: the agent ends. */
void vm_create_cancel_all(struct agent *agent);
