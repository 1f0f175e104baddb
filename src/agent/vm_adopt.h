/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* After a restart of the agent: finds the QEMU processes of the run before and takes them up again. */

#include "base/error.h"
#include "io/loop.h"

struct agent;
struct vm_adoption;

/* Reads all runtime files. `done` is called once from the loop when each living QEMU has answered or was given up for
 * the moment (its VM is then "unknown" and tried on). Runtime files that make no sense are moved aside and logged; one that
 * cannot be read for another reason is an error: the agent is better started again than running beside a QEMU that it does
 * not know of. */
int vm_adopt_all(struct agent *agent, loop_fn done, void *userdata, struct vm_adoption **ret_adoption,
        struct error **ret_error);
/* Gives up without a call of `done`; to be called after it, too. Accepts NULL. */
void vm_adoption_free(struct vm_adoption *adoption);
DEFINE_CLEANUP(struct vm_adoption *, vm_adoption_free)
