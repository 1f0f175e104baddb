/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* From the words of `vm create` to a VM document's spec (docs/vm-document.md). */

#include <jansson.h>

#include "cli/arguments.h"

/* The body of POST /vms: {"name", "spec", "host", "start"}. On success the caller owns *ret_body. BAD_REQUEST names
 * the option and what it should look like. */
int vm_spec_request(const struct arguments *arguments, json_t **ret_body, struct error **ret_error);

/* "shared:10G,format=raw,bus=scsi" as an item of spec.disks; "shared:web1/disk0.qcow2" an existing image. */
int vm_spec_disk(const char *text, json_t **ret_disk, struct error **ret_error);
/* "default,mac=52:54:00:12:34:56,model=e1000" as an item of spec.nics. */
int vm_spec_nic(const char *text, json_t **ret_nic, struct error **ret_error);
/* "shared:guests/vmlinuz" as {"datastore", "path"}; `option` names it in the error. */
int vm_spec_file(const char *option, const char *text, json_t **ret_file, struct error **ret_error);
