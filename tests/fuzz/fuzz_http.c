/* SPDX-License-Identifier: Apache-2.0 */

/* The HTTP edge: bytes of a client that means harm, in odd pieces, against a server with all kinds of routes.
 * The first byte of the input chooses the size of the pieces and whether the client closes early. */

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "io/http_server.h"

#define ROUNDS_PER_PIECE 4
#define ROUNDS_AT_END 32
#define PIECES_MAX 256

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct loop *loop;
static struct sockaddr_un address;
static socklen_t address_len;
static struct http_request *parked; /* answered when the next one comes, or at the end of the input */

static void answer_parked(void)
{
        struct http_request *q = TAKE_PTR(parked);

        if (q)
                http_request_reply_empty(q, 204);
}

static void handle_get(struct http_request *q, void *userdata _unused_)
{
        const char *name = http_request_param(q, "name");

        http_request_reply_json(q, 200,
                json_pack("{s:s*, s:s*, s:s*}", "name", name, "q", http_request_query(q, "q"), "host",
                        http_request_header(q, "host")));
}

static void handle_post(struct http_request *q, void *userdata _unused_)
{
        struct error *error = NULL;
        json_t *body;

        if (http_request_json(q, &body, &error) < 0)
                http_request_reply_error(q, error);
        else
                http_request_reply_json(q, 200, json_incref(body));
}

static void handle_park(struct http_request *q, void *userdata _unused_)
{
        answer_parked();
        parked = q;
}

static void on_stream_closed(void *userdata _unused_)
{
}

static void handle_stream(struct http_request *q, void *userdata _unused_)
{
        struct http_stream *s =
                http_request_reply_stream(q, "application/x-ndjson", 256, on_stream_closed, NULL);

        for (int i = 0; s && i < 20; i++)
                if (http_stream_send(s, "{\"seq\": 1234}\n", 14) < 0)
                        return;
        http_stream_close(s);
}

static const struct http_route routes[] = {
        {"GET", "/api/v1/vms/{name}", handle_get},
        {"GET", "/api/v1/vms/{name}/disks/{disk}", handle_get},
        {"POST", "/api/v1/vms/{name}", handle_post},
        {"PUT", "/api/v1/vms/{name}", handle_post},
        {"GET", "/park", handle_park},
        {"GET", "/stream", handle_stream},
};

/* The address is one that the kernel makes up in the abstract name space: no file, no port. */
static void set_up(void)
{
        struct http_server_config config = {
                .body_max_bytes = 4096, .routes = routes, .n_routes = ARRAY_SIZE(routes)};
        struct http_server *server;

        address.sun_family = AF_UNIX;
        address_len = sizeof(address);
        config.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (config.listen_fd < 0 || loop_new(&loop) < 0 ||
                bind(config.listen_fd, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0 ||
                listen(config.listen_fd, 16) < 0 ||
                getsockname(config.listen_fd, (struct sockaddr *)&address, &address_len) < 0 ||
                http_server_new(loop, &config, &server, NULL) < 0)
                abort();
}

static void turn(int fd, int rounds)
{
        char sink[4096];

        for (int i = 0; i < rounds; i++) {
                (void)loop_iterate(loop, 0);
                while (recv(fd, sink, sizeof(sink), MSG_DONTWAIT) > 0)
                        ;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        size_t piece, sent = 0;
        bool close_early;
        int fd;

        if (size < 2)
                return 0;
        if (!loop)
                set_up();
        piece = MAX((size_t)(data[0] & 0x7f) * (data[0] & 0x7f), size / PIECES_MAX + 1);
        close_early = data[0] & 0x80;
        data++;
        size--;
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, address_len) < 0)
                abort();
        while (sent < size) {
                ssize_t n = send(fd, data + sent, MIN(piece, size - sent), MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n < 0 && errno != EAGAIN)
                        break;
                sent += n > 0 ? (size_t)n : 0;
                turn(fd, ROUNDS_PER_PIECE);
                if (n < 0)
                        break;
        }
        if (!close_early)
                turn(fd, ROUNDS_AT_END);
        close(fd);
        for (int i = 0; i < ROUNDS_AT_END / 4; i++)
                (void)loop_iterate(loop, 0);
        answer_parked();
        for (int i = 0; i < ROUNDS_AT_END / 4; i++)
                (void)loop_iterate(loop, 0);
        return 0;
}
