/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* qemu-img for images that others have made, shut in (confine.h). Blocks: for helper processes (offload.h). */

#include "base/error.h"

#define IMAGE_TOOL_FILES_MAX 2

struct image_tool_file {
        int fd; /* the program has it as descriptor 3, 4, ... */
        bool write;
};

/* The names under which the program opens them. */
#define IMAGE_TOOL_FIRST "/proc/self/fd/3"
#define IMAGE_TOOL_SECOND "/proc/self/fd/4"

struct image_tool {
        const char *const *argv; /* argv[0] is looked up in PATH; NULL-terminated */
        struct image_tool_file files[IMAGE_TOOL_FILES_MAX];
        size_t n_files;
        const char *name; /* of the image, for messages */
        /* Called a few times a second while it runs; may be NULL. A negative result ends the program, and is the run's. */
        int (*tick)(void *userdata, struct error **ret_error);
        void *userdata;
};

/* Runs it to its end. *ret_output (may be NULL): what it wrote, the caller's. NO_SPACE, LOCKED, QEMU_FAILED with its own words. It ends with
 * this process. */
int image_tool_run(const struct image_tool *tool, char **ret_output, struct error **ret_error);
