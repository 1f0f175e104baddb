/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A password from whoever sits at the terminal, unseen, or from a file. */

#include "cli/cli.h"

#define PASSWORD_SIZE 1026

/* The first line of `path` (NULL: what is typed at the terminal), without its end. BAD_REQUEST when there is neither. */
int password_read(const struct cli *cli, const char *path, const char *prompt, char ret[static PASSWORD_SIZE],
        struct error **ret_error);
