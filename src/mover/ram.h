/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The guest's memory as the mover sees it: a range of QEMU's address space through /proc/PID/mem, read and written with
 * pread() and pwrite(), at the destination to place pages, at the source for verification. Any file that holds the memory
 * will do (tests use a memfd). Why not a shared mapping: docs/decisions/0004-guest-ram-stays-anonymous.md. */

#include "mover/wire.h"

struct ram {
        int fd;           /* borrowed */
        uint64_t address; /* of the guest's first byte: offset in the file */
        uint64_t bytes;   /* whole pages */
};

/* Describes `bytes` from `address` on, and looks whether the first and the last page can be read. The fd stays the caller's
 * and must stay open. BAD_DOCUMENT: no such range. */
int ram_init(struct ram *ram, int fd, uint64_t address, uint64_t bytes, struct error **ret_error);

static inline uint64_t ram_pages(const struct ram *ram)
{
        return ram->bytes / WIRE_PAGE_SIZE;
}

/* The range must lie in the guest's memory, and hold at most WIRE_STRIPE_BYTES (the sandbox allows no more at once).
 * QEMU_DIED when the memory is gone. */
int ram_read(const struct ram *ram, uint64_t offset, void *data, size_t len, struct error **ret_error);
int ram_write(const struct ram *ram, uint64_t offset, const void *data, size_t len, struct error **ret_error);

/* Length of a stripe: the last may be short. */
static inline size_t ram_stripe_len(const struct ram *ram, uint64_t stripe)
{
        return (size_t)MIN((uint64_t)WIRE_STRIPE_BYTES, ram->bytes - stripe * WIRE_STRIPE_BYTES);
}

/* True if all bytes are zero; len is a multiple of 64. */
bool ram_is_zero(const uint8_t *data, size_t len);

/* Keyed hash of one stripe; `buffer` has room for one (WIRE_STRIPE_BYTES). */
int ram_stripe_hash(const struct ram *ram, const uint8_t *secret, uint64_t stripe, uint8_t *buffer,
        uint64_t *ret_hash, struct error **ret_error);
/* Keyed hash over the hashes of all stripes of a channel, in order. */
int ram_channel_hash(const struct ram *ram, const uint8_t *secret, unsigned int channel,
        unsigned int n_channels, uint8_t *buffer, uint64_t *ret_hash, struct error **ret_error);
/* Hash over the channels' hashes: the same on both sides when the memory is equal. */
uint64_t ram_total_hash(const uint64_t *channel_hashes, unsigned int n_channels);
