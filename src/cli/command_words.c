/* SPDX-License-Identifier: Apache-2.0 */

/* The words that name the commands of the table. */

#include "cli/command_table.h"

#include <assert.h>
#include <string.h>

size_t command_n_words(const struct command *command)
{
        size_t n = 1;

        for (const char *s = command->words; *s; s++)
                n += *s == ' ';
        assert(n <= COMMAND_WORDS_MAX);
        return n;
}

bool command_word(const struct command *command, size_t n, char ret[static COMMAND_WORD_SIZE])
{
        const char *s = command->words;

        if (n >= command_n_words(command))
                return false;
        while (n--)
                s = strchr(s, ' ') + 1;
        snprintf(ret, COMMAND_WORD_SIZE, "%.*s", (int)strcspn(s, " "), s);
        return true;
}

bool command_starts_with(const struct command *command, const char *const *words, size_t n_words)
{
        char word[COMMAND_WORD_SIZE];

        for (size_t i = 0; i < n_words; i++)
                if (!command_word(command, i, word) || strcmp(word, words[i]))
                        return false;
        return true;
}

const struct command *command_find(const char *const *words, size_t n_words)
{
        for (size_t i = 0; i < n_command_table; i++)
                if (command_n_words(&command_table[i]) == n_words &&
                        command_starts_with(&command_table[i], words, n_words))
                        return &command_table[i];
        return NULL;
}
