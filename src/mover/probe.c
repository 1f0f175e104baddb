/* SPDX-License-Identifier: Apache-2.0 */

/* The source writes random bytes (nothing on the way packs them) for `max_ms`, at most `max_bytes`, and sees what the sink's
 * kernel acknowledges. The rate is that of the second half of the time: by then the connection has picked up speed, and what a
 * shaper lets through at once has gone. A path with a long round trip gets longer, MIN_ROUND_TRIPS, up to MAX_MS. */

#include "mover/probe.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "io/tls.h"
#include "mover/control.h"
#include "mover/sandbox.h"

#define CHUNK_BYTES (64 * 1024)
#define CONNECT_MS 5000
#define MAX_MS 3000
#define MIN_ROUND_TRIPS 12
#define MAX_POINTS 4096
#define POINT_EVERY_NS (5 * 1000 * 1000)

struct probe {
        int control_fd;
        struct control_message message;
        struct tls_context *tls;
        struct tls_stream *stream;
        uint8_t *chunk;
        uint64_t max_ms, max_bytes;
};

struct point {
        uint64_t ns, acked;
};

static void probe_deinit(struct probe *p)
{
        tls_stream_free(p->stream);
        tls_context_free(p->tls);
        free(p->chunk);
        control_message_deinit(&p->message);
}

static int set_up(struct probe *p, bool server, bool sandbox, struct error **ret_error)
{
        const char *cert = NULL, *key = NULL, *fingerprint = NULL;
        const struct ram nothing = {.fd = -1};
        const json_t *json;
        int r = control_receive(p->control_fd, &p->message, ret_error);

        if (r < 0)
                return r;
        json = p->message.json;
        if (p->message.op != CONTROL_PROBE || p->message.n_fds != 1)
                return error_set(
                        ret_error, ERROR_PROTOCOL, NULL, "The agent's message is no \"probe\" with a socket");
        r = doc_need_string(json, "probe", "cert_pem", 16384, &cert, ret_error);
        if (r >= 0)
                r = doc_need_string(json, "probe", "key_pem", 16384, &key, ret_error);
        if (r >= 0)
                r = doc_need_string(json, "probe", "peer_fingerprint", 64, &fingerprint, ret_error);
        if (r >= 0)
                r = doc_need_u64(json, "probe", "max_ms", 1, MAX_MS, &p->max_ms, ret_error);
        if (r >= 0)
                r = doc_need_u64(
                        json, "probe", "max_bytes", CHUNK_BYTES, UINT32_MAX, &p->max_bytes, ret_error);
        if (r >= 0)
                r = tls_context_new(server, cert, key, fingerprint, &p->tls, ret_error);
        if (r < 0)
                return r;
        p->chunk = alloc_zero(CHUNK_BYTES);
        if (!p->chunk)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a probe");
        for (size_t i = 0; i < CHUNK_BYTES; i += 256) /* that much comes whole (getrandom(2)) */
                if (getrandom(p->chunk + i, 256, 0) < 0)
                        return error_from_errno(ret_error, errno, "Cannot make random bytes");
        return sandbox ? sandbox_enter(p->message.fds, server, -1, &nothing, false, ret_error) : 0;
}

static uint64_t acknowledged(int fd, uint64_t *ret_rtt_us)
{
        struct tcp_info info = {0};
        socklen_t len = sizeof(info);

        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
                return 0;
        if (ret_rtt_us)
                *ret_rtt_us = info.tcpi_min_rtt > 0 ? info.tcpi_min_rtt : info.tcpi_rtt;
        return info.tcpi_bytes_acked;
}

/* Bytes a second in the second half of the time. */
static double rate_of(const struct point *points, size_t n)
{
        const struct point *first = &points[0], *last = &points[n - 1], *middle = first;

        while (middle + 1 < last && middle->ns - first->ns < (last->ns - first->ns) / 2)
                middle++;
        return last->ns > middle->ns
                       ? (double)(last->acked - middle->acked) * 1e9 / (double)(last->ns - middle->ns)
                       : 0;
}

static int measure(struct probe *p, struct error **ret_error)
{
        struct point *points;
        uint64_t rtt_us = 0, sent = 0, limit_ms;
        int fd = tls_stream_fd(p->stream), r = 0;
        size_t n = 1;

        points = alloc_array(MAX_POINTS, sizeof(*points));
        if (!points)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a probe");
        points[0] = (struct point){clock_monotonic_ns(), acknowledged(fd, &rtt_us)};
        limit_ms = MIN(MAX(p->max_ms, rtt_us * MIN_ROUND_TRIPS / 1000), (uint64_t)MAX_MS);
        while (r == 0 && sent < p->max_bytes && n < MAX_POINTS &&
                clock_monotonic_ns() - points[0].ns < limit_ms * 1000000) {
                r = tls_stream_write(p->stream, p->chunk, CHUNK_BYTES);
                sent += CHUNK_BYTES;
                if (clock_monotonic_ns() - points[n - 1].ns >= POINT_EVERY_NS)
                        points[n++] = (struct point){clock_monotonic_ns(), acknowledged(fd, NULL)};
        }
        if (r < 0)
                error_from_errno(ret_error, r, "The probe's connection broke");
        else
                control_send(p->control_fd,
                        json_pack("{s:s, s:f, s:I, s:I, s:f}", "event", "probe", "rate_bps",
                                rate_of(points, n) * 8, "rtt_us", (json_int_t)rtt_us, "bytes",
                                (json_int_t)sent, "ms", (double)(clock_monotonic_ns() - points[0].ns) / 1e6),
                        false);
        free(points);
        return r;
}

int probe_source_run(int control_fd, bool sandbox)
{
        _cleanup_error_ struct error *error = NULL;
        struct probe p = {.control_fd = control_fd};
        int r = set_up(&p, false, sandbox, &error);

        if (r >= 0)
                r = tls_stream_new(
                        p.tls, TAKE_FD(p.message.fds[0]), CONNECT_MS, CONNECT_MS, &p.stream, &error);
        if (r >= 0)
                r = measure(&p, &error);
        if (r < 0 && error)
                control_send_failed(control_fd, error, false);
        probe_deinit(&p);
        return r < 0;
}

int probe_sink_run(int control_fd, bool sandbox)
{
        _cleanup_error_ struct error *error = NULL;
        struct probe p = {.control_fd = control_fd};
        int r = set_up(&p, true, sandbox, &error), fd = -1;

        if (r >= 0) {
                struct pollfd pfd = {.fd = p.message.fds[0], .events = POLLIN};

                fd = poll(&pfd, 1, CONNECT_MS) > 0 ? accept4(pfd.fd, NULL, NULL, SOCK_CLOEXEC) : -1;
                if (fd < 0)
                        r = error_set(&error, ERROR_TIMED_OUT, NULL, "Nobody connected to the probe");
        }
        if (r >= 0)
                r = tls_stream_new(p.tls, fd, CONNECT_MS, CONNECT_MS, &p.stream, &error);
        for (uint64_t got = 0; r >= 0 && got < p.max_bytes; got += CHUNK_BYTES)
                if (tls_stream_read(p.stream, p.chunk, CHUNK_BYTES) < 0)
                        break; /* the source has what it wanted to know */
        if (r < 0 && error)
                control_send_failed(control_fd, error, false);
        probe_deinit(&p);
        return r < 0;
}
