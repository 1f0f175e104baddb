/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "io/http_private.h"

/* An answer without an end: what is sent waits in a buffer until MHD asks for it. While there is nothing to
 * send, the request is suspended. The stream lives until MHD is finished with the request; its user lets go
 * with http_stream_close(), or is told by closed_fn. */

#define BLOCK_BYTES 16384 /* what MHD asks for at once at most */

struct http_stream {
        struct http_request *request; /* NULL while MHD has finished with it */
        struct buf pending;
        size_t sent_bytes; /* of `pending`; moved out only when a good part of it is gone */
        loop_fn closed_fn;
        void *userdata;
        bool ending; /* the user has let go: end after what is pending */
        bool broken; /* end at once */
};

static void stream_free(struct http_stream *stream)
{
        buf_deinit(&stream->pending);
        free(stream);
}

/* MHD's content reader. */
static ssize_t read_block(void *userdata, uint64_t position _unused_, char *to, size_t size)
{
        struct http_stream *s = userdata;
        size_t n = MIN(size, s->pending.len - s->sent_bytes);

        if (s->broken || s->request->dead)
                return MHD_CONTENT_READER_END_WITH_ERROR;
        if (n) {
                memcpy(to, s->pending.data + s->sent_bytes, n);
                s->sent_bytes += n;
                if (s->sent_bytes >= s->pending.len / 2) {
                        buf_consume(&s->pending, s->sent_bytes);
                        s->sent_bytes = 0;
                }
                return (ssize_t)n;
        }
        if (s->ending)
                return MHD_CONTENT_READER_END_OF_STREAM;
        http_request_suspend(s->request);
        return 0;
}

static struct MHD_Response *stream_response(struct http_stream *s, const char *content_type)
{
        struct MHD_Response *response =
                MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_block, s, NULL);

        if (!response)
                return NULL;
        if (MHD_add_response_header(response, "Content-Type", content_type) != MHD_YES ||
                MHD_add_response_header(response, "Cache-Control", "no-store") != MHD_YES) {
                MHD_destroy_response(response);
                return NULL;
        }
        return response;
}

struct http_stream *http_request_reply_stream(struct http_request *request, const char *content_type,
        size_t buffer_max_bytes, loop_fn closed_fn, void *userdata)
{
        struct http_stream *s = request->connection ? ALLOC(struct http_stream) : NULL;
        struct MHD_Response *response;

        if (!s) {
                http_request_reply_error(request, NULL);
                return NULL;
        }
        buf_init(&s->pending, buffer_max_bytes);
        response = stream_response(s, content_type);
        if (!response) {
                stream_free(s);
                http_request_reply_error(request, NULL);
                return NULL;
        }
        s->request = request;
        s->closed_fn = closed_fn;
        s->userdata = userdata;
        request->stream = s;
        http_request_finish(request, 200, response); /* MHD's reference keeps the request */
        return s;
}

/* Ends the connection under MHD's hands: a client that reads nothing would otherwise hold it until the idle
 * time limit. */
static void cut(struct http_stream *s)
{
        const union MHD_ConnectionInfo *info =
                MHD_get_connection_info(s->request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);

        s->broken = true;
        if (info)
                (void)shutdown(info->connect_fd, SHUT_RDWR);
        if (s->request->suspended)
                http_request_resume(s->request);
}

int http_stream_send(struct http_stream *stream, const char *text, size_t len)
{
        int r;

        if (stream->broken || stream->ending || !stream->request)
                return -EPIPE;
        /* The limit counts what is unsent, not what is still in memory. */
        if (stream->sent_bytes && len > stream->pending.max - stream->pending.len) {
                buf_consume(&stream->pending, stream->sent_bytes);
                stream->sent_bytes = 0;
        }
        r = buf_append(&stream->pending, text, len);
        if (r < 0) {
                cut(stream); /* a gap in the stream would go unnoticed, an end does not */
                return r;
        }
        if (stream->request->suspended)
                http_request_resume(stream->request);
        return 0;
}

size_t http_stream_unsent(const struct http_stream *stream)
{
        return stream->pending.len - stream->sent_bytes;
}

void http_stream_close(struct http_stream *stream)
{
        if (!stream || stream->ending)
                return;
        stream->ending = true;
        if (stream->request && stream->request->suspended)
                http_request_resume(stream->request);
}

void http_stream_abort(struct http_stream *stream)
{
        if (!stream || stream->ending)
                return;
        stream->ending = true;
        if (stream->request && !stream->broken)
                cut(stream);
}

void http_stream_detach(struct http_stream *stream)
{
        bool told = stream->ending;

        stream->request = NULL;
        stream->ending = true;
        if (!told && stream->closed_fn)
                stream->closed_fn(stream->userdata);
        stream_free(stream);
}
