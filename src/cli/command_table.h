/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The one table of commands. Parsing, help, usage errors, completion for three shells and the man page all
 * read it; a command that is not here does not exist. */

#include "base/error.h"
#include "base/macros.h"

struct arguments;
struct cli;

/* What a value may be. The parser checks it, so that a usage error names the option. */
enum value_kind {
        VALUE_FLAG, /* an option without a value */
        VALUE_TEXT,
        VALUE_NAME,     /* text_is_name() */
        VALUE_NUMBER,   /* from min to max */
        VALUE_SIZE,     /* "4G": bytes, from min to max when max is set */
        VALUE_DURATION, /* "300ms": milliseconds, likewise */
        VALUE_RATE,     /* "500mbit": bits per second */
        VALUE_CHOICE,   /* one of the words in `value`, "low|normal|high" */
        VALUE_FILE,     /* a file on this machine */
};

struct option_spec {
        const char *name; /* without the dashes; NULL ends a list */
        char letter;      /* 0: none */
        enum value_kind kind;
        const char *value; /* its name in help texts, or the choices; NULL for a flag */
        const char *help;
        const char *names_of; /* collection whose names complete it ("hosts"); may be NULL */
        uint64_t min;
        uint64_t max;
        bool repeat;
        bool required;
};

struct operand_spec {
        const char *name; /* "VM"; NULL ends the list */
        enum value_kind kind;
        const char *names_of; /* as above */
        bool optional;
};

#define COMMAND_OPERANDS_MAX 3

struct command {
        const char *words;   /* "vm create", "network switch add" */
        const char *summary; /* one line, no full stop */
        const char
                *details; /* paragraphs for --help and the man page, separated by a blank line; may be NULL */
        struct operand_spec operands[COMMAND_OPERANDS_MAX + 1];
        const struct option_spec *options; /* may be NULL */
        bool hidden;                       /* for completion and the build: not in help */
        bool offline;                      /* needs no server */
        /* Carries it out. 0, or negative errno with *ret_error set. */
        int (*run)(struct cli *cli, const struct arguments *arguments, struct error **ret_error);
};

extern const struct command command_table[];
extern const size_t n_command_table;

/* Options that every command takes, anywhere on the line. */
extern const struct option_spec global_options[];

/* Exit statuses, with their meaning for help and the man page. */
#define EXIT_STATUSES(X) \
        X(DONE, 0, "done") \
        X(FAILED, 1, "failed") \
        X(USAGE, 2, "the command line is wrong") \
        X(NOT_FOUND, 3, "the object does not exist") \
        X(DENIED, 4, "not authenticated, or not allowed") \
        X(CONFLICT, 5, "the object's state does not allow it, or somebody else works on it") \
        X(TIMED_OUT, 6, "a time limit passed") \
        X(DETACHED, 130, "interrupted by Ctrl-C; a task that was started goes on")

enum exit_status {
#define X(name, number, meaning) EXIT_STATUS_##name = number,
        EXIT_STATUSES(X)
#undef X
};

/* The exit status that stands for an error. NULL: EXIT_STATUS_FAILED. */
enum exit_status exit_status_of(const struct error *error);

/* The command that the words spell in full; NULL when they do not (yet). */
const struct command *command_find(const char *const *words, size_t n_words);

/* True when the command's words begin with these. Help and completion walk the tree with it. */
bool command_starts_with(const struct command *command, const char *const *words, size_t n_words);

/* The n-th word (from 0) of the command, copied; false when it has fewer. */
#define COMMAND_WORD_SIZE 24
bool command_word(const struct command *command, size_t n, char ret[static COMMAND_WORD_SIZE]);

/* Number of words, 1 to COMMAND_WORDS_MAX. */
#define COMMAND_WORDS_MAX 3
size_t command_n_words(const struct command *command);

/* The command (as "vm create") or group that is nearest to what was typed, for "did you mean"; NULL when
 * nothing is near. Borrowed from the table. */
const char *command_nearest(const char *const *words, size_t n_words);

/* Edit distance with transpositions, at most `limit`; limit + 1 when farther. */
size_t text_distance(const char *a, const char *b, size_t limit);
