/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The return path of a migration: what the destination's QEMU says to the source's over the socket of the stream. A message is a type (u16), a
 * length (u16) and so many bytes, big endian (qemu: migration/migration.c, source_return_path_thread()). */

#include "base/error.h"

enum return_path_type {
        RETURN_PATH_SHUT = 1, /* u32: 0 if all went well */
        RETURN_PATH_PONG = 2, /* u32: of the PING that it answers */
        RETURN_PATH_PAGES_OF =
                3, /* post-copy: start u64, length u32, length of the name u8, name of the block */
        RETURN_PATH_PAGES = 4, /* post-copy: start u64, length u32, of the block named last */
};

#define RETURN_PATH_HEADER_BYTES 4
#define RETURN_PATH_VALUE_BYTES (RETURN_PATH_HEADER_BYTES + 4) /* of SHUT and PONG */
#define RETURN_PATH_MAX_BYTES (RETURN_PATH_HEADER_BYTES + 8 + 4 + 1 + 255)

struct return_path_message {
        enum return_path_type type;
        uint32_t value;       /* of SHUT and PONG; bytes that are asked for */
        const uint8_t *bytes; /* the whole message, valid during the call */
        size_t len;
};

/* Returns 0 or a negative errno, which return_path_feed() hands on. */
typedef int (*return_path_fn)(
        void *userdata, const struct return_path_message *message, struct error **ret_error);

/* What has come of the message that began last. Starts as zeros. */
struct return_path {
        uint8_t bytes[RETURN_PATH_MAX_BYTES];
        size_t n_bytes;
};

/* Takes what came, cut anywhere, and calls `fn` for each message that is whole. PROTOCOL for a message of another type, or of a length that
 * its type does not have; nothing may be fed after an error. */
int return_path_feed(struct return_path *path, const uint8_t *data, size_t len, return_path_fn fn,
        void *userdata, struct error **ret_error);

/* A SHUT or PONG as it is written. */
void return_path_put(
        enum return_path_type type, uint32_t value, uint8_t ret_message[RETURN_PATH_VALUE_BYTES]);
