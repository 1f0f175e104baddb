/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Output of the code under test as text. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/macros.h"

struct capture {
        FILE *file;
        char *text;
        size_t len;
};

static inline void capture_begin(struct capture *capture)
{
        *capture = (struct capture){0};
        capture->file = open_memstream(&capture->text, &capture->len);
        assert_non_null(capture->file);
}

/* The text so far; valid until the next write. */
static inline const char *capture_text(struct capture *capture)
{
        fflush(capture->file);
        return capture->text;
}

static inline void capture_end(struct capture *capture)
{
        fclose(capture->file);
        free(capture->text);
}

#define assert_contains(text, part) \
        do { \
                if (!strstr(text, part)) \
                        fail_msg("'%s' is not in:\n%s", part, text); \
        } while (0)
