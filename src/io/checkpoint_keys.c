/* SPDX-License-Identifier: Apache-2.0 */
#include "io/checkpoint_keys.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#include <sodium.h>

#define CONTEXT "drovercp"

enum purpose {
        PURPOSE_COMPARISON = 1,
        PURPOSE_PAGES = 2,
};

static_assert(
        AEAD_KEY_SIZE == crypto_kdf_KEYBYTES, "the checkpoint's key is the one that others follow from");
static_assert(sizeof(CONTEXT) - 1 == crypto_kdf_CONTEXTBYTES, "libsodium's size");

static int derive(const uint8_t *key, enum purpose purpose, uint8_t *ret_key)
{
        return crypto_kdf_derive_from_key(ret_key, AEAD_KEY_SIZE, purpose, CONTEXT, key) == 0 ? 0 : -EINVAL;
}

int checkpoint_comparison_key(const uint8_t key[static AEAD_KEY_SIZE], uint8_t ret_key[static AEAD_KEY_SIZE])
{
        return derive(key, PURPOSE_COMPARISON, ret_key);
}

int checkpoint_page_key(const uint8_t key[static AEAD_KEY_SIZE], uint8_t ret_key[static AEAD_KEY_SIZE])
{
        return derive(key, PURPOSE_PAGES, ret_key);
}

uint64_t checkpoint_page_digest(
        const uint8_t page_key[static AEAD_KEY_SIZE], uint64_t page, const void *data, size_t len)
{
        uint8_t full[crypto_generichash_BYTES];
        uint64_t number = htole64(page), digest;
        crypto_generichash_state state;

        /* None of these can fail: the sizes are constant and valid. */
        (void)crypto_generichash_init(&state, page_key, AEAD_KEY_SIZE, sizeof(full));
        (void)crypto_generichash_update(&state, (const uint8_t *)&number, sizeof(number));
        (void)crypto_generichash_update(&state, data, len);
        (void)crypto_generichash_final(&state, full, sizeof(full));
        sodium_memzero(&state, sizeof(state)); /* the key went into it */
        memcpy(&digest, full, sizeof(digest));
        return le64toh(digest);
}
