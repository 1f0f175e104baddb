/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/data_connector.h"

#include <errno.h>

#include "base/alloc.h"

/* Of one attempt, where there will be another, and between two of them: a packet that got lost on a network that was cut must
 * not keep the next from trying when it is whole again. */
#define ATTEMPT_MS 2000
#define ATTEMPT_OF_SEVERAL_MS 1000
#define PAUSE_MS 250
#define TRIES_A_PATH 2

struct data_connector {
        struct loop *loop;
        struct data_connector_spec spec;
        unsigned int path;
        unsigned int n_tries, n_refused; /* the latter in turn */
        int fd;
        struct loop_source *io, *timer;
};

static void attempt(void *userdata);

static struct data_path *path_of(struct data_connector *c)
{
        return &c->spec.paths->paths[c->path];
}

static void end_attempt(struct data_connector *c)
{
        loop_source_free(TAKE_PTR(c->io));
        loop_source_free(TAKE_PTR(c->timer));
        fd_closep(&c->fd);
}

static bool may_try_again(const struct data_connector *c)
{
        switch (c->spec.mode) {
        case DATA_CONNECT:
                return c->spec.paths->n_paths > 1 && c->n_tries < TRIES_A_PATH * c->spec.paths->n_paths;
        case DATA_RECONNECT:
                return c->n_refused < c->spec.paths->n_paths;
        case DATA_TRY:
                break;
        }
        return false;
}

/* `c` may be gone afterwards. */
static void failed(struct data_connector *c, int r)
{
        _cleanup_error_ struct error *error = NULL;
        char address[64];

        end_attempt(c);
        path_of(c)->up = false;
        c->n_refused = r == -ECONNREFUSED ? c->n_refused + 1 : 0;
        if (may_try_again(c) && loop_add_timer(c->loop, PAUSE_MS, attempt, c, &c->timer) == 0)
                return;
        error_from_errno(&error, r, "cannot connect to the destination's data address %s",
                sock_address_format(&path_of(c)->address, address));
        c->spec.fn(c->spec.userdata, c->spec.channel, -1, error);
}

static void on_io(void *userdata, int fd, uint32_t events _unused_)
{
        struct data_connector *c = userdata;
        int r = sock_connect_result(fd);

        if (r < 0)
                return failed(c, r);
        c->fd = -1;
        end_attempt(c);
        path_of(c)->up = true;
        c->spec.paths->path_of[c->spec.channel] = (uint8_t)c->path;
        c->spec.fn(c->spec.userdata, c->spec.channel, fd, NULL);
}

static void on_late(void *userdata)
{
        failed(userdata, -ETIMEDOUT);
}

static int begin(struct data_connector *c)
{
        const struct data_path *path = path_of(c);
        uint64_t limit_ms = c->spec.paths->n_paths > 1 ? ATTEMPT_OF_SEVERAL_MS : ATTEMPT_MS;
        int r = sock_connect_tcp_via(
                &path->address, path->bound ? path->device : "", path->probed ? path->mtu : 0, &c->fd);

        if (r == 0)
                r = sock_set_peer_limit(c->fd, c->spec.limit_ms);
        if (r == 0)
                r = loop_add_io(c->loop, c->fd, EPOLLOUT, on_io, c, &c->io);
        if (r == 0 && (c->spec.mode != DATA_CONNECT || c->spec.paths->n_paths > 1))
                r = loop_add_timer(c->loop, limit_ms, on_late, c, &c->timer);
        return r;
}

static void attempt(void *userdata)
{
        struct data_connector *c = userdata;
        int r;

        end_attempt(c);
        c->n_tries++;
        if (c->spec.mode == DATA_TRY) {
                c->path = c->spec.path;
        } else {
                c->path = data_paths_pick(c->spec.paths, c->spec.channel);
                c->spec.paths->path_of[c->spec.channel] = (uint8_t)c->path; /* others are spread around it */
        }
        r = begin(c);
        if (r < 0)
                failed(c, r);
}

int data_connector_start(struct loop *loop, const struct data_connector_spec *spec,
        struct data_connector **ret_connector, struct error **ret_error)
{
        _cleanup_(data_connector_freep) struct data_connector *c = ALLOC(struct data_connector);
        int r;

        if (!c)
                return error_from_errno(ret_error, ENOMEM, "data connection");
        *c = (struct data_connector){.loop = loop, .spec = *spec, .fd = -1};
        /* The call-back comes from the loop, never from here. */
        r = loop_add_timer(loop, 0, attempt, c, &c->timer);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot connect to the destination");
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
