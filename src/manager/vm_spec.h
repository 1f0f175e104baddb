/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The manager's own look at a VM's spec (docs/vm-document.md): names, sizes, references. The agent that makes the VM
 * has the last word; this keeps nonsense out of the store and hands out MAC addresses. */

#include <jansson.h>

#include "base/error.h"

/* 0, or BAD_DOCUMENT naming the field. */
int vm_spec_check(const json_t *spec, struct error **ret_error);

/* Defaults of a new VM (in place) that are none for those that exist already: what the machine has must stay. NO_MEMORY. */
int vm_spec_fill(json_t *spec, struct error **ret_error);

/* Gives each NIC without one a MAC address that no other VM has (in place), and brings the others to the usual form;
 * CONFLICT when one is taken. `vms`: array of all VM documents. */
int vm_spec_assign_macs(json_t *spec, const json_t *vms, struct error **ret_error);
