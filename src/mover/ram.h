/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The guest's memory as the mover sees it: a shared mapping of the memfd that QEMU's RAM block lies in, at the
 * destination for writing, at the source for reading (verification). See
 * docs/decisions/0001-guest-ram-access.md. */

#include "mover/wire.h"

struct ram {
        uint8_t *map;
        uint64_t bytes; /* whole pages */
        int fd;         /* borrowed: for finding holes */
};

/* Maps `bytes` of fd, which must hold at least that much. The fd stays the caller's and must stay open. */
int ram_map(struct ram *ram, int fd, uint64_t bytes, bool writable, struct error **ret_error);
/* Accepts a zeroed struct. */
void ram_unmap(struct ram *ram);

static inline uint64_t ram_pages(const struct ram *ram)
{
        return ram->bytes / WIRE_PAGE_SIZE;
}

/* True if the range is a hole of the file: zeros that need no reading (and, not read, no memory). */
bool ram_is_hole(const struct ram *ram, uint64_t offset, uint64_t len);
/* True if all bytes are zero; len is a multiple of 64. */
bool ram_is_zero(const uint8_t *data, size_t len);

/* Keyed hash of one stripe (the last may be short). */
uint64_t ram_stripe_hash(const struct ram *ram, const uint8_t *secret, uint64_t stripe);
/* Keyed hash over the hashes of all stripes of a channel, in order. */
uint64_t ram_channel_hash(
        const struct ram *ram, const uint8_t *secret, unsigned int channel, unsigned int n_channels);
/* Hash over the channels' hashes: the same on both sides when the memory is equal. */
uint64_t ram_total_hash(const uint64_t *channel_hashes, unsigned int n_channels);
