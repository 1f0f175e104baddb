/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A virtual machine as an OVA: a ustar archive of a description (OVF 1.1), a manifest with the SHA-256 of each file, and its disks as
 * streamOptimized vmdk. May block: for helper processes. */

#include <jansson.h>

#include "base/error.h"
#include "storage/image_convert.h"

#define APPLIANCE_DISKS_MAX 64

struct appliance_disk {
        int fd; /* of the vmdk */
        uint64_t bytes;
        uint64_t virtual_bytes;
        char sha256[IMAGE_HASH_HEX_SIZE];
};

/* `vm`: {"name", "cpus", "memory_bytes", "firmware", "nics": [{"port_group", "model"}]}, names as text_is_name() has them. Writes from the
 * beginning of out_fd on and makes it durable. `name` is for messages. NO_SPACE, TOO_LARGE. */
int appliance_write(int out_fd, const json_t *vm, const struct appliance_disk *disks, size_t n_disks,
        const char *name, image_progress_fn progress, void *userdata, struct error **ret_error);
