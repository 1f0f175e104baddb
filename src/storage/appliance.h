/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Appliances: a virtual machine from another product, as an OVA (an archive) or as an OVF beside its disks. */

#include <jansson.h>

#include "base/error.h"

/* True for a name that ends in .ova or .ovf. */
bool appliance_is_archive(const char *path);
bool appliance_is_description(const char *path);

/* Reads the description (ovf.h) from an open file: an archive, or with `manifest_fd` (-1: there is none) beside it the description itself. The process is
 * shut in first, for good (confine.h). Each of "disks" gets "offset" and "length" of its content within an archive, "format", and
 * "digest": {"hash", "hex"} if a manifest has it. `name` is for messages. *ret_description is the caller's. BAD_DOCUMENT, CHECK_FAILED,
 * NOT_SUPPORTED, TOO_LARGE. */
int appliance_read(int fd, int manifest_fd, bool archive, const char *name, json_t **ret_description,
        struct error **ret_error);
