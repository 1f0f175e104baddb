/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Bounded reader over bytes that somebody else produced. Each getter says whether the value was there; a
 * value is never usable without that answer. After the first failure all later reads fail. */

#include <endian.h>
#include <string.h>

#include "base/macros.h"

struct cursor {
        const uint8_t *at;
        size_t left;
        bool failed;
};

static inline struct cursor cursor_of(const void *data, size_t len)
{
        return (struct cursor){.at = data, .left = len};
}

/* Points *ret at the next `len` bytes and steps over them. */
static inline bool cursor_bytes(struct cursor *c, size_t len, const uint8_t **ret)
{
        if (c->failed || len > c->left) {
                c->failed = true;
                return false;
        }
        *ret = c->at;
        c->at += len;
        c->left -= len;
        return true;
}

static inline bool cursor_copy(struct cursor *c, void *to, size_t len)
{
        const uint8_t *from;

        if (!cursor_bytes(c, len, &from))
                return false;
        memcpy(to, from, len);
        return true;
}

static inline bool cursor_u8(struct cursor *c, uint8_t *ret)
{
        return cursor_copy(c, ret, 1);
}

#define CURSOR_GETTER(bits, order) \
        static inline bool cursor_u##bits##order(struct cursor *c, uint##bits##_t *ret) \
        { \
                uint##bits##_t raw; \
                if (!cursor_copy(c, &raw, sizeof(raw))) \
                        return false; \
                *ret = order##bits##toh(raw); \
                return true; \
        }
CURSOR_GETTER(16, be)
CURSOR_GETTER(32, be)
CURSOR_GETTER(64, be)
CURSOR_GETTER(16, le)
CURSOR_GETTER(32, le)
CURSOR_GETTER(64, le)
#undef CURSOR_GETTER
