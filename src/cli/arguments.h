/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The command line, checked against the command table. Everything here borrows from argv; nothing is
 * allocated. */

#include "cli/command_table.h"

#define ARGUMENTS_VALUES_MAX 256

struct argument_value {
        const struct option_spec *option;
        const char *text; /* NULL for a flag */
        uint64_t number;  /* of numbers, sizes (bytes), durations (ms) and choices (index of the word) */
};

struct arguments {
        const struct command *command; /* NULL: only global options were given */
        const char *operands[COMMAND_OPERANDS_MAX];
        size_t n_operands;
        const char *words[COMMAND_WORDS_MAX]; /* those that name the command, or its beginning */
        size_t n_words;
        struct argument_value values[ARGUMENTS_VALUES_MAX];
        size_t n_values;
};

/* Reads argv[1..]. 0; or -EINVAL with BAD_REQUEST, whose message names the option or word and whose hint says
 * what to type instead. With --help or --version no command, operand or required option has to be complete. */
int arguments_parse(struct arguments *arguments, int argc, const char *const *argv, struct error **ret_error);

bool arguments_flag(const struct arguments *arguments, const char *name);
/* The last value given, or NULL. */
const char *arguments_text(const struct arguments *arguments, const char *name);
/* True, and the last value, if given. */
bool arguments_number(const struct arguments *arguments, const char *name, uint64_t *ret);
/* The next value of a repeatable option; start with *position 0. NULL at the end. */
const char *arguments_next(const struct arguments *arguments, const char *name, size_t *position);
/* Operand by position; NULL if not given. */
const char *arguments_operand(const struct arguments *arguments, size_t i);
