/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Completion scripts, from the command table. Words and options are in the script; names of objects are asked for
 * with the hidden command `drover names COLLECTION`. */

#include "base/macros.h"

/* Writes the script of "bash", "zsh" or "fish"; false for another shell. */
bool completion_write(FILE *out, const char *shell);
