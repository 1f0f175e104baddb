/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Growable byte buffer with a mandatory maximum (after curl's DYNBUF). Kept NUL-terminated, so that text can
 * be read from `data` directly. */

#include "base/macros.h"

struct buf {
        char *data; /* NULL while empty; else `len` bytes and a NUL */
        size_t len;
        size_t size;
        size_t max;  /* most bytes it may hold */
        bool secret; /* what it held is overwritten before its memory is freed; may be set after buf_init() */
};

/* No allocation yet. `max_bytes` > 0. */
void buf_init(struct buf *buf, size_t max_bytes);
void buf_deinit(struct buf *buf);

/* 0, -E2BIG when the maximum would be passed, or -ENOMEM. On failure the content is untouched. */
int buf_append(struct buf *buf, const void *data, size_t len);
int buf_append_string(struct buf *buf, const char *s);
int buf_printf(struct buf *buf, const char *fmt, ...) _printf_(2, 3);

/* Makes room for `len` more bytes and returns where they go (then buf_commit() them); NULL when not possible.
 */
void *buf_reserve(struct buf *buf, size_t len);
void buf_commit(struct buf *buf, size_t len);

/* Drops the first `len` (at most buf->len) bytes. */
void buf_consume(struct buf *buf, size_t len);
void buf_clear(struct buf *buf);

/* Hands the text over (caller frees; "" when empty) and leaves the buffer empty; NULL without memory. */
char *buf_take_string(struct buf *buf);

/* "" when empty, never NULL. */
static inline const char *buf_string(const struct buf *buf)
{
        return buf->data ?: "";
}

#define _cleanup_buf_ _cleanup_(buf_deinit)
