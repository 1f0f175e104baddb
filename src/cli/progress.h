/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Progress of a task on standard error: one line that is rewritten on a terminal, else a line when something
 * changes and every few seconds. */

#include "cli/cli.h"

struct progress {
        FILE *err;
        unsigned int width; /* 0: no terminal */
        bool silent;
        bool line_open;   /* the terminal's line has progress on it */
        uint64_t last_ms; /* when the last sparse line was written */
        char last_phase[32];
};

void progress_init(struct progress *progress, const struct cli *cli);
/* `task` is the newest document; elapsed_ms is the time since following began. */
void progress_show(struct progress *progress, const json_t *task, uint64_t elapsed_ms);
/* A message between two progress lines. */
void progress_note(struct progress *progress, const char *message);
/* Clears the terminal's line. */
void progress_end(struct progress *progress);

/* The line itself, at most size - 1 characters: "web1 host1 -> host2  copying  pass 2  [####----]  50 %  ...". */
void progress_line(const json_t *task, uint64_t elapsed_ms, char *ret, size_t size);
