/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Shuts a helper process (offload.h) in before it looks at what others may have written: what is open may be read and written, memory had, and
 * nothing else. Whoever finds a fault in how a file is read gets no further with it. */

#include <stddef.h>

#include "base/error.h"

/* For good. Calls that are not allowed fail with EPERM. Does nothing under a sanitizer, whose runtime needs more. */
int confine_to_descriptors(struct error **ret_error);

/* A file that a program may open by the name of its descriptor, /proc/self/fd/N. */
struct confine_file {
        int fd;
        bool write;
};

/* Shuts in this process before it executes the program at `path` (absolute), which is to read what others have made: it finds its libraries
 * (/usr, /lib) and the files given, opens no other one and empties none by its name, makes no socket, sends no signal to another process, makes no
 * process of its own (threads it has), keeps of root's capabilities CAP_DAC_OVERRIDE alone, and gets no more than memory_max_bytes of address space.
 * It may look at what a path is (stat), and may execute what is in /usr. For good, across exec. NOT_SUPPORTED: the kernel lacks Landlock. */
int confine_program(const char *path, const struct confine_file *files, size_t n_files,
        uint64_t memory_max_bytes, struct error **ret_error);
