/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Runs a test body once, or, in a build with -Dtorture=true, again and again with the first, second, ...
 * fallible call failing, until the body passes without reaching it. A body does one thing from beginning to
 * end, frees what it made, and checks each result with
 *
 *         if (torture_failed(r < 0))
 *                 return;
 *
 * which is a failure of the test unless a call was made to fail. Leaks and crashes are the sanitizers' to find.
 * Include after cmocka.h. */

#include <stdbool.h>
#include <stdint.h>

#include "base/torture.h"

#ifdef DROVER_TORTURE
static uint64_t torture_nth;

static inline bool torture_injected(void)
{
        return torture_nth && torture_count() >= torture_nth;
}

static inline void torture_loop(void (*body)(void *), void *arg)
{
        for (torture_nth = 1;; torture_nth++) {
                bool reached;

                torture_arm(torture_nth);
                body(arg);
                reached = torture_injected();
                torture_arm(0);
                if (!reached)
                        break;
        }
        torture_nth = 0;
}
#else
static inline bool torture_injected(void)
{
        return false;
}

static inline void torture_loop(void (*body)(void *), void *arg)
{
        body(arg);
}
#endif

static inline bool torture_failed(bool failed)
{
        if (failed)
                assert_true(torture_injected());
        return failed;
}
