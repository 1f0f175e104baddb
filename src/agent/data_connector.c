/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/data_connector.h"

#include <errno.h>

#include "base/alloc.h"

/* Of one attempt and between two of them, when persisting: a packet that got lost on a network that was cut must not keep
 * the next from trying when it is whole again. */
#define ATTEMPT_MS 2000
#define PAUSE_MS 250

struct data_connector {
        struct loop *loop;
        struct sock_address address;
        uint64_t limit_ms;
        unsigned int channel;
        bool persist;
        data_connector_fn fn;
        void *userdata;
        int fd;
        struct loop_source *io, *timer;
};

static void attempt(void *userdata);

static void end_attempt(struct data_connector *c)
{
        loop_source_free(TAKE_PTR(c->io));
        loop_source_free(TAKE_PTR(c->timer));
        fd_closep(&c->fd);
}

/* `c` may be gone afterwards. */
static void failed(struct data_connector *c, int r)
{
        _cleanup_error_ struct error *error = NULL;
        char address[64];

        end_attempt(c);
        if (c->persist && r != -ECONNREFUSED && loop_add_timer(c->loop, PAUSE_MS, attempt, c, &c->timer) == 0)
                return;
        error_from_errno(&error, r, "cannot connect to the destination's data address %s",
                sock_address_format(&c->address, address));
        c->fn(c->userdata, c->channel, -1, error);
}

static void on_io(void *userdata, int fd, uint32_t events _unused_)
{
        struct data_connector *c = userdata;
        int r = sock_connect_result(fd);

        if (r < 0)
                return failed(c, r);
        c->fd = -1;
        end_attempt(c);
        c->fn(c->userdata, c->channel, fd, NULL);
}

static void on_late(void *userdata)
{
        failed(userdata, -ETIMEDOUT);
}

static int begin(struct data_connector *c)
{
        int r = sock_connect_tcp_start(&c->address, &c->fd);

        if (r == 0)
                r = sock_set_peer_limit(c->fd, c->limit_ms);
        if (r == 0)
                r = loop_add_io(c->loop, c->fd, EPOLLOUT, on_io, c, &c->io);
        if (r == 0 && c->persist)
                r = loop_add_timer(c->loop, ATTEMPT_MS, on_late, c, &c->timer);
        return r;
}

static void attempt(void *userdata)
{
        struct data_connector *c = userdata;
        int r;

        end_attempt(c);
        r = begin(c);
        if (r < 0)
                failed(c, r);
}

int data_connector_start(struct loop *loop, const struct sock_address *address, uint64_t limit_ms,
        unsigned int channel, bool persist, data_connector_fn fn, void *userdata,
        struct data_connector **ret_connector, struct error **ret_error)
{
        _cleanup_(data_connector_freep) struct data_connector *c = ALLOC(struct data_connector);
        int r;

        if (!c)
                return error_from_errno(ret_error, ENOMEM, "data connection");
        *c = (struct data_connector){.loop = loop,
                .address = *address,
                .limit_ms = limit_ms,
                .channel = channel,
                .persist = persist,
                .fn = fn,
                .userdata = userdata,
                .fd = -1};
        /* The call-back comes from the loop, never from here. */
        r = persist ? loop_add_timer(loop, 0, attempt, c, &c->timer) : begin(c);
        if (r < 0) {
                char text[64];

                return error_from_errno(ret_error, r, "cannot connect to the destination's data address %s",
                        sock_address_format(address, text));
        }
        *ret_connector = TAKE_PTR(c);
        return 0;
}

void data_connector_free(struct data_connector *c)
{
        if (!c)
                return;
        end_attempt(c);
        free(c);
}
