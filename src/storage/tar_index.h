/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What is in a tar archive, and where: enough for appliances (OVA), whose disks are read from within the archive. ustar (POSIX.1-1988) with
 * GNU's sizes beyond 8 GiB; anything but plain files in one folder is refused. */

#include "base/error.h"

#define TAR_NAME_SIZE 101
#define TAR_MEMBERS_MAX 256

struct tar_member {
        char name[TAR_NAME_SIZE]; /* no '/', not "." or ".." */
        uint64_t offset, size;    /* of its content within the archive, which has it */
};

/* Reads up to `len` bytes at `offset`; as many as there were, or negative errno. */
typedef ssize_t (*tar_read_fn)(void *userdata, uint64_t offset, void *data, size_t len);

/* Looks at headers alone. members has room for TAR_MEMBERS_MAX. BAD_DOCUMENT, TOO_LARGE, NOT_SUPPORTED. `name` is for messages. */
int tar_index(tar_read_fn read, void *userdata, uint64_t archive_bytes, const char *name,
        struct tar_member *members, size_t *ret_n_members, struct error **ret_error);
