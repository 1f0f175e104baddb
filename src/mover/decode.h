/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Decoder of recorded frames, for people and tests. */

#include "base/error.h"

/* Prints one line for each frame in the bytes to `out`; PROTOCOL at the first that is not valid, with its
 * offset. */
int decode_frames(const uint8_t *data, size_t len, FILE *out, struct error **ret_error);
