/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The whole program but main(): what the tests call. */

#include "base/macros.h"

/* Reads the command line, carries it out and returns the exit status. Errors are written to `err` as
 * "drover: error: SENTENCE" and "hint: SENTENCE". `in` is a terminal with somebody at it who can be asked; NULL: nobody.
 * `width` and `err_width` are the terminals' columns, 0 for none. */
int program_run(int argc, const char *const *argv, FILE *in, FILE *out, FILE *err, unsigned int width,
        unsigned int err_width);
