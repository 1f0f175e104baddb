/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Small language helpers used by every layer: scope-bound cleanup, ownership transfer, array sizes. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _printf_(fmt, first) __attribute__((format(printf, fmt, first)))
#define _unused_ __attribute__((unused))
#define _warn_unused_ __attribute__((warn_unused_result))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define CLAMP(x, lo, hi) MIN(MAX(x, lo), hi)
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Hand over an owned pointer or descriptor: yields the value and leaves NULL / -1 behind. */
#define TAKE_PTR(p) \
        ({ \
                __typeof__(p) _taken = (p); \
                (p) = NULL; \
                _taken; \
        })
#define TAKE_FD(fd) \
        ({ \
                int _taken = (fd); \
                (fd) = -1; \
                _taken; \
        })

/* Defines `NAMEp(T **)`, to be used as `_cleanup_(NAMEp)`. The function must accept NULL. */
#define DEFINE_CLEANUP(type, function) \
        static inline void function##p(type *p) \
        { \
                if (*p) \
                        function(*p); \
        }

static inline void freep(void *p)
{
        free(*(void **)p);
}

/* Closes *fd if it is valid and leaves -1. errno is kept. */
void fd_closep(int *fd);

static inline void file_closep(FILE **f)
{
        if (*f)
                fclose(*f);
}

#define _cleanup_free_ _cleanup_(freep)
#define _cleanup_fd_ _cleanup_(fd_closep)
#define _cleanup_file_ _cleanup_(file_closep)
