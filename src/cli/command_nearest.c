/* SPDX-License-Identifier: Apache-2.0 */

/* What somebody may have meant who typed a command that there is not. */

#include <string.h>

#include "cli/command_table.h"

#define DISTANCE_MAX_CHARS 64

/* Optimal string alignment distance: Damerau-Levenshtein in three rows. */
size_t text_distance(const char *a, const char *b, size_t limit)
{
        size_t rows[3][DISTANCE_MAX_CHARS + 1], n_a = strlen(a), n_b = strlen(b), far = limit + 1;
        size_t *before = rows[0], *last = rows[1], *row = rows[2];

        if (n_a > DISTANCE_MAX_CHARS || n_b > DISTANCE_MAX_CHARS)
                return far;
        for (size_t j = 0; j <= n_b; j++)
                last[j] = before[j] = j;
        for (size_t i = 1; i <= n_a; i++) {
                size_t *spare = before;

                row[0] = i;
                for (size_t j = 1; j <= n_b; j++) {
                        size_t change = last[j - 1] + (a[i - 1] != b[j - 1]);

                        row[j] = MIN(change, MIN(last[j], row[j - 1]) + 1);
                        if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                                row[j] = MIN(row[j], before[j - 2] + 1);
                }
                before = last;
                last = row;
                row = spare;
        }
        return MIN(last[n_b], far);
}

const char *command_nearest(const char *const *words, size_t n_words)
{
        char typed[DISTANCE_MAX_CHARS + 1] = "";
        const char *best = NULL;
        size_t best_distance = 4; /* a third of the letters of "vm migrate": farther is no typing mistake */

        for (size_t i = 0, used = 0; i < n_words && used < sizeof(typed); i++)
                used += (size_t)snprintf(typed + used, sizeof(typed) - used, "%s%s", i ? " " : "", words[i]);
        for (size_t i = 0; i < n_command_table; i++) {
                size_t distance = text_distance(typed, command_table[i].words, 3);

                if (!command_table[i].hidden && distance < best_distance) {
                        best = command_table[i].words;
                        best_distance = distance;
                }
        }
        return best;
}
