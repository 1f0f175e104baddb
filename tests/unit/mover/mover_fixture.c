/* SPDX-License-Identifier: Apache-2.0 */
#include "mover_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "io/pki.h"
#include "io/sock.h"
#include "mover/sink.h"
#include "mover/source.h"

#define WAIT_MS 20000

static void *source_main(void *userdata)
{
        struct fixture_mover *mover = userdata;

        mover->exit_code = source_run(mover->theirs, false);
        fd_closep(&mover->theirs);
        return NULL;
}

static void *sink_main(void *userdata)
{
        struct fixture_mover *mover = userdata;

        mover->exit_code = sink_run(mover->theirs, false);
        fd_closep(&mover->theirs);
        return NULL;
}

static void *destination_qemu(void *userdata)
{
        struct fixture *f = userdata;
        char data[65536];
        ssize_t n;
        int r = 0;

        while (f->qemu_held)
                usleep(1000);
        while (r >= 0 && (n = read(f->sink_qemu, data, sizeof(data))) > 0) {
                pthread_mutex_lock(&f->fed_lock);
                r = buf_append(&f->fed, data, (size_t)n);
                pthread_mutex_unlock(&f->fed_lock);
        }
        return NULL;
}

void fixture_await_fed(struct fixture *f, const void *tail, size_t len)
{
        bool there = false;

        for (int i = 0; !there && i < WAIT_MS; i++) {
                pthread_mutex_lock(&f->fed_lock);
                there = f->fed.len >= len && memcmp(f->fed.data + f->fed.len - len, tail, len) == 0;
                pthread_mutex_unlock(&f->fed_lock);
                if (!there)
                        usleep(1000);
        }
        assert_true(there);
}

static void start_mover(struct fixture_mover *mover, void *(*run)(void *))
{
        int pair[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        mover->control_fd = pair[0];
        mover->theirs = pair[1];
        assert_int_equal(pthread_create(&mover->thread, NULL, run, mover), 0);
        mover->started = true;
}

static void send_start(struct fixture_mover *mover, json_t *message, const int *fds, size_t n_fds)
{
        char *text = json_dumps(message, JSON_COMPACT);

        assert_non_null(text);
        assert_int_equal(sock_send_fds(mover->control_fd, text, strlen(text), fds, n_fds), 0);
        free(text);
        json_decref(message);
}

static json_t *start_message(struct fixture *f, int side)
{
        const char *pin = side == 1 && f->options.wrong_pin ? f->options.wrong_pin : f->pins[!side];

        json_t *disks = f->options.disk_bytes ? json_pack("[{s:I, s:s}]", "size_bytes",
                                                        (json_int_t)f->options.disk_bytes, "export", "disk")
                                              : NULL;

        return json_pack("{s:o*, s:s, s:s, s:s, s:s, s:I, s:s, s:s, s:s, s:i, s:s*}", "disks", disks, "op",
                "start", "migration", FIXTURE_MIGRATION, "vm", FIXTURE_VM, "block", "pc.ram", "ram_bytes",
                (json_int_t)f->options.ram_bytes, "cert_pem", f->certs[side], "key_pem", f->keys[side],
                "peer_fingerprint", pin, "timeout_ms", 5000, "spec_digest", f->options.digests[side]);
}

static int make_ram(struct fixture *f, uint8_t **ret_map)
{
        int fd = memfd_create("ram", MFD_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, (off_t)f->options.ram_bytes), 0);
        *ret_map = mmap(NULL, f->options.ram_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        assert_true(*ret_map != MAP_FAILED);
        return fd;
}

static void start_sink(struct fixture *f)
{
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof(f->sink_address);
        json_t *message;
        int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), stream[2], fds[6];
        unsigned int n_fds = 3;

        assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
        if (f->options.receive_buffer)
                (void)setsockopt(listener, SOL_SOCKET, SO_RCVBUFFORCE, &f->options.receive_buffer,
                        sizeof(f->options.receive_buffer));
        assert_int_equal(listen(listener, 64), 0);
        assert_int_equal(getsockname(listener, (struct sockaddr *)&f->sink_address, &len), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream), 0);
        f->sink_qemu = stream[0];
        f->qemu_held = f->options.hold_qemu;
        assert_int_equal(pthread_create(&f->reader, NULL, destination_qemu, f), 0);
        f->reader_started = true;
        start_mover(&f->sink, sink_main);
        message = start_message(f, 1);
        fds[0] = stream[1];
        fds[1] = f->sink_ram_fd;
        fds[2] = listener;
        json_object_set_new(message, "post_copy", json_boolean(f->options.post_copy));
        if (f->options.disk_bytes)
                fds[n_fds++] = f->options.disk_fd;
        if (f->options.held_fd) {
                json_object_set_new(message, "checkpoint_key", json_string(FIXTURE_KEY));
                fds[n_fds++] = f->options.held_fd;
        }
        if (f->options.store_fd) {
                json_object_set_new(message, "sibling_key", json_string(FIXTURE_KEY));
                fds[n_fds++] = f->options.store_fd;
        }
        send_start(&f->sink, message, fds, n_fds);
        close(stream[1]);
        close(listener);
        json_decref(fixture_wait(&f->sink, "ready"));
}

int fixture_connect_socket(struct fixture *f)
{
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_int_equal(connect(fd, (struct sockaddr *)&f->sink_address, sizeof(struct sockaddr_in)), 0);
        return fd;
}

static void start_source(struct fixture *f)
{
        json_t *message = start_message(f, 0);
        int fds[4 + WIRE_MAX_CHANNELS], stream[2];
        unsigned int n = f->options.n_channels, n_fds = 2 + n;

        json_object_set_new(message, "verify", json_boolean(f->options.verify));
        json_object_set_new(message, "post_copy", json_boolean(f->options.post_copy));
        json_object_set_new(message, "tunnel", json_boolean(f->options.tunnel));
        json_object_set_new(message, "codec", json_string(f->options.codec ?: "auto"));
        json_object_set_new(message, "rate_limit_bps", json_integer((json_int_t)f->options.rate_limit_bps));
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream), 0);
        f->source_qemu = stream[0];
        fds[0] = stream[1];
        fds[1] = f->source_ram_fd;
        for (unsigned int i = 0; i < n; i++)
                fds[2 + i] = f->channel_fds[i] = fixture_connect_socket(f);
        if (f->options.keep_fd) {
                json_object_set_new(message, "checkpoint_key", json_string(FIXTURE_KEY));
                fds[n_fds++] = f->options.keep_fd;
        }
        if (f->options.claims_fd) {
                json_object_set_new(message, "sibling_key", json_string(FIXTURE_KEY));
                fds[n_fds++] = f->options.claims_fd;
        }
        start_mover(&f->source, source_main);
        send_start(&f->source, message, fds, n_fds);
        close(stream[1]);
}

struct fixture *fixture_new(const struct fixture_options *options)
{
        struct fixture *f = ALLOC(struct fixture);

        assert_non_null(f);
        (void)signal(SIGPIPE, SIG_IGN); /* as drover-mover does */
        f->options = *options;
        f->options.n_channels = options->n_channels ?: 2;
        f->options.ram_bytes = options->ram_bytes ?: (uint64_t)FIXTURE_PAGES * WIRE_PAGE_SIZE;
        f->source_qemu = f->sink_qemu = -1;
        f->source.control_fd = f->sink.control_fd = -1;
        for (size_t i = 0; i < ARRAY_SIZE(f->channel_fds); i++)
                f->channel_fds[i] = -1;
        pthread_mutex_init(&f->fed_lock, NULL);
        buf_init(&f->fed, 64 * 1024 * 1024);
        for (int side = 0; side < 2; side++) {
                assert_int_equal(pki_self_signed("mover", 1, &f->certs[side], &f->keys[side], NULL), 0);
                assert_int_equal(pki_fingerprint(f->certs[side], f->pins[side], NULL), 0);
        }
        f->source_ram_fd = make_ram(f, &f->source_ram);
        f->sink_ram_fd = make_ram(f, &f->sink_ram);
        start_sink(f);
        if (!f->options.no_source)
                start_source(f);
        return f;
}

static void mover_deinit(struct fixture_mover *mover)
{
        fd_closep(&mover->control_fd); /* "give up at once" */
        fixture_join(mover);
        json_decref(mover->stats);
}

void fixture_free(struct fixture *f)
{
        f->qemu_held = false;
        mover_deinit(&f->source);
        mover_deinit(&f->sink);
        (void)shutdown(f->sink_qemu, SHUT_RDWR);
        fixture_join_reader(f);
        fd_closep(&f->source_qemu);
        fd_closep(&f->sink_qemu);
        for (size_t i = 0; i < ARRAY_SIZE(f->channel_fds); i++)
                fd_closep(&f->channel_fds[i]);
        munmap(f->source_ram, f->options.ram_bytes);
        munmap(f->sink_ram, f->options.ram_bytes);
        fd_closep(&f->source_ram_fd);
        fd_closep(&f->sink_ram_fd);
        for (int side = 0; side < 2; side++) {
                free(f->certs[side]);
                pki_key_free(f->keys[side]);
        }
        buf_deinit(&f->fed);
        free(f);
}

void fixture_send(struct fixture_mover *mover, json_t *message)
{
        char *text = json_dumps(message, JSON_COMPACT);

        assert_non_null(text);
        assert_true(send(mover->control_fd, text, strlen(text), MSG_NOSIGNAL) > 0);
        free(text);
        json_decref(message);
}

json_t *fixture_wait(struct fixture_mover *mover, const char *event)
{
        for (;;) {
                struct pollfd pfd = {.fd = mover->control_fd, .events = POLLIN};
                char text[65536];
                const char *name;
                json_t *message;
                ssize_t n;

                if (poll(&pfd, 1, WAIT_MS) != 1)
                        fail_msg("no event \"%s\" came", event);
                n = recv(mover->control_fd, text, sizeof(text), 0);
                if (n <= 0)
                        fail_msg("the mover ended before event \"%s\"", event);
                message = json_loadb(text, (size_t)n, 0, NULL);
                assert_non_null(message);
                name = json_string_value(json_object_get(message, "event"));
                mover->device_state |= strcmp(name, "device-state") == 0;
                if (strcmp(name, event) == 0)
                        return message;
                if (strcmp(name, "failed") == 0)
                        fail_msg("instead of \"%s\": %.*s", event, (int)n, text);
                if (strcmp(name, "stats") == 0) {
                        json_decref(mover->stats);
                        mover->stats = json_incref(message);
                }
                json_decref(message);
        }
}

void fixture_wait_failed(struct fixture_mover *mover, const char *key, const char *part)
{
        json_t *failed = fixture_wait(mover, "failed");
        const char *value = json_string_value(json_object_get(failed, key));

        if (!value || !strstr(value, part)) {
                char *text = json_dumps(failed, 0);

                fail_msg("\"%s\" is not in \"%s\" of %s", part, key, text);
        }
        json_decref(failed);
}

int fixture_join(struct fixture_mover *mover)
{
        if (mover->started)
                pthread_join(mover->thread, NULL);
        mover->started = false;
        return mover->exit_code;
}

void fixture_finish(struct fixture *f)
{
        uint32_t vote = 1;

        if (!f->source.device_state)
                json_decref(fixture_wait(&f->source, "device-state"));
        fixture_send(&f->source, json_pack("{s:s}", "op", "handed-off"));
        assert_true(fixture_vote(f, &vote, WAIT_MS));
        assert_int_equal(vote, 0);
        (void)shutdown(f->source_qemu, SHUT_RDWR);
        json_decref(fixture_wait(&f->source, "stream-end"));
        fixture_send(&f->source, json_pack("{s:s}", "op", "commit"));
        json_decref(fixture_wait(&f->sink, "placed"));
        json_decref(fixture_wait(&f->sink, "commit"));
        fixture_send(&f->sink, json_pack("{s:s, s:s, s:i, s:s}", "op", "result", "outcome", "running",
                                       "resumed_realtime_ns", 12345, "message", "well"));
        json_t *result = fixture_wait(&f->source, "result");
        assert_string_equal(json_string_value(json_object_get(result, "outcome")), "running");
        assert_int_equal(json_integer_value(json_object_get(result, "resumed_realtime_ns")), 12345);
        assert_string_equal(json_string_value(json_object_get(result, "message")), "well");
        json_decref(result);
        assert_int_equal(fixture_join(&f->source), 0);
        assert_int_equal(fixture_join(&f->sink), 0);
        /* What QEMU was fed is complete only when its socket has ended. */
        (void)shutdown(f->sink_qemu, SHUT_RD);
}

void fixture_release_qemu(struct fixture *f)
{
        f->qemu_held = false;
}

void fixture_join_reader(struct fixture *f)
{
        if (f->reader_started)
                pthread_join(f->reader, NULL);
        f->reader_started = false;
}

void fixture_stream(struct fixture *f, const void *data, size_t len)
{
        while (len > 0) {
                ssize_t n = send(f->source_qemu, data, len, MSG_NOSIGNAL);

                if (n <= 0) /* the mover gave up: the test finds out by its events */
                        return;
                data = (const char *)data + n;
                len -= (size_t)n;
        }
}

static void put(struct buf *buf, const void *data, size_t len)
{
        assert_int_equal(buf_append(buf, data, len), 0);
}

static void put32(struct buf *buf, uint32_t value)
{
        value = htobe32(value);
        put(buf, &value, sizeof(value));
}

static void put64(struct buf *buf, uint64_t value)
{
        value = htobe64(value);
        put(buf, &value, sizeof(value));
}

static void put_section(struct buf *buf, uint8_t type)
{
        put(buf, &type, 1);
        put32(buf, FIXTURE_SECTION);
}

static void put_end_of_section(struct buf *buf)
{
        put64(buf, 0x10);
        put_section(buf, 0x7e);
}

void fixture_stream_start(struct fixture *f)
{
        struct buf buf;

        buf_init(&buf, 4096);
        put32(&buf, 0x5145564d);
        put32(&buf, 3);
        put(&buf, "\7\0\0\0\2pc", 7);
        if (f->options.post_copy) {
                put(&buf, "\10\0\1\0\0", 5); /* the return path; advise with two page sizes */
                put(&buf, "\10\0\3\0\20", 5);
                put64(&buf, WIRE_PAGE_SIZE);
                put64(&buf, WIRE_PAGE_SIZE);
        }
        put_section(&buf, 1);
        put(&buf, "\3ram", 4);
        put32(&buf, 0);
        put32(&buf, 4);
        put64(&buf, f->options.ram_bytes | 0x04);
        put(&buf, "\6pc.ram", 7);
        put64(&buf, f->options.ram_bytes);
        put_end_of_section(&buf);
        fixture_stream(f, buf.data, buf.len);
        buf_deinit(&buf);
}

void fixture_stream_pages(struct fixture *f, uint64_t first, uint64_t n, bool end)
{
        static const uint8_t zeros[WIRE_PAGE_SIZE];
        struct buf buf;

        buf_init(&buf, 256 * 1024);
        put_section(&buf, end ? 3 : 2);
        for (uint64_t page = first; page < first + n; page++) {
                const uint8_t *data = f->source_ram + page * WIRE_PAGE_SIZE;
                bool zero = memcmp(data, zeros, sizeof(zeros)) == 0;
                uint64_t word = page * WIRE_PAGE_SIZE | (zero ? 0x02 : 0x08);

                put64(&buf, page > first ? word | 0x20 : word);
                if (page == first)
                        put(&buf, "\6pc.ram", 7);
                put(&buf, data, zero ? 1 : WIRE_PAGE_SIZE);
                if (buf.len > 128 * 1024) {
                        fixture_stream(f, buf.data, buf.len);
                        buf_clear(&buf);
                }
        }
        put_end_of_section(&buf);
        fixture_stream(f, buf.data, buf.len);
        buf_deinit(&buf);
}

void fixture_stream_device(struct fixture *f, const void *data, size_t len)
{
        static const uint8_t description[] = {0, 6, 0, 0, 0, 2, '{', '}'};

        fixture_stream(f, "\4", 1); /* SECTION_FULL */
        fixture_stream(f, data, len);
        fixture_stream(f, description, sizeof(description));
}

bool fixture_vote(struct fixture *f, uint32_t *ret_value, int timeout_ms)
{
        struct pollfd pfd = {.fd = f->source_qemu, .events = POLLIN};
        uint8_t message[8];
        uint32_t value;

        if (poll(&pfd, 1, timeout_ms) != 1 ||
                recv(f->source_qemu, message, sizeof(message), MSG_WAITALL) != sizeof(message))
                return false;
        assert_memory_equal(message, "\0\1\0\4", 4); /* SHUT */
        memcpy(&value, message + 4, sizeof(value));
        *ret_value = be32toh(value);
        return true;
}

void fixture_fill(struct fixture *f, uint64_t first, uint64_t n, uint32_t seed)
{
        for (uint64_t page = first; page < first + n; page++) {
                uint8_t *data = f->source_ram + page * WIRE_PAGE_SIZE;
                uint32_t x = (uint32_t)page * 2654435761u + seed;

                for (size_t i = 0; i < WIRE_PAGE_SIZE; i++) {
                        x = x * 1664525 + 1013904223;
                        data[i] = page % 3 == 0   ? 0
                                  : page % 3 == 1 ? (uint8_t)("guest memory "[i % 13] + seed)
                                                  : (uint8_t)(x >> 24);
                }
        }
}

struct tls_stream *fixture_connect(struct fixture *f)
{
        struct tls_context *context = NULL;
        struct tls_stream *stream = NULL;

        assert_int_equal(tls_context_new(false, f->certs[0], f->keys[0], f->pins[1], &context, NULL), 0);
        assert_int_equal(tls_stream_new(context, fixture_connect_socket(f), 5000, 5000, &stream, NULL), 0);
        tls_context_free(context); /* the stream holds its own reference of what it needs */
        return stream;
}

uint64_t fixture_pages(const struct fixture *f)
{
        return f->options.ram_bytes / WIRE_PAGE_SIZE;
}

void fixture_assert_ram_equal(struct fixture *f)
{
        for (uint64_t page = 0; page < fixture_pages(f); page++)
                if (memcmp(f->source_ram + page * WIRE_PAGE_SIZE, f->sink_ram + page * WIRE_PAGE_SIZE,
                            WIRE_PAGE_SIZE) != 0)
                        fail_msg("page %lu differs", (unsigned long)page);
}

void fixture_cut(struct fixture *f, unsigned int channel)
{
        json_t *lost;

        assert_int_equal(shutdown(f->channel_fds[channel], SHUT_RDWR), 0);
        lost = fixture_wait(&f->source, "channel-lost");
        assert_int_equal(json_integer_value(json_object_get(lost, "channel")), channel);
        json_decref(lost);
}

void fixture_reconnect(struct fixture *f, unsigned int channel, bool good)
{
        json_t *message = json_pack("{s:s, s:i}", "op", "channel", "channel", (int)channel);
        char *text = json_dumps(message, JSON_COMPACT);

        fd_closep(&f->channel_fds[channel]);
        f->channel_fds[channel] = fixture_connect_socket(f);
        if (!good)
                assert_int_equal(shutdown(f->channel_fds[channel], SHUT_RDWR), 0);
        assert_int_equal(
                sock_send_fds(f->source.control_fd, text, strlen(text), &f->channel_fds[channel], 1), 0);
        free(text);
        json_decref(message);
}

int fixture_mirror(struct fixture *f)
{
        static const char message[] = "{\"op\": \"disk\", \"disk\": 0}";
        int pair[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        assert_int_equal(sock_send_fds(f->source.control_fd, message, strlen(message), &pair[1], 1), 0);
        close(pair[1]);
        return pair[0];
}

struct wire_hello_v1 fixture_hello(void)
{
        struct wire_hello_v1 hello = {.magic = WIRE_MAGIC,
                .version = htole16(WIRE_VERSION),
                .compatible = htole16(WIRE_COMPATIBLE),
                .features = htole32(WIRE_FEATURES_ALL),
                .n_channels = htole16(2),
                .page_size = htole32(WIRE_PAGE_SIZE),
                .ram_bytes = htole64((uint64_t)FIXTURE_PAGES * WIRE_PAGE_SIZE)};

        memcpy(hello.migration, FIXTURE_MIGRATION, sizeof(hello.migration));
        memcpy(hello.vm, FIXTURE_VM, sizeof(hello.vm));
        return hello;
}

void fixture_frame(struct tls_stream *stream, enum wire_frame type, const void *payload, size_t len)
{
        uint8_t frame[sizeof(struct wire_header_v1) + 4096];

        assert_true(len <= 4096);
        wire_header_write((struct wire_header_v1 *)frame, type, (uint32_t)len);
        if (len > 0)
                memcpy(frame + sizeof(struct wire_header_v1), payload, len);
        assert_int_equal(tls_stream_write(stream, frame, sizeof(struct wire_header_v1) + len), 0);
}
