/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Authenticated encryption of numbered pieces with a key that is used for one purpose once: AES-256-GCM (OpenSSL), the
 * piece's number as its nonce. Two pieces under one key must never have the same number. Thread-safe. */

#include "base/macros.h"

#define AEAD_KEY_SIZE 32
#define AEAD_TAG_SIZE 16

/* `to` may be `from`; it gets len bytes. -ENOMEM; -EINVAL: OpenSSL refuses. */
int aead_seal(const uint8_t key[static AEAD_KEY_SIZE], uint64_t number, const void *from, size_t len,
        void *to, uint8_t ret_tag[static AEAD_TAG_SIZE]);
/* -EBADMSG: not what was sealed under this key and number; `to` is to be ignored then. */
int aead_open(const uint8_t key[static AEAD_KEY_SIZE], uint64_t number, const void *from, size_t len,
        void *to, const uint8_t tag[static AEAD_TAG_SIZE]);
