/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How much of the change log is kept: so many entries, and of those that this process has written so many bytes. Marks are set as it
 * grows; the first one that is so many bytes back is where it is cut. */

#include <stddef.h>
#include <stdint.h>

#define LOG_BOUND_ENTRIES UINT64_C(20000)
#define LOG_BOUND_BYTES (UINT64_C(256) << 20)
#define LOG_BOUND_MARKS 34

struct log_mark {
        uint64_t revision, bytes;
};

struct log_bound {
        struct log_mark marks[LOG_BOUND_MARKS];
        size_t n_marks;
};

/* How many of the newest entries are to be kept. revision: of the store; bytes: of all documents that were written to it since the
 * process began (store_bytes_written()). To be asked now and then. */
uint64_t log_bound_keep(struct log_bound *bound, uint64_t revision, uint64_t bytes);
