/* SPDX-License-Identifier: Apache-2.0 */

/* io/tls.h without TLS, for the fuzzers of what lies above it: a mutated record would only ever test OpenSSL's
 * checksums. Linked in front of the library, so that its own tls.c is never taken. */

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "io/tls.h"

struct tls_context {
        bool server;
};

struct tls_stream {
        int fd;
};

int tls_context_new(bool server, const char *cert_pem, const char *key_pem, const char *peer_fingerprint,
        struct tls_context **ret_context, struct error **ret_error)
{
        struct tls_context *context = malloc(sizeof(*context));

        if (!context)
                return -ENOMEM;
        context->server = server;
        *ret_context = context;
        return 0;
}

int tls_context_agree_on(struct tls_context *context, const char *text, struct error **ret_error)
{
        return 0;
}

void tls_context_free(struct tls_context *context)
{
        free(context);
}

int tls_stream_new(struct tls_context *context, int fd, uint64_t timeout_ms, uint64_t io_timeout_ms,
        struct tls_stream **ret_stream, struct error **ret_error)
{
        struct tls_stream *stream = malloc(sizeof(*stream));
        struct timeval limit = {.tv_sec = (time_t)(io_timeout_ms / 1000)};

        if (!stream) {
                close(fd);
                return -ENOMEM;
        }
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
        stream->fd = fd;
        *ret_stream = stream;
        return 0;
}

void tls_stream_free(struct tls_stream *stream)
{
        if (!stream)
                return;
        close(stream->fd);
        free(stream);
}

const char *tls_stream_cipher(const struct tls_stream *stream)
{
        return "none";
}

int tls_stream_fd(const struct tls_stream *stream)
{
        return stream->fd;
}

int tls_stream_read(struct tls_stream *stream, void *data, size_t len)
{
        size_t done = 0;

        while (done < len) {
                ssize_t n = recv(stream->fd, (uint8_t *)data + done, len - done, 0);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n == 0            ? (done ? -ECONNRESET : -ENODATA)
                               : errno == EAGAIN ? -ETIMEDOUT
                                                 : -ECONNRESET;
                done += (size_t)n;
        }
        return 0;
}

int tls_stream_write(struct tls_stream *stream, const void *data, size_t len)
{
        while (len > 0) {
                ssize_t n = send(stream->fd, data, len, MSG_NOSIGNAL);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno == EAGAIN ? -ETIMEDOUT : -ECONNRESET;
                data = (const uint8_t *)data + n;
                len -= (size_t)n;
        }
        return 0;
}

int tls_stream_wait_readable(struct tls_stream *stream, int timeout_ms)
{
        struct pollfd pfd = {.fd = stream->fd, .events = POLLIN};

        return poll(&pfd, 1, timeout_ms) > 0;
}

void tls_stream_interrupt(struct tls_stream *stream)
{
        (void)shutdown(stream->fd, SHUT_RDWR);
}
