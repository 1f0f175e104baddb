/* SPDX-License-Identifier: Apache-2.0 */
#include "io/http_server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/text.h"
#include "base/torture.h"
#include "io/http_private.h"

/* MHD keeps an epoll set of its own. Its descriptor is an ordinary source of our loop: when it becomes
 * readable, or when the time limit that MHD asked for has passed, MHD_run() does one round, in which the
 * callbacks below are called.
 *
 * A request that is not answered at once is suspended in MHD, which then does not look at its socket at all.
 * So that a vanished client is noticed all the same, the loop watches the socket for its end meanwhile. */

#define BODY_MAX_DEFAULT (1024 * 1024)
#define CONNECTIONS_MAX_DEFAULT 1000
#define IDLE_TIMEOUT_DEFAULT_S 60
#define CONNECTION_MEMORY_BYTES 32768       /* request line and headers; MHD's own default */
#define DISCARD_MAX_BYTES (4 * 1024 * 1024) /* read of a body that is refused, so that the 413 can be seen */
#define RUN_MAX_MS 5                        /* of MHD's rounds in one turn of the loop */
#define TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

#define NO_MEMORY_TEXT \
        "{\"type\":\"urn:drover:error:no-memory\",\"title\":\"The program ran out of memory\"," \
        "\"status\":503,\"code\":\"no-memory\",\"detail\":\"the request could not be answered\"}"

static void run_mhd(struct http_server *server);

/* ---- requests in and out of MHD's rounds ---- */

static void on_client_gone(void *userdata, int fd _unused_, uint32_t events _unused_)
{
        struct http_request *q = userdata;

        loop_source_free(TAKE_PTR(q->watch));
        q->dead = true;
        http_request_aborted(q); /* may answer: then it is resumed already */
        if (q->suspended)
                http_request_resume(q);
}

void http_request_suspend(struct http_request *q)
{
        const union MHD_ConnectionInfo *info;

        MHD_suspend_connection(q->connection);
        q->suspended = true;
        info = MHD_get_connection_info(q->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        /* A client that has only closed its sending half counts as gone too. Without the watch, an answer is
         * lost in vain later; nothing worse. */
        if (info)
                (void)loop_add_io(
                        q->server->loop, info->connect_fd, EPOLLRDHUP, on_client_gone, q, &q->watch);
}

void http_request_resume(struct http_request *q)
{
        loop_source_free(TAKE_PTR(q->watch));
        q->suspended = false;
        MHD_resume_connection(q->connection);
        /* With the loop being ours, MHD has no descriptor to wake itself by: it looks when it is run. */
        q->server->round_wanted = true;
        (void)loop_source_rearm(q->server->timer, 0);
}

static enum MHD_Result queue_response(struct http_request *q)
{
        struct MHD_Response *response = TAKE_PTR(q->response);
        enum MHD_Result r;

        if (!response)
                return MHD_queue_response(q->connection, 503, q->server->no_memory);
        r = MHD_queue_response(q->connection, q->status, response);
        MHD_destroy_response(response); /* MHD has its own reference */
        return r;
}

/* ---- dispatch ---- */

static void reply_not_found(struct http_request *q)
{
        struct error *e = NULL;

        error_set(&e, ERROR_NOT_FOUND, "Check the path against the API's description.",
                "there is no %.200s here", q->path);
        http_request_reply_error(q, e);
}

static void reply_bad_path(struct http_request *q)
{
        struct error *e = NULL;

        error_set(&e, ERROR_BAD_REQUEST, "Encode it as RFC 3986 says.", "the path is not validly encoded");
        http_request_reply_error(q, e);
}

/* `allowed` is a list like "GET, HEAD"; NULL without memory. */
static void reply_bad_method(struct http_request *q, const char *allowed)
{
        struct error *e = NULL;

        if (allowed)
                (void)http_request_add_header(q, "Allow", allowed);
        error_set(&e, ERROR_METHOD_NOT_ALLOWED, NULL, "%.20s is not possible for %.200s, only %s", q->method,
                q->path, allowed ?: "other methods");
        http_request_reply_error(q, e);
}

static void reply_too_large(struct http_request *q)
{
        struct error *e = NULL;

        error_set(&e, ERROR_TOO_LARGE, NULL, "the body is larger than the %zu bytes allowed", q->body.max);
        http_request_reply_error(q, e);
}

static bool method_fits(const struct http_request *q, const struct http_route *route)
{
        return !strcmp(route->method, q->method) ||
               (!strcmp(q->method, "HEAD") && !strcmp(route->method, "GET"));
}

/* Finds the route of the request and fills its parameters. NULL: it has been answered. */
static const struct http_route *find_route(struct http_request *q)
{
        const struct http_server *server = q->server;
        _cleanup_buf_ struct buf allowed;
        bool path_known = false;

        buf_init(&allowed, 1024);
        for (size_t i = 0; i < server->n_routes; i++) {
                const struct http_route *route = &server->routes[i];
                struct http_path_params params = {};
                int r = http_path_match(route->path, q->path, &params);

                if (r == 0)
                        continue;
                if (r > 0 && method_fits(q, route)) {
                        q->params = params;
                        return route;
                }
                http_path_params_deinit(&params);
                if (r == -ENOMEM)
                        http_request_reply_error(q, NULL);
                else if (r < 0)
                        reply_bad_path(q);
                if (r < 0)
                        return NULL;
                path_known = true;
                (void)buf_printf(&allowed, "%s%s", allowed.len ? ", " : "", route->method);
        }
        if (path_known)
                reply_bad_method(q, allowed.data);
        else
                reply_not_found(q);
        return NULL;
}

/* The body is complete: answer, or let the handler do it. */
static void dispatch(struct http_request *q)
{
        const struct http_server *server = q->server;
        const struct http_route *route;

        q->dispatched = true;
        http_request_ref(q); /* the handler's; the answer drops it */
        if (q->discarded_bytes) {
                reply_too_large(q);
                return;
        }
        route = find_route(q);
        if (route && (server->admit_early || !server->admit || server->admit(q, server->userdata)))
                route->handler(q, server->userdata);
}

/* ---- MHD's callbacks ---- */

/* The length is announced: refuse before anything of it is read. */
static bool announces_too_much(const struct http_request *q)
{
        const char *length = http_request_header(q, "Content-Length");
        uint64_t n;

        return length && text_parse_u64(length, 0, q->body.max, &n) == -ERANGE;
}

/* Nothing more of it is taken in. */
static enum MHD_Result refused(struct http_request *q)
{
        q->dispatched = true;
        if (q->answered)
                return queue_response(q);
        http_request_suspend(q);
        return MHD_YES;
}

static enum MHD_Result begin(struct http_server *server, struct MHD_Connection *connection,
        const char *method, const char *path, void **state)
{
        struct http_request *q;

        if (http_request_new(server, connection, method, path, &q) < 0)
                return MHD_NO;
        *state = q;
        http_request_ref(q); /* whoever answers drops it */
        if (server->admit && server->admit_early && !server->admit(q, server->userdata))
                return refused(q);
        if (announces_too_much(q)) {
                reply_too_large(q);
                return refused(q);
        }
        http_request_unref(q);
        return MHD_YES;
}

static enum MHD_Result take_body(struct http_request *q, const char *data, size_t len)
{
        int r = q->discarded_bytes ? -E2BIG : buf_append(&q->body, data, len);

        if (r == -ENOMEM)
                return MHD_NO;
        if (r == 0)
                return MHD_YES;
        buf_deinit(&q->body);
        q->discarded_bytes += len;
        return q->discarded_bytes > DISCARD_MAX_BYTES ? MHD_NO : MHD_YES;
}

/* Called once for the headers, for each piece of the body, when all is there, and after each resume. */
static enum MHD_Result on_request(void *userdata, struct MHD_Connection *connection, const char *url,
        const char *method, const char *version _unused_, const char *data, size_t *len, void **state)
{
        struct http_request *q = *state;

        if (!q)
                return begin(userdata, connection, method, url, state);
        if (*len) {
                size_t n = *len;

                *len = 0;
                return take_body(q, data, n);
        }
        if (!q->dispatched)
                dispatch(q);
        if (q->dead)
                return MHD_NO;
        if (q->answered)
                return queue_response(q);
        http_request_suspend(q);
        return MHD_YES;
}

/* MHD is finished: answered, or the client is gone, or the server ends. */
static void on_completed(void *userdata _unused_, struct MHD_Connection *connection _unused_, void **state,
        enum MHD_RequestTerminationCode code _unused_)
{
        struct http_request *q = TAKE_PTR(*state);

        if (!q)
                return;
        loop_source_free(TAKE_PTR(q->watch));
        list_remove(&q->link);
        q->connection = NULL;
        q->server = NULL;
        q->suspended = false;
        if (q->stream)
                http_stream_detach(TAKE_PTR(q->stream));
        http_request_aborted(q);
        http_request_unref(q); /* MHD's */
}

static void on_connection(void *userdata, struct MHD_Connection *connection, void **context,
        enum MHD_ConnectionNotificationCode code)
{
        struct http_server *server = userdata;
        const union MHD_ConnectionInfo *info;
        struct http_connection *c = *context;

        if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
                if (c)
                        free(c->peer_name);
                free(c);
                *context = NULL;
                return;
        }
        if (!server->cert_pem)
                return;
        info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
        c = ALLOC(struct http_connection);
        if (!c || !info) { /* without it the handshake finds no certificate and fails */
                free(c);
                return;
        }
        c->server = server;
        *context = c;
        if (!server->client_ca_pem)
                return;
        gnutls_session_set_verify_function(info->tls_session, http_tls_verify);
        gnutls_certificate_server_set_request(
                info->tls_session, server->client_cert_required ? GNUTLS_CERT_REQUIRE : GNUTLS_CERT_REQUEST);
}

/* We decode ourselves, by segment: "%2F" is no separator. */
static size_t keep_encoded(void *userdata _unused_, struct MHD_Connection *connection _unused_, char *s)
{
        return strlen(s);
}

static void _printf_(2, 0) on_log(void *userdata _unused_, const char *fmt, va_list ap)
{
        char text[512];

        vsnprintf(text, sizeof(text), fmt, ap);
        log_debug("http server: %s", text);
}

/* ---- MHD in the loop ---- */

static void on_timer(void *userdata)
{
        run_mhd(userdata);
}

static void on_epoll(void *userdata, int fd _unused_, uint32_t events _unused_)
{
        run_mhd(userdata);
}

/* MHD_run() sends at most one TLS record, 16 KiB, on each connection. An answer of a megabyte would be sent in as many turns of the
 * loop as it has records, each with all that others do in a turn: where more can be sent at once, it is, for a moment. */
static void run_mhd(struct http_server *server)
{
        const struct clock *clock = loop_clock(server->loop);
        uint64_t until_ms = clock_now_ms(clock) + RUN_MAX_MS;
        MHD_UNSIGNED_LONG_LONG timeout_ms;
        bool again;

        do {
                server->round_wanted = false;
                (void)MHD_run(server->daemon);
                again = server->round_wanted ||
                        (MHD_get_timeout(server->daemon, &timeout_ms) == MHD_YES && timeout_ms == 0);
        } while (again && clock_now_ms(clock) < until_ms);
        if (server->round_wanted) /* a handler resumed something; MHD's own time limit does not know */
                (void)loop_source_rearm(server->timer, 0);
        else if (MHD_get_timeout(server->daemon, &timeout_ms) == MHD_YES)
                (void)loop_source_rearm(server->timer, timeout_ms);
        else
                (void)loop_source_disarm(server->timer);
}

/* ---- start and end ---- */

static struct MHD_Daemon *start_daemon(
        struct http_server *server, const struct http_server_config *config, int listen_fd)
{
        const struct MHD_OptionItem tls[] = {
                {MHD_OPTION_HTTPS_CERT_CALLBACK2, 0, (void *)(uintptr_t)http_tls_retrieve},
                {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)TLS_PRIORITIES},
                /* Last, so that it can be left out. */
                {server->client_ca_pem ? MHD_OPTION_HTTPS_MEM_TRUST : MHD_OPTION_END, 0,
                        server->client_ca_pem},
                {MHD_OPTION_END, 0, NULL},
        };
        const struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
        unsigned int flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;

        if (server->cert_pem)
                flags |= MHD_USE_TLS;
        if (torture_point())
                return NULL;
        return MHD_start_daemon(flags, 0, NULL, NULL, on_request, server, MHD_OPTION_EXTERNAL_LOGGER, on_log,
                NULL, MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, server,
                MHD_OPTION_NOTIFY_CONNECTION, on_connection, server, MHD_OPTION_UNESCAPE_CALLBACK,
                keep_encoded, NULL, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_CONNECTION_LIMIT,
                config->connections_max ?: CONNECTIONS_MAX_DEFAULT, MHD_OPTION_CONNECTION_TIMEOUT,
                config->idle_timeout_s ?: IDLE_TIMEOUT_DEFAULT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                (size_t)CONNECTION_MEMORY_BYTES, MHD_OPTION_ARRAY, server->cert_pem ? tls : none,
                MHD_OPTION_END);
}

static int load_certificates(
        struct http_server *server, const struct http_server_config *config, struct error **ret_error)
{
        int r = 0;

        if (!config->cert_pem)
                return 0;
        r = http_server_set_certificate(server, config->cert_pem, config->key_pem, ret_error);
        if (r < 0 || !config->client_ca_pem)
                return r;
        server->client_cert_required = config->client_cert_required;
        r = http_tls_check_ca(config->client_ca_pem, ret_error);
        if (r == 0 && alloc_replace(&server->client_ca_pem, config->client_ca_pem) < 0)
                r = error_from_errno(ret_error, ENOMEM, "cannot load the CA certificate");
        return r;
}

static int watch_daemon(struct http_server *server)
{
        const union MHD_DaemonInfo *info = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
        int r;

        if (!info)
                return -EIO;
        r = loop_add_io(server->loop, info->epoll_fd, EPOLLIN, on_epoll, server, &server->epoll_source);
        /* The first run puts the listening socket into MHD's set. */
        return r < 0 ? r : loop_add_timer(server->loop, 0, on_timer, server, &server->timer);
}

static int start(struct http_server *server, const struct http_server_config *config)
{
        static char no_memory_text[] = NO_MEMORY_TEXT;
        _cleanup_fd_ int listen_fd = -1;

        server->no_memory = MHD_create_response_from_buffer(
                sizeof(no_memory_text) - 1, no_memory_text, MHD_RESPMEM_PERSISTENT);
        if (!server->no_memory || MHD_add_response_header(server->no_memory, "Content-Type",
                                          "application/problem+json") != MHD_YES)
                return -ENOMEM;
        /* MHD closes the socket also when it fails; the caller's is taken over on success only. */
        listen_fd = fcntl(config->listen_fd, F_DUPFD_CLOEXEC, 3);
        if (listen_fd < 0)
                return -errno;
        server->daemon = start_daemon(server, config, listen_fd);
        if (!server->daemon)
                return -ENOMEM;
        TAKE_FD(listen_fd);
        return watch_daemon(server);
}

int http_server_new(struct loop *loop, const struct http_server_config *config,
        struct http_server **ret_server, struct error **ret_error)
{
        _cleanup_(http_server_freep) struct http_server *server = ALLOC(struct http_server);
        int r;

        if (!server)
                return error_from_errno(ret_error, ENOMEM, "cannot start the HTTP server");
        server->loop = loop;
        list_init(&server->requests);
        server->routes = config->routes;
        server->n_routes = config->n_routes;
        server->body_max_bytes = config->body_max_bytes ?: BODY_MAX_DEFAULT;
        server->admit = config->admit;
        server->admit_early = config->admit_early;
        server->userdata = config->userdata;
        r = load_certificates(server, config, ret_error);
        if (r < 0)
                return r;
        r = start(server, config);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot start the HTTP server");
        close(config->listen_fd);
        *ret_server = TAKE_PTR(server);
        return 0;
}

int http_server_set_certificate(
        struct http_server *server, const char *cert_pem, const char *key_pem, struct error **ret_error)
{
        _cleanup_free_ char *cert = alloc_strdup(cert_pem), *key = alloc_strdup(key_pem);
        int r;

        if (!cert || !key)
                return error_from_errno(ret_error, ENOMEM, "cannot load the server's certificate");
        r = http_tls_check_pair(cert, key, ret_error);
        if (r < 0)
                return r;
        free(server->cert_pem);
        if (server->key_pem)
                explicit_bzero(server->key_pem, strlen(server->key_pem));
        free(server->key_pem);
        server->cert_pem = TAKE_PTR(cert);
        server->key_pem = TAKE_PTR(key);
        return 0;
}

void http_server_free(struct http_server *server)
{
        struct http_request *q;

        if (!server)
                return;
        list_for_each (q, &server->requests, link) {
                q->dead = true;
                if (q->suspended) /* MHD aborts the program if it is stopped with suspended connections */
                        http_request_resume(q);
        }
        if (server->daemon)
                MHD_stop_daemon(server->daemon); /* completes every request */
        loop_source_free(server->epoll_source);
        loop_source_free(server->timer);
        if (server->no_memory)
                MHD_destroy_response(server->no_memory);
        free(server->cert_pem);
        if (server->key_pem)
                explicit_bzero(server->key_pem, strlen(server->key_pem));
        free(server->key_pem);
        free(server->client_ca_pem);
        free(server);
}
