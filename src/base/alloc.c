/* SPDX-License-Identifier: Apache-2.0 */
#include "base/alloc.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "base/torture.h"

void *alloc_zero(size_t size_bytes)
{
        if (torture_point())
                return NULL;
        return calloc(1, size_bytes ?: 1);
}

void *alloc_array(size_t n, size_t item_size)
{
        if (torture_point())
                return NULL;
        return calloc(n ?: 1, item_size);
}

void *alloc_resize(void *old, size_t n, size_t item_size)
{
        size_t size;

        if (torture_point() || __builtin_mul_overflow(n, item_size, &size))
                return NULL;
        return realloc(old, size ?: 1);
}

char *alloc_strdup(const char *s)
{
        if (!s || torture_point())
                return NULL;
        return strdup(s);
}

char *alloc_vprintf(const char *fmt, va_list ap)
{
        char *s;

        if (torture_point())
                return NULL;
        return vasprintf(&s, fmt, ap) < 0 ? NULL : s;
}

char *alloc_printf(const char *fmt, ...)
{
        va_list ap;
        char *s;

        va_start(ap, fmt);
        s = alloc_vprintf(fmt, ap);
        va_end(ap);
        return s;
}

int alloc_replace(char **p, const char *s)
{
        char *copy = NULL;

        if (s) {
                copy = alloc_strdup(s);
                if (!copy)
                        return -ENOMEM;
        }
        free(*p);
        *p = copy;
        return 0;
}

void fd_closep(int *fd)
{
        int saved = errno;

        if (*fd >= 0)
                close(*fd);
        *fd = -1;
        errno = saved;
}
