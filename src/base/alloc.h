/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Allocation. The daemons treat failure as an error like any other, so every function here may return NULL,
 * and every one is a torture point. Memory is freed with free(). */

#include <stdarg.h>

#include "base/macros.h"

/* Zeroed memory; a size of 0 yields a unique pointer. */
void *alloc_zero(size_t size_bytes) _warn_unused_;

/* Zeroed array of `n` items; NULL when n * item_size overflows. */
void *alloc_array(size_t n, size_t item_size) _warn_unused_;

/* realloc() for arrays, with the overflow check. The old block stays valid on failure. */
void *alloc_resize(void *old, size_t n, size_t item_size) _warn_unused_;

/* strdup(); NULL in, NULL out (then it is not a failure: check the input). */
char *alloc_strdup(const char *s) _warn_unused_;

/* asprintf() that returns the string, or NULL. */
char *alloc_printf(const char *fmt, ...) _printf_(1, 2) _warn_unused_;
char *alloc_vprintf(const char *fmt, va_list ap) _printf_(1, 0) _warn_unused_;

/* Replaces *p (freed) by a copy of s (may be NULL). 0 or -ENOMEM; *p is untouched on failure. */
int alloc_replace(char **p, const char *s) _warn_unused_;

#define ALLOC(type) ((type *)alloc_zero(sizeof(type)))
