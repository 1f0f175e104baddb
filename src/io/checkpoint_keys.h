/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the key of a checkpoint (mover/checkpoint.h) is for besides its memory: two keys that follow from it, from which neither it nor
 * each other follows (libsodium's crypto_kdf: BLAKE2b). Each checkpoint has a key of its own, hence these too.
 *
 * The comparison key seals the digests in the file; a forecast hands it to the host that keeps the file. The page key makes
 * the digests, and is only where the guest is: to whoever has the comparison key, digests are random numbers that are the same when
 * the page is, and guessing at a page's content tells nothing. */

#include "io/aead.h"

/* -EINVAL: libsodium refuses. */
int checkpoint_comparison_key(const uint8_t key[static AEAD_KEY_SIZE], uint8_t ret_key[static AEAD_KEY_SIZE]);
int checkpoint_page_key(const uint8_t key[static AEAD_KEY_SIZE], uint8_t ret_key[static AEAD_KEY_SIZE]);
/* Of the content (`len` bytes) of the page of that number: the first 8 bytes of keyed BLAKE2b over both. */
uint64_t checkpoint_page_digest(
        const uint8_t page_key[static AEAD_KEY_SIZE], uint64_t page, const void *data, size_t len);
