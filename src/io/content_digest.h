/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Keyed cryptographic digests of pieces of content: the first 16 bytes of SHA-256 over the key and the piece (OpenSSL). Whoever does
 * not know the key cannot look for two pieces of the same digest. One thread owns a digester. */

#include "base/macros.h"

#define CONTENT_KEY_SIZE 32
#define CONTENT_DIGEST_SIZE 16

struct content_digester;

/* Loads the algorithm, so that a sandbox can be entered afterwards. -ENOMEM; -ENOTSUP: OpenSSL does not have it. */
int content_digester_new(const uint8_t key[static CONTENT_KEY_SIZE], struct content_digester **ret_digester);
void content_digester_free(struct content_digester *digester);
DEFINE_CLEANUP(struct content_digester *, content_digester_free)

/* -ENOMEM. */
int content_digest(struct content_digester *digester, const void *data, size_t len,
        uint8_t ret_digest[static CONTENT_DIGEST_SIZE]);
