/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* For tests that need interfaces of their own: a fresh network namespace for this process, which ends with it.
 * Exits with 77 (meson: skipped) where the machine does not allow one. */

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static inline void netns_enter(void)
{
        if (unshare(CLONE_NEWNET) < 0) {
                fprintf(stderr, "skipped: no network namespace: %s\n", strerror(errno));
                exit(77);
        }
}

/* Runs an `ip`, `bridge` or other command line; the test fails if it does. */
static inline void netns_run(const char *command)
{
        assert_int_equal(system(command), 0);
}
