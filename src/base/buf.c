/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "base/alloc.h"

#define FIRST_SIZE 256

static void release(struct buf *buf)
{
        if (buf->secret && buf->data)
                explicit_bzero(buf->data, buf->size);
        free(buf->data);
}

/* As realloc(), which would leave what was there. */
static char *move(struct buf *buf, size_t size)
{
        char *data;

        if (!buf->secret)
                return alloc_resize(buf->data, size, 1);
        data = alloc_array(size, 1);
        if (!data)
                return NULL;
        if (buf->data)
                memcpy(data, buf->data, buf->len);
        release(buf);
        return data;
}

static int grow(struct buf *buf, size_t more)
{
        size_t need, size;
        char *data;

        if (more > buf->max - buf->len)
                return -E2BIG;
        need = buf->len + more + 1;
        if (need <= buf->size)
                return 0;
        size = MAX(MAX(buf->size * 2, need), (size_t)FIRST_SIZE);
        size = MIN(size, buf->max + 1);
        data = move(buf, size);
        if (!data)
                return -ENOMEM;
        buf->data = data;
        buf->size = size;
        buf->data[buf->len] = '\0';
        return 0;
}

void buf_init(struct buf *buf, size_t max_bytes)
{
        assert(max_bytes > 0 && max_bytes < SIZE_MAX / 2);
        *buf = (struct buf){.max = max_bytes};
}

void buf_deinit(struct buf *buf)
{
        release(buf);
        *buf = (struct buf){.max = buf->max, .secret = buf->secret};
}

int buf_append(struct buf *buf, const void *data, size_t len)
{
        int r = grow(buf, len);

        if (r < 0)
                return r;
        if (len)
                memcpy(buf->data + buf->len, data, len);
        buf_commit(buf, len);
        return 0;
}

int buf_append_string(struct buf *buf, const char *s)
{
        return buf_append(buf, s, strlen(s));
}

int buf_printf(struct buf *buf, const char *fmt, ...)
{
        va_list ap, again;
        int n, r;

        va_start(ap, fmt);
        va_copy(again, ap);
        n = vsnprintf(NULL, 0, fmt, ap);
        va_end(ap);
        r = n < 0 ? -EINVAL : grow(buf, (size_t)n);
        if (r == 0) {
                vsnprintf(buf->data + buf->len, (size_t)n + 1, fmt, again);
                buf->len += (size_t)n;
        }
        va_end(again);
        return r;
}

void *buf_reserve(struct buf *buf, size_t len)
{
        return grow(buf, len) < 0 ? NULL : buf->data + buf->len;
}

void buf_commit(struct buf *buf, size_t len)
{
        assert(len < buf->size - buf->len || !buf->size);
        buf->len += len;
        if (buf->data)
                buf->data[buf->len] = '\0';
}

void buf_consume(struct buf *buf, size_t len)
{
        assert(len <= buf->len);
        if (!len)
                return;
        memmove(buf->data, buf->data + len, buf->len - len + 1);
        buf->len -= len;
}

void buf_clear(struct buf *buf)
{
        buf_consume(buf, buf->len);
}

char *buf_take_string(struct buf *buf)
{
        char *s = buf->data ? TAKE_PTR(buf->data) : alloc_strdup("");

        if (s)
                *buf = (struct buf){.max = buf->max};
        return s;
}
