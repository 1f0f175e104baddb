/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/log_bound.h"

#include <string.h>

#include "base/macros.h"

#define MARK_EVERY_BYTES (LOG_BOUND_BYTES / (LOG_BOUND_MARKS - 2))

uint64_t log_bound_keep(struct log_bound *bound, uint64_t revision, uint64_t bytes)
{
        const struct log_mark *newest = bound->n_marks ? &bound->marks[bound->n_marks - 1] : NULL;

        if (newest && (newest->bytes > bytes || newest->revision > revision))
                bound->n_marks = 0; /* a store that was restored */
        for (size_t i = bound->n_marks; i-- > 0;)
                if (bytes - bound->marks[i].bytes >= LOG_BOUND_BYTES) {
                        /* What is before it is gone then. */
                        bound->n_marks -= i;
                        memmove(bound->marks, bound->marks + i, bound->n_marks * sizeof(*bound->marks));
                        break;
                }
        newest = bound->n_marks ? &bound->marks[bound->n_marks - 1] : NULL;
        if (!newest || bytes - newest->bytes >= MARK_EVERY_BYTES)
                bound->marks[bound->n_marks++] = (struct log_mark){revision, bytes};
        return bytes - bound->marks[0].bytes >= LOG_BOUND_BYTES
                       ? MIN(revision - bound->marks[0].revision, LOG_BOUND_ENTRIES)
                       : LOG_BOUND_ENTRIES;
}
