/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The manager's own look at a VM's spec (docs/vm-document.md): names, sizes, references, drives that the machine has ports for. The agent that makes the VM
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

/* What an agent says of the VM's spec when it makes or starts it: *ret_spec (the caller's) is `spec` with what it filled in of that which
 * may be left out, and with the copies of disks that have moved within folders of the VM's name. All that is set stays as it is, labels
 * too, which only the API sets. -EINVAL: it is no such answer (another number of disks or NICs, files of others); -ENOMEM. */
int vm_spec_take(const json_t *spec, const char *vm_name, const json_t *reported, json_t **ret_spec);
/* The path is called like a record that a VM's folder has beside its disks (docs/vm-document.md). */
bool vm_spec_path_is_record(const char *path);
/* The path is right in the VM's own folder, and no record of it. */
bool vm_spec_path_is_own(const char *vm_name, const char *path);
/* Where a host says that a disk (changed) is now: {"datastore", "path", "format"}. -EINVAL: not in a folder of the VM's name. */
int vm_spec_take_place(json_t *disk, const char *vm_name, const json_t *place);
