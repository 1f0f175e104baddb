/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A real server and client on loopback, for the tests of both. Include after cmocka.h. */

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "io/http_client.h"
#include "io/http_server.h"
#include "io/pki.h"
#include "io/sock.h"
#include "unit/torture_loop.h"

#define WAIT_MS 20000
#define STREAM_MAX_BYTES 65536

struct fixture {
        struct loop *loop;
        struct http_server *server;
        struct http_client *client;
        char address[64];
        struct http_request *parked;
        struct http_stream *stream;
        bool parked_arrived, aborted, closed, admit_refuses;
        int n_handled;
};

struct answer {
        bool done;
        int status;
        int n_replies;
        json_t *body;
        int code; /* enum error_code, or -1 */
        char message[512];
};

/* ---- routes ---- */

static void handle_who(struct http_request *q, void *userdata)
{
        struct fixture *f = userdata;

        f->n_handled++;
        http_request_reply_json(q, 200,
                json_pack("{s:s, s:s, s:s*, s:s*, s:s*, s:s*, s:s*}", "method", http_request_method(q),
                        "path", http_request_path(q), "name", http_request_param(q, "name"), "q",
                        http_request_query(q, "q"), "peer", http_request_peer_name(q), "from",
                        http_request_peer_address(q), "x", http_request_header(q, "x-test")));
}

static void handle_echo(struct http_request *q, void *userdata _unused_)
{
        struct error *error = NULL;
        json_t *body;

        if (http_request_json(q, &body, &error) < 0)
                http_request_reply_error(q, error);
        else
                http_request_reply_json(q, 201, json_incref(body));
}

static void on_abort(void *userdata)
{
        struct fixture *f = userdata;

        f->aborted = true;
}

static void handle_park(struct http_request *q, void *userdata)
{
        struct fixture *f = userdata;

        f->parked = q;
        f->parked_arrived = true;
        http_request_on_abort(q, on_abort, f);
}

static void answer_now(void *userdata)
{
        struct fixture *f = userdata;

        f->aborted = true;
        http_request_reply_empty(TAKE_PTR(f->parked), 204);
}

static void handle_park_and_answer_on_abort(struct http_request *q, void *userdata)
{
        struct fixture *f = userdata;

        handle_park(q, userdata);
        http_request_on_abort(q, answer_now, f);
}

static void on_closed(void *userdata)
{
        struct fixture *f = userdata;

        f->closed = true;
        f->stream = NULL;
}

/* Answers the parked request from inside another one's handler. */
static void handle_release(struct http_request *q, void *userdata)
{
        struct fixture *f = userdata;

        if (f->parked)
                http_request_reply_empty(TAKE_PTR(f->parked), 204);
        http_request_reply_empty(q, 204);
}

static void handle_stream(struct http_request *q, void *userdata)
{
        struct fixture *f = userdata;

        f->parked_arrived = true;
        f->stream = http_request_reply_stream(q, "application/x-ndjson", STREAM_MAX_BYTES, on_closed, f);
}

static void handle_problem(struct http_request *q, void *userdata _unused_)
{
        struct error *error = NULL;

        error_set(&error, ERROR_LOCKED, "Stop it there.", "the disk is in use");
        http_request_reply_error(q, error);
}

static void handle_broken(struct http_request *q, void *userdata _unused_)
{
        http_request_reply_text(q, 200, "application/json", "{\"a\": ");
}

static void handle_large(struct http_request *q, void *userdata _unused_)
{
        char text[5001];

        memset(text, 'x', 5000);
        text[5000] = '\0';
        http_request_reply_json(q, 200, json_pack("{s:s}", "x", text));
}

static void handle_redirect(struct http_request *q, void *userdata _unused_)
{
        assert_int_equal(http_request_add_header(q, "Location", "/who"), 0);
        http_request_reply_empty(q, 302);
}

static bool admit(struct http_request *q, void *userdata)
{
        struct fixture *f = userdata;
        struct error *error = NULL;

        if (!f->admit_refuses)
                return true;
        error_set(&error, ERROR_UNAUTHENTICATED, NULL, "who are you?");
        http_request_reply_error(q, error);
        return false;
}

static const struct http_route fixture_routes[] = {
        {"GET", "/who", handle_who},
        {"DELETE", "/who", handle_who},
        {"GET", "/vms/{name}", handle_who},
        {"POST", "/echo", handle_echo},
        {"GET", "/park", handle_park},
        {"GET", "/park-answer", handle_park_and_answer_on_abort},
        {"POST", "/release", handle_release},
        {"GET", "/stream", handle_stream},
        {"GET", "/problem", handle_problem},
        {"GET", "/broken", handle_broken},
        {"GET", "/large", handle_large},
        {"GET", "/redirect", handle_redirect},
};

/* ---- set-up ---- */

/* A listening socket on a free port of 127.0.0.1; its address as text. */
static inline int fixture_listen(char address[static 64])
{
        struct sock_address a = {.len = sizeof(struct sockaddr_in)};
        struct sockaddr_in *in = (struct sockaddr_in *)&a.storage;
        int fd = -1;

        in->sin_family = AF_INET;
        in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        assert_true(fd >= 0);
        assert_int_equal(bind(fd, (struct sockaddr *)in, sizeof(*in)), 0);
        assert_int_equal(listen(fd, 16), 0);
        assert_int_equal(sock_local_address(fd, &a), 0);
        sock_address_format(&a, address);
        return fd;
}

static inline int fixture_start_server(
        struct fixture *f, struct http_server_config *config, struct error **ret_error)
{
        _cleanup_fd_ int fd = fixture_listen(f->address);
        int r;

        config->listen_fd = fd;
        config->routes = fixture_routes;
        config->n_routes = ARRAY_SIZE(fixture_routes);
        config->admit = admit;
        config->userdata = f;
        r = http_server_new(f->loop, config, &f->server, ret_error);
        if (r == 0)
                TAKE_FD(fd);
        return r;
}

static inline void fixture_deinit(struct fixture *f)
{
        http_client_free(f->client);
        http_server_free(f->server);
        if (f->parked)
                http_request_reply_empty(TAKE_PTR(f->parked), 204);
        loop_free(f->loop);
}

/* Plain HTTP on both sides. */
static inline void fixture_init(struct fixture *f)
{
        struct http_server_config config = {.body_max_bytes = 1000};
        struct http_client_config client = {};

        *f = (struct fixture){};
        assert_int_equal(loop_new(&f->loop), 0);
        assert_int_equal(fixture_start_server(f, &config, NULL), 0);
        assert_int_equal(http_client_new(f->loop, &client, &f->client, NULL), 0);
}

static inline int plain_set_up(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        fixture_init(f);
        *state = f;
        return 0;
}

static inline int plain_tear_down(void **state)
{
        fixture_deinit(*state);
        free(*state);
        return 0;
}

/* ---- calls ---- */

static void on_reply(void *userdata, int status, json_t *body, struct error *error)
{
        struct answer *a = userdata;

        a->done = true;
        a->n_replies++;
        a->status = status;
        a->body = json_incref(body);
        a->code = error ? (int)error->code : -1;
        snprintf(a->message, sizeof(a->message), "%s", error ? error_message(error) : "");
}

static inline void answer_deinit(struct answer *a)
{
        json_decref(a->body);
}
#define _cleanup_answer_ _cleanup_(answer_deinit)

static inline const char *answer_text(const struct answer *a, const char *key)
{
        return json_string_value(json_object_get(a->body, key)) ?: "(none)";
}

static inline void fixture_call_spec(struct fixture *f, const struct http_call_spec *spec, struct answer *ret)
{
        assert_int_equal(http_client_call(f->client, spec, on_reply, ret, NULL, NULL), 0);
        assert_false(ret->done);
        assert_int_equal(loop_wait(f->loop, &ret->done, WAIT_MS), 0);
        assert_int_equal(ret->n_replies, 1);
}

static inline void fixture_call(
        struct fixture *f, const char *method, const char *path, const json_t *body, struct answer *ret)
{
        const struct http_call_spec spec = {
                .method = method, .address = f->address, .path = path, .body = body, .timeout_ms = WAIT_MS};

        fixture_call_spec(f, &spec, ret);
}

/* ---- a client that does as it likes ---- */

static inline int raw_connect(struct fixture *f, const char *text)
{
        struct sock_address a;
        int fd;

        assert_int_equal(sock_address_parse(f->address, 0, false, &a, NULL), 0);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&a.storage, a.len), 0);
        assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
        return fd;
}

/* Runs the loop and reads until the text has come, or the connection ended. */
static inline char *raw_read_until(struct fixture *f, int fd, const char *needle)
{
        static char text[65536];
        size_t len = 0;

        text[0] = '\0';
        for (int i = 0; i < WAIT_MS / 10; i++) {
                ssize_t n = recv(fd, text + len, sizeof(text) - 1 - len, MSG_DONTWAIT);

                if (n == 0)
                        return text;
                len += n > 0 ? (size_t)n : 0;
                text[len] = '\0';
                if (strstr(text, needle))
                        return text;
                if (n < 0)
                        assert_int_equal(loop_iterate(f->loop, 10), 0);
        }
        fail_msg("\"%s\" did not come, only \"%s\"", needle, text);
        return NULL;
}
