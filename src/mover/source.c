/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/source.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "mover/sandbox.h"
#include "mover/source_internal.h"
#include "mover/source_stats.h"

/* What the first pass may have in advance: 24 MiB, touched only as they are needed. */
#define FIRST_PASS_BATCHES 96

/* After an abort the peer gets this long to take the ABORT frame. */
#define ABORT_GRACE_MS 300

void source_fail(struct source *source, struct error *error, bool from_peer)
{
        if (source->stopping) {
                error_free(error);
                return;
        }
        mailbox_fail(&source->mailbox, error, from_peer);
        batch_pool_stop(
                &source->pool); /* nobody gives batches back any more: neither reader nor main may wait for one */
}

static int level_for_codec(const char *codec, enum codec_level *ret_level)
{
        static const struct {
                const char *name;
                enum codec_level level;
        } codecs[] = {
                {"auto", CODEC_ZSTD_1}, {"none", CODEC_NONE}, {"lz4", CODEC_LZ4}, {"zstd", CODEC_ZSTD_1}};

        for (size_t i = 0; i < ARRAY_SIZE(codecs); i++)
                if (strcmp(codecs[i].name, codec) == 0) {
                        *ret_level = codecs[i].level;
                        return 0;
                }
        return -EINVAL;
}

static int take_descriptors(struct source *source, struct error **ret_error)
{
        struct control_message *message = &source->start_message;
        size_t n_files = (size_t)source->start.has_checkpoint + source->start.has_siblings;
        size_t n_other = 2 + n_files;
        struct timeval limit = {.tv_sec = CHANNEL_SILENCE_MS / 1000};
        int r;

        if (message->n_fds < n_other + 1 || message->n_fds > n_other + WIRE_MAX_CHANNELS)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "The start message brought %zu descriptors, not QEMU's socket, the RAM file and "
                        "1 to %d connections",
                        message->n_fds, WIRE_MAX_CHANNELS);
        source->qemu_fd = TAKE_FD(message->fds[0]);
        source->ram_fd = TAKE_FD(message->fds[1]);
        if (setsockopt(source->qemu_fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
                return error_from_errno(ret_error, errno, "Cannot use QEMU's socket");
        r = source_take_connections(source, message, 2, message->n_fds - n_other, ret_error);
        if (r < 0)
                return r;
        if (source->start.has_checkpoint) {
                source->checkpoint_fd = TAKE_FD(message->fds[message->n_fds - n_files]);
                memcpy(source->checkpoint_key, source->start.checkpoint_key, sizeof(source->checkpoint_key));
                explicit_bzero(source->start.checkpoint_key, sizeof(source->start.checkpoint_key));
        }
        return 0;
}

static int set_up(struct source *source, struct error **ret_error)
{
        enum codec_level level;
        unsigned int n_batches;
        int r = control_parse_start(&source->start_message, &source->start, ret_error);

        if (r < 0)
                return r;
        if (level_for_codec(source->start.codec, &level) < 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Use auto, none, lz4 or zstd",
                        "There is no codec \"%s\"", source->start.codec);
        source->level = level;
        source->fixed_codec = strcmp(source->start.codec, "auto") != 0;
        source->features =
                source->start.has_siblings ? WIRE_FEATURES_ALL : WIRE_FEATURES_ALL & ~WIRE_FEATURE_SIBLINGS;
        if (source->start.n_disks == 0)
                source->features &= ~WIRE_FEATURE_DISKS;
        if (!source->start.post_copy)
                source->features &= ~WIRE_FEATURE_POST_COPY;
        source->pace_bytes_per_s = source->start.rate_limit_bps / 8;
        if (getrandom(source->secret, sizeof(source->secret), 0) != sizeof(source->secret))
                return error_from_errno(ret_error, errno, "Cannot make a random key");
        /* What the senders hold at a time, what their queues hold, what the reader fills; and what the first pass has in advance. */
        n_batches = 3 * (unsigned int)MAX(source->start_message.n_fds, 4u) + 4;
        r = batch_pool_init(&source->pool, n_batches + FIRST_PASS_BATCHES);
        if (r < 0)
                return error_from_errno(ret_error, r, "Cannot set up the batches");
        batch_pool_set_limit(
                &source->pool, (size_t)n_batches * BATCH_DATA_BYTES); /* until there are measurements */
        for (size_t i = 0; i < ARRAY_SIZE(source->marks); i++) {
                source->marks[i] = ALLOC(struct batch);
                if (!source->marks[i])
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for the batches");
        }
        if (source_disks_init(source) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for the disks");
        r = take_descriptors(source, ret_error);
        if (r < 0)
                return r;
        r = ram_init(
                &source->ram, source->ram_fd, source->start.ram_address, source->start.ram_bytes, ret_error);
        if (r < 0)
                return r;
        r = source_checkpoint_init(source, ret_error);
        if (r >= 0 && source->start.has_siblings)
                r = source_siblings_init(
                        source, source->start_message.fds[source->start_message.n_fds - 1], ret_error);
        if (r < 0)
                return r;
        r = page_index_new(ram_pages(&source->ram), source->secret, &source->index);
        if (r < 0)
                return error_from_errno(ret_error, r, "Cannot set up the page index");
        r = tls_context_new(false, source->start.cert_pem, source->start.key_pem,
                source->start.peer_fingerprint, &source->tls, ret_error);
        if (r >= 0 && source->start.spec_digest)
                r = tls_context_agree_on(source->tls, source->start.spec_digest, ret_error);
        return r;
}

static int start_threads(struct source *source, struct error **ret_error)
{
        int r = 0;

        for (unsigned int i = 0; r == 0 && i < source->n_channels; i++) {
                r = pthread_create(&source->senders[i].thread, NULL, source_sender_main, &source->senders[i]);
                source->senders[i].thread_started = r == 0;
        }
        if (r == 0) {
                r = pthread_create(&source->reader, NULL, source_reader_main, source);
                source->reader_started = r == 0;
        }
        return r == 0 ? 0 : error_from_errno(ret_error, r, "Cannot start a thread");
}

static void send_event(struct source *source, const char *name)
{
        control_send(source->control_fd, json_pack("{s:s}", "event", name), false);
}

static void send_ready(struct source *source, struct source_stats *stats)
{
        struct tcp_info info = {0};
        socklen_t len = sizeof(info);

        if (getsockopt(source->senders[0].wake_fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0)
                stats->rtt_us = info.tcpi_rtt;
        control_send(source->control_fd,
                json_pack("{s:s, s:i, s:s, s:I, s:b}", "event", "ready", "channels", (int)source->n_channels,
                        "cipher", source->senders[0].cipher, "rtt_us", (json_int_t)stats->rtt_us, "replaces",
                        source->senders[0].resumable),
                false);
}

static void send_result(struct source *source)
{
        const struct mail_result *result = &source->mailbox.result;

        control_send(source->control_fd,
                json_pack("{s:s, s:s, s:I, s:s}", "event", "result", "outcome",
                        result->outcome == WIRE_RUNNING ? "running" : "abandoned", "resumed_realtime_ns",
                        (json_int_t)result->resumed_realtime_ns, "message", result->text),
                false);
}

/* In a tunnel nothing but the end of the guest's time tells where the device state begins; either of the two may be
 * known first. */
static void tunnel_stopped(struct source *source, const struct source_stats *stats)
{
        if (stats->tunnel && stats->guest_stopped)
                mailbox_post(&source->mailbox, MAIL_DEVICE_STATE);
}

/* The agent was told everything: the result, and in post-copy also all of the memory. */
static bool is_over(struct source *source)
{
        return source->told & MAIL_RESULT &&
               (!source->post_copy || source->mailbox.result.outcome != WIRE_RUNNING ||
                       source->told & MAIL_STREAM_END);
}

/* Tells the agent what the threads posted. Returns 0 to go on, 1 when all is done, -1 when it failed. */
static int handle_mail(struct source *source, struct source_stats *stats)
{
        unsigned int mail = mailbox_take(&source->mailbox);

        source_tell_lost(source);
        if (mail & MAIL_READY)
                send_ready(source, stats);
        if (mail & MAIL_TUNNEL) {
                stats->tunnel = true;
                tunnel_stopped(source, stats);
        }
        if (mail & MAIL_DEVICE_STATE)
                send_event(source, "device-state");
        if (mail & MAIL_POST_COPY)
                send_event(source, "post-copy");
        if (mail & MAIL_LOADED)
                send_event(source, "loaded");
        if (mail & MAIL_STREAM_END)
                send_event(source, "stream-end");
        if (mail & MAIL_DELIVERED)
                send_event(source, "delivered");
        if (mail & MAIL_RESULT) {
                source_stats_send(stats, false);
                send_result(source);
        }
        source->told |= mail;
        if (mail & (MAIL_RESULT | MAIL_STREAM_END) && is_over(source)) {
                source_stats_send(stats, false);
                return 1;
        }
        return mail & MAIL_FAILED ? -1 : 0;
}

/* A frame without payload behind all that was queued for channel 0. */
static void queue_mark(struct source *source, enum batch_kind kind)
{
        struct batch *batch = source->marks[kind == BATCH_COMMIT];

        batch->kind = kind;
        batch_queue_push(&source->senders[0].queue, batch);
}

static void change_limits(struct source *source, struct source_stats *stats, const json_t *message)
{
        const json_t *pause = json_object_get(message, "max_pause_ms");
        const json_t *rate = json_object_get(message, "rate_limit_bps");
        const json_t *whole = json_object_get(message, "whole_pause");

        if (json_is_integer(pause) && json_integer_value(pause) > 0)
                stats->switchover.max_pause_ms = (uint64_t)json_integer_value(pause);
        if (json_is_boolean(whole))
                stats->switchover.whole_pause = json_is_true(whole);
        if (json_is_integer(rate) && json_integer_value(rate) >= 0)
                source->pace_bytes_per_s = (uint64_t)json_integer_value(rate) / 8;
}

static void aborted(struct source *source, const json_t *message)
{
        const char *reason = json_string_value(json_object_get(message, "reason"));
        struct error *error = NULL;

        error_set(&error, ERROR_CANCELLED, NULL, "%.200s", reason ?: "The agent ended the migration");
        mailbox_fail(&source->mailbox, error, false);
}

/* QEMU was told to wait for this message (MIG_RP_MSG_SWITCHOVER_ACK of migration/migration.c, without payload) before it stops
 * the guest. The reader writes to the same socket; such small pieces stay whole. */
static void allow_switchover(const struct source *source)
{
        static const uint8_t message[] = {0, 7, 0, 0};

        (void)!send(source->qemu_fd, message, sizeof(message),
                MSG_NOSIGNAL | MSG_DONTWAIT); /* its end is seen elsewhere */
}

/* The guest must not stand still for longer than this because of a disk. */
static void limit_disks(struct source *source, const json_t *message)
{
        json_int_t limit_ms = json_integer_value(json_object_get(message, "disk_limit_ms"));

        if (limit_ms > 0 && source->disks_due_ms == 0)
                source->disks_due_ms = clock_now_ms(&clock_system) + (uint64_t)limit_ms;
}

static int handle_control(
        struct source *source, struct source_stats *stats, bool *committed, struct error **ret_error)
{
        struct control_message message;
        int r = control_receive(source->control_fd, &message, ret_error);

        if (r < 0)
                return r;
        switch (message.op) {
        case CONTROL_HANDED_OFF:
                if (atomic_exchange(&source->handed_off, true))
                        break;
                (void)eventfd_write(source->reader_fd, 1);
                queue_mark(source, BATCH_HANDED_OFF);
                break;
        case CONTROL_STOPPED:
                stats->guest_stopped = true;
                limit_disks(source, message.json);
                tunnel_stopped(source, stats);
                break;
        case CONTROL_SWITCHOVER:
                allow_switchover(source);
                break;
        case CONTROL_COMMIT:
                if (!*committed)
                        queue_mark(source, BATCH_COMMIT);
                *committed = true;
                break;
        case CONTROL_LIMITS:
                change_limits(source, stats, message.json);
                break;
        case CONTROL_QEMU_STATUS:
                source_stats_qemu(stats, message.json);
                break;
        case CONTROL_CHANNEL:
                r = source_take_connection(source, &message, ret_error);
                break;
        case CONTROL_DISK:
                r = source_take_disk(source, &message, ret_error);
                break;
        case CONTROL_ABORT:
                if (!*committed)
                        aborted(source, message.json);
                break;
        default:
                r = error_set(ret_error, ERROR_PROTOCOL, NULL, "The agent sent a message for a sink");
        }
        control_message_deinit(&message);
        return r;
}

static int serve(struct source *source, struct source_stats *stats, struct error **ret_error)
{
        struct pollfd pfds[] = {{.fd = source->control_fd, .events = POLLIN},
                {.fd = source->mailbox.event_fd, .events = POLLIN}};
        uint64_t next_tick_ms = clock_now_ms(&clock_system) + TICK_MS;
        bool committed = false;

        for (;;) {
                uint64_t now_ms = clock_now_ms(&clock_system);
                int r = 0;

                if (now_ms >= next_tick_ms) {
                        source_stats_tick(stats);
                        source_look_for_stalls(source);
                        if (source->disks_due_ms > 0 && now_ms >= source->disks_due_ms)
                                source_expire_disks(source);
                        next_tick_ms = now_ms + TICK_MS;
                }
                if (poll(pfds, ARRAY_SIZE(pfds), (int)(next_tick_ms - now_ms)) <= 0)
                        continue;
                if (pfds[1].revents)
                        r = handle_mail(source, stats);
                if (r == 0 && pfds[0].revents)
                        r = handle_control(source, stats, &committed, ret_error);
                if (r != 0)
                        return r;
        }
}

/* Lets sender 0 tell the peer, then makes every thread come back and joins it. */
static void stop_threads(struct source *source)
{
        source->stopping = true;
        batch_pool_stop(&source->pool);
        (void)eventfd_write(source->reader_fd, 1);
        for (unsigned int i = 0; i < source->n_channels; i++)
                (void)eventfd_write(source->senders[i].queue.event_fd, 1);
        source_stop_disks(source);
        if (source->reader_started)
                pthread_join(source->reader, NULL);
        for (unsigned int i = 0; i < source->n_channels; i++) {
                struct timespec deadline;

                if (!source->senders[i].thread_started)
                        continue;
                clock_gettime(CLOCK_REALTIME, &deadline);
                deadline.tv_nsec += ABORT_GRACE_MS * 1000000L;
                deadline.tv_sec += deadline.tv_nsec / 1000000000L;
                deadline.tv_nsec %= 1000000000L;
                if (pthread_timedjoin_np(source->senders[i].thread, NULL, &deadline) == 0)
                        continue;
                (void)shutdown(source->senders[i].wake_fd, SHUT_RDWR);
                pthread_join(source->senders[i].thread, NULL);
        }
}

/* On every channel, so that the reason is there wherever the peer notices the end first. The threads have
 * been joined: the channels are ours. */
static void tell_peer(struct source *source, const struct error *error)
{
        for (unsigned int i = 0; i < source->n_channels && !source->mailbox.from_peer; i++)
                if (source->senders[i].channel.tls)
                        channel_send_abort(&source->senders[i].channel, error ? error->code : ERROR_INTERNAL,
                                error_message(error));
}

static void source_deinit(struct source *source)
{
        for (unsigned int i = 0; i < source->n_channels; i++)
                sender_deinit(&source->senders[i]);
        source_disks_deinit(source);
        batch_pool_deinit(&source->pool);
        for (size_t i = 0; i < ARRAY_SIZE(source->marks); i++)
                free(TAKE_PTR(source->marks[i]));
        page_index_free(TAKE_PTR(source->index));
        source_checkpoint_deinit(source);
        source_siblings_deinit(source);
        tls_context_free(TAKE_PTR(source->tls));
        mailbox_deinit(&source->mailbox);
        fd_closep(&source->qemu_fd);
        fd_closep(&source->ram_fd);
        fd_closep(&source->reader_fd);
        control_message_deinit(&source->start_message);
        free(source);
}

static int run(struct source *source, bool sandbox, struct error **ret_error)
{
        struct source_stats stats;
        int r;

        r = control_receive(source->control_fd, &source->start_message, ret_error);
        if (r >= 0 && source->start_message.op != CONTROL_START)
                r = error_set(ret_error, ERROR_PROTOCOL, NULL, "The agent's first message is not \"start\"");
        if (r >= 0)
                r = set_up(source, ret_error);
        if (r < 0)
                return r;
        source_stats_init(&stats, source); /* asks for the number of cores: a file */
        if (sandbox)
                r = sandbox_enter(NULL, 0, -1, &source->ram, false, ret_error);
        if (r < 0)
                return r;
        r = start_threads(source, ret_error);
        if (r >= 0)
                r = serve(source, &stats, ret_error);
        stop_threads(source);
        if (r > 0 && source->mailbox.result.outcome == WIRE_RUNNING)
                source_keep_checkpoint(source);
        return r;
}

int source_run(int control_fd, bool sandbox)
{
        struct source *source = ALLOC(struct source);
        _cleanup_error_ struct error *error = NULL;
        int r = source ? 0 : -ENOMEM;

        if (source) {
                source->control_fd = control_fd;
                source->qemu_fd = source->ram_fd = source->checkpoint_fd = -1;
                source->reader_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
                r = source->reader_fd < 0 ? -errno : mailbox_init(&source->mailbox);
        }
        if (r >= 0)
                r = run(source, sandbox, &error);
        if (r < 0) {
                bool from_peer = source && source->mailbox.from_peer;

                if (!error && source)
                        error = TAKE_PTR(source->mailbox.error);
                if (source)
                        tell_peer(source, error);
                control_send_failed(control_fd, error, from_peer);
        }
        if (source)
                source_deinit(source);
        return r > 0 ? 0 : 1;
}
