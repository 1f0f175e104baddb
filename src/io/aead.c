/* SPDX-License-Identifier: Apache-2.0 */
#include "io/aead.h"

#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/evp.h>

#define NONCE_SIZE 12

static void make_nonce(uint64_t number, uint8_t ret_nonce[static NONCE_SIZE])
{
        uint64_t raw = htole64(number);

        memset(ret_nonce, 0, NONCE_SIZE);
        memcpy(ret_nonce, &raw, sizeof(raw));
}

static void context_freep(EVP_CIPHER_CTX **context)
{
        EVP_CIPHER_CTX_free(*context);
        ERR_clear_error();
}

int aead_seal(const uint8_t key[static AEAD_KEY_SIZE], uint64_t number, const void *from, size_t len,
        void *to, uint8_t ret_tag[static AEAD_TAG_SIZE])
{
        _cleanup_(context_freep) EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
        uint8_t nonce[NONCE_SIZE];
        int n = 0;

        if (!context)
                return -ENOMEM;
        make_nonce(number, nonce);
        if (len > INT_MAX || EVP_EncryptInit_ex(context, EVP_aes_256_gcm(), NULL, key, nonce) != 1 ||
                EVP_EncryptUpdate(context, to, &n, from, (int)len) != 1 ||
                EVP_EncryptFinal_ex(context, (uint8_t *)to + n, &n) != 1 ||
                EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_SIZE, ret_tag) != 1)
                return -EINVAL;
        return 0;
}

int aead_open(const uint8_t key[static AEAD_KEY_SIZE], uint64_t number, const void *from, size_t len,
        void *to, const uint8_t tag[static AEAD_TAG_SIZE])
{
        _cleanup_(context_freep) EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
        uint8_t nonce[NONCE_SIZE], expected[AEAD_TAG_SIZE];
        int n = 0;

        if (!context)
                return -ENOMEM;
        make_nonce(number, nonce);
        memcpy(expected, tag, sizeof(expected)); /* OpenSSL wants it writable */
        if (len > INT_MAX || EVP_DecryptInit_ex(context, EVP_aes_256_gcm(), NULL, key, nonce) != 1 ||
                EVP_DecryptUpdate(context, to, &n, from, (int)len) != 1 ||
                EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_SIZE, expected) != 1)
                return -EINVAL;
        return EVP_DecryptFinal_ex(context, (uint8_t *)to + n, &n) == 1 ? 0 : -EBADMSG;
}
