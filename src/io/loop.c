/* SPDX-License-Identifier: Apache-2.0 */
#include "io/loop.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/torture.h"

#define TIMER_ACCURACY_US 1000 /* sd-event's default of 250 ms would merge wake-ups that we time */
#define CLOSE_REST_MS 20       /* about as long as a close takes: half of the time is others' */
#define DELAY_MAX_MS (UINT64_C(365) * 24 * 3600 * 1000)

struct loop {
        sd_event *event;
        void (*busy)(void *userdata, uint64_t ns);
        void *busy_userdata;
        struct loop_source *close_timer;
        int *to_close;
        size_t n_to_close, room_to_close;
};

/* One struct for all kinds. It is not touched after its handler ran, because the handler may have freed it;
 * sd-event itself stands that. */
struct loop_source {
        struct loop *loop;
        sd_event_source *source;
        union {
                loop_io_fn io_fn;
                loop_fn fn;
        };
        void *userdata;
};

static void close_first(struct loop *loop, size_t n);

int loop_new(struct loop **ret_loop)
{
        _cleanup_(loop_freep) struct loop *loop = ALLOC(struct loop);
        int r;

        if (!loop)
                return -ENOMEM;
        /* Peers vanish all the time; EPIPE says so well enough. Some libraries below write() to sockets. */
        (void)signal(SIGPIPE, SIG_IGN);
        r = torture_point() ? -ENOMEM : sd_event_new(&loop->event);
        if (r < 0)
                return r;
        *ret_loop = TAKE_PTR(loop);
        return 0;
}

void loop_free(struct loop *loop)
{
        if (!loop)
                return;
        loop_source_free(loop->close_timer);
        close_first(loop, loop->n_to_close);
        free(loop->to_close);
        sd_event_unref(loop->event);
        free(loop);
}

int loop_run(struct loop *loop)
{
        return sd_event_loop(loop->event);
}

void loop_exit(struct loop *loop, int code)
{
        (void)sd_event_exit(loop->event, code);
}

int loop_iterate(struct loop *loop, uint64_t timeout_ms)
{
        int r = sd_event_run(loop->event, MIN(timeout_ms, DELAY_MAX_MS) * 1000);

        return r < 0 ? r : 0;
}

int loop_wait(struct loop *loop, const bool *flag, uint64_t timeout_ms)
{
        uint64_t deadline = clock_now_ms(&clock_system) + MIN(timeout_ms, DELAY_MAX_MS);

        while (!*flag) {
                uint64_t now = clock_now_ms(&clock_system);
                int r;

                if (now >= deadline)
                        return -ETIMEDOUT;
                r = loop_iterate(loop, deadline - now);
                if (r < 0)
                        return r;
        }
        return 0;
}

void loop_on_busy(struct loop *loop, void (*fn)(void *userdata, uint64_t ns), void *userdata)
{
        loop->busy = fn;
        loop->busy_userdata = userdata;
}

/* Around each handler. */
static uint64_t handler_begins(const struct loop *loop)
{
        return loop->busy ? clock_monotonic_ns() : 0;
}

static void handler_ended(const struct loop *loop, uint64_t began_ns)
{
        if (loop->busy && began_ns)
                loop->busy(loop->busy_userdata, clock_monotonic_ns() - began_ns);
}

sd_event *loop_sd_event(struct loop *loop)
{
        return loop->event;
}

const struct clock *loop_clock(struct loop *loop _unused_)
{
        return &clock_system;
}

static struct loop_source *source_new(struct loop *loop, void *userdata)
{
        struct loop_source *s = ALLOC(struct loop_source);

        if (!s)
                return NULL;
        if (torture_point()) { /* stands for a failure of the sd_event_add_* call that follows */
                free(s);
                return NULL;
        }
        s->loop = loop;
        s->userdata = userdata;
        return s;
}

static int source_finish(struct loop_source *s, int r, struct loop_source **ret)
{
        if (r < 0) {
                free(s);
                return r;
        }
        *ret = s;
        return 0;
}

static int on_io(sd_event_source *source _unused_, int fd, uint32_t events, void *userdata)
{
        struct loop_source *s = userdata;
        const struct loop *loop = s->loop;
        uint64_t began_ns = handler_begins(loop);

        s->io_fn(s->userdata, fd, events);
        handler_ended(loop, began_ns);
        return 0;
}

int loop_add_io(
        struct loop *loop, int fd, uint32_t events, loop_io_fn fn, void *userdata, struct loop_source **ret)
{
        struct loop_source *s = source_new(loop, userdata);

        if (!s)
                return -ENOMEM;
        s->io_fn = fn;
        return source_finish(s, sd_event_add_io(loop->event, &s->source, fd, events, on_io, s), ret);
}

int loop_source_set_events(struct loop_source *source, uint32_t events)
{
        return sd_event_source_set_io_events(source->source, events);
}

static void call(const struct loop_source *s)
{
        const struct loop *loop = s->loop;
        uint64_t began_ns = handler_begins(loop);

        s->fn(s->userdata);
        handler_ended(loop, began_ns);
}

static uint64_t due_us(uint64_t delay_ms)
{
        return clock_monotonic_ns() / 1000 + MIN(delay_ms, DELAY_MAX_MS) * 1000;
}

static int on_time(sd_event_source *source _unused_, uint64_t usec _unused_, void *userdata)
{
        call(userdata);
        return 0;
}

int loop_add_timer(struct loop *loop, uint64_t delay_ms, loop_fn fn, void *userdata, struct loop_source **ret)
{
        struct loop_source *s = source_new(loop, userdata);

        if (!s)
                return -ENOMEM;
        s->fn = fn;
        return source_finish(s,
                sd_event_add_time(loop->event, &s->source, CLOCK_MONOTONIC, due_us(delay_ms),
                        TIMER_ACCURACY_US, on_time, s),
                ret);
}

int loop_source_rearm(struct loop_source *timer, uint64_t delay_ms)
{
        int r = sd_event_source_set_time(timer->source, due_us(delay_ms));

        return r < 0 ? r : sd_event_source_set_enabled(timer->source, SD_EVENT_ONESHOT);
}

int loop_source_disarm(struct loop_source *timer)
{
        return sd_event_source_set_enabled(timer->source, SD_EVENT_OFF);
}

static int on_defer(sd_event_source *source _unused_, void *userdata)
{
        call(userdata);
        return 0;
}

int loop_add_defer(struct loop *loop, loop_fn fn, void *userdata, struct loop_source **ret)
{
        struct loop_source *s = source_new(loop, userdata);

        if (!s)
                return -ENOMEM;
        s->fn = fn;
        return source_finish(s, sd_event_add_defer(loop->event, &s->source, on_defer, s), ret);
}

/* The first `n` of them, the oldest first. */
static void close_first(struct loop *loop, size_t n)
{
        for (size_t i = 0; i < n; i++)
                (void)close(loop->to_close[i]);
        loop->n_to_close -= n;
        if (loop->n_to_close)
                memmove(loop->to_close, loop->to_close + n, loop->n_to_close * sizeof(*loop->to_close));
}

static void on_close(void *userdata)
{
        struct loop *loop = userdata;

        close_first(loop, MIN(loop->n_to_close, (size_t)1));
        /* Without a timer nobody would come for the rest. */
        if (loop->n_to_close && loop_source_rearm(loop->close_timer, CLOSE_REST_MS) < 0)
                close_first(loop, loop->n_to_close);
}

/* False: no memory. */
static bool keep_to_close(struct loop *loop, int fd)
{
        if (loop->n_to_close == loop->room_to_close) {
                size_t room = loop->room_to_close ? 2 * loop->room_to_close : 8;
                int *fds = alloc_resize(loop->to_close, room, sizeof(*fds));

                if (!fds)
                        return false;
                loop->to_close = fds;
                loop->room_to_close = room;
        }
        loop->to_close[loop->n_to_close++] = fd;
        return true;
}

void loop_close_later(struct loop *loop, int fd)
{
        int r = 0;

        if (fd < 0)
                return;
        if (!keep_to_close(loop, fd)) {
                (void)close(fd);
                return;
        }
        if (!loop->close_timer)
                r = loop_add_timer(loop, CLOSE_REST_MS, on_close, loop, &loop->close_timer);
        else if (loop->n_to_close == 1)
                r = loop_source_rearm(loop->close_timer, CLOSE_REST_MS);
        if (r < 0)
                close_first(loop, loop->n_to_close);
}

static int on_signal(
        sd_event_source *source _unused_, const struct signalfd_siginfo *info _unused_, void *userdata)
{
        call(userdata);
        return 0;
}

int loop_add_signal(struct loop *loop, int signo, loop_fn fn, void *userdata, struct loop_source **ret)
{
        struct loop_source *s;
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, signo);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return -errno;
        s = source_new(loop, userdata);
        if (!s)
                return -ENOMEM;
        s->fn = fn;
        return source_finish(s, sd_event_add_signal(loop->event, &s->source, signo, on_signal, s), ret);
}

void loop_source_free(struct loop_source *source)
{
        if (!source)
                return;
        (void)sd_event_source_set_enabled(source->source, SD_EVENT_OFF);
        sd_event_source_unref(source->source);
        free(source);
}
