/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The event loop of the control programs: a thin layer over sd-event, one loop a thread. Handlers never
 * block. A source may be freed from inside any handler, its own included. */

#include <sys/epoll.h>
#include <systemd/sd-event.h>

#include "base/clock.h"
#include "base/macros.h"

struct loop;
struct loop_source;

typedef void (*loop_io_fn)(
        void *userdata, int fd, uint32_t events); /* EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR */
typedef void (*loop_fn)(void *userdata);

/* 0 or negative errno. */
int loop_new(struct loop **ret_loop);
void loop_free(struct loop *loop);
DEFINE_CLEANUP(struct loop *, loop_free)

/* Runs until loop_exit(); returns its code, or negative errno. */
int loop_run(struct loop *loop);
void loop_exit(struct loop *loop, int code);
/* Waits at most timeout_ms for one round of events and dispatches it: for tests and short waits at start-up.
 */
int loop_iterate(struct loop *loop, uint64_t timeout_ms);
/* Iterates until *flag is true: 0, or -ETIMEDOUT. */
int loop_wait(struct loop *loop, const bool *flag, uint64_t timeout_ms);

/* Calls fn after each handler with how long it ran, in nanoseconds: for as long nothing else could be done. NULL: nobody is told. */
void loop_on_busy(struct loop *loop, void (*fn)(void *userdata, uint64_t ns), void *userdata);

sd_event *loop_sd_event(struct loop *loop); /* borrowed */
const struct clock *loop_clock(struct loop *loop);

/* Watches `fd` (not owned). 0 or negative errno. */
int loop_add_io(
        struct loop *loop, int fd, uint32_t events, loop_io_fn fn, void *userdata, struct loop_source **ret);
int loop_source_set_events(struct loop_source *source, uint32_t events);

/* Calls fn once after delay_ms; stays allocated and can be armed again. */
int loop_add_timer(
        struct loop *loop, uint64_t delay_ms, loop_fn fn, void *userdata, struct loop_source **ret);
int loop_source_rearm(struct loop_source *timer, uint64_t delay_ms);
int loop_source_disarm(struct loop_source *timer);

/* Calls fn once from the loop's next round. */
int loop_add_defer(struct loop *loop, loop_fn fn, void *userdata, struct loop_source **ret);

/* Closes a descriptor of which the kernel lets nobody go on until it is closed (a bound packet socket: a grace period of RCU, 12 to 19 ms where it
 * was measured): from a later round, one a round, the oldest first, with others' events in between; at once where that cannot be arranged. What is left when the loop is freed is closed then. -1 is nothing. */
void loop_close_later(struct loop *loop, int fd);

/* Blocks the signal for the process and calls fn for each arrival. */
int loop_add_signal(struct loop *loop, int signo, loop_fn fn, void *userdata, struct loop_source **ret);

void loop_source_free(struct loop_source *source);
DEFINE_CLEANUP(struct loop_source *, loop_source_free)
