/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/interrupt.h"

#include <poll.h>
#include <time.h>

volatile sig_atomic_t interrupt_count;

static void count(int signo)
{
        interrupt_count = interrupt_count + 1;
}

void interrupt_install(void)
{
        struct sigaction action = {.sa_handler = count};

        sigemptyset(&action.sa_mask);
        (void)sigaction(SIGINT, &action, NULL);
}

bool interrupt_wait(sig_atomic_t seen, uint64_t timeout_ms)
{
        struct timespec timeout = {(time_t)(timeout_ms / 1000), (long)(timeout_ms % 1000) * 1000000};
        sigset_t blocked, before;

        /* Blocked between the question and ppoll(), which lets it in: no interrupt is slept through. */
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGINT);
        sigprocmask(SIG_BLOCK, &blocked, &before);
        if (interrupt_count == seen)
                (void)ppoll(NULL, 0, &timeout, &before);
        sigprocmask(SIG_SETMASK, &before, NULL);
        return interrupt_count != seen;
}
