/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A guest's memory as it was when it left a host, in a file there: when the guest comes back, pages that are still the same need
 * not be sent (the idea: Knauth and Fetzer, "VeCycle", Middleware 2015). Stripes that are zero are left out; the others are
 * compressed (lz4) and each encrypted under a key that the agent keeps elsewhere; so whoever gets the file learns nothing, and
 * what was changed in it is noticed and not used.
 *
 * File, version 2: header; for each stripe its bytes; for each stripe the digests of its pages, sealed under the comparison key
 * (io/checkpoint_keys.h), which opens nothing else; the index, encrypted as the stripes are; tail. Little-endian. Version 1 has no
 * digests and serves migrations all the same. A checkpoint may be out of
 * date or be of another guest: the hashes of pages decide. */

#include "io/aead.h"
#include "mover/codec.h"
#include "mover/ram.h"

struct checkpoint;

/* Writes the stopped guest's memory to `fd` (write() only, at its position 0; a file). ret_bytes: size of the
 * file. */
int checkpoint_write(int fd, const uint8_t key[static AEAD_KEY_SIZE], const struct ram *ram,
        uint64_t *ret_bytes, struct error **ret_error);

/* Reads the index of one for a guest of ram_bytes (pread() only; the fd stays the caller's and must stay open). `size`: of the
 * file. -EBADMSG: it is none, is cut off, or was changed; errors of reading. */
int checkpoint_open(int fd, uint64_t size, const uint8_t key[static AEAD_KEY_SIZE], uint64_t ram_bytes,
        struct checkpoint **ret_checkpoint);
void checkpoint_free(struct checkpoint *checkpoint);
DEFINE_CLEANUP(struct checkpoint *, checkpoint_free)

bool checkpoint_has(const struct checkpoint *checkpoint, uint64_t stripe);
/* The stripe's bytes (`len`: ram_stripe_len()) into `ret_data`; `packed` has room for WIRE_STRIPE_BYTES. -ENOENT when it has
 * none, -EBADMSG when it was changed. Thread-safe. */
int checkpoint_read(const struct checkpoint *checkpoint, struct codec *codec, uint64_t stripe,
        uint8_t *packed, uint8_t *ret_data, size_t len);

/* The digests alone, for who has no more than the comparison key. */
struct checkpoint_digests {
        int fd;                     /* the caller's */
        uint8_t key[AEAD_KEY_SIZE]; /* the caller wipes it */
        uint64_t offset, n_stripes;
};

/* As checkpoint_open(), the first stripe's digests in place of the index; -EOPNOTSUPP: it is of version 1. */
int checkpoint_digests_open(int fd, uint64_t size, const uint8_t comparison_key[static AEAD_KEY_SIZE],
        uint64_t ram_bytes, struct checkpoint_digests *ret_digests);
/* checkpoint_page_digest() of each page of the stripe; 0: a page of zeros. -EBADMSG: not sealed under that key. */
int checkpoint_digests_read(const struct checkpoint_digests *digests, uint64_t stripe,
        uint64_t ret_digests[static WIRE_STRIPE_PAGES]);
