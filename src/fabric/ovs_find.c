/* SPDX-License-Identifier: Apache-2.0 */

/* The question is `ovs-appctl fdb/show BRIDGE` (JSON-RPC on ovs-vswitchd's control socket), on a connection of its own: it fits into a socket's room, and
 * the answer is read as it comes. */

#include "fabric/ovs_find.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "fabric/ovs_macs.h"
#include "io/sock.h"

#define ANSWER_MAX (4 * 1024 * 1024) /* bytes: some 80,000 addresses */
#define READ_SIZE 65536

struct ovs_find {
        const struct ovs_view *seen;
        struct loop_source *io, *limit;
        int fd;
        struct buf in;
        char bridge[IFNAMSIZ];
        uint8_t mac[MAC_SIZE];
        struct ovs_find_handler handler;
};

void ovs_find_free(struct ovs_find *find)
{
        if (!find)
                return;
        loop_source_free(find->io);
        loop_source_free(find->limit);
        fd_closep(&find->fd);
        buf_deinit(&find->in);
        free(find);
}

/* `table` NULL: it is not known. */
static void finish(struct ovs_find *find, const char *table)
{
        const struct ovs_find_handler *handler = &find->handler;
        _cleanup_json_ json_t *macs = NULL;
        char port[IFNAMSIZ] = "";

        loop_source_free(TAKE_PTR(find->io));
        loop_source_free(TAKE_PTR(find->limit));
        if (handler->listed) {
                if (table)
                        (void)ovs_macs_foreign(find->seen, find->bridge, table, &macs);
                handler->listed(handler->userdata, macs); /* may free us */
                return;
        }
        if (table)
                ovs_macs_find_port(find->seen, find->bridge, table, find->mac, port);
        handler->found(handler->userdata, port); /* may free us */
}

static void on_limit(void *userdata)
{
        finish(userdata, NULL);
}

static void on_readable(void *userdata, int fd, uint32_t events _unused_)
{
        struct ovs_find *find = userdata;
        _cleanup_json_ json_t *answer = NULL;
        void *to = buf_reserve(&find->in, READ_SIZE);
        ssize_t n = to ? recv(fd, to, READ_SIZE, MSG_DONTWAIT) : 0;

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0)
                return finish(find, NULL);
        buf_commit(&find->in, (size_t)n);
        /* A part of an answer is no document yet. */
        if (doc_parse(find->in.data, find->in.len, &answer, NULL) == 0)
                finish(find, json_string_value(json_object_get(answer, "result")));
}

static int ask(struct ovs_find *find, const char *control)
{
        _cleanup_json_ json_t *question =
                json_pack("{s:s, s:[s], s:i}", "method", "fdb/show", "params", find->bridge, "id", 0);
        _cleanup_free_ char *text = question ? doc_to_text(question) : NULL;
        ssize_t n;
        int r;

        if (!text)
                return -ENOMEM;
        r = sock_connect_unix(control, SOCK_STREAM, &find->fd);
        if (r < 0)
                return r;
        n = send(find->fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
                return -errno;
        return (size_t)n == strlen(text) ? 0 : -EAGAIN;
}

int ovs_find_new(struct loop *loop, const char *control, const struct ovs_view *seen, const char *bridge,
        const struct ovs_find_handler *handler, struct ovs_find **ret_find)
{
        _cleanup_(ovs_find_freep) struct ovs_find *find = ALLOC(struct ovs_find);
        int r;

        if (!find)
                return -ENOMEM;
        *find = (struct ovs_find){.seen = seen, .fd = -1, .handler = *handler};
        buf_init(&find->in, ANSWER_MAX);
        snprintf(find->bridge, sizeof(find->bridge), "%s", bridge);
        if (handler->mac)
                memcpy(find->mac, handler->mac, MAC_SIZE);
        find->handler.mac = NULL; /* borrowed */
        r = ask(find, control);
        if (r == 0)
                r = loop_add_io(loop, find->fd, EPOLLIN, on_readable, find, &find->io);
        if (r == 0)
                r = loop_add_timer(loop, OVS_FIND_MS, on_limit, find, &find->limit);
        if (r < 0)
                return r;
        *ret_find = TAKE_PTR(find);
        return 0;
}
