/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Help texts, from the command table. */

#include "cli/command_table.h"

#define USAGE_LINE_SIZE 256

/* "usage: drover vm create VM --memory SIZE [options]". Returns ret. */
char *usage_line(const struct command *command, char ret[static USAGE_LINE_SIZE]);

/* All commands, global options, environment and exit statuses. */
void usage_program(FILE *out);
/* The commands that begin with these words. */
void usage_group(FILE *out, const char *const *words, size_t n_words);
/* One command with its options. */
void usage_command(FILE *out, const struct command *command);

/* The environment variables that are read, for help and man page: name and meaning, NULL-terminated. */
struct usage_variable {
        const char *name;
        const char *meaning;
};
extern const struct usage_variable usage_variables[];
