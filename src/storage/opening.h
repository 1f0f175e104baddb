/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Opens files on datastores in a child process (offload.h) and hands the descriptors over: an open() on a file server that hangs does
 * not come back, and would hold up whoever called it. What a descriptor is used for afterwards is a matter of its user: closing it,
 * and giving it to another process, waits for nothing. */

#include "base/error.h"
#include "io/loop.h"
#include "storage/datastore.h"
#include "storage/image.h"

#define OPENING_FILES_MAX 2

struct opening_file {
        const struct datastore *datastore;
        const char *path; /* relative to the datastore */
        int flags;        /* of open(2); with O_CREAT the folders on the way are made, too */
        bool direct;      /* O_DIRECT, where the file system takes it: the descriptor's flags tell */
        bool is_image;    /* one that refers to another file is refused, as by image_info_start() */
        enum image_format format;
};

struct opening;

/* `fds` has as many descriptors as there were files, each the callee's to close; all -1 with an error, which is borrowed. */
typedef void (*opening_done_fn)(void *userdata, const int *fds, struct error *error);

/* `done` is called once from the loop, never from inside, and the opening is gone then; with TIMED_OUT after timeout_ms. The files are not
 * needed after the call. One that was to be made may be there after a failure. */
int opening_start(struct loop *loop, const struct opening_file *files, size_t n_files, uint64_t timeout_ms,
        opening_done_fn done, void *userdata, struct opening **ret_opening, struct error **ret_error);
/* Gives it up; `done` is not called. Accepts NULL. */
void opening_free(struct opening *opening);
DEFINE_CLEANUP(struct opening *, opening_free)
