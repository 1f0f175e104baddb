/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How fast a folder takes and gives data, tried with a few MiB: little enough to do it now and then beside guests. */

#include <stdint.h>

struct write_rate {
        uint64_t write_bytes_per_s; /* until it is safe; 0: not known */
        uint64_t
                read_bytes_per_s; /* of what was just written, out of the page cache's way where the file system allows that; 0: not known */
};

/* Writes at most WRITE_RATE_MAX_BYTES to an empty file, open for reading and writing, in rounds that grow: a slow store is left alone after the
 * first. Bytes that do not compress; the file is the caller's to remove. May block. A store that is full, or an error, gives zeros:
 * guests will tell. */
#define WRITE_RATE_MAX_BYTES (5u << 20)
void write_rate_measure(int fd, struct write_rate *ret_rate);
