/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Early recognition of data that no codec shrinks (encrypted, compressed, random), from a sample. */

#include "base/macros.h"

/* True if packing `len` bytes (a multiple of 256, at least 256) is worth a try. Looks at up to 256 bytes in 8 runs spread
 * over the data, the one that stands out most left out: bytes of random data collide rarely, those of text, code and tables
 * often. */
bool classify_compressible(const uint8_t *data, size_t len);
